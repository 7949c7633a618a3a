#![forbid(unsafe_code)]
//! The atomics that the algorithms are written with: the processor's, or, under `--cfg loom`, those
//! of the model checker, which tries every order in which they may take effect; see `model`.

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, fence};

pub(crate) use std::sync::atomic::Ordering;

#[cfg(loom)]
pub(crate) use super::model::{AtomicU32, AtomicU64, fence, light_fence};

/// The cheap half of an asymmetric fence: keeps the compiler from moving accesses across it. The
/// processor is kept in order by the other half, a membarrier of whoever needs the order.
#[cfg(not(loom))]
#[inline(always)]
pub(crate) fn light_fence() {
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
}
