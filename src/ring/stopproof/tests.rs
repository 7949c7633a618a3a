//! Every process stopped, or killed, at every access to shared memory while others do whole
//! operations, in one thread: the memory runs the others when the time has come.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::ptr::NonNull;

use super::word::Cell as Word;
use super::{Core, Memory};
use crate::sync::atomic::{AtomicU64, Ordering};

const HANDLES: u32 = 3;

/// Memory that counts accesses, and at one of them lets others run.
struct Steps {
    capacity: u64,
    tail: AtomicU64,
    head: AtomicU64,
    hint: AtomicU64,
    dropped: AtomicU64,
    lost: AtomicU64,
    places: Vec<AtomicU64>,
    cells: Vec<AtomicU64>,
    items: Vec<UnsafeCell<u64>>,
    /// Accesses until the one that runs now is stopped.
    left: Cell<Option<usize>>,
    /// What runs while it is stopped.
    others: RefCell<Option<Others>>,
    /// Accesses in all.
    taken: Cell<usize>,
}

type Others = Box<dyn FnOnce()>;

impl Steps {
    fn new(capacity: u64) -> Self {
        let zeros = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
        let handles = u64::from(HANDLES);
        let cells = capacity + 2 * handles;
        Self {
            capacity,
            tail: AtomicU64::new(0),
            head: AtomicU64::new(0),
            hint: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            places: zeros((capacity + handles).next_power_of_two()),
            cells: zeros(cells),
            items: (0..cells).map(|_| UnsafeCell::new(0)).collect(),
            left: Cell::new(None),
            others: RefCell::new(None),
            taken: Cell::new(0),
        }
    }

    fn step(&self) {
        self.taken.set(self.taken.get() + 1);
        match self.left.get() {
            Some(0) => {
                self.left.set(None);
                let others = self.others.borrow_mut().take();
                others.unwrap()();
            }
            left => self.left.set(left.map(|left| left - 1)),
        }
    }
}

impl Memory for Steps {
    fn capacity(&self) -> u64 {
        self.capacity
    }
    fn places(&self) -> u64 {
        self.places.len() as u64
    }
    fn cells(&self) -> u64 {
        self.cells.len() as u64
    }
    fn tail(&self) -> &AtomicU64 {
        self.step();
        &self.tail
    }
    fn head(&self) -> &AtomicU64 {
        self.step();
        &self.head
    }
    fn hint(&self) -> &AtomicU64 {
        self.step();
        &self.hint
    }
    fn dropped(&self) -> &AtomicU64 {
        self.step();
        &self.dropped
    }
    fn lost(&self) -> &AtomicU64 {
        self.step();
        &self.lost
    }
    fn place(&self, position: u64) -> &AtomicU64 {
        self.step();
        &self.places[position as usize & (self.places.len() - 1)]
    }
    fn cell(&self, cell: u64) -> &AtomicU64 {
        self.step();
        &self.cells[cell as usize]
    }
    fn item(&self, cell: u64) -> NonNull<u8> {
        NonNull::new(self.items[cell as usize].get()).unwrap().cast()
    }
    unsafe fn write(&self, cell: u64, from: *const u8) {
        self.step();
        // SAFETY: one thread; the caller vouches for `from`.
        unsafe { *self.items[cell as usize].get() = from.cast::<u64>().read_unaligned() };
    }
    unsafe fn read(&self, cell: u64, to: *mut u8) {
        self.step();
        // SAFETY: one thread; the caller vouches for `to`.
        unsafe { to.cast::<u64>().write_unaligned(*self.items[cell as usize].get()) };
    }
}

/// One thing a participant does.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Act {
    Push,
    Pop,
    /// Reserves, and commits what it got.
    InPlace,
    /// Reserves, and gives it back.
    ThinkBetter,
    Discard,
    /// Clears away after participant 0, which is dead.
    Sweep,
}

/// One step of a queue, as far as its caller knows what happened.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Did {
    Pushed(u64),
    WasFull,
    Granted,
    Committed(u64),
    Popped(u64),
    WasEmpty,
    /// Killed in it: it happened, with this item or whichever was first, or it did not.
    MaybePushed(u64),
    MaybePopped,
}

/// A step and when it began and ended.
#[derive(Debug, Clone, Copy)]
struct Event {
    did: Did,
    began: usize,
    ended: usize,
}

/// The ring, and what was done with it.
struct World {
    core: Core<Steps>,
    history: RefCell<Vec<Event>>,
    values: Cell<u64>,
    /// What somebody who is not stopped has reserved before all others began.
    reserved: Cell<Option<u64>>,
}

impl World {
    fn new(capacity: u64) -> Self {
        let core = Core::new(Steps::new(capacity));
        let (values, reserved) = (Cell::new(0), Cell::new(None));
        Self { core, history: RefCell::default(), values, reserved }
    }

