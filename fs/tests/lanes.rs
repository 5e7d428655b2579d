//! The order between lanes: what was made upon something in another lane waits for it, and nothing waits for more than that.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::dump::{check_rows, content, dump};
use common::network::{Network, heads};
use common::work::{READ_WRITE, ROOT, use_policies};
use common::{Rng, Site};
use fs::replay::ReplayError;
use fs::ship::Copies;
use fs::types::{RenameMode, SetAttr, XattrMode};
use fs::volume::Volume;
use proto::ids::{FileId, Lane, Position, Seq};
use proto::record::Kind;

const TOP: FileId = FileId::ROOT;

fn mkdir(volume: &Volume, parent: FileId, name: &str) -> FileId {
    volume.create(ROOT, parent, name.as_bytes(), Kind::Directory, 0o755).expect("a directory").file
}

fn file(volume: &Volume, parent: FileId, name: &str, bytes: &[u8]) -> FileId {
    let (attr, handle) = volume.create_open(ROOT, parent, name.as_bytes(), 0o644, READ_WRITE).expect("a file");
    volume.write(handle, 0, bytes, false).expect("written");
    volume.release(handle).expect("released");
    attr.file
}

fn rename(volume: &Volume, parent: FileId, name: &str, to: FileId, new_name: &str) {
    volume.rename(parent, name.as_bytes(), to, new_name.as_bytes(), RenameMode::Replace).expect("moved");
}

fn set(volume: &Volume, dir: FileId, key: &str, value: &str) {
    volume
        .setxattr(dir, format!("user.syncline.{key}").as_bytes(), value.as_bytes(), XattrMode::Set)
        .expect("a policy");
}

/// An origin with the directories `urgent` (sync) and `bulk`, which the replica has, and what was sent.
struct Pair {
    origin: Site,
    replica: Site,
    urgent: FileId,
    bulk: FileId,
}

impl Pair {
    fn new() -> Self {
        let (origin, replica) = (Site::new(1), Site::new(2));
        let volume = origin.volume();
        use_policies(volume);
        let (urgent, bulk) = (mkdir(volume, TOP, "urgent"), mkdir(volume, TOP, "bulk"));
        set(volume, urgent, "mode", "sync");
        set(volume, bulk, "priority", "bulk");
        let pair = Self { origin, replica, urgent, bulk };
        pair.level();
        pair
    }

    fn volume(&self) -> &Arc<Volume> {
        self.origin.volume()
    }

    /// The peer is connected, or not.
    fn connect(&self, connected: bool) {
        self.volume().peer_connected(self.replica.id, connected);
    }

    /// Everything of one lane, as far as it goes, acknowledged. Why it went no further.
    fn send(&self, lane: Lane) -> Option<Position> {
        let (volume, replica) = (self.volume(), self.replica.volume());
        volume.wait_durable(volume.appended()).expect("durable");
        let after = replica.frontier(self.origin.id, lane).seq;
        let records = volume.read_lane(lane, after, 1 << 24, Copies::ByValue).expect("the lane");
        let records: Vec<_> = records.into_iter().map(|shipped| shipped.record).collect();
        let replayed = replica.replay(self.origin.id, volume.incarnation(), lane, &records);
        replica.wait_durable(replayed.lsn).expect("durable");
        volume.peer_acknowledged(self.replica.id, lane, replayed.applied);
        volume.set_watermark(lane, replayed.applied.seq);
        match replayed.stopped {
            None => None,
            Some(ReplayError::MissingDep(dep)) => Some(dep),
            Some(error) => panic!("{error}"),
        }
    }

    fn level(&self) {
        // Twice: what one lane waited for another brings.
        for lane in Lane::ALL.into_iter().chain(Lane::ALL).chain(Lane::ALL) {
            self.send(lane);
        }
        let has = |lane| self.replica.volume().frontier(self.origin.id, lane).seq;
        assert_eq!(Lane::ALL.map(has), heads(self.volume()));
    }

    /// In which lane `change` puts its one record.
    fn lane_of(&self, change: impl FnOnce(&Volume)) -> Lane {
        let before = heads(self.volume());
        change(self.volume());
        let after = heads(self.volume());
        let grown: Vec<Lane> =
            Lane::ALL.into_iter().filter(|lane| after[*lane as usize] > before[*lane as usize]).collect();
        assert_eq!(grown.len(), 1, "{grown:?}");
        assert_eq!(after[grown[0] as usize], before[grown[0] as usize].next());
        grown[0]
    }

