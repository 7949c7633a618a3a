//! Processes that do not see each other: in other PID namespaces, where several have the same number,
//! and of other users. The living are never taken for dead, the dead are noticed, and what is told of
//! them is what is documented.

#[macro_use]
mod support;

use std::ffi::c_int;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::thread::sleep;
use std::time::Duration;

use madang::Timeout;
use madang::ffi::ring::{MDG_POLL_IN, mdg_ring_init};
use madang::mutex::Mutex;
use madang::ring::{Kind, Options, policy};
use madang::sem::UndoOptions;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};
use support::Dir;
use support::confine::with_own_shm;
use support::face::{FOREVER, NOWAIT, Outcome, done, refused, refused_with};
use support::mutex_face::{CMutex, Locks};
use support::object_face::{Inventory, Rust as Objects};
use support::pipe_face::{C as Pipes, Face as _};
use support::process::{Child, Gate, as_nobody, fork, is_root, join, kill, leave, serial, skip};
use support::ring_face::{C, Face, Named, c_options};
use support::sem_face::{CSem, Permits};
use support::shm_face::{CShm, Segment};
use support::undo_face::Undo;
use support::unique;

const NEW: c_int = libc::O_RDWR | libc::O_CREAT;
const BRIEFLY: i64 = 300_000_000;

/// Whether new PID namespaces are permitted here; says so if not.
fn may_have_namespaces() -> bool {
    let child = fork(|| {
        if new_pid_namespace().is_err() {
            leave(77);
        }
    });
    let may = matches!(child.end(), nix::sys::wait::WaitStatus::Exited(_, 0));
    if !may {
        skip("no PID namespace may be made here");
    }
    may
}

/// The children of this process will be in a new PID namespace.
fn new_pid_namespace() -> nix::Result<()> {
    let flags = CloneFlags::CLONE_NEWPID;
    unshare(flags).or_else(|_| unshare(flags | CloneFlags::CLONE_NEWUSER))
}

/// Runs `body` as process 1 of a new PID namespace; the child is the one that made it, and leaves
/// when `body`'s process has ended or, after `end` has opened, kills it.
fn elsewhere(end: &Gate, body: impl FnOnce()) -> Child {
    fork(|| {
        new_pid_namespace().unwrap();
        let inner = fork(|| {
            assert_eq!(std::process::id(), 1);
            body();
            sleep(Duration::from_secs(1000));
        });
        end.pass();
        kill(inner);
    })
}

/// The same for a body that is to end; it is not killed.
fn elsewhere_once(end: &Gate, body: impl FnOnce()) -> Child {
    elsewhere(end, || {
        body();
        end.open();
    })
}

fn kinds() -> [Options; 5] {
    let of = |kind, policy| Options { kind: Some(kind), policy, ..Options::new(8, 8) };
    [
        of(Kind::Spsc, 0),
        of(Kind::Mpmc, 0),
        of(Kind::Mpmc, policy::STOPPROOF),
        of(Kind::Broadcast, 0),
        of(Kind::Broadcast, policy::OVERWRITE),
    ]
}

#[test]
fn a_producer_in_another_pid_namespace() {
    let _turn = serial();
    if !may_have_namespaces() {
        return;
    }
    for options in kinds() {
        let name = Named::new("namespace");
        let ring = C::open(Some(&name.0), &options, NEW, 0o600).unwrap();
        let mut item = [0; 8];
        assert_eq!(refused(ring.pop(&mut item, NOWAIT)) as c_int, libc::EAGAIN);
        let (ready, end) = (Gate::new(), Gate::new());
        let other = elsewhere(&end, || {
            let ring = C::open(Some(&name.0), &options, libc::O_WRONLY, 0).unwrap();
            ring.push(&[7; 8], NOWAIT).unwrap();
            ready.open();
            std::mem::forget(ring);
        });
        ready.pass();
        ring.pop(&mut item, NOWAIT).unwrap();
        assert_eq!(refused(ring.pop(&mut item, BRIEFLY)) as c_int, libc::ETIMEDOUT);
        // Its number as it sees itself.
        if ring.stat().producer_pid != 0 {
            assert_eq!(ring.stat().producer_pid, 1);
        }
        end.open();
        assert_eq!(refused(ring.pop(&mut item, FOREVER)) as c_int, libc::EOWNERDEAD);
        join(other);
        ring.push(&[7; 8], NOWAIT).unwrap();
        ring.pop(&mut item, NOWAIT).unwrap();
    }
}

