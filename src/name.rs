#![forbid(unsafe_code)]
//! Names of objects: POSIX names, one rule for every kind.
//!
//! `"/name"` and `"name"` mean the same. A name is any bytes but NUL and slash (one leading slash
//! apart), is not empty, `.` or `..`, and fits `NAME_MAX` together with its kind's prefix. Kinds
//! live side by side under `/dev/shm`: a segment is `NAME` (as `shm_open` has it), a semaphore
//! `sem.NAME` (as `sem_open` has it), ours are `mdg.<kind>.NAME`.

use std::ffi::CStr;
use std::fmt;

use nix::errno::Errno;

use crate::error::{Error, Result};

/// Where named objects live; fixed by the C library for `shm_open` and `sem_open`.
pub(crate) const DIRECTORY: &CStr = c"/dev/shm";

/// Begins the names of files in the making.
pub(crate) const TEMPORARY_PREFIX: &str = ".mdg.tmp.";

/// The longest file name of every file system Linux keeps shared memory on.
const NAME_MAX: usize = 255;

/// Room for the path of any object, with its NUL.
const PATH_ROOM: usize = DIRECTORY.count_bytes() + 1 + NAME_MAX + 1;

/// The family of a name: decides the file name's prefix and the word in messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Shm,
    Sem,
    /// A semaphore of ours.
    Undo,
    Mutex,
    Cond,
    Ring,
    /// As the inventory finds them.
    Other {
        prefix: &'static str,
        word: &'static str,
    },
}

impl Kind {
    const fn prefix(self) -> &'static [u8] {
        match self {
            Self::Shm => b"",
            Self::Sem => b"sem.",
            Self::Undo => b"mdg.sem.",
            Self::Mutex => b"mdg.mutex.",
            Self::Cond => b"mdg.cond.",
            Self::Ring => b"mdg.ring.",
            Self::Other { prefix, .. } => prefix.as_bytes(),
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Shm => "segment",
            Self::Sem | Self::Undo => "semaphore",
            Self::Mutex => "mutex",
            Self::Cond => "condition variable",
            Self::Ring => "ring",
            Self::Other { word, .. } => word,
        }
    }
}

/// A checked name of one kind.
#[derive(Debug, Clone)]
pub(crate) struct Name {
    kind: Kind,
    /// Ends with a NUL, and zeros behind it.
    path: [u8; PATH_ROOM],
}

impl Name {
    /// Checks `name`; `EINVAL` for its form, `ENAMETOOLONG` for its length.
    pub(crate) fn new(kind: Kind, name: &[u8]) -> Result<Self> {
        let bare = name.strip_prefix(b"/").unwrap_or(name);
        let (word, shown) = (kind.word(), name.escape_ascii());
        if bare.is_empty() || bare == b"." || bare == b".." {
            return Err(Error::new(
                Errno::EINVAL,
                format_args!("{word} name \"{shown}\": names nothing"),
            ));
        }
        if bare.contains(&b'/') || bare.contains(&0) {
            return Err(Error::new(
                Errno::EINVAL,
                format_args!("{word} name \"{shown}\": only one leading slash may stand in it"),
            ));
        }
        let limit = NAME_MAX - kind.prefix().len();
        if bare.len() > limit {
            return Err(Error::new(
                Errno::ENAMETOOLONG,
                format_args!("{word} name of {} bytes: the limit is {limit}", bare.len()),
            ));
        }
        let mut path = [0; PATH_ROOM];
        let mut rest = &mut path[..];
        for part in [DIRECTORY.to_bytes(), b"/", kind.prefix(), bare] {
            let (to, behind) = rest.split_at_mut(part.len());
            to.copy_from_slice(part);
            rest = behind;
        }
        Ok(Self { kind, path })
    }

    /// The absolute path of the object.
    pub(crate) fn path(&self) -> &CStr {
        // There is a NUL: the parts leave room for it.
        CStr::from_bytes_until_nul(&self.path).unwrap_or(c"")
    }
}

impl fmt::Display for Name {
    /// As messages show it: `ring "/items"`, bytes outside printable ASCII escaped.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let skip = DIRECTORY.to_bytes().len() + 1 + self.kind.prefix().len();
        let bare = &self.path().to_bytes()[skip..];
        write!(f, "{} \"/{}\"", self.kind.word(), bare.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_leading_slash_means_nothing() {
        for name in [&b"/items"[..], b"items"] {
            let name = Name::new(Kind::Ring, name).unwrap();
            assert_eq!(name.path(), c"/dev/shm/mdg.ring.items");
            assert_eq!(name.to_string(), "ring \"/items\"");
        }
        assert_eq!(Name::new(Kind::Sem, b"/s").unwrap().path(), c"/dev/shm/sem.s");
        assert_eq!(Name::new(Kind::Shm, b"/OS").unwrap().path(), c"/dev/shm/OS");
    }

    #[test]
    fn bad_names() {
        for name in [&b""[..], b"/", b".", b"..", b"/.", b"/..", b"//x", b"a/b", b"/a/", b"a\0b"] {
            assert_eq!(Name::new(Kind::Shm, name).unwrap_err().code(), Errno::EINVAL, "{name:?}");
        }
    }

    #[test]
    fn length_counts_the_prefix() {
        for (kind, fits) in
            [(Kind::Shm, 255), (Kind::Sem, 251), (Kind::Undo, 247), (Kind::Ring, 246)]
        {
            assert!(Name::new(kind, &vec![b'n'; fits]).is_ok());
            assert!(Name::new(kind, &[b"/", &vec![b'n'; fits][..]].concat()).is_ok());
            let error = Name::new(kind, &vec![b'n'; fits + 1]).unwrap_err();
            assert_eq!(error.code(), Errno::ENAMETOOLONG);
        }
    }

    #[test]
    fn odd_bytes_are_escaped() {
        assert_eq!(Name::new(Kind::Shm, b"a\n\xff").unwrap().to_string(), "segment \"/a\\n\\xff\"");
    }
}
