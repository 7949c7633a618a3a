//! Semaphores whose permits come back, whose word, slots and records are written over.

use std::ffi::c_int;
use std::ptr;

use madang::ffi::sem::*;

use super::plan::{Image, Plan, call, name};

const HANDLES: u32 = 4;
const CONTROL: u64 = 4096;
const SLOTS: u64 = 8192;
const RECORDS: u64 = SLOTS + 128 * HANDLES as u64;

const OPEN: &[c_int] = &[libc::EPROTO, libc::EBUSY, libc::EMFILE];
const WAIT: &[c_int] = &[
    libc::EAGAIN,
    libc::ETIMEDOUT,
    libc::EOWNERDEAD,
    libc::EOVERFLOW,
    libc::EBADMSG,
    libc::EMFILE,
];

struct Handle(*mut mdg_sem);

impl Handle {
    fn open(name: &std::ffi::CStr, create: bool, tell: bool) -> Option<Self> {
        let opts = mdg_sem_opts {
            size: size_of::<mdg_sem_opts>(),
            value: 3,
            kind: MDG_SEM_UNDO,
            flags: if tell { MDG_SEM_TELL } else { 0 },
            max_handles: HANDLES,
        };
        let (mut sem, oflag) = (ptr::null_mut(), if create { libc::O_CREAT } else { 0 });
        // SAFETY: `out` is writable, the name a C string, the options have their size.
        call("mdg_sem_open", OPEN, || unsafe {
            mdg_sem_open(&raw mut sem, name.as_ptr(), &raw const opts, oflag, 0o600) as isize
        })?;
        Some(Self(sem))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: a live handle that nobody uses any more.
        call("mdg_sem_close", &[], || unsafe {
            mdg_sem_close(self.0);
            0
        });
    }
}

/// Makes one, and writes over it between calls.
pub fn semaphore(input: &[u8]) {
    let mut plan = Plan::new(input);
    let name = name();
    let path = format!("/dev/shm/mdg.sem.{}", &name.to_str().unwrap()[1..]);
    let first = Handle::open(&name, true, plan.choose(2) == 0).unwrap();
    let image = Image::at(&path);
    let mut handles = vec![first];
    for _ in 0..64 {
        if plan.is_over() {
            break;
        }
        let which = plan.choose(handles.len() as u64) as usize;
        let (sem, timeout) = (handles[which].0, plan.timeout());
        let mut rows = [mdg_sem_holder { pid: 0, count: 0, alive: 0 }; 3];
        // SAFETY: live handles; as many rows as the call is told.
        unsafe {
            match plan.choose(16) {
                0 => image.overlay(&mut plan, CONTROL),
                1 => {
                    let at = CONTROL + 128 + 4 * plan.choose(2);
                    image.overlay(&mut plan, at);
                }
                2 => {
                    let at = SLOTS + 128 * plan.choose(HANDLES.into()) + 4 * plan.choose(24);
                    image.overlay(&mut plan, at);
                }
                3..7 => {
                    let at = RECORDS + 128 * plan.choose(HANDLES.into()) + 4 * plan.choose(4);
                    image.overlay(&mut plan, at);
                }
                7 if handles.len() < 6 => {
                    handles.extend(Handle::open(&name, false, timeout != 0));
                }
                8 if which > 0 => drop(handles.swap_remove(which)),
                9 => _ = call("mdg_sem_value", WAIT, || mdg_sem_value(sem) as isize),
                10 => {
                    let holders = || mdg_sem_holders(sem, rows.as_mut_ptr(), rows.len()) as isize;
                    let count = call("mdg_sem_holders", &[], holders).unwrap();
                    assert!(count <= HANDLES as usize);
                }
                11..13 => _ = call("mdg_sem_post", WAIT, || mdg_sem_post(sem) as isize),
                _ => _ = call("mdg_sem_wait", WAIT, || mdg_sem_wait(sem, timeout) as isize),
            }
        }
    }
    drop(handles);
    let _ = std::fs::remove_file(path);
}
