//! The core of a ring with many producers and many consumers in which nobody ever waits for anybody:
//! a process that is killed *or stopped*, at any instruction and for any time, delays no other.
//!
//! An item is written before its position is claimed. Items live in a pool of *cells*; the order of
//! the queue is in an array of *places*, each of which names a cell. A producer takes a cell of its
//! own, writes the item, and puts the cell's number into the next place by one compare-and-swap; a
//! consumer makes the cell its own by one compare-and-swap. What remains to be done after either
//! (moving the indices, emptying the place) anybody can do, and whoever meets it does it.
//!
//! ```text
//! push:  is there room?                                   see Room below
//!        cell j: FREE → OWNED(me)                         compare-and-swap; scan from a shared hint
//!        item → cell j
//!     a: t = tail;  place(t) = empty(t)?                  else help tail on, again from a
//!        is there room before t?                          else cell j → FREE, full
//!        cell j = OFFERED(t, me)
//!        place(t): empty(t) → holds(t, j)                 compare-and-swap: THE PUSH; lost → a
//!        tail: t → t + 1                                  compare-and-swap; lost → somebody helped
//! pop:   h = head;  place(h) = empty(h)?                  then THE ANSWER "EMPTY"
//!        place(h) = holds(h, j)?                          else help head on, again
//!        cell j: OFFERED(h, x) → TAKEN(h, me)             compare-and-swap: THE POP
//!        lost, or not OFFERED(h)?                         help as in the next line, again
//!        place(h): holds(h, j) → empty(h + places);  head: h → h + 1       compare-and-swaps
//!        cell j → item;  cell j = FREE
//! ```
//!
//! # Words
//!
//! ```text
//! place  turn | cell        cell: as many low bits as the number of cells needs, turn: the others
//! cell   position 48 | owner 12 | state 4                     FREE is 0
//! ```
//!
//! Position `t` has place `t mod places` and lap `n = t / places`. In lap n the place is *empty(t)*
//! at turn 2n and *holds(t, j)* at turn 2n + 1; at turn 2n + 2 the position is over. All zero is the
//! state of a new ring.
//!
//! | State | The cell | Who may change it |
//! |---|---|---|
//! | FREE | is nobody's | anybody, to OWNED(itself) |
//! | OWNED(x) | is being filled, or reserved, by participant x | x |
//! | OFFERED(t, x), place(t) is holds(t, this cell) | is in the queue at t | any consumer, to TAKEN(t, itself); a discard, to FREE |
//! | OFFERED(t, x), else | is still x's: x has not put it into place(t), or lost the race for it | x |
//! | TAKEN(t, x) | is being read, or peeked, by x | x |
//!
//! # Invariants
//!
//! 1. A position is pushed once and popped once: place(t) leaves empty(t) once, cell j leaves
//!    OFFERED(t) once after that.
//! 2. place(t) is holds(t, j) only after cell j was OFFERED(t) (stored before, and seen with it). So
//!    who sees holds(t, j), and then a cell that is not OFFERED(t), knows that t was popped. For
//!    that a cell must never become OFFERED(t) again after it was pushed at t: its next owner takes
//!    it after the pop and looks at place(t) only then, and finds t over.
//! 3. Let T be the first position not pushed, H the first not popped. `tail` is T or T − 1: a push
//!    at t needs `tail = t`. `head` is H or H − 1: a pop at h needs `head = h`. `head` passes h only
//!    after place(h) was emptied for its next lap, which happens only after the pop. Both only grow.
//! 4. A cell that is not in the queue names its owner, and is touched by nobody else while the owner
//!    lives. When the owner has died, whoever takes over its slot, and holds the slot's lock byte so
//!    that nobody else can be "x" meanwhile, frees its cells before it becomes x.
//!
//! # Answers are honest
//!
//! All loads and compare-and-swaps are SeqCst, so that "then" below means what it says; that costs
//! nothing on x86. The stores are the owners' own, followed by such a compare-and-swap or releasing.
//!
//! - EMPTY: `head = h`, then place(h) = empty(h). The latter says T <= h, the former H >= h: at the
//!   second look H = T.
//! - FULL: `tail = t`, then place(t − capacity) holds a cell that is OFFERED(t − capacity): at the
//!   last look T >= t and H <= t − capacity.
//! - The order of the queue is the order in which the places were filled: that of the positions.
//!
//! # Room
//!
//! There is *room before t* if t − capacity was popped, which stays true: a handle remembers up to
//! which t it has seen that. A push at t that has seen
//! it never makes the queue longer than `capacity`. Whoever takes a cell first sees: `tail = t`, room
//! before t, then place(t) = empty(t): at that moment T = t and H > t − capacity, the queue is
//! shorter than `capacity`. Call that a *grant*; it ends when the cell is pushed or given back, and a
//! participant has one at most.
//!
//! A plain push looks for room again at the position it gets. A reserved cell does not: **a
//! reservation is the right to one push**, so a commit never finds the ring full, however many
//! others have pushed meanwhile. The queue may be longer than `capacity` thereby. Since the last
//! moment at which it was shorter nobody was granted anything, and each participant can push what it
//! had been granted once: the queue is never longer than `capacity − 1 + participants`.
//!
//! - There are at least `capacity + participants` places, so the push at t never waits for place(t)
//!   to be emptied: t − places was popped, and who finds it not emptied yet empties it.
//! - There are `capacity + 2 · participants` cells. The same count over "queue and grants" instead of
//!   "queue" leaves one for each participant to take, and one to be FREE when all are taken.
//!
//! So a cell for a grant always exists, whoever is stopped or lies dead with how many slots; nothing
//! needs to be recovered for the others to go on. A stopped or dead participant ties up two cells at
//! most, which were counted in.
//!
//! # Lock-free
//!
//! No loop waits. A turn of the loop in push, pop, discard or the look for room repeats only because
//! `tail`, `head` or the place was found changed or behind: then somebody has pushed or popped since,
//! or this turn has itself moved an index that somebody left behind, which it can do once for each
//! push and pop. A scan that finds no free cell has seen all cells taken and freed by others while it
//! passed. A bound on the turns is there for scribblers only.
//!
//! # The same value again
//!
//! A process may be stopped just before any of its compare-and-swaps, and go on years later.
//!
//! | The stopped step | is harmless, because |
//! |---|---|
//! | cell FREE → OWNED | free is free, whatever happened in between |
//! | place(t) empty → holds | a turn comes once in 2^(64 − cell bits) turns, of at least 2^49 for any geometry |
//! | place(h) holds → empty | the same, with the cell's number besides |
//! | cell OFFERED(h) → TAKEN | by invariant 2 a cell is OFFERED(h) for a push once; positions count to 2^48 |
//! | `tail`, `head` one on | they only grow, in 64 bits |
//! | a store of the owner | the cell is its own, and while it lives nobody takes it |
//! | a sweeper's free | the dead one's byte is held until it is done, nobody else is "x" |
//!
//! # Killed or stopped at every step
//!
//! | after | what stands there | the others | if killed: when the slot is taken again |
//! |---|---|---|---|
//! | push: the look for room | nothing | go on | – |
//! | cell OWNED, item half or wholly written, reserved | the cell | use other cells | freed; never sent |
//! | cell OFFERED(t) | the cell; t is open | push another at t; its compare-and-swap fails when it goes on, and it tries the next | freed; never sent |
//! | place(t) filled | the item in the queue, `tail` behind | move `tail`, pop the item | – |
//! | `tail` moved | the item in the queue | pop it | – |
//! | **pop:** cell TAKEN | the cell; place(h) and `head` behind | empty and move them, pop the next | freed, counted lost |
//! | place(h) emptied | the cell; `head` behind | move it | the same |
//! | `head` moved, item half or wholly copied, peeked | the cell | go on | the same |
//! | cell FREE | nothing | – | the item is lost with its taker |
//! | **discard:** cell FREE | place(h) and `head` behind | help | not counted as dropped but as read |
//! | **sweep:** any | a prefix of its frees | – | the rest |
//!
//! The counters `lost` and `dropped` are added to after the step that they count, by the one who did
//! it: never twice; a kill just between leaves it counted as read. `written = T` and
//! `read = H − lost − dropped` make the sum close always.
//!
//! A hostile peer can store anything anywhere. Indices are masked, cell numbers compared, every loop
//! is bounded, and words that no history leads to are reported as corruption.

