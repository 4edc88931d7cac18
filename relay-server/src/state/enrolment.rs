//! The rules of enrolment, as pure functions of rows: what inviting, redeeming and revoking come to.
//!
//! Whoever keeps the rows reads them, asks here, and writes what was decided, all in one transaction.

use tunnel_core::{
    instance::PortSet,
    join::{Token, TokenId},
    key::{Psk, PublicKey},
    relay::Denial,
};

use super::time::UnixTime;
use crate::config::ClientName;

/// A client as the state file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientRow {
    pub(crate) name: ClientName,
    pub(crate) public_key: PublicKey,
    pub(crate) psk: Psk,
    /// `None`: all of the relay's.
    pub(crate) ports: Option<PortSet>,
    pub(crate) created: UnixTime,
    pub(crate) revoked: Option<UnixTime>,
    /// Whether it has connected with its lasting PSK, so that its token is used up for good.
    pub(crate) seen: bool,
}

impl ClientRow {
    /// Whether it may connect.
    pub(super) const fn is_admitted(&self) -> bool {
        self.revoked.is_none()
    }
}

/// A token as the state file has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenRow {
    pub(crate) token: Token,
    pub(crate) client: ClientName,
    pub(crate) ports: Option<PortSet>,
    pub(crate) created: UnixTime,
    /// `None`: never.
    pub(crate) expires: Option<UnixTime>,
    pub(crate) reusable: bool,
    pub(crate) redeemed_by: Option<PublicKey>,
}

impl TokenRow {
    /// Whether a new key may still enrol with it.
    pub(crate) fn is_open(&self, now: UnixTime) -> bool {
        !self.is_expired(now) && !self.is_spent()
    }

    /// Whether its time is over.
    fn is_expired(&self, now: UnixTime) -> bool {
        self.is_ended() || self.expires.is_some_and(|expires| expires <= now)
    }

    /// Whether it was ended by a later invitation or a revocation: it expires no later than it was made, so it is
    /// invalid at every time, wherever the clock jumps.
    fn is_ended(&self) -> bool {
        self.expires.is_some_and(|expires| expires <= self.created)
    }

    /// Whether its one use is over.
    fn is_spent(&self) -> bool {
        !self.reusable && self.redeemed_by.is_some()
    }
}

/// A new token to be written down.
#[derive(Clone, Debug)]
pub(crate) struct Invitation {
    pub(crate) name: ClientName,
    pub(crate) token: Token,
    pub(crate) ports: Option<PortSet>,
    pub(crate) expires: Option<UnixTime>,
    pub(crate) reusable: bool,
}

/// What revoking a name met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Revoked {
    /// A client, now revoked, and its open invitations with it.
    Client,
    /// A client that had been revoked before.
    Already,
    /// Only an invitation that nobody had used yet.
    Invitation,
    /// Nothing of that name.
    Unknown,
}

/// What was decided, and what is to be written of it.
#[derive(Debug)]
pub(super) struct Decision<T> {
    pub(super) outcome: T,
    /// To be done in this order, all or none.
    pub(super) writes: Vec<Write>,
}

/// One change of the rows.
#[derive(Debug)]
pub(super) enum Write {
    /// A new token.
    Add(TokenRow),
    /// A token is ended: both its beginning and its end become `at`.
    End {
        /// Which token.
        token: TokenId,
        /// When.
        at: UnixTime,
    },
    /// A client takes the place of those that have its name or its key, and the token is redeemed by its key.
    Enrol {
        /// Who it is.
        client: ClientRow,
        /// By which token.
        token: TokenId,
    },
    /// The client of this name may not connect any more.
    Revoke {
        /// Its name.
        name: ClientName,
        /// When.
        at: UnixTime,
    },
}

/// The name belongs to a client, whose key only a reusable token replaces.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} is enrolled already")]
pub(crate) struct AlreadyEnrolled(pub(crate) ClientName);

/// Invites. `named` is the client of that name, `tokens` are all of the name's. The outcome is how many open invitations
/// end with this.
pub(super) fn invite(
    invitation: &Invitation,
    named: Option<&ClientRow>,
    tokens: &[TokenRow],
    now: UnixTime,
) -> Result<Decision<usize>, AlreadyEnrolled> {
    if !invitation.reusable && named.is_some_and(ClientRow::is_admitted) {
        return Err(AlreadyEnrolled(invitation.name.clone()));
    }
    let (outcome, mut writes) = end(tokens, now);
    writes.push(Write::Add(TokenRow {
        token: invitation.token.clone(),
        client: invitation.name.clone(),
        ports: invitation.ports.clone(),
        created: now,
        expires: invitation.expires,
        reusable: invitation.reusable,
        redeemed_by: None,
    }));
    Ok(Decision { outcome, writes })
}

