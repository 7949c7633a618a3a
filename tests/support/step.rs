//! A traced process, one instruction at a time, and the release library that it runs.
//!
//! The library under test is the one that programs get: built with optimisation, loaded with
//! dlopen(3), apart from the one that is linked into the test program. Parent and children have it at
//! the same address, so that the parent knows where its functions begin. Nothing of the code is
//! changed: the tracer looks at the instruction pointer after each step.

use std::ffi::{c_int, c_long, c_void};
use std::fs::canonicalize;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicU64, Ordering};

use madang::ffi::mutex::{mdg_cond, mdg_mutex};
use madang::ffi::ring::{mdg_ring, mdg_ring_opts, mdg_ring_stats};
use madang::ffi::sem::{mdg_sem, mdg_sem_opts};
use madang::ffi::shm::mdg_shm;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{Signal, raise};
use nix::unistd::Pid;

use super::process::{Child, fork, leave, serial};
use super::{library_dir, root};

/// Builds the release library of these sources; where it is.
pub fn release_library() -> PathBuf {
    let target = library_dir().join("../..");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--locked", "--release", "--lib", "--target-dir"])
        .arg(&target)
        .current_dir(root())
        .status()
        .unwrap();
    assert!(status.success(), "cargo build --release");
    canonicalize(target.join("release/libmadang.so")).unwrap()
}

macro_rules! functions {
    ($($name:ident = $symbol:literal, fn($($argument:ty),*) -> $result:ty;)*) => {
        /// The C functions of the release library.
        #[derive(Debug, Clone, Copy)]
        pub struct Release {
            $(pub $name: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl Release {
            /// Loads it, for ever.
            fn load(path: &Path) -> Self {
                let path = std::ffi::CString::new(path.as_os_str().as_bytes()).unwrap();
                // SAFETY: a C string; the library's initialisers are Rust's and harmless.
                let library = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW) };
                assert!(!library.is_null(), "dlopen {path:?}");
                Self {
                    $($name: {
                        // SAFETY: a live library and a C string; the type is that of the header.
                        unsafe {
                            let address = libc::dlsym(library, $symbol.as_ptr());
                            assert!(!address.is_null(), "{:?}", $symbol);
                            std::mem::transmute::<*mut c_void,
                                unsafe extern "C" fn($($argument),*) -> $result>(address)
                        }
                    },)*
                }
            }
        }
    };
}

