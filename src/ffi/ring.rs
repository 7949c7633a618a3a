//! `madang/ring.h`: rings.
//!
//! A ring is a bounded buffer of items of one size that one process fills and another empties. Items
//! come out in the order they went in, whole or not at all, and those committed survive the death of
//! either side. No lock is involved; without anybody sleeping no operation enters the kernel.

use std::ffi::{c_char, c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::PoisonError;

use nix::errno::Errno;

use super::args::{self, Opaque};
use super::guard::{Answer, guard, guard_or, guard_void};
use super::shm::{MDG_SEALED, mdg_shm};
use crate::error::{Error, Result};
use crate::flags::Access;
use crate::ring::{EndState, Events, Kind, Options, Ring, Stats};
use crate::shm::{Seals, Shm};
use crate::time::{Nanos, Timeout};

/// Kind: one producer and one consumer at a time. The default.
pub const MDG_RING_SPSC: u32 = 1;
/// Kind: any number of producers and consumers; each item goes to one consumer.
pub const MDG_RING_MPMC: u32 = 2;
/// Kind: one producer at a time, any number of consumers; each consumer sees every item that is
/// committed after it has joined. It joins when it opens the ring O_RDONLY, or with its first pop or
/// peek. A full ring waits for its slowest living consumer, unless a policy says otherwise.
pub const MDG_RING_BROADCAST: u32 = 3;

/// Policy: no process waits for another that has begun an operation and not finished it, be it dead
/// or stopped. For MDG_RING_MPMC; may be combined with one of the others. Costs time, and memory for
/// two more items per handle that may be open.
pub const MDG_RING_STOPPROOF: u32 = 0x1;
/// Policy: a push into a full ring gives up the oldest item instead of waiting. For MDG_RING_MPMC and
/// MDG_RING_BROADCAST; consumers of the latter need permission to read the ring only.
pub const MDG_RING_OVERWRITE: u32 = 0x2;
/// Policy: a push into a full ring takes the slowest consumer out instead of waiting for it; that one
/// is told with -EOVERFLOW, and joins again. For MDG_RING_BROADCAST.
pub const MDG_RING_EVICT: u32 = 0x4;
/// Policy: a push into a full ring is -EAGAIN at once, whatever its timeout.
pub const MDG_RING_FAIL: u32 = 0x8;

/// Bit in mdg_ring_opts.flags: this consumer of a broadcast begins with the oldest item that is still
/// there, not with the first one after it has joined.
pub const MDG_RING_OLDEST: u32 = 0x1;
/// Event: a pop, or a read from a descriptor, may go on. The value of POLLIN.
pub const MDG_POLL_IN: u32 = 0x1;
/// Event: a push, or a write to a descriptor, may go on. The value of POLLOUT.
pub const MDG_POLL_OUT: u32 = 0x4;

/// State of an end: nobody has held it yet.
pub const MDG_RING_END_NEVER: u32 = 0;
/// State of an end: a living process holds it.
pub const MDG_RING_END_LIVE: u32 = 1;
/// State of an end: the last holder closed it.
pub const MDG_RING_END_CLOSED: u32 = 2;
/// State of an end: the last holder died, and nobody has held it since.
pub const MDG_RING_END_DEAD: u32 = 3;

/// Bit in mdg_ring_stats.flags: the stream was ended by mdg_ring_shutdown.
pub const MDG_RING_SHUTDOWN: u32 = 0x1;
/// Bit in mdg_ring_stats.flags: somebody found an impossible index; the ring is of no more use.
pub const MDG_RING_CORRUPT: u32 = 0x2;
/// Bit in mdg_ring_stats.flags: the ring had a name that is gone.
pub const MDG_RING_UNLINKED: u32 = 0x4;

/// A handle on a ring. It belongs to one thread at a time (mdg_ring_dup makes another for another
/// thread); mdg_ring_stat, mdg_ring_shutdown and mdg_ring_cancel alone may be called from any thread
/// meanwhile.
///
/// fork(2): a handle opened before works in both processes. The child is a new participant, attached
/// by its first operation. An end that the parent has used stays the parent's until the parent closes
/// the handle or dies; the child's attempt to use it is -EBUSY. Each process closes its own handle.
///
/// A process that exits without mdg_ring_close or mdg_ring_shutdown counts as dead, however it exited.
#[allow(non_camel_case_types)]
pub struct mdg_ring {
    _opaque: [u8; 0],
}

impl Opaque for mdg_ring {
    type Inner = Ring;
    const TAG: u64 = u64::from_le_bytes(*b"mdg:ring");
    const NAME: &'static str = "mdg_ring";
}

/// What a ring is to be, or must be. A zero means: whatever it is, or the default for a new one.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mdg_ring_opts {
    /// sizeof(mdg_ring_opts), set by the caller.
    pub size: usize,
    /// Items that fit: rounded up to a power of two, and all of them are usable. A new ring needs it.
    pub capacity: u64,
    /// Bytes of an item; a new ring needs it. Items stand one behind the other without padding, the
    /// first on a 128-byte boundary; those of MDG_RING_MPMC, and of a broadcast that overwrites, do not:
    /// there a run in place is one item, on an 8-byte boundary.
    pub item_size: u32,
    /// MDG_RING_SPSC, MDG_RING_MPMC, MDG_RING_BROADCAST.
    pub kind: u32,
    /// Handles that may be open at once, in all processes: at most 4096, 64 by default.
    pub max_handles: u32,
    /// MDG_RING_OVERWRITE, MDG_RING_EVICT or MDG_RING_FAIL; 0: a push into a full ring waits.
    /// MDG_RING_STOPPROOF may be added.
    pub policy: u32,
    /// MDG_RING_OLDEST. For this handle; not compared with the ring.
    pub flags: u32,
    /// 0.
    pub reserved: u32,
}

