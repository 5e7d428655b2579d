//! A site's life with a real mount. Needs /dev/fuse and the right to mount; says so and does nothing where they are missing.
#![allow(clippy::unwrap_used)]

mod common;

use std::process::Command;

use common::{Site, can_mount, run, said, until};
use packaging::mounts;
use packaging::store_dir::Lock;
use rustix::process::Signal;

#[test]
fn a_site_is_mounted_answers_and_is_unmounted() {
    if !can_mount() {
        return;
    }
    let site = Site::new();
    site.mounted();
    let file = site.mountpoint().join("f");
    std::fs::write(&file, "kept").unwrap();
    let again = site.mount();
    assert_eq!(again.status.code(), Some(2));
    assert!(said(&again).contains("another daemon (pid "), "{}", said(&again));

    let status = run(&["status", "--json", site.mountpoint().to_str().unwrap()]);
    let report: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(report["site"], "one");
    assert_eq!(report["peers"], serde_json::json!([]));
    assert_eq!(run(&["wait", file.to_str().unwrap()]).status.code(), Some(0), "nobody is waited for");
    let inside = run(&["unmount", file.to_str().unwrap()]);
    assert!(said(&inside).contains("is no mountpoint, but inside the mount at"), "{}", said(&inside));

    assert_eq!(site.unmount().status.code(), Some(0));
    assert_eq!(Lock::holder(&site.store()), None, "the daemon has ended");
    assert!(!site.is_mounted() && !file.exists());
    site.mounted();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
}

#[test]
fn a_busy_mount_stays_and_its_users_are_named() {
    if !can_mount() {
        return;
    }
    let site = Site::new();
    let daemon = site.mounted();
    let mut user = Command::new("sleep").arg("600").current_dir(site.mountpoint()).spawn().unwrap();
    let refused = site.unmount();
    assert_eq!(refused.status.code(), Some(2));
    let line = format!("sleep (pid {}): works in {}", user.id(), site.mountpoint().display());
    assert!(said(&refused).contains(&line), "{}", said(&refused));
    assert!(site.is_mounted());

    // The first signal says who uses it, the second takes it away.
    let log = site.store().join("log/syncline.log");
    site.signal(daemon, Signal::TERM);
    until("the log names the user", || std::fs::read_to_string(&log).is_ok_and(|text| text.contains(&line)));
    assert!(site.is_mounted());
    site.signal(daemon, Signal::TERM);
    until("the daemon ends", || Lock::holder(&site.store()).is_none());
    assert!(!site.is_mounted());
    user.kill().unwrap();
    user.wait().unwrap();
}

#[test]
fn what_a_killed_daemon_left_is_cleared_away() {
    if !can_mount() {
        return;
    }
    let site = Site::new();
    let file = site.mountpoint().join("f");
    let daemon = site.mounted();
    std::fs::write(&file, "kept").unwrap();
    site.signal(daemon, Signal::KILL);
    until("the daemon is gone", || Lock::holder(&site.store()).is_none());
    until("the mount is stale", || std::fs::metadata(&file).is_err());
    assert!(site.is_mounted());
    let status = run(&["status", site.mountpoint().to_str().unwrap()]);
    assert_eq!(status.status.code(), Some(2));
    assert!(said(&status).contains("no daemon answers for the store"), "{}", said(&status));

    let daemon = site.mounted();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
    site.signal(daemon, Signal::KILL);
    until("the mount is stale", || std::fs::metadata(&file).is_err());
    assert_eq!(site.unmount().status.code(), Some(0));
    assert!(!site.is_mounted());
}

#[test]
fn a_daemon_ends_when_it_is_told_or_unmounted_by_others() {
    if !can_mount() {
        return;
    }
    let site = Site::new();
    let daemon = site.mounted();
    site.signal(daemon, Signal::INT);
    until("the daemon ends", || Lock::holder(&site.store()).is_none());
    assert!(!site.is_mounted());

    site.mounted();
    assert!(Command::new("umount").arg(site.mountpoint()).status().unwrap().success());
    until("the daemon ends", || Lock::holder(&site.store()).is_none());
    let log = std::fs::read_to_string(site.store().join("log/syncline.log")).unwrap();
    assert_eq!(log.matches("closed the store").count(), 2, "{log}");
}

#[test]
fn why_a_daemon_does_not_start_is_said() {
    if !can_mount() {
        return;
    }
    let site = Site::new();
    std::fs::write(site.mountpoint().join("mine"), "").unwrap();
    let output = site.mount();
    assert_eq!(output.status.code(), Some(2));
    assert!(said(&output).contains("is not empty"), "{}", said(&output));
    assert_eq!(Lock::holder(&site.store()), None);

    std::fs::remove_file(site.mountpoint().join("mine")).unwrap();
    let text = std::fs::read_to_string(site.config()).unwrap();
    std::fs::write(site.config(), text.replace("site = \"one\"", "site = \"two\"")).unwrap();
    let output = site.mount();
    assert!(said(&output).contains("the configuration says site `two`, but the site in"), "{}", said(&output));
}

#[test]
fn the_demonstration_finds_equal_trees_and_leaves_nothing() {
    if !can_mount() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let demo = Command::new(env!("CARGO_BIN_EXE_syncline"))
        .args(["demo", "--once"])
        .env("TMPDIR", directory.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&demo.stdout);
    assert_eq!(demo.status.code(), Some(0), "{text}{}", said(&demo));
    assert!(text.contains("tokyo has all of it") && text.contains("equal: "), "{text}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    let here = directory.path().canonicalize().unwrap();
    assert!(mounts::table().unwrap().iter().all(|mount| !mount.point.starts_with(&here)));
}
