#![forbid(unsafe_code)]
//! Files that appear complete or not at all, and pages that are there before anybody touches them.

use std::ffi::CStr;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, FallocateFlags, OFlag, fallocate, open};
use nix::sys::stat::Mode;
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::unistd::{ftruncate, linkat};

use super::kept::{above_standard, proc_path};

/// Pages are reserved in pieces of this size: a signal interrupts a reservation, which starts its
/// piece over, and a small piece always finishes between two ticks of a fast timer.
const RESERVE_PIECE: u64 = 4 << 20;

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

/// Makes the file `size` bytes long with every page from byte `from` on reserved, so that a full
/// file system is an error now and not a SIGBUS later. Restores the old size when it fails.
pub(crate) fn reserve(file: BorrowedFd<'_>, from: u64, size: u64) -> nix::Result<()> {
    // The size first: a size that the file system cannot have fails before a page is taken.
    let result = check_room(file, from, size)
        .and_then(|()| ftruncate(file, size as libc::off_t))
        .and_then(|()| reserve_pieces(file, from, size, FallocateFlags::empty()));
    if result.is_err() {
        let _ = ftruncate(file, from as libc::off_t);
    }
    result
}

/// Reserves pages behind the end of a file of `from` bytes and leaves its size alone, so that this
/// can be taken back (by `ftruncate` to `from`) even where a seal forbids to shrink.
pub(crate) fn reserve_behind(file: BorrowedFd<'_>, from: u64, size: u64) -> nix::Result<()> {
    let keep = FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let result = check_room(file, from, size).and_then(|()| reserve_pieces(file, from, size, keep));
    if result.is_err() {
        let _ = ftruncate(file, from as libc::off_t);
    }
    result
}

fn check_room(file: BorrowedFd<'_>, from: u64, size: u64) -> nix::Result<()> {
    if size > libc::off_t::MAX as u64 {
        return Err(Errno::EOVERFLOW);
    }
    let wanted = size.saturating_sub(from);
    if wanted > RESERVE_PIECE && room(file)?.is_some_and(|room| wanted > room) {
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
        match fallocate(file, flags, start, len) {
            Ok(()) => done += piece,
            Err(Errno::EINTR) => {}
            // A file system that cannot reserve: the size stands, the pages come on demand.
            Err(Errno::EOPNOTSUPP) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Bytes that the file's file system can still take; `None` where it does not say.
///
/// Memory-backed file systems may promise more than the machine has (a memfd's has no limit at
/// all), and taking pages until there are none ends with the kernel killing processes: there the
/// memory that is available counts, too.
fn room(file: BorrowedFd<'_>) -> nix::Result<Option<u64>> {
    let status = fstatfs(file)?;
    let limited = status.blocks() > 0;
    let block = u64::try_from(status.block_size()).unwrap_or(1);
    let left = limited.then(|| status.blocks_available().saturating_mul(block));
    if status.filesystem_type() != TMPFS_MAGIC {
        return Ok(left);
    }
    Ok([left, available_memory()].into_iter().flatten().min())
}

/// `MemAvailable` and `SwapFree` of /proc/meminfo, in bytes; `None` where it is missing.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let field = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        let kib: u64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
        kib.checked_mul(1024)
    };
    Some(field("MemAvailable:")? + field("SwapFree:").unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    use nix::sys::memfd::{MFdFlags, memfd_create};

    #[test]
    fn more_than_the_machine_has_is_refused_before_a_page_is_taken() {
        let available = available_memory().unwrap();
        let file = memfd_create(c"reserve", MFdFlags::MFD_CLOEXEC).unwrap();
        assert_eq!(reserve(file.as_fd(), 0, available * 2), Err(Errno::ENOSPC));
        assert_eq!(reserve(file.as_fd(), 0, u64::MAX), Err(Errno::EOVERFLOW));
        assert_eq!(nix::sys::stat::fstat(&file).unwrap().st_size, 0);
        assert_eq!(reserve(file.as_fd(), 0, 5000), Ok(()));
        let status = nix::sys::stat::fstat(&file).unwrap();
        assert_eq!((status.st_size, status.st_blocks), (5000, 16));
    }
}
