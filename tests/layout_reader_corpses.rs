//! The second reader, tests/layout_reader.py, on objects of every kind whose users were stopped in the
//! middle of an operation, and then killed: what it reads is what the library says, and what the next
//! one gets.

#[path = "support/second_reader.rs"]
mod second_reader;
mod support;

use madang::ring::{Kind, Options, Start, policy};
use madang::sem::{Holder, UndoOptions, UndoSemaphore};
use madang::{Creation, Timeout};
use second_reader::{agrees, hex, items, run};
use serde_json::{Value, json};
use support::face::NOWAIT;
use support::process::{Child, kill, serial};
use support::ring_face::{C, CREATE, Face, Named, SECOND, pattern};
use support::trace::stepped;
use support::unique;

const SIZE: usize = 20;

/// Corpses for each kind and operation.
const STOPS: u64 = 12;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Act {
    Push,
    Pop,
    FillInPlace,
    ReadInPlace,
}

fn item(number: u64) -> Vec<u8> {
    let mut item = vec![0; SIZE];
    pattern(number, &mut item);
    item
}

fn options(kind: Kind, policy: u32) -> Options {
    Options { kind: Some(kind), policy, max_handles: 5, ..Options::new(4, SIZE as u32) }
}

fn open(name: &Named, oflag: i32) -> C {
    C::open(Some(&name.0), &Options::default(), oflag, 0).unwrap()
}

/// Both ends in one process, after some laps; three items are inside.
fn ends(name: &Named) -> [C; 2] {
    let (producer, consumer) = (open(name, libc::O_WRONLY), open(name, libc::O_RDONLY));
    for number in 0..9 {
        producer.push(&item(number), NOWAIT).unwrap();
        if number < 6 {
            consumer.pop(&mut [0; SIZE], NOWAIT).unwrap();
        }
    }
    [producer, consumer]
}

fn operate(act: Act, [producer, consumer]: &[C; 2]) {
    match act {
        Act::Push => producer.push(&item(9), NOWAIT).unwrap(),
        Act::Pop => consumer.pop(&mut [0; SIZE], NOWAIT).unwrap(),
        Act::FillInPlace => {
            let (room, _) = producer.reserve(1, NOWAIT).unwrap();
            // SAFETY: room for one item.
            unsafe { room.copy_from(item(9).as_ptr(), SIZE) };
            producer.commit(1).unwrap();
        }
        Act::ReadInPlace => {
            consumer.peek(1, NOWAIT).unwrap();
            consumer.release(1).unwrap();
        }
    }
}

/// Where to stop in an operation of so many instructions.
fn stops(instructions: u64) -> impl Iterator<Item = u64> {
    (0..STOPS).map(move |stop| stop * instructions / STOPS)
}

/// A ring, seen by one who takes no end, and its user, stopped in `act`.
type Scene = (Named, C, Child);

fn scenes(kind: Kind, policy: u32, act: Act) -> Vec<Scene> {
    let scene = |most| {
        let name = Named::new("stopped");
        let options = options(kind, policy);
        let witness = C::open(Some(&name.0), &options, CREATE, 0o600).unwrap();
        let (child, steps) = stepped(|| ends(&name), |ends| operate(act, ends), most);
        ((name, witness, child), steps)
    };
    let (whole, instructions) = scene(u64::MAX);
    let mut all: Vec<_> = stops(instructions).map(|most| scene(most).0).collect();
    all.push(whole);
    all
}

/// What the library says, and gives, of a ring that was decoded as `found`.
fn compare(name: &Named, witness: &C, found: &Value, what: &str) {
    eprintln!("{what}");
    agrees(found, &witness.stat());
    let block = &found["superblock"];
    let is_broadcast = block["kind"] == json!(3);
    let inside = items(found);
    let popped: Vec<Value> = if is_broadcast {
        let oldest = Options { start: Start::Oldest, ..Options::default() };
        let next = C::open(Some(&name.0), &oldest, libc::O_RDONLY, 0).unwrap();
        second_reader::pop_all(&next, SIZE)
    } else {
        let mut buffer = [0; SIZE];
        let pop = |_: &Value| {
            witness.pop(&mut buffer, SECOND).unwrap();
            hex(&buffer)
        };
        let popped = inside.iter().map(pop).collect();
        assert!(witness.pop(&mut buffer, NOWAIT).is_err(), "{found:#}");
        popped
    };
    // One that joins may get more than the slowest had still to read.
    assert!(popped.ends_with(&inside), "{popped:?} of {found:#}");
    assert!(is_broadcast && block["policy"] != json!(2) || popped == inside);
    let corpses = found["participants"].as_array().unwrap();
    let dead = corpses.iter().filter(|slot| slot["corpse"] == json!(true)).count();
    let expected =
        if block["kind"] == json!(3) && block["policy"] == json!(2) { 1..3 } else { 2..3 };
    assert!(expected.contains(&dead), "{found:#}");
}

