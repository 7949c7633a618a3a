//! Which slot a handle takes: how one is found with few questions to the kernel.

use super::{IN_USE, Participant, SLOT_BYTE, Slot, is_alive};
use crate::error::Result;
use crate::object::geometry::{Geometry, HINT_OFFSET};
use crate::object::region::{Region, Shared};
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sys::identity::Identity;
use crate::sys::kept;
use crate::sys::lock::{Anchor, Token};
use crate::time::since_1970;

/// How many slots in use attaching asks about at most, how many states it reads for that, and how many
/// locks in the kernel's list all these questions may come across.
const IN_TURN_QUESTIONS: u32 = 32;
const IN_TURN_STATES: u32 = 64;
const IN_TURN_COST: u32 = 1024;

/// Where to look for a slot, in the superblock's page. Anybody may have written anything here.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Hint {
    /// Slots below this are probably in use.
    pub(super) free_from: AtomicU32,
    /// Whose turn it is to be asked about.
    pub(super) look_from: AtomicU32,
    /// Slots from here on were probably never taken.
    pub(super) high: AtomicU32,
    reserved: AtomicU32,
}

// SAFETY: repr(C), atomics only.
unsafe impl Shared for Hint {}

impl Hint {
    pub(super) fn of(region: &Region) -> Option<&Self> {
        region.view(HINT_OFFSET)
    }

    /// Slot `index` was taken, by one who had looked from `from` on.
    pub(super) fn taken(&self, index: u32, from: u32) {
        // Relaxed, as all here: nothing is read because of it that is not checked.
        let order = Ordering::Relaxed;
        self.high.fetch_max(index + 1, order);
        // Not if a slot was freed meanwhile: that may lie lower.
        let _ = self.free_from.compare_exchange(from, index + 1, order, order);
    }

    pub(super) fn freed(region: &Region, index: u32) {
        if let Some(hint) = Self::of(region) {
            hint.free_from.fetch_min(index, Ordering::Relaxed);
        }
    }
}

/// What attaching needs at each slot.
pub(super) struct Attach<'a> {
    pub(super) region: &'a Region,
    pub(super) geometry: &'a Geometry,
    pub(super) file: &'a Anchor,
    pub(super) what: &'a str,
    pub(super) mine: &'a dyn Fn() -> Result<()>,
    pub(super) sweep: &'a dyn Fn(u32, &Slot) -> bool,
    pub(super) process: u64,
}

impl Attach<'_> {
    fn is_in_use(&self, index: u32) -> Option<bool> {
        Slot::of(self.region, self.geometry, index).map(Slot::is_in_use)
    }

    /// Takes slot `index`, unless a living handle has it, or who owns what lies in it cannot be decided.
    fn take(&self, index: u32) -> Result<Option<Participant>> {
        let Some(slot) = Slot::of(self.region, self.geometry, index) else { return Ok(None) };
        let token = Token::acquire(self.file, SLOT_BYTE + 2 * u64::from(index));
        let token = token.map_err(|errno| kept::refused(errno, self.what))?;
        let Some(token) = token else { return Ok(None) };
        (self.mine)()?;
        // The byte is ours: whoever had the slot before is closed or dead, its stores are all
        // visible (the kernel's lock list orders them), and nobody else writes here.
        if slot.is_in_use() && !(self.sweep)(index, slot) {
            return Ok(None);
        }
        slot.clear();
        let me = Identity::current();
        slot.pid.store(me.pid, Ordering::Relaxed);
        slot.uid.store(me.uid, Ordering::Relaxed);
        slot.start_time.store(me.start_time, Ordering::Relaxed);
        slot.pid_namespace.store(me.pid_namespace, Ordering::Relaxed);
        slot.process.store(self.process, Ordering::Relaxed);
        slot.since.store(since_1970(), Ordering::Relaxed);
        slot.generation.fetch_add(1, Ordering::Relaxed);
        // Release: pairs with the Acquire in `is_in_use`.
        slot.state.store(IN_USE, Ordering::Release);
        Ok(Some(Participant { index, token }))
    }

    /// Takes the slot of a dead handle, if one of those whose turn it is has died.
    pub(super) fn take_in_turn(&self, hint: &Hint) -> Result<Option<Participant>> {
        let high = hint.high.load(Ordering::Relaxed).min(self.geometry.max_handles);
        let start = match hint.look_from.load(Ordering::Relaxed) {
            start if start < high && high > IN_TURN_STATES => start,
            _ => 0,
        };
        // Each question costs as much as there are handles, so that all of them cost the same.
        let mut questions = (IN_TURN_COST / high.max(1)).clamp(2, IN_TURN_QUESTIONS);
        let mut index = start;
        for _ in 0..high.min(IN_TURN_STATES) {
            if questions == 0 {
                break;
            }
            if self.is_in_use(index) == Some(true) {
                questions -= 1;
                if !is_alive(self.file, index)
                    && let Some(taken) = self.take(index)?
                {
                    return Ok(Some(taken));
                }
            }
            index = if index + 1 < high { index + 1 } else { 0 };
        }
        hint.look_from.store(index, Ordering::Relaxed);
        Ok(None)
    }

    /// Takes the first clean slot from `from` on.
    pub(super) fn take_clean(&self, from: u32) -> Result<Option<Participant>> {
        let all = self.geometry.max_handles;
        for index in (from..all).chain(0..from) {
            // The lock of one in use is not tried: that is a question about a living handle.
            if self.is_in_use(index) == Some(false)
                && let Some(taken) = self.take(index)?
            {
                return Ok(Some(taken));
            }
        }
        Ok(None)
    }

    /// Takes the slot of a dead handle, asking about `count` of them from `from` on.
    pub(super) fn take_dead(&self, from: u32, count: u32) -> Result<Option<Participant>> {
        let all = self.geometry.max_handles;
        for index in (from..all).chain(0..from).take(count as usize) {
            // A question, unlike an attempt, costs no descriptor and keeps nobody else out.
            if !is_alive(self.file, index)
                && let Some(taken) = self.take(index)?
            {
                return Ok(Some(taken));
            }
        }
        Ok(None)
    }
}
