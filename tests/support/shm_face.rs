//! Segments: the Rust type and the C entry points behind one trait.

use std::ffi::c_int;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::path::Path;
use std::ptr::NonNull;

use madang::ffi::shm::*;
use madang::shm::{Seals, Shm};
use nix::errno::Errno;

use super::face::{Outcome, answer, c_string, done, open_flags};

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
        let result = done(|| call(&raw mut shm));
        assert_eq!(result.is_err(), shm == untouched, "an output is written only on success");
        result.map(|()| Self(shm))
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
        answer(|| unsafe { mdg_shm_fd(self.0) }).unwrap() as RawFd
    }
    fn resize(&mut self, size: usize) -> Outcome<()> {
        // SAFETY: a live handle, used by this thread alone.
        done(|| unsafe { mdg_shm_resize(self.0, size) })
    }
    fn sync(&self) -> Outcome<()> {
        // SAFETY: a live handle.
        done(|| unsafe { mdg_shm_sync(self.0) })
    }
    fn unlink(name: &[u8]) -> Outcome<()> {
        let name = c_string(name);
        // SAFETY: a C string.
        done(|| unsafe { mdg_shm_unlink(name.as_ptr()) })
    }
}
