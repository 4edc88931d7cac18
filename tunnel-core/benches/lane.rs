//! What encryption costs a lane: loopback TCP, both ends in this process, several rounds of every way in turn.
//!
//! `cargo bench -p tunnel-core --bench lane [-- ROUNDS MIB [PART OF A NAME]]`
#![expect(clippy::print_stdout, reason = "a bench prints its figures")]

use std::{
    fs, io,
    pin::Pin,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional, copy_bidirectional_with_sizes},
    net::{TcpListener, TcpStream},
};
use tunnel_core::bench_support::{self, Receiver, Sender, Suite};

fn main() -> io::Result<()> {
    // Cargo adds `--bench`.
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench");
    let mut number = |default| match arguments.next().map(|argument| argument.parse()) {
        None => Ok(default),
        Some(parsed) => parsed.map_err(io::Error::other),
    };
    let (rounds, total) = (number(7)?, number(1_024)? << 20);
    let wanted = arguments.next().unwrap_or_default();
    let ways: Vec<&Way> = (WAYS.iter())
        .filter(|way| way.name.contains(&wanted))
        .collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut figures: Vec<Figures> = ways.iter().map(|_| Figures::default()).collect();
    for round in 0..=rounds {
        for (way, figures) in ways.iter().zip(&mut figures) {
            let (cpu, start) = (cpu_seconds(), Instant::now());
            runtime.block_on((way.run)(total))?;
            let seconds = start.elapsed().as_secs_f64();
            // The first round warms caches, sockets' windows and the allocator up.
            if round > 0 {
                figures.rates.push(total as f64 / 1e6 / seconds);
                figures
                    .cpu
                    .push((cpu_seconds() - cpu) / (total as f64 / 1e9));
            }
        }
    }
    let plain = median(&mut figures[0].rates);
    println!(
        "{rounds} rounds of {} MiB, medians (lowest–highest)",
        total >> 20
    );
    println!(
        "{:<44} {:>6} {:>15} {:>9} {:>9}",
        "", "MB/s", "", "of plain", "CPU s/GB"
    );
    for (way, figures) in ways.iter().zip(&mut figures) {
        let rate = median(&mut figures.rates);
        println!(
            "{:<44} {rate:>6.0} {:>15} {:>9.2} {:>9.2}",
            way.name,
            format!("({:.0}–{:.0})", figures.rates[0], figures.rates[rounds - 1]),
            rate / plain,
            median(&mut figures.cpu),
        );
    }
    Ok(())
}

struct Way {
    name: &'static str,
    run: fn(usize) -> Run,
}

type Run = Pin<Box<dyn Future<Output = io::Result<()>>>>;

#[derive(Default)]
struct Figures {
    rates: Vec<f64>,
    cpu: Vec<f64>,
}

const WAYS: [Way; 8] = [
    Way {
        name: "TCP, 64 KiB buffers",
        run: |total| Box::pin(plain(total, 64 * 1024)),
    },
    Way {
        name: "TCP, 256 KiB buffers",
        run: |total| Box::pin(plain(total, 256 * 1024)),
    },
    Way {
        name: "lane, AES-256-GCM",
        run: |total| Box::pin(encrypted(total, Suite::Aes256Gcm, false)),
    },
    Way {
        name: "lane, AES-256-GCM, tuned (BBR)",
        run: |total| Box::pin(encrypted(total, Suite::Aes256Gcm, true)),
    },
    Way {
        name: "lane, ChaCha20-Poly1305",
        run: |total| Box::pin(encrypted(total, Suite::ChaCha20Poly1305, false)),
    },
    Way {
        name: "relay, copy_bidirectional, 8 KiB (2 hops)",
        run: |total| Box::pin(relayed(total, None)),
    },
    Way {
        name: "relay, copy_bidirectional, 256 KiB (2 hops)",
        run: |total| Box::pin(relayed(total, Some(256 * 1024))),
    },
    Way {
        name: "tunnel, AES-256-GCM lane (3 hops)",
        run: |total| Box::pin(tunnelled(total)),
    },
];

/// Source to sink.
async fn plain(total: usize, size: usize) -> io::Result<()> {
    let (near, far) = pair().await?;
    let source = tokio::spawn(pour(near, total, size));
    drain(far, total, size).await?;
    source.await?
}

