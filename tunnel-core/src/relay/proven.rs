//! A connection whose client has proved its key and has no tunnel yet.
//!
//! A client that gets no tunnel is sent a single message before its connection is closed. It holds its slot and as little memory as
//! possible until then, because the owner of a revoked key can come back any number of times.

use std::{convert::Infallible, future::pending, net::SocketAddr, time::Duration};

use bytes::BytesMut;
use zeroize::Zeroize;

use crate::{
    key::{Psk, PublicKey},
    proto::{
        handshake::{Hello, Secret, Suite},
        message::{Decoder, Message},
        record::RecordType,
    },
    relay::limit::pending::HandshakeSlot,
    transport::Transport,
    tunnel::lane::Lane,
};

/// A client that has proved its key, and its connection.
pub(super) struct Proven {
    pub(super) peer: PublicKey,
    pub(super) psk: Psk,
    pub(super) hello: Hello,
    pub(super) suite: Suite,
    pub(super) exporter: Secret,
    pub(super) address: Option<SocketAddr>,
    pub(super) transport: ClientConnection,
}

pub(super) enum ClientConnection {
    Quic(quinn::Connection),
    Lane(Lane, Transport),
}

/// Sends one message to a client that gets no tunnel and waits until the client has read it, which it shows by a GOODBYE or by
/// closing. Ends early when another handshake needs the slot.
pub(super) async fn send_and_close(
    transport: ClientConnection,
    message: &Message,
    slot: Option<HandshakeSlot>,
) {
    // Room for the longest of them: a buffer that grows leaves copies behind.
    let mut encoded = BytesMut::with_capacity(READ_CHUNK);
    message.encode(&mut encoded);
    let told = async {
        match transport {
            ClientConnection::Quic(connection) => tell_over_quic(&connection, &encoded).await,
            ClientConnection::Lane(lane, _) => tell_over_lane(lane, &encoded).await,
        }
    };
    let evicted = async {
        match &slot {
            Some(slot) => slot.evicted().await,
            None => pending().await,
        }
    };
    tokio::select! {
        told = tokio::time::timeout(CONTROL_PATIENCE, told) => drop(told),
        () = evicted => {}
    }
    // WELCOME brings a secret.
    encoded.zeroize();
}

async fn tell_over_quic(connection: &quinn::Connection, encoded: &[u8]) {
    let told = async {
        let Ok((mut send, mut recv)) = connection.accept_bi().await else {
            return;
        };
        let (mut decoder, mut patience) = (Decoder::new(), Patience::default());
        if send.write_all(encoded).await.is_ok() {
            while let Ok(Some(chunk)) = recv.read_chunk(READ_CHUNK, true).await {
                if patience.is_over(&chunk.bytes) || says_goodbye(&mut decoder, &chunk.bytes) {
                    break;
                }
            }
        }
    };
    let talks_on = async {
        let mut patience = Patience::default();
        while let Ok(datagram) = connection.read_datagram().await {
            if patience.is_over(&datagram) {
                break;
            }
        }
    };
    tokio::select! {
        () = told => {}
        () = talks_on => {}
    }
    connection.close(quinn::VarInt::from_u32(0), b"");
}

async fn tell_over_lane(mut lane: Lane, encoded: &[u8]) {
    let (mut decoder, mut patience) = (Decoder::new(), Patience::default());
    let (writer, reader) = (&mut lane.writer, &mut lane.reader);
    let written = writer.write_frame(RecordType::Control, encoded).await;
    while let Ok(Some((kind, piece))) = reader.read().await {
        if written.is_err()
            || patience.is_over(&piece)
            || kind == RecordType::Control && says_goodbye(&mut decoder, &piece)
        {
            break;
        }
    }
}

/// What is read of a client that gets no tunnel: enough for a heartbeat and a goodbye. Who sends more does not want to know.
#[derive(Default)]
struct Patience(usize);

impl Patience {
    fn is_over(&mut self, heard: &[u8]) -> bool {
        self.0 += heard.len() + PIECE_COST;
        self.0 > HEARD_MOST
    }
}

/// Reads and drops the datagrams that come before there is a tunnel. Never returns.
pub(super) async fn discard_datagrams(transport: &ClientConnection) -> Infallible {
    match transport {
        ClientConnection::Quic(connection) => discard(connection).await,
        ClientConnection::Lane(..) => pending().await,
    }
}

async fn discard(connection: &quinn::Connection) -> Infallible {
    while connection.read_datagram().await.is_ok() {
        // A flood must not keep the thread from everybody else.
        tokio::task::consume_budget().await;
    }
    pending().await
}

/// Whether the input has a GOODBYE, or is malformed.
fn says_goodbye(decoder: &mut Decoder, input: &[u8]) -> bool {
    decoder.handle_input(input);
    loop {
        match decoder.poll_message() {
            Ok(Some(Message::Goodbye { .. })) | Err(_) => return true,
            Ok(Some(_)) => {}
            Ok(None) => return false,
        }
    }
}

/// Most bytes that are read at once from a client that gets no tunnel.
const READ_CHUNK: usize = 4096;
/// Bytes that are read of a client that gets no tunnel: 16 KiB, as much as QUIC lets it send before.
const HEARD_MOST: usize = 16 << 10;
/// What a piece of it costs beside its bytes.
const PIECE_COST: usize = 64;
/// How long a proven client may take to open its control stream, and to read why it is rejected.
pub(super) const CONTROL_PATIENCE: Duration = Duration::from_secs(10);
