//! A process is killed, or stopped, in the calls of semaphores of both kinds: at each system call, before
//! and after it, and after instructions.
//!
//! `cargo test` tries every so-manieth place; MADANG_LONG=1 each system call, and more of the instructions.
#![cfg(target_arch = "x86_64")]

mod support;

use std::cell::Cell;
use std::ffi::CString;
use std::ptr;

use madang::ffi::sem::{MDG_SEM_POSIX, MDG_SEM_UNDO, mdg_sem, mdg_sem_opts};
use support::halted::{CREATE, Call, LONG, asleep, join_soon};
use support::process::{fork, join};
use support::step::{Victim, release, turn};
use support::unique;

/// A semaphore of either kind, opened or made.
fn open_semaphore(name: &CString, kind: u32, value: u32) -> *mut mdg_sem {
    let (size, mut sem) = (size_of::<mdg_sem_opts>(), ptr::null_mut());
    let max_handles = if kind == MDG_SEM_UNDO { 4 } else { 0 };
    let opts = mdg_sem_opts { size, value, kind, flags: 0, max_handles };
    let (name, opts) = (name.as_ptr(), &raw const opts);
    // SAFETY: writable, a C string, options with their size.
    let code = unsafe { (release().sem_open)(&raw mut sem, name, opts, CREATE, 0o600) };
    assert_eq!(code, 0);
    sem
}

fn wait(sem: *mut mdg_sem, timeout: i64) -> i32 {
    // SAFETY: a live handle.
    unsafe { (release().sem_wait)(sem, timeout) }
}

fn post(sem: *mut mdg_sem) {
    // SAFETY: a live handle.
    assert_eq!(unsafe { (release().sem_post)(sem) }, 0);
}

fn value(sem: *mut mdg_sem) -> u64 {
    // SAFETY: a live handle.
    let value = unsafe { (release().sem_value)(sem) };
    value.try_into().unwrap()
}

fn close_semaphore(sem: *mut mdg_sem, name: &CString) {
    // SAFETY: a live handle that nobody uses any more; a C string.
    unsafe {
        (release().sem_close)(sem);
        assert_eq!((release().sem_unlink)(name.as_ptr()), 0);
    }
}
const PERMITS: u64 = 3;

/// All permits can be taken and no more, within a bound; then all are given back. How many.
fn all_permits(sem: *mut mdg_sem) -> u64 {
    let there = value(sem);
    (0..there).for_each(|_| assert_eq!(wait(sem, 0), 0));
    assert_eq!(wait(sem, 0), -libc::EAGAIN);
    assert_eq!(wait(sem, 1000), -libc::ETIMEDOUT);
    (0..there).for_each(|_| post(sem));
    there
}

/// A permit of a POSIX semaphore is taken, or given, at one moment, once.
#[test]
fn a_posix_permit_is_there_or_not() {
    let _turn = turn();
    let (lib, object) = (release(), "semaphore");
    let name = CString::new(unique("posix")).unwrap();
    let survivor = open_semaphore(&name, MDG_SEM_POSIX, PERMITS as u32);
    let open = || open_semaphore(&name, MDG_SEM_POSIX, 0);
    let refill = |there| (there..PERMITS).for_each(|_| post(survivor));
    let mut before = PERMITS;
    Call::near(object, "wait", lib.sem_wait as usize).killed(
        open,
        |sem| assert_eq!(wait(*sem, 0), 0),
        || {
            let there = all_permits(survivor);
            assert!((PERMITS - 1..=PERMITS).contains(&there));
            // At system calls first, then at instructions: each in order.
            assert!(there <= before || there == PERMITS, "taken, and back again");
            before = there;
            refill(there);
        },
    );
    let taken = || {
        let sem = open();
        assert_eq!(wait(sem, 0), 0);
        sem
    };
    Call::near(object, "post", lib.sem_post as usize).killed(
        taken,
        |sem| post(*sem),
        || {
            let there = all_permits(survivor);
            assert!((PERMITS - 1..=PERMITS).contains(&there));
            refill(there);
        },
    );
    // Beside one that is stopped: whoever wants a permit has it or does not; then all adds up.
    Call::near(object, "wait", lib.sem_wait as usize).halted(
        "stopped",
        open,
        |sem| assert_eq!(wait(*sem, LONG), 0),
        post,
        || (),
        |victim| {
            let there = all_permits(survivor);
            assert!((PERMITS - 1..=PERMITS).contains(&there));
            victim.finish();
            assert_eq!(all_permits(survivor), PERMITS);
        },
    );
    Call::near(object, "post", lib.sem_post as usize).halted(
        "stopped",
        taken,
        |sem| post(*sem),
        drop,
        || (),
        |victim| {
            let there = all_permits(survivor);
            assert!((PERMITS - 1..=PERMITS).contains(&there));
            victim.finish();
            assert_eq!(all_permits(survivor), PERMITS);
        },
    );
    // With somebody asleep, who has the next post at the latest.
    (0..PERMITS).for_each(|_| assert_eq!(wait(survivor, 0), 0));
    let sleeper = Cell::new(None);
    Call { kernel: 1, ..Call::near(object, "post to a sleeper", lib.sem_post as usize) }.halted(
        "killed",
        open,
        |sem| post(*sem),
        drop,
        || sleeper.set(Some(asleep(|| assert_eq!(wait(open(), LONG), 0)))),
        |victim| {
            victim.kill();
            post(survivor);
            join(sleeper.take().unwrap());
            while wait(survivor, 0) == 0 {}
        },
    );
    close_semaphore(survivor, &name);
}

