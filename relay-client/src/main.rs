//! Adit's client: connects game servers behind NAT to a relay.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    relay_client::main()
}
