//! One test body, two faces: the Rust API and the C ABI, behind one trait.
#![allow(dead_code)]

use std::ffi::{CString, c_int};
use std::ptr;

use madang::ffi::ring::*;
use madang::ring::{Options, Ring, Stats};
use madang::{Access, Creation, OpenFlags, Timeout};

pub const FOREVER: i64 = -1;
pub const NOWAIT: i64 = 0;
pub const SECOND: i64 = 1_000_000_000;

pub const CREATE: c_int = libc::O_RDWR | libc::O_CREAT;

/// A failure: the positive errno and the words.
#[derive(Debug, PartialEq, Eq)]
pub struct Failure(pub i32, pub String);

pub type Outcome<T> = Result<T, Failure>;

/// What both faces can do. Names are C's.
pub trait Face: Sized {
    fn open(name: Option<&str>, options: &Options, oflag: c_int, mode: u32) -> Outcome<Self>;
    fn dup(&self, oflag: c_int) -> Outcome<Self>;
    fn push(&self, item: &[u8], timeout: i64) -> Outcome<()>;
    fn pop(&self, item: &mut [u8], timeout: i64) -> Outcome<()>;
    fn push_many(&self, items: &[u8], size: usize, timeout: i64) -> Outcome<usize>;
    fn pop_many(&self, items: &mut [u8], size: usize, timeout: i64) -> Outcome<usize>;
    fn reserve(&self, count: usize, timeout: i64) -> Outcome<(*mut u8, usize)>;
    fn commit(&self, count: usize) -> Outcome<()>;
    fn peek(&self, count: usize, timeout: i64) -> Outcome<(*const u8, usize)>;
    fn release(&self, count: usize) -> Outcome<()>;
    fn shutdown(&self) -> Outcome<()>;
    fn stat(&self) -> mdg_ring_stats;
    fn unlink(name: &str) -> Outcome<()>;
}

fn failure(error: madang::Error) -> Failure {
    Failure(error.errno(), error.text().to_owned())
}

impl Face for Ring {
    fn open(name: Option<&str>, options: &Options, oflag: c_int, mode: u32) -> Outcome<Self> {
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
        match name {
            Some(name) => {
                let flags = OpenFlags::new(access, creation);
                Ring::open(name.as_bytes(), options, flags, mode).map_err(failure)
            }
            None => Ring::anonymous(options, access).map_err(failure),
        }
    }
    fn dup(&self, oflag: c_int) -> Outcome<Self> {
        let access = match oflag & libc::O_ACCMODE {
            libc::O_RDONLY => Access::ReadOnly,
            libc::O_WRONLY => Access::WriteOnly,
            _ => Access::ReadWrite,
        };
        self.duplicate(access).map_err(failure)
    }
    fn push(&self, item: &[u8], timeout: i64) -> Outcome<()> {
        Ring::push(self, item, Timeout::from_nanos(timeout)).map_err(failure)
    }
    fn pop(&self, item: &mut [u8], timeout: i64) -> Outcome<()> {
        Ring::pop(self, item, Timeout::from_nanos(timeout)).map_err(failure)
    }
    fn push_many(&self, items: &[u8], _: usize, timeout: i64) -> Outcome<usize> {
        Ring::push_many(self, items, Timeout::from_nanos(timeout)).map_err(failure)
    }
    fn pop_many(&self, items: &mut [u8], _: usize, timeout: i64) -> Outcome<usize> {
        Ring::pop_many(self, items, Timeout::from_nanos(timeout)).map_err(failure)
    }
    fn reserve(&self, count: usize, timeout: i64) -> Outcome<(*mut u8, usize)> {
        let run = Ring::reserve(self, count, Timeout::from_nanos(timeout)).map_err(failure)?;
        Ok((run.0.as_ptr(), run.1))
    }
    fn commit(&self, count: usize) -> Outcome<()> {
        Ring::commit(self, count).map_err(failure)
    }
    fn peek(&self, count: usize, timeout: i64) -> Outcome<(*const u8, usize)> {
        let run = Ring::peek(self, count, Timeout::from_nanos(timeout)).map_err(failure)?;
        Ok((run.0.as_ptr(), run.1))
    }
    fn release(&self, count: usize) -> Outcome<()> {
        Ring::release(self, count).map_err(failure)
    }
    fn shutdown(&self) -> Outcome<()> {
        Ring::shutdown(self);
        Ok(())
    }
    fn stat(&self) -> mdg_ring_stats {
        let Stats { capacity, item_size, length, written, read, dropped, recovered, .. } =
            Ring::stat(self);
        let stats = Ring::stat(self);
        mdg_ring_stats {
            size: size_of::<mdg_ring_stats>(),
            capacity,
            item_size,
            kind: MDG_RING_SPSC,
            length,
            written,
            read,
            dropped,
            recovered,
            push_waits: stats.push_waits,
            pop_waits: stats.pop_waits,
            producer_pid: stats.producer_pid,
            consumer_pid: stats.consumer_pid,
            producer_state: stats.producer as u32,
            consumer_state: stats.consumer as u32,
            max_handles: stats.max_handles,
            flags: u32::from(stats.shutdown)
                | u32::from(stats.corrupt) << 1
                | u32::from(stats.unlinked) << 2,
        }
    }
    fn unlink(name: &str) -> Outcome<()> {
        Ring::unlink(name.as_bytes()).map_err(failure)
    }
}

