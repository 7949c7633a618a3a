#![forbid(unsafe_code)]
//! The protocol of poll descriptors: arming, draining, touching, clearing. See `poll.rs` for what
//! it promises. It works on a slot's word, an event count and a [`Door`], which in the product is an
//! inotify instance and under the model checker one of the model's.

use std::sync::atomic::Ordering;

use super::control::POLL_MARK;
use crate::error::{Error, Result};
use crate::object::POLLED_ENDS as ENDS;
use crate::sync::EventCount;
use crate::sync::atomic::AtomicU32;

/// In a slot's word: its handle is counted in the ring's `polled`.
const COUNTED: u32 = ENDS + 1;

/// One arming.
const ARMING: u32 = COUNTED << 1;

/// What is below the number of armings.
const FLAGS: u32 = ARMING - 1;

/// One handle in `polled`, above the mark.
const ONE: u32 = POLL_MARK + 1;

/// How often a word is tried to be changed that others change meanwhile.
const TRIES: u32 = 64;

/// Slots that one touch is for.
const BATCH: usize = 32;

/// A waiter's descriptor.
pub(super) trait Door {
    /// Makes it unreadable; whether it was readable.
    fn drain(&self) -> Result<bool>;
    /// Makes it readable, for this handle alone.
    fn ring(&self);
}

/// Arms the ends of `asked`, after the descriptor was drained. `false` if there was nothing to do:
/// they are armed since they were last looked at, and nobody has touched the file since.
pub(super) fn arm<'a>(
    word: &AtomicU32,
    asked: u32,
    drained: bool,
    events: impl Iterator<Item = &'a EventCount>,
) -> bool {
    // Acquire: after the draining. A notifier that clears a bit from now on has touched the file
    // after it, or has seen an arming whose number is about to pass.
    let before = word.load(Ordering::Acquire);
    if !drained && before & asked == asked {
        return false;
    }
    // SeqCst: before the arming of the event counts, whose fences pair with the notifier's. An
    // exchange where a store would do: a clearing of the last arming comes before either, but the
    // model checker knows it of an exchange only.
    word.swap((before & !ENDS).wrapping_add(ARMING) | asked, Ordering::SeqCst);
    events.for_each(EventCount::arm_firmly);
    true
}

/// Whether the ends of `asked` are armed.
pub(super) fn is_armed(word: &AtomicU32, asked: u32) -> bool {
    // Acquire: pairs with the AcqRel in `clear`: where a bit is gone the file was touched.
    word.load(Ordering::Acquire) & asked == asked
}

/// Ends the readiness of `door`: what `attempt` gives after that, or `EAGAIN`. `others` tells whether
/// another end that was asked for may be ready.
pub(super) fn rearm<'a, T>(
    door: &impl Door,
    word: &AtomicU32,
    asked: u32,
    events: impl Iterator<Item = &'a EventCount>,
    attempt: impl FnOnce() -> Result<Option<T>>,
    others: impl FnOnce() -> bool,
) -> Result<T> {
    let drained = door.drain()?;
    if !arm(word, asked, drained, events) {
        return Err(Error::would_block());
    }
    let found = attempt();
    if !matches!(found, Ok(None)) || others() {
        door.ring();
    }
    found?.ok_or_else(Error::would_block)
}

/// Has `touch` touch the file for all handles that are armed at `end`, and clears their bits; `false`
/// if that failed and may succeed later. `word` gives the word of each slot there is.
pub(super) fn ring<'a>(
    polled: &AtomicU32,
    word: impl FnMut(u32) -> Option<&'a AtomicU32>,
    end: u32,
    touch: impl Fn() -> bool,
) -> bool {
    // Relaxed: after the fence in `EventCount::wake`, see `update`.
    let slots = polled.load(Ordering::Relaxed) & POLL_MARK;
    slots == 0 || ring_those((0..slots).map_while(word), end, touch)
}

/// A word is read before the touch that its handle is to have: a handle that arms after the touch has
/// another number, and keeps its bit.
fn ring_those<'a>(
    words: impl Iterator<Item = &'a AtomicU32>,
    end: u32,
    touch: impl Fn() -> bool,
) -> bool {
    let mut words = words.peekable();
    while words.peek().is_some() {
        let mut armed = [None; BATCH];
        let mut count = 0;
        for word in words.by_ref() {
            // Acquire: after the fence in `EventCount::wake`, which pairs with that of `arm_firmly`:
            // a handle that is not seen here looks again.
            let seen = word.load(Ordering::Acquire);
            if seen & end != 0 {
                armed[count] = Some((word, seen));
                count += 1;
                if count == BATCH {
                    break;
                }
            }
        }
        if count == 0 {
            break;
        }
        if !touch() {
            return false;
        }
        armed.iter().flatten().for_each(|&(word, seen)| clear(word, seen, end));
    }
    true
}

