//! What the tests of rings that redeliver have in common: numbered items of eight bytes, and consumers that die with one in hands.

use super::face::{NOWAIT, refused_with};
use super::process::{Child, Gate, fork, kill};
use super::ring_face::Face;
use madang::ring::{Kind, Options, policy};

pub fn redelivering(capacity: u64) -> Options {
    let policy = policy::REDELIVER;
    Options { kind: Some(Kind::Mpmc), policy, ..Options::new(capacity, 8) }
}

pub fn open<F: Face>(options: &Options) -> F {
    F::open(None, options, libc::O_RDWR, 0).unwrap()
}

pub fn push(ring: &impl Face, value: u64) {
    ring.push(&value.to_ne_bytes(), NOWAIT).unwrap();
}

pub fn pop_within(ring: &impl Face, timeout: i64) -> u64 {
    let mut item = [0; 8];
    ring.pop(&mut item, timeout).unwrap();
    u64::from_ne_bytes(item)
}

#[track_caller]
pub fn pop(ring: &impl Face) -> u64 {
    pop_within(ring, NOWAIT)
}

/// Pops as one who never waits and goes on asking.
pub fn poll(ring: &impl Face) -> u64 {
    let mut item = [0; 8];
    while let Err(error) = ring.pop(&mut item, NOWAIT) {
        assert_eq!(error.code, libc::EAGAIN, "{}", error.text);
    }
    u64::from_ne_bytes(item)
}

pub fn peek(ring: &impl Face) -> u64 {
    let (item, count) = ring.peek(1, NOWAIT).unwrap();
    assert_eq!(count, 1);
    // SAFETY: one item of eight bytes.
    unsafe { item.cast::<u64>().read_unaligned() }
}

#[track_caller]
pub fn is_empty(ring: &impl Face) {
    refused_with(ring.pop(&mut [0; 8], NOWAIT), libc::EAGAIN, "");
}

/// Written, read, inside, taken again; nothing is ever lost.
#[track_caller]
pub fn sums(ring: &impl Face) -> [u64; 4] {
    let stats = ring.stat();
    assert_eq!(stats.written, stats.read + stats.dropped + stats.length);
    assert_eq!((stats.lost, stats.pending), (0, 0));
    [stats.written, stats.read, stats.length, stats.redelivered]
}

/// A child that has done `body` and waits to be killed.
pub fn frozen(body: impl FnOnce()) -> Child {
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

/// A consumer that was killed with the oldest item in hands, which is `value`.
pub fn killed_with(ring: &impl Face, value: u64) {
    kill(frozen(|| assert_eq!(peek(ring), value)));
}
