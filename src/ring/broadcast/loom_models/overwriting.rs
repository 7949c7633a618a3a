//! The core that overwrites: lapped readers, killed producers.

use super::*;

type Ring = Overwrite<Model>;

fn ring(capacity: usize) -> Arc<Ring> {
    share(Overwrite::new(Model::new(capacity)))
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
