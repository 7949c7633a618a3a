//! A process is killed, or stopped, in calls that work with names and with the kernel: making, opening,
//! closing and unlinking rings, semaphores of both kinds, mutexes, condition variables. What others
//! see of these is changed by system calls, which only real kills can show: at each system call,
//! before and after it; and, where a call is short, after each instruction.
//!
//! As a rule of `cargo test` every so-manieth place is tried; all of them with MADANG_LONG=1.
#![cfg(target_arch = "x86_64")]

mod support;

use std::cell::Cell;
use std::ffi::CString;
use std::ops::ControlFlow;
use std::ptr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use madang::ffi::mutex::{mdg_cond, mdg_mutex};
use madang::ffi::ring::*;
use madang::ffi::sem::{MDG_SEM_POSIX, MDG_SEM_UNDO, mdg_sem, mdg_sem_opts};
use support::process::{Child, fork, join, shared_words};
use support::step::{At, Release, Victim, is_long, release, row, turn};
use support::unique;

const CREATE: i32 = libc::O_RDWR | libc::O_CREAT;

/// Longer than any of these waits may take: 20 s.
const LONG: i64 = 20_000_000_000;

/// How long a wait may take that somebody was killed in the way of.
const BOUND: Duration = Duration::from_secs(2);

/// Names in /dev/shm that belong to this test's object, or are left-overs of its victim.
fn names(part: &str) -> Vec<String> {
    let names = std::fs::read_dir("/dev/shm").unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains(part)).collect()
}

/// Temporary names of this process's victim, and of others.
fn leftovers() -> usize {
    names("mdg.tmp").len()
}

/// A call, and where its victims are halted.
#[derive(Clone, Copy)]
struct Call {
    object: &'static str,
    name: &'static str,
    function: usize,
    /// Every so-manieth stop at a system call, one before and one after each; all in the long form.
    kernel: u64,
    /// Every so-manieth instruction, in the short form and in the long one; 0: none of them.
    instruction: u64,
    apart: u64,
}

impl Call {
    /// Of thousands of instructions, most of them the kernel's and the C library's business.
    fn far(object: &'static str, name: &'static str, function: usize) -> Self {
        Self { object, name, function, kernel: 5, instruction: 0, apart: 4999 }
    }

    /// Of some hundreds at most.
    fn near(object: &'static str, name: &'static str, function: usize) -> Self {
        Self { object, name, function, kernel: 2, instruction: 17, apart: 1 }
    }

    /// Has a victim halted in `act` at each place in turn, until one gets through. `ready` is done when
    /// it is about to begin, `then` says what becomes of it, and looks.
    fn halted<S>(
        &self,
        how: &str,
        prepare: impl Fn() -> S,
        act: impl Fn(&mut S),
        end: impl Fn(S),
        mut ready: impl FnMut(),
        mut then: impl FnMut(Victim),
    ) {
        let mark = &shared_words(1)[0];
        let (mut tried, mut instructions) = (0, 0);
        for (in_kernel, usual) in [(true, self.kernel), (false, self.instruction)] {
            let stride = match is_long() {
                true if in_kernel => 1,
                true => self.apart,
                false => usual,
            };
            if stride == 0 {
                continue;
            }
            for place in (1 + stride / 2..).step_by(stride as usize) {
                let victim = Victim::new(mark, &prepare, &act, &end);
                ready();
                let reached = if in_kernel {
                    victim.run_to_system_call(self.function, place)
                } else {
                    let mut reached = false;
                    let steps = victim.step(&[self.function], |at| match at {
                        At::Inside { instructions, .. } if instructions == place => {
                            reached = true;
                            ControlFlow::Break(())
                        }
                        _ => ControlFlow::Continue(()),
                    });
                    instructions = instructions.max(steps);
                    reached
                };
                then(victim);
                tried += 1;
                if !reached {
                    break;
                }
            }
        }
        assert!(tried > 1, "{}", self.name);
        row(self.object, self.name, how, 1, instructions, tried);
    }

