//! Descriptors of rings whose pollers and notifiers die, fork, or are hindered.

mod support;

use madang::ring::{Kind, Options, Ring};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use support::face::{FOREVER, NOWAIT, refused_with};
use support::poll::*;
use support::process::{Gate, as_nobody, fork, is_root, join, kill, leave};
use support::ring_face::{C, CREATE, Face, Named};

on_both_faces! { Ring, C in turn:
    a_killed_poller_leaves_nothing
    killed_notifiers_leave_nothing_lost
    handles_after_a_fork
    an_event_loop_after_a_fork
    a_descriptor_that_became_something_else
    a_notifier_needs_no_descriptor
    a_notifier_without_the_rings_file_is_counted
    notifiers_of_other_users
    objects_with_the_same_uuid
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

/// It costs one touch, and notifiers look for it no longer once its slot is cleared away.
fn a_killed_poller_leaves_nothing<F: Face>() {
    let name = Named::new("bell");
    let before = names();
    let open = || F::open(Some(&name.0), &options(Kind::Mpmc, 4), CREATE, 0o600).unwrap();
    let ring = open();
    let count = || polled(&name.path()) >> 16;
    kill(poller(&ring));
    assert_eq!(count(), 1);
    ring.push(&word(1), NOWAIT).unwrap();
    let successor = open();
    assert_eq!((count(), polled(&name.path())), (0, 0));
    let fd = successor.fd(IN).unwrap();
    assert_eq!(pop(&successor), 1);
    is_empty(&successor);
    ring.push(&word(2), NOWAIT).unwrap();
    assert!(readable(fd));
    let other = open();
    other.fd(OUT).unwrap();
    assert_eq!(count(), 2);
    drop(successor);
    assert_eq!(count(), 1);
    drop(other);
    assert_eq!(polled(&name.path()), 0);
    let mine = format!("mdg.ring.{}", name.0.trim_start_matches('/'));
    let new = names().into_iter().filter(|one| !before.contains(one) && *one != mine);
    // Other tests may be running, but none that could have made this.
    assert_eq!(new.filter(|one| one.contains("poll")).count(), 0);
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

/// A child that leaves the parent's handle and its event loop alone takes nothing from the parent; and
/// a child that makes its own has its own.
fn an_event_loop_after_a_fork<F: Face>() {
    let ring: F = open(Kind::Mpmc, 4);
    let fd = ring.fd(IN).unwrap();
    is_empty(&ring);
    let epoll = Epoll::new(fd, libc::EPOLLET);
    assert!(!epoll.wait(0));
    join(fork(|| {
        let own = ring.dup(libc::O_RDWR).unwrap();
        let fd = own.fd(IN).unwrap();
        is_empty(&own);
        own.push(&word(1), NOWAIT).unwrap();
        assert!(readable(fd));
        assert_eq!(pop(&own), 1);
        own.push(&word(2), NOWAIT).unwrap();
    }));
    assert!(epoll.wait(LONG));
    assert_eq!(pop(&ring), 2);
    is_empty(&ring);
    assert!(!readable(fd));
    ring.push(&word(3), NOWAIT).unwrap();
    assert!(epoll.wait(LONG));
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

/// Whatever its limits are.
fn a_notifier_needs_no_descriptor<F: Face>() {
    let ring: F = open(Kind::Spsc, 4);
    let fd = ring.fd(IN).unwrap();
    is_empty(&ring);
    join(fork(|| {
        ring.push(&word(0), NOWAIT).unwrap();
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, 0, hard).unwrap();
        setrlimit(Resource::RLIMIT_FSIZE, 0, 0).unwrap();
        ring.push(&word(1), NOWAIT).unwrap();
    }));
    assert!(readable(fd));
    assert_eq!((pop(&ring), pop(&ring)), (0, 1));
    is_empty(&ring);
    assert_eq!(ring.stat().notify_failures, 0);
}

/// A program that closes descriptors it does not know cannot tell anybody; the next one does.
fn a_notifier_without_the_rings_file_is_counted<F: Face>() {
    let ring: F = open(Kind::Mpmc, 4);
    let fd = ring.fd(IN).unwrap();
    is_empty(&ring);
    join(fork(|| {
        ring.push(&word(0), NOWAIT).unwrap();
        pop(&ring);
        for number in descriptors("/memfd:") {
            let (read, _) = nix::unistd::pipe().unwrap();
            // SAFETY: the numbers lead to the test's own pipe from now on.
            unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&read), number) };
        }
        ring.push(&word(1), NOWAIT).unwrap();
        leave(0);
    }));
    assert!(readable(fd), "by the first push");
    assert_eq!(pop(&ring), 1);
    is_empty(&ring);
    assert!(!readable(fd));
    let (silent, heard) = (Gate::new(), Gate::new());
    let child = fork(|| {
        ring.push(&word(2), NOWAIT).unwrap();
        silent.open();
        heard.pass();
        for number in descriptors("/memfd:") {
            // SAFETY: this process does without.
            unsafe { libc::close(number) };
        }
        ring.push(&word(3), NOWAIT).unwrap();
        silent.open();
        heard.pass();
        leave(0);
    });
    silent.pass();
    assert!(readable(fd));
    assert_eq!(pop(&ring), 2);
    is_empty(&ring);
    heard.open();
    silent.pass();
    assert!(!readable(fd), "the notifier had no descriptor");
    assert_eq!(ring.stat().notify_failures, 1);
    let other = ring.dup(libc::O_WRONLY).unwrap();
    other.push(&word(4), NOWAIT).unwrap();
    assert!(readable(fd));
    assert_eq!((pop(&ring), pop(&ring)), (3, 4));
    heard.open();
    join(child);
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
    assert!(readable(fd), "the file's owner may touch it");
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
            assert!(readable(fd), "root may touch any");
        });
    });
    ready.pass();
    let ring = F::open(Some(&name.0), &Options::default(), libc::O_WRONLY, 0).unwrap();
    ring.push(&word(1), NOWAIT).unwrap();
    pushed.open();
    join(child);
    F::unlink(&name.0).unwrap();
}

