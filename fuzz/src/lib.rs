//! What the fuzz targets do; `tests/overlays.rs` does the same with random bytes, without a fuzzer.
//!
//! Each takes the fuzzer's bytes for a program: make a real object, write these bytes here and those
//! there, over what is in its file, and call public C functions in between. Whatever is in the file,
//! no call may crash, panic, take long, or answer what the headers do not promise.

mod object;
mod pipe;
mod plan;
mod ring;
mod semaphore;

pub use object::superblock;
pub use pipe::framed_pipe;
pub use ring::{cells, participants};
pub use semaphore::semaphore;

/// A target: its name, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 5] = [
    ("superblock", superblock),
    ("participants", participants),
    ("cells", cells),
    ("semaphore", semaphore),
    ("framed_pipe", framed_pipe),
];

/// Inputs to begin with, by target: a program for each kind of object, that does a little of all.
pub fn seeds() -> Vec<(&'static str, usize, Vec<u8>)> {
    let mut seeds = Vec::new();
    for (name, _) in TARGETS {
        for kind in 0..16_u8 {
            let mut bytes = vec![kind];
            // Calls first, then changes and calls by turns, in an order that differs by kind.
            for step in 0..48_u8 {
                bytes.extend([
                    step.wrapping_mul(7) ^ kind,
                    step,
                    kind.wrapping_mul(29),
                    step ^ 0x5a,
                ]);
            }
            seeds.push((name, usize::from(kind), bytes));
        }
    }
    seeds
}
