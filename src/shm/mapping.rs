//! A file's bytes in memory, shared with everyone who maps the same file.

use std::os::fd::{AsFd, AsRawFd};
use std::ptr::NonNull;

use memmap2::{MmapOptions, MmapRaw, RemapOptions};
use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::sys::sigbus::{Guarded, Stops};

/// A shared mapping of a file, from its start where nothing else is said.
///
/// Other processes write to it at will, so its bytes are never handed out as Rust references;
/// whoever reads them does so through atomics or raw copies.
#[derive(Debug)]
pub(crate) struct Mapping {
    /// Before the mapping, so that it is dropped first.
    guarded: Guarded,
    map: MmapRaw,
    writable: bool,
}

fn refused(error: &std::io::Error, len: usize) -> Error {
    let errno = match error.raw_os_error().map_or(Errno::EINVAL, Errno::from_raw) {
        // A device without memory behind it.
        Errno::ENODEV => Errno::EPROTO,
        // Over the limit of locked memory, in a program that locks all of its own.
        Errno::EAGAIN => Errno::ENOMEM,
        errno => errno,
    };
    Error::from_kernel(errno, format_args!("mapping {len} bytes"))
}

impl Mapping {
    /// Maps the first `len` bytes; `len` is at least 1 and the file is at least that long (or a
    /// device that gives any length).
    pub(crate) fn new(file: impl AsFd, len: usize, writable: bool) -> Result<Self> {
        Self::part(file, 0, len, writable)
    }

    /// Maps `len` bytes from `offset`, a multiple of the page size, under the same conditions.
    pub(crate) fn part(file: impl AsFd, offset: u64, len: usize, writable: bool) -> Result<Self> {
        if len == 0 || len > isize::MAX as usize {
            return Err(Error::new(Errno::EOVERFLOW, format_args!("{len} bytes cannot be mapped")));
        }
        let mut options = MmapOptions::new();
        options.offset(offset).len(len);
        let file = file.as_fd().as_raw_fd();
        let map = if writable { options.map_raw(file) } else { options.map_raw_read_only(file) };
        let map = map.map_err(|error| refused(&error, len))?;
        Ok(Self { guarded: Guarded::new(map.as_ptr().addr(), len), map, writable })
    }

    /// The first byte; valid for `len` bytes as long as this mapping lives and is not resized.
    pub(crate) fn address(&self) -> NonNull<u8> {
        // SAFETY: mmap never returns page 0 for a mapping it chose the place of.
        unsafe { NonNull::new_unchecked(self.map.as_mut_ptr()) }
    }

    /// Bytes mapped.
    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether the bytes may be written.
    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    /// Changes the length mapped, moving the mapping where need be.
    pub(crate) fn remap(&mut self, len: usize) -> Result<()> {
        let options = RemapOptions::new().may_move(true);
        // SAFETY: nothing of this crate keeps an address across a remap (a segment's user is told
        // not to), and no reference into the mapping exists.
        unsafe { self.map.remap(len, options) }.map_err(|error| refused(&error, len))?;
        self.guarded = Guarded::new(self.map.as_ptr().addr(), len);
        Ok(())
    }

    /// Whether the file was found shorter than the mapping, by the guard against SIGBUS.
    pub(crate) fn is_cut(&self) -> bool {
        self.guarded.is_cut()
    }

    /// What the guard sets when it finds the file shorter.
    ///
    /// # Safety
    /// The words outlive the last access to this mapping.
    pub(crate) unsafe fn on_cut(&self, stops: &Stops<'_>) {
        // SAFETY: the caller's promise.
        unsafe { self.guarded.stop(stops) };
    }

    /// Writes changed pages of a file to its storage, and waits for it.
    pub(crate) fn sync(&self) -> Result<()> {
        self.map.flush().map_err(|error| refused(&error, self.len()))
    }
}

// SAFETY: the raw mapping is plain memory that belongs to the process; every access through
// `address` carries its own proof.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}
