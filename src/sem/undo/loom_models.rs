#![forbid(unsafe_code)]
//! The semaphore under the model checker: this very core, with the very orderings of the mapped memory,
//! over loom's atomics.
//!
//! That a participant is dead is known from its lock byte, which the kernel orders: who has the byte sees
//! all that the dead one has stored. Joining its thread stands for that.

use loom::sync::Arc;
use loom::thread;

use super::memory::Words;
use super::*;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::model::{Fences, check, check_kills, killed_after};

const PARTICIPANTS: u32 = 2;
const INITIAL: u32 = 1;

/// The word, then an intent and a holding for each participant.
#[derive(Debug)]
struct Model([AtomicU64; 1 + 2 * PARTICIPANTS as usize]);

impl Words for Arc<Model> {
    fn count(&self) -> u32 {
        PARTICIPANTS
    }

    fn at(&self, at: Place) -> &AtomicU64 {
        &self.0[match at {
            Place::Word => 0,
            Place::Intent(participant) => 1 + 2 * participant as usize,
            Place::Holding(participant) => 2 + 2 * participant as usize,
        }]
    }
}

fn semaphore() -> Arc<Model> {
    Arc::new(Model(std::array::from_fn(|_| AtomicU64::new(0))))
}

fn core(of: &Arc<Model>) -> Core<Arc<Model>> {
    Core::new(of.clone(), INITIAL)
}

/// Takes a permit, if there is one, and gives it back.
fn take_and_give(of: &Arc<Model>, me: u32) {
    if let Taken::Permit { .. } = core(of).take(me, false).unwrap() {
        assert!(core(of).give(me).unwrap());
    }
}

/// One is killed at each access, and recovered while another goes on.
fn killed(body: fn(&Arc<Model>)) {
    check_kills(2, Fences::Light, move |steps, killed| {
        let all = semaphore();
        let [of_victim, of_other] = [all.clone(), all.clone()];
        let victim = thread::spawn(move || killed_after(steps, || body(&of_victim)));
        let other = thread::spawn(move || take_and_give(&of_other, 1));
        let died = victim.join().unwrap().is_none();
        killed.fetch_or(died, Ordering::Relaxed);
        if died {
            core(&all).recover(0).unwrap();
        }
        other.join().unwrap();
        let held = core(&all).held(0) + core(&all).held(1);
        assert_eq!((core(&all).free(), held), (INITIAL, 0), "a permit was lost or came twice");
    });
}

#[test]
fn a_killed_taker() {
    killed(|all| {
        if let Taken::Permit { .. } = core(all).take(0, false).unwrap() {
            core(all).leave(0).unwrap();
        }
    });
}

#[test]
fn a_killed_giver() {
    killed(|all| take_and_give(all, 0));
}

#[test]
fn two_takers_and_one_permit() {
    check(3, Fences::Light, || {
        let all = semaphore();
        let other = all.clone();
        let other = thread::spawn(move || core(&other).take(1, false).unwrap());
        let mine = core(&all).take(0, false).unwrap();
        let taken = [mine, other.join().unwrap()];
        let permits = taken.iter().filter(|one| matches!(one, Taken::Permit { .. })).count();
        assert_eq!(permits, 1, "{taken:?}");
        assert_eq!(core(&all).held(0) + core(&all).held(1), 1);
    });
}
