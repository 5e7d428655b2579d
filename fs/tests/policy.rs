//! The policies of directories: what is set, what is in force where, and who may write.

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::Site;
use common::dump::{check_rows, dump};
use common::work::{READ_WRITE, ROOT};
use fs::error::FsError;
use fs::peers::Member;
use fs::policy::{Acks, Compress, Effective, Key, Mode, OnLoss, Policy, Priority, WriterSite};
use fs::replay::ReplayError;
use fs::ship::Copies;
use fs::types::{Allocate, OpenFlags, RenameMode, SetAttr, SetTime, XattrMode};
use fs::volume::Volume;
use proto::ids::{FileId, Lane, Seq, SiteId};
use proto::record::{Kind, Op};

const TOP: FileId = FileId::ROOT;
const READ: OpenFlags = OpenFlags { write: false, ..READ_WRITE };

fn mkdir(volume: &Volume, parent: FileId, name: &str) -> FileId {
    volume.create(ROOT, parent, name.as_bytes(), Kind::Directory, 0o755).expect("a directory").file
}

fn file(volume: &Volume, parent: FileId, name: &str) -> FileId {
    volume.create(ROOT, parent, name.as_bytes(), Kind::Regular, 0o644).expect("a file").file
}

fn try_set(volume: &Volume, file: FileId, key: &str, value: &str) -> Result<(), FsError> {
    volume.setxattr(file, format!("user.syncline.{key}").as_bytes(), value.as_bytes(), XattrMode::Set)
}

fn set(volume: &Volume, directory: FileId, key: &str, value: &str) {
    try_set(volume, directory, key, value).expect("set");
}

fn unset(volume: &Volume, directory: FileId, key: &str) {
    volume.removexattr(directory, format!("user.syncline.{key}").as_bytes()).expect("removed");
}

fn get(volume: &Volume, file: FileId, key: &str) -> String {
    let value = volume.getxattr(file, format!("user.syncline.{key}").as_bytes()).expect("a value");
    String::from_utf8(value.into()).expect("text")
}

/// The one policy of a place.
fn policy(volume: &Volume, place: FileId) -> Policy {
    let policies = volume.policies_of(place).expect("policies");
    assert_eq!(policies.len(), 1);
    policies[0].policy.clone()
}

fn rename(volume: &Volume, parent: FileId, name: &str, to: FileId, new_name: &str) -> Result<(), FsError> {
    volume.rename(parent, name.as_bytes(), to, new_name.as_bytes(), RenameMode::Replace)
}

/// Carries every lane of every site to all others until none has more.
fn settle(sites: &[Site]) {
    loop {
        let (mut level, mut moved) = (true, false);
        for (from, to) in sites.iter().flat_map(|from| sites.iter().map(move |to| (from, to))) {
            for lane in Lane::ALL.into_iter().filter(|_| from.id != to.id) {
                let (origin, before) = (from.volume(), to.volume().frontier(from.id, lane));
                if before.seq == origin.lane_head(lane).appended {
                    continue;
                }
                level = false;
                origin.wait_durable(origin.appended()).expect("durable");
                let records = origin.read_lane(lane, before.seq, 1 << 20, Copies::ByValue).expect("records");
                let records: Vec<_> = records.into_iter().map(|shipped| shipped.record).collect();
                let replayed = to.volume().replay(from.id, origin.incarnation(), lane, &records);
                assert!(matches!(replayed.stopped, None | Some(ReplayError::MissingDep(_))), "{replayed:?}");
                moved |= replayed.applied > before;
            }
        }
        if level {
            return;
        }
        assert!(moved, "a lane is stuck");
    }
}

