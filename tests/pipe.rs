//! Pipes and FIFOs as byte streams, and who may use them, through the Rust and the C face alike.

mod support;

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::resource::Resource;
use support::Dir;
use support::confine::{deny_new_calls, limit};
use support::face::{FOREVER, NOWAIT, refused};
use support::pipe_face::*;
use support::process::{
    as_nobody, default_sigpipe, fork, interrupted, is_root, join, sigpipe_pending,
};

/// A pipe made by pipe(2), and a FIFO's two ends: they take different ways inside.
fn streams(face: &dyn Face, dir: &Dir) -> [(OwnedFd, OwnedFd); 2] {
    let path = dir.path("stream");
    face.create(&path, 0o600).unwrap();
    let keeper = face.fifo(&path, libc::O_RDWR, NOWAIT).unwrap();
    let write = face.fifo(&path, libc::O_WRONLY, NOWAIT).unwrap();
    let read = face.fifo(&path, libc::O_RDONLY, NOWAIT).unwrap();
    drop(keeper);
    face.unlink(&path).unwrap();
    [face.open(false).unwrap(), (read, write)]
}

fn each(body: impl Fn(&dyn Face, OwnedFd, OwnedFd)) {
    both(|face| {
        let dir = Dir::new();
        for (read, write) in streams(face, &dir) {
            body(face, read, write);
        }
    });
}

#[test]
fn bytes_then_end_of_file() {
    each(|face, read, write| {
        let (r, w) = (read.as_raw_fd(), write.as_raw_fd());
        let mut buf = [0; 8];
        assert_eq!(face.write(w, b"abcde", NOWAIT), Ok(5));
        assert_eq!(face.read(r, &mut buf[..3], NOWAIT), Ok(3));
        assert_eq!(&buf[..3], b"abc");
        assert_eq!(face.read(r, &mut buf, LONG), Ok(2));
        assert_eq!(face.write(w, b"xyz", FOREVER), Ok(3));
        drop(write);
        assert_eq!(face.read_full(r, &mut buf, LONG), Ok(3), "what came before the end");
        assert_eq!(face.read(r, &mut buf, FOREVER), Ok(0));
        assert_eq!(face.read_full(r, &mut buf, NOWAIT), Ok(0));
    });
}

#[test]
fn waits_end_in_time_and_leave_the_flags_alone() {
    each(|face, read, write| {
        let (r, w) = (read.as_raw_fd(), write.as_raw_fd());
        let before = (flags(&read), flags(&write));
        assert_eq!(before.0 & libc::O_NONBLOCK, 0);
        let mut buf = [0; 8];
        assert_eq!(refused(face.read(r, &mut buf, NOWAIT)), Errno::EAGAIN);
        assert_eq!(refused(face.read_full(r, &mut buf, NOWAIT)), Errno::EAGAIN);
        let start = Instant::now();
        assert_eq!(refused(face.read(r, &mut buf, SHORT)), Errno::ETIMEDOUT);
        assert!(start.elapsed() >= Duration::from_nanos(SHORT as u64));

        let data = vec![7; 1 << 20];
        let fits = face.write(w, &data, NOWAIT).unwrap();
        assert!(fits > 0 && fits < data.len());
        assert_eq!(refused(face.write(w, &data, NOWAIT)), Errno::EAGAIN);
        assert_eq!(refused(face.write(w, &data, SHORT)), Errno::ETIMEDOUT);
        let mut sink = vec![0; fits];
        assert_eq!(face.read_full(r, &mut sink, NOWAIT), Ok(fits));
        assert_eq!(face.write(w, &data, SHORT), Ok(fits), "the count so far, not the timeout");
        assert_eq!((flags(&read), flags(&write)), before);
    });
}

#[test]
fn non_blocking_descriptors_wait_too() {
    each(|face, read, write| {
        let r = read.as_raw_fd();
        // SAFETY: takes no pointers.
        unsafe { libc::fcntl(r, libc::F_SETFL, libc::O_NONBLOCK) };
        assert_eq!(refused(face.read(r, &mut [0; 8], SHORT)), Errno::ETIMEDOUT);
        let writer = fork(|| assert_eq!(face.write(write.as_raw_fd(), b"late", LONG), Ok(4)));
        assert_eq!(face.read_full(r, &mut [0; 4], LONG), Ok(4));
        join(writer);
        assert_ne!(flags(&read) & libc::O_NONBLOCK, 0);
    });
}

#[test]
fn much_data_between_processes() {
    each(|face, read, write| {
        let data: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
        let writer = fork(|| {
            assert_eq!(face.write(write.as_raw_fd(), &data, LONG), Ok(data.len()));
        });
        drop(write);
        let mut got = vec![0; data.len() + 1];
        assert_eq!(face.read_full(read.as_raw_fd(), &mut got, LONG), Ok(data.len()));
        assert!(got[..data.len()] == data[..]);
        join(writer);
    });
}

