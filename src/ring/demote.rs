#![forbid(unsafe_code)]
//! Demoting lines: a consumer that has read a large item may push its lines out of the caches near its
//! processor, so that the producer, a lap later, finds them in memory.
//!
//! A producer that fills a slot anew must take each line away from the consumer's cache first. Where the
//! ring fits into that cache, these moves are the limit of a stream of large items: half as fast, on
//! some machines, as fetching the lines from memory, and a quarter where the processors are far apart.
//! On others, or while the consumer lags so far behind that its cache has dropped them anyway, it is the
//! other way round. It helps, above all, a producer that fills the lines soon after, so a consumer that
//! demotes them also lets the ring fill first, and then lags behind by most of a lap.
//!
//! So each consumer tries: a few laps of the ring without and a few with, each after some in which the
//! change takes effect; it keeps to what was faster for a while, and tries again. Where it gains nothing,
//! the trials get rare. Pushing lines out costs the machine memory traffic, which is why it must gain a
//! sixteenth. Streams of less than a byte a nanosecond have other limits.
//!
//! (Processors with an instruction that demotes a line to the cache that both share would not need the
//! way through memory; those at hand have none.)
//!
//! Nothing of this has an effect but on speed.

use std::cell::Cell;
use std::hint::spin_loop;

use super::copy::can_flush;

/// Bytes of the smallest items that are large, and of the largest whose lines are demoted: that takes
/// time.
pub(super) const LARGE: usize = 1024;
const LARGEST: usize = 256 << 10;
/// Rings of more bytes fit no cache of one processor.
const MOST_FOOTPRINT: u64 = 8 << 20;
/// Items of a lap, at least: times of fewer tell nothing.
const FEWEST_ITEMS: u64 = 64;
/// Laps until a change has taken effect, and those measured then.
const SETTLING: u64 = 4;
const MEASURED: u64 = 4;
/// Laps for which demoting is kept to, and for which it is left: doubled each time up to the most.
const KEPT: u64 = 512;
const FEWEST_LEFT: u64 = 64;
const MOST_LEFT: u64 = 4096;

/// Turns of one pause of a consumer that lets the ring fill, 0.8 µs where a turn takes 25 ns, for every
/// so many bytes of an item. So many pauses in a row that bring nothing are the last; all of them take no
/// longer than one wake-up does.
const TURNS: usize = 32;
const PER_PAUSE: usize = 4096;
const BARREN: u32 = 4;
/// After so many waits in a row in which nothing came, a consumer no longer demotes.
const VAIN: u32 = 3;
const MOST_TURNS: usize = 1024;

/// Items that the consumer lags behind then: most of a lap, or so many bytes; larger items not at all.
const LAG: usize = 256 << 10;
const LARGEST_LAGGED: usize = 16 << 10;

fn enough(capacity: u64, item_size: usize) -> u64 {
    (capacity - capacity / 8).min((LAG / item_size) as u64)
}

/// What a consumer is doing; 0 before it has read anything.
mod phase {
    pub const SETTLE_WITHOUT: u32 = 1;
    pub const WITHOUT: u32 = 2;
    pub const SETTLE_WITH: u32 = 3;
    pub const WITH: u32 = 4;
    /// That was faster.
    pub const DEMOTE: u32 = 5;
    /// It was not.
    pub const LEAVE: u32 = 6;
}

/// What a consumer has found out. All zero at first.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Demotion {
    phase: Cell<u32>,
    /// Waits for more in a row in which nothing came.
    vain: Cell<u32>,
    /// Items of this phase still to come, and those that have come.
    left: Cell<u64>,
    seen: Cell<u64>,
    /// When it began, in nanoseconds.
    began: Cell<u64>,
    /// Time that an item took without, in 1/256 ns.
    without: Cell<u64>,
    /// Laps for which demoting was left, last.
    pause: Cell<u64>,
}

impl Demotion {
    /// Counts `items` that were read. Whether their lines are to be demoted.
    #[inline]
    pub(super) fn pays(
        &self,
        items: u64,
        capacity: u64,
        item_size: usize,
        now: impl FnOnce() -> u64,
    ) -> bool {
        let demotes = self.demotes();
        self.seen.set(self.seen.get().saturating_add(items));
        match self.left.get().checked_sub(items) {
            Some(left) if left > 0 => self.left.set(left),
            _ => self.end_phase(capacity, item_size, now()),
        }
        demotes
    }

