#![forbid(unsafe_code)]
//! How a wait for many is woken: one inotify instance, which watches the files of all its rings.
//!
//! The instance belongs to one of the handles, which keeps it for the next wait. It is never the
//! descriptor that [`Ring::poll_fd`] gives, which the program watches at the same time. Watches that a
//! later wait does not need stay until they are heard, or their place is needed.
//!
//! Where no instance can be had, or one of the files cannot be watched, the wait is *deaf*: it looks
//! again after naps.

use std::cell::Cell;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;

use super::handle::Ring;
use super::many::{MOST, Wait, rings};
use super::poll::bits;
use crate::error::Result;
use crate::sys::cancel;
use crate::sys::doorbell::{self, Heard, Noted};

/// A file that is watched, by the kernel's word on which it is.
#[derive(Debug)]
#[repr(C)]
struct Watch {
    device: Cell<u64>,
    inode: Cell<u64>,
    /// As the kernel counts them, from 1; 0 is none.
    number: Cell<i32>,
}

/// A handle's instance for waits, and what it watches. All zero is none.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Watches {
    ears: Noted,
    files: [Watch; MOST],
}

impl Watches {
    /// The instance is about to be closed.
    pub(super) fn clear(&self) {
        self.ears.clear();
        self.files.iter().for_each(|file| file.number.set(0));
    }

    fn end(&self, number: i32) {
        for file in self.files.iter().filter(|file| file.number.get() == number) {
            file.number.set(0);
        }
    }

    /// The watch of the ring's file, which is made if there is none; in the place of one that is
    /// not `needed`, if there is no other. 0 if it cannot be made.
    fn of(&self, ring: &Ring, needed: &[i32]) -> i32 {
        let (device, inode, _) = ring.object.anchor().place();
        let is_file = |file: &&Watch| file.device.get() == device && file.inode.get() == inode;
        let mut there = self.files.iter().filter(|file| file.number.get() != 0);
        if let Some(file) = there.find(is_file) {
            return file.number.get();
        }
        let Some(ears) = self.ears.fd() else { return 0 };
        let free = self.files.iter().find(|file| file.number.get() == 0);
        let place =
            free.or_else(|| self.files.iter().find(|file| !needed.contains(&file.number.get())));
        let Some(place) = place else { return 0 };
        if place.number.get() != 0 {
            doorbell::forget(ears, place.number.take());
        }
        let Ok(number) = doorbell::watch(ears, ring.object.anchor().file()) else { return 0 };
        place.device.set(device);
        place.inode.set(inode);
        place.number.set(number);
        number
    }
}

/// What one wait hears.
pub(super) struct Hearing<'a> {
    entries: &'a [Wait<'a>],
    /// Whose instance it is; `None` if there is none.
    host: Option<&'a Ring>,
    /// The watch of each entry's ring; 0 if there is none.
    watches: [i32; MOST],
    /// Which rings are to be armed and looked at.
    heard: [bool; MOST],
}

impl<'a> Hearing<'a> {
    /// Watches the files of all rings. From now on a cancellation touches them.
    pub(super) fn new(entries: &'a [Wait<'a>]) -> Result<Self> {
        for (_, ring, _) in rings(entries) {
            ring.check_may_arm()?;
        }
        let host = cancel::without(|| host(entries));
        let mut this = Self { entries, host, watches: [0; MOST], heard: [true; MOST] };
        // Before the watches are compared with the files there are: what is over is taken out.
        this.listen();
        for (index, ring, _) in rings(entries) {
            // SeqCst: pairs with the load in `Canceller::cancel`; before the look whether one is due.
            ring.hot.calls.watched.store(1, Ordering::SeqCst);
            if let Some(host) = this.host {
                this.watches[index] = host.hot.calls.watches.of(ring, &this.watches);
            }
        }
        this.heard = [true; MOST];
        Ok(this)
    }

    /// Whether a ring may become ready unheard.
    pub(super) fn is_deaf(&self) -> bool {
        rings(self.entries).any(|(index, ..)| self.watches[index] == 0)
    }

    /// What to wait on.
    pub(super) fn fd(&self) -> Option<BorrowedFd<'a>> {
        self.host?.hot.calls.watches.ears.fd()
    }

    /// Notes which rings were touched.
    pub(super) fn listen(&mut self) {
        let Some(host) = self.host else { return };
        let own = &host.hot.calls.watches;
        let Some(ears) = own.ears.fd() else {
            // The program has closed it.
            self.host = None;
            self.watches = [0; MOST];
            return;
        };
        let (watches, heard) = (&self.watches, &mut self.heard);
        let listened = doorbell::drain(ears, |what| match what {
            Heard::Touch(number) => {
                let mut needed = false;
                for (heard, _) in heard.iter_mut().zip(watches).filter(|one| *one.1 == number) {
                    *heard = true;
                    needed = true;
                }
                if !needed {
                    doorbell::forget(ears, number);
                    own.end(number);
                }
            }
            Heard::Gone(number) => own.end(number),
            // Also some that are over, perhaps: their files are looked for anew by the next wait.
            Heard::Overflow => {
                *heard = [true; MOST];
                own.files.iter().for_each(|file| file.number.set(0));
            }
        });
        if listened.is_err() {
            self.heard = [true; MOST];
        }
    }

    /// Arms what was heard, or is not armed any more. The rings are to be looked at after this.
    pub(super) fn arm(&mut self) {
        for (index, ring, events) in rings(self.entries) {
            let ends = bits(events.ends());
            if self.watches[index] != 0 && (self.heard[index] || !ring.is_armed(ends)) {
                ring.arm_beside(ends);
            }
            self.heard[index] = false;
        }
    }
}

impl Drop for Hearing<'_> {
    fn drop(&mut self) {
        for (_, ring, _) in rings(self.entries) {
            ring.hot.calls.watched.store(0, Ordering::Release);
        }
    }
}

/// The first of the rings that has an instance, or the first one, which gets one.
fn host<'a>(entries: &'a [Wait<'a>]) -> Option<&'a Ring> {
    let ears = |ring: &Ring| ring.hot.calls.watches.ears.fd().is_some();
    if let Some((_, ring, _)) = rings(entries).find(|(_, ring, _)| ears(ring)) {
        return Some(ring);
    }
    let (_, ring, _) = rings(entries).next()?;
    let watches = &ring.hot.calls.watches;
    watches.clear();
    let mut held = ring.held.take();
    // One that the program has closed: this leaves alone what has its number now.
    held.ears = None;
    held.ears = doorbell::instance().ok();
    if let Some(ears) = &held.ears {
        watches.ears.note(ears);
    }
    let made = held.ears.is_some();
    ring.held.set(held);
    made.then_some(ring)
}
