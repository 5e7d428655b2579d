//! One run of the benchmark: sites and baseline side by side, each workload as often as asked.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::bench::disk::{Disk, drop_caches, touch_memory};
use crate::bench::lag;
use crate::bench::report::{Report, milliseconds, percentile};
use crate::bench::sync::{self, SyncPlan};
use crate::bench::{usage, workload};
use crate::cluster::{Cluster, Options};
use crate::outcome::OrFail;
use crate::tree;

/// How long the second site may take to become identical.
pub(super) const LEVEL_LIMIT: Duration = Duration::from_secs(600);

/// A part of the benchmark.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Section {
    /// Two sites without any policy.
    Async,
    /// Directories whose writers wait for the other site.
    Sync,
}

/// What to measure, and where.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How often each workload is done.
    pub repetitions: u32,
    /// Size of the large file.
    pub large_mib: u64,
    /// Number of small files.
    pub small_files: u64,
    /// Number of appends.
    pub appends: u64,
    /// Which parts.
    pub sections: Vec<Section>,
    /// What is measured of sync directories.
    pub sync: SyncPlan,
    /// For how long the lag is measured.
    pub lag: Duration,
    /// Size of each fresh file system.
    pub disk_bytes: u64,
    /// Memory touched beforehand.
    pub touch_bytes: u64,
    /// Stores of A and B, and the baseline's directory, all on existing file systems; none: fresh ones are made.
    pub places: Option<[PathBuf; 3]>,
    /// Whether this is less work than the rivals were measured with.
    pub scaled_down: bool,
    /// Where images of fresh file systems are put.
    pub images: PathBuf,
}

impl Plan {
    /// The whole benchmark.
    pub fn full(images: PathBuf) -> Self {
        Self {
            repetitions: 3,
            large_mib: 1024,
            small_files: 10_000,
            appends: 500,
            sections: vec![Section::Async, Section::Sync],
            sync: SyncPlan { appends: 1000, length: Duration::from_secs(5), writers: vec![1, 8, 32], bulk_mib: 2048 },
            lag: Duration::from_secs(30),
            disk_bytes: 8 << 30,
            touch_bytes: 6 << 30,
            places: None,
            scaled_down: false,
            images,
        }
    }

    /// Proves in a minute that everything works; its figures mean little.
    pub fn quick(images: PathBuf) -> Self {
        Self {
            repetitions: 1,
            large_mib: 64,
            small_files: 500,
            appends: 50,
            sync: SyncPlan { appends: 50, length: Duration::from_secs(1), writers: vec![1, 8], bulk_mib: 64 },
            lag: Duration::from_secs(3),
            disk_bytes: 2 << 30,
            touch_bytes: 256 << 20,
            scaled_down: true,
            ..Self::full(images)
        }
    }
}

/// Runs the plan.
///
/// # Panics
/// When anything fails, or the second site doesn't get identical.
pub fn run(plan: &Plan) -> Report {
    let mut report = Report::new(plan.scaled_down);
    for section in &plan.sections {
        match section {
            Section::Async => without_policy(plan, &mut report),
            Section::Sync => sync::run(plan, &mut report),
        }
    }
    report
}

fn without_policy(plan: &Plan, report: &mut Report) {
    let mut disks = Vec::new();
    let [store_a, store_b, baseline] = plan.places.clone().unwrap_or_else(|| {
        ["site-a", "site-b", "baseline"].map(|name| {
            let disk = Disk::make(&plan.images, name, plan.disk_bytes);
            let directory = disk.directory(name);
            disks.push(disk);
            directory
        })
    });
    fs::create_dir_all(&baseline).or_fail(baseline.display());
    let limit = Some(LEVEL_LIMIT * 6);
    let cluster = Cluster::start(2, Options { stores: vec![store_a, store_b], limit, ..Options::default() });
    let mut bench = Bench { plan, baseline, cluster, report, caches: true };
    if !bench.cluster.site(0).status().is_passthrough() {
        eprintln!("note: the mount has no kernel passthrough; reads will be slower than they could");
    }
    for repetition in 0..plan.repetitions {
        eprintln!("repetition {} of {}", repetition + 1, plan.repetitions);
        // Again each time: an idle machine may have given its memory back.
        touch_memory(plan.touch_bytes);
        bench.large(u64::from(repetition));
        bench.small(u64::from(repetition));
        bench.appends(u64::from(repetition));
        bench.lag(repetition);
    }
    bench.memory();
    bench.cluster.assert_equal();
}

struct Bench<'a> {
    // Dropped before the disks, which are the caller's.
    cluster: Cluster,
    plan: &'a Plan,
    baseline: PathBuf,
    report: &'a mut Report,
    /// Whether caches can be emptied.
    caches: bool,
}