    fn memory(&self) -> &Steps {
        &self.core.memory
    }

    fn value(&self) -> u64 {
        self.values.set(self.values.get() + 1);
        self.values.get()
    }

    /// Notes one step; `maybe` stands there until it has ended.
    fn note<T>(&self, maybe: Did, step: impl FnOnce() -> (Did, T)) -> T {
        let began = self.memory().taken.get();
        let at = self.history.borrow().len();
        self.history.borrow_mut().push(Event { did: maybe, began, ended: usize::MAX });
        let (did, result) = step();
        let ended = self.memory().taken.get();
        self.history.borrow_mut()[at] = Event { did, began, ended };
        result
    }

    fn push(&self, me: u32) {
        let value = self.value();
        self.note(Did::MaybePushed(value), || {
            // SAFETY: one item; `me` is the actor's, which holds no cell.
            let pushed = unsafe { self.core.push(me, (&raw const value).cast(), 8, 1) }.unwrap();
            (if pushed == 1 { Did::Pushed(value) } else { Did::WasFull }, ())
        });
    }

    fn pop(&self, me: u32) -> bool {
        self.note(Did::MaybePopped, || {
            let mut value = 0_u64;
            // SAFETY: one item; `me` is the actor's, which holds no cell.
            match unsafe { self.core.pop(me, (&raw mut value).cast(), 8, 1) }.unwrap() {
                0 => (Did::WasEmpty, false),
                _ => (Did::Popped(value), true),
            }
        })
    }

    fn commit(&self, me: u32, cell: u64) {
        let value = self.value();
        // SAFETY: the cell is the actor's.
        unsafe { self.memory().write(cell, (&raw const value).cast()) };
        self.note(Did::MaybePushed(value), || {
            self.core.commit(me, cell).unwrap();
            (Did::Committed(value), ())
        });
    }

    fn act(&self, me: u32, act: Act) {
        match act {
            Act::Push => self.push(me),
            Act::Pop => drop(self.pop(me)),
            Act::InPlace | Act::ThinkBetter => {
                // Killed: a grant changes nothing.
                let cell = self.note(Did::MaybePushed(0), || {
                    let cell = self.core.reserve(me).unwrap();
                    (if cell.is_some() { Did::Granted } else { Did::WasFull }, cell)
                });
                let Some(cell) = cell else { return };
                if act == Act::ThinkBetter {
                    return self.core.give_back(cell);
                }
                self.commit(me, cell);
            }
            Act::Discard => self.note(Did::MaybePopped, || match self.core.discard().unwrap() {
                true => (Did::MaybePopped, ()),
                false => (Did::WasEmpty, ()),
            }),
            Act::Sweep => self.core.sweep(0),
        }
    }

    /// Whether some order of the steps, in which none comes before one that ended before it began,
    /// is what a queue would have done.
    fn is_linearizable(&self) -> bool {
        fn go(events: &[Event], done: u64, queue: &VecDeque<u64>, capacity: usize) -> bool {
            let open = |i: &usize| done >> i & 1 == 0;
            let all = || (0..events.len()).filter(open);
            // What was killed may never have happened.
            if all().all(|i| matches!(events[i].did, Did::MaybePushed(_) | Did::MaybePopped)) {
                return true;
            }
            let first_end = all().map(|i| events[i].ended).min().unwrap_or(usize::MAX);
            all().filter(|&i| events[i].began <= first_end).any(|i| {
                let (mut next, done) = (queue.clone(), done | 1 << i);
                let fits = match events[i].did {
                    Did::Pushed(value) => {
                        next.push_back(value);
                        next.len() <= capacity
                    }
                    Did::Committed(value) => {
                        next.push_back(value);
                        next.len() < capacity + HANDLES as usize
                    }
                    Did::MaybePushed(value) => {
                        // A killed reservation has value 0.
                        if value != 0 {
                            next.push_back(value);
                        }
                        true
                    }
                    Did::Granted => next.len() < capacity,
                    Did::WasFull => next.len() >= capacity,
                    Did::Popped(value) => next.pop_front() == Some(value),
                    Did::MaybePopped => next.pop_front().is_some(),
                    Did::WasEmpty => next.is_empty(),
                };
                fits && go(events, done, &next, capacity)
            })
        }
        let capacity = self.memory().capacity as usize;
        go(&self.history.borrow(), 0, &VecDeque::new(), capacity)
    }

    fn states(&self) -> Vec<Word> {
        self.memory().cells.iter().map(|word| Word::of(word.load(Ordering::Relaxed))).collect()
    }

