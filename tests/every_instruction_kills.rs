//! Processes are killed for real in calls of the release library, at system calls and at instructions, and
//! survivors work on the ring itself: for what only the kernel does, and for those who sleep meanwhile.
//! docs/verification.md says how this and `every_instruction_images.rs` go together.
//!
//! `cargo test` tries every so-manieth place; MADANG_LONG=1 each system call, and more of the instructions.
#![cfg(target_arch = "x86_64")]

mod support;

use support::kinds::{Kind, Tally, halted, one_case, tell, telling};
use support::process::{Gate, fork, join};
use support::release_ring::{Handle, Shape, within_bound};
use support::step::{is_long, release, turn};
use support::survivor::{First, survive};
use support::victim::{Act, Case, Report, *};

/// Real SIGKILLs: before and after each system call, and in the plain calls, which make none, after each
/// instruction.
fn kills_of(name: &str, kind: Kind) {
    let _turn = turn();
    for act in Act::USUAL.into_iter().chain([Open, OpenPush, OpenPop]) {
        let Some(case) = one_case(kind, act) else { continue };
        let is_plain =
            matches!(act, Push | PushMany | ReserveCommit | Pop | PopMany | PeekRelease | Shutdown);
        let mut tally = Tally { cases: 1, ..Tally::default() };
        let stride: u64 = match (is_plain, is_long()) {
            (true, true) => 7,
            (true, false) => 149,
            (false, true) => 1,
            (false, false) => 5,
        };
        for place in (1 + stride / 4..).step_by(stride as usize) {
            let mut stage = case.stage();
            let victim = if is_plain {
                halted(&case, &mut stage, &Report::new(), place)
            } else {
                let victim = case.victim(&mut stage, &Report::new());
                let reached = victim.run_to_system_call(act.calls(release())[0], place);
                reached.then_some(victim)
            };
            let Some(victim) = victim else { break };
            victim.kill();
            stage.peer = None;
            let first = if place % 2 == 0 { First::Drain } else { First::Fill };
            telling((case, place), || {
                survive(release(), case.shape, &stage.memory, stage.bounds, first)
            });
            if is_plain {
                tally.instructions = place;
            }
            tally.states += 1;
        }
        let how = if is_plain { "killed for real" } else { "killed for real, at system calls" };
        if tally.states > 0 {
            tell(name, &format!("{act:?}"), how, tally);
        }
    }
}

const DEAD: i32 = -libc::EOWNERDEAD;

/// A consumer that sleeps hears of the item, or of the death, wherever its producer is killed.
fn sleepers_of(name: &str, kind: Kind) {
    let _turn = turn();
    let shape = Shape { kind: kind.0, policy: kind.1, capacity: 4, size: 24 };
    let case = Case { shape, act: Push, inside: 0, rotation: 3, warm: false, second: false };
    let mut tally = Tally { cases: 1, ..Tally::default() };
    for place in (1..).step_by(if is_long() { 3 } else { 101 }) {
        let mut stage = case.stage();
        stage.peer = None;
        let waiter = Handle::open(release(), shape, &stage.memory, libc::O_RDWR);
        let go = Gate::new();
        let sleeper = fork(|| {
            let ring = Handle::open(release(), shape, &stage.memory, libc::O_RDONLY);
            while ring.pop().is_ok() {}
            go.open();
            let outcome = ring.pop_for(20_000_000_000);
            assert!(matches!(outcome, Ok(3) | Err(DEAD)), "{outcome:?}");
        });
        go.pass();
        within_bound("sleep", || (waiter.pop_waits() > 0).then_some(()));
        let Some(victim) = halted(&case, &mut stage, &Report::new(), place) else { break };
        victim.kill();
        telling((kind, place), || join(sleeper));
        tally.states += 1;
        tally.instructions = place;
    }
    tell(name, "Push, to a sleeper", "killed for real", tally);
}

for_each_kind! {
    fn kills() = kills_of;
    fn sleepers() = sleepers_of;
}
