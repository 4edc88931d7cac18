//! Who the ends of a connection are.

use std::sync::Arc;

use crate::{
    join::TokenId,
    key::{Psk, PublicKey, SecretKey},
    proto::handshake::{Capabilities, ProcessId, Suite, VersionRange},
    transport::psk::PskSource,
};

/// Who a relay is, and what it says to every client.
#[derive(Debug)]
pub(crate) struct RelayIdentity {
    /// Its static key.
    pub(crate) secret_key: SecretKey,
    /// Its process.
    pub(crate) process: ProcessId,
    /// The protocol versions it speaks.
    pub(crate) versions: VersionRange,
    /// What it can do.
    pub(crate) capabilities: Capabilities,
    /// Its clients' pre-shared keys.
    pub(crate) psks: Arc<dyn PskSource>,
}

/// Who a client is, and which relay it wants.
#[derive(Clone, Debug)]
pub(crate) struct ClientIdentity {
    /// Its static key.
    pub(crate) secret_key: SecretKey,
    /// The relay's static key.
    pub(crate) relay: PublicKey,
    /// The pre-shared key, or the token's secret.
    pub(crate) psk: Psk,
    /// Its process.
    pub(crate) process: ProcessId,
    /// The protocol versions it speaks.
    pub(crate) versions: VersionRange,
    /// What it can do.
    pub(crate) capabilities: Capabilities,
    /// The token whose secret is the pre-shared key, in enrolment only.
    pub(crate) token: Option<TokenId>,
    /// The cipher: [`Suite::fastest`] unless told otherwise.
    pub(crate) suite: Suite,
}
