//! Adit's engine: an authenticated, multiplexed tunnel that brings players to game servers behind NAT.
//!
//! ```text
//! player ──► relay (public ports) ══ one tunnel: QUIC and TCP lanes ══► client ──► game server
//! ```
//!
//! A [`relay::Relay`] owns public ports, a [`client::Client`] leads them to its own targets. Both sides prove
//! themselves in a Noise `IKpsk2` handshake with static keys ([`key`]); there are no certificates. What is tunnelled
//! is an [`instance::Instance`], a game server with its [`instance::Service`]s. UDP travels as unreliable datagrams, so
//! that one lost packet delays nobody else; TCP on QUIC streams or lanes, as the service wishes.
//!
//! The crate opens no file, prints nothing, installs no logger and keeps no global state. It reports through
//! [`event::Events`], [`metrics::Snapshot`] and the [`tracing`] crate. Input from a peer never panics it and is
//! bounded before it allocates.
//!
//! # Example
//!
//! Both sides in one process, over a network in memory:
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
//! * `net` (default): relay, client and transports. Without it only [`proto`] and the plain types build, which keeps
//!   the protocol free of sockets, clock, tasks and randomness.
#![deny(unsafe_code)]

pub mod instance;
pub mod join;
pub mod key;
pub mod proto;
mod sync;
pub mod text;

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
