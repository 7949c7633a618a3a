#![forbid(unsafe_code)]
//! The policy `REDELIVER` of a many-to-many ring: an item whose taker died, or closed, before it had
//! freed the cell is given to another consumer.
//!
//! Such an item stays where it is, behind `head`, in the cell of its position p. The cell's word has
//! a tag for it:
//!
//! ```text
//! full(p)        claimed by whoever's pop_intent covers p (as without the policy)
//!   → returned(p)      its taker is dead, or gave it back: anybody's
//!   → again(p, x)      participant x has it in hands
//!   → returned(p)      x is dead, or gave it back; and so on
//!   → free for p's next lap, by x
//! ```
//!
//! | step | who does it | how |
//! |---|---|---|
//! | full → returned | who holds the dead taker's lock byte, and found no living one whose intent covers p; or the living taker itself | compare-and-swap; its own store |
//! | returned → again(x) | x, after it has stored pop_intent = p | compare-and-swap |
//! | again(x) → returned | who holds the dead x's lock byte; or x | compare-and-swap; its own store |
//! | again(x) → free | x | its own store, after it has read the item |
//! | returned → free | a push that overwrites the oldest | compare-and-swap |
//!
//! Invariants, besides those of the module's header:
//!
//! 5. full(p) never comes back once it has changed. So a compare-and-swap from it is final, however
//!    old the proof that goes with it.
//! 6. again(p, x) *can* come back, with another handle in slot x. So it is changed by x alone, or
//!    under x's lock byte, which no new x can have meanwhile.
//! 7. If the word is again(p, x), the pop_intent of x covers p: stored before, and overwritten by a
//!    later operation only, which comes after x has freed the cell. So the sweep of a slot finds all
//!    that its owner had in hands by its intent, and need not look at the whole ring.
//! 8. A returned item is nobody's and needs no owner: whoever dies while it looks at one leaves it
//!    as it is. An item is never in private memory alone: its cell is freed only by a taker that has
//!    copied it, or has released what it read in place.
//!
//! # How returned items are found
//!
//! Two words count. `announced` is added to *after* a word became returned(p), and *before* the
//! intent that names p is cleared (the slot of the dead, or of who gave it back, stays in use until
//! then: if the sweeper dies in between, the next sweep of the same slot meets returned(p) and
//! announces it again). `settled` is the largest `announced`, read before a look at all cells, of
//! which that look found nothing. So
//!
//! 9. if `settled = announced`, every returned item is named by the intent of a slot that is yet to
//!    be swept, or of a living participant that is just giving it back.
//!
//! And the flag [`RETURNED`](crate::ring::control::RETURNED) keeps operations off the straight way
//! while there may be something: a hint only, which makes a returned item come before all that is
//! still in the ring. Where it is lost, the item comes when a consumer finds the ring empty, at the
//! latest when producers have gone round to its cell and everything behind it was taken.
//!
//! Who looks for the dead: each consumer and producer that waits, once a slice; that polls, once a
//! millisecond; who takes a slot; `mdg_object_repair`. They sweep the slots of the dead that have
//! something in hands; nothing else of the dead is touched.
//!
//! # Killed at every step
//!
//! | killed | left behind | the others |
//! |---|---|---|
//! | consumer: before its claim | nothing, or an intent | nothing to resolve |
//! | consumer: with the claim, up to the free; peeking | full(p), covered by the intent | sweep: returned(p) |
//! | second taker: intent stored, word still returned(p) | returned(p) | take it; sweep: announce once more |
//! | second taker: word is again(p, x), up to the free | again(p, x), covered by the intent of x | sweep: returned(p) |
//! | either: after the free | nothing | the item is gone with its taker |
//! | who gives back: word returned(p), not announced | its slot, whose intent covers p | take it by chance, or sweep and announce |
//! | sweeper: word returned(p), not announced | the dead one's slot, still in use | the same |
//! | sweeper: announced, slot not cleared | the same | announce it again: one look in vain |
//! | who looks through the cells: anywhere | `settled` behind | look again |
//! | a push that gives up a returned item: freed, not counted | a free cell | counted as read, not as dropped |
//!
//! A taker that is *stopped*, however long, keeps its item: its lock byte is held, so rows 1 and 3
//! of the table of steps are closed to everybody else. A living one whose intent covers full(p)
//! beside a dead one's (it lost the race for p, and was stopped before it could clear its intent)
//! puts the sweep off until it goes on.
//!
//! No item is returned by two pops: a pop by copy frees the cell before it returns, so who was killed
//! with the cell not freed has not returned. Who reads in place may have done its work and not
//! released: only then the work is done twice.
//!
//! # The end of the stream
//!
//! What others have in hands may come back, so a consumer that finds nothing is told of the end only
//! when nobody has anything: [`Core::is_settled`].

use std::sync::atomic::AtomicU64 as Private;

use super::word::{Cell, Intent};
use super::{Core, Memory};
use crate::object::End;
use crate::sync::atomic::Ordering;

/// How far a handle has looked through the cells, in private memory: facts that stay true.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// `announced` when it began.
    epoch: Private,
    /// The cells of the positions below this one hold nothing that came back by then.
    next: Private,
}

impl<M: Memory> Core<M> {
    /// Whether what a dead taker had in hands comes again.
    #[inline(always)]
    pub(crate) fn redelivers(&self) -> bool {
        self.redeliver
    }

    /// Whether items may be there that came back. After a look in vain, "no" until the next comes.
    #[inline(always)]
    pub(crate) fn has_returned(&self) -> bool {
        // Acquire: invariant 9, for who goes on from a "no".
        self.redeliver
            && self.memory.settled().load(Ordering::Acquire)
                != self.memory.announced().load(Ordering::Acquire)
    }

