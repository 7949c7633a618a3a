//! Descriptors that handles keep: what the program does with their numbers, and what the library does
//! with the program's.

mod support;

#[path = "support/cases/mod.rs"]
mod cases;

use std::collections::BTreeSet;
use std::ffi::c_int;
use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use cases::{Bounds, Case};
use madang::ffi::ring::{MDG_POLL_IN, mdg_ring_attach, mdg_ring_init, mdg_ring_memory};
use madang::ffi::shm::mdg_shm_fd;
use madang::ring::{Kind, Options, policy};
use madang::sem::UndoOptions;
use nix::sys::stat::fstat;
use support::Dir;
use support::face::{NOWAIT, answer, done, refused_with};
use support::mutex_face::{CMutex, Locks};
use support::process::{fork, join, serial};
use support::ring_face::{C, Face, Named, c_options};
use support::sem_face::{CSem, Permits};
use support::shm_face::{CShm, Segment};
use support::undo_face::Undo;
use support::unique;

const NEW: c_int = libc::O_RDWR | libc::O_CREAT;
const OPEN: c_int = libc::O_RDWR;
const WORDS: &str = "its descriptor was closed by the program, or is another file now";

fn is_open(fd: RawFd) -> bool {
    // SAFETY: no pointers.
    unsafe { libc::fcntl(fd, libc::F_GETFD) >= 0 }
}

/// Every call of every mechanism, in a process that has closed its standard streams: what a handle
/// keeps has other numbers. What the caller gets has the lowest, as from pipe(2).
#[test]
fn without_standard_streams() {
    let _turn = serial();
    let kept = [cases::rings(), cases::segments(), cases::semaphores(), cases::mutexes()];
    let given = [cases::pipes(), cases::descriptors()];
    let run = |case: Case, keeps_none: bool| {
        join(fork(|| {
            // SAFETY: no pointers; a number above those that are closed.
            let stderr = unsafe { libc::fcntl(2, libc::F_DUPFD_CLOEXEC, 100) };
            let before = || {
                for fd in 0..3 {
                    // SAFETY: the streams are this child's own.
                    unsafe { libc::close(fd) };
                }
            };
            let after = || {
                let taken: Vec<_> = (0..3).filter(|&fd| is_open(fd)).collect();
                for fd in (0..3).filter(|fd| !taken.contains(fd)) {
                    // SAFETY: the number is free.
                    unsafe { libc::dup2(stderr, fd) };
                }
                assert!(!keeps_none || taken.is_empty(), "{}: keeps {taken:?}", case.what);
            };
            let code = case.run(&Bounds { before: &before, after: &after });
            assert!(code == 0 || case.answers.contains(&code), "{}: {code}", case.what);
        }));
    };
    kept.into_iter().flatten().for_each(|case| run(case, true));
    given.into_iter().flatten().for_each(|case| run(case, false));
}

/// This process's descriptors.
fn descriptors() -> BTreeSet<RawFd> {
    let all = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let all: Vec<_> =
        all.map(|entry| entry.file_name().to_str().unwrap().parse().unwrap()).collect();
    all.into_iter().filter(|&fd| is_open(fd)).collect()
}

/// Files of the program that have the numbers of the library's descriptors.
struct Strangers {
    dir: Dir,
    numbers: Vec<RawFd>,
}

impl Strangers {
    /// Closes all descriptors that are not in `known`, and opens a file under each of their numbers.
    fn instead(known: &BTreeSet<RawFd>) -> Self {
        let this =
            Self { dir: Dir::new(), numbers: (&descriptors() - known).into_iter().collect() };
        for &number in &this.numbers {
            let mut file = fs::File::create_new(this.path(number)).unwrap();
            file.write_all(&Self::contents(number)).unwrap();
            let file = fs::File::options().read(true).write(true).open(this.path(number)).unwrap();
            // SAFETY: what a program may do, wrongly, to descriptors that it does not know.
            assert_eq!(unsafe { libc::dup2(file.as_raw_fd(), number) }, number);
        }
        this
    }

    fn path(&self, number: RawFd) -> PathBuf {
        self.dir.path(&number.to_string())
    }

    fn contents(number: RawFd) -> Vec<u8> {
        format!("theirs {number}\n").repeat(1000).into_bytes()
    }

