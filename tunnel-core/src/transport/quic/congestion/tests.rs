//! A bottleneck in virtual time: [`Level`] drives senders that pace, acknowledge and detect loss as
//! quinn does. A simulation, not a network: what it leaves out is measured by
//! `benches/src/bin/congestion.rs`.

mod lines;
mod rivals;
mod sim;

use std::time::Duration;

use sim::{Control, Load, Path, Sim};

use super::model::bytes_in;
use super::*;

const MS: Duration = Duration::from_millis(1);
const MBIT: u64 = 1_000_000;

/// 40 ms of round trip and a queue of 100 ms.
fn path(mbit: u64) -> Path {
    Path {
        rate: mbit * MBIT,
        delay: 20 * MS,
        queue: mbit * MBIT / 8 / 10,
        ..Path::default()
    }
}

const BULK: Load = Load {
    packets_per_second: 0,
    size: 0,
    bulk: true,
    control: Control::Level,
};
const GAME: Load = Load {
    packets_per_second: 400,
    size: 240,
    bulk: false,
    control: Control::Level,
};
const BIG_GAME: Load = Load {
    packets_per_second: 4_000,
    size: 240,
    bulk: false,
    control: Control::Level,
};
const BOTH: Load = Load { bulk: true, ..GAME };

#[test]
fn clean_path_is_filled_with_a_short_queue() {
    let mut sim = Sim::new(path(50), &[BULK]);
    sim.run(3 * 1000 * MS);
    let seen = sim.measure(5 * 1000 * MS);
    assert!(seen[0].mbit > 46.0, "{seen:?}");
    assert!(
        seen[0].queue_p50 < 6 * MS && seen[0].queue_p99 < 12 * MS,
        "{seen:?}"
    );
}

#[test]
fn random_loss_does_not_slow_bulk() {
    for (loss, least) in [(0.01, 46.0), (0.03, 44.0), (0.05, 42.0)] {
        let mut sim = Sim::new(Path { loss, ..path(50) }, &[BULK]);
        sim.run(3 * 1000 * MS);
        let seen = sim.measure(5 * 1000 * MS);
        assert!(seen[0].mbit > least, "{loss}: {seen:?}");
        assert!(seen[0].queue_p99 < 12 * MS, "{loss}: {seen:?}");
    }
}

#[test]
fn bursts_of_loss_do_not_slow_bulk() {
    let mut sim = Sim::new(
        Path {
            loss: 0.05,
            burst: 8,
            ..path(50)
        },
        &[BULK],
    );
    sim.run(3 * 1000 * MS);
    let seen = sim.measure(10 * 1000 * MS);
    assert!(seen[0].mbit > 40.0, "{seen:?}");
}

#[test]
fn line_rate_at_one_per_cent_loss_and_200_mbit() {
    let mut sim = Sim::new(
        Path {
            loss: 0.01,
            ..path(200)
        },
        &[BULK],
    );
    sim.run(3 * 1000 * MS);
    let seen = sim.measure(3 * 1000 * MS);
    assert!(seen[0].mbit > 180.0, "{seen:?}");
}

#[test]
fn shallow_queue_is_used_without_flooding_it() {
    // 6 packets: 1.4 ms, never as long as the target.
    let mut sim = Sim::new(
        Path {
            queue: 9_000,
            ..path(50)
        },
        &[BOTH],
    );
    sim.run(3 * 1000 * MS);
    let seen = sim.measure(12 * 1000 * MS);
    assert!(seen[0].mbit > 40.0, "{seen:?}");
    assert!(seen[0].game_loss < 0.05, "{seen:?}");
}

#[test]
fn deep_queue_stays_short() {
    let mut sim = Sim::new(
        Path {
            queue: 4_000_000,
            ..path(20)
        },
        &[BOTH],
    );
    sim.run(3 * 1000 * MS);
    let seen = sim.measure(5 * 1000 * MS);
    assert!(seen[0].mbit > 18.0, "{seen:?}");
    assert!(seen[0].queue_p99 < 15 * MS, "{seen:?}");
}

#[test]
fn game_alone_is_never_held_back() {
    for load in [
        GAME,
        BIG_GAME,
        Load {
            packets_per_second: 10_000,
            size: 155,
            bulk: false,
            control: Control::Level,
        },
    ] {
        for loss in [0.0, 0.01, 0.05] {
            let mut sim = Sim::new(Path { loss, ..path(50) }, &[load]);
            let seen = sim.measure(5 * 1000 * MS);
            assert!(seen[0].held_p99 < 3 * MS, "{load:?} {loss}: {seen:?}");
            assert!(seen[0].game_loss < loss + 0.01, "{load:?} {loss}: {seen:?}");
        }
    }
}

