//! Renders the man pages and the completions from the command line itself, and
//! the units of the package.

use std::io;

use belljar::cli::Cli;
use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

/// Each file, relative to the top of the tree, with its text.
pub fn files() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    let mut cli = Cli::command().disable_help_subcommand(true);
    cli.build();
    pages(&cli, &mut files)?;
    for (shell, name) in [(Shell::Bash, "bash"), (Shell::Zsh, "zsh"), (Shell::Fish, "fish")] {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "belljar", &mut text);
        files.push((format!("contrib/completions/{name}"), text));
    }
    let units = belljar::systemd::unit::packaged();
    files.extend(units.into_iter().map(|(name, text)| (format!("contrib/systemd/{name}"), text.into_bytes())));
    Ok(files)
}

/// A page for the command and for each one below it; `build` has given them names
/// such as `belljar-group-add`.
fn pages(command: &Command, files: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let mut text = Vec::new();
    Man::new(command.clone())
        .source(concat!("belljar ", env!("CARGO_PKG_VERSION")))
        .manual("belljar")
        .render(&mut text)?;
    files.push((format!("docs/man/{name}.1"), text));
    command.get_subcommands().try_for_each(|below| pages(below, files))
}
