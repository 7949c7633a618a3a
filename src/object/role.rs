//! Roles: the one producing and the one consuming end of a ring, each held by a living process or
//! by nobody.
//!
//! The right to a role is a kernel lock on the role's byte; the role word says who has it and how
//! it ended. One 64-bit word, so that every change is one store:
//!
//! ```text
//! bits 0..4 state   4..16 participant   16..40 claims (mod 2^24)   40..64 deaths (mod 2^24)
//! ```
//!
//! | state | byte | meaning |
//! |---|---|---|
//! | NEVER | free | nobody came yet |
//! | HELD | locked | a living holder |
//! | HELD | free | the holder died; the first to find out makes it DEAD |
//! | CLOSED | free | the last holder closed |
//! | DEAD | free | the last holder died, and somebody noticed |
//! | NEVER, CLOSED, DEAD | locked | somebody is just claiming or leaving |
//!
//! Claiming takes the byte, then stores HELD with `claims` + 1; leaving stores CLOSED, then frees
//! the byte. So "HELD, read before the byte was found free, and still the same word" proves a
//! death, and `claims` keeps a later holder from being taken for the dead one. Killed at any step, a
//! process leaves one of the rows above.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::sys::lock::{self, Token};

/// The two ends of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Producer,
    Consumer,
}

impl End {
    const fn byte(self) -> u64 {
        match self {
            Self::Producer => (1 << 40) + 1,
            Self::Consumer => (1 << 40) + 2,
        }
    }

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Producer => "producing",
            Self::Consumer => "consuming",
        }
    }
}

const NEVER: u64 = 0;
const HELD: u64 = 1;
const CLOSED: u64 = 2;
const DEAD: u64 = 3;

const COUNTER: u64 = (1 << 24) - 1;

/// What is known about a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holder {
    /// Nobody came yet.
    Never,
    /// A process has it, as far as was looked.
    Live,
    /// The last one closed it.
    Closed,
    /// The last one died, and nobody came since.
    Dead,
}

#[derive(Debug, Clone, Copy)]
struct Fields {
    state: u64,
    participant: u32,
    claims: u64,
    deaths: u64,
}

impl Fields {
    fn of(word: u64) -> Self {
        Self {
            state: word & 0xf,
            participant: (word >> 4 & 0xfff) as u32,
            claims: word >> 16 & COUNTER,
            deaths: word >> 40,
        }
    }

    fn word(self) -> u64 {
        let participant = u64::from(self.participant & 0xfff);
        self.state | participant << 4 | (self.claims & COUNTER) << 16 | self.deaths << 40
    }

    fn died(self) -> Self {
        Self { state: DEAD, deaths: self.deaths + 1, ..self }
    }
}

/// A role word in shared memory.
#[repr(transparent)]
#[derive(Debug)]
pub(crate) struct RoleWord(AtomicU64);

impl RoleWord {
    /// Who has the role, without asking the kernel: a holder may be dead already.
    pub(crate) fn holder(&self) -> Holder {
        match Fields::of(self.0.load(Ordering::Acquire)).state {
            HELD => Holder::Live,
            CLOSED => Holder::Closed,
            DEAD => Holder::Dead,
            _ => Holder::Never,
        }
    }

    /// The slot of the last holder; `None` if there never was one.
    pub(crate) fn participant(&self) -> Option<u32> {
        let fields = Fields::of(self.0.load(Ordering::Acquire));
        (fields.state != NEVER).then_some(fields.participant)
    }

    /// How many holders died.
    pub(crate) fn deaths(&self) -> u64 {
        Fields::of(self.0.load(Ordering::Acquire)).deaths
    }

    /// Asks the kernel whether the holder lives, and records a death. `file` must not be the
    /// description that holds the byte (tokens have descriptions of their own).
    pub(crate) fn probe(&self, end: End, file: BorrowedFd<'_>) -> Holder {
        let seen = self.0.load(Ordering::Acquire);
        let fields = Fields::of(seen);
        if fields.state == HELD && !lock::is_held(file, end.byte()) {
            // Fails if somebody claimed it, or noted the death, meanwhile: then that stands.
            let dead = fields.died().word();
            let _ = self.0.compare_exchange(seen, dead, Ordering::AcqRel, Ordering::Acquire);
        }
        self.holder()
    }
}

