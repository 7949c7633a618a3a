//! Named segments: contents, sizes, permissions, and peers that know only POSIX.

mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use libc::{O_CREAT, O_EXCL, O_RDONLY, O_RDWR, O_WRONLY};
use madang::shm::Shm;
use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use support::face::{refused, refused_with};
use support::process::{as_nobody, fork, is_root, join};
use support::shm_face::{CShm, Segment};
use support::{Dir, unique};

const NEW: i32 = O_CREAT | O_EXCL | O_RDWR;

on_both_faces! { Shm, CShm:
    every_opener_sees_the_exact_size
    one_slash_more_or_less
    peer_makes_we_open
    we_make_peer_opens
    a_store_into_a_read_only_mapping_faults
    creation_flags
    bad_arguments
    bad_names
    longest_name
    mode_is_trimmed_by_the_umask
    another_user
    unlinked_stays_mapped
    the_text_names_the_object
}

fn file_of(name: &str) -> PathBuf {
    PathBuf::from("/dev/shm").join(&name[1..])
}

fn every_opener_sees_the_exact_size<S: Segment>() {
    let name = unique("exact");
    let maker = S::open(name.as_bytes(), 5000, NEW, 0o600).unwrap();
    assert_eq!((maker.size(), maker.object_size()), (5000, 5000));
    assert_eq!(maker.get(0, 5000), [0; 5000]);
    maker.put(4990, b"0123456789");
    assert!(std::fs::metadata(file_of(&name)).unwrap().blocks() >= 16, "pages are reserved");
    for (asked, oflag) in [(0, O_RDWR), (5000, O_RDONLY), (0, O_RDONLY), (5000, O_CREAT | O_RDWR)] {
        let opener = S::open(name.as_bytes(), asked, oflag, 0o600).unwrap();
        assert_eq!((opener.size(), opener.object_size()), (5000, 5000));
        assert_eq!(opener.get(4990, 10), b"0123456789");
        assert_ne!(opener.addr(), maker.addr());
    }
    let part = S::open(name.as_bytes(), 4097, O_RDWR, 0).unwrap();
    assert_eq!((part.size(), part.object_size()), (4097, 5000));
    part.put(0, b"x");
    assert_eq!(maker.get(0, 1), b"x");
    for larger in [5001, 8192, usize::MAX / 4] {
        assert_eq!(refused(S::open(name.as_bytes(), larger, O_RDWR, 0)), Errno::EPROTO);
        let create = O_CREAT | O_RDWR;
        assert_eq!(refused(S::open(name.as_bytes(), larger, create, 0o600)), Errno::EPROTO);
    }
    assert_eq!(maker.object_size(), 5000);
    S::unlink(name.as_bytes()).unwrap();
}

fn one_slash_more_or_less<S: Segment>() {
    let name = unique("slash");
    let made = S::open(&name.as_bytes()[1..], 1, NEW, 0o600).unwrap();
    made.put(0, b"!");
    assert_eq!(S::open(name.as_bytes(), 0, O_RDONLY, 0).unwrap().get(0, 1), b"!");
    S::unlink(&name.as_bytes()[1..]).unwrap();
    assert_eq!(refused(S::unlink(name.as_bytes())), Errno::ENOENT);
}

fn peer() -> Command {
    static PEER: OnceLock<PathBuf> = OnceLock::new();
    Command::new(PEER.get_or_init(|| {
        let output = support::scratch("shm").join("shm_peer");
        support::compile_c(&support::root().join("tests/c/shm_peer.c"), &output, &[]);
        output
    }))
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|i| (i * 7 + 3) as u8).collect()
}

fn peer_makes_we_open<S: Segment>() {
    let name = unique("theirs");
    assert!(peer().args(["make", &name, "5000"]).status().unwrap().success());
    let opened = S::open(name.as_bytes(), 0, O_RDWR, 0).unwrap();
    assert_eq!(opened.size(), 5000);
    assert_eq!(opened.get(0, 5000), pattern(5000));
    S::unlink(name.as_bytes()).unwrap();
}

fn we_make_peer_opens<S: Segment>() {
    let name = unique("ours");
    let made = S::open(name.as_bytes(), 5000, NEW, 0o600).unwrap();
    made.put(0, &pattern(5000));
    let status = peer().args(["check", &name, "5000"]).status().unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(made.get(4999, 1), b"X");
    S::unlink(name.as_bytes()).unwrap();
}

