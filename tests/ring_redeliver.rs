//! Rings that redeliver: what a dead consumer had in hands comes again.

mod support;

use madang::ffi::ring::*;
use madang::ring::{Kind, Options, Ring, policy};
use nix::sys::signal::{SIGCONT, SIGSTOP};
use support::face::{FOREVER, NOWAIT, refused_with};
use support::process::{Gate, fork, join, kill, serial};
use support::redeliver::*;
use support::ring_face::{C, CREATE, Face, Named, SECOND};

on_both_faces! { Ring, C in turn:
    the_item_of_a_dead_consumer_comes_again
    it_comes_before_what_is_still_there
    producers_do_not_take_its_place
    a_second_taker_may_die_as_well
    closing_gives_back
    a_stopped_consumer_keeps_its_item
    the_stream_ends_when_nobody_has_anything
    giving_up_the_oldest
    more_dead_than_handles
    who_waits_is_told_of_the_last_death
    what_it_is_for
}

fn the_item_of_a_dead_consumer_comes_again<F: Face>() {
    for take in [|ring: &F| pop_within(ring, 10 * SECOND), poll] {
        let ring: F = open(&redelivering(4));
        for round in 0..10 {
            let value = 10 * round;
            (0..3).for_each(|i| push(&ring, value + i));
            let dead = frozen(|| assert_eq!(peek(&ring), value));
            assert_eq!([pop(&ring), pop(&ring)], [value + 1, value + 2]);
            is_empty(&ring);
            kill(dead);
            assert_eq!(take(&ring), value, "whoever finds nothing else gets it");
            is_empty(&ring);
            assert_eq!(sums(&ring), [3 * (round + 1), 3 * (round + 1), 0, round + 1]);
            assert_eq!(ring.stat().recovered, round + 1);
        }
    }
}

/// As soon as the death is noticed: by one who takes the dead one's slot, here.
fn it_comes_before_what_is_still_there<F: Face>() {
    let ring: F = open(&redelivering(8));
    (0..6).for_each(|value| push(&ring, value));
    let first = frozen(|| assert_eq!(peek(&ring), 0));
    let second = frozen(|| assert_eq!(peek(&ring), 1));
    assert_eq!(pop(&ring), 2);
    // The later first: the order is that of the ring, not that of the deaths.
    kill(second);
    kill(first);
    let newcomers = [(); 2].map(|()| ring.dup(libc::O_RDONLY).unwrap());
    assert_eq!(sums(&ring), [6, 1, 5, 0]);
    assert_eq!(peek(&newcomers[0]), 0);
    assert_eq!([pop(&newcomers[1]), pop(&ring), pop(&ring)], [1, 3, 4]);
    newcomers[0].release(1).unwrap();
    push(&ring, 6);
    assert_eq!([pop(&ring), pop(&ring)], [5, 6]);
    is_empty(&ring);
    assert_eq!(sums(&ring), [7, 7, 0, 2]);
}

/// A cell with an item that is owed to somebody is not free: the ring is full there.
fn producers_do_not_take_its_place<F: Face>() {
    for wait in [NOWAIT, SECOND / 3] {
        let ring: F = open(&redelivering(2));
        (0..2).for_each(|value| push(&ring, value));
        killed_with(&ring, 0);
        assert_eq!(pop(&ring), 1);
        let full = if wait == NOWAIT { libc::EAGAIN } else { libc::ETIMEDOUT };
        let patience = std::time::Instant::now();
        while patience.elapsed().as_millis() < 20 {
            refused_with(ring.push(&[9; 8], wait), full, "");
        }
        assert_eq!(sums(&ring), [2, 1, 1, 0]);
        assert_eq!(pop(&ring), 0);
        push(&ring, 2);
        push(&ring, 3);
        assert_eq!([pop(&ring), pop(&ring)], [2, 3]);
        assert_eq!(sums(&ring), [4, 4, 0, 1]);
    }
}

fn a_second_taker_may_die_as_well<F: Face>() {
    let ring: F = open(&redelivering(4));
    push(&ring, 7);
    killed_with(&ring, 7);
    for _ in 0..5 {
        let next = frozen(|| {
            ring.peek(1, 10 * SECOND).unwrap();
            // Its own from now on.
        });
        is_empty(&ring);
        assert_eq!(sums(&ring)[1..3], [1, 0]);
        kill(next);
    }
    assert_eq!(pop_within(&ring, 10 * SECOND), 7);
    is_empty(&ring);
    assert_eq!(sums(&ring), [1, 1, 0, 6]);
}

