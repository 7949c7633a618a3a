//! The guard against SIGBUS: what to do when a peer has made a mapped file shorter.
//!
//! Touching a page of a mapping that lies behind the end of its file raises SIGBUS, whose default is
//! death. A program that opts in gets a handler that looks whether the address lies in a mapping of
//! this library, puts a page of zeros in its place, marks the mapping as cut, and returns: the
//! instruction runs again, and the next look at the mark says what happened. Any other SIGBUS goes to
//! the handler that was there before, or kills as it would have.
//!
//! The table of mappings is static and lock-free: a handler may read it at any instruction. An entry
//! is written `end`, then `start`; it is removed by `start` = 0 first. So an entry seen with a start
//! has its end; one that is being removed may be missed, when its mapping is no longer used.

use std::cell::UnsafeCell;
use std::ffi::{c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;

use super::{futex, page};

/// Mappings that can be guarded at once in a process; those beyond are not.
const MOST: usize = 4096;

/// The entry number of a mapping that is not guarded.
const NONE: u32 = u32::MAX;

struct Entry {
    start: AtomicUsize,
    end: AtomicUsize,
    /// 1 once a page was replaced.
    cut: AtomicU32,
    /// The words of [`Stops`]; null where there is none.
    flags: AtomicPtr<AtomicU32>,
    run: AtomicPtr<AtomicU64>,
    /// Taken by a mapping.
    taken: AtomicBool,
}

static TABLE: [Entry; MOST] = [const {
    Entry {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        cut: AtomicU32::new(0),
        flags: AtomicPtr::new(ptr::null_mut()),
        run: AtomicPtr::new(ptr::null_mut()),
        taken: AtomicBool::new(false),
    }
}; MOST];

/// Entries in use lie below this.
static HIGH: AtomicUsize = AtomicUsize::new(0);

/// Words in which the handler sets bits when a mapping has lost a page, so that fast paths, which look
/// at these words anyway, end with the call that was in progress.
#[derive(Debug)]
pub(crate) struct Stops<'a> {
    /// In the mapping, if that may be written. The bits are [`FLAGS`].
    pub flags: Option<NonNull<AtomicU32>>,
    /// In private memory. The bit is [`CUT`].
    pub run: &'a AtomicU64,
}

/// Set in [`Stops::flags`]: a ring's "found corrupt", in shared memory.
pub(crate) const FLAGS: u32 = 0x2;
/// Set in [`Stops::run`].
pub(crate) const CUT: u64 = 1 << 63;

/// A mapping's entry, for as long as it is mapped at that place.
#[derive(Debug)]
pub(crate) struct Guarded(u32);

impl Guarded {
    /// Enters a mapping of `len` bytes at `start`.
    pub(crate) fn new(start: usize, len: usize) -> Self {
        for (number, entry) in TABLE.iter().enumerate() {
            let order = (Ordering::AcqRel, Ordering::Relaxed);
            if entry.taken.compare_exchange(false, true, order.0, order.1).is_err() {
                continue;
            }
            HIGH.fetch_max(number + 1, Ordering::Relaxed);
            entry.cut.store(0, Ordering::Relaxed);
            entry.flags.store(ptr::null_mut(), Ordering::Relaxed);
            entry.run.store(ptr::null_mut(), Ordering::Relaxed);
            // All of the pages, though the mapping may begin and end in the midst of one.
            let page = page::size().get();
            let (end, start) = ((start + len).next_multiple_of(page), start & !(page - 1));
            entry.end.store(end, Ordering::Relaxed);
            // Release: pairs with the handler's Acquire.
            entry.start.store(start, Ordering::Release);
            return Self(number as u32);
        }
        Self(NONE)
    }

    fn entry(&self) -> Option<&'static Entry> {
        TABLE.get(self.0 as usize)
    }

    /// Has the handler set bits in `stops` once the mapping has lost a page.
    ///
    /// # Safety
    /// The words outlive the last access to this mapping.
    pub(crate) unsafe fn stop(&self, stops: &Stops<'_>) {
        let Some(entry) = self.entry() else { return };
        let flags = stops.flags.map_or(ptr::null_mut(), NonNull::as_ptr);
        // Release, both: pair with the handler's Acquires.
        entry.flags.store(flags, Ordering::Release);
        entry.run.store(ptr::from_ref(stops.run).cast_mut(), Ordering::Release);
    }

    /// Whether the file was found shorter than the mapping.
    pub(crate) fn is_cut(&self) -> bool {
        self.entry().is_some_and(|entry| entry.cut.load(Ordering::Relaxed) != 0)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        if let Some(entry) = self.entry() {
            entry.start.store(0, Ordering::Release);
            entry.taken.store(false, Ordering::Release);
        }
    }
}

/// The action that was there before the guard: written once, before the guard's handler can run.
struct Previous(UnsafeCell<MaybeUninit<libc::sigaction>>);

// SAFETY: written under `INSTALL` before the handler is installed, read by the handler only.
unsafe impl Sync for Previous {}

static PREVIOUS: Previous = Previous(UnsafeCell::new(MaybeUninit::uninit()));
static INSTALL: Mutex<bool> = Mutex::new(false);

