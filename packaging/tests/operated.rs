//! What an operator asks of two sites with real mounts: waiting, limits, metrics, policy. Needs what the tests of a mounted site need.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use common::{LIMIT, Site, can_mount, free_port, run, said, until};

/// Two mounted sites, level with each other. The second is dropped first: the first stays to be asked.
fn pair() -> (Site, Site) {
    let one = Site::new();
    one.mounted();
    let two = Site::joined(&one, "two");
    two.mounted();
    assert_eq!(code(&["wait", path(&one.mountpoint()), "--timeout", "60s"]), 0);
    (one, two)
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn code(arguments: &[&str]) -> i32 {
    let output = run(arguments);
    output.status.code().unwrap_or_else(|| panic!("{output:?}"))
}

#[test]
fn waiting_is_for_a_path_a_peer_and_a_lane_and_tells_a_late_answer_from_an_error() {
    if !can_mount() {
        return;
    }
    let (one, two) = pair();
    let root = one.mountpoint();
    std::fs::create_dir(root.join("quiet")).unwrap();
    std::fs::write(root.join("quiet/f"), "x").unwrap();
    assert_eq!(code(&["wait", path(&root.join("quiet")), "--timeout", "60s"]), 0);
    assert_eq!(std::fs::read(two.mountpoint().join("quiet/f")).unwrap(), b"x");

    // While the other site is away, only what was changed since is waited for in vain.
    assert_eq!(two.unmount().status.code(), Some(0));
    std::fs::write(root.join("later"), vec![7; 100_000]).unwrap();
    assert_eq!(code(&["wait", path(&root.join("quiet")), "--timeout", "0"]), 0, "nothing was changed there");
    assert_eq!(code(&["wait", path(&root.join("later")), "--lane", "high", "--timeout", "0"]), 0);
    let late = run(&["wait", path(&root.join("later")), "--peer", "two", "--timeout", "1200ms", "--progress"]);
    assert_eq!(late.status.code(), Some(1), "{late:?}");
    let lines = said(&late);
    assert!(lines.starts_with("two lacks ") && lines.contains("records"), "{lines}");
    assert!(lines.contains("syncline: not level after 1200ms:\n  two lacks "), "{lines}");
    let quiet = run(&["wait", path(&root), "--timeout", "100ms", "--quiet"]);
    assert_eq!((quiet.status.code(), said(&quiet)), (Some(1), String::new()));

    for (arguments, expected) in [
        (["wait", path(&root), "--peer", "nobody"], "no other site named \"nobody\""),
        (["wait", path(&root.join("absent")), "--timeout", "0"], "No such file"),
    ] {
        let failed = run(&arguments);
        assert_eq!(failed.status.code(), Some(2), "{failed:?}");
        assert!(said(&failed).contains(expected), "{}", said(&failed));
    }

    two.mounted();
    assert_eq!(code(&["wait", path(&root.join("later")), "--timeout", "60s"]), 0);
    assert_eq!(std::fs::read(two.mountpoint().join("later")).unwrap(), vec![7; 100_000]);
}

#[test]
fn a_wait_sees_through_a_bind_mount_and_a_link() {
    if !can_mount() {
        return;
    }
    let (one, two) = pair();
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(one.mountpoint().join("a b/c")).unwrap();
    let mut bind = std::process::Command::new("mount");
    bind.arg("--bind").arg(one.mountpoint().join("a b")).arg(elsewhere.path());
    assert!(bind.status().unwrap().success());
    std::fs::write(elsewhere.path().join("c/f"), "x").unwrap();
    let waited = code(&["wait", path(&elsewhere.path().join("c")), "--timeout", "60s"]);
    packaging::mounts::detach(elsewhere.path()).unwrap();
    assert_eq!(waited, 0);
    assert_eq!(std::fs::read(two.mountpoint().join("a b/c/f")).unwrap(), b"x");
    std::os::unix::fs::symlink(one.mountpoint().join("a b"), elsewhere.path().join("link")).unwrap();
    assert_eq!(code(&["wait", path(&elsewhere.path().join("link")), "--timeout", "60s"]), 0);
}

#[test]
fn limits_and_pauses_are_changed_while_the_daemon_runs_and_shown() {
    if !can_mount() {
        return;
    }
    let (one, _two) = pair();
    let mount = one.mountpoint();
    std::fs::write(mount.join("f"), "x").unwrap();
    let mount = path(&mount);
    let limited = run(&["limit", mount, "--peer", "two", "--lane", "bulk", "200Mbit"]);
    assert_eq!(limited.status.code(), Some(0), "{limited:?}");
    let shown = String::from_utf8(limited.stdout).unwrap();
    assert_eq!(shown, "peer  lane   limit\ntwo   bulk  25MB/s\n");
    assert_eq!(code(&["pause", mount, "--lane", "normal"]), 0);

    let shown = run(&["limit", mount, "--show", "--json"]);
    let flows: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    let of = |lane: &str| flows.as_array().unwrap().iter().find(|flow| flow["lane"] == lane).unwrap().clone();
    assert_eq!(
        (of("bulk")["limit_bytes_per_second"].clone(), of("bulk")["paused"].clone()),
        (25_000_000.into(), false.into())
    );
    assert_eq!(
        (of("normal")["limit_bytes_per_second"].clone(), of("normal")["paused"].clone()),
        (().into(), true.into())
    );
    let report = one.status();
    let lanes = report["peers"][0]["lanes"].as_array().unwrap().clone();
    let normal = lanes.iter().find(|lane| lane["lane"] == "normal").unwrap();
    assert_eq!(normal["paused"], true);

    assert_eq!(code(&["resume", mount]), 0);
    assert_eq!(code(&["limit", mount, "none"]), 0);
    for wrong in
        [&["limit", mount][..], &["limit", mount, "200"], &["limit", mount, "0MB"], &["pause", mount, "--lane", "x"]]
    {
        assert_eq!(code(wrong), 64, "{wrong:?}");
    }
    let unknown = run(&["pause", mount, "--peer", "nobody"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(said(&unknown).contains("nobody"), "{}", said(&unknown));
}

#[test]
fn metrics_are_read_where_the_configuration_says() {
    if !can_mount() {
        return;
    }
    let one = Site::new();
    let address = format!("127.0.0.1:{}", free_port());
    one.configure(&format!("metrics = \"{address}\""));
    one.mounted();
    let two = Site::joined(&one, "two");
    two.mounted();
    std::fs::write(one.mountpoint().join("f"), "x").unwrap();
    let scrape = || {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let lines = [
        "syncline_peer_connected{peer=\"two\"} 1",
        "syncline_peer_level{peer=\"two\"} 1",
        "syncline_peer_behind_records{peer=\"two\",lane=\"normal\"} 0.0",
        "syncline_stopped 0",
    ];
    until("the metrics say that the peer is level", || {
        let answer = scrape();
        lines.iter().all(|line| answer.lines().any(|found| found == *line))
    });
    assert_eq!(one.unmount().status.code(), Some(0));
    assert!(TcpStream::connect(&address).is_err());
}

#[test]
fn a_policy_is_set_shown_inherited_and_removed_as_by_setfattr() {
    if !can_mount() {
        return;
    }
    let one = Site::new();
    one.mounted();
    let (dir, below) = (one.mountpoint().join("d"), one.mountpoint().join("d/below"));
    std::fs::create_dir_all(&below).unwrap();
    std::fs::write(below.join("f"), "").unwrap();
    let policy = |arguments: &[&str]| run(&[&["policy"], arguments].concat());
    let text = |output: std::process::Output| String::from_utf8(output.stdout).unwrap();

    let set = policy(&["set", path(&dir), "priority=bulk", "timeout=3s"]);
    assert_eq!(set.status.code(), Some(0), "{set:?}");
    let line = "mode=async acks=all on-loss=degrade timeout=3s priority=bulk compress=auto writer=any";
    assert_eq!(text(set), format!("{}: {line}\n", path(&dir)));
    let mut value = [0; 16];
    let len = rustix::fs::getxattr(&dir, "user.syncline.priority", &mut value[..]).unwrap();
    assert_eq!(&value[..len], b"bulk");

    let shown = text(policy(&["get", path(&below.join("f"))]));
    assert!(shown.contains(&format!("priority=bulk    from {}\n", path(&dir))), "{shown}");
    assert!(shown.contains("mode=async       default\n"), "{shown}");
    assert_eq!(text(policy(&["get", path(&below), "priority", "user.syncline.mode"])), "bulk\nasync\n");
    let json: serde_json::Value = serde_json::from_str(&text(policy(&["get", path(&below), "--json"]))).unwrap();
    assert_eq!(json["policies"][0]["timeout"], serde_json::json!({ "value": "3s", "from": path(&dir) }));

    // Nothing is changed where anything is wrong, and what would be right is said.
    for (settings, code, expected) in [
        (&["compress=on", "priority=low"][..], 64, "it can be high, normal or bulk"),
        (&["compress=on", "prio=low"], 64, "the keys are mode, acks"),
        (&["compress=on", "compress=off"], 64, "compress is given twice"),
        (&["compress=on", "writer=nobody"], 2, "there is no such site"),
        (&[], 64, "KEY=VALUE"),
    ] {
        let refused = policy(&[&["set", path(&dir)], settings].concat());
        assert_eq!(refused.status.code(), Some(code), "{refused:?}");
        assert!(said(&refused).contains(expected), "{}", said(&refused));
        assert_eq!(text(policy(&["get", path(&dir), "compress"])), "auto\n");
    }
    let file = policy(&["set", path(&below.join("f")), "priority=high"]);
    assert_eq!((file.status.code(), said(&file).contains("is no directory")), (Some(2), true), "{file:?}");
    let elsewhere = policy(&["get", "/proc"]);
    assert_eq!((elsewhere.status.code(), said(&elsewhere).contains("not on a Syncline mount")), (Some(2), true));

    let unset = policy(&["unset", path(&dir), "priority", "acks"]);
    assert_eq!(unset.status.code(), Some(0), "{unset:?}");
    let unset = text(unset);
    assert!(unset.starts_with(&format!("acks was not set on {}\n", path(&dir))), "{unset}");
    assert!(unset.contains("priority=normal"), "{unset}");
}
