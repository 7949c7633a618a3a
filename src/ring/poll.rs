#![forbid(unsafe_code)]
//! Waiting with a descriptor: an inotify instance for each handle that asks for one, which watches the
//! ring's own file; notifiers touch that file. See `sys/doorbell.rs`.
//!
//! Two invariants, for each end that a handle has asked for:
//!
//! 1. The instance has an event, or the end is *armed*: its bit stands in the slot's `poll` word and the
//!    end's event count is armed, and the end has been looked at since.
//! 2. Whoever makes an armed end ready touches the file.
//!
//! So the descriptor is readable whenever an end may be ready, and the only call that makes it
//! unreadable is the one that is about to return `EAGAIN`:
//!
//! ```text
//! waiter (would return EAGAIN)            notifier
//! drain the instance                      commit
//! poll = (arming + 1, bits)               armed == 0 → done, no system call
//! fence; arm the event count, barrier     seq += 2; futex wake; fence
//! look again: there is something →        the words p of the slots with the bit
//!     make readable, return it            touch the file
//! nothing → EAGAIN                            poll: p → p without the bit   (compare-and-swap)
//!                                         armed: tag → 0                    (compare-and-swap)
//! ```
//!
//! **Draining loses no event.** The touch of a notifier that was drained came after its commit, which
//! the waiter's second look therefore sees. That notifier clears the bit afterwards, but only of the
//! arming that it saw: the number in `poll` has moved, its compare-and-swap fails, and the new arming
//! stands. Both ends are drained together, so both are armed and looked at together.
//!
//! **An event comes.** A commit that the second look did not see is followed, after the barrier, by a
//! look at `armed`, which finds a tag; then by a scan, which finds the bit: see `event_count.rs` for
//! why this holds for the scan, too. Where nothing came since the last arming, bit and instance are as
//! they were left, and it stands.
//!
//! **Several instances of one handle** (its own, and that of a [`wait_any`](super::wait_any)) may watch
//! for the same bits: every touch reaches all of them, and every clearing follows a touch. Arming for
//! one keeps the bits of the other.
//!
//! **A touch wakes all that watch the file**, also handles that nothing has come for; they find nothing,
//! drain and arm. So a handle never touches the file on its own behalf. What makes its descriptor
//! readable for itself (asking for it, a look that finds something) touches a file of its own, which
//! nobody else watches: two handles cannot keep each other awake.
//!
//! **Effects come first**: bit before tag when arming; touch, then bit, then tag when notifying.
//!
//! | killed | left behind | what follows |
//! |---|---|---|
//! | waiter | perhaps bit and tag, and its part of `polled` | one touch for nobody, which clears bit and tag; whoever clears away after it mends `polled` |
//! | notifier, after the commit, before its look at `armed` or its touch | bit and tag | the next notifier touches; until then nobody does |
//! | notifier, after the touch | an event, and perhaps bit and tag | one touch too many |
//!
//! A notifier whose touch fails (it may no longer write to the file, or its descriptor was closed) leaves bit
//! and tag to the next one, and counts in `notify_failures`.
//!
//! A waiter in poll(2) has no slices. What no notifier tells it of (the last line but one, and the
//! death of the other end) it learns from its next call, so it should not poll without a timeout.
//! [`wait_any`](super::wait_any) looks by itself.
//!
//! A peer that scribbles in `poll` costs touches or takes them away from its victim, no more.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;

use super::arming::{self, Door};
use super::control::Control;
use super::engine::Engine;
use super::handle::Ring;
use super::seat::Calls;
use crate::error::{Error, Result};
use crate::object::{End, Object, Slot};
use crate::sync::EventCount;
use crate::sys::cancel;
use crate::sys::doorbell::{self, Bell, Doorbell};
use crate::sys::kept::refused;

/// What a ring or a descriptor is waited for, or has: bits with the values that poll(2) has on
/// Linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Events(pub u32);

impl Events {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// A pop may go on; a descriptor can be read.
    pub const IN: Self = Self(0x1);
    /// A push may go on; a descriptor can be written.
    pub const OUT: Self = Self(0x4);
    /// An error that lasts.
    pub const ERR: Self = Self(0x8);
    /// The end of the stream, or the death of whoever was at the other end.
    pub const HUP: Self = Self(0x10);

    /// Whether all of `other` is in it.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) const fn of(end: End) -> Self {
        match end {
            End::Producer => Self::OUT,
            End::Consumer => Self::IN,
        }
    }

    /// The ends that are meant, of those of a ring.
    pub(super) fn ends(self) -> impl Iterator<Item = End> {
        [End::Producer, End::Consumer].into_iter().filter(move |&end| self.contains(Self::of(end)))
    }

    /// [`Error`] unless it is one or both of those that can be asked for.
    pub(super) fn check(self, what: &str) -> Result<()> {
        if self == Self::NONE || self.0 & !(Self::IN.0 | Self::OUT.0) != 0 {
            return Err(Error::new(
                Errno::EINVAL,
                format_args!("{what}: events {:#x} are not IN, OUT or both", self.0),
            ));
        }
        Ok(())
    }
}

