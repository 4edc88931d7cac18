//! Enemies against a real relay and a real client: on the path between them, where they record, replay, reflect,
//! reorder, truncate and make things up; beside it, with what was recorded; and inside, with keys of their own.
#![cfg(feature = "net")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../support/mod.rs"]
mod support;

mod insider;
mod lanes;
mod late;
mod packets;
mod unproven;
mod wire;

use tokio::net::{TcpStream, UdpSocket};
use tunnel_core::{
    client::{Client, ClientIdentity},
    event::{Event, Events},
};

use support::{
    Lab, bound, hang,
    servers::{Server, tcp_echo, udp_echo},
    simple,
};

/// A client whose game is played over TCP and UDP while others attack.
struct Played {
    client: Client,
    tcp: TcpStream,
    udp: UdpSocket,
    _server: Server,
    tunnels: u64,
}

impl Played {
    /// At the laboratory's port `n`.
    async fn start(lab: &Lab, identity: ClientIdentity, n: u16) -> Self {
        let server = Server::both(lab.ip).await;
        let port = lab.port + n;
        let wanted = simple(&format!("game-{n}"), "both", port, server.address());
        let client = lab.start(identity, [wanted.clone()]);
        bound(&client, &wanted).await;
        let mut played = Self {
            client,
            tcp: lab.tcp(port).await,
            udp: lab.udp(port).await,
            _server: server,
            tunnels: lab.relay().metrics().tunnels_opened,
        };
        played.goes_on().await;
        played
    }

    async fn goes_on(&mut self) {
        tcp_echo(&mut self.tcp, b"still there?").await;
        udp_echo(&self.udp, b"still there?").await;
    }

    /// The game gets something to answer.
    async fn udp_says(&self) {
        self.udp.send(b"a move").await.unwrap();
    }

    /// The same players on the same tunnel; nobody was let in meanwhile.
    async fn is_undisturbed(&mut self, lab: &Lab) {
        self.goes_on().await;
        let counters = lab.relay().metrics();
        assert_eq!(counters.tunnels_opened, self.tunnels);
        assert_eq!((counters.flows, counters.streams), (1, 1));
        assert_eq!((counters.flows_opened, counters.streams_opened), (1, 1));
        assert!(self.client.status().await.unwrap().transport.is_some());
    }
}

/// Waits until a client has failed so often to find its relay.
async fn fails(events: &mut Events, times: usize) {
    for _ in 0..times {
        hang("a failed try", async {
            loop {
                match events.next().await.unwrap().unwrap() {
                    Event::TunnelUp { .. } => panic!("an enemy was taken for the relay"),
                    Event::Reconnecting { .. } => return,
                    _ => {}
                }
            }
        })
        .await;
    }
}
