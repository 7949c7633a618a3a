//! A broadcast that overwrites the oldest: every cell is a sequence lock whose word carries the
//! absolute position of what is in it. Consumers store nothing at all, so they may have the memory
//! readable only, there may be any number of them, and their deaths change nothing.
//!
//! ```text
//! push(p):  cell(p)'s word = writing(p) (Release);  fence(Release)
//!           item → cell, by relaxed stores of words
//!           cell(p)'s word = holds(p) (Release): the commit;  tail = p + 1 (Release)
//! pop(p):   w = cell(p)'s word (Acquire)
//!           w < holds(p): nothing yet.   w > holds(p): overwritten, see catch_up
//!           cell → buffer, by relaxed loads of words
//!           fence(Acquire);  word still w → it is the item;  else overwritten
//! ```
//!
//! `writing(p)` is 2p + 1 and `holds(p)` is 2p + 2, modulo 2^64; all zero is the state of a new ring.
//! A consumer on its way reads the cell's line and no other; `tail` is for those who join and for
//! those who were overtaken.
//!
//! Invariants:
//!
//! 1. Only the producer, of which there is one, stores anything. Its position is private; it reads
//!    `tail` once, when it takes its end.
//! 2. `tail` is the number of commits, or one less (a producer killed between the two stores): see
//!    `end`. The next producer begins there.
//! 3. A consumer's position is at most `end`. So its cell has seen this position's lap before at
//!    least: the word is `holds(p - capacity)` (0 in the first lap), `writing(p)`, `holds(p)`, or
//!    that of a later lap. Anything else is corruption.
//! 4. No torn item: if a load of the copy saw a store of a later lap, the fences order that lap's
//!    `writing` before the second look at the word, which then differs.
//! 5. Who sees `writing(p + capacity)` (Acquire) sees `tail >= p + capacity`: that was stored before
//!    it. So an overtaken consumer always moves on, and knows by how much.
//!
//! | killed | left behind | the others |
//! |---|---|---|
//! | producer, before `writing` | nothing | the item was never sent |
//! | between `writing` and the commit, or with room reserved | a cell in writing | the item before in that cell, the oldest, is gone a moment earlier than it would have been; the next producer writes the same position |
//! | between the commit and `tail` | the item | consumers have it already; the next producer begins behind it |
//! | after `tail` | the item, and perhaps sleepers that nobody woke | they look again at the end of their slice |
//! | consumer, anywhere | nothing | nothing to do |
//!
//! A hostile peer can store anything anywhere. Positions are masked before they address a cell, no
//! loop depends on a word of the ring but `oldest`, which has a bound, and an overtaken consumer that
//! would not move forward reports corruption.

use std::cell::Cell;
use std::ptr::NonNull;

use super::{LOOK, Memory, Miss, Start, Tally};
use crate::sync::atomic::{Ordering, fence};

fn writing(position: u64) -> u64 {
    position.wrapping_mul(2).wrapping_add(1)
}

fn holds(position: u64) -> u64 {
    position.wrapping_mul(2).wrapping_add(2)
}

/// A broadcast's algorithm with overwriting, over its memory.
#[derive(Debug)]
pub(crate) struct Overwrite<M> {
    memory: M,
}

/// What a look at a cell says about a position.
#[derive(Debug, PartialEq, Eq)]
enum Look {
    /// Not committed yet.
    NotYet,
    Here,
    /// Something newer is in its place.
    Gone,
}

impl<M: Memory> Overwrite<M> {
    pub(crate) fn new(memory: M) -> Self {
        Self { memory }
    }

    #[cfg(all(test, loom))]
    pub(super) fn memory(&self) -> &M {
        &self.memory
    }

    #[inline(always)]
    fn load(&self, position: u64) -> u64 {
        // Acquire: pairs with the Release of the producer's stores to the word.
        self.memory.word(position).load(Ordering::Acquire)
    }

    #[inline(always)]
    fn meaning(word: u64, position: u64) -> Look {
        match word.wrapping_sub(holds(position)) as i64 {
            0 => Look::Here,
            1.. => Look::Gone,
            _ => Look::NotYet,
        }
    }

    /// How much was committed.
    fn end(&self) -> u64 {
        let tail = self.memory.tail().load(Ordering::Acquire);
        if self.load(tail) == holds(tail) { tail.wrapping_add(1) } else { tail }
    }

    /// The oldest position before `end` whose item is still there; `end` if none is.
    fn oldest(&self, end: u64) -> u64 {
        let mut position = end.saturating_sub(self.memory.capacity());
        // One turn, if the producer is in the middle of a cell, or more, if it is running.
        while position != end && Self::meaning(self.load(position), position) == Look::Gone {
            position += 1;
        }
        position
    }

    /// Where a new producer begins.
    pub(crate) fn take_push(&self) -> u64 {
        let end = self.end();
        self.memory.tail().store(end, Ordering::Release);
        end
    }

    /// Where a new consumer begins.
    pub(crate) fn join(&self, start: Start) -> u64 {
        let end = self.end();
        match start {
            Start::Now => end,
            Start::Oldest => self.oldest(end),
            // Before `end`, unless the producer is overwriting the only item that there is.
            Start::Latest => self.oldest(end).max(end.saturating_sub(1)),
        }
    }

    #[inline(always)]
    fn begin(&self, position: u64) {
        // Release: invariant 5.
        self.memory.word(position).store(writing(position), Ordering::Release);
        // Pairs with the fence in `is_still`: who sees a word of the item sees `writing`.
        fence(Ordering::Release);
    }

