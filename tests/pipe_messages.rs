//! Messages through pipes, through the Rust and the C face alike.

mod support;

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use support::Dir;
use support::confine::deny_new_calls;
use support::face::{FOREVER, NOWAIT, last_error, refused};
use support::pipe_face::*;
use support::process::{Child, caught, fork, interrupted, join, kill, serial};

const MAX: usize = 1 << 20;
const CHUNK: usize = 4088;

/// A message whose contents tell its length and its sender.
fn message(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + seed * 7 + len) as u8).collect()
}

/// One chunk as it stands in the pipe.
fn chunk(first: bool, remaining: usize, payload: &[u8]) -> Vec<u8> {
    let word = remaining as u32 | if first { 1 << 31 } else { 0 };
    let mut bytes = word.to_le_bytes().to_vec();
    bytes.extend((payload.len() as u16).to_le_bytes());
    bytes.extend(0x4D44_u16.to_le_bytes());
    bytes.extend(payload);
    bytes
}

/// Writes bytes past the library.
fn raw(fd: &OwnedFd, bytes: &[u8]) {
    assert_eq!(nix::unistd::write(fd, bytes), Ok(bytes.len()));
}

#[test]
fn messages_of_every_size_come_whole_and_in_order() {
    both(|face| {
        let (read, write) = face.open(false).unwrap();
        let sizes = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 0, 2 * CHUNK, 2 * CHUNK + 1, 65536, MAX];
        let sender = fork(|| {
            for (i, &size) in sizes.iter().enumerate() {
                assert_eq!(face.send(write.as_raw_fd(), &message(i, size), LONG), Ok(()));
            }
        });
        drop(write);
        let mut buf = vec![0; MAX];
        for (i, &size) in sizes.iter().enumerate() {
            assert_eq!(face.receive(read.as_raw_fd(), &mut buf, LONG), Ok(size));
            assert!(buf[..size] == message(i, size)[..], "message {i}");
        }
        assert_eq!(refused(face.receive(read.as_raw_fd(), &mut buf, LONG)), Errno::EPIPE);
        assert_eq!(refused(face.receive(read.as_raw_fd(), &mut buf, NOWAIT)), Errno::EPIPE);
        join(sender);
    });
}

#[test]
fn the_wire_format_is_the_documented_one() {
    both(|face| {
        let (read, write) = face.open(false).unwrap();
        let text = message(1, CHUNK + 5);
        face.send(write.as_raw_fd(), &text, NOWAIT).unwrap();
        let mut wire = vec![0; CHUNK + 5 + 16];
        let all = wire.len();
        assert_eq!(face.read_full(read.as_raw_fd(), &mut wire, NOWAIT), Ok(all));
        let expected = [chunk(true, CHUNK + 5, &text[..CHUNK]), chunk(false, 5, &text[CHUNK..])];
        assert!(wire == expected.concat());
        assert_eq!(held(&read), 0);
    });
}

#[test]
fn limits() {
    both(|face| {
        let (read, write) = face.open(false).unwrap();
        let (r, w) = (read.as_raw_fd(), write.as_raw_fd());
        assert_eq!(refused(face.send(w, &vec![0; MAX + 1], LONG)), Errno::EMSGSIZE);
        assert_eq!(held(&read), 0, "nothing was written");
        face.send(w, &message(0, 9000), LONG).unwrap();
        face.send(w, b"", LONG).unwrap();
        face.send(w, b"next", LONG).unwrap();
        let mut buf = [0; 100];
        assert_eq!(refused(face.receive(r, &mut buf, LONG)), Errno::EMSGSIZE);
        assert_eq!(face.receive(r, &mut [], LONG), Ok(0));
        assert_eq!(refused(face.receive(r, &mut [], LONG)), Errno::EMSGSIZE);
        assert_eq!(refused(face.receive(r, &mut buf, NOWAIT)), Errno::EAGAIN);
        assert_eq!(refused(face.receive(r, &mut buf, SHORT)), Errno::ETIMEDOUT);
        assert_eq!(refused(interrupted(|| face.receive(r, &mut buf, FOREVER))), Errno::EINTR);
        assert_eq!(refused(face.send(r, b"x", LONG)), Errno::EBADF);
        assert_eq!(refused(face.receive(w, &mut buf, LONG)), Errno::EBADF);
        assert_eq!(refused(face.send(1 << 20, b"x", LONG)), Errno::EBADF);
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(refused(face.send(socket.as_raw_fd(), b"x", LONG)), Errno::EPROTO);
        assert_eq!(refused(face.receive(socket.as_raw_fd(), &mut buf, LONG)), Errno::EPROTO);
    });
}

