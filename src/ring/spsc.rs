//! The core of a ring with one producer and one consumer: Lamport's bounded buffer (CACM 20(11),
//! 1977, free-running indices) with each side's view of the other's index cached (as the control
//! variables of MCRingBuffer: Lee, Bu and Chandranmenon, IPDPS 2010).
//!
//! Works on checked memory and knows no names, no descriptors and no sleeping. Wait-free: every
//! operation is a bounded number of steps of its own.
//!
//! ```text
//! push:  tail == limit?  limit = head + capacity; still equal → full
//!        copy into slot[tail & mask];  tail += 1;  shared tail = tail (Release): the commit
//! pop:   head == limit?  limit = shared tail;     still equal → empty
//!        copy out of slot[head & mask]; head += 1; shared head = head (Release): the slot is free
//! ```
//!
//! Invariants: `head <= tail <= head + capacity` in wrapping arithmetic; slots `head..tail` belong
//! to the consumer, the others to the producer; each index is written by one side only, and a side
//! reads its own index from shared memory once, when it takes its end.
//!
//! # The last item, on the line of the index
//!
//! A consumer at the producer's heels finds one item, and needs two lines for it: that of `tail`, and
//! that of the slot, which the producer had to take away from it first. So a push of one item of eight
//! bytes writes the item beside `tail` as well, and the slots' lines stay where they are:
//!
//! ```text
//! push i:  slot;  words[i & 1] = item;  after = i + 1;  tail = i + 1   (Release, each)
//! pop i:   tail was i + 1, after = i + 1;  item = words[i & 1] (Acquire);  tail still i + 1? else the slot
//! ```
//!
//! If `after = tail = i + 1`, word `i & 1` is item i or a later one: whoever takes the producing end sets
//! `after` to `tail - 1`, which no later `tail` is, so a dead predecessor's `after` is not believed, and
//! pushes of runs leave it behind. A later item goes to that word after `tail = i + 2` at the soonest was
//! stored; a consumer that read it finds that `tail`, and takes the item from the slot. What happens when
//! somebody is killed is as without it: `tail` commits, and slots are what a successor reads.
//!
//! | killed after | left behind | the successor |
//! |---|---|---|
//! | nothing, or part of the bytes (also anywhere between reserve and commit) | bytes beyond `tail`, invisible | starts at `tail` and overwrites them: the item is lost, nobody was told it was sent |
//! | the store to `tail` | the item, committed | delivers it, once |
//! | pop: bytes copied, `head` not stored | nothing | delivers the same item: its first taker never returned with it |
//! | pop: `head` stored, call not returned | nothing | the item is lost with its taker |
//!
//! So: order kept, no torn item, no item twice among returned pops, at most the item in flight lost.
//! With peek and release an item may be processed and then delivered again: "processed" and
//! "released" cannot be one step.
//!
//! A hostile peer can store anything anywhere. Its index is compared with our own before use
//! (`> capacity` apart is corruption), indices are masked before they address a slot, and our own
//! index is never read back: its lies cost items, not memory safety.

use std::cell::Cell;
use std::num::NonZeroU64;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use super::control::Control;
use super::copy::{
    copy_blocks_in, copy_blocks_out, copy_in, copy_out, flush_run, prefetch_run,
    prefetch_run_to_write,
};
use super::demote::{self, Demotion};
use super::pace::Pace;
use crate::object::EXACT_ABOVE;
use crate::sys::sigbus::CUT;
use crate::time::now;

/// One side's private state. All zero means: this end is not held in this process.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Side {
    /// Our own index: items ever pushed, or popped.
    index: Cell<u64>,
    /// How far `index` may go without another look at the peer's index.
    limit: Cell<u64>,
    /// Items handed out by reserve or peek and not given back yet; meanwhile nothing is ready. The
    /// handler of SIGBUS adds [`CUT`] when the ring's memory has lost a page: nothing is ready then,
    /// ever.
    run: AtomicU64,
    /// 1 if this process holds the end.
    held: Cell<u32>,
    pace: Pace,
    demotion: Demotion,
}

/// Tells the compiler which branch to lay out of the way.
#[cold]
fn unlikely() {}

/// Most bytes whose lines are pushed out at once. No less than the largest item of which that is done.
const MOST_FLUSHED: usize = 256 << 10;

/// The peer's index is impossible.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Corrupt;

impl Side {
    pub(crate) fn is_held(&self) -> bool {
        self.held.get() != 0
    }

    /// Items that may be written, or read, without a look at the peer's index.
    #[inline(always)]
    pub(crate) fn ready(&self) -> u64 {
        if self.run.load(Ordering::Relaxed) != 0 {
            0
        } else {
            self.limit.get().wrapping_sub(self.index.get())
        }
    }

