//! Both broadcast cores under the model checker: these very cores, over memory of loom's atomics.
//!
//! An item is its position and ten times who sent it. In memory it is two words, both the same: a
//! reader that sees two different ones has a torn item in hands, and must not believe it.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use std::cell::Cell;
use std::ptr::NonNull;

use super::*;
use crate::ring::seat::Grip;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::model::{Fences, check, check_kills, killed_after, share, step};

const SLOTS: u32 = 2;
const TORN: u64 = u64::MAX;

#[derive(Debug)]
struct Item {
    word: AtomicU64,
    item: [AtomicU64; 2],
    /// Copies that nothing orders are a race to loom, where they must not be.
    plain: UnsafeCell<u64>,
}

#[derive(Debug)]
struct Reader {
    cursor: AtomicU64,
    reader: AtomicU32,
    generation: AtomicU32,
    /// Stored with Release after the last access, as the kernel frees a lock.
    dead: AtomicU32,
}

#[derive(Debug)]
struct Model {
    tail: AtomicU64,
    head: AtomicU64,
    dropped: AtomicU64,
    readers: AtomicU32,
    slots: Vec<Reader>,
    cells: Vec<Item>,
    /// Whether copies must be ordered: not where readers may be overtaken.
    is_plain: bool,
}

// SAFETY: `plain` is reached by copies only, whose order loom checks.
unsafe impl Sync for Model {}
// SAFETY: no thread owns anything in it.
unsafe impl Send for Model {}

impl Model {
    fn new(capacity: usize, is_plain: bool) -> Self {
        let word = AtomicU64::default;
        let cell = |_| Item { word: word(), item: [word(), word()], plain: UnsafeCell::new(0) };
        let slot = |_| Reader {
            cursor: word(),
            reader: AtomicU32::default(),
            generation: AtomicU32::default(),
            dead: AtomicU32::default(),
        };
        Self {
            tail: word(),
            head: word(),
            dropped: word(),
            readers: AtomicU32::default(),
            slots: (0..SLOTS).map(slot).collect(),
            cells: (0..capacity).map(cell).collect(),
            is_plain,
        }
    }

    fn cell(&self, position: u64) -> &Item {
        &self.cells[position as usize & (self.cells.len() - 1)]
    }
}

impl Memory for Model {
    fn capacity(&self) -> u64 {
        self.cells.len() as u64
    }
    fn participants(&self) -> u32 {
        SLOTS
    }
    fn tail(&self) -> &AtomicU64 {
        &self.tail
    }
    fn head(&self) -> &AtomicU64 {
        &self.head
    }
    fn dropped(&self) -> &AtomicU64 {
        &self.dropped
    }
    fn readers(&self) -> &AtomicU32 {
        &self.readers
    }
    fn cursor(&self, index: u32) -> &AtomicU64 {
        &self.slots[index as usize].cursor
    }
    fn reader(&self, index: u32) -> &AtomicU32 {
        &self.slots[index as usize].reader
    }
    fn generation(&self, index: u32) -> u32 {
        self.slots[index as usize].generation.load(Ordering::Relaxed)
    }
    fn word(&self, position: u64) -> &AtomicU64 {
        &self.cell(position).word
    }
    fn item(&self, _position: u64) -> NonNull<u8> {
        // Not followed by any model.
        NonNull::dangling()
    }
    unsafe fn write(&self, position: u64, from: *const u8) {
        // SAFETY: the caller's promise, for an item of eight bytes.
        let item = unsafe { from.cast::<u64>().read() };
        if self.is_plain {
            step();
            // SAFETY: loom checks the cell.
            return self.cell(position).plain.with_mut(|plain| unsafe { *plain = item });
        }
        self.cell(position).item.iter().for_each(|word| word.store(item, Ordering::Relaxed));
    }
    unsafe fn read(&self, position: u64, to: *mut u8) {
        let item = if self.is_plain {
            step();
            // SAFETY: loom checks the cell.
            self.cell(position).plain.with(|plain| unsafe { *plain })
        } else {
            let [one, two] = &self.cell(position).item;
            let (one, two) = (one.load(Ordering::Relaxed), two.load(Ordering::Relaxed));
            if one == two { one } else { TORN }
        };
        // SAFETY: the caller's promise, for an item of eight bytes.
        unsafe { to.cast::<u64>().write(item) };
    }
    unsafe fn write_run(&self, position: u64, from: *const u8, count: u64) {
        // SAFETY: the caller's promise.
        (0..count).for_each(|i| unsafe { self.write(position + i, from.add(8 * i as usize)) });
    }
    unsafe fn read_run(&self, position: u64, to: *mut u8, count: u64) {
        // SAFETY: the caller's promise.
        (0..count).for_each(|i| unsafe { self.read(position + i, to.add(8 * i as usize)) });
    }
}

