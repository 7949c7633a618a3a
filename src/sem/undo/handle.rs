#![forbid(unsafe_code)]
//! [`UndoSemaphore`]: one handle on such a semaphore, from opening to closing, across forks and
//! deaths.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;

use super::memory::{Mapped, geometry};
use super::{Core, Corrupt, Memory, Taken, VALUE_MAX};
use crate::error::{Error, Result};
use crate::flags::Creation;
use crate::name::{self, Name};
use crate::object::{
    self, Geometry, KIND_SEM, KindName, MAX_HANDLES_LIMIT, Object, Participant, Request, Superblock,
};
use crate::shm::Shm;
use crate::sync::{EventCount, Spinner, wait_until};
use crate::sys::latch::Latch;
use crate::sys::wipe::Wiped;
use crate::sys::{alloc, cancel, fork};
use crate::time::{Timeout, now};

/// Handles of a semaphore that is made without a wish.
const DEFAULT_HANDLES: u32 = 64;

const IN_SEGMENT: &str = "semaphore in a segment";

/// A caller that never waits looks for the dead no more often than this: it costs system calls.
const SUSPICION: Duration = Duration::from_millis(10);

/// How to make or open a semaphore whose permits come back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UndoOptions {
    /// Permits that a new one starts with, at most 1048575.
    pub value: u32,
    /// Handles that may be open at once; 0: 64 for a new one, whatever it has for one that exists.
    pub max_handles: u32,
    /// Whether waits through this handle say [`Permit::FromDead`].
    pub tell: bool,
}

impl UndoOptions {
    /// The semaphore to make; `EINVAL` for what none can have.
    fn geometry(&self, what: &str) -> Result<Geometry> {
        for (field, is, most) in
            [("value", self.value, VALUE_MAX), ("max_handles", self.max_handles, MAX_HANDLES_LIMIT)]
        {
            if is > most {
                return Err(Error::new(
                    Errno::EINVAL,
                    format_args!("{what}: a {field} of {is}; the greatest is {most}"),
                ));
            }
        }
        let handles = if self.max_handles == 0 { DEFAULT_HANDLES } else { self.max_handles };
        Ok(geometry(self.value, handles))
    }
}

/// A permit that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Permit {
    /// As any other.
    Ordinary,
    /// The first that was taken, by those who want to know, since permits of a dead holder came back:
    /// what they protect may have been left half-done.
    FromDead,
}

/// Who holds permits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holder {
    /// The process, as it saw itself when it opened the handle.
    pub pid: u32,
    /// Permits taken through one handle.
    pub count: u32,
    /// Whether the process lives; a dead holder's permits are about to come back.
    pub alive: bool,
}

/// A semaphore whose permits come back when their holder dies. Free-threaded.
///
/// A permit belongs to the handle that took it. In a forked child the handle is a new participant
/// that holds nothing; what the parent holds stays the parent's.
#[derive(Debug)]
pub struct UndoSemaphore {
    core: Core<Mapped>,
    /// Wiped by a fork: what follows from being attached in *this* process.
    hot: Wiped<Hot>,
    /// After a fork it is the parent's: to be forgotten. Never locked while a fork goes on.
    participant: Mutex<Option<Participant>>,
    tell: bool,
}

/// The private state of a handle: a latch for its threads, its slot number + 1, and when it last
/// looked for the dead (milliseconds, wrapping).
type Hot = (Latch, [AtomicU32; 2]);
const SLOT: usize = 0;
const LOOKED: usize = 1;

impl UndoSemaphore {
    /// Opens, or makes, the semaphore `name`.
    pub fn open(name: &[u8], options: &UndoOptions, creation: Creation, mode: u32) -> Result<Self> {
        let name = Name::new(name::Kind::Undo, name)?;
        let request = Request {
            name: Some(&name),
            creation,
            mode,
            make: Ok(options.geometry(&alloc::text(&name)?)?),
            check: &|found, what| check(found, options.max_handles, what),
            readable_will_do: false,
        };
        Object::open(request, |object| Self::with(object, options.tell))
    }

    /// Bytes that a semaphore takes up in a segment: a multiple of 4096.
    pub fn footprint(options: &UndoOptions) -> Result<usize> {
        let bytes = object::footprint(&options.geometry(IN_SEGMENT)?);
        let none =
            || Error::new(Errno::EOVERFLOW, format_args!("{IN_SEGMENT}: larger than any memory"));
        bytes.map(|bytes| bytes as usize).ok_or_else(none)
    }

    /// Makes a semaphore in a segment, at `offset`, a multiple of 4096, where
    /// [`UndoSemaphore::footprint`] bytes are free. What was there is overwritten; `EBUSY` if it is an
    /// object that living handles use.
    ///
    /// The handle keeps the segment's descriptor, and has a mapping of its own: the segment itself may
    /// be dropped before it, but must not be resized to end before the semaphore does.
    pub fn init(segment: &Shm, offset: usize, options: &UndoOptions) -> Result<Self> {
        let geometry = options.geometry(IN_SEGMENT)?;
        Object::init_in(segment, offset, "semaphore", geometry, |object| {
            Self::with(object, options.tell)
        })
    }

