//! The command line's promises: exit codes (0 done, 1 the answer is no, 2 failed, 64 wrong use) and messages that say what to do.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use integration::binary;
use integration::cluster::{Cluster, Options};
use integration::site::show;

fn syncline(arguments: &[&str]) -> Output {
    Command::new(binary::syncline()).args(arguments).output().unwrap()
}

/// Asserts the exit code, and that the message names all `words`.
#[track_caller]
fn assert_refused(output: &Output, code: i32, words: &[&str]) {
    assert_eq!(output.status.code(), Some(code), "{}", show(output));
    let message = String::from_utf8_lossy(&output.stderr);
    for word in words {
        assert!(message.contains(word), "the message does not name {word:?}: {}", show(output));
    }
    assert!(!message.contains("panicked"), "{}", show(output));
}

#[test]
fn wrong_use_is_64_and_help_is_0() {
    for wrong in [&["no-such-command"][..], &["mount"], &["init", "--no-such-option"], &["wait", "--timeout", "soon"]] {
        assert_eq!(syncline(wrong).status.code(), Some(64), "{wrong:?}: {}", show(&syncline(wrong)));
    }
    let help = syncline(&["--help"]);
    assert_eq!(help.status.code(), Some(0), "{}", show(&help));
    assert!(String::from_utf8_lossy(&help.stdout).contains("mount"), "{}", show(&help));
    assert_eq!(syncline(&["--version"]).status.code(), Some(0));
}

#[test]
fn a_wrong_value_in_the_configuration_names_its_line() {
    let cluster = Cluster::prepare(1, Options::default());
    let site = cluster.site(0);
    site.init();
    let right = fs::read_to_string(&site.config).unwrap();
    let line = right.lines().position(|line| line.starts_with("listen")).expect("a line for listen") + 1;
    let wrong = |replacement: &str| {
        let lines = right.lines().map(|line| if line.starts_with("listen") { replacement } else { line });
        fs::write(&site.config, lines.collect::<Vec<_>>().join("\n") + "\n").unwrap();
        let (config, mountpoint) = (site.config.to_str().unwrap(), site.mountpoint.to_str().unwrap());
        syncline(&["mount", "--config", config, mountpoint, "--foreground"])
    };
    let place = format!("{}:{line}", site.config.display());
    assert_refused(&wrong("listen = \"nowhere\""), 2, &[&place, "listen", "nowhere"]);
    assert_refused(&wrong("listten = \"127.0.0.1:1\""), 2, &[&place, "listten"]);
    assert_refused(&wrong("listen = "), 2, &[&place]);
}

#[test]
fn a_missing_configuration_is_named() {
    let output = syncline(&["mount", "--config", "/no/such/file.toml", "/tmp", "--foreground"]);
    assert_refused(&output, 2, &["/no/such/file.toml"]);
}

fn join(cluster: &Cluster, token: &str) -> Output {
    let mut command = Command::new(binary::syncline());
    cluster.site(1).identity(command.args(["join", token])).output().unwrap()
}

#[test]
fn a_token_works_once() {
    let mut cluster = Cluster::prepare(2, Options::default());
    cluster.site(0).init();
    cluster.start_site(0);
    let token = cluster.site(0).invite();
    let first = join(&cluster, &token);
    assert_eq!(first.status.code(), Some(0), "{}", show(&first));
    let site = cluster.site(1);
    for leftover in [&site.store, &site.config] {
        let _ = if leftover.is_dir() { fs::remove_dir_all(leftover) } else { fs::remove_file(leftover) };
    }
    assert_refused(&join(&cluster, &token), 2, &["token"]);
    assert_refused(&join(&cluster, "not-a-token"), 64, &["token"]);
    // One letter of a good token.
    let token = cluster.site(0).invite();
    let last = if token.ends_with('A') { "B" } else { "A" };
    let spoilt = join(&cluster, &format!("{}{last}", &token[..token.len() - 1]));
    assert!(matches!(spoilt.status.code(), Some(2 | 64)), "{}", show(&spoilt));
}

#[test]
fn init_and_join_refuse_to_overwrite() {
    let mut cluster = Cluster::prepare(2, Options::default());
    cluster.site(0).init();
    let before = fs::read(&cluster.site(0).config).unwrap();
    let mut again = Command::new(binary::syncline());
    let output = cluster.site(0).identity(again.args(["init", "--volume", "other"])).output().unwrap();
    assert_refused(&output, 2, &[]);
    assert_eq!(fs::read(&cluster.site(0).config).unwrap(), before);
    cluster.start_site(0);
    fs::create_dir_all(&cluster.site(1).store).unwrap();
    fs::write(cluster.site(1).store.join("precious"), "data").unwrap();
    let token = cluster.site(0).invite();
    assert_refused(&join(&cluster, &token), 2, &[cluster.site(1).store.to_str().unwrap()]);
    assert_eq!(fs::read(cluster.site(1).store.join("precious")).unwrap(), b"data");
}

