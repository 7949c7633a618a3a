//! The many-to-many ring under the model checker: this very core, over memory of loom's atomics and
//! cells, in every order of two or three threads that a few preemptions give, and with one of them
//! killed before each of its accesses.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use super::*;
use crate::ring::control::RETURNED;
use crate::sync::atomic::{AtomicU32, AtomicU64};
use crate::sync::model::{Fences, check, check_kills, killed_after, share, step};

#[derive(Debug)]
struct Slot {
    word: AtomicU64,
    item: UnsafeCell<u64>,
}

/// A ring's memory. Items are numbers; two accesses to one without order are a race to loom.
#[derive(Debug)]
struct Model {
    tail: AtomicU64,
    head: AtomicU64,
    counters: [AtomicU64; 3],
    returns: [AtomicU64; 3],
    /// The control page's flags: operations take the straight way only while they are 0.
    flags: AtomicU32,
    cells: Vec<Slot>,
    intents: Vec<[AtomicU64; 2]>,
    /// Which participants are dead. Stored with Release after the last access, as the kernel frees
    /// a lock when its process has come to an end.
    dead: Vec<AtomicU64>,
    /// Whether participant 1 tries the straight way first, as a handle does for one item.
    straight: bool,
}

// SAFETY: items are reached by `read` and `write` only, whose order loom checks.
unsafe impl Sync for Model {}
// SAFETY: no thread owns anything in it.
unsafe impl Send for Model {}

const PARTICIPANTS: u32 = 3;
/// The participant that main is.
const MAIN: u32 = 2;

impl Memory for Model {
    type Place = u64;

    fn capacity(&self) -> u64 {
        self.cells.len() as u64
    }
    fn participants(&self) -> u32 {
        PARTICIPANTS
    }
    fn tail(&self) -> &AtomicU64 {
        &self.tail
    }
    fn head(&self) -> &AtomicU64 {
        &self.head
    }
    fn buried(&self) -> &AtomicU64 {
        &self.counters[0]
    }
    fn dropped(&self) -> &AtomicU64 {
        &self.counters[1]
    }
    fn lost(&self) -> &AtomicU64 {
        &self.counters[2]
    }
    fn announced(&self) -> &AtomicU64 {
        &self.returns[0]
    }
    fn settled(&self) -> &AtomicU64 {
        &self.returns[1]
    }
    fn redelivered(&self) -> &AtomicU64 {
        &self.returns[2]
    }
    fn flag_returned(&self, is: bool) {
        // As `Mapped` does.
        if is {
            self.flags.fetch_or(RETURNED, Ordering::Relaxed);
        } else {
            self.flags.fetch_and(!RETURNED, Ordering::Relaxed);
        }
    }
    fn place<const WORD: bool>(&self, position: u64) -> u64 {
        position
    }
    fn word(&self, position: u64) -> &AtomicU64 {
        &self.slot(position).word
    }
    fn intent(&self, index: u32, end: End) -> &AtomicU64 {
        &self.intents[index as usize][usize::from(end == End::Consumer)]
    }
    fn item(&self, _position: u64) -> NonNull<u8> {
        // Not followed by any model.
        NonNull::dangling()
    }
    unsafe fn fill<const WORD: bool>(&self, position: u64, from: *const u8) {
        step();
        // SAFETY: the caller's promise, for an item of eight bytes; loom checks the cell.
        self.slot(position).item.with_mut(|item| unsafe { *item = from.cast::<u64>().read() });
    }
    unsafe fn empty<const WORD: bool>(&self, position: u64, to: *mut u8) {
        step();
        // SAFETY: as above.
        self.slot(position).item.with(|item| unsafe { to.cast::<u64>().write(*item) });
    }
}

impl Model {
    fn slot(&self, position: u64) -> &Slot {
        &self.cells[position as usize & (self.cells.len() - 1)]
    }
}

type Ring = Core<Model>;

