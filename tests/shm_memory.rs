//! Segments without a name, from descriptors and from files; changing their size.

mod support;

use std::fs::{File, OpenOptions};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use libc::{O_CREAT, O_EXCL, O_RDONLY, O_RDWR};
use madang::ffi::shm::MDG_SEALED;
use madang::shm::Shm;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, SealFlag, fcntl};
use nix::sys::resource::Resource;
use nix::unistd::ftruncate;
use support::face::refused;
use support::process::{fork, join};
use support::shm_face::{CShm, Segment};
use support::{confine, unique};

const NEW: i32 = O_CREAT | O_EXCL | O_RDWR;

on_both_faces! { Shm, CShm:
    anonymous_is_sealed
    anonymous_is_inherited
    descriptors_are_closed_on_exec
    from_descriptor
    descriptors_that_cannot_be_mapped
    ordinary_file
    file_made_complete
    links_are_followed
    files_that_cannot_be_mapped
    device
    sparse_gigabyte
    resize_named
    resize_refusals
    resize_without_address_space
    resize_without_space
    no_descriptors_left
}

fn borrow(fd: &RawFd) -> BorrowedFd<'_> {
    // SAFETY: the tests pass descriptors of segments that live through the call.
    unsafe { BorrowedFd::borrow_raw(*fd) }
}

/// A directory of its own for one test on one face.
fn directory(stem: &str) -> PathBuf {
    support::scratch(&unique(stem)[1..])
}

fn anonymous_is_sealed<S: Segment>() {
    assert_eq!(refused(S::anonymous(0, false)), Errno::EINVAL);
    let mut memory = S::anonymous(5000, false).unwrap();
    assert_eq!((memory.size(), memory.object_size()), (5000, 5000));
    assert_eq!(memory.get(0, 5000), [0; 5000]);
    memory.put(4999, b"!");
    let fd = memory.fd();
    let seals = fcntl(borrow(&fd), FcntlArg::F_GET_SEALS).unwrap();
    assert!(SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_SHRINK));
    assert_eq!(ftruncate(borrow(&fd), 4999), Err(Errno::EPERM));
    for smaller in [4999, 1] {
        assert_eq!(refused(memory.resize(smaller)), Errno::EACCES);
        assert_eq!((memory.size(), memory.object_size()), (5000, 5000));
    }
    memory.resize(5000).unwrap();
    memory.resize(1_000_000).unwrap();
    assert_eq!((memory.size(), memory.object_size()), (1_000_000, 1_000_000));
    assert_eq!(memory.get(4999, 2), b"!\0");
    memory.put(999_999, b"!");
    assert_eq!(refused(memory.resize(5000)), Errno::EACCES);
    assert_eq!(memory.get(999_999, 1), b"!");
    let blocks = nix::sys::stat::fstat(borrow(&memory.fd())).unwrap().st_blocks;
    assert!(blocks * 512 >= 1_000_000, "new pages are reserved");
    memory.sync().unwrap();
}

fn anonymous_is_inherited<S: Segment>() {
    let memory = S::anonymous(100, false).unwrap();
    join(fork(|| memory.put(0, b"child")));
    assert_eq!(memory.get(0, 5), b"child");
}

fn descriptors_are_closed_on_exec<S: Segment>() {
    let closed = |segment: &S| {
        let flags = fcntl(borrow(&segment.fd()), FcntlArg::F_GETFD).unwrap();
        FdFlag::from_bits_truncate(flags).contains(FdFlag::FD_CLOEXEC)
    };
    assert!(closed(&S::anonymous(100, false).unwrap()));
    let inherited = S::anonymous(100, true).unwrap();
    assert!(!closed(&inherited));
    assert!(closed(&S::from_fd(inherited.fd(), O_RDWR).unwrap()));
    assert!(closed(&S::map_file(Path::new("/dev/zero"), 10, O_RDWR, 0).unwrap()));
    let name = unique("cloexec");
    for oflag in [NEW, O_RDWR] {
        assert!(closed(&S::open(name.as_bytes(), 100, oflag, 0o600).unwrap()));
    }
    S::unlink(name.as_bytes()).unwrap();
}

