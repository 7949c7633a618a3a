//! Objects seen from outside: listed, checked, repaired and reaped, while their users live, and after
//! they were killed.

mod support;

use std::ffi::{CString, c_char};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::ptr;

use madang::ffi::object::*;
use madang::ffi::ring::*;
use madang::inventory::{self, Info, Mechanism};
use madang::ring::{Kind, Options, Ring, policy};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::stat::Mode;
use support::confine::{deny_bits, with_own_shm};
use support::face::{NOWAIT, Outcome, answer, c_string, refused_with};
use support::process::{Child, Gate, as_nobody, fork, is_root, join, kill, serial};
use support::ring_face::{CREATE, Face, Named, SECOND};

/// What both faces can do.
trait Inventory {
    type Ring: Face;
    fn list() -> Vec<Info>;
    fn check(mechanism: Mechanism, name: &str) -> Outcome<(usize, String)>;
    fn repair(mechanism: Mechanism, name: &str) -> Outcome<usize>;
    fn reap(mechanism: Option<Mechanism>, name: Option<&str>) -> Outcome<usize>;

    /// What the list says of one object.
    fn one(mechanism: Mechanism, name: &str) -> Option<Info> {
        Self::list().into_iter().find(|i| i.mechanism == mechanism && i.name == name.as_bytes())
    }
}

struct Rust;
struct C;

impl Inventory for Rust {
    type Ring = Ring;
    fn list() -> Vec<Info> {
        inventory::list().unwrap()
    }
    fn check(mechanism: Mechanism, name: &str) -> Outcome<(usize, String)> {
        let verdict = inventory::check(mechanism, name.as_bytes())?;
        Ok((verdict.findings as usize, verdict.report))
    }
    fn repair(mechanism: Mechanism, name: &str) -> Outcome<usize> {
        Ok(inventory::repair(mechanism, name.as_bytes())? as usize)
    }
    fn reap(mechanism: Option<Mechanism>, name: Option<&str>) -> Outcome<usize> {
        Ok(inventory::reap(mechanism, name.map(str::as_bytes))? as usize)
    }
}

fn blank() -> mdg_object_info {
    // SAFETY: integers only.
    let mut info: mdg_object_info = unsafe { std::mem::zeroed() };
    info.size = size_of::<mdg_object_info>();
    info
}

fn number(mechanism: Option<Mechanism>) -> u32 {
    mechanism.map_or(0, |mechanism| mechanism as u32)
}

impl Inventory for C {
    type Ring = support::ring_face::C;
    fn list() -> Vec<Info> {
        // SAFETY: nothing is written.
        let count = answer(|| unsafe { mdg_object_list(ptr::null_mut(), 0) }).unwrap();
        // Others may make some meanwhile.
        let mut all = vec![blank(); count + 50];
        // SAFETY: an array as long as told.
        let filled = answer(|| unsafe { mdg_object_list(all.as_mut_ptr(), all.len()) }).unwrap();
        assert!(filled <= all.len());
        let mechanisms = inventory::list().unwrap();
        all.truncate(filled);
        all.iter()
            .filter_map(|one| {
                assert_eq!(one.size, size_of::<mdg_object_info>());
                let name: Vec<u8> =
                    one.name.iter().map(|&c| c as u8).take_while(|&byte| byte != 0).collect();
                // The words for the numbers are the Rust face's; a test that has others about to
                // change is in turn.
                let like = mechanisms
                    .iter()
                    .find(|info| info.mechanism as u32 == one.mechanism && info.name == name)?;
                assert_eq!(like.state as u32, one.state, "{like:?}");
                Some(Info {
                    mechanism: like.mechanism,
                    name,
                    state: like.state,
                    bytes: one.bytes,
                    kind: one.kind,
                    item_size: one.item_size,
                    capacity: one.capacity,
                    length: one.length,
                    max_handles: one.max_handles,
                    handles_live: one.handles_live,
                    handles_dead: one.handles_dead,
                    creator_pid: one.creator_pid,
                    uid: one.uid,
                    mode: one.mode,
                })
            })
            .collect()
    }
    fn check(mechanism: Mechanism, name: &str) -> Outcome<(usize, String)> {
        let name = c_string(name);
        let mut report = vec![0x7f_u8; 65536];
        let to = report.as_mut_ptr().cast();
        // SAFETY: a C string and a buffer as long as told.
        let result = answer(|| unsafe {
            mdg_object_check(mechanism as u32, name.as_ptr(), to, report.len())
        });
        let text = || {
            let text = std::ffi::CStr::from_bytes_until_nul(&report).unwrap();
            text.to_str().unwrap().to_owned()
        };
        match result {
            Ok(findings) => {
                assert_eq!(text().lines().count(), findings + 1);
                assert!(text().lines().all(|line| line.len() <= 255));
                Ok((findings, text()))
            }
            Err(failure) => {
                if [libc::EBADMSG, libc::EPROTO].contains(&failure.code) {
                    assert_eq!(text(), failure.text.clone() + "\n");
                } else {
                    assert_eq!(report[0], 0x7f, "left alone");
                }
                Err(failure)
            }
        }
    }
    fn repair(mechanism: Mechanism, name: &str) -> Outcome<usize> {
        let name = c_string(name);
        // SAFETY: a C string.
        answer(|| unsafe { mdg_object_repair(mechanism as u32, name.as_ptr()) })
    }
    fn reap(mechanism: Option<Mechanism>, name: Option<&str>) -> Outcome<usize> {
        let name = name.map(c_string);
        let name = name.as_ref().map_or(ptr::null(), |name: &CString| name.as_ptr());
        // SAFETY: a C string or NULL.
        answer(|| unsafe { mdg_object_reap(number(mechanism), name) })
    }
}

