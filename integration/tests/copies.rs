//! `copy_file_range` in a mount: the bytes are not shipped again, and replicas are equal whatever a peer has done to the source.
#![allow(clippy::unwrap_used)]

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use integration::cluster::{Cluster, Options};
use integration::outcome::eventually;
use integration::seed::Seed;

const LIMIT: Duration = Duration::from_secs(120);
const MB: usize = 1 << 20;

fn copy(from: &Path, to: &Path) {
    let (from, to) = (File::open(from).unwrap(), File::create(to).unwrap());
    let len = from.metadata().unwrap().len();
    let (mut at, mut to_at) = (0, 0);
    while at < len {
        let rest = (len - at) as usize;
        let copied = rustix::fs::copy_file_range(&from, Some(&mut at), &to, Some(&mut to_at), rest);
        assert!(copied.unwrap() > 0);
    }
}

#[test]
fn a_copy_of_a_large_file_ships_next_to_nothing() {
    let cluster = Cluster::start(2, Options::default());
    let seed = Seed::from_env("SYNCLINE_TEST_SEED");
    let content = Seed::new(seed).bytes(64 * MB);
    fs::write(cluster.site(0).path("a"), &content).unwrap();
    cluster.site(0).wait(LIMIT);
    let before = cluster.network().bytes();
    assert!(before > content.len() as u64, "the network counts what is shipped");
    copy(&cluster.site(0).path("a"), &cluster.site(0).path("b"));
    cluster.site(0).wait(LIMIT);
    let shipped = cluster.network().bytes() - before;
    assert!(shipped < MB as u64, "{shipped} bytes were shipped");
    assert!(fs::read(cluster.site(0).path("b")).unwrap() == content, "the copy is the file");
    assert!(fs::read(cluster.site(1).path("b")).unwrap() == content, "the copy at the peer is the file");
    cluster.assert_converges();
}

#[test]
fn a_copy_of_what_a_peer_has_changed_is_shipped_with_its_bytes() {
    let cluster = Cluster::start(2, Options::default());
    let seed = Seed::from_env("SYNCLINE_TEST_SEED");
    let content = Seed::new(seed).bytes(6 * MB);
    fs::write(cluster.site(0).path("a"), &content).unwrap();
    cluster.site(0).wait(LIMIT);
    cluster.network().cut(0, 1);
    let changed = OpenOptions::new().write(true).open(cluster.site(1).path("a")).unwrap();
    changed.write_all_at(b"other", 2_500_000).unwrap();
    changed.sync_all().unwrap();
    drop(changed);
    copy(&cluster.site(0).path("a"), &cluster.site(0).path("b"));
    cluster.network().heal(0, 1);
    eventually(LIMIT, "the copy is at the peer", || {
        let there = fs::read(cluster.site(1).path("b")).map_err(|error| error.to_string())?;
        if there == content { Ok(()) } else { Err(format!("{} bytes", there.len())) }
    });
    cluster.assert_converges();
    assert!(cluster.site(0).log().contains("it has to come with its bytes"), "the bytes were asked for");
}
