//! A bad path by hand: `cargo run --release -p benches --bin link -- --delay 20ms --loss 1`, as root.
#![expect(clippy::print_stdout, reason = "this is a program for people")]
#![forbid(unsafe_code)]

use std::io;

use anyhow::Result;
use benches::{
    link::{Direction, Lab, LinkFlags},
    topology::{Side, Topology},
};
use clap::Parser;

/// Joins two network namespaces of this machine by an emulated line, until the input ends.
///
/// One side is called the outside: players and a relay would be there. The other is home, with a game server behind its
/// line. Whatever runs in one reaches the other's address, through a line that delays, loses, queues and reorders as the
/// flags say. It takes root.
#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    link: LinkFlags,
    /// The congestion control that TCP connections on both sides begin with: bbr or cubic.
    #[arg(long, value_name = "NAME")]
    congestion_control: Option<String>,
    /// Measures whether this machine keeps up with the line, and ends.
    #[arg(long)]
    check: bool,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let lab = Lab::start(&cli.link.config()?)?;
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

const EXAMPLES: &str = "\
Examples:
  link --delay 10ms --rate 20 --queue 500                     20 ms there and back, 20 Mbit/s, 500 packets may wait
  link --delay 12.5ms --rate 40 --rate-up 10 --queue 600      a DSL line: 10 Mbit/s from home
  link --delay 30ms --jitter 5ms --loss 0.2 --rate 50         jitter that keeps the order
  link --delay 10ms --rates 20:3s,5:3s,20:4s --queue 500      a line that falls to 5 Mbit/s and comes back
  link --delay 1.5ms --rate 200 --pause 30ms --pause-every 200ms    a busy Wi-Fi
  link --delay 20ms --rate 200 --check                        whether this machine is equal to it

In two other terminals, with the names that it prints:
  ip netns exec adit-lab-… iperf3 -s
  ip netns exec adit-lab-… iperf3 -c 198.18.0.1";
