//! The origin and the client of benches/gateway.py.

mod client;
mod connect;
mod figures;
mod keys;
mod origin;

use clap::{Parser, Subcommand};

/// Whatever went wrong, in words.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// An HTTPS origin, and a client that measures the way to it.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Serve HTTPS, with a certificate of a new authority.
    Origin(origin::Options),
    /// Measure, and print the figures as JSON.
    Client(client::Options),
}

/// One thread for each role, so that the machine's other processors are left
/// to what is measured.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    match Arguments::parse().role {
        Role::Origin(options) => origin::serve(options).await,
        Role::Client(options) => client::measure(options).await,
    }
}
