//! What stands under a name: races of makers, deaths, full file systems, hostile objects.

mod support;

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use libc::{O_CREAT, O_EXCL, O_RDONLY, O_RDWR};
use madang::shm::Shm;
use nix::errno::Errno;
use nix::sys::stat::{Mode, SFlag};
use support::face::refused;
use support::process::{Gate, fork, join, kill, skip};
use support::shm_face::{CShm, Segment};
use support::{confine, unique};

const NEW: i32 = O_CREAT | O_EXCL | O_RDWR;
const O_TMPFILE_BIT: u32 = (libc::O_TMPFILE & !libc::O_DIRECTORY) as u32;

on_both_faces! { Shm, CShm:
    two_makers_one_winner
    eight_makers_one_winner
    makers_in_two_processes
    nobody_sees_it_half_made
    create_or_open_while_others_unlink
    full_file_system
    no_more_names
    links_and_other_kinds
    half_made_by_a_plain_program
    killed_makers_leave_nothing
    without_unnamed_files
    without_unnamed_files_on_a_full_file_system
    without_proc
}

fn file_of(name: &str) -> PathBuf {
    PathBuf::from("/dev/shm").join(&name[1..])
}

/// Temporary files of ours in /dev/shm that process `pid` made.
fn leftovers(pid: impl std::fmt::Display) -> usize {
    let prefix = format!(".mdg.tmp.{pid}.");
    let files = std::fs::read_dir("/dev/shm").unwrap();
    files.filter(|f| f.as_ref().unwrap().file_name().to_string_lossy().starts_with(&prefix)).count()
}

/// In every round all threads make the same segment with O_EXCL; one may win. Each winner's number
/// must be the one that the object holds.
fn makers_race<S: Segment>(makers: usize, rounds: usize) {
    let name = unique("race");
    let (start, end) = (Barrier::new(makers), Barrier::new(makers));
    let wins: Vec<_> = (0..rounds).map(|_| AtomicUsize::new(0)).collect();
    std::thread::scope(|scope| {
        for _ in 0..makers {
            scope.spawn(|| {
                for wins in &wins {
                    start.wait();
                    match S::open(name.as_bytes(), 5000, NEW, 0o600) {
                        Ok(made) => {
                            assert_eq!(made.object_size(), 5000);
                            wins.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(failure) => assert_eq!(failure.code, libc::EEXIST, "{failure:?}"),
                    }
                    if end.wait().is_leader() {
                        S::unlink(name.as_bytes()).unwrap();
                    }
                }
            });
        }
    });
    assert!(wins.iter().all(|wins| wins.load(Ordering::Relaxed) == 1));
}

fn two_makers_one_winner<S: Segment>() {
    makers_race::<S>(2, 2000);
}

fn eight_makers_one_winner<S: Segment>() {
    makers_race::<S>(8, 1000);
}

fn makers_in_two_processes<S: Segment>() {
    const ROUNDS: usize = 2000;
    let score = S::anonymous(ROUNDS, false).unwrap();
    let name = unique("processes");
    let (to_child, to_parent) = (Gate::new(), Gate::new());
    let enter = |round: usize| match S::open(name.as_bytes(), 5000, NEW, 0o600) {
        Ok(_) => true,
        Err(failure) => {
            assert_eq!(failure.code, libc::EEXIST, "round {round}: {failure:?}");
            false
        }
    };
    let child = fork(|| {
        for round in 0..ROUNDS {
            to_child.pass();
            score.put(round, &[enter(round).into()]);
            to_parent.open();
        }
    });
    for round in 0..ROUNDS {
        to_child.open();
        let won = enter(round);
        to_parent.pass();
        assert_eq!(u8::from(won) + score.get(round, 1)[0], 1, "round {round}");
        S::unlink(name.as_bytes()).unwrap();
    }
    join(child);
}

fn nobody_sees_it_half_made<S: Segment>() {
    const ROUNDS: usize = 3000;
    let (name, done) = (unique("watched"), AtomicBool::new(false));
    let path = file_of(&name);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut seen = 0;
            while !done.load(Ordering::Relaxed) {
                match S::open(name.as_bytes(), 0, O_RDONLY, 0) {
                    Ok(found) => {
                        assert_eq!((found.size(), found.object_size()), (70_000, 70_000));
                        seen += 1;
                    }
                    Err(failure) => assert_eq!(failure.code, libc::ENOENT, "{failure:?}"),
                }
                if let Ok(status) = std::fs::metadata(&path) {
                    assert_eq!((status.len(), status.blocks()), (70_000, 144), "reserved, too");
                }
            }
            seen
        });
        // However fast the machine, the watcher has seen it made and gone.
        for _ in 0..ROUNDS {
            S::open(name.as_bytes(), 70_000, NEW, 0o600).unwrap();
            S::unlink(name.as_bytes()).unwrap();
        }
        S::open(name.as_bytes(), 70_000, NEW, 0o600).unwrap();
        while S::open(name.as_bytes(), 0, O_RDONLY, 0).is_err() {}
        S::unlink(name.as_bytes()).unwrap();
        done.store(true, Ordering::Relaxed);
        println!("seen {} times", watcher.join().unwrap());
    });
}

