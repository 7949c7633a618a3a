#![forbid(unsafe_code)]
//! The first page of an object: written once before the object has a name, never changed.
//!
//! It is read once, with pread(2) into private memory, and checked there; a peer that rewrites it
//! later changes nothing for those who have opened it. Every offset follows from the geometry
//! (kind, item size, capacity, number of participants), so a reader computes the layout itself and
//! compares: a field that differs names itself in the error.

use nix::errno::Errno;

use super::geometry::{
    CONTROL_OFFSET, Geometry, LINE, MAX_HANDLES_LIMIT, PARTICIPANT_STRIDE, PARTICIPANTS_OFFSET,
};
use crate::error::{Error, Result};
use crate::sys::identity::{self, Identity};

/// Bytes of the superblock that carry meaning; the rest of its page is zero.
pub(crate) const SUPERBLOCK_LEN: usize = 256;
/// A byte that is always zero, which is written where a file cannot be touched otherwise.
pub(crate) const DOORBELL_AT: u64 = SUPERBLOCK_LEN as u64;
const MAGIC: [u8; 8] = *b"MADANG\r\n";
const LAYOUT_MAJOR: u16 = 1;
const LAYOUT_MINOR: u16 = 0;
const ENDIAN_PROBE: u32 = 0x0102_0304;
const CHECKSUM_AT: usize = 0xf8;

/// The bytes there are for an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// The object is the whole file.
    Exactly(u64),
    /// It lies in a larger one.
    AtMost(u64),
}

/// A superblock, decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub geometry: Geometry,
    pub uuid: [u8; 16],
    pub creator: Identity,
    pub boot_id: [u8; 16],
}

/// Writes and reads little-endian fields at fixed places.
struct Fields([u8; SUPERBLOCK_LEN]);

impl Fields {
    fn put<const N: usize>(&mut self, at: usize, bytes: [u8; N]) {
        self.0[at..at + N].copy_from_slice(&bytes);
    }

    fn take<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.0[at..at + N]);
        bytes
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.take(at))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.take(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.take(at))
    }

    fn checksum(&self) -> u32 {
        crc32c(&self.0[..CHECKSUM_AT])
    }
}

/// CRC-32C (Castagnoli; RFC 3720, reflected polynomial 0x82f63b78): against accidents, not malice.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 }
        })
    })
}

impl Superblock {
    /// A new object's superblock.
    pub(crate) fn new(geometry: Geometry) -> Self {
        Self {
            geometry,
            uuid: identity::uuid(),
            creator: Identity::current(),
            boot_id: identity::boot_id(),
        }
    }

    /// The bytes as they stand at the start of the object.
    pub(crate) fn encode(&self) -> [u8; SUPERBLOCK_LEN] {
        let geometry = &self.geometry;
        let mut fields = Fields([0; SUPERBLOCK_LEN]);
        fields.put(0x00, MAGIC);
        fields.put(0x08, LAYOUT_MAJOR.to_le_bytes());
        fields.put(0x0a, LAYOUT_MINOR.to_le_bytes());
        fields.put(0x0c, (CONTROL_OFFSET as u32).to_le_bytes());
        // Native order on purpose: a reader of the other endianness finds it reversed.
        fields.put(0x10, ENDIAN_PROBE.to_ne_bytes());
        fields.put(0x14, geometry.kind.to_le_bytes());
        // 0x18 incompatible features, 0x20 compatible features: none yet.
        for (at, expected, _) in self.derived() {
            fields.put(at, expected.to_le_bytes());
        }
        fields.put(0x38, LINE.to_le_bytes());
        fields.put(0x3c, geometry.item_size.to_le_bytes());
        fields.put(0x40, geometry.capacity.to_le_bytes());
        fields.put(0x48, geometry.max_handles.to_le_bytes());
        fields.put(0x4c, PARTICIPANT_STRIDE.to_le_bytes());
        fields.put(0x50, geometry.policy.to_le_bytes());
        fields.put(0x80, self.uuid);
        fields.put(0xa0, self.creator.pid.to_le_bytes());
        fields.put(0xa4, self.creator.uid.to_le_bytes());
        fields.put(0xa8, self.creator.pid_namespace.to_le_bytes());
        fields.put(0xb0, self.creator.start_time.to_le_bytes());
        fields.put(0xb8, self.boot_id);
        let checksum = fields.checksum();
        fields.put(CHECKSUM_AT, checksum.to_le_bytes());
        fields.0
    }

