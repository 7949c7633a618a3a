//! FIFOs as doorbells: one process waits for a byte with poll(2), others ring.
//!
//! Both sides open the FIFO for reading and writing. A ringer is then a reader itself, so that its
//! write can never raise SIGPIPE, and the waiter never sees a hang-up. What is rung at a FIFO that
//! nobody waits at any more goes away with the ringer's descriptor.
//!
//! Ringing and draining are async-signal-safe and no cancellation points: raw system calls, no
//! memory but the stack's.

use std::ffi::{CStr, c_long};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, lstat};
use nix::unistd::{Gid, Uid, fchown, mkfifo, unlink};

use super::kept::{Kept, identity};

const FLAGS: libc::c_int =
    libc::O_RDWR | libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_NOCTTY | libc::O_CLOEXEC;

/// Most reads of one draining: more than a FIFO holds, so only somebody who writes all the time
/// makes it stop short.
const READS: u32 = 256;

/// How often a FIFO is made that others remove before it is open.
const TRIES: u32 = 1000;

fn open(path: &CStr, flags: libc::c_int) -> nix::Result<OwnedFd> {
    // SAFETY: the path is NUL-terminated; without O_CREAT there is no further argument.
    let fd = unsafe { libc::syscall(libc::SYS_openat, AT_FDCWD.as_raw_fd(), path.as_ptr(), flags) };
    Errno::result(fd)?;
    // SAFETY: a new descriptor that nobody else knows; descriptors fit an int.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// A waiter's open FIFO.
#[derive(Debug)]
pub(crate) struct Fifo(Kept);

fn is_fifo(status: &FileStat) -> bool {
    SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == SFlag::S_IFIFO
}

fn write_byte(fd: BorrowedFd<'_>) -> nix::Result<()> {
    let byte = 1_u8;
    // SAFETY: one readable byte.
    let written =
        unsafe { libc::syscall(libc::SYS_write, fd.as_raw_fd(), &raw const byte, 1 as c_long) };
    match Errno::result(written) {
        // Full: readable already.
        Ok(_) | Err(Errno::EAGAIN) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Makes the FIFO `path` for those who may use the file with status `like`, in the place of what
/// may stand there, and opens it: first under the name `temporary`, so that `path` never leads to a
/// FIFO that nobody has open, unless who had it is dead. See `object/bell.rs`.
pub(crate) fn make(path: &CStr, temporary: &CStr, like: &FileStat) -> nix::Result<Fifo> {
    for _ in 0..TRIES {
        clear(path)?;
        clear(temporary)?;
        mkfifo(temporary, Mode::S_IRUSR | Mode::S_IWUSR)?;
        match publish(path, temporary, like) {
            // Somebody has seen it without a reader, and removed it.
            Err(Errno::ENOENT) => {}
            done => {
                if done.is_err() {
                    remove(temporary);
                }
                return done;
            }
        }
    }
    Err(Errno::EBUSY)
}

/// Opens the new FIFO `temporary` and gives it its name. `ENOENT` if it is gone.
fn publish(path: &CStr, temporary: &CStr, like: &FileStat) -> nix::Result<Fifo> {
    let kept = Kept::new(open(temporary, FLAGS)?)?;
    let fifo = kept.fd()?;
    let status = fstat(fifo)?;
    if !is_fifo(&status) || status.st_uid != Uid::effective().as_raw() {
        return Err(Errno::EEXIST);
    }
    // As far as this process may: the file's owner and group are to reach the FIFO as well.
    let group = Some(Gid::from_raw(like.st_gid));
    if fchown(fifo, Some(Uid::from_raw(like.st_uid)), group).is_err() {
        let _ = fchown(fifo, None, group);
    }
    let mode = Mode::from_bits_truncate(like.st_mode & 0o666) | Mode::S_IRUSR | Mode::S_IWUSR;
    fchmod(fifo, mode)?;
    rename(temporary, path)?;
    // Another one's may have come in the place of one that was removed.
    let named = lstat(path)?;
    if (named.st_dev, named.st_ino) != kept.identity() {
        return Err(Errno::ENOENT);
    }
    Ok(Fifo(kept))
}

/// Renames, unless there is something already: `EEXIST`.
fn rename(from: &CStr, to: &CStr) -> nix::Result<()> {
    let here = AT_FDCWD.as_raw_fd();
    // SAFETY: both paths are NUL-terminated.
    let done = unsafe {
        let (from, to) = (from.as_ptr(), to.as_ptr());
        libc::syscall(libc::SYS_renameat2, here, from, here, to, libc::RENAME_NOREPLACE)
    };
    Errno::result(done).map(drop)
}

fn clear(path: &CStr) -> nix::Result<()> {
    match unlink(path) {
        Err(errno) if errno != Errno::ENOENT => Err(errno),
        _ => Ok(()),
    }
}

/// Whether nobody has the FIFO `path` open for reading. Who has does not notice the question: it
/// has it open for writing as well, so that neither the coming nor the going of a writer tells it
/// anything.
pub(crate) fn is_left(path: &CStr) -> nix::Result<bool> {
    match open(path, FLAGS & !libc::O_ACCMODE | libc::O_WRONLY) {
        Ok(_) => Ok(false),
        Err(Errno::ENXIO) => Ok(true),
        Err(errno) => Err(errno),
    }
}

/// Removes a FIFO's name, if it is there.
pub(crate) fn remove(path: &CStr) {
    let _ = unlink(path);
}

/// What became of a ring at somebody's door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rung {
    /// There is a byte now.
    Heard,
    /// Nobody is there, or nobody whom this process may reach.
    Nobody,
    /// This process could not, for want of a descriptor for instance.
    Not,
}

/// Closed by a raw system call: close(2) of the C library is a cancellation point.
struct Passing(ManuallyDrop<OwnedFd>);

impl Drop for Passing {
    fn drop(&mut self) {
        // SAFETY: an open descriptor of this value's own, which nobody uses after.
        unsafe { libc::syscall(libc::SYS_close, self.0.as_raw_fd()) };
    }
}

/// Rings at the FIFO `path`, if it belongs to one of `owners`.
pub(crate) fn ring_at(path: &CStr, owners: [u32; 2]) -> Rung {
    let fifo = match open(path, FLAGS) {
        Ok(fifo) => Passing(ManuallyDrop::new(fifo)),
        Err(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EINTR) => return Rung::Not,
        Err(_) => return Rung::Nobody,
    };
    match fstat(&*fifo.0) {
        Ok(status) if is_fifo(&status) && owners.contains(&status.st_uid) => {}
        _ => return Rung::Nobody,
    }
    if write_byte(fifo.0.as_fd()).is_ok() { Rung::Heard } else { Rung::Not }
}

/// A waiter's own descriptor of its FIFO, by number and by the file's identity: a program that
/// closes descriptors it does not know may have another file under that number by now, whose bytes
/// are none of ours. All zero is none.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Bell {
    /// Descriptor + 1.
    number: AtomicU32,
    unused: u32,
    device: AtomicU64,
    inode: AtomicU64,
}

impl Bell {
    /// Takes note of a descriptor, which its owner keeps open until [`Bell::clear`].
    pub(crate) fn note(&self, fifo: &Fifo) {
        let (device, inode) = fifo.0.identity();
        self.device.store(device, Ordering::Relaxed);
        self.inode.store(inode, Ordering::Relaxed);
        // Release, for those who cancel: whoever sees the number sees the identity. SeqCst: they
        // either see the number, or what they did before is seen after this.
        self.number.store(fifo.0.unchecked().as_raw_fd() as u32 + 1, Ordering::SeqCst);
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
        (identity(fd) == Ok(noted)).then_some(fd)
    }

    /// Makes the descriptor readable.
    pub(crate) fn ring(&self) {
        if let Some(fd) = self.fd() {
            let _ = write_byte(fd);
        }
    }

    /// Takes all bytes out; whether there were any. `EBADF` if the descriptor is not ours any more.
    pub(crate) fn drain(&self) -> nix::Result<bool> {
        let fd = self.fd().ok_or(Errno::EBADF)?;
        let mut bytes = [0_u8; 256];
        let mut any = false;
        for _ in 0..READS {
            // SAFETY: the buffer is writable for its length.
            let count = unsafe {
                let (at, len) = (bytes.as_mut_ptr(), bytes.len() as c_long);
                libc::syscall(libc::SYS_read, fd.as_raw_fd(), at, len)
            };
            match Errno::result(count) {
                Ok(count) => {
                    any |= count > 0;
                    if count < bytes.len() as c_long {
                        break;
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(errno) => return Err(errno),
            }
        }
        Ok(any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CString;

    #[test]
    fn a_bell_that_became_something_else_is_left_alone() {
        let path = CString::new(format!("/dev/shm/mdg-test-bell-{}", std::process::id())).unwrap();
        let mine = nix::sys::stat::stat("/proc/self").unwrap();
        let me = Uid::effective().as_raw();
        assert_eq!(ring_at(&path, [me, me]), Rung::Nobody);
        let temporary = CString::new([path.to_bytes(), b".tmp"].concat()).unwrap();
        let fifo = make(&path, &temporary, &mine).unwrap();
        assert!(!std::fs::exists(temporary.to_str().unwrap()).unwrap());
        // What stands there already, under both names, is replaced.
        drop(fifo);
        assert_eq!(is_left(&path), Ok(true));
        mkfifo(&*temporary, Mode::S_IRUSR).unwrap();
        let fifo = make(&path, &temporary, &mine).unwrap();
        assert_eq!((is_left(&path), is_left(&temporary)), (Ok(false), Err(Errno::ENOENT)));
        // SAFETY: all-zero is no bell.
        let bell: Bell = unsafe { std::mem::zeroed() };
        assert_eq!(
            (bell.exists(), bell.fd().is_some(), bell.drain()),
            (false, false, Err(Errno::EBADF))
        );
        bell.note(&fifo);
        assert_eq!(bell.drain(), Ok(false));
        bell.ring();
        assert_eq!(ring_at(&path, [me, me]), Rung::Heard);
        assert_eq!((bell.drain(), bell.drain()), (Ok(true), Ok(false)));
        assert_eq!(ring_at(&path, [me + 1, me + 1]), Rung::Nobody);
        for _ in 0..70_000 {
            write_byte(fifo.0.unchecked()).unwrap();
        }
        assert_eq!((bell.drain(), bell.drain()), (Ok(true), Ok(false)));
        remove(&path);
        assert_eq!(ring_at(&path, [me, me]), Rung::Nobody);
        let (other, number) = (nix::unistd::pipe().unwrap().0, fifo.0.unchecked().as_raw_fd());
        // SAFETY: the FIFO's descriptor becomes one of the pipe, which the FIFO leaves alone.
        assert_eq!(unsafe { libc::dup2(other.as_raw_fd(), number) }, number);
        assert!(bell.fd().is_none());
        assert_eq!(bell.drain(), Err(Errno::EBADF));
        drop(fifo);
        // SAFETY: open, as the FIFO has left it alone, and nobody else's.
        let left = unsafe { OwnedFd::from_raw_fd(number) };
        assert_eq!(identity(&left), identity(&other));
    }

    /// Who removes what it has seen without a reader never removes one that somebody has. Each round
    /// has names of its own, as each handle has: an answer about a FIFO that is gone by then must not
    /// be taken for one about the next.
    #[test]
    fn one_with_a_reader_is_left_alone() {
        let mine = nix::sys::stat::stat("/proc/self").unwrap();
        let (round, over) = (AtomicU32::new(0), AtomicU32::new(0));
        let names = || {
            let (me, round) = (std::process::id(), round.load(Ordering::Relaxed));
            let path = format!("/dev/shm/mdg-test-fifo-{me}-{round}");
            [format!("{path}.tmp"), path].map(|name| CString::new(name).unwrap())
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while over.load(Ordering::Relaxed) == 0 {
                    for name in names() {
                        if is_left(&name) == Ok(true) {
                            remove(&name);
                        }
                    }
                }
            });
            for _ in 0..10_000 {
                let [temporary, path] = names();
                let fifo = make(&path, &temporary, &mine);
                if fifo.is_err() || is_left(&path) != Ok(false) {
                    over.store(1, Ordering::Relaxed);
                    panic!("it is gone: {fifo:?}");
                }
                remove(&path);
                round.fetch_add(1, Ordering::Relaxed);
            }
            over.store(1, Ordering::Relaxed);
        });
    }
}
