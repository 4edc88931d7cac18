//! Players over TCP, a thread each.

use std::{net::TcpStream, sync::Arc, thread, time::Duration};

use anyhow::{Result, anyhow};
use socket2::{Domain, Socket, Type};

use super::job::Job;

/// As a player from an address of their own, where players have those.
pub(super) fn connect(job: &Job, player: usize) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(job.to), Type::STREAM, None)?;
    if job.spread {
        socket.bind(&job.source(player).into())?;
    }
    socket.connect_timeout(&job.to.into(), PATIENCE)?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Does `work` with each item in a thread of its own, and gathers what they return.
pub(super) fn in_threads<I: Send + 'static, T: Send + 'static>(
    items: Vec<I>,
    work: impl Fn(I) -> Result<T> + Send + Sync + 'static,
) -> Result<Vec<T>> {
    let work = Arc::new(work);
    let threads: Vec<_> = items
        .into_iter()
        .map(|item| {
            let work = work.clone();
            thread::spawn(move || work(item))
        })
        .collect();
    threads
        .into_iter()
        .map(|thread| thread.join().map_err(|_| anyhow!("a player panicked"))?)
        .collect()
}

/// Longer than anything should take: a hang fails.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
