//! Whether it stayed flat, and whether anything was lost that should not have been.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::{
    plan::Blow,
    run::Record,
    sample::{Life, Sample},
    tally::Losses,
};

type Value = fn(&Sample) -> u64;

/// The outcome, line by line.
#[derive(Debug)]
pub(crate) struct Verdict {
    lines: Vec<(Mark, String)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Good,
    Bad,
    /// Said, not judged.
    Info,
}

impl Verdict {
    pub(crate) fn is_good(&self) -> bool {
        self.lines.iter().all(|(mark, _)| *mark != Mark::Bad)
    }

    fn add(&mut self, good: bool, line: String) {
        let mark = if good { Mark::Good } else { Mark::Bad };
        self.lines.push((mark, line));
    }

    fn tell(&mut self, line: String) {
        self.lines.push((Mark::Info, line));
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (mark, line) in &self.lines {
            let mark = match mark {
                Mark::Good => "ok ",
                Mark::Bad => "BAD",
                Mark::Info => "   ",
            };
            writeln!(f, "{mark} {line}")?;
        }
        let verdict = if self.is_good() {
            "flat, and nothing lost"
        } else {
            "NOT GOOD"
        };
        writeln!(f, "verdict: {verdict}")
    }
}

pub(crate) fn judge(record: &Record) -> Verdict {
    let mut verdict = Verdict { lines: Vec::new() };
    traffic(record, &mut verdict);
    recoveries(record, &mut verdict);
    for of in ["relay", "client 1", "client 2"] {
        let lives = record.lives.iter().filter(|life| life.of == of);
        if let Some(longest) = lives.max_by_key(|life| span(&life.samples)) {
            flatness(longest, record.length >= JUDGED_FROM, &mut verdict);
        }
    }
    for problem in &record.problems {
        verdict.add(false, problem.clone());
    }
    verdict
}

fn traffic(record: &Record, verdict: &mut Verdict) {
    let book = &record.book;
    let count = |which: &AtomicU64| which.load(Ordering::Relaxed);
    verdict.tell(format!(
        "{:.0} s: {} datagrams there and back, {} requests, {} visits, {:.1} MiB echoed over TCP",
        record.length.as_secs_f64(),
        count(&book.datagrams),
        count(&book.requests),
        count(&book.visits),
        count(&book.bulk_bytes) as f64 / f64::from(1 << 20),
    ));
    let wrong = count(&book.wrong);
    verdict.add(
        wrong == 0,
        format!("{wrong} answers that were wrong or came twice"),
    );
    let Losses {
        datagrams_explained,
        connections_explained,
        datagrams,
        connections,
    } = book.losses();
    verdict.tell(format!(
        "{datagrams_explained} datagrams and {connections_explained} connections lost to what was done to their way"
    ));
    let (stalls, stalled) = book.stalls();
    if stalls > 0 {
        verdict.tell(format!(
            "the machine stood still {stalls} times for more than 50 ms, {:.1} s altogether: datagrams of then count as above",
            stalled.as_secs_f64()
        ));
    }
    let allowed = if stalls > 0 {
        count(&book.datagrams) / PASSED_OVER
    } else {
        0
    };
    verdict.add(
        datagrams <= allowed && connections == 0,
        format!(
            "{datagrams} datagrams ({allowed} allowed) and {connections} connections lost although nobody had disturbed them"
        ),
    );
    for loss in book.unexplained() {
        verdict.tell(format!("  {loss}"));
    }
}

fn recoveries(record: &Record, verdict: &mut Verdict) {
    type Is = fn(&Blow) -> bool;
    let kinds: [(&str, Is, Option<Duration>); 5] = [
        (
            "relay killed",
            |blow| *blow == Blow::KillRelay,
            Some(RECOVERY),
        ),
        (
            "client killed",
            |blow| *blow == Blow::KillClient,
            Some(RECOVERY),
        ),
        ("black-out over", |blow| matches!(blow, Blow::Dark(_)), None),
        ("UDP back", |blow| matches!(blow, Blow::NoUdp(_)), None),
        ("services changed", |blow| *blow == Blow::Change, None),
    ];
    for (what, is, bound) in kinds {
        let happened = record.happened.iter().filter(|one| is(&one.blow));
        let mut times: Vec<_> = happened.map(|one| one.recovery).collect();
        times.sort();
        let (Some(median), Some(most)) = (times.get(times.len() / 2), times.last()) else {
            continue;
        };
        let line = format!(
            "{what} {} times: served again after {:.2} s (median), {:.2} s (longest){}",
            times.len(),
            median.as_secs_f64(),
            most.as_secs_f64(),
            bound.map_or(String::new(), |bound| format!(
                ", {} s allowed",
                bound.as_secs()
            )),
        );
        match bound {
            Some(bound) => verdict.add(*most <= bound, line),
            None => verdict.tell(line),
        }
    }
}

