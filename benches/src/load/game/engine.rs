//! The sockets of all players, and the loop that waits for them and for the clock.

use std::{
    io::{ErrorKind, IoSlice},
    net::UdpSocket,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use rustix::{
    buffer::spare_capacity,
    event::epoll,
    net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg},
    time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    },
};

use crate::load::job::Job;

/// What a packet says of itself, in its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packet {
    /// When it should have left, from the start on.
    pub(super) due: Duration,
    pub(super) player: usize,
    /// Counted for each player.
    pub(super) number: usize,
}

impl Packet {
    pub(super) const HEAD: usize = 16;
    const OPENING: u32 = u32::MAX;

    /// Whether it was there to open a flow.
    pub(super) const fn is_opening(&self) -> bool {
        self.number == Self::OPENING as usize
    }

    fn write(&self, buffer: &mut [u8]) {
        buffer[..8].copy_from_slice(&(self.due.as_nanos() as u64).to_be_bytes());
        buffer[8..12].copy_from_slice(&(self.player as u32).to_be_bytes());
        buffer[12..16].copy_from_slice(&(self.number as u32).to_be_bytes());
    }

    /// `None` where it is not what was sent.
    fn read(buffer: &[u8]) -> Option<Self> {
        let (due, rest) = buffer.split_first_chunk()?;
        let (player, rest) = rest.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        if rest.iter().any(|byte| *byte != FILLING) {
            return None;
        }
        Some(Self {
            due: Duration::from_nanos(u64::from_be_bytes(*due)),
            player: u32::from_be_bytes(*player) as usize,
            number: u32::from_be_bytes(*number) as usize,
        })
    }
}

pub(super) struct Engine {
    players: Vec<UdpSocket>,
    epoll: OwnedFd,
    timer: OwnedFd,
    events: Vec<epoll::Event>,
    /// What is sent.
    buffer: Vec<u8>,
    /// What was received.
    received: Vec<u8>,
}

impl Engine {
    pub(super) fn new(job: &Job, players: usize) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(TIMER);
        epoll::add(&epoll, &timer, data, epoll::EventFlags::IN)?;
        let mut sockets = Vec::new();
        for player in 0..players {
            let socket = UdpSocket::bind(job.source(player))?;
            socket.connect(job.to_of(player))?;
            socket.set_nonblocking(true)?;
            if players < FEW {
                drop(socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20));
            }
            let data = epoll::EventData::new_u64(player as u64);
            epoll::add(&epoll, &socket, data, epoll::EventFlags::IN)?;
            sockets.push(socket);
        }
        Ok(Self {
            players: sockets,
            epoll,
            timer,
            events: Vec::with_capacity(EVENTS),
            buffer: vec![FILLING; LARGEST],
            received: vec![0; LARGEST],
        })
    }

    /// Sends a first packet of each player until it is answered: what opens a flow is not what is measured.
    pub(super) fn open_flows(&mut self, size: impl Fn(usize) -> usize) -> Result<()> {
        let mut open = vec![false; self.players.len()];
        for _ in 0..OPENING_TRIES {
            let began = Instant::now();
            for player in 0..open.len() {
                if !open[player] {
                    let packet = Packet {
                        due: Duration::ZERO,
                        player,
                        number: Packet::OPENING as usize,
                    };
                    self.send(&packet, size(player).max(Packet::HEAD));
                }
                if player % OPENING_BURST == OPENING_BURST - 1 {
                    // Not faster than players join.
                    self.receive(Duration::from_millis(1), |player, _, _| open[player] = true)?;
                }
            }
            while open.contains(&false) && began.elapsed() < OPENING_PATIENCE {
                self.receive(Duration::from_millis(10), |player, _, _| {
                    open[player] = true;
                })?;
            }
            if !open.contains(&false) {
                return Ok(());
            }
        }
        // Those that did not will be losses.
        ensure!(open.contains(&true), "none of {} flows opened", open.len());
        Ok(())
    }

    pub(super) fn send(&mut self, packet: &Packet, size: usize) {
        packet.write(&mut self.buffer);
        // A full buffer is a loss, as it would be on a network.
        drop(self.players[packet.player].send(&self.buffer[..size]));
    }

    /// The same packet several times. Returns how many left.
    pub(super) fn send_burst(&mut self, packet: &Packet, size: usize, count: usize) -> usize {
        let mut bytes = vec![FILLING; size];
        packet.write(&mut bytes);
        self.send_raw(packet.player, &bytes, count)
    }

    pub(super) fn send_raw(&mut self, player: usize, bytes: &[u8], count: usize) -> usize {
        let slices = [IoSlice::new(bytes)];
        let mut controls: Vec<_> = (0..count).map(|_| SendAncillaryBuffer::default()).collect();
        let mut messages: Vec<_> = controls
            .iter_mut()
            .map(|control| MMsgHdr::new(&slices, control))
            .collect();
        let mut left = 0;
        while left < count {
            match sendmmsg(
                &self.players[player],
                &mut messages[left..],
                SendFlags::empty(),
            ) {
                Ok(sent) if sent > 0 => left += sent,
                // What is full is full.
                _ => break,
            }
        }
        left
    }

    /// Waits for so long at most, and hands on what has come, and to whom.
    pub(super) fn receive(
        &mut self,
        wait: Duration,
        mut handle: impl FnMut(usize, Option<Packet>, usize),
    ) -> Result<()> {
        // epoll waits for whole milliseconds; a timer is exact. Setting it again takes its old event away.
        let spec = Itimerspec {
            it_interval: timespec(Duration::ZERO),
            it_value: timespec(wait.max(Duration::from_nanos(1))),
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec)?;
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        for event in &self.events {
            let player = event.data.u64();
            if player == TIMER {
                continue;
            }
            let player = player as usize;
            for _ in 0..AT_ONCE {
                match self.players[player].recv(&mut self.received) {
                    Ok(length) => {
                        handle(player, Packet::read(&self.received[..length]), length);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    // An ICMP message about a packet before: the next may pass.
                    Err(_) => {}
                }
                if self.players.len() >= FEW {
                    break;
                }
            }
        }
        Ok(())
    }
}

const fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: duration.as_secs() as i64,
        tv_nsec: duration.subsec_nanos() as i64,
    }
}

/// What packets hold behind their head.
const FILLING: u8 = 0x5a;
const TIMER: u64 = u64::MAX;
const LARGEST: usize = 65_536;
const EVENTS: usize = 256;
/// Below this many players, each has much on the way.
const FEW: usize = 20;
/// Packets of one player that are read in a row.
const AT_ONCE: usize = 32;
const OPENING_TRIES: usize = 4;
const OPENING_BURST: usize = 10;
const OPENING_PATIENCE: Duration = Duration::from_secs(1);
