//! Promise 4: in a sync directory, what returned is at the other sites, although the site that made it dies at that moment and is cut off.
//!
//! `SYNCLINE_SYNC_ROUNDS` sets how many sites are lost in each test (default 10), `SYNCLINE_SEED` replays a run. The long run:
//!
//! ```text
//! SYNCLINE_SYNC_ROUNDS=100 SYNCLINE_TEST_LIMIT_S=7200 cargo test -p syncline-integration --test sync -- --nocapture
//! ```
#![allow(clippy::unwrap_used)]

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use integration::cluster::{Cluster, Options};
use integration::crash::writer::Writer;
use integration::faults::pause;
use integration::link::Flow;
use integration::outcome::number_from_env;
use integration::seed::Seed;
use integration::site::Site;
use integration::sync_state::{self, SyncState, await_state};

/// Several at once, so that their waits share flushes and segments.
const WRITERS: u64 = 4;
/// Operations of a writer before the moment of the loss is drawn.
const WARM_UP: u64 = 10;
/// Longer than any wait here: that a call returned must never be because it gave up waiting.
const TIMEOUT: &str = "300s";
/// How long becoming in sync may take.
const SYNC_LIMIT: Duration = Duration::from_secs(60);
/// After so many rounds everything is compared, not just what the round wrote.
const WHOLE_EVERY: u64 = 10;

fn rounds() -> u64 {
    number_from_env("SYNCLINE_SYNC_ROUNDS", 10)
}

/// Sites with the sync directory `sync`, in sync with all others of site A.
struct Setting {
    cluster: Cluster,
    notes: PathBuf,
    seed: Seed,
    past: Vec<Writer>,
}

impl Setting {
    fn start(sites: usize, policy: &[(&str, &str)]) -> Self {
        let setting = Self::without_policy(sites);
        let policy = [policy, &[("timeout", TIMEOUT)]].concat();
        let peers: Vec<&str> = setting.cluster.sites()[1..].iter().map(|site| site.name.as_str()).collect();
        sync_state::make(setting.cluster.site(0), "sync", &policy, &peers, SYNC_LIMIT);
        setting.cluster.wait_level();
        setting
    }

    fn without_policy(sites: usize) -> Self {
        let seed = Seed::new(Seed::from_env("SYNCLINE_SEED"));
        let cluster = Cluster::start(sites, Options::default());
        let notes = cluster.directory().join("notes");
        fs::create_dir(&notes).unwrap();
        Self { cluster, notes, seed, past: Vec::new() }
    }

    fn sync(&self, site: usize) -> PathBuf {
        self.cluster.site(site).path("sync")
    }

    /// The writers of a round, at site A, in the middle of their work.
    fn write(&mut self, round: u64) -> Vec<Writer> {
        let program = Path::new(env!("CARGO_BIN_EXE_crash_writer"));
        let (at, notes) = (self.sync(0), self.notes.clone());
        let start = |number| Writer::start(program, &at, &notes, &format!("r{round}w{number}"), self.seed.next_u64());
        let mut writers: Vec<Writer> = (0..WRITERS).map(start).collect();
        writers.iter_mut().for_each(|writer| writer.await_acknowledged(WARM_UP));
        pause(&mut self.seed, 0, 500);
        writers
    }

    /// A dies and is cut off, in an order that the seed decides.
    fn lose(&mut self, site: usize) {
        let cut_first = self.seed.one_in(2);
        self.cluster.lose_site(site, cut_first);
    }

    fn bring_back(&mut self, site: usize) {
        self.cluster.site_mut(site).kill();
        self.cluster.network().heal_all();
        self.cluster.start_site(site);
    }

    /// Every site has what was acknowledged, and all have the same.
    fn level(&mut self, round: u64, writers: Vec<Writer>) {
        self.cluster.wait_level();
        for site in self.cluster.sites() {
            check_all(&writers, site).unwrap_or_else(|report| panic!("round {round}, all level: {report}"));
        }
        self.past.extend(writers);
        if (round + 1).is_multiple_of(WHOLE_EVERY) || round + 1 == rounds() {
            self.cluster.assert_equal();
            // Later losses must not have touched what earlier ones left.
            check_all(&self.past, self.cluster.site(1)).unwrap_or_else(|report| panic!("round {round}: {report}"));
        }
    }

    fn in_sync(&self, peers: &[usize]) {
        for peer in peers {
            let name = &self.cluster.site(*peer).name;
            await_state(self.cluster.site(0), "sync", name, SyncState::InSync, SYNC_LIMIT);
        }
    }
}

/// The number of operations that the writers logged as returned; all of them must be at the site.
fn check_all(writers: &[Writer], site: &Site) -> Result<u64, String> {
    let counts = writers.iter().map(|writer| writer.check(&site.path("sync")));
    counts.sum::<Result<u64, String>>().map_err(|report| format!("at site {}: {report}", site.name))
}

