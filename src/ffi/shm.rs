//! `madang/shm.h`: shared-memory segments.
//!
//! A segment is memory that processes share: by name, by descriptor, through a file, or inherited by
//! children. A named one is a plain POSIX object without any header of ours.

use std::ffi::{c_char, c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::{PoisonError, RwLock};

use nix::errno::Errno;

use super::args::{self, Opaque};
use super::base::MDG_INHERIT;
use super::guard::{guard, guard_or, guard_void, keeping_errno};
use crate::error::{Error, Result};
use crate::flags::Creation;
use crate::shm::{Seals, Shm};
use crate::sys::cancel;

/// Bit of oflag in mdg_shm_from_fd: refuse a descriptor that is not sealed against shrinking.
pub const MDG_SEALED: c_int = 0x4000_0000;

/// A mapped shared-memory segment. Free-threaded: any thread may use it at any time, but for
/// mdg_shm_resize and mdg_shm_close, which need it alone. After fork(2) parent and child share the
/// bytes and each closes its own handle; nothing survives execve(2) but what is opened again.
#[allow(non_camel_case_types)]
pub struct mdg_shm {
    _opaque: [u8; 0],
}

impl Opaque for mdg_shm {
    // The lock orders a resize against readers of the address; it is never held while waiting.
    type Inner = RwLock<Shm>;
    const TAG: u64 = u64::from_le_bytes(*b"mdg:shm:");
    const NAME: &'static str = "mdg_shm";
}

/// # Safety
/// As for `args::handle`.
unsafe fn with<T>(shm: *const mdg_shm, read: impl FnOnce(&Shm) -> Result<T>) -> Result<T> {
    // SAFETY: passed on to the caller.
    let shm = unsafe { args::handle(shm) }?;
    read(&shm.read().unwrap_or_else(PoisonError::into_inner))
}

/// Opens, or makes, the shared-memory segment `name`: a plain POSIX object, /dev/shm/NAME, that
/// programs using shm_open(3), ftruncate(2) and mmap(2) share with this library in both directions.
///
/// `*shm` receives a handle to be closed with mdg_shm_close. `oflag` is O_RDONLY (mapped read-only:
/// a store is SIGSEGV) or O_RDWR. With O_RDWR, O_CREAT makes it when it is missing, and O_EXCL in
/// addition fails when it is there; O_CREAT with O_RDONLY is -EINVAL. `mode` gives its permissions,
/// trimmed by the umask.
///
/// Making it: `size` bytes exactly, zero-filled, memory reserved at once; it appears complete or not
/// at all, and of two makers at once with O_EXCL exactly one wins. Opening what exists: `size` 0
/// maps all of it, a smaller size its beginning.
///
/// Returns 0, or: -EINVAL (NULL, a bad name, O_WRONLY, O_CREAT with O_RDONLY, an unknown oflag or
/// mode bit, size 0 where it must be made) · -ENAMETOOLONG · -ENOENT · -EEXIST · -EACCES · -ELOOP (a
/// symbolic link under the name) · -EPROTO (smaller than `size`, empty, or not a regular file) ·
/// -EOVERFLOW (size beyond what files can have) · -ENOSPC (/dev/shm is full, or the machine's memory)
/// · -ENOMEM (no address space) · -EMFILE · -ENFILE · -EROFS (/dev/shm is read-only) · -ESTALE
/// (others removed and made it again all the time).
///
/// Thread-safe; not async-signal-safe. The name stays until mdg_shm_unlink.
///
/// # Safety
/// `shm` is NULL or writable; `name` is NULL or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_shm_open(
    shm: *mut *mut mdg_shm,
    name: *const c_char,
    size: usize,
    oflag: c_int,
    mode: libc::mode_t,
) -> c_int {
    guard(|| {
        let out = args::blank(shm, "mdg_shm_open: shm")?;
        // SAFETY: the caller's promise.
        let name = unsafe { args::string(name, "mdg_shm_open: name") }?;
        let flags = args::oflag(oflag, 0, "mdg_shm_open")?;
        let mode = args::mode(mode, "mdg_shm_open")?;
        let segment = Shm::open(name, args::length(size, "mdg_shm_open: size")?, flags, mode)?;
        // SAFETY: checked above.
        unsafe { out.give(RwLock::new(segment)) };
        Ok(0)
    })
}