    fn end(self) {
        self.level();
        let sites = [self.origin, self.replica];
        Network::new(2).settle(&sites, &mut Rng::new(1));
        sites.iter().for_each(|site| check_rows(site, false));
        let (mut a, mut b) = (dump(&sites[0]), dump(&sites[1]));
        let root = format!("inode {TOP}");
        a.lines.remove(&root);
        b.lines.remove(&root);
        let diff = a.diff(&b);
        assert!(diff.is_empty(), "{diff}");
    }
}

#[test]
fn a_rename_never_arrives_before_the_data_that_it_publishes() {
    let pair = Pair::new();
    let bytes = vec![7; 300_000];
    let id = file(pair.volume(), pair.bulk, "part", &bytes);
    // Nobody is connected: the move goes in the urgent lane, and waits at the replica.
    assert_eq!(pair.lane_of(|volume| rename(volume, pair.bulk, "part", pair.urgent, "whole")), Lane::Sync);
    let head = pair.volume().lane_head(Lane::Bulk).appended;
    let dep = pair.send(Lane::Sync).expect("it waits");
    assert_eq!((dep.lane, dep.seq), (Lane::Bulk, head));
    assert!(pair.replica.volume().lookup(pair.urgent, b"whole").is_err());
    assert_eq!(pair.send(Lane::Bulk), None);
    assert_eq!(pair.replica.volume().lookup(pair.bulk, b"part").expect("not moved yet").file, id);
    assert_eq!(pair.send(Lane::Sync), None);
    assert_eq!(pair.replica.volume().lookup(pair.urgent, b"whole").expect("moved").file, id);
    assert!(content(pair.replica.volume(), id).0 == bytes);
    pair.end();
}

#[test]
fn a_record_follows_what_a_connected_peer_lacks_and_then_is_urgent_again() {
    let pair = Pair::new();
    pair.connect(true);
    file(pair.volume(), pair.bulk, "part", &[1; 100]);
    file(pair.volume(), pair.bulk, "other", &[1; 100]);
    let create =
        |volume: &Volume| drop(volume.create(ROOT, pair.urgent, b"new", Kind::Regular, 0o644).expect("a file"));
    assert_eq!(pair.lane_of(create), Lane::Sync, "it touches nothing in bulk");
    assert_eq!(pair.lane_of(|volume| rename(volume, pair.bulk, "part", pair.urgent, "whole")), Lane::Bulk);
    assert_eq!(pair.lane_of(|volume| volume.unlink(pair.urgent, b"whole").expect("removed")), Lane::Bulk);
    assert_eq!(pair.send(Lane::Sync), None, "the sync lane waits for nothing");
    assert_eq!(pair.send(Lane::Bulk), None);
    assert_eq!(pair.lane_of(|volume| rename(volume, pair.bulk, "other", pair.urgent, "whole")), Lane::Sync);
    assert_eq!(pair.lane_of(|volume| volume.unlink(pair.urgent, b"whole").expect("removed")), Lane::Sync);
    pair.end();
}

#[test]
fn all_parts_of_a_file_come_before_its_new_name() {
    for moves in [true, false] {
        let pair = Pair::new();
        let id = file(pair.volume(), pair.bulk, "part", &[1; 10]);
        pair.level();
        pair.volume().setxattr(id, b"user.kind", b"secret", XattrMode::Set).expect("set");
        set(pair.volume(), pair.bulk, "priority", "high");
        let mode = SetAttr { mode: Some(0o600), ..SetAttr::default() };
        pair.volume().setattr(ROOT, id, mode).expect("set");
        set(pair.volume(), pair.bulk, "priority", "bulk");
        let publish = |volume: &Volume| match moves {
            true => rename(volume, pair.bulk, "part", pair.urgent, "whole"),
            false => drop(volume.link(id, pair.urgent, b"whole").expect("linked")),
        };
        assert_eq!(pair.lane_of(publish), Lane::Sync);
        for lane in [Lane::Sync, Lane::High, Lane::Sync, Lane::Bulk, Lane::High] {
            pair.send(lane);
            assert!(pair.replica.volume().lookup(pair.urgent, b"whole").is_err());
        }
        assert_eq!(pair.send(Lane::Sync), None);
        let attr = pair.replica.volume().lookup(pair.urgent, b"whole").expect("named");
        assert_eq!(attr.perms.mode, 0o600);
        assert_eq!(&pair.replica.volume().getxattr(id, b"user.kind").expect("a value")[..], b"secret");
        pair.end();
    }
}

