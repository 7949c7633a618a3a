//! An opener that is stopped between finding a ring's file and having its place in it, while the name
//! goes to another ring: it opens the other one, not the one that nobody finds any more.

mod support;

use madang::ring::{Options, Ring};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use support::face::NOWAIT;
use support::process::{Child, fork, join, skip};
use support::ring_face::{C, CREATE, Face, Named, SECOND};

on_both_faces! { Ring, C in turn:
    the_name_is_looked_at_again
}

/// A system call that has begun, or ended, in a traced child.
fn at_call(child: &Child) -> Option<(u64, [u64; 6])> {
    // SAFETY: a struct of integers.
    let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
    let (size, at) = (size_of_val(&info), &raw mut info);
    // SAFETY: the child is ours, traced and stopped; the kernel writes `size` bytes at most.
    let got =
        unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, child.pid().as_raw(), size, at) };
    assert!(got > 0, "{}", nix::errno::Errno::last());
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return None;
    }
    // SAFETY: the kernel says that this is the member.
    let entry = unsafe { info.u.entry };
    Some((entry.nr, entry.args))
}

/// A request without memory; for one that lets the child go on, without a signal.
fn trace(child: &Child, request: libc::c_uint, data: libc::c_int) {
    // SAFETY: the child is ours, traced and stopped; no pointers.
    let result = unsafe { libc::ptrace(request, child.pid().as_raw(), 0, data) };
    assert_eq!(result, 0, "{}", nix::errno::Errno::last());
}

fn the_name_is_looked_at_again<F: Face>() {
    let name = Named::new("stopped");
    let open = |oflag| F::open(Some(&name.0), &Options::new(4, 8), oflag, 0o600).unwrap();
    let first = open(CREATE);
    let child = fork(|| {
        // SAFETY: no pointers.
        let traced = unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
        if traced != 0 {
            support::process::leave(77);
        }
        nix::sys::signal::raise(Signal::SIGSTOP).unwrap();
        open(libc::O_WRONLY).push(&7_u64.to_ne_bytes(), NOWAIT).unwrap();
    });
    match waitpid(child.pid(), None).unwrap() {
        WaitStatus::Stopped(..) => {}
        _ => return skip("no process may be traced here"),
    }
    trace(&child, libc::PTRACE_SETOPTIONS, libc::PTRACE_O_TRACESYSGOOD);
    // Up to its first lock: it has found the file and takes its place in it.
    loop {
        trace(&child, libc::PTRACE_SYSCALL, 0);
        let status = waitpid(child.pid(), None).unwrap();
        assert!(matches!(status, WaitStatus::PtraceSyscall(_)), "{status:?}");
        match at_call(&child) {
            Some((call, args))
                if call == libc::SYS_fcntl as u64 && args[1] == libc::F_OFD_SETLK as u64 =>
            {
                break;
            }
            _ => {}
        }
    }
    F::unlink(&name.0).unwrap();
    let second = open(CREATE);
    trace(&child, libc::PTRACE_DETACH, 0);
    let mut item = [0; 8];
    second.pop(&mut item, 10 * SECOND).unwrap();
    assert_eq!(u64::from_ne_bytes(item), 7);
    join(child);
    assert_eq!((first.stat().written, second.stat().written), (0, 1));
}