/// Installs the guard for this process, once.
pub(crate) fn install() -> nix::Result<()> {
    let mut installed = INSTALL.lock().unwrap_or_else(PoisonError::into_inner);
    if *installed {
        return Ok(());
    }
    // SAFETY: plain structures; the handler below does what a signal handler may.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        let mut previous = MaybeUninit::<libc::sigaction>::uninit();
        Errno::result(libc::sigaction(libc::SIGBUS, ptr::null(), previous.as_mut_ptr()))?;
        PREVIOUS.0.get().write(previous);
        action.sa_sigaction = handle as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        libc::sigemptyset(&raw mut action.sa_mask);
        Errno::result(libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()))?;
    }
    *installed = true;
    Ok(())
}

extern "C" fn handle(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let errno = Errno::last_raw();
    // SAFETY: the kernel hands a valid siginfo to an SA_SIGINFO handler.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    if code == libc::BUS_ADRERR && repair(address, page::size().get()) {
        Errno::set_raw(errno);
        return;
    }
    // SAFETY: written before this handler was installed.
    let previous = unsafe { (*PREVIOUS.0.get()).assume_init_ref() };
    match previous.sa_sigaction {
        // A fault that is ignored, or not handled, kills: once the default is back, the same
        // instruction raises the signal again.
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: a plain structure; sigaction is async-signal-safe.
            unsafe {
                let default: libc::sigaction = std::mem::zeroed();
                libc::sigaction(signal, &raw const default, ptr::null_mut());
                if code <= 0 {
                    // Sent by somebody, not raised by an instruction that would raise it again.
                    libc::raise(signal);
                }
            }
        }
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: installed with SA_SIGINFO, so it is a function of this type.
            let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                unsafe { std::mem::transmute(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: installed without SA_SIGINFO, so it is a function of this type.
            let handler: extern "C" fn(c_int) = unsafe { std::mem::transmute(handler) };
            handler(signal);
        }
    }
    Errno::set_raw(errno);
}

/// Puts a page of zeros, of `size` bytes, where a guarded mapping has lost its own.
fn repair(address: usize, size: usize) -> bool {
    let page = address & !(size - 1);
    for entry in &TABLE[..HIGH.load(Ordering::Relaxed)] {
        // Acquire: pairs with `new`.
        let start = entry.start.load(Ordering::Acquire);
        if start == 0 || page < start || page >= entry.end.load(Ordering::Relaxed) {
            continue;
        }
        entry.cut.store(1, Ordering::Relaxed);
        if !replace(page, size) {
            return false;
        }
        // SAFETY: `stop`'s contract: an instruction accesses the mapping at this very moment.
        unsafe { stop(entry, size) };
        return true;
    }
    false
}

/// Replaces one page of a mapping.
fn replace(page: usize, size: usize) -> bool {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: replaces one page of a mapping of ours, which nobody can use as it is: touching it
    // faults. A raw system call, which a handler may make.
    let mapped =
        unsafe { libc::syscall(libc::SYS_mmap, page, size, protection, flags, -1_i64, 0_i64) };
    mapped == page as i64
}

/// Tells the fast paths.
///
/// # Safety
/// What `entry` points to is there.
unsafe fn stop(entry: &Entry, size: usize) {
    // SAFETY: the caller's promise.
    if let Some(run) = unsafe { entry.run.load(Ordering::Acquire).as_ref() } {
        run.fetch_or(CUT, Ordering::Relaxed);
    }
    let flags = entry.flags.load(Ordering::Acquire);
    // The page of the flags may be gone, too. A fault in the handler would need the stack for another
    // signal, which an alternate stack need not have: so the kernel stores, and says if it cannot.
    if !flags.is_null() && !futex::set_bits(flags, FLAGS) {
        replace(flags.addr() & !(size - 1), size);
        // SAFETY: the caller's promise; the page is there now.
        unsafe { &*flags }.fetch_or(FLAGS, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::Mapping;

    /// With pages larger than this machine's, an object may begin in the midst of one.
    #[test]
    fn large_pages() {
        const LARGE: usize = 16 << 10;
        let file = nix::sys::memfd::memfd_create(c"large", nix::sys::memfd::MFdFlags::MFD_CLOEXEC);
        let file = file.unwrap();
        nix::unistd::ftruncate(&file, 8 * LARGE as i64).unwrap();
        let mapping = Mapping::new(&file, 8 * LARGE, true).unwrap();
        let start = mapping.address().as_ptr();
        let first = start.wrapping_add(start.align_offset(LARGE));
        // SAFETY: inside the mapping, of which the test has the only one.
        unsafe { first.add(3 * LARGE).write(7) };
        // SAFETY: as above.
        unsafe { first.add(4 * LARGE).write(8) };
        // SAFETY: as above.
        unsafe { first.add(5 * LARGE).write(9) };
        let (run, flags) = (AtomicU64::new(3), AtomicU32::new(1));
        // SAFETY: they outlive the mapping's use below.
        unsafe { mapping.on_cut(&Stops { flags: Some(NonNull::from(&flags)), run: &run }) };
        assert!(!mapping.is_cut());
        assert!(repair(first.addr() + 4 * LARGE + 4097, LARGE));
        assert!(mapping.is_cut());
        assert_eq!((run.into_inner(), flags.into_inner()), (CUT | 3, FLAGS | 1));
        // SAFETY: as above; the page that was replaced is mapped.
        let bytes = unsafe { [3, 4, 5].map(|page| first.add(page * LARGE).read_volatile()) };
        assert_eq!(bytes, [7, 0, 9]);
        assert!(!repair(first.addr() + 9 * LARGE, LARGE), "not a mapping of ours");
    }
}
