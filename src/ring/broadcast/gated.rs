//! A broadcast with back-pressure: each consumer has a cursor in its participant slot, and the
//! producer does not overwrite what the slowest of them has still to read.
//!
//! ```text
//! push:  tail == limit?  reclaim; still equal → full (with EVICT: evict the slowest, again)
//!        item → cell(tail);  tail += 1;  shared tail = tail (Release): the commit
//! pop:   position == limit?  limit = shared tail (Acquire); still equal → empty
//!        cell(position) → buffer  (with EVICT by relaxed loads of words, and pushes by such stores)
//!        with EVICT: fence(Acquire); my reader word says evicted → the copy is void, join again
//!        cursor = position + 1 (Release)
//! reclaim: distance = max over registered consumers of tail - cursor, but at least 3/4 of capacity
//!        distance is no less than it was → full
//!        head = tail - distance;  fence(SeqCst);  look at the cursors again; raise distance if need
//!        be (then head = tail - distance once more);  limit = head + capacity
//! join:  cursor = c = tail, or head;  reader = here(generation);  fence(SeqCst)
//!        now:     c = tail again; cursor = c
//!        oldest:  head beyond c → begin again with that
//! ```
//!
//! The producer's position and limit, and a consumer's position and limit, are private; each reads
//! its own from shared memory only when it takes its end.
//!
//! Invariants:
//!
//! 1. No position `>= limit` was ever written: everything in `limit - capacity .. tail` is intact.
//!    `limit` never falls.
//! 2. A consumer that has joined with cursor `c` finds `c` and all after it intact. Let F be its
//!    fence. A reclaim whose fence comes after F sees the cursor, so its limit is at most
//!    `c + capacity`. For those whose fence came before F: joining *now*, it reads `tail` again after
//!    F, at least the tail `t` of that reclaim, whose limit is at most `t + capacity`. Joining at the
//!    *oldest*, it reads `head` again after F, at least as new as that reclaim's first store to it,
//!    and goes on only if that is at most `c`; and the limit is at most that + capacity.
//! 3. A consumer's cursor never is beyond what it has read (Release, pairs with the Acquire in
//!    `farthest`): the producer's copy comes after the consumer's.
//! 4. A reader word is 0, `here(g)` or `evicted(g)`, with the generation `g` of the slot. Only the
//!    owner makes it `here`; the producer turns `here` into `evicted`, and the `here` of a dead one into
//!    0, by compare-and-swap, which cannot hit a later owner: that one has another generation.
//! 5. An evicted consumer finds out before it believes a copy: `evicted` is stored before the reclaim's
//!    fence, which comes before any store to a cell that the eviction has freed. If a relaxed load of
//!    the copy reads such a store, the acquire fence after the copy synchronizes with that fence, and
//!    the load of the reader word that follows reads `evicted`.
//!
//! With EVICT the producer may thus write a cell while a consumer reads it, so both copy by relaxed
//! atomic accesses of words ([`Memory::write`], [`Memory::read`]), and cells are whole words. Without it
//! invariant 3 keeps them apart, and both copy by plain accesses. What is read or written in place is
//! accessed by the caller: see [`Gated::peek`].
//!
//! | killed | left behind | the others |
//! |---|---|---|
//! | producer, before the commit, or with room reserved | bytes beyond `tail`, invisible | the items were never sent; the next producer overwrites them |
//! | after the commit | the items, and perhaps sleepers that nobody woke | they look again at the end of their slice |
//! | in reclaim, after `head` was stored | a `head` that no limit follows from | the next producer looks at all cursors before it has a limit: what a consumer has joined on stays |
//! | after evicting | a consumer that is evicted | it joins again |
//! | consumer, while joining, or later | a cursor that holds the producer | the producer, when it is full, finds it dead and takes it out |
//! | after the copy, before the cursor | the same | its items were for it alone to miss |
//! | after the cursor, before the wake | a producer that sleeps beside room | it looks again at the end of its slice |
//!
//! What holds the producer is a living consumer, however slow or long stopped, unless the policy is to
//! evict.
//!
//! `dropped` counts the positions that were reclaimed by an eviction, or while nobody was registered;
//! it is written by the producer.
//!
//! A hostile peer can store anything anywhere. Positions are masked before they address a cell and
//! their distances compared with the capacity; every loop has a bound. Its cursor may hold the producer
//! as a slow consumer may.

