//! What there is: objects listed, of all users, and what is particular to C.

mod support;

use std::ffi::c_char;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::ptr;

use madang::Creation;
use madang::ffi::object::*;
use madang::ffi::ring::*;
use madang::inventory::{self, Info, Mechanism};
use madang::mutex::Mutex;
use madang::ring::{Kind, Ring};
use support::confine::with_own_shm;
use support::face::{NOWAIT, answer, c_string, refused_with};
use support::object_face::{
    C, Inventory, KINDS, Rust, blank, check, frozen, is_sound, item, open, options,
};
use support::process::{as_nobody, is_root, kill, serial};
use support::ring_face::{CREATE, Face, Named};

on_both_faces! { Rust, C in turn:
    a_ring_and_its_users_are_listed
    other_users
    all_at_once
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
        drop(Mutex::open(b"/m", Creation::CreateNew, 0o600).unwrap());
        fs::copy(alone.path(), "/dev/shm/mdg.new.m").unwrap();
        let there = || fs::read_dir("/dev/shm").unwrap().count();
        let listed: Vec<String> =
            I::list().into_iter().map(|info| String::from_utf8(info.name).unwrap()).collect();
        assert_eq!(listed[4..], ["/m", "/1.1", "/new.m"]);
        assert_eq!((listed.len(), there()), (7, 12));
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
    refused_with(check(8, text.as_ptr(), nothing, 0), libc::EINVAL, "no mechanism 8");
    let mut report = [0x7f_u8; 32];
    assert_eq!(check(MDG_OBJECT_RING, text.as_ptr(), report.as_mut_ptr().cast(), 20), Ok(0));
    assert_eq!(&report[..5], b"...\n\0", "the line does not fit");
    assert_eq!(report[20..], [0x7f; 12]);
    // SAFETY: NULL is refused; a C string.
    unsafe {
        refused_with(answer(|| mdg_object_repair(1, ptr::null())), libc::EINVAL, "NULL");
        refused_with(answer(|| mdg_object_repair(9, text.as_ptr())), libc::EINVAL, "9");
        refused_with(answer(|| mdg_object_reap(1, ptr::null(), 4)), libc::EINVAL, "0x4");
        refused_with(answer(|| mdg_object_reap(9, ptr::null(), 0)), libc::EINVAL, "9");
        refused_with(answer(|| mdg_object_reap(0, text.as_ptr(), 0)), libc::EINVAL, "mechanism");
        refused_with(answer(|| mdg_object_repair(3, text.as_ptr())), libc::ENOSYS, "repair");
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
