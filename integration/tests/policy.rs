//! Policies are set, changed, inherited and removed while programs write: no operation fails, and the sites end up equal.
//!
//! `SYNCLINE_SEED` replays a run, `SYNCLINE_POLICY_S` sets for how long (default 10).
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use integration::cluster::{Cluster, Options};
use integration::crash::model::Model;
use integration::outcome::{eventually, number_from_env};
use integration::seed::Seed;
use integration::sync_state::{self, set, try_attribute, try_set, try_unset};
use integration::tree;

/// Directories with policies of their own, each with one below that may have another.
const PLACES: usize = 4;
const WRITERS: usize = 4;
/// Keys that change, with values.
const CHANGES: [(&str, &[&str]); 6] = [
    ("mode", &["sync", "async"]),
    ("priority", &["high", "normal", "bulk"]),
    ("acks", &["all", "majority", "1"]),
    ("on-loss", &["degrade", "fail"]),
    ("compress", &["auto", "on", "off"]),
    ("timeout", &["60s", "5m"]),
];
const LIMIT: Duration = Duration::from_secs(60);

fn place(number: usize) -> String {
    // Half of them below another one: policies nest.
    if number.is_multiple_of(2) { format!("p{number}") } else { format!("p{}/below", number - 1) }
}

/// Every change of the model, through a descriptor of its directory: that may be renamed meanwhile.
fn write_until(directory: &Path, seed: u64, stop: &AtomicBool) -> (Model, u64) {
    let held = File::open(directory).unwrap();
    let root = PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()));
    let (mut model, mut count) = (Model::new(seed), 0);
    while !stop.load(Relaxed) {
        let operation = model.decide();
        let done = operation.run(&root);
        done.unwrap_or_else(|e| panic!("operation {count} of seed {seed}, {operation:.200?}: {e}"));
        model.take(&operation);
        count += 1;
    }
    (model, count)
}

#[test]
fn policies_change_under_load_and_nothing_fails_or_differs() {
    let base = Seed::from_env("SYNCLINE_SEED");
    let length = Duration::from_secs(number_from_env("SYNCLINE_POLICY_S", 10));
    let cluster = Cluster::start(3, Options::default());
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let root = |site: usize| cluster.site(site).mountpoint.clone();
    for number in 0..PLACES {
        fs::create_dir(root(0).join(place(number))).unwrap();
    }
    // Where each writer's directory is; only the mover changes it.
    let mut homes: Vec<PathBuf> = (0..WRITERS).map(|w| Path::new(&place(w % PLACES)).join(format!("w{w}"))).collect();
    homes.iter().for_each(|home| fs::create_dir(root(0).join(home)).unwrap());
    cluster.wait_level();
    let (stop, changes) = (AtomicBool::new(false), AtomicU64::new(0));
    let (written, moves) = thread::scope(|scope| {
        let writers: Vec<_> = homes
            .iter()
            .enumerate()
            .map(|(number, home)| {
                // The last one writes at another site.
                let (directory, stop) = (root(usize::from(number == WRITERS - 1)).join(home), &stop);
                scope.spawn(move || write_until(&directory, base ^ number as u64, stop))
            })
            .collect();
        let ends = EndOnDrop(&stop);
        scope.spawn(|| {
            let mut seed = Seed::new(base ^ 0xc0);
            while !stop.load(Relaxed) {
                let directory = root(0).join(place(seed.below(PLACES as u64) as usize));
                let (key, values) = CHANGES[seed.below(CHANGES.len() as u64) as usize];
                if seed.one_in(3) {
                    try_unset(&directory, key).unwrap_or_else(|e| panic!("{}: {key}: {e}", directory.display()));
                } else {
                    set(&directory, key, seed.pick(values).unwrap());
                }
                changes.fetch_add(1, Relaxed);
            }
        });
        let mut seed = Seed::new(base ^ 0x30);
        let (start, mut moves) = (Instant::now(), 0);
        while start.elapsed() < length && !stop.load(Relaxed) {
            // Not the one at the other site: two sites that rename one directory would be a clash, which is another test.
            let moved = seed.below(WRITERS as u64 - 1) as usize;
            let to = Path::new(&place(seed.below(PLACES as u64) as usize)).join(format!("w{moved}"));
            if to != homes[moved] {
                fs::rename(root(0).join(&homes[moved]), root(0).join(&to)).unwrap();
                homes[moved] = to;
                moves += 1;
            }
            thread::sleep(Duration::from_millis(seed.below(30)));
        }
        drop(ends);
        (writers.into_iter().map(|writer| writer.join().unwrap()).collect::<Vec<_>>(), moves)
    });
    let operations: u64 = written.iter().map(|(_, count)| count).sum();
    eprintln!("{operations} operations, {} changes of policy, {moves} moves", changes.load(Relaxed));
    assert!(moves > 3 && changes.load(Relaxed) > 10, "too little happened to prove anything");
    cluster.assert_converges();
    for site in cluster.sites() {
        for (home, (model, _)) in homes.iter().zip(&written) {
            let found = model.differences(&tree::read(&site.path(home)).unwrap());
            assert!(found.is_empty(), "{} at site {}: {found:#?}", home.display(), site.name);
        }
        // The policy itself is replicated: the same at every site.
        for number in 0..PLACES {
            let (here, there) = (root(0).join(place(number)), site.path(place(number)));
            assert_eq!(policy(&here), policy(&there), "{} at site {}", place(number), site.name);
        }
    }
}

