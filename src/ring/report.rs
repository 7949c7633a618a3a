#![forbid(unsafe_code)]
//! What a ring says about itself, put together from its words and the kernel's.

use std::sync::atomic::Ordering;

use super::control::{CORRUPT, SHUTDOWN};
use super::engine::Tally;
use super::handle::Ring;
use super::options::Kind;
use super::stats::Stats;
use crate::object::{ENDED, End, Holder};

impl Ring {
    /// A look at the ring, from any thread; takes no end and changes nothing but noting a death.
    ///
    /// Where many may push or pop it looks at every cell that is in use.
    pub fn stat(&self) -> Stats {
        let control = self.control();
        let (producer, consumer) = (self.probe(End::Producer), self.probe(End::Consumer));
        let tally = self.engine.tally(&self.asking()).unwrap_or_else(|| self.tally());
        // Acquire: pairs with the AcqRel of who shut it down or found it corrupt.
        let flags = control.flags.0.load(Ordering::Acquire);
        let geometry = self.object.geometry();
        Stats {
            capacity: geometry.capacity,
            item_size: geometry.item_size,
            kind: Kind::from_number(geometry.kind).unwrap_or(Kind::Spsc),
            policy: geometry.policy,
            max_handles: geometry.max_handles,
            length: tally.length,
            written: tally.written,
            read: tally.read,
            dropped: tally.dropped,
            lost: tally.lost,
            pending: tally.pending,
            redelivered: tally.redelivered,
            recovered: self.deaths(End::Producer) + self.deaths(End::Consumer),
            push_waits: control.push_waits.0.load(Ordering::Relaxed),
            pop_waits: control.pop_waits.0.load(Ordering::Relaxed),
            producers: self.holders(End::Producer, producer),
            consumers: self.holders(End::Consumer, consumer),
            notify_failures: control.notify_failures.0.load(Ordering::Relaxed),
            producer_pid: control.producer.0.pid(),
            consumer_pid: control.consumer.0.pid(),
            producer: producer.into(),
            consumer: consumer.into(),
            shutdown: flags & SHUTDOWN != 0,
            corrupt: flags & CORRUPT != 0 || self.object.region().is_cut(),
            unlinked: self.object.is_unlinked(),
        }
    }

    /// The numbers of a ring with one producer and one consumer: its indices.
    fn tally(&self) -> Tally {
        // The head first: the tail read after it is not behind it.
        let read = self.control().head.0.load(Ordering::Acquire);
        let written = self.control().tail.0.load(Ordering::Acquire);
        let length = written.wrapping_sub(read).min(self.capacity());
        Tally { written, read, length, ..Tally::default() }
    }

    /// Living handles that hold `end`, of which a look has found what `holder` says.
    fn holders(&self, end: End, holder: Holder) -> u32 {
        if !self.engine.is_shared(end) || holder != Holder::Live {
            return u32::from(holder == Holder::Live);
        }
        let lives = |&index: &u32| {
            // Acquire: pairs with the AcqRel of who takes part; see `Ring::probe`.
            let slot = self.object.slot(index);
            slot.is_some_and(|slot| {
                slot.is_in_use() && slot.ends.load(Ordering::Acquire) & end.bit() != 0
            }) && self.object.is_alive(index)
        };
        (0..self.object.geometry().max_handles).filter(lives).count() as u32
    }

    /// How many holders of `end` died, as far as was noticed or lies in the slots.
    fn deaths(&self, end: End) -> u64 {
        let noted = self.role_word(end).deaths();
        if !self.engine.is_shared(end) {
            return noted;
        }
        let corpses = (0..self.object.geometry().max_handles).filter(|&index| {
            self.object.slot(index).is_some_and(|slot| {
                let ends = slot.ends.load(Ordering::Acquire);
                slot.is_in_use() && ends & (end.bit() | ENDED) == end.bit()
            }) && !self.object.is_alive(index)
        });
        noted + corpses.count() as u64
    }
}
