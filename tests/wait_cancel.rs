//! Waits that are cancelled, by another thread or by a signal handler; and interrupted, by a signal
//! handler that runs at any moment.

mod support;

use std::cell::Cell;
use std::ffi::c_int;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use madang::ffi::base::mdg_interrupt;
use madang::ffi::ring::*;
use madang::ring::{Kind, Options, Ring};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use support::face::{FOREVER, NOWAIT, Outcome, refused_with};
use support::pipe_face::{C as Pipes, Face as _};
use support::process::{fork, join, serial};
use support::ring_face::{C, Entry, Face, SECOND};
use support::sem_face::Permits;
use support::waits::{Waiting, beside_a_holder, each_wait, posix, rings};

on_both_faces! { Ring, C in turn:
    a_cancellation_stands_until_a_call_waits
    every_waiting_call_is_cancelled
    cancelling_races_with_blocking
    cancelling_a_busy_exchange
}

const IN: u32 = MDG_POLL_IN;
const OUT: u32 = MDG_POLL_OUT;
const LONG: i64 = 20 * SECOND;
/// A wait that a slice of sleep has ended, rather than news, takes about this long.
const SLICE: Duration = Duration::from_millis(90);

fn open<F: Face>(kind: Kind, capacity: u64) -> F {
    let options = Options { kind: Some(kind), ..Options::new(capacity, 8) };
    F::open(None, &options, libc::O_RDWR, 0).unwrap()
}

fn word(value: u64) -> [u8; 8] {
    value.to_ne_bytes()
}

fn push(ring: &impl Face, value: u64) {
    ring.push(&word(value), NOWAIT).unwrap();
}

fn a_cancellation_stands_until_a_call_waits<F: Face>() {
    for kind in [Kind::Spsc, Kind::Mpmc] {
        let ring: F = open(kind, 1);
        for _ in 0..3 {
            ring.cancel().unwrap();
        }
        // These need not wait, or must not.
        push(&ring, 1);
        refused_with(ring.push(&word(2), NOWAIT), libc::EAGAIN, "");
        ring.pop(&mut [0; 8], FOREVER).unwrap();
        refused_with(ring.pop(&mut [0; 8], NOWAIT), libc::EAGAIN, "");
        refused_with(F::wait_any(&mut [Entry::ring(&ring, IN)], NOWAIT), libc::EAGAIN, "");
        // This one would, and then it is over.
        refused_with(ring.pop(&mut [0; 8], FOREVER), libc::ECANCELED, "cancelled");
        refused_with(ring.pop(&mut [0; 8], 1_000_000), libc::ETIMEDOUT, "");
        ring.cancel().unwrap();
        refused_with(ring.pop(&mut [0; 8], 1), libc::ECANCELED, "cancelled");
        ring.cancel().unwrap();
        let other: F = open(kind, 1);
        let mut entries = [Entry::ring(&other, IN), Entry::ring(&ring, IN)];
        refused_with(F::wait_any(&mut entries, FOREVER), libc::ECANCELED, "cancelled");
        refused_with(F::wait_any(&mut entries, 1_000_000), libc::ETIMEDOUT, "");
        // A child does not inherit it.
        ring.cancel().unwrap();
        join(fork(|| {
            let other = ring.dup(libc::O_RDWR).unwrap();
            drop(other);
            if kind == Kind::Mpmc {
                refused_with(ring.pop(&mut [0; 8], 1_000_000), libc::ETIMEDOUT, "");
            }
        }));
    }
}

/// A handle that another thread may cancel, as the header says.
struct Shared<'a, F>(&'a F);
// SAFETY: only `cancel` is called from the other thread.
unsafe impl<F> Send for Shared<'_, F> {}
// SAFETY: as above.
unsafe impl<F> Sync for Shared<'_, F> {}

fn every_waiting_call_is_cancelled<F: Face>() {
    type Call<F> = fn(&F) -> Result<(), support::face::Failure>;
    let empty: [Call<F>; 4] = [
        |ring| ring.pop(&mut [0; 8], FOREVER),
        |ring| ring.pop_many(&mut [0; 16], 8, FOREVER).map(drop),
        |ring| ring.peek(1, FOREVER).map(drop),
        |ring| F::wait_any(&mut [Entry::ring(ring, IN)], FOREVER).map(drop),
    ];
    let full: [Call<F>; 4] = [
        |ring| ring.push(&[0; 8], FOREVER),
        |ring| ring.push_many(&[0; 16], 8, FOREVER).map(drop),
        |ring| ring.reserve(1, FOREVER).map(drop),
        |ring| F::wait_any(&mut [Entry::ring(ring, OUT)], FOREVER).map(drop),
    ];
    for kind in [Kind::Spsc, Kind::Mpmc] {
        for (items, calls) in [(0, empty), (1, full)] {
            let ring: F = open(kind, 1);
            for _ in 0..items {
                push(&ring, 1);
            }
            for call in calls {
                let asleep = Duration::from_millis(20);
                let shared = Shared(&ring);
                std::thread::scope(|scope| {
                    scope.spawn(move || {
                        let shared = shared;
                        // Most likely asleep by then; if not, it comes to the same.
                        std::thread::sleep(asleep);
                        shared.0.cancel().unwrap();
                    });
                    refused_with(call(&ring), libc::ECANCELED, "cancelled");
                });
            }
            assert_eq!(ring.stat().length, items);
        }
    }
}

