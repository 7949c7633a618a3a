#![forbid(unsafe_code)]
//! Mutexes and condition variables between processes, that survive the death of who holds them.
//!
//! Underneath a mutex is the C library's robust, process-shared one: who has it, and that its death
//! is told to the next, is the C library's and the kernel's work. Waiting is ours: a lock that is
//! not to be had sleeps on an event count beside it, so that it has a timeout on the monotonic
//! clock, ends when a signal is caught, and is no cancellation point, as every wait here.
//!
//! ```text
//! lock:    pthread_mutex_trylock; busy: sleep on the event count, at most 100 ms; again
//! unlock:  pthread_mutex_unlock; notify
//! ```
//!
//! | killed | left behind | the others |
//! |---|---|---|
//! | while it waits | a stale arm of the event count | nothing |
//! | between trylock's claim and its return | the kernel's list of pending operations knows it | `EOWNERDEAD` |
//! | with the mutex | the kernel marks it | the next trylock is `EOWNERDEAD`, after a slice at most |
//! | in unlock before the notify | sleepers | look again after their slice |
//! | between `EOWNERDEAD` and consistent | the mark | `EOWNERDEAD` for the next |
//!
//! A held mutex must stay mapped: it hangs in its thread's list of held ones. A handle that is
//! closed while a thread of this process holds the mutex therefore leaves it mapped for good.
//!
//! A condition variable is an event count and nothing else, so that no death can leave it in a
//! state: a waiter that is killed is simply not there any more. (The C library's own may count on a
//! killed waiter.) A wake-up that goes to one who is killed before it acts is not lost either:
//! the others see that the count has moved when their slice is over.

mod cond;
pub(crate) mod inspect;

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::errno::Errno;

pub use crate::object::{Area, CondArea, MutexArea};
pub use cond::Cond;

use crate::error::{Error, Result};
use crate::flags::Creation;
use crate::name::{Kind, Name};
use crate::object::{self, MUTEX_SIZE};
use crate::shm::{Mapping, named};
use crate::sync::{EventCount, Spinner, wait_until};
use crate::sys::lock::{self, Anchor};
use crate::sys::membarrier;
use crate::sys::mutex::Taken;
use crate::time::Timeout;

/// States of a mutex. The C library keeps the same, but (glibc 2.36 for one) a
/// pthread_mutex_trylock that finds a mutex lost leaves it locked, and the next is told "busy".
const WHOLE: u32 = 0;
/// A holder died; the holder in `told` has declared nothing yet.
const HALF_DONE: u32 = 1;
/// Unlocked in that state; for good.
const LOST: u32 = 2;

const TAG: u64 = u64::from_le_bytes(*b"MDGmutex");

/// A mutex that processes share. Free-threaded; a lock belongs to the thread that took it.
#[derive(Debug)]
pub struct Mutex {
    area: Area<MutexArea>,
    what: String,
}

/// How a lock was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Locked {
    /// As it should be.
    Clean,
    /// Its holder died with it, or declared nothing after such a death: what it protects may be
    /// half-done. [`Mutex::consistent`] before unlocking, or nobody gets it any more.
    OwnerDied,
}

fn this_thread() -> u32 {
    nix::unistd::gettid().as_raw().unsigned_abs()
}

/// Has this process reached by others' barriers, or the notifiers of this event fence themselves.
fn prepare(event: &EventCount) {
    if membarrier::register().is_err() {
        event.set_heavy();
    }
}

/// Opens the file of `size` bytes under a name, or has `make` fill a new one, and maps it. As long as
/// the mapping, and what forks have made of it, the file says that somebody has it open; see
/// `inventory::reap`, which this waits for as every opener does.
fn open_file(
    name: &Name,
    size: usize,
    creation: Creation,
    mode: u32,
    make: &dyn Fn(Mapping) -> Result<()>,
) -> Result<Mapping> {
    let what = name.to_string();
    let map = |file: &OwnedFd| {
        let shared = lock::share(file.as_fd(), lock::BASE + lock::USERS);
        shared.map_err(|errno| Error::from_kernel(errno, &what))?;
        Mapping::new(file, size, true)
    };
    let existing = |path: &CStr| -> Result<Option<Mapping>> {
        let Some(file) = named::open_regular(path, true, &what)? else { return Ok(None) };
        let status = named::status(&file, &what)?;
        if status.st_size != size as i64 {
            let text = format!("{what}: {} bytes, where {size} must be", status.st_size);
            return Err(Error::new(Errno::EPROTO, text));
        }
        let anchor = Anchor::new(Arc::new(file), 0);
        let anchor = anchor.map_err(|errno| Error::from_kernel(errno, &what))?;
        let mapping = map(anchor.file())?;
        object::wait_for_removal(&anchor, &what)?;
        Ok(named::still_names(path, &status).then_some(mapping))
    };
    let new = |path: &CStr| -> Result<Option<Mapping>> {
        let new = named::Unpublished::new(path, size as u64, mode, &what)?;
        make(map(new.file())?)?;
        let mapping = map(new.file())?;
        Ok(new.publish(path, &what)?.map(|_file| mapping))
    };
    named::create_or_open(name.path(), creation, &what, existing, new)
}

