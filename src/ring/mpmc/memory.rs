//! The memory of a many-to-many ring: what the algorithm sees of it, and the mapped one.
//!
//! The algorithm reaches memory through [`Memory`] alone, so that a model checker and a harness that
//! stops it anywhere can run the very same code over memory of their own.

use std::ptr::NonNull;

use crate::object::End;
use crate::ring::control::{Control, RETURNED};
use crate::ring::copy::{copy_in, copy_out, prefetch};
use crate::sync::atomic::{AtomicU64, Ordering};

/// What a many-to-many ring stands on.
pub(crate) trait Memory {
    /// Where a cell lies.
    type Place: Copy;
    /// Items that fit, a power of two.
    fn capacity(&self) -> u64;
    /// Participants there may be.
    fn participants(&self) -> u32;
    /// Positions ever claimed by pushes.
    fn tail(&self) -> &AtomicU64;
    /// Positions ever claimed by pops.
    fn head(&self) -> &AtomicU64;
    /// Tombstones that were taken off the ring.
    fn buried(&self) -> &AtomicU64;
    /// Items that were given up for newer ones.
    fn dropped(&self) -> &AtomicU64;
    /// Items whose taker died before it could free the cell.
    fn lost(&self) -> &AtomicU64;
    /// How often items came back: see `redeliver`.
    fn announced(&self) -> &AtomicU64;
    /// Up to which `announced` all of them have been taken again.
    fn settled(&self) -> &AtomicU64;
    /// Items that were taken again.
    fn redelivered(&self) -> &AtomicU64;
    /// Hints to everybody whether there may be items that came back.
    fn flag_returned(&self, is: bool);
    /// The place of the cell of `position`. `WORD`, here and below: items have eight bytes.
    fn place<const WORD: bool>(&self, position: u64) -> Self::Place;
    /// The word of the cell at `place`, which is one of this memory's.
    fn word(&self, place: Self::Place) -> &AtomicU64;
    /// What participant `index`, which is below `participants`, announces at `end`.
    fn intent(&self, index: u32, end: End) -> &AtomicU64;
    /// The item's place in the cell of `position`.
    fn item(&self, position: u64) -> NonNull<u8>;
    /// Copies an item into the cell at `place`.
    ///
    /// # Safety
    /// The caller has claimed it; `from` is readable for an item; `WORD` is so.
    unsafe fn fill<const WORD: bool>(&self, place: Self::Place, from: *const u8);
    /// Copies the item out of the cell at `place`.
    ///
    /// # Safety
    /// The caller has claimed it; `to` is writable for an item; `WORD` is so.
    unsafe fn empty<const WORD: bool>(&self, place: Self::Place, to: *mut u8);

    /// A hint that the cells some way behind `place` will be taken soon.
    #[inline(always)]
    fn will_take(&self, _place: Self::Place) {}

    /// The word of the cell of `position`.
    #[inline(always)]
    fn cell(&self, position: u64) -> &AtomicU64 {
        self.word(self.place::<false>(position))
    }
    /// Copies an item into the cell of `position`.
    ///
    /// # Safety
    /// As for [`Memory::fill`].
    #[inline(always)]
    unsafe fn write(&self, position: u64, from: *const u8) {
        // SAFETY: the caller's promise.
        unsafe { self.fill::<false>(self.place::<false>(position), from) };
    }
    /// Copies the item out of the cell of `position`.
    ///
    /// # Safety
    /// As for [`Memory::empty`].
    #[inline(always)]
    unsafe fn read(&self, position: u64, to: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { self.empty::<false>(self.place::<false>(position), to) };
    }
}

/// How far ahead a consumer asks for cells, in bytes. Without that each line is waited for: the claim, a
/// locked instruction, lets no later load begin before it. For items of eight bytes anything from 64 to
/// 512 gains as much; of large ones it is the rest of the item. Near the end of the ring it is what lies
/// behind it, which does no harm. (Producers do not ask: they would take lines away from the consumers
/// that are about to read them.)
const AHEAD: usize = 256;

/// A participant's slot is a line, with the intents in its second half.
const SLOT: usize = 128;
const PUSH_INTENT: usize = 0x40;
const POP_INTENT: usize = 0x48;

/// Where a cell of mapped memory lies.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spot(NonNull<u8>);

/// The memory of a mapped object.
#[derive(Debug)]
pub(crate) struct Mapped {
    control: NonNull<Control>,
    slots: NonNull<u8>,
    cells: NonNull<u8>,
    mask: u64,
    stride: usize,
    item_size: usize,
    participants: u32,
}

