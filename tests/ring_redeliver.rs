//! Rings that redeliver: what a consumer had in hands when it died, or closed, goes to another one.

mod support;

use std::sync::atomic::Ordering;

use madang::ffi::ring::*;
use madang::ring::{Kind, Options, Ring, policy};
use nix::sys::signal::{SIGCONT, SIGSTOP};
use support::face::{FOREVER, NOWAIT, refused_with};
use support::process::{Child, Gate, fork, join, kill, serial, shared_words};
use support::ring_face::{C, CREATE, Face, Named, SECOND};

on_both_faces! { Ring, C in turn:
    the_item_of_a_dead_consumer_comes_again
    it_comes_before_what_is_still_there
    producers_do_not_take_its_place
    a_second_taker_may_die_as_well
    closing_gives_back
    a_stopped_consumer_keeps_its_item
    the_stream_ends_when_nobody_has_anything
    giving_up_the_oldest
    more_dead_than_handles
    who_waits_is_told_of_the_last_death
    what_it_is_for
}

fn redelivering(capacity: u64) -> Options {
    let policy = policy::REDELIVER;
    Options { kind: Some(Kind::Mpmc), policy, ..Options::new(capacity, 8) }
}

fn open<F: Face>(options: &Options) -> F {
    F::open(None, options, libc::O_RDWR, 0).unwrap()
}

fn push(ring: &impl Face, value: u64) {
    ring.push(&value.to_ne_bytes(), NOWAIT).unwrap();
}

fn pop_within(ring: &impl Face, timeout: i64) -> u64 {
    let mut item = [0; 8];
    ring.pop(&mut item, timeout).unwrap();
    u64::from_ne_bytes(item)
}

#[track_caller]
fn pop(ring: &impl Face) -> u64 {
    pop_within(ring, NOWAIT)
}

/// Pops as one who never waits and goes on asking.
fn poll(ring: &impl Face) -> u64 {
    let mut item = [0; 8];
    while let Err(error) = ring.pop(&mut item, NOWAIT) {
        assert_eq!(error.code, libc::EAGAIN, "{}", error.text);
    }
    u64::from_ne_bytes(item)
}

fn peek(ring: &impl Face) -> u64 {
    let (item, count) = ring.peek(1, NOWAIT).unwrap();
    assert_eq!(count, 1);
    // SAFETY: one item of eight bytes.
    unsafe { item.cast::<u64>().read_unaligned() }
}

#[track_caller]
fn is_empty(ring: &impl Face) {
    refused_with(ring.pop(&mut [0; 8], NOWAIT), libc::EAGAIN, "");
}

/// Written, read, inside, taken again; nothing is ever lost.
#[track_caller]
fn sums(ring: &impl Face) -> [u64; 4] {
    let stats = ring.stat();
    assert_eq!(stats.written, stats.read + stats.dropped + stats.length);
    assert_eq!((stats.lost, stats.pending), (0, 0));
    [stats.written, stats.read, stats.length, stats.redelivered]
}

/// A child that has done `body` and waits to be killed.
fn frozen(body: impl FnOnce()) -> Child {
    let ready = Gate::new();
    let child = fork(|| {
        body();
        ready.open();
        loop {
            nix::unistd::pause();
        }
    });
    ready.pass();
    child
}

/// A consumer that was killed with the oldest item in hands, which is `value`.
fn killed_with(ring: &impl Face, value: u64) {
    kill(frozen(|| assert_eq!(peek(ring), value)));
}

fn the_item_of_a_dead_consumer_comes_again<F: Face>() {
    for take in [|ring: &F| pop_within(ring, 10 * SECOND), poll] {
        let ring: F = open(&redelivering(4));
        for round in 0..10 {
            let value = 10 * round;
            (0..3).for_each(|i| push(&ring, value + i));
            let dead = frozen(|| assert_eq!(peek(&ring), value));
            assert_eq!([pop(&ring), pop(&ring)], [value + 1, value + 2]);
            is_empty(&ring);
            kill(dead);
            assert_eq!(take(&ring), value, "whoever finds nothing else gets it");
            is_empty(&ring);
            assert_eq!(sums(&ring), [3 * (round + 1), 3 * (round + 1), 0, round + 1]);
            assert_eq!(ring.stat().recovered, round + 1);
        }
    }
}

