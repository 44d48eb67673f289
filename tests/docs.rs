//! Promise: the documents say what the program does. The man pages and the
//! completions are those of this command line, the tests that docs/security.md
//! names are there, and so are the commands, options and exit codes of README.md.

#[path = "../examples/manpages/render.rs"]
mod render;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use belljar::cli::Cli;
use belljar::config::Config;
use belljar::error::{EXIT_REFUSED, EXIT_TIMEOUT, EXIT_USAGE};
use belljar::policy::Policy;
use clap::{Command, CommandFactory};

const README: &str = include_str!("../README.md");
const SECURITY: &str = include_str!("../docs/security.md");
const CONFIGURATION: &str = include_str!("../docs/configuration.md");
const POLICY: &str = include_str!("../docs/policy.md");
const SYSTEMD: &str = include_str!("../docs/systemd.md");
const SECRETS: &str = include_str!("../docs/secrets.md");
const TOOLS: &str = include_str!("../docs/tools.md");
const HOST: &str = include_str!("../docs/host.md");
const CHANNELS: &str = include_str!("../docs/channels.md");

/// Files of this tree with their text: the test runs elsewhere too.
macro_rules! tree {
    ($($path:literal),* $(,)?) => { [$(($path, include_str!(concat!("../", $path)))),*] };
}

const KEPT: [(&str, &str); 68] = tree![
    "docs/man/belljar-approvals-list.1",
    "docs/man/belljar-approvals-revoke.1",
    "docs/man/belljar-approvals-show.1",
    "docs/man/belljar-approvals-watch.1",
    "docs/man/belljar-approvals.1",
    "docs/man/belljar-approve.1",
    "docs/man/belljar-bundle.1",
    "docs/man/belljar-channel-irc.1",
    "docs/man/belljar-channel.1",
    "docs/man/belljar-demo.1",
    "docs/man/belljar-deny.1",
    "docs/man/belljar-doctor.1",
    "docs/man/belljar-explain.1",
    "docs/man/belljar-group-add.1",
    "docs/man/belljar-group-decisions.1",
    "docs/man/belljar-group-list.1",
    "docs/man/belljar-group-remove.1",
    "docs/man/belljar-group-set.1",
    "docs/man/belljar-group-show.1",
    "docs/man/belljar-group.1",
    "docs/man/belljar-image-import.1",
    "docs/man/belljar-image-list.1",
    "docs/man/belljar-image-pull.1",
    "docs/man/belljar-image-remove.1",
    "docs/man/belljar-image.1",
    "docs/man/belljar-log.1",
    "docs/man/belljar-mounts-check.1",
    "docs/man/belljar-mounts-init.1",
    "docs/man/belljar-mounts-list.1",
    "docs/man/belljar-mounts.1",
    "docs/man/belljar-policy-check.1",
    "docs/man/belljar-policy-show.1",
    "docs/man/belljar-policy-test.1",
    "docs/man/belljar-policy.1",
    "docs/man/belljar-ps.1",
    "docs/man/belljar-run.1",
    "docs/man/belljar-secret-add.1",
    "docs/man/belljar-secret-list.1",
    "docs/man/belljar-secret-remove.1",
    "docs/man/belljar-secret-rotate.1",
    "docs/man/belljar-secret.1",
    "docs/man/belljar-send.1",
    "docs/man/belljar-serve.1",
    "docs/man/belljar-show.1",
    "docs/man/belljar-stop.1",
    "docs/man/belljar-systemd-install.1",
    "docs/man/belljar-systemd-remove.1",
    "docs/man/belljar-systemd-timer.1",
    "docs/man/belljar-systemd-unit.1",
    "docs/man/belljar-systemd.1",
    "docs/man/belljar-task-add.1",
    "docs/man/belljar-task-cancel.1",
    "docs/man/belljar-task-list.1",
    "docs/man/belljar-task-pause.1",
    "docs/man/belljar-task-resume.1",
    "docs/man/belljar-task-show.1",
    "docs/man/belljar-task-update.1",
    "docs/man/belljar-task.1",
    "docs/man/belljar.1",
    "contrib/completions/bash",
    "contrib/completions/fish",
    "contrib/completions/zsh",
    "contrib/systemd/system/belljar.service",
    "contrib/systemd/system/belljar.socket",
    "contrib/systemd/system/belljar@.service",
    "contrib/systemd/user/belljar.service",
    "contrib/systemd/user/belljar.socket",
    "contrib/systemd/user/belljar@.service",
];

