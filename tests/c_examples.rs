//! Builds `c_examples/` against the library of this test run and checks every example, success and
//! failure, against its golden output; once plainly and once under valgrind.

mod support;

use std::process::Command;

use support::{linkable, scratch};

/// `make check` in `c_examples/`, with every program started through `wrap`.
fn check(name: &str, wrap: &str) {
    let root = env!("CARGO_MANIFEST_DIR");
    let libraries = linkable(&scratch(name));
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
    if !support::process::has_program("valgrind") {
        return;
    }
    // What valgrind finds appears in the output and as exit 99, and so in the comparison.
    check(
        "c_examples_valgrind",
        "valgrind -q --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite",
    );
}
