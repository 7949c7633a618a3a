//! Shared-memory segments: plain POSIX objects, anonymous sealed memory, mapped files.
//!
//! A segment made by name is exactly what `shm_open` makes, without a header of ours: a program
//! that knows only POSIX is a full peer. What this adds: it appears at its full size with its
//! pages reserved, or not at all.

mod mapping;
pub(crate) mod named;
mod place;
mod segment;

pub(crate) use mapping::Mapping;
pub use place::Place;
pub use segment::{Seals, Shm};
pub(crate) use segment::{require_seal, sealed_memory};
