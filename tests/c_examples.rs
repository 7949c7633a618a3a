//! Builds `c_examples/` against the library of this test run and checks every example, success and
//! failure, against its golden output; once plainly and once under valgrind.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder in which the linker finds `libmadang.so` and the loader `libmadang.so.0`.
///
/// `cargo test` leaves the library beside the test programs, in `deps/`, and not in `target/debug/`.
fn library_folder(name: &str) -> PathBuf {
    let test_program = std::env::current_exe().expect("path of the test program");
    let library = test_program.parent().expect("folder of the test program").join("libmadang.so");
    assert!(library.exists(), "no {}", library.display());

    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).expect("create the library folder");
    for link in ["libmadang.so", "libmadang.so.0"] {
        let link = folder.join(link);
        let _ = fs::remove_file(&link);
        symlink(&library, &link).expect("link to the library");
    }
    folder
}

/// `make check` in `c_examples/`, with every program started through `wrap`.
fn check(name: &str, wrap: &str) {
    let root = env!("CARGO_MANIFEST_DIR");
    let libraries = library_folder(name);
    let output = Command::new("make")
        .args(["-C", "c_examples", "check"])
        .arg(format!("BIN={}", libraries.join("bin").display()))
        .arg(format!("CFLAGS=-O2 -g -I{root}/include"))
        .arg(format!("LDFLAGS=-L{0} -Wl,-rpath,{0}", libraries.display()))
        .arg("LDLIBS=-lmadang")
        .current_dir(root)
        .env("WRAP", wrap)
        .env_remove("UPDATE")
        .env_remove("ONLY")
        .env_remove("MAKEFLAGS")
        .env_remove("MAKELEVEL")
        .output()
        .expect("run make");
    assert!(
        output.status.success(),
        "make check failed ({})\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn examples_match_their_golden_output() {
    check("c_examples", "");
}

#[test]
fn examples_are_clean_under_valgrind() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        eprintln!("skipped: no valgrind on this machine");
        return;
    }
    // What valgrind finds appears in the output and as exit 99, and so in the comparison.
    check(
        "c_examples_valgrind",
        "valgrind -q --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite",
    );
}
