//! A link as it is asked for on a command line.

use std::{str::FromStr, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::{
    schedule::nanos,
    shape::{Bottleneck, Jitter, LinkConfig, Loss, Pause, RateStep, Reorder, Shape, Timetable},
};

/// What a link does to packets. Flags that end in `-up` are about the way from home to the outside, all others about both.
#[derive(Debug, Clone, Args)]
pub struct LinkFlags {
    /// Time that each way takes: half of the round trip.
    #[arg(long, default_value = "20ms", value_parser = humantime::parse_duration, value_name = "TIME")]
    delay: Duration,
    /// Each way takes up to this much more. It drifts, so that packets keep their order.
    #[arg(long, value_parser = humantime::parse_duration, value_name = "TIME")]
    jitter: Option<Duration>,
    /// Every packet draws a jitter of its own instead, and may overtake others.
    #[arg(long, requires = "jitter")]
    jitter_reorders: bool,
    /// Percent of packets that are lost each way, at random.
    #[arg(long, default_value_t = 0.0, value_name = "PERCENT")]
    loss: f64,
    /// Lost packets come in rows of this length, on average, instead of one by one.
    #[arg(long, value_name = "PACKETS")]
    burst: Option<f64>,
    /// Bandwidth of each way in Mbit/s, headers included; as fast as the machine without it.
    #[arg(long, value_name = "MBIT")]
    rate: Option<f64>,
    /// Another bandwidth from home to the outside: --rate 40 --rate-up 10 is a DSL line at home.
    #[arg(long, requires = "rate", value_name = "MBIT")]
    rate_up: Option<f64>,
    /// What may wait for the bandwidth before packets are dropped: a time that it takes to empty (100ms), or a number of
    /// packets (500).
    #[arg(long, default_value = "100ms", value_name = "TIME|PACKETS")]
    queue: Queue,
    /// Another queue from home to the outside.
    #[arg(long, value_name = "TIME|PACKETS")]
    queue_up: Option<Queue>,
    /// Bandwidths by the clock, over and over, in place of --rate: 20:3s,5:3s is 20 Mbit/s for 3 s, then 5 for 3 s, then 20
    /// again. A queue that is given as a time is that of the first.
    #[arg(long, value_delimiter = ',', value_name = "MBIT:TIME,…", conflicts_with_all = ["rate", "rate_up"])]
    rates: Vec<Step>,
    /// Nothing is sent for this long, at the end of every --pause-every, and waits in the queue, as on a radio that is busy.
    #[arg(long, value_parser = humantime::parse_duration, requires = "pause_every", value_name = "TIME")]
    pause: Option<Duration>,
    /// From one pause to the next.
    #[arg(long, value_parser = humantime::parse_duration, requires = "pause", value_name = "TIME")]
    pause_every: Option<Duration>,
    /// Percent of packets that come 5 ms late, so that others overtake them.
    #[arg(long, default_value_t = 0.0, value_name = "PERCENT")]
    reorder: f64,
    /// Percent of packets that come twice.
    #[arg(long, default_value_t = 0.0, value_name = "PERCENT")]
    duplicate: f64,
    /// Where chance begins: with the same seed the same packets meet the same fate.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// The length of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Queue {
    Time(Duration),
    Packets(usize),
}

/// A bandwidth, and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Step {
    mbit: f64,
    lasts: Duration,
}

impl LinkFlags {
    /// The link, or what is wrong with it.
    pub fn config(&self) -> Result<LinkConfig> {
        let first = self.rates.first().map(|step| step.mbit);
        let rate = self.rate.or(first);
        Ok(LinkConfig {
            up: self.shape(self.rate_up.or(rate), self.queue_up.unwrap_or(self.queue))?,
            down: self.shape(rate, self.queue)?,
            seed: self.seed,
        })
    }

    fn shape(&self, mbit: Option<f64>, queue: Queue) -> Result<Shape> {
        let loss = share("--loss", self.loss)?;
        let reorder = share("--reorder", self.reorder)?;
        Ok(Shape {
            delay: self.delay,
            jitter: self.jitter.map(|most| Jitter {
                most,
                reorders: self.jitter_reorders,
            }),
            loss: match self.burst {
                Some(length) => {
                    ensure!(length >= 1.0, "--burst: at least 1");
                    ensure!(loss < 1.0, "--loss: below 100 where it comes in bursts");
                    Loss::Bursts {
                        share: loss,
                        length,
                    }
                }
                None => Loss::Random(loss),
            },
            bottleneck: mbit
                .map(|mbit| Ok::<_, anyhow::Error>(queue.before(bits(mbit)?)))
                .transpose()?,
            timetable: self.timetable()?,
            pause: self.pause()?,
            reorder: (reorder > 0.0).then_some(Reorder {
                share: reorder,
                by: LATE,
            }),
            duplicate: share("--duplicate", self.duplicate)?,
        })
    }

