//! An authority of one's own: the embedder decides who may connect and who may bind what.
//!
//! Here every client of a (pretended) account database may connect, but only paying ones may open TCP ports, and
//! nobody may take a port below 20000.
//!
//! `cargo run --example custom_policy`

use std::{collections::HashMap, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use examples::{echo_server, free_port};
use tunnel_core::{
    client::{Client, ClientIdentity},
    event::Event,
    instance::{HostPort, Instance, Protocol, Service},
    join::TokenId,
    key::{Psk, PublicKey, SecretKey},
    relay::{Admission, Authority, Denial, Relay, ServiceDeclaration},
};

/// What the account database knows of a client.
#[derive(Debug)]
struct Account {
    name: &'static str,
    psk: Psk,
    pays: bool,
}

/// Answers the relay's questions out of memory, as it must: `psk` is called within handshakes.
#[derive(Debug)]
struct Accounts(HashMap<PublicKey, Account>);

impl Authority for Accounts {
    fn psk(&self, client: &PublicKey, _token: Option<TokenId>) -> Option<Psk> {
        self.0.get(client).map(|account| account.psk.clone())
    }

    fn admit(&self, client: &PublicKey, _token: Option<TokenId>) -> Result<Admission, Denial> {
        let account = self.0.get(client).ok_or(Denial::Revoked)?;
        let ports = "20000-65535"
            .parse()
            .map_err(|_| Denial::Unavailable("no ports".into()))?;
        Ok(Admission {
            name: account.name.into(),
            ports,
            psk: None,
        })
    }

    fn may_bind(
        &self,
        client: &PublicKey,
        _admission: &Admission,
        service: &ServiceDeclaration,
    ) -> Result<(), String> {
        let pays = self.0.get(client).is_some_and(|account| account.pays);
        if service.protocol.tcp() && !pays {
            return Err(format!(
                "service {} wants TCP, which the free plan does not have",
                service.name
            ));
        }
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let (free, paying) = (SecretKey::generate()?, SecretKey::generate()?);
    let psk = Psk::generate()?;
    let account = |name, pays| Account {
        name,
        psk: psk.clone(),
        pays,
    };
    let accounts = Accounts(HashMap::from([
        (free.public_key(), account("free", false)),
        (paying.public_key(), account("paying", true)),
    ]));
    let relay_key = SecretKey::generate()?;
    let relay_public_key = relay_key.public_key();
    let relay = Relay::builder(relay_key, Arc::new(accounts))
        .listen("127.0.0.1:0".parse()?)
        .public_bind("127.0.0.1".parse()?)
        .start()
        .await?;
    let address = relay.local_addr().context("the relay does not listen")?;

    let game = echo_server().await?;
    for (plan, secret_key) in [("free", free), ("paying", paying)] {
        let identity = ClientIdentity::new(
            HostPort::from(address),
            relay_public_key,
            secret_key,
            psk.clone(),
        );
        for protocol in [Protocol::Udp, Protocol::Both] {
            let service = Service::new("match", protocol, game)?.public_port(high_port().await?)?;
            let id = format!("{plan}_{protocol}");
            let instance = Instance::new(id.as_str(), [service])?;
            let client = Client::builder(identity.clone())
                .instances([instance])
                .start()?;
            let mut events = client.events();
            let verdict = loop {
                match events.next().await.context("the client ended")?? {
                    Event::Bound { .. } => break "bound".to_owned(),
                    Event::Refused { text, .. } => break format!("refused: {text}"),
                    _ => {}
                }
            };
            println!("{plan:<7} wants {protocol:<5} {verdict}");
            client.shutdown(Duration::ZERO).await;
        }
    }
    relay.shutdown(Duration::ZERO).await;
    Ok(())
}

/// A free port that the policy allows.
async fn high_port() -> Result<u16> {
    loop {
        let port = free_port().await?;
        if port >= 20_000 {
            return Ok(port);
        }
    }
}
