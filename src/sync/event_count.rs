#![forbid(unsafe_code)]
//! An event count in shared memory: sleepers arm it, notifiers look at one word.
//!
//! ```text
//! sleeper                              notifier
//! e = seq                              commit (a release store elsewhere)
//! armed = tag(e)                       compiler fence
//! barrier on all CPUs (membarrier)     a = armed; a == 0 → done, no system call
//! condition true? → done               seq += 2
//! futex wait while seq == e            futex wake; then armed: a → 0
//! ```
//!
//! **No wake-up is lost.** The sleeper's membarrier is a full barrier at some point of the notifier's
//! program. If that point lies before the commit, the notifier's later look at `armed` sees the tag;
//! if after, the commit is visible to the sleeper's second look. Having seen the tag, the notifier
//! moves `seq` before it wakes: the sleeper is either in the kernel's queue already and is woken, or
//! its futex wait finds `seq` moved and returns.
//!
//! **Clearing is last, and by epoch.** `armed` goes back to 0 only after the wake, and only if it
//! still is the tag that was served; a sleeper of a later epoch has another tag and survives.
//!
//! | killed | left behind | what follows |
//! |---|---|---|
//! | sleeper, anywhere | stale `armed` | one superfluous wake, which clears it |
//! | notifier before `seq` moved | `armed` | the next notifier, or the end of the sleeper's slice |
//! | notifier before the wake | `seq` moved | as above; arming again uses the new epoch |
//!
//! A peer that cannot use membarrier sets `HEAVY`; every notifier then fences before its look, and
//! sleepers need a fence only. A peer that scribbles here can cost wake-ups and time, never more:
//! every sleep is bounded by its slice.

use std::sync::atomic::{AtomicU32, Ordering, compiler_fence, fence};
use std::time::Duration;

use crate::sys::futex::{self, Wake};
use crate::sys::membarrier;

/// In `armed`: notifiers must run a fence of their own. Never cleared.
const HEAVY: u32 = 1 << 31;

/// Sleep no longer than this when `HEAVY` was set just now: a notifier may have looked before.
const TRANSITION: Duration = Duration::from_millis(1);

/// Eight bytes of shared memory, all zero at first. Belongs on a cache line that the notifier does
/// not write otherwise, so that its look at `armed` hits a line in shared state.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct EventCount {
    /// The futex word: the epoch, always even.
    seq: AtomicU32,
    /// 0, or the tag of the epoch in which somebody armed; `HEAVY` besides.
    armed: AtomicU32,
}

/// What a sleeper noted when it armed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticket {
    epoch: u32,
    longest: Duration,
}

const fn tag(epoch: u32) -> u32 {
    (epoch | 1) & !HEAVY
}

impl EventCount {
    /// Announces that something changed. Without a sleeper this is one load of a shared line.
    #[inline(always)]
    pub(crate) fn notify(&self) {
        // Keeps the compiler from moving the look before the commit; the processor is kept in
        // order by the sleeper's membarrier.
        compiler_fence(Ordering::SeqCst);
        let armed = self.armed.load(Ordering::Relaxed);
        if armed != 0 {
            self.wake(armed);
        }
    }

