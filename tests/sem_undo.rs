//! Semaphores whose permits come back: holders, deaths, forks, threads, and what may stand under
//! the name instead.

mod support;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use libc::{O_CREAT, O_EXCL};
use madang::ffi::sem::{MDG_SEM_UNDO_VALUE_MAX, mdg_sem_holder, mdg_sem_holders};
use madang::sem::{AnySemaphore, Holder, Semaphore, UndoOptions, UndoSemaphore};
use madang::shm::Shm;
use madang::{Access, Creation, OpenFlags, Timeout};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill as send};
use support::face::{FOREVER, NOWAIT, answer, refused, refused_with};
use support::process::{Gate, as_nobody, caught, fork, interrupted, is_root, join, kill, leave};
use support::sem_face::{CSem, Permits};
use support::undo_face::Undo;
use support::{confine, unique};

const NEW: i32 = O_CREAT | O_EXCL;
const SECOND: i64 = 1_000_000_000;

on_both_faces! { UndoSemaphore, CSem in turn:
    counting
    a_post_without_a_permit_adds_one
    greatest_value
    timeouts_and_signals
    permits_of_the_dead_come_back
    a_sleeper_gets_the_permit_of_the_dead
    who_never_waits_finds_the_dead
    it_is_told_once_with_the_permit
    a_stopped_holder_lives
    closing_gives_back
    exec_and_exit_give_back
    the_child_holds_nothing_of_the_parents
    a_parent_dies_and_its_child_lives
    threads_share_a_handle
    all_handles_taken
    kinds_side_by_side
    mismatches
    another_user
    no_room
    ten_thousand_hand_overs
    killed_all_the_time
}

fn value(value: u32) -> UndoOptions {
    UndoOptions { value, ..UndoOptions::default() }
}

fn telling() -> UndoOptions {
    UndoOptions { tell: true, ..UndoOptions::default() }
}

/// A new semaphore, and its name, which is taken away again.
struct Named(String);

impl Named {
    fn new<S: Undo>(options: &UndoOptions) -> (Self, S) {
        let name = unique("undo");
        let sem = S::open(&name, options, NEW, 0o600).unwrap();
        (Self(name), sem)
    }

    fn open<S: Undo>(&self) -> S {
        S::open(&self.0, &UndoOptions::default(), 0, 0).unwrap()
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let _ = AnySemaphore::unlink(self.0.as_bytes());
    }
}

fn mine(count: u32) -> Holder {
    Holder { pid: std::process::id(), count, alive: true }
}

/// Kills a child that has taken `count` permits, by its own handle.
fn die_with<S: Undo>(name: &Named, count: u32) -> u32 {
    let holds = Gate::new();
    let child = fork(|| {
        let sem: S = name.open();
        (0..count).for_each(|_| assert!(!sem.wait(NOWAIT).unwrap()));
        holds.open();
        loop {
            nix::unistd::pause();
        }
    });
    holds.pass();
    let pid = child.pid().as_raw() as u32;
    kill(child);
    pid
}

fn counting<S: Undo>() {
    let (name, first) = Named::new::<S>(&value(2));
    let second: S = name.open();
    assert_eq!((first.value(), second.value()), (2, 2));
    assert!(first.holders().is_empty());
    assert!(!first.wait(NOWAIT).unwrap());
    assert!(!second.wait(FOREVER).unwrap());
    refused_with(first.wait(NOWAIT), libc::EAGAIN, "");
    assert_eq!(first.holders(), [mine(1), mine(1)]);
    first.post().unwrap();
    assert_eq!((first.value(), second.holders()), (1, vec![mine(1)]));
    assert!(!second.wait(NOWAIT).unwrap());
    assert_eq!(first.holders(), [mine(2)]);
    S::unlink(&name.0).unwrap();
    second.post().unwrap();
    second.post().unwrap();
    assert_eq!((first.value(), first.holders()), (2, vec![]));
    assert_eq!(refused(S::open(&name.0, &value(0), 0, 0)), Errno::ENOENT);
}

fn a_post_without_a_permit_adds_one<S: Undo>() {
    let (name, first) = Named::new::<S>(&value(0));
    first.post().unwrap();
    // A death does not take it back.
    let child = fork(|| {
        let sem: S = name.open();
        sem.post().unwrap();
        leave(0)
    });
    join(child);
    assert_eq!(first.value(), 2);
    assert!(!first.wait(NOWAIT).unwrap());
    let second: S = name.open();
    // Not the handle that took one: it adds.
    second.post().unwrap();
    assert_eq!((first.value(), first.holders()), (2, vec![mine(1)]));
}

