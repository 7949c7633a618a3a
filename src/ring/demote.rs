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
//! So each consumer tries: a few laps of the ring without and a few with, each after
//! some in which the change takes effect; it keeps to what was faster for a while, and tries again. Where
//! it gains nothing, the trials get rare. Pushing lines out costs the machine memory traffic, which is
//! why it must gain a sixteenth.
//!
//! (Processors with an instruction that demotes a line to the cache that both share would not need the
//! way through memory; those at hand have none.)
//!
//! Nothing of this has an effect but on speed.

use std::arch::asm;
use std::cell::Cell;
use std::hint::spin_loop;
use std::sync::OnceLock;

/// Bytes of the smallest items that are large.
pub(super) const LARGE: usize = 1024;
/// Rings of more bytes fit no cache of one processor.
const MOST_FOOTPRINT: u64 = 8 << 20;
/// Items of a lap, at least: times of fewer tell nothing.
const FEWEST_ITEMS: u64 = 64;
/// Laps until a change has taken effect, and those measured then.
const SETTLING: u32 = 4;
const MEASURED: u32 = 4;
/// Laps for which demoting is kept to, and for which it is left: doubled each time up to the most.
const KEPT: u32 = 512;
const FEWEST_LEFT: u32 = 64;
const MOST_LEFT: u32 = 4096;

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

/// What a consumer is doing.
mod phase {
    pub const TRY_WITHOUT: u32 = 1;
    pub const TRY_WITH: u32 = 2;
    pub const DEMOTE: u32 = 3;
    pub const LEAVE: u32 = 4;
}

/// What a consumer has found out. All zero at first.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Demotion {
    /// Items of this lap still to come.
    items: Cell<u32>,
    phase: Cell<u32>,
    /// Laps of this phase still to come.
    laps: Cell<u32>,
    /// How many laps were without, last.
    left: Cell<u32>,
    /// Waits for more in a row in which nothing came.
    vain: Cell<u32>,
    /// When the measured laps began; then, how long those without took; in nanoseconds.
    began: Cell<u64>,
    without: Cell<u64>,
}

impl Demotion {
    /// Counts `items` that were read. Whether their lines are to be demoted.
    pub(super) fn pays(&self, items: u64, capacity: u64, now: impl FnOnce() -> u64) -> bool {
        let demotes = matches!(self.phase.get(), phase::TRY_WITH | phase::DEMOTE);
        match u64::from(self.items.get()).checked_sub(items) {
            Some(items) if items > 0 => self.items.set(items as u32),
            _ => {
                self.items.set(capacity.clamp(FEWEST_ITEMS, u64::from(u32::MAX)) as u32);
                self.end_lap(now());
            }
        }
        demotes
    }

    /// Whether a look that found `count` is worth a wait for more.
    pub(super) fn lags(&self, count: u64, capacity: u64, item_size: usize) -> bool {
        matches!(self.phase.get(), phase::TRY_WITH | phase::DEMOTE)
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
            barren = if now == count { barren + 1 } else { 0 };
            count = now;
            if barren == BARREN || count >= enough(capacity, item_size) {
                break;
            }
        }
        // A producer that was interrupted goes on soon. But where nothing comes time and again there is no
        // stream, or not as fast, and nothing is kept waiting again for a while.
        self.vain.set(if count == first { self.vain.get() + 1 } else { 0 });
        if self.vain.get() == VAIN {
            self.leave();
        }
        Ok(count)
    }

    fn leave(&self) {
        self.vain.set(0);
        self.left.set((2 * self.left.get()).clamp(FEWEST_LEFT, MOST_LEFT));
        self.phase.set(phase::LEAVE);
        self.laps.set(self.left.get());
    }

    #[cold]
    fn end_lap(&self, now: u64) {
        let laps = self.laps.get().saturating_sub(1);
        self.laps.set(laps);
        if laps == MEASURED {
            self.began.set(now);
        }
        if laps > 0 {
            return;
        }
        let took = now.saturating_sub(self.began.get());
        let (next, laps) = match self.phase.get() {
            phase::TRY_WITHOUT => {
                self.without.set(took);
                (phase::TRY_WITH, SETTLING + MEASURED)
            }
            phase::TRY_WITH if took.saturating_add(took / 16) < self.without.get() => {
                self.left.set(0);
                (phase::DEMOTE, KEPT)
            }
            phase::TRY_WITH => return self.leave(),
            _ => (phase::TRY_WITHOUT, SETTLING + MEASURED),
        };
        self.phase.set(next);
        self.laps.set(laps);
    }
}

