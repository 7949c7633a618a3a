//! The way in from C: pointers, strings, flags and handles become Rust, each checked once.
//!
//! This is the only file that turns handles into pointers and back.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::mem::MaybeUninit;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;

use crate::error::{Error, Result};
use crate::flags::{Access, Creation, OpenFlags};
use crate::sys::alloc;

/// Behind every opaque `mdg_x *`: a tag, then the Rust object.
///
/// The tag tells a live handle of this kind from memory that is not one (zeroed, foreign, closed)
/// as far as a look at eight bytes can.
#[repr(C)]
struct Handle<T> {
    tag: AtomicU64,
    inner: T,
}

/// Links an opaque C type with the Rust object behind it.
pub(super) trait Opaque: Sized {
    /// What the handle holds.
    type Inner;
    /// Eight bytes that say "a live handle of this kind".
    const TAG: u64;
    /// The C type's name, for messages.
    const NAME: &'static str;
}

/// A handle whose last call panicked carries this: only close takes it.
const POISONED: u64 = u64::from_le_bytes(*b"mdg!pois");
/// A handle that was closed carries this until its memory is used for something else.
const CLOSED: u64 = u64::from_le_bytes(*b"mdg!clsd");

/// Memory for a handle, and where its address goes. It comes before what the handle is to hold, so
/// that nothing is made, and has a name perhaps, that is then lost for want of memory.
pub(super) struct Blank<O: Opaque> {
    memory: Box<MaybeUninit<Handle<O::Inner>>>,
    out: *mut *mut O,
}

/// Checks a required pointer to a new handle, and takes memory for it; `ENOMEM` without any.
pub(super) fn blank<O: Opaque>(out: *mut *mut O, what: &str) -> Result<Blank<O>> {
    let out = self::out(out, what)?;
    Ok(Blank { memory: alloc::room()?, out })
}

impl<O: Opaque> Blank<O> {
    /// Gives the new handle to C. Nothing is stored unless everything before succeeded.
    ///
    /// # Safety
    /// Where the handle goes is writable.
    pub(super) unsafe fn give(self, inner: O::Inner) {
        let handle = Box::write(self.memory, Handle { tag: AtomicU64::new(O::TAG), inner });
        // SAFETY: non-null and aligned (checked by `blank`), and C says it is writable.
        unsafe { self.out.write(Box::into_raw(handle).cast()) };
    }
}

#[cold]
#[inline(never)]
fn not_live<O: Opaque>(tag: Option<u64>) -> Error {
    match tag {
        Some(POISONED) => Error::new(
            Errno::ENOTRECOVERABLE,
            format_args!("{}: an earlier call failed inside", O::NAME),
        ),
        Some(CLOSED) => {
            Error::new(Errno::EBADF, format_args!("{}: the handle was closed", O::NAME))
        }
        _ => Error::new(Errno::EBADF, format_args!("{}: not a handle of this kind", O::NAME)),
    }
}

/// The object behind a handle: `EINVAL` for NULL, `EBADF` for what is not a live one.
///
/// # Safety
/// `handle` is NULL or points to at least eight readable bytes; if it is a live handle, no other
/// thread closes it during this call.
#[inline(always)]
pub(super) unsafe fn handle<'a, O: Opaque>(handle: *const O) -> Result<&'a O::Inner> {
    if handle.is_null() {
        return Err(null(O::NAME));
    }
    let handle = handle.cast::<Handle<O::Inner>>();
    if !handle.is_aligned() {
        return Err(not_live::<O>(None));
    }
    // SAFETY: non-null and aligned; the caller vouches for eight readable bytes.
    let tag = unsafe { (*handle.cast::<AtomicU64>()).load(Ordering::Relaxed) };
    if tag != O::TAG {
        return Err(not_live::<O>(Some(tag)));
    }
    // SAFETY: the tag says that `give` made this and `close` has not taken it back.
    Ok(unsafe { &(*handle).inner })
}

/// The object behind a handle that is a live one, else `None`: [`handle`] says why.
///
/// # Safety
/// As for [`handle`].
#[inline(always)]
pub(super) unsafe fn live<'a, O: Opaque>(handle: *const O) -> Option<&'a O::Inner> {
    let handle = handle.cast::<Handle<O::Inner>>();
    if handle.is_null() || !handle.is_aligned() {
        return None;
    }
    // SAFETY: as in `handle`.
    unsafe {
        let tag = (*handle.cast::<AtomicU64>()).load(Ordering::Relaxed);
        if tag == O::TAG { Some(&(*handle).inner) } else { None }
    }
}

/// The object behind a handle that [`live`] has found to be one, in the same call.
///
/// # Safety
/// As for [`handle`]; `handle` is a live one.
#[inline(always)]
pub(super) unsafe fn known<'a, O: Opaque>(handle: *const O) -> &'a O::Inner {
    // SAFETY: the caller's promise.
    unsafe { &(*handle.cast::<Handle<O::Inner>>()).inner }
}