    fn count(&self, matches: impl Fn(Did) -> bool) -> u64 {
        self.history.borrow().iter().filter(|event| matches(event.did)).count() as u64
    }

    /// Takes everything out, and checks that it adds up; `dead` if participant 0 was killed.
    fn settle(&self, dead: bool) {
        let before = self.core.tally(&|index| !dead || index != 0);
        let sum = before.read + before.dropped + before.lost + before.length;
        assert_eq!(before.written, sum);
        assert_eq!(before.pending, 0);
        if dead {
            self.core.sweep(0);
        }
        let after = self.core.tally(&|_| true);
        assert_eq!(before, after, "what was told of the dead is what is found");
        while self.pop(1) {}
        assert!(self.core.is_empty());
        let drained = self.core.tally(&|_| true);
        assert_eq!((drained.written, drained.length), (before.written, 0));
        assert!(self.states().iter().all(|state| *state == Word::Free), "{:?}", self.states());
        assert!(drained.lost <= u64::from(dead));
        let pushed = self.count(|did| matches!(did, Did::Pushed(_) | Did::Committed(_)));
        let popped = self.count(|did| matches!(did, Did::Popped(_)));
        let maybe = self.count(|did| matches!(did, Did::MaybePushed(value) if value != 0));
        assert!((pushed..=pushed + maybe).contains(&drained.written));
        assert!(drained.read + drained.lost + drained.dropped >= popped);
        assert!(self.is_linearizable(), "{:#?}", self.history.borrow());
    }
}

/// Who is stopped where, and what happens then.
struct Plan<'a> {
    script: &'a [Act],
    stop: usize,
    killed: bool,
}

struct Killed;

/// Runs the first plan until it is to be stopped, then the others likewise, then goes on with it, or
/// kills it. `false`: one of them had ended before.
fn run(
    world: &'static World,
    me: u32,
    plans: &'static [Plan<'static>],
    whole: &'static Cell<bool>,
) {
    let [plan, rest @ ..] = plans else {
        // Somebody who is not stopped: in few steps of its own it gets through.
        let before = world.memory().taken.get();
        if let Some(cell) = world.reserved.take() {
            world.commit(me, cell);
        }
        for act in [Act::Push, Act::Pop, Act::Push] {
            // Any value will do, and this one has cells used again as soon as can be.
            world.memory().hint.store(0, Ordering::Relaxed);
            world.act(me, act);
        }
        let steps = world.memory().taken.get() - before;
        assert!(steps < 90 + 6 * world.memory().cells.len(), "{steps} steps");
        whole.set(true);
        return;
    };
    let killed = plan.killed;
    *world.memory().others.borrow_mut() = Some(Box::new(move || {
        run(world, me + 1, rest, whole);
        if killed {
            resume_unwind(Box::new(Killed));
        }
    }));
    world.memory().left.set(Some(plan.stop));
    let result = catch_unwind(AssertUnwindSafe(|| {
        plan.script.iter().for_each(|&act| world.act(me, act));
    }));
    if let Err(panic) = result
        && !panic.is::<Killed>()
    {
        resume_unwind(panic);
    }
    world.memory().left.set(None);
}

/// All stops of `scripts`, each inside the one before; whether the first is `killed`. Runs of it.
fn all_stops(capacity: u64, before: (u64, u64), scripts: &[&'static [Act]], killed: bool) -> usize {
    fn each(stops: &mut Vec<usize>, depth: usize, body: &mut dyn FnMut(&[usize]) -> bool) -> bool {
        if stops.len() == depth {
            return body(stops);
        }
        for stop in 0.. {
            stops.push(stop);
            let reached = each(stops, depth, body);
            stops.pop();
            if !reached {
                // Nothing at the very first stop means that an outer one is not reached.
                return stop > 0;
            }
        }
        unreachable!()
    }
    let mut runs = 0;
    each(&mut Vec::new(), scripts.len(), &mut |stops| {
        let world: &'static World = Box::leak(Box::new(World::new(capacity)));
        let whole: &'static Cell<bool> = Box::leak(Box::new(Cell::new(false)));
        for _ in 0..before.0 {
            world.push(0);
            world.pop(0);
        }
        for _ in 0..before.1 {
            world.push(0);
        }
        // By the one who is not stopped; in half of the states, where there is room.
        if before.1 < capacity && before.0 % 2 == 1 {
            let cell = world.core.reserve(scripts.len() as u32).unwrap();
            world.reserved.set(cell);
        }
        let plans = scripts.iter().zip(stops).enumerate().map(|(i, (script, &stop))| Plan {
            script,
            stop,
            killed: killed && i == 0,
        });
        let plans: &'static [Plan<'static>] = Box::leak(plans.collect::<Vec<_>>().into());
        run(world, 0, plans, whole);
        if whole.get() {
            runs += 1;
            world.settle(killed);
        }
        let reached = whole.get();
        // SAFETY: leaked above, and nothing of this run is left: what others held is taken or here.
        unsafe {
            world.memory().others.take();
            drop(Box::from_raw(std::ptr::from_ref(plans).cast_mut()));
            drop(Box::from_raw(std::ptr::from_ref(whole).cast_mut()));
            drop(Box::from_raw(std::ptr::from_ref(world).cast_mut()));
        }
        reached
    });
    runs
}

