//! Semaphores whose permits come back, in segments: beside each other and beside rings, with holders
//! that are killed, that fork, and that wait.

mod support;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use madang::ffi::sem::*;
use madang::ring::{Options, Ring};
use madang::sem::{AnySemaphore, Holder, UndoOptions, UndoSemaphore};
use madang::shm::Shm;
use madang::{Access, Timeout};
use support::face::{FOREVER, NOWAIT, Outcome, answer, open_flags, refused_with};
use support::process::{Child, Gate, fork, interrupted, join, kill, leave, serial, shared_words};
use support::sem_face::CSem;
use support::shm_face::{CShm, Segment};
use support::undo_face::Undo;

const SECOND: i64 = 1_000_000_000;

/// What differs between the faces: making and attaching.
trait Place: Undo + std::fmt::Debug {
    type Shm: Segment;
    fn footprint(options: &UndoOptions) -> Outcome<usize>;
    fn init(shm: &Self::Shm, at: usize, options: &UndoOptions) -> Outcome<Self>;
    fn attach(shm: &Self::Shm, at: usize, options: &UndoOptions) -> Outcome<Self>;
}

impl Place for UndoSemaphore {
    type Shm = Shm;
    fn footprint(options: &UndoOptions) -> Outcome<usize> {
        Ok(UndoSemaphore::footprint(options)?)
    }
    fn init(shm: &Shm, at: usize, options: &UndoOptions) -> Outcome<Self> {
        Ok(UndoSemaphore::init(shm, at, options)?)
    }
    fn attach(shm: &Shm, at: usize, options: &UndoOptions) -> Outcome<Self> {
        Ok(UndoSemaphore::attach_to(shm, at, options)?)
    }
}

fn c_options(options: &UndoOptions) -> mdg_sem_opts {
    let UndoOptions { value, max_handles, tell } = *options;
    let (size, flags) = (size_of::<mdg_sem_opts>(), if tell { MDG_SEM_TELL } else { 0 });
    mdg_sem_opts { size, value, kind: MDG_SEM_UNDO, flags, max_handles }
}

impl Place for CSem {
    type Shm = CShm;
    fn footprint(options: &UndoOptions) -> Outcome<usize> {
        // SAFETY: options as large as they say.
        answer(|| unsafe { mdg_sem_undo_footprint(&c_options(options)) })
    }
    fn init(shm: &CShm, at: usize, options: &UndoOptions) -> Outcome<Self> {
        // SAFETY: a live segment, options as large as they say, a writable pointer.
        CSem::made(|out| unsafe { mdg_sem_undo_init(out, shm.0, at, &c_options(options)) })
    }
    fn attach(shm: &CShm, at: usize, options: &UndoOptions) -> Outcome<Self> {
        // SAFETY: a live segment, options as large as they say, a writable pointer.
        CSem::made(|out| unsafe { mdg_sem_undo_attach(out, shm.0, at, &c_options(options)) })
    }
}

on_both_faces! { UndoSemaphore, CSem in turn:
    two_and_a_ring_share_a_segment
    permits_of_the_dead_come_back
    a_sleeper_gets_the_permit_of_the_dead
    it_is_told_once_with_the_permit
    timeouts_and_signals
    the_child_holds_nothing_of_the_parents
    a_parent_dies_and_its_child_lives
    one_in_use_is_not_made_again
    all_handles_taken
    refusals
    a_copy_of_the_dead_finds_another_in_its_place
    killed_all_the_time
}

fn value(value: u32) -> UndoOptions {
    UndoOptions { value, ..UndoOptions::default() }
}

fn telling() -> UndoOptions {
    UndoOptions { tell: true, ..UndoOptions::default() }
}

fn mine(count: u32) -> Holder {
    Holder { pid: std::process::id(), count, alive: true }
}

fn segment<S: Place>(size: usize) -> S::Shm {
    <S::Shm as Segment>::anonymous(size, false).unwrap()
}

fn size<S: Place>() -> usize {
    S::footprint(&UndoOptions::default()).unwrap()
}

/// A child that has attached at `at`, taken `count` permits, and waits to be killed.
fn holder<S: Place>(shm: &S::Shm, at: usize, count: u32) -> Child {
    let holds = Gate::new();
    let child = fork(|| {
        let sem = S::attach(shm, at, &value(0)).unwrap();
        (0..count).for_each(|_| assert!(!sem.wait(NOWAIT).unwrap()));
        holds.open();
        loop {
            nix::unistd::pause();
        }
    });
    holds.pass();
    child
}