    /// The same with victims that are killed; `check` looks at what is left.
    fn killed<S>(&self, prepare: impl Fn() -> S, act: impl Fn(&mut S), mut check: impl FnMut()) {
        let then = |victim: Victim| {
            victim.kill();
            check();
        };
        self.halted("killed", prepare, act, drop, || (), then);
    }
}

fn ring_options(kind: u32, policy: u32) -> mdg_ring_opts {
    mdg_ring_opts {
        size: size_of::<mdg_ring_opts>(),
        capacity: 4,
        item_size: 8,
        kind,
        max_handles: 3,
        policy,
        flags: if kind == MDG_RING_BROADCAST { MDG_RING_OLDEST } else { 0 },
        reserved: 0,
    }
}

/// A named ring of one kind.
struct Named {
    lib: &'static Release,
    text: String,
    name: CString,
    options: mdg_ring_opts,
}

impl Named {
    fn new(kind: u32, policy: u32) -> Self {
        let text = unique("named");
        let name = CString::new(text.clone()).unwrap();
        Self { lib: release(), text, name, options: ring_options(kind, policy) }
    }

    fn open(&self, oflag: i32) -> Result<*mut mdg_ring, i32> {
        let mut ring = ptr::null_mut();
        let options = &raw const self.options;
        // SAFETY: writable, a C string, options with their size.
        match unsafe { (self.lib.open)(&raw mut ring, self.name.as_ptr(), options, oflag, 0o600) } {
            0 => Ok(ring),
            code => Err(code),
        }
    }

    /// Where the ring is in /dev/shm: once, or not at all.
    fn is_there(&self) -> bool {
        let names = names(&self.text[1..]);
        assert!(names.len() <= 1, "{names:?}");
        !names.is_empty()
    }

    fn unlink(&self) -> i32 {
        // SAFETY: a C string.
        unsafe { (self.lib.unlink)(self.name.as_ptr()) }
    }

    fn close(&self, ring: *mut mdg_ring) {
        // SAFETY: a live handle that nobody uses any more.
        unsafe { (self.lib.close)(ring) };
    }

    fn push(&self, ring: *mut mdg_ring, item: u64) -> i32 {
        // SAFETY: a live handle, an item of 8 bytes.
        unsafe { (self.lib.push)(ring, (&raw const item).cast(), 0) }
    }

    /// What is inside comes out, an item goes through, and all handles can be open at once.
    fn is_usable(&self) {
        let handles = [libc::O_RDONLY, libc::O_RDWR].map(|oflag| self.open(oflag).unwrap());
        let pop = || {
            let mut item = 0_u64;
            // SAFETY: a live handle, room for an item.
            let code = unsafe { (self.lib.pop)(handles[0], (&raw mut item).cast(), 0) };
            if code == 0 { Ok(item) } else { Err(code) }
        };
        while pop().is_ok() {}
        assert_eq!(pop(), Err(-libc::EAGAIN));
        assert_eq!(self.push(handles[1], 7), 0);
        assert_eq!(pop(), Ok(7));
        let third = (self.options.kind != MDG_RING_SPSC).then(|| self.open(libc::O_RDWR).unwrap());
        handles.into_iter().chain(third).for_each(|ring| self.close(ring));
    }
}

const KINDS: [(&str, u32, u32); 8] = [
    ("one to one", MDG_RING_SPSC, 0),
    ("many to many", MDG_RING_MPMC, 0),
    ("many to many, overwriting", MDG_RING_MPMC, MDG_RING_OVERWRITE),
    ("many to many, redelivering", MDG_RING_MPMC, MDG_RING_REDELIVER),
    ("stop-proof", MDG_RING_MPMC, MDG_RING_STOPPROOF),
    ("broadcast", MDG_RING_BROADCAST, 0),
    ("broadcast, evicting", MDG_RING_BROADCAST, MDG_RING_EVICT),
    ("broadcast, overwriting", MDG_RING_BROADCAST, MDG_RING_OVERWRITE),
];

