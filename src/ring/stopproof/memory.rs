//! The memory of a stop-proof ring: what the algorithm sees of it, and the mapped one.
//!
//! The algorithm asks for a word anew at every access to it, so that a harness can stop it there.

use std::ptr::NonNull;

use crate::object::{LINE, Pool};
use crate::ring::control::Control;
use crate::ring::copy::{copy_in, copy_out};
use crate::sync::atomic::AtomicU64;

/// What a stop-proof ring stands on.
pub(crate) trait Memory {
    /// Items that fit, a power of two.
    fn capacity(&self) -> u64;
    /// Places, a power of two, at least `capacity + participants`.
    fn places(&self) -> u64;
    /// Cells, at least `capacity + 2 * participants`.
    fn cells(&self) -> u64;
    /// See the header: the first position not pushed, or the one before.
    fn tail(&self) -> &AtomicU64;
    /// The first position not popped, or the one before.
    fn head(&self) -> &AtomicU64;
    /// The cell where a free one may be, or any number.
    fn hint(&self) -> &AtomicU64;
    /// Items that were given up for newer ones.
    fn dropped(&self) -> &AtomicU64;
    /// Items whose taker died with them.
    fn lost(&self) -> &AtomicU64;
    /// The word of the place of `position`.
    fn place(&self, position: u64) -> &AtomicU64;
    /// The word of cell number `cell`, which is below `cells`.
    fn cell(&self, cell: u64) -> &AtomicU64;
    /// The item's place in a cell.
    fn item(&self, cell: u64) -> NonNull<u8>;
    /// Copies an item into a cell.
    ///
    /// # Safety
    /// The cell is the caller's; `from` is readable for an item.
    unsafe fn write(&self, cell: u64, from: *const u8);
    /// Copies the item out of a cell.
    ///
    /// # Safety
    /// The cell is the caller's; `to` is writable for an item.
    unsafe fn read(&self, cell: u64, to: *mut u8);
}

/// The memory of a mapped object.
#[derive(Debug)]
pub(crate) struct Mapped {
    control: NonNull<Control>,
    hint: NonNull<u8>,
    places: NonNull<u8>,
    cells: NonNull<u8>,
    capacity: u64,
    mask: u64,
    count: u64,
    stride: usize,
    item_size: usize,
}

// SAFETY: shared memory belongs to the process, not to a thread.
unsafe impl Send for Mapped {}

impl Mapped {
    /// # Safety
    /// For as long as the result is used: `control` is a control page; `items` is aligned to a
    /// [`LINE`] and has the length of `pool`, which was made for `capacity` items of `item_size`
    /// bytes.
    pub(crate) unsafe fn new(
        control: NonNull<Control>,
        items: NonNull<u8>,
        capacity: u64,
        pool: &Pool,
        item_size: u32,
    ) -> Self {
        // SAFETY: both parts begin inside, by the caller's promise.
        let (places, cells) =
            unsafe { (items.add(LINE as usize), items.add(pool.cells_offset as usize)) };
        Self {
            control,
            hint: items,
            places,
            cells,
            capacity,
            mask: pool.places - 1,
            count: pool.cells,
            stride: pool.stride as usize,
            item_size: item_size as usize,
        }
    }

    #[inline(always)]
    fn control(&self) -> &Control {
        // SAFETY: `new`'s contract; the page consists of atomics.
        unsafe { self.control.as_ref() }
    }

    #[inline(always)]
    fn at(&self, cell: u64) -> NonNull<u8> {
        debug_assert!(cell < self.count);
        // SAFETY: below the number of cells by the caller's promise, so the cell lies inside.
        unsafe { self.cells.add(cell as usize * self.stride) }
    }
}

impl Memory for Mapped {
    #[inline(always)]
    fn capacity(&self) -> u64 {
        self.capacity
    }

    #[inline(always)]
    fn places(&self) -> u64 {
        self.mask + 1
    }

    #[inline(always)]
    fn cells(&self) -> u64 {
        self.count
    }

    #[inline(always)]
    fn tail(&self) -> &AtomicU64 {
        &self.control().tail.0
    }

    #[inline(always)]
    fn head(&self) -> &AtomicU64 {
        &self.control().head.0
    }

    #[inline(always)]
    fn hint(&self) -> &AtomicU64 {
        // SAFETY: the first word of the items' part, which is aligned and lives as long as `self` by
        // `new`'s contract.
        unsafe { self.hint.cast().as_ref() }
    }

    fn dropped(&self) -> &AtomicU64 {
        &self.control().dropped.0
    }

    fn lost(&self) -> &AtomicU64 {
        &self.control().lost.0
    }

    #[inline(always)]
    fn place(&self, position: u64) -> &AtomicU64 {
        // SAFETY: the masked position is below the number of places, so the word lies inside; it is
        // aligned to 8 and lives as long as `self` by `new`'s contract.
        unsafe { self.places.cast().add((position & self.mask) as usize).as_ref() }
    }

    #[inline(always)]
    fn cell(&self, cell: u64) -> &AtomicU64 {
        // SAFETY: the word is the first of the cell, which is aligned to 8 (the stride is a multiple
        // of 8) and lives as long as `self` by `new`'s contract.
        unsafe { self.at(cell).cast().as_ref() }
    }

    #[inline(always)]
    fn item(&self, cell: u64) -> NonNull<u8> {
        // SAFETY: the item lies behind the word, inside the cell.
        unsafe { self.at(cell).add(8) }
    }

    #[inline(always)]
    unsafe fn write(&self, cell: u64, from: *const u8) {
        // SAFETY: the cell is the caller's; it vouches for `from`.
        unsafe { copy_in(self.item(cell).as_ptr(), from, self.item_size) };
    }

    #[inline(always)]
    unsafe fn read(&self, cell: u64, to: *mut u8) {
        // SAFETY: the cell is the caller's; it vouches for `to`.
        unsafe { copy_out(to, self.item(cell).as_ptr(), self.item_size) };
    }
}
