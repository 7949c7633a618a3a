//! Stop-proof rings with many producers and many consumers: what they do, what streams through them,
//! and what the dead leave. What others do to them while some are stopped: `ring_stopped.rs`.

mod support;

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};

use madang::ffi::ring::*;
use madang::ring::{Kind, Options, Ring, policy};
use support::face::{FOREVER, NOWAIT, refused_with};
use support::process::{Child, Gate, fork, join, kill, serial, shared_words};
use support::ring_face::{C, CREATE, Face, Named, SECOND};

on_both_faces! { Ring, C in turn:
    capacity_is_usable_to_the_last_slot
    batches
    many_handles_at_both_ends
    in_place
    a_reservation_is_the_right_to_one_push
    a_peeked_item_that_is_not_released_stays_with_its_handle
    shutdown_drains
    waiting
    overwriting
    failing
    mismatches
    what_the_dead_leave_is_in_nobodys_way
    every_slot_may_die
    indices_far_behind_are_found_corrupt
}

fn stopproof(capacity: u64, item_size: u32) -> Options {
    let kind = Some(Kind::Mpmc);
    Options { kind, policy: policy::STOPPROOF, ..Options::new(capacity, item_size) }
}

fn open<F: Face>(options: &Options) -> F {
    F::open(None, options, libc::O_RDWR, 0).unwrap()
}

fn word(value: u64) -> [u8; 8] {
    value.to_ne_bytes()
}

#[track_caller]
fn push(ring: &impl Face, value: u64) {
    ring.push(&word(value), NOWAIT).unwrap();
}

#[track_caller]
fn pop(ring: &impl Face) -> u64 {
    let mut item = [0; 8];
    ring.pop(&mut item, NOWAIT).unwrap();
    u64::from_ne_bytes(item)
}

#[track_caller]
fn is_empty(ring: &impl Face) {
    refused_with(ring.pop(&mut [0; 8], NOWAIT), libc::EAGAIN, "");
}

/// Written, read, dropped, lost, inside.
fn sums(ring: &impl Face) -> [u64; 5] {
    let stats = ring.stat();
    assert_eq!(stats.written, stats.read + stats.dropped + stats.lost + stats.length);
    [stats.written, stats.read, stats.dropped, stats.lost, stats.length]
}

fn capacity_is_usable_to_the_last_slot<F: Face>() {
    for (asked, capacity) in [(1, 1), (2, 2), (3, 4), (1000, 1024)] {
        for max_handles in [1, 2, 64, 1000] {
            let ring: F = open(&Options { max_handles, ..stopproof(asked, 8) });
            for round in 0..5 {
                for i in 0..capacity {
                    push(&ring, round * 10_000 + i);
                }
                refused_with(ring.push(&word(0), NOWAIT), libc::EAGAIN, "");
                refused_with(ring.reserve(1, NOWAIT), libc::EAGAIN, "");
                assert_eq!((ring.stat().length, ring.stat().pending), (capacity, 0));
                for i in 0..capacity {
                    assert_eq!(pop(&ring), round * 10_000 + i);
                }
                is_empty(&ring);
            }
            assert_eq!(sums(&ring), [5 * capacity, 5 * capacity, 0, 0, 0]);
            assert_eq!((ring.stat().kind, ring.stat().policy), (MDG_RING_MPMC, MDG_RING_STOPPROOF));
        }
    }
}

fn batches<F: Face>() {
    for size in [1, 7, 8, 64, 1500] {
        let ring: F = open(&stopproof(8, size as u32));
        let items: Vec<u8> = (0..size * 11).map(|i| i as u8).collect();
        let mut back = vec![0; size * 11];
        for _ in 0..5 {
            assert_eq!(ring.push_many(&items[..size * 3], size, NOWAIT).unwrap(), 3);
            assert_eq!(ring.push_many(&items[size * 3..], size, NOWAIT).unwrap(), 5);
            refused_with(ring.push_many(&items, size, NOWAIT), libc::EAGAIN, "");
            assert_eq!(ring.pop_many(&mut back[..size * 2], size, NOWAIT).unwrap(), 2);
            assert_eq!(ring.push_many(&items[size * 8..], size, NOWAIT).unwrap(), 2);
            assert_eq!(ring.pop_many(&mut back[size * 2..], size, NOWAIT).unwrap(), 8);
            assert_eq!(back[..size * 10], items[..size * 10], "items of {size} bytes");
            refused_with(ring.pop_many(&mut back, size, NOWAIT), libc::EAGAIN, "");
        }
        assert_eq!(ring.push_many(&[], size, NOWAIT).unwrap(), 0);
    }
}

