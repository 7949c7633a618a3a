//! Unix-domain sockets: passing descriptors, and who is at the other end.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};

/// The byte that a descriptor travels with: a message of no bytes is the end of a stream.
const CARRIER: u8 = b'F';

/// Most descriptors that Linux passes with one message.
const MOST: usize = 253;

/// A control message of Linux 6.5: one descriptor.
const SCM_PIDFD: libc::c_int = 4;

/// What came.
pub(crate) enum Came {
    /// This many descriptors; all that exceed one are closed already.
    Descriptors(Option<OwnedFd>, usize),
    /// The other end is closed.
    End,
}

/// Sends a descriptor; never waits, never raises SIGPIPE.
///
/// Not by nix's `sendmsg`, which allocates.
pub(crate) fn send(socket: BorrowedFd<'_>, fd: BorrowedFd<'_>) -> nix::Result<()> {
    let mut byte = [CARRIER];
    let mut data = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: byte.len() };
    let mut space = [0_u64; SPACE_FOR_ONE];
    let length = size_of::<RawFd>() as u32;
    // SAFETY: a plain structure.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut data;
    message.msg_iovlen = 1;
    message.msg_control = space.as_mut_ptr().cast();
    // SAFETY: arithmetic.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(length) } as _;
    // SAFETY: `space` has room for one control message, see below, so it is not NULL and can be
    // written, as can the descriptor's number in it.
    unsafe {
        let control = libc::CMSG_FIRSTHDR(&raw const message);
        (*control).cmsg_level = libc::SOL_SOCKET;
        (*control).cmsg_type = libc::SCM_RIGHTS;
        (*control).cmsg_len = libc::CMSG_LEN(length) as _;
        libc::CMSG_DATA(control).cast::<RawFd>().write_unaligned(fd.as_raw_fd());
    }
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: both buffers are readable for the lengths given.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) };
    Errno::result(sent).map(drop)
}

/// Room for the control message of that many, in words, so that it is aligned.
const SPACE: usize = 132;

/// The same for one descriptor.
const SPACE_FOR_ONE: usize = 4;

const _: () = {
    // SAFETY: arithmetic.
    assert!(unsafe { libc::CMSG_SPACE(size_of::<RawFd>() as u32) } as usize <= SPACE_FOR_ONE * 8);
    // SAFETY: arithmetic.
    assert!(unsafe { libc::CMSG_SPACE((MOST * size_of::<RawFd>()) as u32) } as usize <= SPACE * 8);
};

/// Receives one message; never waits. Descriptors are close-on-exec from the first instant. `EMFILE`:
/// not all that came could be opened here; those that could are closed.
///
/// Not by nix's `recvmsg`, which gives no way to close what a message cut short has brought.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> nix::Result<Came> {
    let mut byte = [0_u8];
    let mut data = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: byte.len() };
    let mut space = [0_u64; SPACE];
    // SAFETY: a plain structure.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut data;
    message.msg_iovlen = 1;
    message.msg_control = space.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&space) as _;
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: both buffers are writable for the lengths given, and outlive the call.
    let bytes = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let bytes = Errno::result(bytes)?;
    let (mut first_fd, mut count) = (None, 0);
    // SAFETY: the kernel has filled in `message`, whose control messages lie in `space`; the
    // descriptors in it were installed just now for this call alone.
    unsafe {
        let mut control = libc::CMSG_FIRSTHDR(&raw const message);
        while !control.is_null() {
            let header = control.read();
            if (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
                let len = (header.cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
                let first = libc::CMSG_DATA(control).cast::<RawFd>();
                let came = (0..len / size_of::<RawFd>()).map(|i| first.add(i).read_unaligned());
                for fd in came.map(|fd| OwnedFd::from_raw_fd(fd)) {
                    count += 1;
                    // All others are closed here.
                    first_fd.get_or_insert(fd);
                }
            }
            // A socket with SO_PASSPIDFD: who sent it, as a descriptor that nobody asked for.
            if (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, SCM_PIDFD) {
                let fd = libc::CMSG_DATA(control).cast::<RawFd>().read_unaligned();
                drop((fd >= 0).then(|| OwnedFd::from_raw_fd(fd)));
            }
            control = libc::CMSG_NXTHDR(&raw const message, control);
        }
    }
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(Errno::EMFILE);
    }
    if bytes == 0 && count == 0 {
        return Ok(Came::End);
    }
    Ok(Came::Descriptors(first_fd, count))
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
