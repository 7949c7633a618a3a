//! A process is killed, or stopped, in the calls of mutexes and condition variables: at each system call,
//! before and after it, and after instructions.
//!
//! `cargo test` tries every so-manieth place; MADANG_LONG=1 each system call, and more of the instructions.
#![cfg(target_arch = "x86_64")]

mod support;

use std::cell::Cell;
use std::ffi::CString;
use std::ptr;
use std::sync::atomic::Ordering;

use madang::ffi::mutex::{mdg_cond, mdg_mutex};
use support::halted::{BOUND, CREATE, Call, LONG, asleep, join_soon};
use support::process::{fork, join, shared_words};
use support::step::{Victim, release, turn};
use support::unique;

fn open_mutex(name: &CString) -> *mut mdg_mutex {
    let mut mutex = ptr::null_mut();
    // SAFETY: writable, a C string.
    let code = unsafe { (release().mutex_open)(&raw mut mutex, name.as_ptr(), CREATE, 0o600) };
    assert_eq!(code, 0);
    mutex
}

fn lock(mutex: *mut mdg_mutex, timeout: i64) -> i32 {
    // SAFETY: a live handle.
    unsafe { (release().mutex_lock)(mutex, timeout) }
}

fn consistent(mutex: *mut mdg_mutex) {
    // SAFETY: a live handle.
    assert_eq!(unsafe { (release().mutex_consistent)(mutex) }, 0);
}

fn unlock(mutex: *mut mdg_mutex) {
    // SAFETY: a live handle.
    assert_eq!(unsafe { (release().mutex_unlock)(mutex) }, 0);
}

/// Takes the mutex, from a dead one if need be, and says whether it was.
#[track_caller]
fn take_over(mutex: *mut mdg_mutex, timeout: i64) -> bool {
    match lock(mutex, timeout) {
        0 => false,
        code => {
            assert_eq!(code, -libc::EOWNERDEAD);
            consistent(mutex);
            true
        }
    }
}

/// It can be had within a bound, and then it is an ordinary one.
fn is_free(mutex: *mut mdg_mutex) {
    take_over(mutex, BOUND.as_nanos() as i64);
    unlock(mutex);
    assert_eq!(lock(mutex, 0), 0);
    unlock(mutex);
}

/// The next one gets the mutex, and is told if it was held; of the stopped nobody gets it.
#[test]
fn a_mutex_is_handed_on() {
    let _turn = turn();
    let (lib, object) = (release(), "mutex");
    let name = CString::new(unique("mutex")).unwrap();
    let open = || open_mutex(&name);
    let survivor = open();
    let check = || is_free(survivor);
    let near = |name, function| Call::near(object, name, function);
    let take = |mutex: &mut _| assert_eq!(lock(*mutex, LONG), 0);
    near("lock", lib.mutex_lock as usize).killed(open, take, check);
    let holding = || {
        let mutex = open();
        assert_eq!(lock(mutex, 0), 0);
        mutex
    };
    near("unlock", lib.mutex_unlock as usize).killed(holding, |mutex| unlock(*mutex), check);
    let inherited = || {
        let mutex = open();
        join(fork(|| assert_eq!(lock(mutex, 0), 0)));
        mutex
    };
    let inherit = |mutex: &mut _| assert_eq!(lock(*mutex, LONG), -libc::EOWNERDEAD);
    near("lock after a death", lib.mutex_lock as usize).killed(inherited, inherit, check);
    let told = || {
        let mutex = inherited();
        assert_eq!(lock(mutex, 0), -libc::EOWNERDEAD);
        mutex
    };
    let declare = |mutex: &mut _| consistent(*mutex);
    near("consistent", lib.mutex_consistent as usize).killed(told, declare, || {
        assert!(take_over(survivor, BOUND.as_nanos() as i64), "it was held");
        unlock(survivor);
        is_free(survivor);
    });
    let in_vain = |mutex: &mut _| {
        let code = lock(*mutex, 1_000_000);
        assert_eq!(code, -libc::ETIMEDOUT);
    };
    // Its spinning is the same loads over and over.
    let far = Call { kernel: 1, ..Call::far(object, "lock, held", lib.mutex_lock as usize) };
    Call { apart: 0, ..far }.halted(
        "killed",
        open,
        in_vain,
        drop,
        || assert_eq!(lock(survivor, 0), 0),
        |victim| {
            victim.kill();
            unlock(survivor);
            is_free(survivor);
        },
    );

    // A sleeper gets it from who unlocks, or from the dead.
    let sleeper = Cell::new(None);
    Call { kernel: 1, ..near("unlock to a sleeper", lib.mutex_unlock as usize) }.halted(
        "killed",
        holding,
        |mutex| unlock(*mutex),
        drop,
        || {
            sleeper.set(Some(asleep(|| {
                let mutex = open();
                take_over(mutex, LONG);
                unlock(mutex);
            })));
        },
        |victim| {
            victim.kill();
            join_soon(sleeper.take().unwrap());
            is_free(survivor);
        },
    );

    // Stopped with it, or not: the others have it, or wait.
    let beside = |victim: Victim| {
        match lock(survivor, 1_000_000) {
            0 => unlock(survivor),
            code => assert_eq!(code, -libc::ETIMEDOUT, "the stopped are not dead"),
        }
        victim.finish();
        assert_eq!(lock(survivor, 0), 0, "no death is told");
        unlock(survivor);
    };
    near("lock", lib.mutex_lock as usize).halted("stopped", open, take, unlock, || (), beside);
    let give = |mutex: &mut _| unlock(*mutex);
    near("unlock", lib.mutex_unlock as usize).halted("stopped", holding, give, drop, || (), beside);
    // SAFETY: a live handle that nobody uses any more; a C string.
    unsafe {
        (lib.mutex_close)(survivor);
        assert_eq!((lib.mutex_unlink)(name.as_ptr()), 0);
    }
}

