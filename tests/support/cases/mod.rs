//! One call each, of every mechanism, that takes something from the system: made when everything is
//! there, and judged after it worked or failed. `tests/fault_calls.rs` and `tests/fault_limits.rs`
//! have them fail. In C, which goes through the Rust interface.

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::fs;
use std::path::Path;

use crate::support::face::Outcome;
use crate::support::unique;

mod objects;
mod rings;
mod streams;

pub use objects::{mutexes, segments, semaphores};
pub use rings::rings;
pub use streams::{descriptors, pipes};

const NEW: c_int = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
const OPEN: c_int = libc::O_RDWR;
const SHORT: i64 = 1_000_000;

/// One call.
pub struct Case {
    pub what: &'static str,
    /// Answers that it gives when nothing fails.
    pub answers: &'static [c_int],
    run: Run,
}

type Run = Box<dyn Fn(&Bounds, &[c_int]) -> c_int + Sync>;

/// What to do before and after the call itself.
pub struct Bounds<'a> {
    pub before: &'a (dyn Fn() + Sync),
    pub after: &'a (dyn Fn() + Sync),
}

impl Case {
    /// Makes the call in what it needs, and holds it to what it promises: a failure leaves nothing,
    /// and afterwards all works. The code it failed with, or 0.
    pub fn run(&self, bounds: &Bounds) -> c_int {
        (self.run)(bounds, self.answers)
    }
}

/// Open descriptors and where they lead, and the number of shared mappings.
fn held() -> (BTreeMap<String, String>, usize) {
    let link =
        |path: &Path| fs::read_link(path).map_or(String::new(), |to| to.display().to_string());
    let entries = fs::read_dir("/proc/self/fd").unwrap().flatten();
    let fds = entries.map(|entry| (entry.file_name().into_string().unwrap(), link(&entry.path())));
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let shared = |line: &&str| line.split(' ').nth(1).is_some_and(|access| access.ends_with('s'));
    // Without the directory that is being read.
    (fds.filter(|(_, to)| !to.ends_with("/fd")).collect(), maps.lines().filter(shared).count())
}

fn case<S: 'static, T: 'static>(
    what: &'static str,
    prepare: impl Fn() -> S + Sync + 'static,
    call: impl Fn(&mut S) -> Outcome<T> + Sync + 'static,
    judge: impl Fn(&mut S, Outcome<T>) + Sync + 'static,
) -> Case {
    let run = Box::new(move |bounds: &Bounds, answers: &[c_int]| {
        let mut state = prepare();
        let before = held();
        (bounds.before)();
        let outcome = call(&mut state);
        (bounds.after)();
        let code = outcome.as_ref().err().map_or(0, |failure| failure.code);
        if code != 0 && !answers.contains(&code) {
            assert_eq!(held(), before, "left behind by {what}");
        }
        judge(&mut state, outcome);
        drop(state);
        code
    });
    Case { what, answers: &[], run }
}

/// As `case`, with answers that are no failures.
fn answering(mut case: Case, answers: &'static [c_int]) -> Case {
    case.answers = answers;
    case
}

/// A name and the file that stands for it, which goes away with this.
struct Thing {
    name: String,
    path: String,
}

impl Thing {
    fn new(prefix: &str) -> Self {
        let name = unique("fault");
        let path = format!("/dev/shm/{prefix}{}", &name[1..]);
        Self { name, path }
    }

    fn exists(&self) -> bool {
        Path::new(&self.path).exists()
    }
}

impl Drop for Thing {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        let temporary = format!(".mdg.tmp.{}.", std::process::id());
        let names = fs::read_dir("/dev/shm").unwrap().flatten().map(|entry| entry.file_name());
        let left: Vec<_> =
            names.filter(|name| name.to_string_lossy().starts_with(&temporary)).collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

/// Making something under a name: it is there, or there is nothing and making it works now.
fn making<T: 'static>(
    what: &'static str,
    prefix: &'static str,
    make: impl Fn(&str, c_int) -> Outcome<T> + Sync + Copy + 'static,
    works: impl Fn(&T) + Sync + 'static,
) -> Case {
    let judge = move |thing: &mut Thing, outcome: Outcome<T>| {
        assert_eq!(thing.exists(), outcome.is_ok(), "half-made");
        let made = outcome.unwrap_or_else(|_| make(&thing.name, NEW).unwrap());
        works(&made);
        works(&make(&thing.name, OPEN).unwrap());
    };
    case(what, move || Thing::new(prefix), move |thing| make(&thing.name, NEW), judge)
}

/// Opening what is there: it works now or later, and what was there is as it was.
fn opening<T: 'static>(
    what: &'static str,
    prefix: &'static str,
    make: impl Fn(&str, c_int) -> Outcome<T> + Sync + Copy + 'static,
    works: impl Fn(&T) + Sync + 'static,
) -> Case {
    let prepare = move || {
        let thing = Thing::new(prefix);
        let first = make(&thing.name, NEW).unwrap();
        (first, thing)
    };
    let judge = move |(first, thing): &mut (T, Thing), outcome: Outcome<T>| {
        works(first);
        works(&outcome.unwrap_or_else(|_| make(&thing.name, OPEN).unwrap()));
    };
    case(what, prepare, move |(_, thing)| make(&thing.name, OPEN), judge)
}
