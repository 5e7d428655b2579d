//! One site without a mount: operations, and what a crash leaves.

use std::sync::Arc;

use fs::types::{Allocate, Caller, HandleId, OpenFlags, RenameMode, SetAttr, SetTime, XattrMode};
use fs::volume::{Volume, VolumeOptions};
use proto::ids::{FileId, SiteId, VolumeId};
use proto::record::{Kind, Perms, Time};

const ROOT: Caller = Caller { uid: 0, gid: 0 };
const READ_WRITE: OpenFlags = OpenFlags { read: true, write: true, append: false, truncate: false, sync: false };

struct Store {
    dir: tempfile::TempDir,
}

impl Store {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let perms = Perms { mode: 0o755, uid: 0, gid: 0 };
        Volume::format(dir.path(), VolumeId([7; 16]), SiteId(1), perms).expect("a store");
        Self { dir }
    }

    fn start(&self) -> Arc<Volume> {
        let options = VolumeOptions { journal_file_bytes: 1 << 20, ..VolumeOptions::default() };
        Volume::start(self.dir.path(), options).expect("a volume")
    }
}

fn create(volume: &Volume, name: &str) -> (FileId, HandleId) {
    let made = volume.create_open(ROOT, FileId::ROOT, name.as_bytes(), 0o644, READ_WRITE);
    let (attr, handle) = made.expect("a file");
    (attr.file, handle)
}

fn content(volume: &Volume, name: &str) -> Vec<u8> {
    let attr = volume.lookup(FileId::ROOT, name.as_bytes()).expect("the file");
    let handle = volume.open(attr.file, READ_WRITE).expect("a handle");
    let bytes = volume.read(handle, 0, 8 << 20).expect("bytes");
    assert_eq!(bytes.len() as u64, attr.size);
    volume.release(handle).expect("released");
    bytes
}

fn names(volume: &Volume, dir: FileId) -> Vec<String> {
    let entries = volume.list(dir).expect("a listing");
    entries.iter().map(|entry| String::from_utf8_lossy(entry.name.as_bytes()).into_owned()).collect()
}

#[test]
fn a_crash_loses_nothing_that_returned() {
    let store = Store::new();
    let pattern: Vec<u8> = (0..300_000u32).map(|i| (i % 251) as u8).collect();
    {
        let volume = store.start();
        let (_, small) = create(&volume, "small");
        volume.write(small, 0, b"hello, world", false).expect("written");
        volume.write(small, 7, b"there", false).expect("overwritten");
        let (big_file, big) = create(&volume, "big");
        volume.write(big, 0, &pattern, false).expect("written");
        volume.write(big, 1000, &[9; 100_000], false).expect("overwritten");
        let cut = SetAttr { size: Some(250_000), ..SetAttr::default() };
        volume.setattr(ROOT, big_file, cut).expect("cut");
        let dir = volume.create(ROOT, FileId::ROOT, b"dir", Kind::Directory, 0o755).expect("a directory").file;
        volume.rename(FileId::ROOT, b"small", dir, b"moved", RenameMode::Replace).expect("moved");
        volume.link(big_file, dir, b"linked").expect("linked");
        volume.setxattr(big_file, b"user.x", b"value", XattrMode::Create).expect("set");
        create(&volume, "gone");
        volume.unlink(FileId::ROOT, b"gone").expect("removed");
        // Dropped without a close: a crash.
    }
    for round in 0..3 {
        let volume = store.start();
        assert_eq!(names(&volume, FileId::ROOT), ["big", "dir"]);
        let dir = volume.lookup(FileId::ROOT, b"dir").expect("the directory").file;
        assert_eq!(names(&volume, dir), ["linked", "moved"]);
        let big = volume.lookup(dir, b"linked").expect("the link");
        assert_eq!((big.nlink, big.size), (2, 250_000));
        assert_eq!(&volume.getxattr(big.file, b"user.x").expect("the value")[..], b"value");
        let mut expected = pattern[..250_000].to_vec();
        expected[1000..101_000].fill(9);
        assert!(content(&volume, "big") == expected, "round {round}");
        volume.rename(dir, b"moved", FileId::ROOT, b"back", RenameMode::NoReplace).expect("moved");
        assert_eq!(content(&volume, "back"), b"hello, there");
        volume.rename(FileId::ROOT, b"back", dir, b"moved", RenameMode::NoReplace).expect("moved");
        if round == 1 {
            volume.close().expect("closed");
        }
    }
}

