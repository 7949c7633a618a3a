//! A ring by the C functions of the release library: its shape, its items, of which each byte can be
//! told, and the sums of its statistics.

use std::ffi::c_int;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::time::{Duration, Instant};

use madang::ffi::ring::*;

use super::step::Release;

/// Handles that each ring of these tests takes.
pub const HANDLES: u32 = 4;

/// How long the dead may be in the way of calls that do not wait: "a few milliseconds of polling",
/// and what a busy machine adds.
const BOUND: Duration = Duration::from_secs(2);

/// A ring's geometry and kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub kind: u32,
    pub policy: u32,
    pub capacity: u64,
    pub size: usize,
}

impl Shape {
    pub fn is_broadcast(&self) -> bool {
        self.kind == MDG_RING_BROADCAST
    }

    pub fn overwrites(&self) -> bool {
        self.policy & MDG_RING_OVERWRITE != 0
    }

    /// Whether items that a dead consumer was not done with come again, out of their order.
    pub fn redelivers(&self) -> bool {
        self.policy & MDG_RING_REDELIVER != 0
    }

    /// Whether a push into a full ring succeeds.
    pub fn is_never_full(&self) -> bool {
        self.overwrites() || self.policy & MDG_RING_EVICT != 0
    }

    pub fn options(&self) -> mdg_ring_opts {
        mdg_ring_opts {
            size: size_of::<mdg_ring_opts>(),
            capacity: self.capacity,
            item_size: self.size as u32,
            kind: self.kind,
            max_handles: HANDLES,
            policy: self.policy,
            flags: 0,
            item_align: 0,
        }
    }

    /// Item `number`: all of its bytes follow from it.
    pub fn item(&self, number: u64) -> Vec<u8> {
        let mut item = vec![0; self.size];
        super::ring_face::pattern(number, &mut item);
        item[..8].copy_from_slice(&number.to_le_bytes());
        item
    }

    pub fn items(&self, first: u64, count: u64) -> Vec<u8> {
        (first..first + count).flat_map(|number| self.item(number)).collect()
    }

    /// The number of an item, which must be whole.
    #[track_caller]
    pub fn number(&self, item: &[u8]) -> u64 {
        let number = u64::from_le_bytes(item[..8].try_into().unwrap());
        assert_eq!(item, self.item(number), "item {number} is torn");
        number
    }
}

/// The part of `mdg_ring_stats` that adds up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sums {
    pub written: u64,
    pub read: u64,
    pub dropped: u64,
    pub lost: u64,
    pub length: u64,
    pub pending: u64,
    pub recovered: u64,
    pub flags: u32,
}

/// A handle by the release library's C functions.
pub struct Handle {
    pub lib: &'static Release,
    pub ring: *mut mdg_ring,
    pub shape: Shape,
}

impl Handle {
    pub fn new(lib: &'static Release, shape: Shape) -> Self {
        let mut ring = ptr::null_mut();
        let options = shape.options();
        // SAFETY: the handle is writable, the options say their size.
        let made =
            unsafe { (lib.open)(&raw mut ring, ptr::null(), &raw const options, libc::O_RDWR, 0) };
        assert_eq!(made, 0);
        Self { lib, ring, shape }
    }

    /// A ring by its memory; a consumer of a broadcast begins with the oldest.
    pub fn try_open(
        lib: &'static Release,
        shape: Shape,
        memory: &OwnedFd,
        oflag: c_int,
    ) -> Result<Self, c_int> {
        let mut ring = ptr::null_mut();
        let flags = if shape.is_broadcast() { MDG_RING_OLDEST } else { 0 };
        let options = mdg_ring_opts { flags, ..shape.options() };
        // SAFETY: the handle is writable, the options say their size.
        let done =
            unsafe { (lib.from_fd)(&raw mut ring, memory.as_raw_fd(), &raw const options, oflag) };
        if done == 0 { Ok(Self { lib, ring, shape }) } else { Err(done) }
    }

    #[track_caller]
    pub fn open(lib: &'static Release, shape: Shape, memory: &OwnedFd, oflag: c_int) -> Self {
        Self::try_open(lib, shape, memory, oflag).unwrap_or_else(|code| panic!("open: {code}"))
    }

    pub fn memory(&self) -> OwnedFd {
        // SAFETY: a live handle; the descriptor is its own while it is duplicated.
        unsafe {
            let fd = (self.lib.memory)(self.ring);
            std::os::fd::BorrowedFd::borrow_raw(fd).try_clone_to_owned().unwrap()
        }
    }