/// The other way round: who lives and dies is outside, who waits has never heard of its number.
#[test]
fn a_producer_outside() {
    let _turn = serial();
    if !may_have_namespaces() {
        return;
    }
    for options in kinds() {
        let ring = C::open(None, &options, libc::O_RDWR, 0).unwrap();
        let (joined, ready, alive, end) = (Gate::new(), Gate::new(), Gate::new(), Gate::new());
        let waiter = elsewhere(&end, || {
            let mut item = [0; 8];
            assert_eq!(refused(ring.pop(&mut item, NOWAIT)) as c_int, libc::EAGAIN);
            joined.open();
            ready.pass();
            ring.pop(&mut item, NOWAIT).unwrap();
            assert_eq!(refused(ring.pop(&mut item, BRIEFLY)) as c_int, libc::ETIMEDOUT);
            alive.open();
            assert_eq!(refused(ring.pop(&mut item, FOREVER)) as c_int, libc::EOWNERDEAD);
            end.open();
        });
        joined.pass();
        let producer = fork(|| {
            ring.push(&[7; 8], NOWAIT).unwrap();
            ready.open();
            sleep(Duration::from_secs(1000));
        });
        assert!(alive.is_open_within(20_000), "{options:?}");
        kill(producer);
        join(waiter);
    }
}

/// Two holders of permits, each process 1 of a namespace of its own: the death of one gives back
/// its permit, and not the other's.
#[test]
fn holders_of_the_same_number() {
    let _turn = serial();
    if !may_have_namespaces() {
        return;
    }
    let (name, options) = (unique("namespace"), UndoOptions { value: 3, ..UndoOptions::default() });
    let sem = <CSem as Undo>::open(&name, &options, NEW, 0o600).unwrap();
    let ready = Gate::new();
    let ends = [Gate::new(), Gate::new()];
    let others = ends.each_ref().map(|end| {
        elsewhere(end, || {
            assert!(!Undo::wait(&sem, NOWAIT).unwrap());
            ready.open();
        })
    });
    ready.pass();
    ready.pass();
    assert_eq!(Undo::value(&sem), 1);
    let holders = Undo::holders(&sem);
    assert_eq!(holders.len(), 2);
    assert!(holders.iter().all(|holder| holder.pid == 1 && holder.alive && holder.count == 1));
    assert!(!Undo::wait(&sem, NOWAIT).unwrap());
    assert_eq!(refused(Undo::wait(&sem, BRIEFLY)) as c_int, libc::ETIMEDOUT);
    let [first, second] = others;
    ends[0].open();
    Undo::wait(&sem, FOREVER).unwrap();
    join(first);
    assert_eq!(refused(Undo::wait(&sem, BRIEFLY)) as c_int, libc::ETIMEDOUT);
    ends[1].open();
    Undo::wait(&sem, FOREVER).unwrap();
    join(second);
    <CSem as Undo>::unlink(&name).unwrap();
}

on_both_faces!(Mutex, CMutex in turn:
    a_mutex_belongs_to_one_pid_namespace
    an_inherited_mutex_is_refused_in_another_pid_namespace);

/// Asserts that every operation on `mutex` says what to use instead, and does nothing.
fn all_is_refused<M: Locks>(mutex: &M, cond: &M::Cond) {
    let wrong = |outcome: Outcome<()>| refused_with(outcome, libc::EOPNOTSUPP, "MDG_SEM_UNDO");
    wrong(mutex.lock(NOWAIT).map(drop));
    wrong(mutex.lock(FOREVER).map(drop));
    wrong(mutex.unlock());
    wrong(mutex.consistent());
    wrong(mutex.wait(cond, FOREVER).map(drop));
}

