//! The memory of a broadcast ring: what the algorithms see of it, and the mapped one.
//!
//! The algorithms reach memory through [`Memory`] alone, so that a model checker and a harness that
//! stops them anywhere can run the very same code over memory of their own.

use std::ptr::{self, NonNull};

use crate::object::Slot;
use crate::ring::control::Control;
use crate::ring::copy::{copy_in, copy_out};
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What a broadcast ring stands on.
pub(crate) trait Memory {
    /// Items that fit.
    fn capacity(&self) -> u64;
    /// The number of the cell of `position`.
    #[inline(always)]
    fn cell(&self, position: u64) -> u64 {
        position & (self.capacity() - 1)
    }
    /// Participants there may be.
    fn participants(&self) -> u32;
    /// Positions ever committed.
    fn tail(&self) -> &AtomicU64;
    /// Positions before this one may be overwritten at any time.
    fn head(&self) -> &AtomicU64;
    /// Items given up before all of those for whom they were had them.
    fn dropped(&self) -> &AtomicU64;
    /// Consumers are in slots below this.
    fn readers(&self) -> &AtomicU32;
    /// What participant `index`, which is below `participants`, reads next.
    fn cursor(&self, index: u32) -> &AtomicU64;
    /// Whether its cursor counts.
    fn reader(&self, index: u32) -> &AtomicU32;
    /// How often its slot was taken.
    fn generation(&self, index: u32) -> u32;
    /// The word of the cell of `position`; for [`Overwrite`](super::Overwrite) only.
    fn word(&self, position: u64) -> &AtomicU64;
    /// The item's place in the cell of `position`.
    fn item(&self, position: u64) -> NonNull<u8>;
    /// Whether the items of consecutive cells stand in a row, with nothing between them.
    fn is_dense(&self) -> bool {
        true
    }
    /// Copies an item into the cell of `position` by relaxed atomic stores: a consumer that has been
    /// overtaken or evicted may be copying it out at the same time. For rings whose cells are made of
    /// whole words: those that overwrite or evict.
    ///
    /// # Safety
    /// The caller is the producer; `from` is readable for an item.
    unsafe fn write(&self, position: u64, from: *const u8);
    /// Copies an item out of the cell of `position` by relaxed atomic loads: the producer may be
    /// writing it at the same time. For rings as in `write`.
    ///
    /// # Safety
    /// `to` is writable for an item.
    unsafe fn read(&self, position: u64, to: *mut u8);
    /// As `write`, for an item of eight bytes in a cell of eight bytes.
    ///
    /// # Safety
    /// As there; items and cells are so.
    unsafe fn write_shared_word(&self, position: u64, from: *const u8) {
        // SAFETY: the caller's promise.
        unsafe { self.write(position, from) };
    }
    /// Copies `count` items, which stand in a row, into the cells from `position` on, by plain stores.
    ///
    /// # Safety
    /// The caller is the producer. No consumer reads these cells until the producer has committed
    /// them: each has passed them (its cursor was read with acquire order), and none can be evicted.
    /// `from` is readable for `count` items; the run does not go beyond the end of the ring.
    unsafe fn write_run(&self, position: u64, from: *const u8, count: u64);
    /// As `write_run` for one item, of eight bytes, in a cell of eight bytes.
    ///
    /// # Safety
    /// As there; items are so.
    unsafe fn write_word(&self, position: u64, from: *const u8) {
        // SAFETY: the caller's promise.
        unsafe { self.write_run(position, from, 1) };
    }
    /// Copies `count` items, which stand in a row, out of the cells from `position` on, by plain loads.
    ///
    /// # Safety
    /// The cells are committed (their commit was read with acquire order), and the caller's cursor,
    /// which cannot be evicted, keeps the producer from writing them. `to` is writable for `count`
    /// items; the run does not go beyond the end of the ring.
    unsafe fn read_run(&self, position: u64, to: *mut u8, count: u64);
    /// As `read_run` for one item, of eight bytes, in a cell of eight bytes.
    ///
    /// # Safety
    /// As there; items are so.
    unsafe fn read_word(&self, position: u64, to: *mut u8) {
        // SAFETY: the caller's promise.
        unsafe { self.read_run(position, to, 1) };
    }
}

