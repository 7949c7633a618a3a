#![forbid(unsafe_code)]
//! Files that appear complete or not at all, and pages that are there before anybody touches them.

use std::ffi::CStr;
use std::fmt::Display;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, FallocateFlags, OFlag, fallocate, open};
use nix::sys::stat::Mode;
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::sys::uio::pwrite;
use nix::unistd::{ftruncate, linkat};

use super::kept::{above_standard, proc_path};
use super::memory;
use super::signals::{Raised, file_size_limit, without};
use crate::error::Error;

/// Pages are reserved in pieces of this size: a signal interrupts a reservation, which starts its
/// piece over, and a small piece always finishes between two ticks of a fast timer.
const RESERVE_PIECE: u64 = 4 << 20;

/// A reservation of up to this size is tried without a look at what there is, which takes longer.
const UNCHECKED: u64 = 1 << 20;

/// A new file without a name in `directory`; `mode` is trimmed by the umask as open(2) does.
pub(crate) fn unnamed(directory: &CStr, mode: libc::mode_t) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
    above_standard(open(directory, flags, Mode::from_bits_truncate(mode))?)
}

/// Gives a nameless file its name; `EEXIST` if something stands there.
pub(crate) fn give_name(file: BorrowedFd<'_>, path: &CStr) -> nix::Result<()> {
    let follow = AtFlags::AT_SYMLINK_FOLLOW;
    match proc_path(file, |here| linkat(AT_FDCWD, here, AT_FDCWD, path, follow)) {
        // Without /proc: needs Linux 6.10 or a privilege.
        Err(Errno::ENOENT | Errno::ENOTDIR) => {
            linkat(file, c"", AT_FDCWD, path, AtFlags::AT_EMPTY_PATH)
        }
        other => other,
    }
}

/// The beginning of a file, as much as fits into `buffer`; empty if it cannot be read.
pub(crate) fn beginning<'a>(path: &CStr, buffer: &'a mut [u8]) -> &'a [u8] {
    let Ok(file) = open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()) else {
        return &[];
    };
    let mut filled = 0;
    while filled < buffer.len() {
        match nix::unistd::read(&file, &mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::EINTR) => {}
            Err(_) => return &[],
        }
    }
    &buffer[..filled]
}

/// Makes the file `size` bytes long with every page from byte `from` on reserved, so that a full
/// file system is an error now and not a SIGBUS later. Restores the old size when it fails.
pub(crate) fn reserve(file: BorrowedFd<'_>, from: u64, size: u64) -> nix::Result<()> {
    // The size first: a size that the file system cannot have fails before a page is taken.
    let result = check_room(file, from, size)
        .and_then(|()| resize(file, size))
        .and_then(|()| reserve_pieces(file, from, size, FallocateFlags::empty()));
    if result.is_err() {
        let _ = resize(file, from);
    }
    result
}

/// Reserves pages behind the end of a file of `from` bytes and leaves its size alone, so that this
/// can be taken back (by `ftruncate` to `from`) even where a seal forbids to shrink.
pub(crate) fn reserve_behind(file: BorrowedFd<'_>, from: u64, size: u64) -> nix::Result<()> {
    let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let result = check_room(file, from, size).and_then(|()| reserve_pieces(file, from, size, keep));
    if result.is_err() {
        let _ = resize(file, from);
    }
    result
}

fn check_room(file: BorrowedFd<'_>, from: u64, size: u64) -> nix::Result<()> {
    if size > libc::off_t::MAX as u64 {
        return Err(Errno::EOVERFLOW);
    }
    // Here already, though the kernel would say so: before pages are taken behind the end.
    if size > from && file_size_limit().is_some_and(|limit| size > limit) {
        return Err(Errno::EFBIG);
    }
    let wanted = size.saturating_sub(from);
    if wanted > UNCHECKED && room(file, None)?.is_some_and(|(room, _)| wanted > room) {
        return Err(Errno::ENOSPC);
    }
    Ok(())
}

