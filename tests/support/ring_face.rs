//! Rings: the Rust type and the C entry points behind one trait.

use std::ffi::c_int;
use std::fmt::Debug;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::ptr;

use madang::Timeout;
use madang::ffi::ring::*;
use madang::ffi::wait::{mdg_wait, mdg_wait_any};
use madang::ring::{Events, Options, Ring, Source, Start, Stats, Wait, wait_any};
use nix::errno::Errno;

use super::face::{Outcome, answer, c_string, done, open_flags};

pub const SECOND: i64 = 1_000_000_000;

pub const CREATE: c_int = libc::O_RDWR | libc::O_CREAT;

/// What both faces can do. Names are C's.
pub trait Face: Sized + Debug {
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
    fn skip(&self, keep: u64) -> Outcome<u64>;
    fn shutdown(&self) -> Outcome<()>;
    fn stat(&self) -> mdg_ring_stats;
    fn lost(&self) -> u64;
    fn fd(&self, events: u32) -> Outcome<RawFd>;
    fn cancel(&self) -> Outcome<()>;
    fn wait_any(entries: &mut [Entry<'_, Self>], timeout: i64) -> Outcome<usize>;
    fn unlink(name: &str) -> Outcome<()>;
    fn abandon(self);
}

/// One entry of `wait_any`; without a ring, a descriptor.
#[derive(Debug)]
pub struct Entry<'a, F> {
    pub ring: Option<&'a F>,
    pub fd: RawFd,
    pub events: u32,
    pub ready: u32,
}

impl<F> Copy for Entry<'_, F> {}

impl<F> Clone for Entry<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<'a, F> Entry<'a, F> {
    pub fn ring(ring: &'a F, events: u32) -> Self {
        Self { ring: Some(ring), fd: -1, events, ready: u32::MAX }
    }

