#![forbid(unsafe_code)]
//! The FIFOs at which handles wait with a descriptor: whose they are, and whether that handle lives.
//! Their names are those of `object/bell.rs`; in the making they are temporary files.
//!
//! No two handles ever have the same name, so once a handle is dead its FIFO is nobody's, and anybody
//! may remove it. It is proven dead by its lock byte, where the object has a name; else by the FIFO,
//! which a living handle has open for reading. (That would do for all. But a forked child has the
//! descriptor, too, until it uses its handle.)
//!
//! A temporary FIFO without a reader may be one that is just being made. Its maker finds out, and
//! makes another: see [`fifo::make`].

use nix::errno::Errno;

use super::mechanism::{Mechanism, found};
use super::reap;
use crate::error::{Error, Result};
use crate::name::{BELL_PREFIX, Name};
use crate::object::{BellName, Life, Look};
use crate::shm::named;
use crate::sys::{alloc, fifo};

/// Which handle it is, by the name of the doorbell.
pub(super) fn parse(name: &[u8]) -> Option<BellName> {
    BellName::parse(name.strip_prefix(b"/").unwrap_or(name))
}

/// Whether no living process can be that handle of the object.
fn is_dead(bell: BellName, look: &Look) -> Result<bool> {
    Ok(look.life(bell.index, bell.generation)? != Life::Living)
}

/// Whether nobody has the doorbell called `name` any more, whatever object it is of.
pub(super) fn is_left(name: &[u8]) -> Result<bool> {
    let path = Mechanism::Poll.name(name)?;
    reap::stands(&path)?;
    let bell = parse(name).ok_or_else(|| reap::foreign(&path))?;
    for (mechanism, name) in found()? {
        if !mechanism.has_participants() {
            continue;
        }
        let Ok(look) = super::look(mechanism, &name) else { continue };
        if look.home() == Some(bell.home) {
            return is_dead(bell, &look);
        }
    }
    has_no_reader(&path)
}

/// The same for a doorbell in the making, a FIFO with a temporary name; `None` for any other file.
pub(super) fn is_left_unfinished(name: &[u8], path: &Name) -> Result<Option<bool>> {
    let bare = name.strip_prefix(b"/").unwrap_or(name);
    match bare.strip_prefix(BELL_PREFIX.as_bytes()).and_then(BellName::parse) {
        Some(_) => reap::stands(path).and_then(|()| has_no_reader(path).map(Some)),
        None => Ok(None),
    }
}

fn has_no_reader(path: &Name) -> Result<bool> {
    let what = alloc::text(path)?;
    fifo::is_left(path.path()).map_err(|errno| match errno {
        Errno::ENOENT => super::missing(&what),
        errno => Error::from_kernel(errno, &what),
    })
}

/// The FIFOs that dead handles of an object have left.
pub(super) fn left(look: &Look) -> Result<Vec<Vec<u8>>> {
    let mut left = Vec::new();
    let Some(home) = look.home() else { return Ok(left) };
    for (mechanism, name) in found()? {
        if mechanism == Mechanism::Poll
            && let Some(bell) = parse(&name)
            && bell.home == home
            && is_dead(bell, look)?
        {
            alloc::push(&mut left, name)?;
        }
    }
    Ok(left)
}

/// Removes them; how many.
pub(super) fn remove_left(look: &Look) -> Result<u32> {
    let mut removed = 0;
    for name in left(look)? {
        let name = Mechanism::Poll.name(&name)?;
        // Another one may have removed it; what may not be removed stays, and is found again.
        removed += u32::from(named::unlink(name.path(), &alloc::text(&name)?).is_ok());
    }
    Ok(removed)
}