    /// `extern "C"`: a call that cannot unwind costs the fast path no frame.
    #[cold]
    #[inline(never)]
    extern "C" fn wake(&self, mut armed: u32) {
        if armed & HEAVY != 0 {
            // Pairs with the fence in `arm`.
            fence(Ordering::SeqCst);
            armed = self.armed.load(Ordering::Relaxed);
            if armed & !HEAVY == 0 {
                return;
            }
        }
        self.seq.fetch_add(2, Ordering::SeqCst);
        futex::wake_all(&self.seq);
        // Failure: somebody armed in a later epoch, and that tag must stay.
        let _ =
            self.armed.compare_exchange(armed, armed & HEAVY, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Where `armed` lies, for who looks from outside.
    pub(crate) const ARMED_AT: usize = std::mem::offset_of!(Self, armed);

    /// Whether this value of `armed` says that somebody sleeps, or went without having been woken.
    pub(crate) fn says_armed(armed: u32) -> bool {
        armed & !HEAVY != 0
    }

    /// Whether somebody sleeps, or went without having been woken.
    pub(crate) fn is_armed(&self) -> bool {
        Self::says_armed(self.armed.load(Ordering::Relaxed))
    }

    /// Makes this event count work with peers that membarrier does not reach.
    pub(crate) fn set_heavy(&self) {
        self.armed.fetch_or(HEAVY, Ordering::SeqCst);
    }

    /// First half of going to sleep. The caller looks at its condition once more after this.
    pub(crate) fn arm(&self, slice: Duration) -> Ticket {
        let epoch = self.seq.load(Ordering::Acquire);
        // Keeps HEAVY. One exchange per concurrent change; the bound holds against a scribbler.
        let mut seen = self.armed.load(Ordering::Relaxed);
        for _ in 0..64 {
            let armed = tag(epoch) | (seen & HEAVY);
            match self.armed.compare_exchange(seen, armed, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        if seen & HEAVY != 0 {
            // Pairs with the fence in `wake`.
            fence(Ordering::SeqCst);
            return Ticket { epoch, longest: slice };
        }
        if membarrier::barrier().is_ok() {
            return Ticket { epoch, longest: slice };
        }
        self.set_heavy();
        fence(Ordering::SeqCst);
        Ticket { epoch, longest: TRANSITION }
    }

    /// Second half: sleeps until notified since `ticket`, at most `longest`.
    pub(crate) fn sleep(&self, ticket: Ticket, longest: Duration) -> Wake {
        futex::wait(&self.seq, ticket.epoch, longest.min(ticket.longest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    const SLICE: Duration = Duration::from_secs(10);

    #[test]
    fn notify_without_a_sleeper_changes_nothing() {
        let event = EventCount::default();
        event.notify();
        assert_eq!(event.seq.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_stale_arm_costs_one_wake_and_is_cleared() {
        let event = EventCount::default();
        event.arm(SLICE);
        event.notify();
        assert_eq!(event.seq.load(Ordering::Relaxed), 2);
        assert_eq!(event.armed.load(Ordering::Relaxed), 0);
        event.notify();
        assert_eq!(event.seq.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn heavy_survives_arming_and_waking() {
        let event = EventCount::default();
        event.set_heavy();
        event.arm(SLICE);
        event.notify();
        assert_eq!(event.armed.load(Ordering::Relaxed), HEAVY);
        assert_eq!(event.seq.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_later_epoch_is_not_cleared_by_an_earlier_wake() {
        let event = EventCount::default();
        event.arm(SLICE);
        let served = event.armed.load(Ordering::Relaxed);
        event.seq.fetch_add(2, Ordering::Relaxed);
        event.arm(SLICE);
        assert_ne!(event.armed.load(Ordering::Relaxed), served);
        event.wake(served);
        assert_ne!(event.armed.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn sleep_after_a_notification_returns_at_once() {
        let event = EventCount::default();
        let ticket = event.arm(SLICE);
        event.notify();
        assert_eq!(event.sleep(ticket, SLICE), Wake::Woken);
    }

    /// Two threads hand a number back and forth; a lost wake-up would cost a whole slice, which the
    /// test counts instead of timing.
    fn hand_over(heavy: bool) {
        let (ping, pong) = (EventCount::default(), EventCount::default());
        if heavy {
            ping.set_heavy();
            pong.set_heavy();
        } else {
            membarrier::register().expect("membarrier(2)");
        }
        let (there, back) = (AtomicU64::new(0), AtomicU64::new(0));
        let rounds = 20_000;
        let wait_for = |event: &EventCount, word: &AtomicU64, value: u64| {
            let mut expired = 0;
            while word.load(Ordering::Acquire) != value {
                let ticket = event.arm(SLICE);
                if word.load(Ordering::Acquire) == value {
                    break;
                }
                expired += u32::from(event.sleep(ticket, SLICE) == Wake::TimedOut);
            }
            expired
        };
        let expired = std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                let mut expired = 0;
                for round in 1..=rounds {
                    expired += wait_for(&ping, &there, round);
                    back.store(round, Ordering::Release);
                    pong.notify();
                }
                expired
            });
            let mut expired = 0;
            for round in 1..=rounds {
                there.store(round, Ordering::Release);
                ping.notify();
                expired += wait_for(&pong, &back, round);
            }
            expired + other.join().unwrap()
        });
        assert_eq!(expired, 0, "a wake-up was lost");
    }

    #[test]
    fn no_wake_up_is_lost_with_membarrier() {
        hand_over(false);
    }

    #[test]
    fn no_wake_up_is_lost_with_fences() {
        hand_over(true);
    }
}
