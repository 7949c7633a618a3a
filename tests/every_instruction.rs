//! A process is killed, or stopped, after each instruction of a call, in the release library; whoever
//! is left goes on. docs/verification.md says what is promised then, and has the counts.
//!
//! Snapshots: one victim is stepped through its calls. After each instruction the ring's memory is
//! looked at, and where it has changed a copy of it is what a SIGKILL just then would have left: the
//! same bytes, with nobody holding a lock. Survivors work on the copy. Real kills and stops, on the ring
//! itself, are for what only the kernel does, and for those who live beside a stopped process.
//!
//! As a rule of `cargo test` a fixed part of the cases is run; all of them with MADANG_LONG=1.
#![cfg(target_arch = "x86_64")]

mod support;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::MutexGuard;

use madang::ffi::ring::*;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::Pid;
use support::process::{Gate, fork, join, serial};
use support::step::{At, Victim, release};
use support::survivor::{Bounds, Fate, First, Handle, OWN, Shape, survive, within_bound};
use support::victim::{Act, Case, Report, Stage, *};

/// Counts of what was done.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    cases: u64,
    instructions: u64,
    states: u64,
    survivors: u64,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.cases += other.cases;
        self.instructions += other.instructions;
        self.states += other.states;
        self.survivors += other.survivors;
    }
}

fn is_long() -> bool {
    std::env::var_os("MADANG_LONG").is_some_and(|value| value == "1")
}

/// A copy of a ring's memory in a file of its own, on which nobody holds a lock.
fn copy(image: &[u8]) -> OwnedFd {
    let file = memfd_create("image", MFdFlags::MFD_CLOEXEC).unwrap();
    std::fs::File::from(file.try_clone().unwrap()).write_all_at(image, 0).unwrap();
    file
}

/// A file's bytes, mapped to be looked at.
struct Live(memmap2::Mmap);

impl Live {
    fn new(memory: &OwnedFd) -> Self {
        // SAFETY: others write to it only while this process waits for the traced one's next stop.
        Self(unsafe { memmap2::Mmap::map(memory.as_raw_fd()) }.unwrap())
    }
}

/// Names the case, whatever went wrong.
fn telling<T>(what: impl std::fmt::Debug, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        eprintln!("in {what:?}");
        resume_unwind(panic)
    })
}

/// Steps a victim through its act; survivors work on each image of the ring that there is.
/// `images` receives them.
fn snapshots(case: &Case, stage: &mut Stage, images: &mut Vec<Vec<u8>>) -> (Tally, Fate, Report) {
    let (lib, shape, bounds) = (release(), case.shape, stage.bounds);
    let report = Report::new();
    let victim = case.victim(stage, &report);
    let live = Live::new(&stage.memory);
    let mut tally = Tally { cases: 1, ..Tally::default() };
    let mut seen = HashSet::new();
    let mut last: Vec<u8> = Vec::new();
    let mut fate = Fate { pushed: 0, gone: 0 };
    let mut look = |at: At| {
        if live.0[..] != last[..] {
            last.clear();
            last.extend_from_slice(&live.0);
            let mut hasher = DefaultHasher::new();
            last.hash(&mut hasher);
            if seen.insert(hasher.finish()) {
                images.push(last.clone());
                for first in [First::Drain, First::Fill] {
                    let memory = copy(&last);
                    let now = telling((at, first), || survive(lib, shape, &memory, bounds, first));
                    tally.survivors += 1;
                    let is_back = now.pushed < fate.pushed || now.gone < fate.gone;
                    assert!(
                        !is_back,
                        "{at:?}, {first:?}: what was done is undone: {now:?}, {fate:?}"
                    );
                    if first == First::Fill {
                        fate = now;
                    }
                }
            }
        }
        ControlFlow::Continue(())
    };
    look(At::Between).is_continue().then_some(()).unwrap();
    tally.instructions = victim.step(&case.act.calls(lib), &mut look);
    tally.states = seen.len() as u64;
    assert!(tally.instructions > 5, "{} instructions", tally.instructions);
    victim.kill();
    (tally, fate, report)
}

