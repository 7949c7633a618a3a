//! Broadcast rings: one producer, many consumers that each see every item.

mod support;

use madang::ffi::ring::*;
use madang::ring::{Kind, Options, Ring, Start, policy};
use support::broadcast::*;
use support::face::{FOREVER, NOWAIT, refused_with};
use support::ring_face::{C, CREATE, Face, Named};

on_both_faces! { Ring, C in turn:
    every_consumer_sees_every_item
    batches
    one_producer_at_a_time
    the_slowest_consumer_holds_the_producer
    a_full_ring_fails
    nobody_there
    what_stays_when_the_last_consumer_closes
    late_joiners
    the_newest_item_only
    in_place
    shutdown_drains
    options_that_make_no_sense
}

fn every_consumer_sees_every_item<F: Face>() {
    for (policy, capacity) in POLICIES.into_iter().flat_map(|p| [1, 2, 3, 8, 1000].map(|c| (p, c)))
    {
        let ring: F = open(&broadcast(capacity, 8, policy));
        let capacity = capacity.next_power_of_two();
        let consumers = [(); 3].map(|()| consumer(&ring));
        for round in 0..5 {
            for i in 0..capacity {
                push(&ring, round * 10_000 + i);
            }
            for consumer in &consumers {
                for i in 0..capacity {
                    assert_eq!(pop(consumer), round * 10_000 + i);
                }
                is_empty(consumer);
                assert_eq!(consumer.lost(), 0);
            }
        }
        let written = 5 * capacity;
        if policy == policy::OVERWRITE {
            assert_eq!(sums(&ring), [written, 0, written - capacity, capacity]);
        } else {
            assert_eq!(sums(&ring), [written, written, 0, 0]);
        }
        let stats = consumers[0].stat();
        assert_eq!((stats.kind, stats.policy), (MDG_RING_BROADCAST, policy));
        assert_eq!(stats.consumer_state, MDG_RING_END_LIVE);
    }
}

fn batches<F: Face>() {
    for (policy, size) in POLICIES.into_iter().flat_map(|p| [1, 7, 8, 64, 1500].map(|s| (p, s))) {
        let ring: F = open(&broadcast(8, size as u32, policy));
        let consumers = [(); 2].map(|()| consumer(&ring));
        let items: Vec<u8> = (0..size * 11).map(|i| (i % 251) as u8).collect();
        for _ in 0..9 {
            assert_eq!(ring.push_many(&items[..size * 3], size, NOWAIT).unwrap(), 3);
            assert_eq!(ring.push_many(&items[size * 3..size * 8], size, NOWAIT).unwrap(), 5);
            for consumer in &consumers {
                let mut back = vec![0; size * 11];
                assert_eq!(consumer.pop_many(&mut back[..size * 2], size, NOWAIT).unwrap(), 2);
                assert_eq!(consumer.pop_many(&mut back[size * 2..], size, NOWAIT).unwrap(), 6);
                assert_eq!(back[..size * 8], items[..size * 8], "items of {size} bytes");
                let none = consumer.pop_many(&mut back, size, NOWAIT);
                refused_with(none, libc::EAGAIN, "");
            }
            // An odd step, so that later rounds go round the end of the ring.
            assert_eq!(ring.push_many(&items[..size], size, NOWAIT).unwrap(), 1);
            for consumer in &consumers {
                consumer.pop(&mut vec![0; size], NOWAIT).unwrap();
            }
        }
        assert_eq!(ring.push_many(&[], size, NOWAIT).unwrap(), 0);
        // More than fit.
        let pushed = ring.push_many(&items, size, NOWAIT).unwrap();
        let mut back = vec![0; size * 11];
        if policy == policy::OVERWRITE {
            assert_eq!(pushed, 11, "all of them, one over the other");
            let lapped = consumers[0].pop_many(&mut back, size, NOWAIT);
            refused_with(lapped, libc::EOVERFLOW, ": 3 items");
            assert_eq!(consumers[0].pop_many(&mut back, size, NOWAIT).unwrap(), 8);
            assert_eq!(back[..size * 8], items[size * 3..]);
        } else {
            assert_eq!(pushed, 8);
            assert_eq!(consumers[0].pop_many(&mut back, size, NOWAIT).unwrap(), 8);
            assert_eq!(back[..size * 8], items[..size * 8]);
        }
    }
}

