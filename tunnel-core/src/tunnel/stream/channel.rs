//! A channel: what carries one stream, a QUIC stream of its own or a lane taken from the pool.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    io,
    pin::pin,
    slice,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};

use crate::{
    proto::{
        record::RecordType,
        stream::frame::{
            DATA, DataHead, Decoded, Frame, FrameDecoder, FrameError, MAX_DATA, ResetCode,
        },
    },
    transport::lane::{LaneError, LaneHalves, LaneReader, LaneWriter},
};

/// Both sides of a channel.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) tx: ChannelTx,
    pub(crate) rx: ChannelRx,
}

impl Channel {
    /// On a QUIC stream of its own.
    pub(crate) fn quic(send: quinn::SendStream, recv: quinn::RecvStream) -> Self {
        Self {
            tx: ChannelTx::quic(send),
            rx: ChannelRx::quic(recv),
        }
    }

    /// On a QUIC stream of its own that opens something, which is opened elsewhere if that cannot be said in full.
    pub(crate) fn opening(send: quinn::SendStream, recv: quinn::RecvStream) -> Self {
        let mut channel = Self::quic(send, recv);
        if let ChannelTx::Quic(quic) = &mut channel.tx {
            quic.is_opening = true;
        }
        channel
    }

    /// On a lane.
    pub(crate) fn lane(lane: LaneHalves) -> Self {
        Self {
            tx: ChannelTx::Lane(lane.writer),
            rx: ChannelRx::Lane(lane.reader),
        }
    }

    /// The lane under it, if it is one.
    pub(crate) fn into_lane(self) -> Option<LaneHalves> {
        match (self.tx, self.rx) {
            (ChannelTx::Lane(writer), ChannelRx::Lane(reader)) => {
                Some(LaneHalves { reader, writer })
            }
            _ => None,
        }
    }

    /// Whether it is a lane.
    pub(crate) const fn is_lane(&self) -> bool {
        matches!(self.tx, ChannelTx::Lane(_))
    }
}

/// The writing side of a channel.
#[derive(Debug)]
pub(crate) enum ChannelTx {
    Quic(QuicTx),
    Lane(Box<LaneWriter>),
}

/// The writing side of a QUIC stream.
#[derive(Debug)]
pub(crate) struct QuicTx {
    stream: quinn::SendStream,
    /// A write was begun and not ended: what comes now would be taken for its data.
    is_within_write: bool,
    /// Nothing has been said on it in full yet: what it was to open is opened elsewhere if that fails.
    is_opening: bool,
}

/// What is opened again elsewhere must not begin here too: quinn would send what it has taken of an opening.
impl Drop for QuicTx {
    fn drop(&mut self) {
        if self.is_opening && self.is_within_write {
            // Closed already: then nothing is sent.
            drop(self.stream.reset(quinn::VarInt::from_u32(0)));
        }
    }
}

/// The reading side of a channel. Boxed: a future has room for it once for each hand that it goes through.
#[derive(Debug)]
pub(crate) enum ChannelRx {
    Quic(Box<QuicRx>),
    Lane(Box<LaneReader>),
}

/// What a channel brought.
#[derive(Debug)]
pub(crate) enum Item {
    /// The stream's next bytes.
    Data(Bytes),
    /// A frame without payload.
    Frame(Frame),
    /// The other side has ended the channel.
    End,
}

