//! Broadcast rings: one producer, many consumers that each see every item; what the slow lose, and
//! what the dead leave.

mod support;

use madang::ffi::ring::*;
use madang::ring::{Kind, Options, Ring, policy};
use nix::sys::signal::{self, Signal};
use support::face::{FOREVER, NOWAIT, Outcome, refused_with};
use support::process::{Child, Gate, as_nobody, fork, is_root, join, kill, serial};
use support::ring_face::{C, CREATE, Entry, Face, Named, SECOND, pattern};

on_both_faces! { Ring, C in turn:
    every_consumer_sees_every_item
    batches
    one_producer_at_a_time
    the_slowest_consumer_holds_the_producer
    a_full_ring_fails
    nobody_there
    a_lapped_consumer_is_told_how_much_it_lost
    an_evicted_consumer_is_told_how_much_it_lost
    late_joiners
    in_place
    in_place_and_overwritten
    in_place_and_evicted
    shutdown_drains
    options_that_make_no_sense
    a_dead_consumer_is_dropped
    a_stopped_consumer_holds_the_producer
    a_stopped_consumer_is_evicted
    a_dead_producer_is_told_and_succeeded
    a_producer_killed_with_room_reserved
    a_forked_child_is_another_consumer
    who_may_only_read
}

const POLICIES: [u32; 3] = [0, policy::EVICT, policy::OVERWRITE];

fn broadcast(capacity: u64, item_size: u32, policy: u32) -> Options {
    Options { kind: Some(Kind::Broadcast), policy, ..Options::new(capacity, item_size) }
}

fn open<F: Face>(options: &Options) -> F {
    F::open(None, options, libc::O_WRONLY, 0).unwrap()
}

fn consumer<F: Face>(ring: &F) -> F {
    ring.dup(libc::O_RDONLY).unwrap()
}

fn push(ring: &impl Face, value: u64) {
    ring.push(&value.to_ne_bytes(), NOWAIT).unwrap();
}

#[track_caller]
fn try_pop(ring: &impl Face, timeout: i64) -> Outcome<u64> {
    let mut item = [0; 8];
    ring.pop(&mut item, timeout).map(|()| u64::from_ne_bytes(item))
}

#[track_caller]
fn pop(ring: &impl Face) -> u64 {
    try_pop(ring, NOWAIT).unwrap()
}

#[track_caller]
fn is_empty(ring: &impl Face) {
    refused_with(try_pop(ring, NOWAIT), libc::EAGAIN, "");
}

#[track_caller]
fn is_full(ring: &impl Face) {
    refused_with(ring.push(&[0; 8], NOWAIT), libc::EAGAIN, "");
}

/// The next pop must say that exactly `count` more items were lost.
#[track_caller]
fn loses(ring: &impl Face, count: u64) {
    let before = ring.lost();
    let text = format!(": {count} items went by");
    refused_with(try_pop(ring, FOREVER), libc::EOVERFLOW, &text);
    assert_eq!(ring.lost(), before + count);
}

