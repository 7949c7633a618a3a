//! One body, two faces: the Rust types and the C entry points behind the same small traits.
#![allow(dead_code)]

use std::ffi::{CStr, CString, c_int, c_void};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::ptr::{self, NonNull};

use madang::ffi::base::mdg_last_error;
use madang::ffi::sem::*;
use madang::ffi::shm::*;
use madang::sem::Semaphore;
use madang::shm::{Place, Seals, Shm};
use madang::{Access, Creation, OpenFlags, Timeout};
use nix::errno::Errno;

/// What a call refused with: a positive errno and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub code: c_int,
    pub text: String,
}

pub type Outcome<T> = Result<T, Failure>;

/// The code of a call that must have failed.
#[track_caller]
pub fn refused<T>(outcome: Outcome<T>) -> Errno {
    match outcome {
        Ok(_) => panic!("succeeded where it must not"),
        Err(failure) => Errno::from_raw(failure.code),
    }
}

impl From<madang::Error> for Failure {
    fn from(error: madang::Error) -> Self {
        Self { code: error.errno(), text: error.text().to_owned() }
    }
}

/// This thread's `mdg_last_error`.
pub fn last_error() -> String {
    // SAFETY: never NULL, NUL-terminated, and copied before this thread's next failing call.
    unsafe { CStr::from_ptr(mdg_last_error()) }.to_string_lossy().into_owned()
}

/// Makes a C call and holds it to the rules for results: errno, `mdg_last_error`.
#[track_caller]
pub fn answer(call: impl FnOnce() -> c_int) -> Outcome<c_int> {
    const UNTOUCHED: c_int = 4095;
    let before = last_error();
    Errno::set_raw(UNTOUCHED);
    let result = call();
    let errno = Errno::last_raw();
    if result >= 0 {
        assert_eq!(errno, UNTOUCHED, "success leaves errno alone");
        return Ok(result);
    }
    assert_eq!(errno, -result, "errno is the code");
    let text = last_error();
    if [libc::EAGAIN, libc::ETIMEDOUT, libc::EINTR].contains(&errno) {
        assert_eq!(text, before, "an expected answer leaves the last error alone");
        return Err(Failure { code: errno, text: String::new() });
    }
    assert!(!text.is_empty());
    Err(Failure { code: errno, text })
}

fn c_string(text: &[u8]) -> CString {
    CString::new(text).unwrap()
}

fn open_flags(oflag: c_int) -> OpenFlags {
    let access = match oflag & libc::O_ACCMODE {
        libc::O_RDONLY => Access::ReadOnly,
        libc::O_WRONLY => Access::WriteOnly,
        _ => Access::ReadWrite,
    };
    let creation = match (oflag & libc::O_CREAT != 0, oflag & libc::O_EXCL != 0) {
        (false, _) => Creation::OpenOnly,
        (true, false) => Creation::CreateOrOpen,
        (true, true) => Creation::CreateNew,
    };
    OpenFlags::new(access, creation)
}

/// `mdg_shm`, in Rust and in C.
pub trait Segment: Sized {
    fn open(name: &[u8], size: usize, oflag: c_int, mode: u32) -> Outcome<Self>;
    fn anonymous(size: usize, inherit: bool) -> Outcome<Self>;
    fn from_fd(fd: RawFd, oflag: c_int) -> Outcome<Self>;
    fn map_file(path: &Path, size: usize, oflag: c_int, mode: u32) -> Outcome<Self>;
    fn addr(&self) -> *mut u8;
    fn size(&self) -> usize;
    fn fd(&self) -> RawFd;
    fn resize(&mut self, size: usize) -> Outcome<()>;
    fn sync(&self) -> Outcome<()>;
    fn unlink(name: &[u8]) -> Outcome<()>;

    fn put(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.size());
        // SAFETY: inside the mapping; a raw copy, as others may write at the same time.
        unsafe { self.addr().add(at).copy_from(bytes.as_ptr(), bytes.len()) }
    }

    fn get(&self, at: usize, len: usize) -> Vec<u8> {
        assert!(at + len <= self.size());
        let mut bytes = vec![0; len];
        // SAFETY: inside the mapping; a raw copy, as others may write at the same time.
        unsafe { self.addr().add(at).copy_to(bytes.as_mut_ptr(), len) };
        bytes
    }

    /// The object's size as the kernel has it.
    fn object_size(&self) -> i64 {
        // SAFETY: the segment's own descriptor, open as long as it lives.
        nix::sys::stat::fstat(unsafe { BorrowedFd::borrow_raw(self.fd()) }).unwrap().st_size
    }
}

impl Segment for Shm {
    fn open(name: &[u8], size: usize, oflag: c_int, mode: u32) -> Outcome<Self> {
        Ok(Shm::open(name, size, open_flags(oflag), mode)?)
    }
    fn anonymous(size: usize, inherit: bool) -> Outcome<Self> {
        Ok(Shm::anonymous(size, inherit)?)
    }
    fn from_fd(fd: RawFd, oflag: c_int) -> Outcome<Self> {
        let seals = if oflag & MDG_SEALED != 0 { Seals::Required } else { Seals::Unchecked };
        // SAFETY: not -1 in the tests; the kernel says EBADF if it is not open.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        Ok(Shm::from_fd(fd, open_flags(oflag).access, seals)?)
    }
    fn map_file(path: &Path, size: usize, oflag: c_int, mode: u32) -> Outcome<Self> {
        let path = c_string(path.as_os_str().as_encoded_bytes());
        Ok(Shm::map_file(&path, size, open_flags(oflag), mode)?)
    }
    fn addr(&self) -> *mut u8 {
        self.as_ptr().as_ptr()
    }
    fn size(&self) -> usize {
        Shm::size(self)
    }
    fn fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
    fn resize(&mut self, size: usize) -> Outcome<()> {
        Ok(Shm::resize(self, size)?)
    }
    fn sync(&self) -> Outcome<()> {
        Ok(Shm::sync(self)?)
    }
    fn unlink(name: &[u8]) -> Outcome<()> {
        Ok(Shm::unlink(name)?)
    }
}

