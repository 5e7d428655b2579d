//! fsx, the file system exerciser, with every operation that it has: each read shows what was written before, in whichever way, and
//! the file is equal at the other site, byte for byte, and so is the tree.
//!
//! `SYNCLINE_SEED` replays a run, `SYNCLINE_FSX_OPS` sets how many operations each run has, `SYNCLINE_FSX_ROUNDS` how many seeds it takes.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use integration::cluster::{Cluster, Options};
use integration::compare::{self, Strictness};
use integration::outcome::number_from_env;
use integration::seed::Seed;
use integration::site::{Site, show};
use integration::tools;

const DIRECTORY: &str = "shared";

/// How the file is opened before fsx opens it for reading and writing, which decides how the kernel does its reads, writes and mappings.
#[derive(Clone, Copy, Debug)]
enum First {
    /// Through the page cache of the mount.
    ForBoth,
    /// Passed through: reads and writes are requests, mappings are of the object.
    ForReading,
}

/// What fsx does.
#[derive(Clone, Copy, Debug)]
struct Mix {
    /// Space that is reserved is reserved at its own site, and may show as data there, so holes can't be compared then.
    reserving: bool,
    /// msync after each store through a mapping; otherwise the kernel decides when.
    msync: bool,
    /// Longest file and longest operation.
    file_bytes: u64,
    operation_bytes: u64,
}

const SMALL: Mix = Mix { reserving: false, msync: true, file_bytes: 256 << 10, operation_bytes: 64 << 10 };
/// Long enough for writes by extent and for several watched blocks at once.
const LONG: Mix = Mix { file_bytes: 2_000_000, operation_bytes: 300_000, ..SMALL };
const RESERVING: Mix = Mix { reserving: true, msync: false, ..SMALL };

impl Mix {
    /// Passed through, `sendfile` may show for some moments more what it showed before a store through a mapping: `mapped.rs` asks until it doesn't.
    fn configuration(self, first: First) -> String {
        let Mix { reserving, msync, file_bytes, operation_bytes } = self;
        let (nomsync, fallocate) = (!msync, if reserving { 5 } else { 0 });
        let sendfile = match first {
            First::ForBoth => 5,
            First::ForReading => 0,
        };
        format!(
            "flen = {file_bytes}\nnomsyncafterwrite = {nomsync}\n[opsize]\nmin = 1\nmax = {operation_bytes}\nalign = 1\n\
             [weights]\nclose_open = 2\nread = 10\nwrite = 10\nmapread = 10\nmapwrite = 10\ninvalidate = 2\ntruncate = 5\nfsync = 2\n\
             fdatasync = 2\nposix_fallocate = {fallocate}\npunch_hole = 5\nsendfile = {sendfile}\nposix_fadvise = 4\ncopy_file_range = 6\n"
        )
    }
}

/// Runs fsx on `name` in the shared directory of the site, its seed and configuration printed with a failure.
fn exercise(cluster: &Cluster, site: &Site, name: &str, first: First, mix: Mix, seed: u64) {
    let own = cluster.directory().join(format!("fsx-{name}"));
    fs::create_dir_all(&own).unwrap();
    let configuration = own.join("fsx.toml");
    fs::write(&configuration, mix.configuration(first)).unwrap();
    let file = site.path(DIRECTORY).join(name);
    let held = match first {
        First::ForBoth => None,
        First::ForReading => {
            fs::write(&file, "").unwrap();
            Some(File::open(&file).unwrap())
        }
    };
    let operations = number_from_env("SYNCLINE_FSX_OPS", 700);
    let mut fsx = Command::new(tools::find("fsx"));
    fsx.arg("-f").arg(&configuration).args(["-N", &operations.to_string(), "-S", &seed.to_string(), "-P"]).arg(&own);
    let output = fsx.arg(&file).output().unwrap();
    assert!(output.status.success(), "{fsx:?}, {first:?}, {mix:?}: {}", show(&output));
    drop(held);
}

