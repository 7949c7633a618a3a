//! Rings that redeliver, whose participants are killed at random moments.

mod support;

use madang::ring::Options;
use std::sync::atomic::Ordering;
use support::face::FOREVER;
use support::process::{Gate, fork, join, kill, serial, shared_words};
use support::redeliver::*;
use support::ring_face::{C, CREATE, Face, Named};

/// Producers, and workers that peek, work, release: killed at random moments. All that was pushed is
/// worked on, at least once; none twice but for those that a killed worker had in hands.
#[test]
fn every_item_is_worked_on() {
    let _turn = serial();
    for (capacity, rounds) in [(1, 60), (4, 120), (64, 120)] {
        let name = Named::new("work");
        let ring = C::open(Some(&name.0), &redelivering(capacity), CREATE, 0o600).unwrap();
        let (worked, next) = (shared_words(1 << 22), &shared_words(1)[0]);
        let enough = &shared_words(1)[0];
        let started = Gate::new();
        let open = |access| C::open(Some(&name.0), &Options::default(), access, 0).unwrap();
        let produce = || {
            let child = fork(|| {
                let ring = open(libc::O_WRONLY);
                started.open();
                while enough.load(Ordering::Relaxed) == 0 {
                    // All numbers are used up, but for those that two producers may take at once.
                    if next.load(Ordering::Relaxed) + 2 > worked.len() as u64 {
                        std::thread::yield_now();
                        continue;
                    }
                    let value = next.fetch_add(1, Ordering::Relaxed);
                    ring.push(&value.to_ne_bytes(), FOREVER).unwrap();
                    // Pushed; what is not marked so may have been pushed as well.
                    worked[value as usize].fetch_or(1 << 32, Ordering::Relaxed);
                }
            });
            started.pass();
            child
        };
        let work = || {
            let child = fork(|| {
                let ring = open(libc::O_RDONLY);
                started.open();
                loop {
                    match ring.peek(1, FOREVER) {
                        Ok((item, _)) => {
                            // SAFETY: one item of eight bytes.
                            let value = unsafe { item.cast::<u64>().read_unaligned() };
                            worked[value as usize].fetch_add(1, Ordering::Relaxed);
                            ring.release(1).unwrap();
                        }
                        Err(error) => {
                            assert_eq!(error.code, libc::EPIPE, "{}", error.text);
                            return;
                        }
                    }
                }
            });
            started.pass();
            child
        };
        let mut producers = vec![produce(), produce()];
        let mut workers = vec![work(), work()];
        let mut kills = 0;
        for round in 0..rounds {
            (0..round * 7919 % 4001).for_each(|_| std::hint::spin_loop());
            std::thread::yield_now();
            if round % 4 == 0 {
                kill(producers.swap_remove(round / 4 % 2));
                producers.push(produce());
            } else {
                kill(workers.swap_remove(round % 2));
                kills += 1;
                workers.push(work());
            }
        }
        enough.store(1, Ordering::Relaxed);
        producers.into_iter().for_each(join);
        ring.shutdown().unwrap();
        workers.into_iter().for_each(join);
        let mut again = 0;
        for word in &worked[..next.load(Ordering::Relaxed) as usize] {
            let word = word.load(Ordering::Relaxed);
            let (pushed, times) = (word >> 32 == 1, word & u64::from(u32::MAX));
            assert!(times >= u64::from(pushed), "pushed and not worked on");
            again += times.saturating_sub(1);
        }
        let stats = ring.stat();
        assert!(again <= stats.redelivered && stats.redelivered <= kills, "{again} of {kills}");
        assert_eq!((stats.written, stats.lost, stats.length), (stats.read, 0, 0));
        assert!(stats.read > 0);
    }
}

/// Consumers that pop batches, killed at random moments: no item is returned twice, and each takes no
/// more along than the batch that it had freed and not returned.
#[test]
fn no_item_is_popped_twice() {
    let _turn = serial();
    let name = Named::new("twice");
    let ring = C::open(Some(&name.0), &redelivering(16), CREATE, 0o600).unwrap();
    let (times, sent) = (shared_words(1 << 22), &shared_words(1)[0]);
    let enough = &shared_words(1)[0];
    let started = Gate::new();
    let open = |access| C::open(Some(&name.0), &Options::default(), access, 0).unwrap();
    let producer = fork(|| {
        let ring = open(libc::O_WRONLY);
        started.open();
        for value in 0..times.len() as u64 {
            if enough.load(Ordering::Relaxed) != 0 {
                break;
            }
            ring.push(&value.to_ne_bytes(), FOREVER).unwrap();
            sent.store(value + 1, Ordering::Relaxed);
        }
    });
    started.pass();
    let consume = || {
        let child = fork(|| {
            let ring = open(libc::O_RDONLY);
            started.open();
            let mut items = [0; 24];
            loop {
                let Ok(count) = ring.pop_many(&mut items, 8, FOREVER) else { return };
                for item in items[..8 * count].chunks_exact(8) {
                    let value = u64::from_ne_bytes(item.try_into().unwrap());
                    times[value as usize].fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        started.pass();
        child
    };
    let mut consumers = vec![consume(), consume(), consume()];
    let rounds = 150;
    for round in 0..rounds {
        (0..round * 7919 % 4001).for_each(|_| std::hint::spin_loop());
        std::thread::yield_now();
        kill(consumers.swap_remove(round % 3));
        consumers.push(consume());
    }
    enough.store(1, Ordering::Relaxed);
    join(producer);
    ring.shutdown().unwrap();
    consumers.into_iter().for_each(join);
    let sent = sent.load(Ordering::Relaxed) as usize;
    let mut missing = 0;
    for word in &times[..sent] {
        let times = word.load(Ordering::Relaxed);
        assert!(times <= 1, "{times} times");
        missing += 1 - times;
    }
    assert!(missing <= 3 * rounds as u64, "{missing} of {sent} missing");
    let stats = ring.stat();
    assert_eq!((stats.written, stats.lost, stats.length), (stats.read, 0, 0));
    assert_eq!(stats.written, sent as u64);
}
