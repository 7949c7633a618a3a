//! Descriptors of rings, for poll, epoll and event loops: readable when they should be, no edge
//! lost, nothing left in /dev/shm.

mod support;

use std::ffi::c_int;
use std::os::fd::RawFd;
use std::os::unix::fs::DirEntryExt;

use madang::ffi::ring::*;
use madang::ring::{Kind, Options, Ring, policy};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use support::confine::deny;
use support::face::{FOREVER, NOWAIT, refused, refused_with};
use support::process::{Gate, as_nobody, fork, is_root, join, kill};
use support::ring_face::{C, CREATE, Face, Named};

on_both_faces! { Ring, C in turn:
    readable_until_a_call_would_have_to_wait
    room_is_told_as_well
    room_by_given_back_places_is_told
    room_by_a_peek_is_told_where_nobody_waits
    both_events_at_one_handle
    what_cannot_be_asked_for
    the_end_of_the_stream_is_told_for_good
    runs_in_place
    no_edge_is_lost_level_triggered
    no_edge_is_lost_edge_triggered
    no_edge_is_lost_without_membarrier
    no_edge_is_lost_when_membarrier_ends
    a_stream_through_a_small_ring
    one_item_for_each_event
    two_pollers_share_a_ring
    a_killed_pollers_name_goes
    killed_notifiers_leave_nothing_lost
    handles_after_a_fork
    a_descriptor_that_became_something_else
    a_notifier_without_descriptors_tries_again
    notifiers_of_other_users
}

const IN: u32 = MDG_POLL_IN;
const OUT: u32 = MDG_POLL_OUT;

/// A wait of this many milliseconds that runs out has missed its edge.
const LONG: c_int = 20_000;

fn options(kind: Kind, capacity: u64) -> Options {
    Options { kind: Some(kind), ..Options::new(capacity, 8) }
}

fn open<F: Face>(kind: Kind, capacity: u64) -> F {
    F::open(None, &options(kind, capacity), libc::O_RDWR, 0).unwrap()
}

fn word(value: u64) -> [u8; 8] {
    value.to_ne_bytes()
}

#[track_caller]
fn pop(ring: &impl Face) -> u64 {
    let mut item = [0; 8];
    ring.pop(&mut item, NOWAIT).unwrap();
    u64::from_ne_bytes(item)
}

fn try_pop(ring: &impl Face) -> Option<u64> {
    let mut item = [0; 8];
    match ring.pop(&mut item, NOWAIT) {
        Ok(()) => Some(u64::from_ne_bytes(item)),
        Err(failure) if failure.code == libc::EAGAIN => None,
        Err(failure) => panic!("{failure:?}"),
    }
}

#[track_caller]
fn is_empty(ring: &impl Face) {
    refused_with(ring.pop(&mut [0; 8], NOWAIT), libc::EAGAIN, "");
}

#[track_caller]
fn is_full(ring: &impl Face) {
    refused_with(ring.push(&[0; 8], NOWAIT), libc::EAGAIN, "");
}

fn poll(fd: RawFd, timeout: c_int) -> bool {
    let mut one = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    loop {
        // SAFETY: one live entry.
        match unsafe { libc::poll(&raw mut one, 1, timeout) } {
            -1 => assert_eq!(Errno::last(), Errno::EINTR),
            count => {
                assert!(count == 0 || one.revents == libc::POLLIN, "{:#x}", one.revents);
                return count == 1;
            }
        }
    }
}

fn readable(fd: RawFd) -> bool {
    poll(fd, 0)
}

/// An epoll set of one descriptor.
struct Epoll(RawFd);

impl Epoll {
    fn new(fd: RawFd, flags: c_int) -> Self {
        // SAFETY: no pointer but that of a live event.
        unsafe {
            let epoll = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            assert!(epoll >= 0);
            let mut event = libc::epoll_event { events: (libc::EPOLLIN | flags) as u32, u64: 7 };
            assert_eq!(libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event), 0);
            Self(epoll)
        }
    }

    /// Whether there was an event within the time.
    fn wait(&self, timeout: c_int) -> bool {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        loop {
            // SAFETY: room for one event.
            match unsafe { libc::epoll_wait(self.0, &raw mut event, 1, timeout) } {
                -1 => assert_eq!(Errno::last(), Errno::EINTR),
                count => return count == 1,
            }
        }
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        // SAFETY: ours.
        unsafe { libc::close(self.0) };
    }
}

/// The doorbells of one ring.
struct Bells(String);

