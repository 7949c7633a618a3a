//! Who holds a ring's ends when processes fork, exit and are killed, and what the other side learns.

mod support;

use std::time::{Duration, Instant};

use madang::ffi::ring::*;
use madang::ring::{Kind, Options, Ring, policy};
use support::face::{FOREVER, NOWAIT, refused_with};
use support::process::{Gate, fork, join, kill, serial};
use support::ring_face::{C, CREATE, Face, Named, SECOND, pattern};

on_both_faces! { Ring, C in turn:
    ends_after_a_fork
    a_child_outlives_its_parents_handle
    death_of_the_producer
    death_of_the_consumer
    a_death_is_told_once
    short_waits_notice_a_death
    an_abandoned_end_is_a_death
    an_abandoned_handle_of_many
}

/// The textbook way: open, fork, one side pushes, the other pops; and by name, unrelated.
fn ends_after_a_fork<F: Face>() {
    let name = Named::new("fork");
    let ring = F::open(Some(&name.0), &Options::new(8, 8), CREATE, 0o600).unwrap();
    let gate = Gate::new();
    ring.push(&1_u64.to_ne_bytes(), NOWAIT).unwrap();
    let parent = std::process::id();
    let child = fork(|| {
        // The parent has the producing end, whatever this handle did before the fork.
        refused_with(
            ring.push(&2_u64.to_ne_bytes(), NOWAIT),
            libc::EBUSY,
            &format!("pid {parent}"),
        );
        let mut item = [0; 8];
        ring.pop(&mut item, NOWAIT).unwrap();
        assert_eq!(u64::from_ne_bytes(item), 1);
        assert_eq!(ring.stat().consumer_pid, std::process::id());
        // SAFETY: dropped once in this process, which leaves without dropping it again.
        drop(unsafe { std::ptr::read(&raw const ring) });
        // Closing in the child left the parent's end alone.
        gate.open();
    });
    gate.pass();
    join(child);
    let stats = ring.stat();
    assert_eq!((stats.producer_state, stats.producer_pid), (MDG_RING_END_LIVE, parent));
    assert_eq!(stats.consumer_state, MDG_RING_END_CLOSED);
    ring.push(&3_u64.to_ne_bytes(), NOWAIT).unwrap();
    ring.pop(&mut [0; 8], NOWAIT).unwrap();
    assert_eq!(ring.stat().recovered, 0);
}

/// A child takes an end over once the parent has closed it, and keeps it when the parent dies.
fn a_child_outlives_its_parents_handle<F: Face>() {
    let name = Named::new("outlive");
    let ring = F::open(Some(&name.0), &Options::new(8, 8), CREATE, 0o600).unwrap();
    ring.push(&1_u64.to_ne_bytes(), NOWAIT).unwrap();
    let (closed, pushed) = (Gate::new(), Gate::new());
    let child = fork(|| {
        closed.pass();
        ring.push(&2_u64.to_ne_bytes(), NOWAIT).unwrap();
        pushed.open();
        closed.pass();
    });
    drop(ring);
    closed.open();
    pushed.pass();
    let ring = F::open(Some(&name.0), &Options::default(), libc::O_RDWR, 0).unwrap();
    assert_eq!(ring.stat().producer_state, MDG_RING_END_LIVE);
    refused_with(ring.push(&[0; 8], NOWAIT), libc::EBUSY, &format!("pid {}", child.pid()));
    closed.open();
    join(child);
    // It exited without closing: that is a death.
    assert_eq!(ring.stat().producer_state, MDG_RING_END_DEAD);
    assert_eq!((ring.stat().recovered, ring.stat().length), (1, 2));
}

