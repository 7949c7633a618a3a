//! What several test programs need: the library as it was built, compilers, processes.
#![allow(dead_code)]

pub mod ring_face;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// The directory in which cargo puts the libraries of this very build, next to the test program.
pub fn library_dir() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().to_path_buf()
}

/// The source tree.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A directory for this test program's files.
pub fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// A directory that holds the library under the names a linked program looks for.
pub fn linkable(scratch: &Path) -> PathBuf {
    let built = library_dir().join("libmadang.so");
    assert!(built.exists(), "{} is missing", built.display());
    for name in ["libmadang.so", "libmadang.so.0"] {
        let link = scratch.join(name);
        let _ = std::fs::remove_file(&link);
        symlink(&built, &link).unwrap();
    }
    scratch.to_path_buf()
}

/// The machine's C compiler, as the `cc` crate finds it.
pub fn c_compiler() -> Command {
    let target = env!("MADANG_TARGET");
    let mut build = cc::Build::new();
    build.host(target).target(target).opt_level(1).cargo_metadata(false).out_dir(library_dir());
    build.get_compiler().to_command()
}

/// Compiles and links a C program against this build's library.
pub fn compile_c(source: &Path, output: &Path, extra: &[&str]) {
    let dir = linkable(output.parent().unwrap());
    let mut command = c_compiler();
    command
        .args(["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-D_GNU_SOURCE"])
        .args(extra)
        .arg("-I")
        .arg(root().join("include"))
        .arg(source)
        .arg("-o")
        .arg(output)
        .arg("-L")
        .arg(&dir)
        .arg(format!("-Wl,-rpath,{}", dir.display()))
        .args(["-lmadang", "-lpthread"]);
    let result = command.output().unwrap();
    assert!(
        result.status.success(),
        "{}: {}",
        source.display(),
        String::from_utf8_lossy(&result.stderr)
    );
}

/// An object name that no other test, in this or another run, uses at the same time.
pub fn unique(stem: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("/mdg-test-{stem}-{}-{count}", std::process::id())
}

/// Runs `body` in a forked child and returns the child's process id. The child leaves with `_exit`,
/// 0 if the body returned, 101 if it panicked.
pub fn fork(body: impl FnOnce()) -> nix::unistd::Pid {
    // SAFETY: the test's children use what a forked child of a threaded program may use in glibc
    // (malloc among it, which glibc makes fork-safe), and leave with _exit.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Parent { child } => child,
        nix::unistd::ForkResult::Child => {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            // SAFETY: ends this process without running the parent's exit handlers.
            unsafe { libc::_exit(if result.is_ok() { 0 } else { 101 }) }
        }
    }
}

/// Waits for a child that must have succeeded.
pub fn join(child: nix::unistd::Pid) {
    let status = nix::sys::wait::waitpid(child, None).unwrap();
    assert!(
        matches!(status, nix::sys::wait::WaitStatus::Exited(_, 0)),
        "child {child} ended with {status:?}"
    );
}

/// Kills a child and waits until the kernel has taken it down.
pub fn kill(child: nix::unistd::Pid) {
    nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL).unwrap();
    nix::sys::wait::waitpid(child, None).unwrap();
}

/// A pipe on which one process tells another that it has come so far.
pub struct Gate(libc::c_int, libc::c_int);

impl Gate {
    pub fn new() -> Self {
        use std::os::fd::IntoRawFd;
        let (read, write) = nix::unistd::pipe().unwrap();
        Self(read.into_raw_fd(), write.into_raw_fd())
    }

    /// Lets one waiter through.
    pub fn open(&self) {
        let byte = [1_u8];
        // SAFETY: one readable byte; the descriptor is ours.
        assert_eq!(unsafe { libc::write(self.1, byte.as_ptr().cast(), 1) }, 1);
    }

    /// Waits until it is opened.
    pub fn pass(&self) {
        let mut byte = [0_u8];
        loop {
            // SAFETY: one writable byte; the descriptor is ours.
            match unsafe { libc::read(self.0, byte.as_mut_ptr().cast(), 1) } {
                1 => return,
                -1 if nix::errno::Errno::last() == nix::errno::Errno::EINTR => {}
                other => panic!("gate: {other}"),
            }
        }
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // SAFETY: both were opened by `new` and belong to this value.
        unsafe {
            libc::close(self.0);
            libc::close(self.1);
        }
    }
}
