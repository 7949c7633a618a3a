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
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use nix::poll::{PollTimeout, poll};

pub use crate::object::{Area, CondArea, MutexArea};
pub use cond::Cond;

use crate::error::{Error, Result};
use crate::flags::Creation;
use crate::name::{Kind, Name};
use crate::object::{self, MUTEX_SIZE, Shared};
use crate::shm::{Mapping, named};
use crate::sync::{EventCount, Spinner, wait_deaf_until, wait_until};
use crate::sys::alloc::{self, Arc};
use crate::sys::kept::Kept;
use crate::sys::lock::{self, Anchor};
use crate::sys::membarrier;
use crate::sys::mutex::Taken;
use crate::sys::process;
use crate::time::Timeout;

/// States of a mutex. The C library keeps the same, but (glibc 2.36 for one) a
/// pthread_mutex_trylock that finds a mutex lost leaves it locked, and the next is told "busy".
const WHOLE: u32 = 0;
/// A holder died; the holder in `told` has declared nothing yet.
const HALF_DONE: u32 = 1;
/// Unlocked in that state; for good.
const LOST: u32 = 2;

/// How many milliseconds to wait for another opener that has a mutex alone.
const PATIENCE: u32 = 1000;

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

/// Opens the file of `size` bytes under a name, or has `make` fill a new one, and maps it. `share` then
/// locks the byte of those who have it open. As long as the mapping, and what forks have made of it, the
/// file says that somebody has it open; see `inventory::reap`, which this waits for as every opener does.
fn open_file<T: Shared>(
    name: &Name,
    size: usize,
    creation: Creation,
    mode: u32,
    make: &dyn Fn(Area<T>) -> Result<()>,
    share: &dyn Fn(&T, BorrowedFd<'_>, &str) -> Result<()>,
) -> Result<Area<T>> {
    let what = alloc::text(name)?;
    let map = |file: &Kept| Area::of(Mapping::new(file.checked(&what)?, size, true)?);
    let existing = |path: &CStr| -> Result<Option<Area<T>>> {
        let Some(file) = named::open_regular(path, true, &what)? else { return Ok(None) };
        let status = named::status(&file, &what)?;
        if status.st_size != size as i64 {
            return Err(Error::new(
                Errno::EPROTO,
                format_args!("{what}: {} bytes, where {size} must be", status.st_size),
            ));
        }
        let file = Kept::new(file).map_err(|errno| Error::from_kernel(errno, &what))?;
        let anchor = Anchor::new(Arc::new(file)?, 0);
        let area = map(anchor.file())?;
        share(&area, anchor.file().checked(&what)?, &what)?;
        object::wait_for_removal(&anchor, &what)?;
        Ok(named::still_names(path, &status).then_some(area))
    };
    let new = |path: &CStr| -> Result<Option<Area<T>>> {
        let new = named::Unpublished::new(path, size as u64, mode, &what)?;
        make(map(new.file())?)?;
        let area = map(new.file())?;
        share(&area, new.file().checked(&what)?, &what)?;
        Ok(new.publish(path, &what)?.map(|_file| area))
    };
    named::create_or_open(name.path(), creation, &what, existing, new)
}

/// Locks the byte of those who have a file open, as any number of them may. `false` if somebody has it for
/// himself alone.
fn share(file: BorrowedFd<'_>, what: &str) -> Result<bool> {
    match lock::share(file, lock::BASE + lock::USERS) {
        Ok(()) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(Error::from_kernel(errno, what)),
    }
}

/// The same for a mutex. One of another PID namespace, which nobody has open any more, first comes to
/// belong to this process's: who does that has the byte alone for this moment, and shares it from then on,
/// without a moment in between in which it is free. `EBUSY` if another process was stopped in that moment.
fn share_mutex(area: &MutexArea, file: BorrowedFd<'_>, what: &str) -> Result<()> {
    for _ in 0..PATIENCE {
        if !is_ours(area) {
            let alone = lock::try_lock(file, lock::BASE + lock::USERS);
            if alone.map_err(|errno| Error::from_kernel(errno, what))? {
                settle_here(area);
            }
        }
        // What it says now it says as long as this has it open.
        if share(file, what)? {
            return check_namespace(area, what);
        }
        let _ = poll(&mut [], PollTimeout::from(1_u8));
    }
    Err(Error::new(
        Errno::EBUSY,
        format_args!("{what}: another process was stopped while it opened it"),
    ))
}

/// Whether this process and those that use a mutex know a thread by the same number. What is not known is
/// no reason to refuse.
fn is_ours(area: &MutexArea) -> bool {
    // Relaxed: it is one number, and stays the same as long as anybody has the mutex open.
    let theirs = area.pid_namespace.load(Ordering::Relaxed);
    theirs == 0 || process::pid_namespace().is_none_or(|ours| ours == theirs)
}

/// Has a mutex that nobody else has open belong to this process's PID namespace.
fn settle_here(area: &MutexArea) {
    // Relaxed: the lock on the file, or whatever tells others of the memory, is what they see it by.
    area.pid_namespace.store(process::pid_namespace().unwrap_or(0), Ordering::Relaxed);
}

/// `EOPNOTSUPP` in a process to which the others' numbers mean other threads. A handle can get there by
/// fork(2), so this is asked before each operation.
fn check_namespace(area: &MutexArea, what: &str) -> Result<()> {
    if is_ours(area) { Ok(()) } else { Err(foreign(area, what)) }
}

#[cold]
fn foreign(area: &MutexArea, what: &str) -> Error {
    let theirs = area.pid_namespace.load(Ordering::Relaxed);
    let ours = process::pid_namespace().unwrap_or(0);
    Error::new(
        Errno::EOPNOTSUPP,
        format_args!(
            "{what}: it belongs to PID namespace {theirs} and this process to {ours}, where another \
             thread may have its holder's number; use a semaphore of kind MDG_SEM_UNDO with value 1, \
             which works between them"
        ),
    )
}

impl Mutex {
    /// Opens, or makes, the mutex `name`. `EOPNOTSUPP` if processes of another PID namespace have it open.
    pub fn open(name: &[u8], creation: Creation, mode: u32) -> Result<Self> {
        let name = Name::new(Kind::Mutex, name)?;
        let make = |area| Self::init(area).map(drop);
        // Before it has a name: what can fail has failed by then.
        let what = alloc::text(&name)?;
        let area = open_file(&name, MUTEX_SIZE, creation, mode, &make, &share_mutex)?;
        Self::existing(area, what)
    }

    /// Makes a mutex in memory that processes share, where none is in use.
    pub fn init(area: Area<MutexArea>) -> Result<Self> {
        let what = alloc::text("mutex in memory")?;
        area.tag.set(0);
        area.mark.store(0, Ordering::Relaxed);
        settle_here(&area);
        area.state.store(WHOLE, Ordering::Relaxed);
        area.event.reset();
        area.mutex.make().map_err(|errno| Error::from_kernel(errno, &what))?;
        area.tag.set(TAG);
        Self::existing(area, what)
    }

    /// Uses a mutex that [`Mutex::init`] made in memory; `EPROTO` if there is none, `EOPNOTSUPP` if it was
    /// made in another PID namespace.
    pub fn attach(area: Area<MutexArea>) -> Result<Self> {
        Self::existing(area, alloc::text("mutex in memory")?)
    }

    fn existing(area: Area<MutexArea>, what: String) -> Result<Self> {
        if !area.tag.is(TAG) || !area.mutex.is_one() {
            return Err(Error::new(
                Errno::EPROTO,
                format_args!("{what}: these bytes are no mutex"),
            ));
        }
        check_namespace(&area, &what)?;
        prepare(&area.event);
        Ok(Self { area, what })
    }

    fn check_namespace(&self) -> Result<()> {
        check_namespace(&self.area, &self.what)
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
        self.check_namespace()?;
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

    /// Takes the mutex, however long that takes and whatever signals are caught.
    fn lock_after_all(&self) -> Result<Locked> {
        if let Some(locked) = self.try_lock()? {
            return Ok(locked);
        }
        wait_deaf_until(&self.area.event, &Spinner::new(), || self.try_lock())
    }

    /// Lets go of it. `EPERM` if this thread does not have it.
    pub fn unlock(&self) -> Result<()> {
        self.check_namespace()?;
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
        self.check_namespace()?;
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
        let mark = self.area.mark.load(Ordering::Relaxed) as u32;
        if mark == std::process::id() && self.check_namespace().is_ok() {
            self.area.keep();
        }
    }
}
