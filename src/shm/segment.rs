#![forbid(unsafe_code)]
//! [`Shm`]: one shared-memory segment, mapped.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::sys::memfd::MFdFlags;
use nix::sys::stat::{FileStat, Mode, SFlag};

use super::mapping::Mapping;
use super::named::{self, Unpublished};
use crate::error::{Error, Result};
use crate::flags::{Access, Creation, OpenFlags};
use crate::name::{Kind, Name};
use crate::sys::alloc::{self, Arc};
use crate::sys::file;
use crate::sys::kept::Kept;
use crate::sys::memfd::memfd_create;

/// Whether a descriptor must carry the seal that makes truncation by a peer impossible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seals {
    /// Take it as it is.
    Unchecked,
    /// Refuse it (`EPROTO`) unless it is sealed against shrinking.
    Required,
}

/// A shared-memory segment in this process's address space.
///
/// The bytes are shared with other processes, so they are reached through [`Shm::as_ptr`] and raw
/// copies or atomics. Dropping it unmaps it; the name, if any, stays.
#[derive(Debug)]
pub struct Shm {
    mapping: Mapping,
    /// Shared with the rings that lie in the segment.
    file: Arc<Kept>,
    /// The segment in words: `segment "/OS"`.
    what: String,
}

impl Shm {
    /// Opens, or makes, the segment `name`.
    ///
    /// [`Access::ReadOnly`] is for [`Creation::OpenOnly`] (`EINVAL`).
    /// Opening what exists: `size` 0 maps all of it, a smaller size its beginning; a larger one is
    /// `EPROTO`. Making it needs a size (`EINVAL`); the new segment is zero-filled, exactly that
    /// long, with its pages reserved (`ENOSPC`). `mode` is trimmed by the umask.
    pub fn open(name: &[u8], size: usize, flags: OpenFlags, mode: u32) -> Result<Self> {
        let name = Name::new(Kind::Shm, name)?;
        let what = alloc::text(&name)?;
        let writable = writable_to(flags, &what)?;
        named::create_or_open(
            name.path(),
            flags.creation,
            &what,
            |path| {
                let Some(file) = named::open_regular(path, writable, &what)? else {
                    return Ok(None);
                };
                Self::existing(file, Some(path), size, writable, &what).map(Some)
            },
            |path| Self::create(path, size, writable, mode, &what),
        )
    }

    fn create(
        path: &CStr,
        size: usize,
        writable: bool,
        mode: u32,
        what: &str,
    ) -> Result<Option<Self>> {
        if size == 0 {
            return Err(Error::new(Errno::EINVAL, format_args!("{what}: making it needs a size")));
        }
        let new = Unpublished::new(path, size as u64, mode, what)?;
        // Before it has a name: what can fail has failed by then.
        let mapping = Mapping::new(new.file().checked(what)?, size, writable)?;
        let (room, copy) = (Arc::room()?, alloc::text(what)?);
        Ok(new.publish(path, what)?.map(|file| Self { mapping, file: room.fill(file), what: copy }))
    }

    fn existing(
        file: OwnedFd,
        path: Option<&CStr>,
        size: usize,
        writable: bool,
        what: &str,
    ) -> Result<Self> {
        let file = kept(file, path, what)?;
        let status = named::status(file.unchecked(), what)?;
        let size = size_to_map(&status, size, what)?;
        let mapping = Mapping::new(file.checked(what)?, size, writable)?;
        Ok(Self { mapping, file: Arc::new(file)?, what: alloc::text(what)? })
    }

    /// A segment without a name, sealed so that nobody can ever shrink it; children inherit the
    /// mapping, and others may get the descriptor. `inherit` keeps it open across execve.
    pub fn anonymous(size: usize, inherit: bool) -> Result<Self> {
        let what = "anonymous segment";
        if size == 0 {
            return Err(Error::new(Errno::EINVAL, format_args!("{what}: size 0")));
        }
        let file = sealed_memory(c"madang", size as u64, inherit, what)?;
        let mapping = Mapping::new(file.checked(what)?, size, true)?;
        Ok(Self { mapping, file: Arc::new(file)?, what: alloc::text(what)? })
    }

    /// Maps all of what `fd` refers to; the descriptor is duplicated, the caller keeps its own.
    pub fn from_fd(fd: BorrowedFd<'_>, access: Access, seals: Seals) -> Result<Self> {
        let what = "segment from a descriptor";
        let writable = writable(access, what)?;
        let status = named::status(fd, what)?;
        if seals == Seals::Required {
            require_seal(fd, what)?;
        }
        if !named::is_regular(&status) {
            return Err(Error::new(
                Errno::EPROTO,
                format_args!("{what}: not a file that has a size"),
            ));
        }
        let copy = fd.try_clone_to_owned().map_err(|error| {
            let errno = error.raw_os_error().map_or(Errno::EMFILE, Errno::from_raw);
            Error::from_kernel(errno, what)
        })?;
        Self::existing(copy, None, 0, writable, what)
    }

