//! A store that comes back older than its peers know it: no position and no file id is used twice.

mod common;

use std::path::Path;

use common::Site;
use common::work::ROOT;
use fs::replay::ReplayError;
use fs::ship::{Copies, ShipRecord};
use proto::history::Resume;
use proto::hlc::Hlc;
use proto::ids::{FileId, Incarnation, Lane, LanePoint, Seq};
use proto::record::Kind;

const LANE: Lane = Lane::Normal;
const TOP: FileId = FileId::ROOT;
const NOTHING: [Vec<LanePoint>; 4] = [const { Vec::new() }; 4];

fn point(incarnation: u32, seq: u64) -> LanePoint {
    LanePoint { incarnation: Incarnation(incarnation), seq: Seq(seq) }
}

fn create(site: &Site, name: &str) -> FileId {
    site.volume().create(ROOT, TOP, name.as_bytes(), Kind::Regular, 0o644).expect("a file").file
}

fn create_some(site: &Site, name: &str, count: u32) -> Vec<FileId> {
    (0..count).map(|index| create(site, &format!("{name}-{index}"))).collect()
}

fn read(site: &Site, after: Seq) -> Vec<ShipRecord> {
    let volume = site.volume();
    volume.wait_durable(volume.appended()).expect("durable");
    volume.read_lane(LANE, after, 1 << 20, Copies::ByValue).expect("the lane")
}

/// All that the peer lacks, each record in its own incarnation.
fn send(from: &Site, to: &Site) -> Option<ReplayError> {
    let at = to.volume().frontier(from.id, LANE);
    let Resume::After(at) = from.volume().lane_history(LANE).resume(at, Seq(u64::MAX), Seq(1)) else {
        panic!("records don't lead on from {at}");
    };
    to.volume().note_histories(from.id, &from.volume().own_histories()).expect("noted");
    for shipped in read(from, at.seq) {
        let replayed = to.volume().replay(from.id, shipped.incarnation, LANE, &[shipped.record]);
        if replayed.stopped.is_some() {
            return replayed.stopped;
        }
    }
    None
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            std::fs::create_dir_all(&target).expect("a directory");
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}

/// Two sites; the first has lost what it made after its fourth record, and the other has that.
fn restored() -> (Site, Site, Vec<FileId>) {
    let (mut origin, peer) = (Site::new(1), Site::new(2));
    create_some(&origin, "kept", 4);
    origin.volume().close().expect("closed");
    origin.crash();
    let older = tempfile::tempdir().expect("a directory");
    copy(origin.path(), older.path());
    origin.start();
    let lost = create_some(&origin, "lost", 3);
    assert!(send(&origin, &peer).is_none());
    origin.crash();
    std::fs::remove_dir_all(origin.path()).expect("removed");
    std::fs::create_dir(origin.path()).expect("a directory");
    copy(older.path(), origin.path());
    origin.start();
    assert_eq!(origin.volume().lane_head(LANE).appended, Seq(4));
    (origin, peer, lost)
}

#[test]
fn neither_positions_nor_file_ids_are_used_twice() {
    let (mut origin, peer, lost) = restored();
    let opened = origin.volume().begin_incarnation(Incarnation(1), &NOTHING).expect("opened");
    assert_eq!((opened, origin.volume().incarnation()), (Incarnation(2), Incarnation(2)));
    let file = create(&origin, "new");
    assert!(!lost.contains(&file) && file.counter() > 1 << 28, "{file}");
    let theirs = peer.volume().frontier(origin.id, LANE);
    assert_eq!(theirs, point(1, 7));
    assert_eq!(origin.volume().lane_history(LANE).resume(theirs, Seq(5), Seq(1)), Resume::LostTail);

    // As if the peer's state had been taken in.
    let recovered = [vec![], vec![], vec![theirs], vec![]];
    assert_eq!(origin.volume().begin_incarnation(Incarnation(1), &recovered).expect("opened"), Incarnation(3));
    for clean in [true, false] {
        origin.restart(clean);
        assert_eq!(origin.volume().incarnation(), Incarnation(3), "it survives every end");
        create(&origin, &format!("after-{clean}"));
    }
    let made: Vec<_> = read(&origin, Seq(3)).iter().map(|read| (read.incarnation.0, read.record.seq.0)).collect();
    assert_eq!(made, [(1, 4), (2, 5), (3, 6), (3, 7)]);
    assert!(!lost.contains(&create(&origin, "newest")));
}

#[test]
fn the_giver_of_a_lost_tail_goes_on_with_the_next_incarnation() {
    let (mut origin, mut peer, _) = restored();
    let recovered = [vec![], vec![], vec![peer.volume().frontier(origin.id, LANE)], vec![]];
    origin.volume().begin_incarnation(Incarnation(1), &recovered).expect("opened");
    create(&origin, "new");
    create(&origin, "newer");
    assert!(send(&origin, &peer).is_none());
    assert_eq!(peer.volume().frontier(origin.id, LANE), point(2, 6));
    assert!(send(&origin, &peer).is_none(), "nothing comes twice");
    peer.restart(false);
    origin.restart(false);
    assert_eq!(peer.volume().history_of(origin.id, LANE), origin.volume().lane_history(LANE));
    create(&origin, "newest");
    assert!(send(&origin, &peer).is_none());
    assert_eq!(peer.volume().frontier(origin.id, LANE), point(2, 7));
}

#[test]
fn a_record_made_upon_the_lost_tail_waits_until_that_is_back() {
    let (origin, peer, lost) = restored();
    peer.volume().unlink(TOP, b"lost-2").expect("removed");
    let seen = |stopped: &Option<ReplayError>| matches!(stopped, Some(ReplayError::MissingDep(dep)) if dep.point() == point(1, 7));
    assert!(seen(&send(&peer, &origin)));
    // Own records that are no answer to it don't make it.
    origin.volume().begin_incarnation(Incarnation(1), &NOTHING).expect("opened");
    create_some(&origin, "other", 5);
    assert!(seen(&send(&peer, &origin)));
    let recovered = [vec![], vec![], vec![point(1, 7)], vec![]];
    origin.volume().begin_incarnation(Incarnation(1), &recovered).expect("opened");
    let stopped = send(&peer, &origin);
    assert!(!seen(&stopped), "{stopped:?} for {lost:?}");
}

#[test]
fn a_frontier_knows_the_clock_of_its_record() {
    let (mut origin, mut peer) = (Site::new(1), Site::new(2));
    create_some(&origin, "file", 3);
    assert!(send(&origin, &peer).is_none());
    for _ in 0..2 {
        let frontier = peer.volume().frontiers().expect("frontiers")[0];
        assert_eq!(frontier.point, point(1, 3));
        assert_eq!(origin.volume().record_clock(LANE, Seq(3)).expect("the journal"), Some(frontier.hlc));
        assert_ne!(frontier.hlc, Hlc(0));
        peer.restart(false);
        origin.restart(true);
    }
    assert_eq!(origin.volume().record_clock(LANE, Seq(4)).expect("the journal"), None);
}
