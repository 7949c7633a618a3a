//! `madang/sem.h`: counting semaphores.
//!
//! A semaphore counts permits: waiting takes one, posting gives one back, and any process may do
//! either. Those of the default kind are exactly those of sem_open(3), unnamed ones are a sem_t in
//! shared memory: a process that dies with a permit does not give it back. Those of kind MDG_SEM_UNDO
//! are the library's own: they know who holds what, and permits of the dead come back.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::ptr::NonNull;
use std::sync::PoisonError;

use nix::errno::Errno;

use super::args::{self, Opaque};
use super::guard::{guard, guard_or, guard_void, keeping_errno};
use super::shm::mdg_shm;
use crate::error::{Error, Result};
use crate::sem::{AnySemaphore, Holder, Permit, Semaphore, UndoOptions, UndoSemaphore};
use crate::shm::{Place, Shm};
use crate::time::Timeout;

/// Kind: the C library's own semaphores; sem_open(3) programs are full peers. The default.
pub const MDG_SEM_POSIX: u32 = 0;
/// Kind: permits of a dead holder come back by themselves. Only this library's programs are peers.
pub const MDG_SEM_UNDO: u32 = 16;
/// The greatest value of a semaphore of kind MDG_SEM_POSIX.
pub const MDG_SEM_VALUE_MAX: u32 = 0x7fff_ffff;
/// The greatest value of a semaphore of kind MDG_SEM_UNDO, and the most permits a handle holds.
pub const MDG_SEM_UNDO_VALUE_MAX: u32 = 0xf_ffff;
/// Flag of mdg_sem_opts, kind MDG_SEM_UNDO: waits through this handle tell of the dead. When permits
/// of a dead holder came back, the next wait that takes one answers -EOWNERDEAD: once, and with the
/// permit taken, to be posted as any other.
pub const MDG_SEM_TELL: u32 = 1;

/// A semaphore. Free-threaded: any thread may use it at any time, but for mdg_sem_close, which needs
/// it alone. A handle opened before fork(2) works in both processes, and each closes its own.
#[allow(non_camel_case_types)]
pub struct mdg_sem {
    _opaque: [u8; 0],
}

impl Opaque for mdg_sem {
    type Inner = AnySemaphore;
    const TAG: u64 = u64::from_le_bytes(*b"mdg:sem:");
    const NAME: &'static str = "mdg_sem";
}

/// What a new semaphore is to be. Zero means default.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mdg_sem_opts {
    /// sizeof(mdg_sem_opts), set by the caller.
    pub size: usize,
    /// Permits it starts with, at most MDG_SEM_VALUE_MAX or MDG_SEM_UNDO_VALUE_MAX. Ignored when the
    /// semaphore exists.
    pub value: u32,
    /// MDG_SEM_POSIX or MDG_SEM_UNDO. For the calls mdg_sem_undo_* 0 means MDG_SEM_UNDO, too.
    pub kind: u32,
    /// MDG_SEM_TELL; for MDG_SEM_UNDO only.
    pub flags: u32,
    /// For MDG_SEM_UNDO only: how many handles may be open at once, at most 4096. 0: 64 for a new one,
    /// whatever it has for one that exists.
    pub max_handles: u32,
}

/// One handle that holds permits of a semaphore of kind MDG_SEM_UNDO.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mdg_sem_holder {
    /// The process, as it saw itself (a number of its own PID namespace).
    pub pid: u32,
    /// Permits it holds.
    pub count: u32,
    /// 1 if it lives; 0: it is dead, and the next who waits gives its permits back.
    pub alive: u32,
}

