//! What a process holds, read from `/proc` once in a while.

use std::{
    fmt::Write as _,
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

/// A process from its start to its end.
#[derive(Debug)]
pub(crate) struct Life {
    /// `relay`, `client 1` or `client 2`.
    pub(crate) of: &'static str,
    pub(crate) samples: Vec<Sample>,
}

/// A process at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    /// Since the soak's start.
    pub(crate) at: Duration,
    /// Resident set, in KiB.
    pub(crate) memory: u64,
    pub(crate) descriptors: u64,
    pub(crate) threads: u64,
    /// User and system time so far.
    pub(crate) cpu: Duration,
}

impl Sample {
    /// Of the process with this id.
    pub(crate) fn take(pid: u32, start: Instant) -> io::Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let missing = || io::Error::from(io::ErrorKind::InvalidData);
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // Behind the name, which is in brackets and may hold anything: state is field 3, the times are 14 and 15.
        let fields = stat.rsplit(") ").next().ok_or_else(missing)?;
        let ticks: u64 = fields
            .split(' ')
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        Ok(Self {
            at: start.elapsed(),
            memory: number("VmRSS:").ok_or_else(missing)?,
            descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64,
            threads: number("Threads:").ok_or_else(missing)?,
            cpu: Duration::from_millis(ticks * 1000 / TICKS),
        })
    }
}

/// One line for each sample.
pub(crate) fn write_csv(path: &Path, lives: &[Life]) -> io::Result<()> {
    let mut text =
        String::from("process,life,seconds,memory_kib,descriptors,threads,cpu_seconds\n");
    for (number, life) in lives.iter().enumerate() {
        for sample in &life.samples {
            let Sample {
                at,
                memory,
                descriptors,
                threads,
                cpu,
            } = sample;
            let (at, cpu) = (at.as_secs_f64(), cpu.as_secs_f64());
            // A string takes everything.
            _ = writeln!(
                text,
                "{},{number},{at:.1},{memory},{descriptors},{threads},{cpu:.2}",
                life.of
            );
        }
    }
    fs::write(path, text)
}

/// Clock ticks a second: what Linux tells every program, on every machine of today.
const TICKS: u64 = 100;
