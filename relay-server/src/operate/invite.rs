//! Inviting a client: a join string.

use std::{str::FromStr, time::Duration};

use tunnel_core::{
    instance::{HostPort, PortSet},
    join::{JoinString, Token},
    key::KeyError,
};

use crate::{
    config::{ClientName, Config},
    state::{self, Invitation, Store, StoreError, time::UnixTime},
};

/// Who is invited, and to what.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// What the client will be called.
    pub(crate) name: ClientName,
    /// The public ports that it may use; `None`: all of the relay's.
    pub(crate) ports: Option<PortSet>,
    /// How long the join string is valid; `None`: an hour, or for ever if it is reusable.
    pub(crate) lifetime: Option<Lifetime>,
    /// The host and port that the join string names; `None`: those of the configuration.
    pub(crate) advertise: Option<HostPort>,
    /// Whether it can be used again and again, each new key replacing the name's old one.
    pub(crate) reusable: bool,
}

/// How long a join string is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// Until it is ended; only of one that is reusable.
    Endless,
    /// Between a second and 10 years.
    For(Duration),
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Invited {
    /// For `relay-client join`.
    pub(crate) join: JoinString,
    /// How many earlier join strings of the name were valid until now.
    pub(crate) ended: usize,
}

/// Writes an invitation into the state file, which a running relay knows within a second.
pub(crate) fn invite(
    config: &Config,
    request: Request,
    now: UnixTime,
) -> Result<Invited, InviteError> {
    let relay = (request.advertise)
        .or_else(|| config.advertise.clone())
        .ok_or(InviteError::NotAdvertised)?;
    let expires = match (request.lifetime, request.reusable) {
        (Some(Lifetime::For(duration)), _) => Some(now.after(duration)),
        (Some(Lifetime::Endless), false) => return Err(InviteError::EndlessSingleUse),
        (Some(Lifetime::Endless) | None, true) => None,
        (None, false) => Some(now.after(DEFAULT)),
    };
    if let Some(ports) = &request.ports
        && ports.intersection(&config.ports) != *ports
    {
        return Err(InviteError::PortsOutside(ports.clone()));
    }
    if let Some(written) = config.client(&request.name) {
        return Err(InviteError::Written { line: written.line });
    }
    let invitation = Invitation {
        name: request.name,
        token: Token::generate()?,
        ports: request.ports,
        expires,
        reusable: request.reusable,
    };
    let ended = Store::open(&config.state_file)?.invite(&invitation, now)?;
    let join = JoinString {
        relay,
        relay_public_key: config.key.public_key(),
        token: invitation.token,
    };
    Ok(Invited { join, ended })
}

/// Why nobody was invited.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum InviteError {
    /// Neither the request nor the configuration says where clients find the relay.
    #[error("nobody knows yet where clients find this relay")]
    NotAdvertised,
    /// A join string that is used once would be valid for ever.
    #[error("only a join string that is reusable may be valid for ever")]
    EndlessSingleUse,
    /// Not all of the ports are the relay's.
    #[error("{0} are not all within the relay's public ports")]
    PortsOutside(PortSet),
    /// The configuration file has a client of that name.
    #[error("the name stands in the configuration file (line {line})")]
    Written {
        /// In which line.
        line: usize,
    },
    /// The state file has a client of that name.
    #[error("{0} is enrolled already")]
    Enrolled(ClientName),
    /// The state file failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The operating system has no randomness.
    #[error(transparent)]
    Randomness(#[from] KeyError),
}

impl From<state::InviteError> for InviteError {
    fn from(error: state::InviteError) -> Self {
        match error {
            state::InviteError::Enrolled(enrolled) => Self::Enrolled(enrolled.0),
            state::InviteError::Store(error) => Self::Store(error),
        }
    }
}

impl FromStr for Lifetime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "never" {
            return Ok(Self::Endless);
        }
        let duration = humantime::parse_duration(text)
            .map_err(|error| format!("{error}; expected 30m, 1h, 7d or never"))?;
        if duration < Duration::from_secs(1) || duration > LONGEST {
            return Err("expected between 1s and 10 years".into());
        }
        Ok(Self::For(duration))
    }
}

/// An hour: long enough to walk over to the other machine.
const DEFAULT: Duration = Duration::from_secs(3600);
/// 10 years: what is meant for longer is meant for ever.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lifetimes_are_bounded() {
        let hour = Lifetime::For(Duration::from_secs(3600));
        assert_eq!("1h".parse(), Ok(hour));
        assert_eq!("60m".parse(), Ok(hour));
        assert_eq!("never".parse(), Ok(Lifetime::Endless));
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
            assert!(bad.parse::<Lifetime>().is_err(), "{bad}");
        }
    }
}
