//! Rings within one process: every operation, every promise of the header about arguments and
//! answers, through both faces.

mod support;

use madang::ffi::ring::*;
use madang::ring::{Kind, Options, Ring, policy};
use support::face::{FOREVER, NOWAIT, refused_with};
use support::ring_face::{C, CREATE, Face, Named};

on_both_faces! { Ring, C in turn:
    capacity_is_usable_to_the_last_slot
    batches
    in_place
    shutdown
    ends
    dup_for_a_thread
    mismatches_name_the_field
    arguments_of_open
    max_handles
    unlinked
    a_successor_starts_where_the_last_one_stopped
    skipping_old_items
}

/// A consumer that wants the newest items passes over the others: they count as read.
fn skipping_old_items<F: Face>() {
    let mpmc = |policy| Options { kind: Some(Kind::Mpmc), policy, ..Options::new(8, 8) };
    let (redeliver, lock_free) = (mpmc(policy::REDELIVER), mpmc(policy::STOPPROOF));
    for options in [Options::new(8, 8), mpmc(0), redeliver, lock_free] {
        let ring = F::open(None, &options, libc::O_RDWR, 0o600).unwrap();
        assert_eq!(ring.skip(0).unwrap(), 0, "an empty ring");
        // Three laps, so that runs end at the end of the ring.
        for lap in 0..3 {
            (0..7).for_each(|i| ring.push(&word(lap * 10 + i), NOWAIT).unwrap());
            assert_eq!(pop_word(&ring), lap * 10);
            assert_eq!(ring.skip(7).unwrap(), 0);
            assert_eq!(ring.skip(2).unwrap(), 4);
            assert_eq!((pop_word(&ring), pop_word(&ring)), (lap * 10 + 5, lap * 10 + 6));
        }
        let stats = ring.stat();
        assert_eq!((stats.written, stats.read, stats.lost, stats.length), (21, 21, 0, 0));
        ring.push(&word(1), NOWAIT).unwrap();
        ring.peek(1, NOWAIT).unwrap();
        refused_with(ring.skip(0), libc::EINVAL, "handed out in place");
        ring.release(0).unwrap();
        assert_eq!(ring.skip(0).unwrap(), 1);
        ring.shutdown().unwrap();
        assert_eq!(ring.skip(0).unwrap(), 0, "the end of the stream is for the next pop to tell");
        refused_with(ring.pop(&mut [0; 8], NOWAIT), libc::EPIPE, "");
    }
    let producer = F::open(None, &Options::new(8, 8), libc::O_WRONLY, 0o600).unwrap();
    refused_with(producer.skip(0), libc::EACCES, "consuming end");
}

fn word(value: u64) -> [u8; 8] {
    value.to_ne_bytes()
}

fn pop_word(ring: &impl Face) -> u64 {
    let mut item = [0; 8];
    ring.pop(&mut item, NOWAIT).unwrap();
    u64::from_ne_bytes(item)
}

/// All of the capacity is usable, order is kept, "full" and "empty" are what they say.
fn capacity_is_usable_to_the_last_slot<F: Face>() {
    for (asked, capacity) in [(1, 1), (2, 2), (3, 4), (10, 16), (1000, 1024)] {
        let ring = F::open(None, &Options::new(asked, 8), libc::O_RDWR, 0o600).unwrap();
        for round in 0..3_u64 {
            for i in 0..capacity {
                ring.push(&word(round * 10_000 + i), NOWAIT).unwrap();
            }
            refused_with(ring.push(&word(0), NOWAIT), libc::EAGAIN, "");
            let stats = ring.stat();
            assert_eq!((stats.capacity, stats.length), (capacity, capacity));
            for i in 0..capacity {
                assert_eq!(pop_word(&ring), round * 10_000 + i);
            }
            refused_with(ring.pop(&mut [0; 8], NOWAIT), libc::EAGAIN, "");
        }
        let stats = ring.stat();
        assert_eq!((stats.written, stats.read, stats.length), (3 * capacity, 3 * capacity, 0));
    }
}

