//! A process is killed in calls that work with names and with the kernel: making, opening and unlinking
//! rings, semaphores whose permits come back, mutexes. What others see of these is changed by system
//! calls, or by few words: killed for real at every system call and at every so-manieth instruction.
#![cfg(target_arch = "x86_64")]

mod support;

use std::ffi::CString;
use std::ops::ControlFlow;
use std::ptr;

use madang::ffi::ring::*;
use madang::ffi::sem::{MDG_SEM_UNDO, mdg_sem_opts};
use support::process::{serial, shared_words};
use support::step::{At, Release, Victim, release};
use support::unique;

/// Names in /dev/shm that belong to this test's object, or are left-overs of its victim.
fn names(part: &str) -> Vec<String> {
    let names = std::fs::read_dir("/dev/shm").unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains(part)).collect()
}

/// Kills a victim in `act` at each place in turn, until it gets through; `check` looks each time.
fn killed_at_each<S>(
    calls: &[usize],
    stride: u64,
    prepare: impl Fn() -> S,
    act: impl Fn(&mut S),
    mut check: impl FnMut(),
) -> u64 {
    let mark = &shared_words(1)[0];
    let is_long = std::env::var_os("MADANG_LONG").is_some_and(|value| value == "1");
    let stride = if is_long { stride } else { stride * 37 };
    let (mut kills, mut reached) = (0, 0);
    loop {
        let victim = Victim::new(mark, &prepare, &act, drop);
        let mut is_over = true;
        // Farther and farther apart in the short run: some calls look through the whole of /dev/shm.
        let from = if is_long { reached } else { reached + reached / 8 };
        victim.step(calls, |at| match at {
            At::Inside { instructions, kernel } if instructions > from => {
                if kernel || instructions % stride == 0 {
                    reached = instructions;
                    is_over = false;
                    return ControlFlow::Break(());
                }
                ControlFlow::Continue(())
            }
            _ => ControlFlow::Continue(()),
        });
        victim.kill();
        check();
        kills += 1;
        if is_over {
            return kills;
        }
    }
}

fn ring_options() -> mdg_ring_opts {
    mdg_ring_opts {
        size: size_of::<mdg_ring_opts>(),
        capacity: 4,
        item_size: 8,
        kind: MDG_RING_MPMC,
        max_handles: 2,
        policy: 0,
        flags: 0,
        reserved: 0,
    }
}

fn open_ring(lib: &Release, name: &CString, oflag: i32) -> Result<*mut mdg_ring, i32> {
    let (mut ring, options) = (ptr::null_mut(), ring_options());
    // SAFETY: writable, a C string, options with their size.
    match unsafe { (lib.open)(&raw mut ring, name.as_ptr(), &raw const options, oflag, 0o600) } {
        0 => Ok(ring),
        code => Err(code),
    }
}

/// A name leads to a whole ring or to nothing, and nothing else is left behind.
#[test]
fn a_ring_is_made_whole_or_not_at_all() {
    let _turn = serial();
    let lib = release();
    let text = unique("made");
    let name = CString::new(text.clone()).unwrap();
    let create = libc::O_RDWR | libc::O_CREAT;
    let before = names("mdg.tmp").len();
    let kills = killed_at_each(
        &[lib.open as usize],
        50,
        || (),
        |()| assert!(open_ring(lib, &name, create).is_ok()),
        || {
            let there = names(&text[1..]);
            let found = open_ring(lib, &name, libc::O_RDWR);
            assert_eq!(found.is_ok(), there.len() == 1, "{there:?}, {found:?}");
            let ring = found.or_else(|_| open_ring(lib, &name, create)).unwrap();
            let (mut item, mut got) = (7_u64, 0_u64);
            // SAFETY: a live handle, items of 8 bytes.
            unsafe {
                assert_eq!((lib.push)(ring, (&raw mut item).cast(), 0), 0);
                assert_eq!((lib.pop)(ring, (&raw mut got).cast(), 0), 0);
                (lib.close)(ring);
                assert_eq!((lib.unlink)(name.as_ptr()), 0);
            }
            assert_eq!((got, names(&text[1..]).len(), names("mdg.tmp").len()), (7, 0, before));
        },
    );
    println!("| named ring | open, O_CREAT | {kills} |");
}

/// It has its name or not; if it has, the next unlink removes it.
#[test]
fn a_ring_is_unlinked_or_not() {
    let _turn = serial();
    let lib = release();
    let text = unique("unlinked");
    let name = CString::new(text.clone()).unwrap();
    let create = || {
        let ring = open_ring(lib, &name, libc::O_RDWR | libc::O_CREAT).unwrap();
        // SAFETY: a live handle.
        unsafe { (lib.close)(ring) };
    };
    let kills = killed_at_each(
        &[lib.unlink as usize],
        10,
        create,
        // SAFETY: a C string.
        |()| assert_eq!(unsafe { (lib.unlink)(name.as_ptr()) }, 0),
        || {
            let there = names(&text[1..]).len();
            // SAFETY: a C string.
            let code = unsafe { (lib.unlink)(name.as_ptr()) };
            assert_eq!(code, if there == 1 { 0 } else { -libc::ENOENT });
            assert_eq!(names(&text[1..]).len(), 0);
        },
    );
    println!("| named ring | unlink | {kills} |");
}

