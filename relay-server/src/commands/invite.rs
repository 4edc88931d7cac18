//! `relay-server invite`: a join string for a new client.

use std::{str::FromStr, time::Duration};

use adit_daemon::{exit::Stop, print};
use clap::Args;
use tunnel_core::{
    instance::{HostPort, PortSet},
    join::{JoinString, Token},
};

use super::ConfigFile;
use crate::{
    config::{ClientName, Config},
    state::{Invitation, InviteError, Store, time::UnixTime},
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
    /// How long the join string holds, such as 30m, 1h, 7d, or never (only with --reusable, and its default).
    #[arg(long, value_name = "TIME")]
    ttl: Option<Ttl>,
    /// The host and port that the join string names, instead of the configuration's.
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<HostPort>,
    /// For containers without a volume: it can be used again and again, each new key replaces the name's old one.
    #[arg(long)]
    reusable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ttl {
    Never,
    For(Duration),
}

impl FromStr for Ttl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "never" {
            return Ok(Self::Never);
        }
        let duration = humantime::parse_duration(text)
            .map_err(|error| format!("{error}; expected 30m, 1h, 7d or never"))?;
        if duration < Duration::from_secs(1) || duration > LONGEST {
            return Err("expected between 1s and 10 years".into());
        }
        Ok(Self::For(duration))
    }
}

pub(super) fn run(arguments: Arguments) -> Result<(), Stop> {
    let config = arguments.config.load()?;
    let relay = advertised(&arguments, &config)?;
    let now = UnixTime::now();
    let expires = match (arguments.ttl, arguments.reusable) {
        (Some(Ttl::For(duration)), _) => Some(now.after(duration)),
        (Some(Ttl::Never), false) => {
            return Err(Stop::misuse(
                "--ttl never is for --reusable: a join string that is used once needs no longer than until then",
            ));
        }
        (Some(Ttl::Never) | None, true) => None,
        (None, false) => Some(now.after(DEFAULT)),
    };
    if let Some(ports) = &arguments.ports
        && ports.intersection(&config.ports) != *ports
    {
        return Err(Stop::misuse(format!(
            "--ports {ports} are not all within the relay's {} (ports in {})",
            config.ports,
            config.path.display()
        )));
    }
    if let Some(written) = config.client(&arguments.name) {
        return Err(Stop::misuse(format!(
            "{} stands in {} (line {}): it needs no invitation, choose another name",
            arguments.name,
            config.path.display(),
            written.line
        )));
    }
    let invitation = Invitation {
        name: arguments.name,
        token: Token::generate()?,
        ports: arguments.ports,
        expires,
        reusable: arguments.reusable,
    };
    let ended = match Store::open(&config.state_file)?.invite(&invitation, now) {
        Err(InviteError::Enrolled(name)) => {
            let config = config.path.display();
            return Err(Stop::failure(format!(
                "{name} is enrolled already: revoke it first (relay-server clients revoke --config {config} {name}), \
                 or invite it with --reusable, so that a new key replaces the old one"
            )));
        }
        other => other?,
    };
    let join = JoinString {
        relay,
        relay_public_key: config.key.public_key(),
        token: invitation.token,
    };
    print::line(join)?;
    if ended > 0 {
        print::note(format_args!(
            "The earlier join string of {} does not hold any more.",
            invitation.name
        ));
    }
    Ok(())
}

/// `--ttl` unless said otherwise: long enough to walk over to the other machine.
const DEFAULT: Duration = Duration::from_secs(3600);
/// 10 years: what is meant for longer is meant for ever.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

fn advertised(arguments: &Arguments, config: &Config) -> Result<HostPort, Stop> {
    let stored = || config.advertise.clone();
    arguments.advertise.clone().or_else(stored).ok_or_else(|| {
        Stop::misuse(format!(
            "nobody knows yet where clients find this relay: add --advertise HOST:{}, or advertise = \"HOST:{}\" under [relay] in {}",
            config.listen.port(),
            config.listen.port(),
            config.path.display()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ttls_are_bounded() {
        let hour = Ttl::For(Duration::from_secs(3600));
        assert_eq!("1h".parse(), Ok(hour));
        assert_eq!("60m".parse(), Ok(hour));
        assert_eq!("never".parse(), Ok(Ttl::Never));
        for bad in [
            "",
            "1",
            "0s",
            "500ms",
            "99999999999999999999y",
            "11y",
            "-1h",
            "soon",
        ] {
            assert!(bad.parse::<Ttl>().is_err(), "{bad}");
        }
    }
}