/// Batches take what fits, in order, across the end of the ring.
fn batches<F: Face>() {
    for size in [1, 7, 8, 64] {
        let ring = F::open(None, &Options::new(8, size as u32), libc::O_RDWR, 0o600).unwrap();
        let items: Vec<u8> = (0..size * 11).map(|i| i as u8).collect();
        let mut back = vec![0; size * 11];
        for _ in 0..5 {
            assert_eq!(ring.push_many(&items[..size * 3], size, NOWAIT), Ok(3));
            assert_eq!(ring.push_many(&items[size * 3..], size, NOWAIT), Ok(5));
            refused_with(ring.push_many(&items, size, NOWAIT), libc::EAGAIN, "");
            assert_eq!(ring.push_many(&[], size, NOWAIT), Ok(0));
            assert_eq!(ring.pop_many(&mut back[..size], size, NOWAIT), Ok(1));
            assert_eq!(ring.pop_many(&mut back[size..], size, NOWAIT), Ok(7));
            assert_eq!(back[..size * 8], items[..size * 8]);
            refused_with(ring.pop_many(&mut back, size, NOWAIT), libc::EAGAIN, "");
            assert_eq!(ring.pop_many(&mut [], size, NOWAIT), Ok(0));
        }
    }
}

/// Runs in place: contiguous, invisible before commit, still there before release.
fn in_place<F: Face>() {
    let ring = F::open(None, &Options::new(8, 8), libc::O_RDWR, 0o600).unwrap();
    let (items, run) = ring.reserve(5, NOWAIT).unwrap();
    assert_eq!(run, 5);
    for i in 0..5 {
        // SAFETY: five items of eight bytes were handed out.
        unsafe { items.cast::<u64>().add(i).write_unaligned(100 + i as u64) };
    }
    refused_with(ring.pop(&mut [0; 8], NOWAIT), libc::EAGAIN, "");
    refused_with(ring.commit(6), libc::EINVAL, "6 items of a run of 5");
    refused_with(ring.push(&word(1), NOWAIT), libc::EINVAL, "handed out");
    refused_with(ring.reserve(1, NOWAIT), libc::EINVAL, "handed out");
    ring.commit(4).unwrap();
    assert_eq!(ring.stat().length, 4);
    refused_with(ring.commit(1), libc::EINVAL, "a run of 0");
    ring.commit(0).unwrap();

    let (items, run) = ring.peek(100, NOWAIT).unwrap();
    assert_eq!(run, 4);
    refused_with(ring.pop(&mut [0; 8], NOWAIT), libc::EINVAL, "handed out");
    // SAFETY: four items were handed out.
    assert_eq!(unsafe { items.cast::<u64>().add(3).read_unaligned() }, 103);
    refused_with(ring.release(5), libc::EINVAL, "5 items of a run of 4");
    ring.release(1).unwrap();
    assert_eq!(pop_word(&ring), 101);
    let (_, run) = ring.peek(1, NOWAIT).unwrap();
    assert_eq!(run, 1);
    ring.release(0).unwrap();
    assert_eq!(pop_word(&ring), 102);
    assert_eq!(pop_word(&ring), 103);
    refused_with(ring.peek(1, NOWAIT), libc::EAGAIN, "");
    refused_with(ring.peek(0, NOWAIT), libc::EINVAL, "no items");
    refused_with(ring.reserve(0, NOWAIT), libc::EINVAL, "no items");

    // Index 4: a run ends at the end of the ring.
    let (_, run) = ring.reserve(8, NOWAIT).unwrap();
    assert_eq!(run, 4);
    ring.commit(4).unwrap();
    let (_, run) = ring.reserve(8, NOWAIT).unwrap();
    assert_eq!(run, 4);
    ring.commit(0).unwrap();
    ring.push(&word(7), NOWAIT).unwrap();
    assert_eq!(ring.stat().length, 5);
}

/// A shutdown ends pushing at once, and popping after what is inside; it is idempotent and
/// outlives handles.
fn shutdown<F: Face>() {
    let name = Named::new("shutdown");
    let ring = F::open(Some(&name.0), &Options::new(4, 8), CREATE, 0o600).unwrap();
    ring.push(&word(1), NOWAIT).unwrap();
    ring.push(&word(2), NOWAIT).unwrap();
    ring.shutdown().unwrap();
    ring.shutdown().unwrap();
    refused_with(ring.push(&word(3), FOREVER), libc::EPIPE, "shut down");
    refused_with(ring.push(&word(3), FOREVER), libc::EPIPE, "unlink this one first");
    refused_with(ring.reserve(1, FOREVER), libc::EPIPE, "shut down");
    refused_with(ring.push_many(&word(3), 8, FOREVER), libc::EPIPE, "shut down");
    assert_eq!(pop_word(&ring), 1);
    drop(ring);
    let ring = F::open(Some(&name.0), &Options::default(), libc::O_RDWR, 0).unwrap();
    assert_eq!(ring.stat().flags, MDG_RING_SHUTDOWN);
    refused_with(ring.push(&word(3), NOWAIT), libc::EPIPE, "shut down");
    assert_eq!(pop_word(&ring), 2);
    for timeout in [NOWAIT, FOREVER] {
        refused_with(ring.pop(&mut [0; 8], timeout), libc::EPIPE, "shut down");
        refused_with(ring.peek(1, timeout), libc::EPIPE, "shut down");
    }
}

