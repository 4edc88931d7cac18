//! The sender's side: what is sent beside a datagram, and when.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes, BytesMut};

use crate::proto::{
    datagram::{BUNDLES_MAX, DatagramHead, FlowId, RedundancyHead, RepairHead, Scheme},
    redundancy::{
        field,
        symbol::{LENGTH, SYMBOL_MAX, coefficient},
    },
};

/// Keeps the datagrams of a tunnel that have just left, and makes copies and repairs of them.
///
/// Number a datagram ([`sequence`](Self::sequence)), send it, hand it in; then do what
/// [`poll_copy`](Self::poll_copy) and [`poll_repair`](Self::poll_repair) say, again at
/// [`poll_timeout`](Self::poll_timeout).
#[derive(Debug)]
pub struct Protector {
    settings: ProtectorSettings,
    copied: u16,
    /// When each is due, in that order.
    copies: VecDeque<(Instant, Bytes)>,
    repaired: u16,
    /// There from the first datagram on that is to be repaired.
    window: Option<Box<Window>>,
}

/// Times and budget of a [`Protector`]. The defaults are those of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtectorSettings {
    /// How long a copy is held back. 3 ms: what a timer adds keeps a replaced packet within 5 ms of the others, and
    /// QUIC, which fills a packet with all the datagrams that wait, has sent the first long ago.
    pub copy_delay: Duration,
    /// Age from which on a repair covers a datagram, for the same reason. 1 ms.
    pub ripe: Duration,
    /// Repairs' bytes for a thousand bytes of datagrams, heads of packets included.
    pub permille: u32,
    /// Bytes a second of repairs beyond that: 2,000, so that a player alone is protected at once.
    pub extra: u32,
    /// Bundles that a repair covers, 1 to [`BUNDLES_MAX`].
    pub bundles: usize,
}

impl ProtectorSettings {
    /// How old a datagram is at least when its copy leaves.
    pub fn copy_age_least(&self) -> Duration {
        self.copy_delay.saturating_sub(TOGETHER)
    }
}

impl Default for ProtectorSettings {
    fn default() -> Self {
        Self {
            copy_delay: Duration::from_millis(3),
            ripe: Duration::from_millis(1),
            permille: 360,
            extra: 2_000,
            bundles: BUNDLES_MAX,
        }
    }
}

impl Protector {
    /// Nothing has been sent yet.
    pub fn new(settings: ProtectorSettings) -> Self {
        Self {
            settings,
            copied: 0,
            copies: VecDeque::new(),
            repaired: 0,
            window: None,
        }
    }

    /// The number of the next datagram of a scheme; each scheme counts for itself.
    pub const fn sequence(&mut self, scheme: Scheme) -> u16 {
        let next = match scheme {
            Scheme::Copied => &mut self.copied,
            Scheme::Source | Scheme::Repair(_) => &mut self.repaired,
        };
        let sequence = *next;
        *next = next.wrapping_add(1);
        sequence
    }

    /// A datagram left that is to be copied.
    pub fn handle_copied(&mut self, now: Instant, datagram: Bytes) {
        if self.copies.len() >= COPIES_MAX {
            self.copies.pop_front();
        }
        self.copies
            .push_back((now + self.settings.copy_delay, datagram));
    }

    /// A datagram of at most [`PROTECTED_MAX`](crate::proto::redundancy::PROTECTED_MAX) bytes left that is to be repaired, under this
    /// number.
    pub fn handle_source(&mut self, now: Instant, sequence: u16, datagram: &[u8]) {
        let settings = self.settings;
        let window = self
            .window
            .get_or_insert_with(|| Box::new(Window::new(now, settings)));
        window.handle_source(now, sequence, datagram);
    }

    /// When to poll again. It is nearer after a datagram, never otherwise.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let copy = self.copies.front().map(|(due, _)| *due);
        let repair = self.window.as_ref().and_then(|window| window.due());
        copy.into_iter().chain(repair).min()
    }

    /// A copy whose time has come; call until `None`.
    pub fn poll_copy(&mut self, now: Instant) -> Option<Bytes> {
        // Those due within the timer's precision go with it, in one packet and one wake-up.
        if self.copies.front()?.0 > now + TOGETHER {
            return None;
        }
        self.copies.pop_front().map(|(_, datagram)| datagram)
    }

    /// Appends a repair to `out` if its time has come. Returns whether it did.
    pub fn poll_repair(&mut self, now: Instant, out: &mut BytesMut) -> bool {
        self.window
            .as_mut()
            .is_some_and(|window| window.repair(now, out))
    }
}

