#![forbid(unsafe_code)]
//! The core of a semaphore whose permits come back when their holder dies.
//!
//! Works on checked memory and knows no names, no descriptors and no sleeping.
//!
//! The free permits are counted in one word, what each participant holds in a word of its own. To
//! take a permit changes both, and a process can be killed in between: so the word of the free
//! permits also says *whose* operation changed it last, and which one. Whoever overwrites that first
//! notes in the other's record that its operation took place. Survivors can therefore always tell.
//!
//! ```text
//! word        free permits, "some came from the dead", participant and number of the last operation
//! intent[p]   number and kind of the operation that p is about to do, and DONE
//! holding[p]  number of p's last operation that is finished, and the permits p holds after it
//!
//! operate(p): w = word                    no permit free (or no room for one): stop here
//!             intent[p] = number, kind    announce; number is holding[p]'s + 1
//!             help(w)                     intent[q] |= DONE, where (q, m) is w's last operation and
//!                                         intent[q] still is number m: compare-and-swap
//!             word: w → new, p, number    the commit: compare-and-swap; failed: from the beginning
//!             holding[p] = number, held   finish
//! ```
//!
//! The kinds: take (one), give (one), give all back (at closing, and in recovery). A participant's
//! words are written by who holds its lock byte: its process, one thread at a time, or, when that is
//! dead, who recovers it, which is the same operation "give all back" done in its name. Only DONE is
//! set by anybody, and only by compare-and-swap from the very intent that was seen committed.
//!
//! Invariants:
//!
//! 1. A number commits at most once: after it did, `holding` is moved to it before the next is
//!    announced, by its owner or by who recovers it. A number that did not commit may be announced
//!    again, as another kind.
//! 2. Before a commit is overwritten in `word`, DONE stands in its intent, or its owner has finished
//!    it: who overwrites it has loaded exactly that word, and helped.
//! 3. So operation n of a dead p, announced and not finished, took place if and only if `word`
//!    names (p, n), or else `intent[p]` has DONE, loaded after `word`. The dead add nothing, so the
//!    answer stays the same for whoever asks again.
//! 4. free + the sum of what all hold (with what 3 says about the unfinished) changes by a give of
//!    one who holds nothing, and by nothing else.
//!
//! | killed after | left behind | who recovers it |
//! |---|---|---|
//! | anything before the commit | an intent without DONE | finds no commit: what it held goes back |
//! | help | the other's DONE, which is true | as above |
//! | the commit of a take | one permit fewer, `holding` behind | finds the commit: one more goes back |
//! | the commit of a give | one permit more, `holding` behind | finds the commit: one fewer goes back |
//! | the commit of "give all back" | `holding` behind | finds the commit: nothing goes back |
//! | finish, before the wake-up | sleepers | they look by themselves after their slice |
//! | **in recovery**, anywhere | the words of the dead one, as its own kill would have left them | the next one, in the same way |
//!
//! So a permit of a dead holder comes back exactly once, and "came from the dead" is set in the
//! same compare-and-swap that gives it back, and is cleared in the one that takes a permit for a
//! caller who asked to be told: one who is killed before it could hear of it leaves a permit of a
//! dead holder again.
//!
//! Numbers have 31 bits. Mistaking one for the one 2^31 operations of the same participant later
//! takes a process that was stopped for exactly that long between two of its instructions.
//!
//! A hostile peer can store anything anywhere: it can make up or lose permits. Participant numbers
//! are compared before they address a record, and every loop is bounded.

mod handle;
mod inspect;
#[cfg(all(test, loom))]
mod loom_models;
mod memory;
#[cfg(test)]
mod steps;

pub use handle::{Holder, Permit, UndoOptions, UndoSemaphore};
pub(crate) use inspect::SemLook;
pub(crate) use memory::{Memory, Place};

/// The greatest number of free permits, and of permits that one handle holds.
pub(crate) const VALUE_MAX: u32 = (1 << COUNT_BITS) - 1;

const COUNT_BITS: u32 = 20;
const NUMBER: u32 = 0x7fff_ffff;

/// Turns of an operation's loop; each lost one is an operation of somebody else.
const PATIENCE: u32 = 100_000;

/// The words say what no history leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Corrupt;

/// What an operation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Take,
    Give,
    GiveAllBack,
}

