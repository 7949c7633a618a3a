//! Files that are cut, and grown again, while others use what is in them: with the guard against
//! SIGBUS calls say so and return; a sealed file cannot be cut.

mod support;

use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use madang::Access;
use madang::ring::{Kind, Options, Ring, policy};
use madang::sem::{UndoOptions, UndoSemaphore};
use nix::errno::Errno;
use support::face::{FOREVER, Failure, NOWAIT, refused_with};
use support::hostile::*;
use support::process::{Gate, as_nobody, fork, is_root, join, shared_words};
use support::ring_face::{C, CREATE, Face, Named};
use support::sem_face::CSem;
use support::undo_face::Undo;
use support::unique;

const BRIEF: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(60);

on_both_faces! { Ring, C in turn:
    rings_that_are_cut_all_the_time
    large_items_that_are_cut
}

mod of_semaphores {
    use super::*;
    crate::on_both_faces! { UndoSemaphore, CSem in turn:
        a_semaphore_that_is_cut_says_so
    }
}

/// Users at full speed; whatever they meet, each call returns, and answers what it may. A handle that
/// has said that its file was cut does not wait any more.
fn use_until_cut<F: Face>(name: &Named, start: Instant, seed: u64) {
    madang::sigbus_guard().unwrap();
    let mut dice = Dice(seed);
    let told = || CUTS.load(Ordering::Relaxed);
    // For a while, and then until it was seen at least once.
    while start.elapsed() < BRIEF || told() == 0 && start.elapsed() < LONG {
        let access = [libc::O_RDWR, libc::O_RDONLY, libc::O_WRONLY][dice.roll(3) as usize];
        let found = bounded(0, || F::open(Some(&name.0), &Options::default(), access, 0));
        let Some(ring) = allow(OPEN, found) else { continue };
        let before = told();
        for _ in 0..5000 {
            operate(&ring, access, &mut dice);
            if told() > before {
                let again = || match access {
                    libc::O_WRONLY => bounded(0, || ring.push(&[1; ITEM], FOREVER)),
                    _ => bounded(0, || ring.pop(&mut [0; ITEM], FOREVER)),
                };
                // It may go on with what is left, while the enemy says that all is well; it does not wait.
                if access != libc::O_RDWR
                    && let Some(refused) = (0..=1024).find_map(|_| again().err())
                {
                    refused_with(Err::<(), _>(refused), libc::EBADMSG, "shorter");
                }
                break;
            }
        }
        bounded(0, || drop(ring));
    }
    assert!(told() > 0, "it was never told of a cut");
}

/// The lines of large items are touched once more when they are given back: cut at that moment, too, the
/// consumer is told, and lives.
fn large_items_that_are_cut<F: Face>() {
    const SIZE: usize = 4096;
    for round in 0..12 {
        let name = Named::new("cut_large");
        let options = Options::new(16, SIZE as u32);
        let ring = F::open(Some(&name.0), &options, CREATE | libc::O_EXCL, 0o600).unwrap();
        let file = File::options().write(true).open(name.path()).unwrap();
        let length = file.metadata().unwrap().len();
        drop(ring);
        let read = &shared_words(1)[0];
        let side = |access, each: fn(&F) -> Result<(), Failure>| {
            let (name, read) = (&name, read);
            fork(move || {
                // SAFETY: a plain number.
                unsafe { libc::alarm(60) };
                madang::sigbus_guard().unwrap();
                let ring = F::open(Some(&name.0), &Options::default(), access, 0).unwrap();
                let refused = loop {
                    if let Err(refused) = each(&ring) {
                        break refused;
                    }
                    read.fetch_add(u64::from(access == libc::O_RDONLY), Ordering::Relaxed);
                };
                assert_eq!(refused.code, libc::EBADMSG, "{}", refused.text);
            })
        };
        let producer = side(libc::O_WRONLY, |ring| {
            let (room, _) = ring.reserve(1, FOREVER)?;
            // SAFETY: the reserved slot.
            unsafe { room.write(1) };
            ring.commit(1)
        });
        let consumer = side(libc::O_RDONLY, |ring| {
            ring.peek(1, FOREVER)?;
            ring.release(1)
        });
        // About when it tries out what giving lines back brings.
        while read.load(Ordering::Relaxed) < 500 + 50 * round {
            std::hint::spin_loop();
        }
        file.set_len(if round % 2 == 0 { length / 2 } else { length - SIZE as u64 }).unwrap();
        [producer, consumer].into_iter().for_each(join);
    }
}

fn rings_that_are_cut_all_the_time<F: Face>() {
    for (options, seed) in all_kinds().into_iter().zip(1..) {
        let options = Options { capacity: 1024, ..options };
        let name = Named::new("cut");
        let ring = F::open(Some(&name.0), &options, CREATE | libc::O_EXCL, 0o600).unwrap();
        let file = File::options().write(true).open(name.path()).unwrap();
        let length = file.metadata().unwrap().len();
        drop(ring);
        let whole = std::fs::read(name.path()).unwrap();
        let enemy = fork(|| {
            let mut dice = Dice(seed);
            loop {
                std::thread::sleep(Duration::from_micros(dice.roll(2000)));
                file.set_len(dice.roll(length + 1)).unwrap();
                (0..dice.roll(2000)).for_each(|_| std::hint::spin_loop());
                // A good one for newcomers, under the feet of the others.
                std::os::unix::fs::FileExt::write_all_at(&file, &whole, 0).unwrap();
            }
        });
        let start = Instant::now();
        let users: Vec<_> = (1..3)
            .map(|me| {
                fork(|| {
                    watch_for_panics();
                    // SAFETY: a plain number.
                    unsafe { libc::alarm(120) };
                    use_until_cut::<F>(&name, start, 7 * seed + me);
                    no_panic();
                })
            })
            .collect();
        users.into_iter().for_each(join);
        drop(enemy);
    }
}