/// What a reader has seen, by position; `None` where something went by.
type Seen = Vec<(u64, Option<u64>)>;

/// Notes what a reader that stood at `before` was told, and holds the ring to its count: it stands
/// behind what it got and what it lost. Whether there was anything.
fn note(seen: &mut Seen, before: u64, after: u64, told: Result<Option<u64>, Miss>) -> bool {
    let count = match told {
        Ok(item) => u64::from(item.is_some()),
        Err(Miss::Lost(count)) => count,
        Err(Miss::Corrupt) => panic!("no corruption"),
    };
    assert_eq!(after - before, count);
    let item = told.ok().flatten();
    seen.extend((before..after).map(|position| (position, item)));
    count > 0
}

/// Each item is that of its position: sent by the first producer, or, from `first` on, by the next.
fn is_right(seen: &Seen, first: u64) -> bool {
    let sent = |position| if position < first { position } else { 10 + position };
    seen.iter().all(|&(position, item)| item.is_none_or(|item| item == sent(position)))
}

mod overwriting {
    use super::*;

    type Ring = Overwrite<Model>;

    fn ring(capacity: usize) -> Arc<Ring> {
        share(Overwrite::new(Model::new(capacity, false)))
    }

    /// Pushes `count` items of producer `ten`, and says nothing about them.
    fn push(ring: &Ring, position: &Cell<u64>, ten: u64, count: u64) {
        for _ in 0..count {
            let item = 10 * ten + position.get();
            // SAFETY: one item of eight bytes; the model has one producer at a time.
            assert_eq!(unsafe { ring.push(position, (&raw const item).cast(), 8, 1) }, 1);
        }
    }

    fn pop(ring: &Ring, position: &Cell<u64>, seen: &mut Seen) -> bool {
        let (before, mut item) = (position.get(), 0_u64);
        // SAFETY: room for one item of eight bytes.
        let told = unsafe { ring.pop(position, (&raw mut item).cast(), 8, 1) };
        note(seen, before, position.get(), told.map(|count| (count == 1).then_some(item)))
    }

    /// As `pop`, in place.
    fn look(ring: &Ring, position: &Cell<u64>, seen: &mut Seen) -> bool {
        let (before, mut item) = (position.get(), 0_u64);
        let told = ring.peek(position).and_then(|there| {
            if there.is_none() {
                return Ok(None);
            }
            // SAFETY: room for one item of eight bytes.
            unsafe { ring.memory().read(before, (&raw mut item).cast()) };
            ring.release(position).map(|()| Some(item))
        });
        note(seen, before, position.get(), told)
    }

    /// Everything that is still there comes, once the producer is quiet.
    fn drain(ring: &Ring, position: &Cell<u64>, seen: &mut Seen) {
        let end = ring.tally().written;
        let kept = ring.tally().length;
        while pop(ring, position, seen) {}
        assert_eq!(position.get(), end, "all of it was read, or lost");
        let lost = |&(at, item): &(u64, Option<u64>)| item.is_none() && at + kept >= end;
        let late = seen.iter().filter(|all| lost(all)).count();
        assert!(late == 0 || kept < ring.memory().capacity(), "what is there is not lost");
    }

    /// The producer laps a reader that was there before it, and one that comes meanwhile.
    fn lapped(capacity: usize, count: u64, preemptions: usize) {
        check(preemptions, Fences::Light, move || {
            let ring = ring(capacity);
            let producer = ring.clone();
            let producer =
                thread::spawn(move || push(&producer, &Cell::new(producer.take_push()), 0, count));
            let late = ring.clone();
            let late = thread::spawn(move || {
                let (position, mut seen) = (Cell::new(late.join(Start::Oldest)), Seen::new());
                look(&late, &position, &mut seen);
                (position.get(), seen)
            });
            let (position, mut seen) = (Cell::new(0), Seen::new());
            pop(&ring, &position, &mut seen);
            pop(&ring, &position, &mut seen);
            producer.join().unwrap();
            let (late, mut also) = late.join().unwrap();
            drain(&ring, &position, &mut seen);
            drain(&ring, &Cell::new(late), &mut also);
            assert!(is_right(&seen, count) && is_right(&also, count), "{seen:?} {also:?}");
            assert_eq!(seen.len() as u64, count, "losses are exact");
        });
    }

