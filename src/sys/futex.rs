//! futex(2) on words in shared mappings. Never `FUTEX_PRIVATE_FLAG`: the kernel then keys the word
//! by inode and offset, whatever address each process sees it at.

use std::ptr;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use nix::errno::Errno;

/// Why a sleep ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wake {
    /// Woken, or the word differed from the expected value already.
    Woken,
    /// The time is over.
    TimedOut,
    /// A signal was caught. A timed wait reports it even under `SA_RESTART`; an untimed one would
    /// be restarted by the kernel, which is why there is none here.
    Interrupted,
}

/// Sleeps while `*word == expected`, at most `timeout`.
pub(crate) fn wait(word: &AtomicU32, expected: u32, timeout: Duration) -> Wake {
    let timeout = libc::timespec {
        tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    };
    // SAFETY: `word` and `timeout` are valid for the call; FUTEX_WAIT only reads them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT,
            expected,
            &raw const timeout,
            ptr::null::<u32>(),
            0,
        )
    };
    if result == 0 {
        return Wake::Woken;
    }
    match Errno::last() {
        Errno::ETIMEDOUT => Wake::TimedOut,
        Errno::EINTR => Wake::Interrupted,
        // EAGAIN: the word moved first. Anything else: the caller re-checks and its deadline holds.
        _ => Wake::Woken,
    }
}

/// More sleepers than there can be.
pub(crate) const ALL: u32 = libc::c_int::MAX as u32;

/// Wakes everyone who sleeps on `word`.
pub(crate) fn wake_all(word: &AtomicU32) {
    wake(word, ALL);
}

/// Wakes at most `most` who sleep on `word`; how many. Leaves errno alone: those who commit call it
/// on their way to success, and it fails where the page has been cut off the file (EFAULT).
pub(crate) fn wake(word: &AtomicU32, most: u32) -> u32 {
    let before = Errno::last_raw();
    // SAFETY: FUTEX_WAKE uses the address as a key only.
    let woken = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, most) };
    u32::try_from(woken).unwrap_or_else(|_| {
        Errno::set_raw(before);
        0
    })
}

/// Sets bits, at most twelve low ones, in a word, by way of the kernel, which answers with an error, here
/// false, where a store would be a fault. For words on which nobody sleeps. Changes errno.
pub(crate) fn set_bits(word: *mut AtomicU32, bits: u32) -> bool {
    // FUTEX_OP(FUTEX_OP_OR, bits, FUTEX_OP_CMP_EQ, 0)
    const OR: u32 = 1 << 29;
    // SAFETY: FUTEX_WAKE_OP accesses the word as a user's instruction would, and reports a fault. None is
    // to be woken at the first word; one at the second, at which nobody sleeps.
    let woken = unsafe {
        libc::syscall(
            libc::SYS_futex,
            word,
            libc::FUTEX_WAKE_OP,
            0,
            ptr::null::<libc::timespec>(),
            word,
            OR | bits << 12,
        )
    };
    woken >= 0
}

#[cfg(test)]
mod tests {
    use nix::sys::memfd::{MFdFlags, memfd_create};

    use super::*;

    #[test]
    fn a_wake_that_finds_no_page_leaves_errno_alone() {
        let file = std::fs::File::from(memfd_create("futex", MFdFlags::MFD_CLOEXEC).unwrap());
        file.set_len(4096).unwrap();
        // SAFETY: nobody maps the file but this test, which does not look at the bytes.
        let map = unsafe { memmap2::MmapMut::map_mut(&file) }.unwrap();
        file.set_len(0).unwrap();
        // SAFETY: aligned, mapped for as long as `map` lives, and only the kernel is shown where it is.
        let word = unsafe { AtomicU32::from_ptr(map.as_ptr().cast_mut().cast()) };
        Errno::set_raw(4095);
        assert_eq!(wake(word, 1), 0);
        assert_eq!(Errno::last_raw(), 4095);
    }
}