    fn demotes(&self) -> bool {
        matches!(self.phase.get(), phase::SETTLE_WITH | phase::WITH | phase::DEMOTE)
    }

    #[cold]
    fn end_phase(&self, capacity: u64, item_size: usize, now: u64) {
        let took = now.saturating_sub(self.began.get());
        let each = took.saturating_mul(256) / self.seen.get().max(1);
        let (next, laps) = match self.phase.get() {
            phase::SETTLE_WITHOUT => (phase::WITHOUT, MEASURED),
            phase::WITHOUT if each > 256 * item_size as u64 => return self.leave(capacity),
            phase::WITHOUT => {
                self.without.set(each);
                (phase::SETTLE_WITH, SETTLING)
            }
            phase::SETTLE_WITH => (phase::WITH, MEASURED),
            phase::WITH if each.saturating_add(each / 16) >= self.without.get() => {
                return self.leave(capacity);
            }
            phase::WITH => {
                self.pause.set(0);
                (phase::DEMOTE, KEPT)
            }
            _ => (phase::SETTLE_WITHOUT, SETTLING),
        };
        self.began.set(now);
        self.begin(next, laps, capacity);
    }

    fn leave(&self, capacity: u64) {
        self.pause.set((2 * self.pause.get()).clamp(FEWEST_LEFT, MOST_LEFT));
        self.begin(phase::LEAVE, self.pause.get(), capacity);
    }

    fn begin(&self, phase: u32, laps: u64, capacity: u64) {
        self.phase.set(phase);
        self.vain.set(0);
        self.seen.set(0);
        self.left.set(capacity.max(FEWEST_ITEMS).saturating_mul(laps));
    }

    /// Whether a look that found `count` is worth a wait for more.
    pub(super) fn lags(&self, count: u64, capacity: u64, item_size: usize) -> bool {
        self.demotes()
            && item_size <= LARGEST_LAGGED
            && count > 0
            && count < enough(capacity, item_size) / 2
    }

    /// Lets the ring fill, as long as it does; `look` counts again. Returns the last count.
    #[cold]
    pub(super) fn gather<E>(
        &self,
        mut count: u64,
        capacity: u64,
        item_size: usize,
        mut look: impl FnMut() -> Result<u64, E>,
    ) -> Result<u64, E> {
        let turns = TURNS * (item_size / PER_PAUSE).max(1);
        let (first, mut barren) = (count, 0);
        for _ in 0..MOST_TURNS / turns {
            for _ in 0..turns {
                spin_loop();
            }
            let now = look()?;
            barren = if now <= count { barren + 1 } else { 0 };
            count = now;
            if barren == BARREN || count >= enough(capacity, item_size) {
                break;
            }
        }
        // A producer that was interrupted goes on soon. But where nothing comes time and again there is no
        // stream, or not as fast, and nothing is kept waiting again for a while.
        self.vain.set(if count <= first { self.vain.get() + 1 } else { 0 });
        if self.vain.get() == VAIN {
            self.leave(capacity);
        }
        Ok(count)
    }
}

