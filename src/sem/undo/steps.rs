#![forbid(unsafe_code)]
//! Every order in which two or three processes can run the algorithm, one access to shared memory
//! at a time, with kills at every access, in recovery too.
//!
//! An operation is replayed: it is run from its beginning, with the answers that its accesses got
//! before, up to the first access that it has no answer for; that one is done on the shared memory.
//! So the state of a process is what its accesses have answered, and states that were seen are not
//! looked at again.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::*;

const INITIAL: u32 = 2;

/// Words: the semaphore's, then an intent and a holding for each participant.
type Words = Vec<u64>;

/// A memory that lets a process do one new access, and stops it at the next.
struct Replay<'a> {
    words: &'a RefCell<Words>,
    /// Answers that the accesses of the operation in progress got before.
    answers: &'a RefCell<Vec<u64>>,
    next: &'a Cell<usize>,
    may_step: &'a Cell<bool>,
    me: u32,
}

/// What stops a process.
struct Stop;

fn index(at: Place) -> usize {
    match at {
        Place::Word => 0,
        Place::Intent(participant) => 1 + 2 * participant as usize,
        Place::Holding(participant) => 2 + 2 * participant as usize,
    }
}

impl Replay<'_> {
    fn access(&self, at: Place, is_load: bool, access: impl FnOnce(&mut u64) -> u64) -> u64 {
        let next = self.next.get();
        self.next.set(next + 1);
        if let Some(answer) = self.answers.borrow().get(next) {
            return *answer;
        }
        // What this process alone writes: when it is read makes no difference to anybody.
        let private = is_load && at == Place::Holding(self.me);
        if !private && !self.may_step.replace(false) {
            resume_unwind(Box::new(Stop));
        }
        let answer = access(&mut self.words.borrow_mut()[index(at)]);
        self.answers.borrow_mut().push(answer);
        answer
    }
}

impl Memory for Replay<'_> {
    fn participants(&self) -> u32 {
        (self.words.borrow().len() as u32 - 1) / 2
    }

    fn load(&self, at: Place) -> u64 {
        self.access(at, true, |word| *word)
    }

    fn store(&self, at: Place, value: u64) {
        self.access(at, false, |word| {
            *word = value;
            0
        });
    }

    fn exchange(&self, at: Place, seen: u64, new: u64) -> bool {
        self.access(at, false, |word| {
            let same = *word == seen;
            *word = if same { new } else { *word };
            u64::from(same)
        }) != 0
    }
}

/// What a process does from beginning to end, a letter an operation: `t` take, `T` take and want to
/// be told (a take that finds nothing is the last operation but `l`), `g` give, `l` leave; or `r` recover
/// participant 0 when that is dead.
type Program = &'static str;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Life {
    Runs,
    Ended,
    Killed,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Process {
    program: Program,
    participant: u32,
    life: Life,
    /// Operations done, and what came of them.
    done: usize,
    held: u32,
    told: u32,
    /// Permits given without holding any.
    added: u32,
    /// What the accesses of the operation in progress have answered.
    answers: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    words: Words,
    processes: Vec<Process>,
    kills: u32,
}

impl Process {
    fn is_recoverer(&self) -> bool {
        self.program == "r"
    }

    /// The next operation, to its end.
    fn operate(&mut self, core: &Core<Replay<'_>>) {
        let me = self.participant;
        let letter = self.program.as_bytes()[self.done];
        self.done += 1;
        match letter {
            b'r' => {
                core.recover(me).unwrap();
            }
            b'l' => {
                assert_eq!(core.leave(me).unwrap(), self.held, "it holds what it thinks it holds");
                self.held = 0;
            }
            b'g' => {
                assert!(core.give(me).unwrap());
                self.added += u32::from(self.held == 0);
                self.held = self.held.saturating_sub(1);
            }
            _ => match core.take(me, letter == b'T').unwrap() {
                Taken::Permit { told } => {
                    self.told += u32::from(told);
                    self.held += 1;
                }
                Taken::None if self.program.ends_with('l') => self.done = self.program.len() - 1,
                Taken::None => self.done = self.program.len(),
                Taken::TooMany => panic!("it holds {}", self.held),
            },
        }
        if self.done == self.program.len() {
            self.life = Life::Ended;
        }
    }
}

/// Lets process `index` do one access.
fn step(state: &State, index: usize) -> State {
    let mut after = state.clone();
    let process = &mut after.processes[index];
    let words = RefCell::new(std::mem::take(&mut after.words));
    let answers = RefCell::new(std::mem::take(&mut process.answers));
    let (next, may_step) = (Cell::new(0), Cell::new(true));
    let memory = Replay {
        words: &words,
        answers: &answers,
        next: &next,
        may_step: &may_step,
        me: process.participant,
    };
    let core = Core::new(memory, INITIAL);
    let before = process.clone();
    match catch_unwind(AssertUnwindSafe(|| process.operate(&core))) {
        Ok(()) => answers.borrow_mut().clear(),
        Err(stop) if stop.is::<Stop>() => *process = before,
        Err(panic) => resume_unwind(panic),
    }
    process.answers = answers.into_inner();
    after.words = words.into_inner();
    after
}