/// Two threads of the same number would be taken for one another. Whoever has it open last decides.
fn a_mutex_belongs_to_one_pid_namespace<M: Locks + std::fmt::Debug>() {
    if !may_have_namespaces() {
        return;
    }
    let (name, second) = (unique("namespace"), unique("namespace"));
    let memory = CShm::open(second.as_bytes(), 4096, NEW, 0o600).unwrap();
    // SAFETY: writable memory of a page, as long as the result.
    let inside = unsafe { M::init(memory.addr()) }.unwrap();
    let (ready, end) = (Gate::new(), Gate::new());
    let other = elsewhere(&end, || {
        let mutex = M::open(&name, NEW, 0o600).unwrap();
        assert!(!mutex.lock(NOWAIT).unwrap());
        // SAFETY: as above.
        refused_with(unsafe { M::attach(memory.addr()) }, libc::EOPNOTSUPP, "MDG_SEM_UNDO");
        ready.open();
        std::mem::forget(mutex);
    });
    ready.pass();
    refused_with(M::open(&name, NEW, 0o600), libc::EOPNOTSUPP, "MDG_SEM_UNDO");
    let third = Gate::new();
    join(elsewhere_once(&third, || {
        refused_with(M::open(&name, NEW, 0o600), libc::EOPNOTSUPP, "PID namespace");
        refused_with(M::open(&name, NEW, 0o600), libc::EOPNOTSUPP, &name);
    }));
    end.open();
    join(other);
    // Nobody has it open any more: it comes to this namespace, with what its holder left.
    let (mutex, again) = (M::open(&name, NEW, 0o600).unwrap(), M::open(&name, NEW, 0o600).unwrap());
    assert!(mutex.lock(NOWAIT).unwrap(), "told of the death");
    mutex.consistent().unwrap();
    assert_eq!(refused(again.lock(NOWAIT)) as c_int, libc::EDEADLK);
    join(elsewhere_once(&third, || {
        refused_with(M::open(&name, NEW, 0o600), libc::EOPNOTSUPP, "MDG_SEM_UNDO");
    }));
    mutex.unlock().unwrap();
    inside.lock(NOWAIT).unwrap();
    inside.unlock().unwrap();
    M::unlink(&name).unwrap();
    CShm::unlink(second.as_bytes()).unwrap();
}

fn an_inherited_mutex_is_refused_in_another_pid_namespace<M: Locks>() {
    if !may_have_namespaces() {
        return;
    }
    let name = unique("namespace");
    let mutex = M::open(&name, NEW, 0o600).unwrap();
    let cond = M::open_cond(&name, NEW, 0o600).unwrap();
    mutex.lock(NOWAIT).unwrap();
    let end = Gate::new();
    join(elsewhere_once(&end, || {
        all_is_refused(&mutex, &cond);
        // An event is nobody's: this wakes who waits, wherever.
        M::broadcast(&cond);
    }));
    // An ordinary child is none of that.
    join(fork(|| assert_eq!(refused(mutex.lock(NOWAIT)) as c_int, libc::EAGAIN)));
    mutex.unlock().unwrap();
    join(fork(|| mutex.lock(NOWAIT).and_then(|_| mutex.unlock()).unwrap()));
    M::unlink(&name).unwrap();
    M::unlink_cond(&name).unwrap();
}

/// Two processes of the same number: that one shuts a stream down does not make the other's death an
/// orderly end.
#[test]
fn a_shutdown_by_another_of_the_same_number() {
    let _turn = serial();
    if !may_have_namespaces() {
        return;
    }
    for options in kinds() {
        let ring = C::open(None, &options, libc::O_RDWR, 0).unwrap();
        let (ready, end, shut) = (Gate::new(), Gate::new(), Gate::new());
        let producer = elsewhere(&end, || {
            ring.push(&[7; 8], NOWAIT).unwrap();
            ready.open();
        });
        ready.pass();
        join(elsewhere_once(&shut, || {
            let mut item = [0; 8];
            // As a participant of its own; a consumer of a broadcast finds nothing new.
            let _ = ring.pop(&mut item, NOWAIT);
            ring.shutdown().unwrap();
            drop(ring.dup(libc::O_RDWR).unwrap());
        }));
        let before = ring.stat().recovered;
        end.open();
        join(producer);
        assert_eq!(ring.stat().recovered, before + 1, "{options:?}");
    }
}

/// A descriptor that comes from a process that is not visible here is said to come from process 0.
#[test]
fn a_sender_outside() {
    let _turn = serial();
    if !may_have_namespaces() {
        return;
    }
    let (here, there) = UnixStream::pair().unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let end = Gate::new();
    let other = elsewhere(&end, || {
        use std::os::fd::AsFd;
        let (_fd, peer) = madang::fd::receive(there.as_fd(), Timeout::Forever).unwrap();
        assert_eq!((peer.pid, peer.uid), (0, nix::unistd::geteuid().as_raw()));
        end.open();
    });
    use std::os::fd::AsFd;
    madang::fd::send(here.as_fd(), null.as_fd(), Timeout::Forever).unwrap();
    join(other);
}