    /// Items handed out in place.
    #[inline(always)]
    pub(crate) fn run(&self) -> u64 {
        self.run.load(Ordering::Relaxed)
    }

    /// As [`Side::run`], whether the ring is whole or not.
    pub(crate) fn handed_out(&self) -> u64 {
        self.run() & !CUT
    }

    /// What the handler of SIGBUS marks.
    pub(crate) fn mark(&self) -> &AtomicU64 {
        &self.run
    }

    /// Whether the handler of SIGBUS has marked it.
    pub(crate) fn is_cut(&self) -> bool {
        self.run() & CUT != 0
    }

    fn take(&self, index: u64) {
        self.index.set(index);
        self.limit.set(index);
        self.run.store(self.run() & CUT, Ordering::Relaxed);
        self.held.set(1);
    }

    /// Lets go of the end in this process.
    pub(crate) fn let_go(&self) {
        self.held.set(0);
        self.run.store(self.run() & CUT, Ordering::Relaxed);
        self.limit.set(self.index.get());
    }

    #[inline(always)]
    fn hand_out(&self, run: u64) {
        self.run.store(run, Ordering::Relaxed);
    }

    /// The new index after `count` items of the run were used.
    #[inline(always)]
    fn take_back(&self, count: u64) -> u64 {
        let index = self.index.get().wrapping_add(count);
        self.index.set(index);
        self.run.store(self.run() & CUT, Ordering::Relaxed);
        index
    }
}

/// A ring's memory, as one handle sees it.
#[derive(Debug)]
pub(crate) struct Core {
    slots: NonNull<u8>,
    /// The capacity - 1; 0 if the capacity is no power of two, of items of more than 1024 bytes.
    mask: u64,
    capacity: NonZeroU64,
    item_size: usize,
    /// Whether a consumer looks into demoting the lines of what it has read.
    demotes: bool,
    control: NonNull<Control>,
}

// SAFETY: shared memory belongs to the process; who uses an end's functions is the owner of the
// handle, whichever thread that is.
unsafe impl Send for Core {}

impl Core {
    /// # Safety
    /// For as long as the result is used: `control` is a control page, and `slots` the first of
    /// `capacity * item_size` writable bytes, which fit `isize`. `capacity` is a power of two,
    /// or items have more than 1024 bytes; and the caller holds an end (by its kernel lock) before it uses that end's functions.
    pub(crate) unsafe fn new(
        control: NonNull<Control>,
        slots: NonNull<u8>,
        capacity: u64,
        item_size: u32,
    ) -> Self {
        let item_size = item_size as usize;
        let demotes = demote::is_of_use(capacity, item_size);
        let mask = if capacity.is_power_of_two() { capacity - 1 } else { 0 };
        debug_assert!(mask == capacity - 1 || item_size > EXACT_ABOVE as usize);
        let capacity = NonZeroU64::new(capacity).unwrap_or(NonZeroU64::MIN);
        Self { slots, mask, capacity, item_size, demotes, control }
    }

    #[inline(always)]
    pub(crate) fn control(&self) -> &Control {
        // SAFETY: `new`'s contract; the page consists of atomics.
        unsafe { self.control.as_ref() }
    }

    #[inline(always)]
    pub(crate) fn item_size(&self) -> usize {
        self.item_size
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.capacity.get()
    }

    /// Starts producing where the last producer stopped.
    pub(crate) fn take_push(&self, side: &Side) -> Result<(), Corrupt> {
        // Acquire: pairs with the predecessor's commits, after which its lock was freed.
        let tail = &self.control().tail;
        let index = tail.0.load(Ordering::Acquire);
        side.take(index);
        // Release: before every tail of ours. What the predecessor has copied there it may not have
        // committed.
        tail.1.after.store(index.wrapping_sub(1), Ordering::Release);
        self.look_push(side).map(drop)
    }

    /// Starts consuming where the last consumer stopped.
    pub(crate) fn take_pop(&self, side: &Side) -> Result<(), Corrupt> {
        // Acquire: pairs with what the predecessor freed, after which its lock was freed.
        side.take(self.control().head.0.load(Ordering::Acquire));
        self.look_pop(side, false).map(drop)
    }

    /// Room there is now, by the consumer's index. Pauses in a fast stream that has little of it.
    pub(crate) fn look_push(&self, side: &Side) -> Result<u64, Corrupt> {
        let room = self.room(side)?;
        if side.pace.pays(room, self.capacity()) {
            return side.pace.gather(room, self.capacity(), || self.room(side));
        }
        Ok(room)
    }

