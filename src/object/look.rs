#![forbid(unsafe_code)]
//! An object seen from outside: read with pread(2), not mapped, by a process that takes no part in
//! it and stores nothing. A file that is cut off meanwhile is an error here and no SIGBUS.
//!
//! Others go on while this looks, so each fact is put together from words read in an order in which
//! it stays true: see the functions.

use std::os::fd::OwnedFd;
use std::sync::atomic::{Ordering, fence};

use nix::errno::Errno;
use nix::sys::stat::FileStat;

use super::geometry::{Geometry, PARTICIPANT_STRIDE, PARTICIPANTS_OFFSET};
use super::open::{no_superblock, pread_exact};
use super::participant::{IN_USE, LOCK_BYTES, SLOT_BYTE, at};
use super::role::{End, Holder};
use super::superblock::{Room, SUPERBLOCK_LEN, Superblock};
use crate::error::{Error, Result};
use crate::shm::named;
use crate::sys::alloc::{self, Arc};
use crate::sys::identity::Identity;
use crate::sys::kept::Kept;
use crate::sys::lock::Anchor;

/// Slots read in one piece.
const SLOTS_AT_ONCE: u32 = 512;

/// An object's file, open at least for reading.
#[derive(Debug)]
pub(crate) struct Look {
    anchor: Anchor,
    superblock: Superblock,
    status: FileStat,
    what: String,
}

/// Who has a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    /// Nobody.
    Free,
    /// A process that lives.
    Living,
    /// A process that died.
    Dead,
}

/// A slot, and who has it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Occupant {
    pub index: u32,
    pub life: Life,
    pub pid: u32,
    pub identity: Identity,
    /// Bits of [`End::bit`], and `ENDED`.
    pub ends: u32,
    /// Nanoseconds since 1970.
    pub since: u64,
    pub push_intent: u64,
    pub pop_intent: u64,
}

impl Look {
    /// Reads and checks the superblock; `EPROTO` names the field that is wrong.
    pub(crate) fn new(file: OwnedFd, what: &str) -> Result<Self> {
        let file = Kept::new(file).map_err(|errno| Error::from_kernel(errno, what))?;
        let descriptor = file.checked(what)?;
        let status = named::status(descriptor, what)?;
        let mut bytes = [0; SUPERBLOCK_LEN];
        pread_exact(descriptor, &mut bytes, 0)
            .map_err(|errno| no_superblock(errno, status.st_size as u64, what))?;
        let superblock = Superblock::decode(bytes, Room::Exactly(status.st_size as u64), what)?;
        let anchor = Anchor::new(Arc::new(file)?, 0);
        Ok(Self { anchor, superblock, status, what: alloc::text(what)? })
    }

    pub(crate) fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    pub(crate) fn geometry(&self) -> &Geometry {
        &self.superblock.geometry
    }

    /// The file, as it was when it was opened.
    pub(crate) fn status(&self) -> &FileStat {
        &self.status
    }

    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// `EBADMSG`: what was found is impossible.
    pub(crate) fn corrupt(&self, why: impl std::fmt::Display) -> Error {
        Error::new(Errno::EBADMSG, format_args!("{}: {why}", self.what))
    }

    /// Fills `bytes` from `offset` on, after everything that was read before.
    pub(crate) fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        // The kernel reads for this thread, so a fence of this thread orders those reads.
        fence(Ordering::SeqCst);
        let done = pread_exact(self.anchor.file().checked(&self.what)?, bytes, offset);
        fence(Ordering::SeqCst);
        done.map_err(|errno| match errno {
            Errno::ENODATA => {
                Error::new(Errno::EPROTO, format_args!("{}: it was cut off meanwhile", self.what))
            }
            errno => Error::from_kernel(errno, &self.what),
        })
    }

    pub(crate) fn u32(&self, offset: u64) -> Result<u32> {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes)?;
        Ok(u32::from_ne_bytes(bytes))
    }

    pub(crate) fn u64(&self, offset: u64) -> Result<u64> {
        let mut bytes = [0; 8];
        self.read(offset, &mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }

    /// Whether anybody, of whom nothing else may be known, holds one of the object's locks.
    pub(crate) fn is_lived_in(&self) -> bool {
        self.anchor.is_any_held(LOCK_BYTES)
    }

    fn is_alive(&self, index: u32) -> bool {
        self.anchor.is_held(SLOT_BYTE + 2 * u64::from(index))
    }

    fn slot_at(index: u32) -> u64 {
        PARTICIPANTS_OFFSET + u64::from(index) * u64::from(PARTICIPANT_STRIDE)
    }

    /// All slots that somebody has.
    pub(crate) fn occupants(&self) -> Result<Vec<Occupant>> {
        const STRIDE: usize = PARTICIPANT_STRIDE as usize;
        let (mut found, mut first) = (Vec::new(), 0);
        let all = self.geometry().max_handles;
        let mut bytes = alloc::zeros(SLOTS_AT_ONCE.min(all) as usize * STRIDE)?;
        while first < all {
            let count = SLOTS_AT_ONCE.min(all - first);
            let piece = &mut bytes[..count as usize * STRIDE];
            self.read(Self::slot_at(first), piece)?;
            for (index, slot) in (first..).zip(piece.chunks_exact(STRIDE)) {
                let (head, generation) = (word32(slot, at::STATE), word32(slot, at::GENERATION));
                if head == IN_USE {
                    let occupant = Occupant {
                        index,
                        life: self.life(index, generation)?,
                        pid: word32(slot, at::PID),
                        identity: Identity {
                            pid: word32(slot, at::PID),
                            uid: word32(slot, at::UID),
                            start_time: word64(slot, at::START_TIME),
                            pid_namespace: word64(slot, at::PID_NAMESPACE),
                        },
                        ends: word32(slot, at::ENDS),
                        since: word64(slot, at::SINCE),
                        push_intent: word64(slot, at::PUSH_INTENT),
                        pop_intent: word64(slot, at::POP_INTENT),
                    };
                    alloc::push(&mut found, occupant)?;
                }
            }
            first += count;
        }
        found.retain(|occupant| occupant.life != Life::Free);
        Ok(found)
    }

    /// Whether who took slot `index` as its `generation`th owner lives. It stores "clean" before its
    /// byte is freed, so: byte free, and *then* the slot still in use by the same one, is a death.
    pub(crate) fn life(&self, index: u32, generation: u32) -> Result<Life> {
        if index >= self.geometry().max_handles {
            return Ok(Life::Free);
        }
        let alive = self.is_alive(index);
        let mut slot = [0; at::GENERATION + 4];
        self.read(Self::slot_at(index), &mut slot)?;
        let same = word32(&slot, at::GENERATION) == generation;
        Ok(match (word32(&slot, at::STATE) == IN_USE && same, alive) {
            (false, _) => Life::Free,
            (true, true) => Life::Living,
            (true, false) => Life::Dead,
        })
    }

    /// The role word at `offset`, and whether its holder has gone without a word. It changes the word
    /// before it frees the byte, so: held, byte free, and *then* still the same word.
    pub(crate) fn role(&self, end: End, offset: u64) -> Result<(u64, bool)> {
        let word = self.u64(offset)?;
        let gone = Holder::of(word) == Holder::Live
            && !self.anchor.is_held(end.byte())
            && self.u64(offset)? == word;
        Ok((word, gone))
    }
}

fn word32(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_ne_bytes(word)
}

fn word64(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(word)
}
