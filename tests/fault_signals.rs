//! A signal every millisecond, caught with and without SA_RESTART: every wait ends with -EINTR;
//! streams lose nothing and double nothing when their calls are just made again; what has begun is
//! finished; deadlines stay where they were.

mod support;

use std::ffi::c_int;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use madang::ring::Options;
use support::face::{FOREVER, NOWAIT, Outcome};
use support::mutex_face::{CMutex, Locks as _};
use support::pipe_face::{C as Pipes, Face as _};
use support::process::{Child, Gate, fork, join, serial, shared_words};
use support::ring_face::{C, Face, Named, SECOND};
use support::sem_face::Permits;
use support::shm_face::{CShm, Segment};
use support::waits::{cond, each_wait, mutex, posix, rings, undo};

const NEW: c_int = libc::O_RDWR | libc::O_CREAT;

static CAUGHT: AtomicU64 = AtomicU64::new(0);

extern "C" fn count(_: c_int) {
    CAUGHT.fetch_add(1, Ordering::Relaxed);
}

/// From now on this process catches a signal every millisecond.
fn storm(flags: c_int) {
    let millisecond = libc::timeval { tv_sec: 0, tv_usec: 1000 };
    let timer = libc::itimerval { it_interval: millisecond, it_value: millisecond };
    // SAFETY: plain structures; the handler only counts.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = count as *const () as usize;
        action.sa_flags = flags;
        assert_eq!(libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()), 0);
        let result =
            libc::syscall(libc::SYS_setitimer, libc::ITIMER_REAL, &raw const timer, 0_usize);
        assert_eq!(result, 0);
    }
}

/// Runs `body` in a child in a storm, of each kind.
fn stormy(body: impl Fn()) {
    for flags in [0, libc::SA_RESTART] {
        join(in_a_storm(flags, &body));
    }
}

fn in_a_storm(flags: c_int, body: impl FnOnce()) -> Child {
    fork(|| {
        storm(flags);
        body();
        assert!(CAUGHT.load(Ordering::Relaxed) > 0, "a storm");
    })
}

/// Makes a call until it is not interrupted.
fn again<T>(mut call: impl FnMut() -> Outcome<T>) -> T {
    loop {
        match call() {
            Err(failure) if failure.code == libc::EINTR => {}
            other => return other.unwrap(),
        }
    }
}

#[test]
fn every_wait_is_interrupted() {
    let _turn = serial();
    let held = mutex();
    assert!(!held.lock(NOWAIT).unwrap());
    stormy(|| {
        each_wait(&held, &|what, call| {
            for timeout in [FOREVER, 100 * SECOND] {
                let start = Instant::now();
                let outcome = call(timeout);
                let code = outcome.as_ref().map_err(|failure| failure.code);
                assert_eq!(code, Err(libc::EINTR), "{what}: {outcome:?}");
                assert!(start.elapsed() < Duration::from_secs(10), "{what}");
            }
        });
    });
}

/// Two processes that both are in a storm; the second begins when the first opens the gate.
fn two(first: impl Fn(&Gate), second: impl Fn()) {
    for flags in [0, libc::SA_RESTART] {
        let gate = Gate::new();
        let one = in_a_storm(flags, || first(&gate));
        gate.pass();
        let other = in_a_storm(flags, &second);
        join(other);
        join(one);
    }
}

/// Through rings of four places: every item once, in order.
#[test]
fn streams_lose_and_double_nothing() {
    const ITEMS: u64 = 10_000;
    let _turn = serial();
    for options in &rings()[..4] {
        for many in [false, true] {
            let (name, done) = (Named::new("storm"), Gate::new());
            let _keep = C::open(Some(&name.0), options, NEW, 0o600).unwrap();
            let open = |oflag| again(|| C::open(Some(&name.0), options, oflag, 0));
            let consume = |gate: &Gate| {
                let ring = open(libc::O_RDONLY);
                gate.open();
                let mut next = 0_u64;
                while next < ITEMS {
                    let mut items = [0; 24];
                    let count = match many {
                        true => again(|| ring.pop_many(&mut items, 8, FOREVER)),
                        false => again(|| ring.pop(&mut items[..8], FOREVER).map(|()| 1)),
                    };
                    for item in items[..8 * count].chunks(8) {
                        assert_eq!(item, next.to_ne_bytes());
                        next += 1;
                    }
                }
                done.open();
            };
            let produce = || {
                let ring = open(libc::O_WRONLY);
                let mut next = 0_u64;
                while next < ITEMS {
                    let items: Vec<_> =
                        (next..ITEMS.min(next + 3)).flat_map(u64::to_ne_bytes).collect();
                    next += match many {
                        true => again(|| ring.push_many(&items, 8, FOREVER)) as u64,
                        false => again(|| ring.push(&items[..8], FOREVER).map(|()| 1)),
                    };
                }
                // Gone only when all is taken, so that nobody is taken for dead.
                done.pass();
            };
            two(consume, produce);
        }
    }
}

