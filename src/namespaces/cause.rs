//! From the kernel's answer and the facts to a cause and its cure.
//!
//! The kernel says only EPERM, EACCES or ENOSPC. What decides between causes is
//! which of them are there at all, and which namespaces are refused alone.

use nix::errno::Errno;

use super::Restriction;
use super::facts::{Around, Facts, KINDS};
use super::probe::Step;
use crate::error::Error;
use crate::plan::HOST_ID_BASE;

/// What a namespace inherits that nobody has set a limit for.
const UNLIMITED: u64 = i32::MAX as u64;
/// As a limit that is 0 is raised.
const ENOUGH: u64 = 65_536;
/// What keeps a sysctl.
const KEEP: &str = "(a file in /etc/sysctl.d keeps it)";

/// What a call that a filter refused says, by the C library, Rust and runtimes alike;
/// and a runtime that has handed its log over already.
const FILTERS_ANSWERS: [&str; 3] = ["Operation not permitted", "Function not implemented", "ended without a report"];

/// A cause, and what mends it.
type Why = (String, String);

/// Why the kernel answered `step` with `errno`; `refused` are the kinds of
/// namespaces that could not be made alone either.
pub fn find(step: Step, errno: Errno, facts: &Facts, refused: &[(&str, Errno)]) -> Restriction {
    let makes = matches!(step, Step::Namespaces | Step::Nested);
    let whys = match errno {
        Errno::ENOSPC | Errno::EUSERS if makes => vec![used_up(facts, refused)],
        Errno::ENOSYS | Errno::EINVAL if makes => vec![missing(facts, refused)],
        Errno::ENODEV | Errno::EPERM if step == Step::Overlay => vec![no_overlay(errno)],
        Errno::ENOSYS if facts.filtered && step.call().is_some() => vec![filter(step, facts, refused)],
        Errno::EAGAIN if step == Step::Threads => vec![no_more_threads()],
        Errno::EPERM | Errno::EACCES => forbidden(step, errno, facts, refused),
        _ => Vec::new(),
    };
    let (causes, mends): (Vec<_>, Vec<_>) = whys.into_iter().unzip();
    let said = errno.to_string();
    if causes.is_empty() {
        let mend = "sudo dmesg | tail    (what the kernel says of it)".to_owned();
        return Restriction { step, found: said, mend };
    }
    Restriction { step, found: format!("{said}: {}", causes.join("; and ")), mend: mends.join("; and ") }
}

/// The limit that is used up, or was set to nothing.
fn used_up(facts: &Facts, refused: &[(&str, Errno)]) -> Why {
    let limits = || KINDS.into_iter().zip(facts.most);
    if let Some((kind, _)) = limits().find(|(_, most)| *most == Some(0)) {
        let name = format!("user.max_{kind}_namespaces");
        return (format!("{name} is 0"), format!("sudo sysctl {name}={ENOUGH}    {KEEP}"));
    }
    // What was just given back may still count, so which kind was refused alone
    // decides only between equal limits.
    let was_refused = |kind: &str| refused.iter().any(|(its, _)| *its == kind);
    let tightest = limits()
        .filter(|(kind, _)| refused.is_empty() || *kind == "user" || was_refused(kind))
        .min_by_key(|(kind, most)| (most.unwrap_or(u64::MAX), !was_refused(kind)));
    let (kind, most) = tightest.unwrap_or(("user", None));
    let name = format!("user.max_{kind}_namespaces");
    match most.filter(|most| *most < UNLIMITED) {
        Some(most) => (
            format!("{name} is {most}, and they are used up"),
            format!("sudo sysctl {name}={}    {KEEP}; lsns shows who has them", (most * 2).max(ENOUGH)),
        ),
        None => (
            format!("a namespace around this one allows no more ({name}), or 32 are nested, which is the most"),
            format!("start belljar in fewer sandboxes, or raise {name} outside of them"),
        ),
    }
}

