//! What is measured, and how a measurement becomes figures.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use super::{
    column::Column,
    cost::Cost,
    data::{Figures, Metric},
    running::Running,
};
use crate::{
    load::{Begins, Bulk, Flood, Game, Job, Latencies, Load, Seen},
    process::Process,
    topology::{Side, Topology},
    worker::Worker,
};

/// One thing to measure.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Its name on the command line and in the report.
    pub name: String,
    /// What it is, in words.
    pub title: String,
    /// What players do.
    pub load: Load,
    /// Its part in the verdict on a line; empty where it has none.
    pub part: String,
    /// Where it is, `--only` must name at least so much of it; empty where any part of its name will do.
    pub family: &'static str,
    /// What others do meanwhile.
    pub beside: Vec<Beside>,
    /// How many tunnels there are at once. A game's players are divided among those that nothing else has.
    pub tunnels: usize,
    /// How many times as long as others.
    pub longer: f64,
    /// Whether it takes `--all`.
    pub extra: bool,
    /// Whether it has processes of its own: what it leaves behind (flows, ports, memory) is nobody else's.
    pub fresh: bool,
    /// How long the path swallows everything meanwhile.
    pub dark: Option<Duration>,
    /// Whether its table shows what was on the wire.
    pub wire: bool,
}

/// What happens beside a measurement.
#[derive(Debug, Clone)]
pub struct Beside {
    /// What it is.
    pub load: Load,
    /// Which way it goes.
    pub via: Via,
    /// How long after the measurement it begins; where that is no time at all, it has begun before.
    pub late: Duration,
}

/// Which way a load goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// Through the tunnel that is measured.
    Tunnel,
    /// Past the tunnel, straight to the game server.
    Foreign,
    /// Through another tunnel of the same kind: the last of them.
    Other,
}

/// What one scenario gave on one column in one round.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// By what they are.
    pub figures: Figures,
    /// How long each took.
    pub latencies: Option<Latencies>,
    /// Bytes or events over time.
    pub series: Vec<u64>,
    /// When it began, on the clock that all processes share.
    pub started: Option<Duration>,
}

impl Scenario {
    /// An ordinary one.
    pub fn new(name: impl Into<String>, title: impl Into<String>, load: Load) -> Self {
        Self {
            name: name.into(),
            title: title.into(),
            load,
            part: String::new(),
            family: "",
            beside: Vec::new(),
            tunnels: 1,
            longer: 1.0,
            extra: false,
            fresh: false,
            dark: None,
            wire: false,
        }
    }

    /// Those on loopback.
    pub fn loopback() -> Vec<Self> {
        let bulk = |name, title, streams, reverse| {
            let control = None;
            let bulk = Bulk {
                streams,
                reverse,
                control,
            };
            Self::new(name, title, Load::Bulk(bulk))
        };
        let trips = |name, title, players| Self::new(name, title, Load::Trips { players });
        let connections =
            |name, title, players| Self::new(name, title, Load::Connections { players });
        let idle = |name, title, count| Self::new(name, title, Load::Idle { count }).fresh();
        let game = |name, title, players, rate| {
            Self::new(name, title, Load::Game(game(players, rate))).longer(2.0)
        };
        vec![
            idle("idle-2000", "2,000 idle connections", 2000),
            bulk("bulk-1", "TCP, 1 stream to the server", 1, false),
            bulk("bulk-8", "TCP, 8 streams to the server", 8, false),
            bulk("bulk-1-reverse", "TCP, 1 stream from the server", 1, true),
            bulk("bulk-8-reverse", "TCP, 8 streams from the server", 8, true),
            trips("trips-1", "TCP request-reply, 1 player", 1),
            trips("trips-32", "TCP request-reply, 32 players", 32).extra(),
            connections("connections-1", "connections, 1 at a time", 1).extra(),
            connections("connections-8", "connections, 8 at a time", 8),
            connections("connections-64", "connections, 64 at a time", 64).extra(),
            game("game-1", "game, 1 player × 60/s", 1, 60.0),
            game("game-100-20", "game, 100 players × 20/s", 100, 20.0),
            game("game-100-60", "game, 100 players × 60/s", 100, 60.0),
            game("game-100", "game, 100 players × 200/s", 100, 200.0),
            game("game-1000", "game, 1,000 players × 30/s", 1000, 30.0),
            game("game-10000", "game, 10,000 players × 3/s", 10_000, 3.0).fresh(),
            Self::new(
                "packets",
                "datagrams flat out, 8 players",
                Load::Packets {
                    players: 8,
                    window: 32,
                },
            ),
            game("game-20-idle", "game, 20 players × 60/s, alone", 20, 60.0),
            game(
                "game-20-flood",
                "the same, while another player floods with 20,000/s",
                20,
                60.0,
            )
            .beside(Load::Flood(Flood {
                rate: 20_000.0,
                size: 400,
            })),
            idle("idle-10000", "10,000 idle connections", 10_000),
        ]
    }