/// The memory of a mapped object.
#[derive(Debug)]
pub(crate) struct Mapped {
    control: NonNull<Control>,
    slots: NonNull<Slot>,
    cells: NonNull<u8>,
    /// The capacity - 1.
    mask: u64,
    /// The capacity, if it is no power of two, of items of more than 1024 bytes; else 0.
    wrap: u64,
    stride: usize,
    item_size: usize,
    /// Where the item stands in its cell: behind the cell's word, if it has one.
    item_at: usize,
    participants: u32,
}

// SAFETY: shared memory belongs to the process, not to a thread.
unsafe impl Send for Mapped {}

impl Mapped {
    /// # Safety
    /// For as long as the result is used: `control` is a control page; `slots` the first of
    /// `participants` participant slots; `cells` the first of `capacity` cells (a power of two, or
    /// items have more than 1024 bytes) of
    /// `stride` bytes, aligned to 8. `stride` is `item_size`; or `item_size` rounded up to a multiple
    /// of 8, for rings that evict; or 8 more than that, for rings that overwrite: then each cell begins
    /// with a word. The memory may be readable only, if only consumers' functions of
    /// [`Overwrite`](super::Overwrite) are used.
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
        let wrap = if capacity.is_power_of_two() { 0 } else { capacity };
        let item_at = if stride - item_size >= 8 { 8 } else { 0 };
        Self {
            control,
            slots: slots.cast(),
            cells,
            mask,
            wrap,
            stride,
            item_size,
            item_at,
            participants,
        }
    }

    #[inline(always)]
    pub(crate) fn control(&self) -> &Control {
        // SAFETY: `new`'s contract; the page consists of atomics.
        unsafe { self.control.as_ref() }
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> &Slot {
        debug_assert!(index < self.participants);
        // SAFETY: an existing slot, by the caller's and `new`'s contract; it consists of atomics.
        unsafe { self.slots.add(index as usize).as_ref() }
    }

    #[inline(always)]
    fn at(&self, position: u64) -> NonNull<u8> {
        // SAFETY: below the capacity, so the cell lies inside.
        unsafe { self.cells.add(self.cell(position) as usize * self.stride) }
    }

    /// Word `index` of the item in a cell made of whole words; `index * 8 < item_size`.
    #[inline(always)]
    fn item_word(&self, position: u64, index: usize) -> &AtomicU64 {
        debug_assert!(self.stride.is_multiple_of(8));
        // SAFETY: items of such cells are padded to whole words, so this one lies inside its cell. It is
        // aligned to 8, as the cell is, and so is `item_at`.
        unsafe { self.at(position).add(self.item_at).cast::<AtomicU64>().add(index).as_ref() }
    }
}

impl Memory for Mapped {
    #[inline(always)]
    fn capacity(&self) -> u64 {
        self.mask + 1
    }

    /// Right for ever, as no position comes to 2^64.
    #[inline(always)]
    fn cell(&self, position: u64) -> u64 {
        if self.wrap == 0 { position & self.mask } else { position % self.wrap }
    }

    fn participants(&self) -> u32 {
        self.participants
    }

    #[inline(always)]
    fn tail(&self) -> &AtomicU64 {
        &self.control().tail.0
    }

    fn head(&self) -> &AtomicU64 {
        &self.control().head.0
    }

    fn dropped(&self) -> &AtomicU64 {
        &self.control().dropped.0
    }

    fn readers(&self) -> &AtomicU32 {
        &self.control().readers.0
    }

    #[inline(always)]
    fn cursor(&self, index: u32) -> &AtomicU64 {
        &self.slot(index).cursor
    }

    #[inline(always)]
    fn reader(&self, index: u32) -> &AtomicU32 {
        &self.slot(index).reader
    }

    fn generation(&self, index: u32) -> u32 {
        self.slot(index).generation()
    }

