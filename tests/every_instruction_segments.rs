//! A process is killed while it makes a ring, or a semaphore whose permits come back, in a segment: at each
//! system call, before and after it, and after some instructions. Where it was making there is the old
//! object, a whole new one, or none; the next one makes its own there; the neighbours notice nothing.
//!
//! `cargo test` tries every so-manieth place; MADANG_LONG=1 each system call, and more of the instructions.
#![cfg(target_arch = "x86_64")]

mod support;

use std::ptr;
use std::slice;

use madang::ffi::ring::*;
use madang::ffi::sem::{MDG_SEM_UNDO, mdg_sem, mdg_sem_opts};
use madang::ffi::shm::mdg_shm;
use support::halted::Call;
use support::step::{release, turn};

const PAGE: usize = 4096;

/// What stands on both sides of the object.
const NEIGHBOUR: u8 = 0xa5;

/// A segment with a place for an object, and a page of others' data before and behind it.
struct Segment {
    shm: *mut mdg_shm,
    bytes: usize,
}

impl Segment {
    fn new(bytes: usize) -> Self {
        let mut shm = ptr::null_mut();
        // SAFETY: a writable pointer.
        assert_eq!(unsafe { (release().shm_anonymous)(&raw mut shm, bytes + 2 * PAGE, 0) }, 0);
        let segment = Self { shm, bytes };
        let (before, behind) = segment.neighbours();
        before.fill(NEIGHBOUR);
        behind.fill(NEIGHBOUR);
        segment
    }

    fn at(&self, offset: usize, bytes: usize) -> &'static mut [u8] {
        // SAFETY: within the mapping, which stays; nobody else is running who writes there.
        unsafe {
            let start = (release().shm_addr)(self.shm).cast::<u8>();
            slice::from_raw_parts_mut(start.add(offset), bytes)
        }
    }

    fn neighbours(&self) -> (&'static mut [u8], &'static mut [u8]) {
        (self.at(0, PAGE), self.at(PAGE + self.bytes, PAGE))
    }

    /// The place is as a new segment has it.
    fn clear(&self) {
        self.at(PAGE, self.bytes).fill(0);
    }

    fn neighbours_are_well(&self) {
        let (before, behind) = self.neighbours();
        assert!(before.iter().chain(behind.iter()).all(|&byte| byte == NEIGHBOUR));
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: a live handle that nobody uses any more.
        unsafe { (release().shm_close)(self.shm) };
    }
}

fn ring_options(kind: u32, policy: u32) -> mdg_ring_opts {
    mdg_ring_opts {
        size: size_of::<mdg_ring_opts>(),
        capacity: 4,
        item_size: 8,
        kind,
        max_handles: 2,
        policy,
        flags: if kind == MDG_RING_BROADCAST { MDG_RING_OLDEST } else { 0 },
        item_align: 0,
    }
}

struct RingPlace {
    segment: Segment,
    options: mdg_ring_opts,
}

impl RingPlace {
    fn handle(&self, new: bool) -> Result<*mut mdg_ring, i32> {
        let (lib, mut ring) = (release(), ptr::null_mut());
        let call = if new { lib.init } else { lib.attach };
        let (shm, options) = (self.segment.shm, &raw const self.options);
        // SAFETY: writable, a live segment, options with their size.
        match unsafe { call(&raw mut ring, shm, PAGE, options, libc::O_RDWR) } {
            0 => Ok(ring),
            code => Err(code),
        }
    }

    fn push(&self, ring: *mut mdg_ring, item: u64) -> i32 {
        // SAFETY: a live handle, an item of 8 bytes.
        unsafe { (release().push)(ring, (&raw const item).cast(), 0) }
    }

    fn pop(&self, ring: *mut mdg_ring) -> Result<u64, i32> {
        let mut item = 0_u64;
        // SAFETY: a live handle, room for an item.
        let code = unsafe { (release().pop)(ring, (&raw mut item).cast(), 0) };
        if code == 0 { Ok(item) } else { Err(code) }
    }

    fn close(&self, ring: *mut mdg_ring) {
        // SAFETY: a live handle that nobody uses any more.
        unsafe { (release().close)(ring) };
    }

    /// All of what is inside, and `capacity` items go through.
    #[track_caller]
    fn drain(&self, ring: *mut mdg_ring) -> Vec<u64> {
        let found: Vec<_> = std::iter::from_fn(|| self.pop(ring).ok()).collect();
        for round in 0..2 {
            for item in 0..self.options.capacity {
                assert_eq!(self.push(ring, 100 * round + item), 0);
            }
            for item in 0..self.options.capacity {
                assert_eq!(self.pop(ring), Ok(100 * round + item));
            }
            assert_eq!(self.pop(ring), Err(-libc::EAGAIN));
        }
        found
    }
}

const KINDS: [(&str, u32, u32); 5] = [
    ("one to one, in a segment", MDG_RING_SPSC, 0),
    ("many to many, in a segment", MDG_RING_MPMC, 0),
    ("stop-proof, in a segment", MDG_RING_MPMC, MDG_RING_STOPPROOF),
    ("broadcast, in a segment", MDG_RING_BROADCAST, 0),
    ("broadcast, overwriting, in a segment", MDG_RING_BROADCAST, MDG_RING_OVERWRITE),
];

/// The item of a ring that was there before.
const OLD: u64 = 77;