fn may_run(state: &State, index: usize) -> bool {
    let process = &state.processes[index];
    if process.life != Life::Runs {
        return false;
    }
    // The lock byte of participant 0: its process has it, and then one recoverer after another.
    !process.is_recoverer()
        || (state.processes[0].life == Life::Killed
            && state.processes[..index]
                .iter()
                .all(|earlier| !earlier.is_recoverer() || earlier.life != Life::Runs))
}

/// Everybody has ended or was killed. Whatever is left is recovered, twice; then all permits are
/// there.
fn judge(state: &State) {
    let mut end = state.clone();
    for process in state.processes.iter().filter(|process| process.life == Life::Killed) {
        for _ in 0..2 {
            end.processes = vec![Process {
                program: "r",
                life: Life::Runs,
                done: 0,
                answers: Vec::new(),
                ..process.clone()
            }];
            while end.processes[0].life == Life::Runs {
                end = step(&end, 0);
            }
        }
    }
    let sum = |of: &dyn Fn(&Process) -> u32| state.processes.iter().map(of).sum::<u32>();
    let word = Word::of(end.words[0], INITIAL);
    // A killed process may have added a permit without having come to count it: programs that add
    // any are not killed here.
    let held_by = |process: &Process| if process.life == Life::Ended { process.held } else { 0 };
    let held = sum(&held_by);
    assert_eq!(word.free + held, INITIAL + sum(&|process| process.added), "{state:#?}");
    for process in &state.processes {
        let noted = Holding::of(end.words[index(Place::Holding(process.participant))]).held;
        assert!(process.is_recoverer() || noted == held_by(process), "{state:#?}");
    }
    let died = state.processes.iter().any(|process| process.life == Life::Killed);
    assert!(died || !word.from_dead, "nobody died: {state:#?}");
    assert!(died || sum(&|process| process.told) == 0, "nobody died: {state:#?}");
}

/// All orders. Returns how many states there were, and in how many of them, at the end, somebody
/// had been told of a death.
fn explore(programs: &[(Program, u32)], participants: usize, kills: u32) -> (usize, usize) {
    let process = |&(program, participant): &(Program, u32)| Process {
        program,
        participant,
        life: Life::Runs,
        done: 0,
        held: 0,
        told: 0,
        added: 0,
        answers: Vec::new(),
    };
    let processes = programs.iter().map(process).collect();
    let first = State { words: vec![0; 1 + 2 * participants], processes, kills };
    // By two hashes of 64 bits: for a state to be taken for another, both must coincide.
    let hashers = [RandomState::new(), RandomState::new()];
    let mut seen = HashSet::new();
    let (mut open, mut told) = (vec![first], 0);
    while let Some(state) = open.pop() {
        if !seen.insert([hashers[0].hash_one(&state), hashers[1].hash_one(&state)]) {
            continue;
        }
        let mut stuck = true;
        for index in 0..state.processes.len() {
            if !may_run(&state, index) {
                continue;
            }
            stuck = false;
            open.push(step(&state, index));
            if state.kills > 0 {
                let mut killed = state.clone();
                killed.kills -= 1;
                killed.processes[index].life = Life::Killed;
                open.push(killed);
            }
        }
        if stuck {
            judge(&state);
            told += usize::from(state.processes.iter().any(|process| process.told > 0));
        }
    }
    eprintln!("{programs:?}: {} states, {told} ends with somebody told", seen.len());
    (seen.len(), told)
}

#[test]
fn a_taker_is_killed_at_every_step_and_its_recoverers_too() {
    let (states, told) = explore(&[("tg", 0), ("T", 1), ("r", 0), ("r", 0)], 2, 2);
    assert!(states > 1_000 && told > 0, "{states} {told}");
}

#[test]
fn two_takers_are_killed_at_every_step() {
    let (states, _) = explore(&[("ttl", 0), ("tg", 1), ("r", 0)], 2, 2);
    assert!(states > 1_000, "{states}");
}

#[test]
fn three_participants_and_a_kill_at_every_step() {
    let (states, told) = explore(&[("t", 0), ("t", 1), ("T", 2), ("r", 0)], 3, 1);
    assert!(states > 1_000 && told > 0, "{states} {told}");
}

#[test]
fn gives_by_those_who_hold_nothing_add() {
    let (states, told) = explore(&[("gt", 0), ("g", 1), ("T", 2)], 3, 0);
    assert!(states > 1_000 && told == 0, "{states} {told}");
}

#[test]
fn words_round_trip() {
    let word = Word { free: 7, from_dead: true, participant: 0xfff, number: NUMBER };
    for initial in [0, 1, 8, VALUE_MAX] {
        assert_eq!(Word::of(word.word(initial), initial), word);
        let new = Word { free: initial, from_dead: false, participant: 0, number: 0 };
        assert_eq!(new.word(initial), 0, "a new semaphore is all zero");
    }
    for kind in [Kind::Take, Kind::Give, Kind::GiveAllBack] {
        let intent = Intent { number: NUMBER, kind: Some(kind), done: false };
        assert_eq!(Intent::of(Intent::announced(NUMBER, kind)), intent);
        assert!(Intent::of(Intent::announced(5, kind) | DONE).done);
    }
    assert_eq!(Holding { number: NUMBER, held: 0 }.next(), 1, "0 means none yet");
}
