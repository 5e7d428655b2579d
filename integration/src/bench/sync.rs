//! Directories whose writers wait: what a wait costs, how callers share it, and what bulk in flight does to it.
//!
//! First two sites that dial each other over the loopback net, without a proxy; then two behind a proxy that delays and limits. The bounds are those
//! of the project's plan, computed from what ext4 and a round trip took in the same repetition.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::bench::disk::Disk;
use crate::bench::report::{Bound, Report, milliseconds, percentile};
use crate::bench::run::{LEVEL_LIMIT, Plan};
use crate::bench::{round_trip, usage, workload};
use crate::cluster::{Cluster, Options};
use crate::link::Conditions;
use crate::outcome::OrFail;
use crate::sync_state;

/// How long becoming in sync may take.
const SYNC_LIMIT: Duration = Duration::from_secs(120);
/// Longer than any wait here: a call that gave up waiting would look quick.
const TIMEOUT: &str = "300s";
/// One way; the plan speaks of 20 ms there and back.
const DELAY: Duration = Duration::from_millis(10);
/// 200 Mbit/s.
const LINK_BYTES_PER_SECOND: u64 = 25_000_000;

/// How much of it.
#[derive(Clone, Debug)]
pub struct SyncPlan {
    /// Appends by one writer, and messages for a round trip.
    pub appends: u64,
    /// How long a number of writers write at once.
    pub length: Duration,
    /// How many at once.
    pub writers: Vec<usize>,
    /// What is in flight in the bulk lane.
    pub bulk_mib: u64,
}

/// Runs the section.
///
/// # Panics
/// When anything fails, or the sites don't end up equal.
pub fn run(plan: &Plan, report: &mut Report) {
    let mut disks = Vec::new();
    let places = plan.places.clone().unwrap_or_else(|| {
        ["site-a", "site-b", "baseline"].map(|name| {
            let disk = Disk::make(&plan.images, name, plan.disk_bytes);
            let directory = disk.directory(name);
            disks.push(disk);
            directory
        })
    });
    for direct in [true, false] {
        let name = if direct { "near" } else { "far" };
        let [store_a, store_b, baseline] = places.clone().map(|place| beside(&place, name));
        fs::create_dir_all(&baseline).or_fail(baseline.display());
        for store in [&store_a, &store_b] {
            let parent = store.parent().or_fail("a store has no parent");
            fs::create_dir_all(parent).or_fail(parent.display());
        }
        let limit = Some(LEVEL_LIMIT * 6);
        let cluster =
            Cluster::start(2, Options { stores: vec![store_a, store_b], limit, direct, ..Options::default() });
        let mut bench = Bench { cluster, plan: &plan.sync, baseline, report };
        if direct {
            bench.near(plan.repetitions)
        } else {
            bench.far(plan.repetitions)
        }
        bench.cluster.assert_converges();
    }
}

/// The stores of the section must not be in those of another.
fn beside(place: &Path, name: &str) -> PathBuf {
    let own = place.file_name().map_or("place".into(), |own| own.to_string_lossy().into_owned());
    place.with_file_name(format!("{own}-sync-{name}"))
}

struct Bench<'a> {
    // Dropped before the disks, which are the caller's.
    cluster: Cluster,
    plan: &'a SyncPlan,
    baseline: PathBuf,
    report: &'a mut Report,
}

