//! Front ends before the relay: who a PROXY header names is the player, wherever the relay trusts it.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tunnel_core::{
    event::Event,
    proto::proxy::{self, Ends},
    relay::{RelayLimits, TrustedProxy},
};

use crate::{
    lifecycle::next,
    support::{
        Lab, Via, hang,
        servers::{End, Server, end_of, tcp_echo},
        simple, until, waited,
    },
};

on_every_transport!(
    the_player_that_a_trusted_front_end_names_is_the_one_who_is_counted,
    a_header_from_elsewhere_is_the_players_own_bytes,
    a_trusted_front_end_that_sends_no_header_is_refused_and_named,
    who_is_trusted_changes_while_the_relay_runs,
);

async fn the_player_that_a_trusted_front_end_names_is_the_one_who_is_counted(via: Via) {
    let lab = lab(via, &[FRONT_END]).await;
    let server = Server::tcp(lab.ip).await;
    let _client = lab
        .client([simple("a", "tcp", lab.port, server.address())])
        .await;
    let headers = [
        proxy::encode_v1(ends("198.51.100.7:50000")),
        proxy::encode_v2_stream(ends("198.51.100.7:50001")).unwrap(),
        proxy::encode_v2_stream(ends("[2001:db8::7]:50002")).unwrap(),
        b"PROXY UNKNOWN\r\n".to_vec(),
    ];
    let mut players = Vec::new();
    for header in &headers {
        let mut player = from(&lab, FRONT_END).await;
        // In pieces, and with the player's own first bytes behind the last one.
        let (first, last) = header.split_at(header.len() / 2);
        player.write_all(first).await.unwrap();
        player.flush().await.unwrap();
        player.write_all(&[last, b"hello"].concat()).await.unwrap();
        let mut answer = [0; 5];
        hang("the echo", player.read_exact(&mut answer))
            .await
            .unwrap();
        assert_eq!(&answer, b"hello", "the header itself went nowhere");
        tcp_echo(&mut player, &[7; 3_000]).await;
        players.push(player);
    }
    assert_eq!(lab.relay().metrics().proxy_headers_in, 4);

    // Two of that player are there already, whichever front end they came by.
    let mut events = lab.relay().events();
    let mut third = introduced(&lab, "198.51.100.7:50003").await;
    assert_eq!(end_of(&mut third).await, End::Reset);
    let told = next(&mut events, |event| matches!(event, Event::Crowded(_))).await;
    assert!(
        told.to_string().contains("= 2 is reached by 198.51.100.7;"),
        "{told}"
    );
    assert_eq!(lab.relay().metrics().stream_address_cap, 1);
    // The front end itself has but one, its own, however many it hands on.
    let mut another = introduced(&lab, "198.51.100.8:50003").await;
    tcp_echo(&mut another, b"hello").await;
    drop(players.swap_remove(0));
    waited("the player's next connection", async || {
        let mut again = introduced(&lab, "198.51.100.7:50004").await;
        let mut answer = [0];
        again.write_all(b"x").await.ok()?;
        again.read_exact(&mut answer).await.ok()
    })
    .await;
}

async fn a_header_from_elsewhere_is_the_players_own_bytes(via: Via) {
    let lab = lab(via, &[FRONT_END]).await;
    let server = Server::tcp(lab.ip).await;
    let _client = lab
        .client([simple("a", "tcp", lab.port, server.address())])
        .await;
    let mut player = from(&lab, "127.77.0.2").await;
    for header in [
        proxy::encode_v1(ends("198.51.100.7:50000")),
        proxy::encode_v2_stream(ends("198.51.100.7:50000")).unwrap(),
    ] {
        tcp_echo(&mut player, &header).await;
    }
    assert_eq!(lab.relay().metrics().proxy_headers_in, 0);
}

async fn a_trusted_front_end_that_sends_no_header_is_refused_and_named(via: Via) {
    let lab = lab(via, &[FRONT_END]).await;
    let server = Server::tcp(lab.ip).await;
    let _client = lab
        .client([simple("a", "tcp", lab.port, server.address())])
        .await;
    let mut events = lab.relay().events();
    for (count, bytes) in (1..).zip([
        &b"hello, I am a game"[..],
        b"PROXY TCP4 nonsense\r\n",
        b"PROXY TCP4 0.0.0.0 203.0.113.1 1 2\r\n",
    ]) {
        let mut player = from(&lab, FRONT_END).await;
        player.write_all(bytes).await.unwrap();
        assert_eq!(end_of(&mut player).await, End::Reset);
        until("the count", || {
            lab.relay().metrics().stream_proxy_header == count
        })
        .await;
    }
    let told = next(&mut events, |event| matches!(event, Event::Warning(_))).await;
    assert_eq!(
        told.to_string(),
        "a connection of 127.77.0.1, one of trusted_proxies, is refused: it does not begin with a PROXY header; \
         have it send PROXY protocol, or take it out of trusted_proxies"
    );
    assert_eq!(lab.relay().metrics().streams_opened, 0);
}

async fn who_is_trusted_changes_while_the_relay_runs(via: Via) {
    let lab = lab(via, &[]).await;
    let server = Server::tcp(lab.ip).await;
    let _client = lab
        .client([simple("a", "tcp", lab.port, server.address())])
        .await;
    let mut before = from(&lab, FRONT_END).await;
    tcp_echo(&mut before, b"PROXY UNKNOWN\r\n").await;
    lab.relay()
        .set_trusted_proxies(vec![FRONT_END.parse().unwrap()]);
    let mut player = introduced(&lab, "198.51.100.7:50000").await;
    tcp_echo(&mut player, b"hello").await;
    lab.relay().set_trusted_proxies(Vec::new());
    let mut after = from(&lab, FRONT_END).await;
    tcp_echo(&mut after, b"PROXY UNKNOWN\r\n").await;
    tcp_echo(&mut before, b"undisturbed").await;
    tcp_echo(&mut player, b"undisturbed").await;
}

/// A laboratory whose relay trusts these, and lets two connections of an address in.
async fn lab(via: Via, trusted: &'static [&'static str]) -> Lab {
    Lab::with(via, move |builder| {
        let mut limits = RelayLimits::default();
        limits.streams_per_address = 2;
        let trusted = trusted.iter().map(|it| it.parse().unwrap());
        builder
            .limits(limits)
            .trusted_proxies(trusted.collect::<Vec<TrustedProxy>>())
    })
    .await
}

fn ends(player: &str) -> Ends {
    Ends {
        player: player.parse().unwrap(),
        public: "203.0.113.1:25565".parse().unwrap(),
    }
}

/// A connection from this address.
async fn from(lab: &Lab, address: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket
        .bind(format!("{address}:0").parse().unwrap())
        .unwrap();
    hang("a connect", socket.connect(lab.at(lab.port)))
        .await
        .unwrap()
}

/// One of the front end, which says whose it is.
async fn introduced(lab: &Lab, player: &str) -> TcpStream {
    let mut connection = from(lab, FRONT_END).await;
    let header = proxy::encode_v2_stream(ends(player)).unwrap();
    connection.write_all(&header).await.unwrap();
    connection
}

const FRONT_END: &str = "127.77.0.1";
