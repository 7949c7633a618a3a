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
use std::ffi::{c_int, c_void};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{MutexGuard, OnceLock};
use std::time::Duration;

use madang::ffi::ring::*;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::Pid;
use support::process::{serial, shared_words};
use support::step::{At, Release, Victim, release};
use support::survivor::{Bounds, Fate, First, HANDLES, Handle, OWN, Shape, survive};

/// What a victim does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Push,
    PushMany,
    ReserveCommit,
    /// Of a handle that has not used its end yet, and takes it by the call.
    FirstPush,
    /// With somebody asleep, who has to be woken.
    WakingPush,
    /// With a time limit, in a full ring.
    WaitingPush,
    Pop,
    PopMany,
    PeekRelease,
    FirstPop,
    WakingPop,
    WaitingPop,
    /// After a millisecond of finding the ring blocked: it mends what a dead one has left.
    MendingPush,
    MendingPop,
    Open,
    Close,
    Shutdown,
}

use Act::*;

/// Items of a batch, and of a run in place.
const MANY: u64 = 3;
const RUN: u64 = 2;

impl Act {
    const USUAL: [Self; 14] = [
        Push,
        PushMany,
        ReserveCommit,
        FirstPush,
        WakingPush,
        WaitingPush,
        Pop,
        PopMany,
        PeekRelease,
        FirstPop,
        WakingPop,
        WaitingPop,
        Close,
        Shutdown,
    ];

    fn end(self) -> c_int {
        match self {
            Push | PushMany | ReserveCommit | WakingPush | WaitingPush => libc::O_WRONLY,
            Pop | PopMany | PeekRelease | WakingPop | WaitingPop => libc::O_RDONLY,
            _ => libc::O_RDWR,
        }
    }

    /// Items that it may push, and may take.
    fn most(self) -> (u64, u64) {
        match self {
            Push | FirstPush | WakingPush | WaitingPush | MendingPush => (1, 0),
            PushMany => (MANY, 0),
            ReserveCommit => (RUN, 0),
            Pop | FirstPop | WakingPop | WaitingPop | MendingPop => (0, 1),
            PopMany => (0, MANY),
            PeekRelease => (0, RUN),
            Open | Close | Shutdown => (0, 0),
        }
    }

    /// The functions that it calls.
    fn calls(self, lib: &Release) -> Vec<usize> {
        match self {
            Push | FirstPush | WakingPush | WaitingPush | MendingPush => vec![lib.push as usize],
            Pop | FirstPop | WakingPop | WaitingPop | MendingPop => vec![lib.pop as usize],
            PushMany => vec![lib.push_many as usize],
            PopMany => vec![lib.pop_many as usize],
            ReserveCommit => vec![lib.reserve as usize, lib.commit as usize],
            PeekRelease => vec![lib.peek as usize, lib.release as usize],
            Open => vec![lib.from_fd as usize],
            Close => vec![lib.close as usize],
            Shutdown => vec![lib.shutdown as usize],
        }
    }
}

/// A ring in some state, and what its victim does.
#[derive(Debug, Clone, Copy)]
struct Case {
    shape: Shape,
    act: Act,
    /// Items inside, and items that went through before.
    inside: u64,
    rotation: u64,
    /// Whether the victim has done such a call before: then it goes the fast way.
    warm: bool,
    /// Whether it has the second slot, and the first is free: survivors then mend what is in the way
    /// instead of sweeping its slot when they attach.
    second: bool,
}

/// What a victim tells: what its call answered, and what it took.
struct Report {
    mark: &'static AtomicU64,
    words: &'static [AtomicU64],
}

impl Report {
    fn new() -> Self {
        static WORDS: OnceLock<&'static [AtomicU64]> = OnceLock::new();
        let words = WORDS.get_or_init(|| shared_words(16));
        words.iter().for_each(|word| word.store(0, Ordering::SeqCst));
        Self { mark: &words[0], words: &words[1..] }
    }

    fn tell(&self, answer: i64, took: &[u64]) {
        self.words[0].store(answer as u64, Ordering::SeqCst);
        self.words[1].store(took.len() as u64, Ordering::SeqCst);
        self.words[2..]
            .iter()
            .zip(took)
            .for_each(|(word, &took)| word.store(took, Ordering::SeqCst));
    }

    fn answer(&self) -> i64 {
        self.words[0].load(Ordering::SeqCst) as i64
    }

    fn took(&self) -> Vec<u64> {
        let count = self.words[1].load(Ordering::SeqCst) as usize;
        self.words[2..][..count].iter().map(|word| word.load(Ordering::SeqCst)).collect()
    }
}

