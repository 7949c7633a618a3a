//! Rings with many producers and many consumers: operations, policies, and what the dead leave.

mod support;

use std::time::{Duration, Instant};

use madang::ffi::ring::*;
use madang::ring::{Kind, Options, Ring, policy};
use support::face::{FOREVER, NOWAIT, refused_with};
use support::process::{Gate, fork, join, kill, serial};
use support::ring_face::{C, CREATE, Face, Named, SECOND};

on_both_faces! { Ring, C in turn:
    capacity_is_usable_to_the_last_slot
    batches
    many_handles_at_both_ends
    in_place
    a_peeked_item_that_is_not_released_stays_with_its_handle
    shutdown_drains
    ends_that_are_not_held
    overwriting
    a_look_at_a_ring_that_overwrites_makes_sense
    overwriting_gives_up_nothing_in_vain
    failing
    mismatches
    the_hole_of_a_dead_producer_is_skipped
    the_items_of_a_dead_consumer_are_counted
    a_living_producer_is_waited_for
    the_last_death_is_told
    who_shuts_down_and_exits_has_left_in_order
}

fn mpmc(capacity: u64, item_size: u32) -> Options {
    Options { kind: Some(Kind::Mpmc), ..Options::new(capacity, item_size) }
}

fn open<F: Face>(options: &Options) -> F {
    F::open(None, options, libc::O_RDWR, 0).unwrap()
}

fn word(value: u64) -> [u8; 8] {
    value.to_ne_bytes()
}

fn push(ring: &impl Face, value: u64) {
    ring.push(&word(value), NOWAIT).unwrap();
}

#[track_caller]
fn pop(ring: &impl Face) -> u64 {
    let mut item = [0; 8];
    ring.pop(&mut item, NOWAIT).unwrap();
    u64::from_ne_bytes(item)
}

#[track_caller]
fn is_empty(ring: &impl Face) {
    refused_with(ring.pop(&mut [0; 8], NOWAIT), libc::EAGAIN, "");
}

/// Written, read, dropped, lost, inside.
fn sums(ring: &impl Face) -> [u64; 5] {
    let stats = ring.stat();
    assert_eq!(stats.written, stats.read + stats.dropped + stats.lost + stats.length);
    [stats.written, stats.read, stats.dropped, stats.lost, stats.length]
}

fn capacity_is_usable_to_the_last_slot<F: Face>() {
    for (asked, capacity) in [(1, 1), (2, 2), (3, 4), (1000, 1024)] {
        let ring: F = open(&mpmc(asked, 8));
        for round in 0..3 {
            for i in 0..capacity {
                push(&ring, round * 10_000 + i);
            }
            refused_with(ring.push(&word(0), NOWAIT), libc::EAGAIN, "");
            assert_eq!(ring.stat().length, capacity);
            for i in 0..capacity {
                assert_eq!(pop(&ring), round * 10_000 + i);
            }
            is_empty(&ring);
        }
        assert_eq!(sums(&ring), [3 * capacity, 3 * capacity, 0, 0, 0]);
        assert_eq!(ring.stat().kind, MDG_RING_MPMC);
    }
}

fn batches<F: Face>() {
    for size in [1, 7, 8, 64, 1500] {
        let ring: F = open(&mpmc(8, size as u32));
        let items: Vec<u8> = (0..size * 11).map(|i| i as u8).collect();
        let mut back = vec![0; size * 11];
        for _ in 0..5 {
            assert_eq!(ring.push_many(&items[..size * 3], size, NOWAIT).unwrap(), 3);
            assert_eq!(ring.push_many(&items[size * 3..], size, NOWAIT).unwrap(), 5);
            refused_with(ring.push_many(&items, size, NOWAIT), libc::EAGAIN, "");
            assert_eq!(ring.pop_many(&mut back[..size * 2], size, NOWAIT).unwrap(), 2);
            assert_eq!(ring.push_many(&items[size * 8..], size, NOWAIT).unwrap(), 2);
            assert_eq!(ring.pop_many(&mut back[size * 2..], size, NOWAIT).unwrap(), 8);
            assert_eq!(back[..size * 10], items[..size * 10], "items of {size} bytes");
            refused_with(ring.pop_many(&mut back, size, NOWAIT), libc::EAGAIN, "");
        }
        assert_eq!(ring.push_many(&[], size, NOWAIT).unwrap(), 0);
    }
}

