#![forbid(unsafe_code)]
//! Keeping distance: a side that has caught up with the other waits a moment for more to be there.
//!
//! Two sides at each other's heels fight for the same lines: the one of the index, at every look, and
//! the one of the slot that one fills and the other empties. The follower then finds a few items at
//! each look, and each look costs the leader a stall. A pause of a microsecond or two, and the
//! follower has hundreds to go through without another look: both run at their own speed.
//!
//! It is for streams only. One item is never kept waiting here (a request, an answer); a stream that
//! brings few items in such a pause is left alone for longer and longer. The pause has no effect but
//! delay, no part in what is promised, and an upper bound.

use std::cell::Cell;
use std::hint::spin_loop;

/// Enough of them, and there is no need to wait; never more than a quarter of the ring, so that
/// never both sides wait for each other.
const PLENTY: u64 = 256;
/// Turns of one pause, 0.8 µs where a turn takes 25 ns.
const TURNS: u32 = 32;
/// Most pauses in a row.
const PAUSES: u32 = 2;
/// Items that one pause must bring, or it did not pay.
const WORTH: u64 = 8;
/// After a pause that did not pay, so many looks go without, doubled each time up to the most.
const FEWEST_SKIPPED: u32 = 16;
const MOST_SKIPPED: u32 = 4096;

/// What a side has learnt about its stream. All zero at first.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Pace {
    /// Looks still to go without a pause.
    skip: Cell<u32>,
    /// How many there were last.
    skipped: Cell<u32>,
}

impl Pace {
    /// Whether a look that found `count` is worth a pause.
    #[inline]
    pub(super) fn pays(&self, count: u64, capacity: u64) -> bool {
        if count <= 1 || count >= PLENTY.min(capacity / 4) {
            return false;
        }
        let skip = self.skip.get();
        self.skip.set(skip.saturating_sub(1));
        skip == 0
    }

    /// Pauses as long as that pays; `look` counts again. Returns the last count.
    #[cold]
    pub(super) fn gather<E>(
        &self,
        mut count: u64,
        capacity: u64,
        mut look: impl FnMut() -> Result<u64, E>,
    ) -> Result<u64, E> {
        for _ in 0..PAUSES {
            for _ in 0..TURNS {
                spin_loop();
            }
            let now = look()?;
            if now < count.saturating_add(WORTH) {
                let skip = (2 * self.skipped.get()).clamp(FEWEST_SKIPPED, MOST_SKIPPED);
                self.skipped.set(skip);
                self.skip.set(skip);
                return Ok(now);
            }
            count = now;
            if count >= PLENTY.min(capacity / 4) {
                break;
            }
        }
        self.skipped.set(0);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new() -> Pace {
        Pace { skip: Cell::new(0), skipped: Cell::new(0) }
    }

    #[test]
    fn only_a_few_items_of_a_large_ring_are_waited_with() {
        let pace = new();
        assert!(!pace.pays(1, 1024), "one item is never kept waiting");
        assert!(pace.pays(2, 1024) && pace.pays(255, 1024));
        assert!(!pace.pays(256, 1024) && !pace.pays(16, 64) && !pace.pays(2, 8));
    }

    #[test]
    fn a_fast_stream_is_gathered_and_a_slow_one_left_alone() {
        let pace = new();
        let mut seen = 2;
        let mut fast = || {
            seen += 100;
            Ok::<_, ()>(seen)
        };
        assert_eq!(pace.gather(2, 1024, &mut fast), Ok(202));
        assert!(pace.pays(2, 1024));
        for expected in [16, 32, 64] {
            assert_eq!(pace.gather(2, 1024, || Ok::<_, ()>(3)), Ok(3));
            for _ in 0..expected {
                assert!(!pace.pays(2, 1024));
            }
            assert!(pace.pays(2, 1024));
        }
    }

    #[test]
    fn pauses_end_however_the_count_moves() {
        let pace = new();
        let mut looks = 0;
        let count = pace.gather(2, u64::MAX, || {
            looks += 1;
            Ok::<_, ()>(2 + 10 * looks)
        });
        assert_eq!((count, looks), (Ok(22), u64::from(PAUSES)));
        assert_eq!(pace.gather(9, 1024, || Ok::<_, ()>(0)), Ok(0));
        assert_eq!(pace.gather(9, 1024, || Err(())), Err(()));
    }
}
