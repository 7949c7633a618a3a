#![forbid(unsafe_code)]
//! Bytes through a pipe.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;

use super::end::{Direction, End};
use crate::error::{Error, Result};
use crate::sync::descriptor::Waiter;
use crate::time::Timeout;

/// Reads what is there, at least one byte; `Ok(0)` is end of file, or an empty buffer.
pub fn read(fd: BorrowedFd<'_>, buf: &mut [u8], timeout: Timeout) -> Result<usize> {
    let mut end = End::new(fd, Direction::Read);
    if buf.is_empty() {
        return end.require_open().map(|()| 0);
    }
    take(&mut end, buf, &mut Waiter::new(timeout))
}

/// Reads until the buffer is full or the file ends.
///
/// When time or a signal ends the wait after some bytes came, their count is returned.
pub fn read_full(fd: BorrowedFd<'_>, buf: &mut [u8], timeout: Timeout) -> Result<usize> {
    let mut end = End::new(fd, Direction::Read);
    if buf.is_empty() {
        return end.require_open().map(|()| 0);
    }
    let mut waiter = Waiter::new(timeout);
    let mut done = 0;
    while done < buf.len() {
        match take(&mut end, &mut buf[done..], &mut waiter) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) => return so_far(done, error),
        }
    }
    Ok(done)
}

/// One read, after as many waits as it needs.
fn take(end: &mut End<'_>, buf: &mut [u8], waiter: &mut Waiter) -> Result<usize> {
    loop {
        match end.read(buf) {
            Ok(count) => return Ok(count),
            Err(Errno::EAGAIN) => end.wait(waiter)?,
            Err(errno) => return Err(end.error(errno)),
        }
    }
}

/// Writes all of it; `EPIPE` when nobody reads, and never a SIGPIPE.
///
/// When time, a signal or an error ends the call after some bytes went, their count is returned.
pub fn write(fd: BorrowedFd<'_>, data: &[u8], timeout: Timeout) -> Result<usize> {
    let mut end = End::new(fd, Direction::Write);
    if data.is_empty() {
        return end.require_open().map(|()| 0);
    }
    let mut waiter = Waiter::new(timeout);
    let mut done = 0;
    while done < data.len() {
        let step = match end.write(&data[done..]) {
            Ok(0) | Err(Errno::EAGAIN) => end.wait(&mut waiter),
            Ok(count) => {
                done += count;
                waiter.fresh();
                Ok(())
            }
            Err(errno) => Err(end.error(errno)),
        };
        if let Err(error) = step {
            return so_far(done, error);
        }
    }
    Ok(done)
}

/// What was done counts; an error only when nothing was.
fn so_far(done: usize, error: Error) -> Result<usize> {
    if done > 0 { Ok(done) } else { Err(error) }
}
