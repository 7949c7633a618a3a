//! Descriptors passed over Unix-domain sockets, and what travels in them: sealed segments, rings.

mod support;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::ptr;

use madang::fd::{self, Peer};
use madang::ffi::fd::*;
use madang::ffi::ring::*;
use madang::ffi::shm::*;
use madang::ring::{Kind, Options, Ring};
use madang::shm::{Seals, Shm};
use madang::{Access, Timeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use support::face::{FOREVER, NOWAIT, Outcome, answer, done, refused_with};
use support::process::{as_nobody, fork, interrupted, is_root, join, serial};
use support::ring_face::{C, Face, SECOND};

/// What both faces can do.
trait Passing {
    fn send(socket: impl AsFd, fd: impl AsFd, timeout: i64) -> Outcome<()>;
    fn receive(socket: impl AsFd, timeout: i64) -> Outcome<(OwnedFd, Peer)>;
}

struct Rust;
struct InC;

impl Passing for Rust {
    fn send(socket: impl AsFd, fd: impl AsFd, timeout: i64) -> Outcome<()> {
        Ok(fd::send(socket.as_fd(), fd.as_fd(), Timeout::from_nanos(timeout))?)
    }
    fn receive(socket: impl AsFd, timeout: i64) -> Outcome<(OwnedFd, Peer)> {
        Ok(fd::receive(socket.as_fd(), Timeout::from_nanos(timeout))?)
    }
}

impl Passing for InC {
    fn send(socket: impl AsFd, fd: impl AsFd, timeout: i64) -> Outcome<()> {
        let (socket, fd) = (socket.as_fd().as_raw_fd(), fd.as_fd().as_raw_fd());
        done(|| mdg_fd_send(socket, fd, timeout))
    }
    fn receive(socket: impl AsFd, timeout: i64) -> Outcome<(OwnedFd, Peer)> {
        let mut peer = mdg_fd_peer { pid: 77, ..Default::default() };
        let socket = socket.as_fd().as_raw_fd();
        // SAFETY: `peer` is writable.
        let fd = answer(|| unsafe { mdg_fd_receive(socket, &raw mut peer, timeout) });
        assert!(fd.is_ok() || peer.pid == 77, "an output is written only on success");
        let fd = i32::try_from(fd?).unwrap();
        // SAFETY: received just now, for this caller alone.
        let fd = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) };
        Ok((fd, Peer { pid: peer.pid, uid: peer.uid, gid: peer.gid }))
    }
}

on_both_faces! { Rust, InC in turn:
    a_descriptor_arrives
    peers_are_known_by_the_kernels_word
    messages_that_carry_none
    no_descriptor_is_free
    waits_end
    refusals
}

fn a_descriptor_arrives<F: Passing>() {
    let (here, there) = UnixStream::pair().unwrap();
    let segment = Shm::anonymous(100, false).unwrap();
    // SAFETY: a hundred mapped bytes.
    unsafe { segment.as_ptr().write(42) };
    let child = fork(|| {
        let (fd, _) = F::receive(&there, FOREVER).unwrap();
        let flags = nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
        let copy = Shm::from_fd(fd.as_fd(), Access::ReadWrite, Seals::Required).unwrap();
        // SAFETY: a hundred mapped bytes.
        assert_eq!(unsafe { copy.as_ptr().read() }, 42);
        // SAFETY: as above.
        unsafe { copy.as_ptr().write(43) };
        nix::unistd::ftruncate(&fd, 0).unwrap_err();
    });
    F::send(&here, &segment, FOREVER).unwrap();
    join(child);
    // SAFETY: a hundred mapped bytes.
    assert_eq!(unsafe { segment.as_ptr().read() }, 43);
}

