//! Which tunnel of a client its players use, and what becomes of its other ones. Pure: what has happened goes in, what is to
//! be done comes out.
//!
//! A client has one tunnel in use. A second tunnel of the same process is a better path: players and streams go over to it, and
//! the first ends with its last stream. A tunnel of another process supersedes the one in use. A handshake alone proves nothing
//! about now, because a network can deliver packets of a dead process arbitrarily late. So a tunnel comes into use only with a
//! proof of life: an answer to a question that the relay has asked after the tunnel in use came up.

use std::{collections::VecDeque, time::Instant};

use crate::proto::handshake::ProcessId;

/// Tells the tunnels of one relay process apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Serial(pub(crate) u64);

/// A tunnel, and the client's process at its other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) serial: Serial,
    pub(crate) process: ProcessId,
}

/// The tunnels of one client.
#[derive(Debug)]
pub(crate) struct ClientTunnels {
    /// The one in use.
    current: Option<Path>,
    /// When the last one came up.
    up_at: Option<Instant>,
    /// The one that was lost last, whose streams wait for the next one.
    lost: Option<Path>,
    /// Those before it, the oldest first, which may still carry players.
    earlier: VecDeque<Serial>,
    /// Most of the earlier ones.
    most: usize,
}

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// A client is let in that has given a proof of life in time.
    Up { path: Path, now: Instant },
    /// The control conversation of a tunnel has ended.
    Down(Serial),
    /// The client leaves: it said goodbye.
    Left,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Streams of a lost tunnel go on over this one.
    Resume { from: Serial, to: Serial },
    /// Players and streams go over to another tunnel. The first ends with its last stream.
    Replace { from: Serial, to: Serial },
    /// Another process has connected: the tunnel is told so, and ends with its players.
    Supersede(Serial),
    /// A tunnel without its control conversation: new players wait for the next one, and the ports are held meanwhile.
    Hold(Serial),
    /// A tunnel ends with everything on it.
    Close(Serial),
    /// An earlier tunnel ends with everything on it, because there are too many.
    Evict(Serial),
}

impl ClientTunnels {
    /// A client that has none yet, and may keep `most` of its earlier ones.
    pub(crate) const fn new(most: usize) -> Self {
        Self {
            current: None,
            up_at: None,
            lost: None,
            earlier: VecDeque::new(),
            most,
        }
    }

    /// The tunnel in use.
    pub(crate) fn current(&self) -> Option<Serial> {
        self.current.map(|path| path.serial)
    }

    /// Whether a client that was there after this moment may be a dead process, or have chosen another tunnel since.
    pub(crate) fn is_late(&self, lived_at: Instant) -> bool {
        self.up_at.is_some_and(|up_at| up_at >= lived_at)
    }

    /// Takes an event. `stands` says whether an earlier tunnel still stands.
    pub(crate) fn handle(&mut self, event: Event, stands: impl Fn(Serial) -> bool) -> Vec<Action> {
        match event {
            Event::Up { path, now } => self.handle_up(path, now, stands),
            Event::Down(serial) => self.handle_down(serial, stands),
            Event::Left => {
                let gone = self.lost.take().into_iter().chain(self.current.take());
                gone.map(|path| Action::Close(path.serial)).collect()
            }
        }
    }

    fn handle_up(
        &mut self,
        path: Path,
        now: Instant,
        stands: impl Fn(Serial) -> bool,
    ) -> Vec<Action> {
        self.up_at = Some(now);
        let mut actions = Vec::new();
        let to = path.serial;
        let before = self.current.replace(path);
        if let Some(lost) = self.lost.take() {
            actions.push(match lost.process == path.process {
                true => Action::Resume {
                    from: lost.serial,
                    to,
                },
                // Its streams ended with their process.
                false => Action::Close(lost.serial),
            });
        }
        match before {
            Some(before) if before.process == path.process => {
                let from = before.serial;
                self.keep_earlier(from, stands, &mut actions);
                actions.push(Action::Replace { from, to });
            }
            Some(before) => actions.push(Action::Supersede(before.serial)),
            None => {}
        }
        actions
    }