fn create_or_open_while_others_unlink<S: Segment>() {
    let (name, running) = (unique("chase"), AtomicUsize::new(2));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..2000 {
                    let found = S::open(name.as_bytes(), 100, O_CREAT | O_RDWR, 0o600).unwrap();
                    assert_eq!(found.size(), 100);
                }
                running.fetch_sub(1, Ordering::Relaxed);
            });
        }
        scope.spawn(|| {
            while running.load(Ordering::Relaxed) > 0 {
                if let Err(failure) = S::unlink(name.as_bytes()) {
                    assert_eq!(failure.code, libc::ENOENT);
                }
            }
        });
    });
    let _ = S::unlink(name.as_bytes());
}

fn full_file_system<S: Segment>() {
    confine::with_own_shm(c"size=1m", || {
        for oflag in [NEW, O_CREAT | O_RDWR] {
            let failure = S::open(b"/big", (1 << 20) + 1, oflag, 0o600).err().unwrap();
            assert_eq!(failure.code, libc::ENOSPC);
            assert!(failure.text.contains("/big"), "{}", failure.text);
            assert_eq!(std::fs::read_dir("/dev/shm").unwrap().count(), 0);
        }
        // All that there is can be had, and touched without a fault.
        let all = S::open(b"/all", 1 << 20, NEW, 0o600).unwrap();
        all.put(0, &vec![0xff; 1 << 20]);
        assert_eq!(refused(S::open(b"/more", 1, NEW, 0o600)), Errno::ENOSPC);
        assert_eq!(std::fs::read_dir("/dev/shm").unwrap().count(), 1);
        drop(all);
        S::unlink(b"/all").unwrap();
        S::open(b"/more", 1 << 20, NEW, 0o600).unwrap();
    });
}

fn no_more_names<S: Segment>() {
    // The root directory is one of them.
    confine::with_own_shm(c"nr_inodes=2", || {
        S::open(b"/one", 10, NEW, 0o600).unwrap();
        assert_eq!(refused(S::open(b"/two", 10, NEW, 0o600)), Errno::ENOSPC);
        S::unlink(b"/one").unwrap();
        S::open(b"/two", 10, NEW, 0o600).unwrap();
    });
}

fn links_and_other_kinds<S: Segment>() {
    let (name, target) = (unique("hostile"), unique("target"));
    let path = file_of(&name);
    let refuse = |expected: Errno| {
        for oflag in [O_RDWR, O_RDONLY, O_CREAT | O_RDWR] {
            let failure = S::open(name.as_bytes(), 10, oflag, 0o600).err().unwrap();
            assert_eq!(Errno::from_raw(failure.code), expected, "{failure:?}");
            assert!(failure.text.contains(&name), "{}", failure.text);
        }
        assert_eq!(refused(S::open(name.as_bytes(), 10, NEW, 0o600)), Errno::EEXIST);
    };
    drop(S::open(target.as_bytes(), 10, NEW, 0o600).unwrap());
    symlink(file_of(&target), &path).unwrap();
    refuse(Errno::ELOOP);
    // The name goes, not what the link points at.
    S::unlink(name.as_bytes()).unwrap();
    S::unlink(target.as_bytes()).unwrap();
    symlink(file_of(&target), &path).unwrap();
    refuse(Errno::ELOOP);
    assert!(!file_of(&target).exists(), "nothing is made through a link");
    S::unlink(name.as_bytes()).unwrap();

    std::fs::create_dir(&path).unwrap();
    refuse(Errno::EPROTO);
    assert_eq!(refused(S::unlink(name.as_bytes())), Errno::EPROTO);
    std::fs::remove_dir(&path).unwrap();

    nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
    refuse(Errno::EPROTO);
    S::unlink(name.as_bytes()).unwrap();

    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    refuse(Errno::EPROTO);
    S::unlink(name.as_bytes()).unwrap();

    let zero = std::fs::metadata("/dev/zero").unwrap().rdev();
    if nix::sys::stat::mknod(&path, SFlag::S_IFCHR, Mode::S_IRWXU, zero).is_ok() {
        refuse(Errno::EPROTO);
        S::unlink(name.as_bytes()).unwrap();
    } else {
        skip("device nodes are not permitted");
    }
}