fn many_handles_at_both_ends<F: Face>() {
    let name = Named::new("many");
    let flags = |access| access | libc::O_CREAT;
    let open = |access| F::open(Some(&name.0), &mpmc(16, 8), flags(access), 0o600).unwrap();
    let producers: Vec<F> = (0..3).map(|_| open(libc::O_WRONLY)).collect();
    let consumers: Vec<F> = (0..3).map(|_| open(libc::O_RDONLY)).collect();
    for (producer, value) in producers.iter().cycle().zip(0..9) {
        push(producer, value);
    }
    for (consumer, value) in consumers.iter().cycle().zip(0..9) {
        assert_eq!(pop(consumer), value, "one queue, whoever takes");
    }
    refused_with(consumers[0].push(&word(0), NOWAIT), libc::EACCES, "producing end");
    refused_with(producers[0].pop(&mut [0; 8], NOWAIT), libc::EACCES, "consuming end");
    let stats = consumers[0].stat();
    assert_eq!(
        (stats.producer_state, stats.consumer_state),
        (MDG_RING_END_LIVE, MDG_RING_END_LIVE)
    );
    drop(producers);
    assert_eq!(consumers[0].stat().producer_state, MDG_RING_END_CLOSED);
    let other = consumers[0].dup(libc::O_WRONLY).unwrap();
    assert_eq!(other.stat().producer_state, MDG_RING_END_LIVE);
}

fn in_place<F: Face>() {
    let ring: F = open(&mpmc(8, 8));
    for round in 0..10_u64 {
        let (room, count) = ring.reserve(3, NOWAIT).unwrap();
        assert_eq!(count, 1, "items of this kind do not stand in a row");
        // SAFETY: room for one item of eight bytes.
        unsafe { room.cast::<u64>().write_unaligned(round) };
        assert_eq!((ring.stat().pending, ring.stat().length), (1, 0));
        refused_with(ring.push(&word(0), NOWAIT), libc::EINVAL, "handed out");
        is_empty(&ring);
        refused_with(ring.commit(2), libc::EINVAL, "run of 1");
        ring.commit(1).unwrap();
        let (item, count) = ring.peek(9, NOWAIT).unwrap();
        // SAFETY: one item of eight bytes.
        assert_eq!((unsafe { item.cast::<u64>().read_unaligned() }, count), (round, 1));
        refused_with(ring.pop(&mut [0; 8], NOWAIT), libc::EINVAL, "handed out");
        ring.release(1).unwrap();
        refused_with(ring.release(1), libc::EINVAL, "run of 0");
    }
    // Given back: the place is skipped, in order, and is no item.
    for value in 0..3 {
        push(&ring, value);
        ring.reserve(1, NOWAIT).unwrap();
        ring.commit(0).unwrap();
        if value > 0 {
            assert_eq!(pop(&ring), value - 1);
        }
    }
    assert_eq!(pop(&ring), 2);
    is_empty(&ring);
    assert_eq!(sums(&ring), [13, 13, 0, 0, 0]);
}

