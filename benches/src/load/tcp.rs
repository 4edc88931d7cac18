//! Players over TCP. Plain threads and blocking calls, which cost less than what is measured.

use std::{
    io::{self, Read, Write},
    net::{TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{
    arrivals::now,
    histogram::Counter,
    job::Job,
    players::{connect, in_threads},
    seen::{Begins, Seen},
    series::Series,
};
use crate::worker::{
    say::say,
    target::{ECHO, TALK},
};

pub(super) fn probe(job: &Job, tcp: bool, udp: bool) -> Result<Seen> {
    say(&Begins)?;
    let start = Instant::now();
    loop {
        let tried = try_once(job, tcp, udp);
        match tried {
            Ok(()) => break,
            Err(error) if start.elapsed() > job.length() => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
    Ok(Seen::default())
}

fn try_once(job: &Job, tcp: bool, udp: bool) -> Result<()> {
    // Of a satellite's round trip, and one retransmission.
    let patience = Some(Duration::from_secs(3));
    if tcp {
        let mut tcp = TcpStream::connect(job.to)?;
        tcp.set_read_timeout(patience)?;
        tcp.write_all(&[ECHO])?;
        tcp.read_exact(&mut [0]).context("TCP")?;
    }
    if udp {
        let udp = UdpSocket::bind(job.source(0))?;
        udp.connect(job.to)?;
        udp.set_read_timeout(patience)?;
        udp.send(&[1; 16])?;
        udp.recv(&mut [0; 64]).context("UDP")?;
    }
    Ok(())
}

pub(super) fn trips(job: &Job, players: usize) -> Result<Seen> {
    // All at once: on a long path one after the other would take minutes.
    let this = job.clone();
    let connected = in_threads((0..players).collect(), move |player| {
        let mut stream = connect(&this, player)?;
        stream.write_all(&[TALK])?;
        // The first few wait for the connection behind this one.
        for _ in 0..WARM_TRIPS {
            trip(&mut stream)?;
        }
        Ok(stream)
    })?;
    say(&Begins)?;
    let (start, length) = (now(), job.length());
    let counted = in_threads(connected, move |mut stream| {
        let mut counter = Counter::new()?;
        let mut series = Series::new(start, length);
        while now() - start < length {
            let began = now();
            trip(&mut stream)?;
            let ended = now();
            counter.add(ended - began);
            series.add(ended, 1);
        }
        Ok((counter, series))
    })?;
    gather(start, length, counted)
}

fn trip(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(&[0x5a; 64])?;
    stream.read_exact(&mut [0; 64])
}

pub(super) fn connections(job: &Job, players: usize) -> Result<Seen> {
    say(&Begins)?;
    let (start, length) = (now(), job.length());
    // Each connection is another player's: the ports of one address would run out, as closed connections linger.
    let (next, this) = (AtomicUsize::new(0), job.clone());
    let counted = in_threads((0..players).collect(), move |_| {
        let mut counter = Counter::new()?;
        let mut series = Series::new(start, length);
        while now() - start < length {
            let began = now();
            let mut stream = connect(&this, next.fetch_add(1, Ordering::Relaxed))?;
            stream.write_all(&[ECHO])?;
            stream.read_exact(&mut [0])?;
            let ended = now();
            counter.add(ended - began);
            series.add(ended, 1);
        }
        Ok((counter, series))
    })?;
    gather(start, length, counted)
}

pub(super) fn idle(job: &Job, count: usize) -> Result<()> {
    say(&Begins)?;
    let start = Instant::now();
    let (next, this) = (Arc::new(AtomicUsize::new(0)), job.clone());
    let held = in_threads((0..OPENERS).collect(), move |_| {
        let mut mine = Vec::new();
        loop {
            let player = next.fetch_add(1, Ordering::Relaxed);
            if player >= count {
                return Ok(mine);
            }
            let mut stream = connect(&this, player)?;
            stream.write_all(&[ECHO])?;
            stream.read_exact(&mut [0])?;
            mine.push(stream);
        }
    })?;
    say(&Seen {
        seconds: start.elapsed().as_secs_f64(),
        events: held.iter().map(Vec::len).sum::<usize>() as u64,
        ..Seen::default()
    })?;
    // Whoever looks at them ends this process.
    loop {
        thread::park();
    }
}

fn gather(start: Duration, length: Duration, counted: Vec<(Counter, Series)>) -> Result<Seen> {
    let seconds = (now() - start).as_secs_f64();
    let mut all = Counter::new()?;
    let mut over_time = Series::new(start, length);
    for (counter, series) in counted {
        all.merge(&counter)?;
        over_time.merge(&series.steps);
    }
    let latencies = all.finish();
    Ok(Seen {
        seconds,
        events: latencies.as_ref().map_or(0, |all| all.count),
        latencies,
        series: over_time.steps,
        ..Seen::default()
    })
}

const WARM_TRIPS: usize = 20;
/// As many connections open at once.
const OPENERS: usize = 16;
