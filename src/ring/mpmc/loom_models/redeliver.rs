//! The policy `REDELIVER` under the model checker: takers, second takers, sweepers and who gives back
//! are killed before each of their accesses; what they had comes again, once.

use std::sync::atomic::AtomicBool;

use super::*;

/// Participant 0 was killed with the oldest item in hands; nobody has noticed.
fn with_a_corpse(capacity: usize, items: &[u64]) -> Arc<Ring> {
    let ring = ring_with(capacity, true);
    assert_eq!(ring.push_all(MAIN, items), items.len());
    assert!(ring.peek(0).unwrap().is_some());
    ring.dies(0);
    ring
}

impl Ring {
    /// Sweeps the slot of `index`, which the kernel lets one do at a time; and clears it, as what it
    /// stands in for does, if that may be.
    fn clear(&self, index: u32) -> bool {
        let swept = self.sweep(index, &|other| self.is_alive(other));
        if swept {
            for end in [End::Producer, End::Consumer] {
                self.memory.intent(index, end).store(0, Ordering::Release);
            }
        }
        swept
    }

    /// All that is inside, as main gets it when everybody else has come to rest and the dead are swept.
    /// Nothing may be owed to anybody then, and the ring is as good as new.
    fn settle(&self) -> Vec<u64> {
        for index in 0..MAIN {
            assert!(self.is_alive(index) || self.clear(index), "for ever refused");
        }
        let items: Vec<u64> = std::iter::from_fn(|| self.pop_item(MAIN)).collect();
        assert!(self.is_settled(MAIN) && !self.has_returned());
        let all: Vec<u64> = (0..self.memory.capacity()).map(|i| 100 + i).collect();
        assert_eq!(self.push_all(MAIN, &all), all.len(), "a cell is gone");
        all.iter().for_each(|&item| assert_eq!(self.pop_item(MAIN), Some(item)));
        assert_eq!((self.tally().length, self.tally().lost), (0, 0));
        items
    }
}

/// Of two takers one is killed before each of its accesses. What it does not return comes again, but
/// for an item whose cell it had freed.
fn killed_taker(capacity: usize, me: u32, batch: bool) {
    check_kills(2, Fences::Light, move |steps, killed: &AtomicBool| {
        let ring = ring_with(capacity, true);
        let all: Vec<u64> = (1..=capacity as u64).collect();
        assert_eq!(ring.push_all(MAIN, &all), capacity);
        let victim = thread::spawn({
            let ring = ring.clone();
            move || {
                let pop =
                    || if batch { ring.pop_two(me) } else { Vec::from_iter(ring.pop_item(me)) };
                let popped = killed_after(steps, pop);
                if popped.is_none() {
                    ring.dies(me);
                }
                popped
            }
        });
        let mut popped = Vec::from_iter(ring.pop_item(MAIN));
        let taken = victim.join().unwrap();
        killed.fetch_or(taken.is_none(), Ordering::Relaxed);
        popped.extend(taken.clone().into_iter().flatten());
        let rest = ring.settle();
        assert!(rest.is_sorted(), "{rest:?}");
        popped.extend(rest);
        let popped = sorted(popped);
        assert!(popped.windows(2).all(|pair| pair[0] < pair[1]), "twice: {popped:?}");
        let most = if taken.is_some() { 0 } else { 1 + usize::from(batch) };
        assert!(all.len() - popped.len() <= most, "{popped:?}");
    });
}

#[test]
fn a_killed_taker() {
    killed_taker(2, 0, false);
}

#[test]
fn a_taker_killed_on_the_straight_way() {
    killed_taker(2, 1, false);
}

#[test]
fn a_taker_killed_with_a_batch() {
    killed_taker(2, 0, true);
}

#[test]
fn a_taker_killed_at_one_cell() {
    killed_taker(1, 0, false);
}

/// An item came back. Of two who want it, one is killed before each of its accesses: the other one
/// gets it, or the next, or it was freed.
#[test]
fn a_killed_second_taker() {
    check_kills(2, Fences::Light, |steps, killed| {
        let ring = with_a_corpse(2, &[1]);
        assert!(ring.clear(0));
        let victim = thread::spawn({
            let ring = ring.clone();
            move || {
                let popped = killed_after(steps, || ring.pop_item(1));
                if popped.is_none() {
                    ring.dies(1);
                }
                popped
            }
        });
        let mut popped = Vec::from_iter(ring.pop_item(MAIN));
        let taken = victim.join().unwrap();
        killed.fetch_or(taken.is_none(), Ordering::Relaxed);
        popped.extend(taken.flatten());
        popped.extend(ring.settle());
        match taken {
            Some(_) => assert_eq!(popped, [1]),
            None => assert!(popped == [1] || popped == [], "{popped:?}"),
        }
    });
}

