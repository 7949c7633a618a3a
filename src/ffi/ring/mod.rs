//! `madang/ring.h`: rings.
//!
//! A ring is a bounded buffer of items of one size that one process fills and another empties. Items
//! come out in the order they went in, whole or not at all, and those committed survive the death of
//! either side. No lock is involved, and an operation that need not wait enters the kernel only to wake
//! somebody who sleeps. (For items of 1 KiB and more it may look at the monotonic clock now and then.)
//!
//! Only mdg_ring_shutdown ends a stream. A producer that closes its handle without it, after its last
//! item, leaves the consumers waiting, with MDG_FOREVER without limit: another producer may come. Whether
//! one is attached is in `producers` of mdg_ring_stats. The death of the last producer is told:
//! -EOWNERDEAD, once to each handle, whose next calls then wait for a successor.

// The header has the functions in the order of these lines.
mod open;
pub use open::*;

mod transfer;
pub use transfer::*;

mod place;
pub use place::*;

mod skip;
pub use skip::*;

mod inspect;
pub use inspect::*;

mod embed;
pub use embed::*;

use std::ffi::c_int;

use super::args::{self, Opaque};
use super::guard::{Answer, guard_or};
use crate::error::Result;
use crate::ring::Ring;

/// Kind: one producer and one consumer at a time. The default.
pub const MDG_RING_SPSC: u32 = 1;
/// Kind: any number of producers and consumers; each item goes to one consumer.
pub const MDG_RING_MPMC: u32 = 2;
/// Kind: one producer at a time, any number of consumers; each consumer sees every item that is
/// committed after it has joined. It joins when it opens the ring O_RDONLY, or with its first pop or
/// peek. A full ring waits for its slowest living consumer, unless a policy says otherwise.
pub const MDG_RING_BROADCAST: u32 = 3;

/// Policy: no process waits for another that has begun an operation and not finished it, be it dead
/// or stopped. For MDG_RING_MPMC; may be combined with one of the others. Costs time, and memory for
/// two more items per handle that may be open.
pub const MDG_RING_STOPPROOF: u32 = 0x1;
/// Policy: a push into a full ring gives up the oldest item instead of waiting. For MDG_RING_MPMC and
/// MDG_RING_BROADCAST; consumers of the latter need permission to read the ring only.
pub const MDG_RING_OVERWRITE: u32 = 0x2;
/// Policy: a push into a full ring takes the slowest consumer out instead of waiting for it; that one
/// is told with -EOVERFLOW, and joins again. For MDG_RING_BROADCAST.
pub const MDG_RING_EVICT: u32 = 0x4;
/// Policy: a push into a full ring is -EAGAIN at once, whatever its timeout.
pub const MDG_RING_FAIL: u32 = 0x8;
/// Policy: an item whose consumer is killed, or closes its handle, after it has claimed the item and
/// before it was done with it, goes to another consumer: at the latest when that one finds nothing else.
/// Who reads in place (peek, release) may thus see an item that a dead one has worked on already; no
/// item is returned by two pops. Pops answer -EPIPE only when no other consumer has an item in hands.
/// For MDG_RING_MPMC. MDG_RING_SPSC accepts it, as it does that anyway; a broadcast, and
/// MDG_RING_STOPPROOF, do not.
pub const MDG_RING_REDELIVER: u32 = 0x10;
/// Policy: capacity is not rounded up to a power of two: neither the limit nor the memory is more than
/// what was asked for. For items of more than 1024 bytes, in MDG_RING_SPSC, MDG_RING_BROADCAST and
/// MDG_RING_MPMC with MDG_RING_STOPPROOF.
pub const MDG_RING_EXACT: u32 = 0x20;

/// Bit of mdg_ring_open's oflag, with O_CREAT: a ring that is there already, and that no living handle
/// uses, is removed and made anew.
pub const MDG_FRESH: c_int = 0x2000_0000;

