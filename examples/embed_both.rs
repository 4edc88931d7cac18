//! Both sides in one process, and a game that echoes: `cargo run --example embed_both`
use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use tokio::net::UdpSocket;
use tunnel_core::{
    client::{Client, ClientIdentity},
    instance::{Instance, Protocol, Service},
    key::{Psk, SecretKey},
    relay::{Relay, StaticAuthority},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let game = UdpSocket::bind("127.0.0.1:0").await?;
    let public = UdpSocket::bind("127.0.0.1:0").await?.local_addr()?;
    let service = Service::new("match", Protocol::Udp, game.local_addr()?)?;
    let service = service.public_port(public.port())?;
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        while let Ok((length, player)) = game.recv_from(&mut buffer).await {
            game.send_to(&buffer[..length], player).await.ok();
        }
    });

    // The relay knows one client, the secret that they share, and the public ports that it may use.
    let (relay_key, node_key) = (SecretKey::generate()?, SecretKey::generate()?);
    let mut identity = ClientIdentity::new(
        "127.0.0.1:4433".parse()?,
        relay_key.public_key(),
        node_key,
        Psk::generate()?,
    );
    let (key, psk) = (identity.secret_key.public_key(), identity.psk.clone());
    let policy = StaticAuthority::new().client("node-1", key, psk, "1024-65535".parse()?);
    let relay = Relay::builder(relay_key, Arc::new(policy)).listen("127.0.0.1:0".parse()?);
    let relay = relay.public_bind("127.0.0.1".parse()?).start().await?;
    identity.relay = relay.local_addr().context("not listening")?.into();

    // The client offers the game there, until it is told otherwise.
    let instance = Instance::new("my_game", [service])?;
    let client = Client::builder(identity).instances([instance]).start()?;
    client.bound().await?;

    // The player knows the public port and nothing else.
    let player = UdpSocket::bind("127.0.0.1:0").await?;
    player.send_to(b"hello", public).await?;
    let mut buffer = [0; 1500];
    let (length, from) = player.recv_from(&mut buffer).await?;
    ensure!(from == public && &buffer[..length] == b"hello");
    println!("{public} has answered");
    client.shutdown(Duration::ZERO).await;
    relay.shutdown(Duration::ZERO).await;
    Ok(())
}
