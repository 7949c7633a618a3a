//! `madang/mutex.h`: mutexes and condition variables between processes.
//!
//! A mutex survives its holder: who takes it after a holder's death is told, with -EOWNERDEAD, mends
//! what the mutex protects, declares it consistent and goes on. Underneath is a robust, process-shared
//! pthread_mutex_t. A lock belongs to the thread that took it.
//!
//! Processes that share one must trust each other: the C library keeps addresses of the holder's in
//! it. They must be in one PID namespace, as the kernel knows a holder by its number there: every call
//! on a mutex of another namespace is refused with -EOPNOTSUPP and does nothing. A named mutex belongs to
//! the namespace of those who have it open, one in memory to that of its maker. A semaphore of kind
//! MDG_SEM_UNDO with value 1 works between namespaces.

use std::ffi::{c_char, c_int, c_void};
use std::ptr::NonNull;

use nix::errno::Errno;

use super::args::{self, Opaque};
use super::guard::{guard, guard_void};
use crate::error::{Error, Result};
use crate::mutex::{Area, Cond, Locked, Mutex};
use crate::time::Timeout;

/// Bytes of memory that mdg_mutex_init needs, aligned to 8.
pub const MDG_MUTEX_SIZE: u32 = 128;
/// Bytes of memory that mdg_cond_init needs, aligned to 8.
pub const MDG_COND_SIZE: u32 = 64;

/// A mutex. Free-threaded: any thread may use it at any time, but for mdg_mutex_close, which needs it
/// alone. A handle opened before fork(2) works in both processes, and each closes its own; a lock
/// stays the parent's.
#[allow(non_camel_case_types)]
pub struct mdg_mutex {
    _opaque: [u8; 0],
}

impl Opaque for mdg_mutex {
    type Inner = Mutex;
    const TAG: u64 = u64::from_le_bytes(*b"mdg:mutx");
    const NAME: &'static str = "mdg_mutex";
}

/// A condition variable. Free-threaded, and works after fork(2), as a mutex does.
#[allow(non_camel_case_types)]
pub struct mdg_cond {
    _opaque: [u8; 0],
}

impl Opaque for mdg_cond {
    type Inner = Cond;
    const TAG: u64 = u64::from_le_bytes(*b"mdg:cond");
    const NAME: &'static str = "mdg_cond";
}

fn memory_of(memory: *mut c_void, what: &str) -> Result<NonNull<u8>> {
    NonNull::new(memory.cast())
        .ok_or_else(|| Error::new(Errno::EINVAL, format_args!("{what}: memory is NULL")))
}

fn told(locked: Locked) -> Result<c_int> {
    match locked {
        Locked::Clean => Ok(0),
        Locked::OwnerDied => {
            let text = "the mutex was taken; its holder died: mend, then mdg_mutex_consistent";
            Err(Error::new(Errno::EOWNERDEAD, text))
        }
    }
}

/// Opens, or makes, the mutex `name`: /dev/shm/mdg.mutex.NAME.
///
/// `*mutex` receives a handle to be closed with mdg_mutex_close. `oflag` takes O_CREAT and O_EXCL; its
/// access mode is ignored. `mode` gives the permissions of a new one, trimmed by the umask; opening
/// needs read and write permission. It appears complete or not at all.
///
/// Returns 0, or: -EINVAL (NULL, a bad name, an unknown oflag or mode bit) · -ENAMETOOLONG (more than
/// 245 bytes) · -ENOENT · -EEXIST · -EACCES · -ELOOP (a symbolic link under the name) · -EPROTO (what
/// stands there is no mutex) · -ENOSPC · -ENOMEM · -EMFILE · -ENFILE · -EROFS · -ESTALE (others removed
/// and made it again all the time) · -EBUSY (a process that was removing or opening it was stopped) ·
/// -EOPNOTSUPP (processes of another PID namespace have it open). Thread-safe; not async-signal-safe.
///
/// # Safety
/// `mutex` is NULL or writable; `name` is NULL or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_mutex_open(
    mutex: *mut *mut mdg_mutex,
    name: *const c_char,
    oflag: c_int,
    mode: libc::mode_t,
) -> c_int {
    guard(|| {
        let what = "mdg_mutex_open";
        let out = args::blank(mutex, "mdg_mutex_open: mutex")?;
        // SAFETY: the caller's promise.
        let name = unsafe { args::string(name, "mdg_mutex_open: name") }?;
        let mode = args::mode(mode, what)?;
        let flags = args::oflag(oflag & !libc::O_ACCMODE | libc::O_RDWR, 0, what)?;
        let made = Mutex::open(name, flags.creation, mode)?;
        // SAFETY: checked above.
        unsafe { out.give(made) };
        Ok(0)
    })
}

