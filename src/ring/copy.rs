//! Copying items into and out of a ring.
//!
//! The two directions differ. A producer has usually just filled the item with 8-byte stores, which
//! still stand in the processor's store buffer behind stores to the ring's contended lines: an 8-byte
//! load is forwarded from there, a wider one must wait until the buffer has drained. So a producer
//! loads word by word; it stores two words at a time, as room in that buffer is what it runs out of
//! first. A consumer's bytes come from the other processor, and its own wide stores
//! forward to any narrower load that follows: it copies in wide pieces.

use std::arch::asm;
use std::ptr;
#[cfg(target_arch = "x86_64")]
use std::sync::atomic::{AtomicU8, Ordering};

/// Longest run of bytes that is copied here; longer ones are the C library's, which knows the
/// machine's string instructions and does better from a few KiB on.
const SHORT: usize = 1024;

/// Bytes of a block: what is moved in one turn.
const BLOCK: usize = 32;

/// Whether a copy of `len` bytes is short and of whole blocks.
#[inline(always)]
pub(super) fn is_blocks(len: usize) -> bool {
    len <= SHORT && len.is_multiple_of(BLOCK)
}

/// As [`copy_in`], for whole blocks. Leaves out all that other lengths need, and with it the
/// registers that a function would have to save on the stack.
///
/// # Safety
/// As for [`copy_in`]; `is_blocks(len)`, and not 0.
#[inline(always)]
pub(super) unsafe fn copy_blocks_in(mut to: *mut u8, mut from: *const u8, len: usize) {
    #[cfg(loom)]
    crate::sync::model::copied(to, from, len);
    // SAFETY: `end` is right behind the item; whole blocks end there.
    unsafe {
        let end = from.add(len);
        loop {
            pair_at(to, from, 0);
            pair_at(to, from, 16);
            (to, from) = (to.add(BLOCK), from.add(BLOCK));
            if from == end {
                break;
            }
        }
    }
}

/// As [`copy_out`], for whole blocks.
///
/// # Safety
/// As for [`copy_out`]; `is_blocks(len)`, and not 0.
#[inline(always)]
pub(super) unsafe fn copy_blocks_out(mut to: *mut u8, mut from: *const u8, len: usize) {
    #[cfg(loom)]
    crate::sync::model::copied(to, from, len);
    let mut left = len;
    // SAFETY: the last whole block ends with the item. The empty instruction touches nothing and
    // keeps the loop from becoming a call.
    unsafe {
        loop {
            move_at::<[u64; 2]>(to, from, 0);
            move_at::<[u64; 2]>(to, from, 16);
            (to, from) = (to.add(BLOCK), from.add(BLOCK));
            left -= BLOCK;
            asm!("/* {0} */", inout(reg) left, options(nomem, nostack, preserves_flags));
            if left == 0 {
                break;
            }
        }
    }
}

/// Copies one item, or a run of them, into the ring.
///
/// # Safety
/// `from` is readable and `to` writable for `len` bytes, and they do not overlap.
#[inline(always)]
pub(super) unsafe fn copy_in(to: *mut u8, from: *const u8, len: usize) {
    #[cfg(loom)]
    crate::sync::model::copied(to, from, len);
    // SAFETY: the caller's promise, passed on.
    unsafe {
        if len == 8 {
            move_at::<u64>(to, from, 0);
        } else if len <= SHORT {
            words(to, from, len);
        } else {
            ptr::copy_nonoverlapping(from, to, len);
        }
    }
}

/// Copies one item, or a run of them, out of the ring.
///
/// # Safety
/// As for [`copy_in`].
#[inline(always)]
pub(super) unsafe fn copy_out(to: *mut u8, from: *const u8, len: usize) {
    #[cfg(loom)]
    crate::sync::model::copied(to, from, len);
    // SAFETY: the caller's promise, passed on.
    unsafe {
        if len == 8 {
            move_at::<u64>(to, from, 0);
        } else if len <= SHORT {
            pieces(to, from, len);
        } else {
            ptr::copy_nonoverlapping(from, to, len);
        }
    }
}

/// Asks for the line at `at`, to be read soon: a hint, which neither waits nor fails, wherever `at` is.
#[inline(always)]
pub(super) fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the instruction touches nothing, and ignores addresses that are not mapped.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Bytes of a line, and the most that are asked for ahead.
const LINE: usize = 64;
const MOST_AHEAD: usize = 1024;

