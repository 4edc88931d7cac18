//! Ordinary lines: bulk at the path's rate, and a game beside it that hardly feels it, whatever chance does.
//!
//! Each line runs with a few seeds; `ADIT_SIM_SEEDS=1000 cargo test --release -p tunnel-core --lib lines` for many.

use super::sim::{Control, Load, Path, Seen, Sim};
use super::*;

/// A line: its name, and what it does.
fn lines() -> Vec<(&'static str, Path)> {
    let jitter = |path: Path, ms: u32| Path {
        jitter: ms * MS,
        ..path
    };
    let loss = |path: Path, percent: f64| Path {
        loss: percent / 100.0,
        ..path
    };
    vec![
        ("20 ms, 20 Mbit/s", line(20, 20, 500)),
        ("30 ms, 100 Mbit/s", line(30, 100, 1_000)),
        ("jitter", loss(jitter(line(60, 50, 200), 5), 0.2)),
        ("loss", loss(line(40, 200, 1_000), 1.0)),
        ("long", line(150, 100, 1_000)),
        ("fast", loss(line(20, 500, 500), 0.1)),
        ("50 packets", line(10, 100, 50)),
        ("loss, 100 packets", loss(line(40, 200, 100), 1.0)),
        ("4G", jitter(line(50, 30, 300), 15)),
        ("4G up", jitter(line(50, 10, 300), 15)),
        (
            "reordering",
            Path {
                reorders: true,
                ..jitter(line(50, 30, 300), 15)
            },
        ),
        ("DSL", line(25, 40, 600)),
        ("DSL up", line(25, 10, 600)),
        ("fibre", line(8, 300, 500)),
        ("satellite", loss(line(600, 50, 500), 0.5)),
        ("25 packets", line(15, 50, 25)),
        (
            "Wi-Fi",
            Path {
                pause: Some((200 * MS, 30 * MS)),
                ..line(3, 100, 300)
            },
        ),
    ]
}

/// A line, from its round trip in ms, its rate in Mbit/s and its queue in packets.
fn line(rtt: u32, mbit: u64, packets: u64) -> Path {
    Path {
        rate: mbit * MBIT,
        delay: rtt * MS / 2,
        queue: packets * 1_500,
        ..Path::default()
    }
}

fn seeds() -> u64 {
    let asked = std::env::var("ADIT_SIM_SEEDS").ok();
    asked.and_then(|seeds| seeds.parse().ok()).unwrap_or(3)
}

/// What a load sees in 10 s on a line, after `lead`; the slowest first.
fn runs(path: &Path, load: Load, lead: Duration) -> Vec<Seen> {
    let mut all: Vec<_> = (0..seeds())
        .map(|seed| {
            let mut sim = Sim::new(path.clone(), &[load]).seed(seed);
            declare(&sim, 0, load);
            sim.run(lead);
            sim.measure(10_000 * MS).remove(0)
        })
        .collect();
    all.sort_by(|a, b| a.mbit.total_cmp(&b.mbit));
    all
}

/// Bulk, and a game that the lab plays.
const LATE_GAME: Load = Load {
    packets_per_second: 100,
    size: 180,
    ..BOTH
};

/// What the tunnel's meter tells of a load.
fn declare(sim: &Sim, id: usize, load: Load) {
    let game = u64::from(load.packets_per_second) * (load.size + 60);
    sim.config(id).set_game_rate(game);
    sim.config(id).set_felt(game > 0);
}

fn median(runs: &[Seen]) -> f64 {
    runs[runs.len() / 2].mbit
}

#[test]
fn bulk_alone_is_as_fast_as_the_kernels_best() {
    for (name, path) in lines() {
        let of = |control| runs(&path, Load { control, ..BULK }, Duration::ZERO);
        let bare = [Control::Bbr, Control::Cubic].map(|control| median(&of(control)));
        let bare = bare[0].max(bare[1]);
        let ours = of(Control::Level);
        assert!(ours[0].mbit >= 0.8 * bare, "{name}: {bare}, {:?}", ours[0]);
        assert!(median(&ours) >= 0.95 * bare, "{name}: {bare}, {ours:?}");
        let patience = path.delay * 4 + path.jitter * 2 + 200 * MS;
        let longest = ours.iter().map(|seen| seen.standstill).max();
        assert!(longest.unwrap() <= patience, "{name}: {longest:?}");
    }
}

