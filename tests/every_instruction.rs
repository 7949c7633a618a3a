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

use madang::ffi::ring::*;
use nix::sys::memfd::{MFdFlags, memfd_create};
use support::process::{Gate, fork, join};
use support::step::{At, Victim, is_long, release, row, turn};
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
    let mut fate: Option<Fate> = None;
    // A second victim may be at a cell without an item: freed, and not counted as such yet, that is
    // taken for an item that came and went, see `ring/mpmc`. What is inside tells.
    let is_second = stage.is_second;
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
                    let before = fate.unwrap_or(now);
                    let more = now.pushed as i64 - now.gone as i64;
                    let more = more - (before.pushed as i64 - before.gone as i64);
                    let is_back = if !is_second {
                        now.pushed < before.pushed || now.gone < before.gone
                    } else if shape.overwrites() {
                        false
                    } else {
                        !case.is_push() && more > 0 || !case.is_pop() && more < 0
                    };
                    assert!(
                        !is_back,
                        "{at:?}, {first:?}: what was done is undone: {now:?}, {before:?}"
                    );
                    if first == First::Fill {
                        fate = Some(now);
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
    (tally, fate.unwrap(), report)
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
const REDELIVER: (u32, u32) = (MDG_RING_MPMC, MDG_RING_REDELIVER);
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

/// A part of the cases.
fn chosen(cases: Vec<Case>) -> Vec<Case> {
    let part = if is_long() { 3 } else { 29 };
    cases.into_iter().skip(part / 2).step_by(part).collect()
}

fn snapshots_of(name: &str, kind: (u32, u32)) {
    let _turn = turn();
    for act in Act::USUAL {
        let mut tally = Tally::default();
        for case in chosen(cases(kind, act)) {
            tally.add(whole(&case, &mut Vec::new()));
        }
        tell(name, &format!("{act:?}"), "killed", tally);
    }
}

/// Those who mend what a first victim has left are killed at it, too: from each image that the first
/// one leaves, a second victim sets out, which opens the ring, takes the end, or finds it blocked.
fn recovery_of(name: &str, kind: (u32, u32)) {
    let _turn = turn();
    let shape = Shape { kind: kind.0, policy: kind.1, capacity: 4, size: 24 };
    let firsts: &[Act] = if is_long() {
        &[Push, PushMany, ReserveCommit, Pop, PopMany, PeekRelease]
    } else {
        &[PushMany, PopMany]
    };
    let thens = [Open, FirstPush, FirstPop, MendingPush, MendingPop, OpenPush, OpenPop];
    for then in &thens[..if is_long() { 7 } else { 5 }] {
        let then = *then;
        let mut tally = Tally::default();
        let ends = shape.kind == MDG_RING_SPSC || shape.is_broadcast();
        // What the dead have left is in the way of the other end; their own end is free for the next.
        // With one producer or consumer nothing is in the way, but a dead consumer of a broadcast.
        let firsts = firsts.iter().copied().filter(|&first| {
            let pushed = first.most().0 > 0;
            match then {
                OpenPush | FirstPush => pushed,
                OpenPop | FirstPop => !pushed,
                MendingPush => !pushed && shape.kind != MDG_RING_SPSC,
                MendingPop => pushed && !ends,
                _ => pushed || is_long(),
            }
        });
        for act in firsts {
            // The first slot is swept by whoever opens the ring; what has the second one is met.
            let second = !then.opens() && shape.kind != MDG_RING_SPSC;
            let inside = if then == MendingPush { 4 } else { 2 };
            let case = Case { shape, act, inside, rotation: 3, warm: false, second };
            let mut images = Vec::new();
            whole(&case, &mut images);
            let bounds = case.stage().bounds;
            // Opening is twenty thousand instructions, few of which touch the ring.
            let each = match (is_long(), then.opens()) {
                (true, false) => 2,
                (true, true) => 6,
                (false, _) => images.len(),
            };
            for image in images.iter().skip(each / 2).step_by(each) {
                let (pushed, mut taken) = then.most();
                if shape.overwrites() {
                    taken += pushed;
                }
                let (pushed, taken) = (bounds.pushed + pushed, bounds.taken + taken);
                let bounds = Bounds { pushed, taken, ..bounds };
                let mut stage = Stage {
                    memory: copy(image),
                    bounds,
                    peer: None,
                    first_slot: None,
                    is_second: true,
                };
                let case = Case { act: then, second: false, ..case };
                let after = |then| (case, then);
                tally.add(telling(after(act), || snapshots(&case, &mut stage, &mut Vec::new()).0));
            }
        }
        tell(name, &format!("recovery: {then:?}"), "killed", tally);
    }
}

/// A row of the table.
fn tell(name: &str, call: &str, how: &str, tally: Tally) {
    if tally.cases > 0 {
        row(name, call, how, tally.cases, tally.instructions, tally.states);
    }
}

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

/// A case of which each place gets a process of its own.
fn one_case(kind: (u32, u32), act: Act) -> Option<Case> {
    let shape = Shape { kind: kind.0, policy: kind.1, capacity: 4, size: 24 };
    let inside = match act {
        WaitingPush => 4,
        WaitingPop => 0,
        _ => 3,
    };
    let case = Case { shape, act, inside, rotation: 3, warm: true, second: false };
    [case, Case { warm: false, ..case }].into_iter().find(Case::makes_sense)
}

/// Real SIGKILLs: before and after each system call, and in the plain calls, which make none, after each
/// instruction.
fn kills_of(name: &str, kind: (u32, u32)) {
    let _turn = turn();
    for act in Act::USUAL.into_iter().chain([Open, OpenPush, OpenPop]) {
        let Some(case) = one_case(kind, act) else { continue };
        let is_plain =
            matches!(act, Push | PushMany | ReserveCommit | Pop | PopMany | PeekRelease | Shutdown);
        let mut tally = Tally { cases: 1, ..Tally::default() };
        let stride: u64 = match (is_plain, is_long()) {
            (true, true) => 7,
            (true, false) => 149,
            (false, true) => 1,
            (false, false) => 5,
        };
        for place in (1 + stride / 4..).step_by(stride as usize) {
            let mut stage = case.stage();
            let victim = if is_plain {
                halted(&case, &mut stage, &Report::new(), place)
            } else {
                let victim = case.victim(&mut stage, &Report::new());
                let reached = victim.run_to_system_call(act.calls(release())[0], place);
                reached.then_some(victim)
            };
            let Some(victim) = victim else { break };
            victim.kill();
            stage.peer = None;
            let first = if place % 2 == 0 { First::Drain } else { First::Fill };
            telling((case, place), || {
                survive(release(), case.shape, &stage.memory, stage.bounds, first)
            });
            if is_plain {
                tally.instructions = place;
            }
            tally.states += 1;
        }
        let how = if is_plain { "killed for real" } else { "killed for real, at system calls" };
        if tally.states > 0 {
            tell(name, &format!("{act:?}"), how, tally);
        }
    }
}

const DEAD: i32 = -libc::EOWNERDEAD;

/// A consumer that sleeps hears of the item, or of the death, wherever its producer is killed.
fn sleepers_of(name: &str, kind: (u32, u32)) {
    let _turn = turn();
    let shape = Shape { kind: kind.0, policy: kind.1, capacity: 4, size: 24 };
    let case = Case { shape, act: Push, inside: 0, rotation: 3, warm: false, second: false };
    let mut tally = Tally { cases: 1, ..Tally::default() };
    for place in (1..).step_by(if is_long() { 3 } else { 101 }) {
        let mut stage = case.stage();
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
        tally.states += 1;
        tally.instructions = place;
    }
    tell(name, "Push, to a sleeper", "killed for real", tally);
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

/// Stopped after so many instructions, with others beside it; then it goes on.
fn stops_of(name: &str, kind: (u32, u32)) {
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

/// The proofs, for each kind of ring.
macro_rules! kinds {
    ($($kind:ident = $name:literal $value:ident)*) => {
        $(mod $kind {
            use super::*;

            #[test]
            fn snapshots() {
                snapshots_of($name, $value);
            }

            #[test]
            fn recovery() {
                recovery_of($name, $value);
            }

            #[test]
            fn kills() {
                kills_of($name, $value);
            }

            #[test]
            fn sleepers() {
                sleepers_of($name, $value);
            }

            #[test]
            fn stops() {
                stops_of($name, $value);
            }
        })*
    };
}

kinds! {
    one_to_one = "one to one" SPSC
    many_to_many = "many to many" MPMC
    many_to_many_overwriting = "many to many, overwriting" MPMC_OVERWRITE
    many_to_many_redelivering = "many to many, redelivering" REDELIVER
    stop_proof = "stop-proof" STOPPROOF
    broadcast = "broadcast" GATED
    broadcast_evicting = "broadcast, evicting" EVICT
    broadcast_overwriting = "broadcast, overwriting" OVERWRITE
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
