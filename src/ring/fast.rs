//! The way of one item into a ring and out of it, by the kind of the ring and the size of its items:
//! one for both faces. What needs neither waiting nor failing is in `straight`; all else is the slow
//! path of the [`Face`].
//!
//! The functions are small and `extern "C"`, which cannot unwind, and each ends with the call of the
//! next one. So the fast paths need no stack frame: one register saved is a store to one more line
//! between two lines of the ring.

use super::engine::Engine;
use super::handle::Ring;
use super::straight::{ForTwo, Found};

/// [`Face::push_slowly`] and its like for a caller that takes the slow path itself.
pub(super) const SLOWLY: i32 = i32::MIN;

/// A face of the library: how it refers to a ring, and what it does off the fast path.
pub(crate) trait Face {
    /// What a call is made with.
    type Handle: Copy;

    /// The ring behind a handle.
    ///
    /// # Safety
    /// `handle` is a live one, and stays so as long as the result is used.
    unsafe fn ring<'a>(handle: Self::Handle) -> &'a Ring;

    /// What a call that may not wait returns when it would have to.
    fn would_block() -> i32;

    /// Pushes when that has to wait, or to fail.
    ///
    /// # Safety
    /// As for [`push`].
    unsafe extern "C" fn push_slowly(handle: Self::Handle, item: *const u8, timeout_ns: i64)
    -> i32;

    /// Pops when that has to wait, or to fail.
    ///
    /// # Safety
    /// As for [`pop`].
    unsafe extern "C" fn pop_slowly(handle: Self::Handle, item: *mut u8, timeout_ns: i64) -> i32;
}

/// Calls from Rust, which take the slow path themselves: it returns more than a number.
pub(super) enum Rust {}

impl Face for Rust {
    type Handle = *const Ring;

    #[inline(always)]
    unsafe fn ring<'a>(handle: *const Ring) -> &'a Ring {
        // SAFETY: the caller's promise.
        unsafe { &*handle }
    }

    fn would_block() -> i32 {
        -(nix::errno::Errno::EAGAIN as i32)
    }

    unsafe extern "C" fn push_slowly(_: *const Ring, _: *const u8, _: i64) -> i32 {
        SLOWLY
    }

    unsafe extern "C" fn pop_slowly(_: *const Ring, _: *mut u8, _: i64) -> i32 {
        SLOWLY
    }
}

/// A `timeout_ns` of a call that does not wait.
const NOWAIT: i64 = 0;

/// Pushes one item. 0, or what the face returns.
///
/// # Safety
/// `handle` is a live one of this thread; `item` is readable for an item.
#[inline(always)]
pub(crate) unsafe fn push<F: Face>(handle: F::Handle, item: *const u8, timeout_ns: i64) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        let ring = F::ring(handle);
        if !ring.has_room_for(1) {
            return push_straight::<F>(handle, item, timeout_ns);
        }
        if ring.item_size() != 8 {
            return push_sized::<F>(handle, item);
        }
        ring.push_word(item)
    }
}

/// Pops one item. 0, or what the face returns.
///
/// # Safety
/// `handle` is a live one of this thread; `item` is writable for an item.
#[inline(always)]
pub(crate) unsafe fn pop<F: Face>(handle: F::Handle, item: *mut u8, timeout_ns: i64) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        let ring = F::ring(handle);
        if !ring.has_items(1) {
            return pop_straight::<F>(handle, item, timeout_ns);
        }
        if ring.item_size() != 8 {
            return pop_sized::<F>(handle, item);
        }
        ring.pop_word(item)
    }
}

/// [`push`] of an item of another size than 8, with room for it, in a ring for two. Items made of
/// blocks need no stack, which doubles the rate at which a producer of 64-byte items writes.
///
/// # Safety
/// As for [`push`]; there is room.
#[inline(never)]
unsafe extern "C" fn push_sized<F: Face>(handle: F::Handle, item: *const u8) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        let ring = F::ring(handle);
        if !ring.has_blocks() {
            return push_any::<F>(handle, item);
        }
        ring.push_sized::<true>(item)
    }
}

