#![forbid(unsafe_code)]
//! The two kinds of words of a stop-proof ring: places, which make the order, and cells, which hold
//! the items. What they mean is said in the module's header.

/// The word of a cell that is nobody's.
pub(crate) const FREE: u64 = 0;

const OWNED: u64 = 1;
const OFFERED: u64 = 2;
const TAKEN: u64 = 3;

const STATE: u64 = 0xf;
const OWNER: u64 = 0xfff0;

/// What a cell's word says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cell {
    Free,
    Owned(u32),
    /// With the position, modulo 2^48.
    Offered(u64, u32),
    Taken(u32),
    /// No history leads here.
    Impossible,
}

impl Cell {
    pub(crate) fn of(word: u64) -> Self {
        let owner = ((word & OWNER) >> 4) as u32;
        match word & STATE {
            FREE => Self::Free,
            OWNED => Self::Owned(owner),
            OFFERED => Self::Offered(word >> 16, owner),
            TAKEN => Self::Taken(owner),
            _ => Self::Impossible,
        }
    }
}

fn word(position: u64, owner: u32, state: u64) -> u64 {
    debug_assert!(owner < 1 << 12);
    position << 16 | u64::from(owner) << 4 | state
}

pub(crate) fn is_free(word: u64) -> bool {
    word & STATE == FREE
}

pub(crate) fn owned(owner: u32) -> u64 {
    word(0, owner, OWNED)
}

pub(crate) fn offered(position: u64, owner: u32) -> u64 {
    word(position, owner, OFFERED)
}

pub(crate) fn taken(position: u64, owner: u32) -> u64 {
    word(position, owner, TAKEN)
}

/// Whether a cell is offered at `position`, by whomever.
pub(crate) fn is_offered_at(cell: u64, position: u64) -> bool {
    cell & !OWNER == word(position, 0, OFFERED)
}

/// The position that has the low 48 bits `low` and is nearest to `near`.
pub(crate) fn position_near(low: u64, near: u64) -> u64 {
    let behind = (near << 16).wrapping_sub(low << 16) as i64 >> 16;
    near.wrapping_sub(behind as u64)
}

/// What a place's word says about one position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// One lap behind: still names the cell of then.
    Behind(u64),
    /// Empty for this position.
    Empty,
    /// This position's item is in that cell.
    Holds(u64),
    /// Ahead: this position is over.
    Past,
    /// No history leads here.
    Impossible,
}

/// The words of places, for one geometry.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turns {
    /// Binary logarithm of the number of places.
    shift: u32,
    /// Bits of a cell's number.
    cell_bits: u32,
}

impl Turns {
    /// `places` is a power of two; there are more cells than half of them.
    pub(crate) fn new(places: u64, cells: u64) -> Self {
        let cell_bits = cells.next_power_of_two().trailing_zeros();
        Self { shift: places.trailing_zeros(), cell_bits }
    }

    pub(crate) fn empty(self, position: u64) -> u64 {
        (position >> self.shift) << (self.cell_bits + 1)
    }

    pub(crate) fn holds(self, position: u64, cell: u64) -> u64 {
        self.empty(position) | 1 << self.cell_bits | cell
    }

    /// What `word` means for `position`.
    #[inline(always)]
    pub(crate) fn look(self, word: u64, position: u64) -> Place {
        let cell = word & ((1 << self.cell_bits) - 1);
        // Turns of distance, signed, modulo what fits above the cell.
        match (word.wrapping_sub(self.empty(position)) as i64) >> self.cell_bits {
            -1 => Place::Behind(cell),
            0 => Place::Empty,
            1 => Place::Holds(cell),
            2.. => Place::Past,
            _ => Place::Impossible,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_goes_round() {
        for (places, cells) in
            [(2_u64, 3_u64), (8, 12), (128, 129), (8192, 8193), (1 << 40, 1 << 41)]
        {
            let turns = Turns::new(places, cells);
            assert_eq!(turns.empty(places - 1), 0, "the first lap begins with zeros");
            for position in [0, 1, places - 1, places, 1000, 1 << 45, u64::MAX - places] {
                let next = position.wrapping_add(places);
                for cell in [0, 1, cells - 1] {
                    let holds = turns.holds(position, cell);
                    assert_eq!(turns.look(holds, position), Place::Holds(cell));
                    assert_eq!(turns.look(holds, next), Place::Behind(cell));
                    let behind = position.wrapping_sub(places);
                    assert_eq!(turns.look(holds, behind), Place::Past);
                    let far = next.wrapping_add(places);
                    assert_eq!(turns.look(holds, far), Place::Impossible);
                }
                assert_eq!(turns.look(turns.empty(position), position), Place::Empty);
                assert_eq!(turns.look(turns.empty(next), position), Place::Past);
                assert_eq!(turns.look(turns.empty(position), next), Place::Impossible);
            }
            // Before the first position everything is over.
            assert_eq!(turns.look(0, 0_u64.wrapping_sub(1)), Place::Past);
        }
    }

    #[test]
    fn cells_say_who_and_where() {
        assert_eq!(Cell::of(0), Cell::Free);
        assert_eq!(Cell::of(owned(4095)), Cell::Owned(4095));
        let far = (1 << 60) + 9;
        assert_eq!(Cell::of(offered(far, 7)), Cell::Offered(9, 7));
        assert_eq!(Cell::of(taken(far, 8)), Cell::Taken(8));
        assert!(is_offered_at(offered(far, 7), far) && is_offered_at(offered(far, 4095), far));
        assert!(!is_offered_at(offered(far, 7), far + 1) && !is_offered_at(taken(far, 7), far));
        assert!(!is_offered_at(FREE, 0) && !is_offered_at(owned(0), 0));
        assert_eq!(position_near(9, far + 40), far);
        assert_eq!(position_near(9, far - 40), far);
    }
}
