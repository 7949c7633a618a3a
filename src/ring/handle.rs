//! [`Ring`]: one handle on a ring, from opening to closing, across forks and deaths.

use std::cell::Cell;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use nix::errno::Errno;

use super::broadcast::{self, Gated, Overwrite, Start};
use super::control::{CORRUPT, Control, SHUTDOWN};
use super::engine::{Engine, Trouble};
use super::mpmc;
use super::options::{Options, policy};
use super::seat::Hot;
use super::spsc::{Core, Corrupt, Side};
use super::stopproof;
use crate::error::{Error, Result};
use crate::flags::{Access, Creation, OpenFlags};
use crate::name::{self, Name};
use crate::object::{
    self, CONTROL_OFFSET, ENDED, End, KIND_BROADCAST, KIND_MPMC, Object, PARTICIPANTS_OFFSET,
    Participant, Request, Role, RoleWord, Slot, Superblock,
};
use crate::shm::{Seals, Shm};
use crate::sync::{EventCount, Spinner};
use crate::sys::doorbell::{Doorbell, Own};
use crate::sys::process;
use crate::sys::sigbus::{self, Stops};
use crate::sys::wipe::Wiped;
use crate::sys::{alloc, cancel, identity};

/// One handle on a ring. It belongs to one thread at a time ([`Ring::duplicate`] makes another);
/// [`Ring::stat`] and [`Ring::shutdown`] may be called on a shared reference from anywhere the
/// language lets one.
///
/// Opened for [`Access::WriteOnly`] it has the producing end from the start, for
/// [`Access::ReadOnly`] the consuming end; for [`Access::ReadWrite`] it claims each end when it
/// first uses it, which is what lets a parent open a ring, fork, and use one end in each process.
///
/// In a forked child the handle is a new participant: its first operation attaches it. What the
/// parent holds stays the parent's.
pub struct Ring {
    /// Dropped first: the handler of SIGBUS stores to `hot` while the object is mapped.
    pub(super) object: Object,
    pub(super) core: Core,
    pub(super) engine: Engine,
    /// Wiped by a fork: what follows from being attached in *this* process.
    pub(super) hot: Wiped<Hot>,
    access: Access,
    /// Where it begins as a consumer of a broadcast.
    start: Start,
    pub(super) spinner: Spinner,
    /// Taken out and put back by value, never borrowed: a fork in another thread may copy it at any
    /// moment.
    pub(super) held: Cell<Held>,
}

/// How often one call asks the kernel who lives, on behalf of the words of the ring: more than the
/// words of a sound ring make it ask, and an end with those of a scribbler.
const MOST_ASKED: u32 = 1 << 17;

/// The kernel's tokens of this handle. After a fork they are the parent's: to be forgotten.
#[derive(Debug, Default)]
pub(super) struct Held {
    participant: Option<Participant>,
    producer: Option<Role>,
    consumer: Option<Role>,
    pub(super) bell: Option<Doorbell>,
    /// The instance of waits for many.
    pub(super) ears: Option<Own>,
}

impl Held {
    fn role(&mut self, end: End) -> &mut Option<Role> {
        match end {
            End::Producer => &mut self.producer,
            End::Consumer => &mut self.consumer,
        }
    }

    fn forget(&mut self) {
        if let Some(participant) = self.participant.take() {
            participant.forget();
        }
        for role in [self.producer.take(), self.consumer.take()].into_iter().flatten() {
            role.forget();
        }
        // A descriptor is a copy of this process's own: closing it takes nothing from the parent.
        self.bell = None;
        self.ears = None;
    }
}