on_both_faces! { Rust, C in turn:
    a_ring_and_its_users_are_listed
    a_living_ring_is_sound_and_not_touched
    what_the_dead_left_is_found_and_mended
    items_survive_a_repair
    the_living_are_not_robbed
    corrupt_words_are_named_and_nothing_is_changed
    other_layouts_are_named
    only_what_nobody_lives_in_is_reaped
    hostile_files
    temporary_files
    doorbells
    other_users
    all_at_once
    other_kinds
}

fn options(kind: Kind) -> Options {
    Options { kind: Some(kind), max_handles: 9, ..Options::new(8, 12) }
}

const KINDS: [Kind; 2] = [Kind::Spsc, Kind::Mpmc];

fn item(value: u64) -> [u8; 12] {
    let mut item = [0xa5; 12];
    item[..8].copy_from_slice(&value.to_ne_bytes());
    item
}

fn open<F: Face>(name: &Named, kind: Kind, oflag: i32) -> F {
    F::open(Some(&name.0), &options(kind), oflag | libc::O_CREAT, 0o600).unwrap()
}

/// A child that has done `body` and waits to be killed.
fn frozen(body: impl FnOnce()) -> Child {
    let ready = Gate::new();
    let child = fork(|| {
        body();
        ready.open();
        loop {
            nix::unistd::pause();
        }
    });
    ready.pass();
    child
}

/// Checks, and holds the check to not changing a byte.
#[track_caller]
fn check<I: Inventory>(name: &Named) -> (usize, String) {
    let before = fs::read(name.path()).unwrap();
    let verdict = I::check(Mechanism::Ring, &name.0).unwrap();
    assert!(before == fs::read(name.path()).unwrap(), "a check changed something");
    verdict
}

#[track_caller]
fn is_sound<I: Inventory>(name: &Named) {
    let (findings, report) = check::<I>(name);
    assert_eq!(findings, 0, "{report}");
    assert_eq!(I::repair(Mechanism::Ring, &name.0).unwrap(), 0);
}

