#![forbid(unsafe_code)]
//! The waiting loops and what they learn, without a peer.

use super::*;

#[test]
fn the_end_of_a_wait_looks_once_more() {
    let event = EventCount::default();
    let spinner = Spinner::up_to(0);
    spinner.yields.set(0);
    let mut looks = 0;
    let dead = Error::new(nix::errno::Errno::EOWNERDEAD, "died");
    let result = wait_until(
        &event,
        &spinner,
        Timeout::Forever,
        || {
            looks += 1;
            Ok((looks == 3).then_some(7))
        },
        || {},
        || Err(dead.clone()),
    );
    // Look 1 after arming, look 2 after the slice in which the peer was found dead ...
    assert_eq!(result.unwrap_err(), dead);
    assert_eq!(looks, 2);
}

/// A handler that runs at the n-th attempt, wherever in the wait that is: spinning, giving way,
/// before the first sleep and between two. At most the one sleep that follows is slept to its end.
#[test]
fn an_interruption_at_any_attempt_ends_the_wait() {
    for moment in 1..=14 {
        let (event, spinner) = (EventCount::default(), Spinner::up_to(4));
        let (slices, interrupted_in) = (Cell::new(0), Cell::new(0));
        let mut attempts = 0;
        let attempt = || {
            attempts += 1;
            if attempts == moment {
                interrupt::interrupt();
                interrupted_in.set(slices.get());
            }
            Ok((attempts > moment + 12).then_some(()))
        };
        let alive = || {
            slices.set(slices.get() + 1);
            Ok(())
        };
        let result = wait_until(&event, &spinner, Timeout::Forever, attempt, || {}, alive);
        assert_eq!(result.unwrap_err().errno(), libc::EINTR, "at attempt {moment}");
        assert!(!interrupt::take(), "one call returned EINTR for it");
        assert!(slices.get() <= interrupted_in.get() + 1, "at attempt {moment}");
    }
}

#[test]
fn an_interruption_goes_before_the_end_of_the_time_and_after_success_and_death() {
    let (event, spinner) = (EventCount::default(), Spinner::up_to(0));
    let soon = Timeout::from_nanos(1);
    let never = || Ok(None::<()>);
    assert!(interrupt::interrupt());
    let mut looks = 0;
    let late = || {
        looks += 1;
        Ok((looks == 2).then_some(()))
    };
    wait_until(&event, &spinner, Timeout::Forever, late, || {}, || Ok(())).unwrap();
    assert!(interrupt::is_pending(), "the wait has got something");
    let dead = || Err(Error::new(nix::errno::Errno::EOWNERDEAD, "died"));
    let handler = || {
        interrupt::take();
    };
    let result = wait_until(&event, &spinner, Timeout::Forever, never, handler, dead);
    assert_eq!(result.unwrap_err().errno(), libc::EOWNERDEAD);
    assert!(interrupt::interrupt());
    let result = wait_until(&event, &spinner, soon, never, || {}, || Ok(()));
    assert_eq!(result.unwrap_err().errno(), libc::EINTR);
    assert!(interrupt::interrupt());
    let result = look_until(&spinner, 0, soon, never, || Ok(()));
    assert_eq!(result.unwrap_err().errno(), libc::EINTR);
    let result = wait_until(&event, &spinner, soon, never, || {}, || Ok(()));
    assert_eq!(result.unwrap_err().errno(), libc::ETIMEDOUT);
}

#[test]
fn a_deaf_wait_leaves_an_interruption_pending() {
    let mut looks = 0;
    let third = || {
        looks += 1;
        Ok((looks == 3).then_some(()))
    };
    assert!(interrupt::interrupt());
    let spinner = Spinner::up_to(0);
    spinner.yields.set(0);
    wait_deaf_until(&EventCount::default(), &spinner, third).unwrap();
    assert!(interrupt::take());
}

#[test]
fn vain_spins_get_shorter_and_good_ones_longer() {
    let spinner = Spinner::up_to(MOST_TURNS);
    for _ in 0..EXPLORE {
        assert_eq!(spinner.spin(&mut || Ok(None::<()>)).unwrap(), None);
    }
    assert_eq!(spinner.turns.get(), 0);
    // The long one finds what comes late, and from then on it is waited for.
    let after = |turns: u32| {
        let mut count = 0;
        move || {
            count += 1;
            Ok((count > turns).then_some(()))
        }
    };
    assert!(spinner.spin(&mut after(2 * MOST_TURNS)).unwrap().is_some());
    assert_eq!(spinner.turns.get(), MOST_TURNS);
    assert!(spinner.spin(&mut after(100)).unwrap().is_some());
    assert_eq!(spinner.turns.get(), 200);
    assert!(spinner.spin(&mut after(0)).unwrap().is_some());
    assert_eq!(spinner.turns.get(), FEWEST_TURNS);
}

