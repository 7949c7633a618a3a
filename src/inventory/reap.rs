#![forbid(unsafe_code)]
//! Removing the names of objects in which nobody lives.
//!
//! Nobody who lives is robbed of an object's name, and nobody ends up in a nameless one unknowingly:
//!
//! ```text
//! reap                                open
//! lock ADMIN                          lock a slot's byte
//! somebody's byte is locked: stop     ADMIN is locked: wait until it is free
//! the name leads elsewhere: stop      the name leads elsewhere: from the beginning
//! unlink                              done
//! unlock ADMIN
//! ```
//!
//! Each of the two locks its own byte and then looks at the other's, and the kernel does all of
//! this one after the other. Either reap finds the slot locked, and leaves the object alone; or the
//! slot is locked later, and the opener finds ADMIN locked, waits for the end, and sees whether the
//! name is gone. (A handle that was copied by fork(2) and not used since takes no part, and is told
//! by `stat`, as ever, that its object has no name any more.)
//!
//! A file under a temporary name is locked in its ADMIN byte by its maker, from before it is anything
//! until it has its own name. Maker and reaper both lock first and then look whether the name still
//! leads to this file, so one of them gives way.
//!
//! | killed | left behind |
//! |---|---|
//! | before unlink | nothing was done; ADMIN is free |
//! | after unlink | the name is gone |

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::mechanism::{Mechanism, found};
use super::{area, missing};
use crate::error::{Error, Result};
use crate::name::Name;
use crate::object::Look;
use crate::ring::inspect::RingLook;
use crate::shm::named;
use crate::sys::alloc::{self, Arc};
use crate::sys::kept::Kept;
use crate::sys::lock;

/// What [`reap`] may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReapOptions {
    /// Count what would be removed, and remove nothing.
    pub dry_run: bool,
    /// Remove rings that hold items, too.
    pub with_items: bool,
}

/// Removes the object `name`, or without a name all of a mechanism, or without that all there are: of
/// those that are proven to have no living participant. Returns how many were removed.
///
/// A ring that holds items stays, unless `options` says otherwise. With a name, `EBUSY` if a living process
/// uses it, `ENOTEMPTY` if it stays for its items. Without, what cannot be removed is passed over.
pub fn reap(
    mechanism: Option<Mechanism>,
    name: Option<&[u8]>,
    options: ReapOptions,
) -> Result<u32> {
    if let Some(name) = name {
        let mechanism = mechanism.ok_or_else(|| {
            Error::new(Errno::EINVAL, "reap: a name needs the mechanism that it is a name of")
        })?;
        return one(mechanism, name, options).map(|()| 1);
    }
    let mut removed = 0;
    for (found, name) in found()? {
        if mechanism.is_some_and(|wanted| wanted != found) {
            continue;
        }
        match one(found, &name, options) {
            Ok(()) => removed += 1,
            Err(error) => match error.code() {
                Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE => return Err(error),
                _ => {}
            },
        }
    }
    Ok(removed)
}

fn one(mechanism: Mechanism, name: &[u8], options: ReapOptions) -> Result<()> {
    let dry = options.dry_run;
    let path = mechanism.name(name)?;
    let what = alloc::text(&path)?;
    match mechanism {
        Mechanism::Temporary => {
            let file = open(&path)?;
            remove(&path, &file, dry)
        }
        _ if mechanism.is_area() => {
            let file = Kept::new(open(&path)?);
            let file = Arc::new(file.map_err(|errno| Error::from_kernel(errno, &what))?)?;
            let admin = Admin::lock(file.checked(&what)?, &what)?;
            // Not what somebody has open; nor what is none, whose users need not say so.
            if area::look_at(mechanism, &file, &what)?.is_open {
                return Err(in_use(&what));
            }
            admin.remove(&path, dry)
        }
        _ => {
            let file = open(&path)?;
            let copy = file.as_fd().try_clone_to_owned().map_err(|error| {
                let errno = error.raw_os_error().map_or(Errno::EMFILE, Errno::from_raw);
                Error::from_kernel(errno, &what)
            })?;
            // The same description: the kernel does not count its own lock when asked through it.
            let look = Look::new(copy, &what)?;
            let admin = Admin::lock(file.as_fd(), &what)?;
            if look.is_lived_in() {
                return Err(in_use(&what));
            }
            if mechanism == Mechanism::Ring && !options.with_items {
                keep_items(&look)?;
            }
            admin.remove(&path, dry)
        }
    }
}

/// `ENOTEMPTY` for a ring that holds items: those that were committed, and in some kinds those that every
/// consumer has had. What a corrupt one holds nobody can get.
fn keep_items(look: &Look) -> Result<()> {
    let length = match RingLook::new(look).and_then(|ring| ring.length()) {
        Ok(length) => length,
        Err(error) if error.code() == Errno::EBADMSG => 0,
        Err(error) => return Err(error),
    };
    if length == 0 {
        return Ok(());
    }
    let text = format_args!("{}: nobody uses it, but it holds {length} items", look.what());
    Err(Error::new(Errno::ENOTEMPTY, text))
}

/// The ADMIN byte, held.
struct Admin<'a>(BorrowedFd<'a>);

impl<'a> Admin<'a> {
    /// `EBUSY` if somebody else has it: for an object, who removes it too; for a temporary file, its
    /// maker.
    fn lock(file: BorrowedFd<'a>, what: &str) -> Result<Self> {
        match lock::try_lock(file, lock::BASE + lock::ADMIN) {
            Ok(true) => Ok(Self(file)),
            Ok(false) => Err(in_use(what)),
            Err(errno) => Err(Error::from_kernel(errno, what)),
        }
    }

    /// Removes the name, if it leads to this file; `dry`: only looks.
    fn remove(&self, path: &Name, dry: bool) -> Result<()> {
        let what = alloc::text(path)?;
        let status = named::status(self.0, &what)?;
        if !named::still_names(path.path(), &status) {
            return Err(missing(&what));
        }
        if dry { Ok(()) } else { named::unlink(path.path(), &what) }
    }
}

impl Drop for Admin<'_> {
    fn drop(&mut self) {
        lock::unlock(self.0, lock::BASE + lock::ADMIN);
    }
}

fn remove(path: &Name, file: &OwnedFd, dry: bool) -> Result<()> {
    Admin::lock(file.as_fd(), &alloc::text(path)?)?.remove(path, dry)
}

fn open(path: &Name) -> Result<OwnedFd> {
    let what = alloc::text(path)?;
    named::open_regular(path.path(), true, &what)?.ok_or_else(|| missing(&what))
}

/// Whether the maker of a temporary file has died.
pub(super) fn is_left(path: &Name) -> Result<bool> {
    let what = alloc::text(path)?;
    let file = named::open_regular(path.path(), false, &what)?.ok_or_else(|| missing(&what))?;
    let file = Kept::new(file).map_err(|errno| Error::from_kernel(errno, &what))?;
    let anchor = lock::Anchor::new(Arc::new(file)?, 0);
    Ok(!anchor.is_held(lock::ADMIN))
}

fn in_use(what: &str) -> Error {
    Error::new(Errno::EBUSY, format_args!("{what}: a living process uses it"))
}
