#![forbid(unsafe_code)]
//! The slow paths: what a ring's operation does when it cannot go on at once.

use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::errno::Errno;

use super::control::{CORRUPT, SHUTDOWN};
use super::engine::Engine;
use super::handle::Ring;
use super::options::policy;
use super::seat::Told;
use crate::error::{Error, Result};
use crate::object::{ENDED, End, Holder, Slot};
use crate::sync::{look_until, wait_until};
use crate::time::{Timeout, now};

/// How long a position must have been in the way before a call that does not wait asks the kernel
/// whether its owner lives.
const SUSPICION: Duration = Duration::from_millis(1);

impl Ring {
    /// What the flags say against an operation at `end`: corrupt, or shut down (which is for a
    /// consumer to judge that has found nothing: `None`).
    pub(super) fn flags(&self) -> Result<bool> {
        // Acquire, and before the look at the indices: what was committed before a shutdown is
        // seen by everyone who sees the shutdown.
        let flags = self.control().flags.0.load(Ordering::Acquire);
        if self.object.region().is_cut() {
            if !self.is_readable_only() {
                // For the fast paths, which look at nothing but the flags.
                self.control().flags.0.fetch_or(CORRUPT, Ordering::AcqRel);
            }
            return Err(self.cut());
        }
        if flags & CORRUPT != 0 {
            return Err(self.refuse(Errno::EBADMSG, "it was found corrupt"));
        }
        Ok(flags & SHUTDOWN != 0)
    }

    fn shut_down(&self, end: End) -> Error {
        // A consumer has reached the end of the stream; a producer may have met that of an earlier one.
        let why = match end {
            End::Consumer => "the stream was shut down",
            End::Producer => {
                "the stream was shut down, and a ring stays so: for a new stream make a new ring \
                 (unlink this one first, or open it with O_CREAT|MDG_FRESH when nobody uses it)"
            }
        };
        self.refuse(Errno::EPIPE, why)
    }

    /// Why a commit was refused.
    pub(super) fn refused(&self) -> Result<()> {
        if self.flags()? { Err(self.shut_down(End::Producer)) } else { Ok(()) }
    }

    /// Items that can be moved now, without waiting: `None` for none. Errors that end a stream. Who
    /// `may_wait` lets more come first where that pays.
    fn look(&self, end: End, may_wait: bool) -> Result<Option<u64>> {
        let shut = self.flags()?;
        let count = match end {
            End::Producer if shut => 0,
            End::Producer => self.core.look_push(&self.hot.push).map_err(|c| self.corrupt(c))?,
            End::Consumer => {
                self.core.look_pop(&self.hot.pop, may_wait).map_err(|c| self.corrupt(c))?
            }
        };
        match count {
            0 if shut => Err(self.shut_down(end)),
            0 => Ok(None),
            count => Ok(Some(count)),
        }
    }

    pub(super) fn peer_died(&self, end: End) -> Error {
        let pid = self.role_word(end).pid();
        self.refuse(
            Errno::EOWNERDEAD,
            format_args!("the process at the {} end (pid {pid}) died", end.word()),
        )
    }

    /// Whether an operation at `end`, which this handle holds, would not have to wait: it would
    /// move something, or fail. Errors that it would answer for good.
    pub(super) fn is_ready(&self, end: End) -> Result<bool> {
        let run = match self.engine {
            Engine::Spsc => self.side(end).run(),
            _ => self.hot.seat.grip(end).run.get().handed_out(),
        };
        if run != 0 {
            return Ok(true);
        }
        if matches!(self.engine, Engine::Spsc) {
            return Ok(self.look(end, false)?.is_some());
        }
        let shut = self.flags()?;
        if shut && end == End::Producer {
            return Err(self.shut_down(end));
        }
        let ready = self.engine.is_ready(&self.hot.seat, end);
        if !ready && shut && self.engine.is_drained(&self.hot.seat) {
            return Err(self.shut_down(end));
        }
        Ok(ready)
    }

    /// Who holds `end`, asking the kernel.
    pub(super) fn probe(&self, end: End) -> Holder {
        let word = self.role_word(end);
        if !self.engine.is_shared(end) {
            let file = self.object.anchor();
            return if self.is_readable_only() {
                word.look(end, file)
            } else {
                word.probe(end, file)
            };
        }
        let mut holder = match word.holder() {
            // The last to come is in the slots, dead or alive, or was just cleared away.
            Holder::Live => Holder::Closed,
            holder => holder,
        };
        for index in 0..self.object.geometry().max_handles {
            let Some(slot) = self.object.slot(index) else { break };
            let ends = slot.ends.load(Ordering::Acquire);
            if slot.is_in_use() && ends & end.bit() != 0 {
                if self.object.is_alive(index) {
                    return Holder::Live;
                }
                if ends & ENDED == 0 {
                    holder = Holder::Dead;
                }
            }
        }
        holder
    }

