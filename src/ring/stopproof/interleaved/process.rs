//! What participants do, and what each answer says about the queue.

use super::replay::Replay;
use crate::object::End;
use crate::ring::stopproof::{Core, Memory};

/// What a participant does from beginning to end, a letter an operation: `u` push, `o` pop, `r`
/// reserve and then `c` commit or `b` give back, `p` peek and then `f` release, `d` discard, `R` and
/// `E`: is there room, is there an item; or, first, `s`: when participant 0 is dead, clear away after
/// it and go on as it.
pub(super) type Program = &'static str;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Life {
    Runs,
    Ended,
    Killed,
}

/// What an operation came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Pushed,
    Popped(u64),
    Full,
    Granted,
    Empty,
    /// There is an item.
    Some,
    Nothing,
}

/// What an operation has done to the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Effect {
    None,
    Pushed,
    Popped(u64),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Process {
    pub(super) program: Program,
    pub(super) me: u32,
    pub(super) life: Life,
    /// Operations done.
    pub(super) done: usize,
    /// What its handle remembers of the room there is.
    pub(super) limit: u64,
    /// Reserved, or peeked.
    pub(super) cell: Option<u64>,
    /// Of the operation in progress: what its accesses have found, what it has done, and the queue's
    /// lengths since it began, a bit each.
    pub(super) found: Vec<u64>,
    pub(super) effect: Effect,
    pub(super) lengths: u32,
}

impl Process {
    pub(super) fn new(program: Program, me: u32) -> Self {
        Self {
            program,
            me,
            life: Life::Runs,
            done: 0,
            limit: 0,
            cell: None,
            found: Vec::new(),
            effect: Effect::None,
            lengths: 0,
        }
    }

    pub(super) fn letter(&self) -> u8 {
        self.program.as_bytes()[self.done]
    }

    /// What it pushes next; nobody else pushes that.
    pub(super) fn value(&self) -> u64 {
        let after = u64::from(self.program.starts_with('s'));
        100 * u64::from(self.me) + 50 * after + self.done as u64 + 1
    }

    /// The next operation, to its end.
    pub(super) fn operate(&mut self, core: &Core<Replay<'_>>) -> Answer {
        let (me, value) = (self.me, self.value());
        let ready = |end, yes, no| if core.is_ready(end) { yes } else { no };
        match self.letter() {
            b'u' => {
                // SAFETY: one item of eight bytes; `me` is this participant's, which holds no cell.
                match unsafe { core.push(me, (&raw const value).cast(), 8, 1) }.unwrap() {
                    0 => Answer::Full,
                    _ => Answer::Pushed,
                }
            }
            b'o' => {
                let mut item = 0_u64;
                // SAFETY: as above.
                match unsafe { core.pop(me, (&raw mut item).cast(), 8, 1) }.unwrap() {
                    0 => Answer::Empty,
                    _ => Answer::Popped(item),
                }
            }
            b'r' => {
                self.cell = core.reserve(me).unwrap();
                if self.cell.is_some() { Answer::Granted } else { Answer::Full }
            }
            b'p' => {
                self.cell = core.peek(me).unwrap();
                match self.cell {
                    None => Answer::Empty,
                    // Nobody else writes there while it is peeked.
                    Some(cell) => Answer::Popped(core.memory.words.borrow().items[cell as usize]),
                }
            }
            b'c' => match self.cell.take() {
                None => Answer::Nothing,
                Some(cell) => {
                    // SAFETY: an item of eight bytes; the cell is its own.
                    unsafe { core.memory.write(cell, (&raw const value).cast()) };
                    core.commit(me, cell).unwrap();
                    Answer::Pushed
                }
            },
            b'b' => {
                self.cell.take().into_iter().for_each(|cell| core.give_back(cell));
                Answer::Nothing
            }
            b'f' => {
                self.cell.take().into_iter().for_each(|cell| core.release(cell));
                Answer::Nothing
            }
            b'd' => match core.discard().unwrap() {
                true => Answer::Popped(0),
                false => Answer::Empty,
            },
            b'R' => ready(End::Producer, Answer::Granted, Answer::Full),
            b'E' => ready(End::Consumer, Answer::Some, Answer::Empty),
            _ => {
                core.sweep(0);
                Answer::Nothing
            }
        }
    }

    /// Holds an operation to what the queue was while it went on.
    pub(super) fn judge(&self, answer: Answer, capacity: u64) {
        let was = |length: &dyn Fn(u64) -> bool| {
            (0..32).any(|bit| self.lengths >> bit & 1 == 1 && length(bit))
        };
        let fits = match (answer, self.effect) {
            (Answer::Pushed, effect) => effect == Effect::Pushed,
            // A discard does not look at what it gives up.
            (Answer::Popped(0), Effect::Popped(_)) => self.letter() == b'd',
            (Answer::Popped(item), effect) => effect == Effect::Popped(item),
            (Answer::Nothing, effect) => effect == Effect::None,
            (_, Effect::Pushed | Effect::Popped(_)) => false,
            (Answer::Full, _) => was(&|length| length >= capacity),
            (Answer::Granted, _) => was(&|length| length < capacity),
            (Answer::Empty, _) => was(&|length| length == 0),
            (Answer::Some, _) => was(&|length| length > 0),
        };
        assert!(fits, "{answer:?} of {self:#?}");
    }
}
