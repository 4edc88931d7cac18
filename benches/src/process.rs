//! Processes that a measurement starts, and what they cost.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;

use crate::{
    topology::{Side, Topology},
    worker::{Worker, say::Failed},
};

/// A process that ends when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: Option<Receiver<String>>,
}

impl Process {
    /// Starts a program that says nothing.
    pub fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.stderr(Stdio::null()).spawn();
        let child = child.with_context(|| format!("cannot start {:?}", command.get_program()))?;
        Ok(Self { child, lines: None })
    }

    /// Starts this program again, as something else.
    pub fn worker(topology: &dyn Topology, side: Side, worker: &Worker) -> Result<Self> {
        let mut command = topology.command(side, &env::current_exe()?);
        command.arg("worker").arg(serde_json::to_string(worker)?);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.get_program()))?;
        let stdout = child.stdout.take().context("it has an output")?;
        let (sender, lines) = mpsc::sync_channel(LINES);
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines() {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let lines = Some(lines);
        Ok(Self { child, lines })
    }

    /// The next thing that a worker says.
    pub fn says<T: DeserializeOwned>(&mut self, patience: Duration) -> Result<T> {
        let lines = self.lines.as_ref().context("it says nothing")?;
        match lines.recv_timeout(patience) {
            Ok(line) => match serde_json::from_str(&line) {
                Ok(said) => Ok(said),
                Err(error) => match serde_json::from_str::<Failed>(&line) {
                    Ok(failed) => bail!(failed.error),
                    Err(_) => Err(error.into()),
                },
            },
            Err(mpsc::RecvTimeoutError::Timeout) => {
                bail!("nothing came for {} s", patience.as_secs())
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                bail!("it has ended: {}", self.child.wait()?)
            }
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// User and system time of all its threads, in seconds. `None` where there is no `/proc`.
    pub fn cpu(&self) -> Option<f64> {
        let stat = fs::read_to_string(self.proc("stat")).ok()?;
        // The name may hold spaces; the fields behind it are counted from its bracket: 14 and 15 of proc(5).
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        let ticks = |place: usize| fields.get(place)?.parse::<f64>().ok();
        Some((ticks(11)? + ticks(12)?) / TICKS)
    }

    /// Resident memory in MiB: now, and the most since [`forget_peak`](Self::forget_peak).
    pub fn memory(&self) -> Option<(f64, f64)> {
        let status = fs::read_to_string(self.proc("status")).ok()?;
        let kib = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse::<f64>().ok()
        };
        Some((kib("VmRSS:")? / 1024.0, kib("VmHWM:")? / 1024.0))
    }

    /// The peak of memory starts again from what is resident now.
    pub fn forget_peak(&self) {
        // Where it is not allowed, the peak stays that of the whole life.
        drop(fs::write(self.proc("clear_refs"), "5"));
    }

    fn proc(&self, file: &str) -> String {
        format!("/proc/{}/{file}", self.child.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What a program prints when it is asked for something, such as its version.
pub fn output(topology: &dyn Topology, program: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = topology.command(Side::Outside, program);
    let output = command.args(arguments).stdin(Stdio::null()).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A worker says two or three lines.
const LINES: usize = 8;
/// Linux counts CPU time in hundredths of a second for programs, whatever its own clock is.
const TICKS: f64 = 100.0;
