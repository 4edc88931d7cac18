//! A game server that publishes itself: a world with 20 ticks a second over UDP and a chat over TCP, on one port, and
//! in the same process the client that offers this port to players at a relay.
//!
//! `cargo run --example game_server -- 'adit://…'`, with what `relay-server invite --reusable NAME` has printed
//!
//! Without arguments it starts a relay in the same process, two players come, and it ends.

mod players;
mod server;
mod world;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use examples::free_port;
use tunnel_core::{
    client::{self, Client, ClientIdentity},
    instance::{Instance, Protocol, Service},
    join::JoinString,
    key::{Psk, SecretKey},
    relay::{Relay, StaticAuthority},
};

use crate::server::Server;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let server = Server::bind().await?;
    let game = server.local_addr()?;
    let mut running = tokio::spawn(server.run());
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let published = async {
        match arguments.as_slice() {
            [join] => {
                let identity = enrol(&join.parse()?).await?;
                publish(identity, game, PUBLIC_PORT).await
            }
            [] => alone(game).await,
            _ => bail!("expected what relay-server invite --reusable has printed, or nothing"),
        }
    };
    tokio::select! {
        published = published => published,
        ended = &mut running => Ok(ended??),
    }
}

/// Where players find the game on the relay's machine.
const PUBLIC_PORT: u16 = 34_197;

/// A new identity at a relay. A game that keeps its key and the secret that it is given needs no join string again.
async fn enrol(join: &JoinString) -> Result<ClientIdentity> {
    let secret_key = SecretKey::generate()?;
    let enrolled = client::enrol(join, &secret_key).await?;
    println!(
        "the relay {} knows this game as {}",
        join.relay, enrolled.name
    );
    Ok(ClientIdentity::new(
        join.relay.clone(),
        join.relay_public_key,
        secret_key,
        enrolled.psk,
    ))
}

/// Offers the game until Ctrl-C, or until the relay sends the client away for good.
async fn publish(identity: ClientIdentity, game: SocketAddr, public: u16) -> Result<()> {
    let client = Client::builder(identity)
        .instances([instance(game, public)?])
        .start()?;
    let mut events = client.events();
    loop {
        tokio::select! {
            Some(Ok(event)) = events.next() => println!("{event}"),
            end = client.finished() => bail!(end),
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    // Players who are there may play on for as long.
    client.shutdown(Duration::from_secs(5)).await;
    Ok(())
}

/// The same beside a relay in this process, with two players who check what comes.
async fn alone(game: SocketAddr) -> Result<()> {
    let (relay_key, secret_key) = (SecretKey::generate()?, SecretKey::generate()?);
    let (relay_public_key, psk) = (relay_key.public_key(), Psk::generate()?);
    let key = secret_key.public_key();
    let authority = StaticAuthority::new().client("game", key, psk.clone(), "1024-65535".parse()?);
    let relay = Relay::builder(relay_key, Arc::new(authority))
        .listen("127.0.0.1:0".parse()?)
        .public_bind("127.0.0.1".parse()?)
        .start()
        .await?;
    let address = relay.local_addr().context("the relay does not listen")?;
    let identity = ClientIdentity::new(address.into(), relay_public_key, secret_key, psk);
    let public = free_port().await?;
    let client = Client::builder(identity)
        .instances([instance(game, public)?])
        .start()?;
    client.bound().await?;
    println!("players may come to 127.0.0.1:{public}");

    let public = SocketAddr::from(([127, 0, 0, 1], public));
    tokio::time::timeout(Duration::from_secs(60), players::play(public))
        .await
        .context("the players still wait")??;
    let counters = relay.metrics();
    println!(
        "the relay has carried {} flows and {} streams",
        counters.flows_opened, counters.streams_opened
    );
    client.shutdown(Duration::ZERO).await;
    relay.shutdown(Duration::ZERO).await;
    Ok(())
}

fn instance(game: SocketAddr, public: u16) -> Result<Instance> {
    let service = Service::new("match", Protocol::Both, game)?.public_port(public)?;
    Ok(Instance::new("my_game", [service])?)
}
