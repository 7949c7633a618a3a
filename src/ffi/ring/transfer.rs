//! Pushing and popping by copy. What needs neither waiting nor failing is in `ring::fast`, which is inlined
//! into the entries; all else is in functions that it jumps to.

use std::ffi::{c_int, c_void};

use super::super::args;
use super::super::guard::would_block;
use super::{mdg_ring, returned, with};
use crate::error::Result;
use crate::ring::{Face, ForTwo, Ring, fast};
use crate::time::{Nanos, Timeout};

/// Bytes of `count` items: `EINVAL` for a NULL `items`, `EOVERFLOW` for more than memory has.
fn check_items<T>(items: *const T, count: usize, ring: &Ring) -> Result<()> {
    if count > 0 {
        args::pointer(items.cast::<u8>(), "ring: items")?;
    }
    let bytes = count.saturating_mul(ring.item_size());
    args::length(bytes, "ring: count").map(drop)
}

/// [`mdg_ring_push`] when it has to wait, or to fail. This and its like are functions by themselves,
/// and `extern "C"`, which cannot unwind, so that the fast paths of the entries need no stack.
///
/// # Safety
/// As for [`mdg_ring_push`].
#[cold]
#[inline(never)]
unsafe extern "C" fn push_slowly(
    ring: *mut mdg_ring,
    item: *const c_void,
    timeout_ns: i64,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        with(ring, |ring| {
            let item = args::pointer(item.cast::<u8>(), "mdg_ring_push: item")?;
            ring.push_raw(item, Nanos(timeout_ns)).map(|()| 0)
        })
    }
}

/// [`mdg_ring_pop`] when it has to wait, or to fail.
///
/// # Safety
/// As for [`mdg_ring_pop`].
#[cold]
#[inline(never)]
unsafe extern "C" fn pop_slowly(ring: *mut mdg_ring, item: *mut c_void, timeout_ns: i64) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        with(ring, |ring| {
            let item = args::out(item.cast::<u8>(), "mdg_ring_pop: item")?;
            ring.pop_raw(item, Nanos(timeout_ns)).map(|()| 0)
        })
    }
}

/// [`mdg_ring_push_many`] when it has to wait, to push fewer, or to fail.
///
/// # Safety
/// As for [`mdg_ring_push_many`].
#[cold]
#[inline(never)]
unsafe extern "C" fn push_many_slowly(
    ring: *mut mdg_ring,
    items: *const c_void,
    count: usize,
    timeout_ns: i64,
) -> libc::ssize_t {
    // SAFETY: the caller's promise.
    unsafe {
        with(ring, |ring| {
            check_items(items, count, ring)?;
            ring.push_many_raw(items.cast(), count, Timeout::from_nanos(timeout_ns)).map(returned)
        })
    }
}

/// [`mdg_ring_pop_many`] when it has to wait, to pop fewer, or to fail.
///
/// # Safety
/// As for [`mdg_ring_pop_many`].
#[cold]
#[inline(never)]
unsafe extern "C" fn pop_many_slowly(
    ring: *mut mdg_ring,
    items: *mut c_void,
    count: usize,
    timeout_ns: i64,
) -> libc::ssize_t {
    // SAFETY: the caller's promise.
    unsafe {
        with(ring, |ring| {
            check_items(items.cast_const(), count, ring)?;
            ring.pop_many_raw(items.cast(), count, Timeout::from_nanos(timeout_ns)).map(returned)
        })
    }
}

/// Calls from C.
struct C;

impl Face for C {
    type Handle = *mut mdg_ring;

    #[inline(always)]
    unsafe fn ring<'a>(handle: *mut mdg_ring) -> &'a Ring {
        // SAFETY: the caller's promise.
        unsafe { args::known(handle.cast_const()) }
    }

    #[inline(always)]
    fn would_block() -> c_int {
        would_block()
    }

    #[inline(always)]
    unsafe extern "C" fn push_slowly(
        handle: *mut mdg_ring,
        item: *const u8,
        timeout_ns: i64,
    ) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { push_slowly(handle, item.cast(), timeout_ns) }
    }

    #[inline(always)]
    unsafe extern "C" fn pop_slowly(
        handle: *mut mdg_ring,
        item: *mut u8,
        timeout_ns: i64,
    ) -> c_int {
        // SAFETY: the caller's promise.
        unsafe { pop_slowly(handle, item.cast(), timeout_ns) }
    }
}