/// A consumer that waits learns of the producer's death within 200 ms, gets everything that was
/// committed first, and works with the next producer as if nothing had been.
fn death_of_the_producer<F: Face>() {
    let name = Named::new("death");
    let ring = F::open(Some(&name.0), &Options::new(8, 8), CREATE, 0o600).unwrap();
    let ready = Gate::new();
    let open = |oflag| F::open(Some(&name.0), &Options::default(), oflag, 0).unwrap();
    let producer = fork(|| {
        let ring = open(libc::O_WRONLY);
        for i in 0..3_u64 {
            ring.push(&i.to_ne_bytes(), NOWAIT).unwrap();
        }
        let (_, run) = ring.reserve(2, NOWAIT).unwrap();
        assert_eq!(run, 2);
        ready.open();
        loop {
            nix::unistd::pause();
        }
    });
    ready.pass();
    let pid = producer.pid();
    let started = Instant::now();
    let killer = std::thread::spawn(move || {
        // Killed while the other side sleeps, as far as one can tell from outside: it is either
        // asleep or about to be, and must notice either way.
        kill(producer);
        Instant::now()
    });
    let mut item = [0; 8];
    for i in 0..3_u64 {
        ring.pop(&mut item, FOREVER).unwrap();
        assert_eq!(u64::from_ne_bytes(item), i);
    }
    refused_with(ring.pop(&mut item, FOREVER), libc::EOWNERDEAD, &format!("pid {pid}"));
    let noticed = Instant::now();
    let killed = killer.join().unwrap();
    let late = noticed.saturating_duration_since(killed.max(started));
    assert!(late < Duration::from_millis(200), "noticed after {late:?}");
    refused_with(ring.peek(1, 1_000_000), libc::ETIMEDOUT, "");
    refused_with(ring.pop(&mut item, NOWAIT), libc::EAGAIN, "");
    assert_eq!((ring.stat().producer_state, ring.stat().recovered), (MDG_RING_END_DEAD, 1));
    let next = open(libc::O_WRONLY);
    refused_with(ring.pop(&mut item, 1_000_000), libc::ETIMEDOUT, "");
    next.push(&9_u64.to_ne_bytes(), NOWAIT).unwrap();
    ring.pop(&mut item, FOREVER).unwrap();
    assert_eq!(u64::from_ne_bytes(item), 9);
    assert_eq!((ring.stat().producer_state, ring.stat().recovered), (MDG_RING_END_LIVE, 1));
}

/// The same for a producer that waits for room, and a consumer that dies with a run peeked.
fn death_of_the_consumer<F: Face>() {
    let ring = F::open(None, &Options::new(2, 8), libc::O_RDWR, 0).unwrap();
    let ready = Gate::new();
    for i in 0..2_u64 {
        ring.push(&i.to_ne_bytes(), NOWAIT).unwrap();
    }
    let consumer = fork(|| {
        assert_eq!(ring.peek(2, NOWAIT).unwrap().1, 2);
        ready.open();
        loop {
            nix::unistd::pause();
        }
    });
    ready.pass();
    let pid = consumer.pid();
    let killer = std::thread::spawn(move || {
        kill(consumer);
        Instant::now()
    });
    refused_with(ring.push(&[0; 8], FOREVER), libc::EOWNERDEAD, &format!("pid {pid}"));
    let late = Instant::now().saturating_duration_since(killer.join().unwrap());
    assert!(late < Duration::from_millis(200), "noticed after {late:?}");
    refused_with(ring.reserve(1, 1_000_000), libc::ETIMEDOUT, "");
    refused_with(ring.push(&[0; 8], NOWAIT), libc::EAGAIN, "");
    // What it had only peeked is delivered again.
    let mut item = [0; 8];
    for i in 0..2_u64 {
        ring.pop(&mut item, NOWAIT).unwrap();
        assert_eq!(u64::from_ne_bytes(item), i);
    }
    ring.push(&[0; 8], FOREVER).unwrap();
}

/// A death is told once to each handle, which then waits for a successor; that one's is told again.
fn a_death_is_told_once<F: Face>() {
    let many = |kind, policy| Options { kind: Some(kind), policy, ..Options::new(4, 8) };
    for options in [
        Options::new(4, 8),
        many(Kind::Mpmc, 0),
        many(Kind::Mpmc, policy::STOPPROOF),
        many(Kind::Broadcast, 0),
        many(Kind::Broadcast, policy::OVERWRITE),
    ] {
        let ring = F::open(None, &options, libc::O_RDWR, 0).unwrap();
        let consumer = ring.dup(libc::O_RDONLY).unwrap();
        let produced = Gate::new();
        let producer = |value: u64| {
            let child = fork(|| {
                ring.push(&value.to_ne_bytes(), NOWAIT).unwrap();
                produced.open();
                loop {
                    nix::unistd::pause();
                }
            });
            produced.pass();
            child
        };
        assert_eq!((ring.stat().producers, ring.stat().consumers), (0, 1));
        for value in 1..=2_u64 {
            let child = producer(value);
            let pid = child.pid();
            let mut item = [0; 8];
            consumer.pop(&mut item, FOREVER).unwrap();
            assert_eq!(item, value.to_ne_bytes());
            assert_eq!((ring.stat().producers, ring.stat().consumers), (1, 1));
            kill(child);
            let told = consumer.pop(&mut item, FOREVER);
            refused_with(told, libc::EOWNERDEAD, &format!("pid {pid}"));
            // Longer than a slice, and than none.
            let timeout = if value == 1 { 150_000_000 } else { 1_000_000 };
            refused_with(consumer.pop(&mut item, timeout), libc::ETIMEDOUT, "");
            refused_with(consumer.peek(1, 1_000_000), libc::ETIMEDOUT, "");
            refused_with(consumer.pop(&mut item, NOWAIT), libc::EAGAIN, "");
            let stats = ring.stat();
            assert_eq!((stats.producer_state, stats.producers), (MDG_RING_END_DEAD, 0));
            if options.kind.is_some_and(|kind| kind != Kind::Spsc) {
                let other = ring.dup(libc::O_RDONLY).unwrap();
                refused_with(other.pop(&mut item, FOREVER), libc::EOWNERDEAD, "died");
                refused_with(other.pop(&mut item, 1_000_000), libc::ETIMEDOUT, "");
            }
        }
    }
}