impl Ring {
    /// Opens, or makes, the ring `name`. See [`Options`] for what is compared and what is needed.
    pub fn open(name: &[u8], options: &Options, flags: OpenFlags, mode: u32) -> Result<Self> {
        let name = Name::new(name::Kind::Ring, name)?;
        let what = alloc::text(&name)?;
        options.validate(&what)?;
        let request = Request {
            name: Some(&name),
            creation: flags.creation,
            mode,
            make: options.geometry(&what),
            check: &|found, what| options.check(found, what),
            readable_will_do: flags.access == Access::ReadOnly,
        };
        // Nothing can be made from these options: say so even if the object happens to exist.
        if flags.creation == Creation::CreateNew {
            request.make.clone()?;
        }
        let start = options.start;
        Object::open(request, |object| Self::with(object, flags.access, start))
    }

    /// Makes a ring without a name, for children and, by [`Ring::duplicate`], for threads.
    pub fn anonymous(options: &Options, access: Access) -> Result<Self> {
        let what = "anonymous ring";
        options.validate(what)?;
        let request = Request {
            name: None,
            creation: Creation::CreateNew,
            mode: 0o600,
            make: options.geometry(what),
            check: &|_, _| Ok(()),
            readable_will_do: false,
        };
        let start = options.start;
        Object::open(request, |object| Self::with(object, access, start))
    }

    /// Bytes that a ring takes up in a segment: a multiple of 4096.
    pub fn footprint(options: &Options) -> Result<usize> {
        let what = "ring in a segment";
        options.validate(what)?;
        let bytes = object::footprint(&options.geometry(what)?);
        bytes.map(|bytes| bytes as usize).ok_or_else(|| {
            Error::new(Errno::EOVERFLOW, format_args!("{what}: larger than any memory"))
        })
    }

    /// Makes a ring in a segment, at `offset`, a multiple of 4096, where [`Ring::footprint`] bytes
    /// are free. What was there is overwritten; `EBUSY` if it is a ring that living handles use.
    ///
    /// The handle keeps the segment's descriptor, and has a mapping of its own: the segment itself
    /// may be dropped before it, but must not be resized to end before the ring does.
    pub fn init(segment: &Shm, offset: usize, options: &Options, access: Access) -> Result<Self> {
        let what = "ring in a segment";
        options.validate(what)?;
        Object::init_in(segment, offset, "ring", options.geometry(what)?, |object| {
            Self::with(object, access, options.start)
        })
    }

    /// Opens the ring that [`Ring::init`] has made at `offset` of a segment.
    pub fn attach_to(
        segment: &Shm,
        offset: usize,
        options: &Options,
        access: Access,
    ) -> Result<Self> {
        options.validate("ring in a segment")?;
        let check = |found: &Superblock, what: &str| options.check(found, what);
        let object = Object::attach_in(segment, offset, "ring", &check)?;
        Self::with(object, access, options.start)
    }

    /// Opens the ring whose memory `fd` refers to: what [`Ring::memory`] of another process gave. The
    /// descriptor is duplicated; the caller keeps its own. One that is open for reading only makes a
    /// consumer of an overwriting broadcast ([`Access::ReadOnly`]).
    pub fn from_fd(
        fd: BorrowedFd<'_>,
        options: &Options,
        access: Access,
        seals: Seals,
    ) -> Result<Self> {
        options.validate("ring from a descriptor")?;
        let check = |found: &Superblock, what: &str| options.check(found, what);
        let readable_will_do = access == Access::ReadOnly;
        let object = Object::from_fd(fd, seals == Seals::Required, readable_will_do, &check)?;
        Self::with(object, access, options.start)
    }

