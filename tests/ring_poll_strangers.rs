//! Descriptors of rings, and who is near: processes of other users, under another root, with another
//! /dev/shm or none that can be written to, and a user who has no instances left.

mod support;

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use madang::ring::{Kind, Options, Ring};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use support::Dir;
use support::confine::with_own_shm;
use support::face::{FOREVER, NOWAIT};
use support::poll::*;
use support::process::{Gate, as_nobody, fork, is_root, join, leave, skip};
use support::ring_face::{C, CREATE, Entry, Face, Named};

on_both_faces! { Ring, C in turn:
    strangers_cannot_ring
    a_notifier_that_has_given_up_its_privileges
    under_another_root_and_without_shared_memory_of_its_own
    where_shared_memory_is_read_only
    as_many_instances_as_a_user_may_have
    an_ordinary_end_leaves_nothing
}

/// What futimens(2) says of a file that this process has open.
fn touch(file: &File) -> Result<i32, Errno> {
    // SAFETY: without times it is now.
    Errno::result(unsafe { libc::futimens(file.as_raw_fd(), std::ptr::null()) })
}

/// A user without permission to write may watch what he may read; he wakes nobody, and takes no
/// wake-up from anybody.
fn strangers_cannot_ring<F: Face>() {
    if !is_root() {
        return;
    }
    for mode in [0o600, 0o644] {
        let name = Named::new("strangers");
        let ring = F::open(Some(&name.0), &options(Kind::Mpmc, 4), CREATE, mode).unwrap();
        let fd = ring.fd(IN).unwrap();
        is_empty(&ring);
        as_nobody(|| match File::open(name.path()) {
            Ok(file) => {
                assert_eq!(mode, 0o644);
                assert_eq!(touch(&file), Err(Errno::EACCES));
                assert_eq!(nix::sys::uio::pwrite(&file, &[0], 256), Err(Errno::EBADF));
            }
            Err(error) => assert_eq!((mode, error.raw_os_error()), (0o600, Some(libc::EACCES))),
        });
        assert!(!readable(fd));
        ring.push(&word(1), NOWAIT).unwrap();
        as_nobody(|| assert!(File::options().write(true).open(name.path()).is_err()));
        assert!(readable(fd));
    }
    // Of an anonymous ring there is nothing to be had without its descriptor.
    let ring: F = open(Kind::Mpmc, 4);
    let fd = ring.fd(IN).unwrap();
    is_empty(&ring);
    let owner = std::process::id();
    let files: Vec<_> = descriptors("/memfd:").into_iter().chain([fd]).collect();
    assert!(files.len() >= 3);
    as_nobody(|| {
        for number in &files {
            let error = File::open(format!("/proc/{owner}/fd/{number}")).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EACCES));
        }
    });
    assert!(!readable(fd));
}

/// It may not touch the file any more; the descriptor that it opened before is good for a write.
fn a_notifier_that_has_given_up_its_privileges<F: Face>() {
    if !is_root() {
        return;
    }
    let name = Named::new("given-up");
    let ring = F::open(Some(&name.0), &options(Kind::Mpmc, 4), CREATE, 0o600).unwrap();
    let fd = ring.fd(IN).unwrap();
    is_empty(&ring);
    join(fork(|| {
        let own = F::open(Some(&name.0), &Options::default(), libc::O_WRONLY, 0).unwrap();
        nix::unistd::setgroups(&[]).unwrap();
        nix::unistd::setresgid(65534.into(), 65534.into(), 65534.into()).unwrap();
        nix::unistd::setresuid(65534.into(), 65534.into(), 65534.into()).unwrap();
        assert_eq!(File::open(name.path()).unwrap_err().raw_os_error(), Some(libc::EACCES));
        own.push(&word(1), NOWAIT).unwrap();
        leave(0);
    }));
    assert!(readable(fd));
    assert_eq!((pop(&ring), ring.stat().notify_failures), (1, 0));
    // Where a write would end in SIGXFSZ there is none.
    let (there, go) = (Gate::new(), Gate::new());
    let child = fork(|| {
        let own = F::open(Some(&name.0), &Options::default(), libc::O_WRONLY, 0).unwrap();
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_FSIZE, 0, 0).unwrap();
        nix::unistd::setgroups(&[]).unwrap();
        nix::unistd::setresgid(65534.into(), 65534.into(), 65534.into()).unwrap();
        nix::unistd::setresuid(65534.into(), 65534.into(), 65534.into()).unwrap();
        there.open();
        go.pass();
        own.push(&word(2), NOWAIT).unwrap();
        leave(0);
    });
    // Clearing away after the first one has touched the file, too.
    there.pass();
    is_empty(&ring);
    assert!(!readable(fd));
    go.open();
    join(child);
    assert!(!readable(fd));
    assert_eq!(ring.stat().notify_failures, 1);
    ring.push(&word(3), NOWAIT).unwrap();
    assert!(readable(fd));
}

