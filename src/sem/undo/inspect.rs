#![forbid(unsafe_code)]
//! A semaphore read from outside, by somebody who takes no part in it; and what the dead hold given
//! back by such a one.

use std::cell::RefCell;

use super::handle::{self, UndoSemaphore};
use super::memory::{self, Memory, Place};
use super::{Core, DONE, Intent, VALUE_MAX, Word};
use crate::error::{Error, Result};
use crate::object::{Look, Object};

/// The memory of a semaphore, read and never written. What cannot be read is 0, and told later.
#[derive(Debug)]
struct Outside<'a> {
    look: &'a Look,
    failed: RefCell<Option<Error>>,
}

impl Memory for Outside<'_> {
    fn participants(&self) -> u32 {
        self.look.geometry().max_handles
    }

    fn load(&self, at: Place) -> u64 {
        self.look.u64(memory::offset(self.look.geometry(), at)).unwrap_or_else(|error| {
            self.failed.replace(Some(error));
            0
        })
    }

    /// Who looks stores nothing.
    fn store(&self, _: Place, _: u64) {}

    fn exchange(&self, _: Place, _: u64, _: u64) -> bool {
        false
    }
}

/// A semaphore's part in what is known of an object.
#[derive(Debug)]
pub(crate) struct SemLook<'a> {
    core: Core<Outside<'a>>,
    look: &'a Look,
}

impl<'a> SemLook<'a> {
    /// `EPROTO` for what is no semaphore, or one that this version does not know.
    pub(crate) fn new(look: &'a Look) -> Result<Self> {
        handle::check(look.superblock(), 0, look.what())?;
        let outside = Outside { look, failed: RefCell::new(None) };
        Ok(Self { core: Core::new(outside, look.geometry().policy), look })
    }

    fn told<T>(&self, value: T) -> Result<T> {
        self.core.memory().failed.take().map_or(Ok(value), Err)
    }

    /// Permits it was made with.
    pub(crate) fn initial(&self) -> u32 {
        self.look.geometry().policy
    }

    /// Permits that are free.
    pub(crate) fn free(&self) -> Result<u32> {
        self.told(self.core.free())
    }

    /// Permits that a participant holds.
    pub(crate) fn held(&self, participant: u32) -> Result<u32> {
        self.told(self.core.held(participant))
    }

    /// Looks at all words; `EBADMSG` names one that no history leads to.
    pub(crate) fn check(&self) -> Result<()> {
        let all = self.look.geometry().max_handles;
        let wrong = |at, word: u64, why: &str| {
            let at = memory::offset(self.look.geometry(), at);
            self.look.corrupt(format_args!("the word at {at:#x} is {word:#x}: {why}"))
        };
        let word = self.core.memory().load(Place::Word);
        if Word::of(word, 0).number != 0 && Word::of(word, 0).participant >= all {
            return Err(wrong(Place::Word, word, "no such participant"));
        }
        for index in 0..all {
            let at = Place::Intent(index);
            let word = self.core.memory().load(at);
            let intent = Intent::of(word);
            if (intent.kind.is_none() && word != 0)
                || word >> 31 & 1 != 0
                || word & !(DONE | (DONE - 1)) != 0
            {
                return Err(wrong(at, word, "no operation is announced so"));
            }
            let at = Place::Holding(index);
            let word = self.core.memory().load(at);
            if word >> 31 & 1 != 0 || word >> 32 > u64::from(VALUE_MAX) {
                return Err(wrong(at, word, "nobody can hold so many"));
            }
        }
        self.told(())
    }
}

impl UndoSemaphore {
    /// Gives back what the dead hold and clears their handles away; how many. `object` was found
    /// sound.
    pub(crate) fn repair(object: Object) -> Result<u32> {
        Self::detached(object, false)?.mend_all()
    }
}