/// Permits come back, each once, wherever their holder is killed.
#[test]
fn permits_come_back() {
    let _turn = serial();
    let lib = release();
    let name = CString::new(unique("permits")).unwrap();
    let open = || {
        let (size, mut sem) = (size_of::<mdg_sem_opts>(), ptr::null_mut());
        let opts = mdg_sem_opts { size, value: 3, kind: MDG_SEM_UNDO, flags: 0, max_handles: 4 };
        let create = libc::O_RDWR | libc::O_CREAT;
        // SAFETY: writable, a C string, options with their size.
        let code =
            unsafe { (lib.sem_open)(&raw mut sem, name.as_ptr(), &raw const opts, create, 0o600) };
        assert_eq!(code, 0);
        sem
    };
    let survivor = open();
    let check = || {
        // SAFETY: a live handle.
        unsafe {
            assert_eq!((lib.sem_value)(survivor), 3);
            (0..3).for_each(|_| assert_eq!((lib.sem_wait)(survivor, 0), 0));
            assert_eq!((lib.sem_wait)(survivor, 0), -libc::EAGAIN);
            (0..3).for_each(|_| assert_eq!((lib.sem_post)(survivor), 0));
        }
    };
    // SAFETY: a live handle, here and below.
    let wait = |sem| unsafe { assert_eq!((lib.sem_wait)(sem, 0), 0) };
    let kills = killed_at_each(&[lib.sem_wait as usize], 1, open, |sem| wait(*sem), check);
    println!("| semaphore | wait | {kills} |");
    let holding = || {
        let sem = open();
        wait(sem);
        sem
    };
    // SAFETY: a live handle.
    let post = |sem: &mut _| unsafe { assert_eq!((lib.sem_post)(*sem), 0) };
    let kills = killed_at_each(&[lib.sem_post as usize], 1, holding, post, check);
    println!("| semaphore | post | {kills} |");
    // SAFETY: a live handle.
    let close = |sem: &mut _| unsafe { (lib.sem_close)(*sem) };
    let kills = killed_at_each(&[lib.sem_close as usize], 20, holding, close, check);
    println!("| semaphore | close | {kills} |");
    // SAFETY: a live handle that nobody uses any more; a C string.
    unsafe {
        (lib.sem_close)(survivor);
        assert_eq!((lib.sem_unlink)(name.as_ptr()), 0);
    }
}

/// The next one gets the mutex, and is told if it was held.
#[test]
fn a_mutex_is_handed_on() {
    let _turn = serial();
    let lib = release();
    let name = CString::new(unique("mutex")).unwrap();
    let open = || {
        let mut mutex = ptr::null_mut();
        let create = libc::O_RDWR | libc::O_CREAT;
        // SAFETY: writable, a C string.
        let code = unsafe { (lib.mutex_open)(&raw mut mutex, name.as_ptr(), create, 0o600) };
        assert_eq!(code, 0);
        mutex
    };
    let survivor = open();
    let check = || {
        // SAFETY: a live handle.
        unsafe {
            let code = (lib.mutex_lock)(survivor, 2_000_000_000);
            if code != 0 {
                assert_eq!(code, -libc::EOWNERDEAD);
                assert_eq!((lib.mutex_consistent)(survivor), 0);
            }
            assert_eq!((lib.mutex_unlock)(survivor), 0);
            assert_eq!((lib.mutex_lock)(survivor, 0), 0);
            assert_eq!((lib.mutex_unlock)(survivor), 0);
        }
    };
    // SAFETY: a live handle, here and below.
    let lock = |mutex| unsafe { assert_eq!((lib.mutex_lock)(mutex, 0), 0) };
    let kills = killed_at_each(&[lib.mutex_lock as usize], 1, open, |mutex| lock(*mutex), check);
    println!("| mutex | lock | {kills} |");
    let holding = || {
        let mutex = open();
        lock(mutex);
        mutex
    };
    // SAFETY: a live handle.
    let unlock = |mutex: &mut _| unsafe { assert_eq!((lib.mutex_unlock)(*mutex), 0) };
    let kills = killed_at_each(&[lib.mutex_unlock as usize], 1, holding, unlock, check);
    println!("| mutex | unlock | {kills} |");
    // SAFETY: a live handle that nobody uses any more; a C string.
    unsafe {
        (lib.mutex_close)(survivor);
        assert_eq!((lib.mutex_unlink)(name.as_ptr()), 0);
    }
}
