//! What the tests of whole volumes share: sites without a mount, random numbers from a seed, complete dumps of a site's state.
#![allow(dead_code)]

pub mod calls;
pub mod dump;
pub mod exchange;
pub mod network;
pub mod policies;
pub mod posix;
pub mod power;
pub mod shrink;
pub mod work;

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use fs::volume::{OpenError, Volume, VolumeOptions};
use proto::ids::{SiteId, VolumeId};
use proto::record::Perms;

/// Small, so that files of the journal are recycled within a test. The largest batch has to fit.
pub const JOURNAL_FILE_BYTES: u64 = 3 << 20;
/// The volume of every test.
pub const VOLUME: VolumeId = VolumeId([7; 16]);

/// Random numbers that depend on the seed only (SplitMix64).
#[derive(Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        if items.is_empty() { None } else { items.get(self.below(items.len() as u64) as usize) }
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let seed = self.next();
        (0..len).map(|at| (seed >> (at % 8 * 8)) as u8 ^ (at >> 3) as u8).collect()
    }
}

/// One site: a store, and its volume while it is up.
pub struct Site {
    dir: tempfile::TempDir,
    pub id: SiteId,
    journal_file_bytes: u64,
    flush_interval: Duration,
    volume: Option<Arc<Volume>>,
}

impl Site {
    pub fn new(id: u16) -> Self {
        Self::with_journal(id, JOURNAL_FILE_BYTES, VolumeOptions::default().flush_interval)
    }

    /// As [`new`](Self::new), with another journal.
    pub fn with_journal(id: u16, journal_file_bytes: u64, flush_interval: Duration) -> Self {
        // In memory where possible: no test here is about what a disk does.
        let memory = std::path::Path::new("/dev/shm");
        let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Self::in_directory(id, journal_file_bytes, flush_interval, dir.expect("a directory"))
    }

    fn in_directory(id: u16, journal_file_bytes: u64, flush_interval: Duration, dir: tempfile::TempDir) -> Self {
        let perms = Perms { mode: 0o755, uid: 0, gid: 0 };
        let id = SiteId(id);
        Volume::format_sized(dir.path(), VOLUME, id, perms, journal_file_bytes).expect("a store");
        let mut site = Self { dir, id, journal_file_bytes, flush_interval, volume: None };
        site.start();
        site
    }

    /// As [`new`](Self::new), with its store in this directory.
    pub fn below(id: u16, directory: &std::path::Path) -> Self {
        let dir = tempfile::tempdir_in(directory).expect("a directory");
        Self::in_directory(id, JOURNAL_FILE_BYTES, VolumeOptions::default().flush_interval, dir)
    }

    pub fn path(&self) -> &std::path::Path {
        self.dir.path()
    }

    pub fn volume(&self) -> &Arc<Volume> {
        self.volume.as_ref().expect("the site is up")
    }

    pub fn start(&mut self) {
        let limit = Instant::now() + Duration::from_secs(20);
        loop {
            let site_name = format!("site{}", self.id);
            let options = VolumeOptions {
                journal_file_bytes: self.journal_file_bytes,
                flush_interval: self.flush_interval,
                site_name,
                ..VolumeOptions::default()
            };
            match Volume::start(self.dir.path(), options) {
                Ok(volume) => {
                    self.volume = Some(volume);
                    return;
                }
                // The folding thread of the volume that crashed may still have the database open.
                Err(OpenError::Database(_)) if Instant::now() < limit => std::thread::sleep(Duration::from_millis(2)),
                Err(error) => panic!("site {} does not start: {error}", self.id),
            }
        }
    }

    /// As `kill -9`: nothing is flushed, folded or closed.
    pub fn crash(&mut self) {
        let weak = self.volume.take().map_or_else(Weak::new, |volume| Arc::downgrade(&volume));
        let limit = Instant::now() + Duration::from_secs(20);
        while weak.strong_count() > 0 {
            assert!(Instant::now() < limit, "somebody holds the volume");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// A copy of the store; the site is down.
    pub fn copy_store(&self) -> tempfile::TempDir {
        assert!(self.volume.is_none(), "the site is down");
        let memory = std::path::Path::new("/dev/shm");
        let copy = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let copy = copy.expect("a directory");
        copy_tree(self.dir.path(), copy.path());
        copy
    }

    /// The site goes down, and is up again with this store.
    pub fn restore(&mut self, copy: tempfile::TempDir) {
        self.crash();
        self.dir = copy;
        self.start();
    }

    /// Everything that was written to objects is there, and of the journal what was durable.
    pub fn lose_power(&mut self) {
        let durable = self.volume().durable();
        self.crash();
        power::lose(self.path(), durable.max(power::durable(self.path())));
        self.start();
    }

    pub fn restart(&mut self, cleanly: bool) {
        if cleanly {
            self.volume().close().expect("closed");
        }
        self.crash();
        self.start();
    }
}

fn copy_tree(from: &std::path::Path, to: &std::path::Path) {
    use std::fs::{File, create_dir_all, read_dir};
    for entry in read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            create_dir_all(&to).expect("a directory");
            copy_tree(&entry.path(), &to);
        } else {
            let (from, to) = (File::open(entry.path()).expect("a file"), File::create(to).expect("a file"));
            fs::content::holes::copy_sparse(&from, &to).expect("a copy");
        }
    }
}

/// A number from the environment.
pub fn env_number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Runs a test for many seeds: for one if `SYNCLINE_SEED` names it, for `SYNCLINE_SEEDS` of them, or for as many as fit into some seconds.
pub fn for_seeds(what: &str, seconds: u64, first: u64, run: impl Fn(u64)) {
    let done = run_seeds(what, HowMany::FitInto(seconds), first, run);
    eprintln!("{what}: {done} seeds");
}

/// As [`for_seeds`] for so many; times `SYNCLINE_TIMES`. How many it ran.
pub fn for_cases(what: &str, cases: u64, first: u64, run: impl Fn(u64)) -> u64 {
    run_seeds(what, HowMany::Cases(cases * env_number("SYNCLINE_TIMES").unwrap_or(1)), first, run)
}

enum HowMany {
    FitInto(u64),
    Cases(u64),
}

fn run_seeds(what: &str, how_many: HowMany, first: u64, run: impl Fn(u64)) -> u64 {
    if let Some(seed) = env_number("SYNCLINE_SEED") {
        run(seed);
        return 1;
    }
    let asked = env_number("SYNCLINE_SEEDS").map(HowMany::Cases);
    let how_many = asked.or_else(|| env_number("SYNCLINE_SECONDS").map(HowMany::FitInto)).unwrap_or(how_many);
    let first = env_number("SYNCLINE_FIRST_SEED").unwrap_or(first);
    let begun = Instant::now();
    let mut done = 0;
    while match how_many {
        HowMany::FitInto(seconds) => done == 0 || begun.elapsed() < Duration::from_secs(seconds),
        HowMany::Cases(cases) => done < cases,
    } {
        let seed = first + done;
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed)));
        if let Err(panic) = result {
            eprintln!("{what} failed: replay with SYNCLINE_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
        done += 1;
    }
    done
}
