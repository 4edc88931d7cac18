//! Locks.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a lock, also one that a panic has poisoned: what it guards is whole between operations.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
