//! The demonstration: a repository with secrets, an agent that goes for them,
//! and what each side saw. Everything shown is read from the real run.

mod origin;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use secrecy::SecretBox;

use crate::config::{Caller, Dirs, VaultConfig, create_private};
use crate::error::{Context, Result};
use crate::launch::{self, RunOptions};
use crate::plan::{Access, ProjectArgument, Request, build};
use crate::runs;
use crate::vault::{Binding, Injection, PLACEHOLDER, Record, Vault};

use origin::Origin;

const AGENT: &str = include_str!("agent.sh");
const SECRET: &str = "API_KEY=sk-demo-0123456789";
/// What the service wants.
const KEY: &str = "shop-demo-9876543210";

/// Runs the demonstration in `place`; returns the agent's exit code.
pub fn run(place: &Path, caller: &Caller, dirs: &Dirs, say: &mut dyn FnMut(&str) -> Result<()>) -> Result<u8> {
    let project = place.join("shop");
    make_repository(&project)?;
    say(&format!(
        "belljar demo: a stranger's program works on your repository.\n\n\
         On the host there is {}:\n{}\
         Its .env says {SECRET}; config/id_rsa is a private key.\n\
         A service on this machine wants the key {KEY}; it is in belljar's vault.\n\n",
        project.display(),
        listing(&project)?,
    ))?;
    let service = Origin::start(place)?;
    set_up_gateway(&service, dirs)?;
    let command = ["sh", "-c", AGENT, "agent"]
        .map(str::to_owned)
        .into_iter()
        .chain([caller.home.display().to_string(), format!("https://localhost:{}/", service.port)])
        .collect();
    let request = Request {
        group: "main".to_owned(),
        project: Some(ProjectArgument { directory: project.display().to_string(), access: Access::ReadOnly }),
        command,
        ..Request::default()
    };
    let resolved = build(&request, caller, dirs)?;
    let hidden = resolved.plan.shadowed;
    let host_uid = resolved.plan.identity.host_uid;
    say(&format!(
        "The plan: {} names hidden, no capabilities, {} system calls allowed.\n\
         $ belljar run --project {} -- sh agent.sh\n\n\
         What the agent tried, and what it got:\n",
        hidden.files + hidden.directories + hidden.special,
        resolved.plan.seccomp.allowed,
        project.display(),
    ))?;
    let code =
        launch::run(resolved, caller, dirs, &RunOptions { name: Some("demo".to_owned()), ..RunOptions::default() })?;
    let receipt = runs::find_receipt(dirs, "demo")?;
    let result = dirs.data.join("groups/main/result.txt");
    let owner = fs::metadata(&result).step(|| format!("find the agent's result {}", result.display()))?.uid();
    let text = fs::read_to_string(&result).step(|| format!("read {}", result.display()))?;
    let left = fs::read_dir(&dirs.run).map(Iterator::count).unwrap_or(0);
    say(&format!(
        "\nWhat the host saw:\n  \
         {:<38} {} mounts and {} facts, before its first instruction\n  \
         {:<38} uid {host_uid}\n  \
         {:<38} {} (owner on disk: uid {owner})\n  \
         {:<38} {}\n  \
         {:<38} {}\n  \
         {:<38} {left} run directories, no container, no image\n\n\
         The agent {}. Now your own: belljar explain, then belljar run -- COMMAND\n",
        "compared with the kernel's own view:",
        receipt["verify"]["mounts"],
        receipt["verify"]["facts"],
        "the agent was, on the host,",
        "its result:",
        text.trim(),
        "the project's .env still says:",
        fs::read_to_string(project.join(".env")).unwrap_or_default().trim(),
        "the service was sent, by the gateway,",
        service.received(),
        "left behind:",
        receipt["cause"].as_str().unwrap_or("ended"),
    ))?;
    Ok(code)
}

/// A key for the service, which the agent may use and never see; and the leave
/// to reach it, because it is on this machine.
fn set_up_gateway(service: &Origin, dirs: &Dirs) -> Result<()> {
    create_private(&dirs.config)?;
    let write = |name: &str, text: String| {
        let path = dirs.config.join(name);
        fs::write(&path, text).step(|| format!("write {}", path.display()))
    };
    write("config.toml", format!("[gateway]\nextra_roots = [{:?}]\n", service.certificate))?;
    write("policy.toml", format!("[[allow_private]]\nhost = \"localhost\"\nport = {}\n", service.port))?;
    let record = Record {
        name: "shop".to_owned(),
        groups: vec!["main".to_owned()],
        preset: None,
        bindings: vec![Binding {
            host: "localhost".to_owned(),
            port: service.port,
            path: "/*".to_owned(),
            injection: Injection::Bearer,
            strip: Vec::new(),
        }],
        denied: Vec::new(),
        variables: vec![("SHOP_KEY".to_owned(), PLACEHOLDER.to_owned())],
        created: jiff::Timestamp::now(),
        rotated: None,
    };
    let value = SecretBox::new(KEY.as_bytes().into());
    Vault::new(dirs, &VaultConfig::default()).add(record, &value).map(drop)
}

fn make_repository(project: &Path) -> Result<()> {
    let write = |name: &str, text: &str| {
        let path = project.join(name);
        fs::create_dir_all(path.parent().unwrap_or(project))
            .and_then(|()| fs::write(&path, text))
            .step(|| format!("write {}", path.display()))
    };
    write("app.py", "print('the shop is open')\n")?;
    write(".env", &format!("{SECRET}\n"))?;
    write("config/id_rsa", "-----BEGIN OPENSSH PRIVATE KEY-----\ndemo\n")?;
    // A repository where there is git; the demonstration does not depend on it.
    let _ = Command::new("git").args(["init", "--quiet"]).current_dir(project).output();
    Ok(())
}

fn listing(project: &Path) -> Result<String> {
    let mut names: Vec<String> = fs::read_dir(project)
        .step(|| format!("read {}", project.display()))?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(format!("  {}\n", names.join("  ")))
}
