#![forbid(unsafe_code)]
//! Waiting: spin a little, then sleep in the kernel, never forget who might be dead.

pub(crate) mod atomic;
pub(crate) mod descriptor;
mod event_count;
mod wait;

pub(crate) use event_count::EventCount;
pub(crate) use wait::{Spinner, look_until, wait_until};
