#![forbid(unsafe_code)]
//! The one waiting loop: try, spin, give way, arm, try again, sleep a slice, look who is alive.

use std::cell::Cell;
use std::hint::spin_loop;
use std::thread::yield_now;
use std::time::Duration;

use std::sync::atomic::AtomicU32;

use super::kernel::now;
use super::{EventCount, interrupt};
use crate::error::{Error, Result};
use crate::sys::futex::{self, Wake};
use crate::sys::many_processors;
use crate::time::{Deadline, Timeout};

/// Shortest and longest nap of a waiter that nobody can wake. In between, a nap is this part of the
/// time that it has been idle: the longest one begins after 80 ms.
const NAPS: (Duration, Duration) = (Duration::from_micros(20), Duration::from_millis(10));
const NAP_PART: u32 = 8;

/// Longest sleep without a look at the counterpart's life. A death in the middle of one is noticed
/// at its end, that is within 100 ms; it also bounds what a lost notifier can cost.
pub(crate) const SLICE: Duration = Duration::from_millis(100);

/// Most turns of a spin, about as long as one futex wake-up takes (25 µs): spinning costs at most
/// twice what sleeping at once would have cost.
const MOST_TURNS: u32 = 1000;
/// Turns of a spin after one that helped, at least.
const FEWEST_TURNS: u32 = 64;
/// After so many vain spins one is a long one, to find out whether times have changed; if not, the
/// next comes after twice as many, at most so many.
const EXPLORE: u32 = 16;
const EXPLORE_MOST: u32 = 1024;
/// Turns of that one: as long as a counterpart takes that must be woken first, answers, and spins
/// then. Two who both sleep between question and answer would otherwise never find out that neither
/// need.
const EXPLORING_TURNS: u32 = 4 * MOST_TURNS;

/// Times that one gives way before it sleeps: at most, and at least after it helped; otherwise down to
/// once. Where others want the processor they do their part meanwhile, as much as they can, and neither
/// side pays for a sleep and a wake-up; where nobody does, once takes less than a microsecond.
const MOST_YIELDS: u32 = 16;
const FEWEST_YIELDS: u32 = 4;

/// Giving way ends once this time has passed, of which one turn may take more: others keep the processor
/// for what they do by themselves, and a wake-up goes before them sooner. Then so many waits do without.
const LONGEST_YIELD: Duration = Duration::from_millis(1);
const STAY: u32 = 8;

/// A spin also ends after this time, which it takes only where each attempt is slow: a ring full of
/// noise, say. Looked at after every so many turns.
const LONGEST_SPIN: Duration = Duration::from_millis(10);
const GLANCE: u32 = 32;

/// How long to spin before sleeping: learns from what helped last, down to not at all where it never
/// helps (both sides on one processor, say, for which no spin is long enough).
#[derive(Debug)]
pub(crate) struct Spinner {
    turns: Cell<u32>,
    /// How often to give way after that.
    yields: Cell<u32>,
    /// Waits that do not give way.
    stay: Cell<u32>,
    /// Vain spins still to come before a long one.
    explore_in: Cell<u32>,
    /// How many there were last.
    explore_after: Cell<u32>,
    /// How long a waiter that nobody can wake has napped since it last found something, and how far
    /// it had come then.
    idle: Cell<Duration>,
    position: Cell<u64>,
    most: u32,
}

impl Spinner {
    pub(crate) fn new() -> Self {
        Self::up_to(if many_processors() { MOST_TURNS } else { 0 })
    }

    fn up_to(most: u32) -> Self {
        Self {
            turns: Cell::new(most),
            yields: Cell::new(FEWEST_YIELDS),
            stay: Cell::new(0),
            explore_in: Cell::new(EXPLORE),
            explore_after: Cell::new(EXPLORE),
            idle: Cell::new(Duration::ZERO),
            position: Cell::new(0),
            most,
        }
    }