fn a_peeked_item_that_is_not_released_stays_with_its_handle<F: Face>() {
    let ring: F = open(&mpmc(4, 8));
    let other = ring.dup(libc::O_RDWR).unwrap();
    for value in 0..3 {
        push(&ring, value);
    }
    ring.peek(1, NOWAIT).unwrap();
    ring.release(0).unwrap();
    assert_eq!(pop(&other), 1, "it is claimed: others get what is behind it");
    let (item, _) = ring.peek(1, NOWAIT).unwrap();
    // SAFETY: one item of eight bytes.
    assert_eq!(unsafe { item.cast::<u64>().read_unaligned() }, 0);
    ring.release(0).unwrap();
    assert_eq!([pop(&ring), pop(&ring)], [0, 2]);
    // A handle that closes with an item in hands takes it along, and that is counted.
    push(&ring, 3);
    other.peek(1, NOWAIT).unwrap();
    drop(other);
    assert_eq!(sums(&ring), [4, 3, 0, 1, 0]);
}

fn shutdown_drains<F: Face>() {
    let ring: F = open(&mpmc(4, 8));
    push(&ring, 1);
    let other = ring.dup(libc::O_RDWR).unwrap();
    other.reserve(1, NOWAIT).unwrap();
    ring.shutdown().unwrap();
    refused_with(ring.push(&word(2), FOREVER), libc::EPIPE, "shut down");
    assert_eq!(pop(&ring), 1);
    // Something is still on its way: not drained yet.
    is_empty(&ring);
    refused_with(other.commit(1), libc::EPIPE, "shut down");
    refused_with(ring.pop(&mut [0; 8], FOREVER), libc::EPIPE, "shut down");
    assert_eq!(sums(&ring), [1, 1, 0, 0, 0]);
}

fn ends_that_are_not_held<F: Face>() {
    let ring: F = open(&mpmc(2, 8));
    refused_with(ring.pop(&mut [0; 8], 1_000_000), libc::ETIMEDOUT, "");
    push(&ring, 1);
    push(&ring, 2);
    refused_with(ring.push(&word(3), 1_000_000), libc::ETIMEDOUT, "");
    assert_eq!((ring.stat().pop_waits, ring.stat().push_waits), (1, 1));
}

fn overwriting<F: Face>() {
    for capacity in [1, 4] {
        let options = Options { policy: policy::OVERWRITE, ..mpmc(capacity, 8) };
        let ring: F = open(&options);
        for value in 0..10 {
            ring.push(&word(value), FOREVER).unwrap();
        }
        assert_eq!(sums(&ring), [10, 0, 10 - capacity, 0, capacity]);
        for value in 10 - capacity..10 {
            assert_eq!(pop(&ring), value, "the newest are kept, in order");
        }
        is_empty(&ring);
        // What is peeked is not given up for a newer one.
        push(&ring, 20);
        ring.peek(1, NOWAIT).unwrap();
        for value in 21..20 + capacity {
            push(&ring, value);
        }
        refused_with(ring.push(&word(0), NOWAIT), libc::EAGAIN, "");
        ring.release(1).unwrap();
        push(&ring, 99);
        ring.reserve(1, NOWAIT).unwrap();
        ring.commit(1).unwrap();
        assert_eq!(sums(&ring)[4], capacity);
        assert_eq!(ring.stat().policy, MDG_RING_OVERWRITE);
    }
}

/// Nobody reads, so nothing was read, whenever one looks: but for the item that is just being given up.
fn a_look_at_a_ring_that_overwrites_makes_sense<F: Face>() {
    let options = Options { policy: policy::OVERWRITE, ..mpmc(4096, 8) };
    let ring = open::<F>(&options);
    let producer = fork(|| {
        loop {
            push(&ring, 1);
        }
    });
    let mut dropped = 0;
    while dropped < 100_000 {
        let stats = ring.stat();
        assert!(stats.read <= 1, "{stats:?}", stats = (stats.written, stats.read, stats.dropped));
        dropped = stats.dropped;
    }
    kill(producer);
}

