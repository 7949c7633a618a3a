//! Objects checked from outside: a verdict on what is sound, corrupt, foreign or hostile, without
//! changing a byte.

mod support;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};

use madang::ffi::object::{
    MDG_HOLDER_CONSUMER, MDG_HOLDER_LOCK, MDG_HOLDER_PERMITS, MDG_HOLDER_PRODUCER,
};
use madang::inventory::{self, Mechanism};
use madang::mutex::Mutex;
use madang::ring::{Kind, Options, Ring};
use madang::sem::{UndoOptions, UndoSemaphore};
use madang::{Creation, Timeout};
use nix::sys::stat::Mode;
use support::face::{NOWAIT, refused_with};
use support::object_face::{
    C, CONTROL, ITEMS, Inventory, KINDS, Rust, check, frozen, is_sound, item, open,
};
use support::process::kill;
use support::ring_face::{CREATE, Face, Named};
use support::unique;

on_both_faces! { Rust, C in turn:
    a_living_ring_is_sound_and_not_touched
    corrupt_words_are_named_and_nothing_is_changed
    other_layouts_are_named
    hostile_files
    who_uses_an_object
}

/// Every handle, of the living and of the dead, with what it has.
fn who_uses_an_object<I: Inventory>() {
    for kind in [Kind::Spsc, Kind::Mpmc, Kind::Broadcast] {
        let name = Named::new("holders");
        let all = || I::holders(Mechanism::Ring, &name.0).unwrap();
        let ring: I::Ring = open(&name, kind, libc::O_RDWR);
        assert_eq!((all().len(), all()[0].roles), (1, 0));
        let consumer: I::Ring = open(&name, kind, libc::O_RDONLY);
        let producer = frozen(|| std::mem::forget(open::<I::Ring>(&name, kind, libc::O_WRONLY)));
        let other = producer.pid().as_raw() as u32;
        let expected = [
            (std::process::id(), 0, 1),
            (std::process::id(), MDG_HOLDER_CONSUMER, 1),
            (other, MDG_HOLDER_PRODUCER, 1),
        ];
        let found = all();
        let told: Vec<_> = found.iter().map(|one| (one.pid, one.roles, one.alive)).collect();
        assert_eq!(told, expected, "{kind:?}");
        let comm = fs::read("/proc/self/comm").unwrap();
        for (slot, one) in (0..).zip(&found) {
            assert_eq!((one.slot, one.permits), (slot, 0));
            assert_eq!(one.uid, nix::unistd::geteuid().as_raw());
            assert!(one.since_ns > found[0].since_ns || slot == 0);
            assert_ne!(one.command[0], 0, "{comm:?}");
        }
        kill(producer);
        let dead = all()[2];
        assert_eq!((dead.pid, dead.alive, dead.command), (other, 0, [0; 16]));
        drop((ring, consumer));
        assert_eq!(
            I::repair(Mechanism::Ring, &name.0).unwrap(),
            if kind == Kind::Mpmc { 1 } else { 2 }
        );
        assert!(all().is_empty());
        refused_with(I::holders(Mechanism::Ring, "/no").map(drop), libc::ENOENT, "does not exist");
        refused_with(
            I::holders(Mechanism::Cond, &name.0).map(drop),
            libc::ENOSYS,
            "condition variable",
        );
    }
    let name = unique("holders");
    let (mutex, sem) = (Mechanism::Mutex, Mechanism::Semaphore);
    let options = UndoOptions { value: 3, ..UndoOptions::default() };
    let permits =
        UndoSemaphore::open(name.as_bytes(), &options, Creation::CreateNew, 0o600).unwrap();
    let lock = Mutex::open(name.as_bytes(), Creation::CreateNew, 0o600).unwrap();
    assert_eq!(I::holders(mutex, &name).unwrap().len(), 0);
    let holder = frozen(|| {
        for _ in 0..2 {
            let _ = permits.wait(Timeout::Forever).unwrap();
        }
        let _ = lock.lock(Timeout::Forever).unwrap();
    });
    let pid = holder.pid().as_raw() as u32;
    let told = |mechanism| {
        let all = I::holders(mechanism, &name).unwrap();
        all.iter().map(|one| (one.pid, one.roles, one.permits, one.alive)).collect::<Vec<_>>()
    };
    assert_eq!(told(sem), [(std::process::id(), 0, 0, 1), (pid, MDG_HOLDER_PERMITS, 2, 1)]);
    assert_eq!(told(mutex), [(pid, MDG_HOLDER_LOCK, 0, 1)]);
    assert_ne!(I::holders(mutex, &name).unwrap()[0].command[0], 0);
    kill(holder);
    assert_eq!(told(sem)[1], (pid, MDG_HOLDER_PERMITS, 2, 0));
    assert_eq!(told(mutex), [(pid, MDG_HOLDER_LOCK, 0, 0)]);
    UndoSemaphore::unlink(name.as_bytes()).unwrap();
    Mutex::unlink(name.as_bytes()).unwrap();
}