impl Mutex {
    /// Opens, or makes, the mutex `name`.
    pub fn open(name: &[u8], creation: Creation, mode: u32) -> Result<Self> {
        let name = Name::new(Kind::Mutex, name)?;
        let make = |mapping| Self::init(Area::of(mapping)?).map(drop);
        let mapping = open_file(&name, MUTEX_SIZE, creation, mode, &make)?;
        Self::existing(Area::of(mapping)?, name.to_string())
    }

    /// Makes a mutex in memory that processes share, where none is in use.
    pub fn init(area: Area<MutexArea>) -> Result<Self> {
        let what = "mutex in memory";
        area.tag.set(0);
        area.mark.store(0, Ordering::Relaxed);
        area.state.store(WHOLE, Ordering::Relaxed);
        area.event.reset();
        area.mutex.make().map_err(|errno| Error::from_kernel(errno, what))?;
        area.tag.set(TAG);
        Self::existing(area, what.to_owned())
    }

    /// Uses a mutex that [`Mutex::init`] made in memory; `EPROTO` if there is none.
    pub fn attach(area: Area<MutexArea>) -> Result<Self> {
        Self::existing(area, "mutex in memory".to_owned())
    }

    fn existing(area: Area<MutexArea>, what: String) -> Result<Self> {
        if !area.tag.is(TAG) || !area.mutex.is_one() {
            return Err(Error::new(
                Errno::EPROTO,
                format_args!("{what}: these bytes are no mutex"),
            ));
        }
        prepare(&area.event);
        Ok(Self { area, what })
    }

    fn error(&self, errno: Errno) -> Error {
        let why = match errno {
            Errno::EDEADLK => "this thread holds it already",
            Errno::EPERM => "this thread does not hold it",
            Errno::ENOTRECOVERABLE => {
                "it was unlocked after its holder's death without being declared consistent"
            }
            Errno::EINVAL => "it is consistent, or not held",
            errno => errno.desc(),
        };
        Error::new(errno, format_args!("{}: {why}", self.what))
    }

    fn try_lock(&self) -> Result<Option<Locked>> {
        // Acquire: pairs with the Release in `unlock`: lost for ever, and nothing else follows from it.
        if self.area.state.load(Ordering::Acquire) == LOST {
            return Err(self.error(Errno::ENOTRECOVERABLE));
        }
        let locked = match self.area.mutex.try_lock().map_err(|errno| self.error(errno))? {
            Taken::Busy => return Ok(None),
            Taken::Clean => Locked::Clean,
            Taken::OwnerDied => {
                self.area.told.store(this_thread(), Ordering::Relaxed);
                self.area.state.store(HALF_DONE, Ordering::Relaxed);
                Locked::OwnerDied
            }
        };
        let turn = (self.area.mark.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        let mark = turn << 32 | u64::from(std::process::id());
        self.area.mark.store(mark, Ordering::Relaxed);
        Ok(Some(locked))
    }

    /// Whether this thread holds it after a death, and has declared nothing yet.
    fn is_mine_and_half_done(&self) -> bool {
        self.area.state.load(Ordering::Relaxed) == HALF_DONE
            && self.area.told.load(Ordering::Relaxed) == this_thread()
    }

    /// Takes the mutex, waiting for it at most `timeout`. `EINTR` when a signal is caught, `EDEADLK`
    /// if this thread has it, `ENOTRECOVERABLE` if nobody can have it any more.
    pub fn lock(&self, timeout: Timeout) -> Result<Locked> {
        if let Some(locked) = self.try_lock()? {
            return Ok(locked);
        }
        let attempt = || self.try_lock();
        wait_until(&self.area.event, &Spinner::new(), timeout, attempt, || {}, || Ok(()))
    }

    /// Lets go of it. `EPERM` if this thread does not have it.
    pub fn unlock(&self) -> Result<()> {
        if self.is_mine_and_half_done() {
            // Release: pairs with the Acquire in `try_lock`.
            self.area.state.store(LOST, Ordering::Release);
        }
        let mark = self.area.mark.load(Ordering::Relaxed);
        self.area.mutex.unlock().map_err(|errno| self.error(errno))?;
        // A failure: somebody has taken it since, with another turn, and it is his mark now.
        let (order, free) = (Ordering::Relaxed, mark >> 32 << 32);
        let _ = self.area.mark.compare_exchange(mark, free, order, order);
        self.area.event.notify();
        Ok(())
    }

    /// Declares what the mutex protects whole again, after [`Locked::OwnerDied`]. `EINVAL` if nobody
    /// died with it, or this thread does not have it.
    pub fn consistent(&self) -> Result<()> {
        if !self.is_mine_and_half_done() {
            return Err(self.error(Errno::EINVAL));
        }
        self.area.mutex.consistent().map_err(|errno| self.error(errno))?;
        self.area.state.store(WHOLE, Ordering::Relaxed);
        Ok(())
    }

    /// Removes the name; those who have it open go on using it.
    pub fn unlink(name: &[u8]) -> Result<()> {
        let name = Name::new(Kind::Mutex, name)?;
        object::unlink(&name)
    }
}

impl Drop for Mutex {
    fn drop(&mut self) {
        if self.area.mark.load(Ordering::Relaxed) as u32 == std::process::id() {
            self.area.keep();
        }
    }
}
