//! A hostile writer: a process that changes bits all over an object, as fast as it can, while others
//! use it. It may spoil what is in it and whether it can be used; it may not make anybody crash, panic,
//! hang, or answer what the headers do not promise. Afterwards a new object works.
//!
//! `MADANG_SCRIBBLE_MS` changes how long each object is scribbled on.

mod support;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use madang::inventory::{self, Mechanism};
use madang::ring::{Kind, Options, Ring, policy};
use madang::sem::{UndoOptions, UndoSemaphore};
use support::face::{Failure, NOWAIT, refused_with};
use support::hostile::*;
use support::process::{Child, fork, join, shared_words};
use support::ring_face::{C, CREATE, Face, Named};
use support::sem_face::CSem;
use support::undo_face::Undo;
use support::unique;

on_both_faces! { Ring, C in turn:
    rings_that_are_scribbled_on
}

mod semaphores {
    use super::{CSem, UndoSemaphore, a_semaphore_that_is_scribbled_on};
    crate::on_both_faces! { UndoSemaphore, CSem in turn:
        a_semaphore_that_is_scribbled_on
    }
}

const CONTROL: u64 = 4096;
const FLAGS: u64 = CONTROL + 0x200;
const SLOTS: u64 = 8192;

fn how_long() -> Duration {
    let asked = std::env::var("MADANG_SCRIBBLE_MS").ok();
    Duration::from_millis(asked.map_or(400, |text| text.parse().expect("a number of milliseconds")))
}

/// An object's bytes, as a peer that keeps to no rules has them.
struct Victim {
    words: &'static [AtomicU64],
    flags: bool,
}

impl Victim {
    fn new(path: &str, flags: bool) -> Self {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let length = file.metadata().unwrap().len() as usize;
        // SAFETY: a new mapping of a file that nobody cuts, never unmapped: the process is about to
        // be killed. Used as atomics only.
        let words = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            let fd = file.as_raw_fd();
            let at = libc::mmap(std::ptr::null_mut(), length, access, libc::MAP_SHARED, fd, 0);
            assert_ne!(at, libc::MAP_FAILED);
            std::slice::from_raw_parts(at.cast::<AtomicU64>(), length / 8)
        };
        Self { words, flags }
    }

    /// Somewhere in the object; half the time in the control page, where few words are used.
    fn somewhere(&self, dice: &mut Dice) -> &AtomicU64 {
        let all = self.words.len() as u64;
        let at = match dice.roll(8) {
            0..4 => (CONTROL + dice.roll(14) * 128 + dice.roll(2) * 4) / 8,
            4 => SLOTS / 8 + dice.roll(all.min(SLOTS / 8 + 128) - SLOTS / 8),
            5 => dice.roll(SLOTS / 8),
            _ => SLOTS / 8 + dice.roll(all - SLOTS / 8),
        };
        &self.words[at as usize]
    }

    fn scribble(&self, dice: &mut Dice) {
        let word = self.somewhere(dice);
        match dice.roll(8) {
            // What is nearly right leads further than noise.
            0 => _ = word.fetch_add(dice.roll(40).wrapping_sub(20), Ordering::Relaxed),
            1 => word.store(self.somewhere(dice).load(Ordering::Relaxed), Ordering::Relaxed),
            2 => word.store(0, Ordering::Relaxed),
            _ => _ = word.fetch_xor(1 << dice.roll(64), Ordering::Relaxed),
        }
        if self.flags {
            // Or the first who finds it corrupt ends the game.
            self.words[FLAGS as usize / 8].store(0, Ordering::Relaxed);
        }
    }

    /// Until it is killed: storms of it, and calms in which its victims get somewhere.
    fn rage(&self, seed: u64) -> ! {
        let mut dice = Dice(seed);
        // Newcomers are to get in, and everybody to get somewhere, now and then.
        let new: Vec<_> = self.words.iter().map(|word| word.load(Ordering::Relaxed)).collect();
        loop {
            for _ in 0..dice.roll(1000) {
                self.scribble(&mut dice);
            }
            let most = if dice.roll(4) == 0 { new.len() } else { 32 };
            for (word, value) in self.words.iter().zip(&new[..most]) {
                word.store(*value, Ordering::Relaxed);
            }
            for _ in 0..dice.roll(20_000) {
                std::hint::spin_loop();
            }
        }
    }
}