fn a_living_ring_is_sound_and_not_touched<I: Inventory>() {
    for kind in KINDS {
        let name = Named::new("sound");
        let ring: I::Ring = open(&name, kind, libc::O_RDWR);
        is_sound::<I>(&name);
        for value in 0..100 {
            ring.push(&item(value), NOWAIT).unwrap();
            if value % 3 > 0 || value > 20 {
                ring.pop(&mut [0; 12], NOWAIT).unwrap();
            }
            if value % 10 == 0 {
                is_sound::<I>(&name);
            }
        }
        // Whoever has something in hands, and lives, is no finding.
        ring.pop(&mut [0; 12], NOWAIT).unwrap();
        ring.reserve(1, NOWAIT).unwrap();
        ring.peek(1, NOWAIT).unwrap();
        is_sound::<I>(&name);
        let (_, report) = check::<I>(&name);
        let named = if kind == Kind::Spsc { "SPSC" } else { "MPMC" };
        let first = format!("ring, {named}, 8 items of 12 bytes, 1 of 9 handles open\n");
        assert_eq!(report, first);
        // One who has waited in vain leaves an armed word, and that is how it is.
        ring.release(0).unwrap();
        ring.commit(0).unwrap();
        while ring.pop(&mut [0; 12], NOWAIT).is_ok() {}
        refused_with(ring.pop(&mut [0; 12], 1_000_000), libc::ETIMEDOUT, "");
        drop(ring);
        is_sound::<I>(&name);
        // Read permission is all it takes.
        fs::set_permissions(name.path(), fs::Permissions::from_mode(0o400)).unwrap();
        check::<I>(&name);
    }
}

fn corrupt_words_are_named_and_nothing_is_changed<I: Inventory>() {
    let head = CONTROL + 0x80;
    let cell = |index: u64| ITEMS + index * 24;
    let words: &[(Kind, u64, u64, &str)] = &[
        (Kind::Spsc, CONTROL, 10, "tail, at 0x1000, is 10"),
        (Kind::Spsc, CONTROL, u64::MAX, "tail, at 0x1000"),
        (Kind::Spsc, head, 4, "head, at 0x1080, is 4"),
        (Kind::Mpmc, CONTROL, 12, "tail, at 0x1000, is 12"),
        (Kind::Spsc, CONTROL + 0x200, 2, "the flags at 0x1200 are 0x2"),
        (Kind::Mpmc, cell(0), 7 << 16, "the word of cell 0, at 0x2480, is 0x70000: too late"),
        (Kind::Mpmc, cell(0), 0, "too early for position 0"),
        (Kind::Mpmc, cell(0), 1 << 16, "at 0x2480, is claimed at the consuming end, and nobody's"),
        (Kind::Mpmc, cell(2), 0, "position 2, word 0x0 at 0x24b0, is claimed at the producing end"),
        (Kind::Mpmc, cell(5), 1 << 16, "the word of cell 5"),
        (Kind::Mpmc, cell(1), 1, "no turn has such a tag"),
        (Kind::Mpmc, cell(1), 1 << 16 | 2, "no turn has such a tag"),
        (Kind::Mpmc, cell(1), u64::MAX << 16, "too early for position 1"),
    ];
    for &(kind, at, word, words) in words {
        let name = Named::new("corrupt");
        let ring: I::Ring = open(&name, kind, libc::O_RDWR);
        (0..3).for_each(|value| ring.push(&item(value), NOWAIT).unwrap());
        ring.pop(&mut [0; 12], NOWAIT).unwrap();
        drop(ring);
        kill(frozen(|| std::mem::forget(open::<I::Ring>(&name, kind, libc::O_RDWR))));
        assert_eq!(check::<I>(&name).0, 1);
        let file = File::options().write(true).open(name.path()).unwrap();
        file.write_all_at(&word.to_ne_bytes(), at).unwrap();
        let before = fs::read(name.path()).unwrap();
        refused_with(I::check(Mechanism::Ring, &name.0), libc::EBADMSG, words);
        refused_with(I::repair(Mechanism::Ring, &name.0), libc::EBADMSG, words);
        assert!(before == fs::read(name.path()).unwrap(), "changed in spite of {words}");
        if at < ITEMS {
            let state = I::one(Mechanism::Ring, &name.0).unwrap().state;
            assert_eq!(state, inventory::State::Corrupt);
        }
        // Nobody lives in it all the same.
        assert_eq!(I::reap(Some(Mechanism::Ring), Some(&name.0)).unwrap(), 1);
    }
}

