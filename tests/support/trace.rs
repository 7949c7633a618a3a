//! Processes that are stopped in the middle of an operation, after so many of its instructions.

use std::ffi::c_int;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use super::process::{Child, fork, shared_words};

pub fn ptrace(request: u32, pid: Pid) {
    // SAFETY: these requests read and write no memory of ours.
    let result = unsafe { libc::ptrace(request as _, pid.as_raw(), 0, 0) };
    assert_eq!(result, 0, "ptrace {request}: {}", std::io::Error::last_os_error());
}

pub fn traced_status(pid: Pid) -> c_int {
    let mut status = 0;
    // SAFETY: a writable number.
    assert_eq!(unsafe { libc::waitpid(pid.as_raw(), &raw mut status, 0) }, pid.as_raw());
    status
}

/// Has a child prepare, and then operate up to instruction number `most` of that; returns it, stopped
/// there, and how many instructions it did.
pub fn stepped<S>(
    prepare: impl FnOnce() -> S,
    operate: impl FnOnce(&S),
    most: u64,
) -> (Child, u64) {
    let mark: &AtomicU64 = &shared_words(1)[0];
    let child = fork(|| {
        let state = prepare();
        // SAFETY: no addresses are used.
        assert_eq!(unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) }, 0);
        signal::raise(Signal::SIGSTOP).unwrap();
        mark.store(1, Ordering::SeqCst);
        operate(&state);
        mark.store(2, Ordering::SeqCst);
        std::mem::forget(state);
        loop {
            nix::unistd::pause();
        }
    });
    let pid = child.pid();
    assert!(libc::WIFSTOPPED(traced_status(pid)));
    let one = || {
        ptrace(libc::PTRACE_SINGLESTEP, pid);
        assert!(libc::WIFSTOPPED(traced_status(pid)));
    };
    while mark.load(Ordering::Relaxed) == 0 {
        one();
    }
    let mut steps = 0;
    while steps < most && mark.load(Ordering::Relaxed) == 1 {
        one();
        steps += 1;
    }
    (child, steps)
}
