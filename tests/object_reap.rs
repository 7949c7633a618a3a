//! Objects reaped: only what nobody lives in, and nobody is robbed.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use madang::ffi::object::{MDG_REAP_DRY_RUN, MDG_REAP_WITH_ITEMS};
use madang::inventory::{self, Mechanism, ReapOptions};
use madang::ring::{Kind, Options, Ring};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use support::confine::deny_bits;
use support::face::{NOWAIT, refused_with};
use support::object_face::{C, Files, Inventory, Rust, frozen, item, open};
use support::process::{Child, Gate, fork, join, kill, serial};
use support::ring_face::{CREATE, Face, Named};

on_both_faces! { Rust, C in turn:
    only_what_nobody_lives_in_is_reaped
    rings_that_hold_items_are_kept
    temporary_files
}

fn only_what_nobody_lives_in_is_reaped<I: Inventory>() {
    let (alone, lived) = (Named::new("reap"), Named::new("reap"));
    let ring: I::Ring = open(&lived, Kind::Spsc, libc::O_RDWR);
    drop(open::<I::Ring>(&alone, Kind::Mpmc, libc::O_RDWR));
    let reap = |name: &Named| I::reap(Some(Mechanism::Ring), Some(&name.0));
    refused_with(reap(&lived), libc::EBUSY, "living process");
    assert_eq!(reap(&alone).unwrap(), 1);
    refused_with(reap(&alone), libc::ENOENT, "does not exist");
    assert!(!fs::exists(alone.path()).unwrap());
    // A child that has it lives, too; a stopped one as well.
    let child = frozen(|| std::mem::forget(open::<I::Ring>(&lived, Kind::Spsc, libc::O_RDWR)));
    drop(ring);
    refused_with(reap(&lived), libc::EBUSY, "");
    nix::sys::signal::kill(child.pid(), nix::sys::signal::SIGSTOP).unwrap();
    refused_with(reap(&lived), libc::EBUSY, "");
    refused_with(I::reap(None, Some(&lived.0)), libc::EINVAL, "mechanism");
    kill(child);
    assert_eq!(reap(&lived).unwrap(), 1);
    assert!(!fs::exists(lived.path()).unwrap());
    refused_with(I::check(Mechanism::Ring, &alone.0), libc::ENOENT, "does not exist");
    refused_with(I::repair(Mechanism::Ring, &alone.0), libc::ENOENT, "does not exist");
    refused_with(I::check(Mechanism::Ring, "a/b"), libc::EINVAL, "slash");
    refused_with(I::check(Mechanism::Ring, &"n".repeat(300)), libc::ENAMETOOLONG, "300");
}

/// Lock bytes of docs/layout.md.
const ADMIN_BYTE: i64 = 1 << 40;

const SLOT_BYTE: i64 = ADMIN_BYTE + 0x100;

fn byte(at: i64) -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: at,
        l_len: 1,
        l_pid: 0,
    }
}

/// Locks the ADMIN byte of a file, as long as this description is open.
fn lock_admin(file: &File) {
    fcntl(file, FcntlArg::F_OFD_SETLK(&byte(ADMIN_BYTE))).unwrap();
}

/// Whether another description has locked a byte.
fn is_locked(file: &File, at: i64) -> bool {
    let mut probe = byte(at);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut probe)).unwrap();
    probe.l_type != libc::F_UNLCK as libc::c_short
}

