//! The guard against SIGBUS, in processes of its own: it is for a whole process.

mod support;

use std::sync::atomic::{AtomicU32, Ordering};

use madang::ffi::shm::*;
use madang::ring::{Kind, Options, Ring, policy};
use madang::shm::Shm;
use madang::{Access, Timeout};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use nix::sys::wait::WaitStatus;
use support::face::{FOREVER, NOWAIT, open_flags, refused_with};
use support::page;
use support::process::{Gate, as_nobody, fork, is_root, join, serial};
use support::ring_face::{C, CREATE, Face, Named};

fn segment() -> (Shm, String) {
    let name = support::unique("bus");
    let flags = open_flags(libc::O_RDWR | libc::O_CREAT);
    let segment = Shm::open(name.as_bytes(), 3 * page(), flags, 0o600).unwrap();
    Shm::unlink(name.as_bytes()).unwrap();
    (segment, name)
}

/// Cuts `segment` to a page and touches what is gone.
fn touch_what_is_gone(segment: &Shm) -> u8 {
    nix::unistd::ftruncate(segment, page() as i64).unwrap();
    // SAFETY: mapped; whether it can be touched is the question.
    unsafe { segment.as_ptr().add(2 * page()).read_volatile() }
}

#[test]
fn without_the_guard_it_is_death() {
    let _turn = serial();
    let (segment, _) = segment();
    let child = fork(|| {
        touch_what_is_gone(&segment);
    });
    let status = child.end();
    assert!(matches!(status, WaitStatus::Signaled(_, Signal::SIGBUS, _)), "{status:?}");
}

#[test]
fn with_the_guard_it_is_zeros_and_an_answer() {
    let _turn = serial();
    let (segment, _) = segment();
    let child = fork(|| {
        assert_eq!(mdg_sigbus_guard(), 0);
        assert_eq!(mdg_sigbus_guard(), 0);
        // SAFETY: three mapped pages.
        unsafe { segment.as_ptr().write_bytes(7, 3 * page()) };
        assert!(!segment.is_cut());
        assert_eq!(touch_what_is_gone(&segment), 0);
        assert!(segment.is_cut());
        // SAFETY: mapped again, by the guard.
        unsafe {
            assert_eq!(segment.as_ptr().read(), 7, "what is still there is untouched");
            segment.as_ptr().add(2 * page()).write_volatile(1);
            segment.as_ptr().add(page()).write_volatile(1);
        }
        // Another mapping of this process has nothing to do with it.
        assert!(!self::segment().0.is_cut());
    });
    join(child);
}

#[test]
fn a_ring_that_was_cut_says_so() {
    let _turn = serial();
    for kind in [Kind::Spsc, Kind::Mpmc] {
        let name = Named::new("cut");
        let options = Options { kind: Some(kind), ..Options::new(64, 4096) };
        let child = fork(|| {
            let ring = C::open(Some(&name.0), &options, CREATE, 0o600).unwrap();
            madang::sigbus_guard().unwrap();
            let item = [5; 4096];
            for _ in 0..3 {
                ring.push(&item, 0).unwrap();
            }
            let file = std::fs::File::options().write(true).open(name.path()).unwrap();
            file.set_len(20_000).unwrap();
            // It may take what it had seen room for, never more; then it says so.
            let refused = |ring: &C| {
                let last = (0..65).find_map(|_| ring.push(&item, -1).err());
                refused_with(Err::<(), _>(last.unwrap()), libc::EBADMSG, "shorter");
            };
            refused(&ring);
            refused_with(ring.pop(&mut [0; 4096], -1), libc::EBADMSG, "shorter");
            file.set_len(0).unwrap();
            refused(&ring);
            assert_ne!(ring.stat().flags & madang::ffi::ring::MDG_RING_CORRUPT, 0);
        });
        join(child);
    }
}

static SEEN: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_: libc::c_int) {
    SEEN.fetch_add(1, Ordering::Relaxed);
}

