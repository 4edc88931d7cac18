//! Everything that a program writes to stdout and stderr itself; logs go through [`crate::log`].

use std::{
    fmt,
    io::{self, Write},
    thread,
};

use crate::{log, terminal::wait_for_turn};

/// Writes a line to stdout. A reader that is gone is an error, never a panic.
pub fn line(text: impl fmt::Display) -> io::Result<()> {
    bytes(format!("{text}\n").as_bytes())
}

/// Writes text to stdout as it is.
pub fn bytes(text: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text)?;
    out.flush()
}

/// Writes a line to stdout for whoever waits for it, beside the caller, who has players to serve: a reader who hangs
/// holds nothing up.
pub fn announce(text: &'static str) {
    let write = move || {
        wait_for_turn(io::stdout());
        if let Err(error) = line(text) {
            tracing::warn!(%error, "nobody reads stdout");
        }
    };
    let thread = thread::Builder::new().name("stdout".into());
    if let Err(error) = thread.spawn(write) {
        tracing::warn!(%error, "stdout cannot be written");
    }
}

/// Writes a line to stderr: remarks for the person at the terminal.
pub fn note(text: impl fmt::Display) {
    log::line(&text.to_string());
}

/// Columns padded to their widest cell, two spaces apart, one row a line.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns)
        .map(|i| rows.iter().filter_map(move |row| row.get(i)))
        .map(|cells| cells.map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: [&str; 2]| cells.map(String::from).to_vec();
        assert_eq!(
            table(&[row(["NAME", "KEY"]), row(["node-1", "-"])]),
            "NAME    KEY\nnode-1  -\n"
        );
    }
}