fn one_producer_at_a_time<F: Face>() {
    for policy in POLICIES {
        let ring: F = open(&broadcast(4, 8, policy));
        refused_with(ring.dup(libc::O_WRONLY), libc::EBUSY, "producing end is held by pid");
        let consumer = consumer(&ring);
        refused_with(consumer.push(&[0; 8], NOWAIT), libc::EACCES, "producing end");
        refused_with(try_pop(&ring, NOWAIT), libc::EACCES, "consuming end");
        push(&ring, 1);
        drop(ring);
        let next = consumer.dup(libc::O_WRONLY).unwrap();
        push(&next, 2);
        assert_eq!(
            [pop(&consumer), pop(&consumer)],
            [1, 2],
            "it goes on where the last one stopped"
        );
        // One handle for both: it joins with its first pop.
        drop(next);
        let both = consumer.dup(libc::O_RDWR).unwrap();
        push(&both, 3);
        is_empty(&both);
        push(&both, 4);
        assert_eq!(pop(&both), 4);
        assert_eq!([pop(&consumer), pop(&consumer)], [3, 4]);
    }
}

fn the_slowest_consumer_holds_the_producer<F: Face>() {
    for capacity in [1, 2, 8] {
        let ring: F = open(&broadcast(capacity, 8, 0));
        let (fast, slow) = (consumer(&ring), consumer(&ring));
        for value in 0..capacity {
            push(&ring, value);
            assert_eq!(pop(&fast), value);
        }
        is_full(&ring);
        refused_with(ring.push(&[0; 8], 1_000_000), libc::ETIMEDOUT, "");
        assert_eq!(sums(&ring), [capacity, 0, 0, capacity]);
        assert_eq!(pop(&slow), 0);
        push(&ring, 100);
        is_full(&ring);
        assert_eq!(sums(&ring), [capacity + 1, 1, 0, capacity]);
        // One that closes holds nobody any more.
        drop(slow);
        assert_eq!(pop(&fast), 100);
        for value in 0..capacity {
            push(&ring, value);
        }
        is_full(&ring);
        assert_eq!(ring.stat().push_waits, 1);
    }
}

fn a_full_ring_fails<F: Face>() {
    let ring: F = open(&broadcast(2, 8, policy::FAIL));
    let consumer = consumer(&ring);
    push(&ring, 1);
    push(&ring, 2);
    refused_with(ring.push(&[0; 8], FOREVER), libc::EAGAIN, "");
    refused_with(ring.push_many(&[0; 8], 8, FOREVER), libc::EAGAIN, "");
    refused_with(ring.reserve(1, FOREVER), libc::EAGAIN, "");
    assert_eq!([pop(&consumer), pop(&consumer)], [1, 2]);
    push(&ring, 3);
}

/// Without a consumer the producer goes on, and what nobody can have any more is counted.
fn nobody_there<F: Face>() {
    for policy in [0, policy::EVICT] {
        let ring: F = open(&broadcast(8, 8, policy));
        for value in 0..5 {
            push(&ring, value);
        }
        assert_eq!(sums(&ring), [5, 0, 0, 5]);
        for value in 5..100 {
            push(&ring, value);
        }
        let [written, read, dropped, length] = sums(&ring);
        assert_eq!((written, read, dropped + length), (100, 0, 100));
        assert!(
            (6..=8).contains(&length),
            "three quarters of the ring are there at least: {length}"
        );
        let consumer = consumer(&ring);
        is_empty(&consumer);
        push(&ring, 100);
        assert_eq!(pop(&consumer), 100);
        assert_eq!(sums(&ring), [101, 101 - dropped, dropped, 0]);
    }
}

/// What all have read stays there for one that begins with the oldest, and counts as inside while
/// nobody is there.
fn what_stays_when_the_last_consumer_closes<F: Face>() {
    for policy in [0, policy::EVICT, policy::FAIL] {
        let name = Named::new("stays");
        let ring = F::open(Some(&name.0), &broadcast(8, 8, policy), CREATE, 0o600).unwrap();
        let join = |start| {
            let options = Options { start, ..Options::default() };
            F::open(Some(&name.0), &options, libc::O_RDONLY, 0).unwrap()
        };
        let consumer = join(Start::Now);
        (0..5).for_each(|value| push(&ring, value));
        assert_eq!(sums(&ring), [5, 0, 0, 5]);
        (0..5).for_each(|value| assert_eq!(pop(&consumer), value));
        assert_eq!(sums(&ring), [5, 5, 0, 0]);
        drop(consumer);
        assert_eq!(sums(&ring), [5, 0, 0, 5]);
        assert_eq!(ring.stat().consumer_state, MDG_RING_END_CLOSED);
        // One that begins now has nothing to read, one that begins with the oldest has all.
        let now = join(Start::Now);
        assert_eq!(sums(&ring), [5, 5, 0, 0]);
        let oldest = join(Start::Oldest);
        assert_eq!(sums(&ring), [5, 0, 0, 5]);
        (0..5).for_each(|value| assert_eq!(pop(&oldest), value));
        assert_eq!(sums(&ring), [5, 5, 0, 0]);
        drop((now, oldest));
        // It goes when the room is needed.
        (5..8).for_each(|value| push(&ring, value));
        assert_eq!(sums(&ring), [8, 0, 0, 8]);
        push(&ring, 8);
        let [written, read, dropped, length] = sums(&ring);
        assert_eq!((written, read), (9, 0));
        assert!(dropped > 0 && length < 9, "{dropped} {length}");
    }
}

