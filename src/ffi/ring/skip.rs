//! Passing over old items.

use super::super::guard::keeping_errno;
use super::{mdg_ring, with};
use crate::sys::cancel;

/// Skips the oldest items until at most `keep` are left for this consumer: for a consumer that wants
/// the newest state only. It copies nothing and never waits.
///
/// The skipped items count as read, not as lost. Consumers of a broadcast skip for themselves alone.
/// While a producer goes on, more than `keep` items may be there when the call returns. A ring in which
/// only one item is ever wanted has a capacity of 1 and MDG_RING_OVERWRITE.
///
/// Returns how many items were skipped: 0 if there were at most `keep`. On failure:
///   -EINVAL     NULL, or a peeked run was not released
///   -EBADF      not a live handle
///   -EACCES     the handle was opened O_WRONLY
///   -EBUSY      another live process has the consuming end
///   -EOVERFLOW  MDG_RING_EVICT: this consumer was evicted, as in mdg_ring_pop; the next call goes on
///   -EBADMSG    the ring is corrupt
///   -EMFILE, -ENFILE, -ENOMEM  the first use of an O_RDWR handle, or of a forked one
/// Thread: the handle's thread only. Not async-signal-safe; not a cancellation point.
///
/// # Safety
/// `ring` is NULL or a handle of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_skip(ring: *mut mdg_ring, keep: u64) -> i64 {
    let skip = |ring: &crate::ring::Ring| {
        // A capacity fits in an isize.
        cancel::without(|| keeping_errno(|| Ok(ring.skip(keep)? as i64)))
    };
    // SAFETY: the caller's promise.
    unsafe { with(ring, skip) }
}
