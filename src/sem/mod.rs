//! Counting semaphores: the C library's own objects, so that every program that uses `sem_open` is
//! a peer.
//!
//! A named semaphore is the file that `sem_open` makes: one `sem_t`, nothing else, at
//! `/dev/shm/sem.NAME`. It is opened here without `sem_open` itself, for two reasons: `sem_open`
//! maps whatever it finds and faults later if that is too short, and a maker killed inside it can
//! leave a temporary file. Everything done *to* a semaphore is the C library's.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::ptr::NonNull;
use std::time::Duration;

use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::flags::Creation;
use crate::name::{Kind, Name};
use crate::shm::{Mapping, named};
use crate::sys::semaphore::{self, Sem};
use crate::time::{Deadline, Timeout};

/// The greatest value of a semaphore: `SEM_VALUE_MAX` of Linux's C libraries.
pub const VALUE_MAX: u32 = i32::MAX as u32;

/// A wait without limit is a series of these: a timed wait returns from any signal handler, an
/// untimed one may be restarted by the kernel.
const SLICE: Duration = Duration::from_secs(3600);

/// A counting semaphore shared between processes. Free-threaded.
#[derive(Debug)]
pub struct Semaphore {
    sem: Sem,
    /// Keeps a named one mapped; `None` if the memory is somebody else's.
    _mapping: Option<Mapping>,
}

impl Semaphore {
    /// Opens, or makes with `value` permits, the semaphore `name`.
    pub fn open(name: &[u8], value: u32, creation: Creation, mode: u32) -> Result<Self> {
        let name = Name::new(Kind::Sem, name)?;
        let what = name.to_string();
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
        let refused = |errno| Error::from_kernel(errno, what);
        let new = named::Unpublished::new(path, semaphore::SIZE as u64, mode, what)?;
        let mapping = Mapping::new(new.file(), semaphore::SIZE, true)?;
        // SAFETY: a page-aligned writable mapping of a `sem_t`'s size that nobody else sees yet.
        let sem = unsafe { Sem::init(mapping.address(), value) }.map_err(refused)?;
        let made = new.publish(path, what)?;
        Ok(made.map(|_file| Self { sem, _mapping: Some(mapping) }))
    }

    fn existing(file: OwnedFd, what: &str) -> Result<Self> {
        let size = named::status(&file, what)?.st_size;
        let mut bytes = [0; semaphore::SIZE];
        let file = File::from(file);
        if size != semaphore::SIZE as i64 || file.read_exact_at(&mut bytes, 0).is_err() {
            let text = format!("{what}: {size} bytes, where a semaphore has {}", bytes.len());
            return Err(Error::new(Errno::EPROTO, text));
        }
        check_image(&bytes, what)?;
        let mapping = Mapping::new(&file, semaphore::SIZE, true)?;
        // SAFETY: page-aligned, a process-shared semaphore by its contents, mapped as long as the
        // result lives.
        let sem = unsafe { Sem::at(mapping.address()) };
        Ok(Self { sem, _mapping: Some(mapping) })
    }

    /// Makes a semaphore in memory that the caller shares with others.
    ///
    /// # Safety
    /// `memory` is NULL-free, writable for a `sem_t`, holds no semaphore in use, and stays mapped
    /// as long as the result lives.
    pub unsafe fn init(memory: NonNull<u8>, value: u32) -> Result<Self> {
        let what = "semaphore in memory";
        check_value(value, what)?;
        check_aligned(memory, what)?;
        // SAFETY: aligned; the rest is the caller's promise.
        let sem = unsafe { Sem::init(memory, value) };
        Ok(Self { sem: sem.map_err(|errno| Error::from_kernel(errno, what))?, _mapping: None })
    }

