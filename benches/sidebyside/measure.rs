//! What is measured.

use std::{thread, time::Duration};

use anyhow::Result;

use crate::{column::Column, load, load::udp};

/// One thing to measure; it yields one figure or several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Measurement {
    Memory,
    Tcp1,
    Tcp8,
    TcpTrip,
    UdpTrip,
    UdpFull,
    Packets,
    Connections,
}

/// A row of the table: its name in the file, its title with the unit, and how many decimals it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) key: &'static str,
    pub(crate) title: &'static str,
    pub(crate) decimals: usize,
}

pub(crate) type Figures = Vec<(Row, f64)>;

impl Measurement {
    /// Memory comes first, while the processes are fresh: what they have freed they would use again.
    pub(crate) const ALL: [Self; 8] = [
        Self::Memory,
        Self::Tcp1,
        Self::Tcp8,
        Self::TcpTrip,
        Self::UdpTrip,
        Self::UdpFull,
        Self::Packets,
        Self::Connections,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Tcp1 => "tcp1",
            Self::Tcp8 => "tcp8",
            Self::TcpTrip => "tcp-trip",
            Self::UdpTrip => "udp-trip",
            Self::UdpFull => "udp-full",
            Self::Packets => "packets",
            Self::Connections => "connections",
        }
    }

    pub(crate) fn run(self, column: &Column, length: Duration, idle: usize) -> Result<Figures> {
        let to = column.address;
        Ok(match self {
            Self::Memory => memory(column, idle, SETTLE.min(length * 3))?,
            Self::Tcp1 => throughput(column, 1, length)?,
            Self::Tcp8 => throughput(column, 8, length)?,
            Self::TcpTrip => trips([TCP_P50, TCP_P99], load::round_trips(to, length)?),
            Self::UdpTrip => trips([UDP_P50, UDP_P99], udp::round_trips(to, length)?),
            Self::UdpFull => {
                let before = column.cpu();
                // Two seconds and more: a 99th percentile of 40,000.
                let length = length * 2;
                let (all, lost) = udp::full_server(to, length)?;
                let mut figures = trips([FULL_P50, FULL_P99], all);
                figures.push((FULL_LOSS, lost * 100.0));
                if let (Some(before), Some(after)) = (before, column.cpu()) {
                    let busy = (after - before) / length.as_secs_f64();
                    figures.push((FULL_CPU, busy * 100.0));
                }
                figures
            }
            Self::Packets => vec![(PACKETS, udp::packets(to, length)? / 1e3)],
            Self::Connections => vec![(CONNECTIONS, load::connections(to, length)?)],
        })
    }
}

fn throughput(column: &Column, streams: usize, length: Duration) -> Result<Figures> {
    let before = column.cpu();
    let (bytes, seconds) = load::throughput(column.address, streams, length)?;
    let (rate, cpu) = if streams == 1 {
        (TCP1, CPU1)
    } else {
        (TCP8, CPU8)
    };
    let mut figures = vec![(rate, bytes * 8.0 / 1e9 / seconds)];
    if let (Some(before), Some(after)) = (before, column.cpu()) {
        figures.push((cpu, (after - before) / (bytes / 1e9)));
    }
    Ok(figures)
}

fn memory(column: &Column, idle: usize, settle: Duration) -> Result<Figures> {
    let (Some(relay), Some(client)) = (&column.relay, &column.client) else {
        return Ok(Vec::new());
    };
    let (relay_before, client_before) = (relay.memory(), client.memory());
    let open = load::idle(column.address, idle)?;
    // Whoever gives memory back a moment later gets the moment.
    thread::sleep(settle);
    let (relay_after, client_after) = (relay.memory(), client.memory());
    drop(open);
    let mut figures = Vec::new();
    for (row, before, after) in [
        (MEMORY_RELAY, relay_before, relay_after),
        (MEMORY_CLIENT, client_before, client_after),
    ] {
        if let (Some(before), Some(after)) = (before, after) {
            figures.push((row, (after - before) / 1e6));
        }
    }
    // The ends of all of them pass before the next thing is measured.
    thread::sleep(settle);
    Ok(figures)
}

/// Median and 99th percentile, in milliseconds.
fn trips(rows: [Row; 2], mut trips: Vec<f64>) -> Figures {
    trips.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| {
        let place = (trips.len() as f64 * share) as usize;
        trips.get(place).map(|trip| trip * 1e3)
    };
    let figures = rows.into_iter().zip([at(0.5), at(0.99)]);
    figures
        .filter_map(|(row, figure)| Some((row, figure?)))
        .collect()
}

const SETTLE: Duration = Duration::from_millis(1500);

const fn row(key: &'static str, title: &'static str, decimals: usize) -> Row {
    Row {
        key,
        title,
        decimals,
    }
}

const TCP1: Row = row("tcp1_gbit_s", "TCP 1 stream, Gbit/s", 2);
const CPU1: Row = row("tcp1_cpu_s_gb", "  CPU s/GB, relay + client", 2);
const TCP8: Row = row("tcp8_gbit_s", "TCP 8 streams, Gbit/s", 2);
const CPU8: Row = row("tcp8_cpu_s_gb", "  CPU s/GB, relay + client ", 2);
const TCP_P50: Row = row("tcp_trip_p50_ms", "TCP round trip p50, ms", 3);
const TCP_P99: Row = row("tcp_trip_p99_ms", "TCP round trip p99, ms", 3);
const UDP_P50: Row = row("udp_trip_p50_ms", "UDP round trip p50, ms", 3);
const UDP_P99: Row = row("udp_trip_p99_ms", "UDP round trip p99, ms", 3);
const FULL_P50: Row = row("udp_full_p50_ms", "UDP 100 players p50, ms", 3);
const FULL_P99: Row = row("udp_full_p99_ms", "UDP 100 players p99, ms", 3);
const FULL_LOSS: Row = row("udp_full_loss_percent", "UDP 100 players loss, %", 3);
const FULL_CPU: Row = row("udp_full_cpu_percent", "  CPU %, relay + client", 0);
const PACKETS: Row = row("packets_k_s", "1,000 packets/s there and back", 1);
const CONNECTIONS: Row = row("connections_s", "connections/s", 0);
const MEMORY_RELAY: Row = row("memory_relay_mb", "2,000 idle connections, relay, MB", 1);
const MEMORY_CLIENT: Row = row("memory_client_mb", "2,000 idle connections, client, MB", 1);