/// Pushes one item: copies item_size bytes from `item` into the ring, waiting for room at most
/// `timeout_ns` nanoseconds of monotonic time (MDG_NOWAIT: not at all, MDG_FOREVER: without limit).
/// No system call is made while there is room and nobody sleeps. When it has returned 0 the item is
/// committed, and outlives this process.
///
/// Returns 0, or: -EAGAIN (MDG_NOWAIT, full) · -ETIMEDOUT · -EINTR (a signal was caught, whatever
/// SA_RESTART says) · -ECANCELED (mdg_ring_cancel) · -EPIPE (shut down) · -EOWNERDEAD (full, and the
/// consumer died; once for each death, after which the calls of this handle wait for a new consumer)
/// · -EBUSY (another process has the producing end) · -EACCES (opened O_RDONLY, or this process may
/// no longer open the ring's file) · -EMFILE, -ENFILE, -ENOMEM, -ENOENT (first use of an O_RDWR
/// handle in a process: no descriptor, no memory, no /proc) · -EINVAL (NULL, or a reserved run not
/// given back) · -EBADF (not a handle, or the ring's descriptor was closed) · -EBADMSG (corrupt); the
/// item is not pushed then. Not async-signal-safe; not a cancellation point.
///
/// # Safety
/// `ring` is NULL or a handle of this thread; `item` is NULL or readable for item_size bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_push(
    ring: *mut mdg_ring,
    item: *const c_void,
    timeout_ns: i64,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        match args::live(ring.cast_const()) {
            Some(_) if !item.is_null() => fast::push::<C>(ring, item.cast(), timeout_ns),
            _ => push_slowly(ring, item, timeout_ns),
        }
    }
}

/// Pops one item: copies item_size bytes into `item`, waiting for an item at most `timeout_ns`
/// nanoseconds of monotonic time (MDG_NOWAIT: not at all, MDG_FOREVER: without limit).
///
/// Returns 0, or: -EAGAIN (MDG_NOWAIT, empty) · -ETIMEDOUT · -EINTR (a signal was caught, whatever
/// SA_RESTART says) · -ECANCELED (mdg_ring_cancel) · -EPIPE (shut down and drained: end of stream) ·
/// -EOWNERDEAD (empty, and the producer died; everything it committed was delivered before; once for
/// each death, after which the calls of this handle wait for a new producer) · -EBUSY (another
/// process has the consuming end) · -EACCES (opened O_WRONLY, or this process may no longer open the
/// ring's file) · -EMFILE, -ENFILE, -ENOMEM, -ENOENT (first use of an O_RDWR handle in a process: no
/// descriptor, no memory, no /proc) · -EINVAL (NULL, or a peeked run not given back) · -EBADF (not a
/// handle, or the ring's descriptor was closed) · -EBADMSG (corrupt); `item` is untouched then. Or
/// -EOVERFLOW, for a consumer of a broadcast: items went by before it had read them, or it was
/// evicted; how many it has lost is in mdg_last_error and added to mdg_ring_lost, it stands at the
/// oldest item that is there, and the next pop goes on; what is in `item` is undefined then. Not
/// async-signal-safe; not a cancellation point.
///
/// # Safety
/// `ring` is NULL or a handle of this thread; `item` is NULL or writable for item_size bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_pop(
    ring: *mut mdg_ring,
    item: *mut c_void,
    timeout_ns: i64,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        match args::live(ring.cast_const()) {
            Some(_) if !item.is_null() => fast::pop::<C>(ring, item.cast(), timeout_ns),
            _ => pop_slowly(ring, item, timeout_ns),
        }
    }
}

/// Waits for room for one item, then pushes as many of the `count` items at `items` as fit, with one
/// commit for all (in kinds whose items do not stand in a row, one commit each).
///
/// Returns how many (1 or more; 0 only for a `count` of 0), or what mdg_ring_push returns, or
/// -EOVERFLOW (more bytes than memory has). Not async-signal-safe; not a cancellation point.
///
/// # Safety
/// `ring` is NULL or a handle of this thread; `items` is readable for `count` items, or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_push_many(
    ring: *mut mdg_ring,
    items: *const c_void,
    count: usize,
    timeout_ns: i64,
) -> libc::ssize_t {
    // SAFETY: the caller's promise.
    unsafe {
        match args::live(ring.cast_const()) {
            Some(live) if !items.is_null() && live.has_room_for(count) => {
                live.push_at_once(items.cast(), count);
                returned(count)
            }
            _ => push_many_slowly(ring, items, count, timeout_ns),
        }
    }
}

/// Waits for one item, then pops as many as there are, at most `count`, into `items`.
///
/// Returns how many (1 or more; 0 only for a `count` of 0), or what mdg_ring_pop returns, or
/// -EOVERFLOW (more bytes than memory has). What is in `items` behind those returned is undefined. Not
/// async-signal-safe; not a cancellation point.
///
/// # Safety
/// `ring` is NULL or a handle of this thread; `items` is writable for `count` items, or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_pop_many(
    ring: *mut mdg_ring,
    items: *mut c_void,
    count: usize,
    timeout_ns: i64,
) -> libc::ssize_t {
    // SAFETY: the caller's promise.
    unsafe {
        match args::live(ring.cast_const()) {
            Some(live) if !items.is_null() && live.has_items(count) => {
                live.pop_at_once(items.cast(), count);
                returned(count)
            }
            _ => pop_many_slowly(ring, items, count, timeout_ns),
        }
    }
}