    /// For models: one that neither spins nor gives way.
    #[cfg(all(test, loom))]
    pub(crate) fn that_sleeps() -> Self {
        let spinner = Self::up_to(0);
        spinner.stay.set(u32::MAX);
        spinner
    }

    /// Turns of the first moment of a spin, which may be spent outside of [`Spinner::spin`].
    #[inline(always)]
    pub(crate) fn moment(&self) -> u32 {
        self.turns.get().min(FEWEST_TURNS)
    }

    /// A spin of so many turns has helped.
    #[inline(always)]
    pub(crate) fn helped(&self, turns: u32) {
        self.explore_in.set(EXPLORE);
        self.explore_after.set(EXPLORE);
        self.turns.set((2 * turns).clamp(FEWEST_TURNS, self.most));
    }

    pub(crate) fn spin<T>(
        &self,
        attempt: &mut impl FnMut() -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        if self.most == 0 {
            return Ok(None);
        }
        let explore = self.explore_in.get() == 0;
        let turns = if explore { EXPLORING_TURNS } else { self.turns.get() };
        let mut began = None;
        for turn in 0..turns {
            if turn % GLANCE == GLANCE - 1 {
                let now = now();
                if now.saturating_sub(*began.get_or_insert(now)) > LONGEST_SPIN {
                    break;
                }
            }
            spin_loop();
            if let Some(done) = attempt()? {
                self.helped(turn);
                return Ok(Some(done));
            }
        }
        if explore {
            let after = (2 * self.explore_after.get()).min(EXPLORE_MOST);
            self.explore_after.set(after);
            self.explore_in.set(after);
        } else {
            self.explore_in.set(self.explore_in.get() - 1);
            self.turns.set(turns / 2);
        }
        Ok(None)
    }

    /// Gives way to others on this processor, as often as that has helped lately.
    fn give_way<T>(
        &self,
        deadline: &Deadline,
        longest: Duration,
        attempt: &mut impl FnMut() -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        if self.stay.get() > 0 {
            self.stay.set(self.stay.get() - 1);
            return Ok(None);
        }
        let (yields, began) = (self.yields.get(), now());
        for turn in 1..=yields {
            yield_now();
            let found = attempt()?;
            if now().saturating_sub(began) > longest {
                self.stay.set(STAY);
                self.yields.set(1);
                return Ok(found);
            }
            if found.is_some() {
                self.yields.set((2 * turn).clamp(FEWEST_YIELDS, MOST_YIELDS));
                return Ok(found);
            }
            if deadline.passed() {
                break;
            }
        }
        self.yields.set((yields / 2).max(1));
        Ok(None)
    }
}

/// Repeats `attempt` until it gives something, waiting on `event` in between.
///
/// `attempt` failed once already. `sleeping` is called once, before the first sleep. `alive` looks
/// whether the counterpart lives: after every sleep that brought no news, and once a slice however
/// many wake-ups there were. An error from it ends the wait, after one more attempt, so that what
/// was committed before a death is delivered first; it goes before a timeout or a signal, so that a
/// death is noticed by short and by much-interrupted waits, too.
///
/// A wait that is over returns what a last attempt gives, or `EAGAIN`, `ETIMEDOUT`, `EINTR`. A pending
/// [interruption](interrupt) is looked for before each sleep, and taken only with `EINTR`.
pub(crate) fn wait_until<T>(
    event: &EventCount,
    spinner: &Spinner,
    timeout: Timeout,
    attempt: impl FnMut() -> Result<Option<T>>,
    sleeping: impl FnOnce(),
    alive: impl FnMut() -> Result<()>,
) -> Result<T> {
    wait::<T, true>(event, spinner, timeout, attempt, sleeping, alive)
}

/// As [`wait_until`], for a wait that must come to its end: signals and interruptions do not end it,
/// and an interruption stays pending.
pub(crate) fn wait_deaf_until<T>(
    event: &EventCount,
    spinner: &Spinner,
    attempt: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    wait::<T, false>(event, spinner, Timeout::Forever, attempt, || {}, || Ok(()))
}

