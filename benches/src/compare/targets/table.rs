//! Which targets there are.

use super::check::{Bound, Check, Target};
use crate::compare::{column::DIRECT, data::Metric, peers::RATHOLE};

const LANES_OR_AUTO: &[&str] = &["adit-throughput", "adit-auto"];
const AUTO: &[&str] = &["adit-auto"];
const PACKET: &[Metric] = &[Metric::CpuPerPacketRelay, Metric::CpuPerPacketClient];

const fn check(
    scenario: &'static str,
    columns: &'static [&'static str],
    metrics: &'static [Metric],
    bound: Bound,
) -> Check {
    Check {
        scenario,
        columns,
        metrics,
        bound,
    }
}

const GBIT: &[Metric] = &[Metric::GbitPerSecond];
const RATE: &[Metric] = &[Metric::PerSecond];
const P50: &[Metric] = &[Metric::P50];
const P99: &[Metric] = &[Metric::P99];
const P999: &[Metric] = &[Metric::P999];
const LOSS: &[Metric] = &[Metric::Loss];

/// As docs/performance.md lists them. Scenarios that begin with `path-` are those of the emulated path.
pub(super) const TARGETS: &[Target] = &[
    Target {
        what: "TCP bulk, lanes or auto, loopback",
        checks: &[
            check(
                "bulk-1",
                LANES_OR_AUTO,
                GBIT,
                Bound::RatioAtLeast(RATHOLE, 1.5),
            ),
            check(
                "bulk-1",
                LANES_OR_AUTO,
                GBIT,
                Bound::RatioAtLeast("rathole-noise", 6.0),
            ),
            check(
                "bulk-1",
                LANES_OR_AUTO,
                GBIT,
                Bound::RatioAtLeast(DIRECT, 0.35),
            ),
            check(
                "bulk-8",
                LANES_OR_AUTO,
                GBIT,
                Bound::RatioAtLeast(RATHOLE, 1.5),
            ),
            check(
                "bulk-8",
                LANES_OR_AUTO,
                GBIT,
                Bound::RatioAtLeast("rathole-noise", 6.0),
            ),
        ],
    },
    Target {
        what: "TCP request-reply, loopback",
        checks: &[
            check(
                "trips-1",
                &["adit-throughput"],
                P50,
                Bound::RatioAtMost(RATHOLE, 1.2),
            ),
            check(
                "trips-1",
                &["adit-latency"],
                P50,
                Bound::RatioAtMost(RATHOLE, 2.0),
            ),
        ],
    },
    Target {
        what: "connections a second",
        checks: &[check(
            "connections-8",
            AUTO,
            RATE,
            Bound::RatioAtLeast(RATHOLE, 1.2),
        )],
    },
    Target {
        what: "2,000 idle connections",
        checks: &[
            check(
                "idle-2000",
                AUTO,
                &[Metric::GrowthRelay],
                Bound::AtMost(16.0),
            ),
            check(
                "idle-2000",
                AUTO,
                &[Metric::GrowthClient],
                Bound::AtMost(16.0),
            ),
            check(
                "idle-2000",
                &["adit-throughput"],
                &[Metric::GrowthRelay],
                Bound::AtMost(16.0),
            ),
            check(
                "idle-2000",
                &["adit-throughput"],
                &[Metric::GrowthClient],
                Bound::AtMost(16.0),
            ),
        ],
    },
    Target {
        what: "UDP, 100 players × 200/s",
        checks: &[
            check("game-100", AUTO, P50, Bound::RatioAtMost(DIRECT, 3.0)),
            check("game-100", AUTO, P99, Bound::RatioAtMost(DIRECT, 2.0)),
            check("game-100", AUTO, LOSS, Bound::AtMost(0.0)),
        ],
    },
    Target {
        what: "UDP, 1,000 players × 30/s",
        checks: &[
            check("game-1000", AUTO, LOSS, Bound::AtMost(0.0)),
            check("game-1000", AUTO, P99, Bound::RatioAtMost(DIRECT, 5.0)),
            check(
                "game-1000",
                AUTO,
                PACKET,
                Bound::OfScenarioAtMost("game-100", 1.3),
            ),
        ],
    },
    Target {
        what: "UDP, 10,000 players × 3/s",
        checks: &[
            check("game-10000", AUTO, LOSS, Bound::AtMost(0.0)),
            check("game-10000", AUTO, P99, Bound::RatioAtMost(DIRECT, 5.0)),
            check(
                "game-10000",
                AUTO,
                PACKET,
                Bound::OfScenarioAtMost("game-100", 1.3),
            ),
        ],
    },
    Target {
        what: "UDP at 1 % loss, 40 ms, redundancy off",
        checks: &[check(
            "path-game",
            &["adit-off"],
            P99,
            Bound::AboveAtMost(DIRECT, 2.0),
        )],
    },
    Target {
        what: "the same with duplicates",
        checks: &[
            check(
                "path-game",
                &["adit-duplicate"],
                LOSS,
                Bound::RatioAtMost(DIRECT, 0.05),
            ),
            check(
                "path-game",
                &["adit-duplicate"],
                P99,
                Bound::AboveAtMost(DIRECT, 5.0),
            ),
            check(
                "path-game",
                &["adit-duplicate"],
                WIRE,
                Bound::RatioAtMost("adit-off", 2.1),
            ),
        ],
    },
    Target {
        what: "the same with forward error correction",
        checks: &[
            check(
                "path-game",
                &["adit-fec"],
                LOSS,
                Bound::RatioAtMost(DIRECT, 0.05),
            ),
            check(
                "path-game",
                &["adit-fec"],
                P99,
                Bound::AboveAtMost(DIRECT, 15.0),
            ),
            check(
                "path-game",
                &["adit-fec"],
                WIRE,
                Bound::RatioAtMost("adit-off", 1.5),
            ),
        ],
    },
    Target {
        what: "TCP request-reply at 1 % loss, 40 ms",
        checks: &[
            check(
                "path-trips",
                AUTO,
                &[Metric::Samples],
                Bound::AtLeast(2000.0),
            ),
            check("path-trips", AUTO, P99, Bound::AtMost(120.0)),
            check("path-trips", AUTO, P999, Bound::AtMost(250.0)),
            check("path-trips-cubic", AUTO, P99, Bound::AtMost(120.0)),
            check("path-trips-cubic", AUTO, P999, Bound::AtMost(250.0)),
        ],
    },
    Target {
        what: "TCP bulk at 1 % loss, 200 Mbit/s",
        checks: &[
            check(
                "path-bulk-bbr",
                LANES_OR_AUTO,
                GBIT,
                Bound::RatioAtLeast(DIRECT, 0.95),
            ),
            check(
                "path-bulk-cubic",
                LANES_OR_AUTO,
                GBIT,
                Bound::RatioElsewhereAtLeast("path-bulk-bbr", DIRECT, 0.95),
            ),
        ],
    },
    Target {
        what: "game of 4,000 packets/s at 1 % loss",
        checks: &[
            // What chance takes from 40,000 packets differs by less than 0.2 points from one column to another.
            check(
                "path-game-4000",
                &["adit-off"],
                LOSS,
                Bound::AboveAtMost(DIRECT, 0.2),
            ),
            check(
                "path-game-4000",
                &["adit-off"],
                P99,
                Bound::AboveAtMost(DIRECT, 2.0),
            ),
            // What it repairs comes later than what the direct path loses never does.
            check(
                "path-game-4000",
                AUTO,
                LOSS,
                Bound::AboveAtMost(DIRECT, 0.2),
            ),
            check("path-game-4000", AUTO, P99, Bound::AboveAtMost(DIRECT, 2.0)),
        ],
    },
    Target {
        what: "game beside a bulk upload on 20 Mbit/s",
        checks: &[
            check(
                "path-home-upload",
                AUTO,
                P99,
                Bound::AboveScenarioAtMost("path-home-idle", 10.0),
            ),
            check(
                "path-home-upload",
                AUTO,
                &[Metric::BesideGbitPerSecond],
                Bound::AtLeast(0.017),
            ),
            check(
                "path-home-share",
                LANES_OR_AUTO,
                GBIT,
                Bound::AtLeast(0.005),
            ),
            check(
                "path-home-upload-cubic",
                AUTO,
                P99,
                Bound::AboveScenarioAtMost("path-home-idle-cubic", 10.0),
            ),
            check(
                "path-home-upload-cubic",
                AUTO,
                &[Metric::BesideGbitPerSecond],
                Bound::AtLeast(0.017),
            ),
            check(
                "path-home-share-cubic",
                LANES_OR_AUTO,
                GBIT,
                Bound::AtLeast(0.005),
            ),
        ],
    },
    Target {
        what: "reconnect after 5 s of black-out",
        checks: &[check(
            "path-dark",
            AUTO,
            &[Metric::Recovery],
            Bound::AtMost(1.0),
        )],
    },
];

const WIRE: &[Metric] = &[Metric::WirePerSecond];
