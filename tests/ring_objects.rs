//! What may stand under a ring's name, who may open it, and what a scarce or strict system does.

mod support;

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};

use madang::ffi::ring::*;
use madang::ring::{Options, Ring};
use nix::errno::Errno;
use nix::sys::resource::Resource;
use support::confine::{deny, deny_bits, limit, with_own_shm};
use support::face::{FOREVER, NOWAIT, Outcome, refused_with};
use support::process::{as_nobody, fork, is_root, join, serial};
use support::ring_face::{C, CREATE, Face, Named};

fn open_existing(name: &Named) -> Outcome<C> {
    C::open(Some(&name.0), &Options::default(), libc::O_RDWR, 0)
}

/// A ring's file, whole, as bytes.
fn image(name: &Named) -> Vec<u8> {
    C::open(Some(&name.0), &Options::new(64, 8), CREATE, 0o600).unwrap();
    let bytes = fs::read(name.path()).unwrap();
    C::unlink(&name.0).unwrap();
    bytes
}

#[test]
fn garbage_is_refused_and_left_alone() {
    let name = Named::new("garbage");
    let good = image(&name);
    let mut cases = vec![
        (Vec::new(), "too few"),
        (vec![0; 100], "too few"),
        (vec![0; 16384], "magic"),
        (vec![0xff; 16384], "magic"),
        (b"HelloWorld!".repeat(2000), "magic"),
        (good[..good.len() - 1].to_vec(), "file size"),
        (good[..4096].to_vec(), "file size"),
        ([good.clone(), vec![0]].concat(), "file size"),
    ];
    for (at, field) in
        [(8, "layout version"), (0x10, "byte order"), (0x14, "checksum"), (0x3c, "checksum")]
    {
        let mut bytes = good.clone();
        bytes[at] ^= 0x40;
        cases.push((bytes, field));
    }
    for (bytes, words) in cases {
        fs::write(name.path(), &bytes).unwrap();
        refused_with(open_existing(&name), libc::EPROTO, words);
        refused_with(
            C::open(Some(&name.0), &Options::new(64, 8), CREATE, 0o600),
            libc::EPROTO,
            words,
        );
        assert_eq!(fs::read(name.path()).unwrap(), bytes, "untouched");
        C::unlink(&name.0).unwrap();
    }
    fs::write(name.path(), &good).unwrap();
    open_existing(&name).unwrap();
}

