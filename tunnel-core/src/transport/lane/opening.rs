//! How a lane opens, on both ends.

use std::{io, sync::Arc};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zeroize::Zeroizing;

use super::{
    conn::Io,
    error::{LaneError, PeerMisbehaved},
    further::{FURTHER, FurtherOpening, LaneRegistry, TunnelId, lane_secret},
    halves::LaneHalves,
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
    transport::psk::PskSource,
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

/// A first lane, after the client's first record.
#[derive(Debug)]
pub(crate) struct FirstLane {
    /// Who the client is.
    pub(crate) peer: PublicKey,
    /// The pre-shared key that it has proved, or the token's secret.
    pub(crate) psk: Psk,
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

/// The first message of a connection, read and not looked at.
#[derive(Debug)]
pub(crate) enum LaneOpening {
    /// A full handshake's: half a millisecond of CPU before anyone has proven anything.
    First(FirstMessage),
    /// A further lane's: a look-up and a MAC.
    Further(FurtherMessage),
}

/// Message 1 of a full handshake.
#[derive(Debug)]
pub(crate) struct FirstMessage {
    suite: Suite,
    message: Vec<u8>,
}

/// The opening of a further lane.
#[derive(Debug)]
pub(crate) struct FurtherMessage(FurtherOpening);

/// Reads the first message of a connection from anyone. The caller bounds the time, for this waits for the peer as long
/// as the peer likes, and the number of those that wait at once.
///
/// On any error, here and later, the connection is to be dropped: the peer then sees a close without a byte, or, if it
/// is a client that the relay does not know, after an answer that it cannot read.
pub(crate) async fn read_opening(io: &mut Io) -> Result<LaneOpening, LaneError> {
    let mut first = [0];
    read_exact(io, &mut first).await?;
    let [first] = first;
    if first == FURTHER {
        let mut opening = FurtherOpening::unread();
        read_exact(io, opening.rest_mut()).await?;
        return Ok(LaneOpening::Further(FurtherMessage(opening)));
    }
    let suite = Suite::from_number(first).ok_or(PeerMisbehaved::UnknownOpening(first))?;
    let mut buffer = [0; MESSAGE_MAX];
    let message = read_message(io, &mut buffer).await?.to_vec();
    Ok(LaneOpening::First(FirstMessage { suite, message }))
}

/// A handshake that has its answer, which is still to be sent.
#[derive(Debug)]
pub(crate) struct AnsweredLane {
    peer: PublicKey,
    psk: Psk,
    hello: Hello,
    suite: Suite,
    message: Vec<u8>,
    secrets: Secrets,
}

impl FirstMessage {
    /// Reads message 1 and makes the answer: all of the handshake's Diffie-Hellman, at once.
    pub(crate) fn answer(&self, relay: &RelaySide) -> Result<AnsweredLane, LaneError> {
        let suite = self.suite;
        let responder = Responder::new(suite, TransportKind::Lane, &relay.key, key::random()?)?;
        let identified = responder.read_hello(&self.message)?;
        let (peer, hello) = (identified.peer(), identified.hello().clone());
        // Made for everyone, so that a known client costs what an unknown one does.
        let nobodys = Psk::generate()?;
        let psk = relay.psks.psk(&peer, hello.token).unwrap_or(nobodys);
        let (message, secrets) = identified.answer(&psk, &relay.answer)?;
        Ok(AnsweredLane {
            peer,
            psk,
            hello,
            suite,
            message,
            secrets,
        })
    }
}

impl AnsweredLane {
    /// Sends the answer and waits for the client's proof that it could read it.
    pub(crate) async fn prove(self, mut io: Io) -> Result<FirstLane, LaneError> {
        write_message(&mut io, &[], &self.message).await?;
        let mut halves = LaneHalves::new(io, self.suite, &self.secrets.lane, Role::Relay)?;
        let (kind, body) = (halves.reader.read().await?).ok_or(PeerMisbehaved::Unproven)?;
        if kind != RecordType::Control || !body.is_empty() {
            halves.reader.keep((kind, body));
        }
        Ok(FirstLane {
            peer: self.peer,
            psk: self.psk,
            hello: self.hello,
            suite: self.suite,
            halves,
            exporter: exporter(&self.secrets)?,
        })
    }
}

impl FurtherMessage {
    /// Opens the lane if its tunnel is there and the MAC is right.
    pub(crate) async fn open(self, io: Io, relay: &RelaySide) -> Result<FurtherLane, LaneError> {
        let tunnel = self.0.tunnel();
        let handle = (relay.lanes.secret(&tunnel)).ok_or(PeerMisbehaved::UnknownTunnel)?;
        let (number, secret) = handle.accept(&self.0)?;
        let mut halves = LaneHalves::new(io, handle.suite(), &secret, Role::Relay)?;
        halves.writer.write_frame(RecordType::Ready, &[]).await?;
        halves.writer.release();
        Ok(FurtherLane {
            tunnel,
            number,
            halves,
        })
    }
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
