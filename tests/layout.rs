//! docs/layout.md against the library: its tables are parsed, a ring's file is read at the offsets
//! they give, and a ring written from them alone is opened by the library.

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use madang::ffi::ring::*;
use madang::ring::{Kind, Options, policy};
use nix::fcntl::{FcntlArg, fcntl};
use support::face::NOWAIT;
use support::process::serial;
use support::ring_face::{C, CREATE, Face, Named};
use support::root;

/// One row of a table: where a field is, and how many bytes it has.
#[derive(Debug, Clone, Copy)]
struct Place {
    at: usize,
    len: usize,
}

fn length(kind: &str) -> usize {
    let (base, count) = kind
        .split_once('[')
        .map_or((kind, 1), |(base, count)| (base, count.trim_end_matches(']').parse().unwrap()));
    let bytes = match base {
        "u8" => 1,
        "u16" => 2,
        "u32" => 4,
        "u64" => 8,
        other => panic!("unknown type {other}"),
    };
    bytes * count
}

fn hex(cell: &str) -> Option<u64> {
    u64::from_str_radix(cell.strip_prefix("0x")?, 16).ok()
}

/// The cells of the rows under `## heading` that begin with a hexadecimal offset.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(root().join("docs/layout.md")).unwrap();
    let section = text.split("\n## ").find(|section| section.lines().next() == Some(heading));
    let section = section.unwrap_or_else(|| panic!("no section {heading}"));
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    let rows: Vec<_> = section.lines().filter(|line| line.starts_with("| 0x")).map(cells).collect();
    assert!(!rows.is_empty(), "no table in {heading}");
    rows
}

fn fields(heading: &str) -> BTreeMap<String, Place> {
    let mut end = 0;
    rows(heading)
        .into_iter()
        .map(|row| {
            let place = Place { at: hex(&row[0]).unwrap() as usize, len: length(&row[1]) };
            assert!(place.at >= end, "{row:?} overlaps the row before");
            end = place.at + place.len;
            (row[2].clone(), place)
        })
        .collect()
}

/// A table laid over bytes.
struct View<'a> {
    fields: BTreeMap<String, Place>,
    bytes: &'a [u8],
}

impl View<'_> {
    fn raw(&self, field: &str) -> &[u8] {
        let place = self.fields.get(field).unwrap_or_else(|| panic!("no row {field}"));
        &self.bytes[place.at..place.at + place.len]
    }

    /// Numbers of these tests are those of a little-endian machine.
    fn number(&self, field: &str) -> u64 {
        self.raw(field).iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte))
    }

    /// Every byte that is not zero belongs to a row.
    fn is_complete(&self, what: &str) {
        for (at, _) in self.bytes.iter().enumerate().filter(|(_, byte)| **byte != 0) {
            let known =
                self.fields.values().any(|place| (place.at..place.at + place.len).contains(&at));
            assert!(known, "{what}: byte {at:#x} is in no row");
        }
    }
}

fn over<'a>(heading: &str, bytes: &'a [u8]) -> View<'a> {
    View { fields: fields(heading), bytes }
}

fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = !0_u32;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

fn items_offset(max_handles: u64) -> u64 {
    8192 + 128 * max_handles
}

fn is_locked(file: &File, at: u64) -> bool {
    let mut probe = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: at as libc::off_t,
        l_len: 1,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut probe)).unwrap();
    probe.l_type != libc::F_UNLCK as libc::c_short
}

fn item(value: u64) -> [u8; 12] {
    let mut item = [0xa5; 12];
    item[..8].copy_from_slice(&value.to_le_bytes());
    item
}

/// State, participant, claims, deaths: by the table "Role words".
fn role(word: u64) -> [u64; 4] {
    [word & 0xf, word >> 4 & 0xfff, word >> 16 & 0xff_ffff, word >> 40]
}