fn greatest_value<S: Undo>() {
    let most = MDG_SEM_UNDO_VALUE_MAX;
    let (name, full) = Named::new::<S>(&value(most));
    for _ in 0..3 {
        refused_with(full.post(), libc::EOVERFLOW, "greatest");
        assert_eq!(full.value(), most);
    }
    full.wait(NOWAIT).unwrap();
    assert_eq!(full.value(), most - 1);
    let other: S = name.open();
    other.post().unwrap();
    // There is no room for the permit that was taken: it stays where it is.
    refused_with(full.post(), libc::EOVERFLOW, "greatest");
    assert_eq!(full.holders(), [mine(1)]);
    drop(full);
    assert_eq!(other.value(), most, "given back, as far as there was room");
    for too_much in [most + 1, u32::MAX] {
        let refusal = S::open(&unique("undo"), &value(too_much), NEW, 0o600);
        assert_eq!(refused(refusal), Errno::EINVAL);
    }
}

fn timeouts_and_signals<S: Undo>() {
    let (_name, empty) = Named::new::<S>(&value(0));
    for timeout in [1, 1_000, 1_000_000, 170_000_000] {
        let begin = Instant::now();
        refused_with(empty.wait(timeout), libc::ETIMEDOUT, "");
        assert!(begin.elapsed() >= Duration::from_nanos(timeout as u64), "{timeout} ns");
    }
    for timeout in [FOREVER, i64::MIN, i64::MAX, 3600 * SECOND] {
        let before = caught();
        assert_eq!(refused(interrupted(|| empty.wait(timeout))), Errno::EINTR);
        assert!(caught() > before);
    }
    assert_eq!((empty.value(), empty.holders()), (0, vec![]));
}

fn permits_of_the_dead_come_back<S: Undo>() {
    let (name, sem) = Named::new::<S>(&value(3));
    for round in 0..5 {
        let pid = die_with::<S>(&name, 3);
        // Until somebody looks, the list shows who had them.
        assert_eq!(sem.holders(), [Holder { pid, count: 3, alive: false }], "round {round}");
        assert_eq!(sem.value(), 3);
        assert!(sem.holders().is_empty());
    }
    // Those who come anew find them, too.
    die_with::<S>(&name, 3);
    let other: S = name.open();
    (0..3).for_each(|_| assert!(!other.wait(SECOND).unwrap()));
    assert_eq!(other.holders(), [mine(3)]);
}

fn a_sleeper_gets_the_permit_of_the_dead<S: Undo>() {
    let (name, sem) = Named::new::<S>(&value(1));
    for _ in 0..3 {
        let holds = Gate::new();
        let child = fork(|| {
            let sem: S = name.open();
            sem.wait(NOWAIT).unwrap();
            holds.open();
            loop {
                nix::unistd::pause();
            }
        });
        holds.pass();
        refused_with(sem.wait(20_000_000), libc::ETIMEDOUT, "");
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| sem.wait(60 * SECOND).unwrap());
            kill(child);
            assert!(!sleeper.join().unwrap());
        });
        sem.post().unwrap();
    }
}

fn who_never_waits_finds_the_dead<S: Undo>() {
    let (name, sem) = Named::new::<S>(&value(1));
    die_with::<S>(&name, 1);
    let begin = Instant::now();
    while sem.wait(NOWAIT).is_err() {
        assert!(begin.elapsed() < Duration::from_secs(60));
    }
    assert_eq!(sem.holders(), [mine(1)]);
}

fn it_is_told_once_with_the_permit<S: Undo>() {
    let (name, plain) = Named::new::<S>(&value(3));
    let asks = S::open(&name.0, &telling(), 0, 0).unwrap();
    assert!(!asks.wait(NOWAIT).unwrap());
    asks.post().unwrap();
    die_with::<S>(&name, 3);
    // Who did not ask is not told, and does not use it up.
    assert!(!plain.wait(SECOND).unwrap());
    assert!(asks.wait(SECOND).unwrap(), "the first who asks is told");
    assert_eq!(plain.holders(), [mine(1), mine(1)], "with the permit");
    assert!(!asks.wait(SECOND).unwrap(), "once");
    asks.post().unwrap();
    asks.post().unwrap();
    plain.post().unwrap();
    // Told and killed: the next one is told.
    die_with::<S>(&name, 1);
    assert_eq!(plain.value(), 3);
    let told = Gate::new();
    let child = fork(|| {
        let asks = S::open(&name.0, &telling(), 0, 0).unwrap();
        assert!(asks.wait(SECOND).unwrap());
        told.open();
        loop {
            nix::unistd::pause();
        }
    });
    told.pass();
    kill(child);
    assert_eq!(plain.value(), 3);
    assert!(asks.wait(SECOND).unwrap());
    assert!(!asks.wait(SECOND).unwrap());
}

