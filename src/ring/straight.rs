//! The straight ways: what a call does when all it needs is at hand, or one look away; `fast` chooses. Nothing here
//! sleeps, fails or panics, and nothing but a wake-up leaves these functions: a look at private numbers, a
//! copy, and one release store; in kinds that many share, a claim. Who has gone through all it knew of
//! looks at the other side's index once more, or for a moment if it may wait.

use std::hint::spin_loop;
use std::ptr::NonNull;

use super::copy::is_blocks;
use super::demote::LARGE;
use super::engine::Engine;
use super::handle::Ring;
use super::poll::wake;
use super::seat::Hot;
use super::spsc::Core;
use crate::object::End;
use crate::sync::atomic::{AtomicU32, Ordering, fence};
use crate::sync::{EventCount, Spinner};

/// What one more look has brought.
pub(crate) enum Found {
    /// An item, which was popped; with the answer of the call.
    One(i32),
    /// Nothing: a call that does not wait would block.
    Nothing,
}

/// Rings with one producer and one consumer, one item at a time: what these ways need of a handle, and
/// the ways. A model checker runs them over a handle of its own.
pub(crate) trait ForTwo {
    fn core(&self) -> &Core;
    fn hot(&self) -> &Hot;
    fn spinner(&self) -> &Spinner;
    /// Whether the memory was found to be cut short.
    fn is_cut(&self) -> bool;
    /// Wakes the sleepers at `end`, and returns 0.
    fn wake(&self, end: End) -> i32;

    /// Whether `count` items, at least one, can be pushed without a look at the other side.
    #[inline(always)]
    fn has_room_for(&self, count: usize) -> bool {
        // Relaxed: a shutdown that races with a push may come after it.
        self.hot().push.ready() > (count as u64).wrapping_sub(1)
            && self.core().control().flags.0.load(Ordering::Relaxed) == 0
    }

    /// Whether `count` items, at least one, can be popped without a look at the other side.
    #[inline(always)]
    fn has_items(&self, count: usize) -> bool {
        self.hot().pop.ready() > (count as u64).wrapping_sub(1)
    }

    /// Pushes one item of eight bytes.
    ///
    /// # Safety
    /// `has_room_for(1)`; `item_size` is 8; `item` is readable for eight bytes.
    #[inline(always)]
    unsafe fn push_word(&self, item: *const u8) -> i32 {
        let event = self.core().control().event(End::Consumer);
        // SAFETY: the caller's promise.
        unsafe { self.core().push_word(&self.hot().push, item) };
        if event.is_armed() { self.wake(End::Consumer) } else { 0 }
    }

    /// Items by one more look at the producer's index. `None`: the slow way has something to say.
    #[inline(always)]
    fn look_again(&self) -> Option<u64> {
        let (side, control) = (&self.hot().pop, self.core().control());
        // Acquire, and before the look at the index: what was committed before a shutdown is seen by
        // everyone who sees the shutdown.
        if !side.is_held()
            || side.run() != 0
            || control.flags.0.load(Ordering::Acquire) != 0
            || self.is_cut()
        {
            return None;
        }
        self.core().seen(side).ok()
    }

    /// Pops one of `count` items that a look has found, unless it pays to wait for more.
    ///
    /// # Safety
    /// There are so many, at least one; `item` is writable for an item.
    #[inline(always)]
    unsafe fn pop_found(&self, count: u64, item: *mut u8, may_wait: bool) -> Option<i32> {
        if self.core().keeps_distance(&self.hot().pop, count, may_wait) {
            return None;
        }
        let event = self.core().control().event(End::Producer);
        self.core().believe(&self.hot().pop, count);
        // SAFETY: there is one at least; the caller vouches for the buffer.
        unsafe { self.core().pop_first(&self.hot().pop, item) };
        Some(if event.is_armed() { self.wake(End::Producer) } else { 0 })
    }

    /// When [`Ring::has_items`] says no and the caller does not wait: an item if one has come. `None`:
    /// the slow way is the right one.
    ///
    /// # Safety
    /// `item` is writable for an item.
    #[inline(always)]
    unsafe fn pop_at_heels(&self, item: *mut u8) -> Option<Found> {
        match self.look_again()? {
            // Who waits with a descriptor has it armed again on the slow way.
            0 if self.hot().calls.asked.get() & End::Consumer.bit() != 0 => None,
            0 => Some(Found::Nothing),
            // SAFETY: a look has found so many; the caller vouches for the buffer.
            count => unsafe { self.pop_found(count, item, false) }.map(Found::One),
        }
    }