/// Until what was on its way when its origin was lost is applied: only then is the tree still.
fn settle(site: &Site) {
    let mut before = None;
    integration::outcome::eventually(Duration::from_secs(30), "replay comes to its end", || {
        let now = newest_change(&site.path("sync"));
        let same = before == Some(now);
        before = Some(now);
        // Longer than a segment takes from the socket to the disk.
        std::thread::sleep(Duration::from_millis(100));
        if same { Ok(()) } else { Err("it goes on".to_owned()) }
    });
}

/// Newest change time below a directory, and how many names there are.
fn newest_change(directory: &Path) -> (i64, i64, usize) {
    let mut newest = fs::symlink_metadata(directory).map_or((0, 0, 0), |m| (m.ctime(), m.ctime_nsec(), 1));
    for child in fs::read_dir(directory).into_iter().flatten().flatten() {
        let Ok(kind) = child.file_type() else { continue };
        let path = child.path();
        let meta = fs::symlink_metadata(&path).map_or((0, 0, 1), |m| (m.ctime(), m.ctime_nsec(), 1));
        let below = if kind.is_dir() { newest_change(&path) } else { meta };
        newest = (newest.0.max(below.0), newest.1.max(below.1), newest.2 + below.2);
    }
    newest
}

#[test]
fn what_returned_is_at_the_peer_when_its_origin_is_lost() {
    let mut setting = Setting::start(2, &[]);
    let mut acknowledged = 0;
    for round in 0..rounds() {
        let mut writers = setting.write(round);
        setting.lose(0);
        writers.iter_mut().for_each(Writer::await_end);
        settle(setting.cluster.site(1));
        match check_all(&writers, setting.cluster.site(1)) {
            Ok(count) => acknowledged += count,
            Err(report) => panic!("round {round}, lost: {report}"),
        }
        setting.bring_back(0);
        setting.in_sync(&[1]);
        setting.level(round, writers);
    }
    eprintln!("{acknowledged} acknowledged operations over {} lost sites", rounds());
}

/// The check can fail: the same loss in a directory whose writers don't wait.
#[test]
fn the_check_notices_what_an_asynchronous_directory_loses() {
    let mut setting = Setting::without_policy(2);
    fs::create_dir(setting.sync(0)).unwrap();
    setting.cluster.wait_level();
    let mut writers = setting.write(0);
    setting.cluster.network().between(0, 1, |conditions| conditions.flow = Flow::Stalled);
    for writer in &mut writers {
        let so_far = writer.progress().unwrap().acknowledged;
        writer.await_acknowledged(so_far + WARM_UP);
    }
    setting.lose(0);
    writers.iter_mut().for_each(Writer::await_end);
    settle(setting.cluster.site(1));
    for writer in &writers {
        assert!(writer.check(&setting.sync(1)).is_err(), "{} lost nothing: the check is blind", writer.name);
    }
    setting.bring_back(0);
    setting.level(0, writers);
}

/// With `majority`, any one of three may be lost: what returned is at one of the others.
#[test]
fn with_majority_any_one_of_three_may_be_lost() {
    let mut setting = Setting::start(3, &[("acks", "majority")]);
    let mut acknowledged = 0;
    for round in 0..rounds() {
        let mut writers = setting.write(round);
        let victim = setting.seed.below(3) as usize;
        setting.lose(victim);
        if victim == 0 {
            writers.iter_mut().for_each(Writer::await_end);
            let survivors = [1, 2].map(|index| {
                settle(setting.cluster.site(index));
                check_all(&writers, setting.cluster.site(index))
            });
            match survivors {
                [Ok(count), _] | [_, Ok(count)] => acknowledged += count,
                [Err(b), Err(c)] => panic!("round {round}: neither survivor has all:\n{b}\n{c}"),
            }
        } else {
            // They don't notice, and go on with the one that is left; which has it all at once.
            for writer in &mut writers {
                let so_far = writer.progress().unwrap().acknowledged;
                writer.await_acknowledged(so_far + WARM_UP);
            }
            writers.iter_mut().for_each(Writer::stop);
            let survivor = setting.cluster.site(3 - victim);
            settle(survivor);
            match check_all(&writers, survivor) {
                Ok(count) => acknowledged += count,
                Err(report) => panic!("round {round}, {victim} lost: {report}"),
            }
            check_all(&writers, setting.cluster.site(0)).unwrap();
        }
        setting.bring_back(victim);
        setting.in_sync(&[1, 2]);
        setting.level(round, writers);
    }
    eprintln!("{acknowledged} acknowledged operations over {} lost sites", rounds());
}

