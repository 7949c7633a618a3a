#![forbid(unsafe_code)]
//! Waiting with a descriptor: a FIFO for each handle that asks for one, which others write to.
//!
//! Two invariants, for each end that a handle has asked for:
//!
//! 1. The FIFO has a byte, or the end is *armed*: its bit stands in the slot's `poll` word and the
//!    end's event count is armed, and the end has been looked at since.
//! 2. Who makes an armed end ready writes a byte.
//!
//! So the descriptor is readable whenever an end may be ready, and the only call that makes it
//! unreadable is the one that is about to answer `EAGAIN`:
//!
//! ```text
//! waiter (would answer EAGAIN)            notifier
//! drain the FIFO                          commit
//! poll = (arming + 1, bits)               armed == 0 → done, no system call
//! fence; arm the event count, barrier     seq += 2; futex wake; fence
//! look again: there is something →        for each slot with the bit: p = poll
//!     write a byte, return it                 write a byte to its FIFO
//! nothing → EAGAIN                            poll: p → p without the bit   (compare-and-swap)
//!                                         armed: tag → 0                    (compare-and-swap)
//! ```
//!
//! **Draining loses no byte.** The byte of a notifier that was drained was written after its commit,
//! which the waiter's second look therefore sees. That notifier clears the bit afterwards, but only
//! of the arming that it saw: the number in `poll` has moved, its compare-and-swap fails, and the
//! new arming stands. Both ends are drained together, so both are armed and looked at together.
//!
//! **A byte comes.** A commit that the second look did not see is followed, after the barrier, by a
//! look at `armed`, which finds a tag; then by a scan, which finds the bit: see `event_count.rs` for
//! why this holds for the scan, too. Where nothing came since the last arming, bit and FIFO are as
//! they were left, and it stands.
//!
//! **Effects come first**: bit before tag when arming; byte, then bit, then tag when notifying.
//!
//! | killed | left behind | what follows |
//! |---|---|---|
//! | waiter, before the FIFO has its name | perhaps a temporary name | it goes: see `object/bell.rs` |
//! | waiter, later | a name, and perhaps bit and tag | one byte for nobody, which clears both; the name: see `object/bell.rs` |
//! | notifier, after the commit, before its look at `armed` or its byte | bit and tag | the next notifier writes; until then nobody does |
//! | notifier, after the byte | byte, and perhaps bit and tag | one byte too many |
//!
//! A waiter in poll(2) has no slices. What no notifier tells it of (the last line but one, and the
//! death of the other end) it learns from its next call, so it should not poll without a timeout.
//! [`wait_any`](super::wait_any) looks by itself.
//!
//! A peer that scribbles in `poll` costs bytes or takes them away from its victim, no more.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::sys::stat::fstat;

use super::control::Control;
use super::engine::Engine;
use super::handle::Ring;
use crate::error::{Error, Result};
use crate::object::{BellName, End, POLLED_ENDS as ENDS, Slot};
use crate::sys::cancel;
use crate::sys::fifo::{self, Bell, Fifo, Rung};

/// One arming.
const ARMING: u32 = ENDS + 1;

/// How often a bit is tried to be cleared that others change meanwhile.
const TRIES: u32 = 8;

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
        Errno::set_raw(errno);
    }
}