fn rings_that_hold_items_are_kept<I: Inventory>() {
    const BOTH: u32 = MDG_REAP_DRY_RUN | MDG_REAP_WITH_ITEMS;
    for kind in [Kind::Spsc, Kind::Mpmc, Kind::Broadcast] {
        let (full, empty) = (Named::new("reap"), Named::new("reap"));
        let rings = [&full, &empty].map(|name| open::<I::Ring>(name, kind, libc::O_RDWR));
        // A consumer of a broadcast has to be there first.
        let mut first = item(0);
        refused_with(rings[0].pop(&mut first, NOWAIT), libc::EAGAIN, "");
        rings[0].push(&item(7), NOWAIT).unwrap();
        drop(rings);
        let reap = |name: &Named, flags| I::reap_with(Some(Mechanism::Ring), Some(&name.0), flags);
        refused_with(reap(&full, 0), libc::ENOTEMPTY, "holds 1 items");
        refused_with(reap(&full, MDG_REAP_DRY_RUN), libc::ENOTEMPTY, &full.0);
        assert_eq!(reap(&full, BOTH).unwrap(), 1);
        assert_eq!(reap(&empty, MDG_REAP_DRY_RUN).unwrap(), 1);
        assert!(fs::exists(full.path()).unwrap() && fs::exists(empty.path()).unwrap());
        // All there are: what is not removed is passed over.
        I::reap_with(Some(Mechanism::Ring), None, BOTH).unwrap();
        assert!(fs::exists(full.path()).unwrap() && fs::exists(empty.path()).unwrap());
        assert_eq!(reap(&empty, 0).unwrap(), 1);
        refused_with(reap(&empty, BOTH), libc::ENOENT, "does not exist");
        assert_eq!(reap(&full, MDG_REAP_WITH_ITEMS).unwrap(), 1);
        assert!(!fs::exists(full.path()).unwrap() && !fs::exists(empty.path()).unwrap());
    }
}

fn temporary_files<I: Inventory>() {
    let rest = format!("/{}.{}", std::process::id(), &support::unique("t")[1..]);
    let path = PathBuf::from(format!("/dev/shm/.mdg.tmp.{}", &rest[1..]));
    let _files = Files(vec![path.display().to_string()]);
    let reap = || I::reap(Some(Mechanism::Temporary), Some(&rest));
    let state = || I::one(Mechanism::Temporary, &rest).unwrap().state;
    let maker = frozen(|| {
        let options = File::options().read(true).write(true).create_new(true).mode(0o600).clone();
        let file = options.open(&path).unwrap();
        lock_admin(&file);
        std::mem::forget(file);
    });
    refused_with(reap(), libc::EBUSY, "");
    assert_eq!(I::check(Mechanism::Temporary, &rest).unwrap().0, 0);
    assert_eq!(state(), inventory::State::Sound);
    kill(maker);
    assert_eq!(state(), inventory::State::Damaged);
    assert_eq!(I::check(Mechanism::Temporary, &rest).unwrap().0, 1);
    assert_eq!(reap().unwrap(), 1);
    assert!(!path.exists());
    refused_with(I::check(Mechanism::Temporary, &rest), libc::ENOENT, "");
}

/// Opening and reaping the same name all the time: who has opened it has a ring that its name leads
/// to, or that he made.
#[test]
fn nobody_is_robbed_by_reaping() {
    let _turn = serial();
    let name = Named::new("race");
    let stop = Gate::new();
    let reapers: Vec<Child> = (0..2)
        .map(|_| {
            fork(|| {
                let mut reaped = 0_u64;
                loop {
                    match inventory::reap(
                        Some(Mechanism::Ring),
                        Some(name.0.as_bytes()),
                        ReapOptions::default(),
                    ) {
                        Ok(count) => reaped += u64::from(count),
                        Err(error) => assert!(
                            [libc::EBUSY, libc::ENOENT].contains(&error.errno()),
                            "{error} after {reaped}"
                        ),
                    }
                }
            })
        })
        .collect();
    let openers: Vec<Child> = (0..2)
        .map(|_| {
            fork(|| {
                let mut own = 0;
                for _ in 0..1500 {
                    let ring: Ring = open(&name, Kind::Mpmc, libc::O_RDWR);
                    let opened = Ring::stat(&ring);
                    assert!(!opened.unlinked, "in a ring without a name");
                    std::thread::yield_now();
                    assert!(!Ring::stat(&ring).unlinked, "robbed of the name");
                    own += 1;
                }
                assert_eq!(own, 1500);
                stop.open();
            })
        })
        .collect();
    openers.into_iter().for_each(join);
    reapers.into_iter().for_each(kill);
}