functions! {
    open = c"mdg_ring_open", fn(*mut *mut mdg_ring, *const libc::c_char, *const mdg_ring_opts, c_int, libc::mode_t) -> c_int;
    unlink = c"mdg_ring_unlink", fn(*const libc::c_char) -> c_int;
    from_fd = c"mdg_ring_from_fd", fn(*mut *mut mdg_ring, c_int, *const mdg_ring_opts, c_int) -> c_int;
    memory = c"mdg_ring_memory", fn(*const mdg_ring) -> c_int;
    dup = c"mdg_ring_dup", fn(*mut *mut mdg_ring, *const mdg_ring, c_int) -> c_int;
    push = c"mdg_ring_push", fn(*mut mdg_ring, *const c_void, i64) -> c_int;
    pop = c"mdg_ring_pop", fn(*mut mdg_ring, *mut c_void, i64) -> c_int;
    push_many = c"mdg_ring_push_many", fn(*mut mdg_ring, *const c_void, usize, i64) -> isize;
    pop_many = c"mdg_ring_pop_many", fn(*mut mdg_ring, *mut c_void, usize, i64) -> isize;
    reserve = c"mdg_ring_reserve", fn(*mut mdg_ring, *mut *mut c_void, usize, i64) -> isize;
    commit = c"mdg_ring_commit", fn(*mut mdg_ring, usize) -> c_int;
    peek = c"mdg_ring_peek", fn(*mut mdg_ring, *mut *const c_void, usize, i64) -> isize;
    release = c"mdg_ring_release", fn(*mut mdg_ring, usize) -> c_int;
    shutdown = c"mdg_ring_shutdown", fn(*mut mdg_ring) -> c_int;
    stat = c"mdg_ring_stat", fn(*const mdg_ring, *mut mdg_ring_stats) -> c_int;
    close = c"mdg_ring_close", fn(*mut mdg_ring) -> ();
    fd = c"mdg_ring_fd", fn(*mut mdg_ring, u32) -> c_int;
    cancel = c"mdg_ring_cancel", fn(*mut mdg_ring) -> c_int;
    footprint = c"mdg_ring_footprint", fn(*const mdg_ring_opts) -> isize;
    init = c"mdg_ring_init", fn(*mut *mut mdg_ring, *const mdg_shm, usize, *const mdg_ring_opts, c_int) -> c_int;
    attach = c"mdg_ring_attach", fn(*mut *mut mdg_ring, *const mdg_shm, usize, *const mdg_ring_opts, c_int) -> c_int;
    shm_anonymous = c"mdg_shm_anonymous", fn(*mut *mut mdg_shm, usize, u32) -> c_int;
    shm_addr = c"mdg_shm_addr", fn(*const mdg_shm) -> *mut c_void;
    shm_close = c"mdg_shm_close", fn(*mut mdg_shm) -> ();
    reap = c"mdg_object_reap", fn(u32, *const libc::c_char, u32) -> c_int;
    sem_undo_footprint = c"mdg_sem_undo_footprint", fn(*const mdg_sem_opts) -> isize;
    sem_undo_init = c"mdg_sem_undo_init", fn(*mut *mut mdg_sem, *const mdg_shm, usize, *const mdg_sem_opts) -> c_int;
    sem_undo_attach = c"mdg_sem_undo_attach", fn(*mut *mut mdg_sem, *const mdg_shm, usize, *const mdg_sem_opts) -> c_int;
    sem_open = c"mdg_sem_open", fn(*mut *mut mdg_sem, *const libc::c_char, *const mdg_sem_opts, c_int, libc::mode_t) -> c_int;
    sem_wait = c"mdg_sem_wait", fn(*mut mdg_sem, i64) -> c_int;
    sem_post = c"mdg_sem_post", fn(*mut mdg_sem) -> c_int;
    sem_value = c"mdg_sem_value", fn(*mut mdg_sem) -> c_int;
    sem_close = c"mdg_sem_close", fn(*mut mdg_sem) -> ();
    sem_unlink = c"mdg_sem_unlink", fn(*const libc::c_char) -> c_int;
    mutex_open = c"mdg_mutex_open", fn(*mut *mut mdg_mutex, *const libc::c_char, c_int, libc::mode_t) -> c_int;
    mutex_lock = c"mdg_mutex_lock", fn(*mut mdg_mutex, i64) -> c_int;
    mutex_unlock = c"mdg_mutex_unlock", fn(*mut mdg_mutex) -> c_int;
    mutex_consistent = c"mdg_mutex_consistent", fn(*mut mdg_mutex) -> c_int;
    mutex_close = c"mdg_mutex_close", fn(*mut mdg_mutex) -> ();
    mutex_unlink = c"mdg_mutex_unlink", fn(*const libc::c_char) -> c_int;
    cond_open = c"mdg_cond_open", fn(*mut *mut mdg_cond, *const libc::c_char, c_int, libc::mode_t) -> c_int;
    cond_wait = c"mdg_cond_wait", fn(*mut mdg_cond, *mut mdg_mutex, i64) -> c_int;
    cond_signal = c"mdg_cond_signal", fn(*mut mdg_cond) -> c_int;
    cond_close = c"mdg_cond_close", fn(*mut mdg_cond) -> ();
    cond_unlink = c"mdg_cond_unlink", fn(*const libc::c_char) -> c_int;
}

/// Whether everything is asked for, rather than a part.
pub fn is_long() -> bool {
    std::env::var_os("MADANG_LONG").is_some_and(|value| value == "1")
}

/// A turn, on one processor: tracer and traced run in turns anyway, which is faster so; and calls that
/// wait do not spin where they could run on no other processor.
pub fn turn() -> MutexGuard<'static, ()> {
    let turn = serial();
    let mut one = CpuSet::new();
    // SAFETY: cannot fail.
    one.set(unsafe { libc::sched_getcpu() } as usize).unwrap();
    sched_setaffinity(Pid::from_raw(0), &one).unwrap();
    turn
}

/// A row of the table in docs/verification.md. States: images of the memory, or places in a call.
pub fn row(object: &str, call: &str, how: &str, cases: u64, instructions: u64, states: u64) {
    println!("| {object} | {call} | {how} | {cases} | {instructions} | {states} |");
}

/// The release library, built and loaded once.
pub fn release() -> &'static Release {
    static RELEASE: std::sync::OnceLock<Release> = std::sync::OnceLock::new();
    RELEASE.get_or_init(|| Release::load(&release_library()))
}

/// The instruction that calls the kernel.
const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// Where `struct user` has the breakpoint registers.
const DEBUG: usize = std::mem::offset_of!(libc::user, u_debugreg);

/// Where a victim stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// After an instruction of one of the calls: how many there were in all of them, and whether it
    /// was a system call.
    Inside { instructions: u64, kernel: bool },
    /// Between two calls.
    Between,
}

/// A traced child, stopped just before what it is to do.
pub struct Victim {
    child: Child,
    mark: &'static AtomicU64,
}

