//! Pipes: the Rust functions and the C entry points behind one trait, and what the kernel says about
//! their descriptors.

use std::ffi::c_int;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use madang::Timeout;
use madang::ffi::pipe as c;
use madang::pipe::{self, OnExec};

use super::face::{Outcome, answer, c_string, done, open_flags};
use super::process::serial;

/// Long enough for anything that is going to happen.
pub const LONG: i64 = 20_000_000_000;
pub const SHORT: i64 = 20_000_000;

/// The library as its users see it.
pub trait Face: Sync {
    fn open(&self, inherit: bool) -> Outcome<(OwnedFd, OwnedFd)>;
    fn pair(&self) -> Outcome<[OwnedFd; 4]>;
    fn create(&self, path: &Path, mode: u32) -> Outcome<()>;
    fn unlink(&self, path: &Path) -> Outcome<()>;
    fn fifo(&self, path: &Path, oflag: c_int, timeout: i64) -> Outcome<OwnedFd>;
    fn read(&self, fd: c_int, buf: &mut [u8], timeout: i64) -> Outcome<usize>;
    fn read_full(&self, fd: c_int, buf: &mut [u8], timeout: i64) -> Outcome<usize>;
    fn write(&self, fd: c_int, data: &[u8], timeout: i64) -> Outcome<usize>;
    fn send(&self, fd: c_int, data: &[u8], timeout: i64) -> Outcome<()>;
    fn receive(&self, fd: c_int, buf: &mut [u8], timeout: i64) -> Outcome<usize>;
}

pub struct Rust;
pub struct C;

