#![forbid(unsafe_code)]
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
//! | ENDED | locked | a living holder that has ended the stream |
//! | ENDED | free | it left after that, closing or not: the first to find out makes it CLOSED |
//! | CLOSED | free | the last holder closed |
//! | DEAD | free | the last holder died, and somebody noticed |
//! | NEVER, CLOSED, DEAD | locked | somebody is just claiming or leaving |
//!
//! Claiming takes the byte, then stores HELD with `claims` + 1; leaving stores CLOSED, then frees
//! the byte. So "HELD, read before the byte was found free, and still the same word" proves a
//! death, and `claims` keeps a later holder from being taken for the dead one. Killed at any step, a
//! process leaves one of the rows above.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::sys::kept;
use crate::sys::lock::{Anchor, Token};
use crate::sys::process;

/// The two ends of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum End {
    Producer,
    Consumer,
}

impl End {
    pub(super) const fn byte(self) -> u64 {
        match self {
            Self::Producer => 1,
            Self::Consumer => 2,
        }
    }

    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Producer => Self::Consumer,
            Self::Consumer => Self::Producer,
        }
    }

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Producer => "producing",
            Self::Consumer => "consuming",
        }
    }
}

/// 0, and what no version of ours stores, count as NEVER.
const HELD: u64 = 1;
const CLOSED: u64 = 2;
const DEAD: u64 = 3;
const ENDED: u64 = 4;

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

impl Holder {
    /// What a role word says, without asking the kernel.
    pub(crate) fn of(word: u64) -> Self {
        match Fields::of(word).state {
            HELD | ENDED => Self::Live,
            CLOSED => Self::Closed,
            DEAD => Self::Dead,
            _ => Self::Never,
        }
    }
}

/// How many holders died, by a role word.
pub(crate) fn deaths(word: u64) -> u64 {
    Fields::of(word).deaths
}

/// The slot of the handle that has the role, by a role word; `None` if none has.
pub(crate) fn participant_of(word: u64) -> Option<u32> {
    let fields = Fields::of(word);
    matches!(fields.state, HELD | ENDED).then_some(fields.participant)
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

    fn closed(self) -> Self {
        Self { state: CLOSED, ..self }
    }

    fn died(self) -> Self {
        Self { state: DEAD, deaths: self.deaths + 1, ..self }
    }
}

/// A role word in shared memory, and the process it names.
///
/// Changes of the word are releases and looks at it acquires, each other's pairs: who sees a state sees
/// the pid that was stored before it, and of one who left all that it did. Who holds a role is not decided
/// by that, but by the lock byte, which the kernel orders.
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct RoleWord {
    word: AtomicU64,
    /// Of the last holder, for messages: its slot may be another's by now. Written under the byte.
    pid: AtomicU32,
    /// The same as [`process::tag`]: a number that in another PID namespace nobody else has.
    process: AtomicU64,
}

impl RoleWord {
    /// Who has the role, without asking the kernel: a holder may be dead already.
    pub(crate) fn holder(&self) -> Holder {
        Holder::of(self.word.load(Ordering::Acquire))
    }

    /// The process that holds the role or held it last; 0 if there never was one.
    pub(crate) fn pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// Which holder has the role, or had it last: a number that the next one changes. Never 0.
    pub(crate) fn turn_of_holder(&self) -> u32 {
        // 24 bits, and one more.
        Fields::of(self.word.load(Ordering::Acquire)).claims as u32 + 1
    }

    /// How many holders died.
    pub(crate) fn deaths(&self) -> u64 {
        Fields::of(self.word.load(Ordering::Acquire)).deaths
    }

    /// For an end that many may hold, where the word tells of the last who came or went: notes that
    /// this process has joined it.
    pub(crate) fn joined(&self, participant: u32) {
        self.note_this_process(process::tag().unwrap_or(0));
        self.turn(|fields| {
            let claims = fields.claims + 1;
            Fields { state: HELD, participant, claims, ..fields }
        });
    }

    fn note_this_process(&self, process: u64) {
        self.pid.store(std::process::id(), Ordering::Relaxed);
        self.process.store(process, Ordering::Relaxed);
    }

    /// For an end that many may hold: one of them has closed.
    pub(crate) fn left(&self) {
        self.turn(Fields::closed);
    }

    /// For an end that many may hold: one of them was found dead and cleared away.
    pub(crate) fn died(&self) {
        self.turn(Fields::died);
    }

    /// Changes the word in one step. Bounded against a scribbler; what is lost then is a word in a
    /// report.
    fn turn(&self, change: impl Fn(Fields) -> Fields) {
        for _ in 0..64 {
            let seen = self.word.load(Ordering::Acquire);
            let next = change(Fields::of(seen)).word();
            let order = (Ordering::AcqRel, Ordering::Acquire);
            if self.word.compare_exchange(seen, next, order.0, order.1).is_ok() {
                return;
            }
        }
    }

    /// Asks the kernel whether the holder lives, and records a death.
    pub(crate) fn probe(&self, end: End, file: &Anchor) -> Holder {
        let seen = self.word.load(Ordering::Acquire);
        let fields = Fields::of(seen);
        if matches!(fields.state, HELD | ENDED) && !file.is_held(end.byte()) {
            let gone = if fields.state == HELD { fields.died() } else { fields.closed() }.word();
            // Fails if somebody claimed it, or noted the death, meanwhile: then that stands.
            let _ = self.word.compare_exchange(seen, gone, Ordering::AcqRel, Ordering::Acquire);
        }
        self.holder()
    }