fn a_stopped_holder_lives<S: Undo>() {
    let (name, sem) = Named::new::<S>(&value(1));
    let holds = Gate::new();
    let child = fork(|| {
        let sem: S = name.open();
        sem.wait(NOWAIT).unwrap();
        holds.open();
        loop {
            nix::unistd::pause();
        }
    });
    holds.pass();
    send(child.pid(), Signal::SIGSTOP).unwrap();
    refused_with(sem.wait(250_000_000), libc::ETIMEDOUT, "");
    let pid = child.pid().as_raw() as u32;
    assert_eq!(sem.holders(), [Holder { pid, count: 1, alive: true }]);
    kill(child);
    assert!(!sem.wait(60 * SECOND).unwrap());
}

fn closing_gives_back<S: Undo>() {
    let (name, sem) = Named::new::<S>(&value(2));
    let other: S = name.open();
    let asks = S::open(&name.0, &telling(), 0, 0).unwrap();
    other.wait(NOWAIT).unwrap();
    other.wait(NOWAIT).unwrap();
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| asks.wait(60 * SECOND).unwrap());
        drop(other);
        assert!(!sleeper.join().unwrap(), "closing is not dying");
    });
    assert_eq!((sem.value(), sem.holders()), (1, vec![mine(1)]));
}

fn exec_and_exit_give_back<S: Undo>() {
    let (name, sem) = Named::new::<S>(&value(1));
    join(fork(|| {
        let sem: S = name.open();
        sem.wait(NOWAIT).unwrap();
        leave(0)
    }));
    assert_eq!(sem.value(), 1);
    let (holds, goes) = (Gate::new(), Gate::new());
    let child = fork(|| {
        let sem: S = name.open();
        sem.wait(NOWAIT).unwrap();
        holds.open();
        goes.pass();
        let _ = nix::unistd::execv(c"/bin/sleep", &[c"sleep", c"1000"]);
    });
    holds.pass();
    assert_eq!(sem.value(), 0);
    goes.open();
    // Another program in the same process has no part in it.
    assert!(!sem.wait(60 * SECOND).unwrap());
    kill(child);
}

fn the_child_holds_nothing_of_the_parents<S: Undo>() {
    let (_name, sem) = Named::new::<S>(&value(3));
    sem.wait(NOWAIT).unwrap();
    sem.wait(NOWAIT).unwrap();
    let (took, goes) = (Gate::new(), Gate::new());
    // In an Option, so that the children can close their own.
    let mut sem = Some(sem);
    let child = fork(|| {
        let sem = sem.take().unwrap();
        sem.wait(NOWAIT).unwrap();
        assert_eq!(sem.holders().len(), 2);
        took.open();
        goes.pass();
    });
    took.pass();
    let pid = child.pid().as_raw() as u32;
    let holders = || sem.as_ref().unwrap().holders();
    assert_eq!(holders(), [mine(2), Holder { pid, count: 1, alive: true }]);
    goes.open();
    join(child);
    assert_eq!((sem.as_ref().unwrap().value(), holders()), (1, vec![mine(2)]));
    // A child that does nothing with it but close it, or die.
    join(fork(|| drop(sem.take())));
    join(fork(|| leave(0)));
    let sem = sem.unwrap();
    assert_eq!((sem.value(), sem.holders()), (1, vec![mine(2)]));
}

fn a_parent_dies_and_its_child_lives<S: Undo>() {
    let (name, sem) = Named::new::<S>(&value(1));
    let (forked, ends) = (Gate::new(), Gate::new());
    let parent = fork(|| {
        let sem: S = name.open();
        sem.wait(NOWAIT).unwrap();
        let child = fork(|| {
            forked.open();
            ends.pass();
        });
        join(child);
    });
    forked.pass();
    assert_eq!(sem.value(), 0);
    kill(parent);
    assert!(!sem.wait(60 * SECOND).unwrap());
    ends.open();
}