impl Bells {
    /// Takes the producing end for a moment.
    fn of(ring: &impl Face) -> Self {
        let probe = ring.dup(libc::O_RDWR).unwrap();
        Self::with(probe.fd(OUT).unwrap())
    }

    /// Of the ring that `fd` belongs to.
    fn with(fd: RawFd) -> Self {
        // SAFETY: an open descriptor, for the length of the call.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
        let inode = nix::sys::stat::fstat(fd).unwrap().st_ino;
        let names = std::fs::read_dir("/dev/shm").unwrap().flatten();
        let mut mine = names.filter(|entry| entry.ino() == inode);
        let name = mine.next().unwrap().file_name().into_string().unwrap();
        let parts: Vec<_> = name.split('.').collect();
        assert!(parts.len() == 5 && parts[..2] == ["mdg", "poll"], "{name}");
        Self(parts[..3].join("."))
    }

    fn names(&self) -> Vec<String> {
        let all = std::fs::read_dir("/dev/shm").unwrap().flatten();
        let names = all.map(|entry| entry.file_name().into_string().unwrap_or_default());
        names.filter(|name| name.starts_with(&self.0)).collect()
    }

    fn count(&self) -> usize {
        self.names().len()
    }
}

fn readable_until_a_call_would_have_to_wait<F: Face>() {
    for kind in [Kind::Spsc, Kind::Mpmc] {
        let ring: F = open(kind, 4);
        let fd = ring.fd(IN).unwrap();
        let bells = Bells::with(fd);
        assert_eq!(bells.count(), 1);
        assert_eq!(ring.fd(IN).unwrap(), fd, "always the same");
        assert!(readable(fd), "nobody has looked yet");
        is_empty(&ring);
        assert!(!readable(fd));
        is_empty(&ring);
        assert!(!readable(fd));
        for round in 0..3 {
            for i in 0..3 {
                ring.push(&word(round * 10 + i), NOWAIT).unwrap();
                assert!(readable(fd));
            }
            for i in 0..3 {
                assert!(readable(fd), "something is left");
                assert_eq!(pop(&ring), round * 10 + i);
            }
            assert!(readable(fd), "no call has said that nothing is left");
            is_empty(&ring);
            assert!(!readable(fd));
        }
        // Waits that run out say nothing about the descriptor.
        refused_with(ring.pop(&mut [0; 8], 1_000_000), libc::ETIMEDOUT, "");
        assert!(!readable(fd));
        ring.push_many(&[1; 16], 8, NOWAIT).unwrap();
        assert!(readable(fd));
        assert_eq!(ring.pop_many(&mut [0; 64], 8, NOWAIT).unwrap() % 2, 0);
        assert_eq!(refused(ring.pop_many(&mut [0; 64], 8, NOWAIT)), Errno::EAGAIN);
        assert!(!readable(fd));
        // Asked for again, it is as at first.
        assert_eq!(ring.fd(IN).unwrap(), fd);
        assert!(readable(fd));
        drop(ring);
        assert_eq!(bells.count(), 0);
    }
}

fn room_is_told_as_well<F: Face>() {
    for kind in [Kind::Spsc, Kind::Mpmc] {
        let consumer: F = open(kind, 2);
        let producer = consumer.dup(libc::O_WRONLY).unwrap();
        let fd = producer.fd(OUT).unwrap();
        assert!(readable(fd));
        for round in 0..3 {
            while producer.push(&word(round), NOWAIT).is_ok() {}
            assert!(!readable(fd));
            pop(&consumer);
            assert!(readable(fd));
            producer.push(&word(round), NOWAIT).unwrap();
            assert!(readable(fd));
            is_full(&producer);
            assert!(!readable(fd));
            pop(&consumer);
            pop(&consumer);
        }
    }
    // A ring that fails instead of waiting says so by -EAGAIN, too.
    let options = Options { policy: madang::ring::policy::FAIL, ..Options::new(1, 8) };
    let ring = F::open(None, &options, libc::O_RDWR, 0).unwrap();
    let fd = ring.fd(OUT).unwrap();
    ring.push(&word(1), FOREVER).unwrap();
    refused_with(ring.push(&word(1), FOREVER), libc::EAGAIN, "");
    assert!(!readable(fd));
    pop(&ring);
    assert!(readable(fd));
}

