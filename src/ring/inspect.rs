#![forbid(unsafe_code)]
//! A ring read from outside, by somebody who takes no part in it.

use std::mem::offset_of;

use super::control::{CORRUPT, Control};
use super::mpmc::inspect::Cells;
use super::options::{Options, policy};
use crate::error::Result;
use crate::object::{
    CONTROL_OFFSET, End, Holder, KIND_BROADCAST, KIND_MPMC, KIND_SPSC, Life, Look, Occupant,
    deaths, participant_of,
};
use crate::sync::EventCount;
use crate::sys::alloc;

const TAIL: u64 = CONTROL_OFFSET + offset_of!(Control, tail) as u64;
const HEAD: u64 = CONTROL_OFFSET + offset_of!(Control, head) as u64;
const NOT_EMPTY: u64 = CONTROL_OFFSET + offset_of!(Control, not_empty) as u64;
const NOT_FULL: u64 = CONTROL_OFFSET + offset_of!(Control, not_full) as u64;
const FLAGS: u64 = CONTROL_OFFSET + offset_of!(Control, flags) as u64;
const PRODUCER: u64 = CONTROL_OFFSET + offset_of!(Control, producer) as u64;
const CONSUMER: u64 = CONTROL_OFFSET + offset_of!(Control, consumer) as u64;

/// A ring's part in what is known of an object.
pub(crate) struct RingLook<'a> {
    look: &'a Look,
    cells: Option<Cells<'a>>,
}

impl<'a> RingLook<'a> {
    /// `EPROTO` for a ring that this version does not know.
    pub(crate) fn new(look: &'a Look) -> Result<Self> {
        Options::default().check(look.superblock(), look.what())?;
        // Other policies may have cells of another form.
        let geometry = look.geometry();
        let known = policy::OVERWRITE | policy::FAIL | policy::REDELIVER;
        let plain = geometry.policy & !known == 0;
        let cells = geometry.kind == KIND_MPMC && plain;
        Ok(Self { look, cells: cells.then(|| Cells::new(look)) })
    }

    fn kind(&self) -> u32 {
        self.look.geometry().kind
    }

    /// Head and tail; `EBADMSG` if they are impossible, or were found so by somebody.
    pub(crate) fn indices(&self) -> Result<(u64, u64)> {
        let flags = self.look.u32(FLAGS)?;
        if flags & CORRUPT != 0 {
            return Err(self.look.corrupt(format_args!(
                "the flags at {FLAGS:#x} are {flags:#x}: it was found corrupt"
            )));
        }
        let head = self.look.u64(HEAD)?;
        let tail = self.look.u64(TAIL)?;
        // A producer may have gone on with room that a consumer made after the first look.
        let room = self.look.u64(HEAD)?.wrapping_add(self.look.geometry().capacity);
        // In a stop-proof ring each may be one position late.
        let late = i64::from(self.look.geometry().is_stopproof());
        let behind = (tail.wrapping_sub(head) as i64).saturating_add(late);
        let ahead = (room.wrapping_sub(tail) as i64).saturating_add(late);
        // In a broadcast `head` is not the consumers' index.
        if self.kind() != KIND_BROADCAST && (behind < 0 || ahead < 0) {
            return Err(self.look.corrupt(format_args!(
                "tail, at {TAIL:#x}, is {tail} where head, at {HEAD:#x}, is {head}, and {} items fit",
                self.look.geometry().capacity
            )));
        }
        Ok((head, tail))
    }

    /// Places that are taken: items, and places in progress.
    pub(crate) fn length(&self) -> Result<u64> {
        let (head, tail) = self.indices()?;
        let inside = tail.wrapping_sub(head);
        // Negative where both are late, see above.
        let inside = if inside as i64 >= 0 { inside } else { 0 };
        Ok(inside.min(self.look.geometry().capacity))
    }

    /// The ends, as [`End::bit`], that the handle in slot `index` has, whose slot says `ends`.
    pub(crate) fn roles(&self, index: u32, ends: u32) -> Result<u32> {
        let mut roles = 0;
        for (end, offset) in [(End::Producer, PRODUCER), (End::Consumer, CONSUMER)] {
            let exclusive =
                self.kind() == KIND_SPSC || (self.kind() == KIND_BROADCAST && end == End::Producer);
            let has = match exclusive {
                true => participant_of(self.look.u64(offset)?) == Some(index),
                false => ends & end.bit() != 0,
            };
            roles |= if has { end.bit() } else { 0 };
        }
        Ok(roles)
    }

    /// Looks at all that is shared; `EBADMSG` says which word is impossible. How many cells were not
    /// looked at, because the file has no memory for them: never one that the library made.
    pub(crate) fn check(&self) -> Result<u64> {
        self.indices()?;
        self.cells.as_ref().map_or(Ok(0), |cells| cells.check(|| self.indices()))
    }

    /// What a dead participant has left in the ring, in words to be appended.
    pub(crate) fn left_by(&self, dead: &Occupant) -> Result<String> {
        let Some(cells) = &self.cells else { return Ok(String::new()) };
        let (head, tail) = self.indices()?;
        let (pushes, pops) = cells.left_by(dead, head, tail)?;
        let mut text = String::new();
        for (count, what) in [(pushes, "claimed and not filled"), (pops, "taken and not freed")] {
            if count > 0 {
                alloc::append(&mut text, format_args!(", {count} {what}"))?;
            }
        }
        Ok(text)
    }

    /// What else the dead have left: ends whose holder's death nobody has noted, and sleepers that
    /// announced themselves, where nobody is left who could sleep.
    pub(crate) fn findings(&self, occupants: &[Occupant]) -> Result<Vec<String>> {
        let mut findings = Vec::new();
        let mut died = occupants.iter().any(|one| one.life == Life::Dead);
        for (end, offset) in [(End::Producer, PRODUCER), (End::Consumer, CONSUMER)] {
            let (word, gone) = self.look.role(end, offset)?;
            died |= gone || deaths(word) > 0 || Holder::of(word) == Holder::Dead;
            let exclusive =
                self.kind() == KIND_SPSC || (self.kind() == KIND_BROADCAST && end == End::Producer);
            if exclusive && gone {
                let pid = self.look.u32(offset + 8)?;
                let end = end.word();
                let gone = format_args!("{end} end: its holder (pid {pid}) is gone, not noted yet");
                alloc::push(&mut findings, alloc::text(gone)?)?;
            }
        }
        for (offset, sleeper) in [(NOT_EMPTY, "consumer"), (NOT_FULL, "producer")] {
            let offset = offset + EventCount::ARMED_AT as u64;
            let armed = self.look.u32(offset)?;
            if died && EventCount::says_armed(armed) && !self.look.is_lived_in() {
                let left = alloc::text(format_args!(
                    "event count at {offset:#x}: a {sleeper} is announced, and nobody lives"
                ))?;
                alloc::push(&mut findings, left)?;
            }
        }
        Ok(findings)
    }
}
