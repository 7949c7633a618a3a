//! What the tests of broadcast rings have in common: numbered items of eight bytes.

use super::face::{FOREVER, NOWAIT, Outcome, refused_with};
use super::process::{Child, Gate, fork};
use super::ring_face::{Face, SECOND};
use madang::ring::{Kind, Options, policy};

pub const POLICIES: [u32; 3] = [0, policy::EVICT, policy::OVERWRITE];

pub fn broadcast(capacity: u64, item_size: u32, policy: u32) -> Options {
    Options { kind: Some(Kind::Broadcast), policy, ..Options::new(capacity, item_size) }
}

pub fn open<F: Face>(options: &Options) -> F {
    F::open(None, options, libc::O_WRONLY, 0).unwrap()
}

pub fn consumer<F: Face>(ring: &F) -> F {
    ring.dup(libc::O_RDONLY).unwrap()
}

pub fn push(ring: &impl Face, value: u64) {
    ring.push(&value.to_ne_bytes(), NOWAIT).unwrap();
}

#[track_caller]
pub fn try_pop(ring: &impl Face, timeout: i64) -> Outcome<u64> {
    let mut item = [0; 8];
    ring.pop(&mut item, timeout).map(|()| u64::from_ne_bytes(item))
}

#[track_caller]
pub fn pop(ring: &impl Face) -> u64 {
    try_pop(ring, NOWAIT).unwrap()
}

#[track_caller]
pub fn is_empty(ring: &impl Face) {
    refused_with(try_pop(ring, NOWAIT), libc::EAGAIN, "");
}

#[track_caller]
pub fn is_full(ring: &impl Face) {
    refused_with(ring.push(&[0; 8], NOWAIT), libc::EAGAIN, "");
}

/// The next pop must say that exactly `count` more items were lost.
#[track_caller]
pub fn loses(ring: &impl Face, count: u64) {
    let before = ring.lost();
    let text = format!(": {count} items went by");
    refused_with(try_pop(ring, FOREVER), libc::EOVERFLOW, &text);
    assert_eq!(ring.lost(), before + count);
}

/// Written, read, dropped, inside.
#[track_caller]
pub fn sums(ring: &impl Face) -> [u64; 4] {
    let stats = ring.stat();
    assert_eq!(stats.written, stats.read + stats.dropped + stats.lost + stats.length);
    [stats.written, stats.read, stats.dropped, stats.length]
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

/// Reads to the end of the stream; checks the order, and that nothing but what it was told is missing.
pub fn read_all(ring: &impl Face, written: impl Fn(u64) -> bool) {
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
