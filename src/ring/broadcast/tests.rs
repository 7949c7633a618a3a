//! Both cores on ordinary memory, one step at a time.

use super::*;
use crate::object::Slot;
use crate::ring::control::Control;
use crate::ring::seat::Grip;
use crate::sync::atomic::Ordering;
use std::cell::Cell;
use std::ptr::NonNull;

const SLOTS: u32 = 4;

/// Memory as a mapping gives it: zeros, aligned to a page.
struct Zeros {
    words: Vec<u64>,
}

impl Zeros {
    fn new() -> Self {
        Self { words: vec![0; 4096] }
    }

    fn mapped(&mut self, capacity: u64, with_words: bool) -> Mapped {
        let first = self.words.as_mut_ptr();
        // SAFETY: 32 KiB that outlive the cores of a test; the page boundary is within the first half.
        unsafe {
            let control = first.cast::<u8>().add(first.cast::<u8>().align_offset(4096));
            let slots = NonNull::new_unchecked(control.add(4096));
            let cells =
                NonNull::new_unchecked(control.add(4096 + SLOTS as usize * size_of::<Slot>()));
            let control = NonNull::new_unchecked(control).cast::<Control>();
            Mapped::new(control, slots, SLOTS, cells, capacity, if with_words { 16 } else { 8 }, 8)
        }
    }
}

fn grip() -> Grip {
    // SAFETY: cells of integers.
    unsafe { std::mem::zeroed() }
}

fn overwrite(core: &Overwrite<Mapped>, position: &Cell<u64>, value: u64) {
    // SAFETY: one item of eight bytes.
    assert_eq!(unsafe { core.push(position, (&raw const value).cast(), 8, 1) }, 1);
}

fn read(core: &Overwrite<Mapped>, position: &Cell<u64>) -> Result<Option<u64>, Miss> {
    let mut value = 0_u64;
    // SAFETY: one item of eight bytes.
    let count = unsafe { core.pop(position, (&raw mut value).cast(), 8, 1) }?;
    Ok((count == 1).then_some(value))
}

fn push(core: &Gated<Mapped>, grip: &Grip, value: u64) -> bool {
    // SAFETY: one item of eight bytes.
    unsafe { core.push(grip, (&raw const value).cast(), 8, 1) == 1 }
}

fn pop(core: &Gated<Mapped>, me: u32, grip: &Grip) -> Result<Option<u64>, Miss> {
    let mut value = 0_u64;
    // SAFETY: one item of eight bytes.
    let count = unsafe { core.pop(me, grip, (&raw mut value).cast(), 8, 1) }?;
    Ok((count == 1).then_some(value))
}

#[test]
fn a_producer_killed_between_commit_and_tail_is_succeeded_behind_its_item() {
    let mut zeros = Zeros::new();
    let core = Overwrite::new(zeros.mapped(4, true));
    let (producer, consumer) = (Cell::new(core.take_push()), Cell::new(core.join(Start::Now)));
    overwrite(&core, &producer, 10);
    overwrite(&core, &producer, 11);
    let memory = zeros.mapped(4, true);
    memory.tail().store(1, Ordering::Relaxed);
    assert_eq!(core.tally(), Tally { written: 2, read: 0, dropped: 0, length: 2 });
    assert_eq!(read(&core, &consumer), Ok(Some(10)));
    assert_eq!(read(&core, &consumer), Ok(Some(11)));
    let next = Cell::new(core.take_push());
    assert_eq!(next.get(), 2);
    overwrite(&core, &next, 12);
    assert_eq!(read(&core, &consumer), Ok(Some(12)));
    assert_eq!(read(&core, &consumer), Ok(None));
}

#[test]
fn words_that_no_history_leads_to() {
    let mut zeros = Zeros::new();
    let core = Overwrite::new(zeros.mapped(4, true));
    let producer = Cell::new(core.take_push());
    (0..9).for_each(|value| overwrite(&core, &producer, value));
    let memory = zeros.mapped(4, true);
    let at = |position| Cell::new(position);
    assert_eq!(read(&core, &at(9)), Ok(None));
    assert_eq!(read(&core, &at(4)), Err(Miss::Lost(1)));
    for word in [1, 7, 19, 2 * 5 + 1] {
        memory.word(9).store(word, Ordering::Relaxed);
        let expected = if word == 2 * 9 + 1 { Ok(None) } else { Err(Miss::Corrupt) };
        assert_eq!(read(&core, &at(9)), expected, "word {word}");
    }
    // A word far ahead of the tail: a consumer that would not move forward.
    memory.word(9).store(1 << 40, Ordering::Relaxed);
    assert_eq!(read(&core, &at(9)), Err(Miss::Corrupt));
}

