//! Rings as streams between processes: every item, its order and its bytes, and what moving and
//! waiting cost.

mod support;

use std::time::Duration;

use madang::ffi::ring::*;
use madang::ring::{Kind, Options, Ring, policy};
use support::confine::{deny_all, leave_strict};
use support::face::{FOREVER, NOWAIT, refused_with};
use support::process::{fork, join, serial};
use support::ring_face::{C, CREATE, Face, Named, SECOND, pattern};

on_both_faces! { Ring, C in turn:
    streams
    large_items_in_place
    exact_capacities
    exact_capacities_are_for_some
    items_that_must_be_aligned
}

/// Five places are five places: in memory, in the limit, and over many laps.
fn exact_capacities<F: Face>() {
    const SIZE: usize = 1032;
    const PLACES: u64 = 5;
    let kinds = [
        (Kind::Spsc, 0),
        (Kind::Mpmc, policy::STOPPROOF),
        (Kind::Broadcast, 0),
        (Kind::Broadcast, policy::EVICT),
        (Kind::Broadcast, policy::OVERWRITE),
    ];
    for (kind, bits) in kinds {
        let name = Named::new("exact");
        let options = Options {
            kind: Some(kind),
            max_handles: 2,
            policy: bits | policy::EXACT,
            ..Options::new(PLACES, SIZE as u32)
        };
        let ring = F::open(Some(&name.0), &options, CREATE, 0o600).unwrap();
        assert_eq!(ring.stat().capacity, PLACES);
        // The header, 4 spare cells of a stop-proof ring and its words.
        let most = 8192
            + 512
            + (PLACES + if bits == policy::STOPPROOF { 4 } else { 0 }) * (SIZE as u64 + 8)
            + 256;
        let length = std::fs::metadata(name.path()).unwrap().len();
        assert!(length <= most, "{kind:?} {bits}: {length} of {most} bytes");
        let (mut item, mut expected) = (vec![0; SIZE], vec![0; SIZE]);
        if kind == Kind::Broadcast {
            // It joins.
            refused_with(ring.pop(&mut item, NOWAIT), libc::EAGAIN, "");
        }
        let loses = bits & (policy::EVICT | policy::OVERWRITE) != 0;
        let (mut pushed, mut popped) = (0, 0);
        let (mut batch, mut many) = (vec![0; SIZE * 3], vec![0; SIZE * 3]);
        let mut check = |popped: &mut u64, item: &[u8]| {
            pattern(*popped, &mut expected);
            assert!(item == expected, "{kind:?} {bits}: item {popped}");
            *popped += 1;
        };
        for round in 0..400_u64 {
            // Full, if need be, by single items, by batches, in place.
            while pushed - popped < PLACES {
                match (round + pushed) % 3 {
                    0 => {
                        pattern(pushed, &mut item);
                        ring.push(&item, NOWAIT).unwrap();
                        pushed += 1;
                    }
                    1 => {
                        for (i, item) in batch.chunks_mut(SIZE).enumerate() {
                            pattern(pushed + i as u64, item);
                        }
                        let room = (PLACES - (pushed - popped)).min(3) as usize;
                        pushed +=
                            ring.push_many(&batch[..room * SIZE], SIZE, NOWAIT).unwrap() as u64;
                    }
                    _ => {
                        let (room, run) = ring.reserve(2, NOWAIT).unwrap();
                        let run = run.min((PLACES - (pushed - popped)) as usize);
                        // SAFETY: handed out for as many items.
                        let room = unsafe { std::slice::from_raw_parts_mut(room, run * SIZE) };
                        for item in room.chunks_mut(SIZE) {
                            pattern(pushed, item);
                            pushed += 1;
                        }
                        ring.commit(run).unwrap();
                    }
                }
            }
            if !loses {
                refused_with(ring.push(&item, NOWAIT), libc::EAGAIN, "");
            }
            assert_eq!(ring.stat().length, PLACES);
            for _ in 0..1 + round % PLACES {
                if pushed == popped {
                    break;
                }
                match (round + popped) % 3 {
                    0 => {
                        ring.pop(&mut item, NOWAIT).unwrap();
                        check(&mut popped, &item);
                    }
                    1 => {
                        let count = ring.pop_many(&mut many, SIZE, NOWAIT).unwrap();
                        many.chunks(SIZE).take(count).for_each(|item| check(&mut popped, item));
                    }
                    _ => {
                        let (items, run) = ring.peek(2, NOWAIT).unwrap();
                        // SAFETY: handed out for as many items.
                        let items = unsafe { std::slice::from_raw_parts(items, run * SIZE) };
                        items.chunks(SIZE).for_each(|item| check(&mut popped, item));
                        ring.release(run).unwrap();
                    }
                }
            }
        }
        if loses {
            // Behind by more than there are places: exactly the oldest are gone.
            (pushed..popped + PLACES + 2).for_each(|_| ring.push(&item, NOWAIT).unwrap());
            refused_with(ring.pop(&mut item, NOWAIT), libc::EOVERFLOW, "went by");
        }
        // Another opener agrees, or is told.
        F::open(Some(&name.0), &options, libc::O_RDWR, 0).unwrap();
        let rounded = Options { capacity: 8, ..options };
        refused_with(
            F::open(Some(&name.0), &rounded, libc::O_RDWR, 0),
            libc::EPROTO,
            "capacity is 8 here but 5",
        );
    }
}

