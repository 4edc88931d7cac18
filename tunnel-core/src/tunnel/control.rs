//! The control stream as a pair of queues of messages, whatever carries it.

use bytes::BytesMut;
use tokio::sync::mpsc;

use crate::proto::message::{Decoder, Message, MessageError};

/// Both directions of a control stream. The tasks behind it end when it is dropped.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) tx: mpsc::Sender<Message>,
    pub(crate) rx: mpsc::Receiver<Result<Message, MessageError>>,
}

/// The other ends of a [`Control`], for what carries it.
#[derive(Debug)]
pub(crate) struct ControlCarrier {
    pub(crate) outgoing: mpsc::Receiver<Message>,
    pub(crate) incoming: ControlInput,
}

/// Where the carrier puts what it reads.
#[derive(Debug)]
pub(crate) struct ControlInput {
    decoder: Decoder,
    tx: mpsc::Sender<Result<Message, MessageError>>,
}

/// A control stream and what its carrier needs.
pub(crate) fn pair() -> (Control, ControlCarrier) {
    let (out_tx, out_rx) = mpsc::channel(QUEUE);
    let (in_tx, in_rx) = mpsc::channel(QUEUE);
    let incoming = ControlInput {
        decoder: Decoder::new(),
        tx: in_tx,
    };
    (
        Control {
            tx: out_tx,
            rx: in_rx,
        },
        ControlCarrier {
            outgoing: out_rx,
            incoming,
        },
    )
}

impl ControlInput {
    /// Takes a piece of the stream. Returns `false` when nobody wants more of it.
    pub(crate) async fn handle_input(&mut self, input: &[u8]) -> bool {
        self.decoder.handle_input(input);
        loop {
            let message = match self.decoder.poll_message() {
                Ok(Some(message)) => Ok(message),
                Ok(None) => return true,
                Err(error) => Err(error),
            };
            let failed = message.is_err();
            if self.tx.send(message).await.is_err() || failed {
                return false;
            }
        }
    }
}

/// Carries a control stream over a QUIC stream, until either ends.
pub(crate) fn over_quic(mut send: quinn::SendStream, mut recv: quinn::RecvStream) -> Control {
    // Control goes before every stream of a player.
    drop(send.set_priority(CONTROL_PRIORITY));
    let (control, mut carrier) = pair();
    tokio::spawn(async move {
        let mut encoded = BytesMut::new();
        while let Some(message) = carrier.outgoing.recv().await {
            message.encode(&mut encoded);
            while let Ok(message) = carrier.outgoing.try_recv() {
                message.encode(&mut encoded);
            }
            if send.write_all(&encoded.split()).await.is_err() {
                return;
            }
        }
        drop(send.finish());
    });
    tokio::spawn(async move {
        while let Ok(Some(chunk)) = recv.read_chunk(READ_CHUNK, true).await {
            if !carrier.incoming.handle_input(&chunk.bytes).await {
                return;
            }
        }
    });
    control
}

/// 64 messages: a burst of declarations; a peer that sends more waits.
const QUEUE: usize = 64;
/// QUIC's streams of players have priority 0.
const CONTROL_PRIORITY: i32 = 1;
/// Most that is taken out of the control stream at once.
const READ_CHUNK: usize = 16 * 1024;
