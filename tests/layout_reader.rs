//! A second reader, tests/layout_reader.py, written from docs/layout.md with nothing of the library
//! in it, against the library: what it decodes of a ring in use, or of a corpse, is what
//! `mdg_ring_stat` says and what is popped then.

#[path = "support/second_reader.rs"]
mod second_reader;
mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use madang::ring::{Kind, Options, Ring, policy};
use madang::shm::Shm;
use madang::{Access, Creation, OpenFlags};
use second_reader::{agrees, hex, items, pop_all, run};
use serde_json::{Value, json};
use support::face::NOWAIT;
use support::process::{Child, Gate, fork, join, kill, serial};
use support::ring_face::{C, CREATE, Face, Named, SECOND, pattern};
use support::unique;

fn read(path: &str, offset: Option<usize>) -> Result<Value, String> {
    let offset = offset.map(|offset| offset.to_string());
    run(&[path.to_owned()].into_iter().chain(offset).collect::<Vec<_>>())
}

fn slot(found: &Value, index: usize) -> &Value {
    let all = found["participants"].as_array().unwrap();
    all.iter().find(|slot| slot["slot"] == json!(index)).unwrap_or_else(|| panic!("{found:#}"))
}

fn options(kind: Kind, item_size: usize) -> Options {
    Options { kind: Some(kind), max_handles: 7, ..Options::new(8, item_size as u32) }
}

fn open(name: &Named, options: &Options, oflag: i32) -> C {
    C::open(Some(&name.0), options, oflag | libc::O_CREAT, 0o600).unwrap()
}

const KINDS: [Kind; 2] = [Kind::Spsc, Kind::Mpmc];

fn number_of(index: u64, size: usize) -> Vec<u8> {
    let mut item = vec![0; size];
    pattern(index, &mut item);
    item
}

#[test]
fn items_of_every_size() {
    let _turn = serial();
    for kind in KINDS {
        // Read in one go: to start an interpreter for each would take most of the time.
        let rings: Vec<(Named, C)> = (1..=100)
            .map(|size| {
                let name = Named::new("sizes");
                let ring = open(&name, &options(kind, size), libc::O_RDWR);
                // Wrapped around, and not full.
                for index in 0..13 {
                    ring.push(&number_of(index, size), NOWAIT).unwrap();
                    if index < 7 {
                        ring.pop(&mut vec![0; size], NOWAIT).unwrap();
                    }
                }
                (name, ring)
            })
            .collect();
        let paths: Vec<String> = rings.iter().map(|(name, _)| name.path()).collect();
        let all = run(&[&["--all".to_owned()], &paths[..]].concat()).unwrap();
        assert_eq!(all.as_array().unwrap().len(), 100);
        for (size, ((_, ring), found)) in (1..).zip(rings.iter().zip(all.as_array().unwrap())) {
            agrees(found, &ring.stat());
            let expected: Vec<Value> = (7..13).map(|index| hex(&number_of(index, size))).collect();
            assert_eq!(items(found), expected, "items of {size} bytes");
            assert_eq!(pop_all(ring, size), expected);
        }
    }
}

