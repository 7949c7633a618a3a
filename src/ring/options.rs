#![forbid(unsafe_code)]
//! What kind of ring to make, or to insist on.

use std::fmt;

use nix::errno::Errno;

use super::broadcast::Start;
use crate::error::{Error, Result};
use crate::object::{
    EXACT_ABOVE, Geometry, KIND_BROADCAST, KIND_MPMC, KIND_SPSC, KindName, MAX_HANDLES_LIMIT,
    POLICY_EXACT, POLICY_STOPPROOF, PolicyNames, Superblock,
};

/// Participant slots of a ring that is made without a wish.
const DEFAULT_HANDLES: u32 = 64;

/// Bits of [`Options::policy`], fixed when a ring is made. The numbers are those of the C constants
/// and of the shared layout.
pub mod policy {
    /// No process waits for another that has begun and not finished, be it dead or stopped. For
    /// [`Kind::Mpmc`](super::Kind::Mpmc).
    pub const STOPPROOF: u32 = super::POLICY_STOPPROOF;
    /// A push into a full ring gives up the oldest item instead of waiting.
    pub const OVERWRITE: u32 = 0x2;
    /// A push into a full broadcast takes its slowest consumer out instead of waiting for it.
    pub const EVICT: u32 = 0x4;
    /// A push into a full ring never waits: it is `EAGAIN` whatever its timeout.
    pub const FAIL: u32 = 0x8;
    /// An item whose consumer dies, or closes, before it is done with it goes to another consumer.
    /// For [`Kind::Mpmc`](super::Kind::Mpmc); a ring of [`Kind::Spsc`](super::Kind::Spsc) does that
    /// anyway.
    pub const REDELIVER: u32 = 0x10;
    /// The capacity is not rounded up: neither the memory nor the limit is more than what was asked for.
    /// For items of more than 1024 bytes, in all kinds but an [`Mpmc`](super::Kind::Mpmc) without
    /// [`STOPPROOF`].
    pub const EXACT: u32 = super::POLICY_EXACT;
}

/// The policy bits that some kind may have.
const POLICIES: u32 = policy::STOPPROOF
    | policy::OVERWRITE
    | policy::EVICT
    | policy::FAIL
    | policy::REDELIVER
    | policy::EXACT;

/// The kinds of ring. The numbers are those of the C constants and of the shared layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// One producer and one consumer at a time.
    Spsc = KIND_SPSC as isize,
    /// Any number of producers and consumers; each item goes to one of them.
    Mpmc = KIND_MPMC as isize,
    /// One producer at a time, any number of consumers; each of them gets every item.
    Broadcast = KIND_BROADCAST as isize,
}

impl Kind {
    /// The number in the shared layout and in C.
    pub(crate) fn number(self) -> u32 {
        self as u32
    }

    pub(crate) fn from_number(number: u32) -> Option<Self> {
        [Self::Spsc, Self::Mpmc, Self::Broadcast].into_iter().find(|kind| kind.number() == number)
    }

    /// The policy bits that a ring of this kind may have.
    fn policies(self) -> u32 {
        match self {
            Self::Spsc => policy::FAIL | policy::REDELIVER | policy::EXACT,
            Self::Mpmc => {
                policy::FAIL
                    | policy::OVERWRITE
                    | policy::STOPPROOF
                    | policy::REDELIVER
                    | policy::EXACT
            }
            Self::Broadcast => policy::FAIL | policy::OVERWRITE | policy::EVICT | policy::EXACT,
        }
    }
}

/// What a ring is to be. A zero or `None` means: as it is there, or the default when it is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// Items that fit, rounded up to a power of two unless [`policy::EXACT`] is set; all of them are
    /// usable. Needed to make a ring.
    pub capacity: u64,
    /// Bytes of an item. Needed to make a ring.
    pub item_size: u32,
    /// The kind; [`Kind::Spsc`] when it is made without a wish.
    pub kind: Option<Kind>,
    /// How many handles may be open at once; 64 when it is made without a wish, at most 4096.
    pub max_handles: u32,
    /// Bits that change how the ring behaves: see [`policy`].
    pub policy: u32,
    /// A power of two that must divide the addresses of items in place; 0: no wish. A ring whose items
    /// do not lie so is refused. Not a property of the ring.
    pub item_align: u32,
    /// Where this handle begins if it is a consumer of a broadcast. Not a property of the ring.
    pub start: Start,
}

impl Options {
    /// A ring of `capacity` items of `item_size` bytes, everything else by default.
    pub const fn new(capacity: u64, item_size: u32) -> Self {
        Self {
            capacity,
            item_size,
            kind: None,
            max_handles: 0,
            policy: 0,
            item_align: 0,
            start: Start::Now,
        }
    }

    /// Errors that no object can mend.
    pub(super) fn validate(&self, what: &str) -> Result<()> {
        if self.policy & (policy::FAIL | policy::OVERWRITE) == policy::FAIL | policy::OVERWRITE {
            return Err(Error::new(
                Errno::EINVAL,
                format_args!("{what}: a ring that overwrites is never full, so cannot fail"),
            ));
        }
        if self.policy & policy::EVICT != 0 && self.policy & (policy::FAIL | policy::OVERWRITE) != 0
        {
            return Err(Error::new(
                Errno::EINVAL,
                format_args!("{what}: a full ring overwrites, evicts or fails: one of them"),
            ));
        }
        let both = policy::STOPPROOF | policy::REDELIVER;
        if self.policy & both == both {
            return Err(Error::new(
                Errno::EINVAL,
                format_args!("{what}: a stop-proof ring does not redeliver"),
            ));
        }
        if self.kind.is_some_and(|kind| !self.fits(kind)) {
            return Err(Self::no_start(what));
        }
        // Without a kind they may be those of the ring that is there.
        let known = self.kind.map_or(POLICIES, Kind::policies);
        if self.policy & !known != 0 {
            return Err(Self::no_policy(self.policy & !known, what));
        }
        if self.max_handles > MAX_HANDLES_LIMIT {
            return Err(Error::new(
                Errno::EINVAL,
                format_args!(
                    "{what}: max_handles {} is over {MAX_HANDLES_LIMIT}",
                    self.max_handles
                ),
            ));
        }
        if self.capacity.checked_next_power_of_two().is_none() {
            return Err(Error::new(
                Errno::EOVERFLOW,
                format_args!("{what}: a capacity of {} items", self.capacity),
            ));
        }
        Ok(())
    }