#[test]
fn a_commit_that_is_repeated_in_part_is_never_believed() {
    let mut zeros = Zeros::new();
    let core = Overwrite::new(zeros.mapped(2, true));
    let producer = Cell::new(core.take_push());
    overwrite(&core, &producer, 1);
    let consumer = Cell::new(0);
    core.peek(&consumer).unwrap().unwrap();
    overwrite(&core, &producer, 2);
    core.reserve(producer.get());
    assert_eq!(core.release(&consumer), Err(Miss::Lost(1)));
    assert_eq!(read(&core, &consumer), Ok(Some(2)));
}

#[test]
fn a_producer_killed_in_reclaim_has_a_successor_that_looks_for_itself() {
    let mut zeros = Zeros::new();
    let core = Gated::new(zeros.mapped(4, false), false);
    let memory = zeros.mapped(4, false);
    let (producer, consumer) = (grip(), grip());
    core.take_push(&producer).unwrap();
    core.join(1, &consumer, Start::Oldest);
    assert!((0..4).all(|value| push(&core, &producer, value)));
    // Its first look missed the consumer; killed before the second one.
    memory.head().store(2, Ordering::Relaxed);
    let next = grip();
    core.take_push(&next).unwrap();
    assert!(core.is_full(&next) && !push(&core, &next, 4));
    for value in 0..4 {
        assert_eq!(pop(&core, 1, &consumer), Ok(Some(value)));
    }
    assert!(push(&core, &next, 4));
    assert_eq!(pop(&core, 1, &consumer), Ok(Some(4)));
}

#[test]
fn an_eviction_that_has_cost_nothing_yet_costs_nothing() {
    let mut zeros = Zeros::new();
    let core = Gated::new(zeros.mapped(4, false), true);
    let memory = zeros.mapped(4, false);
    let (producer, consumer) = (grip(), grip());
    core.take_push(&producer).unwrap();
    core.join(0, &consumer, Start::Now);
    for round in 0..3 {
        assert!((0..4).all(|value| push(&core, &producer, 4 * round + value)));
        assert_eq!(pop(&core, 0, &consumer), Ok(Some(4 * round)));
        memory.reader(0).store(EVICTED_BY_HAND, Ordering::Relaxed);
        // With items that it knows of, with the last of them, and with none.
        for value in 1..4 {
            assert_eq!(pop(&core, 0, &consumer), Ok(Some(4 * round + value)));
            memory.reader(0).store(EVICTED_BY_HAND, Ordering::Relaxed);
        }
        assert_eq!(pop(&core, 0, &consumer), Ok(None), "nothing is there that was not committed");
    }
}

/// What the producer makes of the reader word of generation 0.
const EVICTED_BY_HAND: u32 = 2;

#[test]
fn indices_that_no_history_leads_to() {
    let mut zeros = Zeros::new();
    let core = Gated::new(zeros.mapped(4, false), false);
    let memory = zeros.mapped(4, false);
    let consumer = grip();
    core.join(0, &consumer, Start::Now);
    memory.tail().store(5, Ordering::Relaxed);
    assert_eq!(pop(&core, 0, &consumer), Err(Miss::Corrupt));
    assert_eq!(core.take_push(&grip()), Err(Corrupt));
    // Cursors may be anything: they hold the producer, and are gone with their owner.
    memory.head().store(5, Ordering::Relaxed);
    for cursor in [0, 6, u64::MAX, 1 << 63] {
        memory.cursor(0).store(cursor, Ordering::Relaxed);
        let producer = grip();
        core.take_push(&producer).unwrap();
        assert!(!push(&core, &producer, 1), "cursor {cursor:#x}");
        let tally = core.tally();
        assert_eq!(tally.written, tally.read + tally.dropped + tally.length);
    }
    assert!(!core.bury(&|_| true) && core.bury(&|_| false));
    let producer = grip();
    core.take_push(&producer).unwrap();
    assert!(push(&core, &producer, 1));
}