/// Opens, or makes, the semaphore `name`. Of kind MDG_SEM_POSIX it is the object that sem_open(3)
/// makes, /dev/shm/sem.NAME; of kind MDG_SEM_UNDO it is /dev/shm/mdg.sem.NAME. The two do not see each
/// other.
///
/// `*sem` receives a handle to be closed with mdg_sem_close. `opts` NULL means value 0. `oflag` takes
/// O_CREAT and O_EXCL; its access mode is ignored, as in sem_open. `mode` gives the permissions of a
/// new one, trimmed by the umask; opening needs read and write permission. It appears complete or not
/// at all.
///
/// Of kind MDG_SEM_UNDO, a permit belongs to the handle through which it was taken. A handle opened
/// before fork(2) works in the child, too, where it holds nothing: what the parent holds stays the
/// parent's.
///
/// Returns 0, or: -EINVAL (NULL, a bad name, a value over the greatest, an unknown kind, flag, oflag or
/// mode bit) · -E2BIG · -ENAMETOOLONG · -ENOENT · -EEXIST · -EACCES · -ELOOP (a symbolic link under the
/// name) · -EPROTO (what stands there is too short, too long or no semaphore, or has another
/// max_handles) · -ENOSPC · -ENOMEM · -EMFILE (descriptors, or all max_handles are open) · -ENFILE ·
/// -EROFS (/dev/shm is read-only) · -ESTALE (others removed and made it again all the time).
/// Thread-safe; not async-signal-safe.
///
/// # Safety
/// `sem` is NULL or writable; `name` is NULL or a C string; `opts` is NULL or begins with its size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_sem_open(
    sem: *mut *mut mdg_sem,
    name: *const c_char,
    opts: *const mdg_sem_opts,
    oflag: c_int,
    mode: libc::mode_t,
) -> c_int {
    guard(|| {
        let what = "mdg_sem_open";
        let out = args::blank(sem, "mdg_sem_open: sem")?;
        // SAFETY: the caller's promise.
        let name = unsafe { args::string(name, "mdg_sem_open: name") }?;
        // SAFETY: the caller's promise; integers only.
        let opts = unsafe { args::options(opts, "mdg_sem_opts") }?;
        let (value, kind) = opts.map_or((0, MDG_SEM_POSIX), |opts| (opts.value, opts.kind));
        let (bits, max_handles) = opts.map_or((0, 0), |opts| (opts.flags, opts.max_handles));
        let mode = args::mode(mode, what)?;
        // The access mode is ignored; any of the four bit patterns will do.
        let flags = args::oflag(oflag & !libc::O_ACCMODE | libc::O_RDWR, 0, what)?;
        let semaphore = match kind {
            MDG_SEM_POSIX => {
                if (bits, max_handles) != (0, 0) {
                    return Err(Error::new(
                        Errno::EINVAL,
                        format_args!("{what}: flags and max_handles are for MDG_SEM_UNDO"),
                    ));
                }
                AnySemaphore::Posix(Semaphore::open(name, value, flags.creation, mode)?)
            }
            MDG_SEM_UNDO => {
                let options = undo_options(opts, what)?;
                let semaphore = UndoSemaphore::open(name, &options, flags.creation, mode)?;
                AnySemaphore::Undo(semaphore)
            }
            _ => return Err(unknown_kind(kind, what)),
        };
        // SAFETY: checked above.
        unsafe { out.give(semaphore) };
        Ok(0)
    })
}

fn unknown_kind(kind: u32, what: &str) -> Error {
    Error::new(Errno::EINVAL, format_args!("{what}: unknown kind {kind}"))
}

/// Options of kind MDG_SEM_UNDO.
fn undo_options(opts: Option<mdg_sem_opts>, what: &str) -> Result<UndoOptions> {
    let Some(opts) = opts else { return Ok(UndoOptions::default()) };
    if !matches!(opts.kind, MDG_SEM_UNDO | MDG_SEM_POSIX) {
        return Err(unknown_kind(opts.kind, what));
    }
    let tell = args::flags(opts.flags, MDG_SEM_TELL, what)? != 0;
    Ok(UndoOptions { value: opts.value, max_handles: opts.max_handles, tell })
}

fn memory_of(memory: *mut c_void, what: &str) -> Result<NonNull<u8>> {
    NonNull::new(memory.cast())
        .ok_or_else(|| Error::new(Errno::EINVAL, format_args!("{what}: memory is NULL")))
}

/// Makes an unnamed semaphore with `value` permits in `memory`, which is a sem_t inside memory that
/// processes share, such as a segment. Others use it with mdg_sem_attach, or with sem_wait(3).
///
/// `*sem` receives a handle; `memory` stays the caller's and must stay mapped until mdg_sem_close,
/// which leaves the semaphore itself as it is.
///
/// Returns 0, or -EINVAL (NULL, misaligned memory, a value over MDG_SEM_VALUE_MAX). Thread-safe; not
/// async-signal-safe. Making one where a semaphore is in use is undefined, as with sem_init(3).
///
/// # Safety
/// `sem` is NULL or writable; `memory` is NULL or a writable sem_t.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_sem_init(
    sem: *mut *mut mdg_sem,
    memory: *mut c_void,
    value: c_uint,
) -> c_int {
    guard(|| {
        let out = args::blank(sem, "mdg_sem_init: sem")?;
        let memory = memory_of(memory, "mdg_sem_init")?;
        // SAFETY: the caller's promise.
        let semaphore = Semaphore::init(unsafe { Place::at(memory) }?, value)?;
        // SAFETY: checked above.
        unsafe { out.give(AnySemaphore::Posix(semaphore)) };
        Ok(0)
    })
}

