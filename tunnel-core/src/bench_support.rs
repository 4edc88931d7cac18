//! What the benches need of the crate's inside. It is no part of the API and changes at will.

mod tables;

use std::io;

use bytes::Bytes;
use tokio::net::TcpStream;

pub use self::tables::{FairQueue, Services};
use crate::{
    key::PublicKey,
    proto::{handshake::Secret, record::Role},
    transport::lane::{Io, LaneError, LaneHalves, LaneReader, LaneWriter, tune},
    transport::quic::firsts,
};
pub use crate::{
    proto::handshake::Suite,
    transport::quic::congestion::{Level, LevelConfig},
};

/// The sending half of a lane.
#[derive(Debug)]
pub struct Sender(LaneWriter);

impl Sender {
    /// Writes `data` as DATA records.
    pub async fn send(&mut self, data: &[Bytes]) -> io::Result<()> {
        self.0.write_data(data).await.map_err(other)
    }

    /// Seals what fits of `data`, and says how much that was.
    pub fn push(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.push_data(data).map_err(other)
    }

    /// Writes what was sealed.
    pub async fn flush(&mut self) -> io::Result<()> {
        self.0.flush().await.map_err(other)
    }

    /// Ends the direction.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        self.0.shutdown().await.map_err(other)
    }
}

/// The receiving half of a lane.
#[derive(Debug)]
pub struct Receiver(LaneReader);

impl Receiver {
    /// The next record's body.
    pub async fn recv(&mut self) -> io::Result<Option<Bytes>> {
        let record = self.0.read().await.map_err(other)?;
        Ok(record.map(|(_, body)| body))
    }

    /// The next record's body, if it has already come.
    pub fn recv_ready(&mut self) -> io::Result<Option<Bytes>> {
        let record = self.0.read_ready().map_err(|error| other(error.into()))?;
        Ok(record.map(|(_, body)| body))
    }
}

/// Both ends of a lane without a handshake.
pub fn lane(near: TcpStream, far: TcpStream, suite: Suite) -> io::Result<[(Sender, Receiver); 2]> {
    let end = |tcp, role| -> io::Result<_> {
        let lane = LaneHalves::new(Io::Tcp(tcp), suite, &Secret::from([7; 32]), role);
        let lane = lane.map_err(|error| other(error.into()))?;
        Ok((Sender(*lane.writer), Receiver(*lane.reader)))
    };
    Ok([end(near, Role::Client)?, end(far, Role::Relay)?])
}

/// First messages of a client that no relay knows, to flood one with.
#[derive(Debug)]
pub struct FirstMessages(firsts::FirstMessages);

impl FirstMessages {
    /// Records one that is meant for this relay.
    pub async fn record(relay: PublicKey) -> io::Result<Self> {
        firsts::FirstMessages::record(relay).await.map(Self)
    }

    /// The recorded datagram.
    pub fn recorded(&self) -> &[u8] {
        self.0.recorded()
    }

    /// Another datagram with the same message, as genuine as the recorded one.
    pub fn fresh(&self) -> io::Result<Vec<u8>> {
        self.0.fresh()
    }
}

/// Asks the kernel for what a lane wants, and describes the answer.
pub fn tuned(tcp: &TcpStream) -> String {
    format!("{:?}", tune(tcp))
}

fn other(error: LaneError) -> io::Error {
    io::Error::other(error)
}