fn from_descriptor<S: Segment>() {
    let memory = S::anonymous(5000, false).unwrap();
    memory.put(0, b"sealed");
    let copy = S::from_fd(memory.fd(), O_RDWR | MDG_SEALED).unwrap();
    assert_ne!(copy.fd(), memory.fd(), "duplicated");
    drop(memory);
    assert_eq!((copy.size(), copy.get(0, 6)), (5000, b"sealed".to_vec()));
    let mut reader = S::from_fd(copy.fd(), O_RDONLY | MDG_SEALED).unwrap();
    assert_eq!(reader.get(0, 6), b"sealed");
    assert_eq!(refused(reader.resize(6000)), Errno::EACCES);
    let name = unique("unsealed");
    let named = S::open(name.as_bytes(), 100, NEW, 0o600).unwrap();
    S::unlink(name.as_bytes()).unwrap();
    assert_eq!(refused(S::from_fd(named.fd(), O_RDWR | MDG_SEALED)), Errno::EPROTO);
    assert_eq!(S::from_fd(named.fd(), O_RDWR).unwrap().size(), 100);
}

fn descriptors_that_cannot_be_mapped<S: Segment>() {
    let dir = directory("descriptors");
    let path = dir.join("file");
    std::fs::write(&path, b"12345").unwrap();
    let read_only = File::open(&path).unwrap();
    assert_eq!(refused(S::from_fd(read_only.as_raw_fd(), O_RDWR)), Errno::EACCES);
    assert_eq!(S::from_fd(read_only.as_raw_fd(), O_RDONLY).unwrap().get(0, 5), b"12345");
    let write_only = OpenOptions::new().write(true).open(&path).unwrap();
    assert_eq!(refused(S::from_fd(write_only.as_raw_fd(), O_RDONLY)), Errno::EACCES);
    let empty = File::create(dir.join("empty")).unwrap();
    let (pipe, _other) = nix::unistd::pipe().unwrap();
    let directory = File::open(&dir).unwrap();
    for fd in [empty.as_raw_fd(), pipe.as_raw_fd(), directory.as_raw_fd()] {
        assert_eq!(refused(S::from_fd(fd, O_RDONLY)), Errno::EPROTO);
        assert_eq!(refused(S::from_fd(fd, O_RDONLY | MDG_SEALED)), Errno::EPROTO);
    }
    for oflag in [O_RDONLY, O_RDWR, O_RDWR | MDG_SEALED] {
        assert_eq!(refused(S::from_fd(i32::MAX, oflag)), Errno::EBADF);
    }
    std::fs::remove_dir_all(dir).unwrap();
}

fn ordinary_file<S: Segment>() {
    let dir = directory("file");
    let path = dir.join("data");
    std::fs::write(&path, b"hello, file").unwrap();
    let mapped = S::map_file(&path, 0, O_RDWR, 0).unwrap();
    assert_eq!((mapped.size(), mapped.get(0, 5)), (11, b"hello".to_vec()));
    mapped.put(0, b"HELLO");
    mapped.sync().unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"HELLO, file");
    assert_eq!(S::map_file(&path, 5, O_RDONLY, 0).unwrap().get(0, 5), b"HELLO");
    assert_eq!(refused(S::map_file(&path, 12, O_RDWR, 0)), Errno::EPROTO);
    assert_eq!(refused(S::map_file(&path, 11, NEW, 0o600)), Errno::EEXIST);
    assert_eq!(refused(S::map_file(&path, 11, libc::O_WRONLY, 0)), Errno::EINVAL);
    let mut grown = S::map_file(&path, 0, O_RDWR, 0).unwrap();
    grown.resize(5000).unwrap();
    assert_eq!(grown.get(5, 7), b", file\0");
    grown.resize(5).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"HELLO");
    std::fs::remove_dir_all(dir).unwrap();
}

fn file_made_complete<S: Segment>() {
    let dir = directory("made");
    let path = dir.join("new");
    assert_eq!(refused(S::map_file(&path, 100, O_RDWR, 0)), Errno::ENOENT);
    assert_eq!(refused(S::map_file(&path, 0, NEW, 0o600)), Errno::EINVAL);
    let made = S::map_file(&path, 100_000, O_CREAT | O_RDWR, 0o600).unwrap();
    assert_eq!((made.size(), made.get(99_999, 1)), (100_000, vec![0]));
    made.put(0, b"content");
    let status = std::fs::metadata(&path).unwrap();
    assert_eq!((status.len(), status.permissions().mode() & 0o777), (100_000, 0o600));
    assert_eq!(S::map_file(&path, 0, O_CREAT | O_RDWR, 0).unwrap().get(0, 7), b"content");
    // The only thing that stands there: no temporary files.
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
    std::fs::remove_dir_all(dir).unwrap();
}