/// Another user with permission is a peer like any other; its death is noticed, too.
#[test]
fn a_peer_of_another_user() {
    let _turn = serial();
    if !is_root() {
        return;
    }
    let old = umask(Mode::empty());
    for options in kinds() {
        let name = Named::new("user");
        let ring = C::open(Some(&name.0), &options, NEW, 0o666).unwrap();
        let mut item = [0; 8];
        assert_eq!(refused(ring.pop(&mut item, NOWAIT)) as c_int, libc::EAGAIN);
        as_nobody(|| {
            let ring = C::open(Some(&name.0), &options, libc::O_WRONLY, 0).unwrap();
            ring.push(&[7; 8], NOWAIT).unwrap();
            std::mem::forget(ring);
        });
        ring.pop(&mut item, NOWAIT).unwrap();
        assert_eq!(refused(ring.pop(&mut item, FOREVER)) as c_int, libc::EOWNERDEAD);
    }
    let (name, options) = (unique("user"), UndoOptions { value: 1, ..UndoOptions::default() });
    let sem = <CSem as Undo>::open(&name, &options, NEW, 0o666).unwrap();
    let mutex = CMutex::open(&name, NEW, 0o666).unwrap();
    as_nobody(|| {
        let sem = <CSem as Undo>::open(&name, &options, libc::O_RDWR, 0).unwrap();
        Undo::wait(&sem, NOWAIT).unwrap();
        assert!(!CMutex::open(&name, libc::O_RDWR, 0).unwrap().lock(NOWAIT).unwrap());
        std::mem::forget(sem);
    });
    Undo::wait(&sem, FOREVER).unwrap();
    assert!(mutex.lock(FOREVER).unwrap(), "told of the death");
    <CSem as Undo>::unlink(&name).unwrap();
    CMutex::unlink(&name).unwrap();
    umask(old);
}

/// Whatever the umask: the mode is what open(2) would have given it, the maker can use what it has
/// made, and so can no one else than the mode says.
#[test]
fn every_umask() {
    let _turn = serial();
    let check = || {
        for (mask, mode) in [(0o000, 0o666), (0o777, 0o666), (0o077, 0o640), (0o027, 0o660)] {
            umask(Mode::from_bits_truncate(mask));
            let (name, dir) = (unique("umask"), "/dev/shm");
            let plain = name[1..].to_owned();
            let undo = UndoOptions { value: 1, ..UndoOptions::default() };
            let undo_name = format!("{name}-undo");
            // One end, taken with the opening: to take another needs permission then.
            let (access, size) = (libc::O_WRONLY | libc::O_CREAT, Options::new(8, 8));
            let ring = C::open(Some(&name), &size, access, mode).unwrap();
            let shm = CShm::open(name.as_bytes(), 100, NEW, mode).unwrap();
            let posix = <CSem as Permits>::open(name.as_bytes(), 1, NEW, mode).unwrap();
            let sem = <CSem as Undo>::open(&undo_name, &undo, NEW, mode).unwrap();
            let mutex = CMutex::open(&name, NEW, mode).unwrap();
            let cond = CMutex::open_cond(&name, NEW, mode).unwrap();
            let files = [
                format!("{dir}/mdg.ring.{plain}"),
                format!("{dir}/{plain}"),
                format!("{dir}/sem.{plain}"),
                format!("{dir}/mdg.sem.{plain}-undo"),
                format!("{dir}/mdg.mutex.{plain}"),
                format!("{dir}/mdg.cond.{plain}"),
            ];
            for file in &files {
                let found = std::fs::metadata(file).unwrap();
                assert_eq!(found.permissions().mode() & 0o7777, mode & !mask, "{file}");
                assert_eq!(found.uid(), nix::unistd::geteuid().as_raw());
            }
            ring.push(&[7; 8], NOWAIT).unwrap();
            shm.put(0, b"mine");
            Permits::wait(&posix, NOWAIT).unwrap();
            Undo::wait(&sem, NOWAIT).unwrap();
            mutex.lock(NOWAIT).unwrap();
            CMutex::signal(&cond);
            mutex.unlock().unwrap();
            files.iter().for_each(|file| std::fs::remove_file(file).unwrap());
            umask(Mode::from_bits_truncate(0o022));
            let dir = Dir::new();
            umask(Mode::from_bits_truncate(mask));
            Pipes.create(&dir.path("fifo"), mode).unwrap();
            let found = std::fs::metadata(dir.path("fifo")).unwrap();
            assert_eq!(found.permissions().mode() & 0o7777, mode & !mask);
        }
    };
    join(fork(check));
    if is_root() {
        as_nobody(check);
    }
}