#[test]
fn a_ring_in_a_segment_is_old_or_new_or_none() {
    let _turn = turn();
    let lib = release();
    for (object, kind, policy) in KINDS {
        let options = ring_options(kind, policy);
        // SAFETY: options with their size.
        let bytes = unsafe { (lib.footprint)(&raw const options) };
        let place = RingPlace { segment: Segment::new(bytes.try_into().unwrap()), options };
        for over in [false, true] {
            let (mut old, mut new, mut none) = (0, 0, 0);
            let name = if over { "mdg_ring_init, over another" } else { "mdg_ring_init" };
            let instruction = if over && (kind, policy) == (MDG_RING_MPMC, 0) { 13999 } else { 0 };
            let call =
                Call { instruction, apart: 4999, ..Call::far(object, name, lib.init as usize) };
            Call { kernel: 1, ..call }.halted(
                "killed",
                || (),
                |()| assert!(place.handle(true).is_ok()),
                drop,
                || {
                    place.segment.clear();
                    if over {
                        let ring = place.handle(true).unwrap();
                        assert_eq!(place.push(ring, OLD), 0);
                        place.close(ring);
                    }
                },
                |victim| {
                    victim.kill();
                    place.segment.neighbours_are_well();
                    match place.handle(false) {
                        Ok(ring) => {
                            match place.drain(ring)[..] {
                                [] => new += 1,
                                [OLD] if over => old += 1,
                                ref other => panic!("{other:?}"),
                            }
                            assert_eq!(place.handle(true), Err(-libc::EBUSY), "somebody lives");
                            place.close(ring);
                        }
                        Err(code) => {
                            assert_eq!(code, -libc::EPROTO);
                            none += 1;
                        }
                    }
                    let ring = place.handle(true).expect("the next one makes it");
                    let other = match kind {
                        MDG_RING_MPMC => Some(place.handle(false).unwrap()),
                        _ => None,
                    };
                    assert!(place.drain(ring).is_empty());
                    other.into_iter().chain([ring]).for_each(|ring| place.close(ring));
                    place.segment.neighbours_are_well();
                },
            );
            assert_eq!(old > 0, over, "{object}: {old}, {new}, {none}");
            assert!(new > 0 && (none > 0 || over), "{object}: {old}, {new}, {none}");
        }
    }
}

/// Permits of the semaphore that is made, and of one that was there before.
const NEW_VALUE: u32 = 3;
const OLD_VALUE: u32 = 5;

#[test]
fn a_semaphore_in_a_segment_is_old_or_new_or_none() {
    let _turn = turn();
    let lib = release();
    let size = size_of::<mdg_sem_opts>();
    let options =
        |value| mdg_sem_opts { size, value, kind: MDG_SEM_UNDO, flags: 0, max_handles: 2 };
    // SAFETY: options with their size.
    let bytes = unsafe { (lib.sem_undo_footprint)(&options(0)) };
    let segment = Segment::new(bytes.try_into().unwrap());
    let handle = |value: Option<u32>| {
        let mut sem: *mut mdg_sem = ptr::null_mut();
        let options = options(value.unwrap_or(0));
        let call = if value.is_some() { lib.sem_undo_init } else { lib.sem_undo_attach };
        // SAFETY: writable, a live segment, options with their size.
        match unsafe { call(&raw mut sem, segment.shm, PAGE, &raw const options) } {
            0 => Ok(sem),
            code => Err(code),
        }
    };
    // SAFETY: a live handle that nobody uses any more.
    let close = |sem| unsafe { (lib.sem_close)(sem) };
    // How many permits there are, by taking them; they come back.
    let permits = |sem| {
        // SAFETY: a live handle.
        unsafe {
            let there = (0..).take_while(|_| (lib.sem_wait)(sem, 0) == 0).count();
            assert_eq!((lib.sem_wait)(sem, 0), -libc::EAGAIN);
            (0..there).for_each(|_| assert_eq!((lib.sem_post)(sem), 0));
            assert_eq!((lib.sem_value)(sem) as usize, there);
            there as u32
        }
    };
    for over in [false, true] {
        let (mut old, mut new, mut none) = (0, 0, 0);
        let name = if over { "mdg_sem_undo_init, over another" } else { "mdg_sem_undo_init" };
        let call = Call::far("semaphore, in a segment", name, lib.sem_undo_init as usize);
        Call { kernel: 1, instruction: if over { 13999 } else { 0 }, apart: 4999, ..call }.halted(
            "killed",
            || (),
            |()| assert!(handle(Some(NEW_VALUE)).is_ok()),
            drop,
            || {
                segment.clear();
                if over {
                    close(handle(Some(OLD_VALUE)).unwrap());
                }
            },
            |victim| {
                victim.kill();
                segment.neighbours_are_well();
                match handle(None) {
                    Ok(sem) => {
                        match permits(sem) {
                            NEW_VALUE => new += 1,
                            OLD_VALUE if over => old += 1,
                            other => panic!("{other} permits"),
                        }
                        assert_eq!(handle(Some(1)), Err(-libc::EBUSY), "somebody lives");
                        close(sem);
                    }
                    Err(code) => {
                        assert_eq!(code, -libc::EPROTO);
                        none += 1;
                    }
                }
                let sem = handle(Some(NEW_VALUE)).expect("the next one makes it");
                let other = handle(None).unwrap();
                assert_eq!((permits(sem), permits(other)), (NEW_VALUE, NEW_VALUE));
                close(sem);
                close(other);
                segment.neighbours_are_well();
            },
        );
        assert_eq!(old > 0, over, "{old}, {new}, {none}");
        assert!(new > 0 && (none > 0 || over), "{old}, {new}, {none}");
    }
}
