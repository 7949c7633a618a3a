//! Looking at a ring, ending it, and waiting for it elsewhere.

use std::ffi::c_int;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;

use super::super::args;
use super::super::guard::guard;
use super::{
    MDG_RING_CORRUPT, MDG_RING_END_CLOSED, MDG_RING_END_DEAD, MDG_RING_END_LIVE,
    MDG_RING_END_NEVER, MDG_RING_SHUTDOWN, MDG_RING_UNLINKED, mdg_ring, mdg_ring_stats, with,
};
use crate::ring::{EndState, Events, Stats};

/// Tells how many items this handle, a consumer of a broadcast, has lost: what -EOVERFLOW has told of,
/// added up since the handle was opened (in a forked child, since the fork). What it has received and
/// what it has lost are all that was committed since it began.
///
/// Returns the number, 0 for other kinds and ends, or: -EINVAL (NULL) · -EBADF. Belongs to the handle's
/// thread; async-signal-safe as long as it succeeds.
///
/// # Safety
/// `ring` is NULL or a handle of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_lost(ring: *const mdg_ring) -> i64 {
    // SAFETY: the caller's promise.
    unsafe { with(ring.cast_mut(), |ring| Ok(ring.lost().try_into().unwrap_or(i64::MAX))) }
}

/// Ends the stream: from now on pushes are -EPIPE, and pops deliver what is inside and then are
/// -EPIPE. Wakes everyone who waits. Any participant may call it, from any thread, again too. It
/// cannot be undone; unlink the ring and make a new one.
///
/// Returns 0, or -EINVAL (NULL), -EBADF, -EACCES (a consumer that may only read the ring). Thread-safe;
/// async-signal-safe as long as it succeeds.
///
/// # Safety
/// `ring` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_shutdown(ring: *mut mdg_ring) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { with(ring, |ring| ring.shutdown().map(|()| 0)) }
}

/// A descriptor that poll(2), select(2), epoll(7) and the event loops built on them can wait on. It
/// becomes readable (POLLIN, also for MDG_POLL_OUT) when the ring may be ready for any of `events`:
/// MDG_POLL_IN for pops, MDG_POLL_OUT for pushes, or both.
///
/// The rule: it is readable from this call on, and stays so until a call on this handle, at an end
/// that was asked for, answers -EAGAIN; that call makes it unreadable (unless the other end was asked
/// for, too, and is ready), and looks once more before it answers. Whatever comes after that makes it
/// readable again. So nothing is missed, level-triggered or edge-triggered: after an event, pop (or
/// push) with MDG_NOWAIT, edge-triggered until -EAGAIN. It may be readable for nothing. Shutdown and
/// corruption make it readable for good. -EAGAIN takes three system calls or so then.
///
/// A death makes nothing readable, and a process that is killed between its commit and its notice
/// gives none: poll with a timeout, of a second for instance, and when it is over pop (or push) with
/// MDG_NOWAIT, and look at mdg_ring_stat, or wait for the other process's pidfd as well. mdg_wait_any
/// does so by itself.
///
/// The descriptor belongs to the handle: the same one at every call, closed by mdg_ring_close; it must
/// not be read, written or closed. Every call replaces the events asked for by those before. The ends
/// are taken as their first use would. It is the open end of a FIFO, /dev/shm/mdg.poll.UUID...,
/// which others open for a moment to write to; they need a free descriptor then, and the same
/// /dev/shm. A killed process's FIFO is removed by who takes its place, closes or unlinks the ring;
/// where nobody does (all were killed), by mdg_object_reap.
///
/// fork(2): the child's handle is a new one that nobody has asked for a descriptor; the parent's is
/// open in the child until the child first uses or closes its handle, and must not be waited on there.
///
/// Returns the descriptor, or: -EINVAL (NULL, other events) · -EBUSY · -EACCES (wrong end, no
/// permission in /dev/shm, or a consumer that may only read the ring) · -EMFILE · -ENFILE · -ENOMEM
/// · -ENOSPC · -EROFS · -ENOENT (no /dev/shm) · -ENOSYS (the ring was made where the kernel gave no
/// random number) · -EBADF (not a handle, or one of its descriptors was closed) · -EBADMSG
/// (corrupt). Not async-signal-safe.
///
/// # Safety
/// `ring` is NULL or a handle of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_fd(ring: *mut mdg_ring, events: u32) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let ring = unsafe { args::handle(ring.cast_const()) }?;
        ring.poll_fd(Events(events)).map(|fd| fd.as_raw_fd())
    })
}

/// Ends the wait of another thread's, or an interrupted, call on this handle: that call answers
/// -ECANCELED, with nothing done. If no call waits, the next one that would have to does so, at once,
/// so it does not matter which comes first; only one call answers for any number of cancellations
/// before. Calls that need not wait, and calls with MDG_NOWAIT, go on as ever and leave the
/// cancellation standing. A wait of mdg_wait_any for this handle is ended as well, and the handle's
/// descriptor becomes readable, if it has one.
///
/// Returns 0, or -EINVAL (NULL), -EBADF. Callable from any thread that knows that the handle is not
/// closed meanwhile; async-signal-safe as long as it succeeds.
///
/// # Safety
/// `ring` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_cancel(ring: *mut mdg_ring) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        with(ring, |ring| {
            ring.canceller().cancel();
            Ok(0)
        })
    }
}

fn state(end: EndState) -> u32 {
    match end {
        EndState::Never => MDG_RING_END_NEVER,
        EndState::Live => MDG_RING_END_LIVE,
        EndState::Closed => MDG_RING_END_CLOSED,
        EndState::Dead => MDG_RING_END_DEAD,
    }
}

fn stats(stats: &Stats) -> mdg_ring_stats {
    let bit = |set, bit| if set { bit } else { 0 };
    mdg_ring_stats {
        size: size_of::<mdg_ring_stats>(),
        capacity: stats.capacity,
        item_size: stats.item_size,
        kind: stats.kind.number(),
        length: stats.length,
        written: stats.written,
        read: stats.read,
        dropped: stats.dropped,
        recovered: stats.recovered,
        push_waits: stats.push_waits,
        pop_waits: stats.pop_waits,
        producer_pid: stats.producer_pid,
        consumer_pid: stats.consumer_pid,
        producer_state: state(stats.producer),
        consumer_state: state(stats.consumer),
        max_handles: stats.max_handles,
        flags: bit(stats.shutdown, MDG_RING_SHUTDOWN)
            | bit(stats.corrupt, MDG_RING_CORRUPT)
            | bit(stats.unlinked, MDG_RING_UNLINKED),
        lost: stats.lost,
        pending: stats.pending,
        policy: stats.policy,
        reserved: 0,
        redelivered: stats.redelivered,
        producers: stats.producers,
        consumers: stats.consumers,
    }
}

/// Tells what is known about a ring. `out->size` must be set to sizeof(mdg_ring_stats).
///
/// Returns 0, or: -EINVAL (NULL, or a size that holds no field) · -EBADF. Thread-safe; asks the
/// kernel who is alive, one system call or so for each open handle; not async-signal-safe.
///
/// # Safety
/// `ring` is NULL or a handle; `out` is NULL or begins with its size and is writable for that many.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_stat(ring: *const mdg_ring, out: *mut mdg_ring_stats) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let ring = unsafe { args::handle(ring) }?;
        let out = NonNull::new(args::out(out, "mdg_ring_stat: stats")?);
        let full = stats(&ring.stat());
        // SAFETY: non-null (just checked) and, by the caller's promise, as large as it says.
        unsafe { args::fill(out, &full, "mdg_ring_stats") }.map(|()| 0)
    })
}
