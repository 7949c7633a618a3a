//! What the pipe tests share: both faces behind one trait, forked children, signals.
#![allow(dead_code)] // Each test program uses its part of this.

use std::ffi::{CString, c_int};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use madang::ffi::pipe as c;
use madang::pipe::{self, OnExec};
use madang::{Access, Timeout};

pub type Answer<T> = Result<T, i32>;
pub const NOWAIT: i64 = 0;
pub const FOREVER: i64 = -1;
/// Long enough for anything that is going to happen.
pub const LONG: i64 = 20_000_000_000;
pub const SHORT: i64 = 20_000_000;

/// The library as its users see it.
pub trait Face: Sync {
    fn open(&self, inherit: bool) -> Answer<(OwnedFd, OwnedFd)>;
    fn pair(&self) -> Answer<[OwnedFd; 4]>;
    fn create(&self, path: &Path, mode: u32) -> Answer<()>;
    fn unlink(&self, path: &Path) -> Answer<()>;
    fn fifo(&self, path: &Path, oflag: c_int, timeout: i64) -> Answer<OwnedFd>;
    fn read(&self, fd: c_int, buf: &mut [u8], timeout: i64) -> Answer<usize>;
    fn read_full(&self, fd: c_int, buf: &mut [u8], timeout: i64) -> Answer<usize>;
    fn write(&self, fd: c_int, data: &[u8], timeout: i64) -> Answer<usize>;
    fn send(&self, fd: c_int, data: &[u8], timeout: i64) -> Answer<()>;
    fn receive(&self, fd: c_int, buf: &mut [u8], timeout: i64) -> Answer<usize>;
}

pub struct Rust;
pub struct C;

fn said<T>(result: madang::Result<T>) -> Answer<T> {
    result.map_err(|error| error.errno())
}

