//! Adit's engine: an authenticated, multiplexed tunnel that brings players to game servers behind NAT.
//!
//! ```text
//!                   public ports                              targets
//!                 ┌──────────────┐                       ┌──────────────┐
//!  player ──TCP──►│ stream ······│                       │·······► TCP ─┼──► game server
//!                 │      relay   ╞════════ tunnel ═══════╡   client     │    127.0.0.1:7777
//!  player ──UDP──►│ flow ········│  QUIC, and TCP lanes  │·······► UDP ─┼──►
//!                 └──────────────┘                       └──────────────┘
//!                  on a public host    dialled by the client     behind NAT
//! ```
//!
//! # Concepts
//!
//! * A **relay** ([`relay::Relay`]) owns public ports and accepts players there. Whom it lets in, an
//!   [`Authority`](relay::Authority) says.
//! * A **client** ([`client::Client`]) runs beside the game servers. It dials the relay, so it needs no port of its own,
//!   and connects only to targets of its own configuration: the relay names services, never addresses.
//! * A **tunnel** joins the two: a QUIC connection and, beside it or instead of it, **lanes**, which are TCP connections
//!   under Noise. Both sides prove themselves in a Noise `IKpsk2` handshake with static keys ([`key`]); there are no
//!   certificates. [`Transport`] says what a tunnel runs on.
//! * An **instance** ([`instance::Instance`]) is a game server as one unit. Its **services** ([`instance::Service`]) are
//!   public ports with their protocol, target and options. Instances are added, changed and removed while others play.
//! * A **stream** is one player's TCP connection through the tunnel: every byte, in order, also when the lane, the tunnel
//!   or the node's address under it changes.
//! * A **flow** is one player's UDP conversation: datagrams as they come, so that one lost packet delays nobody else.
//!
//! The crate opens no file, prints nothing, installs no logger and keeps no global state. It reports through
//! [`event::Events`], [`metrics::Snapshot`] and the [`tracing`] crate. Input from a peer never panics it and is
//! bounded before it allocates.
//!
//! # A client
//!
//! A game that publishes itself needs an identity, which `relay-server invite` and [`client::enrol`] give, and one service:
//!
//! ```no_run
//! use tunnel_core::{client::{Client, ClientIdentity}, instance::{Instance, Protocol, Service}};
//!
//! # async fn publish(identity: ClientIdentity) -> Result<(), Box<dyn std::error::Error>> {
//! let game = Service::new("game", Protocol::Both, "127.0.0.1:7777")?;
//! let client = Client::builder(identity).instances([Instance::new("srv_123", [game])?]).start()?;
//! client.bound().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Both sides
//!
//! In one process, over a network in memory, as tests do it:
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//! use tokio::{io::{AsyncReadExt, AsyncWriteExt}, net::{TcpListener, TcpStream}};
//! use tunnel_core::{
//!     client::{Client, ClientIdentity},
//!     instance::{Instance, Protocol, Service},
//!     key::{Psk, SecretKey},
//!     mem,
//!     relay::{Relay, StaticAuthority},
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A game server that greets, and a port for it that is free at this moment.
//! let game = TcpListener::bind("127.0.0.1:0").await?;
//! let target = game.local_addr()?;
//! let public = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
//! tokio::spawn(async move {
//!     while let Ok((mut player, _)) = game.accept().await {
//!         player.write_all(b"welcome").await.ok();
//!     }
//! });
//!
//! let (relay_key, node_key, psk) = (SecretKey::generate()?, SecretKey::generate()?, Psk::generate()?);
//! let identity = ClientIdentity::new(
//!     "relay.example.net:4433".parse()?,
//!     relay_key.public_key(),
//!     node_key.clone(),
//!     psk.clone(),
//! );
//! let authority =
//!     StaticAuthority::new().client("node-1", node_key.public_key(), psk, "1024-65535".parse()?);
//!
//! let network = mem::Network::new();
//! let relay = Relay::builder(relay_key, Arc::new(authority))
//!     .mem(&network)
//!     .public_bind("127.0.0.1".parse()?)
//!     .start()
//!     .await?;
//! let service = Service::new("game", Protocol::Tcp, target)?.public_port(public.port())?;
//! let instance = Instance::new("srv_123", [service])?;
//! let client = Client::builder(identity).mem(&network).instances([instance]).start()?;
//! client.bound().await?;
//!
//! let mut player = TcpStream::connect(public).await?;
//! let mut greeting = String::new();
//! player.read_to_string(&mut greeting).await?;
//! assert_eq!(greeting, "welcome");
//!
//! client.shutdown(Duration::ZERO).await;
//! relay.shutdown(Duration::ZERO).await;
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! * `net` (default): relay, client and transports. Without it only the plain types and the protocol build, which keeps
//!   the protocol free of sockets, clock, tasks and randomness. The protocol's own types (`proto`) are no part of the API:
//!   they change with any version.
#![deny(unsafe_code)]

pub mod health;
pub mod instance;
pub mod join;
pub mod key;
#[doc(hidden)]
pub mod proto;
mod sync;
pub mod text;

#[cfg(feature = "net")]
pub mod addresses;
#[cfg(feature = "net")]
#[doc(hidden)]
pub mod bench_support;
#[cfg(feature = "net")]
pub mod client;
#[cfg(feature = "net")]
pub mod event;
#[cfg(feature = "net")]
#[doc(hidden)]
pub mod fuzz_support;
#[cfg(feature = "net")]
pub mod metrics;
#[cfg(feature = "net")]
pub mod relay;
#[cfg(feature = "net")]
mod socket;
#[cfg(feature = "net")]
mod transport;
#[cfg(feature = "net")]
mod tunnel;

#[cfg(feature = "net")]
pub use transport::{Transport, mem};
