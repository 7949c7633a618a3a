//! Objects that lie in a segment, beside others and beside whatever else its users put there.
//!
//! Such an object has the layout of any other, from its offset on, and its lock bytes on the
//! segment's file, at a place that follows from the offset. It has no name; it is made where nobody
//! uses one, and whoever looks for it at that offset finds it complete or not at all: the magic
//! number goes first when it is made and comes last.
//!
//! Killed while making, a process leaves a place without an object; the next one makes it.

use std::sync::atomic::Ordering;

use nix::errno::Errno;

use super::geometry::Geometry;
use super::open::{Object, Place};
use super::participant::LOCK_BYTES;
use super::region::{Region, Shared};
use super::superblock::{SUPERBLOCK_LEN, Superblock};
use crate::error::{Error, Result};
use crate::shm::{Mapping, Shm, named};
use crate::sync::atomic::AtomicU64;
use crate::sys::alloc::{self, Arc};
use crate::sys::kept::{self, Kept};
use crate::sys::lock::{self, Anchor};

/// Objects begin at multiples of this, and what they take up is rounded up to it. A page, so that
/// each can be mapped by itself, and so that a quarter of it holds no lock bytes of the next one.
const EMBED_ALIGN: u64 = 4096;

/// The first bytes of an object: its superblock as words, the magic number first.
#[repr(C)]
struct Head([AtomicU64; SUPERBLOCK_LEN / 8]);

// SAFETY: repr(C), atomics only.
unsafe impl Shared for Head {}

/// Bytes that an object takes up in a segment; `None` when no memory is that large.
pub(crate) fn footprint(geometry: &Geometry) -> Option<u64> {
    let total = geometry.total_size()?.checked_next_multiple_of(EMBED_ALIGN)?;
    (total <= isize::MAX as u64).then_some(total)
}

impl Object {
    /// Makes an object, a `word`, at `offset` of a segment, and has `build` attach to it and make a
    /// handle of it: until then nobody else makes one there.
    pub(crate) fn init_in<T>(
        segment: &Shm,
        offset: usize,
        word: &str,
        geometry: Geometry,
        build: impl FnOnce(Self) -> Result<T>,
    ) -> Result<T> {
        let what = describe(word, segment, offset)?;
        let file = check(segment, offset, &what)?;
        let offset = offset as u64;
        let size = footprint(&geometry).unwrap_or(u64::MAX);
        let descriptor = file.checked(&what)?;
        let room = (named::status(descriptor, &what)?.st_size as u64).saturating_sub(offset);
        if size > room {
            return Err(Error::new(
                Errno::ENOSPC,
                format_args!("{what}: it needs {size} bytes, the segment has {room} from there"),
            ));
        }
        let refused = |errno| kept::refused(errno, &what);
        let anchor = Anchor::new(file.clone(), offset);
        // A description of its own: dropping it, when `build` has come back, frees the byte.
        let _admin = anchor.lock_for_now(lock::ADMIN).map_err(refused)?.ok_or_else(|| {
            Error::new(Errno::EBUSY, format_args!("{what}: another process is making one there"))
        })?;
        let in_use = || {
            anchor.is_any_held(LOCK_BYTES).then(|| {
                Error::new(Errno::EBUSY, format_args!("{what}: living handles use one there"))
            })
        };
        if let Some(error) = in_use() {
            return Err(error);
        }
        let region = Region::new(Mapping::part(file.checked(&what)?, offset, size as usize, true)?);
        let place = region.bytes(0, size);
        let (Some(head), Some(first)) = (region.view::<Head>(0), place) else {
            return Err(Error::new(Errno::EINVAL, format_args!("{what}: too short")));
        };
        // An object that is there ends with its magic number. Who attaches to it takes a lock, then
        // looks at the number again (`still_there`); this takes the number away, then looks at the
        // locks again: one of the two finds out, and stores nothing.
        let magic = head.0[0].swap(0, Ordering::SeqCst);
        if let Some(error) = in_use() {
            head.0[0].store(magic, Ordering::SeqCst);
            return Err(error);
        }
        // SAFETY: `size` bytes are mapped from there, and nobody uses them: no lock of an object at
        // this place is held, and what else the segment's users keep there they have given up by
        // asking for this.
        unsafe { first.as_ptr().write_bytes(0, size as usize) };
        let superblock = Superblock::new(geometry);
        let bytes = superblock.encode();
        let words = bytes.chunks_exact(8).zip(&head.0).rev();
        for (bytes, word) in words {
            // Native order: bytes as they are.
            let value = bytes.try_into().map_or(0, u64::from_ne_bytes);
            // Release: whoever sees the magic number, the last, sees what it stands for.
            word.store(value, Ordering::Release);
        }
        let made = Self::existing_in(file.clone(), Place::Segment(offset), true, &what);
        let built = made.and_then(build);
        // Nothing is left of what could not be finished, unless somebody has come to it meanwhile.
        if built.is_err() {
            let magic = head.0[0].swap(0, Ordering::SeqCst);
            if anchor.is_any_held(LOCK_BYTES) {
                head.0[0].store(magic, Ordering::SeqCst);
            }
        }
        built
    }

    /// Whether the object is still the one that was opened: in a segment, another may have been made
    /// in its place before this process had the byte of a slot. `ESTALE` if so. Who holds such a byte
    /// and has asked may store to the object: from then on nobody makes another.
    pub(super) fn still_there(&self) -> Result<()> {
        let head = self.region().view::<Head>(0);
        let same = head.is_some_and(|head| {
            let now = head.0.iter().map(|word| word.load(Ordering::SeqCst).to_ne_bytes());
            now.flatten().eq(self.superblock().encode())
        });
        if same {
            return Ok(());
        }
        Err(Error::new(
            Errno::ESTALE,
            format_args!("{}: another is being made, or was made, in its place", self.what()),
        ))
    }

    /// Opens the object, a `word`, at `offset` of a segment.
    pub(crate) fn attach_in(
        segment: &Shm,
        offset: usize,
        word: &str,
        check_found: &dyn Fn(&Superblock, &str) -> Result<()>,
    ) -> Result<Self> {
        let what = describe(word, segment, offset)?;
        let file = check(segment, offset, &what)?.clone();
        let object = Self::existing_in(file, Place::Segment(offset as u64), true, &what)?;
        check_found(object.superblock(), &what)?;
        Ok(object)
    }
}

fn describe(word: &str, segment: &Shm, offset: usize) -> Result<String> {
    alloc::text(format_args!("{word} at {offset} of {}", segment.what()))
}

/// Whether an object may lie there.
fn check<'a>(segment: &'a Shm, offset: usize, what: &str) -> Result<&'a Arc<Kept>> {
    if !(offset as u64).is_multiple_of(EMBED_ALIGN) || offset as u64 > lock::BASE {
        return Err(Error::new(
            Errno::EINVAL,
            format_args!("{what}: the offset must be a multiple of {EMBED_ALIGN}"),
        ));
    }
    if !segment.is_writable() {
        return Err(Error::new(Errno::EACCES, format_args!("{what}: mapped read-only")));
    }
    if !named::is_regular(&named::status(segment.file().checked(what)?, what)?) {
        return Err(Error::new(Errno::EPROTO, format_args!("{what}: a device has no locks")));
    }
    Ok(segment.file())
}