/// The attributes that are set on a directory.
fn policy(directory: &Path) -> BTreeMap<&'static str, Option<Vec<u8>>> {
    let value = |key: &str| {
        let mut value = [0; 256];
        let len = rustix::fs::getxattr(directory, format!("user.syncline.{key}").as_str(), &mut value[..]).ok()?;
        Some(value[..len].to_vec())
    };
    CHANGES.iter().map(|(key, _)| (*key, value(key))).collect()
}

/// Order between lanes: whoever sees a name in the place that is shipped first sees the whole file, although its bytes were written
/// where they are shipped last.
#[test]
fn files_written_in_bulk_are_whole_when_they_appear_elsewhere() {
    let seed = Seed::from_env("SYNCLINE_SEED");
    let cluster = Cluster::start(2, Options::default());
    let at = |path: &str| cluster.site(0).path(path);
    for (path, key, value) in [("bulk", "priority", "bulk"), ("high", "priority", "high")] {
        fs::create_dir(at(path)).unwrap();
        set(&at(path), key, value);
    }
    sync_state::make(cluster.site(0), "sync", &[("timeout", "300s")], &["b"], LIMIT);
    // So slow that bulk always has a backlog.
    cluster.network().everywhere(|conditions| conditions.bytes_per_second = Some(8 << 20));
    let content = |number: u64| Seed::new(seed ^ number).bytes(200_000 + (number as usize * 7919) % 100_000);
    let count = 40;
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ends = EndOnDrop(&done);
            for number in 0..count {
                fs::write(at(&format!("bulk/ballast{number}")), content(number + 1000)).unwrap();
                fs::write(at(&format!("bulk/{number}")), content(number)).unwrap();
                let to = ["sync", "high"][number as usize % 2];
                let (from, name) = (at(&format!("bulk/{number}")), format!("{to}/{number}"));
                if number % 3 == 0 {
                    fs::hard_link(&from, at(&name)).unwrap();
                } else {
                    fs::rename(&from, at(&name)).unwrap();
                }
                if to == "sync" {
                    let seen = fs::read(cluster.site(1).path(&name)).unwrap();
                    assert!(seen == content(number), "{name} returned and is not whole at B");
                }
            }
        });
        let mut seen = 0;
        while !done.load(Relaxed) || seen < count {
            seen = 0;
            for number in 0..count {
                let name = format!("{}/{number}", ["sync", "high"][number as usize % 2]);
                if let Ok(bytes) = fs::read(cluster.site(1).path(&name)) {
                    assert!(bytes == content(number), "{name} is seen and has {} bytes that are wrong", bytes.len());
                    seen += 1;
                }
            }
            thread::sleep(Duration::from_millis(5));
        }
    });
    cluster.network().everywhere(|conditions| conditions.bytes_per_second = None);
    cluster.assert_converges();
}

/// Nearest directory wins, at once, at every site; a tree that is moved is under the policy of where it is.
#[test]
fn what_is_below_inherits_and_moves_change_what_is_inherited() {
    let cluster = Cluster::start(2, Options::default());
    let at = |path: &str| cluster.site(0).path(path);
    fs::create_dir_all(at("bulk/deep/er")).unwrap();
    fs::create_dir_all(at("high")).unwrap();
    fs::write(at("bulk/deep/er/file"), b"x").unwrap();
    set(&at("bulk"), "priority", "bulk");
    set(&at("high"), "priority", "high");
    cluster.wait_level();
    let says = |path: &str, wanted: &str| {
        for site in cluster.sites() {
            eventually(LIMIT, &format!("{path} at site {}", site.name), || {
                let text = try_attribute(&site.path(path), "effective").map_err(|e| e.to_string())?;
                let line = text.lines().find(|line| line.contains("priority")).unwrap_or_default().to_owned();
                if line.contains(wanted) { Ok(()) } else { Err(text) }
            });
        }
    };
    says("bulk/deep/er/file", "bulk");
    set(&at("bulk/deep"), "priority", "normal");
    says("bulk/deep/er/file", "normal");
    try_unset(&at("bulk/deep"), "priority").unwrap();
    says("bulk/deep/er", "bulk");
    fs::rename(at("bulk/deep"), at("high/deep")).unwrap();
    says("high/deep/er/file", "high");
    // A second name in a directory that is more urgent.
    fs::rename(at("high/deep"), at("bulk/deep")).unwrap();
    fs::hard_link(at("bulk/deep/er/file"), at("high/file")).unwrap();
    says("bulk/deep/er/file", "high");
    for (key, value) in [("mode", "often"), ("acks", "-1"), ("timeout", "soon"), ("priority", ""), ("colour", "red")] {
        let error = try_set(&at("bulk"), key, value).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{key}={value}: {error}");
    }
    cluster.assert_converges();
}

/// The threads of a scope must end when the test fails, too.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}