#[test]
fn the_nearest_directory_wins_for_each_key() {
    let site = Site::new(1);
    let volume = site.volume();
    let outer = mkdir(volume, TOP, "outer");
    let inner = mkdir(volume, outer, "inner");
    let below = file(volume, inner, "file");
    assert_eq!(volume.policies_of(below).expect("policies"), Vec::<Arc<Effective>>::new());
    assert!(get(volume, below, "effective").lines().all(|line| line.ends_with(" default")));
    set(volume, TOP, "acks", "majority");
    set(volume, TOP, "timeout", "90s");
    set(volume, outer, "mode", "sync");
    set(volume, outer, "on-loss", "fail");
    set(volume, outer, "priority", "high");
    set(volume, inner, "timeout", "500ms");
    set(volume, inner, "compress", "off");
    let expected = Policy {
        mode: Mode::Sync,
        acks: Acks::Majority,
        on_loss: OnLoss::Fail,
        timeout: Duration::from_millis(500),
        priority: Priority::High,
        compress: Compress::Off,
        writer: WriterSite::Any,
    };
    assert_eq!(policy(volume, below), expected);
    assert_eq!(policy(volume, inner), expected);
    assert_eq!(
        get(volume, below, "effective"),
        "mode=sync from /outer\nacks=majority from /\non-loss=fail from /outer\ntimeout=500ms from /outer/inner\n\
         priority=high from /outer\ncompress=off from /outer/inner\nwriter=any default"
    );
    assert_eq!(volume.policies_of(below).expect("policies")[0].sync_root(), Some(outer));
    assert_eq!(policy(volume, TOP).mode, Mode::Async);
    assert_eq!(get(volume, TOP, "timeout"), "90s");
    assert_eq!(get(volume, TOP, "effective").lines().nth(3), Some("timeout=90s from /"));
    assert_eq!(volume.sync_roots(), [outer]);
}

#[test]
fn a_policy_changes_live() {
    let site = Site::new(1);
    let volume = site.volume();
    let dir = mkdir(volume, TOP, "dir");
    let below = file(volume, dir, "file");
    set(volume, TOP, "priority", "bulk");
    assert_eq!(policy(volume, below).lane(), Lane::Bulk);
    let changes = volume.policy_changes();
    set(volume, dir, "priority", "high");
    assert!(volume.policy_changes() > changes);
    assert_eq!(policy(volume, below).lane(), Lane::High);
    set(volume, dir, "mode", "sync");
    assert_eq!(policy(volume, below).lane(), Lane::Sync);
    set(volume, dir, "mode", "async");
    assert_eq!(policy(volume, below).lane(), Lane::High);
    unset(volume, dir, "priority");
    assert_eq!(policy(volume, below).lane(), Lane::Bulk);
    assert!(matches!(volume.removexattr(dir, b"user.syncline.priority"), Err(FsError::NoXattr)));
    unset(volume, TOP, "priority");
    unset(volume, dir, "mode");
    assert!(volume.policies_of(below).expect("policies").is_empty());
}

#[test]
fn what_moves_comes_under_the_policy_of_its_new_place() {
    let site = Site::new(1);
    let volume = site.volume();
    let (bulk, high) = (mkdir(volume, TOP, "bulk"), mkdir(volume, TOP, "high"));
    set(volume, bulk, "priority", "bulk");
    set(volume, high, "priority", "high");
    let tree = mkdir(volume, bulk, "tree");
    let deep = mkdir(volume, tree, "deep");
    let (below, single) = (file(volume, deep, "file"), file(volume, bulk, "single"));
    assert_eq!([below, deep, single].map(|place| policy(volume, place).priority), [Priority::Bulk; 3]);
    rename(volume, bulk, "tree", high, "tree").expect("moved");
    rename(volume, bulk, "single", high, "single").expect("moved");
    assert_eq!([below, deep, single].map(|place| policy(volume, place).priority), [Priority::High; 3]);
    // Back, and each beside the other.
    volume.rename(high, b"tree", TOP, b"bulk", RenameMode::Exchange).expect("exchanged");
    assert_eq!(policy(volume, below).priority, Priority::Normal);
    assert_eq!(policy(volume, bulk).priority, Priority::Bulk);
}

