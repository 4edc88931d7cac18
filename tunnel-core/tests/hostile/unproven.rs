//! Nothing changes before a client has proved itself: no token is used, no lease is touched.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::net::TcpListener;
use tunnel_core::{
    client::enrol,
    join::{JoinString, Token, TokenId},
    key::{Psk, PublicKey, SecretKey},
    relay::{Admission, Authority, Denial, Relay, RelayLimits},
};

use crate::{
    lanes::{offer, on_lanes},
    packets::socket,
    support::{Lab, Via, hang, until, waited},
    wire::Wire,
};

/// Knows one token, and counts how often it was asked for its secret and how often it was redeemed.
#[derive(Debug)]
struct OneToken {
    token: Token,
    asked: AtomicU64,
    redeemed: AtomicU64,
}

impl Authority for OneToken {
    fn psk(&self, _: &PublicKey, token: Option<TokenId>) -> Option<Psk> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        (token == Some(self.token.id)).then(|| self.token.secret.clone())
    }

    fn admit(&self, _: &PublicKey, _: Option<TokenId>) -> Result<Admission, Denial> {
        self.redeemed.fetch_add(1, Ordering::Relaxed);
        Ok(Admission {
            name: "node-1".into(),
            ports: "1024-65535".parse().unwrap(),
            psk: Some(Psk::generate().unwrap()),
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorded_enrolment_redeems_no_token() {
    let lab = Lab::new(Via::Quic).await;
    let authority = Arc::new(OneToken {
        token: Token::generate().unwrap(),
        asked: AtomicU64::new(0),
        redeemed: AtomicU64::new(0),
    });
    let asked = || authority.asked.load(Ordering::Relaxed);
    let mut limits = RelayLimits::default();
    limits.handshake_time = Duration::from_secs(1);
    let relay = Relay::builder(SecretKey::generate().unwrap(), authority.clone())
        .listen((lab.ip, 0).into())
        .limits(limits)
        .start()
        .await
        .unwrap();
    let at = relay.local_addr().unwrap();

    // The enemy keeps what the client says to itself.
    let wire = Wire::start(lab.ip, at).await;
    wire.block_udp();
    wire.meddle_tcp(|_, _, chunk| chunk.clear());
    let join = JoinString {
        relay: wire.address().into(),
        relay_public_key: relay.public_key(),
        token: authority.token.clone(),
    };
    let key = SecretKey::generate().unwrap();
    let enrolling = tokio::spawn({
        let (join, key) = (join.clone(), key.clone());
        async move { enrol(&join, &key).await }
    });
    let first = wire.first_datagram().await;
    let opening = || {
        let lanes = wire.connections();
        lanes
            .first()
            .map_or(Vec::new(), |lane| lane.to_relay.clone())
    };
    until("a lane's opening", || opening().len() == 355).await;
    enrolling.abort();

    // And says it in the client's place.
    assert_eq!(asked(), 0);
    let stranger = socket(lab.ip).await;
    stranger.send_to(&first, at).await.unwrap();
    assert!(!offer(at, &opening()).await.is_empty(), "message 2");
    until("the end of both handshakes", || {
        relay.metrics().handshakes_failed == 2
    })
    .await;
    assert_eq!(asked(), 2);
    assert_eq!(authority.redeemed.load(Ordering::Relaxed), 0);

    // The client's own is as good as before.
    let join = JoinString {
        relay: at.into(),
        ..join
    };
    hang("the enrolment", enrol(&join, &key)).await.unwrap();
    assert_eq!(authority.redeemed.load(Ordering::Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replays_prolong_no_lease() {
    let lab = Lab::with(Via::Quic, |builder| {
        let mut limits = RelayLimits::default();
        limits.lease = Duration::from_secs(2);
        builder.limits(limits)
    })
    .await;
    let (wire, _played) = on_lanes(&lab, 0).await;
    let lanes = wire.connections();
    wire.cut();
    waited("the tunnel's end", async || {
        let status = lab.relay().status().await.unwrap();
        status.clients[0].transport.is_none().then_some(())
    })
    .await;
    let replaying = async {
        loop {
            for lane in lanes.iter().filter(|lane| !lane.to_client.is_empty()) {
                offer(lab.listen(), &lane.to_relay).await;
            }
        }
    };
    let released = async {
        while TcpListener::bind(lab.at(lab.port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    hang("the port's release", async {
        tokio::select! {
            () = replaying => {}
            () = released => {}
        }
    })
    .await;
    assert!(lab.relay().status().await.unwrap().clients.is_empty());
    assert_eq!(lab.relay().metrics().tunnels_opened, 1);
}