    #[test]
    fn a_lapped_reader() {
        lapped(2, 3, 1);
    }

    #[test]
    fn a_lapped_reader_of_one_cell() {
        lapped(1, 2, 1);
    }

    /// The producer laps a reader that stands still anywhere in its copy.
    #[test]
    fn an_overtaken_copy() {
        check(2, Fences::Light, || {
            let ring = ring(1);
            let position = Cell::new(ring.take_push());
            push(&ring, &position, 0, 1);
            let other = ring.clone();
            let reader = thread::spawn(move || {
                let (position, mut seen) = (Cell::new(0), Seen::new());
                pop(&other, &position, &mut seen);
                (position.get(), seen)
            });
            push(&ring, &position, 0, 1);
            let (position, mut seen) = reader.join().unwrap();
            drain(&ring, &Cell::new(position), &mut seen);
            assert!(is_right(&seen, 2) && seen.len() == 2, "{seen:?}");
        });
    }

    /// A producer is killed before each of its accesses, and the next one goes on, under the eyes of
    /// a reader.
    fn killed(capacity: usize, count: u64, more: u64, preemptions: usize) {
        check_kills(preemptions, Fences::Light, move |steps, killed| {
            let ring = ring(capacity);
            let producer = ring.clone();
            let producer = thread::spawn(move || {
                let done = killed_after(steps, || {
                    push(&producer, &Cell::new(producer.take_push()), 0, count);
                });
                // Its lock is free.
                let first = producer.take_push();
                push(&producer, &Cell::new(first), 1, more);
                (first, done.is_none())
            });
            let (position, mut seen) = (Cell::new(0), Seen::new());
            for _ in 0..3 {
                pop(&ring, &position, &mut seen);
            }
            let (first, was_killed) = producer.join().unwrap();
            killed.fetch_or(was_killed, Ordering::Relaxed);
            drain(&ring, &position, &mut seen);
            assert!(is_right(&seen, first), "{seen:?}, then from {first}");
            assert_eq!(seen.len() as u64, first + more, "losses are exact");
        });
    }

    #[test]
    fn a_killed_producer() {
        killed(2, 3, 2, 1);
    }

    /// No later lap comes to a reader's help.
    #[test]
    fn a_killed_producer_and_one_item_of_the_next() {
        killed(2, 2, 1, 1);
    }

    #[test]
    fn a_killed_producer_of_one_cell() {
        killed(1, 2, 2, 2);
    }
}

mod gating {
    use super::*;

    type Ring = Gated<Model>;

    fn ring(capacity: usize, evict: bool) -> Arc<Ring> {
        // Who evicts overtakes; else no copy is ever overtaken.
        share(Gated::new(Model::new(capacity, !evict), evict))
    }

    fn grip() -> Grip {
        // SAFETY: cells of integers.
        unsafe { std::mem::zeroed() }
    }

    /// A producer's grip.
    fn producer(ring: &Ring) -> Grip {
        let grip = grip();
        ring.take_push(&grip).expect("no corruption");
        grip
    }

    fn push(ring: &Ring, grip: &Grip, ten: u64) -> bool {
        let item = 10 * ten + grip.position.get();
        // SAFETY: one item of eight bytes; the model has one producer at a time.
        unsafe { ring.push(grip, (&raw const item).cast(), 8, 1) == 1 }
    }

    /// A reader, which began at `first`.
    struct Consumer {
        me: u32,
        grip: Grip,
        first: u64,
        seen: Seen,
    }

    // SAFETY: one thread at a time uses it.
    unsafe impl Send for Consumer {}

    impl Consumer {
        fn join(ring: &Ring, me: u32, start: Start) -> Self {
            let grip = grip();
            ring.join(me, &grip, start);
            let first = grip.position.get();
            Self { me, grip, first, seen: Seen::new() }
        }

