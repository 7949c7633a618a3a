//! Gives the shared library its soname and tells the tests which target they run on.
//! Writes nothing into the source tree, so a read-only checkout builds.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libmadang.so.0");
    // Thread-local storage of the library lives as long as the process: never unmap it.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    let target = std::env::var("TARGET").expect("cargo sets TARGET");
    println!("cargo:rustc-env=MADANG_TARGET={target}");
}
