//! `madang/base.h`: version, words for errors, constants shared by all mechanisms.

use std::ffi::{c_char, c_int};

use super::guard::last_error;
use crate::error::words_with_nul;

/// Major version of these headers: differs when programs must be rebuilt.
pub const MDG_VERSION_MAJOR: u32 = 0;
/// Minor version of these headers: grows when something is added.
pub const MDG_VERSION_MINOR: u32 = 1;
/// Patch version of these headers: grows with every correction.
pub const MDG_VERSION_PATCH: u32 = 0;
/// Version of these headers in the form `mdg_version` returns: major * 65536 + minor * 256 + patch.
pub const MDG_VERSION: u32 = 0x00_01_00;

/// Timeout: never wait; the call answers -EAGAIN when it would have to.
pub const MDG_NOWAIT: i64 = 0;
/// Timeout: wait without limit. Any negative timeout means the same.
pub const MDG_FOREVER: i64 = 0 - 1;

/// Flag of calls that make descriptors: keep them open across execve(2). Without it every
/// descriptor is close-on-exec.
pub const MDG_INHERIT: u32 = 0x1;

/// Version of the library at run time: major * 65536 + minor * 256 + patch, comparable with
/// MDG_VERSION.
///
/// Thread-safe and async-signal-safe; cannot fail.
#[unsafe(no_mangle)]
pub extern "C" fn mdg_version() -> u32 {
    MDG_VERSION
}

/// Fixed English words for a result of any call of this library.
///
/// `result` is what the call returned: a negative errno, or 0 or more for "success". An unknown
/// code gives "unknown error", never NULL. The string is constant and lives as long as the
/// program. Thread-safe and async-signal-safe.
#[unsafe(no_mangle)]
pub extern "C" fn mdg_strerror(result: c_int) -> *const c_char {
    words_with_nul(result.min(0).checked_neg().unwrap_or(c_int::MAX)).as_ptr().cast()
}

/// This thread's last failure in full: which call, which object, what was found, what to do.
///
/// Never NULL: an empty string before the first failure. At most 1023 bytes. The expected answers
/// -EAGAIN, -ETIMEDOUT and -EINTR do not change it. The string belongs to the library and is valid
/// until this thread's next failing call, or the thread's end. Thread-safe (each thread has its
/// own); not async-signal-safe. A forked child inherits the text of the thread that forked.
#[unsafe(no_mangle)]
pub extern "C" fn mdg_last_error() -> *const c_char {
    last_error()
}
