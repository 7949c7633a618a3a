//! Opening, sharing, closing and removing a ring.

use std::ffi::{c_char, c_int};

use nix::errno::Errno;

use super::super::args;
use super::super::guard::{guard, guard_void};
use super::{MDG_FRESH, MDG_RING_LATEST, MDG_RING_OLDEST, mdg_ring, mdg_ring_opts};
use crate::error::{Error, Result};
use crate::flags::{Access, Creation};
use crate::inventory::{self, Mechanism, ReapOptions};
use crate::ring::{Kind, Options, Ring, Start};

pub(super) fn options(opts: Option<mdg_ring_opts>) -> Result<Options> {
    let Some(opts) = opts else { return Ok(Options::default()) };
    let kind =
        match opts.kind {
            0 => None,
            kind => Some(Kind::from_number(kind).ok_or_else(|| {
                Error::new(Errno::EINVAL, format_args!("unknown ring kind {kind}"))
            })?),
        };
    let start = match args::flags(opts.flags, MDG_RING_OLDEST | MDG_RING_LATEST, "mdg_ring_opts")? {
        0 => Start::Now,
        MDG_RING_OLDEST => Start::Oldest,
        MDG_RING_LATEST => Start::Latest,
        _ => {
            let why = "mdg_ring_opts: MDG_RING_OLDEST and MDG_RING_LATEST exclude each other";
            return Err(Error::new(Errno::EINVAL, why));
        }
    };
    Ok(Options {
        capacity: opts.capacity,
        item_size: opts.item_size,
        kind,
        max_handles: opts.max_handles,
        policy: opts.policy,
        item_align: opts.item_align,
        start,
    })
}

/// Opens, or makes, the ring `name`, or an anonymous one if `name` is NULL.
///
/// `*ring` receives a handle to be closed with mdg_ring_close. `oflag`: O_WRONLY takes the producing
/// end at once, O_RDONLY the consuming end; O_RDWR takes each end when it is first used, which is the
/// way to open a ring before fork(2). O_CREAT makes the ring when it is missing, O_EXCL in addition
/// fails when it is there; an anonymous ring is always made. `mode` gives the permissions of a new
/// one, trimmed by the umask; every end needs read and write permission, but a consumer of a broadcast
/// that overwrites, opened O_RDONLY, needs to read only: without more it takes no slot of max_handles, is
/// seen by nobody, and waits by looking again after naps: an eighth of
/// the time for which it has found nothing, at most 10 ms. A ring appears complete, with its memory
/// reserved, or not at all.
///
/// A ring outlives its processes, with what is in it and with its shutdown. With MDG_FRESH beside
/// O_CREAT, a ring that no living handle uses is removed first, as by mdg_object_reap; one that is in use
/// is opened as it is. So the program that is started first begins a new stream. Give it to one side
/// only: the other side, started late, would remove what the first has left for it.
///
/// Opening what exists: `opts` NULL, or a zero field, accepts what the ring has; a field that differs
/// is -EPROTO, with both values in mdg_last_error. Making one needs capacity and item_size. An end
/// whose holder died is taken over with everything that was committed.
///
/// Returns 0, or: -EINVAL (NULL, a bad name, no capacity or item_size for a new ring, an unknown kind,
/// policy, flag, oflag or mode bit, or one that is not for that kind) · -E2BIG · -ENAMETOOLONG ·
/// -ENOENT · -EEXIST · -EACCES · -ELOOP (a symbolic link under the name) · -EBUSY (a living process has
/// that end; its pid is in mdg_last_error; or another process was stopped while it removed the name) ·
/// -EPROTO (not a ring, another layout or geometry) · -EBADMSG (its indices are
/// impossible) · -EMFILE (no descriptor, or max_handles are open) · -EOVERFLOW · -ENOSPC ·
/// -ENOMEM · -ENFILE · -EROFS (/dev/shm is read-only) · -ESTALE (others removed and made it again all
/// the time) · -ENOSYS (without a name, and /proc is not mounted).
/// Nothing is made or held then. Thread-safe; not async-signal-safe.
///
/// # Safety
/// `ring` is NULL or writable; `name` is NULL or a C string; `opts` is NULL or begins with its size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_open(
    ring: *mut *mut mdg_ring,
    name: *const c_char,
    opts: *const mdg_ring_opts,
    oflag: c_int,
    mode: libc::mode_t,
) -> c_int {
    guard(|| {
        let what = "mdg_ring_open";
        let out = args::blank(ring, "mdg_ring_open: ring")?;
        // SAFETY: the caller's promise; integers only.
        let options = options(unsafe { args::options(opts, "mdg_ring_opts") }?)?;
        let (flags, mode) = (args::oflag(oflag, MDG_FRESH, what)?, args::mode(mode, what)?);
        if oflag & MDG_FRESH != 0 && flags.creation == Creation::OpenOnly {
            return Err(Error::new(
                Errno::EINVAL,
                format_args!("{what}: MDG_FRESH without O_CREAT"),
            ));
        }
        let made = if name.is_null() {
            Ring::anonymous(&options, flags.access)?
        } else {
            // SAFETY: the caller's promise.
            let name = unsafe { args::string(name, "mdg_ring_open: name") }?;
            if oflag & MDG_FRESH != 0 {
                remove_unused(name)?;
            }
            Ring::open(name, &options, flags, mode)?
        };
        // SAFETY: checked above.
        unsafe { out.give(made) };
        Ok(0)
    })
}