/// As soon as the death is noticed: by one who takes the dead one's slot, here.
fn it_comes_before_what_is_still_there<F: Face>() {
    let ring: F = open(&redelivering(8));
    (0..6).for_each(|value| push(&ring, value));
    let first = frozen(|| assert_eq!(peek(&ring), 0));
    let second = frozen(|| assert_eq!(peek(&ring), 1));
    assert_eq!(pop(&ring), 2);
    // The later first: the order is that of the ring, not that of the deaths.
    kill(second);
    kill(first);
    let newcomers = [(); 2].map(|()| ring.dup(libc::O_RDONLY).unwrap());
    assert_eq!(sums(&ring), [6, 1, 5, 0]);
    assert_eq!(peek(&newcomers[0]), 0);
    assert_eq!([pop(&newcomers[1]), pop(&ring), pop(&ring)], [1, 3, 4]);
    newcomers[0].release(1).unwrap();
    push(&ring, 6);
    assert_eq!([pop(&ring), pop(&ring)], [5, 6]);
    is_empty(&ring);
    assert_eq!(sums(&ring), [7, 7, 0, 2]);
}

/// A cell with an item that is owed to somebody is not free: the ring is full there.
fn producers_do_not_take_its_place<F: Face>() {
    for wait in [NOWAIT, SECOND / 3] {
        let ring: F = open(&redelivering(2));
        (0..2).for_each(|value| push(&ring, value));
        killed_with(&ring, 0);
        assert_eq!(pop(&ring), 1);
        let full = if wait == NOWAIT { libc::EAGAIN } else { libc::ETIMEDOUT };
        let patience = std::time::Instant::now();
        while patience.elapsed().as_millis() < 20 {
            refused_with(ring.push(&[9; 8], wait), full, "");
        }
        assert_eq!(sums(&ring), [2, 1, 1, 0]);
        assert_eq!(pop(&ring), 0);
        push(&ring, 2);
        push(&ring, 3);
        assert_eq!([pop(&ring), pop(&ring)], [2, 3]);
        assert_eq!(sums(&ring), [4, 4, 0, 1]);
    }
}

fn a_second_taker_may_die_as_well<F: Face>() {
    let ring: F = open(&redelivering(4));
    push(&ring, 7);
    killed_with(&ring, 7);
    for _ in 0..5 {
        let next = frozen(|| {
            ring.peek(1, 10 * SECOND).unwrap();
            // Its own from now on.
        });
        is_empty(&ring);
        assert_eq!(sums(&ring)[1..3], [1, 0]);
        kill(next);
    }
    assert_eq!(pop_within(&ring, 10 * SECOND), 7);
    is_empty(&ring);
    assert_eq!(sums(&ring), [1, 1, 0, 6]);
}

fn closing_gives_back<F: Face>() {
    let ring: F = open(&redelivering(4));
    (0..3).for_each(|value| push(&ring, value));
    let other = ring.dup(libc::O_RDONLY).unwrap();
    assert_eq!(peek(&other), 0);
    other.release(0).unwrap();
    assert_eq!(pop(&ring), 1, "it stays that handle's until it closes");
    drop(other);
    assert_eq!(sums(&ring), [3, 1, 2, 0]);
    assert_eq!([pop(&ring), pop(&ring)], [0, 2]);
    is_empty(&ring);
    // One that was given back may be given back again, and somebody who sleeps gets it.
    push(&ring, 3);
    for _ in 0..2 {
        let other = ring.dup(libc::O_RDONLY).unwrap();
        assert_eq!(peek(&other), 3);
    }
    let other = ring.dup(libc::O_RDONLY).unwrap();
    assert_eq!(peek(&other), 3);
    let sleeper = fork(|| assert_eq!(pop_within(&ring, FOREVER), 3));
    while ring.stat().pop_waits == 0 {
        std::thread::yield_now();
    }
    drop(other);
    join(sleeper);
    assert_eq!(sums(&ring), [4, 4, 0, 4]);
}