/// Uses a semaphore that mdg_sem_init, or sem_init(3) with pshared, made in `memory`.
///
/// `*sem` receives a handle; `memory` must stay mapped until mdg_sem_close.
///
/// Returns 0, or: -EINVAL (NULL, misaligned memory) · -EPROTO (no process-shared semaphore there).
/// Thread-safe; not async-signal-safe.
///
/// # Safety
/// `sem` is NULL or writable; `memory` is NULL or a readable and writable sem_t.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_sem_attach(sem: *mut *mut mdg_sem, memory: *mut c_void) -> c_int {
    guard(|| {
        let out = args::blank(sem, "mdg_sem_attach: sem")?;
        let memory = memory_of(memory, "mdg_sem_attach")?;
        // SAFETY: the caller's promise.
        let semaphore = Semaphore::attach(unsafe { Place::at(memory) }?)?;
        // SAFETY: checked above.
        unsafe { out.give(AnySemaphore::Posix(semaphore)) };
        Ok(0)
    })
}

/// Bytes that a semaphore of kind MDG_SEM_UNDO with these options takes up in a segment: a multiple of
/// 4096. `opts` NULL means all defaults; it depends on max_handles alone.
///
/// Returns the bytes, or: -EINVAL (another kind, a value or max_handles over the greatest, an unknown
/// flag) · -E2BIG. Thread-safe; async-signal-safe as long as it succeeds.
///
/// # Safety
/// `opts` is NULL or begins with its size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_sem_undo_footprint(opts: *const mdg_sem_opts) -> libc::ssize_t {
    guard(|| {
        // SAFETY: the caller's promise; integers only.
        let opts = unsafe { args::options(opts, "mdg_sem_opts") }?;
        let options = undo_options(opts, "mdg_sem_undo_footprint")?;
        // Some hundred kilobytes at most.
        UndoSemaphore::footprint(&options).map(|bytes| bytes as libc::ssize_t)
    })
}

/// Makes a semaphore of kind MDG_SEM_UNDO inside a segment: at `offset`, a multiple of 4096, where
/// mdg_sem_undo_footprint bytes are free for it. Many of them, rings, and other data can so share one
/// segment and one descriptor. What was in that place is overwritten, unless it is a semaphore or ring
/// that living handles use. (mdg_sem_init makes one of kind MDG_SEM_POSIX.)
///
/// `*sem` receives a handle. Others find the semaphore by mdg_sem_undo_attach on their own mapping of
/// the segment, complete or not at all. All else is as with a named one: permits of the dead come
/// back, mdg_sem_holders tells who has them, MDG_SEM_TELL asks to be told. The handle may outlive `shm`,
/// whose descriptor it keeps; the segment must not be resized to end before the semaphore does, which
/// is SIGBUS for everyone who uses it. Permissions are the segment's: every handle needs read and
/// write. `opts` NULL means value 0.
///
/// Returns 0, or: -EINVAL (NULL, an offset that is no multiple of 4096, a value or max_handles over
/// the greatest, another kind, an unknown flag) · -E2BIG · -EBADF · -ENOSPC (the segment ends
/// before the semaphore) · -EBUSY (living handles use an object there, or another process is making
/// one) · -EACCES (`shm` is read-only) · -EPROTO (`shm` is a device) · -EMFILE (no descriptor, or
/// others attached to all max_handles first) · -ENFILE · -ENOMEM · -ENOSYS (/proc is not mounted,
/// and the segment has no name). Nothing is held then, and an object that is in use is as it was.
/// Thread-safe; not async-signal-safe.
///
/// # Safety
/// `sem` is NULL or writable; `shm` is NULL or a handle; `opts` is NULL or begins with its size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_sem_undo_init(
    sem: *mut *mut mdg_sem,
    shm: *const mdg_shm,
    offset: usize,
    opts: *const mdg_sem_opts,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        in_segment(sem, shm, opts, "mdg_sem_undo_init", |shm, options| {
            UndoSemaphore::init(shm, offset, options)
        })
    }
}