fn many_handles_at_both_ends<F: Face>() {
    let name = Named::new("stopmany");
    let flags = |access| access | libc::O_CREAT;
    let open = |access| F::open(Some(&name.0), &stopproof(16, 8), flags(access), 0o600).unwrap();
    let producers: Vec<F> = (0..3).map(|_| open(libc::O_WRONLY)).collect();
    let consumers: Vec<F> = (0..3).map(|_| open(libc::O_RDONLY)).collect();
    for (producer, value) in producers.iter().cycle().zip(0..9) {
        push(producer, value);
    }
    for (consumer, value) in consumers.iter().cycle().zip(0..9) {
        assert_eq!(pop(consumer), value, "one queue, whoever takes");
    }
    refused_with(consumers[0].push(&word(0), NOWAIT), libc::EACCES, "producing end");
    refused_with(producers[0].pop(&mut [0; 8], NOWAIT), libc::EACCES, "consuming end");
    drop(producers);
    assert_eq!(consumers[0].stat().producer_state, MDG_RING_END_CLOSED);
}

fn in_place<F: Face>() {
    let ring: F = open(&stopproof(8, 8));
    for round in 0..10_u64 {
        let (room, count) = ring.reserve(3, NOWAIT).unwrap();
        assert_eq!((count, room.addr() % 8), (1, 0), "items of this kind do not stand in a row");
        // SAFETY: room for one item of eight bytes.
        unsafe { room.cast::<u64>().write(round) };
        assert_eq!((ring.stat().pending, ring.stat().length), (1, 0));
        refused_with(ring.push(&word(0), NOWAIT), libc::EINVAL, "handed out");
        is_empty(&ring);
        refused_with(ring.commit(2), libc::EINVAL, "run of 1");
        ring.commit(1).unwrap();
        assert_eq!((ring.stat().pending, ring.stat().length), (0, 1));
        let (item, count) = ring.peek(9, NOWAIT).unwrap();
        // SAFETY: one item of eight bytes.
        assert_eq!((unsafe { item.cast::<u64>().read() }, count), (round, 1));
        refused_with(ring.pop(&mut [0; 8], NOWAIT), libc::EINVAL, "handed out");
        ring.release(1).unwrap();
        refused_with(ring.release(1), libc::EINVAL, "run of 0");
    }
    // Given back: it never was in the queue, and takes nothing from it.
    for value in 0..100 {
        push(&ring, value);
        ring.reserve(1, NOWAIT).unwrap();
        ring.commit(0).unwrap();
        if value > 0 {
            assert_eq!(pop(&ring), value - 1);
        }
    }
    assert_eq!(pop(&ring), 99);
    is_empty(&ring);
    assert_eq!(sums(&ring), [110, 110, 0, 0, 0]);
}

