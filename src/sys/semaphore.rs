//! The C library's own process-shared semaphores: `sem_t` and the calls on it.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::time::Duration;

use nix::errno::Errno;

use super::cancel;

/// Bytes of the C library's `sem_t`, which is also what `sem_open` keeps in its file.
pub(crate) const SIZE: usize = size_of::<libc::sem_t>();
/// Alignment of `sem_t`.
pub(crate) const ALIGN: usize = align_of::<libc::sem_t>();

/// POSIX.1-2024, sem_clockwait().
#[cfg(target_env = "gnu")]
type ClockWait =
    unsafe extern "C" fn(*mut libc::sem_t, libc::clockid_t, *const libc::timespec) -> libc::c_int;

// glibc has it since 2.30. A weak reference, which the loader leaves null where there is none: a
// library that was built with a newer glibc runs with an older one. (A program that is linked
// statically has it only if it calls it itself.)
#[cfg(target_env = "gnu")]
std::arch::global_asm!(
    ".weak sem_clockwait",
    ".pushsection .data.rel.ro.madang_sem_clockwait, \"aw\", %progbits",
    ".balign 8",
    ".hidden madang_sem_clockwait",
    ".globl madang_sem_clockwait",
    "madang_sem_clockwait:",
    ".8byte sem_clockwait",
    ".size madang_sem_clockwait, 8",
    ".popsection",
);

#[cfg(target_env = "gnu")]
unsafe extern "C" {
    /// Written by the loader, before anything else runs.
    #[link_name = "madang_sem_clockwait"]
    static CLOCK_WAIT: Option<ClockWait>;
}

/// A `sem_t` somewhere in shared memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sem<'a>(NonNull<libc::sem_t>, PhantomData<&'a libc::sem_t>);

// SAFETY: POSIX: every call below may be made by any thread on the same semaphore at once.
unsafe impl Send for Sem<'_> {}
// SAFETY: as above.
unsafe impl Sync for Sem<'_> {}

/// Memory full of `fill` after this C library's `sem_init` made a process-shared semaphore of value
/// 0 in it. It does not write every byte.
pub(crate) fn image(fill: u8) -> nix::Result<[u8; SIZE]> {
    let mut sem = MaybeUninit::<libc::sem_t>::uninit();
    // SAFETY: `sem` is writable and aligned; all of its bytes are initialised before, so reading
    // them after is defined.
    unsafe {
        sem.as_mut_ptr().cast::<u8>().write_bytes(fill, SIZE);
        Errno::result(libc::sem_init(sem.as_mut_ptr(), 1, 0))?;
        Ok(ptr::read(sem.as_ptr().cast()))
    }
}

impl Sem<'_> {
    /// A semaphore at `at`.
    ///
    /// # Safety
    /// `at` is aligned, holds an initialised process-shared `sem_t`, and stays mapped and writable
    /// as long as the result or a copy of it is used.
    pub(crate) unsafe fn at(at: NonNull<u8>) -> Self {
        Self(at.cast(), PhantomData)
    }

    /// Makes a new semaphore at `at`.
    ///
    /// # Safety
    /// `at` is aligned for and large enough for a `sem_t`, writable, and no semaphore in use.
    pub(crate) unsafe fn init(at: NonNull<u8>, value: u32) -> nix::Result<Self> {
        let sem = at.cast::<libc::sem_t>();
        // SAFETY: passed on to the caller.
        Errno::result(unsafe { libc::sem_init(sem.as_ptr(), 1, value) })?;
        Ok(Self(sem, PhantomData))
    }

    /// Takes a permit if there is one; `EAGAIN` if not.
    pub(crate) fn try_wait(self) -> nix::Result<()> {
        // SAFETY: a live semaphore since `at` or `init`.
        Errno::result(unsafe { libc::sem_trywait(self.0.as_ptr()) }).map(drop)
    }

    /// Waits for a permit until `until` on the monotonic clock. `EINTR` after any caught signal:
    /// a timed wait is not restarted, whatever SA_RESTART says.
    pub(crate) fn wait_until(self, until: Duration) -> nix::Result<()> {
        cancel::without(|| self.timed_wait(until))
    }

    fn timed_wait(self, until: Duration) -> nix::Result<()> {
        // SAFETY: never written after the library was loaded.
        #[cfg(target_env = "gnu")]
        if let Some(sem_clockwait) = unsafe { CLOCK_WAIT } {
            let until = timespec(until);
            // SAFETY: a live semaphore since `at` or `init`; `until` is readable.
            let result =
                unsafe { sem_clockwait(self.0.as_ptr(), libc::CLOCK_MONOTONIC, &raw const until) };
            return Errno::result(result).map(drop);
        }
        self.wait_in_slices(until)
    }

    /// Without `sem_clockwait`: short slices of wall-clock time, measured on the monotonic clock,
    /// so that a step of the wall clock costs one slice at most.
    fn wait_in_slices(self, until: Duration) -> nix::Result<()> {
        use nix::time::{ClockId, clock_gettime};
        const SLICE: Duration = Duration::from_millis(100);
        loop {
            let left = until.checked_sub(crate::time::now()).ok_or(Errno::ETIMEDOUT)?;
            let wall = Duration::from(clock_gettime(ClockId::CLOCK_REALTIME)?);
            let slice = timespec(wall + left.min(SLICE));
            // SAFETY: a live semaphore since `at` or `init`; `slice` is readable.
            let result = unsafe { libc::sem_timedwait(self.0.as_ptr(), &raw const slice) };
            match Errno::result(result) {
                Err(Errno::ETIMEDOUT) => {}
                other => return other.map(drop),
            }
        }
    }

    /// Gives a permit back; `EOVERFLOW` at the maximum, with the value kept.
    pub(crate) fn post(self) -> nix::Result<()> {
        // SAFETY: a live semaphore since `at` or `init`.
        Errno::result(unsafe { libc::sem_post(self.0.as_ptr()) }).map(drop)
    }

    /// Permits there are now.
    pub(crate) fn value(self) -> i32 {
        let mut value = 0;
        // SAFETY: a live semaphore since `at` or `init`; `value` is writable. Cannot fail.
        unsafe { libc::sem_getvalue(self.0.as_ptr(), &raw mut value) };
        value
    }
}

fn timespec(time: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: time.subsec_nanos().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::now;

    #[test]
    fn with_and_without_the_newest_call() {
        let mut memory = MaybeUninit::<libc::sem_t>::uninit();
        // SAFETY: writable, aligned memory that outlives the semaphore.
        let sem = unsafe { Sem::init(NonNull::from(&mut memory).cast(), 1) }.unwrap();
        for in_slices in [false, true] {
            let wait = |until| {
                if in_slices { sem.wait_in_slices(until) } else { sem.timed_wait(until) }
            };
            assert_eq!(wait(now() + Duration::from_secs(100)), Ok(()));
            let until = now() + Duration::from_millis(130);
            assert_eq!(wait(until), Err(Errno::ETIMEDOUT));
            assert!(now() >= until);
            assert_eq!(sem.post(), Ok(()));
        }
        // SAFETY: as above.
        #[cfg(target_env = "gnu")]
        assert!(unsafe { CLOCK_WAIT }.is_some(), "glibc 2.30 or later is what this is built with");
    }
}
