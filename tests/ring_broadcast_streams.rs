//! Broadcast rings at full speed, between real processes, some of which are killed.

mod support;

use madang::ring::{Options, Start};
use support::broadcast::*;
use support::face::FOREVER;
use support::process::{Gate, fork, join, kill, serial};
use support::ring_face::{C, CREATE, Face, Named, SECOND, pattern};

/// Real processes at full speed: order, whole items, and exact sums for everyone.
#[test]
fn streams() {
    let _turn = serial();
    for policy in POLICIES {
        for (consumers, capacity) in [(1, 1), (2, 2), (3, 8), (8, 8), (3, 1024), (8, 1024)] {
            let count = if capacity < 8 { 3_000 } else { 40_000 };
            for batch in [1, 5] {
                stream(policy, consumers, capacity, count, batch);
            }
        }
    }
}

fn stream(policy: u32, consumers: usize, capacity: u64, count: u64, batch: usize) {
    const SIZE: usize = 40;
    let ring: C = open(&broadcast(capacity, SIZE as u32, policy));
    let joined = Gate::new();
    let consume = |_| {
        fork(|| {
            let consumer = consumer(&ring);
            joined.open();
            let mut items = vec![0; SIZE * batch];
            let (mut received, mut expected) = (0_u64, [0; SIZE]);
            loop {
                match consumer.pop_many(&mut items, SIZE, 20 * SECOND) {
                    Ok(got) => {
                        for item in items.chunks(SIZE).take(got) {
                            pattern(received + consumer.lost(), &mut expected);
                            assert_eq!(item, expected, "item {received}, lost {}", consumer.lost());
                            received += 1;
                        }
                    }
                    Err(error) if error.code == libc::EOVERFLOW => assert_ne!(policy, 0),
                    Err(error) => {
                        assert_eq!(error.code, libc::EPIPE, "{}", error.text);
                        break;
                    }
                }
            }
            assert_eq!(received + consumer.lost(), count, "policy {policy}, capacity {capacity}");
        })
    };
    let children: Vec<_> = (0..consumers).map(consume).collect();
    children.iter().for_each(|_| joined.pass());
    let mut items = vec![0; SIZE * batch];
    let mut next = 0;
    while next < count {
        let many = batch.min((count - next) as usize);
        for (item, index) in items.chunks_mut(SIZE).zip(next..) {
            pattern(index, item);
        }
        next += ring.push_many(&items[..SIZE * many], SIZE, FOREVER).unwrap() as u64;
    }
    ring.shutdown().unwrap();
    children.into_iter().for_each(join);
    let [written, ..] = sums(&ring);
    assert_eq!(written, count);
}

/// Producers and consumers killed at random moments; a consumer that lives through all of it sees an
/// unbroken stream, but for what it is told it lost.
#[test]
fn random_kills() {
    let _turn = serial();
    for policy in POLICIES {
        let name = Named::new("kills");
        let ring = C::open(Some(&name.0), &broadcast(8, 40, policy), CREATE, 0o600).unwrap();
        let witness = consumer(&ring);
        let produce = || {
            let started = Gate::new();
            let child = fork(|| {
                let ring = C::open(Some(&name.0), &Options::default(), libc::O_WRONLY, 0).unwrap();
                started.open();
                // Numbers go on where the last producer stopped.
                for index in ring.stat().written.. {
                    let mut item = [0; 40];
                    pattern(index, &mut item);
                    ring.push(&item, FOREVER).unwrap();
                }
            });
            started.pass();
            child
        };
        let consume = |round: usize| {
            let started = Gate::new();
            let child = fork(|| {
                let start = if round.is_multiple_of(2) { Start::Oldest } else { Start::Now };
                let options = Options { start, ..Options::default() };
                let ring = C::open(Some(&name.0), &options, libc::O_RDONLY, 0).unwrap();
                started.open();
                loop {
                    let _ = ring.pop_many(&mut [0; 120], 40, FOREVER);
                }
            });
            started.pass();
            child
        };
        let mut producer = produce();
        let mut consumers: Vec<_> = (0..2).map(consume).collect();
        let (mut received, mut item, mut expected) = (0, [0; 40], [0; 40]);
        let rounds = 100;
        for round in 0..rounds {
            for _ in 0..1 + round * 7 % 40 {
                match witness.pop(&mut item, 20 * SECOND) {
                    Ok(()) => {
                        pattern(received + witness.lost(), &mut expected);
                        assert_eq!(item, expected, "item {received}, lost {}", witness.lost());
                        received += 1;
                    }
                    Err(error) => assert_eq!(error.code, libc::EOVERFLOW, "{}", error.text),
                }
            }
            match round % 3 {
                0 => {
                    kill(std::mem::replace(&mut producer, fork(|| {})));
                    let forked = std::mem::replace(&mut producer, produce());
                    join(forked);
                }
                which => {
                    kill(consumers.remove(0));
                    consumers.push(consume(round + which));
                }
            }
        }
        kill(producer);
        consumers.into_iter().for_each(kill);
        loop {
            match witness.pop(&mut item, 20 * SECOND) {
                Ok(()) => received += 1,
                Err(error) if error.code == libc::EOVERFLOW => assert_ne!(policy, 0),
                Err(error) => {
                    assert_eq!(error.code, libc::EOWNERDEAD, "{}", error.text);
                    break;
                }
            }
        }
        let [written, ..] = sums(&ring);
        assert_eq!(received + witness.lost(), written);
        assert_eq!(ring.stat().recovered, rounds as u64 + 3);
    }
}
