//! The receiver's side of repairs: what has come, what is missing, and the equations that say more.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::proto::{
    datagram::{BUNDLES_MAX, DatagramHead, RepairHead, Scheme},
    redundancy::{
        dedup::Dedup,
        field::{add_scaled, inverse, multiply, scale},
        symbol::{LENGTH, PROTECTED_MAX, SYMBOL_MAX, coefficient},
    },
};

/// Keeps the newest datagrams of a tunnel that repairs may cover, and finds missing ones.
///
/// Whatever the peer sends, it holds at most 256 datagrams and 8 repairs, 390 KiB; of small datagrams a twentieth of that.
#[derive(Debug, Default)]
pub struct Repairer {
    dedup: Dedup,
    /// The newest datagrams, at their number modulo [`HISTORY`]. Buffers stay, so that a packet costs no allocation.
    history: Vec<Slot>,
    /// Repairs of which more than one bundle is missing, each reduced by all the others.
    equations: Vec<Equation>,
    repaired: VecDeque<Bytes>,
    newest: u16,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    sequence: u16,
    datagram: Vec<u8>,
}

/// A bundle: its first number and how many follow from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bundle {
    first: u16,
    count: u8,
}

/// A sum of bundles' symbols with their factors that is known.
#[derive(Debug, Default)]
struct Equation {
    /// What is missing; the factor of the first is 1.
    unknown: Vec<(Bundle, u8)>,
    sum: Vec<u8>,
}

impl Repairer {
    /// A repairer that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a datagram, whole as it was sent, is to be handed on: its number has not come before.
    pub fn handle_source(&mut self, sequence: u16, datagram: &[u8]) -> bool {
        if !self.dedup.accept(sequence) {
            return false;
        }
        self.newest = sequence;
        self.remember(sequence, datagram);
        true
    }

    /// A repair came: its head, the number it begins with, and its symbol. What it gives is in
    /// [`poll_repaired`](Self::poll_repaired).
    pub fn handle_repair(&mut self, sequence: u16, head: &RepairHead, symbol: &[u8]) {
        if symbol.len() > SYMBOL_MAX {
            return;
        }
        if self.history.is_empty() {
            // The first source of all may be the one that is missing.
            self.history.resize(HISTORY, Slot::default());
            self.newest = sequence;
        }
        self.renew();
        if let Some(equation) = self.equation(sequence, head, symbol) {
            self.insert(equation);
        }
        self.solve();
    }

    /// A datagram that was missing, whole as it was sent; call until `None`. Each is handed out once.
    pub fn poll_repaired(&mut self) -> Option<Bytes> {
        self.repaired.pop_front()
    }

    fn remember(&mut self, sequence: u16, datagram: &[u8]) {
        if datagram.is_empty() || datagram.len() > PROTECTED_MAX {
            return;
        }
        if self.history.is_empty() {
            self.history.resize(HISTORY, Slot::default());
        }
        let slot = &mut self.history[usize::from(sequence) % HISTORY];
        slot.sequence = sequence;
        slot.datagram.clear();
        slot.datagram.extend_from_slice(datagram);
    }

    fn datagram(&self, sequence: u16) -> Option<&[u8]> {
        let slot = self.history.get(usize::from(sequence) % HISTORY)?;
        let is_there = slot.sequence == sequence && !slot.datagram.is_empty();
        is_there.then_some(slot.datagram.as_slice())
    }

    fn is_known(&self, bundle: Bundle) -> bool {
        bundle
            .numbers()
            .all(|number| self.datagram(number).is_some())
    }

    /// What a repair says of bundles that are missing. `None` if it says nothing.
    fn equation(&self, sequence: u16, head: &RepairHead, symbol: &[u8]) -> Option<Equation> {
        let is_unknown = |(bundle, _): &(Bundle, u8)| !self.is_known(*bundle);
        // Nothing is allocated where nothing is missing, which is nearly always.
        let unknown: Vec<_> = covered(sequence, head).filter(is_unknown).collect();
        if unknown.is_empty() {
            return None;
        }
        let mut sum = symbol.to_vec();
        for (bundle, factor) in covered(sequence, head).filter(|it| !is_unknown(it)) {
            self.subtract(&mut sum, bundle, factor)?;
        }
        Some(Equation { unknown, sum })
    }

