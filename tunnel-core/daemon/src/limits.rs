//! `[limits]`: the engine's bounds as keys of a configuration file, one row each.

use std::{fmt, time::Duration};

/// One bound: how it is called in the file, and how it is shown.
pub struct Limit<T> {
    /// Its key.
    pub name: &'static str,
    /// Its value as the file would say it.
    pub shown: fn(&T) -> u64,
}

impl<T> fmt::Debug for Limit<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// What `check` says of them: those that differ from the default, with the default behind.
pub fn summary<T: Default>(limits: &T, rows: &[Limit<T>]) -> String {
    let default = T::default();
    let changed: Vec<_> = rows
        .iter()
        .map(|row| (row.name, (row.shown)(limits), (row.shown)(&default)))
        .filter(|(_, now, default)| now != default)
        .map(|(name, now, default)| format!("{name} {now} (instead of {default})"))
        .collect();
    if changed.is_empty() {
        "as they are by default".into()
    } else {
        changed.join(", ")
    }
}

/// A count as a number of the file.
pub trait Count: Copy {
    /// The same, as large as any.
    fn number(self) -> u64;
}

impl Count for usize {
    fn number(self) -> u64 {
        self.try_into().unwrap_or(u64::MAX)
    }
}

impl Count for u32 {
    fn number(self) -> u64 {
        self.into()
    }
}

/// Milliseconds as a number of the file.
pub fn millis(time: Duration) -> u64 {
    time.as_millis().try_into().unwrap_or(u64::MAX)
}

/// The table of a type's bounds: `KEYS` to read them by, `ROWS` to show them. A row is
/// `"key" field = unit(least..=most)`, the unit one of count, seconds, millis, mib and mbit (per second, of
/// bytes per second).
#[macro_export]
macro_rules! limits {
    ($type:ty; $($name:literal $field:ident = $unit:ident($bounds:expr),)+) => {
        /// The keys of `[limits]`.
        pub(crate) const KEYS: &[$crate::config::Key<$type>] = &[
            $($crate::config::Key::optional($name, |limits, value, _| {
                limits.$field = $crate::limits!(@read $unit, value, $bounds);
                Ok(())
            }),)+
        ];
        /// The same, to be shown.
        pub(crate) const ROWS: &[$crate::limits::Limit<$type>] = &[
            $($crate::limits::Limit {
                name: $name,
                shown: |limits| $crate::limits!(@show $unit, limits.$field),
            },)+
        ];
    };
    (@read count, $value:ident, $bounds:expr) => { $value.number($bounds)? };
    (@read seconds, $value:ident, $bounds:expr) => {
        std::time::Duration::from_secs($value.number($bounds)?)
    };
    (@read millis, $value:ident, $bounds:expr) => {
        std::time::Duration::from_millis($value.number($bounds)?)
    };
    (@read mib, $value:ident, $bounds:expr) => { $value.number::<u64>($bounds)? << 20 };
    (@read mbit, $value:ident, $bounds:expr) => { $value.number::<u64>($bounds)? * 125_000 };
    (@show count, $amount:expr) => { $crate::limits::Count::number($amount) };
    (@show seconds, $amount:expr) => { $amount.as_secs() };
    (@show millis, $amount:expr) => { $crate::limits::millis($amount) };
    (@show mib, $amount:expr) => { $amount >> 20 };
    (@show mbit, $amount:expr) => { $amount / 125_000 };
}
