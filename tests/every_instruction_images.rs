//! A process is killed after each instruction of a call, in the release library; whoever is left goes
//! on. docs/verification.md says what is promised then, and has the counts.
//!
//! One victim is stepped through its calls. After each instruction the ring's memory is looked at, and
//! where it has changed a copy of it is what a SIGKILL just then would have left: the same bytes, with
//! nobody holding a lock. Survivors work on the copy. What only the kernel does is in
//! `every_instruction_kills.rs`.
//!
//! `cargo test` runs a fixed part of the cases, MADANG_LONG=1 ten times as many.
#![cfg(target_arch = "x86_64")]

mod support;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::panic::catch_unwind;

use madang::ffi::ring::*;
use nix::sys::memfd::{MFdFlags, memfd_create};
use support::kinds::{Kind, SPSC, Tally, tell, telling};
use support::release_ring::Shape;
use support::step::{At, is_long, release, turn};
use support::survivor::{Bounds, Fate, First, survive};
use support::victim::{Act, Case, Report, Stage, *};

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

/// All cases of one act in one kind of ring.
fn cases(kind: Kind, act: Act) -> Vec<Case> {
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

fn snapshots_of(name: &str, kind: Kind) {
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
fn recovery_of(name: &str, kind: Kind) {
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

for_each_kind! {
    fn snapshots() = snapshots_of;
    fn recovery() = recovery_of;
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
