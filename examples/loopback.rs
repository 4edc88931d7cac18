//! Adit in one process: a relay, a client and a game server, with a player's TCP and UDP through the tunnel.
//!
//! `cargo run --release --example loopback`

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Result;
use examples::{echo_server, free_port, percentiles, tcp_bulk, tcp_round_trips, udp_round_trips};
use tunnel_core::{
    client::{Client, ClientIdentity},
    instance::{HostPort, Instance, Optimize, Protocol, Service, ServiceError},
    key::{Psk, SecretKey},
    relay::{Relay, StaticAuthority},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    println!("Adit on loopback: player -> relay == tunnel == client -> game server\n");

    // The game server. Here it only echoes.
    let game = echo_server().await?;
    println!("game server   {game} (TCP and UDP echo)");

    // The relay knows one client and what it may bind.
    let (relay_key, node_key, psk) = (
        SecretKey::generate()?,
        SecretKey::generate()?,
        Psk::generate()?,
    );
    let relay_public_key = relay_key.public_key();
    let authority = StaticAuthority::new().client(
        "node-1",
        node_key.public_key(),
        psk.clone(),
        "1024-65535".parse()?,
    );
    let relay = Relay::builder(relay_key, Arc::new(authority))
        .listen("127.0.0.1:0".parse()?)
        .public_bind("127.0.0.1".parse()?)
        .start()
        .await?;
    let address = relay
        .local_addr()
        .ok_or_else(|| anyhow::anyhow!("the relay does not listen"))?;
    println!("relay         {address} (QUIC on UDP, lanes on TCP), key {relay_public_key}");

    // The client offers the game server twice: once for latency, once for throughput.
    let (latency, throughput) = (free_port().await?, free_port().await?);
    let service = |name: &str, port: u16, optimize: Optimize| -> Result<Service, ServiceError> {
        let service = Service::new(name, Protocol::Both, game)?.public_port(port)?;
        Ok(service.with_optimize(optimize))
    };
    let instance = Instance::new(
        "srv_123",
        [
            service("latency", latency, Optimize::Latency)?,
            service("throughput", throughput, Optimize::Throughput)?,
        ],
    )?;
    let identity = ClientIdentity::new(HostPort::from(address), relay_public_key, node_key, psk);
    let client = Client::builder(identity).instances([instance]).start()?;
    client.bound().await?;
    let status = client.status().await?;
    println!(
        "client        {} over {}",
        status.name.unwrap_or_default(),
        status
            .transport
            .map_or_else(|| "nothing".into(), |it| it.to_string())
    );
    println!("public ports  {latency} (latency), {throughput} (throughput)\n");

    println!("{:<34}{:>12}{:>12}", "round trips", "p50, µs", "p99, µs");
    let player = |port| SocketAddr::from(([127, 0, 0, 1], port));
    for (name, to) in [
        ("TCP 64 B, direct", game),
        ("TCP 64 B, through a QUIC stream", player(latency)),
        ("TCP 64 B, through a lane", player(throughput)),
    ] {
        show(name, &mut tcp_round_trips(to, 64, 2000).await?);
    }
    for (name, to, size) in [
        ("UDP 100 B, direct", game, 100),
        ("UDP 100 B, through the tunnel", player(latency), 100),
        ("UDP 8,000 B, through the tunnel", player(latency), 8000),
    ] {
        show(name, &mut udp_round_trips(to, size, 2000).await?);
    }

    println!("\n{:<34}{:>12}", "256 MiB through an echo", "MB/s");
    for (name, to) in [
        ("direct", game),
        ("through a QUIC stream", player(latency)),
        ("through a lane", player(throughput)),
    ] {
        let bytes = 256 << 20;
        let took = tcp_bulk(to, bytes).await?;
        println!(
            "{name:<34}{:>12.0}",
            bytes as f64 / took.as_secs_f64() / 1e6
        );
    }

    let counters = relay.metrics();
    println!(
        "\nthe relay saw {} streams and {} flows; {} bytes went in and {} out; nothing was lost",
        counters.streams_opened,
        counters.flows_opened,
        counters.stream_bytes_in + counters.datagram_bytes_in,
        counters.stream_bytes_out + counters.datagram_bytes_out,
    );
    client.shutdown(Duration::from_secs(1)).await;
    relay.shutdown(Duration::from_secs(1)).await;
    Ok(())
}

fn show(name: &str, trips: &mut [Duration]) {
    let (p50, p99) = percentiles(trips);
    println!("{name:<34}{p50:>12.0}{p99:>12.0}");
}
