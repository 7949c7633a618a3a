//! Madang: shared-memory segments, lock-free rings, named semaphores and pipes between Unix
//! programs, crash-safe and small.
//!
//! The crate is written to be used from C (`include/madang.h`, `-lmadang`); the modules below are
//! the same mechanisms for Rust programs.
//!
//! Dependencies point one way: `ffi → mechanism → sync → shm → sys`, with `error`, `name`, `flags`
//! and `time` as leaves. `unsafe` lives in `sys`, `shm`, `object`, `ring` (its core and what hands
//! out its memory) and `ffi`; every other file forbids it.

// What aborts the process without memory: see clippy.toml and `sys::alloc`.
#![cfg_attr(not(any(test, loom)), warn(clippy::disallowed_macros, clippy::disallowed_methods))]

#[cfg(not(target_os = "linux"))]
compile_error!("madang needs Linux: futexes, OFD locks, memfd");

#[cfg(not(target_pointer_width = "64"))]
compile_error!("madang needs a 64-bit processor: indices in shared memory are 64-bit atomics");

#[cfg(not(target_endian = "little"))]
compile_error!("madang needs a little-endian processor: shared memory is laid out in that order");

mod error;
pub mod fd;
pub mod ffi;
mod flags;
pub mod inventory;
pub mod mutex;
mod name;
mod object;
pub mod pipe;
pub mod ring;
pub mod sem;
pub mod shm;
mod sync;
mod sys;
mod time;

/// Installs a handler of SIGBUS for this process, once: where a peer has made the file of a ring or
/// a segment shorter, touching it gives zeros instead of death, and calls on it answer `EBADMSG`
/// ([`shm::Shm::is_cut`] for segments). Any other SIGBUS goes to the handler that was there before,
/// or kills as it would have.
///
/// Nothing installs it but this call. Up to 4096 mappings are guarded at once.
pub fn sigbus_guard() -> Result<()> {
    sys::sigbus::install().map_err(|errno| Error::from_kernel(errno, "guarding against SIGBUS"))
}

pub use error::{Error, Result};
pub use flags::{Access, Creation, OpenFlags};
pub use sync::interrupt::interrupt;
pub use time::Timeout;
