//! Unix-domain sockets: passing descriptors, and who is at the other end.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, getsockopt, recvmsg, sendmsg, sockopt,
};

/// The byte that a descriptor travels with: a message of no bytes is the end of a stream.
const CARRIER: u8 = b'F';

/// Most descriptors that Linux passes with one message.
const MOST: usize = 253;

/// What came.
pub(crate) enum Came {
    /// This many descriptors; all that exceed one are closed already.
    Descriptors(Option<OwnedFd>, usize),
    /// The other end is closed.
    End,
}

/// Sends a descriptor; never waits, never raises SIGPIPE.
pub(crate) fn send(socket: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> nix::Result<()> {
    let fds = [fd.as_raw_fd()];
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    let rights = [ControlMessage::ScmRights(&fds)];
    let data = [IoSlice::new(&[CARRIER])];
    sendmsg::<()>(socket.as_raw_fd(), &data, &rights, flags, None).map(drop)
}

/// Receives one message; never waits. Descriptors are close-on-exec from the first instant.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> nix::Result<Came> {
    let mut byte = [0_u8];
    let mut data = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!([RawFd; MOST]);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut data, Some(&mut space), flags)?;
    let mut fds: Vec<OwnedFd> = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(came) = control {
            // SAFETY: the kernel has just installed these descriptors for this call alone.
            fds.extend(came.iter().map(|&fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    if message.bytes == 0 && fds.is_empty() {
        return Ok(Came::End);
    }
    let count = fds.len();
    Ok(Came::Descriptors(fds.into_iter().next(), count))
}

/// Who was at the other end when the connection was made, by the kernel's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Process id in this process's PID namespace; 0 if it is in none that is visible here.
    pub pid: u32,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
}

/// Asks the kernel for the peer of a connected socket.
pub(crate) fn peer(socket: BorrowedFd<'_>) -> nix::Result<Peer> {
    let found = getsockopt(&socket, sockopt::PeerCredentials)?;
    // -1: nobody was ever connected.
    if found.uid() == u32::MAX {
        return Err(Errno::ENOTCONN);
    }
    Ok(Peer { pid: found.pid().unsigned_abs(), uid: found.uid(), gid: found.gid() })
}
