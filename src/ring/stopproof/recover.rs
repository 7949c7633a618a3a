#![forbid(unsafe_code)]
//! What the dead leave in a stop-proof ring: cells, in nobody's way. They are freed when the dead
//! one's slot is taken again; until then they are told apart by asking who lives.

use super::super::stats::steady;
use super::word::{Cell, FREE, Place, position_near};
use super::{Core, Memory};
use crate::sync::atomic::Ordering;

/// What is inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    /// Items pushed, ever.
    pub written: u64,
    /// Items popped, ever, without those that were lost.
    pub read: u64,
    /// Items given up for newer ones.
    pub dropped: u64,
    /// Items whose taker died with them.
    pub lost: u64,
    /// Items inside.
    pub length: u64,
    /// Cells that a living producer has and has not pushed.
    pub pending: u64,
}

impl<M: Memory> Core<M> {
    /// Whether the item of `cell`, which was seen OFFERED at the position with the low bits `low`, was
    /// put into the queue there and not popped.
    fn is_queued(&self, cell: u64, low: u64) -> bool {
        let tail = self.memory.tail().load(Ordering::SeqCst);
        self.place(position_near(low, tail)).1 == Place::Holds(cell)
    }

    /// Frees the cells of the dead participant `index`. The caller holds its lock byte.
    ///
    /// SeqCst as everywhere in this core. What the dead one did to its cells is visible by its lock byte,
    /// which the kernel freed last.
    pub(crate) fn sweep(&self, index: u32) {
        for cell in 0..self.memory.cells() {
            let word = self.memory.cell(cell).load(Ordering::SeqCst);
            let was_taken = match Cell::of(word) {
                Cell::Owned(owner) if owner == index => false,
                Cell::Taken(owner) if owner == index => true,
                // Whoever died cannot push any more: what is not in the queue now never will be. If it
                // was popped since the look at the cell, the exchange below fails.
                Cell::Offered(low, owner) if owner == index && !self.is_queued(cell, low) => false,
                _ => continue,
            };
            let freed = self
                .memory
                .cell(cell)
                .compare_exchange(word, FREE, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok();
            if freed && was_taken {
                self.memory.lost().fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// The first position that was not popped, and the first that was not pushed: invariant 3.
    fn ends(&self) -> (u64, u64) {
        let head = self.memory.head().load(Ordering::SeqCst);
        let popped = match self.place(head).1 {
            Place::Holds(cell) => {
                self.cell(cell).is_ok_and(|word| !super::is_offered_at(word, head))
            }
            Place::Past => true,
            _ => false,
        };
        let tail = self.memory.tail().load(Ordering::SeqCst);
        let pushed = matches!(self.place(tail).1, Place::Holds(_) | Place::Past);
        (head.wrapping_add(popped.into()), tail.wrapping_add(pushed.into()))
    }

    /// Whether the queue is empty.
    pub(crate) fn is_empty(&self) -> bool {
        let (first, end) = self.ends();
        first == end
    }

    /// A count of everything. At a quiet moment it is exact, and
    /// `written = read + dropped + lost + length` always: both sums are made from the same look.
    pub(crate) fn tally(&self, alive: &dyn Fn(u32) -> bool) -> Tally {
        // Before the cells: what a sweep counts meanwhile is not counted a second time below.
        let lost = self.memory.lost().load(Ordering::SeqCst);
        let (mut pending, mut gone) = (0, 0);
        for cell in 0..self.memory.cells() {
            match Cell::of(self.memory.cell(cell).load(Ordering::SeqCst)) {
                Cell::Owned(owner) if alive(owner) => pending += 1,
                Cell::Offered(low, owner) if !self.is_queued(cell, low) && alive(owner) => {
                    pending += 1;
                }
                Cell::Taken(owner) if !alive(owner) => gone += 1,
                _ => {}
            }
        }
        // The ends last: whatever was counted as gone had been popped before.
        let dropped = || self.memory.dropped().load(Ordering::SeqCst);
        let (dropped, (first, end)) = steady(dropped, || self.ends());
        let lost = lost.wrapping_add(gone);
        let read = first.wrapping_sub(dropped).wrapping_sub(lost);
        // More than there are places is what a scribbler has written.
        let inside = end.wrapping_sub(first);
        let length = if inside <= self.memory.places() { inside } else { 0 };
        Tally { written: first.wrapping_add(length), read, dropped, lost, length, pending }
    }
}
