//! Histories of a queue: what each process called when, written down as it goes, and the rules of a
//! FIFO queue that they are held to afterwards.
//!
//! Values are unique. Then a history is that of a queue exactly if it has none of a few patterns
//! (Henzinger, Sezgin, Vafeiadis: "Aspect-oriented linearizability proofs", CONCUR 2013), each found
//! in n log n steps: a value that nobody pushed, one popped twice, one popped before it was pushed,
//! two popped against the order of their pushes, an answer "empty" at a time at which there was an
//! item all along, and for a bounded queue an answer "full" at a time at which there was room all
//! along.
//!
//! **Deaths.** A call that was under way when its process was killed may have taken effect, in whole
//! or in part, or not, before the death. So a push in it may be popped or not; and each pop in it may
//! account for as many missing items as it had asked for. No other item may be missing.
//!
//! **What "empty" and "full" say.** In a ring with many producers an answer of EAGAIN to a pop may
//! also mean that the next place is claimed by a push that is still under way (or whose process died
//! in it); to a push, that the next place still is in the hands of a pop. So there, with `exact` false,
//! "empty" is held against the items only where no push, and "full" only where no pop, was under way
//! that moved something or died.
//!
//! Times are of the monotonic clock, which all processors share. A full fence stands between each
//! reading and the call, so that no access of the call can be outside the times that are written
//! down. (It hides nothing that a missing fence in the waiting protocol would break: the models see
//! to that.)

use std::collections::HashMap;
use std::sync::atomic::{Ordering, fence};

/// Most values in one call.
pub const MOST: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Push,
    Pop,
}

/// One call. What it moved is the first `moved` of `values`; 0 for "full" or "empty".
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Call {
    pub begin: u64,
    /// 0 while it is under way.
    pub end: u64,
    pub pops: u64,
    pub asked: u64,
    pub moved: u64,
    /// 1 if the answer says nothing: a wait that ran out, an end of the stream.
    pub void: u64,
    pub values: [u64; MOST],
}

pub fn now() -> u64 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64
}

/// Calls of one process, in memory that outlives it.
pub struct Log {
    calls: *mut Call,
    most: usize,
}

