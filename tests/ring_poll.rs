//! Descriptors of rings, for poll, epoll and event loops: readable when they should be.

mod support;

use madang::ring::{Kind, Options, Ring, policy};
use nix::errno::Errno;
use support::face::{FOREVER, NOWAIT, refused, refused_with};
use support::poll::*;
use support::ring_face::{C, Face};

on_both_faces! { Ring, C in turn:
    readable_until_a_call_would_have_to_wait
    room_is_told_as_well
    room_by_given_back_places_is_told
    room_by_a_peek_is_told_where_nobody_waits
    both_events_at_one_handle
    what_cannot_be_asked_for
    the_end_of_the_stream_is_told_for_good
    runs_in_place
}

fn readable_until_a_call_would_have_to_wait<F: Face>() {
    for kind in [Kind::Spsc, Kind::Mpmc] {
        let ring: F = open(kind, 4);
        let fd = ring.fd(IN).unwrap();
        assert_eq!(ring.fd(IN).unwrap(), fd, "always the same");
        assert!(readable(fd), "nobody has looked yet");
        is_empty(&ring);
        assert!(!readable(fd));
        is_empty(&ring);
        assert!(!readable(fd));
        for round in 0..3 {
            for i in 0..3 {
                ring.push(&word(round * 10 + i), NOWAIT).unwrap();
                assert!(readable(fd));
            }
            for i in 0..3 {
                assert!(readable(fd), "something is left");
                assert_eq!(pop(&ring), round * 10 + i);
            }
            assert!(readable(fd), "no call has said that nothing is left");
            is_empty(&ring);
            assert!(!readable(fd));
        }
        // Waits that run out say nothing about the descriptor.
        refused_with(ring.pop(&mut [0; 8], 1_000_000), libc::ETIMEDOUT, "");
        assert!(!readable(fd));
        ring.push_many(&[1; 16], 8, NOWAIT).unwrap();
        assert!(readable(fd));
        assert_eq!(ring.pop_many(&mut [0; 64], 8, NOWAIT).unwrap() % 2, 0);
        assert_eq!(refused(ring.pop_many(&mut [0; 64], 8, NOWAIT)), Errno::EAGAIN);
        assert!(!readable(fd));
        // Asked for again, it is as it was; asked for something else, it is as at first.
        assert_eq!(ring.fd(IN).unwrap(), fd);
        assert!(!readable(fd));
        assert_eq!(ring.fd(IN | OUT).unwrap(), fd);
        assert!(readable(fd));
    }
}

fn room_is_told_as_well<F: Face>() {
    for kind in [Kind::Spsc, Kind::Mpmc] {
        let consumer: F = open(kind, 2);
        let producer = consumer.dup(libc::O_WRONLY).unwrap();
        let fd = producer.fd(OUT).unwrap();
        assert!(readable(fd));
        for round in 0..3 {
            while producer.push(&word(round), NOWAIT).is_ok() {}
            assert!(!readable(fd));
            pop(&consumer);
            assert!(readable(fd));
            producer.push(&word(round), NOWAIT).unwrap();
            assert!(readable(fd));
            is_full(&producer);
            assert!(!readable(fd));
            pop(&consumer);
            pop(&consumer);
        }
    }
    // A ring that fails instead of waiting says so by -EAGAIN, too.
    let options = Options { policy: madang::ring::policy::FAIL, ..Options::new(1, 8) };
    let ring = F::open(None, &options, libc::O_RDWR, 0).unwrap();
    let fd = ring.fd(OUT).unwrap();
    ring.push(&word(1), FOREVER).unwrap();
    refused_with(ring.push(&word(1), FOREVER), libc::EAGAIN, "");
    assert!(!readable(fd));
    pop(&ring);
    assert!(readable(fd));
}

/// Places that were claimed and given back are room once a consumer has come to them, though it finds
/// nothing in them.
fn room_by_given_back_places_is_told<F: Face>() {
    let pop = |ring: &F| ring.pop(&mut [0; 8], NOWAIT);
    let peek = |ring: &F| ring.peek(1, NOWAIT).map(drop);
    for take in [pop, peek] {
        let [first, other]: [F; 2] = {
            let ring = open::<F>(Kind::Mpmc, 2);
            let other = ring.dup(libc::O_RDWR).unwrap();
            [ring, other]
        };
        let waiter = first.dup(libc::O_WRONLY).unwrap();
        let fd = waiter.fd(OUT).unwrap();
        first.reserve(1, NOWAIT).unwrap();
        other.reserve(1, NOWAIT).unwrap();
        is_full(&waiter);
        assert!(!readable(fd));
        first.commit(0).unwrap();
        other.commit(0).unwrap();
        refused_with(take(&first), libc::EAGAIN, "");
        assert!(poll(fd, LONG));
        waiter.push(&word(1), NOWAIT).unwrap();
    }
}