#[test]
fn a_full_pipe() {
    both(|face| {
        let (read, write) = face.open(false).unwrap();
        let (r, w) = (read.as_raw_fd(), write.as_raw_fd());
        let before = flags(&write);
        assert_eq!(refused(face.send(w, &vec![0; 70_000], NOWAIT)), Errno::EAGAIN);
        assert_eq!(held(&read), 0, "what cannot fit leaves no piece behind");
        face.send(w, &message(0, 15 * CHUNK), NOWAIT).unwrap();
        face.send(w, &message(1, CHUNK), NOWAIT).unwrap();
        assert_eq!(refused(face.send(w, b"x", NOWAIT)), Errno::EAGAIN);
        assert_eq!(refused(face.send(w, b"x", SHORT)), Errno::ETIMEDOUT);
        assert_eq!(refused(interrupted(|| face.send(w, b"x", FOREVER))), Errno::EINTR);
        assert_eq!(flags(&write), before);
        let mut buf = vec![0; MAX];
        assert_eq!(face.receive(r, &mut buf, NOWAIT), Ok(15 * CHUNK));
        // Time and signals end long messages half-way; receivers never see them.
        assert_eq!(refused(face.send(w, &vec![9; 200_000], SHORT)), Errno::ETIMEDOUT);
        assert_eq!(face.receive(r, &mut buf, NOWAIT), Ok(CHUNK));
        assert!(buf[..CHUNK] == message(1, CHUNK)[..]);
        assert_eq!(refused(face.receive(r, &mut buf, NOWAIT)), Errno::EBADMSG);
        let half = interrupted(|| face.send(w, &vec![9; 200_000], FOREVER));
        assert_eq!(refused(half), Errno::EINTR);
        let sender = fork(|| assert_eq!(face.send(w, b"after", LONG), Ok(())));
        assert_eq!(face.receive(r, &mut buf, LONG), Ok(5));
        assert_eq!(&buf[..5], b"after");
        join(sender);
    });
}

/// Many processes share one open file description and never mix.
fn many_senders(face: &dyn Face, read: &OwnedFd, write: OwnedFd) {
    const SENDERS: usize = 6;
    const EACH: usize = 60;
    let size = |sender: usize, n: usize| match (sender + n) % 4 {
        0 => 8 + n,
        1 => CHUNK - n,
        2 => CHUNK + 1 + 100 * n,
        _ => 40_000 + 1000 * sender + n,
    };
    let content = |sender: usize, n: usize| {
        let mut bytes = message(sender * 1000 + n, size(sender, n));
        bytes[..2].copy_from_slice(&[sender as u8, n as u8]);
        bytes
    };
    let send_all = |sender: usize| {
        for n in 0..EACH {
            assert_eq!(face.send(write.as_raw_fd(), &content(sender, n), FOREVER), Ok(()));
        }
    };
    let children: Vec<Child> = (0..SENDERS)
        .map(|i| {
            fork(|| {
                // Two threads in each: they share all that processes share, and more.
                std::thread::scope(|scope| {
                    scope.spawn(|| send_all(2 * i));
                    send_all(2 * i + 1);
                });
            })
        })
        .collect();
    drop(write);
    let mut next = [0; 2 * SENDERS];
    let mut buf = vec![0; MAX];
    for _ in 0..2 * SENDERS * EACH {
        let len = face.receive(read.as_raw_fd(), &mut buf, LONG).unwrap();
        let (sender, n) = (usize::from(buf[0]), usize::from(buf[1]));
        assert_eq!(n, next[sender], "in order per sender");
        assert!(buf[..len] == content(sender, n)[..], "message {n} of {sender}");
        next[sender] += 1;
    }
    assert_eq!(refused(face.receive(read.as_raw_fd(), &mut buf, LONG)), Errno::EPIPE);
    children.into_iter().for_each(join);
}

#[test]
fn many_senders_never_mix() {
    both(|face| {
        let (read, write) = face.open(false).unwrap();
        many_senders(face, &read, write);
    });
}

#[test]
fn many_senders_never_mix_on_a_fifo_without_new_calls() {
    both(|face| {
        join(fork(|| {
            deny_new_calls();
            let dir = Dir::new();
            let path = dir.path("fifo");
            face.create(&path, 0o600).unwrap();
            let keeper = face.fifo(&path, libc::O_RDWR, NOWAIT).unwrap();
            let write = face.fifo(&path, libc::O_WRONLY, NOWAIT).unwrap();
            let read = face.fifo(&path, libc::O_RDONLY, NOWAIT).unwrap();
            drop(keeper);
            many_senders(face, &read, write);
        }));
    });
}

