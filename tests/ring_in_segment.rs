//! Rings that lie in a segment: several beside each other, found by offset, guarded against being
//! made twice.

mod support;

use std::ptr;

use madang::Access;
use madang::ffi::ring::*;
use madang::ring::{Kind, Options, Ring};
use madang::shm::Shm;
use support::face::{FOREVER, NOWAIT, done, refused_with};
use support::process::{Gate, fork, join, kill, serial};
use support::ring_face::{C, Face, SECOND, c_options};
use support::shm_face;

/// What differs between the faces: making and attaching.
trait Place: Face {
    type Segment;
    fn segment(size: usize) -> Self::Segment;
    fn footprint(options: &Options) -> usize;
    fn init(s: &Self::Segment, at: usize, o: &Options, oflag: i32) -> support::face::Outcome<Self>;
    fn attach(
        s: &Self::Segment,
        at: usize,
        o: &Options,
        oflag: i32,
    ) -> support::face::Outcome<Self>;
}

fn access(oflag: i32) -> Access {
    support::face::open_flags(oflag).access
}

impl Place for Ring {
    type Segment = Shm;
    fn segment(size: usize) -> Shm {
        Shm::anonymous(size, false).unwrap()
    }
    fn footprint(options: &Options) -> usize {
        Ring::footprint(options).unwrap()
    }
    fn init(s: &Shm, at: usize, o: &Options, oflag: i32) -> support::face::Outcome<Self> {
        Ok(Ring::init(s, at, o, access(oflag))?)
    }
    fn attach(s: &Shm, at: usize, o: &Options, oflag: i32) -> support::face::Outcome<Self> {
        Ok(Ring::attach_to(s, at, o, access(oflag))?)
    }
}

impl Place for C {
    type Segment = shm_face::CShm;
    fn segment(size: usize) -> shm_face::CShm {
        <shm_face::CShm as shm_face::Segment>::anonymous(size, false).unwrap()
    }
    fn footprint(options: &Options) -> usize {
        // SAFETY: options as large as they say.
        let bytes = unsafe { mdg_ring_footprint(&c_options(options)) };
        bytes.try_into().unwrap()
    }
    fn init(
        s: &shm_face::CShm,
        at: usize,
        o: &Options,
        oflag: i32,
    ) -> support::face::Outcome<Self> {
        let mut ring = ptr::null_mut();
        // SAFETY: a live segment, options as large as they say, a writable pointer.
        done(|| unsafe { mdg_ring_init(&raw mut ring, s.0, at, &c_options(o), oflag) })?;
        Ok(C(ring))
    }
    fn attach(
        s: &shm_face::CShm,
        at: usize,
        o: &Options,
        oflag: i32,
    ) -> support::face::Outcome<Self> {
        let mut ring = ptr::null_mut();
        // SAFETY: a live segment, options as large as they say, a writable pointer.
        done(|| unsafe { mdg_ring_attach(&raw mut ring, s.0, at, &c_options(o), oflag) })?;
        Ok(C(ring))
    }
}

on_both_faces! { Ring, C in turn:
    many_share_a_segment
    a_ring_in_use_is_not_made_again
    refusals
    ends_and_deaths
    across_a_fork
}

fn kinds() -> [Options; 2] {
    [Kind::Spsc, Kind::Mpmc].map(|kind| Options { kind: Some(kind), ..Options::new(8, 8) })
}

