//! The run's gateway: what is resolved before the launcher is there, and the
//! secrets, which are opened only after it is.

use super::supervise::Event;
use crate::config::{Caller, Dirs};
use crate::error::Result;
use crate::gateway::{Answers, AuthorityFiles, Gateway, Roots, Setup, fetch};
use crate::plan::{EgressMode, GatewayParts, Resolved, Variable};
use crate::vault::{IfMissing, Master, Vault, keep_out_of_dumps};
use tokio::sync::mpsc::UnboundedSender;

/// What the gateway of a run works by.
pub struct Outgoing {
    setup: Setup,
    master: Option<Master>,
}

impl Outgoing {
    /// Makes our authority when there is none, and asks OneCLI where that is the
    /// vault.
    pub fn prepare(resolved: &mut Resolved, caller: &Caller, dirs: &Dirs) -> Result<Option<Self>> {
        let Some(parts) = resolved.gateway.take() else {
            return Ok(None);
        };
        let GatewayParts { policy, inspection, config, extra_roots } = parts;
        let group = resolved.plan.group.clone();
        let fetched = fetch(&config.vault, &extra_roots, &group, &caller.home)?;
        Roots::check(&extra_roots)?;
        let vault = Vault::new(dirs, &config.vault);
        let mut ours = vec![AuthorityFiles::new(dirs).ensure(&vault)?];
        let mut parent = None;
        if let Some(fetched) = fetched {
            for (name, value) in fetched.environment {
                if !resolved.plan.environment.iter().any(|have| have.name == name) {
                    resolved.plan.environment.push(Variable { name, value, reason: "from OneCLI".to_owned() });
                }
            }
            if let Some(authority) = fetched.authority {
                ours.push(authority);
            }
            parent = Some(fetched.proxy);
        }
        let answers = match resolved.plan.egress.mode {
            EgressMode::Open => Answers::Real,
            _ => Answers::StandIns,
        };
        let setup = Setup {
            group,
            policy: policy.into(),
            inspection,
            answers,
            config,
            vault,
            dirs: dirs.clone(),
            log: resolved.log,
            extra_roots,
            ours,
            parent,
        };
        Ok(Some(Self { setup, master: None }))
    }

    /// Takes the master key. From here on this process holds what must not be
    /// in a core dump, nor be read by another one of the same user.
    pub fn unlock(&mut self) -> Result<()> {
        keep_out_of_dumps()?;
        self.master = Some(self.setup.vault.master(IfMissing::Refuse)?);
        Ok(())
    }

    /// Starts the gateway; what it says becomes events of the supervisor.
    pub fn start(self, run: &str, events: UnboundedSender<Event>) -> Option<Gateway> {
        let Self { setup, master, .. } = self;
        Some(Gateway::start(setup, run, master?, move |said| {
            // The supervisor may be gone already.
            let _ = events.send(Event::Gateway(said));
        }))
    }
}
