#![forbid(unsafe_code)]
//! One end of a pipe for the length of one call: attempts that do not wait, whatever O_NONBLOCK
//! says, and the wait between them. The flags of the caller's descriptor are never changed, for
//! they belong to every holder of it.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags};
use nix::sys::stat::{SFlag, fstat};

use crate::error::{Error, Result};
use crate::sync::descriptor::{LONG, Waiter, shows};
use crate::sys::file;
use crate::sys::kept::Kept;
use crate::sys::pipe as sys;

/// Writes of at most this many bytes are never split or interleaved; the Linux value.
pub(super) const PIPE_BUF: usize = 4096;
/// Attempts that may fail in a row although poll(2) promised, before something else is tried.
const MISSES: u32 = 8;

/// Which end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Read,
    Write,
}

/// How to attempt without waiting, in the order of preference.
enum Way {
    /// A flag of the call: pipe(2) pipes on Linux 6.4 and later.
    Flag,
    /// The descriptor is non-blocking already.
    Own,
    /// A private non-blocking open file description of the same pipe.
    Private(Kept),
    /// poll(2), then the blocking call: another reader or writer can come in between.
    Polled,
}

/// One end of a pipe, borrowed for one call.
pub(super) struct End<'fd> {
    fd: BorrowedFd<'fd>,
    direction: Direction,
    way: Way,
    /// Attempts in a row that had to wait.
    misses: u32,
    /// Whether it is a pipe or a socket, which have no size that could be limited; `None` if that
    /// was not asked yet.
    unlimited: Option<bool>,
}

impl<'fd> End<'fd> {
    pub(super) fn new(fd: BorrowedFd<'fd>, direction: Direction) -> Self {
        Self { fd, direction, way: Way::Flag, misses: 0, unlimited: None }
    }

    /// The end behind a private open file description that the caller made of `fd`.
    pub(super) fn private(fd: BorrowedFd<'fd>, direction: Direction, own: Kept) -> Self {
        Self { fd, direction, way: Way::Private(own), misses: 0, unlimited: Some(true) }
    }