#[test]
fn bulk_does_not_drown_the_game() {
    for (mbit, load) in [
        (20, BOTH),
        (50, BOTH),
        (
            50,
            Load {
                bulk: true,
                ..BIG_GAME
            },
        ),
    ] {
        let mut sim = Sim::new(
            Path {
                loss: 0.01,
                ..path(mbit)
            },
            &[load],
        );
        sim.run(1000 * MS);
        let seen = sim.measure(5 * 1000 * MS);
        assert!(
            seen[0].game_p50 < 30 * MS && seen[0].game_p99 < 45 * MS,
            "{mbit}: {seen:?}"
        );
        assert!(seen[0].game_loss < 0.02, "{mbit}: {seen:?}");
        assert!(seen[0].mbit > mbit as f64 * 0.85, "{mbit}: {seen:?}");
    }
}

#[test]
fn narrow_uplink_is_level_once_the_game_rate_is_declared() {
    let mut sim = Sim::new(
        path(2),
        &[Load {
            packets_per_second: 60,
            ..BOTH
        }],
    );
    sim.config(0).set_game_rate(60 * 240);
    sim.run(2 * 1000 * MS);
    let seen = sim.measure(5 * 1000 * MS);
    assert!(seen[0].queue_p99 < 60 * MS, "{seen:?}");
    assert!(seen[0].mbit > 1.5, "{seen:?}");
}

#[test]
fn two_bulk_flows_share() {
    for loss in [0.0, 0.01] {
        let mut sim = Sim::new(Path { loss, ..path(50) }, &[BULK, BULK]);
        sim.delay_start(1, 4 * 1000 * MS);
        sim.run(12 * 1000 * MS);
        let seen = sim.measure(10 * 1000 * MS);
        assert!(seen[0].mbit + seen[1].mbit > 44.0, "{seen:?}");
        assert!(seen[0].mbit.min(seen[1].mbit) > 15.0, "{seen:?}");
        assert!(seen[0].queue_p99 < 25 * MS, "{seen:?}");
    }
}

#[test]
fn rate_steps_are_followed() {
    let mut sim = Sim::new(path(50), &[BOTH]);
    sim.run(3 * 1000 * MS);
    sim.set_rate(5 * MBIT);
    sim.run(2 * 1000 * MS);
    let narrow = sim.measure(3 * 1000 * MS);
    assert!(narrow[0].mbit > 4.0, "{narrow:?}");
    // The floor's window on a path narrower than it: documented at `FLOOR_RATE`.
    assert!(narrow[0].queue_p99 < 90 * MS, "{narrow:?}");
    sim.set_rate(50 * MBIT);
    sim.run(2 * 1000 * MS);
    let wide = sim.measure(3 * 1000 * MS);
    assert!(wide[0].mbit > 44.0, "{wide:?}");
    assert!(wide[0].queue_p99 < 15 * MS, "{wide:?}");
}

#[test]
fn longer_route_becomes_the_new_empty_path() {
    let mut sim = Sim::new(path(50), &[BULK]);
    sim.run(3 * 1000 * MS);
    sim.set_delay(35 * MS);
    sim.run(3 * 1000 * MS);
    let seen = sim.measure(5 * 1000 * MS);
    assert!(seen[0].mbit > 44.0, "{seen:?}");
    sim.set_delay(20 * MS);
    sim.run(6 * 1000 * MS);
    let seen = sim.measure(5 * 1000 * MS);
    assert!(
        seen[0].mbit > 44.0 && seen[0].queue_p99 < 15 * MS,
        "{seen:?}"
    );
}

#[test]
fn first_packets_after_a_black_out_go_at_once() {
    for load in [GAME, BIG_GAME, BOTH] {
        let mut sim = Sim::new(path(50), &[load]);
        sim.run(3 * 1000 * MS);
        sim.black_out(5 * 1000 * MS);
        let seen = sim.measure(200 * MS);
        assert!(seen[0].held_p50 < 5 * MS, "{load:?}: {seen:?}");
        assert!(seen[0].game_first < 30 * MS, "{load:?}: {seen:?}");
        sim.run(1000 * MS);
        let seen = sim.measure(2 * 1000 * MS);
        assert!(!load.bulk || seen[0].mbit > 44.0, "{load:?}: {seen:?}");
    }
}