impl Ring {
    /// A descriptor that is readable (`POLLIN`, whatever was asked for) when the ring may be ready
    /// for any of `events`, for poll(2), epoll(7) and what is made of them. At first it is; then
    /// until a call on this handle, at an end that was asked for, has answered `EAGAIN` and none of
    /// the others is ready. It may be readable for nothing.
    ///
    /// The descriptor is the handle's, and always the same; nobody else may read or close it. Every
    /// call replaces what was asked for. It takes the ends as their operations would.
    pub fn poll_fd(&self, events: Events) -> Result<BorrowedFd<'_>> {
        events.check(self.object.what())?;
        for end in events.ends() {
            self.hold(end)?;
        }
        self.hang_bell()?;
        let calls = &self.hot.calls;
        calls.asked.set(bits(events.ends()));
        calls.bell.ring();
        self.bell_fd()
    }

    /// What another thread, or a signal handler, ends this handle's waits with.
    pub fn canceller(&self) -> Canceller<'_> {
        let calls = &self.hot.calls;
        let control = (!self.is_readable_only()).then(|| self.control());
        Canceller { cancelled: &calls.cancelled, bell: &calls.bell, control }
    }

    /// Whether a cancellation is due; it is over then.
    pub(super) fn take_cancellation(&self) -> bool {
        let cancelled = &self.hot.calls.cancelled;
        // Pairs with the store in `Canceller::cancel`, which comes before the wake that made this look.
        cancelled.load(Ordering::SeqCst) != 0 && cancelled.swap(0, Ordering::SeqCst) != 0
    }

    /// Whether a call that waits is to end; [`Ring::take_cancellation`] makes it so.
    #[inline(always)]
    pub(super) fn is_cancelled(&self) -> bool {
        // Relaxed: a hint, looked at again on the slow way.
        self.hot.calls.cancelled.load(Ordering::Relaxed) != 0
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

    pub(super) fn bell_fd(&self) -> Result<BorrowedFd<'_>> {
        self.hot.calls.bell.fd().ok_or_else(|| self.bell_gone(Errno::EBADF))
    }

    fn bell_gone(&self, errno: Errno) -> Error {
        self.refuse(errno, "its descriptor to wait on was closed")
    }

    /// Makes the FIFO, once. An end is held, so this process is attached, unless it may only read.
    pub(super) fn hang_bell(&self) -> Result<()> {
        if self.hot.calls.bell.exists() {
            return Ok(());
        }
        if self.is_readable_only() {
            let why = "this process may only read it, so nobody can tell it of anything";
            return Err(self.refuse(Errno::EACCES, why));
        }
        cancel::without(|| {
            let index = self.hot.seat.me();
            let name = self.slot().and_then(|slot| self.object.bell(index, slot.generation()));
            let name = name.ok_or_else(|| {
                self.refuse(
                    Errno::ENOSYS,
                    "was made where the kernel gave no random number, so has no name to wait at",
                )
            })?;
            let failed =
                |errno| Error::from_kernel(errno, format_args!("{:?}", name.path().as_c_str()));
            // Before there is a name: whoever clears away after us looks as far as this.
            self.control().polled.0.fetch_max(index + 1, Ordering::SeqCst);
            let ring = self.object.anchor().file().fd().and_then(fstat).map_err(failed)?;
            let (path, temporary) = (name.path(), name.temporary());
            let fifo = fifo::make(path.as_c_str(), temporary.as_c_str(), &ring).map_err(failed)?;
            self.hot.calls.bell.note(&fifo);
            let mut held = self.held.take();
            held.bell = Some((fifo, name));
            self.held.set(held);
            Ok(())
        })
    }

    /// Whether a call at `end` that answers `EAGAIN` has to arm.
    pub(super) fn is_polled(&self, end: End) -> bool {
        self.hot.calls.asked.get() & end.bit() != 0
    }

    /// Ends the readiness of the descriptor: what `attempt` gives at `end` after that, or `EAGAIN`.
    #[cold]
    #[inline(never)]
    pub(super) fn rearm<T>(
        &self,
        end: End,
        mut attempt: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let calls = &self.hot.calls;
        let asked = calls.asked.get();
        if !self.arm_bell(asked)? {
            return Err(Error::would_block());
        }
        let found = attempt();
        let nothing = matches!(found, Ok(None));
        let other = asked & end.other().bit() != 0;
        if !nothing || other && !matches!(self.is_ready(end.other()), Ok(false)) {
            calls.bell.ring();
        }
        found?.ok_or_else(Error::would_block)
    }

    /// Empties the FIFO and arms the ends of `asked`. `false` if there was nothing to do: they are
    /// armed since they were last looked at, and no byte has come.
    pub(super) fn arm_bell(&self, asked: u32) -> Result<bool> {
        let drained = self.hot.calls.bell.drain().map_err(|errno| self.bell_gone(errno))?;
        let Some(slot) = self.slot() else { return Ok(true) };
        let word = &slot.poll;
        // After the draining: a notifier that clears a bit from now on has its byte still inside.
        let before = word.load(Ordering::Acquire);
        if !drained && before & ENDS == asked {
            return Ok(false);
        }
        word.store((before & !ENDS).wrapping_add(ARMING) | asked, Ordering::SeqCst);
        for end in [End::Producer, End::Consumer] {
            if asked & end.bit() != 0 {
                self.event(end).arm_firmly();
            }
        }
        Ok(true)
    }

    /// Whether exactly the ends of `asked` are armed.
    pub(super) fn is_armed(&self, asked: u32) -> bool {
        // Acquire: pairs with the AcqRel in `ring_bell`: where a bit is gone the byte is in the FIFO.
        self.slot().is_some_and(|slot| slot.poll.load(Ordering::Acquire) & ENDS == asked)
    }

    /// Announces a change that those who wait at `end` wait for.
    #[inline(always)]
    pub(super) fn notify(&self, end: End) {
        if self.event(end).is_armed() {
            wake(self, end);
        }
    }

    /// Rings at the doors of all handles that are armed at `end`; `false` if that failed somewhere
    /// and may succeed later. Leaves errno alone.
    #[cold]
    fn ring_bells(&self, end: End) -> bool {
        let polled = self.control().polled.0.load(Ordering::Relaxed);
        if polled == 0 {
            return true;
        }
        let errno = Errno::last_raw();
        let mut all = true;
        for index in 0..polled.min(self.object.geometry().max_handles) {
            let Some(slot) = self.object.slot(index) else { break };
            // After the fence in `EventCount::wake`, which pairs with that of `arm_firmly`: who is not
            // seen here looks again. Acquire: pairs with the store in `arm`: its FIFO is there.
            let word = slot.poll.load(Ordering::Acquire);
            if word & end.bit() != 0 && !self.ring_bell(index, slot, end, word) {
                all = false;
            }
        }
        Errno::set_raw(errno);
        all
    }

    fn ring_bell(&self, index: u32, slot: &Slot, end: End, mut word: u32) -> bool {
        let Some(name) = self.object.bell(index, slot.generation()) else { return true };
        let owners = [slot.uid(), self.object.owner()];
        if fifo::ring_at(name.path().as_c_str(), owners) == Rung::Not {
            return false;
        }
        let arming = word & !ENDS;
        for _ in 0..TRIES {
            // AcqRel: whoever finds the bit gone finds the byte.
            let order = (Ordering::AcqRel, Ordering::Acquire);
            match slot.poll.compare_exchange(word, word & !end.bit(), order.0, order.1) {
                Ok(_) => break,
                Err(now) if now & !ENDS == arming && now & end.bit() != 0 => word = now,
                // Somebody else has cleared it, or a new arming stands.
                Err(_) => break,
            }
        }
        true
    }

    /// Removes the name of this handle's FIFO, and those that the dead have left; for closing.
    pub(super) fn take_bell_down(&self, bell: Option<(Fifo, BellName)>) {
        self.hot.calls.bell.clear();
        if let Some((fifo, name)) = bell {
            if let Some(slot) = self.slot() {
                slot.poll.fetch_and(!ENDS, Ordering::AcqRel);
            }
            fifo::remove(name.path().as_c_str());
            drop(fifo);
        }
        let polled = self.control().polled.0.load(Ordering::Relaxed);
        for index in 0..polled.min(self.object.geometry().max_handles) {
            let Some(slot) = self.object.slot(index) else { break };
            // Before the lock is asked for: an owner that comes in between has another one.
            let generation = slot.generation();
            if slot.is_in_use() && !self.object.is_alive(index) {
                self.remove_bell(index, generation);
            }
        }
    }

    /// Removes the name of a dead handle's FIFO, for whoever has its slot's lock.
    pub(super) fn remove_bell_of(&self, index: u32, slot: &Slot) {
        if index < self.control().polled.0.load(Ordering::Relaxed) {
            self.remove_bell(index, slot.generation());
        }
    }

    fn remove_bell(&self, index: u32, generation: u32) {
        if let Some(name) = self.object.bell(index, generation) {
            name.remove();
        }
    }

    /// For whoever leaves a wait on the descriptor and may have taken its byte: readable again, if
    /// the program waits on it, too.
    pub(super) fn leave_bell(&self) {
        if self.hot.calls.asked.get() != 0 {
            self.hot.calls.bell.ring();
        }
    }
}