#[test]
fn signals_end_waits_whatever_sa_restart_says() {
    each(|face, read, write| {
        let (r, w) = (read.as_raw_fd(), write.as_raw_fd());
        let mut buf = [0; 8];
        assert_eq!(refused(interrupted(|| face.read(r, &mut buf, FOREVER))), Errno::EINTR);
        assert_eq!(face.write(w, b"ab", NOWAIT), Ok(2));
        let so_far = interrupted(|| face.read_full(r, &mut buf, FOREVER));
        assert_eq!((so_far, &buf[..2]), (Ok(2), &b"ab"[..]), "what was read is not lost");
        let data = vec![7; 1 << 20];
        let fits = interrupted(|| face.write(w, &data, FOREVER)).unwrap();
        assert!(fits > 0 && fits < data.len());
        assert_eq!(refused(interrupted(|| face.write(w, &data, FOREVER))), Errno::EINTR);
        assert_eq!(held(&read) as usize, fits);
    });
}

/// With nobody reading: EPIPE, alive, no SIGPIPE left behind, and a pending one kept.
fn epipe(face: &dyn Face, write: &OwnedFd, limited: bool) {
    join(fork(|| {
        default_sigpipe();
        if limited {
            deny_new_calls();
        }
        let w = write.as_raw_fd();
        assert_eq!(refused(face.write(w, b"x", NOWAIT)), Errno::EPIPE);
        assert_eq!(refused(face.write(w, &[7; 100_000], LONG)), Errno::EPIPE);
        assert_eq!(refused(face.send(w, b"x", LONG)), Errno::EPIPE);
        assert!(!sigpipe_pending());
        // SAFETY: raises a blocked signal.
        unsafe { libc::raise(libc::SIGPIPE) };
        assert_eq!(refused(face.write(w, b"x", NOWAIT)), Errno::EPIPE);
        assert!(sigpipe_pending(), "a SIGPIPE of somebody else was swallowed");
    }));
}

#[test]
fn no_reader_is_epipe_and_never_sigpipe() {
    each(|face, read, write| {
        drop(read);
        epipe(face, &write, false);
        epipe(face, &write, true);
    });
}

#[test]
fn the_last_reader_leaves_during_a_write() {
    each(|face, read, write| {
        let writer = fork(|| {
            default_sigpipe();
            let w = write.as_raw_fd();
            // SAFETY: the child's own copy, of which nothing else knows.
            unsafe { libc::close(read.as_raw_fd()) };
            let data = vec![7; 1 << 20];
            let went = face.write(w, &data, LONG).unwrap();
            assert!(went > 0 && went < data.len());
            assert_eq!(refused(face.write(w, &data, LONG)), Errno::EPIPE);
        });
        until("the pipe is full", || held(&read) >= 60_000);
        drop(read);
        join(writer);
    });
}

#[test]
fn older_kernels_do_the_same() {
    each(|face, read, write| {
        join(fork(|| {
            deny_new_calls();
            let (r, w) = (read.as_raw_fd(), write.as_raw_fd());
            let mut buf = [0; 8];
            assert_eq!(refused(face.read(r, &mut buf, NOWAIT)), Errno::EAGAIN);
            assert_eq!(refused(face.read(r, &mut buf, SHORT)), Errno::ETIMEDOUT);
            assert_eq!(refused(face.read(w, &mut buf, SHORT)), Errno::EBADF, "wrong end");
            assert_eq!(refused(face.write(r, b"x", SHORT)), Errno::EBADF, "wrong end");
            assert_eq!(face.write(w, b"abc", NOWAIT), Ok(3));
            assert_eq!(face.read(r, &mut buf, LONG), Ok(3));
            let big = vec![7; 1 << 20];
            assert!(face.write(w, &big, SHORT).unwrap() < big.len());
            assert_eq!(flags(&read) & libc::O_NONBLOCK, 0);
            drop(write);
            assert!(face.read_full(r, &mut vec![0; 1 << 20], LONG).unwrap() > 0);
            assert_eq!(face.read(r, &mut buf, LONG), Ok(0));
        }));
    });
}

#[test]
fn descriptors_are_checked() {
    each(|face, read, write| {
        let (r, w) = (read.as_raw_fd(), write.as_raw_fd());
        let mut buf = [0; 1];
        assert_eq!(refused(face.read(w, &mut buf, LONG)), Errno::EBADF);
        assert_eq!(refused(face.write(r, b"x", LONG)), Errno::EBADF);
        assert_eq!(refused(face.read(w, &mut [], LONG)), Errno::EBADF);
        assert_eq!(refused(face.write(r, &[], LONG)), Errno::EBADF);
        assert_eq!(refused(face.read(1 << 20, &mut buf, LONG)), Errno::EBADF);
        assert_eq!(refused(face.write(1 << 20, b"x", LONG)), Errno::EBADF);
        assert_eq!(face.read(r, &mut [], LONG), Ok(0));
        assert_eq!(face.write(w, &[], LONG), Ok(0));
    });
}

