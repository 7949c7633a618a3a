//! What several test programs need: the library as it was built, compilers, directories, names; and
//! in modules, processes, their confinement, and the two faces of every mechanism.
#![allow(dead_code)] // Each test program uses its part of this.

pub mod broadcast;
pub mod confine;
pub mod face;
#[cfg(target_arch = "x86_64")]
pub mod halted;
pub mod history;
pub mod hostile;
pub mod inject;
#[cfg(target_arch = "x86_64")]
pub mod kinds;
pub mod mutex_face;
pub mod object_face;
pub mod pipe_face;
pub mod poll;
pub mod process;
pub mod redeliver;
#[cfg(target_arch = "x86_64")]
pub mod release_ring;
pub mod ring_face;
pub mod sem_face;
pub mod shm_face;
#[cfg(target_arch = "x86_64")]
pub mod step;
#[cfg(target_arch = "x86_64")]
pub mod survivor;
pub mod trace;
pub mod undo_face;
#[cfg(target_arch = "x86_64")]
pub mod victim;
pub mod waits;

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

/// Bytes of a page of this machine's memory.
pub fn page() -> usize {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).unwrap().unwrap() as usize
}

/// An object name that no other test, in this or another run, uses at the same time.
pub fn unique(stem: &str) -> String {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    format!("/mdg-test-{stem}-{}-{count}", std::process::id())
}

/// A directory of its own, removed on drop; in /tmp, where another user may come, too.
pub struct Dir(PathBuf);

impl Dir {
    pub fn new() -> Self {
        let dir = std::env::temp_dir().join(&unique("dir")[1..]);
        std::fs::create_dir(&dir).unwrap();
        Self(dir)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
