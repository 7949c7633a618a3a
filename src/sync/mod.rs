#![forbid(unsafe_code)]
//! Waiting: spin a little, then sleep in the kernel, never forget who might be dead.

pub(crate) mod atomic;
pub(crate) mod descriptor;
mod event_count;
pub(crate) mod interrupt;
#[cfg(loom)]
pub(crate) mod model;
mod wait;

pub(crate) use event_count::EventCount;
pub(crate) use wait::{SLICE, Spinner, look_until, wait_deaf_until, wait_until};

/// The system calls of the waiting protocol, and its clock.
mod kernel {
    #[cfg(loom)]
    pub(super) use super::model::{futex, membarrier, now};
    #[cfg(not(loom))]
    pub(super) use crate::sys::{futex, membarrier};
    #[cfg(not(loom))]
    pub(super) use crate::time::now;
}
