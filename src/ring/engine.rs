//! The kinds of ring in which an end may have many holders, behind one set of operations.
//!
//! A ring with one producer and one consumer is not among them: its fast path is inlined into the
//! entry functions.

use std::ptr::NonNull;

use super::mpmc::{self, Blocked};
use super::seat::{InHands, Seat};
use super::spsc::Corrupt;
use super::stopproof;
use crate::object::End;

/// Items in place, and how many.
pub(crate) type InPlace = (NonNull<u8>, u64);

/// Why an operation gave nothing but for want of items or room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Words that no history leads to.
    Corrupt,
}

impl From<Corrupt> for Trouble {
    fn from(_: Corrupt) -> Self {
        Self::Corrupt
    }
}

/// Numbers for [`Stats`](super::Stats).
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Tally {
    pub written: u64,
    pub read: u64,
    pub dropped: u64,
    pub lost: u64,
    pub length: u64,
    pub pending: u64,
}

/// The algorithm of one ring. Every operation is tried once and never waits; an answer of 0 or
/// `None` says that it would have to.
#[derive(Debug)]
pub(crate) enum Engine {
    /// One producer, one consumer: see `transfer`.
    Spsc,
    /// Many of both.
    Mpmc {
        core: mpmc::Core<mpmc::Mapped>,
        /// Whether a push into a full ring gives up the oldest item.
        overwrite: bool,
    },
    /// Many of both, none of whom ever waits for another. Positions in hands are cells here.
    StopProof {
        core: stopproof::Core<stopproof::Mapped>,
        /// As above.
        overwrite: bool,
    },
}

impl Engine {
    /// Whether many handles may hold `end` at once.
    pub(crate) fn is_shared(&self, _end: End) -> bool {
        match self {
            Self::Spsc => false,
            Self::Mpmc { .. } | Self::StopProof { .. } => true,
        }
    }

    /// Pushes at most `count` items.
    ///
    /// # Safety
    /// `items` is readable for `count` items of `size` bytes; the handle holds the producing end.
    #[inline(always)]
    pub(crate) unsafe fn push(
        &self,
        seat: &Seat,
        items: *const u8,
        size: usize,
        count: u64,
    ) -> Result<u64, Trouble> {
        match self {
            Self::Spsc => Ok(0),
            Self::Mpmc { core, overwrite } => {
                // SAFETY: the caller's promise.
                let mut pushed = unsafe { core.push(seat.me(), items, size, count) }?;
                // What this handle has peeked keeps its name in the intent that a discard needs.
                while pushed == 0
                    && *overwrite
                    && seat.pop.run.get() == InHands::NOTHING
                    && core.discard(seat.me())?
                {
                    // SAFETY: the caller's promise.
                    pushed = unsafe { core.push(seat.me(), items, size, count) }?;
                }
                Ok(pushed)
            }
            Self::StopProof { core, overwrite } => {
                // SAFETY: the caller's promise.
                let mut pushed = unsafe { core.push(seat.me(), items, size, count) }?;
                while pushed == 0 && *overwrite && core.discard()? {
                    // SAFETY: the caller's promise.
                    pushed = unsafe { core.push(seat.me(), items, size, count) }?;
                }
                Ok(pushed)
            }
        }
    }

    /// Pops at most `count` items.
    ///
    /// # Safety
    /// `items` is writable for `count` items of `size` bytes; the handle holds the consuming end.
    #[inline(always)]
    pub(crate) unsafe fn pop(
        &self,
        seat: &Seat,
        items: *mut u8,
        size: usize,
        count: u64,
    ) -> Result<u64, Trouble> {
        match self {
            Self::Spsc => Ok(0),
            Self::Mpmc { core, .. } => {
                if seat.pop.run.get() == InHands::KEPT {
                    // SAFETY: the caller's promise; the position is ours since it was peeked.
                    unsafe { core.take(seat.pop.position.get(), items) };
                    seat.pop.run.set(InHands::NOTHING);
                    return Ok(1);
                }
                // SAFETY: the caller's promise.
                Ok(unsafe { core.pop(seat.me(), items, size, count) }?)
            }
            Self::StopProof { core, .. } => {
                if seat.pop.run.get() == InHands::KEPT {
                    // SAFETY: the caller's promise; the cell is ours since it was peeked.
                    unsafe { core.take(seat.pop.position.get(), items) };
                    seat.pop.run.set(InHands::NOTHING);
                    return Ok(1);
                }
                // SAFETY: the caller's promise.
                Ok(unsafe { core.pop(seat.me(), items, size, count) }?)
            }
        }
    }

    /// Hands out room for at most `count` items in place.
    pub(crate) fn reserve(&self, seat: &Seat, _count: u64) -> Result<Option<InPlace>, Trouble> {
        match self {
            Self::Spsc => Ok(None),
            Self::Mpmc { core, overwrite } => {
                let mut reserved = core.reserve(seat.me())?;
                while reserved.is_none()
                    && *overwrite
                    && seat.pop.run.get() == InHands::NOTHING
                    && core.discard(seat.me())?
                {
                    reserved = core.reserve(seat.me())?;
                }
                let Some((position, item)) = reserved else { return Ok(None) };
                seat.push.position.set(position);
                seat.push.run.set(InHands(1));
                Ok(Some((item, 1)))
            }
            Self::StopProof { core, overwrite } => {
                let mut reserved = core.reserve(seat.me())?;
                while reserved.is_none() && *overwrite && core.discard()? {
                    reserved = core.reserve(seat.me())?;
                }
                let Some(cell) = reserved else { return Ok(None) };
                seat.push.position.set(cell);
                seat.push.run.set(InHands(1));
                Ok(Some((core.item(cell), 1)))
            }
        }
    }