fn exact_capacities_are_for_some<F: Face>() {
    let open = |kind, size, bits| {
        let options =
            Options { kind: Some(kind), policy: policy::EXACT | bits, ..Options::new(5, size) };
        F::open(None, &options, libc::O_RDWR, 0)
    };
    refused_with(open(Kind::Spsc, 1024, 0), libc::EINVAL, "more than 1024 bytes");
    refused_with(open(Kind::Mpmc, 4096, 0), libc::EINVAL, "without MDG_RING_STOPPROOF");
    open(Kind::Spsc, 1025, 0).unwrap();
    open(Kind::Mpmc, 4096, policy::STOPPROOF).unwrap();
}

/// Where items in place would not be aligned for their type, there is no ring.
fn items_that_must_be_aligned<F: Face>() {
    let options =
        |kind, size, item_align| Options { kind: Some(kind), item_align, ..Options::new(4, size) };
    let open = |kind, size, align| F::open(None, &options(kind, size, align), libc::O_RDWR, 0);
    for (kind, size, align) in [
        (Kind::Mpmc, 32, 32),
        (Kind::Mpmc, 32, 16),
        (Kind::Spsc, 24, 16),
        (Kind::Spsc, 256, 256),
        (Kind::Spsc, 32, 3),
        (Kind::Broadcast, 12, 8),
    ] {
        refused_with(open(kind, size, align), libc::EINVAL, &format!("item_align is {align}, but"));
    }
    for (kind, size, align) in [
        (Kind::Mpmc, 32, 8),
        (Kind::Spsc, 96, 32),
        (Kind::Spsc, 256, 128),
        (Kind::Broadcast, 12, 4),
    ] {
        let ring = open(kind, size, align).unwrap();
        for _ in 0..9 {
            let (item, _) = ring.reserve(1, NOWAIT).unwrap();
            assert_eq!(item.addr() % align as usize, 0, "{kind:?} {size} {align}");
            ring.commit(1).unwrap();
            if kind != Kind::Broadcast {
                let (item, _) = ring.peek(1, NOWAIT).unwrap();
                assert_eq!(item.addr() % align as usize, 0, "{kind:?} {size} {align}");
                ring.release(1).unwrap();
            }
        }
    }
    let name = Named::new("align");
    F::open(Some(&name.0), &options(Kind::Spsc, 24, 0), CREATE, 0o600).unwrap();
    let found = F::open(Some(&name.0), &options(Kind::Spsc, 24, 16), libc::O_RDWR, 0);
    refused_with(found, libc::EPROTO, "lie at multiples of 8 there");
}