    pub fn fd(fd: RawFd, events: u32) -> Self {
        Self { ring: None, fd, events, ready: u32::MAX }
    }
}

impl Face for Ring {
    fn open(name: Option<&str>, options: &Options, oflag: c_int, mode: u32) -> Outcome<Self> {
        let flags = open_flags(oflag);
        match name {
            Some(name) => Ok(Ring::open(name.as_bytes(), options, flags, mode)?),
            None => Ok(Ring::anonymous(options, flags.access)?),
        }
    }
    fn dup(&self, oflag: c_int) -> Outcome<Self> {
        Ok(self.duplicate(open_flags(oflag).access)?)
    }
    fn push(&self, item: &[u8], timeout: i64) -> Outcome<()> {
        Ok(Ring::push(self, item, Timeout::from_nanos(timeout))?)
    }
    fn pop(&self, item: &mut [u8], timeout: i64) -> Outcome<()> {
        Ok(Ring::pop(self, item, Timeout::from_nanos(timeout))?)
    }
    fn push_many(&self, items: &[u8], _: usize, timeout: i64) -> Outcome<usize> {
        Ok(Ring::push_many(self, items, Timeout::from_nanos(timeout))?)
    }
    fn pop_many(&self, items: &mut [u8], _: usize, timeout: i64) -> Outcome<usize> {
        Ok(Ring::pop_many(self, items, Timeout::from_nanos(timeout))?)
    }
    fn reserve(&self, count: usize, timeout: i64) -> Outcome<(*mut u8, usize)> {
        let run = Ring::reserve(self, count, Timeout::from_nanos(timeout))?;
        Ok((run.0.as_ptr(), run.1))
    }
    fn commit(&self, count: usize) -> Outcome<()> {
        Ok(Ring::commit(self, count)?)
    }
    fn peek(&self, count: usize, timeout: i64) -> Outcome<(*const u8, usize)> {
        let run = Ring::peek(self, count, Timeout::from_nanos(timeout))?;
        Ok((run.0.as_ptr(), run.1))
    }
    fn release(&self, count: usize) -> Outcome<()> {
        Ok(Ring::release(self, count)?)
    }
    fn skip(&self, keep: u64) -> Outcome<u64> {
        Ok(Ring::skip(self, keep)?)
    }
    fn shutdown(&self) -> Outcome<()> {
        Ok(Ring::shutdown(self)?)
    }
    fn lost(&self) -> u64 {
        Ring::lost(self)
    }
    fn stat(&self) -> mdg_ring_stats {
        let Stats { capacity, item_size, length, written, read, dropped, recovered, .. } =
            Ring::stat(self);
        let stats = Ring::stat(self);
        mdg_ring_stats {
            size: size_of::<mdg_ring_stats>(),
            capacity,
            item_size,
            kind: stats.kind as u32,
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
            lost: stats.lost,
            pending: stats.pending,
            policy: stats.policy,
            reserved: 0,
            redelivered: stats.redelivered,
            producers: stats.producers,
            consumers: stats.consumers,
            notify_failures: stats.notify_failures,
        }
    }
    fn fd(&self, events: u32) -> Outcome<RawFd> {
        Ok(self.poll_fd(Events(events))?.as_raw_fd())
    }
    fn cancel(&self) -> Outcome<()> {
        self.canceller().cancel();
        Ok(())
    }
    fn wait_any(entries: &mut [Entry<'_, Self>], timeout: i64) -> Outcome<usize> {
        let wait = |entry: &Entry<'_, Self>| {
            let source = match entry.ring {
                // SAFETY: the entries outlive the call.
                Some(ring) => Source::Ring(unsafe { &*ptr::from_ref(ring) }),
                None if entry.fd < 0 => Source::Nothing,
                // SAFETY: the test's own descriptor, or one that is to be refused.
                None => Source::Fd(unsafe { BorrowedFd::borrow_raw(entry.fd) }),
            };
            Wait { source, events: Events(entry.events), ready: Events::NONE }
        };
        let mut waits: Vec<_> = entries.iter().map(wait).collect();
        let count = wait_any(&mut waits, Timeout::from_nanos(timeout))?;
        for (entry, wait) in entries.iter_mut().zip(waits) {
            entry.ready = wait.ready.0;
        }
        Ok(count)
    }
    fn unlink(name: &str) -> Outcome<()> {
        Ok(Ring::unlink(name.as_bytes())?)
    }
    fn abandon(self) {
        Ring::abandon(self);
    }
}

/// The C face.
#[derive(Debug)]
pub struct C(pub *mut mdg_ring);

// SAFETY: as for Ring itself: a handle may move between threads.
unsafe impl Send for C {}

/// The C options of a Rust options value.
pub fn c_options(options: &Options) -> mdg_ring_opts {
    mdg_ring_opts {
        size: size_of::<mdg_ring_opts>(),
        capacity: options.capacity,
        item_size: options.item_size,
        kind: options.kind.map_or(0, |kind| kind as u32),
        max_handles: options.max_handles,
        policy: options.policy,
        flags: match options.start {
            Start::Now => 0,
            Start::Oldest => MDG_RING_OLDEST,
            Start::Latest => MDG_RING_LATEST,
        },
        item_align: options.item_align,
    }
}

impl C {
    #[track_caller]
    fn made(call: impl FnOnce(*mut *mut mdg_ring) -> c_int) -> Outcome<Self> {
        let mut ring = ptr::null_mut();
        let result = done(|| call(&raw mut ring));
        assert_eq!(result.is_err(), ring.is_null(), "an output is written only on success");
        result.map(|()| Self(ring))
    }
}

impl Face for C {
    fn open(name: Option<&str>, options: &Options, oflag: c_int, mode: u32) -> Outcome<Self> {
        let name = name.map(c_string);
        let name = name.as_ref().map_or(ptr::null(), |name| name.as_ptr());
        let options = c_options(options);
        // SAFETY: `out` is writable, the name a C string or NULL, the options have their size.
        Self::made(|out| unsafe { mdg_ring_open(out, name, &raw const options, oflag, mode) })
    }
    fn dup(&self, oflag: c_int) -> Outcome<Self> {
        // SAFETY: a live handle, and `out` is writable.
        Self::made(|out| unsafe { mdg_ring_dup(out, self.0, oflag) })
    }
    fn push(&self, item: &[u8], timeout: i64) -> Outcome<()> {
        // SAFETY: a live handle, and a slice of whole items, as the caller promises.
        done(|| unsafe { mdg_ring_push(self.0, item.as_ptr().cast(), timeout) })
    }
    fn pop(&self, item: &mut [u8], timeout: i64) -> Outcome<()> {
        // SAFETY: a live handle, and a slice of whole items, as the caller promises.
        done(|| unsafe { mdg_ring_pop(self.0, item.as_mut_ptr().cast(), timeout) })
    }
    fn push_many(&self, items: &[u8], size: usize, timeout: i64) -> Outcome<usize> {
        let count = items.len() / size;
        // SAFETY: a live handle, and a slice of whole items, as the caller promises.
        answer(|| unsafe { mdg_ring_push_many(self.0, items.as_ptr().cast(), count, timeout) })
    }
    fn pop_many(&self, items: &mut [u8], size: usize, timeout: i64) -> Outcome<usize> {
        let count = items.len() / size;
        // SAFETY: a live handle, and a slice of whole items, as the caller promises.
        answer(|| unsafe { mdg_ring_pop_many(self.0, items.as_mut_ptr().cast(), count, timeout) })
    }
    fn reserve(&self, count: usize, timeout: i64) -> Outcome<(*mut u8, usize)> {
        let mut items = ptr::null_mut();
        // SAFETY: a live handle, and `items` is writable.
        let run = answer(|| unsafe { mdg_ring_reserve(self.0, &raw mut items, count, timeout) })?;
        Ok((items.cast(), run))
    }
    fn commit(&self, count: usize) -> Outcome<()> {
        // SAFETY: a live handle.
        done(|| unsafe { mdg_ring_commit(self.0, count) })
    }
    fn peek(&self, count: usize, timeout: i64) -> Outcome<(*const u8, usize)> {
        let mut items = ptr::null();
        // SAFETY: a live handle, and `items` is writable.
        let run = answer(|| unsafe { mdg_ring_peek(self.0, &raw mut items, count, timeout) })?;
        Ok((items.cast(), run))
    }
    fn release(&self, count: usize) -> Outcome<()> {
        // SAFETY: a live handle.
        done(|| unsafe { mdg_ring_release(self.0, count) })
    }
    fn skip(&self, keep: u64) -> Outcome<u64> {
        // SAFETY: a live handle.
        answer(|| unsafe { mdg_ring_skip(self.0, keep) } as isize).map(|count| count as u64)
    }
    fn shutdown(&self) -> Outcome<()> {
        // SAFETY: a live handle.
        done(|| unsafe { mdg_ring_shutdown(self.0) })
    }
    fn stat(&self) -> mdg_ring_stats {
        let mut stats = mdg_ring_stats { size: size_of::<mdg_ring_stats>(), ..Default::default() };
        // SAFETY: a live handle, and `stats` is as large as it says.
        done(|| unsafe { mdg_ring_stat(self.0, &raw mut stats) }).unwrap();
        stats
    }
    fn lost(&self) -> u64 {
        // SAFETY: a live handle.
        answer(|| unsafe { mdg_ring_lost(self.0) } as isize).unwrap() as u64
    }
    fn fd(&self, events: u32) -> Outcome<RawFd> {
        // SAFETY: a live handle.
        answer(|| unsafe { mdg_ring_fd(self.0, events) }).map(|fd| fd as RawFd)
    }
    fn cancel(&self) -> Outcome<()> {
        // SAFETY: a live handle.
        done(|| unsafe { mdg_ring_cancel(self.0) })
    }
    fn wait_any(entries: &mut [Entry<'_, Self>], timeout: i64) -> Outcome<usize> {
        let wait = |entry: &Entry<'_, Self>| mdg_wait {
            ring: entry.ring.map_or(ptr::null_mut(), |ring| ring.0),
            fd: entry.fd,
            events: entry.events,
            ready: entry.ready,
            reserved: 0,
        };
        let mut waits: Vec<_> = entries.iter().map(wait).collect();
        let (first, count) = (waits.as_mut_ptr(), waits.len());
        // SAFETY: `count` entries with live handles.
        let outcome = answer(|| unsafe { mdg_wait_any(first, count, timeout) });
        for (entry, wait) in entries.iter_mut().zip(waits) {
            entry.ready = wait.ready;
        }
        outcome
    }
    fn unlink(name: &str) -> Outcome<()> {
        let name = c_string(name);
        // SAFETY: a C string.
        done(|| unsafe { mdg_ring_unlink(name.as_ptr()) })
    }
    fn abandon(self) {
        Errno::set_raw(77);
        // SAFETY: a live handle that nobody uses any more.
        unsafe { mdg_ring_abandon(self.0) };
        assert_eq!(Errno::last_raw(), 77, "abandon leaves errno alone");
        std::mem::forget(self);
    }
}

impl Drop for C {
    fn drop(&mut self) {
        Errno::set_raw(77);
        // SAFETY: a live handle that nobody uses any more.
        unsafe { mdg_ring_close(self.0) };
        assert_eq!(Errno::last_raw(), 77, "close leaves errno alone");
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

/// Fills `item` with the bytes that item number `index` must have: its index, repeated, with the
/// position mixed in.
pub fn pattern(index: u64, item: &mut [u8]) {
    let mut state = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for chunk in item.chunks_mut(8) {
        state = state.rotate_left(23) ^ index;
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
}