/// A child that dies, and says why, if it hangs.
fn victim(body: impl FnOnce()) -> Child {
    fork(|| {
        watch_for_panics();
        // SAFETY: a plain number.
        unsafe { libc::alarm(120) };
        body();
        no_panic();
        eprintln!("longest call: {} us beyond its timeout", LONGEST.load(Ordering::Relaxed));
    })
}

/// Until `end`, and longer where nobody has got anywhere yet, which the caller holds against all.
fn is_time(end: Instant, done: &AtomicU64) -> bool {
    let now = Instant::now();
    now < end || done.load(Ordering::Relaxed) == 0 && now < end + Duration::from_secs(60)
}

fn use_it<F: Face>(name: &Named, end: Instant, seed: u64, done: &AtomicU64) {
    let mut dice = Dice(seed);
    while is_time(end, done) {
        let access = [libc::O_RDWR, libc::O_RDONLY, libc::O_WRONLY][dice.roll(3) as usize];
        let found = bounded(0, || F::open(Some(&name.0), &Options::default(), access, 0));
        let Some(ring) = allow(OPEN, found) else { continue };
        for _ in 0..dice.roll(400) {
            if operate(&ring, access, &mut dice) {
                done.fetch_add(1, Ordering::Relaxed);
            }
        }
        if dice.roll(4) == 0 {
            drop(allow(OPEN, bounded(0, || ring.dup(access))));
        }
        if dice.roll(16) == 0 {
            look_at(&name.0);
        }
        bounded(0, || drop(ring));
    }
}

/// The looks from outside.
fn look_at(name: &str) {
    let codes = &[libc::EPROTO, libc::EBADMSG];
    let look = bounded(0, || inventory::check(Mechanism::Ring, name.as_bytes()).map(drop));
    allow(codes, look.map_err(Failure::from));
    let mended = bounded(0, || inventory::repair(Mechanism::Ring, name.as_bytes()).map(drop));
    allow(codes, mended.map_err(Failure::from));
}

fn rings_that_are_scribbled_on<F: Face>() {
    for (options, seed) in all_kinds().into_iter().zip(1..) {
        let name = Named::new("scribbled");
        let ring = F::open(Some(&name.0), &options, CREATE | libc::O_EXCL, 0o600).unwrap();
        let done = &shared_words(1)[0];
        let scribbler = fork(|| Victim::new(&name.path(), true).rage(seed * 1000));
        let end = Instant::now() + how_long();
        let users: Vec<_> =
            (1..3).map(|me| victim(|| use_it::<F>(&name, end, seed * 7 + me, done))).collect();
        users.into_iter().for_each(join);
        drop(scribbler);
        let moved = done.load(Ordering::Relaxed);
        eprintln!("{:?} {:#x}: {moved} moved", options.kind, options.policy);
        assert!(moved > 0, "nobody got anywhere: nothing was tried");
        bounded(0, || drop(ring));
        look_at(&name.0);
        F::unlink(&name.0).unwrap();
        works::<F>(&name, &options);
    }
}

/// A new ring under the same name is as good as any.
fn works<F: Face>(name: &Named, options: &Options) {
    let ring = F::open(Some(&name.0), options, CREATE | libc::O_EXCL, 0o600).unwrap();
    let consumer = F::open(Some(&name.0), options, libc::O_RDONLY, 0).unwrap();
    for value in 0..100_u8 {
        ring.push(&[value; ITEM], NOWAIT).unwrap();
        let mut item = [0; ITEM];
        consumer.pop(&mut item, NOWAIT).unwrap();
        assert_eq!(item, [value; ITEM]);
    }
    drop((ring, consumer));
    F::unlink(&name.0).unwrap();
}

/// What a semaphore may answer.
const SEM: &[libc::c_int] =
    &[libc::EAGAIN, libc::ETIMEDOUT, libc::EOVERFLOW, libc::EBADMSG, libc::EMFILE];