    fn handle_down(&mut self, serial: Serial, stands: impl Fn(Serial) -> bool) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.current() == Some(serial) {
            self.lost = self.current.take();
            self.keep_earlier(serial, stands, &mut actions);
            actions.push(Action::Hold(serial));
        }
        actions
    }

    /// Keeps an earlier tunnel in mind, which may still carry players.
    fn keep_earlier(
        &mut self,
        serial: Serial,
        stands: impl Fn(Serial) -> bool,
        actions: &mut Vec<Action>,
    ) {
        self.earlier.push_back(serial);
        self.earlier.retain(|earlier| stands(*earlier));
        let surplus = self.earlier.len().saturating_sub(self.most);
        actions.extend(self.earlier.drain(..surplus).map(Action::Evict));
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, time::Duration};

    use super::*;

    /// A step of a scene.
    enum Step {
        /// The client of tunnel `.0`, of process `.1`, was there after second `.2`.
        Lives(u64, u8, u64),
        /// The control conversation of a tunnel ends.
        Down(u64),
        /// A tunnel closes with its last stream.
        Closed(u64),
        Left,
    }
    use Step::{Closed, Down, Left, Lives};

    const fn resume(from: u64, to: u64) -> Action {
        let (from, to) = (Serial(from), Serial(to));
        Action::Resume { from, to }
    }

    const fn replace(from: u64, to: u64) -> Action {
        let (from, to) = (Serial(from), Serial(to));
        Action::Replace { from, to }
    }

    const fn supersede(serial: u64) -> Action {
        Action::Supersede(Serial(serial))
    }

    const fn hold(serial: u64) -> Action {
        Action::Hold(Serial(serial))
    }

    const fn close(serial: u64) -> Action {
        Action::Close(Serial(serial))
    }

    const fn evict(serial: u64) -> Action {
        Action::Evict(Serial(serial))
    }

    /// What each step at its second of the scene leads to, and which tunnel is in use then.
    type Scene<'a> = &'a [(u64, Step, &'a [Action], Option<u64>)];

    /// Plays a scene in which two earlier tunnels may be kept.
    fn play(name: &str, scene: Scene<'_>) {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let mut tunnels = ClientTunnels::new(2);
        let mut closed = HashSet::new();
        for (row, (second, step, wanted, in_use)) in scene.iter().enumerate() {
            let event = match *step {
                Lives(serial, process, lived) => (!tunnels.is_late(at(lived))).then(|| Event::Up {
                    path: Path {
                        serial: Serial(serial),
                        process: ProcessId::from([process; 16]),
                    },
                    now: at(*second),
                }),
                Down(serial) => Some(Event::Down(Serial(serial))),
                Closed(serial) => {
                    closed.insert(Serial(serial));
                    None
                }
                Left => Some(Event::Left),
            };
            let actions = event.map(|event| tunnels.handle(event, |it| !closed.contains(&it)));
            assert_eq!(actions.unwrap_or_default(), *wanted, "{name}, row {row}");
            assert_eq!(tunnels.current(), in_use.map(Serial), "{name}, row {row}");
        }
    }

    #[test]
    fn one_tunnel_of_a_client_is_in_use() {
        play(
            "a tunnel is lost and comes back",
            &[
                (1, Lives(1, 7, 0), &[], Some(1)),
                (5, Down(1), &[hold(1)], None),
                (6, Lives(2, 7, 5), &[resume(1, 2)], Some(2)),
                // Word of the first one's end may come twice.
                (7, Down(1), &[], Some(2)),
            ],
        );
        play(
            "a better path of the same process",
            &[
                (1, Lives(1, 7, 0), &[], Some(1)),
                (5, Lives(2, 7, 4), &[replace(1, 2)], Some(2)),
                (6, Down(1), &[], Some(2)),
            ],
        );
        play(
            "another process",
            &[
                (1, Lives(1, 7, 0), &[], Some(1)),
                (5, Lives(2, 8, 4), &[supersede(1)], Some(2)),
                (6, Down(1), &[], Some(2)),
            ],
        );
        play(
            "another process after a loss",
            &[
                (1, Lives(1, 7, 0), &[], Some(1)),
                (5, Down(1), &[hold(1)], None),
                (6, Lives(2, 8, 5), &[close(1)], Some(2)),
            ],
        );
    }

    #[test]
    fn a_late_proof_of_life_moves_nothing() {
        play(
            "a process that may be dead, however often it is heard",
            &[
                (1, Lives(1, 7, 0), &[], Some(1)),
                (5, Lives(2, 8, 4), &[supersede(1)], Some(2)),
                (6, Lives(3, 7, 3), &[], Some(2)),
                // It has to be there after the other came up, not only as late.
                (7, Lives(3, 7, 5), &[], Some(2)),
                (8, Lives(3, 7, 6), &[supersede(2)], Some(3)),
            ],
        );
        play(
            "late, and the one that was in time is lost since",
            &[
                (1, Lives(1, 7, 0), &[], Some(1)),
                (5, Down(1), &[hold(1)], None),
                (6, Lives(2, 7, 1), &[], None),
                (7, Lives(2, 7, 6), &[resume(1, 2)], Some(2)),
            ],
        );
    }

    #[test]
    fn the_oldest_earlier_tunnel_ends_for_one_too_many() {
        play(
            "paths that change all the time",
            &[
                (1, Lives(1, 7, 0), &[], Some(1)),
                (2, Lives(2, 7, 1), &[], Some(1)),
                (3, Lives(2, 7, 2), &[replace(1, 2)], Some(2)),
                (5, Lives(3, 7, 4), &[replace(2, 3)], Some(3)),
                (7, Lives(4, 7, 6), &[evict(1), replace(3, 4)], Some(4)),
                // One that has ended by itself takes no place.
                (8, Closed(2), &[], Some(4)),
                (9, Lives(5, 7, 8), &[replace(4, 5)], Some(5)),
                (10, Down(5), &[evict(3), hold(5)], None),
                (12, Lives(6, 7, 11), &[resume(5, 6)], Some(6)),
            ],
        );
    }

    #[test]
    fn a_client_that_leaves_takes_everything_with_it() {
        play(
            "with a tunnel in use",
            &[
                (1, Lives(1, 7, 0), &[], Some(1)),
                (2, Left, &[close(1)], None),
                (3, Left, &[], None),
            ],
        );
    }
}