/// A look at a ring, taken while others work on. At a quiet moment
/// written = read + dropped + lost + length. The numbers are the ring's, whatever handle is asked.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct mdg_ring_stats {
    /// sizeof(mdg_ring_stats), set by the caller; the library fills in what fits, sets what it does
    /// not know to zero, and stores here how many bytes it filled in.
    pub size: usize,
    /// Items that fit.
    pub capacity: u64,
    /// Bytes of an item.
    pub item_size: u32,
    /// MDG_RING_SPSC, MDG_RING_MPMC, MDG_RING_BROADCAST.
    pub kind: u32,
    /// Items inside. MDG_RING_BROADCAST: how far the slowest consumer is behind, or, while there is none,
    /// what is there for one with MDG_RING_OLDEST; with MDG_RING_OVERWRITE, what is not overwritten.
    pub length: u64,
    /// Items ever committed.
    pub written: u64,
    /// Items ever taken. MDG_RING_BROADCAST: passed by all consumers that were there; with
    /// MDG_RING_OVERWRITE 0, as nobody tells.
    pub read: u64,
    /// Items given up for newer ones (MDG_RING_OVERWRITE), by evicting a consumer (MDG_RING_EVICT), or in
    /// a broadcast while there was no consumer.
    pub dropped: u64,
    /// Ends whose holder was found dead.
    pub recovered: u64,
    /// How often a producer went to sleep because the ring was full.
    pub push_waits: u64,
    /// How often a consumer went to sleep because the ring was empty.
    pub pop_waits: u64,
    /// Process that holds the producing end, or held it last; 0 if none did. In its own PID namespace.
    pub producer_pid: u32,
    /// Process that holds the consuming end, or held it last; 0 if none did. In its own PID namespace.
    pub consumer_pid: u32,
    /// MDG_RING_END_NEVER, _LIVE, _CLOSED or _DEAD.
    pub producer_state: u32,
    /// MDG_RING_END_NEVER, _LIVE, _CLOSED or _DEAD.
    pub consumer_state: u32,
    /// Handles that may be open at once.
    pub max_handles: u32,
    /// MDG_RING_SHUTDOWN, MDG_RING_CORRUPT, MDG_RING_UNLINKED.
    pub flags: u32,
    /// Items that went down with a consumer that had just taken them, where that is known.
    pub lost: u64,
    /// Places that a producer has claimed and not filled yet; not in `written`. MDG_RING_MPMC only.
    pub pending: u64,
    /// MDG_RING_STOPPROOF, MDG_RING_OVERWRITE, MDG_RING_EVICT, MDG_RING_FAIL.
    pub policy: u32,
    /// 0.
    pub reserved: u32,
}

/// # Safety
/// As for `args::handle`.
#[inline(always)]
unsafe fn with<A: Answer>(ring: *mut mdg_ring, entry: impl FnOnce(&Ring) -> Result<A>) -> A {
    guard_or(
        // SAFETY: the caller's promise.
        || unsafe { args::poison(ring) },
        // SAFETY: the caller's promise.
        || entry(unsafe { args::handle(ring.cast_const()) }?),
    )
}

/// Bytes of `count` items: `EINVAL` for a NULL `items`, `EOVERFLOW` for more than memory has.
fn check_items<T>(items: *const T, count: usize, ring: &Ring) -> Result<()> {
    if count > 0 {
        args::pointer(items.cast::<u8>(), "ring: items")?;
    }
    let bytes = count.saturating_mul(ring.item_size());
    args::length(bytes, "ring: count").map(drop)
}

/// A count of items as C returns it; it was checked to fit.
fn count(count: usize) -> libc::ssize_t {
    count as libc::ssize_t
}

fn options(opts: Option<mdg_ring_opts>) -> Result<Options> {
    let Some(opts) = opts else { return Ok(Options::default()) };
    let kind = match opts.kind {
        0 => None,
        kind => Some(
            Kind::from_number(kind)
                .ok_or_else(|| Error::new(Errno::EINVAL, format!("unknown ring kind {kind}")))?,
        ),
    };
    let flags = args::flags(opts.flags, MDG_RING_OLDEST, "mdg_ring_opts")?;
    if opts.reserved != 0 {
        return Err(Error::new(Errno::EINVAL, "mdg_ring_opts: reserved must be 0"));
    }
    Ok(Options {
        capacity: opts.capacity,
        item_size: opts.item_size,
        kind,
        max_handles: opts.max_handles,
        policy: opts.policy,
        oldest: flags & MDG_RING_OLDEST != 0,
    })
}

/// [`mdg_ring_push`] when it has to wait, or to fail. This and its like are functions by themselves,
/// and `extern "C"`, which cannot unwind, so that the fast paths of the entries need no stack.
///
/// # Safety
/// As for [`mdg_ring_push`].
#[cold]
#[inline(never)]
unsafe extern "C" fn push_slowly(
    ring: *mut mdg_ring,
    item: *const c_void,
    timeout_ns: i64,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        with(ring, |ring| {
            let item = args::pointer(item.cast::<u8>(), "mdg_ring_push: item")?;
            ring.push_raw(item, Nanos(timeout_ns)).map(|()| 0)
        })
    }
}

/// [`mdg_ring_pop`] when it has to wait, or to fail.
///
/// # Safety
/// As for [`mdg_ring_pop`].
#[cold]
#[inline(never)]
unsafe extern "C" fn pop_slowly(ring: *mut mdg_ring, item: *mut c_void, timeout_ns: i64) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        with(ring, |ring| {
            let item = args::out(item.cast::<u8>(), "mdg_ring_pop: item")?;
            ring.pop_raw(item, Nanos(timeout_ns)).map(|()| 0)
        })
    }
}

