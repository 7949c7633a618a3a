//! Semaphores whose permits come back: the Rust type and the C entry points behind one trait.

use std::ffi::c_int;

use madang::Timeout;
use madang::ffi::sem::*;
use madang::sem::{AnySemaphore, Holder, Permit, UndoOptions, UndoSemaphore};

use super::face::{Outcome, answer, c_string, done, open_flags};
use super::sem_face::CSem;

/// `mdg_sem` of kind `MDG_SEM_UNDO`, in Rust and in C.
pub trait Undo: Sized + Send + Sync {
    fn open(name: &str, options: &UndoOptions, oflag: c_int, mode: u32) -> Outcome<Self>;
    /// Whether it told of the dead.
    fn wait(&self, timeout_ns: i64) -> Outcome<bool>;
    fn post(&self) -> Outcome<()>;
    fn value(&self) -> u32;
    fn holders(&self) -> Vec<Holder>;
    fn unlink(name: &str) -> Outcome<()>;
}

impl Undo for UndoSemaphore {
    fn open(name: &str, options: &UndoOptions, oflag: c_int, mode: u32) -> Outcome<Self> {
        Ok(UndoSemaphore::open(name.as_bytes(), options, open_flags(oflag).creation, mode)?)
    }
    fn wait(&self, timeout_ns: i64) -> Outcome<bool> {
        Ok(UndoSemaphore::wait(self, Timeout::from_nanos(timeout_ns))? == Permit::FromDead)
    }
    fn post(&self) -> Outcome<()> {
        Ok(UndoSemaphore::post(self)?)
    }
    fn value(&self) -> u32 {
        UndoSemaphore::value(self).unwrap()
    }
    fn holders(&self) -> Vec<Holder> {
        UndoSemaphore::holders(self).collect()
    }
    fn unlink(name: &str) -> Outcome<()> {
        Ok(AnySemaphore::unlink(name.as_bytes())?)
    }
}

impl Undo for CSem {
    fn open(name: &str, options: &UndoOptions, oflag: c_int, mode: u32) -> Outcome<Self> {
        let (name, size) = (c_string(name), size_of::<mdg_sem_opts>());
        let UndoOptions { value, max_handles, tell } = *options;
        let flags = if tell { MDG_SEM_TELL } else { 0 };
        let opts = mdg_sem_opts { size, value, kind: MDG_SEM_UNDO, flags, max_handles };
        // SAFETY: `out` is writable, the name a C string, the options have their size.
        Self::made(|out| unsafe { mdg_sem_open(out, name.as_ptr(), &raw const opts, oflag, mode) })
    }
    fn wait(&self, timeout_ns: i64) -> Outcome<bool> {
        // SAFETY: a live handle.
        match done(|| unsafe { mdg_sem_wait(self.0, timeout_ns) }) {
            Err(failure) if failure.code == libc::EOWNERDEAD => {
                assert!(failure.text.contains("died"), "{}", failure.text);
                Ok(true)
            }
            other => other.map(|()| false),
        }
    }
    fn post(&self) -> Outcome<()> {
        // SAFETY: a live handle.
        done(|| unsafe { mdg_sem_post(self.0) })
    }
    fn value(&self) -> u32 {
        // SAFETY: a live handle.
        answer(|| unsafe { mdg_sem_value(self.0) }).unwrap() as u32
    }
    fn holders(&self) -> Vec<Holder> {
        let mut rows = [mdg_sem_holder { pid: 0, count: 0, alive: 2 }; 8];
        // SAFETY: a live handle; as many rows as the call is told.
        let total = answer(|| unsafe { mdg_sem_holders(self.0, rows.as_mut_ptr(), rows.len()) });
        let total = total.unwrap();
        let holder = |row: &mdg_sem_holder| {
            assert!(row.alive < 2);
            Holder { pid: row.pid, count: row.count, alive: row.alive == 1 }
        };
        rows[..total].iter().map(holder).collect()
    }
    fn unlink(name: &str) -> Outcome<()> {
        let name = c_string(name);
        // SAFETY: a C string.
        done(|| unsafe { mdg_sem_unlink(name.as_ptr()) })
    }
}
