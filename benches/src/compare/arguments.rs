//! What a run is asked for.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;

use super::{data::Family, lines::Way};
use crate::load::CongestionControl;

/// What to compare.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Less of everything, once: whether it works, not how fast. Without peers, unless --columns names them.
    #[arg(long)]
    pub quick: bool,
    /// Rounds; tables show their medians.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Seconds of each measurement: 2 without this, 10 on lines; games take longer.
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Only scenarios whose name contains one of these; those that fill in take --all or their whole name, those on lines
    /// are named at least by `lines`.
    #[arg(long, value_delimiter = ',', value_name = "PART,…")]
    pub only: Vec<String>,
    /// Transfers of each kind on each line, instead of 10.
    #[arg(long, value_name = "COUNT")]
    pub transfers: Option<usize>,
    /// Where the chance of emulated paths begins: with it for the first round or transfer, with the next number for the
    /// next. Thus --seed N --transfers 1 repeats the transfer that had seed N.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// On lines, only what goes this way: up is from the game server's home.
    #[arg(long)]
    pub direction: Option<Way>,
    /// On lines, only with this as the kernel's default.
    #[arg(long, value_name = "NAME")]
    pub congestion_control: Option<CongestionControl>,
    /// On lines, all transfers of a column go through one tunnel, as through one that runs for long; without this each has
    /// a tunnel of its own, so that it can be repeated.
    #[arg(long)]
    pub keep: bool,
    /// Goes on with the report that is in --out: what it has measured is not measured again.
    #[arg(long)]
    pub resume: bool,
    /// Only these columns.
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    pub columns: Vec<String>,
    /// Scenarios that fill in between the others, too.
    #[arg(long)]
    pub all: bool,
    /// Without the scenarios on emulated paths, which take root.
    #[arg(long)]
    pub loopback: bool,
    /// Where report.json and report.html go.
    #[arg(long, default_value = "target/compare", value_name = "DIR")]
    pub out: PathBuf,
    /// Prints the tables in Markdown.
    #[arg(long)]
    pub markdown: bool,
    /// Names scenarios and columns, and measures nothing.
    #[arg(long)]
    pub list: bool,
}

/// What to make of an earlier run.
#[derive(Debug, Clone, Args)]
pub struct Redraw {
    /// The report.json of that run.
    pub report: PathBuf,
    /// Where the page goes.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Prints the tables in Markdown.
    #[arg(long)]
    pub markdown: bool,
}

/// How a section is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pace {
    pub(super) rounds: usize,
    /// Of each measurement.
    pub(super) seconds: f64,
    /// The first round's.
    pub(super) seed: u64,
    /// Whether the processes of one round go on in the next.
    pub(super) keep: bool,
}

impl Arguments {
    pub(super) fn check(&self) -> Result<()> {
        ensure!(self.rounds > 0, "--rounds: at least one");
        ensure!(self.transfers != Some(0), "--transfers: at least one");
        if let Some(seconds) = self.seconds {
            ensure!(
                (0.05..=3600.0).contains(&seconds),
                "--seconds: 0.05 to 3600"
            );
        }
        Ok(())
    }

    /// That of everything but lines.
    pub(super) fn pace(&self) -> Pace {
        Pace {
            rounds: self.rounds,
            seconds: self.seconds.unwrap_or(SECONDS),
            seed: self.seed,
            keep: false,
        }
    }

    /// That of lines.
    pub(super) fn pace_on_lines(&self, family: Family) -> Pace {
        Pace {
            rounds: self.transfers.unwrap_or(rounds_on_lines(family)),
            seconds: self.seconds_on_lines(),
            seed: self.seed,
            keep: self.keep,
        }
    }

    pub(super) fn seconds_on_lines(&self) -> f64 {
        self.seconds.unwrap_or(SECONDS_ON_LINES)
    }

    pub(super) fn controls(&self, family: Family) -> impl Iterator<Item = CongestionControl> {
        // Both, where the kernel's default is what it is about.
        let count = match family {
            Family::Bulk | Family::Game => 2,
            Family::Share | Family::Loss => 1,
        };
        let all = [CongestionControl::Bbr, CongestionControl::Cubic];
        let wanted = self.congestion_control;
        all.into_iter()
            .filter(move |one| wanted.is_none_or(|wanted| wanted == *one))
            .take(count)
    }

    pub(super) fn ways(&self) -> impl Iterator<Item = Way> {
        let wanted = self.direction;
        Way::BOTH
            .into_iter()
            .filter(move |one| wanted.is_none_or(|wanted| wanted == *one))
    }
}

/// How often each scenario of lines is measured: the slowest of ten tells of what happens to one in ten.
const fn rounds_on_lines(family: Family) -> usize {
    match family {
        Family::Bulk => 10,
        Family::Game | Family::Share | Family::Loss => 3,
    }
}

/// Of an ordinary measurement.
const SECONDS: f64 = 2.0;
/// Of a transfer.
const SECONDS_ON_LINES: f64 = 10.0;

const EXAMPLES: &str = "\
Examples:
  benches compare                                       everything that is here, two hours
  benches compare --loopback                            without the emulated paths
  benches compare --rounds 3 --only bulk,trips          three rounds of what is about TCP
  benches compare --columns direct,adit-auto,rathole    three columns
  benches compare --loopback                            nothing that takes root
  benches compare --only path-home,path-dark            some of what runs on emulated paths
  benches compare --quick                               whether it works, in seconds
  benches compare --only lines                          bulk on every line, ten times each: some five hours
  benches compare --only lines-dsl                      on one line
  benches compare --only lines-dsl-up-bbr --columns direct,adit-auto,adit-latency
  benches compare --only lines --direction up --congestion-control bbr --transfers 3 --seconds 5
  benches compare --only lines --resume                 what is not measured yet
  benches compare --only lines-dsl-up-bbr --seed 7 --transfers 1      the transfer with seed 7 again

Peers (rathole, frps and frpc, chisel, bore, boringtun-cli) are found on PATH, or where ADIT_BENCH_RATHOLE,
ADIT_BENCH_FRPS, ADIT_BENCH_FRPC, ADIT_BENCH_CHISEL, ADIT_BENCH_BORE and ADIT_BENCH_BORINGTUN say. boringtun-cli is
userspace WireGuard; its column takes root, wg (Debian's wireguard-tools) and nft (nftables) besides.";

#[cfg(test)]
impl Arguments {
    /// As of a command line with these flags.
    pub(super) fn of(flags: &[&str]) -> Self {
        use clap::Parser;

        #[derive(Debug, Parser)]
        struct Cli {
            #[command(flatten)]
            arguments: Arguments,
        }
        Cli::parse_from(["compare"].iter().chain(flags)).arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_ten_transfers_of_ten_seconds_unless_told_otherwise() {
        let pace = Arguments::of(&[]).pace_on_lines(Family::Bulk);
        assert_eq!((pace.rounds, pace.seconds, pace.seed), (10, 10.0, 1));
        let told = [
            "--transfers",
            "2",
            "--seconds",
            "3",
            "--seed",
            "7",
            "--keep",
        ];
        let pace = Arguments::of(&told).pace_on_lines(Family::Game);
        assert_eq!((pace.rounds, pace.seconds, pace.seed), (2, 3.0, 7));
        assert!(pace.keep);
    }
}