#[test]
fn a_ring_is_what_the_tables_say() {
    let _turn = serial();
    let name = Named::new("layout");
    let options = Options { max_handles: 5, ..Options::new(8, 12) };
    let producer = C::open(Some(&name.0), &options, libc::O_WRONLY | libc::O_CREAT, 0o600).unwrap();
    let consumer = C::open(Some(&name.0), &options, libc::O_RDONLY, 0).unwrap();
    for value in 0..11 {
        producer.push(&item(value), NOWAIT).unwrap();
        if value < 6 {
            consumer.pop(&mut [0; 12], NOWAIT).unwrap();
        }
    }
    let one_millisecond = 1_000_000;
    let second = C::open(Some(&name.0), &Options::default(), libc::O_RDWR, 0).unwrap();
    drop(second);
    for value in 11..14 {
        producer.push(&item(value), NOWAIT).unwrap();
    }
    producer.push(&item(14), one_millisecond).unwrap_err();

    let bytes = fs::read(name.path()).unwrap();
    let stat = consumer.stat();

    let superblock = over("Superblock", &bytes[..4096]);
    superblock.is_complete("superblock");
    assert_eq!(superblock.raw("magic"), b"MADANG\r\n");
    let expected = [
        ("layout_major", 1),
        ("layout_minor", 0),
        ("header_len", 4096),
        ("byte_order", 0x0102_0304),
        ("kind", u64::from(stat.kind)),
        ("incompatible_features", 0),
        ("compatible_features", 0),
        ("total_size", bytes.len() as u64),
        ("line", 128),
        ("item_size", u64::from(stat.item_size)),
        ("capacity", stat.capacity),
        ("max_handles", u64::from(stat.max_handles)),
        ("participant_stride", 128),
        ("policy", 0),
        ("control_offset", 4096),
        ("participants_offset", 8192),
        ("items_offset", items_offset(5)),
        ("items_len", 8 * 12),
        ("creator_pid", u64::from(std::process::id())),
        ("creator_uid", u64::from(nix::unistd::geteuid().as_raw())),
        ("checksum", u64::from(crc32c(&bytes[..0xf8]))),
    ];
    for (field, value) in expected {
        assert_eq!(superblock.number(field), value, "{field}");
    }
    assert_ne!(superblock.raw("uuid"), [0; 16]);
    assert_ne!(superblock.raw("boot_id"), [0; 16]);
    assert_ne!(superblock.number("creator_pid_namespace"), 0);
    assert_ne!(superblock.number("creator_start_time"), 0);
    // Three slots were taken, and the last one is free again.
    let hints = ["free_from", "look_from", "high"].map(|hint| superblock.number(hint));
    assert_eq!(hints, [2, 0, 3]);
    // Beside the identity of the maker, every row was compared above.
    assert_eq!(superblock.fields.len(), expected.len() + 5 + hints.len());

    let control = over("Control page", &bytes[4096..8192]);
    control.is_complete("control page");
    assert_eq!(
        [control.number("tail"), control.number("head")],
        [stat.written, stat.read],
        "indices"
    );
    assert_eq!([stat.written, stat.read, stat.length], [14, 6, 8]);
    assert_eq!(control.number("flags"), 0);
    assert_eq!([control.number("push_waits"), control.number("pop_waits")], [1, 0]);
    assert_eq!([stat.push_waits, stat.pop_waits], [1, 0]);
    assert_eq!(control.number("producer_pid"), u64::from(stat.producer_pid));
    assert_eq!(control.number("consumer_pid"), u64::from(stat.consumer_pid));
    // Held, by slots 0 and 1, claimed once, nobody died.
    assert_eq!(role(control.number("producer_role")), [1, 0, 1, 0]);
    assert_eq!(role(control.number("consumer_role")), [1, 1, 1, 0]);
    // The producer slept in vain: nobody was there to clear what it armed, or to move the epoch.
    assert_eq!(control.number("not_full_seq"), 0);
    assert_eq!(control.number("not_full_armed") & 0x7fff_ffff, 1);

    let slots = superblock.number("participants_offset") as usize;
    for (index, state, generation) in [(0, 1, 1), (1, 1, 1), (2, 0, 1), (3, 0, 0), (4, 0, 0)] {
        let at = slots + 128 * index;
        let slot = over("Participant slots", &bytes[at..at + 128]);
        slot.is_complete("slot");
        assert_eq!(slot.number("state"), state, "slot {index}");
        assert_eq!(slot.number("generation"), generation, "slot {index}");
        let me = if generation > 0 { u64::from(std::process::id()) } else { 0 };
        assert_eq!(slot.number("pid"), me, "slot {index}");
    }

    let items = superblock.number("items_offset") as usize;
    for value in stat.read..stat.written {
        let at = items + (value % stat.capacity) as usize * 12;
        assert_eq!(bytes[at..at + 12], item(value), "item {value}");
    }

    let file = File::open(name.path()).unwrap();
    let locks: BTreeMap<String, u64> =
        rows("Lock bytes").into_iter().map(|row| (row[1].clone(), hex(&row[0]).unwrap())).collect();
    assert!(!is_locked(&file, locks["admin"]));
    for (lock, held) in [("producer", true), ("consumer", true), ("slot", true)] {
        assert_eq!(is_locked(&file, locks[lock]), held, "{lock}");
    }
    assert!(is_locked(&file, locks["slot"] + 2) && !is_locked(&file, locks["slot"] + 4));

    producer.shutdown().unwrap();
    drop(producer);
    let bytes = fs::read(name.path()).unwrap();
    let control = over("Control page", &bytes[4096..8192]);
    assert_eq!(control.number("flags"), u64::from(MDG_RING_SHUTDOWN));
    assert_eq!(role(control.number("producer_role")), [2, 0, 1, 0]);
    // The shutdown woke: the epoch moved and nobody is armed.
    assert_eq!(control.number("not_full_seq"), 2);
    assert_eq!(control.number("not_full_armed") & 0x7fff_ffff, 0);
    assert!(!is_locked(&file, locks["producer"]) && !is_locked(&file, locks["slot"]));
}

