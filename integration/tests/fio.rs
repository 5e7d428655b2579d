//! fio with verification: whatever the way in which a file is written, in any order and by several jobs at once, each block is read
//! as it was written, here and at the other site.
//!
//! `SYNCLINE_SEED` replays a run, `SYNCLINE_FIO_KIB` sets how much each job writes.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use integration::cluster::{Cluster, Options};
use integration::outcome::number_from_env;
use integration::seed::Seed;
use integration::site::{Site, show};
use integration::tools;

/// How a job reads and writes.
#[derive(Clone, Copy, Debug)]
enum Way {
    Buffered,
    Direct,
    Mapped,
}

/// fio maps from the beginning of a file, whatever a job's offset: one job of a file can be mapped, the first.
const JOBS: [&[Way]; 4] = [
    &[Way::Buffered; 3],
    &[Way::Direct; 3],
    &[Way::Mapped],
    &[Way::Mapped, Way::Buffered, Way::Direct, Way::Buffered, Way::Direct],
];

/// Several jobs, each with its part of one file.
struct Jobs<'a> {
    file: &'a Path,
    ways: &'a [Way],
    order: &'a str,
    seed: u64,
}

impl Jobs<'_> {
    /// Writes and verifies; only verifies where that was done before.
    fn run(&self, site: &Site, only_verify: bool) {
        let kib = number_from_env("SYNCLINE_FIO_KIB", 1024);
        let path = site.path(self.file);
        let mut fio = Command::new(tools::find("fio"));
        fio.args([
            "--output-format=terse",
            "--thread",
            "--fallocate=none",
            "--allow_file_create=1",
            "--create_on_open=1",
        ]);
        for (number, way) in self.ways.iter().enumerate() {
            let (engine, direct) = match way {
                Way::Buffered => ("psync", 0),
                Way::Direct => ("psync", 1),
                Way::Mapped => ("mmap", 0),
            };
            let offset = number as u64 * kib;
            fio.arg(format!("--name={way:?}-{number}")).arg("--filename").arg(&path);
            fio.args([format!("--rw={}", self.order), format!("--offset={offset}k"), format!("--size={kib}k")]);
            fio.args([format!("--ioengine={engine}"), format!("--direct={direct}")]);
            fio.arg(format!("--randseed={}", self.seed.wrapping_add(number as u64) >> 1));
            fio.args([
                "--bs=16k",
                "--verify_state_save=0",
                "--verify=crc32c",
                "--verify_fatal=1",
                "--do_verify=1",
                "--end_fsync=1",
            ]);
            if only_verify {
                fio.arg("--verify_only=1");
            }
        }
        let output = fio.output().unwrap();
        assert!(output.status.success(), "{fio:?}: {}", show(&output));
    }
}

/// `held`: the file is open for reading first, and so passed through; otherwise fio opens it for both, and it is cached.
fn write_and_verify(held: bool) {
    let cluster = Cluster::start(2, Options::default());
    let mut seed = Seed::new(Seed::from_env("SYNCLINE_SEED"));
    let (a, b) = (cluster.site(0), cluster.site(1));
    for (number, ways) in JOBS.into_iter().enumerate() {
        for order in ["write", "randwrite"] {
            let name = format!("{number}-{order}");
            let len = ways.len() as u64 * number_from_env("SYNCLINE_FIO_KIB", 1024) * 1024;
            File::create(a.path(&name)).unwrap().set_len(len).unwrap();
            let open = held.then(|| File::open(a.path(&name)).unwrap());
            let jobs = Jobs { file: Path::new(&name), ways, order, seed: seed.next_u64() };
            jobs.run(a, false);
            drop(open);
            cluster.wait_level();
            assert!(fs::read(a.path(&name)).unwrap() == fs::read(b.path(&name)).unwrap(), "{name} differs");
            jobs.run(b, true);
        }
    }
    cluster.assert_converges();
}

#[test]
fn jobs_on_one_file_first_opened_for_both() {
    write_and_verify(false);
}

#[test]
fn jobs_on_one_file_first_opened_for_reading() {
    write_and_verify(true);
}
