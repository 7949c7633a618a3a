#![forbid(unsafe_code)]
//! Who a process is, for a person who reads a message or a dump. Nothing decides by it: whether a
//! process lives is proven by its lock.

use std::ffi::CStr;
use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::read;

use super::file::beginning;

/// More bytes of `/proc/PID/stat` than the first 22 fields have.
const STAT: usize = 352;

/// The diagnostic identity of this process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub pid: u32,
    pub uid: u32,
    /// Start time in clock ticks since boot (`/proc/PID/stat` field 22); 0 where /proc is missing.
    pub start_time: u64,
    /// Inode of the PID namespace in which `pid` counts; 0 where /proc is missing.
    pub pid_namespace: u64,
}

impl Identity {
    /// This process, now.
    pub(crate) fn current() -> Self {
        Self {
            pid: std::process::id(),
            uid: super::effective_uid(),
            start_time: start_time().unwrap_or(0),
            pid_namespace: fs::metadata("/proc/self/ns/pid").map_or(0, |meta| meta.ino()),
        }
    }
}

/// The name of the program of a process that lives, ended by a zero; empty where it is not known, as in
/// another PID namespace. A start time that is not 0 must be the process's.
pub(crate) fn command(of: &Identity) -> [u8; 16] {
    let mut name = [0; 16];
    if of.pid_namespace == 0 || super::process::pid_namespace() != Some(of.pid_namespace) {
        return name;
    }
    let mut path = [0_u8; 32];
    // Ten digits at most, so it fits.
    let _ = write!(&mut path[..], "/proc/{}/stat", of.pid);
    let path = CStr::from_bytes_until_nul(&path).unwrap_or_default();
    let mut stat = [0; STAT];
    let stat = beginning(path, &mut stat);
    let (open, close) =
        (stat.iter().position(|&byte| byte == b'('), stat.iter().rposition(|&byte| byte == b')'));
    if let (Some(open), Some(close)) = (open, close)
        && open < close
        && (of.start_time == 0 || start_time_in(stat) == Some(of.start_time))
    {
        let found = stat[open + 1..close].iter().take(15);
        name.iter_mut().zip(found).for_each(|(to, &byte)| *to = byte);
    }
    name
}

/// Whether the kernel is writing a core dump of process `pid`, which holds its locks until that is done.
/// `false` where /proc is missing, and for a process of another PID namespace.
pub(crate) fn is_dumping_core(pid: u32) -> bool {
    let mut path = [0_u8; 32];
    // Ten digits at most, so it fits.
    let _ = write!(&mut path[..], "/proc/{pid}/status");
    let path = CStr::from_bytes_until_nul(&path).unwrap_or_default();
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    open(path, flags, Mode::empty()).is_ok_and(|status| has_line(&status, b"CoreDumping:\t1"))
}

/// Whether a line of `file` begins with `wanted`, which is shorter than half of the buffer.
fn has_line(file: &OwnedFd, wanted: &[u8]) -> bool {
    let mut bytes = [0_u8; 512];
    let mut kept = 0;
    while let Ok(count @ 1..) = read(file, &mut bytes[kept..]) {
        let end = kept + count;
        if bytes[..end].windows(wanted.len()).any(|here| here == wanted) {
            return true;
        }
        // What may be the beginning of it.
        kept = end.min(wanted.len() - 1);
        bytes.copy_within(end - kept..end, 0);
    }
    false
}

fn start_time() -> Option<u64> {
    start_time_in(beginning(c"/proc/self/stat", &mut [0; STAT]))
}

fn start_time_in(stat: &[u8]) -> Option<u64> {
    // The program's name, in parentheses, may itself hold spaces and parentheses.
    let after_name = stat.iter().rposition(|&byte| byte == b')')? + 2;
    let fields = std::str::from_utf8(stat.get(after_name..)?).ok()?;
    fields.split(' ').nth(19)?.parse().ok()
}

/// The machine's boot, as 16 bytes; zeros where /proc is missing.
pub(crate) fn boot_id() -> [u8; 16] {
    hex16(beginning(c"/proc/sys/kernel/random/boot_id", &mut [0; 64])).unwrap_or_default()
}

/// 16 random bytes from the kernel; zeros where it gives none.
pub(crate) fn uuid() -> [u8; 16] {
    if let Some(bytes) = super::process::random_bytes() {
        return bytes;
    }
    hex16(beginning(c"/proc/sys/kernel/random/uuid", &mut [0; 64])).unwrap_or_default()
}

fn hex16(text: &[u8]) -> Option<[u8; 16]> {
    let (mut number, mut count) = (0_u128, 0);
    for digit in text.iter().filter_map(|&byte| char::from(byte).to_digit(16)) {
        number = number << 4 | u128::from(digit);
        count += 1;
    }
    (count == 32).then_some(number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_are_somebody() {
        let me = Identity::current();
        assert_eq!(me.pid, std::process::id());
        assert!(me.start_time > 0 && me.pid_namespace > 0);
        assert_ne!(boot_id(), [0; 16]);
        assert_ne!(uuid(), uuid());
    }

    #[test]
    fn a_line_is_found_wherever_it_begins() {
        let (read, write) = nix::unistd::pipe().unwrap();
        for before in 490..520 {
            let text = [vec![b'x'; before], b"\nCoreDumping:\t1\nmore\n".to_vec()].concat();
            assert_eq!(nix::unistd::write(&write, &text), Ok(text.len()));
            assert!(has_line(&read, b"CoreDumping:\t1"), "{before}");
            let mut rest = [0; 64];
            let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
            nix::fcntl::fcntl(&read, nix::fcntl::FcntlArg::F_SETFL(flags)).unwrap();
            while nix::unistd::read(&read, &mut rest).is_ok() {}
        }
        assert!(!is_dumping_core(std::process::id()) && !is_dumping_core(0));
    }

    #[test]
    fn hex_wants_exactly_sixteen_bytes() {
        assert_eq!(hex16(b"00"), None);
        let bytes = hex16(b"00010203-0405-0607-0809-0a0b0c0d0eFf\n").unwrap();
        assert_eq!((bytes[1], bytes[15]), (1, 0xff));
    }
}
