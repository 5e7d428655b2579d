//! Promise 3 and 5 with a broken network: nobody waits for it, the distance is shown, and the trees get equal by themselves.
//!
//! `SYNCLINE_PARTITION_S` sets for how long the link is cut (default 10), `SYNCLINE_TEST_SEED` replays a run.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use integration::cluster::{Cluster, Options};
use integration::crash::model::Model;
use integration::faults::{Flapping, pause};
use integration::link::Flow;
use integration::outcome::{eventually, number_from_env};
use integration::seed::Seed;
use integration::tree;

/// No single call may take longer. Generous: two cores, shared with other tests. Waiting for a network would take for ever.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// Writes as the seed says until `stop`; the model and the slowest call.
fn write_until(directory: &Path, seed: u64, stop: &AtomicBool) -> (Model, Duration) {
    let (mut model, mut slowest) = (Model::new(seed), Duration::ZERO);
    fs::create_dir(directory).unwrap();
    while !stop.load(Relaxed) {
        let operation = model.decide();
        let start = Instant::now();
        operation.run(directory).unwrap_or_else(|e| panic!("seed {seed}: {operation:.200?}: {e}"));
        slowest = slowest.max(start.elapsed());
        model.take(&operation);
        // A steady writer, not a flood: how much is written must not decide how long the test takes.
        thread::sleep(Duration::from_millis(2));
    }
    (model, slowest)
}

/// Runs `meanwhile` while both sites write into directories of their own; then everything must be right at both.
fn while_both_write(cluster: &mut Cluster, seed: u64, meanwhile: impl FnOnce(&mut Cluster)) {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let stop = AtomicBool::new(false);
    let directories = [cluster.site(0).path("of-a"), cluster.site(1).path("of-b")];
    let written = thread::scope(|scope| {
        let writers = [0, 1].map(|index| {
            let (directory, stop) = (&directories[index], &stop);
            scope.spawn(move || write_until(directory, seed ^ index as u64, stop))
        });
        let stop_at_the_end = StopOnDrop(&stop);
        meanwhile(cluster);
        drop(stop_at_the_end);
        writers.map(|writer| writer.join().unwrap())
    });
    cluster.assert_converges();
    for (directory, (model, slowest)) in ["of-a", "of-b"].iter().zip(&written) {
        assert!(*slowest < CALL_LIMIT, "a call in {directory} took {slowest:?}");
        for site in cluster.sites() {
            let found = model.differences(&tree::read(&site.path(directory)).unwrap());
            assert!(found.is_empty(), "{directory} at site {}: {found:#?}", site.name);
        }
    }
}

/// The writers must end when the test fails too: the scope waits for them.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

fn lag(cluster: &Cluster, site: usize) -> (f64, u64) {
    let status = cluster.site(site).status();
    let peer = &status.peers[0];
    (peer.lag_seconds, peer.behind_records)
}

/// The link does `flow` for a while: writers don't notice, `status` does, and everything arrives afterwards.
fn outage(flow: Flow) {
    let seed = Seed::from_env("SYNCLINE_TEST_SEED");
    let length = Duration::from_secs(number_from_env("SYNCLINE_PARTITION_S", 10));
    let mut cluster = Cluster::start(2, Options::default());
    while_both_write(&mut cluster, seed, |cluster| {
        thread::sleep(Duration::from_secs(1));
        cluster.network().between(0, 1, |conditions| conditions.flow = flow);
        let start = Instant::now();
        let mut before = (0.0, 0);
        for _ in 0..3 {
            thread::sleep(length / 3);
            let now = lag(cluster, 0);
            assert!(
                now.0 > before.0 && now.1 > before.1,
                "the lag rises while nothing passes: {before:?}, then {now:?}"
            );
            before = now;
        }
        let elapsed = start.elapsed().as_secs_f64();
        assert!(before.0 > elapsed / 2.0 && before.0 < elapsed + 5.0, "{} s lag after {elapsed} s", before.0);
        if flow == Flow::Cut {
            let status = cluster.site(0).status();
            assert!(!status.peers[0].connected, "a cut link is shown: {status:?}");
        }
        cluster.network().heal_all();
        eventually(Duration::from_secs(60), "the lag falls after the link is back", || match lag(cluster, 0) {
            (seconds, _) if seconds < 2.0 => Ok(()),
            (seconds, records) => Err(format!("{seconds} s, {records} records")),
        });
    });
    eventually(Duration::from_secs(30), "no distance is left", || match lag(&cluster, 0) {
        (0.0, 0) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn a_cut_link_stops_nobody() {
    outage(Flow::Cut);
}

#[test]
fn a_link_that_swallows_everything_stops_nobody() {
    outage(Flow::Stalled);
}

#[test]
fn repeated_cuts_lose_nothing() {
    let seed = Seed::from_env("SYNCLINE_TEST_SEED");
    let mut cluster = Cluster::start(2, Options::default());
    while_both_write(&mut cluster, seed, |cluster| {
        let flapping = Flapping::start(cluster.network().clone(), seed, 300);
        thread::sleep(Duration::from_secs(number_from_env("SYNCLINE_PARTITION_S", 10)));
        assert!(flapping.cuts() >= 3, "only {} cuts", flapping.cuts());
    });
}

/// Daemons that restart, cleanly or not, with the link cut: what was written before is not lost, what comes after arrives.
#[test]
fn restarts_while_cut_lose_nothing() {
    let mut seed = Seed::new(Seed::from_env("SYNCLINE_TEST_SEED"));
    let mut cluster = Cluster::start(2, Options::default());
    let make = |cluster: &Cluster, site: usize, round: usize| {
        for number in 0..40 {
            let path = cluster.site(site).path(format!("{site}-{round}-{number}"));
            fs::write(path, format!("{number}").repeat(number * 50)).unwrap();
        }
    };
    for round in 0..4 {
        cluster.network().cut(0, 1);
        make(&cluster, 0, round);
        make(&cluster, 1, round);
        let site = round % 2;
        if round < 2 {
            cluster.crash_site(site);
        } else {
            cluster.site_mut(site).stop();
            cluster.start_site(site);
        }
        make(&cluster, site, round + 10);
        cluster.network().heal_all();
        // The next cut comes in the middle of the catching up.
        pause(&mut seed, 0, 300);
    }
    cluster.assert_converges();
    let names = fs::read_dir(&cluster.site(0).mountpoint).unwrap().count();
    assert_eq!(names, 4 * 120);
}

/// A slow, long link delays and bounds, and changes nothing else.
#[test]
fn a_slow_long_link_carries_everything() {
    let cluster = Cluster::start(2, Options::default());
    cluster.network().everywhere(|conditions| {
        conditions.delay = Duration::from_millis(40);
        conditions.bytes_per_second = Some(4 << 20);
    });
    let bytes = Seed::new(1).bytes(6 << 20);
    fs::write(cluster.site(0).path("incompressible"), &bytes).unwrap();
    let start = Instant::now();
    cluster.wait_level();
    assert!(start.elapsed() > Duration::from_secs(1), "6 MiB at 4 MiB/s in {:?}", start.elapsed());
    assert!(fs::read(cluster.site(1).path("incompressible")).unwrap() == bytes);
    cluster.assert_converges();
}