fn closing_gives_back<F: Face>() {
    let ring: F = open(&redelivering(4));
    (0..3).for_each(|value| push(&ring, value));
    let other = ring.dup(libc::O_RDONLY).unwrap();
    assert_eq!(peek(&other), 0);
    other.release(0).unwrap();
    assert_eq!(pop(&ring), 1, "it stays that handle's until it closes");
    drop(other);
    assert_eq!(sums(&ring), [3, 1, 2, 0]);
    assert_eq!([pop(&ring), pop(&ring)], [0, 2]);
    is_empty(&ring);
    // One that was given back may be given back again, and somebody who sleeps gets it.
    push(&ring, 3);
    for _ in 0..2 {
        let other = ring.dup(libc::O_RDONLY).unwrap();
        assert_eq!(peek(&other), 3);
    }
    let other = ring.dup(libc::O_RDONLY).unwrap();
    assert_eq!(peek(&other), 3);
    let sleeper = fork(|| assert_eq!(pop_within(&ring, FOREVER), 3));
    while ring.stat().pop_waits == 0 {
        std::thread::yield_now();
    }
    drop(other);
    join(sleeper);
    assert_eq!(sums(&ring), [4, 4, 0, 4]);
}

/// Stopped, not dead: nobody gets it, however long that takes.
fn a_stopped_consumer_keeps_its_item<F: Face>() {
    let ring: F = open(&redelivering(2));
    // Taken for the first time, and for the second.
    for again in [false, true] {
        (0..2).for_each(|value| push(&ring, value));
        if again {
            killed_with(&ring, 0);
            // Somebody notices, so that it is there to be taken.
            drop(ring.dup(libc::O_RDWR).unwrap());
        }
        let (ready, go) = (Gate::new(), Gate::new());
        let slow = fork(|| {
            assert_eq!(peek(&ring), 0);
            ready.open();
            go.pass();
            let (item, _) = (ring.release(0), peek(&ring));
            item.unwrap();
            ring.release(1).unwrap();
        });
        ready.pass();
        nix::sys::signal::kill(slow.pid(), SIGSTOP).unwrap();
        assert_eq!(pop(&ring), 1);
        refused_with(ring.pop(&mut [0; 8], SECOND / 3), libc::ETIMEDOUT, "");
        refused_with(ring.push(&[9; 8], SECOND / 3), libc::ETIMEDOUT, "");
        let newcomer = ring.dup(libc::O_RDWR).unwrap();
        is_empty(&newcomer);
        nix::sys::signal::kill(slow.pid(), SIGCONT).unwrap();
        go.open();
        join(slow);
        is_empty(&ring);
        // The child left without closing, with nothing in hands.
        refused_with(ring.pop(&mut [0; 8], SECOND / 5), libc::ETIMEDOUT, "");
        let count = if again { 4 } else { 2 };
        assert_eq!(sums(&ring), [count, count, 0, u64::from(again)]);
    }
}

/// What somebody has in hands may come again, so it is not the end yet.
fn the_stream_ends_when_nobody_has_anything<F: Face>() {
    let ring: F = open(&redelivering(4));
    (0..4).for_each(|value| push(&ring, value));
    let dead = frozen(|| assert_eq!(peek(&ring), 0));
    let other = ring.dup(libc::O_RDONLY).unwrap();
    assert_eq!(peek(&other), 1);
    ring.shutdown().unwrap();
    assert_eq!([pop(&ring), pop(&ring)], [2, 3]);
    is_empty(&ring);
    refused_with(ring.pop(&mut [0; 8], SECOND / 5), libc::ETIMEDOUT, "");
    kill(dead);
    assert_eq!(pop_within(&ring, 10 * SECOND), 0);
    is_empty(&ring);
    // Who waits for the end hears of it when the last one is done.
    let waiting = fork(|| {
        refused_with(ring.pop(&mut [0; 8], FOREVER), libc::EPIPE, "shut down");
    });
    while ring.stat().pop_waits < 3 {
        std::thread::yield_now();
    }
    other.release(1).unwrap();
    join(waiting);
    refused_with(ring.pop(&mut [0; 8], FOREVER), libc::EPIPE, "shut down");
    refused_with(other.pop(&mut [0; 8], NOWAIT), libc::EPIPE, "shut down");
    assert_eq!(sums(&ring), [4, 4, 0, 1]);
}