const PUSH: &[Act] = &[Act::Push];
const POP: &[Act] = &[Act::Pop];
const BOTH: &[Act] = &[Act::Pop, Act::Push];
const IN_PLACE: &[Act] = &[Act::InPlace];
const BETTER: &[Act] = &[Act::ThinkBetter];
const OVERWRITE: &[Act] = &[Act::Discard, Act::Push];

const SCRIPTS: [&[Act]; 6] = [PUSH, POP, BOTH, IN_PLACE, BETTER, OVERWRITE];

/// Where the queue stands: pushed and popped before, and inside; laps and fullness both ways.
fn states(capacity: u64) -> impl Iterator<Item = (u64, u64)> {
    [0, 3, 17].into_iter().flat_map(move |moved| (0..=capacity).map(move |inside| (moved, inside)))
}

#[test]
fn one_is_stopped_anywhere() {
    let mut runs = 0;
    for capacity in [1, 2, 4] {
        for state in states(capacity) {
            for script in SCRIPTS {
                runs += all_stops(capacity, state, &[script], false);
            }
        }
    }
    assert!(runs > 1500, "{runs} runs");
}

#[test]
fn one_is_killed_anywhere() {
    let mut runs = 0;
    for capacity in [1, 2, 4] {
        for state in states(capacity) {
            for script in SCRIPTS {
                runs += all_stops(capacity, state, &[script], true);
            }
        }
    }
    assert!(runs > 1500, "{runs} runs");
}

#[test]
fn two_are_stopped_anywhere() {
    let mut runs = 0;
    for capacity in [1, 2] {
        for state in states(capacity) {
            for first in SCRIPTS {
                for second in SCRIPTS {
                    runs += all_stops(capacity, state, &[first, second], false);
                }
            }
        }
    }
    assert!(runs > 50_000, "{runs} runs");
}

#[test]
fn one_is_killed_while_another_is_stopped() {
    let mut runs = 0;
    for capacity in [1, 2] {
        for state in states(capacity) {
            for first in SCRIPTS {
                for second in SCRIPTS {
                    runs += all_stops(capacity, state, &[first, second], true);
                }
            }
        }
    }
    assert!(runs > 50_000, "{runs} runs");
}

/// Participant 0 died with a cell reserved, an item peeked, one offered and not pushed, and one in
/// the queue; who clears away is stopped anywhere while others work on, and killed there or not.
#[test]
fn a_sweeper_is_stopped_or_killed_anywhere() {
    for (stop, killed) in (0..120).flat_map(|stop| [(stop, false), (stop, true)]) {
        let world: &'static World = Box::leak(Box::new(World::new(4)));
        let whole: &'static Cell<bool> = Box::leak(Box::new(Cell::new(false)));
        for _ in 0..3 {
            world.push(0);
        }
        let peeked = world.note(Did::Popped(1), || (Did::Popped(1), world.core.peek(0).unwrap()));
        let reserved = world.core.reserve(0).unwrap().unwrap();
        let offered = world.core.acquire(0).unwrap();
        let word = super::word::offered(3, 0);
        world.memory().cells[offered as usize].store(word, Ordering::Relaxed);
        assert_ne!((peeked, reserved), (Some(offered), offered));
        let tally = world.core.tally(&|index| index != 0);
        assert_eq!((tally.lost, tally.pending, tally.length), (1, 0, 2));
        let plan = Plan { script: &[Act::Sweep], stop, killed };
        run(world, 1, Box::leak(Box::new([plan])), whole);
        world.core.sweep(0);
        let states = world.states();
        let held = states.iter().filter(|state| matches!(state, Word::Owned(_) | Word::Taken(_)));
        assert_eq!(held.count(), 0, "{states:?}");
        while world.pop(1) {}
        assert!(world.states().iter().all(|state| *state == Word::Free), "{:?}", world.states());
        let tally = world.core.tally(&|_| true);
        assert_eq!((tally.length, tally.pending), (0, 0));
        // A sweeper that was killed between freeing and counting leaves it uncounted, never twice.
        assert!(tally.lost == 1 || killed && tally.lost == 0, "{} lost", tally.lost);
        assert!(world.is_linearizable());
    }
}
