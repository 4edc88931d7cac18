//! One direction at work: packets from one device wait for their times and go to the other.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io,
    num::NonZeroU64,
    os::fd::{AsFd, OwnedFd},
    process::Stdio,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    process::setpriority_process,
    thread::{gettid, set_current_timer_slack},
};
use tun_rs::SyncDevice;

use super::{
    schedule::{Fate, Nanos, Schedule, Start, nanos},
    shape::Shape,
};
use crate::namespace::command;

/// What reaches into a direction from outside its thread.
#[derive(Debug)]
pub(super) struct Control {
    wake: OwnedFd,
    stop: AtomicBool,
    dark: AtomicBool,
    /// There is a new shape or a new start to take up.
    changed: AtomicBool,
    wanted: Mutex<Wanted>,
    tally: Tally,
}

#[derive(Debug)]
struct Wanted {
    shape: Shape,
    /// Not yet taken up.
    restart: Option<Restart>,
}

/// Chance and clock begin again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Restart {
    pub(super) seed: u64,
    /// The moment.
    pub(super) at: Instant,
    /// How far the clock has gone by then.
    pub(super) clock: Duration,
}

impl Control {
    pub(super) fn new(shape: Shape) -> io::Result<Self> {
        Ok(Self {
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            stop: AtomicBool::new(false),
            dark: AtomicBool::new(false),
            changed: AtomicBool::new(false),
            wanted: Mutex::new(Wanted {
                shape,
                restart: None,
            }),
            tally: Tally::default(),
        })
    }

    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.wake();
    }

    pub(super) fn set_dark(&self, dark: bool) {
        self.dark.store(dark, Ordering::Release);
    }

    pub(super) fn set(&self, shape: Shape) {
        self.wanted().shape = shape;
        self.changed.store(true, Ordering::Release);
    }

    pub(super) fn restart(&self, restart: Restart) {
        self.wanted().restart = Some(restart);
        self.changed.store(true, Ordering::Release);
    }

    pub(super) fn shape(&self) -> Shape {
        self.wanted().shape.clone()
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn counts(&self) -> Counts {
        let tally = &self.tally;
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts {
            taken: tally.taken.load(Ordering::Acquire),
            taken_bytes: get(&tally.taken_bytes),
            delivered: get(&tally.delivered),
            delivered_bytes: get(&tally.delivered_bytes),
            lost: get(&tally.lost),
            queue_full: get(&tally.queue_full),
            dark: get(&tally.dark),
            duplicated: get(&tally.duplicated),
            overrun: get(&tally.overrun),
            late: get(&tally.late),
        }
    }

    fn wake(&self) {
        // Fails only where 2^64 wakes wait.
        let _written = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

/// What a direction has done with its packets, since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Packets that came in.
    pub taken: u64,
    /// Of those, headers and all.
    pub taken_bytes: u64,
    /// Packets handed to the other side, duplicates among them.
    pub delivered: u64,
    /// Of those, headers and all.
    pub delivered_bytes: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Dropped because the bottleneck's queue was full.
    pub queue_full: u64,
    /// Swallowed by a black-out.
    pub dark: u64,
    /// Second copies.
    pub duplicated: u64,
    /// Packets that this emulator could not hold: where there are any, it was not equal to its shape.
    pub overrun: u64,
    /// Packets delivered more than a millisecond after their time: the machine was busy.
    pub late: u64,
}

#[derive(Debug, Default)]
struct Tally {
    taken: AtomicU64,
    taken_bytes: AtomicU64,
    delivered: AtomicU64,
    delivered_bytes: AtomicU64,
    lost: AtomicU64,
    queue_full: AtomicU64,
    dark: AtomicU64,
    duplicated: AtomicU64,
    overrun: AtomicU64,
    late: AtomicU64,
}

/// A direction, ready to [`run`](Self::run).
pub(super) struct Wire {
    from: Arc<SyncDevice>,
    to: Arc<SyncDevice>,
    control: Arc<Control>,
    schedule: Schedule,
    store: Store,
    /// What is on its way, the next to arrive on top; equal times keep their order.
    flying: BinaryHeap<Reverse<(Nanos, u64, Slot)>>,
    serial: u64,
    started: Instant,
}

impl Wire {
    pub(super) fn new(
        from: Arc<SyncDevice>,
        to: Arc<SyncDevice>,
        control: Arc<Control>,
        seed: u64,
    ) -> Self {
        let start = Start {
            seed,
            at: 0,
            clock: 0,
        };
        let schedule = Schedule::new(control.shape(), start);
        Self {
            from,
            to,
            control,
            schedule,
            store: Store::default(),
            flying: BinaryHeap::new(),
            serial: 0,
            started: Instant::now(),
        }
    }

    /// Until it is stopped, or a device has failed.
    pub(super) fn run(mut self) -> io::Result<()> {
        hurry();
        // The kernel would add 50 µs to every wait.
        let _set = set_current_timer_slack(NonZeroU64::new(1));
        while !self.control.stop.load(Ordering::Relaxed) {
            self.deliver()?;
            match self.take_in()? {
                0 => self.wait(true)?,
                // A dense flow is taken in and handed over in steps, not packet by packet.
                1..BATCH => self.wait(false)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn now(&self) -> Nanos {
        self.started.elapsed().as_nanos() as Nanos
    }

    /// Hands over whatever has arrived.
    fn deliver(&mut self) -> io::Result<()> {
        let now = self.now();
        let tally = &self.control.tally;
        while let Some(&Reverse((due, _, slot))) = self.flying.peek()
            && due <= now
        {
            self.flying.pop();
            let packet = self.store.packet(slot);
            match self.to.send(packet) {
                Ok(_) => {
                    add(&tally.delivered, 1);
                    add(&tally.delivered_bytes, packet.len() as u64);
                }
                // The kernel is out of memory, or the device is down: as on any line.
                Err(error) if is_passing(&error) => add(&tally.overrun, 1),
                Err(error) => return Err(error),
            }
            if now - due > LATE {
                add(&tally.late, 1);
            }
            self.store.free(slot);
        }
        Ok(())
    }

    /// Takes what the device has, [`BATCH`] packets at most; how many there were.
    fn take_in(&mut self) -> io::Result<usize> {
        let now = self.now();
        for count in 0..BATCH {
            let slot = self.store.take();
            let length = match self.from.recv(self.store.room(slot)) {
                Ok(length) => length,
                Err(error) => {
                    self.store.free(slot);
                    return match error.kind() {
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(count),
                        _ => Err(error),
                    };
                }
            };
            self.store.set_length(slot, length);
            self.offer(now, slot, length);
            add(&self.control.tally.taken_bytes, length as u64);
            let taken = &self.control.tally.taken;
            // Behind all others: who sees it counted sees its fate too.
            taken.store(taken.load(Ordering::Relaxed) + 1, Ordering::Release);
        }
        Ok(BATCH)
    }

    fn offer(&mut self, now: Nanos, slot: Slot, length: usize) {
        // Looked at behind the packet: what is sent after a change meets the change.
        if self.control.changed.swap(false, Ordering::Acquire) {
            self.take_up();
        }
        let tally = &self.control.tally;
        let fate = self.schedule.offer(now, length);
        let dark = self.control.dark.load(Ordering::Acquire);
        let (due, twice) = match fate {
            _ if dark => return drop_packet(&mut self.store, slot, &tally.dark),
            Fate::Lost => return drop_packet(&mut self.store, slot, &tally.lost),
            Fate::QueueFull => return drop_packet(&mut self.store, slot, &tally.queue_full),
            // The last slot is for reading.
            Fate::Arrives { .. } if self.flying.len() >= MAX_FLYING => {
                return drop_packet(&mut self.store, slot, &tally.overrun);
            }
            Fate::Arrives { due, twice } => (due, twice),
        };
        let copy = (twice && self.flying.len() + 1 < MAX_FLYING).then(|| self.store.copy(slot));
        for slot in [Some(slot), copy].into_iter().flatten() {
            self.flying.push(Reverse((due, self.serial, slot)));
            self.serial += 1;
        }
        if copy.is_some() {
            add(&tally.duplicated, 1);
        }
    }

    fn take_up(&mut self) {
        let (shape, restart) = {
            let mut wanted = self.control.wanted();
            (wanted.shape.clone(), wanted.restart.take())
        };
        self.schedule.set(shape);
        if let Some(restart) = restart {
            let at = restart.at.saturating_duration_since(self.started);
            self.schedule.restart(Start {
                seed: restart.seed,
                at: nanos(at),
                clock: nanos(restart.clock),
            });
        }
    }

    /// Until someone wants something, and: a packet is due or, where it is `idle`, one comes in.
    fn wait(&self, idle: bool) -> io::Result<()> {
        let timeout = match self.flying.peek() {
            _ if !idle => Some(GRAIN),
            // Never early; later by a grain, for what is due within it goes in one turn.
            Some(&Reverse((due, ..))) => Some(due.saturating_sub(self.now()).max(GRAIN)),
            None => None,
        };
        let timeout = timeout.map(|wait| Timespec {
            tv_sec: (wait / SECOND) as i64,
            tv_nsec: (wait % SECOND) as i64,
        });
        let from = self.from.as_fd();
        let mut sources = [
            PollFd::new(&self.control.wake, PollFlags::IN),
            PollFd::new(&from, PollFlags::IN),
        ];
        let heard = if idle { 2 } else { 1 };
        match poll(&mut sources[..heard], timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if !sources[0].revents().is_empty() {
            // What it counts does not matter.
            let _count = rustix::io::read(&self.control.wake, &mut [0; 8]);
        }
        Ok(())
    }
}

/// Goes ahead of everything that is not as urgent: a real path does not wait for a core. Where that is not to be had, the
/// machine's load decides how late packets are; they are counted.
fn hurry() {
    let thread = gettid().as_raw_nonzero().to_string();
    let mut chrt = command("chrt");
    chrt.args(["--fifo", "--pid", "1", &thread]);
    let done = chrt
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !done.is_ok_and(|status| status.success()) {
        let _set = setpriority_process(Some(gettid()), -20);
    }
}

fn drop_packet(store: &mut Store, slot: Slot, count: &AtomicU64) {
    store.free(slot);
    add(count, 1);
}

/// Only the direction's thread writes, so that this needs no locked instruction.
fn add(count: &AtomicU64, more: u64) {
    count.store(count.load(Ordering::Relaxed) + more, Ordering::Relaxed);
}

fn is_passing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let passing = [
        Errno::NOBUFS,
        Errno::NOMEM,
        Errno::AGAIN,
        Errno::INVAL,
        Errno::IO,
    ];
    Errno::from_io_error(error).is_some_and(|errno| passing.contains(&errno))
}

/// Room for packets, which grows to what is on its way at most and is used again and again.
#[derive(Debug, Default)]
struct Store {
    blocks: Vec<Box<[u8]>>,
    lengths: Vec<u16>,
    free: Vec<Slot>,
}

type Slot = u32;

impl Store {
    fn take(&mut self) -> Slot {
        if let Some(slot) = self.free.pop() {
            return slot;
        }
        let first = self.lengths.len();
        self.blocks.push(vec![0; BLOCK * ROOM].into());
        self.lengths.resize(first + BLOCK, 0);
        self.free
            .extend((first + 1..first + BLOCK).map(|slot| slot as Slot));
        first as Slot
    }

    fn free(&mut self, slot: Slot) {
        self.free.push(slot);
    }

    fn room(&mut self, slot: Slot) -> &mut [u8] {
        let (block, at) = (slot as usize / BLOCK, slot as usize % BLOCK * ROOM);
        &mut self.blocks[block][at..at + ROOM]
    }

    fn set_length(&mut self, slot: Slot, length: usize) {
        self.lengths[slot as usize] = length.min(ROOM) as u16;
    }

    fn packet(&self, slot: Slot) -> &[u8] {
        let (block, at) = (slot as usize / BLOCK, slot as usize % BLOCK * ROOM);
        &self.blocks[block][at..at + usize::from(self.lengths[slot as usize])]
    }

    fn copy(&mut self, from: Slot) -> Slot {
        let to = self.take();
        let mut packet = [0; ROOM];
        let length = self.packet(from).len();
        packet[..length].copy_from_slice(self.packet(from));
        self.room(to)[..length].copy_from_slice(&packet[..length]);
        self.set_length(to, length);
        to
    }
}

/// What an IP packet on the link may have: Ethernet's payload.
pub(super) const MTU: usize = 1500;
/// A packet in whole cache lines.
const ROOM: usize = 1536;
/// Packets for which room is made at a time.
const BLOCK: usize = 256;
/// Packets on their way at most: 1 Gbit/s of full ones for 0.78 s, or 100 MB.
const MAX_FLYING: usize = 65_536;
/// Packets taken in before the next look at what is due: they cost about as much time as [`GRAIN`].
const BATCH: usize = 64;
/// The shortest wait, a tenth of what a scenario's round trip may be off by. 200 Mbit/s would otherwise wake the threads
/// every 60 µs, which costs five times as much.
const GRAIN: Nanos = 200_000;
/// What counts as late: half of what a scenario may be off by.
const LATE: Nanos = 1_000_000;
const SECOND: Nanos = 1_000_000_000;