/// A role held by this process.
#[derive(Debug)]
pub(crate) struct Role {
    token: Token,
}

impl Role {
    /// Claims a role for participant `participant`; `None` if a living process has it.
    pub(crate) fn claim(
        word: &RoleWord,
        end: End,
        participant: u32,
        file: BorrowedFd<'_>,
        what: &str,
    ) -> Result<Option<Self>> {
        let token = Token::acquire(file, end.byte());
        let token = token.map_err(|errno| Error::from_kernel(errno, what))?;
        let Some(token) = token else { return Ok(None) };
        // The byte is ours; only a prober may still change the word, from HELD to DEAD, and only
        // to what is counted here too. Bounded against a scribbler.
        for _ in 0..64 {
            let seen = word.0.load(Ordering::Acquire);
            let before = Fields::of(seen);
            let before = if before.state == HELD { before.died() } else { before };
            let claims = before.claims + 1;
            let mine = Fields { state: HELD, participant, claims, ..before }.word();
            let order = (Ordering::AcqRel, Ordering::Acquire);
            if word.0.compare_exchange(seen, mine, order.0, order.1).is_ok() {
                return Ok(Some(Self { token }));
            }
        }
        Err(Error::new(Errno::EBADMSG, format!("{what}: its role word changes all the time")))
    }

    /// Gives the role back: marks it closed, then frees the byte.
    pub(crate) fn release(self, word: &RoleWord) {
        let held = Fields::of(word.0.load(Ordering::Relaxed));
        word.0.store(Fields { state: CLOSED, ..held }.word(), Ordering::Release);
        drop(self.token);
    }

    /// Gives the value up in a forked child: the role stays the parent's.
    pub(crate) fn forget(self) {
        self.token.forget();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    fn object() -> std::os::fd::OwnedFd {
        nix::sys::memfd::memfd_create(c"role", nix::sys::memfd::MFdFlags::MFD_CLOEXEC).unwrap()
    }

    #[test]
    fn one_holder_at_a_time_and_closing_is_not_dying() {
        let (file, word) = (object(), RoleWord(AtomicU64::new(0)));
        assert_eq!(word.probe(End::Producer, file.as_fd()), Holder::Never);
        let claim = || Role::claim(&word, End::Producer, 5, file.as_fd(), "x").unwrap();
        let role = claim().unwrap();
        assert_eq!(word.probe(End::Producer, file.as_fd()), Holder::Live);
        assert!(claim().is_none());
        assert_eq!(word.participant(), Some(5));
        role.release(&word);
        assert_eq!(word.probe(End::Producer, file.as_fd()), Holder::Closed);
        assert_eq!(word.deaths(), 0);
        assert!(claim().is_some());
    }

    #[test]
    fn a_lock_that_is_gone_without_a_word_is_a_death_counted_once() {
        let (file, word) = (object(), RoleWord(AtomicU64::new(0)));
        let claim = || Role::claim(&word, End::Consumer, 1, file.as_fd(), "x").unwrap();
        // Dropping the token alone is what the kernel does when it kills a process.
        drop(claim().unwrap().token);
        assert_eq!(word.holder(), Holder::Live);
        assert_eq!(word.probe(End::Consumer, file.as_fd()), Holder::Dead);
        assert_eq!(word.probe(End::Consumer, file.as_fd()), Holder::Dead);
        assert_eq!(word.deaths(), 1);
        drop(claim().unwrap().token);
        assert_eq!(word.deaths(), 1, "taking over a death that was noticed");
        let role = claim().unwrap();
        assert_eq!(word.deaths(), 2, "taking over a death that nobody had noticed");
        role.release(&word);
        assert_eq!(word.deaths(), 2);
    }

    #[test]
    fn fields_round_trip() {
        let word = Fields { state: DEAD, participant: 0xfff, claims: COUNTER, deaths: COUNTER }.word();
        let back = Fields::of(word);
        assert_eq!((back.participant, back.claims, back.deaths), (0xfff, COUNTER, COUNTER));
        assert_eq!(Fields::of(back.died().word()).deaths, 0, "wraps without touching others");
    }
}
