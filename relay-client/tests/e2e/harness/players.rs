//! Players and game servers inside the test, for what a program from outside cannot show. Every call is bounded.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::sockopt::{Timeout, set_socket_timeout},
};

use super::{HANG, process::no_child_starts};

/// A TCP player.
pub(crate) fn connect(server: SocketAddr) -> TcpStream {
    bounded(TcpStream::connect(server).unwrap())
}

/// A TCP game server.
pub(crate) fn listen(address: SocketAddr) -> TcpListener {
    let alone = no_child_starts();
    let listener = TcpListener::bind(address).unwrap();
    drop(alone);
    set_socket_timeout(&listener, Timeout::Recv, Some(HANG)).unwrap();
    listener
}

/// The next connection to a game server.
pub(crate) fn accept(listener: &TcpListener) -> TcpStream {
    bounded(listener.accept().unwrap().0)
}

/// Sends bytes one way and sees them come out.
pub(crate) fn carry(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    from.write_all(bytes).unwrap();
    let mut got = vec![0; bytes.len()];
    to.read_exact(&mut got).unwrap();
    assert!(got == bytes, "the bytes differ");
}

/// Whether a player who connects to `public` gets through to a game server that listens on `target`.
pub(crate) fn reaches(public: SocketAddr, target: SocketAddr) -> bool {
    let server = listen(target);
    let Ok(player) = TcpStream::connect(public) else {
        return false;
    };
    // Either the server is connected to, or the player's connection is closed.
    let mut first = [
        PollFd::new(&server, PollFlags::IN),
        PollFd::new(&player, PollFlags::IN),
    ];
    let bound = Timespec::try_from(HANG).unwrap();
    assert!(poll(&mut first, Some(&bound)).unwrap() > 0, "neither");
    if !first[0].revents().contains(PollFlags::IN) {
        return false;
    }
    let mut peer = accept(&server);
    carry(&mut bounded(player), &mut peer, b"hello");
    true
}

/// A UDP game server.
pub(crate) fn udp_server(address: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(HANG)).unwrap();
    socket
}

/// A UDP player who talks to one server.
pub(crate) fn udp_player(server: SocketAddr) -> UdpSocket {
    let any = SocketAddr::new(server.ip(), 0);
    let socket = udp_server(any);
    socket.connect(server).unwrap();
    socket
}

/// A datagram each way; where the player seems to come from, seen from the game server.
pub(crate) fn converse(player: &UdpSocket, server: &UdpSocket, size: usize) -> SocketAddr {
    let question: Vec<u8> = (0..size).map(|i| i as u8).collect();
    player.send(&question).unwrap();
    let mut buffer = vec![0; 65_536];
    let (length, from) = server.recv_from(&mut buffer).unwrap();
    assert!(buffer[..length] == question, "the datagram differs");
    let answer: Vec<u8> = question.iter().map(|byte| !byte).collect();
    server.send_to(&answer, from).unwrap();
    let length = player.recv(&mut buffer).unwrap();
    assert!(buffer[..length] == answer, "the answer differs");
    from
}

/// As [`converse`], while it may fail: `None` if a datagram is lost on the way. Whatever else arrives is passed over.
pub(crate) fn try_converse(
    player: &UdpSocket,
    server: &UdpSocket,
    size: usize,
) -> Option<SocketAddr> {
    static ATTEMPT: AtomicU32 = AtomicU32::new(0);
    let mut question = vec![0; size.max(4)];
    let attempt = ATTEMPT.fetch_add(1, Ordering::Relaxed);
    question[..4].copy_from_slice(&attempt.to_be_bytes());
    for socket in [player, server] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    let outcome = (|| {
        player.send(&question).ok()?;
        let from = receive(server, &question)?;
        server.send_to(&question, from).unwrap();
        receive(player, &question).map(|_| from)
    })();
    for socket in [player, server] {
        socket.set_read_timeout(Some(HANG)).unwrap();
    }
    outcome
}

/// How long [`try_converse`] waits for a datagram.
const PATIENCE: Duration = Duration::from_millis(200);

/// Waits for this datagram; where it came from.
fn receive(socket: &UdpSocket, expected: &[u8]) -> Option<SocketAddr> {
    let mut buffer = vec![0; 65_536];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) if buffer[..length] == *expected => return Some(from),
            Ok(_) => {}
            // What an earlier datagram met, told late.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(_) => return None,
        }
    }
}

fn bounded(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(HANG)).unwrap();
    stream.set_write_timeout(Some(HANG)).unwrap();
    stream
}
