//! `madang/fd.h`: descriptors passed to another process.
//!
//! A segment or a ring without a name reaches a process that is no child by its descriptor, sent over
//! a connected Unix-domain socket (socketpair(2), or accept(2) and connect(2) on AF_UNIX). Sealed
//! memory cannot be truncated by whoever has it, which is the form for peers that do not trust each
//! other: mdg_shm_anonymous or an anonymous ring on one side, MDG_SEALED on the other.

use std::ffi::c_int;
use std::os::fd::{BorrowedFd, IntoRawFd};

use nix::errno::Errno;

use super::guard::guard;
use crate::error::{Error, Result};
use crate::fd;
use crate::time::Timeout;

/// Who was at the other end of a socket when it was connected, by the kernel's word.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct mdg_fd_peer {
    /// Process id, in the caller's PID namespace; 0 if the process is not visible there.
    pub pid: u32,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
}

fn borrowed<'a>(fd: c_int, what: &str) -> Result<BorrowedFd<'a>> {
    if fd < 0 {
        return Err(Error::new(Errno::EBADF, format_args!("{what}: descriptor {fd}")));
    }
    // SAFETY: not -1; the kernel says EBADF if it is not open, and it is borrowed for this call.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// Sends the descriptor `fd` over `socket`, waiting for room at most `timeout_ns` nanoseconds of
/// monotonic time (MDG_NOWAIT: not at all, MDG_FOREVER: without limit). The receiver gets a descriptor
/// of its own for the same open file; the caller keeps `fd`, and may close it at once. One byte
/// travels with it, so on a stream socket do not mix this with other data.
///
/// Returns 0, or: -EAGAIN · -ETIMEDOUT · -EINTR · -EPIPE (nobody is at the other end; never SIGPIPE) ·
/// -EBADF · -EPROTO (`socket` is not a connected Unix-domain socket) · -EMFILE (too many descriptors of
/// this user are on their way) · -ENOMEM. Thread-safe; not async-signal-safe.
#[unsafe(no_mangle)]
pub extern "C" fn mdg_fd_send(socket: c_int, fd: c_int, timeout_ns: i64) -> c_int {
    guard(|| {
        let (socket, fd) = (borrowed(socket, "mdg_fd_send")?, borrowed(fd, "mdg_fd_send")?);
        fd::send(socket, fd, Timeout::from_nanos(timeout_ns)).map(|()| 0)
    })
}

/// Receives a descriptor that mdg_fd_send has sent, waiting for it at most `timeout_ns` nanoseconds of
/// monotonic time. It is close-on-exec, and the caller's to close. `*peer`, unless `peer` is NULL,
/// receives who was at the other end when the connection was made (SO_PEERCRED): a process may since
/// have handed its end on.
///
/// Returns the descriptor, 0 or more, or: -EAGAIN · -ETIMEDOUT · -EINTR · -EPIPE (the other end is
/// closed, or was never connected) · -EPROTO (not a Unix-domain socket, or a message without exactly
/// one descriptor, which is taken off the socket and its descriptors closed) · -EMFILE (no descriptor
/// free here: the message is lost) · -EBADF · -ENOMEM; `*peer` is untouched then. Thread-safe; not
/// async-signal-safe.
///
/// # Safety
/// `peer` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_fd_receive(
    socket: c_int,
    peer: *mut mdg_fd_peer,
    timeout_ns: i64,
) -> c_int {
    guard(|| {
        let socket = borrowed(socket, "mdg_fd_receive")?;
        let (fd, found) = fd::receive(socket, Timeout::from_nanos(timeout_ns))?;
        if !peer.is_null() {
            let found = mdg_fd_peer { pid: found.pid, uid: found.uid, gid: found.gid };
            // SAFETY: not NULL, so writable by the caller's promise.
            unsafe { peer.write(found) };
        }
        Ok(fd.into_raw_fd())
    })
}
