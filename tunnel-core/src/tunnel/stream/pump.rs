//! Carries one stream: between a socket (the player's or the target's) and a channel of the tunnel.
//!
//! Three activities run side by side, so that none waits for another: `upward` reads the socket and writes the
//! channel, `downward` reads the channel and writes the socket, `backlog` writes what the socket did not take at once.
//! `downward` never waits for the socket: acknowledgements travel behind data, and two ends that wait for each
//! other's would never move again.

use std::{
    cell::RefCell,
    future::{Future, poll_fn},
    io::{self, IoSlice},
    net::Shutdown,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes, BytesMut};
use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream};
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::{Counter, Metrics},
    proto::{
        session::DEAD_AFTER,
        stream::{
            ACK_DELAY, RecvHalf, SendHalf, StreamMisbehaved,
            frame::{Frame, ResetCode},
            handover::{Look, Meter, Turn},
        },
    },
    socket,
    sync::lock,
    tunnel::{
        datagram::meter,
        fault::fault,
        futures::poll_when_woken,
        lane::gone,
        stream::{
            backlog::Waiting,
            budget::{Budget, Full},
            channel::{Channel, ChannelError, ChannelRx, ChannelTx, Item},
            handover::{Flowing, Next, Onward},
        },
    },
};

/// What a stream needs of the tunnel that it is on.
#[derive(Debug, Clone)]
pub(crate) struct Carrier {
    pub(crate) budget: Arc<Budget>,
    /// Is told when a player talks, if the tunnel has a QUIC connection.
    pub(crate) meter: Option<Arc<meter::Meter>>,
    /// Ends the stream with a reset on both sides: its tunnel has ended for good.
    pub(crate) closed: CancellationToken,
}

/// What a stream is, wherever it travels.
#[derive(Debug, Clone)]
pub(crate) struct Kind {
    pub(crate) metrics: Arc<Metrics>,
    /// Counts what the socket sends and what it is sent.
    pub(crate) direction: Direction,
    /// Ends the stream with a reset on both sides: its service is gone.
    pub(crate) cancelled: CancellationToken,
    /// Bytes per second from which it would do better on a lane.
    pub(crate) lane_rate: u64,
}

/// A stream ends after so long without any channel, on both sides: as a tunnel.
pub(crate) const RESUME_PATIENCE: Duration = DEAD_AFTER;

/// How a stream comes to another channel when its own is of no more use.
pub(crate) trait Resumption: Send {
    /// Comes when the stream should go on elsewhere though its channel may still work. Cancel safe.
    fn moved(&mut self, flowing: &Flowing) -> impl Future<Output = Moved> + Send;

    /// The next channel, for a stream of which every byte below `received` has come. An error ends the stream.
    fn resume(&mut self, received: u64) -> impl Future<Output = Result<Resumed, StreamEnd>> + Send;
}

/// Where a stream should go on.
#[derive(Debug)]
pub(crate) enum Moved {
    /// On another channel, which is asked for once this one is left: it leads nowhere.
    Away,
    /// On this channel of the same tunnel, on which both sides have named it, as soon as each direction has ended on
    /// the one that it is on.
    Onto(Box<Onward>),
}

/// A channel on which a stream goes on.
#[derive(Debug)]
pub(crate) struct Resumed {
    pub(crate) channel: Channel,
    pub(crate) carrier: Carrier,
    /// The other side has every byte below.
    pub(crate) received: u64,
    /// What it has to be told before anything else.
    pub(crate) greeting: Option<Frame>,
}

/// Which side of the tunnel the socket is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The socket is the player's: what it sends goes in.
    FromPlayer,
    /// The socket is the target's: what it sends goes out.
    FromTarget,
}

