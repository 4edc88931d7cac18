//! Players. Plain threads and blocking calls where there are few of them, so that they cost less than what is measured.

pub(crate) mod udp;

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};

use crate::roles::{BLOCK, ECHO, SINK, TALK};

/// Bytes that `streams` connections carried to the game server, and in how many seconds.
pub(crate) fn throughput(to: SocketAddr, streams: usize, length: Duration) -> Result<(f64, f64)> {
    let start = Instant::now();
    let totals = in_threads(streams, move |_| {
        let mut stream = TcpStream::connect(to)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(&[SINK])?;
        let block = vec![0x5a; BLOCK];
        let mut sent = 0_u64;
        while start.elapsed() < length {
            stream.write_all(&block)?;
            sent += block.len() as u64;
        }
        stream.shutdown(Shutdown::Write)?;
        let mut total = [0; 8];
        stream.read_exact(&mut total)?;
        ensure!(u64::from_be_bytes(total) == sent, "bytes were lost");
        Ok(sent)
    })?;
    let bytes = totals.into_iter().sum::<u64>() as f64;
    Ok((bytes, start.elapsed().as_secs_f64()))
}

/// Round trips of 64 bytes over one connection, in seconds.
pub(crate) fn round_trips(to: SocketAddr, length: Duration) -> Result<Vec<f64>> {
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[TALK])?;
    let (sent, mut received) = ([0x5a; 64], [0; 64]);
    let mut trips = Vec::new();
    let start = Instant::now();
    for trip in 0.. {
        let began = Instant::now();
        stream.write_all(&sent)?;
        stream.read_exact(&mut received)?;
        // The first few wait for the connection behind this one.
        if trip >= 20 {
            trips.push(began.elapsed().as_secs_f64());
        }
        if start.elapsed() > length && trips.len() > 20 {
            break;
        }
    }
    Ok(trips)
}

/// Connections a second: connect, one byte there and back, close; eight players side by side.
pub(crate) fn connections(to: SocketAddr, length: Duration) -> Result<f64> {
    let start = Instant::now();
    let counts = in_threads(8, move |_| {
        let mut count = 0_u64;
        while start.elapsed() < length {
            let mut stream = TcpStream::connect(to)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(&[ECHO])?;
            stream.read_exact(&mut [0])?;
            count += 1;
        }
        Ok(count)
    })?;
    Ok(counts.into_iter().sum::<u64>() as f64 / start.elapsed().as_secs_f64())
}

/// Connections that have each carried a byte and now say nothing.
pub(crate) fn idle(to: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    let next = Arc::new(AtomicUsize::new(0));
    let opened = in_threads(16, move |_| {
        let mut mine = Vec::new();
        while next.fetch_add(1, Ordering::Relaxed) < count {
            let mut stream = TcpStream::connect(to)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(&[ECHO])?;
            stream.read_exact(&mut [0])?;
            mine.push(stream);
        }
        Ok(mine)
    })?;
    Ok(opened.into_iter().flatten().collect())
}

/// Runs `work` in so many threads and gathers what they return.
fn in_threads<T: Send + 'static>(
    count: usize,
    work: impl Fn(usize) -> Result<T> + Send + Sync + 'static,
) -> Result<Vec<T>> {
    let work = Arc::new(work);
    let threads: Vec<_> = (0..count)
        .map(|place| {
            let work = work.clone();
            thread::spawn(move || work(place))
        })
        .collect();
    threads
        .into_iter()
        .map(|thread| thread.join().map_err(|_| anyhow!("a player panicked"))?)
        .collect()
}

/// Longer than anything should take: a hang fails.
const PATIENCE: Duration = Duration::from_secs(20);
