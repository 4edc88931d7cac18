//! [`Shape`] leads lanes of the kernel's before a line in virtual time.

mod sim;

use std::time::Duration;

use sim::{Kernel, Line, MBIT, MS, Seen, Sim};

use super::*;

const S: Duration = Duration::from_secs(1);
const KERNELS: [Kernel; 2] = [Kernel::Window, Kernel::Bbr];

/// 40 ms of round trip and a queue of 200 ms.
fn line(mbit: u64) -> Line {
    Line {
        rate: mbit * MBIT,
        delay: 20 * MS,
        queue: mbit * MBIT / 8 / 5,
        loss: 0.0,
    }
}

/// One lane from the start, measured from its fourth second on.
fn steady(line: Line, kernel: Kernel, shaped: bool) -> Seen {
    let mut sim = Sim::new(line.clone(), &[kernel], shaped);
    sim.run(3 * S);
    // A fast line has as many packets in less time.
    sim.measure(if line.rate > 500 * MBIT {
        2 * S
    } else {
        10 * S
    })
}

#[test]
fn the_simulated_kernel_fills_the_queue_without_us() {
    let window = steady(line(20), Kernel::Window, false);
    assert!(window.p50 > 100 * MS, "{window:?}");
    let bbr = steady(line(20), Kernel::Bbr, false);
    assert!(bbr.p99 > 20 * MS, "{bbr:?}");
}

#[test]
fn a_game_does_not_feel_an_upload() {
    for kernel in KERNELS {
        for (mbit, wait) in [(5, 15), (20, 10), (200, 10), (1000, 16)] {
            let seen = steady(line(mbit), kernel, true);
            assert!(seen.p99 < wait * MS, "{kernel:?} {mbit} {seen:?}");
            // The game itself has 0.77 Mbit/s of the line, and 3.5 % are headers.
            let least = (mbit as f64 - 0.77) * 0.965 * 0.93;
            assert!(seen.ours > least, "{kernel:?} {mbit} {seen:?}");
            assert_eq!(seen.lost, 0.0, "{kernel:?} {mbit} {seen:?}");
        }
    }
}

#[test]
fn a_start_overshoots_for_a_moment_only() {
    for kernel in KERNELS {
        let mut sim = Sim::new(line(20), &[kernel], true);
        let seen = sim.measure(S);
        assert!(
            seen.p50 < 5 * MS && seen.max < 45 * MS,
            "{kernel:?} {seen:?}"
        );
        assert!(seen.ours > 11.0, "{kernel:?} {seen:?}");
    }
}

#[test]
fn many_lanes_share_one_rate() {
    for kernel in KERNELS {
        for lanes in [4, 16] {
            let mut sim = Sim::new(line(20), &vec![kernel; lanes], true);
            sim.run(2 * S);
            let seen = sim.measure(10 * S);
            assert!(seen.p99 < 12 * MS, "{kernel:?} {lanes} {seen:?}");
            assert!(seen.ours > 16.5, "{kernel:?} {lanes} {seen:?}");
            let equal = seen.ours / lanes as f64;
            let is_fair = |mbit: &f64| (mbit - equal).abs() < equal / 5.0;
            assert!(seen.each.iter().all(is_fair), "{kernel:?} {lanes} {seen:?}");
        }
    }
}

#[test]
fn hundreds_of_lanes_share_one_rate_and_none_stops() {
    for kernel in KERNELS {
        for (lanes, mbit) in [(200, 5), (200, 20), (1000, 20)] {
            let mut sim = Sim::new(line(mbit), &[], true);
            for n in 0..lanes {
                sim.add(kernel, true, n * 5 * MS, None);
            }
            sim.run(15 * S);
            let seen = sim.measure(10 * S);
            let case = format!(
                "{kernel:?} {lanes} {mbit}: {:.1} Mbit/s, {:?} {:?} {:?}",
                seen.ours, seen.p50, seen.p99, seen.max
            );
            // They leave in clumps, as their pauses end.
            assert!(seen.p50 < 10 * MS && seen.p99 < 130 * MS, "{case}");
            assert_eq!(seen.lost, 0.0, "{case}");
            assert!(seen.ours > mbit as f64 * 0.4, "{case}");
            let equal = seen.ours / f64::from(lanes);
            let least = seen.each.iter().copied().fold(f64::MAX, f64::min);
            assert!(least > equal * 0.6, "{case}: one has {least}");
        }
    }
}

#[test]
fn what_one_lane_does_not_use_another_has() {
    for kernel in KERNELS {
        let mut sim = Sim::new(line(20), &[kernel], true);
        sim.add(kernel, true, S, Some(30_000.0));
        sim.run(2 * S);
        let seen = sim.measure(10 * S);
        assert!(seen.each[0] > 16.5, "{kernel:?} {seen:?}");
        assert!(seen.each[1] > 0.2, "{kernel:?} {seen:?}");
        assert!(seen.p99 < 12 * MS, "{kernel:?} {seen:?}");
    }
}

#[test]
fn random_loss_is_no_signal() {
    let lossy = Line {
        loss: 0.01,
        ..line(200)
    };
    let seen = steady(lossy, Kernel::Bbr, true);
    assert!(seen.ours > 170.0 && seen.p99 < 10 * MS, "{seen:?}");
}