fn half_made_by_a_plain_program<S: Segment>() {
    // shm_open without ftruncate, or with less than we need.
    let name = unique("empty");
    std::fs::File::create_new(file_of(&name)).unwrap();
    for size in [0, 1, 5000] {
        for oflag in [O_RDWR, O_RDONLY, O_CREAT | O_RDWR] {
            assert_eq!(refused(S::open(name.as_bytes(), size, oflag, 0o600)), Errno::EPROTO);
        }
    }
    std::fs::write(file_of(&name), b"short").unwrap();
    assert_eq!(refused(S::open(name.as_bytes(), 6, O_RDWR, 0)), Errno::EPROTO);
    assert_eq!(S::open(name.as_bytes(), 5, O_RDWR, 0).unwrap().get(0, 5), b"short");
    S::unlink(name.as_bytes()).unwrap();
}

fn killed_makers_leave_nothing<S: Segment>() {
    const ROUNDS: usize = 60;
    let (name, gate) = (unique("killed"), Gate::new());
    for round in 0..ROUNDS {
        let child = fork(|| {
            for count in 0.. {
                if count == 1 + round % 7 {
                    gate.open();
                }
                drop(S::open(name.as_bytes(), 300_000, NEW, 0o600).unwrap());
                S::unlink(name.as_bytes()).unwrap();
            }
        });
        gate.pass();
        // A little work of differing length, so that death finds the maker at other moments.
        (0..round * 200).for_each(|i| _ = std::hint::black_box(i));
        let pid = child.pid();
        kill(child);
        if let Ok(status) = std::fs::metadata(file_of(&name)) {
            assert_eq!(status.len(), 300_000, "complete or absent");
            assert_eq!(S::open(name.as_bytes(), 0, O_RDWR, 0).unwrap().size(), 300_000);
            S::unlink(name.as_bytes()).unwrap();
        }
        assert_eq!(leftovers(pid), 0);
    }
}

fn without_unnamed_files<S: Segment>() {
    let name = unique("fallback");
    join(fork(|| {
        confine::deny_bits(libc::SYS_openat, 2, O_TMPFILE_BIT, Errno::EOPNOTSUPP);
        drop(S::open(name.as_bytes(), 5000, NEW, 0o600).unwrap());
        let found = S::open(name.as_bytes(), 0, O_CREAT | O_RDWR, 0o600).unwrap();
        assert_eq!((found.size(), found.get(0, 5000)), (5000, vec![0; 5000]));
        assert_eq!(std::fs::metadata(file_of(&name)).unwrap().nlink(), 1);
        assert_eq!(refused(S::open(name.as_bytes(), 5000, NEW, 0o600)), Errno::EEXIST);
        S::unlink(name.as_bytes()).unwrap();
        let huge = 1 << 50;
        assert_eq!(refused(S::open(name.as_bytes(), huge, NEW, 0o600)), Errno::ENOSPC);
        makers_race::<S>(2, 500);
        assert_eq!(leftovers(std::process::id()), 0);
    }));
    assert!(!file_of(&name).exists());
}

fn without_unnamed_files_on_a_full_file_system<S: Segment>() {
    confine::with_own_shm(c"size=1m", || {
        confine::deny_bits(libc::SYS_openat, 2, O_TMPFILE_BIT, Errno::EOPNOTSUPP);
        for size in [(1 << 20) + 1, 8 << 20] {
            assert_eq!(refused(S::open(b"/big", size, NEW, 0o600)), Errno::ENOSPC);
            assert_eq!(std::fs::read_dir(Path::new("/dev/shm")).unwrap().count(), 0);
        }
    });
}

fn without_proc<S: Segment>() {
    let name = unique("proc");
    join(fork(|| {
        // linkat through /proc/self/fd finds nothing there.
        let follow = libc::AT_SYMLINK_FOLLOW as u32;
        confine::deny_bits(libc::SYS_linkat, 4, follow, Errno::ENOENT);
        drop(S::open(name.as_bytes(), 5000, NEW, 0o600).unwrap());
        assert_eq!(S::open(name.as_bytes(), 0, O_RDWR, 0).unwrap().size(), 5000);
        S::unlink(name.as_bytes()).unwrap();
    }));
}
