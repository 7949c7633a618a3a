//! Mutexes between processes: holders that die, waits that end, what stands under the name or in
//! memory instead.

mod support;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use libc::O_CREAT;
use madang::mutex::Mutex;
use madang::shm::Shm;
use nix::errno::Errno;
use support::face::{FOREVER, NOWAIT, refused, refused_with};
use support::mutex_face::{CMutex, LONG, Locks, NEW, Named, Numbers, holder};
use support::process::{Gate, as_nobody, fork, interrupted, is_root, join, kill};
use support::{confine, unique};

on_both_faces! { Mutex, CMutex in turn:
    locking
    errors_of_who_does_not_hold_it
    the_next_is_told_of_a_death
    a_sleeper_is_told_of_a_death
    not_declared_consistent
    a_thread_that_ends_is_a_holder_that_died
    timeouts_and_signals
    a_lock_stays_the_parents
    closed_while_held
    names
    not_a_mutex
    another_user
    no_room
    in_a_segment
    ten_thousand_hand_overs
    killed_all_the_time
}

fn locking<M: Locks>() {
    let (name, mutex, _) = Named::new::<M>();
    let other = M::open(&name.0[1..], O_CREAT, 0).unwrap();
    for _ in 0..3 {
        assert!(!mutex.lock(NOWAIT).unwrap());
        // The same thread, through whatever handle.
        refused_with(other.lock(FOREVER), libc::EDEADLK, "holds it already");
        std::thread::scope(|scope| {
            scope.spawn(|| refused_with(other.lock(NOWAIT), libc::EAGAIN, "")).join().unwrap();
        });
        other.unlock().unwrap();
    }
    assert!(!other.lock(FOREVER).unwrap());
    M::unlink(&name.0).unwrap();
    mutex.unlock().unwrap();
    assert_eq!(refused(M::open(&name.0, 0, 0)), Errno::ENOENT);
}

fn errors_of_who_does_not_hold_it<M: Locks>() {
    let (name, mutex, cond) = Named::new::<M>();
    refused_with(mutex.unlock(), libc::EPERM, "does not hold it");
    refused_with(mutex.consistent(), libc::EINVAL, "consistent");
    refused_with(mutex.wait(&cond, FOREVER), libc::EPERM, "does not hold it");
    let child = holder::<M>(&name.0);
    refused_with(mutex.unlock(), libc::EPERM, "does not hold it");
    refused_with(mutex.wait(&cond, FOREVER), libc::EPERM, "does not hold it");
    refused_with(mutex.lock(NOWAIT), libc::EAGAIN, "");
    kill(child);
}

fn the_next_is_told_of_a_death<M: Locks>() {
    let (name, mutex, _) = Named::new::<M>();
    for _ in 0..20 {
        kill(holder::<M>(&name.0));
        assert!(mutex.lock(NOWAIT).unwrap(), "told at once");
        mutex.consistent().unwrap();
        refused_with(mutex.consistent(), libc::EINVAL, "");
        mutex.unlock().unwrap();
        assert!(!mutex.lock(NOWAIT).unwrap(), "told once");
        mutex.unlock().unwrap();
    }
    // Told, and killed before it could mend: the next is told, too.
    kill(holder::<M>(&name.0));
    kill(holder::<M>(&name.0));
    assert!(mutex.lock(NOWAIT).unwrap());
}

fn a_sleeper_is_told_of_a_death<M: Locks>() {
    let (name, mutex, _) = Named::new::<M>();
    for _ in 0..5 {
        let child = holder::<M>(&name.0);
        refused_with(mutex.lock(10_000_000), libc::ETIMEDOUT, "");
        let begin = Instant::now();
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| {
                let told = mutex.lock(FOREVER).unwrap();
                mutex.consistent().unwrap();
                mutex.unlock().unwrap();
                told
            });
            kill(child);
            assert!(sleeper.join().unwrap());
        });
        assert!(begin.elapsed() < Duration::from_secs(30));
    }
}

