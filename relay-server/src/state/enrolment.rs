//! Whether a token enrols a key: a pure decision, made from memory first and again where it is written down.

use tunnel_core::{
    instance::PortSet,
    join::Token,
    key::{Psk, PublicKey},
    relay::Denial,
};

use super::time::UnixTime;
use crate::config::ClientName;

/// A client as the state file has it.
#[derive(Clone, Debug)]
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

/// A token as the state file has it.
#[derive(Clone, Debug)]
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
        !self.is_expired(now) && (self.reusable || self.redeemed_by.is_none())
    }

    /// Whether its time is over.
    pub(super) fn is_expired(&self, now: UnixTime) -> bool {
        // One that was ended holds at no time, wherever the clock jumps.
        self.expires
            .is_some_and(|expires| expires <= now || expires <= self.created)
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

/// Somebody has proved a token, and wants to enrol a key.
#[derive(Debug)]
pub(super) struct Claim<'r> {
    pub(super) token: &'r TokenRow,
    /// Who has the token's name now.
    pub(super) named: Option<&'r ClientRow>,
    /// Who has the key now.
    pub(super) keyed: Option<&'r ClientRow>,
    pub(super) key: &'r PublicKey,
    pub(super) now: UnixTime,
}

/// What comes of a claim that holds.
#[derive(Debug)]
pub(super) enum Verdict<'r> {
    /// The same key has redeemed it already, and this is who it became: a crash in between locks nobody out.
    Again(&'r ClientRow),
    /// A new client.
    New(&'r TokenRow),
}

impl<'r> Claim<'r> {
    /// Decides. `stands_in_file` says which names and keys the configuration file has taken.
    pub(super) fn judge(
        &self,
        stands_in_file: impl Fn(&ClientName, &PublicKey) -> bool,
    ) -> Result<Verdict<'r>, Denial> {
        let token = self.token;
        if stands_in_file(&token.client, self.key) {
            return Err(Denial::Unavailable(format!(
                "client {} or its key stands in the relay's configuration file",
                token.client
            )));
        }
        if let Some(client) = self.redeemed_before()? {
            return Ok(Verdict::Again(client));
        }
        if token.is_expired(self.now) {
            return Err(Denial::TokenExpired);
        }
        if !token.reusable && self.named.is_some_and(|client| client.revoked.is_none()) {
            return Err(Denial::TokenUsed);
        }
        if let Some(other) = self.keyed
            && other.name != token.client
            && other.revoked.is_none()
        {
            return Err(Denial::Unavailable(format!(
                "this client's key is enrolled as {} already",
                other.name
            )));
        }
        Ok(Verdict::New(token))
    }

    /// The client that an earlier redemption of this token by this key enrolled.
    fn redeemed_before(&self) -> Result<Option<&'r ClientRow>, Denial> {
        let token = self.token;
        match token.redeemed_by {
            None => Ok(None),
            Some(by) if by != *self.key && token.reusable => Ok(None),
            Some(by) if by != *self.key => Err(Denial::TokenUsed),
            Some(_) => match self.named.filter(|client| client.public_key == *self.key) {
                Some(client) if client.revoked.is_some() && token.reusable => Ok(None),
                Some(client) if client.revoked.is_some() => Err(Denial::Revoked),
                Some(client) if token.reusable || !client.seen => Ok(Some(client)),
                _ if token.reusable => Ok(None),
                _ => Err(Denial::TokenUsed),
            },
        }
    }
}
