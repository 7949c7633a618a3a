//! Rings between processes: streams with checksums, forks, deaths, take-overs, races.

mod support;

use std::time::{Duration, Instant};

use madang::ffi::ring::*;
use madang::ring::{Options, Ring};
use support::ring_face::{C, CREATE, FOREVER, Face, NOWAIT, Named, SECOND, refused};
use support::{Gate, fork, join, kill, serial};

/// Fills `item` with the bytes that item number `index` must have: its index, repeated, with the
/// position mixed in.
fn pattern(index: u64, item: &mut [u8]) {
    let mut state = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for chunk in item.chunks_mut(8) {
        state = state.rotate_left(23) ^ index;
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
}

/// FNV-1a over items, order and all.
fn digest(sum: u64, item: &[u8]) -> u64 {
    item.iter().fold(sum, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// A child pushes `count` items, one a call or in batches, the parent pops and compares each.
fn stream<F: Face>(capacity: u64, size: usize, count: u64) {
    let ring = F::open(None, &Options::new(capacity, size as u32), libc::O_RDWR, 0).unwrap();
    let child = fork(|| {
        let mut batch = vec![0; size * 5];
        let mut next = 0;
        while next < count {
            let items = if next % 7 == 0 { (count - next).min(5) } else { 1 };
            for (i, item) in batch.chunks_mut(size).enumerate().take(items as usize) {
                pattern(next + i as u64, item);
            }
            if items == 1 {
                ring.push(&batch[..size], FOREVER).unwrap();
                next += 1;
            } else {
                let end = size * items as usize;
                next += ring.push_many(&batch[..end], size, FOREVER).unwrap() as u64;
            }
        }
        ring.shutdown().unwrap();
        // Not dropped: an exit without closing must lose nothing either.
    });
    let (mut received, mut buffer, mut expected) = (0, vec![0; size * 3], vec![0; size]);
    let (mut sum, mut expected_sum) = (0xcbf2_9ce4_8422_2325, 0xcbf2_9ce4_8422_2325);
    loop {
        let items = if received % 11 == 0 {
            ring.pop_many(&mut buffer, size, FOREVER)
        } else {
            ring.pop(&mut buffer[..size], FOREVER).map(|()| 1)
        };
        let items = match items {
            Ok(items) => items,
            Err(end) => {
                assert_eq!(end.0, libc::EPIPE);
                break;
            }
        };
        for item in buffer.chunks(size).take(items) {
            pattern(received, &mut expected);
            assert_eq!(item, expected, "item {received} of {size} bytes");
            (sum, expected_sum) = (digest(sum, item), digest(expected_sum, &expected));
            received += 1;
        }
    }
    join(child);
    assert_eq!((received, sum), (count, expected_sum));
    let stats = ring.stat();
    assert_eq!((stats.producer_state, stats.recovered), (MDG_RING_END_CLOSED, 0));
    assert_eq!((stats.written, stats.read, stats.length), (count, count, 0));
}

both_faces! {
    /// Sequenced, checksummed items in several sizes and capacities, between two processes.
    fn streams<F: Face>() {
        for capacity in [1, 2, 1000] {
            for (size, count) in [(1, 20_000), (7, 20_000), (8, 20_000), (64, 20_000), (4096, 2_000)] {
                stream::<F>(capacity, size, count);
            }
        }
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
            refused(ring.push(&2_u64.to_ne_bytes(), NOWAIT), libc::EBUSY, &format!("pid {parent}"));
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
        refused(ring.push(&[0; 8], NOWAIT), libc::EBUSY, &format!("pid {child}"));
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
        refused(ring.pop(&mut item, FOREVER), libc::EOWNERDEAD, &format!("pid {producer}"));
        let noticed = Instant::now();
        let killed = killer.join().unwrap();
        let late = noticed.saturating_duration_since(killed.max(started));
        assert!(late < Duration::from_millis(200), "noticed after {late:?}");
        refused(ring.pop(&mut item, FOREVER), libc::EOWNERDEAD, "died");
        refused(ring.peek(1, SECOND), libc::EOWNERDEAD, "died");
        refused(ring.pop(&mut item, NOWAIT), libc::EAGAIN, "");
        assert_eq!((ring.stat().producer_state, ring.stat().recovered), (MDG_RING_END_DEAD, 1));
        let next = open(libc::O_WRONLY);
        refused(ring.pop(&mut item, 1_000_000), libc::ETIMEDOUT, "");
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
        let killer = std::thread::spawn(move || {
            kill(consumer);
            Instant::now()
        });
        refused(ring.push(&[0; 8], FOREVER), libc::EOWNERDEAD, &format!("pid {consumer}"));
        let late = Instant::now().saturating_duration_since(killer.join().unwrap());
        assert!(late < Duration::from_millis(200), "noticed after {late:?}");
        refused(ring.reserve(1, SECOND), libc::EOWNERDEAD, "died");
        refused(ring.push(&[0; 8], NOWAIT), libc::EAGAIN, "");
        // What it had only peeked is delivered again.
        let mut item = [0; 8];
        for i in 0..2_u64 {
            ring.pop(&mut item, NOWAIT).unwrap();
            assert_eq!(u64::from_ne_bytes(item), i);
        }
        ring.push(&[0; 8], FOREVER).unwrap();
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
        refused(ring.pop(&mut [0; 8], 100_000), libc::ETIMEDOUT, "");
        kill(producer);
        refused(ring.pop(&mut [0; 8], 100_000), libc::EOWNERDEAD, &format!("pid {producer}"));
    }

    /// A shutdown wakes a sleeper of either side.
    fn shutdown_wakes<F: Face>() {
        for full in [false, true] {
            let ring = F::open(None, &Options::new(1, 8), libc::O_RDWR, 0).unwrap();
            if full {
                ring.push(&[0; 8], NOWAIT).unwrap();
            }
            let sleeper = fork(|| {
                if full {
                    refused(ring.push(&[0; 8], FOREVER), libc::EBUSY, "producing end");
                } else {
                    refused(ring.pop(&mut [0; 8], FOREVER), libc::EPIPE, "shut down");
                }
            });
            if full {
                join(sleeper);
                continue;
            }
            // Shut down while the other sleeps, or just before: both must end it.
            while ring.stat().pop_waits == 0 {
                std::hint::spin_loop();
            }
            ring.shutdown().unwrap();
            join(sleeper);
        }
    }

    /// A signal ends a wait with -EINTR, with SA_RESTART too.
    fn signals_end_waits<F: Face>() {
        extern "C" fn ignore(_: i32) {}
        let ring = F::open(None, &Options::new(1, 8), libc::O_RDWR, 0).unwrap();
        let child = fork(|| {
            // SAFETY: all-zero but for the fields set is a valid sigaction.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = ignore as *const () as usize;
                action.sa_flags = libc::SA_RESTART;
                libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut());
            }
            refused(ring.pop(&mut [0; 8], FOREVER), libc::EINTR, "");
            refused(ring.pop(&mut [0; 8], 60 * SECOND), libc::EINTR, "");
            ring.shutdown().unwrap();
        });
        while ring.stat().pop_waits == 0 {
            std::hint::spin_loop();
        }
        while ring.stat().flags == 0 {
            nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGUSR1).unwrap();
            std::thread::yield_now();
        }
        join(child);
    }
}