/// A consumer that wants the present state begins with the newest item, and passes over old ones.
fn the_newest_item_only<F: Face>() {
    for policy in POLICIES {
        let name = Named::new("newest");
        let ring = F::open(Some(&name.0), &broadcast(8, 8, policy), CREATE, 0o600).unwrap();
        let join = || {
            let options = Options { start: Start::Latest, ..Options::default() };
            F::open(Some(&name.0), &options, libc::O_RDONLY, 0).unwrap()
        };
        let early = join();
        is_empty(&early);
        for value in 0..5 {
            push(&ring, value);
        }
        let late = join();
        assert_eq!(pop(&late), 4);
        is_empty(&late);
        assert_eq!(early.skip(1).unwrap(), 4);
        assert_eq!((early.skip(1).unwrap(), pop(&early)), (0, 4));
        assert_eq!((early.skip(0).unwrap(), early.lost()), (0, 0));
        // In the next lap, behind the end of the ring's memory.
        for value in 5..11 {
            push(&ring, value);
        }
        assert_eq!((late.skip(1).unwrap(), pop(&late)), (5, 10));
        assert_eq!((early.skip(0).unwrap(), pop(&join())), (6, 10));
        is_empty(&early);
        let [written, _, dropped, _] = sums(&ring);
        assert_eq!(written, 11);
        assert!(policy == policy::OVERWRITE || dropped == 0, "nobody has lost anything");
    }
    // Far behind: what was overwritten meanwhile is passed over, too, and not lost.
    let ring: F = open(&broadcast(4, 8, policy::OVERWRITE));
    let consumer = consumer(&ring);
    (0..100).for_each(|value| push(&ring, value));
    assert_eq!((consumer.skip(1).unwrap(), pop(&consumer), consumer.lost()), (99, 99, 0));
    // An evicted consumer is told first.
    let ring: F = open(&broadcast(4, 8, policy::EVICT));
    let consumer = self::consumer(&ring);
    (0..9).for_each(|value| push(&ring, value));
    refused_with(consumer.skip(1), libc::EOVERFLOW, "items went by");
    consumer.skip(1).unwrap();
    assert_eq!(pop(&consumer), 8);
}

fn late_joiners<F: Face>() {
    for policy in POLICIES {
        let name = Named::new("late");
        let ring = F::open(Some(&name.0), &broadcast(8, 8, policy), CREATE, 0o600).unwrap();
        let join = |start| {
            let options = Options { start, ..Options::default() };
            F::open(Some(&name.0), &options, libc::O_RDONLY, 0).unwrap()
        };
        for value in 0..5 {
            push(&ring, value);
        }
        let (now, oldest) = (join(Start::Now), join(Start::Oldest));
        push(&ring, 5);
        assert_eq!(pop(&now), 5);
        assert_eq!((0..6).map(|_| pop(&oldest)).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5]);
        is_empty(&now);
        is_empty(&oldest);
        // Far along, and read by others: what is there still is an unbroken end of the stream.
        for value in 6..50 {
            push(&ring, value);
            assert_eq!((pop(&now), pop(&oldest)), (value, value));
        }
        let late = join(Start::Oldest);
        let first = pop(&late);
        assert!((42..=44).contains(&first), "three quarters of the ring at least: {first}");
        for value in first + 1..50 {
            assert_eq!(pop(&late), value);
        }
        is_empty(&late);
        assert_eq!(late.lost(), 0);
        // What a late one has joined on is kept for it.
        if policy == 0 {
            let late = join(Start::Oldest);
            while ring.push(&[0; 8], NOWAIT).is_ok() {
                assert_eq!((pop(&now), pop(&oldest)), (0, 0));
            }
            let first = pop(&late);
            assert!((42..=44).contains(&first), "{first}");
        }
    }
}

