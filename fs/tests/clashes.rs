//! Encounters of sites that random work meets too rarely: each was once a bug.

mod common;

use common::Site;
use common::dump::{check_drained, check_rows};
use common::exchange::{self, settle};
use common::work::{READ_WRITE, ROOT};
use fs::error::FsError;
use fs::replay::ReplayError;
use fs::ship::Copies;
use fs::types::{RenameMode, SetAttr};
use fs::volume::Volume;
use proto::hlc::Hlc;
use proto::ids::{FileId, Incarnation, Lane, Seq, SiteId};
use proto::name::Name;
use proto::record::{Kind, Op, Perms, Record, Time};

const TOP: FileId = FileId::ROOT;

fn mkdir(volume: &Volume, parent: FileId, name: &str) -> FileId {
    volume.create(ROOT, parent, name.as_bytes(), Kind::Directory, 0o755).expect("a directory").file
}

fn rename(site: &Site, parent: FileId, name: &str, to: FileId, new_name: &str) {
    site.volume().rename(parent, name.as_bytes(), to, new_name.as_bytes(), RenameMode::Replace).expect("moved");
}

/// Everything of one lane, as far as it goes.
fn send(from: &Site, to: &Site) -> Option<ReplayError> {
    exchange::send(from, to, Copies::ByValue)
}

#[test]
fn a_directory_that_was_seen_empty_stays_removed() {
    let sites: Vec<Site> = (1..=3).map(Site::new).collect();
    let dir = mkdir(sites[2].volume(), TOP, "dir");
    sites[2].volume().create(ROOT, dir, b"file", Kind::Regular, 0o644).expect("a file");
    assert!(send(&sites[2], &sites[0]).is_none() && send(&sites[2], &sites[1]).is_none());
    sites[0].volume().unlink(dir, b"file").expect("removed");
    assert!(send(&sites[0], &sites[1]).is_none());
    sites[1].volume().rmdir(TOP, b"dir").expect("removed");
    // The file's maker must not take it for something that the remover had not seen.
    assert!(matches!(send(&sites[1], &sites[2]), Some(ReplayError::MissingDep(_))));
    for site in &settle(sites) {
        assert!(matches!(site.volume().lookup(TOP, b"dir"), Err(FsError::NotFound)));
    }
}

#[test]
fn a_directory_with_something_unseen_in_it_comes_back() {
    let sites: Vec<Site> = (1..=2).map(Site::new).collect();
    let dir = mkdir(sites[0].volume(), TOP, "dir");
    assert!(send(&sites[0], &sites[1]).is_none());
    sites[0].volume().create(ROOT, dir, b"file", Kind::Regular, 0o644).expect("a file");
    sites[1].volume().rmdir(TOP, b"dir").expect("removed");
    for site in &settle(sites) {
        assert_eq!(site.volume().lookup(TOP, b"dir").expect("back").file, dir);
        assert_eq!(site.volume().list(dir).expect("a listing").len(), 1);
    }
}

#[test]
fn three_moves_that_leave_no_old_place_end_at_the_root() {
    let sites: Vec<Site> = (1..=3).map(Site::new).collect();
    let (p, q) = (mkdir(sites[0].volume(), TOP, "p"), mkdir(sites[0].volume(), TOP, "q"));
    let x = mkdir(sites[0].volume(), p, "x");
    assert!(send(&sites[0], &sites[1]).is_none() && send(&sites[0], &sites[2]).is_none());
    // x out of p, and p into x; q into x; and x from p into q, the latest: neither place of x leads to the root then.
    rename(&sites[0], p, "x", TOP, "x");
    rename(&sites[0], TOP, "p", x, "p");
    rename(&sites[1], TOP, "q", x, "q");
    std::thread::sleep(std::time::Duration::from_millis(5));
    rename(&sites[2], p, "x", q, "x");
    for site in &settle(sites) {
        assert_eq!(site.volume().parent(x).expect("a place"), TOP);
    }
}

#[test]
fn what_stands_over_a_cut_extent_is_not_taken_for_it_after_a_crash() {
    let mut site = Site::new(1);
    let volume = site.volume();
    let (attr, handle) = volume.create_open(ROOT, TOP, b"file", 0o644, READ_WRITE).expect("a file");
    volume.write(handle, 0, &vec![1; 200_000], false).expect("written");
    volume.setattr(ROOT, attr.file, SetAttr { size: Some(100_000), ..SetAttr::default() }).expect("cut");
    volume.write(handle, 100_000, &vec![2; 150_000], false).expect("written");
    site.restart(false);
    let volume = site.volume();
    let handle = volume.open(attr.file, READ_WRITE).expect("opened");
    volume.write(handle, 50_000, &vec![3; 150_000], false).expect("overwritten");
    volume.wait_durable(volume.appended()).expect("durable");
    let records = volume.read_lane(Lane::Normal, Seq::ZERO, 1 << 24, Copies::ByValue).expect("the lane");
    let bytes: Vec<_> = records.iter().filter_map(|shipped| shipped.record.bytes()).collect();
    for (bytes, (value, len)) in bytes.iter().zip([(1, 200_000), (2, 150_000), (3, 150_000)]) {
        assert!(
            bytes.len() == len && bytes.iter().all(|byte| *byte == value),
            "the write of {value} is not what it was"
        );
    }
    assert_eq!(bytes.len(), 3);
}