/// A death is noticed by waits that are shorter than a slice, too.
fn short_waits_notice_a_death<F: Face>() {
    let ring = F::open(None, &Options::new(2, 8), libc::O_RDWR, 0).unwrap();
    let ready = Gate::new();
    let producer = fork(|| {
        ring.push(&[0; 8], NOWAIT).unwrap();
        ready.open();
        loop {
            nix::unistd::pause();
        }
    });
    ready.pass();
    ring.pop(&mut [0; 8], NOWAIT).unwrap();
    refused_with(ring.pop(&mut [0; 8], 100_000), libc::ETIMEDOUT, "");
    let pid = producer.pid();
    kill(producer);
    refused_with(ring.pop(&mut [0; 8], 100_000), libc::EOWNERDEAD, &format!("pid {pid}"));
}

/// Producers killed at random moments, one after the other: the consumer sees every committed item
/// once and in order, and every death is counted.
#[test]
fn killed_producers_lose_nothing_committed() {
    let _turn = serial();
    let name = Named::new("killed");
    let ring = C::open(Some(&name.0), &Options::new(64, 64), CREATE, 0o600).unwrap();
    let rounds = 200;
    let mut next = 0;
    let mut expected = [0; 64];
    for _ in 0..rounds {
        let first = next;
        let started = Gate::new();
        let mut producer = Some(fork(|| {
            let ring = C::open(Some(&name.0), &Options::default(), libc::O_WRONLY, 0).unwrap();
            assert_eq!(ring.stat().written, first);
            started.open();
            let mut item = [0; 64];
            for i in first.. {
                pattern(i, &mut item);
                ring.push(&item, FOREVER).unwrap();
            }
        }));
        started.pass();
        let mut item = [0; 64];
        let until = next + 50 + next % 97;
        loop {
            match ring.pop(&mut item, FOREVER) {
                Ok(()) => {
                    pattern(next, &mut expected);
                    assert_eq!(item, expected, "item {next}");
                    next += 1;
                }
                Err(error) => {
                    assert_eq!(error.code, libc::EOWNERDEAD, "{}", error.text);
                    break;
                }
            }
            if next >= until {
                producer.take().into_iter().for_each(kill);
            }
        }
    }
    let stats = ring.stat();
    assert_eq!((stats.written, stats.read, stats.length), (next, next, 0));
    assert_eq!(stats.recovered, rounds);
}

/// Consumers killed at random moments: no item twice among those that were acknowledged, none
/// missing but the one in flight.
#[test]
fn killed_consumers_take_one_item_at_most() {
    let _turn = serial();
    let name = Named::new("consumers");
    let ring = C::open(Some(&name.0), &Options::new(16, 8), CREATE, 0o600).unwrap();
    let log = Ring::anonymous(&Options::new(1 << 16, 8), madang::Access::ReadOnly).unwrap();
    let mut pushed = 0_u64;
    let (mut seen, mut lost) = (0, 0);
    for round in 0..100 {
        let opened = Gate::new();
        let consumer = fork(|| {
            let ring = C::open(Some(&name.0), &Options::default(), libc::O_RDONLY, 0).unwrap();
            opened.open();
            let log = log.duplicate(madang::Access::WriteOnly).unwrap();
            let mut item = [0; 8];
            loop {
                ring.pop(&mut item, FOREVER).unwrap();
                log.push(&item, madang::Timeout::Forever).unwrap();
            }
        });
        // A full ring would tell of the last one's death until the next one has come.
        opened.pass();
        for _ in 0..100 + round {
            ring.push(&pushed.to_ne_bytes(), FOREVER).unwrap();
            pushed += 1;
        }
        kill(consumer);
        let mut item = [0; 8];
        while log.pop(&mut item, madang::Timeout::NoWait).is_ok() {
            let number = u64::from_ne_bytes(item);
            assert!(number >= seen && number <= seen + 1, "{number} after {seen}");
            lost += number - seen;
            seen = number + 1;
        }
    }
    assert!(lost <= 100, "{lost} items lost with 100 consumers");
    let stats = ring.stat();
    assert!(stats.read >= seen && stats.read <= seen + 1);
    assert_eq!(stats.written, pushed);
}

