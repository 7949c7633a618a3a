//! Descriptors of rings whose pollers and notifiers die, fork, or are hindered; nothing is left in /dev/shm.

mod support;

use madang::ring::{Kind, Options, Ring};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use support::face::{FOREVER, NOWAIT, refused_with};
use support::poll::*;
use support::process::{Gate, as_nobody, fork, is_root, join, kill};
use support::ring_face::{C, CREATE, Face, Named};

on_both_faces! { Ring, C in turn:
    a_killed_pollers_name_goes
    killed_notifiers_leave_nothing_lost
    handles_after_a_fork
    a_descriptor_that_became_something_else
    a_notifier_without_descriptors_tries_again
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

/// A file that says that it is another one: same uuid, same slot, same generation. Its handles make,
/// ring and remove their own doorbells.
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
    let (bells, others) = (Bells::with(fd), Bells::with(his));
    assert_eq!((bells.count(), others.count()), (1, 1));
    let mine = &bells.names()[0];
    let parts = |name: &str| name.split('.').map(str::to_owned).collect::<Vec<_>>();
    let (mine, his_name) = (parts(mine), parts(&others.names()[0]));
    let same = |at: usize| mine[at] == his_name[at];
    assert!(same(2) && same(6) && same(7), "uuid, slot and generation: {mine:?} {his_name:?}");
    forged.push(&word(1), NOWAIT).unwrap();
    assert!(readable(his) && !readable(fd));
    victim.push(&word(2), NOWAIT).unwrap();
    assert!(readable(fd));
    assert_eq!((pop(&victim), pop(&forged)), (2, 1));
    is_empty(&victim);
    // Those that its dead have left go; and none of the other's.
    kill(poller(&forged));
    drop(forged);
    assert_eq!((bells.count(), others.count()), (1, 0));
    F::unlink(&second.0).unwrap();
    assert_eq!(bells.count(), 1);
    victim.push(&word(3), NOWAIT).unwrap();
    assert!(readable(fd), "its doorbell stands");
}

/// Two rings in one segment, the second a copy of the first: the offset tells them apart.
#[test]
fn places_with_the_same_uuid() {
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
    let (victim, forged) = (open(0), open(size));
    let (fd, his) = (Face::fd(&victim, IN).unwrap(), Face::fd(&forged, IN).unwrap());
    is_empty(&victim);
    is_empty(&forged);
    let (bells, others) = (Bells::with(fd), Bells::with(his));
    assert_ne!(bells.0, others.0);
    Face::push(&forged, &word(1), NOWAIT).unwrap();
    assert!(readable(his) && !readable(fd));
    drop(forged);
    assert_eq!((bells.count(), others.count()), (1, 0));
    Face::push(&victim, &word(2), NOWAIT).unwrap();
    assert!(readable(fd));
}
