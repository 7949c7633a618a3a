//! The programs of README.md, by the very commands it shows, print what it says.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use support::{library_dir, root, scratch};

/// The fenced blocks of a page: language and text.
fn blocks(page: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in page.lines() {
        match (line.strip_prefix("```"), open.as_mut()) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(language), None) => open = Some((language.to_owned(), String::new())),
            (None, Some((_, text))) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block without an end");
    blocks
}

/// A folder that looks like the source tree after `make`, with this build's library in it.
fn tree(name: &str) -> PathBuf {
    let dir = scratch(name);
    fs::create_dir_all(dir.join("target/release")).unwrap();
    for file in ["libmadang.a", "libmadang.so"] {
        symlink(library_dir().join(file), dir.join("target/release").join(file)).unwrap();
    }
    for folder in ["include", "python"] {
        symlink(root().join(folder), dir.join(folder)).unwrap();
    }
    dir
}

/// Writes the program in `language` to `file`, and runs the commands of the block behind it.
fn check(language: &str, file: &str) {
    let page = fs::read_to_string(root().join("README.md")).unwrap();
    let blocks = blocks(&page);
    let at = blocks.iter().position(|(found, _)| found == language).expect(language);
    let (console, session) = &blocks[at + 1];
    assert_eq!(console, "console", "what follows the {language} program");
    let dir = tree(&format!("readme-{language}"));
    fs::write(dir.join(file), &blocks[at].1).unwrap();
    let (commands, expected): (Vec<_>, Vec<_>) =
        session.lines().partition(|line| line.starts_with("$ "));
    assert!(!commands.is_empty() && !expected.is_empty());
    let mut printed = String::new();
    for command in commands {
        let output = Command::new("sh")
            .args(["-c", &command[2..]])
            .current_dir(&dir)
            .env("MADANG_LIBRARY", library_dir().join("libmadang.so"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{command}: {output:?}");
        printed.push_str(std::str::from_utf8(&output.stdout).unwrap());
    }
    assert_eq!(printed.lines().collect::<Vec<_>>(), expected);
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn the_c_program_works() {
    check("c", "hello.c");
}

#[test]
fn the_fragments_in_c_compile() {
    let page = fs::read_to_string(root().join("README.md")).unwrap();
    let fragments: Vec<_> =
        blocks(&page).into_iter().filter(|(language, _)| language == "c").skip(1).collect();
    assert!(fragments.len() >= 3);
    let dir = scratch("readme-fragments");
    fs::create_dir_all(&dir).unwrap();
    for (number, (_, text)) in fragments.iter().enumerate() {
        let program = format!(
            "#include <errno.h>\n#include <fcntl.h>\n#include <madang.h>\n\
             void mend(void);\nvoid work(void);\n\
             void fragment(mdg_mutex *mutex, mdg_ring *ring, mdg_ring *orders, mdg_fd_peer peer, \
             int socket);\n\
             void fragment(mdg_mutex *mutex, mdg_ring *ring, mdg_ring *orders, mdg_fd_peer peer, \
             int socket) {{\n(void)mutex, (void)ring, (void)orders, (void)peer, (void)socket;\n\
             {text}}}\n"
        );
        let source = dir.join(format!("fragment{number}.c"));
        fs::write(&source, program).unwrap();
        let mut compiler = support::c_compiler();
        let output = compiler
            .args(["-std=c11", "-Wall", "-Werror", "-fsyntax-only", "-I"])
            .arg(root().join("include"))
            .arg(&source)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn the_python_program_works() {
    check("python", "hello.py");
}

/// "`tests/file.rs function`" in a page names a function that there is, and every page a page.
#[test]
fn the_tests_and_pages_that_are_named_exist() {
    let mut named = 0;
    let read =
        |path: PathBuf| fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    let pages: Vec<_> =
        fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path()).collect();
    let index = read(root().join("docs/README.md"));
    for page in pages.iter().filter(|page| page.extension().is_some_and(|ext| ext == "md")) {
        let text = read(page.clone());
        let at = page.file_name().unwrap().to_str().unwrap();
        assert!(
            at == "README.md" || index.contains(&format!("({at})")),
            "{at} is not in the index"
        );
        for span in text.split('`').skip(1).step_by(2) {
            let Some((file, function)) = span.split_once(' ') else { continue };
            let is_test = file.starts_with("tests/") || file.starts_with("src/");
            if is_test && file.ends_with(".rs") {
                let source = read(root().join(file));
                let there = [format!("fn {function}("), format!("fn {function}<")];
                assert!(there.iter().any(|fun| source.contains(fun)), "{at}: {span}");
                named += 1;
            }
        }
        for link in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            if !link.is_empty() && !link.contains("://") {
                assert!(page.parent().unwrap().join(link).exists(), "{at}: {link}");
            }
        }
    }
    assert!(named > 50, "{named}");
}

#[test]
fn the_numbers_are_those_of_the_sources() {
    let page = fs::read_to_string(root().join("README.md")).unwrap();
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let of = |key: &str| {
        let line = manifest.lines().find(|line| line.starts_with(key)).unwrap();
        line.split('"').nth(1).unwrap().to_owned()
    };
    assert!(page.contains(&format!("Rust {} or later", of("rust-version"))));
    assert!(page.contains(&format!("Version {}", of("version"))));
}
