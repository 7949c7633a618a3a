//! Small objects of a fixed layout: a mutex, a condition variable. Each is a file of its own or
//! lies in memory that processes share.

use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nix::errno::Errno;

use super::region::Shared;
use crate::error::{Error, Result};
use crate::shm::Mapping;
use crate::sync::EventCount;
use crate::sys::mutex::RobustMutex;

/// What lies at the beginning of an area: which it is, and that it is complete.
#[repr(C)]
#[derive(Debug)]
pub struct Tag(AtomicU64);

impl Tag {
    /// Says that the area is complete.
    pub(crate) fn set(&self, tag: u64) {
        // Release: pairs with the Acquire in `is`: who sees the tag sees the whole area.
        self.0.store(tag, Ordering::Release);
    }

    pub(crate) fn is(&self, tag: u64) -> bool {
        // Acquire: pairs with the Release in `set`.
        self.0.load(Ordering::Acquire) == tag
    }
}

/// A mutex.
#[repr(C)]
#[derive(Debug)]
pub struct MutexArea {
    pub(crate) tag: Tag,
    reserved_holder: AtomicU32,
    /// Whether what it protects is whole.
    pub(crate) state: AtomicU32,
    /// Who waits sleeps on this.
    pub(crate) event: EventCount,
    /// The thread that was told of a death and has declared nothing yet.
    pub(crate) told: AtomicU32,
    reserved: AtomicU32,
    /// In the lower half the process one of whose threads has it or died with it, as it sees itself;
    /// 0 if none does. In the upper half how often it was taken: who has let go of it clears the lower
    /// half only if nobody has taken it since.
    pub(crate) mark: AtomicU64,
    /// The inode number of the PID namespace whose processes may use it: the kernel knows a holder by its
    /// number as that namespace counts it. 0 if it is not known. Changes only when nobody has it open.
    pub(crate) pid_namespace: AtomicU64,
    reserved_line: [AtomicU64; 2],
    pub(crate) mutex: RobustMutex,
}

/// A condition variable.
#[repr(C)]
#[derive(Debug)]
pub struct CondArea {
    pub(crate) tag: Tag,
    pub(crate) event: EventCount,
    reserved: [AtomicU64; 6],
}

/// Bytes of a mutex, whatever the C library's own has.
pub(crate) const MUTEX_SIZE: usize = 128;
pub(crate) const COND_SIZE: usize = 64;

// A model's atomics are larger.
#[cfg(not(loom))]
const _: () = assert!(std::mem::offset_of!(MutexArea, mutex) == 64);
#[cfg(not(loom))]
const _: () = assert!(size_of::<MutexArea>() <= MUTEX_SIZE && align_of::<MutexArea>() == 8);
#[cfg(not(loom))]
const _: () = assert!(size_of::<CondArea>() == COND_SIZE && align_of::<CondArea>() == 8);

// SAFETY: repr(C); atomics, and a mutex that may be any bytes.
unsafe impl Shared for MutexArea {}
// SAFETY: repr(C), atomics only.
unsafe impl Shared for CondArea {}

/// Where the words of a mutex lie, for who reads it from outside.
pub(crate) mod mutex_at {
    use super::MutexArea;
    use std::mem::offset_of;

    pub(crate) const STATE: usize = offset_of!(MutexArea, state);
    pub(crate) const MARK: usize = offset_of!(MutexArea, mark);
    pub(crate) const PID_NAMESPACE: usize = offset_of!(MutexArea, pid_namespace);
    pub(crate) const MUTEX: usize = offset_of!(MutexArea, mutex);
}

/// An area that stays mapped as long as this value.
#[derive(Debug)]
pub struct Area<T> {
    at: NonNull<T>,
    /// What keeps it mapped; `None` if that is somebody else's promise.
    mapping: Option<Mapping>,
}

// SAFETY: the memory belongs to the process, not to a thread, and consists of atomics and of what
// any thread may use.
unsafe impl<T: Sync> Send for Area<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Area<T> {}

impl<T> Area<T> {
    /// Memory that the caller shares with others; `EINVAL` if it is misaligned.
    ///
    /// # Safety
    /// It is readable and writable for the area's size (`MDG_MUTEX_SIZE`, `MDG_COND_SIZE`), and
    /// stays so as long as the result and what is made of it live.
    #[allow(private_bounds)]
    pub unsafe fn at(memory: NonNull<u8>) -> Result<Self>
    where
        T: Shared,
    {
        let at = memory.cast::<T>();
        if !at.is_aligned() {
            return Err(Error::new(
                Errno::EINVAL,
                format_args!("memory must be aligned to {}", align_of::<T>()),
            ));
        }
        Ok(Self { at, mapping: None })
    }

    /// The beginning of a mapping, which is aligned to a page; `EPROTO` if it is too short.
    pub(crate) fn of(mapping: Mapping) -> Result<Self>
    where
        T: Shared,
    {
        if mapping.len() < size_of::<T>() || !mapping.is_writable() {
            return Err(Error::new(Errno::EPROTO, "too little memory"));
        }
        Ok(Self { at: mapping.address().cast(), mapping: Some(mapping) })
    }

    /// Keeps it mapped for as long as the process lives.
    pub(crate) fn keep(&mut self) {
        std::mem::forget(self.mapping.take());
    }
}

impl<T> Deref for Area<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: `at` and `of`: aligned, mapped and large enough as long as this value; `Shared`
        // makes any bytes a valid value that others may change.
        unsafe { self.at.as_ref() }
    }
}
