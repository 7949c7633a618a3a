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
//! Waiters that sleep elsewhere, with a descriptor in poll(2), arm with [`EventCount::arm_firmly`]
//! and are told by the notifier between the wake and the clearing ([`EventCount::notify_and`]), so
//! that a notifier that is killed before it has told them leaves `armed` to the next one. It sees
//! all who arm with the epoch that it ends: they make themselves known before a fence before they
//! read `seq`, and it looks for them after a fence after it has moved `seq`. Those whom it does not
//! see read the moved `seq`, and their tag survives the clearing.
//!
//! A peer that cannot use membarrier sets `HEAVY`; every notifier then fences before its look, and
//! sleepers need a fence only. A peer that scribbles here can cost wake-ups and time, never more:
//! every sleep is bounded by its slice.

use std::time::Duration;

use super::atomic::{AtomicU32, Ordering, fence, light_fence};
use super::kernel::futex::{self, Wake};
use super::kernel::membarrier;
use crate::time::now;

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

/// Whether `armed` has the tag of an epoch after `epoch`, of which there are 2^30 before they count
/// as earlier ones.
const fn is_later(armed: u32, epoch: u32) -> bool {
    let ahead = (armed & !HEAVY).wrapping_sub(tag(epoch)) & !HEAVY;
    armed & !HEAVY != 0 && ahead != 0 && ahead < 1 << 30
}

impl EventCount {
    /// Whether a notifier has something to do after its commit: [`EventCount::notify_and`].
    #[inline(always)]
    pub(crate) fn is_armed(&self) -> bool {
        // Keeps the compiler from moving the look before the commit; the processor is kept in
        // order by the sleeper's membarrier.
        light_fence();
        self.armed.load(Ordering::Relaxed) != 0
    }

    /// As [`EventCount::notify_and`], where nobody waits elsewhere.
    pub(crate) fn notify(&self) {
        self.notify_and(|| true);
    }

    /// Announces that something changed, and has `tell` tell those who wait elsewhere, if anybody
    /// is armed. `false` from it says that somebody could not be told: the next notifier tries
    /// again. Without a sleeper this is one load of a shared line.
    #[inline(always)]
    pub(crate) fn notify_and(&self, tell: impl FnOnce() -> bool) {
        // Keeps the compiler from moving the look before the commit; the processor is kept in
        // order by the sleeper's membarrier.
        light_fence();
        let armed = self.armed.load(Ordering::Relaxed);
        if armed != 0 {
            self.wake(armed, futex::ALL, tell);
        }
    }

    /// As [`EventCount::notify`], for who needs only one sleeper. The others stay asleep until their
    /// slice is over, and see then that the epoch has passed.
    pub(crate) fn notify_one(&self) {
        light_fence();
        let armed = self.armed.load(Ordering::Relaxed);
        if armed != 0 {
            self.wake(armed, 1, || true);
        }
    }

    /// Makes it new again; nobody uses it.
    pub(crate) fn reset(&self) {
        self.seq.store(0, Ordering::Relaxed);
        self.armed.store(0, Ordering::Relaxed);
    }

