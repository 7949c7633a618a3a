//! Storms: many processes at full speed on one ring, killed, stopped, forked, replaced, at random
//! moments. Nothing wedges; no item is torn, comes twice, or overtakes another of its producer; the
//! sums close.
//!
//! A storm ends after a number of strikes; `MADANG_STRIKES` changes it (`make storm`). The random
//! numbers are the same in every run, the moments are not.

mod support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use madang::ring::{Kind, Options, Ring, policy};
use madang::shm::Shm;
use madang::{Access, Creation, OpenFlags, Timeout};
use nix::sys::signal::{Signal, kill as signal};
use support::process::{Child, fork, kill, serial};
use support::ring_face::{Named, SECOND};

/// Words of an item: its number, its producer, its place in that producer's order, and their sum
/// mixed over the rest.
const WORDS: usize = 6;
const BYTES: usize = 8 * WORDS;

/// Items that can be told apart.
const MOST: usize = 1 << 26;

fn item(number: u64, producer: u64, order: u64) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    let mix = (number ^ producer << 32 ^ order).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for (at, word) in [number, producer, order, mix, !mix, mix].into_iter().enumerate() {
        bytes[8 * at..8 * at + 8].copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// What all processes of a storm share beside the ring: who has seen what.
struct Ledger(Shm);

impl Ledger {
    fn new() -> Self {
        Self(Shm::anonymous(MOST / 8 + 64, false).unwrap())
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        // SAFETY: inside the segment, zero at first, used as an atomic only.
        unsafe { self.0.as_ptr().cast::<AtomicU64>().add(at).as_ref() }
    }

    /// The next number for an item; `None` when the storm has used them up.
    fn number(&self) -> Option<u64> {
        let number = self.word(0).fetch_add(1, Ordering::Relaxed);
        (number < MOST as u64).then_some(number)
    }

    fn producer(&self) -> u64 {
        self.word(1).fetch_add(1, Ordering::Relaxed)
    }

    /// Somebody's operation has succeeded.
    fn progress(&self) -> &AtomicU64 {
        self.word(2)
    }

    /// Notes that an item was delivered; panics if it was before.
    fn delivered(&self, number: u64) {
        let (word, bit) = (8 + number as usize / 64, 1 << (number % 64));
        let before = self.word(word).fetch_or(bit, Ordering::Relaxed);
        assert_eq!(before & bit, 0, "item {number} came twice");
    }
}

/// Small, and the same everywhere: Marsaglia's xorshift64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// One kind of ring in a storm.
#[derive(Clone, Copy)]
struct Weather {
    options: Options,
    /// Whether each item is for one consumer only.
    once: bool,
}

impl Weather {
    fn new(kind: Kind, policy: u32, capacity: u64) -> Self {
        let options = Options {
            kind: Some(kind),
            policy,
            max_handles: 16,
            ..Options::new(capacity, BYTES as u32)
        };
        Self { options, once: kind != Kind::Broadcast }
    }
}

/// What may happen to anybody in a storm: would wait, timed out, interrupted, the other end died, the
/// end is held, all slots are taken, lapped.
fn is_weather(errno: i32) -> bool {
    [
        libc::EAGAIN,
        libc::ETIMEDOUT,
        libc::EINTR,
        libc::EOWNERDEAD,
        libc::EBUSY,
        libc::EMFILE,
        libc::EOVERFLOW,
    ]
    .contains(&errno)
}

struct Worker<'a> {
    ring: Ring,
    weather: Weather,
    ledger: &'a Ledger,
    producer: u64,
    order: u64,
    last: HashMap<u64, u64>,
}

impl<'a> Worker<'a> {
    fn new(ring: Ring, weather: Weather, ledger: &'a Ledger) -> Self {
        let producer = ledger.producer();
        Self { ring, weather, ledger, producer, order: 0, last: HashMap::new() }
    }

    #[track_caller]
    fn allow<T>(&self, result: madang::Result<T>) -> Option<T> {
        match result {
            Ok(done) => {
                self.ledger.progress().fetch_add(1, Ordering::Relaxed);
                Some(done)
            }
            Err(error) => {
                assert!(is_weather(error.errno()), "{error}");
                None
            }
        }
    }

    fn next(&mut self) -> Option<[u8; BYTES]> {
        self.order += 1;
        Some(item(self.ledger.number()?, self.producer, self.order))
    }

    fn push(&mut self, timeout: Timeout) -> Option<()> {
        let next = self.next()?;
        self.allow(self.ring.push(&next, timeout))
    }

    fn push_some(&mut self, timeout: Timeout) -> Option<()> {
        let mut items = Vec::new();
        for _ in 0..3 {
            items.extend(self.next()?);
        }
        self.allow(self.ring.push_many(&items, timeout)).map(drop)
    }