/// Makes a mutex in `memory`, MDG_MUTEX_SIZE bytes inside memory that processes share, such as a
/// segment. Others use it with mdg_mutex_attach.
///
/// `*mutex` receives a handle; `memory` stays the caller's. It must stay mapped until mdg_mutex_close,
/// and as long as a thread of this process holds the mutex.
///
/// Returns 0, or: -EINVAL (NULL, misaligned memory) · -ENOMEM. Thread-safe; not async-signal-safe.
/// Making one where a mutex is in use is undefined.
///
/// # Safety
/// `mutex` is NULL or writable; `memory` is NULL or writable for MDG_MUTEX_SIZE bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_mutex_init(mutex: *mut *mut mdg_mutex, memory: *mut c_void) -> c_int {
    guard(|| {
        let out = args::blank(mutex, "mdg_mutex_init: mutex")?;
        let memory = memory_of(memory, "mdg_mutex_init")?;
        // SAFETY: the caller's promise.
        let made = Mutex::init(unsafe { Area::at(memory) }?)?;
        // SAFETY: checked above.
        unsafe { out.give(made) };
        Ok(0)
    })
}

/// Uses a mutex that mdg_mutex_init made in `memory`, which stays mapped as for mdg_mutex_init.
///
/// Returns 0, or: -EINVAL (NULL, misaligned memory) · -EPROTO (no mutex there) · -ENOMEM · -EOPNOTSUPP
/// (made in another PID namespace). Thread-safe; not async-signal-safe.
///
/// # Safety
/// `mutex` is NULL or writable; `memory` is NULL or writable for MDG_MUTEX_SIZE bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_mutex_attach(
    mutex: *mut *mut mdg_mutex,
    memory: *mut c_void,
) -> c_int {
    guard(|| {
        let out = args::blank(mutex, "mdg_mutex_attach: mutex")?;
        let memory = memory_of(memory, "mdg_mutex_attach")?;
        // SAFETY: the caller's promise.
        let made = Mutex::attach(unsafe { Area::at(memory) }?)?;
        // SAFETY: checked above.
        unsafe { out.give(made) };
        Ok(0)
    })
}

/// Takes the mutex, waiting for it at most `timeout_ns` nanoseconds of monotonic time (MDG_NOWAIT: not
/// at all, MDG_FOREVER: without limit).
///
/// Returns 0 with the mutex held, or -EOWNERDEAD, *with the mutex held, too*: the thread that held it
/// ended, or was killed, without unlocking. Mend what the mutex protects, call mdg_mutex_consistent,
/// go on. Else it is not held: -EAGAIN (MDG_NOWAIT) · -ETIMEDOUT · -EINTR (a signal was caught) ·
/// -EDEADLK (this thread holds it) · -ENOTRECOVERABLE (a thread that was told of a death unlocked it
/// without mdg_mutex_consistent: nobody gets it any more) · -EOPNOTSUPP (a child in another PID namespace)
/// · -EINVAL (NULL) · -EBADF. A death while others wait is noticed within 100 ms. Thread-safe; not
/// async-signal-safe; not a cancellation point.
///
/// # Safety
/// `mutex` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_mutex_lock(mutex: *mut mdg_mutex, timeout_ns: i64) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let mutex = unsafe { args::handle(mutex.cast_const()) }?;
        told(mutex.lock(Timeout::from_nanos(timeout_ns))?)
    })
}

