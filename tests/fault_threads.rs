//! Threads at a bad moment: cancelled while they wait; forking while another one is in the middle of
//! a call; executing a program with everything open.

mod support;

use std::ffi::c_int;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use madang::ring::{Kind, Options, policy};
use madang::sem::UndoOptions;
use support::face::{FOREVER, NOWAIT};
use support::mutex_face::{CMutex, Locks};
use support::process::{fork, join, leave, serial};
use support::ring_face::{C, Face, Named, SECOND};
use support::sem_face::{CSem, Permits};
use support::shm_face::{CShm, Segment};
use support::undo_face::Undo;
use support::{Dir, unique};

const NEW: c_int = libc::O_RDWR | libc::O_CREAT;

#[test]
fn no_waiting_call_is_a_cancellation_point() {
    let _turn = serial();
    let (dir, program) = (Dir::new(), support::scratch("cancel").join("cancel"));
    support::compile_c(&support::root().join("tests/c/cancel.c"), &program, &[]);
    let status = Command::new(program).arg(unique("cancel")).arg(dir.path("fifo")).status();
    assert!(status.as_ref().is_ok_and(|status| status.success()), "{status:?}");
}

/// What a forked child does: uses what it has, leaves at once, or executes a program.
fn child_of_a_busy_process(number: u64, uses: impl FnOnce()) {
    let child = fork(|| match number % 3 {
        0 => uses(),
        1 => leave(0),
        _ => {
            let (program, none) = (c"/bin/true", std::ptr::null::<libc::c_char>());
            // SAFETY: C strings, and NULL at the end.
            unsafe { libc::execl(program.as_ptr(), program.as_ptr(), none) };
            leave(1)
        }
    });
    join(child);
}

fn kinds() -> [Options; 5] {
    let of = |kind, policy| Options { kind: Some(kind), policy, ..Options::new(4, 8) };
    [
        of(Kind::Spsc, 0),
        of(Kind::Mpmc, 0),
        of(Kind::Mpmc, policy::STOPPROOF),
        of(Kind::Broadcast, 0),
        of(Kind::Broadcast, policy::OVERWRITE),
    ]
}

/// Forks at any moment of other threads' pushes, pops and openings: the stream goes on, and no child
/// keeps anything locked, or the dead alive.
#[test]
fn forks_during_streams() {
    const FORKS: u64 = 60;
    let _turn = serial();
    for options in kinds() {
        let ring = C::open(None, &options, libc::O_RDWR, 0).unwrap();
        let consumer = ring.dup(libc::O_RDONLY).unwrap();
        let producer = ring.dup(libc::O_WRONLY).unwrap();
        let (over, last) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let producer = producer;
                let mut next = 1_u64;
                while !over.load(Ordering::Relaxed) {
                    producer.push(&next.to_ne_bytes(), FOREVER).unwrap();
                    last.store(next, Ordering::Relaxed);
                    next += 1;
                }
                producer.shutdown().unwrap();
            });
            scope.spawn(|| {
                let (consumer, mut item, mut seen) = (consumer, [0; 8], 0);
                loop {
                    match consumer.pop(&mut item, 30 * SECOND) {
                        Ok(()) => {
                            let number = u64::from_ne_bytes(item);
                            let overtaken = options.policy & policy::OVERWRITE != 0;
                            assert!(number == seen + 1 || overtaken && number > seen);
                            seen = number;
                        }
                        Err(lost) if lost.code == libc::EOVERFLOW => {}
                        Err(end) => break assert_eq!(end.code, libc::EPIPE, "{}", end.text),
                    }
                }
                assert_eq!(seen, last.load(Ordering::Relaxed));
            });
            scope.spawn(|| {
                // Tokens are taken and given back all the time: what a fork must not copy.
                while !over.load(Ordering::Relaxed) {
                    drop(C::open(None, &options, libc::O_WRONLY, 0).unwrap());
                }
            });
            for number in 0..FORKS {
                child_of_a_busy_process(number, || {
                    // A ring of its own, and the shared one as far as anybody may.
                    let own = C::open(None, &options, libc::O_RDWR, 0).unwrap();
                    let _ = own.pop(&mut [0; 8], NOWAIT);
                    own.push(&[7; 8], NOWAIT).unwrap();
                    own.pop(&mut [0; 8], NOWAIT).unwrap();
                    assert_eq!(ring.stat().capacity, 4);
                });
            }
            over.store(true, Ordering::Relaxed);
        });
    }
}