/// Makes a segment without a name: `size` zero bytes that children inherit, and that other programs
/// get by receiving mdg_shm_fd over a Unix socket. It is sealed (F_SEAL_SHRINK): nobody can ever
/// truncate it under the feet of those who map it; growing it stays possible.
///
/// `flags`: 0, or MDG_INHERIT to keep the descriptor open across execve(2).
///
/// Returns 0, or: -EINVAL (NULL, size 0, unknown flag) · -EOVERFLOW · -ENOSPC · -ENOMEM · -EMFILE ·
/// -ENOSYS (no memfd_create). Thread-safe; not async-signal-safe.
///
/// # Safety
/// `shm` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_shm_anonymous(
    shm: *mut *mut mdg_shm,
    size: usize,
    flags: u32,
) -> c_int {
    guard(|| {
        let out = args::blank(shm, "mdg_shm_anonymous: shm")?;
        let flags = args::flags(flags, MDG_INHERIT, "mdg_shm_anonymous")?;
        let size = args::length(size, "mdg_shm_anonymous: size")?;
        let segment = Shm::anonymous(size, flags & MDG_INHERIT != 0)?;
        // SAFETY: checked above.
        unsafe { out.give(RwLock::new(segment)) };
        Ok(0)
    })
}

/// Maps all of the file or memory behind a descriptor, such as one received over a Unix socket. The
/// descriptor is duplicated: the caller keeps its own, and closes it.
///
/// `oflag` is O_RDONLY or O_RDWR; with MDG_SEALED the descriptor is refused unless it is sealed
/// against shrinking, so that its sender cannot make this process fault by truncating it.
///
/// Returns 0, or: -EINVAL (NULL, other oflag bits) · -EBADF · -EACCES (descriptor not open for that)
/// · -EPROTO (no size, empty, or not sealed as required) · -ENOMEM · -EMFILE. Thread-safe; not
/// async-signal-safe.
///
/// # Safety
/// `shm` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_shm_from_fd(shm: *mut *mut mdg_shm, fd: c_int, oflag: c_int) -> c_int {
    guard(|| {
        let what = "mdg_shm_from_fd";
        let out = args::blank(shm, "mdg_shm_from_fd: shm")?;
        let flags = args::oflag(oflag, MDG_SEALED, what)?;
        if flags.creation != Creation::OpenOnly {
            return Err(Error::new(
                Errno::EINVAL,
                format_args!("{what}: O_CREAT makes no sense here"),
            ));
        }
        if fd < 0 {
            return Err(Error::new(Errno::EBADF, format_args!("{what}: descriptor {fd}")));
        }
        let seals = if oflag & MDG_SEALED != 0 { Seals::Required } else { Seals::Unchecked };
        // SAFETY: not -1; the kernel says EBADF if it is not open, and it is borrowed for this call.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let segment = Shm::from_fd(fd, flags.access, seals)?;
        // SAFETY: checked above.
        unsafe { out.give(RwLock::new(segment)) };
        Ok(0)
    })
}