fn links_are_followed<S: Segment>() {
    let dir = directory("links");
    symlink("target", dir.join("link")).unwrap();
    symlink(dir.join("link"), dir.join("second")).unwrap();
    symlink("loop", dir.join("loop")).unwrap();
    // A link to nothing: as open(2), O_CREAT makes its target, O_EXCL does not look through it.
    assert_eq!(refused(S::map_file(&dir.join("second"), 10, O_RDWR, 0)), Errno::ENOENT);
    assert_eq!(refused(S::map_file(&dir.join("second"), 10, NEW, 0o600)), Errno::EEXIST);
    S::map_file(&dir.join("second"), 10, O_CREAT | O_RDWR, 0o600).unwrap().put(0, b"through");
    assert_eq!(&std::fs::read(dir.join("target")).unwrap(), b"through\0\0\0");
    assert_eq!(S::map_file(&dir.join("link"), 0, O_RDONLY, 0).unwrap().get(0, 7), b"through");
    for oflag in [O_RDWR, O_CREAT | O_RDWR] {
        assert_eq!(refused(S::map_file(&dir.join("loop"), 10, oflag, 0o600)), Errno::ELOOP);
    }
    std::fs::remove_dir_all(dir).unwrap();
}

fn files_that_cannot_be_mapped<S: Segment>() {
    let dir = directory("unmappable");
    let (fifo, empty) = (dir.join("fifo"), dir.join("empty"));
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    File::create(&empty).unwrap();
    for path in [&dir, &fifo, &empty] {
        for oflag in [O_RDONLY, O_RDWR, O_CREAT | O_RDWR] {
            assert_eq!(refused(S::map_file(path, 10, oflag, 0o600)), Errno::EPROTO, "{path:?}");
        }
    }
    // A device, but none that can be mapped.
    assert_eq!(refused(S::map_file(Path::new("/dev/null"), 10, O_RDWR, 0)), Errno::EPROTO);
    let map = |path: &Path| refused(S::map_file(path, 10, O_CREAT | O_RDWR, 0o600));
    assert_eq!(map(&empty.join("below")), Errno::ENOTDIR);
    assert_eq!(map(&dir.join("missing/below")), Errno::ENOENT);
    assert_eq!(map(Path::new("")), Errno::ENOENT);
    assert_eq!(map(&dir.join("n".repeat(256))), Errno::ENAMETOOLONG);
    std::fs::remove_dir_all(dir).unwrap();
}

fn device<S: Segment>() {
    let zero = Path::new("/dev/zero");
    for oflag in [O_RDWR, O_RDONLY, O_CREAT | O_RDWR] {
        assert_eq!(refused(S::map_file(zero, 0, oflag, 0)), Errno::EINVAL);
    }
    let mut memory = S::map_file(zero, 5000, O_RDWR, 0).unwrap();
    assert_eq!((memory.size(), memory.get(0, 5000)), (5000, vec![0; 5000]));
    join(fork(|| memory.put(4990, b"from child")));
    assert_eq!(memory.get(4990, 10), b"from child");
    assert_eq!(refused(memory.resize(10_000)), Errno::EINVAL);
    assert_eq!(memory.size(), 5000);
    memory.sync().unwrap();
}

fn sparse_gigabyte<S: Segment>() {
    const SIZE: usize = 1 << 30;
    let dir = directory("sparse");
    let path = dir.join("sparse");
    let file = File::create_new(&path).unwrap();
    file.set_len(SIZE as u64).unwrap();
    file.write_all_at(b"end", SIZE as u64 - 3).unwrap();
    let mapped = S::map_file(&path, 0, O_RDWR, 0).unwrap();
    assert_eq!((mapped.size(), mapped.get(SIZE - 3, 3)), (SIZE, b"end".to_vec()));
    assert_eq!(mapped.get(SIZE / 2, 4096), [0; 4096]);
    mapped.put(SIZE / 2, b"middle");
    mapped.sync().unwrap();
    assert!(std::fs::metadata(&path).unwrap().blocks() * 512 < 1 << 20, "still sparse");
    std::fs::remove_dir_all(dir).unwrap();
}

fn resize_named<S: Segment>() {
    let name = unique("resize");
    let mut first = S::open(name.as_bytes(), 5000, NEW, 0o600).unwrap();
    let mut second = S::open(name.as_bytes(), 0, O_RDWR, 0).unwrap();
    first.put(0, b"kept");
    first.resize(3_000_001).unwrap();
    assert_eq!((first.size(), first.object_size()), (3_000_001, 3_000_001));
    assert_eq!((first.get(0, 4), first.get(5000, 100)), (b"kept".to_vec(), vec![0; 100]));
    first.put(3_000_000, b"!");
    // The other keeps what it has, and sees more by the same resize.
    assert_eq!(second.size(), 5000);
    second.resize(3_000_001).unwrap();
    assert_eq!(second.get(3_000_000, 1), b"!");
    second.resize(4097).unwrap();
    assert_eq!((second.size(), second.object_size()), (4097, 4097));
    assert_eq!(first.get(0, 4), b"kept");
    // What was cut off comes back as zeros.
    second.put(4096, b"!");
    second.resize(4096).unwrap();
    second.resize(4200).unwrap();
    assert_eq!(second.get(4090, 110), [0; 110]);
    assert_eq!(S::open(name.as_bytes(), 0, O_RDWR, 0).unwrap().size(), 4200);
    S::unlink(name.as_bytes()).unwrap();
}