/// As `snapshots` of the case's own stage; and what has become of the call in the end is what it said.
fn whole(case: &Case, images: &mut Vec<Vec<u8>>) -> Tally {
    telling(case, || {
        let (tally, fate, report) = snapshots(case, &mut case.stage(), images);
        if !case.shape.overwrites() && case.act != Shutdown {
            if case.is_push() {
                assert_eq!(fate.pushed, report.moved());
            } else if !case.shape.is_broadcast() {
                assert_eq!(fate.gone, report.took().len() as u64);
            }
        }
        tally
    })
}

const SPSC: (u32, u32) = (MDG_RING_SPSC, 0);
const MPMC: (u32, u32) = (MDG_RING_MPMC, 0);
const MPMC_OVERWRITE: (u32, u32) = (MDG_RING_MPMC, MDG_RING_OVERWRITE);
const STOPPROOF: (u32, u32) = (MDG_RING_MPMC, MDG_RING_STOPPROOF);
const GATED: (u32, u32) = (MDG_RING_BROADCAST, 0);
const EVICT: (u32, u32) = (MDG_RING_BROADCAST, MDG_RING_EVICT);
const OVERWRITE: (u32, u32) = (MDG_RING_BROADCAST, MDG_RING_OVERWRITE);

/// All cases of one act in one kind of ring.
fn cases(kind: (u32, u32), act: Act) -> Vec<Case> {
    let mut cases = Vec::new();
    for (capacity, size) in [(1, 24), (4, 8), (4, 24)] {
        let shape = Shape { kind: kind.0, policy: kind.1, capacity, size };
        for inside in HashSet::from([0, capacity / 2, capacity - 1, capacity]) {
            // Items of one word have a way of their own, where they stand does not matter then.
            let rotations = if size == 8 { vec![3] } else { (0..capacity.max(2)).collect() };
            for rotation in rotations {
                for (warm, second) in [(false, false), (true, false), (true, true)] {
                    cases.push(Case { shape, act, inside, rotation, warm, second });
                }
            }
        }
    }
    cases.retain(Case::makes_sense);
    cases.sort_by_key(|case| (case.shape.size, case.shape.capacity, case.inside, case.rotation));
    cases
}

/// Every `part`-th case, or all.
fn chosen(cases: Vec<Case>, part: usize) -> Vec<Case> {
    let part = if is_long() { 1 } else { part };
    cases.into_iter().skip(part / 2).step_by(part).collect()
}

fn row(kind: &str, act: &dyn std::fmt::Debug, tally: Tally) {
    let Tally { cases, instructions, states, survivors } = tally;
    println!("| {kind} | {act:?} | {cases} | {instructions} | {states} | {survivors} |");
}

/// A turn, on one processor: tracer and traced run in turns anyway, which is faster so; and calls that
/// wait do not spin where they could run on no other processor.
fn turn() -> MutexGuard<'static, ()> {
    let turn = serial();
    let mut one = CpuSet::new();
    // SAFETY: cannot fail.
    one.set(unsafe { libc::sched_getcpu() } as usize).unwrap();
    sched_setaffinity(Pid::from_raw(0), &one).unwrap();
    turn
}

fn all_snapshots(name: &str, kind: (u32, u32)) {
    let _turn = turn();
    for act in Act::USUAL {
        let mut tally = Tally::default();
        for case in chosen(cases(kind, act), 17) {
            tally.add(whole(&case, &mut Vec::new()));
        }
        if tally.cases > 0 {
            row(name, &act, tally);
        }
    }
}

#[test]
fn snapshots_one_to_one() {
    all_snapshots("one to one", SPSC);
}

#[test]
fn snapshots_many_to_many() {
    all_snapshots("many to many", MPMC);
}

#[test]
fn snapshots_many_to_many_overwriting() {
    all_snapshots("many to many, overwriting", MPMC_OVERWRITE);
}

#[test]
fn snapshots_stop_proof() {
    all_snapshots("stop-proof", STOPPROOF);
}

#[test]
fn snapshots_broadcast() {
    all_snapshots("broadcast", GATED);
}

#[test]
fn snapshots_broadcast_evicting() {
    all_snapshots("broadcast, evicting", EVICT);
}

#[test]
fn snapshots_broadcast_overwriting() {
    all_snapshots("broadcast, overwriting", OVERWRITE);
}

