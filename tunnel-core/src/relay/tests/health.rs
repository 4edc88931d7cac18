//! What clients tell of services' health: of their own, as often as they like, and to nobody's harm.

use super::*;
use crate::{
    health::HealthState,
    proto::message::{HealthWord, Text},
};

/// Says how the service `game` of an instance is.
fn word(id: &str, state: HealthWord) -> Message {
    Message::Health {
        instance: id.parse().unwrap(),
        service: "game".parse().unwrap(),
        state,
        age: Duration::from_secs(1 << 21),
        reason: Some(Text::new("so it says")),
        name: Some(Text::new("\u{1b}[2J")),
        players: Some(u32::MAX),
        max: None,
        version: None,
        map: None,
    }
}

/// What the relay knows of the health of each instance: its verdict, and whether it refuses players.
async fn known(site: &Site) -> Vec<(String, HealthState, bool)> {
    let status = site.relay.status().await.unwrap();
    let instances = status.clients.into_iter().flat_map(|it| it.instances);
    let known = instances.flat_map(|instance| {
        let id = instance.id.to_string();
        let health = instance.services.into_iter().filter_map(|it| it.health);
        health.map(move |health| (id.clone(), health.state, health.refuses))
    });
    known.collect()
}

impl Scripted {
    /// Waits until the relay has dealt with what was said.
    async fn is_heard(&mut self) {
        let done = Message::Withdraw {
            instance: "none".parse().unwrap(),
            revision: Revision(99),
        };
        self.say(&done).await;
        let ping = Message::Ping {
            number: 1 << 40,
            heard: None,
        };
        self.say(&ping).await;
        soon("the answer", self.hear_pong(1 << 40)).await;
    }
}

#[tokio::test]
async fn a_client_tells_of_its_own_services_alone() {
    let site = Site::new().await;
    let echo = Echo::new().await;
    let _client = site.client([echo.instance("a", site.port)]).await;
    let mut hostile = Scripted::at(&site).await;
    hostile.bind("b", 1, Protocol::Tcp, site.port + 1).await;
    for id in ["a", "none", "b"] {
        hostile.say(&word(id, HealthWord::Refusing)).await;
    }
    hostile.is_heard().await;
    let refusing = ("b".to_owned(), HealthState::Unhealthy, true);
    assert_eq!(known(&site).await, [refusing]);
    Neighbour::of(&site, site.port).await.plays().await;
    // It says of itself what it wants, and is taken back as easily.
    hostile.say(&word("b", HealthWord::Unchecked)).await;
    hostile.is_heard().await;
    assert_eq!(known(&site).await, []);
}

#[tokio::test]
async fn a_client_that_tells_without_end_is_not_an_event_each_time() {
    let site = Site::new().await;
    let mut events = site.relay.events();
    let mut hostile = Scripted::at(&site).await;
    hostile.bind("b", 1, Protocol::Tcp, site.port + 1).await;
    for _ in 0..200 {
        hostile.say(&word("b", HealthWord::Unhealthy)).await;
        hostile.say(&word("b", HealthWord::Healthy)).await;
    }
    hostile.is_heard().await;
    let healthy = ("b".to_owned(), HealthState::Healthy, false);
    assert_eq!(known(&site).await, [healthy]);
    assert_eq!(site.relay.metrics().services_unhealthy, 0);
    drop(site.relay);
    let mut told = 0;
    while let Some(event) = events.next().await {
        told += usize::from(matches!(event, Ok(Event::HealthChanged { .. })));
    }
    assert!((10..100).contains(&told), "{told} of 400");
}

/// A client of before: it has not the capability, and says nothing of health.
#[tokio::test]
async fn a_client_of_before_is_served_and_nothing_is_known_of_its_health() {
    let site = Site::new().await;
    let (identity, process) = (site.identity(), new_process());
    let before = Capabilities::STREAM_RESUMPTION | Capabilities::REDUNDANCY;
    let proven = Scripted::proven_with(&identity, process, before).await;
    let mut client = Scripted::opened(identity, proven).await;
    client.ask().await;
    let first = client.hear().await;
    assert!(matches!(first, Some(Message::Welcome { .. })), "{first:?}");
    client.bind("b", 1, Protocol::Tcp, site.port + 1).await;
    assert_eq!(known(&site).await, []);
    let _player = site.tcp(site.port + 1).await;
    client.stream().await;
}