/// In a stop-proof ring a peek makes room, and who peeks may be stopped for ever.
fn room_by_a_peek_is_told_where_nobody_waits<F: Face>() {
    let options = Options { policy: policy::STOPPROOF, ..options(Kind::Mpmc, 1) };
    let ring = F::open(None, &options, libc::O_RDWR, 0).unwrap();
    let waiter = ring.dup(libc::O_WRONLY).unwrap();
    let fd = waiter.fd(OUT).unwrap();
    waiter.push(&word(1), NOWAIT).unwrap();
    is_full(&waiter);
    assert!(!readable(fd));
    ring.peek(1, NOWAIT).unwrap();
    assert!(poll(fd, LONG));
    waiter.push(&word(2), NOWAIT).unwrap();
    ring.release(1).unwrap();
    assert_eq!(self::pop(&ring), 2);
}

fn both_events_at_one_handle<F: Face>() {
    for kind in [Kind::Spsc, Kind::Mpmc] {
        let ring: F = open(kind, 1);
        let fd = ring.fd(IN | OUT).unwrap();
        is_empty(&ring);
        assert!(readable(fd), "there is room");
        ring.push(&word(1), NOWAIT).unwrap();
        is_full(&ring);
        assert!(readable(fd), "there is an item");
        pop(&ring);
        // Only what is asked for counts; the last call says what that is.
        assert_eq!(ring.fd(IN).unwrap(), fd);
        is_empty(&ring);
        assert!(!readable(fd));
        ring.push(&word(1), NOWAIT).unwrap();
        assert!(readable(fd));
        ring.fd(OUT).unwrap();
        is_full(&ring);
        assert!(!readable(fd));
        pop(&ring);
        assert!(readable(fd));
        is_empty(&ring);
        assert!(readable(fd), "a pop is not what is waited for");
    }
}

fn what_cannot_be_asked_for<F: Face>() {
    let producer = F::open(None, &Options::new(1, 8), libc::O_WRONLY, 0).unwrap();
    for events in [0, 2, 8, IN | OUT | 0x10, u32::MAX] {
        refused_with(producer.fd(events), libc::EINVAL, "events");
    }
    refused_with(producer.fd(IN), libc::EACCES, "not opened for the consuming end");
    refused_with(producer.fd(IN | OUT), libc::EACCES, "not opened for the consuming end");
    let either = producer.dup(libc::O_RDWR).unwrap();
    refused_with(either.fd(OUT), libc::EBUSY, "held by pid");
    either.fd(IN).unwrap();
}

fn the_end_of_the_stream_is_told_for_good<F: Face>() {
    for kind in [Kind::Spsc, Kind::Mpmc] {
        let ring: F = open(kind, 4);
        let other = ring.dup(libc::O_RDWR).unwrap();
        let fd = ring.fd(IN).unwrap();
        is_empty(&ring);
        other.push(&word(5), NOWAIT).unwrap();
        assert_eq!(pop(&ring), 5);
        is_empty(&ring);
        assert!(!readable(fd));
        other.shutdown().unwrap();
        for _ in 0..3 {
            assert!(readable(fd));
            refused_with(ring.pop(&mut [0; 8], NOWAIT), libc::EPIPE, "shut down");
        }
        assert!(readable(fd));
    }
}

fn runs_in_place<F: Face>() {
    for kind in [Kind::Spsc, Kind::Mpmc] {
        let consumer: F = open(kind, 2);
        let producer = consumer.dup(libc::O_RDWR).unwrap();
        let (items, room) = (consumer.fd(IN).unwrap(), producer.fd(OUT).unwrap());
        refused_with(consumer.peek(1, NOWAIT), libc::EAGAIN, "");
        assert!(!readable(items));
        while producer.reserve(1, NOWAIT).is_ok() {
            assert!(!readable(items) || consumer.stat().length > 0);
            producer.commit(1).unwrap();
            assert!(readable(items));
        }
        assert!(!readable(room));
        consumer.peek(1, NOWAIT).unwrap();
        assert!(!readable(room));
        consumer.release(1).unwrap();
        assert!(readable(room));
    }
}