/// Others may have filled the ring since: the commit goes beyond the capacity, once a handle.
fn a_reservation_is_the_right_to_one_push<F: Face>() {
    for capacity in [1, 2, 8] {
        let options = Options { max_handles: 5, ..stopproof(capacity, 8) };
        let ring: F = open(&options);
        let others: Vec<F> = (0..4).map(|_| ring.dup(libc::O_RDWR).unwrap()).collect();
        for round in 0..20 {
            for (other, value) in others.iter().zip(100..) {
                let (room, _) = other.reserve(1, NOWAIT).unwrap();
                // SAFETY: room for one item of eight bytes.
                unsafe { room.cast::<u64>().write(value) };
            }
            (0..capacity).for_each(|value| push(&ring, value));
            refused_with(ring.push(&word(0), NOWAIT), libc::EAGAIN, "");
            for (other, more) in others.iter().zip(1..) {
                other.commit(1).unwrap();
                refused_with(other.push(&word(0), NOWAIT), libc::EAGAIN, "");
                refused_with(other.reserve(1, NOWAIT), libc::EAGAIN, "");
                assert_eq!(ring.stat().length, capacity + more, "round {round}");
            }
            // Peeked and held back by all, too: every cell there is.
            let all = || others.iter().chain([&ring]);
            for (handle, value) in all().zip((0..capacity).chain(100..)) {
                let (item, _) = handle.peek(1, NOWAIT).unwrap();
                // SAFETY: one item of eight bytes.
                assert_eq!(unsafe { item.cast::<u64>().read() }, value);
            }
            for more in 0..20 {
                match ring.push(&word(more), NOWAIT) {
                    Ok(()) => {}
                    Err(error) => {
                        assert_eq!((error.code, ring.stat().length), (libc::EAGAIN, capacity));
                        break;
                    }
                }
            }
            all().for_each(|handle| handle.release(1).unwrap());
            while ring.pop(&mut [0; 8], NOWAIT).is_ok() {}
        }
        assert_eq!((sums(&ring)[4], ring.stat().pending), (0, 0));
    }
}

fn a_peeked_item_that_is_not_released_stays_with_its_handle<F: Face>() {
    let ring: F = open(&stopproof(4, 8));
    let other = ring.dup(libc::O_RDWR).unwrap();
    for value in 0..3 {
        push(&ring, value);
    }
    ring.peek(1, NOWAIT).unwrap();
    ring.release(0).unwrap();
    assert_eq!(pop(&other), 1, "it is taken: others get what is behind it");
    let (item, _) = ring.peek(1, NOWAIT).unwrap();
    // SAFETY: one item of eight bytes.
    assert_eq!(unsafe { item.cast::<u64>().read() }, 0);
    ring.release(0).unwrap();
    assert_eq!([pop(&ring), pop(&ring)], [0, 2]);
    // A handle that closes with an item in hands takes it along, and that is counted.
    push(&ring, 3);
    other.peek(1, NOWAIT).unwrap();
    other.reserve(1, NOWAIT).unwrap();
    assert_eq!(ring.stat().pending, 1);
    drop(other);
    assert_eq!((sums(&ring), ring.stat().pending), ([4, 3, 0, 1, 0], 0));
}

fn shutdown_drains<F: Face>() {
    let ring: F = open(&stopproof(4, 8));
    push(&ring, 1);
    let other = ring.dup(libc::O_RDWR).unwrap();
    other.reserve(1, NOWAIT).unwrap();
    ring.shutdown().unwrap();
    refused_with(ring.push(&word(2), FOREVER), libc::EPIPE, "shut down");
    assert_eq!(pop(&ring), 1);
    // What somebody has reserved will not come: nobody waits for it.
    refused_with(ring.pop(&mut [0; 8], FOREVER), libc::EPIPE, "shut down");
    refused_with(other.commit(1), libc::EPIPE, "shut down");
    assert_eq!((sums(&ring), ring.stat().pending), ([1, 1, 0, 0, 0], 0));
}

fn waiting<F: Face>() {
    let ring: F = open(&stopproof(2, 8));
    refused_with(ring.pop(&mut [0; 8], 1_000_000), libc::ETIMEDOUT, "");
    push(&ring, 1);
    push(&ring, 2);
    refused_with(ring.push(&word(3), 1_000_000), libc::ETIMEDOUT, "");
    assert_eq!((ring.stat().pop_waits, ring.stat().push_waits), (1, 1));
}