fn not_declared_consistent<M: Locks>() {
    let (name, mutex, cond) = Named::new::<M>();
    kill(holder::<M>(&name.0));
    assert!(mutex.lock(NOWAIT).unwrap());
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| mutex.lock(FOREVER));
        mutex.unlock().unwrap();
        refused_with(sleeper.join().unwrap(), libc::ENOTRECOVERABLE, "without being declared");
    });
    refused_with(mutex.lock(NOWAIT), libc::ENOTRECOVERABLE, "without being declared");
    for _ in 0..3 {
        refused_with(mutex.lock(LONG), libc::ENOTRECOVERABLE, "");
        assert_eq!(refused(mutex.wait(&cond, NOWAIT)), Errno::EPERM);
    }
    // Others, too; only a new one helps.
    let other = M::open(&name.0, 0, 0).unwrap();
    assert_eq!(refused(other.lock(FOREVER)), Errno::ENOTRECOVERABLE);
    M::unlink(&name.0).unwrap();
    assert!(!M::open(&name.0, NEW, 0o600).unwrap().lock(NOWAIT).unwrap());
}

fn a_thread_that_ends_is_a_holder_that_died<M: Locks>() {
    let (_name, mutex, _) = Named::new::<M>();
    std::thread::scope(|scope| {
        scope.spawn(|| mutex.lock(NOWAIT).unwrap()).join().unwrap();
    });
    assert!(mutex.lock(LONG).unwrap());
    mutex.consistent().unwrap();
    mutex.unlock().unwrap();
}

fn timeouts_and_signals<M: Locks>() {
    let (name, mutex, _) = Named::new::<M>();
    let child = holder::<M>(&name.0);
    for timeout in [1, 1_000, 1_000_000, 170_000_000] {
        let begin = Instant::now();
        refused_with(mutex.lock(timeout), libc::ETIMEDOUT, "");
        assert!(begin.elapsed() >= Duration::from_nanos(timeout as u64), "{timeout} ns");
    }
    for timeout in [FOREVER, i64::MAX, LONG * 60] {
        assert_eq!(refused(interrupted(|| mutex.lock(timeout))), Errno::EINTR);
    }
    refused_with(mutex.unlock(), libc::EPERM, "");
    kill(child);
}

fn a_lock_stays_the_parents<M: Locks>() {
    let (_name, mutex, _) = Named::new::<M>();
    assert!(!mutex.lock(NOWAIT).unwrap());
    join(fork(|| {
        refused_with(mutex.unlock(), libc::EPERM, "");
        refused_with(mutex.lock(NOWAIT), libc::EAGAIN, "");
    }));
    let (waits, child) = (Gate::new(), |waits: &Gate| {
        waits.open();
        assert!(!mutex.lock(LONG).unwrap());
        mutex.unlock().unwrap();
    });
    let child = fork(|| child(&waits));
    waits.pass();
    mutex.unlock().unwrap();
    join(child);
    assert!(!mutex.lock(NOWAIT).unwrap());
    mutex.unlock().unwrap();
}

/// The memory stays: the thread's list of held mutexes leads through it.
fn closed_while_held<M: Locks>() {
    let (name, mutex, _) = Named::new::<M>();
    let second = unique("mutex");
    let child = fork(|| {
        let first = M::open(&name.0, 0, 0).unwrap();
        let second = M::open(&second, NEW, 0o600).unwrap();
        assert!(!first.lock(NOWAIT).unwrap());
        drop(first);
        // Walks the list past the closed one.
        for _ in 0..3 {
            assert!(!second.lock(NOWAIT).unwrap());
            second.unlock().unwrap();
        }
    });
    join(child);
    M::unlink(&second).unwrap();
    assert!(mutex.lock(LONG).unwrap(), "it ended without unlocking");
    mutex.consistent().unwrap();
    mutex.unlock().unwrap();
    // Ten thousand that are closed as they should be take no memory.
    let maps = || std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
    let before = maps();
    for _ in 0..1000 {
        let again = M::open(&name.0, 0, 0).unwrap();
        assert!(!again.lock(NOWAIT).unwrap());
        again.unlock().unwrap();
    }
    assert!(maps() < before + 100);
}

