//! Rings in the caller's own memory, and rings as descriptors.

use std::ffi::c_int;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd};
use std::sync::PoisonError;

use nix::errno::Errno;

use super::super::args;
use super::super::guard::guard;
use super::super::shm::{MDG_SEALED, mdg_shm};
use super::open::{access, options};
use super::{mdg_ring, mdg_ring_opts, returned};
use crate::error::{Error, Result};
use crate::flags::Access;
use crate::ring::{Options, Ring};
use crate::shm::{Seals, Shm};

/// Bytes that a ring with these options takes up in a segment: a multiple of 4096. `opts` needs
/// capacity and item_size.
///
/// Returns the bytes, or: -EINVAL (NULL, no capacity or item_size, an unknown kind or policy) ·
/// -E2BIG · -EOVERFLOW (larger than any memory). Thread-safe; async-signal-safe as long as it succeeds.
///
/// # Safety
/// `opts` is NULL or begins with its size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_footprint(opts: *const mdg_ring_opts) -> libc::ssize_t {
    guard(|| {
        // SAFETY: the caller's promise; integers only.
        let opts = unsafe { args::options(opts, "mdg_ring_opts") }?;
        Ring::footprint(&options(opts)?).map(returned)
    })
}

/// Makes a ring inside a segment: at `offset`, a multiple of 4096, where mdg_ring_footprint bytes are
/// free for it. Many rings, and other data, can so share one segment and one descriptor. What was in
/// that place is overwritten, unless it is a ring that living handles use.
///
/// `*ring` receives a handle; `oflag` is O_WRONLY, O_RDONLY or O_RDWR, as in mdg_ring_open. Others
/// find the ring by mdg_ring_attach on their own mapping of the segment, complete or not at all. The
/// handle may outlive `shm`, whose descriptor it keeps; the segment must not be resized to end before
/// the ring does, which is SIGBUS for everyone who uses it. Permissions are the segment's: every
/// handle needs read and write.
///
/// Returns 0, or: -EINVAL (NULL, an offset that is no multiple of 4096, no capacity or item_size,
/// an unknown kind, policy or oflag bit) · -E2BIG · -EBADF · -ENOSPC (the segment ends before the
/// ring) · -EBUSY (living handles use a ring there, or another process is making one) · -EACCES
/// (`shm` is read-only) · -EPROTO (`shm` is a device) · -EOVERFLOW · -EMFILE (no descriptor, or
/// others attached to all max_handles first) · -ENFILE · -ENOMEM · -ENOSYS (/proc is not mounted,
/// and the segment has no name). Nothing is held then, and a ring that is in use is as it was.
/// Thread-safe; not async-signal-safe.
///
/// # Safety
/// `ring` is NULL or writable; `shm` is NULL or a handle; `opts` is NULL or begins with its size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_init(
    ring: *mut *mut mdg_ring,
    shm: *const mdg_shm,
    offset: usize,
    opts: *const mdg_ring_opts,
    oflag: c_int,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        in_segment(ring, shm, opts, oflag, |shm, opts, access| {
            Ring::init(shm, offset, opts, access)
        })
    }
}

/// Opens the ring that mdg_ring_init has made at `offset` of a segment, which may be mapped at another
/// address here. `opts` and `oflag` as in mdg_ring_open for a ring that exists.
///
/// Returns 0, or: -EPROTO (no ring is there, or not complete yet; another layout or geometry; larger
/// than the segment) · -EBUSY (a living process has that end) · -ESTALE (another ring is being made in
/// its place) · -EBADMSG · -EMFILE (no descriptor, or max_handles are open), or what mdg_ring_init
/// returns but -ENOSPC. Thread-safe; not async-signal-safe.
///
/// # Safety
/// `ring` is NULL or writable; `shm` is NULL or a handle; `opts` is NULL or begins with its size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_attach(
    ring: *mut *mut mdg_ring,
    shm: *const mdg_shm,
    offset: usize,
    opts: *const mdg_ring_opts,
    oflag: c_int,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        in_segment(ring, shm, opts, oflag, |shm, opts, access| {
            Ring::attach_to(shm, offset, opts, access)
        })
    }
}