/// A name leads to a whole ring or to nothing, and nothing else is left behind.
#[test]
fn a_ring_is_made_whole_or_not_at_all() {
    let _turn = turn();
    for (object, kind, policy) in KINDS {
        let named = Named::new(kind, policy);
        let before = leftovers();
        Call::far(object, "make", named.lib.open as usize).killed(
            || (),
            |()| assert!(named.open(CREATE).is_ok()),
            || {
                let found = named.open(libc::O_RDWR);
                assert_eq!(found.is_ok(), named.is_there(), "{found:?}");
                named.close(found.or_else(|_| named.open(CREATE)).unwrap());
                named.is_usable();
                assert_eq!(named.unlink(), 0);
                assert!(!named.is_there());
                assert!(leftovers() <= before, "a temporary name was left");
            },
        );
    }
}

/// A handle that was being opened or closed leaves its place, and its end, to the next.
#[test]
fn a_handle_is_there_or_not() {
    let _turn = turn();
    for (object, kind, policy) in KINDS {
        let named = Named::new(kind, policy);
        let keeper = named.open(CREATE).unwrap();
        let check = || {
            let others = [libc::O_RDONLY, libc::O_WRONLY].map(|oflag| named.open(oflag).unwrap());
            others.into_iter().for_each(|ring| named.close(ring));
        };
        for (name, oflag) in
            [("open, O_WRONLY", libc::O_WRONLY), ("open, O_RDONLY", libc::O_RDONLY)]
        {
            Call::far(object, name, named.lib.open as usize).killed(
                || (),
                |()| assert!(named.open(oflag).is_ok()),
                check,
            );
        }
        let used = || {
            let ring = named.open(libc::O_RDWR).unwrap();
            assert_eq!(named.push(ring, 1), 0);
            let mut item = 0_u64;
            // SAFETY: a live handle, room for an item.
            unsafe { (named.lib.pop)(ring, (&raw mut item).cast(), 0) };
            ring
        };
        let close = Call::far(object, "close", named.lib.close as usize);
        Call { instruction: 499, apart: 7, ..close }.killed(used, |ring| named.close(*ring), check);
        named.close(keeper);
        named.is_usable();
        assert_eq!(named.unlink(), 0);
    }
}

/// It has its name or not; if it has, the next unlink removes it.
#[test]
fn a_ring_is_unlinked_or_not() {
    let _turn = turn();
    let named = Named::new(MDG_RING_MPMC, 0);
    let unlink = named.lib.unlink as usize;
    let call = Call { kernel: 1, apart: 97, ..Call::far("a ring", "unlink", unlink) };
    call.killed(
        || named.close(named.open(CREATE).unwrap()),
        |()| assert_eq!(named.unlink(), 0),
        || {
            let there = named.is_there();
            assert_eq!(named.unlink(), if there { 0 } else { -libc::ENOENT });
            assert!(!named.is_there());
        },
    );
}

/// A semaphore of either kind, opened or made.
fn open_semaphore(name: &CString, kind: u32, value: u32) -> *mut mdg_sem {
    let (size, mut sem) = (size_of::<mdg_sem_opts>(), ptr::null_mut());
    let max_handles = if kind == MDG_SEM_UNDO { 4 } else { 0 };
    let opts = mdg_sem_opts { size, value, kind, flags: 0, max_handles };
    let (name, opts) = (name.as_ptr(), &raw const opts);
    // SAFETY: writable, a C string, options with their size.
    let code = unsafe { (release().sem_open)(&raw mut sem, name, opts, CREATE, 0o600) };
    assert_eq!(code, 0);
    sem
}

fn wait(sem: *mut mdg_sem, timeout: i64) -> i32 {
    // SAFETY: a live handle.
    unsafe { (release().sem_wait)(sem, timeout) }
}

fn post(sem: *mut mdg_sem) {
    // SAFETY: a live handle.
    assert_eq!(unsafe { (release().sem_post)(sem) }, 0);
}

fn value(sem: *mut mdg_sem) -> u64 {
    // SAFETY: a live handle.
    let value = unsafe { (release().sem_value)(sem) };
    value.try_into().unwrap()
}