/// Maps an ordinary file, or a device that can be mapped: /dev/zero gives zero bytes to share with
/// children, and needs a `size`. Links in `path` are followed, as open(2) does.
///
/// `size`, `oflag` and `mode` mean what they mean in mdg_shm_open. A file made by this call appears
/// complete, with its blocks reserved where the file system can do that; a sparse file stays sparse,
/// and a write into a hole when the disk is full is then SIGBUS, as with mmap(2).
///
/// Returns 0, or what mdg_shm_open returns, and -EINVAL for a device with size 0, -ENOTDIR, -EROFS,
/// -ETXTBSY from open(2). Thread-safe; not async-signal-safe.
///
/// # Safety
/// `shm` is NULL or writable; `path` is NULL or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_shm_map_file(
    shm: *mut *mut mdg_shm,
    path: *const c_char,
    size: usize,
    oflag: c_int,
    mode: libc::mode_t,
) -> c_int {
    guard(|| {
        let what = "mdg_shm_map_file";
        let out = args::blank(shm, "mdg_shm_map_file: shm")?;
        // SAFETY: the caller's promise.
        let path = unsafe { args::path(path, "mdg_shm_map_file: path") }?;
        let (flags, mode) = (args::oflag(oflag, 0, what)?, args::mode(mode, what)?);
        let segment = Shm::map_file(path, args::length(size, what)?, flags, mode)?;
        // SAFETY: checked above.
        unsafe { out.give(RwLock::new(segment)) };
        Ok(0)
    })
}

/// Address of the segment's first byte, or NULL (with errno EINVAL or EBADF) if `shm` is not a live
/// handle.
///
/// The memory belongs to the handle: it is valid for mdg_shm_size bytes until mdg_shm_resize or
/// mdg_shm_close. It lies at another address in every process, so keep offsets in it, not pointers.
/// Other processes may change it at any moment: share data through the rings and semaphores of this
/// library, or C11 atomics. Thread-safe; not async-signal-safe.
///
/// # Safety
/// `shm` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_shm_addr(shm: *const mdg_shm) -> *mut c_void {
    let mut address = ptr::null_mut();
    let _: c_int = guard(|| {
        // SAFETY: the caller's promise.
        address = unsafe { with(shm, |shm| Ok(shm.as_ptr().as_ptr().cast())) }?;
        Ok(0)
    });
    address
}

/// Bytes mapped: exactly the size its maker asked for, never rounded up to pages, or the smaller size
/// that this opener asked for. 0 (with errno EINVAL or EBADF) if `shm` is not a live handle.
/// Thread-safe; not async-signal-safe.
///
/// # Safety
/// `shm` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_shm_size(shm: *const mdg_shm) -> usize {
    let mut size = 0;
    let _: c_int = guard(|| {
        // SAFETY: the caller's promise.
        size = unsafe { with(shm, |shm| Ok(shm.size())) }?;
        Ok(0)
    });
    size
}

/// The segment's descriptor, for fstat(2), fchmod(2), or passing on. It belongs to the handle: do not
/// close it, and duplicate it to keep it longer.
///
/// Returns the descriptor (3 or more), -EINVAL for NULL, or -EBADF (also: the program has closed it,
/// or has another file under its number). Thread-safe; not async-signal-safe.
///
/// # Safety
/// `shm` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_shm_fd(shm: *const mdg_shm) -> c_int {
    // SAFETY: the caller's promise.
    guard(|| unsafe { with(shm, |shm| Ok(shm.descriptor()?.as_raw_fd())) })
}

/// Changes the size of the segment, as ftruncate(2) does, and of this mapping, which may move: take
/// mdg_shm_addr again.
///
/// New bytes are zero and reserved. Other processes keep what they have mapped; they see more by
/// resizing to the same size or opening again, and after shrinking must not touch what lies beyond
/// the new end (that is SIGBUS).
///
/// Returns 0, or: -EINVAL (NULL, size 0, a device) · -EBADF (also: the program has closed the
/// segment's descriptor, or has another file under its number) · -EACCES (mapped read-only, or smaller
/// than an anonymous segment is: it is sealed) · -EOVERFLOW · -ENOSPC · -ENOMEM; the old size stands
/// then. No other thread may use the segment meanwhile; not async-signal-safe.
///
/// # Safety
/// `shm` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_shm_resize(shm: *mut mdg_shm, size: usize) -> c_int {
    guard_or(
        // SAFETY: the caller's promise.
        || unsafe { args::poison(shm) },
        || {
            // SAFETY: the caller's promise.
            let shm = unsafe { args::handle(shm.cast_const()) }?;
            let mut shm = shm.write().unwrap_or_else(PoisonError::into_inner);
            let size = args::length(size, "mdg_shm_resize: size")?;
            keeping_errno(|| cancel::without(|| shm.resize(size).map(|()| 0)))
        },
    )
}