fn pid(child: &Child) -> u32 {
    child.pid().as_raw() as u32
}

/// A ring in a segment of either face: through the descriptor, which is the same for both.
fn ring_at(shm: &impl Segment, at: usize, make: bool) -> Ring {
    // SAFETY: the segment's own descriptor, open during this call.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(shm.fd()) };
    let seals = madang::shm::Seals::Unchecked;
    let same = Shm::from_fd(fd, open_flags(libc::O_RDWR).access, seals).unwrap();
    let options = Options::new(8, 8);
    match make {
        true => Ring::init(&same, at, &options, Access::ReadWrite).unwrap(),
        false => Ring::attach_to(&same, at, &options, Access::ReadWrite).unwrap(),
    }
}

fn two_and_a_ring_share_a_segment<S: Place>() {
    let step = size::<S>();
    assert_eq!(step % 4096, 0);
    let ring_size = Ring::footprint(&Options::new(8, 8)).unwrap();
    let shm = segment::<S>(4096 + ring_size + 2 * step);
    let places = [4096 + ring_size, 4096 + ring_size + step];
    let ring = ring_at(&shm, 4096, true);
    let [first, second] = [0, 1].map(|i| S::init(&shm, places[i], &value(2 + i as u32)).unwrap());
    let ready = Gate::new();
    let child = fork(|| {
        let mine = ring_at(&shm, 4096, false);
        let [first, second] = places.map(|at| S::attach(&shm, at, &value(0)).unwrap());
        first.wait(NOWAIT).unwrap();
        (0..3).for_each(|_| assert!(!second.wait(NOWAIT).unwrap()));
        mine.push(&[7; 8], Timeout::NoWait).unwrap();
        ready.open();
        loop {
            nix::unistd::pause();
        }
    });
    ready.pass();
    drop(shm);
    let theirs = |count| Holder { pid: pid(&child), count, alive: true };
    assert_eq!((first.value(), first.holders()), (1, vec![theirs(1)]));
    assert_eq!((second.value(), second.holders()), (0, vec![theirs(3)]));
    kill(child);
    // One death, three objects: each has its own locks and finds it by itself.
    let mut item = [0; 8];
    ring.pop(&mut item, Timeout::from_nanos(SECOND)).unwrap();
    assert_eq!(item, [7; 8]);
    let told = ring.pop(&mut item, Timeout::from_nanos(FOREVER)).unwrap_err();
    assert_eq!(told.errno(), libc::EOWNERDEAD);
    assert!(!second.holders()[0].alive);
    assert_eq!((first.value(), second.value()), (2, 3));
    assert!(first.holders().is_empty() && second.holders().is_empty());
}

fn permits_of_the_dead_come_back<S: Place>() {
    let shm = segment::<S>(2 * size::<S>());
    let sem = S::init(&shm, 0, &value(3)).unwrap();
    let beside = S::init(&shm, size::<S>(), &value(1)).unwrap();
    beside.wait(NOWAIT).unwrap();
    for round in 0..5 {
        let child = holder::<S>(&shm, 0, 3);
        let pid = pid(&child);
        refused_with(sem.wait(NOWAIT), libc::EAGAIN, "");
        kill(child);
        assert_eq!(sem.holders(), [Holder { pid, count: 3, alive: false }], "round {round}");
        assert_eq!((sem.value(), sem.holders()), (3, vec![]));
        assert_eq!(
            (beside.value(), beside.holders()),
            (0, vec![mine(1)]),
            "the living keep theirs"
        );
    }
    // Those who come anew find them, too.
    kill(holder::<S>(&shm, 0, 3));
    let other = S::attach(&shm, 0, &value(0)).unwrap();
    (0..3).for_each(|_| assert!(!other.wait(SECOND).unwrap()));
    drop(other);
    assert_eq!(sem.value(), 3, "closing gives back");
}

fn a_sleeper_gets_the_permit_of_the_dead<S: Place>() {
    let shm = segment::<S>(size::<S>());
    let sem = S::init(&shm, 0, &value(1)).unwrap();
    for _ in 0..3 {
        let child = holder::<S>(&shm, 0, 1);
        refused_with(sem.wait(20_000_000), libc::ETIMEDOUT, "");
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| sem.wait(60 * SECOND).unwrap());
            kill(child);
            assert!(!sleeper.join().unwrap());
        });
        sem.post().unwrap();
    }
}