fn names<M: Locks>() {
    let name = unique("mutex");
    assert_eq!(refused(M::open(&name, 0, 0)), Errno::ENOENT);
    assert_eq!(refused(M::unlink(&name)), Errno::ENOENT);
    assert_eq!(refused(M::open_cond(&name, 0, 0)), Errno::ENOENT);
    assert_eq!(refused(M::unlink_cond(&name)), Errno::ENOENT);
    drop(M::open(&name, NEW, 0o600).unwrap());
    drop(M::open_cond(&name, NEW, 0o600).unwrap());
    assert_eq!(refused(M::open(&name, NEW, 0o600)), Errno::EEXIST);
    assert_eq!(refused(M::open_cond(&name, NEW, 0o600)), Errno::EEXIST);
    M::unlink(&name).unwrap();
    M::unlink_cond(&name).unwrap();
    for bad in ["", "/", "a/b", ".."] {
        assert_eq!(refused(M::open(bad, NEW, 0o600)), Errno::EINVAL);
        assert_eq!(refused(M::open_cond(bad, NEW, 0o600)), Errno::EINVAL);
    }
    let long = |length| "n".repeat(length);
    assert_eq!(refused(M::open(&long(246), NEW, 0o600)), Errno::ENAMETOOLONG);
    assert_eq!(refused(M::open_cond(&long(247), NEW, 0o600)), Errno::ENAMETOOLONG);
}

fn not_a_mutex<M: Locks>() {
    let name = unique("mutex");
    let [path, cond_path] =
        ["mutex", "cond"].map(|kind| format!("/dev/shm/mdg.{kind}.{}", &name[1..]));
    for length in [0, 1, 64, 127, 128, 129, 4096] {
        for fill in [0, 0xff] {
            std::fs::write(&path, vec![fill; length]).unwrap();
            std::fs::write(&cond_path, vec![fill; length]).unwrap();
            assert_eq!(refused(M::open(&name, O_CREAT, 0o600)), Errno::EPROTO);
            assert_eq!(refused(M::open_cond(&name, O_CREAT, 0o600)), Errno::EPROTO);
        }
    }
    // A real one whose type is another's.
    M::unlink(&name).unwrap();
    drop(M::open(&name, NEW, 0o600).unwrap());
    let mut bytes = std::fs::read(&path).unwrap();
    let kind = bytes.iter().enumerate().position(|(at, byte)| at >= 64 && *byte != 0).unwrap();
    bytes[kind] ^= 0xff;
    std::fs::write(&path, bytes).unwrap();
    refused_with(M::open(&name, 0, 0).map(drop), libc::EPROTO, "no mutex");
    M::unlink(&name).unwrap();
    M::unlink_cond(&name).unwrap();
}

fn another_user<M: Locks>() {
    if !is_root() {
        return;
    }
    let (name, _mutex, _cond) = Named::new::<M>();
    as_nobody(|| {
        assert_eq!(refused(M::open(&name.0, 0, 0)), Errno::EACCES);
        assert_eq!(refused(M::open_cond(&name.0, 0, 0)), Errno::EACCES);
        assert_eq!(refused(M::unlink(&name.0)), Errno::EACCES);
    });
}

fn no_room<M: Locks>() {
    confine::with_own_shm(c"nr_inodes=1", || {
        assert_eq!(refused(M::open("/full", NEW, 0o600)), Errno::ENOSPC);
        assert_eq!(refused(M::open_cond("/full", NEW, 0o600)), Errno::ENOSPC);
    });
}

