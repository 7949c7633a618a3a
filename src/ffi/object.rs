//! `madang/object.h`: objects under /dev/shm, seen from outside.
//!
//! What there is, whether it is sound, what the dead have left in it, and whether anybody still uses
//! it.
//!
//! These are the objects of this library that have a name: files /dev/shm/mdg.*, and files
//! /dev/shm/.mdg.tmp.* that somebody was making. Segments and POSIX semaphores are not among them, nor
//! rings without a name or in a segment.
//!
//! Nothing here takes part in an object, and nothing waits for anybody. What stands under a name may
//! be anything, made by anybody: links are not followed, what is no regular file is not read, and an
//! object is read with checks at every step.

use std::ffi::{CStr, c_char, c_int};
use std::mem::offset_of;
use std::ptr::{self, NonNull};

use nix::errno::Errno;

use super::args;
use super::guard::guard;
use crate::error::{Error, Result, TEXT_MAX};
use crate::inventory::{self, Info, Mechanism, ReapOptions, State};

/// Mechanism: a ring, /dev/shm/mdg.ring.NAME.
pub const MDG_OBJECT_RING: u32 = 1;
/// Mechanism: a semaphore whose permits come back, /dev/shm/mdg.sem.NAME.
pub const MDG_OBJECT_SEM: u32 = 2;
/// Mechanism: a mutex, /dev/shm/mdg.mutex.NAME.
pub const MDG_OBJECT_MUTEX: u32 = 3;
/// Mechanism: a file that is being made and has no name of its own yet, /dev/shm/.mdg.tmp.NAME.
pub const MDG_OBJECT_TEMPORARY: u32 = 5;
/// Mechanism: any other file /dev/shm/mdg.NAME.
pub const MDG_OBJECT_OTHER: u32 = 6;
/// Mechanism: a condition variable, /dev/shm/mdg.cond.NAME.
pub const MDG_OBJECT_COND: u32 = 7;

/// State: nothing is wrong with it.
pub const MDG_OBJECT_SOUND: u32 = 0;
/// State: the dead have left something in it, or have left it.
pub const MDG_OBJECT_DAMAGED: u32 = 1;
/// State: it has impossible words.
pub const MDG_OBJECT_CORRUPT: u32 = 2;
/// State: no object of this library, or of a version that this one does not know.
pub const MDG_OBJECT_NOT_OURS: u32 = 3;
/// State: this process may not read it.
pub const MDG_OBJECT_UNREADABLE: u32 = 4;

/// Flag of mdg_object_reap: count what would be removed, and remove nothing.
pub const MDG_REAP_DRY_RUN: u32 = 1;
/// Flag of mdg_object_reap: remove rings that hold items, too.
pub const MDG_REAP_WITH_ITEMS: u32 = 2;

/// Role of a holder: it has the producing end of a ring, or is one of those that push.
pub const MDG_HOLDER_PRODUCER: u32 = 1;
/// Role of a holder: it has the consuming end of a ring, or is one of those that pop.
pub const MDG_HOLDER_CONSUMER: u32 = 2;
/// Role of a holder: it holds permits of a semaphore.
pub const MDG_HOLDER_PERMITS: u32 = 4;
/// Role of a holder: it holds a mutex.
pub const MDG_HOLDER_LOCK: u32 = 8;

/// One handle on an object. What is not known is 0.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mdg_object_holder {
    /// The process, as it saw itself (a number of its own PID namespace).
    pub pid: u32,
    /// Its effective user.
    pub uid: u32,
    /// The number of the handle in the object.
    pub slot: u32,
    /// Bits MDG_HOLDER_PRODUCER, _CONSUMER, _PERMITS, _LOCK; 0 for a handle that has none of them.
    pub roles: u32,
    /// 1 if the process lives, 0 if it is dead and not cleared away yet.
    pub alive: u32,
    /// Permits of a semaphore that it holds.
    pub permits: u32,
    /// When the handle was opened, in nanoseconds since 1970.
    pub since_ns: u64,
    /// The name of its program, at most 15 bytes; empty for the dead, and where /proc does not tell.
    pub command: [c_char; 16],
}