/// Not "soon": the very next call at the other site sees it, although that had looked before.
#[test]
fn what_returned_is_visible_at_once() {
    let setting = Setting::start(2, &[]);
    let (here, there) = (setting.sync(0), setting.sync(1));
    let mut log = OpenOptions::new().create(true).append(true).open(here.join("log")).unwrap();
    let mut len = 0;
    for number in 0..number_from_env("SYNCLINE_SYNC_ROUNDS", 10) * 5 {
        let (name, moved) = (format!("f{number}"), format!("m{number}"));
        let (at, seen) = (|name: &str| here.join(name), |name: &str| there.join(name));
        assert!(!seen(&name).exists() && !seen(&moved).exists());
        drop(File::create_new(at(&name)).unwrap());
        assert_eq!(fs::metadata(seen(&name)).unwrap().len(), 0, "create {number}");
        fs::write(at(&name), format!("written {number}")).unwrap();
        assert_eq!(fs::read_to_string(seen(&name)).unwrap(), format!("written {number}"), "write and close");
        fs::set_permissions(at(&name), fs::Permissions::from_mode(0o640)).unwrap();
        assert_eq!(fs::metadata(seen(&name)).unwrap().mode() & 0o777, 0o640, "chmod {number}");
        fs::rename(at(&name), at(&moved)).unwrap();
        assert!(seen(&moved).exists() && !seen(&name).exists(), "rename {number}");
        fs::hard_link(at(&moved), at(&name)).unwrap();
        assert_eq!(fs::metadata(seen(&name)).unwrap().nlink(), 2, "link {number}");
        fs::remove_file(at(&moved)).unwrap();
        assert!(!seen(&moved).exists(), "unlink {number}");
        symlink("target", at(&moved)).unwrap();
        assert_eq!(fs::read_link(seen(&moved)).unwrap(), Path::new("target"), "symlink {number}");
        let directory = format!("d{number}");
        fs::create_dir(at(&directory)).unwrap();
        assert_eq!(fs::read_dir(seen(&directory)).unwrap().count(), 0, "mkdir {number}");
        fs::remove_dir(at(&directory)).unwrap();
        assert!(!seen(&directory).exists(), "rmdir {number}");
        log.write_all(name.as_bytes()).unwrap();
        log.sync_data().unwrap();
        len += name.len() as u64;
        assert_eq!(fs::metadata(seen("log")).unwrap().len(), len, "append and fsync {number}");
    }
    drop(log);
    setting.cluster.assert_converges();
}

/// Programs at both sites create names in one sync directory at once: each waits for the other site, and none for long.
#[test]
fn writers_at_both_sites_never_hold_each_other_up() {
    let setting = Setting::start(2, &[]);
    let slowest = std::thread::scope(|scope| {
        let run = |(thread, site): (usize, usize)| {
            let directory = setting.sync(site);
            scope.spawn(move || {
                let one = |number: u64| {
                    let start = std::time::Instant::now();
                    fs::write(directory.join(format!("{thread}-{number}")), b"x").unwrap();
                    fs::rename(directory.join(format!("{thread}-{number}")), directory.join(format!("{thread}")))
                        .unwrap();
                    start.elapsed()
                };
                (0..rounds() * 20).map(one).max()
            })
        };
        let running: Vec<_> = [0, 1, 0, 1].into_iter().enumerate().map(run).collect();
        running.into_iter().filter_map(|thread| thread.join().unwrap()).max().unwrap()
    });
    // Generous: a wait for each other would last until its time is up.
    assert!(slowest < Duration::from_secs(10), "{slowest:?}");
    setting.cluster.assert_converges();
}

/// The kernel keeps the pages of such a write locked while it waits for the peer, whose own write must drop them here.
#[test]
fn o_sync_writers_of_one_file_at_both_sites_never_hold_each_other_up() {
    const LEN: usize = 8192;
    let cluster = Cluster::start(2, Options::default());
    sync_state::make(cluster.site(0), "sync", &[("timeout", "20s")], &["b"], SYNC_LIMIT);
    fs::write(cluster.site(0).path("sync/file"), vec![b'a'; LEN]).unwrap();
    let write = |site: usize| {
        // First opened for both, so that the kernel caches it.
        let flags = rustix::fs::OFlags::SYNC.bits() as i32;
        let path = cluster.site(site).path("sync/file");
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path).unwrap();
        file.read_exact_at(&mut [0; LEN], 0).unwrap();
        let one = |number: u64| {
            let begin = Instant::now();
            file.write_all_at(&[48 + site as u8; 100], number % 2 * 200).unwrap();
            begin.elapsed()
        };
        (0..40).map(one).max().unwrap()
    };
    let slowest = std::thread::scope(|scope| {
        let writers = [0, 1].map(|site| scope.spawn(move || write(site)));
        writers.map(|writer| writer.join().unwrap()).into_iter().max().unwrap()
    });
    // Far below the time after which a writer gives the peer up.
    assert!(slowest < Duration::from_secs(10), "{slowest:?}");
    cluster.assert_converges();
}