/// The ends: taken at open or at first use, one holder each, refused for the wrong access.
fn ends<F: Face>() {
    let name = Named::new("ends");
    let options = Options::new(4, 8);
    let create = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
    let producer = F::open(Some(&name.0), &options, create, 0o600).unwrap();
    let open = |oflag| F::open(Some(&name.0), &Options::default(), oflag, 0);
    refused_with(open(libc::O_WRONLY), libc::EBUSY, &format!("pid {}", std::process::id()));
    let consumer = open(libc::O_RDONLY).unwrap();
    refused_with(open(libc::O_RDONLY), libc::EBUSY, "consuming end");
    refused_with(producer.pop(&mut [0; 8], NOWAIT), libc::EACCES, "consuming end");
    refused_with(producer.peek(1, NOWAIT), libc::EACCES, "consuming end");
    refused_with(consumer.push(&word(1), NOWAIT), libc::EACCES, "producing end");
    let both = open(libc::O_RDWR).unwrap();
    refused_with(both.push(&word(1), NOWAIT), libc::EBUSY, "producing end");
    producer.push(&word(5), NOWAIT).unwrap();
    let states = |ring: &F| (ring.stat().producer_state, ring.stat().consumer_state);
    assert_eq!(states(&both), (MDG_RING_END_LIVE, MDG_RING_END_LIVE));
    drop(producer);
    assert_eq!(states(&both), (MDG_RING_END_CLOSED, MDG_RING_END_LIVE));
    both.push(&word(6), NOWAIT).unwrap();
    assert_eq!(pop_word(&consumer), 5);
    drop(consumer);
    assert_eq!(pop_word(&both), 6);
    assert_eq!(both.stat().recovered, 0);
    // A closed end is no death: waiting for the next one is waiting.
    drop(both);
    let consumer = open(libc::O_RDONLY).unwrap();
    refused_with(consumer.pop(&mut [0; 8], 1_000_000), libc::ETIMEDOUT, "");
}

/// A second handle for a second thread, of an anonymous ring too.
fn dup_for_a_thread<F: Face>() {
    let ring = F::open(None, &Options::new(64, 8), libc::O_WRONLY, 0).unwrap();
    let other = ring.dup(libc::O_RDONLY).unwrap();
    refused_with(ring.dup(libc::O_RDONLY), libc::EBUSY, "consuming end");
    for i in 0..64 {
        ring.push(&word(i), NOWAIT).unwrap();
    }
    for i in 0..64 {
        assert_eq!(pop_word(&other), i);
    }
    assert_eq!(other.stat().flags, 0);
}

/// What exists is compared with what is asked for, field by field.
fn mismatches_name_the_field<F: Face>() {
    let name = Named::new("mismatch");
    let ring = F::open(Some(&name.0), &Options::new(1000, 16), CREATE, 0o600).unwrap();
    let open = |options| F::open(Some(&name.0), &options, libc::O_RDWR, 0);
    let me = format!("created by pid {}", std::process::id());
    refused_with(
        open(Options::new(0, 8)),
        libc::EPROTO,
        "item_size is 8 here but 16 in the object",
    );
    refused_with(open(Options::new(0, 8)), libc::EPROTO, &me);
    refused_with(open(Options::new(2000, 0)), libc::EPROTO, "capacity is 2048 here but 1024");
    let handles = |max_handles| Options { max_handles, ..Options::default() };
    refused_with(open(handles(7)), libc::EPROTO, "max_handles is 7 here but 64");
    for same in [Options::default(), Options::new(1000, 16), Options::new(1024, 0), handles(64)] {
        open(same).unwrap();
    }
    drop(ring);
}