#[test]
fn a_file_with_several_names_has_the_policies_of_all() {
    let site = Site::new(1);
    let volume = site.volume();
    let [a, b, c] = ["a", "b", "c"].map(|name| mkdir(volume, TOP, name));
    let linked = file(volume, a, "file");
    set(volume, a, "priority", "bulk");
    set(volume, b, "mode", "sync");
    let modes = || -> Vec<Lane> {
        volume.policies_of(linked).expect("policies").iter().map(|effective| effective.policy.lane()).collect()
    };
    assert_eq!(modes(), [Lane::Bulk]);
    volume.link(linked, b, b"file").expect("linked");
    volume.link(linked, b, b"again").expect("linked");
    assert_eq!(modes(), [Lane::Sync, Lane::Bulk]);
    assert_eq!(get(volume, linked, "effective").split("\n\n").count(), 2);
    volume.link(linked, c, b"file").expect("linked");
    assert_eq!(modes(), [Lane::Sync, Lane::Normal, Lane::Bulk]);
    volume.unlink(b, b"file").expect("removed");
    volume.unlink(c, b"file").expect("removed");
    assert_eq!(modes(), [Lane::Sync, Lane::Bulk]);
    rename(volume, b, "again", a, "again").expect("moved");
    assert_eq!(modes(), [Lane::Bulk]);
    check_rows(&site, false);
    let handle = volume.open(linked, READ_WRITE).expect("open");
    volume.unlink(a, b"file").expect("removed");
    volume.unlink(a, b"again").expect("removed");
    assert_eq!(policy(volume, linked), Policy::default(), "an open file without a name");
    check_rows(&site, false);
    volume.release(handle).expect("closed");
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let site = Site::new(1);
    let volume = site.volume();
    let (dir, other) = (mkdir(volume, TOP, "dir"), file(volume, TOP, "file"));
    set(volume, dir, "mode", "sync");
    let before = (dump(&site).lines, volume.lane_head(Lane::Normal).appended);
    let wrong = [
        (dir, "mode", "psync"),
        (dir, "mode", ""),
        (dir, "acks", "0"),
        (dir, "acks", "65536"),
        (dir, "on-loss", "ignore"),
        (dir, "timeout", "10"),
        (dir, "timeout", "0s"),
        (dir, "priority", "sync"),
        (dir, "compress", "yes"),
        (dir, "writer", "nobody"),
        (dir, "writer", ""),
        (dir, "rpo", "5s"),
        (dir, "", "5s"),
        (other, "mode", "sync"),
        (other, "priority", "high"),
    ];
    for (place, key, value) in wrong {
        let refused = try_set(volume, place, key, value);
        assert!(matches!(refused, Err(FsError::Invalid(_))), "{key}={value}: {refused:?}");
    }
    for computed in ["effective", "state", "version"] {
        assert!(matches!(try_set(volume, dir, computed, "x"), Err(FsError::NotPermitted(_))));
        let removed = volume.removexattr(dir, format!("user.syncline.{computed}").as_bytes());
        assert!(matches!(removed, Err(FsError::NotPermitted(_))));
    }
    assert!(matches!(volume.removexattr(dir, b"user.syncline.rpo"), Err(FsError::NoXattr)));
    assert!(matches!(volume.removexattr(other, b"user.syncline.mode"), Err(FsError::NoXattr)));
    assert_eq!((dump(&site).lines, volume.lane_head(Lane::Normal).appended), before);
    assert_eq!(policy(volume, dir), Policy { mode: Mode::Sync, ..Policy::default() });
}