#[test]
fn a_directory_is_moved_with_all_that_is_below_it_and_without_what_is_not() {
    let pair = Pair::new();
    let tree = mkdir(pair.volume(), pair.bulk, "tree");
    let deep = mkdir(pair.volume(), tree, "deep");
    file(pair.volume(), deep, "old", &[1; 10]);
    pair.level();
    let id = file(pair.volume(), deep, "new", &[2; 70_000]);
    pair.volume().unlink(deep, b"old").expect("removed");
    let last = pair.volume().lane_head(Lane::Bulk).appended;
    // More in that lane that is not part of it.
    for other in 0..5 {
        file(pair.volume(), pair.bulk, &format!("other {other}"), &[3; 10]);
    }
    assert_eq!(pair.lane_of(|volume| rename(volume, pair.bulk, "tree", pair.urgent, "tree")), Lane::Sync);
    let dep = pair.send(Lane::Sync).expect("it waits");
    assert_eq!((dep.lane, dep.seq), (Lane::Bulk, last));
    pair.send(Lane::Bulk);
    assert_eq!(pair.send(Lane::Sync), None);
    assert_eq!(pair.replica.volume().lookup(deep, b"new").expect("there").file, id);
    pair.end();
}

#[test]
fn beyond_a_bound_a_moved_directory_waits_for_all_that_was_made_before() {
    let pair = Pair::new();
    let tree = mkdir(pair.volume(), pair.bulk, "tree");
    for at in 0..4200 {
        pair.volume().create(ROOT, tree, format!("{at}").as_bytes(), Kind::Regular, 0o644).expect("a file");
    }
    file(pair.volume(), pair.bulk, "other", &[3; 10]);
    let head = pair.volume().lane_head(Lane::Bulk).appended;
    assert_eq!(pair.lane_of(|volume| rename(volume, pair.bulk, "tree", pair.urgent, "tree")), Lane::Sync);
    assert_eq!(pair.send(Lane::Sync).map(|dep| dep.seq), Some(head));
    // When all is known to be there, nothing is looked for.
    pair.level();
    assert_eq!(pair.lane_of(|volume| rename(volume, pair.urgent, "tree", pair.bulk, "tree")), Lane::Sync);
    assert_eq!(pair.send(Lane::Sync), None);
}

#[test]
fn a_removed_directory_follows_what_emptied_it_and_no_backlog() {
    let mut pair = Pair::new();
    let (tree, target) = (mkdir(pair.volume(), pair.urgent, "tree"), mkdir(pair.volume(), pair.urgent, "target"));
    file(pair.volume(), pair.bulk, "in", &[1; 10]);
    pair.level();
    pair.connect(true);
    // A backlog that has nothing to do with it.
    file(pair.volume(), pair.bulk, "backlog", &[1; 10]);
    assert_eq!(pair.lane_of(|volume| volume.rmdir(pair.urgent, b"target").expect("removed")), Lane::Sync);
    let _ = target;
    assert_eq!(pair.send(Lane::Sync), None);
    // Moved in and out again, in the slow lane.
    rename(pair.volume(), pair.bulk, "backlog", tree, "backlog");
    rename(pair.volume(), tree, "backlog", pair.bulk, "backlog");
    let last = pair.volume().lane_head(Lane::Bulk).appended;
    file(pair.volume(), pair.bulk, "more", &[1; 10]);
    pair.connect(false);
    assert_eq!(pair.lane_of(|volume| volume.rmdir(pair.urgent, b"tree").expect("removed")), Lane::Sync);
    assert_eq!(pair.send(Lane::Sync).map(|dep| (dep.lane, dep.seq)), Some((Lane::Bulk, last)));
    pair.level();
    // After a start nothing is known any more but how far all had come.
    mkdir(pair.volume(), pair.urgent, "third");
    pair.level();
    file(pair.volume(), pair.bulk, "yet more", &[1; 10]);
    let head = pair.volume().lane_head(Lane::Bulk).appended;
    pair.origin.restart(false);
    pair.volume().rmdir(pair.urgent, b"third").expect("removed");
    assert_eq!(pair.send(Lane::Sync).map(|dep| (dep.lane, dep.seq)), Some((Lane::Bulk, head)));
    pair.end();
}

