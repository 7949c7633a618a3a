#![forbid(unsafe_code)]
//! Who uses an object: every handle, of the living and of the dead, and what it has.

use nix::errno::Errno;

use super::mechanism::Mechanism;
use super::{area, look};
use crate::error::{Error, Result};
use crate::object::{End, Life, Look, Occupant};
use crate::ring::inspect::RingLook;
use crate::sem::SemLook;
use crate::sys::identity::{self, Identity};

/// What a holder may do or has. The numbers are those of the C constants.
pub mod role {
    /// It has the producing end of a ring, or is one of those that push.
    pub const PRODUCER: u32 = 1;
    /// It has the consuming end of a ring, or is one of those that pop.
    pub const CONSUMER: u32 = 2;
    /// It holds permits of a semaphore.
    pub const PERMITS: u32 = 4;
    /// It holds a mutex.
    pub const LOCK: u32 = 8;
}

/// Who uses an object, by one handle.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// The process, as it saw itself: a number of its own PID namespace.
    pub pid: u32,
    /// Its effective user; 0 where it is not known.
    pub uid: u32,
    /// The number of its handle in the object; 0 for a mutex.
    pub slot: u32,
    /// Bits of [`role`]; 0 for a handle that has done nothing yet.
    pub roles: u32,
    /// Whether the kernel says that it lives.
    pub is_alive: bool,
    /// Permits that it holds.
    pub permits: u32,
    /// When the handle was opened, in nanoseconds since 1970; 0 where it is not known.
    pub since: u64,
    /// The name of its program, cut to 15 bytes and ended by a zero; empty where it is not known.
    pub command: [u8; 16],
}

/// Calls `each` for every handle on the object `name`: of a ring or a semaphore all handles, of a mutex the
/// one that holds it. It takes no part in the object and stores nothing. How many handles there are.
///
/// `ENOSYS` for other mechanisms: who has a condition variable open is not known.
pub fn holders(mechanism: Mechanism, name: &[u8], mut each: impl FnMut(&Holder)) -> Result<u32> {
    match mechanism {
        Mechanism::Ring => {
            let look = look(mechanism, name)?;
            let ring = RingLook::new(&look)?;
            let role = |index, ends| ring.roles(index, ends).map(|roles| (roles, 0));
            participants(&look, &role, &mut each)
        }
        Mechanism::Semaphore => {
            let look = look(mechanism, name)?;
            let semaphore = SemLook::new(&look)?;
            let role = |index, _| {
                let held = semaphore.held(index)?;
                Ok((if held > 0 { role::PERMITS } else { 0 }, held))
            };
            participants(&look, &role, &mut each)
        }
        Mechanism::Mutex => {
            let seen = area::look(mechanism, &mechanism.name(name)?)?.seen;
            let Some((pid, is_alive)) = seen.holder else { return Ok(0) };
            // Its namespace is that of the mutex; its start time is not known.
            let command = match is_alive {
                true => identity::command(&Identity { pid, ..seen.identity }),
                false => [0; 16],
            };
            let roles = role::LOCK;
            each(&Holder { pid, roles, is_alive, command, ..Holder::default() });
            Ok(1)
        }
        _ => Err(Error::new(
            Errno::ENOSYS,
            format_args!("{}: who has one open is not known", mechanism.word()),
        )),
    }
}

fn participants(
    look: &Look,
    role: &dyn Fn(u32, u32) -> Result<(u32, u32)>,
    each: &mut dyn FnMut(&Holder),
) -> Result<u32> {
    let occupants = look.occupants()?;
    for one in &occupants {
        let Occupant { index, identity, ends, since, .. } = *one;
        let (roles, permits) = role(index, ends)?;
        let is_alive = one.life == Life::Living;
        let command = if is_alive { identity::command(&identity) } else { [0; 16] };
        each(&Holder {
            pid: identity.pid,
            uid: identity.uid,
            slot: index,
            roles,
            is_alive,
            permits,
            since,
            command,
        });
    }
    Ok(occupants.len() as u32)
}

/// The bits of an end in [`role`] are those in a slot.
const _: () =
    assert!(role::PRODUCER == End::Producer.bit() && role::CONSUMER == End::Consumer.bit());
