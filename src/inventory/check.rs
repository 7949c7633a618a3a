#![forbid(unsafe_code)]
//! What is to be said of one object, without changing a byte of it.

use std::fmt;

use nix::errno::Errno;

use super::mechanism::Mechanism;
use super::{area, look, reap};
use crate::error::Result;
use crate::object::{KindName, Life, Look, Occupant};
use crate::ring::inspect::RingLook;
use crate::sem::SemLook;
use crate::sys::alloc;

/// A verdict of "corrupt" must come out of this many looks in a row.
const LOOKS: u32 = 4;

/// Bytes of one line of a report, with its end.
const LINE: usize = 256;

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Things that [`repair`](super::repair()) would mend; 0 for a sound object.
    pub findings: u32,
    /// For a person: a line about the object, then one line for each finding. No line has more than
    /// 255 bytes.
    pub report: String,
}

/// Tells whether the object `name` is sound, and what the dead have left in it. It takes no part in
/// the object, needs only the permission to read it, and stores nothing. `EBADMSG` says which word is
/// impossible, `EPROTO` why it is no object, or none that this version knows.
pub fn check(mechanism: Mechanism, name: &[u8]) -> Result<Verdict> {
    let shown = mechanism.name(name)?;
    if mechanism.has_participants() {
        return examine(mechanism, &look(mechanism, name)?).map(|(verdict, _)| verdict);
    }
    if mechanism.is_area() {
        let area = area::look(mechanism, &shown)?;
        let open = if area.is_open { "somebody has it open" } else { "nobody has it open" };
        let (word, head) = (mechanism.word(), &area.seen.head);
        let mut report = alloc::text(format_args!("{word}, {head}, {open}\n"))?;
        for line in &area.seen.findings {
            alloc::append(&mut report, format_args!("{line}\n"))?;
        }
        return Ok(Verdict { findings: area.seen.findings.len() as u32, report });
    }
    let left = reap::is_left(&shown)?;
    let (word, how) = (mechanism.word(), if left { "left" } else { "in use" });
    let why = if left { "it was left behind by a dead process\n" } else { "" };
    let report = alloc::text(format_args!("{word}, {how}\n{why}"))?;
    Ok(Verdict { findings: u32::from(left), report })
}

/// The verdict on an object, and how many of its cells could not be looked at.
pub(super) fn examine(mechanism: Mechanism, look: &Look) -> Result<(Verdict, u64)> {
    let mut last = look_once(mechanism, look);
    // Others may be at work meanwhile. The looks are made so that this does not matter; and what is
    // corrupt stays so, while what was a misunderstanding passes.
    for _ in 1..LOOKS {
        if !last.as_ref().is_err_and(|error| error.code() == Errno::EBADMSG) {
            break;
        }
        last = look_once(mechanism, look);
    }
    last
}

/// What a mechanism knows of its objects besides their participants.
enum Part<'a> {
    Ring(RingLook<'a>),
    Semaphore(SemLook<'a>),
    Unknown,
}

impl<'a> Part<'a> {
    fn new(mechanism: Mechanism, look: &'a Look) -> Result<Self> {
        Ok(match mechanism {
            Mechanism::Ring => Self::Ring(RingLook::new(look)?),
            Mechanism::Semaphore => Self::Semaphore(SemLook::new(look)?),
            _ => Self::Unknown,
        })
    }

    /// `EBADMSG` for an impossible word; how many cells could not be looked at.
    fn check(&self) -> Result<u64> {
        match self {
            Self::Ring(ring) => ring.check(),
            Self::Semaphore(semaphore) => semaphore.check().map(|()| 0),
            Self::Unknown => Ok(0),
        }
    }

    /// In a line about a dead participant.
    fn left_by(&self, dead: &Occupant) -> Result<String> {
        match self {
            Self::Ring(ring) => ring.left_by(dead),
            Self::Semaphore(semaphore) => match semaphore.held(dead.index)? {
                0 => Ok(String::new()),
                1 => alloc::text(", holds 1 permit"),
                count => alloc::text(format_args!(", holds {count} permits")),
            },
            Self::Unknown => Ok(String::new()),
        }
    }

    /// In the line about the object.
    fn head(&self, look: &Look) -> Result<String> {
        let geometry = look.geometry();
        let kind = KindName(geometry.kind);
        match self {
            Self::Semaphore(semaphore) => {
                let (free, initial) = (semaphore.free()?, semaphore.initial());
                alloc::text(format_args!("{kind}, {free} permits free, made with {initial}"))
            }
            _ => {
                let (capacity, size) = (geometry.capacity, geometry.item_size);
                alloc::text(format_args!("{kind}, {capacity} items of {size} bytes"))
            }
        }
    }
}

fn look_once(mechanism: Mechanism, look: &Look) -> Result<(Verdict, u64)> {
    let part = Part::new(mechanism, look)?;
    let missed = part.check()?;
    let occupants = look.occupants()?;
    let mut lines = Vec::new();
    let mut note = |line: fmt::Arguments<'_>| alloc::push(&mut lines, alloc::text(line)?);
    for dead in occupants.iter().filter(|one| one.life == Life::Dead) {
        let left = part.left_by(dead)?;
        let (index, pid) = (dead.index, dead.pid);
        note(format_args!("participant {index}: pid {pid} died, not cleared away yet{left}"))?;
    }
    if let Part::Ring(ring) = &part {
        for finding in ring.findings(&occupants)? {
            note(format_args!("{finding}"))?;
        }
    }
    let findings = lines.len() as u32;
    let geometry = look.geometry();
    let mut head = alloc::text(format_args!(
        "{}, {}, {} of {} handles open",
        mechanism.word(),
        part.head(look)?,
        occupants.iter().filter(|one| one.life == Life::Living).count(),
        geometry.max_handles,
    ))?;
    if missed > 0 {
        let missing = format_args!("; {missed} cells have no memory and were not looked at");
        alloc::append(&mut head, missing)?;
    }
    let mut report = String::new();
    for mut line in [head].into_iter().chain(lines) {
        // All of it is ASCII.
        line.truncate(LINE - 1);
        alloc::append(&mut report, format_args!("{line}\n"))?;
    }
    Ok((Verdict { findings, report }, missed))
}
