#![forbid(unsafe_code)]
//! FIFOs: made, removed, and opened with a timeout.

use std::ffi::CString;
use std::fmt::Display;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open as open_file};
use nix::poll::{PollFd, PollFlags};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, lstat};
use nix::unistd::{mkfifo, pipe2, unlink as unlink_file};

use crate::error::{Error, Result};
use crate::flags::Access;
use crate::sync::descriptor::{LONG, Waiter, shows};
use crate::sys::alloc;
use crate::sys::kept::Kept;
use crate::sys::pipe::{Watch, has_writer};
use crate::time::Timeout;

/// How often a waiting writer looks for a reader that causes no event.
const UNSEEN: Duration = Duration::from_millis(10);

/// Makes a FIFO; `mode` is trimmed by the umask. `EEXIST` when anything has that name.
pub fn create(path: &Path, mode: u32) -> Result<()> {
    let bits = libc::mode_t::try_from(mode).ok().filter(|bits| bits & !0o777 == 0);
    let Some(bits) = bits else {
        return Err(Error::new(
            Errno::EINVAL,
            format_args!("fifo {path:?}: mode {mode:#o} has bits other than permissions"),
        ));
    };
    mkfifo(&*c_path(path)?, Mode::from_bits_truncate(bits))
        .map_err(|errno| failed("creating", path, errno))
}

/// Removes a FIFO's name: `ELOOP` for a symbolic link, `EPROTO` for anything else but a FIFO.
pub fn unlink(path: &Path) -> Result<()> {
    let name = &*c_path(path)?;
    let stat = lstat(name).map_err(|errno| failed("unlinking", path, errno))?;
    require_fifo(path, &stat)?;
    unlink_file(name).map_err(|errno| failed("unlinking", path, errno))
}

/// Opens a FIFO and waits until the other end is open too.
///
/// The descriptor is blocking and close-on-exec. [`Access::ReadWrite`] never waits.
pub fn open(path: &Path, access: Access, timeout: Timeout) -> Result<OwnedFd> {
    // Declared first, so that it is dropped after every descriptor.
    let fifo = Fifo::find(path)?;
    let mut waiter = Waiter::new(timeout);
    let fd = match access {
        Access::ReadWrite => fifo.open(OFlag::O_RDWR)?,
        Access::WriteOnly => fifo.writer(&mut waiter)?,
        Access::ReadOnly => fifo.reader(&mut waiter)?,
    };
    // Nobody else has this description yet.
    fcntl(&fd, FcntlArg::F_SETFL(OFlag::empty())).map_err(|errno| fifo.failed(errno))?;
    Ok(fd)
}

/// The FIFO that stood under a name when the call began.
struct Fifo<'path> {
    path: &'path Path,
    /// The same for the kernel.
    c_path: CString,
    /// O_PATH: names the file and touches nothing.
    name: Kept,
    stat: FileStat,
}

impl<'path> Fifo<'path> {
    fn find(path: &'path Path) -> Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let c_path = c_path(path)?;
        let name = open_file(&*c_path, flags, Mode::empty());
        let name = name.and_then(Kept::new).map_err(|errno| failed("opening", path, errno))?;
        let stat = fstat(name.unchecked()).map_err(|errno| failed("opening", path, errno))?;
        require_fifo(path, &stat)?;
        Ok(Self { path, c_path, name, stat })
    }

    fn failed(&self, errno: Errno) -> Error {
        failed("opening", self.path, errno)
    }

    fn stale(&self) -> Error {
        Error::new(
            Errno::ESTALE,
            format_args!("fifo {:?} was unlinked or replaced while it was opened", self.path),
        )
    }

