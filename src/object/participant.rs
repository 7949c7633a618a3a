//! Participants: a slot for every open handle, and the proof that its process lives.
//!
//! Invariant: a slot's byte is locked exactly while its handle's process lives and has not closed
//! the handle. `state` is 1 from attaching to closing; "1 with the byte free" is a corpse, which the
//! next one who takes the slot clears away: first what its owner left half-done in the ring (its
//! intents say where), then the slot. Killed at any point of attaching, clearing away or closing, a
//! process leaves either a clean slot or a corpse whose intents still stand.
//!
//! The kernel keeps the locks of a file in a list, so each question about one costs more the more
//! handles there are. Attaching therefore asks about few: it takes a slot whose state is clean, which is
//! free but for the moment in which another process attaches or leaves; of the slots in use it asks about
//! some, in turn, so that the dead are cleared away in time and never outnumber the living for long. Only
//! when no slot is clean it asks about all of them.
//!
//! Where to look first is in [`Hint`]. It decides nothing, so a wrong one costs time alone:
//!
//! | killed | left behind | what follows |
//! |---|---|---|
//! | with the byte locked, before `state` is 1 | a clean slot | the next one takes it |
//! | after `state` is 1 | a corpse | cleared away by who asks about it |
//! | before `free_from` moves up | it is too low | the next one reads more states |
//! | between cleaning a slot and moving `free_from` down | it is too high | the slot is found when those above it are taken |
//! | before `high` or `look_from` moves | some slots are not asked about in turn | they are when no slot is clean |
//!
//! The identity in a slot is for messages and dumps; by `process` alone does a process know its own slots.

mod attach;

use nix::errno::Errno;
use nix::poll::{PollTimeout, poll};

use super::geometry::{Geometry, MAX_HANDLES_LIMIT, PARTICIPANT_STRIDE, PARTICIPANTS_OFFSET};
use super::region::{Region, Shared};
use super::role::End;
use crate::error::{Error, Result};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sys::kept;
use crate::sys::lock::{Anchor, Token};
use crate::sys::process;
use attach::{Attach, Hint};

/// Lock byte of slot 0; slot X has `SLOT_BYTE + 2 * X`. Beyond the end of any file: nothing is
/// stored there.
pub(super) const SLOT_BYTE: u64 = 0x100;

/// The bits of [`Slot::poll`] that name ends.
pub(crate) const POLLED_ENDS: u32 = 3;

/// Lock bytes of an object, roles and slots, behind the admin byte.
pub(super) const LOCK_BYTES: u64 = SLOT_BYTE + 2 * MAX_HANDLES_LIMIT as u64;

/// In [`Slot::ends`]: its process has ended the stream. If it leaves then, closing or not, that is no
/// death.
pub(crate) const ENDED: u32 = 4;

const CLEAN: u32 = 0;
pub(super) const IN_USE: u32 = 1;

/// How many milliseconds to go on looking for a slot where all are taken: a byte may be held only to
/// clear away after a dead owner, or by an opener that gives way.
const PATIENCE: u32 = 10;

/// How many slots in use to ask about in such a later turn.
const AGAIN: u32 = 256;

/// A participant's slot in shared memory, written by the holder of its byte; `poll` is also cleared
/// by those who notify.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Slot {
    state: AtomicU32,
    /// How often the slot was taken.
    generation: AtomicU32,
    pid: AtomicU32,
    uid: AtomicU32,
    start_time: AtomicU64,
    pid_namespace: AtomicU64,
    /// Which ends its handle takes part in, where an end has many holders: [`End::bit`]; and [`ENDED`].
    pub ends: AtomicU32,
    /// Which readiness its handle waits for with a descriptor: [`End::bit`]; and, in the bits above
    /// those, whether it is counted, and how often it has armed. See `ring/arming.rs`.
    pub poll: AtomicU32,
    /// The process that has the slot: [`process::tag`].
    process: AtomicU64,
    /// When it was taken, in nanoseconds since 1970; for lists.
    since: AtomicU64,
    reserved: AtomicU64,
    /// Positions that a push is about to claim, or has claimed.
    pub push_intent: AtomicU64,
    /// Positions that a pop is about to claim, or has claimed.
    pub pop_intent: AtomicU64,
    /// How far a consumer of a broadcast has read.
    pub cursor: AtomicU64,
    /// Whether that cursor counts.
    pub reader: AtomicU32,
    reserved_reader: AtomicU32,
    reserved_end: [AtomicU64; 4],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Slot>() == PARTICIPANT_STRIDE as usize);

// SAFETY: repr(C), atomics only.
unsafe impl Shared for Slot {}

/// Where the words of a slot lie, for who reads it from outside.
pub(super) mod at {
    use super::Slot;
    use std::mem::offset_of;

    pub(crate) const STATE: usize = offset_of!(Slot, state);
    pub(crate) const GENERATION: usize = offset_of!(Slot, generation);
    pub(crate) const PID: usize = offset_of!(Slot, pid);
    pub(crate) const UID: usize = offset_of!(Slot, uid);
    pub(crate) const START_TIME: usize = offset_of!(Slot, start_time);
    pub(crate) const PID_NAMESPACE: usize = offset_of!(Slot, pid_namespace);
    pub(crate) const ENDS: usize = offset_of!(Slot, ends);
    pub(crate) const SINCE: usize = offset_of!(Slot, since);
    pub(crate) const PUSH_INTENT: usize = offset_of!(Slot, push_intent);
    pub(crate) const POP_INTENT: usize = offset_of!(Slot, pop_intent);
}

/// This handle's part in an object: its slot, and the token that proves its process alive.
#[derive(Debug)]
pub(crate) struct Participant {
    index: u32,
    token: Token,
}

