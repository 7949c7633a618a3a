//! Every order in which two or three participants can run this very core, one access to shared memory
//! at a time, with kills at every access: each answer, "full" and "empty" too, must be that of a
//! queue. Accesses take effect in one order of all, which SeqCst promises and the model checker does
//! not model.
//!
//! An operation is replayed: it is run from its beginning, on words that have the values that its
//! accesses found before, up to the first access that is new; that one is done on the shared word. So
//! the state of a participant is what its accesses have found, and states that were seen are not
//! looked at again.
//!
//! What the queue is is read from the places and cells after each step, not from the indices: position
//! T is pushed when its place holds a cell, H is popped when the cell of its place is not offered there
//! any more. So every push and pop has a moment at which it happened, which must be one of its own
//! steps, and "full", "empty" and "granted" must have been true at a moment of their call.

mod process;
mod replay;

use std::cell::RefCell;
use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::word::Cell as Word;
use super::{FREE, Place, Turns, is_offered_at};
use crate::sync::atomic::AtomicU64;
use process::{Effect, Life, Process, Program};
use replay::{Shape, Stop, Words};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    words: Words,
    /// What is inside, and the positions of its ends.
    queue: VecDeque<u64>,
    end: u64,
    processes: Vec<Process>,
    kills: u32,
}

impl State {
    /// Reads from the places and cells what process `index` has just done to the queue.
    fn look(&mut self, index: usize, shape: &Shape<'_>) {
        let words = &self.words;
        let place = |position: u64| {
            let word = words.places[position as usize & (words.places.len() - 1)];
            shape.turns.look(word, position)
        };
        let process = &mut self.processes[index];
        let first = self.end - self.queue.len() as u64;
        if !self.queue.is_empty() {
            let is_there = match place(first) {
                Place::Holds(cell) => is_offered_at(words.cells[cell as usize], first),
                _ => false,
            };
            if !is_there {
                let item = self.queue.pop_front().unwrap();
                assert!(matches!(process.letter(), b'o' | b'p' | b'd'), "{process:#?} popped");
                assert_eq!(process.effect, Effect::None, "popped twice");
                process.effect = Effect::Popped(item);
            }
        }
        if let Place::Holds(cell) = place(self.end) {
            assert!(matches!(process.letter(), b'u' | b'c'), "{process:#?} pushed");
            assert_eq!(process.effect, Effect::None, "pushed twice");
            assert!(is_offered_at(words.cells[cell as usize], self.end));
            assert_eq!(words.items[cell as usize], process.value(), "pushed before it was written");
            process.effect = Effect::Pushed;
            self.queue.push_back(process.value());
            self.end += 1;
            let most = match process.letter() {
                b'u' => shape.capacity,
                _ => shape.capacity - 1 + shape.participants,
            };
            assert!(self.queue.len() as u64 <= most, "too long: {self:#?}");
        }
        // Everything between is there.
        let inside = self.end - self.queue.len() as u64..self.end;
        for (position, item) in inside.zip(&self.queue) {
            let Place::Holds(cell) = place(position) else { panic!("{position} went: {self:#?}") };
            assert!(is_offered_at(words.cells[cell as usize], position), "{position}: {self:#?}");
            assert_eq!(words.items[cell as usize], *item, "{position}: {self:#?}");
        }
    }
}

/// Lets process `index` do one access.
fn step(state: &State, index: usize, shape: &Shape<'_>) -> State {
    let mut after = state.clone();
    let words = RefCell::new(state.words.clone());
    let process = &mut after.processes[index];
    if process.found.is_empty() {
        process.lengths = 1 << state.queue.len();
    }
    let found = RefCell::new(std::mem::take(&mut process.found));
    let core = shape.core(&words, &found, process.limit, Some(1));
    let before = process.clone();
    let result = catch_unwind(AssertUnwindSafe(|| process.operate(&core)));
    core.memory.settle();
    let limit = core.limit.get();
    after.words = words.into_inner();
    let cell = process.cell;
    if result.is_err() {
        *process = before;
    }
    after.look(index, shape);
    let lengths = 1 << after.queue.len();
    for other in &mut after.processes {
        other.lengths |= if other.found.is_empty() { 0 } else { lengths };
    }
    let process = &mut after.processes[index];
    process.lengths |= lengths;
    match result {
        Ok(answer) => {
            process.judge(answer, shape.capacity);
            process.done += 1;
            (process.limit, process.cell) = (limit, cell);
            (process.effect, process.lengths) = (Effect::None, 0);
            if process.done == process.program.len() {
                process.life = Life::Ended;
            }
        }
        Err(stop) if stop.is::<Stop>() => process.found = found.into_inner(),
        Err(panic) => {
            eprintln!("{state:#?}");
            resume_unwind(panic);
        }
    }
    after
}

fn may_run(state: &State, index: usize) -> bool {
    let process = &state.processes[index];
    process.life == Life::Runs
        && (!process.program.starts_with('s') || state.processes[0].life == Life::Killed)
}

/// A look at a moment at which nobody runs tells exactly what the queue is, and no participant ties up
/// more cells than two.
fn look_around(state: &State, shape: &Shape<'_>) {
    let tally = shape.at_once(&mut state.words.clone(), |core| core.tally(&|_| true));
    let length = state.queue.len() as u64;
    assert_eq!((tally.written, tally.length), (state.end, length), "{state:#?}");
    assert_eq!(tally.written, tally.read + tally.dropped + tally.lost + tally.length);
    let mut held = [0; 8];
    for word in &state.words.cells {
        match Word::of(*word) {
            Word::Free => {}
            Word::Owned(owner) | Word::Taken(owner) | Word::Offered(_, owner) => {
                held[owner as usize] += 1;
            }
            Word::Impossible => panic!("{state:#?}"),
        }
    }
    let held: u64 = held.iter().sum();
    assert!(held <= length + 2 * shape.participants, "{state:#?}");
}

