//! membarrier(2): a full memory barrier on every running thread of every registered process.
//!
//! The side that is about to sleep pays for it, so that the side that commits an item needs no
//! fence at all (an asymmetric fence).

use nix::errno::Errno;

#[cfg_attr(loom, allow(dead_code))] // A model takes its place.
const GLOBAL_EXPEDITED: libc::c_int = 1 << 1;
const REGISTER_GLOBAL_EXPEDITED: libc::c_int = 1 << 2;

fn membarrier(command: libc::c_int) -> Result<(), Errno> {
    // SAFETY: the call takes integers and touches no memory of ours.
    Errno::result(unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) }).map(drop)
}

/// Makes this process one that others' barriers reach. Cheap when it is registered already; a
/// forked child inherits the registration, an executed program does not.
pub(crate) fn register() -> Result<(), Errno> {
    membarrier(REGISTER_GLOBAL_EXPEDITED)
}

/// Runs a full barrier on every registered process's running threads and on this one.
#[cfg_attr(loom, allow(dead_code))] // A model takes its place.
pub(crate) fn barrier() -> Result<(), Errno> {
    membarrier(GLOBAL_EXPEDITED)
}