/// [`mdg_ring_push_many`] when it has to wait, to push fewer, or to fail.
///
/// # Safety
/// As for [`mdg_ring_push_many`].
#[cold]
#[inline(never)]
unsafe extern "C" fn push_many_slowly(
    ring: *mut mdg_ring,
    items: *const c_void,
    count: usize,
    timeout_ns: i64,
) -> libc::ssize_t {
    // SAFETY: the caller's promise.
    unsafe {
        with(ring, |ring| {
            check_items(items, count, ring)?;
            ring.push_many_raw(items.cast(), count, Timeout::from_nanos(timeout_ns))
                .map(self::count)
        })
    }
}

/// [`mdg_ring_pop_many`] when it has to wait, to pop fewer, or to fail.
///
/// # Safety
/// As for [`mdg_ring_pop_many`].
#[cold]
#[inline(never)]
unsafe extern "C" fn pop_many_slowly(
    ring: *mut mdg_ring,
    items: *mut c_void,
    count: usize,
    timeout_ns: i64,
) -> libc::ssize_t {
    // SAFETY: the caller's promise.
    unsafe {
        with(ring, |ring| {
            check_items(items.cast_const(), count, ring)?;
            ring.pop_many_raw(items.cast(), count, Timeout::from_nanos(timeout_ns)).map(self::count)
        })
    }
}

/// [`mdg_ring_push`] where many push; else the slow way.
///
/// # Safety
/// As for [`mdg_ring_push`], with a live handle and an item.
#[inline(never)]
unsafe extern "C" fn push_straight(
    live: &Ring,
    item: *const c_void,
    timeout_ns: i64,
    ring: *mut mdg_ring,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        if !live.goes_straight() {
            return push_slowly(ring, item, timeout_ns);
        }
        if live.item_size() != 8 {
            return push_straight_sized(live, item, timeout_ns, ring);
        }
        match live.push_straight::<true>(item.cast()) {
            Some(done) => done,
            None => push_straight_sized(live, item, timeout_ns, ring),
        }
    }
}

/// As [`push_straight`], for items of any size.
///
/// # Safety
/// As for [`push_straight`].
#[inline(never)]
unsafe extern "C" fn push_straight_sized(
    live: &Ring,
    item: *const c_void,
    timeout_ns: i64,
    ring: *mut mdg_ring,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        match live.push_straight::<false>(item.cast()) {
            Some(done) => done,
            None => push_slowly(ring, item, timeout_ns),
        }
    }
}

/// [`mdg_ring_pop`] where many pop; else the slow way.
///
/// # Safety
/// As for [`mdg_ring_pop`], with a live handle and a buffer.
#[inline(never)]
unsafe extern "C" fn pop_straight(
    live: &Ring,
    item: *mut c_void,
    timeout_ns: i64,
    ring: *mut mdg_ring,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        if !live.goes_straight() {
            return pop_slowly(ring, item, timeout_ns);
        }
        if live.item_size() != 8 {
            return pop_straight_sized(live, item, timeout_ns, ring);
        }
        match live.pop_straight::<true>(item.cast()) {
            Some(done) => done,
            None => pop_straight_sized(live, item, timeout_ns, ring),
        }
    }
}

/// As [`pop_straight`], for items of any size.
///
/// # Safety
/// As for [`pop_straight`].
#[inline(never)]
unsafe extern "C" fn pop_straight_sized(
    live: &Ring,
    item: *mut c_void,
    timeout_ns: i64,
    ring: *mut mdg_ring,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        match live.pop_straight::<false>(item.cast()) {
            Some(done) => done,
            None => pop_slowly(ring, item, timeout_ns),
        }
    }
}

/// [`mdg_ring_push`] of an item of any size, with room for it.
///
/// # Safety
/// As for `Ring::push_sized`.
#[inline(never)]
unsafe extern "C" fn push_sized(ring: &Ring, item: *const u8) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { ring.push_sized(item) }
}

/// [`mdg_ring_pop`] of an item of any size that is there.
///
/// # Safety
/// As for `Ring::pop_sized`.
#[inline(never)]
unsafe extern "C" fn pop_sized(ring: &Ring, item: *mut u8) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { ring.pop_sized(item) }
}

