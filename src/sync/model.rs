#![forbid(unsafe_code)]
#![cfg_attr(not(test), allow(dead_code))]
//! What the algorithms stand on under the model checker (`--cfg loom`): loom's atomics, with a place
//! before each access where the thread can be killed; futex and membarrier; and a watch over memory
//! that is copied without atomics.
//!
//! | real | here |
//! |---|---|
//! | SIGKILL between two accesses of shared memory | [`killed_after`]: the thread unwinds before its n-th access |
//! | the clock | stands still |
//! | futex wait, wake | one mutex and condition variable; a wait has no limit, so a lost wake-up is a deadlock, which loom reports |
//! | membarrier, and the compiler fence it pairs with | a SeqCst fence on both sides; with [`Fences::Heavy`] membarrier fails, and the light side has none |
//! | a copy of an item's bytes | an access to a loom cell, so that two copies without order are a race, which loom reports |
//!
//! What loom does not tell: it takes a SeqCst *access* as an AcqRel one, so nothing here may rest on
//! a total order of accesses (the library rests on fences only); and a load never reads a value that
//! is stored later in the run (load buffering), which release and acquire forbid anyway.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Weak;

use loom::cell::UnsafeCell;
use loom::sync::Arc;

pub(crate) use loom::sync::atomic::fence;

use super::atomic::Ordering;

loom::lazy_static! {
    static ref TURN: loom::sync::atomic::AtomicU64 = loom::sync::atomic::AtomicU64::new(0);
}

loom::thread_local! {
    /// Accesses left until this thread is killed.
    static FUSE: Cell<Option<u32>> = Cell::new(None);
}

/// What a killed thread unwinds with.
struct Killed;

/// Comes before every access of shared memory: a place for another thread to go on, or for this one
/// to be killed.
///
/// loom keeps, of each object, the last access only, and so finds too few places at which the order
/// of two threads matters: of a load here, a load and a store there, it takes the store for unrelated
/// to the first load. Here every access begins with one of the same object, so that each is a place
/// to switch at, and the bound on preemptions alone limits what is tried. Relaxed, and it changes
/// nothing, so it orders nothing either.
///
/// It also gives accesses without atomics an instant of their own: loom counts such a one to the
/// instant of the atomic access before it, and a write just after a release would pass for part of it.
pub(crate) fn step() {
    TURN.fetch_add(0, Ordering::Relaxed);
    FUSE.with(|fuse| match fuse.get() {
        None => {}
        Some(0) => {
            fuse.set(None);
            // No panic message: this is not one.
            resume_unwind(Box::new(Killed));
        }
        Some(left) => fuse.set(Some(left - 1)),
    });
}

/// Runs `body`, killed before its access number `steps` (from 0) of shared memory: `None`.
pub(crate) fn killed_after<T>(steps: u32, body: impl FnOnce() -> T) -> Option<T> {
    FUSE.with(|fuse| fuse.set(Some(steps)));
    let result = catch_unwind(AssertUnwindSafe(body));
    FUSE.with(|fuse| fuse.set(None));
    match result {
        Ok(done) => Some(done),
        Err(panic) if panic.is::<Killed>() => None,
        Err(panic) => resume_unwind(panic as Box<dyn Any + Send>),
    }
}

macro_rules! atomic {
    ($name:ident, $value:ty) => {
        /// As std's.
        #[derive(Debug, Default)]
        pub(crate) struct $name(loom::sync::atomic::$name);

        #[allow(dead_code)] // As std's, whether the library uses all of it or not.
        impl $name {
            pub(crate) fn new(value: $value) -> Self {
                Self(loom::sync::atomic::$name::new(value))
            }
            #[track_caller]
            pub(crate) fn load(&self, order: Ordering) -> $value {
                step();
                self.0.load(order)
            }
            #[track_caller]
            pub(crate) fn store(&self, value: $value, order: Ordering) {
                step();
                self.0.store(value, order);
            }
            #[track_caller]
            pub(crate) fn swap(&self, value: $value, order: Ordering) -> $value {
                step();
                self.0.swap(value, order)
            }
            #[track_caller]
            pub(crate) fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                step();
                self.0.compare_exchange(current, new, success, failure)
            }
            #[track_caller]
            pub(crate) fn fetch_add(&self, value: $value, order: Ordering) -> $value {
                step();
                self.0.fetch_add(value, order)
            }
            #[track_caller]
            pub(crate) fn fetch_or(&self, value: $value, order: Ordering) -> $value {
                step();
                self.0.fetch_or(value, order)
            }
            #[track_caller]
            pub(crate) fn fetch_max(&self, value: $value, order: Ordering) -> $value {
                step();
                self.0.fetch_max(value, order)
            }
            #[track_caller]
            pub(crate) fn fetch_min(&self, value: $value, order: Ordering) -> $value {
                step();
                self.0.fetch_min(value, order)
            }
            #[track_caller]
            pub(crate) fn fetch_and(&self, value: $value, order: Ordering) -> $value {
                step();
                self.0.fetch_and(value, order)
            }
        }

        impl From<$value> for $name {
            fn from(value: $value) -> Self {
                Self::new(value)
            }
        }
    };
}
atomic!(AtomicU32, u32);
atomic!(AtomicU64, u64);

