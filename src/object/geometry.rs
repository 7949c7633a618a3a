#![forbid(unsafe_code)]
//! What an object is, in five numbers; every offset in its layout follows from them.

use std::fmt;

/// Where attaching notes where to look for a slot: the one thing in the superblock's page that changes.
pub(crate) const HINT_OFFSET: u64 = 0x800;
/// The offset of the control page, behind the superblock's page.
pub(crate) const CONTROL_OFFSET: u64 = 4096;
/// Where participant slots begin.
pub(crate) const PARTICIPANTS_OFFSET: u64 = 8192;
/// Bytes of one participant slot: a [`LINE`], since its owner writes to it at every operation of
/// some kinds.
pub(crate) const PARTICIPANT_STRIDE: u32 = LINE;
/// Separation that keeps two writers' data apart, with the adjacent-line prefetcher in mind.
pub(crate) const LINE: u32 = 128;
/// Most participants an object can be made for: their index has 12 bits in a role word.
pub(crate) const MAX_HANDLES_LIMIT: u32 = 4096;

/// One producer, one consumer.
pub(crate) const KIND_SPSC: u32 = 1;
/// Many producers, many consumers.
pub(crate) const KIND_MPMC: u32 = 2;
/// One producer, many consumers that each see every item.
pub(crate) const KIND_BROADCAST: u32 = 3;
/// The policy bit of a ring that overwrites its oldest items.
pub(crate) const POLICY_OVERWRITE: u32 = 0x2;

/// The policy bit of a broadcast that evicts its slowest consumer.
pub(crate) const POLICY_EVICT: u32 = 0x4;

/// Policy bit of a ring of large items whose capacity is no power of two.
pub(crate) const POLICY_EXACT: u32 = 0x20;
/// Items of such a ring are larger than this: positions become cells by a division, which must not
/// matter.
pub(crate) const EXACT_ABOVE: u32 = 1024;

/// A semaphore whose permits come back; its items are the records of its participants.
pub(crate) const KIND_SEM: u32 = 16;
/// Policy bit of a ring of `KIND_MPMC`: no process ever waits for another, stopped or dead.
pub(crate) const POLICY_STOPPROOF: u32 = 0x1;

/// The name of a kind, as in the C constants MDG_RING_SPSC and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KindName(pub u32);

impl fmt::Display for KindName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            KIND_SPSC => f.write_str("SPSC"),
            KIND_MPMC => f.write_str("MPMC"),
            KIND_BROADCAST => f.write_str("BROADCAST"),
            KIND_SEM => f.write_str("UNDO"),
            number => write!(f, "{number}"),
        }
    }
}

/// The names of a ring's policy bits, as in the C constants MDG_RING_FAIL and so on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PolicyNames(pub u32);

impl fmt::Display for PolicyNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = ["STOPPROOF", "OVERWRITE", "EVICT", "FAIL", "REDELIVER", "EXACT"];
        let (mut rest, mut between) = (self.0, "");
        for (bit, name) in names.into_iter().enumerate() {
            if rest & 1 << bit != 0 {
                rest &= !(1 << bit);
                write!(f, "{between}{name}")?;
                between = "|";
            }
        }
        match rest {
            0 if self.0 == 0 => f.write_str("none"),
            0 => Ok(()),
            rest => write!(f, "{between}{rest:#x}"),
        }
    }
}

/// What an object is: everything else in its layout follows from this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub kind: u32,
    pub item_size: u32,
    /// Items: a power of two, unless the ring is exact.
    pub capacity: u64,
    /// Participant slots.
    pub max_handles: u32,
    pub policy: u32,
}

/// The parts of a stop-proof ring's items, counted from `items_offset`: a line with the hint, the
/// places, the cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pool {
    /// A power of two; each has a word. See `ring::stopproof` for how many there must be.
    pub places: u64,
    pub cells: u64,
    pub cells_offset: u64,
    /// From one cell to the next.
    pub stride: u64,
    /// Bytes of all of it.
    pub len: u64,
}

