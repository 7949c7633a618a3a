#![forbid(unsafe_code)]
//! The two kinds of words of a many-to-many ring: what stands in a cell, and what a participant
//! announces.
//!
//! A cell's word is `turn << 16 | tag`. Position `p` has lap `p / capacity`; in lap `n` its cell
//! goes from turn `2n` (free for it) to `2n + 1` (holds it) to `2n + 2` (free for the next lap). The
//! tag says more of turn `2n + 1`. All zero is the state of a new ring. Turns are compared modulo 2^48.
//!
//! An intent is `position << 16 | count`: these positions are being claimed, or were. A count of 0,
//! and so zero, is no intent. Positions are compared modulo 2^48.

/// Most positions that one intent can name.
pub(crate) const MAX_RUN: u64 = 0xffff;

/// In a full cell: there is no item in it, go on to the next.
const TOMBSTONE: u64 = 1;

/// In a full cell behind the head: its taker is gone, the item is anybody's. See `redeliver`.
const RETURNED: u64 = 2;

/// In a full cell behind the head, with the number of the participant added that has taken the item
/// after it was returned.
const AGAIN: u64 = 16;

/// Whether a tag is one of those of `redeliver`, of a full cell.
pub(crate) fn is_of_redelivery(tag: u64) -> bool {
    tag == RETURNED || tag >= AGAIN
}

/// What a cell's word says about one position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cell {
    /// Two laps behind: claimed then, and not published.
    Hole,
    /// One lap behind: the item of then is still in it.
    Behind,
    /// Free for this position.
    Free,
    /// Holds this position's item.
    Full,
    /// Holds this position's place, without an item.
    Tombstone,
    /// Holds this position's item, whose taker is gone.
    Returned,
    /// Holds this position's item, which this participant has taken after it was returned.
    Again(u32),
    /// Ahead: this position is over.
    Past,
    /// No history leads here.
    Impossible,
}

/// The words of cells, for one capacity.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Laps {
    /// Binary logarithm of the capacity.
    shift: u32,
}

impl Laps {
    pub(crate) fn new(capacity: u64) -> Self {
        Self { shift: capacity.trailing_zeros() }
    }

    pub(crate) fn free(self, position: u64) -> u64 {
        (position >> self.shift) << 17
    }

    pub(crate) fn full(self, position: u64) -> u64 {
        self.free(position) | 1 << 16
    }

    pub(crate) fn tombstone(self, position: u64) -> u64 {
        self.full(position) | TOMBSTONE
    }

    pub(crate) fn returned(self, position: u64) -> u64 {
        self.full(position) | RETURNED
    }

    pub(crate) fn again(self, position: u64, participant: u32) -> u64 {
        self.full(position) | (AGAIN + u64::from(participant))
    }

    pub(crate) fn next_free(self, position: u64) -> u64 {
        self.free(position).wrapping_add(2 << 16)
    }

    /// The word `full` of the position for which `free` is the word.
    pub(crate) fn filled(free: u64) -> u64 {
        free | 1 << 16
    }

    /// The word `next_free` of the position for which `full` is the word.
    pub(crate) fn emptied(full: u64) -> u64 {
        full.wrapping_add(1 << 16)
    }

    /// What `word` means for `position`.
    #[inline(always)]
    pub(crate) fn look(self, word: u64, position: u64) -> Cell {
        // Turns of distance, signed; the tag is below them.
        match (word.wrapping_sub(self.free(position)) as i64) >> 16 {
            -2 => Cell::Hole,
            -1 => Cell::Behind,
            0 => Cell::Free,
            1 => match word & 0xffff {
                0 => Cell::Full,
                TOMBSTONE => Cell::Tombstone,
                RETURNED => Cell::Returned,
                tag if tag >= AGAIN => Cell::Again((tag - AGAIN) as u32),
                _ => Cell::Impossible,
            },
            2.. => Cell::Past,
            _ => Cell::Impossible,
        }
    }
}

/// A participant's announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Intent(pub u64);

impl Intent {
    pub(crate) const NONE: Self = Self(0);

    pub(crate) fn new(position: u64, count: u64) -> Self {
        Self(position << 16 | count)
    }

    pub(crate) fn count(self) -> u64 {
        self.0 & MAX_RUN
    }

    pub(crate) fn covers(self, position: u64) -> bool {
        // Both shifted up, so that the difference is modulo 2^48.
        (position << 16).wrapping_sub(self.0 & !MAX_RUN) >> 16 < self.count()
    }

    /// The positions named, written out in full: the ones nearest to `index`, an index that they
    /// were compared with.
    pub(crate) fn positions(self, index: u64) -> impl Iterator<Item = u64> {
        let behind = (index << 16).wrapping_sub(self.0 & !MAX_RUN) as i64 >> 16;
        let first = index.wrapping_sub(behind as u64);
        (0..self.count()).map(move |i| first.wrapping_add(i))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_goes_round() {
        for capacity in [1_u64, 2, 64] {
            let laps = Laps::new(capacity);
            for position in [0, 1, 63, 64, 1000, u64::MAX / 4] {
                let next = position + capacity;
                assert_eq!(laps.look(laps.free(position), position), Cell::Free);
                assert_eq!(laps.look(laps.full(position), position), Cell::Full);
                assert_eq!(laps.look(laps.tombstone(position), position), Cell::Tombstone);
                assert_eq!(laps.look(laps.returned(position), position), Cell::Returned);
                assert_eq!(laps.look(laps.again(position, 4095), position), Cell::Again(4095));
                for tagged in [laps.returned(position), laps.again(position, 7)] {
                    assert_eq!(laps.look(tagged, next), Cell::Behind);
                }
                assert_eq!(laps.look(laps.full(position) | 3, position), Cell::Impossible);
                assert_eq!(laps.look(laps.next_free(position), position), Cell::Past);
                assert_eq!(laps.look(laps.next_free(position), next), Cell::Free);
                assert_eq!(laps.look(laps.full(position), next), Cell::Behind);
                assert_eq!(laps.look(laps.tombstone(position), next), Cell::Behind);
                assert_eq!(laps.look(laps.free(position), next), Cell::Hole);
                assert_eq!(laps.look(laps.free(position), next + capacity), Cell::Impossible);
            }
        }
        assert_eq!(Laps::new(8).free(7), 0, "the first lap begins with zeros");
    }

    #[test]
    fn intents_cover_what_they_name() {
        assert!(!Intent::NONE.covers(0));
        let intent = Intent::new(5, 3);
        let covered: Vec<_> = (0..20).filter(|&p| intent.covers(p)).collect();
        assert_eq!(covered, [5, 6, 7]);
        assert_eq!(intent.positions(9).collect::<Vec<_>>(), [5, 6, 7]);
        assert_eq!(intent.positions(2).collect::<Vec<_>>(), [5, 6, 7]);
        let far = (1 << 60) + 9;
        let intent = Intent::new(far, 2);
        assert!(intent.covers(far) && intent.covers(far + 1) && !intent.covers(far + 2));
        assert_eq!(intent.positions(far + 40).collect::<Vec<_>>(), [far, far + 1]);
    }
}