/// Source to sink through a plain relay.
async fn relayed(total: usize, size: Option<usize>) -> io::Result<()> {
    let ((near, mut inner), (mut outer, far)) = (pair().await?, pair().await?);
    let relay = tokio::spawn(async move {
        match size {
            None => copy_bidirectional(&mut inner, &mut outer).await,
            Some(size) => copy_bidirectional_with_sizes(&mut inner, &mut outer, size, size).await,
        }
    });
    let source = tokio::spawn(pour(near, total, 64 * 1024));
    drain(far, total, 64 * 1024).await?;
    source.await??;
    relay.await?.map(drop)
}

/// Source to sink through one lane.
async fn encrypted(total: usize, suite: Suite, tuned: bool) -> io::Result<()> {
    let (near, far) = pair().await?;
    if tuned {
        bench_support::tuned(&near);
        bench_support::tuned(&far);
    }
    let [(mut sender, near), (far, mut receiver)] = bench_support::lane(near, far, suite)?;
    let source = tokio::spawn(async move {
        let chunk = [Bytes::from(vec![1; 256 * 1024])];
        for _ in 0..total / chunk[0].len() {
            sender.send(&chunk).await?;
        }
        sender.shutdown().await?;
        Ok::<_, io::Error>((sender, near))
    });
    let mut left = total;
    while let Some(body) = receiver.recv().await? {
        left -= body.len();
    }
    assert_eq!(left, 0);
    drop((source.await??, far));
    Ok(())
}

/// Source, by TCP to one end of a lane, by the lane to the other, by TCP to the sink: what a player's stream does.
async fn tunnelled(total: usize) -> io::Result<()> {
    let (near, ingress) = pair().await?;
    let (egress, far) = pair().await?;
    let (left, right) = pair().await?;
    let [(sender, left), (right, receiver)] = bench_support::lane(left, right, Suite::Aes256Gcm)?;
    let source = tokio::spawn(pour(near, total, 64 * 1024));
    let up = tokio::spawn(enter(ingress, sender));
    let down = tokio::spawn(leave(receiver, egress));
    drain(far, total, 64 * 1024).await?;
    source.await??;
    drop((up.await??, down.await??, left, right));
    Ok(())
}

async fn enter(mut ingress: TcpStream, mut sender: Sender) -> io::Result<Sender> {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(256 * 1024);
        if ingress.read_buf(&mut buffer).await? == 0 {
            sender.shutdown().await?;
            return Ok(sender);
        }
        sender.send(&[buffer.split().freeze()]).await?;
    }
}

async fn leave(mut receiver: Receiver, mut egress: TcpStream) -> io::Result<Receiver> {
    let mut bodies = Vec::with_capacity(16);
    while let Some(body) = receiver.recv().await? {
        bodies.push(body);
        while bodies.len() < 16 {
            match receiver.recv_ready()? {
                Some(body) => bodies.push(body),
                None => break,
            }
        }
        write_all_vectored(&mut egress, &bodies).await?;
        bodies.clear();
    }
    egress.shutdown().await?;
    Ok(receiver)
}

async fn write_all_vectored(to: &mut TcpStream, bodies: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<_> = bodies.iter().map(|body| io::IoSlice::new(body)).collect();
    let mut slices = &mut slices[..];
    while !slices.is_empty() {
        let written = to.write_vectored(slices).await?;
        io::IoSlice::advance_slices(&mut slices, written);
    }
    Ok(())
}

async fn pour(mut to: TcpStream, total: usize, size: usize) -> io::Result<()> {
    let buffer = vec![1; size];
    for _ in 0..total / size {
        to.write_all(&buffer).await?;
    }
    to.shutdown().await
}

async fn drain(mut from: TcpStream, total: usize, size: usize) -> io::Result<()> {
    let (mut buffer, mut left) = (vec![0; size], total);
    loop {
        match from.read(&mut buffer).await? {
            0 => break,
            read => left -= read,
        }
    }
    assert_eq!(left, 0);
    Ok(())
}

async fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let near = TcpStream::connect(listener.local_addr()?);
    let (near, far) = tokio::join!(near, listener.accept());
    Ok((near?, far?.0))
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// User and system time of this process; 0 where there is no /proc.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = (fields.split_whitespace().skip(11).take(2))
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * 10).as_secs_f64()
}
