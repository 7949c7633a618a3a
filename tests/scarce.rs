//! What a handle costs, whatever the number of the others; and what a system says that is out of memory, read-only, or busy running the file: the same codes
//! through every mechanism, and nothing half-made.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use madang::ring::{Kind, Options, Ring};
use madang::sem::Semaphore;
use madang::shm::Shm;
use madang::{Access, Creation, OpenFlags, Timeout};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use support::inject::{Call, arm, disarm, watched};
use support::process::{fork, join, serial, skip};
use support::{compile_c, root, scratch, unique};

/// Bytes of address space that this process uses.
fn address_space() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').next().unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn no_address_space_left() {
    let _turn = serial();
    join(fork(|| {
        let (ring, shm, sem) = (unique("mem-ring"), unique("mem-shm"), unique("mem-sem"));
        let flags = OpenFlags::new(Access::ReadWrite, Creation::CreateNew);
        setrlimit(Resource::RLIMIT_AS, address_space() + (8 << 20), 1 << 40).unwrap();
        // Less than a /dev/shm of 64 MB holds, which is what containers have.
        let large = Options::new(1 << 18, 64);
        let refused = [
            Ring::open(ring.as_bytes(), &large, flags, 0o600).map(drop).unwrap_err(),
            Ring::anonymous(&large, Access::ReadWrite).map(drop).unwrap_err(),
            Shm::open(shm.as_bytes(), 16 << 20, flags, 0o600).map(drop).unwrap_err(),
        ];
        // Not a page more: not even a semaphore can be mapped, nor a handle be had.
        setrlimit(Resource::RLIMIT_AS, 4096, 1 << 40).unwrap();
        let small = [
            Semaphore::open(sem.as_bytes(), 1, Creation::CreateNew, 0o600).map(drop).unwrap_err(),
            Ring::anonymous(&Options::new(8, 8), Access::ReadWrite).map(drop).unwrap_err(),
        ];
        setrlimit(Resource::RLIMIT_AS, 1 << 40, 1 << 40).unwrap();
        for error in refused.iter().chain(&small) {
            assert_eq!(error.errno(), libc::ENOMEM, "{error}");
        }
        for name in
            [format!("mdg.ring.{}", &ring[1..]), shm[1..].into(), format!("sem.{}", &sem[1..])]
        {
            assert!(!Path::new("/dev/shm").join(&name).exists(), "{name} was left");
        }
        // With room again, all of them work.
        Ring::anonymous(&large, Access::ReadWrite).unwrap();
    }));
}

/// How many of the system calls `numbers` this makes, and how many lock operations on files; `None` if
/// they cannot be watched here.
fn count<T: Send>(
    numbers: &[libc::c_long],
    body: impl FnOnce() -> T + Send,
) -> Option<(T, usize, usize)> {
    let (mut calls, mut locks) = (0, 0);
    let count = |call: &Call| {
        calls += 1;
        let commands = [libc::F_OFD_SETLK, libc::F_OFD_GETLK];
        locks += usize::from(
            call.number == libc::SYS_fcntl && commands.contains(&(call.args[1] as libc::c_int)),
        );
        None
    };
    let watch = || {
        arm();
        let done = body();
        disarm();
        done
    };
    let done = watched(numbers, count, watch)?;
    Some((done, calls, locks))
}

fn lines(path: &str) -> usize {
    fs::read_to_string(path).unwrap().lines().count()
}

/// Whatever the number of handles that stay idle: pushing and popping make no system call, another
/// handle is attached by a few questions to the kernel, and a ring costs one descriptor and three mappings.
#[test]
fn beside_two_thousand_idle_handles() {
    let _turn = serial();
    // As many numbers as a filter can tell apart.
    let all: Vec<_> = (0..253).chain([libc::SYS_newfstatat, libc::SYS_membarrier]).collect();
    join(fork(|| {
        for kind in [Kind::Spsc, Kind::Mpmc, Kind::Broadcast] {
            let options = Options { kind: Some(kind), max_handles: 4096, ..Options::new(8, 8) };
            let maps = || lines("/proc/self/maps");
            let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
            let before = (maps(), descriptors());
            let ring = Ring::anonymous(&options, Access::ReadWrite).unwrap();
            let mut item = [0; 8];
            let _ = ring.pop(&mut item, Timeout::NoWait);
            ring.push(&[7; 8], Timeout::NoWait).unwrap();
            ring.pop(&mut item, Timeout::NoWait).unwrap();
            // Those that hold an end that one alone may have have a mapping more, for that.
            let ends = [2, 0, 1][kind as usize - 1];
            // The kernel makes one of neighbours that are alike.
            assert!((2..=3 + ends).contains(&(maps() - before.0)), "{kind:?}");
            assert_eq!(descriptors(), before.1 + 1, "{kind:?}");
            let idle: Vec<_> =
                (0..2048).map(|_| ring.duplicate(Access::ReadWrite).unwrap()).collect();
            assert_eq!(descriptors(), before.1 + 1);
            let moved = count(&all, || {
                for _ in 0..1000 {
                    ring.push(&[7; 8], Timeout::NoWait).unwrap();
                    ring.pop(&mut item, Timeout::NoWait).unwrap();
                }
                ring
            });
            let Some((ring, calls, _)) = moved else {
                return skip("system calls cannot be watched here");
            };
            let attached = count(&[libc::SYS_fcntl], move || {
                for _ in 0..100 {
                    drop(ring.duplicate(Access::ReadWrite).unwrap());
                }
            });
            let (_, _, locks) = attached.unwrap();
            assert_eq!(calls, 0, "{kind:?}");
            // One lock is taken, and two of the idle are asked about.
            assert_eq!(locks, 100 * 3, "{kind:?}");
            drop(idle);
        }
    }));
}

