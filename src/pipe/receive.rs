#![forbid(unsafe_code)]
//! Receiving messages; the wire format is described in `message`.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;

use super::end::{Direction, End, PIPE_BUF};
use super::lock;
use super::message::{HEADER, Header, PAYLOAD};
use crate::error::{Error, Result};
use crate::sync::descriptor::Waiter;
use crate::time::Timeout;

/// How long a receiver that must not wait gives a live sender for the next chunk of a message that
/// has begun, and how often it looks whether that sender lives.
const GRACE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(10);
/// Chunks of unfinished messages that one call drops before it calls the pipe corrupt.
const DROPPED_MAX: usize = 4096;

/// A message that has begun.
struct Current {
    /// Its length.
    total: usize,
    /// Bytes still to come, > 0.
    remaining: usize,
    /// Chunks that came.
    chunks: usize,
}

/// One call's state.
struct Receiver<'fd> {
    fd: BorrowedFd<'fd>,
    end: End<'fd>,
    waiter: Waiter,
    /// For a call that must not wait: the time it gives the sender of the next chunk.
    grace: Waiter,
    /// Nobody holds the pipe's lock any more: what is not there now will not come.
    released: bool,
}

/// Receives one message; its length. `EPIPE` at the end of the stream.
///
/// One receiver at a time. After a failure the contents of `buf` are unspecified.
pub fn receive(fd: BorrowedFd<'_>, buf: &mut [u8], timeout: Timeout) -> Result<usize> {
    let end = End::new(fd, Direction::Read);
    end.require_pipe()?;
    let waiter = Waiter::new(timeout);
    let mut receiver =
        Receiver { fd, end, waiter, grace: Waiter::new(GRACE.into()), released: false };
    receiver.receive(buf)
}

impl Receiver<'_> {
    fn receive(&mut self, buf: &mut [u8]) -> Result<usize> {
        let mut current: Option<Current> = None;
        let mut dropped = 0;
        loop {
            let Some(header) = self.header(current.as_ref())? else {
                return Err(match current {
                    None => Error::new(Errno::EPIPE, "end of stream: no sender any more"),
                    Some(Current { total, .. }) => self.cut_off(total, "the stream ended in it"),
                });
            };
            let total = match &current {
                Some(Current { total, remaining, .. }) if !header.first => {
                    if header.remaining != *remaining {
                        return Err(self.corrupt("a chunk is missing"));
                    }
                    *total
                }
                unfinished => {
                    // Either way the sender of what came before got no success.
                    dropped += unfinished.as_ref().map_or(0, |current| current.chunks);
                    dropped += usize::from(!header.first);
                    if dropped > DROPPED_MAX {
                        return Err(self.corrupt("nothing but pieces of messages"));
                    }
                    if !header.first {
                        self.skip(header.payload)?;
                        continue;
                    }
                    header.remaining
                }
            };
            if total <= buf.len() {
                let start = total - header.remaining;
                self.whole(&mut buf[start..start + header.payload])?;
            } else {
                self.skip(header.payload)?;
            }
            let remaining = header.remaining - header.payload;
            if remaining > 0 {
                let before = current.filter(|_| !header.first).map_or(0, |current| current.chunks);
                current = Some(Current { total, remaining, chunks: before + 1 });
                continue;
            }
            if total <= buf.len() {
                return Ok(total);
            }
            return Err(Error::new(
                Errno::EMSGSIZE,
                format_args!("a message of {total} bytes; the buffer has {}", buf.len()),
            ));
        }
    }

    /// The next chunk's header; `None` at the end of the stream.
    fn header(&mut self, current: Option<&Current>) -> Result<Option<Header>> {
        let mut bytes = [0; HEADER];
        loop {
            match self.end.read(&mut bytes) {
                Ok(0) => return Ok(None),
                Ok(count) => {
                    self.whole(&mut bytes[count..])?;
                    self.progress();
                    let header = Header::decode(bytes);
                    return header.map(Some).ok_or_else(|| self.corrupt("not a chunk's header"));
                }
                Err(Errno::EAGAIN) => match current {
                    None => self.end.wait(&mut self.waiter)?,
                    Some(current) => self.wait_for_rest(current.total)?,
                },
                Err(Errno::EINTR) if current.is_some() => {}
                Err(errno) => return Err(self.end.error(errno)),
            }
        }
    }

    fn progress(&mut self) {
        self.grace = Waiter::new(GRACE.into());
        self.released = false;
    }

    /// Waits for the next chunk of a message whose beginning cannot be put back: a signal must not
    /// end this wait, or the message would be lost.
    fn wait_for_rest(&mut self, total: usize) -> Result<()> {
        self.waiter.deafen();
        self.grace.deafen();
        let waited = if self.waiter.may_wait() {
            self.end.wait(&mut self.waiter)
        } else if lock::is_held(self.fd) != Some(false) {
            self.grace.sleep(&mut [self.end.poll_fd()], LOOK)
        } else if self.released {
            return Err(self.cut_off(total, "its sender has gone"));
        } else {
            // It may have written the rest just before it let go: one more look.
            self.released = true;
            Ok(())
        };
        match waited {
            Err(error) if error.code() == Errno::ETIMEDOUT => {
                Err(self.cut_off(total, "the rest did not come in time"))
            }
            other => other,
        }
    }

    /// Fills `buf` with what must be there, for a chunk is written at once.
    fn whole(&mut self, mut buf: &mut [u8]) -> Result<()> {
        while !buf.is_empty() {
            match self.end.read(buf) {
                Ok(0) | Err(Errno::EAGAIN) => return Err(self.corrupt("a chunk breaks off")),
                Ok(count) => buf = &mut buf[count..],
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(self.end.error(errno)),
            }
        }
        Ok(())
    }

    /// Drops a chunk's payload.
    fn skip(&mut self, payload: usize) -> Result<()> {
        let mut scratch = [0; PIPE_BUF];
        self.whole(&mut scratch[..payload.min(PAYLOAD)])
    }

    fn cut_off(&self, total: usize, why: &str) -> Error {
        let fd = self.fd.as_raw_fd();
        Error::new(
            Errno::EBADMSG,
            format_args!(
                "descriptor {fd}: a message of {total} bytes was cut off and dropped: {why}"
            ),
        )
    }

    fn corrupt(&self, what: &str) -> Error {
        let fd = self.fd.as_raw_fd();
        Error::new(
            Errno::EBADMSG,
            format_args!("descriptor {fd}: {what}; something else writes to or reads from it"),
        )
    }
}
