//! Mutexes and condition variables seen from outside: who has them, what a death left, whether
//! anybody has them open, and that only those are reaped that nobody has.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use madang::inventory::{Mechanism, State};
use madang::mutex::{Cond, Locked, Mutex};
use madang::{Creation, Timeout, inventory};
use support::face::refused_with;
use support::object_face::{C, Inventory, Rust, frozen};
use support::process::{Gate, fork, join, kill, serial};
use support::unique;

on_both_faces! { Rust, C in turn:
    how_a_mutex_is
    deaths_are_told
    a_condition_variable
    only_what_nobody_has_open_is_reaped
    what_is_none
}

const MUTEX: Mechanism = Mechanism::Mutex;

/// A name that is taken away again.
struct Named(String);

impl Named {
    fn new() -> Self {
        Self(unique("object-mutex"))
    }

    fn path(&self) -> String {
        format!("/dev/shm/mdg.mutex.{}", &self.0[1..])
    }

    fn open(&self) -> Mutex {
        Mutex::open(self.0.as_bytes(), Creation::CreateOrOpen, 0o600).unwrap()
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.path());
        let _ = fs::remove_file(self.path().replace("mdg.mutex.", "mdg.cond."));
    }
}

/// The line about it, and the findings; and that neither check nor list changes a byte.
#[track_caller]
fn report<I: Inventory>(name: &Named) -> (String, usize) {
    let before = fs::read(name.path()).unwrap();
    let (findings, report) = I::check(MUTEX, &name.0).unwrap();
    let state = I::one(MUTEX, &name.0).unwrap().state;
    assert_eq!(state, if findings > 0 { State::Damaged } else { State::Sound }, "{report}");
    assert!(before == fs::read(name.path()).unwrap(), "a check changed something");
    (report, findings)
}

fn how_a_mutex_is<I: Inventory>() {
    let name = Named::new();
    let mutex = name.open();
    assert_eq!(report::<I>(&name), ("mutex, free, somebody has it open\n".to_owned(), 0));
    let _ = mutex.lock(Timeout::NoWait).unwrap();
    let (pid, thread) = (std::process::id(), nix::unistd::gettid());
    let held = format!("mutex, held by thread {thread} (pid {pid}), somebody has it open\n");
    assert_eq!(report::<I>(&name), (held.clone(), 0));
    // Who does not hold it cannot let go of it, nor have it look so.
    std::thread::scope(|scope| {
        let unlocker = || {
            for _ in 0..1000 {
                assert_eq!(mutex.unlock().unwrap_err().errno(), libc::EPERM);
            }
        };
        scope.spawn(unlocker);
        for _ in 0..100 {
            assert_eq!(report::<I>(&name).0, held);
        }
    });
    mutex.unlock().unwrap();
    drop(mutex);
    assert_eq!(report::<I>(&name), ("mutex, free, nobody has it open\n".to_owned(), 0));
    let info = I::one(MUTEX, &name.0).unwrap();
    assert_eq!((info.bytes, info.kind, info.mode, info.max_handles), (128, 0, 0o600, 0));
    refused_with(I::repair(MUTEX, &name.0), libc::ENOSYS, "");
}

fn deaths_are_told<I: Inventory>() {
    let name = Named::new();
    let mutex = name.open();
    let holder = frozen(|| _ = name.open().lock(Timeout::NoWait).unwrap());
    let pid = holder.pid();
    assert!(report::<I>(&name).0.contains(&format!("(pid {pid})")));
    kill(holder);
    let text = format!(
        "mutex, held by the dead, somebody has it open\n\
         its holder (pid {pid}) died; the next who locks it is told\n"
    );
    assert_eq!(report::<I>(&name), (text, 1));
    assert_eq!(mutex.lock(Timeout::NoWait), Ok(Locked::OwnerDied));
    let (text, findings) = report::<I>(&name);
    assert!(text.contains("who was told of a death") && findings == 0, "{text}");
    // Neither mended nor declared so.
    mutex.unlock().unwrap();
    let (text, findings) = report::<I>(&name);
    assert!(text.contains("lost for good") && findings == 1, "{text}");
    drop(mutex);
    assert_eq!(I::reap(Some(MUTEX), Some(&name.0)).unwrap(), 1);
}

