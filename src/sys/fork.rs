//! Moments in which no other thread may fork: a lock that fork(2) takes, too.
//!
//! The handlers below are registered with the C library on first use. A fork waits a bounded time
//! for the lock (a fork inside a signal handler may have interrupted its holder) and then goes on
//! without it.

use std::sync::Once;
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
    static REGISTER: Once = Once::new();
    REGISTER.call_once(|| {
        // SAFETY: the handlers are functions of this library, which is never unloaded (nodelete).
        // Without memory for them the call fails, and forks do not wait.
        unsafe { libc::pthread_atfork(Some(before), Some(after), Some(after)) };
    });
    while !lock() {
        futex::wait(&LOCKED, 1, TURN);
    }
    HoldOff(())
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