fn many_share_a_segment<F: Place>() {
    for options in kinds() {
        let step = F::footprint(&options);
        assert_eq!(step % 4096, 0);
        let segment = F::segment(5 * step + 4096);
        let places: Vec<usize> = (0..5).map(|i| 4096 + i * step).collect();
        let rings: Vec<F> = places
            .iter()
            .map(|&at| F::init(&segment, at, &options, libc::O_WRONLY).unwrap())
            .collect();
        let readers: Vec<F> = places
            .iter()
            .map(|&at| F::attach(&segment, at, &Options::default(), libc::O_RDONLY).unwrap())
            .collect();
        drop(segment);
        for round in 0..20_u64 {
            for (i, ring) in rings.iter().enumerate() {
                ring.push(&(round * 100 + i as u64).to_ne_bytes(), NOWAIT).unwrap();
            }
            for (i, ring) in readers.iter().enumerate() {
                let mut item = [0; 8];
                ring.pop(&mut item, NOWAIT).unwrap();
                assert_eq!(u64::from_ne_bytes(item), round * 100 + i as u64);
            }
        }
        let copy = readers[0].dup(libc::O_RDWR).unwrap();
        assert_eq!(copy.stat().written, 20);
        assert_eq!(copy.stat().flags, 0, "without a name there is none to miss");
    }
}

fn a_ring_in_use_is_not_made_again<F: Place>() {
    for options in kinds() {
        let segment = F::segment(F::footprint(&options));
        let ring = F::init(&segment, 0, &options, libc::O_RDWR).unwrap();
        ring.push(&[7; 8], NOWAIT).unwrap();
        refused_with(F::init(&segment, 0, &options, libc::O_RDWR), libc::EBUSY, "living handles");
        let mut item = [0; 8];
        ring.pop(&mut item, NOWAIT).unwrap();
        assert_eq!(item, [7; 8]);
        F::attach(&segment, 0, &options, libc::O_RDWR).unwrap();
        ring.push(&[8; 8], NOWAIT).unwrap();
        drop(ring);
        // Nobody is left: what was there is gone.
        let ring = F::init(&segment, 0, &options, libc::O_RDWR).unwrap();
        refused_with(ring.pop(&mut item, NOWAIT), libc::EAGAIN, "");
        assert_eq!((ring.stat().written, ring.stat().recovered), (0, 0));
    }
}

fn refusals<F: Place>() {
    let options = Options::new(8, 8);
    let size = F::footprint(&options);
    let segment = F::segment(2 * size);
    refused_with(F::init(&segment, 100, &options, libc::O_RDWR), libc::EINVAL, "multiple of 4096");
    refused_with(F::init(&segment, size + 4096, &options, libc::O_RDWR), libc::ENOSPC, "needs");
    refused_with(F::init(&segment, 1 << 40, &options, libc::O_RDWR), libc::ENOSPC, "0 from there");
    refused_with(F::init(&segment, 0, &Options::default(), libc::O_RDWR), libc::EINVAL, "capacity");
    refused_with(F::attach(&segment, 0, &options, libc::O_RDWR), libc::EPROTO, "no magic");
    refused_with(F::attach(&segment, 2 * size, &options, libc::O_RDWR), libc::EPROTO, "too few");
    let _ring = F::init(&segment, size, &options, libc::O_WRONLY).unwrap();
    refused_with(
        F::attach(&segment, size, &Options::new(16, 8), libc::O_RDONLY),
        libc::EPROTO,
        "capacity is 16 here but 8",
    );
    refused_with(F::attach(&segment, size, &options, libc::O_WRONLY), libc::EBUSY, "producing");
    assert_eq!(F::attach(&segment, size, &options, libc::O_RDONLY).unwrap().stat().capacity, 8);
}

/// Locks of rings in one file do not meet: the death at one is none at the other.
fn ends_and_deaths<F: Place>() {
    let options = Options::new(8, 8);
    let step = F::footprint(&options);
    let segment = F::segment(2 * step);
    let [dead, live] = [0, step].map(|at| F::init(&segment, at, &options, libc::O_RDWR).unwrap());
    live.push(&[1; 8], NOWAIT).unwrap();
    let opened = Gate::new();
    let child = fork(|| {
        let ring = F::attach(&segment, 0, &options, libc::O_WRONLY).unwrap();
        ring.push(&[2; 8], NOWAIT).unwrap();
        opened.open();
        loop {
            nix::unistd::pause();
        }
    });
    opened.pass();
    assert_eq!(dead.stat().producer_state, MDG_RING_END_LIVE);
    kill(child);
    dead.pop(&mut [0; 8], FOREVER).unwrap();
    refused_with(dead.pop(&mut [0; 8], FOREVER), libc::EOWNERDEAD, "died");
    live.pop(&mut [0; 8], NOWAIT).unwrap();
    refused_with(live.pop(&mut [0; 8], 1_000_000), libc::ETIMEDOUT, "");
    assert_eq!(live.stat().recovered, 0);
}

