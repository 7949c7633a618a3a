//! The rules that `madang/base.h` states for every call, held against segments and semaphores:
//! results, errno, the last error, pointers, handles, options.

mod support;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::process::Command;
use std::ptr;

use libc::{O_CREAT, O_EXCL, O_RDONLY, O_RDWR, O_WRONLY};
use madang::ffi::base::*;
use madang::ffi::sem::*;
use madang::ffi::shm::*;
use nix::errno::Errno;
use support::face::{answer, c_string, last_error, refused};
use support::process::{fork, join};
use support::sem_face::{CSem, Permits};
use support::shm_face::{CShm, Segment};
use support::unique;

const NEW: c_int = O_CREAT | O_EXCL | O_RDWR;

fn code(call: impl FnOnce() -> c_int) -> Errno {
    refused(answer(call))
}

fn name(stem: &str) -> CString {
    c_string(unique(stem))
}

#[test]
fn version() {
    assert_eq!(mdg_version(), MDG_VERSION);
    let parts = MDG_VERSION_MAJOR << 16 | MDG_VERSION_MINOR << 8 | MDG_VERSION_PATCH;
    assert_eq!(mdg_version(), parts);
}

fn words(result: c_int) -> &'static str {
    // SAFETY: constant C strings.
    unsafe { CStr::from_ptr(mdg_strerror(result)) }.to_str().unwrap()
}

#[test]
fn every_documented_code_has_words() {
    let codes = [
        libc::EINVAL,
        libc::ENAMETOOLONG,
        libc::ENOENT,
        libc::EEXIST,
        libc::EACCES,
        libc::ELOOP,
        libc::EBUSY,
        libc::EAGAIN,
        libc::ETIMEDOUT,
        libc::EINTR,
        libc::EMSGSIZE,
        libc::EOVERFLOW,
        libc::ENOSPC,
        libc::ENOMEM,
        libc::EMFILE,
        libc::ENFILE,
        libc::E2BIG,
        libc::EPIPE,
        libc::EOWNERDEAD,
        libc::EPROTO,
        libc::EBADMSG,
        libc::ESTALE,
        libc::EBADF,
        libc::ENOSYS,
        libc::ENOTRECOVERABLE,
        libc::EIO,
        libc::ENOTDIR,
        libc::EROFS,
        libc::ETXTBSY,
    ];
    let mut seen = std::collections::BTreeSet::new();
    for code in codes {
        assert!(!words(-code).is_empty() && words(-code) != "unknown error", "{code}");
        assert!(seen.insert(words(-code)), "{code}");
    }
    for success in [0, 1, libc::EINVAL, c_int::MAX] {
        assert_eq!(words(success), "success");
    }
    for unknown in [-9999, c_int::MIN, c_int::MIN + 1] {
        assert_eq!(words(unknown), "unknown error");
    }
}

#[test]
fn last_error_belongs_to_the_thread() {
    let missing = unique("missing");
    let fail = || refused(CShm::open(missing.as_bytes(), 0, O_RDWR, 0));
    std::thread::spawn(|| assert_eq!(last_error(), "", "before the first failure")).join().unwrap();
    assert_eq!(fail(), Errno::ENOENT);
    let text = last_error();
    assert!(text.contains(&missing), "{text}");
    let other = std::thread::spawn(|| {
        assert_eq!(code(|| unlink(c"a/b")), Errno::EINVAL);
        last_error()
    });
    assert!(other.join().unwrap().contains("a/b"));
    assert_eq!(last_error(), text);
    // Success leaves it alone; expected answers have a text of their own, so that nobody takes that of
    // another call for theirs (`answer` looks).
    let sem = CSem::open(missing.as_bytes(), 1, O_CREAT | O_EXCL, 0o600).unwrap();
    CSem::unlink(missing.as_bytes()).unwrap();
    sem.wait(MDG_NOWAIT).unwrap();
    assert_eq!(refused(sem.wait(MDG_NOWAIT)), Errno::EAGAIN);
    assert!(last_error().contains("have to wait"));
    assert_eq!(refused(sem.wait(1)), Errno::ETIMEDOUT);
    assert!(last_error().contains("time"));
    assert_eq!(fail(), Errno::ENOENT);
    join(fork(|| {
        assert_eq!(last_error(), text, "a child inherits it");
        assert_eq!(code(|| unlink(c"a/b")), Errno::EINVAL);
    }));
    assert_eq!(last_error(), text);
}

