//! What the gateway needs: authorities to verify origins by, a policy that can
//! be read, secrets that open, and pasta for `--egress open`.

use std::path::Path;

use super::{Finding, State, said};
use crate::config::{Caller, Config, Dirs, Provider};
use crate::error::Error;
use crate::gateway::Roots;
use crate::plan::find_pasta;
use crate::policy::Policy;
use crate::vault::Vault;

pub fn examine(caller: &Caller, dirs: &Dirs) -> Vec<Finding> {
    vec![authorities(caller, dirs), policy(dirs), secrets(dirs), open()]
}

fn finding(name: &str, found: Result<String, (State, Error)>, matters: &str) -> Finding {
    match found {
        Ok(found) => Finding::new(name, State::Ok, found, matters, None),
        Err((state, error)) => Finding::new(name, state, said(&error), matters, error.hint.as_deref()),
    }
}

fn authorities(caller: &Caller, dirs: &Dirs) -> Finding {
    let found = Config::load(&dirs.config_file())
        .and_then(|config| {
            let extra = crate::plan::extra_roots(&config, caller);
            Ok(format!(
                "{} certificate authorities, {} files of [gateway] extra_roots",
                Roots::load(&extra)?.count(),
                extra.len()
            ))
        })
        .map_err(|error| (State::Missing, error));
    finding("authorities", found, "the gateway verifies every origin by them")
}

fn policy(dirs: &Dirs) -> Finding {
    let path = Policy::file(dirs);
    let found = Policy::load(&path).map_err(|error| (State::Missing, error)).map(|policy| match path.exists() {
        true => format!(
            "{}: default {}, {} rules",
            path.display(),
            crate::policy::Action::from(policy.default),
            policy.rules.len()
        ),
        false => "no policy.toml: every public host is allowed".to_owned(),
    });
    finding("policy", found, "it decides what may leave; one that cannot be read stops every run")
}

fn secrets(dirs: &Dirs) -> Finding {
    let found = Config::load(&dirs.config_file())
        .and_then(|config| match config.vault.provider {
            Provider::Onecli => Ok(format!("OneCLI at {}", config.vault.url.unwrap_or_default())),
            Provider::Builtin => Ok(format!(
                "{} secrets; belljar secret list --check opens them",
                Vault::new(dirs, &config.vault).records()?.len()
            )),
        })
        .map_err(|error| (State::Missing, error));
    finding("secrets", found, "the gateway adds them to requests; they never enter a run")
}

fn open() -> Finding {
    let matters = "--egress open, a raw network beside the gateway, needs it; all else works without";
    let found = find_pasta().map_err(|error| (State::Limited, error)).and_then(|pasta| {
        let tun = Path::new("/dev/net/tun");
        let usable = nix::unistd::access(tun, nix::unistd::AccessFlags::R_OK | nix::unistd::AccessFlags::W_OK);
        match usable {
            Ok(()) => Ok(format!("{} and /dev/net/tun", pasta.display())),
            Err(errno) => Err((
                State::Limited,
                Error::refused(format!("open {}", tun.display()))
                    .because(errno)
                    .hint("chmod 666 /dev/net/tun, as most distributions have it"),
            )),
        }
    });
    finding("pasta", found, matters)
}