    /// Takes a known bundle out of a sum. `None` if it is longer than the sum: then one of the two is not what it says.
    fn subtract(&self, sum: &mut [u8], bundle: Bundle, factor: u8) -> Option<()> {
        #[cfg(test)]
        steps::count();
        let mut at = 0;
        for number in bundle.numbers() {
            let datagram = self.datagram(number)?;
            let length = (datagram.len() as u16).to_be_bytes();
            let end = at + LENGTH + datagram.len();
            let part = sum.get_mut(at..end)?;
            add_scaled(part, factor, &length);
            add_scaled(part.get_mut(LENGTH..)?, factor, datagram);
            at = end;
        }
        Some(())
    }

    /// Drops equations of long ago, and takes out of the others what has come by itself.
    fn renew(&mut self) {
        let newest = self.newest;
        let is_recent = |equation: &Equation| {
            equation.unknown.first().is_some_and(|(bundle, _)| {
                // It may be ahead, too: nothing has come since.
                newest
                    .wrapping_sub(bundle.first)
                    .min(bundle.first.wrapping_sub(newest))
                    <= HISTORY as u16
            })
        };
        self.equations.retain(is_recent);
        let mut left = RENEW_MOST;
        let mut at = 0;
        while at < self.equations.len() {
            if self.substitute(at, &mut left) {
                at += 1;
            } else {
                self.equations.remove(at);
            }
        }
        self.equations.retain(Equation::is_short);
    }

    /// Takes out of an equation what has come by itself. Returns whether it is of use still, and `left` takes the work.
    fn substitute(&mut self, at: usize, left: &mut usize) -> bool {
        let Some(place) = self.equations.get_mut(at) else {
            return false;
        };
        let mut equation = std::mem::take(place);
        let came = |(bundle, _): &(Bundle, u8)| self.is_known(*bundle);
        let lost_first = equation.unknown.first().is_some_and(came);
        let mut cost = equation.unknown.iter().filter(|it| came(it)).count();
        if lost_first {
            cost += EQUATIONS_MAX;
        }
        if cost > *left {
            return false;
        }
        *left -= cost;
        let mut holds = true;
        let sum = &mut equation.sum;
        equation.unknown.retain(|(bundle, factor)| {
            let known = self.is_known(*bundle);
            holds &= !known || self.subtract(sum, *bundle, *factor).is_some();
            !known
        });
        if !holds || lost_first && !equation.normalize() {
            return false;
        }
        if lost_first {
            // The others lack its new first unknown from now on; theirs are not in it, so nothing follows from that.
            for other in &mut self.equations {
                other.eliminate(&equation);
            }
        }
        self.equations[at] = equation;
        true
    }

    /// Adds an equation so that no first unknown of one is in another.
    fn insert(&mut self, mut equation: Equation) {
        for other in &self.equations {
            equation.eliminate(other);
        }
        if !equation.normalize() || !equation.is_short() {
            return;
        }
        for other in &mut self.equations {
            other.eliminate(&equation);
        }
        if self.equations.len() >= EQUATIONS_MAX {
            self.equations.remove(0);
        }
        self.equations.retain(Equation::is_short);
        self.equations.push(equation);
    }

    /// Hands out what is the only unknown of an equation.
    fn solve(&mut self) {
        while let Some(at) = self.equations.iter().position(|it| it.unknown.len() == 1) {
            let equation = self.equations.swap_remove(at);
            if let Some((bundle, _)) = equation.unknown.first() {
                self.take_apart(*bundle, &equation.sum);
            }
        }
    }

