//! A process is killed while it asks for a descriptor to poll, rings another one's doorbell, or cancels: at
//! each system call, before and after it, and after some instructions.
//!
//! `cargo test` tries every so-manieth place; MADANG_LONG=1 each system call, and more of the instructions.
#![cfg(target_arch = "x86_64")]

mod support;

use std::cell::Cell;
use std::ffi::CString;
use std::ptr;

use madang::ffi::object::MDG_OBJECT_POLL;
use madang::ffi::ring::*;
use support::halted::{CREATE, Call, LONG, asleep, join_soon};
use support::poll::{Bells, IN, OUT, readable};
use support::release_ring::{Handle, Shape};
use support::step::{release, turn};
use support::unique;

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

fn create(shape: Shape, name: &CString) -> Handle {
    let (options, mut ring) = (shape.options(), ptr::null_mut());
    let (out, options) = (&raw mut ring, &raw const options);
    // SAFETY: writable, a C string, options with their size.
    let made = unsafe { (release().open)(out, name.as_ptr(), options, CREATE, 0o600) };
    assert_eq!(made, 0);
    Handle { lib: release(), ring, shape }
}

/// Where one is killed who asks for a descriptor, one name at most is left; whoever takes its slot
/// removes it, or `mdg_object_reap` does. The ring and other descriptors work on.
#[test]
fn a_descriptor_is_had_or_not() {
    let _turn = turn();
    for (object, shape) in KINDS {
        // With a name: whose doorbell a FIFO of a ring without one is cannot be proven.
        let name = CString::new(unique("doorbell")).unwrap();
        let ring = create(shape, &name);
        let memory = ring.memory();
        // The producer's own descriptor tells the names of the ring's.
        let producer = Handle::open(release(), shape, &memory, libc::O_WRONLY);
        drop(ring);
        let bells = Bells::with(descriptor(&producer, OUT));
        assert_eq!(bells.count(), 1);
        let (mut tried, mut left) = (0, 0);
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
                let names = bells.names();
                assert!(names.len() <= 2, "{names:?}");
                if names.len() == 2 {
                    left += 1;
                    if tried % 2 == 0 {
                        // Only the dead one's.
                        let reaped = |name: &String| {
                            let name =
                                CString::new(name.strip_prefix("mdg.poll.").unwrap()).unwrap();
                            // SAFETY: a C string.
                            unsafe { (release().reap)(MDG_OBJECT_POLL, name.as_ptr(), 0) }
                        };
                        let mut codes: Vec<_> = names.iter().map(reaped).collect();
                        codes.sort_unstable();
                        assert_eq!(codes, [-libc::EBUSY, 1]);
                    }
                }
                let next = open();
                assert_eq!(bells.count(), 1, "whoever takes the slot removes the name");
                let fd = descriptor(&next, IN);
                assert_eq!(bells.count(), 2);
                // A new consumer of a broadcast has the last ones, too.
                let before = std::iter::from_fn(|| next.pop().ok()).count();
                assert!(before == 0 || shape.is_broadcast());
                assert_eq!(next.pop(), Err(-libc::EAGAIN));
                assert!(!readable(fd));
                assert_eq!(producer.push(tried), 0);
                assert!(readable(fd));
                assert_eq!(next.pop(), Ok(tried));
                drop(next);
                assert_eq!(bells.count(), 1);
            },
        );
        assert!(left > 0, "{object}: none was killed with its name standing");
        drop(producer);
        assert_eq!(bells.count(), 0);
        // SAFETY: a C string.
        assert_eq!(unsafe { (release().unlink)(name.as_ptr()) }, 0);
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
