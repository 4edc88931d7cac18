//! A relay inside a program of one's own: it knows one client, prints what happens, and ends on Ctrl-C.
//!
//! `cargo run --example embed_relay -- 127.0.0.1:4433 CLIENT_PUBLIC_KEY PSK`
//!
//! Without arguments it listens on a free port of 127.0.0.1, makes a client's identity, and prints the command that
//! runs `embed_client` against it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use tunnel_core::{
    key::{Psk, PublicKey, SecretKey},
    relay::{Relay, StaticAuthority},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let listen: SocketAddr = match arguments.next() {
        Some(text) => text.parse().context("the first argument is ADDRESS:PORT")?,
        None => "127.0.0.1:0".parse()?,
    };
    let (client, psk, made) = match (arguments.next(), arguments.next()) {
        (Some(key), Some(psk)) => (key.parse::<PublicKey>()?, psk.parse::<Psk>()?, None),
        _ => {
            let secret = SecretKey::generate()?;
            (secret.public_key(), Psk::generate()?, Some(secret))
        }
    };

    // A real program keeps this key: it is who the relay is.
    let relay_key = SecretKey::generate()?;
    let relay_public_key = relay_key.public_key();
    let authority =
        StaticAuthority::new().client("node-1", client, psk.clone(), "1024-65535".parse()?);
    let relay = Relay::builder(relay_key, Arc::new(authority))
        .listen(listen)
        .start()
        .await?;
    let address = relay.local_addr().context("the relay does not listen")?;
    println!("listening on {address}, public key {relay_public_key}");
    if let Some(secret) = made {
        println!(
            "now run: cargo run --example embed_client -- {address} {relay_public_key} {} {}",
            *secret.to_text(),
            *psk.to_text()
        );
    }

    let mut events = relay.events();
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => println!("{event}"),
                Some(Err(lagged)) => println!("{lagged}"),
                None => break,
            },
            _ = tokio::signal::ctrl_c() => break,
        }
    }
    let counters = relay.metrics();
    println!(
        "{} streams and {} flows were served",
        counters.streams_opened, counters.flows_opened
    );
    relay.shutdown(Duration::from_secs(5)).await;
    Ok(())
}