    /// Lasts `times` as long as others.
    pub fn longer(mut self, times: f64) -> Self {
        self.longer = times;
        self
    }

    /// Only with `--all`.
    pub fn extra(mut self) -> Self {
        self.extra = true;
        self
    }

    /// With processes of its own.
    pub fn fresh(mut self) -> Self {
        self.fresh = true;
        self
    }

    /// While others do this, through the same tunnel.
    pub fn beside(self, load: Load) -> Self {
        self.beside_late(load, Duration::ZERO)
    }

    /// The same, from a while after its own beginning on.
    pub fn beside_late(self, load: Load, late: Duration) -> Self {
        self.while_others(load, Via::Tunnel, late)
    }

    /// While others do this, past the tunnel.
    pub fn beside_foreign(self, load: Load) -> Self {
        self.while_others(load, Via::Foreign, Duration::ZERO)
    }

    /// While others do this, through another tunnel of the same kind.
    pub fn beside_another(self, load: Load) -> Self {
        self.while_others(load, Via::Other, Duration::ZERO)
            .tunnels(2)
    }

    fn while_others(mut self, load: Load, via: Via, late: Duration) -> Self {
        self.beside.push(Beside { load, via, late });
        self
    }

    /// As a part of the verdict on a line.
    pub fn part(mut self, family: &'static str, part: impl Into<String>) -> Self {
        (self.family, self.part) = (family, part.into());
        self
    }

    /// With `count` tunnels at once, each with a relay and a client of its own.
    pub fn tunnels(mut self, count: usize) -> Self {
        self.tunnels = count;
        self
    }

    /// While the path is dark for so long.
    pub fn dark(mut self, dark: Duration) -> Self {
        self.dark = Some(dark);
        self
    }

    /// Shows what was on the wire.
    pub fn with_wire(mut self) -> Self {
        self.wire = true;
        self
    }

    /// Less of everything, for whether it works at all.
    pub(super) fn shrink(&mut self) {
        match &mut self.load {
            Load::Idle { count } => *count = (*count / 50).max(1),
            Load::Game(game) => {
                game.players = game.players.min(100);
                game.rate = game.rate.min(60.0);
            }
            _ => {}
        }
        self.longer = 1.0;
    }

    /// Whether it is about TCP; else it is about UDP.
    pub const fn is_tcp(&self) -> bool {
        !matches!(
            self.load,
            Load::Game(_) | Load::Packets { .. } | Load::Flood(_)
        )
    }

    /// Whether a column has anything to say about it.
    pub fn is_for(&self, column: &Column) -> bool {
        if self.is_tcp() {
            column.tcp
        } else {
            column.udp
        }
    }

    /// Packets a second that it asks for.
    pub fn offered(&self) -> Option<f64> {
        match &self.load {
            Load::Game(game) => Some(game.players as f64 * game.rate),
            _ => None,
        }
    }

