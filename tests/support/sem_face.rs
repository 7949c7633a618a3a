//! Semaphores: the Rust type and the C entry points behind one trait.

use std::ffi::{c_int, c_void};
use std::ptr::{self, NonNull};

use madang::Timeout;
use madang::ffi::sem::*;
use madang::sem::Semaphore;
use madang::shm::Place;
use nix::errno::Errno;

use super::face::{Outcome, answer, c_string, done, open_flags};

/// `mdg_sem`, in Rust and in C.
pub trait Permits: Sized + Send + Sync {
    fn open(name: &[u8], value: u32, oflag: c_int, mode: u32) -> Outcome<Self>;
    /// # Safety
    /// `memory` is a writable `sem_t` that stays as long as the result.
    unsafe fn init(memory: *mut u8, value: u32) -> Outcome<Self>;
    /// # Safety
    /// `memory` is a writable `sem_t` that stays as long as the result.
    unsafe fn attach(memory: *mut u8) -> Outcome<Self>;
    fn wait(&self, timeout_ns: i64) -> Outcome<()>;
    fn post(&self) -> Outcome<()>;
    fn value(&self) -> u32;
    fn unlink(name: &[u8]) -> Outcome<()>;
}

impl Permits for Semaphore {
    fn open(name: &[u8], value: u32, oflag: c_int, mode: u32) -> Outcome<Self> {
        Ok(Semaphore::open(name, value, open_flags(oflag).creation, mode)?)
    }
    unsafe fn init(memory: *mut u8, value: u32) -> Outcome<Self> {
        // SAFETY: passed on.
        Ok(Semaphore::init(unsafe { Place::at(NonNull::new(memory).unwrap()) }?, value)?)
    }
    unsafe fn attach(memory: *mut u8) -> Outcome<Self> {
        // SAFETY: passed on.
        Ok(Semaphore::attach(unsafe { Place::at(NonNull::new(memory).unwrap()) }?)?)
    }
    fn wait(&self, timeout_ns: i64) -> Outcome<()> {
        Ok(Semaphore::wait(self, Timeout::from_nanos(timeout_ns))?)
    }
    fn post(&self) -> Outcome<()> {
        Ok(Semaphore::post(self)?)
    }
    fn value(&self) -> u32 {
        Semaphore::value(self)
    }
    fn unlink(name: &[u8]) -> Outcome<()> {
        Ok(Semaphore::unlink(name)?)
    }
}

/// A handle of the C face; closed when dropped, with errno left alone.
#[derive(Debug)]
pub struct CSem(pub *mut mdg_sem);

// SAFETY: the header says that any thread may use it.
unsafe impl Send for CSem {}
// SAFETY: as above.
unsafe impl Sync for CSem {}

impl Drop for CSem {
    fn drop(&mut self) {
        Errno::set_raw(77);
        // SAFETY: a live handle that nobody uses any more.
        unsafe { mdg_sem_close(self.0) };
        assert_eq!(Errno::last_raw(), 77, "close leaves errno alone");
    }
}

impl CSem {
    #[track_caller]
    pub fn made(call: impl FnOnce(*mut *mut mdg_sem) -> c_int) -> Outcome<Self> {
        let mut sem = ptr::null_mut();
        let result = done(|| call(&raw mut sem));
        assert_eq!(result.is_err(), sem.is_null(), "an output is written only on success");
        result.map(|()| Self(sem))
    }
}

impl Permits for CSem {
    fn open(name: &[u8], value: u32, oflag: c_int, mode: u32) -> Outcome<Self> {
        let (name, size) = (c_string(name), size_of::<mdg_sem_opts>());
        let opts = mdg_sem_opts { size, value, kind: MDG_SEM_POSIX, flags: 0, max_handles: 0 };
        // SAFETY: `out` is writable, the name a C string, the options have their size.
        Self::made(|out| unsafe { mdg_sem_open(out, name.as_ptr(), &raw const opts, oflag, mode) })
    }
    unsafe fn init(memory: *mut u8, value: u32) -> Outcome<Self> {
        // SAFETY: the caller's promise.
        Self::made(|out| unsafe { mdg_sem_init(out, memory.cast::<c_void>(), value) })
    }
    unsafe fn attach(memory: *mut u8) -> Outcome<Self> {
        // SAFETY: the caller's promise.
        Self::made(|out| unsafe { mdg_sem_attach(out, memory.cast::<c_void>()) })
    }
    fn wait(&self, timeout_ns: i64) -> Outcome<()> {
        // SAFETY: a live handle.
        done(|| unsafe { mdg_sem_wait(self.0, timeout_ns) })
    }
    fn post(&self) -> Outcome<()> {
        // SAFETY: a live handle.
        done(|| unsafe { mdg_sem_post(self.0) })
    }
    fn value(&self) -> u32 {
        // SAFETY: a live handle.
        answer(|| unsafe { mdg_sem_value(self.0) }).unwrap() as u32
    }
    fn unlink(name: &[u8]) -> Outcome<()> {
        let name = c_string(name);
        // SAFETY: a C string.
        done(|| unsafe { mdg_sem_unlink(name.as_ptr()) })
    }
}