/// Opens, or makes, the ring `name`, or an anonymous one if `name` is NULL.
///
/// `*ring` receives a handle to be closed with mdg_ring_close. `oflag`: O_WRONLY takes the producing
/// end at once, O_RDONLY the consuming end; O_RDWR takes each end when it is first used, which is the
/// way to open a ring before fork(2). O_CREAT makes the ring when it is missing, O_EXCL in addition
/// fails when it is there; an anonymous ring is always made. `mode` gives the permissions of a new
/// one, trimmed by the umask; every end needs read and write permission, but a consumer of a broadcast
/// that overwrites, opened O_RDONLY, needs to read only: without more it takes no slot of max_handles, is
/// seen by nobody, and waits by looking again every millisecond. A ring appears complete, with its memory
/// reserved, or not at all.
///
/// Opening what exists: `opts` NULL, or a zero field, accepts what the ring has; a field that differs
/// is -EPROTO, with both values in mdg_last_error. Making one needs capacity and item_size. An end
/// whose holder died is taken over with everything that was committed.
///
/// Returns 0, or: -EINVAL (NULL, a bad name, no capacity or item_size for a new ring, an unknown kind,
/// policy, flag, oflag or mode bit, or one that is not for that kind) · -E2BIG · -ENAMETOOLONG ·
/// -ENOENT · -EEXIST · -EACCES · -ELOOP (a symbolic link under the name) · -EBUSY (a living process has
/// that end; its pid is in mdg_last_error; or another process was stopped while it removed the name) ·
/// -EPROTO (not a ring, another layout or geometry) · -EBADMSG (its indices are
/// impossible) · -EMFILE (no descriptor, or max_handles are open) · -EOVERFLOW · -ENOSPC ·
/// -ENOMEM · -ENFILE · -EROFS (/dev/shm is read-only) · -ESTALE (others removed and made it again all
/// the time).
/// Nothing is made or held then. Thread-safe; not async-signal-safe.
///
/// # Safety
/// `ring` is NULL or writable; `name` is NULL or a C string; `opts` is NULL or begins with its size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_open(
    ring: *mut *mut mdg_ring,
    name: *const c_char,
    opts: *const mdg_ring_opts,
    oflag: c_int,
    mode: libc::mode_t,
) -> c_int {
    guard(|| {
        let what = "mdg_ring_open";
        let out = args::out(ring, "mdg_ring_open: ring")?;
        // SAFETY: the caller's promise; integers only.
        let options = options(unsafe { args::options(opts, "mdg_ring_opts") }?)?;
        let (flags, mode) = (args::oflag(oflag, 0, what)?, args::mode(mode, what)?);
        let made = if name.is_null() {
            Ring::anonymous(&options, flags.access)?
        } else {
            // SAFETY: the caller's promise.
            let name = unsafe { args::string(name, "mdg_ring_open: name") }?;
            Ring::open(name, &options, flags, mode)?
        };
        // SAFETY: checked above.
        unsafe { args::give(out, made) };
        Ok(0)
    })
}

/// Bytes that a ring with these options takes up in a segment: a multiple of 4096. `opts` needs
/// capacity and item_size.
///
/// Returns the bytes, or: -EINVAL (NULL, no capacity or item_size, an unknown kind or policy) ·
/// -E2BIG · -EOVERFLOW (larger than any memory). Thread-safe; async-signal-safe as long as it succeeds.
///
/// # Safety
/// `opts` is NULL or begins with its size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_footprint(opts: *const mdg_ring_opts) -> libc::ssize_t {
    guard(|| {
        // SAFETY: the caller's promise; integers only.
        let opts = unsafe { args::options(opts, "mdg_ring_opts") }?;
        Ring::footprint(&options(opts)?).map(count)
    })
}

/// Makes a ring inside a segment: at `offset`, a multiple of 4096, where mdg_ring_footprint bytes are
/// free for it. Many rings, and other data, can so share one segment and one descriptor. What was in
/// that place is overwritten, unless it is a ring that living handles use.
///
/// `*ring` receives a handle; `oflag` is O_WRONLY, O_RDONLY or O_RDWR, as in mdg_ring_open. Others
/// find the ring by mdg_ring_attach on their own mapping of the segment, complete or not at all. The
/// handle may outlive `shm`, whose descriptor it keeps; the segment must not be resized to end before
/// the ring does, which is SIGBUS for everyone who uses it. Permissions are the segment's: every
/// handle needs read and write.
///
/// Returns 0, or: -EINVAL (NULL, an offset that is no multiple of 4096, no capacity or item_size, an
/// unknown kind, policy or oflag bit) · -E2BIG · -EBADF · -ENOSPC (the segment ends before the ring) ·
/// -EBUSY (living handles use a ring there, or another process is making one) · -EACCES (`shm` is
/// read-only) · -EPROTO (`shm` is a device) · -EOVERFLOW · -EMFILE · -ENFILE · -ENOMEM · -ENOENT (no
/// /proc). Nothing is held then, and a ring that is in use is as it was. Thread-safe; not
/// async-signal-safe.
///
/// # Safety
/// `ring` is NULL or writable; `shm` is NULL or a handle; `opts` is NULL or begins with its size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_init(
    ring: *mut *mut mdg_ring,
    shm: *const mdg_shm,
    offset: usize,
    opts: *const mdg_ring_opts,
    oflag: c_int,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        in_segment(ring, shm, opts, oflag, |shm, opts, access| {
            Ring::init(shm, offset, opts, access)
        })
    }
}

/// Opens the ring that mdg_ring_init has made at `offset` of a segment, which may be mapped at another
/// address here. `opts` and `oflag` as in mdg_ring_open for a ring that exists.
///
/// Returns 0, or: -EPROTO (no ring is there, or not complete yet; another layout or geometry; larger
/// than the segment) · -EBUSY (a living process has that end) · -ESTALE (another ring is being made in
/// its place) · -EBADMSG · -EMFILE (no descriptor, or max_handles are open), or what mdg_ring_init
/// returns but -ENOSPC. Thread-safe; not async-signal-safe.
///
/// # Safety
/// `ring` is NULL or writable; `shm` is NULL or a handle; `opts` is NULL or begins with its size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_attach(
    ring: *mut *mut mdg_ring,
    shm: *const mdg_shm,
    offset: usize,
    opts: *const mdg_ring_opts,
    oflag: c_int,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        in_segment(ring, shm, opts, oflag, |shm, opts, access| {
            Ring::attach_to(shm, offset, opts, access)
        })
    }
}