/// Stopped, not dead: nobody gets it, however long that takes.
fn a_stopped_consumer_keeps_its_item<F: Face>() {
    let ring: F = open(&redelivering(2));
    // Taken for the first time, and for the second.
    for again in [false, true] {
        (0..2).for_each(|value| push(&ring, value));
        if again {
            killed_with(&ring, 0);
            // Somebody notices, so that it is there to be taken.
            drop(ring.dup(libc::O_RDWR).unwrap());
        }
        let (ready, go) = (Gate::new(), Gate::new());
        let slow = fork(|| {
            assert_eq!(peek(&ring), 0);
            ready.open();
            go.pass();
            let (item, _) = (ring.release(0), peek(&ring));
            item.unwrap();
            ring.release(1).unwrap();
        });
        ready.pass();
        nix::sys::signal::kill(slow.pid(), SIGSTOP).unwrap();
        assert_eq!(pop(&ring), 1);
        refused_with(ring.pop(&mut [0; 8], SECOND / 3), libc::ETIMEDOUT, "");
        refused_with(ring.push(&[9; 8], SECOND / 3), libc::ETIMEDOUT, "");
        let newcomer = ring.dup(libc::O_RDWR).unwrap();
        is_empty(&newcomer);
        nix::sys::signal::kill(slow.pid(), SIGCONT).unwrap();
        go.open();
        join(slow);
        is_empty(&ring);
        // The child left without closing, with nothing in hands.
        refused_with(ring.pop(&mut [0; 8], SECOND / 5), libc::ETIMEDOUT, "");
        let count = if again { 4 } else { 2 };
        assert_eq!(sums(&ring), [count, count, 0, u64::from(again)]);
    }
}

/// What somebody has in hands may come again, so it is not the end yet.
fn the_stream_ends_when_nobody_has_anything<F: Face>() {
    let ring: F = open(&redelivering(4));
    (0..4).for_each(|value| push(&ring, value));
    let dead = frozen(|| assert_eq!(peek(&ring), 0));
    let other = ring.dup(libc::O_RDONLY).unwrap();
    assert_eq!(peek(&other), 1);
    ring.shutdown().unwrap();
    assert_eq!([pop(&ring), pop(&ring)], [2, 3]);
    is_empty(&ring);
    refused_with(ring.pop(&mut [0; 8], SECOND / 5), libc::ETIMEDOUT, "");
    kill(dead);
    assert_eq!(pop_within(&ring, 10 * SECOND), 0);
    is_empty(&ring);
    // Who waits for the end hears of it when the last one is done.
    let waiting = fork(|| {
        refused_with(ring.pop(&mut [0; 8], FOREVER), libc::EPIPE, "shut down");
    });
    while ring.stat().pop_waits < 3 {
        std::thread::yield_now();
    }
    other.release(1).unwrap();
    join(waiting);
    refused_with(ring.pop(&mut [0; 8], FOREVER), libc::EPIPE, "shut down");
    refused_with(other.pop(&mut [0; 8], NOWAIT), libc::EPIPE, "shut down");
    assert_eq!(sums(&ring), [4, 4, 0, 1]);
}

/// An item that came back is older than all others.
fn giving_up_the_oldest<F: Face>() {
    let policy = policy::REDELIVER | policy::OVERWRITE;
    let ring: F = open(&Options { policy, ..redelivering(2) });
    (0..2).for_each(|value| push(&ring, value));
    killed_with(&ring, 0);
    let newcomer = ring.dup(libc::O_RDWR).unwrap();
    assert_eq!(sums(&ring), [2, 0, 2, 0]);
    push(&ring, 2);
    assert_eq!((ring.stat().dropped, sums(&ring)), (1, [3, 0, 2, 0]));
    assert_eq!([pop(&newcomer), pop(&ring)], [1, 2]);
    is_empty(&ring);
    // Not noticed yet: it is in somebody's hands, and nothing else is given up in vain.
    (3..5).for_each(|value| push(&ring, value));
    killed_with(&ring, 3);
    assert_eq!(pop(&ring), 4);
    refused_with(ring.push(&[9; 8], NOWAIT), libc::EAGAIN, "");
    while let Err(error) = ring.push(&5_u64.to_ne_bytes(), NOWAIT) {
        assert_eq!(error.code, libc::EAGAIN);
    }
    assert_eq!([pop(&ring)], [5]);
    assert_eq!((ring.stat().dropped, sums(&ring)), (2, [6, 4, 0, 0]));
}

/// The slots of the dead are used again, and what they had is not forgotten.
fn more_dead_than_handles<F: Face>() {
    let ring: F = open(&Options { max_handles: 3, ..redelivering(16) });
    (0..16).for_each(|value| push(&ring, value));
    for round in 0..16 {
        kill(frozen(|| {
            let other = ring.dup(libc::O_RDONLY).unwrap();
            // What the last one had comes first.
            assert_eq!(peek(&other), 0, "round {round}");
            std::mem::forget(other);
        }));
    }
    let _newcomers = [(); 2].map(|()| ring.dup(libc::O_RDONLY).unwrap());
    (0..16).for_each(|value| assert_eq!(pop(&ring), value));
    is_empty(&ring);
    assert_eq!(sums(&ring), [16, 16, 0, 16]);
    assert_eq!(ring.stat().recovered, 16);
}

