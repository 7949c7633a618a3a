//! The kinds of ring in which an end may have many holders, behind one set of operations.
//!
//! A ring with one producer and one consumer is not among them: its fast path is inlined into the
//! entry functions.

use std::ptr::NonNull;

use super::broadcast::{self, Gated, Miss, Overwrite, Start};
use super::mpmc::{self, Blocked};
use super::seat::{Grip, InHands, Seat};
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
    /// So many items went by that this consumer has not read; it goes on behind them.
    Lost(u64),
}

impl From<Corrupt> for Trouble {
    fn from(_: Corrupt) -> Self {
        Self::Corrupt
    }
}

impl Seat {
    /// Counts what this consumer has lost.
    fn missed<T>(&self, result: Result<T, Miss>) -> Result<T, Trouble> {
        result.map_err(|miss| match miss {
            Miss::Corrupt => Trouble::Corrupt,
            Miss::Lost(count) => {
                self.lost.set(self.lost.get().saturating_add(count));
                Trouble::Lost(count)
            }
        })
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
    pub redelivered: u64,
}

/// Most old items that one push gives up before it says that it would have to wait. Each one after
/// the first is because another push took the room, or a scribbler filled it.
const MOST_GIVEN_UP: u32 = 10_000;

/// Does `attempt` once, and where `overwrite` is set again as long as it is not `done` and giving up
/// an old item makes room.
#[inline(always)]
fn making_room<T>(
    overwrite: bool,
    mut attempt: impl FnMut() -> Result<T, Trouble>,
    done: impl Fn(&T) -> bool,
    mut make_room: impl FnMut() -> Result<bool, Trouble>,
) -> Result<T, Trouble> {
    let mut result = attempt()?;
    if overwrite {
        for _ in 0..MOST_GIVEN_UP {
            if done(&result) || !make_room()? {
                break;
            }
            result = attempt()?;
        }
    }
    Ok(result)
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
    /// One producer that never waits, many consumers.
    Overwrite(Overwrite<broadcast::Mapped>),
    /// One producer that waits for the slowest of many consumers.
    Gated(Gated<broadcast::Mapped>),
}

impl Engine {
    /// Whether many handles may hold `end` at once.
    pub(crate) fn is_shared(&self, end: End) -> bool {
        match self {
            Self::Spsc => false,
            Self::Mpmc { .. } | Self::StopProof { .. } => true,
            Self::Overwrite(_) | Self::Gated(_) => end == End::Consumer,
        }
    }

    /// Whether a producer may wait for what consumers do.
    #[inline(always)]
    pub(crate) fn waits_for_room(&self) -> bool {
        !matches!(self, Self::Overwrite(_))
    }

    /// Whether the producer that waits for room has some, now that this handle has read.
    pub(crate) fn lets_push(&self) -> bool {
        match self {
            Self::Gated(core) => core.lets_push(),
            _ => true,
        }
    }

    /// Takes `end` for this handle, which has the right to it; a consumer begins at `start`.
    pub(crate) fn take(&self, seat: &Seat, end: End, start: Start) -> Result<(), Trouble> {
        match (self, end) {
            (Self::Spsc | Self::Mpmc { .. } | Self::StopProof { .. }, _) => {}
            (Self::Overwrite(core), End::Producer) => seat.push.position.set(core.take_push()),
            (Self::Overwrite(core), End::Consumer) => seat.pop.position.set(core.join(start)),
            (Self::Gated(core), End::Producer) => core.take_push(&seat.push)?,
            (Self::Gated(core), End::Consumer) => core.join(seat.me(), &seat.pop, start),
        }
        seat.grip(end).held.set(1);
        Ok(())
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
            Self::Mpmc { core, overwrite } => making_room(
                // What this handle has peeked keeps its name in the intent that giving up needs.
                *overwrite && seat.pop.run.get() == InHands::NOTHING,
                // SAFETY: the caller's promise.
                || Ok(unsafe { core.push(seat.me(), items, size, count) }?),
                |&pushed| pushed > 0,
                || Ok(core.make_room(seat.me())?),
            ),
            Self::StopProof { core, overwrite } => making_room(
                *overwrite,
                // SAFETY: the caller's promise.
                || Ok(unsafe { core.push(seat.me(), items, size, count) }?),
                |&pushed| pushed > 0,
                || Ok(core.discard()?),
            ),
            Self::Overwrite(core) => {
                // SAFETY: the caller's promise.
                Ok(unsafe { core.push(&seat.push.position, items, size, count) })
            }
            // SAFETY: the caller's promise.
            Self::Gated(core) => Ok(unsafe { core.push(&seat.push, items, size, count) }),
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
            Self::Overwrite(core) => {
                // SAFETY: the caller's promise.
                seat.missed(unsafe { core.pop(&seat.pop.position, items, size, count) })
            }
            Self::Gated(core) => {
                // SAFETY: the caller's promise; this handle has joined.
                seat.missed(unsafe { core.pop(seat.me(), &seat.pop, items, size, count) })
            }
        }
    }

