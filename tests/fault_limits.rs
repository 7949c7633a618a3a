//! Real limits, a step wider each time until a call works: descriptors, the size and number of
//! files that fit on the file system, the size of one file, the memory of a cgroup. Each step before
//! says so and leaves nothing.

mod support;

#[path = "support/cases/mod.rs"]
mod cases;

use cases::{Bounds, Case};
use madang::ring::Options;
use nix::sys::resource::Resource;
use nix::sys::signal::{SigHandler, SigSet, Signal, raise, signal};
use std::ffi::{CStr, c_int};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use support::confine::{limit, with_own_shm};
use support::face::{FOREVER, refused_with};
use support::pipe_face::{C as Pipes, Face as _};
use support::process::{fork, join, serial, skip};
use support::ring_face::{C, Face};
use support::shm_face::{CShm, Segment};
use support::{Dir, unique};

const NEW: c_int = libc::O_RDWR | libc::O_CREAT;

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
        // A named segment, ring, semaphore of each kind, mutex, condition variable, file, FIFO.
        assert!(failures >= 8, "{failures}: something must have failed");
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

/// A limit on the size of files, with SIGXFSZ as C programs have it: the kernel would end the process.
/// Every call works within the limit, or says that it does not, and nothing is left behind.
#[test]
fn with_small_files_only() {
    let _turn = serial();
    with_own_shm(c"size=16m", || {
        // SAFETY: no handler of ours.
        unsafe { signal(Signal::SIGXFSZ, SigHandler::SigDfl) }.unwrap();
        let mut failures = 0;
        for case in all() {
            for size in [0, 1, 1000, 4096, 1 << 20] {
                let code = case.run(&Bounds {
                    before: &|| limit(Resource::RLIMIT_FSIZE, size),
                    after: &|| limit(Resource::RLIMIT_FSIZE, u64::MAX),
                });
                let left: Vec<_> = std::fs::read_dir("/dev/shm").unwrap().flatten().collect();
                assert!(left.is_empty(), "{} left {left:?}", case.what);
                if code != 0 && !case.answers.contains(&code) {
                    assert_eq!(code, libc::EOVERFLOW, "{} with {size} bytes", case.what);
                    failures += 1;
                }
            }
        }
        assert!(failures > 20, "{failures}: something must have failed");
    });
}

/// What is said, and that a signal of the program's own stays where it is.
#[test]
fn the_limit_of_file_sizes_is_named() {
    let _turn = serial();
    let dir = Dir::new();
    join(fork(|| {
        let words = "files of this process may have 5000 bytes (RLIMIT_FSIZE)";
        let mut shm = CShm::anonymous(4096, false).unwrap();
        let (path, mapped) = (dir.path("written"), dir.path("mapped"));
        let file = std::fs::File::create(&path).unwrap();
        // SAFETY: no handler of ours.
        unsafe { signal(Signal::SIGXFSZ, SigHandler::SigDfl) }.unwrap();
        limit(Resource::RLIMIT_FSIZE, 5000);
        let all = || {
            refused_with(CShm::anonymous(5001, false), libc::EOVERFLOW, words);
            refused_with(CShm::open(b"too-large", 5001, NEW, 0o600), libc::EOVERFLOW, words);
            refused_with(CShm::map_file(&mapped, 5001, NEW, 0o600), libc::EOVERFLOW, words);
            let ring = C::open(None, &Options::new(8, 8), libc::O_RDWR, 0);
            refused_with(ring, libc::EOVERFLOW, words);
        };
        all();
        refused_with(shm.resize(5001), libc::EOVERFLOW, words);
        shm.resize(5000).unwrap();
        // What fits is written; the rest is refused.
        assert_eq!(Pipes.write(file.as_raw_fd(), &[1; 6000], FOREVER).unwrap(), 5000);
        let written = Pipes.write(file.as_raw_fd(), &[1; 1], FOREVER);
        refused_with(written, libc::EOVERFLOW, words);
        // One that was pending stays, and only one.
        let mut set = SigSet::empty();
        set.add(Signal::SIGXFSZ);
        set.thread_block().unwrap();
        all();
        let pending = || {
            // SAFETY: the set is initialised by the call.
            unsafe {
                let mut set: libc::sigset_t = std::mem::zeroed();
                libc::sigpending(&raw mut set);
                libc::sigismember(&raw const set, libc::SIGXFSZ) == 1
            }
        };
        assert!(!pending());
        raise(Signal::SIGXFSZ).unwrap();
        all();
        assert!(Pipes.write(file.as_raw_fd(), &[1; 1], FOREVER).is_err());
        assert!(pending());
    }));
}

/// A memory cgroup that takes in children, below this process's own.
struct Cgroup(PathBuf);

impl Cgroup {
    /// With this many bytes at most; `None`, with words, where none may be made.
    fn new(bytes: u64) -> Option<Self> {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let path = |key: &str| {
            let line = own.lines().find(|line| line.split_once(':').unwrap().1.starts_with(key))?;
            Some(line.rsplit_once(':').unwrap().1.to_owned())
        };
        let places = [
            ("/sys/fs/cgroup/memory", path("memory:"), "memory.limit_in_bytes"),
            ("/sys/fs/cgroup", path(":"), "memory.max"),
        ];
        for (root, path, file) in places {
            let Some(path) = path else { continue };
            let made = Self(PathBuf::from(format!("{root}{path}/{}", &unique("cgroup")[1..])));
            if std::fs::create_dir(&made.0).is_ok()
                && std::fs::write(made.0.join(file), bytes.to_string()).is_ok()
            {
                return Some(made);
            }
        }
        skip("no memory cgroup may be made here");
        None
    }

    fn enter(&self) {
        std::fs::write(self.0.join("cgroup.procs"), "0").unwrap();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}

/// Reserving more than the process's cgroup has left is refused: the kernel would kill the process.
#[test]
fn in_a_small_memory_cgroup() {
    let _turn = serial();
    let Some(cgroup) = Cgroup::new(64 << 20) else { return };
    join(fork(|| {
        cgroup.enter();
        let words = format!("in memory, of which {}/memory.", cgroup.0.display());
        let large = 256 << 20;
        refused_with(CShm::anonymous(large, false), libc::ENOSPC, &words);
        refused_with(CShm::open(b"too-large", large, NEW, 0o600), libc::ENOSPC, &words);
        refused_with(CShm::anonymous(large, false), libc::ENOSPC, &format!("{large} bytes"));
        let options = Options::new(1 << 20, 256);
        refused_with(C::open(None, &options, libc::O_RDWR, 0), libc::ENOSPC, &words);
        let mut shm = CShm::anonymous(4096, false).unwrap();
        refused_with(shm.resize(large), libc::ENOSPC, &words);
        shm.resize(16 << 20).unwrap();
        // What is taken is taken into account; a cgroup further down has no more.
        refused_with(CShm::anonymous(56 << 20, false), libc::ENOSPC, &words);
        let below = Cgroup(cgroup.0.join("below"));
        std::fs::create_dir(&below.0).unwrap();
        below.enter();
        refused_with(CShm::anonymous(56 << 20, false), libc::ENOSPC, &words);
        // Back, so that both can be removed.
        cgroup.enter();
    }));
}