    /// Items there are now, by the producer's index. Pauses in a fast stream that has few of them.
    pub(crate) fn look_pop(&self, side: &Side, may_wait: bool) -> Result<u64, Corrupt> {
        let there = self.there(side)?;
        if may_wait && self.lags(side, there) {
            let look = || self.there(side);
            return side.demotion.gather(there, self.capacity(), self.item_size, look);
        }
        if side.pace.pays(there, self.capacity()) {
            return side.pace.gather(there, self.capacity(), || self.there(side));
        }
        Ok(there)
    }

    fn room(&self, side: &Side) -> Result<u64, Corrupt> {
        // Acquire: pairs with the Release store in `free`: what the consumer read, it has read.
        let head = self.control().head.0.load(Ordering::Acquire);
        let used = side.index.get().wrapping_sub(head);
        if used > self.capacity() {
            return Err(Corrupt);
        }
        side.limit.set(head.wrapping_add(self.capacity()));
        Ok(self.capacity() - used)
    }

    /// Whether to pause a moment for more than `count`, or, who `may_wait`, some more of them.
    #[inline(always)]
    pub(crate) fn keeps_distance(&self, side: &Side, count: u64, may_wait: bool) -> bool {
        side.pace.pays(count, self.capacity()) || may_wait && self.lags(side, count)
    }

    /// Whether to let the ring fill first.
    #[inline(always)]
    fn lags(&self, side: &Side, count: u64) -> bool {
        self.demotes && side.demotion.lags(count, self.capacity(), self.item_size)
    }

    /// Items there are now; `side.ready()` says the same from then on.
    fn there(&self, side: &Side) -> Result<u64, Corrupt> {
        let there = self.seen(side)?;
        self.believe(side, there);
        Ok(there)
    }

    /// Items there are now, of which `side` takes no note: whoever finds few may want to look again.
    #[inline(always)]
    pub(crate) fn seen(&self, side: &Side) -> Result<u64, Corrupt> {
        // Acquire: pairs with the Release store in `commit`: the items' bytes are there.
        let tail = self.control().tail.0.load(Ordering::Acquire);
        let there = tail.wrapping_sub(side.index.get());
        if there > self.capacity() { Err(Corrupt) } else { Ok(there) }
    }

    /// Makes the items that [`Core::seen`] has counted ready.
    #[inline(always)]
    pub(crate) fn believe(&self, side: &Side, there: u64) {
        side.limit.set(side.index.get().wrapping_add(there));
    }

    /// The number of the slot of `index`: right for ever, as no index comes to 2^64.
    #[inline(always)]
    fn place(&self, index: u64) -> u64 {
        if self.mask != 0 {
            return index & self.mask;
        }
        unlikely();
        index % self.capacity
    }

    #[inline(always)]
    fn slot(&self, index: u64) -> NonNull<u8> {
        self.slot_at(self.place(index))
    }

    /// `place`: what [`Core::place`] gives, below the capacity in any case.
    #[inline(always)]
    fn slot_at(&self, place: u64) -> NonNull<u8> {
        // SAFETY: below the capacity, so the byte offset lies inside.
        unsafe { self.slots.add(place as usize * self.item_size) }
    }

    /// Pushes one item; `side.ready()` is at least 1.
    ///
    /// # Safety
    /// `item` is readable for `item_size` bytes.
    #[inline(always)]
    pub(crate) unsafe fn push_one(&self, side: &Side, item: *const u8) {
        // SAFETY: the caller's promise.
        unsafe { self.push_sized::<false>(side, item) };
    }

    /// As [`Core::push_one`]; `BLOCKS`: the item size is such a one.
    ///
    /// # Safety
    /// As for [`Core::push_one`]; `BLOCKS` is right.
    #[inline(always)]
    pub(crate) unsafe fn push_sized<const BLOCKS: bool>(&self, side: &Side, item: *const u8) {
        let index = side.index.get();
        // No item of an exact ring is made of blocks.
        let place = if BLOCKS { index & self.mask } else { self.place(index) };
        let (slot, size) = (self.slot_at(place).as_ptr(), self.item_size);
        // SAFETY: the slot is the producer's until the commit; the caller vouches for the item.
        unsafe {
            if BLOCKS { copy_blocks_in(slot, item, size) } else { copy_in(slot, item, size) }
        };
        self.commit(side, index.wrapping_add(1));
    }

    /// Pops one item; `side.ready()` is at least 1.
    ///
    /// # Safety
    /// `item` is writable for `item_size` bytes.
    #[inline(always)]
    pub(crate) unsafe fn pop_one(&self, side: &Side, item: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { self.pop_sized::<false>(side, item) };
    }

