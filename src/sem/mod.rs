#![forbid(unsafe_code)]
//! Counting semaphores: the C library's own objects, so that every program that uses `sem_open` is
//! a peer; and, in `undo`, objects of ours whose permits come back when their holder dies.
//!
//! A named semaphore of the C library is the file that `sem_open` makes: one `sem_t`, nothing else, at
//! `/dev/shm/sem.NAME`. It is opened here without `sem_open` itself, for two reasons: `sem_open`
//! maps whatever it finds and faults later if that is too short, and a maker killed inside it can
//! leave a temporary file. Everything done *to* a semaphore is the C library's.

mod undo;

use nix::errno::Errno;
use std::ffi::CStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use crate::error::{Error, Result};
use crate::flags::Creation;
use crate::name::{Kind, Name};
use crate::shm::{Mapping, Place, named};
use crate::sync::{SLICE, interrupt};
use crate::sys::{alloc, semaphore};
use crate::time::{Deadline, Timeout};

pub(crate) use undo::SemLook;
pub use undo::{Holder, Permit, UndoOptions, UndoSemaphore};

/// The greatest value of a semaphore: `SEM_VALUE_MAX` of Linux's C libraries.
pub const VALUE_MAX: u32 = i32::MAX as u32;

/// A counting semaphore shared between processes. Free-threaded.
#[derive(Debug)]
pub struct Semaphore {
    /// Holds a process-shared semaphore.
    place: Place,
}

impl Semaphore {
    /// Opens, or makes with `value` permits, the semaphore `name`.
    pub fn open(name: &[u8], value: u32, creation: Creation, mode: u32) -> Result<Self> {
        let name = Name::new(Kind::Sem, name)?;
        let what = alloc::text(&name)?;
        check_value(value, &what)?;
        named::create_or_open(
            name.path(),
            creation,
            &what,
            |path| match named::open_regular(path, true, &what)? {
                Some(file) => Self::existing(file, &what).map(Some),
                None => Ok(None),
            },
            |path| Self::make(path, value, mode, &what),
        )
    }

    fn make(path: &CStr, value: u32, mode: u32, what: &str) -> Result<Option<Self>> {
        let new = named::Unpublished::new(path, semaphore::SIZE as u64, mode, what)?;
        let place = Place::of(Mapping::new(new.file().checked(what)?, semaphore::SIZE, true)?)?;
        let made = Self::init(place, value)?;
        Ok(new.publish(path, what)?.map(|_file| made))
    }

    fn existing(file: OwnedFd, what: &str) -> Result<Self> {
        let size = named::status(&file, what)?.st_size;
        if size != semaphore::SIZE as i64 {
            return Err(Error::new(
                Errno::EPROTO,
                format_args!("{what}: {size} bytes, where a semaphore has {}", semaphore::SIZE),
            ));
        }
        // Judged as read, not as mapped: a file that is cut short meanwhile must not fault.
        let mut bytes = [0; semaphore::SIZE];
        let file = File::from(file);
        file.read_exact_at(&mut bytes, 0).map_err(|error| match error.raw_os_error() {
            Some(libc::EIO) => Error::from_kernel(Errno::EIO, what),
            _ => Error::new(Errno::EPROTO, format_args!("{what}: cut short")),
        })?;
        check_image(&bytes, what)?;
        Ok(Self { place: Place::of(Mapping::new(&file, semaphore::SIZE, true)?)? })
    }

    /// Makes a semaphore with `value` permits in memory that processes share, where none is in use.
    pub fn init(place: Place, value: u32) -> Result<Self> {
        let what = "semaphore in memory";
        check_value(value, what)?;
        place.make(value).map_err(|errno| Error::from_kernel(errno, what))?;
        Ok(Self { place })
    }

    /// Uses a semaphore that [`Semaphore::init`], or `sem_init` with `pshared`, made in memory;
    /// `EPROTO` if there is none.
    pub fn attach(place: Place) -> Result<Self> {
        check_image(&place.bytes(), "semaphore in memory")?;
        Ok(Self { place })
    }

    /// Takes a permit, waiting for one at most `timeout`. `EINTR` when a signal is caught.
    pub fn wait(&self, timeout: Timeout) -> Result<()> {
        match self.place.semaphore().try_wait() {
            Err(Errno::EAGAIN) => {}
            Err(errno) => return Err(Error::from_kernel(errno, "waiting for a semaphore")),
            Ok(()) => return Ok(()),
        }
        let deadline = Deadline::start(timeout)?;
        // A series of slices: a timed wait returns from any signal handler, an untimed one may be
        // restarted by the kernel; and a handler that runs just before a sleep is heeded after it.
        loop {
            interrupt::check()?;
            match self.place.semaphore().wait_until(deadline.at(SLICE)) {
                Ok(()) => return Ok(()),
                Err(Errno::ETIMEDOUT) if deadline.passed() => {
                    return interrupt::check().and(Err(Error::timed_out()));
                }
                Err(Errno::ETIMEDOUT) => {}
                Err(Errno::EINTR) => {
                    interrupt::take();
                    return Err(Error::interrupted());
                }
                Err(errno) => return Err(Error::from_kernel(errno, "waiting for a semaphore")),
            }
        }
    }

