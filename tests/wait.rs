//! Waiting for any of many rings and descriptors.

mod support;

use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use madang::ffi::ring::*;
use madang::ffi::wait::*;
use madang::ring::{Kind, Options, Ring};
use nix::errno::Errno;
use support::confine::deny;
use support::face::{FOREVER, NOWAIT, answer, refused, refused_with};
use support::poll::descriptors;
use support::process::{Gate, fork, interrupted, join, kill};
use support::ring_face::{C, CREATE, Entry, Face, Named, SECOND};

on_both_faces! { Ring, C in turn:
    what_is_ready_is_said_of_all
    nothing_is_ready
    bad_entries
    the_end_of_a_stream_and_corruption
    descriptors_of_any_kind
    sixty_four_rings_in_two_processes
    rings_and_descriptors_in_two_processes
    a_signal_ends_it
    a_death_is_told_after_what_was_committed
    what_the_dead_left_in_the_way
    the_programs_own_descriptor_stays_readable
    where_no_descriptor_can_be_made
    one_instance_for_all_waits
}

const IN: u32 = MDG_POLL_IN;
const OUT: u32 = MDG_POLL_OUT;
const LONG: i64 = 20 * SECOND;
/// A wait that a slice of sleep has ended, rather than news, takes about this long.
const SLICE: Duration = Duration::from_millis(90);

fn open<F: Face>(kind: Kind, capacity: u64) -> F {
    let options = Options { kind: Some(kind), ..Options::new(capacity, 8) };
    F::open(None, &options, libc::O_RDWR, 0).unwrap()
}

fn word(value: u64) -> [u8; 8] {
    value.to_ne_bytes()
}

fn push(ring: &impl Face, value: u64) {
    ring.push(&word(value), NOWAIT).unwrap();
}

#[track_caller]
fn pop(ring: &impl Face) -> u64 {
    let mut item = [0; 8];
    ring.pop(&mut item, NOWAIT).unwrap();
    u64::from_ne_bytes(item)
}

/// Waits for these events of these rings; what was found.
#[track_caller]
fn found<F: Face>(waits: &[(&F, u32)], timeout: i64) -> Vec<u32> {
    let mut entries: Vec<_> =
        waits.iter().map(|(ring, events)| Entry::ring(*ring, *events)).collect();
    let count = F::wait_any(&mut entries, timeout).unwrap();
    let ready: Vec<_> = entries.iter().map(|entry| entry.ready).collect();
    assert_eq!(ready.iter().filter(|&&ready| ready != 0).count(), count);
    ready
}

/// Nanoseconds of the monotonic clock, the same in all processes.
fn clock() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    Duration::from(now).as_nanos() as u64
}

fn what_is_ready_is_said_of_all<F: Face>() {
    for kind in [Kind::Spsc, Kind::Mpmc] {
        let (a, b): (F, F) = (open(kind, 1), open(kind, 1));
        for timeout in [NOWAIT, FOREVER, SECOND] {
            assert_eq!(found(&[(&a, IN | OUT), (&b, IN)], timeout), [OUT, 0]);
            push(&b, 1);
            assert_eq!(found(&[(&a, IN), (&b, IN)], timeout), [0, IN]);
            assert_eq!(found(&[(&a, OUT), (&b, IN | OUT)], timeout), [OUT, IN]);
            assert_eq!(found(&[(&b, IN), (&b, OUT), (&a, OUT)], timeout), [IN, 0, OUT]);
            pop(&b);
        }
        // In hands: the next call is -EINVAL, and does not wait.
        push(&a, 1);
        a.peek(1, NOWAIT).unwrap();
        assert_eq!(found(&[(&a, IN)], NOWAIT), [IN]);
        a.release(0).unwrap();
        assert_eq!(found(&[(&a, IN)], NOWAIT), [IN]);
        pop(&a);
        refused_with(F::wait_any(&mut [Entry::ring(&a, IN)], NOWAIT), libc::EAGAIN, "");
    }
    // A ring that overwrites always has room.
    let policy = madang::ring::policy::OVERWRITE;
    let options = Options { kind: Some(Kind::Mpmc), policy, ..Options::new(1, 8) };
    let ring = F::open(None, &options, libc::O_RDWR, 0).unwrap();
    push(&ring, 1);
    assert_eq!(found(&[(&ring, OUT)], NOWAIT), [OUT]);
}

