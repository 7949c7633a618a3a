#![forbid(unsafe_code)]
//! The cells of a many-to-many ring, read from outside while others use it.
//!
//! A cell's word only grows, and `head` and `tail` do. So the indices read before the cells say
//! where each word must be at least, those read after say where it can be at most, however much
//! happens in between.

use std::cell::Cell as Private;
use std::fmt;

use super::word::{Cell, Intent, Laps, MAX_RUN, is_of_redelivery};
use crate::error::Result;
use crate::object::{End, Life, Look, Occupant};
use crate::ring::options::policy;
use crate::sys::alloc;

/// Cells are read in pieces of this size.
const PIECE: usize = 1 << 16;

/// Cells looked at however little memory the file has: a sparse file of any size is done in no time.
const CELLS: u64 = 1 << 20;

/// Positions in progress that are looked up together.
const OPEN_AT_ONCE: usize = 1 << 16;

/// Positions of dead participants that are counted, for a report.
const COUNTED: u64 = 1 << 18;

/// A position that was claimed at one end and is not finished.
#[derive(Debug, Clone, Copy)]
struct Open {
    position: u64,
    end: End,
    word: u64,
}

/// The cells of a ring.
pub(crate) struct Cells<'a> {
    look: &'a Look,
    laps: Laps,
    /// Whether what a dead taker had in hands comes again.
    redeliver: bool,
    /// What is left of [`COUNTED`].
    counted: Private<u64>,
}

impl<'a> Cells<'a> {
    pub(crate) fn new(look: &'a Look) -> Self {
        let geometry = look.geometry();
        let redeliver = geometry.policy & policy::REDELIVER != 0;
        let (laps, counted) = (Laps::new(geometry.capacity), Private::new(COUNTED));
        Self { look, laps, redeliver, counted }
    }

    fn at(&self, index: u64) -> u64 {
        self.look.geometry().items_offset() + index * self.look.geometry().stride()
    }

    fn word(&self, position: u64) -> Result<u64> {
        self.look.u64(self.at(position & (self.look.geometry().capacity - 1)))
    }

    /// Cells that can be looked at: those that the file has memory for.
    fn count(&self) -> u64 {
        let memory = (self.look.status().st_blocks as u64).saturating_mul(512);
        self.look.geometry().capacity.min(CELLS.max(memory / self.look.geometry().stride()))
    }

    /// Hands the words of the first `count` cells to `each`, with their cells' numbers.
    fn words(&self, count: u64, mut each: impl FnMut(u64, u64) -> Result<()>) -> Result<()> {
        let stride = self.look.geometry().stride() as usize;
        if stride > PIECE / 16 {
            return (0..count).try_for_each(|index| each(index, self.look.u64(self.at(index))?));
        }
        let at_once = (PIECE / stride) as u64;
        let mut bytes = alloc::zeros(PIECE / stride * stride)?;
        let mut first = 0;
        while first < count {
            let piece = &mut bytes[..(count - first).min(at_once) as usize * stride];
            self.look.read(self.at(first), piece)?;
            for (index, cell) in (first..).zip(piece.chunks_exact(stride)) {
                let mut word = [0; 8];
                word.copy_from_slice(&cell[..8]);
                each(index, u64::from_ne_bytes(word))?;
            }
            first += at_once;
        }
        Ok(())
    }

