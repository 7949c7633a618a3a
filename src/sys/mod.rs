//! The only place for system calls that `nix`, `memmap2` and the standard library do not wrap, or
//! that need a promise about memory. Everything above sees safe functions, or unsafe ones whose
//! contract is written down.

pub(crate) mod alloc;
pub(crate) mod cancel;
pub(crate) mod directory;
pub(crate) mod doorbell;
pub(crate) mod file;
pub(crate) mod fork;
pub(crate) mod futex;
pub(crate) mod identity;
pub(crate) mod kept;
pub(crate) mod latch;
pub(crate) mod lock;
pub(crate) mod membarrier;
pub(crate) mod memfd;
pub(crate) mod memory;
pub(crate) mod mutex;
pub(crate) mod page;
pub(crate) mod pipe;
pub(crate) mod process;
pub(crate) mod semaphore;
pub(crate) mod sigbus;
pub(crate) mod signals;
pub(crate) mod socket;
pub(crate) mod thread;
pub(crate) mod wipe;

/// What mmap(2) and madvise(2) mean by `EAGAIN`: no memory, or none that may be locked in a program
/// that locks all of its own. To our callers it would say that they had to wait.
pub(crate) fn no_memory(errno: nix::errno::Errno) -> nix::errno::Errno {
    if errno == nix::errno::Errno::EAGAIN { nix::errno::Errno::ENOMEM } else { errno }
}

/// This process's effective user id.
pub(crate) fn effective_uid() -> u32 {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() }
}

/// Whether another process may be running at this very moment: spinning for it makes sense only
/// then. That this thread is bound to one processor says nothing about where the other one runs.
pub(crate) fn many_processors() -> bool {
    use nix::unistd::{SysconfVar, sysconf};
    use std::sync::atomic::{AtomicU32, Ordering};
    // The C library reads a file for it, with a large buffer on the stack: asked once. 0: not yet.
    static KNOWN: AtomicU32 = AtomicU32::new(0);
    let known = KNOWN.load(Ordering::Relaxed);
    if known != 0 {
        return known > 1;
    }
    let many = matches!(sysconf(SysconfVar::_NPROCESSORS_ONLN), Ok(Some(2..)));
    KNOWN.store(1 + u32::from(many), Ordering::Relaxed);
    many
}