fn unlink(name: &CStr) -> c_int {
    // SAFETY: a C string.
    unsafe { mdg_shm_unlink(name.as_ptr()) }
}

#[test]
fn last_error_is_cut_at_1023_bytes() {
    // Each byte is shown as four.
    let name = CString::new([0xff; 255]).unwrap();
    assert_eq!(code(|| unlink(&name)), Errno::ENOENT);
    let text = last_error();
    assert_eq!(text.len(), 1023);
    assert!(text.starts_with("segment \"/\\xff\\xff"), "{text}");
    // A short one after a long one ends where it ends.
    assert_eq!(code(|| unlink(c"a/b")), Errno::EINVAL);
    assert!(last_error().len() < 200);
}

#[test]
fn null_where_a_pointer_is_required() {
    let (name, mut memory) = (name("null"), [0_u64; 4]);
    let (name, memory) = (name.as_ptr(), memory.as_mut_ptr().cast::<c_void>());
    let (mut no_shm, mut no_sem) = (ptr::null_mut(), ptr::null_mut());
    let (shm, sem) = (&raw mut no_shm, &raw mut no_sem);
    // SAFETY: NULL, or what the headers ask for.
    unsafe {
        let calls: [(&str, &dyn Fn() -> c_int); 20] = [
            ("shm", &|| mdg_shm_open(ptr::null_mut(), name, 10, NEW, 0o600)),
            ("name", &|| mdg_shm_open(shm, ptr::null(), 10, NEW, 0o600)),
            ("shm", &|| mdg_shm_anonymous(ptr::null_mut(), 10, 0)),
            ("shm", &|| mdg_shm_from_fd(ptr::null_mut(), 0, O_RDWR)),
            ("shm", &|| mdg_shm_map_file(ptr::null_mut(), name, 10, O_RDWR, 0)),
            ("path", &|| mdg_shm_map_file(shm, ptr::null(), 10, O_RDWR, 0)),
            ("shm", &|| mdg_shm_fd(ptr::null())),
            ("shm", &|| mdg_shm_resize(ptr::null_mut(), 10)),
            ("shm", &|| mdg_shm_sync(ptr::null_mut())),
            ("name", &|| mdg_shm_unlink(ptr::null())),
            ("sem", &|| mdg_sem_open(ptr::null_mut(), name, ptr::null(), O_CREAT, 0o600)),
            ("name", &|| mdg_sem_open(sem, ptr::null(), ptr::null(), O_CREAT, 0o600)),
            ("sem", &|| mdg_sem_init(ptr::null_mut(), memory, 0)),
            ("memory", &|| mdg_sem_init(sem, ptr::null_mut(), 0)),
            ("sem", &|| mdg_sem_attach(ptr::null_mut(), memory)),
            ("memory", &|| mdg_sem_attach(sem, ptr::null_mut())),
            ("sem", &|| mdg_sem_wait(ptr::null_mut(), 0)),
            ("sem", &|| mdg_sem_post(ptr::null_mut())),
            ("sem", &|| mdg_sem_value(ptr::null_mut())),
            ("name", &|| mdg_sem_unlink(ptr::null())),
        ];
        for (i, (what, call)) in calls.into_iter().enumerate() {
            assert_eq!(code(call), Errno::EINVAL, "call {i}");
            assert!(last_error().contains(what) && last_error().contains("NULL"), "call {i}");
        }
        Errno::set_raw(0);
        assert!(mdg_shm_addr(ptr::null()).is_null());
        assert_eq!(Errno::last(), Errno::EINVAL);
        Errno::set_raw(0);
        assert_eq!(mdg_shm_size(ptr::null()), 0);
        assert_eq!(Errno::last(), Errno::EINVAL);
        Errno::set_raw(77);
        mdg_shm_close(ptr::null_mut());
        mdg_sem_close(ptr::null_mut());
        assert_eq!(Errno::last_raw(), 77);
    }
    assert!(no_shm.is_null() && no_sem.is_null(), "outputs are written only on success");
}

