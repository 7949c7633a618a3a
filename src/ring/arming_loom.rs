//! Poll descriptors under the model checker: no readiness is lost, whoever is killed where.
//!
//! An instance is a flag under a lock, as the kernel's queue of events is; poll(2) has no limit here,
//! so a descriptor that should have become readable is a deadlock.

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use super::*;
use crate::sync::atomic::AtomicU64;
use crate::sync::model::{Fences, check, check_kills, killed_after, share, step};

/// The end that all of them wait at.
const END: u32 = 1;

#[derive(Default)]
struct Instance {
    has_event: Mutex<bool>,
    news: Condvar,
}

impl Instance {
    fn hear(&self) {
        let mut has_event = self.has_event.lock().unwrap();
        *has_event = true;
        self.news.notify_all();
    }

    /// Waits until the descriptor is readable.
    fn poll(&self) {
        step();
        let mut has_event = self.has_event.lock().unwrap();
        while !*has_event {
            has_event = self.news.wait(has_event).unwrap();
        }
    }
}

impl Door for Instance {
    fn drain(&self) -> Result<bool> {
        step();
        Ok(std::mem::take(&mut *self.has_event.lock().unwrap()))
    }

    fn ring(&self) {
        step();
        self.hear();
    }
}

#[derive(Default)]
struct Shared {
    event: EventCount,
    items: AtomicU64,
    polled: AtomicU32,
    words: [AtomicU32; 2],
    instances: [Instance; 2],
}

impl Shared {
    fn new(fences: Fences) -> Arc<Self> {
        let shared = Self::default();
        if fences == Fences::Heavy {
            shared.event.set_heavy();
        }
        share(shared)
    }

    /// An event loop with the descriptor of slot `at`, until there are so many items.
    fn serve(&self, at: usize, items: u64) {
        let (word, door) = (&self.words[at], &self.instances[at]);
        assert!(count(&self.polled, word, at as u32));
        door.ring();
        // Acquire: pairs with `commit`.
        let attempt = || Ok((self.items.load(Ordering::Acquire) >= items).then_some(()));
        loop {
            door.poll();
            if attempt() == Ok(Some(())) {
                return;
            }
            let events = [&self.event].into_iter();
            if rearm(door, word, END, events, attempt, || false).is_ok() {
                return;
            }
        }
    }

    fn commit(&self) {
        self.items.fetch_add(1, Ordering::Release);
        self.notify();
    }

    fn notify(&self) {
        let word = |index: u32| self.words.get(index as usize);
        // One system call, which all instances hear of.
        let touch = || {
            step();
            self.instances.iter().for_each(Instance::hear);
            true
        };
        self.event.notify_and(|| ring(&self.polled, word, END, touch));
    }
}

fn spawn<T: 'static>(
    shared: &Arc<Shared>,
    body: impl FnOnce(&Shared) -> T + 'static,
) -> thread::JoinHandle<T> {
    let shared = shared.clone();
    thread::spawn(move || body(&shared))
}

fn two_notifiers(fences: Fences) {
    check(2, fences, move || {
        let shared = Shared::new(fences);
        let waiter = spawn(&shared, |shared| shared.serve(0, 2));
        let notifier = spawn(&shared, Shared::commit);
        shared.commit();
        notifier.join().unwrap();
        waiter.join().unwrap();
    });
}

#[test]
fn two_notifiers_and_a_waiter_light() {
    two_notifiers(Fences::Light);
}

#[test]
fn two_notifiers_and_a_waiter_heavy() {
    two_notifiers(Fences::Heavy);
}

/// One touch is heard by both; each one's bit is cleared for itself.
fn two_waiters(fences: Fences) {
    check(2, fences, move || {
        let shared = Shared::new(fences);
        let waiters =
            [0, 1].map(|at| spawn(&shared, move |shared| shared.serve(at, at as u64 + 1)));
        shared.commit();
        shared.commit();
        for waiter in waiters {
            waiter.join().unwrap();
        }
    });
}

#[test]
fn a_notifier_and_two_waiters_light() {
    two_waiters(Fences::Light);
}

#[test]
fn a_notifier_and_two_waiters_heavy() {
    two_waiters(Fences::Heavy);
}

/// A notifier is killed before any of its steps: the next one touches the file.
fn killed_notifier(fences: Fences) {
    check_kills(1, fences, move |steps, killed| {
        let shared = Shared::new(fences);
        let waiter = spawn(&shared, |shared| shared.serve(0, 1));
        let notifier =
            spawn(&shared, move |shared| killed_after(steps, || shared.commit()).is_none());
        if notifier.join().unwrap() {
            killed.store(true, Ordering::Relaxed);
        }
        shared.commit();
        waiter.join().unwrap();
    });
}

#[test]
fn a_killed_notifier_leaves_its_waiters_to_the_next_light() {
    killed_notifier(Fences::Light);
}

#[test]
fn a_killed_notifier_leaves_its_waiters_to_the_next_heavy() {
    killed_notifier(Fences::Heavy);
}

/// A waiter is killed before any of its steps: the other one misses nothing, and the count is right
/// again, or one too high, once the dead one's slot is cleared away.
#[test]
fn a_killed_waiter_takes_nothing_along() {
    check_kills(1, Fences::Light, |steps, killed| {
        let shared = Shared::new(Fences::Light);
        let victim =
            spawn(&shared, move |shared| killed_after(steps, || shared.serve(0, 1)).is_none());
        let other = spawn(&shared, |shared| shared.serve(1, 2));
        shared.commit();
        if victim.join().unwrap() {
            killed.store(true, Ordering::Relaxed);
        }
        discount(&shared.polled, &shared.words[0]);
        shared.commit();
        other.join().unwrap();
        discount(&shared.polled, &shared.words[1]);
        assert!(matches!(shared.polled.load(Ordering::Relaxed) / ONE, 0 | 1));
        assert_eq!(shared.words[0].load(Ordering::Relaxed) & FLAGS, 0);
    });
}

/// The last waiter leaves while another one comes: notifiers look for the one that came.
#[test]
fn one_leaves_and_one_comes() {
    check(2, Fences::Light, || {
        let shared = Shared::new(Fences::Light);
        assert!(count(&shared.polled, &shared.words[1], 1));
        let waiter = spawn(&shared, |shared| shared.serve(0, 1));
        let leaver = spawn(&shared, |shared| discount(&shared.polled, &shared.words[1]));
        shared.commit();
        leaver.join().unwrap();
        waiter.join().unwrap();
        assert_eq!(shared.polled.load(Ordering::Relaxed) / ONE, 1);
    });
}