fn clear(word: &AtomicU32, mut seen: u32, end: u32) {
    let arming = seen & !FLAGS;
    for _ in 0..TRIES {
        // AcqRel: whoever finds the bit gone finds the file touched.
        let order = (Ordering::AcqRel, Ordering::Acquire);
        match word.compare_exchange(seen, seen & !end, order.0, order.1) {
            Err(now) if now & !FLAGS == arming && now & end != 0 => seen = now,
            // Done; or another notifier has cleared it, or a new arming stands.
            _ => return,
        }
    }
}

/// Counts the handle of slot `index`, whose word this is, among those that wait with a descriptor.
/// `false` if others change the count all the time.
pub(super) fn count(polled: &AtomicU32, word: &AtomicU32, index: u32) -> bool {
    if word.load(Ordering::Relaxed) & COUNTED != 0 {
        return true;
    }
    // Counted before its word says so: killed in between, it is one too many, and never one too few.
    let counted = update(polled, |all| {
        let mark = (all & POLL_MARK).max((index + 1) & POLL_MARK);
        (all & !POLL_MARK).saturating_add(ONE) | mark
    });
    if counted {
        word.fetch_or(COUNTED, Ordering::SeqCst);
    }
    counted
}

/// Takes the handle out again: its own, or a dead one's, whose slot is locked. The last one leaves 0,
/// and notifiers need not look for any.
pub(super) fn discount(polled: &AtomicU32, word: &AtomicU32) {
    if word.fetch_and(!(ENDS | COUNTED), Ordering::AcqRel) & COUNTED != 0 {
        update(polled, |all| match all.saturating_sub(ONE) {
            left if left > POLL_MARK => left,
            _ => 0,
        });
    }
}

fn update(word: &AtomicU32, next: impl Fn(u32) -> u32) -> bool {
    let mut seen = word.load(Ordering::Relaxed);
    for _ in 0..TRIES * TRIES {
        // SeqCst: a handle that arms after it was counted is looked for by notifiers that find it armed.
        match word.compare_exchange(seen, next(seen), Ordering::SeqCst, Ordering::Relaxed) {
            Ok(_) => return true,
            Err(now) => seen = now,
        }
    }
    false
}

#[cfg(all(test, loom))]
#[path = "arming_loom.rs"]
mod loom_models;

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn one_touch_is_for_many_and_clears_what_was_seen_before_it() {
        let words: Vec<_> = (0..100).map(|_| AtomicU32::new(0)).collect();
        let touches = Cell::new(0);
        let touch = || {
            touches.set(touches.get() + 1);
            true
        };
        let event = EventCount::default();
        assert!(ring_those(words.iter(), 1, touch));
        assert_eq!(touches.get(), 0);
        for word in words.iter().step_by(4) {
            assert!(arm(word, 1, false, [&event].into_iter()));
            assert!(!arm(word, 1, false, [&event].into_iter()), "armed, and nothing heard");
        }
        assert!(ring_those(words.iter(), 2, touch));
        assert!(!ring_those(words.iter(), 1, || false));
        assert_eq!(touches.get(), 0);
        assert!(words.iter().step_by(4).all(|word| is_armed(word, 1)), "left for the next one");
        // One arms anew while the file is touched: it stays armed.
        let again = || {
            assert!(arm(&words[4], 3, true, [&event].into_iter()));
            touch()
        };
        assert!(ring_those(words.iter(), 1, again));
        assert_eq!(touches.get(), 1);
        let armed: Vec<_> = (0..100).filter(|&at| is_armed(&words[at], 1)).collect();
        assert_eq!(armed, [4]);
        assert!(ring_those(words.iter(), 1, touch));
        assert!(!is_armed(&words[4], 1) && is_armed(&words[4], 2), "one end is left");
        touches.set(1);
        words.iter().for_each(|word| _ = arm(word, 1, true, [].into_iter()));
        assert!(ring_those(words.iter(), 1, touch));
        assert_eq!(touches.get(), 1 + 100_u32.div_ceil(BATCH as u32));
        assert!(!words.iter().any(|word| is_armed(word, 1)));
    }

    #[test]
    fn the_last_one_takes_the_mark_along() {
        let polled = AtomicU32::new(0);
        let words = [(); 3].map(|()| AtomicU32::new(0));
        for (word, index) in words.iter().zip([4, 9, 2]) {
            assert!(count(&polled, word, index));
            assert!(count(&polled, word, index), "once");
            assert!(arm(word, 1, true, [].into_iter()));
        }
        assert_eq!(polled.load(Ordering::Relaxed), 3 * ONE + 10);
        discount(&polled, &words[1]);
        discount(&polled, &words[1]);
        assert_eq!(polled.load(Ordering::Relaxed), 2 * ONE + 10);
        words.iter().for_each(|word| discount(&polled, word));
        assert_eq!(polled.load(Ordering::Relaxed), 0);
        assert!(words.iter().all(|word| word.load(Ordering::Relaxed) == ARMING));
        // A count that a scribbler has spoilt is no panic.
        polled.store(u32::MAX, Ordering::Relaxed);
        assert!(count(&polled, &words[0], 4095));
        polled.store(5, Ordering::Relaxed);
        discount(&polled, &words[0]);
        assert_eq!(polled.load(Ordering::Relaxed), 0);
    }
}