        fn pop(&mut self, ring: &Ring) -> bool {
            let (before, mut item) = (self.grip.position.get(), 0_u64);
            // SAFETY: room for one item of eight bytes; the grip is its own.
            let told = unsafe { ring.pop(self.me, &self.grip, (&raw mut item).cast(), 8, 1) };
            let told = told.map(|count| (count == 1).then_some(item));
            note(&mut self.seen, before, self.grip.position.get(), told)
        }

        /// All that there is comes, once the producer is quiet; with losses only if some are evicted.
        fn drain(mut self, ring: &Ring, next: u64, evict: bool) {
            while self.pop(ring) {}
            let end = ring.tally().written;
            assert_eq!(self.seen.len() as u64, end - self.first, "losses are exact");
            assert!(is_right(&self.seen, next), "{:?}, then from {next}", self.seen);
            assert!(evict || self.seen.iter().all(|(_, item)| item.is_some()), "{:?}", self.seen);
        }
    }

    fn is_alive(ring: &Ring, index: u32) -> bool {
        // Acquire: pairs with the Release of who dies.
        ring.memory().slots[index as usize].dead.load(Ordering::Acquire) == 0
    }

    /// A reader that was there, and one that joins while the producer makes room.
    fn two_readers(capacity: usize, start: Start, preemptions: usize) {
        check(preemptions, Fences::Light, move || {
            let ring = ring(capacity, false);
            let mut one = Consumer::join(&ring, 0, Start::Oldest);
            let grip = producer(&ring);
            (0..capacity).for_each(|_| assert!(push(&ring, &grip, 0)));
            let other = ring.clone();
            let other = thread::spawn(move || {
                let mut two = Consumer::join(&other, 1, start);
                two.pop(&other);
                two
            });
            let reader = ring.clone();
            let reader = thread::spawn(move || {
                one.pop(&reader);
                one
            });
            push(&ring, &grip, 0);
            push(&ring, &grip, 0);
            let (one, two) = (reader.join().unwrap(), other.join().unwrap());
            assert!(start == Start::Oldest || two.first >= capacity as u64);
            one.drain(&ring, u64::MAX, false);
            two.drain(&ring, u64::MAX, false);
            assert_eq!(ring.tally().dropped, 0);
            (0..capacity).for_each(|_| assert!(push(&ring, &grip, 0), "room for all"));
            assert!(!push(&ring, &grip, 0), "and no more");
        });
    }

    #[test]
    fn two_readers_one_at_the_oldest() {
        two_readers(2, Start::Oldest, 2);
    }

    #[test]
    fn two_readers_one_from_now() {
        two_readers(2, Start::Now, 2);
    }

    #[test]
    fn two_readers_of_one_cell() {
        two_readers(1, Start::Oldest, 2);
    }

    /// A reader joins while a producer that nobody held up to now makes room: what is at its cursor
    /// and behind stays.
    fn joining(capacity: usize, start: Start, preemptions: usize) {
        check(preemptions, Fences::Light, move || {
            let ring = ring(capacity, false);
            let grip = producer(&ring);
            (0..capacity).for_each(|_| assert!(push(&ring, &grip, 0)));
            let other = ring.clone();
            let reader = thread::spawn(move || {
                let mut reader = Consumer::join(&other, 0, start);
                reader.pop(&other);
                reader
            });
            for _ in 0..=capacity {
                push(&ring, &grip, 0);
            }
            reader.join().unwrap().drain(&ring, u64::MAX, false);
        });
    }

    #[test]
    fn joining_at_the_oldest() {
        joining(2, Start::Oldest, 2);
    }

    #[test]
    fn joining_now() {
        joining(2, Start::Now, 2);
    }

    #[test]
    fn joining_at_one_cell() {
        joining(1, Start::Oldest, 2);
    }