/// Places that were claimed and given back are room once a consumer has come to them, though it finds
/// nothing in them.
fn room_by_given_back_places_is_told<F: Face>() {
    let pop = |ring: &F| ring.pop(&mut [0; 8], NOWAIT);
    let peek = |ring: &F| ring.peek(1, NOWAIT).map(drop);
    for take in [pop, peek] {
        let [first, other]: [F; 2] = {
            let ring = open::<F>(Kind::Mpmc, 2);
            let other = ring.dup(libc::O_RDWR).unwrap();
            [ring, other]
        };
        let waiter = first.dup(libc::O_WRONLY).unwrap();
        let fd = waiter.fd(OUT).unwrap();
        first.reserve(1, NOWAIT).unwrap();
        other.reserve(1, NOWAIT).unwrap();
        is_full(&waiter);
        assert!(!readable(fd));
        first.commit(0).unwrap();
        other.commit(0).unwrap();
        refused_with(take(&first), libc::EAGAIN, "");
        assert!(poll(fd, LONG));
        waiter.push(&word(1), NOWAIT).unwrap();
    }
}

/// In a stop-proof ring a peek makes room, and who peeks may be stopped for ever.
fn room_by_a_peek_is_told_where_nobody_waits<F: Face>() {
    let options = Options { policy: policy::STOPPROOF, ..options(Kind::Mpmc, 1) };
    let ring = F::open(None, &options, libc::O_RDWR, 0).unwrap();
    let waiter = ring.dup(libc::O_WRONLY).unwrap();
    let fd = waiter.fd(OUT).unwrap();
    waiter.push(&word(1), NOWAIT).unwrap();
    is_full(&waiter);
    assert!(!readable(fd));
    ring.peek(1, NOWAIT).unwrap();
    assert!(poll(fd, LONG));
    waiter.push(&word(2), NOWAIT).unwrap();
    ring.release(1).unwrap();
    assert_eq!(self::pop(&ring), 2);
}

fn both_events_at_one_handle<F: Face>() {
    for kind in [Kind::Spsc, Kind::Mpmc] {
        let ring: F = open(kind, 1);
        let fd = ring.fd(IN | OUT).unwrap();
        is_empty(&ring);
        assert!(readable(fd), "there is room");
        ring.push(&word(1), NOWAIT).unwrap();
        is_full(&ring);
        assert!(readable(fd), "there is an item");
        pop(&ring);
        // Only what is asked for counts; the last call says what that is.
        assert_eq!(ring.fd(IN).unwrap(), fd);
        is_empty(&ring);
        assert!(!readable(fd));
        ring.push(&word(1), NOWAIT).unwrap();
        assert!(readable(fd));
        ring.fd(OUT).unwrap();
        is_full(&ring);
        assert!(!readable(fd));
        pop(&ring);
        assert!(readable(fd));
        is_empty(&ring);
        assert!(readable(fd), "a pop is not what is waited for");
    }
}

fn what_cannot_be_asked_for<F: Face>() {
    let producer = F::open(None, &Options::new(1, 8), libc::O_WRONLY, 0).unwrap();
    for events in [0, 2, 8, IN | OUT | 0x10, u32::MAX] {
        refused_with(producer.fd(events), libc::EINVAL, "events");
    }
    refused_with(producer.fd(IN), libc::EACCES, "not opened for the consuming end");
    refused_with(producer.fd(IN | OUT), libc::EACCES, "not opened for the consuming end");
    let either = producer.dup(libc::O_RDWR).unwrap();
    refused_with(either.fd(OUT), libc::EBUSY, "held by pid");
    either.fd(IN).unwrap();
}

fn the_end_of_the_stream_is_told_for_good<F: Face>() {
    for kind in [Kind::Spsc, Kind::Mpmc] {
        let ring: F = open(kind, 4);
        let other = ring.dup(libc::O_RDWR).unwrap();
        let fd = ring.fd(IN).unwrap();
        is_empty(&ring);
        other.push(&word(5), NOWAIT).unwrap();
        assert_eq!(pop(&ring), 5);
        is_empty(&ring);
        assert!(!readable(fd));
        other.shutdown().unwrap();
        for _ in 0..3 {
            assert!(readable(fd));
            refused_with(ring.pop(&mut [0; 8], NOWAIT), libc::EPIPE, "shut down");
        }
        assert!(readable(fd));
    }
}

