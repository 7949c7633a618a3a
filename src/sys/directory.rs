//! Directories and symbolic links, read without allocation, or with one that can fail.

use std::ffi::{CStr, c_long};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::alloc;
use crate::error::Result;

/// Room for at least one entry with the longest name.
const ROOM: usize = 320;

/// In an entry as the kernel writes it: its length in two bytes, a type, the name with a NUL.
const LENGTH_AT: usize = 16;
const NAME_AT: usize = 19;

#[repr(align(8))]
struct Buffer([u8; ROOM]);

/// The names in a directory, in the order in which the kernel has them.
pub(crate) struct Names {
    directory: OwnedFd,
    buffer: Buffer,
    /// What of the buffer has been read, and how much is filled.
    at: usize,
    filled: usize,
}

impl Names {
    pub(crate) fn of(path: &CStr) -> nix::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = open(path, flags, Mode::empty())?;
        Ok(Self { directory, buffer: Buffer([0; ROOM]), at: 0, filled: 0 })
    }

    /// The next one; `None` after the last.
    pub(crate) fn next(&mut self) -> nix::Result<Option<&[u8]>> {
        if self.at == self.filled {
            let (fd, to) = (self.directory.as_raw_fd(), self.buffer.0.as_mut_ptr());
            // SAFETY: the buffer is writable for its length, and aligned for what the kernel writes.
            let got = unsafe { libc::syscall(libc::SYS_getdents64, fd, to, ROOM as c_long) };
            (self.at, self.filled) = (0, Errno::result(got)? as usize);
        }
        if self.filled == 0 {
            return Ok(None);
        }
        let entry = &self.buffer.0[self.at..self.filled];
        let length = u16::from_ne_bytes([entry[LENGTH_AT], entry[LENGTH_AT + 1]]);
        self.at += usize::from(length);
        let name = &entry[NAME_AT..usize::from(length)];
        Ok(name.split(|&byte| byte == 0).next())
    }
}

/// Where the symbolic link `path` leads; `None` if it is not one.
pub(crate) fn read_link(path: &CStr) -> Result<Option<Vec<u8>>> {
    let mut target = alloc::list(libc::PATH_MAX as usize)?;
    let (room, count) = (target.spare_capacity_mut().as_mut_ptr(), target.capacity());
    // SAFETY: the path is NUL-terminated, and there is room for as many bytes.
    let count = unsafe { libc::readlink(path.as_ptr(), room.cast(), count) };
    let Ok(count) = usize::try_from(count) else { return Ok(None) };
    // SAFETY: the kernel has filled in so many, at most the capacity.
    unsafe { target.set_len(count) };
    Ok(Some(target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_names_are_found_once() {
        let mut mine = Vec::new();
        let mut names = Names::of(c"/proc/self").unwrap();
        while let Some(name) = names.next().unwrap() {
            mine.push(String::from_utf8(name.to_vec()).unwrap());
        }
        mine.retain(|name| name != "." && name != "..");
        mine.sort();
        let theirs = std::fs::read_dir("/proc/self").unwrap();
        let mut theirs: Vec<_> =
            theirs.map(|one| one.unwrap().file_name().into_string().unwrap()).collect();
        theirs.sort();
        assert_eq!(mine, theirs);
        assert!(mine.len() > 30);
        assert_eq!(Names::of(c"/proc/self/stat").err(), Some(Errno::ENOTDIR));
    }

    #[test]
    fn links() {
        let here = std::env::current_dir().unwrap();
        let found = read_link(c"/proc/self/cwd").unwrap().unwrap();
        assert_eq!(found, here.as_os_str().as_encoded_bytes());
        assert_eq!(read_link(c"/proc/self/stat"), Ok(None));
        assert_eq!(read_link(c"/proc/self/nothing"), Ok(None));
    }
}
