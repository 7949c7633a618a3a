//! The way out to C: results become return values, panics become an error code, errno is set last.

use std::cell::UnsafeCell;
use std::ffi::{c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::sys::cancel;

/// Longest text that `mdg_last_error` returns, with its NUL; longer ones are cut.
const TEXT_MAX: usize = 1024;

thread_local! {
    // Constant initialisation and no destructor: usable at any time in a thread's life.
    static LAST_ERROR: UnsafeCell<[u8; TEXT_MAX]> = const { UnsafeCell::new([0; TEXT_MAX]) };
}

/// This thread's last failure in words; an empty string before the first.
pub(super) fn last_error() -> *const c_char {
    LAST_ERROR.try_with(|text| text.get().cast_const().cast()).unwrap_or(c"".as_ptr())
}

/// Keeps the text of `error` for `mdg_last_error`; expected answers carry none and change nothing.
fn remember(error: &Error) {
    let text = error.text();
    if text.is_empty() {
        return;
    }
    let mut end = text.len().min(TEXT_MAX - 1);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let _ = LAST_ERROR.try_with(|last| {
        // SAFETY: the cell belongs to this thread and no reference to its contents is ever kept.
        let last = unsafe { &mut *last.get() };
        last[..end].copy_from_slice(&text.as_bytes()[..end]);
        last[end] = 0;
    });
}

/// An integer type a C function may return: counts and zero, or a negative errno.
pub(super) trait Answer: Copy {
    /// The negative errno in this type.
    fn failure(errno: i32) -> Self;
}

impl Answer for c_int {
    fn failure(errno: i32) -> Self {
        -errno
    }
}

impl Answer for isize {
    fn failure(errno: i32) -> Self {
        -(errno as isize)
    }
}

#[cold]
#[inline(never)]
fn fail<A: Answer>(error: &Error) -> A {
    remember(error);
    // Last of all: dropping a descriptor on the way here may have changed errno.
    Errno::from_raw(error.errno()).set();
    A::failure(error.errno())
}

/// Runs one C entry. `poison` is called when it panicked, before the answer is given.
#[inline(always)]
pub(super) fn guard_or<A: Answer>(poison: impl FnOnce(), entry: impl FnOnce() -> Result<A>) -> A {
    match catch_unwind(AssertUnwindSafe(entry)) {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => fail(&error),
        Err(_) => {
            poison();
            fail(&Error::new(
                Errno::ENOTRECOVERABLE,
                "internal error (a panic was caught); the handle can only be closed",
            ))
        }
    }
}

/// What an entry does, with errno left alone when it succeeds.
#[inline(always)]
pub(super) fn keeping_errno<T>(entry: impl FnOnce() -> Result<T>) -> Result<T> {
    let before = Errno::last_raw();
    let result = entry();
    if result.is_ok() {
        Errno::set_raw(before);
    }
    result
}

/// Runs one C entry off the fast path. The C library's calls that it may lead to are cancellation
/// points, and change errno on the way to success. (The entries that [`guard_or`] runs take care of
/// both where they leave their fast path.)
pub(super) fn guard<A: Answer>(entry: impl FnOnce() -> Result<A>) -> A {
    cancel::without(|| guard_or(|| {}, || keeping_errno(entry)))
}

/// Runs one C entry that returns nothing: close functions.
pub(super) fn guard_void(entry: impl FnOnce()) {
    let before = Errno::last();
    let _ = cancel::without(|| catch_unwind(AssertUnwindSafe(entry)));
    before.set();
}
