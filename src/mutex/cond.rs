#![forbid(unsafe_code)]
//! [`Cond`]: waiting, with a mutex let go meanwhile, for somebody to say that something changed.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;

use super::{Locked, Mutex, open_file, prepare, share};
use crate::error::{Error, Result};
use crate::flags::Creation;
use crate::name::{Kind, Name};
use crate::object::{self, Area, COND_SIZE, CondArea};
use crate::sync::{SLICE, interrupt};
use crate::sys::alloc;
use crate::sys::futex::Wake;
use crate::time::{Deadline, Timeout};

pub(super) const TAG: u64 = u64::from_le_bytes(*b"MDGcond\0");

/// A condition variable that processes share. Free-threaded.
#[derive(Debug)]
pub struct Cond {
    area: Area<CondArea>,
}

impl Cond {
    /// Opens, or makes, the condition variable `name`.
    pub fn open(name: &[u8], creation: Creation, mode: u32) -> Result<Self> {
        let name = Name::new(Kind::Cond, name)?;
        let make = |area| Self::init(area).map(drop);
        // It knows nobody by a number, so nobody ever has one alone.
        let open = |_: &CondArea, file: BorrowedFd<'_>, what: &str| share(file, what).map(drop);
        // Before it has a name: what can fail has failed by then.
        let what = alloc::text(&name)?;
        let area = open_file(&name, COND_SIZE, creation, mode, &make, &open)?;
        Self::existing(area, &what)
    }

    /// Makes a condition variable in memory that processes share, where none is in use.
    pub fn init(area: Area<CondArea>) -> Result<Self> {
        area.tag.set(0);
        area.event.reset();
        area.tag.set(TAG);
        Self::attach(area)
    }

    /// Uses one that [`Cond::init`] made in memory; `EPROTO` if there is none.
    pub fn attach(area: Area<CondArea>) -> Result<Self> {
        Self::existing(area, "condition variable in memory")
    }

    fn existing(area: Area<CondArea>, what: &str) -> Result<Self> {
        if !area.tag.is(TAG) {
            return Err(Error::new(
                Errno::EPROTO,
                format_args!("{what}: these bytes are no condition variable"),
            ));
        }
        prepare(&area.event);
        Ok(Self { area })
    }

    /// Lets go of `mutex`, which this thread holds, waits to be woken, at most `timeout`, and takes
    /// the mutex again, however long that takes and whatever the wait came to. It may return without
    /// having been woken: look at what you wait for, in a loop.
    ///
    /// The first result is the wait's: `EAGAIN`, `ETIMEDOUT`, `EINTR` with the mutex held. The outer
    /// one is the mutex's: on an error this thread does not hold it, but for `EPERM`-like refusals
    /// before anything was done.
    pub fn wait(&self, mutex: &Mutex, timeout: Timeout) -> Result<(Result<()>, Locked)> {
        // Armed before the mutex is free: who changes something under it sees that somebody waits.
        let event = &self.area.event;
        let ticket = event.arm(SLICE);
        mutex.unlock()?;
        let deadline = Deadline::start(timeout);
        let waited = deadline.and_then(|deadline| {
            loop {
                interrupt::check()?;
                let Some(longest) = deadline.left(SLICE) else { return Err(Error::timed_out()) };
                match event.sleep(ticket, longest) {
                    Wake::Woken => return Ok(()),
                    Wake::Interrupted => {
                        interrupt::take();
                        return Err(Error::interrupted());
                    }
                    // A slice is over: what a notifier that was killed at the wrong moment, or a
                    // wake-up that went to a dead waiter, costs the others.
                    Wake::TimedOut => {}
                }
            }
        });
        mutex.lock_after_all().map(|locked| (waited, locked))
    }

    /// Wakes one who waits, at least.
    pub fn signal(&self) {
        self.area.event.notify_one();
    }

    /// Wakes all who wait.
    pub fn broadcast(&self) {
        self.area.event.notify();
    }

    /// Removes the name; those who have it open go on using it.
    pub fn unlink(name: &[u8]) -> Result<()> {
        let name = Name::new(Kind::Cond, name)?;
        object::unlink(&name)
    }
}