/// Nobody is left who could take anything: a full ring, and a death.
fn who_waits_is_told_of_the_last_death<F: Face>() {
    let ring: F = open(&redelivering(2));
    (0..2).for_each(|value| push(&ring, value));
    let producer = ring.dup(libc::O_WRONLY).unwrap();
    killed_with(&ring, 0);
    refused_with(producer.push(&[9; 8], FOREVER), libc::EOWNERDEAD, "");
    assert_eq!(sums(&ring), [2, 0, 2, 0]);
    assert_eq!([pop(&ring), pop(&ring)], [0, 1]);
    is_empty(&ring);
}

fn what_it_is_for<F: Face>() {
    let with = |kind, bits| Options { kind: Some(kind), policy: bits, ..Options::new(4, 8) };
    let make = |options: &Options| F::open(None, options, libc::O_RDWR, 0);
    let bit = policy::REDELIVER;
    refused_with(make(&with(Kind::Broadcast, bit)), libc::EINVAL, "0x10");
    let both = bit | policy::STOPPROOF;
    refused_with(make(&with(Kind::Mpmc, both)), libc::EINVAL, "stop-proof");
    for fine in [with(Kind::Mpmc, bit | policy::FAIL), with(Kind::Mpmc, bit | policy::OVERWRITE)] {
        assert_eq!(make(&fine).unwrap().stat().policy, fine.policy);
    }
    // One producer, one consumer: that is what such a ring does.
    let ring: F = open(&with(Kind::Spsc, bit));
    assert_eq!(ring.stat().policy, MDG_RING_REDELIVER);
    let producer = ring.dup(libc::O_WRONLY).unwrap();
    push(&producer, 1);
    killed_with(&ring, 1);
    assert_eq!(pop(&ring), 1);
}

/// Seen from outside: what came back is sound, what is owed to nobody yet is damage, which a repair mends.
#[test]
fn checked_and_repaired() {
    use madang::inventory::{self, Mechanism};
    let _turn = serial();
    let name = Named::new("checked");
    let ring = C::open(Some(&name.0), &redelivering(4), CREATE, 0o600).unwrap();
    (0..4).for_each(|value| push(&ring, value));
    let check = || inventory::check(Mechanism::Ring, name.0.as_bytes()).unwrap();
    let repair = || inventory::repair(Mechanism::Ring, name.0.as_bytes()).unwrap();
    assert_eq!(check().findings, 0);
    killed_with(&ring, 0);
    let found = check();
    assert_eq!(found.findings, 1);
    assert!(found.report.contains("1 taken and not freed"), "{}", found.report);
    assert_eq!(repair(), 1);
    assert_eq!(check().findings, 0);
    assert_eq!(sums(&ring), [4, 0, 4, 0]);
    let dead = frozen(|| assert_eq!(peek(&ring), 0));
    assert_eq!(check().findings, 0);
    kill(dead);
    assert_eq!(check().findings, 1);
    assert_eq!(repair(), 1);
    (0..4).for_each(|value| assert_eq!(pop(&ring), value));
    assert_eq!((sums(&ring), check().findings), ([4, 4, 0, 2], 0));
}

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

fn ptrace(request: u32, pid: nix::unistd::Pid) {
    // SAFETY: these requests read and write no memory of ours.
    let result = unsafe { libc::ptrace(request as _, pid.as_raw(), 0, 0) };
    assert_eq!(result, 0, "ptrace {request}: {}", std::io::Error::last_os_error());
}

/// Waits until a traced child stops; `false` if it has ended.
fn stops(pid: nix::unistd::Pid) -> bool {
    let mut status = 0;
    // SAFETY: a writable number.
    assert_eq!(unsafe { libc::waitpid(pid.as_raw(), &raw mut status, 0) }, pid.as_raw());
    libc::WIFSTOPPED(status)
}

/// What the victim does between its marks.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Act {
    /// Pops the oldest item, which nobody has had.
    Pop,
    /// Pops an item that came back.
    PopAgain,
    /// Pops from a ring in which a corpse has the only item: looks for the dead, sweeps, pops.
    Notice,
    /// Gives back, by closing, what it has peeked.
    Close,
}

