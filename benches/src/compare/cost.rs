//! What a measurement costs the processes of a column.

use std::time::Instant;

use super::{
    data::{Figures, Metric},
    running::Running,
};
use crate::load::{Load, Seen};

/// What both processes of a column have used so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    at: Instant,
    /// CPU seconds of relay and client.
    cpu: [Option<f64>; 2],
    /// MiB of memory of relay and client: now, and at the most.
    memory: [Option<(f64, f64)>; 2],
}

impl Cost {
    pub(super) fn of(running: &Running) -> Self {
        let processes = running.processes();
        Self {
            at: Instant::now(),
            cpu: processes.map(|process| process?.cpu()),
            memory: processes.map(|process| process?.memory()),
        }
    }

    pub(super) fn spent(&self, after: &Self, load: &Load, seen: &Seen, figures: &mut Figures) {
        let packets = (seen.sent + seen.received) as f64;
        let gigabytes = seen.bytes as f64 / 1e9;
        // Seconds per GB, seconds per million, microseconds each.
        let per = match load {
            Load::Bulk(_) => Some((CPU_PER_GB, gigabytes)),
            Load::Game(_) | Load::Packets { .. } => Some((CPU_PER_PACKET, packets / 1e6)),
            Load::Trips { .. } | Load::Connections { .. } => {
                Some((CPU_PER_EVENT, seen.events as f64 / 1e6))
            }
            _ => None,
        };
        let length = (after.at - self.at).as_secs_f64();
        for side in 0..2 {
            let (Some(before), Some(after)) = (self.cpu[side], after.cpu[side]) else {
                continue;
            };
            let spent = after - before;
            figures.insert(CPU[side], spent / length * 100.0);
            if let Some((metrics, amount)) = per
                && amount > 0.0
            {
                figures.insert(metrics[side], spent / amount);
            }
        }
    }

    pub(super) fn grown(&self, after: &Self, load: &Load, seen: &Seen, figures: &mut Figures) {
        for side in 0..2 {
            let (Some((before, _)), Some((now, peak))) = (self.memory[side], after.memory[side])
            else {
                continue;
            };
            figures.insert(PEAK[side], peak);
            if matches!(load, Load::Idle { .. }) && seen.events > 0 {
                figures.insert(GROWTH[side], (now - before) * 1.048_576);
                figures.insert(EACH[side], (now - before) * 1024.0 / seen.events as f64);
            }
        }
    }
}

const CPU_PER_GB: [Metric; 2] = [Metric::CpuPerGbRelay, Metric::CpuPerGbClient];
const CPU_PER_PACKET: [Metric; 2] = [Metric::CpuPerPacketRelay, Metric::CpuPerPacketClient];
const CPU_PER_EVENT: [Metric; 2] = [Metric::CpuPerEventRelay, Metric::CpuPerEventClient];
const CPU: [Metric; 2] = [Metric::CpuRelay, Metric::CpuClient];
const PEAK: [Metric; 2] = [Metric::PeakRelay, Metric::PeakClient];
const EACH: [Metric; 2] = [Metric::EachRelay, Metric::EachClient];
const GROWTH: [Metric; 2] = [Metric::GrowthRelay, Metric::GrowthClient];