/// Whether lines of the slots of such a ring may be demoted on this machine.
pub(super) fn is_of_use(capacity: u64, item_size: usize) -> bool {
    item_size >= LARGE && capacity * item_size as u64 <= MOST_FOOTPRINT && has_instruction()
}

#[cfg(target_arch = "x86_64")]
fn has_instruction() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    // CLFLUSHOPT: bit 23 of EBX in leaf 7 (Intel SDM, volume 2, CPUID).
    *HAS.get_or_init(|| {
        use std::arch::x86_64::{__cpuid, __cpuid_count};
        __cpuid(0).eax >= 7 && __cpuid_count(7, 0).ebx & 1 << 23 != 0
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn has_instruction() -> bool {
    false
}

/// Pushes the lines of `len` bytes out of all caches, to memory.
///
/// # Safety
/// The bytes are readable, and [`is_of_use`] has said that the machine has the instruction.
pub(super) unsafe fn demote(at: *const u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..len).step_by(64) {
        // SAFETY: to the program this is a load of one byte inside (Intel SDM, volume 2: CLFLUSHOPT).
        unsafe {
            asm!(
                "clflushopt byte ptr [{0}]",
                in(reg) at.add(line),
                options(nostack, preserves_flags, readonly),
            );
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (at, len);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Laps of 64 items, each of which takes so long with and without: how many laps of each there are
    /// in a row, beginning with those without.
    fn laps(demotion: &Demotion, with: u64, without: u64, laps: u32) -> Vec<u32> {
        let (clock, mut runs, mut last) = (Cell::new(1), vec![0], false);
        for _ in 0..64 * laps {
            let now = demotion.pays(1, 8, || clock.get());
            clock.set(clock.get() + if now { with } else { without });
            if now != last {
                runs.push(0);
            }
            last = now;
            *runs.last_mut().unwrap() += 1;
        }
        runs.iter().map(|items: &u32| items.div_ceil(64)).collect()
    }

    const TRIAL: u32 = SETTLING + MEASURED;

    fn new() -> Demotion {
        // SAFETY: of integers, for which zero is valid.
        unsafe { std::mem::zeroed() }
    }

    #[test]
    fn it_is_tried_and_kept_where_it_is_faster() {
        let seen = laps(&new(), 100, 200, 2 * (2 * TRIAL + KEPT));
        // The first item of all ends a lap.
        assert_eq!(seen[..3], [TRIAL + 1, TRIAL + KEPT, TRIAL]);
        assert_eq!(seen.len(), 4);
    }

    #[test]
    fn it_is_left_where_it_gains_less_than_a_sixteenth_and_tried_less_and_less_often() {
        for with in [97, 100, 300] {
            let seen = laps(&new(), with, 100, 6 * TRIAL + 3 * FEWEST_LEFT);
            let pauses = [TRIAL + 1, FEWEST_LEFT + TRIAL, 2 * FEWEST_LEFT + TRIAL];
            assert_eq!(seen.iter().copied().step_by(2).collect::<Vec<_>>(), pauses);
            assert!(seen.iter().skip(1).step_by(2).all(|tried| *tried == TRIAL), "{seen:?}");
        }
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
    fn batches_of_any_length_end_laps() {
        let demotion = new();
        for items in [u64::MAX, 1, 1 << 40, 64, 65] {
            demotion.pays(items, u64::MAX, || 0);
        }
        assert_eq!(demotion.phase.get(), phase::TRY_WITHOUT);
        assert!(demotion.laps.get() < TRIAL);
    }

    #[test]
    fn bytes_stay_as_they_are() {
        let bytes: Vec<u8> = (0..5000).map(|i| i as u8).collect();
        if is_of_use(1, 5000) {
            // SAFETY: readable, and the machine has the instruction.
            unsafe { demote(bytes.as_ptr(), bytes.len()) };
        }
        assert!(bytes.iter().enumerate().all(|(i, byte)| *byte == i as u8));
        assert!(!is_of_use(1, LARGE - 1) && !is_of_use(u64::MAX >> 20, LARGE));
    }
}
