//! Semaphores whose permits come back, seen from outside: what is free and who holds what, what the
//! dead have left, and its repair, while others go on.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use madang::Timeout;
use madang::inventory::{Info, Mechanism, State};
use madang::sem::{Holder, Permit, UndoOptions, UndoSemaphore};
use madang::{Creation, inventory};
use support::face::refused_with;
use support::object_face::{C, Inventory, Rust, frozen};
use support::process::{Child, Gate, fork, kill, serial};
use support::unique;

on_both_faces! { Rust, C in turn:
    it_is_listed
    a_living_one_is_sound_and_not_touched
    permits_of_the_dead_are_found_and_come_back
    a_sleeper_is_woken_by_a_repair
    corrupt_words_are_named_and_nothing_is_changed
    what_is_no_semaphore
    only_what_nobody_lives_in_is_reaped
}

const SEM: Mechanism = Mechanism::Semaphore;

/// A name that is taken away again.
struct Named(String);

impl Named {
    fn new() -> Self {
        Self(unique("object-sem"))
    }

    fn path(&self) -> String {
        format!("/dev/shm/mdg.sem.{}", &self.0[1..])
    }

    fn open(&self, tell: bool) -> UndoSemaphore {
        let options = UndoOptions { value: 5, max_handles: 9, tell };
        UndoSemaphore::open(self.0.as_bytes(), &options, Creation::CreateOrOpen, 0o600).unwrap()
    }

    /// A child that holds `count` permits and waits to be killed.
    fn holder(&self, count: u32) -> Child {
        frozen(|| {
            let sem = self.open(false);
            (0..count).for_each(|_| _ = sem.wait(Timeout::NoWait).unwrap());
            std::mem::forget(sem);
        })
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.path());
    }
}

/// Checks, and holds the check to not changing a byte.
#[track_caller]
fn check<I: Inventory>(name: &Named) -> (usize, String) {
    let before = fs::read(name.path()).unwrap();
    let verdict = I::check(SEM, &name.0).unwrap();
    assert!(before == fs::read(name.path()).unwrap(), "a check changed something");
    verdict
}

#[track_caller]
fn is_sound<I: Inventory>(name: &Named) {
    let (findings, report) = check::<I>(name);
    assert_eq!(findings, 0, "{report}");
    assert_eq!(I::repair(SEM, &name.0).unwrap(), 0);
}

fn it_is_listed<I: Inventory>() {
    let name = Named::new();
    let sem = name.open(false);
    let child = name.holder(2);
    let expected = Info {
        mechanism: SEM,
        name: name.0.clone().into_bytes(),
        state: State::Sound,
        bytes: fs::metadata(name.path()).unwrap().len(),
        kind: 16,
        item_size: 0,
        capacity: 5,
        length: 3,
        max_handles: 9,
        handles_live: 2,
        handles_dead: 0,
        creator_pid: std::process::id(),
        uid: nix::unistd::geteuid().as_raw(),
        mode: 0o600,
    };
    assert_eq!(I::one(SEM, &name.0), Some(expected.clone()));
    kill(child);
    let damaged = Info { state: State::Damaged, handles_live: 1, handles_dead: 1, ..expected };
    assert_eq!(I::one(SEM, &name.0), Some(damaged));
    drop(sem);
}

fn a_living_one_is_sound_and_not_touched<I: Inventory>() {
    let name = Named::new();
    let sem = name.open(false);
    let child = name.holder(1);
    for round in 0..50 {
        let _permit = sem.wait(Timeout::NoWait).unwrap();
        if round % 3 > 0 {
            sem.post().unwrap();
            sem.post().unwrap();
            let _permit = sem.wait(Timeout::NoWait).unwrap();
        }
        is_sound::<I>(&name);
        sem.post().unwrap();
    }
    let (_, report) = check::<I>(&name);
    let (free, words) = (sem.value().unwrap(), "made with 5, 2 of 9 handles open\n");
    assert_eq!(report, format!("semaphore, UNDO, {free} permits free, {words}"));
    kill(child);
}

fn permits_of_the_dead_are_found_and_come_back<I: Inventory>() {
    let name = Named::new();
    let (sem, asks) = (name.open(false), name.open(true));
    let _permit = sem.wait(Timeout::NoWait).unwrap();
    let corpses = [name.holder(3), name.holder(1), name.holder(0)];
    let pids = corpses.each_ref().map(|corpse| corpse.pid());
    is_sound::<I>(&name);
    corpses.into_iter().for_each(kill);
    let (findings, report) = check::<I>(&name);
    assert_eq!(findings, 3, "{report}");
    for (pid, holds) in pids.iter().zip([", holds 3 permits\n", ", holds 1 permit\n", "\n"]) {
        let line = format!(": pid {pid} died, not cleared away yet{holds}");
        assert!(report.contains(&line), "{report}");
    }
    assert!(report.starts_with("semaphore, UNDO, 0 permits free, made with 5, 2 of"), "{report}");
    assert_eq!(I::repair(SEM, &name.0).unwrap(), 3);
    is_sound::<I>(&name);
    assert!(check::<I>(&name).1.contains("4 permits free"));
    // They came from the dead, and who asked is told, once.
    assert_eq!(asks.wait(Timeout::NoWait), Ok(Permit::FromDead));
    assert_eq!(asks.wait(Timeout::NoWait), Ok(Permit::Ordinary));
    let mine = |count| Holder { pid: std::process::id(), count, alive: true };
    assert_eq!(sem.holders().collect::<Vec<_>>(), [mine(1), mine(2)]);
}

