//! Threads of one process at the same objects, each by a handle of its own where the object wants
//! that: what a thread sanitizer can look at (`make sanitize`), which knows nothing of other
//! processes. What a semaphore or a mutex protects is plain memory here. What goes through a ring is
//! not: each handle has a mapping of its own, and to the sanitizer two addresses are two places. It
//! sees what handles share besides, and the models of `src` see the rest.

mod support;

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use madang::mutex::{Cond, Locked, Mutex};
use madang::ring::{Events, Kind, Options, Ring, Source, Wait, policy, wait_any};
use madang::sem::{Semaphore, UndoOptions, UndoSemaphore};
use madang::{Access, Creation, Timeout};
use support::unique;

const ITEMS: u64 = 2_000;

/// Threads of one scope, each joined by itself: the end of a scope is nothing that a sanitizer sees.
struct Threads<'scope, 'env>(
    &'scope thread::Scope<'scope, 'env>,
    Vec<thread::ScopedJoinHandle<'scope, ()>>,
);

impl<'scope> Threads<'scope, '_> {
    fn spawn(&mut self, body: impl FnOnce() + Send + 'scope) {
        self.1.push(self.0.spawn(body));
    }

    fn join(&mut self) {
        self.1.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

fn scope<'env>(body: impl for<'scope> FnOnce(&mut Threads<'scope, 'env>)) {
    thread::scope(|scope| {
        let mut threads = Threads(scope, Vec::new());
        body(&mut threads);
        threads.join();
    });
}

/// Memory that one thread writes and another reads, ordered by nothing but what is under test.
struct Plain(UnsafeCell<u64>);

// SAFETY: which thread may touch it when is what is under test.
unsafe impl Sync for Plain {}

impl Plain {
    fn get(&self) -> u64 {
        // SAFETY: this thread holds the permit, or the mutex.
        unsafe { *self.0.get() }
    }

    fn add(&self) {
        // SAFETY: this thread holds the permit, or the mutex.
        unsafe { *self.0.get() += 1 }
    }
}

fn kinds() -> [(Options, bool); 6] {
    let of = |kind, policy, size| Options { kind: Some(kind), policy, ..Options::new(8, size) };
    [
        (of(Kind::Spsc, 0, 8), false),
        (of(Kind::Spsc, 0, 1000), false),
        (of(Kind::Mpmc, 0, 8), true),
        (of(Kind::Mpmc, 0, 40), true),
        (of(Kind::Mpmc, policy::STOPPROOF, 24), true),
        (of(Kind::Broadcast, 0, 24), false),
    ]
}

/// An item of the ring's size that begins with `value` and is full of it.
fn item(value: u64, size: usize) -> Vec<u8> {
    value.to_ne_bytes().iter().copied().cycle().take(size).collect()
}

fn value(item: &[u8]) -> u64 {
    let value = u64::from_ne_bytes(item[..8].try_into().unwrap());
    assert_eq!(item, self::item(value, item.len()), "torn");
    value
}

/// Every thread's numbers arrive, once.
#[test]
fn streams() {
    for (options, many) in kinds() {
        let size = options.item_size as usize;
        let ring = Ring::anonymous(&options, Access::ReadWrite).unwrap();
        let (threads, sum) = (if many { 2 } else { 1 }, AtomicU64::new(0));
        let left = &AtomicU64::new(threads as u64);
        let handles = |access| -> Vec<Ring> {
            (0..threads).map(|_| ring.duplicate(access).unwrap()).collect()
        };
        let consumers = handles(Access::ReadOnly);
        let producers = handles(Access::WriteOnly);
        scope(|scope| {
            for consumer in consumers {
                let sum = &sum;
                scope.spawn(move || {
                    let mut bytes = vec![0; 3 * size];
                    while let Ok(count) = consumer.pop_many(&mut bytes, Timeout::Forever) {
                        for item in bytes[..count * size].chunks(size) {
                            let number = value(item);
                            sum.fetch_add(number, Ordering::Relaxed);
                        }
                    }
                });
            }
            let producing = |first: u64, producer: Ring| {
                for number in (first..ITEMS).step_by(threads) {
                    producer.push(&item(number, size), Timeout::Forever).unwrap();
                }
                left.fetch_sub(1, Ordering::AcqRel);
            };
            for (first, producer) in producers.into_iter().enumerate() {
                scope.spawn(move || producing(first as u64, producer));
            }
            while left.load(Ordering::Acquire) > 0 {
                thread::yield_now();
            }
            ring.shutdown().unwrap();
        });
        assert_eq!(sum.into_inner(), ITEMS * (ITEMS - 1) / 2, "{options:?}");
    }
}

