//! The state machine of a sync directory and a peer, arrow by arrow, with links that are really cut.
#![allow(clippy::unwrap_used)]

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use integration::cluster::{Cluster, Options};
use integration::link::Flow;
use integration::outcome::eventually;
use integration::seed::Seed;
use integration::sync_state::{self, SyncState, await_state, directory, set, states, try_attribute};

/// The time limit of the directories here: so short that a test need not wait long, and long enough for a loaded machine.
const TIMEOUT: Duration = Duration::from_secs(3);
const TIMEOUT_TEXT: &str = "3s";
/// How long a change of state may take at most, on a loaded machine.
const LIMIT: Duration = Duration::from_secs(60);

fn two_in_sync(policy: &[(&str, &str)]) -> Cluster {
    let cluster = Cluster::start(2, Options::default());
    let policy = [policy, &[("timeout", TIMEOUT_TEXT)]].concat();
    sync_state::make(cluster.site(0), "sync", &policy, &["b"], LIMIT);
    cluster
}

fn state(cluster: &Cluster, peer: &str) -> SyncState {
    states(cluster.site(0), "sync").unwrap()[peer]
}

fn await_b(cluster: &Cluster, state: SyncState) {
    await_state(cluster.site(0), "sync", "b", state, LIMIT);
}

/// How long making a file with some bytes takes.
fn write(path: &Path) -> (Duration, std::io::Result<()>) {
    let start = Instant::now();
    let result = fs::write(path, b"some bytes");
    (start.elapsed(), result)
}

/// In sync → degraded → catching up → in sync, by a cut that lasts longer than the time limit.
#[test]
fn a_cut_degrades_after_the_timeout_and_healing_brings_it_back_in_sync() {
    let cluster = two_in_sync(&[]);
    let at = |name: &str| cluster.site(0).path("sync").join(name);
    // The directory itself says so too, and what is in it.
    let says = |path: &str, state: &str| {
        let shown = try_attribute(&cluster.site(0).path(path), "state").unwrap();
        assert!(shown.contains(state), "{path} is not {state}: {shown}");
    };
    write(&at("before")).1.unwrap();
    says("sync", "in sync");
    says("sync/before", "in sync");
    cluster.network().cut(0, 1);
    // The first caller waits until the time is over; then nobody does.
    let (first, result) = write(&at("while cut"));
    result.unwrap();
    assert!(first < LIMIT, "{first:?}");
    await_b(&cluster, SyncState::Degraded);
    for number in 0..20 {
        let (took, result) = write(&at(&format!("degraded {number}")));
        result.unwrap();
        assert!(took < TIMEOUT, "nobody waits for a peer that is lost: {took:?}");
    }
    assert_eq!(state(&cluster, "b"), SyncState::Degraded);
    says("sync/while cut", "degraded");
    assert!(!cluster.site(1).path("sync/while cut").exists());
    let directory = directory(cluster.site(0), "sync").unwrap();
    assert_eq!(SyncState::parse(&directory.state), Some(SyncState::Degraded));
    assert!(directory.peers[0].debt_records >= 21, "{directory:?}");
    // A slow link, so that catching up takes as long as it takes to be seen.
    for number in 0..8 {
        fs::write(at(&format!("large {number}")), Seed::new(number).bytes(1 << 20)).unwrap();
    }
    cluster.network().everywhere(|conditions| conditions.bytes_per_second = Some(2 << 20));
    cluster.network().heal_all();
    await_b(&cluster, SyncState::CatchingUp);
    // Who writes while it catches up gets no promise and doesn't wait for the whole backlog.
    cluster.network().everywhere(|conditions| conditions.bytes_per_second = None);
    await_b(&cluster, SyncState::InSync);
    assert!(cluster.site(1).path("sync/degraded 19").exists());
    let (_, result) = write(&at("in sync again"));
    result.unwrap();
    assert!(cluster.site(1).path("sync/in sync again").exists(), "what returned is there");
    cluster.assert_converges();
}

/// In sync → in sync: a cut that is over before the time limit is not seen in the state; callers wait for it.
#[test]
fn a_short_cut_only_delays() {
    let cluster = Cluster::start(2, Options::default());
    sync_state::make(cluster.site(0), "sync", &[("timeout", "300s")], &["b"], LIMIT);
    cluster.network().cut(0, 1);
    let path = cluster.site(0).path("sync/file");
    thread::scope(|scope| {
        let writer = scope.spawn(|| write(&path));
        thread::sleep(Duration::from_millis(500));
        assert!(!writer.is_finished(), "it returned although no peer has it");
        assert_ne!(state(&cluster, "b"), SyncState::Degraded);
        cluster.network().heal_all();
        writer.join().unwrap().1.unwrap();
    });
    assert_eq!(fs::read(cluster.site(1).path("sync/file")).unwrap(), b"some bytes");
    await_b(&cluster, SyncState::InSync);
    cluster.assert_converges();
}

