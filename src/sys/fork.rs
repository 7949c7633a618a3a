//! Moments in which no other thread may fork: a lock that fork(2) takes, too.
//!
//! The handlers below are registered with the C library on first use. A fork waits a bounded time
//! for the lock (a fork inside a signal handler may have interrupted its holder) and then goes on
//! without it.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::futex;

static LOCKED: AtomicU32 = AtomicU32::new(0);

/// One turn of waiting, and how many of them a fork takes: 100 ms, thousands of times what a
/// holder needs.
const TURN: Duration = Duration::from_millis(1);
const FORK_TURNS: u32 = 100;

/// No fork(2) of this process while it lives.
#[must_use]
pub(crate) struct HoldOff(());

/// Waits for other holders, and for a fork that is going on.
pub(crate) fn hold_off() -> HoldOff {
    register();
    while !lock() {
        futex::wait(&LOCKED, 1, TURN);
    }
    HoldOff(())
}

/// Registers the handlers once. Without memory for them that fails, forks do not wait, and the next
/// call tries again. Nobody waits for another thread that is just doing it: a forked child would wait
/// for a thread that it does not have.
fn register() {
    const NOT_YET: u32 = 0;
    const BEGUN: u32 = 1;
    const DONE: u32 = 2;
    static REGISTERED: AtomicU32 = AtomicU32::new(NOT_YET);
    let (order, failed) = (Ordering::Relaxed, Ordering::Relaxed);
    if REGISTERED.load(Ordering::Relaxed) != NOT_YET
        || REGISTERED.compare_exchange(NOT_YET, BEGUN, order, failed).is_err()
    {
        return;
    }
    // SAFETY: the handlers are functions of this library, which is never unloaded (nodelete).
    let done = unsafe { libc::pthread_atfork(Some(before), Some(after), Some(after)) };
    // Relaxed, all of them: nothing but the handlers follows from it.
    REGISTERED.store(if done == 0 { DONE } else { NOT_YET }, Ordering::Relaxed);
}

impl Drop for HoldOff {
    fn drop(&mut self) {
        unlock();
    }
}

fn lock() -> bool {
    LOCKED.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
}

fn unlock() {
    LOCKED.store(0, Ordering::Release);
    futex::wake_all(&LOCKED);
}

extern "C" fn before() {
    for _ in 0..FORK_TURNS {
        if lock() {
            return;
        }
        futex::wait(&LOCKED, 1, TURN);
    }
}

/// In the parent and in the child: whoever held the lock, the fork is over. (Having given up
/// waiting, a fork unlocks for a holder that was interrupted; that one unlocks once more.)
extern "C" fn after() {
    unlock();
}
