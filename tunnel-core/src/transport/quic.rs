//! The QUIC transport: quinn, with the handshake of `proto::handshake` in the place of TLS (docs/protocol.md §3).
//!
//! Who has not the relay's public key gets no answer. Where quinn would give one, it is stopped as follows:
//!
//! | quinn's answer | its cause | stopped by |
//! |---|---|---|
//! | version negotiation | a long header of a foreign version, in 1,200 bytes or more | [`filter`]: foreign versions |
//! | close, protocol violation | an Initial to an id shorter than 8 bytes | [`filter`]: not sealed for this relay |
//! | close, invalid token | an Initial with a Retry token that is old or of another address | the same |
//! | close, handshake failed | message 1 is wrong | the same: its author has the public key |
//! | Retry | ours, under load | the same |
//! | close, refused | a dropped or refused `Incoming`, or a closing endpoint | the same; we ignore, never refuse |
//! | stateless reset | a short header with an id that could be ours | [`cid`]: 6 bytes of HMAC in every id |
//! | stateless reset | an Initial to a client's socket | [`filter`]: an id that the client did not issue |
//!
//! What is left needs packets seen on the wire. A recorded id of this relay, in a packet of an ended connection, gets
//! a stateless reset, smaller than the packet, as after a restart. In an Initial that was not sealed for us it gets
//! Retry when there is load; with a recorded token beside it, a close of 60 bytes. A recorded Initial, replayed,
//! gets message 2, up to three times what was sent, and nothing else comes of it.

mod cid;
mod config;
pub(crate) mod congestion;
mod crypto;
mod error;
mod filter;
pub(crate) mod firsts;
mod identity;
mod keys;
mod socket;

use std::{
    fmt, io,
    net::{SocketAddr, UdpSocket},
    ops::Deref,
    sync::Arc,
    time::Duration,
};

use quinn::{ConnectionError, Endpoint, VarInt};

use self::{cid::CidKey, keys::RelayKeys};
pub(crate) use self::{
    error::{QuicAcceptError, QuicConnectError},
    filter::{DropReason, Filter},
    identity::{ClientIdentity, RelayIdentity},
    socket::Drops,
};
use crate::{
    key::{self, Psk, PublicKey, SecretKey},
    proto::handshake::{Answer, Hello, Suite, keys::Secret},
    transport::admission,
};

/// A relay's endpoint on `socket`, where strangers cost no more than `admission` lets them. What the socket drops is
/// counted in `drops`.
pub(crate) fn relay_endpoint(
    socket: UdpSocket,
    identity: RelayIdentity,
    admission: admission::Shared,
    drops: Arc<Drops>,
) -> io::Result<Endpoint> {
    let suites = keys::Suites::load()?;
    let keys = RelayKeys::derive(&identity.secret_key);
    let filter = relay_filter(&identity.secret_key, admission)?;
    let endpoint_config = config::endpoint(keys.cid, &keys.reset);
    let crypto = crypto::RelayCrypto::new(identity, suites);
    let server_config = config::server(Arc::new(crypto), &keys.retry_token);
    Endpoint::new_with_abstract_socket(
        endpoint_config,
        Some(server_config),
        socket::wrap(socket, filter, drops)?,
        Arc::new(quinn::TokioRuntime),
    )
}

/// What a relay's socket lets through.
pub(crate) fn relay_filter(
    secret_key: &SecretKey,
    admission: admission::Shared,
) -> io::Result<Filter> {
    let cids = RelayKeys::derive(secret_key).cid;
    let suites = keys::Suites::load()?;
    let public_key = secret_key.public_key();
    Ok(Filter::relay(public_key, suites, cids, admission))
}

/// A client's endpoint on `socket`: it connects, and answers nobody.
pub(crate) fn client_endpoint(socket: UdpSocket, drops: Arc<Drops>) -> io::Result<ClientEndpoint> {
    let random = || key::random().map(Secret::from).map_err(io::Error::other);
    let cid_key = CidKey::new(random()?);
    let filter = Filter::client(cid_key.clone());
    let endpoint = Endpoint::new_with_abstract_socket(
        config::endpoint(cid_key.clone(), &random()?),
        None,
        socket::wrap(socket, filter, drops.clone())?,
        Arc::new(quinn::TokioRuntime),
    )?;
    Ok(ClientEndpoint {
        endpoint,
        cid_key,
        drops,
    })
}

/// A client's endpoint, which may change its socket.
pub(crate) struct ClientEndpoint {
    endpoint: Endpoint,
    cid_key: CidKey,
    drops: Arc<Drops>,
}

impl fmt::Debug for ClientEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.endpoint.fmt(f)
    }
}

impl Deref for ClientEndpoint {
    type Target = Endpoint;