const TESTS: [(&str, &str); 60] = tree![
    "tests/agent_image.rs",
    "tests/backends.rs",
    "tests/bad_input.rs",
    "tests/bundle.rs",
    "tests/cheats.rs",
    "tests/cli_end.rs",
    "tests/cli_run.rs",
    "tests/concurrency.rs",
    "tests/gateway_approvals.rs",
    "tests/gateway_dial.rs",
    "tests/gateway_fail_closed.rs",
    "tests/gateway_load.rs",
    "tests/gateway_onecli.rs",
    "tests/gateway_policy.rs",
    "tests/gateway_redaction.rs",
    "tests/gateway_secrets.rs",
    "tests/gateway_smuggling.rs",
    "tests/gateway_streaming.rs",
    "tests/gateway_tools.rs",
    "tests/gateway_tricks.rs",
    "tests/gateway_ways_out.rs",
    "tests/image_hostile.rs",
    "tests/image_run.rs",
    "tests/installed.rs",
    "tests/ipc_mcp.rs",
    "tests/ipc_access.rs",
    "tests/isolation.rs",
    "tests/limits.rs",
    "tests/mounts.rs",
    "tests/namespaces.rs",
    "tests/network.rs",
    "tests/nothing_left.rs",
    "tests/policy.rs",
    "tests/races.rs",
    "tests/record.rs",
    "tests/rootfs.rs",
    "tests/shadows.rs",
    "tests/store.rs",
    "tests/journal.rs",
    "tests/serve.rs",
    "tests/systemd_units.rs",
    "tests/terminal.rs",
    "tests/tools.rs",
    "tests/vault.rs",
    "tests/vault_key.rs",
    "tests/writable_root.rs",
    "tests/channel_irc.rs",
    "tests/host_channels.rs",
    "tests/host_claude.rs",
    "tests/host_irc.rs",
    "tests/host_crash.rs",
    "tests/host_messages.rs",
    "tests/host_nanoclaw.rs",
    "tests/host_queue.rs",
    "tests/host_schedule.rs",
    "tests/host_streams.rs",
    "tests/ipc_files.rs",
    "tests/ipc_hostile.rs",
    "tests/ipc_inside.rs",
    "tests/ipc_load.rs",
];

#[test]
fn man_pages_and_completions_are_those_of_this_command_line() {
    let kept = BTreeMap::from(KEPT);
    let rendered = render::files().expect("they can be rendered");
    for (path, text) in &rendered {
        let text = String::from_utf8_lossy(text);
        assert!(kept.get(path.as_str()) == Some(&text.as_ref()), "{path} is out of date: cargo run --example manpages");
    }
    let names: BTreeSet<&str> = rendered.iter().map(|(path, _)| path.as_str()).collect();
    for path in kept.keys() {
        assert!(names.contains(path), "{path} belongs to no command any more");
    }
}

/// What stands as `(tests/FILE.rs: name)` in the text.
fn named_tests(text: &str) -> Vec<(&str, &str)> {
    let named = text.split("(tests/").skip(1).filter_map(|rest| rest.split(')').next()?.split_once(": "));
    named.collect()
}

#[test]
fn each_test_that_the_security_document_names_is_there() {
    let tests = BTreeMap::from(TESTS);
    let named = named_tests(SECURITY);
    assert!(named.len() > 40, "only {} tests are named", named.len());
    for (file, name) in named {
        let text =
            tests.get(format!("tests/{file}").as_str()).unwrap_or_else(|| panic!("tests/{file} is not in TESTS"));
        let definition = format!("#[test]\nfn {name}()");
        assert!(text.contains(&definition), "tests/{file} has no test {name}");
    }
}

/// The lines of the text's shell blocks that call belljar, and its code spans
/// that do, without comments.
fn calls(text: &str) -> Vec<String> {
    let mut calls = Vec::new();
    let mut in_block = false;
    for line in text.lines() {
        if line.starts_with("```") {
            in_block = !in_block;
        } else if in_block {
            let line = line.trim_start_matches("$ ").trim();
            calls.extend(line.starts_with("belljar ").then(|| line.to_owned()));
        } else {
            calls.extend(
                line.split('`').skip(1).step_by(2).filter(|span| span.starts_with("belljar ")).map(str::to_owned),
            );
        }
    }
    let plain = |call: String| call.split(" #").next().unwrap_or_default().trim().to_owned();
    calls.into_iter().map(plain).filter(|call| !call.starts_with("belljar: ")).collect()
}

