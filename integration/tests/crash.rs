//! Promise 2: a change whose system call returned survives `kill -9` of the daemon.
//!
//! `SYNCLINE_CRASH_ROUNDS` sets how many crashes (default 20), `SYNCLINE_CRASH_SEED` replays a run.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use integration::cluster::{Cluster, Options};
use integration::crash::writer::Writer;
use integration::faults::pause;
use integration::outcome::number_from_env;
use integration::seed::Seed;

/// Several at once, in directories of their own, so that the daemon is hit in the middle of something.
const WRITERS: u64 = 3;
/// Operations of a writer before the moment of the crash is drawn.
const WARM_UP: u64 = 20;

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_crash_writer"))
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let mut seed = Seed::new(Seed::from_env("SYNCLINE_CRASH_SEED"));
    let mut cluster = Cluster::start(2, Options::default());
    let notes = cluster.directory().join("notes");
    fs::create_dir(&notes).unwrap();
    let mount = cluster.site(0).mountpoint.clone();
    let mut acknowledged = 0;
    let mut past: Vec<Writer> = Vec::new();
    for round in 0..number_from_env("SYNCLINE_CRASH_ROUNDS", 20) {
        let start = |number| Writer::start(program(), &mount, &notes, &format!("r{round}w{number}"), seed.next_u64());
        let mut writers: Vec<Writer> = (0..WRITERS).map(start).collect();
        writers.iter_mut().for_each(|writer| writer.await_acknowledged(WARM_UP));
        pause(&mut seed, 0, 700);
        cluster.site_mut(0).kill();
        writers.iter_mut().for_each(Writer::await_end);
        cluster.start_site(0);
        for writer in writers.iter() {
            match writer.check(&mount) {
                Ok(count) => acknowledged += count,
                Err(report) => panic!("round {round}: {report}"),
            }
        }
        past.append(&mut writers);
    }
    eprintln!("{acknowledged} acknowledged operations over {} crashes", past.len() as u64 / WRITERS);
    // Later crashes must not have touched what earlier ones left; and the other site must get it all.
    for writer in &past {
        writer.check(&mount).unwrap_or_else(|report| panic!("at the end: {report}"));
    }
    cluster.assert_converges();
}

/// The receiving side may crash at any moment: what it gets again, it must not apply twice, and nothing may be left out.
#[test]
fn a_crashing_receiver_misses_nothing() {
    let mut seed = Seed::new(Seed::from_env("SYNCLINE_CRASH_SEED"));
    let mut cluster = Cluster::start(2, Options::default());
    let notes = cluster.directory().join("notes");
    fs::create_dir(&notes).unwrap();
    let mount = cluster.site(0).mountpoint.clone();
    let mut writer = Writer::start(program(), &mount, &notes, "w", seed.next_u64());
    for _ in 0..number_from_env("SYNCLINE_CRASH_ROUNDS", 20).div_ceil(4) {
        pause(&mut seed, 50, 700);
        cluster.crash_site(1);
    }
    // It must not have felt any of it.
    writer.stop();
    assert!(writer.check(&mount).unwrap() >= WARM_UP);
    cluster.assert_converges();
    writer.check(&cluster.site(1).mountpoint).unwrap();
}
