//! Objects repaired from outside, while their users live, and after they were killed.

mod support;

use std::fs::File;
use std::os::unix::fs::FileExt;

use madang::inventory::{self, Mechanism};
use madang::ring::{Kind, Options, Ring, policy};
use support::face::{NOWAIT, refused_with};
use support::object_face::{
    C, Inventory, KINDS, Rust, check, frozen, is_sound, item, open, options,
};
use support::process::{Child, Gate, fork, join, kill, serial};
use support::ring_face::{Face, Named, SECOND};

on_both_faces! { Rust, C in turn:
    what_the_dead_left_is_found_and_mended
    items_survive_a_repair
    the_living_are_not_robbed
    other_kinds
}

/// Both ends killed with a run reserved and one peeked, and one more in its sleep.
fn what_the_dead_left_is_found_and_mended<I: Inventory>() {
    for kind in KINDS {
        let name = Named::new("corpses");
        let ring: I::Ring = open(&name, kind, libc::O_RDWR);
        let producer = frozen(|| {
            let ring: I::Ring = open(&name, kind, libc::O_WRONLY);
            (0..3).for_each(|value| ring.push(&item(value), NOWAIT).unwrap());
            ring.reserve(2, NOWAIT).unwrap();
            std::mem::forget(ring);
        });
        let consumer = frozen(|| {
            let ring: I::Ring = open(&name, kind, libc::O_RDONLY);
            ring.pop(&mut [0; 12], NOWAIT).unwrap();
            ring.peek(1, NOWAIT).unwrap();
            std::mem::forget(ring);
        });
        is_sound::<I>(&name);
        kill(producer);
        let (findings, report) = check::<I>(&name);
        let is_shared = kind == Kind::Mpmc;
        assert_eq!(findings, if is_shared { 1 } else { 2 }, "{report}");
        assert!(report.contains("participant 1: pid "), "{report}");
        assert_eq!(report.contains("1 claimed and not filled"), is_shared, "{report}");
        assert_eq!(report.contains("producing end: its holder"), !is_shared, "{report}");
        kill(consumer);
        let (findings, report) = check::<I>(&name);
        assert_eq!(findings, if is_shared { 2 } else { 4 }, "{report}");
        assert_eq!(report.contains("1 taken and not freed"), is_shared, "{report}");
        drop(ring);
        assert_eq!(I::repair(Mechanism::Ring, &name.0).unwrap(), findings);
        is_sound::<I>(&name);

        let ring: I::Ring = open(&name, kind, libc::O_RDWR);
        let stats = ring.stat();
        assert_eq!((stats.pending, stats.recovered), (0, 2));
        let lost = u64::from(is_shared);
        assert_eq!([stats.written, stats.lost, stats.length], [3, lost, 2 - lost]);
        for value in 1 + lost..3 {
            let mut popped = [0; 12];
            ring.pop(&mut popped, NOWAIT).unwrap();
            assert_eq!(popped, item(value));
        }
        refused_with(ring.pop(&mut [0; 12], NOWAIT), libc::EAGAIN, "");
    }
    // A sleeper that is killed stays announced, and nobody is left to wake it.
    for kind in KINDS {
        let name = Named::new("sleeper");
        let (pid, gate) = (std::process::id(), Gate::new());
        let sleeper = fork(|| {
            let ring: I::Ring = open(&name, kind, libc::O_RDONLY);
            gate.open();
            let _ = ring.pop(&mut [0; 12], 100 * SECOND);
            panic!("woken by nobody in {pid}");
        });
        gate.pass();
        let armed = || {
            let mut word = [0; 4];
            File::open(name.path()).unwrap().read_exact_at(&mut word, 4096 + 0x104).unwrap();
            u32::from_ne_bytes(word) & 1 != 0
        };
        while !armed() {
            std::thread::yield_now();
        }
        is_sound::<I>(&name);
        kill(sleeper);
        let (findings, report) = check::<I>(&name);
        assert!(report.contains("0x1104: a consumer is announced"), "{report}");
        assert_eq!(I::repair(Mechanism::Ring, &name.0).unwrap(), findings);
        assert!(!armed());
        is_sound::<I>(&name);
    }
}

/// What was committed is there, whatever was mended around it.
fn items_survive_a_repair<I: Inventory>() {
    let name = Named::new("items");
    let ring: I::Ring = open(&name, Kind::Mpmc, libc::O_RDWR);
    let corpses: Vec<Child> = (0..4)
        .map(|value| {
            frozen(|| {
                let ring: I::Ring = open(&name, Kind::Mpmc, libc::O_WRONLY);
                ring.push(&item(value), NOWAIT).unwrap();
                ring.reserve(1, NOWAIT).unwrap();
                std::mem::forget(ring);
            })
        })
        .collect();
    corpses.into_iter().for_each(kill);
    // In the way of everybody until it is mended: found without waiting after it.
    refused_with(ring.push(&item(9), NOWAIT), libc::EAGAIN, "");
    assert_eq!(I::repair(Mechanism::Ring, &name.0).unwrap(), 4);
    for value in 0..4 {
        let mut popped = [0; 12];
        ring.pop(&mut popped, NOWAIT).unwrap();
        assert_eq!(popped, item(value));
    }
    is_sound::<I>(&name);
}