fn use_the_semaphore<S: Undo>(name: &str, end: Instant, seed: u64, done: &AtomicU64) {
    let mut dice = Dice(seed);
    while is_time(end, done) {
        let found = bounded(0, || S::open(name, &UndoOptions::default(), 0, 0));
        let codes = &[libc::EPROTO, libc::EMFILE, libc::EBUSY, libc::EBADMSG];
        let Some(sem) = allow(codes, found) else { continue };
        for _ in 0..dice.roll(400) {
            let timeout = [NOWAIT, NOWAIT, 1_000, 300_000][dice.roll(4) as usize];
            match dice.roll(8) {
                0 => bounded(0, || drop(sem.holders())),
                1..5 => {
                    if allow(SEM, bounded(timeout, || sem.wait(timeout))).is_some() {
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                }
                _ => _ = allow(SEM, bounded(0, || sem.post())),
            }
        }
        bounded(0, || drop(sem));
    }
}

fn a_semaphore_that_is_scribbled_on<S: Undo>() {
    let name = unique("scribbled");
    let path = format!("/dev/shm/mdg.sem.{}", &name[1..]);
    let options = UndoOptions { value: 3, max_handles: 8, tell: false };
    let sem = S::open(&name, &options, libc::O_CREAT | libc::O_EXCL, 0o600).unwrap();
    let done = &shared_words(1)[0];
    let scribbler = fork(|| Victim::new(&path, false).rage(5));
    let end = Instant::now() + 2 * how_long();
    let users: Vec<_> =
        (1..3).map(|me| victim(|| use_the_semaphore::<S>(&name, end, me, done))).collect();
    users.into_iter().for_each(join);
    drop(scribbler);
    assert!(done.load(Ordering::Relaxed) > 0, "nobody got a permit: nothing was tried");
    bounded(0, || drop(sem));
    S::unlink(&name).unwrap();
    let sem = S::open(&name, &options, libc::O_CREAT | libc::O_EXCL, 0o600).unwrap();
    assert_eq!(sem.value(), 3);
    assert!(!sem.wait(NOWAIT).unwrap());
    drop(sem);
    S::unlink(&name).unwrap();
}

/// Every cell of a stop-proof ring said to be somebody's: a push that finds none looks at each of them
/// a few times, whatever the policy and however long it may wait, and says that this cannot be.
#[test]
fn a_stop_proof_ring_without_a_free_cell() {
    const CAPACITY: u64 = 1 << 16;
    const HANDLES: u64 = 8;
    for policy in [policy::STOPPROOF, policy::STOPPROOF | policy::OVERWRITE] {
        let name = Named::new("no-cell");
        let options = Options { capacity: CAPACITY, ..ring(Kind::Mpmc, policy) };
        let ring = C::open(Some(&name.0), &options, CREATE, 0o600).unwrap();
        let file = File::options().write(true).open(name.path()).unwrap();
        let places = (CAPACITY + HANDLES).next_power_of_two();
        let cells = SLOTS + 128 * HANDLES + 128 + 8 * places;
        let mut noise = Vec::new();
        for _ in 0..CAPACITY + 2 * HANDLES {
            // OWNED by participant 3.
            noise.extend((3_u64 << 4 | 1).to_ne_bytes());
            noise.extend([0; 24]);
        }
        assert_eq!(cells + noise.len() as u64, file.metadata().unwrap().len());
        file.write_all_at(&noise, cells).unwrap();
        for (timeout, words) in [(1_000_000, "words of its cells"), (NOWAIT, "found corrupt")] {
            let refused = bounded(timeout, || ring.push(&[0; ITEM], timeout));
            refused_with(refused, libc::EBADMSG, words);
        }
    }
}

/// Indices as far apart as can be: a look at the numbers looks at each cell once at most.
#[test]
fn indices_that_are_far_apart_are_counted_in_no_time() {
    for options in all_kinds() {
        for (tail, head) in [(0, 1 << 62), (1 << 62, 0), (u64::MAX, 1), (5, u64::MAX)] {
            let name = Named::new("far");
            let ring = C::open(Some(&name.0), &options, CREATE, 0o600).unwrap();
            let file = File::options().write(true).open(name.path()).unwrap();
            file.write_all_at(&u64::to_ne_bytes(tail), CONTROL).unwrap();
            file.write_all_at(&u64::to_ne_bytes(head), CONTROL + 128).unwrap();
            let stats = bounded(0, || ring.stat());
            assert!(stats.length <= 2 * stats.capacity, "{}", stats.length);
            look_at(&name.0);
        }
    }
}
