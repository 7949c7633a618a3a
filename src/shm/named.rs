#![forbid(unsafe_code)]
//! Files under a name: found as what they are, or made complete or not at all.
//!
//! A new file is written while it has no name (`O_TMPFILE`) and is then linked in one step, so
//! that nobody ever sees it half-made and a creator killed at any moment leaves nothing.
//!
//! | killed after | left behind |
//! |---|---|
//! | open(O_TMPFILE), reserve, write | nothing: the kernel frees a file without a name |
//! | linkat | the complete object |
//!
//! Where the file system has no `O_TMPFILE`, the file is made under a temporary name in the same
//! directory and linked from there; a creator killed in between leaves `.mdg.tmp.*`, which nobody
//! ever opens. Its ADMIN byte, which was locked all the time, is then free: `inventory::reap` removes
//! it.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, lstat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};

use crate::error::{Error, Result};
use crate::flags::Creation;
use crate::name::TEMPORARY_PREFIX;
use crate::sys::kept::{Kept, above_standard, has_proc};
use crate::sys::{alloc, directory, file, lock};

/// How often creating and opening may chase a name that others make and remove.
const CHASE_LIMIT: u32 = 1000;

/// Opens the regular file at `path` without following a link in its last part; `None` if nothing
/// is there. `EPROTO` for a directory, FIFO, socket or device, `ELOOP` for a symbolic link.
pub(crate) fn open_regular(path: &CStr, write: bool, what: &str) -> Result<Option<OwnedFd>> {
    let access = if write { OFlag::O_RDWR } else { OFlag::O_RDONLY };
    // O_NONBLOCK: whatever stands under the name, opening it must not wait.
    let flags = access | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let fd = match open(path, flags, Mode::empty()) {
        Ok(fd) => above_standard(fd).map_err(|errno| Error::from_kernel(errno, what))?,
        Err(Errno::ENOENT) => return Ok(None),
        Err(Errno::EISDIR | Errno::ENXIO | Errno::ENODEV | Errno::ENOTDIR) => {
            return Err(not_regular(what));
        }
        Err(errno) => return Err(Error::from_kernel(errno, what)),
    };
    if !is_regular(&status(&fd, what)?) {
        return Err(not_regular(what));
    }
    fcntl(&fd, FcntlArg::F_SETFL(access)).map_err(|errno| Error::from_kernel(errno, what))?;
    Ok(Some(fd))
}

fn not_regular(what: &str) -> Error {
    Error::new(
        Errno::EPROTO,
        format_args!("{what}: what stands under the name is not a regular file"),
    )
}

/// fstat(2).
pub(crate) fn status(fd: impl AsFd, what: &str) -> Result<FileStat> {
    fstat(fd).map_err(|errno| Error::from_kernel(errno, what))
}

/// Whether this is an ordinary file.
pub(crate) fn is_regular(status: &FileStat) -> bool {
    SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG
}

/// Whether `path` still names the file with this status.
pub(crate) fn still_names(path: &CStr, status: &FileStat) -> bool {
    lstat(path).is_ok_and(|now| (now.st_dev, now.st_ino) == (status.st_dev, status.st_ino))
}

/// Makes `file` exactly `size` bytes long with its pages from `from` on reserved; `ENOSPC` says what
/// was asked for. The old size stands when it fails.
pub(crate) fn reserve(file: BorrowedFd<'_>, from: u64, size: u64, what: &str) -> Result<()> {
    file::reserve(file, from, size).map_err(|errno| no_room(file, errno, from, size, what))
}

/// Reserves pages behind the end of a file of `from` bytes, which keeps its size.
pub(crate) fn reserve_behind(file: BorrowedFd<'_>, from: u64, size: u64, what: &str) -> Result<()> {
    file::reserve_behind(file, from, size).map_err(|errno| no_room(file, errno, from, size, what))
}

fn no_room(file: BorrowedFd<'_>, errno: Errno, from: u64, size: u64, what: &str) -> Error {
    match errno {
        Errno::ENOSPC => file::no_room(file, size - from, what),
        Errno::EFBIG => file::too_large(format_args!("{what}: reserving {size} bytes")),
        _ => Error::from_kernel(errno, format_args!("{what}: reserving {size} bytes")),
    }
}

