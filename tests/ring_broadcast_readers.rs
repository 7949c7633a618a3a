//! Broadcast rings read by who has no permission to write to them.

mod support;

use madang::ffi::ring::*;
use madang::ring::{Options, Ring, Start, policy};
use support::broadcast::*;
use support::face::{FOREVER, NOWAIT, refused_with};
use support::process::{Gate, as_nobody, fork, is_root, join, kill, serial};
use support::ring_face::{C, CREATE, Entry, Face, Named, SECOND};

on_both_faces! { Ring, C in turn:
    who_may_only_read
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
            let oldest = Options { start: Start::Oldest, ..Options::default() };
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
