//! Finds the program, also when only the caller's home has it (an npm or cargo
//! install): then its package's own directory, or the file alone, is mounted at
//! the same path. Never a home, nor a shared prefix such as ~/.local.

use std::env;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::HOME;
use crate::error::{Error, Result};

/// Directories of the host's own programs, in the order of the agent's PATH.
pub const SYSTEM_PATH: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// What the generated root shows of the host.
const VISIBLE: [&str; 9] =
    ["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/alternatives", "/workspace"];
/// How a program is found that the host does not have.
pub const NOT_FOUND: &str = "not found on the host; looked up inside";
/// Interpreters of interpreters, at most.
const DEPTH: usize = 4;
/// Longest `#!` line (execve(2): 255 bytes).
const SHEBANG: u64 = 256;

/// What the program needs beyond the root.
#[derive(Debug, Default)]
pub struct Program {
    /// How it was found.
    pub reason: String,
    /// What to execute instead of the name that was typed.
    pub path: Option<String>,
    /// Packages to mount at the same path, with the reason.
    pub packages: Vec<(PathBuf, String)>,
    /// Links to make: path and target.
    pub links: Vec<(String, String)>,
    /// Directories to put on the agent's PATH.
    pub directories: Vec<String>,
}

impl Program {
    /// Finds `name` as the caller's shell would, but prefers the host's own.
    pub fn find(name: &str, home: &Path) -> Result<Self> {
        let mut program = Self::default();
        program.reason = if name.starts_with('/') {
            let file = Path::new(name);
            let reason = program.add_file(file, name, home, DEPTH)?;
            if is_covered(file) && !program.packages.is_empty() {
                program.path = fs::canonicalize(file).ok().map(|real| real.to_string_lossy().into_owned());
            }
            reason
        } else if name.contains('/') {
            "a path relative to the working directory inside".to_owned()
        } else {
            match search(name) {
                Some(found) => {
                    let reason = program.add_file(&found, name, home, DEPTH)?;
                    if !is_visible(&found) {
                        let real = fs::canonicalize(&found).unwrap_or_else(|_| found.clone());
                        let path = if is_covered(&found) { real } else { found };
                        program.path = Some(path.to_string_lossy().into_owned());
                    }
                    reason
                }
                None => NOT_FOUND.to_owned(),
            }
        };
        if program.path.is_some() && !name.contains('/') {
            program.path = program.toolchain_path(name).or(program.path);
        }
        Ok(program)
    }

    fn toolchain_path(&self, name: &str) -> Option<String> {
        self.directories.iter().map(|directory| format!("{directory}/{name}")).find(|path| Path::new(path).exists())
    }

    /// Adds what `file`, found under `name`, needs; says how it was found.
    fn add_file(&mut self, file: &Path, name: &str, home: &Path, depth: usize) -> Result<String> {
        let shown = file.display();
        // What the caller could not execute either is no program: naming a file
        // must not be a way to have it mounted.
        let executable = file.is_file() && access(file, AccessFlags::X_OK).is_ok() && !file.starts_with("/etc");
        let (true, Ok(real)) = (executable, fs::canonicalize(file)) else {
            return Ok(format!("{shown} is looked up inside"));
        };
        if is_visible(file) && is_visible(&real) {
            if depth > 0 {
                self.add_interpreter(&real, home, depth)?;
            }
            return Ok(format!("the host's {shown}"));
        }
        if let Some(toolchain) = rustup_toolchain(&real, name, home) {
            let reason = format!("toolchain behind rustup's {shown}");
            self.add_package(&toolchain, &reason, home)?;
            self.directories.push(toolchain.join("bin").to_string_lossy().into_owned());
            return Ok(reason);
        }
        let package = package_of(&real);
        let reason = format!("package of {shown}, which is found only outside /usr");
        self.add_package(&package, &reason, home)?;
        // A link in the generated root would lie under a private tmpfs there.
        let shown_as = if is_covered(file) { &real } else { file };
        if shown_as != real && !file.starts_with(&package) && !is_visible(file) {
            self.links.push((file.to_string_lossy().into_owned(), real.to_string_lossy().into_owned()));
        }
        if let Some(directory) = shown_as.parent().filter(|_| !is_visible(file)) {
            self.directories.push(directory.to_string_lossy().into_owned());
        }
        if depth > 0 {
            self.add_interpreter(&real, home, depth)?;
        }
        Ok(format!("{shown}, outside /usr: its package comes along"))
    }

    fn add_interpreter(&mut self, script: &Path, home: &Path, depth: usize) -> Result<()> {
        let Some(interpreter) = interpreter_of(script) else {
            return Ok(());
        };
        let found = if interpreter.starts_with('/') { Some(PathBuf::from(&interpreter)) } else { search(&interpreter) };
        if let Some(found) = found {
            let name = found.file_name().unwrap_or_default().to_string_lossy().into_owned();
            self.add_file(&found, &name, home, depth - 1)?;
        }
        Ok(())
    }