    /// Opens the semaphore that [`UndoSemaphore::init`] has made at `offset` of a segment; `EPROTO` if
    /// there is none.
    pub fn attach_to(segment: &Shm, offset: usize, options: &UndoOptions) -> Result<Self> {
        options.geometry(IN_SEGMENT)?;
        let check = |found: &Superblock, what: &str| check(found, options.max_handles, what);
        let object = Object::attach_in(segment, offset, "semaphore", &check)?;
        Self::with(object, options.tell)
    }

    fn with(object: Object, tell: bool) -> Result<Self> {
        let this = Self::detached(object, tell)?;
        this.attach()?;
        Ok(this)
    }

    /// A handle that is no participant (yet).
    pub(super) fn detached(object: Object, tell: bool) -> Result<Self> {
        let hot = Wiped::<Hot>::new()
            .map_err(|errno| Error::from_kernel(errno, "memory for a semaphore's handle"))?;
        let (initial, what) = (object.geometry().policy, alloc::text(object.what())?);
        let memory = Mapped::new(object)
            .ok_or_else(|| Error::new(Errno::EPROTO, format_args!("{what}: no semaphore")))?;
        if !memory.object().is_light() {
            memory.event().set_heavy();
        }
        let core = Core::new(memory, initial);
        Ok(Self { core, hot, participant: Mutex::new(None), tell })
    }

    fn object(&self) -> &Object {
        self.core.memory().object()
    }

    fn event(&self) -> &EventCount {
        self.core.memory().event()
    }

    #[cold]
    fn corrupt(&self, _: Corrupt) -> Error {
        Error::new(
            Errno::EBADMSG,
            format_args!("{}: its words are impossible", self.object().what()),
        )
    }

    /// Takes a slot for this process; what a parent had stays the parent's.
    fn attach(&self) -> Result<u32> {
        let sweep = |index, _: &_| match self.core.recover(index) {
            Ok(0) => true,
            Ok(_) => {
                self.event().notify();
                true
            }
            Err(Corrupt) => false,
        };
        // Not a cancellation point, though it opens a file.
        let mine = cancel::without(|| self.object().attach(&sweep))?;
        let index = mine.index();
        let parents = self.replace(Some(mine));
        if let Some(parents) = parents {
            parents.forget();
        }
        self.hot.1[SLOT].store(index + 1, Ordering::Relaxed);
        Ok(index)
    }

    fn replace(&self, new: Option<Participant>) -> Option<Participant> {
        let _no_fork = fork::hold_off();
        std::mem::replace(
            &mut *self.participant.lock().unwrap_or_else(PoisonError::into_inner),
            new,
        )
    }

    /// One operation in this process's name, one thread at a time.
    fn operate<T>(
        &self,
        operation: impl FnOnce(u32) -> std::result::Result<T, Corrupt>,
    ) -> Result<T> {
        let _turn = self.hot.0.lock();
        let me = match self.hot.1[SLOT].load(Ordering::Relaxed) {
            0 => self.attach()?,
            slot => slot - 1,
        };
        let done = operation(me).map_err(|corrupt| self.corrupt(corrupt))?;
        // After it: what it has found in the place of what is gone is nobody's.
        self.still_whole().map(|()| done)
    }

    fn still_whole(&self) -> Result<()> {
        if self.object().region().is_cut() {
            return Err(Error::new(
                Errno::EBADMSG,
                format_args!("{}: somebody has made its file shorter", self.object().what()),
            ));
        }
        Ok(())
    }

    fn try_wait(&self) -> Result<Option<Permit>> {
        if self.core.free() == 0 {
            return self.still_whole().map(|()| None);
        }
        match self.operate(|me| self.core.take(me, self.tell))? {
            Taken::Permit { told: false } => Ok(Some(Permit::Ordinary)),
            Taken::Permit { told: true } => Ok(Some(Permit::FromDead)),
            Taken::None => Ok(None),
            Taken::TooMany => Err(Error::new(
                Errno::EOVERFLOW,
                format_args!("{}: this handle holds {VALUE_MAX}", self.object().what()),
            )),
        }
    }

    /// Takes a permit, waiting for one at most `timeout`. `EINTR` when a signal is caught.
    pub fn wait(&self, timeout: Timeout) -> Result<Permit> {
        if let Some(permit) = self.try_wait()? {
            return Ok(permit);
        }
        if timeout == Timeout::NoWait {
            self.mend_if_due()?;
            return self.try_wait()?.ok_or_else(Error::would_block);
        }
        // The spinner is this call's own: any thread may wait at any time.
        let spinner = Spinner::new();
        let mended = || self.mend().map(|_| ());
        wait_until(self.event(), &spinner, timeout, || self.try_wait(), || {}, mended)
    }