/// Written, read, dropped, inside.
#[track_caller]
fn sums(ring: &impl Face) -> [u64; 4] {
    let stats = ring.stat();
    assert_eq!(stats.written, stats.read + stats.dropped + stats.lost + stats.length);
    [stats.written, stats.read, stats.dropped, stats.length]
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

fn a_lapped_consumer_is_told_how_much_it_lost<F: Face>() {
    for capacity in [1, 2, 8, 1024] {
        let ring: F = open(&broadcast(capacity, 8, policy::OVERWRITE));
        let consumer = consumer(&ring);
        assert_eq!(consumer.lost(), 0);
        for round in 1..4 {
            for value in 0..3 * capacity {
                ring.push(&(round * 10_000 + value).to_ne_bytes(), FOREVER).unwrap();
            }
            loses(&consumer, 2 * capacity);
            for value in 2 * capacity..3 * capacity {
                assert_eq!(pop(&consumer), round * 10_000 + value, "all that is there, in order");
            }
            is_empty(&consumer);
            assert_eq!(consumer.lost(), round * 2 * capacity);
        }
        let written = 9 * capacity;
        assert_eq!(sums(&ring), [written, 0, written - capacity, capacity]);
        assert_eq!(ring.lost(), 0);
    }
}

fn an_evicted_consumer_is_told_how_much_it_lost<F: Face>() {
    for capacity in [1, 2, 8, 1024] {
        let ring: F = open(&broadcast(capacity, 8, policy::EVICT));
        let (fast, slow) = (consumer(&ring), consumer(&ring));
        let mut next = 0;
        let mut received = 0;
        for _ in 0..5 {
            for _ in 0..3 * capacity {
                ring.push(&u64::to_ne_bytes(next), FOREVER).unwrap();
                assert_eq!(pop(&fast), next);
                next += 1;
            }
            let before = slow.lost();
            refused_with(try_pop(&slow, FOREVER), libc::EOVERFLOW, "items went by");
            assert!(slow.lost() > before);
            let first = pop(&slow);
            assert_eq!(first, received + slow.lost(), "it goes on behind what it lost");
            received += 1;
            for value in first + 1..next {
                assert_eq!(pop(&slow), value);
                received += 1;
            }
            is_empty(&slow);
            assert_eq!(received + slow.lost(), next);
        }
        assert_eq!(fast.lost(), 0);
        let [written, read, dropped, length] = sums(&ring);
        assert_eq!((written, length), (next, 0));
        assert_eq!(read + dropped, next);
        assert!(dropped > 0);
    }
}

fn late_joiners<F: Face>() {
    for policy in POLICIES {
        let name = Named::new("late");
        let ring = F::open(Some(&name.0), &broadcast(8, 8, policy), CREATE, 0o600).unwrap();
        let join = |oldest| {
            let options = Options { oldest, ..Options::default() };
            F::open(Some(&name.0), &options, libc::O_RDONLY, 0).unwrap()
        };
        for value in 0..5 {
            push(&ring, value);
        }
        let (now, oldest) = (join(false), join(true));
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
        let late = join(true);
        let first = pop(&late);
        assert!((42..=44).contains(&first), "three quarters of the ring at least: {first}");
        for value in first + 1..50 {
            assert_eq!(pop(&late), value);
        }
        is_empty(&late);
        assert_eq!(late.lost(), 0);
        // What a late one has joined on is kept for it.
        if policy == 0 {
            let late = join(true);
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

fn in_place_and_overwritten<F: Face>() {
    let ring: F = open(&broadcast(4, 12, policy::OVERWRITE));
    let consumer = consumer(&ring);
    let item = |value: u8| [value; 12];
    for value in 0..4 {
        let (room, count) = ring.reserve(9, NOWAIT).unwrap();
        assert_eq!(count, 1, "items of this kind do not stand in a row");
        // SAFETY: room for one item of twelve bytes.
        unsafe { room.cast::<[u8; 12]>().write_unaligned(item(value)) };
        ring.commit(1).unwrap();
    }
    let peek = || {
        let (items, count) = consumer.peek(9, NOWAIT).unwrap();
        assert_eq!(count, 1);
        // SAFETY: one item of twelve bytes.
        unsafe { items.cast::<[u8; 12]>().read_unaligned() }
    };
    assert_eq!(peek(), item(0));
    consumer.release(0).unwrap();
    assert_eq!(peek(), item(0));
    consumer.release(1).unwrap();
    assert_eq!(peek(), item(1));
    // Position 5 takes the cell of position 1.
    ring.push(&item(4), NOWAIT).unwrap();
    assert_eq!(ring.stat().length, 4);
    ring.reserve(1, NOWAIT).unwrap();
    refused_with(consumer.release(1), libc::EOVERFLOW, ": 1 items");
    assert_eq!((consumer.lost(), ring.stat().length), (1, 3));
    assert_eq!(peek(), item(2));
    consumer.release(1).unwrap();
    // Given back: what was there is gone, and the place is used by the next item.
    ring.commit(0).unwrap();
    assert_eq!(sums(&ring), [5, 0, 2, 3]);
    ring.push(&item(5), NOWAIT).unwrap();
    assert_eq!(sums(&ring), [6, 0, 2, 4]);
    for value in 3..6 {
        let mut back = [0; 12];
        consumer.pop(&mut back, NOWAIT).unwrap();
        assert_eq!(back, item(value));
    }
    assert_eq!(consumer.lost(), 1);
}

fn in_place_and_evicted<F: Face>() {
    let ring: F = open(&broadcast(4, 8, policy::EVICT));
    let consumer = consumer(&ring);
    for value in 0..4 {
        push(&ring, value);
    }
    consumer.peek(2, NOWAIT).unwrap();
    push(&ring, 4);
    refused_with(consumer.release(2), libc::EOVERFLOW, ": 1 items");
    assert_eq!((1..5).map(|_| pop(&consumer)).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(consumer.lost(), 1);
    assert_eq!(sums(&ring), [5, 4, 1, 0]);
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
            &Options { oldest: true, kind, ..Options::new(4, 8) },
            "only a consumer of a broadcast",
        );
        let evict = Options { kind, policy: policy::EVICT, ..Options::new(4, 8) };
        refused(&evict, "0x4");
    }
    let name = Named::new("other");
    let open = |options: &Options| F::open(Some(&name.0), options, CREATE, 0o600);
    let spsc = open(&Options::new(4, 8)).unwrap();
    let oldest = Options { oldest: true, ..Options::default() };
    refused_with(open(&oldest), libc::EINVAL, "only a consumer of a broadcast");
    refused_with(open(&broadcast(4, 8, 0)), libc::EPROTO, "kind is 3 here but 1 in the object");
    F::unlink(&name.0).unwrap();
    drop(spsc);
    let ring = open(&broadcast(4, 8, policy::EVICT)).unwrap();
    let other = open(&broadcast(4, 8, policy::OVERWRITE));
    refused_with(other, libc::EPROTO, "policy is 2 here but 4 in the object");
    open(&oldest).unwrap();
    // Without a kind the policy is that of the ring that is there.
    let only = |policy| Options { policy, ..Options::default() };
    open(&only(policy::EVICT)).unwrap();
    refused_with(open(&only(policy::OVERWRITE)), libc::EPROTO, "policy is 2 here but 4");
    drop(ring);
}

/// A child that has done `body` and waits to be killed.
fn frozen(body: impl FnOnce()) -> Child {
    let ready = Gate::new();
    let child = fork(|| {
        body();
        ready.open();
        loop {
            nix::unistd::pause();
        }
    });
    ready.pass();
    child
}

/// Dead consumers do not hold the producer, whether it waits or polls; the living go on.
fn a_dead_consumer_is_dropped<F: Face>() {
    for wait in [NOWAIT, 10 * SECOND] {
        let ring: F = open(&broadcast(4, 8, 0));
        let living = consumer(&ring);
        let dead = [(); 3].map(|()| {
            frozen(|| {
                let consumer = ring.dup(libc::O_RDONLY).unwrap();
                is_empty(&consumer);
                std::mem::forget(consumer);
            })
        });
        for value in 0..4 {
            push(&ring, value);
            assert_eq!(pop(&living), value);
        }
        is_full(&ring);
        dead.into_iter().for_each(kill);
        while let Err(error) = ring.push(&4_u64.to_ne_bytes(), wait) {
            assert_eq!((error.code, wait), (libc::EAGAIN, NOWAIT), "{}", error.text);
        }
        assert_eq!(pop(&living), 4);
        assert_eq!(sums(&ring), [5, 5, 0, 0]);
        assert_eq!((ring.stat().recovered, ring.stat().consumer_state), (3, MDG_RING_END_LIVE));
        // Their slots are used again.
        let _next = [(); 3].map(|()| consumer(&ring));
        assert_eq!(ring.stat().recovered, 3);
    }
    // Nobody is left: the producer goes on all the same.
    let ring: F = open(&broadcast(2, 8, 0));
    kill(frozen(|| std::mem::forget(ring.dup(libc::O_RDONLY).unwrap())));
    for value in 0..9 {
        ring.push(&u64::to_ne_bytes(value), FOREVER).unwrap();
    }
    assert_eq!(ring.stat().consumer_state, MDG_RING_END_DEAD);
}

/// Reads to the end of the stream; checks the order, and that nothing but what it was told is missing.
fn read_all(ring: &impl Face, written: impl Fn(u64) -> bool) {
    let (mut received, mut next) = (0, 0);
    loop {
        match try_pop(ring, 20 * SECOND) {
            Ok(value) => {
                next += 1;
                received += 1;
                assert_eq!(value, next - 1, "received {received}, lost {}", ring.lost());
            }
            Err(error) if error.code == libc::EOVERFLOW => next = received + ring.lost(),
            Err(error) => {
                assert_eq!(error.code, libc::EPIPE, "{}", error.text);
                break;
            }
        }
    }
    let all = received + ring.lost();
    assert!(written(all), "received {received}, lost {}", ring.lost());
}

fn a_stopped_consumer_holds_the_producer<F: Face>() {
    let ring: F = open(&broadcast(4, 8, 0));
    let (joined, go) = (Gate::new(), Gate::new());
    let slow = fork(|| {
        let consumer = ring.dup(libc::O_RDONLY).unwrap();
        joined.open();
        go.pass();
        read_all(&consumer, |all| all == 100);
        assert_eq!(consumer.lost(), 0);
    });
    joined.pass();
    signal::kill(slow.pid(), Signal::SIGSTOP).unwrap();
    for value in 0..4 {
        push(&ring, value);
    }
    refused_with(ring.push(&[0; 8], SECOND / 3), libc::ETIMEDOUT, "");
    signal::kill(slow.pid(), Signal::SIGCONT).unwrap();
    go.open();
    for value in 4..100_u64 {
        ring.push(&value.to_ne_bytes(), FOREVER).unwrap();
    }
    ring.shutdown().unwrap();
    join(slow);
}

fn a_stopped_consumer_is_evicted<F: Face>() {
    let ring: F = open(&broadcast(4, 8, policy::EVICT));
    let fast = consumer(&ring);
    let (joined, go) = (Gate::new(), Gate::new());
    let slow = fork(|| {
        let consumer = ring.dup(libc::O_RDONLY).unwrap();
        joined.open();
        go.pass();
        read_all(&consumer, |all| all == 1000);
        assert!(consumer.lost() > 900);
    });
    joined.pass();
    signal::kill(slow.pid(), Signal::SIGSTOP).unwrap();
    for value in 0..1000_u64 {
        push(&ring, value);
        assert_eq!(pop(&fast), value);
    }
    ring.shutdown().unwrap();
    signal::kill(slow.pid(), Signal::SIGCONT).unwrap();
    go.open();
    join(slow);
    assert_eq!(fast.lost(), 0);
}

fn a_dead_producer_is_told_and_succeeded<F: Face>() {
    for policy in POLICIES {
        let ring = F::open(None, &broadcast(4, 8, policy), libc::O_RDWR, 0).unwrap();
        let consumers = [(); 2].map(|()| consumer(&ring));
        let producer = frozen(|| {
            push(&ring, 1);
            push(&ring, 2);
        });
        let pid = producer.pid();
        assert_eq!(pop(&consumers[0]), 1);
        kill(producer);
        assert_eq!(pop(&consumers[0]), 2, "what was committed comes first");
        for consumer in &consumers {
            let end = std::iter::repeat_with(|| try_pop(consumer, FOREVER)).find(Result::is_err);
            refused_with(end.unwrap(), libc::EOWNERDEAD, &format!("pid {pid}"));
        }
        push(&ring, 3);
        assert_eq!(consumers.each_ref().map(pop), [3, 3]);
        assert_eq!(ring.stat().recovered, 1);
    }
}

fn a_producer_killed_with_room_reserved<F: Face>() {
    for policy in POLICIES {
        let ring = F::open(None, &broadcast(4, 8, policy), libc::O_RDWR, 0).unwrap();
        let consumer = consumer(&ring);
        kill(frozen(|| {
            for value in 0..3 {
                push(&ring, value);
            }
            ring.reserve(1, NOWAIT).unwrap();
        }));
        assert_eq!([(); 3].map(|()| pop(&consumer)), [0, 1, 2]);
        refused_with(try_pop(&consumer, FOREVER), libc::EOWNERDEAD, "died");
        for value in 3..7 {
            push(&ring, value);
        }
        assert_eq!([(); 4].map(|()| pop(&consumer)), [3, 4, 5, 6]);
        is_empty(&consumer);
        assert_eq!(consumer.lost(), 0);
    }
}

fn a_forked_child_is_another_consumer<F: Face>() {
    for policy in POLICIES {
        let ring: F = open(&broadcast(8, 8, policy));
        let consumer = consumer(&ring);
        push(&ring, 1);
        let (joined, pushed) = (Gate::new(), Gate::new());
        let child = fork(|| {
            is_empty(&consumer);
            joined.open();
            pushed.pass();
            assert_eq!(pop(&consumer), 2, "it has joined after the first");
            assert_eq!(consumer.lost(), 0);
        });
        joined.pass();
        push(&ring, 2);
        pushed.open();
        assert_eq!([pop(&consumer), pop(&consumer)], [1, 2]);
        join(child);
    }
}

/// A consumer that has no permission to write to the ring.
fn who_may_only_read<F: Face>() {
    if !is_root() {
        return;
    }
    let name = Named::new("readers");
    let options = Options { max_handles: 1, ..broadcast(8, 8, policy::OVERWRITE) };
    let create = libc::O_WRONLY | libc::O_CREAT;
    let ring = F::open(Some(&name.0), &options, create, 0o644).unwrap();
    let before = std::fs::read(name.path()).unwrap();
    let (joined, some, pushed, ended) = (Gate::new(), Gate::new(), Gate::new(), Gate::new());
    let reader = fork(|| {
        as_nobody(|| {
            let open = |oflag| F::open(Some(&name.0), &Options::default(), oflag, 0);
            refused_with(open(libc::O_RDWR), libc::EACCES, "denied");
            refused_with(open(libc::O_WRONLY), libc::EACCES, "denied");
            let reader = open(libc::O_RDONLY).unwrap();
            is_empty(&reader);
            refused_with(try_pop(&reader, 3_000_000), libc::ETIMEDOUT, "");
            refused_with(reader.push(&[0; 8], NOWAIT), libc::EACCES, "producing end");
            refused_with(reader.shutdown(), libc::EACCES, "only read");
            refused_with(reader.dup(libc::O_RDWR), libc::EACCES, "only read");
            let stats = reader.stat();
            assert_eq!((stats.written, stats.producer_state), (0, MDG_RING_END_LIVE));
            assert_eq!(stats.consumer_state, MDG_RING_END_NEVER, "nobody sees it");
            // A second one, for another thread, or another process.
            let other = reader.dup(libc::O_RDONLY).unwrap();
            let interrupted = support::process::interrupted(|| try_pop(&other, 20 * SECOND));
            refused_with(interrupted, libc::EINTR, "");
            // Nobody can tell it of anything, so it has no descriptor; a cancellation is its own.
            refused_with(other.fd(MDG_POLL_IN), libc::EACCES, "only read");
            let mut entries = [Entry::ring(&other, MDG_POLL_IN)];
            refused_with(F::wait_any(&mut entries, NOWAIT), libc::EAGAIN, "");
            refused_with(F::wait_any(&mut entries, FOREVER), libc::EACCES, "only read");
            other.cancel().unwrap();
            is_empty(&other);
            refused_with(try_pop(&other, FOREVER), libc::ECANCELED, "");
            refused_with(try_pop(&other, 3_000_000), libc::ETIMEDOUT, "");
            joined.open();
            for value in 0..5 {
                assert_eq!(try_pop(&reader, FOREVER).unwrap(), value);
            }
            some.open();
            pushed.pass();
            loses(&reader, 20 - 5 - 8);
            assert_eq!(pop(&reader), 12);
            let (item, count) = reader.peek(3, NOWAIT).unwrap();
            // SAFETY: one item of eight bytes.
            assert_eq!((unsafe { item.cast::<u64>().read_unaligned() }, count), (13, 1));
            reader.release(1).unwrap();
            for value in 14..20 {
                assert_eq!(pop(&reader), value);
            }
            loses(&other, 12);
            let child = fork(|| {
                refused_with(try_pop(&other, FOREVER), libc::EPIPE, "shut down");
                assert_eq!(other.lost(), 0);
            });
            assert_eq!(pop(&other), 12);
            ended.open();
            refused_with(try_pop(&reader, FOREVER), libc::EPIPE, "shut down");
            join(child);
        });
    });
    joined.pass();
    assert_eq!(std::fs::read(name.path()).unwrap(), before, "readers leave no trace");
    for value in 0..5 {
        push(&ring, value);
    }
    some.pass();
    for value in 5..20 {
        push(&ring, value);
    }
    pushed.open();
    ended.pass();
    ring.shutdown().unwrap();
    join(reader);
    // Reading is not enough where consumers move a cursor.
    let name = Named::new("gated");
    let _ring = F::open(Some(&name.0), &broadcast(8, 8, 0), create, 0o644).unwrap();
    as_nobody(|| {
        let open = F::open(Some(&name.0), &Options::default(), libc::O_RDONLY, 0);
        refused_with(open, libc::EACCES, "denied");
    });
}

/// A reading consumer learns of the producer's death, too.
#[test]
fn a_death_seen_by_one_who_may_only_read() {
    let _turn = serial();
    if !is_root() {
        return;
    }
    let name = Named::new("mourner");
    let ring = C::open(Some(&name.0), &broadcast(8, 8, policy::OVERWRITE), CREATE, 0o644).unwrap();
    let producer = frozen(|| push(&ring, 1));
    let pid = producer.pid();
    let (joined, gone) = (Gate::new(), Gate::new());
    let reader = fork(|| {
        as_nobody(|| {
            let oldest = Options { oldest: true, ..Options::default() };
            let reader = C::open(Some(&name.0), &oldest, libc::O_RDONLY, 0).unwrap();
            assert_eq!(pop(&reader), 1);
            joined.open();
            refused_with(try_pop(&reader, FOREVER), libc::EOWNERDEAD, &format!("pid {pid}"));
            assert_eq!(reader.stat().producer_state, MDG_RING_END_DEAD);
            gone.open();
        });
    });
    joined.pass();
    kill(producer);
    gone.pass();
    join(reader);
}

/// Real processes at full speed: order, whole items, and exact sums for everyone.
#[test]
fn streams() {
    let _turn = serial();
    for policy in POLICIES {
        for (consumers, capacity) in [(1, 1), (2, 2), (3, 8), (8, 8), (3, 1024), (8, 1024)] {
            let count = if capacity < 8 { 3_000 } else { 40_000 };
            for batch in [1, 5] {
                stream(policy, consumers, capacity, count, batch);
            }
        }
    }
}

fn stream(policy: u32, consumers: usize, capacity: u64, count: u64, batch: usize) {
    const SIZE: usize = 40;
    let ring: C = open(&broadcast(capacity, SIZE as u32, policy));
    let joined = Gate::new();
    let consume = |_| {
        fork(|| {
            let consumer = consumer(&ring);
            joined.open();
            let mut items = vec![0; SIZE * batch];
            let (mut received, mut expected) = (0_u64, [0; SIZE]);
            loop {
                match consumer.pop_many(&mut items, SIZE, 20 * SECOND) {
                    Ok(got) => {
                        for item in items.chunks(SIZE).take(got) {
                            pattern(received + consumer.lost(), &mut expected);
                            assert_eq!(item, expected, "item {received}, lost {}", consumer.lost());
                            received += 1;
                        }
                    }
                    Err(error) if error.code == libc::EOVERFLOW => assert_ne!(policy, 0),
                    Err(error) => {
                        assert_eq!(error.code, libc::EPIPE, "{}", error.text);
                        break;
                    }
                }
            }
            assert_eq!(received + consumer.lost(), count, "policy {policy}, capacity {capacity}");
        })
    };
    let children: Vec<_> = (0..consumers).map(consume).collect();
    children.iter().for_each(|_| joined.pass());
    let mut items = vec![0; SIZE * batch];
    let mut next = 0;
    while next < count {
        let many = batch.min((count - next) as usize);
        for (item, index) in items.chunks_mut(SIZE).zip(next..) {
            pattern(index, item);
        }
        next += ring.push_many(&items[..SIZE * many], SIZE, FOREVER).unwrap() as u64;
    }
    ring.shutdown().unwrap();
    children.into_iter().for_each(join);
    let [written, ..] = sums(&ring);
    assert_eq!(written, count);
}

/// Producers and consumers killed at random moments; a consumer that lives through all of it sees an
/// unbroken stream, but for what it is told it lost.
#[test]
fn random_kills() {
    let _turn = serial();
    for policy in POLICIES {
        let name = Named::new("kills");
        let ring = C::open(Some(&name.0), &broadcast(8, 40, policy), CREATE, 0o600).unwrap();
        let witness = consumer(&ring);
        let produce = || {
            let started = Gate::new();
            let child = fork(|| {
                let ring = C::open(Some(&name.0), &Options::default(), libc::O_WRONLY, 0).unwrap();
                started.open();
                // Numbers go on where the last producer stopped.
                for index in ring.stat().written.. {
                    let mut item = [0; 40];
                    pattern(index, &mut item);
                    ring.push(&item, FOREVER).unwrap();
                }
            });
            started.pass();
            child
        };
        let consume = |round: usize| {
            let started = Gate::new();
            let child = fork(|| {
                let options = Options { oldest: round % 2 == 0, ..Options::default() };
                let ring = C::open(Some(&name.0), &options, libc::O_RDONLY, 0).unwrap();
                started.open();
                loop {
                    let _ = ring.pop_many(&mut [0; 120], 40, FOREVER);
                }
            });
            started.pass();
            child
        };
        let mut producer = produce();
        let mut consumers: Vec<_> = (0..2).map(consume).collect();
        let (mut received, mut item, mut expected) = (0, [0; 40], [0; 40]);
        let rounds = 100;
        for round in 0..rounds {
            for _ in 0..1 + round * 7 % 40 {
                match witness.pop(&mut item, 20 * SECOND) {
                    Ok(()) => {
                        pattern(received + witness.lost(), &mut expected);
                        assert_eq!(item, expected, "item {received}, lost {}", witness.lost());
                        received += 1;
                    }
                    Err(error) => assert_eq!(error.code, libc::EOVERFLOW, "{}", error.text),
                }
            }
            match round % 3 {
                0 => {
                    kill(std::mem::replace(&mut producer, fork(|| {})));
                    let forked = std::mem::replace(&mut producer, produce());
                    join(forked);
                }
                which => {
                    kill(consumers.remove(0));
                    consumers.push(consume(round + which));
                }
            }
        }
        kill(producer);
        consumers.into_iter().for_each(kill);
        loop {
            match witness.pop(&mut item, 20 * SECOND) {
                Ok(()) => received += 1,
                Err(error) if error.code == libc::EOVERFLOW => assert_ne!(policy, 0),
                Err(error) => {
                    assert_eq!(error.code, libc::EOWNERDEAD, "{}", error.text);
                    break;
                }
            }
        }
        let [written, ..] = sums(&ring);
        assert_eq!(received + witness.lost(), written);
        assert_eq!(ring.stat().recovered, rounds as u64 + 3);
    }
}
