//! Machines that die without a word while they are being sent to, and readers who only pause.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use crate::harness::{
    namespace::{filter, isolated},
    players::{accept, carry, connect, listen},
    ports,
    programs::local_address,
    requires,
    site::{Service, Site},
};

#[test]
fn who_is_sent_to_and_gone_is_reset_in_time_and_who_pauses_is_waited_for() {
    requires!("nft", "ip");
    isolated(|| {
        let site = Site::start();
        let (port, target) = (ports::one(), local_address());
        let _client = site.expose(&[Service::tcp(port, target).optimized_for("latency")]);
        let server = listen(target);
        let meet = || {
            let mut player = connect(site.public(port));
            let mut peer = accept(&server);
            carry(&mut player, &mut peer, b"hello");
            (player, peer)
        };
        let (gone_player, to_gone_player) = meet();
        let (to_gone_server, gone_server) = meet();
        let (mut paused, to_paused) = meet();
        let dropped = [&gone_player, &gone_server].map(|gone| {
            let (own, peer) = (gone.local_addr().unwrap(), gone.peer_addr().unwrap());
            let (own, peer) = (own.port(), peer.port());
            format!("tcp sport {own} tcp dport {peer} drop; tcp sport {peer} tcp dport {own} drop;")
        });
        filter(&format!(
            "chain in {{ type filter hook input priority 0; {} }}",
            dropped.concat()
        ));
        thread::scope(|scope| {
            let player = scope.spawn(|| is_reset(to_gone_player));
            let server = scope.spawn(|| is_reset(to_gone_server));
            // More than all buffers on the way hold, so that the reader's window is closed.
            let pouring = scope.spawn(|| pour(to_paused));
            for (who, reset) in [("player", player), ("server", server)] {
                let took = reset.join().unwrap();
                assert!(took <= BOUND, "{who}: reset after {took:?}");
            }
            thread::sleep(BOUND.saturating_sub(LONGEST_WAIT));
            let mut read = vec![0; POURED];
            paused.read_exact(&mut read).unwrap();
            assert!(read.iter().enumerate().all(|(at, byte)| *byte == at as u8));
            pouring.join().unwrap();
        });
    });
}

/// Sends a kilobyte ten times a second until the connection is reset. How long that took.
fn is_reset(mut stream: TcpStream) -> Duration {
    let began = Instant::now();
    loop {
        match stream.write_all(&[7; 1000]) {
            Ok(()) if began.elapsed() > 2 * BOUND => return began.elapsed(),
            Ok(()) => thread::sleep(Duration::from_millis(100)),
            Err(error) => {
                let kind = error.kind();
                assert!(
                    matches!(kind, ErrorKind::ConnectionReset | ErrorKind::BrokenPipe),
                    "{error}"
                );
                return began.elapsed();
            }
        }
    }
}

/// Sends more than is taken, for as long as that takes.
fn pour(mut stream: TcpStream) {
    stream.set_write_timeout(Some(3 * BOUND)).unwrap();
    let bytes: Vec<u8> = (0..POURED).map(|at| at as u8).collect();
    stream.write_all(&bytes).unwrap();
}

/// The issue's own bound.
const BOUND: Duration = Duration::from_secs(150);
/// What the resets take at the least, of which a pause need not last longer.
const LONGEST_WAIT: Duration = Duration::from_secs(120);
/// 64 MiB.
const POURED: usize = 64 << 20;