/// Opens the ring whose memory `fd` refers to, such as one that mdg_fd_receive gave: what
/// mdg_ring_memory returned in another process. The descriptor is duplicated; the caller closes its own.
///
/// `oflag` is O_WRONLY, O_RDONLY or O_RDWR as in mdg_ring_open; with MDG_SEALED the descriptor is refused
/// unless it is sealed against shrinking, so that its sender cannot make this process fault by
/// truncating it. Anonymous rings are sealed. `opts` as in mdg_ring_open for a ring that exists.
///
/// Returns 0, or: -EINVAL (NULL, other oflag bits) · -E2BIG · -EBADF · -EPROTO (not a ring, another
/// layout or geometry, not sealed as required) · -EBUSY (a living process has that end) · -EBADMSG ·
/// -EACCES (descriptor not open for reading and writing, or its file may not be opened again) ·
/// -EMFILE · -ENFILE · -ENOMEM · -ENOENT (no /proc). Thread-safe; not async-signal-safe.
///
/// # Safety
/// `ring` is NULL or writable; `opts` is NULL or begins with its size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_from_fd(
    ring: *mut *mut mdg_ring,
    fd: c_int,
    opts: *const mdg_ring_opts,
    oflag: c_int,
) -> c_int {
    guard(|| {
        let what = "mdg_ring_from_fd";
        let out = args::out(ring, "mdg_ring_from_fd: ring")?;
        // SAFETY: the caller's promise; integers only.
        let options = options(unsafe { args::options(opts, "mdg_ring_opts") }?)?;
        let access = access(oflag & !MDG_SEALED, what)?;
        let seals = if oflag & MDG_SEALED != 0 { Seals::Required } else { Seals::Unchecked };
        if fd < 0 {
            return Err(Error::new(Errno::EBADF, format!("{what}: descriptor {fd}")));
        }
        // SAFETY: not -1; the kernel says EBADF if it is not open, and it is borrowed for this call.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        let made = Ring::from_fd(fd, &options, access, seals)?;
        // SAFETY: checked above.
        unsafe { args::give(out, made) };
        Ok(0)
    })
}

/// The descriptor of the ring's memory, to be passed to another process by mdg_fd_send. It belongs to
/// the handle: do not close it.
///
/// Returns the descriptor, or: -EINVAL (NULL, or a ring in a segment: pass the segment) · -EBADF.
/// Thread-safe; async-signal-safe as long as it succeeds.
///
/// # Safety
/// `ring` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_memory(ring: *const mdg_ring) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let memory = unsafe { args::handle(ring) }?.memory();
        let in_segment = || Error::new(Errno::EINVAL, "mdg_ring_memory: the ring is in a segment");
        Ok(memory.ok_or_else(in_segment)?.as_raw_fd())
    })
}

/// # Safety
/// As for [`mdg_ring_init`].
unsafe fn in_segment(
    ring: *mut *mut mdg_ring,
    shm: *const mdg_shm,
    opts: *const mdg_ring_opts,
    oflag: c_int,
    make: impl FnOnce(&Shm, &Options, Access) -> Result<Ring>,
) -> c_int {
    guard(|| {
        let out = args::out(ring, "ring in a segment: ring")?;
        // SAFETY: the caller's promise; integers only.
        let options = options(unsafe { args::options(opts, "mdg_ring_opts") }?)?;
        let access = access(oflag, "ring in a segment")?;
        // SAFETY: the caller's promise.
        let shm = unsafe { args::handle(shm) }?;
        let shm = shm.read().unwrap_or_else(PoisonError::into_inner);
        let made = make(&shm, &options, access)?;
        // SAFETY: checked above.
        unsafe { args::give(out, made) };
        Ok(0)
    })
}

/// An oflag that is an access mode and nothing else.
fn access(oflag: c_int, what: &str) -> Result<Access> {
    if oflag & !libc::O_ACCMODE != 0 {
        let text = format!("{what}: oflag takes an access mode only");
        return Err(Error::new(Errno::EINVAL, text));
    }
    Ok(args::oflag(oflag, 0, what)?.access)
}

/// Another handle on the same ring, for another thread or another end; also of an anonymous or
/// unlinked ring. `oflag` is O_WRONLY, O_RDONLY or O_RDWR, as in mdg_ring_open. A consumer of a broadcast
/// begins with the first item that is committed after it has joined.
///
/// Returns 0, or: -EINVAL (NULL, other oflag bits) · -EBADF · -EBUSY · -EBADMSG · -EMFILE · -ENOMEM ·
/// -EACCES (`ring` may only be read, and `oflag` is not O_RDONLY).
/// Thread-safe as far as `ring` is not closed meanwhile; not async-signal-safe.
///
/// # Safety
/// `copy` is NULL or writable; `ring` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_dup(
    copy: *mut *mut mdg_ring,
    ring: *const mdg_ring,
    oflag: c_int,
) -> c_int {
    guard(|| {
        let out = args::out(copy, "mdg_ring_dup: copy")?;
        let access = access(oflag, "mdg_ring_dup")?;
        // SAFETY: the caller's promise.
        let made = unsafe { args::handle(ring) }?.duplicate(access)?;
        // SAFETY: checked above.
        unsafe { args::give(out, made) };
        Ok(0)
    })
}