/// Ten million items with sequence and checksum, through the C ABI, between two processes.
#[test]
fn ten_million_items() {
    let _turn = serial();
    let plan = [(1, 3_000_000), (7, 2_000_000), (8, 3_500_000), (64, 1_450_000), (4096, 50_000)];
    assert_eq!(plan.iter().map(|(_, count)| count).sum::<u64>(), 10_000_000);
    for (size, count) in plan {
        stream::<C>(1000, size, count);
    }
}

/// Under seccomp's strict mode any system call but read, write and exit kills: a busy ring moves a
/// million items there.
#[test]
fn a_busy_ring_makes_no_system_call() {
    let _turn = serial();
    let ring = C::open(None, &Options::new(1024, 8), libc::O_RDWR, 0).unwrap();
    let count = 1_000_000_u64;
    /// Ends this process under strict mode: exit(2), not exit_group(2).
    fn leave() -> ! {
        // SAFETY: exit(2) ends this thread, the process's only one.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
        unreachable!()
    }
    fn strict() {
        // SAFETY: no pointer is involved.
        let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, 1, 0, 0, 0) };
        assert_eq!(result, 0, "seccomp strict mode");
    }
    // An end is claimed, which takes system calls, before the mode is set.
    let producer = fork(|| {
        ring.push(&0_u64.to_ne_bytes(), NOWAIT).unwrap();
        strict();
        for i in 1..count {
            let item = i.to_ne_bytes();
            // SAFETY: a live handle and eight bytes.
            while unsafe { mdg_ring_push(ring.0, item.as_ptr().cast(), NOWAIT) } != 0 {}
        }
        leave();
    });
    let consumer = fork(|| {
        let mut item = [0; 8];
        ring.pop(&mut item, FOREVER).unwrap();
        strict();
        for i in 1..count {
            // SAFETY: a live handle and eight bytes.
            while unsafe { mdg_ring_pop(ring.0, item.as_mut_ptr().cast(), NOWAIT) } != 0 {}
            if u64::from_ne_bytes(item) != i {
                // A forbidden call: the parent sees SIGKILL.
                std::process::abort();
            }
        }
        leave();
    });
    join(producer);
    join(consumer);
    assert_eq!((ring.stat().written, ring.stat().read), (count, count));
}

