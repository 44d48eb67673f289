//! The program that runs inside a belljar and tells what it has and what it can
//! reach: one JSON object a line, `name` and `answer`. An answer that begins
//! with `ok` means that the attempt succeeded. Run outside, or in a container
//! without a policy, it is the control that shows that the attempts are real.

mod child;
mod filter;
mod host;
mod reach;
mod seccomp;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["identity"] => identity(),
        ["writable"] => writable(),
        ["reach", facts @ ..] => reach::attempt(&facts_of(facts)),
        ["seccomp", scratch] => calls(Path::new(scratch)),
        ["poll", file, stop, secret] => poll(Path::new(file), Path::new(stop), secret),
        ["host", directory] => host::serve(Path::new(directory)),
        ["under", rule, errno, command @ ..] => filter::under(rule, errno, command),
        _ => {
            eprintln!(
                "usage: probe identity | writable | reach KEY=VALUE… | seccomp DIR | poll FILE STOP SECRET | host DIR | \
                 under userns|others|network|mount|nothing|CALL ERRNO COMMAND…"
            );
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("probe: {error}");
            ExitCode::FAILURE
        }
    }
}

fn facts_of(words: &[&str]) -> BTreeMap<String, String> {
    words
        .iter()
        .filter_map(|word| word.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// Prints one answer.
fn tell(name: &str, answer: &str) {
    println!("{}", serde_json::json!({"name": name, "answer": answer}));
}

/// `ok`, or the error's name.
fn answer<T>(result: io::Result<T>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => match error.raw_os_error() {
            Some(number) => nix::errno::Errno::from_raw(number).to_string(),
            None => error.to_string(),
        },
    }
}

/// Ids, capability sets, no_new_privs and seccomp mode as the kernel tells them,
/// and the open descriptors.
fn identity() -> io::Result<()> {
    let status = fs::read_to_string("/proc/self/status")?;
    for (name, value) in status.lines().filter_map(|line| line.split_once(':')) {
        tell(name, &value.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    let mut open: Vec<i32> = fs::read_dir("/proc/self/fd")?
        .flatten()
        .filter(|entry| {
            // The descriptor that this listing itself is read through.
            fs::read_link(entry.path()).is_ok_and(|target| !target.ends_with("fd"))
        })
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .collect();
    open.sort_unstable();
    tell("descriptors", &format!("{open:?}"));
    Ok(())
}

/// Tries to write to every mount, and beside them to every directory that a
/// root has.
fn writable() -> io::Result<()> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let mut targets: Vec<String> =
        table.lines().filter_map(|line| line.split(' ').nth(4)).map(|target| target.replace("\\040", " ")).collect();
    for entry in fs::read_dir("/")?.flatten() {
        targets.push(entry.path().to_string_lossy().into_owned());
    }
    targets.extend(["/", "/usr/bin", "/etc/passwd", "/etc/ld.so.preload", "/workspace/extra"].map(str::to_owned));
    targets.sort();
    targets.dedup();
    for target in targets {
        let path = Path::new(&target);
        let attempt = if path.is_dir() {
            let file = path.join(format!("probe-{}", std::process::id()));
            fs::write(&file, "x").and_then(|()| fs::remove_file(&file))
        } else {
            fs::File::options().append(true).open(path).map(drop)
        };
        tell(&target, &answer(attempt));
    }
    Ok(())
}

/// Makes the calls that the filter refuses; the answer tells whether the
/// profile's promise holds, and what was promised.
fn calls(scratch: &Path) -> io::Result<()> {
    for probe in seccomp::run(scratch)? {
        let verdict = if probe.holds() { "holds" } else { "broken" };
        tell(&probe.name, &format!("{verdict}: {} for {:?}", probe.answer, probe.expected));
    }
    Ok(())
}

/// Reads a file as fast as it can, in every way that a name can be resolved,
/// until another file appears; tells how often it read, and how often it saw
/// the secret.
fn poll(file: &Path, stop: &Path, secret: &str) -> io::Result<()> {
    let (mut reads, mut leaks) = (0u64, 0u64);
    let parent = file.parent().unwrap_or(Path::new("/"));
    println!("polling");
    let mut stopping = false;
    while !stopping {
        // Once more when it is told to stop, so that it has always read.
        stopping = stop.exists();
        for _ in 0..50 {
            reads += 1;
            leaks += u64::from(holds(file, secret));
        }
        for entry in fs::read_dir(parent)?.flatten() {
            if entry.path().file_name() == file.file_name() {
                leaks += u64::from(holds(&entry.path(), secret));
            }
        }
        let dotted = parent.join("./src/..").join(file.file_name().unwrap_or_default());
        leaks += u64::from(holds(&dotted, secret));
    }
    println!("{}", serde_json::json!({"reads": reads, "leaks": leaks}));
    Ok(())
}

fn holds(file: &Path, secret: &str) -> bool {
    fs::read(file).is_ok_and(|bytes| bytes.windows(secret.len()).any(|window| window == secret.as_bytes()))
}
