//! Both broadcast cores under the model checker: these very cores, over memory of loom's atomics.
//!
//! An item is its position and ten times its sender. Copies by `write` and `read` go to two relaxed
//! atomic words, both the same: a reader that loads two different ones has a torn item and must not
//! believe it. Copies by `write_run` and `read_run` go to a cell whose accesses loom checks for races.
//! The core under test chooses between the two, as it does in the library.

mod gating;
mod overwriting;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;
use std::cell::Cell;
use std::ptr::NonNull;

use super::*;
use crate::ring::seat::Grip;
use crate::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use crate::sync::model::{Fences, check, check_kills, killed_after, share, step};

const SLOTS: u32 = 2;
const TORN: u64 = u64::MAX;

#[derive(Debug)]
struct Item {
    word: AtomicU64,
    item: [AtomicU64; 2],
    /// Plain copies that nothing orders are a race to loom.
    plain: UnsafeCell<u64>,
}

#[derive(Debug)]
struct Reader {
    cursor: AtomicU64,
    reader: AtomicU32,
    generation: AtomicU32,
    /// Stored with Release after the last access, as the kernel frees a lock.
    dead: AtomicU32,
}

#[derive(Debug)]
struct Model {
    tail: AtomicU64,
    head: AtomicU64,
    dropped: AtomicU64,
    readers: AtomicU32,
    slots: Vec<Reader>,
    cells: Vec<Item>,
}

// SAFETY: `plain` is reached by copies only, whose order loom checks.
unsafe impl Sync for Model {}
// SAFETY: no thread owns anything in it.
unsafe impl Send for Model {}

impl Model {
    fn new(capacity: usize) -> Self {
        let word = AtomicU64::default;
        let cell = |_| Item { word: word(), item: [word(), word()], plain: UnsafeCell::new(0) };
        let slot = |_| Reader {
            cursor: word(),
            reader: AtomicU32::default(),
            generation: AtomicU32::default(),
            dead: AtomicU32::default(),
        };
        Self {
            tail: word(),
            head: word(),
            dropped: word(),
            readers: AtomicU32::default(),
            slots: (0..SLOTS).map(slot).collect(),
            cells: (0..capacity).map(cell).collect(),
        }
    }

    fn cell(&self, position: u64) -> &Item {
        &self.cells[position as usize & (self.cells.len() - 1)]
    }
}

impl Memory for Model {
    fn capacity(&self) -> u64 {
        self.cells.len() as u64
    }
    fn participants(&self) -> u32 {
        SLOTS
    }
    fn tail(&self) -> &AtomicU64 {
        &self.tail
    }
    fn head(&self) -> &AtomicU64 {
        &self.head
    }
    fn dropped(&self) -> &AtomicU64 {
        &self.dropped
    }
    fn readers(&self) -> &AtomicU32 {
        &self.readers
    }
    fn cursor(&self, index: u32) -> &AtomicU64 {
        &self.slots[index as usize].cursor
    }
    fn reader(&self, index: u32) -> &AtomicU32 {
        &self.slots[index as usize].reader
    }
    fn generation(&self, index: u32) -> u32 {
        self.slots[index as usize].generation.load(Ordering::Relaxed)
    }
    fn word(&self, position: u64) -> &AtomicU64 {
        &self.cell(position).word
    }
    fn item(&self, _position: u64) -> NonNull<u8> {
        // Not followed by any model.
        NonNull::dangling()
    }
    unsafe fn write(&self, position: u64, from: *const u8) {
        // SAFETY: the caller's promise, for an item of eight bytes.
        let item = unsafe { from.cast::<u64>().read() };
        self.cell(position).item.iter().for_each(|word| word.store(item, Ordering::Relaxed));
    }
    unsafe fn read(&self, position: u64, to: *mut u8) {
        let [one, two] = &self.cell(position).item;
        let (one, two) = (one.load(Ordering::Relaxed), two.load(Ordering::Relaxed));
        let item = if one == two { one } else { TORN };
        // SAFETY: the caller's promise, for an item of eight bytes.
        unsafe { to.cast::<u64>().write(item) };
    }
    unsafe fn write_run(&self, position: u64, from: *const u8, count: u64) {
        for i in 0..count {
            // SAFETY: the caller's promise, for items of eight bytes.
            let item = unsafe { from.cast::<u64>().add(i as usize).read() };
            step();
            // SAFETY: loom checks the cell.
            self.cell(position + i).plain.with_mut(|plain| unsafe { *plain = item });
        }
    }
    unsafe fn read_run(&self, position: u64, to: *mut u8, count: u64) {
        for i in 0..count {
            step();
            // SAFETY: loom checks the cell.
            let item = self.cell(position + i).plain.with(|plain| unsafe { *plain });
            // SAFETY: the caller's promise, for items of eight bytes.
            unsafe { to.cast::<u64>().add(i as usize).write(item) };
        }
    }
}

/// What a reader has seen, by position; `None` where something went by.
type Seen = Vec<(u64, Option<u64>)>;

/// Notes what a reader that stood at `before` was told, and holds the ring to its count: it stands
/// behind what it got and what it lost. Whether there was anything.
fn note(seen: &mut Seen, before: u64, after: u64, told: Result<Option<u64>, Miss>) -> bool {
    let count = match told {
        Ok(item) => u64::from(item.is_some()),
        Err(Miss::Lost(count)) => count,
        Err(Miss::Corrupt) => panic!("no corruption"),
    };
    assert_eq!(after - before, count);
    let item = told.ok().flatten();
    seen.extend((before..after).map(|position| (position, item)));
    count > 0
}

/// Each item is that of its position: sent by the first producer, or, from `first` on, by the next.
fn is_right(seen: &Seen, first: u64) -> bool {
    let sent = |position| if position < first { position } else { 10 + position };
    seen.iter().all(|&(position, item)| item.is_none_or(|item| item == sent(position)))
}
