//! Objects seen from outside: the Rust functions and the C entry points behind one trait, and rings to
//! look at.

use std::ffi::CString;
use std::fs;
use std::ptr;

use madang::ffi::object::*;
use madang::inventory::{self, Info, Mechanism, State};
use madang::ring::{Kind, Options, Ring};

use super::face::{Outcome, answer, c_string};
use super::process::{Child, Gate, fork};
use super::ring_face::{Face, Named};

/// What both faces can do.
pub trait Inventory {
    type Ring: Face;
    fn list() -> Vec<Info>;
    fn check(mechanism: Mechanism, name: &str) -> Outcome<(usize, String)>;
    fn repair(mechanism: Mechanism, name: &str) -> Outcome<usize>;
    fn holders(mechanism: Mechanism, name: &str) -> Outcome<Vec<mdg_object_holder>>;
    fn reap_with(mechanism: Option<Mechanism>, name: Option<&str>, flags: u32) -> Outcome<usize>;

    /// Whatever is inside.
    fn reap(mechanism: Option<Mechanism>, name: Option<&str>) -> Outcome<usize> {
        Self::reap_with(mechanism, name, MDG_REAP_WITH_ITEMS)
    }

    /// What the list says of one object.
    fn one(mechanism: Mechanism, name: &str) -> Option<Info> {
        Self::list().into_iter().find(|i| i.mechanism == mechanism && i.name == name.as_bytes())
    }
}

pub struct Rust;

pub struct C;

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
    fn holders(mechanism: Mechanism, name: &str) -> Outcome<Vec<mdg_object_holder>> {
        let mut all = Vec::new();
        let total = inventory::holders(mechanism, name.as_bytes(), |one| {
            all.push(mdg_object_holder {
                pid: one.pid,
                uid: one.uid,
                slot: one.slot,
                roles: one.roles,
                alive: one.is_alive.into(),
                permits: one.permits,
                since_ns: one.since,
                command: one.command.map(|byte| byte as _),
            });
        })?;
        assert_eq!(total as usize, all.len());
        Ok(all)
    }
    fn reap_with(mechanism: Option<Mechanism>, name: Option<&str>, flags: u32) -> Outcome<usize> {
        let options = inventory::ReapOptions {
            dry_run: flags & MDG_REAP_DRY_RUN != 0,
            with_items: flags & MDG_REAP_WITH_ITEMS != 0,
        };
        Ok(inventory::reap(mechanism, name.map(str::as_bytes), options)? as usize)
    }
}

pub fn blank() -> mdg_object_info {
    // SAFETY: integers only.
    let mut info: mdg_object_info = unsafe { std::mem::zeroed() };
    info.size = size_of::<mdg_object_info>();
    info
}

pub fn number(mechanism: Option<Mechanism>) -> u32 {
    mechanism.map_or(0, |mechanism| mechanism as u32)
}

/// Those that C has numbers of.
const MECHANISMS: [Mechanism; 6] = [
    Mechanism::Ring,
    Mechanism::Semaphore,
    Mechanism::Mutex,
    Mechanism::Temporary,
    Mechanism::Other,
    Mechanism::Cond,
];
const STATES: [State; 5] =
    [State::Sound, State::Damaged, State::Corrupt, State::NotOurs, State::Unreadable];

impl Inventory for C {
    type Ring = super::ring_face::C;
    fn list() -> Vec<Info> {
        // SAFETY: nothing is written.
        let count = answer(|| unsafe { mdg_object_list(ptr::null_mut(), 0) }).unwrap();
        // Others may make some meanwhile.
        let mut all = vec![blank(); count + 50];
        // SAFETY: an array as long as told.
        let filled = answer(|| unsafe { mdg_object_list(all.as_mut_ptr(), all.len()) }).unwrap();
        assert!(filled <= all.len());
        all.truncate(filled);
        all.iter()
            .map(|one| {
                assert_eq!(one.size, size_of::<mdg_object_info>());
                Info {
                    mechanism: MECHANISMS
                        .into_iter()
                        .find(|&known| number(Some(known)) == one.mechanism)
                        .unwrap(),
                    name: one.name.iter().map(|&c| c as u8).take_while(|&byte| byte != 0).collect(),
                    state: STATES[one.state as usize],
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
                }
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
    fn holders(mechanism: Mechanism, name: &str) -> Outcome<Vec<mdg_object_holder>> {
        let name = c_string(name);
        // SAFETY: integers only.
        let mut all: [mdg_object_holder; 20] = unsafe { std::mem::zeroed() };
        // SAFETY: a C string and an array as long as told; one of them is left alone.
        let total = answer(|| unsafe {
            mdg_object_holders(mechanism as u32, name.as_ptr(), all.as_mut_ptr(), all.len() - 1)
        })?;
        assert!(total < all.len() && all[total].pid == 0);
        // SAFETY: nothing is stored.
        let none =
            || unsafe { mdg_object_holders(mechanism as u32, name.as_ptr(), ptr::null_mut(), 0) };
        assert_eq!(answer(none)?, total);
        Ok(all[..total].to_vec())
    }
    fn reap_with(mechanism: Option<Mechanism>, name: Option<&str>, flags: u32) -> Outcome<usize> {
        let name = name.map(c_string);
        let name = name.as_ref().map_or(ptr::null(), |name: &CString| name.as_ptr());
        // SAFETY: a C string or NULL.
        answer(|| unsafe { mdg_object_reap(number(mechanism), name, flags) })
    }
}

pub fn options(kind: Kind) -> Options {
    Options { kind: Some(kind), max_handles: 9, ..Options::new(8, 12) }
}

pub const KINDS: [Kind; 2] = [Kind::Spsc, Kind::Mpmc];

pub fn item(value: u64) -> [u8; 12] {
    let mut item = [0xa5; 12];
    item[..8].copy_from_slice(&value.to_ne_bytes());
    item
}

pub fn open<F: Face>(name: &Named, kind: Kind, oflag: i32) -> F {
    F::open(Some(&name.0), &options(kind), oflag | libc::O_CREAT, 0o600).unwrap()
}

/// A child that has done `body` and waits to be killed.
pub fn frozen(body: impl FnOnce()) -> Child {
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
pub fn check<I: Inventory>(name: &Named) -> (usize, String) {
    let before = fs::read(name.path()).unwrap();
    let verdict = I::check(Mechanism::Ring, &name.0).unwrap();
    assert!(before == fs::read(name.path()).unwrap(), "a check changed something");
    verdict
}

#[track_caller]
pub fn is_sound<I: Inventory>(name: &Named) {
    let (findings, report) = check::<I>(name);
    assert_eq!(findings, 0, "{report}");
    assert_eq!(I::repair(Mechanism::Ring, &name.0).unwrap(), 0);
}

/// Offsets of docs/layout.md.
pub const CONTROL: u64 = 4096;

pub const SLOTS: u64 = 8192;

pub const ITEMS: u64 = SLOTS + 9 * 128;

/// Files that go away with the test, whatever happens to it.
pub struct Files(pub Vec<String>);

impl Drop for Files {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}
