//! Every system call that can fail for want of something, or by a rule of the machine, fails in its
//! turn, with each of the codes that it has for that, under every call of ours that takes something
//! from the system. Our call says so, or goes on without; it leaves no descriptor, no mapping and
//! nothing half-made; and when it is made again, all works.

mod support;

#[path = "support/cases/mod.rs"]
mod cases;

use std::ffi::{c_int, c_long};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use cases::{Bounds, Case};
use nix::errno::Errno;
use nix::sys::wait::WaitStatus;
use support::inject::{Call, arm, disarm, watched};
use support::process::{fork, leave, serial, shared_words, skip};

/// Which argument, and whether it is the one meant.
type Argument = (usize, fn(u64) -> bool);

/// A kind of system call, told by its number and, where that is not enough, an argument; and what it
/// may fail with.
struct Kind {
    name: &'static str,
    number: c_long,
    which: Option<Argument>,
    errnos: &'static [Errno],
}

const fn any(name: &'static str, number: c_long, errnos: &'static [Errno]) -> Kind {
    Kind { name, number, which: None, errnos }
}

const fn only(
    name: &'static str,
    number: c_long,
    which: Argument,
    errnos: &'static [Errno],
) -> Kind {
    Kind { name, number, which: Some(which), errnos }
}

const KINDS: &[Kind] = {
    use Errno::*;
    &[
        only(
            "open a new file",
            libc::SYS_openat,
            (2, makes),
            &[EMFILE, ENFILE, ENOMEM, ENOSPC, EDQUOT, EROFS, EOPNOTSUPP],
        ),
        any("open", libc::SYS_openat, &[EMFILE, ENFILE, ENOMEM]),
        any("memfd_create", libc::SYS_memfd_create, &[EMFILE, ENFILE, ENOMEM, ENOSYS, EPERM]),
        any("mmap", libc::SYS_mmap, &[ENOMEM]),
        any("mremap", libc::SYS_mremap, &[ENOMEM]),
        any("madvise", libc::SYS_madvise, &[ENOMEM, EAGAIN]),
        only("dup", libc::SYS_fcntl, (1, duplicates), &[EMFILE]),
        only("lock", libc::SYS_fcntl, (1, locks), &[ENOLCK]),
        only("ask for a lock", libc::SYS_fcntl, (1, asks), &[ENOMEM]),
        only("seal", libc::SYS_fcntl, (1, seals), &[EPERM, EINVAL]),
        any("fallocate", libc::SYS_fallocate, &[ENOSPC, EINTR, EOPNOTSUPP, ENOMEM]),
        any("ftruncate", libc::SYS_ftruncate, &[ENOSPC, EINTR]),
        any("fchmod", libc::SYS_fchmod, &[EPERM]),
        any("linkat", libc::SYS_linkat, &[ENOSPC, ENOMEM, EDQUOT, EPERM]),
        any("unlinkat", libc::SYS_unlinkat, &[ENOMEM]),
        any("unlink", UNLINK, &[ENOMEM]),
        any("mknodat", libc::SYS_mknodat, &[ENOSPC, ENOMEM, EDQUOT]),
        only("stat", libc::SYS_newfstatat, (3, has_a_path), &[ENOMEM]),
        only("statx", libc::SYS_statx, (2, has_a_path), &[ENOMEM, ENOSYS]),
        any("fstatfs", libc::SYS_fstatfs, &[ENOMEM, ENOSYS]),
        any("read", libc::SYS_read, &[EINTR]),
        any("pread", libc::SYS_pread64, &[EINTR, EIO]),
        any("preadv2", libc::SYS_preadv2, &[ENOSYS, EPERM, EOPNOTSUPP, EINTR]),
        any("pwritev2", libc::SYS_pwritev2, &[ENOSYS, EPERM, EOPNOTSUPP, EINTR]),
        any("pwrite", libc::SYS_pwrite64, &[EINTR, ENOSPC, EIO]),
        any("membarrier", libc::SYS_membarrier, &[ENOSYS, EPERM, EINVAL]),
        any("pipe2", libc::SYS_pipe2, &[EMFILE, ENFILE]),
        any("inotify_init1", libc::SYS_inotify_init1, &[EMFILE, ENFILE, ENOMEM]),
        any("inotify_add_watch", libc::SYS_inotify_add_watch, &[ENOSPC, ENOMEM]),
        any("tee", libc::SYS_tee, &[ENOMEM]),
        any("flock", libc::SYS_flock, &[ENOLCK]),
        any("sendmsg", libc::SYS_sendmsg, &[ENOMEM, EINTR]),
        any("recvmsg", libc::SYS_recvmsg, &[ENOMEM, EINTR]),
        any("getsockopt", libc::SYS_getsockopt, &[ENOMEM]),
    ]
};

/// What unlink(2) is made of where there is no such call.
#[cfg(target_arch = "x86_64")]
const UNLINK: c_long = libc::SYS_unlink;
#[cfg(not(target_arch = "x86_64"))]
const UNLINK: c_long = libc::SYS_unlinkat;

