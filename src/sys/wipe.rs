//! A page that the kernel fills with zeros in a forked child (`MADV_WIPEONFORK`, Linux 4.14).
//!
//! State whose all-zero value means "nothing held in this process" lives here: a child finds it
//! out on the path that it takes anyway, without a fork handler and without a check of its own.

use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

use super::latch::Latch;
use super::{no_memory, page};

/// A `T` in a page of its own.
#[derive(Debug)]
pub(crate) struct Wiped<T> {
    at: NonNull<T>,
}

/// A type for which all-zero bytes are a valid value, and which needs no drop.
///
/// # Safety
/// Both must be true.
pub(crate) unsafe trait Zeroed {}

// SAFETY: integers; an all-zero latch is free; nothing to drop.
unsafe impl<const N: usize> Zeroed for (Latch, [AtomicU32; N]) {}

// SAFETY: the page belongs to this value alone, as a Box's memory would.
unsafe impl<T: Zeroed + Send> Send for Wiped<T> {}
// SAFETY: as above.
unsafe impl<T: Zeroed + Sync> Sync for Wiped<T> {}

impl<T: Zeroed> Wiped<T> {
    /// A new, all-zero value.
    pub(crate) fn new() -> nix::Result<Self> {
        const {
            assert!(
                size_of::<T>() <= page::SMALLEST.get() && align_of::<T>() <= page::SMALLEST.get()
            )
        };
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh private mapping at an address of the kernel's choice.
        let mapped =
            unsafe { mmap_anonymous(None, page::size(), protection, MapFlags::MAP_PRIVATE) };
        let page = mapped.map_err(no_memory)?;
        let this = Self { at: page.cast() };
        // SAFETY: the page is this value's own and holds only zeros so far.
        unsafe { madvise(page, page::size().get(), MmapAdvise::MADV_WIPEONFORK) }
            .map_err(no_memory)?;
        Ok(this)
    }
}

impl<T> Deref for Wiped<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: mapped, aligned and large enough since `new`; zeroed bytes are a valid T. A fork
        // resets the child's copy to zeros while no Rust code of the child is running.
        unsafe { self.at.as_ref() }
    }
}

impl<T> Drop for Wiped<T> {
    fn drop(&mut self) {
        // SAFETY: `new` mapped this page for this value alone; `T` needs no drop.
        let _ = unsafe { munmap(self.at.cast(), page::size().get()) };
    }
}