/// Opens the semaphore that mdg_sem_undo_init has made at `offset` of a segment, which may be mapped at
/// another address here. `opts` as in mdg_sem_open for one that exists: its value is ignored, its flags
/// are this handle's, a max_handles that is not 0 must be what it has.
///
/// Returns 0, or: -EPROTO (no semaphore is there, or not complete yet; another layout; another
/// max_handles; larger than the segment) · -ESTALE (another object is being made in its place) ·
/// -EBADMSG (its contents are corrupt) · -EMFILE (no descriptor, or all max_handles are open), or what
/// mdg_sem_undo_init returns but -ENOSPC and -EBUSY. Thread-safe; not async-signal-safe.
///
/// # Safety
/// `sem` is NULL or writable; `shm` is NULL or a handle; `opts` is NULL or begins with its size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_sem_undo_attach(
    sem: *mut *mut mdg_sem,
    shm: *const mdg_shm,
    offset: usize,
    opts: *const mdg_sem_opts,
) -> c_int {
    // SAFETY: the caller's promise.
    unsafe {
        in_segment(sem, shm, opts, "mdg_sem_undo_attach", |shm, options| {
            UndoSemaphore::attach_to(shm, offset, options)
        })
    }
}

/// # Safety
/// As for [`mdg_sem_undo_init`].
unsafe fn in_segment(
    sem: *mut *mut mdg_sem,
    shm: *const mdg_shm,
    opts: *const mdg_sem_opts,
    what: &str,
    make: impl FnOnce(&Shm, &UndoOptions) -> Result<UndoSemaphore>,
) -> c_int {
    guard(|| {
        let out = args::blank(sem, what)?;
        // SAFETY: the caller's promise; integers only.
        let options = undo_options(unsafe { args::options(opts, "mdg_sem_opts") }?, what)?;
        // SAFETY: the caller's promise.
        let shm = unsafe { args::handle(shm) }?;
        let shm = shm.read().unwrap_or_else(PoisonError::into_inner);
        let made = make(&shm, &options)?;
        // SAFETY: checked above.
        unsafe { out.give(AnySemaphore::Undo(made)) };
        Ok(0)
    })
}

/// Takes a permit, waiting for one at most `timeout_ns` nanoseconds of monotonic time (MDG_NOWAIT:
/// not at all, MDG_FOREVER: without limit).
///
/// Returns 0 with a permit taken, or: -EOWNERDEAD (kind MDG_SEM_UNDO opened with MDG_SEM_TELL: *with a
/// permit taken*, the first since permits of a dead holder came back) · -EAGAIN (MDG_NOWAIT, none
/// there) · -ETIMEDOUT · -EINTR (a signal was caught, whatever SA_RESTART says) · -EOVERFLOW
/// (MDG_SEM_UNDO: the handle holds MDG_SEM_UNDO_VALUE_MAX) · -EBADMSG (MDG_SEM_UNDO: its contents are
/// corrupt) · -EMFILE, -ENOMEM (MDG_SEM_UNDO, in a forked child's first call) · -ESTALE (there, in a
/// segment: all handles were gone, and another object was made in its place) · -EINVAL (NULL) · -EBADF;
/// with all but -EOWNERDEAD no permit is taken. A permit that is free is taken without a look at who
/// lives. Who waits finds the dead within 100 ms; who never waits looks for them once in 10 ms.
/// Thread-safe; not async-signal-safe; not a cancellation point.
///
/// # Safety
/// `sem` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_sem_wait(sem: *mut mdg_sem, timeout_ns: i64) -> c_int {
    guard_or(
        // SAFETY: the caller's promise.
        || unsafe { args::poison(sem) },
        || {
            // SAFETY: the caller's promise.
            let semaphore = unsafe { args::handle(sem.cast_const()) }?;
            match keeping_errno(|| semaphore.wait(Timeout::from_nanos(timeout_ns)))? {
                Permit::Ordinary => Ok(0),
                Permit::FromDead => {
                    let text = "mdg_sem_wait: a holder died; a permit was taken all the same";
                    Err(Error::new(Errno::EOWNERDEAD, text))
                }
            }
        },
    )
}

