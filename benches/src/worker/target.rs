//! The game server behind all columns: it answers at once, and costs little.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, UdpSocket},
    thread,
};

use anyhow::Result;
use rustix::event::{PollFd, PollFlags, poll};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::say::say;
use crate::load::bulk::{self, BULK};

pub(super) fn run(bind: IpAddr) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (tcp, udp) = loop {
            let tcp = listen(bind)?;
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr()?) {
                break (tcp, udp);
            }
        };
        // 50 ms of 100,000 packets/s: what a busy processor makes wait is no loss of the way.
        drop(socket2::SockRef::from(&udp).set_recv_buffer_size(8 << 20));
        drop(socket2::SockRef::from(&udp).set_send_buffer_size(4 << 20));
        udp.set_nonblocking(true)?;
        thread::spawn(move || echo_udp(&udp));
        say(&tcp.local_addr()?)?;
        loop {
            let (player, _) = tcp.accept().await?;
            tokio::spawn(serve(player));
        }
    })
}

fn listen(bind: IpAddr) -> io::Result<TcpListener> {
    let address = SocketAddr::new(bind, 0);
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        None,
    )?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    TcpListener::from_std(socket.into())
}

fn echo_udp(socket: &UdpSocket) {
    let mut buffer = vec![0; 65_536];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((length, _)) if length > 0 && buffer[0] == FLOOD => {}
            Ok((length, player)) => {
                // A full buffer is a loss, as it would be on a network.
                drop(socket.send_to(&buffer[..length], player));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                _ = poll(&mut [PollFd::new(socket, PollFlags::IN)], None);
            }
            // An ICMP message about a player that has gone.
            Err(_) => {}
        }
    }
}

/// The first byte says what the player wants.
async fn serve(mut player: TcpStream) -> io::Result<()> {
    player.set_nodelay(true)?;
    let mut byte = [0];
    player.read_exact(&mut byte).await?;
    let serve = match byte[0] {
        BULK => bulk::serve,
        TALK => talk,
        _ => {
            // Thousands of these stand idle: a byte at a time, in little memory.
            player.write_all(&byte).await?;
            while player.read(&mut byte).await? > 0 {
                player.write_all(&byte).await?;
            }
            return Ok(());
        }
    };
    // As a program would that does nothing else: with a thread and no runtime.
    let player = player.into_std()?;
    player.set_nonblocking(false)?;
    thread::spawn(move || serve(player));
    Ok(())
}

/// Echoes.
fn talk(mut player: std::net::TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        match player.read(&mut buffer)? {
            0 => return Ok(()),
            length => player.write_all(&buffer[..length])?,
        }
    }
}

/// First byte of a connection that is echoed, this byte included.
pub(crate) const ECHO: u8 = b'E';
/// First byte of a connection of which everything behind it is echoed at once.
pub(crate) const TALK: u8 = b'T';
/// First byte of a datagram that is not answered.
pub(crate) const FLOOD: u8 = 0xff;