/// Making needs sizes; sizes have limits; flags and modes have known bits.
fn arguments_of_open<F: Face>() {
    let name = Named::new("arguments");
    let open = |options| F::open(Some(&name.0), &options, CREATE, 0o600);
    refused_with(open(Options::default()), libc::EINVAL, "needs a capacity");
    refused_with(open(Options::new(0, 8)), libc::EINVAL, "needs a capacity");
    refused_with(open(Options::new(8, 0)), libc::EINVAL, "needs a capacity");
    refused_with(open(Options::new(u64::MAX, 8)), libc::EOVERFLOW, "capacity");
    refused_with(open(Options::new(1 << 62, 8)), libc::EOVERFLOW, "beyond any memory");
    refused_with(open(Options::new(1 << 60, 8)), libc::EOVERFLOW, "beyond any memory");
    refused_with(open(Options { policy: 1 << 30, ..Options::new(8, 8) }), libc::EINVAL, "policy");
    let many = Options { max_handles: 4097, ..Options::new(8, 8) };
    refused_with(open(many), libc::EINVAL, "max_handles");
    // More than the file system has, but not more than a number can say.
    refused_with(open(Options::new(1 << 40, 4096)), libc::ENOSPC, "do not fit");
    refused_with(
        F::open(Some(&name.0), &Options::new(8, 8), libc::O_RDWR, 0),
        libc::ENOENT,
        &name.0,
    );
    assert!(!std::path::Path::new(&name.path()).exists(), "nothing half-made");
    open(Options::new(8, 8)).unwrap();
    let excl = CREATE | libc::O_EXCL;
    refused_with(F::open(Some(&name.0), &Options::new(8, 8), excl, 0o600), libc::EEXIST, "exists");
    for bad in ["", "/", ".", "..", "a/b", "//x"] {
        refused_with(F::open(Some(bad), &Options::new(8, 8), CREATE, 0o600), libc::EINVAL, "name");
        refused_with(F::unlink(bad), libc::EINVAL, "name");
    }
    let long = "n".repeat(247);
    refused_with(
        F::open(Some(&long), &Options::new(8, 8), CREATE, 0o600),
        libc::ENAMETOOLONG,
        "246",
    );
    F::unlink(&name.0).unwrap();
    refused_with(F::unlink(&name.0), libc::ENOENT, &name.0);
}

/// Only so many handles: the next one is refused, and a closed one makes room.
fn max_handles<F: Face>() {
    let options = Options { max_handles: 2, ..Options::new(8, 8) };
    let first = F::open(None, &options, libc::O_RDWR, 0).unwrap();
    let second = first.dup(libc::O_RDWR).unwrap();
    refused_with(first.dup(libc::O_RDWR), libc::EMFILE, "all 2 handles");
    drop(second);
    first.dup(libc::O_RDWR).unwrap();
}

/// Unlinking takes the name only; who has the ring goes on, knows it, and a new one is new.
fn unlinked<F: Face>() {
    let name = Named::new("unlinked");
    let old = F::open(Some(&name.0), &Options::new(8, 8), CREATE, 0o600).unwrap();
    old.push(&word(1), NOWAIT).unwrap();
    assert_eq!(old.stat().flags, 0);
    F::unlink(&name.0).unwrap();
    assert_eq!(old.stat().flags, MDG_RING_UNLINKED);
    let new = F::open(Some(&name.0), &Options::new(8, 8), CREATE, 0o600).unwrap();
    refused_with(new.pop(&mut [0; 8], NOWAIT), libc::EAGAIN, "");
    assert_eq!(pop_word(&old), 1);
}

/// Nothing is inside for a second handle that was taken before, nor lost between holders.
fn a_successor_starts_where_the_last_one_stopped<F: Face>() {
    let name = Named::new("successor");
    drop(F::open(Some(&name.0), &Options::new(4, 8), CREATE, 0o600).unwrap());
    for i in 0..50 {
        let open = |oflag| F::open(Some(&name.0), &Options::default(), oflag, 0).unwrap();
        open(libc::O_WRONLY).push(&word(i), NOWAIT).unwrap();
        assert_eq!(pop_word(&open(libc::O_RDONLY)), i);
    }
}

/// The Rust face wants whole items.
#[test]
fn rust_slices() {
    let (producer, consumer) = madang::ring::pair(&Options::new(8, 8)).unwrap();
    let forever = madang::Timeout::Forever;
    assert_eq!(producer.push(&[0; 7], forever).unwrap_err().errno(), libc::EMSGSIZE);
    assert_eq!(producer.push_many(&[0; 17], forever).unwrap_err().errno(), libc::EMSGSIZE);
    assert_eq!(producer.push_many(&[1; 24], forever), Ok(3));
    assert_eq!(consumer.pop(&mut [0; 9], forever).unwrap_err().errno(), libc::EMSGSIZE);
    assert_eq!(consumer.pop_many(&mut [0; 1], forever).unwrap_err().errno(), libc::EMSGSIZE);
    producer.shutdown().unwrap();
    let mut rest = [0; 64];
    assert_eq!(consumer.pop_many(&mut rest, forever), Ok(3));
    assert_eq!(consumer.pop_many(&mut rest, forever).unwrap_err().errno(), libc::EPIPE);
    assert!(producer.stat().shutdown && consumer.stat().read == 3);
}