#[test]
fn a_removed_file_stays_as_long_as_a_record_refers_to_it() {
    let sites: Vec<Site> = (1..=2).map(Site::new).collect();
    let volume = sites[0].volume();
    let (attr, handle) = volume.create_open(ROOT, TOP, b"file", 0o644, READ_WRITE).expect("a file");
    assert!(send(&sites[0], &sites[1]).is_none());
    sites[1].volume().unlink(TOP, b"file").expect("removed");
    assert!(send(&sites[1], &sites[0]).is_none());
    volume.write(handle, 0, &vec![5; 100_000], false).expect("written without a name");
    // All of the extent is a copy in the journal now.
    volume.setattr(ROOT, attr.file, SetAttr { size: Some(0), ..SetAttr::default() }).expect("emptied");
    volume.release(handle).expect("released");
    volume.set_stable(sites[1].id, Lane::Normal, volume.frontier(sites[1].id, Lane::Normal));
    assert!(send(&sites[0], &sites[1]).is_none());
    settle(sites);
}

#[test]
fn a_file_that_was_open_when_all_had_removed_it_goes_with_the_last_handle() {
    let mut site = Site::new(1);
    let volume = site.volume();
    let (attr, handle) = volume.create_open(ROOT, TOP, b"file", 0o644, READ_WRITE).expect("a file");
    volume.write(handle, 0, b"bytes", false).expect("written");
    volume.remember(attr.file);
    volume.unlink(TOP, b"file").expect("removed");
    let head = volume.lane_head(Lane::Normal).appended;
    volume.set_stable(site.id, Lane::Normal, proto::ids::LanePoint { incarnation: volume.incarnation(), seq: head });
    assert_eq!(volume.read(handle, 0, 10).expect("still there"), b"bytes");
    volume.release(handle).expect("released");
    assert!(volume.getattr(attr.file).is_ok(), "the kernel knows it still");
    volume.forget(attr.file, 1);
    assert!(matches!(volume.getattr(attr.file), Err(FsError::NotFound)));
    volume.set_watermark(Lane::Normal, head);
    check_rows(&site, true);
    check_drained(&mut site);
}

fn create(seq: u64, hlc: Hlc, file: FileId, name: &str) -> Record {
    let name = Name::new(name.as_bytes()).expect("a name");
    let perms = Perms { mode: 0o644, uid: 0, gid: 0 };
    let op = Op::Create { file, parent: TOP, name, kind: Kind::Regular, perms, time: Time::default() };
    Record { seq: Seq(seq), hlc, deps: Vec::new(), op }
}

#[test]
fn a_site_that_joined_is_later_than_all_that_it_got() {
    let (origin, joining) = (Site::new(1), Site::new(2));
    // A third site whose clock is 30 s ahead, as is allowed.
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time");
    let ahead = Hlc::from_ms(now.as_millis() as u64 + 30_000);
    let file = FileId::new(SiteId(9), 1).expect("an id");
    let replayed = origin.volume().replay(SiteId(9), Incarnation(1), Lane::Normal, &[create(1, ahead, file, "early")]);
    assert!(replayed.stopped.is_none());
    joining.volume().begin_snapshot().expect("begun");
    for chunk in origin.volume().snapshot().expect("a snapshot") {
        joining.volume().load_snapshot(&chunk.expect("a chunk")).expect("taken in");
    }
    joining.volume().finish_snapshot().expect("finished");
    rename(&joining, TOP, "early", TOP, "late");
    assert_eq!(joining.volume().lookup(TOP, b"late").expect("moved").file, file);
}

#[test]
fn a_gap_within_one_delivery_is_noticed() {
    let site = Site::new(1);
    let id = |counter| FileId::new(SiteId(9), counter).expect("an id");
    let records = [create(1, Hlc(5), id(1), "a"), create(3, Hlc(6), id(2), "b")];
    let replayed = site.volume().replay(SiteId(9), Incarnation(1), Lane::Normal, &records);
    assert_eq!(replayed.applied.seq, Seq(1));
    assert!(
        matches!(replayed.stopped, Some(ReplayError::Gap { expected: Seq(2), got: Seq(3) })),
        "{:?}",
        replayed.stopped
    );
}
