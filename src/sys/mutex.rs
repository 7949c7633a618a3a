//! The C library's robust mutexes, shared between processes: `pthread_mutex_t` and the calls on it.

use std::cell::UnsafeCell;
use std::mem::MaybeUninit;
use std::ptr;

use nix::errno::Errno;

/// Bytes of the C library's `pthread_mutex_t`.
const SIZE: usize = size_of::<libc::pthread_mutex_t>();

/// A `pthread_mutex_t` in shared memory: robust, and checking for errors.
///
/// It may be anything until it was made here, or found to be one that was.
#[repr(transparent)]
pub(crate) struct RobustMutex(UnsafeCell<libc::pthread_mutex_t>);

// SAFETY: POSIX: the calls below may be made by any thread on the same mutex at once.
unsafe impl Sync for RobustMutex {}

impl std::fmt::Debug for RobustMutex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RobustMutex")
    }
}

/// What taking a mutex came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It is this thread's.
    Clean,
    /// It is this thread's, and what it protects may be half-done: the holder before died.
    OwnerDied,
    /// Another thread has it.
    Busy,
}

/// The pthread calls return their code.
fn code(result: libc::c_int) -> nix::Result<()> {
    if result == 0 { Ok(()) } else { Err(Errno::from_raw(result)) }
}

/// Makes a mutex in `memory`.
///
/// # Safety
/// `memory` is aligned and writable for a mutex.
unsafe fn make(memory: *mut libc::pthread_mutex_t) -> nix::Result<()> {
    let mut attributes = MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
    let attributes = attributes.as_mut_ptr();
    // SAFETY: initialised by the first call, used by the next, destroyed by the last; `memory` is
    // the caller's promise.
    unsafe {
        code(libc::pthread_mutexattr_init(attributes))?;
        let made =
            code(libc::pthread_mutexattr_setpshared(attributes, libc::PTHREAD_PROCESS_SHARED))
                .and_then(|()| {
                    let robust = libc::PTHREAD_MUTEX_ROBUST;
                    code(libc::pthread_mutexattr_setrobust(attributes, robust))
                })
                .and_then(|()| {
                    let checking = libc::PTHREAD_MUTEX_ERRORCHECK;
                    code(libc::pthread_mutexattr_settype(attributes, checking))
                })
                .and_then(|()| code(libc::pthread_mutex_init(memory, attributes)));
        libc::pthread_mutexattr_destroy(attributes);
        made
    }
}

fn is_image(here: &[u8; SIZE]) -> bool {
    let mut fresh = MaybeUninit::<libc::pthread_mutex_t>::zeroed();
    // SAFETY: writable memory of our own, all of whose bytes are initialised.
    unsafe {
        if make(fresh.as_mut_ptr()).is_err() {
            return false;
        }
        let fresh: [u8; SIZE] = ptr::read(fresh.as_ptr().cast());
        fresh.iter().zip(here).all(|(&fresh, &here)| fresh == 0 || fresh == here)
    }
}

/// Who has a mutex, as its bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// It is free.
    Nobody,
    /// This thread, as it sees itself.
    Thread(u32),
    /// One that died.
    Dead,
}

/// Who has the mutex that begins with these bytes; `None` if they cannot be one.
///
/// The word that the kernel marks when a holder dies is its interface with the C library; where in
/// the mutex it lies is the C library's: first in glibc, second in musl.
pub(crate) fn owner(bytes: &[u8]) -> Option<Owner> {
    const WORD: usize = if cfg!(target_env = "musl") { 4 } else { 0 };
    const TID: u32 = 0x3fff_ffff;
    const DIED: u32 = 0x4000_0000;
    let image: &[u8; SIZE] = bytes.first_chunk()?;
    let word = u32::from_ne_bytes([image[WORD], image[WORD + 1], image[WORD + 2], image[WORD + 3]]);
    is_image(image).then_some(match word & (TID | DIED) {
        0 => Owner::Nobody,
        thread if thread & DIED == 0 => Owner::Thread(thread),
        _ => Owner::Dead,
    })
}

impl RobustMutex {
    /// Makes a mutex here, where none is in use.
    pub(crate) fn make(&self) -> nix::Result<()> {
        // SAFETY: aligned and writable memory, which is all that a new mutex needs; zeroed first,
        // so that the bytes that the C library leaves alone are always the same.
        unsafe {
            self.0.get().write_bytes(0, 1);
            make(self.0.get())
        }
    }

    /// Whether the bytes here can be those of such a mutex: all that is not zero in a new one (its
    /// type) stays as it is in a used one.
    pub(crate) fn is_one(&self) -> bool {
        // SAFETY: readable memory of this size; volatile, as others may be locking.
        is_image(&unsafe { ptr::read_volatile(self.0.get().cast::<[u8; SIZE]>()) })
    }

    /// Takes it if it is free. `EDEADLK` if this thread has it, `ENOTRECOVERABLE` if it was unlocked
    /// while what it protects was still declared half-done.
    pub(crate) fn try_lock(&self) -> nix::Result<Taken> {
        // SAFETY: made, or found to be one, before any handle uses it.
        match code(unsafe { libc::pthread_mutex_trylock(self.0.get()) }) {
            Ok(()) => Ok(Taken::Clean),
            Err(Errno::EOWNERDEAD) => Ok(Taken::OwnerDied),
            Err(Errno::EBUSY) => Ok(Taken::Busy),
            Err(errno) => Err(errno),
        }
    }

    /// `EPERM` if this thread does not have it.
    pub(crate) fn unlock(&self) -> nix::Result<()> {
        // SAFETY: as above.
        code(unsafe { libc::pthread_mutex_unlock(self.0.get()) })
    }

    /// Declares what it protects whole again; `EINVAL` unless its holder before died.
    pub(crate) fn consistent(&self) -> nix::Result<()> {
        // SAFETY: as above.
        code(unsafe { libc::pthread_mutex_consistent(self.0.get()) })
    }
}
