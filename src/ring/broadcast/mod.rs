//! The cores of a broadcast ring: one producer, many consumers that each see every item.
//!
//! Two algorithms over one memory. In [`Overwrite`] the producer never waits, and a consumer that is
//! too slow is told how much it missed; in [`Gated`] the slowest registered consumer holds the
//! producer, or is evicted. Both work on checked memory and know no names, no descriptors and no
//! sleeping.
//!
//! The producing end is exclusive (its kernel lock), so each core has one writer of `tail`, `head`
//! and `dropped`, and of all cells.

mod gated;
#[cfg(all(test, loom))]
mod loom_models;
mod memory;
mod overwrite;
#[cfg(test)]
mod tests;

pub(crate) use gated::Gated;
pub(crate) use memory::{Mapped, Memory};
pub(crate) use overwrite::Overwrite;

use super::spsc::Corrupt;

/// How long a consumer that has lost items looks whether the producer is running, in turns of a spin.
const LOOK: u32 = 64;

/// Why a consumer's operation gave nothing, but for want of items.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Miss {
    /// So many items went by that this consumer has not read; it stands behind them now.
    Lost(u64),
    /// Words that no history leads to.
    Corrupt,
}

impl From<Corrupt> for Miss {
    fn from(_: Corrupt) -> Self {
        Self::Corrupt
    }
}

/// The first item that a consumer of a broadcast gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// The first one that is committed after it has joined.
    #[default]
    Now,
    /// The oldest one that is still in the ring.
    Oldest,
    /// The newest one in the ring; the next one that is committed if the ring is empty.
    Latest,
}

/// What is inside: `written = read + dropped + length`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    pub written: u64,
    pub read: u64,
    pub dropped: u64,
    pub length: u64,
}
