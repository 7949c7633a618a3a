//! A blocked call notices the death of its counterpart within 200 ms, plus what this machine takes
//! to run it; and a counterpart that is stopped for longer than anything in the library waits is
//! never taken for dead.

mod support;

use std::ffi::c_int;
use std::thread::sleep;
use std::time::{Duration, Instant};

use madang::ring::{Kind, Options, policy};
use madang::sem::UndoOptions;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use support::Dir;
use support::face::{FOREVER, NOWAIT, Outcome};
use support::mutex_face::{CMutex, Locks};
use support::process::{Child, Gate, fork, join, serial, skip};
use support::ring_face::{C, Entry, Face, SECOND};
use support::sem_face::CSem;
use support::undo_face::Undo;
use support::unique;

const NEW: c_int = libc::O_RDWR | libc::O_CREAT;

/// What is promised, and what a machine with more to do than processors may add.
const PROMISED: Duration = Duration::from_millis(200);
const NOISE: Duration = Duration::from_millis(800);

/// Times a call is tried at most until it is as quick as promised: noise only adds.
const TRIES: u32 = 3;

/// How long the call waits before its counterpart is killed.
const ASLEEP: Duration = Duration::from_millis(150);

/// Longer than a slice of any wait, and than any patience.
const STOPPED: Duration = Duration::from_millis(1300);

/// A counterpart: what it does before it has nothing more to do, and the call that waits for it.
struct Pair<S> {
    what: &'static str,
    make: fn() -> S,
    /// Runs in the counterpart, which then dies or is stopped.
    hold: fn(&S),
    /// Waits; the code it ends with, or 0.
    wait: fn(&S, i64) -> Outcome<()>,
    /// What it ends with when the counterpart is dead.
    death: c_int,
}

fn counterpart<S>(pair: &Pair<S>, shared: &S) -> Child {
    let gate = Gate::new();
    let child = fork(|| {
        (pair.hold)(shared);
        gate.open();
        loop {
            sleep(Duration::from_secs(1000));
        }
    });
    gate.pass();
    child
}

/// A process that has crashed and whose core is being written still holds its end: the text says why.
#[test]
fn a_process_that_dumps_core_is_named() {
    const BYTES: usize = 64 << 20;
    let _turn = serial();
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").unwrap_or_default();
    if pattern.is_empty() || pattern.starts_with(['|', '/', '@']) {
        skip(&format!("cores go to {pattern:?}"));
        return;
    }
    let dir = Dir::new();
    let ring = C::open(None, &Options::new(4, 8), libc::O_RDWR, 0).unwrap();
    let ready = Gate::new();
    let producer = fork(|| {
        std::env::set_current_dir(dir.path("")).unwrap();
        setrlimit(Resource::RLIMIT_CORE, RLIM_INFINITY, RLIM_INFINITY).unwrap();
        let memory = vec![1_u8; BYTES];
        ring.push(&[0; 8], NOWAIT).unwrap();
        ready.open();
        std::hint::black_box(&memory);
        std::process::abort();
    });
    ready.pass();
    let pid = producer.pid();
    let mut named = 0;
    loop {
        match ring.push(&[0; 8], NOWAIT) {
            Ok(()) => break,
            Err(failure) => {
                assert_eq!(failure.code, libc::EBUSY, "{}", failure.text);
                assert!(failure.text.contains(&format!("pid {pid}")), "{}", failure.text);
                named += u32::from(failure.text.contains("dumping core"));
            }
        }
    }
    let status = producer.end();
    match status {
        WaitStatus::Signaled(_, Signal::SIGABRT, true) => assert!(named > 0, "never told"),
        // No room for it, say.
        WaitStatus::Signaled(_, Signal::SIGABRT, false) => skip("no core was written"),
        other => panic!("{other:?}"),
    }
}

fn code(outcome: Outcome<()>) -> c_int {
    outcome.map_or_else(|failure| failure.code, |()| 0)
}

/// A blocked call ends soon after its counterpart was killed.
fn noticed<S>(pair: &Pair<S>) {
    let mut quickest = Duration::MAX;
    for _ in 0..TRIES {
        let shared = (pair.make)();
        let child = counterpart(pair, &shared);
        let (start, pid) = (Gate::new(), child.pid());
        let killer = fork(|| {
            start.pass();
            // By then the call has slept for more than one slice.
            sleep(ASLEEP);
            kill(pid, Signal::SIGKILL).unwrap();
        });
        let begin = Instant::now();
        start.open();
        let code = code((pair.wait)(&shared, FOREVER));
        let took = begin.elapsed().checked_sub(ASLEEP).expect("not before the death");
        assert_eq!(code, pair.death, "{}", pair.what);
        join(killer);
        drop(child);
        quickest = quickest.min(took);
        if quickest < PROMISED {
            break;
        }
    }
    assert!(quickest < PROMISED + NOISE, "{}: {quickest:?}", pair.what);
}