/// Why a stream ended otherwise than cleanly.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamEnd {
    #[error("the socket failed: {0}")]
    Socket(#[source] io::Error),
    #[error("the other side reset the stream: {0}")]
    PeerReset(ResetCode),
    #[error("the channel broke: {0}")]
    Broken(#[source] ChannelError),
    #[error(transparent)]
    Misbehaved(#[from] StreamMisbehaved),
    #[error("its reader was slow while memory ran short")]
    Stalled,
    #[error("the service ended")]
    Cancelled,
    #[error("it was to go on over another channel, and could not")]
    Moved,
}

impl StreamEnd {
    /// Whether the stream could go on over another channel: the bytes of this one do not come any more, and none that
    /// came was wrong.
    const fn is_of_the_channel(&self) -> bool {
        match self {
            Self::Moved => true,
            Self::Broken(error) => {
                !matches!(error, ChannelError::Frame(_) | ChannelError::Unexpected(_))
            }
            _ => false,
        }
    }
}

/// Carries a stream to its end, over one channel after another; what was read `early` has been sent. `Ok` is a clean end, and gives the last channel back if
/// it is clean, so that a lane can serve again; otherwise the other side has been told and the socket ends in a reset.
pub(crate) async fn run(
    socket: TcpStream,
    early: Option<Bytes>,
    mut channel: Channel,
    carrier: Carrier,
    kind: &Kind,
    resumption: &mut impl Resumption,
) -> Result<Option<Channel>, StreamEnd> {
    let mut stream = Stream::new(&socket, carrier, kind);
    if let Some(early) = early {
        stream.sent(early);
    }
    fault!("carrying a stream of {:?}", socket.local_addr().ok());
    fault!("carrying a stream to {:?}", socket.peer_addr().ok());
    let mut restart = None;
    let carried = loop {
        let Err(end) = stream.carry(&mut channel, restart.take(), resumption).await else {
            break Ok(Some(channel));
        };
        if !end.is_of_the_channel() {
            break Err((end, Some(channel)));
        }
        // From here on nothing comes on it that would have to be counted as received.
        drop(channel);
        // Seldom, and large: what every stream has room for all its life is what it always does.
        match Box::pin(stream.resume(resumption, end)).await {
            Ok(resumed) => {
                stream.settle(resumed.carrier);
                tracing::debug!("stream goes on over another channel");
                kind.metrics.streams_resumed.one();
                restart = Some(Box::new(stream.restart(resumed.received, resumed.greeting)));
                channel = resumed.channel;
            }
            // Everything is where it belongs, and only the word of it was lost.
            Err(_) if lock(&stream.state).is_complete() => break Ok(None),
            Err(end) => break Err((end, None)),
        }
    };
    let received = lock(&stream.state).recv.received();
    drop(stream);
    let (end, channel) = match carried {
        Ok(channel) => {
            socket::end_cleanly(socket);
            return Ok(channel);
        }
        Err(failed) => failed,
    };
    drop(socket);
    let code = match &end {
        StreamEnd::Socket(_) => Some(ResetCode::Socket),
        StreamEnd::Misbehaved(_) => Some(ResetCode::ProtocolError),
        StreamEnd::Stalled => Some(ResetCode::Limit),
        StreamEnd::Cancelled => Some(ResetCode::Shutdown),
        StreamEnd::PeerReset(_) | StreamEnd::Broken(_) | StreamEnd::Moved => None,
    };
    let channel = match (channel, &end) {
        // The other side waits for the stream to go on, and has to be told that it does not.
        (None, StreamEnd::Socket(_) | StreamEnd::Misbehaved(_)) => {
            let resumed = resumption.resume(received).await;
            resumed.ok().map(|resumed| resumed.channel)
        }
        (channel, _) => channel,
    };
    if let Some(mut channel) = channel {
        channel.tx.abort(code).await;
    }
    let metrics = &kind.metrics;
    match &end {
        StreamEnd::Socket(_) => metrics.stream_reset.one(),
        StreamEnd::Broken(_) | StreamEnd::Moved => metrics.stream_broken.one(),
        StreamEnd::Misbehaved(_) => metrics.stream_misbehaved.one(),
        StreamEnd::Stalled => metrics.stream_limit.one(),
        StreamEnd::PeerReset(_) | StreamEnd::Cancelled => {}
    }
    Err(end)
}

/// What goes first on a channel that continues a stream.
struct Restart {
    greeting: Option<Frame>,
    again: Result<Vec<Bytes>, StreamMisbehaved>,
    fin: Option<Frame>,
}

struct Stream<'a> {
    socket: &'a TcpStream,
    carrier: Carrier,
    kind: &'a Kind,
    state: Mutex<State>,
    /// Wakes `upward`: an acknowledgement came or is owed.
    up: Signal,
    /// Wakes `downward`, which waits for the channel to follow to.
    follow: Signal,
    /// Wakes `backlog`: something waits for the socket, or the end came.
    down: Signal,
    flowing: Flowing,
    next: Next,
    read: &'a Counter,
    written: &'a Counter,
}

/// However it ends, its tunnel gets back what it held.
impl Drop for Stream<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Wakes an activity of the same task that is polled later in the same round, so that no waker is needed and the
/// task is not run once more.
#[derive(Debug, Default)]
struct Signal(AtomicBool);

impl Signal {
    fn raise(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    async fn raised(&self) {
        poll_fn(|_| match self.0.swap(false, Ordering::Relaxed) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    }
}

struct State {
    send: SendHalf,
    recv: RecvHalf,
    /// What the socket did not take yet.
    waiting: Waiting,
    /// Whether `upward` knows that an acknowledgement is owed.
    ack_known: bool,
    turn: Turn,
    meter: Meter,
}

impl State {
    /// Bytes that are where they belong, in both directions.
    const fn through(&self) -> u64 {
        self.send.offset() - self.send.unacked() + self.recv.received()
    }

    /// Whether both ends have everything that there was.
    fn is_complete(&self) -> bool {
        self.send.is_finished() && self.send.unacked() == 0 && self.recv.is_complete()
    }
}

impl<'a> Stream<'a> {
    fn new(socket: &'a TcpStream, carrier: Carrier, kind: &'a Kind) -> Self {
        let metrics = &kind.metrics;
        let (read, written) = match kind.direction {
            Direction::FromPlayer => (&metrics.stream_bytes_in, &metrics.stream_bytes_out),
            Direction::FromTarget => (&metrics.stream_bytes_out, &metrics.stream_bytes_in),
        };
        let now = Instant::now();
        let state = State {
            send: SendHalf::new(now),
            recv: RecvHalf::new(),
            waiting: Waiting::default(),
            ack_known: false,
            turn: Turn::default(),
            meter: Meter::new(look(), 0, kind.lane_rate),
        };
        Self {
            socket,
            carrier,
            kind,
            state: Mutex::new(state),
            up: Signal::default(),
            follow: Signal::default(),
            down: Signal::default(),
            flowing: Flowing::default(),
            next: Next::default(),
            read,
            written,
        }
    }

    /// Carries the stream over one channel, to the end of either.
    async fn carry(
        &self,
        Channel { tx, rx }: &mut Channel,
        restart: Option<Box<Restart>>,
        resumption: &mut impl Resumption,
    ) -> Result<(), StreamEnd> {
        // What an activity of the channel before was woken for, and did not do.
        self.up.raise();
        self.down.raise();
        let ends = pin!(async {
            loop {
                tokio::select! {
                    moved = resumption.moved(&self.flowing) => match moved {
                        Moved::Away => return StreamEnd::Moved,
                        Moved::Onto(onward) => {
                            if !self.turn_to(*onward) {
                                return StreamEnd::Moved;
                            }
                        }
                    },
                    () = self.kind.cancelled.cancelled() => return StreamEnd::Cancelled,
                    () = self.carrier.closed.cancelled() => return StreamEnd::Cancelled,
                    error = gone(self.socket) => return StreamEnd::Socket(error),
                }
            }
        });
        // Pinned here, or the block below would keep room for it twice.
        let upward = pin!(async {
            match self.upward(tx, restart).await {
                // The other side reads no more. Why, stands behind what it still sends: `downward` comes to it.
                Err(StreamEnd::Broken(ChannelError::QuicWrite(quinn::WriteError::Stopped(_)))) => {
                    std::future::pending().await
                }
                ended => ended,
            }
        });
        // All in the order of the signals between them: see `Signal`.
        tokio::select! {
            biased;
            end = poll_when_woken(ends) => Err(end),
            carried = async {
                tokio::try_join!(biased; self.downward(rx), self.backlog(), upward)
            } => carried.map(drop),
        }
    }

    /// Both directions leave their channel for this one, each at its next word; unless they are on their way to another.
    fn turn_to(&self, onward: Onward) -> bool {
        let may_turn = lock(&self.state).turn.handle_agreed();
        if may_turn {
            self.flowing.set_turning(true);
            self.next.put(onward);
            self.up.raise();
            self.follow.raise();
        }
        may_turn
    }

    /// Gets another channel, while the socket takes what has come.
    async fn resume(
        &mut self,
        resumption: &mut impl Resumption,
        end: StreamEnd,
    ) -> Result<Resumed, StreamEnd> {
        let received = {
            let mut state = lock(&self.state);
            state.recv.handle_channel_lost();
            state.ack_known = false;
            state.turn = Turn::default();
            state.meter = Meter::new(look(), state.through(), self.kind.lane_rate);
            self.flowing.set(state.meter.pace());
            self.flowing.set_turning(false);
            state.recv.received()
        };
        self.next.clear();
        tracing::debug!("stream without a channel: {end}");
        tokio::select! {
            resumed = resumption.resume(received) => resumed,
            error = self.without_channel() => Err(error),
            () = self.kind.cancelled.cancelled() => Err(StreamEnd::Cancelled),
            () = self.carrier.closed.cancelled() => Err(StreamEnd::Cancelled),
        }
    }

    /// Serves the socket alone. Ends with its end.
    async fn without_channel(&self) -> StreamEnd {
        self.down.raise();
        let failed = async {
            loop {
                match self.socket.ready(Interest::ERROR).await {
                    Ok(_) => match self.socket.take_error() {
                        Ok(Some(error)) | Err(error) => return error,
                        Ok(None) => std::future::pending::<()>().await,
                    },
                    Err(error) => return error,
                }
            }
        };
        tokio::select! {
            error = failed => StreamEnd::Socket(error),
            Err(end) = self.backlog() => end,
            else => std::future::pending().await,
        }
    }

    /// Takes the stream's load over to the tunnel of the next channel.
    fn settle(&mut self, carrier: Carrier) {
        let (held, waiting) = {
            let state = lock(&self.state);
            (state.send.unacked(), state.recv.waiting())
        };
        carrier.budget.take(held);
        // What a tunnel may keep was checked when it came.
        _ = carrier.budget.wait(waiting, waiting);
        self.leave();
        self.carrier = carrier;
    }

    /// Gives back what the stream holds of its tunnel's budget.
    fn leave(&self) {
        let state = lock(&self.state);
        self.carrier.budget.give_back(state.send.unacked());
        self.carrier.budget.waited(state.recv.waiting());
    }

    fn restart(&self, received: u64, greeting: Option<Frame>) -> Restart {
        let state = lock(&self.state);
        let fin = state.send.is_finished().then_some(Frame::Fin {
            offset: state.send.offset(),
        });
        Restart {
            greeting,
            again: state.send.resend_from(received),
            fin,
        }
    }

    /// Socket to channel, with the acknowledgements that the other direction owes.
    async fn upward(
        &self,
        tx: &mut ChannelTx,
        restart: Option<Box<Restart>>,
    ) -> Result<(), StreamEnd> {
        if let Some(restart) = restart {
            // Seldom, and large, as `resume`.
            Box::pin(self.catch_up(tx, *restart)).await?;
        }
        let mut buffer = BytesMut::new();
        let mut read_size = READ_MIN;
        let mut ack_due: Option<Instant> = None;
        let mut at_end = lock(&self.state).send.is_finished();
        // Without room or after the end nothing is read, and only the socket's error state tells of a reset.
        let mut may_fail = true;
        // Set anew only for an earlier time: a wake too many every now and then costs less than a timer for each read.
        let mut timer = pin!(tokio::time::sleep(Duration::ZERO));
        let mut timer_due: Option<Instant> = None;
        loop {
            self.leave_channel(tx).await?;
            let (ack, room, owes, done, unacked) = {
                let mut state = lock(&self.state);
                let overdue = ack_due.is_some_and(|due| due <= Instant::now());
                let ack = if overdue || state.recv.owes_ack_now() {
                    state.recv.poll_ack()
                } else {
                    None
                };
                let owes = state.recv.owes_ack();
                state.ack_known = owes;
                let room = state.send.allowance(self.carrier.budget.free());
                let done = at_end && state.send.unacked() == 0 && state.recv.is_complete() && !owes;
                if self.carrier.budget.is_short() && state.send.is_stalled(Instant::now()) {
                    return Err(StreamEnd::Stalled);
                }
                (ack, room, owes, done, state.send.unacked())
            };
            let ack = ack.map(|offset| Frame::Ack { offset });
            if done {
                return tx.end(ack).await.map_err(StreamEnd::Broken);
            }
            if ack.is_some() {
                tx.write(ack, None).await.map_err(StreamEnd::Broken)?;
                ack_due = None;
                continue;
            }
            match (owes, ack_due) {
                (true, None) => ack_due = Some(Instant::now() + ACK_DELAY),
                (false, Some(_)) => ack_due = None,
                _ => {}
            }
            let may_read = !at_end && room > 0;
            // Without room, either our own reader has to take something, or others have to give something back,
            // of which nobody tells.
            let look_again = match (at_end || room > 0, unacked) {
                (true, 0) => None,
                (false, 0) => Some(Instant::now() + BUDGET_RETRY),
                (_, _) => Some(Instant::now() + STALL_LOOK),
            };
            if let Some(due) = ack_due.into_iter().chain(look_again).min()
                && timer_due.is_none_or(|set| due < set)
            {
                timer.as_mut().reset(due.into());
                timer_due = Some(due);
            }
            tokio::select! {
                biased;
                () = self.up.raised() => {}
                ready = self.socket.readable(), if may_read => {
                    ready.map_err(StreamEnd::Socket)?;
                    at_end = self.read_socket(tx, &mut buffer, &mut read_size, room, unacked).await?;
                    continue;
                }
                failed = self.socket.ready(Interest::ERROR), if !may_read && may_fail => {
                    failed.map_err(StreamEnd::Socket)?;
                    if let Some(error) = self.socket.take_error().map_err(StreamEnd::Socket)? {
                        return Err(StreamEnd::Socket(error));
                    }
                    may_fail = false;
                }
                () = timer.as_mut(), if timer_due.is_some() => timer_due = None,
            }
            if lock(&self.state).send.unacked() == 0 {
                // An idle stream holds nothing.
                buffer = BytesMut::new();
            }
        }
    }

    /// Sends what the channel before may have lost.
    async fn catch_up(&self, tx: &mut ChannelTx, restart: Restart) -> Result<(), StreamEnd> {
        let mut first = restart.greeting;
        for piece in restart.again? {
            let written = tx.write(first.take(), Some(piece)).await;
            written.map_err(StreamEnd::Broken)?;
        }
        for frame in first.into_iter().chain(restart.fin) {
            tx.write(Some(frame), None)
                .await
                .map_err(StreamEnd::Broken)?;
        }
        Ok(())
    }

    /// Goes on to the next channel, if there is one.
    async fn leave_channel(&self, tx: &mut ChannelTx) -> Result<(), StreamEnd> {
        let offset = {
            let state = lock(&self.state);
            if !state.turn.may_leave() {
                return Ok(());
            }
            state.send.offset()
        };
        let said = tx.write(Some(Frame::Move { offset }), None).await;
        said.map_err(StreamEnd::Broken)?;
        if !self.next.change_tx(tx) {
            return Err(StreamEnd::Moved);
        }
        if lock(&self.state).turn.handle_left() {
            self.flowing.set_turning(false);
        }
        self.kind.metrics.streams_moved.one();
        Ok(())
    }

    /// The other side goes on elsewhere: reads there from now on.
    async fn follow_channel(&self, rx: &mut ChannelRx, offset: u64) -> Result<(), StreamEnd> {
        if !self.flowing.is_named() {
            return Err(StreamMisbehaved::MovedUnasked.into());
        }
        {
            let mut state = lock(&self.state);
            let state = &mut *state;
            state.turn.handle_move(offset, &state.recv)?;
        }
        // Its last word here may be faster than its first one there.
        let agreed = async {
            while !lock(&self.state).turn.may_follow() {
                self.follow.raised().await;
            }
        };
        let is_agreed = tokio::time::timeout(FOLLOW_PATIENCE, agreed).await;
        if is_agreed.is_err() || !self.next.change_rx(rx) {
            return Err(StreamEnd::Moved);
        }
        if lock(&self.state).turn.handle_followed() {
            self.flowing.set_turning(false);
        }
        Ok(())
    }

    /// Reads once, as much as the bounds allow, and writes it to the channel. Returns whether the socket has ended.
    async fn read_socket(
        &self,
        tx: &mut ChannelTx,
        buffer: &mut BytesMut,
        read_size: &mut usize,
        room: u64,
        unacked: u64,
    ) -> Result<bool, StreamEnd> {
        let most = (*read_size).min(usize::try_from(room).unwrap_or(usize::MAX));
        let size = *read_size;
        let is_talk = size == READ_MIN && unacked <= TALK_MAX as u64;
        let data = match is_talk {
            true => read_talk(self.socket, most),
            false => read(self.socket, buffer, size, most),
        };
        let data = match data {
            Ok(data) if data.is_empty() => {
                let offset = lock(&self.state).send.handle_fin();
                tx.write(Some(Frame::Fin { offset }), None)
                    .await
                    .map_err(StreamEnd::Broken)?;
                return Ok(true);
            }
            Ok(data) => data,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(e) => return Err(StreamEnd::Socket(e)),
        };
        // Reads grow while the socket fills them, so that bulk costs few system calls and talk little memory.
        if data.len() == size {
            *read_size = (size * 2).min(READ_MAX);
        } else if data.len() < size / 4 {
            *read_size = (size / 2).max(READ_MIN);
        }
        if is_talk
            && data.len() <= TALK_MAX
            && let Some(meter) = &self.carrier.meter
        {
            meter.handle_talk();
        }
        self.sent(data.clone());
        let ack = lock(&self.state).recv.poll_ack();
        let ack = ack.map(|offset| Frame::Ack { offset });
        tx.write(ack, Some(data)).await.map_err(StreamEnd::Broken)?;
        Ok(false)
    }

    /// Counts what the socket gave and the channel gets, and keeps it until it is acknowledged.
    fn sent(&self, data: Bytes) {
        self.read.add(data.len() as u64);
        self.carrier.budget.take(data.len() as u64);
        lock(&self.state).send.handle_sent(Instant::now(), data);
    }

    /// Channel to socket, until the other side has ended and nothing of ours is under way.
    async fn downward(&self, rx: &mut ChannelRx) -> Result<(), StreamEnd> {
        loop {
            let mut next = rx.read().await.map_err(StreamEnd::Broken)?;
            let mut gathered = 0;
            loop {
                match next {
                    Item::Data(data) => {
                        gathered += data.len();
                        self.handle_data(data)?;
                    }
                    Item::Frame(Frame::Ack { offset }) => {
                        let now = Instant::now();
                        let mut state = lock(&self.state);
                        let released = state.send.handle_ack(now, offset)?;
                        self.measure(&mut state);
                        drop(state);
                        self.carrier.budget.give_back(released);
                        self.up.raise();
                    }
                    Item::Frame(Frame::Move { offset }) => {
                        self.write_backlog()?;
                        self.follow_channel(rx, offset).await?;
                    }
                    other => {
                        self.write_backlog()?;
                        if self.handle_end(&other)? {
                            return Ok(());
                        }
                    }
                }
                if gathered >= WRITE_MAX {
                    break;
                }
                match rx.read_ready().await {
                    Ok(Some(ready)) => next = ready,
                    Ok(None) => break,
                    Err(error) => {
                        self.write_backlog()?;
                        return Err(StreamEnd::Broken(error));
                    }
                }
            }
            if gathered > 0 {
                self.write_backlog()?;
            }
        }
    }

    /// What ends the stream or announces it. Returns whether the channel has ended as it should.
    fn handle_end(&self, item: &Item) -> Result<bool, StreamEnd> {
        match item {
            Item::Frame(Frame::Fin { offset }) => {
                lock(&self.state).recv.handle_fin(*offset)?;
                self.down.raise();
                Ok(false)
            }
            Item::Frame(Frame::Reset { code }) => Err(StreamEnd::PeerReset(*code)),
            Item::Frame(other) => Err(StreamEnd::Broken(ChannelError::Unexpected(other.kind()))),
            Item::Data(_) | Item::End => {
                // The other side ends it only when it knows that everything has come.
                if lock(&self.state).is_complete() {
                    Ok(true)
                } else {
                    Err(StreamEnd::Broken(ChannelError::Ended))
                }
            }
        }
    }

    /// Keeps data for the next write to the socket.
    fn handle_data(&self, data: Bytes) -> Result<(), StreamEnd> {
        let mut state = lock(&self.state);
        let length = data.len() as u64;
        state.recv.handle_data(length)?;
        let own = state.recv.waiting();
        match self.carrier.budget.wait(length, own) {
            Ok(()) => {}
            Err(Full::Tunnel) => {
                return Err(StreamMisbehaved::WindowExceeded { waiting: own }.into());
            }
            Err(Full::All) => return Err(StreamEnd::Stalled),
        }
        state.waiting.push(data);
        self.measure(&mut state);
        Ok(())
    }

    /// More has gone through.
    fn measure(&self, state: &mut State) {
        let through = state.through();
        self.flowing.handle_progress(through);
        if let Some(pace) = state.meter.handle_progress(through, look) {
            self.flowing.set(pace);
        }
    }

    /// Writes what waits as the socket takes it; at the other side's end, ends the socket's writing.
    async fn backlog(&self) -> Result<(), StreamEnd> {
        loop {
            self.down.raised().await;
            while !lock(&self.state).waiting.is_empty() {
                self.socket.writable().await.map_err(StreamEnd::Socket)?;
                self.write_backlog()?;
            }
            if lock(&self.state).recv.is_complete() {
                // An error says that the connection is gone, which the next read says too.
                drop(SockRef::from(self.socket).shutdown(Shutdown::Write));
                self.up.raise();
                return Ok(());
            }
        }
    }

    /// Writes what waits, as much as the socket takes at once; `backlog` does the rest.
    fn write_backlog(&self) -> Result<(), StreamEnd> {
        let mut state = lock(&self.state);
        while !state.waiting.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = state.waiting.fill(&mut slices);
            match self.socket.try_write_vectored(&slices[..count]) {
                Ok(written) => {
                    state.waiting.take(written);
                    self.delivered(&mut state, written);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    state.waiting.settle();
                    drop(state);
                    self.down.raise();
                    return Ok(());
                }
                Err(e) => return Err(StreamEnd::Socket(e)),
            }
        }
        // A stalled reader's queue is not kept for ever.
        state.waiting = Waiting::default();
        Ok(())
    }

    fn delivered(&self, state: &mut State, written: usize) {
        self.written.add(written as u64);
        state.recv.handle_delivered(written as u64);
        self.carrier.budget.waited(written as u64);
        if !state.ack_known || state.recv.owes_ack_now() {
            state.ack_known = true;
            self.up.raise();
        }
    }
}

/// Reads what the socket has, as far as the bounds allow. Empty at its end.
fn read(socket: &TcpStream, buffer: &mut BytesMut, size: usize, most: usize) -> io::Result<Bytes> {
    fill(socket, buffer, size, most)?;
    Ok(buffer.split().freeze())
}

/// The same into a buffer that all streams of the thread share, so that those that are idle have none. What is little is
/// copied: a byte that waits for its acknowledgement holds a byte.
fn read_talk(socket: &TcpStream, most: usize) -> io::Result<Bytes> {
    TALK.with_borrow_mut(|buffer| {
        fill(socket, buffer, READ_MIN, most)?;
        if buffer.len() > TALK_MAX {
            return Ok(buffer.split().freeze());
        }
        let copied = Bytes::copy_from_slice(buffer);
        buffer.clear();
        Ok(copied)
    })
}

fn fill(socket: &TcpStream, buffer: &mut BytesMut, size: usize, most: usize) -> io::Result<()> {
    if buffer.capacity() < most.min(size / 2) || buffer.capacity() == 0 {
        buffer.reserve(size);
    }
    let asked = most.min(buffer.capacity() - buffer.len());
    let came = socket.try_read_buf(&mut buffer.limit(most))?;
    if came < asked && came > 0 {
        socket::settle(socket);
    }
    Ok(())
}

fn look() -> Look {
    Look {
        now: Instant::now(),
        processor: socket::processor_time(),
    }
}

thread_local! {
    static TALK: RefCell<BytesMut> = RefCell::default();
}

/// Bytes that are talk, which is copied as it is read: 2 KiB. A player who sends single bytes to a reader that stalls gets
/// no more copies than these, of which each has a place of its own.
const TALK_MAX: usize = 2 * 1024;
/// First size of a socket read: 16 KiB, one record of a lane.
const READ_MIN: usize = 16 * 1024;
/// Largest size of a socket read: 256 KiB, one write of a lane.
const READ_MAX: usize = 256 * 1024;
/// Bytes gathered for one write to the socket: 256 KiB, what one write of a lane brings.
const WRITE_MAX: usize = 256 * 1024;
/// Pieces of one write to the socket: 64 packets of a QUIC stream; a lane has 16 in one write.
const SLICES: usize = 64;
/// How long the word that agrees to a channel may come after the one that leads there: a few round trips, and losses
/// among them.
const FOLLOW_PATIENCE: Duration = Duration::from_secs(3);
/// How soon a stream without room looks again whether others have given some back.
const BUDGET_RETRY: Duration = Duration::from_millis(10);
/// How often a stream that waits for its reader looks whether it stalls the tunnel.
const STALL_LOOK: Duration = Duration::from_secs(10);