fn other_layouts_are_named<I: Inventory>() {
    for (at, words) in [
        (0, "magic"),
        (8, "layout version"),
        (0x0c, "header length"),
        (0x10, "byte order"),
        (0xf8, "checksum"),
        (0x40, "checksum"),
    ] {
        let name = Named::new("layout");
        drop(open::<I::Ring>(&name, Kind::Mpmc, libc::O_RDWR));
        let file = File::options().read(true).write(true).open(name.path()).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        refused_with(I::check(Mechanism::Ring, &name.0), libc::EPROTO, words);
        refused_with(I::repair(Mechanism::Ring, &name.0), libc::EPROTO, words);
        // Where its locks would be is not known: it cannot be proven that nobody lives in it.
        refused_with(I::reap(Some(Mechanism::Ring), Some(&name.0)), libc::EPROTO, words);
        let listed = I::one(Mechanism::Ring, &name.0).unwrap();
        assert_eq!((listed.state, listed.capacity), (inventory::State::NotOurs, 0));
    }
}

/// Whatever stands under a name of ours: no hang, no crash, a word for it.
fn hostile_files<I: Inventory>() {
    let name = Named::new("hostile");
    let valid = Named::new("valid");
    drop(open::<I::Ring>(&valid, Kind::Mpmc, libc::O_RDWR));
    let valid_bytes = fs::read(valid.path()).unwrap();
    let refused = |code, what: &str| {
        let all = [
            I::check(Mechanism::Ring, &name.0).map(|_| 0),
            I::repair(Mechanism::Ring, &name.0),
            I::reap(Some(Mechanism::Ring), Some(&name.0)),
        ];
        for outcome in all {
            assert_eq!(outcome.unwrap_err().code, code, "{what}");
        }
        assert_eq!(I::one(Mechanism::Ring, &name.0).unwrap().state, inventory::State::NotOurs);
        I::reap(Some(Mechanism::Ring), Some(&valid.0)).unwrap();
        fs::write(valid.path(), &valid_bytes).unwrap();
    };
    fs::create_dir(name.path()).unwrap();
    refused(libc::EPROTO, "directory");
    fs::remove_dir(name.path()).unwrap();
    nix::unistd::mkfifo(name.path().as_str(), Mode::S_IRWXU).unwrap();
    refused(libc::EPROTO, "FIFO");
    fs::remove_file(name.path()).unwrap();
    symlink(valid.path(), name.path()).unwrap();
    refused(libc::ELOOP, "symbolic link");
    fs::remove_file(name.path()).unwrap();
    symlink(name.path(), name.path()).unwrap();
    refused(libc::ELOOP, "symbolic link to itself");
    fs::remove_file(name.path()).unwrap();
    for length in [0, 1, 255, 256, 4096] {
        fs::write(name.path(), vec![0xff; length]).unwrap();
        refused(libc::EPROTO, "short file");
        fs::write(name.path(), &valid_bytes[..length]).unwrap();
        refused(libc::EPROTO, "cut off");
    }
    let file = File::create(name.path()).unwrap();
    file.set_len(1 << 42).unwrap();
    refused(libc::EPROTO, "huge and sparse");
    drop(file);
    // A superblock that is right, for more cells than there ever was memory: looked at as far as
    // there is any, and nothing is written to the rest.
    let huge = huge_ring();
    for (tail, findings) in [(0, Ok(0)), (1 << 34, Err(libc::EBADMSG))] {
        let file = File::create(name.path()).unwrap();
        file.write_all_at(&huge.0, 0).unwrap();
        file.write_all_at(&u64::to_ne_bytes(tail), CONTROL).unwrap();
        file.set_len(huge.1).unwrap();
        let checked = I::check(Mechanism::Ring, &name.0);
        assert_eq!(checked.map(|(findings, _)| findings).map_err(|f| f.code), findings);
        let repaired = I::repair(Mechanism::Ring, &name.0);
        assert_eq!(repaired.unwrap_err().code, libc::EBADMSG);
        assert!(file.metadata().unwrap().blocks() < 64);
        assert_eq!(I::reap(Some(Mechanism::Ring), Some(&name.0)).unwrap(), 1);
    }
}

/// The superblock of a ring of 2^34 items of 8 bytes, and its length.
fn huge_ring() -> ([u8; 256], u64) {
    let model = Named::new("model");
    let options = Options { kind: Some(Kind::Mpmc), max_handles: 9, ..Options::new(8, 8) };
    drop(Ring::open(model.0.as_bytes(), &options, support::face::open_flags(CREATE), 0o600));
    let mut head: [u8; 256] = fs::read(model.path()).unwrap()[..256].try_into().unwrap();
    let capacity = 1_u64 << 34;
    let (items, total) = (capacity * 16, ITEMS + capacity * 16);
    for (at, value) in [(0x28, total), (0x40, capacity), (0x70, items)] {
        head[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    let checksum = !head[..0xf8].iter().fold(!0_u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1)))
    });
    head[0xf8..0xfc].copy_from_slice(&checksum.to_le_bytes());
    (head, total)
}
