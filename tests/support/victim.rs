//! Rings in all sorts of states, each with a victim that is about to make a call there: the scenes of
//! `tests/every_instruction_*.rs`.

use std::ffi::{c_int, c_void};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use madang::ffi::ring::*;

use super::process::shared_words;
use super::release_ring::{Handle, Shape};
use super::step::{Release, Victim, release};
use super::survivor::Bounds;

/// What a victim does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
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
    /// After finding the ring blocked for a while: mends what a dead one has left.
    MendingPush,
    MendingPop,
    Open,
    /// These take their end by opening, where one handle has it.
    OpenPush,
    OpenPop,
    Close,
    Shutdown,
}

pub use Act::*;

/// Items of a batch, and of a run in place.
pub const MANY: u64 = 3;
pub const RUN: u64 = 2;

impl Act {
    pub const USUAL: [Self; 14] = [
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

    pub fn end(self) -> c_int {
        match self {
            Push | PushMany | ReserveCommit | WakingPush | WaitingPush | OpenPush => libc::O_WRONLY,
            Pop | PopMany | PeekRelease | WakingPop | WaitingPop | OpenPop => libc::O_RDONLY,
            _ => libc::O_RDWR,
        }
    }

    /// Items that it may push, and may take.
    pub fn most(self) -> (u64, u64) {
        match self {
            Push | FirstPush | WakingPush | WaitingPush => (1, 0),
            // What they do before is counted in.
            MendingPush => (8, 0),
            MendingPop => (0, 8),
            PushMany => (MANY, 0),
            ReserveCommit => (RUN, 0),
            Pop | FirstPop | WakingPop | WaitingPop => (0, 1),
            PopMany => (0, MANY),
            PeekRelease => (0, RUN),
            Open | OpenPush | OpenPop | Close | Shutdown => (0, 0),
        }
    }

    pub fn opens(self) -> bool {
        matches!(self, Open | OpenPush | OpenPop)
    }

    /// The functions that it calls.
    pub fn calls(self, lib: &Release) -> Vec<usize> {
        match self {
            Push | FirstPush | WakingPush | WaitingPush | MendingPush => vec![lib.push as usize],
            Pop | FirstPop | WakingPop | WaitingPop | MendingPop => vec![lib.pop as usize],
            PushMany => vec![lib.push_many as usize],
            PopMany => vec![lib.pop_many as usize],
            ReserveCommit => vec![lib.reserve as usize, lib.commit as usize],
            PeekRelease => vec![lib.peek as usize, lib.release as usize],
            Open | OpenPush | OpenPop => vec![lib.from_fd as usize],
            Close => vec![lib.close as usize],
            Shutdown => vec![lib.shutdown as usize],
        }
    }
}

/// A ring in some state, and what its victim does.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub shape: Shape,
    pub act: Act,
    /// Items inside, and items that went through before.
    pub inside: u64,
    pub rotation: u64,
    /// Whether the victim has done such a call before: then it goes the fast way.
    pub warm: bool,
    /// Whether it has the second slot, and the first is free: survivors then mend what is in the way
    /// instead of sweeping its slot when they attach.
    pub second: bool,
}

/// What a victim tells: what its call answered, and what it took.
pub struct Report {
    pub mark: &'static AtomicU64,
    pub words: &'static [AtomicU64],
}

impl Report {
    pub fn new() -> Self {
        static WORDS: OnceLock<&'static [AtomicU64]> = OnceLock::new();
        let words = WORDS.get_or_init(|| shared_words(16));
        words.iter().for_each(|word| word.store(0, Ordering::SeqCst));
        Self { mark: &words[0], words: &words[1..] }
    }

    pub fn tell(&self, answer: i64, took: &[u64]) {
        self.words[0].store(answer as u64, Ordering::SeqCst);
        self.words[1].store(took.len() as u64, Ordering::SeqCst);
        self.words[2..]
            .iter()
            .zip(took)
            .for_each(|(word, &took)| word.store(took, Ordering::SeqCst));
    }

    pub fn answer(&self) -> i64 {
        self.words[0].load(Ordering::SeqCst) as i64
    }

    /// Items that the call says it has moved.
    pub fn moved(&self) -> u64 {
        match self.answer() {
            0 => 1,
            answer => answer.max(0) as u64,
        }
    }

    pub fn took(&self) -> Vec<u64> {
        let count = self.words[1].load(Ordering::SeqCst) as usize;
        self.words[2..][..count].iter().map(|word| word.load(Ordering::SeqCst)).collect()
    }
}

/// Time limit of the calls that wait.
pub const WAIT: i64 = 2_000_000;

/// The call itself, in the victim; its items are numbered from `next` on.
pub fn act(
    act: Act,
    handle: &mut Option<Handle>,
    memory: &OwnedFd,
    shape: Shape,
    next: u64,
    report: &Report,
) {
    let lib = release();
    if act.opens() {
        *handle = Some(Handle::open(lib, shape, memory, act.end()));
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
        Open | OpenPush | OpenPop | Close => unreachable!(),
    }
}

/// A ring that is ready for its victim.
pub struct Stage {
    pub memory: OwnedFd,
    pub bounds: Bounds,
    /// In a broadcast: the consumer that holds the producer, `inside` items behind.
    pub peer: Option<Handle>,
    /// Has the first slot until the victim has come.
    pub first_slot: Option<Handle>,
    /// Whether somebody was killed in this ring before.
    pub is_second: bool,
}

/// Offsets of the words that say that somebody sleeps; see docs/layout.md.
pub const ARMED: [u64; 2] = [4096 + 0x104, 4096 + 0x184];

impl Case {
    pub fn is_push(&self) -> bool {
        self.act.most().0 > 0
    }

    pub fn is_pop(&self) -> bool {
        self.act.most().1 > 0
    }

    /// Whether there is such a case, and it differs from others.
    pub fn makes_sense(&self) -> bool {
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

    pub fn stage(&self) -> Stage {
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
        Stage { memory, bounds, peer, first_slot, is_second: false }
    }

    /// The victim, just before its call.
    pub fn victim(&self, stage: &mut Stage, report: &Report) -> Victim {
        let (lib, shape) = (release(), self.shape);
        let (memory, bounds) = (&stage.memory, stage.bounds);
        let mut slot = stage.first_slot.take();
        let victim = Victim::new(
            report.mark,
            || {
                if self.act.opens() {
                    return (None, 0);
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
                // It becomes suspicious of what is in the way by its being there still.
                match self.act {
                    // A ring that is never full may have nothing in the way.
                    MendingPush => {
                        let mut most = shape.capacity + 1;
                        while most > 0 && ring.push(ring.stat().written) == 0 {
                            most -= 1;
                        }
                    }
                    MendingPop => while ring.pop().is_ok() {},
                    _ => {}
                }
                if matches!(self.act, MendingPush | MendingPop) {
                    std::thread::sleep(Duration::from_millis(2));
                }
                // Numbered as what was there before; of the dead one's items it is not known how many.
                let next = ring.stat().written;
                (Some(ring), next)
            },
            |(ring, next)| act(self.act, ring, memory, shape, *next, report),
            drop,
        );
        drop(slot.take());
        victim
    }
}