fn open_condition(name: &CString) -> *mut mdg_cond {
    let mut cond = ptr::null_mut();
    // SAFETY: writable, a C string.
    let code = unsafe { (release().cond_open)(&raw mut cond, name.as_ptr(), CREATE, 0o600) };
    assert_eq!(code, 0);
    cond
}

fn await_signal(cond: *mut mdg_cond, mutex: *mut mdg_mutex, timeout: i64) -> i32 {
    // SAFETY: live handles.
    unsafe { (release().cond_wait)(cond, mutex, timeout) }
}

fn signal(cond: *mut mdg_cond) {
    // SAFETY: a live handle.
    assert_eq!(unsafe { (release().cond_signal)(cond) }, 0);
}

/// Wherever one is killed who waits or signals, the next signal wakes whoever waits.
#[test]
fn a_condition_outlives_those_who_use_it() {
    let _turn = turn();
    let (lib, object) = (release(), "condition variable");
    let names = ["mutex", "cond"].map(|stem| CString::new(unique(stem)).unwrap());
    let open = || (open_condition(&names[1]), open_mutex(&names[0]));
    let (cond, mutex) = open();
    let news = &shared_words(1)[0];
    // Sleeps until the news is 2: the victim's is 1.
    let sleeper = Cell::new(None);
    let sleep = || {
        news.store(0, Ordering::SeqCst);
        sleeper.set(Some(asleep(|| {
            let (cond, mutex) = open();
            take_over(mutex, LONG);
            while news.load(Ordering::SeqCst) != 2 {
                let code = await_signal(cond, mutex, LONG);
                if code == -libc::EOWNERDEAD {
                    consistent(mutex);
                } else {
                    assert_eq!(code, 0);
                }
            }
            unlock(mutex);
        })));
    };
    let check = |victim: Victim| {
        victim.kill();
        take_over(mutex, BOUND.as_nanos() as i64);
        news.store(2, Ordering::SeqCst);
        unlock(mutex);
        signal(cond);
        join_soon(sleeper.take().unwrap());
        is_free(mutex);
    };
    let tell = |&mut (cond, mutex): &mut _| {
        assert_eq!(lock(mutex, LONG), 0);
        news.store(1, Ordering::SeqCst);
        unlock(mutex);
        signal(cond);
    };
    Call { kernel: 1, ..Call::near(object, "signal", lib.cond_signal as usize) }
        .halted("killed", open, tell, drop, sleep, check);
    let listening = || {
        let (cond, mutex) = open();
        take_over(mutex, LONG);
        (cond, mutex)
    };
    let listen = |&mut (cond, mutex): &mut _| {
        let code = await_signal(cond, mutex, 1_000_000);
        assert!(code == 0 || code == -libc::ETIMEDOUT, "{code}");
    };
    let wait = Call::near(object, "wait", lib.cond_wait as usize);
    // Who listens has the mutex when the others come: they begin to sleep for that.
    Call { kernel: 1, instruction: 61, apart: 3, ..wait }
        .halted("killed", listening, listen, drop, sleep, check);
    let end = |(_, mutex)| unlock(mutex);
    Call { kernel: 2, instruction: 97, apart: 3, ..wait }.halted(
        "stopped",
        listening,
        listen,
        end,
        || (),
        |victim| {
            match lock(mutex, 1_000_000) {
                0 => unlock(mutex),
                code => assert_eq!(code, -libc::ETIMEDOUT, "the stopped are not dead"),
            }
            victim.finish();
            assert_eq!(lock(mutex, 0), 0, "no death is told");
            unlock(mutex);
        },
    );
    // SAFETY: live handles that nobody uses any more; C strings.
    unsafe {
        (lib.cond_close)(cond);
        (lib.mutex_close)(mutex);
        assert_eq!((lib.cond_unlink)(names[1].as_ptr()), 0);
        assert_eq!((lib.mutex_unlink)(names[0].as_ptr()), 0);
    }
}