    /// When [`Ring::has_items`] says no and the caller waits: an item that comes in the first moment of
    /// a spin, as an answer does. `None`: the slow way is the right one, which includes that items are
    /// there already, as in a stream: who takes each at once will find few at each look.
    ///
    /// # Safety
    /// `item` is writable for an item.
    #[inline(always)]
    unsafe fn pop_in_a_moment(&self, item: *mut u8) -> Option<i32> {
        let turns = self.spinner().moment();
        if turns == 0 || self.hot().calls.is_cancelled() || self.look_again()? != 0 {
            return None;
        }
        for look in 0..turns {
            // Two looks a pause: with one, round trips go in steps of a pause.
            if look % 2 == 0 {
                spin_loop();
            }
            match self.look_again()? {
                0 if self.hot().calls.is_cancelled() => return None,
                0 => {}
                count => {
                    self.spinner().helped(look);
                    // SAFETY: a look has found so many; the caller vouches for the buffer.
                    return unsafe { self.pop_found(count, item, true) };
                }
            }
        }
        None
    }

    /// Pops one item of eight bytes.
    ///
    /// # Safety
    /// `has_items(1)`; `item_size` is 8; `item` is writable for eight bytes.
    #[inline(always)]
    unsafe fn pop_word(&self, item: *mut u8) -> i32 {
        let event = self.core().control().event(End::Producer);
        // SAFETY: the caller's promise.
        unsafe { self.core().pop_word(&self.hot().pop, item) };
        if event.is_armed() { self.wake(End::Producer) } else { 0 }
    }

    /// Whether items are short and made of blocks, which are copied with few registers.
    #[inline(always)]
    fn has_blocks(&self) -> bool {
        is_blocks(self.core().item_size())
    }

    /// Whether items are so large that popping one is more than copying it, see `demote`.
    #[inline(always)]
    fn has_large_items(&self) -> bool {
        self.core().item_size() >= LARGE
    }

    /// Pushes one item.
    ///
    /// # Safety
    /// `has_room_for(1)`; `item` is readable for an item; `BLOCKS`: `has_blocks()`.
    #[inline(always)]
    unsafe fn push_sized<const BLOCKS: bool>(&self, item: *const u8) -> i32 {
        let event = self.core().control().event(End::Consumer);
        // SAFETY: the caller's promise.
        unsafe { self.core().push_sized::<BLOCKS>(&self.hot().push, item) };
        if event.is_armed() { self.wake(End::Consumer) } else { 0 }
    }

    /// Pops one item.
    ///
    /// # Safety
    /// `has_items(1)`; `item` is writable for an item; `BLOCKS`: `has_blocks()`.
    #[inline(always)]
    unsafe fn pop_sized<const BLOCKS: bool>(&self, item: *mut u8) -> i32 {
        let event = self.core().control().event(End::Producer);
        // SAFETY: the caller's promise.
        unsafe { self.core().pop_sized::<BLOCKS>(&self.hot().pop, item) };
        if event.is_armed() { self.wake(End::Producer) } else { 0 }
    }
}

impl ForTwo for Ring {
    #[inline(always)]
    fn core(&self) -> &Core {
        &self.core
    }

    #[inline(always)]
    fn hot(&self) -> &Hot {
        &self.hot
    }

    #[inline(always)]
    fn spinner(&self) -> &Spinner {
        &self.spinner
    }

    #[inline(always)]
    fn is_cut(&self) -> bool {
        self.object.region().is_cut()
    }

    #[inline(always)]
    fn wake(&self, end: End) -> i32 {
        wake(self, end)
    }
}