/// The C face.
#[derive(Debug)]
pub struct C(pub *mut mdg_ring);

// SAFETY: as for Ring itself: a handle may move between threads.
unsafe impl Send for C {}

/// What C's return value and errno say together.
pub fn outcome(result: isize) -> Outcome<usize> {
    if let Ok(count) = usize::try_from(result) {
        return Ok(count);
    }
    let errno = i32::try_from(-result).unwrap();
    assert_eq!(nix::errno::Errno::last_raw(), errno, "errno is set to the same code");
    let expected = matches!(errno, libc::EAGAIN | libc::ETIMEDOUT | libc::EINTR);
    // SAFETY: mdg_last_error returns a C string that lives until this thread's next failure.
    let words = unsafe { std::ffi::CStr::from_ptr(madang::ffi::base::mdg_last_error()) };
    let text = if expected { String::new() } else { words.to_str().unwrap().to_owned() };
    Err(Failure(errno, text))
}

fn done(result: c_int) -> Outcome<()> {
    outcome(result as isize).map(drop)
}

/// The C options of a Rust options value.
pub fn c_options(options: &Options) -> mdg_ring_opts {
    mdg_ring_opts {
        size: size_of::<mdg_ring_opts>(),
        capacity: options.capacity,
        item_size: options.item_size,
        kind: options.kind.map_or(0, |_| MDG_RING_SPSC),
        max_handles: options.max_handles,
        policy: options.policy,
    }
}

