//! Places in shared memory where an object of the C library lives.

use std::ptr::NonNull;

use nix::errno::Errno;

use super::mapping::Mapping;
use crate::error::{Error, Result};
use crate::sys::semaphore::{self, Sem};

/// Memory, aligned for and as large as a `sem_t`, that stays mapped as long as this value.
#[derive(Debug)]
pub struct Place {
    memory: NonNull<u8>,
    /// What keeps it mapped; `None` if that is somebody else's promise.
    _mapping: Option<Mapping>,
}

// SAFETY: the memory belongs to the process, not to a thread; semaphores are free-threaded.
unsafe impl Send for Place {}
// SAFETY: as above.
unsafe impl Sync for Place {}

impl Place {
    /// Memory that the caller shares with others; `EINVAL` if it is misaligned.
    ///
    /// # Safety
    /// It is readable and writable for a `sem_t`, and stays so as long as the result and what is
    /// made of it live.
    pub unsafe fn at(memory: NonNull<u8>) -> Result<Self> {
        if !memory.addr().get().is_multiple_of(semaphore::ALIGN) {
            return Err(Error::new(
                Errno::EINVAL,
                format_args!("semaphore in memory: must be aligned to {}", semaphore::ALIGN),
            ));
        }
        Ok(Self { memory, _mapping: None })
    }

    /// The beginning of a mapping, which is aligned to a page; `EPROTO` if it is too short.
    pub(crate) fn of(mapping: Mapping) -> Result<Self> {
        if mapping.len() < semaphore::SIZE || !mapping.is_writable() {
            return Err(Error::new(Errno::EPROTO, "too little memory for a semaphore"));
        }
        Ok(Self { memory: mapping.address(), _mapping: Some(mapping) })
    }

    /// The bytes there now; others may be changing them.
    pub(crate) fn bytes(&self) -> [u8; semaphore::SIZE] {
        // SAFETY: readable by the contract of `at` and `of`; volatile, as others may post meanwhile.
        unsafe { self.memory.cast::<[u8; semaphore::SIZE]>().as_ptr().read_volatile() }
    }

    /// Makes a semaphore here. Making one over one that is in use confuses its users, but touches
    /// no memory beside it.
    pub(crate) fn make(&self, value: u32) -> nix::Result<Sem<'_>> {
        // SAFETY: aligned and writable by the contract of `at` and `of`, as long as the borrow.
        unsafe { Sem::init(self.memory, value) }
    }

    /// The semaphore that is here, whose bytes were checked to be one.
    pub(crate) fn semaphore(&self) -> Sem<'_> {
        // SAFETY: as above.
        unsafe { Sem::at(self.memory) }
    }
}
