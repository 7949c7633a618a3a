//! FIFO names, and opening FIFOs with a timeout, through the Rust and the C face alike.

mod support;

use std::os::fd::AsRawFd;
use std::path::Path;

use nix::errno::Errno;
use support::Dir;
use support::face::{FOREVER, NOWAIT, refused};
use support::pipe_face::*;
use support::process::{fork, interrupted, join};

#[test]
fn fifo_names() {
    both(|face| {
        let dir = Dir::new();
        let at = |name: &str| dir.path(name);
        face.create(&at("fifo"), 0o640).unwrap();
        assert_eq!(refused(face.create(&at("fifo"), 0o640)), Errno::EEXIST);
        assert_eq!(refused(face.create(&at("x"), 0o1000)), Errno::EINVAL);
        assert_eq!(refused(face.create(&at("no/x"), 0o600)), Errno::ENOENT);
        assert_eq!(refused(face.create(&at("fifo/x"), 0o600)), Errno::ENOTDIR);
        assert_eq!(refused(face.create(&at(&"n".repeat(300)), 0o600)), Errno::ENAMETOOLONG);
        std::fs::write(at("file"), b"kept").unwrap();
        std::os::unix::fs::symlink(at("fifo"), at("link")).unwrap();
        for (name, code) in [("file", Errno::EPROTO), ("link", Errno::ELOOP), ("x", Errno::ENOENT)]
        {
            assert_eq!(refused(face.unlink(&at(name))), code, "{name}");
            for oflag in [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR] {
                assert_eq!(refused(face.fifo(&at(name), oflag, LONG)), code, "{name}");
            }
        }
        assert_eq!(refused(face.unlink(Path::new("/tmp"))), Errno::EPROTO);
        assert_eq!(std::fs::read(at("file")).unwrap(), b"kept");
        face.unlink(&at("fifo")).unwrap();
        assert_eq!(refused(face.unlink(&at("fifo"))), Errno::ENOENT);
    });
}

#[test]
fn fifo_opens_wait_for_the_other_end() {
    both(|face| {
        let dir = Dir::new();
        let path = dir.path("fifo");
        face.create(&path, 0o600).unwrap();
        for (mine, other) in [(libc::O_RDONLY, libc::O_WRONLY), (libc::O_WRONLY, libc::O_RDONLY)] {
            assert_eq!(refused(face.fifo(&path, mine, NOWAIT)), Errno::EAGAIN);
            assert_eq!(refused(face.fifo(&path, mine, SHORT)), Errno::ETIMEDOUT);
            let signalled = interrupted(|| face.fifo(&path, mine, FOREVER));
            assert_eq!(refused(signalled), Errno::EINTR);
            let peer = fork(|| {
                let fd = face.fifo(&path, other, LONG).unwrap();
                assert_eq!(flags(&fd) & libc::O_NONBLOCK, 0);
                match other {
                    libc::O_WRONLY => assert_eq!(face.write(fd.as_raw_fd(), b"hi", LONG), Ok(2)),
                    _ => assert_eq!(face.read_full(fd.as_raw_fd(), &mut [0; 2], LONG), Ok(2)),
                }
            });
            let fd = face.fifo(&path, mine, LONG).unwrap();
            assert!(close_on_exec(&fd) && flags(&fd) & libc::O_NONBLOCK == 0);
            match mine {
                libc::O_WRONLY => assert_eq!(face.write(fd.as_raw_fd(), b"hi", LONG), Ok(2)),
                _ => assert_eq!(face.read_full(fd.as_raw_fd(), &mut [0; 2], LONG), Ok(2)),
            }
            join(peer);
        }
    });
}

#[test]
fn plain_blocking_peers_meet_us() {
    both(|face| {
        let dir = Dir::new();
        let path = dir.path("fifo");
        face.create(&path, 0o600).unwrap();
        let writer = fork(|| std::fs::write(&path, b"plain").unwrap());
        let read = face.fifo(&path, libc::O_RDONLY, LONG).unwrap();
        assert_eq!(face.read_full(read.as_raw_fd(), &mut [0; 9], LONG), Ok(5));
        join(writer);
        drop(read);
        let reader = fork(|| assert_eq!(std::fs::read(&path).unwrap(), b"ours"));
        let write = face.fifo(&path, libc::O_WRONLY, LONG).unwrap();
        assert_eq!(face.write(write.as_raw_fd(), b"ours", LONG), Ok(4));
        drop(write);
        join(reader);
    });
}

#[test]
fn a_fifo_unlinked_during_the_wait_is_stale() {
    both(|face| {
        let dir = Dir::new();
        let path = dir.path("fifo");
        for oflag in [libc::O_RDONLY, libc::O_WRONLY] {
            face.create(&path, 0o600).unwrap();
            let (read, write) = face.open(false).unwrap();
            let waiter = fork(|| {
                assert_eq!(face.write(write.as_raw_fd(), b"!", LONG), Ok(1));
                let answer = refused(face.fifo(&path, oflag, LONG));
                // Unlinked before the call has begun to wait, it is simply not there.
                assert!(matches!(answer, Errno::ESTALE | Errno::ENOENT), "{answer:?}");
            });
            assert_eq!(face.read(read.as_raw_fd(), &mut [0; 1], LONG), Ok(1));
            face.unlink(&path).unwrap();
            join(waiter);
        }
    });
}