// SAFETY (of every block below): handles come from mdg_ring_open, buffers from slices of the sizes
// that the calls are told.
impl Face for C {
    fn open(name: Option<&str>, options: &Options, oflag: c_int, mode: u32) -> Outcome<Self> {
        let name = name.map(|name| CString::new(name).unwrap());
        let name = name.as_ref().map_or(ptr::null(), |name| name.as_ptr());
        let options = c_options(options);
        let mut ring = ptr::null_mut();
        // SAFETY: see above.
        let result = unsafe { mdg_ring_open(&raw mut ring, name, &raw const options, oflag, mode) };
        done(result).inspect_err(|_| assert!(ring.is_null(), "nothing is stored on failure"))?;
        Ok(Self(ring))
    }
    fn dup(&self, oflag: c_int) -> Outcome<Self> {
        let mut ring = ptr::null_mut();
        // SAFETY: see above.
        done(unsafe { mdg_ring_dup(&raw mut ring, self.0, oflag) })?;
        Ok(Self(ring))
    }
    fn push(&self, item: &[u8], timeout: i64) -> Outcome<()> {
        // SAFETY: see above.
        done(unsafe { mdg_ring_push(self.0, item.as_ptr().cast(), timeout) })
    }
    fn pop(&self, item: &mut [u8], timeout: i64) -> Outcome<()> {
        // SAFETY: see above.
        done(unsafe { mdg_ring_pop(self.0, item.as_mut_ptr().cast(), timeout) })
    }
    fn push_many(&self, items: &[u8], size: usize, timeout: i64) -> Outcome<usize> {
        let count = items.len() / size;
        // SAFETY: see above.
        outcome(unsafe { mdg_ring_push_many(self.0, items.as_ptr().cast(), count, timeout) })
    }
    fn pop_many(&self, items: &mut [u8], size: usize, timeout: i64) -> Outcome<usize> {
        let count = items.len() / size;
        // SAFETY: see above.
        outcome(unsafe { mdg_ring_pop_many(self.0, items.as_mut_ptr().cast(), count, timeout) })
    }
    fn reserve(&self, count: usize, timeout: i64) -> Outcome<(*mut u8, usize)> {
        let mut items = ptr::null_mut();
        // SAFETY: see above.
        let run = outcome(unsafe { mdg_ring_reserve(self.0, &raw mut items, count, timeout) })?;
        Ok((items.cast(), run))
    }
    fn commit(&self, count: usize) -> Outcome<()> {
        // SAFETY: see above.
        done(unsafe { mdg_ring_commit(self.0, count) })
    }
    fn peek(&self, count: usize, timeout: i64) -> Outcome<(*const u8, usize)> {
        let mut items = ptr::null();
        // SAFETY: see above.
        let run = outcome(unsafe { mdg_ring_peek(self.0, &raw mut items, count, timeout) })?;
        Ok((items.cast(), run))
    }
    fn release(&self, count: usize) -> Outcome<()> {
        // SAFETY: see above.
        done(unsafe { mdg_ring_release(self.0, count) })
    }
    fn shutdown(&self) -> Outcome<()> {
        // SAFETY: see above.
        done(unsafe { mdg_ring_shutdown(self.0) })
    }
    fn stat(&self) -> mdg_ring_stats {
        let mut stats = mdg_ring_stats { size: size_of::<mdg_ring_stats>(), ..Default::default() };
        // SAFETY: see above.
        done(unsafe { mdg_ring_stat(self.0, &raw mut stats) }).unwrap();
        stats
    }
    fn unlink(name: &str) -> Outcome<()> {
        let name = CString::new(name).unwrap();
        // SAFETY: see above.
        done(unsafe { mdg_ring_unlink(name.as_ptr()) })
    }
}

impl Drop for C {
    fn drop(&mut self) {
        // SAFETY: see above; nobody uses it any more.
        unsafe { mdg_ring_close(self.0) };
    }
}

/// The errno of a call that must have failed, and whose words must hold `words`.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(outcome: Outcome<T>, errno: i32, words: &str) {
    match outcome {
        Err(Failure(found, text)) => {
            assert_eq!(found, errno, "{text}");
            assert!(text.contains(words), "{text:?} does not say {words:?}");
        }
        Ok(value) => panic!("succeeded with {value:?}"),
    }
}

/// A name that goes away with the test, whatever happens to it.
pub struct Named(pub String);

impl Named {
    pub fn new(stem: &str) -> Self {
        Self(super::unique(stem))
    }

    pub fn path(&self) -> String {
        format!("/dev/shm/mdg.ring.{}", &self.0[1..])
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.path());
    }
}

/// Makes two tests, `name::rust` and `name::c`, of one body that is generic over the face.
#[macro_export]
macro_rules! both_faces {
    ($($(#[$doc:meta])* fn $name:ident<$face:ident: Face>() $body:block)*) => { $(
        $(#[$doc])*
        mod $name {
            use super::*;
            fn body<$face: Face + std::fmt::Debug>() $body
            #[test]
            fn rust() {
                let _turn = $crate::support::serial();
                body::<madang::ring::Ring>()
            }
            #[test]
            fn c() {
                let _turn = $crate::support::serial();
                body::<C>()
            }
        }
    )* };
}