#[test]
fn many_operations_survive_folds_and_a_crash() {
    let store = Store::new();
    {
        let volume = store.start();
        for i in 0..3000 {
            let (_, handle) = create(&volume, &format!("f{i}"));
            volume.write(handle, 0, &vec![i as u8; 3000], false).expect("written");
            volume.release(handle).expect("released");
            if i % 3 == 0 {
                volume.unlink(FileId::ROOT, format!("f{i}").as_bytes()).expect("removed");
            }
        }
    }
    let volume = store.start();
    assert_eq!(names(&volume, FileId::ROOT).len(), 2000);
    for i in (0..3000).filter(|i| i % 3 != 0) {
        assert_eq!(content(&volume, &format!("f{i}")), vec![i as u8; 3000]);
    }
}

/// As ext4: also where no byte changes, times are set, and suid and sgid go with who may not keep them.
#[test]
fn every_fallocate_marks_the_file_as_modified() {
    let store = Store::new();
    let volume = store.start();
    let (file, handle) = create(&volume, "allocated");
    volume.write(handle, 0, b"some bytes", false).expect("written");
    let beyond = (1 << 20, 4096);
    for (how, (offset, len)) in [
        (Allocate::Punch, beyond),
        (Allocate::Zero { keep_size: true }, beyond),
        (Allocate::Reserve { keep_size: true }, beyond),
        (Allocate::Reserve { keep_size: false }, (0, 5)),
    ] {
        let old = Time { secs: 5, nanos: 6 };
        for kill in [false, true] {
            let set = SetAttr { mode: Some(0o6755), mtime: Some(SetTime::At(old)), ..SetAttr::default() };
            let before = volume.setattr(ROOT, file, set).expect("set");
            assert_eq!(before.mtime, old);
            volume.fallocate(handle, offset, len, how, kill).expect("allocated");
            let after = volume.getattr(file).expect("attributes");
            assert!(after.mtime > old && after.ctime > before.ctime, "{how:?}: {after:?}");
            assert_eq!(after.perms.mode, if kill { 0o755 } else { 0o6755 }, "{how:?}");
            assert_eq!(after.size, 10, "{how:?}");
        }
    }
    assert_eq!(content(&volume, "allocated"), b"some bytes");
}

/// `chown(-1, -1)`, as ext4 has it.
#[test]
fn a_chown_to_nobody_else_clears_suid_and_sets_the_change_time() {
    let store = Store::new();
    let volume = store.start();
    let (file, _) = create(&volume, "file");
    let directory = volume.create(ROOT, FileId::ROOT, b"directory", Kind::Directory, 0o755).expect("made").file;
    for (file, mode) in [(file, 0o0755), (directory, 0o6755)] {
        let before = volume.setattr(ROOT, file, SetAttr { mode: Some(0o6755), ..SetAttr::default() }).expect("set");
        let after = volume.setattr(ROOT, file, SetAttr::default()).expect("set");
        assert_eq!(after.perms.mode, mode);
        assert!(after.ctime > before.ctime, "{after:?}");
        assert_eq!((after.mtime, after.atime), (before.mtime, before.atime));
    }
}

#[test]
fn a_copy_within_a_file_ends_where_the_file_ended() {
    let store = Store::new();
    let volume = store.start();
    let (_, handle) = create(&volume, "file");
    volume.write(handle, 0, b"0123456789", false).expect("written");
    assert_eq!(volume.copy_range(handle, 4, handle, 10, 100, false).expect("copied"), 6);
    assert_eq!(content(&volume, "file"), b"0123456789456789");
    assert_eq!(volume.copy_range(handle, 16, handle, 0, 100, false).expect("nothing to copy"), 0);
    let (_, read) = create(&volume, "other");
    volume.release(read).expect("released");
    assert!(matches!(volume.copy_range(handle, 100, read, 0, 1, false), Err(fs::error::FsError::BadHandle)));
}

#[test]
fn a_write_that_is_refused_or_empty_changes_nothing() {
    const CAPABILITY: &[u8] = b"security.capability";
    let store = Store::new();
    let volume = store.start();
    let (file, handle) = create(&volume, "file");
    volume.setxattr(file, CAPABILITY, b"some", XattrMode::Set).expect("set");
    let before = volume.getattr(file).expect("attributes");
    for (offset, bytes) in [(i64::MAX as u64, &b"x"[..]), (u64::MAX, b"x"), (0, b"")] {
        let wrote = volume.write(handle, offset, bytes, true);
        assert!(wrote.is_err() || bytes.is_empty());
        assert_eq!(&volume.getxattr(file, CAPABILITY).expect("kept")[..], b"some");
        assert_eq!(volume.getattr(file).expect("attributes"), before);
    }
    volume.write(handle, 0, b"x", false).expect("written");
    assert!(volume.getxattr(file, CAPABILITY).is_err(), "whoever writes takes capabilities away");
}
