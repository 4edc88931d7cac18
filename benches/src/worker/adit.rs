//! Relay and client, by the library that the programs are made of.

use std::{net::IpAddr, sync::Arc};

use anyhow::{Context, Result};
use tunnel_core::{
    client::{Client, ClientIdentity},
    instance::{FlowLimits, Instance, Protocol, Redundancy, Service},
    key::{Psk, SecretKey},
    relay::{Relay, RelayLimits, StaticAuthority},
};

use super::{options::ClientOptions, say::say};

pub(super) async fn relay(bind: IpAddr) -> Result<()> {
    let authority = StaticAuthority::new().client(
        "node-1",
        SecretKey::from(NODE_KEY).public_key(),
        Psk::from(PSK),
        "1024-65535".parse()?,
    );
    let authority = Arc::new(authority);
    // All players of a scenario may share an address.
    let mut limits = RelayLimits::default();
    limits.streams = 1 << 16;
    limits.streams_per_client = 1 << 16;
    limits.streams_per_address = 1 << 16;
    let mut tries = 0;
    let relay = loop {
        let relay = Relay::builder(SecretKey::from(RELAY_KEY), authority.clone())
            .listen((bind, 0).into())
            .public_bind(bind)
            .limits(limits.clone());
        match relay.start().await {
            Ok(relay) => break relay,
            // The UDP port that the system chose may be taken as a TCP port.
            Err(_) if tries < 20 => tries += 1,
            Err(error) => return Err(error.into()),
        }
    };
    say(&relay.local_addr().context("it listens")?)?;
    std::future::pending().await
}

pub(super) async fn client(options: ClientOptions) -> Result<()> {
    let redundancy = options.service.redundancy.as_deref();
    let game = Service::new("bench", Protocol::Both, options.target)?
        .public_port(options.public_port)?
        .with_optimize(options.service.optimize.parse()?)
        .with_redundancy(redundancy.map_or(Ok(Redundancy::default()), str::parse)?)
        .with_flow_limits(FlowLimits {
            per_address: 1 << 16,
            per_service: 1 << 16,
            ..FlowLimits::default()
        })?;
    let instance = Instance::new("bench", [game])?;
    let identity = ClientIdentity::new(
        options.relay.to_string().parse()?,
        SecretKey::from(RELAY_KEY).public_key(),
        SecretKey::from(NODE_KEY),
        Psk::from(PSK),
    );
    let mut client = Client::builder(identity).instances([instance]);
    if !options.service.udp {
        client = client.without_udp();
    }
    let client = client.start()?;
    client.bound().await?;
    say(&"bound")?;
    std::future::pending().await
}

/// Everybody may know these: they never leave this machine.
const RELAY_KEY: [u8; 32] = [1; 32];
const NODE_KEY: [u8; 32] = [2; 32];
const PSK: [u8; 32] = [3; 32];
