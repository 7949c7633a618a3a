#![forbid(unsafe_code)]
//! The wire format of messages, and sending them.
//!
//! A message is a run of chunks, each written by one write of at most PIPE_BUF bytes and therefore
//! whole or not there, even if its writer is killed. A chunk begins with a header:
//!
//! | bytes | little-endian | holds |
//! |---|---|---|
//! | 0–3 | u32 | bytes of the message from this chunk on; bit 31: first chunk of a message |
//! | 4–5 | u16 | bytes of payload that follow the header |
//! | 6–7 | u16 | 0x4D44 |
//!
//! Every chunk but the last is full. A message without its last chunk was never sent: its writer
//! died or gave up, and got no success.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;

use super::end::{Direction, End, PIPE_BUF};
use super::lock::Turn;
use crate::error::{Error, Result};
use crate::sync::descriptor::Waiter;
use crate::sys::pipe as sys;
use crate::time::Timeout;

/// Longest message in bytes.
pub const MESSAGE_MAX: usize = 1 << 20;

/// Bytes of a chunk's header.
pub(super) const HEADER: usize = 8;
/// Bytes of payload in a full chunk.
pub(super) const PAYLOAD: usize = PIPE_BUF - HEADER;
const FIRST: u32 = 0x8000_0000;
const MAGIC: u16 = 0x4D44;

/// What a chunk says about itself; holds only what [`Header::decode`] accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Begins a message.
    pub(super) first: bool,
    /// Bytes of the message from this chunk on, at most MESSAGE_MAX.
    pub(super) remaining: usize,
    /// Bytes of this chunk's payload: `remaining`, or a full chunk.
    pub(super) payload: usize,
}

impl Header {
    /// The header of the chunk with which `remaining` bytes begin.
    fn new(first: bool, remaining: usize) -> Self {
        Self { first, remaining, payload: remaining.min(PAYLOAD) }
    }

    fn encode(self) -> [u8; HEADER] {
        // Both fit: `remaining` is at most 2^20, `payload` at most 4088.
        let word = self.remaining as u32 | if self.first { FIRST } else { 0 };
        let mut bytes = [0; HEADER];
        bytes[..4].copy_from_slice(&word.to_le_bytes());
        bytes[4..6].copy_from_slice(&(self.payload as u16).to_le_bytes());
        bytes[6..].copy_from_slice(&MAGIC.to_le_bytes());
        bytes
    }

    /// `None` for what no sender writes.
    pub(super) fn decode(bytes: [u8; HEADER]) -> Option<Self> {
        let [a, b, c, d, e, f, g, h] = bytes;
        let word = u32::from_le_bytes([a, b, c, d]);
        let header = Self {
            first: word & FIRST != 0,
            remaining: (word & !FIRST) as usize,
            payload: usize::from(u16::from_le_bytes([e, f])),
        };
        let sound = u16::from_le_bytes([g, h]) == MAGIC
            && header.remaining <= MESSAGE_MAX
            && header.payload == header.remaining.min(PAYLOAD)
            // Only a message of no bytes at all has an empty chunk.
            && (header.first || header.remaining > 0);
        sound.then_some(header)
    }
}

/// Sends one message: all of it or, for receivers, nothing.
///
/// `EMSGSIZE` beyond [`MESSAGE_MAX`], `EPIPE` when nobody reads, `EPROTO` for what is not a pipe.
pub fn send(fd: BorrowedFd<'_>, message: &[u8], timeout: Timeout) -> Result<()> {
    End::new(fd, Direction::Write).require_pipe()?;
    if message.len() > MESSAGE_MAX {
        return Err(Error::new(
            Errno::EMSGSIZE,
            format_args!("a message of {} bytes; {MESSAGE_MAX} is the limit", message.len()),
        ));
    }
    let mut waiter = Waiter::new(timeout);
    let many = message.len() > PAYLOAD;
    let mut turn = Turn::take(fd, many, &mut waiter)?;
    waiter.fresh();
    if many && !waiter.may_wait() && !has_room(fd, message.len()) {
        return Err(Error::would_block());
    }

    let mut chunk = [0; PIPE_BUF];
    let mut rest = message;
    loop {
        let header = Header::new(rest.len() == message.len(), rest.len());
        let (payload, after) = rest.split_at(header.payload);
        let chunk = &mut chunk[..HEADER + payload.len()];
        chunk[..HEADER].copy_from_slice(&header.encode());
        chunk[HEADER..].copy_from_slice(payload);
        put(&mut turn.end, chunk, &mut waiter)?;
        if after.is_empty() {
            return Ok(());
        }
        rest = after;
    }
}

/// Writes one chunk, after as many waits as it needs.
fn put(end: &mut End<'_>, chunk: &[u8], waiter: &mut Waiter) -> Result<()> {
    loop {
        match end.write(chunk) {
            Ok(count) if count == chunk.len() => return Ok(()),
            // Promised never to happen up to PIPE_BUF; receivers would take what follows for
            // garbage, so the sender must not think that all is well.
            Ok(_) => return Err(Error::new(Errno::EIO, "the kernel split an atomic pipe write")),
            Err(Errno::EAGAIN) => end.wait(waiter)?,
            Err(errno) => return Err(end.error(errno)),
        }
    }
}

/// Whether a message of `len` bytes may fit into the pipe as it is.
///
/// A `true` can be wrong (the kernel does not tell how full its pages are), a `false` cannot.
fn has_room(fd: BorrowedFd<'_>, len: usize) -> bool {
    let need = len + len.div_ceil(PAYLOAD) * HEADER;
    sys::fill(fd).map_or(true, |(size, held)| {
        // The last chunk may share its page with nothing, and so may what is there already.
        held.next_multiple_of(PIPE_BUF) + need <= size
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_as_they_went() {
        for (first, remaining) in
            [(true, 0), (true, 1), (true, PAYLOAD), (false, 1), (true, MESSAGE_MAX), (false, 9999)]
        {
            let header = Header::new(first, remaining);
            assert_eq!(Header::decode(header.encode()), Some(header));
        }
    }

    #[test]
    fn the_wire_format_is_as_documented() {
        let bytes = Header::new(true, 5000).encode();
        assert_eq!(bytes, [0x88, 0x13, 0, 0x80, 0xf8, 0x0f, 0x44, 0x4d]);
    }

    #[test]
    fn what_no_sender_writes_is_refused() {
        let good = Header::new(true, 5000).encode();
        for bit in 0..64 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            // The first bit, and sizes that also fill the chunk, are other sound headers.
            if let Some(header) = Header::decode(bad) {
                assert!(bit < 32 && header.payload == header.remaining.min(PAYLOAD), "{bit}");
            }
        }
        assert_eq!(Header::decode([0, 0, 0, 0, 0, 0, 0x44, 0x4d]), None, "empty continuation");
        let huge = (MESSAGE_MAX as u32 + 1) | FIRST;
        let mut bytes = good;
        bytes[..4].copy_from_slice(&huge.to_le_bytes());
        assert_eq!(Header::decode(bytes), None);
    }
}
