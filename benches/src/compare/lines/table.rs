//! Which lines there are.

use std::time::Duration;

use super::line::Line;
use crate::link::{Bottleneck, Jitter, Loss, Pause, RateStep, Shape, Timetable};

/// All of them. Rates that change do so within a transfer.
pub(super) fn all(seconds: f64) -> Vec<Line> {
    vec![
        same(
            "20mbit",
            "20 ms, 20 Mbit/s, 500 packets",
            shape(20, 20, 500),
        ),
        same(
            "100mbit",
            "30 ms, 100 Mbit/s, 1,000 packets",
            shape(30, 100, 1000),
        ),
        same(
            "jitter",
            "60 ms + 0–5 ms each way in order, 0.2 % loss, 50 Mbit/s, 200 packets",
            jitter(5, false, lossy(0.002, shape(60, 50, 200))),
        ),
        same(
            "reorder",
            "60 ms + 0–5 ms each way out of order, 0.2 % loss, 50 Mbit/s, 200 packets",
            jitter(5, true, lossy(0.002, shape(60, 50, 200))),
        ),
        same(
            "200mbit",
            "40 ms, 1 % loss, 200 Mbit/s, 1,000 packets",
            lossy(0.01, shape(40, 200, 1000)),
        ),
        same(
            "long",
            "150 ms, 100 Mbit/s, 1,000 packets",
            shape(150, 100, 1000),
        ),
        same(
            "500mbit",
            "20 ms, 0.1 % loss, 500 Mbit/s, 500 packets",
            lossy(0.001, shape(20, 500, 500)),
        ),
        same("metro", "10 ms, 100 Mbit/s, 50 packets", shape(10, 100, 50)),
        same(
            "shallow",
            "40 ms, 1 % loss, 200 Mbit/s, 100 packets",
            lossy(0.01, shape(40, 200, 100)),
        ),
        Line {
            name: "4g",
            words: "4G: 50 ± 15 ms in order, 30 Mbit/s down, 10 up, 300 packets",
            // Two ways of 17.5 ms and 0 to 15 ms more.
            up: jitter(15, false, shape(35, 10, 300)),
            down: jitter(15, false, shape(35, 30, 300)),
        },
        Line {
            name: "dsl",
            words: "DSL: 25 ms, 40 Mbit/s down, 10 up, 600 packets",
            up: shape(25, 10, 600),
            down: shape(25, 40, 600),
        },
        Line {
            name: "fibre",
            words: "fibre: 8 ms, 300 Mbit/s down, 100 up, 1,000 packets",
            up: shape(8, 100, 1000),
            down: shape(8, 300, 1000),
        },
        same(
            "satellite",
            "satellite: 600 ms, 0.5 % loss, 50 Mbit/s, 1,000 packets",
            lossy(0.005, shape(600, 50, 1000)),
        ),
        same(
            "router",
            "a shallow router: 15 ms, 50 Mbit/s, 25 packets",
            shape(15, 50, 25),
        ),
        same(
            "wifi",
            "Wi-Fi: 3 ms, 200 Mbit/s, 1,000 packets, every 200 ms a pause of 30 ms",
            Shape {
                pause: Some(Pause {
                    every: Duration::from_millis(200),
                    length: Duration::from_millis(30),
                }),
                ..shape(3, 200, 1000)
            },
        ),
        same(
            "rates",
            "20 ms, 20 Mbit/s, then 5, then 20 again, 500 packets",
            Shape {
                timetable: thirds([20, 5, 20], seconds),
                ..shape(20, 20, 500)
            },
        ),
        same(
            "1gbit",
            "1 ms, 1,000 Mbit/s, 1,000 packets",
            shape(1, 1000, 1000),
        ),
    ]
}

fn same(name: &'static str, words: &'static str, shape: Shape) -> Line {
    Line {
        name,
        words,
        up: shape.clone(),
        down: shape,
    }
}

/// One direction of a line, from its round trip in milliseconds, its rate in Mbit/s and its queue in packets.
fn shape(round_trip: u64, mbit: u64, queue: usize) -> Shape {
    Shape {
        delay: Duration::from_millis(round_trip) / 2,
        bottleneck: Some(Bottleneck::packets(mbit * MBIT, queue)),
        ..Shape::default()
    }
}

fn lossy(share: f64, shape: Shape) -> Shape {
    Shape {
        loss: Loss::Random(share),
        ..shape
    }
}

fn jitter(millis: u64, reorders: bool, shape: Shape) -> Shape {
    let most = Duration::from_millis(millis);
    Shape {
        jitter: Some(Jitter { most, reorders }),
        ..shape
    }
}