fn fd<'a>(fd: c_int) -> BorrowedFd<'a> {
    // SAFETY: the tests give descriptors that stay open during the call, or one past all of them.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

impl Face for Rust {
    fn open(&self, inherit: bool) -> Outcome<(OwnedFd, OwnedFd)> {
        Ok(pipe::open(if inherit { OnExec::Keep } else { OnExec::Close })?)
    }
    fn pair(&self) -> Outcome<[OwnedFd; 4]> {
        let (parent, child) = pipe::pair(OnExec::Close)?;
        Ok([parent.read, parent.write, child.read, child.write])
    }
    fn create(&self, path: &Path, mode: u32) -> Outcome<()> {
        Ok(pipe::fifo_create(path, mode)?)
    }
    fn unlink(&self, path: &Path) -> Outcome<()> {
        Ok(pipe::fifo_unlink(path)?)
    }
    fn fifo(&self, path: &Path, oflag: c_int, timeout: i64) -> Outcome<OwnedFd> {
        Ok(pipe::fifo_open(path, open_flags(oflag).access, Timeout::from_nanos(timeout))?)
    }
    fn read(&self, n: c_int, buf: &mut [u8], timeout: i64) -> Outcome<usize> {
        Ok(pipe::read(fd(n), buf, Timeout::from_nanos(timeout))?)
    }
    fn read_full(&self, n: c_int, buf: &mut [u8], timeout: i64) -> Outcome<usize> {
        Ok(pipe::read_full(fd(n), buf, Timeout::from_nanos(timeout))?)
    }
    fn write(&self, n: c_int, data: &[u8], timeout: i64) -> Outcome<usize> {
        Ok(pipe::write(fd(n), data, Timeout::from_nanos(timeout))?)
    }
    fn send(&self, n: c_int, data: &[u8], timeout: i64) -> Outcome<()> {
        Ok(pipe::send(fd(n), data, Timeout::from_nanos(timeout))?)
    }
    fn receive(&self, n: c_int, buf: &mut [u8], timeout: i64) -> Outcome<usize> {
        Ok(pipe::receive(fd(n), buf, Timeout::from_nanos(timeout))?)
    }
}

fn own(raw: c_int) -> OwnedFd {
    // SAFETY: a descriptor that the library has just given.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

impl Face for C {
    fn open(&self, inherit: bool) -> Outcome<(OwnedFd, OwnedFd)> {
        let mut fds = [-7; 2];
        // SAFETY: room for two descriptors.
        let made = done(|| unsafe { c::mdg_pipe_open(fds.as_mut_ptr(), u32::from(inherit)) });
        assert!(made.is_ok() || fds == [-7; 2], "outputs are written only on success");
        made.map(|()| (own(fds[0]), own(fds[1])))
    }
    fn pair(&self) -> Outcome<[OwnedFd; 4]> {
        let (mut ours, mut theirs) = ([-7; 2], [-7; 2]);
        // SAFETY: room for two descriptors each.
        let made = done(|| unsafe { c::mdg_pipe_pair(ours.as_mut_ptr(), theirs.as_mut_ptr(), 0) });
        assert!(made.is_ok() || (ours, theirs) == ([-7; 2], [-7; 2]));
        made.map(|()| [own(ours[0]), own(ours[1]), own(theirs[0]), own(theirs[1])])
    }
    fn create(&self, path: &Path, mode: u32) -> Outcome<()> {
        let path = c_string(path.as_os_str().as_bytes());
        // SAFETY: a C string.
        done(|| unsafe { c::mdg_fifo_create(path.as_ptr(), mode) })
    }
    fn unlink(&self, path: &Path) -> Outcome<()> {
        let path = c_string(path.as_os_str().as_bytes());
        // SAFETY: a C string.
        done(|| unsafe { c::mdg_fifo_unlink(path.as_ptr()) })
    }
    fn fifo(&self, path: &Path, oflag: c_int, timeout: i64) -> Outcome<OwnedFd> {
        let path = c_string(path.as_os_str().as_bytes());
        // SAFETY: a C string.
        let raw = answer(|| unsafe { c::mdg_fifo_open(path.as_ptr(), oflag, timeout) })?;
        Ok(own(raw as c_int))
    }
    fn read(&self, n: c_int, buf: &mut [u8], timeout: i64) -> Outcome<usize> {
        let (at, size) = (buf.as_mut_ptr().cast(), buf.len());
        // SAFETY: a live slice.
        answer(|| unsafe { c::mdg_pipe_read(n, at, size, timeout) })
    }
    fn read_full(&self, n: c_int, buf: &mut [u8], timeout: i64) -> Outcome<usize> {
        let (at, size) = (buf.as_mut_ptr().cast(), buf.len());
        // SAFETY: a live slice.
        answer(|| unsafe { c::mdg_pipe_read_full(n, at, size, timeout) })
    }
    fn write(&self, n: c_int, data: &[u8], timeout: i64) -> Outcome<usize> {
        // SAFETY: a live slice.
        answer(|| unsafe { c::mdg_pipe_write(n, data.as_ptr().cast(), data.len(), timeout) })
    }
    fn send(&self, n: c_int, data: &[u8], timeout: i64) -> Outcome<()> {
        // SAFETY: a live slice.
        done(|| unsafe { c::mdg_pipe_send(n, data.as_ptr().cast(), data.len(), timeout) })
    }
    fn receive(&self, n: c_int, buf: &mut [u8], timeout: i64) -> Outcome<usize> {
        let (at, size) = (buf.as_mut_ptr().cast(), buf.len());
        // SAFETY: a live slice.
        answer(|| unsafe { c::mdg_pipe_receive(n, at, size, timeout) })
    }
}

/// Runs a test body against both faces, in its turn.
pub fn both(body: impl Fn(&dyn Face)) {
    let _turn = serial();
    for face in [&Rust as &dyn Face, &C] {
        let start = Instant::now();
        body(face);
        // A wake-up that was missed shows as a wait to the end of LONG.
        let limit = Duration::from_nanos(LONG as u64 * 3 / 4);
        assert!(start.elapsed() < limit, "some call slept through its event");
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

/// Leaves a descriptor open for the rest of the process.
pub fn keep(fd: OwnedFd) -> c_int {
    fd.into_raw_fd()
}
