//! Doorbells: inotify(7) instances that watch the file of an object, and the touch that they hear.
//!
//! A doorbell has no name, and nothing of it is outside of the process that waits. Whoever has the
//! object's descriptor, and may write to the file, touches it; every instance that watches the file
//! has an event then, wherever its process lives: in another mount namespace, under another root, as
//! another user. Whoever may not write to the file cannot ring.
//!
//! Touching and draining are async-signal-safe and no cancellation points: raw system calls, no
//! memory but the stack's.

use std::ffi::{CStr, c_int, c_long};
use std::io::Write;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::memfd::MFdFlags;
use nix::sys::stat::Mode;

use super::kept::{Kept, above_standard, identity, proc_path};
use super::memfd::memfd_create;

// include/uapi/asm-generic/fcntl.h: Rust's libc crate does not declare them.
const F_SETSIG: c_int = 10;
const F_GETSIG: c_int = 11;

/// What a touch raises: by futimens(2), or by a write.
const HEARD: u32 = libc::IN_ATTRIB | libc::IN_MODIFY;

/// Events of one read; they have no names, as no directory is watched.
const EVENTS: usize = 64;
const EVENT: usize = size_of::<libc::inotify_event>();

/// Most reads of one draining: more than an instance holds, so only somebody who touches all the
/// time makes it stop short.
const READS: usize = 16384 / EVENTS + 1;

fn adopt(fd: c_int) -> nix::Result<OwnedFd> {
    let fd = Errno::result(fd)?;
    // SAFETY: a new descriptor that nobody else knows.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Touches a file, so that whoever watches it has an event: sets its times to now, which the owner
/// may do and whoever may write to the file; else, with a descriptor that was opened for writing
/// before this process gave up its permission, writes a zero at `at`, where one lies.
pub(crate) fn touch(file: BorrowedFd<'_>, at: u64) -> nix::Result<()> {
    match set_times(file) {
        Err(Errno::EACCES | Errno::EPERM | Errno::EROFS) => write_zero(file, at),
        done => done,
    }
}

fn set_times(file: BorrowedFd<'_>) -> nix::Result<()> {
    let (path, times) = (ptr::null::<u8>(), ptr::null::<libc::timespec>());
    // SAFETY: without a path it is the descriptor's file, without times it is now.
    let done = unsafe { libc::syscall(libc::SYS_utimensat, file.as_raw_fd(), path, times, 0) };
    Errno::result(done).map(drop)
}

fn write_zero(file: BorrowedFd<'_>, at: u64) -> nix::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writable, of the type that is asked for.
    let asked = unsafe { libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit) };
    // A write beyond the limit would kill this process with SIGXFSZ.
    if asked != 0 || limit.rlim_cur <= at {
        return Err(Errno::EFBIG);
    }
    let zero = 0_u8;
    let at = at as libc::off_t;
    // SAFETY: one readable byte.
    let written = unsafe {
        libc::syscall(libc::SYS_pwrite64, file.as_raw_fd(), &raw const zero, 1 as c_long, at)
    };
    Errno::result(written).map(drop)
}

/// A descriptor of the library's own, by number and by what it leads to: a program that closes
/// descriptors it does not know may have another file under that number by now.
///
/// All instances have the same inode, so each is marked, too: with the number of the signal that it
/// would send, a setting of the description that has no effect on one that sends none.
#[derive(Debug)]
pub(crate) struct Own {
    fd: ManuallyDrop<OwnedFd>,
    identity: (u64, u64),
    mark: c_int,
}

impl Own {
    fn new(fd: OwnedFd, mark: c_int) -> nix::Result<Self> {
        let fd = above_standard(fd)?;
        if mark != 0 {
            // SAFETY: an open descriptor; a number is the argument.
            Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), F_SETSIG, mark) })?;
        }
        let identity = identity(&fd)?;
        Ok(Self { fd: ManuallyDrop::new(fd), identity, mark })
    }
}

fn is(fd: BorrowedFd<'_>, expected: (u64, u64), mark: c_int) -> bool {
    if identity(fd) != Ok(expected) {
        return false;
    }
    // SAFETY: asks a descriptor for its setting.
    mark == 0 || unsafe { libc::fcntl(fd.as_raw_fd(), F_GETSIG) } == mark
}

