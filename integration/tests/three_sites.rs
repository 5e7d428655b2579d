//! Three sites, each connected to each.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;

use integration::cluster::{Cluster, Options};
use integration::crash::model::Model;
use integration::faults::Flapping;
use integration::outcome::number_from_env;
use integration::real_tree::{Amount, make};
use integration::seed::Seed;
use integration::tree;

/// Every change of every kind, as the seed says.
fn write(directory: &Path, seed: u64, count: u64) -> Model {
    fs::create_dir(directory).unwrap();
    let mut model = Model::new(seed);
    for number in 0..count {
        let operation = model.decide();
        operation
            .run(directory)
            .unwrap_or_else(|e| panic!("operation {number} of seed {seed}, {operation:.200?}: {e}"));
        model.take(&operation);
    }
    model
}

/// All sites write at once, each in its own directory; everywhere all three directories must be as their writers left them.
fn write_at_all(cluster: &Cluster, name: &str, seed: u64, count: u64) -> Vec<(String, Model)> {
    thread::scope(|scope| {
        let start = |index: usize| {
            let directory = format!("{name}-{index}");
            let path = cluster.site(index).path(&directory);
            scope.spawn(move || (directory, write(&path, seed ^ index as u64, count)))
        };
        let running: Vec<_> = (0..cluster.sites().len()).map(start).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn assert_written(cluster: &Cluster, written: &[(String, Model)]) {
    for site in cluster.sites() {
        for (directory, model) in written {
            let found = model.differences(&tree::read(&site.path(directory)).unwrap());
            assert!(found.is_empty(), "{directory} at site {}: {found:#?}", site.name);
        }
    }
}

#[test]
fn writes_at_all_three_reach_all_three() {
    let seed = Seed::from_env("SYNCLINE_TEST_SEED");
    let cluster = Cluster::start(3, Options::default());
    // Modes made here must not depend on who runs the test.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let written = write_at_all(&cluster, "model", seed, number_from_env("SYNCLINE_TEST_OPERATIONS", 2000));
    for (index, site) in cluster.sites().iter().enumerate() {
        make(&site.path(format!("tree-{index}")), Amount { files: 300, bytes: 8 << 20 }, seed).unwrap();
    }
    cluster.assert_converges();
    assert_written(&cluster, &written);
    for site in cluster.sites() {
        let status = site.status();
        assert_eq!(status.peers.len(), 2, "{status:?}");
        assert!(status.is_level() && status.peers.iter().all(|peer| peer.connected), "{status:?}");
    }
}

#[test]
fn a_site_that_joins_later_and_one_that_was_away_get_everything() {
    let seed = Seed::from_env("SYNCLINE_TEST_SEED");
    let mut cluster = Cluster::prepare(3, Options::default());
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    cluster.site(0).init();
    cluster.start_site(0);
    let token = cluster.site(0).invite();
    cluster.site(1).join(&token);
    cluster.start_site(1);
    make(&cluster.site(0).path("early"), Amount { files: 200, bytes: 4 << 20 }, seed).unwrap();
    symlink("early", cluster.site(1).path("link")).unwrap();
    let token = cluster.site(1).invite();
    cluster.site(2).join(&token);
    cluster.start_site(2);
    cluster.assert_converges();

    cluster.site_mut(1).stop();
    fs::write(cluster.site(0).path("while b was away"), b"from a").unwrap();
    fs::write(cluster.site(2).path("while b was away too"), b"from c").unwrap();
    cluster.start_site(1);
    cluster.assert_converges();
    assert_eq!(fs::read(cluster.site(1).path("while b was away too")).unwrap(), b"from c");
}

/// Records that depend on each other arrive over links that come and go: none is applied before what it needs.
#[test]
fn links_that_come_and_go_delay_and_lose_nothing() {
    let seed = Seed::from_env("SYNCLINE_TEST_SEED");
    let cluster = Cluster::start(3, Options::default());
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let flapping = Flapping::start(cluster.network().clone(), seed, 400);
    let written = write_at_all(&cluster, "flap", seed, number_from_env("SYNCLINE_TEST_OPERATIONS", 2000));
    // A chain of causes through all sites while the links flap: each continues what the one before made.
    let mut previous: Option<usize> = None;
    for round in 0..9 {
        let (site, name) = (round % 3, format!("chain/{round}"));
        if let Some(before) = previous {
            let wanted = cluster.site(site).path(format!("chain/{before}"));
            integration::outcome::eventually(std::time::Duration::from_secs(60), "the chain goes on", || {
                fs::metadata(&wanted).map(drop).map_err(|e| e.to_string())
            });
            fs::rename(&wanted, cluster.site(site).path(&name)).unwrap();
        } else {
            fs::create_dir(cluster.site(site).path("chain")).unwrap();
            fs::write(cluster.site(site).path(&name), b"link of the chain").unwrap();
        }
        previous = Some(round);
    }
    assert!(flapping.cuts() > 0);
    drop(flapping);
    cluster.assert_converges();
    assert_written(&cluster, &written);
    assert_eq!(fs::read(cluster.site(1).path("chain/8")).unwrap(), b"link of the chain");
}
