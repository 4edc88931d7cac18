//! Whether a token enrols a key: a pure decision, made from memory first and again where it is written down.

use tunnel_core::{key::PublicKey, relay::Denial};

use super::{
    ClientName,
    store::{ClientRow, TokenRow},
};
use crate::time::UnixTime;

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