    /// As [`Core::pop_one`]; `BLOCKS`: the item size is such a one.
    ///
    /// # Safety
    /// As for [`Core::pop_one`]; `BLOCKS` is right.
    #[inline(always)]
    pub(crate) unsafe fn pop_sized<const BLOCKS: bool>(&self, side: &Side, item: *mut u8) {
        let index = side.index.get();
        // As above.
        let place = if BLOCKS { index & self.mask } else { self.place(index) };
        let (slot, size) = (self.slot_at(place).as_ptr(), self.item_size);
        // SAFETY: the slot is the consumer's until it is freed; the caller vouches for the buffer.
        unsafe {
            if BLOCKS { copy_blocks_out(item, slot, size) } else { copy_out(item, slot, size) }
        };
        if !BLOCKS {
            self.demote(side, 1);
        }
        self.free(side, index.wrapping_add(1));
    }

    /// As [`Core::push_one`], for items of eight bytes.
    ///
    /// # Safety
    /// As for [`Core::push_one`]; `item_size` is 8.
    #[inline(always)]
    pub(crate) unsafe fn push_word(&self, side: &Side, item: *const u8) {
        let index = side.index.get();
        // SAFETY: as in `push_one`; the masked index is below the capacity.
        unsafe {
            let slot = self.slots.cast::<u64>().add((index & self.mask) as usize);
            #[cfg(loom)]
            crate::sync::model::copied(slot.as_ptr().cast(), item, 8);
            let word = item.cast::<u64>().read_unaligned();
            slot.write_unaligned(word);
            let recent = &self.control().tail.1;
            // Release, both: they pair with the Acquires in `recent`. Who sees this word sees the
            // tail before it; who sees `after` sees the word.
            recent.words[(index & 1) as usize].store(word, Ordering::Release);
            recent.after.store(index.wrapping_add(1), Ordering::Release);
        }
        self.commit(side, index.wrapping_add(1));
    }

    /// As [`Core::pop_one`], for items of eight bytes.
    ///
    /// # Safety
    /// As for [`Core::pop_one`]; `item_size` is 8.
    #[inline(always)]
    pub(crate) unsafe fn pop_word(&self, side: &Side, item: *mut u8) {
        let index = side.index.get();
        // SAFETY: as in `pop_one`; the masked index is below the capacity.
        unsafe {
            let slot = self.slots.cast::<u64>().add((index & self.mask) as usize);
            #[cfg(loom)]
            crate::sync::model::copied(item, slot.as_ptr().cast(), 8);
            item.cast::<u64>().write_unaligned(slot.read_unaligned());
        }
        self.free(side, index.wrapping_add(1));
    }

    /// The only item that is there, if it was pushed by itself and has eight bytes.
    #[inline(always)]
    fn recent(&self, side: &Side) -> Option<u64> {
        let (index, tail) = (side.index.get(), &self.control().tail);
        let after = index.wrapping_add(1);
        // Acquire, all three: see `push_word`. The second look at the tail is after the word's.
        if side.limit.get() != after || tail.1.after.load(Ordering::Acquire) != after {
            return None;
        }
        let word = tail.1.words[(index & 1) as usize].load(Ordering::Acquire);
        (tail.0.load(Ordering::Acquire) == after).then_some(word)
    }

    /// As [`Core::pop_one`], for who has just looked, and may have found one item.
    ///
    /// # Safety
    /// As for [`Core::pop_one`].
    #[inline(always)]
    pub(crate) unsafe fn pop_first(&self, side: &Side, item: *mut u8) {
        match self.recent(side) {
            Some(word) if self.item_size == 8 => {
                // SAFETY: eight bytes, for which the caller vouches.
                unsafe { item.cast::<u64>().write_unaligned(word) };
                self.free(side, side.index.get().wrapping_add(1));
            }
            // SAFETY: the caller's promise.
            _ => unsafe { self.pop_one(side, item) },
        }
    }

    /// Pushes `count` items with one commit; `side.ready()` is at least `count`.
    ///
    /// # Safety
    /// `items` is readable for `count` items.
    pub(crate) unsafe fn push_run(&self, side: &Side, items: *const u8, count: u64) {
        let index = side.index.get();
        let first = count.min(self.to_end(index));
        let (bytes, rest) = (first as usize * self.item_size, (count - first) as usize);
        // A stream of batches: the lines of the one after the next, while the caller makes the next.
        if side.ready() >= 3 * count {
            let later = self.slot(index.wrapping_add(2 * count));
            prefetch_run_to_write(later.as_ptr(), bytes);
        }
        // SAFETY: both runs lie inside the slots, and in what the caller vouches for.
        unsafe {
            copy_in(self.slot(index).as_ptr(), items, bytes);
            if rest > 0 {
                copy_in(self.slots.as_ptr(), items.add(bytes), rest * self.item_size);
            }
        }
        self.commit(side, index.wrapping_add(count));
    }

