//! Broadcast rings whose participants die or stop: who is held up, and who is told.

mod support;

use madang::ffi::ring::*;
use madang::ring::{Ring, policy};
use nix::sys::signal::{self, Signal};
use support::broadcast::*;
use support::face::{FOREVER, NOWAIT, refused_with};
use support::process::{Gate, fork, join, kill};
use support::ring_face::{C, Face, SECOND};

on_both_faces! { Ring, C in turn:
    a_dead_consumer_is_dropped
    a_stopped_consumer_holds_the_producer
    a_stopped_consumer_is_evicted
    a_dead_producer_is_told_and_succeeded
    a_producer_killed_with_room_reserved
    a_forked_child_is_another_consumer
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