#[test]
fn policer_is_respected() {
    let mut sim = Sim::new(
        Path {
            policer: Some(20 * MBIT),
            ..path(1000)
        },
        &[BOTH],
    );
    sim.run(3 * 1000 * MS);
    let seen = sim.measure(20 * 1000 * MS);
    assert!(seen[0].mbit > 16.0, "{seen:?}");
    assert!(seen[0].game_loss < 0.05, "{seen:?}");
}

#[test]
fn loss_that_shrinking_does_not_lower_is_borne() {
    let mut sim = Sim::new(
        Path {
            loss: 0.20,
            ..path(20)
        },
        &[BULK],
    );
    sim.run(6 * 1000 * MS);
    let seen = sim.measure(10 * 1000 * MS);
    assert!(seen[0].mbit > 12.0, "{seen:?}");
}

#[test]
fn queue_of_others_does_not_starve_the_game() {
    // 30 ms of somebody else's queue; the game's own rate must hold, bulk or not.
    let mut sim = Sim::new(
        path(50),
        &[Load {
            bulk: true,
            ..BIG_GAME
        }],
    );
    sim.config(0).set_game_rate(4_000 * 240);
    sim.run(2 * 1000 * MS);
    sim.set_delay(50 * MS);
    let seen = sim.measure(3 * 1000 * MS);
    assert!(seen[0].held_p99 < 40 * MS, "{seen:?}");
    assert!(seen[0].game_loss < 0.01, "{seen:?}");
}

#[test]
fn pauses_of_the_processes_do_not_hold_back_a_game_of_many_players() {
    // 12 MB/s to the machine next door, on processors so busy that all is late for 60 of 100 ms.
    let config = Arc::new(LevelConfig::default());
    config.set_game_rate(12_000_000);
    let start = Instant::now();
    let mut level = Level::new(config, start, 1452);
    for ms in 1..4_000 {
        let now = start + ms * MS;
        let (rtt, is_late) = if ms % 100 >= 40 {
            (12 * MS, true)
        } else {
            (MS / 10, false)
        };
        level.handle_sent(now, 12_000);
        level.handle_ack(now, now - rtt, 12_000, !is_late);
        level.handle_acks_end(now, bytes_in(12_000_000, rtt).min(level.window));
        // What 5 ms take.
        let least = 12_000_000 / 200;
        assert!(ms < 500 || level.window_at(now) > least, "{ms}: {level:?}");
    }
}

#[test]
fn a_game_that_the_path_cannot_carry_makes_no_endless_queue() {
    // 108 Mbit/s on a line of 20, whose queue would hold a second.
    let load = Load {
        packets_per_second: 30_000,
        size: 450,
        bulk: false,
        control: Control::Level,
    };
    let deep = Path {
        queue: 2_500_000,
        ..path(20)
    };
    let mut sim = Sim::new(deep, &[load]);
    sim.config(0).set_game_rate(30_000 * 450);
    sim.run(2 * 1000 * MS);
    let seen = sim.measure(3 * 1000 * MS);
    assert!(seen[0].queue_p99 < 90 * MS, "{seen:?}");
}

#[test]
fn marks_shrink_the_window_once_a_round_and_never_below_the_floor() {
    let mut sim = Sim::new(path(50), &[BULK]);
    sim.run(3 * 1000 * MS);
    let before = sim.measure(100 * MS)[0].window;
    sim.mark(0);
    sim.mark(0);
    sim.run(50 * MS);
    let after = sim.measure(MS)[0].window;
    assert!(
        after > before * 7 / 10 && after < before * 9 / 10,
        "{before} {after}"
    );
    for _ in 0..100 {
        sim.mark(0);
        sim.run(20 * MS);
    }
    assert!(sim.measure(MS)[0].window > 60_000);
}

#[test]
fn any_declared_rate_is_safe() {
    for rate in [0, 1, u64::MAX - 1, u64::MAX] {
        let mut sim = Sim::new(path(50), &[GAME]);
        sim.config(0).set_game_rate(rate);
        let seen = sim.measure(500 * MS);
        assert!(seen[0].held_p99 < 3 * MS, "{rate}: {seen:?}");
    }
}