/// 10,000 times a thread cancels at about the moment when another begins to wait. Each cancellation
/// ends one call; none is lost, none counts twice.
fn cancelling_races_with_blocking<F: Face>() {
    const ROUNDS: u64 = 10_000;
    let ring: F = open(Kind::Spsc, 1);
    let round = AtomicU64::new(0);
    let shared = Shared(&ring);
    let (round, shared) = (&round, &shared);
    let mut late = 0;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut state = 1_u64;
            for next in 1..=ROUNDS {
                while round.load(Ordering::Acquire) < next {
                    std::thread::yield_now();
                }
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                for _ in 0..(state >> 40) % 2000 {
                    std::hint::spin_loop();
                }
                shared.0.cancel().unwrap();
            }
        });
        for next in 1..=ROUNDS {
            let begin = Instant::now();
            round.store(next, Ordering::Release);
            let ended = match next % 4 {
                0 => F::wait_any(&mut [Entry::ring(&ring, IN)], LONG).map(drop),
                _ => ring.pop(&mut [0; 8], LONG),
            };
            refused_with(ended, libc::ECANCELED, "cancelled");
            late += u64::from(begin.elapsed() >= SLICE);
            assert!(late * 50 < ROUNDS, "{late} of {next} waits were ended by their slice");
        }
    });
    refused_with(ring.pop(&mut [0; 8], 1_000_000), libc::ETIMEDOUT, "");
}

/// Who asks and gets each answer at once hardly ever waits for long: it hears of a cancellation all the
/// same, within a few trips.
fn cancelling_a_busy_exchange<F: Face>() {
    const ROUNDS: u64 = 40;
    const FEW: u64 = 1000;
    let (question, reply): (F, F) = (open(Kind::Spsc, 8), open(Kind::Spsc, 8));
    let child = fork(|| {
        let mut item = [0; 8];
        while question.pop(&mut item, FOREVER).is_ok() {
            reply.push(&item, FOREVER).unwrap();
        }
    });
    let (trips, heard) = (&AtomicU64::new(0), &AtomicU64::new(0));
    let shared = &Shared(&reply);
    let mut rounds = 0;
    std::thread::scope(|scope| {
        let canceller = scope.spawn(move || {
            let wait = |what: &AtomicU64, value| {
                while what.load(Ordering::Acquire) < value {
                    std::thread::yield_now();
                }
            };
            let mut most = 0;
            for _ in 0..ROUNDS {
                wait(trips, trips.load(Ordering::Acquire) + 500);
                heard.store(0, Ordering::Release);
                shared.0.cancel().unwrap();
                let cancelled = trips.load(Ordering::Acquire);
                wait(heard, 1);
                most = most.max(heard.load(Ordering::Acquire).saturating_sub(cancelled));
            }
            most
        });
        let mut item = [0; 8];
        while rounds < ROUNDS {
            let trip = trips.load(Ordering::Relaxed) + 1;
            question.push(&word(trip), FOREVER).unwrap();
            while let Err(end) = reply.pop(&mut item, LONG) {
                assert_eq!(end.code, libc::ECANCELED);
                heard.store(trip, Ordering::Release);
                rounds += 1;
            }
            assert_eq!(item, word(trip));
            trips.store(trip, Ordering::Release);
        }
        let most = canceller.join().unwrap();
        assert!(most < FEW, "{most} trips went on after a cancellation");
    });
    question.shutdown().unwrap();
    join(child);
}

static HANDLE: AtomicPtr<mdg_ring> = AtomicPtr::new(std::ptr::null_mut());

extern "C" fn cancel_it(_: i32) {
    // SAFETY: a live handle while the handler is installed.
    unsafe { mdg_ring_cancel(HANDLE.load(Ordering::Relaxed)) };
}

/// A timer's handler, with SA_RESTART, cancels what its own thread waits in.
#[test]
fn a_signal_handler_cancels() {
    let _turn = serial();
    join(fork(|| {
        let ring: C = open(Kind::Spsc, 1);
        HANDLE.store(ring.0, Ordering::Relaxed);
        let action =
            SigAction::new(SigHandler::Handler(cancel_it), SaFlags::SA_RESTART, SigSet::empty());
        // SAFETY: the handler calls what may be called in one.
        unsafe { sigaction(Signal::SIGALRM, &action) }.unwrap();
        for round in 0..300 {
            let soon = libc::timeval { tv_sec: 0, tv_usec: 1 + round * 7 % 900 };
            let never = libc::timeval { tv_sec: 0, tv_usec: 0 };
            let timer = libc::itimerval { it_interval: never, it_value: soon };
            // SAFETY: a live timer value.
            unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) };
            let ended = match round % 2 {
                0 => ring.pop(&mut [0; 8], LONG),
                _ => C::wait_any(&mut [Entry::ring(&ring, IN)], LONG).map(drop),
            };
            refused_with(ended, libc::ECANCELED, "cancelled");
        }
    }));
}

