//! [`Ring`]: one handle on a ring, from opening to closing, across forks and deaths.

use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use nix::errno::Errno;

use super::control::{CORRUPT, Control, SHUTDOWN};
use super::options::{Kind, Options};
use super::spsc::{Core, Corrupt, Hot, Side};
use super::stats::Stats;
use crate::error::{Error, Result};
use crate::flags::{Access, Creation, OpenFlags};
use crate::name::{self, Name};
use crate::object::{
    self, CONTROL_OFFSET, End, Holder, Object, Participant, Request, Role, RoleWord,
};
use crate::sync::{EventCount, Spinner, wait_until};
use crate::sys::cancel;
use crate::sys::wipe::Wiped;
use crate::time::Timeout;

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
    pub(super) core: Core,
    /// Wiped by a fork: what follows from being attached in *this* process.
    pub(super) hot: Wiped<Hot>,
    access: Access,
    spinner: Spinner,
    /// Taken out and put back by value, never borrowed: a fork in another thread may copy it at any
    /// moment.
    held: Cell<Held>,
    object: Object,
}

/// The kernel's tokens of this handle. After a fork they are the parent's: to be forgotten.
#[derive(Debug, Default)]
struct Held {
    participant: Option<Participant>,
    producer: Option<Role>,
    consumer: Option<Role>,
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
    }
}

