//! What the fuzz targets do (`fuzz/`), with random bytes, so that it is done without a fuzzer, too; and
//! the inputs that were found to do harm once.
//!
//! `MADANG_OVERLAYS=SEED` begins with other numbers, `MADANG_OVERLAY_MS` changes how long each target
//! is tried.

mod support;

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use support::hostile::{Dice, no_panic, watch_for_panics};
use support::process::serial;

fn asked<T: std::str::FromStr>(variable: &str, default: T) -> T {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// One input; what does harm is shown in a form that can be kept below.
fn try_one(name: &str, target: fn(&[u8]), input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        eprintln!("{name}: {:?}", input.escape_ascii().to_string());
        resume_unwind(panic);
    }
    no_panic();
}

/// A first input, with bytes and pieces changed.
fn vary(dice: &mut Dice, seed: &[u8]) -> Vec<u8> {
    let mut input = seed.to_vec();
    for _ in 0..dice.roll(60) {
        let at = dice.roll(input.len() as u64) as usize;
        input[at] = dice.word() as u8;
    }
    let most = dice.roll(input.len() as u64) as usize;
    if dice.roll(4) == 0 {
        input.truncate(1 + most);
    } else {
        let more = dice.roll(300);
        input.extend((0..more).map(|_| dice.word() as u8));
    }
    input
}

fn try_at_random(name: &str) {
    let _turn = serial();
    watch_for_panics();
    let seed = asked("MADANG_OVERLAYS", 20_261_121_u64);
    let time = Duration::from_millis(asked("MADANG_OVERLAY_MS", 1500));
    eprintln!("{name}: MADANG_OVERLAYS={seed}");
    let target = targets::TARGETS.iter().find(|target| target.0 == name).unwrap().1;
    let seeds: Vec<_> = targets::seeds().into_iter().filter(|seed| seed.0 == name).collect();
    let (mut dice, start, mut count) = (Dice(seed | 1), Instant::now(), 0);
    for (_, _, seed) in &seeds {
        try_one(name, target, seed);
    }
    while start.elapsed() < time {
        let seed = &seeds[dice.roll(seeds.len() as u64) as usize].2;
        try_one(name, target, &vary(&mut dice, seed));
        count += 1;
    }
    eprintln!("{name}: {count} inputs");
}

#[test]
fn superblocks() {
    try_at_random("superblock");
}

#[test]
fn participants() {
    try_at_random("participants");
}

#[test]
fn cells() {
    try_at_random("cells");
}

#[test]
fn semaphores() {
    try_at_random("semaphore");
}

#[test]
fn framed_pipes() {
    try_at_random("framed_pipe");
}