    /// The 64-bit fields that follow from the geometry: place, value, name.
    fn derived(&self) -> [(usize, u64, &'static str); 5] {
        let geometry = &self.geometry;
        [
            (0x28, geometry.total_size().unwrap_or(0), "total_size"),
            (0x58, CONTROL_OFFSET, "control_offset"),
            (0x60, PARTICIPANTS_OFFSET, "participants_offset"),
            (0x68, geometry.items_offset(), "items_offset"),
            (0x70, geometry.items_len().unwrap_or(0), "items_len"),
        ]
    }

    /// Checks the first bytes of an object that has `room`. `EPROTO` names the field that is wrong;
    /// nothing here believes a number before it is compared.
    pub(crate) fn decode(bytes: [u8; SUPERBLOCK_LEN], room: Room, what: &str) -> Result<Self> {
        let fields = Fields(bytes);
        let wrong = |field: &str, found: u64, expected: u64| {
            Error::new(
                Errno::EPROTO,
                format_args!("{what}: its {field} is {found:#x} where {expected:#x} must be"),
            )
        };
        let expect = |field, found: u64, expected: u64| {
            if found == expected { Ok(()) } else { Err(wrong(field, found, expected)) }
        };
        if fields.take(0x00) != MAGIC {
            return Err(Error::new(
                Errno::EPROTO,
                format_args!("{what}: not an object of this library (no magic number)"),
            ));
        }
        expect("byte order", u32::from_ne_bytes(fields.take(0x10)).into(), ENDIAN_PROBE.into())?;
        expect("layout version", fields.u16(0x08).into(), LAYOUT_MAJOR.into())?;
        expect("header length", fields.u32(0x0c).into(), CONTROL_OFFSET)?;
        expect("checksum", fields.u32(CHECKSUM_AT).into(), fields.checksum().into())?;
        expect("incompatible features", fields.u64(0x18), 0)?;
        expect("line", fields.u32(0x38).into(), LINE.into())?;
        expect("participant_stride", fields.u32(0x4c).into(), PARTICIPANT_STRIDE.into())?;
        let geometry = Geometry {
            kind: fields.u32(0x14),
            item_size: fields.u32(0x3c),
            capacity: fields.u64(0x40),
            max_handles: fields.u32(0x48),
            policy: fields.u32(0x50),
        };
        let superblock = Self {
            geometry,
            uuid: fields.take(0x80),
            creator: Identity {
                pid: fields.u32(0xa0),
                uid: fields.u32(0xa4),
                pid_namespace: fields.u64(0xa8),
                start_time: fields.u64(0xb0),
            },
            boot_id: fields.take(0xb8),
        };
        let in_range = |field, value: u64, fine: bool| {
            if fine {
                return Ok(());
            }
            let code = Errno::EPROTO;
            Err(Error::new(code, format_args!("{what}: its {field} cannot be {value}")))
        };
        in_range("item_size", geometry.item_size.into(), geometry.item_size > 0)?;
        in_range("capacity", geometry.capacity, geometry.has_sound_capacity())?;
        let handles = (1..=MAX_HANDLES_LIMIT).contains(&geometry.max_handles);
        in_range("max_handles", geometry.max_handles.into(), handles)?;
        in_range("size", geometry.items_len().unwrap_or(0), geometry.total_size().is_some())?;
        for (at, expected, field) in superblock.derived() {
            expect(field, fields.u64(at), expected)?;
        }
        let size = fields.u64(0x28);
        match room {
            Room::Exactly(there) => expect("file size", there, size)?,
            Room::AtMost(there) if size > there => {
                return Err(Error::new(
                    Errno::EPROTO,
                    format_args!("{what}: it has {size} bytes where there are {there}"),
                ));
            }
            Room::AtMost(_) => {}
        }
        Ok(superblock)
    }
}

#[cfg(test)]
mod tests {
    use super::super::geometry::KIND_SPSC;
    use super::*;

    fn sample() -> Superblock {
        let geometry =
            Geometry { kind: KIND_SPSC, item_size: 7, capacity: 1024, max_handles: 64, policy: 0 };
        Superblock::new(geometry)
    }

    #[test]
    fn what_is_written_is_read_back() {
        let superblock = sample();
        let size = superblock.geometry.total_size().unwrap();
        assert_eq!(size, 8192 + 64 * 128 + 7 * 1024);
        assert_eq!(
            Superblock::decode(superblock.encode(), Room::Exactly(size), "x"),
            Ok(superblock)
        );
    }

    #[test]
    fn every_byte_that_is_flipped_is_noticed() {
        let superblock = sample();
        let size = superblock.geometry.total_size().unwrap();
        for at in 0..CHECKSUM_AT + 4 {
            for bit in 0..8 {
                let mut bytes = superblock.encode();
                bytes[at] ^= 1 << bit;
                let error = Superblock::decode(bytes, Room::Exactly(size), "x").unwrap_err();
                assert_eq!(error.errno(), libc::EPROTO, "byte {at:#x} bit {bit}");
            }
        }
    }

    #[test]
    fn a_forger_who_mends_the_checksum_is_caught_by_the_fields() {
        let size = sample().geometry.total_size().unwrap();
        for at in [0x28, 0x38, 0x3c, 0x40, 0x48, 0x4c, 0x58, 0x60, 0x68, 0x70] {
            let mut fields = Fields(sample().encode());
            fields.0[at] ^= 1;
            let checksum = fields.checksum();
            fields.put(CHECKSUM_AT, checksum.to_le_bytes());
            assert!(
                Superblock::decode(fields.0, Room::Exactly(size), "x").is_err(),
                "field at {at:#x}"
            );
        }
        assert!(Superblock::decode(sample().encode(), Room::Exactly(size + 1), "x").is_err());
    }

    #[test]
    fn checksum_is_crc32c() {
        // The check value of the CRC catalogues.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn sizes_that_overflow_have_no_total() {
        let huge = Geometry { capacity: 1 << 62, item_size: 8, ..sample().geometry };
        assert_eq!(huge.total_size(), None);
        let huge = Geometry { capacity: 1 << 60, item_size: 8, ..huge };
        assert_eq!(huge.total_size(), None);
    }
}
