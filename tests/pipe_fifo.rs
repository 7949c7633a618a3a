//! FIFO names, and opening FIFOs with a timeout, through the Rust and the C face alike.

mod pipe_support;

use std::os::fd::AsRawFd;
use std::path::Path;

use pipe_support::*;

#[test]
fn fifo_names() {
    both(|face| {
        let dir = Dir::new();
        let at = |name: &str| dir.path(name);
        face.create(&at("fifo"), 0o640).unwrap();
        assert_eq!(face.create(&at("fifo"), 0o640), Err(libc::EEXIST));
        assert_eq!(face.create(&at("x"), 0o1000), Err(libc::EINVAL));
        assert_eq!(face.create(&at("no/x"), 0o600), Err(libc::ENOENT));
        assert_eq!(face.create(&at("fifo/x"), 0o600), Err(libc::ENOTDIR));
        assert_eq!(face.create(&at(&"n".repeat(300)), 0o600), Err(libc::ENAMETOOLONG));
        std::fs::write(at("file"), b"kept").unwrap();
        std::os::unix::fs::symlink(at("fifo"), at("link")).unwrap();
        for (name, code) in [("file", libc::EPROTO), ("link", libc::ELOOP), ("x", libc::ENOENT)] {
            assert_eq!(face.unlink(&at(name)), Err(code), "{name}");
            for oflag in [libc::O_RDONLY, libc::O_WRONLY, libc::O_RDWR] {
                assert_eq!(face.fifo(&at(name), oflag, LONG).map(drop), Err(code), "{name}");
            }
        }
        assert_eq!(face.unlink(Path::new("/tmp")), Err(libc::EPROTO));
        assert_eq!(std::fs::read(at("file")).unwrap(), b"kept");
        face.unlink(&at("fifo")).unwrap();
        assert_eq!(face.unlink(&at("fifo")), Err(libc::ENOENT));
    });
}

#[test]
fn fifo_opens_wait_for_the_other_end() {
    both(|face| {
        let dir = Dir::new();
        let path = dir.path("fifo");
        face.create(&path, 0o600).unwrap();
        for (mine, other) in [(libc::O_RDONLY, libc::O_WRONLY), (libc::O_WRONLY, libc::O_RDONLY)] {
            assert_eq!(face.fifo(&path, mine, NOWAIT).map(drop), Err(libc::EAGAIN));
            assert_eq!(face.fifo(&path, mine, SHORT).map(drop), Err(libc::ETIMEDOUT));
            let signalled = interrupted(|| face.fifo(&path, mine, FOREVER).map(drop));
            assert_eq!(signalled, Err(libc::EINTR));
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
            peer.succeeds();
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
        writer.succeeds();
        drop(read);
        let reader = fork(|| assert_eq!(std::fs::read(&path).unwrap(), b"ours"));
        let write = face.fifo(&path, libc::O_WRONLY, LONG).unwrap();
        assert_eq!(face.write(write.as_raw_fd(), b"ours", LONG), Ok(4));
        drop(write);
        reader.succeeds();
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
                let answer = face.fifo(&path, oflag, LONG).map(drop);
                // Unlinked before the call has begun to wait, it is simply not there.
                assert!(matches!(answer, Err(libc::ESTALE | libc::ENOENT)), "{answer:?}");
            });
            assert_eq!(face.read(read.as_raw_fd(), &mut [0; 1], LONG), Ok(1));
            face.unlink(&path).unwrap();
            waiter.succeeds();
        }
    });
}
