#![forbid(unsafe_code)]
//! Waiting for any of many: rings, and descriptors of any kind.
//!
//! One ppoll(2) on an instance that watches the rings' files (see `watches.rs` and `poll.rs`) and on the
//! other descriptors. Not futex_waitv(2), which could sleep on all event counts at once: under
//! SA_RESTART the kernel restarts it after a signal handler, and a caught signal is to end every wait.
//!
//! Each sleep is bounded by a slice, after which the other ends are probed as in every wait, so a
//! death, and a notifier killed before it could tell, cost no more than that. Where there is no
//! instance it is bounded by a nap.

use std::os::fd::BorrowedFd;
use std::ptr;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::handle::Ring;
use super::poll::Events;
use super::watches::Hearing;
use crate::error::{Error, Result};
use crate::object::End;
use crate::sync::descriptor::sleep_unless_interrupted;
use crate::sync::{SLICE, interrupt};
use crate::time::{Deadline, Timeout, now};

/// First and longest nap between two looks at rings that nobody can tell of.
const NAPS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(10));

/// Most entries of one wait.
pub const MOST: usize = 64;

/// What is waited for.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// A ring, by a handle of this thread.
    Ring(&'a Ring),
    /// A descriptor.
    Fd(BorrowedFd<'a>),
    /// Nothing: the entry is left out.
    Nothing,
}

/// One entry of a wait.
#[derive(Debug, Clone, Copy)]
pub struct Wait<'a> {
    /// What is waited for.
    pub source: Source<'a>,
    /// [`Events::IN`], [`Events::OUT`] or both.
    pub events: Events,
    /// What [`wait_any`] found; [`Events::ERR`] and [`Events::HUP`] need not be asked for.
    pub ready: Events,
}

impl<'a> Wait<'a> {
    /// An entry for a ring.
    pub const fn ring(ring: &'a Ring, events: Events) -> Self {
        Self { source: Source::Ring(ring), events, ready: Events::NONE }
    }

    /// An entry for a descriptor.
    pub const fn fd(fd: BorrowedFd<'a>, events: Events) -> Self {
        Self { source: Source::Fd(fd), events, ready: Events::NONE }
    }
}

type Found = [Events; MOST];

