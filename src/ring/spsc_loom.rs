//! The ring with one producer and one consumer under the model checker: this very core over a
//! control page of loom's atomics, its copies watched for races, and a side killed before each of
//! its accesses.

use loom::sync::Arc;
use loom::thread;

use super::*;
use crate::object::End;
use crate::ring::seat::Hot;
use crate::ring::straight::{ForTwo, Found};
use crate::sync::Spinner;
use crate::sync::model::{Fences, Watch, check, check_kills, killed_after, share};

struct Memory {
    control: Box<Control>,
    slots: Box<[Cell<u64>]>,
    _watch: std::sync::Arc<Watch>,
}

// SAFETY: the slots are reached by the core's copies only, whose order loom checks.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

fn memory(capacity: u64) -> Arc<Memory> {
    let slots: Box<[Cell<u64>]> = (0..capacity).map(|_| Cell::new(0)).collect();
    let watch = Watch::new(slots.as_ptr().cast(), 8, slots.len());
    // Some turns before the indices wrap around, and the slots do at once.
    let control = Box::new(Control::at(u64::MAX - 1));
    share(Memory { control, slots, _watch: watch })
}

/// One end, as a handle holds it.
struct Ring {
    core: Core,
    hot: Box<Hot>,
    spinner: Spinner,
    _memory: Arc<Memory>,
}

impl ForTwo for Ring {
    fn core(&self) -> &Core {
        &self.core
    }
    fn hot(&self) -> &Hot {
        &self.hot
    }
    fn spinner(&self) -> &Spinner {
        &self.spinner
    }
    fn is_cut(&self) -> bool {
        false
    }
    fn wake(&self, _end: End) -> i32 {
        unreachable!("nobody sleeps")
    }
}

// SAFETY: one thread at a time uses it.
unsafe impl Send for Ring {}

impl Ring {
    fn new(memory: &Arc<Memory>) -> Self {
        let capacity = memory.slots.len() as u64;
        let slots = NonNull::from(&*memory.slots).cast();
        // SAFETY: both live as long as `_memory`; so many slots of eight bytes.
        let core = unsafe { Core::new(NonNull::from(&*memory.control), slots, capacity, 8) };
        // SAFETY: all-zero is the state of a fresh Hot.
        let hot = Box::new(unsafe { std::mem::zeroed() });
        Self { core, hot, spinner: Spinner::new(), _memory: memory.clone() }
    }

    /// Takes the producing end.
    fn producer(memory: &Arc<Memory>) -> Self {
        let ring = Self::new(memory);
        ring.core.take_push(&ring.hot.push).unwrap();
        ring
    }

    fn consumer(memory: &Arc<Memory>) -> Self {
        let ring = Self::new(memory);
        ring.core.take_pop(&ring.hot.pop).unwrap();
        ring
    }

    /// Pushes as many of the items as there is room for, with one commit.
    fn push(&self, items: &[u64]) -> usize {
        let side = &self.hot.push;
        // Most of them: what one is pushed by affects what is read from beside the index.
        if let [item] = items
            && item % 3 != 2
            && self.has_room_for(1)
        {
            // SAFETY: there is room for one; eight bytes.
            assert_eq!(unsafe { self.push_word((&raw const *item).cast()) }, 0);
            return 1;
        }
        // The slow path.
        if side.ready() < items.len() as u64 {
            self.core.look_push(side).unwrap();
        }
        let count = side.ready().min(items.len() as u64);
        match count {
            0 => {}
            // SAFETY: as above.
            1 => unsafe { self.core.push_one(side, items.as_ptr().cast()) },
            // SAFETY: there is room for so many; so many items of eight bytes.
            _ => unsafe { self.core.push_run(side, items.as_ptr().cast(), count) },
        }
        count as usize
    }

    /// Pops at most `most` items, up to two.
    fn pop(&self, most: u64) -> Vec<u64> {
        let (side, mut items) = (&self.hot.pop, [0_u64; 2]);
        if most == 1 {
            let item = items.as_mut_ptr().cast();
            if self.has_items(1) {
                // SAFETY: there is one; eight bytes.
                assert_eq!(unsafe { self.pop_word(item) }, 0);
                return vec![items[0]];
            }
            // SAFETY: room for one.
            match unsafe { self.pop_at_heels(item) } {
                Some(Found::One(done)) => {
                    assert_eq!(done, 0);
                    return vec![items[0]];
                }
                Some(Found::Nothing) => return Vec::new(),
                None => {}
            }
        }
        // The slow path.
        if side.ready() < most {
            self.core.look_pop(side, true).unwrap();
        }
        let count = side.ready().min(most);
        match count {
            0 => {}
            // SAFETY: there is one; eight bytes.
            1 => unsafe { self.core.pop_first(side, items.as_mut_ptr().cast()) },
            // SAFETY: there are so many; room for two items.
            _ => unsafe { self.core.pop_run(side, items.as_mut_ptr().cast(), count) },
        }
        items[..count as usize].to_vec()
    }
}

/// Items 1, 2, ... in runs of `run`, each tried once.
fn push_runs(ring: &Ring, run: usize, times: usize) -> u64 {
    let mut pushed = 0;
    for _ in 0..times {
        let items: Vec<u64> = (pushed + 1..).take(run).collect();
        pushed += ring.push(&items) as u64;
    }
    pushed
}

fn stream(capacity: u64, run: usize) {
    check(4, Fences::Light, move || {
        let memory = memory(capacity);
        let producer = thread::spawn({
            let ring = Ring::producer(&memory);
            move || push_runs(&ring, run, 3)
        });
        let ring = Ring::consumer(&memory);
        let mut popped = Vec::new();
        for _ in 0..3 {
            popped.extend(ring.pop(run as u64));
        }
        let pushed = producer.join().unwrap();
        for _ in 0..2 {
            popped.extend(ring.pop(2));
        }
        assert_eq!(popped, Vec::from_iter(1..=pushed));
    });
}