/// Repairs and checks run all the time while two processes move items and others are killed.
fn the_living_are_not_robbed<I: Inventory>() {
    const ITEMS: u64 = 60_000;
    for kind in KINDS {
        let name = Named::new("busy");
        let ring: I::Ring = open(&name, kind, libc::O_RDWR);
        let producer = fork(|| {
            let ring: I::Ring = open(&name, kind, libc::O_WRONLY);
            (0..ITEMS).for_each(|value| ring.push(&item(value), 60 * SECOND).unwrap());
        });
        let consumer = fork(|| {
            let ring: I::Ring = open(&name, kind, libc::O_RDONLY);
            let (mut popped, mut next) = ([0; 12 * 3], 0);
            while next < ITEMS {
                let count = ring.pop_many(&mut popped, 12, 60 * SECOND).unwrap();
                for got in popped.chunks(12).take(count) {
                    assert_eq!(got, item(next), "nothing is lost, nothing comes twice");
                    next += 1;
                }
            }
        });
        let mut ended = false;
        while !ended {
            for _ in 0..20 {
                let (_, report) = I::check(Mechanism::Ring, &name.0).unwrap();
                assert!(!report.contains("claimed and"), "{report}");
                I::repair(Mechanism::Ring, &name.0).unwrap();
            }
            kill(frozen(|| std::mem::forget(open::<I::Ring>(&name, kind, libc::O_RDWR))));
            ended = ring.stat().read >= ITEMS;
        }
        join(producer);
        join(consumer);
        // Both have left without closing: in a sense they died.
        I::repair(Mechanism::Ring, &name.0).unwrap();
        is_sound::<I>(&name);
    }
}

/// Stop-proof rings and broadcasts: sound while they are used, mended when their users are dead.
fn other_kinds<I: Inventory>() {
    let all = [
        (Kind::Mpmc, policy::STOPPROOF),
        (Kind::Mpmc, policy::STOPPROOF | policy::OVERWRITE),
        (Kind::Broadcast, 0),
        (Kind::Broadcast, policy::OVERWRITE),
    ];
    for (kind, policy) in all {
        let name = Named::new("kinds");
        let options = Options { policy, ..options(kind) };
        let open = |oflag| -> I::Ring {
            I::Ring::open(Some(&name.0), &options, oflag | libc::O_CREAT, 0o600).unwrap()
        };
        let (producer, consumer) = (open(libc::O_WRONLY), open(libc::O_RDONLY));
        for value in 0..100 {
            producer.push(&item(value), NOWAIT).unwrap();
            if value % 7 > 0 {
                while consumer.pop(&mut [0; 12], NOWAIT).is_ok() {}
            }
            is_sound::<I>(&name);
        }
        drop((producer, consumer));
        is_sound::<I>(&name);
        let corpses = [libc::O_WRONLY, libc::O_RDONLY].map(|oflag| {
            frozen(|| {
                let ring = open(oflag);
                let _ = if oflag == libc::O_WRONLY {
                    ring.push(&item(7), NOWAIT).unwrap();
                    ring.reserve(1, NOWAIT).map(drop)
                } else {
                    ring.peek(1, NOWAIT).map(drop)
                };
                std::mem::forget(ring);
            })
        });
        is_sound::<I>(&name);
        corpses.into_iter().for_each(kill);
        let (findings, report) = check::<I>(&name);
        // A broadcast has one producer, whose end is noted by itself.
        assert_eq!(findings, if kind == Kind::Broadcast { 3 } else { 2 }, "{report}");
        assert_eq!(I::repair(Mechanism::Ring, &name.0).unwrap(), findings);
        is_sound::<I>(&name);
        let (consumer, producer) = (open(libc::O_RDONLY), open(libc::O_WRONLY));
        assert_eq!(producer.stat().recovered, 2);
        while consumer.pop(&mut [0; 12], NOWAIT).is_ok() {}
        producer.push(&item(8), NOWAIT).unwrap();
        let mut popped = [0; 12];
        consumer.pop(&mut popped, NOWAIT).unwrap();
        assert_eq!(popped, item(8));
        is_sound::<I>(&name);
    }
}

/// Killed in the middle of repairs, over and over: the next one goes on.
#[test]
fn a_repair_may_be_killed() {
    let _turn = serial();
    let name = Named::new("killed");
    let ring: Ring = open(&name, Kind::Mpmc, libc::O_RDWR);
    for round in 0..15 {
        let corpses: Vec<Child> = (0..3)
            .map(|_| {
                frozen(|| {
                    let ring: Ring = open(&name, Kind::Mpmc, libc::O_RDWR);
                    Ring::reserve(&ring, 1, madang::Timeout::NoWait).unwrap();
                    std::mem::forget(ring);
                })
            })
            .collect();
        corpses.into_iter().for_each(kill);
        let started = Gate::new();
        let mender = fork(|| {
            started.open();
            for _ in 0..1000 {
                inventory::repair(Mechanism::Ring, name.0.as_bytes()).unwrap();
            }
            loop {
                nix::unistd::pause();
            }
        });
        started.pass();
        for _ in 0..round * 20 {
            std::thread::yield_now();
        }
        kill(mender);
        inventory::check(Mechanism::Ring, name.0.as_bytes()).unwrap();
        inventory::repair(Mechanism::Ring, name.0.as_bytes()).unwrap();
        let verdict = inventory::check(Mechanism::Ring, name.0.as_bytes()).unwrap();
        assert_eq!(verdict.findings, 0, "{}", verdict.report);
        ring.push(&item(round), NOWAIT_TIMEOUT).unwrap();
        let mut popped = [0; 12];
        ring.pop(&mut popped, NOWAIT_TIMEOUT).unwrap();
        assert_eq!((popped, Ring::stat(&ring).pending), (item(round), 0));
    }
}

const NOWAIT_TIMEOUT: madang::Timeout = madang::Timeout::NoWait;
