//! The rules of the workspace as a test: which crate may use which, who alone may use a library, how long files may be.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

/// From the top: each may use those after it.
const LAYERS: [&str; 5] = ["integration", "packaging", "replicator", "fs", "proto"];
/// Libraries with one place each: name in code, paths that may name it.
const PLACES: [(&str, &[&str]); 3] = [
    ("fuser", &["fs/src/fuse/"]),
    ("redb", &["fs/src/store/"]),
    ("tonic", &["replicator/src/transport/", "proto/src/grpc.rs"]),
];
/// What `proto`, which is pure, must not touch.
const IMPURE: [&str; 7] =
    ["std::fs", "std::net", "std::thread", "SystemTime::now", "Instant::now", "rand::", "std::env"];
/// Directories at the top, besides hidden ones and what git ignores.
const TOP: [&str; 6] = ["docs", "fs", "integration", "packaging", "proto", "replicator"];
/// Longer than this is two concepts in one file. Aim for under 400.
const MAX_LINES: usize = 600;
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The Rust sources below `directory`, by their paths from the root.
fn sources(directory: &str) -> Vec<(String, String)> {
    let (root, mut pending, mut found) = (root(), vec![root().join(directory)], Vec::new());
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            let skipped = path.file_name().is_some_and(|name| name == "target");
            let children = fs::read_dir(&path).unwrap().map(|child| child.unwrap().path());
            pending.extend(children.filter(|_| !skipped));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            found.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
    assert!(!found.is_empty(), "no sources below {directory}");
    found
}

fn all_sources() -> Vec<(String, String)> {
    LAYERS.iter().flat_map(|layer| sources(layer)).collect()
}

/// The line without its comment and without what stands in quotes: a name there is no use.
fn code(line: &str) -> String {
    let line = line.split("//").next().unwrap_or_default();
    line.split('"').step_by(2).collect()
}

fn uses(line: &str, word: &str) -> bool {
    let code = code(line);
    let boundary = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
    code.match_indices(word)
        .any(|(at, _)| boundary(code[..at].chars().next_back()) && boundary(code[at + word.len()..].chars().next()))
}

fn dependencies(layer: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join(layer).join("Cargo.toml")).unwrap();
    let mut section = String::new();
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
        } else if section.ends_with("dependencies") {
            let name: String = line.chars().take_while(|c| c.is_alphanumeric() || "-_".contains(*c)).collect();
            found.push(name);
        }
    }
    found.retain(|name| !name.is_empty());
    assert!(!found.is_empty(), "no dependencies found in {layer}/Cargo.toml");
    found
}

#[test]
fn crates_use_only_what_is_below_them() {
    for (height, layer) in LAYERS.iter().enumerate() {
        for dependency in dependencies(layer) {
            let wrong = LAYERS[..=height].contains(&dependency.as_str());
            assert!(!wrong, "{layer} must not use {dependency}: it is not below");
        }
    }
}

#[test]
fn libraries_stay_in_their_places() {
    for (file, text) in all_sources() {
        for (library, places) in PLACES {
            if places.iter().any(|place| file.starts_with(place)) || file == "integration/tests/layering.rs" {
                continue;
            }
            for (number, line) in text.lines().enumerate() {
                let found = uses(line, library) && (line.contains("use ") || line.contains("::"));
                assert!(!found, "{file}:{}: {library} belongs into {}: {line}", number + 1, places[0]);
            }
        }
    }
    let users = |library: &str| -> Vec<&str> {
        LAYERS.into_iter().filter(|layer| dependencies(layer).iter().any(|name| name == library)).collect()
    };
    assert_eq!(users("fuser"), ["fs"]);
    assert_eq!(users("redb"), ["fs"]);
    // The stubs in `proto`, behind a feature, need tonic's types; only the replicator turns the feature on.
    assert_eq!(users("tonic"), ["replicator", "proto"]);
    for layer in LAYERS {
        let manifest = fs::read_to_string(root().join(layer).join("Cargo.toml")).unwrap();
        let grpc = manifest.lines().any(|line| line.starts_with("proto") && line.contains("grpc"));
        assert_eq!(grpc, layer == "replicator", "{layer}/Cargo.toml: the feature grpc of proto");
    }
}

#[test]
fn proto_is_pure() {
    for (file, text) in sources("proto/src") {
        if file.ends_with("_tests.rs") {
            continue;
        }
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        for (number, line) in text.lines().enumerate() {
            for word in IMPURE {
                assert!(!code(line).contains(word), "{file}:{}: {word} in proto, which is pure: {line}", number + 1);
            }
        }
    }
}

#[test]
fn files_are_short_and_finished() {
    for (file, text) in all_sources() {
        let lines = text.lines().count();
        assert!(lines <= MAX_LINES, "{file} has {lines} lines, more than {MAX_LINES}: split it at its second concept");
        if file == "integration/tests/layering.rs" {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            for marker in ["todo!", "unimplemented!", "dbg!"] {
                assert!(!code(line).contains(marker), "{file}:{}: {marker}: {line}", number + 1);
            }
            for marker in ["TODO", "FIXME", "XXX"] {
                assert!(!line.contains(marker), "{file}:{}: {marker}: {line}", number + 1);
            }
        }
    }
}

#[test]
fn the_top_is_tidy() {
    let ignored = fs::read_to_string(root().join(".gitignore")).unwrap();
    let ignored: Vec<&str> = ignored.lines().map(|line| line.trim_matches('/')).collect();
    for child in fs::read_dir(root()).unwrap() {
        let child = child.unwrap();
        let name = child.file_name().into_string().unwrap();
        if child.file_type().unwrap().is_dir() && !name.starts_with('.') && !ignored.contains(&name.as_str()) {
            assert!(TOP.contains(&name.as_str()), "the directory {name} at the top belongs into one of {TOP:?}");
        }
    }
}

#[test]
fn the_checks_can_fail() {
    assert!(uses("use fuser::Filesystem;", "fuser"));
    assert!(uses("    let x = redb::Database::open(p)?;", "redb"));
    assert!(!uses("// use fuser::Filesystem;", "fuser"));
    assert!(!uses("let fuser_like = \"fuser\";", "fuser"));
    assert!(!uses("use confuser::x;", "fuser"));
}
