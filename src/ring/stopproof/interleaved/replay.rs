//! Memory that stops an operation at every new access.

use std::cell::{Cell, RefCell};
use std::panic::resume_unwind;
use std::ptr::NonNull;

use crate::ring::stopproof::{Core, Memory, Turns};
use crate::sync::atomic::{AtomicU64, Ordering};

/// The words of a ring.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Words {
    /// Tail, head, dropped, lost.
    pub(super) control: [u64; 4],
    pub(super) places: Vec<u64>,
    pub(super) cells: Vec<u64>,
    pub(super) items: Vec<u64>,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum At {
    Control(usize),
    Place(usize),
    Cell(usize),
    Item(usize),
}

impl Words {
    pub(super) fn new(capacity: u64, participants: u64) -> Self {
        let cells = (capacity + 2 * participants) as usize;
        let places = (capacity + participants).next_power_of_two() as usize;
        let (control, items) = ([0; 4], vec![0; cells]);
        Self { control, places: vec![0; places], cells: vec![0; cells], items }
    }

    pub(super) fn at(&mut self, at: At) -> &mut u64 {
        match at {
            At::Control(index) => &mut self.control[index],
            At::Place(index) => &mut self.places[index],
            At::Cell(index) => &mut self.cells[index],
            At::Item(index) => &mut self.items[index],
        }
    }
}

/// What stops a participant.
pub(super) struct Stop;

/// Memory that lets an operation do one new access, and stops it at the next.
pub(super) struct Replay<'a> {
    pub(super) capacity: u64,
    pub(super) places: u64,
    /// A word for each access, which stands for the shared one.
    pub(super) stands: &'a [AtomicU64],
    pub(super) words: &'a RefCell<Words>,
    /// What the accesses of the operation have found.
    pub(super) found: &'a RefCell<Vec<u64>>,
    pub(super) next: Cell<usize>,
    /// New accesses until it is stopped; `None`: never.
    pub(super) left: Cell<Option<usize>>,
    /// The last new access, whose effect is in its stand.
    pub(super) last: Cell<Option<(At, usize)>>,
}

impl Replay<'_> {
    /// Brings the effect of the last access to the shared memory.
    pub(super) fn settle(&self) {
        if let Some((at, stand)) = self.last.take() {
            *self.words.borrow_mut().at(at) = self.stands[stand].load(Ordering::Relaxed);
        }
    }

    pub(super) fn access(&self, at: At) -> &AtomicU64 {
        self.settle();
        let next = self.next.replace(self.next.get() + 1);
        let known = self.found.borrow().get(next).copied();
        let value = known.unwrap_or_else(|| {
            match self.left.get() {
                Some(0) => resume_unwind(Box::new(Stop)),
                left => self.left.set(left.map(|left| left - 1)),
            }
            let value = *self.words.borrow_mut().at(at);
            self.found.borrow_mut().push(value);
            self.last.set(Some((at, next)));
            value
        });
        self.stands[next].store(value, Ordering::Relaxed);
        &self.stands[next]
    }
}

impl Memory for Replay<'_> {
    fn capacity(&self) -> u64 {
        self.capacity
    }
    fn places(&self) -> u64 {
        self.places
    }
    fn cells(&self) -> u64 {
        self.words.borrow().cells.len() as u64
    }
    fn tail(&self) -> &AtomicU64 {
        self.access(At::Control(0))
    }
    fn head(&self) -> &AtomicU64 {
        self.access(At::Control(1))
    }
    fn hint(&self) -> &AtomicU64 {
        // Any value will do; from 0 on cells are used again as soon as can be.
        let stand = &self.stands[self.stands.len() - 1];
        stand.store(0, Ordering::Relaxed);
        stand
    }
    fn dropped(&self) -> &AtomicU64 {
        self.access(At::Control(2))
    }
    fn lost(&self) -> &AtomicU64 {
        self.access(At::Control(3))
    }
    fn place(&self, position: u64) -> &AtomicU64 {
        self.access(At::Place((position & (self.places - 1)) as usize))
    }
    fn cell(&self, cell: u64) -> &AtomicU64 {
        self.access(At::Cell(cell as usize))
    }
    fn item(&self, _cell: u64) -> NonNull<u8> {
        // Not followed here.
        NonNull::dangling()
    }
    unsafe fn write(&self, cell: u64, from: *const u8) {
        // SAFETY: the caller vouches for an item, which has eight bytes here.
        let item = unsafe { from.cast::<u64>().read_unaligned() };
        self.access(At::Item(cell as usize)).store(item, Ordering::Relaxed);
    }
    unsafe fn read(&self, cell: u64, to: *mut u8) {
        let item = self.access(At::Item(cell as usize)).load(Ordering::Relaxed);
        // SAFETY: the caller vouches for room for an item, which has eight bytes here.
        unsafe { to.cast::<u64>().write_unaligned(item) };
    }
}

/// The ring's constants.
#[derive(Clone, Copy)]
pub(super) struct Shape<'a> {
    pub(super) capacity: u64,
    pub(super) participants: u64,
    pub(super) turns: Turns,
    pub(super) stands: &'a [AtomicU64],
}

impl Shape<'_> {
    /// The core over `words`, as a handle that remembers `limit` and has been through `found`.
    pub(super) fn core<'b>(
        &'b self,
        words: &'b RefCell<Words>,
        found: &'b RefCell<Vec<u64>>,
        limit: u64,
        left: Option<usize>,
    ) -> Core<Replay<'b>> {
        let core = Core::new(Replay {
            capacity: self.capacity,
            places: words.borrow().places.len() as u64,
            stands: self.stands,
            words,
            found,
            next: Cell::new(0),
            left: Cell::new(left),
            last: Cell::new(None),
        });
        core.limit.set(limit);
        core
    }

    /// Runs `body` to its end, with nobody else.
    pub(super) fn at_once<T>(
        &self,
        words: &mut Words,
        body: impl FnOnce(&Core<Replay<'_>>) -> T,
    ) -> T {
        let (shared, found) = (RefCell::new(words.clone()), RefCell::new(Vec::new()));
        let core = self.core(&shared, &found, 0, None);
        let result = body(&core);
        core.memory.settle();
        *words = shared.into_inner();
        result
    }
}
