//! A bad path by hand: `cargo run --release -p benches --bin link -- --delay 20ms --loss 1`, as root.
#![expect(clippy::print_stdout, reason = "this is a program for people")]
#![forbid(unsafe_code)]

use std::{io, time::Duration};

use anyhow::Result;
use benches::{
    link::{Bottleneck, Direction, Jitter, Lab, LinkConfig, Loss, Reorder, Shape},
    place::{Place, Side},
};
use clap::Parser;

/// Joins two network namespaces by a link that is as bad as you say, the same both ways, until its input ends.
#[derive(Debug, Parser)]
struct Cli {
    /// One way.
    #[arg(long, default_value = "20ms", value_parser = humantime::parse_duration)]
    delay: Duration,
    /// Up to this much more, drifting, so that nothing is reordered.
    #[arg(long, value_parser = humantime::parse_duration)]
    jitter: Option<Duration>,
    /// Each packet draws its own jitter, and may overtake.
    #[arg(long, requires = "jitter")]
    jitter_reorders: bool,
    /// Percent of packets.
    #[arg(long, default_value_t = 0.0)]
    loss: f64,
    /// Lost packets in a row, on average; without it each is lost by itself.
    #[arg(long)]
    burst: Option<f64>,
    /// Mbit/s.
    #[arg(long)]
    rate: Option<f64>,
    /// What the queue of the rate takes to empty.
    #[arg(long, default_value = "100ms", value_parser = humantime::parse_duration)]
    queue: Duration,
    /// Percent of packets that come 5 ms late.
    #[arg(long, default_value_t = 0.0)]
    reorder: f64,
    /// Percent of packets that come twice.
    #[arg(long, default_value_t = 0.0)]
    duplicate: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// `bbr` or `cubic`, on both sides.
    #[arg(long)]
    congestion_control: Option<String>,
    /// Measures what the direct path reaches, and ends.
    #[arg(long)]
    check: bool,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let lab = Lab::start(&LinkConfig::symmetric(cli.shape(), cli.seed))?;
    if let Some(name) = &cli.congestion_control {
        lab.set_congestion_control(name)?;
    }
    if cli.check {
        println!("{}", lab.check()?);
    } else {
        for side in [Side::Outside, Side::Home] {
            let (name, address) = (lab.name(side), lab.address(side));
            println!("{side:?}, {address}: ip netns exec {name} bash");
        }
        println!("until the input ends (Ctrl-D)");
        io::copy(&mut io::stdin(), &mut io::sink())?;
    }
    for direction in [Direction::Up, Direction::Down] {
        println!("{direction:?}: {:?}", lab.counts(direction));
    }
    Ok(())
}

impl Cli {
    fn shape(&self) -> Shape {
        let loss = self.loss / 100.0;
        let reorder = self.reorder / 100.0;
        Shape {
            delay: self.delay,
            jitter: self.jitter.map(|most| Jitter {
                most,
                reorders: self.jitter_reorders,
            }),
            loss: match self.burst {
                Some(length) => Loss::Bursts {
                    share: loss,
                    length,
                },
                None => Loss::Random(loss),
            },
            bottleneck: self
                .rate
                .map(|rate| Bottleneck::new((rate * 1e6) as u64, self.queue)),
            reorder: (reorder > 0.0).then_some(Reorder {
                share: reorder,
                by: Duration::from_millis(5),
            }),
            duplicate: self.duplicate / 100.0,
        }
    }
}