/// As [`push_sized`], for items of any size.
///
/// # Safety
/// As for [`push_sized`].
#[inline(never)]
unsafe extern "C" fn push_any<F: Face>(handle: F::Handle, item: *const u8) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { F::ring(handle).push_sized::<false>(item) }
}

/// [`pop`] of an item of another size than 8 that is there, in a ring for two.
///
/// # Safety
/// As for [`pop`]; there is an item.
#[inline(never)]
unsafe extern "C" fn pop_sized<F: Face>(handle: F::Handle, item: *mut u8) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        let ring = F::ring(handle);
        if !ring.has_blocks() || ring.has_large_items() {
            return pop_any::<F>(handle, item);
        }
        ring.pop_sized::<true>(item)
    }
}

/// As [`pop_sized`], for items of any size.
///
/// # Safety
/// As for [`pop_sized`].
#[inline(never)]
unsafe extern "C" fn pop_any<F: Face>(handle: F::Handle, item: *mut u8) -> i32 {
    // SAFETY: the caller's promise.
    unsafe { F::ring(handle).pop_sized::<false>(item) }
}

/// [`push`] of a ring of another kind, or of one for two that is full as far as is known.
///
/// # Safety
/// As for [`push`].
#[inline(never)]
unsafe extern "C" fn push_straight<F: Face>(
    handle: F::Handle,
    item: *const u8,
    timeout_ns: i64,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        let ring = F::ring(handle);
        if !matches!(ring.engine, Engine::Mpmc { .. }) {
            return push_to_all::<F>(handle, item, timeout_ns);
        }
        if ring.item_size() != 8 {
            return push_straight_sized::<F>(handle, item, timeout_ns);
        }
        match ring.push_straight::<true>(item) {
            Some(done) => done,
            None => push_straight_sized::<F>(handle, item, timeout_ns),
        }
    }
}

/// As [`push_straight`], where many push, for items of any size.
///
/// # Safety
/// As for [`push`].
#[inline(never)]
unsafe extern "C" fn push_straight_sized<F: Face>(
    handle: F::Handle,
    item: *const u8,
    timeout_ns: i64,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        match F::ring(handle).push_straight::<false>(item) {
            Some(done) => done,
            None => F::push_slowly(handle, item, timeout_ns),
        }
    }
}

/// [`push`] of a broadcast that waits for its consumers, or evicts them; else the slow path.
///
/// # Safety
/// As for [`push`].
#[inline(never)]
unsafe extern "C" fn push_to_all<F: Face>(
    handle: F::Handle,
    item: *const u8,
    timeout_ns: i64,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        let ring = F::ring(handle);
        if ring.item_size() != 8 {
            return push_to_all_sized::<F>(handle, item, timeout_ns);
        }
        match ring.push_to_all::<true>(item) {
            Some(done) => done,
            None => F::push_slowly(handle, item, timeout_ns),
        }
    }
}

/// As [`push_to_all`], for items of any size.
///
/// # Safety
/// As for [`push`].
#[inline(never)]
unsafe extern "C" fn push_to_all_sized<F: Face>(
    handle: F::Handle,
    item: *const u8,
    timeout_ns: i64,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        match F::ring(handle).push_to_all::<false>(item) {
            Some(done) => done,
            None => F::push_slowly(handle, item, timeout_ns),
        }
    }
}

