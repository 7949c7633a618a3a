//! Semaphores: counting, waits with timeouts and signals, peers that know only POSIX.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use libc::{O_CREAT, O_EXCL};
use madang::ffi::sem::MDG_SEM_VALUE_MAX;
use madang::sem::Semaphore;
use nix::errno::Errno;
use support::face::{FOREVER, NOWAIT, refused};
use support::process::{Child, fork, interrupted, join, kill};
use support::sem_face::{CSem, Permits};
use support::unique;

const NEW: i32 = O_CREAT | O_EXCL;
const SIZE: usize = size_of::<libc::sem_t>();

on_both_faces! { Semaphore, CSem:
    counting
    creation
    bad_names
    greatest_value
    timeouts
    a_signal_ends_a_wait
    peers_both_ways
    the_file_is_what_sem_open_makes
    hand_over_between_processes
    killed_waiter_disturbs_nobody
}

fn file_of(name: &str) -> PathBuf {
    PathBuf::from(format!("/dev/shm/sem.{}", &name[1..]))
}

fn counting<S: Permits>() {
    let name = unique("count");
    let first = S::open(name.as_bytes(), 2, NEW, 0o600).unwrap();
    // The value is ignored when it exists.
    let second = S::open(&name.as_bytes()[1..], 7, O_CREAT, 0o600).unwrap();
    assert_eq!((first.value(), second.value()), (2, 2));
    first.wait(NOWAIT).unwrap();
    second.wait(FOREVER).unwrap();
    assert_eq!(refused(first.wait(NOWAIT)), Errno::EAGAIN);
    second.post().unwrap();
    assert_eq!(first.value(), 1);
    first.wait(1).unwrap();
    S::unlink(name.as_bytes()).unwrap();
    // Those who have it open go on using it.
    first.post().unwrap();
    second.wait(NOWAIT).unwrap();
    assert_eq!(refused(S::unlink(name.as_bytes())), Errno::ENOENT);
}

fn creation<S: Permits>() {
    let name = unique("creation");
    let failure = S::open(name.as_bytes(), 0, 0, 0).err().unwrap();
    assert_eq!(failure.code, libc::ENOENT);
    assert!(failure.text.contains(&format!("semaphore \"{name}\"")), "{}", failure.text);
    drop(S::open(name.as_bytes(), 1, NEW, 0o600).unwrap());
    assert_eq!(refused(S::open(name.as_bytes(), 1, NEW, 0o600)), Errno::EEXIST);
    assert_eq!(S::open(name.as_bytes(), 0, 0, 0).unwrap().value(), 1);
    S::unlink(name.as_bytes()).unwrap();
    let too_much = MDG_SEM_VALUE_MAX + 1;
    for value in [too_much, u32::MAX] {
        assert_eq!(refused(S::open(name.as_bytes(), value, NEW, 0o600)), Errno::EINVAL);
    }
    assert!(!file_of(&name).exists());
}

fn bad_names<S: Permits>() {
    for name in [&b""[..], b"/", b"//", b".", b"..", b"/.", b"/..", b"//x", b"a/b", b"/a/"] {
        assert_eq!(refused(S::open(name, 0, NEW, 0o600)), Errno::EINVAL, "{name:?}");
        assert_eq!(refused(S::unlink(name)), Errno::EINVAL, "{name:?}");
    }
    let mut name = unique("long").into_bytes();
    name.resize(1 + 252, b'n');
    assert_eq!(refused(S::open(&name, 0, NEW, 0o600)), Errno::ENAMETOOLONG);
    assert_eq!(refused(S::unlink(&name)), Errno::ENAMETOOLONG);
    name.pop();
    drop(S::open(&name, 0, NEW, 0o600).unwrap());
    S::unlink(&name).unwrap();
}

fn greatest_value<S: Permits>() {
    let name = unique("greatest");
    let full = S::open(name.as_bytes(), MDG_SEM_VALUE_MAX, NEW, 0o600).unwrap();
    S::unlink(name.as_bytes()).unwrap();
    for _ in 0..3 {
        assert_eq!(refused(full.post()), Errno::EOVERFLOW);
        assert_eq!(full.value(), MDG_SEM_VALUE_MAX);
    }
    full.wait(NOWAIT).unwrap();
    assert_eq!(full.value(), MDG_SEM_VALUE_MAX - 1);
    full.post().unwrap();
    assert_eq!(full.value(), MDG_SEM_VALUE_MAX);
}

fn timeouts<S: Permits>() {
    let name = unique("timeout");
    let empty = S::open(name.as_bytes(), 0, NEW, 0o600).unwrap();
    S::unlink(name.as_bytes()).unwrap();
    assert_eq!(refused(empty.wait(NOWAIT)), Errno::EAGAIN);
    for timeout in [1, 1_000, 1_000_000, 70_000_000] {
        let begin = Instant::now();
        assert_eq!(refused(empty.wait(timeout)), Errno::ETIMEDOUT);
        assert!(begin.elapsed() >= Duration::from_nanos(timeout as u64), "{timeout} ns");
    }
    assert_eq!(empty.value(), 0);
    // The longest timeout there is does not overflow into one that has passed.
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| empty.wait(i64::MAX));
        empty.post().unwrap();
        waiter.join().unwrap().unwrap();
    });
}

