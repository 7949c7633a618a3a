#![forbid(unsafe_code)]
//! Clearing away what the dead have left in one object.
//!
//! Nothing here waits for anybody or keeps anybody waiting: it does what the next participant would
//! do, under the same lock bytes and by the same compare-and-swaps.

use std::os::fd::AsFd;

use nix::errno::Errno;

use super::mechanism::Mechanism;
use super::{check, missing};
use crate::error::{Error, Result};
use crate::object::{Look, Object};
use crate::ring::Ring;
use crate::sem::UndoSemaphore;
use crate::shm::named;
use crate::sys::alloc;

/// Clears away what the dead have left in the object `name`; how many things that were. What belongs
/// to the living is not touched, and they may go on meanwhile. `EBADMSG` if the object is corrupt:
/// nothing is changed then.
pub fn repair(mechanism: Mechanism, name: &[u8]) -> Result<u32> {
    let name = mechanism.name(name)?;
    let what = alloc::text(&name)?;
    let mend: fn(Object) -> Result<u32> = match mechanism {
        Mechanism::Ring => Ring::repair,
        Mechanism::Semaphore => UndoSemaphore::repair,
        _ => {
            return Err(Error::new(
                Errno::ENOSYS,
                format_args!("{what}: nothing there that this version could repair"),
            ));
        }
    };
    let file = named::open_regular(name.path(), true, &what)?.ok_or_else(|| missing(&what))?;
    let copy = file.as_fd().try_clone_to_owned().map_err(|error| {
        Error::from_kernel(error.raw_os_error().map_or(Errno::EMFILE, Errno::from_raw), &what)
    })?;
    let look = Look::new(copy, &what)?;
    let (_, missed) = check::examine(mechanism, &look)?;
    if missed > 0 {
        return Err(look.corrupt(format_args!("{missed} of its cells have no memory")));
    }
    mend(Object::visit(file, &what)?)
}