fn resize_refusals<S: Segment>() {
    let name = unique("refusals");
    let mut writable = S::open(name.as_bytes(), 5000, NEW, 0o600).unwrap();
    let mut read_only = S::open(name.as_bytes(), 0, O_RDONLY, 0).unwrap();
    for (size, code) in [
        (0, Errno::EINVAL),
        (isize::MAX as usize + 1, Errno::EOVERFLOW),
        (usize::MAX, Errno::EOVERFLOW),
        (isize::MAX as usize, Errno::ENOSPC),
    ] {
        assert_eq!(refused(writable.resize(size)), code);
    }
    for size in [1, 5000, 6000] {
        assert_eq!(refused(read_only.resize(size)), Errno::EACCES);
    }
    assert_eq!((writable.size(), writable.object_size()), (5000, 5000));
    writable.put(4999, b"!");
    assert_eq!(read_only.get(4999, 1), b"!");
    S::unlink(name.as_bytes()).unwrap();
}

fn resize_without_address_space<S: Segment>() {
    join(fork(|| {
        let name = unique("address");
        let named = S::open(name.as_bytes(), 5000, NEW, 0o600).unwrap();
        S::unlink(name.as_bytes()).unwrap();
        for mut segment in [named, S::anonymous(5000, false).unwrap()] {
            segment.put(0, b"kept");
            let before = segment.addr();
            confine::limit(Resource::RLIMIT_AS, 1 << 20);
            let (resized, made) = (segment.resize(16 << 20), S::anonymous(16 << 20, false));
            confine::limit(Resource::RLIMIT_AS, u64::MAX);
            assert_eq!((refused(resized), refused(made)), (Errno::ENOMEM, Errno::ENOMEM));
            assert_eq!((segment.size(), segment.object_size()), (5000, 5000));
            assert_eq!((segment.addr(), segment.get(0, 4)), (before, b"kept".to_vec()));
            let blocks = nix::sys::stat::fstat(borrow(&segment.fd())).unwrap().st_blocks;
            assert!(blocks * 512 <= 8192, "no memory is kept: {blocks} blocks");
        }
    }));
}

fn resize_without_space<S: Segment>() {
    confine::with_own_shm(c"size=1m", || {
        let mut segment = S::open(b"/small", 5000, NEW, 0o600).unwrap();
        segment.put(0, b"kept");
        for size in [2 << 20, 1 << 40] {
            assert_eq!(refused(segment.resize(size)), Errno::ENOSPC);
            assert_eq!((segment.size(), segment.object_size()), (5000, 5000));
        }
        segment.resize(1 << 20).unwrap();
        segment.put((1 << 20) - 1, b"!");
        assert_eq!(segment.get(0, 4), b"kept");
        segment.resize(4096).unwrap();
        drop(S::open(b"/other", 1 << 19, NEW, 0o600).unwrap());
    });
}

fn no_descriptors_left<S: Segment>() {
    join(fork(|| {
        let (name, dir) = (unique("emfile"), directory("emfile"));
        let memory = S::anonymous(100, false).unwrap();
        confine::limit(Resource::RLIMIT_NOFILE, 4);
        assert_eq!(refused(S::open(name.as_bytes(), 100, NEW, 0o600)), Errno::EMFILE);
        assert_eq!(refused(S::open(name.as_bytes(), 100, O_RDWR, 0o600)), Errno::EMFILE);
        assert_eq!(refused(S::anonymous(100, false)), Errno::EMFILE);
        assert_eq!(refused(S::from_fd(memory.fd(), O_RDWR)), Errno::EMFILE);
        assert_eq!(refused(S::map_file(&dir.join("x"), 100, NEW, 0o600)), Errno::EMFILE);
        confine::limit(Resource::RLIMIT_NOFILE, 100);
        assert_eq!(refused(S::open(name.as_bytes(), 100, O_RDWR, 0o600)), Errno::ENOENT);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0);
        std::fs::remove_dir(&dir).unwrap();
    }));
}
