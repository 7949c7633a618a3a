#![forbid(unsafe_code)]
//! Opening an object: found and checked as a whole, or made complete and then named.
//!
//! The unlinking of a name and its making anew by others are met by looking again: an object
//! counts as opened only if the name still leads to it after this handle has its slot.

use std::cell::RefCell;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollTimeout, poll};
use nix::sys::stat::{Mode, fchmod, fstat};

use super::geometry::Geometry;
use super::participant::{self, Participant, Slot};
use super::region::Region;
use super::superblock::{DOORBELL_AT, Room, SUPERBLOCK_LEN, Superblock};
use crate::error::{Error, Result};
use crate::flags::Creation;
use crate::name::Name;
use crate::shm::{Mapping, named, require_seal, sealed_memory};
use crate::sys::alloc::{self, Arc};
use crate::sys::file;
use crate::sys::kept::{self, Kept};
use crate::sys::lock::{self, Anchor};
use crate::sys::{many_processors, membarrier};

/// Drops what is there, in its place.
#[inline(never)]
fn clear<T>(built: &RefCell<Option<T>>) {
    *built.borrow_mut() = None;
}

/// How many milliseconds to wait for somebody who is between two system calls of a removal.
const REMOVAL_PATIENCE: u32 = 1000;

/// What to open.
pub(crate) struct Request<'a> {
    /// `None` for an anonymous object.
    pub name: Option<&'a Name>,
    pub creation: Creation,
    pub mode: libc::mode_t,
    /// What to make if there is nothing: `Err` says what is missing for that.
    pub make: Result<Geometry>,
    /// Checks what was found against what the caller asked for.
    pub check: &'a dyn Fn(&Superblock, &str) -> Result<()>,
    /// Whether permission to read is enough for the caller, if the object is one for that.
    pub readable_will_do: bool,
}

/// Where an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A file of its own that has, or had, a name.
    Named,
    /// A file of its own without a name.
    Anonymous,
    /// In a segment, from this offset on.
    Segment(u64),
}

impl Place {
    fn offset(self) -> u64 {
        match self {
            Self::Segment(offset) => offset,
            Self::Named | Self::Anonymous => 0,
        }
    }
}

/// An object, mapped; shared by all that a handle does.
#[derive(Debug)]
pub(crate) struct Object {
    file: Anchor,
    region: Region,
    superblock: Superblock,
    place: Place,
    /// Whether membarrier reaches this process.
    light: bool,
    what: String,
}

impl Object {
    /// Opens or makes what `request` says, and has `build` attach to it and make a handle of it.
    ///
    /// A new object gets its name only after `build` succeeded: what can fail has failed by then,
    /// and nobody finds an object whose maker is not in it.
    pub(crate) fn open<T>(request: Request<'_>, build: impl Fn(Self) -> Result<T>) -> Result<T> {
        let Some(name) = request.name else {
            return build(Self::anonymous(request.make?)?);
        };
        let what = alloc::text(name)?;
        // A handle is half a kilobyte: it is not moved through the frames of all that makes it.
        let built = RefCell::new(None);
        let build = |object| {
            let handle = build(object)?;
            clear(&built);
            *built.borrow_mut() = Some(handle);
            Ok(())
        };
        // One of an attempt before, whose name was gone.
        let again = || clear(&built);
        named::create_or_open(
            name.path(),
            request.creation,
            &what,
            |path| {
                again();
                Self::found(path, &request, &what, &build)
            },
            |path| {
                again();
                Self::make(path, &request, &what, &build)
            },
        )?;
        built
            .into_inner()
            .ok_or_else(|| Error::new(Errno::ESTALE, format_args!("{what}: not made")))
    }

