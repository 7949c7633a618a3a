#![forbid(unsafe_code)]
//! Pipes and FIFOs with timeouts, without SIGPIPE, and with messages.
//!
//! Everything here works on plain file descriptors: read(2), write(2), poll(2) and close(2) go on
//! working beside it, and the descriptors may come from anywhere.
//!
//! ```
//! use madang::{Timeout, pipe};
//! use std::os::fd::AsFd;
//!
//! let (read, write) = pipe::open(pipe::OnExec::Close)?;
//! pipe::send(write.as_fd(), b"hello", Timeout::Forever)?;
//! let mut buf = [0; 16];
//! let len = pipe::receive(read.as_fd(), &mut buf, Timeout::Forever)?;
//! assert_eq!(&buf[..len], b"hello");
//! # Ok::<(), madang::Error>(())
//! ```

mod end;
mod fifo;
mod lock;
mod message;
mod receive;
mod stream;

use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;

use crate::error::{Error, Result};

pub use fifo::{create as fifo_create, open as fifo_open, unlink as fifo_unlink};
pub use message::{MESSAGE_MAX, send};
pub use receive::receive;
pub use stream::{read, read_full, write};

/// What becomes of a new descriptor when the process executes another program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExec {
    /// It is closed.
    Close,
    /// It stays open.
    Keep,
}

/// One side of a two-way connection.
#[derive(Debug)]
pub struct Side {
    /// What the other side writes arrives here.
    pub read: OwnedFd,
    /// What is written here arrives at the other side.
    pub write: OwnedFd,
}

/// Makes a pipe: the reading end, the writing end.
pub fn open(on_exec: OnExec) -> Result<(OwnedFd, OwnedFd)> {
    let flags = match on_exec {
        OnExec::Close => OFlag::O_CLOEXEC,
        OnExec::Keep => OFlag::empty(),
    };
    nix::unistd::pipe2(flags).map_err(|errno| Error::from_kernel(errno, "making a pipe"))
}

/// Makes two pipes, one for each way between a parent and a child; all four ends or none.
pub fn pair(on_exec: OnExec) -> Result<(Side, Side)> {
    let (parent_read, child_write) = open(on_exec)?;
    let (child_read, parent_write) = open(on_exec)?;
    let parent = Side { read: parent_read, write: parent_write };
    let child = Side { read: child_read, write: child_write };
    Ok((parent, child))
}
