//! The way out to C: results become return values, panics become an error code, errno is set last.

use std::cell::{Cell, UnsafeCell};
use std::ffi::{CStr, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;

use crate::error::{Error, Result, TEXT_MAX};
use crate::sys::cancel;

/// Room for the text that `mdg_last_error` returns, with its NUL.
const ROOM: usize = TEXT_MAX + 1;

thread_local! {
    // Constant initialisation and no destructor: usable at any time in a thread's life.
    static LAST_ERROR: UnsafeCell<[u8; ROOM]> = const { UnsafeCell::new([0; ROOM]) };
    // The code of the last failure if it was an expected answer, else 0.
    static EXPECTED: Cell<i32> = const { Cell::new(0) };
}

/// Whether any thread has had a failure that [`would_block`] did not answer: only then has that anything
/// to replace. Thread-local storage costs the empty pop of a shared library a third of its time.
static FAILED: AtomicBool = AtomicBool::new(false);

/// This thread's last failure in words; an empty string before the first.
pub(super) fn last_error() -> *const c_char {
    let errno = Errno::last_raw();
    let code = EXPECTED.try_with(Cell::get).unwrap_or(0);
    if let Some(text) = expected(code) {
        return text.as_ptr();
    }
    let text: *const c_char =
        LAST_ERROR.try_with(|text| text.get().cast_const().cast()).unwrap_or(c"".as_ptr());
    // SAFETY: NUL-terminated, and this thread's own.
    let none = unsafe { *text } == 0;
    match expected(errno) {
        // Nothing else has failed in this thread, and nothing in the process when this was answered.
        Some(blocked) if none && errno == libc::EAGAIN => blocked.as_ptr(),
        _ => text,
    }
}

/// What `mdg_last_error` says after an expected answer, which carries no text of its own.
const fn expected(errno: i32) -> Option<&'static CStr> {
    Some(match errno {
        libc::EAGAIN => {
            c"the call would have to wait, which its timeout or the ring's policy forbids"
        }
        libc::ETIMEDOUT => c"the time for which the call may wait is over",
        libc::EINTR => c"a signal was caught, or mdg_interrupt called, while the call waited",
        _ => return None,
    })
}

/// Keeps the text of `error` for `mdg_last_error`; of an expected answer its code, which is a store.
fn remember(error: &Error) {
    let text = error.with_text(|text| {
        let _ = LAST_ERROR.try_with(|last| {
            // SAFETY: the cell belongs to this thread and no reference to its contents is ever kept.
            let last = unsafe { &mut *last.get() };
            last[..text.len()].copy_from_slice(text.as_bytes());
            last[text.len()] = 0;
        });
    });
    let _ = EXPECTED.try_with(|code| code.set(if text.is_some() { 0 } else { error.errno() }));
    // Relaxed: it matters to this thread; others have stored it themselves.
    FAILED.store(true, Ordering::Relaxed);
}

#[cold]
#[inline(never)]
extern "C" fn remember_blocked() {
    let _ = EXPECTED.try_with(|code| code.set(libc::EAGAIN));
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

impl Answer for i64 {
    fn failure(errno: i32) -> Self {
        -i64::from(errno)
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

/// The answer of a call that would have to wait and may not.
#[inline(always)]
pub(super) fn would_block<A: Answer>() -> A {
    if FAILED.load(Ordering::Relaxed) {
        remember_blocked();
    }
    Errno::EAGAIN.set();
    A::failure(Errno::EAGAIN as i32)
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

#[cfg(test)]
mod tests {
    use super::super::args::{self, Opaque};
    use super::*;

    struct Toy;

    impl Opaque for Toy {
        type Inner = u32;
        const TAG: u64 = 0x746f79;
        const NAME: &'static str = "toy";
    }

    #[test]
    fn a_panic_becomes_a_code_and_poisons_the_handle() {
        let mut toy: *mut Toy = std::ptr::null_mut();
        // SAFETY: a place for a handle.
        unsafe { args::blank(&raw mut toy, "toy").unwrap().give(7) };
        // SAFETY: a handle made here, live until it is closed below.
        assert_eq!(unsafe { args::handle(toy.cast_const()) }, Ok(&7));
        let answer: c_int = guard_or(
            // SAFETY: see above.
            || unsafe { args::poison(toy) },
            || panic!("on purpose: the message that follows is this test's"),
        );
        assert_eq!((answer, Errno::last()), (-libc::ENOTRECOVERABLE, Errno::ENOTRECOVERABLE));
        // SAFETY: last_error returns a C string of this thread.
        let text = unsafe { std::ffi::CStr::from_ptr(last_error()) };
        assert!(text.to_str().unwrap().contains("panic"));
        // SAFETY: see above.
        let refused = unsafe { args::handle(toy.cast_const()) }.unwrap_err();
        assert_eq!(refused.errno(), libc::ENOTRECOVERABLE);
        // SAFETY: see above; closing is all that a poisoned handle takes.
        unsafe { args::close(toy) };
    }

    #[test]
    fn success_leaves_errno_alone_and_failure_sets_it_last() {
        Errno::ENOTTY.set();
        let answer: c_int = guard(|| {
            Errno::EBADF.set();
            Ok(3)
        });
        assert_eq!((answer, Errno::last()), (3, Errno::ENOTTY));
        let answer: isize = guard(|| Err(Error::would_block()));
        assert_eq!((answer, Errno::last()), (-(libc::EAGAIN as isize), Errno::EAGAIN));
        guard_void(|| Errno::EBADF.set());
        assert_eq!(Errno::last(), Errno::EAGAIN);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let _: c_int = guard(|| Err(Error::new(Errno::EINVAL, "\u{b9c8}".repeat(500))));
        // SAFETY: last_error returns a C string of this thread.
        let text = unsafe { std::ffi::CStr::from_ptr(last_error()) };
        assert_eq!(text.to_str().unwrap().chars().count(), TEXT_MAX / 3);
    }
}
