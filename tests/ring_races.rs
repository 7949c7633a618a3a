//! Rings that are made, unlinked, shut down and interrupted while others are at work on them.

mod support;

use std::sync::atomic::{AtomicU32, Ordering};

use madang::ring::{Options, Ring};
use madang::shm::Shm;
use support::face::{FOREVER, NOWAIT, refused_with};
use support::process::{Gate, fork, interrupted, join, kill, serial};
use support::ring_face::{C, CREATE, Face, Named, SECOND};

on_both_faces! { Ring, C in turn:
    shutdown_wakes
    signals_end_waits
}

/// A shutdown wakes a sleeper of either side.
fn shutdown_wakes<F: Face>() {
    for full in [false, true] {
        let ring = F::open(None, &Options::new(1, 8), libc::O_RDWR, 0).unwrap();
        let sleeper = fork(|| {
            if full {
                ring.push(&[0; 8], NOWAIT).unwrap();
                refused_with(ring.push(&[0; 8], FOREVER), libc::EPIPE, "shut down");
            } else {
                refused_with(ring.pop(&mut [0; 8], FOREVER), libc::EPIPE, "shut down");
            }
        });
        // Shut down while the other sleeps, or just before: both must end it.
        let waits = || if full { ring.stat().push_waits } else { ring.stat().pop_waits };
        while waits() == 0 {
            std::hint::spin_loop();
        }
        ring.shutdown().unwrap();
        join(sleeper);
    }
}

/// A signal ends a wait with -EINTR, with SA_RESTART too.
fn signals_end_waits<F: Face>() {
    let ring = F::open(None, &Options::new(1, 8), libc::O_RDWR, 0).unwrap();
    let child = fork(|| {
        refused_with(interrupted(|| ring.pop(&mut [0; 8], FOREVER)), libc::EINTR, "");
        refused_with(interrupted(|| ring.pop(&mut [0; 8], 60 * SECOND)), libc::EINTR, "");
    });
    join(child);
}

/// Thousands of races to make the same ring: one winner each time, nobody sees it half-made.
#[test]
fn creator_races() {
    let _turn = serial();
    let name = Named::new("race");
    let rounds = 2000;
    let (start, done) = (Gate::new(), Gate::new());
    let shared = Shm::anonymous(size_of::<AtomicU32>(), false).unwrap();
    // SAFETY: mapped, aligned and zero for as long as `shared`; used as an atomic only.
    let wins = unsafe { shared.as_ptr().cast::<AtomicU32>().as_ref() };
    let creators: Vec<_> = (0..3)
        .map(|_| {
            fork(|| {
                for _ in 0..rounds {
                    start.pass();
                    let oflag = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
                    match C::open(Some(&name.0), &Options::new(64, 8), oflag, 0o600) {
                        Ok(_) => {
                            wins.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => {
                            assert_eq!(error.code, libc::EEXIST, "{}", error.text);
                            // Whoever lost finds the winner's ring, complete.
                            let found =
                                C::open(Some(&name.0), &Options::new(64, 8), libc::O_RDWR, 0);
                            assert_eq!(found.unwrap().stat().capacity, 64);
                        }
                    }
                    done.open();
                }
            })
        })
        .collect();
    for _ in 0..rounds {
        for _ in 0..creators.len() {
            start.open();
        }
        for _ in 0..creators.len() {
            done.pass();
        }
        C::unlink(&name.0).expect("one was made");
    }
    // At least one in every round, by the unlink above, and this many in all: one in each.
    assert_eq!(wins.load(Ordering::Relaxed), rounds);
    creators.into_iter().for_each(join);
}

/// Making, opening and unlinking at full speed, with kills in between: every ring that is found is
/// whole, and nothing is left behind.
#[test]
fn churn_with_kills() {
    let _turn = serial();
    let name = Named::new("churn");
    let spawn = || {
        fork(|| {
            loop {
                match C::open(Some(&name.0), &Options::new(4, 8), CREATE, 0o600) {
                    Ok(ring) => assert_eq!(ring.stat().capacity, 4),
                    Err(error) => assert_eq!(error.code, libc::ESTALE, "{}", error.text),
                }
                match C::unlink(&name.0) {
                    Ok(()) => {}
                    Err(error) => assert_eq!(error.code, libc::ENOENT, "{}", error.text),
                }
            }
        })
    };
    let mut children: Vec<_> = (0..3).map(|_| spawn()).collect();
    for round in 0..300 {
        let victim = round % children.len();
        // Some progress between kills: this process takes part, too.
        for _ in 0..5 {
            match C::open(Some(&name.0), &Options::new(4, 8), CREATE, 0o600) {
                Ok(_) => {}
                Err(error) => assert_eq!(error.code, libc::ESTALE, "{}", error.text),
            }
        }
        kill(children.swap_remove(victim));
        children.push(spawn());
    }
    children.into_iter().for_each(kill);
    let _ = C::unlink(&name.0);
    let left = std::fs::read_dir("/dev/shm").unwrap().flatten();
    let mine = &name.0[1..];
    let left: Vec<_> =
        left.filter(|entry| entry.file_name().to_string_lossy().contains(mine)).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// A thread with a cancellation pending goes through every call (tests/c/ring_cancel.c).
#[test]
fn no_call_is_a_cancellation_point() {
    let dir = support::scratch("ring_cancel");
    let program = dir.join("ring_cancel");
    support::compile_c(&support::root().join("tests/c/ring_cancel.c"), &program, &[]);
    let output = std::process::Command::new(&program).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    std::fs::remove_dir_all(dir).unwrap();
}