fn peers_are_known_by_the_kernels_word<F: Passing>() {
    // An address outside the file system: the other user may be kept out of this directory.
    let name = format!("madang-test-peers-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    let child = fork(|| {
        if nix::unistd::geteuid().is_root() {
            let other = nix::unistd::Gid::from_raw(4322);
            nix::unistd::setresgid(other, other, other).unwrap();
            let other = nix::unistd::Uid::from_raw(4321);
            nix::unistd::setresuid(other, other, other).unwrap();
        }
        let socket = UnixStream::connect_addr(&address).unwrap();
        F::send(&socket, &socket, FOREVER).unwrap();
    });
    let (socket, _) = listener.accept().unwrap();
    let (_, peer) = F::receive(&socket, FOREVER).unwrap();
    let mine = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let (uid, gid) = if mine.0 == 0 { (4321, 4322) } else { mine };
    assert_eq!(peer, Peer { pid: child.pid().as_raw() as u32, uid, gid });
    join(child);
}

fn messages_that_carry_none<F: Passing>() {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let (here, there) = UnixStream::pair().unwrap();
    let before = open_descriptors();
    for count in [0_usize, 2, 253] {
        let fds = vec![here.as_raw_fd(); count];
        let rights = [ControlMessage::ScmRights(&fds)];
        let rights = if count == 0 { &[][..] } else { &rights[..] };
        let data = [std::io::IoSlice::new(b"x")];
        sendmsg::<()>(here.as_raw_fd(), &data, rights, MsgFlags::empty(), None).unwrap();
        let text = format!("{count} descriptors");
        refused_with(F::receive(&there, FOREVER), libc::EPROTO, &text);
        assert_eq!(open_descriptors(), before, "what came is closed");
    }
    F::send(&here, &there, NOWAIT).unwrap();
    F::receive(&there, NOWAIT).unwrap();
}