/// Pushes one item: copies item_size bytes from `item` into the ring, waiting for room at most
/// `timeout_ns` nanoseconds of monotonic time (MDG_NOWAIT: not at all, MDG_FOREVER: without limit).
/// No system call is made while there is room and nobody sleeps. When it has returned 0 the item is
/// committed, and outlives this process.
///
/// Returns 0, or: -EAGAIN (MDG_NOWAIT, full) · -ETIMEDOUT · -EINTR (a signal was caught, whatever
/// SA_RESTART says) · -ECANCELED (mdg_ring_cancel) · -EPIPE (shut down) · -EOWNERDEAD (full, and the
/// consumer died; a new consumer makes the ring ordinary again) · -EBUSY (another process has the
/// producing end) · -EACCES (opened O_RDONLY, or this process may no longer open the ring's file) ·
/// -EMFILE, -ENFILE, -ENOMEM, -ENOENT (first use of an O_RDWR handle in a process: no descriptor, no
/// memory, no /proc) · -EINVAL (NULL, or a reserved run not given back) · -EBADF (not a handle, or the
/// ring's descriptor was closed) · -EBADMSG (corrupt); the item is not pushed then. Not
/// async-signal-safe; not a cancellation point.
///
/// # Safety
/// `ring` is NULL or a handle of this thread; `item` is NULL or readable for item_size bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_push(
    ring: *mut mdg_ring,
    item: *const c_void,
    timeout_ns: i64,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        match args::live(ring.cast_const()) {
            Some(live) if !item.is_null() && live.has_room_for(1) => {
                if live.item_size() != 8 {
                    return push_sized(live, item.cast());
                }
                live.push_word(item.cast())
            }
            Some(live) if !item.is_null() => push_straight(live, item, timeout_ns, ring),
            _ => push_slowly(ring, item, timeout_ns),
        }
    }
}

/// Pops one item: copies item_size bytes into `item`, waiting for an item at most `timeout_ns`
/// nanoseconds of monotonic time (MDG_NOWAIT: not at all, MDG_FOREVER: without limit).
///
/// Returns 0, or: -EAGAIN (MDG_NOWAIT, empty) · -ETIMEDOUT · -EINTR (a signal was caught, whatever
/// SA_RESTART says) · -ECANCELED (mdg_ring_cancel) · -EPIPE (shut down and drained: end of stream) ·
/// -EOWNERDEAD (empty, and the producer died; everything it committed was delivered before) · -EBUSY
/// (another process has the consuming end) · -EACCES (opened O_WRONLY) · -EINVAL (NULL, or a peeked
/// run not given back) · -EBADF · -EBADMSG (corrupt); `item` is untouched then. Or -EOVERFLOW, for a
/// consumer of a broadcast: items went by before it had read them, or it was evicted; how many it has
/// lost is in mdg_last_error and added to mdg_ring_lost, it stands at the oldest item that is there, and
/// the next pop goes on; what is in `item` is undefined then. Not async-signal-safe; not a cancellation
/// point.
///
/// # Safety
/// `ring` is NULL or a handle of this thread; `item` is NULL or writable for item_size bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_pop(
    ring: *mut mdg_ring,
    item: *mut c_void,
    timeout_ns: i64,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        match args::live(ring.cast_const()) {
            Some(live) if !item.is_null() && live.has_items(1) => {
                if live.item_size() != 8 {
                    return pop_sized(live, item.cast());
                }
                live.pop_word(item.cast())
            }
            Some(live) if !item.is_null() => pop_straight(live, item, timeout_ns, ring),
            _ => pop_slowly(ring, item, timeout_ns),
        }
    }
}

/// Waits for room for one item, then pushes as many of the `count` items at `items` as fit, with one
/// commit for all (in kinds whose items do not stand in a row, one commit each).
///
/// Returns how many (1 or more; 0 only for a `count` of 0), or what mdg_ring_push returns, or
/// -EOVERFLOW (more bytes than memory has). Not async-signal-safe; not a cancellation point.
///
/// # Safety
/// `ring` is NULL or a handle of this thread; `items` is readable for `count` items, or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_push_many(
    ring: *mut mdg_ring,
    items: *const c_void,
    count: usize,
    timeout_ns: i64,
) -> libc::ssize_t {
    // SAFETY: the caller's promise.
    unsafe {
        match args::live(ring.cast_const()) {
            Some(live) if !items.is_null() && count > 0 && live.has_room_for(count) => {
                live.push_at_once(items.cast(), count);
                self::count(count)
            }
            _ => push_many_slowly(ring, items, count, timeout_ns),
        }
    }
}

/// Waits for one item, then pops as many as there are, at most `count`, into `items`.
///
/// Returns how many (1 or more; 0 only for a `count` of 0), or what mdg_ring_pop returns, or
/// -EOVERFLOW (more bytes than memory has). What is in `items` behind those returned is undefined. Not
/// async-signal-safe; not a cancellation point.
///
/// # Safety
/// `ring` is NULL or a handle of this thread; `items` is writable for `count` items, or NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_pop_many(
    ring: *mut mdg_ring,
    items: *mut c_void,
    count: usize,
    timeout_ns: i64,
) -> libc::ssize_t {
    // SAFETY: the caller's promise.
    unsafe {
        match args::live(ring.cast_const()) {
            Some(live) if !items.is_null() && count > 0 && live.has_items(count) => {
                live.pop_at_once(items.cast(), count);
                self::count(count)
            }
            _ => pop_many_slowly(ring, items, count, timeout_ns),
        }
    }
}

/// Waits for room for one item, then hands out free slots in place: `*items` receives the address of
/// a contiguous run of at least 1 and at most `count` items, to be filled and then committed. A run
/// ends at the end of the ring at the latest.
///
/// The memory is the ring's; nothing in it is visible to the consumer before mdg_ring_commit, and a
/// process that dies meanwhile has sent nothing. One run at a time: until it is given back, pushing
/// and reserving are -EINVAL.
///
/// Returns the length of the run, or what mdg_ring_push returns (-EINVAL for a `count` of 0, too); a
/// failure leaves `*items` untouched. Not async-signal-safe; not a cancellation point.
///
/// # Safety
/// `ring` is NULL or a handle of this thread; `items` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_reserve(
    ring: *mut mdg_ring,
    items: *mut *mut c_void,
    count: usize,
    timeout_ns: i64,
) -> libc::ssize_t {
    // SAFETY: the caller's promise.
    unsafe {
        with(ring, |ring| {
            let out = args::out(items, "mdg_ring_reserve: items")?;
            let (first, run) = ring.reserve(count, Timeout::from_nanos(timeout_ns))?;
            out.write(first.as_ptr().cast());
            Ok(self::count(run))
        })
    }
}

