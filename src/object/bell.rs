#![forbid(unsafe_code)]
//! Doorbells: the names of the FIFOs at which handles wait with a descriptor.
//!
//! `/dev/shm/mdg.poll.UUID.SLOT.GENERATION`: the object's uuid in hexadecimal, and which handle it
//! is. No two handles ever have the same name, so the name of a dead one can be removed at any time
//! by anybody who has proven it dead.
//!
//! | killed | left behind | removed by |
//! |---|---|---|
//! | waiter, before it has removed its name | the name | who takes its slot; who closes the object next; who unlinks it |
//! | who removes such a name | the name, or nothing | as before |

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::geometry::{Geometry, PARTICIPANT_STRIDE, PARTICIPANTS_OFFSET};
use super::participant;
use super::superblock::{Room, SUPERBLOCK_LEN, Superblock};
use crate::name::{BELL_PREFIX, DIRECTORY};
use crate::sys::fifo;
use crate::sys::lock::Anchor;

/// Directory, slash, prefix, 32 digits, dot, 10, dot, 10, NUL; rounded up.
const LONGEST: usize = 96;

/// The path of a handle's FIFO. On the stack: it is made where nothing may be allocated.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BellName([u8; LONGEST]);

impl BellName {
    /// `None` if the object has no uuid (there was no /proc when it was made): its doorbells could
    /// not be told from another's.
    pub(super) fn new(uuid: &[u8; 16], index: u32, generation: u32) -> Option<Self> {
        if *uuid == [0; 16] {
            return None;
        }
        let mut bytes = [0; LONGEST];
        let mut rest = &mut bytes[..LONGEST - 1];
        rest.write_all(DIRECTORY.to_bytes()).ok()?;
        write!(rest, "/{BELL_PREFIX}").ok()?;
        for byte in uuid {
            write!(rest, "{byte:02x}").ok()?;
        }
        write!(rest, ".{index}.{generation}").ok()?;
        Some(Self(bytes))
    }

    pub(crate) fn path(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or(c"")
    }
}

/// Slot and generation of the doorbell `name`, if it is one of the object `prefix` is made for.
fn parse(name: &[u8], prefix: &[u8]) -> Option<(u32, u32)> {
    let rest = std::str::from_utf8(name.strip_prefix(prefix)?).ok()?;
    let (index, generation) = rest.split_once('.')?;
    Some((index.parse().ok()?, generation.parse().ok()?))
}

/// Removes what dead handles of an object have left; for who has just removed its name. What cannot
/// be read, or removed, stays.
pub(super) fn remove_dead(file: OwnedFd) {
    let _ = try_remove_dead(file);
}

fn try_remove_dead(file: OwnedFd) -> Option<()> {
    let copy = File::from(file.try_clone().ok()?);
    let anchor = Anchor::new(Arc::new(file), 0).ok()?;
    let mut bytes = [0; SUPERBLOCK_LEN];
    copy.read_exact_at(&mut bytes, 0).ok()?;
    let size = copy.metadata().ok()?.len();
    let Superblock { geometry, uuid, .. } =
        Superblock::decode(bytes, Room::Exactly(size), "").ok()?;
    let any = BellName::new(&uuid, 0, 0)?;
    let name = any.path().to_bytes().get(DIRECTORY.to_bytes().len() + 1..)?;
    let prefix = name.strip_suffix(b"0.0")?;
    for entry in std::fs::read_dir(OsStr::from_bytes(DIRECTORY.to_bytes())).ok()?.flatten() {
        let Some((index, generation)) = parse(entry.file_name().as_bytes(), prefix) else {
            continue;
        };
        if is_dead(&copy, &anchor, &geometry, index, generation)
            && let Some(name) = BellName::new(&uuid, index, generation)
        {
            fifo::remove(name.path());
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
        let name = BellName::new(&uuid, 4095, u32::MAX).unwrap();
        let expected = c"/dev/shm/mdg.poll.00112233445566778899aabbccddeeff.4095.4294967295";
        assert_eq!(name.path(), expected);
        assert!(BellName::new(&[0; 16], 1, 1).is_none());
        let prefix = b"mdg.poll.00112233445566778899aabbccddeeff.";
        assert_eq!(parse(&expected.to_bytes()[9..], prefix), Some((4095, u32::MAX)));
        for other in [&b"mdg.poll.00112233445566778899aabbccddeefe.1.1"[..], b"x", prefix] {
            assert_eq!(parse(other, prefix), None);
        }
        assert_eq!(parse(&[prefix, &b"1.x"[..]].concat(), prefix), None);
    }
}