/// What comes when not all of it can be opened is lost, and what could be opened is closed again.
fn no_descriptor_is_free<F: Passing>() {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let (here, there) = UnixStream::pair().unwrap();
    join(fork(|| {
        let first_free = || here.try_clone().unwrap().as_raw_fd() as u64;
        let next = first_free();
        for (free, count) in [(0, 1), (0, 2), (1, 2), (2, 253)] {
            let fds = vec![here.as_raw_fd(); count];
            let data = [std::io::IoSlice::new(b"x")];
            let rights = [ControlMessage::ScmRights(&fds)];
            sendmsg::<()>(here.as_raw_fd(), &data, &rights, MsgFlags::empty(), None).unwrap();
            let most = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
            setrlimit(Resource::RLIMIT_NOFILE, next + free, most.1).unwrap();
            let lost = F::receive(&there, NOWAIT);
            setrlimit(Resource::RLIMIT_NOFILE, most.0, most.1).unwrap();
            refused_with(lost, libc::EMFILE, "receiving");
            assert_eq!(first_free(), next, "what came is closed");
        }
        F::send(&here, &there, NOWAIT).unwrap();
        F::receive(&there, NOWAIT).unwrap();
    }));
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn waits_end<F: Passing>() {
    let (here, there) = UnixStream::pair().unwrap();
    refused_with(F::receive(&there, NOWAIT), libc::EAGAIN, "");
    refused_with(F::receive(&there, 1_000_000), libc::ETIMEDOUT, "");
    let child = fork(|| {
        refused_with(interrupted(|| F::receive(&there, 60 * SECOND)), libc::EINTR, "");
    });
    join(child);
    let mut sent = 0;
    let full = loop {
        match F::send(&here, &here, NOWAIT) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(full.code, libc::EAGAIN, "{}", full.text);
    refused_with(F::send(&here, &here, 1_000_000), libc::ETIMEDOUT, "");
    for _ in 0..sent {
        F::receive(&there, NOWAIT).unwrap();
    }
    drop(here);
    refused_with(F::receive(&there, FOREVER), libc::EPIPE, "closed");
    refused_with(F::send(&there, &there, FOREVER), libc::EPIPE, "");
}

fn refusals<F: Passing>() {
    let (read, write) = nix::unistd::pipe().unwrap();
    refused_with(F::send(&write, &read, NOWAIT), libc::EPROTO, "sending");
    refused_with(F::receive(&read, NOWAIT), libc::EPROTO, "receiving");
    let alone = UnixDatagram::unbound().unwrap();
    refused_with(F::receive(&alone, NOWAIT), libc::EPIPE, "");
    let (here, _there) = UnixStream::pair().unwrap();
    let closed = 1_000_000;
    // SAFETY: not -1; it is meant to be closed.
    let closed = unsafe { BorrowedFd::borrow_raw(closed) };
    refused_with(F::send(&here, closed, NOWAIT), libc::EBADF, "");
    refused_with(F::send(closed, &here, NOWAIT), libc::EBADF, "");
    refused_with(F::receive(closed, NOWAIT), libc::EBADF, "");
    assert_eq!(mdg_fd_send(-1, 0, 0), -libc::EBADF);
    assert_eq!(mdg_fd_send(0, -1, 0), -libc::EBADF);
}

/// A ring that is known by its descriptor only.
#[test]
fn a_ring_by_its_descriptor() {
    let _turn = serial();
    for kind in [Kind::Spsc, Kind::Mpmc] {
        let (here, there) = UnixStream::pair().unwrap();
        let child = fork(|| {
            let (fd, _) = fd::receive(there.as_fd(), Timeout::Forever).unwrap();
            let mut ring = ptr::null_mut();
            let oflag = libc::O_WRONLY | MDG_SEALED;
            // SAFETY: a writable pointer; no options.
            let open =
                || unsafe { mdg_ring_from_fd(&raw mut ring, fd.as_raw_fd(), ptr::null(), oflag) };
            done(open).unwrap();
            let ring = C(ring);
            drop(fd);
            for i in 0..1000_u64 {
                ring.push(&i.to_ne_bytes(), FOREVER).unwrap();
            }
            ring.shutdown().unwrap();
        });
        let options = Options { kind: Some(kind), ..Options::new(16, 8) };
        let ring = C::open(None, &options, libc::O_RDONLY, 0).unwrap();
        // SAFETY: a live handle.
        let memory = unsafe { mdg_ring_memory(ring.0) };
        // SAFETY: the handle's descriptor, open as long as the handle.
        let memory = unsafe { BorrowedFd::borrow_raw(memory) };
        fd::send(here.as_fd(), memory, Timeout::Forever).unwrap();
        for i in 0..1000 {
            let mut item = [0; 8];
            ring.pop(&mut item, 10 * SECOND).unwrap();
            assert_eq!(u64::from_ne_bytes(item), i);
        }
        refused_with(ring.pop(&mut [0; 8], FOREVER), libc::EPIPE, "shut down");
        join(child);
    }
}

/// A subscriber that was sent a descriptor for reading can take part as a consumer, and cannot write.
#[test]
fn a_descriptor_for_reading_serves_a_subscriber() {
    let _turn = serial();
    let read_only = |ring: &C| {
        // SAFETY: a live handle.
        let fd = answer(|| unsafe { mdg_ring_memory_readonly(ring.0) })? as i32;
        // SAFETY: made just now, for this caller alone.
        Ok(unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) })
    };
    let open = |fd: &OwnedFd, oflag| {
        let mut ring = ptr::null_mut();
        let fd = fd.as_raw_fd();
        // SAFETY: a writable pointer; no options.
        done(|| unsafe { mdg_ring_from_fd(&raw mut ring, fd, ptr::null(), oflag) })?;
        Ok(C(ring))
    };
    let overwriting = Options {
        kind: Some(Kind::Broadcast),
        policy: madang::ring::policy::OVERWRITE,
        ..Options::new(16, 8)
    };
    let ring = C::open(None, &overwriting, libc::O_WRONLY, 0).unwrap();
    let (here, there) = UnixStream::pair().unwrap();
    let joined = support::process::Gate::new();
    let child = fork(|| {
        let (fd, _) = fd::receive(there.as_fd(), Timeout::Forever).unwrap();
        let ring = open(&fd, libc::O_RDONLY | MDG_SEALED).unwrap();
        for oflag in [libc::O_RDWR, libc::O_WRONLY] {
            refused_with(open(&fd, oflag), libc::EACCES, "open for reading only");
        }
        assert!(nix::unistd::write(&fd, b"x").is_err());
        if is_root() {
            // What one process may not write, another of the same rights may not either.
            as_nobody(|| {
                let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
                let again = std::fs::OpenOptions::new().write(true).open(path);
                assert_eq!(again.unwrap_err().raw_os_error(), Some(libc::EACCES));
            });
        }
        refused_with(ring.shutdown(), libc::EACCES, "only read");
        joined.open();
        // No more than the ring holds: none is overwritten.
        for i in 0..16_u64 {
            let mut item = [0; 8];
            ring.pop(&mut item, 10 * SECOND).unwrap();
            assert_eq!(u64::from_ne_bytes(item), i);
        }
    });
    fd::send(here.as_fd(), read_only(&ring).unwrap().as_fd(), Timeout::Forever).unwrap();
    joined.pass();
    (0..16_u64).for_each(|i| ring.push(&i.to_ne_bytes(), FOREVER).unwrap());
    join(child);
    // In every other kind a consumer writes.
    for options in [Options::new(16, 8), Options { policy: 0, ..overwriting }] {
        let ring = C::open(None, &options, libc::O_WRONLY, 0).unwrap();
        let refused: Outcome<OwnedFd> = read_only(&ring);
        refused_with(refused, libc::EINVAL, "overwriting broadcast");
        // SAFETY: a live handle, whose descriptor is open as long.
        let memory = unsafe { mdg_ring_memory(ring.0) };
        let file = std::fs::File::open(format!("/proc/self/fd/{memory}")).unwrap();
        let refused = open(&file.into(), libc::O_RDONLY);
        refused_with(refused, libc::EACCES, "open for reading only");
    }
}

