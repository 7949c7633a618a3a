#![forbid(unsafe_code)]
//! Recovery of what the dead left half-done in a many-to-many ring.
//!
//! Never on the fast path: [`Core::mend`] is for whoever waits, [`Core::sweep`] for whoever takes a
//! dead participant's slot. Neither takes a lock: a position is resolved by one compare-and-swap
//! from the word that was read before the owner was proven dead, so two who do it, or one who is
//! killed in it, do it once.

use super::word::{Cell, Intent, MAX_RUN};
use super::{Core, Corrupt, Memory};
use crate::object::End;
use crate::sync::atomic::Ordering;

/// What holds up the next operation at one end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blocked {
    /// Nothing but an empty ring, or a full one; or it is over already.
    No,
    /// A position that another participant has claimed and not finished.
    By(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// One who names it is alive.
    Alive,
    /// Some name it, and all of them are dead.
    Dead,
    /// Nobody names it.
    Nobody,
}

impl<M: Memory> Core<M> {
    /// Whether the next pop, or push, waits for somebody who has claimed its cell before.
    pub(crate) fn blocked(&self, end: End) -> Blocked {
        // Acquire: pairs with the claims. One's own end first: if it is out of date, so is the cell,
        // which is past it then.
        match end {
            End::Consumer => {
                let head = self.memory.head().load(Ordering::Acquire);
                let tail = self.memory.tail().load(Ordering::Acquire);
                match self.cell(head) {
                    Cell::Free if tail != head => Blocked::By(head),
                    _ => Blocked::No,
                }
            }
            End::Producer => {
                let tail = self.memory.tail().load(Ordering::Acquire);
                let head = self.memory.head().load(Ordering::Acquire);
                let before = tail.wrapping_sub(self.memory.capacity());
                let passed = head.wrapping_sub(before) as i64 > 0;
                match self.cell(tail) {
                    // What came back is in nobody's hands: that is a full ring.
                    Cell::Behind if passed && self.cell(before) != Cell::Returned => {
                        Blocked::By(before)
                    }
                    _ => Blocked::No,
                }
            }
        }
    }

    /// Whether `position`, claimed at `end`, is not finished.
    fn is_open(&self, word: u64, position: u64, end: End) -> bool {
        match self.laps.look(word, position) {
            Cell::Free => end == End::Producer,
            Cell::Full | Cell::Tombstone | Cell::Returned | Cell::Again(_) => end == End::Consumer,
            _ => false,
        }
    }

    /// Finishes `position`, whose owner is dead, from the word that stood there when that was
    /// proven.
    fn resolve(&self, word: u64, position: u64, end: End) {
        let (next, counter) = match end {
            End::Producer => (self.laps.tombstone(position), None),
            End::Consumer if self.laps.look(word, position) == Cell::Tombstone => {
                (self.laps.next_free(position), Some(self.memory.buried()))
            }
            End::Consumer => (self.laps.next_free(position), Some(self.memory.lost())),
        };
        let cell = self.memory.cell(position);
        // AcqRel: as a publish, or a release. Failure: somebody else was here first.
        if cell.compare_exchange(word, next, Ordering::AcqRel, Ordering::Acquire).is_ok()
            && let Some(counter) = counter
        {
            // Release: pairs with the Acquire in `tally`.
            counter.fetch_add(1, Ordering::Release);
        }
    }

    /// Who, by the intents, may own `position`; `dead` is known to be dead and to name it.
    fn owner(
        &self,
        position: u64,
        end: End,
        dead: Option<u32>,
        alive: &dyn Fn(u32) -> bool,
    ) -> Owner {
        let mut owner = if dead.is_some() { Owner::Dead } else { Owner::Nobody };
        for index in (0..self.memory.participants()).filter(|&index| Some(index) != dead) {
            // Acquire: invariant 2.
            let intent = Intent(self.memory.intent(index, end).load(Ordering::Acquire));
            if intent.covers(position) {
                if alive(index) {
                    return Owner::Alive;
                }
                owner = Owner::Dead;
            }
        }
        owner
    }

    /// Resolves what holds up the next operation at `end`, if its owner is dead, and everything in a
    /// row behind it that is in the same state. Whether anything was resolved.
    pub(crate) fn mend(&self, end: End, alive: &dyn Fn(u32) -> bool) -> Result<bool, Corrupt> {
        let (other, index) = match end {
            End::Producer => (End::Consumer, self.memory.head()),
            End::Consumer => (End::Producer, self.memory.tail()),
        };
        if self.redeliver && end == End::Producer {
            // Items are given back where their takers' slots are swept: see `redeliver`.
            return Ok(false);
        }
        let Blocked::By(first) = self.blocked(end) else { return Ok(false) };
        for i in 0..self.memory.capacity() {
            let position = first.wrapping_add(i);
            // Acquire: invariant 2; before the look at the intents.
            let claimed = index.load(Ordering::Acquire).wrapping_sub(position) as i64 > 0;
            let cell = self.memory.cell(position);
            let word = cell.load(Ordering::Acquire);
            if !claimed || !self.is_open(word, position, other) {
                return Ok(i > 0);
            }
            match self.owner(position, other, None, alive) {
                Owner::Dead => self.resolve(word, position, other),
                // By invariant 2 its owner has finished meanwhile; else nobody ever claimed it.
                Owner::Nobody if cell.load(Ordering::Acquire) == word => return Err(Corrupt),
                Owner::Alive | Owner::Nobody => return Ok(i > 0),
            }
        }
        Ok(true)
    }

    /// Resolves every position that the intents of the dead participant `index` name. `false`: a
    /// living participant names the same one, so that it cannot be told which of them has it.
    ///
    /// The caller holds the dead one's lock byte.
    pub(crate) fn sweep(&self, index: u32, alive: &dyn Fn(u32) -> bool) -> bool {
        [End::Producer, End::Consumer].into_iter().all(|end| self.sweep_end(index, end, alive))
    }

    fn sweep_end(&self, index: u32, end: End, alive: &dyn Fn(u32) -> bool) -> bool {
        // Acquire: pairs with the store; its owner's last accesses are visible by its lock besides.
        let intent = Intent(self.memory.intent(index, end).load(Ordering::Acquire));
        let claimed = match end {
            End::Producer => self.memory.tail(),
            End::Consumer => self.memory.head(),
        };
        let now = claimed.load(Ordering::Acquire);
        debug_assert!(intent.count() <= MAX_RUN);
        let mut returned = false;
        let mut refused = false;
        // No intent of a sound ring names more positions than there are cells.
        for position in intent.positions(now).take(self.memory.capacity() as usize) {
            // Acquire: invariant 2.
            let now = claimed.load(Ordering::Acquire);
            let word = self.memory.cell(position).load(Ordering::Acquire);
            let is_claimed = now.wrapping_sub(position) as i64 > 0;
            if !is_claimed || !self.is_open(word, position, end) {
                continue;
            }
            let look = self.laps.look(word, position);
            // Those have a certain owner, or none.
            let is_claimed_again = matches!(look, Cell::Returned | Cell::Again(_));
            if !is_claimed_again && self.owner(position, end, Some(index), alive) == Owner::Alive {
                refused = true;
                break;
            }
            if self.redeliver && end == End::Consumer && look != Cell::Tombstone {
                returned |= self.take_back(index, position, word);
            } else if !is_claimed_again {
                self.resolve(word, position, end);
            }
        }
        if returned {
            self.announce();
        }
        !refused
    }
}
