#![forbid(unsafe_code)]
//! Interruptions: a signal handler ends the current, or else the next, wait of the thread that it runs
//! in, whatever that thread waits for.
//!
//! A signal by itself ends a wait only while the thread sleeps in the kernel. One that is caught a
//! moment before, while the call spins, gives way or looks whether its peer lives, leaves no trace. An
//! interruption does: it is pending from [`interrupt`] until one wait of the thread returns `EINTR`
//! for it. Each wait looks for one before each of its sleeps, and no sleep is longer than a slice of
//! 100 ms, but for those of poll(2), which begins with the look and the sleep in one step; see
//! `descriptor`.
//!
//! Pending interruptions are noted in one table of the process, by thread id, and not in thread-local
//! storage: that of a library which was loaded by dlopen(3) is allocated at a thread's first use of it,
//! and a signal handler must not allocate. A forked child has another thread id, and so starts without
//! a pending interruption. A thread that ends with one leaves its entry behind; such entries are
//! reused once the table is full. A later thread of the same id would find it: one `EINTR` without
//! a signal, which every caller of a waiting call is ready for.
//!
//! Everything is relaxed: an entry is stored and taken by the same thread, or by a handler that runs in
//! it, so the order is that of the program.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::sys::thread;

/// Threads that can have a pending interruption at once.
const MOST: usize = 1024;

/// Entries that are in use, or a few more; 0 in a process that interrupts nothing.
static PENDING: AtomicU32 = AtomicU32::new(0);

/// Thread ids; 0 is a free entry.
static THREADS: [AtomicU32; MOST] = [const { AtomicU32::new(0) }; MOST];

/// Ends the waiting call in which the calling thread is, or else its next one, with `EINTR`: to be
/// called in a signal handler. It stays pending until one call has returned `EINTR`. Calls that need
/// not wait, or must not, take no notice and leave it pending. Two that meet are one.
///
/// `false`, with nothing done, if 1024 other living threads have one pending.
///
/// Async-signal-safe; leaves errno alone.
pub fn interrupt() -> bool {
    let errno = Errno::last_raw();
    let noted = note(thread::id());
    Errno::set_raw(errno);
    noted
}

fn note(me: u32) -> bool {
    if THREADS.iter().any(|entry| entry.load(Relaxed) == me) {
        return true;
    }
    // Before the entry: who finds 0 looks no further.
    PENDING.fetch_add(1, Relaxed);
    if THREADS.iter().any(|entry| entry.compare_exchange(0, me, Relaxed, Relaxed).is_ok()) {
        return true;
    }
    PENDING.fetch_sub(1, Relaxed);
    // All are in use: those of threads that have ended are nobody's.
    THREADS.iter().any(|entry| {
        let owner = entry.load(Relaxed);
        !thread::exists(owner) && entry.compare_exchange(owner, me, Relaxed, Relaxed).is_ok()
    })
}

/// Whether an interruption is pending for this thread.
#[inline]
pub(crate) fn is_pending() -> bool {
    PENDING.load(Relaxed) != 0 && is_noted(thread::id())
}

#[cold]
fn is_noted(me: u32) -> bool {
    THREADS.iter().any(|entry| entry.load(Relaxed) == me)
}

/// Takes this thread's pending interruption: for the call that is about to return `EINTR`.
#[inline]
pub(crate) fn take() -> bool {
    PENDING.load(Relaxed) != 0 && take_entries(thread::id())
}

/// More than one entry: a handler that interrupted another one has noted it as well.
#[cold]
fn take_entries(me: u32) -> bool {
    let mut taken = false;
    for entry in &THREADS {
        if entry.load(Relaxed) == me && entry.compare_exchange(me, 0, Relaxed, Relaxed).is_ok() {
            PENDING.fetch_sub(1, Relaxed);
            taken = true;
        }
    }
    taken
}

/// `EINTR` if an interruption was pending, which is over then.
#[inline]
pub(crate) fn check() -> Result<()> {
    if take() { Err(Error::interrupted()) } else { Ok(()) }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn an_interruption_is_of_one_thread_and_taken_once() {
        assert!(!is_pending() && !take());
        assert!(interrupt() && interrupt());
        assert!(std::thread::spawn(|| !is_pending() && !take()).join().unwrap());
        assert!(is_pending() && take());
        assert!(!is_pending() && !take() && check().is_ok());
        Errno::set_raw(4095);
        assert!(interrupt());
        assert_eq!(Errno::last_raw(), 4095);
        assert_eq!(check().unwrap_err().errno(), libc::EINTR);
    }

    #[test]
    fn threads_that_ended_make_room_for_others() {
        for _ in 0..2 * MOST {
            assert!(std::thread::spawn(interrupt).join().unwrap());
        }
        assert!(interrupt() && take());
    }
}
