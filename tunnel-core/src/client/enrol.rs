//! Redeeming an invitation: a token for a lasting key.

use std::{sync::Arc, time::Duration};

use crate::{
    client::{
        addresses::Addresses,
        dial::{Connection, Credential, DialError, Dialer, DialerIdentity, RelayEndpoint},
        policy::attempt::Strategy,
        ports::LocalPorts,
    },
    join::JoinString,
    key::{self, KeyError, Psk, SecretKey},
    proto::{
        handshake::ProcessId,
        message::{Code, Decoder, Message, MessageError, Text},
        record::RecordType,
    },
    transport::{lane::LaneError, mem},
    tunnel::lane::Lane,
};

use bytes::{Bytes, BytesMut};

/// What enrolment gives a client to keep.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Enrolled {
    /// Its name at the relay.
    pub name: String,
    /// The key that it shares with the relay from now on.
    pub psk: Psk,
}

/// Why a client could not enrol.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnrolError {
    /// The relay cannot be reached, or does not know the token. Trying again may help with the first.
    #[error("no way to the relay: {0}")]
    Unreachable(String),
    /// The relay knows the token, and says why it is of no more use.
    #[error("the relay refused the invitation ({code}): {text}")]
    Rejected {
        /// Why.
        code: Code,
        /// Why, in words.
        text: String,
    },
    /// The relay let the client in without giving it a key.
    #[error("the relay broke the protocol: {0}")]
    Misbehaved(String),
    /// The connection was lost before the relay had answered. The same key may try again.
    #[error("the connection to the relay was lost: {0}")]
    Lost(String),
    /// No randomness was to be had.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl EnrolError {
    /// Whether the same try may work later.
    pub const fn is_temporary(&self) -> bool {
        matches!(
            self,
            Self::Unreachable(_)
                | Self::Lost(_)
                | Self::Rejected {
                    code: Code::Internal | Code::Limit | Code::Shutdown,
                    ..
                }
        )
    }
}

/// Redeems an invitation for the client with this key, which must be kept before: if the answer is lost, the same
/// key may redeem it again.
pub async fn enrol(join: &JoinString, secret_key: &SecretKey) -> Result<Enrolled, EnrolError> {
    enrol_at(
        RelayEndpoint::Net(Addresses::new(join.relay.clone())),
        join,
        secret_key,
    )
    .await
}

/// The same over a network in memory; for tests.
pub async fn enrol_mem(
    network: &mem::Network,
    join: &JoinString,
    secret_key: &SecretKey,
) -> Result<Enrolled, EnrolError> {
    enrol_at(RelayEndpoint::Mem(network.clone()), join, secret_key).await
}

async fn enrol_at(
    endpoint: RelayEndpoint,
    join: &JoinString,
    secret_key: &SecretKey,
) -> Result<Enrolled, EnrolError> {
    let identity = DialerIdentity {
        relay_public_key: join.relay_public_key,
        secret_key: secret_key.clone(),
        process: ProcessId::from(key::random::<16>()?),
    };
    let dialer = Dialer::new(
        endpoint,
        identity,
        None,
        true,
        Arc::new(LocalPorts::of_system()),
    );
    let credential = Credential {
        psk: join.token.secret.clone(),
        token: Some(join.token.id),
    };
    let connection = match dialer.dial(&credential, Strategy::QuicFirst).await {
        Ok(established) => established.connection,
        Err(DialError::Version(mismatch)) => {
            return Err(EnrolError::Rejected {
                code: Code::Incompatible,
                text: mismatch.to_string(),
            });
        }
        Err(error) => return Err(EnrolError::Unreachable(error.to_string())),
    };
    tokio::time::timeout(ANSWER_PATIENCE, redeem(connection))
        .await
        .unwrap_or_else(|_| Err(EnrolError::Lost("no answer in time".into())))
}

/// The control stream of an enrolment, which has one question and one answer.
enum Talk {
    Quic(quinn::Connection, quinn::SendStream, quinn::RecvStream),
    Lane(Lane),
}

async fn redeem(connection: Connection) -> Result<Enrolled, EnrolError> {
    let mut talk = match connection {
        Connection::Quic(connection, _endpoint) => {
            let (send, recv) = connection.open_bi().await.map_err(lost)?;
            Talk::Quic(connection, send, recv)
        }
        Connection::Lane(lane) => Talk::Lane(lane),
    };
    // A QUIC stream exists for the other side only once something was said on it.
    talk.send(&Message::Ping {
        number: 0,
        heard: None,
    })
    .await?;
    let mut decoder = Decoder::new();
    let answer = loop {
        match decoder
            .poll_message()
            .map_err(|error: MessageError| EnrolError::Misbehaved(error.to_string()))?
        {
            Some(Message::Welcome { psk, client, .. }) => {
                let psk =
                    psk.ok_or_else(|| EnrolError::Misbehaved("WELCOME without a key".into()))?;
                break Ok(Enrolled {
                    name: client.as_str().into(),
                    psk,
                });
            }
            Some(Message::Reject { code, text } | Message::Goodbye { code, text }) => {
                break Err(EnrolError::Rejected {
                    code,
                    text: text.as_str().into(),
                });
            }
            Some(_) => {}
            None => decoder.handle_input(&talk.receive().await?),
        }
    };
    if answer.is_ok() {
        let text = Text::new("enrolled");
        // The answer is here; a goodbye that is lost costs the relay a lease of nothing.
        drop(
            talk.send(&Message::Goodbye {
                code: Code::None,
                text,
            })
            .await,
        );
    }
    if let Talk::Quic(connection, ..) = &talk {
        let end = tokio::time::timeout(Duration::from_secs(1), connection.closed());
        drop(end.await);
        connection.close(quinn::VarInt::from_u32(0), b"");
    }
    answer
}

impl Talk {
    async fn send(&mut self, message: &Message) -> Result<(), EnrolError> {
        let mut encoded = BytesMut::new();
        message.encode(&mut encoded);
        match self {
            Self::Quic(_, send, _) => send.write_all(&encoded).await.map_err(lost),
            Self::Lane(lane) => lane
                .writer
                .write_frame(RecordType::Control, &encoded)
                .await
                .map_err(lost),
        }
    }

    async fn receive(&mut self) -> Result<Bytes, EnrolError> {
        match self {
            Self::Quic(_, _, recv) => {
                match recv.read_chunk(READ_CHUNK, true).await.map_err(lost)? {
                    Some(chunk) => Ok(chunk.bytes),
                    None => Err(EnrolError::Lost(
                        "the relay ended the control stream".into(),
                    )),
                }
            }
            Self::Lane(lane) => loop {
                match lane.reader.read().await.map_err(lost)? {
                    Some((RecordType::Control, piece)) => return Ok(piece),
                    Some(_) => {}
                    None => return Err(lost(LaneError::Truncated)),
                }
            },
        }
    }
}

fn lost(error: impl std::error::Error) -> EnrolError {
    EnrolError::Lost(error.to_string())
}

/// How long the relay may take to answer: it writes to its database.
const ANSWER_PATIENCE: Duration = Duration::from_secs(20);
/// Most that is read at once.
const READ_CHUNK: usize = 4096;
