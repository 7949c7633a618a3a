#![forbid(unsafe_code)]
//! A lock for the threads of one process, in memory that a fork wipes: in the child it is free,
//! whoever held it in the parent. All zero is free.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::futex;

const FREE: u32 = 0;
const HELD: u32 = 1;
const AWAITED: u32 = 2;

/// One turn of waiting; a bound only, the holder wakes who waits.
const TURN: Duration = Duration::from_millis(100);

/// Held for a moment only, never while waiting for other processes.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Latch(AtomicU32);

/// The latch is held as long as this lives.
#[must_use]
pub(crate) struct Turn<'a>(&'a Latch);

impl Latch {
    pub(crate) fn lock(&self) -> Turn<'_> {
        let word = &self.0;
        // Acquire pairs with the Release in `drop`.
        if word.compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed).is_err() {
            while word.swap(AWAITED, Ordering::Acquire) != FREE {
                futex::wait(word, AWAITED, TURN);
            }
        }
        Turn(self)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.0.0.swap(FREE, Ordering::Release) == AWAITED {
            futex::wake_all(&self.0.0);
        }
    }
}