    /// What its table shows, in order.
    pub fn shown(&self) -> Vec<Metric> {
        use Metric as M;
        let mut shown = match self.load {
            Load::Bulk(_) => vec![
                M::GbitPerSecond,
                M::Standstill,
                M::CpuPerGbRelay,
                M::CpuPerGbClient,
            ],
            Load::Trips { .. } | Load::Connections { .. } => vec![
                M::PerSecond,
                M::P50,
                M::P99,
                M::P999,
                M::CpuPerEventRelay,
                M::CpuPerEventClient,
            ],
            Load::Idle { .. } => {
                return vec![M::EachRelay, M::EachClient, M::GrowthRelay, M::GrowthClient];
            }
            Load::Game(_) => vec![
                M::P50,
                M::P99,
                M::P999,
                M::Loss,
                M::CpuPerPacketRelay,
                M::CpuPerPacketClient,
            ],
            Load::Packets { .. } => {
                vec![M::PerSecond, M::CpuPerPacketRelay, M::CpuPerPacketClient]
            }
            Load::Probe { .. } | Load::Flood(_) => Vec::new(),
        };
        if let Some(beside) = self.beside.first() {
            shown.retain(|metric| !matches!(metric, M::CpuPerPacketRelay | M::CpuPerPacketClient));
            shown.push(match beside.load {
                Load::Bulk(_) => M::BesideGbitPerSecond,
                _ => M::BesidePerSecond,
            });
            shown.extend([M::CpuRelay, M::CpuClient]);
        }
        if self.dark.is_some() {
            shown.insert(0, M::Recovery);
        }
        if self.wire {
            shown.push(M::WirePerSecond);
        }
        shown.extend([M::PeakRelay, M::PeakClient]);
        shown
    }

    /// Measures it, on as many tunnels as it wants.
    pub(super) fn run(
        &self,
        topology: &dyn Topology,
        tunnels: &[Running],
        target: SocketAddr,
        seconds: f64,
    ) -> Result<Outcome> {
        let (running, more) = tunnels.split_first().context("no tunnel")?;
        let topology = running.topology(topology);
        let other = more.last().unwrap_or(running).address;
        let taken = self.beside.iter().any(|beside| beside.via == Via::Other);
        let also: Vec<SocketAddr> = more.iter().map(|one| one.address).collect();
        let also = if taken { &also[..0] } else { &also[..] };
        let seconds = seconds * self.longer;
        let job = |load: &Load, to, also: &[SocketAddr], seconds| {
            Worker::Load(Job {
                to,
                also: also.to_vec(),
                seconds,
                spread: topology.spreads_players(),
                load: load.clone(),
            })
        };
        let patience = Duration::from_secs_f64(seconds) + PATIENCE;
        let begin = |Beside { load, via, late }: &Beside| -> Result<Process> {
            let to = match via {
                Via::Tunnel => running.address,
                Via::Foreign => target,
                Via::Other => other,
            };
            // Bulk goes on until the measurement is over, which is a little longer than it measures. What is counted
            // beside it is counted for as long.
            let longer = if matches!(load, Load::Game(_)) {
                0.0
            } else {
                BESIDE_LONGER
            };
            let worker = job(load, to, &[], seconds + longer - late.as_secs_f64());
            let mut process = Process::worker(topology, Side::Outside, &worker)?;
            process.says::<Begins>(patience)?;
            Ok(process)
        };
        let (mut late, early): (Vec<_>, Vec<_>) =
            self.beside.iter().partition(|it| !it.late.is_zero());
        let mut beside = early.into_iter().map(begin).collect::<Result<Vec<_>>>()?;
        for process in running.processes().into_iter().flatten() {
            process.forget_peak();
        }
        let before = Cost::of(running);
        let worker = job(&self.load, running.address, also, seconds);
        let mut players = Process::worker(topology, Side::Outside, &worker)?;
        players.says::<Begins>(patience).context("the players")?;
        let (begun, start) = (Cost::of(running), Instant::now());
        late.sort_by_key(|it| it.late);
        for it in late {
            thread::sleep(it.late.saturating_sub(start.elapsed()));
            beside.push(begin(it)?);
        }
        let seen: Seen = players.says(patience).context("the players")?;
        if matches!(self.load, Load::Idle { .. }) {
            // Whoever gives memory back a moment later gets the moment.
            thread::sleep(SETTLE.min(Duration::from_secs_f64(seconds)));
        }
        let after = Cost::of(running);
        ensure!(seen.wrong == 0, "{} datagrams came back wrong", seen.wrong);
        let mut figures = Figures::new();
        self.judge(&seen, &mut figures);
        // Processes are the dearer the more they did before: memory counts from before the first connection.
        begun.spent(&after, &self.load, &seen, &mut figures);
        before.grown(&after, &self.load, &seen, &mut figures);
        drop(players);
        for mut process in beside {
            let other: Seen = process.says(patience).context("what goes on beside")?;
            let rate = other.bytes_a_second_beside(&seen);
            *figures.entry(Metric::BesideGbitPerSecond).or_default() += rate * 8e-9;
            let count = other.events.max(other.sent) as f64;
            *figures.entry(Metric::BesidePerSecond).or_default() += count / other.seconds;
            if other.received > 0 {
                ensure!(
                    other.wrong == 0,
                    "{} datagrams came back wrong",
                    other.wrong
                );
                *figures.entry(Metric::Sent).or_default() += other.sent as f64;
                *figures.entry(Metric::Lost).or_default() += (other.sent - other.received) as f64;
            }
        }
        Ok(Outcome {
            figures,
            latencies: seen.latencies,
            series: seen.series,
            started: (seen.started > 0).then(|| Duration::from_nanos(seen.started)),
        })
    }

