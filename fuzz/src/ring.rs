//! Rings of every kind, whose participants, or whose indices and cells, are written over.

use std::ffi::{c_int, c_void};
use std::ptr;

use madang::ffi::ring::*;
use madang::ffi::wait::{mdg_wait, mdg_wait_any};

use super::plan::{Image, Plan, call};

pub const ITEM: u32 = 12;
const CAPACITY: u64 = 8;
pub const HANDLES: u32 = 4;

const CONTROL: u64 = 4096;
const SLOTS: u64 = 8192;

/// Kind and policy.
const KINDS: [(u32, u32); 12] = [
    (MDG_RING_SPSC, 0),
    (MDG_RING_MPMC, 0),
    (MDG_RING_MPMC, MDG_RING_OVERWRITE),
    (MDG_RING_MPMC, MDG_RING_FAIL),
    (MDG_RING_MPMC, MDG_RING_STOPPROOF),
    (MDG_RING_MPMC, MDG_RING_STOPPROOF | MDG_RING_OVERWRITE),
    (MDG_RING_BROADCAST, 0),
    (MDG_RING_BROADCAST, MDG_RING_EVICT),
    (MDG_RING_BROADCAST, MDG_RING_OVERWRITE),
    (MDG_RING_SPSC, MDG_RING_FAIL),
    (MDG_RING_MPMC, MDG_RING_REDELIVER),
    (MDG_RING_MPMC, MDG_RING_REDELIVER | MDG_RING_OVERWRITE),
];

pub fn options(plan: &mut Plan<'_>) -> mdg_ring_opts {
    let (kind, policy) = KINDS[plan.choose(KINDS.len() as u64) as usize];
    mdg_ring_opts {
        size: size_of::<mdg_ring_opts>(),
        capacity: CAPACITY,
        item_size: ITEM,
        kind,
        max_handles: HANDLES,
        policy,
        flags: 0,
        item_align: 0,
    }
}

const OPEN: &[c_int] = &[libc::EPROTO, libc::EBADMSG, libc::EBUSY, libc::EMFILE];
const PUSH: &[c_int] = &[
    libc::EAGAIN,
    libc::ETIMEDOUT,
    libc::ECANCELED,
    libc::EPIPE,
    libc::EOWNERDEAD,
    libc::EBUSY,
    libc::EBADMSG,
    libc::EMFILE,
    libc::EACCES,
    libc::EINVAL,
    libc::EOVERFLOW,
];
const GIVE_BACK: &[c_int] = &[libc::EPIPE, libc::EBADMSG, libc::EOVERFLOW];

/// An open handle, and what it was opened for.
pub struct Handle(*mut mdg_ring);

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: a live handle that nobody uses any more.
        call("mdg_ring_close", &[], || unsafe {
            mdg_ring_close(self.0);
            0
        });
    }
}

impl Handle {
    /// Takes the handle that a call made, if it did.
    pub fn made(
        what: &str,
        codes: &[c_int],
        make: impl FnOnce(*mut *mut mdg_ring) -> c_int,
    ) -> Option<Self> {
        let mut ring = ptr::null_mut();
        let result = call(what, codes, || make(&raw mut ring) as isize);
        assert_eq!(result.is_none(), ring.is_null());
        result.map(|_| Self(ring))
    }

    pub fn memory(&self) -> c_int {
        // SAFETY: a live handle.
        unsafe { mdg_ring_memory(self.0) }
    }

    pub fn stat(&self) -> mdg_ring_stats {
        let mut stats = mdg_ring_stats { size: size_of::<mdg_ring_stats>(), ..Default::default() };
        // SAFETY: a live handle, and `stats` is as large as it says.
        call("mdg_ring_stat", &[], || unsafe { mdg_ring_stat(self.0, &raw mut stats) } as isize);
        stats
    }

