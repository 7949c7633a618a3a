//! What tells this process from every other one, found out once a process: a fork makes both anew.
//!
//! A process id does not: two processes in different PID namespaces have the same one.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::stat::{fstat, stat};

use super::fork;
use super::wipe::{Wiped, Zeroed};
use crate::time::now;

/// What was found out; all zero is "nothing yet", which is what a forked child begins with.
#[derive(Debug)]
#[repr(C)]
struct Memo {
    /// The inode number of the PID namespace, or [`UNKNOWN`].
    namespace: AtomicU64,
    tag: AtomicU64,
}

// SAFETY: atomic integers: zero is a valid value, nothing to drop.
unsafe impl Zeroed for Memo {}

/// In [`Memo::namespace`]: it cannot be found out here. No inode has this number.
const UNKNOWN: u64 = u64::MAX;

/// The memory for it; `ENOMEM` without any. Not kept then: the next call tries again.
fn memo() -> nix::Result<&'static Memo> {
    static MEMO: OnceLock<Wiped<Memo>> = OnceLock::new();
    if let Some(memo) = MEMO.get() {
        return Ok(memo);
    }
    // A child that is forked while this is being set could never use it.
    let _no_fork = fork::hold_off();
    let new = Wiped::new()?;
    Ok(MEMO.get_or_init(|| new))
}

/// The inode number of this process's PID namespace; `None` where it cannot be found out.
///
/// It never changes: unshare(2) and setns(2) are for children to come.
pub(crate) fn pid_namespace() -> Option<u64> {
    let Ok(memo) = memo() else { return find_namespace() };
    let mut known = memo.namespace.load(Ordering::Relaxed);
    if known == 0 {
        known = find_namespace().unwrap_or(UNKNOWN);
        memo.namespace.store(known, Ordering::Relaxed);
    }
    (known != UNKNOWN).then_some(known)
}

fn find_namespace() -> Option<u64> {
    let by_path = stat(c"/proc/self/ns/pid").ok().map(|status| status.st_ino);
    by_path.or_else(namespace_by_pidfd).filter(|&inode| inode != 0)
}

/// Without /proc: the kernel gives a descriptor of the namespace itself (Linux 6.11).
fn namespace_by_pidfd() -> Option<u64> {
    /// `PIDFD_GET_PID_NAMESPACE`.
    const GET_PID_NAMESPACE: libc::Ioctl = 0xff05;
    // SAFETY: both calls below give a new descriptor, which nobody else knows.
    let own = |raw| (raw >= 0).then(|| unsafe { OwnedFd::from_raw_fd(raw) });
    // SAFETY: the call takes integers.
    let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, std::process::id(), 0) };
    let pidfd = own(raw as libc::c_int)?;
    // SAFETY: this request takes an integer, ignored, and gives a new descriptor.
    let raw = unsafe { libc::ioctl(pidfd.as_raw_fd(), GET_PID_NAMESPACE, 0) };
    Some(fstat(own(raw)?).ok()?.st_ino)
}

/// A random number, not 0, that no other process has: not a parent, nor one of the same number in
/// another PID namespace. It proves nothing against those who can read it. `ENOMEM` without memory.
pub(crate) fn tag() -> nix::Result<u64> {
    let memo = memo()?;
    let known = memo.tag.load(Ordering::Relaxed);
    if known != 0 {
        return Ok(known);
    }
    // Two threads at once: the first one's stands.
    let (new, order) = (random(memo), Ordering::Relaxed);
    Ok(memo.tag.compare_exchange(0, new, order, order).map_or_else(|first| first, |_| new))
}

/// Random bytes, few of them; `None` early in boot, or where it is forbidden.
pub(crate) fn random_bytes<const COUNT: usize>() -> Option<[u8; COUNT]> {
    let mut bytes = [0; COUNT];
    let to = bytes.as_mut_ptr();
    // SAFETY: that many writable bytes; up to 256 come whole or not at all. By its number, as glibc
    // has a function for the call since 2.25 only.
    let got = unsafe { libc::syscall(libc::SYS_getrandom, to, COUNT, libc::GRND_NONBLOCK) };
    usize::try_from(got).is_ok_and(|got| got == COUNT).then_some(bytes)
}

fn random(memo: &Memo) -> u64 {
    let bytes = random_bytes();
    let mut number = u64::from_ne_bytes(bytes.unwrap_or_default());
    if bytes.is_none() {
        // No two processes here have all of these in common.
        let (clock, address) = (now().as_nanos() as u64, std::ptr::from_ref(memo).addr() as u64);
        let namespace = pid_namespace().unwrap_or(0);
        number = (clock ^ address.rotate_left(32) ^ namespace << 48)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(std::process::id().into());
    }
    number.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_forked_child_is_another_process() {
        let (mine, namespace) = (tag().unwrap(), pid_namespace().unwrap());
        assert_eq!((tag().unwrap(), pid_namespace()), (mine, Some(namespace)));
        assert_eq!(namespace, std::fs::metadata("/proc/self/ns/pid").unwrap().ino());
        // SAFETY: the child allocates nothing and leaves by _exit.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let differs = tag().is_ok_and(|tag| tag != mine);
                let right = differs && pid_namespace() == Some(namespace);
                // SAFETY: ends this process without running anything else.
                unsafe { libc::_exit(i32::from(!right)) }
            }
            ForkResult::Parent { child } => {
                assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
            }
        }
    }

    #[test]
    fn without_proc_the_kernel_is_asked_directly() {
        // Before Linux 6.11 there is no such way.
        if let Some(found) = namespace_by_pidfd() {
            assert_eq!(Some(found), pid_namespace());
        }
    }
}
