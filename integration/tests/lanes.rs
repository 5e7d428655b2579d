//! Lanes share a link by weight, and a full backlog in one holds no other up. Measured in bytes, on a link whose rate is limited and whose
//! queue is bounded and shared by all connections.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::Duration;

use integration::cluster::{Cluster, Options};
use integration::outcome::eventually;
use integration::seed::Seed;
use integration::site::Site;
use integration::sync_state::{self, SyncState, await_state, set};

/// The default weights.
const WEIGHTS: [(&str, u64); 3] = [("high", 8), ("normal", 4), ("bulk", 1)];
/// What is already on its way when another lane gets something: sent and not yet acknowledged, in both ends' buffers, and what a status shows late.
const ON_ITS_WAY: u64 = 6 << 20;
const RATE: u64 = 12 << 20;
const LIMIT: Duration = Duration::from_secs(120);

/// Bytes that the peer lacks of a lane.
fn lacks(site: &Site, lane: &str) -> u64 {
    let status = site.status();
    status.peers[0].lane(lane).unwrap().behind_bytes.unwrap_or(u64::MAX)
}

/// A directory for each asynchronous lane.
fn directories(cluster: &Cluster) {
    for (lane, _) in WEIGHTS {
        let path = cluster.site(0).path(lane);
        fs::create_dir(&path).unwrap();
        set(&path, "priority", lane);
    }
}

/// Files of bytes that don't compress.
fn fill(cluster: &Cluster, lane: &str, mib: u64) {
    for number in 0..mib {
        let bytes = Seed::new(number ^ lane.len() as u64).bytes(1 << 20);
        fs::write(cluster.site(0).path(format!("{lane}/{number}")), bytes).unwrap();
    }
}

#[test]
fn a_backlog_in_bulk_slows_normal_by_no_more_than_the_weights_say() {
    let cluster = Cluster::start(2, Options::default());
    directories(&cluster);
    cluster.wait_level();
    cluster.network().everywhere(|conditions| conditions.bytes_per_second = Some(RATE));
    cluster.network().cut(0, 1);
    let (bulk, normal) = (72, 48);
    fill(&cluster, "bulk", bulk);
    fill(&cluster, "normal", normal);
    cluster.network().heal_all();
    eventually(LIMIT, "normal is level", || match lacks(cluster.site(0), "normal") {
        0 => Ok(()),
        left => Err(format!("{left} bytes left")),
    });
    let went = (bulk << 20) - lacks(cluster.site(0), "bulk").min(bulk << 20);
    let fair = (normal << 20) * WEIGHTS[2].1 / WEIGHTS[1].1;
    eprintln!("bulk: {went} bytes while {} of normal went; by weight: {fair}", normal << 20);
    assert!(went <= fair + ON_ITS_WAY, "bulk took {went} bytes, by weight it is {fair}");
    assert!(went + ON_ITS_WAY >= fair && went > 0, "bulk starved: {went} bytes, by weight it is {fair}");
    cluster.network().everywhere(|conditions| conditions.bytes_per_second = None);
    cluster.assert_converges();
}

#[test]
fn the_sync_lane_goes_through_a_backlog_of_the_others() {
    let cluster = Cluster::start(2, Options::default());
    directories(&cluster);
    sync_state::make(cluster.site(0), "sync", &[("timeout", "300s")], &["b"], LIMIT);
    cluster.wait_level();
    cluster.network().everywhere(|conditions| conditions.bytes_per_second = Some(RATE));
    let backlog = 96;
    fill(&cluster, "bulk", backlog / 2);
    fill(&cluster, "normal", backlog / 2);
    let (before, count) = (lacks(cluster.site(0), "bulk") + lacks(cluster.site(0), "normal"), 20);
    for number in 0..count {
        let name = format!("sync/{number}");
        fs::write(cluster.site(0).path(&name), b"urgent").unwrap();
        assert!(cluster.site(1).path(&name).exists());
    }
    let after = lacks(cluster.site(0), "bulk") + lacks(cluster.site(0), "normal");
    eprintln!("{} bytes of {before} went while {count} sync writes returned", before - after);
    assert!(after > 0, "the backlog went first: nothing was proved");
    // Each waits for what is in the link's queue, not for the backlog.
    let each = (before - after) / count;
    assert!(each < 2 << 20, "{each} bytes of the backlog went before each sync write");
    cluster.network().everywhere(|conditions| conditions.bytes_per_second = None);
    cluster.assert_converges();
}

/// A limit, a pause and their ends hold from the moment they are set, in the lane that they name.
#[test]
fn limit_pause_and_resume_hold_at_once_in_their_lane() {
    let cluster = Cluster::start(2, Options::default());
    directories(&cluster);
    sync_state::make(cluster.site(0), "sync", &[("timeout", "1s")], &["b"], LIMIT);
    cluster.wait_level();
    let site = cluster.site(0);
    site.flow("pause", &["--lane", "bulk"]);
    fill(&cluster, "bulk", 4);
    fill(&cluster, "normal", 2);
    eventually(LIMIT, "normal is level", || match lacks(site, "normal") {
        0 => Ok(()),
        left => Err(format!("{left} bytes left")),
    });
    assert!(lacks(site, "bulk") >= 4 << 20, "a paused lane ships nothing");
    site.flow("limit", &["1MiB", "--lane", "bulk"]);
    site.flow("resume", &["--lane", "bulk"]);
    let start = std::time::Instant::now();
    eventually(LIMIT, "bulk is level", || match lacks(site, "bulk") {
        0 => Ok(()),
        left => Err(format!("{left} bytes left")),
    });
    assert!(start.elapsed() > Duration::from_secs(2), "4 MiB at 1 MiB/s in {:?}", start.elapsed());
    // A paused sync lane is a peer that doesn't answer.
    site.flow("pause", &["--lane", "sync"]);
    fs::write(site.path("sync/paused"), b"x").unwrap();
    await_state(site, "sync", "b", SyncState::Degraded, LIMIT);
    assert!(!cluster.site(1).path("sync/paused").exists());
    site.flow("resume", &["--lane", "sync"]);
    await_state(site, "sync", "b", SyncState::InSync, LIMIT);
    assert!(cluster.site(1).path("sync/paused").exists());
    cluster.assert_converges();
}