    /// A producer is killed before each of its accesses, while a reader joins; the next one keeps
    /// what that reader joined on.
    fn killed_producer(capacity: usize, evict: bool) {
        check_kills(1, Fences::Light, move |steps, killed| {
            let ring = ring(capacity, evict);
            let grip = producer(&ring);
            (0..capacity).for_each(|_| assert!(push(&ring, &grip, 0)));
            let other = ring.clone();
            let reader = thread::spawn(move || {
                let mut reader = Consumer::join(&other, 0, Start::Oldest);
                reader.pop(&other);
                reader
            });
            let done = killed_after(steps, || [push(&ring, &grip, 0), push(&ring, &grip, 0)]);
            // Its lock is free.
            let next = producer(&ring);
            let first = next.position.get();
            push(&ring, &next, 1);
            push(&ring, &next, 1);
            killed.fetch_or(done.is_none(), Ordering::Relaxed);
            reader.join().unwrap().drain(&ring, first, evict);
        });
    }

    #[test]
    fn a_killed_producer() {
        killed_producer(2, false);
    }

    #[test]
    fn a_killed_producer_of_one_cell() {
        killed_producer(1, false);
    }

    #[test]
    fn a_killed_producer_that_evicts() {
        killed_producer(2, true);
    }

    /// A reader is killed before each of its accesses. The producer takes it out, and not the next
    /// owner of its slot.
    #[test]
    fn a_killed_reader_and_the_next_in_its_slot() {
        check_kills(1, Fences::Light, |steps, killed| {
            let ring = ring(1, false);
            let grip = producer(&ring);
            assert!(push(&ring, &grip, 0));
            let other = ring.clone();
            let reader = thread::spawn(move || {
                let done = killed_after(steps, || {
                    Consumer::join(&other, 0, Start::Oldest).pop(&other);
                });
                let slot = &other.memory().slots[0];
                slot.dead.store(1, Ordering::Release);
                // Taken again: a new generation, then alive.
                slot.generation.store(1, Ordering::Relaxed);
                slot.dead.store(0, Ordering::Release);
                (done.is_none(), Consumer::join(&other, 0, Start::Oldest))
            });
            ring.bury(&|index| is_alive(&ring, index));
            push(&ring, &grip, 0);
            let (was_killed, reader) = reader.join().unwrap();
            killed.fetch_or(was_killed, Ordering::Relaxed);
            reader.drain(&ring, u64::MAX, false);
        });
    }

    /// A dead reader holds nobody for longer than it takes to see that it is dead; the living one
    /// beside it keeps its items.
    #[test]
    fn a_killed_reader_beside_another() {
        check_kills(1, Fences::Light, |steps, killed| {
            let ring = ring(2, false);
            let mut one = Consumer::join(&ring, 1, Start::Oldest);
            let grip = producer(&ring);
            assert!(push(&ring, &grip, 0) && push(&ring, &grip, 0));
            let other = ring.clone();
            let victim = thread::spawn(move || {
                let done = killed_after(steps, || {
                    Consumer::join(&other, 0, Start::Oldest).pop(&other);
                });
                other.memory().slots[0].dead.store(1, Ordering::Release);
                done.is_none()
            });
            one.pop(&ring);
            if !push(&ring, &grip, 0) {
                ring.bury(&|index| is_alive(&ring, index));
                push(&ring, &grip, 0);
            }
            killed.fetch_or(victim.join().unwrap(), Ordering::Relaxed);
            one.drain(&ring, u64::MAX, false);
            ring.bury(&|index| is_alive(&ring, index));
            assert!(push(&ring, &grip, 0), "the dead hold the producer for ever");
        });
    }

    /// The producer evicts a reader wherever it is: what it is told it has lost is what it has lost,
    /// and what it gets is what was sent.
    fn evicted(capacity: usize, count: u64, preemptions: usize) {
        check(preemptions, Fences::Light, move || {
            let ring = ring(capacity, true);
            let mut reader = Consumer::join(&ring, 0, Start::Oldest);
            let grip = producer(&ring);
            (0..capacity).for_each(|_| assert!(push(&ring, &grip, 0)));
            let other = ring.clone();
            let reader = thread::spawn(move || {
                reader.pop(&other);
                reader.pop(&other);
                reader
            });
            let pushed = (0..count).filter(|_| push(&ring, &grip, 0)).count() as u64;
            assert_eq!(grip.position.get(), capacity as u64 + pushed);
            reader.join().unwrap().drain(&ring, u64::MAX, true);
        });
    }

    #[test]
    fn an_evicted_reader() {
        evicted(2, 2, 2);
    }

    #[test]
    fn an_evicted_reader_of_one_cell() {
        evicted(1, 2, 2);
    }
}
