#![forbid(unsafe_code)]
//! Mutexes and condition variables read from outside, by somebody who takes no part in them.

use nix::errno::Errno;

use super::{HALF_DONE, LOST, TAG, cond};
use crate::error::{Error, Result};
use crate::object::{COND_SIZE, MUTEX_SIZE, mutex_at as at};
use crate::sys::alloc;
use crate::sys::identity::Identity;
use crate::sys::mutex::{self, Owner};

/// What was seen.
#[derive(Debug)]
pub(crate) struct Seen {
    /// How it is, in words behind its mechanism's.
    pub head: String,
    /// What the dead have left.
    pub findings: Vec<String>,
    /// The process that holds it, and whether it lives.
    pub holder: Option<(u32, bool)>,
    /// Of whoever uses it, what is common to all: the PID namespace.
    pub identity: Identity,
}

fn word<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut word = [0; N];
    word.copy_from_slice(&bytes[at..at + N]);
    word
}

fn foreign(what: &str, which: &str) -> Error {
    Error::new(Errno::EPROTO, format_args!("{what}: these bytes are no {which}"))
}

/// A mutex; `EPROTO` if it is none, `EBADMSG` for an impossible word.
pub(crate) fn mutex(bytes: &[u8; MUTEX_SIZE], what: &str) -> Result<Seen> {
    let owner = mutex::owner(&bytes[at::MUTEX..]);
    let (Some(owner), true) = (owner, u64::from_ne_bytes(word(bytes, 0)) == TAG) else {
        return Err(foreign(what, "mutex"));
    };
    let state = u32::from_ne_bytes(word(bytes, at::STATE));
    let pid = u64::from_ne_bytes(word(bytes, at::MARK)) as u32;
    if state > LOST {
        return Err(Error::new(
            Errno::EBADMSG,
            format_args!("{what}: the state at {:#x} is {state}, which there is not", at::STATE),
        ));
    }
    let mut findings = Vec::new();
    let head = match owner {
        Owner::Nobody => alloc::text("free"),
        Owner::Thread(thread) if state == HALF_DONE => alloc::text(format_args!(
            "held by thread {thread} (pid {pid}), who was told of a death"
        )),
        Owner::Thread(thread) => alloc::text(format_args!("held by thread {thread} (pid {pid})")),
        Owner::Dead => {
            let died = format_args!("its holder (pid {pid}) died; the next who locks it is told");
            alloc::push(&mut findings, alloc::text(died)?)?;
            alloc::text("held by the dead")
        }
    }?;
    if state == LOST {
        let lost = "unlocked after a death and not declared consistent: lost for good";
        alloc::push(&mut findings, alloc::text(lost)?)?;
    }
    let holder = match owner {
        Owner::Nobody => None,
        Owner::Thread(_) => Some((pid, true)),
        Owner::Dead => Some((pid, false)),
    };
    let pid_namespace = u64::from_ne_bytes(word(bytes, at::PID_NAMESPACE));
    let identity = Identity { pid_namespace, ..Identity::default() };
    Ok(Seen { head, findings, holder, identity })
}

/// A condition variable; `EPROTO` if it is none. No death leaves anything in one.
pub(crate) fn cond(bytes: &[u8; COND_SIZE], what: &str) -> Result<Seen> {
    if u64::from_ne_bytes(word(bytes, 0)) != cond::TAG {
        return Err(foreign(what, "condition variable"));
    }
    let (head, identity) = (alloc::text("a counter")?, Identity::default());
    Ok(Seen { head, findings: Vec::new(), holder: None, identity })
}
