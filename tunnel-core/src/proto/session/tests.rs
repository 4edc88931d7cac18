use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use super::{
    client::{ClientEvent, ClientSession, InstanceState},
    heartbeat::{DOUBT_GRACE, Heartbeat},
    relay::{RelayEvent, RelaySession},
    *,
};
use crate::{
    health::{Health, HealthState, Report},
    instance::{Instance, InstanceId, Protocol, Service},
    key::Psk,
    proto::{
        message::{Code, IdleLanes, Message, Revision, ServiceDeclaration, ServiceId, Text},
        stream::frame::StreamId,
    },
};

const LEASE: Duration = Duration::from_secs(30);

/// An instance with a service for each of these public ports, all of them led to port 1000 of `target`.
fn instance(id: &str, target: &str, ports: &[u16]) -> Instance {
    let target = format!("{target}:1000");
    let service = |port: &u16| {
        let service = Service::new(&*format!("s{port}"), Protocol::Both, &*target).unwrap();
        service.public_port(*port).unwrap()
    };
    Instance::new(id, ports.iter().map(service)).unwrap()
}

fn id(text: &str) -> InstanceId {
    text.parse().unwrap()
}

fn welcome() -> Message {
    Message::Welcome {
        version: 1,
        heartbeat: HEARTBEAT,
        lease: LEASE,
        psk: None,
        client: Text::new("node-1"),
        software: Text::new("adit/0"),
    }
}

const fn ping(number: u64) -> Message {
    Message::Ping {
        number,
        heard: None,
    }
}

fn bound(instance: &str, revision: Revision) -> Message {
    Message::Bound {
        instance: id(instance),
        revision,
    }
}

fn refused(instance: &str, revision: Revision) -> Message {
    Message::Refused {
        instance: id(instance),
        revision,
        code: Code::PortInUse,
        text: Text::new("port 7777 is in use"),
        port: Some(7777),
    }
}

/// A client's session and the clock that it is told.
struct Client {
    session: ClientSession,
    now: Instant,
    /// Its newest PING.
    pinged: u64,
}

/// A declaration as the relay sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Declared {
    instance: String,
    revision: Revision,
    ids: Vec<ServiceId>,
}

impl Client {
    fn new() -> Self {
        Self {
            session: ClientSession::new(7),
            now: Instant::now(),
            pinged: 0,
        }
    }

    /// A client whose tunnel stands.
    fn welcomed() -> Self {
        let mut client = Self::new();
        client.connect();
        client
    }

    fn connect(&mut self) {
        self.session.handle_connected(self.now);
        self.hear(welcome());
    }

    fn hear(&mut self, message: Message) {
        self.session.handle_message(self.now, message).unwrap();
    }

    /// Lets time pass until the session wants to be woken, and wakes it.
    fn sleep(&mut self) {
        self.now = self.session.poll_timeout().unwrap();
        self.session.handle_timeout(self.now);
    }

    fn sent(&mut self) -> Vec<Message> {
        let sent: Vec<_> = std::iter::from_fn(|| self.session.poll_message()).collect();
        for message in &sent {
            if let Message::Ping { number, .. } = message {
                self.pinged = *number;
            }
        }
        sent
    }

    fn events(&mut self) -> Vec<ClientEvent> {
        std::iter::from_fn(|| self.session.poll_event()).collect()
    }

    /// What was declared since the last look, whatever else was said.
    fn declared(&mut self) -> Vec<Declared> {
        let declared = |message| match message {
            Message::Declare {
                instance,
                revision,
                services,
            } => Some(Declared {
                instance: instance.as_str().into(),
                revision,
                ids: services.iter().map(|service| service.id).collect(),
            }),
            _ => None,
        };
        self.sent().into_iter().filter_map(declared).collect()
    }

    /// Declares an instance and has it bound.
    fn bind(&mut self, instance: Instance) -> Declared {
        let name = instance.id().as_str().to_owned();
        self.session.insert(instance);
        let declared = self.declared().pop().unwrap();
        self.hear(bound(&name, declared.revision));
        self.events();
        declared
    }

    /// The services that the relay may name, with the hosts they lead to.
    fn services(&self) -> Vec<(ServiceId, String)> {
        let service =
            |(id, _, service): (ServiceId, _, &Service)| (id, service.target.host.to_string());
        self.session.services().map(service).collect()
    }

    fn state(&self, instance: &str) -> InstanceState {
        let found = self
            .session
            .instances()
            .find(|(it, _)| it.id().as_str() == instance);
        found.unwrap().1.clone()
    }
}

#[test]
fn a_client_speaks_first_and_declares_nothing_before_it_is_welcome() {
    let mut client = Client::new();
    client.session.insert(instance("a", "old", &[7777]));
    assert_eq!(client.sent(), []);
    client.session.handle_connected(client.now);
    assert_eq!(client.sent(), [ping(0)]);
    client.session.insert(instance("b", "old", &[8888]));
    assert_eq!(client.sent(), []);

    client.hear(welcome());
    let instances: Vec<_> = client.declared().into_iter().map(|d| d.instance).collect();
    assert_eq!(instances, ["a", "b"]);
    let events = client.events();
    assert!(
        events.contains(&ClientEvent::Welcome {
            name: "node-1".into(),
            psk: None,
            lease: LEASE
        }),
        "{events:?}"
    );
}

