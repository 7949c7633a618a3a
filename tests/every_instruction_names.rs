//! A process is killed while it makes, opens, closes or unlinks a ring. What others see of these is
//! changed by system calls, which only real kills can show: at each one, before and after it; and,
//! farther apart, after instructions.
//!
//! `cargo test` tries every so-manieth place; MADANG_LONG=1 each system call, and more of the instructions.
#![cfg(target_arch = "x86_64")]

mod support;

use std::ffi::CString;
use std::ptr;

use madang::ffi::ring::*;
use support::halted::{CREATE, Call, leftovers, names};
use support::step::{Release, release, turn};
use support::unique;

fn ring_options(kind: u32, policy: u32) -> mdg_ring_opts {
    mdg_ring_opts {
        size: size_of::<mdg_ring_opts>(),
        capacity: 4,
        item_size: 8,
        kind,
        max_handles: 3,
        policy,
        flags: if kind == MDG_RING_BROADCAST { MDG_RING_OLDEST } else { 0 },
        item_align: 0,
    }
}

/// A named ring of one kind.
struct Named {
    lib: &'static Release,
    text: String,
    name: CString,
    options: mdg_ring_opts,
}

impl Named {
    fn new(kind: u32, policy: u32) -> Self {
        let text = unique("named");
        let name = CString::new(text.clone()).unwrap();
        Self { lib: release(), text, name, options: ring_options(kind, policy) }
    }

    fn open(&self, oflag: i32) -> Result<*mut mdg_ring, i32> {
        let mut ring = ptr::null_mut();
        let options = &raw const self.options;
        // SAFETY: writable, a C string, options with their size.
        match unsafe { (self.lib.open)(&raw mut ring, self.name.as_ptr(), options, oflag, 0o600) } {
            0 => Ok(ring),
            code => Err(code),
        }
    }

    /// Where the ring is in /dev/shm: once, or not at all.
    fn is_there(&self) -> bool {
        let names = names(&self.text[1..]);
        assert!(names.len() <= 1, "{names:?}");
        !names.is_empty()
    }

    fn unlink(&self) -> i32 {
        // SAFETY: a C string.
        unsafe { (self.lib.unlink)(self.name.as_ptr()) }
    }

    fn close(&self, ring: *mut mdg_ring) {
        // SAFETY: a live handle that nobody uses any more.
        unsafe { (self.lib.close)(ring) };
    }

    fn push(&self, ring: *mut mdg_ring, item: u64) -> i32 {
        // SAFETY: a live handle, an item of 8 bytes.
        unsafe { (self.lib.push)(ring, (&raw const item).cast(), 0) }
    }

    /// What is inside comes out, an item goes through, and all handles can be open at once.
    fn is_usable(&self) {
        let handles = [libc::O_RDONLY, libc::O_RDWR].map(|oflag| self.open(oflag).unwrap());
        let pop = || {
            let mut item = 0_u64;
            // SAFETY: a live handle, room for an item.
            let code = unsafe { (self.lib.pop)(handles[0], (&raw mut item).cast(), 0) };
            if code == 0 { Ok(item) } else { Err(code) }
        };
        while pop().is_ok() {}
        assert_eq!(pop(), Err(-libc::EAGAIN));
        assert_eq!(self.push(handles[1], 7), 0);
        assert_eq!(pop(), Ok(7));
        let third = (self.options.kind != MDG_RING_SPSC).then(|| self.open(libc::O_RDWR).unwrap());
        handles.into_iter().chain(third).for_each(|ring| self.close(ring));
    }
}

const KINDS: [(&str, u32, u32); 8] = [
    ("one to one", MDG_RING_SPSC, 0),
    ("many to many", MDG_RING_MPMC, 0),
    ("many to many, overwriting", MDG_RING_MPMC, MDG_RING_OVERWRITE),
    ("many to many, redelivering", MDG_RING_MPMC, MDG_RING_REDELIVER),
    ("stop-proof", MDG_RING_MPMC, MDG_RING_STOPPROOF),
    ("broadcast", MDG_RING_BROADCAST, 0),
    ("broadcast, evicting", MDG_RING_BROADCAST, MDG_RING_EVICT),
    ("broadcast, overwriting", MDG_RING_BROADCAST, MDG_RING_OVERWRITE),
];

/// A name leads to a whole ring or to nothing, and nothing else is left behind.
#[test]
fn a_ring_is_made_whole_or_not_at_all() {
    let _turn = turn();
    for (object, kind, policy) in KINDS {
        let named = Named::new(kind, policy);
        let before = leftovers();
        Call::far(object, "make", named.lib.open as usize).killed(
            || (),
            |()| assert!(named.open(CREATE).is_ok()),
            || {
                let found = named.open(libc::O_RDWR);
                assert_eq!(found.is_ok(), named.is_there(), "{found:?}");
                named.close(found.or_else(|_| named.open(CREATE)).unwrap());
                named.is_usable();
                assert_eq!(named.unlink(), 0);
                assert!(!named.is_there());
                assert!(leftovers() <= before, "a temporary name was left");
            },
        );
    }
}

/// A handle that was being opened or closed leaves its place, and its end, to the next.
#[test]
fn a_handle_is_there_or_not() {
    let _turn = turn();
    for (object, kind, policy) in KINDS {
        let named = Named::new(kind, policy);
        let keeper = named.open(CREATE).unwrap();
        let check = || {
            let others = [libc::O_RDONLY, libc::O_WRONLY].map(|oflag| named.open(oflag).unwrap());
            others.into_iter().for_each(|ring| named.close(ring));
        };
        for (name, oflag) in
            [("open, O_WRONLY", libc::O_WRONLY), ("open, O_RDONLY", libc::O_RDONLY)]
        {
            Call::far(object, name, named.lib.open as usize).killed(
                || (),
                |()| assert!(named.open(oflag).is_ok()),
                check,
            );
        }
        let used = || {
            let ring = named.open(libc::O_RDWR).unwrap();
            assert_eq!(named.push(ring, 1), 0);
            let mut item = 0_u64;
            // SAFETY: a live handle, room for an item.
            unsafe { (named.lib.pop)(ring, (&raw mut item).cast(), 0) };
            ring
        };
        let close = Call::far(object, "close", named.lib.close as usize);
        Call { instruction: 499, apart: 7, ..close }.killed(used, |ring| named.close(*ring), check);
        named.close(keeper);
        named.is_usable();
        assert_eq!(named.unlink(), 0);
    }
}

/// It has its name or not; if it has, the next unlink removes it.
#[test]
fn a_ring_is_unlinked_or_not() {
    let _turn = turn();
    let named = Named::new(MDG_RING_MPMC, 0);
    let unlink = named.lib.unlink as usize;
    let call = Call { kernel: 1, apart: 97, ..Call::far("a ring", "unlink", unlink) };
    call.killed(
        || named.close(named.open(CREATE).unwrap()),
        |()| assert_eq!(named.unlink(), 0),
        || {
            let there = named.is_there();
            assert_eq!(named.unlink(), if there { 0 } else { -libc::ENOENT });
            assert!(!named.is_there());
        },
    );
}