/// Bit in mdg_ring_opts.flags: this consumer of a broadcast begins with the oldest item that is still
/// there, not with the first one after it has joined.
pub const MDG_RING_OLDEST: u32 = 0x1;
/// Bit in mdg_ring_opts.flags: this consumer of a broadcast begins with the newest item that is there,
/// if there is one, and goes on with those that are committed after it. Not with MDG_RING_OLDEST.
pub const MDG_RING_LATEST: u32 = 0x2;
/// Event: a pop, or a read from a descriptor, may go on. The value of POLLIN.
pub const MDG_POLL_IN: u32 = 0x1;
/// Event: a push, or a write to a descriptor, may go on. The value of POLLOUT.
pub const MDG_POLL_OUT: u32 = 0x4;

/// State of an end: nobody has held it yet.
pub const MDG_RING_END_NEVER: u32 = 0;
/// State of an end: a living process holds it.
pub const MDG_RING_END_LIVE: u32 = 1;
/// State of an end: the last holder closed it.
pub const MDG_RING_END_CLOSED: u32 = 2;
/// State of an end: the last holder died, and nobody has held it since.
pub const MDG_RING_END_DEAD: u32 = 3;

/// Bit in mdg_ring_stats.flags: the stream was ended by mdg_ring_shutdown.
pub const MDG_RING_SHUTDOWN: u32 = 0x1;
/// Bit in mdg_ring_stats.flags: somebody found an impossible index; the ring is of no more use.
pub const MDG_RING_CORRUPT: u32 = 0x2;
/// Bit in mdg_ring_stats.flags: the ring had a name that is gone.
pub const MDG_RING_UNLINKED: u32 = 0x4;

/// A handle on a ring. It belongs to one thread at a time (mdg_ring_dup makes another for another
/// thread); mdg_ring_stat, mdg_ring_shutdown and mdg_ring_cancel alone may be called from any thread
/// meanwhile.
///
/// fork(2): a handle opened before works in both processes. The child is a new participant, attached
/// by its first operation. An end that the parent has used stays the parent's until the parent closes
/// the handle or dies; the child's attempt to use it is -EBUSY. Each process closes its own handle.
///
/// A process that exits without mdg_ring_close or mdg_ring_shutdown counts as dead, however it exited.
#[allow(non_camel_case_types)]
pub struct mdg_ring {
    _opaque: [u8; 0],
}

impl Opaque for mdg_ring {
    type Inner = Ring;
    const TAG: u64 = u64::from_le_bytes(*b"mdg:ring");
    const NAME: &'static str = "mdg_ring";
}

/// What a ring is to be, or must be. A zero means: whatever it is, or the default for a new one.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mdg_ring_opts {
    /// sizeof(mdg_ring_opts), set by the caller.
    pub size: usize,
    /// Items that fit: rounded up to a power of two (not with MDG_RING_EXACT), and all of them are
    /// usable. A new ring needs it.
    pub capacity: u64,
    /// Bytes of an item; a new ring needs it. Items stand one behind the other without padding, the
    /// first on a 128-byte boundary; those of MDG_RING_MPMC, and of a broadcast that overwrites, do not:
    /// there a run in place is one item, on an 8-byte boundary. So is it in a broadcast that evicts, if
    /// the item size is not a multiple of 8.
    pub item_size: u32,
    /// MDG_RING_SPSC, MDG_RING_MPMC, MDG_RING_BROADCAST.
    pub kind: u32,
    /// Handles that may be open at once, in all processes: at most 4096, 64 by default.
    pub max_handles: u32,
    /// MDG_RING_OVERWRITE, MDG_RING_EVICT or MDG_RING_FAIL; 0: a push into a full ring waits.
    /// MDG_RING_STOPPROOF, MDG_RING_REDELIVER and MDG_RING_EXACT may be added.
    pub policy: u32,
    /// MDG_RING_OLDEST or MDG_RING_LATEST. For this handle; not compared with the ring.
    pub flags: u32,
    /// A power of two that must divide the addresses of items in place, as the alignment of the item's
    /// type; 0: none. For this handle: if items do not lie so, -EINVAL for a new ring, -EPROTO for one
    /// that is there. Up to 128 is possible where items stand one behind the other, if it divides
    /// item_size; up to 8 elsewhere.
    pub item_align: u32,
}

