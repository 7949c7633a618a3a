//! Liveness tokens: byte locks that the kernel drops when a process's memory map dies, and not a
//! moment before.
//!
//! An open-file-description lock (`F_OFD_SETLK`) lives as long as its description. Closing the
//! descriptor after mapping one page of it leaves the mapping as the description's only owner:
//! the lock is then tied to the memory map. `MADV_DONTFORK` keeps children out of it. So:
//!
//! | event | lock |
//! |---|---|
//! | SIGKILL, exit, execve of the owner | dropped by the kernel, also for an unreaped zombie |
//! | owner stopped (SIGSTOP, debugger) | kept: alive |
//! | owner forks; the child lives on after the owner's death | dropped: the child has no part in it |
//! | anybody opens or closes the file | kept |
//!
//! The lock goes only after the last thread of the owner has left user mode, so "lock is free"
//! proves that the owner will not execute another instruction, and acquiring the lock happens after
//! all its stores. The one error possible is "still alive" for too long: a raw clone(2) in another
//! thread in the microseconds between locking and detaching keeps the lock as long as that child
//! lives. fork(2) waits for that to be over.

use std::ffi::c_void;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, munmap};

use super::alloc::Arc;
use super::kept::Kept;
use super::{doorbell, fork, no_memory, page};

/// Where an object's lock bytes begin, behind the end of any file; further on for an object that
/// does not begin where its file does.
pub(crate) const BASE: u64 = 1 << 40;

/// The lock byte of those who remove an object's name, or make an object in a segment.
pub(crate) const ADMIN: u64 = 0;

/// The lock byte that all who have a mutex or a condition variable open share: by the description that
/// they have mapped, so it is held as long as any process, forked ones too, has that mapping.
pub(crate) const USERS: u64 = 1;

fn byte(kind: libc::c_int, offset: u64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        // Offsets are constants below 1 << 41.
        l_start: offset as libc::off_t,
        l_len: 1,
        l_pid: 0,
    }
}

/// The file whose bytes are locked, by a descriptor that is checked before each use: a lock on
/// another file that has the same number by now would prove nothing.
///
/// Its own description never holds a lock: the kernel does not count those when asked by it.
#[derive(Debug, Clone)]
pub(crate) struct Anchor {
    file: Arc<Kept>,
    /// Added to every offset below.
    base: u64,
}

impl Anchor {
    /// For an object that begins at `start` of the file. A place on which an object may begin has
    /// at least a quarter as many bytes as the object has lock bytes before the next such place, so
    /// those of two objects in one file never meet.
    pub(crate) fn new(file: Arc<Kept>, start: u64) -> Self {
        Self { file, base: BASE + 4 * start }
    }

    pub(crate) fn file(&self) -> &Arc<Kept> {
        &self.file
    }

    /// Device and inode of the file, as the kernel told them when it was opened, and the offset of the
    /// object: no two objects have them at once, whatever is written in them.
    pub(crate) fn place(&self) -> (u64, u64, u64) {
        let (device, inode) = self.file.identity();
        (device, inode, (self.base - BASE) / 4)
    }

    /// Touches the file, for those who watch it: see `doorbell.rs`. `at` is a byte of the object that
    /// is always zero.
    pub(crate) fn touch(&self, at: u64) -> nix::Result<()> {
        doorbell::touch(self.file.fd()?, self.place().2 + at)
    }

    /// Locks byte `offset` for as long as the descriptor returned is open; `None` when somebody holds
    /// it. For moments: a child that is forked meanwhile keeps it too.
    pub(crate) fn lock_for_now(&self, offset: u64) -> nix::Result<Option<OwnedFd>> {
        let own = self.file.reopen()?;
        Ok(try_lock(own.as_fd(), self.base + offset)?.then_some(own))
    }

    /// Whether anybody holds one of the object's first `count` bytes behind the admin byte. "Yes" for want of an answer.
    pub(crate) fn is_any_held(&self, count: u64) -> bool {
        let mut probe = byte(libc::F_WRLCK, self.base + ADMIN + 1);
        probe.l_len = count as libc::off_t;
        self.is_locked(probe)
    }

    /// Whether another description holds byte `offset` of the object. "Yes" when the kernel gives no answer: a peer is
    /// never declared dead for want of one.
    pub(crate) fn is_held(&self, offset: u64) -> bool {
        self.is_locked(byte(libc::F_WRLCK, self.base + offset))
    }

    fn is_locked(&self, mut probe: libc::flock) -> bool {
        let asked = fcntl(self.file.unchecked(), FcntlArg::F_OFD_GETLK(&mut probe));
        // "Nobody" counts only if it was said of this file.
        let free = asked.is_ok() && probe.l_type == libc::F_UNLCK as libc::c_short;
        !(free && self.file.is_intact())
    }
}

/// Takes the write lock on one byte if nobody has it.
pub(crate) fn try_lock(fd: BorrowedFd<'_>, offset: u64) -> nix::Result<bool> {
    match fcntl(fd, FcntlArg::F_OFD_SETLK(&byte(libc::F_WRLCK, offset))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Takes a read lock on one byte, which any number of descriptions may have.
pub(crate) fn share(fd: BorrowedFd<'_>, offset: u64) -> nix::Result<()> {
    fcntl(fd, FcntlArg::F_OFD_SETLK(&byte(libc::F_RDLCK, offset))).map(drop)
}

/// Frees one byte that this description has locked.
pub(crate) fn unlock(fd: BorrowedFd<'_>, offset: u64) {
    let _ = fcntl(fd, FcntlArg::F_OFD_SETLK(&byte(libc::F_UNLCK, offset)));
}

/// A byte lock that lives as long as this value, or as this process's memory map.
#[derive(Debug)]
pub(crate) struct Token {
    page: NonNull<c_void>,
}

// SAFETY: the page is never read or written; the mapping belongs to the process, not to a thread.
unsafe impl Send for Token {}

impl Token {
    /// Locks byte `offset` of the object; `None` when somebody holds it.
    pub(crate) fn acquire(file: &Anchor, offset: u64) -> nix::Result<Option<Self>> {
        // No child may be forked while the description hangs on a descriptor, or on a mapping that
        // children get: it would keep the lock alive as long as itself.
        let _no_fork = fork::hold_off();
        let own = file.file.reopen()?;
        if !try_lock(own.as_fd(), file.base + offset)? {
            return Ok(None);
        }
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let mapped = unsafe {
            mmap(None, page::size(), ProtFlags::PROT_NONE, MapFlags::MAP_SHARED, &own, 0)
        };
        let page = mapped.map_err(no_memory)?;
        let token = Self { page };
        // SAFETY: the page is this token's own.
        unsafe { madvise(page, page::size().get(), MmapAdvise::MADV_DONTFORK) }
            .map_err(no_memory)?;
        Ok(Some(token))
    }

    /// Gives the value up in a forked child, where the mapping does not exist.
    pub(crate) fn forget(self) {
        std::mem::forget(self);
    }
}

impl Drop for Token {
    /// Unmapping closes the description and so drops the lock.
    fn drop(&mut self) {
        // SAFETY: `acquire` mapped this page for this value alone, in this process.
        let _ = unsafe { munmap(self.page, page::size().get()) };
    }
}