/// Forks while other threads hold, take and wait for permits and mutexes: what is theirs stays
/// theirs, and what the child takes is its own.
#[test]
fn forks_during_locks() {
    const FORKS: u64 = 60;
    let _turn = serial();
    let (name, options) = (unique("forks"), UndoOptions { value: 3, ..UndoOptions::default() });
    let sem = <CSem as Undo>::open(&name, &options, NEW, 0o600).unwrap();
    let mutex = CMutex::open(&name, NEW, 0o600).unwrap();
    <CSem as Undo>::unlink(&name).unwrap();
    CMutex::unlink(&name).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    Undo::wait(&sem, FOREVER).unwrap();
                    assert!(!mutex.lock(FOREVER).unwrap());
                    mutex.unlock().unwrap();
                    Undo::post(&sem).unwrap();
                }
            });
        }
        for number in 0..FORKS {
            child_of_a_busy_process(number, || {
                Undo::wait(&sem, FOREVER).unwrap();
                assert!(!mutex.lock(FOREVER).unwrap());
                mutex.unlock().unwrap();
                // Leaves with the permit, which comes back.
            });
        }
        over.store(true, Ordering::Relaxed);
    });
    for _ in 0..3 {
        Undo::wait(&sem, 10 * SECOND).unwrap();
    }
    assert_eq!(Undo::value(&sem), 0);
}

/// A program that is executed with everything open has no descriptor and no mapping of it; what the
/// process held counts as given up, or as a death.
#[test]
fn nothing_survives_an_exec() {
    let _turn = serial();
    let (name, posix_name) = (unique("exec"), unique("exec"));
    let options = UndoOptions { value: 1, ..UndoOptions::default() };
    let sem = <CSem as Undo>::open(&name, &options, NEW, 0o600).unwrap();
    let mutex = CMutex::open(&name, NEW, 0o600).unwrap();
    for options in kinds() {
        let ring_name = Named::new("exec");
        let ring = C::open(Some(&ring_name.0), &options, NEW, 0o600).unwrap();
        let _ = ring.pop(&mut [0; 8], NOWAIT);
        let script = "for fd in /proc/self/fd/*; do readlink $fd; done; cat /proc/self/maps";
        let output = support::process::Gate::new();
        let dir = Dir::new();
        let listing = dir.path("listing");
        let child = fork(|| {
            let producer = C::open(Some(&ring_name.0), &options, libc::O_WRONLY, 0).unwrap();
            producer.push(&[7; 8], NOWAIT).unwrap();
            let polled = producer.fd(4).unwrap();
            let shm = CShm::anonymous(100, false).unwrap();
            let posix = <CSem as Permits>::open(posix_name.as_bytes(), 0, NEW, 0o600).unwrap();
            let cond = CMutex::open_cond(&name, NEW, 0o600).unwrap();
            Undo::wait(&sem, FOREVER).unwrap();
            let _ = mutex.lock(FOREVER).unwrap();
            mutex.consistent().unwrap_or(());
            output.open();
            let script = format!("{{ {script}; }} > {}", listing.display());
            let script = std::ffi::CString::new(script).unwrap();
            let (shell, none) = (c"/bin/sh", std::ptr::null::<libc::c_char>());
            // SAFETY: C strings, and NULL at the end.
            unsafe {
                libc::execl(shell.as_ptr(), shell.as_ptr(), c"-c".as_ptr(), script.as_ptr(), none)
            };
            std::mem::forget((producer, polled, shm, posix, cond));
            leave(1);
        });
        output.pass();
        // The death is noticed while the program still runs, or after.
        ring.pop(&mut [0; 8], FOREVER).unwrap();
        let end = ring.pop(&mut [0; 8], 30 * SECOND).unwrap_err();
        assert_eq!(end.code, libc::EOWNERDEAD, "{}", end.text);
        Undo::wait(&sem, 30 * SECOND).unwrap();
        Undo::post(&sem).unwrap();
        assert!(mutex.lock(30 * SECOND).unwrap(), "told of the death");
        mutex.consistent().unwrap();
        mutex.unlock().unwrap();
        join(child);
        let listing = std::fs::read_to_string(listing).unwrap();
        assert!(listing.contains("/dev/null") || !listing.is_empty());
        for ours in ["/dev/shm", "memfd", "mdg."] {
            assert!(!listing.contains(ours), "{ours}: {listing}");
        }
    }
    <CSem as Undo>::unlink(&name).unwrap();
    CMutex::unlink(&name).unwrap();
    CMutex::unlink_cond(&name).unwrap();
    <CSem as Permits>::unlink(posix_name.as_bytes()).unwrap();
}