/// Permits come back, each once, wherever their holder is killed; of the stopped they do not.
#[test]
fn permits_come_back() {
    let _turn = turn();
    let (lib, object) = (release(), "semaphore, MDG_SEM_UNDO");
    let name = CString::new(unique("undo")).unwrap();
    let open = || open_semaphore(&name, MDG_SEM_UNDO, PERMITS as u32);
    let survivor = open();
    let check = || assert_eq!(all_permits(survivor), PERMITS);
    let near = |name, function| Call::near(object, name, function);
    let take = |sem: &mut _| assert_eq!(wait(*sem, 0), 0);
    near("wait", lib.sem_wait as usize).killed(open, take, check);
    let holding = || {
        let sem = open();
        assert_eq!(wait(sem, 0), 0);
        sem
    };
    near("post", lib.sem_post as usize).killed(holding, |sem| post(*sem), check);
    // SAFETY: a live handle.
    let close = |sem: &mut _| unsafe { (lib.sem_close)(*sem) };
    let apart = |call| Call { instruction: 199, apart: 7, ..call };
    apart(near("close", lib.sem_close as usize)).killed(holding, close, check);
    Call::far(object, "open", lib.sem_open as usize).killed(|| (), |()| _ = open(), check);
    // Recovery: the second victim finds the first one's permits, and is killed at giving them back.
    let after_a_death = || {
        let sem = open();
        join(fork(|| {
            (0..2).for_each(|_| assert_eq!(wait(open(), 0), 0));
        }));
        assert_eq!(wait(sem, 0), 0);
        sem
    };
    let mend = |sem: &mut _| {
        assert_eq!(wait(*sem, 0), 0);
    };
    apart(near("recovery", lib.sem_wait as usize)).killed(after_a_death, mend, check);

    // Stopped in the middle, it has one permit, or none, and the others are for whoever comes.
    let beside = |victim: Victim| {
        let there = all_permits(survivor);
        assert!((PERMITS - 1..=PERMITS).contains(&there));
        victim.finish();
        check();
    };
    near("wait", lib.sem_wait as usize).halted("stopped", open, take, post, || (), beside);
    let give = |sem: &mut _| post(*sem);
    near("post", lib.sem_post as usize).halted("stopped", holding, give, drop, || (), beside);

    // With somebody asleep: the permit comes to him, from the post or from the dead.
    (1..PERMITS).for_each(|_| assert_eq!(wait(survivor, 0), 0));
    let sleeper = Cell::new(None);
    Call { kernel: 1, ..near("post to a sleeper", lib.sem_post as usize) }.halted(
        "killed",
        holding,
        |sem| post(*sem),
        drop,
        || sleeper.set(Some(asleep(|| assert_eq!(wait(open(), LONG), 0)))),
        |victim| {
            victim.kill();
            join_soon(sleeper.take().unwrap());
        },
    );
    (1..PERMITS).for_each(|_| post(survivor));
    check();
    close_semaphore(survivor, &name);
}