fn a_condition_variable<I: Inventory>() {
    let name = Named::new();
    let cond = Cond::open(name.0.as_bytes(), Creation::CreateNew, 0o600).unwrap();
    let check = || I::check(Mechanism::Cond, &name.0).unwrap();
    let words = "condition variable, a counter,";
    assert_eq!(check(), (0, format!("{words} somebody has it open\n")));
    refused_with(I::reap(Some(Mechanism::Cond), Some(&name.0)), libc::EBUSY, "");
    assert_eq!(I::one(Mechanism::Cond, &name.0).unwrap().state, State::Sound);
    drop(cond);
    assert_eq!(check(), (0, format!("{words} nobody has it open\n")));
    assert_eq!(I::reap(Some(Mechanism::Cond), Some(&name.0)).unwrap(), 1);
    refused_with(I::check(Mechanism::Cond, &name.0), libc::ENOENT, "does not exist");
}

fn only_what_nobody_has_open_is_reaped<I: Inventory>() {
    let name = Named::new();
    let reap = || I::reap(Some(MUTEX), Some(&name.0));
    let child = frozen(|| std::mem::forget(name.open()));
    refused_with(reap(), libc::EBUSY, "living process");
    kill(child);
    assert_eq!(reap().unwrap(), 1);
    refused_with(reap(), libc::ENOENT, "does not exist");
    // A child has it open as long as it lives, though its parent has died, and used it or not.
    let (forked, ends) = (Gate::new(), Gate::new());
    let parent = fork(|| {
        let mutex = name.open();
        join(fork(|| {
            forked.open();
            ends.pass();
            let _ = mutex.lock(Timeout::NoWait).unwrap();
            forked.open();
            ends.pass();
        }));
    });
    forked.pass();
    kill(parent);
    refused_with(reap(), libc::EBUSY, "living process");
    ends.open();
    forked.pass();
    refused_with(reap(), libc::EBUSY, "living process");
    ends.open();
    while reap().is_err() {
        std::thread::yield_now();
    }
    // Closed while it is held: it stays mapped, and in use, until the thread's process ends.
    let child = frozen(|| _ = name.open().lock(Timeout::NoWait).unwrap());
    refused_with(reap(), libc::EBUSY, "living process");
    kill(child);
    assert_eq!(reap().unwrap(), 1);
}

fn what_is_none<I: Inventory>() {
    let name = Named::new();
    for bytes in [vec![], vec![0; 128], vec![0xff; 128], vec![0; 4096]] {
        fs::write(name.path(), bytes).unwrap();
        refused_with(I::check(MUTEX, &name.0), libc::EPROTO, "");
        refused_with(I::reap(Some(MUTEX), Some(&name.0)), libc::EPROTO, "");
        assert_eq!(I::one(MUTEX, &name.0).unwrap().state, State::NotOurs);
    }
    fs::remove_file(name.path()).unwrap();
    drop(name.open());
    let file = File::options().write(true).open(name.path()).unwrap();
    file.write_all_at(&[9], 12).unwrap();
    refused_with(I::check(MUTEX, &name.0), libc::EBADMSG, "the state at 0xc is 9");
    assert_eq!(I::one(MUTEX, &name.0).unwrap().state, State::Corrupt);
}

/// Opening and reaping the same name all the time: two who have it open at a time have the same one.
#[test]
fn nobody_is_robbed_by_reaping() {
    let _turn = serial();
    let name = Named::new();
    let reaper = fork(|| {
        loop {
            match inventory::reap(
                Some(MUTEX),
                Some(name.0.as_bytes()),
                inventory::ReapOptions::default(),
            ) {
                Ok(_) => {}
                Err(error) => assert!([libc::EBUSY, libc::ENOENT].contains(&error.errno())),
            }
        }
    });
    for _ in 0..3000 {
        let (mutex, same) = (name.open(), name.open());
        let _ = mutex.lock(Timeout::NoWait).unwrap();
        std::thread::yield_now();
        assert_eq!(same.lock(Timeout::NoWait).unwrap_err().errno(), libc::EDEADLK);
        mutex.unlock().unwrap();
    }
    kill(reaper);
}