fn nothing_is_ready<F: Face>() {
    for kind in [Kind::Spsc, Kind::Mpmc] {
        let (a, b): (F, F) = (open(kind, 1), open(kind, 1));
        push(&b, 1);
        let mut entries =
            [Entry::ring(&a, IN), Entry::ring(&b, OUT), Entry::fd(-1, IN), Entry::ring(&a, IN)];
        refused_with(F::wait_any(&mut entries, NOWAIT), libc::EAGAIN, "");
        for timeout in [1, 3_000_000, 250_000_000] {
            let begin = Instant::now();
            refused_with(F::wait_any(&mut entries, timeout), libc::ETIMEDOUT, "");
            assert!(begin.elapsed() >= Duration::from_nanos(timeout as u64));
        }
        assert!(entries.iter().all(|entry| entry.ready == u32::MAX), "written only on success");
        // Only what is left out.
        let mut entries = [Entry::<F>::fd(-1, IN), Entry::fd(i32::MIN, OUT)];
        refused_with(F::wait_any(&mut entries, 1_000_000), libc::ETIMEDOUT, "");
    }
}

fn bad_entries<F: Face>() {
    let ring: F = open(Kind::Spsc, 1);
    refused_with(F::wait_any(&mut [], FOREVER), libc::EINVAL, "1 to 64");
    refused_with(F::wait_any(&mut [Entry::ring(&ring, OUT); 65], FOREVER), libc::EINVAL, "1 to 64");
    for events in [0, 2, 8, 0x10, IN | 0x10, u32::MAX] {
        refused_with(
            F::wait_any(&mut [Entry::ring(&ring, events)], FOREVER),
            libc::EINVAL,
            "events",
        );
    }
    let closed = nix::unistd::pipe().unwrap().0.as_raw_fd();
    let mut entries = [Entry::ring(&ring, OUT), Entry::fd(closed, IN)];
    refused_with(F::wait_any(&mut entries, FOREVER), libc::EBADF, "entry 1");
    let producer = F::open(None, &Options::new(1, 8), libc::O_WRONLY, 0).unwrap();
    refused_with(F::wait_any(&mut [Entry::ring(&producer, IN)], NOWAIT), libc::EACCES, "consuming");
    let other = producer.dup(libc::O_RDWR).unwrap();
    refused_with(F::wait_any(&mut [Entry::ring(&other, OUT)], NOWAIT), libc::EBUSY, "producing");
}

#[test]
fn bad_entries_in_c() {
    let mut wait =
        mdg_wait { ring: std::ptr::null_mut(), fd: 0, events: IN, ready: 7, reserved: 0 };
    let call = |entry: Option<&mut mdg_wait>, count| {
        let entry = entry.map_or(std::ptr::null_mut(), std::ptr::from_mut);
        // SAFETY: NULL, or one entry, or a count that is refused.
        answer(|| unsafe { mdg_wait_any(entry, count, FOREVER) })
    };
    refused_with(call(None, 1), libc::EINVAL, "NULL");
    refused_with(call(Some(&mut wait), 0), libc::EINVAL, "0 entries");
    refused_with(call(Some(&mut wait), usize::MAX), libc::EINVAL, "1 to 64");
    wait.reserved = 1;
    refused_with(call(Some(&mut wait), 1), libc::EINVAL, "reserved");
    wait.reserved = 0;
    let mut zeros = [0_u64; 16];
    wait.ring = zeros.as_mut_ptr().cast();
    refused_with(call(Some(&mut wait), 1), libc::EBADF, "not a handle");
    assert_eq!(wait.ready, 7);
    for ring in [std::ptr::null_mut(), wait.ring] {
        let expected = if ring.is_null() { libc::EINVAL } else { libc::EBADF };
        // SAFETY: NULL, or readable memory that is no handle.
        refused_with(answer(|| unsafe { mdg_ring_fd(ring, IN) }), expected, "mdg_ring");
        // SAFETY: as above.
        refused_with(answer(|| unsafe { mdg_ring_cancel(ring) }), expected, "mdg_ring");
    }
}

