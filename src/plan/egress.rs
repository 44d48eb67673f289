//! What may leave: the mode, the listeners, and the variables by which the
//! agent's programs find the gateway and trust it.

use std::path::{Path, PathBuf};

use super::environment::variable;
use super::{BELLJAR_DIR, Egress, EgressMode, EgressSecret, Inspected, Listener, ListenerPurpose, Transport, Variable};
use crate::config::{Caller, Config, Dirs, Group, Inspect, Provider};
use crate::error::{Error, Result};
use crate::gateway::{Inspection, TRUSTSTORE_PASSWORD};
use crate::policy::{DefaultAction, Policy};
use crate::vault::{Record, Vault};

/// Where the proxy is inside.
const PROXY: &str = "http://127.0.0.1:3128";
/// Its port.
const PROXY_PORT: u16 = 3128;

/// What the gateway works by; read before the run.
#[derive(Debug)]
pub struct GatewayParts {
    /// `policy.toml`.
    pub policy: Policy,
    /// Whether TLS is opened.
    pub inspection: Inspection,
    /// `config.toml`.
    pub config: Config,
    /// Files with authorities beside the platform's.
    pub extra_roots: Vec<PathBuf>,
}

/// The way out of one run.
pub struct Way {
    /// For the plan.
    pub egress: Egress,
    /// For the agent.
    pub variables: Vec<Variable>,
    /// For the gateway, where there is one.
    pub gateway: Option<GatewayParts>,
    /// Files that no mount may hold.
    pub key_files: Vec<PathBuf>,
}

/// Resolves the mode for a group; nothing is made.
pub fn resolve(mode: EgressMode, group: &Group, config: &Config, caller: &Caller, dirs: &Dirs) -> Result<Way> {
    let vault = Vault::new(dirs, &config.vault);
    let key_files = key_files(config, caller, dirs);
    // Also without a gateway: a file that cannot be read is mended before it counts.
    let policy = Policy::load(&Policy::file(dirs))?;
    if mode == EgressMode::None {
        let egress = Egress {
            mode,
            means: "nothing can leave: the network is sealed".to_owned(),
            listeners: Vec::new(),
            inspection: None,
            secrets: Vec::new(),
            helper: None,
        };
        return Ok(Way { egress, variables: Vec::new(), gateway: None, key_files });
    }
    let name = group.name.as_str();
    let records = records_of(&vault, config, name)?;
    let inspected = inspected(&policy, config, name, &records);
    let helper = match mode {
        EgressMode::Open => Some(find_pasta()?),
        _ => None,
    };
    let egress = Egress {
        mode,
        means: means(mode, &policy, name),
        listeners: listeners(mode, &policy, name),
        secrets: records.iter().map(shown).collect(),
        inspection: Some(inspected.clone()),
        helper,
    };
    let inspection = if inspected.opened { Inspection::All } else { Inspection::None };
    let gateway =
        Some(GatewayParts { policy, inspection, config: config.clone(), extra_roots: extra_roots(config, caller) });
    Ok(Way { egress, variables: variables(&records), gateway, key_files })
}

/// Files with keys, which the configuration names.
pub fn key_files(config: &Config, caller: &Caller, dirs: &Dirs) -> Vec<PathBuf> {
    let vault = Vault::new(dirs, &config.vault);
    let of_onecli = config.vault.api_key_file.iter().map(|path| expanded(path, &caller.home));
    vault.key_file().map(Path::to_owned).into_iter().chain(of_onecli).collect()
}

/// Files with authorities beside the platform's, which the configuration names.
pub fn extra_roots(config: &Config, caller: &Caller) -> Vec<PathBuf> {
    config.gateway.extra_roots.iter().map(|path| expanded(path, &caller.home)).collect()
}

/// A path of the configuration; `~` is the caller's home.
pub fn expanded(path: &str, home: &Path) -> PathBuf {
    match path.strip_prefix("~/") {
        Some(below) => home.join(below),
        None => PathBuf::from(path),
    }
}

/// The secrets of belljar's own vault that the group has, without values.
pub fn records_of(vault: &Vault, config: &Config, group: &str) -> Result<Vec<Record>> {
    let mut records = match config.vault.provider {
        Provider::Builtin => vault.records()?,
        Provider::Onecli => Vec::new(),
    };
    records.retain(|record| record.groups.iter().any(|of| of == group));
    Ok(records)
}

/// Whether the gateway opens TLS for the group, and why; `records` are the group's.
pub fn inspected(policy: &Policy, config: &Config, group: &str, records: &[Record]) -> Inspected {
    let say = |opened, reason: &str| Inspected { opened, reason: reason.to_owned() };
    if config.gateway.inspect == Inspect::All {
        say(true, "config.toml: [gateway] inspect = \"all\"")
    } else if !records.is_empty() {
        say(true, "the group has secrets, which names that disagree must not reach")
    } else if policy.needs_inspection(group) {
        say(true, "policy.toml has rules for the group, or denies by default")
    } else if config.vault.provider == Provider::Onecli {
        say(false, "OneCLI opens it")
    } else {
        say(false, "no secret and no rule is for the group: hosts, bytes and times are recorded")
    }
}