/// Messages longer than the pipe holds: one that has begun is finished, whatever comes.
#[test]
fn long_messages_are_not_cut() {
    const MESSAGES: usize = 200;
    let _turn = serial();
    let (read, write) = Pipes.open(false).unwrap();
    let message = |number: usize| vec![number as u8; 100_000 + number];
    let send = |gate: &Gate| {
        gate.open();
        for number in 0..MESSAGES {
            again(|| Pipes.send(write.as_raw_fd(), &message(number), FOREVER));
        }
    };
    let receive = || {
        let mut got = vec![0; 200_000];
        for number in 0..MESSAGES {
            let length = again(|| Pipes.receive(read.as_raw_fd(), &mut got, FOREVER));
            assert_eq!(got[..length], message(number));
        }
    };
    two(send, receive);
}

/// Permits and a mutex go to and fro: neither lost nor had twice.
#[test]
fn permits_and_locks_are_had_once() {
    const ROUNDS: u64 = 3000;
    let _turn = serial();
    let words = shared_words(1);
    for (there, back) in [(posix(0), posix(0)), (undo(0), undo(0))] {
        let to = |gate: &Gate| {
            gate.open();
            for _ in 0..ROUNDS {
                Permits::post(&there).unwrap();
                again(|| Permits::wait(&back, FOREVER));
            }
        };
        let fro = || {
            for _ in 0..ROUNDS {
                again(|| Permits::wait(&there, FOREVER));
                Permits::post(&back).unwrap();
            }
        };
        two(to, fro);
    }
    let (mutex, cond) = (mutex(), cond());
    let turns = |mine: u64| {
        for _ in 0..ROUNDS {
            again(|| mutex.lock(FOREVER));
            while words[0].load(Ordering::Relaxed) % 2 != mine {
                // Interrupted or not, it is held again.
                match mutex.wait(&cond, FOREVER) {
                    Err(failure) if failure.code == libc::EINTR => {}
                    told => assert!(!told.unwrap()),
                }
            }
            words[0].fetch_add(1, Ordering::Relaxed);
            CMutex::signal(&cond);
            mutex.unlock().unwrap();
        }
    };
    let first = |gate: &Gate| {
        gate.open();
        turns(0);
    };
    two(first, || turns(1));
    assert_eq!(words[0].load(Ordering::Relaxed), 4 * ROUNDS);
}

/// Calls that do not wait work in a storm at once; a call made again for what is left of its time
/// ends with it.
#[test]
fn opening_works_and_deadlines_stand() {
    let _turn = serial();
    stormy(|| {
        for options in rings() {
            let large = Options { capacity: 1 << 20, ..options };
            let name = Named::new("storm");
            for _ in 0..10 {
                drop(C::open(Some(&name.0), &large, NEW, 0o600).unwrap());
                drop(C::open(Some(&name.0), &large, libc::O_RDONLY, 0).unwrap());
                C::unlink(&name.0).unwrap();
            }
            CShm::anonymous(16 << 20, false).unwrap().resize(32 << 20).unwrap();
            let ring = C::open(None, &options, libc::O_RDWR, 0).unwrap();
            let (start, whole) = (Instant::now(), Duration::from_millis(100));
            let code = loop {
                let left = whole.saturating_sub(start.elapsed()).as_nanos().max(1) as i64;
                match ring.pop(&mut [0; 8], left).unwrap_err().code {
                    libc::EINTR => {}
                    code => break code,
                }
            };
            assert_eq!(code, libc::ETIMEDOUT);
            assert!(start.elapsed() >= whole && start.elapsed() < 100 * whole);
        }
    });
}
