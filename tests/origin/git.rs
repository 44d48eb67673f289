//! git over HTTP, read only: `git http-backend` with one small repository. A
//! path that holds `private` wants a credential, as GitHub's do.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use hyper::http::request::Parts;
use hyper::{Response, StatusCode};

use crate::answers::{plain, set};
use crate::body::{Answer, Received};
use crate::sockets::World;

/// Answers for `…/NAME.git/…`.
pub async fn answer(parts: Parts, body: Received, world: &Arc<World>) -> io::Result<Response<Answer>> {
    let input = body.all().await;
    if parts.uri.path().contains("private") && !parts.headers.contains_key("authorization") {
        let mut answer = plain(StatusCode::UNAUTHORIZED, "text/plain", "who are you?\n");
        set(answer.headers_mut(), "www-authenticate", "Basic realm=\"git\"");
        return Ok(answer);
    }
    let root = world.records.directory().join("git");
    let work = move || respond(&parts, &input, &root);
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn git(directory: &Path, arguments: &[&str]) -> io::Result<()> {
    let status = Command::new("git")
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", directory)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .stdout(Stdio::null())
        .status()?;
    if status.success() { Ok(()) } else { Err(io::Error::other(format!("git {arguments:?}: {status}"))) }
}

/// One commit with one file, made when it is asked for.
fn make(root: &Path, name: &str) -> io::Result<()> {
    if root.join(name).exists() {
        return Ok(());
    }
    let work = root.join(format!("work-{name}"));
    fs::create_dir_all(&work)?;
    git(&work, &["init", "-q", "-b", "main"])?;
    fs::write(work.join("hello.txt"), "from the origin\n")?;
    git(&work, &["add", "-A"])?;
    git(&work, &["-c", "user.name=o", "-c", "user.email=o@example.invalid", "commit", "-qm", "first"])?;
    let work = work.to_string_lossy().into_owned();
    git(root, &["clone", "-q", "--bare", &work, name])
}

fn respond(parts: &Parts, input: &[u8], root: &Path) -> io::Result<Response<Answer>> {
    let path = parts.uri.path();
    let start = path.split('/').position(|segment| segment.ends_with(".git")).unwrap_or(1);
    let rest: Vec<&str> = path.split('/').skip(start).collect();
    let name = rest.first().copied().unwrap_or("repo.git");
    fs::create_dir_all(root)?;
    make(root, name)?;
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut child = Command::new("git")
        .arg("http-backend")
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", root)
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("REQUEST_METHOD", parts.method.as_str())
        .env("PATH_INFO", format!("/{}", rest.join("/")))
        .env("QUERY_STRING", parts.uri.query().unwrap_or_default())
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", input.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input)?;
    }
    let output = child.wait_with_output()?.stdout;
    let end = output.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(output.len());
    let head = String::from_utf8_lossy(&output[..end]).into_owned();
    let mut answer = Response::new(crate::body::whole(output.get(end + 4..).unwrap_or_default().to_vec()));
    for line in head.lines() {
        match line.split_once(": ") {
            Some(("Status", status)) => {
                let code = status.split(' ').next().and_then(|code| code.parse().ok());
                *answer.status_mut() = code.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or_default();
            }
            Some((name, value)) => set(answer.headers_mut(), name, value),
            None => {}
        }
    }
    Ok(answer)
}