/// Installs a handler of SIGBUS in this process, once; calling it again changes nothing. Where a peer
/// has made the file behind a segment or a named ring shorter, touching it is SIGBUS, whose default is
/// death. With the guard it gives pages of zeros, private to this process. The call on a ring that
/// has met such a page first may return success, with zeros; every later call returns -EBADMSG, and so
/// does mdg_shm_intact. Bytes behind the new end of the file on its last page are zeros without SIGBUS,
/// which nothing notices; a page has 4 KiB on x86, up to 64 KiB elsewhere. Any other SIGBUS
/// goes to the handler that was there before, or kills as it would have. Nothing in the library installs
/// it but this call; a program that installs a handler of its own later replaces it. Up to 4096 mappings
/// are guarded at once. Sealed memory (mdg_shm_anonymous, anonymous rings) needs no guard.
///
/// Returns 0, or a code of sigaction(2). Thread-safe; not async-signal-safe.
#[unsafe(no_mangle)]
pub extern "C" fn mdg_sigbus_guard() -> c_int {
    guard(|| crate::sigbus_guard().map(|()| 0))
}

/// Tells whether all of the segment is still there, as far as the guard (mdg_sigbus_guard) knows.
///
/// Returns 0, or: -EBADMSG (somebody has made the object shorter, and this process has touched what was
/// cut off: it reads zeros there, and what it writes there is lost) · -EINVAL (NULL) · -EBADF.
/// Thread-safe; async-signal-safe as long as it succeeds.
///
/// # Safety
/// `shm` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_shm_intact(shm: *const mdg_shm) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let segment = unsafe { args::handle(shm) }?;
        if segment.read().unwrap_or_else(PoisonError::into_inner).is_cut() {
            let text = "mdg_shm_intact: somebody has made the object shorter";
            return Err(Error::new(Errno::EBADMSG, text));
        }
        Ok(0)
    })
}

/// Writes changed bytes of a mapped file to its storage and waits for it (msync(2), MS_SYNC); for
/// memory there is nothing to do.
///
/// Returns 0, -EINVAL for NULL, -EBADF, or -EIO. Thread-safe; not async-signal-safe.
///
/// # Safety
/// `shm` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_shm_sync(shm: *mut mdg_shm) -> c_int {
    // SAFETY: the caller's promise.
    guard(|| unsafe { with(shm, |shm| shm.sync().map(|()| 0)) })
}

/// Unmaps the segment and frees the handle; the name stays. NULL is fine. No other thread may use the
/// handle any more. errno is left alone. Not async-signal-safe.
///
/// # Safety
/// `shm` is NULL or a handle that nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_shm_close(shm: *mut mdg_shm) {
    // SAFETY: the caller's promise.
    guard_void(|| unsafe { args::close(shm) });
}

/// Removes the name of a segment, as shm_unlink(3) does; those who have it mapped go on using it.
///
/// Returns 0, or: -EINVAL (NULL, a bad name) · -ENAMETOOLONG · -ENOENT · -EACCES (not yours: /dev/shm
/// is sticky) · -EPROTO (a directory). Thread-safe; not async-signal-safe.
///
/// # Safety
/// `name` is NULL or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_shm_unlink(name: *const c_char) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        Shm::unlink(unsafe { args::string(name, "mdg_shm_unlink: name") }?).map(|()| 0)
    })
}
