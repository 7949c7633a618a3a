//! Runs the tests of the Python package against this build, with a C program as the peer.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The folder of this build's shared library; `target/<profile>/` could hold a stale one.
fn library_dir() -> PathBuf {
    let program = env::current_exe().expect("path of the test program");
    program.parent().expect("folder of the test program").to_path_buf()
}

fn run(command: &mut Command, what: &str) -> Output {
    command.output().unwrap_or_else(|error| panic!("{what} could not be run: {error}"))
}

fn expect_success(output: &Output, what: &str) {
    assert!(
        output.status.success(),
        "{what} failed ({}):\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Compiles the C peer against the headers and this build's library.
fn build_peer(library: &Path) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python");
    fs::create_dir_all(&dir).expect("folder for the C peer");
    // The linker records the soname, so the program looks for this file.
    let soname = dir.join("libmadang.so.0");
    let _ = fs::remove_file(&soname);
    symlink(library, &soname).expect("link with the soname");
    let program = dir.join("peer_stream");
    let target = env!("MADANG_TARGET");
    let compiler = cc::Build::new()
        .host(target)
        .target(target)
        .opt_level(1)
        .cargo_metadata(false)
        .out_dir(&dir)
        .try_get_compiler()
        .expect("a C compiler");
    let mut command = compiler.to_command();
    command
        .args([
            "-std=c99",
            "-D_POSIX_C_SOURCE=200809L",
            "-Wall",
            "-Wextra",
            "-Wpedantic",
            "-Werror",
        ])
        .arg(format!("-I{ROOT}/include"))
        .arg(format!("{ROOT}/tests/c/peer_stream.c"))
        .arg("-o")
        .arg(&program)
        .arg(&soname)
        .arg(format!("-Wl,-rpath,{}", dir.display()));
    expect_success(&run(&mut command, "the C compiler"), "compiling peer_stream.c");
    program
}

#[test]
fn the_python_package_works() {
    let library = library_dir().join("libmadang.so");
    assert!(library.exists(), "{} is missing: was the cdylib built?", library.display());
    let peer = build_peer(&library);
    let version = run(Command::new("python3").arg("--version"), "python3 (needed for this test)");
    expect_success(&version, "python3 --version");
    let tests = Path::new(ROOT).join("python/tests");
    let mut unittest = Command::new("python3");
    unittest
        .args(["-B", "-W", "error::ResourceWarning", "-m", "unittest", "discover", "-v", "-s"])
        .arg(tests)
        .env("MADANG_LIBRARY", &library)
        .env("MADANG_TEST_PEER", &peer)
        .env("PYTHONPATH", Path::new(ROOT).join("python"));
    let output = run(&mut unittest, "python3 -m unittest");
    expect_success(&output, "python3 -m unittest");
    let report = String::from_utf8_lossy(&output.stderr);
    assert!(!report.contains("Ran 0 tests"), "no test was found:\n{report}");
    println!("{report}");
}
