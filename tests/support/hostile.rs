//! What tests of hostile peers share: every kind of ring, bounds on calls, the codes that each call
//! may answer, and a watch for panics, also those that the library catches.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use madang::ring::{Kind, Options, policy};

use super::face::{Failure, NOWAIT, Outcome};
use super::ring_face::{Entry, Face};

/// How much longer than its timeout a call may take, on a machine busy with other tests.
pub const BOUND: Duration = Duration::from_secs(10);

/// Bytes of an item: not a whole number of words.
pub const ITEM: usize = 20;

/// Marsaglia's xorshift64: small, and the same everywhere.
pub struct Dice(pub u64);

impl Dice {
    pub fn word(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn roll(&mut self, sides: u64) -> u64 {
        self.word() % sides
    }
}

/// Every kind of ring and every way of dealing with a full one.
pub fn all_kinds() -> Vec<Options> {
    let kinds = [
        (Kind::Spsc, 0),
        (Kind::Mpmc, 0),
        (Kind::Mpmc, policy::OVERWRITE),
        (Kind::Mpmc, policy::REDELIVER),
        (Kind::Mpmc, policy::STOPPROOF),
        (Kind::Mpmc, policy::STOPPROOF | policy::OVERWRITE),
        (Kind::Broadcast, 0),
        (Kind::Broadcast, policy::EVICT),
        (Kind::Broadcast, policy::OVERWRITE),
    ];
    kinds.map(|(kind, policy)| ring(kind, policy)).into()
}

/// One of them; small, so that a flipped bit is met soon.
pub fn ring(kind: Kind, policy: u32) -> Options {
    Options { kind: Some(kind), policy, max_handles: 8, ..Options::new(16, ITEM as u32) }
}

/// Microseconds by which a call of this process was longest beyond its timeout.
pub static LONGEST: AtomicU64 = AtomicU64::new(0);

/// Answers that told of a cut.
pub static CUTS: AtomicU64 = AtomicU64::new(0);

static PANICS: AtomicU32 = AtomicU32::new(0);

/// From now on [`no_panic`] tells of every panic in this process, caught or not.
pub fn watch_for_panics() {
    static WATCHING: AtomicBool = AtomicBool::new(false);
    if !WATCHING.swap(true, Ordering::Relaxed) {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.fetch_add(1, Ordering::Relaxed);
            before(panic);
        }));
    }
}

pub fn no_panic() {
    assert_eq!(PANICS.load(Ordering::Relaxed), 0, "the library panicked");
}

/// Makes a call that has `timeout` nanoseconds.
#[track_caller]
pub fn bounded<T>(timeout: i64, call: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = call();
    let (took, timeout) = (start.elapsed(), Duration::from_nanos(timeout as u64));
    assert!(took < timeout + BOUND, "a call with {timeout:?} took {took:?}");
    LONGEST.fetch_max(took.saturating_sub(timeout).as_micros() as u64, Ordering::Relaxed);
    done
}

/// A call may succeed, or fail with one of `codes`.
#[track_caller]
pub fn allow<T>(codes: &[c_int], outcome: Outcome<T>) -> Option<T> {
    match outcome {
        Ok(done) => Some(done),
        Err(Failure { code, text }) => {
            assert!(codes.contains(&code), "error {code}, which is none of {codes:?}: {text:?}");
            if text.contains("shorter") {
                CUTS.fetch_add(1, Ordering::Relaxed);
            }
            None
        }
    }
}