fn runs_in_place<F: Face>() {
    for kind in [Kind::Spsc, Kind::Mpmc] {
        let consumer: F = open(kind, 2);
        let producer = consumer.dup(libc::O_RDWR).unwrap();
        let (items, room) = (consumer.fd(IN).unwrap(), producer.fd(OUT).unwrap());
        refused_with(consumer.peek(1, NOWAIT), libc::EAGAIN, "");
        assert!(!readable(items));
        while producer.reserve(1, NOWAIT).is_ok() {
            assert!(!readable(items) || consumer.stat().length > 0);
            producer.commit(1).unwrap();
            assert!(readable(items));
        }
        assert!(!readable(room));
        consumer.peek(1, NOWAIT).unwrap();
        assert!(!readable(room));
        consumer.release(1).unwrap();
        assert!(readable(room));
    }
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
    assert_eq!(pop(&sums) + pop(&sums), (0..ITEMS).sum());
}

/// A child that waits with a descriptor on its handle of `ring`, for ever.
fn poller<F: Face>(ring: &F) -> support::process::Child {
    let gate = Gate::new();
    let child = fork(|| {
        let fd = ring.fd(IN).unwrap();
        is_empty(ring);
        gate.open();
        poll(fd, -1);
    });
    gate.pass();
    child
}

fn a_killed_pollers_name_goes<F: Face>() {
    // With whoever takes its slot.
    let name = Named::new("bell");
    let open = || F::open(Some(&name.0), &Options::new(4, 8), CREATE, 0o600).unwrap();
    let ring = open();
    let bells = Bells::of(&ring);
    kill(poller(&ring));
    assert_eq!(bells.count(), 1);
    ring.push(&word(1), NOWAIT).unwrap();
    let successor = open();
    assert_eq!(bells.count(), 0);
    assert_eq!(pop(&successor), 1);
    drop(successor);
    // With whoever closes the ring next, named or not.
    for ring in [ring, self::open(Kind::Mpmc, 4)] {
        let other = ring.dup(libc::O_RDWR).unwrap();
        drop(ring);
        let bells = Bells::of(&other);
        kill(poller(&other));
        assert_eq!(bells.count(), 1);
        drop(other);
        assert_eq!(bells.count(), 0);
    }
    // With whoever unlinks it; but a living one's stays.
    let (left, living) = (Gate::new(), Gate::new());
    let holder = fork(|| {
        let ring = open();
        let fd = ring.fd(OUT).unwrap();
        let bells = Bells::with(fd);
        kill(poller(&ring));
        assert_eq!(bells.count(), 2);
        left.open();
        living.pass();
        assert_eq!(bells.count(), 1);
        // Its doorbell works all the same.
        while ring.push(&word(1), NOWAIT).is_ok() {}
        assert!(!readable(fd));
        join(fork(|| {
            pop(&ring);
        }));
        assert!(readable(fd));
        drop(ring);
        assert_eq!(bells.count(), 0);
    });
    left.pass();
    F::unlink(&name.0).unwrap();
    living.open();
    join(holder);
}

/// Producers are killed at any moment. What the last one's notice would have told, the next one's
/// does; so a consumer that polls sees everything as long as producers come.
fn killed_notifiers_leave_nothing_lost<F: Face>() {
    const LAST: u64 = u64::MAX;
    for kind in [Kind::Spsc, Kind::Mpmc] {
        let ring: F = open(kind, 4);
        let running = Gate::new();
        let consumer = fork(|| {
            let fd = ring.fd(IN).unwrap();
            let epoll = Epoll::new(fd, libc::EPOLLET);
            running.open();
            loop {
                match try_pop(&ring) {
                    Some(LAST) => return,
                    Some(_) => {}
                    None => assert!(epoll.wait(LONG), "an edge was lost"),
                }
            }
        });
        running.pass();
        for round in 0..60_u64 {
            let gate = Gate::new();
            let producer = fork(|| {
                for i in 0.. {
                    ring.push(&word(i), FOREVER).unwrap();
                    if i == round {
                        gate.open();
                    }
                }
            });
            gate.pass();
            for _ in 0..round * 500 {
                std::hint::spin_loop();
            }
            kill(producer);
        }
        ring.push(&word(LAST), FOREVER).unwrap();
        join(consumer);
    }
}

fn handles_after_a_fork<F: Face>() {
    let ring: F = open(Kind::Mpmc, 4);
    let fd = ring.fd(IN).unwrap();
    is_empty(&ring);
    let (mine, his) = (Gate::new(), Gate::new());
    let child = fork(|| {
        // Not asked for here: this changes nothing for the parent's descriptor.
        is_empty(&ring);
        // SAFETY: asks for a descriptor's flags.
        assert_eq!(unsafe { libc::fcntl(fd, libc::F_GETFD) }, -1, "the parent's copy is closed");
        let own = ring.fd(IN).unwrap();
        is_empty(&ring);
        assert!(!readable(own));
        mine.open();
        his.pass();
        assert!(readable(own));
        while try_pop(&ring).is_some() {}
        assert!(!readable(own));
        // SAFETY: dropped once in this process, which leaves without dropping it again.
        drop(unsafe { std::ptr::read(&raw const ring) });
    });
    mine.pass();
    assert!(!readable(fd));
    ring.push(&word(1), NOWAIT).unwrap();
    assert!(readable(fd));
    his.open();
    join(child);
    while try_pop(&ring).is_some() {}
    assert!(!readable(fd));
    ring.push(&word(1), NOWAIT).unwrap();
    assert!(readable(fd));
}