/// Everybody has ended, or was killed: all that is inside comes, and the ring is as good as new.
fn conclude(state: &State, shape: &Shape<'_>) {
    let mut words = state.words.clone();
    let (me, capacity) = (1, shape.capacity);
    shape.at_once(&mut words, |core| {
        for process in state.processes.iter().filter(|process| process.life == Life::Killed) {
            core.sweep(process.me);
        }
        // Nobody gives back what it had reserved or peeked at its end: programs do.
        let pop = || {
            let mut item = 0_u64;
            // SAFETY: one item of eight bytes; participant 1 has ended, or was swept.
            let popped = unsafe { core.pop(me, (&raw mut item).cast(), 8, 1) }.unwrap();
            (popped == 1).then_some(item)
        };
        let push = |item: u64| {
            // SAFETY: as above.
            unsafe { core.push(me, (&raw const item).cast(), 8, 1) }.unwrap() == 1
        };
        let inside: Vec<u64> = std::iter::from_fn(pop).collect();
        assert_eq!(inside, Vec::from(state.queue.clone()), "{state:#?}");
        assert!((0..capacity).all(|i| push(1000 + i)) && !push(2000), "{state:#?}");
        assert!((0..capacity).all(|i| pop() == Some(1000 + i)) && pop().is_none());
    });
    assert!(words.cells.iter().all(|cell| *cell == FREE), "{words:?} of {state:#?}");
}

/// All orders, beginning with a queue through which `over` items went and in which `inside` are.
/// Returns how many states there were.
fn explore(
    capacity: u64,
    over: u64,
    inside: u64,
    programs: &[(Program, u32)],
    kills: u32,
) -> usize {
    let participants = u64::from(programs.iter().map(|(_, me)| me + 1).max().unwrap());
    let words = Words::new(capacity, participants);
    let stands: Vec<AtomicU64> = (0..4096).map(|_| AtomicU64::new(0)).collect();
    let turns = Turns::new(words.places.len() as u64, words.cells.len() as u64);
    let shape = Shape { capacity, participants, turns, stands: &stands };
    let mut first = State {
        words,
        queue: VecDeque::new(),
        end: over + inside,
        processes: programs.iter().map(|&(program, me)| Process::new(program, me)).collect(),
        kills,
    };
    for i in 0..over + inside {
        let item = 10_000 + i;
        shape.at_once(&mut first.words, |core| {
            // SAFETY: one item of eight bytes; nobody else is there.
            assert_eq!(unsafe { core.push(0, (&raw const item).cast(), 8, 1) }, Ok(1));
            if i < over {
                let cell = core.peek(0).unwrap().unwrap();
                core.release(cell);
            }
        });
        first.queue.extend((i >= over).then_some(item));
    }
    // By two hashes of 64 bits: for a state to be taken for another, both must coincide.
    let hashers = [RandomState::new(), RandomState::new()];
    let (mut seen, mut open) = (HashSet::new(), vec![first]);
    while let Some(state) = open.pop() {
        if !seen.insert([hashers[0].hash_one(&state), hashers[1].hash_one(&state)]) {
            continue;
        }
        look_around(&state, &shape);
        let mut stuck = true;
        for index in 0..state.processes.len() {
            if !may_run(&state, index) {
                continue;
            }
            stuck = false;
            open.push(step(&state, index, &shape));
            if state.kills > 0 && state.processes[index].me == 0 {
                let mut killed = state.clone();
                killed.kills -= 1;
                killed.processes[index].life = Life::Killed;
                open.push(killed);
            }
        }
        if stuck {
            conclude(&state, &shape);
        }
    }
    eprintln!(
        "{capacity}, {over} and {inside}, {programs:?}, {kills} kills: {} states",
        seen.len()
    );
    seen.len()
}

/// Each of these beginning with an empty ring and with a full one, in which all places were used.
fn each(capacity: u64, all: &[&[(Program, u32)]], kills: u32) -> usize {
    let of = |programs| [0, capacity].map(|inside| explore(capacity, 5, inside, programs, kills));
    all.iter().flat_map(|programs| of(programs)).sum()
}

#[test]
fn two_participants_in_every_order() {
    let programs: [&[(Program, u32)]; 5] = [
        &[("uo", 0), ("uo", 1)],
        &[("ou", 0), ("du", 1)],
        &[("rc", 0), ("uu", 1)],
        &[("rb", 0), ("ou", 1)],
        &[("pfR", 0), ("uE", 1)],
    ];
    // New rings, too.
    let new = explore(1, 0, 0, programs[0], 0) + explore(2, 0, 2, programs[1], 0);
    let sum = new + each(1, &programs, 0) + each(2, &programs, 0);
    assert!(sum > 50_000, "{sum} states");
}

#[test]
fn three_participants_in_every_order() {
    let programs: [&[(Program, u32)]; 4] = [
        &[("u", 0), ("u", 1), ("o", 2)],
        &[("u", 0), ("o", 1), ("o", 2)],
        &[("u", 0), ("rb", 1), ("R", 2)],
        &[("rc", 0), ("o", 1), ("E", 2)],
    ];
    let sum = each(1, &programs, 0);
    assert!(sum > 200_000, "{sum} states");
}

#[test]
fn killed_in_every_order() {
    let programs: [&[(Program, u32)]; 3] = [
        &[("u", 0), ("rRb", 1)],
        &[("u", 0), ("o", 1), ("srb", 0)],
        &[("o", 0), ("u", 1), ("so", 0)],
    ];
    let sum = each(1, &programs, 1) + each(2, &programs[..1], 1);
    assert!(sum > 10_000, "{sum} states");
}
