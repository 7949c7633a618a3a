#![forbid(unsafe_code)]
//! Mutexes and condition variables seen from outside: small files without participants. That somebody
//! has one open is said by a shared lock that lives as long as any process has it mapped.

use nix::errno::Errno;

use super::mechanism::Mechanism;
use super::missing;
use crate::error::{Error, Result};
use crate::mutex::inspect::{self, Seen};
use crate::name::Name;
use crate::object::{COND_SIZE, MUTEX_SIZE, pread_exact};
use crate::shm::named;
use crate::sys::alloc::{self, Arc};
use crate::sys::kept::Kept;
use crate::sys::lock::{self, Anchor};

/// What was seen of one.
pub(super) struct Area {
    pub seen: Seen,
    /// Whether somebody has it open.
    pub is_open: bool,
}

/// Looks at the one called `name`.
pub(super) fn look(mechanism: Mechanism, name: &Name) -> Result<Area> {
    let what = alloc::text(name)?;
    let file = named::open_regular(name.path(), false, &what)?.ok_or_else(|| missing(&what))?;
    let file = Kept::new(file).map_err(|errno| Error::from_kernel(errno, &what))?;
    look_at(mechanism, &Arc::new(file)?, &what)
}

/// The same for an open file, whose own description's locks do not count.
pub(super) fn look_at(mechanism: Mechanism, file: &Arc<Kept>, what: &str) -> Result<Area> {
    let seen = match mechanism {
        Mechanism::Mutex => inspect::mutex(&read::<MUTEX_SIZE>(file, what)?, what),
        _ => inspect::cond(&read::<COND_SIZE>(file, what)?, what),
    }?;
    let anchor = Anchor::new(file.clone(), 0);
    Ok(Area { seen, is_open: anchor.is_held(lock::USERS) })
}

/// All of the file, which has so many bytes.
fn read<const SIZE: usize>(file: &Kept, what: &str) -> Result<[u8; SIZE]> {
    let mut bytes = [0; SIZE];
    let file = file.checked(what)?;
    let found = named::status(file, what)?.st_size;
    if found != SIZE as i64 || pread_exact(file, &mut bytes, 0).is_err() {
        return Err(Error::new(
            Errno::EPROTO,
            format_args!("{what}: {found} bytes, where {SIZE} must be"),
        ));
    }
    Ok(bytes)
}