/// FNV-1a over items, order and all.
fn digest(sum: u64, item: &[u8]) -> u64 {
    item.iter().fold(sum, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A child pushes `count` items, one a call or in batches, the parent pops and compares each.
fn stream<F: Face>(capacity: u64, size: usize, count: u64) {
    let ring = F::open(None, &Options::new(capacity, size as u32), libc::O_RDWR, 0).unwrap();
    let child = fork(|| {
        let mut batch = vec![0; size * 5];
        let mut next = 0;
        while next < count {
            let items = if next % 7 == 0 { (count - next).min(5) } else { 1 };
            for (i, item) in batch.chunks_mut(size).enumerate().take(items as usize) {
                pattern(next + i as u64, item);
            }
            if items == 1 {
                ring.push(&batch[..size], FOREVER).unwrap();
                next += 1;
            } else {
                let end = size * items as usize;
                next += ring.push_many(&batch[..end], size, FOREVER).unwrap() as u64;
            }
        }
        ring.shutdown().unwrap();
        // Not dropped: an exit without closing must lose nothing either.
    });
    let (mut received, mut buffer, mut expected) = (0, vec![0; size * 3], vec![0; size]);
    let (mut sum, mut expected_sum) = (0xcbf2_9ce4_8422_2325, 0xcbf2_9ce4_8422_2325);
    loop {
        let items = if received % 11 == 0 {
            ring.pop_many(&mut buffer, size, FOREVER)
        } else {
            ring.pop(&mut buffer[..size], FOREVER).map(|()| 1)
        };
        let items = match items {
            Ok(items) => items,
            Err(end) => {
                assert_eq!(end.code, libc::EPIPE);
                break;
            }
        };
        for item in buffer.chunks(size).take(items) {
            pattern(received, &mut expected);
            assert_eq!(item, expected, "item {received} of {size} bytes");
            (sum, expected_sum) = (digest(sum, item), digest(expected_sum, &expected));
            received += 1;
        }
    }
    join(child);
    assert_eq!((received, sum), (count, expected_sum));
    let stats = ring.stat();
    assert_eq!((stats.written, stats.read, stats.length), (count, count, 0));
    assert_eq!((stats.producer_state, stats.recovered), (MDG_RING_END_CLOSED, 0));
}

/// Sequenced, checksummed items in several sizes and capacities, between two processes.
fn streams<F: Face>() {
    for capacity in [1, 2, 1000] {
        for (size, count) in [(1, 20_000), (7, 20_000), (8, 20_000), (64, 20_000), (4096, 2_000)] {
            stream::<F>(capacity, size, count);
        }
    }
    // So many laps that a consumer tries out what to do with the lines that it has read.
    stream::<F>(64, 1024, 60_000);
}

/// Large items filled and read in place, enough of them for a consumer to try out, and to keep to,
/// whatever it does with their lines.
fn large_items_in_place<F: Face>() {
    for (capacity, size, count) in [(2, 4096, 5_000), (64, 4096, 40_000), (16, 65536, 3_000)] {
        let ring = F::open(None, &Options::new(capacity, size), libc::O_RDWR, 0).unwrap();
        let words = size as usize / 8;
        let child = fork(|| {
            for next in 0..count {
                let (room, run) = ring.reserve(1, FOREVER).unwrap();
                assert_eq!(run, 1);
                // SAFETY: the reserved slot, which has so many words and is aligned to them.
                let room = unsafe { std::slice::from_raw_parts_mut(room.cast::<u64>(), words) };
                room.iter_mut().enumerate().for_each(|(i, word)| *word = next + i as u64);
                ring.commit(1).unwrap();
            }
        });
        let mut next = 0;
        while next < count {
            let (items, run) = ring.peek(3, FOREVER).unwrap();
            // SAFETY: the peeked run; the producer is honest.
            let items = unsafe { std::slice::from_raw_parts(items.cast::<u64>(), run * words) };
            for item in items.chunks(words) {
                let first_wrong = item.iter().zip(next..).position(|(word, due)| *word != due);
                assert_eq!(first_wrong, None, "item {next} of {size} bytes");
                next += 1;
            }
            ring.release(run).unwrap();
        }
        join(child);
        assert_eq!((ring.stat().written, ring.stat().read), (count, count));
    }
}

/// Ten million items with sequence and checksum, through the C ABI, between two processes.
#[test]
fn ten_million_items() {
    let _turn = serial();
    // In a ring of one or two items each one is a hand-over, which takes its time.
    let small = [(1, 100_000), (7, 100_000), (8, 200_000), (64, 90_000), (4096, 10_000)];
    let large = [(1, 3_000_000), (7, 2_000_000), (8, 2_500_000), (64, 1_450_000), (4096, 50_000)];
    let plan = [(1, small), (2, small), (1000, large)];
    let all = plan.iter().flat_map(|(_, runs)| runs).map(|(_, count)| count).sum::<u64>();
    assert_eq!(all, 10_000_000);
    for (capacity, (size, count)) in plan.iter().flat_map(|(c, runs)| runs.map(|run| (*c, run))) {
        stream::<C>(capacity, size, count);
    }
}

/// Under seccomp's strict mode any system call but read, write and exit kills: a busy ring moves a
/// million items there.
#[test]
fn a_busy_ring_makes_no_system_call() {
    let _turn = serial();
    let ring = C::open(None, &Options::new(1024, 8), libc::O_RDWR, 0).unwrap();
    let count = 1_000_000_u64;
    // An end is claimed, which takes system calls, before the mode is set.
    let producer = fork(|| {
        ring.push(&0_u64.to_ne_bytes(), NOWAIT).unwrap();
        deny_all();
        for i in 1..count {
            let item = i.to_ne_bytes();
            // SAFETY: a live handle and eight bytes.
            while unsafe { mdg_ring_push(ring.0, item.as_ptr().cast(), NOWAIT) } != 0 {}
        }
        leave_strict();
    });
    let consumer = fork(|| {
        let mut item = [0; 8];
        ring.pop(&mut item, FOREVER).unwrap();
        deny_all();
        for i in 1..count {
            // SAFETY: a live handle and eight bytes.
            while unsafe { mdg_ring_pop(ring.0, item.as_mut_ptr().cast(), NOWAIT) } != 0 {}
            if u64::from_ne_bytes(item) != i {
                // A forbidden call: the parent sees SIGKILL.
                std::process::abort();
            }
        }
        leave_strict();
    });
    join(producer);
    join(consumer);
    assert_eq!((ring.stat().written, ring.stat().read), (count, count));
}

/// A blocking stream that never has to wait makes no system call either: counted by seccomp again,
/// with both ends in one process.
#[test]
fn blocking_calls_that_need_not_wait_make_no_system_call() {
    let _turn = serial();
    let ring = C::open(None, &Options::new(16, 8), libc::O_RDWR, 0).unwrap();
    let child = fork(|| {
        let mut item = [0; 8];
        ring.push(&item, FOREVER).unwrap();
        ring.pop(&mut item, FOREVER).unwrap();
        deny_all();
        for _ in 0..10_000 {
            for _ in 0..16 {
                // SAFETY: a live handle and eight bytes.
                unsafe { mdg_ring_push(ring.0, item.as_ptr().cast(), FOREVER) };
            }
            for _ in 0..16 {
                // SAFETY: as above.
                unsafe { mdg_ring_pop(ring.0, item.as_mut_ptr().cast(), SECOND) };
            }
        }
        leave_strict();
    });
    join(child);
    assert_eq!(ring.stat().read, 160_001);
}

/// A side that waits a second uses next to no processor time.
#[test]
fn waiting_costs_next_to_nothing() {
    let _turn = serial();
    let ring = Ring::anonymous(&Options::new(8, 8), madang::Access::ReadWrite).unwrap();
    let child = fork(|| {
        let used = || {
            let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_THREAD);
            let usage = usage.unwrap();
            Duration::from_micros(
                (usage.user_time().tv_sec() + usage.system_time().tv_sec()) as u64 * 1_000_000
                    + (usage.user_time().tv_usec() + usage.system_time().tv_usec()) as u64,
            )
        };
        let before = used();
        refused_with(Face::pop(&ring, &mut [0; 8], SECOND), libc::ETIMEDOUT, "");
        let cost = used() - before;
        // Ten slices of sleep; 1 % of the second is far above what they cost and far below a spin.
        assert!(cost < Duration::from_millis(10), "{cost:?}");
    });
    join(child);
}
