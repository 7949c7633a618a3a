//! Moving items: the operations of a [`Ring`], which wait if they have to. What needs no waiting is in
//! `straight`.

use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use nix::errno::Errno;

use super::control::{CORRUPT, SHUTDOWN};
use super::engine::{Engine, Trouble};
use super::fast::{self, Rust, SLOWLY};
use super::handle::Ring;
use super::straight::{ForTwo, wake_if_room};
use crate::error::{Error, Result};
use crate::object::End;
use crate::time::Timeout;

/// What the fast path needs to know of `timeout`: whether it is 0.
#[inline(always)]
fn nowait(timeout: Timeout) -> i64 {
    if timeout == Timeout::NoWait { 0 } else { -1 }
}

impl Ring {
    /// Waits for room for one item and pushes it.
    ///
    /// # Safety
    /// `item` is readable for [`Ring::item_size`] bytes.
    #[inline(always)]
    pub(crate) unsafe fn push_raw(
        &self,
        item: *const u8,
        timeout: impl Into<Timeout>,
    ) -> Result<()> {
        let (side, control) = (&self.hot.push, self.core.control());
        // Relaxed: a shutdown that races with a push may come after it. A ring of another kind has
        // no room on this side, ever.
        if side.ready() == 0 || control.flags.0.load(Ordering::Relaxed) != 0 {
            if !matches!(self.engine, Engine::Spsc) {
                // SAFETY: the caller vouches for the item.
                return unsafe { self.push_among_many(item, 1, timeout.into()) }.map(drop);
            }
            self.ready(End::Producer, timeout.into())?;
        }
        // SAFETY: there is room for one; the caller vouches for the item.
        unsafe { self.core.push_one(side, item) };
        self.notify(End::Consumer);
        Ok(())
    }

    /// Waits for an item and pops it.
    ///
    /// # Safety
    /// `item` is writable for [`Ring::item_size`] bytes.
    #[inline(always)]
    pub(crate) unsafe fn pop_raw(&self, item: *mut u8, timeout: impl Into<Timeout>) -> Result<()> {
        let side = &self.hot.pop;
        if side.ready() == 0 {
            if !matches!(self.engine, Engine::Spsc) {
                // SAFETY: the caller vouches for the buffer.
                return unsafe { self.pop_among_many(item, 1, timeout.into()) }.map(drop);
            }
            self.ready(End::Consumer, timeout.into())?;
        }
        // SAFETY: there is one item at least; the caller vouches for the buffer.
        unsafe { self.core.pop_first(side, item) };
        self.notify(End::Producer);
        Ok(())
    }

    /// Waits for room for one item and pushes as many of `count` as fit, with one commit.
    ///
    /// # Safety
    /// `items` is readable for `count` items.
    pub(crate) unsafe fn push_many_raw(
        &self,
        items: *const u8,
        count: usize,
        timeout: Timeout,
    ) -> Result<usize> {
        if count == 0 {
            return Ok(0);
        }
        if !matches!(self.engine, Engine::Spsc) {
            // SAFETY: the caller vouches for the items.
            return unsafe { self.push_among_many(items, count as u64, timeout) };
        }
        let (side, control) = (&self.hot.push, self.core.control());
        let flags = control.flags.0.load(Ordering::Relaxed);
        if side.ready() < count as u64 || flags != 0 {
            self.ready(End::Producer, timeout)?;
        }
        let count = side.ready().min(count as u64);
        // SAFETY: there is room for `count`; the caller vouches for the items.
        unsafe { self.core.push_run(side, items, count) };
        self.notify(End::Consumer);
        Ok(count as usize)
    }

    /// Waits for one item and pops as many of `count` as there are.
    ///
    /// # Safety
    /// `items` is writable for `count` items.
    pub(crate) unsafe fn pop_many_raw(
        &self,
        items: *mut u8,
        count: usize,
        timeout: Timeout,
    ) -> Result<usize> {
        if count == 0 {
            return Ok(0);
        }
        if !matches!(self.engine, Engine::Spsc) {
            // SAFETY: the caller vouches for the buffer.
            return unsafe { self.pop_among_many(items, count as u64, timeout) };
        }
        let side = &self.hot.pop;
        if side.ready() < count as u64 {
            self.ready(End::Consumer, timeout)?;
        }
        let count = side.ready().min(count as u64);
        // SAFETY: there are `count` items; the caller vouches for the buffer.
        unsafe { self.core.pop_run(side, items, count) };
        self.notify(End::Producer);
        Ok(count as usize)
    }

    /// A push into a ring of a kind that [`Engine`] runs.
    ///
    /// # Safety
    /// `items` is readable for `count` items.
    #[inline(never)]
    unsafe fn push_among_many(
        &self,
        items: *const u8,
        count: u64,
        timeout: Timeout,
    ) -> Result<usize> {
        let (seat, size) = (&self.hot.seat, self.core.item_size());
        let done = self.operate(End::Producer, timeout, || {
            // SAFETY: the end is held (`operate`); the caller vouches for the items.
            let moved = unsafe { self.engine.push(seat, items, size, count) };
            self.some(moved)
        })?;
        self.notify(End::Consumer);
        Ok(done as usize)
    }

