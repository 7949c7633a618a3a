//! A process is killed while it makes or unlinks a semaphore of either kind, a mutex, a condition variable:
//! at each system call, before and after it, and after some instructions. The name then leads to a whole
//! object or to nothing, and what else is left `mdg_object_reap` clears away.
//!
//! `cargo test` tries every so-manieth place; MADANG_LONG=1 each system call, and more of the instructions.
#![cfg(target_arch = "x86_64")]

mod support;

use std::cell::Cell;
use std::ffi::{CString, c_int, c_void};
use std::ptr;

use madang::ffi::object::*;
use madang::ffi::sem::{MDG_SEM_POSIX, MDG_SEM_UNDO, mdg_sem_opts};
use nix::errno::Errno;
use support::confine::deny_bits;
use support::halted::{BOUND, CREATE, Call, names};
use support::step::{Victim, release, turn};
use support::unique;

/// What has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Posix,
    Undo,
    Mutex,
    Cond,
}

use Kind::*;

const ALL: [(&str, Kind); 4] = [
    ("semaphore", Posix),
    ("semaphore, MDG_SEM_UNDO", Undo),
    ("mutex", Mutex),
    ("condition variable", Cond),
];

/// Permits of a semaphore.
const VALUE: u32 = 2;

/// A name, which may lead to an object of that kind.
struct Named {
    kind: Kind,
    text: String,
    name: CString,
}

impl Named {
    fn new(kind: Kind) -> Self {
        let text = unique("making");
        let name = CString::new(text.clone()).unwrap();
        Self { kind, text, name }
    }

    /// Where its calls begin.
    fn calls(&self) -> [usize; 2] {
        let lib = release();
        match self.kind {
            Posix | Undo => [lib.sem_open as usize, lib.sem_unlink as usize],
            Mutex => [lib.mutex_open as usize, lib.mutex_unlink as usize],
            Cond => [lib.cond_open as usize, lib.cond_unlink as usize],
        }
    }

    fn open(&self, oflag: c_int) -> Result<*mut c_void, c_int> {
        let (lib, name, mut made) = (release(), self.name.as_ptr(), ptr::null_mut::<c_void>());
        let out = &raw mut made;
        let (kind, max_handles) =
            if self.kind == Undo { (MDG_SEM_UNDO, 2) } else { (MDG_SEM_POSIX, 0) };
        let size = size_of::<mdg_sem_opts>();
        let opts = mdg_sem_opts { size, value: VALUE, kind, flags: 0, max_handles };
        // SAFETY: a writable pointer to a handle, a C string, options with their size.
        let code = unsafe {
            match self.kind {
                Posix | Undo => (lib.sem_open)(out.cast(), name, &raw const opts, oflag, 0o600),
                Mutex => (lib.mutex_open)(out.cast(), name, oflag, 0o600),
                Cond => (lib.cond_open)(out.cast(), name, oflag, 0o600),
            }
        };
        if code == 0 { Ok(made) } else { Err(code) }
    }

    fn close(&self, handle: *mut c_void) {
        let lib = release();
        // SAFETY: a live handle of that kind that nobody uses any more.
        unsafe {
            match self.kind {
                Posix | Undo => (lib.sem_close)(handle.cast()),
                Mutex => (lib.mutex_close)(handle.cast()),
                Cond => (lib.cond_close)(handle.cast()),
            }
        }
    }

    fn unlink(&self) -> c_int {
        let (lib, name) = (release(), self.name.as_ptr());
        // SAFETY: a C string.
        unsafe {
            match self.kind {
                Posix | Undo => (lib.sem_unlink)(name),
                Mutex => (lib.mutex_unlink)(name),
                Cond => (lib.cond_unlink)(name),
            }
        }
    }

    /// Once, or not at all.
    fn is_there(&self) -> bool {
        let names = names(&self.text[1..]);
        assert!(names.len() <= 1, "{names:?}");
        !names.is_empty()
    }

    /// The number of its mechanism for `mdg_object_reap`, which looks after ours only.
    fn mechanism(&self) -> Option<u32> {
        match self.kind {
            Posix => None,
            Undo => Some(MDG_OBJECT_SEM),
            Mutex => Some(MDG_OBJECT_MUTEX),
            Cond => Some(MDG_OBJECT_COND),
        }
    }

    /// A new one, as two handles see it: the other one's too.
    #[track_caller]
    fn is_new(&self, handle: *mut c_void) {
        let lib = release();
        let other = self.open(libc::O_RDWR).unwrap();
        // SAFETY: live handles of that kind.
        unsafe {
            match self.kind {
                Posix | Undo => {
                    assert_eq!((lib.sem_value)(handle.cast()), VALUE as c_int);
                    assert_eq!((lib.sem_wait)(other.cast(), 0), 0);
                    assert_eq!((lib.sem_value)(handle.cast()), VALUE as c_int - 1);
                    assert_eq!((lib.sem_wait)(handle.cast(), 0), 0);
                    assert_eq!((lib.sem_wait)(handle.cast(), 0), -libc::EAGAIN);
                    (0..VALUE).for_each(|i| {
                        let sem = if i == 0 { other } else { handle };
                        assert_eq!((lib.sem_post)(sem.cast()), 0);
                    });
                }
                Mutex => {
                    assert_eq!((lib.mutex_lock)(other.cast(), 0), 0);
                    assert_eq!((lib.mutex_lock)(handle.cast(), 1000), -libc::EDEADLK);
                    assert_eq!((lib.mutex_unlock)(other.cast()), 0);
                    assert_eq!((lib.mutex_lock)(handle.cast(), 0), 0);
                    assert_eq!((lib.mutex_unlock)(handle.cast()), 0);
                }
                Cond => {
                    let mutex = Named::new(Mutex);
                    let held = mutex.open(CREATE).unwrap();
                    assert_eq!((lib.mutex_lock)(held.cast(), BOUND.as_nanos() as i64), 0);
                    let waited = (lib.cond_wait)(handle.cast(), held.cast(), 1000);
                    assert_eq!(waited, -libc::ETIMEDOUT);
                    assert_eq!((lib.mutex_unlock)(held.cast()), 0);
                    assert_eq!((lib.cond_signal)(other.cast()), 0);
                    mutex.close(held);
                    assert_eq!(mutex.unlink(), 0);
                }
            }
        }
        self.close(other);
    }
}

