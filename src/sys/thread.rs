//! Threads by the kernel's number.

/// The calling thread. Async-signal-safe.
pub(crate) fn id() -> u32 {
    nix::unistd::gettid().as_raw().unsigned_abs()
}

/// Whether this process has the thread `id`. Async-signal-safe; changes errno.
pub(crate) fn exists(id: u32) -> bool {
    let process = std::process::id();
    // SAFETY: signal 0 is only checked for, never sent; no pointers.
    unsafe { libc::syscall(libc::SYS_tgkill, process, id, 0) == 0 }
}