/// A link that swallows everything ends no connection: the wait that times out degrades.
#[test]
fn a_silent_link_degrades() {
    let cluster = two_in_sync(&[]);
    cluster.network().between(0, 1, |conditions| conditions.flow = Flow::Stalled);
    write(&cluster.site(0).path("sync/silent")).1.unwrap();
    await_b(&cluster, SyncState::Degraded);
    cluster.network().heal_all();
    await_b(&cluster, SyncState::InSync);
    assert!(cluster.site(1).path("sync/silent").exists());
}

/// → catching up → in sync: a directory that becomes sync has a past that the peer lacks.
#[test]
fn a_directory_that_becomes_sync_catches_up_first() {
    let cluster = Cluster::start(2, Options::default());
    let directory = cluster.site(0).path("sync");
    fs::create_dir(&directory).unwrap();
    cluster.wait_level();
    cluster.network().cut(0, 1);
    fs::write(directory.join("before"), b"asynchronous").unwrap();
    set(&directory, "timeout", "300s");
    thread::scope(|scope| {
        // Setting it may wait already, or not: the directory is not in sync at the moment of the call.
        let setter = scope.spawn(|| set(&directory, "mode", "sync"));
        eventually(LIMIT, "it is shown as a sync directory", || {
            states(cluster.site(0), "sync").map(drop).ok_or_else(|| "not listed".to_owned())
        });
        for _ in 0..5 {
            assert_ne!(state(&cluster, "b"), SyncState::InSync, "the peer lacks what was written before");
        }
        cluster.network().heal_all();
        setter.join().unwrap();
    });
    await_b(&cluster, SyncState::InSync);
    assert!(cluster.site(1).path("sync/before").exists());
    // And it ends when the policy does.
    sync_state::try_unset(&directory, "mode").unwrap();
    assert!(states(cluster.site(0), "sync").is_none());
    cluster.network().cut(0, 1);
    let (took, result) = write(&directory.join("no longer sync"));
    result.unwrap();
    assert!(took < Duration::from_secs(5), "{took:?}");
    cluster.network().heal_all();
    cluster.assert_converges();
}

/// A daemon that starts doesn't know what its peers have: catching up until they said so, with and without them.
#[test]
fn a_restart_begins_catching_up() {
    let mut cluster = two_in_sync(&[]);
    write(&cluster.site(0).path("sync/one")).1.unwrap();
    for clean in [true, false] {
        cluster.network().cut(0, 1);
        if clean {
            cluster.site_mut(0).stop();
        } else {
            cluster.site_mut(0).kill();
        }
        cluster.start_site(0);
        assert_ne!(state(&cluster, "b"), SyncState::InSync, "nobody has been asked yet");
        await_b(&cluster, SyncState::Degraded);
        cluster.network().heal_all();
        await_b(&cluster, SyncState::InSync);
    }
    // The peer's restart, too.
    cluster.site_mut(1).kill();
    await_b(&cluster, SyncState::Degraded);
    cluster.start_site(1);
    await_b(&cluster, SyncState::InSync);
    write(&cluster.site(0).path("sync/two")).1.unwrap();
    assert!(cluster.site(1).path("sync/two").exists());
    cluster.assert_converges();
}

/// `fail`: EIO within the time limit, then at once and with nothing changed; what the failed call had made arrives later.
#[test]
fn fail_gives_eio_and_refuses_until_the_peer_is_back() {
    let cluster = two_in_sync(&[("on-loss", "fail")]);
    let at = |name: &str| cluster.site(0).path("sync").join(name);
    write(&at("before")).1.unwrap();
    let mut open = OpenOptions::new().append(true).open(at("before")).unwrap();
    cluster.network().cut(0, 1);
    let start = Instant::now();
    let error = fs::create_dir(at("failed")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()), "{error}");
    assert!(start.elapsed() < TIMEOUT + Duration::from_secs(10), "{:?}", start.elapsed());
    await_b(&cluster, SyncState::Degraded);
    let (took, result) = write(&at("refused"));
    assert_eq!(result.unwrap_err().raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    assert!(took < TIMEOUT, "a known loss is refused at once: {took:?}");
    assert!(!at("refused").exists(), "a refused call changes nothing");
    assert!(fs::rename(at("before"), at("renamed")).is_err() && at("before").exists());
    assert!(fs::remove_file(at("before")).is_err() && at("before").exists());
    // Plain writes don't wait; the flush says that they are not at the peer.
    open.write_all(b" and after").unwrap();
    assert!(open.sync_all().is_err());
    assert!(at("failed").exists(), "what failed by waiting stays here");
    assert!(!cluster.site(1).path("sync/failed").exists());
    cluster.network().heal_all();
    await_b(&cluster, SyncState::InSync);
    assert!(cluster.site(1).path("sync/failed").exists(), "and is at the peer once that is back");
    open.sync_all().unwrap();
    drop(open);
    assert_eq!(fs::read(cluster.site(1).path("sync/before")).unwrap(), b"some bytes and after");
    write(&at("afterwards")).1.unwrap();
    cluster.assert_converges();
    assert!(!cluster.site(1).path("sync/refused").exists());
}