/// Those who mend what a first victim has left are killed at it, too: from each image that the first
/// one leaves, a second victim sets out, which opens the ring, or finds it blocked.
fn recovered(name: &str, kind: (u32, u32)) {
    let _turn = turn();
    let shape = Shape { kind: kind.0, policy: kind.1, capacity: 4, size: 24 };
    let mut tallies =
        [(Open, Tally::default()), (MendingPop, Tally::default()), (MendingPush, Tally::default())];
    let firsts: &[Act] = if is_long() {
        &[Push, PushMany, ReserveCommit, Pop, PopMany, PeekRelease]
    } else {
        &[PushMany, PopMany]
    };
    for &act in firsts {
        for (then, tally) in &mut tallies {
            let second = *then != Open;
            let inside = if *then == MendingPush { 4 } else { 2 };
            let case = Case { shape, act, inside, rotation: 3, warm: false, second };
            let fits = match then {
                MendingPush => case.is_pop(),
                MendingPop => case.is_push(),
                _ => true,
            };
            if !fits || shape.is_broadcast() && second {
                continue;
            }
            let mut images = Vec::new();
            whole(&case, &mut images);
            let bounds = case.stage().bounds;
            let each = if is_long() { 1 } else { images.len().div_ceil(2) };
            for image in images.iter().step_by(each) {
                let (pushed, taken) = then.most();
                let (pushed, taken) = (bounds.pushed + pushed, bounds.taken + taken);
                let bounds = Bounds { pushed, taken, ..bounds };
                let mut stage = Stage { memory: copy(image), bounds, peer: None, first_slot: None };
                let case = Case { act: *then, second: false, ..case };
                let after = |then| (case, then);
                tally.add(telling(after(act), || snapshots(&case, &mut stage, &mut Vec::new()).0));
            }
        }
    }
    for (then, tally) in tallies.into_iter().filter(|(_, tally)| tally.cases > 0) {
        row(name, &then, tally);
    }
}

#[test]
fn recovery_one_to_one() {
    recovered("one to one", SPSC);
}

#[test]
fn recovery_many_to_many() {
    recovered("many to many", MPMC);
}

#[test]
fn recovery_stop_proof() {
    recovered("stop-proof", STOPPROOF);
}

#[test]
fn recovery_broadcast() {
    recovered("broadcast", GATED);
}

const KINDS: [(&str, (u32, u32)); 7] = [
    ("one to one", SPSC),
    ("many to many", MPMC),
    ("many to many, overwriting", MPMC_OVERWRITE),
    ("stop-proof", STOPPROOF),
    ("broadcast", GATED),
    ("broadcast, evicting", EVICT),
    ("broadcast, overwriting", OVERWRITE),
];