    #[inline(never)]
    fn found(
        path: &CStr,
        request: &Request<'_>,
        what: &str,
        build: &dyn Fn(Self) -> Result<()>,
    ) -> Result<Option<()>> {
        let object = match named::open_regular(path, true, what) {
            Ok(Some(file)) => {
                Self::existing(keep(file, Some(path), what)?, Place::Named, true, what)?
            }
            Ok(None) => return Ok(None),
            Err(refused)
                if request.readable_will_do
                    && matches!(refused.code(), Errno::EACCES | Errno::EROFS) =>
            {
                let Some(file) = named::open_regular(path, false, what)? else { return Ok(None) };
                let object =
                    Self::existing(keep(file, Some(path), what)?, Place::Named, false, what)?;
                if !object.geometry().serves_readers() {
                    return Err(refused);
                }
                object
            }
            Err(refused) => return Err(refused),
        };
        (request.check)(&object.superblock, what)?;
        let status = named::status(object.file.file().checked(what)?, what)?;
        let anchor = object.file.clone();
        let built = build(object);
        // Who removes the name of an object in which nobody lives holds ADMIN while it looks and
        // removes; this handle is seen by whoever locks ADMIN from now on. See `inventory::reap`.
        wait_for_removal(&anchor, what)?;
        // Whatever came of it, it counts only if the name still leads here.
        if named::still_names(path, &status) { built.map(Some) } else { Ok(None) }
    }

    #[inline(never)]
    fn make(
        path: &CStr,
        request: &Request<'_>,
        what: &str,
        build: &dyn Fn(Self) -> Result<()>,
    ) -> Result<Option<()>> {
        let (new, object) = Self::unpublished(path, request, what)?;
        new.with_owner_access(what, || build(object))?;
        Ok(new.publish(path, what)?.map(drop))
    }

    // Out of line, so that its buffers do not lie on the stack while the object is built.
    #[inline(never)]
    fn unpublished(
        path: &CStr,
        request: &Request<'_>,
        what: &str,
    ) -> Result<(named::Unpublished, Self)> {
        let geometry = request.make.clone()?;
        let new =
            named::Unpublished::new(path, size_of_file(&geometry, what)?, request.mode, what)?;
        let superblock = initialise(new.file(), geometry, what)?;
        let copy = new.file().duplicate().map_err(|errno| kept::refused(errno, what))?;
        let object = Self::map(Arc::new(copy)?, superblock, Place::Named, true, what)?;
        Ok((new, object))
    }

    #[inline(never)]
    fn anonymous(geometry: Geometry) -> Result<Self> {
        let what = "anonymous ring";
        let file = sealed_memory(c"madang", size_of_file(&geometry, what)?, false, what)?;
        initialise(&file, geometry, what)?;
        Self::existing(file, Place::Anonymous, true, what)
    }

    /// Opens the object that is the whole of what `fd` refers to. With `sealed` it is refused unless
    /// nobody can ever shrink it. With `readable_will_do` a descriptor that is open for reading only
    /// is accepted if the object serves consumers that only read.
    pub(crate) fn from_fd(
        fd: BorrowedFd<'_>,
        sealed: bool,
        readable_will_do: bool,
        check: &dyn Fn(&Superblock, &str) -> Result<()>,
    ) -> Result<Self> {
        let what = "ring from a descriptor";
        if sealed {
            require_seal(fd, what)?;
        }
        if !named::is_regular(&named::status(fd, what)?) {
            return Err(Error::new(
                Errno::EPROTO,
                format_args!("{what}: not a file that has a size"),
            ));
        }
        let refused = || {
            let why = "the descriptor is open for reading only, which is enough for a consumer of an \
                       overwriting broadcast and for nobody else";
            Error::new(Errno::EACCES, format_args!("{what}: {why}"))
        };
        let writable = is_open_for_writing(fd, what)?;
        if !writable && !readable_will_do {
            return Err(refused());
        }
        let copy = fd.try_clone_to_owned().map_err(|error| no_descriptor(&error, what))?;
        let object = Self::existing(keep(copy, None, what)?, Place::Anonymous, writable, what)?;
        if !writable && !object.geometry().serves_readers() {
            return Err(refused());
        }
        check(&object.superblock, what)?;
        Ok(object)
    }