fn a_semaphore_that_is_cut_says_so<S: Undo>() {
    for length in [0, 4096, 8192] {
        let name = unique("cut");
        let path = format!("/dev/shm/mdg.sem.{}", &name[1..]);
        join(fork(|| {
            madang::sigbus_guard().unwrap();
            let options = UndoOptions { value: 3, max_handles: 4, tell: false };
            let sem = S::open(&name, &options, libc::O_CREAT | libc::O_EXCL, 0o600).unwrap();
            assert!(!sem.wait(NOWAIT).unwrap());
            File::options().write(true).open(&path).unwrap().set_len(length).unwrap();
            // Permits that are nobody's are given to nobody.
            for timeout in [NOWAIT, FOREVER] {
                refused_with(bounded(0, || sem.wait(timeout)), libc::EBADMSG, "shorter");
            }
            refused_with(bounded(0, || sem.post()), libc::EBADMSG, "shorter");
            bounded(0, || drop(sem));
        }));
        S::unlink(&name).unwrap();
    }
}

/// A consumer that may only read gets no item of which a part is gone: not by a copy, and not in place.
#[test]
fn no_item_of_a_cut_file_is_delivered_to_who_may_only_read() {
    if !is_root() {
        return;
    }
    const SIZE: usize = 3 * 4096;
    let _turn = support::process::serial();
    for in_place in [false, true] {
        let name = Named::new("cut-reader");
        let (kind, policy) = (Some(Kind::Broadcast), policy::OVERWRITE);
        let options = Options { kind, policy, ..Options::new(4, SIZE as u32) };
        let create = libc::O_WRONLY | libc::O_CREAT;
        let ring = C::open(Some(&name.0), &options, create, 0o644).unwrap();
        let (joined, cut) = (Gate::new(), Gate::new());
        let reader = fork(|| {
            as_nobody(|| {
                madang::sigbus_guard().unwrap();
                let reader =
                    C::open(Some(&name.0), &Options::default(), libc::O_RDONLY, 0).unwrap();
                joined.open();
                cut.pass();
                if !in_place {
                    let popped = reader.pop(&mut [0; SIZE], NOWAIT);
                    refused_with(popped, libc::EBADMSG, "shorter");
                    return;
                }
                let (item, _) = reader.peek(1, NOWAIT).unwrap();
                let mut bytes = [0_u8; SIZE];
                // SAFETY: an item handed out in place.
                unsafe { item.copy_to(bytes.as_mut_ptr(), SIZE) };
                refused_with(reader.release(1), libc::EBADMSG, "shorter");
            });
        });
        joined.pass();
        ring.push(&[7; SIZE], NOWAIT).unwrap();
        let file = File::options().write(true).open(name.path()).unwrap();
        // The word of the cell and the beginning of the item stay.
        file.set_len(8192 + 64 * 128 + 4096).unwrap();
        cut.open();
        join(reader);
        // Closing stores in what is left.
        drop(ring);
    }
}

/// Anonymous rings cannot be cut by anybody, and who asks for that gets no other.
#[test]
fn a_sealed_ring_cannot_be_cut() {
    for options in all_kinds() {
        let ring = Ring::anonymous(&options, Access::ReadWrite).unwrap();
        let memory = ring.memory().unwrap().unwrap();
        let length = nix::sys::stat::fstat(memory).unwrap().st_size;
        for shorter in [0, 1, 4096, length - 1] {
            // SAFETY: a plain call on an open descriptor.
            let cut = unsafe { libc::ftruncate(memory.as_raw_fd(), shorter) };
            assert_eq!((cut, Errno::last()), (-1, Errno::EPERM));
        }
        let options = Options::default();
        let sealed = madang::shm::Seals::Required;
        Ring::from_fd(memory, &options, Access::ReadWrite, sealed).unwrap();
        // The same bytes where anybody may cut them.
        let flags = nix::sys::memfd::MFdFlags::MFD_ALLOW_SEALING;
        let copy = File::from(nix::sys::memfd::memfd_create(c"copy", flags).unwrap());
        std::fs::copy(
            format!("/proc/self/fd/{}", memory.as_raw_fd()),
            format!("/proc/self/fd/{}", copy.as_raw_fd()),
        )
        .unwrap();
        // SAFETY: open for as long as it is used.
        let copied = unsafe { BorrowedFd::borrow_raw(copy.as_raw_fd()) };
        let refused = Ring::from_fd(copied, &options, Access::ReadWrite, sealed).unwrap_err();
        assert!(refused.text().contains("seal"), "{refused}");
        let open =
            Ring::from_fd(copied, &options, Access::ReadWrite, madang::shm::Seals::Unchecked);
        open.unwrap();
    }
}