extern "C" fn count_with_info(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel's, by way of the guard.
    let pid = unsafe { (*info).si_pid() };
    assert_eq!(pid, std::process::id() as libc::pid_t);
    SEEN.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn other_signals_go_where_they_went() {
    let _turn = serial();
    let plain = (SigHandler::Handler(count), SaFlags::empty());
    let full = (SigHandler::SigAction(count_with_info), SaFlags::SA_SIGINFO);
    for (handler, flags) in [plain, full] {
        let (segment, _) = segment();
        join(fork(|| {
            let action = SigAction::new(handler, flags, SigSet::empty());
            // SAFETY: the handlers only count.
            unsafe { sigaction(Signal::SIGBUS, &action) }.unwrap();
            madang::sigbus_guard().unwrap();
            assert_eq!(touch_what_is_gone(&segment), 0);
            assert_eq!(SEEN.load(Ordering::Relaxed), 0, "ours is not shown to others");
            raise(Signal::SIGBUS).unwrap();
            assert_eq!(SEEN.load(Ordering::Relaxed), 1);
        }));
    }
    let died = |body: &dyn Fn()| {
        let status = fork(|| {
            let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
            // SAFETY: no handler at all, where Rust's start-up code had put one.
            unsafe { sigaction(Signal::SIGBUS, &default) }.unwrap();
            madang::sigbus_guard().unwrap();
            body();
        })
        .end();
        assert!(matches!(status, WaitStatus::Signaled(_, Signal::SIGBUS, _)), "{status:?}");
    };
    died(&|| raise(Signal::SIGBUS).unwrap());
    let file = std::fs::File::from(
        nix::sys::memfd::memfd_create(c"cut", nix::sys::memfd::MFdFlags::empty()).unwrap(),
    );
    file.set_len(page() as u64).unwrap();
    // SAFETY: the test's own file, which it cuts on purpose.
    let map = memmap2::MmapOptions::new().len(page()).map_raw(&file).unwrap();
    died(&|| {
        file.set_len(0).unwrap();
        // SAFETY: mapped, and meant to fault: it is no mapping of the library.
        unsafe { map.as_ptr().read_volatile() };
    });
}

/// Who may only read a ring stores nothing in what is left of it either.
#[test]
fn a_ring_that_may_only_be_read_is_cut() {
    let _turn = serial();
    if !is_root() {
        return;
    }
    let name = Named::new("cut-reader");
    let (kind, policy) = (Some(Kind::Broadcast), policy::OVERWRITE);
    let options = Options { kind, policy, ..Options::new(4096, 8) };
    let create = libc::O_WRONLY | libc::O_CREAT;
    let ring = C::open(Some(&name.0), &options, create, 0o644).unwrap();
    // So far that the next cell is in what will be gone.
    ring.push_many(&[1; 4095 * 8], 8, NOWAIT).unwrap();
    let (joined, cut) = (Gate::new(), Gate::new());
    let reader = fork(|| {
        as_nobody(|| {
            madang::sigbus_guard().unwrap();
            let reader = C::open(Some(&name.0), &Options::default(), libc::O_RDONLY, 0).unwrap();
            joined.open();
            cut.pass();
            for timeout in [NOWAIT, FOREVER] {
                refused_with(reader.pop(&mut [0; 8], timeout), libc::EBADMSG, "shorter");
            }
        });
    });
    joined.pass();
    let file = std::fs::OpenOptions::new().write(true).open(name.path()).unwrap();
    file.set_len(file.metadata().unwrap().len() - page() as u64).unwrap();
    // Closing stores only in what is left.
    drop(ring);
    cut.open();
    join(reader);
}

/// Entries come and go with mappings, in many threads, while others fault.
#[test]
fn the_table_of_mappings_is_kept_while_it_is_used() {
    let _turn = serial();
    join(fork(|| {
        madang::sigbus_guard().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..300 {
                        let (segment, _) = segment();
                        assert_eq!(touch_what_is_gone(&segment), 0);
                        assert!(segment.is_cut());
                        let ring = Ring::anonymous(&Options::new(8, 8), Access::ReadWrite).unwrap();
                        ring.push(&[1; 8], Timeout::NoWait).unwrap();
                    }
                });
            }
        });
    }));
}