#[test]
fn other_things_under_the_name_are_refused() {
    let name = Named::new("things");
    let path = name.path();
    fs::create_dir(&path).unwrap();
    refused_with(open_existing(&name), libc::EPROTO, "not a regular file");
    refused_with(C::unlink(&name.0), libc::EPROTO, "not a regular file");
    fs::remove_dir(&path).unwrap();

    nix::unistd::mkfifo(path.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    refused_with(open_existing(&name), libc::EPROTO, "not a regular file");
    fs::remove_file(&path).unwrap();

    let target = Named::new("target");
    fs::write(target.path(), image(&name)).unwrap();
    symlink(target.path(), &path).unwrap();
    refused_with(open_existing(&name), libc::ELOOP, &name.0);
    refused_with(C::unlink(&name.0), libc::ELOOP, &name.0);
    fs::remove_file(&path).unwrap();
    // A link to nothing is neither followed nor replaced.
    symlink("/dev/shm/mdg-test-nowhere", &path).unwrap();
    for oflag in [CREATE, CREATE | libc::O_EXCL] {
        let errno = if oflag & libc::O_EXCL != 0 { libc::EEXIST } else { libc::ELOOP };
        refused_with(C::open(Some(&name.0), &Options::new(8, 8), oflag, 0o600), errno, &name.0);
    }
    assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
    fs::remove_file(&path).unwrap();
}

/// A peer that stores impossible indices gets -EBADMSG out of us, at open and at work, and the ring
/// says so from then on.
#[test]
fn impossible_indices() {
    const TAIL: u64 = 4096;
    const HEAD: u64 = 4096 + 128;
    for (field, starts) in [(TAIL, true), (HEAD, true), (TAIL, false), (HEAD, false)] {
        let name = Named::new("indices");
        let ring = C::open(Some(&name.0), &Options::new(8, 8), CREATE, 0o600).unwrap();
        if !starts {
            ring.push(&[0; 8], NOWAIT).unwrap();
            ring.pop(&mut [0; 8], NOWAIT).unwrap();
        }
        let file = fs::OpenOptions::new().write(true).open(name.path()).unwrap();
        file.write_all_at(&100_u64.to_le_bytes(), field).unwrap();
        let victim_pops = field == TAIL;
        for _ in 0..3 {
            let mut result = Ok(());
            // A producer goes on for as long as it knows of room: eight items at most.
            for _ in 0..9 {
                result = if victim_pops {
                    ring.pop(&mut [0; 8], NOWAIT)
                } else {
                    ring.push(&[0; 8], NOWAIT)
                };
                if result.is_err() {
                    break;
                }
            }
            refused_with(result, libc::EBADMSG, "");
        }
        assert_eq!(ring.stat().flags & MDG_RING_CORRUPT, MDG_RING_CORRUPT);
        refused_with(ring.push(&[0; 8], FOREVER), libc::EBADMSG, "");
    }
}

/// A scribbler fills the control page with random numbers while both ends are at work. Whatever
/// they answer, every call returns.
#[test]
fn scribbled_control_page() {
    let _turn = serial();
    let child = fork(|| {
        for seed in 0..50_u64 {
            let name = Named::new("scribble");
            let ring = C::open(Some(&name.0), &Options::new(8, 8), CREATE, 0o600).unwrap();
            let file = fs::OpenOptions::new().write(true).open(name.path()).unwrap();
            let mut state = seed * 2 + 1;
            for _ in 0..200 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                file.write_all_at(&state.to_le_bytes(), 4096 + state % 130 * 8).unwrap();
                let mut item = [0; 64];
                let _ = ring.push(&item[..8], 1000);
                let _ = ring.pop(&mut item[..8], 1000);
                let _ = ring.push_many(&item, 8, NOWAIT);
                let _ = ring.pop_many(&mut item, 8, NOWAIT);
                if let Ok((_, run)) = ring.reserve(5, NOWAIT) {
                    let _ = ring.commit(run.div_ceil(2));
                }
                if let Ok((_, run)) = ring.peek(5, NOWAIT) {
                    ring.release(run.div_ceil(2)).unwrap();
                }
                assert!(ring.stat().length <= 8);
                let _ = ring.dup(libc::O_RDWR).map(|other| other.push(&item[..8], NOWAIT));
            }
            C::unlink(&name.0).unwrap();
        }
    });
    join(child);
}

#[test]
fn permissions() {
    let _turn = serial();
    if !is_root() {
        return;
    }
    let name = Named::new("permissions");
    let ring = C::open(Some(&name.0), &Options::new(8, 8), CREATE, 0o644).unwrap();
    // Consuming moves the head: reading permission is not enough.
    as_nobody(|| {
        let open = |oflag| C::open(Some(&name.0), &Options::default(), oflag, 0);
        refused_with(open(libc::O_RDONLY), libc::EACCES, &name.0);
        refused_with(C::unlink(&name.0), libc::EACCES, &name.0);
    });
    fs::set_permissions(name.path(), fs::Permissions::from_mode(0o666)).unwrap();
    as_nobody(|| {
        let open = |oflag| C::open(Some(&name.0), &Options::default(), oflag, 0);
        open(libc::O_WRONLY).unwrap().push(&[7; 8], NOWAIT).unwrap();
        refused_with(C::unlink(&name.0), libc::EACCES, &name.0);
    });
    let mut item = [0; 8];
    ring.pop(&mut item, FOREVER).unwrap();
    assert_eq!(item, [7; 8]);
    // Another user's ring, made without /proc's help to root.
    let theirs = Named::new("theirs");
    as_nobody(|| {
        drop(C::open(Some(&theirs.0), &Options::new(8, 8), CREATE, 0o600).unwrap());
    });
    assert_eq!(fs::metadata(theirs.path()).unwrap().uid(), 65534);
    // One that its own maker may not open again is made, and works for the maker, all the same.
    let closed = Named::new("closed");
    as_nobody(|| {
        let make = |oflag| C::open(Some(&closed.0), &Options::new(8, 8), oflag, 0);
        let ring = make(libc::O_WRONLY | libc::O_CREAT).unwrap();
        ring.push(&[7; 8], NOWAIT).unwrap();
        refused_with(make(libc::O_RDONLY), libc::EACCES, &closed.0);
    });
    assert_eq!(fs::metadata(closed.path()).unwrap().mode() & 0o777, 0);
}

