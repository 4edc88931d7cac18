//! Adit beside the direct path and beside other tunnels, on loopback, in one run.
//!
//! `cargo bench -p benches [-- --rounds 5 --only tcp,udp --columns direct,adit-throughput]`
//!
//! Every round starts all of them as processes of their own and measures one thing after another, each on all of them
//! in turn, so that a busy moment of the machine falls on all alike. The table shows medians of the rounds.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a bench prints its figures"
)]

mod column;
mod load;
mod measure;
mod report;
mod roles;

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Parser;

use self::{column::Kind, measure::Measurement, report::Report, roles::Role};

#[derive(Debug, Parser)]
#[command(about = "Adit beside the direct path and other tunnels, on loopback")]
struct Arguments {
    /// Rounds; the table shows their medians.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Milliseconds of each measurement.
    #[arg(long, default_value_t = 1000)]
    millis: u64,
    /// Connections of the memory measurement.
    #[arg(long, default_value_t = 2000)]
    idle: usize,
    /// Only measurements whose name contains one of these.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only columns whose name contains one of these.
    #[arg(long, value_delimiter = ',')]
    columns: Vec<String>,
    /// A smoke test of a few seconds: that everything works, not how fast.
    #[arg(long)]
    test: bool,
    /// Cargo adds this.
    #[arg(long, hide = true)]
    bench: bool,
    /// What this process is, when the bench has started itself.
    #[arg(long, hide = true)]
    role: Option<Role>,
    /// What the role needs to know.
    #[arg(long, hide = true, value_delimiter = ',')]
    with: Vec<String>,
}

fn main() -> Result<()> {
    let mut arguments = Arguments::parse();
    // 2,000 idle connections are 4,000 descriptors of a relay or a client.
    adit_daemon::runtime::raise_descriptor_limit();
    if let Some(role) = arguments.role {
        return role.run(&arguments.with);
    }
    if arguments.test {
        (arguments.rounds, arguments.millis, arguments.idle) = (1, 100, 20);
    }
    ensure!(arguments.rounds > 0, "at least one round");
    let chosen = |wanted: &[String], name: &str| {
        wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()))
    };
    let mut kinds = Kind::found(arguments.test);
    kinds.retain(|kind| chosen(&arguments.columns, kind.name()));
    let measurements: Vec<_> = Measurement::ALL
        .into_iter()
        .filter(|measurement| chosen(&arguments.only, measurement.name()))
        .collect();
    let mut report = Report::new(&kinds);
    for round in 0..arguments.rounds {
        let target = roles::Target::start()?;
        let columns = kinds
            .iter()
            .map(|kind| kind.start(target.address))
            .collect::<Result<Vec<_>>>()?;
        for &measurement in &measurements {
            // Whoever comes first finds another machine than whoever comes last: each is first in its turn.
            for place in 0..columns.len() {
                let place = (place + round) % columns.len();
                let length = Duration::from_millis(arguments.millis);
                let figures = measurement.run(&columns[place], length, arguments.idle);
                match figures {
                    Ok(figures) => report.add(place, figures),
                    Err(error) if columns[place].is_peer() && !arguments.test => {
                        eprintln!("{} {}: {error:#}", kinds[place].name(), measurement.name());
                    }
                    Err(error) => {
                        return Err(error.context(format!(
                            "{} {}",
                            kinds[place].name(),
                            measurement.name()
                        )));
                    }
                }
            }
        }
        eprintln!("round {} of {}", round + 1, arguments.rounds);
    }
    if arguments.test {
        println!(
            "{} measurements work on {} columns",
            measurements.len(),
            kinds.len()
        );
        return Ok(());
    }
    report.print();
    println!("\n{}", report.write()?.display());
    Ok(())
}
