#![forbid(unsafe_code)]
//! The memory of the semaphore: what the algorithm sees of it, and the mapped one.
//!
//! The algorithm reaches memory through [`Memory`] alone, one access at a time, so that a harness
//! that stops it at every access can run the very same code over memory of its own.

use crate::object::{CONTROL_OFFSET, Geometry, KIND_SEM, LINE, Object};
use crate::sync::EventCount;
use crate::sync::atomic::{AtomicU64, Ordering};

/// A word of the algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// The free permits.
    Word,
    /// What this participant announces.
    Intent(u32),
    /// What this participant holds.
    Holding(u32),
}

/// What the algorithm stands on.
pub(crate) trait Memory {
    /// Participants there may be; indices below it are valid.
    fn participants(&self) -> u32;
    /// With Acquire: sees all that preceded the store or exchange it reads from.
    fn load(&self, at: Place) -> u64;
    /// With Release, for the loads above.
    fn store(&self, at: Place, value: u64);
    /// Compare-and-swap, both; whether it was done.
    fn exchange(&self, at: Place, seen: u64, new: u64) -> bool;
}

/// Where the sleepers' event count is, behind the word, on a line of its own.
const EVENT: u64 = CONTROL_OFFSET + LINE as u64;
/// In a participant's record.
const HOLDING: u64 = 8;

/// The geometry of a semaphore for `max_handles` handles with `value` permits: its items are the
/// records of the participants, a line each.
pub(super) fn geometry(value: u32, max_handles: u32) -> Geometry {
    Geometry {
        kind: KIND_SEM,
        item_size: LINE,
        capacity: u64::from(max_handles).next_power_of_two(),
        max_handles,
        policy: value,
    }
}

/// Where a word lies in an object.
pub(super) fn offset(geometry: &Geometry, at: Place) -> u64 {
    let record =
        |index: u32, field| geometry.items_offset() + u64::from(index) * u64::from(LINE) + field;
    match at {
        Place::Word => CONTROL_OFFSET,
        Place::Intent(index) => record(index, 0),
        Place::Holding(index) => record(index, HOLDING),
    }
}

/// The memory of a mapped object whose geometry is one of [`geometry`]'s.
#[derive(Debug)]
pub(super) struct Mapped(Object);

impl Mapped {
    /// `None` if its geometry is not that of a semaphore.
    pub(super) fn new(object: Object) -> Option<Self> {
        let is = *object.geometry();
        (is == geometry(is.policy, is.max_handles)).then_some(Self(object))
    }

    pub(super) fn object(&self) -> &Object {
        &self.0
    }

    pub(super) fn event(&self) -> &EventCount {
        self.0.region().view(EVENT).expect("inside every object")
    }
}

/// Memory that consists of atomics. The orderings are here, for the mapped memory and for models alike.
pub(super) trait Words {
    /// Participants there may be.
    fn count(&self) -> u32;
    /// The atomic at a place.
    fn at(&self, at: Place) -> &AtomicU64;
}

impl Words for Mapped {
    fn count(&self) -> u32 {
        self.0.geometry().max_handles
    }

    fn at(&self, at: Place) -> &AtomicU64 {
        let offset = offset(self.0.geometry(), at);
        self.0.region().view(offset).expect("an index below participants()")
    }
}

impl<W: Words> Memory for W {
    fn participants(&self) -> u32 {
        self.count()
    }

    fn load(&self, at: Place) -> u64 {
        // Acquire: pairs with the Release in `store` and in `exchange`.
        self.at(at).load(Ordering::Acquire)
    }

    fn store(&self, at: Place, value: u64) {
        // Release: pairs with the Acquire in `load` and in `exchange`.
        self.at(at).store(value, Ordering::Release);
    }

    fn exchange(&self, at: Place, seen: u64, new: u64) -> bool {
        // AcqRel: who sees the word that names an operation sees its intent.
        let order = (Ordering::AcqRel, Ordering::Acquire);
        self.at(at).compare_exchange(seen, new, order.0, order.1).is_ok()
    }
}