/// Marks a handle after a panic: what its object holds may be half-changed.
///
/// # Safety
/// As for [`handle`].
pub(super) unsafe fn poison<O: Opaque>(handle: *const O) {
    let handle = handle.cast::<AtomicU64>();
    if handle.is_null() || !handle.is_aligned() {
        return;
    }
    // SAFETY: non-null and aligned; the caller vouches for eight readable bytes, and they are
    // written only when they prove to be the tag of a live handle.
    let _ = unsafe {
        (*handle).compare_exchange(O::TAG, POISONED, Ordering::Relaxed, Ordering::Relaxed)
    };
}

/// Takes a handle back from C and drops it; NULL and what is not a live handle are left alone.
///
/// # Safety
/// As for [`take`].
pub(super) unsafe fn close<O: Opaque>(handle: *mut O) {
    // SAFETY: the caller's promise.
    drop(unsafe { take(handle) });
}

/// Takes a handle back from C: the object that was behind it. `None` for NULL and for what is not a
/// live handle.
///
/// # Safety
/// As for [`handle`]; no other thread uses the handle any more.
pub(super) unsafe fn take<O: Opaque>(handle: *mut O) -> Option<O::Inner> {
    let handle = handle.cast::<Handle<O::Inner>>();
    if handle.is_null() || !handle.is_aligned() {
        return None;
    }
    // SAFETY: non-null and aligned; the caller vouches for eight readable bytes.
    let tag = unsafe { &*handle.cast::<AtomicU64>() };
    let found = tag.load(Ordering::Relaxed);
    if (found != O::TAG && found != POISONED)
        || tag.compare_exchange(found, CLOSED, Ordering::Relaxed, Ordering::Relaxed).is_err()
    {
        return None;
    }
    // SAFETY: the tag said that `give` made this box, and the exchange makes us the only closer.
    Some(unsafe { Box::from_raw(handle) }.inner)
}

#[cold]
#[inline(never)]
fn null(what: &str) -> Error {
    Error::new(Errno::EINVAL, format_args!("{what}: NULL where a pointer is required"))
}

/// Checks a required pointer to a `T`.
#[inline(always)]
pub(super) fn pointer<T>(pointer: *const T, what: &str) -> Result<*const T> {
    if pointer.is_null() {
        return Err(null(what));
    }
    if !pointer.is_aligned() {
        return Err(Error::new(Errno::EINVAL, format_args!("{what}: misaligned pointer")));
    }
    Ok(pointer)
}

/// Checks a required pointer that the call writes through.
#[inline(always)]
pub(super) fn out<T>(out: *mut T, what: &str) -> Result<*mut T> {
    pointer(out, what).map(|_| out)
}

/// Whether [`out`] lets it pass.
#[inline(always)]
pub(super) fn is_out<T>(out: *mut T) -> bool {
    !out.is_null() && out.is_aligned()
}

/// The bytes of a required C string.
///
/// # Safety
/// `text` is NULL or a NUL-terminated string that outlives the result.
pub(super) unsafe fn string<'a>(text: *const c_char, what: &str) -> Result<&'a [u8]> {
    if text.is_null() {
        return Err(null(what));
    }
    // SAFETY: non-null; the caller vouches for the terminator.
    Ok(unsafe { CStr::from_ptr(text) }.to_bytes())
}

/// A required path.
///
/// # Safety
/// As for [`string`].
pub(super) unsafe fn path<'a>(text: *const c_char, what: &str) -> Result<&'a CStr> {
    if text.is_null() {
        return Err(null(what));
    }
    // SAFETY: non-null; the caller vouches for the terminator.
    Ok(unsafe { CStr::from_ptr(text) })
}

/// A length that Rust slices can have: `EOVERFLOW` beyond `SSIZE_MAX`.
#[inline(always)]
pub(super) fn length(len: usize, what: &str) -> Result<usize> {
    if len > isize::MAX as usize {
        return Err(Error::new(
            Errno::EOVERFLOW,
            format_args!("{what}: a length beyond SSIZE_MAX"),
        ));
    }
    Ok(len)
}

/// Input bytes; NULL is fine when there are none.
///
/// # Safety
/// `data` points to `len` readable bytes that nobody writes during the call, or `len` is 0.
pub(super) unsafe fn bytes<'a>(data: *const c_void, len: usize, what: &str) -> Result<&'a [u8]> {
    if length(len, what)? == 0 {
        return Ok(&[]);
    }
    if data.is_null() {
        return Err(null(what));
    }
    // SAFETY: non-null, at most isize::MAX; the caller vouches for the rest.
    Ok(unsafe { std::slice::from_raw_parts(data.cast(), len) })
}

/// An output buffer; NULL is fine when it is empty.
///
/// # Safety
/// `data` points to `len` writable bytes that nobody else uses during the call, or `len` is 0.
pub(super) unsafe fn buffer<'a>(data: *mut c_void, len: usize, what: &str) -> Result<&'a mut [u8]> {
    if length(len, what)? == 0 {
        return Ok(&mut []);
    }
    if data.is_null() {
        return Err(null(what));
    }
    // SAFETY: non-null, at most isize::MAX; the caller vouches for the rest.
    Ok(unsafe { std::slice::from_raw_parts_mut(data.cast(), len) })
}