    /// Commits the first `count` of the items that were handed out.
    pub(crate) fn commit(&self, seat: &Seat, count: u64) -> Result<(), Trouble> {
        let position = seat.push.position.get();
        seat.push.run.set(InHands::NOTHING);
        match self {
            Self::Spsc => {}
            Self::Mpmc { core, .. } if count == 0 => core.give_back(position),
            Self::Mpmc { core, .. } => core.commit(position),
            Self::StopProof { core, .. } if count == 0 => core.give_back(position),
            Self::StopProof { core, .. } => core.commit(seat.me(), position)?,
        }
        Ok(())
    }

    /// Hands out at most `count` items in place.
    pub(crate) fn peek(&self, seat: &Seat, _count: u64) -> Result<Option<InPlace>, Trouble> {
        match self {
            Self::Spsc => Ok(None),
            Self::Mpmc { core, .. } => {
                if seat.pop.run.get() == InHands::KEPT {
                    seat.pop.run.set(InHands(1));
                    return Ok(Some((core.item(seat.pop.position.get()), 1)));
                }
                let Some((position, item)) = core.peek(seat.me())? else { return Ok(None) };
                seat.pop.position.set(position);
                seat.pop.run.set(InHands(1));
                Ok(Some((item, 1)))
            }
            Self::StopProof { core, .. } => {
                if seat.pop.run.get() != InHands::KEPT {
                    let Some(cell) = core.peek(seat.me())? else { return Ok(None) };
                    seat.pop.position.set(cell);
                }
                seat.pop.run.set(InHands(1));
                Ok(Some((core.item(seat.pop.position.get()), 1)))
            }
        }
    }

    /// Takes the first `count` of the items that were handed out off the ring; the others stay this
    /// handle's, for its next pop.
    pub(crate) fn release(&self, seat: &Seat, count: u64) {
        match self {
            Self::Spsc => {}
            _ if count == 0 => return seat.pop.run.set(InHands::KEPT),
            Self::Mpmc { core, .. } => core.release(seat.pop.position.get()),
            Self::StopProof { core, .. } => core.release(seat.pop.position.get()),
        }
        seat.pop.run.set(InHands::NOTHING);
    }

    /// Gives back what a handle that closes still has in hands.
    pub(crate) fn leave(&self, seat: &Seat) {
        match self {
            Self::Spsc => {}
            Self::Mpmc { core, .. } => {
                if seat.push.run.get() != InHands::NOTHING {
                    core.give_back(seat.push.position.get());
                }
                if seat.pop.run.get() != InHands::NOTHING {
                    core.lose(seat.pop.position.get());
                }
            }
            Self::StopProof { core, .. } => {
                if seat.push.run.get() != InHands::NOTHING {
                    core.give_back(seat.push.position.get());
                }
                if seat.pop.run.get() != InHands::NOTHING {
                    core.lose(seat.pop.position.get());
                }
            }
        }
    }

    /// Items that a consumer has before it, or places that a producer has, as far as the indices
    /// tell: for deciding how long to spin, and nothing else.
    pub(crate) fn ahead(&self, end: End) -> u64 {
        match self {
            Self::Spsc | Self::StopProof { .. } => 0,
            Self::Mpmc { core, .. } => core.ahead(end),
        }
    }

    /// Whether nothing will come any more once pushes have ended.
    pub(crate) fn is_drained(&self, _seat: &Seat) -> bool {
        match self {
            Self::Spsc => true,
            Self::Mpmc { core, .. } => core.is_empty(),
            Self::StopProof { core, .. } => core.is_empty(),
        }
    }

    /// Whether the next operation at `end` waits for somebody who has begun and not finished, rather
    /// than for items or room.
    pub(crate) fn is_blocked(&self, end: End) -> bool {
        match self {
            Self::Spsc | Self::StopProof { .. } => false,
            Self::Mpmc { core, .. } => core.blocked(end) != Blocked::No,
        }
    }

    /// Clears away what the dead have left in the way of the next operation at `end`.
    pub(crate) fn mend(&self, end: End, alive: &dyn Fn(u32) -> bool) -> Result<bool, Trouble> {
        match self {
            // In a stop-proof ring nothing the dead leave is in the way of anybody.
            Self::Spsc | Self::StopProof { .. } => Ok(false),
            Self::Mpmc { core, .. } => Ok(core.mend(end, alive)?),
        }
    }

    /// Clears away what the dead participant `index` has left; see `Participant::attach`.
    pub(crate) fn sweep(&self, index: u32, alive: &dyn Fn(u32) -> bool) -> bool {
        match self {
            Self::Spsc => true,
            Self::Mpmc { core, .. } => core.sweep(index, alive),
            Self::StopProof { core, .. } => {
                core.sweep(index);
                true
            }
        }
    }

    /// The numbers, for the kinds that are not counted by their indices alone.
    pub(crate) fn tally(&self, alive: &dyn Fn(u32) -> bool) -> Option<Tally> {
        match self {
            Self::Spsc => None,
            Self::Mpmc { core, .. } => {
                let mpmc::Tally { written, read, dropped, lost, length, pending } = core.tally();
                Some(Tally { written, read, dropped, lost, length, pending })
            }
            Self::StopProof { core, .. } => {
                let stopproof::Tally { written, read, dropped, lost, length, pending } =
                    core.tally(alive);
                Some(Tally { written, read, dropped, lost, length, pending })
            }
        }
    }
}
