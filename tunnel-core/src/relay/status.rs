//! The status that a relay reports: its clients, and the instances that are bound for them.

use std::{net::SocketAddr, time::Duration};

use crate::{
    health::Health,
    instance::{InstanceId, ServiceName},
    key::PublicKey,
    metrics::Snapshot,
    proto::message::ServiceDeclaration,
    relay::{
        entrance::Gate, ingress::players::PlayerId, reservations::Reservation, tunnel::RelayTunnel,
    },
    transport::Transport,
};

/// Who is connected to a relay, and what is bound.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RelayStatus {
    /// Clients that are connected, or whose ports are held.
    pub clients: Vec<ConnectedClient>,
    /// What the operator has reserved, sorted by instance.
    pub reservations: Vec<Reservation>,
    /// The counters.
    pub counters: Snapshot,
    /// The congestion control that the kernel gives to lanes, once there was one: `bbr` is what they want.
    pub lane_congestion: Option<String>,
}

/// One client, seen from its relay.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectedClient {
    /// Its name.
    pub name: String,
    /// Who it is.
    pub key: PublicKey,
    /// Where it connects from, if it is connected over a network.
    pub peer: Option<SocketAddr>,
    /// What its tunnel runs on; `None` while that is lost and its ports are held.
    pub transport: Option<Transport>,
    /// Round trip of its QUIC connection.
    pub rtt: Option<Duration>,
    /// Packets of its QUIC connection, sent by the relay and lost, and all that it has sent.
    pub lost_packets: Option<u64>,
    /// See [`lost_packets`](Self::lost_packets).
    pub sent_packets: Option<u64>,
    /// For how long its tunnel has been up.
    pub connected: Option<Duration>,
    /// Whether the client shuts down, and takes no new players.
    pub is_draining: bool,
    /// What is bound for it.
    pub instances: Vec<InstanceStatus>,
}

impl ConnectedClient {
    /// A client with the tunnel that is in use, if one is, and with its bound instances.
    pub(super) fn new(
        key: PublicKey,
        name: String,
        tunnel: Option<&RelayTunnel>,
        instances: Vec<InstanceStatus>,
    ) -> Self {
        let quic = tunnel.and_then(|tunnel| tunnel.quic.as_ref());
        Self {
            name,
            key,
            peer: tunnel.and_then(|tunnel| tunnel.peer),
            transport: tunnel.map(|tunnel| tunnel.transport),
            rtt: quic.map(quinn::Connection::rtt),
            connected: tunnel.map(|tunnel| tunnel.began.elapsed()),
            is_draining: tunnel.is_some_and(|tunnel| tunnel.draining.is_cancelled()),
            lost_packets: quic.map(|quic| quic.stats().path.lost_packets),
            sent_packets: quic.map(|quic| quic.stats().path.sent_packets),
            instances,
        }
    }
}

/// One bound instance, seen from the relay.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct InstanceStatus {
    /// Which.
    pub id: InstanceId,
    /// Which players it takes, by the operator's word.
    pub gate: Gate,
    /// Its services, all of them bound.
    pub services: Vec<ServiceStatus>,
}

/// One service whose public ports are open, seen from the relay.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServiceStatus {
    /// As the client has declared it.
    pub declaration: ServiceDeclaration,
    /// How its target is, if the client has told.
    pub health: Option<Health>,
    /// For how long its ports have been open.
    pub bound: Duration,
    /// Players' TCP connections.
    pub streams: usize,
    /// Players' UDP conversations.
    pub flows: usize,
    /// Bytes from players since its ports were opened.
    pub received: u64,
    /// Bytes to players since then.
    pub sent: u64,
}

/// A player who is connected to a service, over TCP or UDP.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PlayerStatus {
    /// What the relay calls it: see [`Relay::end_player`](super::Relay::end_player).
    pub id: PlayerId,
    /// The instance.
    pub instance: InstanceId,
    /// The service, while its client has a tunnel.
    pub service: Option<ServiceName>,
    /// Where the player is.
    pub player: SocketAddr,
    /// The public address that it plays at.
    pub public: SocketAddr,
    /// For how long it has been there.
    pub age: Duration,
    /// Bytes from the player.
    pub received: u64,
    /// Bytes to the player.
    pub sent: u64,
}
