//! A site whose store comes back older than its peers know it takes what it lost back from them and goes on.
//!
//! `SYNCLINE_SEED` replays a run.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use integration::cluster::{Cluster, Options};
use integration::crash::model::Model;
use integration::faults::pause;
use integration::outcome::eventually;
use integration::seed::Seed;
use integration::site::succeed;
use integration::sync_state::{self, SyncState, await_state};
use integration::tree;

/// How long getting everything back may take.
const BACK: Duration = Duration::from_secs(120);

/// What a site wrote: below `directory`, as the model says.
struct Written {
    directory: &'static str,
    model: Model,
}

impl Written {
    fn new(cluster: &Cluster, site: usize, directory: &'static str, seed: u64) -> Self {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        fs::create_dir(cluster.site(site).path(directory)).unwrap();
        Self { directory, model: Model::new(seed) }
    }

    fn more(&mut self, cluster: &Cluster, site: usize, count: u64) {
        let root = cluster.site(site).path(self.directory);
        for _ in 0..count {
            let operation = self.model.decide();
            operation.run(&root).unwrap_or_else(|e| panic!("{operation:.200?} in {}: {e}", root.display()));
            self.model.take(&operation);
        }
    }

    fn await_at(&self, cluster: &Cluster, site: usize) {
        let root = cluster.site(site).path(self.directory);
        eventually(BACK, &format!("{} is as it was written", root.display()), || {
            let found = self.model.differences(&tree::read(&root).map_err(|e| e.to_string())?);
            if found.is_empty() { Ok(()) } else { Err(format!("{found:#?}")) }
        });
    }
}

/// The store of a site that doesn't run, kept as it is now.
struct Copy {
    store: PathBuf,
    copy: PathBuf,
}

impl Copy {
    fn keep(cluster: &Cluster, site: usize) -> Self {
        let (store, copy) = (cluster.site(site).store.clone(), cluster.directory().join("older"));
        let _ = fs::remove_dir_all(&copy);
        copy_tree(&store, &copy);
        Self { store, copy }
    }

    fn put_back(&self) {
        fs::remove_dir_all(&self.store).unwrap();
        copy_tree(&self.copy, &self.store);
    }
}

fn copy_tree(from: &Path, to: &Path) {
    succeed(Command::new("cp").args(["-a", "--sparse=always", "-T"]).arg(from).arg(to));
}

/// A volume with some past, also in a sync directory.
fn start(sites: usize) -> (Cluster, Seed, Written) {
    let mut seed = Seed::new(Seed::from_env("SYNCLINE_SEED"));
    let cluster = Cluster::start(sites, Options::default());
    let peers: Vec<&str> = cluster.sites()[1..].iter().map(|site| site.name.as_str()).collect();
    sync_state::make(cluster.site(0), "sync", &[("timeout", "300s")], &peers, BACK);
    let mut written = Written::new(&cluster, 0, "of-a", seed.next_u64());
    written.more(&cluster, 0, 200);
    cluster.wait_level();
    (cluster, seed, written)
}

/// All sites write once more, and end up equal.
fn go_on(cluster: &Cluster, round: &str) {
    for site in cluster.sites() {
        fs::write(site.path(format!("of-a/{round} then {}", site.name)), &site.name).unwrap();
    }
    for peer in &cluster.sites()[1..] {
        await_state(cluster.site(0), "sync", &peer.name, SyncState::InSync, BACK);
    }
    let last = format!("sync/{round} at last");
    fs::write(cluster.site(0).path(&last), b"once more").unwrap();
    assert!(cluster.site(1).path(&last).exists(), "a sync directory is sync again");
    cluster.assert_converges();
    for site in cluster.sites() {
        fs::remove_file(site.path(format!("of-a/{round} then {}", site.name))).unwrap();
    }
    cluster.assert_converges();
}

#[test]
fn an_older_store_gets_everything_back_and_goes_on() {
    let (mut cluster, _, mut written) = start(2);
    for round in 0..2 {
        cluster.site_mut(0).stop();
        let older = Copy::keep(&cluster, 0);
        cluster.start_site(0);
        written.more(&cluster, 0, 300);
        for number in 0..20 {
            fs::write(cluster.site(0).path(format!("sync/{round}-{number}")), b"waited for").unwrap();
        }
        cluster.wait_level();
        cluster.site_mut(0).stop();
        older.put_back();
        cluster.start_site(0);
        written.await_at(&cluster, 0);
        written.await_at(&cluster, 1);
        for number in 0..20 {
            assert!(cluster.site(0).path(format!("sync/{round}-{number}")).exists());
        }
        go_on(&cluster, &format!("round {round}"));
        // The new incarnation is as durable as any.
        written.more(&cluster, 0, 50);
        cluster.crash_site(0);
        written.await_at(&cluster, 0);
        cluster.assert_converges();
    }
}

