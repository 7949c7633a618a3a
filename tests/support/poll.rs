//! What the tests of descriptors have in common: poll, epoll, and what there is of doorbells.

use super::face::{NOWAIT, refused_with};
use super::ring_face::Face;
use madang::ffi::ring::*;
use madang::ring::{Kind, Options};
use nix::errno::Errno;
use std::ffi::c_int;
use std::os::fd::RawFd;

pub const IN: u32 = MDG_POLL_IN;

pub const OUT: u32 = MDG_POLL_OUT;

/// A wait of this many milliseconds that runs out has missed its edge.
pub const LONG: c_int = 20_000;

pub fn options(kind: Kind, capacity: u64) -> Options {
    Options { kind: Some(kind), ..Options::new(capacity, 8) }
}

pub fn open<F: Face>(kind: Kind, capacity: u64) -> F {
    F::open(None, &options(kind, capacity), libc::O_RDWR, 0).unwrap()
}

pub fn word(value: u64) -> [u8; 8] {
    value.to_ne_bytes()
}

#[track_caller]
pub fn pop(ring: &impl Face) -> u64 {
    let mut item = [0; 8];
    ring.pop(&mut item, NOWAIT).unwrap();
    u64::from_ne_bytes(item)
}

pub fn try_pop(ring: &impl Face) -> Option<u64> {
    let mut item = [0; 8];
    match ring.pop(&mut item, NOWAIT) {
        Ok(()) => Some(u64::from_ne_bytes(item)),
        Err(failure) if failure.code == libc::EAGAIN => None,
        Err(failure) => panic!("{failure:?}"),
    }
}

#[track_caller]
pub fn is_empty(ring: &impl Face) {
    refused_with(ring.pop(&mut [0; 8], NOWAIT), libc::EAGAIN, "");
}

#[track_caller]
pub fn is_full(ring: &impl Face) {
    refused_with(ring.push(&[0; 8], NOWAIT), libc::EAGAIN, "");
}

pub fn poll(fd: RawFd, timeout: c_int) -> bool {
    let mut one = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    loop {
        // SAFETY: one live entry.
        match unsafe { libc::poll(&raw mut one, 1, timeout) } {
            -1 => assert_eq!(Errno::last(), Errno::EINTR),
            count => {
                assert!(count == 0 || one.revents == libc::POLLIN, "{:#x}", one.revents);
                return count == 1;
            }
        }
    }
}

pub fn readable(fd: RawFd) -> bool {
    poll(fd, 0)
}

/// An epoll set of one descriptor.
pub struct Epoll(RawFd);

impl Epoll {
    pub fn new(fd: RawFd, flags: c_int) -> Self {
        // SAFETY: no pointer but that of a live event.
        unsafe {
            let epoll = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            assert!(epoll >= 0);
            let mut event = libc::epoll_event { events: (libc::EPOLLIN | flags) as u32, u64: 7 };
            assert_eq!(libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event), 0);
            Self(epoll)
        }
    }

    /// Whether there was an event within the time.
    pub fn wait(&self, timeout: c_int) -> bool {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        loop {
            // SAFETY: room for one event.
            match unsafe { libc::epoll_wait(self.0, &raw mut event, 1, timeout) } {
                -1 => assert_eq!(Errno::last(), Errno::EINTR),
                count => return count == 1,
            }
        }
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        // SAFETY: ours.
        unsafe { libc::close(self.0) };
    }
}

/// What /dev/shm has names of.
pub fn names() -> Vec<String> {
    let all = std::fs::read_dir("/dev/shm").unwrap().flatten();
    let mut names: Vec<_> =
        all.map(|entry| entry.file_name().into_string().unwrap_or_default()).collect();
    names.sort();
    names
}

/// The word `polled` in a named ring's file: see docs/layout.md.
pub fn polled(path: &str) -> u32 {
    let (file, mut word) = (std::fs::File::open(path).unwrap(), [0; 4]);
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut word, 4096 + 0x600).unwrap();
    u32::from_ne_bytes(word)
}

/// This process's descriptors of files whose names, as /proc tells them, contain `part`.
pub fn descriptors(part: &str) -> Vec<RawFd> {
    let all = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    let to = |path| std::fs::read_link(path).unwrap_or_default().to_string_lossy().into_owned();
    let all = all.filter(|entry| to(entry.path()).contains(part));
    all.map(|entry| entry.file_name().to_str().unwrap().parse().unwrap()).collect()
}
