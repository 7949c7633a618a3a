//! Pipes, FIFOs, and descriptors on their way.

use std::ffi::c_int;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use madang::ffi::fd::{mdg_fd_peer, mdg_fd_receive, mdg_fd_send};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use super::{Case, SHORT, Thing, answering, case};
use crate::support::face::{NOWAIT, answer, done};
use crate::support::pipe_face::{C as Pipes, Face as _};
use crate::support::shm_face::{CShm, Segment};

pub fn pipes() -> Vec<Case> {
    let through = |read: &OwnedFd, write: &OwnedFd| {
        Pipes.send(write.as_raw_fd(), b"whole", NOWAIT).unwrap();
        let mut message = [0; 8];
        assert_eq!(Pipes.receive(read.as_raw_fd(), &mut message, NOWAIT).unwrap(), 5);
    };
    let both = move || {
        let (read, write) = Pipes.open(false).unwrap();
        // Two messages of more than one chunk.
        // SAFETY: no pointers.
        assert!(unsafe { libc::fcntl(read.as_raw_fd(), libc::F_SETPIPE_SZ, 1 << 20) } > 0);
        (read, write)
    };
    let long = || vec![7; 20_000];
    vec![
        case(
            "mdg_pipe_open",
            || (),
            |()| Pipes.open(false),
            move |(), made| {
                let (read, write) = made.unwrap_or_else(|_| Pipes.open(false).unwrap());
                through(&read, &write);
            },
        ),
        case(
            "mdg_pipe_pair",
            || (),
            |()| Pipes.pair(),
            |(), made| {
                drop(made.unwrap_or_else(|_| Pipes.pair().unwrap()));
            },
        ),
        case(
            "mdg_fifo_create",
            || Thing::new("fifo-"),
            |thing| Pipes.create(Path::new(&thing.path), 0o600),
            |thing, made| assert_eq!(thing.exists(), made.is_ok()),
        ),
        answering(
            case(
                "mdg_fifo_open, nobody comes",
                || {
                    let thing = Thing::new("fifo-");
                    Pipes.create(Path::new(&thing.path), 0o600).unwrap();
                    thing
                },
                |thing| Pipes.fifo(Path::new(&thing.path), libc::O_RDONLY, SHORT),
                |_, _| {},
            ),
            &[libc::ETIMEDOUT],
        ),
        case(
            "mdg_pipe_send, a long one",
            both,
            move |(_, write)| Pipes.send(write.as_raw_fd(), &long(), NOWAIT),
            move |(read, write), sent| {
                let mut message = vec![0; 30_000];
                if sent.is_ok() {
                    let length = Pipes.receive(read.as_raw_fd(), &mut message, NOWAIT).unwrap();
                    assert_eq!(message[..length], long());
                }
                through(read, write);
            },
        ),
        case(
            "mdg_pipe_receive, a long one",
            move || {
                let (read, write) = both();
                Pipes.send(write.as_raw_fd(), &long(), NOWAIT).unwrap();
                (read, write)
            },
            |(read, _)| {
                let mut message = vec![0; 30_000];
                let length = Pipes.receive(read.as_raw_fd(), &mut message, NOWAIT)?;
                message.truncate(length);
                Ok(message)
            },
            move |_, message| {
                if let Ok(message) = message {
                    assert_eq!(message, long());
                }
            },
        ),
    ]
}

pub fn descriptors() -> Vec<Case> {
    let sockets = || {
        let (family, kind) = (AddressFamily::Unix, SockType::Stream);
        let (one, other) = socketpair(family, kind, None, SockFlag::SOCK_CLOEXEC).unwrap();
        (one, other, CShm::anonymous(100, false).unwrap())
    };
    type State = (OwnedFd, OwnedFd, CShm);
    let send = |(one, _, shm): &mut State| done(|| mdg_fd_send(one.as_raw_fd(), shm.fd(), NOWAIT));
    let receive = |(_, other, _): &mut State| {
        let mut peer = mdg_fd_peer::default();
        // SAFETY: `peer` is writable.
        let fd = answer(|| unsafe { mdg_fd_receive(other.as_raw_fd(), &raw mut peer, NOWAIT) })?;
        assert_eq!(peer.pid, std::process::id());
        nix::unistd::close(fd as c_int).unwrap();
        Ok(())
    };
    vec![
        case("mdg_fd_send", sockets, send, move |state, sent| {
            sent.unwrap_or_else(|_| send(state).unwrap());
            receive(state).unwrap();
        }),
        case(
            "mdg_fd_receive",
            move || {
                let mut state = sockets();
                send(&mut state).unwrap();
                state
            },
            receive,
            move |state, _| {
                send(state).unwrap();
                receive(state).unwrap();
            },
        ),
    ]
}
