//! Days in minutes: the real programs under mixed load, while processes are killed, a path goes dark and services change.
//!
//! `cargo run --release -p benches --bin soak [-- --duration 2h --seed 7]`
//!
//! It samples memory, descriptors and threads of the relay and of both clients, says at the end whether they stayed flat
//! and whether anything was lost that nobody had disturbed, and draws the curves. Exit status 0 is a good verdict.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench prints its figures, and starts the programs that it is about"
)]

mod chart;
mod load;
mod plan;
mod programs;
mod proxy;
mod run;
mod sample;
mod tally;
mod verdict;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::Parser;

#[derive(Debug, Parser)]
#[command(
    about = "Relay and clients under load for minutes or days, while things go wrong beside them"
)]
struct Arguments {
    /// How long, such as 20s, 10m or 3h. Memory is judged from 5 minutes on.
    #[arg(long, default_value = "10m", value_parser = duration)]
    duration: Duration,
    /// What goes wrong and when: the same number, the same schedule.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where relay-server and relay-client are. By default they are built first, or stand beside this program.
    #[arg(long)]
    bin_dir: Option<PathBuf>,
    /// Where the samples (soak.csv), the picture (soak.svg) and the programs' logs go.
    #[arg(long, default_value = "target/soak")]
    out: PathBuf,
    /// A factor to the players' rates; at 1 the three processes need about a tenth of a core.
    #[arg(long, default_value_t = 1.0)]
    load: f64,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    adit_daemon::runtime::raise_descriptor_limit();
    std::fs::create_dir_all(&arguments.out)
        .with_context(|| format!("cannot create {}", arguments.out.display()))?;
    let programs = programs::find(arguments.bin_dir)?;
    let record = run::run(
        &programs,
        &arguments.out,
        arguments.duration,
        arguments.seed,
        arguments.load,
    )?;
    sample::write_csv(&arguments.out.join("soak.csv"), &record.lives)?;
    let picture = arguments.out.join("soak.svg");
    std::fs::write(&picture, chart::draw(&record))?;
    let verdict = verdict::judge(&record);
    print!("{verdict}");
    println!("the curves: {}", picture.display());
    Ok(if verdict.is_good() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// `90s`, `10m`, `3h` or plain seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.char_indices().last() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3600),
        _ => (text, 1),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "expected such as 20s, 10m or 3h")?;
    match number.checked_mul(unit) {
        Some(seconds @ 5..) => Ok(Duration::from_secs(seconds)),
        _ => Err("at least 5 s".to_owned()),
    }
}
