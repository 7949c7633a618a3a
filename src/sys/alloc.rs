//! Memory from the heap that may be refused: every allocation under a C entry comes from here.
//!
//! The standard library's own containers abort the process when there is no memory, which a library
//! must not do to its host. What is here returns `ENOMEM` instead.

// There is room for what is pushed here.
#![allow(clippy::disallowed_methods)]

use std::alloc::Layout;
use std::ffi::CString;
use std::fmt;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering, fence};

use nix::errno::Errno;

use crate::error::{Error, Result};

#[cold]
fn refused(bytes: usize) -> Error {
    Error::new(Errno::ENOMEM, format_args!("no memory for {bytes} bytes"))
}

/// Room for one value, not initialised.
pub(crate) fn room<T>() -> Result<Box<MaybeUninit<T>>> {
    let layout = Layout::new::<T>();
    const { assert!(size_of::<T>() > 0) };
    // SAFETY: the layout has a size, see above.
    let at = unsafe { std::alloc::alloc(layout) };
    let at = NonNull::new(at).ok_or_else(|| refused(layout.size()))?;
    // SAFETY: allocated just now by the allocator of boxes, with the layout of the type.
    Ok(unsafe { Box::from_raw(at.as_ptr().cast()) })
}

/// An empty list that takes `count` values without allocating again.
pub(crate) fn list<T>(count: usize) -> Result<Vec<T>> {
    let mut list = Vec::new();
    list.try_reserve_exact(count).map_err(|_| refused(count.saturating_mul(size_of::<T>())))?;
    Ok(list)
}

/// As many zeros.
pub(crate) fn zeros(count: usize) -> Result<Vec<u8>> {
    let mut zeros = list(count)?;
    zeros.resize(count, 0);
    Ok(zeros)
}

/// Appends a value.
pub(crate) fn push<T>(list: &mut Vec<T>, value: T) -> Result<()> {
    list.try_reserve(1).map_err(|_| refused(size_of::<T>()))?;
    list.push(value);
    Ok(())
}

/// All parts, one after the other.
pub(crate) fn concat(parts: &[&[u8]]) -> Result<Vec<u8>> {
    let mut bytes = list(parts.iter().map(|part| part.len()).sum())?;
    for part in parts {
        bytes.extend_from_slice(part);
    }
    Ok(bytes)
}

/// All parts, one after the other, as a C string; `EINVAL` if there is a NUL in them.
pub(crate) fn c_string(parts: &[&[u8]]) -> Result<CString> {
    let mut bytes = list(parts.iter().map(|part| part.len()).sum::<usize>() + 1)?;
    for part in parts {
        bytes.extend_from_slice(part);
    }
    bytes.push(0);
    // Filled to the last byte, so nothing is allocated again.
    CString::from_vec_with_nul(bytes).map_err(|_| Error::new(Errno::EINVAL, "a NUL in a path"))
}

/// What a value looks like.
pub(crate) fn text(shown: impl fmt::Display) -> Result<String> {
    let mut text = String::new();
    append(&mut text, shown)?;
    Ok(text)
}

/// Appends what a value looks like. On an error a part of it may have been appended.
pub(crate) fn append(text: &mut String, shown: impl fmt::Display) -> Result<()> {
    struct Growing<'a>(&'a mut String);
    impl fmt::Write for Growing<'_> {
        fn write_str(&mut self, more: &str) -> fmt::Result {
            self.0.try_reserve(more.len()).map_err(|_| fmt::Error)?;
            self.0.push_str(more);
            Ok(())
        }
    }
    fmt::Write::write_fmt(&mut Growing(text), format_args!("{shown}"))
        .map_err(|fmt::Error| Error::new(Errno::ENOMEM, "no memory for a text"))
}

/// A value with many owners, in threads of this process: [`std::sync::Arc`] without weak references,
/// and with a constructor that can fail.
pub(crate) struct Arc<T>(NonNull<Counted<T>>);

struct Counted<T> {
    owners: AtomicUsize,
    value: T,
}

// SAFETY: an owner reaches the value by shared reference, and the last one drops it: both may be in
// any thread.
unsafe impl<T: Send + Sync> Send for Arc<T> {}
// SAFETY: as above.
unsafe impl<T: Send + Sync> Sync for Arc<T> {}

/// Memory for a value with many owners.
pub(crate) struct Room<T>(Box<MaybeUninit<Counted<T>>>);

impl<T> Room<T> {
    pub(crate) fn fill(self, value: T) -> Arc<T> {
        let counted = Box::write(self.0, Counted { owners: AtomicUsize::new(1), value });
        Arc(NonNull::from(Box::leak(counted)))
    }
}

impl<T> Arc<T> {
    pub(crate) fn new(value: T) -> Result<Self> {
        Self::room().map(|room| room.fill(value))
    }

    /// For a value that must not be lost for want of memory: this comes before it.
    pub(crate) fn room() -> Result<Room<T>> {
        room().map(Room)
    }

    fn counted(&self) -> &Counted<T> {
        // SAFETY: `new` made it, and it lives as long as any owner.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Clone for Arc<T> {
    fn clone(&self) -> Self {
        // Relaxed: whoever clones is an owner, so that the value cannot go meanwhile. More than
        // isize::MAX owners do not fit into memory.
        self.counted().owners.fetch_add(1, Ordering::Relaxed);
        Self(self.0)
    }
}

impl<T> Drop for Arc<T> {
    fn drop(&mut self) {
        // Release: pairs with the fence below: what this owner did to the value is done when it goes.
        if self.counted().owners.fetch_sub(1, Ordering::Release) > 1 {
            return;
        }
        // Pairs with the Release above, of every other owner.
        fence(Ordering::Acquire);
        // SAFETY: `new` made the box, and this was its last owner.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

impl<T> Deref for Arc<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.counted().value
    }
}

impl<T: fmt::Debug> fmt::Debug for Arc<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: AsFd> AsFd for Arc<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        (**self).as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_owner_drops_the_value() {
        let watch = std::sync::Arc::new(());
        let first = Arc::new(watch.clone()).unwrap();
        let second = first.clone();
        assert_eq!(std::sync::Arc::strong_count(&second), 2);
        let other = std::thread::spawn(move || drop(first));
        drop(second);
        other.join().unwrap();
        assert_eq!(std::sync::Arc::strong_count(&watch), 1);
    }

    #[test]
    fn what_no_memory_can_hold_is_refused() {
        assert_eq!(list::<u64>(usize::MAX / 16).unwrap_err().code(), Errno::ENOMEM);
        assert_eq!(list::<u64>(usize::MAX).unwrap_err().code(), Errno::ENOMEM);
    }

    #[test]
    fn texts_and_paths() {
        let mut text = text(format_args!("{}-{}", 1, "two")).unwrap();
        append(&mut text, '!').unwrap();
        assert_eq!(text, "1-two!");
        assert_eq!(c_string(&[b"/dev", b"/shm"]).unwrap().as_c_str(), c"/dev/shm");
        assert_eq!(c_string(&[b"a\0b"]).unwrap_err().code(), Errno::EINVAL);
        assert_eq!(concat(&[b"a", b"", b"bc"]).unwrap(), b"abc");
        let mut list = list(1).unwrap();
        push(&mut list, 1).unwrap();
        push(&mut list, 2).unwrap();
        assert_eq!(list, [1, 2]);
    }
}