/// Kills a victim after `steps` instructions of `act`; what is inside is found again, once, and the
/// ring is as good as new. `false`: it had finished before.
fn one_kill(act: Act, steps: u64) -> bool {
    let ring =
        C::open(None, &Options { max_handles: 4, ..redelivering(4) }, libc::O_RDWR, 0).unwrap();
    let inside = if act == Act::Notice { 1 } else { 3 };
    (0..inside).for_each(|value| push(&ring, value));
    let mark = &shared_words(1)[0];
    let corpse =
        matches!(act, Act::PopAgain | Act::Notice).then(|| frozen(|| assert_eq!(peek(&ring), 0)));
    let (opened, go) = (Gate::new(), Gate::new());
    let child = fork(|| {
        let mut item = [0; 8];
        // Before the death, so that it does not take the dead one's slot.
        let other = ring.dup(libc::O_RDONLY).unwrap();
        opened.open();
        go.pass();
        if act == Act::Notice {
            // The first look in vain; the next one, a while later, asks who lives.
            is_empty(&other);
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        if act == Act::Close {
            assert_eq!(peek(&other), 0);
        }
        // SAFETY: no addresses are used.
        assert_eq!(unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) }, 0);
        nix::sys::signal::raise(SIGSTOP).unwrap();
        mark.store(1, Ordering::SeqCst);
        match act {
            Act::Close => {
                drop(other);
                mark.store(2, Ordering::SeqCst);
            }
            _ => {
                // SAFETY: a live handle and eight bytes.
                let result = unsafe { mdg_ring_pop(other.0, item.as_mut_ptr().cast(), NOWAIT) };
                mark.store(2, Ordering::SeqCst);
                assert_eq!((result, u64::from_ne_bytes(item)), (0, 0));
            }
        }
        support::process::leave(0);
    });
    opened.pass();
    corpse.into_iter().for_each(kill);
    if act == Act::PopAgain {
        drop(ring.dup(libc::O_RDWR).unwrap());
    }
    go.open();
    let pid = child.pid();
    assert!(stops(pid));
    let one = || {
        ptrace(libc::PTRACE_SINGLESTEP, pid);
        assert!(stops(pid));
        mark.load(Ordering::SeqCst)
    };
    while one() == 0 {}
    for _ in 0..steps {
        if one() == 2 {
            ptrace(libc::PTRACE_DETACH, pid);
            join(child);
            return false;
        }
    }
    kill(child);
    // All that the dead left is swept by those who take their slots.
    let newcomers = [(); 3].map(|()| ring.dup(libc::O_RDWR).unwrap());
    let mut found = Vec::new();
    let mut item = [0; 8];
    while ring.pop(&mut item, NOWAIT).is_ok() {
        found.push(u64::from_ne_bytes(item));
    }
    let taken = if act == Act::Close { 0..1 } else { 0..2 };
    let missing = inside - found.len() as u64;
    assert!(taken.contains(&missing), "{act:?} {steps}: {found:?}");
    assert_eq!(found, (missing..inside).collect::<Vec<_>>(), "{act:?} {steps}");
    let stats = ring.stat();
    assert_eq!((stats.written, stats.read, stats.lost), (inside, inside, 0));
    assert!(stats.redelivered <= 2);
    // Whoever was killed while it counted another one's death, that death is counted.
    let deaths = match act {
        Act::Pop => 1..3,
        Act::PopAgain | Act::Notice => 2..4,
        Act::Close => 0..2,
    };
    assert!(deaths.contains(&stats.recovered), "{act:?} {steps}: {} deaths", stats.recovered);
    for round in 0..3 {
        (0..4).for_each(|i| push(&newcomers[0], 10 * round + i));
        (0..4).for_each(|i| assert_eq!(pop(&newcomers[1]), 10 * round + i));
    }
    true
}

/// Killed after each instruction; where there are more of them, after some.
fn each_instruction(act: Act, stride: usize) {
    let _turn = serial();
    let stride = if cfg!(debug_assertions) { 97 * stride } else { stride };
    let kills = (0..).step_by(stride).take_while(|&steps| one_kill(act, steps)).count();
    println!("{act:?}: {kills} kills");
    assert!(kills > 10, "{act:?}: {kills} kills");
}

#[test]
fn a_pop_killed_after_each_instruction() {
    each_instruction(Act::Pop, 1);
}

#[test]
fn a_second_pop_killed_after_each_instruction() {
    each_instruction(Act::PopAgain, 1);
}

#[test]
fn who_notices_is_killed() {
    each_instruction(Act::Notice, 17);
}

#[test]
fn who_closes_is_killed() {
    each_instruction(Act::Close, 3);
}
