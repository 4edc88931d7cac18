//! Ports for programs that cannot choose their own.

use std::{
    net::{Ipv4Addr, TcpListener, UdpSocket},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Result, bail};

/// A port that is free for TCP and UDP, and that the system gives to nobody by itself.
pub(super) fn free() -> Result<u16> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..COUNT {
        // Two runs at once start at different places.
        let offset = process::id().wrapping_mul(97) + NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + (offset % COUNT) as u16;
        let any = (Ipv4Addr::UNSPECIFIED, port);
        if TcpListener::bind(any).is_ok() && UdpSocket::bind(any).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port is free");
}

/// Below what systems choose from by themselves.
const FIRST: u16 = 15_000;
const COUNT: u32 = 5_000;
