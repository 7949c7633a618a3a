//! Stop-proof rings while some of those who use them are stopped: by themselves at known places, by
//! signals at random moments, by a tracer after each instruction. The others do a fixed number of
//! operations meanwhile that must not have to wait, and in the end everything adds up.

mod support;

use std::sync::atomic::{AtomicU64, Ordering};

use madang::ffi::ring::*;
use madang::ring::{Kind, Options, Ring, policy};
use nix::sys::signal::{self, Signal};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use support::face::{FOREVER, NOWAIT, refused_with};
use support::process::{Child, Gate, fork, join, kill, serial, shared_words};
use support::ring_face::{C, CREATE, Face, Named};
use support::trace::{ptrace, traced_status};

on_both_faces! { Ring, C in turn:
    a_stopped_reservation_delays_nobody
    a_stopped_reader_delays_nobody
}

fn options(policy: u32, capacity: u64) -> Options {
    Options { kind: Some(Kind::Mpmc), policy, ..Options::new(capacity, 16) }
}

fn item(from: u64, number: u64) -> [u8; 16] {
    let mut item = [0; 16];
    item[..8].copy_from_slice(&from.to_ne_bytes());
    item[8..].copy_from_slice(&number.to_ne_bytes());
    item
}

fn parts(item: &[u8; 16]) -> (u64, u64) {
    let part = |at: usize| u64::from_ne_bytes(item[at..at + 8].try_into().unwrap());
    (part(0), part(8))
}

fn pop(ring: &impl Face) -> Option<(u64, u64)> {
    let mut buffer = [0; 16];
    match ring.pop(&mut buffer, NOWAIT) {
        Ok(()) => Some(parts(&buffer)),
        Err(error) => {
            assert_eq!(error.code, libc::EAGAIN, "{}", error.text);
            None
        }
    }
}

/// Stops a process; it has stopped when this returns.
fn stop(pid: Pid) {
    signal::kill(pid, Signal::SIGSTOP).unwrap();
    let status = waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
    assert_eq!(status, WaitStatus::Stopped(pid, Signal::SIGSTOP));
}

fn go_on(pid: Pid) {
    signal::kill(pid, Signal::SIGCONT).unwrap();
}

/// Fills the ring and empties it, again and again, without waiting.
#[track_caller]
fn fill_and_empty(ring: &impl Face, capacity: u64, from: u64, rounds: u64) {
    for round in 0..rounds {
        for i in 0..capacity {
            ring.push(&item(from, round * capacity + i), NOWAIT).unwrap();
        }
        refused_with(ring.push(&item(0, 0), NOWAIT), libc::EAGAIN, "");
        for i in 0..capacity {
            assert_eq!(pop(ring), Some((from, round * capacity + i)));
        }
        assert_eq!(pop(ring), None);
    }
}

/// A child that does `first`, is stopped, and later does `then`.
fn stopped<S>(first: impl FnOnce() -> S, then: impl FnOnce(S)) -> (Child, Gate) {
    let (ready, go) = (Gate::new(), Gate::new());
    let child = fork(|| {
        let state = first();
        ready.open();
        go.pass();
        then(state);
    });
    ready.pass();
    stop(child.pid());
    (child, go)
}

fn a_stopped_reservation_delays_nobody<F: Face>() {
    for capacity in [1, 2, 8] {
        let ring = F::open(None, &options(policy::STOPPROOF, capacity), libc::O_RDWR, 0).unwrap();
        let reserve = || ring.reserve(1, NOWAIT).unwrap().0;
        let slow = [1, 2, 3].map(|from| {
            stopped(reserve, |room| {
                // SAFETY: room for one item.
                unsafe { room.cast::<[u8; 16]>().write_unaligned(item(from, 0)) };
                ring.commit(1).unwrap();
            })
        });
        fill_and_empty(&ring, capacity, 9, 50);
        assert_eq!(ring.stat().pending, 3);
        // Full when they go on: their reservations hold.
        (0..capacity).for_each(|i| ring.push(&item(9, i), NOWAIT).unwrap());
        for (child, go) in slow {
            go_on(child.pid());
            go.open();
            join(child);
        }
        assert_eq!((ring.stat().length, ring.stat().pending), (capacity + 3, 0));
        let expected = (0..capacity).map(|i| (9, i)).chain([(1, 0), (2, 0), (3, 0)]);
        expected.for_each(|item| assert_eq!(pop(&ring), Some(item)));
        let stats = ring.stat();
        assert_eq!((stats.written, stats.lost, stats.length), (stats.read, 0, 0));
    }
}