    /// Checks and maps a named object that is there, whoever is in it.
    pub(crate) fn visit(file: OwnedFd, what: &str) -> Result<Self> {
        Self::existing(keep(file, None, what)?, Place::Named, true, what)
    }

    /// Checks and maps an object that is there.
    #[inline(never)]
    fn existing(file: Kept, place: Place, writable: bool, what: &str) -> Result<Self> {
        Self::existing_in(Arc::new(file)?, place, writable, what)
    }

    pub(super) fn existing_in(
        file: Arc<Kept>,
        place: Place,
        writable: bool,
        what: &str,
    ) -> Result<Self> {
        let descriptor = file.checked(what)?;
        let size = named::status(descriptor, what)?.st_size as u64;
        let room = match place {
            Place::Segment(offset) => Room::AtMost(size.saturating_sub(offset)),
            Place::Named | Place::Anonymous => Room::Exactly(size),
        };
        let mut bytes = [0; SUPERBLOCK_LEN];
        pread_exact(descriptor, &mut bytes, place.offset())
            .map_err(|errno| no_superblock(errno, size, what))?;
        let superblock = Superblock::decode(bytes, room, what)?;
        Self::map(file, superblock, place, writable, what)
    }

    fn map(
        file: Arc<Kept>,
        superblock: Superblock,
        place: Place,
        writable: bool,
        what: &str,
    ) -> Result<Self> {
        let len = file_len(&superblock.geometry);
        let descriptor = file.checked(what)?;
        let region = Region::new(Mapping::part(descriptor, place.offset(), len, writable)?);
        let file = Anchor::new(file, place.offset());
        let light = membarrier::register().is_ok();
        // The first to ask needs a kilobyte of stack. Here there is more of it than where a handle,
        // which wants to know, is made.
        many_processors();
        Ok(Self { file, region, superblock, place, light, what: alloc::text(what)? })
    }

    /// A second view of the same object, for another handle. Its geometry is the one that was
    /// checked when this one was opened: the superblock is not read again, a peer may have changed
    /// it.
    pub(crate) fn duplicate(&self) -> Result<Self> {
        let file = self.file.file().checked(&self.what)?;
        let size = named::status(file, &self.what)?.st_size as u64;
        let needed = self.place.offset() + self.geometry().total_size().unwrap_or(0);
        let fits = match self.place {
            Place::Segment(_) => size >= needed,
            Place::Named | Place::Anonymous => size == needed,
        };
        if !fits {
            return Err(Error::new(
                Errno::EPROTO,
                format_args!("{}: its size was changed to {size}", self.what),
            ));
        }
        let (file, writable) = (self.file.file().clone(), self.region.is_writable());
        Self::map(file, self.superblock, self.place, writable, &self.what)
    }

    /// Takes a participant slot for this process: at opening, and again in a forked child. `sweep`
    /// as for [`Participant::attach`].
    pub(crate) fn attach(&self, sweep: &dyn Fn(u32, &Slot) -> bool) -> Result<Participant> {
        let mine = || self.is_mine_to_change();
        Participant::attach(&self.region, self.geometry(), &self.file, &self.what, &mine, sweep)
    }

    /// For who has just locked the byte of a slot: whether the bytes are still the object's.
    fn is_mine_to_change(&self) -> Result<()> {
        match self.place {
            Place::Segment(_) => self.still_there(),
            Place::Named | Place::Anonymous => Ok(()),
        }
    }

    /// Clears away what the dead participant `index` has left, with `sweep` as for
    /// [`Participant::attach`]; not if it lives, or if another one is doing the same. Whether it did.
    pub(crate) fn recover(
        &self,
        index: u32,
        sweep: impl FnOnce(u32, &Slot) -> bool,
    ) -> Result<bool> {
        let mine = || self.is_mine_to_change();
        let (region, geometry, what) = (&self.region, self.geometry(), &self.what);
        Participant::recover(region, geometry, &self.file, what, &mine, index, sweep)
    }

