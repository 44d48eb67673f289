//! belljar runs an AI agent on a Linux box as if it were a stranger's program.
//!
//! Each run gets one OCI bundle, built for that run and thrown away after it.
//! See docs/architecture.md for the way of one run.

pub mod backend;
pub mod bundle;
pub mod channel;
pub mod cli;
pub mod config;
pub mod demo;
pub mod doctor;
pub mod error;
mod event_loop;
pub mod gateway;
pub mod host;
pub mod image;
pub mod journal;
pub mod launch;
pub mod namespaces;
mod netlink;
pub mod plan;
pub mod policy;
pub mod record;
pub mod rootfs;
pub mod runs;
pub mod store;
pub mod sys;
pub mod systemd;
pub mod vault;
