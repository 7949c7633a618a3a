//! A survivor: takes a ring as a killed process has left it, empties it, uses it for a second life,
//! and says what had become of the call that was killed. Panics where a promise is broken.

use std::ffi::c_int;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use madang::ffi::ring::*;

use super::release_ring::{HANDLES, Handle, Shape, within_bound};
use super::step::Release;

/// Numbers of the survivor's own items begin here.
pub const OWN: u64 = 1 << 32;

/// What may have become of the calls that were killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Items ever pushed before, by number from 0.
    pub total: u64,
    /// The first of them that is inside.
    pub first: u64,
    /// Items that the dead may have pushed, and may have taken.
    pub pushed: u64,
    pub taken: u64,
    /// Whether the dead may have ended the stream.
    pub shut: bool,
}

/// What has become of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fate {
    pub pushed: u64,
    /// Queues only: items that nobody can have any more.
    pub gone: u64,
}

/// Which end the survivor works on first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    Drain,
    Fill,
}

#[track_caller]
pub fn survive(
    lib: &'static Release,
    shape: Shape,
    memory: &OwnedFd,
    bounds: Bounds,
    first: First,
) -> Fate {
    if shape.is_broadcast() {
        survive_broadcast(lib, shape, memory, bounds, first)
    } else {
        survive_queue(lib, shape, memory, bounds, first)
    }
}

#[track_caller]
fn consecutive(found: &[u64]) {
    assert!(found.windows(2).all(|pair| pair[0] + 1 == pair[1]), "out of order: {found:?}");
}

#[track_caller]
fn survive_queue(
    lib: &'static Release,
    shape: Shape,
    memory: &OwnedFd,
    bounds: Bounds,
    first: First,
) -> Fate {
    let ring = Handle::open(lib, shape, memory, libc::O_RDWR);
    let mut own = OWN;
    if first == First::Fill && !shape.is_never_full() && !bounds.shut {
        // Full for as long as polling takes to find a death: then it is.
        let mut since = Instant::now();
        while since.elapsed() < Duration::from_millis(3) {
            match ring.push(own) {
                0 => {
                    own += 1;
                    since = Instant::now();
                }
                code => assert_eq!(code, -libc::EAGAIN),
            }
        }
    }
    let before = own - OWN;
    let mut found = ring.drain();
    if shape.redelivers() {
        // A death is noticed by who polls in vain for a millisecond.
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(2));
            found.extend(ring.drain());
        }
        // What a dead one had comes when its death is noticed; each once, and nothing is missing.
        let mine: Vec<_> = found.iter().copied().filter(|&number| number >= OWN).collect();
        assert!(mine.is_sorted(), "{mine:?}");
        found.sort_unstable();
    }
    let at = found.iter().position(|&number| number >= OWN).unwrap_or(found.len());
    assert_eq!(found.split_off(at), (OWN..own).collect::<Vec<_>>(), "the survivor's own");
    consecutive(&found);
    let stats = ring.closed_stat();
    let total = stats.written - before;
    let pushed = total.checked_sub(bounds.total).expect("no item is missing at the end");
    assert!(pushed <= bounds.pushed, "{pushed} pushed");
    assert!(found.last().is_none_or(|&last| last + 1 == total), "{found:?} of {total}");
    let gone = (total - bounds.first).checked_sub(found.len() as u64).expect("none twice");
    // A full ring that overwrites gives up one for each pushed, or two: its killed call's, too.
    assert!(gone <= bounds.taken, "{gone} gone: {found:?} of {bounds:?}");
    let keeps = shape.kind == MDG_RING_SPSC || shape.redelivers();
    assert!(stats.lost <= bounds.taken && (!keeps || stats.lost == 0));
    let shut = stats.flags & MDG_RING_SHUTDOWN != 0;
    assert!(bounds.shut || !shut);
    if shut {
        assert_eq!(ring.push(own), -libc::EPIPE);
        return Fate { pushed, gone };
    }

    // The second life: all of its places, one by one, and by batches.
    let all = || (own..own + shape.capacity).collect::<Vec<_>>();
    for number in all() {
        ring.must_push(number);
    }
    if !shape.is_never_full() {
        assert_eq!(ring.push(0), -libc::EAGAIN, "full");
    }
    assert_eq!(ring.drain(), all());
    let mut done = 0;
    within_bound("push_many", || {
        match ring.push_many(own + done, shape.capacity - done) {
            code if code < 0 => assert_eq!(code as c_int, -libc::EAGAIN),
            count => done += count as u64,
        }
        (done == shape.capacity).then_some(())
    });
    let mut found = Vec::new();
    within_bound("pop_many", || {
        match ring.pop_many(shape.capacity) {
            Err(code) => assert_eq!(code, -libc::EAGAIN),
            Ok(items) => found.extend(items),
        }
        (found.len() as u64 >= shape.capacity).then_some(())
    });
    assert_eq!(found, all());
    // All handles can be open, so all that the dead have left is cleared away.
    let others: Vec<_> =
        (1..HANDLES).map(|_| Handle::open(lib, shape, memory, libc::O_RDWR)).collect();
    let stats = ring.closed_stat();
    assert_eq!((stats.written, stats.length), (total + before + 2 * shape.capacity, 0));
    assert!(stats.pending == 0 && stats.lost <= bounds.taken, "{stats:?}");
    drop(others);
    Fate { pushed, gone }
}

#[track_caller]
fn survive_broadcast(
    lib: &'static Release,
    shape: Shape,
    memory: &OwnedFd,
    bounds: Bounds,
    first: First,
) -> Fate {
    // A new consumer, with the oldest that is there, and a new producer, in either order.
    let open = |oflag| Handle::open(lib, shape, memory, oflag);
    let (consumer, producer) = if first == First::Drain {
        let consumer = open(libc::O_RDONLY);
        (consumer, open(libc::O_WRONLY))
    } else {
        let producer = open(libc::O_WRONLY);
        (open(libc::O_RDONLY), producer)
    };
    let found = consumer.drain();
    consecutive(&found);
    // The last one may be gone already, for the next that its killed producer had begun to write.
    let total = producer.closed_stat().written;
    assert!(found.last().is_none_or(|last| last + 1 == total), "{found:?} of {total}");
    let pushed = total.checked_sub(bounds.total).expect("no item is missing at the end");
    assert!(pushed <= bounds.pushed, "{pushed} pushed");
    let sure = if shape.overwrites() { shape.capacity } else { (3 * shape.capacity).div_ceil(4) };
    // What a killed producer has already given up for its own.
    let least = sure.min(total).saturating_sub(bounds.pushed);
    assert!((least..=shape.capacity).contains(&(found.len() as u64)), "{found:?} of {total}");
    let shut = producer.closed_stat().flags & MDG_RING_SHUTDOWN != 0;
    assert!(bounds.shut || !shut);
    if shut {
        assert_eq!(producer.push(0), -libc::EPIPE);
        return Fate { pushed, gone: 0 };
    }
    for _ in 0..2 {
        let all: Vec<_> = (OWN..OWN + shape.capacity).collect();
        all.iter().for_each(|&number| producer.must_push(number));
        if !shape.is_never_full() {
            assert_eq!(producer.push(0), -libc::EAGAIN, "full");
        }
        assert_eq!(consumer.drain(), all);
    }
    let stats = producer.closed_stat();
    assert_eq!((stats.written, stats.lost), (total + 2 * shape.capacity, 0));
    let _others = [(); HANDLES as usize - 2].map(|()| open(libc::O_RDONLY));
    Fate { pushed, gone: 0 }
}
