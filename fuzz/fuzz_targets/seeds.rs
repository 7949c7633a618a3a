//! Writes the first inputs of each target to `corpus/TARGET/`.
#![no_main]

/// The linker has libFuzzer's `main` for the other programs, so this one brings its own.
#[unsafe(no_mangle)]
pub extern "C" fn main() -> i32 {
    for (target, number, bytes) in madang_fuzz::seeds() {
        let directory = format!("corpus/{target}");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(format!("{directory}/seed{number:03}"), bytes).unwrap();
    }
    0
}