    /// As `probe`, for who may not store anything.
    pub(crate) fn look(&self, end: End, file: &Anchor) -> Holder {
        match Fields::of(self.word.load(Ordering::Acquire)).state {
            HELD if !file.is_held(end.byte()) => Holder::Dead,
            ENDED if !file.is_held(end.byte()) => Holder::Closed,
            _ => self.holder(),
        }
    }

    /// Notes that the holder, if it is this process, has ended the stream: it owes nothing any
    /// more, and its exit is no death.
    pub(crate) fn end_by_this_process(&self) {
        let seen = self.word.load(Ordering::Acquire);
        let fields = Fields::of(seen);
        let mine = || process::tag().is_ok_and(|mine| self.process.load(Ordering::Relaxed) == mine);
        if fields.state == HELD && mine() {
            let ended = Fields { state: ENDED, ..fields }.word();
            // Fails if it was released or claimed anew meanwhile: then that stands.
            let _ = self.word.compare_exchange(seen, ended, Ordering::AcqRel, Ordering::Acquire);
        }
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
        file: &Anchor,
        what: &str,
    ) -> Result<Option<Self>> {
        let refused = |errno| kept::refused(errno, what);
        let process = process::tag().map_err(refused)?;
        let token = Token::acquire(file, end.byte()).map_err(refused)?;
        let Some(token) = token else { return Ok(None) };
        word.note_this_process(process);
        // The byte is ours; only a prober may still change the word, from HELD to DEAD or from
        // ENDED to CLOSED, to what is counted here too. Bounded against a scribbler.
        for _ in 0..64 {
            let seen = word.word.load(Ordering::Acquire);
            let before = Fields::of(seen);
            let before = if before.state == HELD { before.died() } else { before };
            let claims = before.claims + 1;
            let mine = Fields { state: HELD, participant, claims, ..before }.word();
            let order = (Ordering::AcqRel, Ordering::Acquire);
            if word.word.compare_exchange(seen, mine, order.0, order.1).is_ok() {
                return Ok(Some(Self { token }));
            }
        }
        Err(Error::new(Errno::EBADMSG, format_args!("{what}: its role word changes all the time")))
    }

    /// Gives the role back: marks it closed, then frees the byte.
    pub(crate) fn release(self, word: &RoleWord) {
        let held = Fields::of(word.word.load(Ordering::Relaxed));
        word.word.store(held.closed().word(), Ordering::Release);
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
    use crate::sys::alloc::Arc;
    use crate::sys::kept::Kept;
    use nix::sys::memfd::{MFdFlags, memfd_create};

    fn object() -> (Anchor, RoleWord) {
        let file = memfd_create(c"role", MFdFlags::MFD_CLOEXEC).unwrap();
        let word = RoleWord::default();
        (Anchor::new(Arc::new(Kept::new(file).unwrap()).unwrap(), 0), word)
    }

    #[test]
    fn one_holder_at_a_time_and_closing_is_not_dying() {
        let (file, word) = object();
        assert_eq!(word.probe(End::Producer, &file), Holder::Never);
        let claim = || Role::claim(&word, End::Producer, 5, &file, "x").unwrap();
        let role = claim().unwrap();
        assert_eq!(word.probe(End::Producer, &file), Holder::Live);
        assert!(claim().is_none());
        assert_eq!(word.pid(), std::process::id());
        role.release(&word);
        assert_eq!(word.probe(End::Producer, &file), Holder::Closed);
        assert_eq!(word.deaths(), 0);
        assert!(claim().is_some());
    }

    #[test]
    fn a_lock_that_is_gone_without_a_word_is_a_death_counted_once() {
        let (file, word) = object();
        let claim = || Role::claim(&word, End::Consumer, 1, &file, "x").unwrap();
        // Dropping the token alone is what the kernel does when it kills a process.
        drop(claim().unwrap().token);
        assert_eq!(word.holder(), Holder::Live);
        assert_eq!(word.probe(End::Consumer, &file), Holder::Dead);
        assert_eq!(word.probe(End::Consumer, &file), Holder::Dead);
        assert_eq!(word.deaths(), 1);
        drop(claim().unwrap().token);
        assert_eq!(word.deaths(), 1, "taking over a death that was noticed");
        let role = claim().unwrap();
        assert_eq!(word.deaths(), 2, "taking over a death that nobody had noticed");
        role.release(&word);
        assert_eq!(word.deaths(), 2);
    }

    #[test]
    fn leaving_after_ending_the_stream_is_no_death() {
        let (file, word) = object();
        let claim = || Role::claim(&word, End::Producer, 1, &file, "x").unwrap();
        let role = claim().unwrap();
        word.end_by_this_process();
        assert_eq!(word.probe(End::Producer, &file), Holder::Live);
        drop(role.token);
        assert_eq!(word.probe(End::Producer, &file), Holder::Closed);
        let role = claim().unwrap();
        word.end_by_this_process();
        drop(role.token);
        claim().unwrap().release(&word);
        assert_eq!((word.holder(), word.deaths()), (Holder::Closed, 0));
        word.end_by_this_process();
        assert_eq!(word.holder(), Holder::Closed);
    }

    #[test]
    fn fields_round_trip() {
        let word =
            Fields { state: DEAD, participant: 0xfff, claims: COUNTER, deaths: COUNTER }.word();
        let back = Fields::of(word);
        assert_eq!((back.participant, back.claims, back.deaths), (0xfff, COUNTER, COUNTER));
        assert_eq!(Fields::of(back.died().word()).deaths, 0, "wraps without touching others");
    }
}
