//! How a lane opens, on both ends.

use std::{io, sync::Arc};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zeroize::Zeroizing;

use super::{
    Io, LaneError, LaneHalves, LaneRegistry, PeerMisbehaved, TunnelId,
    further::{FURTHER, FurtherOpening, lane_secret},
};
use crate::{
    key::{self, Psk, PublicKey, SecretKey},
    proto::{
        handshake::{
            Answer, Hello, Initiator, MAX_LANE_PAYLOAD, Responder, Secret, Secrets, Suite,
            TransportKind,
        },
        record::{RecordType, Role},
    },
    transport::PskSource,
};

/// Opens a tunnel's first lane with a full handshake. Answers the lane, what the relay said, and the secret that
/// further lanes come from.
///
/// On success the relay is proven, and its proof of us is on its way. Without a pre-shared key that the relay knows,
/// this fails with an undecryptable answer.
pub(crate) async fn connect_first(
    mut io: Io,
    suite: Suite,
    local: &SecretKey,
    relay: &PublicKey,
    psk: &Psk,
    hello: &Hello,
) -> Result<(LaneHalves, Answer, Secret), LaneError> {
    let ephemeral = key::random()?;
    let (initiator, message) = Initiator::new(
        suite,
        TransportKind::Lane,
        local,
        relay,
        psk,
        ephemeral,
        hello,
    )?;
    write_message(&mut io, &[suite.number()], &message).await?;
    let mut buffer = [0; MESSAGE_MAX];
    let message = read_message(&mut io, &mut buffer)
        .await
        .map_err(|error| match error {
            LaneError::Truncated => LaneError::Refused,
            other => other,
        })?;
    let (answer, secrets) = initiator.read_answer(message)?;
    let mut lane = LaneHalves::new(io, suite, &secrets.lane, Role::Client)?;
    // Any record proves us; an empty piece of the control stream means nothing else.
    lane.writer.write_frame(RecordType::Control, &[]).await?;
    lane.writer.release();
    Ok((lane, answer, exporter(&secrets)?))
}

/// Opens a further lane of the tunnel that exported `exporter`. Each `number`, from 1, may be used once.
pub(crate) async fn connect_further(
    mut io: Io,
    exporter: &Secret,
    number: u64,
    suite: Suite,
) -> Result<LaneHalves, LaneError> {
    let opening = FurtherOpening::new(exporter, number);
    io.write_all(opening.as_bytes()).await?;
    let mut lane = LaneHalves::new(io, suite, &lane_secret(exporter, number), Role::Client)?;
    match lane.reader.read().await? {
        Some((RecordType::Ready, _)) => Ok(lane),
        Some((other, _)) => Err(PeerMisbehaved::NotReady(other).into()),
        None => Err(LaneError::Refused),
    }
}

/// What a relay accepts lanes with.
#[derive(Debug, Clone)]
pub(crate) struct RelaySide {
    /// Its static key.
    pub(crate) key: SecretKey,
    /// Which client has which pre-shared key.
    pub(crate) psks: Arc<dyn PskSource>,
    /// The tunnels that may have further lanes.
    pub(crate) lanes: Arc<dyn LaneRegistry>,
    /// What it says in every handshake.
    pub(crate) answer: Answer,
}

/// What has opened.
#[derive(Debug)]
pub(crate) enum Opening {
    /// A tunnel's first lane, by a client that has proven itself.
    First(FirstLane),
    /// One more lane of a tunnel that lives.
    Further(FurtherLane),
}

/// A first lane, after the client's first record.
#[derive(Debug)]
pub(crate) struct FirstLane {
    /// Who the client is.
    pub(crate) peer: PublicKey,
    /// What it said. The versions may not agree: whoever takes the lane looks.
    pub(crate) hello: Hello,
    /// The suite that it picked, which further lanes use too.
    pub(crate) suite: Suite,
    /// The lane itself.
    pub(crate) halves: LaneHalves,
    /// The secret that further lanes come from.
    pub(crate) exporter: Secret,
}

/// A further lane, after its READY.
#[derive(Debug)]
pub(crate) struct FurtherLane {
    /// Whose it is.
    pub(crate) tunnel: TunnelId,
    /// Its number.
    pub(crate) number: u64,
    /// The lane itself.
    pub(crate) halves: LaneHalves,
}

