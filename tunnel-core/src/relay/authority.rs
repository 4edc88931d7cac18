//! Decides which clients may connect and which ports each may bind. The program that embeds the relay brings the decisions.

use std::{collections::HashMap, fmt, sync::Arc};

use crate::{
    instance::PortSet,
    join::TokenId,
    key::{Psk, PublicKey},
    proto::message::ServiceDeclaration,
    tunnel::supervise::Reporter,
};

/// Decides which clients may connect and what each may bind. An embedder brings its own, or uses [`StaticAuthority`]; that of the
/// relay's program keeps clients in a file and in SQLite. A panic in it is caught, counted and reported, and denies what was asked.
pub trait Authority: Send + Sync + fmt::Debug + 'static {
    /// The pre-shared key by which `client` must prove itself: its lasting one or, with `token`, that token's secret.
    /// `None` for an unknown or revoked client, which then sees what a client with a wrong key sees.
    ///
    /// A client whose lasting key has become another one is ended by [`Relay::recheck`](super::Relay::recheck).
    ///
    /// Called within the handshake: it must answer from memory and never block. For tokens that are used or
    /// expired it should still give the secret, so that [`admit`](Self::admit) can say so to who holds them.
    fn psk(&self, client: &PublicKey, token: Option<TokenId>) -> Option<Psk>;

    /// The client has proved itself by that key. With `token` it enrols: the admission then carries its lasting key.
    /// Runs on a thread where it may block.
    fn admit(&self, client: &PublicKey, token: Option<TokenId>) -> Result<Admission, Denial>;

    /// What a client that is connected may have now. Asked of every one by
    /// [`Relay::recheck`](super::Relay::recheck): it must answer from memory, and is no new connection.
    fn readmit(&self, client: &PublicKey) -> Result<Admission, Denial> {
        self.admit(client, None)
    }

    /// Whether the client may bind this service, beyond its ports: an embedder's own policy. The text of a
    /// refusal is shown to the client's operator. Must not block.
    fn may_bind(
        &self,
        client: &PublicKey,
        admission: &Admission,
        service: &ServiceDeclaration,
    ) -> Result<(), String> {
        let _ = (client, admission, service);
        Ok(())
    }
}

/// What a client may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admission {
    /// Its name, at most 63 bytes, for logs and status.
    pub name: String,
    /// The public ports that it may bind, within those of the relay.
    pub ports: PortSet,
    /// Its lasting pre-shared key, in enrolment only: it is sent to the client inside the tunnel.
    pub psk: Option<Psk>,
}

/// Why a client that has proved its key is not let in. The client is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Denial {
    /// Its key was revoked between the handshake and now.
    #[error("the client's key is revoked")]
    Revoked,
    /// Its token's time is over.
    #[error("the token has expired: ask the relay's operator for a new invitation")]
    TokenExpired,
    /// Another key has redeemed its token.
    #[error("the token was used by another client: ask the relay's operator for a new invitation")]
    TokenUsed,
    /// The authority could not find out; the client tries again.
    #[error("the relay cannot admit clients at the moment: {0}")]
    Unavailable(String),
}

/// The authority as the engine asks it. A panic of the embedder's code is counted, and denies only what was asked.
#[derive(Debug, Clone)]
pub(crate) struct Guarded {
    authority: Arc<dyn Authority>,
    reporter: Reporter,
}

impl Guarded {
    pub(crate) fn new(authority: Arc<dyn Authority>, reporter: Reporter) -> Self {
        Self {
            authority,
            reporter,
        }
    }

    pub(crate) fn psk(&self, client: &PublicKey, token: Option<TokenId>) -> Option<Psk> {
        self.ask("psk", |authority| authority.psk(client, token))
            .flatten()
    }

    pub(crate) fn admit(
        &self,
        client: &PublicKey,
        token: Option<TokenId>,
    ) -> Result<Admission, Denial> {
        self.ask("admit", |authority| authority.admit(client, token))
            .unwrap_or_else(unavailable)
    }

    /// What a client may have that has connected before, by the lasting key `proved`: that may be another one by now, or
    /// the client not known at all.
    pub(crate) fn readmit(
        &self,
        client: &PublicKey,
        proved: Option<&Psk>,
    ) -> Result<Admission, Denial> {
        let admission = self.ask("readmit", |authority| {
            let lasting = authority.psk(client, None).ok_or(Denial::Revoked)?;
            match proved.is_none_or(|proved| *proved == lasting) {
                true => authority.readmit(client),
                false => Err(Denial::Revoked),
            }
        });
        admission.unwrap_or_else(unavailable)
    }

    pub(crate) fn may_bind(
        &self,
        client: &PublicKey,
        admission: &Admission,
        service: &ServiceDeclaration,
    ) -> Result<(), Forbidden> {
        let allowed = self.ask("may_bind", |authority| {
            authority.may_bind(client, admission, service)
        });
        allowed
            .ok_or(Forbidden::Unknown)?
            .map_err(Forbidden::Refused)
    }

    fn ask<T>(&self, what: &str, question: impl FnOnce(&dyn Authority) -> T) -> Option<T> {
        let authority = &*self.authority;
        let task = format!("the authority's {what}");
        self.reporter.catch(&task, || question(authority))
    }
}

/// Why a service may not be bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Forbidden {
    /// By the embedder, who says why.
    Refused(String),
    /// It could not be found out now.
    Unknown,
}

fn unavailable() -> Result<Admission, Denial> {
    Err(Denial::Unavailable("the authority failed".into()))
}

/// An authority whose clients are known from the start. It accepts no tokens.
#[derive(Debug, Default)]
pub struct StaticAuthority(HashMap<PublicKey, (Psk, Admission)>);

impl StaticAuthority {
    /// An authority that knows nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a client.
    #[must_use]
    pub fn client(mut self, name: &str, key: PublicKey, psk: Psk, ports: PortSet) -> Self {
        self.0.insert(
            key,
            (
                psk,
                Admission {
                    name: name.to_owned(),
                    ports,
                    psk: None,
                },
            ),
        );
        self
    }
}

impl Authority for StaticAuthority {
    fn psk(&self, client: &PublicKey, token: Option<TokenId>) -> Option<Psk> {
        if token.is_some() {
            return None;
        }
        self.0.get(client).map(|(psk, _)| psk.clone())
    }

    fn admit(&self, client: &PublicKey, _token: Option<TokenId>) -> Result<Admission, Denial> {
        self.0
            .get(client)
            .map(|(_, admission)| admission.clone())
            .ok_or(Denial::Revoked)
    }
}
