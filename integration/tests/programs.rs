//! A programmer's programs run in the mount as on any file system, and what they leave is equal, and whole, at the other site.
//!
//! `SYNCLINE_GIT_ORIGIN` names a repository to clone instead of the small one made here.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use integration::cluster::{Cluster, Options};
use integration::site::{show, succeed};

fn git(directory: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    // Nothing of the user's own settings, and no matter who owns the directory.
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null").env("HOME", directory);
    // What only looks writes nothing: `status` would take the index's lock at one site, which the other sees a moment later.
    command.env("GIT_OPTIONAL_LOCKS", "0");
    command.args(["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "safe.directory=*"]);
    succeed(command.arg("-C").arg(directory).args(arguments))
}

/// Outside the mounts, with a commit a directory.
fn origin(place: &Path) -> PathBuf {
    if let Some(named) = std::env::var_os("SYNCLINE_GIT_ORIGIN") {
        return fs::canonicalize(named).unwrap();
    }
    let origin = place.join("origin");
    fs::create_dir(&origin).unwrap();
    git(&origin, &["init", "-q", "-b", "main"]);
    for directory in 0..30 {
        let path = origin.join(format!("d{directory}/sub"));
        fs::create_dir_all(&path).unwrap();
        for file in 0..50 {
            fs::write(path.join(format!("f{file}.txt")), format!("{directory} {file}\n").repeat(file * 7)).unwrap();
        }
        git(&origin, &["add", "."]);
        git(&origin, &["commit", "-q", "-m", "more"]);
    }
    origin
}

#[test]
fn git_clones_commits_packs_and_checks() {
    let cluster = Cluster::start(2, Options::default());
    let origin = origin(cluster.directory());
    let sites = [&cluster.site(0).mountpoint, &cluster.site(1).mountpoint];
    let [here, there] = sites.map(|site| site.join("clone"));
    let assert_sound = || {
        cluster.assert_converges();
        for clone in [&here, &there] {
            git(clone, &["fsck", "--full", "--strict"]);
            assert_eq!(git(clone, &["status", "--porcelain"]), "");
        }
    };
    git(sites[0], &["clone", "-q", "--no-local", origin.to_str().unwrap(), "clone"]);
    assert_sound();
    // Many loose objects and refs, then packed by gc, which maps the packs and removes what they replace.
    for number in 0..20 {
        git(&here, &["switch", "-q", "-c", &format!("topic/{number}")]);
        fs::write(here.join(format!("new-{number}.txt")), format!("{number}\n").repeat(1000)).unwrap();
        git(&here, &["add", "."]);
        git(&here, &["commit", "-q", "-m", "from a"]);
    }
    let tip = git(&here, &["rev-parse", "HEAD"]);
    git(&here, &["gc", "-q", "--aggressive", "--prune=now"]);
    assert_sound();
    assert!(git(&there, &["count-objects", "-v"]).starts_with("count: 0\n"), "gc left loose objects");
    assert_eq!(git(&there, &["rev-parse", "HEAD"]), tip);
    // The work goes on at the other site.
    fs::write(there.join("new.txt"), "new").unwrap();
    git(&there, &["add", "."]);
    git(&there, &["commit", "-q", "-m", "from b"]);
    git(&there, &["rebase", "-q", "--force-rebase", "HEAD~5"]);
    git(&there, &["gc", "-q"]);
    assert_sound();
    assert_eq!(git(&here, &["log", "-1", "--format=%s"]).trim(), "from b");
}

#[test]
fn cargo_builds_and_the_result_runs_at_the_other_site() {
    let cluster = Cluster::start(2, Options::default());
    let package = cluster.site(0).path("hello");
    // A library with a build script, and a program that depends on it.
    for directory in ["src", "text/src"] {
        fs::create_dir_all(package.join(directory)).unwrap();
    }
    let manifest = |name: &str| format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2024\"\n");
    let depends = "[dependencies]\ntext.path = \"text\"\n[workspace]\n";
    fs::write(package.join("Cargo.toml"), manifest("hello") + depends).unwrap();
    fs::write(package.join("text/Cargo.toml"), manifest("text")).unwrap();
    let script = "fn main() { let out = std::env::var(\"OUT_DIR\").unwrap(); std::fs::write(out + \"/word\", \"hello\").unwrap(); }\n";
    fs::write(package.join("text/build.rs"), script).unwrap();
    let text = "pub fn text() -> String { include_str!(concat!(env!(\"OUT_DIR\"), \"/word\")).repeat(2) }\n";
    fs::write(package.join("text/src/lib.rs"), text).unwrap();
    fs::write(package.join("src/main.rs"), "fn main() { println!(\"{}\", text::text()); }\n").unwrap();
    let build = |directory: &Path| {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        // The settings of the cargo that runs this test must not reach the one under test.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("CARGO_") && name != "CARGO_HOME") {
                command.env_remove(name);
            }
        }
        command.env_remove("RUSTFLAGS").args(["build", "--offline"]).current_dir(directory);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", show(&output));
    };
    build(&package);
    cluster.assert_converges();
    let there = cluster.site(1).path("hello");
    assert_eq!(succeed(&mut Command::new(there.join("target/debug/hello"))).trim(), "hellohello");
    // A changed source, built at the other site, over what the first site left.
    fs::write(there.join("text/src/lib.rs"), "pub fn text() -> String { \"bye\".to_owned() }\n").unwrap();
    build(&there);
    cluster.assert_converges();
    assert_eq!(succeed(&mut Command::new(package.join("target/debug/hello"))).trim(), "bye");
}