    /// Gives back a permit that this handle holds, or, if it holds none, adds a new one; and wakes
    /// who waits. `EOVERFLOW` at the greatest value, which stays.
    pub fn post(&self) -> Result<()> {
        if !self.operate(|me| self.core.give(me))? {
            return Err(Error::new(
                Errno::EOVERFLOW,
                format_args!("{}: posting: it has its greatest value", self.object().what()),
            ));
        }
        self.event().notify();
        Ok(())
    }

    /// Permits there are now, those of the dead among them; out of date when others use it.
    pub fn value(&self) -> Result<u32> {
        self.mend()?;
        let free = self.core.free();
        self.still_whole().map(|()| free)
    }

    /// Permits that this handle holds in this process.
    pub fn held(&self) -> Result<u32> {
        self.operate(|me| Ok(self.core.held(me)))
    }

    /// Who holds permits, handle by handle, the dead whose permits are still out among them.
    pub fn holders(&self) -> impl Iterator<Item = Holder> + '_ {
        (0..self.core.memory().participants()).filter_map(|index| {
            let slot = self.object().slot(index)?;
            let count = self.core.held(index);
            let in_use = slot.is_in_use() && count > 0;
            in_use.then(|| Holder { pid: slot.pid(), count, alive: self.object().is_alive(index) })
        })
    }

    /// Gives back what the dead hold; whether there was something.
    fn mend(&self) -> Result<bool> {
        self.hot.1[LOOKED].store(now().as_millis() as u32, Ordering::Relaxed);
        let mut mended = false;
        for index in 0..self.core.memory().participants() {
            if self.is_in_use(index) && self.core.is_owing(index) {
                mended |= self.recover(index)?.is_some_and(|count| count > 0);
            }
        }
        Ok(mended)
    }

    fn is_in_use(&self, index: u32) -> bool {
        self.object().slot(index).is_some_and(|slot| slot.is_in_use())
    }

    /// Clears participant `index` away if it is dead, and wakes who waits for what it held; how many
    /// permits that was, or `None`.
    fn recover(&self, index: u32) -> Result<Option<u32>> {
        if self.object().is_alive(index) {
            return Ok(None);
        }
        let mut outcome = Ok(0);
        let recover = |index, _: &_| {
            outcome = self.core.recover(index);
            outcome.is_ok()
        };
        let cleared = cancel::without(|| self.object().recover(index, recover))?;
        let count = outcome.map_err(|corrupt| self.corrupt(corrupt))?;
        if count > 0 {
            self.event().notify();
        }
        Ok(cleared.then_some(count))
    }

    /// Clears all the dead away, those too that hold nothing; how many.
    pub(super) fn mend_all(&self) -> Result<u32> {
        let mut cleared = 0;
        for index in 0..self.core.memory().participants() {
            if self.is_in_use(index) {
                cleared += u32::from(self.recover(index)?.is_some());
            }
        }
        Ok(cleared)
    }

    fn mend_if_due(&self) -> Result<()> {
        let now = now().as_millis() as u32;
        let since = now.wrapping_sub(self.hot.1[LOOKED].load(Ordering::Relaxed));
        if u128::from(since) >= SUSPICION.as_millis() {
            self.mend()?;
        }
        Ok(())
    }

    /// Removes the name; those who have it open go on using it.
    pub fn unlink(name: &[u8]) -> Result<()> {
        object::unlink(&Name::new(name::Kind::Undo, name)?)
    }
}

pub(super) fn check(found: &Superblock, max_handles: u32, what: &str) -> Result<()> {
    let there = &found.geometry;
    let refused =
        |text: fmt::Arguments<'_>| Err(Error::new(Errno::EPROTO, format_args!("{what}: {text}")));
    if there.kind != KIND_SEM {
        return refused(format_args!("is of kind {}, which is no semaphore", KindName(there.kind)));
    }
    if *there != geometry(there.policy, there.max_handles) || there.policy > VALUE_MAX {
        return refused(format_args!("has the geometry of a later version"));
    }
    if max_handles != 0 && max_handles != there.max_handles {
        let (is, pid) = (there.max_handles, found.creator.pid);
        return refused(format_args!(
            "max_handles is {max_handles} here but {is} in the object (created by pid {pid})"
        ));
    }
    Ok(())
}

impl Drop for UndoSemaphore {
    /// Gives back what this handle holds, and its slot, unless they are a parent's.
    fn drop(&mut self) {
        let Some(participant) = self.replace(None) else { return };
        if self.hot.1[SLOT].load(Ordering::Relaxed) == 0 {
            participant.forget();
            return;
        }
        let left = self.core.leave(participant.index());
        participant.detach(self.object().region(), self.object().geometry());
        if left != Ok(0) {
            self.event().notify();
        }
    }
}