/// Rings with one producer and one consumer: many items at once, and in place.
impl Ring {
    /// Pushes `count` items.
    ///
    /// # Safety
    /// `has_room_for(count)`, at least one; `items` is readable for so many.
    #[inline(always)]
    pub(crate) unsafe fn push_at_once(&self, items: *const u8, count: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.core.push_run(&self.hot.push, items, count as u64) };
        self.notify(End::Consumer);
    }

    /// Pops `count` items.
    ///
    /// # Safety
    /// `has_items(count)`, at least one; `items` is writable for so many.
    #[inline(always)]
    pub(crate) unsafe fn pop_at_once(&self, items: *mut u8, count: usize) {
        // SAFETY: the caller's promise.
        unsafe { self.core.pop_run(&self.hot.pop, items, count as u64) };
        self.notify(End::Producer);
    }

    /// Hands out free slots, at most `count`, for which [`Ring::has_room_for`] holds; not 0.
    #[inline(always)]
    pub(crate) fn reserve_at_once(&self, count: usize) -> (NonNull<u8>, usize) {
        let (first, run) = self.core.hand_out_ready(&self.hot.push, count as u64);
        (first, run as usize)
    }

    /// Hands out items, at most `count`, for which [`Ring::has_items`] holds; not 0.
    #[inline(always)]
    pub(crate) fn peek_at_once(&self, count: usize) -> (NonNull<u8>, usize) {
        let (first, run) = self.core.hand_out_ready(&self.hot.pop, count as u64);
        (first, run as usize)
    }

    /// Whether the whole run that is handed out at the producing end is committed with `count`.
    #[inline(always)]
    pub(crate) fn commits_at_once(&self, count: usize) -> bool {
        count > 0
            && self.hot.push.run() == count as u64
            && self.core.control().flags.0.load(Ordering::Relaxed) == 0
    }

    /// Commits the run; `commits_at_once(count)`.
    #[inline(always)]
    pub(crate) fn commit_at_once(&self, count: usize) -> i32 {
        let event = self.event(End::Consumer);
        self.core.commit_run(&self.hot.push, count as u64);
        if event.is_armed() { wake(self, End::Consumer) } else { 0 }
    }

    /// Whether the whole run that is handed out at the consuming end is released with `count`.
    #[inline(always)]
    pub(crate) fn releases_at_once(&self, count: usize) -> bool {
        count > 0 && self.hot.pop.run() == count as u64
    }

    /// Releases the run; `releases_at_once(count)`. `LARGE`: `has_large_items()`.
    #[inline(always)]
    pub(crate) fn release_at_once<const LARGE: bool>(&self, count: usize) -> i32 {
        let event = self.event(End::Producer);
        if LARGE {
            self.core.demote(&self.hot.pop, count as u64);
        }
        self.core.free_run(&self.hot.pop, count as u64);
        if event.is_armed() { wake(self, End::Producer) } else { 0 }
    }
}

/// The same for rings with many producers and consumers.
impl Ring {
    /// Pushes one item if that goes straight ahead, and then returns 0. `WORD`: items have eight bytes.
    ///
    /// # Safety
    /// `item` is readable for [`Ring::item_size`] bytes; `WORD` is so.
    #[inline(always)]
    pub(crate) unsafe fn push_straight<const WORD: bool>(&self, item: *const u8) -> Option<i32> {
        let seat = &self.hot.seat;
        let Engine::Mpmc { core, .. } = &self.engine else { return None };
        let control = core.memory().control();
        let event = control.event(End::Consumer);
        // Relaxed: a shutdown that races with a push may come after it.
        if !seat.push.is_free() || control.flags.0.load(Ordering::Relaxed) != 0 {
            return None;
        }
        // SAFETY: the end is held, which includes being attached; the caller vouches for the item.
        if !unsafe { core.push_one::<WORD>(seat.me(), item) } {
            return None;
        }
        Some(if event.is_armed() { wake(self, End::Consumer) } else { 0 })
    }

    /// Pops one item if that goes straight ahead, and then returns 0. `WORD`: items have eight bytes.
    ///
    /// # Safety
    /// `item` is writable for [`Ring::item_size`] bytes; `WORD` is so.
    #[inline(always)]
    pub(crate) unsafe fn pop_straight<const WORD: bool>(&self, item: *mut u8) -> Option<i32> {
        let seat = &self.hot.seat;
        let Engine::Mpmc { core, .. } = &self.engine else { return None };
        let control = core.memory().control();
        let event = control.event(End::Producer);
        if !seat.pop.is_free() || control.flags.0.load(Ordering::Relaxed) != 0 {
            return None;
        }
        // SAFETY: the end is held, which includes being attached; the caller vouches for the buffer.
        if !unsafe { core.pop_one::<WORD>(seat.me(), item) } {
            return None;
        }
        Some(if event.is_armed() { wake(self, End::Producer) } else { 0 })
    }

