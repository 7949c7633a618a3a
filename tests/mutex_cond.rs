//! Condition variables between processes: waits that let go of a mutex, wake-ups, and waiters and
//! holders that die meanwhile.

mod support;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use madang::mutex::Mutex;
use nix::errno::Errno;
use support::face::{FOREVER, NOWAIT, refused, refused_with};
use support::mutex_face::{CMutex, LONG, Locks, Named, Numbers};
use support::process::{Child, fork, interrupted, join, kill};

on_both_faces! { Mutex, CMutex in turn:
    a_wait_lets_go_and_takes_again
    waits_end
    all_are_woken
    the_holder_dies_while_others_wait
    killed_waiters_take_nothing_with_them
}

fn a_wait_lets_go_and_takes_again<M: Locks>() {
    let (name, mutex, cond) = Named::new::<M>();
    let said = Numbers::new();
    assert!(!mutex.lock(NOWAIT).unwrap());
    let child = fork(|| {
        let mutex = M::open(&name.0, 0, 0).unwrap();
        let cond = M::open_cond(&name.0, 0, 0).unwrap();
        assert!(!mutex.lock(LONG).unwrap());
        said.at(0).store(1, Ordering::Relaxed);
        M::signal(&cond);
        mutex.unlock().unwrap();
    });
    while said.at(0).load(Ordering::Relaxed) == 0 {
        assert!(!mutex.wait(&cond, LONG).unwrap());
    }
    mutex.unlock().unwrap();
    join(child);
}

fn waits_end<M: Locks>() {
    let (_name, mutex, cond) = Named::new::<M>();
    assert!(!mutex.lock(NOWAIT).unwrap());
    refused_with(mutex.wait(&cond, NOWAIT), libc::EAGAIN, "");
    for timeout in [1, 1_000_000, 170_000_000] {
        let begin = Instant::now();
        refused_with(mutex.wait(&cond, timeout), libc::ETIMEDOUT, "");
        assert!(begin.elapsed() >= Duration::from_nanos(timeout as u64), "{timeout} ns");
    }
    for timeout in [FOREVER, LONG * 60] {
        assert_eq!(refused(interrupted(|| mutex.wait(&cond, timeout))), Errno::EINTR);
    }
    // Held after each of them.
    mutex.unlock().unwrap();
}

/// Forks processes that wait until number 0 is no longer `value`; they add to number 1 before they
/// begin, with the mutex held, so that whoever holds it and counts them knows that they wait.
fn waiters<M: Locks>(name: &Named, numbers: &Numbers, count: u32, value: u32) -> Vec<Child> {
    (0..count)
        .map(|_| {
            fork(|| {
                let mutex = M::open(&name.0, 0, 0).unwrap();
                let cond = M::open_cond(&name.0, 0, 0).unwrap();
                if mutex.lock(LONG).unwrap() {
                    mutex.consistent().unwrap();
                }
                numbers.at(1).fetch_add(1, Ordering::Relaxed);
                while numbers.at(0).load(Ordering::Relaxed) == value {
                    if mutex.wait(&cond, LONG).unwrap() {
                        mutex.consistent().unwrap();
                    }
                }
                mutex.unlock().unwrap();
            })
        })
        .collect()
}

/// Returns with the mutex held, when so many wait.
fn hold_when<M: Locks>(mutex: &M, numbers: &Numbers, waiting: u32) {
    let begin = Instant::now();
    loop {
        if mutex.lock(LONG).unwrap() {
            mutex.consistent().unwrap();
        }
        if numbers.at(1).load(Ordering::Relaxed) == waiting {
            return;
        }
        mutex.unlock().unwrap();
        assert!(begin.elapsed() < Duration::from_secs(60));
        std::thread::yield_now();
    }
}

fn all_are_woken<M: Locks>() {
    let (name, mutex, cond) = Named::new::<M>();
    let numbers = Numbers::new();
    for round in 0..5 {
        numbers.at(1).store(0, Ordering::Relaxed);
        let children = waiters::<M>(&name, &numbers, 4, round);
        hold_when(&mutex, &numbers, 4);
        numbers.at(0).store(round + 1, Ordering::Relaxed);
        M::broadcast(&cond);
        mutex.unlock().unwrap();
        children.into_iter().for_each(join);
    }
}

fn the_holder_dies_while_others_wait<M: Locks>() {
    let (name, mutex, cond) = Named::new::<M>();
    assert!(!mutex.lock(NOWAIT).unwrap());
    let child = fork(|| {
        let mutex = M::open(&name.0, 0, 0).unwrap();
        let cond = M::open_cond(&name.0, 0, 0).unwrap();
        assert!(!mutex.lock(LONG).unwrap());
        M::broadcast(&cond);
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap();
    });
    assert!(mutex.wait(&cond, LONG).unwrap(), "told when it takes the mutex again");
    child.end();
    mutex.consistent().unwrap();
    mutex.unlock().unwrap();
}

/// A thousand waiters are killed in their waits, some of them just as they are woken; signals and
/// broadcasts then still reach those who wait.
fn killed_waiters_take_nothing_with_them<M: Locks>() {
    let (name, mutex, cond) = Named::new::<M>();
    let numbers = Numbers::new();
    for round in 0..250 {
        numbers.at(1).store(0, Ordering::Relaxed);
        let value = numbers.at(0).load(Ordering::Relaxed);
        let victims = waiters::<M>(&name, &numbers, 4, value);
        hold_when(&mutex, &numbers, 4);
        mutex.unlock().unwrap();
        if round % 2 == 0 {
            M::signal(&cond);
        }
        victims.into_iter().for_each(kill);
        if round % 10 == 0 {
            numbers.at(1).store(0, Ordering::Relaxed);
            let survivor = waiters::<M>(&name, &numbers, 1, value);
            hold_when(&mutex, &numbers, 1);
            numbers.at(0).store(value + 1, Ordering::Relaxed);
            M::signal(&cond);
            mutex.unlock().unwrap();
            survivor.into_iter().for_each(join);
        }
    }
}