    /// Slow path of every operation of a ring with one producer and one consumer: returns once at
    /// least one item can be moved. Success leaves errno alone, as it does on the fast path.
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
        if side.is_cut() {
            self.flags()?;
        }
        if side.run() != 0 {
            return Err(self.in_hands());
        }
        let may_wait = timeout != Timeout::NoWait;
        if let Some(count) = self.look(end, may_wait)? {
            return Ok(count);
        }
        self.wait(end, timeout, || self.look(end, may_wait))
    }

    pub(super) fn in_hands(&self) -> Error {
        let why = "a run is handed out in place; give it back first (a count of 0 will do)";
        self.refuse(Errno::EINVAL, why)
    }

    /// Before every operation at an end that many hold.
    #[cold]
    fn take_part(&self, end: End) -> Result<()> {
        let grip = self.hot.seat.grip(end);
        if grip.held.get() == 0 {
            let errno = Errno::last_raw();
            self.claim(end)?;
            Errno::set_raw(errno);
        }
        if grip.run.get().handed_out() != 0 {
            return Err(self.in_hands());
        }
        Ok(())
    }

    /// Does `operation`, which gives `None` when it would have to wait, at `end` of a ring of the
    /// kinds with many holders, waiting as long as `timeout` says.
    #[inline(always)]
    pub(super) fn operate<T>(
        &self,
        end: End,
        timeout: impl Into<Timeout>,
        mut operation: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let grip = self.hot.seat.grip(end);
        if grip.held.get() == 0 || grip.run.get().handed_out() != 0 {
            self.take_part(end)?;
        }
        // Relaxed: a shutdown that races with an operation may come after it.
        if self.control().flags.0.load(Ordering::Relaxed) == 0
            && let Some(done) = operation()?
        {
            return Ok(done);
        }
        self.operate_slowly(end, timeout.into(), &mut operation)
    }

    #[cold]
    #[inline(never)]
    fn operate_slowly<T>(
        &self,
        end: End,
        timeout: Timeout,
        operation: &mut dyn FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let errno = Errno::last_raw();
        let mut attempt = || {
            let shut = self.flags()?;
            if shut && end == End::Producer {
                return Err(self.shut_down(end));
            }
            match operation()? {
                None if shut && self.engine.is_drained(&self.hot.seat) => Err(self.shut_down(end)),
                done => Ok(done),
            }
        };
        let result = match attempt() {
            Ok(Some(done)) => Ok(done),
            Ok(None) => {
                let done = self.wait(end, timeout, attempt);
                if done.is_ok() {
                    self.keep_distance(end);
                }
                done
            }
            Err(error) => Err(error),
        };
        if result.is_ok() {
            Errno::set_raw(errno);
        }
        result
    }

    /// After a wait in a fast stream: a moment for more to be there, see `pace`.
    fn keep_distance(&self, end: End) {
        let pace = &self.hot.seat.grip(end).pace;
        let look = || Ok::<_, ()>(self.engine.ahead(end));
        let (count, capacity) = (self.engine.ahead(end), self.capacity());
        if pace.pays(count, capacity) {
            let _ = pace.gather(count, capacity, look);
        }
    }

    /// Waits at `end` until `attempt`, which has just failed, gives something.
    fn wait<T>(
        &self,
        end: End,
        timeout: Timeout,
        mut attempt: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let fails = end == End::Producer && self.object.geometry().policy & policy::FAIL != 0;
        if timeout == Timeout::NoWait || fails {
            if self.is_suspicious(end)
                && self.mend(end)?
                && let Some(done) = attempt()?
            {
                return Ok(done);
            }
            if self.is_polled(end) {
                return self.rearm(end, attempt);
            }
            return Err(Error::would_block());
        }
        let peer = end.other();
        let told = &self.told(peer).by_call;
        if self.role_word(peer).holder() == Holder::Dead
            && let Some(dead) = self.news_of_a_death(end, told)
        {
            self.mend(end)?;
            // Once more: the dead one may have committed between our look and its death.
            if let Some(done) = attempt()? {
                return Ok(done);
            }
            told.set(dead);
            return Err(self.peer_died(peer));
        }
        let found_dead = Cell::new(0);
        let alive = || match self.news_of_a_death(end, told) {
            Some(dead) => {
                found_dead.set(dead);
                Err(self.peer_died(peer))
            }
            None => Ok(()),
        };
        let result = self.sleep(end, timeout, attempt, alive);
        if result.as_ref().is_err_and(|error| error.code() == Errno::EOWNERDEAD) {
            told.set(found_dead.get());
        }
        result
    }

    /// Waits at `end` until `attempt` gives something or `alive` fails.
    fn sleep<T>(
        &self,
        end: End,
        timeout: Timeout,
        mut attempt: impl FnMut() -> Result<Option<T>>,
        alive: impl Fn() -> Result<()>,
    ) -> Result<T> {
        let attempt = || match attempt()? {
            None if self.take_cancellation() => Err(self.cancelled()),
            done => Ok(done),
        };
        if self.is_readable_only() {
            let position = self.hot.seat.grip(end).position.get();
            return look_until(&self.spinner, position, timeout, attempt, alive);
        }
        let waits = match end {
            End::Producer => &self.control().push_waits.0,
            End::Consumer => &self.control().pop_waits.0,
        };
        wait_until(
            self.event(end),
            &self.spinner,
            timeout,
            attempt,
            || {
                waits.fetch_add(1, Ordering::Relaxed);
            },
            || {
                self.mend(end)?;
                alive()
            },
        )
    }

    fn told(&self, end: End) -> &Told {
        &self.hot.calls.told[end as usize]
    }

    /// Whether those who wait at `end` have lost who was at the other one, which died, with nobody since,
    /// and this handle was not `told` yet: what to note once it is. Each death is told once; after that
    /// the handle waits for a successor as if nobody had been there.
    fn news_of_a_death(&self, end: End, told: &Cell<u32>) -> Option<u32> {
        let peer = end.other();
        // Before the question: who comes after it is another one, whose death is told as well.
        let holder = self.role_word(peer).turn_of_holder();
        let lost = self.probe(peer) == Holder::Dead && self.needs_its_peer(end);
        (lost && told.get() != holder).then_some(holder)
    }

    /// Whether whoever was at the other end of `end` is dead, with nobody since, and no wait on many has
    /// told this handle yet: what [`Ring::was_told`] is to note. What the dead one has left is cleared
    /// away then. `ask`: the kernel, at any rate; else if a death is known.
    pub(super) fn has_lost_its_peer(&self, end: End, ask: bool) -> Result<Option<u32>> {
        let peer = end.other();
        if !ask && self.role_word(peer).holder() != Holder::Dead {
            return Ok(None);
        }
        self.mend(end)?;
        Ok(self.news_of_a_death(end, &self.told(peer).by_event))
    }

    /// A wait on many has told of the death of `holder`, at the other end of `end`.
    pub(super) fn was_told(&self, end: End, holder: u32) {
        self.told(end.other()).by_event.set(holder);
    }

    /// Clears away what the dead have left in the way of the next operation at `end`.
    pub(super) fn mend(&self, end: End) -> Result<bool> {
        let alive = self.asking();
        let mended = self.engine.mend(end, &alive).map_err(|trouble| self.trouble(trouble))?;
        let mended = self.give_back_of_the_dead(&alive) || mended;
        if mended {
            self.notify(end);
        }
        Ok(mended)
    }

    /// Where items of dead takers come again: sweeps the slots of the dead that have some. Whether
    /// there was one.
    fn give_back_of_the_dead(&self, alive: &dyn Fn(u32) -> bool) -> bool {
        if !self.engine.redelivers() {
            return false;
        }
        let mut any = false;
        for index in 0..self.object.geometry().max_handles {
            let in_use = self.object.slot(index).is_some_and(Slot::is_in_use);
            if in_use && self.engine.has_in_hands(index) && !self.object.is_alive(index) {
                // For want of a descriptor, say, it is left for later, or for others.
                let swept = self.object.recover(index, |i, slot| self.sweep(i, slot, alive));
                any |= swept.unwrap_or(false);
            }
        }
        any
    }

    /// Whether the death of whoever was at the other end of `end` matters to those who wait there: not
    /// to consumers of a stream that has ended, who get what is inside and then the end.
    fn needs_its_peer(&self, end: End) -> bool {
        end == End::Producer || self.control().flags.0.load(Ordering::Acquire) & SHUTDOWN == 0
    }

    /// Whether the same position has been in the way of this handle's calls for a while. Asking who
    /// lives costs system calls, so a caller that polls does not do it every time.
    fn is_suspicious(&self, end: End) -> bool {
        let since = &self.hot.seat.grip(end).blocked_since;
        if !self.engine.is_blocked(&self.hot.seat, end) {
            since.set(0);
            return false;
        }
        let now = now().as_nanos() as u64;
        match since.get() {
            0 => {
                since.set(now);
                false
            }
            then if now.saturating_sub(then) < SUSPICION.as_nanos() as u64 => false,
            _ => {
                since.set(now);
                true
            }
        }
    }
}