/// The newest datagrams, in bundles: what leaves together is lost together, and is one symbol of the code.
#[derive(Debug)]
struct Window {
    settings: ProtectorSettings,
    /// Oldest first; the newest may still grow.
    bundles: VecDeque<Bundle>,
    /// How many of the newest no repair has covered.
    fresh: usize,
    next_bundle: u8,
    next_repair: u8,
    /// Bytes that repairs may take, in thousandths; below 0 what the last one took in advance.
    credit: i64,
    credit_at: Instant,
    /// The bundle with which there was enough for a repair: it waits until it covers that one, too, for it comes as
    /// soon to those before and sooner to this.
    paid_with: Option<u8>,
}

#[derive(Debug)]
struct Bundle {
    number: u8,
    first: u16,
    count: u8,
    since: Instant,
    last: Instant,
    /// Each datagram behind its length.
    symbol: Vec<u8>,
}

impl Window {
    fn new(now: Instant, settings: ProtectorSettings) -> Self {
        Self {
            settings,
            bundles: VecDeque::new(),
            fresh: 0,
            next_bundle: 0,
            next_repair: 0,
            credit: CREDIT_MOST,
            credit_at: now,
            paid_with: None,
        }
    }

    fn handle_source(&mut self, now: Instant, sequence: u16, datagram: &[u8]) {
        self.earn(now);
        let joins = self.bundles.back().is_some_and(|bundle| {
            self.fresh > 0
                && bundle.count < BUNDLE_COUNT
                && now.saturating_duration_since(bundle.since) <= TOGETHER
                && bundle.symbol.len() + LENGTH + datagram.len() <= TOGETHER_MAX
        });
        let mut cost = datagram.len();
        if !joins {
            cost += PACKET;
            self.begin(now, sequence);
        }
        self.credit =
            (self.credit + cost as i64 * i64::from(self.settings.permille)).min(CREDIT_BURST);
        if let Some(bundle) = self.bundles.back_mut() {
            bundle.count += 1;
            bundle.last = now;
            bundle.symbol.put_u16(datagram.len() as u16);
            bundle.symbol.put_slice(datagram);
            let number = bundle.number;
            if self.credit >= self.cost() {
                self.paid_with.get_or_insert(number);
            }
        }
    }

    /// Adds an empty bundle. The oldest gives its buffer.
    fn begin(&mut self, now: Instant, first: u16) {
        let mut symbol = Vec::new();
        if self.bundles.len() >= self.settings.bundles + UNRIPE_MAX
            && let Some(oldest) = self.bundles.pop_front()
        {
            symbol = oldest.symbol;
            symbol.clear();
        }
        self.bundles.push_back(Bundle {
            number: self.next_bundle,
            first,
            count: 0,
            since: now,
            last: now,
            symbol,
        });
        self.next_bundle = self.next_bundle.wrapping_add(1);
        self.fresh = (self.fresh + 1).min(self.bundles.len());
    }

    fn earn(&mut self, now: Instant) {
        let earned = now.saturating_duration_since(self.credit_at).as_micros() as i64
            * i64::from(self.settings.extra)
            / 1000;
        let most = CREDIT_MOST.max(self.credit);
        self.credit = self.credit.saturating_add(earned).min(most);
        self.credit_at = self.credit_at.max(now);
    }

    /// What a repair of all that is there would cost, in thousandths of a byte.
    fn cost(&self) -> i64 {
        let newest = self.bundles.iter().rev().take(self.settings.bundles);
        let longest = newest.map(|bundle| bundle.symbol.len()).max();
        (longest.unwrap_or_default() + PACKET + REPAIR) as i64 * 1000
    }

    /// Whether there is more than time saves up: what came at once, as fragments do, has paid for several repairs of it.
    const fn has_surplus(&self) -> bool {
        self.fresh == 0 && self.credit > CREDIT_MOST
    }

    /// When the next repair is both useful and paid.
    fn due(&self) -> Option<Instant> {
        let is_useful = self.fresh > 0 || self.has_surplus();
        let newest = self.bundles.back().filter(|_| is_useful)?;
        if let Some(number) = self.paid_with {
            let age = usize::from(newest.number.wrapping_sub(number)) + 1;
            let bundle = self.bundles.len().checked_sub(age);
            let bundle = bundle.and_then(|at| self.bundles.get(at));
            return Some(bundle.unwrap_or(newest).last + self.settings.ripe);
        }
        // Nothing came since: time pays, or after some silence the debts alone, and what comes next pays for this one.
        let paid = self.reaches(self.cost())?;
        let advanced = self.reaches(0)?.max(newest.last + TAIL);
        let due = paid.min(advanced).max(newest.last + self.settings.ripe);
        (due <= newest.last + STALE).then_some(due)
    }