#[test]
fn the_overhead_is_what_the_page_says() {
    let text = fs::read_to_string(root().join("docs/layout.md")).unwrap();
    for (handles, overhead) in [(0, 16384_u64), (1, 8320), (2, 8448), (4096, 532_480)] {
        let name = Named::new("overhead");
        let options = Options { max_handles: handles, ..Options::new(3, 7) };
        C::open(Some(&name.0), &options, CREATE, 0o600).unwrap();
        let length = fs::metadata(name.path()).unwrap().len();
        assert_eq!(length, overhead + 4 * 7, "{handles} handles");
        assert!(text.contains(&overhead.to_string()), "{overhead} is not on the page");
    }
}

#[test]
fn a_ring_written_from_the_tables_is_a_ring() {
    let _turn = serial();
    let name = Named::new("foreign");
    let offset = items_offset(3);
    let mut bytes = vec![0_u8; offset as usize + 4 * 12];
    let mut put = |start: usize, heading: &str, values: &[(&str, &[u8])]| {
        let fields = fields(heading);
        for (field, value) in values {
            let place = fields[*field];
            bytes[start + place.at..][..place.len].copy_from_slice(&value[..place.len]);
        }
    };
    let number = |value: u64| value.to_le_bytes();
    put(
        0,
        "Superblock",
        &[
            ("magic", b"MADANG\r\n"),
            ("layout_major", &number(1)),
            ("layout_minor", &number(7)),
            ("header_len", &number(4096)),
            ("byte_order", &number(0x0102_0304)),
            ("kind", &number(1)),
            ("compatible_features", &number(1 << 40)),
            ("total_size", &number(offset + 4 * 12)),
            ("line", &number(128)),
            ("item_size", &number(12)),
            ("capacity", &number(4)),
            ("max_handles", &number(3)),
            ("participant_stride", &number(128)),
            ("control_offset", &number(4096)),
            ("participants_offset", &number(8192)),
            ("items_offset", &number(offset)),
            ("items_len", &number(4 * 12)),
            ("creator_pid", &number(4711)),
        ],
    );
    // Items 1, 2 and 3 of a stream are inside; its producer died unnoticed in the third claim.
    let held = 1 | 2 << 4 | 3 << 16;
    put(
        4096,
        "Control page",
        &[("tail", &number(4)), ("head", &number(1)), ("producer_role", &number(held))],
    );
    for value in 1..4 {
        bytes[offset as usize + 12 * value..][..12].copy_from_slice(&item(value as u64));
    }
    let checksum = crc32c(&bytes[..0xf8]);
    let place = fields("Superblock")["checksum"];
    bytes[place.at..place.at + place.len].copy_from_slice(&checksum.to_le_bytes());

    let file = File::create(name.path()).unwrap();
    file.write_all_at(&bytes, 0).unwrap();
    let ring = C::open(Some(&name.0), &Options::default(), libc::O_RDONLY, 0).unwrap();
    let stat = ring.stat();
    assert_eq!([stat.written, stat.read, stat.length, stat.recovered], [4, 1, 3, 1]);
    assert_eq!([stat.producer_state, stat.consumer_state], [MDG_RING_END_DEAD, MDG_RING_END_LIVE]);
    for value in 1..4 {
        let mut popped = [0; 12];
        ring.pop(&mut popped, NOWAIT).unwrap();
        assert_eq!(popped, item(value));
    }
    assert_eq!(ring.pop(&mut [0; 12], NOWAIT).unwrap_err().code, libc::EAGAIN);
    assert_eq!(ring.pop(&mut [0; 12], 1).unwrap_err().code, libc::EOWNERDEAD);
}