#[cfg(all(test, not(loom)))]
mod interleaved;
#[cfg(all(test, loom))]
mod loom_models;
mod memory;
mod recover;
#[cfg(test)]
mod tests;
mod word;

use std::cell::Cell;
use std::ptr::NonNull;

pub(crate) use memory::{Mapped, Memory};
pub(crate) use recover::Tally;
use word::{FREE, Place, Turns, is_free, is_offered_at, offered, owned, taken};

use super::spsc::Corrupt;
use crate::object::End;
use crate::sync::atomic::{AtomicU64, Ordering};

/// Turns of a loop; each is the progress of somebody else, so it takes a scribbler to use them up: the
/// ring is corrupt then. (To answer "full" or "empty" would have a waiting call do it all again.)
const PATIENCE: u32 = 1 << 20;

/// Passes over the pool for a free cell, of which there is always one: at most, and at least. In
/// between, as many as look at [`LOOKS`] cells.
const PASSES: (u64, u64) = (64, 4);
const LOOKS: u64 = 1 << 20;

/// The algorithm over its memory.
#[derive(Debug)]
pub(crate) struct Core<M> {
    memory: M,
    turns: Turns,
    /// There is room before the positions below this one, as far as this handle has seen: a fact
    /// that stays true, in a forked child as well. Used by pushes only, not by what other threads
    /// may call.
    limit: Cell<u64>,
}