/// The kernel has no such namespaces, or something around says so.
fn missing(facts: &Facts, refused: &[(&str, Errno)]) -> Why {
    if !facts.built_in {
        let mend = "a kernel built with CONFIG_USER_NS, as distributions build theirs";
        return ("the kernel has no user namespaces".to_owned(), mend.to_owned());
    }
    if facts.filtered {
        return filter(Step::Namespaces, facts, refused);
    }
    let kinds: Vec<&str> = refused.iter().map(|(kind, _)| *kind).collect();
    (
        format!("the kernel, or what stands in for it, has no namespaces of this kind: {}", kinds.join(", ")),
        "zgrep _NS= /proc/config.gz /boot/config-*    (CONFIG_NAMESPACES and all below it)".to_owned(),
    )
}

/// Who forbids it. More than one may, and then each has to be mended.
fn forbidden(step: Step, errno: Errno, facts: &Facts, refused: &[(&str, Errno)]) -> Vec<Why> {
    let users = refused.iter().any(|(kind, _)| *kind == "user");
    if step == Step::Namespaces && !facts.mapped {
        return vec![(
            "the caller's uid has no place in the user namespace that belljar runs in".to_owned(),
            "call belljar as a user that cat /proc/self/uid_map shows".to_owned(),
        )];
    }
    if step == Step::Maps && !facts.has_ids {
        return vec![(
            format!(
                "the user namespace that belljar runs in has no ids from {HOST_ID_BASE} up, of which each run by root gets some"
            ),
            "call belljar outside of it, or in it as an ordinary user".to_owned(),
        )];
    }
    if step == Step::Namespaces && facts.chrooted && errno == Errno::EPERM {
        return vec![(
            "belljar was called in a chroot, where the kernel makes no user namespaces".to_owned(),
            "call belljar outside of it, or enter with systemd-nspawn or bwrap, which change the root otherwise"
                .to_owned(),
        )];
    }
    // What was mounted before it says that mounting as such is not forbidden.
    if step == Step::Proc && !facts.covered.is_empty() {
        return vec![covered(facts)];
    }
    let mut whys = Vec::new();
    // In a namespace nobody is privileged enough for the next one, root neither.
    if facts.clone == Some(0) && (step == Step::Namespaces && !facts.privileged || step == Step::Nested) {
        whys.push((
            "kernel.unprivileged_userns_clone is 0".to_owned(),
            format!("sudo sysctl kernel.unprivileged_userns_clone=1    {KEEP}"),
        ));
    }
    if facts.is_apparmors() && step != Step::Threads {
        whys.push((
            "AppArmor takes the capabilities of user namespaces from programs without a profile \
             (kernel.apparmor_restrict_unprivileged_userns is 1)"
                .to_owned(),
            format!(
                "sudo apparmor_parser -r /etc/apparmor.d/belljar    (the profile of the package, for its /usr/bin/belljar), \
                 or sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0    {KEEP}"
            ),
        ));
    }
    // A filter refuses user namespaces as a whole; AppArmor does not by EPERM.
    let filters_too = whys.len() == 1 && facts.clone != Some(0) && users && errno == Errno::EPERM;
    if facts.filtered && (whys.is_empty() || filters_too) {
        whys.push(filter(step, facts, refused));
    }
    if whys.is_empty() && errno == Errno::EACCES {
        whys.push((
            "a security module of the kernel refuses it".to_owned(),
            "sudo dmesg | tail    (or sudo ausearch -m avc -ts recent)".to_owned(),
        ));
    }
    whys
}

fn no_more_threads() -> Why {
    (
        "the caller has as many processes and threads as it may".to_owned(),
        "ulimit -u    (or TasksMax= of the unit that belljar runs in)".to_owned(),
    )
}

/// A seccomp filter of what belljar runs in: Docker's default profile, or
/// RestrictNamespaces= of a unit (systemd.exec(5)).
fn filter(step: Step, facts: &Facts, refused: &[(&str, Errno)]) -> Why {
    let what = if let Some(call) = step.call() {
        call.to_owned()
    } else if refused.iter().any(|(kind, _)| *kind == "user") || refused.is_empty() {
        "user namespaces".to_owned()
    } else {
        let kinds: Vec<&str> = refused.iter().map(|(kind, _)| *kind).collect();
        format!("namespaces of this kind: {}", kinds.join(", "))
    };
    let directive = match step {
        Step::Threads => "SystemCallFilter=clone3",
        Step::Ids => "SystemCallFilter=@setuid",
        Step::Enter => "SystemCallFilter=setns and RestrictNamespaces=no",
        _ if step.call().is_some() => "SystemCallFilter=@mount",
        _ => "RestrictNamespaces=no",
    };
    named(facts, "refuses", &what, directive)
}