/// `majority` of three: one peer that is cut off is degraded, the directory goes on and callers don't wait for it.
#[test]
fn majority_goes_on_with_one_of_two_peers() {
    let cluster = Cluster::start(3, Options::default());
    let policy = [("acks", "majority"), ("on-loss", "fail"), ("timeout", TIMEOUT_TEXT)];
    sync_state::make(cluster.site(0), "sync", &policy, &["b", "c"], LIMIT);
    let at = |name: &str| cluster.site(0).path("sync").join(name);
    for (cut, other) in [(1, 2), (2, 1)] {
        cluster.network().cut(0, cut);
        for number in 0..10 {
            let name = format!("{cut}-{number}");
            let (took, result) = write(&at(&name));
            result.unwrap();
            assert!(took < TIMEOUT, "one of two peers is enough: {took:?}");
            assert!(cluster.site(other).path("sync").join(&name).exists(), "{name} is at the one that is left");
        }
        let name = &cluster.site(cut).name;
        await_state(cluster.site(0), "sync", name, SyncState::Degraded, LIMIT);
        let directory = directory(cluster.site(0), "sync").unwrap();
        assert_eq!(SyncState::parse(&directory.state), Some(SyncState::InSync), "{directory:?}");
        cluster.network().heal_all();
        await_state(cluster.site(0), "sync", name, SyncState::InSync, LIMIT);
    }
    // Both gone is no majority.
    cluster.network().cut(0, 1);
    cluster.network().cut(0, 2);
    assert!(write(&at("alone")).1.is_err());
    cluster.network().heal_all();
    for peer in ["b", "c"] {
        await_state(cluster.site(0), "sync", peer, SyncState::InSync, LIMIT);
    }
    cluster.assert_converges();
}

/// What is shown is never better than it is: while the link comes and goes, whenever A says "in sync", every change that had returned
/// before it was asked is at B.
#[test]
fn in_sync_is_never_shown_while_the_peer_lacks_something() {
    let cluster = Cluster::start(2, Options::default());
    sync_state::make(cluster.site(0), "sync", &[("timeout", "200ms")], &["b"], LIMIT);
    let stop = AtomicBool::new(false);
    let returned = std::sync::atomic::AtomicU64::new(0);
    let (in_sync, otherwise) = thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0;
            while !stop.load(Relaxed) {
                fs::write(cluster.site(0).path(format!("sync/{number}")), b"x").unwrap();
                number += 1;
                returned.store(number, Relaxed);
                // A steady writer, not a flood.
                thread::sleep(Duration::from_millis(2));
            }
        });
        let sampler = scope.spawn(|| {
            let (mut in_sync, mut otherwise) = (0, 0);
            while !stop.load(Relaxed) {
                let before = returned.load(Relaxed);
                let shown = state(&cluster, "b");
                // What B had at the moment of the answer it has still; what it got since can only hide a lie in a moment that is short:
                // the link is cut for far longer.
                if shown == SyncState::InSync {
                    in_sync += 1;
                    let last = before.checked_sub(1).map(|last| cluster.site(1).path(format!("sync/{last}")));
                    assert!(last.is_none_or(|last| last.exists()), "in sync is shown, and B lacks change {before}");
                } else {
                    otherwise += 1;
                }
            }
            (in_sync, otherwise)
        });
        let ends = EndOnDrop(&stop);
        for _ in 0..5 {
            thread::sleep(Duration::from_millis(700));
            cluster.network().cut(0, 1);
            thread::sleep(Duration::from_millis(1500));
            cluster.network().heal_all();
        }
        eventually(LIMIT, "in sync at the end", || match state(&cluster, "b") {
            SyncState::InSync => Ok(()),
            other => Err(format!("{other:?}")),
        });
        drop(ends);
        sampler.join().unwrap()
    });
    assert!(in_sync > 0 && otherwise > 0, "{in_sync} samples in sync, {otherwise} not: the test saw only one side");
    cluster.assert_converges();
}

/// The threads of a scope must end when the test fails, too.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}
