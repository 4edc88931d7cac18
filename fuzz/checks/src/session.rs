//! The two ends of a control conversation, driven by operations: the client's wishes change, bytes come late, cut,
//! twice or damaged, time passes, either side drains or leaves, the relay refuses and unbinds, tunnels are lost.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::LazyLock,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use tunnel_core::{
    instance::{Instance, InstanceId, Protocol, Service},
    proto::{
        message::{Code, Decoder, IdleLanes, Message, Revision, ServiceId, Text},
        session::{
            DEAD_AFTER, HEARTBEAT, Liveness, SUSPECT_GRACE, SessionMisbehaved,
            client::{ClientEvent, ClientSession},
            relay::{RelayEvent, RelaySession},
        },
    },
};

use crate::input::Input;

/// Whatever happened, once a tunnel stands both sides agree on what is bound; on the way nothing grows past its bound,
/// and silence is noticed.
pub fn check(input: &[u8]) {
    let mut input = Input::new(input);
    let mut pair = Pair::new(input.long());
    for _ in 0..128 {
        if input.is_empty() {
            break;
        }
        pair.step(&mut input);
        pair.agree();
    }
    pair.settle();
}

struct Pair {
    now: Instant,
    client: ClientSession,
    /// What the client wants, by instance.
    wanted: BTreeMap<InstanceId, Instance>,
    /// What the relay holds. It outlives tunnels, as a lease does.
    held: BTreeMap<InstanceId, (Revision, HashSet<ServiceId>)>,
    refuses: bool,
    tunnel: Option<Tunnel>,
}

struct Tunnel {
    relay: RelaySession,
    to_relay: Way,
    to_client: Way,
}

/// One direction of a control stream.
struct Way {
    bytes: VecDeque<u8>,
    decoder: Decoder,
    /// When the receiver last heard anything.
    heard: Instant,
    liveness: Liveness,
}

impl Way {
    fn new(now: Instant) -> Self {
        Self {
            bytes: VecDeque::new(),
            decoder: Decoder::new(),
            heard: now,
            liveness: Liveness::Alive,
        }
    }

    fn send(&mut self, message: &Message) {
        let mut out = BytesMut::new();
        message.encode(&mut out);
        self.bytes.extend(&out);
    }

    /// The messages in the next `count` bytes; an error where they are none.
    fn deliver(&mut self, count: usize) -> Result<Vec<Message>, Broken> {
        let count = count.min(self.bytes.len());
        let bytes: Vec<u8> = self.bytes.drain(..count).collect();
        self.decoder.handle_input(&bytes);
        let mut messages = Vec::new();
        loop {
            match self.decoder.poll_message() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => return Ok(messages),
                Err(_) => return Err(Broken),
            }
        }
    }
}

/// The tunnel ends: a side broke the protocol or left.
struct Broken;

impl From<SessionMisbehaved> for Broken {
    fn from(_: SessionMisbehaved) -> Self {
        Self
    }
}

impl Pair {
    fn new(seed: u64) -> Self {
        Self {
            now: Instant::now(),
            client: ClientSession::new(seed),
            wanted: BTreeMap::new(),
            held: BTreeMap::new(),
            refuses: false,
            tunnel: None,
        }
    }

    fn step(&mut self, input: &mut Input<'_>) {
        match input.below(20) {
            0..=2 => {
                let instance = instance(input.below(INSTANCES), input.below(VARIANTS));
                self.wanted.insert(instance.id().clone(), instance.clone());
                self.client.insert(instance);
            }
            3 => {
                let id = instance(input.below(INSTANCES), 0).id().clone();
                let there = self.wanted.remove(&id).is_some();
                assert_eq!(self.client.remove(&id), there);
            }
            4..=6 => self.deliver_to_relay(usize::from(input.byte()) * 4),
            7..=9 => self.deliver_to_client(usize::from(input.byte()) * 4),
            10 => {
                let most = 1 << input.below(18);
                self.pass(Duration::from_millis(
                    (u64::from(input.word()) * most) >> 16,
                ));
            }
            11 => self.disconnect(),
            12 => self.connect(),
            13 => self.refuses = input.flag(),
            14 => self.relay_says(input),
            15 => self.client_says(input),
            16 => self.unbind(input),
            17 => self.damage(input),
            18 => self.forge(input),
            _ => {
                self.connect();
                self.exchange();
            }
        }
        self.pump();
    }

    fn connect(&mut self) {
        if self.tunnel.is_some() {
            return;
        }
        self.client.handle_connected(self.now);
        self.tunnel = Some(Tunnel {
            relay: RelaySession::new(self.now, 1, LEASE, "node-1", None),
            to_relay: Way::new(self.now),
            to_client: Way::new(self.now),
        });
        self.pump();
    }

    fn disconnect(&mut self) {
        if self.tunnel.take().is_some() {
            self.client.handle_disconnected();
            assert_eq!(self.client.poll_timeout(), None);
        }
    }