/// Naps are counted, not timed: an idle waiter looks again 100 times a second, however its
/// waits are cut into calls, and at once after news.
#[test]
fn naps_grow_while_nothing_comes() {
    let spinner = Spinner::up_to(0);
    let looks = Cell::new(0);
    let position = Cell::new(7);
    let idle = |timeout: i64, longest: u32| {
        let before = looks.get();
        let attempt = || {
            looks.set(looks.get() + 1);
            Ok((looks.get() - before > longest).then_some(()))
        };
        let (at, timeout) = (position.get(), Timeout::from_nanos(timeout));
        let ended = look_until(&spinner, at, timeout, attempt, || Ok(()));
        (looks.get() - before, ended.is_ok())
    };
    // 20 µs, 8 times; then growing by an eighth: 60 looks in the first 80 ms.
    let (first, found) = idle(120_000_000, 100);
    assert!(!found && first < 75, "{first}");
    // From then on one in 10 ms, or one for each call.
    let (more, found) = idle(200_000_000, 100);
    assert!(!found && more < 23, "{more}");
    let in_short_calls: u32 = (0..20).map(|_| idle(1_000_000, 100).0).sum();
    assert!(in_short_calls <= 20, "{in_short_calls}");
    assert!(spinner.idle.get() / NAP_PART > NAPS.1);
    assert_eq!(idle(-1, 0), (1, true));
    assert_eq!(spinner.idle.get(), Duration::ZERO, "news make the naps short again");
    // Idle is the time that was asked for; a busy machine sleeps for longer.
    while spinner.idle.get() / NAP_PART <= NAPS.1 {
        idle(100_000_000, 100);
    }
    // So does an item that was popped without a wait.
    position.set(8);
    idle(1, 100);
    assert!(spinner.idle.get() < Duration::from_millis(80));
}

#[test]
fn who_gives_way_in_vain_does_it_less_often() {
    let spinner = Spinner::up_to(0);
    let forever = Deadline::start(Timeout::Forever).unwrap();
    let mut times = 0;
    let mut after = |most: u32| {
        times = 0;
        let found = spinner.give_way(&forever, Duration::MAX, &mut || {
            times += 1;
            Ok((times == most).then_some(()))
        });
        (found.unwrap().is_some(), times)
    };
    for times in [4, 2, 1, 1] {
        assert_eq!(after(u32::MAX), (false, times));
    }
    // And where it helps, often enough to help again.
    assert_eq!((after(1), after(3), after(u32::MAX)), ((true, 1), (true, 3), (false, 6)));
}

#[test]
fn who_waits_long_for_its_turn_stays_for_a_while() {
    let spinner = Spinner::up_to(0);
    let forever = Deadline::start(Timeout::Forever).unwrap();
    let mut times = 0;
    let mut slow = || {
        times += 1;
        let end = now() + 2 * LONGEST_YIELD;
        while now() < end {}
        Ok(None::<()>)
    };
    for _ in 0..=STAY {
        assert_eq!(spinner.give_way(&forever, LONGEST_YIELD, &mut slow).unwrap(), None);
    }
    assert_eq!(times, 1);
    let passed = Deadline::start(Timeout::from_nanos(1)).unwrap();
    while !passed.passed() {}
    let mut times = 0;
    spinner.yields.set(4);
    let _ = spinner.give_way(&passed, Duration::MAX, &mut || {
        times += 1;
        Ok(None::<()>)
    });
    assert_eq!(times, 1, "a wait that is over gives way no more");
}

#[test]
fn long_spins_that_never_help_get_rare() {
    let spinner = Spinner::up_to(MOST_TURNS);
    let mut turns = 0_u64;
    for _ in 0..10_000 {
        let mut never = || {
            turns += 1;
            Ok(None::<()>)
        };
        assert_eq!(spinner.spin(&mut never).unwrap(), None);
    }
    assert!(turns < 20 * u64::from(EXPLORING_TURNS), "{turns}");
}
