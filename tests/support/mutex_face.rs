//! Mutexes and condition variables: the Rust types and the C entry points behind one trait each.

use std::ffi::c_int;
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU32;

use libc::{O_CREAT, O_EXCL};
use madang::Timeout;
use madang::ffi::mutex::*;
use madang::mutex::{Area, Cond, Locked, Mutex};
use madang::shm::Shm;
use nix::errno::Errno;

use super::face::{Outcome, c_string, done, open_flags};
use super::process::{Child, Gate, fork};
use super::unique;

/// `mdg_mutex` with its `mdg_cond`, in Rust and in C. A lock answers whether the holder before died.
pub trait Locks: Sized + Send + Sync {
    type Cond: Send + Sync;
    fn open(name: &str, oflag: c_int, mode: u32) -> Outcome<Self>;
    /// # Safety
    /// `memory` is writable for a mutex and stays as long as the result.
    unsafe fn init(memory: *mut u8) -> Outcome<Self>;
    /// # Safety
    /// As above.
    unsafe fn attach(memory: *mut u8) -> Outcome<Self>;
    fn lock(&self, timeout_ns: i64) -> Outcome<bool>;
    fn unlock(&self) -> Outcome<()>;
    fn consistent(&self) -> Outcome<()>;
    fn unlink(name: &str) -> Outcome<()>;
    fn open_cond(name: &str, oflag: c_int, mode: u32) -> Outcome<Self::Cond>;
    /// # Safety
    /// `memory` is writable for a condition variable and stays as long as the result.
    unsafe fn init_cond(memory: *mut u8) -> Outcome<Self::Cond>;
    /// # Safety
    /// As above.
    unsafe fn attach_cond(memory: *mut u8) -> Outcome<Self::Cond>;
    /// The mutex is held afterwards, unless it answers EPERM or ENOTRECOVERABLE.
    fn wait(&self, cond: &Self::Cond, timeout_ns: i64) -> Outcome<bool>;
    fn signal(cond: &Self::Cond);
    fn broadcast(cond: &Self::Cond);
    fn unlink_cond(name: &str) -> Outcome<()>;
}

fn at(memory: *mut u8) -> NonNull<u8> {
    NonNull::new(memory).unwrap()
}

impl Locks for Mutex {
    type Cond = Cond;
    fn open(name: &str, oflag: c_int, mode: u32) -> Outcome<Self> {
        Ok(Mutex::open(name.as_bytes(), open_flags(oflag).creation, mode)?)
    }
    unsafe fn init(memory: *mut u8) -> Outcome<Self> {
        // SAFETY: passed on.
        Ok(Mutex::init(unsafe { Area::at(at(memory)) }?)?)
    }
    unsafe fn attach(memory: *mut u8) -> Outcome<Self> {
        // SAFETY: passed on.
        Ok(Mutex::attach(unsafe { Area::at(at(memory)) }?)?)
    }
    fn lock(&self, timeout_ns: i64) -> Outcome<bool> {
        Ok(Mutex::lock(self, Timeout::from_nanos(timeout_ns))? == Locked::OwnerDied)
    }
    fn unlock(&self) -> Outcome<()> {
        Ok(Mutex::unlock(self)?)
    }
    fn consistent(&self) -> Outcome<()> {
        Ok(Mutex::consistent(self)?)
    }
    fn unlink(name: &str) -> Outcome<()> {
        Ok(Mutex::unlink(name.as_bytes())?)
    }
    fn open_cond(name: &str, oflag: c_int, mode: u32) -> Outcome<Cond> {
        Ok(Cond::open(name.as_bytes(), open_flags(oflag).creation, mode)?)
    }
    unsafe fn init_cond(memory: *mut u8) -> Outcome<Cond> {
        // SAFETY: passed on.
        Ok(Cond::init(unsafe { Area::at(at(memory)) }?)?)
    }
    unsafe fn attach_cond(memory: *mut u8) -> Outcome<Cond> {
        // SAFETY: passed on.
        Ok(Cond::attach(unsafe { Area::at(at(memory)) }?)?)
    }
    fn wait(&self, cond: &Cond, timeout_ns: i64) -> Outcome<bool> {
        let (waited, locked) = cond.wait(self, Timeout::from_nanos(timeout_ns))?;
        if locked == Locked::OwnerDied {
            return Ok(true);
        }
        waited?;
        Ok(false)
    }
    fn signal(cond: &Cond) {
        cond.signal();
    }
    fn broadcast(cond: &Cond) {
        cond.broadcast();
    }
    fn unlink_cond(name: &str) -> Outcome<()> {
        Ok(Cond::unlink(name.as_bytes())?)
    }
}

/// A handle of the C face; closed when dropped, with errno left alone.
#[derive(Debug)]
pub struct CMutex(pub *mut mdg_mutex);
#[derive(Debug)]
pub struct CCond(pub *mut mdg_cond);

// SAFETY: the header says that any thread may use it.
unsafe impl Send for CMutex {}
// SAFETY: as above.
unsafe impl Sync for CMutex {}
// SAFETY: as above.
unsafe impl Send for CCond {}
// SAFETY: as above.
unsafe impl Sync for CCond {}

impl Drop for CMutex {
    fn drop(&mut self) {
        Errno::set_raw(77);
        // SAFETY: a live handle that nobody uses any more.
        unsafe { mdg_mutex_close(self.0) };
        assert_eq!(Errno::last_raw(), 77, "close leaves errno alone");
    }
}