fn in_place<F: Face>() {
    let ring: F = open(&broadcast(8, 8, 0));
    let consumers = [(); 2].map(|()| consumer(&ring));
    let mut next = 0_u64;
    for round in 0..20 {
        let want = 1 + round % 5;
        let (room, count) = ring.reserve(want, NOWAIT).unwrap();
        assert!((1..=want).contains(&count));
        for i in 0..count {
            // SAFETY: room for `count` items of eight bytes.
            unsafe { room.cast::<u64>().add(i).write_unaligned(next + i as u64) };
        }
        refused_with(ring.push(&[0; 8], NOWAIT), libc::EINVAL, "handed out");
        refused_with(ring.commit(count + 1), libc::EINVAL, "run of");
        is_empty(&consumers[0]);
        ring.commit(count).unwrap();
        for consumer in &consumers {
            let mut at = next;
            while at < next + count as u64 {
                let (items, run) = consumer.peek(9, NOWAIT).unwrap();
                consumer.release(0).unwrap();
                let (again, same) = consumer.peek(9, NOWAIT).unwrap();
                assert_eq!((items, run), (again, same), "nothing was released");
                refused_with(try_pop(consumer, NOWAIT), libc::EINVAL, "handed out");
                for i in 0..run {
                    // SAFETY: `run` items of eight bytes.
                    let value = unsafe { items.cast::<u64>().add(i).read_unaligned() };
                    assert_eq!(value, at + i as u64);
                }
                consumer.release(run).unwrap();
                at += run as u64;
            }
        }
        next += count as u64;
    }
    // Given back: nothing was sent.
    ring.reserve(2, NOWAIT).unwrap();
    ring.commit(0).unwrap();
    push(&ring, 7);
    assert_eq!([pop(&consumers[0]), pop(&consumers[1])], [7, 7]);
}

fn shutdown_drains<F: Face>() {
    for policy in POLICIES {
        let ring: F = open(&broadcast(4, 8, policy));
        let [first, second] = [(); 2].map(|()| consumer(&ring));
        push(&ring, 1);
        push(&ring, 2);
        ring.reserve(1, NOWAIT).unwrap();
        second.shutdown().unwrap();
        refused_with(ring.commit(1), libc::EPIPE, "shut down");
        refused_with(ring.push(&[0; 8], FOREVER), libc::EPIPE, "shut down");
        for consumer in [&first, &second] {
            assert_eq!([pop(consumer), pop(consumer)], [1, 2]);
            refused_with(try_pop(consumer, FOREVER), libc::EPIPE, "shut down");
        }
        // Who comes later still may see what is there.
        let late = ring.dup(libc::O_RDONLY).unwrap();
        refused_with(try_pop(&late, FOREVER), libc::EPIPE, "shut down");
    }
}

fn options_that_make_no_sense<F: Face>() {
    let refused = |options: &Options, words| {
        refused_with(F::open(None, options, libc::O_RDWR, 0), libc::EINVAL, words);
    };
    let both = policy::OVERWRITE | policy::FAIL;
    refused(&broadcast(4, 8, both), "never full");
    refused(&broadcast(4, 8, policy::EVICT | policy::FAIL), "one of them");
    refused(&broadcast(4, 8, policy::EVICT | policy::OVERWRITE), "one of them");
    refused(&broadcast(4, 8, 1 << 31), "0x80000000");
    for kind in [None, Some(Kind::Spsc), Some(Kind::Mpmc)] {
        refused(
            &Options { start: Start::Oldest, kind, ..Options::new(4, 8) },
            "only a consumer of a broadcast",
        );
        let evict = Options { kind, policy: policy::EVICT, ..Options::new(4, 8) };
        refused(&evict, "EVICT");
    }
    let name = Named::new("other");
    let open = |options: &Options| F::open(Some(&name.0), options, CREATE, 0o600);
    let spsc = open(&Options::new(4, 8)).unwrap();
    let oldest = Options { start: Start::Oldest, ..Options::default() };
    refused_with(open(&oldest), libc::EINVAL, "only a consumer of a broadcast");
    refused_with(
        open(&broadcast(4, 8, 0)),
        libc::EPROTO,
        "kind is BROADCAST here but SPSC in the object",
    );
    F::unlink(&name.0).unwrap();
    drop(spsc);
    let ring = open(&broadcast(4, 8, policy::EVICT)).unwrap();
    let other = open(&broadcast(4, 8, policy::OVERWRITE));
    refused_with(other, libc::EPROTO, "policy is OVERWRITE here but EVICT in the object");
    open(&oldest).unwrap();
    // Without a kind the policy is that of the ring that is there.
    let only = |policy| Options { policy, ..Options::default() };
    open(&only(policy::EVICT)).unwrap();
    refused_with(
        open(&only(policy::OVERWRITE)),
        libc::EPROTO,
        "policy is OVERWRITE here but EVICT",
    );
    drop(ring);
}
