//! Channels: what connects the host process with chat networks. A channel is a
//! program of its own (docs/channels.md), so that what strangers send is parsed in
//! another process than the one that starts runs. Here are the lines that the two
//! exchange, what every channel program stands on, and the built-in one for IRC.
//! Nothing here knows of runs, groups or secrets of the vault.

pub mod irc;
mod journal;
mod pipe;
pub mod protocol;