    /// The slot of participant `index`; `None` if there cannot be one.
    pub(crate) fn slot(&self, index: u32) -> Option<&Slot> {
        Slot::of(&self.region, self.geometry(), index)
    }

    /// Whether the process at slot `index` lives; "yes" for want of an answer.
    pub(crate) fn is_alive(&self, index: u32) -> bool {
        participant::is_alive(&self.file, index)
    }

    /// Whether anybody holds one of the object's locks.
    pub(crate) fn is_lived_in(&self) -> bool {
        self.file.is_any_held(participant::LOCK_BYTES)
    }

    pub(super) fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    pub(crate) fn geometry(&self) -> &Geometry {
        &self.superblock.geometry
    }

    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    /// Wakes all who watch the object's file: see `sys/doorbell.rs`. Leaves the object as it is.
    pub(crate) fn touch(&self) -> nix::Result<()> {
        self.file.touch(DOORBELL_AT)
    }

    /// The object in words: `ring "/items"`.
    pub(crate) fn what(&self) -> &str {
        &self.what
    }

    /// Whether membarrier reaches this process; if not, notifiers of this object need fences.
    pub(crate) fn is_light(&self) -> bool {
        self.light
    }

    /// The file, for locks and questions about them.
    pub(crate) fn anchor(&self) -> &Anchor {
        &self.file
    }

    /// The descriptor of the object's own file; `None` if it lies in another's.
    /// `EBADF` if the program has closed it meanwhile.
    pub(crate) fn memory(&self) -> Result<Option<BorrowedFd<'_>>> {
        match self.place {
            Place::Named | Place::Anonymous => self.file.file().checked(&self.what).map(Some),
            Place::Segment(_) => Ok(None),
        }
    }

    /// A new descriptor of the object's own file, open for reading only; `None` if it lies in
    /// another's.
    ///
    /// A file without a name is closed to other users first, as the kernel lets everybody open it
    /// anew for writing.
    pub(crate) fn memory_for_reading(&self) -> Result<Option<OwnedFd>> {
        let Some(fd) = self.memory()? else { return Ok(None) };
        let file = self.file.file();
        if fcntl(fd, FcntlArg::F_GET_SEALS).is_ok_and(|seals| seals & libc::F_SEAL_SHRINK != 0) {
            let mode = Mode::S_IRUSR | Mode::S_IWUSR;
            fchmod(fd, mode).map_err(|errno| Error::from_kernel(errno, self.what()))?;
        }
        let own = file.reopen_for(OFlag::O_RDONLY);
        own.map(Some).map_err(|errno| kept::refused(errno, self.what()))
    }

    /// Whether the object had a name that is gone.
    pub(crate) fn is_unlinked(&self) -> bool {
        self.place == Place::Named
            && self.file.file().fd().and_then(fstat).is_ok_and(|status| status.st_nlink == 0)
    }
}

/// Whether `fd` may be written as well as read; `EACCES` for one that may not be read.
fn is_open_for_writing(fd: BorrowedFd<'_>, what: &str) -> Result<bool> {
    let flags = fcntl(fd, FcntlArg::F_GETFL).map_err(|errno| Error::from_kernel(errno, what))?;
    match flags & libc::O_ACCMODE {
        libc::O_RDWR => Ok(true),
        libc::O_RDONLY => Ok(false),
        _ => Err(Error::new(
            Errno::EACCES,
            format_args!("{what}: the descriptor is not open for reading"),
        )),
    }
}

/// Waits until nobody is about to remove the object's name. `EBUSY` if somebody was stopped doing it.
pub(crate) fn wait_for_removal(anchor: &Anchor, what: &str) -> Result<()> {
    for _ in 0..REMOVAL_PATIENCE {
        if !anchor.is_held(lock::ADMIN) {
            return Ok(());
        }
        let _ = poll(&mut [], PollTimeout::from(1_u8));
    }
    Err(stopped_remover(what))
}