    /// A pop from a ring of a kind that [`Engine`] runs.
    ///
    /// # Safety
    /// `items` is writable for `count` items.
    #[inline(never)]
    unsafe fn pop_among_many(&self, items: *mut u8, count: u64, timeout: Timeout) -> Result<usize> {
        let (seat, size) = (&self.hot.seat, self.core.item_size());
        let done = self.operate(End::Consumer, timeout, || {
            // SAFETY: the end is held (`operate`); the caller vouches for the buffer.
            let moved = unsafe { self.engine.pop(seat, items, size, count) };
            if moved == Ok(0) {
                self.tell_of_room(false);
            }
            self.some(moved)
        })?;
        self.still_whole()?;
        self.tell_of_reading();
        self.tell_of_an_end();
        Ok(done as usize)
    }

    /// After a read: the producer that waits for room is told if there is some. (A broadcast's waits
    /// for the slowest of its consumers; the others would wake it in vain.)
    #[inline(always)]
    fn tell_of_reading(&self) {
        if self.engine.waits_for_room() && self.event(End::Producer).is_armed() {
            wake_if_room(self);
        }
    }

    /// After what a consumer of an overwriting broadcast has read, which may be the only sign that
    /// it has of a cut: nothing of what was read meanwhile is handed on.
    #[inline(always)]
    pub(super) fn still_whole(&self) -> Result<()> {
        if matches!(self.engine, Engine::Overwrite(_)) && self.object.region().is_cut() {
            return Err(self.cut());
        }
        Ok(())
    }

    /// After items were taken off a ring for good: consumers that wait for the end of the stream, in
    /// which everything could still have come again, look whether that was the last.
    fn tell_of_an_end(&self) {
        if self.engine.redelivers()
            && self.control().flags.0.load(Ordering::Relaxed) & SHUTDOWN != 0
        {
            self.notify(End::Consumer);
        }
    }

    /// After a pop that gave nothing, or a peek that has `found` something: they may make room, too.
    #[inline(always)]
    fn tell_of_room(&self, found: bool) {
        if self.engine.has_made_room(found) {
            self.notify(End::Producer);
        }
    }

    #[inline(always)]
    fn some(&self, moved: std::result::Result<u64, Trouble>) -> Result<Option<u64>> {
        match moved {
            Ok(0) => Ok(None),
            Ok(count) => Ok(Some(count)),
            Err(trouble) => Err(self.trouble(trouble)),
        }
    }

    fn hand_out(&self, end: End, count: usize, timeout: Timeout) -> Result<(NonNull<u8>, usize)> {
        if count == 0 {
            return Err(Error::new(Errno::EINVAL, "a run of no items was asked for"));
        }
        if !matches!(self.engine, Engine::Spsc) {
            let (seat, count) = (&self.hot.seat, count as u64);
            let (items, run) = self.operate(end, timeout, || {
                let run = match end {
                    End::Producer => self.engine.reserve(seat, count),
                    End::Consumer => self.engine.peek(seat, count),
                };
                if end == End::Consumer {
                    self.tell_of_room(matches!(run, Ok(Some(_))));
                }
                run.map_err(|trouble| self.trouble(trouble))
            })?;
            return Ok((items, run as usize));
        }
        let side = self.side(end);
        let flags = self.core.control().flags.0.load(Ordering::Relaxed);
        if side.ready() < count as u64 || (end == End::Producer && flags != 0) {
            self.ready(end, timeout)?;
        }
        let (items, run) = self.core.hand_out(side, count as u64);
        Ok((items, run as usize))
    }

    /// Items of the run that is handed out at `end`.
    pub(super) fn run(&self, end: End) -> u64 {
        match self.engine {
            Engine::Spsc => self.side(end).handed_out(),
            _ => self.hot.seat.grip(end).run.get().handed_out(),
        }
    }

    /// Waits for room for one item and hands out a contiguous run of at most `count` free slots.
    /// Nothing is visible to the consumer before [`Ring::commit`].
    ///
    /// In a broadcast that evicts or overwrites, a consumer that has lost the item before may still be
    /// loading the slot, by relaxed atomic loads of aligned words, which it discards. Write it by atomic
    /// stores where that would be a data race.
    pub fn reserve(&self, count: usize, timeout: Timeout) -> Result<(NonNull<u8>, usize)> {
        self.hand_out(End::Producer, count, timeout)
    }

    /// Commits the first `count` items of the run that [`Ring::reserve`] handed out, and gives the
    /// rest back; after a shutdown all of it, with `EPIPE`.
    pub fn commit(&self, count: usize) -> Result<()> {
        let run = self.run(End::Producer);
        if count as u64 > run {
            return Err(Error::new(
                Errno::EINVAL,
                format_args!("committing {count} items of a run of {run}"),
            ));
        }
        if run == 0 {
            return Ok(());
        }
        let flags = self.control().flags.0.load(Ordering::Relaxed);
        let refused = count > 0 && flags & (SHUTDOWN | CORRUPT) != 0;
        let count = if refused { 0 } else { count as u64 };
        match self.engine {
            Engine::Spsc => self.core.commit_run(&self.hot.push, count),
            _ => {
                let done = self.engine.commit(&self.hot.seat, count);
                done.map_err(|trouble| self.trouble(trouble))?;
            }
        }
        self.notify(End::Consumer);
        if refused { self.refused() } else { Ok(()) }
    }