fn a_descriptor_that_became_something_else<F: Face>() {
    join(fork(|| {
        let ring: F = open(Kind::Spsc, 4);
        let fd = ring.fd(IN).unwrap();
        let (read, write) = nix::unistd::pipe().unwrap();
        nix::unistd::write(&write, b"mine").unwrap();
        // SAFETY: what the ring's number leads to now is this test's.
        assert_eq!(unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&read), fd) }, fd);
        refused_with(ring.pop(&mut [0; 8], NOWAIT), libc::EBADF, "closed");
        refused_with(ring.fd(IN), libc::EBADF, "closed");
        ring.push(&word(3), NOWAIT).unwrap();
        assert_eq!(pop(&ring), 3);
        ring.cancel().unwrap();
        drop(ring);
        let mut bytes = [0; 8];
        // SAFETY: as large as it says; the descriptor is open, as nobody has closed it.
        assert_eq!(unsafe { libc::read(fd, bytes.as_mut_ptr().cast(), 8) }, 4);
        assert_eq!(&bytes[..4], b"mine");
    }));
}

fn a_notifier_without_descriptors_tries_again<F: Face>() {
    let ring: F = open(Kind::Spsc, 4);
    let fd = ring.fd(IN).unwrap();
    is_empty(&ring);
    join(fork(|| {
        ring.push(&word(0), NOWAIT).unwrap();
    }));
    assert!(readable(fd));
    pop(&ring);
    is_empty(&ring);
    let silent = Gate::new();
    let heard = Gate::new();
    let child = fork(|| {
        refused_with(ring.pop(&mut [0; 8], NOWAIT), libc::EBUSY, "");
        ring.push(&word(1), NOWAIT).unwrap();
        silent.open();
        heard.pass();
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 0, hard).unwrap();
        ring.push(&word(2), NOWAIT).unwrap();
        silent.open();
        heard.pass();
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        ring.push(&word(3), NOWAIT).unwrap();
    });
    silent.pass();
    assert!(readable(fd));
    assert_eq!(pop(&ring), 1);
    is_empty(&ring);
    heard.open();
    silent.pass();
    assert!(!readable(fd), "the notifier had no descriptor");
    heard.open();
    join(child);
    assert!(readable(fd));
    assert_eq!((pop(&ring), pop(&ring)), (2, 3));
}

fn notifiers_of_other_users<F: Face>() {
    if !is_root() {
        return;
    }
    let name = Named::new("users");
    let ring = F::open(Some(&name.0), &Options::new(4, 8), CREATE, 0o600).unwrap();
    let file = std::fs::File::open(name.path()).unwrap();
    std::os::unix::fs::fchown(&file, Some(65534), Some(65534)).unwrap();
    let ring_again = F::open(Some(&name.0), &Options::default(), libc::O_RDONLY, 0).unwrap();
    drop(ring);
    let fd = ring_again.fd(IN).unwrap();
    is_empty(&ring_again);
    as_nobody(|| {
        let ring = F::open(Some(&name.0), &Options::default(), libc::O_WRONLY, 0).unwrap();
        ring.push(&word(1), NOWAIT).unwrap();
    });
    assert!(readable(fd), "the ring's owner reaches root's doorbell");
    pop(&ring_again);
    drop(ring_again);
    let (ready, pushed) = (Gate::new(), Gate::new());
    let child = fork(|| {
        as_nobody(|| {
            let ring = F::open(Some(&name.0), &Options::default(), libc::O_RDONLY, 0).unwrap();
            let fd = ring.fd(IN).unwrap();
            is_empty(&ring);
            ready.open();
            pushed.pass();
            assert!(readable(fd), "root reaches anybody's");
        });
    });
    ready.pass();
    let ring = F::open(Some(&name.0), &Options::default(), libc::O_WRONLY, 0).unwrap();
    ring.push(&word(1), NOWAIT).unwrap();
    pushed.open();
    join(child);
    F::unlink(&name.0).unwrap();
}