/// Opens the ring whose memory `fd` refers to, such as one that mdg_fd_receive gave: what
/// mdg_ring_memory returned in another process. The descriptor is duplicated; the caller closes its own.
///
/// `oflag` is O_WRONLY, O_RDONLY or O_RDWR as in mdg_ring_open; with MDG_SEALED the descriptor is refused
/// unless it is sealed against shrinking, so that its sender cannot make this process fault by
/// truncating it. Anonymous rings are sealed. `opts` as in mdg_ring_open for a ring that exists.
///
/// Returns 0, or: -EINVAL (NULL, other oflag bits) · -E2BIG · -EBADF · -EPROTO (not a ring, another
/// layout or geometry, not sealed as required) · -EBUSY (a living process has that end) · -EBADMSG
/// · -EACCES (descriptor not open for reading and writing, or its file may not be opened again) ·
/// -EMFILE · -ENFILE · -ENOMEM · -ENOSYS (/proc is not mounted). Thread-safe; not
/// async-signal-safe.
///
/// # Safety
/// `ring` is NULL or writable; `opts` is NULL or begins with its size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_from_fd(
    ring: *mut *mut mdg_ring,
    fd: c_int,
    opts: *const mdg_ring_opts,
    oflag: c_int,
) -> c_int {
    guard(|| {
        let what = "mdg_ring_from_fd";
        let out = args::blank(ring, "mdg_ring_from_fd: ring")?;
        // SAFETY: the caller's promise; integers only.
        let options = options(unsafe { args::options(opts, "mdg_ring_opts") }?)?;
        let access = access(oflag & !MDG_SEALED, what)?;
        let seals = if oflag & MDG_SEALED != 0 { Seals::Required } else { Seals::Unchecked };
        if fd < 0 {
            return Err(Error::new(Errno::EBADF, format_args!("{what}: descriptor {fd}")));
        }
        // SAFETY: not -1; the kernel says EBADF if it is not open, and it is borrowed for this call.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let made = Ring::from_fd(fd, &options, access, seals)?;
        // SAFETY: checked above.
        unsafe { out.give(made) };
        Ok(0)
    })
}

/// The descriptor of the ring's memory, to be passed to another process by mdg_fd_send. It belongs to
/// the handle: do not close it.
///
/// Returns the descriptor, or: -EINVAL (NULL, or a ring in a segment: pass the segment) ·
/// -EBADF (also: the program has closed this descriptor, or has another file under its number).
/// Thread-safe; async-signal-safe as long as it succeeds.
///
/// # Safety
/// `ring` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_memory(ring: *const mdg_ring) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let memory = unsafe { args::handle(ring) }?.memory()?;
        let in_segment = || Error::new(Errno::EINVAL, "mdg_ring_memory: the ring is in a segment");
        Ok(memory.ok_or_else(in_segment)?.as_raw_fd())
    })
}

/// Makes a descriptor of the ring's memory that can be read and not written, for subscribers that are
/// not trusted: send it by mdg_fd_send, and close it. They open it by mdg_ring_from_fd with O_RDONLY.
/// For a broadcast with MDG_RING_OVERWRITE, whose consumers need not write.
///
/// The kernel lets a process open a descriptor anew for writing if the permission bits of the file
/// allow it. For a named ring the bits are those that it was made with. An anonymous ring gets the bits
/// 0600 from this call: processes of other users keep the handles that they have and can make no
/// new ones for writing, also in children after a change of the user. Processes of the same user are not
/// kept apart.
///
/// Returns a new descriptor, 0 or more, which is close-on-exec and the caller's. On failure:
///   -EINVAL  NULL, another kind of ring, or a ring in a segment
///   -EBADF   not a live handle, or its descriptor was closed by the program
///   -EACCES  the file may not be opened; an anonymous ring that another user has made
///   -ENOSYS  an anonymous ring, and /proc is not mounted
///   -EMFILE, -ENFILE, -ENOMEM
/// Thread-safe; not async-signal-safe.
///
/// # Safety
/// `ring` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_memory_readonly(ring: *const mdg_ring) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let memory = unsafe { args::handle(ring) }?.memory_for_reading()?;
        Ok(memory.into_raw_fd())
    })
}

/// # Safety
/// As for [`mdg_ring_init`].
unsafe fn in_segment(
    ring: *mut *mut mdg_ring,
    shm: *const mdg_shm,
    opts: *const mdg_ring_opts,
    oflag: c_int,
    make: impl FnOnce(&Shm, &Options, Access) -> Result<Ring>,
) -> c_int {
    guard(|| {
        let out = args::blank(ring, "ring in a segment: ring")?;
        // SAFETY: the caller's promise; integers only.
        let options = options(unsafe { args::options(opts, "mdg_ring_opts") }?)?;
        let access = access(oflag, "ring in a segment")?;
        // SAFETY: the caller's promise.
        let shm = unsafe { args::handle(shm) }?;
        let shm = shm.read().unwrap_or_else(PoisonError::into_inner);
        let made = make(&shm, &options, access)?;
        // SAFETY: checked above.
        unsafe { out.give(made) };
        Ok(0)
    })
}
