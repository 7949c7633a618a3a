//! What only C can get wrong with rings: pointers, lengths, structures of other versions.

mod support;

use std::ffi::c_int;
use std::ptr;

use madang::ffi::ring::*;
use madang::ring::{Kind, Options};
use support::face::{NOWAIT, outcome, refused_with};
use support::ring_face::{C, Face, Named, c_options};

/// NULL everywhere, and memory that is no handle.
#[test]
fn c_pointers() {
    let ring = C::open(None, &Options::new(8, 8), libc::O_RDWR, 0).unwrap();
    let mut item = [0_u8; 8];
    let mut copy = ptr::null_mut();
    let (at, mut out, mut read_out) = (item.as_mut_ptr().cast(), ptr::null_mut(), ptr::null());
    let mut stats = mdg_ring_stats { size: size_of::<mdg_ring_stats>(), ..Default::default() };
    let mut zeros = [0_u64; 64];
    let mut ones = [u64::MAX; 64];
    let nothing = ptr::null_mut();
    let bad = [
        (nothing, libc::EINVAL),
        (zeros.as_mut_ptr().cast(), libc::EBADF),
        (ones.as_mut_ptr().cast(), libc::EBADF),
        (ring.0.wrapping_byte_add(1), libc::EBADF),
    ];
    for (handle, errno) in bad {
        // SAFETY: NULL and readable memory that is no handle: what the calls promise to refuse.
        let answers = unsafe {
            [
                mdg_ring_push(handle, at, 0) as isize,
                mdg_ring_pop(handle, at, 0) as isize,
                mdg_ring_push_many(handle, at, 1, 0),
                mdg_ring_pop_many(handle, at, 1, 0),
                mdg_ring_reserve(handle, &raw mut out, 1, 0),
                mdg_ring_peek(handle, &raw mut read_out, 1, 0),
                mdg_ring_commit(handle, 0) as isize,
                mdg_ring_release(handle, 0) as isize,
                mdg_ring_shutdown(handle) as isize,
                mdg_ring_stat(handle, &raw mut stats) as isize,
                mdg_ring_dup(&raw mut copy, handle, libc::O_RDWR) as isize,
            ]
        };
        for answer in answers {
            refused_with(outcome(answer), errno, "mdg_ring");
        }
        // SAFETY: as above; closing them does nothing.
        unsafe { mdg_ring_close(handle) };
    }
    // SAFETY: a live handle and NULL for what is required.
    let answers = unsafe {
        [
            mdg_ring_push(ring.0, ptr::null(), 0) as isize,
            mdg_ring_pop(ring.0, nothing.cast(), 0) as isize,
            mdg_ring_push_many(ring.0, ptr::null(), 1, 0),
            mdg_ring_pop_many(ring.0, nothing.cast(), 1, 0),
            mdg_ring_reserve(ring.0, ptr::null_mut(), 1, 0),
            mdg_ring_peek(ring.0, ptr::null_mut(), 1, 0),
            mdg_ring_stat(ring.0, ptr::null_mut()) as isize,
            mdg_ring_dup(ptr::null_mut(), ring.0, 0) as isize,
            mdg_ring_open(ptr::null_mut(), ptr::null(), ptr::null(), 0, 0) as isize,
            mdg_ring_unlink(ptr::null()) as isize,
        ]
    };
    for answer in answers {
        refused_with(outcome(answer), libc::EINVAL, "NULL");
    }
    // SAFETY: a count of 0 needs no memory.
    assert_eq!(unsafe { mdg_ring_push_many(ring.0, ptr::null(), 0, 0) }, 0);
    for count in [usize::MAX, usize::MAX / 8 + 1, isize::MAX as usize / 8 + 1] {
        // SAFETY: refused before the memory is looked at.
        let answers = unsafe {
            [mdg_ring_push_many(ring.0, at, count, 0), mdg_ring_pop_many(ring.0, at, count, 0)]
        };
        for answer in answers {
            refused_with(outcome(answer), libc::EOVERFLOW, "SSIZE_MAX");
        }
    }
}

