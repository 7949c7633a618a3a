//! The C headers: regenerated from the sources and compared, compiled as every dialect that the
//! documentation promises, and compared with what the shared library exports.
//!
//! `MADANG_BLESS=1 cargo test --test headers` writes them anew.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::process::has_program;
use support::{c_compiler, compile_c, library_dir, root, scratch};

const MECHANISMS: [&str; 9] =
    ["base", "fd", "mutex", "object", "pipe", "ring", "sem", "shm", "wait"];

/// The module's own documentation becomes the comment at the top of its header.
fn preamble(source: &str) -> String {
    let lines = source.lines().map_while(|line| line.strip_prefix("//!"));
    let text: String = lines.map(|line| format!(" *{line}\n").replace('`', "")).collect();
    format!("/* SPDX-License-Identifier: MIT OR Apache-2.0 */\n/*\n{text} */")
}

/// The file that a header is made of, or the first of several: cbindgen follows its modules, in the
/// order in which it names them.
fn source(mechanism: &str) -> PathBuf {
    let single = root().join(format!("src/ffi/{mechanism}.rs"));
    if single.exists() { single } else { root().join(format!("src/ffi/{mechanism}/mod.rs")) }
}

/// Macros with arguments, which cbindgen does not make.
fn macros(mechanism: &str) -> Option<String> {
    let text = match mechanism {
        "base" => include_str!("../src/ffi/base_macros.h"),
        _ => return None,
    };
    Some(text.trim_end().to_owned())
}

fn generate(mechanism: &str) -> String {
    let path = source(mechanism);
    let source = fs::read_to_string(&path).unwrap();
    let mut config = cbindgen::Config {
        language: cbindgen::Language::C,
        cpp_compat: true,
        no_includes: true,
        usize_is_size_t: true,
        line_length: 96,
        documentation_style: cbindgen::DocumentationStyle::Doxy,
        include_guard: Some(format!("MADANG_{}_H", mechanism.to_uppercase())),
        header: Some(preamble(&source)),
        after_includes: macros(mechanism),
        sys_includes: ["stddef.h", "stdint.h", "sys/types.h"].map(String::from).to_vec(),
        ..cbindgen::Config::default()
    };
    let headers: &[&str] = match mechanism {
        "base" => &[],
        // Rings may lie in segments.
        "ring" | "sem" => &["madang/base.h", "madang/shm.h"],
        "wait" => &["madang/base.h", "madang/ring.h"],
        _ => &["madang/base.h"],
    };
    config.sys_includes.extend(headers.iter().map(ToString::to_string));
    let bindings = cbindgen::Builder::new().with_config(config).with_src(&path).generate().unwrap();
    let mut text = Vec::new();
    bindings.write(&mut text);
    initialisers(&tidy(&String::from_utf8(text).unwrap()))
}

/// Behind each structure that begins with its size: a macro that initialises it, without a
/// designator (C++ before C++20 has none) and with every member (or compilers warn).
fn initialisers(text: &str) -> String {
    let mut out = String::new();
    let mut members: Vec<String> = Vec::new();
    for line in text.lines() {
        out += line;
        out.push('\n');
        if line.starts_with("typedef struct ") {
            members.clear();
        } else if let Some(name) = line.strip_prefix("} ").and_then(|rest| rest.strip_suffix(';')) {
            if members.first().is_some_and(|first| first.trim() == "size_t size;") {
                let rest =
                    members[1..].iter().map(|m| if m.contains('[') { ", {0}" } else { ", 0" });
                let (upper, rest) = (name.to_uppercase(), rest.collect::<String>());
                out += &format!(
                    "\n/**\n * Initialiser of {name}: sets size, and everything else to zero.\n */\n\
                     #define {upper}_INIT \\\n    {{sizeof({name}){rest}}}\n"
                );
            }
        } else if line.starts_with("  ") && line.ends_with(';') && !line.starts_with("   ") {
            members.push(line.to_owned());
        }
    }
    out
}

