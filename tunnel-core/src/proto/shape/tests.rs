//! [`Shape`] leads lanes of the kernel's before a line in virtual time.

mod sim;

use std::time::Duration;

use sim::{Kernel, Line, MBIT, MS, Sim};

/// 40 ms of round trip and a queue of 200 ms.
fn line(mbit: u64) -> Line {
    Line {
        rate: mbit * MBIT,
        delay: 20 * MS,
        queue: mbit * MBIT / 8 / 5,
        loss: 0.0,
    }
}

const S: Duration = Duration::from_secs(1);

#[test]
fn explore() {
    for kernel in [Kernel::Window, Kernel::Bbr] {
        for mbit in [5, 20, 200, 1000] {
            for shaped in [false, true] {
                let mut sim = Sim::new(line(mbit), &[kernel], shaped);
                let start = sim.measure(S);
                let first = sim.measure(10 * S);
                println!(
                    "{kernel:?} {mbit} shaped {shaped}: start p50 {:?} p99 {:?} max {:?} {:.1} | {:.1} Mbit p50 {:?} p99 {:?} max {:?} lost {:.3} rate {:?}",
                    start.p50,
                    start.p99,
                    start.max,
                    start.ours,
                    first.ours,
                    first.p50,
                    first.p99,
                    first.max,
                    first.lost,
                    sim.rate()
                );
            }
        }
    }
}

#[test]
fn explore_more() {
    let show = |what: &str, seen: sim::Seen, sim: &Sim| {
        println!(
            "{what}: {:.1} {:.1?} p50 {:?} p99 {:?} max {:?} rate {:?}",
            seen.ours,
            seen.each,
            seen.p50,
            seen.p99,
            seen.max,
            sim.rate()
        );
    };
    for ours in [Kernel::Window, Kernel::Bbr] {
        for foreign in [Kernel::Window, Kernel::Bbr] {
            let mut sim = Sim::new(line(20), &[ours], false);
            let id = sim.add(foreign, false, 3 * S, None);
            sim.run(5 * S);
            let seen = sim.measure(20 * S);
            show(
                &format!("UNSHAPED {ours:?} beside foreign {foreign:?}"),
                seen,
                &sim,
            );
        }
        for lanes in [4, 16] {
            let mut sim = Sim::new(line(20), &vec![ours; lanes], true);
            sim.run(S);
            let seen = sim.measure(10 * S);
            show(&format!("{ours:?} {lanes} lanes"), seen, &sim);
        }
        for foreign in [Kernel::Window, Kernel::Bbr] {
            let mut sim = Sim::new(line(20), &[ours], true);
            let id = sim.add(foreign, false, 3 * S, None);
            sim.run(5 * S);
            let seen = sim.measure(20 * S);
            show(&format!("{ours:?} beside foreign {foreign:?}"), seen, &sim);
            sim.stop(id);
            sim.run(10 * S);
            let seen = sim.measure(10 * S);
            show(&format!("{ours:?} foreign {foreign:?} gone"), seen, &sim);
        }
        let mut sim = Sim::new(line(20), &[ours], true);
        sim.run(5 * S);
        sim.set_rate(5 * MBIT);
        let seen = sim.measure(2 * S);
        show(&format!("{ours:?} 20 -> 5 first"), seen, &sim);
        let seen = sim.measure(10 * S);
        show(&format!("{ours:?} 20 -> 5"), seen, &sim);
        sim.set_rate(80 * MBIT);
        sim.run(3 * S);
        let seen = sim.measure(10 * S);
        show(&format!("{ours:?} 5 -> 80"), seen, &sim);
        sim.set_delay(35 * MS);
        sim.run(S);
        let seen = sim.measure(10 * S);
        show(&format!("{ours:?} delay 20 -> 35"), seen, &sim);
        sim.run(60 * S);
        let seen = sim.measure(10 * S);
        show(&format!("{ours:?} delay 20 -> 35 later"), seen, &sim);
        sim.black_out(2 * S);
        let seen = sim.measure(2 * S);
        show(&format!("{ours:?} black out"), seen, &sim);
        let mut sim = Sim::new(
            Line {
                loss: 0.01,
                ..line(200)
            },
            &[ours],
            true,
        );
        sim.run(2 * S);
        let seen = sim.measure(10 * S);
        show(&format!("{ours:?} 1 % loss 200"), seen, &sim);
        let mut sim = Sim::new(line(20), &[ours], true);
        sim.add(Kernel::Window, true, S, Some(30_000.0));
        sim.run(2 * S);
        let seen = sim.measure(10 * S);
        show(&format!("{ours:?} and a slow one"), seen, &sim);
    }
}
#[test]
fn dbg16() {
    let mut sim = Sim::new(line(20), &[Kernel::Bbr], true);
    let id = sim.add(Kernel::Bbr, false, 3 * S, None);
    sim.run(5 * S);
    for _ in 0..40 {
        let seen = sim.measure(250 * MS);
        println!(
            "{:.1?} p50 {:?} {:?} {}",
            seen.each,
            seen.p50,
            sim.rate(),
            sim.state().split("Some").nth(1).unwrap()
        );
    }
}