    pub fn push_for(&self, number: u64, timeout: i64) -> c_int {
        let item = self.shape.item(number);
        // SAFETY: a live handle and an item.
        unsafe { (self.lib.push)(self.ring, item.as_ptr().cast(), timeout) }
    }

    pub fn push(&self, number: u64) -> c_int {
        self.push_for(number, 0)
    }

    pub fn pop_for(&self, timeout: i64) -> Result<u64, c_int> {
        let mut item = vec![0; self.shape.size];
        // SAFETY: a live handle and room for an item.
        let done = unsafe { (self.lib.pop)(self.ring, item.as_mut_ptr().cast(), timeout) };
        if done == 0 { Ok(self.shape.number(&item)) } else { Err(done) }
    }

    pub fn pop(&self) -> Result<u64, c_int> {
        self.pop_for(0)
    }

    pub fn push_many(&self, first: u64, count: u64) -> isize {
        let items = self.shape.items(first, count);
        // SAFETY: a live handle and `count` items.
        unsafe { (self.lib.push_many)(self.ring, items.as_ptr().cast(), count as usize, 0) }
    }

    pub fn pop_many(&self, count: u64) -> Result<Vec<u64>, c_int> {
        let mut items = vec![0; self.shape.size * count as usize];
        // SAFETY: a live handle and room for `count` items.
        let done =
            unsafe { (self.lib.pop_many)(self.ring, items.as_mut_ptr().cast(), count as usize, 0) };
        if done < 0 {
            return Err(done as c_int);
        }
        let there = items.chunks(self.shape.size).take(done as usize);
        Ok(there.map(|item| self.shape.number(item)).collect())
    }

    #[track_caller]
    pub fn stat(&self) -> Sums {
        let mut stats = mdg_ring_stats { size: size_of::<mdg_ring_stats>(), ..Default::default() };
        // SAFETY: a live handle; the stats say their size.
        assert_eq!(unsafe { (self.lib.stat)(self.ring, &raw mut stats) }, 0);
        let mdg_ring_stats { written, read, dropped, lost, length, pending, flags, .. } = stats;
        Sums { written, read, dropped, lost, length, pending, flags, recovered: stats.recovered }
    }

    /// How often a consumer went to sleep.
    pub fn pop_waits(&self) -> u64 {
        let mut stats = mdg_ring_stats { size: size_of::<mdg_ring_stats>(), ..Default::default() };
        // SAFETY: a live handle; the stats say their size.
        assert_eq!(unsafe { (self.lib.stat)(self.ring, &raw mut stats) }, 0);
        stats.pop_waits
    }

    /// The sums of `stat`, which must close.
    #[track_caller]
    pub fn closed_stat(&self) -> Sums {
        let stats = self.stat();
        if !(self.shape.is_broadcast() && self.shape.overwrites()) {
            let sum = stats.read + stats.dropped + stats.lost + stats.length;
            assert_eq!(stats.written, sum, "{stats:?}");
        }
        assert_eq!(stats.flags & MDG_RING_CORRUPT, 0, "corrupt");
        stats
    }

    /// Pushes, however long the dead are in the way, but not for longer than that.
    #[track_caller]
    pub fn must_push(&self, number: u64) {
        within_bound("push", || match self.push(number) {
            0 => Some(()),
            code => {
                assert_eq!(code, -libc::EAGAIN, "push");
                None
            }
        });
    }

    /// All that is inside, with nothing unfinished left behind it.
    #[track_caller]
    pub fn drain(&self) -> Vec<u64> {
        let mut found = Vec::new();
        within_bound("drain", || match self.pop() {
            Ok(number) => {
                found.push(number);
                None
            }
            Err(code) if code == -libc::EPIPE => Some(()),
            Err(code) => {
                assert_eq!(code, -libc::EAGAIN, "pop");
                let stats = self.closed_stat();
                (stats.pending == 0 && (stats.length == 0 || self.shape.is_broadcast()))
                    .then_some(())
            }
        });
        found
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: a live handle that nobody uses any more.
        unsafe { (self.lib.close)(self.ring) };
    }
}

#[track_caller]
pub fn within_bound<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        assert!(start.elapsed() < BOUND, "{what}: no progress within {BOUND:?}");
    }
}
