#![forbid(unsafe_code)]
//! The atomics that the algorithms are written with: the processor's, or, under `--cfg loom`, those
//! of the model checker, which tries every order in which they may take effect.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