    fn push_in_place(&mut self, timeout: Timeout, commit: bool) -> Option<()> {
        let next = self.next()?;
        let (room, _) = self.allow(self.ring.reserve(1, timeout))?;
        // SAFETY: room for one item at least.
        unsafe { room.as_ptr().copy_from_nonoverlapping(next.as_ptr(), BYTES) };
        self.allow(self.ring.commit(usize::from(commit)))
    }

    /// Looks at what came.
    fn check(&mut self, bytes: &[u8]) {
        let word = |at: usize| u64::from_le_bytes(bytes[8 * at..8 * at + 8].try_into().unwrap());
        let (number, producer, order) = (word(0), word(1), word(2));
        assert_eq!(bytes, item(number, producer, order), "a torn item");
        let last = self.last.insert(producer, order).unwrap_or(0);
        // What a dead consumer had comes behind what others have taken meanwhile.
        let in_order = self.weather.options.policy & policy::REDELIVER == 0;
        assert!(order > last || !in_order, "item {order} of producer {producer} came after {last}");
        if self.weather.once {
            self.ledger.delivered(number);
        }
    }

    fn pop(&mut self, timeout: Timeout) -> Option<()> {
        let mut bytes = [0; BYTES];
        self.allow(self.ring.pop(&mut bytes, timeout))?;
        self.check(&bytes);
        Some(())
    }

    fn pop_some(&mut self, timeout: Timeout) -> Option<()> {
        let mut bytes = [0; 4 * BYTES];
        let count = self.allow(self.ring.pop_many(&mut bytes, timeout))?;
        bytes[..count * BYTES].chunks(BYTES).for_each(|item| self.check(item));
        Some(())
    }

    fn pop_in_place(&mut self, timeout: Timeout) -> Option<()> {
        let (item, _) = self.allow(self.ring.peek(1, timeout))?;
        let mut bytes = [0; BYTES];
        // SAFETY: one item at least.
        unsafe { item.as_ptr().copy_to_nonoverlapping(bytes.as_mut_ptr(), BYTES) };
        self.allow(self.ring.release(1))?;
        self.check(&bytes);
        Some(())
    }

    /// One thing that users do.
    fn act(&mut self, dice: &mut Dice, access: Access) {
        let timeout = match dice.roll(4) {
            0 => Timeout::NoWait,
            _ => Timeout::from_nanos(1 + dice.roll(300_000) as i64),
        };
        let push = match access {
            Access::WriteOnly => true,
            Access::ReadOnly => false,
            Access::ReadWrite => dice.roll(2) == 0,
        };
        let _ = match (push, dice.roll(6)) {
            (true, 0) => self.push_some(timeout),
            (true, 1) => {
                let commit = dice.roll(4) != 0;
                self.push_in_place(timeout, commit)
            }
            (true, _) => self.push(timeout),
            (false, 0) => self.pop_some(timeout),
            (false, 1) => self.pop_in_place(timeout),
            (false, _) => self.pop(timeout),
        };
    }
}

/// A process of the storm; it ends by being killed.
fn rage(name: &str, weather: Weather, ledger: &Ledger, seed: u64) {
    let mut dice = Dice(seed);
    loop {
        let access = match dice.roll(5) {
            0 | 1 => Access::WriteOnly,
            2 | 3 => Access::ReadOnly,
            _ => Access::ReadWrite,
        };
        let flags = OpenFlags::new(access, Creation::OpenOnly);
        let ring = match Ring::open(name.as_bytes(), &Options::default(), flags, 0) {
            Ok(ring) => ring,
            Err(error) => {
                assert!(is_weather(error.errno()), "{error}");
                std::thread::yield_now();
                continue;
            }
        };
        let mut worker = Worker::new(ring, weather, ledger);
        for _ in 0..dice.roll(3000) {
            worker.act(&mut dice, access);
        }
        if dice.roll(4) == 0 {
            // A child that uses the handle it was born with and then leaves as it likes.
            let seed = dice.roll(u64::MAX) | 1;
            let parent = nix::unistd::getpid();
            let child = fork(|| {
                // Dies with its parent, so that the calm after the storm is one.
                // SAFETY: a plain number.
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                if nix::unistd::getppid() != parent {
                    return;
                }
                let mut dice = Dice(seed);
                worker.producer = ledger.producer();
                worker.order = 0;
                for _ in 0..dice.roll(200) {
                    worker.act(&mut dice, access);
                }
                if seed.is_multiple_of(3) {
                    // The kernel takes the handles away with the program.
                    let _ = nix::unistd::execv(c"/bin/true", &[c"true"]);
                }
            });
            let status = child.end();
            assert!(matches!(status, nix::sys::wait::WaitStatus::Exited(_, 0)), "{status:?}");
        }
    }
}