#[test]
fn the_umask_trims_the_mode() {
    let _turn = serial();
    join(fork(|| {
        for (umask, mode, expected) in [(0o022, 0o666, 0o644), (0o777, 0o666, 0), (0, 0o620, 0o620)]
        {
            let name = Named::new("umask");
            nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(umask));
            drop(C::open(Some(&name.0), &Options::new(8, 8), CREATE, mode).unwrap());
            assert_eq!(fs::metadata(name.path()).unwrap().mode() & 0o7777, expected);
            C::unlink(&name.0).unwrap();
        }
    }));
}

/// A small /dev/shm of one's own, in a mount namespace: what does not fit is -ENOSPC at once, leaves
/// nothing, and nothing faults later.
#[test]
fn a_full_dev_shm() {
    let _turn = serial();
    with_own_shm(c"size=256k", || {
        let make =
            |name: &str, capacity| C::open(Some(name), &Options::new(capacity, 64), CREATE, 0o600);
        refused_with(make("big", 1 << 20), libc::ENOSPC, "do not fit");
        // Fits the limit of one piece, but not what is left.
        refused_with(make("half", 1 << 13), libc::ENOSPC, "do not fit");
        assert_eq!(fs::read_dir("/dev/shm").unwrap().count(), 0);
        let ring = make("fits", 1024).unwrap();
        let mut made = Vec::new();
        let error = loop {
            match make(&format!("more{}", made.len()), 64) {
                Ok(ring) => made.push(ring),
                Err(error) => break error,
            }
        };
        assert_eq!(error.code, libc::ENOSPC);
        assert!(!made.is_empty());
        // Every page was reserved: writing all of it needs no more.
        for _ in 0..1024 {
            ring.push(&[1; 64], NOWAIT).unwrap();
        }
    });
}

#[test]
fn no_descriptors_left() {
    let _turn = serial();
    let child = fork(|| {
        let name = Named::new("descriptors");
        drop(C::open(Some(&name.0), &Options::new(8, 8), CREATE, 0o600).unwrap());
        let other = Named::new("descriptors2");
        let open_now = || fs::read_dir("/proc/self/fd").unwrap().count() as u64;
        let before = open_now();
        let probe = fs::File::open("/dev/null").unwrap();
        let highest = std::os::fd::AsRawFd::as_raw_fd(&probe) as u64;
        drop(probe);
        // With no, one, two, ... descriptors to spare, opening works or fails whole.
        let mut worked = false;
        for spare in 0..6 {
            limit(Resource::RLIMIT_NOFILE, highest + spare);
            for (name, oflag) in [(&name, libc::O_WRONLY), (&other, CREATE)] {
                match C::open(Some(&name.0), &Options::new(8, 8), oflag, 0o600) {
                    Ok(ring) => {
                        ring.push(&[0; 8], NOWAIT)
                            .map_or_else(|e| assert_eq!(e.code, libc::EMFILE), |()| {});
                        worked = true;
                    }
                    Err(error) => assert_eq!(error.code, libc::EMFILE, "{}", error.text),
                }
            }
            limit(Resource::RLIMIT_NOFILE, 1 << 10);
            assert_eq!(open_now(), before, "{spare} to spare");
            if !worked {
                assert!(!std::path::Path::new(&other.path()).exists(), "nothing half-made");
            }
        }
        assert!(worked);
        let _ = C::unlink(&other.0);
        C::unlink(&name.0).unwrap();
    });
    join(child);
}

/// Where membarrier(2) is denied, both sides fence instead, and no wake-up is lost.
#[test]
fn without_membarrier() {
    let _turn = serial();
    let ring = Ring::anonymous(&Options::new(1, 8), madang::Access::ReadWrite).unwrap();
    let child = fork(|| {
        deny(libc::SYS_membarrier, Errno::EPERM);
        let mut item = [0; 8];
        for i in 0..20_000_u64 {
            Face::pop(&ring, &mut item, FOREVER).unwrap();
            assert_eq!(u64::from_ne_bytes(item), i);
        }
        drop(ring.duplicate(madang::Access::ReadWrite).unwrap());
    });
    for i in 0..20_000_u64 {
        Face::push(&ring, &i.to_ne_bytes(), FOREVER).unwrap();
    }
    join(child);
    assert_eq!(ring.stat().read, 20_000);
}