fn the_end_of_a_stream_and_corruption<F: Face>() {
    for kind in [Kind::Spsc, Kind::Mpmc] {
        let ring: F = open(kind, 2);
        push(&ring, 1);
        ring.shutdown().unwrap();
        assert_eq!(found(&[(&ring, IN)], FOREVER), [IN]);
        assert_eq!(found(&[(&ring, IN | OUT)], FOREVER), [IN | OUT | MDG_POLL_HUP]);
        pop(&ring);
        assert_eq!(found(&[(&ring, IN)], FOREVER), [IN | MDG_POLL_HUP]);
        refused_with(ring.pop(&mut [0; 8], NOWAIT), libc::EPIPE, "");
    }
    let name = Named::new("corrupt");
    let ring = F::open(Some(&name.0), &Options::new(2, 8), CREATE, 0o600).unwrap();
    refused_with(F::wait_any(&mut [Entry::ring(&ring, IN)], NOWAIT), libc::EAGAIN, "");
    let file = std::fs::File::options().write(true).open(name.path()).unwrap();
    file.write_all_at(&100_u64.to_ne_bytes(), 4096).unwrap();
    assert_eq!(found(&[(&ring, IN)], FOREVER), [IN | MDG_POLL_ERR]);
    refused_with(ring.pop(&mut [0; 8], NOWAIT), libc::EBADMSG, "");
}

fn descriptors_of_any_kind<F: Face>() {
    let ring: F = open(Kind::Spsc, 1);
    let (read, write) = nix::unistd::pipe().unwrap();
    let fds = (read.as_raw_fd(), write.as_raw_fd());
    let mut entries = [Entry::fd(fds.0, IN), Entry::ring(&ring, IN), Entry::fd(fds.1, OUT)];
    assert_eq!(F::wait_any(&mut entries, FOREVER), Ok(1));
    assert_eq!(entries.map(|entry| entry.ready), [0, 0, OUT]);
    nix::unistd::write(&write, b"x").unwrap();
    push(&ring, 1);
    assert_eq!(F::wait_any(&mut entries, NOWAIT), Ok(3));
    assert_eq!(entries.map(|entry| entry.ready), [IN, IN, OUT]);
    nix::unistd::read(&read, &mut [0; 8]).unwrap();
    pop(&ring);
    refused_with(F::wait_any(&mut entries[..2], 1_000_000), libc::ETIMEDOUT, "");
    drop(write);
    assert_eq!(F::wait_any(&mut entries[..2], FOREVER), Ok(1));
    assert_eq!(entries[0].ready, MDG_POLL_HUP);
}

/// A child pushes what time it is into one of the rings, whenever the last item was acknowledged; the
/// time from there to the end of the wait tells whether a byte ended it or a slice.
fn many_in_two_processes<F: Face>(rings: usize, also: &[(i32, u32)], rounds: u64) {
    let kinds = [Kind::Spsc, Kind::Mpmc];
    let rings: Vec<F> = (0..rings).map(|i| open(kinds[i % 2], 1)).collect();
    let next: F = open(Kind::Spsc, 1);
    let child = fork(|| {
        let mut state = 1_u64;
        for _ in 0..rounds {
            next.pop(&mut [0; 8], FOREVER).unwrap();
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            for _ in 0..(state >> 40) % 5000 {
                std::hint::spin_loop();
            }
            push(&rings[(state >> 33) as usize % rings.len()], clock());
        }
    });
    let mut late = 0;
    let mut entries: Vec<_> = rings.iter().map(|ring| Entry::ring(ring, IN)).collect();
    entries.extend(also.iter().map(|&(fd, events)| Entry::fd(fd, events)));
    for _ in 0..rounds {
        push(&next, 0);
        assert_eq!(F::wait_any(&mut entries, LONG), Ok(1));
        let woken = clock();
        let ready = entries.iter().find(|entry| entry.ready != 0).unwrap();
        assert_eq!(ready.ready, IN);
        let pushed = pop(ready.ring.unwrap());
        late += u64::from(Duration::from_nanos(woken.saturating_sub(pushed)) >= SLICE);
    }
    join(child);
    assert!(late * 50 < rounds, "{late} of {rounds} waits were ended by their slice");
}