/// Commits the first `count` items of the reserved run, in one step, and gives the rest back. A
/// `count` of 0 gives the whole run back. With MDG_RING_STOPPROOF others may have filled the ring
/// since; a commit still succeeds, and the ring then holds more than its capacity, by at most one item
/// per handle.
///
/// Returns 0, or: -EINVAL (NULL, or more than was reserved; the run stays) · -EPIPE (shut down) or
/// -EBADMSG (corrupt), with nothing committed and the run given back · -EBADF. Not async-signal-safe.
///
/// # Safety
/// `ring` is NULL or a handle of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_commit(ring: *mut mdg_ring, count: usize) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { with(ring, |ring| ring.commit(count).map(|()| 0)) }
}

/// Waits for one item, then hands out items in place: `*items` receives the address of a contiguous
/// run of at least 1 and at most `count` of them. They stay in the ring, and a consumer that takes
/// over after this process's death gets them again, until mdg_ring_release. In MDG_RING_MPMC the one item
/// is this handle's from then on: no other consumer gets it, and it is lost with the handle.
///
/// The memory is the ring's; read it only, and do not rely on its staying the same if the producer
/// cannot be trusted. One run at a time: until it is given back, popping and peeking are -EINVAL.
///
/// In a broadcast that overwrites, or evicts, the producer may write over what is peeked at any moment:
/// mdg_ring_release tells, and nothing that was computed from it counts before that.
///
/// Returns the length of the run, or what mdg_ring_pop returns (-EINVAL for a `count` of 0, too); a
/// failure leaves `*items` untouched. Not async-signal-safe; not a cancellation point.
///
/// # Safety
/// `ring` is NULL or a handle of this thread; `items` is NULL or writable.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_peek(
    ring: *mut mdg_ring,
    items: *mut *const c_void,
    count: usize,
    timeout_ns: i64,
) -> libc::ssize_t {
    // SAFETY: the caller's promise.
    unsafe {
        with(ring, |ring| {
            let out = args::out(items, "mdg_ring_peek: items")?;
            let (first, run) = ring.peek(count, Timeout::from_nanos(timeout_ns))?;
            out.write(first.as_ptr().cast_const().cast());
            Ok(self::count(run))
        })
    }
}

/// Takes the first `count` items of the peeked run off the ring and leaves the rest in it; with a `count`
/// of 0 all of it (in MDG_RING_MPMC for this handle's next pop or peek), which says nothing about whether
/// a broadcast's producer has written over it.
///
/// Returns 0, or: -EINVAL (NULL, or more than was peeked; the run stays) · -EBADF · -EOVERFLOW (a
/// broadcast's producer has written over the run, or was free to: discard what was read; it counts as
/// lost, as in mdg_ring_pop). Not async-signal-safe.
///
/// # Safety
/// `ring` is NULL or a handle of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_release(ring: *mut mdg_ring, count: usize) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { with(ring, |ring| ring.release(count).map(|()| 0)) }
}

/// Tells how many items this handle, a consumer of a broadcast, has lost: what -EOVERFLOW has told of,
/// added up since the handle was opened (in a forked child, since the fork). What it has received and
/// what it has lost are all that was committed since it began.
///
/// Returns the number, 0 for other kinds and ends, or: -EINVAL (NULL) · -EBADF. Belongs to the handle's
/// thread; async-signal-safe as long as it succeeds.
///
/// # Safety
/// `ring` is NULL or a handle of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_lost(ring: *const mdg_ring) -> i64 {
    // SAFETY: the caller's promise.
    unsafe { with(ring.cast_mut(), |ring| Ok(ring.lost().try_into().unwrap_or(i64::MAX))) }
}

/// Ends the stream: from now on pushes are -EPIPE, and pops deliver what is inside and then are
/// -EPIPE. Wakes everyone who waits. Any participant may call it, from any thread, again too. It
/// cannot be undone; unlink the ring and make a new one.
///
/// Returns 0, or -EINVAL (NULL), -EBADF, -EACCES (a consumer that may only read the ring). Thread-safe;
/// async-signal-safe as long as it succeeds.
///
/// # Safety
/// `ring` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_shutdown(ring: *mut mdg_ring) -> c_int {
    // SAFETY: the caller's promise.
    unsafe { with(ring, |ring| ring.shutdown().map(|()| 0)) }
}