fn overwriting<F: Face>() {
    for capacity in [1, 4] {
        let policy = policy::OVERWRITE | policy::STOPPROOF;
        let ring: F = open(&Options { policy, ..stopproof(capacity, 8) });
        for value in 0..10 {
            ring.push(&word(value), FOREVER).unwrap();
        }
        assert_eq!(sums(&ring), [10, 0, 10 - capacity, 0, capacity]);
        for value in 10 - capacity..10 {
            assert_eq!(pop(&ring), value, "the newest are kept, in order");
        }
        is_empty(&ring);
        // What is peeked is not given up for a newer one, nor is it in the way.
        push(&ring, 20);
        let (item, _) = ring.peek(1, NOWAIT).unwrap();
        for value in 21..30 {
            push(&ring, value);
        }
        // SAFETY: one item of eight bytes.
        assert_eq!(unsafe { item.cast::<u64>().read() }, 20);
        ring.release(1).unwrap();
        ring.reserve(1, NOWAIT).unwrap();
        ring.commit(1).unwrap();
        assert_eq!(sums(&ring), [21, 1 + capacity, 20 - 2 * capacity, 0, capacity]);
        assert_eq!(ring.stat().policy, MDG_RING_OVERWRITE | MDG_RING_STOPPROOF);
    }
}

fn failing<F: Face>() {
    let policy = policy::FAIL | policy::STOPPROOF;
    let ring: F = open(&Options { policy, ..stopproof(2, 8) });
    push(&ring, 1);
    push(&ring, 2);
    refused_with(ring.push(&word(3), FOREVER), libc::EAGAIN, "");
    refused_with(ring.push_many(&word(3), 8, FOREVER), libc::EAGAIN, "");
    refused_with(ring.reserve(1, FOREVER), libc::EAGAIN, "");
    assert_eq!([pop(&ring), pop(&ring)], [1, 2]);
}

fn mismatches<F: Face>() {
    let name = Named::new("stopother");
    let open = |options: &Options| F::open(Some(&name.0), options, CREATE, 0o600);
    let ring = open(&stopproof(4, 8)).unwrap();
    let failing = Options { policy: policy::FAIL, ..stopproof(4, 8) };
    refused_with(open(&failing), libc::EPROTO, "policy is FAIL here but STOPPROOF in the object");
    open(&Options::default()).unwrap();
    drop(ring);
    for kind in [None, Some(Kind::Spsc), Some(Kind::Broadcast)] {
        let impossible = Options { kind, ..stopproof(4, 8) };
        let code = F::open(None, &impossible, libc::O_RDWR, 0).map(drop).expect_err("refused").code;
        assert!(code == libc::EINVAL || kind == Some(Kind::Broadcast), "{kind:?}: {code}");
    }
    let huge = Options { max_handles: 4096, ..stopproof(1 << 62, 8) };
    refused_with(F::open(None, &huge, libc::O_RDWR, 0), libc::EOVERFLOW, "");
    let huge = Options { max_handles: 4096, ..stopproof(1 << 63, 1) };
    refused_with(F::open(None, &huge, libc::O_RDWR, 0), libc::EOVERFLOW, "");
}

