#![forbid(unsafe_code)]
//! The two ends of a ring as two types: what each cannot do does not compile.

use super::handle::Ring;
use super::options::Options;
use super::stats::Stats;
use crate::error::Result;
use crate::flags::{Access, Creation, OpenFlags};
use crate::time::Timeout;

/// The producing end of a ring. Belongs to one thread at a time, and may move between threads.
///
/// ```
/// use madang::ring::{Options, pair};
/// use madang::Timeout;
///
/// let (producer, consumer) = pair(&Options::new(8, 4))?;
/// producer.push(&7_u32.to_ne_bytes(), Timeout::Forever)?;
/// let mut item = [0; 4];
/// consumer.pop(&mut item, Timeout::Forever)?;
/// assert_eq!(u32::from_ne_bytes(item), 7);
/// # Ok::<(), madang::Error>(())
/// ```
#[derive(Debug)]
pub struct Producer(Ring);

/// The consuming end of a ring. Belongs to one thread at a time, and may move between threads.
#[derive(Debug)]
pub struct Consumer(Ring);

/// Both ends of a new anonymous ring, for two threads.
pub fn pair(options: &Options) -> Result<(Producer, Consumer)> {
    let producer = Ring::anonymous(options, Access::WriteOnly)?;
    let consumer = producer.duplicate(Access::ReadOnly)?;
    Ok((Producer(producer), Consumer(consumer)))
}

impl Producer {
    /// Opens, or makes, the ring `name` for producing; `EBUSY` if a living process does that.
    pub fn open(name: &[u8], options: &Options, creation: Creation, mode: u32) -> Result<Self> {
        Ring::open(name, options, OpenFlags::new(Access::WriteOnly, creation), mode).map(Self)
    }

    /// As [`Ring::push`].
    pub fn push(&self, item: &[u8], timeout: Timeout) -> Result<()> {
        self.0.push(item, timeout)
    }

    /// As [`Ring::push_many`].
    pub fn push_many(&self, items: &[u8], timeout: Timeout) -> Result<usize> {
        self.0.push_many(items, timeout)
    }

    /// As [`Ring::shutdown`].
    pub fn shutdown(&self) -> Result<()> {
        self.0.shutdown()
    }

    /// As [`Ring::abandon`].
    pub fn abandon(self) {
        self.0.abandon();
    }

    /// As [`Ring::stat`].
    pub fn stat(&self) -> Stats {
        self.0.stat()
    }
}

impl Consumer {
    /// Opens, or makes, the ring `name` for consuming; `EBUSY` if a living process does that and the
    /// ring is of a kind with one consumer.
    pub fn open(name: &[u8], options: &Options, creation: Creation, mode: u32) -> Result<Self> {
        Ring::open(name, options, OpenFlags::new(Access::ReadOnly, creation), mode).map(Self)
    }

    /// As [`Ring::pop`].
    pub fn pop(&self, item: &mut [u8], timeout: Timeout) -> Result<()> {
        self.0.pop(item, timeout)
    }

    /// As [`Ring::pop_many`].
    pub fn pop_many(&self, items: &mut [u8], timeout: Timeout) -> Result<usize> {
        self.0.pop_many(items, timeout)
    }

    /// As [`Ring::lost`].
    pub fn lost(&self) -> u64 {
        self.0.lost()
    }

    /// As [`Ring::shutdown`].
    pub fn shutdown(&self) -> Result<()> {
        self.0.shutdown()
    }

    /// As [`Ring::abandon`].
    pub fn abandon(self) {
        self.0.abandon();
    }

    /// As [`Ring::stat`].
    pub fn stat(&self) -> Stats {
        self.0.stat()
    }
}