    /// Says that items came back. Their words come before, the clearing of their takers' intents
    /// after it.
    pub(super) fn announce(&self) {
        // AcqRel: whoever sees the new count sees the words.
        self.memory.announced().fetch_add(1, Ordering::AcqRel);
        self.memory.flag_returned(true);
    }

    /// Gives an item back that this participant has in hands.
    pub(super) fn give_item_back(&self, position: u64) {
        // Release: as for a publish.
        self.memory.cell(position).store(self.laps.returned(position), Ordering::Release);
        self.announce();
    }

    /// Takes the oldest item that came back into the hands of `me`.
    #[cold]
    pub(super) fn take_returned(&self, me: u32) -> Option<u64> {
        let memory = &self.memory;
        // Acquire: pairs with `announce`. Before the tail: what is announced is behind it.
        let epoch = memory.announced().load(Ordering::Acquire);
        let tail = memory.tail().load(Ordering::Acquire);
        let first = tail.saturating_sub(memory.capacity());
        let (seen, next) = (&self.looked.epoch, &self.looked.next);
        let from =
            if seen.load(Ordering::Relaxed) == epoch { next.load(Ordering::Relaxed) } else { 0 };
        for position in from.max(first)..tail {
            let cell = memory.cell(position);
            // Acquire: pairs with who returned it, and with who published it before.
            let word = cell.load(Ordering::Acquire);
            if self.laps.look(word, position) != Cell::Returned {
                continue;
            }
            let intent = memory.intent(me, End::Consumer);
            // Release, as every store to an intent.
            intent.store(Intent::new(position, 1).0, Ordering::Release);
            let again = self.laps.again(position, me);
            // AcqRel: the intent is visible to whoever sees the word.
            if cell.compare_exchange(word, again, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                seen.store(epoch, Ordering::Relaxed);
                next.store(position + 1, Ordering::Relaxed);
                // Release: pairs with the Acquire in `tally`.
                memory.redelivered().fetch_add(1, Ordering::Release);
                return Some(position);
            }
            intent.store(Intent::NONE.0, Ordering::Release);
        }
        // AcqRel: who sees it settled sees the intents of those who took the items.
        memory.settled().fetch_max(epoch, Ordering::AcqRel);
        memory.flag_returned(false);
        if self.has_returned() {
            memory.flag_returned(true);
        }
        None
    }

    /// Frees the cell of `before`, one lap behind the tail, if its item came back: a push gives up
    /// the oldest. Whether it did.
    pub(super) fn give_up_returned(&self, before: u64) -> bool {
        let cell = self.memory.cell(before);
        // Acquire: the item's reader is done with it before it is written over.
        let word = cell.load(Ordering::Acquire);
        let free = self.laps.next_free(before);
        // AcqRel: as a release of the cell.
        let given_up = self.laps.look(word, before) == Cell::Returned
            && cell.compare_exchange(word, free, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if given_up {
            self.memory.dropped().fetch_add(1, Ordering::Release);
        }
        given_up
    }

    /// Returns `position`, which an intent of the dead participant `index` names and whose word was
    /// `word`, if that has it. The caller holds its lock byte. Whether there is an item to announce.
    pub(super) fn take_back(&self, index: u32, position: u64, word: u64) -> bool {
        let returned = self.laps.returned(position);
        match self.laps.look(word, position) {
            Cell::Returned => true,
            Cell::Again(owner) if owner != index => false,
            // AcqRel: as a publish. Failure: from full, another sweeper was here first, whose dead
            // one's intent covered it as well; it may die before it announces, so this one does, too.
            _ => {
                let cell = self.memory.cell(position);
                let _ = cell.compare_exchange(word, returned, Ordering::AcqRel, Ordering::Acquire);
                true
            }
        }
    }

    /// Whether `position` was taken, by the participant whose intent names it perhaps, and is not
    /// finished.
    fn is_in_hands(&self, position: u64, head: u64) -> bool {
        head.wrapping_sub(position) as i64 > 0
            && matches!(self.cell(position), Cell::Full | Cell::Tombstone | Cell::Again(_))
    }

    /// Whether participant `index` has, or may have, items in hands, or has given some back and not
    /// announced it.
    pub(crate) fn has_in_hands(&self, index: u32) -> bool {
        // Acquire: invariant 2.
        let intent = Intent(self.memory.intent(index, End::Consumer).load(Ordering::Acquire));
        let head = self.memory.head().load(Ordering::Acquire);
        // No run is longer than the ring.
        let most = self.memory.capacity() as usize;
        intent.positions(head).take(most).any(|position| {
            self.is_in_hands(position, head) || self.cell(position) == Cell::Returned
        })
    }

    /// Whether the ring is empty, and nothing can come back: nobody but `me` has an item in hands.
    pub(crate) fn is_settled(&self, me: u32) -> bool {
        if !self.is_empty() {
            return false;
        }
        if !self.redeliver {
            return true;
        }
        // By invariant 9 every item that was announced by now was taken, and the intents of those who
        // took them are seen below, or later ones. What is returned from now on changes `announced`.
        let epoch = self.memory.announced().load(Ordering::Acquire);
        !self.has_returned()
            && !(0..self.memory.participants()).any(|index| index != me && self.has_in_hands(index))
            && self.memory.announced().load(Ordering::Acquire) == epoch
    }

    /// How many items lie there that came back.
    pub(super) fn count_returned(&self, head: u64, tail: u64) -> u64 {
        if !self.redeliver {
            return 0;
        }
        let first = tail.saturating_sub(self.memory.capacity());
        // Not beyond the tail, whatever a scribbler has made of the head.
        (first..head.min(tail)).filter(|&position| self.cell(position) == Cell::Returned).count()
            as u64
    }
}
