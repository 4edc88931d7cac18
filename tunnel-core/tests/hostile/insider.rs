//! Against the relay, by a client with a key of its own that keeps to no rule. It speaks through lanes, with the
//! protocol's own parts put together by hand.

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tunnel_core::{
    client::ClientIdentity,
    proto::{
        handshake::{Capabilities, Hello, Initiator, ProcessId, SUPPORTED, Suite, TransportKind},
        message::{Decoder, Message},
        record::{Deframer, FrameType, RecordType, Role, Sealer, directions},
    },
};

use crate::{
    Played,
    support::{Lab, Via, hang, random, until},
};

/// The control lane of a client that was let in.
struct Insider {
    tcp: TcpStream,
    sealer: Sealer,
    deframer: Deframer,
    control: Decoder,
}

impl Insider {
    async fn enter(lab: &Lab, identity: &ClientIdentity) -> Self {
        let suite = Suite::ChaCha20Poly1305;
        let hello = Hello {
            versions: SUPPORTED,
            capabilities: Capabilities::SUPPORTED,
            process: ProcessId::from(random::<16>()),
            token: None,
            transport_parameters: None,
        };
        let (initiator, message) = Initiator::new(
            suite,
            TransportKind::Lane,
            &identity.secret_key,
            &identity.relay_public_key,
            &identity.psk,
            random::<32>(),
            &hello,
        )
        .unwrap();
        let mut tcp = TcpStream::connect(lab.listen()).await.unwrap();
        tcp.write_u8(suite.number()).await.unwrap();
        tcp.write_u16(message.len() as u16).await.unwrap();
        tcp.write_all(&message).await.unwrap();
        let length = hang("message 2", tcp.read_u16()).await.unwrap();
        let mut answer = vec![0; length.into()];
        tcp.read_exact(&mut answer).await.unwrap();
        let (_, secrets) = initiator.read_answer(&answer).unwrap();
        let (sealer, opener) = directions(suite, &secrets.lane, Role::Client).unwrap();
        let mut insider = Self {
            tcp,
            sealer,
            deframer: Deframer::new(opener),
            control: Decoder::new(),
        };
        let (number, heard) = (0, None);
        insider.says(&Message::Ping { number, heard }).await;
        loop {
            match insider.hears().await.unwrap() {
                Message::Ping { number, .. } => insider.says(&Message::Pong { number }).await,
                Message::Welcome { .. } => return insider,
                _ => {}
            }
        }
    }

    async fn says(&mut self, message: &Message) {
        let mut encoded = BytesMut::new();
        message.encode(&mut encoded);
        self.send(RecordType::Control, &encoded).await;
    }

    async fn send(&mut self, kind: RecordType, body: &[u8]) {
        let mut record = BytesMut::new();
        self.sealer.seal_into(&mut record, kind, &[], body).unwrap();
        // The relay may have closed already.
        drop(self.tcp.write_all(&record).await);
    }

    /// The next control message; `None` once the relay has closed.
    async fn hears(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.control.poll_message().unwrap() {
                return Some(message);
            }
            while let Some((kind, body)) = self.deframer.poll_record().unwrap() {
                if kind == RecordType::Control {
                    self.control.handle_input(&body);
                }
            }
            if let Some(message) = self.control.poll_message().unwrap() {
                return Some(message);
            }
            let read = self.tcp.read_buf(self.deframer.buffer_mut());
            if !matches!(hang("the relay", read).await, Ok(1..)) {
                return None;
            }
        }
    }

    /// Whatever the relay still says, it closes.
    async fn thrown_out(mut self) {
        while self.hears().await.is_some() {}
    }
}

/// A varint in its longest form.
fn long(number: u64) -> [u8; 8] {
    (number | 0xc000_0000_0000_0000).to_be_bytes()
}

const MOST: u64 = (1 << 62) - 1;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_length_that_promises_gigabytes_ends_only_its_own_tunnel() {
    let lab = Lab::new(Via::Quic).await;
    let mut neighbour = Played::start(&lab, lab.identity(), 0).await;
    let control = RecordType::Control;
    let frame = |number| RecordType::Frame(FrameType::from_number(number).unwrap());
    let attacks: [(RecordType, Vec<u8>); 8] = [
        // A DECLARE, and a message of no known type, of 2^62 - 1 bytes; one byte more than is allowed.
        (control, [&[3][..], &long(MOST)].concat()),
        (control, [&long(99)[..], &long(MOST)].concat()),
        (control, [&[3][..], &long(65_537)].concat()),
        // Fields that promise more than their message holds.
        (control, [&[3, 17, 1][..], &long(MOST), &[1; 8]].concat()),
        (control, [&[3, 17, 3][..], &long(1 << 32), &[1; 8]].concat()),
        // What only the relay may say; frames and READY, which have no place on a control lane.
        (control, vec![5, 6, 1, 1, b'a', 2, 1, 1]),
        (frame(0x10), [&[1][..], &long(MOST)].concat()),
        (RecordType::Ready, Vec::new()),
    ];
    for (kind, body) in attacks {
        let mut insider = Insider::enter(&lab, &lab.identity()).await;
        insider.send(kind, &body).await;
        insider.thrown_out().await;
    }
    until("the end of each of those tunnels", || {
        lab.relay().metrics().tunnels == 1
    })
    .await;
    neighbour.goes_on().await;
    assert_eq!(lab.relay().metrics().panics, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_that_mean_nothing_are_dropped_and_counted() {
    let lab = Lab::new(Via::Quic).await;
    let mut neighbour = Played::start(&lab, lab.identity(), 0).await;
    let mut insider = Insider::enter(&lab, &lab.identity()).await;
    let before = lab.relay().metrics();
    let attacks: [&[u8]; 6] = [
        // Nothing, an unknown kind, a head that ends too soon, a fragment of none.
        &[],
        &[0x1f, 1],
        &[0x80, 1, 255],
        &[0x40, 1, 0, 0, 0, 0],
        // A flow that nobody has, and the neighbour's.
        &[0, 0x7f, 0xff, b'x'],
        &[0, 1, b'x'],
    ];
    for attack in attacks {
        insider.send(RecordType::Datagram, attack).await;
    }
    let dropped = |counters: tunnel_core::metrics::Snapshot| {
        (counters.drop_malformed, counters.drop_unknown_flow)
    };
    until("every one's being counted", || {
        dropped(lab.relay().metrics()) == (before.drop_malformed + 4, before.drop_unknown_flow + 2)
    })
    .await;
    let (number, heard) = (77, None);
    insider.says(&Message::Ping { number, heard }).await;
    // It stays: a datagram may be of a later version.
    while insider.hears().await != Some(Message::Pong { number: 77 }) {}
    neighbour.goes_on().await;
}