/// Where O_TMPFILE is denied, a ring is made under a temporary name and is complete all the same.
#[test]
fn without_tmpfile() {
    let _turn = serial();
    let child = fork(|| {
        let unnamed = (libc::O_TMPFILE & !libc::O_DIRECTORY) as u32;
        deny_bits(libc::SYS_openat, 2, unnamed, Errno::EOPNOTSUPP);
        let name = Named::new("notmpfile");
        let make = || C::open(Some(&name.0), &Options::new(8, 8), CREATE | libc::O_EXCL, 0o600);
        let ring = make().unwrap();
        ring.push(&[1; 8], NOWAIT).unwrap();
        refused_with(make(), libc::EEXIST, "exists");
        open_existing(&name).unwrap().pop(&mut [0; 8], NOWAIT).unwrap();
        C::unlink(&name.0).unwrap();
        let left = fs::read_dir("/dev/shm").unwrap().flatten();
        let mine = format!(".mdg.tmp.{}", std::process::id());
        assert!(!left.map(|entry| entry.file_name()).any(|n| n.to_string_lossy().contains(&mine)));
    });
    join(child);
}

/// A program that closes descriptors it does not know, as daemons do, and opens others under their
/// numbers, gets errors and never a second holder or a false death.
#[test]
fn descriptor_numbers_used_for_something_else() {
    let _turn = serial();
    let name = Named::new("reused");
    let ring = C::open(Some(&name.0), &Options::new(8, 8), CREATE, 0o600).unwrap();
    ring.push(&[0; 8], NOWAIT).unwrap();
    let child = fork(|| {
        let open = |oflag| C::open(Some(&name.0), &Options::default(), oflag, 0).unwrap();
        let (consumer, producer) = (open(libc::O_RDONLY), open(libc::O_RDWR));
        let elsewhere = Named::new("elsewhere");
        fs::write(elsewhere.path(), [0; 100_000]).unwrap();
        for fd in 3..100 {
            let _ = nix::unistd::close(fd);
        }
        let _others: Vec<_> = (0..40)
            .map(|_| fs::OpenOptions::new().read(true).write(true).open(elsewhere.path()).unwrap())
            .collect();
        consumer.pop(&mut [0; 8], NOWAIT).unwrap();
        refused_with(consumer.pop(&mut [0; 8], 1_000_000), libc::ETIMEDOUT, "");
        assert_eq!(consumer.stat().producer_state, MDG_RING_END_LIVE);
        refused_with(producer.push(&[0; 8], NOWAIT), libc::EBADF, &name.0);
        // Their descriptors are somebody else's now, which is what a debug build of std aborts for.
        std::mem::forget((consumer, producer));
    });
    join(child);
    // The one death is the consumer's, which left without closing.
    let stats = ring.stat();
    assert_eq!(
        (stats.producer_state, stats.consumer_state),
        (MDG_RING_END_LIVE, MDG_RING_END_DEAD)
    );
    assert_eq!(stats.recovered, 1);
}

/// A peer that rewrites the superblock, checksum and all, changes nothing for those who have the
/// ring open, nor for their duplicates; newcomers judge what they find by itself.
#[test]
fn a_superblock_rewritten_under_our_feet() {
    let name = Named::new("rewritten");
    let other = Named::new("pattern");
    let ring = C::open(Some(&name.0), &Options::new(1024, 8), CREATE, 0o600).unwrap();
    drop(C::open(Some(&other.0), &Options::new(1, 8192), CREATE, 0o600).unwrap());
    let forged = fs::read(other.path()).unwrap();
    assert_eq!(forged.len() as u64, fs::metadata(name.path()).unwrap().len(), "same size");
    let file = fs::OpenOptions::new().write(true).open(name.path()).unwrap();
    file.write_all_at(&forged[..256], 0).unwrap();
    let copy = ring.dup(libc::O_RDWR).unwrap();
    assert_eq!((copy.stat().capacity, copy.stat().item_size), (1024, 8));
    assert_eq!(open_existing(&name).unwrap().stat().item_size, 8192);
    file.set_len(100_000).unwrap();
    refused_with(ring.dup(libc::O_RDWR), libc::EPROTO, "size was changed");
}