/// As [`prefetch`], for `len` bytes, or the first of them.
#[inline(always)]
pub(super) fn prefetch_run(at: *const u8, len: usize) {
    for line in (0..len.min(MOST_AHEAD)).step_by(LINE) {
        prefetch(at.wrapping_add(line));
    }
}

/// As [`prefetch_run`], for lines that are to be written soon: they are taken away from whoever has them.
#[inline(always)]
pub(super) fn prefetch_run_to_write(at: *mut u8, len: usize) {
    for line in (0..len.min(MOST_AHEAD)).step_by(LINE) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the instruction changes nothing, and ignores addresses that are not mapped (AMD64
        // manual, volume 3, and Intel SDM, volume 2: PREFETCHW). All of AMD's 64-bit processors know it;
        // Intel's do, or have a no-op in its place, since 2006.
        unsafe {
            let at = at.wrapping_add(line);
            asm!("prefetchw byte ptr [{0}]", in(reg) at, options(nostack, preserves_flags, readonly));
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (at, line);
    }
}

/// Whether the processor has the instruction of [`flush_run`]. Asking takes long in a virtual machine, so
/// the answer is kept; no lock is involved, which a fork might leave taken.
#[cfg(target_arch = "x86_64")]
pub(super) fn can_flush() -> bool {
    const UNKNOWN: u8 = 0;
    const NO: u8 = 1;
    const YES: u8 = 2;
    static ANSWER: AtomicU8 = AtomicU8::new(UNKNOWN);
    // Relaxed: who asks at the same time finds the same.
    match ANSWER.load(Ordering::Relaxed) {
        UNKNOWN => {
            // CLFLUSHOPT: bit 23 of EBX in leaf 7 (Intel SDM, volume 2, CPUID).
            // SAFETY: every 64-bit x86 processor has CPUID. (It is safe to call since Rust 1.93 or so.)
            #[allow(unused_unsafe)]
            let can = unsafe {
                use std::arch::x86_64::{__cpuid, __cpuid_count};
                __cpuid(0).eax >= 7 && __cpuid_count(7, 0).ebx & 1 << 23 != 0
            };
            ANSWER.store(if can { YES } else { NO }, Ordering::Relaxed);
            can
        }
        answer => answer == YES,
    }
}

/// Elsewhere nobody has measured what such an instruction does.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn can_flush() -> bool {
    false
}

/// Pushes the lines of `len` bytes out of all caches, to memory.
///
/// # Safety
/// The bytes are readable, and [`can_flush`] has said yes.
pub(super) unsafe fn flush_run(at: *const u8, len: usize) {
    for line in (0..len).step_by(LINE) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: to the program this is a load of one byte inside (Intel SDM, volume 2: CLFLUSHOPT).
        unsafe {
            asm!(
                "clflushopt byte ptr [{0}]",
                in(reg) at.add(line),
                options(nostack, preserves_flags, readonly),
            );
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (at, line);
    }
}

/// Moves one `T`.
///
/// # Safety
/// As for [`copy_in`], with the bytes of a `T` at `at`.
#[inline(always)]
unsafe fn move_at<T>(to: *mut u8, from: *const u8, at: usize) {
    // SAFETY: the caller's promise.
    unsafe { to.add(at).cast::<T>().write_unaligned(from.add(at).cast::<T>().read_unaligned()) };
}

/// Moves eight bytes, by themselves.
///
/// # Safety
/// As for [`copy_in`], with eight bytes at `at`.
#[inline(always)]
unsafe fn word_at(to: *mut u8, from: *const u8, at: usize) {
    // SAFETY: the caller's promise; the empty instruction touches nothing. It keeps the compiler
    // from seeing a copy, which it would join into wider moves or a call of memcpy.
    unsafe {
        let mut word = from.add(at).cast::<u64>().read_unaligned();
        asm!("/* {0} */", inout(reg) word, options(nomem, nostack, preserves_flags));
        to.add(at).cast::<u64>().write_unaligned(word);
    }
}