/// One peer has all of it, the other was cut off and has not; and that one changed things meanwhile.
#[test]
fn what_only_one_of_two_peers_has_reaches_all_three() {
    let (mut cluster, mut seed, mut written) = start(3);
    cluster.site_mut(0).stop();
    let older = Copy::keep(&cluster, 0);
    cluster.start_site(0);
    cluster.network().cut_off(2);
    let mut elsewhere = Written::new(&cluster, 2, "of-c", seed.next_u64());
    elsewhere.more(&cluster, 2, 200);
    written.more(&cluster, 0, 300);
    written.await_at(&cluster, 1);
    cluster.site_mut(0).stop();
    older.put_back();
    // First it meets the one that knows less than the other.
    let b_first = seed.one_in(2);
    cluster.network().heal_all();
    cluster.network().cut(0, if b_first { 2 } else { 1 });
    cluster.network().cut(1, 2);
    cluster.start_site(0);
    pause(&mut seed, 500, 3000);
    cluster.network().heal_all();
    for site in 0..3 {
        written.await_at(&cluster, site);
        elsewhere.await_at(&cluster, site);
    }
    go_on(&cluster, "later");
}

/// The store as a crash left it, put back later: what the peer got in the sync lane after it is all that is lost here.
#[test]
fn a_store_from_a_crash_gets_back_what_was_acknowledged_after_it() {
    let (mut cluster, mut seed, mut written) = start(2);
    for round in 0..3 {
        written.more(&cluster, 0, 50);
        cluster.site_mut(0).kill();
        let older = Copy::keep(&cluster, 0);
        cluster.start_site(0);
        await_state(cluster.site(0), "sync", "b", SyncState::InSync, BACK);
        let names: Vec<String> = (0..30).map(|number| format!("sync/{round}-{number}")).collect();
        for name in &names {
            fs::write(cluster.site(0).path(name), name).unwrap();
        }
        fs::rename(cluster.site(0).path(&names[0]), cluster.site(0).path(format!("sync/moved {round}"))).unwrap();
        fs::remove_file(cluster.site(0).path(&names[1])).unwrap();
        pause(&mut seed, 0, 50);
        let cut_first = seed.one_in(2);
        cluster.lose_site(0, cut_first);
        cluster.site_mut(0).kill();
        older.put_back();
        cluster.network().heal_all();
        cluster.start_site(0);
        eventually(BACK, "everything that returned is back", || {
            let sync = cluster.site(0).path("sync");
            let whole =
                |name: &String| fs::read(cluster.site(0).path(name)).is_ok_and(|bytes| bytes == name.as_bytes());
            let there = names[2..].iter().all(whole) && sync.join(format!("moved {round}")).exists();
            let gone = names[..2].iter().all(|name| !cluster.site(0).path(name).exists());
            if there && gone { Ok(()) } else { Err(format!("there: {there}, gone: {gone}")) }
        });
        go_on(&cluster, &format!("round {round}"));
    }
}

/// Taking it back is broken off again and again, by the death of either side and by the link.
#[test]
fn taking_it_back_may_be_broken_off_at_any_moment() {
    let (mut cluster, mut seed, mut written) = start(2);
    cluster.site_mut(0).stop();
    let older = Copy::keep(&cluster, 0);
    cluster.start_site(0);
    written.more(&cluster, 0, 300);
    for number in 0..24 {
        fs::write(cluster.site(0).path(format!("large-{number}")), Seed::new(number).bytes(1 << 20)).unwrap();
    }
    cluster.wait_level();
    cluster.site_mut(0).stop();
    older.put_back();
    // So that it takes as long as there are breaks.
    cluster.network().everywhere(|conditions| conditions.bytes_per_second = Some(16 << 20));
    cluster.start_site(0);
    for _ in 0..6 {
        pause(&mut seed, 0, 800);
        match seed.below(3) {
            0 => cluster.crash_site(0),
            1 => cluster.crash_site(1),
            _ => {
                cluster.network().cut_all();
                cluster.network().heal_all();
            }
        }
    }
    cluster.network().everywhere(|conditions| conditions.bytes_per_second = None);
    written.await_at(&cluster, 0);
    for number in 0..24 {
        eventually(BACK, "large files are back", || {
            let bytes = fs::read(cluster.site(0).path(format!("large-{number}"))).map_err(|e| e.to_string())?;
            if bytes == Seed::new(number).bytes(1 << 20) { Ok(()) } else { Err(format!("{} bytes", bytes.len())) }
        });
    }
    go_on(&cluster, "after all");
}
