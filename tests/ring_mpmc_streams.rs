//! Streams through rings of many producers and many consumers, each in a process of its own: order
//! per producer, nothing lost, nothing twice, nothing torn.

mod support;

use std::sync::atomic::{AtomicU32, Ordering};

use madang::ring::{Kind, Options, Ring};
use madang::shm::Shm;
use support::face::FOREVER;
use support::process::{fork, join};
use support::ring_face::{C, Face, pattern};

on_both_faces! { Ring, C in turn:
    every_number_of_producers_and_consumers
}

/// An item: who sent it, its number, and bytes that follow from both.
const ITEM: usize = 40;

fn item(producer: u64, number: u64, item: &mut [u8]) {
    item[..8].copy_from_slice(&producer.to_ne_bytes());
    item[8..16].copy_from_slice(&number.to_ne_bytes());
    pattern(producer << 32 | number, &mut item[16..]);
}

/// How often each item was popped, by all consumers together.
struct Counts<'a> {
    counts: &'a [AtomicU32],
    of_each: u64,
}

impl Counts<'_> {
    fn popped(&self, producer: u64, number: u64) {
        self.counts[(producer * self.of_each + number) as usize].fetch_add(1, Ordering::Relaxed);
    }
}

fn produce(ring: &impl Face, producer: u64, count: u64) {
    let (mut next, mut batch) = (0, [0; 3 * ITEM]);
    while next < count {
        let items = if next % 5 == producer % 5 { (count - next).min(3) } else { 1 } as usize;
        for (i, bytes) in batch.chunks_mut(ITEM).enumerate() {
            item(producer, next + i as u64, bytes);
        }
        next += ring.push_many(&batch[..items * ITEM], ITEM, FOREVER).unwrap() as u64;
    }
}

fn consume(ring: &impl Face, counts: &Counts<'_>, producers: u64) {
    let (mut after, mut turn) = (vec![0; producers as usize], 0);
    let (mut batch, mut expected) = ([0; 4 * ITEM], [0; ITEM]);
    loop {
        turn += 1;
        let room = if turn % 3 == 0 { 4 } else { 1 };
        let items = match ring.pop_many(&mut batch[..room * ITEM], ITEM, FOREVER) {
            Ok(items) => items,
            Err(end) => return assert_eq!(end.code, libc::EPIPE, "{}", end.text),
        };
        for bytes in batch.chunks(ITEM).take(items) {
            let word = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
            let (producer, number) = (word(0), word(8));
            item(producer, number, &mut expected);
            assert_eq!(bytes, expected, "torn");
            let after = &mut after[producer as usize];
            assert!(number >= *after, "{number} of producer {producer} after {after}");
            *after = number + 1;
            counts.popped(producer, number);
        }
    }
}

fn stream<F: Face>(capacity: u64, producers: u64, consumers: u64, of_each: u64) {
    let options = Options { kind: Some(Kind::Mpmc), ..Options::new(capacity, ITEM as u32) };
    let ring = F::open(None, &options, libc::O_RDWR, 0).unwrap();
    let total = (producers * of_each) as usize;
    let shared = Shm::anonymous(total * size_of::<AtomicU32>(), false).unwrap();
    // SAFETY: mapped, aligned and zero for as long as `shared`; used as atomics only.
    let counts = unsafe { std::slice::from_raw_parts(shared.as_ptr().cast().as_ptr(), total) };
    let counts = Counts { counts, of_each };
    let consumers: Vec<_> = (0..consumers)
        .map(|_| fork(|| consume(&ring.dup(libc::O_RDONLY).unwrap(), &counts, producers)))
        .collect();
    let producers: Vec<_> = (0..producers)
        .map(|number| fork(|| produce(&ring.dup(libc::O_WRONLY).unwrap(), number, of_each)))
        .collect();
    producers.into_iter().for_each(join);
    ring.shutdown().unwrap();
    consumers.into_iter().for_each(join);
    let once = counts.counts.iter().all(|count| count.load(Ordering::Relaxed) == 1);
    assert!(once, "each item once: capacity {capacity}");
    let stats = ring.stat();
    assert_eq!((stats.written, stats.read), (total as u64, total as u64));
    assert_eq!((stats.length, stats.pending, stats.lost, stats.recovered), (0, 0, 0, 0));
}

fn every_number_of_producers_and_consumers<F: Face>() {
    for producers in 1..=8 {
        for consumers in 1..=8 {
            for (capacity, all) in [(1, 160), (2, 240), (8, 800), (1024, 4000)] {
                stream::<F>(capacity, producers, consumers, all / producers);
            }
        }
    }
}