impl Slot {
    /// The slot with this index; `None` for an index out of range, as a scribbled one may be.
    pub(crate) fn of<'a>(region: &'a Region, geometry: &Geometry, index: u32) -> Option<&'a Self> {
        if index >= geometry.max_handles {
            return None;
        }
        region.view(PARTICIPANTS_OFFSET + u64::from(index) * u64::from(PARTICIPANT_STRIDE))
    }

    /// Whether a handle has the slot, living or not.
    pub(crate) fn is_in_use(&self) -> bool {
        // Acquire: pairs with the Release in `attach`: who it is and which generation are seen.
        self.state.load(Ordering::Acquire) == IN_USE
    }

    /// How often the slot was taken: with its number, which handle this is.
    pub(crate) fn generation(&self) -> u32 {
        // Acquire: not for what it carries, but so that what follows it (a look at the lock byte) is
        // not before it.
        self.generation.load(Ordering::Acquire)
    }

    /// Whether the process with this [`process::tag`] has the slot.
    pub(crate) fn is_of(&self, process: u64) -> bool {
        self.is_in_use() && self.process.load(Ordering::Relaxed) == process
    }

    /// The process that has the slot, as it saw itself; for messages and lists.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    fn clear(&self) {
        self.ends.store(0, Ordering::Relaxed);
        // The number of armings stays: a notifier that was slow must not take the next owner's for
        // one that it has served.
        self.poll.fetch_and(!POLLED_ENDS, Ordering::Relaxed);
        self.reader.store(0, Ordering::Relaxed);
        // Release: whoever sees an intent gone sees what resolved it.
        self.push_intent.store(0, Ordering::Release);
        self.pop_intent.store(0, Ordering::Release);
        // Release: pairs with the Acquire in `is_in_use`: who sees it clean sees all of this.
        self.state.store(CLEAN, Ordering::Release);
    }
}

/// Whether the owner of slot `index` lives; "yes" for want of an answer.
pub(crate) fn is_alive(file: &Anchor, index: u32) -> bool {
    file.is_held(SLOT_BYTE + 2 * u64::from(index))
}

impl Participant {
    /// Takes a free slot. `EMFILE` if living handles hold all of them, and go on doing so for
    /// [`PATIENCE`].
    ///
    /// `mine` is asked once a byte is locked and before anything is stored: an error ends it.
    /// `sweep` resolves what the dead owner of a slot left behind; where it says `false` (who owns
    /// it cannot be decided yet) the slot is left as it is and another one is tried.
    pub(crate) fn attach(
        region: &Region,
        geometry: &Geometry,
        file: &Anchor,
        what: &str,
        mine: &dyn Fn() -> Result<()>,
        sweep: &dyn Fn(u32, &Slot) -> bool,
    ) -> Result<Self> {
        let process = process::tag().map_err(|errno| Error::from_kernel(errno, what))?;
        let attach = Attach { region, geometry, file, what, mine, sweep, process };
        let all = geometry.max_handles;
        let too_short = || Error::new(Errno::EPROTO, format_args!("{what}: too short"));
        let hint = Hint::of(region).ok_or_else(too_short)?;
        if let Some(taken) = attach.take_in_turn(hint)? {
            return Ok(taken);
        }
        let mut asked = 0;
        for pass in 0..=PATIENCE {
            if pass > 0 {
                // Somebody may hold the last free byte just to look, or to clear away after its owner.
                let _ = poll(&mut [], PollTimeout::from(1_u8));
            }
            let from = hint.free_from.load(Ordering::Relaxed);
            if let Some(taken) = attach.take_clean(if from < all { from } else { 0 })? {
                hint.taken(taken.index, from);
                return Ok(taken);
            }
            // None is clean. The first and the last time all are asked about.
            let count = if pass == 0 || pass == PATIENCE { all } else { all.min(AGAIN) };
            if let Some(taken) = attach.take_dead(asked, count)? {
                hint.taken(taken.index, from);
                return Ok(taken);
            }
            asked = (asked + count) % all;
        }
        Err(Error::new(
            Errno::EMFILE,
            format_args!("{what}: all {all} handles it was made for are open"),
        ))
    }

    /// Clears slot `index` after its owner's death, with `mine` and `sweep` as above; nothing happens if it
    /// lives, or if another one holds its byte to do the same. Whether it was cleared.
    pub(crate) fn recover(
        region: &Region,
        geometry: &Geometry,
        file: &Anchor,
        what: &str,
        mine: &dyn Fn() -> Result<()>,
        index: u32,
        sweep: impl FnOnce(u32, &Slot) -> bool,
    ) -> Result<bool> {
        let Some(slot) = Slot::of(region, geometry, index) else { return Ok(false) };
        let token = Token::acquire(file, SLOT_BYTE + 2 * u64::from(index));
        let token = token.map_err(|errno| kept::refused(errno, what))?;
        if token.is_some() {
            mine()?;
        }
        let dead = token.is_some() && slot.is_in_use() && sweep(index, slot);
        if dead {
            slot.clear();
        }
        drop(token);
        if dead {
            Hint::freed(region, index);
        }
        Ok(dead)
    }

    /// This participant's slot number.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// Leaves the slot clean and lets go of its byte, in this order.
    pub(crate) fn detach(self, region: &Region, geometry: &Geometry) {
        if let Some(slot) = Slot::of(region, geometry, self.index) {
            slot.clear();
        }
        drop(self.token);
        Hint::freed(region, self.index);
    }

    /// Gives the value up in a forked child: the slot stays the parent's.
    pub(crate) fn forget(self) {
        self.token.forget();
    }
}

impl End {
    /// This end in the bit sets of a slot.
    pub(crate) const fn bit(self) -> u32 {
        match self {
            Self::Producer => 1,
            Self::Consumer => 2,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