impl Drop for Own {
    /// Closes the descriptor, unless the program has done so and has another file there by now.
    fn drop(&mut self) {
        if is(self.fd.as_fd(), self.identity, self.mark) {
            // SAFETY: dropped once, and not used after.
            unsafe { ManuallyDrop::drop(&mut self.fd) };
        }
    }
}

/// A note of an [`Own`], for those who use it: its owner keeps it open until [`Noted::clear`]. All
/// zero is none.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Noted {
    /// Descriptor + 1.
    number: AtomicU32,
    mark: AtomicU32,
    device: AtomicU64,
    inode: AtomicU64,
}

impl Noted {
    pub(crate) fn note(&self, own: &Own) {
        self.note_this(own.fd.as_fd(), own.identity, own.mark);
    }

    fn note_this(&self, fd: BorrowedFd<'_>, identity: (u64, u64), mark: c_int) {
        self.mark.store(mark as u32, Ordering::Relaxed);
        self.device.store(identity.0, Ordering::Relaxed);
        self.inode.store(identity.1, Ordering::Relaxed);
        // Release, for those who cancel: whoever sees the number sees the identity. SeqCst: they
        // either see the number, or what they did before is seen after this.
        self.number.store(fd.as_raw_fd() as u32 + 1, Ordering::SeqCst);
    }

    pub(crate) fn clear(&self) {
        self.number.store(0, Ordering::SeqCst);
    }

    pub(crate) fn exists(&self) -> bool {
        self.number.load(Ordering::Relaxed) != 0
    }

    /// The descriptor, unless there is none or it has become something else.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        let number = self.number.load(Ordering::SeqCst).checked_sub(1)?;
        // SAFETY: an open descriptor, unless the program has closed it: then the next call says so.
        let fd = unsafe { BorrowedFd::borrow_raw(number as RawFd) };
        let noted = (self.device.load(Ordering::Relaxed), self.inode.load(Ordering::Relaxed));
        is(fd, noted, self.mark.load(Ordering::Relaxed) as c_int).then_some(fd)
    }
}

/// Makes an instance that watches nothing yet. `EMFILE` for want of a descriptor, `EUSERS` where
/// the user has as many instances as the system allows.
pub(crate) fn instance() -> nix::Result<Own> {
    static MADE: AtomicU32 = AtomicU32::new(0);
    // SAFETY: no memory is involved.
    let fd = adopt(unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) });
    let fd = match fd {
        Err(Errno::EMFILE) if has_descriptors() => return Err(Errno::EUSERS),
        other => other?,
    };
    // Signals have the numbers 1 to 64. Relaxed: any one will do.
    Own::new(fd, (MADE.fetch_add(1, Ordering::Relaxed) % 64 + 1) as c_int)
}

/// Whether one more descriptor can be had: what inotify_init1(2) does not say.
fn has_descriptors() -> bool {
    memfd_create(c"mdg.probe", MFdFlags::MFD_CLOEXEC).is_ok()
}

/// Has an instance watch a file; the number of the watch. Needs the permission to read the file, and
/// /proc or a name of it.
pub(crate) fn watch(instance: BorrowedFd<'_>, file: &Kept) -> nix::Result<i32> {
    file.by_path(|path| add(instance, path), |watch| forget(instance, watch))
}

fn add(instance: BorrowedFd<'_>, path: &CStr) -> nix::Result<i32> {
    // SAFETY: a NUL-terminated path.
    let watch = unsafe { libc::inotify_add_watch(instance.as_raw_fd(), path.as_ptr(), HEARD) };
    Errno::result(watch)
}

/// Ends a watch, if there is one of this number.
pub(crate) fn forget(instance: BorrowedFd<'_>, watch: i32) {
    // SAFETY: no memory is involved.
    unsafe { libc::inotify_rm_watch(instance.as_raw_fd(), watch) };
}

/// The value of a limit, as /proc tells it; for messages.
pub(crate) struct Limit([u8; 16]);