/// Gives a permit back and wakes one who waits for it. Any process may, not just who took one.
///
/// Of kind MDG_SEM_UNDO: a handle that holds permits gives one of them back; one that holds none adds a
/// permit for good, which no death takes back.
///
/// Returns 0, or: -EOVERFLOW (the value is the greatest already, and stays) · -EBADMSG, -EMFILE, -ENOMEM,
/// -ESTALE (as for mdg_sem_wait) · -EINVAL (NULL) · -EBADF. Thread-safe. Of kind MDG_SEM_POSIX async-signal-safe
/// as long as it succeeds: only a failure formats a text; of kind MDG_SEM_UNDO it is not.
///
/// # Safety
/// `sem` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_sem_post(sem: *mut mdg_sem) -> c_int {
    // SAFETY: the caller's promise.
    guard(|| unsafe { args::handle(sem.cast_const()) }?.post().map(|()| 0))
}

/// Permits there are now (0 or more), out of date as soon as others use the semaphore; or -EINVAL
/// (NULL), -EBADF, -EBADMSG, -ESTALE (as for mdg_sem_wait). Of kind MDG_SEM_UNDO it has the permits of
/// the dead come back first. Thread-safe; of kind MDG_SEM_POSIX async-signal-safe as long as it succeeds.
///
/// # Safety
/// `sem` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_sem_value(sem: *mut mdg_sem) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let value = unsafe { args::handle(sem.cast_const()) }?.value()?;
        // At most VALUE_MAX, which is INT_MAX.
        Ok(value.min(MDG_SEM_VALUE_MAX) as c_int)
    })
}

/// Lists who holds permits of a semaphore of kind MDG_SEM_UNDO: the first `count` of them in `holders`,
/// one for each handle that holds any. The dead whose permits are still out are among them.
///
/// Returns how many there are, which may be more than `count` (0 just asks), or: -EINVAL (NULL, or a
/// semaphore of kind MDG_SEM_POSIX: nobody knows who holds those) · -EBADF. A look in passing while
/// others go on. Thread-safe; not async-signal-safe.
///
/// # Safety
/// `sem` is NULL or a handle; `holders` is writable for `count` of them, or `count` is 0.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_sem_holders(
    sem: *mut mdg_sem,
    holders: *mut mdg_sem_holder,
    count: usize,
) -> isize {
    guard(|| {
        let what = "mdg_sem_holders";
        if args::length(count, what)? > 0 {
            args::out(holders, what)?;
        }
        // SAFETY: the caller's promise.
        let AnySemaphore::Undo(semaphore) = unsafe { args::handle(sem.cast_const()) }? else {
            return Err(Error::new(
                Errno::EINVAL,
                format_args!("{what}: only semaphores of kind MDG_SEM_UNDO know their holders"),
            ));
        };
        let mut total = 0;
        for holder in semaphore.holders() {
            if total < count {
                let Holder { pid, count, alive } = holder;
                // SAFETY: checked above; the caller vouches for `count` of them.
                unsafe {
                    holders.add(total).write(mdg_sem_holder { pid, count, alive: alive.into() });
                }
            }
            total += 1;
        }
        // At most as many as there are handles.
        Ok(total as isize)
    })
}

/// Frees the handle. The name stays as it is. So do permits of kind MDG_SEM_POSIX taken through the
/// handle; those of kind MDG_SEM_UNDO are given back. NULL is fine. No other thread may use the handle
/// any more. errno is left alone. Not async-signal-safe.
///
/// # Safety
/// `sem` is NULL or a handle that nobody uses any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_sem_close(sem: *mut mdg_sem) {
    // SAFETY: the caller's promise.
    guard_void(|| unsafe { args::close(sem) });
}

/// Removes the name of a semaphore, as sem_unlink(3) does; those who have it open go on using it. Where
/// a semaphore of each kind has the name, both lose it.
///
/// Returns 0, or: -EINVAL (NULL, a bad name) · -ENAMETOOLONG · -ENOENT · -EACCES (another user's:
/// /dev/shm is sticky) · -EPROTO (a directory). Thread-safe; not async-signal-safe.
///
/// # Safety
/// `name` is NULL or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_sem_unlink(name: *const c_char) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        AnySemaphore::unlink(unsafe { args::string(name, "mdg_sem_unlink: name") }?).map(|()| 0)
    })
}