fn makes(flags: u64) -> bool {
    let unnamed = libc::O_TMPFILE & !libc::O_DIRECTORY;
    flags & (libc::O_CREAT | unnamed) as u64 != 0
}

/// A descriptor alone can always be asked.
fn has_a_path(flags: u64) -> bool {
    flags & libc::AT_EMPTY_PATH as u64 == 0
}

fn duplicates(command: u64) -> bool {
    command as c_int == libc::F_DUPFD_CLOEXEC
}

fn locks(command: u64) -> bool {
    [libc::F_OFD_SETLK, libc::F_SETLK].contains(&(command as c_int))
}

fn asks(command: u64) -> bool {
    [libc::F_OFD_GETLK, libc::F_GETLK].contains(&(command as c_int))
}

fn seals(command: u64) -> bool {
    command as c_int == libc::F_ADD_SEALS
}

/// The number of the kind, in the table.
fn kind_of(call: &Call) -> Option<usize> {
    let is = |kind: &Kind| {
        kind.number == call.number
            && kind.which.is_none_or(|(argument, meant)| meant(call.args[argument]))
    };
    KINDS.iter().position(is)
}

/// What our calls make of the kernel's words.
fn in_our_words(errno: Errno) -> c_int {
    match errno {
        Errno::EPERM => libc::EACCES,
        Errno::ENOLCK | Errno::EAGAIN => libc::ENOMEM,
        Errno::EDQUOT => libc::ENOSPC,
        other => other as c_int,
    }
}

/// Runs `case` in a child; the `nth` call of the table fails with `errno`. What it answered, and
/// which calls it made, in order; `None` if the child failed.
fn run(case: &Case, fault: Option<(usize, Errno)>) -> Option<(c_int, Vec<usize>)> {
    const FORBIDDEN: c_int = 77;
    static WORDS: OnceLock<&[AtomicU64]> = OnceLock::new();
    let words = WORDS.get_or_init(|| shared_words(500));
    words[1].store(0, Ordering::Relaxed);
    let child = fork(|| {
        let mut numbers: Vec<_> = KINDS.iter().map(|kind| kind.number).collect();
        numbers.dedup();
        let mut calls = 0;
        let answer = |call: &Call| {
            let kind = kind_of(call)?;
            words[2 + calls].store(kind as u64, Ordering::Relaxed);
            calls += 1;
            words[1].store(calls as u64, Ordering::Relaxed);
            fault.filter(|(nth, _)| nth + 1 == calls).map(|(_, errno)| errno)
        };
        let code = watched(&numbers, answer, || case.run(&Bounds { before: &arm, after: &disarm }));
        let Some(code) = code else { leave(FORBIDDEN) };
        words[0].store(code as u64, Ordering::Relaxed);
    });
    match child.end() {
        WaitStatus::Exited(_, 0) => {}
        WaitStatus::Exited(_, FORBIDDEN) => {
            skip("no seccomp listener may be installed here");
            return Some((0, Vec::new()));
        }
        _ => return None,
    }
    let word = |at: usize| words[at].load(Ordering::Relaxed) as usize;
    Some((word(0) as c_int, (0..word(1)).map(|at| word(2 + at)).collect()))
}

/// Every call fails in its turn.
fn each_fails(cases: Vec<Case>) {
    let _turn = serial();
    let mut wrong = Vec::new();
    for case in cases {
        let (code, calls) = run(&case, None).expect("nothing fails");
        assert!(code == 0 || case.answers.contains(&code), "{}: {code}", case.what);
        let mut survived = 0;
        let mut faults = 0;
        for (nth, &kind) in calls.iter().enumerate() {
            for &errno in KINDS[kind].errnos {
                faults += 1;
                let fault = format!("{}: call {nth}, {}, {errno:?}", case.what, KINDS[kind].name);
                match run(&case, Some((nth, errno))) {
                    None => wrong.push(format!("{fault}: see above")),
                    Some((code, _)) if code == 0 || case.answers.contains(&code) => survived += 1,
                    Some((code, _)) if code == in_our_words(errno) => {}
                    // Nobody is taken for dead for want of an answer.
                    Some((libc::EBUSY, _)) if KINDS[kind].number == libc::SYS_fcntl => {}
                    Some((code, _)) => {
                        let code = Errno::from_raw(code);
                        wrong.push(format!("{fault}: answered {code:?}"));
                    }
                }
            }
        }
        eprintln!("{}: {} calls, {faults} faults, {survived} made good", case.what, calls.len());
    }
    assert!(wrong.is_empty(), "{} faults:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn rings() {
    each_fails(cases::rings());
}

#[test]
fn segments() {
    each_fails(cases::segments());
}

#[test]
fn semaphores() {
    each_fails(cases::semaphores());
}

#[test]
fn mutexes() {
    each_fails(cases::mutexes());
}

#[test]
fn pipes() {
    each_fails(cases::pipes());
}

#[test]
fn descriptors() {
    each_fails(cases::descriptors());
}