    #[inline(always)]
    fn finish(&self, position: u64) -> u64 {
        // Release: pairs with the Acquire in `load`.
        self.memory.word(position).store(holds(position), Ordering::Release);
        let next = position.wrapping_add(1);
        self.memory.tail().store(next, Ordering::Release);
        next
    }

    /// Whether what was read at `position` was its item all the time.
    #[inline(always)]
    fn is_still(&self, position: u64) -> bool {
        // Pairs with the fence in `begin`.
        fence(Ordering::Acquire);
        self.memory.word(position).load(Ordering::Relaxed) == holds(position)
    }

    /// Pushes all of `count` items, one commit each; `position` is the producer's.
    ///
    /// # Safety
    /// `items` is readable for `count` items of `size` bytes; the caller holds the producing end.
    #[inline(always)]
    pub(crate) unsafe fn push(
        &self,
        position: &Cell<u64>,
        items: *const u8,
        size: usize,
        count: u64,
    ) -> u64 {
        let mut at = position.get();
        for i in 0..count {
            self.begin(at);
            // SAFETY: `i` is below `count`; the caller is the producer.
            unsafe { self.memory.write(at, items.add(i as usize * size)) };
            at = self.finish(at);
        }
        position.set(at);
        count
    }

    /// Pops at most `count` items; 0 when there is none. `position` is the consumer's; what is
    /// behind the items returned in `items` is undefined.
    ///
    /// # Safety
    /// `items` is writable for `count` items of `size` bytes.
    #[inline(always)]
    pub(crate) unsafe fn pop(
        &self,
        position: &Cell<u64>,
        items: *mut u8,
        size: usize,
        count: u64,
    ) -> Result<u64, Miss> {
        let first = position.get();
        for i in 0..count {
            let at = first.wrapping_add(i);
            let word = self.load(at);
            if word == holds(at) {
                // SAFETY: `i` is below `count`.
                unsafe { self.memory.read(at, items.add(i as usize * size)) };
                if self.is_still(at) {
                    continue;
                }
            }
            position.set(at);
            return if i > 0 { Ok(i) } else { self.nothing(position, word) };
        }
        position.set(first.wrapping_add(count));
        Ok(count)
    }

    /// Why there is no item at `position`, whose cell said `word`.
    #[cold]
    #[inline(never)]
    fn nothing(&self, position: &Cell<u64>, word: u64) -> Result<u64, Miss> {
        let at = position.get();
        if Self::meaning(word, at) != Look::NotYet {
            return Err(self.catch_up(position));
        }
        let capacity = self.memory.capacity();
        let before = if at < capacity { 0 } else { holds(at - capacity) };
        if word == before || word == writing(at) { Ok(0) } else { Err(Miss::Corrupt) }
    }

    /// Moves an overtaken consumer to the oldest item that is there; if the producer is running,
    /// somewhat further, or it would be overtaken again at once.
    fn catch_up(&self, position: &Cell<u64>) -> Miss {
        // Makes invariant 5 hold after a relaxed look at the word, too.
        fence(Ordering::Acquire);
        let before = self.end();
        (0..LOOK).for_each(|_| std::hint::spin_loop());
        let end = self.end();
        let head_start = if end == before { 0 } else { self.memory.capacity() / 8 };
        let oldest = self.oldest(end).wrapping_add(head_start);
        let next = if end.wrapping_sub(oldest) as i64 > 0 { oldest } else { end };
        let lost = next.wrapping_sub(position.get());
        if lost as i64 <= 0 {
            return Miss::Corrupt;
        }
        position.set(next);
        Miss::Lost(lost)
    }

    /// Hands out the cell of the producer's next item; the item before in it is gone then.
    pub(crate) fn reserve(&self, position: u64) -> NonNull<u8> {
        self.begin(position);
        self.memory.item(position)
    }

    /// Commits what was reserved; the producer's next position.
    pub(crate) fn commit(&self, position: u64) -> u64 {
        self.finish(position)
    }

    /// Hands out the item at the consumer's position in place: the producer may overwrite it at any
    /// moment, which `release` tells.
    pub(crate) fn peek(&self, position: &Cell<u64>) -> Result<Option<NonNull<u8>>, Miss> {
        let at = position.get();
        let word = self.load(at);
        if word == holds(at) {
            return Ok(Some(self.memory.item(at)));
        }
        self.nothing(position, word).map(|_| None)
    }

    /// Goes on behind the item that was peeked, which was there all the time; else behind those that
    /// were lost, it among them.
    pub(crate) fn release(&self, position: &Cell<u64>) -> Result<(), Miss> {
        let at = position.get();
        if !self.is_still(at) {
            return Err(self.catch_up(position));
        }
        position.set(at.wrapping_add(1));
        Ok(())
    }

    /// Whether a consumer at `position` has something to take, or has lost something.
    pub(crate) fn is_ready(&self, position: u64) -> bool {
        self.load(position).wrapping_sub(holds(position)) as i64 >= 0
    }

    /// Moves a consumer forward so that at most `keep` items are before it; how many it passes over.
    pub(crate) fn skip(&self, position: &Cell<u64>, keep: u64) -> u64 {
        let ahead = self.end().wrapping_sub(position.get());
        // Invariant 3; what a hostile writer has made of `tail` moves nobody back.
        let skipped = if (ahead as i64) < 0 { 0 } else { ahead.saturating_sub(keep) };
        position.set(position.get().wrapping_add(skipped));
        skipped
    }

    pub(crate) fn tally(&self) -> Tally {
        let written = self.end();
        let length = written.saturating_sub(self.oldest(written));
        Tally { written, read: 0, dropped: written.wrapping_sub(length), length }
    }
}