/// Nobody goes the straight way at one cell, where `claim` is looked at alone.
fn ring(capacity: usize) -> Arc<Ring> {
    ring_where(capacity, capacity > 1)
}

fn ring_where(capacity: usize, straight: bool) -> Arc<Ring> {
    make(capacity, straight, false)
}

fn ring_with(capacity: usize, redeliver: bool) -> Arc<Ring> {
    make(capacity, capacity > 1, redeliver)
}

fn make(capacity: usize, straight: bool, redeliver: bool) -> Arc<Ring> {
    let zero = AtomicU64::default;
    let slot = |_| Slot { word: zero(), item: UnsafeCell::new(0) };
    let model = Model {
        tail: zero(),
        head: zero(),
        counters: std::array::from_fn(|_| zero()),
        returns: std::array::from_fn(|_| zero()),
        flags: AtomicU32::default(),
        cells: (0..capacity).map(slot).collect(),
        intents: (0..PARTICIPANTS).map(|_| [zero(), zero()]).collect(),
        dead: (0..PARTICIPANTS).map(|_| zero()).collect(),
        straight,
    };
    share(Core::new(model, redeliver))
}

impl Ring {
    fn push_all(&self, me: u32, items: &[u64]) -> usize {
        // As `fast` does.
        // SAFETY: an item of eight bytes.
        if self.is_straight(me)
            && items.len() == 1
            && unsafe {
                self.push_one::<true>(me, items.as_ptr().cast())
                    || self.push_one::<false>(me, items.as_ptr().cast())
            }
        {
            return 1;
        }
        // SAFETY: that many items of eight bytes.
        let pushed = unsafe { self.push(me, items.as_ptr().cast(), 8, items.len() as u64) };
        pushed.expect("no corruption") as usize
    }

    fn is_straight(&self, me: u32) -> bool {
        // Relaxed: as in `straight`.
        me == 1 && self.memory.straight && self.memory.flags.load(Ordering::Relaxed) == 0
    }

    /// Pops at most two items.
    fn pop_two(&self, me: u32) -> Vec<u64> {
        let mut items = [0; 2];
        // SAFETY: room for two items of eight bytes.
        let popped = unsafe { self.pop(me, items.as_mut_ptr().cast(), 8, 2) };
        items[..popped.expect("no corruption") as usize].to_vec()
    }

    fn pop_item(&self, me: u32) -> Option<u64> {
        let mut item = 0_u64;
        // As `fast` does.
        // SAFETY: room for an item of eight bytes.
        if self.is_straight(me)
            && unsafe {
                self.pop_one::<true>(me, (&raw mut item).cast())
                    || self.pop_one::<false>(me, (&raw mut item).cast())
            }
        {
            return Some(item);
        }
        // SAFETY: room for one item of eight bytes.
        let popped = unsafe { self.pop(me, (&raw mut item).cast(), 8, 1) };
        (popped.expect("no corruption") == 1).then_some(item)
    }

    fn is_alive(&self, index: u32) -> bool {
        // Acquire: pairs with `dies`.
        self.memory.dead[index as usize].load(Ordering::Acquire) == 0
    }

    fn dies(&self, index: u32) {
        self.memory.dead[index as usize].store(1, Ordering::Release);
    }

    fn mended(&self, end: End) -> bool {
        self.mend(end, &|index| self.is_alive(index)).expect("no corruption")
    }