/// What opening a ring that is there may answer.
pub const OPEN: &[c_int] = &[libc::EPROTO, libc::EBADMSG, libc::EBUSY, libc::EMFILE];
/// What a push may answer.
pub const PUSH: &[c_int] = &[
    libc::EAGAIN,
    libc::ETIMEDOUT,
    libc::EPIPE,
    libc::EOWNERDEAD,
    libc::EBUSY,
    libc::EBADMSG,
    libc::EMFILE,
];
/// What a pop may answer.
pub const POP: &[c_int] = &[
    libc::EAGAIN,
    libc::ETIMEDOUT,
    libc::EPIPE,
    libc::EOWNERDEAD,
    libc::EBUSY,
    libc::EBADMSG,
    libc::EMFILE,
    libc::EOVERFLOW,
];
/// What giving back a run may answer.
pub const GIVE_BACK: &[c_int] = &[libc::EPIPE, libc::EBADMSG, libc::EOVERFLOW];

/// One operation of a ring, chosen by `dice`, held to its bound and its codes. Whether it moved
/// something.
#[track_caller]
pub fn operate<F: Face>(ring: &F, access: c_int, dice: &mut Dice) -> bool {
    let timeout = [NOWAIT, NOWAIT, 1_000, 300_000][dice.roll(4) as usize];
    let push = match access {
        libc::O_WRONLY => true,
        libc::O_RDONLY => false,
        _ => dice.roll(2) == 0,
    };
    let mut items = [0x5a; 4 * ITEM];
    let one = &mut items[..ITEM];
    let done = match (push, dice.roll(40)) {
        (_, 0) => {
            let stats = bounded(0, || ring.stat());
            // A stop-proof ring may hold its reservations besides.
            let most = 2 * stats.capacity;
            assert!(stats.length <= most, "a length of {} of {most}", stats.length);
            None
        }
        (true, 1..4) => {
            let run = bounded(timeout, || ring.reserve(5, timeout));
            allow(PUSH, run).map(|(at, run)| {
                assert!((1..=5).contains(&run));
                // SAFETY: the run is the caller's to write.
                unsafe { at.write_bytes(1, run * ITEM) };
                let count = dice.roll(run as u64 + 1) as usize;
                allow(GIVE_BACK, bounded(0, || ring.commit(count)));
            })
        }
        (true, 4..8) => {
            let moved = bounded(timeout, || ring.push_many(&items, ITEM, timeout));
            allow(PUSH, moved).map(|count| assert!((1..=4).contains(&count)))
        }
        (false, 1..4) => {
            let run = bounded(timeout, || ring.peek(5, timeout));
            allow(POP, run).map(|(at, run)| {
                assert!((1..=5).contains(&run));
                let mut bytes = vec![0; run * ITEM];
                // SAFETY: the run may be read until it is released.
                unsafe { at.copy_to(bytes.as_mut_ptr(), bytes.len()) };
                let count = dice.roll(run as u64 + 1) as usize;
                allow(GIVE_BACK, bounded(0, || ring.release(count)));
            })
        }
        (false, 4..8) => {
            let moved = bounded(timeout, || ring.pop_many(&mut items, ITEM, timeout));
            allow(POP, moved).map(|count| assert!((1..=4).contains(&count)))
        }
        (true, 8) => wait(ring, madang::ffi::ring::MDG_POLL_OUT, PUSH, timeout),
        (false, 8) => wait(ring, madang::ffi::ring::MDG_POLL_IN, POP, timeout),
        (true, 9) => poll(ring, madang::ffi::ring::MDG_POLL_OUT, PUSH),
        (false, 9) => poll(ring, madang::ffi::ring::MDG_POLL_IN, POP),
        (true, _) => allow(PUSH, bounded(timeout, || ring.push(one, timeout))),
        (false, _) => allow(POP, bounded(timeout, || ring.pop(one, timeout))),
    };
    done.is_some()
}

fn wait<F: Face>(ring: &F, events: u32, codes: &[c_int], timeout: i64) -> Option<()> {
    let mut entries = [Entry::ring(ring, events)];
    allow(codes, bounded(timeout, || F::wait_any(&mut entries, timeout))).map(drop)
}

fn poll<F: Face>(ring: &F, events: u32, codes: &[c_int]) -> Option<()> {
    allow(codes, bounded(0, || ring.fd(events))).map(drop)
}