/// A handle that is abandoned tells the peers what a kill of its process tells them, and nothing else.
fn an_abandoned_end_is_a_death<F: Face>() {
    let name = Named::new("abandon");
    let ring = F::open(Some(&name.0), &Options::new(2, 8), CREATE, 0o600).unwrap();
    let open = |oflag| F::open(Some(&name.0), &Options::default(), oflag, 0).unwrap();
    let mut item = [0; 8];
    let pid = format!("pid {}", std::process::id());

    let producer = open(libc::O_WRONLY);
    producer.push(&1_u64.to_ne_bytes(), NOWAIT).unwrap();
    producer.reserve(1, NOWAIT).unwrap();
    producer.abandon();
    ring.pop(&mut item, FOREVER).unwrap();
    refused_with(ring.pop(&mut item, FOREVER), libc::EOWNERDEAD, &pid);
    assert_eq!((ring.stat().producer_state, ring.stat().recovered), (MDG_RING_END_DEAD, 1));

    // The end is free for the next, and closing in order is no death.
    let producer = open(libc::O_WRONLY);
    producer.push(&2_u64.to_ne_bytes(), NOWAIT).unwrap();
    drop(producer);
    assert_eq!((ring.stat().producer_state, ring.stat().recovered), (MDG_RING_END_CLOSED, 1));
    ring.pop(&mut item, FOREVER).unwrap();
    refused_with(ring.pop(&mut item, SECOND / 1000), libc::ETIMEDOUT, "");
    drop(ring);

    // A consumer: its peeked item stays, the producer that finds the ring full is told.
    let (producer, consumer) = (open(libc::O_WRONLY), open(libc::O_RDONLY));
    for value in 3..5_u64 {
        producer.push(&value.to_ne_bytes(), NOWAIT).unwrap();
    }
    consumer.peek(1, NOWAIT).unwrap();
    consumer.abandon();
    refused_with(producer.push(&[0; 8], FOREVER), libc::EOWNERDEAD, &pid);
    let consumer = open(libc::O_RDONLY);
    consumer.pop(&mut item, NOWAIT).unwrap();
    assert_eq!(u64::from_ne_bytes(item), 3);

    // In a child, what the parent holds stays the parent's.
    join(fork(|| {
        // SAFETY: taken once in this process, which leaves without dropping it.
        let inherited = unsafe { std::ptr::read(&raw const producer) };
        inherited.abandon();
    }));
    assert_eq!(consumer.stat().producer_state, MDG_RING_END_LIVE);

    // Who has ended the stream owes nothing any more.
    producer.shutdown().unwrap();
    producer.abandon();
    consumer.pop(&mut item, FOREVER).unwrap();
    assert_eq!(u64::from_ne_bytes(item), 4);
    refused_with(consumer.pop(&mut item, FOREVER), libc::EPIPE, "");
    assert_eq!(consumer.stat().producer_state, MDG_RING_END_CLOSED);
}

/// Of many at one end, one that is abandoned ends nothing for the others.
fn an_abandoned_handle_of_many<F: Face>() {
    let options =
        Options { kind: Some(Kind::Mpmc), policy: policy::REDELIVER, ..Options::new(4, 8) };
    let ring = F::open(None, &options, libc::O_RDWR, 0).unwrap();
    let mut item = [0; 8];
    let producers = [(); 2].map(|()| ring.dup(libc::O_WRONLY).unwrap());
    let [first, second] = producers;
    first.push(&1_u64.to_ne_bytes(), NOWAIT).unwrap();
    first.reserve(1, NOWAIT).unwrap();
    second.push(&2_u64.to_ne_bytes(), NOWAIT).unwrap();
    first.abandon();

    // What it had reserved holds nobody up; what a consumer had in hands comes again.
    let worker = ring.dup(libc::O_RDONLY).unwrap();
    worker.peek(1, FOREVER).unwrap();
    worker.abandon();
    let mut got = [0; 2].map(|_: u64| {
        ring.pop(&mut item, FOREVER).unwrap();
        u64::from_ne_bytes(item)
    });
    got.sort_unstable();
    assert_eq!(got, [1, 2]);
    assert_eq!(ring.stat().redelivered, 1);
    refused_with(ring.pop(&mut item, SECOND / 5), libc::ETIMEDOUT, "");
    second.push(&3_u64.to_ne_bytes(), NOWAIT).unwrap();
    ring.pop(&mut item, FOREVER).unwrap();
    second.abandon();
    refused_with(ring.pop(&mut item, FOREVER), libc::EOWNERDEAD, "");
    assert_eq!(ring.stat().producer_state, MDG_RING_END_DEAD);
}