    /// All are open, with every byte and their position.
    #[track_caller]
    fn are_unharmed(&self) {
        for &number in &self.numbers {
            // SAFETY: if it is closed, the next call says so.
            let fd = unsafe { BorrowedFd::borrow_raw(number) };
            let status = fstat(fd).expect("still open");
            assert_eq!(status.st_ino, fs::metadata(self.path(number)).unwrap().ino());
            let mut bytes = vec![0; status.st_size as usize];
            let file = fs::File::open(self.path(number)).unwrap();
            file.read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!(bytes, Self::contents(number), "written to");
            // SAFETY: no pointers.
            assert_eq!(unsafe { libc::lseek(number, 0, libc::SEEK_CUR) }, 0, "read from");
            // SAFETY: no pointers.
            assert_eq!(unsafe { libc::fcntl(number, libc::F_GET_SEALS) }, -1);
        }
    }
}

/// Makes a handle, puts files of the program in the place of its descriptors (`count` of them), uses
/// it, uses it in a forked child, and closes it.
fn with_strangers<T>(
    count: usize,
    make: impl FnOnce() -> T,
    try_all: impl Fn(&mut T),
    fork_too: impl Fn(&T),
) {
    join(fork(|| {
        let known = descriptors();
        let mut handle = make();
        let strangers = Strangers::instead(&known);
        assert_eq!(strangers.numbers.len(), count);
        try_all(&mut handle);
        strangers.are_unharmed();
        join(fork(|| fork_too(&handle)));
        strangers.are_unharmed();
        drop(handle);
        strangers.are_unharmed();
    }));
}

#[test]
fn segments_whose_descriptor_is_another_file() {
    let _turn = serial();
    let name = unique("strangers");
    let dir = Dir::new();
    let make: [&dyn Fn() -> CShm; 4] = [
        &|| CShm::open(name.as_bytes(), 10_000, NEW, 0o600).unwrap(),
        &|| CShm::anonymous(10_000, true).unwrap(),
        &|| {
            let first = CShm::anonymous(10_000, false).unwrap();
            CShm::from_fd(first.fd(), OPEN).unwrap()
        },
        &|| CShm::map_file(&dir.path("mapped"), 10_000, NEW, 0o600).unwrap(),
    ];
    for make in make {
        let used = |shm: &mut CShm| {
            for size in [1, 4096, 10_000, 1 << 20] {
                refused_with(shm.resize(size), libc::EBADF, WORDS);
            }
            // SAFETY: a live handle.
            refused_with(answer(|| unsafe { mdg_shm_fd(shm.0) }), libc::EBADF, WORDS);
            assert_eq!(shm.size(), 10_000);
            shm.put(9_990, b"still here");
            assert_eq!(shm.get(9_990, 10), b"still here");
            shm.sync().unwrap();
        };
        with_strangers(1, make, used, |shm| shm.put(0, b"x"));
    }
    CShm::unlink(name.as_bytes()).unwrap();
}

fn kinds() -> [Options; 5] {
    let of = |kind, policy| Options { kind: Some(kind), policy, ..Options::new(8, 8) };
    [
        of(Kind::Spsc, 0),
        of(Kind::Mpmc, 0),
        of(Kind::Mpmc, policy::STOPPROOF),
        of(Kind::Broadcast, 0),
        of(Kind::Broadcast, policy::OVERWRITE),
    ]
}

fn hold_both(ring: &C) {
    assert!(ring.pop(&mut [0; 8], NOWAIT).is_err());
    ring.push(&[0; 8], NOWAIT).unwrap();
    ring.pop(&mut [0; 8], NOWAIT).unwrap();
}

/// A ring that was used at both ends works on; what needs the file says that it is gone.
fn use_ring(ring: &C) {
    for value in 0..20_u64 {
        ring.push(&value.to_ne_bytes(), NOWAIT).unwrap();
        let mut item = [0; 8];
        ring.pop(&mut item, NOWAIT).unwrap();
        assert_eq!(u64::from_ne_bytes(item), value);
    }
    refused_with(ring.pop(&mut [0; 8], 1_000_000), libc::ETIMEDOUT, "");
    assert_eq!(ring.stat().written, 21);
    refused_with(ring.dup(OPEN), libc::EBADF, WORDS);
}

fn use_ring_in_child(ring: &C) {
    refused_with(ring.push(&[0; 8], NOWAIT), libc::EBADF, WORDS);
    refused_with(ring.pop(&mut [0; 8], NOWAIT), libc::EBADF, WORDS);
}