/// Bits of the ends in a slot's word.
pub(super) fn bits(ends: impl Iterator<Item = End>) -> u32 {
    ends.fold(0, |bits, end| bits | end.bit())
}

/// Wakes who waits for `end`, and returns 0. `extern "C"`, which cannot unwind, and with the result
/// of the C entries that end with it: such a call costs the fast paths no frame. A panic in it, which would be an error of this library, ends here.
#[cold]
#[inline(never)]
pub(super) extern "C" fn wake(ring: &Ring, end: End) -> i32 {
    let wake = || ring.event(end).notify_and(|| ring.ring_bells(end));
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(wake));
    0
}

/// Ends the waits of one handle from elsewhere: another thread, or a signal handler.
#[derive(Debug, Clone, Copy)]
pub struct Canceller<'a> {
    cancelled: &'a AtomicU32,
    bell: &'a Bell,
    watched: &'a AtomicU32,
    object: &'a Object,
    /// `None` for who may only read the ring, and looks again and again.
    control: Option<&'a Control>,
}

impl Canceller<'_> {
    /// Has the call that waits on the handle answer `ECANCELED`; if none does, the next one that
    /// would have to wait. Calls that need not wait, or must not, are not concerned.
    ///
    /// Async-signal-safe; leaves errno alone.
    pub fn cancel(&self) {
        let errno = Errno::last_raw();
        // SeqCst, with the fence of `disturb`'s increment: a waiter that armed before sees the
        // epoch moved, one that arms later sees this. For the bell likewise: see `Bell::note`.
        self.cancelled.store(1, Ordering::SeqCst);
        if let Some(control) = self.control {
            control.not_empty.0.disturb();
            control.not_full.0.disturb();
        }
        self.bell.ring();
        // SeqCst: as above, for a wait for many that watches the ring's file.
        if self.watched.load(Ordering::SeqCst) != 0 {
            // If it fails, the wait looks by itself within a slice.
            let _ = self.object.touch();
        }
        Errno::set_raw(errno);
    }
}

impl Door for Ring {
    fn drain(&self) -> Result<bool> {
        self.hot.calls.bell.drain().map_err(|errno| self.bell_gone(errno))
    }

    fn ring(&self) {
        self.hot.calls.bell.ring();
    }
}