#[test]
fn an_instance_is_pending_until_the_relay_has_bound_it() {
    let mut client = Client::welcomed();
    client.sent();
    client.session.insert(instance("a", "old", &[7777]));
    let declared = client.declared().pop().unwrap();
    assert_eq!(client.state("a"), InstanceState::Pending);
    assert!(!client.session.is_all_bound());

    client.events();
    client.hear(bound("a", declared.revision));
    assert!(client.state("a").is_bound());
    assert!(client.session.is_all_bound());
    assert_eq!(client.events(), [ClientEvent::Bound(id("a"))]);
}

#[test]
fn nothing_is_bound_before_the_client_is_welcome_even_without_instances() {
    let mut client = Client::new();
    assert!(!client.session.is_all_bound());
    client.session.handle_connected(client.now);
    assert!(
        !client.session.is_all_bound(),
        "the relay may yet reject us"
    );
    client.hear(welcome());
    assert!(client.session.is_all_bound());
    client.session.handle_disconnected();
    assert!(!client.session.is_all_bound());
}

#[test]
fn inserting_the_same_instance_again_does_nothing() {
    let mut client = Client::welcomed();
    client.bind(instance("a", "old", &[7777]));
    client.session.insert(instance("a", "old", &[7777]));
    assert_eq!(client.sent(), []);
    assert_eq!(client.events(), []);
    assert!(client.state("a").is_bound());
}

#[test]
fn a_refused_instance_is_declared_again_after_a_wait_that_grows() {
    let mut client = Client::welcomed();
    client.session.insert(instance("a", "old", &[7777]));
    let first = client.declared().pop().unwrap();
    client.events();
    let mut waits = Vec::new();
    for _ in 0..12 {
        client.hear(refused("a", first.revision));
        assert!(matches!(
            client.state("a"),
            InstanceState::Refused { code: Code::PortInUse, text } if text == "port 7777 is in use"
        ));
        let events = client.events();
        let [
            ClientEvent::Refused {
                instance, retry_in, ..
            },
        ] = &events[..]
        else {
            panic!("{events:?}");
        };
        assert_eq!(instance, &id("a"));
        waits.push(*retry_in);
        let due = client.now + *retry_in;
        assert_eq!(client.declared(), [], "before its time");
        let again = loop {
            client.sleep();
            let declared = client.declared();
            // The relay answers heartbeats meanwhile.
            let number = client.pinged;
            client.hear(Message::Pong { number });
            client.events();
            if client.now >= due {
                break declared;
            }
            assert_eq!(declared, [], "before its time");
        };
        assert_eq!(
            again,
            std::slice::from_ref(&first),
            "the same revision, the same ids"
        );
    }
    assert!(waits[0] >= Duration::from_millis(250) && waits[0] <= Duration::from_millis(500));
    assert!(waits[3] >= Duration::from_secs(2), "{waits:?}");
    let longest = waits.iter().max().unwrap();
    assert!(*longest <= Duration::from_secs(30), "{waits:?}");
    assert!(waits[11] >= Duration::from_secs(15), "{waits:?}");
}

#[test]
fn being_bound_makes_the_next_wait_short_again() {
    let mut client = Client::welcomed();
    client.session.insert(instance("a", "old", &[7777]));
    let revision = client.declared().pop().unwrap().revision;
    for _ in 0..8 {
        client.hear(refused("a", revision));
    }
    client.hear(bound("a", revision));
    assert!(client.state("a").is_bound());
    client.events();
    client.hear(Message::Unbound {
        instance: id("a"),
        revision,
        code: Code::NotPermitted,
        text: Text::new("taken back"),
    });
    let events = client.events();
    let [
        ClientEvent::Refused {
            code: Code::NotPermitted,
            retry_in,
            ..
        },
    ] = &events[..]
    else {
        panic!("{events:?}");
    };
    assert!(*retry_in <= Duration::from_millis(500));
    assert!(!client.session.is_all_bound());
}

#[test]
fn one_refused_instance_keeps_no_other_from_being_bound() {
    let mut client = Client::welcomed();
    client.session.insert(instance("a", "old", &[7777]));
    client.session.insert(instance("b", "old", &[8888]));
    let declared = client.declared();
    client.hear(refused("a", declared[0].revision));
    client.hear(bound("b", declared[1].revision));
    assert!(matches!(client.state("a"), InstanceState::Refused { .. }));
    assert!(client.state("b").is_bound());
}

#[test]
fn a_bound_instance_is_not_declared_again_by_an_old_retry() {
    let mut client = Client::welcomed();
    client.session.insert(instance("a", "old", &[7777]));
    let revision = client.declared().pop().unwrap().revision;
    client.hear(refused("a", revision));
    client.hear(bound("a", revision));
    for _ in 0..4 {
        client.sleep();
        assert_eq!(client.declared(), []);
    }
}

#[test]
fn a_change_keeps_the_old_services_until_it_is_bound() {
    let mut client = Client::welcomed();
    let old = client.bind(instance("a", "old", &[7777]));
    client.session.insert(instance("a", "new", &[7777]));
    let new = client.declared().pop().unwrap();
    assert!(new.revision.0 > old.revision.0);
    assert!(!new.ids.contains(&old.ids[0]), "an id is used once");
    let both = [(new.ids[0], "new".into()), (old.ids[0], "old".into())];
    assert_eq!(client.services(), both);
    assert_eq!(client.events(), [ClientEvent::ServicesChanged]);

    client.hear(refused("a", new.revision));
    assert_eq!(client.services(), both, "the relay keeps the old one");
    client.hear(bound("a", new.revision));
    assert_eq!(client.services(), [(new.ids[0], "new".into())]);
    assert!(client.events().contains(&ClientEvent::ServicesChanged));
}

