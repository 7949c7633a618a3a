#![forbid(unsafe_code)]
//! The FIFOs at which handles wait with a descriptor, `mdg.poll.UUID.SLOT.GENERATION`: whose they
//! are, and whether that handle lives. A FIFO is never opened here: whoever rings would notice.
//!
//! No two handles ever have the same slot and generation in the same object, so once a handle is
//! dead its FIFO is nobody's, and anybody may remove the name.

use nix::errno::Errno;

use super::mechanism::{Mechanism, found};
use crate::error::{Error, Result};
use crate::object::{Life, Look};
use crate::shm::named;

/// Which handle of which object waits there, or did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Doorbell {
    uuid: [u8; 16],
    slot: u32,
    generation: u32,
}

impl Doorbell {
    pub(super) fn parse(name: &[u8]) -> Option<Self> {
        let name = std::str::from_utf8(name.strip_prefix(b"/").unwrap_or(name)).ok()?;
        let mut parts = name.split('.');
        let (digits, slot, generation) = (parts.next()?, parts.next()?, parts.next()?);
        let mut uuid = [0; 16];
        let plain = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        if parts.next().is_some() || digits.len() != 32 || !plain {
            return None;
        }
        for (byte, at) in uuid.iter_mut().zip((0..32).step_by(2)) {
            *byte = u8::from_str_radix(&digits[at..at + 2], 16).ok()?;
        }
        Some(Self { uuid, slot: slot.parse().ok()?, generation: generation.parse().ok()? })
    }

    /// Whether no living process can be that handle of the object.
    fn is_dead(&self, look: &Look) -> Result<bool> {
        Ok(look.life(self.slot, self.generation)? != Life::Living)
    }

    /// The same, whatever object it is; `EBUSY` if that cannot be proven.
    pub(super) fn is_left(&self, what: &str) -> Result<bool> {
        for (mechanism, name) in found()? {
            if !mechanism.has_participants() {
                continue;
            }
            let Ok(look) = super::look(mechanism, &name) else { continue };
            if look.superblock().uuid == self.uuid {
                return self.is_dead(&look);
            }
        }
        let text = format!("{what}: its object has no name, so its handle may live");
        Err(Error::new(Errno::EBUSY, text))
    }
}

/// The FIFOs that dead handles of an object have left.
pub(super) fn left(look: &Look) -> Result<Vec<Vec<u8>>> {
    let uuid = look.superblock().uuid;
    let mut left = Vec::new();
    // Without /proc an object has no uuid of its own.
    if uuid == [0; 16] {
        return Ok(left);
    }
    for (mechanism, name) in found()? {
        if mechanism == Mechanism::Poll
            && let Some(bell) = Doorbell::parse(&name)
            && bell.uuid == uuid
            && bell.is_dead(look)?
        {
            left.push(name);
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
        removed += u32::from(named::unlink(name.path(), &name.to_string()).is_ok());
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let name = b"/00112233445566778899aabbccddeeff.4095.4294967295";
        let bell = Doorbell::parse(name).unwrap();
        assert_eq!((bell.uuid[1], bell.slot, bell.generation), (0x11, 4095, u32::MAX));
        for bad in [
            &b""[..],
            b"00112233445566778899aabbccddeeff.1",
            b"00112233445566778899aabbccddeeff.1.2.3",
            b"0011.1.2",
            b"+0112233445566778899aabbccddeeff.1.2",
            b"00112233445566778899aabbccddeeff.x.2",
            b"\xff\xff",
        ] {
            assert_eq!(Doorbell::parse(bad), None, "{bad:?}");
        }
    }
}