fn sixty_four_rings_in_two_processes<F: Face>() {
    many_in_two_processes::<F>(64, &[], 300);
}

fn rings_and_descriptors_in_two_processes<F: Face>() {
    let (read, _write) = nix::unistd::pipe().unwrap();
    many_in_two_processes::<F>(3, &[(read.as_raw_fd(), IN), (-1, OUT)], 3000);
}

fn a_signal_ends_it<F: Face>() {
    let ring: F = open(Kind::Spsc, 1);
    let (read, _write) = nix::unistd::pipe().unwrap();
    let mut entries = [Entry::ring(&ring, IN), Entry::fd(read.as_raw_fd(), IN)];
    for count in [1, 2] {
        let ended = interrupted(|| F::wait_any(&mut entries[..count], FOREVER));
        refused_with(ended, libc::EINTR, "");
    }
}

fn a_death_is_told_after_what_was_committed<F: Face>() {
    for kind in [Kind::Spsc, Kind::Mpmc] {
        let (ring, quiet): (F, F) = (open(kind, 4), open(kind, 4));
        let gate = Gate::new();
        let child = fork(|| {
            push(&ring, 7);
            gate.open();
            std::thread::sleep(Duration::from_secs(1000));
        });
        gate.pass();
        assert_eq!(found(&[(&quiet, IN), (&ring, IN)], FOREVER), [0, IN]);
        // Nobody has noticed yet; alone or not, a wait does.
        kill(child);
        assert_eq!(found(&[(&ring, IN)], FOREVER), [IN]);
        assert_eq!(pop(&ring), 7);
        let begin = Instant::now();
        assert_eq!(found(&[(&quiet, IN), (&ring, IN)], LONG), [0, MDG_POLL_HUP]);
        assert!(begin.elapsed() < Duration::from_secs(5));
        refused_with(ring.pop(&mut [0; 8], FOREVER), libc::EOWNERDEAD, "died");
        // Each of the two has told once.
        let mut entries = [Entry::ring(&quiet, IN), Entry::ring(&ring, IN)];
        refused_with(F::wait_any(&mut entries, NOWAIT), libc::EAGAIN, "");
        refused_with(F::wait_any(&mut entries, 150_000_000), libc::ETIMEDOUT, "");
        refused_with(ring.pop(&mut [0; 8], 1_000_000), libc::ETIMEDOUT, "");
        // A successor makes it an ordinary ring again.
        let successor = ring.dup(libc::O_WRONLY).unwrap();
        refused_with(F::wait_any(&mut entries, 150_000_000), libc::ETIMEDOUT, "");
        push(&successor, 8);
        assert_eq!(found(&[(&ring, IN)], FOREVER), [IN]);
    }
}

fn what_the_dead_left_in_the_way<F: Face>() {
    let ring: F = open(Kind::Mpmc, 4);
    let gate = Gate::new();
    let child = fork(|| {
        ring.reserve(1, NOWAIT).unwrap();
        gate.open();
        std::thread::sleep(Duration::from_secs(1000));
    });
    gate.pass();
    push(&ring, 1);
    let mut entries = [Entry::ring(&ring, IN)];
    refused_with(F::wait_any(&mut entries, 150_000_000), libc::ETIMEDOUT, "");
    kill(child);
    assert_eq!(found(&[(&ring, IN)], LONG), [IN]);
    assert_eq!(pop(&ring), 1);
}