/// An item that came back is older than all others.
fn giving_up_the_oldest<F: Face>() {
    let policy = policy::REDELIVER | policy::OVERWRITE;
    let ring: F = open(&Options { policy, ..redelivering(2) });
    (0..2).for_each(|value| push(&ring, value));
    killed_with(&ring, 0);
    let newcomer = ring.dup(libc::O_RDWR).unwrap();
    assert_eq!(sums(&ring), [2, 0, 2, 0]);
    push(&ring, 2);
    assert_eq!((ring.stat().dropped, sums(&ring)), (1, [3, 0, 2, 0]));
    assert_eq!([pop(&newcomer), pop(&ring)], [1, 2]);
    is_empty(&ring);
    // Not noticed yet: it is in somebody's hands, and nothing else is given up in vain.
    (3..5).for_each(|value| push(&ring, value));
    killed_with(&ring, 3);
    assert_eq!(pop(&ring), 4);
    refused_with(ring.push(&[9; 8], NOWAIT), libc::EAGAIN, "");
    while let Err(error) = ring.push(&5_u64.to_ne_bytes(), NOWAIT) {
        assert_eq!(error.code, libc::EAGAIN);
    }
    assert_eq!([pop(&ring)], [5]);
    assert_eq!((ring.stat().dropped, sums(&ring)), (2, [6, 4, 0, 0]));
}

/// The slots of the dead are used again, and what they had is not forgotten.
fn more_dead_than_handles<F: Face>() {
    let ring: F = open(&Options { max_handles: 3, ..redelivering(16) });
    (0..16).for_each(|value| push(&ring, value));
    for round in 0..16 {
        kill(frozen(|| {
            let other = ring.dup(libc::O_RDONLY).unwrap();
            // What the last one had comes first.
            assert_eq!(peek(&other), 0, "round {round}");
            std::mem::forget(other);
        }));
    }
    let _newcomers = [(); 2].map(|()| ring.dup(libc::O_RDONLY).unwrap());
    (0..16).for_each(|value| assert_eq!(pop(&ring), value));
    is_empty(&ring);
    assert_eq!(sums(&ring), [16, 16, 0, 16]);
    assert_eq!(ring.stat().recovered, 16);
}

/// Nobody is left who could take anything: a full ring, and a death.
fn who_waits_is_told_of_the_last_death<F: Face>() {
    let ring: F = open(&redelivering(2));
    (0..2).for_each(|value| push(&ring, value));
    let producer = ring.dup(libc::O_WRONLY).unwrap();
    killed_with(&ring, 0);
    refused_with(producer.push(&[9; 8], FOREVER), libc::EOWNERDEAD, "");
    assert_eq!(sums(&ring), [2, 0, 2, 0]);
    assert_eq!([pop(&ring), pop(&ring)], [0, 1]);
    is_empty(&ring);
}

fn what_it_is_for<F: Face>() {
    let with = |kind, bits| Options { kind: Some(kind), policy: bits, ..Options::new(4, 8) };
    let make = |options: &Options| F::open(None, options, libc::O_RDWR, 0);
    let bit = policy::REDELIVER;
    refused_with(make(&with(Kind::Broadcast, bit)), libc::EINVAL, "REDELIVER");
    let both = bit | policy::STOPPROOF;
    refused_with(make(&with(Kind::Mpmc, both)), libc::EINVAL, "stop-proof");
    for fine in [with(Kind::Mpmc, bit | policy::FAIL), with(Kind::Mpmc, bit | policy::OVERWRITE)] {
        assert_eq!(make(&fine).unwrap().stat().policy, fine.policy);
    }
    // One producer, one consumer: that is what such a ring does.
    let ring: F = open(&with(Kind::Spsc, bit));
    assert_eq!(ring.stat().policy, MDG_RING_REDELIVER);
    let producer = ring.dup(libc::O_WRONLY).unwrap();
    push(&producer, 1);
    killed_with(&ring, 1);
    assert_eq!(pop(&ring), 1);
}

/// Seen from outside: what came back is sound, what is owed to nobody yet is damage, which a repair mends.
#[test]
fn checked_and_repaired() {
    use madang::inventory::{self, Mechanism};
    let _turn = serial();
    let name = Named::new("checked");
    let ring = C::open(Some(&name.0), &redelivering(4), CREATE, 0o600).unwrap();
    (0..4).for_each(|value| push(&ring, value));
    let check = || inventory::check(Mechanism::Ring, name.0.as_bytes()).unwrap();
    let repair = || inventory::repair(Mechanism::Ring, name.0.as_bytes()).unwrap();
    assert_eq!(check().findings, 0);
    killed_with(&ring, 0);
    let found = check();
    assert_eq!(found.findings, 1);
    assert!(found.report.contains("1 taken and not freed"), "{}", found.report);
    assert_eq!(repair(), 1);
    assert_eq!(check().findings, 0);
    assert_eq!(sums(&ring), [4, 0, 4, 0]);
    let dead = frozen(|| assert_eq!(peek(&ring), 0));
    assert_eq!(check().findings, 0);
    kill(dead);
    assert_eq!(check().findings, 1);
    assert_eq!(repair(), 1);
    (0..4).for_each(|value| assert_eq!(pop(&ring), value));
    assert_eq!((sums(&ring), check().findings), ([4, 4, 0, 2], 0));
}
