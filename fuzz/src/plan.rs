//! An input read as a program, and calls held to what they promise.

use std::ffi::c_int;
use std::time::{Duration, Instant};

/// How long a call may take, its timeout apart, on a busy machine in a program made to find faults.
const BOUND: Duration = Duration::from_secs(5);

/// The bytes of an input, taken one after the other; zeros when they are used up.
pub struct Plan<'a>(&'a [u8]);

impl<'a> Plan<'a> {
    pub fn new(input: &'a [u8]) -> Self {
        Self(input)
    }

    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    pub fn word(&mut self, width: usize) -> u64 {
        let mut word = [0; 8];
        let taken = self.bytes(width);
        word[..taken.len()].copy_from_slice(taken);
        u64::from_le_bytes(word)
    }

    pub fn byte(&mut self) -> u8 {
        self.word(1) as u8
    }

    /// A number below `sides`.
    pub fn choose(&mut self, sides: u64) -> u64 {
        u64::from(self.byte()) % sides
    }

    /// A timeout: mostly none.
    pub fn timeout(&mut self) -> i64 {
        if self.byte() % 32 == 31 { 20_000 } else { 0 }
    }

    /// The new value of a word of shared memory that has `old`: something else, something near, a bit
    /// changed, a small number, small parts.
    pub fn change(&mut self, old: u64) -> u64 {
        match self.byte() % 8 {
            0 => self.word(8),
            1 => old.wrapping_add(self.word(1)).wrapping_sub(128),
            2 => old ^ 1 << self.choose(64),
            3 => self.word(1),
            4 => self.word(2) << 16 | self.word(1) & 3,
            5 => self.word(2) << 32 | self.word(2),
            6 => old.wrapping_add(self.word(2) << 16),
            _ => u64::MAX.wrapping_sub(self.word(1)),
        }
    }
}

/// Makes a call, and holds it to its bound and to the codes it may fail with. What it returned, if it
/// succeeded.
#[track_caller]
pub fn call(what: &str, codes: &[c_int], call: impl FnOnce() -> isize) -> Option<usize> {
    let start = Instant::now();
    let result = call();
    let took = start.elapsed();
    assert!(took < BOUND, "{what} took {took:?}");
    if result >= 0 {
        return Some(result as usize);
    }
    let code = -result as c_int;
    if code == libc::EINTR {
        // libFuzzer's own alarm.
        return None;
    }
    // SAFETY: a C string of this thread.
    let text = unsafe { std::ffi::CStr::from_ptr(madang::ffi::base::mdg_last_error()) };
    assert!(codes.contains(&code), "{what} answered error {code}: {text:?}");
    let silent = [libc::EAGAIN, libc::ETIMEDOUT, libc::EINTR].contains(&code);
    assert!(silent || !text.is_empty(), "{what} answered error {code} without a word");
    None
}

/// A name that no other process and no other input uses.
pub fn name() -> std::ffi::CString {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    std::ffi::CString::new(format!("/mdg-fuzz-{}-{count}", std::process::id())).unwrap()
}

/// The file of an object, written to as an enemy would.
pub struct Image(std::fs::File);

impl Image {
    pub fn of(fd: c_int) -> Self {
        use std::os::fd::BorrowedFd;
        // SAFETY: the object's own descriptor, open during this call.
        let fd = unsafe { BorrowedFd::borrow_raw(fd) };
        Self(fd.try_clone_to_owned().unwrap().into())
    }

    pub fn at(path: &str) -> Self {
        Self(std::fs::File::options().read(true).write(true).open(path).unwrap())
    }

    pub fn len(&self) -> u64 {
        self.0.metadata().unwrap().len()
    }

    pub fn file(&self) -> &std::fs::File {
        &self.0
    }

    pub fn read(&self, at: u64) -> u64 {
        use std::os::unix::fs::FileExt;
        let mut word = [0; 8];
        let _ = self.0.read_exact_at(&mut word, at);
        u64::from_ne_bytes(word)
    }

    pub fn write(&self, at: u64, bytes: &[u8]) {
        use std::os::unix::fs::FileExt;
        self.0.write_all_at(bytes, at).unwrap();
    }

    /// Changes one word of 8 bytes, or half of it, as the plan says.
    pub fn overlay(&self, plan: &mut Plan<'_>, at: u64) {
        let at = at.min(self.len().saturating_sub(8)) & !3;
        let value = plan.change(self.read(at)).to_ne_bytes();
        if at.is_multiple_of(8) { self.write(at, &value) } else { self.write(at, &value[..4]) }
    }
}