/// What C89 wants and cbindgen does not do: block comments behind #endif, parentheses around
/// expressions. What is for Rust only goes: the safety sections, and Rust's backquotes.
fn tidy(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut in_safety = false;
    for line in text.lines() {
        if line.trim() == "* # Safety" {
            in_safety = true;
            // The empty comment line before the section goes, too.
            if lines.last().is_some_and(|last| last.trim() == "*") {
                lines.pop();
            }
            continue;
        }
        if in_safety && line.trim() != "*/" {
            continue;
        }
        in_safety = false;
        let mut line = line.replace('`', "");
        for directive in ["#endif", "#else"] {
            if let Some(comment) = line.trim_start().strip_prefix(&format!("{directive}  // ")) {
                line = format!("{directive} /* {comment} */");
            } else if let Some(comment) =
                line.trim_start().strip_prefix(&format!("{directive} // "))
            {
                line = format!("{directive} /* {comment} */");
            }
        }
        if let Some((define, value)) =
            line.split_once(" (0 - ").filter(|_| line.starts_with("#define"))
        {
            line = format!("{define} (-{value}");
        }
        lines.push(line);
    }
    let text = lines.join("\n") + "\n";
    // Headers are ASCII: they are printed, and read on terminals of every age.
    text.replace("\n * · ", ";\n * ")
        .replace(" ·", ";")
        .replace("}  // extern \"C\"", "} /* extern \"C\" */")
}

#[test]
fn headers_are_what_the_sources_say() {
    for mechanism in MECHANISMS {
        let path = root().join(format!("include/madang/{mechanism}.h"));
        let fresh = generate(mechanism);
        if std::env::var_os("MADANG_BLESS").is_some() {
            fs::write(&path, &fresh).unwrap();
        }
        let there = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            there == fresh,
            "{} is out of date: run MADANG_BLESS=1 cargo test --test headers",
            path.display()
        );
        for (number, line) in fresh.lines().enumerate() {
            assert!(line.is_ascii(), "{mechanism}.h:{}: {line}", number + 1);
            assert!(line.len() <= 110, "{mechanism}.h:{}: {line}", number + 1);
        }
    }
}

/// Compiles `source` as `language` with every warning that is promised to stay silent.
fn compiles(mut compiler: Command, dialect: &str, source: &Path) {
    let language = if dialect.contains("++") { "c++" } else { "c" };
    compiler
        .args(["-x", language, &format!("-std={dialect}"), "-fsyntax-only", "-D_GNU_SOURCE"])
        .args(["-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wundef", "-Werror", "-I"])
        .arg(root().join("include"))
        .arg(source);
    let result = compiler.output().unwrap();
    let errors = String::from_utf8_lossy(&result.stderr);
    assert!(result.status.success(), "{dialect}: {errors}");
}

#[test]
fn headers_compile_in_every_dialect_alone_and_together() {
    let dir = scratch("headers");
    // gcc compiles C++ only where g++ is installed.
    let (clang, cplusplus) = (has_program("clang"), has_program("c++"));
    let headers = MECHANISMS.map(|name| format!("madang/{name}.h"));
    // Numbers of every kind in the macros.
    let timeouts = "int64_t all(int i, unsigned long u, float f, double d);\n\
        int64_t all(int i, unsigned long u, float f, double d) {\n\
        return MDG_SECONDS(i) + MDG_SECONDS(u) + MDG_MILLISECONDS(f) + MDG_MICROSECONDS(d); }\n";
    for header in headers.iter().map(String::as_str).chain(["madang.h"]) {
        let source = dir.join("one.c");
        // Twice: the guard works.
        let text = fs::read_to_string(root().join("include").join(header)).unwrap();
        let mut program = format!("#include <{header}>\n#include <{header}>\n{timeouts}");
        for line in text.lines() {
            if let Some(name) =
                line.strip_prefix("#define ").and_then(|l| l.strip_suffix("_INIT \\"))
            {
                let kind = name.to_lowercase();
                program += &format!("extern {kind} of_{kind};\n{kind} of_{kind} = {name}_INIT;\n");
            }
        }
        fs::write(&source, program).unwrap();
        for dialect in ["c89", "c99", "c11", "c17", "c++98", "c++11", "c++17"] {
            if !dialect.contains("++") || cplusplus {
                compiles(c_compiler(), dialect, &source);
            }
            if clang {
                compiles(Command::new("clang"), dialect, &source);
            }
        }
    }
    fs::remove_dir_all(dir).unwrap();
}

/// Words of the headers that begin like ours: `mdg_` followed by an opening parenthesis.
fn declared_functions() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for mechanism in MECHANISMS {
        let path = root().join(format!("include/madang/{mechanism}.h"));
        let text = fs::read_to_string(path).unwrap();
        for line in text.lines().filter(|line| !line.trim_start().starts_with('*')) {
            for (at, _) in line.match_indices("mdg_") {
                let word: String =
                    line[at..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if line[at + word.len()..].starts_with('(') {
                    found.insert(word);
                }
            }
        }
    }
    found
}