/// A short look at one object, taken while others use it. What is not known is 0.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct mdg_object_info {
    /// sizeof(mdg_object_info), set by the caller in the first one; the library fills in what fits,
    /// sets what it does not know to zero, and stores here how many bytes it filled in.
    pub size: usize,
    /// MDG_OBJECT_RING and so on: what its name says it is.
    pub mechanism: u32,
    /// MDG_OBJECT_SOUND, _DAMAGED, _CORRUPT, _NOT_OURS, _UNREADABLE. The cells of a ring are not
    /// looked at one by one, as mdg_object_check does.
    pub state: u32,
    /// Length of the file.
    pub bytes: u64,
    /// Items that fit; of a semaphore the permits that it was made with.
    pub capacity: u64,
    /// Items inside, and places in progress; of a semaphore the permits that are free.
    pub length: u64,
    /// The kind within its mechanism, as MDG_RING_SPSC.
    pub kind: u32,
    /// Bytes of an item.
    pub item_size: u32,
    /// Handles that may be open at once.
    pub max_handles: u32,
    /// Handles of living processes.
    pub handles_live: u32,
    /// Handles of dead processes that nobody has cleared away yet.
    pub handles_dead: u32,
    /// The process that made it, in its own PID namespace; for people.
    pub creator_pid: u32,
    /// The owner of the file.
    pub uid: u32,
    /// The permission bits of the file.
    pub mode: u32,
    /// Its name, with the leading slash: what open calls of its mechanism take.
    pub name: [c_char; 256],
}

fn mechanism(number: u32, what: &str) -> Result<Mechanism> {
    Mechanism::from_number(number)
        .ok_or_else(|| Error::new(Errno::EINVAL, format_args!("{what}: no mechanism {number}")))
}

fn state(state: State) -> u32 {
    match state {
        State::Sound => MDG_OBJECT_SOUND,
        State::Damaged => MDG_OBJECT_DAMAGED,
        State::Corrupt => MDG_OBJECT_CORRUPT,
        State::NotOurs => MDG_OBJECT_NOT_OURS,
        State::Unreadable => MDG_OBJECT_UNREADABLE,
    }
}

fn info(from: &Info) -> mdg_object_info {
    let mut name = [0; 256];
    // A file name has 255 bytes at most, and loses its prefix for the slash.
    for (to, &byte) in name[..255].iter_mut().zip(&from.name) {
        *to = byte as c_char;
    }
    mdg_object_info {
        size: size_of::<mdg_object_info>(),
        mechanism: from.mechanism.number(),
        state: state(from.state),
        bytes: from.bytes,
        capacity: from.capacity,
        length: from.length,
        kind: from.kind,
        item_size: from.item_size,
        max_handles: from.max_handles,
        handles_live: from.handles_live,
        handles_dead: from.handles_dead,
        creator_pid: from.creator_pid,
        uid: from.uid,
        mode: from.mode,
        name,
    }
}

/// A count as C returns it.
fn count(count: u32) -> c_int {
    count.min(c_int::MAX as u32) as c_int
}