    /// The descriptor of the ring's memory, to be passed to another process. `None` for a ring in a
    /// segment, whose memory is the segment's. `EBADF` if the program has closed it.
    pub fn memory(&self) -> Result<Option<BorrowedFd<'_>>> {
        self.object.memory()
    }

    /// A new descriptor of the ring's memory that can be read and not written, for subscribers of an
    /// overwriting broadcast. The memory of an anonymous ring is closed to other users by this call:
    /// their processes can still use the handles that they have, and make no new ones for writing.
    ///
    /// `EINVAL` for a ring in a segment, and for kinds whose consumers write; `EACCES` for an anonymous
    /// ring that another user has made.
    pub fn memory_for_reading(&self) -> Result<OwnedFd> {
        if !self.object.geometry().serves_readers() {
            let why = "only consumers of an overwriting broadcast can do without writing";
            return Err(self.refuse(Errno::EINVAL, why));
        }
        let in_segment = || self.refuse(Errno::EINVAL, "it is in a segment: pass the segment");
        self.object.memory_for_reading()?.ok_or_else(in_segment)
    }

    /// Another handle on the same ring, for another thread; also of an anonymous or unlinked one. A
    /// consumer of a broadcast begins with the first item after it has joined.
    pub fn duplicate(&self, access: Access) -> Result<Self> {
        if self.is_readable_only() && access != Access::ReadOnly {
            return Err(self.refuse(Errno::EACCES, "this process may only read it"));
        }
        Self::with(self.object.duplicate()?, access, Start::Now)
    }

    /// Whether this is a consumer that may only read the ring's memory: it is in no slot, stores
    /// nothing, and waits by looking again and again.
    pub(super) fn is_readable_only(&self) -> bool {
        !self.object.region().is_writable()
    }

    /// Attaches this process to an object and makes a handle of it, with the ends that `access`
    /// takes at once.
    #[inline(never)]
    fn with(object: Object, access: Access, start: Start) -> Result<Self> {
        let ring = Self::detached(object, access, start);
        // By reference: it is large, and what follows goes deep.
        if let Ok(made) = &ring
            && let Err(refused) = made.enter(access)
        {
            return Err(refused);
        }
        ring
    }

    #[inline(never)]
    fn enter(&self, access: Access) -> Result<()> {
        if !self.is_readable_only() {
            let mut held = Held::default();
            let attached = self.attach(&mut held);
            self.held.set(held);
            attached?;
        }
        match access {
            Access::WriteOnly => self.claim(End::Producer),
            Access::ReadOnly => self.claim(End::Consumer),
            Access::ReadWrite => Ok(()),
        }
    }

    /// A handle that is no participant (yet).
    #[inline(never)]
    pub(super) fn detached(object: Object, access: Access, start: Start) -> Result<Self> {
        let hot = Wiped::<Hot>::new()
            .map_err(|errno| Error::from_kernel(errno, "memory for a ring's handle"))?;
        let (core, engine) = cores(&object).ok_or_else(|| {
            Error::new(Errno::EPROTO, format_args!("{}: too short", object.what()))
        })?;
        if !object.is_light() && object.region().is_writable() {
            core.control().not_empty.0.set_heavy();
            core.control().not_full.0.set_heavy();
        }
        let flags = object.region().is_writable().then_some(&core.control().flags.0);
        let flags = flags.map(|flags| NonNull::from(flags).cast());
        // SAFETY: the flags are in the mapping itself; `hot` is dropped after the object.
        unsafe { object.region().on_cut(&Stops { flags, run: hot.pop.mark() }) };
        let held = Cell::new(Held::default());
        let spinner = Spinner::new();
        Ok(Self { core, engine, hot, access, start, spinner, held, object })
    }

    /// Makes this process a participant; what a parent held stays the parent's.
    #[inline(never)]
    fn attach(&self, held: &mut Held) -> Result<()> {
        held.forget();
        let alive = self.asking();
        let participant = self.object.attach(&|index, slot| self.sweep(index, slot, &alive))?;
        self.hot.seat.sit_down(participant.index());
        held.participant = Some(participant);
        Ok(())
    }

    /// Asks the kernel whether a participant lives, [`MOST_ASKED`] times; "yes" after that, as always
    /// for want of an answer.
    pub(super) fn asking(&self) -> impl Fn(u32) -> bool {
        let asked = Cell::new(0);
        move |index| {
            asked.set(asked.get() + 1);
            asked.get() > MOST_ASKED || self.object.is_alive(index)
        }
    }

    /// Clears away what the dead participant `index` has left, under its lock byte.
    pub(super) fn sweep(&self, index: u32, slot: &Slot, alive: &dyn Fn(u32) -> bool) -> bool {
        let swept = self.engine.sweep(index, alive);
        if swept {
            for end in [End::Producer, End::Consumer] {
                let ends = slot.ends.load(Ordering::Acquire);
                if ends & end.bit() != 0 {
                    let word = self.role_word(end);
                    if ends & ENDED == 0 {
                        word.died()
                    } else {
                        word.left()
                    }
                    // After it was counted: killed in between, it is counted twice, and never not.
                    slot.ends.fetch_and(!end.bit(), Ordering::AcqRel);
                }
            }
            self.discount(slot);
        }
        // Where not all could be cleared away, some may have been.
        self.notify(End::Consumer);
        self.notify(End::Producer);
        swept
    }

    /// Removes the name of a ring; those who have it open go on using it.
    pub fn unlink(name: &[u8]) -> Result<()> {
        object::unlink(&Name::new(name::Kind::Ring, name)?)
    }

    /// Bytes of an item.
    pub fn item_size(&self) -> usize {
        self.core.item_size()
    }

    /// Items that fit.
    pub fn capacity(&self) -> u64 {
        self.core.capacity()
    }

    pub(super) fn control(&self) -> &Control {
        self.core.control()
    }

    pub(super) fn side(&self, end: End) -> &Side {
        match end {
            End::Producer => &self.hot.push,
            End::Consumer => &self.hot.pop,
        }
    }

    pub(super) fn role_word(&self, end: End) -> &RoleWord {
        match end {
            End::Producer => &self.control().producer.0,
            End::Consumer => &self.control().consumer.0,
        }
    }

    /// The event that a wait at `end` waits for.
    #[inline(always)]
    pub(super) fn event(&self, end: End) -> &EventCount {
        self.control().event(end)
    }

    /// This handle's own slot, if this process is attached.
    pub(super) fn slot(&self) -> Option<&Slot> {
        self.object.slot(self.hot.seat.participant()?)
    }

    pub(super) fn refuse(&self, errno: Errno, why: impl std::fmt::Display) -> Error {
        Error::new(errno, format_args!("{}: {why}", self.object.what()))
    }

    #[cold]
    pub(super) fn corrupt(&self, _: Corrupt) -> Error {
        let control = self.control();
        if !self.is_readable_only() {
            // Release: pairs with the Acquire of who finds nothing, or is told.
            control.flags.0.fetch_or(CORRUPT, Ordering::AcqRel);
            self.notify(End::Consumer);
            self.notify(End::Producer);
        }
        if self.object.region().is_cut() {
            return self.cut();
        }
        self.refuse(Errno::EBADMSG, "its indices, or the words of its cells, are impossible")
    }

    pub(super) fn cut(&self) -> Error {
        self.refuse(Errno::EBADMSG, "somebody has made its file shorter")
    }

    pub(super) fn trouble(&self, trouble: Trouble) -> Error {
        match trouble {
            Trouble::Corrupt => self.corrupt(Corrupt),
            Trouble::Lost(count) => self.refuse(
                Errno::EOVERFLOW,
                format_args!(
                    "{count} items went by before this consumer had read them; it goes on with the \
                     oldest that is there"
                ),
            ),
        }
    }

    /// How many items this handle, a consumer of a broadcast, has lost since it was opened: what
    /// `EOVERFLOW` has told of. In a forked child it counts anew.
    pub fn lost(&self) -> u64 {
        self.hot.seat.lost.get()
    }

    /// Makes this process hold `end`, attaching it first if a fork made it new.
    #[cold]
    pub(super) fn claim(&self, end: End) -> Result<()> {
        let wrong_end = match end {
            End::Producer => Access::ReadOnly,
            End::Consumer => Access::WriteOnly,
        };
        if self.access == wrong_end {
            return Err(self.refuse(
                Errno::EACCES,
                format_args!("this handle was not opened for the {} end", end.word()),
            ));
        }
        let mut held = self.held.take();
        // Not a cancellation point, though it opens a file.
        let result = cancel::without(|| self.claim_with(&mut held, end));
        self.held.set(held);
        result
    }

    fn claim_with(&self, held: &mut Held, end: End) -> Result<()> {
        let seat = &self.hot.seat;
        if self.is_readable_only() {
            return self
                .engine
                .take(seat, end, self.start)
                .map_err(|trouble| self.trouble(trouble));
        }
        if self.hot.seat.participant().is_none() {
            self.attach(held)?;
        }
        let participant = self.hot.seat.me();
        if self.engine.is_shared(end) {
            if let Some(slot) = self.slot() {
                // Release: pairs with the Acquire of who looks who holds the end; the slot is in use before.
                slot.ends.fetch_or(end.bit(), Ordering::AcqRel);
            }
            self.role_word(end).joined(participant);
            let taken = self.engine.take(seat, end, self.start);
            if end == End::Consumer {
                // One that joins a broadcast stands further back for a moment, which a producer may
                // have met.
                self.notify(End::Producer);
            }
            return taken.map_err(|trouble| self.trouble(trouble));
        }
        let (word, file) = (self.role_word(end), self.object.anchor());
        let Some(role) = Role::claim(word, end, participant, file, self.object.what())? else {
            let dumping = match identity::is_dumping_core(word.pid()) {
                true => {
                    ", which has crashed and is dumping core: it holds the end until that is done"
                }
                false => "",
            };
            return Err(self.refuse(
                Errno::EBUSY,
                format_args!("the {} end is held by pid {}{dumping}", end.word(), word.pid()),
            ));
        };
        let taken = match (&self.engine, end) {
            (Engine::Spsc, End::Producer) => {
                self.core.take_push(&self.hot.push).map_err(Into::into)
            }
            (Engine::Spsc, End::Consumer) => self.core.take_pop(&self.hot.pop).map_err(Into::into),
            (engine, end) => engine.take(seat, end, self.start),
        };
        if let Err(trouble) = taken {
            self.side(end).let_go();
            role.release(word);
            return Err(self.trouble(trouble));
        }
        *held.role(end) = Some(role);
        Ok(())
    }

    /// Ends the stream: pushes fail with `EPIPE` from now on, pops deliver what is inside and then
    /// fail with `EPIPE`. Calling it again changes nothing. `EACCES` for who may only read the ring.
    pub fn shutdown(&self) -> Result<()> {
        if self.is_readable_only() {
            return Err(self.refuse(Errno::EACCES, "this process may only read it"));
        }
        let control = self.control();
        // Release: pairs with the Acquire in `flags`.
        control.flags.0.fetch_or(SHUTDOWN, Ordering::AcqRel);
        control.producer.0.end_by_this_process();
        control.consumer.0.end_by_this_process();
        // Where many hold an end, the same: nothing that this process leaves is a death any more.
        // One that has no tag has attached to nothing.
        let mine = process::tag().unwrap_or(0);
        for index in 0..self.object.geometry().max_handles {
            let Some(slot) = self.object.slot(index) else { break };
            if slot.is_of(mine) && slot.ends.load(Ordering::Acquire) != 0 {
                slot.ends.fetch_or(ENDED, Ordering::AcqRel);
            }
        }
        self.notify(End::Consumer);
        self.notify(End::Producer);
        Ok(())
    }

    /// Closes the handle as the death of its process would: peers see a dead participant, not one
    /// that has left in order. For a program that fails in the middle of a stream and lives on, such
    /// as one that catches a panic; dropping the handle instead makes a consumer wait for more.
    ///
    /// What was committed stays, and so does the ring: other participants go on. After
    /// [`Ring::shutdown`] it is an orderly end all the same.
    pub fn abandon(self) {
        let mut held = self.held.take();
        if self.hot.seat.participant().is_none() {
            held.forget();
            return;
        }
        self.take_bell_down(held.bell.take());
        // From here on `drop` finds nothing to give back.
        self.hot.seat.stand_up();
        // Nothing is marked as given back: the locks alone go, as they do in a process that dies.
        drop(held);
        self.notify(End::Consumer);
        self.notify(End::Producer);
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring")
            .field("what", &self.object.what())
            .field("stat", &self.stat())
            .finish()
    }
}