impl Limit {
    pub(crate) fn as_str(&self) -> &str {
        let text = std::str::from_utf8(&self.0).unwrap_or_default();
        let text = text.trim_end_matches(['\0', '\n']);
        if text.is_empty() { "unknown" } else { text }
    }
}

/// Reads one of the limits of /proc/sys/fs/inotify.
pub(crate) fn limit(name: &CStr) -> Limit {
    let (mut path, mut text) = ([0_u8; 64], [0; 16]);
    // The names are short; the rest is zero.
    let _ = (&mut path[..63]).write_all(b"/proc/sys/fs/inotify/");
    let _ = (&mut path[21..63]).write_all(name.to_bytes());
    let path = CStr::from_bytes_until_nul(&path).unwrap_or(c"");
    let file = nix::fcntl::open(path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty());
    if let Ok(file) = file {
        let _ = nix::unistd::read(&file, &mut text[..15]);
    }
    Limit(text)
}

/// What an event says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The file of this watch was touched.
    Touch(i32),
    /// This watch is over.
    Gone(i32),
    /// There were more events than an instance holds: any may have been among them.
    Overflow,
}

/// Takes all events out of an instance; whether there were any.
pub(crate) fn drain(instance: BorrowedFd<'_>, mut tell: impl FnMut(Heard)) -> nix::Result<bool> {
    // Aligned as the kernel's structures are.
    let mut events = [[0_u32; EVENT / 4]; EVENTS];
    let mut any = false;
    for _ in 0..READS {
        // SAFETY: the buffer is writable for its length.
        let count = unsafe {
            let (at, len) = (events.as_mut_ptr(), size_of_val(&events) as c_long);
            libc::syscall(libc::SYS_read, instance.as_raw_fd(), at, len)
        };
        let count = match Errno::result(count) {
            Ok(count) => count as usize / EVENT,
            Err(Errno::EINTR) => continue,
            Err(Errno::EAGAIN) => break,
            Err(errno) => return Err(errno),
        };
        any |= count > 0;
        for [watch, mask, ..] in &events[..count.min(EVENTS)] {
            tell(match mask {
                mask if mask & libc::IN_Q_OVERFLOW != 0 => Heard::Overflow,
                mask if mask & libc::IN_IGNORED != 0 => Heard::Gone(*watch as i32),
                _ => Heard::Touch(*watch as i32),
            });
        }
        // What comes from now on makes the instance readable again.
        if count < EVENTS {
            break;
        }
    }
    Ok(any)
}

/// A handle's descriptor to wait on: an instance that watches the object's file, and a file of the
/// handle's own, which wakes this handle alone.
#[derive(Debug)]
pub(crate) struct Doorbell {
    ears: Own,
    /// Its file has no name and no contents. `None` where that cannot be watched, for want of /proc:
    /// the object's file takes its place, and others are woken along.
    own: Option<Own>,
}

impl Doorbell {
    /// Errors as for [`instance`] and [`watch`].
    pub(crate) fn new(file: &Kept) -> nix::Result<Self> {
        let ears = instance()?;
        watch(ears.fd.as_fd(), file)?;
        let own = Own::new(memfd_create(c"mdg.doorbell", MFdFlags::MFD_CLOEXEC)?, 0)?;
        match proc_path(own.fd.as_fd(), |path| add(ears.fd.as_fd(), path)) {
            Ok(_) => Ok(Self { ears, own: Some(own) }),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(Self { ears, own: None }),
            Err(errno) => Err(errno),
        }
    }
}

/// A note of a [`Doorbell`]. All zero is none.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Bell {
    ears: Noted,
    own: Noted,
}

impl Bell {
    /// Takes note of the doorbell of an object with this file. Its owner keeps both until
    /// [`Bell::clear`].
    pub(crate) fn note(&self, doorbell: &Doorbell, file: &Kept) {
        match &doorbell.own {
            Some(own) => self.own.note(own),
            None => self.own.note_this(file.unchecked(), file.identity(), 0),
        }
        self.ears.note(&doorbell.ears);
    }

    pub(crate) fn clear(&self) {
        self.own.clear();
        self.ears.clear();
    }

