//! The core of a ring with many producers and many consumers: Vyukov's bounded queue (cells with
//! sequence words, one compare-and-swap a claim), with turns as in folly's MPMCQueue instead of
//! sequence numbers, and with *announced intents*: who is about to claim a position says so first.
//!
//! Works on checked memory and knows no names, no descriptors and no sleeping.
//!
//! ```text
//! push:  t = tail;  cell(t) is not free for t → full (or its last taker is still at it)
//!        my push_intent = t;  compare-and-swap tail t → t + 1           announce, then claim
//!        item → cell;  cell's word = full(t) (Release): the commit
//! pop:   h = head;  cell(h) is not full for h → empty (or its pusher is still at it)
//!        my pop_intent = h;  compare-and-swap head h → h + 1
//!        cell → item;  cell's word = free for h's next lap (Release)
//! ```
//!
//! A run of k positions is announced and claimed with one compare-and-swap and published item by
//! item. An intent is not cleared after success (that would cost a store for nothing: its position
//! is resolved for ever); who loses the race overwrites it with its next try or clears it before it
//! gives up, so that an idle process does not stand beside a position that it does not own.
//!
//! Invariants:
//!
//! 1. If position t is claimed and not published, the push_intent of its winner covers t: stored
//!    before the compare-and-swap, overwritten only by a later operation, that is after the publish.
//! 2. Whoever reads `tail > t` (Acquire, from the winner's Release) sees that intent or a later one;
//!    a later one (Release) means that t is published, and the cell's word, read again, has changed.
//! 3. So "not published, and all whose intents cover t are dead" proves the winner dead. A position
//!    is claimed once ever: a tombstone in its place is final, whoever sets it and however often.
//! 4. A living winner is never robbed, however slow or long stopped.
//!
//! The same holds for pops with `head` and pop_intent.
//!
//! | killed in push after | left behind | the others |
//! |---|---|---|
//! | the intent | an intent on a position that is unclaimed or another's | nothing to resolve |
//! | the claim, up to the publish | a hole, named by the intent | put a tombstone there and go on; the item was never sent |
//! | the publish | the item, and an intent that means nothing any more | deliver it, once |
//! | **in pop after** the claim, up to the release | a full cell behind `head`, named by the intent | free it and count it lost |
//! | the release | nothing | the item is lost with its taker |
//! | **in recovery**, anywhere | the same as before it, or the same as after it | do it again |
//!
//! With the policy `REDELIVER` an item is not lost with a dead consumer: see `redeliver`.
//!
//! So: items come out in the order in which they were claimed, none is torn, none comes twice, and
//! each kill loses the items of its own call at most. What waits is said in [`Core::blocked`]: a
//! position that a *living* process has claimed and not finished holds up those behind it until it
//! goes on or dies.
//!
//! A hostile peer can store anything anywhere. Positions are masked before they address a cell,
//! every loop is bounded, and words that no history leads to are reported as corruption.

pub(super) mod inspect;
#[cfg(all(test, loom))]
mod loom_models;
mod memory;
mod recover;
mod redeliver;
mod word;

use std::cell::Cell as Private;
use std::ptr::NonNull;
use std::sync::atomic::AtomicBool;

pub(crate) use memory::{Mapped, Memory};
pub(crate) use recover::Blocked;
use word::{Cell, Intent, Laps, MAX_RUN};

use super::spsc::Corrupt;
use super::stats::steady;
use crate::object::End;
use crate::sync::atomic::Ordering;

/// Turns of a claiming loop; each lost one is a claim of somebody else, so it takes a scribbler, or
/// extraordinary bad luck, to use them up.
const PATIENCE: u32 = 10_000;

/// Runs of tombstones that one pop takes off the ring before it says that it would have to wait: an
/// end, if somebody puts up new ones all the time.
const MOST_BURIED: u32 = 1 << 20;

/// Pops of an empty ring that look at no index; some 100 ns.
const SURE: u32 = 32;

/// Turns of the straight way, before the one that can tell why it is not straight. The straight way
/// for words takes one, which needs the fewest registers, and then the other straight way.
const STRAIGHT: u32 = 2;

/// A run of positions that were claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub position: u64,
    pub count: u64,
}

/// A many-to-many ring's algorithm over its memory.
#[derive(Debug)]
pub(crate) struct Core<M> {
    memory: M,
    laps: Laps,
    /// Whether this handle has freed cells without an item: see [`Core::has_made_room`].
    made_room: AtomicBool,
    /// Whether what a dead taker had in hands comes again: see `redeliver`.
    redeliver: bool,
    looked: redeliver::Looked,
}

