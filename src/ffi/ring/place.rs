//! Filling and reading items where they lie. As in pushing and popping, what needs neither waiting nor
//! failing is in the entries themselves, and makes few stores: each takes a place in the processor's
//! store buffer from the item that is being filled.

use std::ffi::{c_int, c_void};

use super::super::args;
use super::{mdg_ring, returned, with};
use crate::ring::ForTwo;
use crate::time::Timeout;

/// [`mdg_ring_reserve`] when it has to wait, or to fail, or many push.
///
/// # Safety
/// As for [`mdg_ring_reserve`].
#[cold]
#[inline(never)]
unsafe extern "C" fn reserve_slowly(
    ring: *mut mdg_ring,
    items: *mut *mut c_void,
    count: usize,
    timeout_ns: i64,
) -> libc::ssize_t {
    // SAFETY: the caller's promise.
    unsafe {
        with(ring, |ring| {
            let out = args::out(items, "mdg_ring_reserve: items")?;
            let (first, run) = ring.reserve(count, Timeout::from_nanos(timeout_ns))?;
            out.write(first.as_ptr().cast());
            Ok(returned(run))
        })
    }
}

/// [`mdg_ring_peek`] when it has to wait, or to fail, or many pop.
///
/// # Safety
/// As for [`mdg_ring_peek`].
#[cold]
#[inline(never)]
unsafe extern "C" fn peek_slowly(
    ring: *mut mdg_ring,
    items: *mut *const c_void,
    count: usize,
    timeout_ns: i64,
) -> libc::ssize_t {
    // SAFETY: the caller's promise.
    unsafe {
        with(ring, |ring| {
            let out = args::out(items, "mdg_ring_peek: items")?;
            let (first, run) = ring.peek(count, Timeout::from_nanos(timeout_ns))?;
            out.write(first.as_ptr().cast_const().cast());
            Ok(returned(run))
        })
    }
}

/// [`mdg_ring_commit`] when it gives a part of the run back, or fails, or many push.
///
/// # Safety
/// As for [`mdg_ring_commit`].
#[cold]
#[inline(never)]
unsafe extern "C" fn commit_slowly(ring: *mut mdg_ring, count: usize) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { with(ring, |ring| ring.commit(count).map(|()| 0)) }
}

/// [`mdg_ring_release`] of large items.
///
/// # Safety
/// As for [`mdg_ring_release`], with a live handle whose run has `count` items.
#[inline(never)]
unsafe extern "C" fn release_large(ring: *mut mdg_ring, count: usize) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { args::known(ring.cast_const()).release_at_once::<true>(count) }
}

/// [`mdg_ring_release`] when it leaves a part of the run, or fails, or many pop.
///
/// # Safety
/// As for [`mdg_ring_release`].
#[cold]
#[inline(never)]
unsafe extern "C" fn release_slowly(ring: *mut mdg_ring, count: usize) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { with(ring, |ring| ring.release(count).map(|()| 0)) }
}

/// Waits for room for one item, then hands out free slots in place: `*items` receives the address of
/// a contiguous run of at least 1 and at most `count` items, to be filled and then committed. A run
/// ends at the end of the ring at the latest.
///
/// The memory is the ring's; nothing in it is visible to the consumer before mdg_ring_commit, and a
/// process that dies meanwhile has sent nothing. One run at a time: until it is given back, pushing
/// and reserving are -EINVAL.
///
/// Returns the length of the run, or what mdg_ring_push returns (-EINVAL for a `count` of 0, too); a
/// failure leaves `*items` untouched. Not async-signal-safe; not a cancellation point.
///
/// # Safety
/// `ring` is NULL or a handle of this thread; `items` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_reserve(
    ring: *mut mdg_ring,
    items: *mut *mut c_void,
    count: usize,
    timeout_ns: i64,
) -> libc::ssize_t {
    // SAFETY: the caller's promise.
    unsafe {
        match args::live(ring.cast_const()) {
            Some(live) if args::is_out(items) && live.has_room_for(count) => {
                let (first, run) = live.reserve_at_once(count);
                items.write(first.as_ptr().cast());
                returned(run)
            }
            _ => reserve_slowly(ring, items, count, timeout_ns),
        }
    }
}

/// Commits the first `count` items of the reserved run, in one step, and gives the rest back. A
/// `count` of 0 gives the whole run back. With MDG_RING_STOPPROOF others may have filled the ring
/// since; a commit still succeeds, and the ring then holds more than its capacity, by at most one item
/// per handle.
///
/// Returns 0, or: -EINVAL (NULL, or more than was reserved; the run stays) · -EPIPE (shut down) or
/// -EBADMSG (corrupt), with nothing committed and the run given back · -EBADF. Not async-signal-safe.
///
/// # Safety
/// `ring` is NULL or a handle of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_commit(ring: *mut mdg_ring, count: usize) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        match args::live(ring.cast_const()) {
            Some(live) if live.commits_at_once(count) => live.commit_at_once(count),
            _ => commit_slowly(ring, count),
        }
    }
}

/// Waits for one item, then hands out items in place: `*items` receives the address of a contiguous
/// run of at least 1 and at most `count` of them. They stay in the ring, and a consumer that takes
/// over after this process's death gets them again, until mdg_ring_release. In MDG_RING_MPMC the one item
/// is this handle's from then on: no other consumer gets it, and it is lost with the handle.
///
/// The memory is the ring's; read it only, and do not rely on its staying the same if the producer
/// cannot be trusted. One run at a time: until it is given back, popping and peeking are -EINVAL.
///
/// In a broadcast that overwrites, or evicts, the producer may write over what is peeked at any moment:
/// mdg_ring_release tells, and nothing that was computed from it counts before that.
///
/// Returns the length of the run, or what mdg_ring_pop returns (-EINVAL for a `count` of 0, too); a
/// failure leaves `*items` untouched. Not async-signal-safe; not a cancellation point.
///
/// # Safety
/// `ring` is NULL or a handle of this thread; `items` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_peek(
    ring: *mut mdg_ring,
    items: *mut *const c_void,
    count: usize,
    timeout_ns: i64,
) -> libc::ssize_t {
    // SAFETY: the caller's promise.
    unsafe {
        match args::live(ring.cast_const()) {
            Some(live) if args::is_out(items) && live.has_items(count) => {
                let (first, run) = live.peek_at_once(count);
                items.write(first.as_ptr().cast_const().cast());
                returned(run)
            }
            _ => peek_slowly(ring, items, count, timeout_ns),
        }
    }
}

/// Takes the first `count` items of the peeked run off the ring and leaves the rest in it; with a `count`
/// of 0 all of it (in MDG_RING_MPMC for this handle's next pop or peek), which says nothing about whether
/// a broadcast's producer has written over it.
///
/// Returns 0, or: -EINVAL (NULL, or more than was peeked; the run stays) · -EBADF · -EOVERFLOW (a
/// broadcast's producer has written over the run, or was free to: discard what was read; it counts as
/// lost, as in mdg_ring_pop). Not async-signal-safe.
///
/// # Safety
/// `ring` is NULL or a handle of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_release(ring: *mut mdg_ring, count: usize) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        match args::live(ring.cast_const()) {
            Some(live) if live.releases_at_once(count) => {
                if live.has_large_items() {
                    return release_large(ring, count);
                }
                live.release_at_once::<false>(count)
            }
            _ => release_slowly(ring, count),
        }
    }
}