    pub(crate) fn exists(&self) -> bool {
        self.ears.exists()
    }

    /// The descriptor to wait on, unless there is none or it has become something else.
    pub(crate) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.ears.fd()
    }

    /// Makes the descriptor readable, and nobody else's.
    pub(crate) fn ring(&self) {
        if let Some(own) = self.own.fd() {
            let _ = set_times(own);
        }
    }

    /// Makes it unreadable; whether it was readable. `EBADF` if the descriptor is not ours any more.
    pub(crate) fn drain(&self) -> nix::Result<bool> {
        drain(self.fd().ok_or(Errno::EBADF)?, |_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Kept {
        Kept::new(memfd_create(c"rung", MFdFlags::MFD_CLOEXEC).unwrap()).unwrap()
    }

    fn ring_all(file: &Kept) {
        touch(file.fd().unwrap(), 0).unwrap();
    }

    fn bell() -> Bell {
        // SAFETY: all-zero is no bell.
        unsafe { std::mem::zeroed() }
    }

    #[test]
    fn a_touch_is_heard_by_all_and_a_ring_by_one() {
        let file = file();
        let (first, second) = (bell(), bell());
        assert_eq!((first.exists(), first.fd().is_some()), (false, false));
        assert_eq!(first.drain(), Err(Errno::EBADF));
        let doorbells = [(); 2].map(|()| Doorbell::new(&file).unwrap());
        first.note(&doorbells[0], &file);
        second.note(&doorbells[1], &file);
        assert_eq!((first.drain(), second.drain()), (Ok(false), Ok(false)));
        ring_all(&file);
        ring_all(&file);
        assert_eq!((first.drain(), second.drain()), (Ok(true), Ok(true)));
        assert_eq!((first.drain(), second.drain()), (Ok(false), Ok(false)));
        first.ring();
        assert_eq!((first.drain(), second.drain()), (Ok(true), Ok(false)));
        write_zero(file.fd().unwrap(), 0).unwrap();
        // More than are read at once: touches of two files in turn do not fall together.
        for _ in 0..3 * EVENTS {
            ring_all(&file);
            first.ring();
        }
        assert_eq!((first.drain(), first.drain()), (Ok(true), Ok(false)));
    }

    #[test]
    fn what_became_something_else_is_left_alone() {
        let file = file();
        let plain = memfd_create(c"other", MFdFlags::MFD_CLOEXEC).unwrap();
        for other in [instance().unwrap(), Own::new(plain, 0).unwrap()] {
            let (bell, doorbell) = (bell(), Doorbell::new(&file).unwrap());
            bell.note(&doorbell, &file);
            assert!(bell.fd().is_some());
            let number = doorbell.ears.fd.as_raw_fd();
            // SAFETY: the instance's number becomes another's, which nothing here closes.
            assert_eq!(unsafe { libc::dup2(other.fd.as_raw_fd(), number) }, number);
            assert!(bell.fd().is_none());
            assert_eq!(bell.drain(), Err(Errno::EBADF));
            drop(doorbell);
            // SAFETY: open, as the doorbell has left it alone, and nobody else's.
            let left = unsafe { OwnedFd::from_raw_fd(number) };
            assert_eq!(identity(&left), Ok(other.identity));
        }
    }

    #[test]
    fn watches_are_told_apart_and_end_with_their_file() {
        let (first, second, ears) = (file(), file(), instance().unwrap());
        let ears = ears.fd.as_fd();
        let watches = [&first, &second].map(|file| watch(ears, file).unwrap());
        assert_ne!(watches[0], watches[1]);
        assert_eq!(watch(ears, &first), Ok(watches[0]), "the same file, the same watch");
        let heard = || {
            let mut heard = Vec::new();
            drain(ears, |one| heard.push(one)).unwrap();
            heard
        };
        ring_all(&second);
        assert_eq!(heard(), [Heard::Touch(watches[1])]);
        forget(ears, watches[1]);
        ring_all(&second);
        assert_eq!(heard(), [Heard::Gone(watches[1])]);
        drop(first);
        assert_eq!(heard().last(), Some(&Heard::Gone(watches[0])));
    }
}