fn means(mode: EgressMode, policy: &Policy, group: &str) -> String {
    let rules = policy.rules.iter().filter(|rule| rule.groups.contains(group)).count();
    let default = match policy.default {
        DefaultAction::Allow => "any public host",
        DefaultAction::Deny => "no host but those that a rule allows",
    };
    let rules = match rules {
        0 => String::new(),
        1 => "; 1 rule of policy.toml".to_owned(),
        many => format!("; {many} rules of policy.toml"),
    };
    let gateway = format!("HTTP and HTTPS through the gateway, to {default}{rules}");
    match mode {
        EgressMode::Open => {
            format!("RAW AND UNRESTRICTED: pasta gives the run a network of its own; beside it {gateway}")
        }
        _ => gateway,
    }
}

fn listeners(mode: EgressMode, policy: &Policy, group: &str) -> Vec<Listener> {
    let sealed = mode == EgressMode::Gateway;
    let listener = |purpose, transport, port, everywhere| Listener { purpose, transport, port, everywhere };
    let mut all = vec![
        listener(ListenerPurpose::Proxy, Transport::Tcp, PROXY_PORT, false),
        listener(ListenerPurpose::Dns, Transport::Udp, 53, sealed),
        listener(ListenerPurpose::Dns, Transport::Tcp, 53, sealed),
    ];
    // With a network of its own, on the loopback only: for the gateway's own host.
    all.push(listener(ListenerPurpose::Http, Transport::Tcp, 80, sealed));
    if sealed {
        all.push(listener(ListenerPurpose::Https, Transport::Tcp, 443, true));
        for rule in policy.tcp.iter().filter(|rule| rule.groups.contains(group)) {
            if !all.iter().any(|have| have.transport == Transport::Tcp && have.port == rule.port) {
                all.push(listener(ListenerPurpose::Tcp, Transport::Tcp, rule.port, true));
            }
        }
    }
    all
}

fn shown(record: &Record) -> EgressSecret {
    let goes_to = record.bindings.iter().map(|binding| {
        let port = if binding.port == 443 { String::new() } else { format!(":{}", binding.port) };
        format!("{}{port}{}", binding.host, binding.path)
    });
    EgressSecret { name: record.name.clone(), goes_to: goes_to.collect() }
}

/// The proxy, the authorities for each tool that has a variable for them, and
/// the placeholders.
fn variables(records: &[Record]) -> Vec<Variable> {
    let proxy = "the gateway's proxy";
    let trust = "authorities that this program trusts, belljar's among them";
    let bundle = format!("{BELLJAR_DIR}/ca-bundle.pem");
    let mut all: Vec<Variable> =
        ["HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"].map(|name| variable(name, PROXY, proxy)).into();
    all.extend(["NO_PROXY", "no_proxy"].map(|name| variable(name, "", "nothing passes by the proxy")));
    all.push(variable("NODE_USE_ENV_PROXY", "1", "Node's own fetch obeys the proxy variables then"));
    all.extend(
        [
            "NODE_EXTRA_CA_CERTS",
            "SSL_CERT_FILE",
            "REQUESTS_CA_BUNDLE",
            "CURL_CA_BUNDLE",
            "GIT_SSL_CAINFO",
            "CARGO_HTTP_CAINFO",
            "PIP_CERT",
            "DENO_CERT",
            "AWS_CA_BUNDLE",
        ]
        .map(|name| variable(name, &bundle, trust)),
    );
    let java = format!(
        "-Djavax.net.ssl.trustStore={BELLJAR_DIR}/truststore.jks -Djavax.net.ssl.trustStoreType=jks \
         -Djavax.net.ssl.trustStorePassword={TRUSTSTORE_PASSWORD}"
    );
    all.push(variable("JAVA_TOOL_OPTIONS", &java, trust));
    for record in records {
        let reason = format!("the placeholder of secret {}", record.name);
        all.extend(record.variables.iter().map(|(name, value)| variable(name, value, &reason)));
    }
    all
}

/// pasta, which makes a network without privileges (passt(1)).
pub fn find_pasta() -> Result<PathBuf> {
    ["/usr/bin/pasta", "/usr/local/bin/pasta", "/bin/pasta"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.is_file())
        .ok_or_else(|| {
            Error::refused("--egress open: pasta is not installed")
                .because("without it a run has no network of its own")
                .hint("apt install passt; or leave --egress open out: the gateway reaches every public host")
        })
}
