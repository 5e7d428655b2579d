use std::sync::Arc;

use proto::ids::{SiteId, VolumeId};
use proto::record::{Kind, Perms};

use super::*;
use crate::types::{Caller, OpenFlags, RenameMode, SetAttr, XattrMode};
use crate::volume::VolumeOptions;

const ROOT: Caller = Caller { uid: 0, gid: 0 };
const WRITE: OpenFlags = OpenFlags { read: true, write: true, append: false, truncate: false, sync: false };

struct Site {
    _dir: tempfile::TempDir,
    volume: Arc<Volume>,
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        Volume::format(dir.path(), VolumeId([7; 16]), SiteId(1), Perms { mode: 0o755, uid: 0, gid: 0 }).expect("made");
        let volume = Volume::start(dir.path(), VolumeOptions::default()).expect("a volume");
        Self { _dir: dir, volume }
    }

    fn dir(&self, parent: FileId, name: &str) -> FileId {
        self.volume.create(ROOT, parent, name.as_bytes(), Kind::Directory, 0o755).expect("a directory").file
    }

    fn file(&self, parent: FileId, name: &str) -> FileId {
        self.volume.create(ROOT, parent, name.as_bytes(), Kind::Regular, 0o644).expect("a file").file
    }

    fn below(&self, path: &str) -> u64 {
        self.volume.positions_below(Path::new(path)).expect("positions").iter().map(|seq| seq.0).max().unwrap_or(0)
    }

    fn head(&self) -> u64 {
        Lane::ALL.into_iter().map(|lane| self.volume.lane_head(lane).appended.0).max().unwrap_or(0)
    }
}

/// Each kind of change raises what is below the path to the head, whatever was changed elsewhere before; and does not raise what is beside it.
#[test]
fn every_change_below_a_path_counts_and_no_other() {
    let site = Site::new();
    let (a, b) = (site.dir(FileId::ROOT, "a"), site.dir(FileId::ROOT, "b"));
    let sub = site.dir(a, "sub");
    let file = site.file(sub, "f");
    site.file(b, "other");
    let beside = site.below("b");
    let volume = &site.volume;
    let changes: [(&str, &dyn Fn()); 9] = [
        ("create", &|| drop(site.file(sub, "g"))),
        ("write", &|| {
            let handle = volume.open(file, WRITE).expect("opened");
            volume.write(handle, 0, b"x", false).expect("written");
            volume.release(handle).expect("released");
        }),
        ("chmod", &|| {
            let set = SetAttr { mode: Some(0o600), ..SetAttr::default() };
            volume.setattr(ROOT, file, set).map(drop).expect("set");
        }),
        ("setxattr", &|| volume.setxattr(sub, b"user.x", b"1", XattrMode::Set).expect("set")),
        ("removexattr", &|| volume.removexattr(sub, b"user.x").expect("removed")),
        ("link", &|| drop(volume.link(file, a, b"hard").expect("linked"))),
        ("rename", &|| volume.rename(sub, b"g", a, b"h", RenameMode::Replace).expect("moved")),
        ("rename of a way to it", &|| {
            volume.rename(FileId::ROOT, b"a", FileId::ROOT, b"a2", RenameMode::Replace).expect("moved")
        }),
        ("unlink", &|| {
            volume.rename(FileId::ROOT, b"a2", FileId::ROOT, b"a", RenameMode::Replace).expect("moved");
            volume.unlink(a, b"h").expect("removed");
        }),
    ];
    for (what, change) in changes {
        let before = site.head();
        change();
        assert!(site.head() > before, "{what} makes a record");
        let path = if what == "rename of a way to it" { "/a2/sub" } else { "/a" };
        assert_eq!(site.below(path), site.head(), "{what}");
        assert_eq!(site.below("b"), beside, "{what}");
        site.file(FileId::ROOT, &format!("noise after {what}"));
        assert!(site.below(path) < site.head(), "{what}");
    }
    assert!(site.below("/b/other") <= beside);
}

#[test]
fn the_root_and_what_is_too_large_are_the_heads() {
    let site = Site::new();
    let dir = site.dir(FileId::ROOT, "d");
    let made: Vec<u64> = (0..20).map(|i| drop(site.file(dir, &i.to_string()))).map(|()| site.head()).collect();
    site.file(FileId::ROOT, "later");
    assert_eq!(site.below("/"), site.head());
    assert_eq!(site.below(""), site.head());
    assert_eq!(Some(&site.below("d")), made.last());
    let within = |room| site.volume.positions_within(Path::new("d"), room).expect("positions");
    assert_eq!(within(21), site.volume.positions_below(Path::new("d")).expect("positions"));
    assert_eq!(within(20), Lane::ALL.map(|lane| site.volume.lane_head(lane).appended));
}

#[test]
fn a_path_that_is_not_there_is_said_to_be_so() {
    let site = Site::new();
    site.file(FileId::ROOT, "f");
    let ask = |path: &str| site.volume.positions_below(Path::new(path)).map(drop);
    assert!(matches!(ask("nothing"), Err(FsError::NotFound)));
    assert!(matches!(ask("f/below"), Err(FsError::NotDirectory)));
    assert!(matches!(ask("../f"), Err(FsError::Invalid(_))));
}