    #[inline(always)]
    fn word(&self, position: u64) -> &AtomicU64 {
        debug_assert!(self.stride >= 8 + self.item_size);
        // SAFETY: the word is the first of the cell, which is aligned to 8 and lives as long as
        // `self` by `new`'s contract.
        unsafe { self.at(position).cast().as_ref() }
    }

    #[inline(always)]
    fn item(&self, position: u64) -> NonNull<u8> {
        // SAFETY: the item lies behind the word, if there is one, inside the cell.
        unsafe { self.at(position).add(self.item_at) }
    }

    #[inline(always)]
    fn is_dense(&self) -> bool {
        self.stride == self.item_size
    }

    #[inline(always)]
    unsafe fn write(&self, position: u64, from: *const u8) {
        let (words, rest) = (self.item_size / 8, self.item_size % 8);
        for index in 0..words {
            // SAFETY: inside the item that the caller vouches for.
            let word = unsafe { from.cast::<u64>().add(index).read_unaligned() };
            self.item_word(position, index).store(word, Ordering::Relaxed);
        }
        if rest > 0 {
            let mut word = 0_u64;
            // SAFETY: the last `rest` bytes of the item, into a local word.
            unsafe { ptr::copy_nonoverlapping(from.add(words * 8), (&raw mut word).cast(), rest) };
            self.item_word(position, words).store(word, Ordering::Relaxed);
        }
    }

    #[inline(always)]
    unsafe fn read(&self, position: u64, to: *mut u8) {
        let (words, rest) = (self.item_size / 8, self.item_size % 8);
        for index in 0..words {
            let word = self.item_word(position, index).load(Ordering::Relaxed);
            // SAFETY: inside the buffer that the caller vouches for.
            unsafe { to.cast::<u64>().add(index).write_unaligned(word) };
        }
        if rest > 0 {
            let word = self.item_word(position, words).load(Ordering::Relaxed);
            // SAFETY: the last `rest` bytes of the buffer, from a local word.
            unsafe { ptr::copy_nonoverlapping((&raw const word).cast(), to.add(words * 8), rest) };
        }
    }

    #[inline(always)]
    unsafe fn write_shared_word(&self, position: u64, from: *const u8) {
        debug_assert!(self.stride == 8 && self.item_size == 8);
        // SAFETY: the masked position is below the capacity, so this cell of eight bytes lies inside; it
        // is aligned to 8 by `new`'s contract.
        let cell =
            unsafe { self.cells.cast::<AtomicU64>().add((position & self.mask) as usize).as_ref() };
        // SAFETY: an item of eight bytes, for which the caller vouches.
        let word = unsafe { from.cast::<u64>().read_unaligned() };
        // Relaxed: the commit orders it; a consumer that reads it too early discards it.
        cell.store(word, Ordering::Relaxed);
    }

    #[inline(always)]
    unsafe fn write_run(&self, position: u64, from: *const u8, count: u64) {
        // SAFETY: the caller's promise; without words of their own the cells are the items.
        unsafe { copy_in(self.at(position).as_ptr(), from, count as usize * self.item_size) };
    }

    #[inline(always)]
    unsafe fn write_word(&self, position: u64, from: *const u8) {
        debug_assert!(self.stride == 8 && self.item_size == 8);
        // SAFETY: the masked position is below the capacity, so this cell of eight bytes lies inside;
        // the caller's promise.
        unsafe { copy_in(self.cells.as_ptr().add((position & self.mask) as usize * 8), from, 8) };
    }

    #[inline(always)]
    unsafe fn read_word(&self, position: u64, to: *mut u8) {
        debug_assert!(self.stride == 8 && self.item_size == 8);
        // SAFETY: as above.
        unsafe { copy_out(to, self.cells.as_ptr().add((position & self.mask) as usize * 8), 8) };
    }

    #[inline(always)]
    unsafe fn read_run(&self, position: u64, to: *mut u8, count: u64) {
        // SAFETY: as above.
        unsafe { copy_out(to, self.at(position).as_ptr(), count as usize * self.item_size) };
    }
}