// SAFETY: shared memory belongs to the process, not to a thread.
unsafe impl Send for Mapped {}

impl Mapped {
    /// # Safety
    /// For as long as the result is used: `control` is a control page; `slots` the first of
    /// `participants` participant slots; `cells` the first of `capacity` (a power of two) cells of
    /// `stride` bytes, aligned to 8, where `stride` is a multiple of 8 and at least `8 + item_size`.
    pub(crate) unsafe fn new(
        control: NonNull<Control>,
        slots: NonNull<u8>,
        participants: u32,
        cells: NonNull<u8>,
        capacity: u64,
        stride: u64,
        item_size: u32,
    ) -> Self {
        let (mask, stride, item_size) = (capacity - 1, stride as usize, item_size as usize);
        Self { control, slots, cells, mask, stride, item_size, participants }
    }

    #[inline(always)]
    pub(crate) fn control(&self) -> &Control {
        // SAFETY: `new`'s contract; the page consists of atomics.
        unsafe { self.control.as_ref() }
    }
}

impl Memory for Mapped {
    type Place = Spot;

    #[inline(always)]
    fn capacity(&self) -> u64 {
        self.mask + 1
    }

    fn participants(&self) -> u32 {
        self.participants
    }

    #[inline(always)]
    fn tail(&self) -> &AtomicU64 {
        &self.control().tail.0
    }

    #[inline(always)]
    fn head(&self) -> &AtomicU64 {
        &self.control().head.0
    }

    fn buried(&self) -> &AtomicU64 {
        &self.control().buried.0
    }

    fn dropped(&self) -> &AtomicU64 {
        &self.control().dropped.0
    }

    fn lost(&self) -> &AtomicU64 {
        &self.control().lost.0
    }

    fn announced(&self) -> &AtomicU64 {
        &self.control().returned.0
    }

    fn settled(&self) -> &AtomicU64 {
        &self.control().settled.0
    }

    fn redelivered(&self) -> &AtomicU64 {
        &self.control().redelivered.0
    }

    fn flag_returned(&self, is: bool) {
        let flags = &self.control().flags.0;
        // Relaxed: a hint.
        if is {
            flags.fetch_or(RETURNED, Ordering::Relaxed);
        } else {
            flags.fetch_and(!RETURNED, Ordering::Relaxed);
        }
    }

    #[inline(always)]
    fn place<const WORD: bool>(&self, position: u64) -> Spot {
        // A constant is a shift instead of a multiplication.
        let stride = if WORD { 16 } else { self.stride };
        debug_assert_eq!(stride, self.stride);
        // SAFETY: the masked position is below the capacity, and cells of such items are no smaller than
        // 16 bytes by `new`'s contract, so the cell lies inside.
        Spot(unsafe { self.cells.add((position & self.mask) as usize * stride) })
    }

    #[inline(always)]
    fn word(&self, place: Spot) -> &AtomicU64 {
        // SAFETY: only `place` makes one; the word is the first of the cell, which is aligned to 8 and
        // lives as long as `self` by `new`'s contract.
        unsafe { place.0.cast().as_ref() }
    }

    #[inline(always)]
    fn intent(&self, index: u32, end: End) -> &AtomicU64 {
        debug_assert!(index < self.participants);
        let field = match end {
            End::Producer => PUSH_INTENT,
            End::Consumer => POP_INTENT,
        };
        // SAFETY: an existing slot, by the caller's and `new`'s contract; aligned to 8.
        unsafe { self.slots.add(index as usize * SLOT + field).cast().as_ref() }
    }

    #[inline(always)]
    fn item(&self, position: u64) -> NonNull<u8> {
        // SAFETY: the item lies behind the word, inside the cell.
        unsafe { self.place::<false>(position).0.add(8) }
    }

    #[inline(always)]
    fn will_take(&self, place: Spot) {
        prefetch(place.0.as_ptr().wrapping_add(AHEAD));
    }

    #[inline(always)]
    unsafe fn fill<const WORD: bool>(&self, place: Spot, from: *const u8) {
        let size = if WORD { 8 } else { self.item_size };
        // SAFETY: the item lies behind the word; the cell is the caller's; it vouches for `from`.
        unsafe { copy_in(place.0.as_ptr().add(8), from, size) };
    }

    #[inline(always)]
    unsafe fn empty<const WORD: bool>(&self, place: Spot, to: *mut u8) {
        let size = if WORD { 8 } else { self.item_size };
        // SAFETY: the item lies behind the word; the cell is the caller's; it vouches for `to`.
        unsafe { copy_out(to, place.0.as_ptr().add(8), size) };
    }
}