/// The algorithms over an object's memory; `None` if it is too short for its geometry.
fn cores(object: &Object) -> Option<(Core, Engine)> {
    let (region, geometry) = (object.region(), *object.geometry());
    let control = NonNull::from(region.view::<Control>(CONTROL_OFFSET)?);
    let items = region.bytes(geometry.items_offset(), geometry.items_len()?)?;
    let slots = u64::from(geometry.max_handles) * size_of::<Slot>() as u64;
    let slots = region.bytes(PARTICIPANTS_OFFSET, slots)?;
    // SAFETY: all of it lies inside the object's mapping, which the handle keeps as long as the
    // cores; geometry was validated at open. Ends are used only while held (`claim`).
    let core = unsafe { Core::new(control, items, geometry.capacity, geometry.item_size) };
    let overwrite = geometry.policy & policy::OVERWRITE != 0;
    let engine = match geometry.kind {
        KIND_MPMC if geometry.is_stopproof() => {
            let (pool, capacity) = (geometry.pool()?, geometry.capacity);
            // SAFETY: as above; the pool is that of the geometry.
            let memory = unsafe {
                stopproof::Mapped::new(control, items, capacity, &pool, geometry.item_size)
            };
            Engine::StopProof { core: stopproof::Core::new(memory), overwrite }
        }
        KIND_MPMC => {
            // SAFETY: as above; the stride is that of the geometry.
            let memory = unsafe {
                mpmc::Mapped::new(
                    control,
                    slots,
                    geometry.max_handles,
                    items,
                    geometry.capacity,
                    geometry.stride(),
                    geometry.item_size,
                )
            };
            let redeliver = geometry.policy & policy::REDELIVER != 0;
            Engine::Mpmc { core: mpmc::Core::new(memory, redeliver), overwrite }
        }
        KIND_BROADCAST => {
            // SAFETY: as above. A region that may only be read is given to consumers of the
            // overwriting kind alone (`Object::open`, `Ring::claim`).
            let memory = unsafe {
                broadcast::Mapped::new(
                    control,
                    slots,
                    geometry.max_handles,
                    items,
                    geometry.capacity,
                    geometry.stride(),
                    geometry.item_size,
                )
            };
            if geometry.overwrites() {
                Engine::Overwrite(Overwrite::new(memory))
            } else {
                Engine::Gated(Gated::new(memory, geometry.policy & policy::EVICT != 0))
            }
        }
        _ => Engine::Spsc,
    };
    Some((core, engine))
}

// What the handler of SIGBUS sets is what the fast paths look at.
const _: () = assert!(sigbus::FLAGS == CORRUPT);

// Moving between threads is part of the contract of Ring, Producer and Consumer.
const _: () = {
    const fn movable<T: Send>() {}
    movable::<Ring>();
};

impl Drop for Ring {
    /// Gives back the ends and the slot, unless they are a parent's.
    fn drop(&mut self) {
        let mut held = self.held.take();
        let seat = &self.hot.seat;
        if seat.participant().is_none() {
            held.forget();
            return;
        }
        self.engine.leave(seat);
        if self.engine.redelivers() {
            self.notify(End::Consumer);
        }
        for end in [End::Producer, End::Consumer] {
            if let Some(role) = held.role(end).take() {
                role.release(self.role_word(end));
            } else if self.engine.is_shared(end) && seat.grip(end).held.get() != 0 {
                self.role_word(end).left();
                self.notify(end.other());
            }
        }
        self.take_bell_down(held.bell.take());
        self.hot.calls.watches.clear();
        held.ears = None;
        if let Some(participant) = held.participant.take() {
            participant.detach(self.object.region(), self.object.geometry());
        }
    }
}
