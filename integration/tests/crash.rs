//! Promise 2: a change whose system call returned survives `kill -9` of the daemon.
//!
//! `SYNCLINE_CRASH_ROUNDS` sets how many crashes (default 20), `SYNCLINE_CRASH_SEED` replays a run.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use integration::cluster::{Cluster, Options};
use integration::crash::log::{self, Progress};
use integration::crash::model::Model;
use integration::faults::pause;
use integration::outcome::{eventually, number_from_env};
use integration::seed::Seed;
use integration::tree;

/// Several at once, in directories of their own, so that the daemon is hit in the middle of something.
const WRITERS: u64 = 3;
/// Operations of a writer before the moment of the crash is drawn.
const WARM_UP: u64 = 20;

struct Writer {
    directory: PathBuf,
    log: PathBuf,
    seed: u64,
    child: Option<Child>,
    errors: PathBuf,
}

impl Writer {
    fn start(mount: &Path, notes: &Path, name: &str, seed: u64) -> Self {
        let directory = mount.join(name);
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        let (log, errors) = (notes.join(format!("{name}.log")), notes.join(format!("{name}.err")));
        let mut command = Command::new(env!("CARGO_BIN_EXE_crash_writer"));
        command.arg(&directory).arg(&log).arg(seed.to_string());
        let child = command.stdout(Stdio::null()).stderr(File::create(&errors).unwrap()).spawn().unwrap();
        Self { directory, log, seed, child: Some(child), errors }
    }

    fn progress(&self) -> Result<Progress, String> {
        log::read(&self.log).map_err(|e| e.to_string())
    }

    /// Waits for the end that the crash brings.
    fn ended(&mut self) {
        let mut child = self.child.take().unwrap();
        let status = eventually(Duration::from_secs(60), "the writer ends", || {
            child.try_wait().unwrap().ok_or_else(|| "it still runs".to_owned())
        });
        let errors = fs::read_to_string(&self.errors).unwrap_or_default();
        assert_eq!(status.code(), Some(1), "a writer must fail only by the crash: {status}: {errors}");
        // An error number that a healthy mount gives would be a failed operation before the crash.
        let gone = ["os error 107", "os error 103", "os error 5", "os error 2)"];
        assert!(gone.iter().any(|code| errors.contains(code)), "not the error of a dead mount: {errors}");
    }

    /// What is there must be what was acknowledged, with or without the operation in flight. The number that was acknowledged.
    fn check(&self) -> Result<u64, String> {
        let progress = self.progress()?;
        let real = tree::read(&self.directory).map_err(|e| e.to_string())?;
        let mut model = Model::after(self.seed, progress.acknowledged);
        let without = model.differences(&real);
        if without.is_empty() {
            return Ok(progress.acknowledged);
        }
        let flying = model.decide();
        model.take(&flying);
        let with = model.differences(&real);
        if progress.in_flight && with.is_empty() {
            return Ok(progress.acknowledged);
        }
        Err(format!(
            "seed {} after {progress:?}, in flight {flying:.200?}:\nwithout it: {without:#?}\nwith it: {with:#?}",
            self.seed
        ))
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let mut seed = Seed::new(Seed::from_env("SYNCLINE_CRASH_SEED"));
    let mut cluster = Cluster::start(2, Options::default());
    let notes = cluster.directory().join("notes");
    fs::create_dir(&notes).unwrap();
    let mut acknowledged = 0;
    let mut past: Vec<Writer> = Vec::new();
    for round in 0..number_from_env("SYNCLINE_CRASH_ROUNDS", 20) {
        let mount = cluster.site(0).mountpoint.clone();
        let start = |number| Writer::start(&mount, &notes, &format!("r{round}w{number}"), seed.next_u64());
        let mut writers: Vec<Writer> = (0..WRITERS).map(start).collect();
        for writer in &writers {
            eventually(Duration::from_secs(60), "the writers write", || match writer.progress()?.acknowledged {
                0..WARM_UP => Err(format!("{} is slow: {:?}", writer.directory.display(), writer.progress())),
                _ => Ok(()),
            });
        }
        pause(&mut seed, 0, 700);
        cluster.site_mut(0).kill();
        writers.iter_mut().for_each(Writer::ended);
        cluster.start_site(0);
        for writer in writers.iter() {
            match writer.check() {
                Ok(count) => acknowledged += count,
                Err(report) => panic!("round {round}: {report}"),
            }
        }
        past.append(&mut writers);
    }
    eprintln!("{acknowledged} acknowledged operations over {} crashes", past.len() as u64 / WRITERS);
    // Later crashes must not have touched what earlier ones left; and the other site must get it all.
    for writer in &past {
        writer.check().unwrap_or_else(|report| panic!("at the end: {report}"));
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
    let mut writer = Writer::start(&cluster.site(0).mountpoint.clone(), &notes, "w", seed.next_u64());
    for _ in 0..number_from_env("SYNCLINE_CRASH_ROUNDS", 20).div_ceil(4) {
        pause(&mut seed, 50, 700);
        cluster.crash_site(1);
    }
    let child = writer.child.as_mut().unwrap();
    assert!(
        child.try_wait().unwrap().is_none(),
        "the writer must not feel it: {:?}",
        fs::read_to_string(&writer.errors)
    );
    child.kill().unwrap();
    child.wait().unwrap();
    writer.child = None;
    assert!(writer.check().unwrap() >= WARM_UP);
    cluster.assert_converges();
    writer.directory = cluster.site(1).path("w");
    writer.check().unwrap();
}
