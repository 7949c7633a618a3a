//! A victim that is halted at each place of a call in turn: before and after its system calls, and
//! after its instructions.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::process::{Child, fork, join, shared_words};
use super::step::{At, Victim, is_long, row};

pub const CREATE: i32 = libc::O_RDWR | libc::O_CREAT;

/// Longer than any of these waits may take: 20 s.
pub const LONG: i64 = 20_000_000_000;

/// How long a wait may take that somebody was killed in the way of.
pub const BOUND: Duration = Duration::from_secs(2);

/// Names in /dev/shm that belong to this test's object, or are left-overs of its victim.
pub fn names(part: &str) -> Vec<String> {
    let names = std::fs::read_dir("/dev/shm").unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains(part)).collect()
}

/// Temporary names of this process's victim, and of others.
pub fn leftovers() -> usize {
    names("mdg.tmp").len()
}

/// A call, and where its victims are halted.
#[derive(Clone, Copy)]
pub struct Call {
    pub object: &'static str,
    pub name: &'static str,
    pub function: usize,
    /// Every so-manieth stop at a system call, one before and one after each; all in the long form.
    pub kernel: u64,
    /// Every so-manieth instruction, in the short form and in the long one; 0: none of them.
    pub instruction: u64,
    pub apart: u64,
}

impl Call {
    /// Of thousands of instructions, most of them the kernel's and the C library's business.
    pub fn far(object: &'static str, name: &'static str, function: usize) -> Self {
        Self { object, name, function, kernel: 5, instruction: 0, apart: 4999 }
    }

    /// Of some hundreds at most.
    pub fn near(object: &'static str, name: &'static str, function: usize) -> Self {
        Self { object, name, function, kernel: 2, instruction: 17, apart: 1 }
    }

    /// Has a victim halted in `act` at each place in turn, until one gets through. `ready` is done when
    /// it is about to begin, `then` says what becomes of it, and looks.
    pub fn halted<S>(
        &self,
        how: &str,
        prepare: impl Fn() -> S,
        act: impl Fn(&mut S),
        end: impl Fn(S),
        mut ready: impl FnMut(),
        mut then: impl FnMut(Victim),
    ) {
        let mark = &shared_words(1)[0];
        let (mut tried, mut instructions) = (0, 0);
        for (in_kernel, usual) in [(true, self.kernel), (false, self.instruction)] {
            let stride = match is_long() {
                true if in_kernel => 1,
                true => self.apart,
                false => usual,
            };
            if stride == 0 {
                continue;
            }
            for place in (1 + stride / 2..).step_by(stride as usize) {
                let victim = Victim::new(mark, &prepare, &act, &end);
                ready();
                let reached = if in_kernel {
                    victim.run_to_system_call(self.function, place)
                } else {
                    let mut reached = false;
                    let steps = victim.step(&[self.function], |at| match at {
                        At::Inside { instructions, .. } if instructions == place => {
                            reached = true;
                            ControlFlow::Break(())
                        }
                        _ => ControlFlow::Continue(()),
                    });
                    instructions = instructions.max(steps);
                    reached
                };
                then(victim);
                tried += 1;
                if !reached {
                    break;
                }
            }
        }
        assert!(tried > 1, "{}", self.name);
        row(self.object, self.name, how, 1, instructions, tried);
    }

    /// The same with victims that are killed; `check` looks at what is left.
    pub fn killed<S>(
        &self,
        prepare: impl Fn() -> S,
        act: impl Fn(&mut S),
        mut check: impl FnMut(),
    ) {
        let then = |victim: Victim| {
            victim.kill();
            check();
        };
        self.halted("killed", prepare, act, drop, || (), then);
    }
}

/// A child that has begun to wait when this returns, as far as can be seen from outside: it sleeps.
pub fn asleep(body: impl FnOnce()) -> Child {
    let child = fork(body);
    let start = Instant::now();
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{}/syscall", child.pid())).unwrap();
        // futex(2), and not restarted yet, or a running process.
        if stat.starts_with("202 ") {
            return child;
        }
        assert!(start.elapsed() < BOUND, "it does not sleep: {stat}");
        std::thread::yield_now();
    }
}

/// The end of a sleeper who must not sleep on.
#[track_caller]
pub fn join_soon(sleeper: Child) {
    let start = Instant::now();
    join(sleeper);
    assert!(start.elapsed() < BOUND, "{:?}", start.elapsed());
}
