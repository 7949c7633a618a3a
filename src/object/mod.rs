//! Our own shared objects: what their first page says, how they are made and found, who takes part
//! in them, and who of those is alive.
//!
//! The layout is specified byte by byte in `docs/layout.md`.

mod area;
mod embed;
mod geometry;
mod look;
mod open;
mod participant;
mod region;
mod role;
mod superblock;

pub use area::{Area, CondArea, MutexArea};
pub(crate) use area::{COND_SIZE, MUTEX_SIZE, mutex_at};
pub(crate) use embed::footprint;
pub(crate) use geometry::{
    CONTROL_OFFSET, EXACT_ABOVE, Geometry, KIND_BROADCAST, KIND_MPMC, KIND_SEM, KIND_SPSC,
    KindName, LINE, MAX_HANDLES_LIMIT, PARTICIPANTS_OFFSET, POLICY_EXACT, POLICY_STOPPROOF,
    PolicyNames, Pool,
};
pub(crate) use look::{Life, Look, Occupant};
pub(crate) use open::{Object, Request, pread_exact, unlink, wait_for_removal};
pub(crate) use participant::{ENDED, POLLED_ENDS, Participant, Slot};
pub(crate) use region::Shared;
pub(crate) use role::{End, Holder, Role, RoleWord, deaths, participant_of};
pub(crate) use superblock::Superblock;