fn threads_share_a_handle<S: Undo>() {
    let (_name, sem) = Named::new::<S>(&value(2));
    let (inside, rounds) = (AtomicU32::new(0), 2000);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..rounds {
                    assert!(!sem.wait(60 * SECOND).unwrap());
                    assert!(inside.fetch_add(1, Ordering::SeqCst) < 2);
                    inside.fetch_sub(1, Ordering::SeqCst);
                    sem.post().unwrap();
                }
            });
        }
    });
    assert_eq!((sem.value(), sem.holders()), (2, vec![]));
}

fn all_handles_taken<S: Undo>() {
    let options = UndoOptions { max_handles: 2, ..value(2) };
    let (name, first) = Named::new::<S>(&options);
    let second: S = name.open();
    second.wait(NOWAIT).unwrap();
    let third = S::open(&name.0, &value(0), 0, 0);
    assert_eq!(refused(third), Errno::EMFILE);
    join(fork(|| refused_with(first.wait(NOWAIT), libc::EMFILE, "all 2 handles")));
    drop(second);
    die_with::<S>(&name, 1);
    // The place of the dead is free again, and its permit back.
    let second: S = name.open();
    assert_eq!(second.value(), 2);
    let other = UndoOptions { max_handles: 3, ..value(0) };
    refused_with(S::open(&name.0, &other, 0, 0).map(drop), libc::EPROTO, "max_handles is 3");
    let beyond = UndoOptions { max_handles: 4097, ..value(0) };
    assert_eq!(refused(S::open(&unique("undo"), &beyond, NEW, 0o600)), Errno::EINVAL);
}

fn kinds_side_by_side<S: Undo>() {
    let (name, ours) = Named::new::<S>(&value(1));
    let posix = |oflag| <CSem as Permits>::open(name.0.as_bytes(), 5, oflag, 0o600);
    assert_eq!(refused(posix(0)), Errno::ENOENT);
    let theirs = posix(NEW).unwrap();
    assert_eq!((ours.value(), Permits::value(&theirs)), (1, 5));
    // SAFETY: a live handle; nothing is written.
    let holders = answer(|| unsafe { mdg_sem_holders(theirs.0, std::ptr::null_mut(), 0) });
    refused_with(holders, libc::EINVAL, "MDG_SEM_UNDO");
    // One unlink takes both names.
    S::unlink(&name.0).unwrap();
    assert_eq!(refused(posix(0)), Errno::ENOENT);
    assert_eq!(refused(S::open(&name.0, &value(0), 0, 0)), Errno::ENOENT);
    assert_eq!(refused(S::unlink(&name.0)), Errno::ENOENT);
    let mut row = [mdg_sem_holder { pid: 7, count: 7, alive: 7 }];
    // SAFETY: a live handle; no rows are asked for, and none written.
    let none = answer(|| unsafe { mdg_sem_holders(theirs.0, row.as_mut_ptr(), 0) });
    refused_with(none, libc::EINVAL, "MDG_SEM_UNDO");
    assert_eq!(row[0].pid, 7);
    drop(posix(NEW).unwrap());
    S::unlink(&name.0).unwrap();
    drop(S::open(&name.0, &value(0), NEW, 0o600).unwrap());
    S::unlink(&name.0).unwrap();
    assert_eq!(refused(S::unlink(&name.0)), Errno::ENOENT);
    // The longest names are the C library's alone.
    let long = format!("{:n<251}", unique("long").trim_start_matches('/'));
    drop(<CSem as Permits>::open(long.as_bytes(), 0, NEW, 0o600).unwrap());
    assert_eq!(refused(S::open(&long, &value(0), NEW, 0o600)), Errno::ENAMETOOLONG);
    S::unlink(&long).unwrap();
}

fn mismatches<S: Undo>() {
    let name = unique("undo");
    let path = format!("/dev/shm/mdg.sem.{}", &name[1..]);
    let open = || S::open(&name, &value(0), 0, 0).map(drop);
    for bytes in [vec![], vec![0; 4096], vec![0xff; 100_000]] {
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(refused(open()), Errno::EPROTO);
    }
    // A ring under a semaphore's name.
    let ring = unique("undo");
    let flags = OpenFlags::new(Access::ReadWrite, Creation::CreateNew);
    let options = madang::ring::Options::new(8, 128);
    drop(madang::ring::Ring::open(ring.as_bytes(), &options, flags, 0o600).unwrap());
    std::fs::rename(format!("/dev/shm/mdg.ring.{}", &ring[1..]), &path).unwrap();
    refused_with(open(), libc::EPROTO, "kind SPSC");
    std::fs::remove_file(&path).unwrap();
    // A semaphore under a ring's name.
    drop(S::open(&name, &value(0), NEW, 0o600).unwrap());
    std::fs::rename(&path, format!("/dev/shm/mdg.ring.{}", &ring[1..])).unwrap();
    let flags = OpenFlags::new(Access::ReadWrite, Creation::OpenOnly);
    let options = madang::ring::Options::default();
    let refusal = madang::ring::Ring::open(ring.as_bytes(), &options, flags, 0);
    assert_eq!(refusal.unwrap_err().errno(), libc::EPROTO);
    madang::ring::Ring::unlink(ring.as_bytes()).unwrap();
}

