//! The text of a unit file (systemd.syntax(7)).

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

/// What the first line of a file of ours begins with.
const MARK: &str = "# Written by belljar systemd. sha256 of the other lines: ";

/// A unit file that is being written.
#[derive(Debug, Default)]
pub struct Text {
    lines: String,
}

impl Text {
    /// Begins a section.
    pub fn section(&mut self, name: &str) -> &mut Self {
        if !self.lines.is_empty() {
            self.lines.push('\n');
        }
        let _ = writeln!(self.lines, "[{name}]");
        self
    }

    /// Says why the next directives are there.
    pub fn why(&mut self, reason: &str) -> &mut Self {
        let _ = writeln!(self.lines, "# {reason}");
        self
    }

    /// A directive, with a value that is written as it is.
    pub fn set(&mut self, key: &str, value: &str) -> &mut Self {
        let _ = writeln!(self.lines, "{key}={value}");
        self
    }

    /// A directive for each value.
    pub fn set_all(&mut self, key: &str, values: &[String]) -> &mut Self {
        for value in values {
            self.set(key, value);
        }
        self
    }

    /// The whole file, with the line by which it is known again.
    pub fn finish(&self, name: &str, command: &str) -> String {
        let body = format!(
            "# Changes here are lost when it is written again: `{command} edit {name}` makes a\n\
             # drop-in, which stays.\n\n{}",
            self.lines
        );
        format!("{MARK}{}\n{body}", digest(&body))
    }
}

/// Who wrote a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// belljar, and nobody has changed it since.
    Belljar,
    /// belljar, and somebody has changed it.
    Edited,
    /// Somebody else.
    Foreign,
}

/// Who wrote this text.
pub fn writer(text: &str) -> Writer {
    let Some((first, rest)) = text.split_once('\n') else {
        return Writer::Foreign;
    };
    match first.strip_prefix(MARK) {
        None => Writer::Foreign,
        Some(noted) if noted == digest(rest) => Writer::Belljar,
        Some(_) => Writer::Edited,
    }
}

fn digest(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A value in which `%` is no specifier (systemd.unit(5), "Specifiers").
pub fn plain(value: &str) -> String {
    value.replace('%', "%%")
}

/// One word of a list, a command line or an assignment: in quotes where it needs
/// them, with C's escapes (systemd.syntax(7), "Quoting").
pub fn quoted(word: &str) -> String {
    let simple = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+~".contains(c);
    let word = plain(word);
    if !word.is_empty() && word.chars().all(|c| simple(c) || c == '%') {
        return word;
    }
    let mut text = String::from("\"");
    for c in word.chars() {
        match c {
            '"' | '\\' => text.extend(['\\', c]),
            '\n' => text.push_str("\\n"),
            '\t' => text.push_str("\\t"),
            c if c.is_control() => {
                for byte in c.to_string().bytes() {
                    let _ = write!(text, "\\x{byte:02x}");
                }
            }
            c => text.push(c),
        }
    }
    text.push('"');
    text
}

/// A command line. The colon keeps systemd from replacing variables in it
/// (systemd.service(5), "Command lines").
pub fn command_line(program: &str, arguments: &[String]) -> String {
    let words: Vec<String> = arguments.iter().map(|argument| quoted(argument)).collect();
    format!(":{} {}", quoted(program), words.join(" ")).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_where_they_must_be() {
        for (word, text) in [
            ("a", "a"),
            ("/usr/bin/x", "/usr/bin/x"),
            ("50%", "50%%"),
            ("", "\"\""),
            ("a b", "\"a b\""),
            ("say \"hi\"", r#""say \"hi\"""#),
            (r"back\slash", r#""back\\slash""#),
            ("two\nlines", r#""two\nlines""#),
            (";", "\";\""),
            ("#no", "\"#no\""),
            ("$HOME", "\"$HOME\""),
            ("é", "\"é\""),
            ("\u{1b}[0m", r#""\x1b[0m""#),
        ] {
            assert_eq!(quoted(word), text);
        }
        assert_eq!(command_line("/a b/x", &["run".into(), "%i".into()]), ":\"/a b/x\" run %%i");
    }

    #[test]
    fn a_changed_file_is_known() {
        let mut text = Text::default();
        text.section("Unit").set("Description", "x");
        let file = text.finish("x.service", "systemctl --user");
        assert_eq!(writer(&file), Writer::Belljar);
        assert_eq!(writer(&file.replace("=x", "=y")), Writer::Edited);
        assert_eq!(writer("[Unit]\nDescription=x\n"), Writer::Foreign);
        assert_eq!(writer(""), Writer::Foreign);
    }
}