#[test]
fn a_second_daemon_on_a_store_is_refused() {
    let cluster = Cluster::start(1, Options::default());
    let site = cluster.site(0);
    let elsewhere = cluster.directory().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let config = site.config.to_str().unwrap();
    let output = syncline(&["mount", "--config", config, elsewhere.to_str().unwrap(), "--foreground"]);
    assert_refused(&output, 2, &[site.store.to_str().unwrap()]);
    // The first one doesn't feel it.
    fs::write(site.path("alive"), "yes").unwrap();
    assert_eq!(fs::read(site.path("alive")).unwrap(), b"yes");
}

/// Scripts read these names.
#[test]
fn status_as_json_has_the_promised_fields() {
    let cluster = Cluster::start(2, Options::default());
    let output = cluster.site(0).cli(&["status", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", show(&output));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for field in ["volume", "site", "mountpoint", "mode", "pid", "peers"] {
        assert!(json.get(field).is_some(), "no {field}: {json}");
    }
    let peer = &json["peers"][0];
    let numbers = ["lag_seconds", "behind_records", "behind_bytes", "rate_bytes_per_second", "eta_seconds"];
    for field in ["name", "site", "address", "connected", "error", "lanes"].iter().chain(&numbers) {
        assert!(peer.get(field).is_some(), "no {field} of the peer: {json}");
    }
    assert_eq!((json["volume"].as_str(), json["site"].as_str()), (Some("test"), Some("a")));
    assert_eq!(peer["name"].as_str(), Some("b"));
    let people = cluster.site(0).cli(&["status"]);
    assert_eq!(people.status.code(), Some(0), "{}", show(&people));
}

#[test]
fn commands_on_what_is_no_mount_say_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    for command in [&["status", path][..], &["status", path, "--json"], &["wait", path], &["unmount", path]] {
        assert_refused(&syncline(command), 2, &[path]);
    }
}

#[test]
fn wait_says_no_in_time_when_the_peer_is_away() {
    let mut cluster = Cluster::start(2, Options::default());
    cluster.site_mut(1).stop();
    fs::write(cluster.site(0).path("file"), "x").unwrap();
    let path = cluster.site(0).mountpoint.to_str().unwrap().to_owned();
    let start = std::time::Instant::now();
    assert_refused(&syncline(&["wait", &path, "--timeout", "1s"]), 1, &["b"]);
    assert!(start.elapsed() < std::time::Duration::from_secs(20), "{:?}", start.elapsed());
    assert_eq!(syncline(&["wait", &path, "--peer", "nobody", "--timeout", "1s"]).status.code(), Some(2));
    cluster.start_site(1);
    assert_eq!(syncline(&["wait", &path, "--peer", "b", "--timeout", "60s"]).status.code(), Some(0));
}

#[test]
fn mount_in_the_background_answers_when_it_returns() {
    let cluster = Cluster::prepare(1, Options::default());
    let site = cluster.site(0);
    site.init();
    let (config, mountpoint) = (site.config.to_str().unwrap(), site.mountpoint.to_str().unwrap());
    integration::reaper::note(integration::reaper::Debris::Mount(&site.mountpoint));
    let output = syncline(&["mount", "--config", config, mountpoint]);
    let mounted = integration::site::is_mounted(&site.mountpoint);
    let wrote = fs::write(site.path("file"), "x");
    if mounted {
        integration::reaper::note(integration::reaper::Debris::Group(site.status().pid));
    }
    let unmounted = syncline(&["unmount", mountpoint]);
    integration::site::unmount_dead(&site.mountpoint);
    assert_eq!(output.status.code(), Some(0), "{}", show(&output));
    assert!(mounted && wrote.is_ok(), "{wrote:?}");
    assert_eq!(unmounted.status.code(), Some(0), "{}", show(&unmounted));
    assert!(!Path::new(&site.path("file")).exists());
}

#[test]
fn demo_runs_once() {
    let output = syncline(&["demo", "--once"]);
    assert_eq!(output.status.code(), Some(0), "{}", show(&output));
}
