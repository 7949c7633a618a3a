//! Rings that redeliver, whose consumers are killed after each instruction.

mod support;

use madang::ffi::ring::*;
use madang::ring::Options;
use nix::sys::signal::SIGSTOP;
use std::sync::atomic::Ordering;
use support::face::NOWAIT;
use support::process::{Gate, fork, join, kill, serial, shared_words};
use support::redeliver::*;
use support::ring_face::{C, Face};

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