/// Time limit of the calls that wait.
const WAIT: i64 = 2_000_000;

/// The call itself, in the victim; its items are numbered from `next`.
fn act(
    act: Act,
    handle: &mut Option<Handle>,
    memory: &OwnedFd,
    shape: Shape,
    next: u64,
    report: &Report,
) {
    let lib = release();
    if act == Open {
        *handle = Some(Handle::open(lib, shape, memory, libc::O_RDWR));
        return;
    }
    if act == Close {
        drop(handle.take());
        return;
    }
    let ring = handle.as_ref().unwrap();
    let one = |popped: Result<u64, c_int>| match popped {
        Ok(number) => report.tell(0, &[number]),
        Err(code) => report.tell(code.into(), &[]),
    };
    match act {
        Push | FirstPush | WakingPush | MendingPush => report.tell(ring.push(next).into(), &[]),
        WaitingPush => report.tell(ring.push_for(next, WAIT).into(), &[]),
        PushMany => report.tell(ring.push_many(next, MANY) as i64, &[]),
        Pop | FirstPop | WakingPop | MendingPop => one(ring.pop()),
        WaitingPop => one(ring.pop_for(WAIT)),
        PopMany => match ring.pop_many(MANY) {
            Ok(items) => report.tell(items.len() as i64, &items),
            Err(code) => report.tell(code.into(), &[]),
        },
        ReserveCommit => {
            let mut room: *mut c_void = ptr::null_mut();
            // SAFETY: a live handle; the room is for as many items as are told.
            unsafe {
                let run = (lib.reserve)(ring.ring, &raw mut room, RUN as usize, 0);
                if run < 0 {
                    return report.tell(run as i64, &[]);
                }
                let items = shape.items(next, run as u64);
                ptr::copy_nonoverlapping(items.as_ptr(), room.cast(), items.len());
                let done = (lib.commit)(ring.ring, run as usize);
                report.tell(if done < 0 { done as i64 } else { run as i64 }, &[]);
            }
        }
        PeekRelease => {
            let mut run: *const c_void = ptr::null();
            // SAFETY: a live handle; there are as many items as are told.
            unsafe {
                let count = (lib.peek)(ring.ring, &raw mut run, RUN as usize, 0);
                if count < 0 {
                    return report.tell(count as i64, &[]);
                }
                let length = count as usize * shape.size;
                let items = std::slice::from_raw_parts(run.cast::<u8>(), length).to_vec();
                let done = (lib.release)(ring.ring, count as usize);
                if done < 0 {
                    return report.tell(done as i64, &[]);
                }
                let took: Vec<_> = items.chunks(shape.size).map(|it| shape.number(it)).collect();
                report.tell(count as i64, &took);
            }
        }
        // SAFETY: a live handle.
        Shutdown => report.tell(unsafe { (lib.shutdown)(ring.ring) }.into(), &[]),
        Open | Close => unreachable!(),
    }
}

/// A ring that is ready for its victim.
struct Stage {
    memory: OwnedFd,
    bounds: Bounds,
    /// In a broadcast: the consumer that holds the producer, `inside` items behind.
    peer: Option<Handle>,
    /// Has the first slot until the victim has come.
    first_slot: Option<Handle>,
}

/// Offsets of the words that say that somebody sleeps; see docs/layout.md.
const ARMED: [u64; 2] = [4096 + 0x104, 4096 + 0x184];

impl Case {
    fn is_push(&self) -> bool {
        self.act.most().0 > 0
    }

    fn is_pop(&self) -> bool {
        self.act.most().1 > 0
    }

    /// Whether there is such a case, and it differs from others.
    fn makes_sense(&self) -> bool {
        let warm = match self.warm {
            true if self.is_push() => self.inside > 0 && self.act.end() != libc::O_RDWR,
            true => {
                self.is_pop() && self.inside < self.shape.capacity && self.act.end() != libc::O_RDWR
            }
            false => true,
        };
        // Waiting is for a ring in which there is something to wait for.
        let waits = match self.act {
            WaitingPush => self.inside == self.shape.capacity && !self.shape.is_never_full(),
            WaitingPop => self.inside == 0,
            _ => true,
        };
        let one_end = !self.shape.is_broadcast() || !matches!(self.act, Shutdown | Close);
        warm && waits && one_end && (!self.second || self.shape.kind != MDG_RING_SPSC)
    }