/// Takes in a connection from anyone. To be dropped on any error: the peer then sees a close without a byte, or, if
/// it is a client that the relay does not know, after an answer that it cannot read.
///
/// The caller bounds the time, for this waits for the peer as long as the peer likes, and the number of those that
/// run at once, for a full handshake is about half a millisecond of CPU before anyone has proven anything.
pub(crate) async fn accept(mut io: Io, relay: &RelaySide) -> Result<Opening, LaneError> {
    let mut first = [0];
    read_exact(&mut io, &mut first).await?;
    let [first] = first;
    if first == FURTHER {
        return accept_further(io, relay).await.map(Opening::Further);
    }
    let suite = Suite::from_number(first).ok_or(PeerMisbehaved::UnknownOpening(first))?;
    accept_first(io, suite, relay).await.map(Opening::First)
}

async fn accept_first(mut io: Io, suite: Suite, relay: &RelaySide) -> Result<FirstLane, LaneError> {
    let mut buffer = [0; MESSAGE_MAX];
    let message = read_message(&mut io, &mut buffer).await?;
    let responder = Responder::new(suite, TransportKind::Lane, &relay.key, key::random()?)?;
    let identified = responder.read_hello(message)?;
    let (peer, hello) = (identified.peer(), identified.hello().clone());
    // Made for everyone, so that a known client costs what an unknown one does.
    let nobodys = Psk::generate()?;
    let psk = relay.psks.psk(&peer, hello.token).unwrap_or(nobodys);
    let (message, secrets) = identified.answer(&psk, &relay.answer)?;
    write_message(&mut io, &[], &message).await?;
    let mut halves = LaneHalves::new(io, suite, &secrets.lane, Role::Relay)?;
    let (kind, body) = (halves.reader.read().await?).ok_or(PeerMisbehaved::Unproven)?;
    if kind != RecordType::Control || !body.is_empty() {
        halves.reader.keep((kind, body));
    }
    Ok(FirstLane {
        peer,
        hello,
        suite,
        halves,
        exporter: exporter(&secrets)?,
    })
}

async fn accept_further(mut io: Io, relay: &RelaySide) -> Result<FurtherLane, LaneError> {
    let mut opening = FurtherOpening::unread();
    read_exact(&mut io, opening.rest_mut()).await?;
    let tunnel = opening.tunnel();
    let handle = (relay.lanes.secret(&tunnel)).ok_or(PeerMisbehaved::UnknownTunnel)?;
    let (number, secret) = handle.accept(&opening)?;
    let mut halves = LaneHalves::new(io, handle.suite(), &secret, Role::Relay)?;
    halves.writer.write_frame(RecordType::Ready, &[]).await?;
    halves.writer.release();
    Ok(FurtherLane {
        tunnel,
        number,
        halves,
    })
}

fn exporter(secrets: &Secrets) -> Result<Secret, LaneError> {
    let mut exported = Zeroizing::new([0; 32]);
    secrets.export(b"adit lanes", b"", exported.as_mut_slice())?;
    Ok(Secret::from(*exported))
}

/// Writes `before`, then a handshake message with its length, at once.
async fn write_message(io: &mut Io, before: &[u8], message: &[u8]) -> Result<(), LaneError> {
    let length =
        u16::try_from(message.len()).map_err(|_| PeerMisbehaved::MessageTooLong(message.len()))?;
    let bytes = [before, &length.to_be_bytes(), message].concat();
    Ok(io.write_all(&bytes).await?)
}

/// Reads a handshake message into `buffer`, and nothing of what follows it.
async fn read_message<'a>(
    io: &mut Io,
    buffer: &'a mut [u8; MESSAGE_MAX],
) -> Result<&'a [u8], LaneError> {
    let mut length = [0; 2];
    read_exact(io, &mut length).await?;
    let length = usize::from(u16::from_be_bytes(length));
    let message = (buffer.get_mut(..length)).ok_or(PeerMisbehaved::MessageTooLong(length))?;
    read_exact(io, message).await?;
    Ok(message)
}

async fn read_exact(io: &mut Io, buffer: &mut [u8]) -> Result<(), LaneError> {
    match io.read_exact(buffer).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(LaneError::Truncated),
        Err(error) => Err(error.into()),
    }
}

/// Longest handshake message on a lane: message 1 has an ephemeral key, a sealed static key and a sealed payload.
const MESSAGE_MAX: usize = 32 + 48 + MAX_LANE_PAYLOAD + 16;
