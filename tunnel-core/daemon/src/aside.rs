//! Threads for what may block for ever: writing to a pipe that nobody reads, a terminal that is held, a socket whose
//! owner hangs. The program leaves what is to be said in a place of bounded size, and goes on.

use std::{
    io,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// What waits for its thread. Its size is bounded by whoever adds to it.
pub(crate) trait Waiting: Default + Send + 'static {
    /// Whether there is nothing to do.
    fn is_empty(&self) -> bool;
}

/// Something to say, and the thread that says it. It starts with the first thing that is to be said.
#[derive(Debug)]
pub(crate) struct Aside<W> {
    name: &'static str,
    say: fn(W),
    state: Mutex<State<W>>,
    /// Something waits, or everything has been said.
    changed: Condvar,
}

#[derive(Debug)]
struct State<W> {
    waiting: W,
    started: bool,
    is_saying: bool,
}

impl<W: Waiting> Aside<W> {
    /// With nothing to say; `say` may block.
    pub(crate) const fn new(name: &'static str, nothing: W, say: fn(W)) -> Self {
        Self {
            name,
            say,
            state: Mutex::new(State {
                waiting: nothing,
                started: false,
                is_saying: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// Changes what waits. Never blocks. An error says that there is no thread to be had, and that it waits on.
    pub(crate) fn leave(&'static self, change: impl FnOnce(&mut W)) -> io::Result<()> {
        let mut state = self.state();
        change(&mut state.waiting);
        if !state.started {
            let thread = thread::Builder::new().name(self.name.to_owned());
            thread.spawn(|| self.run())?;
            state.started = true;
        }
        drop(state);
        self.changed.notify_all();
        Ok(())
    }

    /// Waits until everything has been said, and at most so long.
    pub(crate) fn finish(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let mut state = self.state();
        while state.started && (state.is_saying || !state.waiting.is_empty()) {
            let Some(left) = end.checked_duration_since(Instant::now()) else {
                return;
            };
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn run(&self) {
        let mut state = self.state();
        loop {
            while state.waiting.is_empty() {
                let waited = self.changed.wait(state);
                state = waited.unwrap_or_else(PoisonError::into_inner);
            }
            let said = std::mem::take(&mut state.waiting);
            state.is_saying = true;
            drop(state);
            (self.say)(said);
            state = self.state();
            state.is_saying = false;
            self.changed.notify_all();
        }
    }

    fn state(&self) -> MutexGuard<'_, State<W>> {
        // It is consistent between any two steps.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    #[derive(Default)]
    struct Words(Vec<(&'static str, Option<Gate>)>);

    /// Says that it was reached, and opens when told to.
    type Gate = (SyncSender<()>, Receiver<()>);

    impl Waiting for Words {
        fn is_empty(&self) -> bool {
            self.0.is_empty()
        }
    }

    static SAID: Mutex<Vec<&str>> = Mutex::new(Vec::new());

    fn say(words: Words) {
        for (word, gate) in words.0 {
            if let Some((reached, open)) = gate {
                reached.send(()).unwrap();
                open.recv().unwrap();
            }
            SAID.lock().unwrap().push(word);
        }
    }

    #[test]
    fn who_leaves_something_does_not_wait_and_nothing_is_said_twice() {
        static WORDS: Aside<Words> = Aside::new("words", Words(Vec::new()), say);
        WORDS.finish(Duration::from_secs(60));
        let (reached, at_gate) = sync_channel(1);
        let (open, gate) = sync_channel(1);
        WORDS
            .leave(|w| w.0.push(("first", Some((reached, gate)))))
            .unwrap();
        at_gate.recv().unwrap();
        for word in ["second", "third"] {
            WORDS.leave(|w| w.0.push((word, None))).unwrap();
        }
        // It hangs, and the end of the program waits no longer than it wants to.
        WORDS.finish(Duration::from_millis(1));
        assert!(SAID.lock().unwrap().is_empty());
        open.send(()).unwrap();
        WORDS.finish(Duration::from_secs(60));
        assert_eq!(*SAID.lock().unwrap(), ["first", "second", "third"]);
    }
}