fn code<T>(outcome: Outcome<T>) -> c_int {
    outcome.err().map_or(0, |failure| failure.code)
}

/// An interruption that comes before the call ends it, and no other; calls that do not wait leave it.
#[test]
fn an_interruption_before_a_wait_ends_it() {
    let _turn = serial();
    beside_a_holder(|held| {
        each_wait(held, &|what, call| {
            for _ in 0..2 {
                assert_eq!(mdg_interrupt(), 0);
            }
            assert_eq!(code(call(NOWAIT)), libc::EAGAIN, "{what}");
            assert_eq!(code(call(FOREVER)), libc::EINTR, "{what}");
            assert_eq!(code(call(1_000_000)), libc::ETIMEDOUT, "{what}");
            assert!(madang::interrupt());
            assert_eq!(code(call(1)), libc::EINTR, "{what}");
        });
        let (ring, sem) = (C::open(None, &rings()[0], libc::O_RDWR, 0).unwrap(), posix(1));
        assert_eq!(mdg_interrupt(), 0);
        ring.push(&[1; 8], FOREVER).unwrap();
        ring.pop(&mut [0; 8], FOREVER).unwrap();
        Permits::wait(&sem, FOREVER).unwrap();
        join(fork(|| assert_eq!(code(Permits::wait(&sem, 1_000_000)), libc::ETIMEDOUT)));
        // The rest of a message that has begun is waited for; then the interruption is due.
        let (read, write) = Pipes.open(false).unwrap();
        let message = [7; 100_000];
        let sender = fork(|| Pipes.send(write.as_raw_fd(), &message, FOREVER).unwrap());
        let mut waiting = libc::pollfd { fd: read.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry, and an open descriptor.
        assert_eq!(unsafe { libc::poll(&raw mut waiting, 1, -1) }, 1);
        let mut got = vec![0; message.len()];
        assert_eq!(Pipes.receive(read.as_raw_fd(), &mut got, FOREVER).unwrap(), message.len());
        join(sender);
        assert_eq!(code(Permits::wait(&sem, FOREVER)), libc::EINTR);
    });
}

extern "C" fn interrupting(_: c_int) {
    mdg_interrupt();
}

/// A handler that runs at a moment chosen at random in the first millisecond of a wait, with
/// SA_RESTART: no wait goes on for ever, and hardly any until its slice ends.
#[test]
fn an_interruption_at_any_moment_ends_a_wait() {
    const ROUNDS: u32 = 60;
    let _turn = serial();
    // SAFETY: the handler calls what may be called in one; cannot fail.
    let me = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = interrupting as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        assert_eq!(libc::sigaction(libc::SIGUSR2, &raw const action, std::ptr::null_mut()), 0);
        libc::pthread_self()
    };
    let (asked, over) = (&AtomicU64::new(0), &AtomicBool::new(false));
    let (rounds, late) = (Cell::new(0), Cell::new(0));
    beside_a_holder(|held| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut done, mut state) = (0, 1_u64);
                while !over.load(Ordering::Acquire) {
                    if asked.load(Ordering::Acquire) == done {
                        std::thread::yield_now();
                        continue;
                    }
                    done += 1;
                    state =
                        state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let end = Instant::now() + Duration::from_micros((state >> 40) % 1000);
                    while Instant::now() < end {}
                    // SAFETY: the scope keeps that thread alive.
                    unsafe { libc::pthread_kill(me, libc::SIGUSR2) };
                }
            });
            let ends: &dyn Fn(&str, &mut Waiting<'_>) = &|what, call| {
                for _ in 0..ROUNDS {
                    let start = Instant::now();
                    asked.fetch_add(1, Ordering::Release);
                    assert_eq!(code(call(20 * SECOND)), libc::EINTR, "{what}");
                    rounds.set(rounds.get() + 1);
                    late.set(late.get() + u32::from(start.elapsed() > Duration::from_millis(90)));
                }
            };
            let result = catch_unwind(AssertUnwindSafe(|| each_wait(held, ends)));
            over.store(true, Ordering::Release);
            result.unwrap_or_else(|panic| resume_unwind(panic));
        });
    });
    let (rounds, late) = (rounds.get(), late.get());
    assert!(rounds >= 40 * ROUNDS && late * 20 < rounds, "{late} of {rounds} ended by their slice");
}
