//! Players beside the API: a flood of requests loses them nothing.

use adit_control::model::Invited;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_util::sync::CancellationToken;
use tunnel_core::instance::{Instance, Protocol, Service};

use crate::{
    program::free_port,
    support::{Relay, sends},
};

#[tokio::test]
async fn players_play_on_while_the_api_is_flooded() {
    let relay = Relay::start("");
    let invited = relay
        .admin()
        .post::<Invited>("/api/invites", &json!({"name": "node-1"}))
        .await
        .unwrap();
    let node = relay.node(&invited.value.join).await;
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = free_port();
    let service = Service::new("echo", Protocol::Tcp, target.local_addr().unwrap()).unwrap();
    let instance = Instance::new("srv", [service.public_port(port).unwrap()]).unwrap();
    node.insert(instance)
        .await
        .unwrap()
        .settled()
        .await
        .unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = target.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = stream.split();
                drop(tokio::io::copy(&mut reader, &mut writer).await);
            });
        }
    });
    let stop = CancellationToken::new();
    let mut floods = tokio::task::JoinSet::new();
    for token in [
        relay.bearer(),
        String::new(),
        "authorization: Bearer wrong\r\n".into(),
    ] {
        for _ in 0..4 {
            let (api, token, stop) = (relay.api.clone(), token.clone(), stop.clone());
            floods.spawn(async move {
                let mut answered = 0;
                while !stop.is_cancelled() {
                    let answer = sends(&api, "GET", "/api/clients", &token, b"").await;
                    answered += usize::from(answer.starts_with("HTTP/1.1 "));
                }
                answered
            });
        }
    }
    for number in 0_u32..50 {
        let mut player = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        for round in 0_u32..20 {
            let sent = (number << 16 | round).to_be_bytes();
            player.write_all(&sent).await.unwrap();
            let mut heard = [0; 4];
            player.read_exact(&mut heard).await.unwrap();
            assert_eq!(heard, sent);
        }
    }
    stop.cancel();
    let answered = floods.join_all().await;
    assert!(
        answered.iter().all(|answered| *answered > 0),
        "{answered:?}"
    );
    relay.ends();
}
