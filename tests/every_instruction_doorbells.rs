//! A process is killed while it asks for a descriptor to poll, rings another one's doorbell, or cancels: at
//! each system call, before and after it, and after some instructions.
//!
//! `cargo test` tries every so-manieth place; MADANG_LONG=1 each system call, and more of the instructions.
#![cfg(target_arch = "x86_64")]

mod support;

use std::cell::Cell;

use madang::ffi::ring::*;
use support::halted::{Call, LONG, asleep, join_soon};
use support::poll::{IN, OUT, readable};
use support::release_ring::{Handle, Shape};
use support::step::{release, turn};

const KINDS: [(&str, Shape); 4] = [
    ("one to one", shape(MDG_RING_SPSC, 0)),
    ("many to many", shape(MDG_RING_MPMC, 0)),
    ("stop-proof", shape(MDG_RING_MPMC, MDG_RING_STOPPROOF)),
    ("broadcast", shape(MDG_RING_BROADCAST, 0)),
];

const fn shape(kind: u32, policy: u32) -> Shape {
    Shape { kind, policy, capacity: 4, size: 8 }
}

#[track_caller]
fn descriptor(ring: &Handle, events: u32) -> i32 {
    // SAFETY: a live handle.
    let fd = unsafe { (release().fd)(ring.ring, events) };
    assert!(fd >= 0, "{fd}");
    fd
}

/// A process that is killed while it asks for a descriptor leaves nothing but, perhaps, its part of
/// `polled`, until its slot is taken. The ring and other descriptors work on.
#[test]
fn a_descriptor_is_had_or_not() {
    let _turn = turn();
    for (object, shape) in KINDS {
        let ring = Handle::new(release(), shape);
        let memory = ring.memory();
        let producer = Handle::open(release(), shape, &memory, libc::O_WRONLY);
        drop(ring);
        descriptor(&producer, OUT);
        let polled = || {
            let mut word = [0; 4];
            assert_eq!(nix::sys::uio::pread(&memory, &mut word, 4096 + 0x600), Ok(4));
            u32::from_ne_bytes(word) >> 16
        };
        assert_eq!(polled(), 1);
        let (mut tried, mut counted) = (0, 0);
        // Killed in the one instruction between the count and the bit that says so.
        let mut uncounted = 0;
        let open = || Handle::open(release(), shape, &memory, libc::O_RDONLY);
        let call = Call::far(object, "mdg_ring_fd", release().fd as usize);
        Call { kernel: 1, apart: 499, ..call }.halted(
            "killed",
            open,
            |ring| _ = descriptor(ring, IN),
            drop,
            || (),
            |victim| {
                victim.kill();
                tried += 1;
                counted += u32::from(polled() == 2 + uncounted);
                let next = open();
                assert!(polled() - uncounted <= 2);
                uncounted = polled() - 1;
                let fd = descriptor(&next, IN);
                assert_eq!(polled(), 2 + uncounted);
                // A new consumer of a broadcast has the last ones, too.
                let before = std::iter::from_fn(|| next.pop().ok()).count();
                assert!(before == 0 || shape.is_broadcast());
                assert_eq!(next.pop(), Err(-libc::EAGAIN));
                assert!(!readable(fd));
                assert_eq!(producer.push(tried), 0);
                assert!(readable(fd));
                assert_eq!(next.pop(), Ok(tried));
                drop(next);
                assert_eq!(polled(), 1 + uncounted);
            },
        );
        assert!(counted > 0 && uncounted <= 1, "{object}: {counted}, {uncounted}");
        drop(producer);
        assert_eq!(polled(), uncounted);
    }
}

/// Who pushes, and rings somebody's doorbell, is killed: the descriptor is readable only if there is the
/// item, and after the next push in any case.
#[test]
fn a_doorbell_is_rung_by_the_next_at_the_latest() {
    let _turn = turn();
    for (object, shape) in KINDS {
        let ring = Handle::new(release(), shape);
        let memory = ring.memory();
        drop(ring);
        let poller = Handle::open(release(), shape, &memory, libc::O_RDONLY);
        let fd = descriptor(&poller, IN);
        let open = || Handle::open(release(), shape, &memory, libc::O_WRONLY);
        let (mut silent, mut rung, mut neither) = (0, 0, 0);
        let call = Call::near(object, "push, with a doorbell", release().push as usize);
        Call { kernel: 1, instruction: 199, apart: 41, ..call }.halted(
            "killed",
            open,
            |ring| assert_eq!(ring.push(1), 0),
            drop,
            || {
                assert_eq!(poller.pop(), Err(-libc::EAGAIN));
                assert!(!readable(fd));
            },
            |victim| {
                victim.kill();
                let was_readable = readable(fd);
                let next = open();
                assert_eq!(next.push(2), 0);
                assert!(readable(fd), "the next push rings");
                let first = poller.pop().unwrap();
                match (first, was_readable) {
                    (1, true) => rung += 1,
                    (1, false) => silent += 1,
                    (2, false) => neither += 1,
                    other => panic!("rung for nothing: {other:?}"),
                }
                assert!(first == 2 || poller.pop() == Ok(2));
                assert_eq!(poller.pop(), Err(-libc::EAGAIN));
                poller.closed_stat();
            },
        );
        // Those killed before their item was there are few, with places so far apart.
        assert!(silent > 0 && rung > 0, "{object}: {silent}, {rung}, {neither}");
    }
}

/// A cancellation is its handle's own affair: whoever is killed in it, and has a doorbell, ends nobody
/// else's wait, and leaves a ring that works.
#[test]
fn a_cancellation_is_nobody_elses() {
    let _turn = turn();
    let (object, shape) = KINDS[1];
    let ring = Handle::new(release(), shape);
    let memory = ring.memory();
    let open = || Handle::open(release(), shape, &memory, libc::O_RDWR);
    let sleeper = Cell::new(None);
    let mut item = 10;
    let call = Call::near(object, "mdg_ring_cancel", release().cancel as usize);
    Call { kernel: 1, apart: 3, ..call }.halted(
        "killed",
        || {
            let ring = open();
            descriptor(&ring, IN);
            assert_eq!(ring.pop(), Err(-libc::EAGAIN));
            ring
        },
        // SAFETY: a live handle.
        |ring| assert_eq!(unsafe { (release().cancel)(ring.ring) }, 0),
        drop,
        || {
            sleeper.set(Some(asleep(|| {
                let found = open().pop_for(LONG);
                assert!(found.is_ok_and(|number| number >= 10), "{found:?}");
            })));
        },
        |victim| {
            victim.kill();
            item += 1;
            assert_eq!(ring.push(item), 0);
            join_soon(sleeper.take().unwrap());
            assert_eq!(ring.pop(), Err(-libc::EAGAIN));
            ring.closed_stat();
        },
    );
}
