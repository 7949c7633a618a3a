//! A process is stopped at instructions of a call, in the release library, and others work beside it; then
//! it goes on, and everything adds up.
//!
//! `cargo test` tries every so-manieth instruction, MADANG_LONG=1 every fifth.
#![cfg(target_arch = "x86_64")]

mod support;

use madang::ffi::ring::*;
use support::kinds::{Kind, Tally, halted, one_case, tell, telling};
use support::release_ring::Handle;
use support::step::{is_long, release, turn};
use support::survivor::OWN;
use support::victim::{Case, Report, *};

/// Whoever is beside a stopped victim of a queue takes what is there and pushes items of its own; then
/// the victim goes on, and everything adds up.
fn stopped_in_queue(case: &Case, place: u64) -> bool {
    let (lib, shape, report) = (release(), case.shape, Report::new());
    let mut stage = case.stage();
    let bounds = stage.bounds;
    let Some(victim) = halted(case, &mut stage, &report, place) else { return false };
    let alone = shape.kind == MDG_RING_SPSC;
    let (own, other) = match (alone, case.is_push()) {
        (true, true) => (libc::O_RDONLY, libc::O_WRONLY),
        (true, false) => (libc::O_WRONLY, libc::O_RDONLY),
        (false, _) => (libc::O_RDWR, 0),
    };
    let ring = Handle::open(lib, shape, &stage.memory, own);
    let (mut found, mut pushed) = (Vec::new(), 0);
    if own != libc::O_WRONLY {
        found.extend(std::iter::from_fn(|| ring.pop().ok()));
        assert_eq!(ring.pop(), Err(-libc::EAGAIN));
        assert_eq!(ring.pop_for(1000), Err(-libc::ETIMEDOUT), "the stopped are not dead");
    }
    if own != libc::O_RDONLY {
        while pushed < shape.capacity && ring.push(OWN + pushed) == 0 {
            pushed += 1;
        }
        if pushed < shape.capacity {
            assert_eq!(ring.push(0), -libc::EAGAIN);
            assert_eq!(ring.push_for(0, 1000), -libc::ETIMEDOUT, "the stopped are not dead");
        }
    }
    if alone {
        let taken = Handle::try_open(lib, shape, &stage.memory, other).err();
        assert_eq!(taken, Some(-libc::EBUSY), "the stopped one's end");
    }
    if shape.policy & MDG_RING_STOPPROOF != 0 {
        // Nobody waits: the ring is all the survivor's.
        assert_eq!(pushed, shape.capacity);
        for _ in 0..3 {
            let mine: Vec<_> = std::iter::from_fn(|| ring.pop().ok()).collect();
            assert_eq!(mine, (OWN + pushed - shape.capacity..OWN + pushed).collect::<Vec<_>>());
            found.extend(mine);
            for _ in 0..shape.capacity {
                assert_eq!(ring.push(OWN + pushed), 0);
                pushed += 1;
            }
            assert_eq!(ring.push(0), -libc::EAGAIN);
        }
    }
    victim.finish();
    let ring = if own == libc::O_WRONLY {
        Handle::open(lib, shape, &stage.memory, libc::O_RDWR)
    } else {
        ring
    };
    found.extend(ring.drain());
    let (moved, took) = (if case.is_push() { report.moved() } else { 0 }, report.took());
    let stats = ring.closed_stat();
    assert_eq!(stats.written, bounds.total + moved + pushed, "{stats:?}");
    assert_eq!((stats.lost, stats.recovered, stats.pending, stats.length), (0, 0, 0, 0));
    // Each once, and those of one producer in order.
    let mut all: Vec<_> = found.iter().chain(&took).copied().collect();
    all.sort_unstable();
    let mut expected: Vec<_> = (bounds.first..bounds.total + moved).collect();
    expected.extend(OWN..OWN + pushed);
    if shape.overwrites() {
        assert!(all.windows(2).all(|pair| pair[0] < pair[1]), "{all:?}");
        assert!(all.iter().all(|number| expected.contains(number)));
        assert_eq!((expected.len() - all.len()) as u64, stats.dropped);
    } else {
        assert_eq!(all, expected);
    }
    for taken in [found, took] {
        let (mine, theirs): (Vec<u64>, Vec<u64>) = taken.iter().partition(|&&number| number >= OWN);
        assert!([mine, theirs].iter().all(|one| one.is_sorted()), "{taken:?}");
    }
    true
}

