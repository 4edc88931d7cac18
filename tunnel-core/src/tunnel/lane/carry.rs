//! Runs a lane that carries datagrams, and control messages if it is the tunnel's first, where there is no QUIC.

use std::sync::OnceLock;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use crate::{
    proto::{
        datagram::{DatagramHead, FlowId, Kind},
        message::Message,
        record::RecordType,
    },
    transport::lane::{LaneError, LaneHalves, LaneReader, LaneTuning, LaneWriter},
    tunnel::{
        control::{ControlCarrier, ControlInput},
        datagram::{BATCH, DatagramHandler, LaneQueue},
        futures::now_or_never,
        lane::pool::Lane,
    },
};

/// Carries datagrams, and control if it is the tunnel's first lane, until the lane ends.
pub(crate) async fn carry(
    lane: Lane,
    control: Option<ControlCarrier>,
    datagrams: LaneQueue,
    handler: &mut dyn DatagramHandler,
) -> Result<(), LaneError> {
    let LaneHalves { reader, writer } = *lane;
    let (outgoing, incoming) = match control {
        Some(carrier) => (Some(carrier.outgoing), Some(carrier.incoming)),
        None => (None, None),
    };
    // A peer that pings faster than it reads is not answered each time.
    let (pong, pongs) = mpsc::channel(4);
    tokio::select! {
        ended = carry_in(*reader, incoming, pong, handler) => ended,
        ended = carry_out(*writer, outgoing, datagrams, pongs) => ended,
    }
}

async fn carry_in(
    mut reader: LaneReader,
    mut control: Option<ControlInput>,
    pong: mpsc::Sender<Bytes>,
    handler: &mut dyn DatagramHandler,
) -> Result<(), LaneError> {
    loop {
        let mut next = Some(reader.read().await?);
        // Whatever has been read is handled, or it would be lost: a batch ends before the next record is taken.
        let mut left = BATCH;
        while let Some(record) = next {
            match record {
                None => return Ok(()),
                Some((RecordType::Datagram, datagram)) => handler.handle(datagram),
                Some((RecordType::Control, piece)) => {
                    let Some(control) = &mut control else {
                        return Err(unexpected(RecordType::Control));
                    };
                    // It may wait for long: nothing is held meanwhile.
                    handler.flush();
                    if !control.handle_input(&piece).await {
                        return Ok(());
                    }
                }
                Some((RecordType::Ping, body)) => drop(pong.try_send(body)),
                Some((RecordType::Pong, _)) => {}
                Some((kind, _)) => return Err(unexpected(kind)),
            }
            left -= 1;
            next = match left {
                0 => None,
                _ => now_or_never(reader.read()).await.transpose()?,
            };
        }
        handler.flush();
    }
}

async fn carry_out(
    mut writer: LaneWriter,
    mut control: Option<mpsc::Receiver<Message>>,
    mut datagrams: LaneQueue,
    mut pongs: mpsc::Receiver<Bytes>,
) -> Result<(), LaneError> {
    let mut encoded = BytesMut::new();
    loop {
        tokio::select! {
            biased;
            message = next_message(&mut control) => {
                let Some(message) = message else { return Ok(()) };
                message.encode(&mut encoded);
                let bytes = encoded.split();
                for piece in bytes.chunks(CONTROL_PIECE) {
                    writer.write_frame(RecordType::Control, piece).await?;
                }
            }
            datagram = datagrams.next() => {
                let Some(datagram) = datagram else { return Ok(()) };
                writer.write_frame(RecordType::Datagram, &datagram).await?;
            }
            Some(body) = pongs.recv() => writer.write_frame(RecordType::Pong, &body).await?,
        }
    }
}

/// The datagram by which a client asks for a lane to carry datagrams, and by which the relay agrees.
pub(crate) fn probe() -> Bytes {
    let mut probe = BytesMut::new();
    let head = DatagramHead {
        kind: Kind::Probe,
        ..DatagramHead::data(FlowId(0))
    };
    head.encode(&mut probe);
    probe.freeze()
}

/// What the kernel granted the first lane, and so every lane.
#[derive(Debug, Default)]
pub(crate) struct Granted(OnceLock<LaneTuning>);

impl Granted {
    /// Keeps what the first lane was granted. Returns a remark for the operator, once.
    pub(crate) fn note(&self, tuning: LaneTuning) -> Option<String> {
        self.0.set(tuning).ok()?;
        self.0.get()?.warning()
    }

    /// The congestion control of lanes, as the kernel names it.
    pub(crate) fn congestion(&self) -> Option<String> {
        self.0.get()?.congestion.clone()
    }
}

async fn next_message(control: &mut Option<mpsc::Receiver<Message>>) -> Option<Message> {
    match control {
        Some(control) => control.recv().await,
        None => std::future::pending().await,
    }
}

/// Piece of the control stream in one record: below a record's 16 KiB.
const CONTROL_PIECE: usize = 16_000;

fn unexpected(kind: RecordType) -> LaneError {
    crate::transport::lane::PeerMisbehaved::WrongPlace(kind).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        proto::{
            handshake::{Secret, Suite},
            record::Role,
        },
        transport::lane::Io,
    };

    /// Keeps the first byte of each datagram.
    #[derive(Default)]
    struct Keep(Vec<u8>);

    impl DatagramHandler for Keep {
        fn handle(&mut self, datagram: Bytes) {
            self.0.push(datagram[0]);
        }

        fn flush(&mut self) {}
    }

    #[tokio::test]
    async fn a_lane_loses_nothing_however_much_has_come_at_once() {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let lane = |io, role| {
            LaneHalves::new(Io::Mem(io), Suite::Aes256Gcm, &Secret::from([7; 32]), role).unwrap()
        };
        let (near, mut far) = (lane(near, Role::Relay), lane(far, Role::Client));
        let all: Vec<u8> = (0..=255).collect();
        for &n in &all {
            let sent = far.writer.write_frame(RecordType::Datagram, &[n]).await;
            sent.unwrap();
        }
        drop(far);
        let (mut kept, (pong, _pongs)) = (Keep::default(), mpsc::channel(1));
        carry_in(*near.reader, None, pong, &mut kept).await.unwrap();
        assert_eq!(kept.0, all);
    }
}
