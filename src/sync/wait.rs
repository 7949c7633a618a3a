#![forbid(unsafe_code)]
//! The one waiting loop: try, spin, arm, try again, sleep a slice, look who is alive.

use std::cell::Cell;
use std::hint::spin_loop;
use std::time::Duration;

use super::EventCount;
use crate::error::{Error, Result};
use crate::sys::futex::Wake;
use crate::sys::processors;
use crate::time::{Deadline, Timeout, now};

/// Longest sleep without a look at the counterpart's life. A death in the middle of one is noticed
/// at its end, that is within 100 ms; it also bounds what a lost notifier can cost.
pub(crate) const SLICE: Duration = Duration::from_millis(100);

/// Most turns of a spin, about as long as one futex wake-up takes (25 µs): spinning costs at most
/// twice what sleeping at once would have cost.
const MOST_TURNS: u32 = 1000;
/// Fewest turns, where spinning seldom helps.
const FEWEST_TURNS: u32 = 32;
/// Every so many vain spins one runs to the full length, to find out whether times have changed.
const EXPLORE: u32 = 16;

/// How long to spin before sleeping: learns from what helped last. No spinning on one processor,
/// where the other side cannot run meanwhile.
#[derive(Debug)]
pub(crate) struct Spinner {
    turns: Cell<u32>,
    vain: Cell<u32>,
    most: u32,
}

impl Spinner {
    pub(crate) fn new() -> Self {
        let most = if processors() > 1 { MOST_TURNS } else { 0 };
        Self { turns: Cell::new(most), vain: Cell::new(0), most }
    }

    pub(crate) fn spin<T>(
        &self,
        attempt: &mut impl FnMut() -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        let explore = self.vain.get() % EXPLORE == EXPLORE - 1;
        let turns = if explore { self.most } else { self.turns.get() };
        for turn in 0..turns {
            spin_loop();
            if let Some(done) = attempt()? {
                self.vain.set(0);
                self.turns.set((2 * turn).clamp(FEWEST_TURNS, self.most.max(FEWEST_TURNS)));
                return Ok(Some(done));
            }
        }
        self.vain.set(self.vain.get().wrapping_add(1));
        self.turns.set((turns / 2).max(FEWEST_TURNS).min(self.most));
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
/// A wait that is over returns what a last attempt gives, or `EAGAIN`, `ETIMEDOUT`, `EINTR`.
pub(crate) fn wait_until<T>(
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
    sleeping();
    let mut looked = now();
    loop {
        let ticket = event.arm(SLICE);
        if let Some(done) = attempt()? {
            return Ok(done);
        }
        let Some(longest) = deadline.left(SLICE) else { return Err(Error::timed_out()) };
        let wake = event.sleep(ticket, longest);
        let mut verdict = Ok(());
        if wake != Wake::Woken || now().saturating_sub(looked) >= SLICE {
            verdict = alive();
            looked = now();
        }
        let verdict = verdict.and_then(|()| match wake {
            Wake::TimedOut if deadline.passed() => Err(Error::timed_out()),
            Wake::Interrupted => Err(Error::interrupted()),
            _ => Ok(()),
        });
        if let Some(done) = attempt()? {
            return Ok(done);
        }
        verdict?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_wait_looks_once_more() {
        let event = EventCount::default();
        let spinner = Spinner { turns: Cell::new(0), vain: Cell::new(0), most: 0 };
        let mut looks = 0;
        let dead = Error::new(nix::errno::Errno::EOWNERDEAD, "died");
        let result = wait_until(
            &event,
            &spinner,
            Timeout::Forever,
            || {
                looks += 1;
                Ok((looks == 3).then_some(7))
            },
            || {},
            || Err(dead.clone()),
        );
        // Look 1 after arming, look 2 after the slice in which the peer was found dead ...
        assert_eq!(result.unwrap_err(), dead);
        assert_eq!(looks, 2);
    }

    #[test]
    fn vain_spins_get_shorter_and_good_ones_longer() {
        let spinner = Spinner { turns: Cell::new(800), vain: Cell::new(0), most: MOST_TURNS };
        for _ in 0..8 {
            assert_eq!(spinner.spin(&mut || Ok(None::<()>)).unwrap(), None);
        }
        assert_eq!(spinner.turns.get(), FEWEST_TURNS);
        let mut count = 0;
        let mut after_30 = || {
            count += 1;
            Ok((count > 30).then_some(()))
        };
        assert!(spinner.spin(&mut after_30).unwrap().is_some());
        assert_eq!(spinner.turns.get(), 60);
    }
}