    /// Looks at every cell; `EBADMSG` for a word that no history leads to. `indices` reads head and
    /// tail. How many cells were not looked at: the file has no memory for them.
    pub(crate) fn check(&self, indices: impl Fn() -> Result<(u64, u64)>) -> Result<u64> {
        let capacity = self.look.geometry().capacity;
        let (head, tail) = indices()?;
        // The head may have moved since.
        let is_behind = |position| indices().map(|(head, _)| position < head);
        let mut open = Vec::new();
        let mut latest = (head, tail);
        self.words(self.count(), |index, word| {
            let wrong = |bounds: fmt::Arguments<'_>| {
                let at = self.at(index);
                self.look.corrupt(format_args!(
                    "the word of cell {index}, at {at:#x}, is {word:#x}: {bounds}"
                ))
            };
            let tag = word & 0xffff;
            let is_tagged_again = self.redeliver && is_of_redelivery(tag);
            if tag > 1 && !is_tagged_again || tag != 0 && word >> 16 & 1 == 0 {
                return Err(wrong(format_args!("no turn has such a tag")));
            }
            // The last position in this cell that had been claimed.
            let last = |tail: u64| {
                (tail > index).then(|| index + (tail - 1 - index) / capacity * capacity)
            };
            if let Some(position) = last(tail) {
                match self.laps.look(word, position) {
                    Cell::Free if position >= head => {
                        alloc::push(&mut open, Open { position, end: End::Producer, word })?;
                    }
                    Cell::Full | Cell::Tombstone if position < head => {
                        alloc::push(&mut open, Open { position, end: End::Consumer, word })?;
                    }
                    Cell::Again(_) if position < head || is_behind(position)? => {
                        alloc::push(&mut open, Open { position, end: End::Consumer, word })?;
                    }
                    // Nobody's.
                    Cell::Returned if position < head || is_behind(position)? => {}
                    Cell::Full | Cell::Tombstone | Cell::Past => {}
                    _ => return Err(wrong(format_args!("too early for position {position}"))),
                }
            }
            let is_late = |(head, tail): (u64, u64)| {
                let most = match last(tail) {
                    None => self.laps.free(index),
                    Some(position) if position < head => self.laps.next_free(position),
                    Some(position) => self.laps.full(position),
                };
                (word >> 16 << 16).wrapping_sub(most) as i64 > 0
            };
            if is_late(latest) {
                latest = indices()?;
                if is_late(latest) {
                    return Err(wrong(format_args!("too late where tail is {}", latest.1)));
                }
            }
            if open.len() == OPEN_AT_ONCE {
                self.owned(&open)?;
                open.clear();
            }
            Ok(())
        })?;
        self.owned(&open)?;
        Ok(capacity - self.count())
    }

    /// Every position that is claimed and not finished must be named by somebody's intent: see
    /// `recover`. Intents are read after the words, and the word again after them.
    fn owned(&self, open: &[Open]) -> Result<()> {
        if open.is_empty() {
            return Ok(());
        }
        let occupants = self.look.occupants()?;
        for &Open { position, end, word } in open {
            let named = occupants.iter().any(|one| intent(one, end).covers(position));
            if !named && self.word(position)? == word {
                let at = self.at(position & (self.look.geometry().capacity - 1));
                return Err(self.look.corrupt(format_args!(
                    "position {position}, word {word:#x} at {at:#x}, is claimed at the {} end, and \
                     nobody's intent names it",
                    end.word()
                )));
            }
        }
        Ok(())
    }

    /// How many positions a dead participant has claimed and not finished, pushes and pops; of as
    /// many as are worth counting.
    pub(crate) fn left_by(&self, dead: &Occupant, head: u64, tail: u64) -> Result<(u64, u64)> {
        debug_assert_eq!(dead.life, Life::Dead);
        let mut left = [0, 0];
        for (end, index) in [(End::Producer, tail), (End::Consumer, head)] {
            let intent = intent(dead, end);
            debug_assert!(intent.count() <= MAX_RUN);
            let most = self.look.geometry().capacity.min(self.counted.get());
            for position in intent.positions(index).take(most as usize) {
                self.counted.set(self.counted.get() - 1);
                let claimed = index.wrapping_sub(position) as i64 > 0;
                let cell = self.laps.look(self.word(position)?, position);
                let unfinished = match end {
                    End::Producer => cell == Cell::Free,
                    End::Consumer => {
                        matches!(cell, Cell::Full | Cell::Tombstone | Cell::Again(_))
                    }
                };
                left[end.bit() as usize - 1] += u64::from(claimed && unfinished);
            }
        }
        Ok((left[0], left[1]))
    }
}

fn intent(occupant: &Occupant, end: End) -> Intent {
    Intent(match end {
        End::Producer => occupant.push_intent,
        End::Consumer => occupant.pop_intent,
    })
}
