//! Rust peers behind C calls, so that the loop, the clock and the verification are those of all
//! other peers. What the C call itself costs is a nanosecond or two.

mod channel;
mod pubsub;