fn a_stopped_reader_delays_nobody<F: Face>() {
    for capacity in [1, 2, 8] {
        let ring = F::open(None, &options(policy::STOPPROOF, capacity), libc::O_RDWR, 0).unwrap();
        let slow = [1, 2, 3].map(|from| {
            ring.push(&item(from, 0), NOWAIT).unwrap();
            stopped(
                || ring.peek(1, NOWAIT).unwrap().0,
                |it| {
                    // SAFETY: one item.
                    let it = unsafe { it.cast::<[u8; 16]>().read_unaligned() };
                    assert_eq!(parts(&it), (from, 0), "untouched all the time");
                    ring.release(1).unwrap();
                },
            )
        });
        fill_and_empty(&ring, capacity, 9, 50);
        for (child, go) in slow {
            go_on(child.pid());
            go.open();
            join(child);
        }
        fill_and_empty(&ring, capacity, 9, 50);
        let stats = ring.stat();
        assert_eq!((stats.written, stats.lost, stats.length), (stats.read, 0, 0));
    }
}

/// The same in a ring without the policy: what these tests would see if somebody had to wait.
#[test]
fn without_the_policy_a_stopped_process_is_waited_for() {
    let _turn = serial();
    let ring = C::open(None, &options(0, 1), libc::O_RDWR, 0).unwrap();
    let (child, go) = stopped(|| ring.reserve(1, NOWAIT).map(drop).unwrap(), |()| ());
    refused_with(ring.push(&item(0, 0), NOWAIT), libc::EAGAIN, "");
    assert_eq!(pop(&ring), None);
    go_on(child.pid());
    go.open();
    join(child);
}

/// Whom an item came from, and how often each one was received.
struct Book {
    received: &'static [AtomicU64],
    most: u64,
}

