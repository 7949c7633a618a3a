#![forbid(unsafe_code)]
//! The one error type: a positive errno and, where it helps, a sentence for a person.
//!
//! The expected answers (`EAGAIN`, `ETIMEDOUT`, `EINTR`) carry no text (C is given a fixed one), so that nothing is
//! allocated or formatted on paths that a busy program takes all the time. The text of any other
//! error is formatted into a buffer on the stack and kept in memory of its own. If that cannot be
//! allocated, the text goes to a fixed buffer of the thread, which holds one.

use std::cell::Cell;
use std::fmt::{self, Write};

use nix::errno::Errno;

/// Longest text of an error in bytes; a longer one is cut.
pub(crate) const TEXT_MAX: usize = 1023;

thread_local! {
    // The text of the last error of this thread for which no memory could be allocated. Constant
    // initialisation and no destructor: usable at any time in a thread's life, without allocation.
    static SPILL: Cell<Buffer> = const { Cell::new(Buffer::new()) };
    // How many texts were spilled, which tells whether an error's text is still there.
    static SPILLED: Cell<u32> = const { Cell::new(0) };
}

/// What a failed operation has to say.
///
/// The code is a positive errno value; its meaning is the same in every module and is listed in
/// `include/madang/base.h`. The text names the call, the object, what was found and what to do.
/// Making an error never fails: where no memory can be allocated for its text, [`Error::text`] is
/// the fixed words of its code.
#[derive(Debug, PartialEq, Eq)]
pub struct Error {
    errno: i32,
    text: Text,
}

#[derive(Debug, PartialEq, Eq)]
enum Text {
    None,
    Owned(String),
    /// In [`SPILL`] of the thread that made the error, as long as no other has replaced it.
    Spilled(u32),
}

/// Shorthand for the result of every fallible operation of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Text of bounded length without allocation; what does not fit is cut between two characters.
#[derive(Clone, Copy)]
pub(crate) struct Buffer {
    bytes: [u8; TEXT_MAX],
    len: u16,
    cut: bool,
}

impl Buffer {
    pub(crate) const fn new() -> Self {
        Self { bytes: [0; TEXT_MAX], len: 0, cut: false }
    }

    pub(crate) fn as_str(&self) -> &str {
        // Never an error: only whole characters are stored.
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or("")
    }
}

impl fmt::Write for Buffer {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.cut {
            return Ok(());
        }
        let at = usize::from(self.len);
        let mut count = text.len().min(TEXT_MAX - at);
        while !text.is_char_boundary(count) {
            count -= 1;
        }
        self.cut = count < text.len();
        self.bytes[at..at + count].copy_from_slice(&text.as_bytes()[..count]);
        self.len = (at + count) as u16;
        Ok(())
    }
}

impl Error {
    /// An error with a full explanation. Allocates for the text if that is possible.
    #[cold]
    #[inline(never)]
    pub(crate) fn new(errno: Errno, text: impl fmt::Display) -> Self {
        let mut buffer = Buffer::new();
        // A buffer takes everything, and a `Display` that fails has written what it could.
        let _ = write!(buffer, "{text}");
        Self { errno: errno as i32, text: Text::keep(&buffer) }
    }

    /// An expected answer: no text, no allocation.
    pub(crate) const fn expected(errno: Errno) -> Self {
        Self { errno: errno as i32, text: Text::None }
    }

    /// `EAGAIN`: the call would have to wait.
    pub(crate) const fn would_block() -> Self {
        Self::expected(Errno::EAGAIN)
    }

    /// `ETIMEDOUT`: the time given has passed.
    pub(crate) const fn timed_out() -> Self {
        Self::expected(Errno::ETIMEDOUT)
    }

    /// `EINTR`: a signal was caught.
    pub(crate) const fn interrupted() -> Self {
        Self::expected(Errno::EINTR)
    }