impl<M: Memory> Core<M> {
    pub(crate) fn new(memory: M) -> Self {
        let turns = Turns::new(memory.places(), memory.cells());
        Self { memory, turns, limit: Cell::new(0) }
    }

    /// The word of the place of `position`, and what it says.
    #[inline(always)]
    fn place(&self, position: u64) -> (u64, Place) {
        let word = self.memory.place(position).load(Ordering::SeqCst);
        (word, self.turns.look(word, position))
    }

    /// The word of a cell that a place names, which a scribbler may have written.
    #[inline(always)]
    fn cell(&self, cell: u64) -> Result<u64, Corrupt> {
        if cell >= self.memory.cells() {
            return Err(Corrupt);
        }
        Ok(self.memory.cell(cell).load(Ordering::SeqCst))
    }

    /// Moves an index that stands at a position that is over. Failure: somebody else has.
    #[inline(always)]
    fn step(index: &AtomicU64, position: u64) {
        let next = position.wrapping_add(1);
        let _ = index.compare_exchange(position, next, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Empties the place of a popped position, in which `word` was seen, for its next lap, and moves
    /// `head` beyond it. Failures: somebody else has.
    #[inline(always)]
    fn retire(&self, position: u64, word: u64) {
        let next = self.turns.empty(position.wrapping_add(self.memory.places()));
        let place = self.memory.place(position);
        let _ = place.compare_exchange(word, next, Ordering::SeqCst, Ordering::SeqCst);
        Self::step(self.memory.head(), position);
    }

    /// Empties the place of `position`, if its last lap's item was popped and that was left undone.
    fn retire_behind(&self, position: u64, word: u64, cell: u64) -> Result<(), Corrupt> {
        let before = position.wrapping_sub(self.memory.places());
        if is_offered_at(self.cell(cell)?, before) {
            // By "Room" it was popped.
            return Err(Corrupt);
        }
        self.retire(before, word);
        Ok(())
    }

    /// Whether a push at `position`, which `tail` has reached, leaves the queue within `capacity`.
    #[inline(always)]
    fn has_room_before(&self, position: u64) -> Result<bool, Corrupt> {
        let is_below = |limit: u64| limit.wrapping_sub(position) as i64 > 0;
        if is_below(self.limit.get()) {
            return Ok(true);
        }
        // All before `head` was popped: invariant 3.
        let head = self.memory.head().load(Ordering::SeqCst);
        self.limit.set(head.wrapping_add(self.memory.capacity()));
        if is_below(self.limit.get()) {
            return Ok(true);
        }
        let oldest = position.wrapping_sub(self.memory.capacity());
        match self.place(oldest).1 {
            Place::Past => Ok(true),
            Place::Holds(cell) => Ok(!is_offered_at(self.cell(cell)?, oldest)),
            _ => Err(Corrupt),
        }
    }

    /// Whether the queue is shorter than `capacity`: the grant that must come before a cell is taken.
    #[inline(always)]
    fn has_room(&self) -> Result<bool, Corrupt> {
        for _ in 0..PATIENCE {
            let tail = self.memory.tail().load(Ordering::SeqCst);
            if !self.has_room_before(tail)? {
                return Ok(false);
            }
            // After the look for room: see "Room".
            match self.place(tail) {
                (_, Place::Empty) => return Ok(true),
                (_, Place::Holds(_) | Place::Past) => Self::step(self.memory.tail(), tail),
                (word, Place::Behind(cell)) => self.retire_behind(tail, word, cell)?,
                (_, Place::Impossible) => return Err(Corrupt),
            }
        }
        Err(Corrupt)
    }

    /// Whether the next operation at `end` may go on. "Yes" also when the words are impossible, for
    /// that operation to say so.
    pub(crate) fn is_ready(&self, end: End) -> bool {
        match end {
            End::Producer => self.has_room().unwrap_or(true),
            End::Consumer => !self.is_empty(),
        }
    }

    /// Takes a free cell for participant `me`, who has a grant: then there is one, and only who fills
    /// the pool with noise has all passes find none. They begin where others have found one last, and
    /// at growing distances in time, so as not to keep step with somebody who takes and frees.
    #[inline(always)]
    fn acquire(&self, me: u32) -> Result<u64, Corrupt> {
        let cells = self.memory.cells();
        for pass in 0..(LOOKS / cells).clamp(PASSES.1, PASSES.0) {
            // Where the last one was found: cells become free in the order of the queue, nearly, so
            // the next one is. Only a hint, which a slow process may set back.
            let mut cell = self.memory.hint().load(Ordering::Relaxed);
            for _ in 0..cells {
                if cell >= cells {
                    cell = 0;
                }
                let word = self.memory.cell(cell).load(Ordering::SeqCst);
                if is_free(word)
                    && self
                        .memory
                        .cell(cell)
                        .compare_exchange(word, owned(me), Ordering::SeqCst, Ordering::SeqCst)
                        .is_ok()
                {
                    self.memory.hint().store(cell + 1, Ordering::Relaxed);
                    return Ok(cell);
                }
                cell += 1;
            }
            (0..pass).for_each(|_| std::hint::spin_loop());
        }
        Err(Corrupt)
    }

    /// Puts `cell`, which is `me`'s and filled, into the queue; `false`, and it still is `me`'s, if it
    /// is `bounded` by the capacity and the ring is full.
    #[inline(always)]
    fn offer(&self, me: u32, cell: u64, bounded: bool) -> Result<bool, Corrupt> {
        for _ in 0..PATIENCE {
            let tail = self.memory.tail().load(Ordering::SeqCst);
            match self.place(tail) {
                (word, Place::Empty) => {
                    if bounded && !self.has_room_before(tail)? {
                        return Ok(false);
                    }
                    // Release: the item is visible to whoever sees this.
                    self.memory.cell(cell).store(offered(tail, me), Ordering::Release);
                    let next = self.turns.holds(tail, cell);
                    let order = (Ordering::SeqCst, Ordering::SeqCst);
                    let place = self.memory.place(tail);
                    if place.compare_exchange(word, next, order.0, order.1).is_ok() {
                        Self::step(self.memory.tail(), tail);
                        return Ok(true);
                    }
                }
                (_, Place::Holds(_) | Place::Past) => Self::step(self.memory.tail(), tail),
                (word, Place::Behind(before)) => self.retire_behind(tail, word, before)?,
                (_, Place::Impossible) => return Err(Corrupt),
            }
        }
        Err(Corrupt)
    }

    /// Frees a cell that is the caller's.
    #[inline(always)]
    fn free(&self, cell: u64) {
        // Release: what the caller read in it was read before the next owner writes.
        self.memory.cell(cell).store(FREE, Ordering::Release);
    }

    /// Takes the oldest item out of the queue, its cell becoming `next(position)`; `None`: empty.
    #[inline(always)]
    fn take_oldest(&self, next: impl Fn(u64) -> u64) -> Result<Option<u64>, Corrupt> {
        for _ in 0..PATIENCE {
            let head = self.memory.head().load(Ordering::SeqCst);
            let (word, cell) = match self.place(head) {
                (_, Place::Empty) => return Ok(None),
                (word, Place::Holds(cell)) => (word, cell),
                (_, Place::Past) => {
                    Self::step(self.memory.head(), head);
                    continue;
                }
                _ => return Err(Corrupt),
            };
            let seen = self.cell(cell)?;
            let is_mine = is_offered_at(seen, head)
                && self
                    .memory
                    .cell(cell)
                    .compare_exchange(seen, next(head), Ordering::SeqCst, Ordering::SeqCst)
                    .is_ok();
            self.retire(head, word);
            if is_mine {
                return Ok(Some(cell));
            }
        }
        Err(Corrupt)
    }

    /// Pushes as many of `count` items as there is room for, one by one; 0 when there is none.
    ///
    /// # Safety
    /// `items` is readable for `count` items of `size` bytes; participant `me` is the caller's, and
    /// has reserved nothing.
    #[inline(always)]
    pub(crate) unsafe fn push(
        &self,
        me: u32,
        items: *const u8,
        size: usize,
        count: u64,
    ) -> Result<u64, Corrupt> {
        for i in 0..count {
            if !self.has_room()? {
                return Ok(i);
            }
            let cell = match self.acquire(me) {
                Err(Corrupt) if i > 0 => return Ok(i),
                cell => cell?,
            };
            // SAFETY: taken just now; `i` is below `count`.
            unsafe { self.memory.write(cell, items.add(i as usize * size)) };
            match self.offer(me, cell, true) {
                Ok(true) => {}
                other => {
                    self.free(cell);
                    return other.map(|_| i);
                }
            }
        }
        Ok(count)
    }

    /// Pops as many of `count` items as there are, one by one; 0 when there is none.
    ///
    /// # Safety
    /// `items` is writable for `count` items of `size` bytes; participant `me` is the caller's, and
    /// has peeked nothing.
    #[inline(always)]
    pub(crate) unsafe fn pop(
        &self,
        me: u32,
        items: *mut u8,
        size: usize,
        count: u64,
    ) -> Result<u64, Corrupt> {
        for i in 0..count {
            let Some(cell) = self.peek(me)? else { return Ok(i) };
            // SAFETY: taken just now; `i` is below `count`.
            unsafe { self.take(cell, items.add(i as usize * size)) };
        }
        Ok(count)
    }

    /// Gives up the oldest item for a newer one; `false` if there is none.
    pub(crate) fn discard(&self) -> Result<bool, Corrupt> {
        let discarded = self.take_oldest(|_| FREE)?.is_some();
        if discarded {
            self.memory.dropped().fetch_add(1, Ordering::Relaxed);
        }
        Ok(discarded)
    }

    /// Takes a cell to be filled in place, if there is room; [`Core::commit`] or
    /// [`Core::give_back`] follows.
    pub(crate) fn reserve(&self, me: u32) -> Result<Option<u64>, Corrupt> {
        if self.has_room()? { self.acquire(me).map(Some) } else { Ok(None) }
    }

    /// Pushes a reserved cell. There is a place for it: see "Room".
    pub(crate) fn commit(&self, me: u32, cell: u64) -> Result<(), Corrupt> {
        let done = self.offer(me, cell, false).map(drop);
        if done.is_err() {
            self.free(cell);
        }
        done
    }

    /// Frees a reserved cell: it never was in the queue.
    pub(crate) fn give_back(&self, cell: u64) {
        self.free(cell);
    }

    /// Pops an item to be read in place; [`Core::take`], [`Core::release`] or [`Core::lose`] follows.
    #[inline(always)]
    pub(crate) fn peek(&self, me: u32) -> Result<Option<u64>, Corrupt> {
        self.take_oldest(|position| taken(position, me))
    }

    /// The item in a cell that is the caller's.
    pub(crate) fn item(&self, cell: u64) -> NonNull<u8> {
        self.memory.item(cell)
    }

    /// Copies an item that was peeked, and frees its cell.
    ///
    /// # Safety
    /// The caller peeked `cell`; `item` is writable for an item.
    #[inline(always)]
    pub(crate) unsafe fn take(&self, cell: u64, item: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { self.memory.read(cell, item) };
        self.free(cell);
    }

    /// Frees the cell of an item that was read in place.
    pub(crate) fn release(&self, cell: u64) {
        self.free(cell);
    }

    /// Frees the cell of an item that its taker does not want any more, and counts it as lost.
    pub(crate) fn lose(&self, cell: u64) {
        self.free(cell);
        self.memory.lost().fetch_add(1, Ordering::Relaxed);
    }
}
