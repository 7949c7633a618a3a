//! The only place for system calls that `nix`, `memmap2` and the standard library do not wrap, or
//! that need a promise about memory. Everything above sees safe functions, or unsafe ones whose
//! contract is written down.

pub(crate) mod cancel;
pub(crate) mod file;
pub(crate) mod fork;
pub(crate) mod futex;
pub(crate) mod identity;
pub(crate) mod latch;
pub(crate) mod lock;
pub(crate) mod membarrier;
pub(crate) mod mutex;
pub(crate) mod pipe;
pub(crate) mod semaphore;
pub(crate) mod wipe;

/// Processors this thread may run on; at least 1. Spinning for another process makes sense only
/// where there are two.
pub(crate) fn processors() -> usize {
    let this = nix::unistd::Pid::from_raw(0);
    let Ok(set) = nix::sched::sched_getaffinity(this) else { return 1 };
    let count = (0..nix::sched::CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false));
    count.take(2).count().max(1)
}
