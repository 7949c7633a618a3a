//! Raw calls under `pipe`: reads and writes that neither wait nor raise SIGPIPE, private open file
//! descriptions, file locks, tee and inotify.

use std::ffi::{c_int, c_long};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU8, Ordering};

use nix::errno::Errno;

use super::kept::{Kept, identity, proc_path};
use super::signals::{Raised, without};

/// Linux 6.18: a write to a pipe without readers raises no SIGPIPE.
const RWF_NOSIGNAL: c_int = 0x100;

/// What a `-1`-for-failure call answered.
fn count(answer: c_long) -> nix::Result<usize> {
    usize::try_from(answer).map_err(|_| Errno::last())
}

/// Says that the kernel, or a seccomp filter, does not do what was asked: the call, the flag, or
/// the flag on this kind of descriptor.
pub(crate) fn is_unsupported(errno: Errno) -> bool {
    matches!(errno, Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::EINVAL | Errno::EPERM)
}

/// Reads what is there without waiting and without O_NONBLOCK; see [`is_unsupported`].
pub(crate) fn read_nowait(fd: BorrowedFd<'_>, buf: &mut [u8]) -> nix::Result<usize> {
    let iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // The offset -1, given in two halves, means "as read(2) does". The raw call, because the C
    // library's wrapper hides what the kernel answered.
    // SAFETY: one iovec that describes a live buffer which nobody else uses.
    count(unsafe {
        libc::syscall(
            libc::SYS_preadv2,
            fd.as_raw_fd(),
            &raw const iov,
            1 as c_long,
            -1 as c_long,
            -1 as c_long,
            c_long::from(libc::RWF_NOWAIT),
        )
    })
}

/// read(2).
pub(crate) fn read(fd: BorrowedFd<'_>, buf: &mut [u8]) -> nix::Result<usize> {
    nix::unistd::read(fd, buf)
}

/// Whether the kernel knows RWF_NOSIGNAL. Relaxed: a hint that stands alone; a stale value costs a
/// refused call.
static NO_SIGNAL: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 0;
const KNOWN: u8 = 1;
const REFUSED: u8 = 2;

/// Writes to what may be a file of limited size, raising neither SIGPIPE nor SIGXFSZ.
pub(crate) fn write_limited(fd: BorrowedFd<'_>, data: &[u8], nowait: bool) -> nix::Result<usize> {
    without(Raised::FileSize, || write(fd, data, nowait))
}

/// Writes without raising SIGPIPE; with `nowait` also without waiting and without O_NONBLOCK, see
/// [`is_unsupported`].
pub(crate) fn write(fd: BorrowedFd<'_>, data: &[u8], nowait: bool) -> nix::Result<usize> {
    let flags = if nowait { libc::RWF_NOWAIT } else { 0 };
    let hint = NO_SIGNAL.load(Ordering::Relaxed);
    if hint != REFUSED {
        match pwritev2(fd, data, flags | RWF_NOSIGNAL) {
            Err(errno) if is_unsupported(errno) => {
                // With RWF_NOWAIT the refusal may be about that flag on this kind of file.
                if nowait && hint == KNOWN {
                    return Err(errno);
                }
            }
            answer => {
                if hint == UNKNOWN && answer.is_ok() {
                    NO_SIGNAL.store(KNOWN, Ordering::Relaxed);
                }
                return answer;
            }
        }
    }
    let answer = without(Raised::Pipe, || {
        if nowait { pwritev2(fd, data, flags) } else { nix::unistd::write(fd, data) }
    });
    if answer.is_ok() && hint == UNKNOWN {
        NO_SIGNAL.store(REFUSED, Ordering::Relaxed);
    }
    answer
}

fn pwritev2(fd: BorrowedFd<'_>, data: &[u8], flags: c_int) -> nix::Result<usize> {
    let iov = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: one iovec that describes live bytes, which the kernel only reads.
    count(unsafe {
        libc::syscall(
            libc::SYS_pwritev2,
            fd.as_raw_fd(),
            &raw const iov,
            1 as c_long,
            -1 as c_long,
            -1 as c_long,
            c_long::from(flags),
        )
    })
}

/// A private, non-blocking, close-on-exec open file description of the same pipe or FIFO.
///
/// ENXIO: the writing end was asked for and nobody reads. ESTALE: /proc is not ours and led to
/// something else.
pub(crate) fn reopen(fd: BorrowedFd<'_>, access: c_int) -> nix::Result<Kept> {
    let flags = access | libc::O_NONBLOCK | libc::O_CLOEXEC | libc::O_NOCTTY;
    // SAFETY: the name is NUL-terminated; without O_CREAT open takes no third argument.
    let raw = proc_path(fd, |name| unsafe { libc::open(name.as_ptr(), flags) });
    let own = Kept::new(owned(raw)?)?;
    if own.identity() == identity(fd)? { Ok(own) } else { Err(Errno::ESTALE) }
}