/// What a filter does, or may do, to which calls; whose it is, and what mends it.
fn named(facts: &Facts, does: &str, what: &str, directive: &str) -> Why {
    let container = "--security-opt seccomp=unconfined";
    match &facts.around {
        Around::Container => (
            format!("the seccomp filter of the container around belljar {does} {what}"),
            format!("start that container with {container}    (docker run, podman run)"),
        ),
        Around::Unit(name, users) => (
            format!("a seccomp filter, as of the unit {name}, {does} {what}"),
            format!("systemctl {}edit {name}, with [Service] and {directive}", if *users { "--user " } else { "" }),
        ),
        Around::Unknown => (
            format!("a seccomp filter {does} {what}"),
            format!("start the container around belljar with {container}; in a unit of systemd {directive}"),
        ),
    }
}

/// What may have refused a call that none of the steps tried, where the answer to
/// it was one that filters give.
pub fn suspect(error: Error, facts: &Facts) -> Error {
    let is_filters = |cause: &String| FILTERS_ANSWERS.iter().any(|answer| cause.contains(answer));
    if !facts.filtered || !error.causes.iter().any(is_filters) {
        return error;
    }
    let (cause, mend) =
        named(facts, "is in force, and may refuse", "this call", "SystemCallFilter=    (empty: no filter)");
    let mend = match &error.hint {
        Some(hint) if hint != "belljar doctor" => format!("{hint}; or {mend}"),
        _ => mend,
    };
    error.because(cause).hint(mend)
}

fn no_overlay(errno: Errno) -> Why {
    if errno == Errno::ENODEV {
        let mend = "sudo modprobe overlay    (a file in /etc/modules-load.d keeps it)";
        return ("the kernel's module overlay is not loaded".to_owned(), mend.to_owned());
    }
    ("this kernel has no overlays in user namespaces".to_owned(), "Linux 5.11 or later".to_owned())
}