/// Both sites level, with equal trees, and these files equal byte by byte.
fn assert_level(cluster: &Cluster, names: &[String], mix: Mix) {
    if mix.reserving {
        cluster.wait_level();
        let strictness = Strictness { holes: false, ..Strictness::REPLICAS };
        let (a, b) = (&cluster.site(0).mountpoint, &cluster.site(1).mountpoint);
        let found = compare::compare(a, b, strictness).unwrap();
        assert!(found.is_empty(), "the sites differ:\n{}", compare::report(&found, 30));
    } else {
        cluster.assert_converges();
    }
    for name in names {
        let read = |index| fs::read(cluster.site(index).path(DIRECTORY).join(name)).unwrap();
        assert!(read(0) == read(1), "the sites differ in what {name} contains");
    }
}

fn start() -> Cluster {
    let cluster = Cluster::start(2, Options::default());
    fs::create_dir(cluster.site(0).path(DIRECTORY)).unwrap();
    cluster.wait_level();
    cluster
}

/// Each mix, each round with a seed of its own.
fn exercise_alone(first: First) {
    let cluster = start();
    let mut seed = Seed::new(Seed::from_env("SYNCLINE_SEED"));
    for round in 0..number_from_env("SYNCLINE_FSX_ROUNDS", 1) {
        for (number, mix) in [SMALL, LONG, RESERVING].into_iter().enumerate() {
            let name = format!("{round}-{number}");
            exercise(&cluster, cluster.site(0), &name, first, mix, seed.next_u64());
            assert_level(&cluster, std::slice::from_ref(&name), mix);
            fs::remove_file(cluster.site(0).path(DIRECTORY).join(&name)).unwrap();
        }
    }
}

#[test]
fn a_file_first_opened_for_both() {
    exercise_alone(First::ForBoth);
}

#[test]
fn a_file_first_opened_for_reading() {
    exercise_alone(First::ForReading);
}

/// Writes, renames and removes other files in the directory until it is told to end.
fn disturb(directory: &Path, mut seed: Seed, end: &AtomicBool) -> u64 {
    let mut changes = 0;
    while !end.load(Ordering::Relaxed) || changes < 20 {
        let name = |seed: &mut Seed| directory.join(format!("other-{}", seed.below(8)));
        let (one, two) = (name(&mut seed), name(&mut seed));
        // Not there, or the two are the same: both are as good.
        match seed.below(4) {
            0 => _ = fs::rename(&one, &two),
            1 => _ = fs::remove_file(&one),
            _ => {
                let len = seed.below(100_000) as usize;
                fs::write(&one, seed.bytes(len)).unwrap();
            }
        }
        changes += 1;
    }
    changes
}

#[test]
fn while_the_other_site_changes_the_directory() {
    let cluster = start();
    let mut seed = Seed::new(Seed::from_env("SYNCLINE_SEED"));
    for first in [First::ForBoth, First::ForReading] {
        let end = AtomicBool::new(false);
        let name = format!("{first:?}");
        let others = Seed::new(seed.next_u64());
        thread::scope(|scope| {
            let disturbing = scope.spawn(|| disturb(&cluster.site(1).path(DIRECTORY), others, &end));
            let exercising = scope.spawn(|| exercise(&cluster, cluster.site(0), &name, first, SMALL, seed.next_u64()));
            let exercised = exercising.join();
            end.store(true, Ordering::Relaxed);
            let changes = disturbing.join().unwrap();
            assert!(exercised.is_ok() && changes > 0, "fsx failed while the other site made {changes} changes");
        });
        assert_level(&cluster, &[name], SMALL);
    }
}

#[test]
fn while_the_other_site_exercises_its_own_file() {
    let cluster = start();
    let mut seed = Seed::new(Seed::from_env("SYNCLINE_SEED"));
    for first in [First::ForBoth, First::ForReading] {
        let names = ["a", "b"].map(|site| format!("{first:?}-{site}"));
        let seeds = [seed.next_u64(), seed.next_u64()];
        thread::scope(|scope| {
            for (index, name) in names.iter().enumerate() {
                let cluster = &cluster;
                scope.spawn(move || exercise(cluster, cluster.site(index), name, first, SMALL, seeds[index]));
            }
        });
        assert_level(&cluster, &names, SMALL);
    }
}
