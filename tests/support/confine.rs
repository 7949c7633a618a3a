//! Children that live in a smaller world: another user, a small /dev/shm, fewer descriptors, a
//! kernel without some feature.
#![allow(dead_code)]

use std::ffi::{CStr, c_int};

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};

use super::support::{fork, join};

/// Prints why a test does nothing here.
pub fn skip(why: &str) {
    eprintln!("skipped: {why}");
}

/// Whether this process may become another user; says so if not.
pub fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skip("needs root to become another user");
    }
    root
}

/// Runs `body` in a child that is the user nobody; the caller checked `is_root`.
pub fn as_nobody(body: impl FnOnce()) {
    join(fork(|| {
        nix::unistd::setgroups(&[]).unwrap();
        nix::unistd::setgid(65534.into()).unwrap();
        nix::unistd::setuid(65534.into()).unwrap();
        body();
    }));
}

fn mount(target: &CStr, kind: Option<&CStr>, flags: libc::c_ulong, data: &CStr) -> c_int {
    let kind = kind.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: C strings or NULL throughout.
    unsafe { libc::mount(c"none".as_ptr(), target.as_ptr(), kind, flags, data.as_ptr().cast()) }
}

/// Runs `body` in a child whose /dev/shm is a file system of its own with these mount options.
pub fn with_own_shm(options: &CStr, body: impl FnOnce()) {
    const FORBIDDEN: i32 = 77;
    let child = fork(|| {
        let private = libc::MS_REC | libc::MS_PRIVATE;
        if unshare(CloneFlags::CLONE_NEWNS).is_err()
            || mount(c"/", None, private, c"") != 0
            || mount(c"/dev/shm", Some(c"tmpfs"), 0, options) != 0
        {
            // SAFETY: ends this process without running the parent's exit handlers.
            unsafe { libc::_exit(FORBIDDEN) }
        }
        body();
    });
    match nix::sys::wait::waitpid(child, None).unwrap() {
        nix::sys::wait::WaitStatus::Exited(_, 0) => {}
        nix::sys::wait::WaitStatus::Exited(_, FORBIDDEN) => {
            skip("mount namespaces are not permitted");
        }
        other => panic!("child {child} ended with {other:?}"),
    }
}

/// Lowers (or, up to the hard limit, raises) a resource limit of this process.
pub fn limit(resource: libc::__rlimit_resource_t, to: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable, then readable.
    unsafe {
        assert_eq!(libc::getrlimit(resource, &raw mut limit), 0);
        limit.rlim_cur = to.min(limit.rlim_max);
        assert_eq!(libc::setrlimit(resource, &raw const limit), 0);
    }
}

/// From now on the system call `number` fails with `errno` in this process when argument
/// `argument` has one of `bits` set.
pub fn deny(number: libc::c_long, argument: u32, bits: u32, errno: Errno) {
    let op = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    // struct seccomp_data: number, architecture, instruction pointer, six arguments of 64 bits.
    let low_half = 16 + 8 * argument + if cfg!(target_endian = "big") { 4 } else { 0 };
    let mut filter = [
        op(load, 0, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 3, number as u32),
        op(load, 0, 0, low_half),
        op(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 1, bits),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: plain numbers, then a filter program that lives through the call.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program), 0);
    }
}