fn close_semaphore(sem: *mut mdg_sem, name: &CString) {
    // SAFETY: a live handle that nobody uses any more; a C string.
    unsafe {
        (release().sem_close)(sem);
        assert_eq!((release().sem_unlink)(name.as_ptr()), 0);
    }
}

/// A child that has begun to wait when this returns, as far as can be seen from outside: it sleeps.
fn asleep(body: impl FnOnce()) -> Child {
    let child = fork(body);
    let start = Instant::now();
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{}/syscall", child.pid())).unwrap();
        // futex(2), and not restarted yet, or a running process.
        if stat.starts_with("202 ") {
            return child;
        }
        assert!(start.elapsed() < BOUND, "it does not sleep: {stat}");
        std::thread::yield_now();
    }
}

/// The end of a sleeper who must not sleep on.
#[track_caller]
fn join_soon(sleeper: Child) {
    let start = Instant::now();
    join(sleeper);
    assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
}

const PERMITS: u64 = 3;

/// All permits can be taken and no more, within a bound; then all are given back. How many.
fn all_permits(sem: *mut mdg_sem) -> u64 {
    let there = value(sem);
    (0..there).for_each(|_| assert_eq!(wait(sem, 0), 0));
    assert_eq!(wait(sem, 0), -libc::EAGAIN);
    assert_eq!(wait(sem, 1000), -libc::ETIMEDOUT);
    (0..there).for_each(|_| post(sem));
    there
}

/// A permit of a POSIX semaphore is taken, or given, at one moment, once.
#[test]
fn a_posix_permit_is_there_or_not() {
    let _turn = turn();
    let (lib, object) = (release(), "semaphore");
    let name = CString::new(unique("posix")).unwrap();
    let survivor = open_semaphore(&name, MDG_SEM_POSIX, PERMITS as u32);
    let open = || open_semaphore(&name, MDG_SEM_POSIX, 0);
    let refill = |there| (there..PERMITS).for_each(|_| post(survivor));
    let mut before = PERMITS;
    Call::near(object, "wait", lib.sem_wait as usize).killed(
        open,
        |sem| assert_eq!(wait(*sem, 0), 0),
        || {
            let there = all_permits(survivor);
            assert!((PERMITS - 1..=PERMITS).contains(&there));
            // At system calls first, then at instructions: each in order.
            assert!(there <= before || there == PERMITS, "taken, and back again");
            before = there;
            refill(there);
        },
    );
    let taken = || {
        let sem = open();
        assert_eq!(wait(sem, 0), 0);
        sem
    };
    Call::near(object, "post", lib.sem_post as usize).killed(
        taken,
        |sem| post(*sem),
        || {
            let there = all_permits(survivor);
            assert!((PERMITS - 1..=PERMITS).contains(&there));
            refill(there);
        },
    );
    // Beside one that is stopped: whoever wants a permit has it or does not; then all adds up.
    Call::near(object, "wait", lib.sem_wait as usize).halted(
        "stopped",
        open,
        |sem| assert_eq!(wait(*sem, LONG), 0),
        post,
        || (),
        |victim| {
            let there = all_permits(survivor);
            assert!((PERMITS - 1..=PERMITS).contains(&there));
            victim.finish();
            assert_eq!(all_permits(survivor), PERMITS);
        },
    );
    Call::near(object, "post", lib.sem_post as usize).halted(
        "stopped",
        taken,
        |sem| post(*sem),
        drop,
        || (),
        |victim| {
            let there = all_permits(survivor);
            assert!((PERMITS - 1..=PERMITS).contains(&there));
            victim.finish();
            assert_eq!(all_permits(survivor), PERMITS);
        },
    );
    // With somebody asleep, who has the next post at the latest.
    (0..PERMITS).for_each(|_| assert_eq!(wait(survivor, 0), 0));
    let sleeper = Cell::new(None);
    Call { kernel: 1, ..Call::near(object, "post to a sleeper", lib.sem_post as usize) }.halted(
        "killed",
        open,
        |sem| post(*sem),
        drop,
        || sleeper.set(Some(asleep(|| assert_eq!(wait(open(), LONG), 0)))),
        |victim| {
            victim.kill();
            post(survivor);
            join(sleeper.take().unwrap());
            while wait(survivor, 0) == 0 {}
        },
    );
    close_semaphore(survivor, &name);
}