impl Bench<'_> {
    fn at(&self, name: &str) -> PathBuf {
        self.cluster.site(0).path(name)
    }

    fn make_sync(&self) {
        sync_state::make(self.cluster.site(0), "sync", &[("timeout", TIMEOUT)], &["b"], SYNC_LIMIT);
    }

    fn cpu_seconds(&self) -> f64 {
        self.cluster.sites().iter().filter_map(|site| site.pid()).filter_map(usage::cpu_seconds).sum()
    }

    fn conditions(&self, change: impl Fn(&mut Conditions)) {
        self.cluster.network().everywhere(change);
    }

    /// Over the loopback net.
    fn near(&mut self, repetitions: u32) {
        const WORK: &str = "sync append";
        let mut before = Vec::new();
        for repetition in 0..repetitions {
            eprintln!("sync, near, without a policy: repetition {} of {repetitions}", repetition + 1);
            let times = workload::append_and_flush(&self.at("async"), self.plan.appends, u64::from(repetition));
            before.push(milliseconds(&times));
        }
        self.make_sync();
        for (repetition, before) in (0..repetitions).zip(before) {
            eprintln!("sync, near: repetition {} of {repetitions}", repetition + 1);
            let (seed, appends) = (u64::from(repetition), self.plan.appends);
            let ext4 = milliseconds(&workload::append_and_flush(&self.baseline.join("log"), appends, seed));
            let trips = milliseconds(&round_trip::measure(appends, None));
            let cpu = self.cpu_seconds();
            let ours = milliseconds(&workload::append_and_flush(&self.at("sync/log"), appends, seed));
            let cpu = (self.cpu_seconds() - cpu) * 1e3 / appends as f64;
            let (p50, p99) = (at(&ours, 50.0), at(&ours, 99.0));
            let (flush, trip) = (at(&ext4, 50.0), at(&trips, 50.0));
            self.report.add(WORK, "round trip p50", "ms", trip, None);
            self.report.add(WORK, "p50", "ms", p50, Some(flush));
            self.report.bound(WORK, "p50", Bound::AtMost(2.5 * flush + trip));
            self.report.add(WORK, "p99", "ms", p99, Some(at(&ext4, 99.0)));
            self.report.add(WORK, "CPU, both daemons", "ms/append", cpu, None);
            // Waiting in one directory costs nothing in another.
            let times = milliseconds(&workload::append_and_flush(&self.at("async"), appends, seed));
            self.report.add("async append", "p50, no policy", "ms", at(&before, 50.0), Some(flush));
            self.report.add("async append", "p50, beside sync", "ms", at(&times, 50.0), Some(flush));
            self.report.add("async append", "growth", "x", at(&times, 50.0) / at(&before, 50.0), None);
            self.writers("sync writers", "", true);
        }
        self.memory("sync");
    }

    /// Behind a link with a delay, then with a limit.
    fn far(&mut self, repetitions: u32) {
        self.make_sync();
        for repetition in 0..repetitions {
            eprintln!("sync, far: repetition {} of {repetitions}", repetition + 1);
            self.delayed(u64::from(repetition));
            for (delay, work) in [(Duration::ZERO, "sync beside bulk"), (DELAY, "same, 20 ms")] {
                let limited = |c: &mut Conditions| {
                    *c = Conditions { delay, bytes_per_second: Some(LINK_BYTES_PER_SECOND), ..Conditions::default() };
                };
                self.beside_bulk(work, "link", &limited, None);
            }
            let open = |c: &mut Conditions| *c = Conditions::default();
            self.beside_bulk("sync beside bulk", "`limit`", &open, Some("200Mbit"));
        }
        self.memory("sync, far");
    }

    fn delayed(&mut self, seed: u64) {
        const WORK: &str = "sync, 20 ms";
        let conditions = Conditions { delay: DELAY, ..Conditions::default() };
        self.conditions(|c| *c = conditions);
        // A long round trip needs fewer of them.
        let appends = self.plan.appends.div_ceil(4);
        let trip = at(&milliseconds(&round_trip::measure(appends, Some(conditions))), 50.0);
        let ours = milliseconds(&workload::append_and_flush(&self.at("sync/delayed"), appends, seed));
        self.report.add(WORK, "round trip p50", "ms", trip, None);
        self.report.add(WORK, "p50", "ms", at(&ours, 50.0), None);
        self.report.bound(WORK, "p50", Bound::AtMost(trip + 5.0));
        self.report.add(WORK, "p99", "ms", at(&ours, 99.0), None);
        self.writers("sync writers", ", 20 ms", false);
        self.conditions(|c| *c = Conditions::default());
    }

    /// The rates of several writers, and how many times that of one.
    fn writers(&mut self, work: &'static str, suffix: &str, beside_ext4: bool) {
        let mut of_one = None;
        for count in self.plan.writers.clone() {
            let name = format!("writers-{count}");
            let ext4 =
                beside_ext4.then(|| workload::append_at_once(&self.baseline.join(&name), count, self.plan.length));
            let ours = workload::append_at_once(&self.at(&format!("sync/{name}{suffix}")), count, self.plan.length);
            self.report.add(work, &format!("{count}{suffix}"), "/s", ours, ext4);
            let one = *of_one.get_or_insert(ours);
            if count > 1 {
                let measure = format!("{count} to 1{suffix}");
                self.report.add(work, &measure, "x", ours / one, None);
                if count == 32 {
                    self.report.bound(work, &measure, Bound::AtLeast(10.0));
                }
            }
        }
    }

    fn beside_bulk(&mut self, work: &'static str, by: &str, link: &dyn Fn(&mut Conditions), limit: Option<&str>) {
        self.conditions(link);
        if let Some(rate) = limit {
            self.cluster.site(0).flow("limit", &[rate]);
        }
        let appends = self.plan.appends;
        let alone = milliseconds(&workload::append_and_flush(&self.at("sync/alone"), appends, 0));
        let bulk = self.at("bulk");
        fs::create_dir_all(&bulk).or_fail(bulk.display());
        sync_state::set(&bulk, "priority", "bulk");
        workload::write_large(&bulk.join("large"), self.plan.bulk_mib, 1);
        let beside = milliseconds(&workload::append_and_flush(&self.at("sync/beside"), appends, 0));
        let status = self.cluster.site(0).status();
        assert!(
            status.peers[0].behind_bytes > 0,
            "{work}: bulk was through before the appends were: nothing was measured"
        );
        for (measure, percent) in [("p50", 50.0), ("p99", 99.0)] {
            let (alone, beside) = (at(&alone, percent), at(&beside, percent));
            self.report.add(work, &format!("{measure} alone ({by})"), "ms", alone, None);
            self.report.add(work, &format!("{measure} beside ({by})"), "ms", beside, None);
            let growth = format!("{measure} growth ({by})");
            self.report.add(work, &growth, "x", beside / alone, None);
            if percent == 99.0 {
                self.report.bound(work, &growth, Bound::AtMost(2.0));
            }
        }
        // What is left of it must not weigh on what comes next.
        self.conditions(|c| *c = Conditions::default());
        if limit.is_some() {
            self.cluster.site(0).flow("limit", &["none"]);
        }
        fs::remove_file(bulk.join("large")).or_fail("cannot remove the bulk file");
        self.cluster.site(0).wait(LEVEL_LIMIT);
    }

    fn memory(&mut self, work: &'static str) {
        for (site, measure) in self.cluster.sites().iter().zip(["peak memory of A", "peak memory of B"]) {
            let bytes = site.pid().and_then(usage::peak_resident_bytes).or_fail("a daemon is gone");
            self.report.add(work, measure, "MiB", bytes as f64 / f64::from(1 << 20), None);
        }
    }
}

fn at(values: &[f64], percent: f64) -> f64 {
    percentile(values, percent).or_fail("nothing was measured")
}
