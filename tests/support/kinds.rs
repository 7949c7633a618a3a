//! Each kind of ring, and the cases, places and counts of the proofs that run on all of them.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use madang::ffi::ring::*;

use super::release_ring::Shape;
use super::step::{At, Victim, release, row};
use super::victim::{Act, Case, Report, Stage, *};

/// Counts of what was done.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    pub cases: u64,
    pub instructions: u64,
    pub states: u64,
    pub survivors: u64,
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        self.cases += other.cases;
        self.instructions += other.instructions;
        self.states += other.states;
        self.survivors += other.survivors;
    }
}

/// Names the case, whatever went wrong.
pub fn telling<T>(what: impl std::fmt::Debug, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        eprintln!("in {what:?}");
        resume_unwind(panic)
    })
}

/// A row of the table.
pub fn tell(name: &str, call: &str, how: &str, tally: Tally) {
    if tally.cases > 0 {
        row(name, call, how, tally.cases, tally.instructions, tally.states);
    }
}

/// A victim that stands after `instructions` of its calls; `None` if they had been over before.
pub fn halted(
    case: &Case,
    stage: &mut Stage,
    report: &Report,
    instructions: u64,
) -> Option<Victim> {
    let victim = case.victim(stage, report);
    let mut halted = false;
    victim.step(&case.act.calls(release()), |at| match at {
        At::Inside { instructions: now, .. } if now == instructions => {
            halted = true;
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    });
    halted.then_some(victim)
}

/// A case of which each place gets a process of its own.
pub fn one_case(kind: (u32, u32), act: Act) -> Option<Case> {
    let shape = Shape { kind: kind.0, policy: kind.1, capacity: 4, size: 24 };
    let inside = match act {
        WaitingPush => 4,
        WaitingPop => 0,
        _ => 3,
    };
    let case = Case { shape, act, inside, rotation: 3, warm: true, second: false };
    [case, Case { warm: false, ..case }].into_iter().find(Case::makes_sense)
}

/// Kind and policy.
pub type Kind = (u32, u32);

pub const SPSC: Kind = (MDG_RING_SPSC, 0);
pub const MPMC: Kind = (MDG_RING_MPMC, 0);
pub const MPMC_OVERWRITE: Kind = (MDG_RING_MPMC, MDG_RING_OVERWRITE);
pub const REDELIVER: Kind = (MDG_RING_MPMC, MDG_RING_REDELIVER);
pub const STOPPROOF: Kind = (MDG_RING_MPMC, MDG_RING_STOPPROOF);
pub const GATED: Kind = (MDG_RING_BROADCAST, 0);
pub const EVICT: Kind = (MDG_RING_BROADCAST, MDG_RING_EVICT);
pub const OVERWRITE: Kind = (MDG_RING_BROADCAST, MDG_RING_OVERWRITE);

/// A module for each kind of ring, with one test for each of the proofs: its name, and the function that
/// is given the kind.
#[macro_export]
macro_rules! for_each_kind {
    ($(fn $proof:ident() = $of:ident;)*) => {
        $crate::for_each_kind! { @kind one_to_one "one to one" SPSC $($proof $of)* }
        $crate::for_each_kind! { @kind many_to_many "many to many" MPMC $($proof $of)* }
        $crate::for_each_kind! {
            @kind many_to_many_overwriting "many to many, overwriting" MPMC_OVERWRITE $($proof $of)*
        }
        $crate::for_each_kind! {
            @kind many_to_many_redelivering "many to many, redelivering" REDELIVER $($proof $of)*
        }
        $crate::for_each_kind! { @kind stop_proof "stop-proof" STOPPROOF $($proof $of)* }
        $crate::for_each_kind! { @kind broadcast "broadcast" GATED $($proof $of)* }
        $crate::for_each_kind! { @kind broadcast_evicting "broadcast, evicting" EVICT $($proof $of)* }
        $crate::for_each_kind! {
            @kind broadcast_overwriting "broadcast, overwriting" OVERWRITE $($proof $of)*
        }
    };
    (@kind $kind:ident $name:literal $value:ident $($proof:ident $of:ident)*) => {
        mod $kind {
            $(#[test]
            fn $proof() {
                super::$of($name, $crate::support::kinds::$value);
            })*
        }
    };
}