#[test]
fn what_the_relay_bound_before_a_second_change_stays_until_that_is_bound() {
    let mut client = Client::welcomed();
    client.bind(instance("a", "first", &[7777]));
    client.session.insert(instance("a", "second", &[7777]));
    let second = client.declared().pop().unwrap();
    client.session.insert(instance("a", "third", &[7777]));
    let third = client.declared().pop().unwrap();
    client.events();

    // The relay takes the second one and, say, cannot open the ports of the third.
    client.hear(bound("a", second.revision));
    assert_eq!(client.state("a"), InstanceState::Pending);
    client.hear(refused("a", third.revision));
    let hosts: HashSet<String> = client
        .services()
        .into_iter()
        .map(|(_, host)| host)
        .collect();
    assert!(
        hosts.contains("second"),
        "the relay's players go there: {hosts:?}"
    );
    assert!(!hosts.contains("first"), "nobody goes there: {hosts:?}");

    client.hear(bound("a", third.revision));
    assert_eq!(client.services(), [(third.ids[0], "third".into())]);
}

#[test]
fn changes_faster_than_the_relay_answers_do_not_pile_up() {
    let mut client = Client::welcomed();
    client.bind(instance("a", "first", &[7777]));
    for n in 0..1000 {
        client
            .session
            .insert(instance("a", &format!("host-{n}"), &[7777]));
    }
    assert!(client.session.services().count() <= 8);
    let last = client.declared().pop().unwrap();
    client.hear(bound("a", last.revision));
    assert_eq!(client.services(), [(last.ids[0], "host-999".into())]);
}

#[test]
fn a_change_while_the_tunnel_is_down_keeps_what_the_relay_still_holds() {
    let mut client = Client::welcomed();
    let old = client.bind(instance("a", "old", &[7777]));
    client.session.handle_disconnected();
    client.session.insert(instance("a", "new", &[7777]));
    assert!(
        client.services().contains(&(old.ids[0], "old".into())),
        "until the relay has bound the new one, it sends players to the old"
    );
    client.connect();
    let new = client.declared().pop().unwrap();
    client.hear(bound("a", new.revision));
    assert_eq!(client.services(), [(new.ids[0], "new".into())]);
}

#[test]
fn what_the_relay_refuses_to_bind_anew_it_may_still_hold() {
    let mut client = Client::welcomed();
    let old = client.bind(instance("a", "old", &[7777]));
    client.session.handle_disconnected();
    client.connect();
    client.hear(refused("a", old.revision));
    client.session.insert(instance("a", "new", &[7777]));
    assert!(client.services().contains(&(old.ids[0], "old".into())));

    // What it has unbound it does not hold.
    client.hear(Message::Unbound {
        instance: id("a"),
        revision: old.revision,
        code: Code::NotPermitted,
        text: Text::new(""),
    });
    assert_eq!(client.services().len(), 1);
}

#[test]
fn a_removed_instance_is_withdrawn_and_its_services_are_gone() {
    let mut client = Client::welcomed();
    let declared = client.bind(instance("a", "old", &[7777]));
    assert!(client.session.remove(&id("a")));
    let sent = client.sent();
    let [Message::Withdraw { instance, revision }] = &sent[..] else {
        panic!("{sent:?}");
    };
    assert_eq!(instance, &id("a"));
    assert!(revision.0 > declared.revision.0);
    assert_eq!(client.services(), []);
    assert_eq!(client.events(), [ClientEvent::ServicesChanged]);
    assert!(!client.session.remove(&id("a")), "it is gone already");
    assert_eq!(client.sent(), []);

    // Answers that were under way say nothing about what is there now.
    client.hear(bound("a", declared.revision));
    client.hear(refused("a", declared.revision));
    assert_eq!(client.events(), []);
    assert_eq!(client.session.instances().count(), 0);
}

#[test]
fn an_instance_added_again_after_its_removal_has_new_ids_and_a_higher_revision() {
    let mut client = Client::welcomed();
    let first = client.bind(instance("a", "old", &[7777]));
    client.session.remove(&id("a"));
    client.sent();
    client.session.insert(instance("a", "old", &[7777]));
    let second = client.declared().pop().unwrap();
    assert!(second.revision.0 > first.revision.0);
    assert_ne!(second.ids, first.ids);
    client.hear(bound("a", first.revision));
    assert_eq!(
        client.state("a"),
        InstanceState::Pending,
        "that was the first"
    );
}

#[test]
fn answers_to_older_revisions_say_nothing() {
    let mut client = Client::welcomed();
    client.session.insert(instance("a", "old", &[7777]));
    let old = client.declared().pop().unwrap().revision;
    client.session.insert(instance("a", "new", &[7777]));
    let new = client.declared().pop().unwrap().revision;
    client.events();

    client.hear(bound("a", old));
    assert_eq!(client.state("a"), InstanceState::Pending);
    client.hear(refused("a", old));
    assert_eq!(client.state("a"), InstanceState::Pending);
    client.hear(Message::Unbound {
        instance: id("a"),
        revision: old,
        code: Code::Removed,
        text: Text::new(""),
    });
    assert_eq!(client.state("a"), InstanceState::Pending);
    let told: Vec<_> = client.events();
    assert!(
        told.iter().all(|e| *e == ClientEvent::ServicesChanged),
        "{told:?}"
    );
    client.hear(bound("a", new));
    assert!(client.state("a").is_bound());
}