/// A process' first third after the warm-up beside its last third.
fn flatness(life: &Life, is_long: bool, verdict: &mut Verdict) {
    let Some((first, last)) = thirds(&life.samples) else {
        return verdict.tell(format!(
            "{}: did not live long enough to be judged",
            life.of
        ));
    };
    let lived = span(&life.samples);
    let is_judged = is_long && lived >= JUDGED_FROM / 2;
    let measures: [(&str, Value, Typical, f64, f64); 3] = [
        (
            "memory, KiB",
            |sample| sample.memory,
            // An allocator keeps what a burst needed, until another moves it: when bursts come is chance, how much they
            // need is not.
            most,
            MEMORY_SLACK_KIB,
            MEMORY_SHARE,
        ),
        (
            "descriptors",
            |sample| sample.descriptors,
            median,
            10.0,
            0.05,
        ),
        ("threads", |sample| sample.threads, median, 2.0, 0.0),
    ];
    for (what, value, typical, slack, share) in measures {
        let (before, after) = (typical(first, value), typical(last, value));
        let allowed = before + slack.max(before * share);
        let line = format!(
            "{}: {what}: {before:.0} in the first third, {after:.0} in the last ({allowed:.0} allowed); slope {:+.2} a minute",
            life.of,
            slope(warm(&life.samples), value) * 60.0,
        );
        if is_judged {
            verdict.add(after <= allowed, line);
        } else {
            verdict.tell(line + "; too short to be judged");
        }
    }
    let cpu = match (life.samples.first(), life.samples.last()) {
        (Some(first), Some(last)) => (last.cpu - first.cpu).as_secs_f64() / lived.as_secs_f64(),
        _ => 0.0,
    };
    verdict.tell(format!(
        "{}: {:.0} % of a core over {:.0} s",
        life.of,
        cpu * 100.0,
        lived.as_secs_f64()
    ));
}

/// Without the first fifth, in which caches and pools fill.
fn warm(samples: &[Sample]) -> &[Sample] {
    &samples[samples.len() / 5..]
}

/// The first and the last third of what is warm.
fn thirds(samples: &[Sample]) -> Option<(&[Sample], &[Sample])> {
    let warm = warm(samples);
    let third = warm.len() / 3;
    (third > 0).then(|| (&warm[..third], &warm[warm.len() - third..]))
}

/// What one number stands for many.
type Typical = fn(&[Sample], Value) -> f64;

fn most(samples: &[Sample], value: Value) -> f64 {
    samples
        .iter()
        .map(value)
        .max()
        .map_or(0.0, |most| most as f64)
}

fn median(samples: &[Sample], value: Value) -> f64 {
    let mut values: Vec<_> = samples.iter().map(value).collect();
    values.sort_unstable();
    values
        .get(values.len() / 2)
        .map_or(0.0, |value| *value as f64)
}

/// The least-squares line's rise, per second.
fn slope(samples: &[Sample], value: impl Fn(&Sample) -> u64) -> f64 {
    let count = samples.len() as f64;
    let points = || {
        samples
            .iter()
            .map(|sample| (sample.at.as_secs_f64(), value(sample) as f64))
    };
    let mean = |sum: f64| sum / count;
    let (x, y) = (
        mean(points().map(|(x, _)| x).sum()),
        mean(points().map(|(_, y)| y).sum()),
    );
    let (rise, run) = points().fold((0.0, 0.0), |(rise, run), (px, py)| {
        (rise + (px - x) * (py - y), run + (px - x) * (px - x))
    });
    if run > 0.0 { rise / run } else { 0.0 }
}

fn span(samples: &[Sample]) -> Duration {
    match (samples.first(), samples.last()) {
        (Some(first), Some(last)) => last.at - first.at,
        _ => Duration::ZERO,
    }
}

/// Where the machine stood still at all, its scheduler passes over one of the programs now and then while the others
/// run, which nobody sees: one datagram in this number may grow old by that.
const PASSED_OVER: u64 = 10_000;
/// A kill is healed within this.
const RECOVERY: Duration = Duration::from_secs(3);
/// Shorter runs show whether everything works; pools that still fill would look like leaks.
const JUDGED_FROM: Duration = Duration::from_secs(300);
/// The resident set may be this much larger in the last third than in the first: 5 %, or 1.5 MiB, what an allocator's
/// arenas breathe. A leak of 100 bytes for each of the 1,000 packets a second is five times that within ten minutes.
const MEMORY_SHARE: f64 = 0.05;
const MEMORY_SLACK_KIB: f64 = 1_536.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn life(memory: impl Fn(u64) -> u64) -> Life {
        let samples = (0..600).map(|second| Sample {
            at: Duration::from_secs(second),
            memory: memory(second),
            descriptors: 100,
            threads: 2,
            cpu: Duration::from_millis(second * 50),
        });
        Life {
            of: "relay",
            samples: samples.collect(),
        }
    }

    fn is_flat(life: &Life) -> bool {
        let mut verdict = Verdict { lines: Vec::new() };
        flatness(life, true, &mut verdict);
        assert!(verdict.lines.iter().any(|(mark, _)| *mark != Mark::Info));
        verdict.is_good()
    }

    #[test]
    fn a_level_curve_is_flat_however_it_began() {
        assert!(is_flat(&life(|second| 20_000 + second % 7 * 100)));
        assert!(is_flat(&life(|second| 20_000.min(10_000 + second * 200))));
    }

    #[test]
    fn a_leak_is_seen() {
        assert!(!is_flat(&life(|second| 20_000 + second * 10)));
        assert!(!is_flat(&life(|second| if second < 400 {
            20_000
        } else {
            23_000
        })));
    }

    #[test]
    fn the_slope_is_the_lines() {
        let life = life(|second| 5_000 + 3 * second);
        assert!((slope(&life.samples, |sample| sample.memory) - 3.0).abs() < 1e-9);
    }
}
