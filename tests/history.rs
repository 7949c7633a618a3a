//! Rings held to the rules of a queue by what was called when: processes write down their calls, and
//! a checker (`tests/support/history.rs`) goes through them afterwards.

mod support;

use std::collections::VecDeque;

use madang::ring::{Kind, Options, Ring};
use support::face::{FOREVER, NOWAIT};
use support::history::{Event, Log, MOST, Op, Rules, Seen, Violation, check, now};
use support::process::{Child, fork, join, serial};
use support::ring_face::Face;

/// A history by hand: operation, begin, end, values.
fn history(calls: &[(Op, u64, u64, &[u64])]) -> Vec<Event> {
    let event = |(call, &(op, begin, end, values)): (usize, &(Op, u64, u64, &[u64]))| Event {
        call,
        op,
        begin,
        end,
        pending: false,
        void: false,
        asked: values.len().max(1),
        values: values.to_vec(),
    };
    calls.iter().enumerate().map(event).collect()
}

/// The last of the calls is under way when its process dies.
fn dying(mut history: Vec<Event>) -> Vec<Event> {
    let last = history.last_mut().unwrap();
    last.pending = true;
    if last.op == Op::Pop {
        last.values.clear();
    }
    history
}

const RULES: Rules = Rules { capacity: 2, exact: true, drained: true };
use Op::{Pop, Push};

#[test]
fn right_histories_pass() {
    let passes = |calls: &[(Op, u64, u64, &[u64])], rules| check(&history(calls), rules).unwrap();
    passes(&[(Push, 1, 2, &[1]), (Push, 3, 4, &[2]), (Pop, 5, 6, &[1]), (Pop, 7, 8, &[2])], RULES);
    // Overlapping calls may take effect in any order.
    passes(&[(Push, 1, 9, &[1]), (Push, 2, 8, &[2]), (Pop, 3, 4, &[2]), (Pop, 5, 6, &[1])], RULES);
    passes(&[(Push, 1, 2, &[1, 2]), (Push, 3, 4, &[]), (Pop, 5, 6, &[1, 2])], RULES);
    let seen = passes(&[(Push, 1, 5, &[1]), (Pop, 2, 3, &[]), (Pop, 6, 7, &[1])], RULES);
    assert_eq!(seen, Seen { popped: 1, missing: 0, empty: 1, full: 0 });
    // Empty for a moment between two items.
    passes(
        &[
            (Push, 1, 2, &[1]),
            (Pop, 3, 9, &[]),
            (Pop, 4, 5, &[1]),
            (Push, 6, 7, &[2]),
            (Pop, 10, 11, &[2]),
        ],
        RULES,
    );
    // A push under way may be what is in the way.
    let busy = [
        (Push, 1, 9, &[1_u64] as &[u64]),
        (Push, 2, 3, &[2]),
        (Pop, 4, 5, &[]),
        (Pop, 10, 11, &[1, 2]),
    ];
    passes(&busy, Rules { exact: false, ..RULES });
    assert_eq!(check(&history(&busy), RULES), Err(Violation::FalseEmpty(2)));
}

#[test]
fn each_violation_is_found() {
    let found = |calls: &[(Op, u64, u64, &[u64])]| check(&history(calls), RULES).unwrap_err();
    assert_eq!(found(&[(Pop, 1, 2, &[7])]), Violation::Fresh(7));
    assert_eq!(found(&[(Push, 1, 2, &[7]), (Push, 3, 4, &[7])]), Violation::NotUnique(7));
    assert_eq!(
        found(&[(Push, 1, 2, &[7]), (Pop, 3, 4, &[7]), (Pop, 3, 4, &[7])]),
        Violation::Repeat(7)
    );
    assert_eq!(found(&[(Pop, 1, 2, &[7]), (Push, 3, 4, &[7])]), Violation::TooEarly(7));
    let [one, two] = [(Push, 1, 2, &[1_u64] as &[u64]), (Push, 3, 4, &[2])];
    assert_eq!(found(&[one, two, (Pop, 5, 6, &[2]), (Pop, 7, 8, &[1])]), Violation::Order(1, 2));
    assert_eq!(found(&[one, two, (Pop, 5, 6, &[2, 1])]), Violation::Order(1, 2));
    let run = (Push, 1, 2, &[1_u64, 2] as &[u64]);
    assert_eq!(found(&[run, (Pop, 5, 6, &[2]), (Pop, 7, 8, &[1])]), Violation::Order(1, 2));
    assert_eq!(found(&[run, (Pop, 5, 6, &[2, 1])]), Violation::Order(1, 2));
    assert_eq!(found(&[one, two, (Pop, 5, 6, &[1])]), Violation::Lost(1, 2));
    assert_eq!(found(&[one, (Pop, 3, 4, &[]), (Pop, 5, 6, &[1])]), Violation::FalseEmpty(1));
    // An item was there all along, though not the same one.
    assert_eq!(
        found(&[one, two, (Pop, 3, 9, &[]), (Pop, 5, 6, &[1]), (Pop, 10, 11, &[2])]),
        Violation::FalseEmpty(2)
    );
    assert_eq!(found(&[one, (Push, 3, 4, &[]), (Pop, 5, 6, &[1])]), Violation::FalseFull(1));
    // Of an item popped never, a later one cannot know where the end does not show it.
    let rules = Rules { drained: false, ..RULES };
    let history = history(&[one, two, (Pop, 5, 6, &[2])]);
    assert_eq!(check(&history, rules), Err(Violation::Order(1, 2)));
}