impl Book {
    fn note(&self, (from, number): (u64, u64), last: &mut [u64]) {
        assert!(number >= last[from as usize], "{number} of {from} came late");
        last[from as usize] = number + 1;
        self.received[(from * self.most + number) as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// Two producers and two consumers at full speed, stopped at random moments. Sometimes all four are:
/// then the ring is all the parent's, to the last place. Sometimes some are: then the others and the
/// parent move a number of items.
fn random_stops(capacity: u64, rounds: u64) {
    let name = Named::new("stops");
    let ring =
        C::open(Some(&name.0), &options(policy::STOPPROOF, capacity), CREATE, 0o600).unwrap();
    let book = Book { received: shared_words(3 << 20), most: 1 << 20 };
    let (sent, enough) = (shared_words(3), &shared_words(1)[0]);
    let open = |access| C::open(Some(&name.0), &Options::default(), access, 0).unwrap();
    let ready = Gate::new();
    let producers = [0_u64, 1].map(|from| {
        fork(|| {
            let ring = open(libc::O_WRONLY);
            ready.open();
            let mut number = 0;
            while enough.load(Ordering::Relaxed) == 0 {
                if number == book.most {
                    std::thread::yield_now();
                    continue;
                }
                match ring.push(&item(from, number), NOWAIT) {
                    Ok(()) => number += 1,
                    Err(error) => assert_eq!(error.code, libc::EAGAIN),
                }
            }
            sent[from as usize].store(number, Ordering::Relaxed);
        })
    });
    let consumers = [(); 2].map(|()| {
        fork(|| {
            let ring = open(libc::O_RDONLY);
            ready.open();
            let mut last = [0; 3];
            let mut buffer = [0; 16];
            loop {
                match ring.pop(&mut buffer, FOREVER) {
                    Ok(()) => book.note(parts(&buffer), &mut last),
                    Err(end) => {
                        assert_eq!(end.code, libc::EPIPE, "{}", end.text);
                        return;
                    }
                }
            }
        })
    });
    (0..4).for_each(|_| ready.pass());
    let children: Vec<_> = producers.into_iter().chain(consumers).collect();
    let (mut last, mut number) = ([0; 3], 0);
    for round in 0..rounds {
        // They run for a moment of no fixed length.
        (0..(round * 7919) % 4001).for_each(|_| std::hint::spin_loop());
        std::thread::yield_now();
        // A victim, three of them, or all.
        let victims: Vec<_> = match round % 3 {
            0 => children.iter().collect(),
            1 => children.iter().skip(round as usize % 4).take(1).collect(),
            _ => children.iter().cycle().skip(round as usize % 4).take(3).collect(),
        };
        victims.iter().for_each(|child| stop(child.pid()));
        if round % 3 == 0 {
            // Nobody else runs: what is inside stays so but for the parent, and nothing is refused.
            while let Some(item) = pop(&ring) {
                book.note(item, &mut last);
            }
            assert_eq!(ring.stat().length, 0);
            for _ in 0..3 {
                for _ in 0..capacity {
                    ring.push(&item(2, number), NOWAIT).unwrap();
                    number += 1;
                }
                refused_with(ring.push(&item(2, number), NOWAIT), libc::EAGAIN, "");
                for i in number - capacity..number {
                    let popped = pop(&ring).unwrap();
                    assert_eq!(popped, (2, i));
                    book.note(popped, &mut last);
                }
                assert_eq!(pop(&ring), None);
            }
        } else {
            // Whoever runs may get in first, so that it is full, or empty, when the parent looks;
            // but it never is both.
            for _ in 0..20 {
                while ring.push(&item(2, number), NOWAIT).is_err() {
                    pop(&ring).into_iter().for_each(|popped| book.note(popped, &mut last));
                }
                number += 1;
            }
        }
        victims.iter().for_each(|child| go_on(child.pid()));
    }
    sent[2].store(number, Ordering::Relaxed);
    enough.store(1, Ordering::Relaxed);
    let mut children = children.into_iter();
    children.by_ref().take(2).for_each(join);
    ring.shutdown().unwrap();
    children.for_each(join);
    for (from, count) in sent.iter().enumerate() {
        let count = count.load(Ordering::Relaxed);
        let received = &book.received[from << 20..][..1 << 20];
        for (number, times) in received.iter().enumerate() {
            let times = times.load(Ordering::Relaxed);
            assert_eq!(times, u64::from((number as u64) < count), "{number} of {from}");
        }
    }
    let all = sent.iter().map(|count| count.load(Ordering::Relaxed)).sum::<u64>();
    let stats = ring.stat();
    assert_eq!((stats.written, stats.read, stats.lost, stats.length), (all, all, 0, 0));
    assert_eq!((stats.pending, stats.recovered), (0, 0));
}

#[test]
fn stopped_at_random_moments() {
    let _turn = serial();
    for capacity in [1, 2, 8, 1024] {
        random_stops(capacity, if capacity == 1024 { 60 } else { 300 });
    }
}

/// What the victim of a trace does between its marks.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Act {
    Push,
    Pop,
}

/// Lets a traced process, which stopped itself just before its mark, go `steps` instructions beyond
/// it; `false` if it had done what it does before.
fn step(victim: Pid, mark: &AtomicU64, steps: u64) -> bool {
    let one = || {
        ptrace(libc::PTRACE_SINGLESTEP, victim);
        let status = traced_status(victim);
        assert!(libc::WIFSTOPPED(status), "{status:#x}");
    };
    while mark.load(Ordering::Relaxed) == 0 {
        one();
    }
    for _ in 0..steps {
        one();
        if mark.load(Ordering::Relaxed) != 1 {
            return false;
        }
    }
    true
}

/// A ring of a few handles, so that a few operations go round it more than once.
fn small(capacity: u64) -> C {
    let options = Options { max_handles: 3, ..options(policy::STOPPROOF, capacity) };
    C::open(None, &options, libc::O_RDWR, 0).unwrap()
}

/// One victim, stopped after `steps` instructions of `act` in a ring with `inside` items, while the
/// parent does whole operations; then it goes on, or is killed. `false`: it had finished before.
fn one_stop(act: Act, capacity: u64, inside: u64, steps: u64, killed: bool) -> bool {
    let ring = small(capacity);
    let [mark, got] = [0, 1].map(|i| &shared_words(2)[i]);
    let push = |number| ring.push(&item(2, number), NOWAIT).unwrap();
    fill_and_empty(&ring, capacity, 9, 1);
    (0..inside).for_each(push);
    let child = fork(|| {
        let access = if act == Act::Push { libc::O_WRONLY } else { libc::O_RDONLY };
        let ring = ring.dup(access).unwrap();
        let mut buffer = item(1, 0);
        // SAFETY: no addresses are used.
        assert_eq!(unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) }, 0);
        signal::raise(Signal::SIGSTOP).unwrap();
        mark.store(1, Ordering::SeqCst);
        let result = match act {
            // SAFETY: a live handle and 16 bytes.
            Act::Push => unsafe { mdg_ring_push(ring.0, buffer.as_ptr().cast(), NOWAIT) },
            // SAFETY: as above.
            Act::Pop => unsafe { mdg_ring_pop(ring.0, buffer.as_mut_ptr().cast(), NOWAIT) },
        };
        mark.store(2, Ordering::SeqCst);
        got.store(parts(&buffer).1, Ordering::SeqCst);
        assert_eq!(parts(&buffer).0, if act == Act::Push || result != 0 { 1 } else { 2 });
        support::process::leave(if result == 0 { 0 } else { 1 });
    });
    let pid = child.pid();
    assert!(libc::WIFSTOPPED(traced_status(pid)));
    if !step(pid, mark, steps) {
        return false;
    }

