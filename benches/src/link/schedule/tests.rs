use super::*;
use crate::link::shape::{Bottleneck, RateStep, Reorder, Timetable};

const MS: Nanos = 1_000_000;
const SECOND: Nanos = 1_000 * MS;

fn schedule(shape: Shape) -> Schedule {
    Schedule::new(shape, start(1))
}

/// Of a link that begins with its clock.
const fn start(seed: u64) -> Start {
    Start {
        seed,
        at: 0,
        clock: 0,
    }
}

fn arrival(fate: Fate) -> Nanos {
    match fate {
        Fate::Arrives { due, .. } => due,
        other => panic!("{other:?}"),
    }
}

/// Offers `count` packets of 1,000 bytes, one every `every`.
fn run(schedule: &mut Schedule, count: u64, every: Nanos) -> Vec<Fate> {
    (0..count)
        .map(|place| schedule.offer(place * every, 1000))
        .collect()
}

fn arrivals(fates: &[Fate]) -> Vec<Nanos> {
    fates.iter().copied().map(arrival).collect()
}

fn lost(fates: &[Fate]) -> f64 {
    fates.iter().filter(|&&fate| fate == Fate::Lost).count() as f64 / fates.len() as f64
}

#[test]
fn default_passes_everything_on_at_once() {
    let fates = run(&mut schedule(Shape::default()), 100, 10);
    for (place, fate) in fates.into_iter().enumerate() {
        let (due, twice) = (place as Nanos * 10, false);
        assert_eq!(fate, Fate::Arrives { due, twice });
    }
}