/// Lists the objects of this library under /dev/shm, by mechanism and name: those of all users, and
/// what cannot be read says so. At most `count` of them are stored in `out`, an array whose first
/// element has its `size` set to sizeof(mdg_object_info). `out` may be NULL if `count` is 0.
///
/// Returns how many there are, which may be more than `count`; or: -EINVAL (NULL, a bad size) ·
/// -EOVERFLOW (count) · -ENOENT (no /dev/shm) · -EACCES (it cannot be read) · -ENOMEM · -EMFILE ·
/// -ENFILE. Thread-safe; not async-signal-safe.
///
/// # Safety
/// `out` is writable for `count` elements of as many bytes as the first one says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_object_list(out: *mut mdg_object_info, count: usize) -> libc::ssize_t {
    guard(|| {
        let what = "mdg_object_list: out";
        let mut stride = 0;
        if count > 0 {
            let first = args::out(out, what)?;
            // SAFETY: not NULL, aligned; the caller's promise: the first field of the first element.
            stride = unsafe { ptr::addr_of!((*first).size).read() };
            let least = offset_of!(mdg_object_info, name);
            if stride < least || stride > 1 << 16 || stride % align_of::<mdg_object_info>() != 0 {
                return Err(Error::new(
                    Errno::EINVAL,
                    format_args!("{what}: its size field says {stride}; set it to sizeof *out"),
                ));
            }
            args::length(count.saturating_mul(stride), "mdg_object_list: count")?;
        }
        let all = inventory::list()?;
        for (index, one) in all.iter().take(count).enumerate() {
            // SAFETY: `index` is below `count`, so this element is the caller's to write, and aligned
            // since the stride is a multiple of the alignment.
            unsafe {
                let to = out.byte_add(index * stride);
                ptr::addr_of_mut!((*to).size).write(stride);
                args::fill(NonNull::new(to), &info(one), "mdg_object_info")?;
            }
        }
        Ok(all.len() as libc::ssize_t)
    })
}

/// Lists who uses the object `name`, the living and the dead: of a ring or a semaphore of kind
/// MDG_SEM_UNDO every open handle, of a mutex the one that holds it. At most `count` of them are stored in
/// `holders`, which may be NULL if `count` is 0. It only reads: read permission is enough. It may be out of
/// date when it returns.
///
/// Returns how many there are, which may be more than `count`; or: -EINVAL (NULL, a bad name, no such
/// mechanism) · -EOVERFLOW (count) · -ENAMETOOLONG · -ENOENT · -EACCES · -ELOOP · -EPROTO, -EBADMSG (as
/// mdg_object_check) · -ENOSYS (another mechanism: who has it open is not known) · -ENOMEM · -EMFILE ·
/// -ENFILE. Thread-safe; not async-signal-safe.
///
/// # Safety
/// `name` is NULL or a C string; `holders` is writable for `count` elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_object_holders(
    mechanism: u32,
    name: *const c_char,
    holders: *mut mdg_object_holder,
    count: usize,
) -> c_int {
    guard(|| {
        let what = "mdg_object_holders";
        // SAFETY: the caller's promise.
        let name = unsafe { args::string(name, "mdg_object_holders: name") }?;
        if args::length(count, what)? > 0 {
            args::out(holders, "mdg_object_holders: holders")?;
        }
        let mut stored = 0;
        let total = inventory::holders(self::mechanism(mechanism, what)?, name, |one| {
            if stored < count {
                // SAFETY: checked above; the caller vouches for `count` of them.
                unsafe { holders.add(stored).write(holder(one)) };
                stored += 1;
            }
        })?;
        Ok(self::count(total))
    })
}

fn holder(from: &inventory::Holder) -> mdg_object_holder {
    mdg_object_holder {
        pid: from.pid,
        uid: from.uid,
        slot: from.slot,
        roles: from.roles,
        alive: from.is_alive.into(),
        permits: from.permits,
        since_ns: from.since,
        command: from.command.map(|byte| byte as c_char),
    }
}

/// As many whole lines of `text` as fit, with a NUL; a last line "..." says that some are missing.
fn cut(text: &[u8], to: &mut [u8]) {
    let Some(room) = to.len().checked_sub(1) else { return };
    const MORE: &[u8] = b"...\n";
    let line_end = |within: usize| {
        text[..within.min(text.len())]
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |at| at + 1)
    };
    let (taken, more) = match text.len() <= room {
        true => (text.len(), &b""[..]),
        false => (line_end(room.saturating_sub(MORE.len())), &MORE[..room.min(MORE.len())]),
    };
    to[..taken].copy_from_slice(&text[..taken]);
    to[taken..taken + more.len()].copy_from_slice(more);
    to[taken + more.len()] = 0;
}