/// Removes a temporary name, if the file got its own or not.
#[derive(Debug)]
struct Temporary(CString);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = unlinkat(AT_FDCWD, self.0.as_c_str(), UnlinkatFlags::NoRemoveDir);
    }
}

/// A new file that nobody else can see yet.
#[derive(Debug)]
pub(crate) struct Unpublished {
    file: Kept,
    /// Its name for now, where the file system cannot do without.
    temporary: Option<Temporary>,
}

impl Unpublished {
    /// A file of `size` zero bytes, pages reserved, to stand at `path` later.
    #[inline(never)]
    pub(crate) fn new(path: &CStr, size: u64, mode: libc::mode_t, what: &str) -> Result<Self> {
        let directory = parent(path)?;
        let refused = |errno| Error::from_kernel(errno, what);
        // Without /proc the file could get no name later.
        let unnamed =
            if has_proc() { file::unnamed(&directory, mode) } else { Err(Errno::EOPNOTSUPP) };
        let this = match unnamed {
            Ok(file) => Self {
                file: Kept::new(file).and_then(|file| file.at(path)).map_err(refused)?,
                temporary: None,
            },
            // Old kernels and some file systems have no O_TMPFILE.
            Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL) => {
                Self::with_temporary_name(path, &directory, mode, what)?
            }
            Err(errno) => return Err(refused(errno)),
        };
        reserve(this.file.checked(what)?, 0, size, what)?;
        Ok(this)
    }

    fn with_temporary_name(
        path: &CStr,
        directory: &CStr,
        mode: libc::mode_t,
        what: &str,
    ) -> Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        for _ in 0..CHASE_LIMIT {
            let (pid, count) = (std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
            let name = alloc::text(format_args!("/{TEMPORARY_PREFIX}{pid}.{count}"))?;
            let temporary = alloc::c_string(&[directory.to_bytes(), name.as_bytes()])?;
            match open(temporary.as_c_str(), flags, Mode::from_bits_truncate(mode)) {
                Ok(file) => {
                    let file = Kept::new(file).and_then(|file| file.at(&temporary)?.at(path));
                    let file = file.map_err(|errno| Error::from_kernel(errno, what))?;
                    let descriptor = file.checked(what)?;
                    // Locked from now on until it has its own name: whoever finds it unlocked has
                    // proven its maker dead. See `inventory::reap`.
                    let locked = lock::try_lock(descriptor, lock::BASE + lock::ADMIN);
                    if locked == Ok(false) || !still_names(&temporary, &status(descriptor, what)?) {
                        // Somebody removes it, or has.
                        continue;
                    }
                    return Ok(Self { file, temporary: Some(Temporary(temporary)) });
                }
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(Error::from_kernel(errno, what)),
            }
        }
        Err(Error::new(Errno::EEXIST, format_args!("{what}: no free temporary name")))
    }

    /// The file, to be filled before it is published.
    pub(crate) fn file(&self) -> &Kept {
        &self.file
    }

    /// Runs `work`, which may open the file anew, with the owner's permission to do so, whatever
    /// the mode and the umask say that the file will have. Nobody else can reach it meanwhile.
    pub(crate) fn with_owner_access<T>(
        &self,
        what: &str,
        work: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let mode = self.let_owner_in(what)?;
        let done = work()?;
        if let Some(mode) = mode {
            self.set_mode(mode, what)?;
        }
        Ok(done)
    }

    /// The mode to return to, unless nothing had to be changed.
    #[inline(never)]
    fn let_owner_in(&self, what: &str) -> Result<Option<Mode>> {
        let mode = Mode::from_bits_truncate(status(self.file.checked(what)?, what)?.st_mode);
        let owner = Mode::S_IRUSR | Mode::S_IWUSR;
        if mode.contains(owner) {
            return Ok(None);
        }
        self.set_mode(mode | owner, what)?;
        Ok(Some(mode))
    }

    fn set_mode(&self, mode: Mode, what: &str) -> Result<()> {
        fchmod(self.file.checked(what)?, mode).map_err(|errno| Error::from_kernel(errno, what))
    }

    // Out of line: a path has a buffer of a kilobyte on the stack, which is not to lie below others.
    /// Gives the file its name in one step; `None`, and the file is gone, if something else has
    /// taken the name meanwhile.
    #[inline(never)]
    pub(crate) fn publish(self, path: &CStr, what: &str) -> Result<Option<Kept>> {
        let file = self.file.checked(what)?;
        let linked = match &self.temporary {
            None => file::give_name(file, path),
            Some(Temporary(name)) => {
                linkat(AT_FDCWD, name.as_c_str(), AT_FDCWD, path, AtFlags::empty())
            }
        };
        match linked {
            Ok(()) => {
                if let Some(temporary) = self.temporary {
                    drop(temporary);
                    lock::unlock(file, lock::BASE + lock::ADMIN);
                }
                Ok(Some(self.file))
            }
            Err(Errno::EEXIST) => Ok(None),
            Err(errno) => Err(Error::from_kernel(errno, what)),
        }
    }
}

