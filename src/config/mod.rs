//! What the person configured: where things lie, `config.toml`, the groups.
//!
//! Reading only, except `groups`, which keeps the registry of groups. Unknown
//! keys are errors, so that a misspelt limit cannot be taken for one in force.

mod dirs;
mod file;
mod groups;
mod own;

pub use dirs::{Caller, Dirs, create_private, is_of_another, is_real_root, open_again, start_over_as, sync_directory};
pub use file::{
    AgentKind, Backend, ChannelConfig, Config, ConfiguredMount, Enforce, GatewayConfig, GroupConfig, HostConfig,
    Inspect, KeySource, LimitsConfig, Provider, RunConfig, VaultConfig,
};
pub use groups::{Group, GroupName, Groups, MAIN};
pub use own::read_own;
