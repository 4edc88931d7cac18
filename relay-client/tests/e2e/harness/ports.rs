//! Free ports that stay free until they are used.
//!
//! A port that the system picks can be taken again by anyone before a program binds it. So each run of the tests
//! claims a block of ports below those that the system gives to clients, by listening on the block's first port.

use std::{
    net::{Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    sync::{
        OnceLock,
        atomic::{AtomicU16, Ordering},
    },
};

/// `count` consecutive ports, free for TCP and UDP on every address; the first of them.
pub(crate) fn consecutive(count: u16) -> u16 {
    let block = block();
    loop {
        let first = block.next.fetch_add(count, Ordering::Relaxed);
        assert!(
            first + count <= block.end,
            "this run has used up its {BLOCK} ports: raise BLOCK"
        );
        if (first..first + count).all(is_free) {
            return first;
        }
    }
}

/// One free port.
pub(crate) fn one() -> u16 {
    consecutive(1)
}

/// Claims the run's block. Called before a thread leaves for a network namespace of its own, where nobody would see
/// the claim.
pub(crate) fn claim() {
    block();
}

struct Block {
    next: AtomicU16,
    end: u16,
    _claim: TcpListener,
}

/// Several hundred tests' worth.
const BLOCK: u16 = 1024;
/// Linux gives clients ports from 32,768.
const LOWEST: u16 = 10_240;
const BLOCKS: u16 = 21;

fn block() -> &'static Block {
    static MINE: OnceLock<Block> = OnceLock::new();
    MINE.get_or_init(|| {
        (0..BLOCKS)
            .map(|i| LOWEST + i * BLOCK)
            .find_map(|first| {
                let claim = TcpListener::bind(everywhere(first)).ok()?;
                Some(Block {
                    next: AtomicU16::new(first + 1),
                    end: first + BLOCK,
                    _claim: claim,
                })
            })
            .expect("every block of ports is taken: do other runs of the tests hang?")
    })
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(everywhere(port)).is_ok() && UdpSocket::bind(everywhere(port)).is_ok()
}

/// Listening here collides with any use of the port, over IPv4 as well.
fn everywhere(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}