#[test]
fn the_library_exports_what_the_headers_declare_and_nothing_else() {
    let library = library_dir().join("libmadang.so");
    let output = Command::new("nm").args(["-D", "--defined-only"]).arg(&library).output().unwrap();
    assert!(output.status.success());
    let listing = String::from_utf8(output.stdout).unwrap();
    let exported: BTreeSet<String> =
        listing.lines().filter_map(|line| line.split(' ').nth(2).map(str::to_owned)).collect();
    assert!(exported.len() > 40, "{exported:?}");
    assert_eq!(exported, declared_functions());
}

#[test]
fn the_soname_is_stable() {
    let library = library_dir().join("libmadang.so");
    let output = Command::new("readelf").arg("-d").arg(library).output().unwrap();
    let listing = String::from_utf8(output.stdout).unwrap();
    assert!(listing.contains("Library soname: [libmadang.so.0]"), "{listing}");
}

/// The oldest glibc that has all that the library calls: that of Rust's own standard library.
const OLDEST_GLIBC: (u32, u32) = (2, 17);

/// Functions that are older than the version which a link on a newer machine asks for: they moved into
/// libc.so (2.34, some 2.32), or were inline functions of libc.a before (2.33).
fn has_moved(symbol: &str) -> bool {
    const MOVED: [&str; 12] = [
        "stat",
        "lstat",
        "fstat",
        "fstatat",
        "stat64",
        "lstat64",
        "fstat64",
        "fstatat64",
        "dlsym",
        "dlopen",
        "__libc_start_main",
        "dladdr",
    ];
    let semaphore = symbol.starts_with("sem_") && symbol != "sem_clockwait";
    semaphore || symbol.starts_with("pthread_") || MOVED.contains(&symbol)
}

#[test]
fn nothing_is_called_that_an_old_c_library_does_not_have() {
    let library = library_dir().join("libmadang.so");
    let output = Command::new("readelf").args(["-W", "--dyn-syms"]).arg(library).output().unwrap();
    let listing = String::from_utf8(output.stdout).unwrap();
    let mut newer = BTreeSet::new();
    let mut seen = 0;
    for line in listing.lines() {
        let Some((kind, symbol)) = line.split_once(" UND ") else { continue };
        let name = symbol.split_whitespace().next().unwrap_or_default();
        let Some((name, version)) = name.split_once("@GLIBC_") else { continue };
        let mut numbers = version.split('.').map(|number| number.parse::<u32>().unwrap());
        let version = (numbers.next().unwrap(), numbers.next().unwrap_or(0));
        seen += 1;
        // The loader leaves a weak one null, which its caller asks about.
        if version > OLDEST_GLIBC && !kind.contains(" WEAK ") && !has_moved(name) {
            newer.insert(name.to_owned());
        }
    }
    assert!(!cfg!(target_env = "gnu") || seen > 20, "{listing}");
    assert!(newer.is_empty(), "not in glibc {OLDEST_GLIBC:?}: {newer:?}");
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let (major, minor) = OLDEST_GLIBC;
    assert!(readme.contains(&format!("glibc {major}.{minor} or later")), "README says so");
}

/// tests/c/every_name.c uses each macro, field and function once; here it is shown to do so, and
/// run.
#[test]
fn one_program_uses_every_name() {
    let source = root().join("tests/c/every_name.c");
    let program_text = fs::read_to_string(&source).unwrap();
    let mut names = declared_functions();
    for mechanism in MECHANISMS {
        let path = root().join(format!("include/madang/{mechanism}.h"));
        for line in fs::read_to_string(path).unwrap().lines() {
            let define = line.strip_prefix("#define ").and_then(|rest| rest.split_once(' '));
            // A macro with arguments by its name and parenthesis.
            names.extend(define.map(|(name, _)| match name.split_once('(') {
                Some((name, _)) => format!("{name}("),
                None => name.to_owned(),
            }));
        }
    }
    names.retain(|name| !name.ends_with("_H"));
    let missing: Vec<_> = names.iter().filter(|name| !program_text.contains(*name)).collect();
    assert!(missing.is_empty(), "not used in every_name.c: {missing:?}");
    let dir = scratch("every_name");
    let program = dir.join("every_name");
    compile_c(&source, &program, &[]);
    let output = Command::new(&program).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    fs::remove_dir_all(dir).unwrap();
}
