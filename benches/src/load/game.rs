//! Players of games: UDP. One thread for all of them, which costs less than what is measured.

mod engine;

use std::time::{Duration, Instant};

use anyhow::Result;

use self::engine::{Engine, Packet};
use super::{
    arrivals,
    histogram::Counter,
    job::{Flood, Game, Job},
    seen::{Begins, Seen},
    series::Series,
};
use crate::worker::{say::say, target::FLOOD};

impl Game {
    /// Bytes of a packet: small ones are many, large ones few.
    fn size(&self, player: usize, number: usize) -> usize {
        let (smallest, largest) = self.sizes;
        let random = mix(((player as u64) << 32) | number as u64) as f64 / u64::MAX as f64;
        // Evenly spread over the logarithm.
        let size = smallest as f64 * (largest as f64 / smallest as f64).powf(random);
        (size as usize).clamp(Packet::HEAD, largest.max(Packet::HEAD))
    }

    /// Players by the moment of a period at which they send, as a share of it.
    fn phases(&self) -> Vec<(f64, usize)> {
        let phase = |player| mix(!(player as u64)) as f64 / u64::MAX as f64;
        let mut phases: Vec<_> = (0..self.players)
            .map(|player| (phase(player), player))
            .collect();
        phases.sort_unstable_by(|one, other| one.0.total_cmp(&other.0));
        phases
    }
}

/// Sends each packet when it is due, whatever became of those before; a latency counts from when the packet was due.
pub(super) fn play(job: &Job, game: &Game) -> Result<Seen> {
    let phases = game.phases();
    let due = |number: usize| {
        let (period, (phase, _)) = (number / game.players, phases[number % game.players]);
        let exact = (period as f64 + phase) / game.rate;
        // Packets are due on a grid, so that one wake serves several.
        let steps = (exact / GRID.as_secs_f64()).ceil();
        GRID.mul_f64(steps)
    };
    let mut engine = Engine::new(job, game.players)?;
    if !game.cold {
        engine.open_flows(|player| game.size(player, 0))?;
    }
    let periods = (job.seconds * game.rate) as usize + 2;
    let mut tally = Tally::new(game, periods, job.length())?;
    say(&Begins)?;
    let start = Instant::now();
    let started = arrivals::now();
    tally.series.start = started;
    let mut number = 0;
    loop {
        let mut next = due(number);
        let now = start.elapsed();
        while next <= now && next < job.length() {
            let (period, player) = (number / game.players, phases[number % game.players].1);
            let packet = Packet {
                due: next,
                player,
                number: period,
            };
            engine.send(&packet, game.size(player, period));
            tally.sent += 1;
            tally.lateness.add(start.elapsed().saturating_sub(next));
            number += 1;
            next = due(number);
        }
        if next >= job.length() {
            break;
        }
        let wait = next.saturating_sub(start.elapsed());
        engine.receive(wait, |player, packet, length| {
            tally.handle(game, start, player, packet, length);
        })?;
    }
    let over = Instant::now();
    while tally.received < tally.sent && over.elapsed() < STRAGGLERS {
        engine.receive(Duration::from_millis(20), |player, packet, length| {
            tally.handle(game, start, player, packet, length);
        })?;
    }
    Ok(Seen {
        started: started.as_nanos() as u64,
        ..tally.finish(job.seconds)
    })
}

/// What came back of a game.
struct Tally {
    sent: u64,
    received: u64,
    doubled: u64,
    wrong: u64,
    bytes: u64,
    /// When the last one came, and the longest wait for one.
    heard: Option<Instant>,
    silence: Duration,
    /// Which numbers of each player came back, a bit each.
    known: Vec<Vec<u64>>,
    latencies: Counter,
    lateness: Counter,
    series: Series,
}

impl Tally {
    fn new(game: &Game, periods: usize, length: Duration) -> Result<Self> {
        Ok(Self {
            sent: 0,
            received: 0,
            doubled: 0,
            wrong: 0,
            bytes: 0,
            heard: None,
            silence: Duration::ZERO,
            known: vec![vec![0; periods.div_ceil(64)]; game.players],
            latencies: Counter::new()?,
            lateness: Counter::new()?,
            series: Series::new(arrivals::now(), length),
        })
    }