fn reserve_pieces(
    file: BorrowedFd<'_>,
    from: u64,
    size: u64,
    flags: FallocateFlags,
) -> nix::Result<()> {
    let mut done = from;
    while done < size {
        let piece = RESERVE_PIECE.min(size - done);
        let (start, len) = (done as libc::off_t, piece as libc::off_t);
        match without(Raised::FileSize, || fallocate(file, flags, start, len)) {
            Ok(()) => done += piece,
            Err(Errno::EINTR) => {}
            // A file system that cannot reserve: the size stands, the pages come on demand.
            Err(Errno::EOPNOTSUPP) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// What sets the bound to a file that grows.
#[derive(Clone, Copy)]
enum Bound {
    FileSystem,
    Machine,
    Cgroup,
}

/// Bytes that a file can still grow by, and why not by more; `None` where nothing says so. `cgroup`
/// becomes the file that says so if it is a cgroup's.
///
/// Memory-backed file systems may promise more than there is (a memfd's has no limit at all), and
/// taking pages until there are none ends with the kernel killing processes: there the memory that
/// the machine and the process's cgroups have left counts, too.
fn room(
    file: BorrowedFd<'_>,
    cgroup: Option<&mut memory::Path>,
) -> nix::Result<Option<(u64, Bound)>> {
    let status = fstatfs(file)?;
    let limited = status.blocks() > 0;
    let block = u64::try_from(status.block_size()).unwrap_or(1);
    let left = status.blocks_available().saturating_mul(block);
    let mut bounds = [limited.then_some((left, Bound::FileSystem)), None, None];
    if status.filesystem_type() == TMPFS_MAGIC {
        bounds[1] = memory::left_on_machine().map(|left| (left, Bound::Machine));
        bounds[2] = memory::left_in_cgroup(cgroup).map(|left| (left, Bound::Cgroup));
    }
    Ok(bounds.into_iter().flatten().min_by_key(|(left, _)| *left))
}

/// `ENOSPC` for a file that was to grow by `wanted` bytes, with what there is.
#[cold]
#[inline(never)]
pub(crate) fn no_room(file: BorrowedFd<'_>, wanted: u64, what: impl Display) -> Error {
    let asked = format_args!("{what}: {wanted} bytes do not fit");
    let mut cgroup = memory::Path::new();
    match room(file, Some(&mut cgroup)) {
        Ok(Some((left, Bound::FileSystem))) => {
            let text = format_args!("{asked} on the file system, which has {left} left");
            Error::new(Errno::ENOSPC, text)
        }
        Ok(Some((left, Bound::Machine))) => {
            let text = format_args!("{asked} in memory, of which the machine has {left} left");
            Error::new(Errno::ENOSPC, text)
        }
        Ok(Some((left, Bound::Cgroup))) => {
            let text = format_args!("{asked} in memory, of which {cgroup} leaves {left}");
            Error::new(Errno::ENOSPC, text)
        }
        _ => Error::new(Errno::ENOSPC, asked),
    }
}

/// `EOVERFLOW` for what the kernel called `EFBIG`, with the limit.
#[cold]
#[inline(never)]
pub(crate) fn too_large(what: impl Display) -> Error {
    match file_size_limit() {
        Some(limit) => Error::new(
            Errno::EOVERFLOW,
            format_args!("{what}: files of this process may have {limit} bytes (RLIMIT_FSIZE)"),
        ),
        None => Error::from_kernel(Errno::EFBIG, what),
    }
}

/// Writes all of `bytes` from the beginning of a file of ours on.
pub(crate) fn write_all(file: BorrowedFd<'_>, bytes: &[u8]) -> nix::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        let write = || pwrite(file, &bytes[done..], done as libc::off_t);
        match without(Raised::FileSize, write) {
            Ok(0) => return Err(Errno::EIO),
            Ok(count) => done += count,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// ftruncate(2), without SIGXFSZ.
pub(crate) fn resize(file: BorrowedFd<'_>, size: u64) -> nix::Result<()> {
    without(Raised::FileSize, || ftruncate(file, size as libc::off_t))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    use nix::sys::memfd::{MFdFlags, memfd_create};

    #[test]
    fn more_than_the_machine_has_is_refused_before_a_page_is_taken() {
        let available = memory::left_on_machine().unwrap();
        let file = memfd_create(c"reserve", MFdFlags::MFD_CLOEXEC).unwrap();
        assert_eq!(reserve(file.as_fd(), 0, available * 2), Err(Errno::ENOSPC));
        assert_eq!(reserve(file.as_fd(), 0, u64::MAX), Err(Errno::EOVERFLOW));
        assert_eq!(nix::sys::stat::fstat(&file).unwrap().st_size, 0);
        assert_eq!(reserve(file.as_fd(), 0, 5000), Ok(()));
        let status = nix::sys::stat::fstat(&file).unwrap();
        assert_eq!((status.st_size, status.st_blocks), (5000, 16));
    }
}