/// A file that says that it is another one: touching it wakes nobody at the other.
fn objects_with_the_same_uuid<F: Face>() {
    let (first, second) = (Named::new("one"), Named::new("two"));
    let open = |name: &Named| F::open(Some(&name.0), &Options::default(), libc::O_RDWR, 0).unwrap();
    drop(F::open(Some(&first.0), &options(Kind::Mpmc, 4), CREATE, 0o600).unwrap());
    std::fs::copy(first.path(), second.path()).unwrap();
    let (victim, forged) = (open(&first), open(&second));
    let fd = victim.fd(IN).unwrap();
    is_empty(&victim);
    let his = forged.fd(IN).unwrap();
    is_empty(&forged);
    forged.push(&word(1), NOWAIT).unwrap();
    assert!(readable(his) && !readable(fd));
    victim.push(&word(2), NOWAIT).unwrap();
    assert!(readable(fd));
    assert_eq!((pop(&victim), pop(&forged)), (2, 1));
}

/// Two rings in one segment, the second a copy of the first. A push into one may wake waiters of the
/// other for nothing, as they have one file; never the other way round.
#[test]
fn neighbours_in_a_segment() {
    let _turn = support::process::serial();
    let options = Options::new(4, 8);
    let size = Ring::footprint(&options).unwrap();
    let segment = madang::shm::Shm::anonymous(2 * size, false).unwrap();
    drop(Ring::init(&segment, 0, &options, madang::Access::ReadWrite).unwrap());
    // SAFETY: both places lie in the segment, and no handle is open.
    unsafe { segment.as_ptr().copy_to(segment.as_ptr().add(size), size) };
    let open = |offset| {
        let options = Options::default();
        Ring::attach_to(&segment, offset, &options, madang::Access::ReadWrite).unwrap()
    };
    let (one, other) = (open(0), open(size));
    let (fd, his) = (Face::fd(&one, IN).unwrap(), Face::fd(&other, IN).unwrap());
    is_empty(&one);
    is_empty(&other);
    Face::push(&other, &word(1), NOWAIT).unwrap();
    assert!(readable(his) && readable(fd));
    is_empty(&one);
    assert!(!readable(fd));
    // Both rest when both have looked: neither's look wakes the other.
    pop(&other);
    is_empty(&other);
    assert!(!readable(his) && !readable(fd));
    Face::push(&one, &word(2), NOWAIT).unwrap();
    assert!(readable(fd));
}