/// A report that is the text of an error. Out of line, so that its buffer is not on the stack of what
/// comes before.
#[inline(never)]
fn tell(error: &Error, report: &mut [u8]) {
    let mut line = [0; TEXT_MAX + 1];
    let length = error.with_text(|text| {
        line[..text.len()].copy_from_slice(text.as_bytes());
        line[text.len()] = b'\n';
        text.len() + 1
    });
    cut(&line[..length.unwrap_or(0)], report);
}

/// Tells whether an object is sound, and what the dead have left in it. It only reads: read
/// permission is enough, no handle is taken, nobody notices.
///
/// `report` receives a NUL-terminated explanation of at most `size` bytes, or is NULL and `size` 0: a
/// line about the object, then a line for each finding, each of at most 255 bytes and a line feed.
/// 256 * (findings + 2) bytes always hold it; where it does not fit it is cut behind a line, and a
/// line "..." follows. For -EBADMSG and -EPROTO, which are verdicts too, it holds what
/// mdg_last_error says; with other failures it is left alone.
///
/// A finding is a handle of a dead process that nobody has cleared away (with the places of a ring
/// that it has claimed and not finished, or the permits of a semaphore that it holds), an
/// end of a ring whose holder's death nobody has noted, a
/// sleeper announced in a ring in which nobody is left who could sleep: what mdg_object_repair mends.
/// (So does, for the most part, the next process that uses the object.) Of MDG_OBJECT_TEMPORARY: that
/// it is left behind, for mdg_object_reap.
///
/// Returns 0 (sound), the number of findings, or: -EBADMSG (corrupt: mdg_last_error tells which word,
/// and where) · -EPROTO (no object of this library, or of a version or kind that this one does not
/// know: mdg_last_error names the field) · -EINVAL (NULL, a bad name, no such mechanism) ·
/// -ENAMETOOLONG · -ENOENT · -EACCES · -ELOOP (a symbolic link) · -EOVERFLOW (size) · -ENOMEM ·
/// -EMFILE · -ENFILE. Thread-safe; not async-signal-safe.
///
/// # Safety
/// `name` is NULL or a C string; `report` is writable for `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_object_check(
    mechanism: u32,
    name: *const c_char,
    report: *mut c_char,
    size: usize,
) -> c_int {
    guard(|| {
        let what = "mdg_object_check";
        // SAFETY: the caller's promise.
        let name = unsafe { args::string(name, "mdg_object_check: name") }?;
        // SAFETY: the caller's promise.
        let report = unsafe { args::buffer(report.cast(), size, "mdg_object_check: report") }?;
        match inventory::check(self::mechanism(mechanism, what)?, name) {
            Ok(verdict) => {
                cut(verdict.report.as_bytes(), report);
                Ok(count(verdict.findings))
            }
            Err(error) => {
                if matches!(error.code(), Errno::EBADMSG | Errno::EPROTO) {
                    tell(&error, report);
                }
                Err(error)
            }
        }
    })
}

/// Mends what the dead have left in a ring, or a semaphore of kind MDG_SEM_UNDO: clears away their
/// handles, with what these have claimed and not finished; has the permits that they hold come back;
/// notes the deaths of those who held an end, wakes the sleepers.
/// What belongs to a living process is not touched, and the living may go on
/// meanwhile at full speed. It may be killed at any point, and run any number of times, by several at
/// once.
///
/// Returns how many things were mended; or: -EBADMSG (the object is corrupt; nothing was changed) ·
/// -EPROTO, -EINVAL, -ENAMETOOLONG, -ENOENT, -ELOOP (as mdg_object_check) · -EACCES (it takes write
/// permission) · -ENOSYS (another mechanism: of a mutex, the next who locks it is told of a
/// death and mends what it protects; of the others there is nothing to repair) · -ENOMEM · -EMFILE ·
/// -ENFILE. Thread-safe; not async-signal-safe.
///
/// # Safety
/// `name` is NULL or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_object_repair(mechanism: u32, name: *const c_char) -> c_int {
    guard(|| {
        // SAFETY: the caller's promise.
        let name = unsafe { args::string(name, "mdg_object_repair: name") }?;
        inventory::repair(self::mechanism(mechanism, "mdg_object_repair")?, name).map(count)
    })
}

