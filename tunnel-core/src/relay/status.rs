//! The status that a relay reports: its clients, and the instances that are bound for them.

use std::{net::SocketAddr, time::Duration};

use crate::{
    instance::InstanceId, key::PublicKey, metrics::Snapshot, proto::message::ServiceDeclaration,
    relay::tunnel::RelayTunnel, transport::Transport,
};

/// Who is connected to a relay, and what is bound.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RelayStatus {
    /// Clients that are connected, or whose ports are held.
    pub clients: Vec<ConnectedClient>,
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
    /// What is bound for it.
    pub instances: Vec<InstanceStatus>,
}

impl ConnectedClient {
    /// A client with the tunnel that is in use, if one is, and with its bound instances.
    pub(super) fn new<'a>(
        key: PublicKey,
        name: String,
        tunnel: Option<&RelayTunnel>,
        instances: impl Iterator<Item = (&'a InstanceId, &'a [ServiceDeclaration])>,
    ) -> Self {
        let quic = tunnel.and_then(|tunnel| tunnel.quic.as_ref());
        Self {
            name,
            key,
            peer: tunnel.and_then(|tunnel| tunnel.peer),
            transport: tunnel.map(|tunnel| tunnel.transport),
            rtt: quic.map(quinn::Connection::rtt),
            instances: instances
                .map(|(id, services)| InstanceStatus {
                    id: id.clone(),
                    services: services.to_vec(),
                })
                .collect(),
        }
    }
}

/// One bound instance, seen from the relay.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct InstanceStatus {
    /// Which.
    pub id: InstanceId,
    /// Its services, all of them bound.
    pub services: Vec<ServiceDeclaration>,
}
