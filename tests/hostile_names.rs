//! What an enemy may put under a name: a header with any byte changed, another version, files of any
//! length, things that are no files; and names that change hands all the time.

mod support;

use std::fs;
use std::os::unix::fs::{FileExt, symlink};
use std::sync::atomic::{AtomicU64, Ordering};

use madang::ring::{Kind, Options, Ring};
use madang::sem::{UndoOptions, UndoSemaphore};
use nix::sys::stat::{Mode, SFlag, mknod};
use support::face::{Failure, NOWAIT, Outcome};
use support::hostile::*;
use support::process::{fork, join, shared_words, skip};
use support::ring_face::{C, CREATE, Face, Named};
use support::sem_face::CSem;
use support::undo_face::Undo;
use support::unique;

/// What is opened under a name: a ring, or a semaphore of kind 16.
trait Thing {
    /// Opens what is there; the kind and policy of a ring, or kind 16 and the free permits.
    fn open(name: &str) -> Outcome<(u32, u32)>;
    fn open_or_make(name: &str) -> Outcome<()>;
    fn make(name: &str);
    fn unlink(name: &str) -> Outcome<()>;
    fn path(name: &str) -> String;
}

/// A ring of [`ring`]'s kinds.
struct Rings<F>(F);

impl<F: Face> Thing for Rings<F> {
    fn open(name: &str) -> Outcome<(u32, u32)> {
        let ring = F::open(Some(name), &Options::default(), libc::O_RDWR, 0)?;
        let stats = ring.stat();
        allow(POP, ring.pop(&mut [0; ITEM], NOWAIT));
        Ok((stats.kind, stats.policy))
    }
    fn open_or_make(name: &str) -> Outcome<()> {
        F::open(Some(name), &ring(Kind::Spsc, 0), CREATE, 0o600).map(drop)
    }
    fn make(name: &str) {
        drop(F::open(Some(name), &ring(Kind::Mpmc, 0), CREATE | libc::O_EXCL, 0o600).unwrap());
    }
    fn unlink(name: &str) -> Outcome<()> {
        F::unlink(name)
    }
    fn path(name: &str) -> String {
        format!("/dev/shm/mdg.ring.{}", &name[1..])
    }
}

struct Semaphores<S>(S);

const PERMITS: UndoOptions = UndoOptions { value: 3, max_handles: 4, tell: false };

impl<S: Undo> Thing for Semaphores<S> {
    fn open(name: &str) -> Outcome<(u32, u32)> {
        let sem = S::open(name, &UndoOptions::default(), 0, 0)?;
        Ok((16, sem.value()))
    }
    fn open_or_make(name: &str) -> Outcome<()> {
        S::open(name, &PERMITS, libc::O_CREAT, 0o600).map(drop)
    }
    fn make(name: &str) {
        drop(S::open(name, &PERMITS, libc::O_CREAT | libc::O_EXCL, 0o600).unwrap());
    }
    fn unlink(name: &str) -> Outcome<()> {
        S::unlink(name)
    }
    fn path(name: &str) -> String {
        format!("/dev/shm/mdg.sem.{}", &name[1..])
    }
}

type RustRings = Rings<Ring>;
type CRings = Rings<C>;
type RustSemaphores = Semaphores<UndoSemaphore>;
type CSemaphores = Semaphores<CSem>;

mod of_rings {
    use super::*;
    crate::on_both_faces! { RustRings, CRings in turn:
        versions
        every_length
        things_that_are_no_files
        hard_links
        a_name_that_changes_hands
    }
}

mod of_semaphores {
    use super::*;
    crate::on_both_faces! { RustSemaphores, CSemaphores in turn:
        versions
        every_length
        things_that_are_no_files
        hard_links
        a_name_that_changes_hands
    }
}

/// A name that is gone with the test, and its file.
struct Place(String, String);

impl Place {
    fn new<T: Thing>(stem: &str) -> Self {
        let name = unique(stem);
        let path = T::path(&name);
        Self(name, path)
    }

    fn file(&self) -> fs::File {
        fs::File::options().read(true).write(true).open(&self.1).unwrap()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.1);
    }
}

/// The file of an object that nobody has open.
fn image<T: Thing>() -> Vec<u8> {
    let place = Place::new::<T>("image");
    T::make(&place.0);
    fs::read(&place.1).unwrap()
}

/// CRC-32C, as docs/layout.md has it.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc: u32, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| crc >> 1 ^ (0x82f6_3b78 * (crc & 1)))
    })
}