fn in_a_segment<M: Locks>() {
    let shm = Shm::anonymous(4096, false).unwrap();
    let memory = shm.as_ptr().as_ptr();
    // SAFETY: inside the segment, which outlives every handle.
    unsafe {
        memory.write_bytes(0xaa, 4096);
        assert_eq!(refused(M::attach(memory)), Errno::EPROTO);
        assert_eq!(refused(M::attach_cond(memory)), Errno::EPROTO);
        assert_eq!(refused(M::init(memory.add(4))), Errno::EINVAL);
        assert_eq!(refused(M::attach(memory.add(4))), Errno::EINVAL);
        assert_eq!(refused(M::init_cond(memory.add(1))), Errno::EINVAL);
    }
    // SAFETY: as above.
    let (mutex, cond) =
        unsafe { (M::init(memory).unwrap(), M::init_cond(memory.add(128)).unwrap()) };
    assert!(!mutex.lock(NOWAIT).unwrap());
    let child = fork(|| {
        // SAFETY: as above, in the child's own copy of the mapping.
        let (mutex, cond) =
            unsafe { (M::attach(memory).unwrap(), M::attach_cond(memory.add(128)).unwrap()) };
        assert!(!mutex.lock(LONG).unwrap());
        M::signal(&cond);
        // And dies with it.
    });
    assert!(mutex.wait(&cond, LONG).unwrap_or_else(|failure| panic!("{failure:?}")));
    join(child);
    mutex.consistent().unwrap();
    mutex.unlock().unwrap();
}

fn ten_thousand_hand_overs<M: Locks>() {
    let (name, mutex, cond) = Named::new::<M>();
    let turn = Numbers::new();
    let play = |mutex: &M, cond: &M::Cond, me: u32| {
        for _ in 0..10_000 {
            assert!(!mutex.lock(LONG).unwrap());
            while turn.at(0).load(Ordering::Relaxed) % 2 != me {
                assert!(!mutex.wait(cond, LONG).unwrap());
            }
            turn.at(0).fetch_add(1, Ordering::Relaxed);
            M::signal(cond);
            mutex.unlock().unwrap();
        }
    };
    let child = fork(|| {
        let mutex = M::open(&name.0, 0, 0).unwrap();
        let cond = M::open_cond(&name.0, 0, 0).unwrap();
        play(&mutex, &cond, 1);
    });
    play(&mutex, &cond, 0);
    join(child);
    assert_eq!(turn.at(0).load(Ordering::Relaxed), 20_000);
}

/// Two numbers that are equal whenever nobody is inside; the holder is killed in between.
fn killed_all_the_time<M: Locks>() {
    let (name, mutex, _) = Named::new::<M>();
    let numbers = Numbers::new();
    let enter = |mutex: &M| {
        let died = mutex.lock(LONG).unwrap();
        let [a, b] = [0, 1].map(|at| numbers.at(at).load(Ordering::Relaxed));
        if died {
            assert!(a == b || a == b + 1, "{a} {b}");
            numbers.at(1).store(a, Ordering::Relaxed);
            mutex.consistent().unwrap();
        } else {
            assert_eq!(a, b, "nobody died, and it is half-done");
        }
        numbers.at(0).store(a + 1, Ordering::Relaxed);
        numbers.at(1).store(a + 1, Ordering::Relaxed);
        mutex.unlock().unwrap();
        died
    };
    let worker = || {
        fork(|| {
            let mutex = M::open(&name.0, 0, 0).unwrap();
            loop {
                enter(&mutex);
            }
        })
    };
    let mut workers: Vec<_> = (0..3).map(|_| worker()).collect();
    let mut died = 0;
    for round in 0..150 {
        let goal = numbers.at(0).load(Ordering::Relaxed) + 1 + round * 37 % 101;
        let begin = Instant::now();
        while numbers.at(0).load(Ordering::Relaxed) < goal {
            assert!(begin.elapsed() < Duration::from_secs(60), "nobody gets in");
            std::hint::spin_loop();
        }
        let index = round as usize % workers.len();
        kill(std::mem::replace(&mut workers[index], worker()));
        died += u32::from(enter(&mutex));
    }
    workers.into_iter().for_each(kill);
    enter(&mutex);
    eprintln!("told of {died} deaths");
}
