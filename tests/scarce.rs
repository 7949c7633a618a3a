//! What a system says that is out of memory, read-only, or busy running the file: the same codes
//! through every mechanism, and nothing half-made.

mod support;

use std::fs;
use std::path::Path;

use madang::ring::{Options, Ring};
use madang::sem::Semaphore;
use madang::shm::Shm;
use madang::{Access, Creation, OpenFlags};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use support::process::{fork, join, serial, skip};
use support::unique;

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
        let large = Options::new(1 << 20, 64);
        let refused = [
            Ring::open(ring.as_bytes(), &large, flags, 0o600).map(drop).unwrap_err(),
            Ring::anonymous(&large, Access::ReadWrite).map(drop).unwrap_err(),
            Shm::open(shm.as_bytes(), 64 << 20, flags, 0o600).map(drop).unwrap_err(),
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