/// Makes the checksum right.
fn mend(header: &mut [u8]) {
    let checksum = crc32c(&header[..0xf8]);
    header[0xf8..0xfc].copy_from_slice(&checksum.to_le_bytes());
}

/// What an error says when a byte of the header is wrong and the checksum is right: one of these
/// words. `None`: nobody checks this byte.
fn says(at: usize) -> Option<&'static [&'static str]> {
    let derived = &["total_size", "items_offset", "items_len", "size"];
    Some(match at {
        0x00..0x08 => &["magic"],
        0x08..0x0a => &["layout version"],
        0x0c..0x10 => &["header length"],
        0x10..0x14 => &["byte order"],
        0x14..0x18 => &["kind", "total_size", "items_len", "geometry", "policy", "capacity"],
        0x18..0x20 => &["incompatible features"],
        0x28..0x30 => derived,
        0x38..0x3c => &["line"],
        0x3c..0x40 => &["item_size", "total_size", "items_len", "size", "geometry"],
        0x40..0x48 => &["capacity", "total_size", "items_len", "size", "geometry"],
        0x48..0x4c => &["max_handles", "total_size", "items_offset", "size", "geometry"],
        0x4c..0x50 => &["participant_stride"],
        0x50..0x54 => &["policy", "total_size", "items_len", "geometry", "capacity"],
        0x58..0x60 => &["control_offset"],
        0x60..0x68 => &["participants_offset"],
        0x68..0x70 => derived,
        0x70..0x78 => derived,
        0xf8..0xfc => &["checksum"],
        _ => return None,
    })
}

/// Opens an object with one byte of its first page changed.
fn with_a_byte_changed<T: Thing>(place: &Place, whole: &[u8], at: usize, change: u8) {
    let file = place.file();
    let mut header = whole[..4096].to_vec();
    header[at] ^= change;
    file.write_all_at(&header, 0).unwrap();
    let opened = bounded(0, || T::open(&place.0));
    let what = format!("byte {at:#x} changed by {change:#x}");
    match opened {
        Ok(_) => assert!(at >= 0xfc, "{what}: nobody noticed"),
        Err(Failure { code, text }) => {
            let expected = match at {
                0x00..0x08 => "magic",
                0x08..0x0a => "layout version",
                0x0c..0x10 => "header length",
                0x10..0x14 => "byte order",
                _ => "checksum",
            };
            assert_eq!(code, libc::EPROTO, "{what}: {text}");
            assert!(text.contains(expected) && text.contains(&place.0), "{what}: {text:?}");
        }
    }
    if at >= 0xf8 {
        return;
    }
    mend(&mut header);
    file.write_all_at(&header, 0).unwrap();
    let what = format!("{what}, with a right checksum");
    match (bounded(0, || T::open(&place.0)), says(at)) {
        (Ok(_), None) => {}
        (Ok((kind, policy)), Some(_)) => {
            // Another kind or policy of the same geometry: then it is one.
            assert!((0x14..0x18).contains(&at) || (0x50..0x54).contains(&at), "{what}: opened");
            let now = if at < 0x18 { kind } else { policy }.to_le_bytes();
            assert_eq!(now[at & 3], header[at], "{what}");
        }
        (Err(Failure { code, text }), words) => {
            let words = words.unwrap_or_else(|| panic!("{what}: refused: {text}"));
            assert_eq!(code, libc::EPROTO, "{what}: {text}");
            let named = words.iter().any(|word| text.contains(word));
            assert!(named && text.contains(&place.0), "{what}: {text:?} says none of {words:?}");
        }
    }
}

fn every_byte<T: Thing>(whole: &[u8], bytes: usize, seed: u64) {
    let place = Place::new::<T>("flipped");
    fs::write(&place.1, whole).unwrap();
    let mut dice = Dice(seed);
    for at in 0..bytes {
        with_a_byte_changed::<T>(&place, whole, at, 1 << dice.roll(8));
        if at < 0x100 {
            with_a_byte_changed::<T>(&place, whole, at, 1 + dice.roll(255) as u8);
        }
    }
    fs::write(&place.1, whole).unwrap();
    T::open(&place.0).unwrap();
    assert_eq!(fs::read(&place.1).unwrap().len(), whole.len());
}

