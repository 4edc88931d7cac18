//! Which paths there are, and what is measured on each.

use std::time::Duration;

use super::emulated::EmulatedPath;
use crate::{
    compare::scenario::Scenario,
    link::{Bottleneck, Jitter, LinkConfig, Loss, Shape},
    load::{Bulk, Game, Load},
};

/// All of them. What is about time (black-outs) knows how long an ordinary measurement takes.
pub fn all(seconds: f64) -> Vec<EmulatedPath> {
    let mut paths = Vec::new();
    for (control, suffix) in CONTROLS {
        let link = LinkConfig::symmetric(base(), SEED);
        let scenarios = match control {
            "bbr" => lossy(),
            _ => lossy_cubic(),
        };
        paths.push(path(format!("{BASE}, {control}"), link, control, scenarios));
        paths.push(path(
            format!("home line: 40 ms, 20 Mbit/s up (500 packets), 100 Mbit/s down, {control}"),
            home_line(),
            control,
            home(suffix),
        ));
    }
    let clear = Shape {
        loss: Loss::Never,
        ..base()
    };
    paths.push(path(
        "40 ms, no loss, 200 Mbit/s, dark for 5 s, bbr".into(),
        LinkConfig::symmetric(clear, SEED),
        "bbr",
        dark(seconds),
    ));
    for (control, suffix) in CONTROLS {
        paths.extend(variations().into_iter().map(|(name, words, shape)| {
            let link = LinkConfig::symmetric(shape, SEED);
            let scenarios = each(&format!("-{name}{suffix}"));
            path(format!("{words}, {control}"), link, control, scenarios)
        }));
    }
    paths
}

fn path(
    title: String,
    link: LinkConfig,
    congestion_control: &'static str,
    scenarios: Vec<Scenario>,
) -> EmulatedPath {
    EmulatedPath {
        title,
        link,
        congestion_control,
        line: None,
        scenarios,
    }
}

/// What the targets are about.
fn lossy() -> Vec<Scenario> {
    vec![
        small_game("path-game").longer(10.0),
        large_game("path-game-4000").longer(4.0),
        trips("path-trips"),
        bulk("path-bulk-bbr", false),
        bulk("path-bulk-bbr-reverse", true),
    ]
}

/// What the kernel's choice has a say in.
fn lossy_cubic() -> Vec<Scenario> {
    vec![
        trips("path-trips-cubic"),
        bulk("path-bulk-cubic", false),
        bulk("path-bulk-cubic-reverse", true),
    ]
}

/// A game that shares its uplink with an upload, its own tunnel's or a foreign one's, and two uploads that share it.
fn home(suffix: &str) -> Vec<Scenario> {
    let upload = || Load::Bulk(Bulk::one(true));
    let game = |name: &str, title: &str| {
        let title = format!("game, 4 players × 100/s, {title}");
        Scenario::new(format!("path-home-{name}{suffix}"), title, game(4, 100.0)).longer(6.0)
    };
    vec![
        game("idle", "alone"),
        game("upload", "beside an upload through the same tunnel").beside(upload()),
        game("foreign", "beside a foreign TCP upload").beside_foreign(upload()),
        Scenario::new(
            format!("path-home-share{suffix}"),
            "TCP upload beside a foreign one",
            upload(),
        )
        .longer(6.0)
        .beside_foreign(upload()),
    ]
}

/// Long enough for what comes before and after the dark, however short measurements are.
fn dark(seconds: f64) -> Vec<Scenario> {
    let longer = DARK_LENGTH / seconds;
    let scenarios = [
        (
            "path-dark",
            "game, 4 players × 100/s, 5 s of black-out",
            game(4, 100.0),
        ),
        (
            "path-dark-trips",
            "TCP request-reply, 1 player, 5 s of black-out",
            Load::Trips { players: 1 },
        ),
    ];
    let dark = |(name, title, load)| Scenario::new(name, title, load).longer(longer).dark(DARK);
    scenarios.map(dark).into()
}

/// One property of the lossy path after the other, with `--all`.
fn variations() -> Vec<(&'static str, &'static str, Shape)> {
    let one_way = Duration::from_millis;
    let delay = |delay| Shape { delay, ..base() };
    let loss = |loss| Shape { loss, ..base() };
    let rate = |mbit, queue| Shape {
        bottleneck: Some(Bottleneck::new(mbit * MBIT, queue)),
        ..base()
    };
    let bursts = Loss::Bursts {
        share: 0.01,
        length: 5.0,
    };
    let jitter = |reorders| Shape {
        jitter: Some(Jitter {
            most: Duration::from_millis(20),
            reorders,
        }),
        ..base()
    };
    vec![
        ("20ms", "20 ms, 1 % loss, 200 Mbit/s", delay(one_way(10))),
        ("150ms", "150 ms, 1 % loss, 200 Mbit/s", delay(one_way(75))),
        ("loss0", "40 ms, no loss, 200 Mbit/s", loss(Loss::Never)),
        (
            "loss0.5",
            "40 ms, 0.5 % loss, 200 Mbit/s",
            loss(Loss::Random(0.005)),
        ),
        (
            "loss3",
            "40 ms, 3 % loss, 200 Mbit/s",
            loss(Loss::Random(0.03)),
        ),
        (
            "bursts",
            "40 ms, 1 % loss in bursts of 5, 200 Mbit/s",
            loss(bursts),
        ),
        (
            "jitter",
            "40 ms + 0–20 ms in order, 1 % loss, 200 Mbit/s",
            jitter(false),
        ),
        (
            "reorder",
            "40 ms + 0–20 ms out of order, 1 % loss, 200 Mbit/s",
            jitter(true),
        ),
        ("10mbit", "40 ms, 1 % loss, 10 Mbit/s", rate(10, QUEUE)),
        ("50mbit", "40 ms, 1 % loss, 50 Mbit/s", rate(50, QUEUE)),
        (
            "1000mbit",
            "40 ms, 1 % loss, 1,000 Mbit/s",
            rate(1000, QUEUE),
        ),
        (
            "shallow",
            "40 ms, 1 % loss, 200 Mbit/s, queue of 10 ms",
            rate(200, SHALLOW),
        ),
        (
            "deep",
            "40 ms, 1 % loss, 200 Mbit/s, queue of 500 ms",
            rate(200, DEEP),
        ),
    ]
}