fn it_is_told_once_with_the_permit<S: Place>() {
    let shm = segment::<S>(size::<S>());
    let plain = S::init(&shm, 0, &value(2)).unwrap();
    let asks = S::attach(&shm, 0, &telling()).unwrap();
    kill(holder::<S>(&shm, 0, 2));
    assert!(!plain.wait(SECOND).unwrap(), "who did not ask is not told");
    assert!(asks.wait(SECOND).unwrap(), "the first who asks is");
    assert_eq!(plain.holders().len(), 2, "with the permit");
    asks.post().unwrap();
    assert!(!asks.wait(SECOND).unwrap(), "once");
}

fn timeouts_and_signals<S: Place>() {
    let shm = segment::<S>(size::<S>());
    let empty = S::init(&shm, 0, &value(0)).unwrap();
    for timeout in [1, 1_000_000, 170_000_000] {
        let begin = Instant::now();
        refused_with(empty.wait(timeout), libc::ETIMEDOUT, "");
        assert!(begin.elapsed() >= Duration::from_nanos(timeout as u64), "{timeout} ns");
    }
    refused_with(interrupted(|| empty.wait(FOREVER)), libc::EINTR, "");
    assert_eq!((empty.value(), empty.holders()), (0, vec![]));
    // A post of another process ends a wait.
    let child = fork(|| S::attach(&shm, 0, &value(0)).unwrap().post().unwrap());
    assert!(!empty.wait(60 * SECOND).unwrap());
    join(child);
}

fn the_child_holds_nothing_of_the_parents<S: Place>() {
    let shm = segment::<S>(size::<S>());
    let sem = S::init(&shm, 0, &value(3)).unwrap();
    (0..2).for_each(|_| assert!(!sem.wait(NOWAIT).unwrap()));
    let took = Gate::new();
    let child = fork(|| {
        // The handle that the parent has opened.
        sem.wait(NOWAIT).unwrap();
        took.open();
        loop {
            nix::unistd::pause();
        }
    });
    took.pass();
    assert_eq!(sem.holders(), [mine(2), Holder { pid: pid(&child), count: 1, alive: true }]);
    kill(child);
    assert_eq!((sem.value(), sem.holders()), (1, vec![mine(2)]));
    // A child that does nothing with it but leave.
    join(fork(|| leave(0)));
    assert_eq!((sem.value(), sem.holders()), (1, vec![mine(2)]));
}

fn a_parent_dies_and_its_child_lives<S: Place>() {
    let shm = segment::<S>(size::<S>());
    let sem = S::init(&shm, 0, &value(1)).unwrap();
    let (forked, ends) = (Gate::new(), Gate::new());
    let parent = fork(|| {
        let sem = S::attach(&shm, 0, &value(0)).unwrap();
        sem.wait(NOWAIT).unwrap();
        join(fork(|| {
            forked.open();
            ends.pass();
        }));
    });
    forked.pass();
    assert_eq!(sem.value(), 0);
    kill(parent);
    assert!(!sem.wait(60 * SECOND).unwrap());
    ends.open();
}

fn one_in_use_is_not_made_again<S: Place>() {
    let shm = segment::<S>(size::<S>());
    let sem = S::init(&shm, 0, &value(1)).unwrap();
    sem.wait(NOWAIT).unwrap();
    refused_with(S::init(&shm, 0, &value(5)), libc::EBUSY, "living handles");
    // A child that has attached is a living handle, too; dead it is none.
    let child = holder::<S>(&shm, 0, 0);
    drop(sem);
    refused_with(S::init(&shm, 0, &value(5)), libc::EBUSY, "living handles");
    kill(child);
    let sem = S::init(&shm, 0, &value(5)).unwrap();
    assert_eq!((sem.value(), sem.holders()), (5, vec![]));
    // What was made is another kind of thing than a ring, and the other way round.
    // SAFETY: the segment's own descriptor, open during this call.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(shm.fd()) };
    let same = Shm::from_fd(fd, Access::ReadWrite, madang::shm::Seals::Unchecked).unwrap();
    let ring = Ring::attach_to(&same, 0, &Options::default(), Access::ReadWrite);
    assert_eq!(ring.unwrap_err().errno(), libc::EPROTO);
    drop(sem);
    let _ring = ring_at(&shm, 0, true);
    refused_with(S::attach(&shm, 0, &value(0)), libc::EPROTO, "kind SPSC, which is no semaphore");
    refused_with(S::init(&shm, 0, &value(0)), libc::EBUSY, "living handles");
}

