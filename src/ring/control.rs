//! The control page of a ring: its shared words, one writer's data to a line.

use crate::object::{LINE, RoleWord, Shared};
use crate::sync::EventCount;
use crate::sync::atomic::{AtomicU32, AtomicU64};

/// No more pushes; set once, never cleared.
pub(crate) const SHUTDOWN: u32 = 1;
/// Somebody found an impossible index; set once, never cleared.
pub(crate) const CORRUPT: u32 = 2;

/// A value on a line of its own.
#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct Line<T>(pub T);

/// The control page. All zero is the state of a new ring.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Control {
    /// Positions ever committed, or claimed where many push.
    pub tail: Line<AtomicU64>,
    /// Positions ever taken, or claimed where many pop; in a broadcast, given up by the producer.
    pub head: Line<AtomicU64>,
    /// Consumers sleep on this one.
    pub not_empty: Line<EventCount>,
    /// Producers sleep on this one.
    pub not_full: Line<EventCount>,
    /// `SHUTDOWN | CORRUPT`. On a line that hardly ever changes: every push reads it.
    pub flags: Line<AtomicU32>,
    /// Who has the producing end.
    pub producer: Line<RoleWord>,
    /// Who has the consuming end.
    pub consumer: Line<RoleWord>,
    /// How often the producer went to sleep. Written by the producer.
    pub push_waits: Line<AtomicU64>,
    /// How often the consumer went to sleep. Written by the consumer.
    pub pop_waits: Line<AtomicU64>,
    /// Positions without an item that consumers have skipped.
    pub buried: Line<AtomicU64>,
    /// Items that went down with their takers.
    pub lost: Line<AtomicU64>,
    /// Items given up by a full-ring policy.
    pub dropped: Line<AtomicU64>,
    /// 1 once a handle asked for a descriptor to wait on: who notifies looks at all slots then.
    pub polled: Line<AtomicU32>,
    /// Consumers of a broadcast are, or were, in slots below this.
    pub readers: Line<AtomicU32>,
}

const _: () = assert!(align_of::<Line<u8>>() == LINE as usize);
#[cfg(not(loom))]
const _: () = assert!(std::mem::offset_of!(Control, readers) == 0x680);
const _: () = assert!(size_of::<Control>() <= 4096);

// SAFETY: repr(C), atomics only (RoleWord and EventCount are made of atomics).
unsafe impl Shared for Control {}