/// The dead do not fill a ring: whoever comes asks about some, and takes their place.
#[test]
fn the_dead_do_not_outnumber_the_living() {
    let _turn = serial();
    let name = unique("dead");
    let options = Options { kind: Some(Kind::Mpmc), max_handles: 4096, ..Options::new(8, 8) };
    let flags = OpenFlags::new(Access::ReadWrite, Creation::CreateNew);
    let ring = Ring::open(name.as_bytes(), &options, flags, 0o600).unwrap();
    for _ in 0..100 {
        // It leaves without closing anything.
        join(fork(|| {
            ring.push(&[7; 8], Timeout::NoWait).unwrap();
            ring.pop(&mut [0; 8], Timeout::NoWait).unwrap();
        }));
    }
    let all = madang::inventory::list().unwrap();
    let info = all.iter().find(|info| info.name == name.as_bytes()).unwrap();
    assert_eq!((info.handles_live, info.handles_dead), (1, 1), "the last one alone");
    Ring::unlink(name.as_bytes()).unwrap();
}

#[test]
fn a_program_that_is_being_run() {
    let flags = OpenFlags::new(Access::ReadWrite, Creation::OpenOnly);
    let error = Shm::map_file(c"/proc/self/exe", 0, flags, 0).unwrap_err();
    assert_eq!(error.errno(), libc::ETXTBSY, "{error}");
}

#[test]
fn a_read_only_file_system() {
    let _turn = serial();
    join(fork(|| {
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        let ready = unshare(CloneFlags::CLONE_NEWNS)
            .and_then(|()| mount(None::<&str>, "/", None::<&str>, private, None::<&str>))
            .and_then(|()| {
                let flags = MsFlags::MS_RDONLY;
                mount(Some("tmpfs"), "/dev/shm", Some("tmpfs"), flags, None::<&str>)
            });
        if let Err(errno) = ready {
            return skip(&format!("no mount namespace here ({errno})"));
        }
        let flags = OpenFlags::new(Access::ReadWrite, Creation::CreateOrOpen);
        let file = Shm::map_file(c"/dev/shm/file", 100, flags, 0o600).map(drop);
        let fifo = madang::pipe::fifo_create(Path::new("/dev/shm/fifo"), 0o600);
        let refused = [
            Shm::open(b"x", 100, flags, 0o600).map(drop),
            Ring::open(b"x", &Options::new(8, 8), flags, 0o600).map(drop),
            Semaphore::open(b"x", 1, Creation::CreateOrOpen, 0o600).map(drop),
            file,
            fifo,
        ];
        for error in refused.map(Result::unwrap_err) {
            assert_eq!(error.errno(), libc::EROFS, "{error}");
        }
    }));
}

/// tests/c/no_memory.c makes each call of the headers while allocations fail; here it is shown to have
/// all of them, and run.
#[test]
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn every_call_survives_without_memory() {
    let source = root().join("tests/c/no_memory.c");
    let text = fs::read_to_string(&source).unwrap();
    // Whatever a trial makes, by name: TRY, IN_CHILD, or the loop that they are made of.
    let trials: String = text.split("static void base(void)").nth(1).unwrap().to_owned();
    let mut declared = 0;
    for header in fs::read_dir(root().join("include/madang")).unwrap() {
        let header = fs::read_to_string(header.unwrap().path()).unwrap();
        for line in header.lines().filter(|line| !line.trim_start().starts_with('*')) {
            let Some((before, _)) = line.split_once('(') else { continue };
            let name = before.rsplit([' ', '*']).next().unwrap();
            if name.starts_with("mdg_") {
                declared += 1;
                assert!(trials.contains(&format!("{name}(")), "{name} is not in no_memory.c");
            }
        }
    }
    assert!(declared > 80, "{declared} functions");
    let dir = scratch("no_memory");
    let program = dir.join("no_memory");
    compile_c(&source, &program, &[]);
    let output = Command::new(&program).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {text}", output.status);
    println!("{}", String::from_utf8_lossy(&output.stdout));
    fs::remove_dir_all(dir).unwrap();
}