#[test]
fn every_byte_of_every_rings_header() {
    for (options, seed) in all_kinds().iter().zip(3..) {
        let name = Named::new("image");
        drop(C::open(Some(&name.0), options, CREATE, 0o600).unwrap());
        // The rest of the page is the same for all.
        let bytes = if seed == 3 { 4096 } else { 0x100 };
        every_byte::<CRings>(&fs::read(name.path()).unwrap(), bytes, seed);
    }
}

#[test]
fn every_byte_of_a_semaphores_header() {
    every_byte::<RustSemaphores>(&image::<RustSemaphores>(), 4096, 5);
}

fn versions<T: Thing>() {
    let whole = image::<T>();
    let place = Place::new::<T>("version");
    let try_with = |at: usize, bytes: &[u8]| {
        let mut whole = whole.clone();
        whole[at..at + bytes.len()].copy_from_slice(bytes);
        mend(&mut whole);
        fs::write(&place.1, &whole).unwrap();
        (T::open(&place.0), T::open_or_make(&place.0), whole == fs::read(&place.1).unwrap())
    };
    for major in [0_u16, 2, 0x100, 0xffff] {
        let (open, make, untouched) = try_with(8, &major.to_le_bytes());
        assert!(untouched, "an object of another version was changed");
        for outcome in [open.map(drop), make] {
            let Failure { code, text } = outcome.unwrap_err();
            assert_eq!(code, libc::EPROTO);
            assert!(text.contains("layout version"), "{text}");
        }
    }
    for minor in [1_u16, 0xffff] {
        try_with(0xa, &minor.to_le_bytes()).0.unwrap();
    }
    for bit in 0..64 {
        let features = (1_u64 << bit).to_le_bytes();
        let Failure { code, text } = try_with(0x18, &features).0.unwrap_err();
        assert_eq!(code, libc::EPROTO);
        assert!(text.contains("incompatible features"), "{text}");
        try_with(0x20, &features).0.unwrap();
    }
}

fn every_length<T: Thing>() {
    let whole = image::<T>();
    let place = Place::new::<T>("length");
    let near = |length: usize| length.saturating_sub(2)..length + 3;
    let lengths = (0..300)
        .chain(near(4096))
        .chain(near(8192))
        .chain(near(whole.len()))
        .chain(near(2 * whole.len()))
        .chain([1 << 30, 1 << 40]);
    for length in lengths {
        fs::write(&place.1, &whole[..length.min(whole.len())]).unwrap();
        place.file().set_len(length as u64).unwrap();
        match bounded(0, || T::open(&place.0)) {
            Ok(_) => assert_eq!(length, whole.len()),
            Err(Failure { code, text }) => {
                assert_ne!(length, whole.len(), "{text}");
                assert_eq!(code, libc::EPROTO, "{length}: {text}");
                let word = if length < 256 { "too few" } else { "file size" };
                assert!(text.contains(word), "{length}: {text}");
            }
        }
        assert_eq!(place.file().metadata().unwrap().len(), length as u64, "left alone");
    }
}

fn refuses<T: Thing>(place: &Place, expected: i32, what: &str) {
    for outcome in [T::open(&place.0).map(drop), T::open_or_make(&place.0)] {
        let Failure { code, text } = outcome.expect_err(what);
        assert_eq!(code, expected, "{what}: {text}");
        assert!(text.contains(&place.0), "{what}: {text}");
    }
}

fn things_that_are_no_files<T: Thing>() {
    let place = Place::new::<T>("things");
    let path = place.1.as_str();
    fs::create_dir(path).unwrap();
    refuses::<T>(&place, libc::EPROTO, "a directory");
    fs::remove_dir(path).unwrap();
    nix::unistd::mkfifo(path, Mode::S_IRWXU).unwrap();
    bounded(0, || refuses::<T>(&place, libc::EPROTO, "a FIFO"));
    fs::remove_file(path).unwrap();
    drop(std::os::unix::net::UnixListener::bind(path).unwrap());
    refuses::<T>(&place, libc::EPROTO, "a socket");
    fs::remove_file(path).unwrap();
    // To a good one, to nothing, to itself.
    let good = Place::new::<T>("good");
    T::make(&good.0);
    for target in [&good.1[..], "/dev/shm/mdg-test-nowhere", path] {
        symlink(target, path).unwrap();
        refuses::<T>(&place, libc::ELOOP, "a symbolic link");
        assert!(fs::symlink_metadata(path).unwrap().is_symlink(), "replaced");
        fs::remove_file(path).unwrap();
    }
    assert!(!fs::exists("/dev/shm/mdg-test-nowhere").unwrap());
    if mknod(path, SFlag::S_IFCHR, Mode::S_IRWXU, nix::sys::stat::makedev(1, 5)).is_ok() {
        refuses::<T>(&place, libc::EPROTO, "a device");
        fs::remove_file(path).unwrap();
    } else {
        skip("device nodes are not permitted");
    }
}

