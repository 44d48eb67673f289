//! Rows on a screen that hold an agent's text.
//!
//! A terminal goes on in the next row when a line is too long, and blanks can be
//! chosen so that what follows looks like a line of belljar's own. So each row
//! that is printed to a terminal begins with a mark of belljar's.

use std::io::IsTerminal as _;

use rustix::termios::tcgetwinsize;

use super::print;
use crate::error::Result;

/// Less is not believed.
const NARROWEST: usize = 20;

/// Prints lines; on a terminal, none longer than a row.
pub(super) fn print_rows(text: &str) -> Result<()> {
    let stdout = std::io::stdout();
    if !stdout.is_terminal() {
        return print(text);
    }
    let columns = tcgetwinsize(&stdout).map_or(80, |size| usize::from(size.ws_col));
    let columns = if columns == 0 { 80 } else { columns.max(NARROWEST) };
    print(&text.lines().map(|line| fold(line, columns) + "\n").collect::<String>())
}

/// A line in rows of so many columns.
fn fold(line: &str, columns: usize) -> String {
    let mark = if line.starts_with("| ") { "|> " } else { "     > " };
    let mut rows = String::with_capacity(line.len());
    let mut used = 0;
    for c in line.chars() {
        // Two is the most that a character takes.
        let width = if c.is_ascii() { 1 } else { 2 };
        if used + width > columns {
            rows.push('\n');
            rows.push_str(mark);
            used = mark.len();
        }
        rows.push(c);
        used += width;
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_begins_with_a_mark_of_belljars() {
        assert_eq!(fold("short", 20), "short");
        assert_eq!(fold(&"x".repeat(20), 20), "x".repeat(20));
        let body = format!("| {}id       abcdef", " ".repeat(18));
        let rows = fold(&body, 20);
        assert_eq!(rows.lines().nth(1), Some("|> id       abcdef"));
        let wide = fold(&format!("url      {}", "漢".repeat(30)), 20);
        assert!(wide.lines().skip(1).all(|row| row.starts_with("     > ") && row.chars().count() <= 14), "{wide}");
    }
}
