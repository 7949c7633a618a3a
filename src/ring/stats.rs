#![forbid(unsafe_code)]
//! What a ring says about itself.

use super::options::Kind;
use crate::object::Holder;

/// What is known about one end of a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndState {
    /// Nobody has held it yet.
    Never,
    /// A living process holds it.
    Live,
    /// The last holder closed it.
    Closed,
    /// The last holder died, and nobody has held it since.
    Dead,
}

impl From<Holder> for EndState {
    fn from(holder: Holder) -> Self {
        match holder {
            Holder::Never => Self::Never,
            Holder::Live => Self::Live,
            Holder::Closed => Self::Closed,
            Holder::Dead => Self::Dead,
        }
    }
}

/// A look at a ring. Counters are taken one after the other while others work on; at a quiet moment
/// `written == read + dropped + lost + length`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Items that fit.
    pub capacity: u64,
    /// Bytes of an item.
    pub item_size: u32,
    /// The kind of ring.
    pub kind: Kind,
    /// Bits that change how it behaves.
    pub policy: u32,
    /// Handles that may be open at once.
    pub max_handles: u32,
    /// Items inside. Of a broadcast with back-pressure, what the slowest consumer has still to read;
    /// without consumers, what is there for one that joins at the oldest, read by others or not.
    pub length: u64,
    /// Items ever committed.
    pub written: u64,
    /// Items ever taken, without those that were lost. Of a broadcast what is neither `length` nor
    /// `dropped`: less again when the last consumer closes, or one joins at the oldest.
    pub read: u64,
    /// Items given up by a full-ring policy.
    pub dropped: u64,
    /// Items that went down with the consumer that had just taken them, where that is known.
    pub lost: u64,
    /// Items that a producer has begun and not finished, where many may push: not `written` yet.
    pub pending: u64,
    /// Items that were given to another consumer after theirs was gone: [`policy::REDELIVER`].
    ///
    /// [`policy::REDELIVER`]: super::policy::REDELIVER
    pub redelivered: u64,
    /// Ends whose holder died and was found dead.
    pub recovered: u64,
    /// How often a producer went to sleep because the ring was full.
    pub push_waits: u64,
    /// How often a consumer went to sleep because the ring was empty.
    pub pop_waits: u64,
    /// Living handles that hold the producing end.
    pub producers: u32,
    /// Living handles that hold the consuming end, but for consumers of a broadcast that may only read
    /// it: those are in no slot.
    pub consumers: u32,
    /// How often those who wait with a descriptor could not be told of a change, since whoever made it may
    /// no longer write to the ring's file, or its descriptor was closed.
    pub notify_failures: u64,
    /// Process that holds the producing end or held it last; 0 if none did.
    pub producer_pid: u32,
    /// Process that holds the consuming end or held it last; 0 if none did.
    pub consumer_pid: u32,
    /// State of the producing end.
    pub producer: EndState,
    /// State of the consuming end.
    pub consumer: EndState,
    /// The stream was ended.
    pub shutdown: bool,
    /// Somebody found an impossible index.
    pub corrupt: bool,
    /// The ring had a name that is gone.
    pub unlinked: bool,
}

/// Looks at counters that do not stand still, before a look is taken as it is.
const STEADY: u32 = 64;

/// Counters, and a look at other words in whose midst none of them moved: they belong together.
pub(super) fn steady<C: PartialEq, L>(
    counters: impl Fn() -> C,
    mut look: impl FnMut() -> L,
) -> (C, L) {
    let (mut counted, mut seen) = (counters(), look());
    for _ in 0..STEADY {
        let now = counters();
        if now == counted {
            break;
        }
        (counted, seen) = (now, look());
    }
    (counted, seen)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_look_during_which_a_counter_moved_is_taken_again() {
        let (counter, looks) = (Cell::new(0), Cell::new(0));
        let look = |moves: u32| {
            looks.set(looks.get() + 1);
            if looks.get() <= moves {
                counter.set(counter.get() + 1);
            }
            looks.get()
        };
        assert_eq!(steady(|| counter.get(), || look(3)), (3, 4));
        assert_eq!(steady(|| counter.get(), || look(0)), (3, 5), "steady at once");
        looks.set(0);
        steady(|| counter.get(), || look(u32::MAX));
        assert_eq!(looks.get(), 1 + STEADY, "not for ever");
    }
}