    fn deref(&self) -> &Endpoint {
        &self.endpoint
    }
}

impl ClientEndpoint {
    /// The port that it has.
    pub(crate) fn port(&self) -> Option<u16> {
        Some(self.endpoint.local_addr().ok()?.port())
    }

    /// Goes on from another socket; its connections migrate.
    pub(crate) fn move_to(&self, socket: UdpSocket) -> io::Result<()> {
        let filter = Filter::client(self.cid_key.clone());
        let socket = socket::wrap(socket, filter, self.drops.clone())?;
        self.endpoint.rebind_abstract(socket)
    }
}

/// Connects to the relay at `address` and proves both identities. It ends at the latest with quinn's idle timeout.
pub(crate) async fn connect(
    endpoint: &Endpoint,
    address: SocketAddr,
    identity: &ClientIdentity,
) -> Result<(quinn::Connection, Answer), QuicConnectError> {
    let crypto = crypto::ClientCrypto::new(identity)?;
    let config = config::client(Arc::new(crypto), identity.suite);
    let connection = endpoint
        .connect_with(config, address, SERVER_NAME)
        .map_err(|error| match error {
            quinn::ConnectError::InvalidServerName(_) => QuicConnectError::RelayKey,
            error => QuicConnectError::Start(error),
        })?
        .await
        .map_err(|error| match error {
            ConnectionError::TransportError(error) if error.code == crypto::handshake_failure() => {
                QuicConnectError::NotAdmitted
            }
            error => QuicConnectError::Connection(error),
        })?;
    let answer = connection
        .handshake_data()
        .and_then(|data| data.downcast::<Answer>().ok())
        .ok_or(QuicConnectError::NotAdmitted)?;
    if let Err(mismatch) = identity.versions.agreed(&answer.versions) {
        connection.close(INCOMPATIBLE, mismatch.to_string().as_bytes());
        return Err(QuicConnectError::Incompatible(mismatch));
    }
    Ok((connection, *answer))
}

/// A client that has proved itself.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// The connection.
    pub(crate) connection: quinn::Connection,
    /// The client's static key.
    pub(crate) peer: PublicKey,
    /// The pre-shared key that it has proved, or the token's secret.
    pub(crate) psk: Psk,
    /// What it said.
    pub(crate) hello: Hello,
    /// The cipher it picked.
    pub(crate) suite: Suite,
}

/// A handshake that has been answered and awaits the client's proof.
#[derive(Debug)]
pub(crate) struct Answered(quinn::Connecting);

/// Reads message 1 and answers it: at once, in this thread and under the endpoint's lock.
pub(crate) fn answer(incoming: quinn::Incoming) -> Result<Answered, QuicAcceptError> {
    incoming
        .accept()
        .map(Answered)
        .map_err(QuicAcceptError::Connection)
}

impl Answered {
    /// Waits for the client's finished. Until it is there nothing has been proved, and nothing may change.
    pub(crate) async fn accepted(self, timeout: Duration) -> Result<Accepted, QuicAcceptError> {
        let connection = tokio::time::timeout(timeout, self.0)
            .await
            .map_err(|_| QuicAcceptError::Timeout)?
            .map_err(QuicAcceptError::Connection)?;
        let client = connection
            .handshake_data()
            .and_then(|data| data.downcast::<crypto::Client>().ok())
            .ok_or(QuicAcceptError::Timeout)?;
        let crypto::Client {
            key,
            psk,
            hello,
            suite,
            relay_versions,
        } = *client;
        if let Err(mismatch) = relay_versions.agreed(&hello.versions) {
            connection.close(INCOMPATIBLE, mismatch.to_string().as_bytes());
            return Err(QuicAcceptError::Incompatible(key, mismatch));
        }
        Ok(Accepted {
            connection,
            peer: key,
            psk,
            hello,
            suite,
        })
    }
}

/// A client has been let in, and may send as much as a tunnel's streams.
pub(crate) fn open_window(connection: &quinn::Connection) {
    connection.set_receive_window(VarInt::from_u32(config::WINDOW));
}

/// `export("adit lanes", "", 32)`: the root of a tunnel's further lanes, the same on both ends.
pub(crate) fn lane_secret(connection: &quinn::Connection) -> Secret {
    let mut out = [0; 32];
    // A connection that has been accepted or connected has an exporter, and 32 bytes are never too many.
    let exported = connection.export_keying_material(&mut out, b"adit lanes", b"");
    debug_assert!(exported.is_ok());
    Secret::from(out)
}

/// The close code INCOMPATIBLE (docs/protocol.md §5.2).
const INCOMPATIBLE: VarInt = VarInt::from_u32(4);

/// quinn wants one; nothing here looks at it.
const SERVER_NAME: &str = "relay";

#[cfg(test)]
pub(crate) mod tests;