/// A child that has done `body` and waits to be killed.
fn frozen(body: impl FnOnce()) -> Child {
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

/// Killed with an item reserved and one peeked: nobody notices, and it is counted at once.
fn what_the_dead_leave_is_in_nobodys_way<F: Face>() {
    let ring: F = open(&stopproof(2, 8));
    for value in 1..3 {
        push(&ring, value);
    }
    let victim = frozen(|| {
        ring.peek(1, NOWAIT).unwrap();
        ring.reserve(1, NOWAIT).unwrap();
    });
    assert_eq!((sums(&ring), ring.stat().pending), ([2, 2 - 1, 0, 0, 1], 1));
    let rounds = |from: u64| {
        for value in from..from + 100 {
            push(&ring, value);
            refused_with(ring.push(&word(0), NOWAIT), libc::EAGAIN, "");
            assert_eq!(pop(&ring), if value == from { from - 1 } else { value - 1 });
        }
    };
    rounds(3);
    kill(victim);
    assert_eq!((sums(&ring), ring.stat().pending), ([102, 100, 0, 1, 1], 0));
    rounds(103);
    // Its cells are freed by the next one who takes its slot; nothing that can be seen changes.
    let before = (sums(&ring), ring.stat().recovered);
    assert_eq!(before.1, 2, "it had both ends");
    let _next = ring.dup(libc::O_RDWR).unwrap();
    assert_eq!((sums(&ring), ring.stat().recovered), before);
    rounds(203);
}

/// As many corpses as there are slots, each with two cells: the last living handle has all it needs,
/// and when the slots are taken again nothing of it is left.
fn every_slot_may_die<F: Face>() {
    let ring: F = open(&Options { max_handles: 4, ..stopproof(2, 8) });
    push(&ring, 0);
    for generation in 1..5 {
        let victims = [(); 3].map(|()| {
            let victim = frozen(|| {
                ring.peek(1, NOWAIT).unwrap();
                ring.reserve(1, NOWAIT).unwrap();
            });
            push(&ring, 7);
            victim
        });
        victims.into_iter().for_each(kill);
        let [written, _, _, lost, length] = sums(&ring);
        assert_eq!((lost, length, ring.stat().pending), (3 * generation, 1, 0));
        push(&ring, 8);
        refused_with(ring.push(&word(0), NOWAIT), libc::EAGAIN, "");
        assert_eq!([pop(&ring), pop(&ring)], [7, 8]);
        push(&ring, 9);
        assert_eq!(sums(&ring)[0], written + 2);
    }
}

/// How often each item was received, by producer and number.
struct Received(&'static [AtomicU64], usize);

impl Received {
    fn new(producers: usize, items: usize) -> Self {
        Self(shared_words(producers * items), items)
    }

    fn note(&self, item: &[u8; 16], last: &mut [u64]) {
        let [from, number] =
            [&item[..8], &item[8..]].map(|b| u64::from_ne_bytes(b.try_into().unwrap()));
        assert!(number >= last[from as usize], "{number} of {from} came late");
        last[from as usize] = number + 1;
        self.0[from as usize * self.1 + number as usize].fetch_add(1, Ordering::Relaxed);
    }
}

fn item(from: usize, number: usize) -> [u8; 16] {
    let mut item = [0; 16];
    item[..8].copy_from_slice(&word(from as u64));
    item[8..].copy_from_slice(&word(number as u64));
    item
}

/// Every item once, in the order of its producer, whoever takes it.
fn stream(capacity: u64, producers: usize, consumers: usize, items: usize) {
    let name = Named::new("stopstream");
    let ring = C::open(Some(&name.0), &stopproof(capacity, 16), CREATE, 0o600).unwrap();
    let received = Received::new(producers, items);
    let open = |access| C::open(Some(&name.0), &Options::default(), access, 0).unwrap();
    let sources = (0..producers).map(|from| {
        fork(|| {
            let ring = open(libc::O_WRONLY);
            let mut number = 0;
            while number < items {
                if number % 7 == 0 && number + 3 <= items {
                    let run: Vec<u8> = (number..number + 3).flat_map(|n| item(from, n)).collect();
                    number += ring.push_many(&run, 16, FOREVER).unwrap();
                } else if number % 7 == 3 {
                    let (room, _) = ring.reserve(1, FOREVER).unwrap();
                    // SAFETY: room for one item.
                    unsafe { room.cast::<[u8; 16]>().write_unaligned(item(from, number)) };
                    ring.commit(1).unwrap();
                    number += 1;
                } else {
                    ring.push(&item(from, number), FOREVER).unwrap();
                    number += 1;
                }
            }
        })
    });
    let sources: Vec<_> = sources.collect();
    let sinks = (0..consumers).map(|_| {
        fork(|| {
            let ring = open(libc::O_RDONLY);
            let mut last = vec![0; producers];
            let mut run = [0; 48];
            for call in 0.. {
                let many = if call % 5 == 0 { 48 } else { 16 };
                match ring.pop_many(&mut run[..many], 16, FOREVER) {
                    Ok(count) => run[..16 * count]
                        .chunks(16)
                        .for_each(|item| received.note(item.try_into().unwrap(), &mut last)),
                    Err(end) => {
                        assert_eq!(end.code, libc::EPIPE, "{}", end.text);
                        return;
                    }
                }
            }
        })
    });
    let sinks: Vec<_> = sinks.collect();
    sources.into_iter().for_each(join);
    ring.shutdown().unwrap();
    sinks.into_iter().for_each(join);
    let what = format!("capacity {capacity}, {producers} to {consumers}");
    assert!(received.0.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{what}");
    let all = (producers * items) as u64;
    assert_eq!((sums(&ring), ring.stat().pending), ([all, all, 0, 0, 0], 0), "{what}");
}

#[test]
fn streams() {
    let _turn = serial();
    for producers in 1..=4 {
        for consumers in 1..=4 {
            for (capacity, items) in [(1, 500), (2, 500), (8, 2000), (1024, 5000)] {
                stream(capacity, producers, consumers, items);
            }
        }
    }
}

/// Producers and consumers killed at random moments while others go on; nothing is mended for the
/// others, yet they never wait for the dead.
#[test]
fn random_kills() {
    let _turn = serial();
    let name = Named::new("stopkills");
    let ring = C::open(Some(&name.0), &stopproof(8, 16), CREATE, 0o600).unwrap();
    let rounds = 150;
    let mut last = vec![0; 2 * rounds + 2];
    let produce = |number: usize| {
        running(|ready| {
            let ring = C::open(Some(&name.0), &Options::default(), libc::O_WRONLY, 0).unwrap();
            ready.open();
            for i in 0.. {
                ring.push(&item(number, i), FOREVER).unwrap();
            }
        })
    };
    let consume = || {
        running(|ready| {
            let ring = C::open(Some(&name.0), &Options::default(), libc::O_RDONLY, 0).unwrap();
            ready.open();
            loop {
                ring.pop_many(&mut [0; 48], 16, FOREVER).unwrap();
            }
        })
    };
    let mut children = vec![(produce(0), true), (produce(1), true), (consume(), false)];
    let mut number = 2;
    for round in 0..rounds {
        let mut item = [0; 16];
        for _ in 0..40 {
            ring.pop(&mut item, 10 * SECOND).unwrap();
            let [from, value] =
                [&item[..8], &item[8..]].map(|b| u64::from_ne_bytes(b.try_into().unwrap()));
            assert!(value >= last[from as usize], "{value} of producer {from}");
            last[from as usize] = value + 1;
        }
        let (victim, produces) = children.swap_remove(round % children.len());
        kill(victim);
        children.push(if produces { (produce(number), true) } else { (consume(), false) });
        number += usize::from(produces);
    }
    children.into_iter().for_each(|(child, _)| kill(child));
    // Nothing is left in the way, not even for a call that does not wait.
    while ring.pop(&mut [0; 16], NOWAIT).is_ok() {}
    let [written, read, _, lost, length] = sums(&ring);
    assert_eq!((length, ring.stat().pending), (0, 0));
    assert!(written == read + lost && lost <= rounds as u64 + 1, "{lost} lost");
    assert_eq!(ring.stat().recovered, rounds as u64 + 3);
    // With every corpse's slot taken again the numbers are the same.
    let handles: Vec<_> = (0..4).map(|_| ring.dup(libc::O_RDWR).unwrap()).collect();
    assert_eq!(sums(&ring), [written, read, 0, lost, 0]);
    drop(handles);
}

/// A child that runs on; returns when it has opened the gate it is given.
fn running(body: impl FnOnce(&Gate)) -> Child {
    let ready = Gate::new();
    let child = fork(|| body(&ready));
    ready.pass();
    child
}

/// Whoever scribbles an index far behind what it stood at cannot have a call go after it for ever,
/// whatever its timeout.
fn indices_far_behind_are_found_corrupt<F: Face>() {
    for (at, pushes) in [(4096, true), (4096 + 128, false)] {
        let name = Named::new("behind");
        let ring = F::open(Some(&name.0), &stopproof(4, 8), CREATE, 0o600).unwrap();
        push(&ring, 1);
        let file = std::fs::OpenOptions::new().write(true).open(name.path()).unwrap();
        file.write_all_at(&word(0_u64.wrapping_sub(1 << 40)), at).unwrap();
        let outcome =
            if pushes { ring.push(&word(2), FOREVER) } else { ring.pop(&mut [0; 8], FOREVER) };
        refused_with(outcome, libc::EBADMSG, "impossible");
    }
}