/// Options and stats of other sizes, flags and modes of other times.
#[test]
fn c_structures_of_other_versions() {
    #[repr(C)]
    struct Newer {
        opts: mdg_ring_opts,
        more: u64,
    }
    let mut newer = Newer { opts: c_options(&Options::new(8, 8)), more: 0 };
    newer.opts.size = size_of::<Newer>();
    let mut ring = ptr::null_mut();
    let mut open = |opts: *const mdg_ring_opts, oflag, mode| {
        // SAFETY: options as large as they say.
        let result = unsafe { mdg_ring_open(&raw mut ring, ptr::null(), opts, oflag, mode) };
        if result == 0 {
            // SAFETY: opened just now.
            unsafe { mdg_ring_close(ring) };
        }
        outcome(result as isize)
    };
    assert_eq!(open(&raw const newer.opts, libc::O_RDWR, 0), Ok(0));
    newer.more = 1;
    refused_with(open(&raw const newer.opts, libc::O_RDWR, 0), libc::E2BIG, "does not know");
    newer.opts.size = 0;
    refused_with(open(&raw const newer.opts, libc::O_RDWR, 0), libc::EINVAL, "size field");
    // An older program, whose structure ended after item_size.
    newer.opts.size = std::mem::offset_of!(mdg_ring_opts, kind);
    newer.opts.kind = 0xdead;
    assert_eq!(open(&raw const newer.opts, libc::O_RDWR, 0), Ok(0));
    let mut opts = c_options(&Options::new(8, 8));
    for (kind, errno) in [(4, libc::EINVAL), (9, libc::EINVAL)] {
        opts.kind = kind;
        refused_with(open(&raw const opts, libc::O_RDWR, 0), errno, "kind");
    }
    opts.kind = MDG_RING_SPSC;
    assert_eq!(open(&raw const opts, libc::O_RDWR, 0o777), Ok(0));
    refused_with(open(&raw const opts, libc::O_RDWR, 0o1000), libc::EINVAL, "mode");
    refused_with(open(&raw const opts, libc::O_RDWR | libc::O_TRUNC, 0), libc::EINVAL, "oflag");
    refused_with(open(&raw const opts, libc::O_RDWR | libc::O_EXCL, 0), libc::EINVAL, "O_EXCL");
    refused_with(open(&raw const opts, libc::O_ACCMODE, 0), libc::EINVAL, "access mode");
    refused_with(open(ptr::null(), libc::O_RDWR, 0), libc::EINVAL, "needs a capacity");

    let ring = C::open(None, &Options::new(8, 8), libc::O_RDWR, 0).unwrap();
    let mut short = [u64::MAX; 4];
    short[0] = 20;
    // SAFETY: the first field says how much may be written.
    assert_eq!(unsafe { mdg_ring_stat(ring.0, short.as_mut_ptr().cast()) }, 0);
    assert_eq!(short[0], 20);
    assert_eq!((short[1], short[2] & 0xffff_ffff, short[2] >> 32), (8, 8, 0xffff_ffff));
    assert_eq!(short[3], u64::MAX);
    let mut long = [u64::MAX; 40];
    long[0] = 39 * 8;
    // SAFETY: as above.
    assert_eq!(unsafe { mdg_ring_stat(ring.0, long.as_mut_ptr().cast()) }, 0);
    assert_eq!((long[38], long[39]), (0, u64::MAX));
    long[0] = 8;
    // SAFETY: as above.
    let answer = unsafe { mdg_ring_stat(ring.0, long.as_mut_ptr().cast()) };
    refused_with(outcome(answer as isize), libc::EINVAL, "size field");
}

const FRESH: c_int = libc::O_CREAT | MDG_FRESH;

/// MDG_FRESH removes what nobody uses, whatever state it was left in, and joins what somebody does.
#[test]
fn a_fresh_ring() {
    let name = Named::new("fresh");
    let options = Options::new(4, 8);
    let open = |oflag| C::open(Some(&name.0), &options, oflag, 0o600);
    let mut item = [0; 8];
    // Nothing there; then a stream that has ended in order, and one that was cut off.
    for last_words in [Face::shutdown, |ring: &C| ring.reserve(1, NOWAIT).map(drop)] {
        let ring = open(FRESH | libc::O_RDWR).unwrap();
        assert_eq!((ring.stat().written, ring.stat().flags), (0, 0));
        ring.push(&[1; 8], NOWAIT).unwrap();
        last_words(&ring).unwrap();
        ring.abandon();
    }
    let producer = open(FRESH | libc::O_WRONLY).unwrap();
    assert_eq!((producer.stat().length, producer.stat().recovered), (0, 0));
    producer.push(&[2; 8], NOWAIT).unwrap();
    // In use: opened as it is.
    let consumer = open(FRESH | libc::O_RDONLY).unwrap();
    consumer.pop(&mut item, NOWAIT).unwrap();
    assert_eq!(item, [2; 8]);
    refused_with(open(FRESH | libc::O_EXCL | libc::O_RDWR), libc::EEXIST, "");
    refused_with(open(MDG_FRESH | libc::O_RDWR), libc::EINVAL, "MDG_FRESH without O_CREAT");
    drop((producer, consumer));
    open(FRESH | libc::O_EXCL | libc::O_RDWR).unwrap();
    // What is no ring is not removed.
    let path = format!("/dev/shm/mdg.ring.{}", name.0.trim_start_matches('/'));
    std::fs::write(&path, "not a ring").unwrap();
    refused_with(open(FRESH | libc::O_RDWR), libc::EPROTO, "");
    assert_eq!(std::fs::read(&path).unwrap(), b"not a ring");
}

/// Many open one name with MDG_FRESH at once, and close it: nobody is left in a ring without a name.
#[test]
fn nobody_is_robbed_of_a_fresh_ring() {
    let name = Named::new("robbed");
    let options = Options { kind: Some(Kind::Mpmc), ..Options::new(4, 8) };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    let ring =
                        C::open(Some(&name.0), &options, FRESH | libc::O_RDWR, 0o600).unwrap();
                    std::thread::yield_now();
                    assert_eq!(ring.stat().flags, 0);
                }
            });
        }
    });
}
