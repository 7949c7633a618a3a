//! Rings: bounded buffers of fixed-size items between processes.
//!
//! [`Ring`] is one handle; [`Producer`] and [`Consumer`] are its two ends as types. What kinds of
//! ring there are says [`Kind`].

mod arming;
mod broadcast;
mod control;
mod copy;
mod demote;
mod ends;
mod engine;
pub(crate) mod fast;
mod handle;
pub(crate) mod inspect;
mod many;
mod mpmc;
mod options;
mod pace;
mod poll;
mod repair;
mod report;
mod seat;
mod skip;
mod spsc;
mod stats;
mod stopproof;
mod straight;
mod transfer;
mod waiting;
mod watches;

pub use broadcast::Start;
pub use ends::{Consumer, Producer, pair};
pub(crate) use fast::Face;
pub use handle::Ring;
pub use many::{MOST, Source, Wait, wait_any};
pub use options::{Kind, Options, policy};
pub use poll::{Canceller, Events};
pub use stats::{EndState, Stats};
pub(crate) use straight::ForTwo;
