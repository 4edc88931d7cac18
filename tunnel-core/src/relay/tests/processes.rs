//! Which process of a client is let in, and what one says of flows once another has taken over from it.

use super::*;
use crate::{
    proto::{
        datagram::{DatagramHead, FlowId, FlowOpen, Kind},
        stream::frame::Frame,
    },
    tunnel::stream::{Channel, Item},
};

impl Scripted {
    /// The next datagram that it gets: of which flow, and what opens it.
    pub(super) async fn player(&self) -> (FlowId, Option<FlowOpen>) {
        let datagram = soon("a player's datagram", self.connection.read_datagram()).await;
        let (head, _) = DatagramHead::decode(datagram.unwrap()).unwrap();
        (head.flow, head.open)
    }

    fn tell(&self, head: DatagramHead, payload: &[u8]) -> Result<(), quinn::SendDatagramError> {
        let mut datagram = BytesMut::new();
        head.encode(&mut datagram);
        datagram.extend_from_slice(payload);
        self.connection.send_datagram(datagram.freeze())
    }
}

#[tokio::test]
async fn a_process_that_was_superseded_has_no_say_about_flows() {
    // On a busy machine it may be gone before it has said anything: then once more.
    for _ in 0..10 {
        if superseded().await.is_some() {
            return;
        }
    }
    panic!("the connection of one that is superseded always goes at once");
}

/// `None` if the connection of the first process has gone too early.
async fn superseded() -> Option<()> {
    let site = Site::new().await;
    let unknown = || site.relay.metrics().drop_unknown_flow;
    let mut first = Scripted::at(&site).await;
    first.bind("a", 1, Protocol::Udp, site.port).await;
    let player = site.udp(site.port).await;
    player.send(b"hello").await.unwrap();
    let (id, opens) = first.player().await;
    assert!(opens.is_some());
    let close = DatagramHead {
        kind: Kind::Close,
        ..DatagramHead::data(id)
    };
    first.tell(DatagramHead::data(id), b"welcome").unwrap();
    let mut heard = [0; 64];
    soon("the answer", player.recv(&mut heard)).await.unwrap();

    let mut second = Scripted::connected(first.identity.clone()).await;
    let welcome = second.hear().await;
    assert!(
        matches!(welcome, Some(Message::Welcome { .. })),
        "{welcome:?}"
    );
    second.bind("a", 2, Protocol::Udp, site.port).await;
    player.send(b"still here").await.unwrap();
    // Its first word about the flow is the player's own: it does not know it yet.
    assert_eq!(second.player().await.0, id);
    // The other one's connection stands until its goodbye has had its time.
    first.tell(close, &[]).ok()?;
    first.tell(DatagramHead::data(id), b"late").ok()?;
    until("the count, or the end of the connection", || {
        unknown() == 1 || first.connection.close_reason().is_some()
    })
    .await;
    (unknown() == 1).then_some(())?;
    player.send(b"again").await.unwrap();
    let (again, opens) = second.player().await;
    assert_eq!(again, id, "its close is not heard");
    assert!(
        opens.is_some(),
        "its answer does not say that the other knows the flow"
    );
    second
        .tell(DatagramHead::data(id), b"welcome back")
        .unwrap();
    let length = soon("the answer", player.recv(&mut heard)).await.unwrap();
    assert_eq!(&heard[..length], b"welcome back");
    let counted = site.relay.metrics();
    assert_eq!((counted.flows, counted.flows_opened), (1, 1));
    // The one that knows it may close it.
    second.tell(close, &[]).unwrap();
    until("the flow's end", || site.relay.metrics().flows == 0).await;
    Some(())
}

#[tokio::test]
async fn who_does_not_answer_takes_nothing_over() {
    let site = Site::new().await;
    let process = new_process();
    let identity = site.identity();
    let mut first = Scripted::connected_as(identity.clone(), process).await;
    assert!(matches!(first.hear().await, Some(Message::Welcome { .. })));
    first.bind("a", 1, Protocol::Tcp, site.port).await;
    // A path that the process did not choose in the end, and one of a process that is dead by now.
    for process in [process, new_process()] {
        let mut late = Scripted::connected_as(identity.clone(), process).await;
        late.asked().await;
        // It has no say either.
        late.declare("a", 1, Protocol::Tcp, site.port + 1).await;
        assert_eq!(late.goodbye().await, Code::ProtocolError);
        first.bind("a", 1, Protocol::Tcp, site.port).await;
    }
    assert_eq!(site.relay.metrics().tunnels_opened, 1);
}

#[tokio::test]
async fn an_answer_from_before_another_came_takes_nothing_over() {
    let site = Site::new().await;
    let mut first = Scripted::connected(site.identity()).await;
    let asked = first.asked().await;
    let mut second = Scripted::connected(first.identity.clone()).await;
    assert!(matches!(second.hear().await, Some(Message::Welcome { .. })));
    first.say(&Message::Pong { number: asked }).await;
    // Not good enough: it is asked once more.
    let mut again = first.asked().await;
    while again == asked {
        again = first.asked().await;
    }
    second.bind("a", 1, Protocol::Tcp, site.port).await;
    assert_eq!(site.relay.metrics().tunnels_opened, 1);
    // It lives, and came last: the other is to go.
    first.say(&Message::Pong { number: again }).await;
    assert!(matches!(first.hear().await, Some(Message::Welcome { .. })));
    assert_eq!(second.goodbye().await, Code::Superseded);
}

#[tokio::test]
async fn processes_of_a_relay_have_no_stream_in_common() {
    let mut first_ids = HashSet::new();
    for _ in 0..2 {
        let site = Site::new().await;
        let mut client = Scripted::at(&site).await;
        client.bind("a", 1, Protocol::Tcp, site.port).await;
        let mut players = Vec::new();
        for n in 0..3 {
            players.push(site.tcp(site.port).await);
            let opened = soon("a stream", client.connection.accept_bi()).await;
            let (send, recv) = opened.unwrap();
            let first = Channel::quic(send, recv).rx.read().await.unwrap();
            let Item::Frame(Frame::Open(header)) = first else {
                panic!("{first:?}");
            };
            assert!(first_ids.insert(header.stream), "stream {n}");
        }
    }
}

#[tokio::test]
async fn a_full_relay_lets_a_client_change_its_path_and_nobody_else_in() {
    let limits = RelayLimits {
        tunnels: 1,
        ..RelayLimits::default()
    };
    let site = Site::with(limits).await;
    let (identity, process) = (site.identity(), new_process());
    let mut first = Scripted::connected_as(identity.clone(), process).await;
    assert!(matches!(first.hear().await, Some(Message::Welcome { .. })));
    let mut other = Scripted::connected(site.identity()).await;
    let refused = other.hear().await;
    assert!(
        matches!(
            refused,
            Some(Message::Reject {
                code: Code::Limit,
                ..
            })
        ),
        "{refused:?}"
    );
    // Another path of the process, and another process.
    for process in [process, new_process()] {
        let mut next = Scripted::connected_as(identity.clone(), process).await;
        assert!(matches!(next.hear().await, Some(Message::Welcome { .. })));
    }
}