/// The word of the free permits. All zero is a new semaphore: the count is relative to what it was
/// made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Word {
    /// Free permits.
    free: u32,
    /// Somebody died with permits that came back, and nobody was told since.
    from_dead: bool,
    /// The last operation; number 0 is "none yet".
    participant: u32,
    number: u32,
}

/// What a participant announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Intent {
    number: u32,
    kind: Option<Kind>,
    done: bool,
}

/// What a participant holds after its operation `number`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Holding {
    number: u32,
    held: u32,
}

const FROM_DEAD: u64 = 1 << COUNT_BITS;
const PARTICIPANT_SHIFT: u32 = COUNT_BITS + 1;
const NUMBER_SHIFT: u32 = PARTICIPANT_SHIFT + 12;
const DONE: u64 = 1 << 34;

impl Word {
    fn of(word: u64, initial: u32) -> Self {
        Self {
            free: (word as u32).wrapping_add(initial) & VALUE_MAX,
            from_dead: word & FROM_DEAD != 0,
            participant: (word >> PARTICIPANT_SHIFT) as u32 & 0xfff,
            number: (word >> NUMBER_SHIFT) as u32,
        }
    }

    fn word(self, initial: u32) -> u64 {
        u64::from(self.free.wrapping_sub(initial) & VALUE_MAX)
            | if self.from_dead { FROM_DEAD } else { 0 }
            | u64::from(self.participant) << PARTICIPANT_SHIFT
            | u64::from(self.number) << NUMBER_SHIFT
    }
}

impl Intent {
    fn of(word: u64) -> Self {
        let kind = match word >> 32 & 3 {
            1 => Some(Kind::Take),
            2 => Some(Kind::Give),
            3 => Some(Kind::GiveAllBack),
            _ => None,
        };
        Self { number: word as u32 & NUMBER, kind, done: word & DONE != 0 }
    }

    fn announced(number: u32, kind: Kind) -> u64 {
        let kind = match kind {
            Kind::Take => 1,
            Kind::Give => 2,
            Kind::GiveAllBack => 3,
        };
        kind << 32 | u64::from(number)
    }
}

impl Holding {
    fn of(word: u64) -> Self {
        Self { number: word as u32 & NUMBER, held: ((word >> 32) as u32).min(VALUE_MAX) }
    }

    fn word(self) -> u64 {
        u64::from(self.held) << 32 | u64::from(self.number)
    }

    fn next(self) -> u32 {
        match (self.number + 1) & NUMBER {
            0 => 1,
            number => number,
        }
    }

    fn after(self, kind: Kind) -> u32 {
        match kind {
            Kind::Take => self.held + 1,
            Kind::Give => self.held.saturating_sub(1),
            Kind::GiveAllBack => 0,
        }
    }
}

/// How a take went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// A permit; "came from the dead" was found and cleared, if asked for.
    Permit { told: bool },
    /// None is free.
    None,
    /// This participant holds as many as can be counted.
    TooMany,
}

/// The algorithm over its memory.
#[derive(Debug)]
pub(crate) struct Core<M> {
    memory: M,
    /// Permits it was made with.
    initial: u32,
}

