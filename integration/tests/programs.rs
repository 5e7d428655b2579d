//! Ordinary programs run in the mount as on any file system, and what they leave is equal, and whole, at the other site.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use integration::cluster::{Cluster, Options};
use integration::site::{show, succeed};

fn git(directory: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    // Nothing of the user's own settings, and no matter who owns the directory.
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null").env("HOME", directory);
    command.args(["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "safe.directory=*"]);
    succeed(command.arg("-C").arg(directory).args(arguments))
}

#[test]
fn git_clones_commits_and_checks() {
    let cluster = Cluster::start(2, Options::default());
    let origin = cluster.directory().join("origin");
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
    let (a, b) = (&cluster.site(0).mountpoint, &cluster.site(1).mountpoint);
    git(a, &["clone", "-q", "--no-local", origin.to_str().unwrap(), "clone"]);
    cluster.assert_converges();
    for site in [a, b] {
        git(&site.join("clone"), &["fsck", "--full", "--strict"]);
        assert_eq!(git(&site.join("clone"), &["status", "--porcelain"]), "");
    }
    // The work goes on at the other site.
    fs::write(b.join("clone/new.txt"), "new").unwrap();
    git(&b.join("clone"), &["add", "."]);
    git(&b.join("clone"), &["commit", "-q", "-m", "from b"]);
    git(&b.join("clone"), &["gc", "-q"]);
    cluster.assert_converges();
    git(&a.join("clone"), &["fsck", "--full", "--strict"]);
    assert_eq!(git(&a.join("clone"), &["log", "-1", "--format=%s"]).trim(), "from b");
    assert_eq!(git(&a.join("clone"), &["status", "--porcelain"]), "");
}

/// Feeds a script to the `sqlite3` program; what it prints.
fn sqlite(database: &Path, script: &str) -> String {
    let mut command = Command::new("sqlite3");
    command.arg("-bail").arg(database).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("sqlite3 is needed (package sqlite3)");
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "sqlite3 {}: {}", database.display(), show(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn sqlite_in(mode: &str) {
    const TRANSACTIONS: usize = 300;
    let cluster = Cluster::start(2, Options::default());
    let database = cluster.site(0).path("data.db");
    let set = sqlite(&database, &format!("PRAGMA journal_mode={mode};"));
    assert_eq!(set.trim(), mode);
    let mut script = String::from("CREATE TABLE t(id INTEGER PRIMARY KEY, v BLOB); CREATE INDEX i ON t(v);\n");
    for number in 0..TRANSACTIONS {
        script += &format!("BEGIN; INSERT INTO t(v) VALUES(randomblob({})); ", 100 + number * 5);
        script += &format!("UPDATE t SET v=randomblob(50) WHERE id={}; COMMIT;\n", number / 2);
    }
    sqlite(&database, &script);
    // A rollback leaves the data as it was; a large one reaches the file before.
    sqlite(&database, "PRAGMA cache_size=10; BEGIN; UPDATE t SET v=randomblob(2000); ROLLBACK;");
    cluster.wait_level();
    let sum = "PRAGMA integrity_check; SELECT count(*), sum(length(v)), hex(max(v)) FROM t;";
    let here = sqlite(&database, sum);
    assert!(here.starts_with(&format!("ok\n{TRANSACTIONS}|")), "{here}");
    cluster.assert_converges();
    let there = sqlite(&cluster.site(1).path("data.db"), sum);
    assert_eq!(here, there);
    // The other site writes on.
    sqlite(&cluster.site(1).path("data.db"), "DELETE FROM t WHERE id % 2; VACUUM;");
    cluster.assert_converges();
    assert_eq!(sqlite(&database, sum), sqlite(&cluster.site(1).path("data.db"), sum));
}

#[test]
fn sqlite_with_a_rollback_journal() {
    sqlite_in("delete");
}

#[test]
fn sqlite_with_a_write_ahead_log() {
    sqlite_in("wal");
}

#[test]
fn cargo_builds_and_the_result_runs_at_the_other_site() {
    let cluster = Cluster::start(2, Options::default());
    let package = cluster.site(0).path("hello");
    fs::create_dir_all(package.join("src")).unwrap();
    let manifest = "[package]\nname = \"hello\"\nversion = \"0.1.0\"\nedition = \"2024\"\n[workspace]\n";
    fs::write(package.join("Cargo.toml"), manifest).unwrap();
    fs::write(package.join("src/lib.rs"), "pub fn text() -> String { \"hello\".repeat(2) }\n").unwrap();
    fs::write(package.join("src/main.rs"), "fn main() { println!(\"{}\", hello::text()); }\n").unwrap();
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
    fs::write(there.join("src/lib.rs"), "pub fn text() -> String { \"bye\".to_owned() }\n").unwrap();
    build(&there);
    cluster.assert_converges();
    assert_eq!(succeed(&mut Command::new(package.join("target/debug/hello"))).trim(), "bye");
}