/// A sweeper is killed before each of its accesses, while another consumer looks for what came back;
/// the slot is swept again, and the item is there.
#[test]
fn a_killed_sweeper() {
    check_kills(2, Fences::Light, |steps, killed| {
        let ring = with_a_corpse(2, &[1, 2]);
        let victim = thread::spawn({
            let ring = ring.clone();
            move || killed_after(steps, || ring.clear(0)).is_none()
        });
        let mut popped = Vec::from_iter(ring.pop_item(MAIN));
        popped.extend(ring.pop_item(MAIN));
        popped.extend(ring.pop_item(MAIN));
        killed.fetch_or(victim.join().unwrap(), Ordering::Relaxed);
        popped.extend(ring.settle());
        assert_eq!(sorted(popped), [1, 2]);
    });
}

/// Two died; the second one's slot is swept while a consumer takes what the first one had, and finds
/// that there is no more: what was announced since is not forgotten.
#[test]
fn a_second_death_beside_a_look_in_vain() {
    check(2, Fences::Light, || {
        let ring = with_a_corpse(2, &[1, 2]);
        assert!(ring.peek(1).unwrap().is_some());
        ring.dies(1);
        assert!(ring.clear(0));
        let sweeper = thread::spawn({
            let ring = ring.clone();
            move || assert!(ring.clear(1))
        });
        let mut popped: Vec<u64> = (0..2).filter_map(|_| ring.pop_item(MAIN)).collect();
        sweeper.join().unwrap();
        popped.extend(ring.settle());
        assert_eq!(popped, [1, 2]);
    });
}

/// Who gives back by closing is killed before each of its accesses.
#[test]
fn who_gives_back_is_killed() {
    check_kills(2, Fences::Light, |steps, killed| {
        let ring = ring_with(2, true);
        assert_eq!(ring.push_all(MAIN, &[1]), 1);
        let (position, _) = ring.peek(0).unwrap().unwrap();
        let victim = thread::spawn({
            let ring = ring.clone();
            move || {
                let given = killed_after(steps, || {
                    ring.lose(position);
                    ring.memory.intent(0, End::Consumer).store(0, Ordering::Release);
                });
                if given.is_none() {
                    ring.dies(0);
                }
                given.is_none()
            }
        });
        let mut popped = Vec::from_iter(ring.pop_item(MAIN));
        killed.fetch_or(victim.join().unwrap(), Ordering::Relaxed);
        popped.extend(ring.settle());
        assert_eq!(popped, [1]);
    });
}

/// What came back is found by who looks after it was announced, whatever others settle at once.
#[test]
fn nothing_is_settled_too_early() {
    check(2, Fences::Light, || {
        let ring = with_a_corpse(2, &[1]);
        let sweeper = thread::spawn({
            let ring = ring.clone();
            move || assert!(ring.clear(0))
        });
        let other = thread::spawn({
            let ring = ring.clone();
            move || [ring.pop_item(1), ring.pop_item(1)]
        });
        let ended = ring.is_settled(MAIN);
        sweeper.join().unwrap();
        let taken: Vec<u64> = other.join().unwrap().into_iter().flatten().collect();
        // Who was told of the end was not told while the item could still come.
        assert!(!ended || taken == [1], "an end too early");
        let popped = Vec::from_iter(ring.pop_item(MAIN));
        assert_eq!([taken, popped].concat(), [1]);
        assert_eq!((ring.pop_item(MAIN), ring.is_settled(MAIN)), (None, true));
    });
}

/// Alive, it keeps what it has: for the first time and for the second.
#[test]
fn the_living_keep_what_they_have() {
    check(3, Fences::Light, || {
        let ring = with_a_corpse(2, &[1, 2]);
        // Returned; then the sweeper died.
        assert!(ring.sweep(0, &|index| ring.is_alive(index)));
        let taker = thread::spawn({
            let ring = ring.clone();
            move || [ring.pop_item(1), ring.pop_item(1)]
        });
        // The next one finds the same intent, which names what may be the other's now.
        let first = ring.sweep(0, &|index| ring.is_alive(index));
        let mut popped = Vec::from_iter(ring.pop_item(MAIN));
        assert!(first);
        popped.extend(taker.join().unwrap().into_iter().flatten());
        popped.extend(ring.settle());
        assert_eq!(sorted(popped), [1, 2]);
    });
}

/// A push that overwrites the oldest gives up what came back, or a consumer takes it: one of them.
#[test]
fn giving_up_what_came_back() {
    check(3, Fences::Light, || {
        let ring = with_a_corpse(1, &[1]);
        assert!(ring.clear(0));
        let producer = thread::spawn({
            let ring = ring.clone();
            move || ring.make_room(1).unwrap() && ring.push_all(1, &[11]) == 1
        });
        let mut popped = Vec::from_iter(ring.pop_item(MAIN));
        let pushed = producer.join().unwrap();
        popped.extend(ring.settle());
        let mut expected = Vec::new();
        if ring.tally().dropped == 0 {
            expected.push(1);
        }
        if pushed {
            expected.push(11);
        }
        assert_eq!(popped, expected);
    });
}
