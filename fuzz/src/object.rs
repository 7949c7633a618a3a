//! Superblocks: what is opened, checked and repaired under a name may begin with anything.

use std::ffi::c_int;
use std::ptr;

use madang::ffi::object::*;
use madang::ffi::ring::*;
use madang::ffi::sem::*;

use super::plan::{Image, Plan, call, name};
use super::ring::{Handle, options};

const CODES: &[c_int] = &[
    libc::EPROTO,
    libc::EBADMSG,
    libc::EBUSY,
    libc::EMFILE,
    libc::ENOMEM,
    libc::EOVERFLOW,
    libc::EINVAL,
    libc::ENOENT,
    libc::ENOSYS,
];

fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ (0x82f6_3b78 * (crc & 1)))
    })
}

/// Removes the file, whatever happens.
struct Gone(String);

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Writes over the first page, with a right checksum or not, and a file of the size that it says or
/// not, and opens what is there then.
pub fn superblock(input: &[u8]) {
    use std::os::unix::fs::FileExt;
    let mut plan = Plan::new(input);
    let (name, as_semaphore) = (name(), plan.choose(4) == 0);
    let rest = name.to_str().unwrap()[1..].to_owned();
    let path = Gone(format!("/dev/shm/mdg.{}.{rest}", if as_semaphore { "sem" } else { "ring" }));
    // SAFETY: `out` is writable, the name a C string, the options have their size.
    unsafe {
        if as_semaphore {
            let opts = mdg_sem_opts {
                size: size_of::<mdg_sem_opts>(),
                value: 2,
                kind: MDG_SEM_UNDO,
                flags: 0,
                max_handles: 4,
            };
            let mut sem = ptr::null_mut();
            let made = mdg_sem_open(&raw mut sem, name.as_ptr(), &raw const opts, 0o100, 0o600);
            assert_eq!(made, 0);
            mdg_sem_close(sem);
        } else {
            let options = options(&mut plan);
            drop(Handle::made("mdg_ring_open", &[], |out| {
                mdg_ring_open(out, name.as_ptr(), &raw const options, libc::O_RDWR | 0o100, 0o600)
            }));
        }
    }
    let image = Image::at(&path.0);
    let mut header = [0; 256];
    image.file().read_exact_at(&mut header, 0).unwrap();
    let (mend, resize) = (plan.choose(4) > 0, plan.choose(4));
    for _ in 0..1 + plan.choose(8) {
        let at = (plan.choose(if mend { 32 } else { 64 }) * 4).min(248) as usize;
        let word = u64::from_le_bytes(header[at..at + 8].try_into().unwrap());
        let width = [8, 4, 2, 1][plan.choose(4) as usize];
        let value = plan.change(word).to_le_bytes();
        header[at..at + width].copy_from_slice(&value[..width]);
    }
    if mend {
        let checksum = crc32c(&header[..0xf8]);
        header[0xf8..0xfc].copy_from_slice(&checksum.to_le_bytes());
    }
    image.write(0, &header);
    let said = u64::from_le_bytes(header[0x28..0x30].try_into().unwrap());
    let size = match resize {
        0 | 1 => image.len(),
        2 => said,
        _ => plan.word(3),
    };
    // A file of the greatest size that costs nothing.
    if size < 1 << 40 {
        let _ = image.file().set_len(size);
    }
    look(&mut plan, &name, as_semaphore);
}

fn look(plan: &mut Plan<'_>, name: &std::ffi::CStr, as_semaphore: bool) {
    let kind = if as_semaphore { MDG_OBJECT_SEM } else { MDG_OBJECT_RING };
    let name = name.as_ptr();
    let mut report = [0; 300];
    // SAFETY: C strings, room for a report, live handles, room for the items of a ring that was opened.
    unsafe {
        call("mdg_object_check", CODES, || {
            mdg_object_check(kind, name, report.as_mut_ptr(), report.len()) as isize
        });
        call("mdg_object_repair", CODES, || mdg_object_repair(kind, name) as isize);
        if as_semaphore {
            let mut sem = ptr::null_mut();
            let undo = mdg_sem_opts {
                size: size_of::<mdg_sem_opts>(),
                value: 0,
                kind: MDG_SEM_UNDO,
                flags: 0,
                max_handles: 0,
            };
            let open = || mdg_sem_open(&raw mut sem, name, &raw const undo, 0, 0) as isize;
            if call("mdg_sem_open", CODES, open).is_some() {
                call("wait", &[libc::EAGAIN], || mdg_sem_wait(sem, 0) as isize);
                call("post", &[libc::EOVERFLOW], || mdg_sem_post(sem) as isize);
                mdg_sem_close(sem);
            }
            return;
        }
        let access = [libc::O_RDWR, libc::O_RDONLY, libc::O_WRONLY][plan.choose(3) as usize];
        let ring = Handle::made("mdg_ring_open", CODES, |out| {
            mdg_ring_open(out, name, ptr::null(), access, 0)
        });
        let Some(ring) = ring else { return };
        // Of a large one, which may be all holes, stat would look at too much.
        let small = std::fs::metadata(format!("/proc/self/fd/{}", ring.memory())).unwrap();
        if small.len() > 1 << 22 {
            return;
        }
        let stats = ring.stat();
        for _ in 0..16 {
            ring.operate(plan, stats.item_size as usize);
        }
    }
    // SAFETY: a C string.
    call("mdg_object_reap", CODES, || unsafe { mdg_object_reap(kind, name, MDG_REAP_WITH_ITEMS) }
        as isize);
}