#[test]
fn what_is_no_ring_is_refused() {
    // Others count the descriptors of this process.
    let _turn = serial();
    let from = |fd: BorrowedFd<'_>, options: &Options, seals| -> Outcome<Ring> {
        Ok(Ring::from_fd(fd, options, Access::ReadWrite, seals)?)
    };
    let any = Options::default();
    let segment = Shm::anonymous(20_000, false).unwrap();
    refused_with(from(segment.as_fd(), &any, Seals::Required), libc::EPROTO, "no magic");
    let named = support::ring_face::Named::new("unsealed");
    let ring = C::open(Some(&named.0), &Options::new(8, 8), support::ring_face::CREATE, 0o600);
    let ring = ring.unwrap();
    // SAFETY: a live handle, whose descriptor is open as long.
    let memory = unsafe { BorrowedFd::borrow_raw(mdg_ring_memory(ring.0)) };
    refused_with(from(memory, &any, Seals::Required), libc::EPROTO, "not sealed");
    refused_with(from(memory, &Options::new(16, 8), Seals::Unchecked), libc::EPROTO, "capacity");
    from(memory, &any, Seals::Unchecked).unwrap();
    let (pipe, _end) = nix::unistd::pipe().unwrap();
    refused_with(from(pipe.as_fd(), &any, Seals::Unchecked), libc::EPROTO, "no");
    let mut out = ptr::null_mut();
    // SAFETY: a writable pointer; no options.
    let mut call = |fd, oflag| unsafe { mdg_ring_from_fd(&raw mut out, fd, ptr::null(), oflag) };
    assert_eq!(call(-1, libc::O_RDWR), -libc::EBADF);
    assert_eq!(call(1_000_000, libc::O_RDWR), -libc::EBADF);
    assert_eq!(call(memory.as_raw_fd(), libc::O_RDWR | libc::O_CREAT), -libc::EINVAL);
    // SAFETY: NULL is allowed and refused.
    assert_eq!(unsafe { mdg_ring_memory(ptr::null()) }, -libc::EINVAL);
}