#[test]
fn deaths_excuse_what_was_under_way_and_no_more() {
    let [one, two] = [(Push, 1, 2, &[1_u64] as &[u64]), (Push, 3, 4, &[2])];
    let passes = |calls: &[(Op, u64, u64, &[u64])]| check(&dying(history(calls)), RULES).unwrap();
    let found =
        |calls: &[(Op, u64, u64, &[u64])]| check(&dying(history(calls)), RULES).unwrap_err();
    // Its push may have taken effect, or not; its pop, too.
    passes(&[one, (Pop, 5, 6, &[1]), (Push, 7, 8, &[3])]);
    passes(&[one, (Pop, 9, 10, &[1, 3]), (Push, 7, 8, &[3])]);
    assert_eq!(passes(&[one, two, (Pop, 5, 6, &[2]), (Pop, 3, 9, &[1])]).missing, 1);
    assert_eq!(found(&[one, two, (Pop, 5, 6, &[0])]), Violation::Lost(2, 1));
    assert_eq!(found(&[one, two, (Push, 5, 6, &[3])]), Violation::Lost(2, 1));
    // Nothing takes effect after a death: not this push, and not before its call either.
    assert_eq!(found(&[one, (Pop, 3, 4, &[1, 3]), (Push, 7, 8, &[3])]), Violation::TooEarly(3));
    assert_eq!(
        found(&[(Push, 9, 10, &[4]), (Pop, 11, 12, &[4]), (Pop, 13, 14, &[3]), (Push, 7, 8, &[3])]),
        Violation::Order(3, 4)
    );
}

/// A worker's private numbers.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % bound
    }
}