/// Whether anything has the name.
#[inline(never)]
fn stands(path: &CStr) -> bool {
    lstat(path).is_ok()
}

/// Finds what `path` names or makes it, as `creation` asks.
///
/// `found` looks at a file that stands there already: `None` from it means "it went away under my
/// hands, look again". `make` makes a new one and may be called more than once; only the call whose
/// file got the name counts.
pub(crate) fn create_or_open<T>(
    path: &CStr,
    creation: Creation,
    what: &str,
    mut found: impl FnMut(&CStr) -> Result<Option<T>>,
    mut make: impl FnMut(&CStr) -> Result<Option<T>>,
) -> Result<T> {
    let exists = || Error::new(Errno::EEXIST, format_args!("{what}: exists already"));
    if creation == Creation::CreateNew {
        // A look first, so that a name that is taken does not cost the making of the object.
        if stands(path) {
            return Err(exists());
        }
        return make(path)?.ok_or_else(exists);
    }
    for _ in 0..CHASE_LIMIT {
        if let Some(object) = found(path)? {
            return Ok(object);
        }
        if creation == Creation::OpenOnly {
            if !stands(path) {
                return Err(Error::new(Errno::ENOENT, format_args!("{what}: does not exist")));
            }
        } else if let Some(object) = make(path)? {
            return Ok(object);
        }
    }
    Err(Error::new(
        Errno::ESTALE,
        format_args!("{what}: others removed and made it again {CHASE_LIMIT} times meanwhile"),
    ))
}

/// Removes a name; those who have the object go on using it. `EPROTO` if it is a directory.
pub(crate) fn unlink(path: &CStr, what: &str) -> Result<()> {
    match unlinkat(AT_FDCWD, path, UnlinkatFlags::NoRemoveDir) {
        Ok(()) => Ok(()),
        Err(Errno::EISDIR) => Err(not_regular(what)),
        Err(Errno::ENOENT) => {
            Err(Error::new(Errno::ENOENT, format_args!("{what}: does not exist")))
        }
        Err(errno) => Err(Error::from_kernel(errno, format_args!("{what}: removing the name"))),
    }
}

/// Where the symbolic link at `path` leads in the end; `None` if it is not one. A loop is left for
/// open(2) to find.
pub(crate) fn target(path: &CStr) -> Result<Option<CString>> {
    // As many as the kernel follows.
    const LINKS: usize = 40;
    let mut target = None;
    for _ in 0..LINKS {
        let here = target.as_deref().unwrap_or(path);
        let Some(link) = directory::read_link(here)? else { break };
        let here = here.to_bytes();
        let name = here.iter().rposition(|&byte| byte == b'/').map_or(0, |slash| slash + 1);
        // An absolute link replaces the directory.
        let beside = if link.starts_with(b"/") { &[] } else { &here[..name] };
        target = Some(alloc::c_string(&[beside, &link])?);
    }
    Ok(target)
}

/// The directory that holds `path`.
fn parent(path: &CStr) -> Result<CString> {
    let path = Path::new(std::ffi::OsStr::from_bytes(path.to_bytes()));
    let parent = path.parent().map_or(&b""[..], |parent| parent.as_os_str().as_bytes());
    alloc::c_string(&[if parent.is_empty() { b"." } else { parent }])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents() {
        for (path, expected) in [(c"/dev/shm/x", c"/dev/shm"), (c"x", c"."), (c"/x", c"/")] {
            assert_eq!(parent(path).unwrap().as_c_str(), expected);
        }
    }
}
