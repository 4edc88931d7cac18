//! Ordinary lines: bulk at the path's rate, and a game beside it that hardly feels it, whatever chance does.

use super::sim::{Control, Load, Path, Sim};
use super::*;

/// A line: its name, and what it does.
pub(super) fn lines() -> Vec<(&'static str, Path)> {
    let path = |rtt: f64, mbit: f64, packets: u64| Path {
        rate: (mbit * 1e6) as u64,
        delay: Duration::from_secs_f64(rtt / 2e3),
        queue: packets * 1_500,
        ..Path::default()
    };
    let jitter = |path: Path, ms: u32| Path {
        jitter: ms * MS,
        ..path
    };
    let loss = |path: Path, percent: f64| Path {
        loss: percent / 100.0,
        ..path
    };
    vec![
        ("20 ms, 20", path(20.0, 20.0, 500)),
        ("30 ms, 100", path(30.0, 100.0, 1_000)),
        (
            "60 ms, 50, jitter",
            loss(jitter(path(60.0, 50.0, 200), 5), 0.2),
        ),
        ("40 ms, 200, 1 %", loss(path(40.0, 200.0, 1_000), 1.0)),
        ("150 ms, 100", path(150.0, 100.0, 1_000)),
        ("20 ms, 500, 0.1 %", loss(path(20.0, 500.0, 500), 0.1)),
        ("10 ms, 100, 50 packets", path(10.0, 100.0, 50)),
        (
            "40 ms, 200, 1 %, 100 packets",
            loss(path(40.0, 200.0, 100), 1.0),
        ),
        ("4G", jitter(path(50.0, 30.0, 300), 15)),
        ("4G up", jitter(path(50.0, 10.0, 300), 15)),
        (
            "4G, reordering",
            Path {
                reorders: true,
                ..jitter(path(50.0, 30.0, 300), 15)
            },
        ),
        ("DSL", path(25.0, 40.0, 600)),
        ("DSL up", path(25.0, 10.0, 600)),
        ("fibre", path(8.0, 300.0, 500)),
        ("satellite", loss(path(600.0, 50.0, 500), 0.5)),
        ("shallow", path(15.0, 50.0, 25)),
        (
            "Wi-Fi",
            Path {
                pause: Some((200 * MS, 30 * MS)),
                ..path(3.0, 100.0, 300)
            },
        ),
    ]
}

fn bulk(control: Control) -> Load {
    Load { control, ..BULK }
}

