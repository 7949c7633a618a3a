//! The control page of a ring: its shared words, one writer's data to a line.

use crate::object::{End, LINE, RoleWord, Shared};
use crate::sync::EventCount;
use crate::sync::atomic::{AtomicU32, AtomicU64};

/// No more pushes; set once, never cleared.
pub(crate) const SHUTDOWN: u32 = 1;
/// Somebody found an impossible index; set once, never cleared.
pub(crate) const CORRUPT: u32 = 2;
/// There may be items that came back: the straight way is not to be taken. A hint, set and cleared.
pub(crate) const RETURNED: u32 = 4;

/// The part of [`Control::polled`] that is a number of slots.
pub(crate) const POLL_MARK: u32 = 0xffff;

/// A value on a line of its own.
#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct Line<T>(pub T);

/// The producing index, and on the same line the last items.
#[repr(C, align(128))]
#[derive(Debug)]
pub(crate) struct Tail(pub AtomicU64, pub Recent);

/// Copies of the last items of eight bytes that were pushed one by one, for a consumer that has the
/// index's line in hands: see `spsc`.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Recent {
    /// The index after the last item that was copied here.
    pub after: AtomicU64,
    /// The items with an even index, and those with an odd one.
    pub words: [AtomicU64; 2],
}

/// The control page. All zero is the state of a new ring.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Control {
    /// Positions ever committed, or claimed where many push.
    pub tail: Tail,
    /// Positions ever taken, or claimed where many pop; in a broadcast, given up by the producer.
    pub head: Line<AtomicU64>,
    /// Consumers sleep on this one.
    pub not_empty: Line<EventCount>,
    /// Producers sleep on this one.
    pub not_full: Line<EventCount>,
    /// `SHUTDOWN | CORRUPT | RETURNED`. On a line that hardly ever changes: every push reads it.
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
    /// How many handles wait with a descriptor, in the upper half; in the lower one ([`POLL_MARK`]), below
    /// which slot all of them are. The last one leaves 0.
    pub polled: Line<AtomicU32>,
    /// Consumers of a broadcast are, or were, in slots below this.
    pub readers: Line<AtomicU32>,
    /// How often items of dead takers came back.
    pub returned: Line<AtomicU64>,
    /// Up to which `returned` all of them have been taken again.
    pub settled: Line<AtomicU64>,
    /// Items that were taken again after their taker was gone.
    pub redelivered: Line<AtomicU64>,
    /// Notifications that could not be given.
    pub notify_failures: Line<AtomicU64>,
}

const _: () = assert!(align_of::<Line<u8>>() == LINE as usize);
#[cfg(not(loom))]
const _: () = assert!(std::mem::offset_of!(Control, notify_failures) == 0x880);
const _: () = assert!(size_of::<Control>() <= 4096);

impl Control {
    /// The event that those wait for who wait at `end`.
    #[inline(always)]
    pub(super) fn event(&self, end: End) -> &EventCount {
        match end {
            End::Producer => &self.not_full.0,
            End::Consumer => &self.not_empty.0,
        }
    }
}

#[cfg(all(test, loom))]
impl Control {
    /// A control page for the model checker, whose atomics are not made of zeros.
    pub(crate) fn at(index: u64) -> Self {
        // SAFETY: made of std's atomics, for which zero is valid.
        let role = || Line(unsafe { std::mem::zeroed() });
        let (word, event) = (|| Line(AtomicU64::new(0)), || Line(EventCount::default()));
        let recent =
            Recent { after: AtomicU64::new(0), words: [AtomicU64::new(0), AtomicU64::new(0)] };
        let (tail, head) = (Tail(AtomicU64::new(index), recent), Line(AtomicU64::new(index)));
        let small = || Line(AtomicU32::new(0));
        Self {
            tail,
            head,
            not_empty: event(),
            not_full: event(),
            flags: small(),
            producer: role(),
            consumer: role(),
            push_waits: word(),
            pop_waits: word(),
            buried: word(),
            lost: word(),
            dropped: word(),
            polled: small(),
            readers: small(),
            returned: word(),
            settled: word(),
            redelivered: word(),
            notify_failures: word(),
        }
    }
}

// SAFETY: repr(C), atomics only (RoleWord and EventCount are made of atomics).
unsafe impl Shared for Control {}
