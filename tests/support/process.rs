//! Processes, the signals they get and the users they are; and turns for tests that fork.

use std::ffi::c_int;
use std::os::fd::IntoRawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::signal::{self, SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid};

/// Tests that fork take turns. A child forked by one test inherits every descriptor that another
/// has open at that moment. It would hold the other's pipes open; and between the locking and the
/// detaching of a liveness token it would inherit the token's descriptor, and keep "alive" what the
/// other test then kills: the one case in which the library reports a death late, and no business
/// of these tests.
pub fn serial() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A forked process; killed and collected on drop if nobody has waited for it.
pub struct Child(Option<Pid>);

impl Child {
    pub fn pid(&self) -> Pid {
        self.0.unwrap()
    }

    /// Waits until it has ended, however that may be.
    pub fn end(mut self) -> WaitStatus {
        waitpid(self.0.take().unwrap(), None).unwrap()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            let _ = signal::kill(pid, Signal::SIGKILL);
            let _ = waitpid(pid, None);
        }
    }
}

/// Runs `body` in a forked child. The child leaves with `_exit`, 0 if the body returned, 101 if it
/// panicked.
pub fn fork(body: impl FnOnce()) -> Child {
    // SAFETY: the test's children use what a forked child of a threaded program may use in glibc
    // (malloc among it, which glibc makes fork-safe), and leave with _exit.
    match unsafe { nix::unistd::fork() }.unwrap() {
        ForkResult::Parent { child } => Child(Some(child)),
        ForkResult::Child => {
            // Past the test harness, which keeps what its own threads print.
            std::panic::set_hook(Box::new(|panic| {
                let text = format!("child {}: {panic}\n", std::process::id());
                // SAFETY: the bytes of a live string.
                unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
            }));
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            leave(if result.is_ok() { 0 } else { 101 })
        }
    }
}

/// Ends this process without running the exit handlers that it has from its parent.
pub fn leave(code: c_int) -> ! {
    // SAFETY: a plain number.
    unsafe { libc::_exit(code) }
}

/// Waits for a child that must have succeeded.
#[track_caller]
pub fn join(child: Child) {
    let pid = child.pid();
    let status = child.end();
    assert!(matches!(status, WaitStatus::Exited(_, 0)), "child {pid} ended with {status:?}");
}

/// Kills a child that must still run, and waits until the kernel has taken it down.
#[track_caller]
pub fn kill(child: Child) {
    signal::kill(child.pid(), Signal::SIGKILL).unwrap();
    let status = child.end();
    assert!(matches!(status, WaitStatus::Signaled(_, Signal::SIGKILL, _)), "{status:?}");
}

/// A pipe on which one process tells another that it has come so far.
pub struct Gate(c_int, c_int);

impl Gate {
    pub fn new() -> Self {
        let (read, write) = nix::unistd::pipe().unwrap();
        Self(read.into_raw_fd(), write.into_raw_fd())
    }

    /// Lets one waiter through.
    pub fn open(&self) {
        let byte = [1_u8];
        // SAFETY: one readable byte; the descriptor is ours.
        assert_eq!(unsafe { libc::write(self.1, byte.as_ptr().cast(), 1) }, 1);
    }

    /// Whether it is opened within so many milliseconds; nobody is let through.
    pub fn is_open_within(&self, milliseconds: c_int) -> bool {
        let mut entry = libc::pollfd { fd: self.0, events: libc::POLLIN, revents: 0 };
        // SAFETY: one entry; the descriptor is ours.
        unsafe { libc::poll(&raw mut entry, 1, milliseconds) == 1 }
    }

    /// Waits until it is opened.
    pub fn pass(&self) {
        let mut byte = [0_u8];
        loop {
            // SAFETY: one writable byte; the descriptor is ours.
            match unsafe { libc::read(self.0, byte.as_mut_ptr().cast(), 1) } {
                1 => return,
                -1 if Errno::last() == Errno::EINTR => {}
                other => panic!("gate: {other}"),
            }
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // SAFETY: both were opened by `new` and belong to this value.
        unsafe {
            libc::close(self.0);
            libc::close(self.1);
        }
    }
}

static CAUGHT: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_signal: c_int) {
    CAUGHT.fetch_add(1, Ordering::Relaxed);
}

/// Runs `call` while this thread catches signals, with SA_RESTART, until the call has returned: one
/// that comes before a wait begins does not count.
pub fn interrupted<T>(call: impl FnOnce() -> T) -> T {
    /// Ends the signals, after a panic too.
    struct Ends<'a>(&'a AtomicBool);
    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let action = SigAction::new(SigHandler::Handler(count), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: the handler only counts.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.unwrap();
    // SAFETY: cannot fail.
    let me = unsafe { libc::pthread_self() };
    let returned = AtomicBool::new(false);
    let before = caught();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !returned.load(Ordering::Relaxed) {
                // SAFETY: the scope keeps that thread alive.
                unsafe { libc::pthread_kill(me, libc::SIGUSR1) };
                std::thread::yield_now();
            }
        });
        let _ends = Ends(&returned);
        // The signals have begun before the call does, however late that thread is run.
        while caught() == before {
            std::thread::yield_now();
        }
        call()
    })
}

/// How many signals the threads in [`interrupted`] have caught.
pub fn caught() -> u32 {
    CAUGHT.load(Ordering::Relaxed)
}

/// SIGPIPE as C programs have it (the Rust runtime ignores it), with this one action.
pub fn default_sigpipe() {
    // SAFETY: no handler of ours.
    unsafe { signal::signal(Signal::SIGPIPE, SigHandler::SigDfl) }.unwrap();
}

/// Blocks SIGPIPE; whether one is pending then.
pub fn sigpipe_pending() -> bool {
    // SAFETY: the set is initialised before it is used.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGPIPE);
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        libc::sigpending(&mut set);
        libc::sigismember(&set, libc::SIGPIPE) == 1
    }
}

/// Prints why a test, or a part of it, does nothing here. Past the test runner, which keeps the output
/// of tests that pass to itself.
pub fn skip(why: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

/// Whether a program can be run on this machine; says so if not.
pub fn has_program(name: &str) -> bool {
    let found = std::process::Command::new(name).arg("--version").output().is_ok();
    if !found {
        skip(&format!("no {name} on this machine"));
    }
    found
}

/// Whether this process may become another user; says so if not.
pub fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skip("needs root to become another user");
    }
    root
}

/// Runs `body` in a child that is the user nobody; the caller checked `is_root`.
pub fn as_nobody(body: impl FnOnce()) {
    join(fork(|| {
        nix::unistd::setgroups(&[]).unwrap();
        nix::unistd::setgid(65534.into()).unwrap();
        nix::unistd::setuid(65534.into()).unwrap();
        body();
    }));
}

/// Words of zeros that this process and its children share; they stay until it ends.
pub fn shared_words(count: usize) -> &'static [AtomicU64] {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
    let length = std::num::NonZero::new(count * size_of::<AtomicU64>()).unwrap();
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping, which nobody unmaps: aligned, zero, and as long as asked for.
    unsafe {
        let words = mmap_anonymous(None, length, access, MapFlags::MAP_SHARED).unwrap();
        std::slice::from_raw_parts(words.cast().as_ptr(), count)
    }
}