#[test]
fn one_by_one() {
    stream(2, 1);
}

#[test]
fn one_by_one_in_one_slot() {
    stream(1, 1);
}

/// With room for the item that is copied to the same place beside the index as the first one.
#[test]
fn one_by_one_with_room() {
    stream(4, 1);
}

/// One look finds two items: the second is popped without another.
#[test]
fn two_by_one_look() {
    check(4, Fences::Light, || {
        let memory = memory(2);
        let ring = Ring::producer(&memory);
        assert_eq!(push_runs(&ring, 1, 2), 2);
        let producer = thread::spawn(move || {
            let mut next = 3;
            for _ in 0..3 {
                next += ring.push(&[next]) as u64;
            }
            next
        });
        let ring = Ring::consumer(&memory);
        let mut popped = Vec::new();
        for _ in 0..3 {
            popped.extend(ring.pop(1));
        }
        let next = producer.join().unwrap();
        for _ in 0..2 {
            popped.extend(ring.pop(1));
        }
        assert_eq!(popped, (1..next).collect::<Vec<_>>());
    });
}

#[test]
fn in_runs() {
    stream(2, 2);
}

/// The producer is killed before each of its accesses, and its successor goes on: what was committed
/// comes, once, and the successor's after it.
#[test]
fn a_killed_producer() {
    check_kills(3, Fences::Light, |steps, killed| {
        let memory = memory(2);
        let producer = thread::spawn({
            let ring = Ring::producer(&memory);
            move || killed_after(steps, || push_runs(&ring, 2, 2))
        });
        let ring = Ring::consumer(&memory);
        let mut popped = ring.pop(1);
        popped.extend(ring.pop(2));
        // Joined: the kernel frees a lock when its process has come to an end.
        let pushed = producer.join().unwrap();
        killed.fetch_or(pushed.is_none(), Ordering::Relaxed);
        popped.extend(ring.pop(2));
        let before = popped.len() as u64;
        assert!(pushed.is_none_or(|pushed| pushed == before));
        let successor = Ring::producer(&memory);
        assert_eq!(successor.push(&[11, 12]), 2);
        popped.extend(ring.pop(2));
        assert_eq!(popped, Vec::from_iter((1..=before).chain([11, 12])));
    });
}

/// The producer is killed before each of its accesses; its successor's item in the same place, pushed
/// in one of two ways, is not taken for what the dead one has left beside the index.
fn killed_one_by_one(by_itself: bool) {
    check_kills(3, Fences::Light, move |steps, killed| {
        let memory = memory(2);
        let producer = thread::spawn({
            let ring = Ring::producer(&memory);
            move || killed_after(steps, || push_runs(&ring, 1, 2))
        });
        let ring = Ring::consumer(&memory);
        let mut popped = ring.pop(1);
        let pushed = producer.join().unwrap();
        killed.fetch_or(pushed.is_none(), Ordering::Relaxed);
        popped.extend(ring.pop(2));
        let before = popped.len() as u64;
        let successor = thread::spawn({
            let ring = Ring::producer(&memory);
            move || {
                let side = &ring.hot.push;
                ring.core.look_push(side).unwrap();
                for item in [11_u64, 13] {
                    let item = (&raw const item).cast();
                    // SAFETY: there is room for two; eight bytes.
                    unsafe {
                        if by_itself {
                            ring.core.push_word(side, item);
                        } else {
                            ring.core.push_run(side, item, 1);
                        }
                    }
                }
            }
        });
        popped.extend(ring.pop(1));
        popped.extend(ring.pop(1));
        successor.join().unwrap();
        popped.extend(ring.pop(2));
        assert_eq!(popped, Vec::from_iter((1..=before).chain([11, 13])));
    });
}

#[test]
fn a_killed_producer_one_by_one() {
    killed_one_by_one(true);
}

#[test]
fn a_killed_producer_one_by_one_and_a_run() {
    killed_one_by_one(false);
}

/// The consumer is killed before each of its accesses: its successor gets what it had not freed, in
/// order, and the producer goes on.
#[test]
fn a_killed_consumer() {
    check_kills(3, Fences::Light, |steps, killed| {
        let memory = memory(2);
        let ring = Ring::producer(&memory);
        assert_eq!(ring.push(&[1, 2]), 2);
        let consumer = thread::spawn({
            let ring = Ring::consumer(&memory);
            let taken = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
            move || {
                let body = || taken.lock().unwrap().extend(ring.pop(1));
                let lived = killed_after(steps, || (body(), body())).is_some();
                let taken = taken.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
                (lived, taken)
            }
        });
        let mut pushed: u64 = 2;
        for _ in 0..2 {
            pushed += ring.push(&[pushed + 1]) as u64;
        }
        let (lived, mut popped) = consumer.join().unwrap();
        killed.fetch_or(!lived, Ordering::Relaxed);
        let successor = Ring::consumer(&memory);
        let rest = [successor.pop(2), successor.pop(2)].concat();
        // One at most went down with its taker: freed, and not returned.
        let lost = rest.first().map_or(pushed + 1, |first| *first) - 1 - popped.len() as u64;
        assert!(lost <= u64::from(!lived), "{lost} lost");
        popped.extend((0..lost).map(|i| popped.len() as u64 + 1 + i).collect::<Vec<_>>());
        popped.extend(rest);
        assert_eq!(popped, Vec::from_iter(1..=pushed));
    });
}