fn all_handles_taken<S: Place>() {
    let two = UndoOptions { max_handles: 2, ..value(1) };
    let shm = segment::<S>(S::footprint(&two).unwrap());
    let first = S::init(&shm, 0, &two).unwrap();
    let second = holder::<S>(&shm, 0, 1);
    refused_with(S::attach(&shm, 0, &value(0)), libc::EMFILE, "all 2 handles");
    kill(second);
    // The place of the dead is free again, and its permit back.
    let second = S::attach(&shm, 0, &two).unwrap();
    assert_eq!((second.value(), first.value()), (1, 1));
}

fn refusals<S: Place>() {
    let size = size::<S>();
    let shm = segment::<S>(2 * size);
    refused_with(S::init(&shm, 100, &value(0)), libc::EINVAL, "multiple of 4096");
    refused_with(S::init(&shm, size + 4096, &value(0)), libc::ENOSPC, "needs");
    refused_with(S::init(&shm, 0, &value(MDG_SEM_UNDO_VALUE_MAX + 1)), libc::EINVAL, "a value of");
    refused_with(S::attach(&shm, 0, &value(0)), libc::EPROTO, "no magic");
    refused_with(S::attach(&shm, 2 * size, &value(0)), libc::EPROTO, "too few");
    let beyond = UndoOptions { max_handles: 4097, ..value(0) };
    refused_with(S::footprint(&beyond), libc::EINVAL, "max_handles");
    refused_with(S::init(&shm, 0, &beyond), libc::EINVAL, "max_handles");
    refused_with(S::attach(&shm, 0, &beyond), libc::EINVAL, "max_handles");
    let _sem = S::init(&shm, size, &value(1)).unwrap();
    let other = UndoOptions { max_handles: 3, ..value(0) };
    refused_with(S::attach(&shm, size, &other), libc::EPROTO, "max_handles is 3 here but 64");
    let read_only = <S::Shm as Segment>::from_fd(shm.fd(), libc::O_RDONLY).unwrap();
    refused_with(S::init(&read_only, 0, &value(0)), libc::EACCES, "read-only");
    refused_with(S::attach(&read_only, size, &value(0)), libc::EACCES, "read-only");
}

/// A handle that fork(2) has copied and that was never used is no proof of life. Its child finds out
/// that another semaphore was made in the place, and changes nothing there.
fn a_copy_of_the_dead_finds_another_in_its_place<S: Place>() {
    let few = UndoOptions { max_handles: 1, ..value(7) };
    let shm = segment::<S>(size::<S>());
    let (forked, goes, done) = (Gate::new(), Gate::new(), Gate::new());
    let parent = fork(|| {
        let sem = S::init(&shm, 0, &value(1)).unwrap();
        let child = fork(|| {
            forked.open();
            goes.pass();
            // What it reads there is another's: free or not, it takes nothing.
            refused_with(sem.wait(60 * SECOND), libc::ESTALE, "another");
            refused_with(sem.post(), libc::ESTALE, "another");
            done.open();
        });
        join(child);
    });
    forked.pass();
    kill(parent);
    let sem = S::init(&shm, 0, &few).unwrap();
    let before = shm.get(0, size::<S>());
    goes.open();
    assert!(done.is_open_within(60_000));
    assert!(before == shm.get(0, size::<S>()), "it has changed something");
    assert_eq!((sem.value(), sem.holders()), (7, vec![]));
}

