//! What a handle keeps in private memory that a fork wipes: all of it follows from being attached
//! in *this* process, and all zero means "not attached, nothing held".

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, Ordering};

use super::pace::Pace;
use super::spsc::Side;
use super::watches::Watches;
use crate::object::End;
use crate::sys::doorbell::Bell;
use crate::sys::wipe::Zeroed;

/// The private state of a handle.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Hot {
    /// The ends of a ring that has one producer and one consumer.
    pub push: Side,
    pub pop: Side,
    /// The ends of the other kinds.
    pub seat: Seat,
    /// How this handle is called out of a wait.
    pub calls: Calls,
}

/// What reaches a handle while it waits, also from other threads and from signal handlers.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Calls {
    /// The descriptor to wait on.
    pub bell: Bell,
    /// What waits for many watch by this handle.
    pub watches: Watches,
    /// 1 while such a wait watches this handle's ring.
    pub watched: AtomicU32,
    /// What it is to tell: [`End::bit`].
    pub asked: Cell<u32>,
    /// 1 from a cancellation until the call that answers it.
    pub cancelled: AtomicU32,
    /// The deaths that this handle was told of, of holders of the producing and of the consuming end.
    pub told: [Told; 2],
}

/// The last holder of an end whose death a handle was told of, as [`RoleWord::turn_of_holder`] has it; 0
/// for none.
///
/// [`RoleWord::turn_of_holder`]: crate::object::RoleWord::turn_of_holder
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Told {
    /// By `EOWNERDEAD`.
    pub by_call: Cell<u32>,
    /// By [`Events::HUP`](super::Events::HUP) of a wait on many.
    pub by_event: Cell<u32>,
}

impl Calls {
    /// Whether a cancellation is pending.
    #[inline(always)]
    pub(crate) fn is_cancelled(&self) -> bool {
        // Relaxed: a hint, looked at again on the slow way.
        self.cancelled.load(Ordering::Relaxed) != 0
    }
}

// SAFETY: cells and atomics of integers: zero is valid, nothing to drop.
unsafe impl Zeroed for Hot {}

/// This handle's place among many.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Seat {
    /// Slot number + 1; 0 when this process has none.
    participant: Cell<u32>,
    pub push: Grip,
    pub pop: Grip,
    /// Items that went by without this handle, a consumer of a broadcast.
    pub lost: Cell<u64>,
}

/// What a handle has in hands at one end.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Grip {
    /// 1 if the handle takes part in this end.
    pub held: Cell<u32>,
    /// Pops in a row that found the ring empty at position `limit`, where many pop.
    pub vain: Cell<u32>,
    /// A position that was claimed and not finished: handed out, or kept back for the next call.
    pub run: Cell<InHands>,
    pub pace: Pace,
    /// Since when, in nanoseconds of the monotonic clock, somebody's unfinished position has been in
    /// the way; 0 if none is.
    pub blocked_since: Cell<u64>,
    /// Where it begins; or, for the ends of a broadcast, what is written or read next.
    pub position: Cell<u64>,
    /// How far `position` of a broadcast may go without another look at the ring; see also `vain`.
    pub limit: Cell<u64>,
}

/// How a claimed position is in hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct InHands(pub u64);

impl InHands {
    pub(crate) const NOTHING: Self = Self(0);
    /// Peeked and not released: the next pop of this handle gets it.
    pub(crate) const KEPT: Self = Self(u64::MAX);

    /// Items handed out to the caller.
    pub(crate) fn handed_out(self) -> u64 {
        if self == Self::KEPT { 0 } else { self.0 }
    }
}

impl Grip {
    /// Whether the end is held and nothing of it is in hands.
    #[inline(always)]
    pub(crate) fn is_free(&self) -> bool {
        self.held.get() != 0 && self.run.get() == InHands::NOTHING
    }
}

impl Seat {
    /// The slot; `None` when this process is not attached.
    pub(crate) fn participant(&self) -> Option<u32> {
        self.participant.get().checked_sub(1)
    }

    /// The slot of a handle that is attached.
    #[inline(always)]
    pub(crate) fn me(&self) -> u32 {
        debug_assert!(self.participant.get() != 0);
        self.participant.get().wrapping_sub(1)
    }

    pub(crate) fn sit_down(&self, participant: u32) {
        self.participant.set(participant + 1);
    }

    /// The slot is not this handle's any more.
    pub(crate) fn stand_up(&self) {
        self.participant.set(0);
    }

    pub(crate) fn grip(&self, end: End) -> &Grip {
        match end {
            End::Producer => &self.push,
            End::Consumer => &self.pop,
        }
    }
}
