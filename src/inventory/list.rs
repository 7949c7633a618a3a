#![forbid(unsafe_code)]
//! What there is.

use nix::errno::Errno;
use nix::sys::stat::lstat;

use super::mechanism::{Mechanism, found};
use super::{area, look, reap};
use crate::error::Result;
use crate::object::{Life, Look};
use crate::ring::inspect::RingLook;
use crate::sem::SemLook;
use crate::sys::alloc;

/// What a short look says of an object. The numbers are those of the C constants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing is wrong with it.
    Sound = 0,
    /// The dead have left something: see [`check`](super::check()).
    Damaged = 1,
    /// It has impossible words.
    Corrupt = 2,
    /// What stands there is no object of this library, or of a version that this one does not know.
    NotOurs = 3,
    /// This process may not read it.
    Unreadable = 4,
}

/// A look at one object, taken while others use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// What its name says it is.
    pub mechanism: Mechanism,
    /// Its name, with the leading slash.
    pub name: Vec<u8>,
    /// How it is.
    pub state: State,
    /// Length of the file.
    pub bytes: u64,
    /// The kind within its mechanism; this and what follows is 0 where it is not known.
    pub kind: u32,
    /// Bytes of an item.
    pub item_size: u32,
    /// Items that fit; of a semaphore the permits that it was made with.
    pub capacity: u64,
    /// Items inside, and places in progress; of a semaphore the permits that are free.
    pub length: u64,
    /// Handles that may be open at once.
    pub max_handles: u32,
    /// Handles of living processes.
    pub handles_live: u32,
    /// Handles of dead processes that nobody has cleared away yet.
    pub handles_dead: u32,
    /// The process that made it, in its own PID namespace.
    pub creator_pid: u32,
    /// The owner of the file.
    pub uid: u32,
    /// The permissions of the file.
    pub mode: u32,
}

/// All objects of this library under `/dev/shm`, by mechanism and name. What cannot be read is in
/// the list and says so.
///
/// Cells of a ring are not looked at one by one, as [`check`](super::check()) does.
pub fn list() -> Result<Vec<Info>> {
    let mut all = Vec::new();
    for (mechanism, name) in found()? {
        let Ok(path) = mechanism.name(&name) else { continue };
        // Gone since, if it cannot be asked.
        let Ok(status) = lstat(path.path()) else { continue };
        let mut info = Info {
            mechanism,
            name,
            state: State::Sound,
            bytes: status.st_size as u64,
            kind: 0,
            item_size: 0,
            capacity: 0,
            length: 0,
            max_handles: 0,
            handles_live: 0,
            handles_dead: 0,
            creator_pid: 0,
            uid: status.st_uid,
            mode: status.st_mode & 0o7777,
        };
        match examine(&mut info) {
            Ok(()) => {}
            Err(error) => match error.code() {
                Errno::ENOENT => continue,
                Errno::EBADMSG => info.state = State::Corrupt,
                Errno::EPROTO | Errno::ELOOP => info.state = State::NotOurs,
                Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE => return Err(error),
                _ => info.state = State::Unreadable,
            },
        }
        alloc::push(&mut all, info)?;
    }
    Ok(all)
}

fn examine(info: &mut Info) -> Result<()> {
    let path = info.mechanism.name(&info.name)?;
    let left = match info.mechanism {
        Mechanism::Temporary => reap::is_left(&path)?,
        one if one.is_area() => !area::look(one, &path)?.seen.findings.is_empty(),
        _ => return count(info, &look(info.mechanism, &info.name)?),
    };
    if left {
        info.state = State::Damaged;
    }
    Ok(())
}

fn count(info: &mut Info, look: &Look) -> Result<()> {
    let geometry = look.geometry();
    info.kind = geometry.kind;
    info.item_size = geometry.item_size;
    info.capacity = geometry.capacity;
    info.max_handles = geometry.max_handles;
    info.creator_pid = look.superblock().creator.pid;
    let occupants = look.occupants()?;
    let count = |life| occupants.iter().filter(|one| one.life == life).count() as u32;
    (info.handles_live, info.handles_dead) = (count(Life::Living), count(Life::Dead));
    let mut damaged = info.handles_dead > 0;
    if info.mechanism == Mechanism::Ring {
        let ring = RingLook::new(look)?;
        info.length = ring.length()?;
        damaged |= !ring.findings(&occupants)?.is_empty();
    }
    if info.mechanism == Mechanism::Semaphore {
        let semaphore = SemLook::new(look)?;
        semaphore.check()?;
        info.item_size = 0;
        info.capacity = semaphore.initial().into();
        info.length = semaphore.free()?.into();
    }
    if damaged {
        info.state = State::Damaged;
    }
    Ok(())
}