#[test]
fn computed_attributes_are_read_of_every_file_and_never_listed() {
    let sites = [Site::new(1), Site::new(2)];
    let volume = sites[0].volume();
    volume.put_member(&Member { site: SiteId(2), name: "site2".into(), address: String::new() }).expect("a member");
    let dir = mkdir(volume, TOP, "dir");
    let link = volume.create(ROOT, TOP, b"link", Kind::Symlink(b"x"[..].into()), 0o777).expect("a link").file;
    let regular = file(volume, dir, "file");
    set(volume, dir, "mode", "async");
    for place in [TOP, dir, link, regular] {
        assert_eq!(get(volume, place, "effective").lines().count(), Key::ALL.len());
        let state = get(volume, place, "state");
        assert!(state.starts_with("site2: ") && state.ends_with(" behind"), "{state}");
        assert_eq!(get(volume, place, "version").lines().count(), 2);
    }
    assert_eq!(volume.listxattr(dir).expect("a list"), [&b"user.syncline.mode"[..]]);
    assert!(volume.listxattr(regular).expect("a list").is_empty());
    // The version tells a change of content from one of metadata, and is the same where the same is seen.
    let version =
        |at: usize| -> Vec<String> { get(sites[at].volume(), regular, "version").lines().map(str::to_owned).collect() };
    let created = version(0);
    assert!(created[0].starts_with("content=1/normal/1.3 20"), "{created:?}");
    let handle = volume.open(regular, READ_WRITE).expect("open");
    volume.write(handle, 0, b"bytes", false).expect("written");
    volume.release(handle).expect("closed");
    let written = version(0);
    assert!(written[0] != created[0] && written[1] == created[1], "{written:?}");
    volume.setattr(ROOT, regular, SetAttr { mode: Some(0o600), ..SetAttr::default() }).expect("set");
    let changed = version(0);
    assert!(changed[0] == written[0] && changed[1] != written[1], "{changed:?}");
    volume.setxattr(regular, b"user.x", b"y", XattrMode::Set).expect("set");
    assert_ne!(version(0)[1], changed[1]);
    settle(&sites);
    assert_eq!(version(0), version(1));
    volume.peer_acknowledged(SiteId(2), Lane::Normal, sites[1].volume().frontier(SiteId(1), Lane::Normal));
    assert_eq!(get(volume, dir, "state"), "site2: level");
    let absent = volume.getxattr(FileId(999), b"user.syncline.effective");
    assert!(matches!(absent, Err(FsError::NotFound)));
}

#[test]
fn a_policy_reaches_the_other_sites_and_survives_restarts() {
    let mut sites = [Site::new(1), Site::new(2)];
    let dir = mkdir(sites[0].volume(), TOP, "dir");
    let below = file(sites[0].volume(), dir, "file");
    set(sites[0].volume(), dir, "priority", "bulk");
    set(sites[0].volume(), dir, "acks", "3");
    settle(&sites);
    let expected = Policy { priority: Priority::Bulk, acks: Acks::Peers(3), ..Policy::default() };
    for at in [0, 1] {
        assert_eq!(policy(sites[at].volume(), below), expected);
        for cleanly in [false, true] {
            sites[at].restart(cleanly);
            assert_eq!(policy(sites[at].volume(), below), expected);
        }
    }
    // Changed there, moved there, seen here.
    set(sites[1].volume(), dir, "priority", "high");
    settle(&sites);
    assert_eq!(policy(sites[0].volume(), below).priority, Priority::High);
    let other = mkdir(sites[1].volume(), TOP, "other");
    set(sites[1].volume(), other, "compress", "on");
    rename(sites[1].volume(), TOP, "dir", other, "dir").expect("moved");
    settle(&sites);
    for site in &sites {
        assert_eq!(policy(site.volume(), below).compress, Compress::On);
        assert!(get(site.volume(), below, "effective").contains("compress=on from /other\n"));
        assert!(get(site.volume(), below, "effective").contains("priority=high from /other/dir\n"));
    }
    unset(sites[0].volume(), other, "compress");
    unset(sites[0].volume(), dir, "priority");
    unset(sites[0].volume(), dir, "acks");
    settle(&sites);
    assert!(sites.iter().all(|site| site.volume().policies_of(below).expect("policies").is_empty()));
    assert!(dump(&sites[0]).lines.contains_key(&format!("xattr {dir} {:?}", bytes::Bytes::from("user.syncline.acks"))));
}

#[test]
fn a_joining_site_gets_the_policies() {
    let sites = [Site::new(1), Site::new(2)];
    let dir = mkdir(sites[0].volume(), TOP, "dir");
    let below = file(sites[0].volume(), dir, "file");
    set(sites[0].volume(), dir, "compress", "off");
    let joining = sites[1].volume();
    joining.begin_snapshot().expect("begun");
    for chunk in sites[0].volume().snapshot().expect("a snapshot") {
        joining.load_snapshot(&chunk.expect("a chunk")).expect("taken in");
    }
    joining.finish_snapshot().expect("finished");
    assert_eq!(policy(joining, below).compress, Compress::Off);
    check_rows(&sites[1], false);
}

