//! The stop-proof ring under the model checker: this very core, over memory of loom's atomics and
//! cells. A thread that is stopped at an access is one that is switched away from there; so in every
//! model here others do whole calls meanwhile, and each of their answers must be right.
//!
//! loom takes a SeqCst access as AcqRel, which is weaker than what the core asks for: what holds here
//! holds of the real one. What is asserted of "full" and "empty" is what follows without a total order.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use super::*;
use crate::sync::model::{Fences, check, check_kills, killed_after, share, step};

const PARTICIPANTS: u32 = 3;
/// The participant that main is.
const MAIN: u32 = 2;

/// A ring's memory. Items are numbers; two accesses to one without order are a race to loom.
#[derive(Debug)]
struct Model {
    capacity: u64,
    ends: [AtomicU64; 2],
    hint: AtomicU64,
    counters: [AtomicU64; 2],
    places: Vec<AtomicU64>,
    cells: Vec<AtomicU64>,
    items: Vec<UnsafeCell<u64>>,
}

// SAFETY: items are reached by `read` and `write` only, whose order loom checks.
unsafe impl Sync for Model {}
// SAFETY: no thread owns anything in it.
unsafe impl Send for Model {}

impl Memory for Arc<Model> {
    fn capacity(&self) -> u64 {
        self.capacity
    }
    fn places(&self) -> u64 {
        self.places.len() as u64
    }
    fn cells(&self) -> u64 {
        self.cells.len() as u64
    }
    fn tail(&self) -> &AtomicU64 {
        &self.ends[0]
    }
    fn head(&self) -> &AtomicU64 {
        &self.ends[1]
    }
    fn hint(&self) -> &AtomicU64 {
        &self.hint
    }
    fn dropped(&self) -> &AtomicU64 {
        &self.counters[0]
    }
    fn lost(&self) -> &AtomicU64 {
        &self.counters[1]
    }
    fn place(&self, position: u64) -> &AtomicU64 {
        &self.places[position as usize & (self.places.len() - 1)]
    }
    fn cell(&self, cell: u64) -> &AtomicU64 {
        &self.cells[cell as usize]
    }
    fn item(&self, _cell: u64) -> NonNull<u8> {
        // Not followed by any model.
        NonNull::dangling()
    }
    unsafe fn write(&self, cell: u64, from: *const u8) {
        step();
        // SAFETY: the caller's promise, for an item of eight bytes; loom checks the cell.
        self.items[cell as usize].with_mut(|item| unsafe { *item = from.cast::<u64>().read() });
    }
    unsafe fn read(&self, cell: u64, to: *mut u8) {
        step();
        // SAFETY: as above.
        self.items[cell as usize].with(|item| unsafe { to.cast::<u64>().write(*item) });
    }
}

/// A participant's handle.
struct Handle {
    core: Core<Arc<Model>>,
    me: u32,
}

/// The ring, with so many positions over already.
fn ring(capacity: u64, over: u64) -> Arc<Model> {
    let zeros = |count| (0..count).map(|_| AtomicU64::default()).collect();
    let participants = u64::from(PARTICIPANTS);
    let cells = capacity + 2 * participants;
    let memory = share(Model {
        capacity,
        ends: Default::default(),
        hint: AtomicU64::default(),
        counters: Default::default(),
        places: zeros((capacity + participants).next_power_of_two()),
        cells: zeros(cells),
        items: (0..cells).map(|_| UnsafeCell::new(0)).collect(),
    });
    let handle = Handle::new(&memory, MAIN);
    for _ in 0..over {
        assert!(handle.push(99) && handle.pop() == Some(99));
    }
    memory
}

impl Handle {
    fn new(memory: &Arc<Model>, me: u32) -> Self {
        Self { core: Core::new(memory.clone()), me }
    }

    fn push(&self, item: u64) -> bool {
        // SAFETY: one item of eight bytes; the cell and the slot are this handle's.
        unsafe { self.core.push(self.me, (&raw const item).cast(), 8, 1) }.expect("no corruption")
            == 1
    }

    fn pop(&self) -> Option<u64> {
        let mut item = 0_u64;
        // SAFETY: room for one item of eight bytes.
        let popped = unsafe { self.core.pop(self.me, (&raw mut item).cast(), 8, 1) };
        (popped.expect("no corruption") == 1).then_some(item)
    }

    /// What is inside, in order; nobody else is at it any more. The ring must be as good as new, and
    /// that without mending anything: room for all, and all of it comes back.
    fn drain(&self) -> Vec<u64> {
        let items = std::iter::from_fn(|| self.pop()).collect();
        for item in 0..self.core.memory.capacity {
            assert!(self.push(100 + item), "room for all");
        }
        assert!(!self.push(200), "and no more");
        for item in 0..self.core.memory.capacity {
            assert_eq!(self.pop(), Some(100 + item));
        }
        assert_eq!(self.pop(), None);
        items
    }

