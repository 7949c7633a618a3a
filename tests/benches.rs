//! The benchmark suite works: everything that needs no package is built against this build's
//! library and run for an instant; every run is verified, and tables and plots appear. Nothing is
//! said here about speed.

mod support;

use std::fs;
use std::process::Command;

use support::process::serial;
use support::{linkable, root, scratch};

#[test]
fn the_suite_runs_verifies_and_draws() {
    let _turn = serial();
    let dir = scratch("benches");
    let libraries = linkable(&dir);
    let out = dir.join("results");
    let output = Command::new("make")
        .args(["-C", "benches", "bench", "SMOKE=1", "PEERS=0"])
        .arg(format!("BUILT={}", libraries.display()))
        .arg(format!("BIN={}", dir.join("bin").display()))
        .arg(format!("OUT={}", out.display()))
        .current_dir(root())
        .env_remove("MAKEFLAGS")
        .env_remove("MAKELEVEL")
        .env_remove("BENCH_LOCK")
        .output()
        .expect("run make");
    assert!(
        output.status.success(),
        "make bench failed ({})\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );

    // One line per figure: row, turn, pair, kept, two probes, contender, metric, value.
    let runs = fs::read_to_string(out.join("runs.csv")).unwrap();
    let runs: Vec<Vec<&str>> = runs.lines().skip(1).map(|line| line.split(',').collect()).collect();
    assert!(runs.iter().filter(|run| run[7] == "ok").all(|run| run[8].parse() == Ok(1.0)));
    for (row, contender) in [
        ("spsc8", "madang"),
        ("spsc8_64k", "madang"),
        ("batch32", "madang"),
        ("spsc64", "madang"),
        ("spsc256", "madang"),
        ("spsc1k", "madang"),
        ("inplace4k", "madang"),
        ("inplace64k", "madang"),
        ("trip_spin", "madang_nowait"),
        ("trip_budget", "madang"),
        ("trip_many", "madang_nowait"),
        ("trip_many_budget", "madang"),
        ("trip_sleep", "madang"),
        ("idle", "madang"),
    ] {
        assert!(
            runs.iter().any(|run| (run[0], run[6], run[7]) == (row, contender, "ok")),
            "{contender} is missing from {row}"
        );
    }

    let table = fs::read_to_string(out.join("table.csv")).unwrap();
    assert!(
        table.starts_with("row,contender,metric,low_quartile,median,high_quartile,"),
        "{table}"
    );
    for plot in ["throughput.svg", "latency.svg", "scaling.svg"] {
        let svg = fs::read_to_string(out.join(plot)).unwrap();
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{plot}");
    }
    // What calls cost beside many handles, and beside many rings, each with its bar.
    for beside in ["1 handles", "2048 handles", "1000 rings"] {
        assert!(
            fs::read_to_string(out.join("table.md")).unwrap().contains(&format!("| {beside} | ")),
            "{beside}"
        );
    }
    // What needs a package is named together with it.
    let table = fs::read_to_string(out.join("table.md")).unwrap();
    assert!(table.contains("| DPDK rte_ring | libdpdk-dev |"), "{table}");
    fs::remove_dir_all(dir).unwrap();
}
