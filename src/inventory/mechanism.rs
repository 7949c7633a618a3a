#![forbid(unsafe_code)]
//! Which file under `/dev/shm` is what, by its name.

use crate::error::{Error, Result};
use crate::name::{DIRECTORY, Kind, Name, TEMPORARY_PREFIX};
use crate::sys::alloc;
use crate::sys::directory::Names;

/// What the name of an object says it is. The numbers are those of the C constants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Mechanism {
    /// A ring, `mdg.ring.NAME`.
    Ring = 1,
    /// A semaphore whose permits come back, `mdg.sem.NAME`.
    Semaphore = 2,
    /// A mutex, `mdg.mutex.NAME`.
    Mutex = 3,
    /// A file that is being made and has no name of its own yet, `.mdg.tmp.NAME`.
    Temporary = 5,
    /// Any other file `mdg.NAME`.
    Other = 6,
    /// A condition variable, `mdg.cond.NAME`.
    Cond = 7,
}

impl Mechanism {
    /// In the order in which a file name is compared with their prefixes.
    const ALL: [Self; 6] =
        [Self::Ring, Self::Semaphore, Self::Mutex, Self::Cond, Self::Temporary, Self::Other];

    const fn prefix(self) -> &'static str {
        match self {
            Self::Ring => "mdg.ring.",
            Self::Semaphore => "mdg.sem.",
            Self::Mutex => "mdg.mutex.",
            Self::Cond => "mdg.cond.",
            Self::Temporary => TEMPORARY_PREFIX,
            Self::Other => "mdg.",
        }
    }

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::Semaphore => "semaphore",
            Self::Mutex => "mutex",
            Self::Cond => "condition variable",
            Self::Temporary => "temporary file",
            Self::Other => "object",
        }
    }

    /// The number in C.
    pub(crate) fn number(self) -> u32 {
        self as u32
    }

    pub(crate) fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.number() == number)
    }

    /// Whether what has such a name is an object with participants.
    pub(super) fn has_participants(self) -> bool {
        matches!(self, Self::Ring | Self::Semaphore | Self::Other)
    }

    /// Whether it is a small file without participants; the rest are left behind by the dead, or in
    /// use, and nothing else.
    pub(super) fn is_area(self) -> bool {
        matches!(self, Self::Mutex | Self::Cond)
    }

    /// Checks a name as every open call does.
    pub(super) fn name(self, name: &[u8]) -> Result<Name> {
        Name::new(Kind::Other { prefix: self.prefix(), word: self.word() }, name)
    }

    /// What a file name is, and what is left of it behind the prefix.
    fn of(file: &[u8]) -> Option<(Self, &[u8])> {
        Self::ALL.into_iter().find_map(|one| {
            let rest = file.strip_prefix(one.prefix().as_bytes())?;
            (!rest.is_empty()).then_some((one, rest))
        })
    }
}

/// Everything under `/dev/shm` that has a name of ours, in the order of mechanisms and names.
pub(super) fn found() -> Result<Vec<(Mechanism, Vec<u8>)>> {
    let refused = |errno| Error::from_kernel(errno, "the directory of shared memory");
    let mut found = Vec::new();
    let mut names = Names::of(DIRECTORY).map_err(refused)?;
    while let Some(file) = names.next().map_err(refused)? {
        if let Some((mechanism, name)) = Mechanism::of(file) {
            alloc::push(&mut found, (mechanism, alloc::concat(&[b"/", name])?))?;
        }
    }
    // No two are the same, and a stable sort would allocate.
    found.sort_unstable();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_back() {
        for (file, mechanism, name) in [
            (&b"mdg.ring.a"[..], Mechanism::Ring, &b"a"[..]),
            (b"mdg.sem.a.b", Mechanism::Semaphore, b"a.b"),
            (b"mdg.mutex.x", Mechanism::Mutex, b"x"),
            (b"mdg.cond.x", Mechanism::Cond, b"x"),
            (b".mdg.tmp.12.0", Mechanism::Temporary, b"12.0"),
            (b"mdg.new.x", Mechanism::Other, b"new.x"),
        ] {
            assert_eq!(Mechanism::of(file), Some((mechanism, name)));
            let path = [DIRECTORY.to_bytes(), b"/", file].concat();
            assert_eq!(mechanism.name(name).unwrap().path().to_bytes(), path);
            assert_eq!(Mechanism::from_number(mechanism.number()), Some(mechanism));
        }
        for file in [&b"sem.a"[..], b"OS", b"mdg", b".mdg.tmp.", b"mdgx.ring.a"] {
            assert_eq!(Mechanism::of(file), None);
        }
        assert_eq!(Mechanism::from_number(0), None);
    }
}
