//! Opening, using and waiting at rings.

use madang::ffi::ring::{MDG_POLL_IN, mdg_ring_attach, mdg_ring_init};
use madang::ring::{Kind, Options, policy};

use super::{Case, NEW, OPEN, SHORT, Thing, answering, case, making, opening};
use crate::support::face::{NOWAIT, done};
use crate::support::ring_face::{C, Entry, Face, c_options};
use crate::support::shm_face::{CShm, Segment};

/// An item goes through, at one handle.
fn carries(ring: &C) {
    let _ = ring.pop(&mut [0; 8], NOWAIT);
    ring.push(&7_u64.to_ne_bytes(), NOWAIT).unwrap();
    let mut item = [0; 8];
    ring.pop(&mut item, NOWAIT).unwrap();
    assert_eq!(u64::from_ne_bytes(item), 7);
}

fn kinds() -> [Options; 5] {
    let of =
        |kind, policy| Options { kind: Some(kind), policy, max_handles: 8, ..Options::new(8, 8) };
    [
        of(Kind::Spsc, 0),
        of(Kind::Mpmc, 0),
        of(Kind::Mpmc, policy::STOPPROOF),
        of(Kind::Broadcast, 0),
        of(Kind::Broadcast, policy::OVERWRITE),
    ]
}

fn anonymous(options: &Options) -> C {
    C::open(None, options, OPEN, 0).unwrap()
}

/// Everything that opens a ring, once; what differs by kind, for each kind.
pub fn rings() -> Vec<Case> {
    let options = kinds()[0];
    let make = |name: &str, oflag| C::open(Some(name), &kinds()[0], oflag, 0o600);
    let is_whole = |ring: &C| assert_eq!((ring.stat().capacity, ring.stat().written), (8, 0));
    let mut cases = vec![
        making("mdg_ring_open, new", "mdg.ring.", make, is_whole),
        opening("mdg_ring_open, there", "mdg.ring.", make, is_whole),
        case(
            "mdg_ring_open, without a name",
            || (),
            move |()| C::open(None, &options, OPEN, 0),
            move |(), made| carries(&made.unwrap_or_else(|_| anonymous(&options))),
        ),
    ];
    cases.extend(rings_elsewhere());
    for options in kinds() {
        cases.extend(rings_of(options));
    }
    let look = |rings: &mut [C; 5]| {
        let mut waits: Vec<_> = rings.iter().map(|ring| Entry::ring(ring, MDG_POLL_IN)).collect();
        C::wait_any(&mut waits, SHORT)
    };
    cases.push(answering(
        case(
            "mdg_wait_any, in vain",
            move || {
                let mut rings = kinds().map(|options| listening(&options));
                // Each gets the descriptor that it keeps.
                assert!(look(&mut rings).is_err());
                rings
            },
            look,
            |rings, _| rings.iter().for_each(carries),
        ),
        &[libc::ETIMEDOUT],
    ));
    cases
}

/// A ring without a name, by a handle that holds the consuming end.
fn listening(options: &Options) -> C {
    let ring = anonymous(options);
    assert!(ring.pop(&mut [0; 8], NOWAIT).is_err());
    ring
}

fn rings_of(options: Options) -> Vec<Case> {
    let both = move || {
        let ring = anonymous(&options);
        let consumer = ring.dup(libc::O_RDONLY).unwrap();
        (ring, consumer)
    };
    vec![
        case(
            "mdg_ring_dup",
            both,
            |(ring, _)| ring.dup(libc::O_WRONLY),
            |(ring, consumer), made| {
                let producer = made.unwrap_or_else(|_| ring.dup(libc::O_WRONLY).unwrap());
                producer.push(&[7; 8], NOWAIT).unwrap();
                consumer.pop(&mut [0; 8], NOWAIT).unwrap();
            },
        ),
        case(
            "the first mdg_ring_push",
            both,
            |(ring, _)| ring.push(&[7; 8], NOWAIT),
            |(ring, consumer), pushed| {
                pushed.unwrap_or_else(|_| ring.push(&[7; 8], NOWAIT).unwrap());
                consumer.pop(&mut [0; 8], NOWAIT).unwrap();
                assert_eq!(ring.stat().written, 1);
            },
        ),
        answering(
            case(
                "mdg_ring_pop, in vain",
                move || listening(&options),
                |ring| ring.pop(&mut [0; 8], SHORT),
                |ring, _| carries(ring),
            ),
            &[libc::ETIMEDOUT],
        ),
        case(
            "mdg_ring_fd",
            move || listening(&options),
            |ring| ring.fd(MDG_POLL_IN),
            |ring, fd| {
                carries(ring);
                assert!(fd.unwrap_or_else(|_| ring.fd(MDG_POLL_IN).unwrap()) > 2);
            },
        ),
    ]
}

fn rings_elsewhere() -> Vec<Case> {
    let options = Options::new(8, 8);
    let segment = || CShm::anonymous(1 << 16, false).unwrap();
    let place = |shm: &CShm, make: bool| {
        let (options, mut ring) = (c_options(&Options::new(8, 8)), std::ptr::null_mut());
        // SAFETY: a live segment; the options have their size; `ring` is writable.
        done(|| unsafe {
            let call = if make { mdg_ring_init } else { mdg_ring_attach };
            call(&raw mut ring, shm.0, 4096, &raw const options, OPEN)
        })?;
        Ok(C(ring))
    };
    vec![
        case(
            "mdg_ring_init",
            segment,
            move |shm| place(shm, true),
            move |shm, made| {
                carries(&made.unwrap_or_else(|_| place(shm, true).unwrap()));
            },
        ),
        case(
            "mdg_ring_attach",
            move || {
                let shm = segment();
                (place(&shm, true).unwrap(), shm)
            },
            move |(_, shm)| place(shm, false),
            move |(ring, shm), made| {
                carries(&made.unwrap_or_else(|_| place(shm, false).unwrap()));
                assert_eq!(ring.stat().written, 1);
            },
        ),
        case(
            "mdg_ring_unlink",
            move || {
                let thing = Thing::new("mdg.ring.");
                (C::open(Some(&thing.name), &options, NEW, 0o600).unwrap(), thing)
            },
            |(_, thing)| C::unlink(&thing.name),
            |(ring, thing), gone| {
                assert_eq!(thing.exists(), gone.is_err());
                carries(ring);
            },
        ),
    ]
}