/// Where /proc is not mounted, everything that has a name works: made, opened, used by forked children,
/// seen from outside and removed. What has no name says what it needs.
#[test]
fn without_proc() {
    let _turn = serial();
    let needs = "this needs /proc, which is not mounted";
    with_own_shm(c"size=16m", || {
        let none = None::<&str>;
        mount(none, "/proc", Some("tmpfs"), MsFlags::empty(), none).unwrap();
        assert!(std::fs::read_dir("/proc").unwrap().next().is_none());
        for options in kinds() {
            let name = Named::new("no-proc");
            let ring = C::open(Some(&name.0), &options, NEW, 0o600).unwrap();
            ring.fd(MDG_POLL_IN).unwrap();
            ring.push(&[1; 8], NOWAIT).unwrap();
            let other = C::open(Some(&name.0), &options, libc::O_RDWR, 0);
            drop((other.unwrap(), ring.dup(libc::O_RDWR).unwrap()));
            drop(ring);
            // A child must attach anew, and its death is noticed.
            let ring = C::open(Some(&name.0), &options, libc::O_RDWR, 0).unwrap();
            while ring.pop(&mut [0; 8], NOWAIT).is_ok() {}
            kill_holder(|| ring.push(&[2; 8], NOWAIT).unwrap());
            let mut item = [0; 8];
            ring.pop(&mut item, FOREVER).unwrap();
            assert_eq!(item, [2; 8]);
            assert_eq!(refused(ring.pop(&mut item, FOREVER)) as c_int, libc::EOWNERDEAD);
            C::unlink(&name.0).unwrap();
            refused_with(C::open(None, &options, NEW, 0), libc::ENOSYS, needs);
        }
        let name = unique("no-proc");
        let mut shm = CShm::open(name.as_bytes(), 1 << 16, NEW, 0o600).unwrap();
        shm.resize(1 << 17).unwrap();
        drop(CShm::open(name.as_bytes(), 0, libc::O_RDWR, 0).unwrap());
        drop(CShm::anonymous(4096, false).unwrap());
        let options = c_options(&kinds()[0]);
        let mut ring = std::ptr::null_mut();
        // SAFETY: a live segment, a place for the handle.
        done(|| unsafe { mdg_ring_init(&mut ring, shm.0, 4096, &options, libc::O_RDWR) }).unwrap();
        let ring = C(ring);
        ring.push(&[1; 8], NOWAIT).unwrap();
        join(fork(|| ring.pop(&mut [0; 8], NOWAIT).unwrap()));
        drop((ring, shm));
        CShm::unlink(name.as_bytes()).unwrap();
        let dir = Dir::new();
        drop(CShm::map_file(&dir.path("mapped"), 4096, NEW, 0o600).unwrap());
        let undo = UndoOptions { value: 1, ..UndoOptions::default() };
        let sem = <CSem as Undo>::open(&name, &undo, NEW, 0o600).unwrap();
        kill_holder(|| Permits::wait(&sem, NOWAIT).unwrap());
        Permits::wait(&sem, FOREVER).unwrap();
        <CSem as Undo>::unlink(&name).unwrap();
        let posix = <CSem as Permits>::open(name.as_bytes(), 1, NEW, 0o600).unwrap();
        Permits::wait(&posix, NOWAIT).unwrap();
        <CSem as Permits>::unlink(name.as_bytes()).unwrap();
        let mutex = CMutex::open(&name, NEW, 0o600).unwrap();
        let cond = CMutex::open_cond(&name, NEW, 0o600).unwrap();
        assert!(!mutex.lock(NOWAIT).unwrap());
        CMutex::signal(&cond);
        mutex.unlock().unwrap();
        kill_holder(|| assert!(!mutex.lock(NOWAIT).unwrap()));
        assert!(mutex.lock(FOREVER).unwrap(), "told of the death");
        mutex.unlock().unwrap();
        drop((mutex, cond));
        CMutex::unlink(&name).unwrap();
        CMutex::unlink_cond(&name).unwrap();
        // What nobody has any more is found and removed.
        drop(C::open(Some(&name), &kinds()[0], NEW, 0o600).unwrap());
        let left = Objects::reap(None, None).unwrap();
        assert_eq!((left, std::fs::read_dir("/dev/shm").unwrap().count()), (1, 0));
        // Pipes have other ways.
        let (read, write) = Pipes.open(false).unwrap();
        Pipes.send(write.as_raw_fd(), b"message", NOWAIT).unwrap();
        assert_eq!(Pipes.receive(read.as_raw_fd(), &mut [0; 16], NOWAIT).unwrap(), 7);
    });
}

