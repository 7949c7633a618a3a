//! Descriptors that a handle keeps: a number from 3 on, and the identity of the file behind it.
//!
//! A number proves nothing: a daemon closes all descriptors, and the next file that it opens gets
//! one of ours. So device and inode are compared before each use that changes anything or that
//! trusts what is found, and before the descriptor is closed. What is not ours any more is left
//! alone.
//!
//! 0, 1 and 2 are never kept: whatever a program prints would go into the file.
//!
//! Two cases cannot be told apart by this: another descriptor of the same file, and a program that
//! closes and opens in another thread between the comparison and the call.

use std::ffi::CStr;
use std::fmt::Display;
use std::io::Write;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl, open};
use nix::sys::stat::{Mode, fstat, lstat};

use crate::error::{Error, Result};

/// The lowest number of a descriptor of ours: standard input, output and error come before it.
const LOWEST: libc::c_int = 3;

/// The same open file description under a number that is no standard stream's; the flag for
/// execve(2) stays.
pub(crate) fn above_standard(fd: OwnedFd) -> nix::Result<OwnedFd> {
    if fd.as_raw_fd() >= LOWEST {
        return Ok(fd);
    }
    let flags = FdFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFD)?);
    let raw = match flags.contains(FdFlag::FD_CLOEXEC) {
        true => fcntl(&fd, FcntlArg::F_DUPFD_CLOEXEC(LOWEST))?,
        false => fcntl(&fd, FcntlArg::F_DUPFD(LOWEST))?,
    };
    // SAFETY: a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// Device and inode: which file a descriptor leads to.
pub(crate) fn identity(fd: impl AsFd) -> nix::Result<(u64, u64)> {
    fstat(fd).map(|status| (status.st_dev, status.st_ino))
}

/// Why a descriptor, or another open file description of its file, is not to be had, in words.
pub(crate) fn refused(errno: Errno, what: impl Display) -> Error {
    match errno {
        Errno::EBADF => Error::new(
            errno,
            format_args!(
                "{what}: its descriptor was closed by the program, or is another file now"
            ),
        ),
        Errno::ENOSYS => {
            Error::new(errno, format_args!("{what}: this needs /proc, which is not mounted"))
        }
        Errno::EACCES | Errno::EPERM => Error::new(
            Errno::EACCES,
            format_args!(
                "{what}: this user may not open its file anew, which a process does when it first \
                 uses a handle: use it before the user is changed"
            ),
        ),
        errno => Error::from_kernel(errno, what),
    }
}

/// A descriptor that is kept, and closed on drop if it still leads to the same file.
#[derive(Debug)]
pub(crate) struct Kept {
    fd: ManuallyDrop<OwnedFd>,
    identity: (u64, u64),
    /// Paths at which the file stands, or did, or will, each ended by NUL: where there is no /proc.
    paths: Vec<u8>,
}

impl Kept {
    /// Takes a descriptor over. It is moved if its number is a standard stream's.
    pub(crate) fn new(fd: OwnedFd) -> nix::Result<Self> {
        let fd = above_standard(fd)?;
        let identity = identity(&fd)?;
        Ok(Self { fd: ManuallyDrop::new(fd), identity, paths: Vec::new() })
    }

    /// Notes a path at which the file stands, or may.
    pub(crate) fn at(mut self, path: &CStr) -> nix::Result<Self> {
        let bytes = path.to_bytes_with_nul();
        self.paths.try_reserve_exact(bytes.len()).map_err(|_| Errno::ENOMEM)?;
        self.paths.extend_from_slice(bytes);
        Ok(self)
    }

    /// Another descriptor of the same open file description, kept as well.
    pub(crate) fn duplicate(&self) -> nix::Result<Self> {
        let raw = fcntl(self.fd()?, FcntlArg::F_DUPFD_CLOEXEC(LOWEST))?;
        // SAFETY: a new descriptor that nobody else knows.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        let mut paths = Vec::new();
        paths.try_reserve_exact(self.paths.len()).map_err(|_| Errno::ENOMEM)?;
        paths.extend_from_slice(&self.paths);
        Ok(Self { fd: ManuallyDrop::new(fd), identity: self.identity, paths })
    }

    /// Device and inode, as the kernel told them at first.
    pub(crate) fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// Whether the number still leads to the same file.
    pub(crate) fn is_intact(&self) -> bool {
        identity(&*self.fd) == Ok(self.identity)
    }