impl Bench<'_> {
    fn at(&self, site: usize, name: &str) -> PathBuf {
        self.cluster.site(site).path(name)
    }

    fn level(&self) {
        self.cluster.site(0).wait(LEVEL_LIMIT);
    }

    fn cpu_seconds(&self) -> f64 {
        let pids = self.cluster.sites().iter().filter_map(|site| site.pid());
        pids.filter_map(usage::cpu_seconds).sum()
    }

    fn large(&mut self, seed: u64) {
        let (mib, plain, here) = (self.plan.large_mib, self.baseline.join("large"), self.at(0, "large"));
        let ext4 = workload::write_large(&plain, mib, seed).as_secs_f64();
        let (cpu, start) = (self.cpu_seconds(), Instant::now());
        let written = workload::write_large(&here, mib, seed).as_secs_f64();
        self.level();
        let identical = start.elapsed().as_secs_f64();
        let cpu = (self.cpu_seconds() - cpu) * 1024.0 / mib as f64;
        same_content(&plain, &self.at(1, "large"));
        self.report.add("large file", "written", "s", written, Some(ext4));
        self.report.add("large file", "identical at B", "s", identical, Some(ext4));
        self.report.add("large file", "CPU, both daemons", "s/GiB", cpu, None);
        let speed = |elapsed: Duration| mib as f64 / elapsed.as_secs_f64();
        for temperature in self.temperatures() {
            self.prepare(temperature);
            let ext4 = speed(workload::read_large(&plain, mib));
            self.prepare(temperature);
            let ours = speed(workload::read_large(&here, mib));
            self.report.add("read large file", temperature, "MiB/s", ours, Some(ext4));
        }
        self.remove(&plain, "large");
    }

    fn small(&mut self, seed: u64) {
        let (count, plain, here) = (self.plan.small_files, self.baseline.join("small"), self.at(0, "small"));
        let ext4 = workload::write_small(&plain, count, seed).as_secs_f64();
        let start = Instant::now();
        let written = workload::write_small(&here, count, seed).as_secs_f64();
        self.level();
        let identical = start.elapsed().as_secs_f64();
        self.report.add("small files", "written", "s", written, Some(ext4));
        self.report.add("small files", "identical at B", "s", identical, Some(ext4));
        for temperature in self.temperatures() {
            for (work, act) in [
                ("stat small files", workload::stat_small as fn(&Path, u64) -> Duration),
                ("read small files", workload::read_small),
            ] {
                self.prepare(temperature);
                let ext4 = act(&plain, count).as_secs_f64();
                self.prepare(temperature);
                let ours = act(&here, count).as_secs_f64();
                self.report.add(work, temperature, "s", ours, Some(ext4));
            }
        }
        // Not timed, and after the cold reads, which it would warm up.
        let expected = tree::read(&plain).or_fail("cannot read the baseline");
        let found = tree::read(&self.at(1, "small")).or_fail("cannot read site B");
        assert_eq!(expected.len(), found.len(), "small files at B");
        for (path, entry) in &expected {
            let content = found.get(path).map(|entry| entry.content);
            assert_eq!(content, Some(entry.content), "small/{} at B", path.display());
        }
        self.remove(&plain, "small");
    }

    fn appends(&mut self, seed: u64) {
        let (plain, here) = (self.baseline.join("log"), self.at(0, "log"));
        let ext4 = milliseconds(&workload::append_and_flush(&plain, self.plan.appends, seed));
        let ours = milliseconds(&workload::append_and_flush(&here, self.plan.appends, seed));
        for (measure, percent) in [("p50", 50.0), ("p99", 99.0)] {
            let ours = percentile(&ours, percent).or_fail("no appends");
            self.report.add("append + fsync", measure, "ms", ours, percentile(&ext4, percent));
        }
        self.level();
        same_content(&plain, &self.at(1, "log"));
        self.remove(&plain, "log");
    }

    fn lag(&mut self, repetition: u32) {
        let name = format!("lag-{repetition}");
        fs::create_dir(self.at(0, &name)).or_fail(&name);
        self.level();
        let lags = milliseconds(&lag::measure(&self.at(0, &name), &self.at(1, &name), self.plan.lag));
        for (measure, percent) in [("p50", 50.0), ("p99", 99.0), ("max", 100.0)] {
            self.report.add("lag", measure, "ms", percentile(&lags, percent).or_fail("no lags"), None);
        }
    }

    fn memory(&mut self) {
        for (site, measure) in self.cluster.sites().iter().zip(["peak memory of A", "peak memory of B"]) {
            let bytes = site.pid().and_then(usage::peak_resident_bytes).or_fail("a daemon is gone");
            self.report.add("all", measure, "MiB", bytes as f64 / f64::from(1 << 20), None);
        }
    }

    fn temperatures(&mut self) -> Vec<&'static str> {
        if self.caches && !drop_caches() {
            eprintln!("note: the caches can't be emptied without root: no cold figures");
            self.caches = false;
        }
        if self.caches { vec!["cold", "warm"] } else { vec!["warm"] }
    }

    fn prepare(&self, temperature: &str) {
        assert!(temperature != "cold" || drop_caches(), "the caches can't be emptied any more");
    }

    /// What one repetition leaves must not weigh on the next.
    fn remove(&self, plain: &Path, name: &str) {
        for path in [plain, &self.at(0, name)] {
            let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
            removed.or_fail(path.display());
        }
        self.level();
    }
}

fn same_content(plain: &Path, there: &Path) {
    let hash = |path: &Path| {
        let file = fs::File::open(path).or_fail(path.display());
        tree::hash(file).or_fail(path.display())
    };
    assert_eq!(hash(plain), hash(there), "{} has other bytes than were written", there.display());
}
