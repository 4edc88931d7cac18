//! A bounded queue in which a flood crowds out only itself.

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::LazyLock,
    time::{Duration, Instant},
};

use bytes::Bytes;

use crate::proto::flow::by_prefix;

/// Whose a datagram is: services share a queue evenly, and the players of a service its part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FairKey {
    /// The first public port of the service.
    service: u16,
    /// One of 256 places, which players share by chance: enough that two of those who flood and play seldom meet.
    player: u8,
}

impl FairKey {
    /// A player by its address, of IPv6 by its network, however many flows it opens. Nobody can aim at another's place.
    pub(crate) fn address(service: u16, player: IpAddr) -> Self {
        static PLACES: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let player = PLACES.hash_one(by_prefix(player)) as u8;
        Self { service, player }
    }

    /// A player by its flow, where its address is not known.
    pub(crate) const fn flow(service: u16, flow: u64) -> Self {
        // Flows are numbered one after the other.
        let player = flow as u8;
        Self { service, player }
    }
}

/// What takes places in a queue.
pub(crate) trait Places {
    /// How many, one at least.
    fn places(&self) -> usize;
}

impl Places for Bytes {
    /// One for each packet that it would be by itself.
    fn places(&self) -> usize {
        self.len().div_ceil(PLACE).max(1)
    }
}

/// What waits, by whose it is: each has its turn, and a full queue drops what the longest part of it holds longest.
#[derive(Debug)]
pub(crate) struct Fair<T> {
    parts: HashMap<FairKey, Part<T>>,
    services: HashMap<u16, Service>,
    /// Services of which something waits, in the order of their turns.
    turns: VecDeque<u16>,
    /// Places that are taken.
    len: usize,
}

/// What waits of one player.
#[derive(Debug)]
struct Part<T> {
    /// Each with when it came.
    waiting: VecDeque<(Instant, T)>,
    /// Since when something of it waits without a break.
    began: Instant,
    len: usize,
}

/// What has waited for its turn.
#[derive(Debug)]
pub(crate) struct Waited<T> {
    pub(crate) item: T,
    came: Instant,
    began: Instant,
}

impl<T> Waited<T> {
    /// How long it may go on waiting, if it is still of use: for `age` since it came, or since the queue last `moved`, for a burst is
    /// not old while it leaves. A player of whom something waits for long sends more than the path carries: then all the wait counts.
    pub(crate) fn left(&self, now: Instant, moved: Instant, age: Duration) -> Option<Duration> {
        let is_burst = now.saturating_duration_since(self.began) <= age.saturating_mul(BURST_AGES);
        let counts_from = if is_burst {
            self.came.max(moved)
        } else {
            self.came
        };
        age.checked_sub(now.saturating_duration_since(counts_from))
    }
}

/// What waits of one service.
#[derive(Debug, Default)]
struct Service {
    /// Its players of whom something waits, in the order of their turns.
    turns: VecDeque<u8>,
    len: usize,
}

impl<T> Default for Fair<T> {
    fn default() -> Self {
        Self {
            parts: HashMap::new(),
            services: HashMap::new(),
            turns: VecDeque::new(),
            len: 0,
        }
    }
}

impl<T: Places> Fair<T> {
    /// Adds to the part of `whose`. Returns what had to go, so that no more than `most` places are taken, or what it takes alone.
    pub(crate) fn push(&mut self, now: Instant, whose: FairKey, item: T, most: usize) -> Vec<T> {
        let places = item.places();
        // Nearly always empty, which costs no allocation.
        let mut dropped = Vec::new();
        while self.len > 0 && self.len + places > most {
            let Some(gone) = self.make_room(whose) else {
                break;
            };
            dropped.push(gone);
        }
        let service = self.services.entry(whose.service).or_default();
        if service.len == 0 {
            self.turns.push_back(whose.service);
        }
        service.len += places;
        let part = self.parts.entry(whose).or_insert_with(|| Part {
            waiting: VecDeque::new(),
            began: now,
            len: 0,
        });
        if part.waiting.is_empty() {
            part.began = now;
            service.turns.push_back(whose.player);
        }
        part.waiting.push_back((now, item));
        part.len += places;
        self.len += places;
        dropped
    }