#[test]
fn misaligned_pointers() {
    let (name, mut room) = (name("misaligned"), [0_u64; 16]);
    let (name, room) = (name.as_ptr(), room.as_mut_ptr().cast::<c_char>());
    for odd in [1, 2, 4] {
        // SAFETY: inside the room, and refused before anything is read or written there.
        unsafe {
            let at = room.add(odd);
            assert_eq!(code(|| mdg_shm_open(at.cast(), name, 10, NEW, 0o600)), Errno::EINVAL);
            assert_eq!(code(|| mdg_shm_anonymous(at.cast(), 10, 0)), Errno::EINVAL);
            let open = || mdg_sem_open(at.cast(), name, ptr::null(), O_CREAT, 0o600);
            assert_eq!(code(open), Errno::EINVAL);
            let open = || mdg_sem_open(room.cast(), name, at.cast(), O_CREAT, 0o600);
            assert_eq!(code(open), Errno::EINVAL);
            assert_eq!(code(|| mdg_sem_init(room.cast(), at.cast(), 0)), Errno::EINVAL);
            assert_eq!(code(|| mdg_sem_attach(room.cast(), at.cast())), Errno::EINVAL);
            assert_eq!(code(|| mdg_sem_post(at.cast())), Errno::EBADF);
            assert_eq!(code(|| mdg_shm_fd(at.cast())), Errno::EBADF);
            mdg_sem_close(at.cast());
        }
    }
}

#[test]
fn memory_that_is_no_handle() {
    for filler in [0_u64, u64::MAX, 0x5555_5555_5555_5555] {
        let mut room = [filler; 64];
        let at = room.as_mut_ptr();
        // SAFETY: readable memory that begins with eight bytes that are no tag.
        unsafe {
            assert_eq!(code(|| mdg_shm_fd(at.cast())), Errno::EBADF);
            assert_eq!(code(|| mdg_shm_resize(at.cast(), 10)), Errno::EBADF);
            assert_eq!(code(|| mdg_shm_sync(at.cast())), Errno::EBADF);
            assert_eq!(code(|| mdg_sem_wait(at.cast(), MDG_FOREVER)), Errno::EBADF);
            assert_eq!(code(|| mdg_sem_post(at.cast())), Errno::EBADF);
            assert_eq!(code(|| mdg_sem_value(at.cast())), Errno::EBADF);
            assert!(last_error().contains("mdg_sem"));
            Errno::set_raw(0);
            assert!(mdg_shm_addr(at.cast()).is_null());
            assert_eq!(Errno::last(), Errno::EBADF);
            Errno::set_raw(0);
            assert_eq!(mdg_shm_size(at.cast()), 0);
            assert_eq!(Errno::last(), Errno::EBADF);
            mdg_shm_close(at.cast());
            mdg_sem_close(at.cast());
        }
        assert_eq!(room, [filler; 64], "left alone");
    }
}