/// Lets go of the mutex and wakes who waits for it.
///
/// Returns 0, or: -EPERM (this thread does not hold it) · -EOPNOTSUPP (as mdg_mutex_lock) · -EINVAL (NULL) ·
/// -EBADF. Thread-safe; not async-signal-safe.
///
/// # Safety
/// `mutex` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_mutex_unlock(mutex: *mut mdg_mutex) -> c_int {
    // SAFETY: the caller's promise.
    guard(|| unsafe { args::handle(mutex.cast_const()) }?.unlock().map(|()| 0))
}

/// Declares what the mutex protects whole again, after -EOWNERDEAD and before unlocking.
///
/// Returns 0, or: -EINVAL (NULL, nobody died with it) · -EOPNOTSUPP (as mdg_mutex_lock) · -EBADF.
/// Thread-safe; not async-signal-safe.
///
/// # Safety
/// `mutex` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_mutex_consistent(mutex: *mut mdg_mutex) -> c_int {
    // SAFETY: the caller's promise.
    guard(|| unsafe { args::handle(mutex.cast_const()) }?.consistent().map(|()| 0))
}

/// Frees the handle. A mutex that a thread of this process still holds stays locked, and its named
/// memory mapped; when that thread ends others get -EOWNERDEAD. NULL is fine. No other thread may use
/// the handle any more. errno is left alone. Not async-signal-safe.
///
/// # Safety
/// `mutex` is NULL or a handle that nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_mutex_close(mutex: *mut mdg_mutex) {
    // SAFETY: the caller's promise.
    guard_void(|| unsafe { args::close(mutex) });
}

/// Removes the name of a mutex; those who have it open go on using it.
///
/// Returns 0, or: -EINVAL (NULL, a bad name) · -ENAMETOOLONG · -ENOENT · -EACCES (another user's) ·
/// -EPROTO (no regular file) · -ELOOP (a symbolic link) · -EBUSY (another process is removing it and was
/// stopped). Thread-safe; not async-signal-safe.
///
/// # Safety
/// `name` is NULL or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_mutex_unlink(name: *const c_char) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        Mutex::unlink(unsafe { args::string(name, "mdg_mutex_unlink: name") }?).map(|()| 0)
    })
}

/// Opens, or makes, the condition variable `name`: /dev/shm/mdg.cond.NAME. As mdg_mutex_open, with the
/// same results; names have at most 246 bytes.
///
/// # Safety
/// `cond` is NULL or writable; `name` is NULL or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_cond_open(
    cond: *mut *mut mdg_cond,
    name: *const c_char,
    oflag: c_int,
    mode: libc::mode_t,
) -> c_int {
    guard(|| {
        let what = "mdg_cond_open";
        let out = args::blank(cond, "mdg_cond_open: cond")?;
        // SAFETY: the caller's promise.
        let name = unsafe { args::string(name, "mdg_cond_open: name") }?;
        let mode = args::mode(mode, what)?;
        let flags = args::oflag(oflag & !libc::O_ACCMODE | libc::O_RDWR, 0, what)?;
        let made = Cond::open(name, flags.creation, mode)?;
        // SAFETY: checked above.
        unsafe { out.give(made) };
        Ok(0)
    })
}