    /// Whether a pop that does not wait has nothing to take, and the slow path nothing to say or to do
    /// about that.
    #[inline(always)]
    pub(crate) fn is_plainly_empty(&self) -> bool {
        let pop = &self.hot.seat.pop;
        let Engine::Mpmc { core, .. } = &self.engine else { return false };
        // Relaxed: a shutdown that races with a pop may come after it.
        pop.is_free()
            && core.memory().control().flags.0.load(Ordering::Relaxed) == 0
            && !self.is_polled(End::Consumer)
            && !self.object.region().is_cut()
            && core.is_plainly_empty(&pop.limit, &pop.vain)
    }
}

/// The same for broadcasts that wait for their consumers.
impl Ring {
    /// Pushes one item if that goes straight ahead, and then returns 0. `WORD`: items have eight bytes.
    ///
    /// # Safety
    /// `item` is readable for [`Ring::item_size`] bytes; `WORD` is so.
    #[inline(always)]
    pub(crate) unsafe fn push_to_all<const WORD: bool>(&self, item: *const u8) -> Option<i32> {
        let grip = &self.hot.seat.push;
        let Engine::Gated(core) = &self.engine else { return None };
        let control = core.memory().control();
        let event = control.event(End::Consumer);
        // Relaxed: a shutdown that races with a push may come after it.
        if !grip.is_free() || control.flags.0.load(Ordering::Relaxed) != 0 {
            return None;
        }
        // SAFETY: the end is held; the caller vouches for the item.
        if !unsafe { core.push_one::<WORD>(grip, item) } {
            return None;
        }
        Some(if event.is_armed() { wake(self, End::Consumer) } else { 0 })
    }

    /// Pops one item if that goes straight ahead, and then returns 0. `WORD`: items have eight bytes.
    ///
    /// # Safety
    /// `item` is writable for [`Ring::item_size`] bytes; `WORD` is so.
    #[inline(always)]
    pub(crate) unsafe fn pop_as_all<const WORD: bool>(&self, item: *mut u8) -> Option<i32> {
        let seat = &self.hot.seat;
        let Engine::Gated(core) = &self.engine else { return None };
        let control = core.memory().control();
        let event = control.event(End::Producer);
        if !seat.pop.is_free() || control.flags.0.load(Ordering::Relaxed) != 0 {
            return None;
        }
        // SAFETY: the end is held, so it has joined; the caller vouches for the buffer.
        if !unsafe { core.pop_one::<WORD>(seat.me(), &seat.pop, item) } {
            return None;
        }
        Some(if event.is_armed() { wake_if_room(self) } else { 0 })
    }
}

/// Wakes the producer if it sleeps and can go on. As [`wake`], always 0.
#[cold]
#[inline(never)]
pub(super) extern "C" fn wake_if_room(ring: &Ring) -> i32 {
    let (event, polled) = (ring.event(End::Producer), &ring.control().polled.0);
    let wakes = || is_to_be_woken(event, polled, || ring.engine.lets_push());
    let wakes = std::panic::catch_unwind(std::panic::AssertUnwindSafe(wakes));
    if wakes.unwrap_or(true) { wake(ring, End::Producer) } else { 0 }
}

/// Whether a producer sleeps at `event`, or may have a descriptor for it, and can go on.
pub(super) fn is_to_be_woken(
    event: &EventCount,
    polled: &AtomicU32,
    lets_push: impl FnOnce() -> bool,
) -> bool {
    // Pairs with the fence of who arms, where membarrier cannot be had and every reader comes here.
    fence(Ordering::SeqCst);
    let polled = polled.load(Ordering::Relaxed);
    // Who waits with a descriptor looks at nothing by itself: it hears of every read, and finds out
    // then whether somebody dead is in its way.
    event.has_sleeper() && (polled != 0 || lets_push())
}