#[track_caller]
fn faults(body: impl FnOnce()) {
    let status = fork(body).end();
    assert!(matches!(status, WaitStatus::Signaled(_, Signal::SIGSEGV, _)), "{status:?}");
}

fn a_store_into_a_read_only_mapping_faults<S: Segment>() {
    let name = unique("readonly");
    drop(S::open(name.as_bytes(), 100, NEW, 0o600).unwrap());
    faults(|| {
        let mapped = S::open(name.as_bytes(), 0, O_RDONLY, 0).unwrap();
        assert_eq!(mapped.get(0, 1), [0]);
        mapped.put(0, b"!");
    });
    // Its maker could store nothing: refused, whether it is there or not.
    let dir = Dir::new();
    for there in [true, false] {
        for oflag in [O_CREAT | O_RDONLY, O_CREAT | O_EXCL | O_RDONLY] {
            let made = S::open(name.as_bytes(), 100, oflag, 0o600).map(drop);
            refused_with(made, libc::EINVAL, "O_CREAT needs O_RDWR");
            let made = S::map_file(&dir.path("file"), 100, oflag, 0o600).map(drop);
            refused_with(made, libc::EINVAL, "O_CREAT needs O_RDWR");
        }
        if there {
            S::unlink(name.as_bytes()).unwrap();
        }
    }
    assert!(!dir.path("file").exists());
}

fn creation_flags<S: Segment>() {
    let name = unique("flags");
    let open = |oflag| S::open(name.as_bytes(), 10, oflag, 0o600);
    assert_eq!(refused(open(O_RDWR)), Errno::ENOENT);
    assert_eq!(refused(open(O_RDONLY)), Errno::ENOENT);
    drop(open(O_CREAT | O_RDWR).unwrap());
    drop(open(O_CREAT | O_RDWR).unwrap());
    assert_eq!(refused(open(NEW)), Errno::EEXIST);
    S::unlink(name.as_bytes()).unwrap();
    drop(open(NEW).unwrap());
    S::unlink(name.as_bytes()).unwrap();
    assert_eq!(refused(S::unlink(name.as_bytes())), Errno::ENOENT);
}

fn bad_arguments<S: Segment>() {
    let name = unique("arguments");
    for oflag in [NEW, O_CREAT | O_RDWR, O_CREAT | O_RDONLY] {
        assert_eq!(refused(S::open(name.as_bytes(), 0, oflag, 0o600)), Errno::EINVAL, "size 0");
    }
    for oflag in [O_WRONLY, O_WRONLY | O_CREAT, O_WRONLY | O_CREAT | O_EXCL] {
        assert_eq!(refused(S::open(name.as_bytes(), 10, oflag, 0o600)), Errno::EINVAL);
    }
    for size in [isize::MAX as usize + 1, usize::MAX] {
        assert_eq!(refused(S::open(name.as_bytes(), size, NEW, 0o600)), Errno::EOVERFLOW);
        assert_eq!(refused(S::anonymous(size, false)), Errno::EOVERFLOW);
    }
    // Sizes that files can have, but no machine: refused before a single page is taken.
    for size in [1 << 50, isize::MAX as usize] {
        assert_eq!(refused(S::open(name.as_bytes(), size, NEW, 0o600)), Errno::ENOSPC);
        assert_eq!(refused(S::anonymous(size, false)), Errno::ENOSPC);
    }
    assert!(!file_of(&name).exists());
}

fn bad_names<S: Segment>() {
    let bad: [&[u8]; 12] = [
        b"",
        b"/",
        b"//",
        b".",
        b"..",
        b"/.",
        b"/..",
        b"//x",
        b"a/b",
        b"/a/",
        b"a/..",
        b"../shm/x",
    ];
    for name in bad {
        for oflag in [O_RDWR, NEW] {
            assert_eq!(refused(S::open(name, 10, oflag, 0o600)), Errno::EINVAL, "{name:?}");
        }
        assert_eq!(refused(S::unlink(name)), Errno::EINVAL, "{name:?}");
    }
    for length in [256, 4096, 100_000] {
        let name = [b"/", &vec![b'n'; length][..]].concat();
        assert_eq!(refused(S::open(&name, 10, NEW, 0o600)), Errno::ENAMETOOLONG);
        assert_eq!(refused(S::unlink(&name)), Errno::ENAMETOOLONG);
    }
}

