//! Messages on a pipe into which somebody writes whatever it likes.

use std::ffi::c_int;

use madang::ffi::pipe::*;

use super::plan::{Plan, call};

const SEND: &[c_int] = &[libc::EAGAIN, libc::ETIMEDOUT];
const RECEIVE: &[c_int] =
    &[libc::EAGAIN, libc::ETIMEDOUT, libc::EBADMSG, libc::EMSGSIZE, libc::EPIPE];

/// A chunk's header, as docs/pipe.md has it.
fn header(plan: &mut Plan<'_>) -> [u8; 8] {
    let remaining = match plan.choose(4) {
        0 => plan.word(3) as u32,
        1 => plan.word(1) as u32,
        2 => 4088 + plan.word(2) as u32,
        _ => plan.word(4) as u32 & 0x7fff_ffff,
    };
    let payload = if plan.choose(8) == 0 { plan.word(2) as u32 } else { remaining.min(4088) };
    let first = u32::from(plan.choose(2) == 0) << 31;
    let magic = if plan.choose(16) == 0 { plan.word(2) as u16 } else { 0x4d44 };
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&(remaining | first).to_le_bytes());
    bytes[4..6].copy_from_slice(&(payload as u16).to_le_bytes());
    bytes[6..].copy_from_slice(&magic.to_le_bytes());
    bytes
}

/// Writes without waiting; what does not fit is dropped.
fn write(fd: c_int, bytes: &[u8]) {
    let mut entry = libc::pollfd { fd, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one entry; readable bytes.
    unsafe {
        for piece in bytes.chunks(4096) {
            if libc::poll(&raw mut entry, 1, 0) != 1 {
                return;
            }
            assert!(libc::write(fd, piece.as_ptr().cast(), piece.len()) > 0);
        }
    }
}

/// Writes noise, headers, chunks and messages, and receives in between.
pub fn framed_pipe(input: &[u8]) {
    let mut plan = Plan::new(input);
    let mut fds = [-1; 2];
    // SAFETY: room for two descriptors.
    assert_eq!(unsafe { mdg_pipe_open(fds.as_mut_ptr(), 0) }, 0);
    let mut buffer = vec![0_u8; 10_000];
    let receive = |buffer: &mut [u8], length: usize, timeout| {
        let length = length.min(buffer.len());
        // SAFETY: room for `length` bytes.
        call("mdg_pipe_receive", RECEIVE, || unsafe {
            mdg_pipe_receive(fds[0], buffer.as_mut_ptr().cast(), length, timeout)
        })
        .inspect(|&received| assert!(received <= length))
    };
    for _ in 0..64 {
        if plan.is_over() {
            break;
        }
        match plan.choose(8) {
            0 => {
                let count = plan.choose(40) as usize;
                write(fds[1], plan.bytes(count));
            }
            1 => write(fds[1], &header(&mut plan)),
            2 | 3 => {
                let header = header(&mut plan);
                let payload = u16::from_le_bytes([header[4], header[5]]);
                let chunk = [&header[..], &vec![5; usize::from(payload)]].concat();
                write(fds[1], &chunk);
            }
            4 => {
                let length = plan.word(2) as usize % 9000;
                let message = vec![9_u8; length];
                // SAFETY: readable bytes.
                call("mdg_pipe_send", SEND, || unsafe {
                    mdg_pipe_send(fds[1], message.as_ptr().cast(), length, 0) as isize
                });
            }
            _ => {
                let (length, timeout) = (plan.word(2) as usize, plan.timeout());
                receive(&mut buffer, length, timeout);
            }
        }
    }
    // SAFETY: the pipe's own descriptors, closed once each.
    unsafe {
        libc::close(fds[1]);
        // What is left, for a while: noise comes off the pipe eight bytes at a time.
        for _ in 0..100 {
            receive(&mut buffer, 100, 0);
        }
        libc::close(fds[0]);
    }
}
