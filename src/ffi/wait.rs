//! `madang/wait.h`: waiting for any of many rings and descriptors.
//!
//! For programs without an event loop of their own. Those that have one put the descriptor that
//! mdg_ring_fd gives into it.

use std::ffi::c_int;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;

use super::args;
use super::guard::guard;
use super::ring::{MDG_POLL_IN, MDG_POLL_OUT, mdg_ring};
use crate::error::{Error, Result};
use crate::ring::{Events, MOST, Source, Wait, wait_any};
use crate::time::Timeout;

/// Most entries of one wait.
pub const MDG_WAIT_MAX: u32 = 64;

/// Found, never asked for: an error that lasts; the next call on the ring or descriptor tells. The
/// value of POLLERR.
pub const MDG_POLL_ERR: u32 = 0x8;
/// Found, never asked for: the end of the stream, or the other side is gone. Of a ring, beside the
/// event that was asked for: the next call is -EPIPE; alone: the process at the other end died, once
/// for each death to each handle; a call that may wait tells so as well (-EOWNERDEAD), but not one with
/// MDG_NOWAIT. The value of POLLHUP.
pub const MDG_POLL_HUP: u32 = 0x10;

const _: () = assert!(MDG_WAIT_MAX as usize == MOST);

/// One thing to wait for, and what was found.
#[allow(non_camel_case_types)]
#[repr(C)]
pub struct mdg_wait {
    /// A ring, by a handle of this thread; NULL: `fd` counts.
    pub ring: *mut mdg_ring,
    /// A descriptor of any kind, if `ring` is NULL; negative: the entry is left out.
    pub fd: c_int,
    /// MDG_POLL_IN, MDG_POLL_OUT or both.
    pub events: u32,
    /// What mdg_wait_any found: bits of `events`, MDG_POLL_ERR, MDG_POLL_HUP; 0 if nothing.
    pub ready: u32,
    /// 0.
    pub reserved: u32,
}

const _: () = {
    assert!(MDG_POLL_IN == Events::IN.0 && MDG_POLL_OUT == Events::OUT.0);
    assert!(MDG_POLL_ERR == Events::ERR.0 && MDG_POLL_HUP == Events::HUP.0);
};

/// # Safety
/// `entry.ring` is NULL or a handle of this thread.
unsafe fn wait(entry: &mdg_wait) -> Result<Wait<'_>> {
    if entry.reserved != 0 {
        return Err(Error::new(Errno::EINVAL, "mdg_wait_any: an entry's reserved field is not 0"));
    }
    let source = if !entry.ring.is_null() {
        // SAFETY: the caller's promise.
        Source::Ring(unsafe { args::handle(entry.ring.cast_const()) }?)
    } else if entry.fd < 0 {
        Source::Nothing
    } else {
        // SAFETY: an open descriptor for the length of the call, or ppoll(2) says that it is none.
        Source::Fd(unsafe { BorrowedFd::borrow_raw(entry.fd) })
    };
    Ok(Wait { source, events: Events(entry.events), ready: Events::NONE })
}

/// Waits until at least one of `count` entries is ready, at most `timeout_ns` nanoseconds of monotonic
/// time (MDG_NOWAIT: looks only, MDG_FOREVER: without limit), and stores in each what was found.
///
/// A ring is ready for MDG_POLL_IN when a pop, for MDG_POLL_OUT when a push would not answer -EAGAIN:
/// because it would move an item, or fail for good (MDG_POLL_HUP, MDG_POLL_ERR beside it). Where many
/// hold the same end another may be quicker, and the call is -EAGAIN after all. MDG_POLL_HUP alone
/// says that the process at the other end died, everything it committed being delivered; it stands
/// until somebody takes its place, so leave the entry out till then. The same handle may stand in
/// several entries; ends are taken as their first use would. A wait that has to
/// sleep makes one inotify instance for all its rings (see mdg_ring_fd), which the first handle keeps.
/// Where it can have none, or cannot watch one of the files, it looks again after naps of 1 to 10 ms.
///
/// Returns how many entries are ready (1 or more), or: -EAGAIN · -ETIMEDOUT · -EINTR (a signal was
/// caught, whatever SA_RESTART says) · -ECANCELED (mdg_ring_cancel on any of the rings) · -EINVAL
/// (NULL, a count of 0 or above MDG_WAIT_MAX, other events, a reserved field that is not 0) · -EBADF
/// (not a handle, or not an open descriptor) · what taking an end returns (-EBUSY, -EACCES, also for a
/// consumer that may only read its ring, -EMFILE, -ENFILE, -ENOMEM, -ENOENT, -EBADMSG). No `ready` is
/// written then. Not async-signal-safe; not a cancellation point.
///
/// # Safety
/// `entries` is NULL or points to `count` entries, whose rings are handles of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_wait_any(
    entries: *mut mdg_wait,
    count: usize,
    timeout_ns: i64,
) -> c_int {
    guard(|| {
        let first = args::out(entries, "mdg_wait_any: entries")?;
        if count == 0 || count > MOST {
            return Err(Error::new(
                Errno::EINVAL,
                format_args!("mdg_wait_any: {count} entries; 1 to {MOST} are possible"),
            ));
        }
        // SAFETY: non-null; the caller vouches for `count` entries, and `count` is small.
        let entries = unsafe { std::slice::from_raw_parts_mut(first, count) };
        let nothing = Wait { source: Source::Nothing, events: Events::NONE, ready: Events::NONE };
        let mut waits = [nothing; MOST];
        for (entry, to) in entries.iter().zip(&mut waits) {
            // SAFETY: the caller's promise.
            *to = unsafe { wait(entry) }?;
        }
        let ready = wait_any(&mut waits[..count], Timeout::from_nanos(timeout_ns))?;
        let found = waits.map(|wait| wait.ready.0);
        for (entry, found) in entries.iter_mut().zip(found) {
            entry.ready = found;
        }
        Ok(ready as c_int)
    })
}