fn a_ring_and_its_users_are_listed<I: Inventory>() {
    for kind in KINDS {
        let name = Named::new("list");
        assert_eq!(I::one(Mechanism::Ring, &name.0), None);
        let producer: I::Ring = open(&name, kind, libc::O_WRONLY);
        let consumer: I::Ring = open(&name, kind, libc::O_RDONLY);
        for value in 0..3 {
            producer.push(&item(value), NOWAIT).unwrap();
        }
        let corpse = frozen(|| std::mem::forget(open::<I::Ring>(&name, kind, libc::O_RDWR)));
        let expected = Info {
            mechanism: Mechanism::Ring,
            name: name.0.clone().into_bytes(),
            state: inventory::State::Sound,
            bytes: fs::metadata(name.path()).unwrap().len(),
            kind: kind as u32,
            item_size: 12,
            capacity: 8,
            length: 3,
            max_handles: 9,
            handles_live: 3,
            handles_dead: 0,
            creator_pid: std::process::id(),
            uid: nix::unistd::geteuid().as_raw(),
            mode: 0o600,
        };
        assert_eq!(I::one(Mechanism::Ring, &name.0), Some(expected.clone()));
        kill(corpse);
        let damaged = Info {
            state: inventory::State::Damaged,
            handles_live: 2,
            handles_dead: 1,
            ..expected.clone()
        };
        assert_eq!(I::one(Mechanism::Ring, &name.0), Some(damaged));
        drop(consumer);
        assert_eq!(I::repair(Mechanism::Ring, &name.0).unwrap(), 1);
        let mended = Info { handles_live: 1, ..expected };
        assert_eq!(I::one(Mechanism::Ring, &name.0), Some(mended));
        drop(producer);
        is_sound::<I>(&name);
    }
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
        let first =
            format!("ring, kind {}, 8 items of 12 bytes, 1 of 9 handles open\n", kind as u32);
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

/// Both ends killed with a run reserved and one peeked, and one more in its sleep.
fn what_the_dead_left_is_found_and_mended<I: Inventory>() {
    for kind in KINDS {
        let name = Named::new("corpses");
        let ring: I::Ring = open(&name, kind, libc::O_RDWR);
        let producer = frozen(|| {
            let ring: I::Ring = open(&name, kind, libc::O_WRONLY);
            (0..3).for_each(|value| ring.push(&item(value), NOWAIT).unwrap());
            ring.reserve(2, NOWAIT).unwrap();
            std::mem::forget(ring);
        });
        let consumer = frozen(|| {
            let ring: I::Ring = open(&name, kind, libc::O_RDONLY);
            ring.pop(&mut [0; 12], NOWAIT).unwrap();
            ring.peek(1, NOWAIT).unwrap();
            std::mem::forget(ring);
        });
        is_sound::<I>(&name);
        kill(producer);
        let (findings, report) = check::<I>(&name);
        let is_shared = kind == Kind::Mpmc;
        assert_eq!(findings, if is_shared { 1 } else { 2 }, "{report}");
        assert!(report.contains("participant 1: pid "), "{report}");
        assert_eq!(report.contains("1 claimed and not filled"), is_shared, "{report}");
        assert_eq!(report.contains("producing end: its holder"), !is_shared, "{report}");
        kill(consumer);
        let (findings, report) = check::<I>(&name);
        assert_eq!(findings, if is_shared { 2 } else { 4 }, "{report}");
        assert_eq!(report.contains("1 taken and not freed"), is_shared, "{report}");
        drop(ring);
        assert_eq!(I::repair(Mechanism::Ring, &name.0).unwrap(), findings);
        is_sound::<I>(&name);

        let ring: I::Ring = open(&name, kind, libc::O_RDWR);
        let stats = ring.stat();
        assert_eq!((stats.pending, stats.recovered), (0, 2));
        let lost = u64::from(is_shared);
        assert_eq!([stats.written, stats.lost, stats.length], [3, lost, 2 - lost]);
        for value in 1 + lost..3 {
            let mut popped = [0; 12];
            ring.pop(&mut popped, NOWAIT).unwrap();
            assert_eq!(popped, item(value));
        }
        refused_with(ring.pop(&mut [0; 12], NOWAIT), libc::EAGAIN, "");
    }
    // A sleeper that is killed stays announced, and nobody is left to wake it.
    for kind in KINDS {
        let name = Named::new("sleeper");
        let (pid, gate) = (std::process::id(), Gate::new());
        let sleeper = fork(|| {
            let ring: I::Ring = open(&name, kind, libc::O_RDONLY);
            gate.open();
            let _ = ring.pop(&mut [0; 12], 100 * SECOND);
            panic!("woken by nobody in {pid}");
        });
        gate.pass();
        let armed = || {
            let mut word = [0; 4];
            File::open(name.path()).unwrap().read_exact_at(&mut word, 4096 + 0x104).unwrap();
            u32::from_ne_bytes(word) & 1 != 0
        };
        while !armed() {
            std::thread::yield_now();
        }
        is_sound::<I>(&name);
        kill(sleeper);
        let (findings, report) = check::<I>(&name);
        assert!(report.contains("0x1104: a consumer is announced"), "{report}");
        assert_eq!(I::repair(Mechanism::Ring, &name.0).unwrap(), findings);
        assert!(!armed());
        is_sound::<I>(&name);
    }
}

/// What was committed is there, whatever was mended around it.
fn items_survive_a_repair<I: Inventory>() {
    let name = Named::new("items");
    let ring: I::Ring = open(&name, Kind::Mpmc, libc::O_RDWR);
    let corpses: Vec<Child> = (0..4)
        .map(|value| {
            frozen(|| {
                let ring: I::Ring = open(&name, Kind::Mpmc, libc::O_WRONLY);
                ring.push(&item(value), NOWAIT).unwrap();
                ring.reserve(1, NOWAIT).unwrap();
                std::mem::forget(ring);
            })
        })
        .collect();
    corpses.into_iter().for_each(kill);
    // In the way of everybody until it is mended: found without waiting after it.
    refused_with(ring.push(&item(9), NOWAIT), libc::EAGAIN, "");
    assert_eq!(I::repair(Mechanism::Ring, &name.0).unwrap(), 4);
    for value in 0..4 {
        let mut popped = [0; 12];
        ring.pop(&mut popped, NOWAIT).unwrap();
        assert_eq!(popped, item(value));
    }
    is_sound::<I>(&name);
}

/// Repairs and checks run all the time while two processes move items and others are killed.
fn the_living_are_not_robbed<I: Inventory>() {
    const ITEMS: u64 = 60_000;
    for kind in KINDS {
        let name = Named::new("busy");
        let ring: I::Ring = open(&name, kind, libc::O_RDWR);
        let producer = fork(|| {
            let ring: I::Ring = open(&name, kind, libc::O_WRONLY);
            (0..ITEMS).for_each(|value| ring.push(&item(value), 60 * SECOND).unwrap());
        });
        let consumer = fork(|| {
            let ring: I::Ring = open(&name, kind, libc::O_RDONLY);
            let (mut popped, mut next) = ([0; 12 * 3], 0);
            while next < ITEMS {
                let count = ring.pop_many(&mut popped, 12, 60 * SECOND).unwrap();
                for got in popped.chunks(12).take(count) {
                    assert_eq!(got, item(next), "nothing is lost, nothing comes twice");
                    next += 1;
                }
            }
        });
        let mut ended = false;
        while !ended {
            for _ in 0..20 {
                let (_, report) = I::check(Mechanism::Ring, &name.0).unwrap();
                assert!(!report.contains("claimed and"), "{report}");
                I::repair(Mechanism::Ring, &name.0).unwrap();
            }
            kill(frozen(|| std::mem::forget(open::<I::Ring>(&name, kind, libc::O_RDWR))));
            ended = ring.stat().read >= ITEMS;
        }
        join(producer);
        join(consumer);
        // Both have left without closing: in a sense they died.
        I::repair(Mechanism::Ring, &name.0).unwrap();
        is_sound::<I>(&name);
    }
}

/// Offsets of docs/layout.md.
const CONTROL: u64 = 4096;
const SLOTS: u64 = 8192;
const ITEMS: u64 = SLOTS + 9 * 128;

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

fn only_what_nobody_lives_in_is_reaped<I: Inventory>() {
    let (alone, lived) = (Named::new("reap"), Named::new("reap"));
    let ring: I::Ring = open(&lived, Kind::Spsc, libc::O_RDWR);
    drop(open::<I::Ring>(&alone, Kind::Mpmc, libc::O_RDWR));
    let reap = |name: &Named| I::reap(Some(Mechanism::Ring), Some(&name.0));
    refused_with(reap(&lived), libc::EBUSY, "living process");
    assert_eq!(reap(&alone).unwrap(), 1);
    refused_with(reap(&alone), libc::ENOENT, "does not exist");
    assert!(!fs::exists(alone.path()).unwrap());
    // A child that has it lives, too; a stopped one as well.
    let child = frozen(|| std::mem::forget(open::<I::Ring>(&lived, Kind::Spsc, libc::O_RDWR)));
    drop(ring);
    refused_with(reap(&lived), libc::EBUSY, "");
    nix::sys::signal::kill(child.pid(), nix::sys::signal::SIGSTOP).unwrap();
    refused_with(reap(&lived), libc::EBUSY, "");
    refused_with(I::reap(None, Some(&lived.0)), libc::EINVAL, "mechanism");
    kill(child);
    assert_eq!(reap(&lived).unwrap(), 1);
    assert!(!fs::exists(lived.path()).unwrap());
    refused_with(I::check(Mechanism::Ring, &alone.0), libc::ENOENT, "does not exist");
    refused_with(I::repair(Mechanism::Ring, &alone.0), libc::ENOENT, "does not exist");
    refused_with(I::check(Mechanism::Ring, "a/b"), libc::EINVAL, "slash");
    refused_with(I::check(Mechanism::Ring, &"n".repeat(300)), libc::ENAMETOOLONG, "300");
    refused_with(I::repair(Mechanism::Poll, "/x"), libc::ENOSYS, "");
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

/// Lock bytes of docs/layout.md.
const ADMIN_BYTE: i64 = 1 << 40;
const SLOT_BYTE: i64 = ADMIN_BYTE + 0x100;

fn byte(at: i64) -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: at,
        l_len: 1,
        l_pid: 0,
    }
}