#[test]
fn content_is_shipped_as_the_policy_says() {
    let site = Site::new(1);
    let volume = site.volume();
    let dir = mkdir(volume, TOP, "dir");
    let (inside, outside) = (file(volume, dir, "file"), file(volume, TOP, "file"));
    for place in [inside, outside] {
        let handle = volume.open(place, READ_WRITE).expect("open");
        volume.write(handle, 0, b"bytes", false).expect("written");
        volume.release(handle).expect("closed");
    }
    let shipped = || -> Vec<Compress> {
        volume.wait_durable(volume.appended()).expect("durable");
        let records = volume.read_lane(Lane::Normal, Seq(0), 1 << 20, Copies::ByValue).expect("records");
        let content = records.iter().filter(|shipped| matches!(shipped.record.op, Op::Content(_)));
        content.map(|shipped| shipped.compress).collect()
    };
    assert_eq!(shipped(), [Compress::Auto, Compress::Auto]);
    set(volume, dir, "compress", "off");
    assert_eq!(shipped(), [Compress::Off, Compress::Auto]);
    set(volume, dir, "compress", "on");
    assert_eq!(shipped(), [Compress::On, Compress::Auto]);
}

/// Every change of a program below `dir`, which has a file, a hard link of it in `dir`, and a directory.
fn changes(volume: &Volume, dir: FileId, inside: FileId, sub: FileId) -> Vec<(&'static str, Result<(), FsError>)> {
    let attr = SetAttr::default();
    let setattr = |file, set| volume.setattr(ROOT, file, set).map(drop);
    vec![
        ("create", volume.create(ROOT, dir, b"new", Kind::Regular, 0o644).map(drop)),
        ("mkdir", volume.create(ROOT, sub, b"new", Kind::Directory, 0o755).map(drop)),
        ("create and open", volume.create_open(ROOT, dir, b"new2", 0o644, READ_WRITE).map(drop)),
        ("link into", volume.link(inside, dir, b"link").map(drop)),
        ("link out of", volume.link(inside, TOP, b"link").map(drop)),
        ("unlink", volume.unlink(dir, b"file")),
        ("rmdir", volume.rmdir(dir, b"sub")),
        ("rename within", rename(volume, dir, "file", dir, "file2")),
        ("rename out of", rename(volume, dir, "file", TOP, "file2")),
        ("rename into", rename(volume, TOP, "outside", dir, "outside")),
        ("chmod", setattr(inside, SetAttr { mode: Some(0o600), ..attr })),
        ("chown", setattr(dir, SetAttr { uid: Some(5), ..attr })),
        ("utimes", setattr(inside, SetAttr { atime: Some(SetTime::Now), ..attr })),
        ("truncate", setattr(inside, SetAttr { size: Some(3), ..attr })),
        ("setxattr", volume.setxattr(inside, b"user.x", b"2", XattrMode::Set)),
        ("removexattr", volume.removexattr(inside, b"user.x")),
        ("open for writing", volume.open(inside, READ_WRITE).map(drop)),
        ("open and truncate", volume.open(inside, OpenFlags { truncate: true, ..READ_WRITE }).map(drop)),
    ]
}

