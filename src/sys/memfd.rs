//! memfd_create(2) by its number: glibc has a function for it since 2.27 only.

use std::ffi::CStr;
use std::os::fd::{FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::memfd::MFdFlags;

/// A new file in memory alone; the label is for /proc.
pub(crate) fn memfd_create(label: &CStr, flags: MFdFlags) -> nix::Result<OwnedFd> {
    // SAFETY: the label is a string that outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_memfd_create, label.as_ptr(), flags.bits()) };
    let file = Errno::result(result)? as libc::c_int;
    // SAFETY: a descriptor that the call has just made.
    Ok(unsafe { OwnedFd::from_raw_fd(file) })
}