    /// Waits for one item and hands out a contiguous run of at most `count` of them in place. They
    /// stay in the ring until [`Ring::release`]. A hostile producer may change them meanwhile.
    ///
    /// In a broadcast that evicts or overwrites, the producer may store to them at any moment. Read them
    /// by atomic or volatile loads, make no reference to them, and use what was read only after
    /// [`Ring::release`] has succeeded.
    pub fn peek(&self, count: usize, timeout: Timeout) -> Result<(NonNull<u8>, usize)> {
        self.hand_out(End::Consumer, count, timeout)
    }

    /// Frees the first `count` items of the run that [`Ring::peek`] handed out, and leaves the rest
    /// in the ring. `EOVERFLOW`: a broadcast's producer may have written over them while they were
    /// read in place; what was read there is void, and counted as lost.
    pub fn release(&self, count: usize) -> Result<()> {
        let run = self.run(End::Consumer);
        if count as u64 > run {
            return Err(Error::new(
                Errno::EINVAL,
                format_args!("releasing {count} items of a run of {run}"),
            ));
        }
        if run == 0 {
            return Ok(());
        }
        let released = match self.engine {
            Engine::Spsc => {
                self.core.demote(&self.hot.pop, count as u64);
                self.core.free_run(&self.hot.pop, count as u64);
                Ok(())
            }
            _ => self.engine.release(&self.hot.seat, count as u64),
        };
        self.tell_of_reading();
        self.tell_of_an_end();
        if self.hot.pop.is_cut() {
            return Err(self.cut());
        }
        self.still_whole()?;
        released.map_err(|trouble| self.trouble(trouble))
    }

    /// How many whole items `bytes` holds; `EMSGSIZE` if that leaves a part of one.
    fn items_in(&self, bytes: usize) -> Result<usize> {
        let size = self.item_size();
        if !bytes.is_multiple_of(size) {
            return Err(Error::new(
                Errno::EMSGSIZE,
                format_args!("{bytes} bytes are no whole number of items of {size} bytes"),
            ));
        }
        Ok(bytes / size)
    }

    fn one_item(&self, bytes: usize) -> Result<()> {
        if bytes == self.item_size() {
            return Ok(());
        }
        Err(Error::new(
            Errno::EMSGSIZE,
            format_args!("{bytes} bytes where an item has {}", self.item_size()),
        ))
    }

    /// Waits for room and pushes `item`, which has exactly [`Ring::item_size`] bytes.
    pub fn push(&self, item: &[u8], timeout: Timeout) -> Result<()> {
        self.one_item(item.len())?;
        // SAFETY: a live handle, and an item of the right size, just checked.
        match unsafe { fast::push::<Rust>(self, item.as_ptr(), nowait(timeout)) } {
            // SAFETY: as above.
            SLOWLY => unsafe { self.push_raw(item.as_ptr(), timeout) },
            _ => Ok(()),
        }
    }

    /// Waits for an item and copies it into `item`, which has exactly [`Ring::item_size`] bytes.
    pub fn pop(&self, item: &mut [u8], timeout: Timeout) -> Result<()> {
        self.one_item(item.len())?;
        // SAFETY: a live handle, and a buffer of the right size, just checked.
        match unsafe { fast::pop::<Rust>(self, item.as_mut_ptr(), nowait(timeout)) } {
            0 => Ok(()),
            // SAFETY: as above.
            SLOWLY => unsafe { self.pop_raw(item.as_mut_ptr(), timeout) },
            _ => Err(Error::would_block()),
        }
    }

    /// Waits for room for one item, pushes as many of the items as fit, and says how many.
    pub fn push_many(&self, items: &[u8], timeout: Timeout) -> Result<usize> {
        let count = self.items_in(items.len())?;
        if count > 0 && self.has_room_for(count) {
            // SAFETY: as said; `count` items lie in the slice.
            unsafe { self.push_at_once(items.as_ptr(), count) };
            return Ok(count);
        }
        // SAFETY: `count` items lie in the slice.
        unsafe { self.push_many_raw(items.as_ptr(), count, timeout) }
    }

    /// Waits for one item, pops as many as there are and fit, and says how many.
    pub fn pop_many(&self, items: &mut [u8], timeout: Timeout) -> Result<usize> {
        let count = self.items_in(items.len())?;
        if count > 0 && self.has_items(count) {
            // SAFETY: as said; `count` items fit in the slice.
            unsafe { self.pop_at_once(items.as_mut_ptr(), count) };
            return Ok(count);
        }
        // SAFETY: `count` items fit in the slice.
        unsafe { self.pop_many_raw(items.as_mut_ptr(), count, timeout) }
    }
}
