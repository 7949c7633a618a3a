//! Descriptors of rings: no edge is lost, however one waits.

mod support;

use madang::ring::{Kind, Ring};
use nix::errno::Errno;
use std::ffi::c_int;
use support::confine::deny;
use support::face::{FOREVER, NOWAIT};
use support::poll::*;
use support::process::{fork, join};
use support::ring_face::{C, Face};

on_both_faces! { Ring, C in turn:
    no_edge_is_lost_level_triggered
    no_edge_is_lost_edge_triggered
    no_edge_is_lost_without_membarrier
    no_edge_is_lost_when_membarrier_ends
    a_stream_through_a_small_ring
    one_item_for_each_event
    two_pollers_share_a_ring
}

/// Two processes hand a number back and forth; each waits in epoll. A lost edge would cost one of
/// them `LONG`, which is counted.
fn hand_over<F: Face>(kind: Kind, flags: c_int, rounds: u64, prepare: impl Fn(bool)) {
    let (there, back): (F, F) = (open(kind, 1), open(kind, 1));
    let side = |mine: &F, theirs: &F, first: bool| {
        let fd = mine.fd(IN).unwrap();
        let epoll = Epoll::new(fd, flags);
        prepare(first);
        let mut expired = 0;
        let mut state = u64::from(std::process::id());
        for round in 0..rounds {
            if first {
                theirs.push(&word(round), NOWAIT).unwrap();
            }
            let got = loop {
                if let Some(got) = try_pop(mine) {
                    break got;
                }
                // Sooner or later than the other's push.
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                for _ in 0..state >> 54 {
                    std::hint::spin_loop();
                }
                expired += u32::from(!epoll.wait(LONG));
            };
            assert_eq!(got, round);
            if !first {
                theirs.push(&word(round), NOWAIT).unwrap();
            }
        }
        assert_eq!(expired, 0, "an edge was lost");
    };
    let child = fork(|| side(&there, &back, false));
    side(&back, &there, true);
    join(child);
}

fn no_edge_is_lost_level_triggered<F: Face>() {
    for kind in [Kind::Spsc, Kind::Mpmc] {
        hand_over::<F>(kind, 0, 5000, |_| ());
    }
}

fn no_edge_is_lost_edge_triggered<F: Face>() {
    for kind in [Kind::Spsc, Kind::Mpmc] {
        hand_over::<F>(kind, libc::EPOLLET, 5000, |_| ());
    }
}

fn no_edge_is_lost_without_membarrier<F: Face>() {
    join(fork(|| {
        deny(libc::SYS_membarrier, Errno::EPERM);
        hand_over::<F>(Kind::Spsc, libc::EPOLLET, 3000, |_| ());
    }));
}

/// Only one side loses it, and only after it has opened the ring.
fn no_edge_is_lost_when_membarrier_ends<F: Face>() {
    hand_over::<F>(Kind::Spsc, libc::EPOLLET, 3000, |first| {
        if !first {
            deny(libc::SYS_membarrier, Errno::EPERM);
        }
    });
}

/// Both ends wait by edge-triggered epoll, and the ring is full or empty all the time.
fn a_stream_through_a_small_ring<F: Face>() {
    const ITEMS: u64 = 50_000;
    for kind in [Kind::Spsc, Kind::Mpmc] {
        let ring: F = open(kind, 4);
        let child = fork(|| {
            let epoll = Epoll::new(ring.fd(OUT).unwrap(), libc::EPOLLET);
            for i in 0..ITEMS {
                while let Err(failure) = ring.push(&word(i), NOWAIT) {
                    assert_eq!(failure.code, libc::EAGAIN);
                    assert!(epoll.wait(LONG), "an edge was lost at push {i}");
                }
            }
        });
        let epoll = Epoll::new(ring.fd(IN).unwrap(), libc::EPOLLET);
        for i in 0..ITEMS {
            let got = loop {
                if let Some(got) = try_pop(&ring) {
                    break got;
                }
                assert!(epoll.wait(LONG), "an edge was lost at pop {i}");
            };
            assert_eq!(got, i);
        }
        join(child);
    }
}

/// Level-triggered, a program may pop once for each event, and never until `EAGAIN` on purpose: what
/// a pop found at its second look does not make the descriptor unreadable.
fn one_item_for_each_event<F: Face>() {
    const ITEMS: u64 = 20_000;
    for kind in [Kind::Spsc, Kind::Mpmc] {
        let ring: F = open(kind, 4);
        let child = fork(|| {
            for i in 0..ITEMS {
                ring.push(&word(i), FOREVER).unwrap();
            }
        });
        let epoll = Epoll::new(ring.fd(IN).unwrap(), 0);
        let mut next = 0;
        while next < ITEMS {
            assert!(epoll.wait(LONG), "not readable before item {next}");
            if let Some(got) = try_pop(&ring) {
                assert_eq!(got, next);
                next += 1;
            }
        }
        join(child);
    }
}

fn two_pollers_share_a_ring<F: Face>() {
    const ITEMS: u64 = 20_000;
    let ring: F = open(Kind::Mpmc, 8);
    let sums: F = open(Kind::Mpmc, 2);
    let consumers = [(); 2].map(|()| {
        fork(|| {
            let fd = ring.fd(IN).unwrap();
            let epoll = Epoll::new(fd, libc::EPOLLET);
            let mut sum = 0;
            loop {
                let mut item = [0; 8];
                match ring.pop(&mut item, NOWAIT) {
                    Ok(()) => sum += u64::from_ne_bytes(item),
                    Err(failure) if failure.code == libc::EPIPE => break,
                    Err(failure) => {
                        assert_eq!(failure.code, libc::EAGAIN);
                        assert!(epoll.wait(LONG), "an edge was lost");
                    }
                }
            }
            sums.push(&word(sum), NOWAIT).unwrap();
        })
    });
    for i in 0..ITEMS {
        ring.push(&word(i), FOREVER).unwrap();
        if i % 64 == 0 {
            // Let them fall asleep.
            while ring.stat().length > 0 {
                std::thread::yield_now();
            }
        }
    }
    ring.shutdown().unwrap();
    consumers.into_iter().for_each(join);
    assert_eq!(pop(&sums) + pop(&sums), (0..ITEMS).sum::<u64>());
}