#[test]
fn semaphores_whose_permits_come_back() {
    use madang::sem::{Permit, UndoOptions, UndoSemaphore};
    use madang::{Creation, Timeout};
    let _turn = serial();
    let name = support::unique("layout");
    let options = UndoOptions { value: 5, max_handles: 3, tell: false };
    let open = |creation| UndoSemaphore::open(name.as_bytes(), &options, creation, 0o600).unwrap();
    let first = open(Creation::CreateNew);
    let second = open(Creation::OpenOnly);
    assert_eq!(first.wait(Timeout::NoWait).unwrap(), Permit::Ordinary);
    assert_eq!(second.wait(Timeout::NoWait).unwrap(), Permit::Ordinary);
    assert_eq!(second.wait(Timeout::NoWait).unwrap(), Permit::Ordinary);
    let bytes = fs::read(format!("/dev/shm/mdg.sem.{}", &name[1..])).unwrap();
    UndoSemaphore::unlink(name.as_bytes()).unwrap();
    let superblock = over("Superblock", &bytes[..4096]);
    let numbers = ["kind", "item_size", "capacity", "max_handles", "policy"];
    assert_eq!(numbers.map(|field| superblock.number(field)), [16, 128, 4, 3, 5]);
    let control = over("Semaphores of kind 16", &bytes[4096..8192]);
    control.is_complete("control page");
    let word = control.number("word");
    // Two free, which is three fewer than it was made with; the last was number 2 of participant 1.
    assert_eq!([word & 0xf_ffff, word >> 20 & 1], [(1 << 20) - 3, 0]);
    assert_eq!([word >> 21 & 0xfff, word >> 33], [1, 2]);
    let record = |participant: u64| {
        let at = (items_offset(3) + 128 * participant) as usize;
        [0, 8]
            .map(|field| u64::from_le_bytes(bytes[at + field..at + field + 8].try_into().unwrap()))
    };
    assert_eq!(record(0), [1 << 34 | 1 << 32 | 1, 1 << 32 | 1], "marked by the next operation");
    assert_eq!(record(1), [1 << 32 | 2, 2 << 32 | 2]);
}

#[test]
fn a_stopproof_ring_is_what_the_tables_say() {
    let _turn = serial();
    let name = Named::new("stopproof");
    let options = Options {
        kind: Some(Kind::Mpmc),
        policy: policy::STOPPROOF,
        max_handles: 5,
        ..Options::new(8, 12)
    };
    let ring = C::open(Some(&name.0), &options, CREATE, 0o600).unwrap();
    for value in 0..21 {
        ring.push(&item(value), NOWAIT).unwrap();
        if value < 18 {
            ring.pop(&mut [0; 12], NOWAIT).unwrap();
        }
    }
    ring.reserve(1, NOWAIT).unwrap();
    ring.peek(1, NOWAIT).unwrap();
    let bytes = fs::read(name.path()).unwrap();
    let superblock = over("Superblock", &bytes[..4096]);
    let (places, cells, stride) = (16_usize, 18_usize, 24_usize);
    let cells_offset = 128 + 8 * places;
    assert_eq!(superblock.number("policy"), 1);
    assert_eq!(superblock.number("items_offset"), items_offset(5));
    assert_eq!(superblock.number("items_len"), (cells_offset + cells * stride) as u64);
    assert_eq!(bytes.len() as u64, items_offset(5) + superblock.number("items_len"));
    let control = over("Control page", &bytes[4096..8192]);
    assert_eq!([control.number("tail"), control.number("head")], [21, 19]);

    let part = &bytes[items_offset(5) as usize..];
    let table = over("Stop-proof rings", &part[..cells_offset]);
    assert!(table.number("hint") < 1 << 32);
    let word = |at: usize| u64::from_le_bytes(part[at..at + 8].try_into().unwrap());
    let first = table.fields["first_place"].at;
    // 18 cells take 5 bits. Positions 19 and 20 are in lap 1, and inside; 18 was popped.
    for position in 5..21_u64 {
        let place = word(first + 8 * (position % 16) as usize);
        let (turn, cell) = (place >> 5, (place & 31) as usize);
        let lap = position / 16;
        if position < 19 {
            assert_eq!((turn, cell), (2 * lap + 2, 0), "position {position}");
            continue;
        }
        assert_eq!(turn, 2 * lap + 1, "position {position}");
        let at = cells_offset + cell * stride;
        assert_eq!(word(at), position << 16 | 2, "offered by slot 0");
        assert_eq!(part[at + 8..at + 20], item(position));
    }
    let state =
        |state| (0..cells).filter(|i| word(cells_offset + i * stride) & 15 == state).count();
    assert_eq!([0, 1, 2, 3].map(state), [cells - 4, 1, 2, 1]);
}