/// What a descriptor-making call answered.
fn owned(raw: c_int) -> nix::Result<OwnedFd> {
    Errno::result(raw)?;
    // SAFETY: a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// flock(2); EAGAIN when it would have to wait.
pub(crate) fn flock(fd: BorrowedFd<'_>, operation: c_int) -> nix::Result<()> {
    // SAFETY: takes no pointers.
    Errno::result(unsafe { libc::flock(fd.as_raw_fd(), operation) }).map(drop)
}

/// The process-owned lock on the first byte, for those who may not reopen the pipe.
fn record(kind: c_int) -> libc::flock {
    // SAFETY: all-zero is a valid `struct flock`.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    // The F_*LCK values fit the field; its type is what differs between platforms.
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_len = 1;
    lock
}

/// Takes (`true`) or gives back (`false`) the process-owned lock; EAGAIN when another has it.
pub(crate) fn record_lock(fd: BorrowedFd<'_>, take: bool) -> nix::Result<()> {
    let lock = record(if take { libc::F_WRLCK } else { libc::F_UNLCK });
    // SAFETY: `lock` is a live `struct flock`.
    let answer = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETLK, &raw const lock) };
    match Errno::result(answer) {
        Err(Errno::EACCES) => Err(Errno::EAGAIN),
        other => other.map(drop),
    }
}

/// Whether another process has the process-owned lock.
pub(crate) fn record_locked(fd: BorrowedFd<'_>) -> nix::Result<bool> {
    let mut lock = record(libc::F_WRLCK);
    // SAFETY: `lock` is a live `struct flock` that the call may change.
    Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETLK, &raw mut lock) })?;
    Ok(c_int::from(lock.l_type) != libc::F_UNLCK)
}

/// Bytes that the pipe can hold, and bytes that it holds.
pub(crate) fn fill(fd: BorrowedFd<'_>) -> nix::Result<(usize, usize)> {
    let mut held: c_int = 0;
    // SAFETY: FIONREAD stores an int.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONREAD, &raw mut held) })?;
    // SAFETY: takes no pointers.
    let size = count(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETPIPE_SZ) }.into())?;
    Ok((size, usize::try_from(held).unwrap_or(0)))
}

/// Whether the reading end of a FIFO has a writer, or left-over data; takes nothing off it.
///
/// `scratch` is the writing end of an empty pipe. tee(2) on an empty pipe tells the two cases
/// apart that poll(2) does not: EAGAIN with a writer, 0 without.
pub(crate) fn has_writer(fd: BorrowedFd<'_>, scratch: BorrowedFd<'_>) -> nix::Result<bool> {
    let (from, to) = (fd.as_raw_fd(), scratch.as_raw_fd());
    // The scratch pipe has a reader, unless the program has closed it meanwhile.
    let answer = without(Raised::Pipe, || {
        // SAFETY: takes no pointers.
        Errno::result(unsafe { libc::tee(from, to, 1, libc::SPLICE_F_NONBLOCK) })
    });
    match answer {
        Ok(copied) => Ok(copied > 0),
        Err(Errno::EAGAIN) => Ok(true),
        Err(errno) => Err(errno),
    }
}

/// Tells when a file is opened, renamed or unlinked.
pub(crate) struct Watch(Kept);

impl Watch {
    /// Watches the file behind a descriptor, which may be an O_PATH one.
    pub(crate) fn on(fd: BorrowedFd<'_>) -> nix::Result<Self> {
        // SAFETY: takes no pointers.
        let raw = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
        let watch = Self(Kept::new(owned(raw)?)?);
        // A lost name shows as a change of the link count (IN_ATTRIB).
        let events = libc::IN_OPEN | libc::IN_ATTRIB | libc::IN_MOVE_SELF;
        let number = watch.0.fd()?.as_raw_fd();
        // SAFETY: the name is NUL-terminated.
        Errno::result(proc_path(fd, |name| unsafe {
            libc::inotify_add_watch(number, name.as_ptr(), events)
        }))?;
        Ok(watch)
    }

    /// Forgets what was reported so far.
    pub(crate) fn drain(&self) {
        let mut events = [0_u8; 1024];
        while self.0.fd().and_then(|fd| read(fd, &mut events)).is_ok_and(|n| n > 0) {}
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.unchecked()
    }
}