fn a_signal_ends_a_wait<S: Permits>() {
    let name = unique("signal");
    let empty = S::open(name.as_bytes(), 0, NEW, 0o600).unwrap();
    S::unlink(name.as_bytes()).unwrap();
    for timeout in [FOREVER, i64::MIN, i64::MAX, 3_600_000_000_000] {
        assert_eq!(refused(interrupted(|| empty.wait(timeout))), Errno::EINTR);
        assert_eq!(empty.value(), 0);
    }
}

fn program(source: &str) -> PathBuf {
    let output = support::scratch(source).join(source);
    support::compile_c(&support::root().join(format!("tests/c/{source}.c")), &output, &[]);
    output
}

fn peer() -> Command {
    static PEER: OnceLock<PathBuf> = OnceLock::new();
    Command::new(PEER.get_or_init(|| program("sem_peer")))
}

fn peers_both_ways<S: Permits>() {
    const ROUNDS: usize = 5000;
    let (ping, pong) = (unique("ping"), unique("pong"));
    assert!(peer().args(["make", &ping, "3"]).status().unwrap().success());
    let pings = S::open(ping.as_bytes(), 0, 0, 0).unwrap();
    assert_eq!(pings.value(), 3);
    for _ in 0..3 {
        pings.wait(NOWAIT).unwrap();
    }
    let pongs = S::open(pong.as_bytes(), 9, NEW, 0o600).unwrap();
    assert!(peer().args(["value", &pong, "9"]).status().unwrap().success());
    for _ in 0..9 {
        pongs.wait(NOWAIT).unwrap();
    }
    let mut child = peer().args(["echo", &ping, &pong, &ROUNDS.to_string()]).spawn().unwrap();
    for _ in 0..ROUNDS {
        pings.post().unwrap();
        pongs.wait(10_000_000_000).unwrap();
    }
    assert!(child.wait().unwrap().success());
    assert_eq!((pings.value(), pongs.value()), (0, 0));
    S::unlink(ping.as_bytes()).unwrap();
    S::unlink(pong.as_bytes()).unwrap();
}

fn the_file_is_what_sem_open_makes<S: Permits>() {
    let (ours, theirs) = (unique("ours"), unique("theirs"));
    for value in [0, 1, 12_345] {
        drop(S::open(ours.as_bytes(), value, NEW, 0o600).unwrap());
        assert!(peer().args(["make", &theirs, &value.to_string()]).status().unwrap().success());
        let [a, b] = [&ours, &theirs].map(|name| std::fs::read(file_of(name)).unwrap());
        assert_eq!((a.len(), &a), (SIZE, &b));
        let [a, b] = [&ours, &theirs].map(|name| std::fs::metadata(file_of(name)).unwrap());
        assert_eq!(a.permissions().mode(), b.permissions().mode());
        S::unlink(ours.as_bytes()).unwrap();
        S::unlink(theirs.as_bytes()).unwrap();
    }
}

fn hand_over_between_processes<S: Permits>() {
    const PERMITS: usize = 100_000;
    let name = unique("hand");
    let sem = S::open(name.as_bytes(), 0, NEW, 0o600).unwrap();
    // One takes through the handle that it inherited, one by name.
    let inherits = fork(|| (0..PERMITS / 2).for_each(|_| sem.wait(FOREVER).unwrap()));
    let opens = fork(|| {
        let sem = S::open(name.as_bytes(), 0, 0, 0).unwrap();
        (0..PERMITS / 2).for_each(|_| sem.wait(60_000_000_000).unwrap());
    });
    (0..PERMITS).for_each(|_| sem.post().unwrap());
    join(inherits);
    join(opens);
    assert_eq!(refused(sem.wait(NOWAIT)), Errno::EAGAIN);
    S::unlink(name.as_bytes()).unwrap();
}

/// Returns once `child` sleeps in a system call.
fn asleep(child: &Child) {
    let stat = format!("/proc/{}/stat", child.pid());
    while !std::fs::read_to_string(&stat).unwrap().contains(") S ") {
        std::thread::yield_now();
    }
}

fn killed_waiter_disturbs_nobody<S: Permits>() {
    let name = unique("killed");
    let sem = S::open(name.as_bytes(), 0, NEW, 0o600).unwrap();
    S::unlink(name.as_bytes()).unwrap();
    for _ in 0..20 {
        let (dies, lives) =
            (fork(|| sem.wait(FOREVER).unwrap()), fork(|| sem.wait(FOREVER).unwrap()));
        asleep(&dies);
        asleep(&lives);
        kill(dies);
        sem.post().unwrap();
        join(lives);
        assert_eq!(sem.value(), 0);
        sem.post().unwrap();
        sem.wait(NOWAIT).unwrap();
    }
}

#[test]
fn cancelled_threads_get_their_answer() {
    let names = [unique("cancel"), unique("cancel")];
    let status = Command::new(program("sem_cancel")).args(&names).status().unwrap();
    assert!(status.success(), "{status}");
}
