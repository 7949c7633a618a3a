#![forbid(unsafe_code)]
//! Clearing away what the dead have left in a ring, by somebody who takes no part in it.
//!
//! It is what a participant does anyway when it takes a dead one's slot or waits for the other end,
//! done for all of them at once: each slot under its lock byte, each position and role by one
//! compare-and-swap. Killed anywhere, it leaves what it has not come to, for the next one.

use super::broadcast::Start;
use super::handle::Ring;
use crate::error::Result;
use crate::flags::Access;
use crate::object::{End, Holder, Object};

impl Ring {
    /// Clears away what the dead have left; how many things. `object` was found sound.
    pub(crate) fn repair(object: Object) -> Result<u32> {
        let ring = Self::detached(object, Access::ReadWrite, Start::Now)?;
        let events = [&ring.control().not_empty.0, &ring.control().not_full.0];
        let armed = events.iter().filter(|event| event.has_sleeper()).count() as u32;
        let alive = ring.asking();
        let mut mended = 0;
        for index in 0..ring.object.geometry().max_handles {
            let in_use = ring.object.slot(index).is_some_and(|slot| slot.is_in_use());
            if in_use && !ring.object.is_alive(index) {
                let swept = ring.object.recover(index, |i, slot| ring.sweep(i, slot, &alive));
                mended += u32::from(swept?);
            }
        }
        let mut died = mended > 0;
        for end in [End::Producer, End::Consumer] {
            let word = ring.role_word(end);
            if !ring.engine.is_shared(end)
                && word.holder() == Holder::Live
                && ring.probe(end) != Holder::Live
            {
                mended += 1;
            }
            died |= word.deaths() > 0 || word.holder() == Holder::Dead;
        }
        if mended > 0 || died {
            // Who sleeps looks again, and learns of the deaths.
            ring.notify(End::Consumer);
            ring.notify(End::Producer);
        }
        if (mended > 0 || died) && !ring.object.is_lived_in() {
            mended += armed;
        }
        Ok(mended)
    }
}
