//! Who asks: where a connection comes from, whose token it carries, and what a handler demands of it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Weak},
};

use axum::extract::FromRequestParts;
use hyper::http::request::Parts;

use super::token::{Role, TokenDigest, Tokens, find};
use crate::problem::{Kind, Problem};

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Peer {
    /// An address; one of IPv4 never looks like one of IPv6.
    Tcp(SocketAddr),
    /// This machine, over a Unix socket.
    Local,
}

impl Peer {
    /// Whether it is this machine.
    pub fn is_loopback(self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Local => true,
        }
    }

    /// Who shares an allowance: an address of IPv4, a /64 of IPv6.
    pub(crate) fn network(self) -> Option<IpAddr> {
        match self {
            Self::Tcp(address) => Some(match address.ip() {
                IpAddr::V6(v6) => {
                    let prefix = u128::from(v6) & (u128::MAX << 64);
                    IpAddr::V6(prefix.into())
                }
                v4 => v4,
            }),
            Self::Local => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.ip().fmt(f),
            Self::Local => f.write_str("unix"),
        }
    }
}

/// Who asks, proved by a token or by a session that a token has opened. An extension of the request.
#[derive(Clone)]
pub struct Caller {
    /// The name of the token.
    pub name: Arc<str>,
    /// What its holder may do.
    pub role: Role,
    /// Where it asks from.
    pub from: Peer,
    pub(super) digest: TokenDigest,
    pub(super) tokens: Weak<dyn Tokens>,
}

impl Caller {
    /// Whether its token is still valid, with the same role: what takes long asks again and again.
    pub fn is_current(&self) -> bool {
        let Some(tokens) = self.tokens.upgrade() else {
            return false;
        };
        let tokens = tokens.tokens();
        find(&tokens, &self.digest).is_some_and(|index| tokens[index].role == self.role)
    }

    /// A problem unless it has the role, or one that may do more.
    pub fn demand(&self, role: Role) -> Result<(), Problem> {
        if self.role >= role {
            return Ok(());
        }
        let detail = format!(
            "This takes the role {role}, and the token {:?} has the role {}: use another token.",
            self.name, self.role
        );
        Err(Problem::new(Kind::Forbidden, detail))
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, from {})", self.name, self.role, self.from)
    }
}

macro_rules! demands {
    ($($(#[doc = $doc:literal])+ $name:ident = $role:expr,)+) => {$(
        $(#[doc = $doc])+
        #[derive(Debug, Clone)]
        pub struct $name(pub Caller);

        impl<S: Send + Sync> FromRequestParts<S> for $name {
            type Rejection = Problem;

            async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
                caller(parts, $role).map(Self)
            }
        }
    )+};
}

demands! {
    /// The handler serves whoever may read. Stands first among its arguments, so that nothing is read for others.
    Viewer = Role::Viewer,
    /// The handler serves whoever may change what runs.
    Operator = Role::Operator,
    /// The handler serves whoever may change who may do what.
    Admin = Role::Admin,
}

fn caller(parts: &Parts, role: Role) -> Result<Caller, Problem> {
    let caller = parts.extensions.get::<Caller>().ok_or_else(no_token)?;
    caller.demand(role)?;
    Ok(caller.clone())
}

/// What is said to those who bring no token.
pub(crate) fn no_token() -> Problem {
    let detail = "Send a token in the header authorization: Bearer adit_... (the command tokens create makes one).";
    Problem::new(Kind::Unauthorized, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_shares_an_allowance() {
        let network = |text: &str| {
            Peer::Tcp(text.parse().unwrap())
                .network()
                .unwrap()
                .to_string()
        };
        assert_eq!(network("192.0.2.7:1"), "192.0.2.7");
        assert_eq!(network("[2001:db8:1:2:3:4:5:6]:1"), "2001:db8:1:2::");
        assert_eq!(Peer::Local.network(), None);
    }
}