#[test]
fn a_game_hardly_feels_the_bulk_beside_it() {
    for (name, path) in lines() {
        if path.rate > 100 * MBIT {
            continue;
        }
        // The search at the start is not over at once on a long path.
        let lead = 3_000 * MS + path.delay * 20;
        let alone = runs(&path, BULK, lead);
        let idle = runs(&path, GAME, lead);
        let both = runs(&path, BOTH, lead);
        let p99 = |runs: &[Seen]| runs.iter().map(|seen| seen.game_p99).max().unwrap();
        // Twice the standard deviation of the round trip's jitter, drawn evenly both ways. A line with much jitter shows
        // less of what is a queue, and drifting jitter looks like one.
        let spread = path.jitter.mul_f64(2.0 / 6_f64.sqrt());
        let rise = p99(&both).saturating_sub(p99(&idle));
        // A path's rate is known to a few per cent, which on a satellite's is more than 10 ms.
        let bound =
            (10 * MS).max(path.delay / 16) + spread * if name.starts_with("4G") { 2 } else { 1 };
        assert!(rise <= bound, "{name}: {rise:?} of {bound:?}, {both:?}");
        let least = if name.starts_with("4G") { 0.6 } else { 0.85 };
        let kept = median(&both) / median(&alone);
        assert!(kept >= least, "{name}: {kept}");
        assert!(
            both[0].game_loss <= path.loss * 2.0 + 0.002,
            "{name}: {both:?}"
        );
    }
}

#[test]
fn a_game_that_begins_just_after_the_bulk_waits_in_no_long_queue() {
    // The bulk has begun, and the tunnel's meter knows of the game only when it has seen it in three of its looks: what the
    // first search and the bulk's own queue cost meanwhile, in ms above idle at the 99th percentile of 10 s.
    for (name, path, bound) in [
        ("20 ms, 20 Mbit/s", line(20, 20, 500), 35),
        ("30 ms, 100 Mbit/s", line(30, 100, 1_000), 25),
        ("DSL", line(25, 40, 600), 30),
        ("DSL up", line(25, 10, 600), 60),
    ] {
        for seed in 0..seeds() {
            let mut sim = Sim::new(path.clone(), &[LATE_GAME]).seed(seed);
            declare(&sim, 0, BULK);
            sim.delay_game(0, 100 * MS);
            sim.run(100 * MS);
            let seen = sim.measure_while(10_000 * MS, |sim| {
                sim.run(650 * MS);
                declare(sim, 0, LATE_GAME);
            });
            let rise = seen[0].game_p99.saturating_sub(path.delay);
            assert!(rise <= bound * MS, "{name}: {seed}, {rise:?}");
        }
    }
}

#[test]
fn a_rate_that_changes_under_way_is_followed() {
    for seed in 0..seeds() {
        let mut sim = Sim::new(line(20, 20, 500), &[BULK]).seed(seed);
        declare(&sim, 0, BULK);
        for mbit in [20, 5, 20, 5, 20] {
            sim.set_rate(mbit * MBIT);
            let seen = sim.measure(4_000 * MS);
            assert!(
                seen[0].mbit > 0.85 * mbit as f64,
                "{seed}, {mbit}: {seen:?}"
            );
            assert!(seen[0].standstill < 240 * MS, "{seed}, {mbit}: {seen:?}");
        }
    }
}

/// What two loads have of a line in 30 s, after 10; the second joins some 3 s after the first.
fn shares(path: &Path, loads: [Load; 2], seed: u64) -> [f64; 2] {
    let mut sim = Sim::new(path.clone(), &loads).seed(seed);
    for (id, load) in loads.into_iter().enumerate() {
        if load.control == Control::Level {
            declare(&sim, id, load);
        }
    }
    sim.delay_start(1, 3_000 * MS + 137 * MS * seed as u32);
    sim.run(10_000 * MS);
    let seen = sim.measure(30_000 * MS);
    let line = path.rate as f64 / 1e6;
    [seen[0].mbit / line, seen[1].mbit / line]
}

/// Lines that are shared: with deep queues, and with shallow ones.
fn shared_lines() -> [[Path; 3]; 2] {
    let deep = [line(20, 20, 500), line(30, 100, 1_000), line(25, 40, 600)];
    let shallow = [line(40, 20, 250), line(20, 50, 100), line(10, 100, 50)];
    [deep, shallow]
}

#[test]
fn two_tunnels_share_a_line() {
    for (paths, bound) in shared_lines().into_iter().zip([0.4, 0.1]) {
        for (path, load) in paths.iter().flat_map(|path| [(path, BULK), (path, BOTH)]) {
            for seed in 0..seeds().div_ceil(3) {
                let shares = shares(path, [load, load], seed);
                let least = shares[0].min(shares[1]);
                assert!(least >= bound, "{path:?}: {seed}, {shares:?}");
                assert!(shares[0] + shares[1] >= 0.95, "{path:?}: {shares:?}");
            }
        }
    }
}

#[test]
fn nobody_starves_beside_the_kernels_controllers() {
    let [deep, shallow] = shared_lines();
    for (paths, control, bound) in [
        (&deep, Control::Cubic, 0.2),
        (&shallow, Control::Cubic, 0.2),
        // It yields to a queue that is several times as long as its path, whoever fills it.
        (&deep, Control::Bbr, 0.05),
    ] {
        let other = Load { control, ..BULK };
        for path in paths {
            for loads in [[BULK, other], [other, BULK], [BOTH, other]] {
                for seed in 0..seeds().div_ceil(3) {
                    let shares = shares(path, loads, seed);
                    let least = shares[0].min(shares[1]);
                    assert!(least >= bound, "{path:?}: {loads:?}, {shares:?}");
                }
            }
        }
    }
}