    fn stage(&self) -> Stage {
        let (lib, shape, total) = (release(), self.shape, self.rotation + self.inside);
        let ring = Handle::new(lib, shape);
        let memory = ring.memory();
        let mut peer = None;
        let (mut first, mut inside) = (self.rotation, self.inside);
        if shape.is_broadcast() {
            // All of the rotation was seen by the peer, which is there for producers only.
            let consumer = Handle::open(lib, shape, &memory, libc::O_RDONLY);
            for number in 0..self.rotation {
                assert_eq!(ring.push(number), 0);
                assert_eq!(consumer.pop(), Ok(number));
            }
            peer = self.is_push().then_some(consumer);
        } else {
            for number in 0..self.rotation {
                assert_eq!(ring.push(number), 0);
                assert_eq!(ring.pop(), Ok(number));
            }
        }
        // A warm victim has pushed the last one itself, or has taken the one before the first.
        if self.warm && self.is_pop() {
            (first, inside) = (first + 1, inside + 1);
        }
        let theirs = u64::from(self.warm && self.is_push());
        for number in self.rotation..self.rotation + inside - theirs {
            assert_eq!(ring.push(number), 0);
        }
        drop(ring);
        if matches!(self.act, WakingPush | WakingPop) {
            let armed = std::fs::File::from(memory.try_clone().unwrap());
            ARMED.iter().for_each(|&at| armed.write_all_at(&1_u32.to_ne_bytes(), at).unwrap());
        }
        let first_slot = self.second.then(|| Handle::open(lib, shape, &memory, libc::O_RDWR));
        let (pushed, mut taken) = self.act.most();
        if shape.overwrites() {
            taken += pushed;
        }
        let total = total + u64::from(self.warm && self.is_pop());
        let bounds = Bounds { total, first, pushed, taken, shut: self.act == Shutdown };
        Stage { memory, bounds, peer, first_slot }
    }

    /// The victim, just before its call.
    fn victim(&self, stage: &mut Stage, report: &Report) -> Victim {
        let (lib, shape) = (release(), self.shape);
        let (memory, bounds) = (&stage.memory, stage.bounds);
        let mut slot = stage.first_slot.take();
        let victim = Victim::new(
            report.mark,
            || {
                if self.act == Open {
                    return None;
                }
                let ring = Handle::open(lib, shape, memory, self.act.end());
                if self.warm && self.is_push() {
                    assert_eq!(ring.push(bounds.total - 1), 0);
                } else if shape.is_broadcast() && self.is_pop() {
                    // As far as the first that is to be inside for it.
                    let behind = bounds.total - bounds.first;
                    if bounds.first > 0 && (self.warm || behind < shape.capacity) {
                        while ring.pop().is_ok_and(|number| number + 1 < bounds.first) {}
                    }
                } else if self.warm {
                    assert_eq!(ring.pop(), Ok(bounds.first - 1));
                }
                // Waits in vain teach it not to spin, which would be the same loads over and over.
                match self.act {
                    WaitingPush => {
                        (0..8).for_each(|_| assert_eq!(ring.push_for(0, 1000), -libc::ETIMEDOUT));
                    }
                    WaitingPop => {
                        (0..8).for_each(|_| assert_eq!(ring.pop_for(1000), Err(-libc::ETIMEDOUT)));
                    }
                    _ => {}
                }
                if matches!(self.act, MendingPush | MendingPop) {
                    // The first look at what is in the way; it becomes suspicious by being there still.
                    let code = match self.act {
                        MendingPush => ring.push(bounds.total),
                        _ => ring.pop().map_or_else(|code| code, |number| panic!("{number}")),
                    };
                    assert_eq!(code, -libc::EAGAIN);
                    std::thread::sleep(Duration::from_millis(2));
                }
                Some(ring)
            },
            |ring| act(self.act, ring, memory, shape, bounds.total, report),
            drop,
        );
        drop(slot.take());
        victim
    }
}

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
fn snapshots(case: &Case, stage: &mut Stage, images: &mut Vec<Vec<u8>>) -> Tally {
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
    let (answer, took) = (report.answer(), report.took());
    let moved = if answer > 0 { answer as u64 } else { u64::from(answer == 0) };
    if !shape.overwrites() && case.act != Shutdown {
        if case.is_push() {
            assert_eq!(fate.pushed, moved, "the call answered {answer}");
        } else if !shape.is_broadcast() {
            assert_eq!(fate.gone, took.len() as u64, "the call answered {answer}");
        }
    }
    victim.kill();
    tally
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
            tally.add(telling(case, || snapshots(&case, &mut case.stage(), &mut Vec::new())));
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