    fn judge(&self, seen: &Seen, figures: &mut Figures) {
        if seen.seconds > 0.0 {
            let rates = [
                (Metric::GbitPerSecond, seen.bytes as f64 * 8e-9),
                (Metric::PerSecond, seen.events as f64),
            ];
            for (metric, amount) in rates {
                if amount > 0.0 {
                    figures.insert(metric, amount / seen.seconds);
                }
            }
        }
        if matches!(self.load, Load::Bulk(_)) {
            // Nothing at all is a rate too.
            figures.entry(Metric::GbitPerSecond).or_insert(0.0);
            figures.insert(Metric::Standstill, seen.standstill.lasted * 1e3);
            figures.insert(Metric::StandstillAt, seen.standstill.at);
        }
        if matches!(self.load, Load::Game(_)) && seen.sent > 0 {
            let lost = 1.0 - seen.received as f64 / seen.sent as f64;
            figures.insert(Metric::Loss, lost * 100.0);
            figures.insert(Metric::Sent, seen.sent as f64);
            figures.insert(Metric::Lost, (seen.sent - seen.received) as f64);
            figures.insert(Metric::Doubled, seen.doubled as f64);
            figures.insert(Metric::Silence, seen.silence * 1e3);
        }
        let Some(latencies) = &seen.latencies else {
            return;
        };
        for (metric, share) in [
            (Metric::P50, 0.5),
            (Metric::P90, 0.9),
            (Metric::P99, 0.99),
            (Metric::P999, 0.999),
        ] {
            figures.extend(latencies.within(share).map(|value| (metric, value)));
        }
        figures.insert(Metric::Longest, latencies.longest);
        figures.insert(Metric::Samples, latencies.count as f64);
        let late = seen.lateness.as_ref().and_then(|late| late.within(0.99));
        figures.extend(late.map(|late| (Metric::GeneratorLate, late)));
    }
}

/// A game with packets of all sizes.
const fn game(players: usize, rate: f64) -> Game {
    Game {
        players,
        rate,
        sizes: (60, 1200),
        cold: false,
    }
}

/// Longer than anything should take to begin or end: a hang fails.
const PATIENCE: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_millis(1500);
/// Seconds.
const BESIDE_LONGER: f64 = 1.5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_have_names_of_their_own_and_show_something() {
        let mut names: Vec<_> = Scenario::loopback()
            .into_iter()
            .map(|scenario| {
                assert!(!scenario.shown().is_empty(), "{}", scenario.name);
                scenario.name
            })
            .collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