/// Locks the ADMIN byte of a file, as long as this description is open.
fn lock_admin(file: &File) {
    fcntl(file, FcntlArg::F_OFD_SETLK(&byte(ADMIN_BYTE))).unwrap();
}

/// Whether another description has locked a byte.
fn is_locked(file: &File, at: i64) -> bool {
    let mut probe = byte(at);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut probe)).unwrap();
    probe.l_type != libc::F_UNLCK as libc::c_short
}

fn temporary_files<I: Inventory>() {
    let rest = format!("/{}.{}", std::process::id(), &support::unique("t")[1..]);
    let path = PathBuf::from(format!("/dev/shm/.mdg.tmp.{}", &rest[1..]));
    let _files = Files(vec![path.display().to_string()]);
    let reap = || I::reap(Some(Mechanism::Temporary), Some(&rest));
    let state = || I::one(Mechanism::Temporary, &rest).unwrap().state;
    let maker = frozen(|| {
        let options = File::options().read(true).write(true).create_new(true).mode(0o600).clone();
        let file = options.open(&path).unwrap();
        lock_admin(&file);
        std::mem::forget(file);
    });
    refused_with(reap(), libc::EBUSY, "");
    assert_eq!(I::check(Mechanism::Temporary, &rest).unwrap().0, 0);
    assert_eq!(state(), inventory::State::Sound);
    kill(maker);
    assert_eq!(state(), inventory::State::Damaged);
    assert_eq!(I::check(Mechanism::Temporary, &rest).unwrap().0, 1);
    assert_eq!(reap().unwrap(), 1);
    assert!(!path.exists());
    refused_with(I::check(Mechanism::Temporary, &rest), libc::ENOENT, "");
}

/// Files that go away with the test, whatever happens to it.
struct Files(Vec<String>);