fn bytes(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

/// Number of values moved; "full" and "empty" are answers to calls that do not wait.
fn moved(outcome: support::face::Outcome<usize>, timeout: i64) -> (Option<usize>, i32) {
    match outcome {
        Ok(count) => (Some(count), 0),
        Err(error) if error.code == libc::EAGAIN && timeout == NOWAIT => (Some(0), libc::EAGAIN),
        Err(error) => (None, error.code),
    }
}

/// Pushes `count` values, some in one call, some waiting and some not.
fn produce(ring: &impl Face, log: &Log, number: u64, count: u64) {
    let (mut rng, mut next, mut pushed) = (Rng(number + 1), 0, 0);
    let mut timeout = NOWAIT;
    while pushed < count {
        let run = (1 + rng.below(MOST) as u64 * u64::from(rng.below(3) == 0)).min(count - pushed);
        let run = run.min(MOST as u64);
        let mut values: Vec<u64> = (pushed..pushed + run).map(|i| number << 32 | i).collect();
        let mut code = 0;
        let done = log.call(&mut next, Push, &mut values, |values| {
            let (moved, error) = moved(ring.push_many(&bytes(values), 8, timeout), timeout);
            code = error;
            moved
        });
        assert!([0, libc::EAGAIN].contains(&code), "push: {code}");
        // After "full", wait: the log is not for spinning.
        timeout = if code == libc::EAGAIN { FOREVER } else { NOWAIT };
        pushed += done as u64;
    }
}

/// Pops until the end of the stream.
fn consume(ring: &impl Face, log: &Log, number: u64) {
    let (mut rng, mut next) = (Rng(number + 1), 0);
    let mut timeout = NOWAIT;
    loop {
        let mut values = vec![0; 1 + rng.below(MOST) * usize::from(rng.below(3) == 0)];
        values.truncate(MOST);
        let mut code = 0;
        log.call(&mut next, Pop, &mut values, |values| {
            let mut items = vec![0; 8 * values.len()];
            let (moved, error) = moved(ring.pop_many(&mut items, 8, timeout), timeout);
            for (value, item) in values.iter_mut().zip(items.chunks(8)) {
                *value = u64::from_ne_bytes(item.try_into().unwrap());
            }
            code = error;
            moved
        });
        match code {
            0 => timeout = NOWAIT,
            libc::EAGAIN => timeout = FOREVER,
            libc::EPIPE => return,
            // The last producer was killed; the parent ends the stream.
            libc::EOWNERDEAD => timeout = NOWAIT,
            code => panic!("pop: {code}"),
        }
    }
}

struct Plan {
    kind: Kind,
    capacity: u64,
    producers: u64,
    consumers: u64,
    /// Values of each producer.
    count: u64,
    /// Producers and consumers that are killed on their way, in turn.
    kills: usize,
}

fn run(plan: &Plan) -> Seen {
    let options = Options { kind: Some(plan.kind), ..Options::new(plan.capacity, 8) };
    let ring: Ring = Face::open(None, &options, libc::O_RDWR, 0).unwrap();
    let mut history = Vec::new();
    let most = (plan.producers * plan.count) as usize * 3 + 100_000;
    let start = |number: u64, pushes: bool| {
        let log = Log::new(most);
        let child = fork(|| {
            // A process has a handle of its own.
            let access = if pushes { libc::O_WRONLY } else { libc::O_RDONLY };
            let ring = ring.dup(access).unwrap();
            if pushes {
                produce(&ring, &log, number, plan.count);
            } else {
                consume(&ring, &log, number);
            }
        });
        (child, log)
    };
    let mut producers: VecDeque<(Child, Log)> =
        (0..plan.producers).map(|number| start(number, true)).collect();
    let mut consumers: VecDeque<(Child, Log)> =
        (0..plan.consumers).map(|number| start(100 + number, false)).collect();
    for round in 0..plan.kills {
        let victims = if round % 2 == 0 { &mut producers } else { &mut consumers };
        let (victim, log) = victims.pop_front().unwrap();
        // Somewhere on its way; or at its end, which is as good.
        let far = 20 + 37 * round;
        let running = || nix::sys::signal::kill(victim.pid(), None).is_ok();
        for _ in 0..1_000_000 {
            if log.len() >= far || !running() {
                break;
            }
            std::thread::yield_now();
        }
        nix::sys::signal::kill(victim.pid(), nix::sys::signal::Signal::SIGKILL).unwrap();
        let _ = victim.end();
        log.read(now(), &mut history);
    }
    for (child, log) in producers {
        join(child);
        log.read(now(), &mut history);
    }
    Face::shutdown(&ring).unwrap();
    for (child, log) in consumers {
        join(child);
        log.read(now(), &mut history);
    }
    let rules =
        Rules { capacity: plan.capacity as usize, exact: plan.kind == Kind::Spsc, drained: true };
    let seen = check(&history, rules).unwrap_or_else(|violation| {
        let (kind, capacity) = (plan.kind, plan.capacity);
        panic!(
            "{violation:?}: {kind:?}, capacity {capacity}, {}x{}",
            plan.producers, plan.consumers
        )
    });
    if plan.kills == 0 {
        assert_eq!(seen.popped as u64, plan.producers * plan.count);
    }
    seen
}

#[test]
fn one_to_one_is_a_queue() {
    let _turn = serial();
    let mut all = Seen::default();
    for capacity in [1, 2, 8, 1024] {
        let plan =
            Plan { kind: Kind::Spsc, capacity, producers: 1, consumers: 1, count: 4000, kills: 0 };
        let seen = run(&plan);
        all.empty += seen.empty;
        all.full += seen.full;
    }
    assert!(all.empty > 0 && all.full > 0, "answers to check: {all:?}");
}

#[test]
fn many_to_many_is_a_queue() {
    let _turn = serial();
    let mut all = Seen::default();
    for capacity in [1, 2, 8, 1024] {
        for (producers, consumers) in
            [(1, 1), (2, 1), (1, 3), (2, 2), (4, 4), (1, 8), (8, 1), (8, 8)]
        {
            let count = 2400 / producers;
            let plan = Plan { kind: Kind::Mpmc, capacity, producers, consumers, count, kills: 0 };
            let seen = run(&plan);
            all.empty += seen.empty;
            all.full += seen.full;
        }
    }
    assert!(all.empty > 0 && all.full > 0, "answers to check: {all:?}");
}

/// With producers and consumers killed on their way: what they had under way is all that is missing.
#[test]
fn many_to_many_is_a_queue_among_kills() {
    let _turn = serial();
    for capacity in [1, 2, 8, 1024] {
        for kills in 1..5 {
            let (producers, consumers, count) = (4, 4, 800);
            run(&Plan { kind: Kind::Mpmc, capacity, producers, consumers, count, kills });
        }
    }
}