    /// Takes the oldest of the player whose turn it is, of the service whose turn it is.
    pub(crate) fn pop(&mut self) -> Option<Waited<T>> {
        let place = self.turns.pop_front()?;
        let service = self.services.get_mut(&place)?;
        let player = service.turns.pop_front()?;
        let whose = FairKey {
            service: place,
            player,
        };
        let part = self.parts.get_mut(&whose)?;
        let began = part.began;
        let next = part.waiting.pop_front();
        let places = next.as_ref().map_or(0, |(_, item)| item.places());
        let has_more = !part.waiting.is_empty();
        if has_more {
            service.turns.push_back(player);
        }
        part.len -= places;
        service.len -= places;
        self.len -= places;
        if service.len > 0 {
            self.turns.push_back(place);
        }
        if !has_more {
            self.forget(whose);
        }
        next.map(|(came, item)| Waited { item, came, began })
    }

    fn make_room(&mut self, whose: FairKey) -> Option<T> {
        let share = self.len / self.turns.len().max(1);
        let own = self.services.get(&whose.service).map_or(0, |it| it.len);
        // A flood meets its own part here, and no other is looked at.
        let fattest = if own > share {
            whose.service
        } else {
            let lens = self.turns.iter().map(|it| (self.services[it].len, *it));
            lens.max()?.1
        };
        let service = self.services.get_mut(&fattest)?;
        let share = service.len / service.turns.len().max(1);
        let own = self.parts.get(&whose).map_or(0, |it| it.len);
        let player = if whose.service == fattest && own > share {
            whose.player
        } else {
            let len = |player: u8| {
                let whose = FairKey {
                    service: fattest,
                    player,
                };
                self.parts.get(&whose).map_or(0, |it| it.len)
            };
            let lens = service.turns.iter().map(|&player| (len(player), player));
            lens.max()?.1
        };
        let fattest = FairKey {
            service: fattest,
            player,
        };
        let part = self.parts.get_mut(&fattest)?;
        let dropped = part.waiting.pop_front();
        let places = dropped.as_ref().map_or(0, |(_, item)| item.places());
        part.len -= places;
        service.len -= places;
        self.len -= places;
        if part.waiting.is_empty() {
            service.turns.retain(|it| *it != player);
            if service.len == 0 {
                self.turns.retain(|it| *it != fattest.service);
            }
            self.forget(fattest);
        }
        dropped.map(|(_, item)| item)
    }

    /// An empty part keeps its room for the next packet, as long as there are few.
    fn forget(&mut self, whose: FairKey) {
        if self.parts.len() > PARTS_KEPT {
            self.parts.remove(&whose);
        }
        let is_idle = |service: &Service| service.len == 0;
        if self.services.len() > PARTS_KEPT
            && self.services.get(&whose.service).is_some_and(is_idle)
        {
            self.services.remove(&whose.service);
        }
    }
}