#[test]
fn a_file_never_loses_its_last_name_on_the_way() {
    let pair = Pair::new();
    let id = file(pair.volume(), pair.urgent, "old", &[1; 10]);
    pair.level();
    set(pair.volume(), pair.urgent, "mode", "async");
    assert_eq!(pair.lane_of(|volume| drop(volume.link(id, pair.bulk, b"new").expect("linked"))), Lane::Normal);
    set(pair.volume(), pair.urgent, "mode", "sync");
    assert_eq!(pair.lane_of(|volume| volume.unlink(pair.urgent, b"old").expect("removed")), Lane::Sync);
    assert_eq!(pair.send(Lane::Sync).map(|dep| dep.lane), Some(Lane::Normal));
    assert!(pair.replica.volume().lookup(pair.urgent, b"old").is_ok());
    pair.end();
}

#[test]
fn a_replica_never_moves_a_directory_below_itself() {
    let pair = Pair::new();
    let outer = mkdir(pair.volume(), pair.urgent, "outer");
    let inner = mkdir(pair.volume(), outer, "inner");
    let deep = mkdir(pair.volume(), inner, "deep");
    pair.level();
    // Out of `outer` in one lane; then `outer` to a place below it in another.
    set(pair.volume(), pair.urgent, "mode", "async");
    assert_eq!(pair.lane_of(|volume| rename(volume, outer, "inner", pair.bulk, "inner")), Lane::Normal);
    set(pair.volume(), pair.urgent, "mode", "sync");
    assert_eq!(pair.lane_of(|volume| rename(volume, pair.urgent, "outer", deep, "outer")), Lane::Sync);
    assert_eq!(pair.send(Lane::Sync).map(|dep| dep.lane), Some(Lane::Normal));
    assert_eq!(pair.replica.volume().parent(outer).expect("in its place"), pair.urgent);
    pair.end();
}

#[test]
fn whoever_ships_is_told_of_a_record_in_the_sync_lane_at_once_and_gets_it() {
    let pair = Pair::new();
    let told = Arc::new(AtomicU64::new(0));
    let (counter, volume) = (Arc::clone(&told), Arc::downgrade(pair.volume()));
    pair.volume().on_progress(Box::new(move || {
        let Some(volume) = volume.upgrade() else { return };
        let head = volume.lane_head(Lane::Sync);
        // On the thread of the writer, which has let go of its locks.
        let after = Seq(head.appended.0.saturating_sub(1));
        let record =
            volume.read_lane(Lane::Sync, after, 1, Copies::ByValue).expect("the lane").pop().expect("a record").record;
        assert_eq!(record.seq, head.appended);
        if std::thread::current().name() == Some("writer") {
            counter.fetch_add(1, Ordering::SeqCst);
        }
    }));
    let (volume, urgent) = (Arc::clone(pair.volume()), pair.urgent);
    let create = move || drop(volume.create(ROOT, urgent, b"new", Kind::Regular, 0o644).expect("a file"));
    let thread = std::thread::Builder::new().name("writer".into()).spawn(create).expect("a thread");
    thread.join().expect("no panic");
    assert!(told.load(Ordering::SeqCst) > 0, "the writer did not tell");
    pair.volume().on_progress(Box::new(|| {}));
    let head = pair.volume().lane_head(Lane::Sync);
    assert_eq!(head.shippable(Lane::Sync), head.appended);
    pair.end();
}

#[test]
fn a_move_that_follows_one_lane_waits_for_the_others_too() {
    let pair = Pair::new();
    let tree = mkdir(pair.volume(), pair.bulk, "tree");
    let id = file(pair.volume(), tree, "fast", &[1; 10]);
    // Of a file that is in the urgent directory, too, changes are urgent.
    pair.volume().link(id, pair.urgent, b"fast").expect("linked");
    pair.level();
    pair.connect(true);
    let resize = SetAttr { size: Some(5), ..SetAttr::default() };
    assert_eq!(pair.lane_of(|volume| drop(volume.setattr(ROOT, id, resize).expect("cut"))), Lane::Sync);
    let last = pair.volume().lane_head(Lane::Sync).appended;
    file(pair.volume(), tree, "slow", &[1; 10]);
    assert_eq!(pair.lane_of(|volume| rename(volume, pair.bulk, "tree", pair.urgent, "tree")), Lane::Bulk);
    assert_eq!(pair.send(Lane::Bulk).map(|dep| (dep.lane, dep.seq)), Some((Lane::Sync, last)));
    pair.end();
}