/// A look at a ring, taken while others work on. At a quiet moment
/// written = read + dropped + lost + length. The numbers are the ring's, whatever handle is asked.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct mdg_ring_stats {
    /// sizeof(mdg_ring_stats), set by the caller; the library fills in what fits, sets what it does
    /// not know to zero, and stores here how many bytes it filled in.
    pub size: usize,
    /// Items that fit.
    pub capacity: u64,
    /// Bytes of an item.
    pub item_size: u32,
    /// MDG_RING_SPSC, MDG_RING_MPMC, MDG_RING_BROADCAST.
    pub kind: u32,
    /// Items inside. MDG_RING_BROADCAST: how far the slowest consumer is behind, or, while there is none,
    /// what is there for one with MDG_RING_OLDEST, whether others had read it or not: it does not go to
    /// 0 when the last consumer closes, but to what stays, which the next consumer or a push to a full
    /// ring changes. With MDG_RING_OVERWRITE, what is not overwritten.
    pub length: u64,
    /// Items ever committed.
    pub written: u64,
    /// Items ever taken. MDG_RING_BROADCAST: what is not `length` and not `dropped`, so it becomes less
    /// when the last consumer closes, or one joins with MDG_RING_OLDEST; with MDG_RING_OVERWRITE 0, as
    /// nobody tells.
    pub read: u64,
    /// Items given up for newer ones (MDG_RING_OVERWRITE), by evicting a consumer (MDG_RING_EVICT), or in
    /// a broadcast while there was no consumer.
    pub dropped: u64,
    /// Ends whose holder was found dead.
    pub recovered: u64,
    /// How often a producer went to sleep because the ring was full.
    pub push_waits: u64,
    /// How often a consumer went to sleep because the ring was empty.
    pub pop_waits: u64,
    /// Process that holds the producing end, or held it last; 0 if none did. In its own PID namespace.
    pub producer_pid: u32,
    /// Process that holds the consuming end, or held it last; 0 if none did. In its own PID namespace.
    pub consumer_pid: u32,
    /// MDG_RING_END_NEVER, _LIVE, _CLOSED or _DEAD.
    pub producer_state: u32,
    /// MDG_RING_END_NEVER, _LIVE, _CLOSED or _DEAD.
    pub consumer_state: u32,
    /// Handles that may be open at once.
    pub max_handles: u32,
    /// MDG_RING_SHUTDOWN, MDG_RING_CORRUPT, MDG_RING_UNLINKED.
    pub flags: u32,
    /// Items that went down with a consumer that had just taken them, where that is known.
    pub lost: u64,
    /// Places that a producer has claimed and not filled yet; not in `written`. MDG_RING_MPMC only.
    pub pending: u64,
    /// MDG_RING_STOPPROOF, MDG_RING_OVERWRITE, MDG_RING_EVICT, MDG_RING_FAIL, MDG_RING_REDELIVER.
    pub policy: u32,
    /// 0.
    pub reserved: u32,
    /// How often an item was given to another consumer after its own was gone (MDG_RING_REDELIVER). Such
    /// items are in `length` while they lie there, and are in `read` once.
    pub redelivered: u64,
    /// Living handles that hold the producing end. 0: no producer is attached, and a pop of an empty
    /// ring waits until one comes.
    pub producers: u32,
    /// Living handles that hold the consuming end. Consumers of a broadcast that may only read it are not
    /// counted: they leave no trace in it.
    pub consumers: u32,
    /// How often handles that wait with a descriptor (mdg_ring_fd, mdg_wait_any) could not be told of
    /// a change: the process that made it may no longer write to the ring's file, or the program has
    /// closed the ring's descriptor.
    pub notify_failures: u64,
}

/// # Safety
/// As for `args::handle`.
#[inline(always)]
unsafe fn with<A: Answer>(ring: *mut mdg_ring, entry: impl FnOnce(&Ring) -> Result<A>) -> A {
    guard_or(
        // SAFETY: the caller's promise.
        || unsafe { args::poison(ring) },
        // SAFETY: the caller's promise.
        || entry(unsafe { args::handle(ring.cast_const()) }?),
    )
}

/// A count of items as C returns it; it was checked to fit.
fn returned(count: usize) -> libc::ssize_t {
    count as libc::ssize_t
}