/// A handle of the C face; closed when dropped, with errno left alone.
#[derive(Debug)]
pub struct CShm(pub *mut mdg_shm);

// SAFETY: the header says that any thread may use it.
unsafe impl Send for CShm {}
// SAFETY: as above.
unsafe impl Sync for CShm {}

impl Drop for CShm {
    fn drop(&mut self) {
        Errno::set_raw(77);
        // SAFETY: a live handle that nobody uses any more.
        unsafe { mdg_shm_close(self.0) };
        assert_eq!(Errno::last_raw(), 77, "close leaves errno alone");
    }
}

impl CShm {
    #[track_caller]
    fn made(call: impl FnOnce(*mut *mut mdg_shm) -> c_int) -> Outcome<Self> {
        let untouched = NonNull::<mdg_shm>::dangling().as_ptr();
        let mut shm = untouched;
        let result = answer(|| call(&raw mut shm));
        assert_eq!(result.is_err(), shm == untouched, "an output is written only on success");
        result.map(|zero| {
            assert_eq!(zero, 0);
            Self(shm)
        })
    }
}

impl Segment for CShm {
    fn open(name: &[u8], size: usize, oflag: c_int, mode: u32) -> Outcome<Self> {
        let name = c_string(name);
        // SAFETY: `out` is writable, the name a C string.
        Self::made(|out| unsafe { mdg_shm_open(out, name.as_ptr(), size, oflag, mode) })
    }
    fn anonymous(size: usize, inherit: bool) -> Outcome<Self> {
        // SAFETY: `out` is writable.
        Self::made(|out| unsafe { mdg_shm_anonymous(out, size, inherit.into()) })
    }
    fn from_fd(fd: RawFd, oflag: c_int) -> Outcome<Self> {
        // SAFETY: `out` is writable.
        Self::made(|out| unsafe { mdg_shm_from_fd(out, fd, oflag) })
    }
    fn map_file(path: &Path, size: usize, oflag: c_int, mode: u32) -> Outcome<Self> {
        let path = c_string(path.as_os_str().as_encoded_bytes());
        // SAFETY: `out` is writable, the path a C string.
        Self::made(|out| unsafe { mdg_shm_map_file(out, path.as_ptr(), size, oflag, mode) })
    }
    fn addr(&self) -> *mut u8 {
        // SAFETY: a live handle.
        unsafe { mdg_shm_addr(self.0) }.cast()
    }
    fn size(&self) -> usize {
        // SAFETY: a live handle.
        unsafe { mdg_shm_size(self.0) }
    }
    fn fd(&self) -> RawFd {
        // SAFETY: a live handle.
        answer(|| unsafe { mdg_shm_fd(self.0) }).unwrap()
    }
    fn resize(&mut self, size: usize) -> Outcome<()> {
        // SAFETY: a live handle, used by this thread alone.
        answer(|| unsafe { mdg_shm_resize(self.0, size) }).map(|zero| assert_eq!(zero, 0))
    }
    fn sync(&self) -> Outcome<()> {
        // SAFETY: a live handle.
        answer(|| unsafe { mdg_shm_sync(self.0) }).map(|zero| assert_eq!(zero, 0))
    }
    fn unlink(name: &[u8]) -> Outcome<()> {
        let name = c_string(name);
        // SAFETY: a C string.
        answer(|| unsafe { mdg_shm_unlink(name.as_ptr()) }).map(|zero| assert_eq!(zero, 0))
    }
}

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
        let result = answer(|| call(&raw mut sem));
        assert_eq!(result.is_err(), sem.is_null(), "an output is written only on success");
        result.map(|zero| {
            assert_eq!(zero, 0);
            Self(sem)
        })
    }
}

impl Permits for CSem {
    fn open(name: &[u8], value: u32, oflag: c_int, mode: u32) -> Outcome<Self> {
        let (name, size) = (c_string(name), size_of::<mdg_sem_opts>());
        let opts = mdg_sem_opts { size, value, kind: MDG_SEM_POSIX };
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
        answer(|| unsafe { mdg_sem_wait(self.0, timeout_ns) }).map(|zero| assert_eq!(zero, 0))
    }
    fn post(&self) -> Outcome<()> {
        // SAFETY: a live handle.
        answer(|| unsafe { mdg_sem_post(self.0) }).map(|zero| assert_eq!(zero, 0))
    }
    fn value(&self) -> u32 {
        // SAFETY: a live handle.
        answer(|| unsafe { mdg_sem_value(self.0) }).unwrap() as u32
    }
    fn unlink(name: &[u8]) -> Outcome<()> {
        let name = c_string(name);
        // SAFETY: a C string.
        answer(|| unsafe { mdg_sem_unlink(name.as_ptr()) }).map(|zero| assert_eq!(zero, 0))
    }
}

/// Each generic test, once for the Rust type and once for the C entry points.
#[macro_export]
macro_rules! on_both_faces {
    ($rust:ident, $c:ident: $($test:ident)*) => {
        mod rust_face { $( #[test] fn $test() { super::$test::<super::$rust>() } )* }
        mod c_face { $( #[test] fn $test() { super::$test::<super::$c>() } )* }
    };
}