/// In place: the producer writes and the consumer reads the ring's own memory.
#[test]
fn in_place() {
    for (options, many) in kinds() {
        let size = options.item_size as usize;
        let ring = Ring::anonymous(&options, Access::ReadWrite).unwrap();
        let consumer = ring.duplicate(Access::ReadOnly).unwrap();
        let producer = ring.duplicate(Access::WriteOnly).unwrap();
        scope(|scope| {
            scope.spawn(move || {
                for number in 0..ITEMS {
                    let (at, count) = producer.reserve(1, Timeout::Forever).unwrap();
                    assert_eq!(count, 1);
                    // SAFETY: one item, this thread's until the commit.
                    unsafe { at.as_ptr().copy_from(item(number, size).as_ptr(), size) };
                    producer.commit(1).unwrap();
                }
            });
            for number in 0..ITEMS {
                let (at, _) = consumer.peek(1, Timeout::Forever).unwrap();
                // SAFETY: one item, this thread's until the release.
                let bytes = unsafe { std::slice::from_raw_parts(at.as_ptr(), size) };
                assert_eq!(value(bytes), number);
                consumer.release(1).unwrap();
            }
        });
        assert!(many || ring.stat().written == ITEMS);
    }
}

/// Consumers that are overtaken or evicted, and producers that overwrite: nothing torn.
#[test]
fn overwriting() {
    let of = |kind, policy| Options { kind: Some(kind), policy, ..Options::new(4, 24) };
    let kinds = [
        of(Kind::Broadcast, policy::OVERWRITE),
        of(Kind::Broadcast, policy::EVICT),
        of(Kind::Mpmc, policy::OVERWRITE),
        of(Kind::Mpmc, policy::OVERWRITE | policy::STOPPROOF),
    ];
    for options in kinds {
        let ring = Ring::anonymous(&options, Access::ReadWrite).unwrap();
        let consumers: Vec<_> = (0..2).map(|_| ring.duplicate(Access::ReadOnly).unwrap()).collect();
        let producer = ring.duplicate(Access::WriteOnly).unwrap();
        scope(|scope| {
            for consumer in consumers {
                scope.spawn(move || {
                    let (mut bytes, mut last) = ([0; 24], None);
                    loop {
                        match consumer.pop(&mut bytes, Timeout::Forever) {
                            Ok(()) => {
                                let number = value(&bytes);
                                assert!(last.is_none_or(|last| last < number));
                                last = Some(number);
                            }
                            Err(error) if error.errno() == libc::EOVERFLOW => {}
                            Err(error) => break assert_eq!(error.errno(), libc::EPIPE, "{error}"),
                        }
                    }
                });
            }
            for number in 0..ITEMS {
                producer.push(&item(number, 24), Timeout::Forever).unwrap();
            }
            ring.shutdown().unwrap();
        });
    }
}