    /// One non-blocking open; `ENXIO` from the kernel means a writer without reader.
    fn try_open(&self, access: OFlag) -> Result<Option<OwnedFd>> {
        let safe = OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
        let fd = match open_file(&*self.c_path, access | safe, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::ENXIO) => return Ok(None),
            Err(Errno::ENOENT | Errno::ELOOP) => return Err(self.stale()),
            Err(errno) => return Err(self.failed(errno)),
        };
        let now = fstat(&fd).map_err(|errno| self.failed(errno))?;
        if (now.st_dev, now.st_ino) != (self.stat.st_dev, self.stat.st_ino) {
            return Err(self.stale());
        }
        Ok(Some(fd))
    }

    fn open(&self, access: OFlag) -> Result<OwnedFd> {
        self.try_open(access)?.ok_or_else(|| self.failed(Errno::ENXIO))
    }

    fn writer(&self, waiter: &mut Waiter) -> Result<OwnedFd> {
        if let Some(fd) = self.try_open(OFlag::O_WRONLY)? {
            return Ok(fd);
        }
        // The watch stands before the next attempt, so that no event falls between.
        let watch = waiter.may_wait().then(|| Watch::on(self.name.unchecked()).ok()).flatten();
        loop {
            if let Some(fd) = self.try_open(OFlag::O_WRONLY)? {
                return Ok(fd);
            }
            self.wait(waiter, watch.as_ref(), None)?;
        }
    }

    fn reader(&self, waiter: &mut Waiter) -> Result<OwnedFd> {
        let fd = self.open(OFlag::O_RDONLY)?;
        // A writer that asked before, and one that opens without waiting, can go on from here.
        let scratch = pipe2(OFlag::O_CLOEXEC)
            .and_then(|(empty, scratch)| Ok((Kept::new(empty)?, Kept::new(scratch)?)))
            .map_err(|errno| self.failed(errno))?;
        if self.connected(fd.as_fd(), &scratch.1)? {
            return Ok(fd);
        }
        let watch = waiter.may_wait().then(|| Watch::on(self.name.unchecked()).ok()).flatten();
        loop {
            if self.connected(fd.as_fd(), &scratch.1)? {
                return Ok(fd);
            }
            self.wait(waiter, watch.as_ref(), Some(fd.as_fd()))?;
        }
    }

    /// Whether a writer is there, or was there since `fd` was opened: what ends a plain open(2).
    fn connected(&self, fd: BorrowedFd<'_>, scratch: &Kept) -> Result<bool> {
        let found = shows(fd, PollFlags::POLLIN).map_err(|errno| self.failed(errno))?;
        if !found.is_empty() {
            return Ok(true);
        }
        scratch.fd().and_then(|scratch| has_writer(fd, scratch)).map_err(|errno| self.failed(errno))
    }

    /// Waits until the other end may have come; `ESTALE` when it never will.
    fn wait(
        &self,
        waiter: &mut Waiter,
        watch: Option<&Watch>,
        own: Option<BorrowedFd<'_>>,
    ) -> Result<()> {
        // Before the sleep: the name may have gone before the watch stood.
        let links = self.name.fd().and_then(fstat).map_err(|errno| self.failed(errno))?.st_nlink;
        if links == 0 {
            return Err(self.stale());
        }
        let polled = |fd| PollFd::new(fd, PollFlags::POLLIN);
        match (watch, own) {
            // Readers are told of every writer.
            (Some(watch), Some(own)) => {
                waiter.sleep(&mut [polled(watch.as_fd()), polled(own)], LONG)?;
                watch.drain();
                Ok(())
            }
            // A writer is not told of a reader that is itself blocked in open(2): the kernel
            // reports an opening when it is through.
            (Some(watch), None) => {
                waiter.sleep(&mut [polled(watch.as_fd())], UNSEEN)?;
                watch.drain();
                Ok(())
            }
            // inotify is used up, or reading the FIFO, which a watch needs, is not permitted.
            (None, Some(own)) => waiter.pause(&mut [polled(own)]),
            (None, None) => waiter.pause(&mut []),
        }
    }
}

/// `ELOOP` for a symbolic link, `EPROTO` for anything else but a FIFO.
fn require_fifo(path: &Path, stat: &FileStat) -> Result<()> {
    match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFIFO => Ok(()),
        SFlag::S_IFLNK => {
            Err(Error::new(Errno::ELOOP, format_args!("{path:?} is a symbolic link, not a FIFO")))
        }
        _ => Err(Error::new(Errno::EPROTO, format_args!("{path:?} is not a FIFO"))),
    }
}

/// As nix makes one of a long path, but allocated so that it may fail.
fn c_path(path: &Path) -> Result<CString> {
    alloc::c_string(&[path.as_os_str().as_bytes()])
}

fn failed(doing: impl Display, path: &Path, errno: Errno) -> Error {
    Error::from_kernel(errno, format_args!("{doing} fifo {path:?}"))
}
