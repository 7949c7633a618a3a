//! A mapped object seen as atomics: typed views at checked offsets, never plain references.

use std::ptr::NonNull;

use crate::shm::Mapping;
use crate::sync::EventCount;
use crate::sync::atomic::AtomicU64;
use crate::sys::sigbus::Stops;

/// A structure of the shared layout.
///
/// # Safety
/// It is `repr(C)` and consists of atomics (and padding bytes) only, so that any bytes are a valid
/// value and other processes may store to it at any time.
pub(crate) unsafe trait Shared {}

// SAFETY: atomics.
unsafe impl Shared for AtomicU64 {}
// SAFETY: repr(C), two atomics.
unsafe impl Shared for EventCount {}

/// The bytes of one object, mapped for reading and writing; or for reading alone, where the owner of
/// the region stores nothing.
#[derive(Debug)]
pub(crate) struct Region {
    mapping: Mapping,
}

impl Region {
    /// Takes over a mapping.
    pub(crate) fn new(mapping: Mapping) -> Self {
        Self { mapping }
    }

    /// Whether the object was found shorter than it was: see `sys::sigbus`.
    pub(crate) fn is_cut(&self) -> bool {
        self.mapping.is_cut()
    }

    /// What the guard against SIGBUS sets when the object has become shorter.
    ///
    /// # Safety
    /// The words outlive the last access to this region.
    pub(crate) unsafe fn on_cut(&self, stops: &Stops<'_>) {
        // SAFETY: the caller's promise.
        unsafe { self.mapping.on_cut(stops) };
    }

    /// Whether the bytes may be written. If not, a store through a view of them is SIGSEGV.
    pub(crate) fn is_writable(&self) -> bool {
        self.mapping.is_writable()
    }

    /// The structure at `offset`; `None` if it does not lie inside or is misaligned there.
    pub(crate) fn view<T: Shared>(&self, offset: u64) -> Option<&T> {
        let at = self.bytes(offset, size_of::<T>() as u64)?.cast::<T>();
        if !at.is_aligned() {
            return None;
        }
        // SAFETY: inside the mapping (checked by `bytes`), aligned, and `Shared` makes every bit
        // pattern a valid value that others may change under a shared reference. The mapping lives
        // as long as `self`, from which the lifetime comes.
        Some(unsafe { at.as_ref() })
    }

    /// The `len` bytes at `offset`; `None` if they do not lie inside.
    pub(crate) fn bytes(&self, offset: u64, len: u64) -> Option<NonNull<u8>> {
        let end = offset.checked_add(len)?;
        if end > self.mapping.len() as u64 {
            return None;
        }
        // SAFETY: `offset` is at most the mapping's length, which is at most isize::MAX.
        Some(unsafe { self.mapping.address().add(offset as usize) })
    }
}
