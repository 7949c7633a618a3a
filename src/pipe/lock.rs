#![forbid(unsafe_code)]
//! Whose turn it is to write messages into a pipe.
//!
//! A message of one chunk is one atomic write; its sender takes the pipe's lock shared, so that
//! small senders never wait for one another. A message of many chunks takes it exclusively. The
//! lock is flock(2) on an open file description made for this one message: it therefore excludes
//! threads and forked processes alike, and the kernel takes it back when its holder dies.

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};

use super::end::{Direction, End};
use crate::error::{Error, Result};
use crate::sync::descriptor::{Waiter, shows};
use crate::sys::pipe as sys;

/// The right to write one message; given back on drop.
pub(super) struct Turn<'fd> {
    pub(super) end: End<'fd>,
    /// The descriptor whose process-wide record lock is held, when the pipe could not be reopened
    /// and `end` is therefore the caller's own descriptor.
    record: Option<BorrowedFd<'fd>>,
}

impl<'fd> Turn<'fd> {
    /// Waits for the turn to write a message of one chunk, or of `many`.
    pub(super) fn take(fd: BorrowedFd<'fd>, many: bool, waiter: &mut Waiter) -> Result<Self> {
        match sys::reopen(fd, libc::O_WRONLY) {
            Ok(own) => {
                let end = End::private(fd, Direction::Write, own);
                let operation = if many { libc::LOCK_EX } else { libc::LOCK_SH };
                wait_for(&end, waiter, |lock| sys::flock(lock, operation | libc::LOCK_NB))?;
                Ok(Self { end, record: None })
            }
            // What the kernel says to a writer who comes when there is no reader.
            Err(Errno::ENXIO) => Err(End::new(fd, Direction::Write).error(Errno::EPIPE)),
            // Resources: not a reason to fall back on a lock that excludes less.
            Err(errno @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM)) => {
                Err(Error::from_kernel(
                    errno,
                    format_args!("reopening descriptor {} for a message", fd.as_raw_fd()),
                ))
            }
            Err(_) => {
                let end = End::new(fd, Direction::Write);
                wait_for(&end, waiter, |lock| sys::record_lock(lock, true))?;
                Ok(Self { end, record: Some(fd) })
            }
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Said aloud: a process forked meanwhile by another thread shares the open file
        // description, and closing our descriptor alone would leave the lock with it. Failure
        // has no remedy; closing or dying releases what is ours alone.
        let _ = match self.record {
            Some(fd) => sys::record_lock(fd, false),
            None => sys::flock(self.end.as_fd(), libc::LOCK_UN),
        };
    }
}

/// Tries for a lock in growing intervals: there is no lock call with a timeout.
fn wait_for(
    end: &End<'_>,
    waiter: &mut Waiter,
    attempt: impl Fn(BorrowedFd<'_>) -> nix::Result<()>,
) -> Result<()> {
    loop {
        match attempt(end.as_fd()) {
            Ok(()) => return Ok(()),
            Err(Errno::EAGAIN) => {}
            Err(errno) => return Err(end.error(errno)),
        }
        // Asked for nothing, poll(2) still tells that the last reader has gone; the holder of
        // the lock may be stopped and never notice.
        let gone = shows(end.as_fd(), PollFlags::empty()).map_err(|errno| end.error(errno))?;
        if gone.contains(PollFlags::POLLERR) {
            return Err(end.error(Errno::EPIPE));
        }
        waiter.pause(&mut [PollFd::new(end.as_fd(), PollFlags::empty())])?;
    }
}

/// Whether somebody is in the middle of a message of many chunks; `None`: cannot be told.
pub(super) fn is_held(fd: BorrowedFd<'_>) -> Option<bool> {
    let own = sys::reopen(fd, libc::O_RDONLY).ok()?;
    match own.fd().and_then(|own| sys::flock(own, libc::LOCK_SH | libc::LOCK_NB)) {
        Err(Errno::EAGAIN) => Some(true),
        Err(_) => None,
        Ok(()) => {
            // Before the close, for the reason given in `Turn::drop`.
            let _ = own.fd().and_then(|own| sys::flock(own, libc::LOCK_UN));
            sys::record_locked(fd).ok()
        }
    }
}