fn each(suffix: &str) -> Vec<Scenario> {
    let name = |what| format!("path-{what}{suffix}");
    vec![
        small_game(&name("game")).longer(5.0).extra(),
        large_game(&name("game-4000")).longer(2.0).extra(),
        trips(&name("trips")).extra(),
        bulk(&name("bulk"), false).extra(),
        bulk(&name("bulk-reverse"), true).extra(),
    ]
}

fn small_game(name: &str) -> Scenario {
    Scenario::new(name, "game, 4 players × 100/s", game(4, 100.0)).with_wire()
}

fn large_game(name: &str) -> Scenario {
    Scenario::new(name, "game, 20 players × 200/s", game(20, 200.0))
}

/// Enough round trips that losses meet some thousand of them.
fn trips(name: &str) -> Scenario {
    let load = Load::Trips { players: 32 };
    Scenario::new(name, "TCP request-reply, 32 players", load).longer(5.0)
}

fn bulk(name: &str, reverse: bool) -> Scenario {
    let title = if reverse {
        "TCP, 1 stream from the server"
    } else {
        "TCP, 1 stream to the server"
    };
    Scenario::new(name, title, Load::Bulk(Bulk::one(reverse))).longer(5.0)
}

/// Of 200 bytes, 6.4 Mbit/s at 4,000 packets a second: what fits any of these lines and fragments nowhere.
fn game(players: usize, rate: f64) -> Load {
    Load::Game(Game {
        players,
        rate,
        sizes: (200, 200),
        cold: false,
    })
}

/// 40 ms there and back, 1 % lost each way, 200 Mbit/s.
fn base() -> Shape {
    Shape {
        delay: Duration::from_millis(20),
        loss: Loss::Random(0.01),
        bottleneck: Some(Bottleneck::new(200 * MBIT, QUEUE)),
        ..Shape::default()
    }
}

fn home_line() -> LinkConfig {
    let shape = |bottleneck| Shape {
        delay: Duration::from_millis(20),
        bottleneck: Some(bottleneck),
        ..Shape::default()
    };
    LinkConfig {
        up: shape(Bottleneck {
            rate: 20 * MBIT,
            queue_bytes: u64::MAX,
            queue_packets: 500,
        }),
        down: shape(Bottleneck::new(100 * MBIT, QUEUE)),
        seed: SEED,
    }
}

/// What hosts' kernels bring, and what that adds to a scenario's name.
const CONTROLS: [(&str, &str); 2] = [("bbr", ""), ("cubic", "-cubic")];
const BASE: &str = "40 ms, 1 % loss, 200 Mbit/s";
const MBIT: u64 = 1_000_000;
const QUEUE: Duration = Duration::from_millis(100);
const SHALLOW: Duration = Duration::from_millis(10);
const DEEP: Duration = Duration::from_millis(500);
const DARK: Duration = Duration::from_secs(5);
/// Seconds.
const DARK_LENGTH: f64 = 14.0;
const SEED: u64 = 1;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_scenario_has_a_name_of_its_own() {
        let mut names = HashSet::new();
        for path in all(2.0) {
            for scenario in path.scenarios {
                assert!(scenario.name.starts_with("path-"), "{}", scenario.name);
                assert!(names.insert(scenario.name.clone()), "{}", scenario.name);
            }
        }
    }

    #[test]
    fn each_property_that_the_issue_names_is_there_under_both_controls() {
        let paths = all(2.0);
        for control in ["bbr", "cubic"] {
            let shapes: Vec<Shape> = paths
                .iter()
                .filter(|path| path.congestion_control == control)
                .map(|path| path.link.up.clone())
                .collect();
            let any = |holds: &dyn Fn(&Shape) -> bool| shapes.iter().any(holds);
            for delay in [10, 20, 75] {
                assert!(any(&|shape| shape.delay == Duration::from_millis(delay)));
            }
            for loss in [
                Loss::Never,
                Loss::Random(0.005),
                Loss::Random(0.01),
                Loss::Random(0.03),
            ] {
                assert!(any(&|shape| shape.loss == loss), "{loss:?}");
            }
            assert!(any(&|shape| matches!(
                shape.loss,
                Loss::Bursts { length: 5.0, .. }
            )));
            assert!(any(&|shape| shape.jitter.is_some()));
            for mbit in [10, 20, 50, 200, 1000] {
                let rate = Some(mbit * MBIT);
                assert!(any(&|shape| shape.bottleneck.map(|one| one.rate) == rate));
            }
        }
    }
}
