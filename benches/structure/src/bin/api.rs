//! Compares what `tunnel-core` offers to whoever embeds it with the list that is committed: `cargo run -p adit-structure --bin api`.
//!
//! Prints what is gone and what is new. With `--write` it writes the list anew. Ends with status 1 where the two differ.

use std::{
    collections::BTreeSet,
    env, fs,
    io::{Write, stdout},
    path::Path,
    process::ExitCode,
};

use anyhow::Context;

fn main() -> anyhow::Result<ExitCode> {
    let offered = adit_structure::listing(Path::new("."), Path::new("tunnel-core/src/lib.rs"))?;
    if env::args().any(|argument| argument == "--write") {
        let text: String = offered.iter().map(|line| format!("{line}\n")).collect();
        fs::write(LIST, text).with_context(|| format!("cannot write {LIST}"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let text = fs::read_to_string(LIST).with_context(|| format!("cannot read {LIST}"))?;
    let mut out = stdout().lock();
    let (listed, offered): (BTreeSet<&str>, BTreeSet<&str>) = (
        text.lines().collect(),
        offered.iter().map(String::as_str).collect(),
    );
    for line in listed.difference(&offered) {
        writeln!(out, "- {line}")?;
    }
    for line in offered.difference(&listed) {
        writeln!(out, "+ {line}")?;
    }
    if listed == offered {
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(
        out,
        "the public API of tunnel-core is another one than {LIST} says. If that is meant: cargo run -p adit-structure --bin api -- \
         --write; what is gone or changed breaks those who embed it, and belongs into CHANGELOG.md"
    )?;
    Ok(ExitCode::FAILURE)
}

const LIST: &str = "tunnel-core/api.txt";