/// Runs `hold` in a child that is killed then.
fn kill_holder(hold: impl FnOnce()) {
    let gate = Gate::new();
    let child = fork(|| {
        hold();
        gate.open();
        sleep(Duration::from_secs(1000));
    });
    gate.pass();
    kill(child);
}

/// A handle that a child has inherited and used while it was still its parent's user works on when it
/// has become another one, also when others die; one that it uses only then says what is missing, unless
/// the other user may open the file.
#[test]
fn a_child_that_becomes_another_user() {
    let _turn = serial();
    if !is_root() {
        return;
    }
    let old = umask(Mode::empty());
    let words = "use it before the user is changed";
    for options in kinds() {
        for (mode, late) in [(Some(0o600), Err(())), (Some(0o666), Ok(())), (None, Ok(()))] {
            let name = Named::new("becomes");
            let named = mode.map(|_| name.0.as_str());
            let ring = C::open(named, &options, NEW, mode.unwrap_or(0)).unwrap();
            ring.push(&[1; 8], NOWAIT).unwrap();
            let mut item = [0; 8];
            join(fork(|| {
                // Attached, with the consuming end.
                let first = ring.pop(&mut item, NOWAIT);
                assert!(first.is_ok() || refused(first) as c_int == libc::EAGAIN);
                become_nobody();
                let next = ring.pop(&mut item, NOWAIT);
                assert_eq!(refused(next) as c_int, libc::EAGAIN);
            }));
            ring.push(&[2; 8], NOWAIT).unwrap();
            join(fork(|| {
                become_nobody();
                let used = ring.pop(&mut item, NOWAIT);
                match late {
                    Ok(()) => assert!(used.is_ok() || refused(used) as c_int == libc::EAGAIN),
                    Err(()) => refused_with(used, libc::EACCES, words),
                }
            }));
            if named.is_some() {
                C::unlink(&name.0).unwrap();
            }
        }
    }
    let name = unique("becomes");
    let undo = UndoOptions { value: 1, ..UndoOptions::default() };
    let sem = <CSem as Undo>::open(&name, &undo, NEW, 0o600).unwrap();
    let posix = <CSem as Permits>::open(name.as_bytes(), 1, NEW, 0o600).unwrap();
    let mutex = CMutex::open(&name, NEW, 0o600).unwrap();
    join(fork(|| {
        Permits::wait(&sem, NOWAIT).unwrap();
        become_nobody();
        Permits::post(&sem).unwrap();
        Permits::wait(&posix, NOWAIT).unwrap();
        Permits::post(&posix).unwrap();
        assert!(!mutex.lock(NOWAIT).unwrap());
        mutex.unlock().unwrap();
    }));
    join(fork(|| {
        become_nobody();
        refused_with(Permits::wait(&sem, NOWAIT), libc::EACCES, words);
    }));
    drop((sem, posix, mutex));
    <CSem as Undo>::unlink(&name).unwrap();
    CMutex::unlink(&name).unwrap();
    umask(old);
}

/// A process that has given up its user, with a handle in use, gets what a producer has left and is
/// told of its death.
#[test]
fn a_death_after_the_user_has_changed() {
    let _turn = serial();
    if !is_root() {
        return;
    }
    for options in kinds() {
        let name = Named::new("becomes");
        drop(C::open(Some(&name.0), &options, NEW, 0o600).unwrap());
        let (changed, dead) = (Gate::new(), Gate::new());
        let consumer = fork(|| {
            let ring = C::open(Some(&name.0), &options, libc::O_RDWR, 0).unwrap();
            let mut item = [0; 8];
            assert_eq!(refused(ring.pop(&mut item, NOWAIT)) as c_int, libc::EAGAIN);
            become_nobody();
            changed.open();
            dead.pass();
            ring.pop(&mut item, FOREVER).unwrap();
            assert_eq!(item, [7; 8]);
            assert_eq!(refused(ring.pop(&mut item, FOREVER)) as c_int, libc::EOWNERDEAD);
        });
        changed.pass();
        kill_holder(|| {
            let ring = C::open(Some(&name.0), &options, libc::O_WRONLY, 0).unwrap();
            ring.push(&[7; 8], NOWAIT).unwrap();
            std::mem::forget(ring);
        });
        dead.open();
        join(consumer);
        C::unlink(&name.0).unwrap();
    }
}

fn become_nobody() {
    nix::unistd::setgroups(&[]).unwrap();
    nix::unistd::setgid(65534.into()).unwrap();
    nix::unistd::setuid(65534.into()).unwrap();
}
