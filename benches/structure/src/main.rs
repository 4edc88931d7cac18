//! Checks the structure of every crate of the workspace: `cargo run -p adit-structure -- DIRECTORY`.
//!
//! Prints each circle of imports as `file -> file`, and each import that points up from a room to one that builds on it. With
//! `--draw` it prints the whole graph instead. Ends with status 1 where it has found something.

use std::{
    env,
    io::{Write, stdout},
    path::Path,
    process::ExitCode,
};

use adit_structure::{CRATES, Graph, ROOMS};

fn main() -> anyhow::Result<ExitCode> {
    let mut draw = false;
    let mut root = ".".to_owned();
    for argument in env::args().skip(1) {
        match argument.as_str() {
            "--draw" => draw = true,
            _ => root = argument,
        }
    }
    let mut out = stdout().lock();
    let mut faults = 0;
    for (crate_root, rooms) in CRATES {
        let graph = Graph::of_crate(Path::new(&root), Path::new(crate_root))?;
        if draw {
            for (from, to) in graph.imports() {
                writeln!(out, "{from} -> {to}")?;
            }
            continue;
        }
        for circle in graph.circles() {
            faults += 1;
            writeln!(out, "a circle of imports:")?;
            for (from, to) in circle {
                writeln!(out, "  {from} -> {to}")?;
            }
        }
        for (from, to) in graph.upward(if *rooms { ROOMS } else { &[] }) {
            faults += 1;
            writeln!(out, "an import that points up: {from} -> {to}")?;
        }
    }
    if !draw {
        writeln!(out, "structure: {faults} faults")?;
    }
    Ok(ExitCode::from(u8::from(faults > 0)))
}
