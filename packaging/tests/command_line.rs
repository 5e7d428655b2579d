//! The command as scripts see it: exit codes, and that nothing is made where something is refused.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

fn syncline(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_syncline")).args(arguments).output().unwrap()
}

/// The exit code and what was said on standard error.
fn fate(arguments: &[&str]) -> (i32, String) {
    let output = syncline(arguments);
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn entries(directory: &Path) -> usize {
    std::fs::read_dir(directory).unwrap().count()
}

#[test]
fn help_and_version_are_no_mistakes() {
    for arguments in
        [&["--help"][..], &["--version"], &["mount", "--help"], &["help", "wait"], &["policy", "set", "--help"]]
    {
        let output = syncline(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn wrong_use_is_64() {
    for arguments in [
        &[][..],
        &["dance"],
        &["mount", "/mnt"],
        &["mount", "--config", "f"],
        &["wait", "--timeout", "10"],
        &["wait", "--lane", "fast"],
        &["wait", "--quiet", "--progress"],
        &["policy"],
        &["policy", "get"],
        &["policy", "get", "/proc", "speed"],
        &["policy", "set", "/proc"],
        &["policy", "set", "/proc", "mode"],
        &["policy", "set", "/proc", "mode=maybe"],
        &["policy", "set", "/proc", "mode=sync", "mode=async"],
        &["policy", "unset", "/proc"],
        &["limit", "/proc"],
        &["limit", "/proc", "200"],
        &["limit", "/proc", "--show", "1MB"],
        &["pause", "/proc", "--lane", "fast"],
        &[
            "init",
            "--config",
            "/nonexistent/f",
            "--volume",
            "a b",
            "--site",
            "s",
            "--store",
            "/nonexistent/s",
            "--listen",
            "127.0.0.1:1",
        ],
        &[
            "init",
            "--config",
            "/nonexistent/f",
            "--volume",
            "v",
            "--site",
            "s",
            "--store",
            "/nonexistent/s",
            "--listen",
            "localhost",
        ],
        &[
            "init",
            "--config",
            "/nonexistent/f",
            "--volume",
            "v",
            "--site",
            "s",
            "--store",
            "/nonexistent/s",
            "--listen",
            "0.0.0.0:7400",
        ],
        &[
            "init",
            "--config",
            "/nonexistent/s/f",
            "--volume",
            "v",
            "--site",
            "s",
            "--store",
            "/nonexistent/s",
            "--listen",
            "127.0.0.1:1",
        ],
        &[
            "join",
            "no-token",
            "--config",
            "/nonexistent/f",
            "--site",
            "s",
            "--store",
            "/nonexistent/s",
            "--listen",
            "127.0.0.1:1",
        ],
    ] {
        let (code, said) = fate(arguments);
        assert_eq!(code, 64, "{arguments:?}: {said}");
    }
    assert!(!Path::new("/nonexistent").exists());
}

#[test]
fn a_wildcard_address_is_refused_with_what_to_do() {
    let (_, said) = fate(&[
        "init",
        "--config",
        "/nonexistent/f",
        "--volume",
        "v",
        "--site",
        "s",
        "--store",
        "/nonexistent/s",
        "--listen",
        "0.0.0.0:7400",
    ]);
    assert!(said.contains("--advertise: 0.0.0.0:7400 is every address of this host"), "{said}");
    assert!(said.contains("gpu1.example.org:7400"), "{said}");
}

#[test]
fn what_fails_is_2_and_named() {
    for (arguments, expected) in [
        (&["status", "/proc"][..], "/proc is not on a Syncline mount"),
        (&["wait", "/proc"], "/proc is not on a Syncline mount"),
        (&["policy", "get", "/proc"], "/proc is not on a Syncline mount"),
        (&["policy", "set", "/proc", "mode=sync"], "/proc is not on a Syncline mount"),
        (&["limit", "/proc", "1MB"], "/proc is not on a Syncline mount"),
        (&["pause", "/proc"], "/proc is not on a Syncline mount"),
        (&["resume", "/proc"], "/proc is not on a Syncline mount"),
        (&["unmount", "/nonexistent"], "/nonexistent: No such file"),
        (&["mount", "--config", "/nonexistent/f", "/mnt"], "cannot read the configuration /nonexistent/f"),
        (&["invite", "--config", "/nonexistent/f"], "cannot read the configuration /nonexistent/f"),
    ] {
        let (code, said) = fate(arguments);
        assert_eq!(code, 2, "{arguments:?}: {said}");
        assert!(said.contains(expected), "{arguments:?}: {said}");
    }
}

#[test]
fn nothing_is_made_where_the_configuration_or_the_store_is_in_the_way() {
    let directory = tempfile::tempdir().unwrap();
    let (config, store) = (directory.path().join("f"), directory.path().join("s"));
    let arguments = [
        "init",
        "--config",
        config.to_str().unwrap(),
        "--volume",
        "v",
        "--site",
        "s",
        "--store",
        store.to_str().unwrap(),
        "--listen",
        "127.0.0.1:7400",
    ];
    std::fs::write(&config, "mine").unwrap();
    let (code, said) = fate(&arguments);
    assert_eq!(code, 2);
    assert!(said.contains("exists and is left as it is"), "{said}");
    assert!(!store.exists());
    assert_eq!(std::fs::read_to_string(&config).unwrap(), "mine");

    std::fs::remove_file(&config).unwrap();
    std::fs::create_dir(&store).unwrap();
    std::fs::write(store.join("x"), "mine").unwrap();
    let (code, said) = fate(&arguments);
    assert_eq!(code, 2);
    assert!(said.contains("is not empty"), "{said}");
    assert!(!config.exists());
    assert_eq!(entries(&store), 1);
}

#[test]
fn a_directory_that_is_no_store_is_refused_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (config, store, mountpoint) =
        (directory.path().join("f"), directory.path().join("s"), directory.path().join("m"));
    std::fs::create_dir(&store).unwrap();
    std::fs::create_dir(&mountpoint).unwrap();
    let text = format!("volume='v'\nsite='s'\nstore='{}'\nlisten='127.0.0.1:7400'\n", store.display());
    std::fs::write(&config, text).unwrap();
    for foreground in [&[][..], &["--foreground"]] {
        let mut arguments = vec!["mount", "--config", config.to_str().unwrap(), mountpoint.to_str().unwrap()];
        arguments.extend(foreground);
        let (code, said) = fate(&arguments);
        assert_eq!(code, 2);
        assert!(said.contains("there is no site in"), "{said}");
        assert_eq!(entries(&store), 0);
    }
    let (code, said) = fate(&["invite", "--config", config.to_str().unwrap()]);
    assert_eq!(code, 2);
    assert!(said.contains("no daemon answers for the store"), "{said}");
}

#[test]
fn a_wrong_configuration_is_refused_with_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("f.toml");
    std::fs::write(&config, "volume='v'\nsite='s'\nstore='/s'\nlisten='127.0.0.1:7400'\n[log]\nlevle='info'\n")
        .unwrap();
    let (code, said) = fate(&["mount", "--config", config.to_str().unwrap(), "/mnt"]);
    assert_eq!(code, 2);
    assert!(said.ends_with("f.toml:6:1: unknown key `levle`; did you mean `level`?\n"), "{said}");
}