    fn timetable(&self) -> Result<Option<Timetable>> {
        if self.rates.is_empty() {
            return Ok(None);
        }
        let step = |step: &Step| {
            Ok(RateStep {
                rate: bits(step.mbit)?,
                lasts: step.lasts,
            })
        };
        let steps: Result<_> = self.rates.iter().map(step).collect();
        let table = Timetable::new(steps?).context("--rates: each lasts longer than nothing")?;
        Ok(Some(table))
    }

    fn pause(&self) -> Result<Option<Pause>> {
        let (Some(length), Some(every)) = (self.pause, self.pause_every) else {
            return Ok(None);
        };
        ensure!(
            nanos(length) < nanos(every),
            "--pause: shorter than --pause-every"
        );
        Ok(Some(Pause { every, length }))
    }
}

impl Queue {
    fn before(self, rate: u64) -> Bottleneck {
        match self {
            Self::Time(longest) => Bottleneck::new(rate, longest),
            Self::Packets(count) => Bottleneck::packets(rate, count),
        }
    }
}

impl FromStr for Queue {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Ok(count) = text.parse() {
            return Ok(Self::Packets(count));
        }
        let time = humantime::parse_duration(text);
        let time = time.context("a time, as 100ms, or a number of packets, as 500")?;
        Ok(Self::Time(time))
    }
}

impl FromStr for Step {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts = text.split_once(':');
        let (mbit, lasts) = parts.context("a bandwidth and a time, as 20:3s")?;
        Ok(Self {
            mbit: mbit.parse().context("Mbit/s come first, as in 20:3s")?,
            lasts: humantime::parse_duration(lasts).context("a time comes second, as in 20:3s")?,
        })
    }
}

fn share(flag: &str, percent: f64) -> Result<f64> {
    ensure!(
        (0.0..=100.0).contains(&percent),
        "{flag}: from 0 to 100 percent"
    );
    Ok(percent / 100.0)
}

fn bits(mbit: f64) -> Result<u64> {
    ensure!(
        (0.001..=1e6).contains(&mbit),
        "a bandwidth is from 0.001 to 1,000,000 Mbit/s"
    );
    Ok((mbit * 1e6).round() as u64)
}

/// By how much a packet is late that others are to overtake.
const LATE: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        link: LinkFlags,
    }

    fn parse(flags: &str) -> Result<LinkConfig> {
        let words = ["link"].into_iter().chain(flags.split_whitespace());
        Cli::try_parse_from(words)?.link.config()
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn every_flag_is_a_property_of_the_link() -> Result<()> {
        let config = parse(
            "--delay 12ms --jitter 3ms --jitter-reorders --loss 1 --rate 40 --rate-up 10 --queue 600 --queue-up 50ms \
             --pause 30ms --pause-every 200ms --reorder 2 --duplicate 3 --seed 9",
        )?;
        let down = Shape {
            delay: 12 * MS,
            jitter: Some(Jitter {
                most: 3 * MS,
                reorders: true,
            }),
            loss: Loss::Random(0.01),
            bottleneck: Some(Bottleneck::packets(40_000_000, 600)),
            timetable: None,
            pause: Some(Pause {
                every: 200 * MS,
                length: 30 * MS,
            }),
            reorder: Some(Reorder {
                share: 0.02,
                by: LATE,
            }),
            duplicate: 0.03,
        };
        let up = Shape {
            bottleneck: Some(Bottleneck::new(10_000_000, 50 * MS)),
            ..down.clone()
        };
        assert_eq!(config, LinkConfig { up, down, seed: 9 });
        Ok(())
    }

    #[test]
    fn rates_are_a_timetable_with_the_queue_of_the_first() -> Result<()> {
        let config = parse("--rates 20:3s,5:1500ms --queue 300")?;
        let step = |rate, millis| RateStep {
            rate,
            lasts: millis * MS,
        };
        let table = Timetable::new(vec![step(20_000_000, 3000), step(5_000_000, 1500)]);
        assert_eq!(config.up.timetable, table);
        assert_eq!(config.up, config.down);
        let first = Bottleneck::packets(20_000_000, 300);
        assert_eq!(config.down.bottleneck, Some(first));
        Ok(())
    }

    #[test]
    fn nothing_asked_is_a_plain_line() -> Result<()> {
        let plain = Shape {
            delay: 20 * MS,
            loss: Loss::Random(0.0),
            ..Shape::default()
        };
        assert_eq!(parse("")?, LinkConfig::symmetric(plain, 1));
        let bursts = Loss::Bursts {
            share: 0.02,
            length: 5.0,
        };
        assert_eq!(parse("--loss 2 --burst 5")?.up.loss, bursts);
        Ok(())
    }

    #[test]
    fn what_no_line_can_be_is_refused() {
        for wrong in [
            "--loss 101",
            "--loss -1",
            "--loss 100 --burst 3",
            "--burst 0.5",
            "--duplicate nan",
            "--rate 0",
            "--rate inf",
            "--rates 20",
            "--rates 20:0s",
            "--rates x:3s",
            "--rates 20:3s --rate 5",
            "--rate-up 5",
            "--queue many",
            "--queue -3",
            "--pause 30ms",
            "--pause-every 30ms",
            "--pause 30ms --pause-every 30ms",
            "--jitter-reorders",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
