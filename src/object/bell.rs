#![forbid(unsafe_code)]
//! Doorbells: the names of the FIFOs at which handles wait with a descriptor.
//!
//! `/dev/shm/mdg.poll.UUID.DEVICE.INODE.OFFSET.SLOT.GENERATION`: which object, and which handle of it.
//! The uuid, in hexadecimal, lies in shared memory, where anybody can write another object's; device
//! and inode of the file, and the offset in it, are the kernel's and this process's word for it, and no
//! two objects have the same. The uuid keeps those apart that have them one after the other. So no
//! two handles ever have the same name, and the name of a dead one can be removed at any time by
//! anybody who has proven it dead.
//!
//! **A name has a reader as long as its handle lives**: the FIFO is made under a temporary name,
//! `.mdg.tmp.` and the name, and gets its own only when its maker has it open. So a FIFO that nobody
//! has open for reading is nobody's, whatever object it belonged to. That holds for a temporary name,
//! too, but for the moment before its maker has opened it; a maker who finds it gone makes another.
//!
//! | killed | left behind | removed by |
//! |---|---|---|
//! | waiter, between mkfifo and rename | the temporary name, without a reader | as the next, or `inventory::reap` |
//! | waiter, before it has removed its name | the name, without a reader | who takes its slot; who closes the object next; who unlinks it; `inventory::reap` |
//! | who removes such a name | the name, or nothing | as before |

use std::ffi::CStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use super::geometry::{Geometry, PARTICIPANT_STRIDE, PARTICIPANTS_OFFSET};
use super::participant;
use super::superblock::{Room, SUPERBLOCK_LEN, Superblock};
use crate::name::{BELL_PREFIX, DIRECTORY, TEMPORARY_PREFIX};
use crate::sys::alloc::Arc;
use crate::sys::directory::Names;
use crate::sys::fifo;
use crate::sys::kept::Kept;
use crate::sys::lock::Anchor;

/// Directory, slash, both prefixes, 32 digits, three numbers of 20, two of 10, six dots and the like: 145;
/// rounded up.
const LONGEST: usize = 160;

/// An object, as its doorbells name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Home {
    uuid: [u8; 16],
    device: u64,
    inode: u64,
    offset: u64,
}

/// Which handle of which object waits there, or did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BellName {
    pub home: Home,
    pub index: u32,
    pub generation: u32,
}

/// A path, on the stack: it is made where nothing may be allocated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Path([u8; LONGEST]);

impl Path {
    pub(crate) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or(c"")
    }
}

impl Home {
    /// Of the object with this uuid at this place. `None` if it has no uuid (the kernel gave none when
    /// it was made): its doorbells could not be told from those of who had the place before.
    pub(super) fn new(uuid: &[u8; 16], at: &Anchor) -> Option<Self> {
        let (device, inode, offset) = at.place();
        (*uuid != [0; 16]).then_some(Self { uuid: *uuid, device, inode, offset })
    }

    pub(super) fn bell(self, index: u32, generation: u32) -> BellName {
        BellName { home: self, index, generation }
    }
}

impl BellName {
    /// The path of the FIFO.
    pub(crate) fn path(&self) -> Path {
        self.with("")
    }

    /// The path of the FIFO while it is being made.
    pub(crate) fn temporary(&self) -> Path {
        self.with(TEMPORARY_PREFIX)
    }

    fn with(&self, before: &str) -> Path {
        let Self { home: Home { uuid, device, inode, offset }, index, generation } = self;
        let mut bytes = [0; LONGEST];
        let mut rest = &mut bytes[..LONGEST - 1];
        // It always fits, so nothing fails.
        let _ = rest.write_all(DIRECTORY.to_bytes());
        let _ = write!(rest, "/{before}{BELL_PREFIX}");
        for byte in uuid {
            let _ = write!(rest, "{byte:02x}");
        }
        let _ = write!(rest, ".{device}.{inode}.{offset}.{index}.{generation}");
        Path(bytes)
    }

    /// What `name`, the part of a file name behind the prefix, stands for.
    pub(crate) fn parse(name: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(name).ok()?;
        let mut parts = text.split('.');
        let (digits, mut uuid) = (parts.next()?, [0; 16]);
        for (at, byte) in uuid.iter_mut().enumerate() {
            *byte = u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok()?;
        }
        let mut number = || parts.next()?.parse().ok();
        let home = Home { uuid, device: number()?, inode: number()?, offset: number()? };
        let index = u32::try_from(number()?).ok()?;
        let bell = home.bell(index, u32::try_from(number()?).ok()?);
        // Signs, leading zeros and the like are in no name of ours.
        bell.path().as_c_str().to_bytes().strip_suffix(name)?.ends_with(b".").then_some(bell)
    }