/// The same, with the remover stopped in the middle: who opens meanwhile waits for it, and then sees
/// what has become of the name.
#[test]
fn an_opener_waits_for_who_removes() {
    let _turn = serial();
    for removed in [true, false] {
        let name = Named::new("wait");
        drop(open::<Ring>(&name, Kind::Spsc, libc::O_RDWR));
        let old = fs::metadata(name.path()).unwrap().ino();
        let (locked, done, checked) = (Gate::new(), Gate::new(), Gate::new());
        // Forked before the lock is taken: it would keep a part in it.
        let opener = fork(|| {
            locked.pass();
            let ring: Ring = open(&name, Kind::Spsc, libc::O_RDWR);
            done.open();
            checked.pass();
            assert!(!Ring::stat(&ring).unlinked);
        });
        let remover = File::options().read(true).write(true).open(name.path()).unwrap();
        lock_admin(&remover);
        locked.open();
        while !is_locked(&remover, SLOT_BYTE) {
            std::thread::yield_now();
        }
        assert!(!done.is_open_within(100), "it did not wait");
        if removed {
            fs::remove_file(name.path()).unwrap();
        }
        drop(remover);
        done.pass();
        assert_eq!(fs::metadata(name.path()).unwrap().ino() == old, !removed);
        checked.open();
        join(opener);
    }
    // Not for ever.
    let name = Named::new("stopped");
    drop(open::<Ring>(&name, Kind::Spsc, libc::O_RDWR));
    let remover = File::options().read(true).write(true).open(name.path()).unwrap();
    lock_admin(&remover);
    let opened = <Ring as Face>::open(Some(&name.0), &Options::default(), libc::O_RDWR, 0);
    refused_with(opened, libc::EBUSY, "is removing it and was stopped");
    refused_with(Rust::reap(Some(Mechanism::Ring), Some(&name.0)), libc::EBUSY, "");
}

/// A maker that has to use a temporary name is stopped while its file has one: the file is in use.
/// Killed there, it leaves a file that may go.
#[test]
fn a_killed_makers_temporary_file_is_reaped() {
    let _turn = serial();
    let started = Gate::new();
    let maker = fork(|| {
        let unnamed = (libc::O_TMPFILE & !libc::O_DIRECTORY) as u32;
        deny_bits(libc::SYS_openat, 2, unnamed, Errno::EOPNOTSUPP);
        started.open();
        loop {
            let name = Named::new("maker");
            let options = Options::new(1 << 16, 64);
            drop(<Ring as Face>::open(Some(&name.0), &options, CREATE, 0o600).unwrap());
        }
    });
    started.pass();
    let pid = maker.pid();
    let mine = format!("/{pid}.");
    let found = || {
        let all = Rust::list().into_iter();
        let name = all.map(|one| String::from_utf8(one.name).unwrap()).find(|n| n.contains(&mine));
        name.filter(|name| fs::exists(format!("/dev/shm/.mdg.tmp.{}", &name[1..])).unwrap())
    };
    let stop = |signal| {
        nix::sys::signal::kill(pid, signal).unwrap();
        if signal == nix::sys::signal::SIGSTOP {
            nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WUNTRACED)).unwrap();
        }
    };
    // Until it is caught with one that it has locked.
    let name = loop {
        while found().is_none() {}
        stop(nix::sys::signal::SIGSTOP);
        let caught = found().filter(|name| {
            let reaped = Rust::reap(Some(Mechanism::Temporary), Some(name));
            reaped.is_err_and(|failure| failure.code == libc::EBUSY)
        });
        match caught {
            Some(name) => break name,
            // Gone meanwhile, or caught before it locked its file: then it makes another one.
            None => stop(nix::sys::signal::SIGCONT),
        }
    };
    assert_eq!(Rust::check(Mechanism::Temporary, &name).unwrap().0, 0);
    kill(maker);
    assert_eq!(Rust::check(Mechanism::Temporary, &name).unwrap().0, 1);
    assert_eq!(Rust::reap(Some(Mechanism::Temporary), Some(&name)).unwrap(), 1);
    // It may have been killed with the second name standing as well.
    for left in Rust::list() {
        let name = String::from_utf8(left.name).unwrap();
        if left.mechanism == Mechanism::Ring && name.contains(&format!("-maker-{pid}-")) {
            assert_eq!(Rust::reap(Some(Mechanism::Ring), Some(&name)).unwrap(), 1);
        }
    }
}