/// Workers that hold each permit for a moment only are killed without a break; at the end all
/// permits are there, and never were there more.
fn killed_all_the_time<S: Place>() {
    const PERMITS: u32 = 3;
    let at = size::<S>();
    let shm = segment::<S>(2 * at);
    let sem = S::init(&shm, at, &value(PERMITS)).unwrap();
    let turns = &shared_words(1)[0];
    let worker = || {
        fork(|| {
            let sem = S::attach(&shm, at, &value(0)).unwrap();
            loop {
                sem.wait(60 * SECOND).unwrap();
                turns.fetch_add(1, Ordering::Relaxed);
                sem.post().unwrap();
            }
        })
    };
    let mut workers: Vec<_> = (0..4).map(|_| worker()).collect();
    for round in 0..60 {
        // Some turns further on, whose number differs.
        let goal = turns.load(Ordering::Relaxed) + 1 + round * 37 % 101;
        let begin = Instant::now();
        while turns.load(Ordering::Relaxed) < goal {
            assert!(begin.elapsed() < Duration::from_secs(60), "nobody gets a permit");
            std::hint::spin_loop();
        }
        let index = round as usize % workers.len();
        kill(std::mem::replace(&mut workers[index], worker()));
    }
    workers.into_iter().for_each(kill);
    assert_eq!((sem.value(), sem.holders()), (PERMITS, vec![]));
    (0..PERMITS).for_each(|_| assert!(!sem.wait(NOWAIT).unwrap()));
    refused_with(sem.wait(NOWAIT), libc::EAGAIN, "");
}

/// Makers that race for one place: one makes it, the others learn that it is busy; a maker that is
/// killed leaves a place where the next one can make it. Who has made one has it until it closes it.
#[test]
fn makers_race_and_die() {
    let _turn = serial();
    let most = UndoOptions { max_handles: 9, ..value(2) };
    let shm = Shm::anonymous(UndoSemaphore::footprint(&most).unwrap(), false).unwrap();
    let made = AtomicU32::new(0);
    for _ in 0..100 {
        let spawn = |max_handles| {
            fork(|| {
                let options = UndoOptions { max_handles, ..value(2) };
                loop {
                    match UndoSemaphore::init(&shm, 0, &options) {
                        Ok(sem) => {
                            let _permit = sem.wait(Timeout::NoWait).unwrap();
                            assert_eq!(sem.held(), Ok(1));
                            sem.post().unwrap();
                            assert_eq!(sem.value(), Ok(2));
                        }
                        // The latter: the one who attached below was faster to the only handle.
                        Err(error) => {
                            assert!([libc::EBUSY, libc::EMFILE].contains(&error.errno()), "{error}")
                        }
                    }
                }
            })
        };
        // Of different sizes, so that one who took another's for its own would do harm.
        let makers = [spawn(1), spawn(9)];
        for _ in 0..3 {
            match UndoSemaphore::attach_to(&shm, 0, &UndoOptions::default()) {
                Ok(sem) => {
                    assert!(sem.value().unwrap() <= 2);
                    made.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    let expected = [libc::EPROTO, libc::ESTALE, libc::EMFILE];
                    assert!(expected.contains(&error.errno()), "{error}");
                }
            }
        }
        makers.into_iter().for_each(kill);
    }
    let any = AnySemaphore::Undo(UndoSemaphore::init(&shm, 0, &most).unwrap());
    assert_eq!(any.value(), Ok(2));
}

#[test]
fn what_is_particular_to_c() {
    let _turn = serial();
    let shm = segment::<CSem>(size::<CSem>());
    let mut opts = c_options(&value(1));
    let made = |opts: *const mdg_sem_opts| {
        // SAFETY: a live segment, options as large as they say or NULL, a writable pointer.
        CSem::made(|out| unsafe { mdg_sem_undo_init(out, shm.0, 0, opts) })
    };
    // Without options, and without a kind, it is of the kind that these calls are for.
    assert_eq!(made(std::ptr::null()).unwrap().value(), 0);
    opts.kind = MDG_SEM_POSIX;
    assert_eq!(made(&raw const opts).unwrap().value(), 1);
    opts.kind = 2;
    refused_with(made(&raw const opts), libc::EINVAL, "unknown kind 2");
    opts.kind = MDG_SEM_UNDO;
    opts.flags = 2;
    refused_with(made(&raw const opts), libc::EINVAL, "unknown flags");
    opts.flags = 0;
    opts.size = 3;
    refused_with(made(&raw const opts), libc::EINVAL, "size field");
    let nothing = std::ptr::null();
    // SAFETY: NULL is refused.
    unsafe {
        refused_with(
            CSem::made(|out| mdg_sem_undo_attach(out, nothing, 0, std::ptr::null())),
            libc::EINVAL,
            "NULL",
        );
        let no_room = std::ptr::null_mut();
        refused_with(
            support::face::done(|| mdg_sem_undo_attach(no_room, shm.0, 0, std::ptr::null())),
            libc::EINVAL,
            "NULL",
        );
    }
}