    fn add_package(&mut self, package: &Path, reason: &str, home: &Path) -> Result<()> {
        if is_shared(package, home) {
            return Err(Error::refused(format!("mount {}: {reason}", package.display()))
                .because("it is a home or a directory that many programs share, which is never mounted as a whole")
                .hint("install the program below /usr/local or /opt, or in a directory of its own"));
        }
        if !self.packages.iter().any(|(have, _)| package.starts_with(have)) {
            self.packages.push((package.to_owned(), reason.to_owned()));
        }
        Ok(())
    }
}

fn is_visible(path: &Path) -> bool {
    VISIBLE.iter().any(|prefix| path.starts_with(prefix))
}

/// Whether the path lies where every run has something private.
fn is_covered(path: &Path) -> bool {
    ["/tmp", "/run", "/dev", HOME].iter().any(|private| path.starts_with(private))
}

fn is_shared(path: &Path, home: &Path) -> bool {
    const SHARED: [&str; 16] = [
        ".local",
        ".local/bin",
        ".local/lib",
        ".local/share",
        ".local/lib/node_modules",
        ".cargo",
        ".cargo/bin",
        ".rustup",
        ".rustup/toolchains",
        ".npm-global",
        ".npm-packages",
        ".bun",
        ".deno",
        ".nvm",
        "bin",
        "go",
    ];
    let real_home = fs::canonicalize(home).unwrap_or_else(|_| home.to_owned());
    [home, &real_home]
        .iter()
        .any(|home| home.starts_with(path) || SHARED.iter().any(|shared| home.join(shared) == path))
        || ["/", "/home", "/root", "/opt", "/srv", "/var", "/etc", "/tmp", "/mnt", "/media"]
            .iter()
            .any(|shared| Path::new(shared) == path)
}

/// First executable file of that name: the host's own directories, then PATH.
fn search(name: &str) -> Option<PathBuf> {
    let typed = env::var_os("PATH").unwrap_or_default();
    let directories =
        SYSTEM_PATH.iter().map(PathBuf::from).chain(env::split_paths(&typed).filter(|path| path.is_absolute()));
    directories
        .map(|directory| directory.join(name))
        .find(|file| file.is_file() && access(file, AccessFlags::X_OK).is_ok())
}

/// The interpreter that a `#!` line names; for `env NAME`, the name.
fn interpreter_of(script: &Path) -> Option<String> {
    let mut line = Vec::new();
    BufReader::new(File::open(script).ok()?.take(SHEBANG)).read_until(b'\n', &mut line).ok()?;
    let line = String::from_utf8(line.strip_prefix(b"#!")?.to_vec()).ok()?;
    let mut words = line.split_whitespace();
    let interpreter = words.next()?;
    if interpreter.ends_with("/env") {
        return words.find(|word| !word.starts_with('-') && !word.contains('=')).map(str::to_owned);
    }
    Some(interpreter.to_owned())
}

/// The directory that belongs to the program alone, or the file itself.
fn package_of(real: &Path) -> PathBuf {
    // npm: …/node_modules/NAME or …/node_modules/@SCOPE/NAME, the outermost one.
    let mut package = PathBuf::new();
    let mut components = real.components();
    while let Some(component) = components.next() {
        package.push(component);
        if component.as_os_str() == "node_modules" {
            for name in components.by_ref() {
                package.push(name);
                if !name.as_os_str().to_string_lossy().starts_with('@') {
                    return if package == real { real.to_owned() } else { package };
                }
            }
        }
    }
    for ancestor in real.ancestors().skip(1).filter(|ancestor| *ancestor != Path::new("/")) {
        let is_venv = ancestor.join("pyvenv.cfg").is_file();
        let is_toolchain = ancestor.join("lib/rustlib").is_dir() && ancestor.join("bin").is_dir();
        let is_python = real.parent() == Some(&ancestor.join("bin")) && has_python_library(ancestor);
        if is_venv || is_toolchain || is_python {
            return ancestor.to_owned();
        }
    }
    match real.strip_prefix("/opt").ok().map(|rest| rest.components().collect::<Vec<_>>()) {
        Some(rest) if rest.len() > 1 => Path::new("/opt").join(rest[0]),
        _ => real.to_owned(),
    }
}

fn has_python_library(prefix: &Path) -> bool {
    let Ok(entries) = fs::read_dir(prefix.join("lib")) else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("python3") && entry.path().join("os.py").is_file())
}

/// The toolchain directory behind a rustup proxy such as ~/.cargo/bin/cargo.
fn rustup_toolchain(real: &Path, name: &str, home: &Path) -> Option<PathBuf> {
    let name = Path::new(name).file_name()?.to_str()?;
    if real.file_name()? != "rustup" || name == "rustup" {
        return None;
    }
    let rustup = env::var_os("RUSTUP_HOME").map_or_else(|| home.join(".rustup"), PathBuf::from);
    let default = || {
        let settings: toml::Table = toml::from_str(&fs::read_to_string(rustup.join("settings.toml")).ok()?).ok()?;
        settings.get("default_toolchain")?.as_str().map(str::to_owned)
    };
    let toolchain = env::var("RUSTUP_TOOLCHAIN").ok().filter(|name| !name.is_empty()).or_else(default)?;
    let directory = fs::canonicalize(rustup.join("toolchains").join(toolchain)).ok()?;
    directory.join("bin").join(name).is_file().then_some(directory)
}
