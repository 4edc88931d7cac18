//! `relay-client join`: an identity at a relay, by a join string.

use std::{
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use adit_daemon::{exit::Stop, file, print, runtime};
use anyhow::Context;
use clap::Args;
use tokio::time;
use tunnel_core::{
    client::{self, EnrolError, Enrolled},
    join::JoinString,
    key::SecretKey,
};
use zeroize::Zeroizing;

use crate::identity::IdentityDir;

/// Join a relay: make a key, enrol it, write client.toml.
///
/// If it is interrupted, the same command goes on with the same key. An identity that is there is never overwritten.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay-client join 'adit://relay.example.net:4433/…#…' --dir /var/lib/adit
  ssh root@relay relay-server invite --config /etc/adit/relay.toml node-1 | relay-client join - --dir .")]
pub(crate) struct Arguments {
    /// What `relay-server invite` printed, in quotes; - reads it from stdin, where other users cannot see it.
    #[arg(value_name = "JOINSTRING")]
    join: String,
    /// Where client.toml and its keys go; made if it is missing.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Stop> {
    let text = if arguments.join == "-" {
        file::bounded(io::stdin().lock(), STDIN_LIMIT)
            .context("cannot read the join string from stdin")?
    } else {
        Zeroizing::new(arguments.join)
    };
    let join: JoinString = text
        .parse()
        .map_err(|error| Stop::Misuse(anyhow::Error::new(error)))?;
    let identity = IdentityDir::new(arguments.dir);
    let key = identity.key()?;
    let enrolled = runtime::block_on(enrol(&join, &key))?.map_err(|error| {
        let what = format!("the relay {} cannot be joined", join.relay);
        Stop::Failure(anyhow::Error::new(error).context(what))
    })?;
    identity.keep(&join, &enrolled.name, &enrolled.psk)?;
    let config = identity.config();
    print::note(format_args!(
        "\
Joined {relay} as {name}. Next:
  relay-client run --config {config} --expose both:7777",
        relay = join.relay,
        name = enrolled.name,
        config = config.display()
    ));
    Ok(())
}

/// Tries again for a moment: a running relay knows of an invitation within a second, and whoever pipes it here is
/// faster.
async fn enrol(join: &JoinString, key: &SecretKey) -> Result<Enrolled, EnrolError> {
    let end = Instant::now() + FRESH;
    loop {
        match client::enrol(join, key).await {
            Err(error) if error.is_temporary() && Instant::now() < end => time::sleep(AGAIN).await,
            done => return done,
        }
    }
}

/// How long an invitation may be unknown to its relay, which is a second, and for as long as a try takes where TCP is
/// blocked, which is three.
const FRESH: Duration = Duration::from_secs(5);
/// A refused handshake is over in a round trip: three a second are no burden.
const AGAIN: Duration = Duration::from_millis(300);

/// A join string has at most 400 characters; the rest is for white space around it.
const STDIN_LIMIT: u64 = 1024;