    // All that is inside can be had, in order; the victim's part is done or not.
    let before: Vec<_> = (0..inside).map(|i| (2, i)).collect();
    let found: Vec<_> = std::iter::from_fn(|| pop(&ring)).collect();
    let is_done = match act {
        Act::Push => found.last() == Some(&(1, 0)),
        Act::Pop => found.len() < before.len(),
    };
    match (act, is_done) {
        (_, false) => assert_eq!(found, before),
        (Act::Push, true) => assert_eq!(found, [&before[..], &[(1, 0)]].concat()),
        (Act::Pop, true) => assert_eq!(found, before[1..]),
    }
    // All of the ring can be used, for several laps.
    fill_and_empty(&ring, capacity, 9, 20);

    let others = 21 * capacity + inside;
    let mut written = others + u64::from(act == Act::Push && is_done);
    let mut lost = 0..1;
    if killed {
        kill(child);
        lost = 0..1 + u64::from(act == Act::Pop && is_done);
        assert_eq!(pop(&ring), None);
    } else {
        ptrace(libc::PTRACE_DETACH, pid);
        let WaitStatus::Exited(_, code) = child.end() else { panic!("the victim died") };
        match act {
            // Only who has seen the ring full while it was may say so.
            Act::Push => assert!(code == 0 || !is_done && inside == capacity, "{is_done}"),
            Act::Pop => assert_eq!(code == 0, is_done),
        }
        if act == Act::Pop && is_done {
            assert_eq!(got.load(Ordering::SeqCst), 0);
        }
        let sent_later = act == Act::Push && code == 0 && !is_done;
        written += u64::from(sent_later);
        assert_eq!(pop(&ring), sent_later.then_some((1, 0)));
        assert_eq!(pop(&ring), None);
    }
    let check = || {
        let stats = ring.stat();
        assert_eq!((stats.written, stats.length, stats.pending), (written, 0, 0));
        assert!(stats.written == stats.read + stats.lost && lost.contains(&stats.lost));
        stats.lost
    };
    // With its slot taken again, and all slots taken, nothing is missing.
    let lost = check();
    let _others = [(); 2].map(|()| ring.dup(libc::O_RDWR).unwrap());
    assert_eq!(check(), lost);
    fill_and_empty(&ring, capacity, 9, 5);
    true
}

/// Stopped after each instruction; where the compiler did not optimise, and there are many times
/// more of them, after every ninety-seventh.
fn each_instruction(act: Act, killed: bool) {
    let _turn = serial();
    let stride = if cfg!(debug_assertions) { 97 } else { 1 };
    for (capacity, inside) in [(1, 0), (1, 1), (4, 2)] {
        let reached = (0..).step_by(stride);
        let stops =
            reached.take_while(|&steps| one_stop(act, capacity, inside, steps, killed)).count();
        println!("{act:?}, {inside} of {capacity}, killed {killed}: {stops} stops");
        assert!(stops > 20, "{act:?}: {stops} stops");
    }
}

#[test]
fn a_push_stopped_after_each_instruction() {
    each_instruction(Act::Push, false);
}

#[test]
fn a_pop_stopped_after_each_instruction() {
    each_instruction(Act::Pop, false);
}

#[test]
fn a_push_killed_after_each_instruction() {
    each_instruction(Act::Push, true);
}

#[test]
fn a_pop_killed_after_each_instruction() {
    each_instruction(Act::Pop, true);
}
