#![forbid(unsafe_code)]
//! The size of a page of this machine's memory: 4 KiB on x86, 4, 16 or 64 KiB on 64-bit ARM.
//!
//! The layout of shared objects does not depend on it: their parts begin at multiples of 4096 on all
//! machines. Only mappings do, and what the kernel is told about them.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::unistd::{SysconfVar, sysconf};

/// No Linux has smaller pages.
pub(crate) const SMALLEST: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

/// Bytes of a page, a power of two. The kernel is asked once; after that a signal handler may call
/// this.
pub(crate) fn size() -> NonZeroUsize {
    static SIZE: AtomicUsize = AtomicUsize::new(0);
    // Relaxed: a number that depends on nothing else.
    if let Some(size) = NonZeroUsize::new(SIZE.load(Ordering::Relaxed)) {
        return size;
    }
    let size = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    let size = size.and_then(|size| usize::try_from(size).ok()).and_then(NonZeroUsize::new);
    let size = size.unwrap_or(SMALLEST);
    SIZE.store(size.get(), Ordering::Relaxed);
    size
}