/// Permits come back, each once, wherever their holder is killed; of the stopped they do not.
#[test]
fn permits_come_back() {
    let _turn = turn();
    let (lib, object) = (release(), "semaphore, MDG_SEM_UNDO");
    let name = CString::new(unique("undo")).unwrap();
    let open = || open_semaphore(&name, MDG_SEM_UNDO, PERMITS as u32);
    let survivor = open();
    let check = || assert_eq!(all_permits(survivor), PERMITS);
    let near = |name, function| Call::near(object, name, function);
    let take = |sem: &mut _| assert_eq!(wait(*sem, 0), 0);
    near("wait", lib.sem_wait as usize).killed(open, take, check);
    let holding = || {
        let sem = open();
        assert_eq!(wait(sem, 0), 0);
        sem
    };
    near("post", lib.sem_post as usize).killed(holding, |sem| post(*sem), check);
    // SAFETY: a live handle.
    let close = |sem: &mut _| unsafe { (lib.sem_close)(*sem) };
    let apart = |call| Call { instruction: 199, apart: 7, ..call };
    apart(near("close", lib.sem_close as usize)).killed(holding, close, check);
    Call::far(object, "open", lib.sem_open as usize).killed(|| (), |()| _ = open(), check);
    // Recovery: the second victim finds the first one's permits, and is killed at giving them back.
    let after_a_death = || {
        let sem = open();
        join(fork(|| {
            (0..2).for_each(|_| assert_eq!(wait(open(), 0), 0));
        }));
        assert_eq!(wait(sem, 0), 0);
        sem
    };
    let mend = |sem: &mut _| {
        assert_eq!(wait(*sem, 0), 0);
    };
    apart(near("recovery", lib.sem_wait as usize)).killed(after_a_death, mend, check);

    // Stopped in the middle, it has one permit, or none, and the others are for whoever comes.
    let beside = |victim: Victim| {
        let there = all_permits(survivor);
        assert!((PERMITS - 1..=PERMITS).contains(&there));
        victim.finish();
        check();
    };
    near("wait", lib.sem_wait as usize).halted("stopped", open, take, post, || (), beside);
    let give = |sem: &mut _| post(*sem);
    near("post", lib.sem_post as usize).halted("stopped", holding, give, drop, || (), beside);

    // With somebody asleep: the permit comes to him, from the post or from the dead.
    (1..PERMITS).for_each(|_| assert_eq!(wait(survivor, 0), 0));
    let sleeper = Cell::new(None);
    Call { kernel: 1, ..near("post to a sleeper", lib.sem_post as usize) }.halted(
        "killed",
        holding,
        |sem| post(*sem),
        drop,
        || sleeper.set(Some(asleep(|| assert_eq!(wait(open(), LONG), 0)))),
        |victim| {
            victim.kill();
            join_soon(sleeper.take().unwrap());
        },
    );
    (1..PERMITS).for_each(|_| post(survivor));
    check();
    close_semaphore(survivor, &name);
}

fn open_mutex(name: &CString) -> *mut mdg_mutex {
    let mut mutex = ptr::null_mut();
    // SAFETY: writable, a C string.
    let code = unsafe { (release().mutex_open)(&raw mut mutex, name.as_ptr(), CREATE, 0o600) };
    assert_eq!(code, 0);
    mutex
}

fn lock(mutex: *mut mdg_mutex, timeout: i64) -> i32 {
    // SAFETY: a live handle.
    unsafe { (release().mutex_lock)(mutex, timeout) }
}

fn consistent(mutex: *mut mdg_mutex) {
    // SAFETY: a live handle.
    assert_eq!(unsafe { (release().mutex_consistent)(mutex) }, 0);
}

fn unlock(mutex: *mut mdg_mutex) {
    // SAFETY: a live handle.
    assert_eq!(unsafe { (release().mutex_unlock)(mutex) }, 0);
}