    /// Takes the slot of a dead one. Then all is free, and the counts close.
    fn sweeps(&self, dead: u32) {
        self.core.sweep(dead);
        let tally = self.core.tally(&|_| true);
        assert_eq!((tally.pending, tally.length), (0, 0));
        assert_eq!(tally.written, tally.read + tally.lost);
        let cells = &self.core.memory.cells;
        assert!(cells.iter().all(|cell| is_free(cell.load(Ordering::Relaxed))), "cells leak");
    }
}

fn sorted(mut items: Vec<u64>) -> Vec<u64> {
    items.sort_unstable();
    items
}

/// Each producer's items (1, 2, ... and 11, 12, ...) are in order.
fn in_order(items: &[u64]) -> bool {
    let of = |ten: u64| items.iter().copied().filter(move |item| item / 10 == ten);
    of(0).is_sorted() && of(1).is_sorted()
}

fn two_producers(capacity: u64, over: u64, preemptions: usize) {
    check(preemptions, Fences::Light, move || {
        let memory = ring(capacity, over);
        let producers = [0, 1].map(|me: u32| {
            let memory = memory.clone();
            thread::spawn(move || {
                let (handle, item) = (Handle::new(&memory, me), u64::from(10 * me) + 1);
                handle.push(item).then_some(item)
            })
        });
        let main = Handle::new(&memory, MAIN);
        let mut popped = Vec::from_iter(main.pop());
        let pushed = producers.map(|producer| producer.join().unwrap());
        let pushed: Vec<u64> = pushed.into_iter().flatten().collect();
        assert!(pushed.len() as u64 >= capacity, "there was room, whoever was stopped");
        popped.extend(main.drain());
        assert_eq!(sorted(popped), sorted(pushed), "each item once");
        main.sweeps(0);
    });
}

#[test]
fn two_producers_and_a_consumer() {
    two_producers(2, 0, 2);
}

#[test]
fn two_producers_and_a_consumer_with_room_for_one() {
    two_producers(1, 3, 2);
}

fn two_consumers(capacity: u64, over: u64, preemptions: usize) {
    check(preemptions, Fences::Light, move || {
        let memory = ring(capacity, over);
        let main = Handle::new(&memory, MAIN);
        assert!(main.push(1));
        let consumers = [0, 1].map(|me| {
            let memory = memory.clone();
            thread::spawn(move || Handle::new(&memory, me).pop())
        });
        let pushed: Vec<u64> = [1, 2].into_iter().filter(|&i| i == 1 || main.push(i)).collect();
        assert!(pushed.len() as u64 >= capacity, "there was room");
        let taken = consumers.map(|consumer| consumer.join().unwrap());
        let mut popped: Vec<u64> = taken.into_iter().flatten().collect();
        assert!(!popped.is_empty(), "there was an item, whoever was stopped");
        popped.extend(main.drain());
        assert_eq!(sorted(popped), pushed, "each item once");
        main.sweeps(0);
    });
}

#[test]
fn a_producer_and_two_consumers() {
    two_consumers(2, 0, 2);
}

#[test]
fn a_producer_and_two_consumers_with_room_for_one() {
    two_consumers(1, 3, 2);
}

/// A producer is stopped anywhere in a push, for two whole rounds of another: nobody waits for it.
fn stopped_producer(capacity: u64, over: u64) {
    check(2, Fences::Light, move || {
        let memory = ring(capacity, over);
        let other = memory.clone();
        let stopped = thread::spawn(move || Handle::new(&other, 0).push(11));
        let main = Handle::new(&memory, MAIN);
        let (mut pushed, mut popped) = (Vec::new(), Vec::new());
        for item in 1..=2 {
            pushed.extend(main.push(item).then_some(item));
            // Pushed just now, or full.
            popped.push(main.pop().expect("an item is there"));
        }
        pushed.extend(stopped.join().unwrap().then_some(11));
        popped.extend(main.drain());
        assert!(in_order(&popped), "{popped:?}");
        assert_eq!(sorted(popped), pushed, "each item once");
        main.sweeps(0);
    });
}

#[test]
fn a_stopped_producer() {
    stopped_producer(2, 0);
}

#[test]
fn a_stopped_producer_with_room_for_one() {
    stopped_producer(1, 3);
}

/// A consumer is stopped anywhere in a pop, for two whole rounds of another.
fn stopped_consumer(capacity: u64, over: u64) {
    check(3, Fences::Light, move || {
        let memory = ring(capacity, over);
        let main = Handle::new(&memory, MAIN);
        assert!(main.push(1));
        let other = memory.clone();
        let stopped = thread::spawn(move || Handle::new(&other, 0).pop());
        let mut popped = Vec::new();
        for item in 2..=3 {
            popped.extend(main.pop());
            // One was popped just now, or none was there.
            assert!(main.push(item), "there is room");
        }
        assert!(popped.is_sorted(), "{popped:?}");
        popped.extend(stopped.join().unwrap());
        popped.extend(main.drain());
        assert_eq!(sorted(popped), [1, 2, 3], "each item once");
        main.sweeps(0);
    });
}

#[test]
fn a_stopped_consumer() {
    stopped_consumer(2, 0);
}

#[test]
fn a_stopped_consumer_with_room_for_one() {
    stopped_consumer(1, 3);
}

