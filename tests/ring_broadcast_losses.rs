//! Broadcast rings whose producer does not wait: what the slow lose, exactly.

mod support;

use madang::ring::{Ring, policy};
use support::broadcast::*;
use support::face::{FOREVER, NOWAIT, refused_with};
use support::ring_face::{C, Face};

on_both_faces! { Ring, C in turn:
    a_lapped_consumer_is_told_how_much_it_lost
    an_evicted_consumer_is_told_how_much_it_lost
    in_place_and_overwritten
    in_place_and_evicted
}

fn a_lapped_consumer_is_told_how_much_it_lost<F: Face>() {
    for capacity in [1, 2, 8, 1024] {
        let ring: F = open(&broadcast(capacity, 8, policy::OVERWRITE));
        let consumer = consumer(&ring);
        assert_eq!(consumer.lost(), 0);
        for round in 1..4 {
            for value in 0..3 * capacity {
                ring.push(&(round * 10_000 + value).to_ne_bytes(), FOREVER).unwrap();
            }
            loses(&consumer, 2 * capacity);
            for value in 2 * capacity..3 * capacity {
                assert_eq!(pop(&consumer), round * 10_000 + value, "all that is there, in order");
            }
            is_empty(&consumer);
            assert_eq!(consumer.lost(), round * 2 * capacity);
        }
        let written = 9 * capacity;
        assert_eq!(sums(&ring), [written, 0, written - capacity, capacity]);
        assert_eq!(ring.lost(), 0);
    }
}

fn an_evicted_consumer_is_told_how_much_it_lost<F: Face>() {
    for capacity in [1, 2, 8, 1024] {
        let ring: F = open(&broadcast(capacity, 8, policy::EVICT));
        let (fast, slow) = (consumer(&ring), consumer(&ring));
        let mut next = 0;
        let mut received = 0;
        for _ in 0..5 {
            for _ in 0..3 * capacity {
                ring.push(&u64::to_ne_bytes(next), FOREVER).unwrap();
                assert_eq!(pop(&fast), next);
                next += 1;
            }
            let before = slow.lost();
            refused_with(try_pop(&slow, FOREVER), libc::EOVERFLOW, "items went by");
            assert!(slow.lost() > before);
            let first = pop(&slow);
            assert_eq!(first, received + slow.lost(), "it goes on behind what it lost");
            received += 1;
            for value in first + 1..next {
                assert_eq!(pop(&slow), value);
                received += 1;
            }
            is_empty(&slow);
            assert_eq!(received + slow.lost(), next);
        }
        assert_eq!(fast.lost(), 0);
        let [written, read, dropped, length] = sums(&ring);
        assert_eq!((written, length), (next, 0));
        assert_eq!(read + dropped, next);
        assert!(dropped > 0);
    }
}

fn in_place_and_overwritten<F: Face>() {
    let ring: F = open(&broadcast(4, 12, policy::OVERWRITE));
    let consumer = consumer(&ring);
    let item = |value: u8| [value; 12];
    for value in 0..4 {
        let (room, count) = ring.reserve(9, NOWAIT).unwrap();
        assert_eq!(count, 1, "items of this kind do not stand in a row");
        // SAFETY: room for one item of twelve bytes.
        unsafe { room.cast::<[u8; 12]>().write_unaligned(item(value)) };
        ring.commit(1).unwrap();
    }
    let peek = || {
        let (items, count) = consumer.peek(9, NOWAIT).unwrap();
        assert_eq!(count, 1);
        // SAFETY: one item of twelve bytes.
        unsafe { items.cast::<[u8; 12]>().read_unaligned() }
    };
    assert_eq!(peek(), item(0));
    consumer.release(0).unwrap();
    assert_eq!(peek(), item(0));
    consumer.release(1).unwrap();
    assert_eq!(peek(), item(1));
    // Position 5 takes the cell of position 1.
    ring.push(&item(4), NOWAIT).unwrap();
    assert_eq!(ring.stat().length, 4);
    ring.reserve(1, NOWAIT).unwrap();
    refused_with(consumer.release(1), libc::EOVERFLOW, ": 1 items");
    assert_eq!((consumer.lost(), ring.stat().length), (1, 3));
    assert_eq!(peek(), item(2));
    consumer.release(1).unwrap();
    // Given back: what was there is gone, and the place is used by the next item.
    ring.commit(0).unwrap();
    assert_eq!(sums(&ring), [5, 0, 2, 3]);
    ring.push(&item(5), NOWAIT).unwrap();
    assert_eq!(sums(&ring), [6, 0, 2, 4]);
    for value in 3..6 {
        let mut back = [0; 12];
        consumer.pop(&mut back, NOWAIT).unwrap();
        assert_eq!(back, item(value));
    }
    assert_eq!(consumer.lost(), 1);
}

fn in_place_and_evicted<F: Face>() {
    let ring: F = open(&broadcast(4, 8, policy::EVICT));
    let consumer = consumer(&ring);
    for value in 0..4 {
        push(&ring, value);
    }
    consumer.peek(2, NOWAIT).unwrap();
    push(&ring, 4);
    refused_with(consumer.release(2), libc::EOVERFLOW, ": 1 items");
    assert_eq!((1..5).map(|_| pop(&consumer)).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(consumer.lost(), 1);
    assert_eq!(sums(&ring), [5, 4, 1, 0]);
    in_place_and_evicted_of_padded_items::<F>();
}

/// Items of 12 bytes stand on 8-byte boundaries, so a run is one item.
fn in_place_and_evicted_of_padded_items<F: Face>() {
    let item = |value: u8| [value; 12];
    let ring: F = open(&broadcast(4, 12, policy::EVICT));
    let consumer = consumer(&ring);
    for value in 0..4 {
        let (room, run) = ring.reserve(3, NOWAIT).unwrap();
        assert_eq!((run, room as usize % 8), (1, 0));
        // SAFETY: room for one item of twelve bytes.
        unsafe { room.copy_from(item(value).as_ptr(), 12) };
        ring.commit(1).unwrap();
    }
    let peek = || {
        let (first, run) = consumer.peek(3, NOWAIT).unwrap();
        assert_eq!(run, 1);
        // SAFETY: one item of twelve bytes; the producer is this thread.
        unsafe { first.cast::<[u8; 12]>().read_unaligned() }
    };
    assert_eq!(peek(), item(0));
    ring.push_many(&[item(4), item(5)].concat(), 12, NOWAIT).unwrap();
    refused_with(consumer.release(1), libc::EOVERFLOW, "items");
    let mut rest = Vec::new();
    let mut back = [0; 36];
    while let Ok(count) = consumer.pop_many(&mut back, 12, NOWAIT) {
        rest.extend(back[..12 * count].chunks(12).map(|item| item.to_vec()));
    }
    let lost = consumer.lost() as u8;
    assert!(lost > 0);
    assert_eq!(rest, (lost..6).map(|value| item(value).to_vec()).collect::<Vec<_>>());
}
