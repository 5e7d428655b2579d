//! The harness cleans up: after a test that passes, one that panics, and one whose process is killed.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use integration::cluster::{Cluster, Options};
use integration::outcome::eventually;

/// Tells the killed test where to leave word.
const CHILD_VARIABLE: &str = "SYNCLINE_HARNESS_CHILD";

/// Nothing of a cluster in `directory` with a daemon `pid` is left.
fn assert_gone(directory: &Path, pid: u32) {
    eventually(Duration::from_secs(30), "everything is cleaned up", || {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let exists = directory.exists();
        // A zombie whose parent was killed waits for init.
        let running = fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        let mounted = mounts.contains(directory.to_str().unwrap());
        if exists || running || mounted {
            return Err(format!("directory exists: {exists}, daemon runs: {running}, mounted: {mounted}"));
        }
        Ok(())
    });
}

#[test]
fn dropping_a_cluster_leaves_nothing() {
    let cluster = Cluster::start(1, Options::default());
    fs::write(cluster.site(0).path("file"), "x").unwrap();
    let (directory, pid) = (cluster.directory().to_owned(), cluster.site(0).pid().unwrap());
    drop(cluster);
    assert_gone(&directory, pid);
}

#[test]
fn a_panic_leaves_nothing() {
    let (word, heard) = std::sync::mpsc::channel();
    let result = std::thread::spawn(move || {
        let cluster = Cluster::start(1, Options::default());
        word.send((cluster.directory().to_owned(), cluster.site(0).pid().unwrap())).unwrap();
        let open = fs::File::create(cluster.site(0).path("open")).unwrap();
        assert!(cluster.sites().is_empty(), "this panic is meant, with a file open: {open:?}");
    })
    .join();
    assert!(result.is_err());
    let (directory, pid) = heard.recv().unwrap();
    assert_gone(&directory, pid);
}

#[test]
fn a_killed_process_leaves_nothing() {
    let word = tempfile::tempdir().unwrap();
    let word = word.path().join("word");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "the_process_that_is_killed", "--nocapture"]).env(CHILD_VARIABLE, &word);
    let mut child = command.spawn().unwrap();
    let text = eventually(Duration::from_secs(120), "the other process has a cluster", || {
        fs::read_to_string(&word).ok().filter(|text| text.ends_with('\n')).ok_or_else(|| "no word".to_owned())
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let (pid, directory) = text.trim_end().split_once(' ').unwrap();
    assert_gone(Path::new(directory), pid.parse().unwrap());
}

/// Does nothing unless [`a_killed_process_leaves_nothing`] runs it.
#[test]
fn the_process_that_is_killed() {
    let Some(word) = std::env::var_os(CHILD_VARIABLE).map(PathBuf::from) else { return };
    let cluster = Cluster::start(1, Options::default());
    let text = format!("{} {}\n", cluster.site(0).pid().unwrap(), cluster.directory().display());
    fs::write(word, text).unwrap();
    std::thread::sleep(Duration::from_secs(300));
    panic!("nobody killed this process");
}