/// Takes the mutex, from a dead one if need be, and says whether it was.
#[track_caller]
fn take_over(mutex: *mut mdg_mutex, timeout: i64) -> bool {
    match lock(mutex, timeout) {
        0 => false,
        code => {
            assert_eq!(code, -libc::EOWNERDEAD);
            consistent(mutex);
            true
        }
    }
}

/// It can be had within a bound, and then it is an ordinary one.
fn is_free(mutex: *mut mdg_mutex) {
    take_over(mutex, BOUND.as_nanos() as i64);
    unlock(mutex);
    assert_eq!(lock(mutex, 0), 0);
    unlock(mutex);
}

/// The next one gets the mutex, and is told if it was held; of the stopped nobody gets it.
#[test]
fn a_mutex_is_handed_on() {
    let _turn = turn();
    let (lib, object) = (release(), "mutex");
    let name = CString::new(unique("mutex")).unwrap();
    let open = || open_mutex(&name);
    let survivor = open();
    let check = || is_free(survivor);
    let near = |name, function| Call::near(object, name, function);
    let take = |mutex: &mut _| assert_eq!(lock(*mutex, LONG), 0);
    near("lock", lib.mutex_lock as usize).killed(open, take, check);
    let holding = || {
        let mutex = open();
        assert_eq!(lock(mutex, 0), 0);
        mutex
    };
    near("unlock", lib.mutex_unlock as usize).killed(holding, |mutex| unlock(*mutex), check);
    let inherited = || {
        let mutex = open();
        join(fork(|| assert_eq!(lock(mutex, 0), 0)));
        mutex
    };
    let inherit = |mutex: &mut _| assert_eq!(lock(*mutex, LONG), -libc::EOWNERDEAD);
    near("lock after a death", lib.mutex_lock as usize).killed(inherited, inherit, check);
    let told = || {
        let mutex = inherited();
        assert_eq!(lock(mutex, 0), -libc::EOWNERDEAD);
        mutex
    };
    let declare = |mutex: &mut _| consistent(*mutex);
    near("consistent", lib.mutex_consistent as usize).killed(told, declare, || {
        assert!(take_over(survivor, BOUND.as_nanos() as i64), "it was held");
        unlock(survivor);
        is_free(survivor);
    });
    let in_vain = |mutex: &mut _| {
        let code = lock(*mutex, 1_000_000);
        assert_eq!(code, -libc::ETIMEDOUT);
    };
    // Its spinning is the same loads over and over.
    let far = Call { kernel: 1, ..Call::far(object, "lock, held", lib.mutex_lock as usize) };
    Call { apart: 0, ..far }.halted(
        "killed",
        open,
        in_vain,
        drop,
        || assert_eq!(lock(survivor, 0), 0),
        |victim| {
            victim.kill();
            unlock(survivor);
            is_free(survivor);
        },
    );

    // A sleeper gets it from who unlocks, or from the dead.
    let sleeper = Cell::new(None);
    Call { kernel: 1, ..near("unlock to a sleeper", lib.mutex_unlock as usize) }.halted(
        "killed",
        holding,
        |mutex| unlock(*mutex),
        drop,
        || {
            sleeper.set(Some(asleep(|| {
                let mutex = open();
                take_over(mutex, LONG);
                unlock(mutex);
            })));
        },
        |victim| {
            victim.kill();
            join_soon(sleeper.take().unwrap());
            is_free(survivor);
        },
    );

    // Stopped with it, or not: the others have it, or wait.
    let beside = |victim: Victim| {
        match lock(survivor, 1_000_000) {
            0 => unlock(survivor),
            code => assert_eq!(code, -libc::ETIMEDOUT, "the stopped are not dead"),
        }
        victim.finish();
        assert_eq!(lock(survivor, 0), 0, "no death is told");
        unlock(survivor);
    };
    near("lock", lib.mutex_lock as usize).halted("stopped", open, take, unlock, || (), beside);
    let give = |mutex: &mut _| unlock(*mutex);
    near("unlock", lib.mutex_unlock as usize).halted("stopped", holding, give, drop, || (), beside);
    // SAFETY: a live handle that nobody uses any more; a C string.
    unsafe {
        (lib.mutex_close)(survivor);
        assert_eq!((lib.mutex_unlink)(name.as_ptr()), 0);
    }
}