    /// Hands out room for at most `count` items in place.
    pub(crate) fn reserve(&self, seat: &Seat, count: u64) -> Result<Option<InPlace>, Trouble> {
        match self {
            Self::Spsc => Ok(None),
            Self::Mpmc { core, overwrite } => {
                let reserved = making_room(
                    *overwrite && seat.pop.run.get() == InHands::NOTHING,
                    || Ok(core.reserve(seat.me())?),
                    Option::is_some,
                    || Ok(core.make_room(seat.me())?),
                )?;
                let Some((position, item)) = reserved else { return Ok(None) };
                seat.push.position.set(position);
                seat.push.run.set(InHands(1));
                Ok(Some((item, 1)))
            }
            Self::StopProof { core, overwrite } => {
                let reserved = making_room(
                    *overwrite,
                    || Ok(core.reserve(seat.me())?),
                    Option::is_some,
                    || Ok(core.discard()?),
                )?;
                let Some(cell) = reserved else { return Ok(None) };
                seat.push.position.set(cell);
                seat.push.run.set(InHands(1));
                Ok(Some((core.item(cell), 1)))
            }
            Self::Overwrite(core) => {
                let item = core.reserve(seat.push.position.get());
                Ok(handed_out(&seat.push, Some((item, 1))))
            }
            Self::Gated(core) => Ok(handed_out(&seat.push, core.reserve(&seat.push, count))),
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
            Self::Overwrite(_) | Self::Gated(_) if count == 0 => {}
            Self::Overwrite(core) => seat.push.position.set(core.commit(position)),
            Self::Gated(core) => core.commit(&seat.push, count),
        }
        Ok(())
    }