#[test]
fn a_sender_killed_half_way_spoils_nothing() {
    both(|face| {
        let (read, write) = face.open(false).unwrap();
        let (r, w) = (read.as_raw_fd(), write.as_raw_fd());
        let killed = fork(|| {
            let _ = face.send(w, &vec![9; 300_000], LONG);
        });
        until("the pipe is full", || held(&read) == 65536);
        // It holds the pipe now: others have to wait.
        assert_eq!(refused(face.send(w, b"small", NOWAIT)), Errno::EAGAIN);
        assert_eq!(refused(face.send(w, b"small", SHORT)), Errno::ETIMEDOUT);
        assert_eq!(refused(interrupted(|| face.send(w, b"small", FOREVER))), Errno::EINTR);
        kill(killed);
        let large = message(3, 100_000);
        let sender = fork(|| assert_eq!(face.send(w, &large, LONG), Ok(())));
        let mut buf = vec![0; MAX];
        assert_eq!(face.receive(r, &mut buf, LONG), Ok(large.len()));
        assert!(buf[..large.len()] == large[..]);
        join(sender);
    });
}

#[test]
fn no_waiting_for_a_dead_sender() {
    both(|face| {
        let (read, write) = face.open(false).unwrap();
        let mut buf = vec![0; MAX];
        raw(&write, &chunk(true, 5000, &[1; CHUNK]));
        assert_eq!(refused(face.receive(read.as_raw_fd(), &mut buf, NOWAIT)), Errno::EBADMSG);
        assert_eq!(refused(face.receive(read.as_raw_fd(), &mut buf, NOWAIT)), Errno::EAGAIN);
        raw(&write, &chunk(true, 5000, &[1; CHUNK]));
        assert_eq!(refused(face.receive(read.as_raw_fd(), &mut buf, SHORT)), Errno::EBADMSG);
        // The rest, come too late, is skipped.
        raw(&write, &chunk(false, 5000 - CHUNK, &[1; 5000 - CHUNK]));
        assert_eq!(refused(face.receive(read.as_raw_fd(), &mut buf, NOWAIT)), Errno::EAGAIN);
        raw(&write, &chunk(false, 77, &[1; 77]));
        face.send(write.as_raw_fd(), b"good", NOWAIT).unwrap();
        assert_eq!(face.receive(read.as_raw_fd(), &mut buf, NOWAIT), Ok(4));
    });
}

#[test]
fn a_live_sender_is_waited_for_even_with_nowait() {
    both(|face| {
        let (read, write) = face.open(false).unwrap();
        let large = message(5, MAX);
        let sender = fork(|| assert_eq!(face.send(write.as_raw_fd(), &large, LONG), Ok(())));
        let mut buf = vec![0; MAX];
        until("it has begun", || held(&read) > 0);
        assert_eq!(face.receive(read.as_raw_fd(), &mut buf, NOWAIT), Ok(MAX));
        assert!(buf == large);
        join(sender);
    });
}

#[test]
fn signals_lose_no_message_that_has_begun() {
    both(|face| {
        let (read, write) = face.open(false).unwrap();
        let text = message(6, 5000);
        raw(&write, &chunk(true, 5000, &text[..CHUNK]));
        let mut buf = vec![0; MAX];
        let got = interrupted(|| {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    until("the first part is taken", || held(&read) == 0);
                    let before = caught();
                    until("a signal is caught meanwhile", || caught() > before);
                    raw(&write, &chunk(false, 5000 - CHUNK, &text[CHUNK..]));
                });
                face.receive(read.as_raw_fd(), &mut buf, FOREVER)
            })
        });
        // A signal may come before the first chunk has been taken only if nothing was there.
        assert_eq!(got, Ok(5000));
        assert!(buf[..5000] == text[..]);
    });
}

#[test]
fn an_end_within_a_message_is_told_once() {
    both(|face| {
        let (read, write) = face.open(false).unwrap();
        raw(&write, &chunk(true, 5000, &[1; CHUNK]));
        drop(write);
        let mut buf = vec![0; MAX];
        assert_eq!(refused(face.receive(read.as_raw_fd(), &mut buf, LONG)), Errno::EBADMSG);
        assert_eq!(refused(face.receive(read.as_raw_fd(), &mut buf, LONG)), Errno::EPIPE);
    });
}