/// Makes a condition variable in `memory`, MDG_COND_SIZE bytes inside memory that processes share. As
/// mdg_mutex_init, with the same results.
///
/// # Safety
/// `cond` is NULL or writable; `memory` is NULL or writable for MDG_COND_SIZE bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_cond_init(cond: *mut *mut mdg_cond, memory: *mut c_void) -> c_int {
    guard(|| {
        let out = args::blank(cond, "mdg_cond_init: cond")?;
        let memory = memory_of(memory, "mdg_cond_init")?;
        // SAFETY: the caller's promise.
        let made = Cond::init(unsafe { Area::at(memory) }?)?;
        // SAFETY: checked above.
        unsafe { out.give(made) };
        Ok(0)
    })
}

/// Uses a condition variable that mdg_cond_init made in `memory`. As mdg_mutex_attach, with the same
/// results.
///
/// # Safety
/// `cond` is NULL or writable; `memory` is NULL or writable for MDG_COND_SIZE bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_cond_attach(cond: *mut *mut mdg_cond, memory: *mut c_void) -> c_int {
    guard(|| {
        let out = args::blank(cond, "mdg_cond_attach: cond")?;
        let memory = memory_of(memory, "mdg_cond_attach")?;
        // SAFETY: the caller's promise.
        let made = Cond::attach(unsafe { Area::at(memory) }?)?;
        // SAFETY: checked above.
        unsafe { out.give(made) };
        Ok(0)
    })
}

/// Lets go of `mutex`, which the caller holds, waits until the condition variable is signalled, at most
/// `timeout_ns` nanoseconds, and takes the mutex again, however long that takes. It may return 0
/// without a signal: look at what you wait for in a loop.
///
/// Returns, with the mutex held: 0 · -EAGAIN (MDG_NOWAIT: it was let go for a moment only) · -ETIMEDOUT
/// · -EINTR (a signal handler ran) · -EOWNERDEAD (as mdg_mutex_lock; whatever the wait came to). With
/// nothing done: -EPERM (the caller does not hold the mutex) · -EOPNOTSUPP (as mdg_mutex_lock) · -EINVAL
/// (NULL) · -EBADF. With the mutex lost: -ENOTRECOVERABLE. Thread-safe; not async-signal-safe; not a
/// cancellation point.
///
/// # Safety
/// `cond` and `mutex` are NULL or handles.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_cond_wait(
    cond: *mut mdg_cond,
    mutex: *mut mdg_mutex,
    timeout_ns: i64,
) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let cond = unsafe { args::handle(cond.cast_const()) }?;
        // SAFETY: the caller's promise.
        let mutex = unsafe { args::handle(mutex.cast_const()) }?;
        let (waited, locked) = cond.wait(mutex, Timeout::from_nanos(timeout_ns))?;
        told(locked)?;
        waited.map(|()| 0)
    })
}

/// Wakes one who waits, or more; nobody is fine. The mutex may be held or not.
///
/// Returns 0, or -EINVAL (NULL), -EBADF. Thread-safe; async-signal-safe as long as it succeeds.
///
/// # Safety
/// `cond` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_cond_signal(cond: *mut mdg_cond) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        unsafe { args::handle(cond.cast_const()) }?.signal();
        Ok(0)
    })
}

/// Wakes all who wait. As mdg_cond_signal, with the same results.
///
/// # Safety
/// `cond` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_cond_broadcast(cond: *mut mdg_cond) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        unsafe { args::handle(cond.cast_const()) }?.broadcast();
        Ok(0)
    })
}

/// Frees the handle. NULL is fine. No other thread may use it any more. errno is left alone. Not
/// async-signal-safe.
///
/// # Safety
/// `cond` is NULL or a handle that nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_cond_close(cond: *mut mdg_cond) {
    // SAFETY: the caller's promise.
    guard_void(|| unsafe { args::close(cond) });
}

/// Removes the name of a condition variable. As mdg_mutex_unlink, with the same results.
///
/// # Safety
/// `name` is NULL or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_cond_unlink(name: *const c_char) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        Cond::unlink(unsafe { args::string(name, "mdg_cond_unlink: name") }?).map(|()| 0)
    })
}
