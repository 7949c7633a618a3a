//! The waiting protocol under the model checker: no wake-up is lost, whoever is killed where.
//!
//! A sleep has no limit here (see `sync::model`), so a lost wake-up is a deadlock.

use loom::thread;

use super::*;
use crate::sync::atomic::AtomicU64;
use crate::sync::model::{Fences, check, check_kills, killed_after, share};
use crate::sync::{SLICE, Spinner, wait_until};
use crate::time::Timeout;

#[derive(Default)]
struct Shared {
    event: EventCount,
    items: AtomicU64,
}

impl Shared {
    fn new(fences: Fences) -> Self {
        let shared = Self::default();
        if fences == Fences::Heavy {
            shared.event.set_heavy();
        }
        shared
    }

    /// The library's own wait, which sleeps at once.
    fn wait_for(&self, items: u64) {
        // Acquire: pairs with `commit`.
        let attempt = || Ok((self.items.load(Ordering::Acquire) >= items).then_some(()));
        if attempt() == Ok(Some(())) {
            return;
        }
        let spinner = Spinner::that_sleeps();
        wait_until(&self.event, &spinner, Timeout::Forever, attempt, || {}, || Ok(())).unwrap();
    }

    fn commit(&self, items: u64) {
        self.items.store(items, Ordering::Release);
        self.event.notify();
    }
}

fn one_sleeper(fences: Fences) {
    check(4, fences, move || {
        let shared = share(Shared::new(fences));
        let sleeper = thread::spawn({
            let shared = shared.clone();
            move || shared.wait_for(2)
        });
        shared.commit(1);
        shared.commit(2);
        sleeper.join().unwrap();
    });
}

#[test]
fn a_sleeper_is_woken_light() {
    one_sleeper(Fences::Light);
}

#[test]
fn a_sleeper_is_woken_heavy() {
    one_sleeper(Fences::Heavy);
}

/// Two sleepers of different epochs: clearing after the first one's wake leaves the other's tag.
fn two_sleepers(fences: Fences) {
    check(2, fences, move || {
        let shared = share(Shared::new(fences));
        let sleepers = [1, 2].map(|items| {
            let shared = shared.clone();
            thread::spawn(move || shared.wait_for(items))
        });
        shared.commit(1);
        shared.commit(2);
        for sleeper in sleepers {
            sleeper.join().unwrap();
        }
    });
}

#[test]
fn clearing_is_by_epoch_light() {
    two_sleepers(Fences::Light);
}

#[test]
fn clearing_is_by_epoch_heavy() {
    two_sleepers(Fences::Heavy);
}

/// A notifier is killed before any of its steps. Who sleeps then is woken by the next notifier (or,
/// in the end of a slice, by the clock, which is not part of the model).
fn killed_notifier(fences: Fences) {
    check_kills(2, fences, move |steps, killed| {
        let shared = share(Shared::new(fences));
        let sleeper = thread::spawn({
            let shared = shared.clone();
            move || shared.wait_for(2)
        });
        let notifier = thread::spawn({
            let shared = shared.clone();
            move || killed_after(steps, || shared.commit(1)).is_none()
        });
        if notifier.join().unwrap() {
            killed.store(true, Ordering::Relaxed);
        }
        shared.commit(2);
        sleeper.join().unwrap();
    });
}

#[test]
fn a_killed_notifier_leaves_its_sleepers_to_the_next_light() {
    killed_notifier(Fences::Light);
}

#[test]
fn a_killed_notifier_leaves_its_sleepers_to_the_next_heavy() {
    killed_notifier(Fences::Heavy);
}

/// Two notifiers serve one sleeper; one is killed in the middle of its wake. The other one's item is
/// the one that the sleeper waits for.
#[test]
fn a_killed_notifier_does_not_swallow_anothers_wake() {
    check_kills(2, Fences::Light, |steps, killed| {
        let shared = share(Shared::new(Fences::Light));
        let notifier = thread::spawn({
            let shared = shared.clone();
            move || killed_after(steps, || shared.event.notify()).is_none()
        });
        let other = thread::spawn({
            let shared = shared.clone();
            move || shared.commit(1)
        });
        shared.wait_for(1);
        if notifier.join().unwrap() {
            killed.store(true, Ordering::Relaxed);
        }
        other.join().unwrap();
    });
}

/// A sleeper is killed before any of its steps: the others are woken all the same, and what it left
/// in `armed` is gone after one more notification.
#[test]
fn a_killed_sleeper_costs_one_wake() {
    check_kills(2, Fences::Light, |steps, killed| {
        let shared = share(Shared::new(Fences::Light));
        let victim = thread::spawn({
            let shared = shared.clone();
            // A sleep would be no step of its own: nothing is stored in it.
            move || killed_after(steps, || shared.event.arm(SLICE)).is_none()
        });
        let sleeper = thread::spawn({
            let shared = shared.clone();
            move || shared.wait_for(1)
        });
        shared.commit(1);
        if victim.join().unwrap() {
            killed.store(true, Ordering::Relaxed);
        }
        sleeper.join().unwrap();
        shared.event.notify();
        assert_eq!(shared.event.armed.load(Ordering::Relaxed), 0);
    });
}