impl<M: Memory> Core<M> {
    pub(crate) fn new(memory: M, initial: u32) -> Self {
        Self { memory, initial: initial & VALUE_MAX }
    }

    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }

    fn word(&self) -> (u64, Word) {
        let word = self.memory.load(Place::Word);
        (word, Word::of(word, self.initial))
    }

    fn intent(&self, participant: u32) -> Intent {
        Intent::of(self.memory.load(Place::Intent(participant)))
    }

    fn holding(&self, participant: u32) -> Holding {
        Holding::of(self.memory.load(Place::Holding(participant)))
    }

    /// Free permits.
    pub(crate) fn free(&self) -> u32 {
        self.word().1.free
    }

    /// Notes in the record of the last operation's participant that it took place.
    fn help(&self, last: Word) -> Result<(), Corrupt> {
        if last.number == 0 {
            return Ok(());
        }
        if last.participant >= self.memory.participants() {
            return Err(Corrupt);
        }
        let at = Place::Intent(last.participant);
        let seen = self.memory.load(at);
        let intent = Intent::of(seen);
        if intent.number == last.number && !intent.done {
            // A failure: its owner has finished it and announced another, or another one helped.
            let _ = self.memory.exchange(at, seen, seen | DONE);
        }
        Ok(())
    }

    /// One operation of participant `me`, whose lock byte is the caller's: `change` says what
    /// becomes of the free permits, or `None`, and nothing is done then.
    fn operate(
        &self,
        me: u32,
        kind: Kind,
        change: impl Fn(Word) -> Option<Word>,
    ) -> Result<Option<Word>, Corrupt> {
        let before = self.holding(me);
        let number = before.next();
        let mut announced = false;
        for _ in 0..PATIENCE {
            let (seen, last) = self.word();
            let Some(next) = change(last) else { return Ok(None) };
            if !announced {
                // Before the commit: its Release makes the intent visible to who sees the commit.
                self.memory.store(Place::Intent(me), Intent::announced(number, kind));
                announced = true;
            }
            self.help(last)?;
            let next = Word { participant: me, number, ..next }.word(self.initial);
            if self.memory.exchange(Place::Word, seen, next) {
                let held = before.after(kind);
                self.memory.store(Place::Holding(me), Holding { number, held }.word());
                return Ok(Some(last));
            }
        }
        Err(Corrupt)
    }

    /// Takes a permit for participant `me`. `tell`: the caller wants to know of the dead.
    pub(crate) fn take(&self, me: u32, tell: bool) -> Result<Taken, Corrupt> {
        if self.holding(me).held >= VALUE_MAX {
            return Ok(Taken::TooMany);
        }
        let done = self.operate(me, Kind::Take, |word| {
            let free = word.free.checked_sub(1)?;
            Some(Word { free, from_dead: word.from_dead && !tell, ..word })
        })?;
        Ok(match done {
            Some(before) => Taken::Permit { told: tell && before.from_dead },
            None => Taken::None,
        })
    }

    /// Gives a permit: one that `me` holds, or a new one. `false` if there are too many already.
    pub(crate) fn give(&self, me: u32) -> Result<bool, Corrupt> {
        let done = self.operate(me, Kind::Give, |word| {
            (word.free < VALUE_MAX).then(|| Word { free: word.free + 1, ..word })
        })?;
        Ok(done.is_some())
    }

    /// Gives back all that `me` holds; how many.
    fn give_all_back(&self, me: u32, dead: bool) -> Result<u32, Corrupt> {
        let held = self.holding(me).held;
        if held > 0 {
            self.operate(me, Kind::GiveAllBack, |word| {
                let free = (word.free + held).min(VALUE_MAX);
                Some(Word { free, from_dead: word.from_dead || dead, ..word })
            })?;
        }
        Ok(held)
    }

    /// Gives back what a participant that leaves still holds; how many.
    pub(crate) fn leave(&self, me: u32) -> Result<u32, Corrupt> {
        self.give_all_back(me, false)
    }

    /// What a participant holds, its unfinished operation taken into account. Exact for one that
    /// is dead; for a living one it is a look in passing.
    fn resolved(&self, participant: u32) -> Holding {
        let holding = self.holding(participant);
        // The word before the intent: invariant 3.
        let (_, last) = self.word();
        let intent = self.intent(participant);
        let Some(kind) = intent.kind else { return holding };
        if intent.number != holding.next() {
            return holding;
        }
        let number = intent.number;
        let committed = (last.participant, last.number) == (participant, number);
        if committed || intent.done {
            return Holding { number, held: holding.after(kind) };
        }
        holding
    }

    /// Permits that a participant holds, as far as a look can tell.
    pub(crate) fn held(&self, participant: u32) -> u32 {
        self.resolved(participant).held
    }

    /// Whether there may be something to recover if this participant is dead.
    pub(crate) fn is_owing(&self, participant: u32) -> bool {
        let holding = self.holding(participant);
        holding.held > 0 || self.intent(participant).number == holding.next()
    }

    /// Gives back what the dead `participant`, whose lock byte is the caller's, held; how many.
    pub(crate) fn recover(&self, participant: u32) -> Result<u32, Corrupt> {
        let holding = self.resolved(participant);
        self.memory.store(Place::Holding(participant), holding.word());
        self.give_all_back(participant, true)
    }
}
