//! Bulk over TCP. The receiving application measures, for a time that the player sets before connecting: whatever the
//! connection, the tunnel or their first round trips take counts.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use socket2::SockRef;

use super::{
    arrivals::{Arrivals, Arrived, now},
    job::{Bulk, CongestionControl, Job},
    players::{PATIENCE, connect, in_threads},
    seen::{Begins, Seen},
    series::Series,
};
use crate::worker::say::say;

/// What a player asks of the game server, behind [`BULK`].
#[derive(Debug, Clone, Copy, PartialEq)]
struct Request {
    reverse: bool,
    control: Option<CongestionControl>,
    start: Duration,
    length: Duration,
}

impl Request {
    const LENGTH: usize = 18;

    fn write(&self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        bytes[0] = self.reverse.into();
        bytes[1] = match self.control {
            None => 0,
            Some(CongestionControl::Bbr) => 1,
            Some(CongestionControl::Cubic) => 2,
        };
        bytes[2..10].copy_from_slice(&(self.start.as_nanos() as u64).to_be_bytes());
        bytes[10..].copy_from_slice(&(self.length.as_nanos() as u64).to_be_bytes());
        bytes
    }

    fn read(bytes: [u8; Self::LENGTH]) -> Option<Self> {
        let [reverse, control, rest @ ..] = bytes;
        let (start, length) = rest.split_first_chunk()?;
        let (length, _) = length.split_first_chunk()?;
        Some(Self {
            reverse: reverse != 0,
            control: match control {
                0 => None,
                1 => Some(CongestionControl::Bbr),
                2 => Some(CongestionControl::Cubic),
                _ => return None,
            },
            start: Duration::from_nanos(u64::from_be_bytes(*start)),
            length: Duration::from_nanos(u64::from_be_bytes(*length)),
        })
    }
}

/// The player's part.
pub(super) fn run(job: &Job, bulk: &Bulk) -> Result<Seen> {
    say(&Begins)?;
    let (start, length) = (now(), job.length());
    let request = Request {
        reverse: bulk.reverse,
        control: bulk.control,
        start,
        length,
    };
    let this = job.clone();
    let carried = in_threads((0..bulk.streams).collect(), move |player| {
        let mut stream = connect(&this, player)?;
        // What is on its way at the end is nobody's: the connection is torn down, not emptied.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        stream.write_all(&[&[BULK][..], &request.write()].concat())?;
        if request.reverse {
            let arrivals = Arrivals::new(request.start, request.length);
            receive(&stream, arrivals).context("the transfer broke off")
        } else {
            give(stream, &request)
        }
    })?;
    let mut seen = Seen {
        seconds: length.as_secs_f64(),
        started: start.as_nanos() as u64,
        ..Seen::default()
    };
    let mut series = Series::new(start, length);
    for arrived in carried {
        seen.bytes += arrived.bytes;
        series.merge(&arrived.series);
        if arrived.standstill.lasted >= seen.standstill.lasted {
            seen.standstill = arrived.standstill;
        }
    }
    seen.series = series.steps;
    Ok(seen)
}

/// Sends until the game server says what has arrived of it.
fn give(mut stream: TcpStream, request: &Request) -> Result<Arrived> {
    set_control(&stream, request.control)?;
    stream.set_write_timeout(None)?;
    stream.set_read_timeout(Some(request.length + PATIENCE))?;
    let sender = stream.try_clone()?;
    let sender = thread::spawn(move || send(&sender));
    let arrived = read_answer(&mut stream);
    // Ends a sender that waits for room, too.
    let shut = stream.shutdown(Shutdown::Both);
    drop(sender.join());
    let arrived = arrived.context("the transfer broke off")?;
    shut?;
    Ok(arrived)
}

fn read_answer(stream: &mut TcpStream) -> Result<Arrived> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    ensure!(length <= MAX_ANSWER, "an answer of {length} bytes");
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer)?;
    Ok(serde_json::from_slice(&answer)?)
}

/// The game server's part, behind [`BULK`].
pub(crate) fn serve(mut player: TcpStream) -> io::Result<()> {
    player.set_read_timeout(Some(PATIENCE))?;
    let mut request = [0; Request::LENGTH];
    player.read_exact(&mut request)?;
    let request = Request::read(request).ok_or(ErrorKind::InvalidData)?;
    set_control(&player, request.control)?;
    if request.reverse {
        send(&player);
        return Ok(());
    }
    let arrived = receive(&player, Arrivals::new(request.start, request.length))?;
    let answer = serde_json::to_vec(&arrived)?;
    player.write_all(&(answer.len() as u32).to_be_bytes())?;
    player.write_all(&answer)?;
    // Who closes a connection that holds what nobody has read takes back what they have said: the player closes it.
    player.set_read_timeout(None)?;
    io::copy(&mut player, &mut io::sink())?;
    Ok(())
}