/// A victim that stands after `instructions` of its calls; `None` if they had been over before.
fn halted(case: &Case, stage: &mut Stage, report: &Report, instructions: u64) -> Option<Victim> {
    let victim = case.victim(stage, report);
    let mut halted = false;
    victim.step(&case.act.calls(release()), |at| match at {
        At::Inside { instructions: now, .. } if now == instructions => {
            halted = true;
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    });
    halted.then_some(victim)
}

/// Where to halt: after each instruction, or after every so many.
fn places(case: &Case) -> impl Iterator<Item = u64> {
    // Much of the slow ways is the kernel's and the C library's.
    let far = if matches!(case.act, FirstPush | FirstPop | Close | WaitingPush | WaitingPop) {
        20
    } else {
        1
    };
    (1..).step_by(if is_long() { far } else { 23 * far + 6 })
}

/// The cases of which each instruction gets a process of its own.
fn few_cases(kind: (u32, u32), act: Act) -> impl Iterator<Item = Case> {
    let shape = Shape { kind: kind.0, policy: kind.1, capacity: 4, size: 24 };
    let insides: &[u64] = if is_long() { &[0, 3, 4] } else { &[3] };
    let case =
        move |&inside| Case { shape, act, inside, rotation: 3, warm: is_long(), second: false };
    let cold = |case: Case| if case.makes_sense() { case } else { Case { warm: false, ..case } };
    insides.iter().map(case).map(cold).filter(Case::makes_sense)
}

#[test]
fn killed_for_real() {
    let _turn = turn();
    for (name, kind) in KINDS {
        let mut kills = 0;
        for act in Act::USUAL {
            for case in few_cases(kind, act) {
                for place in places(&case) {
                    let mut stage = case.stage();
                    let Some(victim) = halted(&case, &mut stage, &Report::new(), place) else {
                        break;
                    };
                    victim.kill();
                    stage.peer = None;
                    let first = if place % 2 == 0 { First::Drain } else { First::Fill };
                    telling((case, place), || {
                        survive(release(), case.shape, &stage.memory, stage.bounds, first)
                    });
                    kills += 1;
                }
            }
        }
        println!("| {name} | killed for real | {kills} |");
        assert!(kills > 10);
    }
}

const DEAD: i32 = -libc::EOWNERDEAD;

/// A consumer that sleeps hears of the item, or of the death, wherever its producer is killed.
#[test]
fn sleepers_outlive_those_who_wake_them() {
    let _turn = turn();
    for kind in [SPSC, MPMC, STOPPROOF, GATED] {
        let shape = Shape { kind: kind.0, policy: kind.1, capacity: 4, size: 24 };
        let case = Case { shape, act: Push, inside: 0, rotation: 3, warm: false, second: true };
        let (mut kills, stride) = (0, if is_long() { 1 } else { 61 });
        for place in (1..).step_by(stride) {
            let mut stage = Case { second: false, ..case }.stage();
            stage.peer = None;
            let waiter = Handle::open(release(), shape, &stage.memory, libc::O_RDWR);
            let go = Gate::new();
            let sleeper = fork(|| {
                let ring = Handle::open(release(), shape, &stage.memory, libc::O_RDONLY);
                while ring.pop().is_ok() {}
                go.open();
                let outcome = ring.pop_for(20_000_000_000);
                assert!(matches!(outcome, Ok(3) | Err(DEAD)), "{outcome:?}");
            });
            go.pass();
            within_bound("sleep", || (waiter.pop_waits() > 0).then_some(()));
            let Some(victim) = halted(&case, &mut stage, &Report::new(), place) else { break };
            victim.kill();
            telling((kind, place), || join(sleeper));
            kills += 1;
        }
        println!("| {kind:?} | killed beside a sleeper | {kills} |");
        assert!(kills > 1);
    }
}

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

#[test]
fn stopped_and_going_on() {
    let _turn = turn();
    for (name, kind) in KINDS {
        let mut stops = 0;
        for act in [Push, PushMany, ReserveCommit, Pop, PopMany, PeekRelease] {
            for case in few_cases(kind, act) {
                let stopped = |&place: &u64| {
                    telling((case, place), || match case.shape.is_broadcast() {
                        true => stopped_in_broadcast(&case, place),
                        false => stopped_in_queue(&case, place),
                    })
                };
                stops += places(&case).take_while(stopped).count();
            }
        }
        println!("| {name} | stopped, and going on | {stops} |");
        assert!(stops > 10);
    }
}

/// What the survivors would see if a promise was broken: images that no kill may leave.
#[test]
fn wrong_images_are_noticed() {
    let _turn = turn();
    let shape = Shape { kind: SPSC.0, policy: 0, capacity: 4, size: 24 };
    let case = Case { shape, act: Push, inside: 2, rotation: 1, warm: false, second: false };
    let stage = case.stage();
    let image = Live::new(&stage.memory).0.to_vec();
    let is_refused = |change: &dyn Fn(&mut [u8])| {
        let mut image = image.clone();
        change(&mut image);
        let memory = copy(&image);
        catch_unwind(|| survive(release(), shape, &memory, stage.bounds, First::Drain)).is_err()
    };
    const TAIL: usize = 4096;
    let items = image.len() - 4 * 24;
    assert!(!is_refused(&|_| {}));
    assert!(is_refused(&|image| image[TAIL] += 1), "committed and not written");
    assert!(is_refused(&|image| image[TAIL] -= 1), "one missing");
    assert!(is_refused(&|image| image[TAIL + 128] += 1), "one taken by nobody");
    assert!(is_refused(&|image| image[TAIL + 128] -= 1), "one twice");
    assert!(is_refused(&|image| image[items + 24 + 20] ^= 1), "torn");
    assert!(is_refused(&|image| image[items + 24..].rotate_left(24)), "out of order");
    assert!(is_refused(&|image| image[TAIL + 0x200] |= 2), "corrupt");
}