/// A producer and a consumer at work, looked at when both rest.
#[test]
fn a_living_ring() {
    let _turn = serial();
    for kind in KINDS {
        let name = Named::new("live");
        let ring = open(&name, &options(kind, 24), libc::O_RDWR);
        let worker = |oflag, work: &dyn Fn(&C, u64)| {
            let (go, rests) = (Gate::new(), Gate::new());
            let child = fork(|| {
                let ring = open(&name, &Options::default(), oflag);
                for round in 0..2 {
                    go.pass();
                    work(&ring, round);
                    rests.open();
                }
                go.pass();
            });
            (child, go, rests)
        };
        // 4500 items through 8 places, then as many again and 5 more that stay inside.
        let producer = worker(libc::O_WRONLY, &|ring, round| {
            for index in 4500 * round..4500 * (round + 1) + 5 * round {
                ring.push(&number_of(index, 24), 60 * SECOND).unwrap();
            }
        });
        let consumer = worker(libc::O_RDONLY, &|ring, round| {
            for index in 4500 * round..4500 * (round + 1) {
                let mut item = vec![0; 24];
                ring.pop(&mut item, 60 * SECOND).unwrap();
                assert_eq!(item, number_of(index, 24));
            }
        });
        for round in 0..2 {
            for (_, go, _) in [&producer, &consumer] {
                go.open();
            }
            for (_, _, rests) in [&producer, &consumer] {
                rests.pass();
            }
            let found = read(&name.path(), None).unwrap();
            agrees(&found, &ring.stat());
            assert_eq!(items(&found).len() as u64, 5 * round);
            for (index, child) in [(1, &producer.0), (2, &consumer.0)] {
                let all = found["participants"].as_array().unwrap();
                assert_eq!(all.len(), 3, "slot {index} of {found:#}");
                let pid = json!(child.pid().as_raw());
                let one = all.iter().find(|slot| slot["pid"] == pid).unwrap();
                assert_eq!((&one["lives"], &one["corpse"]), (&json!(true), &json!(false)));
            }
        }
        let found = read(&name.path(), None).unwrap();
        kill(producer.0);
        kill(consumer.0);
        let after = read(&name.path(), None).unwrap();
        agrees(&after, &ring.stat());
        assert_eq!(items(&found), items(&after));
        let corpses =
            after["participants"].as_array().unwrap().iter().filter(|s| s["corpse"] == json!(true));
        assert_eq!(corpses.count(), 2);
        assert_eq!(after["control"]["producer"]["holder"], json!("dead"));
        // What is left can be had by the next consumer.
        assert_eq!(pop_all(&ring, 24), items(&after));
    }
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

/// Killed with a reserve open, with a peek open, both: read as they were found, then compared with
/// what the library makes of it.
#[test]
fn corpses() {
    let _turn = serial();
    for kind in KINDS {
        for (reserves, peeks) in [(true, false), (false, true), (true, true)] {
            let name = Named::new("corpse");
            let producer = frozen(|| {
                let ring = open(&name, &options(kind, 20), libc::O_WRONLY);
                (0..5).for_each(|index| ring.push(&number_of(index, 20), NOWAIT).unwrap());
                if reserves {
                    ring.reserve(1, NOWAIT).unwrap();
                }
                std::mem::forget(ring);
            });
            let consumer = frozen(|| {
                let ring = open(&name, &options(kind, 20), libc::O_RDONLY);
                ring.pop(&mut [0; 20], NOWAIT).unwrap();
                if peeks {
                    ring.peek(1, NOWAIT).unwrap();
                }
                std::mem::forget(ring);
            });
            let alive = read(&name.path(), None).unwrap();
            kill(producer);
            kill(consumer);
            let dead = read(&name.path(), None).unwrap();
            for index in [0, 1] {
                assert_eq!(slot(&alive, index)["lives"], json!(true));
                assert_eq!(slot(&dead, index)["corpse"], json!(true));
            }
            assert_eq!(dead["recovered"], json!(2), "two deaths, which nobody has noted");
            // The same memory, but for the living.
            assert_eq!(items(&alive), items(&dead));
            let taken = u64::from(peeks && kind == Kind::Mpmc);
            let left: Vec<Value> = (1 + taken..5).map(|index| hex(&number_of(index, 20))).collect();
            assert_eq!(items(&dead), left);
            if kind == Kind::Mpmc {
                let progress = |found: &Value, dead: bool| {
                    let of = |position: u64, what: &str, slot: u64| json!({"position": position, "what": what, "slots": [slot], "dead": dead});
                    let mut expected = Vec::new();
                    expected.extend(peeks.then(|| of(1, "pops", 1)));
                    expected.extend(reserves.then(|| of(5, "pushes", 0)));
                    assert_eq!(found["in_progress"], json!(expected));
                };
                progress(&alive, false);
                progress(&dead, true);
            }
            // The library agrees, before and after it has cleared away.
            let ring = open(&name, &Options::default(), libc::O_RDWR);
            let swept = read(&name.path(), None).unwrap();
            agrees(&swept, &ring.stat());
            assert_eq!(pop_all(&ring, 20), left);
            let empty = read(&name.path(), None).unwrap();
            agrees(&empty, &ring.stat());
            assert_eq!(empty["recovered"], json!(2));
            assert!(items(&empty).is_empty());
        }
    }
}

#[test]
fn policies_waits_and_shutdown() {
    let _turn = serial();
    for policy in [policy::OVERWRITE, policy::FAIL] {
        let name = Named::new("policy");
        let options = Options { policy, ..options(Kind::Mpmc, 9) };
        let ring = open(&name, &options, libc::O_RDWR);
        for index in 0..20 {
            let _ = ring.push(&number_of(index, 9), NOWAIT);
        }
        ring.reserve(1, NOWAIT).err();
        let _ = ring.commit(0);
        let found = read(&name.path(), None).unwrap();
        agrees(&found, &ring.stat());
        assert_eq!(items(&found), pop_all(&ring, 9));
        ring.pop(&mut [0; 9], 1_000_000).unwrap_err();
        let found = read(&name.path(), None).unwrap();
        assert_eq!(found["control"]["not_empty"]["armed"], json!(1));
        assert_eq!(found["control"]["pop_waits"], json!(1));
        ring.shutdown().unwrap();
        let found = read(&name.path(), None).unwrap();
        agrees(&found, &ring.stat());
        assert_eq!(found["control"]["not_empty"], json!({"seq": 2, "armed": 0, "heavy": false}));
    }
    let name = Named::new("ended");
    join(fork(|| {
        let ring = open(&name, &options(Kind::Spsc, 8), libc::O_WRONLY);
        ring.shutdown().unwrap();
        std::mem::forget(ring);
    }));
    let found = read(&name.path(), None).unwrap();
    assert_eq!(found["control"]["producer"]["state"], json!("ended"));
    assert_eq!(found["control"]["producer"]["holder"], json!("closed"));
    assert_eq!(found["recovered"], json!(0));
    let ring = open(&name, &Options::default(), libc::O_RDWR);
    agrees(&read(&name.path(), None).unwrap(), &ring.stat());
}

/// Two rings in one segment, the locks of each at their own place.
#[test]
fn rings_in_a_segment() {
    let _turn = serial();
    let name = unique("segment");
    let path = format!("/dev/shm{name}");
    let step = Ring::footprint(&options(Kind::Mpmc, 16)).unwrap();
    let flags = OpenFlags::new(Access::ReadWrite, Creation::CreateNew);
    let segment = Shm::open(name.as_bytes(), 4 * step + 4096, flags, 0o600).unwrap();
    let places = [(4096, Kind::Spsc), (4096 + step, Kind::Mpmc)];
    for (offset, kind) in places {
        let ring = Ring::init(&segment, offset, &options(kind, 16), Access::ReadWrite).unwrap();
        let corpse = frozen(|| {
            let other =
                Ring::attach_to(&segment, offset, &Options::default(), Access::WriteOnly).unwrap();
            (0..11).for_each(|index| {
                let _ = Face::push(&other, &number_of(index, 16), NOWAIT);
            });
            std::mem::forget(other);
        });
        let found = read(&path, Some(offset)).unwrap();
        agrees(&found, &Face::stat(&ring));
        assert_eq!(slot(&found, 1)["lives"], json!(true));
        kill(corpse);
        let found = read(&path, Some(offset)).unwrap();
        assert_eq!(slot(&found, 0)["lives"], json!(true));
        assert_eq!(slot(&found, 1)["corpse"], json!(true));
        agrees(&found, &Face::stat(&ring));
        let expected: Vec<Value> = (0..8).map(|index| hex(&number_of(index, 16))).collect();
        assert_eq!(items(&found), expected);
    }
    assert!(read(&path, Some(0)).unwrap_err().contains("magic"));
    assert!(read(&path, None).unwrap_err().contains("magic"));
    fs::remove_file(path).unwrap();
}

/// It refuses what the page says is to be refused, and what it reads follows the bytes: a differential
/// test that could not fail would prove nothing.
#[test]
fn the_reader_can_fail() {
    let _turn = serial();
    for kind in KINDS {
        let name = Named::new("bent");
        let ring = open(&name, &options(kind, 12), libc::O_RDWR);
        (0..3).for_each(|index| ring.push(&number_of(index, 12), NOWAIT).unwrap());
        ring.pop(&mut [0; 12], NOWAIT).unwrap();
        let good = read(&name.path(), None).unwrap();
        let file = File::options().read(true).write(true).open(name.path()).unwrap();
        let bend = |at: u64, bytes: &[u8]| {
            let mut before = vec![0; bytes.len()];
            file.read_exact_at(&mut before, at).unwrap();
            file.write_all_at(bytes, at).unwrap();
            let found = read(&name.path(), None);
            file.write_all_at(&before, at).unwrap();
            found
        };
        for at in [0, 8, 0x0c, 0x10, 0x14, 0x28, 0x3c, 0x40, 0x48, 0x4c, 0x50, 0x70, 0xf8] {
            let error = bend(at, &[0x77]).unwrap_err();
            assert!(error.contains(" is "), "byte {at:#x}: {error}");
        }
        assert!(bend(4096 + 0x200, &[2]).unwrap_err().contains("corrupt"));
        assert!(bend(4096, &[99]).unwrap_err().contains("corrupt"));
        let items_at = good["superblock"]["items_offset"].as_u64().unwrap();
        let stride = good["superblock"]["stride"].as_u64().unwrap();
        if kind == Kind::Mpmc {
            let second = items_at + stride;
            assert!(bend(second, &[0; 8]).unwrap_err().contains("nobody's"));
            assert!(bend(second, &[0, 0, 9]).unwrap_err().contains("corrupt"));
            assert!(bend(items_at + 5 * stride, &[0, 0, 1]).unwrap_err().contains("early"));
        }
        // A byte of an item, of a role, of a slot, is seen where it is.
        let item = items_at + stride + if kind == Kind::Mpmc { 8 } else { 0 };
        let found = bend(item, &[!number_of(1, 12)[0]]).unwrap();
        assert_ne!(found["items"][0], good["items"][0]);
        assert_eq!(found["items"][1], good["items"][1]);
        for (at, part) in [(4096 + 0x308, "control"), (8192 + 0x10, "participants")] {
            let found = bend(at, &[0xee]).unwrap();
            assert_ne!(found[part], good[part]);
        }
        assert_eq!(read(&name.path(), None).unwrap(), good);
    }
    nothing_else_is_a_ring();
}

fn nothing_else_is_a_ring() {
    assert!(read("/dev/null", None).unwrap_err().contains("regular"));
    assert!(!Path::new("/dev/shm/mdg.ring.").exists());
    assert!(read("/dev/shm/mdg.ring.", None).unwrap_err().contains("No such file"));
    assert_eq!(CREATE, libc::O_RDWR | libc::O_CREAT);
}

/// Likewise of the other kinds: words that no history leads to.
#[test]
fn the_reader_can_fail_at_every_kind() {
    let _turn = serial();
    let control = 4096_u64;
    let slot = |index: u64, field: u64| 8192 + 128 * index + field;
    let items_at = 8192 + 128 * 7;
    let places = items_at + 128;
    let cells = items_at + 128 + 8 * 16;
    let stride = 8 + 16;
    // Kind, policy, where, which bytes, and what is said then.
    let bends: [(Kind, u32, u64, &[u8], &str); 14] = [
        (Kind::Mpmc, policy::STOPPROOF, places + 8, &[0; 8], "position 1 is not there"),
        (Kind::Mpmc, policy::STOPPROOF, places + 8, &[0xff], "the place of position 17"),
        (Kind::Mpmc, policy::STOPPROOF, places + 8 * 5, &[1; 8], "the place of position 5"),
        (Kind::Mpmc, policy::STOPPROOF, cells + stride, &[0x07], "cell 1 says"),
        (Kind::Mpmc, policy::STOPPROOF, control, &[9], "position 3 is not there"),
        (Kind::Mpmc, policy::STOPPROOF, control + 0x80, &[9], "from 9 to 3"),
        (Kind::Broadcast, 0, slot(1, 0x50), &[9], "the cursor of slot 1"),
        (Kind::Broadcast, 0, slot(1, 0x58), &[2], "the reader of slot 1"),
        (Kind::Broadcast, policy::EVICT, slot(1, 0x58), &[7], "the reader of slot 1"),
        (Kind::Broadcast, policy::EVICT, control + 0x680, &[0], "the reader of slot 1"),
        (Kind::Broadcast, policy::EVICT, control + 0x80, &[9], "head 9, tail 3"),
        (Kind::Broadcast, policy::OVERWRITE, items_at + stride, &[3], "for position 1"),
        (Kind::Broadcast, policy::OVERWRITE, items_at + 5 * stride, &[12], "position 5 was used"),
        (Kind::Broadcast, policy::OVERWRITE, control, &[7], "for position"),
    ];
    for (kind, policy, at, bytes, text) in bends {
        let name = Named::new("bent");
        let options = Options { policy, ..options(kind, 12) };
        let producer = open(&name, &options, libc::O_WRONLY);
        let consumer = open(&name, &Options::default(), libc::O_RDONLY);
        (0..3).for_each(|index| producer.push(&number_of(index, 12), NOWAIT).unwrap());
        consumer.pop(&mut [0; 12], NOWAIT).unwrap();
        let good = read(&name.path(), None).unwrap();
        agrees(&good, &consumer.stat());
        let last = good["items"].as_array().unwrap().last().unwrap();
        assert_eq!(last, &hex(&number_of(2, 12)), "{kind:?}, {policy}: {good:#}");
        let file = File::options().write(true).open(name.path()).unwrap();
        file.write_all_at(bytes, at).unwrap();
        let error = read(&name.path(), None).map(|found| format!("{found:#}")).unwrap_err();
        assert!(error.contains(text), "{kind:?}, {policy}, {at:#x}: {error}");
    }
}

/// Items that came back, that were taken again, and that nobody has noticed yet.
#[test]
fn items_that_come_again() {
    let _turn = serial();
    let name = Named::new("again");
    let options = Options { policy: policy::REDELIVER, ..options(Kind::Mpmc, 16) };
    let ring = open(&name, &options, libc::O_RDWR);
    (0..6).for_each(|index| ring.push(&number_of(index, 16), NOWAIT).unwrap());
    let one_dies = || {
        let ready = Gate::new();
        let child = fork(|| {
            ring.peek(1, NOWAIT).unwrap();
            ready.open();
            loop {
                nix::unistd::pause();
            }
        });
        ready.pass();
        child
    };
    let [first, second, third] = [(); 3].map(|()| one_dies());
    kill(first);
    kill(second);
    // Both are noticed; the third dies unnoticed, and one of the two is taken again.
    let others = [(); 2].map(|()| ring.dup(libc::O_RDONLY).unwrap());
    kill(third);
    others[0].peek(1, NOWAIT).unwrap();
    let found = read(&name.path(), None).unwrap();
    agrees(&found, &ring.stat());
    let progress = found["in_progress"].as_array().unwrap();
    let dead: Vec<_> = progress.iter().map(|one| one["dead"].as_bool().unwrap()).collect();
    assert_eq!(dead, [false, true]);
    assert_eq!(found["control"]["redelivered"], json!(1));
    assert_eq!(ring.stat().redelivered, 1);
    assert_eq!(items(&found), [1, 3, 4, 5].map(|index| hex(&number_of(index, 16))));
    assert_eq!(pop_all(&ring, 16), items(&found));
}