    /// Uses a semaphore that [`Semaphore::init`], or `sem_init` with `pshared`, made in memory;
    /// `EPROTO` if there is none.
    ///
    /// # Safety
    /// `memory` is readable and writable for a `sem_t` and stays mapped as long as the result lives.
    pub unsafe fn attach(memory: NonNull<u8>) -> Result<Self> {
        let what = "semaphore in memory";
        check_aligned(memory, what)?;
        // SAFETY: the caller's promise; volatile, as others may post meanwhile.
        let bytes = unsafe { memory.cast::<[u8; semaphore::SIZE]>().as_ptr().read_volatile() };
        check_image(&bytes, what)?;
        // SAFETY: aligned, and a process-shared semaphore by its contents.
        Ok(Self { sem: unsafe { Sem::at(memory) }, _mapping: None })
    }

    /// Takes a permit, waiting for one at most `timeout`. `EINTR` when a signal is caught.
    pub fn wait(&self, timeout: Timeout) -> Result<()> {
        match self.sem.try_wait() {
            Err(Errno::EAGAIN) => {}
            Err(errno) => return Err(Error::from_kernel(errno, "waiting for a semaphore")),
            Ok(()) => return Ok(()),
        }
        let deadline = Deadline::start(timeout)?;
        loop {
            match self.sem.wait_until(deadline.at(SLICE)) {
                Ok(()) => return Ok(()),
                Err(Errno::ETIMEDOUT) if deadline.passed() => return Err(Error::timed_out()),
                Err(Errno::ETIMEDOUT) => {}
                Err(errno) => return Err(Error::from_kernel(errno, "waiting for a semaphore")),
            }
        }
    }

    /// Gives a permit back, and wakes one who waits. `EOVERFLOW` at [`VALUE_MAX`], value kept.
    pub fn post(&self) -> Result<()> {
        self.sem.post().map_err(|errno| match errno {
            Errno::EOVERFLOW => Error::new(errno, "posting: the semaphore has its greatest value"),
            _ => Error::from_kernel(errno, "posting a semaphore"),
        })
    }

    /// Permits there are now; already out of date when others use it.
    pub fn value(&self) -> u32 {
        self.sem.value().max(0).unsigned_abs()
    }

    /// Removes the name of a semaphore; those who have it open go on using it.
    pub fn unlink(name: &[u8]) -> Result<()> {
        let name = Name::new(Kind::Sem, name)?;
        named::unlink(name.path(), &name.to_string())
    }
}

fn check_value(value: u32, what: &str) -> Result<()> {
    if value > VALUE_MAX {
        let text = format!("{what}: a value of {value}; the greatest is {VALUE_MAX}");
        return Err(Error::new(Errno::EINVAL, text));
    }
    Ok(())
}

fn check_aligned(memory: NonNull<u8>, what: &str) -> Result<()> {
    if memory.addr().get() % semaphore::ALIGN != 0 {
        let text = format!("{what}: must be aligned to {} bytes", semaphore::ALIGN);
        return Err(Error::new(Errno::EINVAL, text));
    }
    Ok(())
}

/// Whether these bytes are a process-shared semaphore of this C library. In 64-bit C libraries the
/// first eight bytes are the value and the number of waiters; of the others, those that `sem_init`
/// writes differ in a private semaphore or in memory of another sort, and it leaves the rest alone.
fn check_image(bytes: &[u8; semaphore::SIZE], what: &str) -> Result<()> {
    const COUNTERS: usize = 8;
    let image = |background| {
        semaphore::image(0, background).map_err(|errno| Error::from_kernel(errno, what))
    };
    let (zeros, ones) = (image(0)?, image(0xff)?);
    let value = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let as_written = |at: usize| zeros[at] != ones[at] || bytes[at] == zeros[at];
    let same = cfg!(not(target_pointer_width = "64")) || (COUNTERS..bytes.len()).all(as_written);
    if !same || value > VALUE_MAX {
        let text = format!("{what}: these bytes are no process-shared semaphore");
        return Err(Error::new(Errno::EPROTO, text));
    }
    Ok(())
}
