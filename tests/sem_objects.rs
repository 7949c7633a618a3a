//! Semaphores: what stands under a name or in memory, and may be no semaphore at all.

mod support;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use libc::{O_CREAT, O_EXCL};
use madang::ffi::sem::MDG_SEM_VALUE_MAX;
use madang::sem::Semaphore;
use madang::shm::Shm;
use nix::errno::Errno;
use nix::sys::resource::Resource;
use support::face::{FOREVER, Failure, NOWAIT, refused};
use support::process::{Gate, as_nobody, fork, is_root, join};
use support::sem_face::{CSem, Permits};
use support::{confine, unique};

const NEW: i32 = O_CREAT | O_EXCL;
const SIZE: usize = size_of::<libc::sem_t>();

on_both_faces! { Semaphore, CSem:
    not_a_semaphore
    other_kinds_under_the_name
    another_user
    unnamed_in_a_segment
    attach_refuses
    full_file_system
    makers_race
}

fn file_of(name: &str) -> PathBuf {
    PathBuf::from(format!("/dev/shm/sem.{}", &name[1..]))
}

/// What `sem_init` makes of memory full of `background`.
fn sem_t(shared: i32, value: u32, background: u8) -> [u8; SIZE] {
    let mut bytes = std::mem::MaybeUninit::<libc::sem_t>::uninit();
    // SAFETY: writable for a sem_t, every byte initialised, aligned.
    unsafe {
        bytes.as_mut_ptr().write_bytes(background, 1);
        assert_eq!(libc::sem_init(bytes.as_mut_ptr(), shared, value), 0);
        std::mem::transmute(bytes.assume_init())
    }
}

fn impostors() -> Vec<Vec<u8>> {
    let good = sem_t(1, 5, 0).to_vec();
    let private = sem_t(0, 5, 0).to_vec();
    let too_great = [&0x8000_0000_u32.to_ne_bytes()[..], &good[4..]].concat();
    let garbage: Vec<u8> = (0..SIZE as u8).map(|i| i ^ 0x5a).collect();
    vec![private, too_great, garbage, vec![0xff; SIZE]]
}

fn not_a_semaphore<S: Permits>() {
    let name = unique("impostor");
    let good = sem_t(1, 5, 0).to_vec();
    let lengths = [0, 1, SIZE / 2, SIZE - 1, SIZE + 1, 4096, 100_000];
    let wrong = lengths.iter().map(|&length| {
        let mut bytes = good.clone();
        bytes.resize(length, 0);
        bytes
    });
    for bytes in wrong.chain(impostors()) {
        std::fs::write(file_of(&name), &bytes).unwrap();
        for oflag in [0, O_CREAT] {
            let Failure { code, text } = S::open(name.as_bytes(), 0, oflag, 0o600).err().unwrap();
            assert_eq!(code, libc::EPROTO, "{bytes:?}");
            assert!(text.contains(&name), "{text}");
        }
        assert_eq!(std::fs::read(file_of(&name)).unwrap(), bytes, "left alone");
    }
    std::fs::write(file_of(&name), &good).unwrap();
    assert_eq!(S::open(name.as_bytes(), 0, 0, 0).unwrap().value(), 5);
    S::unlink(name.as_bytes()).unwrap();
}

fn other_kinds_under_the_name<S: Permits>() {
    let name = unique("kinds");
    let path = file_of(&name);
    let open = |oflag| refused(S::open(name.as_bytes(), 0, oflag, 0o600));
    symlink("target", &path).unwrap();
    assert_eq!((open(0), open(O_CREAT), open(NEW)), (Errno::ELOOP, Errno::ELOOP, Errno::EEXIST));
    S::unlink(name.as_bytes()).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!((open(0), open(O_CREAT), open(NEW)), (Errno::EPROTO, Errno::EPROTO, Errno::EEXIST));
    S::unlink(name.as_bytes()).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert_eq!((open(0), open(O_CREAT), open(NEW)), (Errno::EPROTO, Errno::EPROTO, Errno::EEXIST));
    assert_eq!(refused(S::unlink(name.as_bytes())), Errno::EPROTO);
    std::fs::remove_dir(&path).unwrap();
}

fn another_user<S: Permits>() {
    if !is_root() {
        return;
    }
    let (name, readable) = (unique("other"), unique("readable"));
    drop(S::open(name.as_bytes(), 0, NEW, 0o600).unwrap());
    drop(S::open(readable.as_bytes(), 0, NEW, 0o644).unwrap());
    let sticky = std::fs::metadata("/dev/shm").unwrap().permissions().mode() & 0o1000 != 0;
    as_nobody(|| {
        for name in [&name, &readable] {
            for oflag in [0, O_CREAT] {
                let result = S::open(name.as_bytes(), 0, oflag, 0o600);
                assert_eq!(refused(result), Errno::EACCES, "reading is not enough");
            }
            if sticky {
                assert_eq!(refused(S::unlink(name.as_bytes())), Errno::EACCES);
            }
        }
    });
    S::unlink(name.as_bytes()).unwrap();
    S::unlink(readable.as_bytes()).unwrap();
}

