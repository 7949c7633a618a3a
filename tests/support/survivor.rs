//! A survivor: takes a ring as a killed process has left it, empties it, uses it for a second life,
//! and says what had become of the call that was killed. Panics where a promise is broken.

use std::ffi::c_int;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr;
use std::time::{Duration, Instant};

use madang::ffi::ring::*;

use super::step::Release;

/// Numbers of the survivor's own items begin here.
pub const OWN: u64 = 1 << 32;

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
            reserved: 0,
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

/// What may have become of the calls that were killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Items ever pushed before, by number from 0.
    pub total: u64,
    /// The first of them that is inside.
    pub first: u64,
    /// Items that the dead may have pushed, and may have taken.
    pub pushed: u64,
    pub taken: u64,
    /// Whether the dead may have ended the stream.
    pub shut: bool,
}

/// What has become of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fate {
    pub pushed: u64,
    /// Queues only: items that nobody can have any more.
    pub gone: u64,
}

/// Which end the survivor works on first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    Drain,
    Fill,
}

#[track_caller]
pub fn survive(
    lib: &'static Release,
    shape: Shape,
    memory: &OwnedFd,
    bounds: Bounds,
    first: First,
) -> Fate {
    if shape.is_broadcast() {
        survive_broadcast(lib, shape, memory, bounds, first)
    } else {
        survive_queue(lib, shape, memory, bounds, first)
    }
}

#[track_caller]
fn consecutive(found: &[u64]) {
    assert!(found.windows(2).all(|pair| pair[0] + 1 == pair[1]), "out of order: {found:?}");
}

#[track_caller]
fn survive_queue(
    lib: &'static Release,
    shape: Shape,
    memory: &OwnedFd,
    bounds: Bounds,
    first: First,
) -> Fate {
    let ring = Handle::open(lib, shape, memory, libc::O_RDWR);
    let mut own = OWN;
    if first == First::Fill && !shape.is_never_full() && !bounds.shut {
        // Full for as long as polling takes to find a death: then it is.
        let mut since = Instant::now();
        while since.elapsed() < Duration::from_millis(3) {
            match ring.push(own) {
                0 => {
                    own += 1;
                    since = Instant::now();
                }
                code => assert_eq!(code, -libc::EAGAIN),
            }
        }
    }
    let before = own - OWN;
    let mut found = ring.drain();
    if shape.redelivers() {
        // A death is noticed by who polls in vain for a millisecond.
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(2));
            found.extend(ring.drain());
        }
        // What a dead one had comes when its death is noticed; each once, and nothing is missing.
        let mine: Vec<_> = found.iter().copied().filter(|&number| number >= OWN).collect();
        assert!(mine.is_sorted(), "{mine:?}");
        found.sort_unstable();
    }
    let at = found.iter().position(|&number| number >= OWN).unwrap_or(found.len());
    assert_eq!(found.split_off(at), (OWN..own).collect::<Vec<_>>(), "the survivor's own");
    consecutive(&found);
    let stats = ring.closed_stat();
    let total = stats.written - before;
    let pushed = total.checked_sub(bounds.total).expect("no item is missing at the end");
    assert!(pushed <= bounds.pushed, "{pushed} pushed");
    assert!(found.last().is_none_or(|&last| last + 1 == total), "{found:?} of {total}");
    let gone = (total - bounds.first).checked_sub(found.len() as u64).expect("none twice");
    // A full ring that overwrites gives up one for each pushed, or two: its killed call's, too.
    assert!(gone <= bounds.taken, "{gone} gone: {found:?} of {bounds:?}");
    let keeps = shape.kind == MDG_RING_SPSC || shape.redelivers();
    assert!(stats.lost <= bounds.taken && (!keeps || stats.lost == 0));
    let shut = stats.flags & MDG_RING_SHUTDOWN != 0;
    assert!(bounds.shut || !shut);
    if shut {
        assert_eq!(ring.push(own), -libc::EPIPE);
        return Fate { pushed, gone };
    }

    // The second life: all of its places, one by one, and by batches.
    let all = || (own..own + shape.capacity).collect::<Vec<_>>();
    for number in all() {
        ring.must_push(number);
    }
    if !shape.is_never_full() {
        assert_eq!(ring.push(0), -libc::EAGAIN, "full");
    }
    assert_eq!(ring.drain(), all());
    let mut done = 0;
    within_bound("push_many", || {
        match ring.push_many(own + done, shape.capacity - done) {
            code if code < 0 => assert_eq!(code as c_int, -libc::EAGAIN),
            count => done += count as u64,
        }
        (done == shape.capacity).then_some(())
    });
    let mut found = Vec::new();
    within_bound("pop_many", || {
        match ring.pop_many(shape.capacity) {
            Err(code) => assert_eq!(code, -libc::EAGAIN),
            Ok(items) => found.extend(items),
        }
        (found.len() as u64 >= shape.capacity).then_some(())
    });
    assert_eq!(found, all());
    // All handles can be open, so all that the dead have left is cleared away.
    let others: Vec<_> =
        (1..HANDLES).map(|_| Handle::open(lib, shape, memory, libc::O_RDWR)).collect();
    let stats = ring.closed_stat();
    assert_eq!((stats.written, stats.length), (total + before + 2 * shape.capacity, 0));
    assert!(stats.pending == 0 && stats.lost <= bounds.taken, "{stats:?}");
    drop(others);
    Fate { pushed, gone }
}

#[track_caller]
fn survive_broadcast(
    lib: &'static Release,
    shape: Shape,
    memory: &OwnedFd,
    bounds: Bounds,
    first: First,
) -> Fate {
    // A new consumer, with the oldest that is there, and a new producer, in either order.
    let open = |oflag| Handle::open(lib, shape, memory, oflag);
    let (consumer, producer) = if first == First::Drain {
        let consumer = open(libc::O_RDONLY);
        (consumer, open(libc::O_WRONLY))
    } else {
        let producer = open(libc::O_WRONLY);
        (open(libc::O_RDONLY), producer)
    };
    let found = consumer.drain();
    consecutive(&found);
    // The last one may be gone already, for the next that its killed producer had begun to write.
    let total = producer.closed_stat().written;
    assert!(found.last().is_none_or(|last| last + 1 == total), "{found:?} of {total}");
    let pushed = total.checked_sub(bounds.total).expect("no item is missing at the end");
    assert!(pushed <= bounds.pushed, "{pushed} pushed");
    let sure = if shape.overwrites() { shape.capacity } else { (3 * shape.capacity).div_ceil(4) };
    // What a killed producer has already given up for its own.
    let least = sure.min(total).saturating_sub(bounds.pushed);
    assert!((least..=shape.capacity).contains(&(found.len() as u64)), "{found:?} of {total}");
    let shut = producer.closed_stat().flags & MDG_RING_SHUTDOWN != 0;
    assert!(bounds.shut || !shut);
    if shut {
        assert_eq!(producer.push(0), -libc::EPIPE);
        return Fate { pushed, gone: 0 };
    }
    for _ in 0..2 {
        let all: Vec<_> = (OWN..OWN + shape.capacity).collect();
        all.iter().for_each(|&number| producer.must_push(number));
        if !shape.is_never_full() {
            assert_eq!(producer.push(0), -libc::EAGAIN, "full");
        }
        assert_eq!(consumer.drain(), all);
    }
    let stats = producer.closed_stat();
    assert_eq!((stats.written, stats.lost), (total + 2 * shape.capacity, 0));
    let _others = [(); HANDLES as usize - 2].map(|()| open(libc::O_RDONLY));
    Fate { pushed, gone: 0 }
}