/// Removes objects that no living process uses: the one called `name`, or with `name` NULL all of a
/// mechanism, or with 0 for the mechanism all there are. An object goes only if the kernel proves that
/// no living process has a handle on it, a temporary file only if its maker is dead.
///
/// A ring that holds items is kept, unless `flags` has MDG_REAP_WITH_ITEMS. Items of a broadcast ring that
/// every consumer has read count as long as they are in the ring. A ring that was found corrupt counts as
/// empty. With MDG_REAP_DRY_RUN nothing is removed; the result is what it would be otherwise.
///
/// Nobody is robbed of an object by opening it at the same moment: reap locks the object against
/// other removers and then looks for handles, an open call takes its handle and then waits until no
/// remover has the lock and looks whether the name still leads to the object. So either reap sees
/// the handle and leaves the object alone, or the opener sees that the name is gone, and finds nothing
/// or makes a new object, as its oflag says. A handle that fork(2) has copied and that has not been
/// used since in the child is no proof of life, nor is a consumer that may only read the file.
///
/// Returns how many were removed; what may not or cannot be removed is passed over without a name.
/// With a name: -EBUSY (a living process uses it, or whether it does cannot be proven) · -ENOTEMPTY (a ring
/// that holds items) · -ENOENT ·
/// -EACCES (another user's, or not writable) · -EPROTO (no object of this library, or of a version that
/// this one does not know) · -ELOOP. With and without:
/// -EINVAL (a bad name, a name without a mechanism, no such mechanism or flag) · -ENAMETOOLONG · -ENOMEM ·
/// -EMFILE · -ENFILE. Thread-safe; not async-signal-safe.
///
/// # Safety
/// `name` is NULL or a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mdg_object_reap(mechanism: u32, name: *const c_char, flags: u32) -> c_int {
    guard(|| {
        if flags & !(MDG_REAP_DRY_RUN | MDG_REAP_WITH_ITEMS) != 0 {
            let text =
                format_args!("mdg_object_reap: flags {flags:#x} has bits that there are not");
            return Err(Error::new(Errno::EINVAL, text));
        }
        let options = ReapOptions {
            dry_run: flags & MDG_REAP_DRY_RUN != 0,
            with_items: flags & MDG_REAP_WITH_ITEMS != 0,
        };
        let mechanism = match mechanism {
            0 => None,
            number => Some(self::mechanism(number, "mdg_object_reap")?),
        };
        // SAFETY: not NULL; the caller's promise.
        let name = (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) }.to_bytes());
        inventory::reap(mechanism, name, options).map(count)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_cut_behind_a_line() {
        let cut = |text: &str, size: usize| {
            let mut bytes = vec![0xff; size];
            super::cut(text.as_bytes(), &mut bytes);
            CStr::from_bytes_until_nul(&bytes)
                .map_or("?".into(), |text| text.to_str().unwrap().to_owned())
        };
        let text = "head\nfirst finding\nsecond\n";
        assert_eq!(cut(text, text.len() + 1), text);
        assert_eq!(cut(text, text.len()), "head\nfirst finding\n...\n");
        assert_eq!(cut(text, 10), "head\n...\n");
        assert_eq!(cut(text, 9), "...\n");
        assert_eq!(cut(text, 3), "..");
        assert_eq!(cut(text, 1), "");
        assert_eq!(cut(text, 0), "?");
        assert_eq!(cut("", 1), "");
    }
}