    /// Whether `start` is valid for this kind.
    fn fits(&self, kind: Kind) -> bool {
        self.start == Start::Now || kind == Kind::Broadcast
    }

    fn no_start(what: &str) -> Error {
        let why = "only a consumer of a broadcast can begin with the oldest or the newest item";
        Error::new(Errno::EINVAL, format_args!("{what}: {why}"))
    }

    /// Refuses items that do not lie as this program needs them in place.
    fn check_align(&self, geometry: &Geometry, errno: Errno, what: &str) -> Result<()> {
        let (asked, is) = (self.item_align, geometry.item_align());
        if asked == 0 || asked.is_power_of_two() && u64::from(asked) <= is {
            return Ok(());
        }
        Err(Error::new(
            errno,
            format_args!(
                "{what}: item_align is {asked}, but items of {} bytes lie at multiples of {is} there; up \
                 to 128 is possible in a ring without words between the items (MDG_RING_SPSC, a \
                 broadcast that does not overwrite), if it divides the item_size",
                geometry.item_size
            ),
        ))
    }

    fn no_policy(bits: u32, what: &str) -> Error {
        Error::new(
            Errno::EINVAL,
            format_args!("{what}: policy {} is not for this kind of ring", PolicyNames(bits)),
        )
    }

    /// The ring to make.
    pub(super) fn geometry(&self, what: &str) -> Result<Geometry> {
        if !self.fits(self.kind.unwrap_or(Kind::Spsc)) {
            return Err(Self::no_start(what));
        }
        if self.capacity == 0 || self.item_size == 0 {
            return Err(Error::new(
                Errno::EINVAL,
                format_args!("{what}: making it needs a capacity and an item_size"),
            ));
        }
        let kind = self.kind.unwrap_or(Kind::Spsc);
        let unknown = self.policy & !kind.policies();
        if unknown != 0 {
            return Err(Self::no_policy(unknown, what));
        }
        let geometry = Geometry {
            kind: kind.number(),
            item_size: self.item_size,
            capacity: self.capacity_there(self.policy),
            max_handles: if self.max_handles == 0 { DEFAULT_HANDLES } else { self.max_handles },
            policy: self.policy,
        };
        if !geometry.has_sound_capacity() {
            return Err(Error::new(
                Errno::EINVAL,
                format_args!(
                    "{what}: an exact capacity is for items of more than {EXACT_ABOVE} bytes, and not for \
                     MDG_RING_MPMC without MDG_RING_STOPPROOF"
                ),
            ));
        }
        self.check_align(&geometry, Errno::EINVAL, what)?;
        if geometry.total_size().is_none() {
            let (capacity, item) = (geometry.capacity, geometry.item_size);
            return Err(Error::new(
                Errno::EOVERFLOW,
                format_args!("{what}: {capacity} items of {item} bytes are beyond any memory"),
            ));
        }
        Ok(geometry)
    }

    /// Compares a ring that is there with what is asked for; `EPROTO` names the difference.
    pub(super) fn check(&self, found: &Superblock, what: &str) -> Result<()> {
        let there = &found.geometry;
        let Some(kind) = Kind::from_number(there.kind) else {
            return Err(Error::new(
                Errno::EPROTO,
                format_args!(
                    "{what}: is of kind {}, which is no ring, or of a later version",
                    KindName(there.kind)
                ),
            ));
        };
        if !self.fits(kind) {
            return Err(Self::no_start(what));
        }
        if there.policy & !kind.policies() != 0 {
            return Err(Error::new(
                Errno::EPROTO,
                format_args!(
                    "{what}: has the policy {}, of a later version",
                    PolicyNames(there.policy)
                ),
            ));
        }
        let capacity = if self.capacity == 0 { 0 } else { self.capacity_there(there.policy) };
        let differs = |field: &str, asked: &dyn fmt::Display, is: &dyn fmt::Display| {
            let pid = found.creator.pid;
            let text = format_args!(
                "{what}: {field} is {asked} here but {is} in the object (created by pid {pid})"
            );
            Err(Error::new(Errno::EPROTO, text))
        };
        if let Some(asked) = self.kind
            && asked != kind
        {
            return differs("kind", &KindName(asked.number()), &KindName(there.kind));
        }
        if self.policy != 0 && self.policy != there.policy {
            return differs("policy", &PolicyNames(self.policy), &PolicyNames(there.policy));
        }
        let pairs = [
            ("item_size", u64::from(self.item_size), u64::from(there.item_size)),
            ("capacity", capacity, there.capacity),
            ("max_handles", u64::from(self.max_handles), u64::from(there.max_handles)),
        ];
        for (field, asked, is) in pairs {
            if asked != 0 && asked != is {
                return differs(field, &asked, &is);
            }
        }
        self.check_align(there, Errno::EPROTO, what)
    }

    /// The capacity of a ring with this policy that was made, or is looked for, with these options.
    fn capacity_there(&self, policy: u32) -> u64 {
        let exact = policy & policy::EXACT != 0;
        if exact { self.capacity } else { self.capacity.next_power_of_two() }
    }
}