fn check_call(cli: &Command, call: &str) {
    let mut command = cli;
    let mut words = call.split_whitespace().skip(1).take_while(|word| *word != "--").peekable();
    while let Some(below) = words.peek().and_then(|word| command.find_subcommand(word)) {
        command = below;
        words.next();
    }
    assert!(command.get_name() != cli.get_name(), "`{call}`: there is no such command");
    assert!(!command.has_subcommands() || words.peek().is_none(), "`{call}`: there is no such command");
    for word in words.filter(|word| word.starts_with('-')) {
        let known = command.get_arguments().any(|argument| {
            argument.get_long().is_some_and(|long| word == format!("--{long}"))
                || argument.get_short().is_some_and(|short| word == format!("-{short}"))
        });
        assert!(known, "`{call}`: there is no option {word}");
    }
}

#[test]
fn the_commands_and_options_of_the_documents_are_there() {
    let mut cli = Cli::command();
    cli.build();
    let called = calls(README);
    assert!(called.len() > 10, "only {} calls were found", called.len());
    for text in [README, SECURITY, CONFIGURATION, POLICY, SECRETS, SYSTEMD, TOOLS, HOST, CHANNELS] {
        for call in calls(text) {
            check_call(&cli, &call);
        }
    }
    for below in cli.get_subcommands() {
        let name = below.get_name();
        assert!(
            README.contains(&format!("belljar {name}")) || name == "demo",
            "README.md does not show belljar {name}"
        );
    }
}

/// The blocks of the text in this language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    text.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect()
}

#[test]
fn the_examples_of_the_documents_are_understood() {
    let configurations: Vec<&str> =
        [CONFIGURATION, SECRETS, HOST, CHANNELS].into_iter().flat_map(|text| blocks(text, "toml")).collect();
    let policies = blocks(POLICY, "toml");
    assert!(configurations.len() >= 3 && policies.len() >= 3, "{} and {}", configurations.len(), policies.len());
    for text in configurations {
        if let Err(error) = toml::from_str::<Config>(text) {
            panic!("{error}\n{text}");
        }
    }
    for text in policies {
        if let Err(error) = Policy::parse(text, Path::new("policy.toml")) {
            panic!("{error}\n{text}");
        }
    }
}

#[test]
fn every_key_of_the_gateway_and_the_vault_is_in_the_document() {
    for (table, keys) in [
        (
            "gateway",
            &[
                "extra_roots",
                "inspect",
                "connections",
                "approval_timeout",
                "approval_command",
                "connect_timeout",
                "tls_timeout",
                "header_timeout",
                "response_timeout",
                "idle_timeout",
            ][..],
        ),
        ("vault", &["provider", "url", "api_key_file", "key", "key_file", "passphrase_file"][..]),
    ] {
        // What the program itself names when a key is unknown.
        let error = toml::from_str::<Config>(&format!("[{table}]\nno_such_key = 1\n")).expect_err("an unknown key");
        let known: BTreeSet<&str> = error.message().split('`').skip(3).step_by(2).collect();
        assert_eq!(known, BTreeSet::from_iter(keys.iter().copied()), "{error}");
        for key in keys {
            assert!(CONFIGURATION.contains(&format!("{key} =")) || SECRETS.contains(&format!("{key} =")), "{key}");
        }
    }
}

#[test]
fn the_exit_codes_of_the_documents_are_the_programs() {
    for text in [README, CONFIGURATION] {
        let (_, codes) = text.split_once("## Exit codes").expect("there is a chapter");
        let codes = codes.split("\n## ").next().unwrap_or_default();
        for (code, meaning) in [
            (EXIT_TIMEOUT, "time limit"),
            (EXIT_REFUSED, "refused"),
            (EXIT_USAGE, "cannot be understood"),
            (126, "executed"),
            (127, "not found"),
        ] {
            let said = codes.split(['\n', '.']).any(|part| {
                part.contains(&code.to_string())
                    && (part.contains(meaning) || meaning == "not found" && part.contains("found"))
            });
            assert!(said, "{code} is not explained by `{meaning}` in\n{codes}");
        }
    }
}