#[test]
fn only_the_writer_writes() {
    let sites = [Site::new(1), Site::new(2)];
    for (at, other) in [(0, 1), (1, 0)] {
        let (site, name) = (sites[other].id, format!("site{}", sites[other].id));
        sites[at].volume().put_member(&Member { site, name, address: String::new() }).expect("a member");
    }
    let volume = sites[0].volume();
    let dir = mkdir(volume, TOP, "dir");
    let sub = mkdir(volume, dir, "sub");
    let (inside, _) = (file(volume, dir, "file"), file(volume, TOP, "outside"));
    let held = volume.open(inside, READ_WRITE).expect("open");
    volume.write(held, 0, b"bytes", false).expect("written");
    volume.setxattr(inside, b"user.x", b"1", XattrMode::Set).expect("set");
    volume.setxattr(inside, b"security.capability", b"1", XattrMode::Set).expect("set");
    set(volume, dir, "writer", "site2");
    let before = (dump(&sites[0]).lines, volume.lane_head(Lane::Normal).appended);
    let handle = |result: Result<_, FsError>| result.map(drop);
    let mut refused = changes(volume, dir, inside, sub);
    refused.extend([
        ("write to what was open", handle(volume.write(held, 0, b"other", false))),
        ("append of much", handle(volume.write(held, 1 << 20, &[7; 100_000], false))),
        ("punch", volume.fallocate(held, 0, 3, Allocate::Punch, false)),
        ("grow", volume.fallocate(held, 0, 1 << 20, Allocate::Reserve { keep_size: false }, false)),
    ]);
    for (what, result) in refused {
        let error = result.expect_err(what);
        assert!(matches!(&error, FsError::OtherWriter(site) if site == "site2"), "{what}: {error}");
        assert_eq!(error.errno(), rustix::io::Errno::ROFS);
    }
    assert_eq!((dump(&sites[0]).lines, volume.lane_head(Lane::Normal).appended), before);
    // Reading goes on, and so do the places beside.
    let reading = volume.open(inside, READ).expect("open");
    assert_eq!(volume.read(reading, 0, 10).expect("bytes"), b"bytes");
    file(volume, TOP, "beside");
    // The writer itself: nothing that it does is refused here when it comes.
    settle(&sites);
    for (what, result) in changes(sites[1].volume(), dir, inside, sub) {
        if !matches!(what, "rename out of" | "rename within" | "unlink" | "rmdir") {
            result.unwrap_or_else(|error| panic!("{what}: {error}"));
        }
    }
    settle(&sites);
    assert!(volume.lookup(dir, b"new").is_ok());
    // A writer that is gone is replaced from anywhere.
    set(volume, dir, "timeout", "5s");
    set(volume, dir, "writer", "site1");
    file(volume, dir, "mine");
    settle(&sites);
    assert!(matches!(sites[1].volume().unlink(dir, b"mine"), Err(FsError::OtherWriter(_))));
    unset(sites[1].volume(), dir, "writer");
    sites[1].volume().unlink(dir, b"mine").expect("anybody's");
    settle(&sites);
    assert!(matches!(volume.lookup(dir, b"mine"), Err(FsError::NotFound)));
    for site in &sites {
        check_rows(site, false);
    }
}

#[test]
fn a_repair_is_made_where_another_site_is_the_writer() {
    let sites = [Site::new(1), Site::new(2)];
    let volume = sites[0].volume();
    let dir = mkdir(volume, TOP, "dir");
    let clash = file(volume, dir, "file");
    settle(&sites);
    for site in &sites {
        let volume = site.volume();
        let handle = volume.open(clash, READ_WRITE).expect("open");
        volume.write(handle, 0, format!("bytes of {}", site.id).as_bytes(), false).expect("written");
        volume.release(handle).expect("closed");
    }
    // The later writer has to ship its content whole, in a directory that is not its own to write in any more.
    volume.put_member(&Member { site: SiteId(2), name: "site2".into(), address: String::new() }).expect("a member");
    set(volume, dir, "writer", "site2");
    sites[1]
        .volume()
        .put_member(&Member { site: SiteId(1), name: "site1".into(), address: String::new() })
        .expect("kept");
    set(sites[1].volume(), dir, "writer", "site1");
    settle(&sites);
    let contents: Vec<_> = sites.iter().map(|site| common::dump::content(site.volume(), clash).0).collect();
    assert_eq!(contents[0], contents[1]);
    let replaced = |site: &Site| {
        let records = site.volume().read_lane(Lane::Normal, Seq(0), 1 << 20, Copies::ByValue).expect("records");
        records.iter().any(|shipped| {
            matches!(&shipped.record.op, Op::Content(change) if matches!(change.edit, proto::record::Edit::Replace { .. }))
        })
    };
    assert!(sites.iter().any(replaced), "a repair was made");
}
