#![forbid(unsafe_code)]
//! Skipping: a consumer that wants the newest items passes over the older ones without copying them.

use nix::errno::Errno;

use super::engine::Engine;
use super::handle::Ring;
use super::seat::InHands;
use crate::error::Result;
use crate::object::End;
use crate::time::Timeout;

impl Ring {
    /// Passes over the oldest items until at most `keep` are left for this consumer, and returns how
    /// many it has passed over; 0 if there were no more than `keep`. It never waits.
    ///
    /// The skipped items count as taken, not as lost. In a broadcast the other consumers still get
    /// them. While producers go on, more than `keep` items may be there when the call returns.
    pub fn skip(&self, keep: u64) -> Result<u64> {
        self.hold(End::Consumer)?;
        if self.run(End::Consumer) != 0 {
            return Err(self.in_hands());
        }
        self.flags()?;
        let seat = &self.hot.seat;
        let unread = match &self.engine {
            Engine::Overwrite(core) => {
                let skipped = core.skip(&seat.pop.position, keep);
                self.still_whole()?;
                return Ok(skipped);
            }
            Engine::Gated(core) => core.unread(&seat.pop),
            Engine::Spsc => self.stat().length,
            // What this handle has peeked and given back is off the ring, and its own.
            Engine::Mpmc { .. } | Engine::StopProof { .. } => {
                self.stat().length + u64::from(seat.pop.run.get() == InHands::KEPT)
            }
        };
        let (mut skipped, excess) = (0, unread.saturating_sub(keep));
        while skipped < excess {
            match self.peek((excess - skipped) as usize, Timeout::NoWait) {
                Ok((_, run)) => {
                    self.release(run)?;
                    skipped += run as u64;
                }
                // Another consumer was quicker.
                Err(error) if error.code() == Errno::EAGAIN || skipped > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(skipped)
    }
}