    #[cold]
    #[inline(never)]
    fn wake(&self, mut armed: u32, most: u32, tell: impl FnOnce() -> bool) {
        if armed & HEAVY != 0 {
            // Pairs with the fence in `arm`.
            fence(Ordering::SeqCst);
            armed = self.armed.load(Ordering::Relaxed);
            if armed & !HEAVY == 0 {
                return;
            }
        }
        // Pairs with the Acquire in `arm`: who arms in the new epoch sees what was committed before it.
        // Before the wake by being a store to the very word that the kernel compares under its lock.
        self.seq.fetch_add(2, Ordering::SeqCst);
        if futex::wake(&self.seq, most) >= most {
            // Others may still sleep.
            return;
        }
        // Pairs with the fence in `arm_firmly`.
        fence(Ordering::SeqCst);
        if !tell() {
            return;
        }
        // Failure: somebody armed in a later epoch, and that tag must stay.
        let _ =
            self.armed.compare_exchange(armed, armed & HEAVY, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Ends every sleep, though nothing has changed: for those who cancel. Async-signal-safe.
    pub(crate) fn disturb(&self) {
        // As in `wake`; what the sleeper is to find was stored before it, with SeqCst.
        self.seq.fetch_add(2, Ordering::SeqCst);
        futex::wake_all(&self.seq);
    }

    /// Where `armed` lies, for who looks from outside.
    pub(crate) const ARMED_AT: usize = std::mem::offset_of!(Self, armed);

    /// Whether this value of `armed` says that somebody sleeps, or went without having been woken.
    pub(crate) fn says_armed(armed: u32) -> bool {
        armed & !HEAVY != 0
    }

    /// Whether somebody sleeps, or went without having been woken.
    pub(crate) fn has_sleeper(&self) -> bool {
        Self::says_armed(self.armed.load(Ordering::Relaxed))
    }

    /// Makes this event count work with peers that membarrier does not reach.
    pub(crate) fn set_heavy(&self) {
        // Pairs with the load of `armed` before the fence in `wake`; who looked earlier is what the
        // short sleep of `TRANSITION` is for.
        self.armed.fetch_or(HEAVY, Ordering::SeqCst);
    }

    /// First half of going to sleep. The caller looks at its condition once more after this.
    pub(crate) fn arm(&self, slice: Duration) -> Ticket {
        // Acquire: pairs with the step of `seq` in `wake`.
        let epoch = self.seq.load(Ordering::Acquire);
        let seen = self.announce(epoch);
        if seen & HEAVY != 0 {
            // Pairs with the fence in `serve`.
            fence(Ordering::SeqCst);
            return Ticket { epoch, longest: slice };
        }
        if membarrier::barrier().is_ok() {
            return Ticket { epoch, longest: slice };
        }
        self.set_heavy();
        // Pairs with the fence in `wake` of those who see HEAVY.
        fence(Ordering::SeqCst);
        Ticket { epoch, longest: TRANSITION }
    }

    /// Sets the tag of `epoch`, unless that of a later one stands: it is another waiter's, whom the
    /// notifier that ends this epoch must not clear away. That notifier finds this waiter all the same:
    /// it moved `seq` after this one had read it. What `armed` was.
    fn announce(&self, epoch: u32) -> u32 {
        // Keeps HEAVY. One exchange per concurrent change; the bound holds against a scribbler.
        let mut seen = self.armed.load(Ordering::Relaxed);
        for _ in 0..64 {
            if is_later(seen, epoch) {
                break;
            }
            let armed = tag(epoch) | (seen & HEAVY);
            match self.armed.compare_exchange(seen, armed, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
        seen
    }

    /// Arms for a waiter that sleeps elsewhere, without a slice, and that [`EventCount::notify_and`]
    /// finds by what was stored before this call. It looks at its condition once more after this.
    pub(crate) fn arm_firmly(&self) {
        // Pairs with the fence in `wake`.
        fence(Ordering::SeqCst);
        if self.arm(Duration::MAX).longest == TRANSITION {
            // HEAVY was set just now. What they committed who looked before is visible after this.
            let end = now() + TRANSITION;
            while let Some(left) = end.checked_sub(now()).filter(|left| !left.is_zero()) {
                futex::wait(&AtomicU32::new(0), 0, left);
            }
            fence(Ordering::SeqCst);
        }
    }

    /// Second half: sleeps until notified since `ticket`, at most `longest`.
    pub(crate) fn sleep(&self, ticket: Ticket, longest: Duration) -> Wake {
        futex::wait(&self.seq, ticket.epoch, longest.min(ticket.longest))
    }
}

#[cfg(all(test, loom))]
#[path = "event_count_loom.rs"]
mod loom_models;

#[cfg(all(test, not(loom)))]
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
        event.wake(served, futex::ALL, || true);
        assert_ne!(event.armed.load(Ordering::Relaxed), 0);
    }

    /// A waiter that was slow to arm leaves the tag of one that has armed since: the wake that ends
    /// its own epoch would clear it.
    #[test]
    fn an_earlier_epoch_does_not_hide_a_later_one() {
        for first in [0, 1_u32 << 31, (1 << 31) - 2, u32::MAX - 1] {
            let event = EventCount::default();
            event.seq.store(first, Ordering::Relaxed);
            event.arm(SLICE);
            let served = event.armed.load(Ordering::Relaxed);
            event.seq.fetch_add(2, Ordering::Relaxed);
            event.arm(SLICE);
            event.announce(first);
            event.wake(served, futex::ALL, || true);
            assert!(event.has_sleeper(), "{first:#x}");
            event.notify();
            assert!(!event.has_sleeper(), "{first:#x}");
        }
    }

    #[test]
    fn who_could_not_be_told_stays_armed() {
        let event = EventCount::default();
        event.notify_and(|| panic!("nobody waits"));
        event.arm_firmly();
        event.notify_and(|| false);
        assert_ne!(event.armed.load(Ordering::Relaxed), 0);
        let mut told = 0;
        event.notify_and(|| {
            told += 1;
            true
        });
        event.notify_and(|| panic!("nobody waits"));
        assert_eq!(told, 1);
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