/// A hard link is the object itself, if it is one by all checks, and nothing else ever.
fn hard_links<T: Thing>() {
    let (place, target) = (Place::new::<T>("link"), Place::new::<T>("target"));
    T::make(&target.0);
    fs::hard_link(&target.1, &place.1).unwrap();
    T::open(&place.0).unwrap();
    T::unlink(&place.0).unwrap();
    T::open(&target.0).unwrap();
    T::unlink(&target.0).unwrap();
    let bytes = b"not of this library; nobody may write to it".repeat(1000);
    fs::write(&target.1, &bytes).unwrap();
    fs::hard_link(&target.1, &place.1).unwrap();
    refuses::<T>(&place, libc::EPROTO, "a hard link to a file");
    assert_eq!(fs::read(&target.1).unwrap(), bytes);
}

/// One removes the name, puts things there, good ones among them, all the time; others open or make
/// what is there. Whoever has an object keeps it.
fn a_name_that_changes_hands<T: Thing>() {
    let place = Place::new::<T>("hands");
    let good = image::<T>();
    let opened = &shared_words(1)[0];
    let (name, path) = (place.0.as_str(), place.1.as_str());
    let put = |bytes: &[u8]| fs::File::create_new(path)?.write_all_at(bytes, 0);
    let enemy = fork(|| {
        let mut dice = Dice(9);
        loop {
            let _ = match dice.roll(6) {
                0 => fs::create_dir(path),
                1 => symlink("/dev/null", path),
                // New files: to cut one that others have open is what the guard is for.
                2 => put(&good[..dice.roll(good.len() as u64) as usize]),
                3 => put(&good),
                4 => nix::unistd::mkfifo(path, Mode::S_IRWXU).map_err(Into::into),
                _ => Ok(()),
            };
            (0..dice.roll(3000)).for_each(|_| std::hint::spin_loop());
            let _ = fs::remove_dir(path);
            let _ = fs::remove_file(path);
        }
    });
    let users: Vec<_> = (0..2).map(|_| fork(|| use_the_name::<T>(name, opened))).collect();
    users.into_iter().for_each(join);
    drop(enemy);
    assert!(opened.load(Ordering::Relaxed) > 0, "nobody ever got one");
    let _ = fs::remove_dir(path);
    let _ = fs::remove_file(path);
    T::make(name);
    T::open(name).unwrap();
}

fn use_the_name<T: Thing>(name: &str, opened: &AtomicU64) {
    watch_for_panics();
    let codes =
        &[libc::EPROTO, libc::ELOOP, libc::ENOENT, libc::ESTALE, libc::EBUSY, libc::EBADMSG];
    let start = std::time::Instant::now();
    let nobody_yet = || opened.load(Ordering::Relaxed) == 0 && start.elapsed().as_secs() < 60;
    for round in (0..).take_while(|&round| round < 2000 || nobody_yet()) {
        if round % 50 == 0 {
            std::thread::yield_now();
        }
        let outcome = bounded(0, || match round % 4 {
            0 => T::open(name).map(drop),
            1 => T::unlink(name),
            _ => T::open_or_make(name),
        });
        if allow(codes, outcome).is_some() {
            opened.fetch_add(1, Ordering::Relaxed);
        }
    }
    no_panic();
}

/// A ring under a semaphore's name, of every kind, and the other way round.
#[test]
fn one_thing_under_the_name_of_another() {
    let sem = Place::new::<RustSemaphores>("other");
    for options in all_kinds() {
        let name = Named::new("other");
        drop(C::open(Some(&name.0), &options, CREATE, 0o600).unwrap());
        fs::rename(name.path(), &sem.1).unwrap();
        refuses::<RustSemaphores>(&sem, libc::EPROTO, "a ring");
        refuses::<CSemaphores>(&sem, libc::EPROTO, "a ring");
        fs::remove_file(&sem.1).unwrap();
    }
    let ring = Place::new::<RustRings>("other");
    RustSemaphores::make(&sem.0);
    fs::rename(&sem.1, &ring.1).unwrap();
    refuses::<RustRings>(&ring, libc::EPROTO, "a semaphore");
    refuses::<CRings>(&ring, libc::EPROTO, "a semaphore");
}