fn longest_name<S: Segment>() {
    let mut name = unique("longest").into_bytes();
    // Any bytes but NUL and slash: dots in front, a newline, a byte that is no UTF-8.
    name.splice(1..1, *b"..\n\xff ");
    name.resize(1 + 255, b'\x01');
    drop(S::open(&name, 10, NEW, 0o600).unwrap());
    assert_eq!(S::open(&name, 0, O_RDWR, 0).unwrap().size(), 10);
    S::unlink(&name).unwrap();
}

fn mode_is_trimmed_by_the_umask<S: Segment>() {
    // In a child: the umask belongs to the whole process.
    join(fork(|| {
        let name = unique("mode");
        for (umask, mode, expected) in
            [(0o022, 0o666, 0o644), (0, 0o777, 0o777), (0o077, 0o640, 0o600), (0o027, 0, 0)]
        {
            // SAFETY: a plain number.
            unsafe { libc::umask(umask) };
            drop(S::open(name.as_bytes(), 10, NEW, mode).unwrap());
            let found = std::fs::metadata(file_of(&name)).unwrap().permissions().mode() & 0o7777;
            assert_eq!(found, expected);
            // SAFETY: a plain number.
            assert_eq!(unsafe { libc::umask(0o022) }, umask, "the library leaves it alone");
            S::unlink(name.as_bytes()).unwrap();
        }
    }));
}

fn another_user<S: Segment>() {
    if !is_root() {
        return;
    }
    let (closed, readable) = (unique("private"), unique("readable"));
    drop(S::open(closed.as_bytes(), 10, NEW, 0o600).unwrap());
    drop(S::open(readable.as_bytes(), 10, NEW, 0o644).unwrap());
    let sticky = std::fs::metadata("/dev/shm").unwrap().permissions().mode() & 0o1000 != 0;
    as_nobody(|| {
        for oflag in [O_RDONLY, O_RDWR, O_CREAT | O_RDWR] {
            assert_eq!(refused(S::open(closed.as_bytes(), 0, oflag, 0o600)), Errno::EACCES);
        }
        assert_eq!(refused(S::open(closed.as_bytes(), 10, NEW, 0o600)), Errno::EEXIST);
        assert_eq!(S::open(readable.as_bytes(), 0, O_RDONLY, 0).unwrap().size(), 10);
        assert_eq!(refused(S::open(readable.as_bytes(), 0, O_RDWR, 0)), Errno::EACCES);
        for name in if sticky { vec![&closed, &readable] } else { vec![] } {
            let failure = S::unlink(name.as_bytes()).unwrap_err();
            assert_eq!(failure.code, libc::EACCES);
            assert!(failure.text.contains(name.as_str()), "{}", failure.text);
        }
        // What it makes itself is its own.
        let own = unique("own");
        drop(S::open(own.as_bytes(), 10, NEW, 0o600).unwrap());
        S::unlink(own.as_bytes()).unwrap();
    });
    S::unlink(closed.as_bytes()).unwrap();
    S::unlink(readable.as_bytes()).unwrap();
}

fn unlinked_stays_mapped<S: Segment>() {
    let name = unique("unlinked");
    let first = S::open(name.as_bytes(), 10, NEW, 0o600).unwrap();
    S::unlink(name.as_bytes()).unwrap();
    let second = S::open(name.as_bytes(), 20, NEW, 0o600).unwrap();
    first.put(0, b"old");
    assert_eq!((first.get(0, 3), second.get(0, 3)), (b"old".to_vec(), vec![0; 3]));
    drop(first);
    assert_eq!(S::open(name.as_bytes(), 0, O_RDWR, 0).unwrap().size(), 20);
    S::unlink(name.as_bytes()).unwrap();
}

fn the_text_names_the_object<S: Segment>() {
    let name = unique("text");
    let text = |oflag, size| match S::open(name.as_bytes(), size, oflag, 0o600) {
        Ok(_) => panic!("opened"),
        Err(failure) => failure.text,
    };
    let missing = text(O_RDWR, 0);
    assert!(missing.contains(&format!("segment \"{name}\"")), "{missing}");
    assert!(missing.contains("does not exist"), "{missing}");
    drop(S::open(name.as_bytes(), 10, NEW, 0o600).unwrap());
    let exists = text(NEW, 10);
    assert!(exists.contains(&name) && exists.contains("exists already"), "{exists}");
    let short = text(O_RDWR, 11);
    assert!(short.contains(&name) && short.contains("11") && short.contains("10"), "{short}");
    let write_only = text(O_WRONLY, 10);
    assert!(write_only.contains(&name) && write_only.contains("O_RDWR"), "{write_only}");
    S::unlink(name.as_bytes()).unwrap();
}