#[test]
fn after_a_reconnect_everything_is_declared_anew_with_the_same_ids() {
    let mut client = Client::welcomed();
    let a = client.bind(instance("a", "old", &[7777, 7778]));
    let b = client.bind(instance("b", "old", &[8888]));
    client.session.insert(instance("c", "old", &[9999]));
    let c = client.declared().pop().unwrap();
    client.hear(refused("c", c.revision));
    client.events();

    client.session.handle_disconnected();
    assert_eq!(client.state("a"), InstanceState::Pending);
    assert!(matches!(client.state("c"), InstanceState::Refused { .. }));
    assert_eq!(
        client.session.poll_timeout(),
        None,
        "there is nobody to wait for"
    );
    client
        .session
        .handle_timeout(client.now + Duration::from_secs(60));
    assert_eq!(client.sent(), []);
    assert_eq!(
        client.services().len(),
        4,
        "players of the old tunnel go on"
    );

    client.session.handle_connected(client.now);
    assert_eq!(client.declared(), [], "not before the relay says so");
    client.hear(welcome());
    assert_eq!(client.declared(), [a.clone(), b, c]);
    client.hear(bound("a", a.revision));
    assert!(client.state("a").is_bound());
}

#[test]
fn what_was_not_sent_on_the_old_tunnel_is_not_sent_on_the_new_one() {
    let mut client = Client::welcomed();
    client.sent();
    client.session.insert(instance("a", "old", &[7777]));
    client.hear(ping(9));
    client.session.handle_disconnected();
    assert_eq!(client.sent(), []);
    client.session.handle_connected(client.now);
    assert_eq!(client.sent(), [ping(0)]);
}

#[test]
fn messages_of_a_tunnel_that_is_gone_say_nothing() {
    let mut client = Client::welcomed();
    client.session.insert(instance("a", "old", &[7777]));
    let revision = client.declared().pop().unwrap().revision;
    client.session.handle_disconnected();
    client.events();
    client.hear(bound("a", revision));
    assert_eq!(client.state("a"), InstanceState::Pending);
    assert_eq!(client.events(), []);
}

#[test]
fn a_client_accuses_a_relay_that_sends_what_only_clients_may() {
    let services = vec![declaration(1)];
    let instance = id("a");
    let revision = Revision(1);
    for message in [
        Message::Declare {
            instance: instance.clone(),
            revision,
            services,
        },
        Message::Withdraw { instance, revision },
    ] {
        let mut client = Client::welcomed();
        let name = message.name();
        assert_eq!(
            client.session.handle_message(client.now, message),
            Err(SessionMisbehaved::WrongDirection(name))
        );
    }
}

#[test]
fn a_second_welcome_accuses_the_relay() {
    let mut client = Client::welcomed();
    assert_eq!(
        client.session.handle_message(client.now, welcome()),
        Err(SessionMisbehaved::WelcomeTwice)
    );
    // On another tunnel it is the first.
    let mut client = Client::welcomed();
    client.session.handle_disconnected();
    client.connect();
}

#[test]
fn a_client_is_told_why_the_relay_ends_it() {
    let text = Text::new("another process has connected");
    for message in [
        Message::Reject {
            code: Code::Superseded,
            text: text.clone(),
        },
        Message::Goodbye {
            code: Code::Superseded,
            text,
        },
    ] {
        let mut client = Client::new();
        client.session.handle_connected(client.now);
        client.hear(message);
        assert_eq!(
            client.events(),
            [ClientEvent::Ended {
                code: Code::Superseded,
                text: "another process has connected".into()
            }]
        );
    }
}

#[test]
fn a_client_hands_on_what_else_the_relay_wishes() {
    let mut client = Client::welcomed();
    client.events();
    client.sent();
    client.hear(Message::Lanes {
        idle: IdleLanes::new(4),
    });
    client.hear(Message::Drain { grace: LEASE });
    assert_eq!(
        client.events(),
        [
            ClientEvent::LanesWanted(4),
            ClientEvent::Drain { grace: LEASE }
        ]
    );
    client.hear(ping(77));
    assert_eq!(client.sent(), [Message::Pong { number: 77 }]);
}

#[test]
fn a_client_that_drains_says_so_at_once_and_first_of_all_on_each_tunnel_to_come() {
    let mut client = Client::welcomed();
    client.bind(instance("a", "game", &[7777]));
    client.sent();
    let now = client.now;
    client.session.drain(now, LEASE);
    assert_eq!(client.sent(), [Message::Drain { grace: LEASE }]);

    client.session.handle_disconnected();
    client.now += Duration::from_secs(4);
    client.connect();
    let sent = client.sent();
    let left = LEASE - Duration::from_secs(4);
    assert_eq!(sent[0], ping(0));
    assert_eq!(sent[1], Message::Drain { grace: left });
    assert!(matches!(sent[2], Message::Declare { .. }), "{sent:?}");
}