/// An options structure that begins with its own size: copied as far as both sides know it.
///
/// NULL means all defaults. Bytes past what this library knows must be zero (`E2BIG`), and a size
/// that does not even hold the size field is `EINVAL`.
///
/// # Safety
/// `opts` is NULL or points to a structure whose first field tells how many bytes are readable;
/// every bit pattern, all-zero among them, is a valid `T`.
pub(super) unsafe fn options<T: Copy>(opts: *const T, what: &str) -> Result<Option<T>> {
    if opts.is_null() {
        return Ok(None);
    }
    let opts = pointer(opts, what)?;
    // SAFETY: non-null and aligned; every options structure begins with a size_t.
    let given = unsafe { opts.cast::<usize>().read() };
    if given < size_of::<usize>() || given > 1 << 16 {
        return Err(Error::new(
            Errno::EINVAL,
            format_args!("{what}: its size field says {given}; set it to sizeof the structure"),
        ));
    }
    let known = given.min(size_of::<T>());
    // SAFETY: the caller vouches for `given` readable bytes.
    let tail = unsafe { std::slice::from_raw_parts(opts.cast::<u8>().add(known), given - known) };
    if tail.iter().any(|&byte| byte != 0) {
        return Err(Error::new(
            Errno::E2BIG,
            format_args!("{what}: sets a field that this version of the library does not know"),
        ));
    }
    // SAFETY: all-zero is a valid T by contract, and `known` bytes lie in both structures.
    let copy = unsafe {
        let mut copy: T = std::mem::zeroed();
        ptr::copy_nonoverlapping(opts.cast::<u8>(), (&raw mut copy).cast::<u8>(), known);
        copy
    };
    Ok(Some(copy))
}

/// Fills a structure of the caller's that begins with its size: as far as it reaches, zeros behind
/// what this library knows, and in its first field how much was filled in.
///
/// # Safety
/// `out` is writable for as many bytes as its first field says; `T` begins with a `usize` and has no
/// padding.
pub(super) unsafe fn fill<T: Copy>(out: Option<NonNull<T>>, from: &T, what: &str) -> Result<()> {
    let out = out.ok_or_else(|| null(what))?;
    // SAFETY: the caller's promise; every such structure begins with a size_t.
    let room = unsafe { out.cast::<usize>().read() };
    if room <= size_of::<usize>() || room > 1 << 16 {
        return Err(Error::new(
            Errno::EINVAL,
            format_args!("{what}: its size field says {room}; set it to sizeof the structure"),
        ));
    }
    let known = room.min(size_of::<T>());
    // SAFETY: `known` bytes lie in both structures, and `room` in the caller's.
    unsafe {
        ptr::copy_nonoverlapping(ptr::from_ref(from).cast::<u8>(), out.cast().as_ptr(), known);
        out.cast::<usize>().write(known);
        out.cast::<u8>().add(known).write_bytes(0, room - known);
    }
    Ok(())
}

/// `oflag` of the open calls: access mode, `O_CREAT`, `O_EXCL`, and the bits in `also`.
pub(super) fn oflag(oflag: c_int, also: c_int, what: &str) -> Result<OpenFlags> {
    let known = libc::O_ACCMODE | libc::O_CREAT | libc::O_EXCL | also;
    if oflag & !known != 0 {
        return Err(Error::new(
            Errno::EINVAL,
            format_args!("{what}: oflag has unknown bits {:#x}", oflag & !known),
        ));
    }
    let access = match oflag & libc::O_ACCMODE {
        libc::O_RDONLY => Access::ReadOnly,
        libc::O_WRONLY => Access::WriteOnly,
        libc::O_RDWR => Access::ReadWrite,
        _ => {
            return Err(Error::new(
                Errno::EINVAL,
                format_args!("{what}: oflag has no access mode"),
            ));
        }
    };
    let creation = match (oflag & libc::O_CREAT != 0, oflag & libc::O_EXCL != 0) {
        (false, false) => Creation::OpenOnly,
        (true, false) => Creation::CreateOrOpen,
        (true, true) => Creation::CreateNew,
        (false, true) => {
            return Err(Error::new(Errno::EINVAL, format_args!("{what}: O_EXCL without O_CREAT")));
        }
    };
    Ok(OpenFlags { access, creation })
}

/// Permission bits for a new object.
pub(super) fn mode(mode: libc::mode_t, what: &str) -> Result<libc::mode_t> {
    if mode & !0o777 != 0 {
        return Err(Error::new(
            Errno::EINVAL,
            format_args!("{what}: mode {mode:#o} has bits other than permissions"),
        ));
    }
    Ok(mode)
}

/// A word of flags of which only `known` may be set.
pub(super) fn flags(flags: u32, known: u32, what: &str) -> Result<u32> {
    if flags & !known != 0 {
        return Err(Error::new(
            Errno::EINVAL,
            format_args!("{what}: unknown flags {:#x}", flags & !known),
        ));
    }
    Ok(flags)
}