#[test]
fn explore() {
    let only = std::env::var("LINE").unwrap_or_default();
    let n: u64 = std::env::var("SEEDS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(5);
    for (name, path) in lines() {
        if !name.contains(&only) {
            continue;
        }
        let of = |load: Load, game: Option<u64>| {
            let mut all: Vec<_> = (0..n)
                .map(|seed| {
                    let mut sim = Sim::new(path.clone(), &[load]).seed(seed);
                    if let Some(rate) = game {
                        sim.config(0).set_game_rate(rate);
                    } else if load.control == Control::Level {
                        sim.config(0).set_game_rate(0);
                        sim.config(0).is_felt.store(false, Ordering::Relaxed);
                    }
                    sim.measure(10_000 * MS).remove(0)
                })
                .collect();
            all.sort_by(|a, b| a.mbit.total_cmp(&b.mbit));
            let still = all.iter().map(|s| s.standstill).max().unwrap();
            let p99 = all.iter().map(|s| s.game_p99).max().unwrap();
            let p50 = all.iter().map(|s| s.game_p50).max().unwrap();
            let q = all.iter().map(|s| s.queue_p50).max().unwrap();
            let loss = all.iter().map(|s| s.game_loss).fold(0.0, f64::max);
            (
                all[0].mbit,
                all[all.len() / 2].mbit,
                still,
                p50,
                p99,
                q,
                loss,
            )
        };
        let show = |t: (f64, f64, Duration, Duration, Duration, Duration, f64)| {
            format!("{:6.1} {:6.1} still {:4}", t.0, t.1, t.2.as_millis())
        };
        let bbr = of(bulk(Control::Bbr), None);
        let cubic = of(bulk(Control::Cubic), None);
        let level = of(BULK, None);
        let idle = of(GAME, Some(400 * 300));
        let both = of(BOTH, Some(400 * 300));
        println!(
            "{name:30} bbr {} cubic {} | level {} q {:3} | game idle {:3}/{:3} beside {:3}/{:3} loss {:.3} bulk {:.1} {:.1} still {}",
            show(bbr),
            show(cubic),
            show(level),
            level.5.as_millis(),
            idle.3.as_millis(),
            idle.4.as_millis(),
            both.3.as_millis(),
            both.4.as_millis(),
            both.6,
            both.0,
            both.1,
            both.2.as_millis()
        );
    }
}

#[test]
fn explore_share() {
    let p = |rtt: f64, mbit: f64, packets: u64| Path {
        rate: (mbit * 1e6) as u64,
        delay: Duration::from_secs_f64(rtt / 2e3),
        queue: packets * 1_500,
        ..Path::default()
    };
    for (name, path) in [
        ("20/20/500", p(20.0, 20.0, 500)),
        ("40/20/500", p(40.0, 20.0, 500)),
        ("30/100/1000", p(30.0, 100.0, 1000)),
        ("25/40/600", p(25.0, 40.0, 600)),
        ("10/100/50", p(10.0, 100.0, 50)),
        ("40/50/100", p(40.0, 50.0, 100)),
        ("150/100/1000", p(150.0, 100.0, 1000)),
    ] {
        for other in [Control::Cubic, Control::Bbr, Control::Level] {
            for (us, game) in [(BULK, 0), (BOTH, 400 * 300)] {
                let mut out = String::new();
                for first in [0, 1] {
                    let mut sim = Sim::new(path.clone(), &[us, bulk(other)]);
                    sim.config(0).set_game_rate(game);
                    sim.config(0).is_felt.store(game > 0, Ordering::Relaxed);
                    if other == Control::Level {
                        sim.config(1).set_game_rate(0);
                        sim.config(1).is_felt.store(false, Ordering::Relaxed);
                    }
                    sim.delay_start(first, 3_000 * MS);
                    sim.run(10_000 * MS);
                    let seen = sim.measure(30_000 * MS);
                    out += &format!(
                        " {:5.1} : {:5.1} (q {:3})",
                        seen[0].mbit,
                        seen[1].mbit,
                        seen[0].queue_p50.as_millis()
                    );
                }
                println!("{name:14} against {other:?} game {}: {out}", game > 0);
            }
        }
    }
}

#[test]
fn trace() {
    let only = std::env::var("LINE").unwrap_or_default();
    for (name, path) in lines() {
        if !name.contains(&only) {
            continue;
        }
        let felt = std::env::var_os("FELT").is_some();
        let mut sim = Sim::new(path.clone(), &[if felt { BOTH } else { BULK }]).seed(0);
        sim.config(0)
            .set_game_rate(if felt { 400 * 300 } else { 0 });
        sim.config(0).is_felt.store(felt, Ordering::Relaxed);
        let seen = sim.measure(5_000 * MS).remove(0);
        eprintln!("{name} {seen:?}");
    }
}

#[test]
fn trace_share() {
    let n = |name: &str, or: f64| {
        std::env::var(name)
            .ok()
            .and_then(|s| s.parse().ok())
            .unwrap_or(or)
    };
    let path = Path {
        rate: (n("MBIT", 100.0) * 1e6) as u64,
        delay: Duration::from_secs_f64(n("RTT", 10.0) / 2e3),
        queue: n("PACKETS", 50.0) as u64 * 1_500,
        ..Path::default()
    };
    let other = match n("OTHER", 0.0) as u8 {
        0 => Control::Cubic,
        1 => Control::Bbr,
        _ => Control::Level,
    };
    let felt = n("FELT", 0.0) > 0.0;
    let mut sim = Sim::new(path, &[if felt { BOTH } else { BULK }, bulk(other)]);
    sim.config(0).set_game_rate(if felt { 120_000 } else { 0 });
    sim.config(0).is_felt.store(felt, Ordering::Relaxed);
    sim.delay_start(n("FIRST", 0.0) as usize, 3_000 * MS);
    for _ in 0..n("FOR", 20.0) as u32 {
        let seen = sim.measure(1_000 * MS);
        eprintln!(
            "SEC {:.1} : {:.1} q {:?} window {} {}",
            seen[0].mbit, seen[1].mbit, seen[0].queue_p50, seen[0].window, seen[1].window
        );
    }
}