/// Whether lines of the slots of such a ring may be demoted on this machine.
pub(super) fn is_of_use(capacity: u64, item_size: usize) -> bool {
    (LARGE..=LARGEST).contains(&item_size)
        && capacity.saturating_mul(item_size as u64) <= MOST_FOOTPRINT
        && can_flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A consumer's laps of 64 items of a KiB in batches of so many, each item of which takes so long:
    /// how many laps there are in a row without and with, beginning with those without.
    fn laps(demotion: &Demotion, without: (u64, u64), with: (u64, u64), laps: u64) -> Vec<u64> {
        let (clock, mut runs, mut last, mut items) = (Cell::new(1), vec![0], false, 0);
        while items < 64 * laps {
            let (batch, each) = if demotion.demotes() { with } else { without };
            let now = demotion.pays(batch, 8, 1024, || clock.get());
            clock.set(clock.get() + batch * each);
            if now != last {
                runs.push(0);
            }
            last = now;
            *runs.last_mut().unwrap() += batch;
            items += batch;
        }
        runs.iter().map(|items| (items + 32) / 64).collect()
    }

    const TRIAL: u64 = SETTLING + MEASURED;

    fn new() -> Demotion {
        // All zero, as in a fresh private page.
        let (word, long) = (|| Cell::new(0), || Cell::new(0));
        Demotion {
            phase: word(),
            vain: word(),
            left: long(),
            seen: long(),
            began: long(),
            without: long(),
            pause: long(),
        }
    }

    #[test]
    fn it_is_tried_and_kept_where_it_is_faster() {
        for (without, with) in [((1, 200), (1, 100)), ((4, 100), (56, 60)), ((56, 100), (4, 90))] {
            let seen = laps(&new(), without, with, 2 * (2 * TRIAL + KEPT));
            assert_eq!(seen.len(), 4, "{seen:?}");
            let near = |laps: u64, due: u64| laps.abs_diff(due) <= 5;
            assert!(near(seen[0], TRIAL) && near(seen[1], TRIAL + KEPT), "{seen:?}");
            assert!(near(seen[2], TRIAL), "{seen:?}");
        }
    }

    #[test]
    fn it_is_left_where_it_gains_too_little_and_tried_less_and_less_often() {
        for (without, with) in [((1, 100), (1, 97)), ((1, 100), (1, 300)), ((56, 100), (4, 110))] {
            let seen = laps(&new(), without, with, 6 * TRIAL + 3 * FEWEST_LEFT);
            let near = |laps: u64, due: u64| laps.abs_diff(due) <= 5;
            let pauses = [0, FEWEST_LEFT, 2 * FEWEST_LEFT];
            for (laps, pause) in seen.iter().step_by(2).zip(pauses) {
                assert!(near(*laps, TRIAL + pause), "{seen:?}");
            }
            assert!(seen.iter().skip(1).step_by(2).all(|laps| near(*laps, TRIAL)), "{seen:?}");
            assert!(seen.len() >= 5, "{seen:?}");
        }
    }

    #[test]
    fn a_slow_stream_is_left_alone() {
        assert_eq!(laps(&new(), (1, 1100), (1, 100), 1000), [1000]);
    }

    #[test]
    fn a_consumer_that_demotes_lets_the_ring_fill_as_long_as_it_does() {
        let demotion = new();
        assert!(!demotion.lags(1, 64, 4096), "not before it demotes");
        demotion.phase.set(phase::DEMOTE);
        assert!(demotion.lags(1, 64, 4096) && demotion.lags(27, 64, 4096));
        assert!(!demotion.lags(0, 64, 4096) && !demotion.lags(28, 64, 4096));
        assert!(!demotion.lags(1, 64, 65536) && !demotion.lags(1, 2, 4096));
        let mut count = 1;
        let mut fast = || {
            count += 9;
            Ok::<_, ()>(count)
        };
        assert_eq!(demotion.gather(1, 64, 4096, &mut fast), Ok(64));
        let mut looks = 0;
        let mut slow = || {
            looks += 1;
            Ok::<_, ()>(1 + looks)
        };
        assert_eq!(demotion.gather(1, 64, 16384, &mut slow), Ok(1 + 8), "no longer than a wake-up");
        assert_eq!(demotion.phase.get(), phase::DEMOTE);
        for vain in 1..=VAIN {
            assert!(demotion.lags(1, 64, 4096), "{vain}");
            assert_eq!(demotion.gather(3, 64, 4096, || Ok::<_, ()>(3)), Ok(3));
        }
        assert!(!demotion.lags(1, 64, 4096), "nothing came: it is no stream");
        assert_eq!(demotion.gather(3, 64, 4096, || Err(())), Err(()));
    }

    #[test]
    fn batches_of_any_length_end_phases() {
        let demotion = new();
        for items in [u64::MAX, 1, 1 << 40, u64::MAX, 1] {
            demotion.pays(items, u64::MAX, 1024, || 0);
        }
        assert_eq!(demotion.phase.get(), phase::WITHOUT);
    }

    #[test]
    fn only_large_items_of_rings_that_fit_a_cache_are_tried() {
        assert!(!is_of_use(1, LARGE - 1) && !is_of_use(1, LARGEST + 1));
        assert!(!is_of_use(u64::MAX, LARGE) && !is_of_use(8192 + 1, LARGE));
        assert_eq!(is_of_use(8192, LARGE), can_flush());
    }
}