impl Drop for Files {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

fn doorbells<I: Inventory>() {
    let name = Named::new("bells");
    let ring: I::Ring = open(&name, Kind::Spsc, libc::O_RDWR);
    let uuid: String = fs::read(name.path()).unwrap()[0x80..0x90]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let rest = |slot: u32, generation: u32| format!("/{uuid}.{slot}.{generation}");
    let path = |rest: &str| format!("/dev/shm/mdg.poll.{}", &rest[1..]);
    let make = |rest: &str| nix::unistd::mkfifo(path(rest).as_str(), Mode::S_IRWXU).unwrap();
    let all = [rest(0, 1), rest(0, 7), rest(1, 1), rest(99, 1)];
    let _files = Files(all.iter().map(|rest| path(rest)).collect());
    all.iter().for_each(|rest| make(rest));
    let (findings, report) = check::<I>(&name);
    assert_eq!(findings, 3, "{report}");
    assert!(!report.contains(&all[0][1..]) && report.contains(&all[1][1..]), "{report}");
    assert_eq!(I::check(Mechanism::Poll, &all[0]).unwrap().0, 0);
    assert_eq!(I::check(Mechanism::Poll, &all[1]).unwrap().0, 1);
    refused_with(I::reap(Some(Mechanism::Poll), Some(&all[0])), libc::EBUSY, "");
    assert_eq!(I::reap(Some(Mechanism::Poll), Some(&all[1])).unwrap(), 1);
    assert_eq!(I::repair(Mechanism::Ring, &name.0).unwrap(), 2);
    is_sound::<I>(&name);
    drop(ring);
    // The ring goes, and its doorbells with it.
    assert_eq!(I::reap(Some(Mechanism::Ring), Some(&name.0)).unwrap(), 1);
    assert!(!fs::exists(path(&all[0])).unwrap());
    // Of an object that has no name nothing can be proven.
    make(&all[0]);
    refused_with(I::reap(Some(Mechanism::Poll), Some(&all[0])), libc::EBUSY, "no name");
    assert_eq!(I::one(Mechanism::Poll, &all[0]).unwrap().state, inventory::State::Sound);
    fs::remove_file(path(&all[0])).unwrap();
    refused_with(I::check(Mechanism::Poll, &all[0]), libc::ENOENT, "");
}

fn other_users<I: Inventory>() {
    if !is_root() {
        return;
    }
    let mine = Named::new("mine");
    drop(open::<I::Ring>(&mine, Kind::Mpmc, libc::O_RDWR));
    as_nobody(|| {
        refused_with(I::check(Mechanism::Ring, &mine.0), libc::EACCES, "");
        refused_with(I::repair(Mechanism::Ring, &mine.0), libc::EACCES, "");
        refused_with(I::reap(Some(Mechanism::Ring), Some(&mine.0)), libc::EACCES, "");
        let info = I::one(Mechanism::Ring, &mine.0).unwrap();
        assert_eq!((info.state, info.uid), (inventory::State::Unreadable, 0));
        // One's own, with permission to read and none to write: the check stores nothing.
        let own = Named::new("own");
        drop(I::Ring::open(Some(&own.0), &options(Kind::Mpmc), CREATE, 0o400).unwrap());
        is_read_only::<I>(&own);
        // Readable for all, and another's: read, and not removed.
        drop(own);
    });
    fs::set_permissions(mine.path(), fs::Permissions::from_mode(0o666)).unwrap();
    as_nobody(|| {
        assert_eq!(check::<I>(&mine).0, 0);
        refused_with(I::reap(Some(Mechanism::Ring), Some(&mine.0)), libc::EACCES, "");
    });
    assert!(fs::exists(mine.path()).unwrap());
}

fn is_read_only<I: Inventory>(name: &Named) {
    assert!(File::options().write(true).open(name.path()).is_err());
    assert_eq!(check::<I>(name).0, 0);
    refused_with(I::repair(Mechanism::Ring, &name.0), libc::EACCES, "");
}

/// Stop-proof rings and broadcasts: sound while they are used, mended when their users are dead.
fn other_kinds<I: Inventory>() {
    let all = [
        (Kind::Mpmc, policy::STOPPROOF),
        (Kind::Mpmc, policy::STOPPROOF | policy::OVERWRITE),
        (Kind::Broadcast, 0),
        (Kind::Broadcast, policy::OVERWRITE),
    ];
    for (kind, policy) in all {
        let name = Named::new("kinds");
        let options = Options { policy, ..options(kind) };
        let open = |oflag| -> I::Ring {
            I::Ring::open(Some(&name.0), &options, oflag | libc::O_CREAT, 0o600).unwrap()
        };
        let (producer, consumer) = (open(libc::O_WRONLY), open(libc::O_RDONLY));
        for value in 0..100 {
            producer.push(&item(value), NOWAIT).unwrap();
            if value % 7 > 0 {
                while consumer.pop(&mut [0; 12], NOWAIT).is_ok() {}
            }
            is_sound::<I>(&name);
        }
        drop((producer, consumer));
        is_sound::<I>(&name);
        let corpses = [libc::O_WRONLY, libc::O_RDONLY].map(|oflag| {
            frozen(|| {
                let ring = open(oflag);
                let _ = if oflag == libc::O_WRONLY {
                    ring.push(&item(7), NOWAIT).unwrap();
                    ring.reserve(1, NOWAIT).map(drop)
                } else {
                    ring.peek(1, NOWAIT).map(drop)
                };
                std::mem::forget(ring);
            })
        });
        is_sound::<I>(&name);
        corpses.into_iter().for_each(kill);
        let (findings, report) = check::<I>(&name);
        // A broadcast has one producer, whose end is noted by itself.
        assert_eq!(findings, if kind == Kind::Broadcast { 3 } else { 2 }, "{report}");
        assert_eq!(I::repair(Mechanism::Ring, &name.0).unwrap(), findings);
        is_sound::<I>(&name);
        let (consumer, producer) = (open(libc::O_RDONLY), open(libc::O_WRONLY));
        assert_eq!(producer.stat().recovered, 2);
        while consumer.pop(&mut [0; 12], NOWAIT).is_ok() {}
        producer.push(&item(8), NOWAIT).unwrap();
        let mut popped = [0; 12];
        consumer.pop(&mut popped, NOWAIT).unwrap();
        assert_eq!(popped, item(8));
        is_sound::<I>(&name);
    }
}

/// All of a mechanism, and all there is: in a /dev/shm of its own, for there are other tests.
fn all_at_once<I: Inventory>() {
    with_own_shm(c"size=4m,mode=1777", || {
        assert_eq!(I::reap(None, None).unwrap(), 0);
        let rings = [(); 4].map(|()| Named::new("all"));
        let [lived, alone, dead, foreign] = &rings;
        let _ring: I::Ring = open(lived, Kind::Spsc, libc::O_RDWR);
        drop(open::<I::Ring>(alone, Kind::Mpmc, libc::O_RDWR));
        kill(frozen(|| std::mem::forget(open::<I::Ring>(dead, Kind::Spsc, libc::O_RDWR))));
        fs::write(foreign.path(), "something else").unwrap();
        let others = ["OS", "sem.OS", "mdg", ".mdg", ".mdg.tmpx"];
        others.iter().for_each(|file| fs::write(format!("/dev/shm/{file}"), [0; 32]).unwrap());
        fs::write("/dev/shm/.mdg.tmp.1.1", "").unwrap();
        fs::copy(alone.path(), "/dev/shm/mdg.mutex.m").unwrap();
        fs::copy(alone.path(), "/dev/shm/mdg.new.m").unwrap();
        let there = || fs::read_dir("/dev/shm").unwrap().count();
        let listed: Vec<String> =
            I::list().into_iter().map(|info| String::from_utf8(info.name).unwrap()).collect();
        assert_eq!(listed[4..], ["/m", "/1.1", "/new.m"]);
        assert_eq!((listed.len(), there()), (7, 12));
        assert_eq!(I::reap(Some(Mechanism::Poll), None).unwrap(), 0);
        assert_eq!(I::reap(Some(Mechanism::Ring), None).unwrap(), 2);
        assert_eq!(I::list().len(), 5);
        if is_root() {
            as_nobody(|| assert_eq!(I::reap(None, None).unwrap(), 0));
        }
        assert_eq!(I::reap(None, None).unwrap(), 3);
        assert_eq!((I::list().len(), there()), (2, 7));
        assert_eq!(I::check(Mechanism::Ring, &lived.0).unwrap().0, 0);
    });
}

/// Opening and reaping the same name all the time: who has opened it has a ring that its name leads
/// to, or that he made.
#[test]
fn nobody_is_robbed_by_reaping() {
    let _turn = serial();
    let name = Named::new("race");
    let stop = Gate::new();
    let reapers: Vec<Child> = (0..2)
        .map(|_| {
            fork(|| {
                let mut reaped = 0_u64;
                loop {
                    match inventory::reap(Some(Mechanism::Ring), Some(name.0.as_bytes())) {
                        Ok(count) => reaped += u64::from(count),
                        Err(error) => assert!(
                            [libc::EBUSY, libc::ENOENT].contains(&error.errno()),
                            "{error} after {reaped}"
                        ),
                    }
                }
            })
        })
        .collect();
    let openers: Vec<Child> = (0..2)
        .map(|_| {
            fork(|| {
                let mut own = 0;
                for _ in 0..1500 {
                    let ring: Ring = open(&name, Kind::Mpmc, libc::O_RDWR);
                    let opened = Ring::stat(&ring);
                    assert!(!opened.unlinked, "in a ring without a name");
                    std::thread::yield_now();
                    assert!(!Ring::stat(&ring).unlinked, "robbed of the name");
                    own += 1;
                }
                assert_eq!(own, 1500);
                stop.open();
            })
        })
        .collect();
    openers.into_iter().for_each(join);
    reapers.into_iter().for_each(kill);
}

/// The same, with the remover stopped in the middle: who opens meanwhile waits for it, and then sees
/// what has become of the name.
#[test]
fn an_opener_waits_for_who_removes() {
    let _turn = serial();
    for removed in [true, false] {
        let name = Named::new("wait");
        drop(open::<Ring>(&name, Kind::Spsc, libc::O_RDWR));
        let old = fs::metadata(name.path()).unwrap().ino();
        let (locked, done, checked) = (Gate::new(), Gate::new(), Gate::new());
        // Forked before the lock is taken: it would keep a part in it.
        let opener = fork(|| {
            locked.pass();
            let ring: Ring = open(&name, Kind::Spsc, libc::O_RDWR);
            done.open();
            checked.pass();
            assert!(!Ring::stat(&ring).unlinked);
        });
        let remover = File::options().read(true).write(true).open(name.path()).unwrap();
        lock_admin(&remover);
        locked.open();
        while !is_locked(&remover, SLOT_BYTE) {
            std::thread::yield_now();
        }
        assert!(!done.is_open_within(100), "it did not wait");
        if removed {
            fs::remove_file(name.path()).unwrap();
        }
        drop(remover);
        done.pass();
        assert_eq!(fs::metadata(name.path()).unwrap().ino() == old, !removed);
        checked.open();
        join(opener);
    }
    // Not for ever.
    let name = Named::new("stopped");
    drop(open::<Ring>(&name, Kind::Spsc, libc::O_RDWR));
    let remover = File::options().read(true).write(true).open(name.path()).unwrap();
    lock_admin(&remover);
    let opened = <Ring as Face>::open(Some(&name.0), &Options::default(), libc::O_RDWR, 0);
    refused_with(opened, libc::EBUSY, "is removing it and was stopped");
    refused_with(Rust::reap(Some(Mechanism::Ring), Some(&name.0)), libc::EBUSY, "");
}

/// A maker that has to use a temporary name is stopped while its file has one: the file is in use.
/// Killed there, it leaves a file that may go.
#[test]
fn a_killed_makers_temporary_file_is_reaped() {
    let _turn = serial();
    let started = Gate::new();
    let maker = fork(|| {
        let unnamed = (libc::O_TMPFILE & !libc::O_DIRECTORY) as u32;
        deny_bits(libc::SYS_openat, 2, unnamed, Errno::EOPNOTSUPP);
        started.open();
        loop {
            let name = Named::new("maker");
            let options = Options::new(1 << 16, 64);
            drop(<Ring as Face>::open(Some(&name.0), &options, CREATE, 0o600).unwrap());
        }
    });
    started.pass();
    let pid = maker.pid();
    let mine = format!("/{pid}.");
    let found = || {
        let all = Rust::list().into_iter();
        let name = all.map(|one| String::from_utf8(one.name).unwrap()).find(|n| n.contains(&mine));
        name.filter(|name| fs::exists(format!("/dev/shm/.mdg.tmp.{}", &name[1..])).unwrap())
    };
    let stop = |signal| {
        nix::sys::signal::kill(pid, signal).unwrap();
        if signal == nix::sys::signal::SIGSTOP {
            nix::sys::wait::waitpid(pid, Some(nix::sys::wait::WaitPidFlag::WUNTRACED)).unwrap();
        }
    };
    // Until it is caught with one that it has locked.
    let name = loop {
        while found().is_none() {}
        stop(nix::sys::signal::SIGSTOP);
        let caught = found().filter(|name| {
            let reaped = Rust::reap(Some(Mechanism::Temporary), Some(name));
            reaped.is_err_and(|failure| failure.code == libc::EBUSY)
        });
        match caught {
            Some(name) => break name,
            // Gone meanwhile, or caught before it locked its file: then it makes another one.
            None => stop(nix::sys::signal::SIGCONT),
        }
    };
    assert_eq!(Rust::check(Mechanism::Temporary, &name).unwrap().0, 0);
    kill(maker);
    assert_eq!(Rust::check(Mechanism::Temporary, &name).unwrap().0, 1);
    assert_eq!(Rust::reap(Some(Mechanism::Temporary), Some(&name)).unwrap(), 1);
    // It may have been killed with the second name standing as well.
    for left in Rust::list() {
        let name = String::from_utf8(left.name).unwrap();
        if left.mechanism == Mechanism::Ring && name.contains(&format!("-maker-{pid}-")) {
            assert_eq!(Rust::reap(Some(Mechanism::Ring), Some(&name)).unwrap(), 1);
        }
    }
}

/// Killed in the middle of repairs, over and over: the next one goes on.
#[test]
fn a_repair_may_be_killed() {
    let _turn = serial();
    let name = Named::new("killed");
    let ring: Ring = open(&name, Kind::Mpmc, libc::O_RDWR);
    for round in 0..15 {
        let corpses: Vec<Child> = (0..3)
            .map(|_| {
                frozen(|| {
                    let ring: Ring = open(&name, Kind::Mpmc, libc::O_RDWR);
                    Ring::reserve(&ring, 1, madang::Timeout::NoWait).unwrap();
                    std::mem::forget(ring);
                })
            })
            .collect();
        corpses.into_iter().for_each(kill);
        let started = Gate::new();
        let mender = fork(|| {
            started.open();
            for _ in 0..1000 {
                inventory::repair(Mechanism::Ring, name.0.as_bytes()).unwrap();
            }
            loop {
                nix::unistd::pause();
            }
        });
        started.pass();
        for _ in 0..round * 20 {
            std::thread::yield_now();
        }
        kill(mender);
        inventory::check(Mechanism::Ring, name.0.as_bytes()).unwrap();
        inventory::repair(Mechanism::Ring, name.0.as_bytes()).unwrap();
        let verdict = inventory::check(Mechanism::Ring, name.0.as_bytes()).unwrap();
        assert_eq!(verdict.findings, 0, "{}", verdict.report);
        ring.push(&item(round), NOWAIT_TIMEOUT).unwrap();
        let mut popped = [0; 12];
        ring.pop(&mut popped, NOWAIT_TIMEOUT).unwrap();
        assert_eq!((popped, Ring::stat(&ring).pending), (item(round), 0));
    }
}

const NOWAIT_TIMEOUT: madang::Timeout = madang::Timeout::NoWait;

/// What is particular to C: sizes, cut reports, arguments.
#[test]
fn the_c_face() {
    let _turn = serial();
    let name = Named::new("c");
    let _ring: Ring = open(&name, Kind::Spsc, libc::O_RDWR);
    let text = c_string(&name.0);
    let count = Rust::list().len();
    assert!(count > 0);
    // More than there is room for: the rest is left alone.
    let mut two = [blank(), blank()];
    two[1].kind = 4711;
    // SAFETY: room for one.
    let told = answer(|| unsafe { mdg_object_list(two.as_mut_ptr(), 1) }).unwrap();
    assert_eq!((told, two[1].kind), (count, 4711));
    // A shorter structure of an older caller, and a longer one of a newer.
    let short = std::mem::offset_of!(mdg_object_info, name);
    let mut bytes = vec![0xee_u8; 64 * 1024];
    for stride in [short, size_of::<mdg_object_info>() + 16] {
        bytes.fill(0xee);
        bytes[..8].copy_from_slice(&stride.to_ne_bytes());
        let to = bytes.as_mut_ptr().cast::<mdg_object_info>();
        assert!(to.is_aligned());
        // SAFETY: room for as many as told.
        answer(|| unsafe { mdg_object_list(to, 2) }).unwrap();
        let filled = stride.min(size_of::<mdg_object_info>());
        assert_eq!(bytes[..8], filled.to_ne_bytes());
        assert!(bytes[filled..stride].iter().all(|&byte| byte == 0));
        assert!(bytes[2 * stride..].iter().all(|&byte| byte == 0xee));
    }
    for wrong in [0, 8, short - 8, short + 4, 1 << 20] {
        let mut one = blank();
        one.size = wrong;
        // SAFETY: as many bytes as are looked at.
        refused_with(answer(|| unsafe { mdg_object_list(&raw mut one, 1) }), libc::EINVAL, "size");
    }
    // SAFETY: NULL is refused.
    refused_with(answer(|| unsafe { mdg_object_list(ptr::null_mut(), 1) }), libc::EINVAL, "NULL");
    let check = |mechanism, name: *const c_char, to: *mut c_char, size| {
        // SAFETY: a C string or NULL; a buffer or NULL.
        answer(|| unsafe { mdg_object_check(mechanism, name, to, size) })
    };
    let nothing = ptr::null_mut();
    assert_eq!(check(MDG_OBJECT_RING, text.as_ptr(), nothing, 0), Ok(0));
    refused_with(check(MDG_OBJECT_RING, ptr::null(), nothing, 0), libc::EINVAL, "NULL");
    refused_with(check(MDG_OBJECT_RING, text.as_ptr(), nothing, 5), libc::EINVAL, "NULL");
    refused_with(check(0, text.as_ptr(), nothing, 0), libc::EINVAL, "no mechanism 0");
    refused_with(check(7, text.as_ptr(), nothing, 0), libc::EINVAL, "no mechanism 7");
    let mut report = [0x7f_u8; 32];
    assert_eq!(check(MDG_OBJECT_RING, text.as_ptr(), report.as_mut_ptr().cast(), 20), Ok(0));
    assert_eq!(&report[..5], b"...\n\0", "the line does not fit");
    assert_eq!(report[20..], [0x7f; 12]);
    // SAFETY: NULL is refused; a C string.
    unsafe {
        refused_with(answer(|| mdg_object_repair(1, ptr::null())), libc::EINVAL, "NULL");
        refused_with(answer(|| mdg_object_repair(9, text.as_ptr())), libc::EINVAL, "9");
        refused_with(answer(|| mdg_object_reap(9, ptr::null())), libc::EINVAL, "9");
        refused_with(answer(|| mdg_object_reap(0, text.as_ptr())), libc::EINVAL, "mechanism");
        refused_with(answer(|| mdg_object_repair(2, text.as_ptr())), libc::ENOSYS, "repair");
    }
    assert_eq!(MDG_RING_SPSC, 1);
    // Segments and POSIX semaphores are not ours.
    for file in ["mdgtest-segment", "sem.mdgtest-semaphore"] {
        let path = format!("/dev/shm/{file}-{}", std::process::id());
        File::create(&path).unwrap();
        assert!(Rust::list().iter().all(|info| !info.name.ends_with(file.as_bytes())));
        fs::remove_file(&path).unwrap();
    }
}
