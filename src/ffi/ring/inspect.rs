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
/// The rule: it is readable from the first call on, and stays so until a call on this handle, at an end
/// that was asked for, returns -EAGAIN; that call makes it unreadable (unless the other end was asked
/// for, too, and is ready), and looks once more before it returns. Whatever comes after that makes it
/// readable again. So nothing is missed, level-triggered or edge-triggered: after an event, pop (or
/// push) with MDG_NOWAIT, edge-triggered until -EAGAIN. It may be readable for nothing. Shutdown and
/// corruption make it readable without end. -EAGAIN takes some system calls then.
///
/// A death makes nothing readable, and a process that is killed between its commit and its notice
/// gives none: poll with a timeout, of a second for instance, and when it is over pop (or push) with
/// MDG_NOWAIT, and look at mdg_ring_stat, or wait for the other process's pidfd as well. mdg_wait_any
/// does all of this.
///
/// The descriptor belongs to the handle: the same one at every call, closed by mdg_ring_close; it must
/// not be read, written or closed. A call with other events replaces those asked for before; a call
/// with the same events changes nothing. The ends are taken as their first use would.
///
/// It is an inotify(7) instance that watches the ring's own file, with a number of 3 or more. Whoever
/// pushes or pops touches that file: sets its times to now. Nothing has a name, /dev/shm is not needed,
/// and only processes that may write to the file can wake a waiter: in any mount namespace, under any
/// root, as any user. Rings in one segment have its file in common, and may wake each other's waiters
/// for nothing. A user has a limited number of instances (fs.inotify.max_user_instances, often 128).
/// To close one takes up to a millisecond, so do not make and close handles with a descriptor for each
/// item. A notice that cannot be given (the process may no longer write to the file, or has closed the
/// ring's descriptor) is counted in notify_failures of mdg_ring_stats.
///
/// fork(2): the child's handle is a new one that nobody has asked for a descriptor; the parent's is
/// open in the child until the child first uses or closes its handle, and must not be waited on there.
///
/// Returns the descriptor, or: -EINVAL (NULL, other events) · -EBUSY · -EACCES (wrong end, a consumer
/// that may only read the ring, or no permission to read its file any more) · -EMFILE (no descriptor,
/// or as many inotify instances as the user may have: mdg_last_error says which) · -ENOSPC (as many
/// watches as the user may have) · -ENFILE · -ENOMEM · -ENOSYS (no /proc and no name of the file, or
/// a kernel without inotify) · -EBADF (not a handle, or one of its descriptors was closed) · -EBADMSG
/// (corrupt).
/// Not async-signal-safe.
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
        notify_failures: stats.notify_failures,
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
