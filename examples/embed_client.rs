//! A client inside a game server of one's own: the program offers itself to players, and stops in peace on Ctrl-C.
//!
//! `cargo run --example embed_client -- RELAY_HOST:PORT RELAY_PUBLIC_KEY SECRET_KEY PSK`
//!
//! Without arguments it starts a relay in the same process, plays one round as a player, and ends.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use examples::{echo_server, free_port, udp_round_trips};
use tunnel_core::{
    client::{Client, ClientIdentity},
    instance::{HostPort, Instance, Protocol, Service},
    key::{Psk, SecretKey},
    relay::{Relay, StaticAuthority},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let game = echo_server().await?;
    match arguments.as_slice() {
        [relay, relay_public_key, secret_key, psk] => {
            let identity = ClientIdentity::new(
                relay.parse()?,
                relay_public_key.parse()?,
                secret_key.parse()?,
                psk.parse()?,
            );
            serve(identity, game, game.port()).await
        }
        [] => alone(game).await,
        _ => anyhow::bail!("expected RELAY_HOST:PORT RELAY_PUBLIC_KEY SECRET_KEY PSK, or nothing"),
    }
}

/// Offers the game until Ctrl-C, or until the relay sends the client away for good.
async fn serve(identity: ClientIdentity, game: SocketAddr, public: u16) -> Result<()> {
    let client = Client::builder(identity)
        .instances([instance(game, public)?])
        .start()?;
    let mut events = client.events();
    loop {
        tokio::select! {
            Some(Ok(event)) = events.next() => println!("{event}"),
            end = client.finished() => anyhow::bail!(end),
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    client.shutdown(Duration::from_secs(5)).await;
    Ok(())
}

/// The same with a relay of its own, to see it work.
async fn alone(game: SocketAddr) -> Result<()> {
    let (relay_key, secret_key, psk) = (
        SecretKey::generate()?,
        SecretKey::generate()?,
        Psk::generate()?,
    );
    let relay_public_key = relay_key.public_key();
    let authority = StaticAuthority::new().client(
        "node-1",
        secret_key.public_key(),
        psk.clone(),
        "1024-65535".parse()?,
    );
    let relay = Relay::builder(relay_key, Arc::new(authority))
        .listen("127.0.0.1:0".parse()?)
        .public_bind("127.0.0.1".parse()?)
        .start()
        .await?;
    let address = relay.local_addr().context("the relay does not listen")?;
    let identity = ClientIdentity::new(HostPort::from(address), relay_public_key, secret_key, psk);

    let public = free_port().await?;
    let client = Client::builder(identity).start()?;
    // Instances may come and go at run time.
    client.insert(instance(game, public)?).await?;
    client.bound().await?;
    println!("players may come to 127.0.0.1:{public}");
    let player = SocketAddr::from(([127, 0, 0, 1], public));
    let trips = udp_round_trips(player, 100, 5).await?;
    println!("five round trips: {trips:?}");
    client.shutdown(Duration::from_secs(1)).await;
    relay.shutdown(Duration::ZERO).await;
    Ok(())
}

fn instance(game: SocketAddr, public: u16) -> Result<Instance> {
    let service = Service::new("match", Protocol::Both, game)?.public_port(public)?;
    Ok(Instance::new("my_game", [service])?)
}