/// Once a call has met what is gone, no later one succeeds, though it had seen room or items before.
fn only_the_call_in_progress_succeeds<F: Face>() {
    let overwrite = policy::OVERWRITE;
    let kinds = [
        (Kind::Spsc, 0),
        (Kind::Mpmc, 0),
        (Kind::Mpmc, policy::STOPPROOF),
        (Kind::Broadcast, 0),
        (Kind::Broadcast, overwrite),
    ];
    for ((kind, bits), size) in kinds.into_iter().flat_map(|kind| [(kind, 8), (kind, page() / 2)]) {
        let mut options =
            Options { kind: Some(kind), policy: bits, ..Options::new(256, size as u32) };
        options.max_handles = 4;
        let count = 4 * page() / size;
        options.capacity = count as u64;
        for way in 0..4 {
            let name = Named::new("cut-on");
            join(fork(|| {
                let ring = F::open(Some(&name.0), &options, CREATE, 0o600).unwrap();
                let mut item = vec![7; size];
                if kind == Kind::Broadcast {
                    // It joins.
                    refused_with(ring.pop(&mut item, NOWAIT), libc::EAGAIN, "");
                }
                for _ in 0..if way % 2 == 0 { count } else { 3 } {
                    ring.push(&item, NOWAIT).unwrap();
                }
                ring.pop(&mut item, NOWAIT).unwrap();
                assert_eq!(item, vec![7; size]);
                madang::sigbus_guard().unwrap();
                let file = std::fs::File::options().write(true).open(name.path()).unwrap();
                // Most of the items are gone; or all, and the indices with them. (A stop-proof ring has
                // spare cells.)
                let gone = if bits == policy::STOPPROOF { 7 } else { 3 } * page();
                let length = file.metadata().unwrap().len() as usize;
                let rest = (length - gone).next_multiple_of(page());
                file.set_len(if way < 2 { rest as u64 } else { 0 }).unwrap();
                let mut after = 0;
                for _ in 0..count {
                    let done = if way % 2 == 0 {
                        item.fill(7);
                        let done = ring.pop(&mut item, NOWAIT);
                        // What is not gone is delivered.
                        after += usize::from(done.is_ok() && item != vec![7; size]);
                        done
                    } else {
                        ring.push(&item, NOWAIT)
                    };
                    let Err(refused) = done else { continue };
                    // A word of zeros says that nothing is there: in the call in progress, and no more.
                    if refused.code == libc::EAGAIN {
                        after += 1;
                        continue;
                    }
                    assert_eq!(refused.code, libc::EBADMSG, "{}", refused.text);
                    break;
                }
                assert!(after <= 1, "{kind:?} {bits} {size}: {after} calls");
                let last = match way {
                    0 | 2 => ring.pop(&mut item, NOWAIT),
                    _ => ring.push(&item, NOWAIT),
                };
                let code = last.map_err(|refused| refused.code);
                assert_eq!(code, Err(libc::EBADMSG), "{kind:?} {bits} {size} {way}");
            }));
        }
    }
}

/// As above, where items are read in place.
fn items_in_place_of_what_is_gone<F: Face>() {
    let name = Named::new("cut-place");
    join(fork(|| {
        let options = Options::new(16, page() as u32);
        let ring = F::open(Some(&name.0), &options, CREATE, 0o600).unwrap();
        (0..16).for_each(|_| ring.push(&vec![7; page()], NOWAIT).unwrap());
        madang::sigbus_guard().unwrap();
        let (item, _) = ring.peek(1, NOWAIT).unwrap();
        std::fs::File::options().write(true).open(name.path()).unwrap().set_len(0).unwrap();
        // SAFETY: handed out in place.
        assert_eq!(unsafe { item.add(page() / 2).read_volatile() }, 0);
        refused_with(ring.release(1), libc::EBADMSG, "shorter");
        refused_with(ring.peek(1, NOWAIT), libc::EBADMSG, "shorter");
        refused_with(ring.push(&vec![7; page()], NOWAIT), libc::EBADMSG, "shorter");
    }));
}

on_both_faces! { Ring, C in turn:
    only_the_call_in_progress_succeeds
    items_in_place_of_what_is_gone
}