/// A blocking stream that never has to wait makes no system call either: counted by seccomp again,
/// with both ends in one process.
#[test]
fn blocking_calls_that_need_not_wait_make_no_system_call() {
    let _turn = serial();
    let ring = C::open(None, &Options::new(16, 8), libc::O_RDWR, 0).unwrap();
    let child = fork(|| {
        let mut item = [0; 8];
        ring.push(&item, FOREVER).unwrap();
        ring.pop(&mut item, FOREVER).unwrap();
        // SAFETY: no pointer is involved.
        assert_eq!(unsafe { libc::prctl(libc::PR_SET_SECCOMP, 1, 0, 0, 0) }, 0);
        for _ in 0..10_000 {
            for _ in 0..16 {
                // SAFETY: a live handle and eight bytes.
                unsafe { mdg_ring_push(ring.0, item.as_ptr().cast(), FOREVER) };
            }
            for _ in 0..16 {
                // SAFETY: as above.
                unsafe { mdg_ring_pop(ring.0, item.as_mut_ptr().cast(), SECOND) };
            }
        }
        // SAFETY: exit(2) ends this thread, the process's only one.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    });
    join(child);
    assert_eq!(ring.stat().read, 160_001);
}

/// A side that waits a second uses next to no processor time.
#[test]
fn waiting_costs_next_to_nothing() {
    let _turn = serial();
    let ring = Ring::anonymous(&Options::new(8, 8), madang::Access::ReadWrite).unwrap();
    let child = fork(|| {
        let used = || {
            let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_THREAD);
            let usage = usage.unwrap();
            Duration::from_micros(
                (usage.user_time().tv_sec() + usage.system_time().tv_sec()) as u64 * 1_000_000
                    + (usage.user_time().tv_usec() + usage.system_time().tv_usec()) as u64,
            )
        };
        let before = used();
        refused(Face::pop(&ring, &mut [0; 8], SECOND), libc::ETIMEDOUT, "");
        let cost = used() - before;
        // Ten slices of sleep; 1 % of the second is far above what they cost and far below a spin.
        assert!(cost < Duration::from_millis(10), "{cost:?}");
    });
    join(child);
}

/// Thousands of races to make the same ring: one winner each time, nobody sees it half-made.
#[test]
fn creator_races() {
    let _turn = serial();
    let name = Named::new("race");
    let rounds = 2000;
    let (start, done) = (Gate::new(), Gate::new());
    let creators: Vec<_> = (0..3)
        .map(|_| {
            fork(|| {
                let mut wins = 0;
                for _ in 0..rounds {
                    start.pass();
                    let oflag = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
                    match C::open(Some(&name.0), &Options::new(64, 8), oflag, 0o600) {
                        Ok(_) => wins += 1,
                        Err(error) => {
                            assert_eq!(error.0, libc::EEXIST, "{}", error.1);
                            // Whoever lost finds the winner's ring, complete.
                            let found =
                                C::open(Some(&name.0), &Options::new(64, 8), libc::O_RDWR, 0);
                            assert_eq!(found.unwrap().stat().capacity, 64);
                        }
                    }
                    done.open();
                }
                assert!(wins <= rounds);
            })
        })
        .collect();
    for _ in 0..rounds {
        for _ in 0..creators.len() {
            start.open();
        }
        for _ in 0..creators.len() {
            done.pass();
        }
        C::unlink(&name.0).expect("exactly one was made");
    }
    creators.into_iter().for_each(join);
}

/// Making, opening and unlinking at full speed, with kills in between: every ring that is found is
/// whole, and nothing is left behind.
#[test]
fn churn_with_kills() {
    let _turn = serial();
    let name = Named::new("churn");
    let spawn = || {
        fork(|| {
            loop {
                match C::open(Some(&name.0), &Options::new(4, 8), CREATE, 0o600) {
                    Ok(ring) => assert_eq!(ring.stat().capacity, 4),
                    Err(error) => assert_eq!(error.0, libc::ESTALE, "{}", error.1),
                }
                match C::unlink(&name.0) {
                    Ok(()) => {}
                    Err(error) => assert_eq!(error.0, libc::ENOENT, "{}", error.1),
                }
            }
        })
    };
    let mut children: Vec<_> = (0..3).map(|_| spawn()).collect();
    for round in 0..300 {
        let victim = round % children.len();
        // Some progress between kills: this process takes part, too.
        for _ in 0..5 {
            match C::open(Some(&name.0), &Options::new(4, 8), CREATE, 0o600) {
                Ok(_) => {}
                Err(error) => assert_eq!(error.0, libc::ESTALE, "{}", error.1),
            }
        }
        kill(children[victim]);
        children[victim] = spawn();
    }
    children.into_iter().for_each(kill);
    let _ = C::unlink(&name.0);
    let left = std::fs::read_dir("/dev/shm").unwrap().flatten();
    let mine = &name.0[1..];
    let left: Vec<_> =
        left.filter(|entry| entry.file_name().to_string_lossy().contains(mine)).collect();
    assert!(left.is_empty(), "{left:?}");
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
        let producer = fork(|| {
            let ring = C::open(Some(&name.0), &Options::default(), libc::O_WRONLY, 0).unwrap();
            assert_eq!(ring.stat().written, first);
            started.open();
            let mut item = [0; 64];
            for i in first.. {
                pattern(i, &mut item);
                ring.push(&item, FOREVER).unwrap();
            }
        });
        started.pass();
        let mut item = [0; 64];
        let until = next + 50 + next % 97;
        let mut killed = false;
        loop {
            match ring.pop(&mut item, FOREVER) {
                Ok(()) => {
                    pattern(next, &mut expected);
                    assert_eq!(item, expected, "item {next}");
                    next += 1;
                }
                Err(error) => {
                    assert_eq!(error.0, libc::EOWNERDEAD, "{}", error.1);
                    break;
                }
            }
            if next >= until && !killed {
                kill(producer);
                killed = true;
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
        let consumer = fork(|| {
            let ring = C::open(Some(&name.0), &Options::default(), libc::O_RDONLY, 0).unwrap();
            let log = log.duplicate(madang::Access::WriteOnly).unwrap();
            let mut item = [0; 8];
            loop {
                ring.pop(&mut item, FOREVER).unwrap();
                log.push(&item, madang::Timeout::Forever).unwrap();
            }
        });
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

/// A thread with a cancellation pending goes through every call (tests/c/ring_cancel.c).
#[test]
fn no_call_is_a_cancellation_point() {
    let dir = support::scratch("ring_cancel");
    let program = dir.join("ring_cancel");
    support::compile_c(&support::root().join("tests/c/ring_cancel.c"), &program, &[]);
    let output = std::process::Command::new(&program).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    std::fs::remove_dir_all(dir).unwrap();
}