#[test]
fn garbage_is_refused() {
    let mut wrong_magic = chunk(true, 3, b"abc");
    wrong_magic[7] ^= 1;
    let huge = chunk(true, MAX + 1, &[0; CHUNK]);
    let short_first = chunk(true, 100, b"abc");
    let empty_continuation = chunk(false, 0, b"");
    let breaks_off = chunk(true, 3, b"abc")[..9].to_vec();
    let gap = [chunk(true, 9000, &[1; CHUNK]), chunk(false, 10, &[1; 10])].concat();
    let no_header = b"abc".to_vec();
    let all = [wrong_magic, huge, short_first, empty_continuation, breaks_off, gap, no_header];
    both(|face| {
        for (i, bytes) in all.iter().enumerate() {
            let (read, write) = face.open(false).unwrap();
            raw(&write, bytes);
            let answer = face.receive(read.as_raw_fd(), &mut [0; 10_000], LONG);
            assert_eq!(refused(answer), Errno::EBADMSG, "garbage {i}");
        }
    });
}

#[test]
fn the_text_tells_the_length_of_what_did_not_fit() {
    let _turn = serial();
    let (read, write) = C.open(false).unwrap();
    C.send(write.as_raw_fd(), &[1; 4711], LONG).unwrap();
    assert_eq!(refused(C.receive(read.as_raw_fd(), &mut [0; 10], LONG)), Errno::EMSGSIZE);
    assert!(last_error().contains("4711"), "{}", last_error());
    raw(&write, &chunk(true, 5000, &[1; CHUNK]));
    assert_eq!(refused(C.receive(read.as_raw_fd(), &mut [0; 10], SHORT)), Errno::EBADMSG);
    assert!(last_error().contains("5000 bytes was cut off"), "{}", last_error());
}

#[test]
fn what_c_can_get_wrong() {
    use madang::ffi::pipe::*;
    use std::ptr::{null, null_mut};
    let _turn = serial();
    let (read, write) = C.open(false).unwrap();
    let (r, w) = (read.as_raw_fd(), write.as_raw_fd());
    let mut byte = 0_u8;
    let mut fds = [0; 2];
    let buf: *mut std::ffi::c_void = (&raw mut byte).cast();
    let over = isize::MAX as usize + 1;
    let (inval, badf) = (-libc::EINVAL as isize, -libc::EBADF as isize);
    let overflow = -libc::EOVERFLOW as isize;
    // SAFETY: every call is given NULL, a bad number, or a length that is refused unread.
    unsafe {
        assert_eq!(mdg_pipe_open(null_mut(), 0), -libc::EINVAL);
        assert_eq!(mdg_pipe_open(fds.as_mut_ptr(), 2), -libc::EINVAL);
        assert_eq!(mdg_pipe_pair(fds.as_mut_ptr(), null_mut(), 0), -libc::EINVAL);
        assert_eq!(mdg_pipe_pair(null_mut(), fds.as_mut_ptr(), 0), -libc::EINVAL);
        assert_eq!(mdg_fifo_create(null(), 0o600), -libc::EINVAL);
        assert_eq!(mdg_fifo_unlink(null()), -libc::EINVAL);
        assert_eq!(mdg_fifo_unlink(c"".as_ptr()), -libc::ENOENT);
        assert_eq!(mdg_fifo_open(null(), libc::O_RDONLY, 0), -libc::EINVAL);
        for oflag in [libc::O_CREAT, libc::O_NONBLOCK, libc::O_TRUNC, libc::O_ACCMODE] {
            assert_eq!(mdg_fifo_open(c"/".as_ptr(), oflag, 0), -libc::EINVAL);
        }
        for read in [mdg_pipe_read, mdg_pipe_read_full, mdg_pipe_receive] {
            assert_eq!(read(r, null_mut(), 1, 0), inval);
            assert_eq!(read(r, buf, over, 0), overflow);
            assert_eq!(read(-1, buf, 1, 0), badf);
            assert_eq!(read(libc::AT_FDCWD, buf, 1, 0), badf);
        }
        assert_eq!(mdg_pipe_read(r, null_mut(), 0, 0), 0);
        assert_eq!(mdg_pipe_write(w, null(), 0, 0), 0);
        assert_eq!(mdg_pipe_write(w, null(), 1, 0), inval);
        assert_eq!(mdg_pipe_write(w, buf, over, 0), overflow);
        assert_eq!(mdg_pipe_write(-1, buf, 1, 0), badf);
        assert_eq!(mdg_pipe_send(w, null(), 1, 0), -libc::EINVAL);
        assert_eq!(mdg_pipe_send(w, buf, over, 0), -libc::EOVERFLOW);
        assert_eq!(mdg_pipe_send(-1, buf, 1, 0), -libc::EBADF);
        assert_eq!(mdg_pipe_send(w, null(), 0, 0), 0);
        assert_eq!(mdg_pipe_receive(r, null_mut(), 0, 0), 0);
    }
    assert_eq!(fds, [0; 2]);
}
