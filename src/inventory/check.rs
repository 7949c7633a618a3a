#![forbid(unsafe_code)]
//! What is to be said of one object, without changing a byte of it.

use nix::errno::Errno;

use super::doorbell::{self, Doorbell};
use super::mechanism::Mechanism;
use super::{look, reap};
use crate::error::Result;
use crate::object::{Life, Look};
use crate::ring::inspect::RingLook;

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
    let what = shown.to_string();
    if mechanism.has_participants() {
        return examine(mechanism, &look(mechanism, name)?).map(|(verdict, _)| verdict);
    }
    let left = match mechanism {
        Mechanism::Poll => {
            reap::stands(&shown)?;
            match Doorbell::parse(name).map(|bell| bell.is_left(&what)) {
                Some(Err(error)) if error.code() == Errno::EBUSY => false,
                Some(left) => left?,
                None => return Err(reap::foreign(&what)),
            }
        }
        _ => reap::is_left(&shown)?,
    };
    let mut report = format!("{}, {}\n", mechanism.word(), if left { "left" } else { "in use" });
    if left {
        report += "it was left behind by a dead process\n";
    }
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

fn look_once(mechanism: Mechanism, look: &Look) -> Result<(Verdict, u64)> {
    let ring = if mechanism == Mechanism::Ring { Some(RingLook::new(look)?) } else { None };
    let missed = ring.as_ref().map_or(Ok(0), RingLook::check)?;
    let occupants = look.occupants()?;
    let mut lines = Vec::new();
    for dead in occupants.iter().filter(|one| one.life == Life::Dead) {
        let left = ring.as_ref().map_or(Ok(String::new()), |ring| ring.left_by(dead))?;
        let (index, pid) = (dead.index, dead.pid);
        lines.push(format!("participant {index}: pid {pid} died, not cleared away yet{left}"));
    }
    if let Some(ring) = &ring {
        lines.extend(ring.findings(&occupants)?);
    }
    for bell in doorbell::left(look)? {
        lines.push(format!("doorbell \"{}\": of a dead handle", bell.escape_ascii()));
    }
    let findings = lines.len() as u32;
    let geometry = look.geometry();
    let mut head = format!(
        "{}, kind {}, {} items of {} bytes, {} of {} handles open",
        mechanism.word(),
        geometry.kind,
        geometry.capacity,
        geometry.item_size,
        occupants.iter().filter(|one| one.life == Life::Living).count(),
        geometry.max_handles,
    );
    if missed > 0 {
        head += &format!("; {missed} cells have no memory and were not looked at");
    }
    let mut report = String::new();
    for mut line in [head].into_iter().chain(lines) {
        // All of it is ASCII.
        line.truncate(LINE - 1);
        report += &line;
        report.push('\n');
    }
    Ok((Verdict { findings, report }, missed))
}
