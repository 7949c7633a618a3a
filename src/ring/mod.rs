//! Rings: bounded buffers of fixed-size items between processes.
//!
//! [`Ring`] is one handle; [`Producer`] and [`Consumer`] are its two ends as types. One producer
//! and one consumer at a time ([`Kind::Spsc`]); other kinds have their numbers reserved.

mod control;
mod copy;
mod ends;
mod handle;
mod options;
mod pace;
mod spsc;
mod stats;
mod transfer;

pub use ends::{Consumer, Producer, pair};
pub use handle::Ring;
pub use options::{Kind, Options};
pub use stats::{EndState, Stats};