fn unnamed_in_a_segment<S: Permits>() {
    let shm = Shm::anonymous(4096, false).unwrap();
    let memory = shm.as_ptr().as_ptr();
    // Memory that held something else before, ours and the C library's.
    // SAFETY: inside the segment, which outlives every handle; aligned for sem_t.
    let (ours, theirs) = unsafe {
        memory.write_bytes(0xaa, 4096);
        assert_eq!(libc::sem_init(memory.add(64).cast(), 1, 3), 0);
        (S::init(memory, 1).unwrap(), S::attach(memory.add(64)).unwrap())
    };
    assert_eq!((ours.value(), theirs.value()), (1, 3));
    let (go, child) = (Gate::new(), |go: &Gate| {
        go.pass();
        // SAFETY: as above, in the child's own copy of the mapping.
        let (ours, theirs) =
            unsafe { (S::attach(memory).unwrap(), S::attach(memory.add(64)).unwrap()) };
        ours.wait(FOREVER).unwrap();
        ours.wait(FOREVER).unwrap();
        (0..1000).for_each(|_| theirs.post().unwrap());
    });
    let child = fork(|| child(&go));
    go.open();
    ours.post().unwrap();
    (0..1003).for_each(|_| theirs.wait(10_000_000_000).unwrap());
    join(child);
    assert_eq!((ours.value(), theirs.value()), (0, 0));
    drop(ours);
    // Closing the handle leaves the semaphore itself.
    // SAFETY: as above.
    assert_eq!(unsafe { S::attach(memory) }.unwrap().value(), 0);
}

fn attach_refuses<S: Permits>() {
    let mut memory = Box::new([0_u64; 16]);
    let bytes = memory.as_mut_ptr().cast::<u8>();
    for odd in [1, 2, 4] {
        // SAFETY: 128 bytes that outlive the handles; misaligned, which is refused first.
        unsafe {
            assert_eq!(refused(S::init(bytes.add(odd), 0)), Errno::EINVAL);
            assert_eq!(refused(S::attach(bytes.add(odd))), Errno::EINVAL);
        }
    }
    // SAFETY: as above, and aligned.
    unsafe {
        assert_eq!(refused(S::init(bytes, MDG_SEM_VALUE_MAX + 1)), Errno::EINVAL);
        for impostor in impostors() {
            bytes.copy_from(impostor.as_ptr(), SIZE);
            assert_eq!(refused(S::attach(bytes)), Errno::EPROTO, "{impostor:?}");
        }
        if cfg!(target_env = "gnu") {
            bytes.write_bytes(0, SIZE);
            assert_eq!(refused(S::attach(bytes)), Errno::EPROTO, "zeros are private to a process");
        }
        bytes.copy_from(sem_t(1, 2, 0x77).as_ptr(), SIZE);
        assert_eq!(S::attach(bytes).unwrap().value(), 2);
    }
}

fn full_file_system<S: Permits>() {
    confine::with_own_shm(c"nr_inodes=1", || {
        assert_eq!(refused(S::open(b"/full", 0, NEW, 0o600)), Errno::ENOSPC);
    });
    confine::with_own_shm(c"size=4k", || {
        drop(S::open(b"/fits", 0, NEW, 0o600).unwrap());
        assert_eq!(refused(S::open(b"/full", 0, NEW, 0o600)), Errno::ENOSPC);
        assert_eq!(std::fs::read_dir("/dev/shm").unwrap().count(), 1);
    });
    join(fork(|| {
        confine::limit(Resource::RLIMIT_NOFILE, 3);
        assert_eq!(refused(S::open(b"/none", 0, NEW, 0o600)), Errno::EMFILE);
    }));
}

fn makers_race<S: Permits>() {
    let name = unique("race");
    let barrier = std::sync::Barrier::new(4);
    let wins = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..1000 {
                    barrier.wait();
                    // Whoever makes it: it has its value at once, and four permits are enough.
                    S::open(name.as_bytes(), 4, O_CREAT, 0o600).unwrap().wait(NOWAIT).unwrap();
                    barrier.wait();
                    if S::unlink(name.as_bytes()).is_ok() {
                        assert_eq!(wins.fetch_add(1, Ordering::Relaxed), round);
                    }
                }
            });
        }
    });
}