/// A cell that a consumer gives back is the very next one that a producer takes: it is written when
/// it was read. Elsewhere the hint keeps them apart.
#[test]
fn a_cell_is_used_again() {
    check(2, Fences::Light, || {
        let memory = ring(1, 0);
        let main = Handle::new(&memory, MAIN);
        assert!(main.push(1));
        memory.hint.store(0, Ordering::Relaxed);
        let other = memory.clone();
        let consumer = thread::spawn(move || Handle::new(&other, 0).pop());
        let pushed = main.push(2);
        assert_eq!(consumer.join().unwrap(), Some(1));
        assert_eq!(main.drain(), Vec::from_iter(pushed.then_some(2)));
        main.sweeps(0);
    });
}

/// A producer is killed before each of its accesses, beside another one and a consumer. They go on
/// without mending; its item is in the queue once or never.
fn killed_producer(capacity: u64, over: u64) {
    check_kills(1, Fences::Light, move |steps, killed| {
        let memory = ring(capacity, over);
        let [of_victim, of_survivor] = [memory.clone(), memory.clone()];
        let victim = thread::spawn(move || {
            let handle = Handle::new(&of_victim, 0);
            killed_after(steps, || handle.push(1))
        });
        let survivor = thread::spawn(move || Handle::new(&of_survivor, 1).push(11));
        let main = Handle::new(&memory, MAIN);
        let mut popped = Vec::from_iter(main.pop());
        let pushed = victim.join().unwrap();
        killed.fetch_or(pushed.is_none(), Ordering::Relaxed);
        let other = survivor.join().unwrap();
        assert!(other || capacity == 1, "there was room");
        popped.extend(main.drain());
        main.sweeps(0);
        let (own, others): (Vec<u64>, Vec<u64>) = popped.iter().partition(|&&item| item < 10);
        assert_eq!(others.len(), usize::from(other), "the survivor's item, once");
        match pushed {
            Some(pushed) => assert_eq!(own.len(), usize::from(pushed)),
            None => assert!(own == [] || own == [1], "{own:?}"),
        }
        assert_eq!(main.core.tally(&|_| true).lost, 0);
    });
}

#[test]
fn a_killed_producer() {
    killed_producer(2, 0);
}

#[test]
fn a_killed_producer_with_room_for_one() {
    killed_producer(1, 3);
}

/// A consumer is killed before each of its accesses, beside another one and a producer.
fn killed_consumer(capacity: u64, over: u64) {
    check_kills(2, Fences::Light, move |steps, killed| {
        let memory = ring(capacity, over);
        let main = Handle::new(&memory, MAIN);
        (1..=capacity).for_each(|item| assert!(main.push(item)));
        let [of_victim, of_survivor] = [memory.clone(), memory.clone()];
        let victim = thread::spawn(move || {
            let handle = Handle::new(&of_victim, 0);
            killed_after(steps, || handle.pop())
        });
        let survivor = thread::spawn(move || Handle::new(&of_survivor, 1).pop());
        let end = capacity + 1 + u64::from(main.push(capacity + 1));
        let taken = victim.join().unwrap();
        killed.fetch_or(taken.is_none(), Ordering::Relaxed);
        let mut popped = Vec::from_iter(survivor.join().unwrap());
        assert!(!popped.is_empty() || capacity == 1, "there was an item for each");
        let rest = main.drain();
        main.sweeps(0);
        assert!(rest.is_sorted(), "{rest:?}");
        popped.extend(rest);
        popped.extend(taken.flatten());
        let popped = sorted(popped);
        assert!(popped.windows(2).all(|pair| pair[0] < pair[1]), "{popped:?}");
        let missing = end - 1 - popped.len() as u64;
        let lost = main.core.tally(&|_| true).lost;
        assert!(missing <= u64::from(taken.is_none()) && lost <= missing, "{popped:?}, {lost}");
    });
}

#[test]
fn a_killed_consumer() {
    killed_consumer(2, 0);
}

#[test]
fn a_killed_consumer_with_room_for_one() {
    killed_consumer(1, 3);
}

/// A dead producer's slot is taken while a consumer pops: what is in the queue stays there.
#[test]
fn a_sweep_beside_a_consumer() {
    check_kills(2, Fences::Light, |steps, killed| {
        let memory = ring(1, 3);
        let dead = Handle::new(&memory, 0);
        let pushed = killed_after(steps, || dead.push(1));
        killed.fetch_or(pushed.is_none(), Ordering::Relaxed);
        let other = memory.clone();
        let consumer = thread::spawn(move || Handle::new(&other, 1).pop());
        let main = Handle::new(&memory, MAIN);
        if pushed.is_none() {
            main.core.sweep(0);
        }
        // Its place is filled, whether or not anybody moved the tail.
        let inside = main.core.tally(&|_| true).written - 3;
        let mut popped = Vec::from_iter(consumer.join().unwrap());
        popped.extend(main.drain());
        assert_eq!(popped.len() as u64, inside, "swept out of the queue");
        assert!(pushed.is_none() || inside == 1);
        main.sweeps(0);
    });
}