/// Revokes a name. `named` is its client, `tokens` are all of the name's.
pub(super) fn revoke(
    name: &ClientName,
    named: Option<&ClientRow>,
    tokens: &[TokenRow],
    now: UnixTime,
) -> Decision<Revoked> {
    let (open, mut writes) = end(tokens, now);
    let outcome = match named {
        Some(client) if client.is_admitted() => {
            let name = name.clone();
            writes.push(Write::Revoke { name, at: now });
            Revoked::Client
        }
        _ if open > 0 => Revoked::Invitation,
        Some(_) => Revoked::Already,
        None => Revoked::Unknown,
    };
    Decision { outcome, writes }
}

/// Ends what could enrol somebody at any time: also what has expired, because a clock that is ahead says so of what is
/// valid again once it is right. Answers how many of them were open.
fn end(tokens: &[TokenRow], now: UnixTime) -> (usize, Vec<Write>) {
    let live = tokens
        .iter()
        .filter(|token| !token.is_spent() && !token.is_ended());
    let open = live.clone().filter(|token| token.is_open(now)).count();
    let writes = live.map(|row| Write::End {
        token: row.token.id,
        at: now,
    });
    (open, writes.collect())
}

/// Somebody has proved a token, and wants to enrol a key.
#[derive(Debug)]
pub(super) struct Claim<'r> {
    /// `None`: it is not remembered, so it has ended long ago.
    pub(super) token: Option<&'r TokenRow>,
    /// Who has the token's name now.
    pub(super) named: Option<&'r ClientRow>,
    /// Who has the key now.
    pub(super) keyed: Option<&'r ClientRow>,
    pub(super) key: &'r PublicKey,
    /// Whether the configuration file has the token's name or the key.
    pub(super) is_written: bool,
    pub(super) now: UnixTime,
}

/// What comes of a claim that is valid.
#[derive(Debug)]
pub(super) enum Verdict<'r> {
    /// The same key has redeemed it already, and this is who it became: a crash in between locks nobody out.
    Again(&'r ClientRow),
    /// A new client.
    New(&'r TokenRow),
}

impl<'r> Claim<'r> {
    /// Redeems the token: the outcome is the client, `psk` the lasting secret of one that is new.
    pub(super) fn redeem(&self, psk: Psk) -> Result<Decision<ClientRow>, Denial> {
        let token = match self.judge()? {
            Verdict::Again(client) => {
                return Ok(Decision {
                    outcome: client.clone(),
                    writes: Vec::new(),
                });
            }
            Verdict::New(token) => token,
        };
        let client = ClientRow {
            name: token.client.clone(),
            public_key: *self.key,
            psk,
            ports: token.ports.clone(),
            created: self.now,
            revoked: None,
            seen: false,
        };
        let enrol = Write::Enrol {
            client: client.clone(),
            token: token.token.id,
        };
        Ok(Decision {
            outcome: client,
            writes: vec![enrol],
        })
    }

    /// Decides whether the claim is valid.
    pub(super) fn judge(&self) -> Result<Verdict<'r>, Denial> {
        let token = self.token.ok_or(Denial::TokenExpired)?;
        if self.is_written {
            return Err(Denial::Unavailable(format!(
                "client {} or its key stands in the relay's configuration file",
                token.client
            )));
        }
        if let Some(client) = self.redeemed_before(token)? {
            return Ok(Verdict::Again(client));
        }
        if token.is_expired(self.now) {
            return Err(Denial::TokenExpired);
        }
        if !token.reusable && self.named.is_some_and(ClientRow::is_admitted) {
            return Err(Denial::TokenUsed);
        }
        if let Some(other) = self.keyed
            && other.name != token.client
            && other.is_admitted()
        {
            return Err(Denial::Unavailable(format!(
                "this client's key is enrolled as {} already",
                other.name
            )));
        }
        Ok(Verdict::New(token))
    }

    /// The client that an earlier redemption of this token by this key enrolled.
    fn redeemed_before(&self, token: &TokenRow) -> Result<Option<&'r ClientRow>, Denial> {
        match token.redeemed_by {
            None => Ok(None),
            Some(by) if by != *self.key && token.reusable => Ok(None),
            Some(by) if by != *self.key => Err(Denial::TokenUsed),
            Some(_) => match self.named.filter(|client| client.public_key == *self.key) {
                Some(client) if client.is_admitted() && (token.reusable || !client.seen) => {
                    Ok(Some(client))
                }
                _ if token.reusable => Ok(None),
                Some(client) if !client.is_admitted() => Err(Denial::Revoked),
                _ => Err(Denial::TokenUsed),
            },
        }
    }
}

#[cfg(test)]
mod tests;