    /// Gives a permit back, and wakes one who waits. `EOVERFLOW` at [`VALUE_MAX`], value kept.
    pub fn post(&self) -> Result<()> {
        self.place.semaphore().post().map_err(|errno| match errno {
            Errno::EOVERFLOW => Error::new(errno, "posting: the semaphore has its greatest value"),
            _ => Error::from_kernel(errno, "posting a semaphore"),
        })
    }

    /// Permits there are now; already out of date when others use it.
    pub fn value(&self) -> u32 {
        self.place.semaphore().value().max(0).unsigned_abs()
    }

    /// Removes the name of a semaphore; those who have it open go on using it.
    pub fn unlink(name: &[u8]) -> Result<()> {
        let name = Name::new(Kind::Sem, name)?;
        named::unlink(name.path(), &alloc::text(&name)?)
    }
}

/// A semaphore of either kind. Free-threaded.
#[derive(Debug)]
pub enum AnySemaphore {
    /// The C library's.
    Posix(Semaphore),
    /// Ours.
    Undo(UndoSemaphore),
}

impl AnySemaphore {
    /// As [`Semaphore::wait`] and [`UndoSemaphore::wait`].
    pub fn wait(&self, timeout: Timeout) -> Result<Permit> {
        match self {
            Self::Posix(semaphore) => semaphore.wait(timeout).map(|()| Permit::Ordinary),
            Self::Undo(semaphore) => semaphore.wait(timeout),
        }
    }

    /// As [`Semaphore::post`] and [`UndoSemaphore::post`].
    pub fn post(&self) -> Result<()> {
        match self {
            Self::Posix(semaphore) => semaphore.post(),
            Self::Undo(semaphore) => semaphore.post(),
        }
    }

    /// As [`Semaphore::value`] and [`UndoSemaphore::value`].
    pub fn value(&self) -> Result<u32> {
        match self {
            Self::Posix(semaphore) => Ok(semaphore.value()),
            Self::Undo(semaphore) => semaphore.value(),
        }
    }

    /// Removes the name `name` of either kind, of both where both have it, so that none stays behind
    /// unnoticed; `ENOENT` if there is neither.
    pub fn unlink(name: &[u8]) -> Result<()> {
        let posix = Semaphore::unlink(name);
        let undo = UndoSemaphore::unlink(name);
        // No semaphore of ours can have a name that is too long for them.
        let missing = |result: &Result<()>| {
            result
                .as_ref()
                .is_err_and(|error| matches!(error.code(), Errno::ENOENT | Errno::ENAMETOOLONG))
        };
        match (&posix, missing(&undo)) {
            (_, true) => posix,
            (Ok(()), false) => undo,
            (Err(_), false) if missing(&posix) => undo,
            (Err(_), false) => posix,
        }
    }
}

fn check_value(value: u32, what: &str) -> Result<()> {
    if value > VALUE_MAX {
        return Err(Error::new(
            Errno::EINVAL,
            format_args!("{what}: a value of {value}; the greatest is {VALUE_MAX}"),
        ));
    }
    Ok(())
}

/// Whether these bytes are a process-shared semaphore of this C library.
///
/// In 64-bit C libraries the first eight bytes are the value and the number of waiters. What else
/// `sem_init` writes tells a process-shared semaphore from a private one and from other things.
fn check_image(bytes: &[u8; semaphore::SIZE], what: &str) -> Result<()> {
    const COUNTERS: usize = 8;
    let fresh = |fill| semaphore::image(fill).map_err(|errno| Error::from_kernel(errno, what));
    let (on_zeros, on_ones) = (fresh(0)?, fresh(0xff)?);
    let mut fixed = on_zeros.iter().zip(on_ones).zip(bytes).skip(COUNTERS);
    // A byte that came out differently is one that sem_init leaves as it was.
    let same = fixed.all(|((zeros, ones), byte)| *zeros != ones || byte == zeros);
    let value = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    if (cfg!(target_pointer_width = "64") && !same) || value > VALUE_MAX {
        return Err(Error::new(
            Errno::EPROTO,
            format_args!("{what}: these bytes are no process-shared semaphore"),
        ));
    }
    Ok(())
}