impl Ring {
    /// Opens, or makes, the ring `name`. See [`Options`] for what is compared and what is needed.
    pub fn open(name: &[u8], options: &Options, flags: OpenFlags, mode: u32) -> Result<Self> {
        let name = Name::new(name::Kind::Ring, name)?;
        let what = name.to_string();
        options.validate(&what)?;
        let request = Request {
            name: Some(&name),
            creation: flags.creation,
            mode,
            make: options.geometry(&what),
            check: &|found, what| options.check(found, what),
        };
        // Nothing can be made from these options: say so even if the object happens to exist.
        if flags.creation == Creation::CreateNew {
            request.make.clone()?;
        }
        Object::open(request, |object, participant| Self::with(object, participant, flags.access))
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
        };
        Object::open(request, |object, participant| Self::with(object, participant, access))
    }

    /// Another handle on the same ring, for another thread; also of an anonymous or unlinked one.
    pub fn duplicate(&self, access: Access) -> Result<Self> {
        let (object, participant) = self.object.duplicate()?;
        Self::with(object, participant, access)
    }

    /// A handle on an object that this process is attached to, with the ends that `access` takes at
    /// once.
    fn with(object: Object, participant: Participant, access: Access) -> Result<Self> {
        let hot = Wiped::<Hot>::new()
            .map_err(|errno| Error::from_kernel(errno, "memory for a ring's handle"))?;
        let geometry = *object.geometry();
        let items_len = geometry.items_len().unwrap_or(u64::MAX);
        let control = object.region().view::<Control>(CONTROL_OFFSET);
        let slots = object.region().bytes(geometry.items_offset(), items_len);
        let (Some(control), Some(slots)) = (control, slots) else {
            return Err(Error::new(Errno::EPROTO, format!("{}: too short", object.what())));
        };
        if !object.is_light() {
            control.not_empty.0.set_heavy();
            control.not_full.0.set_heavy();
        }
        // SAFETY: both lie inside the object's mapping, which the handle keeps as long as the core;
        // geometry was validated at open. Ends are used only while held (`ready` claims them).
        let core = unsafe {
            Core::new(NonNull::from(control), slots, geometry.capacity, geometry.item_size)
        };
        hot.attached.set(1);
        let held = Held { participant: Some(participant), ..Held::default() };
        let held = Cell::new(held);
        let ring = Self { core, hot, access, spinner: Spinner::new(), held, object };
        match access {
            Access::WriteOnly => ring.claim(End::Producer)?,
            Access::ReadOnly => ring.claim(End::Consumer)?,
            Access::ReadWrite => {}
        }
        Ok(ring)
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

    fn control(&self) -> &Control {
        self.core.control()
    }

    fn side(&self, end: End) -> &Side {
        match end {
            End::Producer => &self.hot.push,
            End::Consumer => &self.hot.pop,
        }
    }

    fn role_word(&self, end: End) -> &RoleWord {
        match end {
            End::Producer => &self.control().producer.0,
            End::Consumer => &self.control().consumer.0,
        }
    }

    fn refuse(&self, errno: Errno, why: impl std::fmt::Display) -> Error {
        Error::new(errno, format!("{}: {why}", self.object.what()))
    }

    #[cold]
    fn corrupt(&self, _: Corrupt) -> Error {
        let control = self.control();
        control.flags.0.fetch_or(CORRUPT, Ordering::AcqRel);
        control.not_empty.0.notify();
        control.not_full.0.notify();
        self.refuse(Errno::EBADMSG, "its head and tail are further apart than its capacity")
    }

    /// Makes this process hold `end`, attaching it first if a fork made it new.
    fn claim(&self, end: End) -> Result<()> {
        let wrong_end = match end {
            End::Producer => Access::ReadOnly,
            End::Consumer => Access::WriteOnly,
        };
        if self.access == wrong_end {
            let why = format!("this handle was not opened for the {} end", end.word());
            return Err(self.refuse(Errno::EACCES, why));
        }
        let mut held = self.held.take();
        // Not a cancellation point, though it opens a file.
        let result = cancel::without(|| self.claim_with(&mut held, end));
        self.held.set(held);
        result
    }

    fn claim_with(&self, held: &mut Held, end: End) -> Result<()> {
        if self.hot.attached.get() == 0 {
            held.forget();
            held.participant = Some(self.object.attach()?);
            self.hot.attached.set(1);
        }
        let participant = held.participant.as_ref().map_or(0, Participant::index);
        let (word, file) = (self.role_word(end), self.object.anchor());
        let Some(role) = Role::claim(word, end, participant, file, self.object.what())? else {
            let why = format!("the {} end is held by pid {}", end.word(), word.pid());
            return Err(self.refuse(Errno::EBUSY, why));
        };
        let taken = match end {
            End::Producer => self.core.take_push(&self.hot.push),
            End::Consumer => self.core.take_pop(&self.hot.pop),
        };
        if let Err(corrupt) = taken {
            self.side(end).let_go();
            role.release(word);
            return Err(self.corrupt(corrupt));
        }
        *held.role(end) = Some(role);
        Ok(())
    }

    /// Items that can be moved now, without waiting: `None` for none. Errors that end a stream.
    fn look(&self, end: End) -> Result<Option<u64>> {
        // Acquire, and before the look at the indices: what was committed before a shutdown is
        // seen by everyone who sees the shutdown.
        let flags = self.control().flags.0.load(Ordering::Acquire);
        if flags & CORRUPT != 0 {
            return Err(self.refuse(Errno::EBADMSG, "it was found corrupt"));
        }
        let shut = flags & SHUTDOWN != 0;
        let count = match end {
            End::Producer if shut => 0,
            End::Producer => self.core.look_push(&self.hot.push).map_err(|c| self.corrupt(c))?,
            End::Consumer => self.core.look_pop(&self.hot.pop).map_err(|c| self.corrupt(c))?,
        };
        match count {
            0 if shut => Err(self.refuse(Errno::EPIPE, "the stream was shut down")),
            0 => Ok(None),
            count => Ok(Some(count)),
        }
    }

    fn peer_died(&self, end: End) -> Error {
        let pid = self.role_word(end).pid();
        let why = format!("the process at the {} end (pid {pid}) died", end.word());
        self.refuse(Errno::EOWNERDEAD, why)
    }

    /// Slow path of every operation: returns once at least one item can be moved. Success leaves
    /// errno alone, as it does on the fast path.
    #[cold]
    #[inline(never)]
    pub(super) fn ready(&self, end: End, timeout: Timeout) -> Result<u64> {
        let errno = Errno::last_raw();
        let result = self.await_items(end, timeout);
        if result.is_ok() {
            Errno::set_raw(errno);
        }
        result
    }

    fn await_items(&self, end: End, timeout: Timeout) -> Result<u64> {
        let side = self.side(end);
        if !side.is_held() {
            self.claim(end)?;
        }
        if side.run() != 0 {
            let why = "a run is handed out in place; give it back first (a count of 0 will do)";
            return Err(self.refuse(Errno::EINVAL, why));
        }
        if let Some(count) = self.look(end)? {
            return Ok(count);
        }
        if timeout == Timeout::NoWait {
            return Err(Error::would_block());
        }
        let (peer, event, waits): (_, &EventCount, _) = match end {
            End::Producer => {
                (End::Consumer, &self.control().not_full.0, &self.control().push_waits.0)
            }
            End::Consumer => {
                (End::Producer, &self.control().not_empty.0, &self.control().pop_waits.0)
            }
        };
        let peer_word = self.role_word(peer);
        if peer_word.holder() == Holder::Dead {
            // Once more: the dead one may have committed between our look and its death.
            return self.look(end)?.ok_or_else(|| self.peer_died(peer));
        }
        wait_until(
            event,
            &self.spinner,
            timeout,
            || self.look(end),
            || {
                waits.fetch_add(1, Ordering::Relaxed);
            },
            || match peer_word.probe(peer, self.object.anchor()) {
                Holder::Dead => Err(self.peer_died(peer)),
                _ => Ok(()),
            },
        )
    }

    /// Ends the stream: pushes fail with `EPIPE` from now on, pops deliver what is inside and then
    /// fail with `EPIPE`. Calling it again changes nothing.
    pub fn shutdown(&self) {
        let control = self.control();
        // Release: pairs with the Acquire in `look`.
        control.flags.0.fetch_or(SHUTDOWN, Ordering::AcqRel);
        control.producer.0.end_by_this_process();
        control.consumer.0.end_by_this_process();
        control.not_empty.0.notify();
        control.not_full.0.notify();
    }

    /// A look at the ring, from any thread; takes no end and changes nothing but noting a death.
    pub fn stat(&self) -> Stats {
        let control = self.control();
        let file = self.object.anchor();
        let producer = control.producer.0.probe(End::Producer, file);
        let consumer = control.consumer.0.probe(End::Consumer, file);
        // The head first: the tail read after it is not behind it.
        let read = control.head.0.load(Ordering::Acquire);
        let written = control.tail.0.load(Ordering::Acquire);
        let flags = control.flags.0.load(Ordering::Acquire);
        let geometry = self.object.geometry();
        Stats {
            capacity: geometry.capacity,
            item_size: geometry.item_size,
            kind: Kind::Spsc,
            max_handles: geometry.max_handles,
            length: written.wrapping_sub(read).min(geometry.capacity),
            written,
            read,
            dropped: 0,
            recovered: control.producer.0.deaths() + control.consumer.0.deaths(),
            push_waits: control.push_waits.0.load(Ordering::Relaxed),
            pop_waits: control.pop_waits.0.load(Ordering::Relaxed),
            producer_pid: control.producer.0.pid(),
            consumer_pid: control.consumer.0.pid(),
            producer: producer.into(),
            consumer: consumer.into(),
            shutdown: flags & SHUTDOWN != 0,
            corrupt: flags & CORRUPT != 0,
            unlinked: self.object.is_unlinked(),
        }
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

// Moving between threads is part of the contract of Ring, Producer and Consumer.
const _: () = {
    const fn movable<T: Send>() {}
    movable::<Ring>();
};

impl Drop for Ring {
    /// Gives back the ends and the slot, unless they are a parent's.
    fn drop(&mut self) {
        let mut held = self.held.take();
        if self.hot.attached.get() == 0 {
            held.forget();
            return;
        }
        for end in [End::Producer, End::Consumer] {
            if let Some(role) = held.role(end).take() {
                role.release(self.role_word(end));
            }
        }
        if let Some(participant) = held.participant.take() {
            participant.detach(self.object.region(), self.object.geometry());
        }
    }
}
