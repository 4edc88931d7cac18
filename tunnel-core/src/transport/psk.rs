//! Where pre-shared keys come from.

use std::fmt::Debug;

use crate::{
    join::TokenId,
    key::{Psk, PublicKey},
};

/// Where a relay finds the pre-shared key of a client that has just said who it is.
pub(crate) trait PskSource: Debug + Send + Sync + 'static {
    /// The key of `client`, or of the token it names; `None` if neither is known or either is revoked.
    ///
    /// Must not block: it runs inside a handshake, under the endpoint's lock. It must not change anything
    /// either, because message 1 may be a recording.
    fn psk(&self, client: &PublicKey, token: Option<TokenId>) -> Option<Psk>;
}
