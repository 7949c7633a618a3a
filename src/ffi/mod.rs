//! The C ABI: entry points only. Each is a closure handed to `guard`, which turns its result into
//! a return value; `args` turns what C gave into Rust. No logic lives here.
//!
//! The doc comments of the entry points are the C headers' documentation.

mod args;
pub mod base;
pub mod fd;
mod guard;
pub mod mutex;
pub mod object;
pub mod pipe;
pub mod ring;
pub mod sem;
pub mod shm;
pub mod wait;