impl Ring {
    /// A descriptor that is readable (`POLLIN`, whatever was asked for) when the ring may be ready
    /// for any of `events`, for poll(2), epoll(7) and what is made of them. At first it is; then
    /// until a call on this handle, at an end that was asked for, has answered `EAGAIN` and none of
    /// the others is ready. It may be readable for nothing.
    ///
    /// The descriptor is the handle's, and always the same; nobody else may read or close it. A call
    /// with other events replaces what was asked for, and makes it readable; one with the same events
    /// changes nothing. It takes the ends as their operations would.
    pub fn poll_fd(&self, events: Events) -> Result<BorrowedFd<'_>> {
        events.check(self.object.what())?;
        for end in events.ends() {
            self.hold(end)?;
        }
        self.hang_bell()?;
        let (calls, asked) = (&self.hot.calls, bits(events.ends()));
        if calls.asked.replace(asked) != asked {
            calls.bell.ring();
        }
        self.bell_fd()
    }

    /// What another thread, or a signal handler, ends this handle's waits with.
    pub fn canceller(&self) -> Canceller<'_> {
        let calls = &self.hot.calls;
        let control = (!self.is_readable_only()).then(|| self.control());
        let Calls { cancelled, bell, watched, .. } = calls;
        Canceller { cancelled, bell, watched, object: &self.object, control }
    }

    /// Whether a cancellation is due; it is over then.
    pub(super) fn take_cancellation(&self) -> bool {
        let cancelled = &self.hot.calls.cancelled;
        // Pairs with the store in `Canceller::cancel`, which comes before the wake that made this look.
        cancelled.load(Ordering::SeqCst) != 0 && cancelled.swap(0, Ordering::SeqCst) != 0
    }

    #[cold]
    pub(super) fn cancelled(&self) -> Error {
        self.refuse(Errno::ECANCELED, "the wait was cancelled")
    }

    /// Makes this process hold `end`, if it does not yet.
    pub(super) fn hold(&self, end: End) -> Result<()> {
        let held = match self.engine {
            Engine::Spsc => self.side(end).is_held(),
            _ => self.hot.seat.grip(end).held.get() != 0,
        };
        if held { Ok(()) } else { self.claim(end) }
    }

    fn bell_fd(&self) -> Result<BorrowedFd<'_>> {
        self.hot.calls.bell.fd().ok_or_else(|| self.bell_gone(Errno::EBADF))
    }

    fn bell_gone(&self, errno: Errno) -> Error {
        self.refuse(errno, "its descriptor to wait on was closed")
    }

    /// Makes the instance, once. An end is held, so this process is attached, unless it may only read.
    fn hang_bell(&self) -> Result<()> {
        if self.hot.calls.bell.exists() {
            return Ok(());
        }
        self.check_may_arm()?;
        cancel::without(|| {
            let made = Doorbell::new(self.object.anchor().file());
            let doorbell = made.map_err(|errno| self.no_doorbell(errno))?;
            self.hot.calls.bell.note(&doorbell, self.object.anchor().file());
            let mut held = self.held.take();
            held.bell = Some(doorbell);
            self.held.set(held);
            Ok(())
        })
    }

    /// Counts this handle among those that notifiers look for; before its first arming.
    pub(super) fn check_may_arm(&self) -> Result<()> {
        if self.is_readable_only() {
            let why = "this process may only read it, so nobody can tell it of anything";
            return Err(self.refuse(Errno::EACCES, why));
        }
        let index = self.hot.seat.me();
        let counted = |slot: &Slot| arming::count(&self.control().polled.0, &slot.poll, index);
        if self.slot().is_some_and(counted) {
            Ok(())
        } else {
            Err(self.refuse(Errno::EBADMSG, "others change its words all the time"))
        }
    }

    fn no_doorbell(&self, errno: Errno) -> Error {
        match errno {
            Errno::EUSERS => self.too_many(Errno::EMFILE, c"max_user_instances"),
            Errno::ENOSPC => self.too_many(Errno::ENOSPC, c"max_user_watches"),
            errno => {
                refused(errno, format_args!("{}: a descriptor to wait on", self.object.what()))
            }
        }
    }

    fn too_many(&self, errno: Errno, limit: &std::ffi::CStr) -> Error {
        let (name, value) = (limit.to_str().unwrap_or(""), doorbell::limit(limit));
        let value = value.as_str();
        self.refuse(
            errno,
            format_args!(
                "this user has as many inotify instances or watches as it may have; \
                 raise fs.inotify.{name} (now {value}) with sysctl(8)"
            ),
        )
    }

    /// Whether a call at `end` that returns `EAGAIN` has to arm.
    pub(super) fn is_polled(&self, end: End) -> bool {
        self.hot.calls.asked.get() & end.bit() != 0
    }

    /// Ends the readiness of the descriptor: what `attempt` gives at `end` after that, or `EAGAIN`.
    #[cold]
    #[inline(never)]
    pub(super) fn rearm<T>(
        &self,
        end: End,
        attempt: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let asked = self.hot.calls.asked.get();
        let Some(slot) = self.slot() else { return Err(Error::would_block()) };
        let other = asked & end.other().bit() != 0;
        let others = || other && !matches!(self.is_ready(end.other()), Ok(false));
        arming::rearm(self, &slot.poll, asked, self.events(asked), attempt, others)
    }

    /// Arms the ends of `ends` for a wait for many, beside what was asked for.
    pub(super) fn arm_beside(&self, ends: u32) {
        if let Some(slot) = self.slot() {
            let all = ends | self.hot.calls.asked.get();
            arming::arm(&slot.poll, all, true, self.events(ends));
        }
    }

    /// Whether the ends of `ends` are armed.
    pub(super) fn is_armed(&self, ends: u32) -> bool {
        self.slot().is_some_and(|slot| arming::is_armed(&slot.poll, ends))
    }

    fn events(&self, ends: u32) -> impl Iterator<Item = &EventCount> {
        let ends =
            [End::Producer, End::Consumer].into_iter().filter(move |end| ends & end.bit() != 0);
        ends.map(|end| self.event(end))
    }

    /// Announces a change that those who wait at `end` wait for.
    #[inline(always)]
    pub(super) fn notify(&self, end: End) {
        if self.event(end).is_armed() {
            wake(self, end);
        }
    }

    /// Rings at the doors of all handles that are armed at `end`; `false` if that failed and may succeed
    /// later. Leaves errno alone.
    #[cold]
    fn ring_bells(&self, end: End) -> bool {
        let errno = Errno::last_raw();
        let word = |index| Some(&self.object.slot(index)?.poll);
        let touch = || self.object.touch().is_ok();
        let all = arming::ring(&self.control().polled.0, word, end.bit(), touch);
        if !all {
            self.control().notify_failures.0.fetch_add(1, Ordering::Relaxed);
        }
        Errno::set_raw(errno);
        all
    }

    /// Leaves the handles that wait with a descriptor; for closing.
    pub(super) fn take_bell_down(&self, bell: Option<Doorbell>) {
        self.hot.calls.bell.clear();
        drop(bell);
        if let Some(slot) = self.slot() {
            self.discount(slot);
        }
    }

    /// Takes a handle, this one or a dead one whose lock byte is held, out of `polled`.
    pub(super) fn discount(&self, slot: &Slot) {
        arming::discount(&self.control().polled.0, &slot.poll);
    }
}
