#![forbid(unsafe_code)]
//! Timeouts and deadlines, always on the monotonic clock: a step of the wall clock moves nothing.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::error::{Error, Result};

/// How long a call may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timeout {
    /// Never wait; `EAGAIN` when the call would have to.
    NoWait,
    /// Wait without limit.
    Forever,
    /// Wait this long, then `ETIMEDOUT`.
    After(Duration),
}

impl Timeout {
    /// The C form: 0 never waits, negative waits without limit, else nanoseconds.
    pub const fn from_nanos(timeout_ns: i64) -> Self {
        match timeout_ns {
            0 => Self::NoWait,
            i64::MIN..=-1 => Self::Forever,
            _ => Self::After(Duration::from_nanos(timeout_ns as u64)),
        }
    }
}

/// A timeout as C gives it, converted only when a call has to wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Nanos(pub i64);

impl From<Nanos> for Timeout {
    #[inline]
    fn from(Nanos(timeout_ns): Nanos) -> Self {
        Self::from_nanos(timeout_ns)
    }
}

impl From<Duration> for Timeout {
    /// A zero duration never waits.
    fn from(duration: Duration) -> Self {
        if duration.is_zero() { Self::NoWait } else { Self::After(duration) }
    }
}

/// Now on `CLOCK_MONOTONIC`.
pub(crate) fn now() -> Duration {
    // The clock exists on every Linux, and the call has no other way to fail.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}

/// Nanoseconds since 1970, for lists; it may jump.
pub(crate) fn since_1970() -> u64 {
    clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, |now| Duration::from(now).as_nanos() as u64)
}

/// The moment at which a wait ends; taken once, when a call starts to wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Option<Duration>);

impl Deadline {
    /// A deadline for a call that must wait; `EAGAIN` when it may not.
    pub(crate) fn start(timeout: Timeout) -> Result<Self> {
        match timeout {
            Timeout::NoWait => Err(Error::would_block()),
            Timeout::Forever => Ok(Self(None)),
            Timeout::After(duration) => Ok(Self(now().checked_add(duration))),
        }
    }

    /// What is left, at most `slice`; `None` when the deadline has passed.
    pub(crate) fn left(&self, slice: Duration) -> Option<Duration> {
        let Some(end) = self.0 else { return Some(slice) };
        let left = end.checked_sub(now()).filter(|left| !left.is_zero())?;
        Some(left.min(slice))
    }

    /// The absolute moment for calls that take one, at most `slice` from now.
    pub(crate) fn at(&self, slice: Duration) -> Duration {
        let far = now() + slice;
        self.0.map_or(far, |end| end.min(far))
    }

    /// Whether the deadline has passed.
    pub(crate) fn passed(&self) -> bool {
        self.0.is_some_and(|end| now() >= end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c_timeouts() {
        assert_eq!(Timeout::from_nanos(0), Timeout::NoWait);
        assert_eq!(Timeout::from_nanos(-1), Timeout::Forever);
        assert_eq!(Timeout::from_nanos(i64::MIN), Timeout::Forever);
        assert_eq!(Timeout::from_nanos(5), Timeout::After(Duration::from_nanos(5)));
    }

    #[test]
    fn deadlines_do_not_overflow_and_do_pass() {
        let slice = Duration::from_millis(100);
        let far = Deadline::start(Timeout::from_nanos(i64::MAX)).unwrap();
        assert_eq!(far.left(slice), Some(slice));
        assert!(Deadline::start(Timeout::After(Duration::MAX)).unwrap().left(slice).is_some());
        assert!(Deadline::start(Timeout::NoWait).is_err());
        let near = Deadline::start(Timeout::from_nanos(1)).unwrap();
        while !near.passed() {}
        assert_eq!(near.left(slice), None);
    }
}