/// A /proc that is covered in part cannot be mounted whole (mount_namespaces(7),
/// the rule on mounts that are revealed).
fn covered(facts: &Facts) -> Why {
    let some: Vec<&str> = facts.covered.iter().take(3).map(String::as_str).collect();
    let more = if facts.covered.len() > some.len() { ", …" } else { "" };
    let mend = match &facts.around {
        Around::Unit(name, users) => format!(
            "systemctl {}edit {name}, with [Service] and ProtectKernelTunables=no, ProtectKernelLogs=no, ProtectControlGroups=no",
            if *users { "--user " } else { "" }
        ),
        _ => "start the container around belljar with an unmasked /proc: podman run --security-opt unmask=ALL, \
              docker run --security-opt systempaths=unconfined"
            .to_owned(),
    };
    (format!("parts of /proc are covered: {}{more}", some.join(", ")), mend)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        Facts {
            most: [Some(10_000); KINDS.len()],
            clone: None,
            apparmor: None,
            profile: Some("unconfined".to_owned()),
            filtered: false,
            outermost: true,
            privileged: false,
            mapped: true,
            has_ids: true,
            chrooted: false,
            built_in: true,
            covered: Vec::new(),
            around: Around::Unknown,
        }
    }

    fn why(step: Step, errno: Errno, facts: &Facts, refused: &[(&str, Errno)]) -> String {
        let found = find(step, errno, facts, refused);
        format!("{}\n{}", found.found, found.mend)
    }

    #[test]
    fn of_a_unit_the_directive_is_named() {
        let unit = |users| Around::Unit("nightly.service".to_owned(), users);
        let facts = |users| Facts { filtered: true, around: unit(users), ..facts() };
        let all = [("user", Errno::EPERM), ("net", Errno::EPERM)];
        let said = why(Step::Namespaces, Errno::EPERM, &facts(false), &all);
        assert!(said.contains("the unit nightly.service, refuses user namespaces"), "{said}");
        assert!(said.contains("\nsystemctl edit nightly.service, with [Service] and RestrictNamespaces=no"), "{said}");
        let said = why(Step::Namespaces, Errno::EPERM, &facts(true), &all[1..]);
        assert!(said.contains("namespaces of this kind: net\nsystemctl --user edit nightly.service"), "{said}");
        let said = why(Step::Tmpfs, Errno::EPERM, &facts(false), &[]);
        assert!(said.contains("refuses mounting") && said.contains("SystemCallFilter=@mount"), "{said}");
    }

    #[test]
    fn of_a_container_its_option_is_named() {
        let facts = Facts { filtered: true, around: Around::Container, ..facts() };
        let said = why(Step::Namespaces, Errno::EPERM, &facts, &[("user", Errno::EPERM)]);
        assert!(said.contains("the container around belljar") && said.contains("seccomp=unconfined"), "{said}");
    }

    #[test]
    fn apparmor_restricts_who_has_no_profile_and_is_not_root() {
        let on = Facts { apparmor: Some(1), ..facts() };
        let said = |facts: &Facts| why(Step::PrivateMounts, Errno::EACCES, facts, &[]);
        assert!(said(&on).contains("AppArmor"));
        for other in [
            Facts { profile: Some("belljar (unconfined)".to_owned()), ..on.clone() },
            Facts { privileged: true, ..on.clone() },
            Facts { apparmor: Some(0), ..on.clone() },
        ] {
            assert!(!said(&other).contains("AppArmor"), "{other:?}");
        }
        // Both have to be mended.
        let both = Facts { filtered: true, ..on };
        let said = why(Step::Namespaces, Errno::EPERM, &both, &[("user", Errno::EPERM)]);
        assert!(said.contains("AppArmor") && said.contains("; and a seccomp filter"), "{said}");
    }

    #[test]
    fn roots_namespace_in_a_namespace_is_forbidden_by_the_sysctl_too() {
        let root = Facts { clone: Some(0), privileged: true, ..facts() };
        let sysctl = |step| why(step, Errno::EPERM, &root, &[]).contains("unprivileged_userns_clone is 0");
        assert!(sysctl(Step::Nested) && !sysctl(Step::Namespaces));
    }

    #[test]
    fn what_the_kernel_lacks() {
        let without = Facts { built_in: false, ..facts() };
        assert!(why(Step::Namespaces, Errno::EINVAL, &without, &[]).contains("CONFIG_USER_NS"));
        let said = why(Step::Namespaces, Errno::ENOSYS, &facts(), &[("ipc", Errno::ENOSYS)]);
        assert!(said.contains("no namespaces of this kind: ipc"), "{said}");
        assert!(why(Step::Overlay, Errno::ENODEV, &facts(), &[]).contains("modprobe overlay"));
    }

    #[test]
    fn every_answer_has_a_cure() {
        let lone = |errno| why(Step::Namespaces, errno, &facts(), &[("user", errno)]);
        for errno in [Errno::EPERM, Errno::EACCES, Errno::ENOSPC, Errno::ENOMEM, Errno::ECHILD] {
            assert!(lone(errno).lines().nth(1).is_some_and(|mend| mend.len() > 10), "{errno}");
        }
        assert!(lone(Errno::EACCES).contains("a security module"));
        assert!(lone(Errno::ENOSPC).contains("user.max_user_namespaces is 10000, and they are used up"));
    }

    #[test]
    fn the_tightest_limit_is_the_one_that_is_used_up() {
        let refused = |kind| [(kind, Errno::ENOSPC)];
        let said = |facts: &Facts, kind| why(Step::Namespaces, Errno::ENOSPC, facts, &refused(kind));
        assert!(said(&facts(), "net").contains("user.max_net_namespaces is 10000"));
        let mut few = facts();
        few.most[0] = Some(1);
        assert!(said(&few, "mnt").contains("user.max_user_namespaces is 1, and"), "{}", said(&few, "mnt"));
        let inherited = Facts { most: [Some(UNLIMITED); KINDS.len()], ..facts() };
        assert!(said(&inherited, "user").contains("32 are nested"));
    }
}
