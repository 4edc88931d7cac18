//! What a relay says of flows that it, or the process before it, has opened: compared, and believed as far as it is true.

use super::*;
use crate::metrics::Snapshot;

/// Two games, a client that leads to them, and a relay that does as the test wishes.
struct Scene {
    relay: Hostile,
    client: Client,
    games: [UdpSocket; 2],
}

impl Scene {
    async fn new() -> Self {
        let mut games = Vec::new();
        for _ in 0..2 {
            games.push(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
        }
        let target = |game: usize| games[game].local_addr().unwrap();
        let services = [
            service("a", Protocol::Udp, target(0)),
            service("b", Protocol::Udp, target(1)),
        ];
        let (relay, client) = Hostile::over(Instance::new("srv", services).unwrap()).await;
        Self {
            relay,
            client,
            games: games.try_into().unwrap(),
        }
    }

    fn open(&self, service: &str, player: &str) -> Option<FlowOpen> {
        Some(FlowOpen {
            service: self.relay.id(service),
            port_index: 0,
            player: player.parse().unwrap(),
            local: None,
        })
    }

    /// Waits for the next datagram at a game: who sent it, and what.
    async fn heard(&self, game: usize) -> (SocketAddr, Vec<u8>) {
        let mut buffer = [0; 64];
        let received = timeout(HANG, self.games[game].recv_from(&mut buffer));
        let (length, from) = received.await.unwrap().unwrap();
        (from, buffer[..length].to_vec())
    }

    /// Sends one and says where the game heard it from.
    async fn plays(&self, flow: u64, service: &str, player: &str, text: &[u8]) -> SocketAddr {
        self.relay.say(flow, self.open(service, player), text);
        let game = usize::from(service == "b");
        let (from, heard) = self.heard(game).await;
        assert_eq!(heard, text);
        from
    }

    async fn counted(&self, what: &str, count: impl Fn(&Snapshot) -> bool) {
        let counted = async {
            while !count(&self.client.metrics()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(timeout(HANG, counted).await.is_ok(), "{what}");
    }
}

const ANNA: &str = "192.0.2.1:1000";
const BERT: &str = "192.0.2.2:1000";

#[tokio::test]
async fn what_is_said_of_a_known_flow_must_hold() {
    let scene = Scene::new().await;
    let anna = scene.plays(5, "a", ANNA, b"1").await;
    let lies = [
        scene.open("a", BERT),
        scene.open("a", "192.0.2.1:1001"),
        scene.open("b", ANNA),
        scene.open("b", BERT),
    ];
    for (at, lie) in lies.into_iter().enumerate() {
        scene.relay.say(5, lie, b"not Anna's");
        let count = at as u64 + 1;
        scene
            .counted("the refusal", |counted| counted.drop_mismatch == count)
            .await;
    }
    // A port that the service does not have is nobody's.
    let mut beyond = scene.open("a", ANNA).unwrap();
    beyond.port_index = 1;
    scene.relay.say(5, Some(beyond), b"not Anna's");
    scene
        .counted("the refusal", |it| it.drop_unknown_service == 1)
        .await;
    // What is true goes on, and nothing else has come.
    assert_eq!(scene.plays(5, "a", ANNA, b"2").await, anna);
    scene.relay.say(5, None, b"3");
    assert_eq!(scene.heard(0).await, (anna, b"3".to_vec()));
    assert!(scene.games[1].try_recv(&mut [0; 64]).is_err());
    assert_eq!(scene.client.metrics().flows_opened, 1);
}

#[tokio::test]
async fn another_process_of_the_relay_comes_to_a_parked_flow_by_its_player_alone() {
    let mut scene = Scene::new().await;
    let anna = scene.plays(5, "a", ANNA, b"1").await;
    let bert = scene.plays(6, "a", BERT, b"2").await;
    scene.relay = scene.relay.followed_by(2).await;
    scene
        .counted("the parking", |it| it.flows_parked == 2)
        .await;
    // The same numbers mean nothing any more.
    scene.relay.say(5, None, b"whose?");
    scene
        .counted("the drop", |it| it.drop_unknown_flow == 1)
        .await;
    // Nor does a number that was Anna's make Bert anybody else.
    assert_eq!(scene.plays(5, "a", BERT, b"3").await, bert);
    // A player of one service is not one of another.
    let elsewhere = scene.plays(7, "b", ANNA, b"4").await;
    assert!(![anna, bert].contains(&elsewhere));
    scene.counted("who waits", |it| it.flows_parked == 1).await;
    assert_eq!(scene.plays(8, "a", ANNA, b"5").await, anna);
    // Whoever comes after him with the same name is new.
    let again = scene.plays(9, "a", ANNA, b"6").await;
    assert!(![anna, bert, elsewhere].contains(&again));
    let counted = scene.client.metrics();
    assert_eq!((counted.flows_parked, counted.flows_resumed), (0, 2));
    assert_eq!(counted.flows_opened, 4);
    // From here on it is a flow like any other.
    scene.relay.say(8, scene.open("a", BERT), b"not Anna's");
    scene
        .counted("the refusal", |it| it.drop_mismatch == 1)
        .await;
    assert!(
        scene
            .games
            .iter()
            .all(|game| game.try_recv(&mut [0; 64]).is_err())
    );
}

#[tokio::test]
async fn nothing_of_parked_flows_is_said_to_the_next_process() {
    let mut scene = Scene::new().await;
    let anna = scene.plays(5, "a", ANNA, b"1").await;
    scene.relay = scene.relay.followed_by(2).await;
    scene
        .counted("the parking", |it| it.flows_parked == 1)
        .await;
    scene.games[0].send_to(b"to nobody", anna).await.unwrap();
    scene.counted("the drop", |it| it.drop_parked == 1).await;
    // It ends while it waits: that is not the new process' business either.
    scene.client.set_instances([]).await.unwrap();
    scene.counted("its end", |it| it.flows == 0).await;
    let said = timeout(
        Duration::from_millis(300),
        scene.relay.connection.read_datagram(),
    );
    assert!(
        said.await.is_err(),
        "a datagram of a flow that it never had"
    );
}