/// The cell in the way is in somebody's hands: giving up what is behind it makes no room.
fn overwriting_gives_up_nothing_in_vain<F: Face>() {
    let ring: F = open(&Options { policy: policy::OVERWRITE, ..mpmc(4, 8) });
    let slow = ring.dup(libc::O_RDONLY).unwrap();
    (0..4).for_each(|value| push(&ring, value));
    slow.peek(1, NOWAIT).unwrap();
    for _ in 0..3 {
        refused_with(ring.push(&word(9), NOWAIT), libc::EAGAIN, "");
        refused_with(ring.reserve(1, NOWAIT), libc::EAGAIN, "");
    }
    assert_eq!(sums(&ring), [4, 1, 0, 0, 3]);
    slow.release(1).unwrap();
    push(&ring, 4);
    push(&ring, 5);
    assert_eq!(sums(&ring), [6, 1, 1, 0, 4]);
    (2..6).for_each(|value| assert_eq!(pop(&ring), value));
}

fn failing<F: Face>() {
    for kind in [Kind::Spsc, Kind::Mpmc] {
        let options = Options { kind: Some(kind), policy: policy::FAIL, ..Options::new(2, 8) };
        let ring: F = open(&options);
        push(&ring, 1);
        push(&ring, 2);
        refused_with(ring.push(&word(3), FOREVER), libc::EAGAIN, "");
        refused_with(ring.push_many(&word(3), 8, FOREVER), libc::EAGAIN, "");
        assert_eq!([pop(&ring), pop(&ring)], [1, 2]);
    }
}

fn mismatches<F: Face>() {
    let name = Named::new("other");
    let open = |options: &Options| F::open(Some(&name.0), options, CREATE, 0o600);
    let ring = open(&mpmc(4, 8)).unwrap();
    let spsc = Options { kind: Some(Kind::Spsc), ..Options::new(4, 8) };
    refused_with(open(&spsc), libc::EPROTO, "kind is SPSC here but MPMC in the object");
    let overwriting = Options { policy: policy::OVERWRITE, ..mpmc(4, 8) };
    refused_with(
        open(&overwriting),
        libc::EPROTO,
        "policy is OVERWRITE here but none in the object",
    );
    open(&Options::default()).unwrap();
    drop(ring);
    let impossible = Options { policy: policy::OVERWRITE, ..Options::new(4, 8) };
    refused_with(F::open(None, &impossible, libc::O_RDWR, 0), libc::EINVAL, "OVERWRITE");
    let both = Options { policy: policy::OVERWRITE | policy::FAIL, ..mpmc(4, 8) };
    refused_with(F::open(None, &both, libc::O_RDWR, 0), libc::EINVAL, "never full");
    let unknown = Options { policy: 1 << 31, ..mpmc(4, 8) };
    refused_with(F::open(None, &unknown, libc::O_RDWR, 0), libc::EINVAL, "policy");
}

