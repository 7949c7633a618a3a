//! Every call that waits, on something that never comes.

use std::ffi::c_int;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use madang::Timeout;
use madang::ring::{Kind, Options, policy};
use madang::sem::UndoOptions;

use super::face::{NOWAIT, Outcome};
use super::mutex_face::{CMutex, Locks};
use super::pipe_face::{C as Pipes, Face as _};
use super::process::Gate;
use super::ring_face::{C, Entry, Face};
use super::sem_face::{CSem, Permits};
use super::undo_face::Undo;
use super::{Dir, unique};

const NEW: c_int = libc::O_RDWR | libc::O_CREAT;

pub fn rings() -> [Options; 5] {
    let of = |kind, policy| Options { kind: Some(kind), policy, ..Options::new(4, 8) };
    [
        of(Kind::Spsc, 0),
        of(Kind::Mpmc, 0),
        of(Kind::Mpmc, policy::STOPPROOF),
        of(Kind::Broadcast, 0),
        of(Kind::Broadcast, policy::EVICT),
    ]
}

pub fn undo(value: u32) -> CSem {
    let (name, options) = (unique("storm"), UndoOptions { value, ..UndoOptions::default() });
    let sem = <CSem as Undo>::open(&name, &options, NEW, 0o600).unwrap();
    <CSem as Undo>::unlink(&name).unwrap();
    sem
}

pub fn posix(value: u32) -> CSem {
    let name = unique("storm");
    let sem = <CSem as Permits>::open(name.as_bytes(), value, NEW, 0o600).unwrap();
    <CSem as Permits>::unlink(name.as_bytes()).unwrap();
    sem
}

pub fn mutex() -> CMutex {
    let name = unique("storm");
    let mutex = CMutex::open(&name, NEW, 0o600).unwrap();
    CMutex::unlink(&name).unwrap();
    mutex
}

pub fn cond() -> <CMutex as Locks>::Cond {
    let name = unique("storm");
    let cond = CMutex::open_cond(&name, NEW, 0o600).unwrap();
    CMutex::unlink_cond(&name).unwrap();
    cond
}

/// A call that waits, with a timeout in nanoseconds.
pub type Waiting<'a> = dyn FnMut(i64) -> Outcome<()> + 'a;

/// Shows `ends` each call that waits, on something that never comes; `held` is another thread's.
pub fn each_wait(held: &CMutex, ends: &dyn Fn(&str, &mut Waiting<'_>)) {
    for options in rings() {
        let (mut item, items) = ([0; 8], [0; 64]);
        let ring = C::open(None, &options, libc::O_RDWR, 0).unwrap();
        ends("pop", &mut |t| ring.pop(&mut item, t));
        ends("pop_many", &mut |t| ring.pop_many(&mut [0; 16], 8, t).map(drop));
        ends("peek", &mut |t| ring.peek(1, t).map(drop));
        ends("wait_any", &mut |t| C::wait_any(&mut [Entry::ring(&ring, 1)], t).map(drop));
        // Full, for those that a full one holds up.
        if options.policy & policy::EVICT == 0 {
            while ring.push(&item, NOWAIT).is_ok() {}
            ends("push", &mut |t| ring.push(&item, t));
            ends("push_many", &mut |t| ring.push_many(&items, 8, t).map(drop));
            ends("reserve", &mut |t| ring.reserve(1, t).map(drop));
        }
    }
    let (posix, undo, cond, mine) = (posix(0), undo(0), cond(), mutex());
    ends("sem", &mut |t| Permits::wait(&posix, t));
    ends("undo", &mut |t| Permits::wait(&undo, t));
    ends("lock", &mut |t| held.lock(t).map(drop));
    assert!(!mine.lock(NOWAIT).unwrap());
    ends("cond", &mut |t| mine.wait(&cond, t).map(drop));
    mine.unlock().unwrap();
    let (read, write) = Pipes.open(false).unwrap();
    ends("read", &mut |t| Pipes.read(read.as_raw_fd(), &mut [0; 8], t).map(drop));
    ends("receive", &mut |t| Pipes.receive(read.as_raw_fd(), &mut [0; 8], t).map(drop));
    let path = format!("/proc/self/fd/{}", write.as_raw_fd());
    let holder = File::options().write(true).open(path).unwrap();
    // SAFETY: a descriptor of ours.
    assert_eq!(unsafe { libc::flock(holder.as_raw_fd(), libc::LOCK_EX) }, 0);
    ends("send, another's turn", &mut |t| Pipes.send(write.as_raw_fd(), &[0; 5000], t));
    drop(holder);
    while Pipes.write(write.as_raw_fd(), &[0; 4096], NOWAIT).is_ok() {}
    ends("write", &mut |t| Pipes.write(write.as_raw_fd(), &[0; 4096], t).map(drop));
    ends("send", &mut |t| Pipes.send(write.as_raw_fd(), &[0; 4000], t));
    let dir = Dir::new();
    let fifo = dir.path("fifo");
    Pipes.create(&fifo, 0o600).unwrap();
    ends("fifo_open", &mut |t| Pipes.fifo(&fifo, libc::O_RDONLY, t).map(drop));
    ends("fifo_open, writing", &mut |t| Pipes.fifo(&fifo, libc::O_WRONLY, t).map(drop));
    let (here, _there) = UnixStream::pair().unwrap();
    ends("fd_receive", &mut |t| {
        Ok(madang::fd::receive(here.as_fd(), Timeout::from_nanos(t)).map(drop)?)
    });
}

/// A mutex that another thread holds as long as `body` runs.
pub fn beside_a_holder(body: impl FnOnce(&CMutex)) {
    let held = mutex();
    let (begun, over) = (Gate::new(), Gate::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert!(!held.lock(NOWAIT).unwrap());
            begun.open();
            over.pass();
            held.unlock().unwrap();
        });
        begun.pass();
        // Passed on once the other thread is let go, or the scope would never end.
        let result = catch_unwind(AssertUnwindSafe(|| body(&held)));
        over.open();
        result.unwrap_or_else(|panic| resume_unwind(panic));
    });
}
