//! tests/layout_reader.py, and what it must agree with. A module of the two test programs that need it.

use std::process::Command;

use madang::ffi::ring::*;
use serde_json::{Value, json};

use crate::support::face::NOWAIT;
use crate::support::ring_face::{C, Face};
use crate::support::root;

/// Runs the reader; its JSON, or what it says against the file.
pub fn run(arguments: &[String]) -> Result<Value, String> {
    let mut command = Command::new("python3");
    command.arg("-B").arg("-I").arg(root().join("tests/layout_reader.py")).args(arguments);
    let output = command.output().expect("python3");
    let errors = String::from_utf8(output.stderr).unwrap();
    match output.status.code() {
        Some(0) => Ok(serde_json::from_slice(&output.stdout).unwrap()),
        Some(1) if !errors.contains("Traceback") => Err(errors),
        other => panic!("{other:?}: {errors}"),
    }
}

const STATES: [(u32, &str); 4] = [
    (MDG_RING_END_NEVER, "never"),
    (MDG_RING_END_LIVE, "live"),
    (MDG_RING_END_CLOSED, "closed"),
    (MDG_RING_END_DEAD, "dead"),
];

fn state(number: u32) -> &'static str {
    STATES.iter().find(|(one, _)| *one == number).unwrap().1
}

/// Every number that both sides tell.
#[track_caller]
pub fn agrees(found: &Value, stat: &mdg_ring_stats) {
    let (block, words) = (&found["superblock"], &found["control"]);
    let pairs = [
        (&block["capacity"], json!(stat.capacity)),
        (&block["item_size"], json!(stat.item_size)),
        (&block["kind"], json!(stat.kind)),
        (&block["policy"], json!(stat.policy)),
        (&block["max_handles"], json!(stat.max_handles)),
        (&found["sums"]["length"], json!(stat.length)),
        (&found["sums"]["written"], json!(stat.written)),
        (&found["sums"]["read"], json!(stat.read)),
        (&found["sums"]["dropped"], json!(stat.dropped)),
        (&found["sums"]["lost"], json!(stat.lost)),
        (&found["sums"]["pending"], json!(stat.pending)),
        (&found["recovered"], json!(stat.recovered)),
        (&words["push_waits"], json!(stat.push_waits)),
        (&words["pop_waits"], json!(stat.pop_waits)),
        (&words["producer"]["pid"], json!(stat.producer_pid)),
        (&words["consumer"]["pid"], json!(stat.consumer_pid)),
        (&words["producer"]["holder"], json!(state(stat.producer_state))),
        (&words["consumer"]["holder"], json!(state(stat.consumer_state))),
        (&words["shutdown"], json!(stat.flags & MDG_RING_SHUTDOWN != 0)),
    ];
    for (index, (read, told)) in pairs.iter().enumerate() {
        assert_eq!(**read, *told, "pair {index} of {found:#}\n{:?}", stat.length);
    }
    assert_eq!(words["corrupt"], json!(false));
    assert_eq!(found["admin_locked"], json!(false));
}

pub fn hex(bytes: &[u8]) -> Value {
    json!(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// Pops all that is inside; as the reader writes it.
pub fn pop_all(ring: &C, size: usize) -> Vec<Value> {
    let mut popped = Vec::new();
    let mut item = vec![0; size];
    while ring.pop(&mut item, NOWAIT).is_ok() {
        popped.push(hex(&item));
    }
    popped
}

pub fn items(found: &Value) -> Vec<Value> {
    found["items"].as_array().unwrap().clone()
}
