//! The core that waits for its readers, or evicts them.

use std::time::Duration;

use super::*;
use crate::ring::straight::is_to_be_woken;
use crate::sync::EventCount;

type Ring = Gated<Model>;

fn ring(capacity: usize, evict: bool) -> Arc<Ring> {
    share(Gated::new(Model::new(capacity), evict))
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
    let item = (&raw const item).cast();
    // SAFETY: one item of eight bytes; the model has one producer at a time.
    unsafe { ring.push_one::<true>(grip, item) || ring.push(grip, item, 8, 1) == 1 }
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
        let to = (&raw mut item).cast();
        // SAFETY: room for one item of eight bytes; the grip is its own.
        let told = unsafe {
            if ring.pop_one::<true>(self.me, &self.grip, to) {
                Ok(1)
            } else {
                ring.pop(self.me, &self.grip, to, 8, 1)
            }
        };
        let told = told.map(|count| (count == 1).then_some(item));
        note(&mut self.seen, before, self.grip.position.get(), told)
    }

    /// As `pop`, in place: by loads as those of a careful caller.
    fn look(&mut self, ring: &Ring) -> bool {
        let (before, mut item) = (self.grip.position.get(), 0_u64);
        let told = ring.peek(self.me, &self.grip, 1).and_then(|there| {
            if there.is_none() {
                return Ok(None);
            }
            // SAFETY: room for one item of eight bytes.
            unsafe { ring.memory().read(before, (&raw mut item).cast()) };
            ring.release(self.me, &self.grip, 1).map(|()| Some(item))
        });
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
fn evicted(capacity: usize, count: u64, preemptions: usize, in_place: bool) {
    check(preemptions, Fences::Light, move || {
        let ring = ring(capacity, true);
        let mut reader = Consumer::join(&ring, 0, Start::Oldest);
        let grip = producer(&ring);
        (0..capacity).for_each(|_| assert!(push(&ring, &grip, 0)));
        let other = ring.clone();
        let reader = thread::spawn(move || {
            if in_place {
                reader.look(&other);
            } else {
                reader.pop(&other);
                reader.pop(&other);
            }
            reader
        });
        let pushed = (0..count).filter(|_| push(&ring, &grip, 0)).count() as u64;
        assert_eq!(grip.position.get(), capacity as u64 + pushed);
        reader.join().unwrap().drain(&ring, u64::MAX, true);
    });
}

#[test]
fn an_evicted_reader() {
    evicted(2, 2, 2, false);
}

#[test]
fn an_evicted_reader_of_one_cell() {
    evicted(1, 2, 2, false);
}

#[test]
fn an_evicted_reader_in_place() {
    evicted(1, 2, 2, true);
}

/// The producer sleeps in front of a full ring. Readers wake it only if it can go on; with two that
/// read at the same time one of them does. (A sleep has no limit here: a lost wake-up is a deadlock.)
fn woken_by_the_last(fences: Fences, by_lets_push: bool) {
    check(2, fences, move || {
        let ring = ring(1, false);
        let event = share(EventCount::default());
        if fences == Fences::Heavy {
            event.set_heavy();
        }
        let readers = [0, 1].map(|me| Consumer::join(&ring, me, Start::Oldest));
        let grip = producer(&ring);
        assert!(push(&ring, &grip, 0));
        let readers = readers.map(|mut reader| {
            let (ring, event) = (ring.clone(), event.clone());
            thread::spawn(move || {
                reader.pop(&ring);
                // As `wake_if_room` does; or with one of its two barriers, that of `lets_push`.
                let wakes = || {
                    if by_lets_push {
                        return ring.lets_push() && event.has_sleeper();
                    }
                    is_to_be_woken(&event, &AtomicU32::default(), || ring.lets_push())
                };
                if event.is_armed() && wakes() {
                    event.notify();
                }
                reader
            })
        });
        while !push(&ring, &grip, 0) {
            let ticket = event.arm(Duration::MAX);
            if push(&ring, &grip, 0) {
                break;
            }
            event.sleep(ticket, Duration::MAX);
        }
        for reader in readers {
            reader.join().unwrap().drain(&ring, u64::MAX, false);
        }
    });
}

#[test]
fn the_last_of_two_readers_wakes_the_producer_light() {
    woken_by_the_last(Fences::Light, true);
}

#[test]
fn the_last_of_two_readers_wakes_the_producer_heavy() {
    woken_by_the_last(Fences::Heavy, true);
}

#[test]
fn the_producer_is_woken_as_a_handle_does() {
    woken_by_the_last(Fences::Heavy, false);
}