#[test]
fn rate_holds_to_the_nanosecond_over_a_million_packets() {
    // 1,500 bytes at 7 Mbit/s are 1,714,285.7 ns: what division leaves must not add up.
    let bottleneck = Bottleneck {
        rate: 7_000_000,
        queue_bytes: 3_000,
        queue_packets: usize::MAX,
    };
    let mut schedule = schedule(Shape {
        bottleneck: Some(bottleneck),
        ..Shape::default()
    });
    let mut last: Nanos = 0;
    let mut sent = 0_u64;
    while sent < 1_000_000 {
        // The next comes as soon as there is room: the link never rests.
        match schedule.offer(last.saturating_sub(1), 1500) {
            Fate::Arrives { due, .. } => {
                last = due;
                sent += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(last, 1_000_000 * 1500 * 8 * SECOND / 7_000_000);
}

#[test]
fn late_look_at_a_waiting_queue_loses_no_rate() {
    let shape = Shape {
        bottleneck: Some(Bottleneck::new(8_000_000, Duration::from_secs(1))),
        ..Shape::default()
    };
    let mut schedule = schedule(shape);
    // 1,000 bytes take 1 ms. Ten are taken at once, ten more only after 9.5 ms.
    for _ in 0..10 {
        schedule.offer(0, 1000);
    }
    let late: Vec<Nanos> = (0..10)
        .map(|_| arrival(schedule.offer(9 * MS + MS / 2, 1000)))
        .collect();
    let expected: Vec<Nanos> = (11..=20).map(|place| place * MS).collect();
    assert_eq!(late, expected);
}

#[test]
fn queue_is_bounded_in_bytes_and_in_packets() {
    for (queue_bytes, queue_packets) in [(5_500, usize::MAX), (u64::MAX, 5)] {
        let bottleneck = Bottleneck {
            rate: 8_000_000,
            queue_bytes,
            queue_packets,
        };
        let mut schedule = schedule(Shape {
            bottleneck: Some(bottleneck),
            ..Shape::default()
        });
        let fates: Vec<Fate> = (0..8).map(|_| schedule.offer(0, 1000)).collect();
        assert_eq!(arrivals(&fates[..5]), [MS, 2 * MS, 3 * MS, 4 * MS, 5 * MS]);
        assert_eq!(fates[5..], [Fate::QueueFull; 3]);
        // One has left, one fits.
        assert_eq!(arrival(schedule.offer(MS, 1000)), 6 * MS);
        assert_eq!(schedule.offer(MS, 1000), Fate::QueueFull);
    }
}

#[test]
fn queue_too_small_for_a_packet_passes_one_at_a_time() {
    let bottleneck = Bottleneck {
        rate: 8_000_000,
        queue_bytes: 10,
        queue_packets: 0,
    };
    let mut schedule = schedule(Shape {
        bottleneck: Some(bottleneck),
        ..Shape::default()
    });
    assert_eq!(arrival(schedule.offer(0, 1000)), MS);
    assert_eq!(schedule.offer(0, 1000), Fate::QueueFull);
    assert_eq!(arrival(schedule.offer(MS, 1000)), 2 * MS);
}

#[test]
fn random_loss_is_the_share_asked_for_and_comes_singly() {
    let mut schedule = schedule(Shape {
        loss: Loss::Random(0.03),
        ..Shape::default()
    });
    let fates = run(&mut schedule, 200_000, 1000);
    let share = lost(&fates);
    assert!((0.028..0.032).contains(&share), "{share}");
    let length = mean_burst(&fates);
    assert!(length < 1.06, "{length}");
}

#[test]
fn bursts_have_the_share_and_the_length_asked_for() {
    let mut schedule = schedule(Shape {
        loss: Loss::Bursts {
            share: 0.02,
            length: 5.0,
        },
        ..Shape::default()
    });
    let fates = run(&mut schedule, 1_000_000, 1000);
    let share = lost(&fates);
    assert!((0.018..0.022).contains(&share), "{share}");
    let length = mean_burst(&fates);
    assert!((4.7..5.3).contains(&length), "{length}");
}

fn mean_burst(fates: &[Fate]) -> f64 {
    let bursts = fates
        .chunk_by(|a, b| (*a == Fate::Lost) == (*b == Fate::Lost))
        .filter(|run| run[0] == Fate::Lost);
    let lengths: Vec<usize> = bursts.map(<[Fate]>::len).collect();
    lengths.iter().sum::<usize>() as f64 / lengths.len() as f64
}

#[test]
fn what_is_lost_has_taken_its_share_of_the_rate() {
    let mut schedule = schedule(Shape {
        loss: Loss::Random(0.5),
        bottleneck: Some(Bottleneck::new(8_000_000, Duration::from_secs(10))),
        ..Shape::default()
    });
    let fates: Vec<Fate> = (0..1000).map(|_| schedule.offer(0, 1000)).collect();
    for (place, fate) in fates.into_iter().enumerate() {
        if let Fate::Arrives { due, .. } = fate {
            assert_eq!(due, (place as Nanos + 1) * MS);
        }
    }
}

#[test]
fn same_seed_gives_the_same_fates_and_another_seed_others() {
    let shape = Shape {
        delay: Duration::from_millis(20),
        jitter: Some(Jitter {
            most: Duration::from_millis(20),
            reorders: true,
        }),
        loss: Loss::Bursts {
            share: 0.05,
            length: 5.0,
        },
        bottleneck: Some(Bottleneck::new(20_000_000, Duration::from_millis(50))),
        reorder: Some(Reorder {
            share: 0.1,
            by: Duration::from_millis(3),
        }),
        duplicate: 0.1,
        ..Shape::default()
    };
    let fates = |seed| {
        let mut schedule = Schedule::new(shape.clone(), start(seed));
        run(&mut schedule, 10_000, MS / 3)
    };
    assert_eq!(fates(7), fates(7));
    assert_ne!(fates(7), fates(8));
}

#[test]
fn losses_are_the_same_whatever_else_is_set() {
    let losses = |shape: Shape| {
        let fates = run(&mut schedule(shape), 10_000, 2 * MS);
        fates
            .into_iter()
            .map(|fate| fate == Fate::Lost)
            .collect::<Vec<_>>()
    };
    let plain = Shape {
        loss: Loss::Random(0.1),
        ..Shape::default()
    };
    let rich = Shape {
        delay: Duration::from_millis(20),
        jitter: Some(Jitter {
            most: Duration::from_millis(5),
            reorders: true,
        }),
        bottleneck: Some(Bottleneck::new(20_000_000, Duration::from_millis(50))),
        duplicate: 0.5,
        ..plain.clone()
    };
    assert_eq!(losses(plain), losses(rich));
}

#[test]
fn only_what_is_asked_to_reorder_does() {
    let delay = Duration::from_millis(20);
    let most = Duration::from_millis(20);
    let plain = Shape {
        delay,
        bottleneck: Some(Bottleneck::new(100_000_000, Duration::from_millis(50))),
        ..Shape::default()
    };
    let drifting = Shape {
        jitter: Some(Jitter {
            most,
            reorders: false,
        }),
        ..plain.clone()
    };
    let jumping = Shape {
        jitter: Some(Jitter {
            most,
            reorders: true,
        }),
        ..plain.clone()
    };
    let held = Shape {
        reorder: Some(Reorder {
            share: 0.01,
            by: Duration::from_millis(1),
        }),
        ..plain.clone()
    };
    let ordered = |shape| arrivals(&run(&mut schedule(shape), 20_000, MS / 10)).is_sorted();
    assert!(ordered(plain));
    assert!(ordered(drifting));
    assert!(!ordered(jumping));
    assert!(!ordered(held));
}

#[test]
fn cut_delay_lets_nothing_overtake() {
    let slow = Shape {
        delay: Duration::from_millis(150),
        ..Shape::default()
    };
    let mut schedule = schedule(slow.clone());
    assert_eq!(arrival(schedule.offer(0, 1000)), 150 * MS);
    schedule.set(Shape {
        delay: Duration::from_millis(10),
        ..slow
    });
    assert_eq!(arrival(schedule.offer(MS, 1000)), 150 * MS);
    assert_eq!(arrival(schedule.offer(200 * MS, 1000)), 210 * MS);
}

#[test]
fn jitter_fills_its_range_for_dense_and_for_thin_flows() {
    for reorders in [false, true] {
        for every in [MS / 10, 10 * MS] {
            let mut schedule = schedule(Shape {
                delay: Duration::from_millis(20),
                jitter: Some(Jitter {
                    most: Duration::from_millis(20),
                    reorders,
                }),
                ..Shape::default()
            });
            let fates = run(&mut schedule, 60 * SECOND / every, every);
            let delays: Vec<f64> = arrivals(&fates)
                .iter()
                .zip(0..)
                .map(|(due, place)| (due - place * every) as f64 / MS as f64)
                .collect();
            let mean = delays.iter().sum::<f64>() / delays.len() as f64;
            let low = delays.iter().copied().fold(f64::MAX, f64::min);
            let high = delays.iter().copied().fold(0.0, f64::max);
            assert!((29.0..31.0).contains(&mean), "{mean}");
            assert!((20.0..20.5).contains(&low), "{low}");
            assert!((39.5..=40.0).contains(&high), "{high}");
        }
    }
}

#[test]
fn duplicates_are_the_share_asked_for() {
    let mut schedule = schedule(Shape {
        duplicate: 0.1,
        ..Shape::default()
    });
    let fates = run(&mut schedule, 100_000, 1000);
    let twice = fates
        .iter()
        .filter(|fate| matches!(fate, Fate::Arrives { twice: true, .. }))
        .count();
    assert!((9_700..10_300).contains(&twice), "{twice}");
}

#[test]
fn new_rate_holds_from_the_next_packet_on() {
    let shape = |rate| Shape {
        bottleneck: Some(Bottleneck::new(rate, Duration::from_secs(1))),
        ..Shape::default()
    };
    let mut schedule = schedule(shape(8_000_000));
    assert_eq!(arrival(schedule.offer(0, 1000)), MS);
    schedule.set(shape(80_000_000));
    assert_eq!(arrival(schedule.offer(0, 1000)), MS + MS / 10);
    // Behind what already waits, even with no rate at all.
    schedule.set(Shape::default());
    assert_eq!(arrival(schedule.offer(0, 1000)), MS + MS / 10);
}

/// 8 Mbit/s for 10 ms, then 1 Mbit/s for 20 ms: a packet of 1,000 bytes takes 1 ms, then 8 ms.
fn rates() -> Option<Timetable> {
    let step = |rate, millis| RateStep {
        rate,
        lasts: Duration::from_millis(millis),
    };
    Timetable::new(vec![step(8_000_000, 10), step(1_000_000, 20)])
}

#[test]
fn timetable_changes_the_rate_and_begins_again() {
    let mut schedule = schedule(Shape {
        bottleneck: Some(Bottleneck::packets(77, 1000)),
        timetable: rates(),
        ..Shape::default()
    });
    let due: Vec<Nanos> = (0..20)
        .map(|_| arrival(schedule.offer(0, 1000)) / MS)
        .collect();
    let fast = 1..=10;
    // The last slow one began at 26 ms and keeps its rate to its end at 34; the next cycle's fast ones have begun by then.
    let slow = [18, 26, 34];
    let again = 35..=40;
    let expected: Vec<Nanos> = fast.chain(slow).chain(again).collect();
    assert_eq!(due[..19], expected);
    assert_eq!(due[19], 48);
}

#[test]
fn timetable_holds_to_the_nanosecond_while_a_rate_lasts() {
    // 1,500 bytes at 7 Mbit/s are 1,714,285.7 ns.
    let step = RateStep {
        rate: 7_000_000,
        lasts: Duration::from_secs(1000),
    };
    let mut schedule = schedule(Shape {
        bottleneck: Some(Bottleneck::packets(1, 1000)),
        timetable: Timetable::new(vec![step]),
        ..Shape::default()
    });
    let due: Vec<Nanos> = (0..700).map(|_| arrival(schedule.offer(0, 1500))).collect();
    assert_eq!(due[699], 700 * 1500 * 8 * SECOND / 7_000_000);
}

#[test]
fn timetable_without_a_step_or_with_an_empty_one_is_none() {
    let step = |lasts| RateStep { rate: 1, lasts };
    assert_eq!(Timetable::new(vec![]), None);
    assert_eq!(Timetable::new(vec![step(Duration::ZERO)]), None);
    let long = step(Duration::MAX);
    assert_eq!(Timetable::new(vec![long, long]), None);
    let table = Timetable::new(vec![step(MS_LONG), step(3 * MS_LONG)]);
    assert_eq!(table.map(|table| table.cycle()), Some(4 * MS_LONG));
}

#[test]
fn timetable_without_a_bottleneck_changes_nothing() {
    let mut schedule = schedule(Shape {
        timetable: rates(),
        ..Shape::default()
    });
    assert_eq!(arrival(schedule.offer(15 * MS, 1000)), 15 * MS);
}

#[test]
fn nothing_leaves_in_a_pause_and_the_queue_holds_what_comes() {
    let pause = Pause {
        every: 10 * MS_LONG,
        length: 4 * MS_LONG,
    };
    let mut schedule = schedule(Shape {
        delay: 2 * MS_LONG,
        bottleneck: Some(Bottleneck::packets(8_000_000, 5)),
        pause: Some(pause),
        ..Shape::default()
    });
    // 1 ms each; open from 0 to 6 ms and from 10 to 16 ms.
    assert_eq!(arrival(schedule.offer(0, 1000)), 3 * MS);
    // Sending that has begun before the pause ends in it.
    assert_eq!(
        arrival(schedule.offer(5 * MS + MS / 2, 1000)),
        8 * MS + MS / 2
    );
    let waiting: Vec<Fate> = (0..6).map(|_| schedule.offer(7 * MS, 1000)).collect();
    let due = [13 * MS, 14 * MS, 15 * MS, 16 * MS, 17 * MS];
    assert_eq!(arrivals(&waiting[..5]), due);
    assert_eq!(waiting[5], Fate::QueueFull);
    // At its end to the nanosecond, and just before it begins.
    assert_eq!(arrival(schedule.offer(30 * MS, 1000)), 33 * MS);
    assert_eq!(arrival(schedule.offer(36 * MS - 1, 1000)), 39 * MS - 1);
    assert_eq!(arrival(schedule.offer(46 * MS, 1000)), 53 * MS);
}

#[test]
fn pause_without_a_bottleneck_lets_all_out_at_its_end_in_order() {
    let mut schedule = schedule(Shape {
        pause: Some(Pause {
            every: 10 * MS_LONG,
            length: 4 * MS_LONG,
        }),
        ..Shape::default()
    });
    let due = [0, 5, 6, 8, 9, 10, 11].map(|at| arrival(schedule.offer(at * MS, 1000)) / MS);
    assert_eq!(due, [0, 5, 10, 10, 10, 10, 11]);
}

#[test]
fn pause_that_never_ends_still_lets_time_go_on() {
    for length in [10 * MS_LONG, 20 * MS_LONG] {
        let mut schedule = schedule(Shape {
            pause: Some(Pause {
                every: 10 * MS_LONG,
                length,
            }),
            ..Shape::default()
        });
        assert_eq!(arrival(schedule.offer(3 * MS, 1000)), 10 * MS);
    }
}

/// Everything that varies.
fn varied() -> Shape {
    Shape {
        delay: Duration::from_millis(20),
        jitter: Some(Jitter {
            most: Duration::from_millis(7),
            reorders: false,
        }),
        loss: Loss::Bursts {
            share: 0.05,
            length: 5.0,
        },
        bottleneck: Some(Bottleneck::packets(20_000_000, 50)),
        timetable: rates(),
        pause: Some(Pause {
            every: 13 * MS_LONG,
            length: 3 * MS_LONG,
        }),
        reorder: Some(Reorder {
            share: 0.1,
            by: Duration::from_millis(3),
        }),
        duplicate: 0.1,
    }
}

#[test]
fn restart_is_the_same_whatever_was_before_it() {
    let begin = Start {
        seed: 9,
        at: 50 * SECOND,
        clock: 4 * MS,
    };
    let fates = |schedule: &mut Schedule| {
        schedule.restart(begin);
        (0..5000)
            .map(|place| schedule.offer(begin.at + place * MS, 1000))
            .collect::<Vec<_>>()
    };
    let fresh = fates(&mut schedule(varied()));
    let mut used = Schedule::new(varied(), start(1234));
    run(&mut used, 20_000, MS);
    assert_eq!(fates(&mut used), fresh);
    // Once more, later: the same, but for the time.
    let later = Start {
        at: 90 * SECOND,
        ..begin
    };
    used.restart(later);
    let shifted: Vec<Fate> = (0..5000)
        .map(|place| used.offer(later.at + place * MS, 1000))
        .map(|fate| match fate {
            Fate::Arrives { due, twice } => Fate::Arrives {
                due: due - 40 * SECOND,
                twice,
            },
            other => other,
        })
        .collect();
    assert_eq!(shifted, fresh);
}

#[test]
fn restart_sets_the_clock() {
    let mut schedule = schedule(Shape {
        pause: Some(Pause {
            every: 10 * MS_LONG,
            length: 4 * MS_LONG,
        }),
        ..Shape::default()
    });
    assert_eq!(arrival(schedule.offer(MS, 1000)), MS);
    schedule.restart(Start {
        seed: 1,
        at: 2 * MS,
        clock: 7 * MS,
    });
    // The pause ends 3 ms behind the restart.
    assert_eq!(arrival(schedule.offer(2 * MS, 1000)), 5 * MS);
    assert_eq!(arrival(schedule.offer(11 * MS - 1, 1000)), 11 * MS - 1);
    assert_eq!(arrival(schedule.offer(11 * MS, 1000)), 15 * MS);
}

const MS_LONG: Duration = Duration::from_millis(1);
