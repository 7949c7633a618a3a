#![forbid(unsafe_code)]
//! The objects of this library under `/dev/shm`, seen from outside: listed, checked, repaired, and
//! removed when nobody lives in them.
//!
//! Segments and POSIX semaphores are not ours; they are neither listed nor touched.
//!
//! What stands under a name of ours may be anything: it is opened without following links and
//! without waiting, and nothing in it is believed before it is compared.

mod area;
mod check;
mod holders;
mod list;
mod mechanism;
mod reap;
mod repair;

pub use check::{Verdict, check};
pub use holders::{Holder, holders, role};
pub use list::{Info, State, list};
pub use mechanism::Mechanism;
pub use reap::{ReapOptions, reap};
pub use repair::repair;

use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::object::Look;
use crate::shm::named;
use crate::sys::alloc;

/// Opens an object to look at it.
fn look(mechanism: Mechanism, name: &[u8]) -> Result<Look> {
    let name = mechanism.name(name)?;
    let what = alloc::text(&name)?;
    let file = named::open_regular(name.path(), false, &what)?.ok_or_else(|| missing(&what))?;
    Look::new(file, &what)
}

fn missing(what: &str) -> Error {
    Error::new(Errno::ENOENT, format_args!("{what}: does not exist"))
}
