#![forbid(unsafe_code)]
//! How an object is opened: the Rust form of `oflag`.

/// The access mode of an opened object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// `O_RDONLY`: a read-only mapping; of a ring, the consuming end.
    ReadOnly,
    /// `O_WRONLY`: of a ring, the producing end.
    WriteOnly,
    /// `O_RDWR`: a writable mapping; of a ring, either end, claimed on first use.
    ReadWrite,
}

/// Whether an object may, or must, be made by this call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Creation {
    /// No `O_CREAT`: the object must exist.
    OpenOnly,
    /// `O_CREAT`: open it, or make it if nothing stands under the name.
    CreateOrOpen,
    /// `O_CREAT|O_EXCL`: make it, or fail with `EEXIST`.
    CreateNew,
}

/// Access mode and creation together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFlags {
    /// What the handle may do.
    pub access: Access,
    /// Who makes the object.
    pub creation: Creation,
}

impl OpenFlags {
    /// Both at once.
    pub const fn new(access: Access, creation: Creation) -> Self {
        Self { access, creation }
    }
}