fn kind_of_ring(kind: Kind, policy: u32) {
    let _turn = serial();
    let (mut all, mut children) = (Vec::new(), Vec::new());
    for act in [Act::Push, Act::Pop, Act::FillInPlace, Act::ReadInPlace] {
        for (name, witness, child) in scenes(kind, policy, act) {
            all.push((act, (name, witness)));
            children.push(child);
        }
    }
    let paths = all.iter().map(|(_, (name, _))| name.path());
    let arguments: Vec<String> = std::iter::once("--all".to_owned()).chain(paths).collect();
    let alive = run(&arguments).unwrap();
    for ((_, (_, witness)), found) in all.iter().zip(alive.as_array().unwrap()) {
        agrees(found, &witness.stat());
        assert_eq!(found["recovered"], json!(0));
    }
    children.into_iter().for_each(kill);
    let found = run(&arguments).unwrap();
    let found = found.as_array().unwrap();
    assert_eq!(found.len(), all.len());
    // Some died before it had taken effect, others after that.
    for wanted in [Act::Push, Act::Pop] {
        let lengths = all.iter().zip(found).filter(|((act, _), _)| *act == wanted);
        let lengths: Vec<u64> = lengths.map(|(_, one)| items(one).len() as u64).collect();
        let overwrites = policy & policy::OVERWRITE != 0 && kind == Kind::Broadcast;
        let both =
            lengths.contains(&3) && lengths.contains(if wanted == Act::Push { &4 } else { &2 });
        assert!(both || overwrites, "{wanted:?}: {lengths:?}");
    }
    for (index, ((act, (name, witness)), found)) in all.iter().zip(found).enumerate() {
        compare(name, witness, found, &format!("{act:?}, stop {index}"));
    }
}

#[test]
fn one_to_one() {
    kind_of_ring(Kind::Spsc, 0);
}

#[test]
fn many_to_many() {
    kind_of_ring(Kind::Mpmc, 0);
}

#[test]
fn stop_proof() {
    kind_of_ring(Kind::Mpmc, policy::STOPPROOF);
}

#[test]
fn gated_broadcasts() {
    kind_of_ring(Kind::Broadcast, 0);
}

#[test]
fn evicting_broadcasts() {
    kind_of_ring(Kind::Broadcast, policy::EVICT);
}

#[test]
fn overwriting_broadcasts() {
    kind_of_ring(Kind::Broadcast, policy::OVERWRITE);
}

/// Takes its name away.
struct Semaphore(String, UndoSemaphore);

impl Drop for Semaphore {
    fn drop(&mut self) {
        let _ = UndoSemaphore::unlink(self.0.as_bytes());
    }
}

#[test]
fn semaphores_whose_permits_come_back() {
    let _turn = serial();
    let options = UndoOptions { value: 5, max_handles: 3, tell: false };
    let open = |name: &str, creation| {
        UndoSemaphore::open(name.as_bytes(), &options, creation, 0o600).unwrap()
    };
    let take = |semaphore: &UndoSemaphore| semaphore.wait(Timeout::NoWait).map(drop).unwrap();
    let scene = |takes: bool, most| {
        let name = unique("permits");
        let witness = open(&name, Creation::CreateNew);
        take(&witness);
        let prepare = || {
            let semaphore = open(&name, Creation::OpenOnly);
            take(&semaphore);
            take(&semaphore);
            semaphore
        };
        let operate = |semaphore: &UndoSemaphore| match takes {
            true => take(semaphore),
            false => semaphore.post().unwrap(),
        };
        let (child, steps) = stepped(prepare, operate, most);
        ((Semaphore(name, witness), child), steps)
    };
    let mut all = Vec::new();
    for takes in [true, false] {
        let (whole, instructions) = scene(takes, u64::MAX);
        all.extend(stops(instructions).map(|most| scene(takes, most).0));
        all.push(whole);
    }
    let (all, children): (Vec<_>, Vec<_>) = all.into_iter().unzip();
    let path = |one: &Semaphore| format!("/dev/shm/mdg.sem.{}", &one.0[1..]);
    let arguments: Vec<String> =
        std::iter::once("--all".to_owned()).chain(all.iter().map(path)).collect();
    let told = |semaphore: &Semaphore| -> Vec<Value> {
        let holder = |one: Holder| json!({"pid": one.pid, "held": one.count, "alive": one.alive});
        semaphore.1.holders().map(holder).collect()
    };
    let read = |found: &Value| -> Vec<Value> {
        let records = found["semaphore"]["records"].as_array().unwrap();
        let holds = |one: &&Value| one["in_use"] == json!(true) && one["held"] != json!(0);
        let holder =
            |one: &Value| json!({"pid": one["pid"], "held": one["held"], "alive": one["alive"]});
        records.iter().filter(holds).map(holder).collect()
    };
    let alive = run(&arguments).unwrap();
    for (semaphore, found) in all.iter().zip(alive.as_array().unwrap()) {
        assert_eq!(read(found), told(semaphore), "{found:#}");
        assert_eq!(found["semaphore"]["value"], json!(semaphore.1.value().unwrap()), "{found:#}");
    }
    children.into_iter().for_each(kill);
    let found = run(&arguments).unwrap();
    let mut held_by_dead = Vec::new();
    for (semaphore, found) in all.iter().zip(found.as_array().unwrap()) {
        assert_eq!(read(found), told(semaphore), "{found:#}");
        let records = &found["semaphore"]["records"];
        held_by_dead.push(records[1]["held"].as_u64().unwrap());
        assert_eq!(found["semaphore"]["value"], json!(semaphore.1.value().unwrap()), "{found:#}");
        assert_eq!(semaphore.1.value().unwrap(), 4, "all of the dead one's come back");
    }
    assert!([1, 2, 3].iter().all(|count| held_by_dead.contains(count)), "{held_by_dead:?}");
}