    /// Turns what the kernel said into our codes: `EPERM` on names and modes is `EACCES`
    /// everywhere, a size that the file system cannot express is `EOVERFLOW`, a user's share of it
    /// that is used up `ENOSPC`, and no memory for a lock `ENOMEM`.
    #[cold]
    #[inline(never)]
    pub(crate) fn from_kernel(errno: Errno, what: impl fmt::Display) -> Self {
        let (code, why) = match errno {
            Errno::EPERM => (Errno::EACCES, Errno::EACCES),
            Errno::EFBIG => (Errno::EOVERFLOW, Errno::EOVERFLOW),
            Errno::EDQUOT => (Errno::ENOSPC, errno),
            Errno::ENOLCK => (Errno::ENOMEM, errno),
            other => (other, other),
        };
        match code {
            Errno::EINTR => Self::interrupted(),
            _ => Self::new(code, format_args!("{what}: {}", why.desc())),
        }
    }

    /// The positive errno value.
    pub fn errno(&self) -> i32 {
        self.errno
    }

    /// The errno as a typed code, for matching inside the crate.
    pub(crate) fn code(&self) -> Errno {
        Errno::from_raw(self.errno)
    }

    /// The full explanation; empty for `EAGAIN`, `ETIMEDOUT` and `EINTR`. The fixed words of the
    /// code if there was no memory for it.
    pub fn text(&self) -> &str {
        match &self.text {
            Text::None => "",
            Text::Owned(text) => text,
            Text::Spilled(_) => words(self.errno),
        }
    }

    /// Hands the full explanation to `f`, also one for which there was no memory; nothing happens
    /// for an expected answer. `f` makes no errors.
    pub(crate) fn with_text<T>(&self, f: impl FnOnce(&str) -> T) -> Option<T> {
        match &self.text {
            Text::None => None,
            Text::Owned(text) => Some(f(text)),
            Text::Spilled(number) => Some(with_spilled(*number, self.errno, f)),
        }
    }
}

#[cold]
#[inline(never)]
fn with_spilled<T>(number: u32, errno: i32, f: impl FnOnce(&str) -> T) -> T {
    if SPILLED.try_with(Cell::get) != Ok(number) {
        return f(words(errno));
    }
    match SPILL.try_with(Cell::get) {
        Ok(buffer) => f(buffer.as_str()),
        Err(_) => f(words(errno)),
    }
}

impl Text {
    fn keep(buffer: &Buffer) -> Self {
        let (text, mut owned) = (buffer.as_str(), String::new());
        if owned.try_reserve_exact(text.len()).is_ok() {
            owned.push_str(text);
            return Self::Owned(owned);
        }
        Self::spill(buffer)
    }

    // Out of line, as `with_spilled`: there may be a second buffer on its stack.
    #[cold]
    #[inline(never)]
    fn spill(buffer: &Buffer) -> Self {
        let _ = SPILL.try_with(|spill| spill.set(*buffer));
        let number = SPILLED.try_with(|spilled| {
            spilled.set(spilled.get().wrapping_add(1));
            spilled.get()
        });
        Self::Spilled(number.unwrap_or(0))
    }
}

impl Clone for Error {
    fn clone(&self) -> Self {
        match self.text {
            Text::None => Self { errno: self.errno, text: Text::None },
            _ => Self::new(self.code(), self),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.with_text(|text| f.write_str(text)) {
            Some(written) => written,
            None => f.write_str(words(self.errno)),
        }
    }
}

impl std::error::Error for Error {}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        if error.text().is_empty() {
            return Self::from_raw_os_error(error.errno);
        }
        Self::new(Self::from_raw_os_error(error.errno).kind(), error)
    }
}

