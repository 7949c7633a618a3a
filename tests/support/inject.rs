//! System calls of one thread, seen and answered one by one (seccomp user notification): which of
//! them a piece of code makes, and what it does when one of them fails.
//!
//! For forked children: the filter stays until its thread ends, and a thread of the child runs the
//! code, while the one that was forked answers for the kernel.

use std::ffi::{c_int, c_long};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;

/// A system call that is about to be made.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    pub number: c_long,
    pub args: [u64; 6],
}

/// While set, calls are shown to the watcher; else they are just made.
static ARMED: AtomicBool = AtomicBool::new(false);

/// From now on the calls of the watched thread are shown.
pub fn arm() {
    ARMED.store(true, Ordering::SeqCst);
}

/// From now on they are not.
pub fn disarm() {
    ARMED.store(false, Ordering::SeqCst);
}

/// Runs `body` in a thread of its own. Each of the system calls `numbers` that it makes while armed
/// is shown to `answer`, which has it fail, or lets it be made (`None`). `None` if the kernel does not
/// offer this.
pub fn watched<T: Send>(
    numbers: &[c_long],
    mut answer: impl FnMut(&Call) -> Option<Errno>,
    body: impl FnOnce() -> T + Send,
) -> Option<T> {
    const NONE: c_int = -1;
    const REFUSED: c_int = -2;
    let listener = AtomicI32::new(NONE);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // The allocator's memory for this thread is there before anything can fail.
            drop(std::hint::black_box(vec![1_u8; 10_000]));
            let fd = install(numbers);
            listener.store(fd.unwrap_or(REFUSED), Ordering::SeqCst);
            fd.is_some().then(body)
        });
        let fd = loop {
            match listener.load(Ordering::SeqCst) {
                NONE => std::thread::yield_now(),
                REFUSED => break None,
                // SAFETY: a new descriptor, which nobody else closes.
                fd => break Some(unsafe { OwnedFd::from_raw_fd(fd) }),
            }
        };
        if let Some(fd) = fd {
            while serve(&fd, &mut answer) {}
        }
        match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Gives this thread the filter; the descriptor at which its calls are announced.
fn install(numbers: &[c_long]) -> Option<c_int> {
    let step = |code: u32, jt, k| libc::sock_filter { code: code as u16, jt, jf: 0, k };
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let ret = libc::BPF_RET | libc::BPF_K;
    // The number lies at the beginning of struct seccomp_data.
    let mut filter = vec![step(load, 0, 0)];
    for (i, &number) in numbers.iter().enumerate() {
        filter.push(step(equal, (numbers.len() - i) as u8, number as u32));
    }
    filter.push(step(ret, 0, libc::SECCOMP_RET_ALLOW));
    filter.push(step(ret, 0, libc::SECCOMP_RET_USER_NOTIF));
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
    // SAFETY: plain numbers, then a filter program that lives through the call.
    let fd = unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program)
    };
    (fd >= 0).then_some(fd as c_int)
}

/// Answers one call; `false` once the thread has ended.
fn serve(listener: &OwnedFd, answer: &mut impl FnMut(&Call) -> Option<Errno>) -> bool {
    let mut news = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    match poll(&mut news, PollTimeout::NONE) {
        Err(Errno::EINTR) => return true,
        other => assert_eq!(other, Ok(1)),
    }
    if !news[0].revents().unwrap().contains(PollFlags::POLLIN) {
        return false;
    }
    // SAFETY: structures of integers.
    let (mut call, mut reply): (libc::seccomp_notif, libc::seccomp_notif_resp) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    let fd = listener.as_raw_fd();
    // SAFETY: the kernel fills in the structure that this request is for.
    if unsafe { libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut call) } != 0 {
        return true;
    }
    let seen = Call { number: call.data.nr.into(), args: call.data.args };
    reply.id = call.id;
    match ARMED.load(Ordering::SeqCst).then(|| answer(&seen)).flatten() {
        Some(errno) => reply.error = -(errno as i32),
        None => reply.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
    }
    // SAFETY: as above. It fails if a signal has ended the call meanwhile: that one comes again.
    unsafe { libc::ioctl(fd, libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut reply) };
    true
}
