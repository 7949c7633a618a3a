//! Children that live in a smaller world: system calls that fail, a small /dev/shm of their own,
//! fewer descriptors, less memory. All of it is for forked children: there is no way back.

use std::ffi::CStr;

use libc::c_long;
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::wait::WaitStatus;

use super::process::{fork, leave, skip};

/// From now on the system call `number` fails with `errno` in this process.
pub fn deny(number: c_long, errno: Errno) {
    deny_if(number, None, errno);
}

/// From now on the system call `number` fails with `errno` in this process when argument
/// `argument` has one of `bits` set.
pub fn deny_bits(number: c_long, argument: u32, bits: u32, errno: Errno) {
    deny_if(number, Some((argument, bits)), errno);
}

fn deny_if(number: c_long, bits: Option<(u32, u32)>, errno: Errno) {
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let any_bit = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
    let ret = libc::BPF_RET | libc::BPF_K;
    let other_call = if bits.is_some() { 3 } else { 1 };
    let mut filter = vec![step(load, 0, 0, 0), step(equal, 0, other_call, number as u32)];
    if let Some((argument, bits)) = bits {
        // struct seccomp_data: number, architecture, instruction pointer, six arguments of 64 bits.
        let low_half = 16 + 8 * argument + if cfg!(target_endian = "big") { 4 } else { 0 };
        filter.extend([step(load, 0, 0, low_half), step(any_bit, 0, 1, bits)]);
    }
    filter.push(step(ret, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32));
    filter.push(step(ret, 0, 0, libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: plain numbers, then a filter program that lives through the call.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program), 0);
    }
}

/// Makes this process's preadv2 and pwritev2 answer ENOSYS, as before Linux 4.6.
pub fn deny_new_calls() {
    let iov = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
    for call in [libc::SYS_preadv2, libc::SYS_pwritev2] {
        deny(call, Errno::ENOSYS);
        // SAFETY: one empty buffer.
        assert_eq!(unsafe { libc::syscall(call, 1, &raw const iov, 1, -1_i64, -1_i64, 0) }, -1);
        assert_eq!(Errno::last(), Errno::ENOSYS);
    }
}

/// From now on any system call but read, write and `leave_strict`'s kills this process.
pub fn deny_all() {
    // SAFETY: no pointer is involved.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT, 0, 0, 0) };
    assert_eq!(result, 0, "seccomp strict mode");
}

/// Ends a process that called `deny_all`: exit(2), not exit_group(2).
pub fn leave_strict() -> ! {
    // SAFETY: exit(2) ends this thread, the process's only one.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!()
}

/// Runs `body` in a child whose /dev/shm is a file system of its own with these mount options.
pub fn with_own_shm(options: &CStr, body: impl FnOnce()) {
    const FORBIDDEN: i32 = 77;
    let child = fork(|| {
        let (none, private) = (None::<&CStr>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
        let ready = unshare(CloneFlags::CLONE_NEWNS)
            .and_then(|()| mount(none, c"/", none, private, none))
            .and_then(|()| {
                let kind = Some(c"tmpfs");
                mount(kind, c"/dev/shm", kind, MsFlags::empty(), Some(options))
            });
        if ready.is_err() {
            leave(FORBIDDEN);
        }
        body();
    });
    match child.end() {
        WaitStatus::Exited(_, 0) => {}
        WaitStatus::Exited(_, FORBIDDEN) => skip("mount namespaces are not permitted"),
        other => panic!("child ended with {other:?}"),
    }
}

/// Lowers (or, up to the hard limit, raises) a resource limit of this process.
pub fn limit(resource: Resource, to: u64) {
    let (_, most) = getrlimit(resource).unwrap();
    setrlimit(resource, to.min(most), most).unwrap();
}