    /// Hands out at most `count` items in place.
    pub(crate) fn peek(&self, seat: &Seat, count: u64) -> Result<Option<InPlace>, Trouble> {
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
            Self::Overwrite(core) => {
                let item = seat.missed(core.peek(&seat.pop.position))?;
                Ok(handed_out(&seat.pop, item.map(|item| (item, 1))))
            }
            Self::Gated(core) => {
                let run = seat.missed(core.peek(seat.me(), &seat.pop, count))?;
                Ok(handed_out(&seat.pop, run))
            }
        }
    }

    /// Takes the first `count` of the items that were handed out off the ring; the others stay this
    /// handle's, for its next pop.
    pub(crate) fn release(&self, seat: &Seat, count: u64) -> Result<(), Trouble> {
        seat.pop.run.set(InHands::NOTHING);
        match self {
            Self::Spsc => {}
            Self::Mpmc { .. } | Self::StopProof { .. } if count == 0 => {
                seat.pop.run.set(InHands::KEPT);
                return Ok(());
            }
            Self::Mpmc { core, .. } => core.release(seat.pop.position.get()),
            Self::StopProof { core, .. } => core.release(seat.pop.position.get()),
            Self::Overwrite(_) | Self::Gated(_) if count == 0 => {}
            Self::Overwrite(core) => seat.missed(core.release(&seat.pop.position))?,
            Self::Gated(core) => seat.missed(core.release(seat.me(), &seat.pop, count))?,
        }
        Ok(())
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
            Self::Overwrite(_) => {}
            Self::Gated(core) => {
                if seat.pop.held.get() != 0 {
                    core.leave(seat.me());
                }
            }
        }
    }

    /// Items that a consumer has before it, or places that a producer has, as far as the indices
    /// tell: for deciding how long to spin, and nothing else.
    pub(crate) fn ahead(&self, end: End) -> u64 {
        match self {
            Self::Spsc | Self::StopProof { .. } | Self::Overwrite(_) | Self::Gated(_) => 0,
            Self::Mpmc { core, .. } => core.ahead(end),
        }
    }

    /// Whether this handle has made room by an operation that gave nothing, or one that took items and
    /// has not given them back yet: producers are to be told.
    pub(crate) fn has_made_room(&self, found: bool) -> bool {
        match self {
            Self::Spsc | Self::Overwrite(_) | Self::Gated(_) => false,
            // Places without an item.
            Self::Mpmc { core, .. } => core.has_made_room(),
            // What is taken is out of the queue, however long it is read.
            Self::StopProof { .. } => found,
        }
    }

    /// Whether nothing will come any more once pushes have ended.
    pub(crate) fn is_drained(&self, seat: &Seat) -> bool {
        match self {
            Self::Spsc => true,
            Self::Mpmc { core, .. } => core.is_settled(seat.me()),
            Self::StopProof { core, .. } => core.is_empty(),
            // Each consumer has its own end of the stream: it has just found nothing.
            Self::Overwrite(_) | Self::Gated(_) => true,
        }
    }

    /// Whether an operation at `end` finds a cell that it can claim. It may be one without an item,
    /// or be gone by then.
    pub(crate) fn is_ready(&self, seat: &Seat, end: End) -> bool {
        match self {
            Self::Spsc => false,
            Self::Mpmc { core, overwrite } => match end {
                End::Producer => {
                    let yields = *overwrite && seat.pop.run.get() == InHands::NOTHING;
                    core.is_ready(end) || yields && core.is_ready(End::Consumer)
                }
                End::Consumer => seat.pop.run.get() == InHands::KEPT || core.is_ready(end),
            },
            Self::StopProof { core, overwrite } => match end {
                End::Producer => *overwrite || core.is_ready(end),
                End::Consumer => seat.pop.run.get() == InHands::KEPT || core.is_ready(end),
            },
            Self::Overwrite(core) => end == End::Producer || core.is_ready(seat.pop.position.get()),
            Self::Gated(core) => match end {
                End::Producer => core.has_room(&seat.push),
                End::Consumer => core.is_ready(seat.me(), &seat.pop),
            },
        }
    }

    /// Whether the next operation of a handle at `end` waits for somebody who may be dead, rather than
    /// for items or room.
    pub(crate) fn is_blocked(&self, seat: &Seat, end: End) -> bool {
        match self {
            Self::Spsc | Self::StopProof { .. } | Self::Overwrite(_) => false,
            Self::Mpmc { core, .. } => {
                // What the dead have in hands is in no consumer's way, but owed to it.
                end == End::Consumer && core.redelivers() || core.blocked(end) != Blocked::No
            }
            Self::Gated(core) => end == End::Producer && core.is_full(&seat.push),
        }
    }

    /// Clears away what the dead have left in the way of the next operation at `end`.
    pub(crate) fn mend(&self, end: End, alive: &dyn Fn(u32) -> bool) -> Result<bool, Trouble> {
        match self {
            // In a stop-proof ring nothing the dead leave is in the way of anybody.
            Self::Spsc | Self::StopProof { .. } => Ok(false),
            Self::Mpmc { core, .. } => Ok(core.mend(end, alive)?),
            Self::Overwrite(_) => Ok(false),
            Self::Gated(core) => Ok(end == End::Producer && core.bury(alive)),
        }
    }

    /// Clears away what the dead participant `index` has left; see `Participant::attach`.
    pub(crate) fn sweep(&self, index: u32, alive: &dyn Fn(u32) -> bool) -> bool {
        match self {
            Self::Spsc | Self::Overwrite(_) => true,
            Self::Gated(core) => {
                core.leave(index);
                true
            }
            Self::Mpmc { core, .. } => core.sweep(index, alive),
            Self::StopProof { core, .. } => {
                core.sweep(index);
                true
            }
        }
    }

    /// Whether what a dead taker had in hands comes again.
    pub(crate) fn redelivers(&self) -> bool {
        match self {
            Self::Mpmc { core, .. } => core.redelivers(),
            _ => false,
        }
    }

    /// Whether participant `index` may have something in hands that would come again.
    pub(crate) fn has_in_hands(&self, index: u32) -> bool {
        match self {
            Self::Mpmc { core, .. } => core.redelivers() && core.has_in_hands(index),
            _ => false,
        }
    }

    /// The numbers, for the kinds that are not counted by their indices alone.
    pub(crate) fn tally(&self, alive: &dyn Fn(u32) -> bool) -> Option<Tally> {
        match self {
            Self::Spsc => None,
            Self::Mpmc { core, .. } => {
                let mpmc::Tally { written, read, dropped, lost, length, pending, redelivered } =
                    core.tally();
                Some(Tally { written, read, dropped, lost, length, pending, redelivered })
            }
            Self::StopProof { core, .. } => {
                let stopproof::Tally { written, read, dropped, lost, length, pending } =
                    core.tally(alive);
                let redelivered = 0;
                Some(Tally { written, read, dropped, lost, length, pending, redelivered })
            }
            Self::Overwrite(core) => Some(core.tally().into()),
            Self::Gated(core) => Some(core.tally().into()),
        }
    }
}

impl From<broadcast::Tally> for Tally {
    fn from(tally: broadcast::Tally) -> Self {
        let broadcast::Tally { written, read, dropped, length } = tally;
        Self { written, read, dropped, length, ..Self::default() }
    }
}

/// Notes what is handed out.
fn handed_out(grip: &Grip, run: Option<InPlace>) -> Option<InPlace> {
    if let Some((_, count)) = run {
        grip.run.set(InHands(count));
    }
    run
}
