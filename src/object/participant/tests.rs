//! Slots that are taken, held, scribbled over and left behind.

use super::*;
use crate::shm::{Mapping, sealed_memory};
use crate::sys::alloc::Arc;
use std::cell::{Cell, RefCell};

const SLOTS: u32 = 100;

struct Object(Geometry, Region, Anchor);

fn object(max_handles: u32) -> Object {
    let geometry = Geometry { kind: 1, item_size: 8, capacity: 4, max_handles, policy: 0 };
    let size = geometry.total_size().unwrap();
    let file = Arc::new(sealed_memory(c"slots", size, false, "slots").unwrap()).unwrap();
    let region = Region::new(Mapping::part(file.fd().unwrap(), 0, size as usize, true).unwrap());
    Object(geometry, region, Anchor::new(file, 0))
}

impl Object {
    fn attach(&self) -> Result<Participant> {
        let (mine, sweep) = (|| Ok(()), |_, _: &_| true);
        Participant::attach(&self.1, &self.0, &self.2, "slots", &mine, &sweep)
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        (0..self.0.max_handles).map(|index| Slot::of(&self.1, &self.0, index).unwrap())
    }

    fn hint(&self) -> &Hint {
        Hint::of(&self.1).unwrap()
    }
}

#[test]
fn slots_are_taken_from_the_lowest_one() {
    let object = object(SLOTS);
    let mut all: Vec<_> = (0..SLOTS).map(|_| object.attach().unwrap()).collect();
    assert!(all.iter().enumerate().all(|(at, one)| one.index == at as u32));
    assert_eq!(object.attach().unwrap_err().code(), Errno::EMFILE);
    for index in [70, 3] {
        all.swap_remove(index).detach(&object.1, &object.0);
    }
    for expected in [3, 70] {
        all.push(object.attach().unwrap());
        assert_eq!(all.last().unwrap().index, expected);
    }
    // What the kernel does when it kills a process: the byte is free, the slot is not.
    drop(all.swap_remove(50).token);
    let last = object.attach().unwrap();
    assert_eq!((last.index, object.attach().unwrap_err().code()), (50, Errno::EMFILE));
}

/// Whatever a peer writes in the hint and in the states of the slots: a handle is to be had exactly
/// as long as a byte is free.
#[test]
fn hints_and_states_cost_time_alone() {
    let object = object(SLOTS);
    let mut all: Vec<_> = (0..SLOTS - 1).map(|_| object.attach().unwrap()).collect();
    for number in [0, 1, SLOTS - 1, SLOTS, SLOTS + 1, 1 << 31, u32::MAX] {
        for state in [None, Some(CLEAN), Some(IN_USE), Some(7)] {
            let hint = object.hint();
            for word in [&hint.free_from, &hint.look_from, &hint.high] {
                word.store(number, Ordering::Relaxed);
            }
            for slot in object.slots().filter(|_| state.is_some()) {
                slot.state.store(state.unwrap(), Ordering::Relaxed);
            }
            let last = object.attach().unwrap();
            assert_eq!(last.index, SLOTS - 1, "{number} {state:?}");
            last.detach(&object.1, &object.0);
        }
    }
    all.push(object.attach().unwrap());
    for state in [CLEAN, IN_USE] {
        object.slots().for_each(|slot| slot.state.store(state, Ordering::Relaxed));
        assert_eq!(object.attach().unwrap_err().code(), Errno::EMFILE);
    }
}

/// One slot's byte is held by somebody who only looks; what lies in the other one cannot be
/// decided. The first pass finds nothing; then the byte is let go of.
#[test]
fn a_slot_that_is_held_for_a_moment_is_waited_for() {
    let Object(geometry, region, anchor) = object(2);
    let other = Slot::of(&region, &geometry, 1).unwrap();
    other.state.store(IN_USE, Ordering::Relaxed);
    let held = RefCell::new(anchor.lock_for_now(SLOT_BYTE).unwrap());
    assert!(held.borrow().is_some());
    let (passes, patient) = (Cell::new(0), Cell::new(1));
    let attach = || {
        Participant::attach(&region, &geometry, &anchor, "slots", &|| Ok(()), &|index, _| {
            assert_eq!(index, 1);
            passes.set(passes.get() + 1);
            if passes.get() == patient.get() {
                drop(held.take());
            }
            false
        })
    };
    let mine = attach().unwrap();
    assert_eq!((mine.index(), passes.get()), (0, 1));
    // Bounded.
    patient.set(u32::MAX);
    assert_eq!(attach().unwrap_err().code(), Errno::EMFILE);
    assert_eq!(passes.get(), 1 + 1 + PATIENCE);
    mine.detach(&region, &geometry);
}
