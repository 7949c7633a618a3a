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
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;

const PAGE: usize = 4096;

/// Mappings that can be guarded at once in a process; those beyond are not.
const MOST: usize = 4096;

/// The entry number of a mapping that is not guarded.
const NONE: u32 = u32::MAX;

struct Entry {
    start: AtomicUsize,
    end: AtomicUsize,
    /// 1 once a page was replaced.
    cut: AtomicU32,
    /// Taken by a mapping.
    taken: AtomicBool,
}

static TABLE: [Entry; MOST] = [const {
    Entry {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        cut: AtomicU32::new(0),
        taken: AtomicBool::new(false),
    }
}; MOST];

/// Entries in use lie below this.
static HIGH: AtomicUsize = AtomicUsize::new(0);

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
            entry.end.store(start + len.next_multiple_of(PAGE), Ordering::Relaxed);
            // Release: pairs with the handler's Acquire.
            entry.start.store(start, Ordering::Release);
            return Self(number as u32);
        }
        Self(NONE)
    }

    fn entry(&self) -> Option<&'static Entry> {
        TABLE.get(self.0 as usize)
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
    if code == libc::BUS_ADRERR && repair(address) {
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

/// Puts a page of zeros where a guarded mapping has lost its own.
fn repair(address: usize) -> bool {
    let page = address & !(PAGE - 1);
    for entry in &TABLE[..HIGH.load(Ordering::Relaxed)] {
        // Acquire: pairs with `new`.
        let start = entry.start.load(Ordering::Acquire);
        if start == 0 || page < start || page >= entry.end.load(Ordering::Relaxed) {
            continue;
        }
        entry.cut.store(1, Ordering::Relaxed);
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: replaces one page of a mapping of ours, which nobody can use as it is: touching it
        // faults. A raw system call, which a handler may make.
        let mapped =
            unsafe { libc::syscall(libc::SYS_mmap, page, PAGE, protection, flags, -1_i64, 0_i64) };
        return mapped == page as i64;
    }
    false
}