use std::ptr::NonNull;

use super::{Corrupt, LOOK, Memory, Miss, Start, Tally};
use crate::ring::seat::Grip;
use crate::sync::atomic::{AtomicU32, Ordering, fence};

/// Turns of joining at the oldest; each vain one is a reclaim of the producer.
const PATIENCE: u32 = 64;

/// In the low bits of a reader word.
const HERE: u32 = 1;
const EVICTED: u32 = 2;
const STATE: u32 = 3;

/// Whose the cursors that count are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Farthest {
    /// How far the slowest is behind the tail; 0 if there is none.
    distance: u64,
    /// Its slot.
    index: u32,
    /// Its reader word; 0 if there is none.
    reader: u32,
}

/// A broadcast's algorithm with back-pressure, over its memory.
#[derive(Debug)]
pub(crate) struct Gated<M> {
    memory: M,
    /// Whether a full ring evicts its slowest consumer.
    evict: bool,
}

impl<M: Memory> Gated<M> {
    pub(crate) fn new(memory: M, evict: bool) -> Self {
        Self { memory, evict }
    }

    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }

    /// Slots in which there may be consumers.
    fn slots(&self) -> std::ops::Range<u32> {
        // Acquire: pairs with the join. One that is missed here has its fence after ours.
        0..self.memory.readers().load(Ordering::Acquire).min(self.memory.participants())
    }

    fn farthest(&self, tail: u64) -> Farthest {
        let mut farthest = Farthest { distance: 0, index: 0, reader: 0 };
        for index in self.slots() {
            // Acquire: pairs with the Release in `join`: the cursor is its own, not its predecessor's.
            let reader = self.memory.reader(index).load(Ordering::Acquire);
            if reader & STATE != HERE {
                continue;
            }
            // Acquire: invariant 3.
            let cursor = self.memory.cursor(index).load(Ordering::Acquire);
            let distance = tail.wrapping_sub(cursor);
            if farthest.reader == 0 || distance > farthest.distance {
                farthest = Farthest { distance, index, reader };
            }
        }
        farthest
    }

    /// Where a new producer begins.
    pub(crate) fn take_push(&self, grip: &Grip) -> Result<(), Corrupt> {
        let capacity = self.memory.capacity();
        // Acquire: pairs with the predecessor's stores, after which its lock was freed.
        let tail = self.memory.tail().load(Ordering::Acquire);
        let inside = tail.wrapping_sub(self.memory.head().load(Ordering::Acquire));
        if inside > capacity {
            return Err(Corrupt);
        }
        // Pairs with the fence in `join`: as in a reclaim, whose predecessor may have been killed
        // before it looked.
        fence(Ordering::SeqCst);
        let distance = self.farthest(tail).distance.max(inside).min(capacity);
        grip.position.set(tail);
        grip.limit.set(tail.wrapping_sub(distance).wrapping_add(capacity));
        Ok(())
    }

    /// Makes room for `want` items, at least for one: by what consumers have read, or by evicting.
    #[cold]
    #[inline(never)]
    fn make_room(&self, grip: &Grip, want: u64) {
        if self.reclaim(grip, want, false) || !self.evict || !self.is_full(grip) {
            return;
        }
        for _ in 0..=self.memory.participants() {
            let slowest = self.farthest(grip.position.get());
            if slowest.reader != 0 {
                let evicted = slowest.reader & !STATE | EVICTED;
                // Release: invariant 5. Failure: it left, which does as well.
                let _ = self.memory.reader(slowest.index).compare_exchange(
                    slowest.reader,
                    evicted,
                    Ordering::AcqRel,
                    Ordering::Acquire,
                );
            }
            if self.reclaim(grip, want, true) {
                return;
            }
        }
    }

    /// Moves the limit forward, if that can be, to have room for `want` items or a little more.
    /// Whether it did.
    fn reclaim(&self, grip: &Grip, want: u64, evicting: bool) -> bool {
        let capacity = self.memory.capacity();
        let (tail, limit) = (grip.position.get(), grip.limit.get());
        let before = capacity - limit.wrapping_sub(tail);
        // What is not needed is kept for those who join at the oldest.
        let step = (capacity / 4).max(want);
        let slowest = self.farthest(tail);
        let mut distance = slowest.distance.max(capacity - step);
        if distance >= before {
            return false;
        }
        let head = self.memory.head();
        // Release: who joins at it sees the items from there on.
        head.store(tail.wrapping_sub(distance), Ordering::Release);
        // Pairs with the fence in `join`: invariant 2.
        fence(Ordering::SeqCst);
        let again = self.farthest(tail);
        if again.distance > distance {
            distance = again.distance.min(before);
            head.store(tail.wrapping_sub(distance), Ordering::Release);
        }
        if evicting || slowest.reader == 0 {
            let dropped = self.memory.dropped();
            let count = dropped.load(Ordering::Relaxed).wrapping_add(before - distance);
            dropped.store(count, Ordering::Relaxed);
        }
        grip.limit.set(tail.wrapping_sub(distance).wrapping_add(capacity));
        distance < before
    }

    fn to_end(&self, position: u64) -> u64 {
        self.memory.capacity() - self.memory.cell(position)
    }

    /// Room there is now for at most `count` items.
    #[inline(always)]
    fn room(&self, grip: &Grip, count: u64) -> u64 {
        let want = count.min(self.memory.capacity());
        if grip.limit.get().wrapping_sub(grip.position.get()) < want {
            self.make_room(grip, want);
        }
        grip.limit.get().wrapping_sub(grip.position.get()).min(want)
    }

    /// Pushes as many of `count` items as there is room for, with one commit; 0 if there is none.
    ///
    /// # Safety
    /// `items` is readable for `count` items of `size` bytes; the caller holds the producing end, and
    /// `grip` is its own.
    #[inline(always)]
    pub(crate) unsafe fn push(
        &self,
        grip: &Grip,
        items: *const u8,
        size: usize,
        count: u64,
    ) -> u64 {
        let room = self.room(grip, count);
        if room == 0 {
            return 0;
        }
        let position = grip.position.get();
        let first = room.min(self.to_end(position));
        if self.evict {
            for i in 0..room {
                // SAFETY: `i` is below `count`, and the caller is the producer.
                unsafe {
                    self.memory.write(position.wrapping_add(i), items.add(i as usize * size));
                }
            }
            self.commit(grip, room);
            return room;
        }
        // SAFETY: both runs lie before the limit, so every consumer has passed them (invariants 1 and 3),
        // and none can be evicted; they lie in what the caller vouches for.
        unsafe {
            self.memory.write_run(position, items, first);
            if first < room {
                let rest = items.add(first as usize * size);
                self.memory.write_run(position.wrapping_add(first), rest, room - first);
            }
        }
        self.commit(grip, room);
        room
    }

    /// Pushes one item if there is room before the private limit. In a ring that evicts, items of
    /// another size than eight bytes go the other way. `WORD`: items have eight bytes.
    ///
    /// # Safety
    /// As for `push`, for one item; `WORD` is so.
    #[inline(always)]
    pub(crate) unsafe fn push_one<const WORD: bool>(&self, grip: &Grip, item: *const u8) -> bool {
        let position = grip.position.get();
        if position == grip.limit.get() || !WORD && self.evict {
            return false;
        }
        // SAFETY: the cell lies before the limit, so every consumer has passed it (invariants 1 and 3),
        // but for those evicted, which read it by atomic loads; the caller vouches for the item and for
        // `WORD`.
        unsafe {
            if WORD && self.evict {
                self.memory.write_shared_word(position, item);
            } else if WORD {
                self.memory.write_word(position, item);
            } else {
                self.memory.write_run(position, item, 1);
            }
        }
        self.commit(grip, 1);
        true
    }

    /// Items from `position` on that stand in a row, where padding is between them one.
    fn in_a_row(&self, position: u64) -> u64 {
        if self.memory.is_dense() { self.to_end(position) } else { 1 }
    }

    /// Hands out a run of at most `count` cells in place; nothing is visible before `commit`. With EVICT
    /// a consumer that has been evicted may still be reading them, by atomic loads; it discards what it
    /// reads.
    pub(crate) fn reserve(&self, grip: &Grip, count: u64) -> Option<(NonNull<u8>, u64)> {
        let position = grip.position.get();
        let run = self.room(grip, count).min(self.in_a_row(position));
        (run > 0).then(|| (self.memory.item(position), run))
    }

    /// Commits the next `count` items, which were written in place.
    #[inline(always)]
    pub(crate) fn commit(&self, grip: &Grip, count: u64) {
        let next = grip.position.get().wrapping_add(count);
        grip.position.set(next);
        // Release: pairs with the Acquire in `ready`.
        self.memory.tail().store(next, Ordering::Release);
    }

    fn here(&self, me: u32) -> u32 {
        self.memory.generation(me) << 2 | HERE
    }

    /// Registers participant `me` as a consumer, from `start` on.
    pub(crate) fn join(&self, me: u32, grip: &Grip, start: Start) {
        // Release: pairs with the Acquire in `slots`.
        self.memory.readers().fetch_max(me + 1, Ordering::AcqRel);
        let position = match start {
            Start::Now => {
                self.register(me, self.memory.tail().load(Ordering::Acquire));
                self.now(me)
            }
            Start::Oldest => self.settle(me, self.memory.head().load(Ordering::Acquire)),
            Start::Latest => {
                let head = self.memory.head().load(Ordering::Acquire);
                let tail = self.memory.tail().load(Ordering::Acquire);
                self.settle(me, if tail == head { tail } else { tail.wrapping_sub(1) })
            }
        };
        grip.position.set(position);
        grip.limit.set(position);
    }

    /// Announces a cursor and makes it count.
    fn register(&self, me: u32, cursor: u64) {
        self.memory.cursor(me).store(cursor, Ordering::Release);
        // Release: who sees it here sees this cursor or a later one.
        self.memory.reader(me).store(self.here(me), Ordering::Release);
        // Pairs with the fence in `reclaim`: invariant 2.
        fence(Ordering::SeqCst);
    }

    /// Joins now.
    fn now(&self, me: u32) -> u64 {
        let tail = self.memory.tail().load(Ordering::Acquire);
        self.memory.cursor(me).store(tail, Ordering::Release);
        tail
    }

    /// Joins at `position`, or at the first one after it from which nothing was reclaimed.
    fn settle(&self, me: u32, mut position: u64) -> u64 {
        for _ in 0..PATIENCE {
            self.register(me, position);
            // Acquire: the items from there on are seen.
            let head = self.memory.head().load(Ordering::Acquire);
            if head.wrapping_sub(position) as i64 <= 0 {
                return position;
            }
            position = head;
        }
        self.now(me)
    }

    /// Takes participant `me`, whose handle closes, off the consumers.
    pub(crate) fn leave(&self, me: u32) {
        // Release: what it read it has read.
        self.memory.reader(me).store(0, Ordering::Release);
    }

    /// Items that are committed and that the consumer `grip` has not read.
    pub(crate) fn unread(&self, grip: &Grip) -> u64 {
        let tail = self.memory.tail().load(Ordering::Acquire);
        tail.wrapping_sub(grip.position.get()).min(self.memory.capacity())
    }

    /// Whether the producer has evicted participant `me`.
    #[inline(always)]
    fn is_evicted(&self, me: u32) -> bool {
        // Invariant 5; pairs with the fence in `reclaim`.
        fence(Ordering::Acquire);
        self.memory.reader(me).load(Ordering::Relaxed) & STATE != HERE
    }

    /// Joins again after an eviction, with the oldest item that this consumer has not read and that is
    /// still there; how many it has lost.
    #[cold]
    #[inline(never)]
    fn join_again(&self, me: u32, grip: &Grip) -> u64 {
        let before = grip.position.get();
        let head = self.memory.head().load(Ordering::Acquire);
        let ahead = head.wrapping_sub(before) as i64 > 0;
        let position = self.settle(me, if ahead { self.middle(head) } else { before });
        // Where nothing is lost the limit stands, and with it a run that ends there.
        if position != before {
            grip.position.set(position);
            grip.limit.set(position);
        }
        position.wrapping_sub(before)
    }

    /// Where to join again at `head`: there, or, if the producer is running, in the middle of the ring:
    /// at its edge this consumer would be the slowest again, and evicted at once.
    fn middle(&self, head: u64) -> u64 {
        let tail = || self.memory.tail().load(Ordering::Acquire);
        let before = tail();
        (0..LOOK).for_each(|_| std::hint::spin_loop());
        let now = tail();
        let middle = now.wrapping_sub(self.memory.capacity() / 2);
        if now != before && middle.wrapping_sub(head) as i64 > 0 { middle } else { head }
    }

    /// Items there are now for the consumer, at most `count`.
    #[inline(always)]
    fn ready(&self, me: u32, grip: &Grip, count: u64) -> Result<u64, Miss> {
        let ready = grip.limit.get().wrapping_sub(grip.position.get());
        if ready != 0 { Ok(ready.min(count)) } else { self.look(me, grip, count) }
    }

    #[inline(never)]
    fn look(&self, me: u32, grip: &Grip, count: u64) -> Result<u64, Miss> {
        if self.evict && self.is_evicted(me) {
            let lost = self.join_again(me, grip);
            if lost > 0 {
                return Err(Miss::Lost(lost));
            }
        }
        // Acquire: pairs with the Release in `commit`.
        let tail = self.memory.tail().load(Ordering::Acquire);
        let ready = tail.wrapping_sub(grip.position.get());
        if ready > self.memory.capacity() {
            // Evicted meanwhile; the next look tells.
            return if self.evict && self.is_evicted(me) { Ok(0) } else { Err(Miss::Corrupt) };
        }
        grip.limit.set(tail);
        Ok(ready.min(count))
    }

    /// Pops at most `count` items; 0 when there is none. What is behind the items returned in `items`
    /// is undefined.
    ///
    /// # Safety
    /// `items` is writable for `count` items of `size` bytes; `me` has joined, and `grip` is its own.
    #[inline(always)]
    pub(crate) unsafe fn pop(
        &self,
        me: u32,
        grip: &Grip,
        items: *mut u8,
        size: usize,
        count: u64,
    ) -> Result<u64, Miss> {
        let ready = self.ready(me, grip, count)?;
        if ready == 0 {
            return Ok(0);
        }
        let position = grip.position.get();
        if self.evict {
            for i in 0..ready {
                // SAFETY: `i` is below `count`.
                unsafe {
                    self.memory.read(position.wrapping_add(i), items.add(i as usize * size));
                }
            }
            self.advance(me, grip, ready)?;
            return Ok(ready);
        }
        let first = ready.min(self.to_end(position));
        // SAFETY: two runs that end at the end of the ring, in what the caller vouches for. They lie
        // before the tail that `look` has read (Acquire), and from this consumer's cursor on.
        unsafe {
            self.memory.read_run(position, items, first);
            if first < ready {
                let rest = items.add(first as usize * size);
                self.memory.read_run(position.wrapping_add(first), rest, ready - first);
            }
        }
        self.pass(me, grip, ready);
        Ok(ready)
    }

    /// Pops one item if there is one before the private limit. Who can be evicted goes the other way,
    /// which looks at that. `WORD`: items have eight bytes.
    ///
    /// # Safety
    /// As for `pop`, for one item; `WORD` is so.
    #[inline(always)]
    pub(crate) unsafe fn pop_one<const WORD: bool>(
        &self,
        me: u32,
        grip: &Grip,
        item: *mut u8,
    ) -> bool {
        let position = grip.position.get();
        if position == grip.limit.get() || self.evict {
            return false;
        }
        // SAFETY: the item lies before the tail that `look` has read (Acquire) and from this consumer's
        // cursor on, and it cannot be evicted; the caller vouches for the buffer and for `WORD`.
        unsafe {
            if WORD {
                self.memory.read_word(position, item);
            } else {
                self.memory.read_run(position, item, 1);
            }
        }
        self.pass(me, grip, 1);
        true
    }

    /// Goes on behind `count` items that were read; if the producer has evicted this consumer
    /// meanwhile, they are void, and it goes on behind those that it has lost.
    #[inline(always)]
    fn advance(&self, me: u32, grip: &Grip, count: u64) -> Result<(), Miss> {
        if self.evict && self.is_evicted(me) {
            let lost = self.join_again(me, grip);
            // 0: evicted, and its place not used yet. Then the items were there all the time.
            if lost > 0 {
                return Err(Miss::Lost(lost));
            }
        }
        self.pass(me, grip, count);
        Ok(())
    }

    /// Goes on behind `count` items that were read, and frees their cells.
    #[inline(always)]
    fn pass(&self, me: u32, grip: &Grip, count: u64) {
        let next = grip.position.get().wrapping_add(count);
        grip.position.set(next);
        // Release: invariant 3.
        self.memory.cursor(me).store(next, Ordering::Release);
    }

    /// Hands out a run of at most `count` items in place. With EVICT the producer may write over them at
    /// any moment, which [`Gated::release`] tells: until it has succeeded, the bytes are not to be
    /// believed, and the caller must read them so that a concurrent store does no harm.
    pub(crate) fn peek(
        &self,
        me: u32,
        grip: &Grip,
        count: u64,
    ) -> Result<Option<(NonNull<u8>, u64)>, Miss> {
        let ready = self.ready(me, grip, count)?;
        let position = grip.position.get();
        let run = ready.min(self.in_a_row(position));
        Ok((run > 0).then(|| (self.memory.item(position), run)))
    }

    /// Goes on behind the first `count` items of the run that was handed out.
    pub(crate) fn release(&self, me: u32, grip: &Grip, count: u64) -> Result<(), Miss> {
        self.advance(me, grip, count)
    }

    /// Whether consumers hold the producer, whose limit is `grip`'s.
    pub(crate) fn is_full(&self, grip: &Grip) -> bool {
        grip.limit.get() == grip.position.get()
    }

    /// Takes dead consumers out; whether there was one.
    pub(crate) fn bury(&self, alive: &dyn Fn(u32) -> bool) -> bool {
        let mut buried = false;
        for index in self.slots() {
            let word: &AtomicU32 = self.memory.reader(index);
            let reader = word.load(Ordering::Acquire);
            // Invariant 4: the word was read before its owner was found dead.
            if reader & STATE == HERE && !alive(index) {
                let order = (Ordering::AcqRel, Ordering::Acquire);
                buried |= word.compare_exchange(reader, 0, order.0, order.1).is_ok();
            }
        }
        buried
    }

    /// Whether the producer may push.
    pub(crate) fn has_room(&self, grip: &Grip) -> bool {
        let tail = grip.position.get();
        let full = self.farthest(tail).distance >= self.memory.capacity();
        grip.limit.get() != tail || self.evict || !full
    }

    /// Whether the producer, which sleeps, finds room after what this consumer has read: where not,
    /// to wake it would be in vain. That is for reads only: who joins, leaves, or takes a dead one out
    /// wakes the producer whatever this says, or two of them might each leave it to the other.
    pub(crate) fn lets_push(&self) -> bool {
        // Pairs with itself in other consumers: of those who have moved their cursors, the last to come
        // here sees all of them moved. And with the sleeper's barrier: if that came before this, the
        // tail is the one it sleeps at; if after, it has found this cursor itself.
        fence(Ordering::SeqCst);
        let tail = self.memory.tail().load(Ordering::Relaxed);
        self.evict || self.farthest(tail).distance < self.memory.capacity()
    }

    /// Whether a consumer has something to take, or to be told.
    pub(crate) fn is_ready(&self, me: u32, grip: &Grip) -> bool {
        let tail = self.memory.tail().load(Ordering::Acquire);
        tail != grip.position.get() || self.evict && self.is_evicted(me)
    }

    /// From any handle, while others work. The length is how far the slowest consumer is behind; while
    /// none is registered, how many items are kept for one that joins at the oldest.
    pub(crate) fn tally(&self) -> Tally {
        let dropped = self.memory.dropped().load(Ordering::Acquire);
        let head = self.memory.head().load(Ordering::Acquire);
        let tail = self.memory.tail().load(Ordering::Acquire);
        let slowest = self.farthest(tail);
        let inside = tail.wrapping_sub(head);
        let length = if slowest.reader == 0 { inside } else { slowest.distance };
        let length = length.min(self.memory.capacity()).min(tail);
        let read = tail.wrapping_sub(length).saturating_sub(dropped);
        Tally { written: tail, read, dropped: tail - length - read, length }
    }
}