    /// The descriptor; `EBADF` if the number leads to another file, or nowhere.
    pub(crate) fn fd(&self) -> nix::Result<BorrowedFd<'_>> {
        if self.is_intact() { Ok(self.fd.as_fd()) } else { Err(Errno::EBADF) }
    }

    /// The same, for a call on `what`, with words.
    pub(crate) fn checked(&self, what: impl Display) -> Result<BorrowedFd<'_>> {
        self.fd().map_err(|errno| refused(errno, what))
    }

    /// The descriptor, whatever it leads to by now: for calls that change nothing, and whose answer
    /// is not believed before [`Kept::is_intact`].
    pub(crate) fn unchecked(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Another open file description of the same file, for reading and writing. `EBADF` as above,
    /// `EACCES` without the permission, `ENOSYS` for a file without a name where there is no /proc.
    pub(crate) fn reopen(&self) -> nix::Result<OwnedFd> {
        self.reopen_for(OFlag::O_RDWR)
    }

    /// The same for an access mode.
    pub(crate) fn reopen_for(&self, access: OFlag) -> nix::Result<OwnedFd> {
        // Non-blocking, and never a controlling terminal: whatever it may be by now.
        let flags = access | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        // Asked first: opening what is not ours may already do something, if it is a device.
        match proc_path(self.fd()?, |path| open(path, flags, Mode::empty())) {
            // No /proc.
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            found => return above_standard(self.same(found?)?),
        }
        for path in self.paths.split_inclusive(|&byte| byte == 0) {
            let Ok(path) = CStr::from_bytes_with_nul(path) else { continue };
            match open(path, flags | OFlag::O_NOFOLLOW, Mode::empty()) {
                Ok(own) if self.same_as(&own) => return above_standard(own),
                Err(errno @ (Errno::EACCES | Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM)) => {
                    return Err(errno);
                }
                _ => {}
            }
        }
        Err(Errno::ENOSYS)
    }

    /// Calls `with`, which takes a path, for this file. `EBADF` as above, `ENOSYS` as for
    /// [`Kept::reopen`]. What was done to another file, which has taken the name meanwhile, is taken
    /// back by `undo`.
    pub(crate) fn by_path<T>(
        &self,
        with: impl Fn(&CStr) -> nix::Result<T>,
        undo: impl Fn(T),
    ) -> nix::Result<T> {
        match proc_path(self.fd()?, &with) {
            // No /proc.
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            done => return done,
        }
        let is_here = |path: &CStr| {
            lstat(path).is_ok_and(|status| (status.st_dev, status.st_ino) == self.identity)
        };
        for path in self.paths.split_inclusive(|&byte| byte == 0) {
            let Ok(path) = CStr::from_bytes_with_nul(path) else { continue };
            if is_here(path) {
                let done = with(path)?;
                if is_here(path) {
                    return Ok(done);
                }
                undo(done);
            }
        }
        Err(Errno::ENOSYS)
    }

    fn same_as(&self, fd: impl AsFd) -> bool {
        identity(fd) == Ok(self.identity)
    }

    fn same(&self, fd: OwnedFd) -> nix::Result<OwnedFd> {
        if self.same_as(&fd) { Ok(fd) } else { Err(Errno::EBADF) }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.is_intact() {
            // SAFETY: dropped once, and not used after.
            unsafe { ManuallyDrop::drop(&mut self.fd) };
        }
    }
}

/// Calls `with` with the path by which the kernel shows a descriptor of this process.
pub(crate) fn proc_path<T>(fd: BorrowedFd<'_>, with: impl FnOnce(&CStr) -> T) -> T {
    // "/proc/self/fd/", at most ten digits, NUL.
    let mut path = [0_u8; 32];
    // The buffer is large enough for every descriptor number, so the write cannot fail.
    let _ = write!(&mut path[..], "/proc/self/fd/{}", fd.as_raw_fd());
    with(CStr::from_bytes_until_nul(&path).unwrap_or(c""))
}

/// Whether the kernel shows this process its own descriptors.
pub(crate) fn has_proc() -> bool {
    nix::sys::stat::lstat(c"/proc/self/fd").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::memfd::{MFdFlags, memfd_create};

    #[test]
    fn what_is_another_file_by_now_is_left_alone() {
        let file = |name: &CStr| memfd_create(name, MFdFlags::MFD_CLOEXEC).unwrap();
        let kept = Kept::new(file(c"ours")).unwrap();
        assert!(kept.fd().is_ok() && kept.reopen().is_ok());
        let other = file(c"theirs");
        let number = kept.unchecked().as_raw_fd();
        // SAFETY: the kept number becomes the other file's, as a daemon may make it.
        assert_eq!(unsafe { libc::dup2(other.as_raw_fd(), number) }, number);
        assert_eq!(kept.fd().unwrap_err(), Errno::EBADF);
        assert_eq!(kept.reopen().unwrap_err(), Errno::EBADF);
        drop(kept);
        // SAFETY: open, as it was left alone, and nobody else's.
        let left = unsafe { OwnedFd::from_raw_fd(number) };
        assert_eq!(identity(&left), identity(&other));
    }

    #[test]
    fn a_name_will_do_where_it_leads_to_the_same_file() {
        let file = memfd_create(c"x", MFdFlags::MFD_CLOEXEC).unwrap();
        let kept = Kept::new(file).unwrap().at(c"/dev/null").unwrap().at(c"/nowhere").unwrap();
        assert_eq!(kept.paths, b"/dev/null\0/nowhere\0");
    }
}