/// A call that waits with a timeout times out, however long its counterpart is stopped; with the
/// counterpart going on nothing was lost.
fn not_taken_for_dead<S>(pair: &Pair<S>) {
    let shared = (pair.make)();
    let child = counterpart(pair, &shared);
    kill(child.pid(), Signal::SIGSTOP).unwrap();
    let end = Instant::now() + STOPPED;
    let code = code((pair.wait)(&shared, STOPPED.as_nanos() as i64));
    assert_eq!(code, libc::ETIMEDOUT, "{}", pair.what);
    assert!(Instant::now() >= end);
    // Short waits and calls that do not wait ask differently.
    let short = self::code((pair.wait)(&shared, SECOND / 1000));
    assert_eq!(short, libc::ETIMEDOUT, "{}", pair.what);
    assert_eq!(self::code((pair.wait)(&shared, NOWAIT)), libc::EAGAIN, "{}", pair.what);
    kill(child.pid(), Signal::SIGCONT).unwrap();
    assert_eq!(self::code((pair.wait)(&shared, SECOND / 1000)), libc::ETIMEDOUT, "{}", pair.what);
}

const fn of(kind: Kind, policy: u32) -> Options {
    Options { kind: Some(kind), policy, ..Options::new(2, 8) }
}

fn ring(options: &Options) -> C {
    C::open(None, options, libc::O_RDWR, 0).unwrap()
}

fn push_one(ring: &C) {
    ring.push(&[7; 8], NOWAIT).unwrap();
}

/// Takes the one item that there is, when it is there; then waits for another.
fn pop(ring: &C, timeout: i64) -> Outcome<()> {
    while ring.pop(&mut [0; 8], NOWAIT).is_ok() {}
    ring.pop(&mut [0; 8], timeout)
}

fn peek(ring: &C, timeout: i64) -> Outcome<()> {
    while ring.pop(&mut [0; 8], NOWAIT).is_ok() {}
    ring.peek(1, timeout).map(drop)
}

fn wait_any(ring: &C, timeout: i64) -> Outcome<()> {
    while ring.pop(&mut [0; 8], NOWAIT).is_ok() {}
    match C::wait_any(&mut [Entry::ring(ring, 1)], timeout) {
        // What is ready is a pop that says so.
        Ok(_) => ring.pop(&mut [0; 8], SECOND),
        Err(failure) => Err(failure),
    }
}

fn pop_once(ring: &C) {
    let _ = ring.pop(&mut [0; 8], NOWAIT);
}

fn push_full(ring: &C, timeout: i64) -> Outcome<()> {
    while ring.push(&[7; 8], NOWAIT).is_ok() {}
    ring.push(&[7; 8], timeout)
}

fn reserve_full(ring: &C, timeout: i64) -> Outcome<()> {
    while ring.push(&[7; 8], NOWAIT).is_ok() {}
    ring.reserve(1, timeout).map(drop)
}

fn rings(mut each: impl FnMut(Pair<C>)) {
    let kinds: [fn() -> C; 5] = [
        || ring(&of(Kind::Spsc, 0)),
        || ring(&of(Kind::Mpmc, 0)),
        || ring(&of(Kind::Mpmc, policy::STOPPROOF)),
        || ring(&of(Kind::Broadcast, 0)),
        || ring(&of(Kind::Broadcast, policy::OVERWRITE)),
    ];
    let death = libc::EOWNERDEAD;
    for make in kinds {
        for wait in [pop as fn(&C, i64) -> _, peek, wait_any] {
            each(Pair { what: "waiting for an item", make, hold: push_one, wait, death });
        }
    }
    for make in &kinds[..3] {
        for wait in [push_full as fn(&C, i64) -> _, reserve_full] {
            each(Pair { what: "waiting for room", make: *make, hold: pop_once, wait, death });
        }
    }
    // A slow consumer of a broadcast holds its producer; a dead one is dropped.
    let make = kinds[3];
    each(Pair { what: "waiting for a consumer", make, hold: pop_once, wait: push_full, death: 0 });
}

#[test]
fn dead_ends_are_noticed() {
    let _turn = serial();
    rings(|pair| noticed(&pair));
}

#[test]
fn stopped_ends_live() {
    let _turn = serial();
    let mut all = Vec::new();
    rings(|pair| all.push(fork(|| not_taken_for_dead(&pair))));
    all.into_iter().for_each(join);
}

fn permit() -> CSem {
    let (name, options) = (unique("deaths"), UndoOptions { value: 1, ..UndoOptions::default() });
    let sem = <CSem as Undo>::open(&name, &options, NEW, 0o600).unwrap();
    <CSem as Undo>::unlink(&name).unwrap();
    sem
}

const PERMIT: Pair<CSem> = Pair {
    what: "waiting for a permit",
    make: permit,
    hold: |sem| assert!(!Undo::wait(sem, NOWAIT).unwrap()),
    wait: |sem, timeout| Undo::wait(sem, timeout).map(drop),
    death: 0,
};

fn mutex() -> CMutex {
    let name = unique("deaths");
    let mutex = CMutex::open(&name, NEW, 0o600).unwrap();
    CMutex::unlink(&name).unwrap();
    mutex
}

const LOCK: Pair<CMutex> = Pair {
    what: "waiting for a mutex",
    make: mutex,
    hold: |mutex| assert!(!mutex.lock(NOWAIT).unwrap()),
    wait: |mutex, timeout| mutex.lock(timeout).map(|died| assert!(died)),
    death: 0,
};

#[test]
fn dead_holders_are_noticed() {
    let _turn = serial();
    noticed(&PERMIT);
    noticed(&LOCK);
}

#[test]
fn stopped_holders_live() {
    let _turn = serial();
    not_taken_for_dead(&PERMIT);
    not_taken_for_dead(&LOCK);
}