/// As long as somebody takes it.
fn send(mut stream: &TcpStream) {
    let block = vec![0x5a; BLOCK];
    while stream.write_all(&block).is_ok() {}
}

fn receive(mut stream: &TcpStream, mut arrivals: Arrivals) -> io::Result<Arrived> {
    stream.set_read_timeout(Some(LOOK))?;
    let mut block = vec![0; BLOCK];
    while !arrivals.is_over(now()) {
        match stream.read(&mut block) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => arrivals.add(now(), length),
            Err(error) if is_passing(error.kind()) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(arrivals.finish())
}

fn is_passing(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

fn set_control(stream: &TcpStream, control: Option<CongestionControl>) -> io::Result<()> {
    match control {
        Some(control) => SockRef::from(stream).set_tcp_congestion(control.name().as_bytes()),
        None => Ok(()),
    }
}

/// First byte of a connection that carries bulk; a request follows.
pub(crate) const BULK: u8 = b'B';
/// 128 KiB a call, as iperf3.
const BLOCK: usize = 128 * 1024;
/// How often a receiver to whom nothing comes looks whether it is over.
const LOOK: Duration = Duration::from_millis(10);
/// The series of an hour is 36,000 numbers.
const MAX_ANSWER: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, TcpListener};

    use super::*;
    use crate::load::Load;

    #[test]
    fn requests_are_read_as_they_were_written() {
        for (reverse, control) in [
            (false, None),
            (true, Some(CongestionControl::Bbr)),
            (true, Some(CongestionControl::Cubic)),
        ] {
            let request = Request {
                reverse,
                control,
                start: Duration::from_nanos(123_456_789_012),
                length: Duration::from_millis(10),
            };
            assert_eq!(Request::read(request.write()), Some(request));
        }
        assert_eq!(Request::read([9; Request::LENGTH]), None);
    }

    /// Serves one connection, after that much of its request.
    fn server(serve: impl FnOnce(TcpStream) + Send + 'static) -> Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        thread::spawn(move || {
            let (mut player, _) = listener.accept().expect("somebody comes");
            let mut first = [0];
            player.read_exact(&mut first).expect("and says what for");
            assert_eq!(first[0], BULK);
            serve(player);
        });
        Ok(address)
    }

    fn job(to: SocketAddr, reverse: bool) -> (Job, Bulk) {
        let bulk = Bulk::one(reverse);
        let job = Job {
            to,
            also: Vec::new(),
            seconds: 0.5,
            spread: false,
            load: Load::Bulk(bulk.clone()),
        };
        (job, bulk)
    }

    #[test]
    fn what_arrives_is_counted_where_it_arrives() -> Result<()> {
        for reverse in [false, true] {
            let address = server(|player| drop(serve(player)))?;
            let (job, bulk) = job(address, reverse);
            let seen = run(&job, &bulk)?;
            assert!(seen.bytes > 0);
            assert_eq!(seen.series.iter().sum::<u64>(), seen.bytes);
            assert_eq!(seen.seconds, 0.5);
            assert!(seen.standstill.lasted < 0.5);
        }
        Ok(())
    }

    #[test]
    fn sender_that_stands_still_shows_with_its_length() -> Result<()> {
        let address = server(|mut player| {
            player.write_all(&[0; 100]).expect("it takes some");
            thread::sleep(Duration::from_millis(300));
            send(&player);
        })?;
        let (job, bulk) = job(address, true);
        let seen = run(&job, &bulk)?;
        assert!(seen.standstill.lasted >= 0.29, "{:?}", seen.standstill);
        assert!(seen.standstill.at < 0.3, "{:?}", seen.standstill);
        Ok(())
    }

    #[test]
    fn receiver_that_takes_nothing_has_received_nothing() -> Result<()> {
        // What waits in buffers, of which there is room for some, has not arrived.
        let address = server(|mut player| {
            let mut request = [0; Request::LENGTH];
            player.read_exact(&mut request).expect("it asks");
            let request = Request::read(request).expect("as it should");
            let nothing = Arrivals::new(request.start, request.length).finish();
            let answer = serde_json::to_vec(&nothing).expect("it can be said");
            thread::sleep(Duration::from_millis(100));
            let length = (answer.len() as u32).to_be_bytes();
            player.write_all(&length).expect("it listens");
            player.write_all(&answer).expect("it listens");
            drop(io::copy(&mut player, &mut io::sink()));
        })?;
        let (job, bulk) = job(address, false);
        let seen = run(&job, &bulk)?;
        assert_eq!(seen.bytes, 0);
        assert_eq!(seen.standstill.lasted, 0.5);
        Ok(())
    }

    #[test]
    fn transfer_that_ends_early_is_an_error() -> Result<()> {
        for reverse in [false, true] {
            let (job, bulk) = job(server(drop)?, reverse);
            let error = run(&job, &bulk).expect_err("nobody measured it");
            assert!(format!("{error:#}").contains("broke off"), "{error:#}");
        }
        Ok(())
    }
}