fn the_programs_own_descriptor_stays_readable<F: Face>() {
    let ring: F = open(Kind::Spsc, 4);
    let producer = ring.dup(libc::O_WRONLY).unwrap();
    let fd = ring.fd(IN).unwrap();
    let readable = || {
        let mut one = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: one live entry.
        unsafe { libc::poll(&raw mut one, 1, 0) == 1 }
    };
    refused(ring.pop(&mut [0; 8], NOWAIT));
    assert!(!readable());
    for _ in 0..3 {
        let mut entries = [Entry::ring(&ring, IN)];
        refused_with(F::wait_any(&mut entries, 1_000_000), libc::ETIMEDOUT, "");
        push(&producer, 1);
        assert_eq!(found(&[(&ring, IN)], FOREVER), [IN]);
        assert!(readable());
        pop(&ring);
        refused(ring.pop(&mut [0; 8], NOWAIT));
        assert!(!readable());
        push(&producer, 2);
        assert!(readable());
        pop(&ring);
    }
}

/// As many instances as the user may have: the descriptor says so and how to get more; waiting for many
/// goes on with naps.
fn where_no_descriptor_can_be_made<F: Face>() {
    join(fork(|| {
        let options = Options::new(4, 8);
        let rings = [(); 2].map(|()| F::open(None, &options, libc::O_RDWR, 0).unwrap());
        let fine = rings[0].fd(IN).unwrap();
        deny(libc::SYS_inotify_init1, Errno::EMFILE);
        let failure = rings[1].fd(IN).unwrap_err();
        assert_eq!(failure.code, libc::EMFILE);
        assert!(failure.text.contains("fs.inotify.max_user_instances"), "{failure:?}");
        assert!(!failure.text.contains("unknown"), "{failure:?}");
        assert_eq!(rings[0].fd(IN).unwrap(), fine);
        let mut entries = [Entry::ring(&rings[1], IN)];
        refused_with(F::wait_any(&mut entries, NOWAIT), libc::EAGAIN, "");
        refused_with(F::wait_any(&mut entries, 30_000_000), libc::ETIMEDOUT, "");
        let producer = fork(|| push(&rings[1], 1));
        assert_eq!(found(&[(&rings[1], IN), (&rings[0], IN)], FOREVER), [IN, 0]);
        join(producer);
        let (read, write) = nix::unistd::pipe().unwrap();
        nix::unistd::write(&write, b"x").unwrap();
        let mut entries = [Entry::ring(&rings[0], IN), Entry::fd(read.as_raw_fd(), IN)];
        assert_eq!(F::wait_any(&mut entries, FOREVER).unwrap(), 1);
        rings[1].cancel().unwrap();
        pop(&rings[1]);
        let mut entries = [Entry::ring(&rings[1], IN)];
        refused_with(F::wait_any(&mut entries, FOREVER), libc::ECANCELED, "");
    }));
}

/// One instance serves waits for any rings, in any order, as they come and go.
fn one_instance_for_all_waits<F: Face>() {
    join(fork(|| {
        let instances = || descriptors("inotify").len();
        let first: F = open(Kind::Mpmc, 4);
        let before = instances();
        let producers: Vec<_> = (0..70)
            .map(|round| {
                let ring: F = open(Kind::Mpmc, 4);
                let producer = ring.dup(libc::O_RDWR).unwrap();
                let mut entries = [Entry::ring(&ring, IN), Entry::ring(&first, IN)];
                if round % 2 == 0 {
                    entries.swap(0, 1);
                }
                refused_with(F::wait_any(&mut entries, 1_000_000), libc::ETIMEDOUT, "");
                producer
            })
            .collect();
        assert!(instances() <= before + 2, "{}", instances() - before);
        // More files than one wait can be for were watched. News of those that are not waited for any
        // more end nothing.
        let last: F = open(Kind::Mpmc, 4);
        let pusher = fork(|| {
            producers.iter().for_each(|one| push(one, 1));
            push(&last, 1);
        });
        assert_eq!(found(&[(&first, IN), (&last, IN)], LONG), [0, IN]);
        join(pusher);
        drop((first, last));
        assert_eq!(instances(), before);
    }));
}