/// The same in a broadcast: its producer is stopped, and consumers have what was committed; or one of
/// its consumers is, and holds the producer if that is the policy.
fn stopped_in_broadcast(case: &Case, place: u64) -> bool {
    let (lib, shape, report) = (release(), case.shape, Report::new());
    let mut stage = case.stage();
    let bounds = stage.bounds;
    let Some(victim) = halted(case, &mut stage, &report, place) else { return false };
    let gated = !shape.is_never_full();
    if case.is_push() {
        let consumer = stage.peer.take().unwrap();
        let mut found = Vec::new();
        let mut take = || loop {
            match consumer.pop() {
                Ok(number) => found.push(number),
                Err(code) if code == -libc::EOVERFLOW && !gated => {}
                Err(code) => break assert_eq!(code, -libc::EAGAIN),
            }
        };
        take();
        let taken = Handle::try_open(lib, shape, &stage.memory, libc::O_WRONLY).err();
        assert_eq!(taken, Some(-libc::EBUSY), "the stopped one's end");
        victim.finish();
        take();
        let all = bounds.total + report.moved();
        assert!(found.is_sorted() && found.last().is_none_or(|&last| last + 1 == all), "{found:?}");
        if gated {
            assert_eq!(found, (bounds.first..all).collect::<Vec<_>>());
        }
        assert_eq!(consumer.closed_stat().written, all);
    } else {
        let producer = Handle::open(lib, shape, &stage.memory, libc::O_WRONLY);
        let mut pushed = 0;
        while pushed < 3 * shape.capacity && producer.push(OWN + pushed) == 0 {
            pushed += 1;
        }
        if gated {
            assert!(pushed <= shape.capacity);
            assert_eq!(producer.push_for(0, 1000), -libc::ETIMEDOUT, "the stopped are not dead");
        } else {
            assert_eq!(pushed, 3 * shape.capacity, "held by a stopped one");
        }
        victim.finish();
        // The oldest first, all in a row; or it is told that they are gone.
        let (answer, took) = (report.answer(), report.took());
        let then = |number| if number + 1 == bounds.total { OWN } else { number + 1 };
        assert!(took.windows(2).all(|pair| pair[1] == then(pair[0])), "{took:?}");
        if gated && bounds.total > bounds.first {
            assert_eq!(took[0], bounds.first);
        } else if took.is_empty() {
            assert!(
                answer == -i64::from(libc::EOVERFLOW) && !gated
                    || answer == -i64::from(libc::EAGAIN)
            );
        }
        (0..shape.capacity).for_each(|number| producer.must_push(number));
        assert_eq!(producer.closed_stat().written, bounds.total + pushed + shape.capacity);
    }
    assert_eq!(Handle::open(lib, shape, &stage.memory, libc::O_RDWR).stat().recovered, 0);
    true
}

/// Stopped after so many instructions, with others beside it; then it goes on.
fn stops_of(name: &str, kind: Kind) {
    let _turn = turn();
    for act in [Push, PushMany, ReserveCommit, Pop, PopMany, PeekRelease] {
        let case = one_case(kind, act).unwrap();
        let mut tally = Tally { cases: 1, ..Tally::default() };
        for place in (1..).step_by(if is_long() { 5 } else { 61 }) {
            let halted = telling((case, place), || match case.shape.is_broadcast() {
                true => stopped_in_broadcast(&case, place),
                false => stopped_in_queue(&case, place),
            });
            if !halted {
                break;
            }
            tally.states += 1;
            tally.instructions = place;
        }
        assert!(tally.states > 0);
        tell(name, &format!("{act:?}"), "stopped, then going on", tally);
    }
}

for_each_kind! {
    fn stops() = stops_of;
}
