//! `relay-server invite`: a join string for a new client.

use adit_daemon::{exit::Stop, print};
use clap::Args;
use tunnel_core::instance::{HostPort, PortSet};

use super::config_file::ConfigFile;
use crate::{
    config::{ClientName, Config},
    operate::invite::{self as operate, InviteError, Lifetime, Request},
    state::time::UnixTime,
};

/// Invite a client: print a join string for `relay-client join`.
///
/// Works while the relay runs, which knows it within a second, and while it does not.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  relay-server invite --config /etc/adit/relay.toml node-1
  relay-server invite --config /etc/adit/relay.toml --ports 7777,30000-30009 --ttl 30m node-2
  relay-server invite --config /etc/adit/relay.toml --reusable game-container")]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigFile,
    /// What the client will be called: 1 to 63 of a-z 0-9 _ -.
    name: ClientName,
    /// The public ports that it may use; all of the relay's when left out.
    #[arg(long, value_name = "RANGES")]
    ports: Option<PortSet>,
    /// How long the join string is valid, such as 30m, 1h, 7d, or never (only with --reusable, and its default).
    #[arg(long, value_name = "TIME")]
    ttl: Option<Lifetime>,
    /// The host and port that the join string names, instead of the configuration's.
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<HostPort>,
    /// For containers without a volume: it can be used again and again, each new key replaces the name's old one.
    #[arg(long)]
    reusable: bool,
}

pub(super) fn run(arguments: Arguments) -> Result<(), Stop> {
    let config = arguments.config.load()?;
    let name = arguments.name.clone();
    let request = Request {
        name: arguments.name,
        ports: arguments.ports,
        lifetime: arguments.ttl,
        advertise: arguments.advertise,
        reusable: arguments.reusable,
    };
    let invited = operate::invite(&config, request, UnixTime::now())
        .map_err(|error| refused(error, &config, &name))?;
    print::line(invited.join)?;
    if invited.ended > 0 {
        print::note(format_args!(
            "The earlier join string of {name} does not hold any more."
        ));
    }
    Ok(())
}

/// What to do about a refusal, in the words of the command line.
fn refused(error: InviteError, config: &Config, name: &ClientName) -> Stop {
    let path = config.path.display();
    match error {
        InviteError::NotAdvertised => {
            let port = config.listen.port();
            Stop::misuse(format!(
                "nobody knows yet where clients find this relay: add --advertise HOST:{port}, or advertise = \"HOST:{port}\" under [relay] in {path}",
            ))
        }
        InviteError::EndlessSingleUse => Stop::misuse(
            "--ttl never is for --reusable: a join string that is used once needs no longer than until then",
        ),
        InviteError::PortsOutside(ports) => Stop::misuse(format!(
            "--ports {ports} are not all within the relay's {} (ports in {path})",
            config.ports,
        )),
        InviteError::Written { line } => Stop::misuse(format!(
            "{name} stands in {path} (line {line}): it needs no invitation, choose another name",
        )),
        InviteError::Enrolled(name) => Stop::failure(format!(
            "{name} is enrolled already: revoke it first (relay-server clients revoke --config {path} {name}), \
             or invite it with --reusable, so that a new key replaces the old one"
        )),
        InviteError::Store(error) => error.into(),
        InviteError::Randomness(error) => error.into(),
    }
}
