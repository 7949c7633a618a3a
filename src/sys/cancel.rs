//! Thread cancellation: libc's blocking calls are cancellation points, and unwinding a cancelled
//! thread through Rust frames would abort the program. No wait of ours is one.

use std::ffi::c_int;
use std::ptr;

const PTHREAD_CANCEL_DISABLE: c_int = 1;

unsafe extern "C" {
    // POSIX.1-2017, pthread_setcancelstate(): Rust's libc crate does not declare it for glibc.
    fn pthread_setcancelstate(state: c_int, old: *mut c_int) -> c_int;
}

/// Runs a blocking call with this thread's cancellation disabled.
pub(crate) fn without<T>(call: impl FnOnce() -> T) -> T {
    struct Restore(c_int);
    impl Drop for Restore {
        fn drop(&mut self) {
            // SAFETY: `self.0` is the state that the call below reported; NULL is allowed.
            unsafe { pthread_setcancelstate(self.0, ptr::null_mut()) };
        }
    }
    let mut old = 0;
    // SAFETY: `old` is writable; the call cannot fail for a valid state.
    unsafe { pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &raw mut old) };
    let _restore = Restore(old);
    call()
}
