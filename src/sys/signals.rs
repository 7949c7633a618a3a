//! Signals that the kernel sends to a thread beside the error of its call: SIGPIPE beside `EPIPE`,
//! SIGXFSZ beside `EFBIG`. Their default actions end the program, so none may reach it.
//!
//! | system calls used here | signal | how it is kept away |
//! |---|---|---|
//! | write, pwritev2, tee | SIGPIPE | RWF_NOSIGNAL, or [`without`] |
//! | sendmsg | SIGPIPE | MSG_NOSIGNAL |
//! | write, pwrite, pwritev2, ftruncate, fallocate | SIGXFSZ | [`without`] |

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::ptr;

use nix::errno::Errno;

/// A signal, and the error of the call that raises it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Raised {
    /// With `EPIPE`.
    Pipe,
    /// With `EFBIG`: the file would exceed RLIMIT_FSIZE.
    FileSize,
}

impl Raised {
    fn pair(self) -> (c_int, Errno) {
        match self {
            Self::Pipe => (libc::SIGPIPE, Errno::EPIPE),
            Self::FileSize => (libc::SIGXFSZ, Errno::EFBIG),
        }
    }
}

/// Runs a call with the signal blocked and takes off the one that the call itself raised.
///
/// The kernel sends that signal to the calling thread, and sigtimedwait takes a thread's own
/// signals before the process's, so one that somebody else sends meanwhile stays. One that was
/// pending before stays too: the kernel merges ours into it.
pub(crate) fn without<T>(raised: Raised, call: impl FnOnce() -> nix::Result<T>) -> nix::Result<T> {
    let (signal, with) = raised.pair();
    let mut only = MaybeUninit::<libc::sigset_t>::uninit();
    let mut pending = MaybeUninit::<libc::sigset_t>::uninit();
    let mut before = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: each set is initialised by the first call that has it; all live on this stack.
    let was_pending = unsafe {
        libc::sigemptyset(only.as_mut_ptr());
        libc::sigaddset(only.as_mut_ptr(), signal);
        libc::sigemptyset(pending.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_BLOCK, only.as_ptr(), before.as_mut_ptr());
        libc::sigpending(pending.as_mut_ptr());
        libc::sigismember(pending.as_ptr(), signal) == 1
    };
    let answer = call();
    if matches!(&answer, Err(errno) if *errno == with) && !was_pending {
        let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `only` was initialised above; a null siginfo is allowed.
        while unsafe { libc::sigtimedwait(only.as_ptr(), ptr::null_mut(), &at_once) } < 0
            && Errno::last() == Errno::EINTR
        {}
    }
    // SAFETY: `before` was stored by the first pthread_sigmask.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), ptr::null_mut()) };
    answer
}

/// RLIMIT_FSIZE of this process, in bytes; `None` if there is no such limit.
pub(crate) fn file_size_limit() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable.
    let done = unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) };
    #[allow(clippy::unnecessary_cast)] // narrower on other platforms
    (done == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur as u64)
}