/// `HEEDS`: signals and interruptions.
fn wait<T, const HEEDS: bool>(
    event: &EventCount,
    spinner: &Spinner,
    timeout: Timeout,
    mut attempt: impl FnMut() -> Result<Option<T>>,
    sleeping: impl FnOnce(),
    mut alive: impl FnMut() -> Result<()>,
) -> Result<T> {
    if timeout == Timeout::NoWait {
        return Err(Error::would_block());
    }
    if let Some(done) = spinner.spin(&mut attempt)? {
        return Ok(done);
    }
    let deadline = Deadline::start(timeout)?;
    if let Some(done) = spinner.give_way(&deadline, LONGEST_YIELD, &mut attempt)? {
        return Ok(done);
    }
    sleeping();
    let mut looked = now();
    loop {
        let ticket = event.arm(SLICE);
        if let Some(done) = attempt()? {
            return Ok(done);
        }
        if HEEDS {
            interrupt::check()?;
        }
        let Some(longest) = deadline.left(SLICE) else { return Err(Error::timed_out()) };
        let wake = event.sleep(ticket, longest);
        let mut verdict = Ok(());
        if wake != Wake::Woken || now().saturating_sub(looked) >= SLICE {
            verdict = alive();
            looked = now();
        }
        if let Some(done) = attempt()? {
            return Ok(done);
        }
        verdict?;
        if HEEDS {
            ended(wake)?;
        }
        if wake == Wake::TimedOut && deadline.passed() {
            return Err(Error::timed_out());
        }
    }
}

/// `EINTR` for a sleep that a signal or an interruption has ended: its wait has nothing else to return.
fn ended(sleep: Wake) -> Result<()> {
    if interrupt::take() || sleep == Wake::Interrupted {
        return Err(Error::interrupted());
    }
    Ok(())
}

/// As [`wait_until`], for a waiter that cannot announce that it sleeps, as it may not store anything:
/// spins, then looks again after naps. They grow with the time for which it has found nothing, over
/// any number of calls, and are short again once it has: in a wait, or, which its `position` tells,
/// without one.
pub(crate) fn look_until<T>(
    spinner: &Spinner,
    position: u64,
    timeout: Timeout,
    mut attempt: impl FnMut() -> Result<Option<T>>,
    mut alive: impl FnMut() -> Result<()>,
) -> Result<T> {
    if timeout == Timeout::NoWait {
        return Err(Error::would_block());
    }
    if spinner.position.replace(position) != position {
        spinner.idle.set(Duration::ZERO);
    }
    let mut attempt = || {
        let found = attempt();
        if !matches!(found, Ok(None)) {
            spinner.idle.set(Duration::ZERO);
        }
        found
    };
    if let Some(done) = spinner.spin(&mut attempt)? {
        return Ok(done);
    }
    let deadline = Deadline::start(timeout)?;
    let mut looked = now();
    // A word of our own: the nap ends with its time, or with a signal.
    let word = AtomicU32::new(0);
    loop {
        interrupt::check()?;
        let idle = spinner.idle.get();
        let nap = (idle / NAP_PART).clamp(NAPS.0, NAPS.1);
        let Some(longest) = deadline.left(nap) else { return Err(Error::timed_out()) };
        let began = now();
        let wake = futex::wait(&word, 0, longest);
        let woke = now();
        spinner.idle.set(idle.saturating_add(woke.saturating_sub(began)));
        let mut verdict = Ok(());
        if woke.saturating_sub(looked) >= SLICE || deadline.passed() {
            verdict = alive();
            looked = now();
        }
        if let Some(done) = attempt()? {
            return Ok(done);
        }
        verdict?;
        ended(wake)?;
        if deadline.passed() {
            return Err(Error::timed_out());
        }
    }
}

#[cfg(all(test, not(loom)))]
#[path = "wait_tests.rs"]
mod tests;
