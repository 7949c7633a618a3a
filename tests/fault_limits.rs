//! Real limits, a step wider each time until a call works: descriptors, and the size and number of
//! files that fit on the file system. Each step before says so and leaves nothing.

mod support;

#[path = "support/cases/mod.rs"]
mod cases;

use cases::{Bounds, Case};
use nix::sys::resource::Resource;
use std::ffi::CStr;
use std::os::fd::AsRawFd;
use support::confine::{limit, with_own_shm};
use support::process::{fork, join, serial};

fn all() -> Vec<Case> {
    let parts = [
        cases::rings(),
        cases::segments(),
        cases::semaphores(),
        cases::mutexes(),
        cases::pipes(),
        cases::descriptors(),
    ];
    parts.into_iter().flatten().collect()
}

/// The lowest number that a new descriptor would get.
fn next_descriptor() -> u64 {
    std::fs::File::open("/dev/null").unwrap().as_raw_fd() as u64
}

#[test]
fn with_no_one_two_descriptors_to_spare() {
    let _turn = serial();
    for case in all() {
        join(fork(|| {
            let mut worked_with = None;
            for spare in 0..40 {
                let before = || limit(Resource::RLIMIT_NOFILE, next_descriptor() + spare);
                let after = || limit(Resource::RLIMIT_NOFILE, 1 << 10);
                let code = case.run(&Bounds { before: &before, after: &after });
                if code == 0 || case.answers.contains(&code) {
                    worked_with = worked_with.or(Some(spare));
                } else {
                    assert_eq!(code, libc::EMFILE, "{} with {spare} to spare", case.what);
                    assert_eq!(worked_with, None, "{} failed with {spare} to spare", case.what);
                }
            }
            let worked_with = worked_with.expect(case.what);
            eprintln!("{}: {worked_with} descriptors at a time", case.what);
            assert!(worked_with < 25, "{}", case.what);
        }));
    }
}

/// Takes all of /dev/shm but so many pages.
fn leave_pages(spare: u64) {
    let free = nix::sys::statvfs::statvfs("/dev/shm").unwrap();
    let filler = std::fs::File::create(FILLER).unwrap();
    let taken = (free.blocks_available() as u64).saturating_sub(spare) * 4096;
    if taken > 0 {
        // SAFETY: no pointers.
        assert_eq!(unsafe { libc::fallocate(filler.as_raw_fd(), 0, 0, taken as i64) }, 0);
    }
}

/// Takes all files that /dev/shm may have, but so many.
fn leave_files(spare: u64) {
    std::fs::create_dir(FILLER).unwrap();
    let free = nix::sys::statvfs::statvfs("/dev/shm").unwrap().files_free() as u64;
    for number in spare..free {
        std::fs::write(format!("{FILLER}/{number}"), b"").unwrap();
    }
}

const FILLER: &str = "/dev/shm/filler";

fn free_all() {
    let _ = std::fs::remove_file(FILLER);
    let _ = std::fs::remove_dir_all(FILLER);
}

/// Runs every case with no, one, two, ... of what `take` leaves over, in a /dev/shm of its own.
fn with_little_left(options: &CStr, most: u64, take: impl Fn(u64) + Sync) {
    let _turn = serial();
    with_own_shm(options, || {
        let mut failures = 0;
        for case in all() {
            let mut worked = false;
            for spare in 0..most {
                let code = case.run(&Bounds { before: &|| take(spare), after: &free_all });
                let left: Vec<_> = std::fs::read_dir("/dev/shm").unwrap().flatten().collect();
                assert!(left.is_empty(), "{} left {left:?}", case.what);
                if code == 0 || case.answers.contains(&code) {
                    worked = true;
                } else {
                    assert_eq!(code, libc::ENOSPC, "{} with {spare} to spare", case.what);
                    assert!(!worked, "{} failed with {spare} to spare", case.what);
                    failures += 1;
                }
            }
            assert!(worked, "{}", case.what);
        }
        assert!(failures > 8, "{failures}: something must have failed");
    });
}

#[test]
fn with_no_one_two_pages_to_spare() {
    with_little_left(c"size=1m", 12, leave_pages);
}

#[test]
fn with_no_one_two_files_to_spare() {
    with_little_left(c"nr_inodes=20", 8, leave_files);
}
