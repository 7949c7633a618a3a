//! The wall clock jumps: no wait looks at it. In this program it goes an hour forwards or back each
//! time that anybody reads it; and what the kernel is asked to wait by is the monotonic clock.

mod support;

use std::ffi::c_int;
use std::os::fd::AsRawFd;
use std::sync::Barrier;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use madang::ring::{Kind, Options, policy};
use madang::sem::UndoOptions;
use nix::errno::Errno;
use support::face::{NOWAIT, Outcome};
use support::inject::{Call, arm, disarm, watched};
use support::mutex_face::{CMutex, Locks};
use support::pipe_face::{C as Pipes, Face as _};
use support::process::{fork, join, serial, skip};
use support::ring_face::{C, Entry, Face};
use support::sem_face::{CSem, Permits};
use support::undo_face::Undo;
use support::{Dir, unique};

/// In the place of the C library's, for all of this program.
///
/// # Safety
/// `at` is writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, at: *mut libc::timespec) -> c_int {
    static STEP: AtomicI64 = AtomicI64::new(3600);
    // SAFETY: the caller's promise.
    unsafe {
        let result = libc::syscall(libc::SYS_clock_gettime, clock, at);
        if result == 0 && clock == libc::CLOCK_REALTIME {
            (*at).tv_sec += STEP.fetch_xor(!0, Ordering::Relaxed);
        }
        result as c_int
    }
}

const NEW: c_int = libc::O_RDWR | libc::O_CREAT;
const TIME: Duration = Duration::from_millis(30);

/// Makes every call that waits, in vain, and has `judge` see how.
fn every_wait(mut judge: impl FnMut(&str, &mut dyn FnMut() -> Outcome<()>)) {
    let t = TIME.as_nanos() as i64;
    let of = |kind, policy| Options { kind: Some(kind), policy, ..Options::new(2, 8) };
    let kinds = [
        of(Kind::Spsc, 0),
        of(Kind::Mpmc, 0),
        of(Kind::Mpmc, policy::STOPPROOF),
        of(Kind::Broadcast, 0),
    ];
    for options in &kinds {
        let ring = C::open(None, options, libc::O_RDWR, 0).unwrap();
        judge("pop", &mut || ring.pop(&mut [0; 8], t));
        judge("peek", &mut || ring.peek(1, t).map(drop));
        judge("wait_any", &mut || C::wait_any(&mut [Entry::ring(&ring, 1)], t).map(drop));
        while ring.push(&[0; 8], NOWAIT).is_ok() {}
        judge("push", &mut || ring.push(&[0; 8], t));
        judge("reserve", &mut || ring.reserve(1, t).map(drop));
    }
    let name = unique("clock");
    let posix = <CSem as Permits>::open(name.as_bytes(), 0, NEW, 0o600).unwrap();
    <CSem as Permits>::unlink(name.as_bytes()).unwrap();
    judge("sem", &mut || Permits::wait(&posix, t));
    let undo = <CSem as Undo>::open(&name, &UndoOptions::default(), NEW, 0o600).unwrap();
    <CSem as Undo>::unlink(&name).unwrap();
    judge("undo", &mut || Undo::wait(&undo, t).map(drop));
    let mutex = CMutex::open(&name, NEW, 0o600).unwrap();
    let cond = CMutex::open_cond(&name, NEW, 0o600).unwrap();
    CMutex::unlink(&name).unwrap();
    CMutex::unlink_cond(&name).unwrap();
    mutex.lock(NOWAIT).unwrap();
    judge("cond", &mut || mutex.wait(&cond, t).map(drop));
    let other = CMutex::open(&name, NEW, 0o600).unwrap();
    CMutex::unlink(&name).unwrap();
    let (held, over) = (Barrier::new(2), Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            other.lock(NOWAIT).unwrap();
            held.wait();
            over.wait();
            other.unlock().unwrap();
        });
        held.wait();
        judge("lock", &mut || other.lock(t).map(drop));
        over.wait();
    });
    mutex.unlock().unwrap();
    let (read, write) = Pipes.open(false).unwrap();
    judge("read", &mut || Pipes.read(read.as_raw_fd(), &mut [0; 8], t).map(drop));
    judge("receive", &mut || Pipes.receive(read.as_raw_fd(), &mut [0; 8], t).map(drop));
    while Pipes.write(write.as_raw_fd(), &[0; 4096], NOWAIT).is_ok() {}
    judge("write", &mut || Pipes.write(write.as_raw_fd(), &[0; 4096], t).map(drop));
    judge("send", &mut || Pipes.send(write.as_raw_fd(), &[0; 4000], t));
    let dir = Dir::new();
    Pipes.create(&dir.path("fifo"), 0o600).unwrap();
    judge("fifo", &mut || Pipes.fifo(&dir.path("fifo"), libc::O_RDONLY, t).map(drop));
}

#[test]
fn deadlines_stand_while_the_wall_clock_jumps() {
    let _turn = serial();
    let jump = |one: SystemTime, other: SystemTime| {
        one.duration_since(other).unwrap_or_else(|back| back.duration()).as_secs()
    };
    assert!(jump(SystemTime::now(), SystemTime::now()) > 3000, "it jumps");
    every_wait(|what, call| {
        let start = Instant::now();
        let code = call().unwrap_err().code;
        assert_eq!(code, libc::ETIMEDOUT, "{what}");
        let took = start.elapsed();
        assert!(took >= TIME && took < Duration::from_secs(20), "{what}: {took:?}");
    });
}

/// The waits of the kernel: futexes that are given a time without a date, or one of the monotonic
/// clock; ppoll(2), whose time has no date.
#[test]
fn the_kernel_is_asked_for_monotonic_time() {
    const BY_WALL_CLOCK: u64 = libc::FUTEX_CLOCK_REALTIME as u64;
    let _turn = serial();
    join(fork(|| {
        let numbers = [libc::SYS_futex, libc::SYS_clock_nanosleep, libc::SYS_nanosleep];
        let (waits, dated) = (AtomicU64::new(0), AtomicU64::new(0));
        let answer = |call: &Call| -> Option<Errno> {
            let timed = call.number == libc::SYS_futex && call.args[3] != 0;
            let bad = match call.number {
                libc::SYS_futex => timed && call.args[1] & BY_WALL_CLOCK != 0,
                libc::SYS_clock_nanosleep => call.args[0] == libc::CLOCK_REALTIME as u64,
                _ => false,
            };
            waits.fetch_add(u64::from(timed), Ordering::Relaxed);
            dated.fetch_add(u64::from(bad), Ordering::Relaxed);
            None
        };
        let done = watched(&numbers, answer, || {
            every_wait(|what, call| {
                arm();
                let code = call().unwrap_err().code;
                disarm();
                assert_eq!(code, libc::ETIMEDOUT, "{what}");
            });
        });
        if done.is_none() {
            return skip("no seccomp listener may be installed here");
        }
        assert!(waits.into_inner() > 10);
        assert_eq!(dated.into_inner(), 0);
    }));
}