impl Log {
    /// A log for at most `most` calls, all zero; shared with children.
    pub fn new(most: usize) -> Self {
        let len = most * size_of::<Call>();
        let (read_write, shared) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, read_write, shared, -1, 0) };
        assert_ne!(at, libc::MAP_FAILED);
        Self { calls: at.cast(), most }
    }

    /// How many calls were begun.
    pub fn len(&self) -> usize {
        // SAFETY: `begin` lies in the mapping; all calls were zero at first.
        (0..self.most).take_while(|&i| unsafe { (*self.calls.add(i)).begin } != 0).count()
    }

    /// Makes a call and writes it down. `values` is what is pushed, or room for what is popped.
    /// `call` says how many were moved; `None` if its answer says nothing.
    pub fn call(
        &self,
        next: &mut usize,
        op: Op,
        values: &mut [u64],
        call: impl FnOnce(&mut [u64]) -> Option<usize>,
    ) -> usize {
        assert!(*next < self.most, "the log is full");
        // SAFETY: in the mapping; this process is the only one that writes to it.
        let record = unsafe { self.calls.add(*next) };
        *next += 1;
        let (mut copy, asked) = ([0; MOST], values.len() as u64);
        copy[..values.len()].copy_from_slice(values);
        let begun = Call {
            begin: 0,
            end: 0,
            pops: u64::from(op == Op::Pop),
            asked,
            moved: 0,
            void: 0,
            values: copy,
        };
        // SAFETY: as above. Volatile: in this order, whenever the process is killed.
        unsafe {
            record.write_volatile(begun);
            (&raw mut (*record).begin).write_volatile(now());
        }
        fence(Ordering::SeqCst);
        let moved = call(values);
        fence(Ordering::SeqCst);
        let end = now();
        copy[..values.len()].copy_from_slice(values);
        // SAFETY: as above.
        unsafe {
            (&raw mut (*record).values).write_volatile(copy);
            (&raw mut (*record).moved).write_volatile(moved.unwrap_or(0) as u64);
            (&raw mut (*record).void).write_volatile(u64::from(moved.is_none()));
            (&raw mut (*record).end).write_volatile(end);
        }
        moved.unwrap_or(0)
    }

    /// What was written down by a process that ended, or died, at `ended` at the latest.
    pub fn read(&self, ended: u64, history: &mut Vec<Event>) {
        for i in 0..self.len() {
            // SAFETY: in the mapping, and nobody writes any more.
            let call = unsafe { self.calls.add(i).read() };
            history.push(Event {
                call: history.len(),
                op: if call.pops == 1 { Op::Pop } else { Op::Push },
                begin: call.begin,
                end: if call.end == 0 { ended } else { call.end },
                pending: call.end == 0,
                void: call.void == 1,
                asked: call.asked as usize,
                values: match (call.end, call.pops) {
                    (0, 1) => Vec::new(),
                    (0, _) => call.values[..call.asked as usize].to_vec(),
                    _ => call.values[..call.moved as usize].to_vec(),
                },
            });
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`.
        unsafe { libc::munmap(self.calls.cast(), self.most * size_of::<Call>()) };
    }
}

/// A call in a history.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its number.
    pub call: usize,
    pub op: Op,
    pub begin: u64,
    /// For a call under way at a death: the death.
    pub end: u64,
    pub pending: bool,
    pub void: bool,
    pub asked: usize,
    pub values: Vec<u64>,
}

/// What a history is held to.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    pub capacity: usize,
    /// Whether "empty" says just that; see above.
    pub exact: bool,
    /// Whether everything was popped in the end.
    pub drained: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Violation {
    /// Popped, never pushed.
    Fresh(u64),
    /// Pushed in two calls: no fault of the queue's.
    NotUnique(u64),
    /// Popped twice.
    Repeat(u64),
    /// Its pop had returned before its push was called.
    TooEarly(u64),
    /// The first was pushed before the second, and popped after it or never.
    Order(u64, u64),
    /// So many are missing, this one among them.
    Lost(usize, u64),
    /// This call found the queue empty, which it was at no time of the call.
    FalseEmpty(usize),
    /// This call found the queue full, which it was at no time of the call.
    FalseFull(usize),
}

/// What was seen in a history without a fault.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub popped: usize,
    pub missing: usize,
    /// Answers "empty" and "full" that were held against the items.
    pub empty: usize,
    pub full: usize,
}

/// A value's life: its push and its pop, as intervals, with its place in each call.
#[derive(Debug, Clone, Copy)]
struct Life {
    value: u64,
    push: (u64, u64),
    push_call: (usize, usize),
    certain: bool,
    pop: Option<((u64, u64), (usize, usize))>,
}

impl Life {
    /// First instant at which its pop may take effect.
    fn leaves(&self) -> u64 {
        // One that went down with a dead taker may have left any time; one not popped stays.
        self.pop.map_or(u64::MAX, |(time, _)| time.0)
    }
}

/// Holds a history to the rules; the first violation found.
pub fn check(history: &[Event], rules: Rules) -> Result<Seen, Violation> {
    let lives = lives(history)?;
    let missing: Vec<&Life> =
        lives.iter().filter(|life| life.certain && life.pop.is_none()).collect();
    let takers = history.iter().filter(|event| event.pending && event.op == Op::Pop);
    let budget: usize = takers.map(|event| event.asked).sum();
    if rules.drained && missing.len() > budget {
        return Err(Violation::Lost(missing.len(), missing[0].value));
    }
    order(&lives, budget > 0)?;
    let empty = empty(history, &lives, rules.exact, budget > 0)?;
    let full = full(history, &lives, rules)?;
    let popped = lives.iter().filter(|life| life.pop.is_some()).count();
    Ok(Seen { popped, missing: missing.len(), empty, full })
}

fn lives(history: &[Event]) -> Result<Vec<Life>, Violation> {
    let mut lives: HashMap<u64, Life> = HashMap::new();
    for event in history.iter().filter(|event| event.op == Op::Push) {
        for (place, &value) in event.values.iter().enumerate() {
            let life = Life {
                value,
                push: (event.begin, event.end),
                push_call: (event.call, place),
                certain: !event.pending,
                pop: None,
            };
            if lives.insert(value, life).is_some() {
                return Err(Violation::NotUnique(value));
            }
        }
    }
    for event in history.iter().filter(|event| event.op == Op::Pop) {
        for (place, &value) in event.values.iter().enumerate() {
            let Some(life) = lives.get_mut(&value) else { return Err(Violation::Fresh(value)) };
            if life.pop.replace(((event.begin, event.end), (event.call, place))).is_some() {
                return Err(Violation::Repeat(value));
            }
            if event.end < life.push.0 {
                return Err(Violation::TooEarly(value));
            }
        }
    }
    // A push under way at a death and never popped: it never was.
    let mut lives: Vec<Life> =
        lives.into_values().filter(|life| life.certain || life.pop.is_some()).collect();
    lives.sort_by_key(|life| (life.push.0, life.push_call));
    Ok(lives)
}

/// No `a` that was pushed before `b`, and popped after it.
fn order(lives: &[Life], deaths: bool) -> Result<(), Violation> {
    // Among deaths, who is missing may have gone down at any time, with its taker.
    let counts = |life: &&Life| life.pop.is_some() || !deaths;
    let mut by_end: Vec<&Life> = lives.iter().filter(counts).collect();
    by_end.sort_by_key(|life| life.push.1);
    let mut before = by_end.into_iter().peekable();
    let mut latest: Option<&Life> = None;
    for b in lives {
        while let Some(a) = before.next_if(|a| a.push.1 < b.push.0) {
            if latest.is_none_or(|latest| a.leaves() > latest.leaves()) {
                latest = Some(a);
            }
        }
        if let (Some(a), Some((popped, _))) = (latest, b.pop)
            && popped.1 < a.leaves()
        {
            return Err(Violation::Order(a.value, b.value));
        }
    }
    // Within a call the values have an order of their own.
    let mut pushes: HashMap<usize, Vec<&Life>> = HashMap::new();
    let mut pops: HashMap<usize, Vec<&Life>> = HashMap::new();
    for life in lives.iter().filter(counts) {
        pushes.entry(life.push_call.0).or_default().push(life);
        if let Some((_, (call, _))) = life.pop {
            pops.entry(call).or_default().push(life);
        }
    }
    let pushed_before = |a: &Life, b: &Life| match a.push_call.0 == b.push_call.0 {
        true => a.push_call.1 < b.push_call.1,
        false => a.push.1 < b.push.0,
    };
    let popped_before = |b: &Life, a: &Life| match (b.pop, a.pop) {
        (Some((_, b)), Some((_, a))) if b.0 == a.0 => b.1 < a.1,
        (Some((b, _)), _) => b.1 < a.leaves(),
        (None, _) => false,
    };
    for group in pushes.values().chain(pops.values()) {
        for a in group {
            for b in group {
                if pushed_before(a, b) && popped_before(b, a) {
                    return Err(Violation::Order(a.value, b.value));
                }
            }
        }
    }
    Ok(())
}

/// Intervals merged where they overlap.
fn merged(mut all: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    all.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::new();
    for (begin, end) in all {
        match merged.last_mut() {
            Some(last) if begin <= last.1 => last.1 = last.1.max(end),
            _ => merged.push((begin, end)),
        }
    }
    merged
}

/// When calls of this kind were under way that moved something, or that died; a place that a dead one
/// left may be in the way until somebody mends it.
fn under_way(history: &[Event], op: Op) -> Vec<(u64, u64)> {
    let calls = history.iter().filter(|event| event.op == op);
    let calls = calls.filter(|event| event.pending || !event.values.is_empty());
    let interval = |event: &Event| (event.begin, if event.pending { u64::MAX } else { event.end });
    merged(calls.map(interval).collect())
}

/// Of merged intervals, the last that begins before `time`.
fn last_before(all: &[(u64, u64)], time: u64) -> Option<(u64, u64)> {
    let count = all.partition_point(|interval| interval.0 < time);
    count.checked_sub(1).map(|i| all[i])
}

/// No "empty" while some item was there at every moment; how many were looked at.
fn empty(history: &[Event], lives: &[Life], exact: bool, deaths: bool) -> Result<usize, Violation> {
    // The time for which a value was there for certain: strictly between push and pop.
    let there = lives.iter().filter(|life| life.certain && (life.pop.is_some() || !deaths));
    let there = there.map(|life| (life.push.1, life.leaves())).filter(|(from, to)| from < to);
    let there = merged(there.collect());
    let pushing = under_way(history, Op::Push);
    let mut looked = 0;
    for event in history {
        let answered = event.op == Op::Pop && !event.pending && !event.void;
        if !answered || !event.values.is_empty() {
            continue;
        }
        if !exact && last_before(&pushing, event.end + 1).is_some_and(|(_, to)| to >= event.begin) {
            continue;
        }
        looked += 1;
        if last_before(&there, event.begin).is_some_and(|(_, to)| to > event.end) {
            return Err(Violation::FalseEmpty(event.call));
        }
    }
    Ok(looked)
}

/// No "full" while fewer than `capacity` items can have been there; how many were looked at.
fn full(history: &[Event], lives: &[Life], rules: Rules) -> Result<usize, Violation> {
    let popping = under_way(history, Op::Pop);
    // How many items may have been there: each from the begin of its push to the end of its pop. A
    // push under way at a death may have left its place taken for ever.
    let mut steps: Vec<(u64, i64)> = Vec::new();
    for life in lives.iter().filter(|life| life.certain) {
        steps.push((life.push.0, 1));
        if let Some((popped, _)) = life.pop {
            steps.push((popped.1 + 1, -1));
        }
    }
    for event in history.iter().filter(|event| event.pending && event.op == Op::Push) {
        steps.push((event.begin, event.asked as i64));
    }
    steps.sort_unstable();
    let (mut times, mut levels) = (vec![0], vec![0_i64]);
    for (time, step) in steps {
        let level = levels[levels.len() - 1] + step;
        if times[times.len() - 1] == time {
            *levels.last_mut().unwrap() = level;
        } else {
            times.push(time);
            levels.push(level);
        }
    }
    // tops[k][i]: the highest of levels[i..i + 2^k].
    let mut tops = vec![levels];
    while tops[tops.len() - 1].len() > 1 << (tops.len() - 1) {
        let (last, half) = (&tops[tops.len() - 1], 1 << (tops.len() - 1));
        tops.push((half..last.len()).map(|i| last[i - half].max(last[i])).collect());
    }
    let mut looked = 0;
    for event in history {
        let answered = event.op == Op::Push && !event.pending && !event.void;
        if !answered || !event.values.is_empty() {
            continue;
        }
        let overlaps =
            last_before(&popping, event.end + 1).is_some_and(|(_, to)| to >= event.begin);
        if !rules.exact && overlaps {
            continue;
        }
        looked += 1;
        let first = times.partition_point(|&time| time <= event.begin) - 1;
        let past = times.partition_point(|&time| time <= event.end);
        let k = (past - first).ilog2() as usize;
        let top = tops[k][first].max(tops[k][past - (1 << k)]);
        if top < rules.capacity as i64 {
            return Err(Violation::FalseFull(event.call));
        }
    }
    Ok(looked)
}