    /// The descriptor that the attempts are made on.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.way {
            Way::Private(own) => own.unchecked(),
            _ => self.fd,
        }
    }

    /// Whether the descriptor is open in this direction; its status flags.
    fn check(&self) -> nix::Result<OFlag> {
        let flags = OFlag::from_bits_retain(fcntl(self.fd, FcntlArg::F_GETFL)?);
        let wrong = match self.direction {
            Direction::Read => OFlag::O_WRONLY,
            Direction::Write => OFlag::O_RDONLY,
        };
        if flags.contains(OFlag::O_PATH) || flags & OFlag::O_ACCMODE == wrong {
            return Err(Errno::EBADF);
        }
        Ok(flags)
    }

    /// Whether the descriptor is open in this direction: `EBADF`.
    pub(super) fn require_open(&self) -> Result<()> {
        self.check().map(drop).map_err(|errno| self.error(errno))
    }

    /// Whether the descriptor is a pipe, open in this direction: `EPROTO`, `EBADF`.
    pub(super) fn require_pipe(&self) -> Result<()> {
        self.require_open()?;
        if is_fifo(self.fd).map_err(|errno| self.error(errno))? {
            return Ok(());
        }
        Err(Error::new(
            Errno::EPROTO,
            format_args!("descriptor {} is not a pipe or FIFO", self.fd.as_raw_fd()),
        ))
    }

    /// Finds the way that works when the flag of the call does not.
    fn settle(&mut self) -> nix::Result<()> {
        let flags = self.check()?;
        let access = match self.direction {
            Direction::Read => libc::O_RDONLY,
            Direction::Write => libc::O_WRONLY,
        };
        self.way = if flags.contains(OFlag::O_NONBLOCK) {
            Way::Own
        } else if is_fifo(self.fd)? {
            match sys::reopen(self.fd, access) {
                Ok(own) => Way::Private(own),
                Err(Errno::ENXIO) => return Err(Errno::EPIPE),
                Err(_) => Way::Polled,
            }
        } else {
            // A second open file description of anything else would have its own position.
            Way::Polled
        };
        Ok(())
    }

    /// Reads what is there; `EAGAIN` when nothing is.
    pub(super) fn read(&mut self, buf: &mut [u8]) -> nix::Result<usize> {
        loop {
            let answer = match &self.way {
                Way::Flag => sys::read_nowait(self.fd, buf),
                Way::Own => sys::read(self.fd, buf),
                Way::Private(own) => own.fd().and_then(|own| sys::read(own, buf)),
                Way::Polled => self.look().and_then(|()| sys::read(self.fd, buf)),
            };
            match answer {
                Err(errno) if self.by_flag() && sys::is_unsupported(errno) => self.settle()?,
                Ok(count) => {
                    self.misses = 0;
                    return Ok(count);
                }
                other => return other,
            }
        }
    }

    /// Writes what fits, at most all; `EAGAIN` when nothing does. Up to PIPE_BUF bytes go all or
    /// not at all.
    pub(super) fn write(&mut self, data: &[u8]) -> nix::Result<usize> {
        let write = if self.is_unlimited() { sys::write } else { sys::write_limited };
        loop {
            let answer = match &self.way {
                Way::Flag => write(self.fd, data, true),
                Way::Own => write(self.fd, data, false),
                Way::Private(own) => own.fd().and_then(|own| write(own, data, false)),
                // Room for PIPE_BUF bytes is all that POLLOUT promises.
                Way::Polled => {
                    let fits = &data[..data.len().min(PIPE_BUF)];
                    self.look().and_then(|()| write(self.fd, fits, false))
                }
            };
            match answer {
                Err(errno) if self.by_flag() && sys::is_unsupported(errno) => self.settle()?,
                Ok(count) => {
                    self.misses = 0;
                    return Ok(count);
                }
                other => return other,
            }
        }
    }

    fn is_unlimited(&mut self) -> bool {
        let fd = self.fd;
        *self.unlimited.get_or_insert_with(|| {
            kind(fd).is_ok_and(|kind| kind == SFlag::S_IFIFO || kind == SFlag::S_IFSOCK)
        })
    }

    fn by_flag(&self) -> bool {
        matches!(self.way, Way::Flag)
    }

    /// What poll(2) is asked for.
    fn events(&self) -> PollFlags {
        match self.direction {
            Direction::Read => PollFlags::POLLIN,
            Direction::Write => PollFlags::POLLOUT,
        }
    }

    /// `EAGAIN` unless poll(2) says that the call would not wait.
    fn look(&self) -> nix::Result<()> {
        match shows(self.as_fd(), self.events())? {
            found if found.is_empty() => Err(Errno::EAGAIN),
            _ => Ok(()),
        }
    }

    /// For poll(2).
    pub(super) fn poll_fd(&self) -> PollFd<'_> {
        PollFd::new(self.as_fd(), self.events())
    }

    /// Waits, after an attempt said `EAGAIN`, until the next is worth making.
    pub(super) fn wait(&mut self, waiter: &mut Waiter) -> Result<()> {
        self.misses += 1;
        if !waiter.may_wait() {
            // An attempt can fail by a hair although there is something: then once more.
            let again = self.misses <= MISSES && self.look().is_ok();
            return if again { Ok(()) } else { Err(Error::would_block()) };
        }
        if self.misses > MISSES {
            // Others are always quicker, or poll(2) and the flag do not agree on this file.
            if self.by_flag() {
                self.settle().map_err(|errno| self.error(errno))?;
            }
            waiter.pause(&mut [])?;
        }
        waiter.sleep(&mut [self.poll_fd()], LONG)
    }

    /// The error for what the kernel said about this end.
    pub(super) fn error(&self, errno: Errno) -> Error {
        match errno {
            Errno::EAGAIN => Error::would_block(),
            Errno::EPIPE => Error::new(errno, "the pipe has no reader any more"),
            Errno::EFBIG => {
                file::too_large(format_args!("writing to descriptor {}", self.fd.as_raw_fd()))
            }
            _ => {
                let what = match self.direction {
                    Direction::Read => "reading from",
                    Direction::Write => "writing to",
                };
                Error::from_kernel(errno, format_args!("{what} descriptor {}", self.fd.as_raw_fd()))
            }
        }
    }
}

/// Whether a descriptor is a pipe or FIFO.
fn is_fifo(fd: BorrowedFd<'_>) -> nix::Result<bool> {
    kind(fd).map(|kind| kind == SFlag::S_IFIFO)
}

fn kind(fd: BorrowedFd<'_>) -> nix::Result<SFlag> {
    fstat(fd).map(|status| SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT)
}