#[test]
fn regular_files_keep_their_position() {
    both(|face| {
        let dir = Dir::new();
        std::fs::write(dir.path("file"), b"abcdef").unwrap();
        let file: OwnedFd = std::fs::File::open(dir.path("file")).unwrap().into();
        let mut buf = [0; 4];
        assert_eq!(face.read(file.as_raw_fd(), &mut buf, LONG), Ok(4));
        assert_eq!(face.read(file.as_raw_fd(), &mut buf, LONG), Ok(2));
        assert_eq!(face.read(file.as_raw_fd(), &mut buf, LONG), Ok(0));
    });
}

#[test]
fn pair_connects_both_ways() {
    both(|face| {
        let [pr, pw, cr, cw] = face.pair().unwrap();
        let child = fork(|| {
            let mut buf = [0; 4];
            assert_eq!(face.read_full(cr.as_raw_fd(), &mut buf, LONG), Ok(4));
            buf.reverse();
            assert_eq!(face.write(cw.as_raw_fd(), &buf, LONG), Ok(4));
        });
        let mut buf = [0; 4];
        assert_eq!(face.write(pw.as_raw_fd(), b"ping", LONG), Ok(4));
        assert_eq!(face.read_full(pr.as_raw_fd(), &mut buf, LONG), Ok(4));
        assert_eq!(&buf, b"gnip");
        join(child);
    });
}

#[test]
fn descriptors_close_on_exec_unless_told_otherwise() {
    both(|face| {
        let (read, write) = face.open(false).unwrap();
        assert!(close_on_exec(&read) && close_on_exec(&write));
        let (read, write) = face.open(true).unwrap();
        assert!(!close_on_exec(&read) && !close_on_exec(&write));
        let script = format!("echo inherited >&{}", write.as_raw_fd());
        let status = std::process::Command::new("sh").args(["-c", &script]).status();
        assert!(status.unwrap().success());
        let mut buf = [0; 10];
        assert_eq!(face.read_full(read.as_raw_fd(), &mut buf, LONG), Ok(10));
        assert_eq!(&buf, b"inherited\n");
    });
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn too_many_descriptors_leave_nothing_behind() {
    both(|face| {
        join(fork(|| {
            // Room for exactly three more; the listing itself needs one.
            let next = keep(std::fs::File::open("/dev/null").unwrap().into()) as u64 + 1;
            let before = descriptors();
            limit(Resource::RLIMIT_NOFILE, next + 3);
            assert_eq!(refused(face.pair()), Errno::EMFILE);
            assert_eq!(descriptors(), before);
            let _pipe = face.open(false).unwrap();
            assert_eq!(refused(face.open(false)), Errno::EMFILE);
        }));
    });
}

#[test]
fn permissions_of_another_user() {
    if !is_root() {
        return;
    }
    each(|face, read, write| {
        let dir = Dir::new();
        face.create(&dir.path("fifo"), 0o600).unwrap();
        // Others may come as far as the FIFO's name.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path("."), open).unwrap();
        as_nobody(|| {
            assert_eq!(refused(face.create(&dir.path("other"), 0o600)), Errno::EACCES);
            assert_eq!(refused(face.unlink(&dir.path("fifo"))), Errno::EACCES);
            let opened = face.fifo(&dir.path("fifo"), libc::O_RDONLY, LONG);
            assert_eq!(refused(opened), Errno::EACCES);
            // An inherited pipe that may not be opened again, with and without new calls.
            let (r, w) = (read.as_raw_fd(), write.as_raw_fd());
            for limited in [false, true] {
                if limited {
                    deny_new_calls();
                }
                let mut buf = [0; 9000];
                assert_eq!(refused(face.read(r, &mut buf, SHORT)), Errno::ETIMEDOUT);
                assert_eq!(face.write(w, &[7; 9000], LONG), Ok(9000));
                assert_eq!(face.read_full(r, &mut buf, LONG), Ok(9000));
                assert!(face.write(w, &vec![7; 1 << 20], SHORT).unwrap() >= 60_000);
                assert!(face.read_full(r, &mut vec![0; 1 << 20], NOWAIT).unwrap() >= 60_000);
                assert_eq!(face.send(w, &[9; 9000], LONG), Ok(()));
                assert_eq!(face.receive(r, &mut buf, LONG), Ok(9000));
                assert_eq!(buf, [9; 9000]);
            }
        });
    });
}