/// Which fences a model has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fences {
    /// membarrier works: full fences on both sides.
    Light,
    /// membarrier fails, and the light side does nothing.
    Heavy,
}

thread_local! {
    /// loom runs a model's threads in turn on one thread of the system.
    static FENCES: Cell<Fences> = const { Cell::new(Fences::Light) };
    static WATCHED: RefCell<Vec<Weak<Watch>>> = const { RefCell::new(Vec::new()) };
}

pub(crate) fn light_fence() {
    if FENCES.get() == Fences::Light {
        fence(Ordering::SeqCst);
    }
}

/// Time does not pass: every run of a model must go the same way.
pub(crate) fn now() -> std::time::Duration {
    std::time::Duration::ZERO
}

pub(crate) mod membarrier {
    use nix::errno::Errno;

    use super::{FENCES, Fences, Ordering, fence, step};

    pub(crate) fn barrier() -> Result<(), Errno> {
        step();
        if FENCES.get() == Fences::Heavy {
            return Err(Errno::ENOSYS);
        }
        fence(Ordering::SeqCst);
        Ok(())
    }
}

pub(crate) mod futex {
    use std::time::Duration;

    use loom::sync::{Condvar, Mutex};

    use super::{AtomicU32, Ordering, step};
    pub(crate) use crate::sys::futex::Wake;

    loom::lazy_static! {
        /// The kernel's queue and its lock; one for all words, so wake-ups may be superfluous.
        static ref QUEUE: (Mutex<()>, Condvar) = (Mutex::new(()), Condvar::new());
    }

    pub(crate) fn wait(word: &AtomicU32, expected: u32, _no_limit: Duration) -> Wake {
        step();
        let guard = QUEUE.0.lock().unwrap();
        // The kernel compares under its lock, which orders the look after an earlier wake.
        if word.0.load(Ordering::Relaxed) == expected {
            drop(QUEUE.1.wait(guard).unwrap());
        }
        Wake::Woken
    }

    pub(crate) const ALL: u32 = u32::MAX;

    pub(crate) fn wake_all(word: &AtomicU32) {
        wake(word, ALL);
    }

    /// Wakes all, whatever `most` is: a wake-up that nobody asked for is always allowed.
    pub(crate) fn wake(_word: &AtomicU32, _most: u32) -> u32 {
        step();
        let _guard = QUEUE.0.lock().unwrap();
        QUEUE.1.notify_all();
        0
    }
}

/// Units of memory whose copies must be ordered by something else.
#[derive(Debug)]
pub(crate) struct Watch {
    base: usize,
    unit: usize,
    cells: Vec<UnsafeCell<()>>,
}

impl Watch {
    /// Watches `count` units of `unit` bytes from `base`, until dropped.
    pub(crate) fn new(base: *const u8, unit: usize, count: usize) -> std::sync::Arc<Self> {
        let cells = (0..count).map(|_| UnsafeCell::new(())).collect();
        let watch = std::sync::Arc::new(Self { base: base as usize, unit, cells });
        WATCHED.with_borrow_mut(|all| {
            all.retain(|old| old.strong_count() > 0);
            all.push(std::sync::Arc::downgrade(&watch));
        });
        watch
    }

    fn touched(&self, address: usize, len: usize, touch: impl Fn(&UnsafeCell<()>)) {
        let end = self.base + self.unit * self.cells.len();
        if len > 0 && (self.base..end).contains(&address) {
            let (first, last) = (address - self.base, address - self.base + len - 1);
            self.cells[first / self.unit..=last / self.unit].iter().for_each(touch);
        }
    }
}

/// An item's bytes are about to be copied.
#[track_caller]
pub(crate) fn copied(to: *const u8, from: *const u8, len: usize) {
    step();
    let all: Vec<_> = WATCHED.with_borrow(|all| all.iter().filter_map(Weak::upgrade).collect());
    for watch in all {
        watch.touched(from as usize, len, |cell| cell.with(|_| ()));
        watch.touched(to as usize, len, |cell| cell.with_mut(|_| ()));
    }
}

/// Tries every order of `body`'s threads with at most `preemptions` involuntary switches (or as
/// `LOOM_MAX_PREEMPTIONS` says).
pub(crate) fn check(preemptions: usize, fences: Fences, body: impl Fn() + Send + Sync + 'static) {
    FENCES.set(fences);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(preemptions));
    builder.check(body);
}

/// Checks `body` once for every number of accesses after which a thread of it, which is told that
/// number for [`killed_after`], can be killed. `body` sets the flag if it was.
pub(crate) fn check_kills(
    preemptions: usize,
    fences: Fences,
    body: impl Fn(u32, &std::sync::atomic::AtomicBool) + Send + Sync + Copy + 'static,
) {
    for steps in 0.. {
        let killed = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let seen = killed.clone();
        check(preemptions, fences, move || body(steps, &seen));
        if !killed.load(Ordering::Relaxed) {
            assert!(steps > 0, "nothing to be killed in");
            return;
        }
    }
}

/// For the threads of a model to share.
pub(crate) fn share<T>(value: T) -> Arc<T> {
    Arc::new(value)
}