/// Bytes that take one place: a packet of Ethernet, so that what is bounded by number is bounded in memory, too.
const PLACE: usize = 1_500;
/// Empty parts kept, so that a packet costs no allocation: 64, more services than most nodes have, and more players than
/// most have something waiting for.
const PARTS_KEPT: usize = 64;
/// A burst may take this many times the age of a single datagram to leave: 1 s, in which 4 Mbit/s carry a world of 480 kB, and after
/// which a flood is known for one.
const BURST_AGES: u32 = 10;

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, net::Ipv4Addr};

    use super::*;

    macro_rules! one_place {
        ($($name:ty),*) => {$(
            impl Places for $name {
                fn places(&self) -> usize {
                    1
                }
            }
        )*};
    }
    one_place!(char, i32, u32, u64, (char, i32));

    fn player(service: u16, flow: u64) -> FairKey {
        FairKey::flow(service, flow)
    }

    #[test]
    fn a_player_with_an_ipv6_network_is_one_player() {
        let of = |ip: &str| FairKey::address(7777, ip.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:ffff:ffff:ffff"));
        let networks = (0..64).map(|n| of(&format!("2001:db8:0:{n:x}::1")).player);
        assert!(networks.collect::<HashSet<_>>().len() > 8);
    }

    #[test]
    fn a_flood_drops_only_its_own_and_waits_its_turn() {
        // Another service's, then another player's of the same service.
        for other in [player(8, 1), player(7, 2)] {
            let mut queue = Fair::default();
            for n in 0..1000 {
                let dropped = queue.push(Instant::now(), player(7, 1), ('f', n), 100);
                assert_eq!(dropped.len(), usize::from(n >= 100));
            }
            for n in 0..20 {
                let dropped = queue.push(Instant::now(), other, ('o', n), 100);
                assert!(matches!(dropped[..], [('f', _)]), "{other:?}");
            }
            let first: Vec<_> = (0..40).map(|_| queue.pop().unwrap().item).collect();
            let theirs: Vec<_> = first.iter().filter(|(whose, _)| *whose == 'o').collect();
            assert_eq!(theirs.len(), 20, "each has its turn: {other:?}");
            assert!(theirs.is_sorted(), "in order");
            assert_eq!(first[0], ('f', 920), "the oldest of a flood goes first");
            assert_eq!(std::iter::from_fn(|| queue.pop()).count(), 60);
        }
    }

    #[test]
    fn a_service_of_many_players_has_no_more_turns_than_one_of_few() {
        let mut queue = Fair::default();
        for n in 0..50 {
            queue.push(Instant::now(), player(7, n), 7, 100);
            queue.push(Instant::now(), player(8, 0), 8, 100);
        }
        let first: Vec<_> = (0..40).map(|_| queue.pop().unwrap().item).collect();
        assert_eq!(first.iter().filter(|service| **service == 8).count(), 20);
    }

    #[test]
    fn a_player_has_one_place_whatever_its_flows() {
        let address = IpAddr::from(Ipv4Addr::new(192, 0, 2, 7));
        assert_eq!(FairKey::address(7, address), FairKey::address(7, address));
        let places: HashSet<_> = (0..=255)
            .map(|n| FairKey::address(7, Ipv4Addr::new(192, 0, 2, n).into()).player)
            .collect();
        // 256 drawn of 256 leave 94 empty on average.
        assert!(places.len() > 100, "{}", places.len());
    }

    #[test]
    fn the_bound_holds_for_any_number_of_services_and_players() {
        let mut queue = Fair::default();
        let mut held = 0_usize;
        for n in 0..50_000_u32 {
            let place = n.wrapping_mul(2_654_435_761);
            let whose = player((place >> 28) as u16, u64::from(place >> 20));
            held += 1;
            held -= queue.push(Instant::now(), whose, n, 64).len();
            if n % 3 == 0 {
                held -= usize::from(queue.pop().is_some());
            }
            assert!(held <= 64 && queue.len == held);
            let by_service: usize = queue.services.values().map(|it| it.len).sum();
            let by_part: usize = queue.parts.values().map(|it| it.len).sum();
            assert_eq!((by_service, by_part), (held, held));
        }
        assert!(queue.parts.len() <= PARTS_KEPT + 64);
        assert!(queue.services.len() <= PARTS_KEPT + 64);
        assert_eq!(std::iter::from_fn(|| queue.pop()).count(), held);
        assert!(queue.pop().is_none() && queue.turns.is_empty());
    }

    #[test]
    fn what_is_long_takes_the_places_of_many_and_drops_its_own() {
        let long = Bytes::from(vec![0; 16_384]);
        let short = Bytes::from(vec![1; 200]);
        assert_eq!((long.places(), short.places()), (11, 1));
        assert_eq!(Bytes::new().places(), 1);
        let mut queue = Fair::default();
        for _ in 0..20 {
            assert!(
                queue
                    .push(Instant::now(), player(7, 2), short.clone(), 100)
                    .is_empty()
            );
        }
        for _ in 0..50 {
            let dropped = queue.push(Instant::now(), player(7, 1), long.clone(), 100);
            assert!(dropped.iter().all(|it| *it == long));
        }
        assert!(queue.len <= 100);
        let left: Vec<_> = std::iter::from_fn(|| queue.pop())
            .map(|it| it.item)
            .collect();
        assert_eq!(left.iter().filter(|it| **it == short).count(), 20);
        assert_eq!(left.iter().filter(|it| **it == long).count(), 7);
    }

    #[test]
    fn a_queue_of_nothing_holds_one() {
        let mut queue = Fair::default();
        assert_eq!(queue.push(Instant::now(), player(1, 1), 'a', 0), []);
        assert_eq!(queue.push(Instant::now(), player(1, 1), 'b', 0), ['a']);
        assert_eq!(queue.push(Instant::now(), player(1, 2), 'c', 0), ['b']);
        assert_eq!(queue.push(Instant::now(), player(2, 2), 'd', 0), ['c']);
        assert_eq!(queue.pop().unwrap().item, 'd');
    }

    const AGE: Duration = Duration::from_millis(100);

    /// Lets `count` pass, one each millisecond from `start`, of a part to which `push` adds before each. Returns how many were too old.
    fn pass(
        queue: &mut Fair<u32>,
        start: Instant,
        count: u32,
        mut push: impl FnMut(&mut Fair<u32>, u32),
    ) -> Vec<bool> {
        let mut moved = start;
        let mut old = Vec::new();
        for tick in 1..=count {
            push(queue, tick);
            let now = start + Duration::from_millis(tick.into());
            while let Some(next) = queue.pop() {
                let is_old = next.left(now, moved, AGE).is_none();
                old.push(is_old);
                if !is_old {
                    moved = now;
                    break;
                }
            }
        }
        old
    }

    #[test]
    fn a_burst_is_not_old_while_it_leaves_nor_is_what_follows_it() {
        let (mut queue, start) = (Fair::default(), Instant::now());
        for n in 0..400 {
            queue.push(start, player(7, 1), n, 4096);
        }
        let old = pass(&mut queue, start, 450, |queue, tick| {
            if tick % 20 == 0 {
                let now = start + Duration::from_millis(tick.into());
                queue.push(now, player(7, 1), tick, 4096);
            }
        });
        assert_eq!(old.iter().filter(|is_old| **is_old).count(), 0);
        assert!(queue.pop().is_none());
    }

    #[test]
    fn a_flood_waits_no_longer_than_a_datagram_may_once_it_is_known() {
        let (mut queue, start) = (Fair::default(), Instant::now());
        let old = pass(&mut queue, start, 3_000, |queue, tick| {
            let now = start + Duration::from_millis(tick.into());
            for _ in 0..2 {
                queue.push(now, player(7, 1), tick, 100_000);
            }
        });
        assert!(old.contains(&true));
        let next = queue.pop().unwrap();
        let end = start + Duration::from_millis(3_000);
        assert!(end - next.came <= AGE + Duration::from_millis(2));
    }

    #[test]
    fn an_age_without_end_drops_nothing() {
        let (mut queue, start) = (Fair::default(), Instant::now());
        queue.push(start, player(7, 1), 1, 4096);
        let next = queue.pop().unwrap();
        let later = start + Duration::from_secs(3_600);
        assert!(next.left(later, start, Duration::MAX).is_some());
    }

    #[test]
    fn what_waited_for_a_path_that_stood_still_is_old() {
        let (mut queue, start) = (Fair::default(), Instant::now());
        let at = |millis| start + Duration::from_millis(millis);
        for tick in 0..20 {
            queue.push(at(20 * tick), player(7, 1), tick, 4096);
        }
        // It moves again after 400 ms, and then at once.
        let now = at(400);
        let mut moved = start;
        let mut fresh = Vec::new();
        while let Some(next) = queue.pop() {
            if next.left(now, moved, AGE).is_some() {
                moved = now;
                fresh.push(next.item);
            }
        }
        assert_eq!(fresh, [15, 16, 17, 18, 19]);
    }
}