    /// Maps an ordinary file, or a device that can be mapped such as /dev/zero (which needs a
    /// size). Links in `path` are followed as open(2) does. A file that does not exist yet appears
    /// complete, at its full size with its blocks reserved where the file system can do that.
    pub fn map_file(path: &CStr, size: usize, flags: OpenFlags, mode: u32) -> Result<Self> {
        let what = alloc::text(format_args!("file \"{}\"", path.to_bytes().escape_ascii()))?;
        if path.is_empty() {
            return Err(Error::new(Errno::ENOENT, format_args!("{what}: an empty path")));
        }
        let writable = writable_to(flags, &what)?;
        let access = if writable { OFlag::O_RDWR } else { OFlag::O_RDONLY };
        let found = |path: &CStr| {
            let flags = access | OFlag::O_CLOEXEC | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
            match nix::fcntl::open(path, flags, Mode::empty()) {
                Ok(file) => Self::existing(file, None, size, writable, &what).map(Some),
                Err(Errno::ENOENT) => Ok(None),
                Err(Errno::EISDIR | Errno::ENXIO) => Err(unmappable(&what)),
                Err(errno) => Err(Error::from_kernel(errno, &what)),
            }
        };
        // O_EXCL does not look through a link; else O_CREAT makes what a link to nothing points at.
        let target = match flags.creation {
            Creation::CreateNew => None,
            Creation::OpenOnly | Creation::CreateOrOpen => named::target(path)?,
        };
        let path = target.as_deref().unwrap_or(path);
        named::create_or_open(path, flags.creation, &what, found, |path| {
            Self::create(path, size, writable, mode, &what)
        })
    }

    /// The first byte of the segment, valid for [`Shm::size`] bytes until it is resized or dropped.
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.mapping.address()
    }

    /// Bytes mapped: the size asked for, never rounded to pages.
    pub fn size(&self) -> usize {
        self.mapping.len()
    }

    /// Whether the mapping may be written.
    pub fn is_writable(&self) -> bool {
        self.mapping.is_writable()
    }

    /// The segment's descriptor; `EBADF` if the program has closed it meanwhile.
    pub fn descriptor(&self) -> Result<BorrowedFd<'_>> {
        self.file.checked(&self.what)
    }

    /// The segment's descriptor, to be kept by what lies in the segment.
    pub(crate) fn file(&self) -> &Arc<Kept> {
        &self.file
    }

    /// The segment in words: `segment "/OS"`.
    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// Whether the object was found shorter than this mapping, which somebody else must have done:
    /// the guard against SIGBUS ([`sigbus_guard`](crate::sigbus_guard)) has put pages of zeros there.
    pub fn is_cut(&self) -> bool {
        self.mapping.is_cut()
    }

    /// Changes the size of the object, as ftruncate does, and of this mapping, which may move.
    ///
    /// New bytes are zero and reserved. Other processes keep the mapping that they have: after
    /// shrinking they must not touch what lies beyond the new end. `EINVAL` for size 0 and for a
    /// device, `EACCES` for a read-only mapping or against a seal.
    pub fn resize(&mut self, size: usize) -> Result<()> {
        let what = alloc::text(format_args!("resizing {}", self.what))?;
        let what = what.as_str();
        if size == 0 {
            return Err(Error::new(Errno::EINVAL, format_args!("{what}: size 0")));
        }
        if !self.mapping.is_writable() {
            return Err(Error::new(Errno::EACCES, format_args!("{what}: it is mapped read-only")));
        }
        if size > isize::MAX as usize {
            return Err(Error::new(Errno::EOVERFLOW, format_args!("{what}: {size} bytes")));
        }
        let file = self.file.clone();
        let file = file.checked(what)?;
        let status = named::status(file, what)?;
        if !named::is_regular(&status) {
            return Err(Error::new(Errno::EINVAL, format_args!("{what}: a device has no size")));
        }
        let old = status.st_size as u64;
        if size as u64 > old {
            self.grow(file, old, size, what)
        } else {
            self.shrink(file, size, what)
        }
    }

    /// Reserves, maps, and makes the object longer last of all: a sealed one could not be made
    /// shorter again if a later step failed.
    fn grow(&mut self, fd: BorrowedFd<'_>, old: u64, size: usize, what: &str) -> Result<()> {
        let mapped = self.mapping.len();
        named::reserve_behind(fd, old, size as u64, what)?;
        let result = self.mapping.remap(size).and_then(|()| {
            file::resize(fd, size as u64).map_err(|errno| {
                let _ = self.mapping.remap(mapped);
                match errno {
                    Errno::EFBIG => file::too_large(what),
                    errno => Error::from_kernel(errno, what),
                }
            })
        });
        if result.is_err() {
            // The size that it has already: gives back what is reserved behind the end.
            let _ = file::resize(fd, old);
        }
        result
    }

    /// Shrinks the object first: a mapping beyond the object's end would fault, a mapping shorter
    /// than the object does not, and a seal is found out before anything has changed.
    fn shrink(&mut self, fd: BorrowedFd<'_>, size: usize, what: &str) -> Result<()> {
        let truncated = file::resize(fd, size as u64);
        truncated.map_err(|errno| Error::from_kernel(errno, what))?;
        self.mapping.remap(size)
    }

    /// Writes changed bytes of a mapped file to its storage and waits for it; memory-backed
    /// segments have nothing to write.
    pub fn sync(&self) -> Result<()> {
        self.mapping.sync()
    }

    /// Removes the name of a segment; those who have it mapped go on using it.
    pub fn unlink(name: &[u8]) -> Result<()> {
        let name = Name::new(Kind::Shm, name)?;
        named::unlink(name.path(), &alloc::text(&name)?)
    }
}