    /// When there is so much credit, if nothing comes.
    fn reaches(&self, wanted: i64) -> Option<Instant> {
        let missing = (wanted - self.credit).max(0) as u64;
        let micros = (missing * 1000).div_ceil(u64::from(self.settings.extra).max(1));
        (self.settings.extra > 0 || missing == 0)
            .then(|| self.credit_at + Duration::from_micros(micros))
    }

    fn repair(&mut self, now: Instant, out: &mut BytesMut) -> bool {
        if self.due().is_none_or(|due| due > now) {
            return false;
        }
        self.earn(now);
        self.paid_with = None;
        let is_tail = |bundle: &Bundle| bundle.last + TAIL <= now;
        let is_advanced = self.credit >= 0 && self.bundles.back().is_some_and(is_tail);
        if self.credit < self.cost() && !is_advanced {
            // A larger datagram came meanwhile.
            return false;
        }
        let is_ripe = |bundle: &&Bundle| bundle.last + self.settings.ripe <= now;
        let ripe = self.bundles.iter().take_while(is_ripe).count();
        let recent = |bundle: &Bundle| bundle.last + OLD > now;
        let first = self.bundles.iter().position(recent).unwrap_or(ripe);
        let first = first.max(ripe.saturating_sub(self.settings.bundles));
        let covered = self.bundles.range(first.min(ripe)..ripe);
        let Some(oldest) = covered.clone().next() else {
            // The credit came too late for any of it.
            self.fresh = 0;
            self.credit = self.credit.min(CREDIT_MOST);
            return false;
        };
        let mut head = RepairHead {
            number: self.next_repair,
            bundle: oldest.number,
            counts: [0; BUNDLES_MAX],
        };
        let mut length = 0;
        for (bundle, count) in covered.clone().zip(&mut head.counts) {
            *count = bundle.count;
            length = length.max(bundle.symbol.len());
        }
        let first = oldest.first;
        write_head(first, head, out);
        let start = out.len();
        out.put_bytes(0, length);
        for bundle in covered {
            let factor = coefficient(head.number, bundle.number);
            field::add_scaled(&mut out[start..], factor, &bundle.symbol);
        }
        self.next_repair = self.next_repair.wrapping_add(1);
        self.fresh = self.fresh.min(self.bundles.len() - ripe);
        self.credit -= (length + PACKET + REPAIR) as i64 * 1000;
        if self.fresh > 0 && self.credit >= self.cost() {
            self.paid_with = self.bundles.get(ripe).map(|bundle| bundle.number);
        }
        true
    }
}

fn write_head(sequence: u16, repair: RepairHead, out: &mut BytesMut) {
    let head = DatagramHead {
        redundancy: Some(RedundancyHead {
            sequence,
            scheme: Scheme::Repair(repair),
        }),
        ..DatagramHead::data(NO_FLOW)
    };
    out.reserve(head.encoded_len() + SYMBOL_MAX);
    head.encode(out);
}

/// A repair is of no flow: real ones begin at 1.
const NO_FLOW: FlowId = FlowId(0);

/// Copies that wait at most: 3 ms of 85,000 datagrams a second.
const COPIES_MAX: usize = 256;

/// What is sent within half a millisecond is likely to share a packet: a timer is not more precise either.
const TOGETHER: Duration = Duration::from_micros(500);

/// Bytes of a symbol to which further datagrams are added: with every head around it, it fits the 1,200 bytes that any path carries.
const TOGETHER_MAX: usize = 1024;

/// Datagrams of one bundle: 8 of 128 bytes fill a symbol.
const BUNDLE_COUNT: u8 = 8;

/// Bundles too young to be covered that are kept beside the window: 4 ms of two in a millisecond.
const UNRIPE_MAX: usize = 8;

/// Bytes of a packet beside its datagrams: IPv4's and UDP's heads, QUIC's with a connection id of 12, and the tag.
const PACKET: usize = 20 + 8 + 1 + 12 + 2 + 16;

/// Bytes of a repair beside its symbol.
const REPAIR: usize = 20;

/// The most that repairs save up by time, in thousandths of a byte: two of the largest, for what follows a silence.
const CREDIT_MOST: i64 = 3_000_000;

/// The most that they save up while datagrams come: what a whole window of the largest pays for.
const CREDIT_BURST: i64 = 8_500_000;

/// Silence after which a repair is sent in advance of what pays for it: the last question before it would else be lost for good.
const TAIL: Duration = Duration::from_millis(20);

/// How long after a datagram a repair of it may still be of use, if only time pays for it: some ticks of a slow game.
const STALE: Duration = Duration::from_millis(140);

/// Age from which on no repair covers a datagram: whatever the receiver lacks of it, the game has gone on.
const OLD: Duration = Duration::from_millis(150);