/// Permits and a mutex: one thread at a time at the plain memory behind them.
#[test]
fn permits_and_locks() {
    let rounds = ITEMS / 10;
    let plain = Plain(UnsafeCell::new(0));
    let (posix, undo) = (unique("threads"), unique("threads"));
    let posix = {
        let sem = Semaphore::open(posix.as_bytes(), 1, Creation::CreateNew, 0o600).unwrap();
        Semaphore::unlink(posix.as_bytes()).unwrap();
        sem
    };
    let options = UndoOptions { value: 1, ..UndoOptions::default() };
    let opened = UndoSemaphore::open(undo.as_bytes(), &options, Creation::CreateNew, 0o600);
    let opened = opened.unwrap();
    madang::sem::AnySemaphore::unlink(undo.as_bytes()).unwrap();
    let name = unique("threads");
    let mutex = Mutex::open(name.as_bytes(), Creation::CreateNew, 0o600).unwrap();
    Mutex::unlink(name.as_bytes()).unwrap();
    let cond = Cond::open(name.as_bytes(), Creation::CreateNew, 0o600).unwrap();
    Cond::unlink(name.as_bytes()).unwrap();
    let three = |one_round: &(dyn Fn(u64) + Sync)| {
        scope(|scope| {
            for mine in 0..3 {
                scope.spawn(move || (0..rounds).for_each(|_| one_round(mine)));
            }
        });
    };
    three(&|_| {
        posix.wait(Timeout::Forever).unwrap();
        plain.add();
        posix.post().unwrap();
    });
    three(&|_| {
        let _permit = opened.wait(Timeout::Forever).unwrap();
        plain.add();
        opened.post().unwrap();
    });
    three(&|mine| {
        assert_eq!(mutex.lock(Timeout::Forever).unwrap(), Locked::Clean);
        while plain.get() % 3 != mine {
            let (waited, _) = cond.wait(&mutex, Timeout::Forever).unwrap();
            waited.unwrap();
        }
        plain.add();
        cond.broadcast();
        mutex.unlock().unwrap();
    });
    assert_eq!(plain.get(), 9 * rounds);
}

/// Waiting on many, descriptors of rings, and cancelling from another thread.
#[test]
fn waiting_and_cancelling() {
    let rings: Vec<_> = kinds()
        .iter()
        .map(|(options, _)| {
            let ring = Ring::anonymous(options, Access::ReadWrite).unwrap();
            (ring.duplicate(Access::ReadOnly).unwrap(), ring.duplicate(Access::WriteOnly).unwrap())
        })
        .collect();
    let (consumers, producers): (Vec<_>, Vec<_>) = rings.into_iter().unzip();
    let rounds = ITEMS / 20;
    scope(|scope| {
        scope.spawn(move || {
            for number in 0..rounds {
                for producer in &producers {
                    let size = producer.stat().item_size as usize;
                    producer.push(&item(number, size), Timeout::Forever).unwrap();
                }
            }
        });
        let mut next = vec![0; consumers.len()];
        while next.iter().any(|&next| next < rounds) {
            let wait = |(ring, &next): (_, &u64)| {
                let source = if next < rounds { Source::Ring(ring) } else { Source::Nothing };
                Wait { source, events: Events::IN, ready: Events::NONE }
            };
            let mut waits: Vec<_> = consumers.iter().zip(&next).map(wait).collect();
            wait_any(&mut waits, Timeout::Forever).unwrap();
            let ready: Vec<_> = waits.iter().map(|wait| wait.ready == Events::IN).collect();
            for (at, _) in ready.iter().enumerate().filter(|(_, ready)| **ready) {
                let mut bytes = vec![0; consumers[at].stat().item_size as usize];
                if consumers[at].pop(&mut bytes, Timeout::NoWait).is_ok() {
                    assert_eq!(value(&bytes), next[at]);
                    next[at] += 1;
                }
            }
        }
    });
    let ring = Ring::anonymous(&Options::new(8, 8), Access::ReadWrite).unwrap();
    let over = AtomicBool::new(false);
    let canceller = ring.canceller();
    scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                canceller.cancel();
                thread::sleep(Duration::from_micros(100));
            }
        });
        for _ in 0..100 {
            let error = ring.pop(&mut [0; 8], Timeout::Forever).unwrap_err();
            assert_eq!(error.errno(), libc::ECANCELED, "{error}");
        }
        over.store(true, Ordering::Relaxed);
    });
}