/// The pairs of code and fixed words behind [`words`] and `mdg_strerror`; each text ends in NUL so
/// that C can have it as it stands.
const WORDS: &[(i32, &str)] = &[
    (0, "success\0"),
    (libc::EINVAL, "invalid argument\0"),
    (libc::ENAMETOOLONG, "name too long\0"),
    (libc::ENOENT, "no such object\0"),
    (libc::EEXIST, "object exists already\0"),
    (libc::EACCES, "permission denied, or wrong end for this handle\0"),
    (libc::ELOOP, "a symbolic link stands under this name\0"),
    (libc::EBUSY, "held by another live process\0"),
    (libc::EDEADLK, "this thread holds it already\0"),
    (libc::EPERM, "this thread does not hold it\0"),
    (libc::EAGAIN, "would have to wait\0"),
    (libc::ETIMEDOUT, "timed out\0"),
    (libc::EINTR, "interrupted by a signal\0"),
    (libc::EMSGSIZE, "message does not fit\0"),
    (libc::EOVERFLOW, "a size or counter exceeds its limit\0"),
    (libc::ENOSPC, "no space left for the object\0"),
    (libc::ENOMEM, "out of memory\0"),
    (libc::EMFILE, "too many open handles or descriptors\0"),
    (libc::ENFILE, "too many open files in the system\0"),
    (libc::E2BIG, "options structure is newer than the library\0"),
    (libc::EPIPE, "end of the stream: shut down, or nobody at the other end\0"),
    (libc::EOWNERDEAD, "the peer or holder died\0"),
    (libc::EPROTO, "not such an object, or another kind, version or geometry\0"),
    (libc::EBADMSG, "contents are corrupt\0"),
    (libc::ESTALE, "object was unlinked or replaced\0"),
    (libc::EBADF, "not a live handle or descriptor\0"),
    (libc::ENOTEMPTY, "it holds items\0"),
    (libc::EOPNOTSUPP, "not between processes in different PID namespaces\0"),
    (libc::ENOSYS, "not supported on this platform or in this version\0"),
    (libc::ENOTRECOVERABLE, "internal error; the handle can only be closed\0"),
    (libc::ECANCELED, "the wait was cancelled\0"),
    (libc::EIO, "input/output error\0"),
    (libc::ENOTDIR, "a part of the path is not a directory\0"),
    (libc::EROFS, "read-only file system\0"),
    (libc::ETXTBSY, "file is a program being run\0"),
];

/// Fixed words for a positive errno, with the trailing NUL.
pub(crate) fn words_with_nul(errno: i32) -> &'static str {
    WORDS.iter().find(|(code, _)| *code == errno).map_or("unknown error\0", |(_, text)| text)
}

/// Fixed words for a positive errno.
pub(crate) fn words(errno: i32) -> &'static str {
    words_with_nul(errno).trim_end_matches('\0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_nul_terminated_once_and_distinct() {
        for (i, (code, text)) in WORDS.iter().enumerate() {
            assert!(text.ends_with('\0') && text.matches('\0').count() == 1, "{text:?}");
            assert!(WORDS[..i].iter().all(|(c, t)| c != code && t != text), "{text:?} twice");
        }
        assert_eq!(words(99_999), "unknown error");
    }

    #[test]
    fn eperm_is_reported_as_eacces_and_eintr_has_no_text() {
        assert_eq!(Error::from_kernel(Errno::EPERM, "unlink").errno(), libc::EACCES);
        assert_eq!(Error::from_kernel(Errno::EINTR, "x").text(), "");
        let quota = Error::from_kernel(Errno::EDQUOT, "x");
        assert_eq!((quota.errno(), quota.text()), (libc::ENOSPC, "x: Quota exceeded"));
        assert_eq!(Error::from_kernel(Errno::ENOLCK, "x").errno(), libc::ENOMEM);
        assert_eq!(Error::timed_out().to_string(), "timed out");
    }

    #[test]
    fn a_text_without_memory_is_kept_by_its_thread() {
        let spill = |text: &str| {
            let mut buffer = Buffer::new();
            let _ = buffer.write_str(text);
            Error { errno: libc::ENOMEM, text: Text::spill(&buffer) }
        };
        let first = spill("first");
        assert_eq!((first.text(), first.to_string().as_str()), ("out of memory", "first"));
        let second =
            spill(&Error::new(Errno::EIO, format_args!("second, after {first}")).to_string());
        assert_eq!(second.to_string(), "second, after first");
        assert_eq!(first.to_string(), "out of memory");
    }

    #[test]
    fn io_error_keeps_its_kind() {
        let io: std::io::Error = Error::new(Errno::ENOENT, "ring \"/x\": nothing there").into();
        assert_eq!(io.kind(), std::io::ErrorKind::NotFound);
        assert!(io.to_string().contains("/x"));
    }
}