fn fd<'a>(fd: c_int) -> BorrowedFd<'a> {
    // SAFETY: the tests give descriptors that stay open during the call, or one past all of them.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

impl Face for Rust {
    fn open(&self, inherit: bool) -> Answer<(OwnedFd, OwnedFd)> {
        said(pipe::open(if inherit { OnExec::Keep } else { OnExec::Close }))
    }
    fn pair(&self) -> Answer<[OwnedFd; 4]> {
        let (parent, child) = said(pipe::pair(OnExec::Close))?;
        Ok([parent.read, parent.write, child.read, child.write])
    }
    fn create(&self, path: &Path, mode: u32) -> Answer<()> {
        said(pipe::fifo_create(path, mode))
    }
    fn unlink(&self, path: &Path) -> Answer<()> {
        said(pipe::fifo_unlink(path))
    }
    fn fifo(&self, path: &Path, oflag: c_int, timeout: i64) -> Answer<OwnedFd> {
        let access = match oflag {
            libc::O_RDONLY => Access::ReadOnly,
            libc::O_WRONLY => Access::WriteOnly,
            _ => Access::ReadWrite,
        };
        said(pipe::fifo_open(path, access, Timeout::from_nanos(timeout)))
    }
    fn read(&self, n: c_int, buf: &mut [u8], timeout: i64) -> Answer<usize> {
        said(pipe::read(fd(n), buf, Timeout::from_nanos(timeout)))
    }
    fn read_full(&self, n: c_int, buf: &mut [u8], timeout: i64) -> Answer<usize> {
        said(pipe::read_full(fd(n), buf, Timeout::from_nanos(timeout)))
    }
    fn write(&self, n: c_int, data: &[u8], timeout: i64) -> Answer<usize> {
        said(pipe::write(fd(n), data, Timeout::from_nanos(timeout)))
    }
    fn send(&self, n: c_int, data: &[u8], timeout: i64) -> Answer<()> {
        said(pipe::send(fd(n), data, Timeout::from_nanos(timeout)))
    }
    fn receive(&self, n: c_int, buf: &mut [u8], timeout: i64) -> Answer<usize> {
        said(pipe::receive(fd(n), buf, Timeout::from_nanos(timeout)))
    }
}

/// A C answer; errno must say the same.
fn answered(answer: isize) -> Answer<usize> {
    usize::try_from(answer).map_err(|_| {
        let errno = std::io::Error::last_os_error().raw_os_error().unwrap();
        assert_eq!(-answer, errno as isize, "errno differs from the result");
        errno
    })
}

fn own(raw: c_int) -> OwnedFd {
    // SAFETY: a descriptor that the library has just given.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

fn text(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

// SAFETY, for every block below: the pointers and lengths come from live slices and arrays.
#[allow(clippy::undocumented_unsafe_blocks)]
impl Face for C {
    fn open(&self, inherit: bool) -> Answer<(OwnedFd, OwnedFd)> {
        let mut fds = [-7; 2];
        let answer = unsafe { c::mdg_pipe_open(fds.as_mut_ptr(), u32::from(inherit)) };
        let done = answered(answer as isize);
        assert!(done.is_ok() || fds == [-7; 2], "outputs are written only on success");
        done.map(|_| (own(fds[0]), own(fds[1])))
    }
    fn pair(&self) -> Answer<[OwnedFd; 4]> {
        let (mut ours, mut theirs) = ([-7; 2], [-7; 2]);
        let done = unsafe { c::mdg_pipe_pair(ours.as_mut_ptr(), theirs.as_mut_ptr(), 0) };
        let done = answered(done as isize);
        assert!(done.is_ok() || (ours, theirs) == ([-7; 2], [-7; 2]));
        done.map(|_| [own(ours[0]), own(ours[1]), own(theirs[0]), own(theirs[1])])
    }
    fn create(&self, path: &Path, mode: u32) -> Answer<()> {
        answered(unsafe { c::mdg_fifo_create(text(path).as_ptr(), mode) } as isize).map(drop)
    }
    fn unlink(&self, path: &Path) -> Answer<()> {
        answered(unsafe { c::mdg_fifo_unlink(text(path).as_ptr()) } as isize).map(drop)
    }
    fn fifo(&self, path: &Path, oflag: c_int, timeout: i64) -> Answer<OwnedFd> {
        let raw = unsafe { c::mdg_fifo_open(text(path).as_ptr(), oflag, timeout) };
        answered(raw as isize).map(|_| own(raw))
    }
    fn read(&self, n: c_int, buf: &mut [u8], timeout: i64) -> Answer<usize> {
        answered(unsafe { c::mdg_pipe_read(n, buf.as_mut_ptr().cast(), buf.len(), timeout) })
    }
    fn read_full(&self, n: c_int, buf: &mut [u8], timeout: i64) -> Answer<usize> {
        answered(unsafe { c::mdg_pipe_read_full(n, buf.as_mut_ptr().cast(), buf.len(), timeout) })
    }
    fn write(&self, n: c_int, data: &[u8], timeout: i64) -> Answer<usize> {
        answered(unsafe { c::mdg_pipe_write(n, data.as_ptr().cast(), data.len(), timeout) })
    }
    fn send(&self, n: c_int, data: &[u8], timeout: i64) -> Answer<()> {
        let answer = unsafe { c::mdg_pipe_send(n, data.as_ptr().cast(), data.len(), timeout) };
        answered(answer as isize).map(drop)
    }
    fn receive(&self, n: c_int, buf: &mut [u8], timeout: i64) -> Answer<usize> {
        answered(unsafe { c::mdg_pipe_receive(n, buf.as_mut_ptr().cast(), buf.len(), timeout) })
    }
}

static SERIAL: Mutex<()> = Mutex::new(());

/// One test at a time: a child forked by another test would hold this one's pipes open.
pub fn alone() -> MutexGuard<'static, ()> {
    SERIAL.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Runs a test body against both faces, alone in the process.
pub fn both(body: impl Fn(&dyn Face)) {
    let _alone = alone();
    for face in [&Rust as &dyn Face, &C] {
        let start = Instant::now();
        body(face);
        // A wake-up that was missed shows as a wait to the end of LONG.
        let limit = Duration::from_nanos(LONG as u64 * 3 / 4);
        assert!(start.elapsed() < limit, "some call slept through its event");
    }
}

/// A forked process; killed and collected on drop if nobody has waited for it.
pub struct Child(libc::pid_t);

/// Runs `body` in a forked process, which exits with 0 unless it panics.
pub fn fork(body: impl FnOnce()) -> Child {
    // SAFETY: the child runs only the body; the C library makes allocation work after fork.
    match unsafe { libc::fork() } {
        0 => {
            let code = i32::from(catch_unwind(AssertUnwindSafe(body)).is_err());
            // SAFETY: ends this process at once.
            unsafe { libc::_exit(code) }
        }
        pid => {
            assert!(pid > 0, "fork");
            Child(pid)
        }
    }
}

impl Child {
    /// The wait status.
    pub fn status(mut self) -> c_int {
        let pid = std::mem::take(&mut self.0);
        let mut status = 0;
        // SAFETY: our child, collected once.
        assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
        status
    }
    pub fn succeeds(self) {
        assert_eq!(self.status(), 0, "the child failed");
    }
    pub fn kill(self) {
        // SAFETY: our child, not yet collected.
        assert_eq!(unsafe { libc::kill(self.0, libc::SIGKILL) }, 0);
        assert_eq!(self.status(), libc::SIGKILL);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.0 > 0 {
            // SAFETY: our child, not yet collected.
            unsafe {
                libc::kill(self.0, libc::SIGKILL);
                libc::waitpid(self.0, std::ptr::null_mut(), 0);
            }
        }
    }
}

/// Asks again and again until it is so; fails after a generous time.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !so() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::yield_now();
    }
}

/// Bytes in a pipe.
pub fn held(fd: &impl AsRawFd) -> c_int {
    let mut held = 0;
    // SAFETY: FIONREAD stores an int.
    assert_eq!(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &mut held) }, 0);
    held
}