#[test]
fn beside_a_foreign_flow_a_share_is_kept() {
    for kernel in KERNELS {
        for foreign in KERNELS {
            let share = |shaped| {
                let mut sim = Sim::new(line(20), &[kernel], shaped);
                sim.add(foreign, false, 3 * S, None);
                sim.run(5 * S);
                sim.measure(20 * S).ours
            };
            let (shaped, alone) = (share(true), share(false));
            // What the kernel itself does not get, we do not either, and a look now and then costs a little.
            let least = f64::min(4.0, alone * 0.85);
            assert!(
                shaped > least,
                "{kernel:?} beside {foreign:?}: {shaped} of {alone}"
            );
        }
    }
}

#[test]
fn the_game_is_well_again_once_a_foreign_flow_has_gone() {
    for kernel in KERNELS {
        for foreign in KERNELS {
            let mut sim = Sim::new(line(20), &[kernel], true);
            let id = sim.add(foreign, false, 3 * S, None);
            sim.run(15 * S);
            sim.stop(id);
            // The longest competition, and a drain.
            sim.run(18 * S);
            let seen = sim.measure(10 * S);
            assert!(
                seen.p99 < 12 * MS && seen.ours > 17.0,
                "{kernel:?} {foreign:?} {seen:?}"
            );
        }
    }
}

#[test]
fn a_line_that_becomes_slower_and_faster_is_followed() {
    for kernel in KERNELS {
        let mut sim = Sim::new(line(20), &[kernel], true);
        sim.run(5 * S);
        sim.set_rate(5 * MBIT);
        let change = sim.measure(2 * S);
        assert!(
            change.p50 < 15 * MS && change.max < 250 * MS,
            "{kernel:?} {change:?}"
        );
        let slow = sim.measure(10 * S);
        assert!(slow.p99 < 20 * MS && slow.ours > 3.7, "{kernel:?} {slow:?}");
        sim.set_rate(80 * MBIT);
        sim.run(4 * S);
        let fast = sim.measure(10 * S);
        assert!(
            fast.p99 < 12 * MS && fast.ours > 65.0,
            "{kernel:?} {fast:?}"
        );
    }
}

#[test]
fn a_path_that_becomes_longer_is_no_queue_for_ever() {
    for kernel in KERNELS {
        let mut sim = Sim::new(line(80), &[kernel], true);
        sim.run(5 * S);
        sim.set_delay(35 * MS);
        let change = sim.measure(10 * S);
        assert!(change.ours > 60.0, "{kernel:?} {change:?}");
        sim.run(60 * S);
        let seen = sim.measure(10 * S);
        assert!(
            seen.p99 < 20 * MS && seen.ours > 65.0,
            "{kernel:?} {seen:?}"
        );
    }
}

#[test]
fn a_black_out_leaves_nothing_behind() {
    let mut sim = Sim::new(line(20), &[Kernel::Bbr], true);
    sim.run(5 * S);
    sim.black_out(2 * S);
    sim.run(3 * S);
    let seen = sim.measure(10 * S);
    assert!(seen.p99 < 12 * MS && seen.ours > 16.0, "{seen:?}");
}

#[test]
fn a_fast_short_path_is_never_held_back() {
    let start = Instant::now();
    let mut shape = Shape::new(start);
    for n in 0..2_000_u64 {
        // 8 Gbit/s, and a scheduler that lets acknowledgements wait for up to 20 ms.
        let wait = Duration::from_micros(50 + (n * 7919) % 20_000);
        let now = start + n as u32 * 10 * MS;
        shape.handle_sample(
            now,
            Sample {
                rtt: wait,
                delivered: n * 10_000_000,
                hungry: 1,
            },
        );
        assert_eq!(shape.rate(), None, "sample {n}");
    }
}

#[test]
fn the_newest_round_trip_is_found_in_an_average_of_few() {
    let mut average = 40.0;
    let mut newest = Newest::new(Duration::from_micros(40_000), 0);
    for (n, rtt) in [90.0, 140.0, 60.0, 41.0].into_iter().enumerate() {
        average += (rtt - average) / 8.0;
        let told = Duration::from_secs_f64(average / 1e3);
        let found = newest.handle_average(told, (n as u32 + 1) * 2, 40 * MS);
        let found = found.map_or(rtt, |found| found.as_secs_f64() * 1e3);
        assert!((found - rtt).abs() < 0.1, "{rtt} was found as {found}");
    }
    let told = Duration::from_secs_f64(average / 1e3);
    assert_eq!(newest.handle_average(told, 8, 40 * MS), None);
}

#[test]
fn a_rate_is_divided_by_use() {
    let mut shares = Vec::new();
    divide(1e5, &[None, None], &mut shares);
    assert_eq!(shares, [5e4, 5e4]);
    divide(1e5, &[None, Some(4e3), None], &mut shares);
    assert_eq!(shares, [4.5e4, 1e4, 4.5e4]);
    divide(1e5, &[Some(9e4), Some(9e4)], &mut shares);
    assert_eq!(shares, [5e4, 5e4]);
    divide(1e5, &[Some(0.0)], &mut shares);
    assert!(shares[0] <= 1e5);
    divide(100.0, &[None, Some(0.0)], &mut shares);
    assert_eq!(shares, [LANE_LEAST; 2], "less would block a lane for long");
    divide(1e5, &[], &mut shares);
    assert!(shares.is_empty());
}