/// A descriptor that poll(2), select(2), epoll(7) and the event loops built on them can wait on. It
/// becomes readable (POLLIN, also for MDG_POLL_OUT) when the ring may be ready for any of `events`:
/// MDG_POLL_IN for pops, MDG_POLL_OUT for pushes, or both.
///
/// The rule: it is readable from this call on, and stays so until a call on this handle, at an end
/// that was asked for, answers -EAGAIN; that call makes it unreadable (unless the other end was asked
/// for, too, and is ready), and looks once more before it answers. Whatever comes after that makes it
/// readable again. So nothing is missed, level-triggered or edge-triggered: after an event, pop (or
/// push) with MDG_NOWAIT, edge-triggered until -EAGAIN. It may be readable for nothing. Shutdown and
/// corruption make it readable for good. -EAGAIN takes three system calls or so then.
///
/// A death makes nothing readable, and a process that is killed between its commit and its notice
/// gives none: poll with a timeout, of a second for instance, and when it is over pop (or push) with
/// MDG_NOWAIT, and look at mdg_ring_stat, or wait for the other process's pidfd as well. mdg_wait_any
/// does so by itself.
///
/// The descriptor belongs to the handle: the same one at every call, closed by mdg_ring_close; it must
/// not be read, written or closed. Every call replaces the events asked for by those before. The ends
/// are taken as their first use would. It is the open end of a FIFO, /dev/shm/mdg.poll.UUID.SLOT.GEN,
/// which others open for a moment to write to; they need a free descriptor then, and the same
/// /dev/shm. A killed process's FIFO is removed by who takes its place, closes or unlinks the ring.
///
/// fork(2): the child's handle is a new one that nobody has asked for a descriptor; the parent's is
/// open in the child until the child first uses or closes its handle, and must not be waited on there.
///
/// Returns the descriptor, or: -EINVAL (NULL, other events) · -EBUSY · -EACCES (wrong end, no
/// permission in /dev/shm, or a consumer that may only read the ring) · -EMFILE · -ENFILE · -ENOMEM ·
/// -ENOSPC · -EROFS · -ENOENT (no /dev/shm, no /proc) · -ENOSYS (the ring was made where /proc was
/// missing) · -EBADF (not a handle, or one of its descriptors was closed) · -EBADMSG (corrupt). Not
/// async-signal-safe.
///
/// # Safety
/// `ring` is NULL or a handle of this thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_fd(ring: *mut mdg_ring, events: u32) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let ring = unsafe { args::handle(ring.cast_const()) }?;
        ring.poll_fd(Events(events)).map(|fd| fd.as_raw_fd())
    })
}

/// Ends the wait of another thread's, or an interrupted, call on this handle: that call answers
/// -ECANCELED, with nothing done. If no call waits, the next one that would have to does so, at once,
/// so it does not matter which comes first; only one call answers for any number of cancellations
/// before. Calls that need not wait, and calls with MDG_NOWAIT, go on as ever and leave the
/// cancellation standing. A wait of mdg_wait_any for this handle is ended as well, and the handle's
/// descriptor becomes readable, if it has one.
///
/// Returns 0, or -EINVAL (NULL), -EBADF. Callable from any thread that knows that the handle is not
/// closed meanwhile; async-signal-safe as long as it succeeds.
///
/// # Safety
/// `ring` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_cancel(ring: *mut mdg_ring) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        with(ring, |ring| {
            ring.canceller().cancel();
            Ok(0)
        })
    }
}

fn state(end: EndState) -> u32 {
    match end {
        EndState::Never => MDG_RING_END_NEVER,
        EndState::Live => MDG_RING_END_LIVE,
        EndState::Closed => MDG_RING_END_CLOSED,
        EndState::Dead => MDG_RING_END_DEAD,
    }
}

fn stats(stats: &Stats) -> mdg_ring_stats {
    let bit = |set, bit| if set { bit } else { 0 };
    mdg_ring_stats {
        size: size_of::<mdg_ring_stats>(),
        capacity: stats.capacity,
        item_size: stats.item_size,
        kind: stats.kind.number(),
        length: stats.length,
        written: stats.written,
        read: stats.read,
        dropped: stats.dropped,
        recovered: stats.recovered,
        push_waits: stats.push_waits,
        pop_waits: stats.pop_waits,
        producer_pid: stats.producer_pid,
        consumer_pid: stats.consumer_pid,
        producer_state: state(stats.producer),
        consumer_state: state(stats.consumer),
        max_handles: stats.max_handles,
        flags: bit(stats.shutdown, MDG_RING_SHUTDOWN)
            | bit(stats.corrupt, MDG_RING_CORRUPT)
            | bit(stats.unlinked, MDG_RING_UNLINKED),
        lost: stats.lost,
        pending: stats.pending,
        policy: stats.policy,
        reserved: 0,
    }
}

/// Tells what is known about a ring. `out->size` must be set to sizeof(mdg_ring_stats).
///
/// Returns 0, or: -EINVAL (NULL, or a size that holds no field) · -EBADF. Thread-safe; asks the
/// kernel who is alive, which takes a few system calls; not async-signal-safe.
///
/// # Safety
/// `ring` is NULL or a handle; `out` is NULL or begins with its size and is writable for that many.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_stat(ring: *const mdg_ring, out: *mut mdg_ring_stats) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let ring = unsafe { args::handle(ring) }?;
        let out = NonNull::new(args::out(out, "mdg_ring_stat: stats")?);
        let full = stats(&ring.stat());
        // SAFETY: non-null (just checked) and, by the caller's promise, as large as it says.
        unsafe { args::fill(out, &full, "mdg_ring_stats") }.map(|()| 0)
    })
}

/// Gives back this handle's ends and frees it; the ring and its name stay. Items committed stay for
/// whoever opens it next. NULL is fine. Closing is not ending the stream: a consumer goes on waiting
/// for the next producer, so call mdg_ring_shutdown before if there will be none. errno is left alone.
/// Not async-signal-safe.
///
/// # Safety
/// `ring` is NULL or a handle that nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_close(ring: *mut mdg_ring) {
    // SAFETY: the caller's promise.
    guard_void(|| unsafe { args::close(ring) });
}

/// Removes the name of a ring; those who have it open go on using it, and mdg_ring_stat tells them.
/// Whatever file stands under a ring's name is removed, sound or not.
///
/// Returns 0, or: -EINVAL (NULL, a bad name) · -ENAMETOOLONG · -ENOENT · -EACCES (another user's) ·
/// -ELOOP (a symbolic link) · -EPROTO (not a regular file) · -EBUSY (another process was stopped while
/// it was removing the same ring). Thread-safe; not async-signal-safe.
///
/// # Safety
/// `name` is NULL or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_ring_unlink(name: *const c_char) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        Ring::unlink(unsafe { args::string(name, "mdg_ring_unlink: name") }?).map(|()| 0)
    })
}
