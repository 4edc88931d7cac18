//! `cargo bench -p benches [-- --rounds 5 --only bulk,game --columns direct,adit-auto]`: the comparison on loopback.
//! `--test` is `--quick`: whether it works.
#![forbid(unsafe_code)]

use anyhow::Result;
use benches::{compare, worker::Worker};
use clap::Parser;

#[derive(Debug, Parser)]
#[command(about = "Adit beside the direct path and other tunnels, on loopback")]
struct Cli {
    #[command(flatten)]
    compare: compare::Arguments,
    /// The same as --quick.
    #[arg(long)]
    test: bool,
    /// Cargo adds this.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("worker") {
        let worker = arguments.next().unwrap_or_default();
        return serde_json::from_str::<Worker>(&worker)?.run();
    }
    // Cargo runs a bench in its package's directory; what it writes belongs where `compare` puts it.
    std::env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))?;
    let mut arguments = Cli::parse();
    arguments.compare.quick |= arguments.test;
    arguments.compare.loopback = true;
    compare::run(arguments.compare)
}