    /// One call, of those that a ring has, as the plan says.
    pub fn operate(&self, plan: &mut Plan<'_>, item_size: usize) {
        let what = plan.choose(16);
        let timeout = plan.timeout();
        let mut items = vec![what as u8; 5 * item_size];
        let at = items.as_mut_ptr().cast::<c_void>();
        let ring = self.0;
        // SAFETY: a live handle; room for five items.
        unsafe {
            match what {
                0..3 => _ = call("push", PUSH, || mdg_ring_push(ring, at, timeout) as isize),
                3..6 => _ = call("pop", PUSH, || mdg_ring_pop(ring, at, timeout) as isize),
                6 => {
                    let moved =
                        call("push_many", PUSH, || mdg_ring_push_many(ring, at, 5, timeout));
                    assert!(moved.is_none_or(|count| (1..=5).contains(&count)));
                }
                7 => {
                    let moved = call("pop_many", PUSH, || mdg_ring_pop_many(ring, at, 5, timeout));
                    assert!(moved.is_none_or(|count| (1..=5).contains(&count)));
                }
                8 => {
                    let mut run = ptr::null_mut();
                    let reserve = || mdg_ring_reserve(ring, &raw mut run, 5, timeout);
                    if let Some(count) = call("reserve", PUSH, reserve) {
                        assert!((1..=5).contains(&count));
                        run.cast::<u8>().write_bytes(7, count * item_size);
                        let commit = plan.choose(count as u64 + 2) as usize;
                        if commit <= count {
                            call("commit", GIVE_BACK, || mdg_ring_commit(ring, commit) as isize);
                        }
                    }
                }
                9 => {
                    let mut run = ptr::null();
                    let peek = || mdg_ring_peek(ring, &raw mut run, 5, timeout);
                    if let Some(count) = call("peek", PUSH, peek) {
                        assert!((1..=5).contains(&count));
                        run.cast::<u8>().copy_to(items.as_mut_ptr(), count * item_size);
                        let release = plan.choose(count as u64 + 2) as usize;
                        if release <= count {
                            call("release", GIVE_BACK, || mdg_ring_release(ring, release) as isize);
                        }
                    }
                }
                10 => {
                    // What an earlier call has left in hands.
                    call("commit", &[libc::EINVAL, libc::EPIPE, libc::EBADMSG], || {
                        mdg_ring_commit(ring, 1) as isize
                    });
                    call("release", &[libc::EINVAL, libc::EBADMSG, libc::EOVERFLOW], || {
                        mdg_ring_release(ring, 1) as isize
                    });
                }
                11 => {
                    let stats = self.stat();
                    assert!(stats.length <= 2 * stats.capacity.max(CAPACITY + u64::from(HANDLES)));
                }
                12 => {
                    let events = 1 + 3 * (timeout as u32 & 1);
                    let codes = &[PUSH, &[libc::ENOSYS]].concat();
                    call("fd", codes, || mdg_ring_fd(ring, events) as isize);
                }
                13 => {
                    let mut wait = mdg_wait { ring, fd: -1, events: 5, ready: 0, reserved: 0 };
                    call("wait_any", PUSH, || mdg_wait_any(&raw mut wait, 1, timeout) as isize);
                }
                14 if timeout != 0 => {
                    call("shutdown", &[libc::EACCES], || mdg_ring_shutdown(ring) as isize);
                }
                14 => _ = call("cancel", &[], || mdg_ring_cancel(ring) as isize),
                _ => _ = call("lost", &[], || mdg_ring_lost(ring) as isize),
            }
        }
    }
}

/// The regions that a target writes over.
enum Region {
    /// Roles and slots.
    Participants,
    /// Indices, intents, cells.
    Cells,
}

impl Region {
    fn place(&self, plan: &mut Plan<'_>, items: u64, length: u64) -> u64 {
        // The lines of the control page, and the words on them.
        let control = |line: u64, word: u64| CONTROL + 128 * line + 4 * word;
        match (self, plan.choose(8)) {
            (Self::Participants, 0) => control(5 + plan.choose(2), plan.choose(3)),
            (Self::Participants, 1) => control(12 + plan.choose(2), 0),
            (Self::Participants, 2) => control(plan.choose(32), plan.choose(4)),
            (Self::Participants, _) => {
                SLOTS + 128 * plan.choose(HANDLES.into()) + 4 * plan.choose(24)
            }
            (Self::Cells, 0..3) => control(plan.choose(14), 0),
            (Self::Cells, 3) => {
                SLOTS + 128 * plan.choose(HANDLES.into()) + 0x40 + 8 * plan.choose(4)
            }
            (Self::Cells, _) => items + 8 * plan.word(2) % (length - items),
        }
    }
}

fn play(input: &[u8], region: &Region) {
    let mut plan = Plan::new(input);
    let options = options(&mut plan);
    let access = |plan: &mut Plan<'_>| {
        [libc::O_RDWR, libc::O_RDWR, libc::O_RDONLY, libc::O_WRONLY][plan.choose(4) as usize]
    };
    // SAFETY: `out` is writable, the options have their size.
    let first = Handle::made("mdg_ring_open", &[], |out| unsafe {
        mdg_ring_open(out, ptr::null(), &raw const options, libc::O_RDWR, 0)
    });
    let first = first.unwrap();
    let image = Image::of(first.memory());
    let items = SLOTS + 128 * u64::from(HANDLES);
    let length = image.len();
    let mut handles = vec![first];
    for _ in 0..64 {
        if plan.is_over() {
            break;
        }
        let which = plan.choose(handles.len() as u64) as usize;
        match plan.choose(16) {
            0..6 => {
                let at = region.place(&mut plan, items, length);
                image.overlay(&mut plan, at);
            }
            // The flag that ends it all is taken back, as an enemy would.
            6 => image.write(CONTROL + 0x200, &[0; 8]),
            7 if handles.len() < 6 => {
                let access = access(&mut plan);
                let memory = handles[0].memory();
                // SAFETY: `out` is writable, no options.
                handles.extend(Handle::made("mdg_ring_from_fd", OPEN, |out| unsafe {
                    mdg_ring_from_fd(out, memory, ptr::null(), access)
                }));
            }
            8 if handles.len() < 6 => {
                let access = access(&mut plan);
                let ring = handles[which].0;
                // SAFETY: a live handle, `out` is writable.
                handles.extend(Handle::made("mdg_ring_dup", OPEN, |out| unsafe {
                    mdg_ring_dup(out, ring, access)
                }));
            }
            9 if which > 0 => drop(handles.swap_remove(which)),
            _ => handles[which].operate(&mut plan, ITEM as usize),
        }
    }
}

/// Roles, slots, doorbells.
pub fn participants(input: &[u8]) {
    play(input, &Region::Participants);
}

/// Indices, cells, intents, cursors.
pub fn cells(input: &[u8]) {
    play(input, &Region::Cells);
}