/// Moves sixteen bytes that are loaded as two words and stored as one piece.
///
/// # Safety
/// As for [`copy_in`], with sixteen bytes at `at`.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn pair_at(to: *mut u8, from: *const u8, at: usize) {
    // SAFETY: the caller's promise; the instructions load the sixteen bytes and nothing else.
    unsafe {
        let pair: std::arch::x86_64::__m128i;
        asm!(
            "movq {pair}, qword ptr [{from}]",
            "movhps {pair}, qword ptr [{from} + 8]",
            pair = out(xmm_reg) pair,
            from = in(reg) from.add(at),
            options(pure, readonly, nostack, preserves_flags),
        );
        to.add(at).cast::<std::arch::x86_64::__m128i>().write_unaligned(pair);
    }
}

/// As above, where stores are not paired.
///
/// # Safety
/// As for [`copy_in`], with sixteen bytes at `at`.
#[cfg(not(target_arch = "x86_64"))]
#[inline(always)]
unsafe fn pair_at(to: *mut u8, from: *const u8, at: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        word_at(to, from, at);
        word_at(to, from, at + 8);
    }
}

/// The last `len - at` bytes, fewer than eight.
///
/// # Safety
/// As for [`copy_in`].
#[inline(always)]
unsafe fn rest(to: *mut u8, from: *const u8, mut at: usize, len: usize) {
    // SAFETY: every move stays below `len`.
    unsafe {
        if len - at >= 4 {
            move_at::<u32>(to, from, at);
            at += 4;
        }
        if len - at >= 2 {
            move_at::<u16>(to, from, at);
            at += 2;
        }
        if len - at == 1 {
            move_at::<u8>(to, from, at);
        }
    }
}

/// Copies by loads of eight bytes, and smaller ones for the rest.
///
/// # Safety
/// As for [`copy_in`].
#[inline(always)]
unsafe fn words(to: *mut u8, from: *const u8, len: usize) {
    let mut at = 0;
    // SAFETY: every move stays below `len`.
    unsafe {
        while len - at >= 32 {
            pair_at(to, from, at);
            pair_at(to, from, at + 16);
            at += 32;
        }
        while len - at >= 8 {
            word_at(to, from, at);
            at += 8;
        }
        rest(to, from, at, len);
    }
}

/// Copies in moves of sixteen bytes, and smaller ones for the rest.
///
/// # Safety
/// As for [`copy_in`].
#[inline(always)]
unsafe fn pieces(to: *mut u8, from: *const u8, len: usize) {
    let mut at = 0;
    // SAFETY: every move stays below `len`; the empty instruction touches nothing. It keeps the
    // compiler from making the loop a call of memcpy, whose way to so few bytes is longer.
    unsafe {
        while len - at >= 32 {
            move_at::<[u64; 2]>(to, from, at);
            move_at::<[u64; 2]>(to, from, at + 16);
            at += 32;
            asm!("/* {0} */", inout(reg) at, options(nomem, nostack, preserves_flags));
        }
        while len - at >= 8 {
            word_at(to, from, at);
            at += 8;
        }
        rest(to, from, at, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_copied_exactly() {
        let from: Vec<u8> = (0..3000_u32).map(|i| (i * 7 + 1) as u8).collect();
        let ways: [unsafe fn(*mut u8, *const u8, usize); 4] = [
            // SAFETY: as for these.
            |to, from, len| unsafe { copy_in(to, from, len) },
            // SAFETY: as for these.
            |to, from, len| unsafe { copy_out(to, from, len) },
            // SAFETY: as for these; called for whole blocks only.
            |to, from, len| unsafe { copy_blocks_in(to, from, len) },
            // SAFETY: as for these; called for whole blocks only.
            |to, from, len| unsafe { copy_blocks_out(to, from, len) },
        ];
        for (i, len) in (0..ways.len())
            .flat_map(|i| (0..140).chain([255, 1023, 1024, 1025, 2047]).map(move |len| (i, len)))
        {
            if i >= 2 && (len == 0 || !is_blocks(len)) {
                continue;
            }
            let way = ways[i];
            for shift in 0..3 {
                let mut to = vec![0_u8; len + 8];
                // SAFETY: both vectors are long enough.
                unsafe { way(to.as_mut_ptr().add(shift), from.as_ptr().add(shift), len) };
                assert_eq!(to[shift..shift + len], from[shift..shift + len], "{len}");
                let beyond = to[..shift].iter().chain(&to[shift + len..]);
                assert!(beyond.copied().all(|byte| byte == 0), "{len}: wrote beyond");
            }
        }
    }
}