/// Who sleeps need not wait for its own look at the dead.
fn a_sleeper_is_woken_by_a_repair<I: Inventory>() {
    let name = Named::new();
    let sem = name.open(false);
    for _ in 0..20 {
        let child = name.holder(5);
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| sem.wait(Timeout::Forever).unwrap());
            kill(child);
            while !sleeper.is_finished() {
                I::repair(SEM, &name.0).unwrap();
            }
        });
        sem.post().unwrap();
        is_sound::<I>(&name);
    }
    assert_eq!(sem.value(), Ok(5));
}

/// Offsets of docs/layout.md.
const CONTROL: u64 = 4096;
const RECORDS: u64 = 8192 + 9 * 128;

fn corrupt_words_are_named_and_nothing_is_changed<I: Inventory>() {
    let words: &[(u64, u64, &str)] = &[
        (CONTROL, 1 << 33 | 9 << 21, "the word at 0x1000 is 0x201200000: no such participant"),
        (RECORDS, 5, "the word at 0x2480 is 0x5: no operation"),
        (RECORDS + 128, 1 << 63 | 1 << 32 | 1, "the word at 0x2500"),
        (RECORDS + 256, 1 << 31 | 1 << 32, "the word at 0x2580"),
        (RECORDS + 8, 1 << 52, "the word at 0x2488 is 0x10000000000000: nobody can hold so many"),
        (RECORDS + 8 * 128 + 8, 1 << 31, "the word at 0x2888"),
    ];
    for &(at, word, words) in words {
        let name = Named::new();
        drop(name.open(false));
        kill(name.holder(1));
        assert_eq!(check::<I>(&name).0, 1);
        let file = File::options().write(true).open(name.path()).unwrap();
        file.write_all_at(&word.to_ne_bytes(), at).unwrap();
        let before = fs::read(name.path()).unwrap();
        refused_with(I::check(SEM, &name.0), libc::EBADMSG, words);
        refused_with(I::repair(SEM, &name.0), libc::EBADMSG, words);
        assert_eq!(I::one(SEM, &name.0).unwrap().state, State::Corrupt);
        assert!(before == fs::read(name.path()).unwrap(), "changed in spite of {words}");
        assert_eq!(I::reap(Some(SEM), Some(&name.0)).unwrap(), 1);
    }
}

fn what_is_no_semaphore<I: Inventory>() {
    let name = Named::new();
    let ring = support::ring_face::Named::new("object-sem");
    drop(support::object_face::open::<I::Ring>(&ring, madang::ring::Kind::Spsc, libc::O_RDWR));
    fs::copy(ring.path(), name.path()).unwrap();
    refused_with(I::check(SEM, &name.0), libc::EPROTO, "kind SPSC, which is no semaphore");
    refused_with(I::repair(SEM, &name.0), libc::EPROTO, "kind SPSC, which is no semaphore");
    assert_eq!(I::one(SEM, &name.0).unwrap().state, State::NotOurs);
    fs::write(name.path(), [0xff; 5000]).unwrap();
    refused_with(I::check(SEM, &name.0), libc::EPROTO, "magic");
    fs::remove_file(name.path()).unwrap();
    refused_with(I::repair(SEM, &name.0), libc::ENOENT, "does not exist");
}

fn only_what_nobody_lives_in_is_reaped<I: Inventory>() {
    let name = Named::new();
    let child = name.holder(1);
    refused_with(I::reap(Some(SEM), Some(&name.0)), libc::EBUSY, "living process");
    kill(child);
    assert_eq!(I::reap(Some(SEM), Some(&name.0)).unwrap(), 1);
    assert!(!fs::exists(name.path()).unwrap());
}

/// Killed in the middle of repairs, over and over, while a living one takes and gives: the next one
/// goes on, and at the end all permits are there, once.
#[test]
fn a_repair_may_be_killed() {
    let _turn = serial();
    let name = Named::new();
    let sem = name.open(false);
    for round in 0..30 {
        let corpses = [name.holder(2), name.holder(1), name.holder(1)];
        corpses.into_iter().for_each(kill);
        let started = Gate::new();
        let mender = fork(|| {
            started.open();
            for _ in 0..1000 {
                inventory::repair(SEM, name.0.as_bytes()).unwrap();
            }
            loop {
                nix::unistd::pause();
            }
        });
        started.pass();
        for _ in 0..round * 10 {
            let _permit = sem.wait(Timeout::NoWait).map(|_| sem.post().unwrap());
        }
        kill(mender);
        inventory::repair(SEM, name.0.as_bytes()).unwrap();
        is_sound::<Rust>(&name);
        assert_eq!((sem.value(), sem.holders().count()), (Ok(5), 0));
    }
}