#[test]
fn streams_that_lost_their_lanes_are_named_to_the_relay_as_many_as_a_message_takes() {
    let streams: Vec<_> = (0..130).map(StreamId).collect();
    let mut client = Client::new();
    client.session.handle_connected(client.now);
    client.sent();
    client.session.lost(&streams);
    assert_eq!(client.sent(), [], "before it is welcome nothing is its own");
    client.hear(welcome());
    client.sent();
    client.session.lost(&streams);
    let said: Vec<_> = (client.sent().into_iter())
        .map(|message| match message {
            Message::Lost { streams } => streams,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(said.iter().map(Vec::len).collect::<Vec<_>>(), [64, 64, 2]);
    assert_eq!(said.concat(), streams);
    client.session.lost(&[]);
    assert_eq!(client.sent(), []);

    let (mut relay, now) = relay();
    let message = Message::Lost { streams };
    relay.handle_message(now, message).unwrap();
    assert!(!relay.is_idle());
    let streams = said.concat();
    assert_eq!(relay.poll_own_event(), Some(RelayEvent::Lost { streams }));
}

/// The health of a service that has been ill for a minute, and refuses players.
fn ill(now: Instant) -> Health {
    Health {
        refuses: true,
        reason: "nothing listens".into(),
        report: Report {
            name: "Home".into(),
            players: Some(3),
            max: Some(10),
            version: "1.0".into(),
            map: "world".into(),
        },
        ..Health::new(HealthState::Unhealthy, now - Duration::from_secs(60))
    }
}

/// The messages that tell of health, as a relay understands them.
fn told(now: Instant, sent: Vec<Message>) -> Vec<RelayEvent> {
    let (mut relay, _) = relay();
    let health = |message: &Message| matches!(message, Message::Health { .. });
    for message in sent.into_iter().filter(health) {
        relay.handle_message(now, message).unwrap();
    }
    std::iter::from_fn(|| relay.poll_event()).collect()
}

#[test]
fn a_services_health_is_told_when_it_is_bound_and_whenever_it_changes() {
    let mut client = Client::new();
    let now = client.now;
    client.session.insert(instance("a", "t", &[1]));
    let (a, s1) = (id("a"), "s1".parse().unwrap());
    let says = |health| RelayEvent::Health {
        instance: id("a"),
        service: "s1".parse().unwrap(),
        health,
    };
    client.connect();
    client.session.handle_takes_health();
    client.session.set_health(now, &a, &s1, Some(ill(now)));
    assert_eq!(told(now, client.sent()), [], "nothing is bound yet");
    client.hear(bound("a", Revision(1)));
    assert_eq!(told(now, client.sent()), [says(Some(ill(now)))]);
    client.session.set_health(now, &a, &s1, Some(ill(now)));
    assert_eq!(client.sent(), [], "that is no news");
    let well = Health::new(HealthState::Healthy, now);
    client.session.set_health(now, &a, &s1, Some(well.clone()));
    assert_eq!(told(now, client.sent()), [says(Some(well))]);
    client.session.set_health(now, &a, &s1, None);
    assert_eq!(told(now, client.sent()), [says(None)]);
    // It is not checked any more since it is another one, which is not bound yet.
    client.session.set_health(now, &a, &s1, Some(ill(now)));
    client.sent();
    client.session.insert(instance("a", "other", &[1]));
    client.session.set_health(now, &a, &s1, None);
    assert_eq!(told(now, client.sent()), [says(None)]);
    client.hear(bound("a", Revision(2)));
    assert_eq!(told(now, client.sent()), []);
    let gone = id("gone");
    client.session.set_health(now, &gone, &s1, Some(ill(now)));
    assert_eq!(
        client.session.health().count(),
        0,
        "there is no such instance"
    );
    client.session.set_health(now, &a, &s1, Some(ill(now)));
    client.session.remove(&a);
    assert_eq!(client.session.health().count(), 0);
}

#[test]
fn a_relay_of_before_is_not_told_of_health() {
    let mut client = Client::welcomed();
    let now = client.now;
    client.session.insert(instance("a", "t", &[1]));
    let (a, s1) = (id("a"), "s1".parse().unwrap());
    client.session.set_health(now, &a, &s1, Some(ill(now)));
    client.hear(bound("a", Revision(1)));
    client
        .session
        .set_health(now, &a, &s1, Some(Health::new(HealthState::Healthy, now)));
    client.session.set_health(now, &a, &s1, None);
    assert_eq!(told(now, client.sent()), []);
    // What it is told by its next tunnel depends on that one's relay.
    client.session.set_health(now, &a, &s1, Some(ill(now)));
    client.session.handle_disconnected();
    client.session.handle_connected(now);
    client.session.handle_takes_health();
    client.hear(welcome());
    client.sent();
    client.hear(bound("a", Revision(1)));
    assert_eq!(told(now, client.sent()).len(), 1);
}

#[test]
fn in_enrolment_the_client_is_given_its_lasting_key() {
    let psk = Psk::from([9; 32]);
    let now = Instant::now();
    let mut relay = RelaySession::new(now, 1, LEASE, "node-1", Some(psk.clone()));
    let mut client = Client::new();
    client.session.handle_connected(now);
    client.hear(relay.poll_message().unwrap());
    assert_eq!(
        client.events(),
        [ClientEvent::Welcome {
            name: "node-1".into(),
            psk: Some(psk),
            lease: LEASE
        }]
    );
}

#[test]
fn a_client_notices_a_silent_relay_and_one_that_answers_again() {
    let mut client = Client::welcomed();
    client.events();
    let start = client.now;
    while client.events() != [ClientEvent::Liveness(Liveness::Suspect)] {
        client.sleep();
        assert!(client.now <= start + HEARTBEAT + SUSPECT_GRACE);
    }
    assert_eq!(client.now, start + HEARTBEAT + SUSPECT_GRACE);
    client.hear(Message::Pong { number: 1 });
    assert_eq!(client.events(), [ClientEvent::Liveness(Liveness::Alive)]);

    let heard = client.now;
    let mut seen = Vec::new();
    while !seen.contains(&ClientEvent::Liveness(Liveness::Dead)) {
        client.sleep();
        seen.extend(client.events());
        assert!(client.now <= heard + DEAD_AFTER);
    }
    assert_eq!(client.now, heard + DEAD_AFTER);
    assert_eq!(
        seen,
        [
            ClientEvent::Liveness(Liveness::Suspect),
            ClientEvent::Liveness(Liveness::Dead)
        ]
    );
}

#[test]
fn heartbeats_go_out_at_their_interval_and_measure_the_round_trip() {
    let mut client = Client::welcomed();
    client.sent();
    let start = client.now;
    let mut pings = Vec::new();
    while client.now < start + 5 * HEARTBEAT {
        client.sleep();
        for message in client.sent() {
            let Message::Ping { number, .. } = message else {
                panic!("{message:?}");
            };
            pings.push(client.now - start);
            client.now += Duration::from_millis(30);
            client.hear(Message::Pong { number: number + 1 });
            assert_eq!(pings.len() > 1, client.session.rtt().is_some());
            client.hear(Message::Pong { number });
            assert_eq!(client.session.rtt(), Some(Duration::from_millis(30)));
        }
    }
    let expected: Vec<_> = (1..=5).map(|n| n * HEARTBEAT).collect();
    assert_eq!(pings, expected);
    client.session.handle_disconnected();
    assert_eq!(client.session.rtt(), None);
}

#[test]
fn a_changed_path_is_told_by_a_heartbeat_at_once() {
    let mut client = Client::welcomed();
    client.sent();
    client.now += HEARTBEAT / 4;
    client.session.handle_timeout(client.now);
    assert_eq!(client.sent(), []);
    client.session.handle_path_changed(client.now);
    assert_eq!(client.session.poll_timeout(), Some(client.now));
    client.session.handle_timeout(client.now);
    assert!(matches!(client.sent()[..], [Message::Ping { .. }]));
    // Its answer is awaited for a moment only; then everything is as before.
    let due = client.now + DOUBT_GRACE;
    assert_eq!(client.session.poll_timeout(), Some(due));
    client.events();
    client.sleep();
    assert_eq!(client.events(), [ClientEvent::Liveness(Liveness::Suspect)]);
    let number = client.pinged;
    client.hear(Message::Pong { number });
    assert_eq!(client.events(), [ClientEvent::Liveness(Liveness::Alive)]);
    let pinged = client.now;
    client.sleep();
    client.sent();
    let (number, sent) = (client.pinged, client.now);
    assert!(sent <= pinged + HEARTBEAT);
    client.now += DOUBT_GRACE;
    client.session.handle_timeout(client.now);
    assert_eq!(client.events(), []);
    client.hear(Message::Pong { number });
}

#[test]
fn a_path_on_which_nothing_arrives_is_suspect_until_the_relay_answers() {
    let mut client = Client::welcomed();
    client.events();
    client.sent();
    client.now += HEARTBEAT / 4;
    client.session.handle_unheard(client.now);
    assert_eq!(client.events(), [ClientEvent::Liveness(Liveness::Suspect)]);
    // It is asked at once, and what comes meanwhile is no answer.
    let since = client.now;
    client.sleep();
    assert_eq!(client.now, since);
    assert!(matches!(client.sent()[..], [Message::Ping { .. }]));
    client.hear(ping(1));
    client.session.handle_unheard(client.now);
    assert_eq!(client.events(), []);
    let number = client.pinged;
    client.hear(Message::Pong { number });
    assert_eq!(client.events(), [ClientEvent::Liveness(Liveness::Alive)]);
}

/// A relay's side that has greeted.
fn relay() -> (RelaySession, Instant) {
    let now = Instant::now();
    let mut relay = RelaySession::new(now, 1, LEASE, "node-1", None);
    assert!(matches!(
        relay.poll_message(),
        Some(Message::Welcome { .. })
    ));
    assert_eq!(relay.poll_message(), None);
    (relay, now)
}

fn declaration(service: u32) -> ServiceDeclaration {
    ServiceDeclaration {
        id: ServiceId(service),
        name: format!("s{service}").parse().unwrap(),
        protocol: Protocol::Tcp,
        public: crate::instance::PortRange::new(7777, 7777).unwrap(),
        optimize: crate::instance::Optimize::Auto,
        redundancy: crate::instance::Redundancy::Off,
        flows: crate::instance::FlowLimits::default(),
        tells_local: false,
    }
}

#[test]
fn a_relay_greets_with_version_heartbeat_lease_and_name() {
    let now = Instant::now();
    let mut relay = RelaySession::new(now, 3, LEASE, "node-1", None);
    let greeting = relay.poll_message();
    let Some(Message::Welcome {
        version,
        heartbeat,
        lease,
        psk,
        client,
        ..
    }) = greeting
    else {
        panic!("{greeting:?}");
    };
    assert_eq!(
        (version, heartbeat, lease, psk),
        (3, HEARTBEAT, LEASE, None)
    );
    assert_eq!(client.as_str(), "node-1");
}

#[test]
fn a_relay_that_asks_hears_no_wish_and_greets_who_is_let_in() {
    let now = Instant::now();
    let mut relay = RelaySession::asking(now, 1, LEASE, "node-1");
    assert_eq!(relay.poll_message(), None);
    assert_eq!(relay.poll_timeout(), now);
    relay.handle_timeout(now);
    let Some(Message::Ping { number, .. }) = relay.poll_message() else {
        panic!("it does not ask");
    };
    // The client's own first word is no answer, nor is one to what was not asked.
    let (first, heard) = (0, None);
    let ping = Message::Ping {
        number: first,
        heard,
    };
    relay.handle_message(now, ping).unwrap();
    assert_eq!(relay.poll_message(), Some(Message::Pong { number: first }));
    let other = Message::Pong { number: number + 1 };
    relay.handle_message(now, other).unwrap();
    assert_eq!(relay.poll_event(), None);

    let later = now + Duration::from_millis(50);
    relay
        .handle_message(later, Message::Pong { number })
        .unwrap();
    assert_eq!(relay.poll_event(), Some(RelayEvent::Lived { at: now }));
    let wish = Message::Drain { grace: LEASE };
    assert_eq!(
        relay.handle_message(later, wish.clone()),
        Err(SessionMisbehaved::TooSoon("Drain"))
    );
    assert!(relay.is_asking());
    relay.let_in();
    assert!(matches!(
        relay.poll_message(),
        Some(Message::Welcome { .. })
    ));
    relay.handle_message(later, wish).unwrap();
}

#[test]
fn a_relay_hands_on_what_the_client_wants() {
    let (mut relay, now) = relay();
    let services = vec![declaration(1), declaration(2)];
    let instance = id("a");
    let revision = Revision(5);
    for message in [
        Message::Declare {
            instance: instance.clone(),
            revision,
            services: services.clone(),
        },
        Message::Withdraw {
            instance: instance.clone(),
            revision,
        },
        Message::Drain { grace: LEASE },
        Message::Goodbye {
            code: Code::Shutdown,
            text: Text::new(""),
        },
    ] {
        relay.handle_message(now, message).unwrap();
    }
    let events: Vec<_> = std::iter::from_fn(|| relay.poll_event()).collect();
    assert_eq!(
        events,
        [
            RelayEvent::Declare {
                instance: instance.clone(),
                revision,
                services
            },
            RelayEvent::Withdraw { instance, revision },
            RelayEvent::Drain { grace: LEASE },
            RelayEvent::Goodbye {
                code: Code::Shutdown
            },
        ]
    );
}

#[test]
fn two_services_of_one_id_accuse_the_client() {
    let (mut relay, now) = relay();
    let twice = Message::Declare {
        instance: id("a"),
        revision: Revision(1),
        services: vec![declaration(1), declaration(2), declaration(1)],
    };
    assert_eq!(
        relay.handle_message(now, twice),
        Err(SessionMisbehaved::ServiceIdTwice)
    );
    assert_eq!(relay.poll_event(), None);
}

#[test]
fn a_relay_accuses_a_client_that_sends_what_only_relays_may() {
    let (instance, revision) = (id("a"), Revision(1));
    let (code, text) = (Code::Removed, Text::new(""));
    for message in [
        welcome(),
        Message::Reject {
            code,
            text: text.clone(),
        },
        Message::Bound {
            instance: instance.clone(),
            revision,
        },
        refused("a", revision),
        Message::Lanes {
            idle: IdleLanes::new(1),
        },
        Message::Unbound {
            instance,
            revision,
            code,
            text,
        },
    ] {
        let (mut relay, now) = relay();
        let name = message.name();
        assert_eq!(
            relay.handle_message(now, message),
            Err(SessionMisbehaved::WrongDirection(name))
        );
    }
}

#[test]
fn a_relay_notices_a_silent_client_and_one_that_answers_again() {
    let (mut relay, start) = relay();
    let mut now = start;
    let mut seen = Vec::new();
    while seen.is_empty() {
        now = relay.poll_timeout();
        relay.handle_timeout(now);
        seen.extend(std::iter::from_fn(|| relay.poll_event()));
    }
    assert_eq!(seen, [RelayEvent::Liveness(Liveness::Suspect)]);
    assert_eq!(now, start + HEARTBEAT + SUSPECT_GRACE);
    relay
        .handle_message(now, Message::Pong { number: 1 })
        .unwrap();
    assert_eq!(relay.rtt(), Some(SUSPECT_GRACE));
    assert_eq!(
        relay.poll_event(),
        Some(RelayEvent::Liveness(Liveness::Alive))
    );

    let heard = now;
    while now < heard + DEAD_AFTER {
        now = relay.poll_timeout();
        relay.handle_timeout(now);
    }
    assert_eq!(now, heard + DEAD_AFTER);
    let seen: Vec<_> = std::iter::from_fn(|| relay.poll_event()).collect();
    assert_eq!(
        seen,
        [
            RelayEvent::Liveness(Liveness::Suspect),
            RelayEvent::Liveness(Liveness::Dead)
        ]
    );
}

#[test]
fn a_silent_peer_is_suspect_and_then_dead() {
    let start = Instant::now();
    let mut heartbeat = Heartbeat::new(start, HEARTBEAT);
    assert_eq!(heartbeat.poll_timeout(), start + HEARTBEAT);
    let (sent, changed) = heartbeat.handle_timeout(start + HEARTBEAT);
    assert_eq!((sent, changed), (Some(ping(1)), None));
    let (_, changed) = heartbeat.handle_timeout(start + HEARTBEAT + SUSPECT_GRACE);
    assert_eq!(changed, Some(Liveness::Suspect));
    // From now on it is tried more often.
    let next = start + HEARTBEAT + SUSPECT_GRACE + HEARTBEAT / 4;
    assert_eq!(heartbeat.poll_timeout(), next);
    let (ping, _) = heartbeat.handle_timeout(next);
    assert!(ping.is_some());
    assert_eq!(heartbeat.poll_timeout(), next + HEARTBEAT / 4);
    assert!(heartbeat.handle_message(start + Duration::from_secs(4), &Message::Pong { number: 1 }));
    let (_, changed) = heartbeat.handle_timeout(start + Duration::from_secs(34));
    assert_eq!(changed, Some(Liveness::Dead));
}

/// What a side hears, at which times (in ms), while it sends its heartbeats; and when it changes its mind.
type Case = (
    &'static str,
    &'static [(u64, fn(u64) -> Message)],
    &'static [(u64, Liveness)],
);

#[test]
fn a_path_is_sound_while_the_other_side_is_heard_and_hears() {
    use Liveness::{Alive, Dead, Suspect};
    fn deaf(_: u64) -> Message {
        ping(1)
    }
    /// Answers the newest heartbeat.
    fn pong(number: u64) -> Message {
        Message::Pong { number }
    }
    fn hears(heard: u64) -> Message {
        let heard = Some(heard);
        Message::Ping { number: 1, heard }
    }
    fn hears_no_more(_: u64) -> Message {
        hears(1)
    }
    fn busy(_: u64) -> Message {
        bound("a", Revision(1))
    }
    let cases: [Case; 7] = [
        ("silence", &[], &[(2500, Suspect), (30_000, Dead)]),
        (
            "each is answered",
            &[(1100, pong), (2100, pong), (3100, pong), (4100, pong)],
            &[(6500, Suspect), (34_100, Dead)],
        ),
        (
            "heartbeats come in, and none of ours is heard",
            &[
                (500, deaf),
                (1500, deaf),
                (2400, deaf),
                (3000, deaf),
                (4000, deaf),
            ],
            &[(2500, Suspect), (31_000, Dead)],
        ),
        (
            "their heartbeats say that ours are heard, and no answer comes",
            &[(1100, hears), (2100, hears), (3100, hears), (4100, hears)],
            &[(6500, Suspect), (34_100, Dead)],
        ),
        (
            "ours were heard, and are no more",
            &[
                (1100, hears),
                (2100, hears_no_more),
                (3100, hears_no_more),
                (4000, pong),
            ],
            &[
                (3500, Suspect),
                (4000, Alive),
                (5500, Suspect),
                (34_000, Dead),
            ],
        ),
        (
            "what comes in does not end the suspicion that ours is not heard",
            &[(1100, pong), (3000, deaf), (4000, deaf), (5000, deaf)],
            &[(3500, Suspect), (32_000, Dead)],
        ),
        (
            "many answers before the PONG",
            &[(1900, busy), (2900, busy), (3900, busy), (4500, pong)],
            &[(6500, Suspect), (34_500, Dead)],
        ),
    ];
    for (name, hears, expected) in cases {
        let start = Instant::now();
        let mut heartbeat = Heartbeat::new(start, HEARTBEAT);
        let mut hears = hears.iter().peekable();
        let (mut now, mut newest, mut seen) = (start, 0, Vec::new());
        while now < start + DEAD_AFTER + 5 * HEARTBEAT {
            let due = heartbeat.poll_timeout();
            let heard = hears.next_if(|(at, _)| start + Duration::from_millis(*at) <= due);
            let changed = match heard {
                Some((at, message)) => {
                    now = start + Duration::from_millis(*at);
                    (heartbeat.handle_message(now, &message(newest))).then_some(Alive)
                }
                None => {
                    now = due;
                    let (ping, changed) = heartbeat.handle_timeout(now);
                    if let Some(Message::Ping { number, .. }) = ping {
                        newest = number;
                    }
                    changed
                }
            };
            let at = (now - start).as_millis() as u64;
            seen.extend(changed.map(|changed| (at, changed)));
            if changed == Some(Dead) {
                break;
            }
        }
        assert_eq!(seen, expected, "{name}");
    }
}

#[test]
fn a_heartbeat_says_what_was_heard_last() {
    let mut heartbeat = Heartbeat::new(Instant::now(), HEARTBEAT);
    let mut next = |theirs| {
        loop {
            let due = heartbeat.poll_timeout();
            let (sent, _) = heartbeat.handle_timeout(due);
            if let Some(Message::Ping { heard, .. }) = sent {
                heartbeat.handle_message(due, &ping(theirs));
                return heard;
            }
        }
    };
    // The highest, whatever came since.
    let said = [7, 9, 8, 1].map(&mut next);
    assert_eq!(said, [None, Some(7), Some(9), Some(9)]);
}
