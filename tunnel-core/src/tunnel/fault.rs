//! Fault injection: places where a test makes a task panic. Outside of tests they are nothing.

/// Panics where a test has armed this place; nothing outside of tests.
macro_rules! fault {
    ($($place:tt)*) => {
        #[cfg(test)]
        $crate::tunnel::fault::reach(&format!($($place)*));
    };
}
pub(crate) use fault;

#[cfg(test)]
pub(crate) use armed::{arm, reach};

#[cfg(test)]
mod armed {
    use std::sync::Mutex;

    use crate::sync::lock;

    static ARMED: Mutex<Vec<String>> = Mutex::new(Vec::new());

    /// The next task that comes to this place panics.
    pub(crate) fn arm(place: impl Into<String>) {
        lock(&ARMED).push(place.into());
    }

    /// A task is at this place.
    pub(crate) fn reach(place: &str) {
        let mut armed = lock(&ARMED);
        let found = armed.iter().position(|it| it == place);
        if let Some(found) = found {
            armed.swap_remove(found);
            drop(armed);
            panic!("on purpose, at {place}");
        }
    }
}