/// Status flags.
pub fn flags(fd: &impl AsRawFd) -> c_int {
    // SAFETY: takes no pointers.
    unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) }
}

/// Whether a descriptor closes on exec.
pub fn close_on_exec(fd: &OwnedFd) -> bool {
    // SAFETY: takes no pointers.
    unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFD) & libc::FD_CLOEXEC != 0 }
}

static CAUGHT: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_signal: c_int) {
    CAUGHT.fetch_add(1, Ordering::Relaxed);
}

/// Runs `call` while this thread catches signals, with SA_RESTART, until the call has returned.
pub fn interrupted<T>(call: impl FnOnce() -> T) -> T {
    // SAFETY: the handler only counts; all-zero is a valid sigaction.
    let me = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = count as extern "C" fn(c_int) as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        assert_eq!(libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()), 0);
        libc::pthread_self()
    };
    let returned = AtomicBool::new(false);
    let before = CAUGHT.load(Ordering::Relaxed);
    let result = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !returned.load(Ordering::Relaxed) {
                // SAFETY: the scope keeps that thread alive.
                unsafe { libc::pthread_kill(me, libc::SIGUSR1) };
                std::thread::yield_now();
            }
        });
        let result = call();
        returned.store(true, Ordering::Relaxed);
        result
    });
    assert!(CAUGHT.load(Ordering::Relaxed) > before);
    result
}

/// A directory of its own, removed on drop.
pub struct Dir(PathBuf);

impl Dir {
    pub fn new() -> Self {
        let template = std::env::temp_dir().join("mdg-pipe-XXXXXX");
        let raw = text(&template).into_raw();
        // SAFETY: a writable NUL-terminated template, taken back afterwards.
        let path = unsafe {
            assert!(!libc::mkdtemp(raw).is_null());
            CString::from_raw(raw)
        };
        Self(PathBuf::from(std::ffi::OsStr::from_bytes(path.as_bytes())))
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Makes this process's preadv2 and pwritev2 answer ENOSYS, as before Linux 4.6.
pub fn forbid_new_calls() {
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let (load, equal, ret) = (0x20, 0x15, 0x06);
    let mut program = [
        step(load, 0, 0, 0), // The call's number.
        step(equal, 2, 0, libc::SYS_preadv2 as u32),
        step(equal, 1, 0, libc::SYS_pwritev2 as u32),
        step(ret, 0, 0, libc::SECCOMP_RET_ALLOW),
        step(ret, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the program outlives the call.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, mode, &filter, 0, 0), 0);
        let iov = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        assert_eq!(libc::syscall(libc::SYS_pwritev2, 1, &iov, 1, -1_i64, -1_i64, 0), -1);
    }
    assert_eq!(std::io::Error::last_os_error().raw_os_error(), Some(libc::ENOSYS));
}

/// SIGPIPE as C programs have it (the Rust runtime ignores it), with this one action.
pub fn default_sigpipe() {
    // SAFETY: no handler of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
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

/// Leaves a descriptor open for the rest of the process.
pub fn keep(fd: OwnedFd) -> c_int {
    fd.into_raw_fd()
}