#[test]
fn rings_whose_descriptors_are_other_files() {
    let _turn = serial();
    for options in kinds() {
        let name = Named::new("strangers");
        for name in [None, Some(name.0.as_str())] {
            let make = |listens: bool| {
                let ring = C::open(name, &options, NEW, 0o600).unwrap();
                hold_both(&ring);
                if listens {
                    ring.fd(MDG_POLL_IN).unwrap();
                }
                ring
            };
            let memory = |ring: &C| {
                // SAFETY: a live handle.
                refused_with(answer(|| unsafe { mdg_ring_memory(ring.0) }), libc::EBADF, WORDS);
            };
            let used = |ring: &mut C| {
                memory(ring);
                use_ring(ring);
            };
            with_strangers(1, || make(false), used, use_ring_in_child);
            let heard = |ring: &mut C| {
                memory(ring);
                refused_with(ring.fd(MDG_POLL_IN), libc::EBADF, "closed");
                ring.cancel().unwrap();
                ring.push(&[0; 8], NOWAIT).unwrap();
            };
            with_strangers(3, || make(true), heard, use_ring_in_child);
            if let Some(name) = name {
                C::unlink(name).unwrap();
            }
        }
    }
}

#[test]
fn rings_in_a_segment_whose_descriptor_is_another_file() {
    let _turn = serial();
    for options in kinds() {
        let make = || {
            let shm = CShm::anonymous(1 << 16, false).unwrap();
            let (mut ring, options) = (std::ptr::null_mut(), c_options(&options));
            // SAFETY: a live segment, a place for the handle.
            done(|| unsafe { mdg_ring_init(&mut ring, shm.0, 4096, &options, OPEN) }).unwrap();
            let ring = C(ring);
            hold_both(&ring);
            (ring, shm)
        };
        let used = |(ring, shm): &mut (C, CShm)| {
            use_ring(ring);
            let (mut second, options) = (std::ptr::null_mut(), c_options(&options));
            // SAFETY: as above.
            let made = done(|| unsafe { mdg_ring_init(&mut second, shm.0, 32768, &options, OPEN) });
            refused_with(made, libc::EBADF, WORDS);
            // SAFETY: as above.
            let found =
                done(|| unsafe { mdg_ring_attach(&mut second, shm.0, 4096, &options, OPEN) });
            refused_with(found, libc::EBADF, WORDS);
        };
        with_strangers(1, make, used, |(ring, _)| use_ring_in_child(ring));
    }
}

#[test]
fn semaphores_and_mutexes_whose_descriptors_are_other_files() {
    let _turn = serial();
    let [undo, posix, mutex, cond] = ["undo", "posix", "mutex", "cond"].map(unique);
    let options = UndoOptions { value: 3, ..UndoOptions::default() };
    with_strangers(
        1,
        || <CSem as Undo>::open(&undo, &options, NEW, 0o600).unwrap(),
        |sem| {
            Permits::wait(sem, NOWAIT).unwrap();
            Permits::post(sem).unwrap();
            assert_eq!(Permits::value(sem), 3);
        },
        |sem| refused_with(Permits::wait(sem, NOWAIT), libc::EBADF, WORDS),
    );
    // These keep none.
    let posix_used = |sem: &CSem| {
        Permits::wait(sem, NOWAIT).unwrap();
        Permits::post(sem).unwrap();
    };
    let make = || <CSem as Permits>::open(posix.as_bytes(), 3, NEW, 0o600).unwrap();
    with_strangers(0, make, |sem| posix_used(sem), posix_used);
    let mutex_used = |mutex: &CMutex| {
        assert!(!mutex.lock(NOWAIT).unwrap());
        mutex.unlock().unwrap();
    };
    let make = || CMutex::open(&mutex, NEW, 0o600).unwrap();
    with_strangers(0, make, |mutex| mutex_used(mutex), mutex_used);
    let make = || CMutex::open_cond(&cond, NEW, 0o600).unwrap();
    with_strangers(0, make, |cond| CMutex::signal(cond), CMutex::signal);
    for name in [&undo, &posix] {
        <CSem as Undo>::unlink(name).unwrap();
    }
    CMutex::unlink(&mutex).unwrap();
    CMutex::unlink_cond(&cond).unwrap();
}