/// [`pop`] of a ring of another kind, or of one for two that is empty as far as is known.
///
/// # Safety
/// As for [`pop`].
#[inline(never)]
unsafe extern "C" fn pop_straight<F: Face>(
    handle: F::Handle,
    item: *mut u8,
    timeout_ns: i64,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        let ring = F::ring(handle);
        if !matches!(ring.engine, Engine::Mpmc { .. }) {
            return pop_elsewhere::<F>(handle, item, timeout_ns);
        }
        if ring.item_size() != 8 {
            return pop_straight_sized::<F>(handle, item, timeout_ns);
        }
        match ring.pop_straight::<true>(item) {
            Some(done) => done,
            None => pop_nothing::<F>(handle, item, timeout_ns),
        }
    }
}

/// [`pop`] of items of eight bytes, where many pop, that did not go straight ahead: the ring may be
/// empty, or others are at it.
///
/// # Safety
/// As for [`pop`].
#[inline(never)]
unsafe extern "C" fn pop_nothing<F: Face>(
    handle: F::Handle,
    item: *mut u8,
    timeout_ns: i64,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        if timeout_ns == NOWAIT && F::ring(handle).is_plainly_empty() {
            return F::would_block();
        }
        pop_straight_sized::<F>(handle, item, timeout_ns)
    }
}

/// As [`pop_straight`], where many pop, for items of any size.
///
/// # Safety
/// As for [`pop`].
#[inline(never)]
unsafe extern "C" fn pop_straight_sized<F: Face>(
    handle: F::Handle,
    item: *mut u8,
    timeout_ns: i64,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        let ring = F::ring(handle);
        match ring.pop_straight::<false>(item) {
            Some(done) => done,
            None if timeout_ns == NOWAIT && ring.is_plainly_empty() => F::would_block(),
            None => F::pop_slowly(handle, item, timeout_ns),
        }
    }
}

/// [`pop`] of a ring for two, a broadcast, or a ring of which the slow path is the shorter one.
///
/// # Safety
/// As for [`pop`].
#[inline(never)]
unsafe extern "C" fn pop_elsewhere<F: Face>(
    handle: F::Handle,
    item: *mut u8,
    timeout_ns: i64,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        if matches!(F::ring(handle).engine, Engine::Spsc) {
            return pop_at_heels::<F>(handle, item, timeout_ns);
        }
        pop_as_all::<F>(handle, item, timeout_ns)
    }
}

/// [`pop`] of a ring for two by a consumer that has gone through all it knew of.
///
/// # Safety
/// As for [`pop`].
#[inline(never)]
unsafe extern "C" fn pop_at_heels<F: Face>(
    handle: F::Handle,
    item: *mut u8,
    timeout_ns: i64,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        let ring = F::ring(handle);
        if timeout_ns == NOWAIT {
            match ring.pop_at_heels(item) {
                Some(Found::One(done)) => return done,
                Some(Found::Nothing) => return F::would_block(),
                None => {}
            }
        } else if let Some(done) = ring.pop_in_a_moment(item) {
            return done;
        }
        F::pop_slowly(handle, item, timeout_ns)
    }
}

/// [`pop`] of a broadcast that waits for its consumers; else the slow path.
///
/// # Safety
/// As for [`pop`].
#[inline(never)]
unsafe extern "C" fn pop_as_all<F: Face>(handle: F::Handle, item: *mut u8, timeout_ns: i64) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        let ring = F::ring(handle);
        if ring.item_size() != 8 {
            return pop_as_all_sized::<F>(handle, item, timeout_ns);
        }
        match ring.pop_as_all::<true>(item) {
            Some(done) => done,
            None => F::pop_slowly(handle, item, timeout_ns),
        }
    }
}

/// As [`pop_as_all`], for items of any size.
///
/// # Safety
/// As for [`pop`].
#[inline(never)]
unsafe extern "C" fn pop_as_all_sized<F: Face>(
    handle: F::Handle,
    item: *mut u8,
    timeout_ns: i64,
) -> i32 {
    // SAFETY: the caller's promise.
    unsafe {
        match F::ring(handle).pop_as_all::<false>(item) {
            Some(done) => done,
            None => F::pop_slowly(handle, item, timeout_ns),
        }
    }
}