    fn deliver_to_relay(&mut self, count: usize) {
        let now = self.now;
        let Some(tunnel) = &mut self.tunnel else {
            return;
        };
        let delivered = tunnel.to_relay.deliver(count).and_then(|messages| {
            for message in messages {
                tunnel.to_relay.heard = now;
                tunnel.relay.handle_message(now, message)?;
            }
            Ok(())
        });
        if delivered.is_err() {
            self.disconnect();
        }
        self.pump();
    }

    fn deliver_to_client(&mut self, count: usize) {
        let Some(tunnel) = &mut self.tunnel else {
            return;
        };
        let (client, now) = (&mut self.client, self.now);
        let delivered = tunnel.to_client.deliver(count).and_then(|messages| {
            for message in messages {
                tunnel.to_client.heard = now;
                client.handle_message(now, message)?;
            }
            Ok(())
        });
        if delivered.is_err() {
            self.disconnect();
        }
        self.pump();
    }

    /// Time passes; each side is woken when it asks to be.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        // A heartbeat and a retry of each instance every 250 ms at most, in 131 s.
        for _ in 0..4_096 {
            let relay = self.tunnel.as_ref().map(|it| it.relay.poll_timeout());
            let wake = [self.client.poll_timeout(), relay]
                .into_iter()
                .flatten()
                .min();
            let dead = |way: &Way| way.liveness == Liveness::Dead;
            if (self.tunnel.as_ref()).is_some_and(|it| dead(&it.to_client) || dead(&it.to_relay)) {
                self.disconnect();
                continue;
            }
            let Some(wake) = wake.filter(|wake| *wake <= until) else {
                self.now = until;
                return;
            };
            self.now = self.now.max(wake);
            self.client.handle_timeout(self.now);
            if let Some(tunnel) = &mut self.tunnel {
                tunnel.relay.handle_timeout(self.now);
            }
            self.pump();
            self.notice_silence();
        }
        panic!("woken without end");
    }

    /// Right after a side was woken, it doubts another of which it has heard nothing for so long.
    fn notice_silence(&self) {
        let Some(tunnel) = &self.tunnel else {
            return;
        };
        for way in [&tunnel.to_client, &tunnel.to_relay] {
            let silent = self.now.duration_since(way.heard);
            // Who hears the other, but not that it is heard itself, may think so sooner.
            let is_dead = way.liveness == Liveness::Dead;
            assert!(is_dead || silent < DEAD_AFTER, "{silent:?}");
            let is_alive = way.liveness == Liveness::Alive;
            assert!(
                !is_alive || silent < HEARTBEAT + SUSPECT_GRACE,
                "{silent:?}"
            );
        }
    }

    /// What an honest relay says unasked.
    fn relay_says(&mut self, input: &mut Input<'_>) {
        let Some(tunnel) = &mut self.tunnel else {
            return;
        };
        tunnel.relay.send(match input.below(4) {
            0 => Message::Drain { grace: LEASE },
            1 => Message::Lanes {
                idle: IdleLanes::new(input.word()),
            },
            2 => Message::Goodbye {
                code: Code::Shutdown,
                text: Text::new("bye"),
            },
            _ => Message::Reject {
                code: Code::Limit,
                text: Text::new("full"),
            },
        });
    }

    /// The client drains, once and for all, or its address changes. Both may come without a tunnel too.
    fn client_says(&mut self, input: &mut Input<'_>) {
        if input.flag() {
            self.client.handle_path_changed(self.now);
        } else {
            let grace = Duration::from_millis(input.word().into());
            self.client.drain(self.now, grace);
        }
    }

    /// The relay has to give an instance up: an operator's list became shorter, another process took the port.
    fn unbind(&mut self, input: &mut Input<'_>) {
        let id = instance(input.below(INSTANCES), 0).id().clone();
        let Some(tunnel) = &mut self.tunnel else {
            return;
        };
        if let Some((revision, _)) = self.held.remove(&id) {
            tunnel.relay.send(Message::Unbound {
                instance: id,
                revision,
                code: Code::NotPermitted,
                text: Text::new("no more"),
            });
        }
    }

    /// Bytes on the way are flipped, lost or doubled. No transport lets it happen; the sessions bear it.
    fn damage(&mut self, input: &mut Input<'_>) {
        let Some(tunnel) = &mut self.tunnel else {
            return;
        };
        let way = if input.flag() {
            &mut tunnel.to_relay
        } else {
            &mut tunnel.to_client
        };
        let at = input.below(way.bytes.len().min(1_024));
        match input.below(3) {
            0 => {
                if let Some(byte) = way.bytes.get_mut(at) {
                    *byte ^= input.byte();
                }
            }
            1 => way.bytes.truncate(at),
            _ => {
                let again: Vec<u8> = way.bytes.iter().take(at).copied().collect();
                way.bytes.extend(again);
            }
        }
    }

    /// The peer sends whatever it likes.
    fn forge(&mut self, input: &mut Input<'_>) {
        let Some(tunnel) = &mut self.tunnel else {
            return;
        };
        let instance = instance(input.below(INSTANCES), 0).id().clone();
        let revision = Revision(input.byte().into());
        let (code, text) = (Code::from(u64::from(input.byte())), Text::new("because"));
        let message = match input.below(5) {
            0 => Message::Bound { instance, revision },
            1 => Message::Refused {
                instance,
                revision,
                code,
                text,
                port: None,
            },
            2 => Message::Unbound {
                instance,
                revision,
                code,
                text,
            },
            3 => Message::Withdraw { instance, revision },
            _ => Message::Pong {
                number: input.byte().into(),
            },
        };
        if input.flag() {
            tunnel.to_relay.send(&message);
        } else {
            tunnel.to_client.send(&message);
        }
    }

    /// Puts what each side has to say on its way, and does what each wants done.
    fn pump(&mut self) {
        while let Some(event) = self.client.poll_event() {
            if let (ClientEvent::Liveness(liveness), Some(tunnel)) = (event, &mut self.tunnel) {
                tunnel.to_client.liveness = liveness;
            }
        }
        let Some(tunnel) = &mut self.tunnel else {
            assert_eq!(self.client.poll_message(), None, "said without a tunnel");
            return;
        };
        while let Some(event) = tunnel.relay.poll_event() {
            match event {
                RelayEvent::Declare {
                    instance,
                    revision,
                    services,
                } => {
                    let answer = if self.refuses {
                        Message::Refused {
                            instance,
                            revision,
                            code: Code::PortInUse,
                            text: Text::new("in use"),
                            port: Some(7777),
                        }
                    } else {
                        let ids = services.iter().map(|service| service.id).collect();
                        self.held.insert(instance.clone(), (revision, ids));
                        Message::Bound { instance, revision }
                    };
                    tunnel.relay.send(answer);
                }
                RelayEvent::Withdraw { instance, .. } => {
                    self.held.remove(&instance);
                }
                RelayEvent::Liveness(liveness) => tunnel.to_relay.liveness = liveness,
                _ => {}
            }
        }
        while let Some(message) = tunnel.relay.poll_message() {
            tunnel.to_client.send(&message);
        }
        while let Some(message) = self.client.poll_message() {
            tunnel.to_relay.send(&message);
        }
    }

    /// Lets everything arrive that is on its way, and what comes of it.
    fn exchange(&mut self) {
        for _ in 0..64 {
            let silent = |tunnel: &Tunnel| {
                tunnel.to_relay.bytes.is_empty() && tunnel.to_client.bytes.is_empty()
            };
            if self.tunnel.as_ref().is_none_or(silent) {
                return;
            }
            self.deliver_to_relay(usize::MAX);
            self.deliver_to_client(usize::MAX);
        }
        panic!("the two sides talk without end");
    }

    fn agree(&self) {
        let wanted = self.client.instances().map(|(instance, _)| instance);
        assert!(wanted.eq(self.wanted.values()));
        let mut ids = HashSet::new();
        assert!(self.client.services().all(|(id, _, _)| ids.insert(id)));
        // The version that is wanted, and the few before it that the relay may hold.
        assert!(ids.len() <= self.wanted.len() * VARIANTS * (1 + EARLIER_MAX));
    }

    /// A new tunnel, on which nothing is damaged and nothing refused.
    fn settle(&mut self) {
        self.disconnect();
        self.refuses = false;
        self.connect();
        self.exchange();
        assert!(self.tunnel.is_some(), "two honest sides do not part");
        assert!(self.client.is_all_bound());
        let mut services: BTreeMap<InstanceId, HashSet<ServiceId>> = BTreeMap::new();
        for (id, instance, _) in self.client.services() {
            services.entry(instance.clone()).or_default().insert(id);
        }
        for (instance, ids) in services {
            assert_eq!(self.held.get(&instance).map(|(_, ids)| ids), Some(&ids));
        }
    }
}

/// Instance `n` in one of its forms.
fn instance(n: usize, variant: usize) -> Instance {
    static ALL: LazyLock<Vec<Instance>> = LazyLock::new(|| {
        let all = (0..INSTANCES).flat_map(|n| (0..VARIANTS).map(move |variant| make(n, variant)));
        all.collect()
    });
    ALL[n * VARIANTS + variant].clone()
}

/// One service to as many as there are forms, led to different targets.
fn make(n: usize, variant: usize) -> Instance {
    let service = |s: usize| {
        let target = format!("127.0.0.1:{}", 1_000 + variant);
        let service = Service::new(&*format!("s{s}"), Protocol::Both, &*target).unwrap();
        let public = u16::try_from(2_000 + n * 10 + s).unwrap();
        service.public_port(public).unwrap()
    };
    Instance::new(&*format!("srv_{n}"), (0..=variant).map(service)).unwrap()
}

const INSTANCES: usize = 4;
const VARIANTS: usize = 4;
/// What `session::client` keeps of an instance's earlier versions.
const EARLIER_MAX: usize = 4;
const LEASE: Duration = Duration::from_secs(30);
