//! Participants: a slot for every open handle, and the proof that its process lives.
//!
//! Invariant: a slot's byte is locked exactly while its handle's process lives and has not closed
//! the handle. `state` is 1 from attaching to closing; "1 with the byte free" is a corpse, which the
//! next one who takes the slot clears away. Killed at any point of attaching or closing, a process
//! leaves either a clean slot or a corpse.
//!
//! The identity in a slot is for messages and dumps only.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nix::errno::Errno;

use super::region::{Region, Shared};
use super::superblock::{Geometry, PARTICIPANT_STRIDE, PARTICIPANTS_OFFSET};
use crate::error::{Error, Result};
use crate::sys::identity::Identity;
use crate::sys::lock::{Anchor, Token};

/// Lock byte of slot 0; slot X has `SLOT_BYTE + 2 * X`. Beyond the end of any file: nothing is
/// stored there.
const SLOT_BYTE: u64 = (1 << 40) + 0x100;

const CLEAN: u32 = 0;
const IN_USE: u32 = 1;

/// A participant's slot in shared memory, written by the holder of its byte.
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
    reserved: [AtomicU64; 4],
}

const _: () = assert!(size_of::<Slot>() == PARTICIPANT_STRIDE as usize);

// SAFETY: repr(C), atomics only.
unsafe impl Shared for Slot {}

/// This handle's part in an object: its slot, and the token that proves its process alive.
#[derive(Debug)]
pub(crate) struct Participant {
    index: u32,
    token: Token,
}

/// The slot with this index; `None` for an index out of range, as a scribbled one may be.
fn slot<'a>(region: &'a Region, geometry: &Geometry, index: u32) -> Option<&'a Slot> {
    if index >= geometry.max_handles {
        return None;
    }
    region.view(PARTICIPANTS_OFFSET + u64::from(index) * u64::from(PARTICIPANT_STRIDE))
}

impl Participant {
    /// Takes the first free slot. `EMFILE` if living handles hold all of them.
    pub(crate) fn attach(
        region: &Region,
        geometry: &Geometry,
        file: &Anchor,
        what: &str,
    ) -> Result<Self> {
        for index in 0..geometry.max_handles {
            let Some(slot) = slot(region, geometry, index) else { break };
            let token = Token::acquire(file, SLOT_BYTE + 2 * u64::from(index));
            let token = token.map_err(|errno| Error::from_kernel(errno, what))?;
            let Some(token) = token else { continue };
            // The byte is ours: whoever had the slot before is closed or dead, its stores are all
            // visible (the kernel's lock list orders them), and nobody else writes here.
            let me = Identity::current();
            slot.pid.store(me.pid, Ordering::Relaxed);
            slot.uid.store(me.uid, Ordering::Relaxed);
            slot.start_time.store(me.start_time, Ordering::Relaxed);
            slot.pid_namespace.store(me.pid_namespace, Ordering::Relaxed);
            slot.generation.fetch_add(1, Ordering::Relaxed);
            slot.state.store(IN_USE, Ordering::Release);
            return Ok(Self { index, token });
        }
        let all = geometry.max_handles;
        Err(Error::new(
            Errno::EMFILE,
            format!("{what}: all {all} handles it was made for are open"),
        ))
    }

    /// This participant's slot number.
    pub(crate) fn index(&self) -> u32 {
        self.index
    }

    /// Leaves the slot clean and lets go of its byte, in this order.
    pub(crate) fn detach(self, region: &Region, geometry: &Geometry) {
        if let Some(slot) = slot(region, geometry, self.index) {
            slot.state.store(CLEAN, Ordering::Release);
        }
        drop(self.token);
    }

    /// Gives the value up in a forked child: the slot stays the parent's.
    pub(crate) fn forget(self) {
        self.token.forget();
    }
}
