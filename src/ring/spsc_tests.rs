//! The core of a ring for two, step by step in one thread.

use super::*;
use crate::ring::seat::Hot;

/// A ring in ordinary memory, with chosen indices.
struct Bench {
    _control: Box<Control>,
    _slots: Vec<u8>,
    core: Core,
    hot: Box<Hot>,
}

fn bench(capacity: u64, item_size: u32, start: u64) -> Bench {
    // SAFETY: all-zero is the state of a new control page, and of a fresh Hot.
    let (mut control, hot): (Box<Control>, Box<Hot>) =
        unsafe { (Box::new(std::mem::zeroed()), Box::new(std::mem::zeroed())) };
    control.tail.0 = start.into();
    control.head.0 = start.into();
    let mut slots = vec![0_u8; (capacity * u64::from(item_size)) as usize];
    // SAFETY: both live in the same struct as the core; the memory is of the size told.
    let core = unsafe {
        Core::new(
            NonNull::from(&mut *control),
            NonNull::new(slots.as_mut_ptr()).unwrap(),
            capacity,
            item_size,
        )
    };
    core.take_push(&hot.push).unwrap();
    core.take_pop(&hot.pop).unwrap();
    Bench { _control: control, _slots: slots, core, hot }
}

#[test]
fn indices_wrap_around_and_all_slots_are_usable() {
    for capacity in [1, 2, 8] {
        let Bench { core, hot, .. } = &bench(capacity, 8, u64::MAX - 3);
        for round in 0..50_u64 {
            for i in 0..capacity {
                assert!(core.look_push(&hot.push).unwrap() > 0);
                let item = round * 100 + i;
                // SAFETY: eight readable bytes.
                unsafe { core.push_one(&hot.push, (&raw const item).cast()) };
            }
            assert_eq!(core.look_push(&hot.push), Ok(0));
            assert_eq!(core.look_pop(&hot.pop, true), Ok(capacity));
            for i in 0..capacity {
                let mut item = 0_u64;
                // SAFETY: eight writable bytes.
                unsafe { core.pop_one(&hot.pop, (&raw mut item).cast()) };
                assert_eq!(item, round * 100 + i);
            }
            assert_eq!(core.look_pop(&hot.pop, true), Ok(0));
        }
    }
}

#[test]
fn runs_split_at_the_end_of_the_ring() {
    let Bench { core, hot, .. } = &bench(8, 3, 6);
    core.look_push(&hot.push).unwrap();
    let items: Vec<u8> = (0..15).collect();
    // SAFETY: five items of three bytes.
    unsafe { core.push_run(&hot.push, items.as_ptr(), 5) };
    core.look_pop(&hot.pop, true).unwrap();
    let (_, run) = core.hand_out(&hot.pop, 5);
    assert_eq!((run, hot.pop.ready(), hot.pop.run()), (2, 0, 2));
    core.free_run(&hot.pop, 0);
    let mut back = [0_u8; 15];
    // SAFETY: room for five items.
    unsafe { core.pop_run(&hot.pop, back.as_mut_ptr(), 5) };
    assert_eq!(back[..], items[..]);
}

#[test]
fn runs_around_the_end_are_demoted_and_stay_as_they_are() {
    let Bench { core, hot, .. } = &bench(4, 1024, 2);
    let item = |i: u64| [i as u8; 1024];
    for round in 0..2000 {
        assert_eq!(core.look_push(&hot.push), Ok(4));
        for i in 0..4 {
            // SAFETY: an item of that size.
            unsafe { core.push_one(&hot.push, item(round + i).as_ptr()) };
        }
        assert_eq!(core.look_pop(&hot.pop, false), Ok(4));
        let mut back = [0_u8; 4096];
        // SAFETY: room for four items.
        unsafe { core.pop_run(&hot.pop, back.as_mut_ptr(), 4) };
        for i in 0..4 {
            assert_eq!(back[i as usize * 1024..][..1024], item(round + i), "{round}");
        }
        if core.demotes {
            // Whatever has been found out: slots that are in use.
            core.demote_now(&hot.pop, 4);
        }
    }
}

#[test]
fn an_impossible_index_is_corruption() {
    let Bench { core, hot, .. } = &bench(8, 8, 0);
    core.control().tail.0.store(9, Ordering::Relaxed);
    assert_eq!(core.look_pop(&hot.pop, true), Err(Corrupt));
    core.control().head.0.store(1, Ordering::Relaxed);
    assert_eq!(core.look_push(&hot.push), Err(Corrupt));
}