impl AsFd for Shm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.unchecked()
    }
}

/// A descriptor that a segment keeps, of the file at `path` if it has one.
fn kept(file: OwnedFd, path: Option<&CStr>, what: &str) -> Result<Kept> {
    let kept = Kept::new(file).and_then(|kept| match path {
        Some(path) => kept.at(path),
        None => Ok(kept),
    });
    kept.map_err(|errno| Error::from_kernel(errno, what))
}

/// Refuses a descriptor whose memory somebody could shrink.
pub(crate) fn require_seal(fd: BorrowedFd<'_>, what: &str) -> Result<()> {
    let found = fcntl(fd, FcntlArg::F_GET_SEALS).unwrap_or(0);
    if SealFlag::from_bits_truncate(found).contains(SealFlag::F_SEAL_SHRINK) {
        return Ok(());
    }
    Err(Error::new(Errno::EPROTO, format_args!("{what}: not sealed against shrinking")))
}

/// Memory of a fixed size that nobody can truncate, not even its owner.
pub(crate) fn sealed_memory(label: &CStr, size: u64, inherit: bool, what: &str) -> Result<Kept> {
    let close_on_exec = if inherit { MFdFlags::empty() } else { MFdFlags::MFD_CLOEXEC };
    let flags = close_on_exec | MFdFlags::MFD_ALLOW_SEALING;
    let refused = |errno| Error::from_kernel(errno, what);
    let kept = memfd_create(label, flags).and_then(Kept::new).map_err(refused)?;
    let file = kept.checked(what)?;
    named::reserve(file, 0, size, what)?;
    fcntl(file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).map_err(refused)?;
    Ok(kept)
}

/// The same for what may have to be made, which nobody could fill through a mapping for reading.
fn writable_to(flags: OpenFlags, what: &str) -> Result<bool> {
    let writable = writable(flags.access, what)?;
    if !writable && flags.creation != Creation::OpenOnly {
        let text =
            format_args!("{what}: O_CREAT needs O_RDWR; O_RDONLY is for opening what exists");
        return Err(Error::new(Errno::EINVAL, text));
    }
    Ok(writable)
}

fn writable(access: Access, what: &str) -> Result<bool> {
    match access {
        Access::ReadOnly => Ok(false),
        Access::ReadWrite => Ok(true),
        Access::WriteOnly => Err(Error::new(
            Errno::EINVAL,
            format_args!("{what}: memory cannot be mapped write-only; use O_RDWR"),
        )),
    }
}

fn unmappable(what: &str) -> Error {
    Error::new(Errno::EPROTO, format_args!("{what}: not a file or device that can be mapped"))
}

/// How many bytes of a file or device with this status to map when `asked` were asked for.
fn size_to_map(status: &FileStat, asked: usize, what: &str) -> Result<usize> {
    let kind = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT;
    match kind {
        SFlag::S_IFREG => {}
        SFlag::S_IFCHR | SFlag::S_IFBLK if asked > 0 => return Ok(asked),
        SFlag::S_IFCHR | SFlag::S_IFBLK => {
            return Err(Error::new(Errno::EINVAL, format_args!("{what}: a device needs a size")));
        }
        _ => return Err(unmappable(what)),
    }
    let there = status.st_size as u64;
    if there == 0 {
        return Err(Error::new(
            Errno::EPROTO,
            format_args!("{what}: it is empty; nobody has given it a size yet"),
        ));
    }
    if asked as u64 > there {
        return Err(Error::new(
            Errno::EPROTO,
            format_args!("{what}: {asked} bytes asked for, but it has {there}"),
        ));
    }
    let all = usize::try_from(there)
        .map_err(|_| Error::new(Errno::EOVERFLOW, format_args!("{what}: {there} bytes")))?;
    Ok(if asked == 0 { all } else { asked })
}

/// The access and creation of plain opening, for callers in Rust.
impl Default for OpenFlags {
    fn default() -> Self {
        Self { access: Access::ReadWrite, creation: Creation::OpenOnly }
    }
}