impl Victim {
    /// Runs `prepare` at full speed, then stops; `act` is what will be traced, `then` what the child
    /// does if it is let go.
    pub fn new<S>(
        mark: &'static AtomicU64,
        prepare: impl FnOnce() -> S,
        act: impl FnOnce(&mut S),
        then: impl FnOnce(S),
    ) -> Self {
        mark.store(0, Ordering::SeqCst);
        let child = fork(|| {
            let mut state = prepare();
            // SAFETY: no addresses are used.
            assert_eq!(unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) }, 0);
            raise(Signal::SIGSTOP).unwrap();
            act(&mut state);
            mark.store(1, Ordering::SeqCst);
            then(state);
            leave(0);
        });
        let victim = Self { child, mark };
        assert_eq!(victim.stopped_by(), Some(libc::SIGSTOP), "the victim's preparations");
        victim
    }

    pub fn pid(&self) -> Pid {
        self.child.pid()
    }

    fn request(&self, request: u32, argument: usize) -> c_long {
        // SAFETY: these requests read and write no memory of ours.
        unsafe { libc::ptrace(request as _, self.child.pid().as_raw(), argument, 0) }
    }

    /// The signal that stopped it; `None` if it has ended.
    fn stopped_by(&self) -> Option<c_int> {
        let (pid, mut status) = (self.child.pid().as_raw(), 0);
        // SAFETY: a writable number.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        libc::WIFSTOPPED(status).then(|| libc::WSTOPSIG(status))
    }

    fn registers(&self) -> libc::user_regs_struct {
        // SAFETY: numbers, of which none is invalid.
        let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
        let (pid, into) = (self.child.pid().as_raw(), &raw mut registers);
        // SAFETY: writes that structure.
        assert_eq!(unsafe { libc::ptrace(libc::PTRACE_GETREGS, pid, 0, into) }, 0);
        registers
    }

    fn one(&self) {
        assert_eq!(self.request(libc::PTRACE_SINGLESTEP, 0), 0);
        assert_eq!(self.stopped_by(), Some(libc::SIGTRAP), "the victim, after a step");
    }

    /// Runs to the first call at full speed, by a breakpoint in a register of the processor. Where
    /// there is none, nothing happens, and the caller steps there.
    fn run_to(&self, call: usize) {
        let set = |register: usize, value: usize| {
            let offset = DEBUG + register * size_of::<usize>();
            let pid = self.child.pid().as_raw();
            // SAFETY: no memory of ours is read or written.
            unsafe { libc::ptrace(libc::PTRACE_POKEUSER as _, pid, offset, value) == 0 }
        };
        if set(0, call) && set(7, 1) {
            assert_eq!(self.request(libc::PTRACE_CONT, 0), 0);
            assert_eq!(self.stopped_by(), Some(libc::SIGTRAP), "the victim, on its way");
            assert_eq!(self.registers().rip as usize, call);
            set(7, 0);
        }
    }

    /// Steps until `act` is over, or `each` says so. `calls` are the functions that count, by address.
    /// Returns the instructions that were executed inside of them.
    pub fn step(&self, calls: &[usize], mut each: impl FnMut(At) -> ControlFlow<()>) -> u64 {
        let mut instructions = 0;
        self.run_to(calls[0]);
        while self.mark.load(Ordering::SeqCst) == 0 {
            let mut now = self.registers();
            if !calls.contains(&(now.rip as usize)) {
                self.one();
                if each(At::Between).is_break() {
                    return instructions;
                }
                continue;
            }
            let stack = now.rsp;
            let back = self.request(libc::PTRACE_PEEKDATA, stack as usize) as u64;
            loop {
                // SAFETY: the same code is mapped in this process, at the same address.
                let code = unsafe { (now.rip as *const [u8; 2]).read_unaligned() };
                self.one();
                instructions += 1;
                let kernel = code == SYSCALL;
                if each(At::Inside { instructions, kernel }).is_break() {
                    return instructions;
                }
                now = self.registers();
                if now.rip == back && now.rsp > stack {
                    break;
                }
            }
        }
        instructions
    }

    /// Runs at full speed to the `stop`-th stop at a system call of `act`: one before and one after
    /// each. `false`: `act` was over before.
    pub fn run_to_system_call(&self, call: usize, stop: u64) -> bool {
        self.run_to(call);
        for _ in 0..stop {
            assert_eq!(self.request(libc::PTRACE_SYSCALL, 0), 0);
            assert_eq!(self.stopped_by(), Some(libc::SIGTRAP), "the victim, at a system call");
            if self.mark.load(Ordering::SeqCst) != 0 {
                return false;
            }
        }
        true
    }

    /// SIGKILL; it is gone when this returns.
    pub fn kill(self) {
        super::process::kill(self.child);
    }

    /// Lets it go, and waits until it has ended well.
    pub fn finish(self) {
        assert_eq!(self.request(libc::PTRACE_DETACH, 0), 0);
        super::process::join(self.child);
    }
}