/// What is inside, counted cell by cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    /// Items published, ever.
    pub written: u64,
    /// Items claimed by consumers, ever, without those that were lost.
    pub read: u64,
    /// Items given up for newer ones.
    pub dropped: u64,
    /// Items whose taker died before it could free the cell.
    pub lost: u64,
    /// Items inside.
    pub length: u64,
    /// Positions that a producer has claimed and not published.
    pub pending: u64,
    /// Items that were taken again.
    pub redelivered: u64,
}

impl<M: Memory> Core<M> {
    pub(crate) fn new(memory: M, redeliver: bool) -> Self {
        let laps = Laps::new(memory.capacity());
        let (made_room, looked) = (AtomicBool::new(false), redeliver::Looked::default());
        Self { memory, laps, made_room, redeliver, looked }
    }

    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }

    #[inline(always)]
    fn cell(&self, position: u64) -> Cell {
        // Acquire: pairs with the Release of whoever published or freed it.
        self.laps.look(self.memory.cell(position).load(Ordering::Acquire), position)
    }

    /// Claims at most `count` positions, at least one, at one end for participant `me`; `None` when
    /// the next one cannot be had.
    #[inline(always)]
    fn claim(&self, me: u32, end: End, count: u64) -> Result<Option<Run>, Corrupt> {
        let memory = &self.memory;
        let index = match end {
            End::Producer => memory.tail(),
            End::Consumer => memory.head(),
        };
        let ready = |cell| match end {
            End::Producer => cell == Cell::Free,
            End::Consumer => matches!(cell, Cell::Full | Cell::Tombstone),
        };
        let intent = memory.intent(me, end);
        let mut announced = false;
        let give_up = |announced: bool| {
            if announced {
                // Release, as every store to an intent: whoever sees it gone sees all before.
                intent.store(Intent::NONE.0, Ordering::Release);
            }
        };
        // Acquire: invariant 2, for those who look at intents because of this index.
        let mut position = index.load(Ordering::Acquire);
        for _ in 0..PATIENCE {
            let cell = self.cell(position);
            if ready(cell) {
                let most = count.min(memory.capacity()).min(MAX_RUN);
                let mut run = 1;
                while run < most && ready(self.cell(position.wrapping_add(run))) {
                    run += 1;
                }
                // Release: what this participant did before is visible with the new intent.
                intent.store(Intent::new(position, run).0, Ordering::Release);
                announced = true;
                // AcqRel: the intent is visible to whoever sees the index moved.
                match index.compare_exchange(
                    position,
                    position.wrapping_add(run),
                    Ordering::AcqRel,
                    Ordering::Acquire,
                ) {
                    Ok(_) => return Ok(Some(Run { position, count: run })),
                    Err(now) => position = now,
                }
                continue;
            }
            let impossible = match (cell, end) {
                // Claimed or freed between the two loads; then the index has moved as well.
                (Cell::Past | Cell::Returned | Cell::Again(_), _)
                | (Cell::Full | Cell::Tombstone, End::Producer) => {
                    let seen = position;
                    position = index.load(Ordering::Acquire);
                    if position != seen {
                        continue;
                    }
                    true
                }
                (Cell::Impossible, _) => true,
                // A consumer's next cell with the hole of the lap before: `head` passed a hole.
                (Cell::Hole, End::Consumer) => true,
                _ => false,
            };
            give_up(announced);
            return if impossible { Err(Corrupt) } else { Ok(None) };
        }
        give_up(announced);
        Ok(None)
    }

    fn publish(&self, position: u64) {
        // Release: pairs with the Acquire of the consumer's look.
        self.memory.cell(position).store(self.laps.full(position), Ordering::Release);
    }

    fn free(&self, position: u64) {
        // Release: pairs with the Acquire of the next lap's producer.
        self.memory.cell(position).store(self.laps.next_free(position), Ordering::Release);
    }

    /// Frees a tombstone that a consumer came to.
    fn bury(&self, position: u64) {
        self.free(position);
        // Release: pairs with the Acquire in `tally`, as for each of the counters.
        self.memory.buried().fetch_add(1, Ordering::Release);
        self.made_room.store(true, Ordering::Relaxed);
    }

    /// Whether this handle has freed cells without an item since it was last asked: a pop or peek that
    /// gave nothing may have made room, which producers are to be told of.
    pub(crate) fn has_made_room(&self) -> bool {
        self.made_room.load(Ordering::Relaxed) && self.made_room.swap(false, Ordering::Relaxed)
    }

    /// Pushes one item if that goes straight ahead; `false`, and nothing has changed, if it does not:
    /// the ring may be full, or others are at it. `WORD`: items have eight bytes.
    ///
    /// # Safety
    /// `item` is readable for an item; participant `me` is the caller's; `WORD` is so.
    #[inline(always)]
    pub(crate) unsafe fn push_one<const WORD: bool>(&self, me: u32, item: *const u8) -> bool {
        let (memory, laps) = (&self.memory, self.laps);
        let (tail, intent) = (memory.tail(), memory.intent(me, End::Producer));
        // Orderings as in `claim`.
        let mut position = tail.load(Ordering::Acquire);
        for _ in 0..if WORD { 1 } else { STRAIGHT } {
            let (place, free) = (memory.place::<WORD>(position), laps.free(position));
            let cell = memory.word(place);
            if cell.load(Ordering::Acquire) != free {
                break;
            }
            intent.store(Intent::new(position, 1).0, Ordering::Release);
            let next = position.wrapping_add(1);
            let claimed =
                tail.compare_exchange(position, next, Ordering::AcqRel, Ordering::Acquire);
            match claimed {
                Ok(_) => {
                    // SAFETY: claimed just now; the caller vouches for the item and its size.
                    unsafe { memory.fill::<WORD>(place, item) };
                    // As `publish` does.
                    cell.store(Laps::filled(free), Ordering::Release);
                    return true;
                }
                Err(now) => position = now,
            }
            intent.store(Intent::NONE.0, Ordering::Release);
        }
        false
    }

    /// Pops one item if that goes straight ahead; `false`, and nothing has changed, if it does not.
    /// `WORD`: items have eight bytes.
    ///
    /// # Safety
    /// `item` is writable for an item; participant `me` is the caller's; `WORD` is so.
    #[inline(always)]
    pub(crate) unsafe fn pop_one<const WORD: bool>(&self, me: u32, item: *mut u8) -> bool {
        let (memory, laps) = (&self.memory, self.laps);
        let (head, intent) = (memory.head(), memory.intent(me, End::Consumer));
        // Orderings as in `claim`.
        let mut position = head.load(Ordering::Acquire);
        for _ in 0..if WORD { 1 } else { STRAIGHT } {
            let (place, full) = (memory.place::<WORD>(position), laps.full(position));
            let cell = memory.word(place);
            if cell.load(Ordering::Acquire) != full {
                break;
            }
            memory.will_take(place);
            intent.store(Intent::new(position, 1).0, Ordering::Release);
            let next = position.wrapping_add(1);
            let claimed =
                head.compare_exchange(position, next, Ordering::AcqRel, Ordering::Acquire);
            match claimed {
                Ok(_) => {
                    // SAFETY: claimed just now; the caller vouches for the buffer and its size.
                    unsafe { memory.empty::<WORD>(place, item) };
                    // As `free` does.
                    cell.store(Laps::emptied(full), Ordering::Release);
                    return true;
                }
                Err(now) => position = now,
            }
            intent.store(Intent::NONE.0, Ordering::Release);
        }
        false
    }

    /// Pushes as many of `count` items as there are free cells in a row; 0 when there is none.
    ///
    /// # Safety
    /// `items` is readable for `count` items of `size` bytes; participant `me` is the caller's.
    #[inline(always)]
    pub(crate) unsafe fn push(
        &self,
        me: u32,
        items: *const u8,
        size: usize,
        count: u64,
    ) -> Result<u64, Corrupt> {
        let Some(run) = self.claim(me, End::Producer, count)? else { return Ok(0) };
        for i in 0..run.count {
            let position = run.position.wrapping_add(i);
            // SAFETY: claimed just now; `i` is below `count`.
            unsafe { self.memory.write(position, items.add(i as usize * size)) };
            self.publish(position);
        }
        Ok(run.count)
    }

    /// Pops as many of `count` items as there are in a row; 0 when there is none.
    ///
    /// # Safety
    /// `items` is writable for `count` items of `size` bytes; participant `me` is the caller's.
    #[inline(always)]
    pub(crate) unsafe fn pop(
        &self,
        me: u32,
        items: *mut u8,
        size: usize,
        count: u64,
    ) -> Result<u64, Corrupt> {
        if self.has_returned() {
            let mut taken = 0;
            while taken < count
                && let Some(position) = self.take_returned(me)
            {
                // SAFETY: it is this participant's now; `taken` is below `count`.
                unsafe { self.take(position, items.add(taken as usize * size)) };
                taken += 1;
            }
            if taken > 0 {
                return Ok(taken);
            }
        }
        for _ in 0..MOST_BURIED {
            let Some(run) = self.claim(me, End::Consumer, count)? else { return Ok(0) };
            let mut taken = 0;
            for i in 0..run.count {
                let position = run.position.wrapping_add(i);
                if self.cell(position) == Cell::Tombstone {
                    self.bury(position);
                    continue;
                }
                // SAFETY: claimed just now; `taken` is below `count`.
                unsafe { self.memory.read(position, items.add(taken as usize * size)) };
                self.free(position);
                taken += 1;
            }
            if taken > 0 {
                return Ok(taken);
            }
        }
        Ok(0)
    }

    /// After a push found no free cell: gives up the oldest item if the ring is full. `true`: it is
    /// worth another try. `false`: the oldest cannot be had; or the ring is not full, but somebody has
    /// claimed the item in the next cell and not freed it yet, and giving up others would not help.
    pub(crate) fn make_room(&self, me: u32) -> Result<bool, Corrupt> {
        // Acquire, the tail first: it only grows, so "full" is never said of a ring that was not.
        let tail = self.memory.tail().load(Ordering::Acquire);
        let inside = tail.wrapping_sub(self.memory.head().load(Ordering::Acquire));
        if (inside as i64) < self.memory.capacity() as i64 {
            let before = tail.wrapping_sub(self.memory.capacity());
            if self.redeliver && self.give_up_returned(before) {
                return Ok(true);
            }
            // Freed, or passed by others, since.
            return Ok(matches!(self.cell(tail), Cell::Free | Cell::Past));
        }
        let Some(run) = self.claim(me, End::Consumer, 1)? else { return Ok(false) };
        if self.cell(run.position) == Cell::Tombstone {
            self.bury(run.position);
        } else {
            self.free(run.position);
            self.memory.dropped().fetch_add(1, Ordering::Release);
        }
        Ok(true)
    }

    /// Claims a free cell to be filled in place; [`Core::commit`] or [`Core::give_back`] follows.
    pub(crate) fn reserve(&self, me: u32) -> Result<Option<(u64, NonNull<u8>)>, Corrupt> {
        let run = self.claim(me, End::Producer, 1)?;
        Ok(run.map(|run| (run.position, self.memory.item(run.position))))
    }

    /// Publishes a reserved cell.
    pub(crate) fn commit(&self, position: u64) {
        self.publish(position);
    }

    /// Leaves a reserved cell without an item: its position is claimed, so consumers skip it.
    pub(crate) fn give_back(&self, position: u64) {
        // Release, as for every publish.
        self.memory.cell(position).store(self.laps.tombstone(position), Ordering::Release);
    }

    /// Claims an item to be read in place; [`Core::release`] follows.
    pub(crate) fn peek(&self, me: u32) -> Result<Option<(u64, NonNull<u8>)>, Corrupt> {
        if self.has_returned()
            && let Some(position) = self.take_returned(me)
        {
            return Ok(Some((position, self.memory.item(position))));
        }
        for _ in 0..MOST_BURIED {
            let Some(run) = self.claim(me, End::Consumer, 1)? else { return Ok(None) };
            if self.cell(run.position) != Cell::Tombstone {
                return Ok(Some((run.position, self.memory.item(run.position))));
            }
            self.bury(run.position);
        }
        Ok(None)
    }

    /// The item of a cell that was peeked.
    pub(crate) fn item(&self, position: u64) -> NonNull<u8> {
        self.memory.item(position)
    }

    /// Takes an item that was peeked.
    ///
    /// # Safety
    /// The caller peeked `position`; `item` is writable for an item.
    pub(crate) unsafe fn take(&self, position: u64, item: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { self.memory.read(position, item) };
        self.free(position);
    }

    /// Frees the cell of an item that was read in place.
    pub(crate) fn release(&self, position: u64) {
        self.free(position);
    }

    /// Gives up an item that its taker does not want any more: it comes again, or is counted as lost.
    pub(crate) fn lose(&self, position: u64) {
        if self.redeliver {
            self.give_item_back(position);
            return;
        }
        self.free(position);
        self.memory.lost().fetch_add(1, Ordering::Release);
    }

    /// Claimed by pushes and not by pops yet, or the other way round; 0 if the next cell is not ready.
    /// That is looked at first: it is on the line that was used last, and the other end's index is on
    /// one that each look takes away from those at that end.
    pub(crate) fn ahead(&self, end: End) -> u64 {
        let (index, other, ready) = match end {
            End::Consumer => (self.memory.head(), self.memory.tail(), Cell::Full),
            End::Producer => (self.memory.tail(), self.memory.head(), Cell::Free),
        };
        let position = index.load(Ordering::Relaxed);
        if self.cell(position) != ready {
            return 0;
        }
        let ahead = other.load(Ordering::Relaxed).wrapping_sub(position);
        match end {
            End::Consumer => ahead,
            End::Producer => self.memory.capacity().wrapping_add(ahead).min(self.memory.capacity()),
        }
    }

    /// Whether there is nothing to pop, and no call that does not wait has to do more than say so: no
    /// item may come again, and nobody has claimed the next position and died. The last is found out at
    /// the producers' index, which takes its line away from them: so the first [`SURE`] times at the
    /// same position it is not looked at. `at` and `vain` are the caller's memory of that.
    #[inline(always)]
    pub(crate) fn is_plainly_empty(&self, at: &Private<u64>, vain: &Private<u32>) -> bool {
        // Acquire, both: as in `claim`.
        let head = self.memory.head().load(Ordering::Acquire);
        if self.memory.cell(head).load(Ordering::Acquire) != self.laps.free(head) || self.redeliver
        {
            return false;
        }
        let times = if at.get() == head { vain.get() } else { 0 };
        at.set(head);
        if times < SURE {
            vain.set(times + 1);
            return true;
        }
        // Relaxed: an old one puts it off until the next time.
        self.memory.tail().load(Ordering::Relaxed) == head
    }

    /// Whether the next position at `end` can be claimed. Never "no" when it can; "yes" also when
    /// the words are impossible, for the claim to say so, or when others are at it.
    pub(crate) fn is_ready(&self, end: End) -> bool {
        if end == End::Consumer && self.has_returned() {
            return true;
        }
        let index = match end {
            End::Producer => self.memory.tail(),
            End::Consumer => self.memory.head(),
        };
        let position = index.load(Ordering::Acquire);
        match (self.cell(position), end) {
            (Cell::Free | Cell::Behind, End::Consumer)
            | (Cell::Behind | Cell::Hole, End::Producer) => {
                // Not the next one any more? Then others are moving.
                index.load(Ordering::Acquire) != position
            }
            _ => true,
        }
    }

    /// Whether nothing is inside, not even a claimed position.
    pub(crate) fn is_empty(&self) -> bool {
        // Acquire, the head first: the tail is never seen behind it, so if they are equal nothing was
        // inside when the tail was read.
        let head = self.memory.head().load(Ordering::Acquire);
        self.memory.tail().load(Ordering::Acquire) == head
    }

    /// A count of everything, one cell after the other. At a quiet moment it is exact, and
    /// `written = read + dropped + lost + length` always: both sums are made from the same look.
    pub(crate) fn tally(&self) -> Tally {
        let memory = &self.memory;
        // Acquire, before the indices: whatever was counted as gone had been claimed, and is behind
        // the head that is read after it. Pairs with the Release of those who count, after the step
        // that they count: a kill in between leaves it uncounted, never counted twice.
        let counters = || {
            let all = [memory.buried(), memory.dropped(), memory.lost(), memory.redelivered()];
            all.map(|counter| counter.load(Ordering::Acquire))
        };
        let (counted, head) = steady(counters, || memory.head().load(Ordering::Acquire));
        let [buried, dropped, lost, redelivered] = counted;
        let tail = self.memory.tail().load(Ordering::Acquire);
        let inside = tail.wrapping_sub(head).min(self.memory.capacity());
        let (mut length, mut pending) = (0, 0);
        for position in (0..inside).map(|i| head.wrapping_add(i)) {
            match self.cell(position) {
                Cell::Full => length += 1,
                // The others: taken meanwhile.
                Cell::Tombstone | Cell::Past | Cell::Returned | Cell::Again(_) => {}
                _ => pending += 1,
            }
        }
        let returned = self.count_returned(head, tail);
        length += returned;
        let gone = dropped.wrapping_add(lost);
        let read = head.wrapping_sub(buried).wrapping_sub(gone).wrapping_sub(returned);
        let written = read.wrapping_add(gone).wrapping_add(length);
        Tally { written, read, dropped, lost, length, pending, redelivered }
    }
}