impl Geometry {
    /// Where the items begin.
    pub(crate) fn items_offset(&self) -> u64 {
        let participants = u64::from(self.max_handles) * u64::from(PARTICIPANT_STRIDE);
        (PARTICIPANTS_OFFSET + participants).next_multiple_of(u64::from(LINE))
    }

    /// Whether the items lie in a [`Pool`].
    pub(crate) fn is_stopproof(&self) -> bool {
        self.kind == KIND_MPMC && self.policy & POLICY_STOPPROOF != 0
    }

    /// The parts of a stop-proof ring's items; `None` when no file can be that large.
    pub(crate) fn pool(&self) -> Option<Pool> {
        let (line, handles) = (u64::from(LINE), u64::from(self.max_handles));
        let places = self.capacity.checked_add(handles)?.checked_next_power_of_two()?;
        let cells = self.capacity.checked_add(2 * handles)?;
        let cells_offset = places.checked_mul(8)?.checked_next_multiple_of(line)?;
        let cells_offset = cells_offset.checked_add(line)?;
        let (stride, len) = (self.stride(), cells.checked_mul(self.stride())?);
        Some(Pool { places, cells, cells_offset, stride, len: cells_offset.checked_add(len)? })
    }

    /// From one item to the next: in kinds whose cells have a word of their own that word, and the
    /// item padded to the next word. A broadcast that evicts has no such words, but copies its items by
    /// whole words.
    pub(crate) fn stride(&self) -> u64 {
        let item = u64::from(self.item_size);
        match self.kind {
            KIND_MPMC => 8 + item.next_multiple_of(8),
            KIND_BROADCAST if self.overwrites() => 8 + item.next_multiple_of(8),
            KIND_BROADCAST if self.policy & POLICY_EVICT != 0 => item.next_multiple_of(8),
            _ => item,
        }
    }

    /// Whether the capacity is what was asked for.
    pub(crate) fn is_exact(&self) -> bool {
        self.policy & POLICY_EXACT != 0 && self.kind != KIND_SEM
    }

    /// Whether there can be so many items.
    pub(crate) fn has_sound_capacity(&self) -> bool {
        if self.is_exact() {
            let kind = self.kind != KIND_MPMC || self.is_stopproof();
            return kind && self.item_size > EXACT_ABOVE && self.capacity > 0;
        }
        self.capacity.is_power_of_two()
    }

    /// What divides the addresses of all items.
    pub(crate) fn item_align(&self) -> u64 {
        let has_words = self.kind == KIND_MPMC || self.kind == KIND_BROADCAST && self.overwrites();
        if has_words { 8 } else { u64::from(LINE).min(1 << self.stride().trailing_zeros()) }
    }

    /// Whether a push into a full ring gives up the oldest item.
    pub(crate) fn overwrites(&self) -> bool {
        self.policy & POLICY_OVERWRITE != 0
    }

    /// Whether somebody who may only read the object's memory can take part: a consumer that stores
    /// nothing.
    pub(crate) fn serves_readers(&self) -> bool {
        self.kind == KIND_BROADCAST && self.overwrites()
    }

    /// Bytes of all items; `None` when no file can be that large.
    pub(crate) fn items_len(&self) -> Option<u64> {
        if self.is_stopproof() {
            return self.pool().map(|pool| pool.len);
        }
        self.capacity.checked_mul(self.stride())
    }

    /// Bytes of the whole object; `None` when no process can map that.
    pub(crate) fn total_size(&self) -> Option<u64> {
        let total = self.items_len()?.checked_add(self.items_offset())?;
        (total <= isize::MAX as u64).then_some(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_and_policies_have_names() {
        let kinds =
            [KIND_SPSC, KIND_MPMC, KIND_BROADCAST, KIND_SEM, 7].map(|k| KindName(k).to_string());
        assert_eq!(kinds, ["SPSC", "MPMC", "BROADCAST", "UNDO", "7"]);
        let policies = [0, 8, 0x3f, 0x42].map(|bits| PolicyNames(bits).to_string());
        let all = "STOPPROOF|OVERWRITE|EVICT|FAIL|REDELIVER|EXACT";
        assert_eq!(policies, ["none", "FAIL", all, "OVERWRITE|0x40"]);
    }
}