    /// The datagrams of a bundle that did not come by themselves. What does not look as a sender made it is dropped.
    fn take_apart(&mut self, bundle: Bundle, symbol: &[u8]) {
        let mut rest = symbol;
        let mut found = Vec::new();
        for number in bundle.numbers() {
            let Some((length, after)) = rest.split_first_chunk::<LENGTH>() else {
                return;
            };
            let length = usize::from(u16::from_be_bytes(*length));
            let Some((datagram, after)) = after.split_at_checked(length) else {
                return;
            };
            rest = after;
            let datagram = Bytes::copy_from_slice(datagram);
            let head = DatagramHead::decode(datagram.clone());
            let redundancy = head.ok().and_then(|(head, _)| head.redundancy);
            if redundancy.is_none_or(|it| it.scheme != Scheme::Source || it.sequence != number) {
                return;
            }
            found.push((number, datagram));
        }
        if rest.iter().any(|byte| *byte != 0) {
            return;
        }
        for (number, datagram) in found {
            self.remember(number, &datagram);
            if self.dedup.accept(number) {
                self.repaired.push_back(datagram);
            }
        }
    }
}

/// The bundles that a repair covers, with their factors.
fn covered(sequence: u16, head: &RepairHead) -> impl Iterator<Item = (Bundle, u8)> {
    let (mut first, mut number) = (sequence, head.bundle);
    let counts = head.counts.iter().take_while(|count| **count > 0);
    counts.map(move |&count| {
        let covered = (Bundle { first, count }, coefficient(head.number, number));
        first = first.wrapping_add(count.into());
        number = number.wrapping_add(1);
        covered
    })
}

impl Bundle {
    fn numbers(self) -> impl Iterator<Item = u16> {
        (0..u16::from(self.count)).map(move |step| self.first.wrapping_add(step))
    }
}

impl Equation {
    /// Takes out the first unknown of another.
    fn eliminate(&mut self, other: &Self) {
        let Some((bundle, _)) = other.unknown.first() else {
            return;
        };
        let at = self.unknown.iter().position(|(it, _)| it == bundle);
        let Some(&(_, factor)) = at.and_then(|at| self.unknown.get(at)) else {
            return;
        };
        #[cfg(test)]
        steps::count();
        if self.sum.len() < other.sum.len() {
            self.sum.resize(other.sum.len(), 0);
        }
        add_scaled(&mut self.sum, factor, &other.sum);
        for (bundle, by) in &other.unknown {
            let by = multiply(*by, factor);
            match self.unknown.iter_mut().find(|(it, _)| it == bundle) {
                Some((_, factor)) => *factor ^= by,
                None => self.unknown.push((*bundle, by)),
            }
        }
        self.unknown.retain(|(_, factor)| *factor != 0);
    }

    const fn is_short(&self) -> bool {
        self.unknown.len() <= UNKNOWN_MAX
    }

    /// Makes the first factor 1. Returns whether there is one.
    fn normalize(&mut self) -> bool {
        let Some(&(_, first)) = self.unknown.first() else {
            return false;
        };
        #[cfg(test)]
        steps::count();
        let by = inverse(first);
        scale(&mut self.sum, by);
        for (_, factor) in &mut self.unknown {
            *factor = multiply(*factor, by);
        }
        true
    }
}

/// Datagrams that are kept: more than a repair's 16 bundles can hold.
const HISTORY: usize = 256;

/// Repairs that wait for others. 8: as many as a burst of eight packets needs.
const EQUATIONS_MAX: usize = 8;

/// Steps, each over a sum of at most 1.5 KiB, that a repair may have taken to take out what came since the one before: four
/// bundles with which an equation begins. Equations that need more are dropped. With the 31 of the repair itself a
/// datagram costs less than 150 µs, whatever it says.
const RENEW_MOST: usize = 40;

/// Bundles that an equation may lack: two windows of them, of which hardly any came. The path is down, then.
const UNKNOWN_MAX: usize = 2 * BUNDLES_MAX;

/// Steps taken in this thread: what a repair costs, without a clock.
#[cfg(test)]
pub(super) mod steps {
    use std::cell::Cell;

    thread_local! {
        static STEPS: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn count() {
        STEPS.set(STEPS.get() + 1);
    }

    /// Steps since the last call.
    pub(in super::super) fn take() -> usize {
        STEPS.take()
    }
}