    fn handle(
        &mut self,
        game: &Game,
        start: Instant,
        player: usize,
        packet: Option<Packet>,
        length: usize,
    ) {
        let now = Instant::now();
        let Some(packet) = packet else {
            self.wrong += 1;
            return;
        };
        if packet.is_opening() {
            // A late one of those that opened the flows.
            return;
        }
        let word = self.known.get_mut(packet.player);
        let word = word.and_then(|known| known.get_mut(packet.number / 64));
        let (Some(word), true) = (
            word,
            packet.player == player && length == game.size(player, packet.number),
        ) else {
            self.wrong += 1;
            return;
        };
        let bit = 1 << (packet.number % 64);
        if *word & bit != 0 {
            self.doubled += 1;
            return;
        }
        *word |= bit;
        self.received += 1;
        self.bytes += length as u64;
        let heard = self.heard.replace(now).unwrap_or(now);
        self.silence = self.silence.max(now - heard);
        self.latencies.add((now - start).saturating_sub(packet.due));
        self.series.add(self.series.start + (now - start), 1);
    }

    fn finish(self, seconds: f64) -> Seen {
        Seen {
            seconds,
            bytes: self.bytes,
            events: self.received,
            sent: self.sent,
            received: self.received,
            doubled: self.doubled,
            wrong: self.wrong,
            silence: self.silence.as_secs_f64(),
            latencies: self.latencies.finish(),
            lateness: self.lateness.finish(),
            series: self.series.steps,
            ..Seen::default()
        }
    }
}

/// Keeps `window` datagrams of each player on the way, and counts what comes back.
pub(super) fn packets(job: &Job, players: usize, window: usize) -> Result<Seen> {
    let mut engine = Engine::new(job, players)?;
    engine.open_flows(|_| FLAT_OUT)?;
    say(&Begins)?;
    let (start, length) = (Instant::now(), job.length());
    let mut series = Series::new(arrivals::now(), length);
    let mut on_the_way = vec![0_usize; players];
    let mut heard = vec![start; players];
    let (mut sent, mut received) = (0_u64, 0_u64);
    while start.elapsed() < length {
        for player in 0..players {
            // Nothing came for a while: what was on the way is lost.
            if on_the_way[player] == window && heard[player].elapsed() > LOST_AFTER {
                (on_the_way[player], heard[player]) = (0, Instant::now());
            }
            // Half of the window at once, as games send bursts, and at less cost.
            if on_the_way[player] <= window / 2 {
                let packet = Packet {
                    due: start.elapsed(),
                    player,
                    number: 0,
                };
                let burst = window - on_the_way[player];
                sent += engine.send_burst(&packet, FLAT_OUT, burst) as u64;
                on_the_way[player] = window;
            }
        }
        engine.receive(Duration::from_millis(5), |player, packet, _| {
            if packet.is_some_and(|packet| packet.player == player && !packet.is_opening()) {
                received += 1;
                on_the_way[player] = on_the_way[player].saturating_sub(1);
                let now = Instant::now();
                heard[player] = now;
                series.add(arrivals::now(), 1);
            }
        })?;
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(Seen {
        seconds,
        bytes: received * FLAT_OUT as u64,
        events: received,
        sent,
        received,
        series: series.steps,
        ..Seen::default()
    })
}

/// Sends what nobody answers, by the clock, until standard input ends.
pub(super) fn flood(job: &Job, flood: &Flood) -> Result<Seen> {
    let mut engine = Engine::new(job, 1)?;
    engine.open_flows(|_| flood.size)?;
    say(&Begins)?;
    let (start, mut sent) = (Instant::now(), 0_u64);
    while start.elapsed() < job.length() {
        let due = (start.elapsed().as_secs_f64() * flood.rate) as u64;
        // What the machine did not let it send in time is not made up for all at once.
        let burst = (due - sent).min(FLOOD_BURST);
        engine.send_raw(0, &vec![FLOOD; flood.size], burst as usize);
        sent = due;
        engine.receive(Duration::from_micros(500), |_, _, _| {})?;
    }
    Ok(Seen {
        seconds: start.elapsed().as_secs_f64(),
        sent,
        ..Seen::default()
    })
}

/// splitmix64: the same numbers in every run.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// 8,000 wakes a second at most.
const GRID: Duration = Duration::from_micros(125);
/// How long packets may take before they count as lost.
const STRAGGLERS: Duration = Duration::from_secs(1);
/// Bytes of a packet of those that go flat out.
const FLAT_OUT: usize = 100;
/// Ten times what a busy scheduler may hold a packet back on loopback.
const LOST_AFTER: Duration = Duration::from_millis(200);
const FLOOD_BURST: u64 = 1000;

#[cfg(test)]
mod tests;