/// Removes the ring `name` if it is there and nobody lives in it.
fn remove_unused(name: &[u8]) -> Result<()> {
    let whatever_is_inside = ReapOptions { with_items: true, ..ReapOptions::default() };
    match inventory::reap(Some(Mechanism::Ring), Some(name), whatever_is_inside) {
        // Not there; in use, or just being removed by another one, which opening waits for.
        Err(error) if matches!(error.code(), Errno::ENOENT | Errno::EBUSY) => Ok(()),
        other => other.map(drop),
    }
}

/// An oflag that is an access mode and nothing else.
pub(super) fn access(oflag: c_int, what: &str) -> Result<Access> {
    if oflag & !libc::O_ACCMODE != 0 {
        return Err(Error::new(
            Errno::EINVAL,
            format_args!("{what}: oflag takes an access mode only"),
        ));
    }
    Ok(args::oflag(oflag, 0, what)?.access)
}

/// Another handle on the same ring, for another thread or another end; also of an anonymous or
/// unlinked ring. `oflag` is O_WRONLY, O_RDONLY or O_RDWR, as in mdg_ring_open. A consumer of a broadcast
/// begins with the first item that is committed after it has joined.
///
/// Returns 0, or: -EINVAL (NULL, other oflag bits) · -EBADF · -EBUSY · -EBADMSG · -EMFILE · -ENOMEM ·
/// -EACCES (`ring` may only be read, and `oflag` is not O_RDONLY).
/// Thread-safe as far as `ring` is not closed meanwhile; not async-signal-safe.
///
/// # Safety
/// `copy` is NULL or writable; `ring` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_dup(
    copy: *mut *mut mdg_ring,
    ring: *const mdg_ring,
    oflag: c_int,
) -> c_int {
    guard(|| {
        let out = args::blank(copy, "mdg_ring_dup: copy")?;
        let access = access(oflag, "mdg_ring_dup")?;
        // SAFETY: the caller's promise.
        let made = unsafe { args::handle(ring) }?.duplicate(access)?;
        // SAFETY: checked above.
        unsafe { out.give(made) };
        Ok(0)
    })
}

/// Gives back this handle's ends and frees it; the ring and its name stay. Items committed stay for
/// whoever opens it next. NULL is fine. Closing is not ending the stream: a consumer goes on waiting
/// for the next producer, so call mdg_ring_shutdown before if there will be none. errno is left alone.
/// Not async-signal-safe.
///
/// # Safety
/// `ring` is NULL or a handle that nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_close(ring: *mut mdg_ring) {
    // SAFETY: the caller's promise.
    guard_void(|| unsafe { args::close(ring) });
}

/// Closes a handle as the death of its process would: peers see a dead participant instead of one that
/// has left in order. Where they would be told of a death (-EOWNERDEAD), they are told of this one. For
/// a program that fails in the middle of a stream and lives on: an exception that leaves a block, a
/// worker thread that gives up. Others at the same end go on; after mdg_ring_shutdown it is an orderly
/// end all the same. Items committed stay; what was reserved or peeked is resolved as after a kill.
/// NULL is fine. errno is left alone. Not async-signal-safe.
///
/// # Safety
/// `ring` is NULL or a handle that nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_abandon(ring: *mut mdg_ring) {
    // SAFETY: the caller's promise.
    guard_void(|| unsafe { args::take(ring) }.into_iter().for_each(Ring::abandon));
}

/// Removes the name of a ring; those who have it open go on using it, and mdg_ring_stat tells them.
/// Whatever file stands under a ring's name is removed, sound or not.
///
/// Returns 0, or: -EINVAL (NULL, a bad name) · -ENAMETOOLONG · -ENOENT · -EACCES (another user's) ·
/// -ELOOP (a symbolic link) · -EPROTO (not a regular file) · -EBUSY (another process was stopped while
/// it was removing the same ring). Thread-safe; not async-signal-safe.
///
/// # Safety
/// `name` is NULL or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_unlink(name: *const c_char) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        Ring::unlink(unsafe { args::string(name, "mdg_ring_unlink: name") }?).map(|()| 0)
    })
}
