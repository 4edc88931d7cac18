//! Asks a target how it is, over a socket of its own.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
};

use crate::{
    client::{
        egress::tcp::connect,
        ports::Purpose,
        shared::Shared,
        source::Origin,
        targets::{self, Target},
    },
    health::{Asked, Exchange, HealthCheck, Over, Report},
    instance::{HostPort, ProxyDatagrams, ProxyProtocol},
    proto::{proxy, stream::frame::ResetCode},
    socket,
};

/// What has become of a question.
pub(super) enum Outcome {
    /// The target works.
    Answer(Report),
    /// It does not, for this reason.
    Failure(String),
    /// It could not be asked, for want of sockets on this machine.
    Skipped,
}

/// Asks a target, and waits for its answer as long as the check allows.
pub(super) async fn ask(
    shared: &Arc<Shared>,
    target: &Arc<Target>,
    check: &HealthCheck,
) -> Outcome {
    let Ok(_held) = shared.descriptors.take(target.sockets()) else {
        return Outcome::Skipped;
    };
    let place = &target.service.target;
    let asked = HostPort {
        host: place.host.clone(),
        port: place.ports.first(),
    };
    let header = header(target, check.probe().over());
    let exchange = check.probe().ask(Asked::new(&asked, shared.random()));
    let asking = async {
        match check.probe().over() {
            Over::Tcp => ask_over_tcp(shared, target, (asked.port, header), exchange).await,
            Over::Udp => ask_over_udp(shared, target, (asked.port, header), exchange).await,
        }
    };
    let outcome = tokio::time::timeout(check.timeout, asking).await;
    outcome.unwrap_or_else(|_| {
        let seconds = check.timeout.as_secs();
        Outcome::Failure(format!("{asked} has not answered within {seconds} s"))
    })
}

async fn ask_over_tcp(
    shared: &Arc<Shared>,
    target: &Arc<Target>,
    (port, header): (u16, &[u8]),
    exchange: Box<dyn Exchange>,
) -> Outcome {
    let mut socket = match connect(shared, target, port, Origin::Machine).await {
        Ok(socket) => socket,
        Err(ResetCode::Limit | ResetCode::Shutdown) => return Outcome::Skipped,
        Err(code) => return Outcome::Failure(failure(target, code)),
    };
    let outcome = converse(&mut socket, header, exchange).await;
    socket::end_cleanly(socket);
    outcome.unwrap_or_else(|error| Outcome::Failure(format!("the connection ended: {error}")))
}

async fn converse(
    socket: &mut TcpStream,
    header: &[u8],
    mut exchange: Box<dyn Exchange>,
) -> io::Result<Outcome> {
    socket.write_all(header).await?;
    if exchange.is_answered_by_connection() {
        return Ok(Outcome::Answer(Report::default()));
    }
    let mut buffer = vec![0; CHUNK];
    let mut came = 0;
    loop {
        while let Some(bytes) = exchange.poll_transmit() {
            socket.write_all(&bytes).await?;
        }
        let length = socket.read(&mut buffer).await?;
        came += length;
        match exchange.handle_input(buffer.get(..length).unwrap_or_default()) {
            Ok(Some(report)) => return Ok(Outcome::Answer(report)),
            Err(reason) => return Ok(Outcome::Failure(reason)),
            Ok(None) if length == 0 => {
                let reason = "the connection was closed before there was an answer";
                return Ok(Outcome::Failure(reason.into()));
            }
            Ok(None) if came > ANSWER_MAX => {
                return Ok(Outcome::Failure("the answer has no end".into()));
            }
            Ok(None) => {}
        }
    }
}

/// Asks each of the target's addresses for a second in turn, until one answers or all have refused.
async fn ask_over_udp(
    shared: &Arc<Shared>,
    target: &Arc<Target>,
    (port, header): (u16, &[u8]),
    mut exchange: Box<dyn Exchange>,
) -> Outcome {
    let addresses = target.resolved(targets::Over::Udp).await;
    if addresses.is_empty() {
        return Outcome::Failure(failure(target, ResetCode::Unresolved));
    }
    let mut refused = 0;
    for ip in addresses.iter().cycle() {
        let socket = match open(shared, SocketAddr::new(*ip, port)) {
            Ok(socket) => socket,
            Err(error) if socket::is_exhausted(&error) => return Outcome::Skipped,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Outcome::Skipped,
            Err(error) => return Outcome::Failure(format!("no socket towards {ip}: {error}")),
        };
        // The same address is asked through the same socket: its answer may be late.
        let lasts = addresses.len() == 1;
        match ask_address(&socket, header, &mut *exchange, lasts).await {
            Ok(Some(Outcome::Answer(report))) => {
                target.handle_answer(targets::Over::Udp, *ip);
                return Outcome::Answer(report);
            }
            Ok(Some(outcome)) => return outcome,
            Ok(None) => refused = 0,
            Err(_) => refused += 1,
        }
        if refused == addresses.len() {
            target.refresh();
            return Outcome::Failure(failure(target, ResetCode::Refused));
        }
        exchange.handle_silence();
    }
    Outcome::Skipped
}

fn open(shared: &Shared, peer: SocketAddr) -> io::Result<UdpSocket> {
    UdpSocket::from_std(
        shared
            .means
            .ports
            .udp(Purpose::Player(Origin::Machine), peer)?,
    )
}

/// Asks one address, again every second if it `lasts`. `None` if it has been silent for a second; an error if it refuses.
async fn ask_address(
    socket: &UdpSocket,
    header: &[u8],
    exchange: &mut dyn Exchange,
    lasts: bool,
) -> io::Result<Option<Outcome>> {
    let mut buffer = vec![0; DATAGRAM];
    loop {
        while let Some(datagram) = exchange.poll_transmit() {
            socket.send(&[header, &datagram].concat()).await?;
        }
        let Ok(received) = tokio::time::timeout(REPEAT, socket.recv(&mut buffer)).await else {
            if !lasts {
                return Ok(None);
            }
            exchange.handle_silence();
            continue;
        };
        match exchange.handle_input(buffer.get(..received?).unwrap_or_default()) {
            Ok(Some(report)) => return Ok(Some(Outcome::Answer(report))),
            Err(reason) => return Ok(Some(Outcome::Failure(reason))),
            Ok(None) => {}
        }
    }
}

/// What stands in front of a question where the target wants to be told who is there: that it is nobody's.
fn header(target: &Target, over: Over) -> &'static [u8] {
    match (over, target.proxy()) {
        (Over::Udp, _) if target.proxy_datagrams() == ProxyDatagrams::Off => &[],
        (_, ProxyProtocol::Off) => &[],
        (_, ProxyProtocol::V1) => proxy::LOCAL_V1,
        (_, ProxyProtocol::V2) => proxy::LOCAL_V2,
    }
}

/// Why a target was not reached, for people.
fn failure(target: &Target, code: ResetCode) -> String {
    let place = &target.service.target;
    let (host, port) = (&place.host, place.ports.first());
    match code {
        ResetCode::Refused => format!("nothing listens at {host}:{port}"),
        ResetCode::Unresolved => format!("the name {host} does not resolve"),
        _ => format!("{host}:{port} cannot be reached"),
    }
}

/// Read at once, in bytes.
const CHUNK: usize = 4096;
/// Longest answer over TCP, in bytes; what asks bounds what it keeps.
const ANSWER_MAX: usize = 1 << 20;
/// Longest datagram, in bytes: the longest there is.
const DATAGRAM: usize = 65_536;
/// How long an answer to a datagram is waited for before it is sent again.
const REPEAT: Duration = Duration::from_secs(1);
