//! What calls cost in the release library, in numbers that no noise of the machine moves: the
//! instructions of the fast paths, and the stack of all calls.
//!
//! Instructions are counted by callgrind inside each function, in a run of N operations and in
//! one of 2 N; the difference is free of loading, opening and first looks.
#![cfg(target_arch = "x86_64")]

mod support;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use madang::ffi::ring::{MDG_RING_BROADCAST, MDG_RING_MPMC, MDG_RING_SPSC};
use support::{c_compiler, library_dir, root, scratch};

/// Items of a batch, as in the C program.
const BATCH: f64 = 32.0;

/// Kind, function (with a word more: of an empty ring), operations in the short run, and instructions that one operation may take: what was
/// measured, and a tenth for another compiler's taste.
const BUDGETS: [(u32, &str, u64, u64); 14] = [
    (MDG_RING_SPSC, "push", 500, 44),
    (MDG_RING_SPSC, "pop", 500, 36),
    (MDG_RING_SPSC, "push_many", 50, 262),
    (MDG_RING_SPSC, "pop_many", 50, 242),
    (MDG_RING_SPSC, "reserve", 500, 43),
    (MDG_RING_SPSC, "commit", 500, 31),
    (MDG_RING_SPSC, "peek", 500, 39),
    (MDG_RING_SPSC, "release", 500, 30),
    (MDG_RING_MPMC, "push", 500, 70),
    (MDG_RING_MPMC, "pop", 500, 76),
    (MDG_RING_SPSC, "pop empty", 500, 126),
    (MDG_RING_MPMC, "pop empty", 500, 153),
    (MDG_RING_BROADCAST, "push", 500, 57),
    (MDG_RING_BROADCAST, "pop", 500, 65),
];

/// The release library of these sources, in a folder under the names that a linked program looks for.
fn release_library(dir: &Path) -> PathBuf {
    let target = library_dir().join("../..");
    let status = Command::new(env!("CARGO"))
        .args(["build", "--locked", "--release", "--lib", "--target-dir"])
        .arg(&target)
        .current_dir(root())
        .status()
        .unwrap();
    assert!(status.success(), "cargo build --release");
    for name in ["libmadang.so", "libmadang.so.0"] {
        symlink(target.join("release/libmadang.so"), dir.join(name)).unwrap();
    }
    dir.to_path_buf()
}

/// A program of tests/c with the release library.
fn compile(name: &str, dir: &Path) -> PathBuf {
    let (library, program) = (release_library(dir), dir.join(name));
    let status = c_compiler()
        .args(["-std=gnu11", "-O1", "-D_GNU_SOURCE", "-pthread", "-I"])
        .arg(root().join("include"))
        .arg(root().join(format!("tests/c/{name}.c")))
        .arg("-o")
        .arg(&program)
        .arg("-L")
        .arg(&library)
        .arg(format!("-Wl,-rpath,{}", library.display()))
        .arg("-lmadang")
        .status()
        .unwrap();
    assert!(status.success(), "compile tests/c/{name}.c");
    program
}

/// Bytes of stack that a call may take, as base.h states them.
const MOST_STACK: usize = 9 * 1024;

/// Threads with the smallest stack that there may be, below which there is nothing, make every call.
#[test]
fn every_call_fits_in_the_smallest_stack() {
    let dir = scratch("stack");
    let output = Command::new(compile("stack", &dir)).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    println!("{text}");
    assert!(
        output.status.success(),
        "{:?} {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let most = text.lines().find_map(|line| line.strip_prefix("most: ")).expect("a maximum");
    let most: usize = most.parse().unwrap();
    assert!((3000..=MOST_STACK).contains(&most), "{most}");
    let header = std::fs::read_to_string(root().join("include/madang/base.h")).unwrap();
    assert!(header.contains(&format!("at most {} KiB of stack", MOST_STACK / 1024)));
    std::fs::remove_dir_all(dir).unwrap();
}

/// Instructions spent inside `mdg_ring_<function>` by a run of `operations`. A second word of `function`
/// is one more argument.
fn count(program: &Path, kind: u32, function: &str, operations: u64) -> u64 {
    let (function, more) = function.split_once(' ').unwrap_or((function, ""));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--collect-atstart=no"])
        .arg(format!("--toggle-collect=mdg_ring_{function}"))
        .arg(program)
        .args([function, &operations.to_string(), &kind.to_string()])
        .args(more.split_whitespace())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{function}: {text}");
    let (_, collected) = text.split_once("Collected : ").expect("callgrind's count");
    collected.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn fast_paths_stay_short() {
    if !support::process::has_program("valgrind") {
        return;
    }
    let dir = scratch("instructions");
    let program = compile("instructions", &dir);
    let mut too_long = Vec::new();
    for (kind, function, operations, budget) in BUDGETS {
        let once = count(&program, kind, function, operations);
        let twice = count(&program, kind, function, 2 * operations);
        let each = (twice - once) as f64 / operations as f64;
        println!("kind {kind}: mdg_ring_{function}: {each} instructions");
        if function.ends_with("_many") {
            println!("mdg_ring_{function}: {} per item of {BATCH}", each / BATCH);
        }
        assert!(each > 1.0, "mdg_ring_{function}: nothing was counted");
        if each > budget as f64 {
            too_long.push(format!("kind {kind}: mdg_ring_{function}: {each}, {budget} allowed"));
        }
    }
    assert!(too_long.is_empty(), "{too_long:?}");
    std::fs::remove_dir_all(dir).unwrap();
}
