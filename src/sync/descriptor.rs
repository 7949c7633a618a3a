#![forbid(unsafe_code)]
//! Waiting with a deadline, always by ppoll(2): the one wait that a caught signal ends whatever
//! SA_RESTART says, and that can begin with a look for a pending interruption in one step.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::time::TimeSpec;

use super::interrupt;
use crate::error::{Error, Result};
use crate::time::{Deadline, Timeout};

/// Longest single sleep; only keeps the arithmetic small.
pub(crate) const LONG: Duration = Duration::from_secs(3600);
/// Shortest and longest pause where nothing announces the moment waited for.
const PAUSE_MIN: Duration = Duration::from_micros(100);
const PAUSE_MAX: Duration = Duration::from_millis(2);

/// One call's waits: they share one deadline, taken when the first of them begins.
pub(crate) struct Waiter {
    timeout: Timeout,
    deadline: Option<Deadline>,
    pause: Duration,
    /// Whether signals and interruptions end it.
    heeds: bool,
}

impl Waiter {
    pub(crate) fn new(timeout: Timeout) -> Self {
        Self { timeout, deadline: None, pause: PAUSE_MIN, heeds: true }
    }

    /// From now on neither signals nor interruptions end a wait; an interruption stays pending.
    pub(crate) fn deafen(&mut self) {
        self.heeds = false;
    }

    pub(crate) fn may_wait(&self) -> bool {
        self.timeout != Timeout::NoWait
    }

    /// Time left, at most `slice`: `EAGAIN` for a call that may not wait, `ETIMEDOUT`.
    fn left(&mut self, slice: Duration) -> Result<Duration> {
        let deadline = match self.deadline {
            Some(deadline) => deadline,
            None => *self.deadline.insert(Deadline::start(self.timeout)?),
        };
        deadline.left(slice).ok_or_else(Error::timed_out)
    }

    /// Sleeps until a descriptor has news or `slice` has passed; `EINTR`, `EAGAIN`, `ETIMEDOUT`.
    ///
    /// The time is looked at before the sleep, so the caller's attempt after it is never left out.
    pub(crate) fn sleep(&mut self, fds: &mut [PollFd<'_>], slice: Duration) -> Result<()> {
        if self.heeds && self.may_wait() {
            interrupt::check()?;
        }
        let left = self.left(slice)?;
        let slept = if self.heeds {
            sleep_unless_interrupted(fds, left)
        } else {
            ppoll(fds, Some(TimeSpec::from_duration(left)), None)
        };
        match slept {
            Ok(_) => Ok(()),
            Err(Errno::EINTR) if !self.heeds => Ok(()),
            Err(Errno::EINTR) => {
                interrupt::take();
                Err(Error::interrupted())
            }
            Err(errno) => Err(Error::from_kernel(errno, "waiting for a descriptor")),
        }
    }

    /// Sleeps for a growing interval, shortened by news from the descriptors.
    pub(crate) fn pause(&mut self, fds: &mut [PollFd<'_>]) -> Result<()> {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        self.sleep(fds, pause)
    }

    /// Makes the next pause short again.
    pub(crate) fn fresh(&mut self) {
        self.pause = PAUSE_MIN;
    }
}

/// ppoll(2), at most `longest`: `EINTR` when a signal is caught, and at once if an interruption is
/// pending, which is left so.
///
/// All signals are blocked from the look until the kernel sleeps, so that no handler runs in between:
/// one that would have runs at the beginning of the sleep, and ends it.
pub(crate) fn sleep_unless_interrupted(
    fds: &mut [PollFd<'_>],
    longest: Duration,
) -> nix::Result<i32> {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let slept = if interrupt::is_pending() {
        Err(Errno::EINTR)
    } else {
        ppoll(fds, Some(TimeSpec::from_duration(longest)), Some(before))
    };
    before.thread_set_mask()?;
    slept
}

/// What a descriptor shows right now.
pub(crate) fn shows(fd: BorrowedFd<'_>, events: PollFlags) -> nix::Result<PollFlags> {
    let mut fds = [PollFd::new(fd, events)];
    loop {
        match ppoll(&mut fds, Some(TimeSpec::from_duration(Duration::ZERO)), None) {
            Ok(_) => return Ok(fds[0].revents().unwrap_or(PollFlags::empty())),
            // Nothing was waited for, so there is nothing to interrupt.
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