    /// What is inside, in order, past what the dead have left; nobody else is at it any more. The
    /// ring must be as good as new then: room for all, and all of it comes back.
    fn drain(&self) -> Vec<u64> {
        let mut items = Vec::new();
        loop {
            match self.pop_item(MAIN) {
                Some(item) => items.push(item),
                None if self.is_empty() => break,
                None => assert!(self.mended(End::Consumer), "consumers wait for ever"),
            }
        }
        for item in 0..self.memory.capacity() {
            if self.push_all(MAIN, &[100 + item]) == 0 {
                assert!(self.mended(End::Producer), "producers wait for ever");
                assert_eq!(self.push_all(MAIN, &[100 + item]), 1);
            }
        }
        for item in 0..self.memory.capacity() {
            assert_eq!(self.pop_item(MAIN), Some(100 + item));
        }
        assert_eq!((self.pop_item(MAIN), self.tally().pending), (None, 0));
        items
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

fn two_producers(capacity: usize, preemptions: usize) {
    check(preemptions, Fences::Light, move || {
        let ring = ring(capacity);
        let producers = [0, 1].map(|me: u32| {
            let ring = ring.clone();
            thread::spawn(move || {
                let first = u64::from(10 * me) + 1;
                [first, first + 1].map(|item| (ring.push_all(me, &[item]) == 1).then_some(item))
            })
        });
        let mut popped: Vec<u64> = (0..2).filter_map(|_| ring.pop_item(MAIN)).collect();
        let pushed = producers.map(|producer| producer.join().unwrap());
        popped.extend(ring.drain());
        assert!(in_order(&popped), "{popped:?}");
        let pushed = pushed.into_iter().flatten().flatten().collect();
        assert_eq!(sorted(popped), sorted(pushed), "each item once");
    });
}

#[test]
fn two_producers_and_a_consumer() {
    two_producers(2, 2);
}

#[test]
fn two_producers_and_a_consumer_at_one_cell() {
    two_producers(1, 2);
}

fn two_consumers(capacity: usize, preemptions: usize) {
    check(preemptions, Fences::Light, move || {
        let ring = ring(capacity);
        let consumers = [0, 1].map(|me| {
            let ring = ring.clone();
            thread::spawn(move || [ring.pop_item(me), ring.pop_item(me)])
        });
        let pushed: Vec<u64> = (1..=2).filter(|&item| ring.push_all(MAIN, &[item]) == 1).collect();
        let mut popped = Vec::new();
        for consumer in consumers {
            let own: Vec<u64> = consumer.join().unwrap().into_iter().flatten().collect();
            assert!(in_order(&own), "{own:?}");
            popped.extend(own);
        }
        popped.extend(ring.drain());
        assert_eq!(sorted(popped), pushed, "each item once");
    });
}

#[test]
fn a_producer_and_two_consumers() {
    two_consumers(2, 2);
}

#[test]
fn a_producer_and_two_consumers_at_one_cell() {
    two_consumers(1, 2);
}

#[test]
fn batches() {
    check(2, Fences::Light, || {
        let ring = ring(2);
        let producer = thread::spawn({
            let ring = ring.clone();
            move || {
                let first = ring.push_all(0, &[1, 2]);
                [first, ring.push_all(0, &[first as u64 + 1, first as u64 + 2])]
            }
        });
        let other = thread::spawn({
            let ring = ring.clone();
            move || ring.push_all(1, &[11, 12])
        });
        let mut popped = ring.pop_two(MAIN);
        popped.extend(ring.pop_two(MAIN));
        let [first, second] = producer.join().unwrap();
        let mut pushed: Vec<u64> = (1..=(first + second) as u64).collect();
        pushed.extend((0..other.join().unwrap()).map(|i| 11 + i as u64));
        popped.extend(ring.drain());
        assert!(in_order(&popped), "{popped:?}");
        assert_eq!(sorted(popped), pushed, "each item once");
    });
}

/// A producer is killed before each of its accesses; another one pushes, and main pops and mends,
/// all at once. The other one has returned, or lost the race, and lives: the item of the dead one is
/// all that may be missing, and nobody waits for ever.
fn killed_producer(capacity: usize, batch: bool, me: u32) {
    killed_producer_where(capacity, capacity > 1, batch, me);
}

fn killed_producer_where(capacity: usize, straight: bool, batch: bool, me: u32) {
    let body = move |steps, killed: &std::sync::atomic::AtomicBool| {
        let ring = ring_where(capacity, straight);
        let victim = thread::spawn({
            let ring = ring.clone();
            move || {
                let items: &[u64] = if batch { &[1, 2] } else { &[1] };
                let pushed = killed_after(steps, || ring.push_all(me, items));
                if pushed.is_none() {
                    ring.dies(me);
                }
                pushed
            }
        });
        let survivor = thread::spawn({
            let ring = ring.clone();
            move || ring.push_all(1 - me, &[11])
        });
        let mut popped = Vec::from_iter(ring.pop_item(MAIN));
        if popped.is_empty() {
            ring.mended(End::Consumer);
        }
        popped.extend(ring.pop_item(MAIN));
        let pushed = victim.join().unwrap();
        killed.fetch_or(pushed.is_none(), Ordering::Relaxed);
        let others = survivor.join().unwrap();
        popped.extend(ring.drain());
        assert!(in_order(&popped), "{popped:?}");
        let (own, other): (Vec<u64>, Vec<u64>) = popped.iter().partition(|&&item| item < 10);
        assert_eq!(other.len(), others, "the survivor's items are there, once");
        match pushed {
            Some(pushed) => assert_eq!(own.len(), pushed, "{own:?}"),
            None => assert!(own == [] || own == [1] || own == [1, 2] && batch, "{own:?}"),
        }
    };
    check_kills(2, Fences::Light, body);
}

#[test]
fn a_killed_producer() {
    killed_producer(2, false, 0);
}

#[test]
fn a_killed_producer_at_one_cell() {
    killed_producer(1, false, 0);
}

/// One that loses the race on the straight way, finds the ring full, and gives up.
#[test]
fn a_killed_producer_beside_a_straight_one_at_one_cell() {
    killed_producer_where(1, true, false, 0);
}

#[test]
fn a_killed_producer_with_a_batch() {
    killed_producer(2, true, 0);
}

#[test]
fn a_producer_killed_on_the_straight_way() {
    killed_producer(2, false, 1);
}

/// A consumer is killed before each of its accesses, beside another one that lives, and a producer
/// that mends.
fn killed_consumer(capacity: usize, me: u32) {
    let body = move |steps, killed: &std::sync::atomic::AtomicBool| {
        let ring = ring(capacity);
        let first: Vec<u64> = (1..=capacity as u64).collect();
        assert_eq!(ring.push_all(MAIN, &first), capacity);
        let victim = thread::spawn({
            let ring = ring.clone();
            move || {
                let popped = killed_after(steps, || ring.pop_item(me));
                if popped.is_none() {
                    ring.dies(me);
                }
                popped
            }
        });
        let survivor = thread::spawn({
            let ring = ring.clone();
            move || ring.pop_item(1 - me)
        });
        let next = capacity as u64 + 1;
        let mut pushed = ring.push_all(MAIN, &[next]);
        if pushed == 0 && ring.mended(End::Producer) {
            pushed = ring.push_all(MAIN, &[next]);
        }
        let taken = victim.join().unwrap();
        killed.fetch_or(taken.is_none(), Ordering::Relaxed);
        let mut popped = Vec::from_iter(survivor.join().unwrap());
        let rest = ring.drain();
        assert!(in_order(&rest), "{rest:?}");
        popped.extend(rest);
        popped.extend(taken.flatten());
        let there: Vec<u64> = (1..next + pushed as u64).collect();
        assert!(sorted(popped.clone()).windows(2).all(|pair| pair[0] < pair[1]), "{popped:?}");
        let missing = there.iter().filter(|item| !popped.contains(item)).count();
        let lost = ring.tally().lost as usize;
        if taken.is_some() {
            assert_eq!((missing, lost), (0, 0));
        } else {
            assert!(missing <= 1, "{popped:?}");
            assert!(lost <= missing, "{lost} counted, {missing} missing");
        }
    };
    check_kills(2, Fences::Light, body);
}

#[test]
fn a_killed_consumer() {
    killed_consumer(2, 0);
}

#[test]
fn a_consumer_killed_on_the_straight_way() {
    killed_consumer(2, 1);
}

#[test]
fn a_killed_consumer_at_one_cell() {
    killed_consumer(1, 0);
}

/// A producer has died with a hole; of two who mend, one is killed before each of its accesses.
#[test]
fn a_killed_mender() {
    check_kills(2, Fences::Light, |steps, killed| {
        let ring = ring(2);
        assert!(ring.reserve(0).unwrap().is_some());
        ring.dies(0);
        assert_eq!(ring.push_all(MAIN, &[11]), 1);
        let victim = thread::spawn({
            let ring = ring.clone();
            move || {
                let mended = killed_after(steps, || ring.mended(End::Consumer));
                if mended.is_none() {
                    ring.dies(1);
                }
                mended.is_none()
            }
        });
        ring.mended(End::Consumer);
        let popped = ring.pop_item(MAIN);
        assert_eq!(popped, Some(11), "mended once is enough");
        killed.fetch_or(victim.join().unwrap(), Ordering::Relaxed);
        assert_eq!(ring.drain(), []);
        assert_eq!(ring.tally().lost, 0);
    });
}

/// A dead participant's slot is swept while a consumer goes on: swept or refused, and swept in the
/// end, with nothing of the others' gone.
#[test]
fn a_sweep() {
    check_kills(2, Fences::Light, |steps, killed| {
        let ring = ring(2);
        let victim = thread::spawn({
            let ring = ring.clone();
            move || {
                let pushed = killed_after(steps, || ring.push_all(0, &[1]));
                if pushed.is_none() {
                    ring.dies(0);
                }
                pushed
            }
        });
        let other = thread::spawn({
            let ring = ring.clone();
            move || ring.push_all(1, &[11])
        });
        let pushed = victim.join().unwrap();
        let dead = pushed.is_none();
        killed.fetch_or(dead, Ordering::Relaxed);
        if dead {
            // May be refused while the other one's intent stands there.
            ring.sweep(0, &|index| ring.is_alive(index));
        }
        assert_eq!(other.join().unwrap(), 1);
        if dead {
            assert!(ring.sweep(0, &|index| ring.is_alive(index)), "for ever refused");
            assert!(ring.pop_item(MAIN).is_some(), "nothing is in the way any more");
        }
        ring.drain();
    });
}

/// Nothing is taken from the living: a mender that runs between a producer's claim and its publish
/// leaves its place alone.
#[test]
fn the_living_are_not_robbed() {
    check(3, Fences::Light, || {
        let ring = ring(2);
        let producer = thread::spawn({
            let ring = ring.clone();
            move || ring.push_all(0, &[1])
        });
        let mended = ring.mended(End::Consumer);
        assert!(!mended, "it lives");
        let mut popped = Vec::from_iter(ring.pop_item(MAIN));
        assert_eq!(producer.join().unwrap(), 1);
        popped.extend(ring.drain());
        assert_eq!(popped, [1]);
    });
}

/// A producer that goes from one position to the next is not taken for gone from the first: who sees
/// its new intent sees that the old position is published.
#[test]
fn a_busy_producer_is_not_taken_for_nobody() {
    busy_producer(0);
}

#[test]
fn a_busy_producer_on_the_straight_way_is_not_taken_for_nobody() {
    busy_producer(1);
}

fn busy_producer(me: u32) {
    check(4, Fences::Light, move || {
        let ring = ring(2);
        let producer = thread::spawn({
            let ring = ring.clone();
            move || [ring.push_all(me, &[1]), ring.push_all(me, &[2])]
        });
        ring.mended(End::Consumer);
        ring.mended(End::Consumer);
        assert_eq!(producer.join().unwrap(), [1, 1]);
        assert_eq!(ring.drain(), [1, 2]);
    });
}

mod redeliver;