fn stopped_remover(what: &str) -> Error {
    Error::new(Errno::EBUSY, format_args!("{what}: another process is removing it and was stopped"))
}

/// Why a file's first bytes could not be read: it is no object, unless the device has failed.
pub(super) fn no_superblock(errno: Errno, size: u64, what: &str) -> Error {
    match errno {
        Errno::EIO => Error::from_kernel(errno, what),
        _ => Error::new(
            Errno::EPROTO,
            format_args!("{what}: {size} bytes are too few for an object"),
        ),
    }
}

/// As `read_exact_at`, for a descriptor that is not ours alone; `ENODATA` at the end of the file.
pub(crate) fn pread_exact(file: BorrowedFd<'_>, bytes: &mut [u8], offset: u64) -> nix::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        let at = (offset + done as u64) as libc::off_t;
        match nix::sys::uio::pread(file, &mut bytes[done..], at) {
            Ok(0) => return Err(Errno::ENODATA),
            Ok(count) => done += count,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// A descriptor that an object keeps, of the file at `path` if it has one.
fn keep(file: OwnedFd, path: Option<&CStr>, what: &str) -> Result<Kept> {
    let kept = Kept::new(file).and_then(|kept| match path {
        Some(path) => kept.at(path),
        None => Ok(kept),
    });
    kept.map_err(|errno| Error::from_kernel(errno, what))
}

fn no_descriptor(error: &std::io::Error, what: &str) -> Error {
    Error::from_kernel(error.raw_os_error().map_or(Errno::EMFILE, Errno::from_raw), what)
}

fn size_of_file(geometry: &Geometry, what: &str) -> Result<u64> {
    geometry.total_size().ok_or_else(|| {
        let (capacity, item) = (geometry.capacity, geometry.item_size);
        Error::new(
            Errno::EOVERFLOW,
            format_args!("{what}: {capacity} items of {item} bytes are beyond any memory"),
        )
    })
}

/// The same as a length to map; `total_size` is at most `isize::MAX`.
fn file_len(geometry: &Geometry) -> usize {
    geometry.total_size().unwrap_or(0) as usize
}

#[inline(never)]
fn initialise(file: &Kept, geometry: Geometry, what: &str) -> Result<Superblock> {
    let superblock = Superblock::new(geometry);
    // Everything else starts as zero, which is what a new file is made of.
    let bytes = superblock.encode();
    file::write_all(file.checked(what)?, &bytes)
        .map_err(|errno| Error::from_kernel(errno, what))?;
    Ok(superblock)
}

/// Removes the name of an object; those who have it go on using it.
///
/// Two who remove the same name must not remove what was made under it in between: whoever holds
/// the object's ADMIN byte looks whether the name still leads there, and only then removes it.
pub(crate) fn unlink(name: &Name) -> Result<()> {
    let what = alloc::text(name)?;
    for _ in 0..REMOVAL_PATIENCE {
        let file = match named::open_regular(name.path(), true, &what) {
            Ok(Some(file)) => file,
            // Not readable for us: the directory's owner may remove it all the same.
            Err(error) if error.code() == Errno::EACCES => {
                return named::unlink(name.path(), &what);
            }
            Ok(None) => {
                return Err(Error::new(Errno::ENOENT, format_args!("{what}: does not exist")));
            }
            Err(error) => return Err(error),
        };
        let locked = lock::try_lock(file.as_fd(), lock::BASE + lock::ADMIN);
        if !locked.map_err(|errno| Error::from_kernel(errno, &what))? {
            // Another one is between its look and its unlink, a few microseconds; a millisecond
            // for each of the 1000 turns, should it have been stopped right there.
            let _ = poll(&mut [], PollTimeout::from(1_u8));
            continue;
        }
        let status = named::status(&file, &what)?;
        if named::still_names(name.path(), &status) {
            named::unlink(name.path(), &what)?;
            return Ok(());
        }
    }
    Err(stopped_remover(&what))
}