fn reap(mechanism: u32, name: &str) -> c_int {
    let name = CString::new(name).unwrap();
    // SAFETY: a C string.
    unsafe { (release().reap)(mechanism, name.as_ptr(), MDG_REAP_WITH_ITEMS) }
}

/// A name leads to a whole object or to nothing. Where files without a name cannot be had, a file of the
/// victim's own may be left, of which it is known that it is dead.
#[test]
fn an_object_is_made_whole_or_not_at_all() {
    let _turn = turn();
    for (object, kind) in ALL {
        for unnamed in [true, false] {
            let named = Named::new(kind);
            let (mut whole, mut nothing, mut left) = (0, 0, 0);
            let how = if unnamed { "make" } else { "make, without O_TMPFILE" };
            Call { kernel: 1, ..Call::far(object, how, named.calls()[0]) }.halted(
                "killed",
                || {
                    if !unnamed {
                        let bits = (libc::O_TMPFILE & !libc::O_DIRECTORY) as u32;
                        deny_bits(libc::SYS_openat, 2, bits, Errno::EOPNOTSUPP);
                    }
                },
                |()| assert!(named.open(CREATE).is_ok()),
                drop,
                || (),
                |victim: Victim| {
                    let temporary = format!(".mdg.tmp.{}.", victim.pid());
                    victim.kill();
                    let there = named.is_there();
                    let found = named.open(libc::O_RDWR);
                    match found {
                        Ok(_) => assert!(there),
                        Err(code) => assert_eq!((code, there), (-libc::ENOENT, false)),
                    }
                    let temporary = names(&temporary);
                    assert!(temporary.len() <= usize::from(!unnamed), "{temporary:?}");
                    for file in temporary {
                        let name = file.strip_prefix(".mdg.tmp.").unwrap();
                        assert_eq!(reap(MDG_OBJECT_TEMPORARY, name), 1);
                        assert_eq!(reap(MDG_OBJECT_TEMPORARY, name), -libc::ENOENT);
                        left += 1;
                    }
                    *if there { &mut whole } else { &mut nothing } += 1;
                    let handle = found.or_else(|_| named.open(CREATE)).unwrap();
                    named.is_new(handle);
                    if let Some(mechanism) = named.mechanism() {
                        assert_eq!(reap(mechanism, &named.text), -libc::EBUSY);
                        named.close(handle);
                        assert_eq!(reap(mechanism, &named.text), 1);
                    } else {
                        named.close(handle);
                        assert_eq!(named.unlink(), 0);
                    }
                    assert_eq!(named.unlink(), -libc::ENOENT);
                    assert!(!named.is_there());
                },
            );
            // Every outcome was seen, or the places are not where they should be.
            assert!(whole > 0 && nothing > 0, "{object}: {whole} whole, {nothing} nothing");
            assert_eq!(left > 0, !unnamed, "{object}: {left} temporary files");
        }
    }
}

/// It has its name or not; who has it open goes on with it, and the name is free for another one or
/// still leads there.
#[test]
fn an_object_is_unlinked_or_not() {
    let _turn = turn();
    for (object, kind) in ALL {
        let named = Named::new(kind);
        let keeper = Cell::new(ptr::null_mut());
        let (mut there, mut gone) = (0, 0);
        let unlink =
            Call { kernel: 1, instruction: 1499, ..Call::far(object, "unlink", named.calls()[1]) };
        Call { apart: 97, ..unlink }.halted(
            "killed",
            || (),
            |()| assert_eq!(named.unlink(), 0),
            drop,
            || keeper.set(named.open(CREATE).unwrap()),
            |victim| {
                victim.kill();
                let keeper = keeper.get();
                if named.is_there() {
                    // The same one, as both see.
                    named.is_new(keeper);
                    assert_eq!(named.unlink(), 0);
                    there += 1;
                } else {
                    assert_eq!(named.unlink(), -libc::ENOENT);
                    gone += 1;
                }
                assert_eq!(named.open(libc::O_RDWR), Err(-libc::ENOENT));
                let next = named.open(CREATE).unwrap();
                if matches!(kind, Posix | Undo) {
                    // SAFETY: a live handle.
                    assert_eq!(unsafe { (release().sem_wait)(keeper.cast(), 0) }, 0);
                }
                named.is_new(next);
                named.close(keeper);
                named.close(next);
                assert_eq!(named.unlink(), 0);
                assert!(!named.is_there());
            },
        );
        assert!(there > 0 && gone > 0, "{object}: {there} there, {gone} gone");
    }
}