fn under_another_root_and_without_shared_memory_of_its_own<F: Face>() {
    let ring: F = open(Kind::Mpmc, 4);
    let fd = ring.fd(IN).unwrap();
    is_empty(&ring);
    with_own_shm(c"size=64k", || ring.push(&word(1), NOWAIT).unwrap());
    if try_pop(&ring).is_none() {
        return;
    }
    let dir = Dir::new();
    is_empty(&ring);
    let (there, go) = (Gate::new(), Gate::new());
    let child = fork(|| {
        ring.push(&word(2), NOWAIT).unwrap();
        nix::unistd::chroot(&dir.path("")).unwrap();
        assert!(!std::fs::exists("/proc").unwrap());
        there.open();
        go.pass();
        ring.push(&word(3), NOWAIT).unwrap();
        leave(0);
    });
    there.pass();
    assert_eq!(pop(&ring), 2);
    is_empty(&ring);
    assert!(!readable(fd));
    go.open();
    join(child);
    assert!(readable(fd));
    assert_eq!(pop(&ring), 3);
}

fn where_shared_memory_is_read_only<F: Face>() {
    with_own_shm(c"size=64k", || {
        let (none, flags) = (None::<&str>, MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY);
        mount(none, c"/dev/shm", none, flags, none).unwrap();
        assert!(File::create("/dev/shm/x").is_err());
        let ring: F = open(Kind::Mpmc, 4);
        let other = ring.dup(libc::O_RDWR).unwrap();
        let fd = ring.fd(IN).unwrap();
        is_empty(&ring);
        assert!(!readable(fd));
        let child = fork(|| {
            other.push(&word(1), NOWAIT).unwrap();
            leave(0);
        });
        assert_eq!(F::wait_any(&mut [Entry::ring(&ring, IN)], FOREVER).unwrap(), 1);
        join(child);
        assert!(readable(fd));
        assert_eq!(pop(&ring), 1);
        leave(0);
    });
}

/// Real instances, of a user who has no other ones.
fn as_many_instances_as_a_user_may_have<F: Face>() {
    let limit = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_instances").unwrap();
    if !is_root() || limit.trim().parse::<u32>().unwrap() > 900 {
        return skip("needs root and a low limit");
    }
    as_nobody(|| {
        let rings: [F; 2] = [open(Kind::Mpmc, 4), open(Kind::Mpmc, 4)];
        let mut taken = Vec::new();
        let mut more = || {
            // SAFETY: no memory is involved.
            let made = Errno::result(unsafe { libc::inotify_init1(libc::IN_CLOEXEC) })?;
            // SAFETY: a new descriptor.
            taken.push(unsafe { OwnedFd::from_raw_fd(made) });
            Ok::<_, Errno>(())
        };
        while more() != Err(Errno::EMFILE) {}
        let failure = rings[0].fd(IN).unwrap_err();
        assert_eq!(failure.code, libc::EMFILE);
        let told = format!("fs.inotify.max_user_instances (now {})", limit.trim());
        assert!(failure.text.contains(&told), "{failure:?}");
        let child = fork(|| {
            rings[1].push(&word(1), NOWAIT).unwrap();
            leave(0);
        });
        let mut entries = [Entry::ring(&rings[0], IN), Entry::ring(&rings[1], IN)];
        assert_eq!(F::wait_any(&mut entries, FOREVER).unwrap(), 1);
        join(child);
        taken.pop();
        assert!(readable(rings[0].fd(IN).unwrap()));
        leave(0);
    });
}

fn an_ordinary_end_leaves_nothing<F: Face>() {
    with_own_shm(c"size=1m", || {
        join(fork(|| {
            let ring: F = open(Kind::Mpmc, 4);
            let fd = ring.fd(IN).unwrap();
            is_empty(&ring);
            ring.push(&word(1), NOWAIT).unwrap();
            assert!(readable(fd));
            F::wait_any(&mut [Entry::ring(&ring, IN)], FOREVER).unwrap();
            assert_eq!(names(), [""; 0]);
            // As a return from main: nothing is dropped.
            std::process::exit(0);
        }));
        assert_eq!(names(), [""; 0]);
        leave(0);
    });
}