/// A child that has done `body` and waits to be killed.
fn frozen(body: impl FnOnce()) -> support::process::Child {
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

/// Killed between its claim and its publish: the items behind the hole come, in order.
fn the_hole_of_a_dead_producer_is_skipped<F: Face>() {
    for wait in [NOWAIT, 10 * SECOND] {
        let ring: F = open(&mpmc(8, 8));
        push(&ring, 1);
        let holes = [(); 2].map(|()| {
            frozen(|| {
                ring.reserve(1, NOWAIT).unwrap();
            })
        });
        push(&ring, 2);
        assert_eq!(pop(&ring), 1);
        assert_eq!((ring.stat().pending, ring.stat().length), (2, 1));
        is_empty(&ring);
        holes.into_iter().for_each(kill);
        let mut item = [0; 8];
        // A caller that polls gets it, too, if it goes on polling.
        let start = Instant::now();
        while let Err(error) = ring.pop(&mut item, wait) {
            assert_eq!((error.code, wait), (libc::EAGAIN, NOWAIT), "{}", error.text);
            assert!(start.elapsed() < Duration::from_secs(20), "a hole for ever");
        }
        assert_eq!(u64::from_ne_bytes(item), 2);
        assert_eq!(sums(&ring), [2, 2, 0, 0, 0]);
        assert_eq!((ring.stat().pending, ring.stat().recovered), (0, 2));
        is_empty(&ring);
    }
}

/// Killed between its claim and its release: the cell can be used again, and the item is counted.
fn the_items_of_a_dead_consumer_are_counted<F: Face>() {
    for wait in [NOWAIT, 10 * SECOND] {
        let ring: F = open(&mpmc(2, 8));
        push(&ring, 1);
        push(&ring, 2);
        let consumer = frozen(|| {
            ring.peek(1, NOWAIT).unwrap();
        });
        assert_eq!(pop(&ring), 2);
        refused_with(ring.push(&word(3), NOWAIT), libc::EAGAIN, "");
        kill(consumer);
        while let Err(error) = ring.push(&word(3), wait) {
            assert_eq!((error.code, wait), (libc::EAGAIN, NOWAIT), "{}", error.text);
        }
        push(&ring, 4);
        assert_eq!([pop(&ring), pop(&ring)], [3, 4]);
        assert_eq!(sums(&ring), [4, 3, 0, 1, 0]);
        // Its slot is cleared away by the next one who takes it, and the death is told once.
        assert_eq!(ring.stat().recovered, 1);
        let _next = ring.dup(libc::O_RDWR).unwrap();
        assert_eq!(ring.stat().recovered, 1);
    }
}

/// Stopped, not dead: nobody takes its place, however long it takes.
fn a_living_producer_is_waited_for<F: Face>() {
    let ring: F = open(&mpmc(8, 8));
    let (reserved, go) = (Gate::new(), Gate::new());
    let slow = fork(|| {
        let (room, _) = ring.reserve(1, NOWAIT).unwrap();
        reserved.open();
        go.pass();
        // SAFETY: room for one item of eight bytes.
        unsafe { room.cast::<u64>().write_unaligned(1) };
        ring.commit(1).unwrap();
    });
    reserved.pass();
    nix::sys::signal::kill(slow.pid(), nix::sys::signal::SIGSTOP).unwrap();
    push(&ring, 2);
    refused_with(ring.pop(&mut [0; 8], SECOND / 3), libc::ETIMEDOUT, "");
    nix::sys::signal::kill(slow.pid(), nix::sys::signal::SIGCONT).unwrap();
    go.open();
    let mut item = [0; 8];
    ring.pop(&mut item, FOREVER).unwrap();
    assert_eq!(u64::from_ne_bytes(item), 1);
    assert_eq!(pop(&ring), 2);
    join(slow);
}

/// Nobody is left at the other end, and the last one died.
fn the_last_death_is_told<F: Face>() {
    let ring: F = open(&mpmc(8, 8));
    let [first, second] = [1, 2].map(|value| frozen(|| push(&ring, value)));
    let pid = second.pid();
    assert_eq!([pop(&ring), pop(&ring)], [1, 2]);
    kill(first);
    refused_with(ring.pop(&mut [0; 8], SECOND / 3), libc::ETIMEDOUT, "");
    kill(second);
    refused_with(ring.pop(&mut [0; 8], FOREVER), libc::EOWNERDEAD, &format!("pid {pid}"));
    is_empty(&ring);
    assert_eq!(ring.stat().producer_state, MDG_RING_END_DEAD);
    assert_eq!(ring.stat().recovered, 2);
    // A new producer makes the ring an ordinary one again.
    let producer = ring.dup(libc::O_WRONLY).unwrap();
    refused_with(ring.pop(&mut [0; 8], 1_000_000), libc::ETIMEDOUT, "");
    push(&producer, 3);
    assert_eq!(pop(&ring), 3);
}

/// Without closing: as where an end has one holder.
fn who_shuts_down_and_exits_has_left_in_order<F: Face>() {
    let stopproof = Options { policy: policy::STOPPROOF, ..mpmc(4, 8) };
    let broadcast = Options { kind: Some(Kind::Broadcast), ..Options::new(4, 8) };
    for options in [mpmc(4, 8), stopproof, broadcast] {
        let ring: F = open(&options);
        let consumer = ring.dup(libc::O_RDONLY).unwrap();
        let child = fork(|| {
            let listener = ring.dup(libc::O_RDONLY).unwrap();
            push(&ring, 1);
            ring.shutdown().unwrap();
            // Gone without closing.
            std::mem::forget(listener);
        });
        join(child);
        let is_closed = || {
            let stats = ring.stat();
            assert_eq!((stats.producer_state, stats.recovered), (MDG_RING_END_CLOSED, 0));
        };
        is_closed();
        assert_eq!(pop(&consumer), 1);
        refused_with(consumer.pop(&mut [0; 8], FOREVER), libc::EPIPE, "shut down");
        // Its slots are cleared away by those who take them: still no death.
        let _newcomers = [(); 3].map(|()| ring.dup(libc::O_RDWR).unwrap());
        is_closed();
        drop(consumer);
        assert_eq!(ring.stat().consumer_state, MDG_RING_END_CLOSED);
        assert_eq!(ring.stat().recovered, 0);
    }
}

/// Producers and consumers killed at random moments while others go on.
#[test]
fn random_kills() {
    let _turn = serial();
    let name = Named::new("kills");
    let ring = C::open(Some(&name.0), &mpmc(8, 16), CREATE, 0o600).unwrap();
    let rounds = 150;
    let mut last = vec![0_u64; 2 * rounds + 2];
    let mut children = Vec::new();
    let produce = |number: usize| {
        let started = Gate::new();
        let child = fork(|| {
            let ring = C::open(Some(&name.0), &Options::default(), libc::O_WRONLY, 0).unwrap();
            started.open();
            for i in 1_u64.. {
                let mut item = [0; 16];
                item[..8].copy_from_slice(&(number as u64).to_ne_bytes());
                item[8..].copy_from_slice(&i.to_ne_bytes());
                ring.push(&item, FOREVER).unwrap();
            }
        });
        started.pass();
        child
    };
    let consume = || {
        let started = Gate::new();
        let child = fork(|| {
            let ring = C::open(Some(&name.0), &Options::default(), libc::O_RDONLY, 0).unwrap();
            started.open();
            loop {
                ring.pop_many(&mut [0; 48], 16, FOREVER).unwrap();
            }
        });
        started.pass();
        child
    };
    let mut number = 0;
    for _ in 0..2 {
        children.push((produce(number), true));
        number += 1;
    }
    children.push((consume(), false));
    let mut taken = 0;
    for round in 0..rounds {
        let mut item = [0; 16];
        for _ in 0..40 {
            ring.pop(&mut item, 10 * SECOND).unwrap();
            let at = |at: usize| u64::from_ne_bytes(item[at..at + 8].try_into().unwrap());
            let (from, value) = (at(0) as usize, at(8));
            assert!(value > last[from], "{value} of producer {from} after {}", last[from]);
            last[from] = value;
            taken += 1;
        }
        let (victim, produces) = children.swap_remove(round % children.len());
        kill(victim);
        children.push(if produces { (produce(number), true) } else { (consume(), false) });
        number += usize::from(produces);
    }
    assert_eq!(taken, 40 * rounds);
    for (child, _) in children {
        kill(child);
    }
    let mut item = [0; 16];
    loop {
        match ring.pop(&mut item, 10 * SECOND) {
            Ok(()) => {}
            Err(error) => {
                assert_eq!(error.code, libc::EOWNERDEAD, "{}", error.text);
                break;
            }
        }
    }
    let stats = ring.stat();
    assert_eq!(stats.written, stats.read + stats.lost + stats.length);
    assert_eq!((stats.length, stats.pending), (0, 0));
    assert!(stats.lost <= 3 * rounds as u64, "{} lost", stats.lost);
    assert_eq!(stats.recovered, rounds as u64 + 3);
}