    /// Removes what its handle, which is dead or about to close, has left.
    pub(crate) fn remove(&self) {
        fifo::remove(self.path().as_c_str());
        fifo::remove(self.temporary().as_c_str());
    }
}

/// Removes what dead handles of an object have left; for who has just removed its name. What cannot
/// be read, or removed, stays.
pub(super) fn remove_dead(file: OwnedFd) {
    let _ = try_remove_dead(file);
}

fn try_remove_dead(file: OwnedFd) -> Option<()> {
    let copy = File::from(file.try_clone().ok()?);
    let anchor = Anchor::new(Arc::new(Kept::new(file).ok()?).ok()?, 0);
    let mut bytes = [0; SUPERBLOCK_LEN];
    copy.read_exact_at(&mut bytes, 0).ok()?;
    let size = copy.metadata().ok()?.len();
    let Superblock { geometry, uuid, .. } =
        Superblock::decode(bytes, Room::Exactly(size), "").ok()?;
    let home = Home::new(&uuid, &anchor)?;
    let mut names = Names::of(DIRECTORY).ok()?;
    while let Some(name) = names.next().ok()? {
        let name = name.strip_prefix(TEMPORARY_PREFIX.as_bytes()).unwrap_or(name);
        let bell = name.strip_prefix(BELL_PREFIX.as_bytes()).and_then(BellName::parse);
        if let Some(bell) = bell
            && bell.home == home
            && is_dead(&copy, &anchor, &geometry, bell.index, bell.generation)
        {
            bell.remove();
        }
    }
    Some(())
}

/// Whether no living process can be that handle.
fn is_dead(file: &File, anchor: &Anchor, geometry: &Geometry, index: u32, generation: u32) -> bool {
    if index >= geometry.max_handles {
        return true;
    }
    let mut now = [0; 4];
    let slot = PARTICIPANTS_OFFSET + u64::from(index) * u64::from(PARTICIPANT_STRIDE);
    // Read before the lock is asked for: an owner that comes in between has another generation.
    if file.read_exact_at(&mut now, slot + 4).is_err() {
        return false;
    }
    u32::from_ne_bytes(now) != generation || !participant::is_alive(anchor, index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let uuid = *b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff";
        let home = Home { uuid, device: 25, inode: 77, offset: 4096 };
        let bell = home.bell(4095, u32::MAX);
        let name = "00112233445566778899aabbccddeeff.25.77.4096.4095.4294967295";
        let path = |prefix: &str| format!("/dev/shm/{prefix}{name}").into_bytes();
        assert_eq!(bell.path().as_c_str().to_bytes(), path("mdg.poll."));
        assert_eq!(bell.temporary().as_c_str().to_bytes(), path(".mdg.tmp.mdg.poll."));
        assert_eq!(BellName::parse(name.as_bytes()), Some(bell));
        let all = u64::MAX;
        let longest = Home { uuid, device: all, inode: all, offset: all }.bell(u32::MAX, u32::MAX);
        assert_eq!(longest.temporary().as_c_str().count_bytes(), 144);
        assert_eq!(BellName::parse(&longest.path().as_c_str().to_bytes()[18..]), Some(longest));
        for bad in [
            "",
            "00112233445566778899aabbccddeeff",
            "00112233445566778899aabbccddeeff.25.77.4096.4095",
            "00112233445566778899aabbccddeeff.25.77.4096.4095.1.2",
            "00112233445566778899aabbccddeeff.25.77.4096.4095.4294967296",
            "00112233445566778899aabbccddeeff.25.77.4096.4095.01",
            "00112233445566778899aabbccddeeff.25.+77.4096.4095.1",
            "00112233445566778899aabbccddeeff.25.x.4096.4095.1",
            "00112233445566778899AABBCCDDEEFF.25.77.4096.4095.1",
            "+0112233445566778899aabbccddeeff.25.77.4096.4095.1",
            "0011.25.77.4096.4095.1",
        ] {
            assert_eq!(BellName::parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(BellName::parse(b"\xff\xff"), None);
    }
}