#[test]
fn closed_handles_and_other_kinds() {
    let output = support::scratch("base").join("sem_closed");
    support::compile_c(&support::root().join("tests/c/sem_closed.c"), &output, &[]);
    let status = Command::new(output).status().unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn unknown_bits() {
    let (name, mut shm, mut sem) = (name("bits"), ptr::null_mut(), ptr::null_mut());
    let (name, mut memory) = (name.as_ptr(), [0_u64; 4]);
    let flags = [libc::O_TRUNC, libc::O_NONBLOCK, libc::O_CLOEXEC, libc::O_APPEND, MDG_SEALED];
    // SAFETY: outputs are writable, names C strings.
    unsafe {
        for bit in flags.into_iter().chain([c_int::MIN]) {
            let open = || mdg_shm_open(&raw mut shm, name, 10, NEW | bit, 0o600);
            assert_eq!(code(open), Errno::EINVAL);
            let open = || mdg_sem_open(&raw mut sem, name, ptr::null(), O_CREAT | bit, 0o600);
            assert_eq!(code(open), Errno::EINVAL);
            let zero = c"/dev/zero".as_ptr();
            let map = || mdg_shm_map_file(&raw mut shm, zero, 10, O_RDWR | bit, 0);
            assert_eq!(code(map), Errno::EINVAL);
        }
        for oflag in [O_WRONLY | O_RDWR, O_RDWR | O_EXCL] {
            let open = || mdg_shm_open(&raw mut shm, name, 10, oflag, 0o600);
            assert_eq!(code(open), Errno::EINVAL);
        }
        let memfd = CShm::anonymous(10, false).unwrap();
        let fd = memfd.fd();
        for oflag in [O_RDWR | O_CREAT, O_RDWR | O_EXCL, NEW, O_WRONLY, O_RDWR | libc::O_TRUNC] {
            assert_eq!(code(|| mdg_shm_from_fd(&raw mut shm, fd, oflag)), Errno::EINVAL);
        }
        for fd in [-1, -2, c_int::MIN] {
            assert_eq!(code(|| mdg_shm_from_fd(&raw mut shm, fd, O_RDONLY)), Errno::EBADF);
        }
        for mode in [0o1000, 0o4755, 0o100_600, u32::MAX] {
            assert_eq!(code(|| mdg_shm_open(&raw mut shm, name, 10, NEW, mode)), Errno::EINVAL);
            let open = || mdg_sem_open(&raw mut sem, name, ptr::null(), O_CREAT, mode);
            assert_eq!(code(open), Errno::EINVAL);
        }
        for flags in [2, 0x8000_0000, MDG_INHERIT | 4, u32::MAX] {
            assert_eq!(code(|| mdg_shm_anonymous(&raw mut shm, 10, flags)), Errno::EINVAL);
        }
        let at = memory.as_mut_ptr().cast::<c_void>();
        let too_much = MDG_SEM_VALUE_MAX + 1;
        assert_eq!(code(|| mdg_sem_init(&raw mut sem, at, too_much)), Errno::EINVAL);
        assert_eq!(
            code(|| mdg_sem_open(&raw mut sem, name, ptr::null(), O_EXCL, 0)),
            Errno::EINVAL
        );
        // The access mode of a semaphore is ignored, as in sem_open.
        for access in [O_RDONLY, O_WRONLY, O_RDWR, O_WRONLY | O_RDWR] {
            CSem::made(|out| mdg_sem_open(out, name, ptr::null(), O_CREAT | access, 0o600))
                .unwrap();
        }
        assert_eq!(mdg_sem_unlink(name), 0);
    }
    assert!(shm.is_null() && sem.is_null());
}

#[test]
fn options_that_grow() {
    #[repr(C)]
    struct Newer {
        known: mdg_sem_opts,
        unknown: u64,
    }
    let name = name("options");
    let open = |opts: *const mdg_sem_opts| {
        // SAFETY: `opts` begins with the number of bytes that are readable.
        CSem::made(|out| unsafe { mdg_sem_open(out, name.as_ptr(), opts, O_CREAT | O_EXCL, 0o600) })
    };
    let unlink = || CSem::unlink(name.as_bytes()).unwrap();
    let size = size_of::<Newer>();
    let known = mdg_sem_opts { size, value: 3, kind: MDG_SEM_POSIX, flags: 0, max_handles: 0 };
    let mut newer = Newer { known, unknown: 0 };
    assert_eq!(open((&raw const newer).cast()).unwrap().value(), 3);
    unlink();
    newer.unknown = 1 << 63;
    assert_eq!(refused(open((&raw const newer).cast())), Errno::E2BIG);
    // A program that is older than the library: what it does not know is default.
    newer.known.size = size_of::<usize>() + size_of::<u32>();
    newer.known.kind = 99;
    assert_eq!(open((&raw const newer).cast()).unwrap().value(), 3);
    unlink();
    newer.known.size = size_of::<usize>();
    assert_eq!(open((&raw const newer).cast()).unwrap().value(), 0);
    unlink();
    assert_eq!(open(ptr::null()).unwrap().value(), 0);
    unlink();
    for size in [0, 1, size_of::<usize>() - 1, (1 << 16) + 1, usize::MAX] {
        newer.known.size = size;
        assert_eq!(refused(open((&raw const newer).cast())), Errno::EINVAL, "size {size}");
        assert!(last_error().contains("mdg_sem_opts"));
    }
    newer.known.size = size_of::<mdg_sem_opts>();
    for (kind, flags, max_handles) in [
        (2, 0, 0),
        (u32::MAX, 0, 0),
        (MDG_SEM_POSIX, MDG_SEM_TELL, 0),
        (MDG_SEM_POSIX, 0, 1),
        (MDG_SEM_UNDO, 2, 0),
        (MDG_SEM_UNDO, MDG_SEM_TELL, 4097),
    ] {
        newer.known = mdg_sem_opts { kind, flags, max_handles, ..newer.known };
        assert_eq!(refused(open((&raw const newer).cast())), Errno::EINVAL, "{kind} {flags}");
    }
}