impl Drop for CCond {
    fn drop(&mut self) {
        Errno::set_raw(77);
        // SAFETY: a live handle that nobody uses any more.
        unsafe { mdg_cond_close(self.0) };
        assert_eq!(Errno::last_raw(), 77, "close leaves errno alone");
    }
}

#[track_caller]
fn made<T>(call: impl FnOnce(*mut *mut T) -> c_int) -> Outcome<*mut T> {
    let mut handle = ptr::null_mut();
    let result = done(|| call(&raw mut handle));
    assert_eq!(result.is_err(), handle.is_null(), "an output is written only on success");
    result.map(|()| handle)
}

/// -EOWNERDEAD with the mutex held.
fn told(outcome: Outcome<()>) -> Outcome<bool> {
    match outcome {
        Err(failure) if failure.code == libc::EOWNERDEAD => Ok(true),
        other => other.map(|()| false),
    }
}

impl Locks for CMutex {
    type Cond = CCond;
    fn open(name: &str, oflag: c_int, mode: u32) -> Outcome<Self> {
        let name = c_string(name);
        // SAFETY: `out` is writable, the name a C string.
        made(|out| unsafe { mdg_mutex_open(out, name.as_ptr(), oflag, mode) }).map(Self)
    }
    unsafe fn init(memory: *mut u8) -> Outcome<Self> {
        // SAFETY: the caller's promise.
        made(|out| unsafe { mdg_mutex_init(out, memory.cast()) }).map(Self)
    }
    unsafe fn attach(memory: *mut u8) -> Outcome<Self> {
        // SAFETY: the caller's promise.
        made(|out| unsafe { mdg_mutex_attach(out, memory.cast()) }).map(Self)
    }
    fn lock(&self, timeout_ns: i64) -> Outcome<bool> {
        // SAFETY: a live handle.
        told(done(|| unsafe { mdg_mutex_lock(self.0, timeout_ns) }))
    }
    fn unlock(&self) -> Outcome<()> {
        // SAFETY: a live handle.
        done(|| unsafe { mdg_mutex_unlock(self.0) })
    }
    fn consistent(&self) -> Outcome<()> {
        // SAFETY: a live handle.
        done(|| unsafe { mdg_mutex_consistent(self.0) })
    }
    fn unlink(name: &str) -> Outcome<()> {
        let name = c_string(name);
        // SAFETY: a C string.
        done(|| unsafe { mdg_mutex_unlink(name.as_ptr()) })
    }
    fn open_cond(name: &str, oflag: c_int, mode: u32) -> Outcome<CCond> {
        let name = c_string(name);
        // SAFETY: `out` is writable, the name a C string.
        made(|out| unsafe { mdg_cond_open(out, name.as_ptr(), oflag, mode) }).map(CCond)
    }
    unsafe fn init_cond(memory: *mut u8) -> Outcome<CCond> {
        // SAFETY: the caller's promise.
        made(|out| unsafe { mdg_cond_init(out, memory.cast()) }).map(CCond)
    }
    unsafe fn attach_cond(memory: *mut u8) -> Outcome<CCond> {
        // SAFETY: the caller's promise.
        made(|out| unsafe { mdg_cond_attach(out, memory.cast()) }).map(CCond)
    }
    fn wait(&self, cond: &CCond, timeout_ns: i64) -> Outcome<bool> {
        // SAFETY: live handles.
        told(done(|| unsafe { mdg_cond_wait(cond.0, self.0, timeout_ns) }))
    }
    fn signal(cond: &CCond) {
        // SAFETY: a live handle.
        done(|| unsafe { mdg_cond_signal(cond.0) }).unwrap();
    }
    fn broadcast(cond: &CCond) {
        // SAFETY: a live handle.
        done(|| unsafe { mdg_cond_broadcast(cond.0) }).unwrap();
    }
    fn unlink_cond(name: &str) -> Outcome<()> {
        let name = c_string(name);
        // SAFETY: a C string.
        done(|| unsafe { mdg_cond_unlink(name.as_ptr()) })
    }
}

pub const NEW: i32 = O_CREAT | O_EXCL;

pub const SECOND: i64 = 1_000_000_000;

pub const LONG: i64 = 60 * SECOND;

/// A new mutex and condition variable, and their name, which is taken away again.
pub struct Named(pub String);

impl Named {
    pub fn new<M: Locks>() -> (Self, M, M::Cond) {
        let name = unique("mutex");
        let mutex = M::open(&name, NEW, 0o600).unwrap();
        let cond = M::open_cond(&name, NEW, 0o600).unwrap();
        (Self(name), mutex, cond)
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = Mutex::unlink(self.0.as_bytes());
        let _ = madang::mutex::Cond::unlink(self.0.as_bytes());
    }
}

/// Shared numbers of a test's processes.
pub struct Numbers(Shm);

impl Numbers {
    pub fn new() -> Self {
        Self(Shm::anonymous(4096, false).unwrap())
    }

    pub fn at(&self, index: usize) -> &AtomicU32 {
        assert!(index < 1024);
        // SAFETY: inside the segment, which lives as long as the borrow; aligned; atomics only.
        unsafe { &*self.0.as_ptr().as_ptr().cast::<AtomicU32>().add(index) }
    }
}

/// A child that holds the mutex until it is killed.
pub fn holder<M: Locks>(name: &str) -> Child {
    let holds = Gate::new();
    let child = fork(|| {
        let mutex = M::open(name, 0, 0).unwrap();
        let _ = mutex.lock(LONG).unwrap();
        holds.open();
        loop {
            nix::unistd::pause();
        }
    });
    holds.pass();
    child
}