fn across_a_fork<F: Place>() {
    for options in kinds() {
        let segment = F::segment(F::footprint(&options));
        let ring = F::init(&segment, 0, &options, libc::O_RDWR).unwrap();
        let child = fork(|| {
            for i in 0..1000_u64 {
                ring.push(&i.to_ne_bytes(), FOREVER).unwrap();
            }
            ring.shutdown().unwrap();
        });
        for i in 0..1000 {
            let mut item = [0; 8];
            ring.pop(&mut item, 10 * SECOND).unwrap();
            assert_eq!(u64::from_ne_bytes(item), i);
        }
        refused_with(ring.pop(&mut [0; 8], FOREVER), libc::EPIPE, "shut down");
        join(child);
    }
}

#[test]
fn read_only_segments_and_devices() {
    let name = support::unique("ro");
    let flags = |access| support::face::open_flags(access);
    let size = Ring::footprint(&Options::new(8, 8)).unwrap();
    let _writable =
        Shm::open(name.as_bytes(), size, flags(libc::O_RDWR | libc::O_CREAT), 0o600).unwrap();
    let segment = Shm::open(name.as_bytes(), 0, flags(libc::O_RDONLY), 0).unwrap();
    Shm::unlink(name.as_bytes()).unwrap();
    let error = Ring::init(&segment, 0, &Options::new(8, 8), Access::ReadWrite).unwrap_err();
    assert_eq!(error.errno(), libc::EACCES);
    let zero = Shm::map_file(c"/dev/zero", size, flags(libc::O_RDWR), 0).unwrap();
    let error = Ring::init(&zero, 0, &Options::new(8, 8), Access::ReadWrite).unwrap_err();
    assert_eq!(error.errno(), libc::EPROTO);
}

/// Makers that race for one place: one makes it, the others learn that it is busy; a maker that is
/// killed leaves a place where the next one can make it.
#[test]
fn makers_race_and_die() {
    let _turn = serial();
    let options = Options { kind: Some(Kind::Mpmc), ..Options::new(8, 8) };
    let segment = Shm::anonymous(Ring::footprint(&options).unwrap(), false).unwrap();
    for _ in 0..200 {
        let spawn = || {
            fork(|| {
                loop {
                    match Ring::init(&segment, 0, &options, Access::ReadWrite) {
                        Ok(ring) => {
                            ring.push(&[1; 8], madang::Timeout::NoWait).unwrap();
                            ring.pop(&mut [0; 8], madang::Timeout::NoWait).unwrap();
                        }
                        Err(error) => assert_eq!(error.errno(), libc::EBUSY, "{error}"),
                    }
                }
            })
        };
        let makers = [spawn(), spawn()];
        for _ in 0..3 {
            match Ring::attach_to(&segment, 0, &options, Access::ReadWrite) {
                Ok(ring) => assert_eq!(ring.capacity(), 8),
                Err(error) => {
                    let code = error.errno();
                    assert!(matches!(code, libc::EPROTO | libc::ESTALE), "{error}");
                }
            }
        }
        makers.into_iter().for_each(kill);
    }
    let ring = Ring::init(&segment, 0, &options, Access::ReadWrite).unwrap();
    ring.push(&[1; 8], madang::Timeout::NoWait).unwrap();
}