/// Three rates in Mbit/s, each for a third of a transfer.
fn thirds(mbit: [u64; 3], seconds: f64) -> Option<Timetable> {
    let step = |mbit| RateStep {
        rate: mbit * MBIT,
        lasts: Duration::from_secs_f64(seconds / 3.0),
    };
    Timetable::new(mbit.map(step).into())
}

const MBIT: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{compare::lines::Family, load::CongestionControl};

    fn find(name: &str) -> Line {
        let found = all(10.0).into_iter().find(|line| line.name == name);
        found.unwrap_or_else(|| panic!("no line {name}"))
    }

    #[test]
    fn every_line_of_the_issue_is_there_as_it_says() {
        // Name, round trip in ms, loss in %, Mbit/s down and up, packets.
        for (name, round_trip, loss, down, up, queue) in [
            ("20mbit", 20.0, 0.0, 20, 20, 500),
            ("100mbit", 30.0, 0.0, 100, 100, 1000),
            ("jitter", 65.0, 0.2, 50, 50, 200),
            ("reorder", 65.0, 0.2, 50, 50, 200),
            ("200mbit", 40.0, 1.0, 200, 200, 1000),
            ("long", 150.0, 0.0, 100, 100, 1000),
            ("500mbit", 20.0, 0.1, 500, 500, 500),
            ("metro", 10.0, 0.0, 100, 100, 50),
            ("shallow", 40.0, 1.0, 200, 200, 100),
            ("4g", 50.0, 0.0, 30, 10, 300),
            ("dsl", 25.0, 0.0, 40, 10, 600),
            ("fibre", 8.0, 0.0, 300, 100, 1000),
            ("satellite", 600.0, 0.5, 50, 50, 1000),
            ("router", 15.0, 0.0, 50, 50, 25),
            ("wifi", 3.0, 0.0, 200, 200, 1000),
            ("rates", 20.0, 0.0, 20, 20, 500),
            ("1gbit", 1.0, 0.0, 1000, 1000, 1000),
        ] {
            let line = find(name);
            let facts = line.facts(Family::Bulk, CongestionControl::Bbr);
            assert!((facts.round_trip - round_trip).abs() < 0.001, "{facts:?}");
            assert_eq!((facts.down, facts.up), (f64::from(down), f64::from(up)));
            for shape in [&line.up, &line.down] {
                let bottleneck = shape.bottleneck.expect("it has a rate");
                assert_eq!(bottleneck.queue_packets, queue, "{name}");
                let share = match shape.loss {
                    Loss::Random(share) => share * 100.0,
                    _ => 0.0,
                };
                assert!((share - loss).abs() < 1e-9, "{name}");
            }
        }
        assert_eq!(all(10.0).len(), 17);
    }

    #[test]
    fn jitter_keeps_the_order_but_where_it_is_to_reorder() {
        for (name, most, reorders) in [
            ("jitter", 5, false),
            ("reorder", 5, true),
            ("4g", 15, false),
        ] {
            let most = Duration::from_millis(most);
            let line = find(name);
            assert_eq!(line.up.jitter, Some(Jitter { most, reorders }));
            assert_eq!(line.down.jitter, line.up.jitter);
        }
    }

    #[test]
    fn rates_change_within_a_transfer_whatever_its_length() {
        for seconds in [3.0, 10.0] {
            let table = find_in("rates", seconds).up.timetable.expect("it has one");
            let at = |share: f64| table.rate(Duration::from_secs_f64(seconds * share)) / MBIT;
            assert_eq!(
                [0.0, 0.3, 0.4, 0.6, 0.7, 0.99].map(at),
                [20, 20, 5, 5, 20, 20]
            );
        }
    }

    fn find_in(name: &str, seconds: f64) -> Line {
        let found = all(seconds).into_iter().find(|line| line.name == name);
        found.expect("it is there")
    }

    #[test]
    fn wifi_pauses_as_it_says() {
        let pause = find("wifi").down.pause.expect("it does");
        let millis = |time: Duration| time.as_millis();
        assert_eq!((millis(pause.every), millis(pause.length)), (200, 30));
    }

    #[test]
    fn offsets_are_the_seeds_and_differ() {
        let wifi = find("wifi").link();
        let offsets: Vec<Duration> = (1..=10).map(|seed| wifi.offset(seed)).collect();
        assert!(offsets.iter().all(|one| *one < Duration::from_millis(200)));
        let mut sorted = offsets.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), 10);
        assert_eq!(wifi.offset(3), offsets[2]);
        assert!(find("rates").link().offset(3) < Duration::from_secs(1));
        assert_eq!(find("dsl").link().offset(3), Duration::ZERO);
    }
}
