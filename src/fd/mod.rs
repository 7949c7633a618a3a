#![forbid(unsafe_code)]
//! Descriptors passed to another process over a connected Unix-domain socket: how a sealed segment,
//! or a ring in one, reaches a process that knows no name of it.

use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};

use crate::error::{Error, Result};
use crate::sync::descriptor::{LONG, Waiter};
pub use crate::sys::socket::Peer;
use crate::sys::socket::{self, Came};
use crate::time::Timeout;

fn refused(errno: Errno, what: &str) -> Error {
    let errno = match errno {
        // Somebody reset the connection with descriptors on their way.
        Errno::ECONNRESET => Errno::EPIPE,
        Errno::ENOTCONN => Errno::EPIPE,
        // Too many descriptors are on their way already (a limit per user).
        Errno::ETOOMANYREFS => Errno::EMFILE,
        Errno::ENOTSOCK | Errno::EOPNOTSUPP | Errno::EAFNOSUPPORT | Errno::EINVAL => Errno::EPROTO,
        errno => errno,
    };
    Error::from_kernel(errno, what)
}

/// Repeats `attempt` until it does not answer that it would have to wait.
fn wait_for<T>(
    socket: BorrowedFd<'_>,
    events: PollFlags,
    timeout: Timeout,
    what: &str,
    mut attempt: impl FnMut() -> nix::Result<T>,
) -> Result<T> {
    let mut waiter = Waiter::new(timeout);
    loop {
        match attempt() {
            Ok(done) => return Ok(done),
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) if !waiter.may_wait() => return Err(Error::would_block()),
            Err(Errno::EAGAIN) => waiter.sleep(&mut [PollFd::new(socket, events)], LONG)?,
            Err(errno) => return Err(refused(errno, what)),
        }
    }
}

/// Sends `fd` to the process at the other end of `socket`, which gets a descriptor of its own for
/// the same thing. `EPIPE` when nobody is there any more, and never a SIGPIPE.
pub fn send(socket: BorrowedFd<'_>, fd: BorrowedFd<'_>, timeout: Timeout) -> Result<()> {
    let what = "sending a descriptor";
    wait_for(socket, PollFlags::POLLOUT, timeout, what, || socket::send(socket, fd))
}

/// Receives one descriptor, close-on-exec, and says who the kernel knows at the other end.
///
/// `EPIPE` when the other end is closed; `EPROTO` when a message came that does not carry exactly
/// one descriptor: it is taken off the socket, and what it carried is closed.
pub fn receive(socket: BorrowedFd<'_>, timeout: Timeout) -> Result<(OwnedFd, Peer)> {
    let what = "receiving a descriptor";
    let peer = socket::peer(socket).map_err(|errno| refused(errno, what))?;
    match wait_for(socket, PollFlags::POLLIN, timeout, what, || socket::receive(socket))? {
        Came::End => Err(Error::new(Errno::EPIPE, format_args!("{what}: the other end is closed"))),
        Came::Descriptors(Some(fd), 1) => Ok((fd, peer)),
        Came::Descriptors(_, count) => Err(Error::new(
            Errno::EPROTO,
            format_args!("{what}: a message with {count} descriptors came (pid {})", peer.pid),
        )),
    }
}