fn strikes() -> u64 {
    let asked = std::env::var("MADANG_STRIKES").ok();
    asked.map_or(30, |text| text.parse().expect("MADANG_STRIKES is a number"))
}

fn storm(weather: Weather, seed: u64) {
    let _turn = serial();
    let name = Named::new("storm");
    let flags = OpenFlags::new(Access::ReadWrite, Creation::CreateNew);
    let ring = Ring::open(name.0.as_bytes(), &weather.options, flags, 0o600).unwrap();
    let ledger = Ledger::new();
    let mut dice = Dice(seed);
    let spawn = |dice: &mut Dice| {
        let seed = dice.roll(u64::MAX) | 1;
        fork(|| rage(&name.0, weather, &ledger, seed))
    };
    let mut processes: Vec<Child> = (0..5).map(|_| spawn(&mut dice)).collect();
    for strike in 0..strikes() {
        // Between strikes the storm must get on: all of them run, so somebody's calls succeed.
        let before = ledger.progress().load(Ordering::Relaxed);
        let limit = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while ledger.progress().load(Ordering::Relaxed) < before + 20 + dice.roll(400) {
            assert!(std::time::Instant::now() < limit, "strike {strike}: nothing moves any more");
            std::thread::yield_now();
        }
        let victim = dice.roll(processes.len() as u64) as usize;
        if dice.roll(3) == 0 {
            // Stopped for a while, in the middle of whatever it did, and then sent on or killed.
            signal(processes[victim].pid(), Signal::SIGSTOP).unwrap();
            for _ in 0..dice.roll(2000) {
                std::thread::yield_now();
            }
            signal(processes[victim].pid(), Signal::SIGCONT).unwrap();
            if dice.roll(2) == 0 {
                continue;
            }
        }
        kill(processes.swap_remove(victim));
        processes.push(spawn(&mut dice));
    }
    processes.into_iter().for_each(kill);

    // The calm: what is inside comes out, and the ring is as good as new.
    let mut calm = Worker::new(ring, weather, &ledger);
    let mut bytes = [0; BYTES];
    let mut left = 0;
    loop {
        match calm.ring.pop(&mut bytes, Timeout::from_nanos(SECOND / 2)) {
            Ok(()) => {
                calm.check(&bytes);
                left += 1;
            }
            Err(error) if error.errno() == libc::EOVERFLOW => {}
            Err(error) => {
                let over = [libc::EOWNERDEAD, libc::ETIMEDOUT].contains(&error.errno());
                assert!(over, "{error}");
                break;
            }
        }
        // What is inside, and the last of whose parent was killed last.
        assert!(left <= 10_000, "no end of items");
    }
    for round in 0..3 * weather.options.capacity {
        let next = calm.next().expect("numbers are left");
        calm.ring.push(&next, Timeout::from_nanos(10 * SECOND)).unwrap();
        calm.ring.pop(&mut bytes, Timeout::from_nanos(10 * SECOND)).unwrap();
        assert_eq!(bytes, next, "round {round}");
    }
    let stats = calm.ring.stat();
    assert_eq!(stats.written, stats.read + stats.dropped + stats.lost + stats.length, "{stats:?}");
    assert_eq!(stats.pending, 0, "{stats:?}");
    assert!(!stats.corrupt, "{stats:?}");
    assert!(stats.lost == 0 || weather.options.policy & policy::REDELIVER == 0, "{stats:?}");
    if weather.once {
        assert_eq!(stats.length, 0, "{stats:?}");
    }
}

#[test]
fn one_producer_one_consumer() {
    storm(Weather::new(Kind::Spsc, 0, 16), 1);
}

#[test]
fn many_to_many() {
    storm(Weather::new(Kind::Mpmc, 0, 16), 2);
}

#[test]
fn many_to_many_small() {
    storm(Weather::new(Kind::Mpmc, 0, 1), 3);
}

#[test]
fn many_to_many_overwriting() {
    storm(Weather::new(Kind::Mpmc, policy::OVERWRITE, 8), 4);
}

#[test]
fn many_to_many_redelivering() {
    storm(Weather::new(Kind::Mpmc, policy::REDELIVER, 8), 9);
}

#[test]
fn stop_proof() {
    storm(Weather::new(Kind::Mpmc, policy::STOPPROOF, 8), 5);
}

#[test]
fn broadcast() {
    storm(Weather::new(Kind::Broadcast, 0, 16), 6);
}

#[test]
fn broadcast_evicting() {
    storm(Weather::new(Kind::Broadcast, policy::EVICT, 16), 7);
}

#[test]
fn broadcast_overwriting() {
    storm(Weather::new(Kind::Broadcast, policy::OVERWRITE, 16), 8);
}