fn another_user<S: Undo>() {
    if !is_root() {
        return;
    }
    let (name, sem) = Named::new::<S>(&value(1));
    as_nobody(|| {
        assert_eq!(refused(S::open(&name.0, &value(0), 0, 0)), Errno::EACCES);
        assert_eq!(refused(S::unlink(&name.0)), Errno::EACCES);
    });
    assert_eq!(sem.value(), 1);
}

fn no_room<S: Undo>() {
    confine::with_own_shm(c"size=8k", || {
        assert_eq!(refused(S::open("/full", &value(0), NEW, 0o600)), Errno::ENOSPC);
        assert_eq!(std::fs::read_dir("/dev/shm").unwrap().count(), 0);
    });
}

/// A permit goes back and forth between two semaphores, each side taking what the other adds.
fn ten_thousand_hand_overs<S: Undo>() {
    let (ping, pings) = Named::new::<S>(&value(0));
    let (pong, pongs) = Named::new::<S>(&value(0));
    let looked = Gate::new();
    let child = fork(|| {
        let (pings, pongs): (S, S) = (ping.open(), pong.open());
        for _ in 0..10_000 {
            assert!(!pings.wait(60 * SECOND).unwrap());
            pongs.post().unwrap();
        }
        looked.pass();
    });
    for _ in 0..10_000 {
        pings.post().unwrap();
        assert!(!pongs.wait(60 * SECOND).unwrap());
    }
    assert_eq!((pings.value(), pongs.value()), (0, 0));
    // 10 000 were taken through this handle, and are posted through another.
    assert_eq!(pongs.holders(), [mine(10_000)]);
    looked.open();
    join(child);
    assert_eq!(pings.value(), 10_000, "what the child had taken came back");
}

/// Workers that hold each permit for a moment only are killed without a break; at the end all
/// permits are there, and never were there more.
fn killed_all_the_time<S: Undo>() {
    const PERMITS: u32 = 3;
    let (name, sem) = Named::new::<S>(&value(PERMITS));
    let shm = Shm::anonymous(64, false).unwrap();
    // SAFETY: inside the segment, which outlives the uses; aligned, and used as atomics only.
    let turns: &AtomicU32 = unsafe { &*shm.as_ptr().as_ptr().cast() };
    let worker = || {
        fork(|| {
            let sem: S = name.open();
            loop {
                sem.wait(60 * SECOND).unwrap();
                turns.fetch_add(1, Ordering::Relaxed);
                sem.post().unwrap();
            }
        })
    };
    let mut workers: Vec<_> = (0..4).map(|_| worker()).collect();
    for round in 0..200 {
        // Some turns further on, whose number differs.
        let goal = turns.load(Ordering::Relaxed) + 1 + round * 37 % 101;
        let begin = Instant::now();
        while turns.load(Ordering::Relaxed) < goal {
            assert!(begin.elapsed() < Duration::from_secs(60), "nobody gets a permit");
            std::hint::spin_loop();
        }
        let index = round as usize % workers.len();
        kill(std::mem::replace(&mut workers[index], worker()));
        let held: u32 = sem.holders().iter().map(|holder| holder.count).sum();
        assert!(held <= PERMITS + 4, "{held}");
    }
    workers.into_iter().for_each(kill);
    assert_eq!((sem.value(), sem.holders()), (PERMITS, vec![]));
    (0..PERMITS).for_each(|_| assert!(!sem.wait(NOWAIT).unwrap()));
    refused_with(sem.wait(NOWAIT), libc::EAGAIN, "");
}

#[test]
fn the_c_librarys_kind_stays_what_it_was() {
    let name = unique("undo");
    let sem = Semaphore::open(name.as_bytes(), 1, Creation::CreateNew, 0o600).unwrap();
    let any = AnySemaphore::Posix(sem);
    assert_eq!(any.value(), Ok(1));
    let _permit = any.wait(Timeout::NoWait).unwrap();
    any.post().unwrap();
    AnySemaphore::unlink(name.as_bytes()).unwrap();
}