fn open_condition(name: &CString) -> *mut mdg_cond {
    let mut cond = ptr::null_mut();
    // SAFETY: writable, a C string.
    let code = unsafe { (release().cond_open)(&raw mut cond, name.as_ptr(), CREATE, 0o600) };
    assert_eq!(code, 0);
    cond
}

fn await_signal(cond: *mut mdg_cond, mutex: *mut mdg_mutex, timeout: i64) -> i32 {
    // SAFETY: live handles.
    unsafe { (release().cond_wait)(cond, mutex, timeout) }
}

fn signal(cond: *mut mdg_cond) {
    // SAFETY: a live handle.
    assert_eq!(unsafe { (release().cond_signal)(cond) }, 0);
}

/// Wherever one is killed who waits or signals, the next signal wakes whoever waits.
#[test]
fn a_condition_outlives_those_who_use_it() {
    let _turn = turn();
    let (lib, object) = (release(), "condition variable");
    let names = ["mutex", "cond"].map(|stem| CString::new(unique(stem)).unwrap());
    let open = || (open_condition(&names[1]), open_mutex(&names[0]));
    let (cond, mutex) = open();
    let news = &shared_words(1)[0];
    // Sleeps until the news is 2: the victim's is 1.
    let sleeper = Cell::new(None);
    let sleep = || {
        news.store(0, Ordering::SeqCst);
        sleeper.set(Some(asleep(|| {
            let (cond, mutex) = open();
            take_over(mutex, LONG);
            while news.load(Ordering::SeqCst) != 2 {
                let code = await_signal(cond, mutex, LONG);
                if code == -libc::EOWNERDEAD {
                    consistent(mutex);
                } else {
                    assert_eq!(code, 0);
                }
            }
            unlock(mutex);
        })));
    };
    let check = |victim: Victim| {
        victim.kill();
        take_over(mutex, BOUND.as_nanos() as i64);
        news.store(2, Ordering::SeqCst);
        unlock(mutex);
        signal(cond);
        join_soon(sleeper.take().unwrap());
        is_free(mutex);
    };
    let tell = |&mut (cond, mutex): &mut _| {
        assert_eq!(lock(mutex, LONG), 0);
        news.store(1, Ordering::SeqCst);
        unlock(mutex);
        signal(cond);
    };
    Call { kernel: 1, ..Call::near(object, "signal", lib.cond_signal as usize) }
        .halted("killed", open, tell, drop, sleep, check);
    let listening = || {
        let (cond, mutex) = open();
        take_over(mutex, LONG);
        (cond, mutex)
    };
    let listen = |&mut (cond, mutex): &mut _| {
        let code = await_signal(cond, mutex, 1_000_000);
        assert!(code == 0 || code == -libc::ETIMEDOUT, "{code}");
    };
    let wait = Call::near(object, "wait", lib.cond_wait as usize);
    // Who listens has the mutex when the others come: they begin to sleep for that.
    Call { kernel: 1, instruction: 61, apart: 3, ..wait }
        .halted("killed", listening, listen, drop, sleep, check);
    let end = |(_, mutex)| unlock(mutex);
    Call { kernel: 2, instruction: 97, apart: 3, ..wait }.halted(
        "stopped",
        listening,
        listen,
        end,
        || (),
        |victim| {
            match lock(mutex, 1_000_000) {
                0 => unlock(mutex),
                code => assert_eq!(code, -libc::ETIMEDOUT, "the stopped are not dead"),
            }
            victim.finish();
            assert_eq!(lock(mutex, 0), 0, "no death is told");
            unlock(mutex);
        },
    );
    // SAFETY: live handles that nobody uses any more; C strings.
    unsafe {
        (lib.cond_close)(cond);
        (lib.mutex_close)(mutex);
        assert_eq!((lib.cond_unlink)(names[1].as_ptr()), 0);
        assert_eq!((lib.mutex_unlink)(names[0].as_ptr()), 0);
    }
}