/// Why a channel cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChannelError {
    #[error("QUIC stream: {0}")]
    QuicRead(#[from] quinn::ReadError),
    #[error("QUIC stream: {0}")]
    QuicWrite(#[from] quinn::WriteError),
    #[error("lane: {0}")]
    Lane(#[from] LaneError),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("it ended before the stream did")]
    Ended,
    #[error("all lanes that the tunnel may have are in use, and it has nothing else")]
    NoLane,
    #[error("the peer sent a frame of type {0:#04x} in the wrong place")]
    Unexpected(u8),
}

impl ChannelTx {
    pub(crate) const fn quic(stream: quinn::SendStream) -> Self {
        Self::Quic(QuicTx {
            stream,
            is_within_write: false,
            is_opening: false,
        })
    }

    /// Writes a frame, data, or both in one go. Waits while the path is full.
    pub(crate) fn write(
        &mut self,
        frame: Option<Frame>,
        data: Option<Bytes>,
    ) -> impl Future<Output = Result<(), ChannelError>> + Send {
        // Encoded here: every stream has room for this future as long as it lives, and a frame is large.
        let (kind, mut head) = self.encode(frame);
        let mut data = data.unwrap_or_default();
        async move {
            match self {
                Self::Quic(quic) => {
                    quic.is_within_write = true;
                    write_quic(&mut quic.stream, &mut head, &mut data).await?;
                    quic.is_within_write = false;
                    quic.is_opening = false;
                    Ok(())
                }
                Self::Lane(lane) => {
                    if let Some(kind) = kind {
                        push_frame(lane, kind, &head).await?;
                    }
                    // Frame and data leave together: one segment, and one wake of the other side.
                    Ok(lane.write_data(slice::from_ref(&data)).await?)
                }
            }
        }
    }

    /// A frame as it is written here, with its type.
    fn encode(&self, frame: Option<Frame>) -> (Option<u8>, BytesMut) {
        let mut head = match (self, &frame) {
            // The head of data is the lane's business.
            (Self::Lane(_), None) => BytesMut::new(),
            _ => BytesMut::with_capacity(HEAD),
        };
        if let Some(frame) = &frame {
            match self {
                Self::Quic(_) => frame.encode(&mut head),
                Self::Lane(_) => frame.encode_body(&mut head),
            }
        }
        (frame.map(|frame| frame.kind()), head)
    }

    /// Ends the channel after everything was sent and acknowledged, with a last word before.
    pub(crate) async fn end(&mut self, last: Option<Frame>) -> Result<(), ChannelError> {
        let (kind, mut head) = self.encode(last);
        match self {
            Self::Quic(quic) => {
                if kind.is_some() {
                    write_quic(&mut quic.stream, &mut head, &mut Bytes::new()).await?;
                }
                // Already closed: by the end of the connection, which the reading side reports.
                drop(quic.stream.finish());
                Ok(())
            }
            Self::Lane(lane) => {
                if let Some(kind) = kind {
                    push_frame(lane, kind, &head).await?;
                }
                push_frame(lane, Frame::Idle.kind(), &[]).await?;
                Ok(lane.flush().await?)
            }
        }
    }

    /// What was said last on it leads the other side elsewhere. A lane may serve again.
    pub(crate) fn left(self) -> Option<Self> {
        match self {
            Self::Quic(mut quic) => {
                // Already closed: by the end of the connection, which the reading side reports.
                drop(quic.stream.finish());
                None
            }
            Self::Lane(_) => Some(self),
        }
    }

    /// Ends the channel at once, telling why if that is not known yet. The channel is of no more use.
    pub(crate) async fn abort(&mut self, code: Option<ResetCode>) {
        if let (Self::Quic(quic), Some(code)) = (&mut *self, code)
            && quic.is_within_write
        {
            let code = quinn::VarInt::from_u64(code.into()).unwrap_or_default();
            // Closed already: then the peer knows.
            drop(quic.stream.reset(code));
            return;
        }
        let told = match code {
            // The peer may not read any more: its silence must not hold us.
            Some(code) => {
                let told = self.write(Some(Frame::Reset { code }), None);
                tokio::time::timeout(ABORT_PATIENCE, told)
                    .await
                    .is_ok_and(|told| told.is_ok())
            }
            None => false,
        };
        if let Self::Quic(quic) = self {
            // A reset would overtake the frame: only where nothing could be told.
            if told {
                drop(quic.stream.finish());
            } else {
                drop(quic.stream.reset(quinn::VarInt::from_u32(0)));
            }
        }
    }
}

impl ChannelRx {
    pub(crate) fn quic(stream: quinn::RecvStream) -> Self {
        Self::Quic(Box::new(QuicRx {
            stream,
            decoder: FrameDecoder::new(),
            chunks: VecDeque::new(),
        }))
    }

    /// The next thing that the channel brings. Cancel-safe.
    pub(crate) async fn read(&mut self) -> Result<Item, ChannelError> {
        match self {
            Self::Quic(quic) => match quic.read().await {
                // The peer could not write a RESET frame behind a write that it had to give up.
                Err(ChannelError::QuicRead(quinn::ReadError::Reset(code))) => {
                    Ok(Item::Frame(Frame::Reset {
                        code: code.into_inner().into(),
                    }))
                }
                read => read,
            },
            Self::Lane(lane) => loop {
                let record = lane.read().await?.ok_or(ChannelError::Ended)?;
                if let Some(item) = item(record)? {
                    return Ok(item);
                }
            },
        }
    }

    /// The next thing, if it has come already: what goes on together with the one before it.
    pub(crate) async fn read_ready(&mut self) -> Result<Option<Item>, ChannelError> {
        match self {
            Self::Quic(quic) => quic.read_ready().await,
            Self::Lane(lane) => {
                while let Some(record) = lane.read_ready().map_err(LaneError::from)? {
                    if let Some(item) = item(record)? {
                        return Ok(Some(item));
                    }
                }
                Ok(None)
            }
        }
    }
}

/// What a lane's record means to a stream; `None` for nothing.
fn item((kind, body): (RecordType, Bytes)) -> Result<Option<Item>, ChannelError> {
    match kind {
        RecordType::Frame(kind) if kind.number() == DATA => Ok(Some(Item::Data(body))),
        RecordType::Frame(kind) => match Frame::decode_body(kind.number(), &body)? {
            Frame::Idle => Ok(Some(Item::End)),
            frame => Ok(Some(Item::Frame(frame))),
        },
        // The client's wish to use the lane for datagrams crossed with the OPEN that took it.
        RecordType::Datagram => Ok(None),
        other => Err(ChannelError::Unexpected(other.number())),
    }
}

/// The reading side of a QUIC stream, cut into frames.
#[derive(Debug)]
pub(crate) struct QuicRx {
    stream: quinn::RecvStream,
    decoder: FrameDecoder,
    /// Taken out of the stream, and not yet given to the decoder.
    chunks: VecDeque<Bytes>,
}

impl QuicRx {
    async fn read(&mut self) -> Result<Item, ChannelError> {
        loop {
            if let Some(item) = self.next()? {
                return Ok(item);
            }
            if poll_fn(|cx| self.poll_fill(cx)).await? {
                continue;
            }
            return if self.decoder.is_between_frames() {
                Ok(Item::End)
            } else {
                Err(ChannelError::Ended)
            };
        }
    }

    async fn read_ready(&mut self) -> Result<Option<Item>, ChannelError> {
        loop {
            if let Some(item) = self.next()? {
                return Ok(Some(item));
            }
            let more = poll_fn(|cx| Poll::Ready(self.poll_fill(cx))).await;
            // The end and every error come again with the next `read`.
            if !matches!(more, Poll::Ready(Ok(true))) {
                return Ok(None);
            }
        }
    }

    /// The next thing of what was taken out of the stream.
    fn next(&mut self) -> Result<Option<Item>, ChannelError> {
        loop {
            match self.decoder.poll()? {
                Some(Decoded::Data(data)) => return Ok(Some(Item::Data(data))),
                Some(Decoded::Frame(frame)) => return Ok(Some(Item::Frame(frame))),
                None => {}
            }
            let Some(chunk) = self.chunks.pop_front() else {
                // An idle stream holds nothing.
                self.chunks = VecDeque::new();
                return Ok(None);
            };
            self.decoder.handle_input(chunk);
        }
    }

    /// Takes what has come out of the stream, under one lock of the connection. `false` is the stream's end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, quinn::ReadError>> {
        let mut chunks = [const { Bytes::new() }; READ_CHUNKS];
        // `read_chunks` keeps no state between polls.
        let read = pin!(self.stream.read_chunks(&mut chunks)).poll(cx);
        let Some(count) = ready!(read)? else {
            return Poll::Ready(Ok(false));
        };
        self.chunks.extend(chunks.into_iter().take(count));
        Poll::Ready(Ok(true))
    }
}

async fn write_quic(
    stream: &mut quinn::SendStream,
    head: &mut BytesMut,
    data: &mut Bytes,
) -> Result<(), ChannelError> {
    if data.is_empty() {
        return Ok(stream.write_all(head).await?);
    }
    loop {
        let piece = data.split_to(data.len().min(MAX_DATA));
        if let Some(data_head) = DataHead::new(piece.len()) {
            head.extend_from_slice(&data_head);
        }
        stream
            .write_all_chunks(&mut [head.split().freeze(), piece])
            .await?;
        if data.is_empty() {
            return Ok(());
        }
    }
}

/// Seals a frame, to leave with the next flush.
async fn push_frame(lane: &mut LaneWriter, kind: u8, body: &[u8]) -> Result<(), ChannelError> {
    if let Some(kind) = RecordType::from_number(kind) {
        // What a dropped future left goes first.
        if lane.is_full() {
            lane.flush().await?;
        }
        lane.push(kind, &[], body)?;
    }
    Ok(())
}

impl From<io::Error> for ChannelError {
    fn from(error: io::Error) -> Self {
        Self::Lane(error.into())
    }
}

/// Room for an OPEN frame, the largest in use, and a DATA head.
const HEAD: usize = 96;
/// Most that is taken out of a QUIC stream at once: 64 packets, about 90 KiB and one write to the socket.
const READ_CHUNKS: usize = 64;
/// How long a reset may take to leave before it is not waited for.
const ABORT_PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);