/// Waits until one of `entries` is ready, sets `ready` in all of them, and says how many are.
///
/// A ring is ready for an event when its pop, or push, would not answer `EAGAIN`: it would move an
/// item, or fail for good. [`Events::HUP`] stands beside it for the end of the stream, and alone for
/// the death of the counterpart, which a call that may wait then reports; [`Events::ERR`] for other
/// lasting errors. Others may be quicker to take what is there.
///
/// `EAGAIN`, `ETIMEDOUT`, `EINTR`, `ECANCELED` (any of the rings); `EINVAL`; `EBADF` for a
/// descriptor that is not open; `EACCES` for a ring that this process may only read; and what taking a
/// ring's end returns. Where the rings' files cannot be watched (see [`Ring::poll_fd`]) it looks again
/// every 10 ms.
pub fn wait_any(entries: &mut [Wait<'_>], timeout: Timeout) -> Result<usize> {
    let found = find(entries, timeout)?;
    let mut count = 0;
    for (entry, found) in entries.iter_mut().zip(found) {
        entry.ready = found;
        count += usize::from(found != Events::NONE);
    }
    Ok(count)
}

fn find(entries: &[Wait<'_>], timeout: Timeout) -> Result<Found> {
    check(entries)?;
    for (_, ring, events) in rings(entries) {
        for end in events.ends() {
            ring.hold(end)?;
        }
    }
    let mut found = [Events::NONE; MOST];
    if look(entries, &mut found)? || look_for_deaths(entries, &mut found, false) {
        return Ok(found);
    }
    if timeout == Timeout::NoWait {
        return Err(Error::would_block());
    }
    if let Some((_, ring, _)) = rings(entries).next() {
        let spun =
            ring.spinner.spin(&mut || Ok(look_at_rings(entries, &mut found).then_some(())))?;
        if spun.is_some() {
            return Ok(found);
        }
    }
    let deadline = Deadline::start(timeout)?;
    let mut hearing = Hearing::new(entries)?;
    let mut looked = now();
    let mut nap = NAPS.0;
    loop {
        hearing.arm();
        if look(entries, &mut found)? {
            return Ok(found);
        }
        not_cancelled(entries)?;
        interrupt::check()?;
        let slice = if hearing.is_deaf() { nap } else { SLICE };
        nap = (2 * nap).min(NAPS.1);
        let Some(left) = deadline.left(slice) else { return Err(Error::timed_out()) };
        let slept = sleep(entries, &mut hearing, left);
        // All that ends the wait without a result comes after one more look.
        let verdict = not_cancelled(entries).and_then(|()| match slept {
            Ok(false) if deadline.passed() => Err(Error::timed_out()),
            Ok(_) => Ok(()),
            Err(ref error) => Err(error.clone()),
        });
        // After a sleep that brought no news, but not after every nap.
        let quiet = !matches!(slept, Ok(true)) && (slice == SLICE || verdict.is_err());
        let mut deaths = false;
        if quiet || now().saturating_sub(looked) >= SLICE {
            deaths = look_for_deaths(entries, &mut found, true);
            looked = now();
        }
        if deaths || look(entries, &mut found)? {
            return Ok(found);
        }
        if slept.is_err_and(|error| error.code() == Errno::EINTR) {
            interrupt::take();
        }
        verdict?;
    }
}

fn check(entries: &[Wait<'_>]) -> Result<()> {
    if entries.is_empty() || entries.len() > MOST {
        return Err(Error::new(
            Errno::EINVAL,
            format_args!("waiting for {} entries: 1 to {MOST} are possible", entries.len()),
        ));
    }
    entries.iter().try_for_each(|entry| entry.events.check("waiting for many"))
}

/// The rings, each with its place and with all that is waited for at the same handle.
pub(super) fn rings<'a>(
    entries: &'a [Wait<'a>],
) -> impl Iterator<Item = (usize, &'a Ring, Events)> {
    let ring_of = |entry: &'a Wait<'a>| match entry.source {
        Source::Ring(ring) => Some(ring),
        _ => None,
    };
    entries.iter().enumerate().filter_map(move |(index, entry)| {
        let ring = ring_of(entry)?;
        let same =
            entries.iter().filter(|other| ring_of(other).is_some_and(|other| ptr::eq(other, ring)));
        let events = same.fold(Events::NONE, |events, same| events.union(same.events));
        Some((index, ring, events))
    })
}

fn not_cancelled(entries: &[Wait<'_>]) -> Result<()> {
    match rings(entries).find(|(_, ring, _)| ring.take_cancellation()) {
        Some((_, ring, _)) => Err(ring.cancelled()),
        None => Ok(()),
    }
}

/// Finds what is ready now; whether anything is.
fn look(entries: &[Wait<'_>], found: &mut Found) -> Result<bool> {
    let descriptors = look_at_descriptors(entries, found)?;
    Ok(look_at_rings(entries, found) || descriptors)
}

fn look_at_rings(entries: &[Wait<'_>], found: &mut Found) -> bool {
    let mut any = false;
    for (index, ring, _) in rings(entries) {
        let ready = entries[index].events.ends().map(|end| readiness(ring, end));
        found[index] = ready.fold(Events::NONE, Events::union);
        any |= found[index] != Events::NONE;
    }
    any
}

fn readiness(ring: &Ring, end: End) -> Events {
    match ring.is_ready(end) {
        Ok(false) => Events::NONE,
        Ok(true) => Events::of(end),
        Err(error) if error.code() == Errno::EPIPE => Events::of(end).union(Events::HUP),
        Err(_) => Events::of(end).union(Events::ERR),
    }
}

/// Finds rings whose other end is dead and that give nothing any more; whether there is one, or one
/// that something came to meanwhile. `ask`: the kernel, about each; else only where a death is
/// known.
fn look_for_deaths(entries: &[Wait<'_>], found: &mut Found, ask: bool) -> bool {
    let mut any = false;
    let mut told = [[None; 2]; MOST];
    for (index, ring, _) in rings(entries) {
        for end in entries[index].events.ends() {
            let (dead, holder) = match ring.has_lost_its_peer(end, ask) {
                Ok(None) => continue,
                Ok(holder) => (Events::HUP, holder),
                Err(_) => (Events::ERR, None),
            };
            // What was committed before goes first.
            let ready = readiness(ring, end);
            if ready == Events::NONE {
                told[index][end as usize] = holder;
                found[index] = found[index].union(dead);
            } else {
                found[index] = found[index].union(ready);
            }
            any = true;
        }
    }
    // Behind all of them: a handle may be in two entries.
    for (index, ring, _) in rings(entries).filter(|_| any) {
        for end in entries[index].events.ends() {
            if let Some(holder) = told[index][end as usize] {
                ring.was_told(end, holder);
            }
        }
    }
    any
}

fn asked(events: Events) -> PollFlags {
    let mut flags = PollFlags::empty();
    flags.set(PollFlags::POLLIN, events.contains(Events::IN));
    flags.set(PollFlags::POLLOUT, events.contains(Events::OUT));
    flags
}

/// poll(2)'s bits, which have the same values.
fn answered(flags: PollFlags) -> Events {
    let all = [Events::IN, Events::OUT, Events::ERR, Events::HUP];
    let set = all.into_iter().filter(|bit| u32::from(flags.bits().unsigned_abs()) & bit.0 != 0);
    set.fold(Events::NONE, Events::union)
}

/// Those to be polled; `None` if there are none. An instance is among them only where a ring is among
/// the entries, so there are never more than entries.
fn polled<'a>(those: impl Iterator<Item = PollFd<'a>>) -> Option<([PollFd<'a>; MOST], usize)> {
    let mut all = None;
    for fd in those.take(MOST) {
        let (fds, count) = all.get_or_insert_with(|| (std::array::from_fn(|_| fd.clone()), 0));
        fds[*count] = fd;
        *count += 1;
    }
    all
}

fn descriptors<'a>(entries: &'a [Wait<'_>]) -> impl Iterator<Item = PollFd<'a>> {
    entries.iter().filter_map(|entry| match entry.source {
        Source::Fd(fd) => Some(PollFd::new(fd, asked(entry.events))),
        _ => None,
    })
}

fn look_at_descriptors(entries: &[Wait<'_>], found: &mut Found) -> Result<bool> {
    let all = polled(descriptors(entries));
    let Some((mut fds, count)) = all else { return Ok(false) };
    let fds = &mut fds[..count];
    loop {
        match ppoll(fds, Some(TimeSpec::from_duration(Duration::ZERO)), None) {
            Ok(_) => break,
            // Nothing was waited for, so there is nothing to interrupt.
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::from_kernel(errno, "waiting for many")),
        }
    }
    let mut any = false;
    let places =
        entries.iter().enumerate().filter(|(_, entry)| matches!(entry.source, Source::Fd(_)));
    for ((index, _), fd) in places.zip(fds) {
        let flags = fd.revents().unwrap_or(PollFlags::empty());
        if flags.contains(PollFlags::POLLNVAL) {
            return Err(Error::new(
                Errno::EBADF,
                format_args!("waiting for many: entry {index} is no open descriptor"),
            ));
        }
        found[index] = answered(flags);
        any |= found[index] != Events::NONE;
    }
    Ok(any)
}

/// Sleeps at most `longest`; whether a descriptor had news.
fn sleep(entries: &[Wait<'_>], hearing: &mut Hearing<'_>, longest: Duration) -> Result<bool> {
    let ears = hearing.fd();
    let heard = ears.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    let mut all = polled(heard.into_iter().chain(descriptors(entries)));
    let fds = all.as_mut().map_or(&mut [][..], |(fds, count)| &mut fds[..*count]);
    match sleep_unless_interrupted(fds, longest) {
        Ok(count) => {
            if ears.is_some() && fds[0].any().unwrap_or(true) {
                hearing.listen();
            }
            Ok(count > 0)
        }
        Err(Errno::EINTR) => Err(Error::interrupted()),
        Err(errno) => Err(Error::from_kernel(errno, "waiting for many")),
    }
}
