//! Adit's relay: accepts players on public ports and carries them to clients behind NAT.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    relay_server::main()
}