    /// Pops `count` items and frees their slots at once; `side.ready()` is at least `count`.
    ///
    /// # Safety
    /// `items` is writable for `count` items.
    pub(crate) unsafe fn pop_run(&self, side: &Side, items: *mut u8, count: u64) {
        let index = side.index.get();
        let first = count.min(self.to_end(index));
        let (bytes, rest) = (first as usize * self.item_size, (count - first) as usize);
        // A stream of batches: the lines of the next one, while the caller uses this one.
        if side.ready() >= 2 * count {
            prefetch_run(self.slot(index.wrapping_add(count)).as_ptr(), bytes);
        }
        // SAFETY: both runs lie inside the slots, and in what the caller vouches for.
        unsafe {
            copy_out(items, self.slot(index).as_ptr(), bytes);
            if rest > 0 {
                copy_out(items.add(bytes), self.slots.as_ptr(), rest * self.item_size);
            }
        }
        self.demote(side, count);
        self.free(side, index.wrapping_add(count));
    }

    /// Before slots are freed: demotes the lines of the `count` items that were read, where that pays.
    #[inline(always)]
    pub(crate) fn demote(&self, side: &Side, count: u64) {
        if self.demotes && count > 0 {
            self.demote_large(side, count);
        }
    }

    #[inline(never)]
    fn demote_large(&self, side: &Side, count: u64) {
        let clock = || now().as_nanos() as u64;
        if !side.demotion.pays(count, self.capacity(), self.item_size, clock) {
            return;
        }
        self.demote_now(side, count);
    }

    fn demote_now(&self, side: &Side, count: u64) {
        // A long run would keep its slots from the producer: the first of it will do.
        let index = side.index.get();
        let count = count.min((MOST_FLUSHED / self.item_size) as u64);
        let first = count.min(self.to_end(index));
        for (at, run) in [(index, first), (index.wrapping_add(first), count - first)] {
            // SAFETY: both runs lie inside the slots; `demotes` says that the machine can.
            unsafe { flush_run(self.slot(at).as_ptr(), run as usize * self.item_size) };
        }
    }

    /// Hands out a contiguous run of at most `count` slots in place; `side.ready()` is at least 1.
    #[inline(always)]
    pub(crate) fn hand_out(&self, side: &Side, count: u64) -> (NonNull<u8>, u64) {
        let index = side.index.get();
        // `side.ready()`, of which there is something.
        let ready = side.limit.get().wrapping_sub(index);
        self.hand_out_ready(side, count.min(ready))
    }

    /// As [`Core::hand_out`]; `side.ready()` is at least `count`.
    #[inline(always)]
    pub(crate) fn hand_out_ready(&self, side: &Side, count: u64) -> (NonNull<u8>, u64) {
        let index = side.index.get();
        let place = self.place(index);
        let run = count.min(self.capacity() - place);
        side.hand_out(run);
        (self.slot_at(place), run)
    }

    /// Commits the first `count` items of the run that was handed out.
    #[inline(always)]
    pub(crate) fn commit_run(&self, side: &Side, count: u64) {
        let index = side.take_back(count);
        if count > 0 {
            self.commit(side, index);
        }
    }

    /// Frees the first `count` items of the run that was handed out.
    #[inline(always)]
    pub(crate) fn free_run(&self, side: &Side, count: u64) {
        let index = side.take_back(count);
        if count > 0 {
            self.free(side, index);
        }
    }

    #[inline(always)]
    fn to_end(&self, index: u64) -> u64 {
        self.capacity() - self.place(index)
    }

    #[inline(always)]
    fn commit(&self, side: &Side, index: u64) {
        side.index.set(index);
        // Release: pairs with the Acquire in `there`.
        self.control().tail.0.store(index, Ordering::Release);
    }

    #[inline(always)]
    fn free(&self, side: &Side, index: u64) {
        side.index.set(index);
        // Release: pairs with the Acquire in `room`.
        self.control().head.0.store(index, Ordering::Release);
    }
}

#[cfg(all(test, loom))]
#[path = "spsc_loom.rs"]
mod loom_models;

#[cfg(all(test, not(loom)))]
#[path = "spsc_tests.rs"]
mod tests;
