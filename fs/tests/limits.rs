//! What the file system below cannot hold is refused, and the site goes on.

mod common;

use common::Site;
use common::work::{READ_WRITE, ROOT};
use fs::types::{RenameMode, SetAttr};
use fs::volume::{Volume, VolumeOptions};
use proto::ids::{FileId, Lane, SiteId};
use proto::record::{Kind, Perms};
use rustix::io::Errno;

#[test]
fn a_size_that_the_disk_cannot_hold_is_refused() {
    // On a disk: in memory any size would do.
    let dir = tempfile::tempdir().expect("a directory");
    let perms = Perms { mode: 0o755, uid: 0, gid: 0 };
    Volume::format(dir.path(), common::VOLUME, SiteId(1), perms).expect("a store");
    for _ in 0..2 {
        let volume = Volume::start(dir.path(), VolumeOptions::default()).expect("the site starts");
        let attr = volume.lookup(FileId::ROOT, b"f");
        let attr = attr.or_else(|_| volume.create(ROOT, FileId::ROOT, b"f", Kind::Regular, 0o644)).expect("a file");
        let handle = volume.open(attr.file, READ_WRITE).expect("opened");
        for size in [i64::MAX as u64, 1 << 62, 1 << 50, 1 << 44] {
            let cut = volume.setattr(ROOT, attr.file, SetAttr { size: Some(size), ..SetAttr::default() });
            let wrote = volume.write(handle, size - 1, b"x", false);
            for error in [cut.err(), wrote.err()].into_iter().flatten() {
                assert_eq!(error.errno(), Errno::FBIG, "{error}");
            }
        }
        assert_eq!(volume.stopped(), None);
        volume.setattr(ROOT, attr.file, SetAttr { size: Some(0), ..SetAttr::default() }).expect("cut");
        volume.write(handle, 0, b"small", false).expect("written");
        // Dropped: a crash.
    }
}

#[test]
fn what_is_no_regular_file_has_no_size_to_set() {
    let site = Site::new(1);
    let volume = site.volume();
    let fifo = volume.create(ROOT, FileId::ROOT, b"fifo", Kind::Fifo, 0o644).expect("a pipe");
    let size = SetAttr { size: Some(0), ..SetAttr::default() };
    assert_eq!(volume.setattr(ROOT, fifo.file, size).expect_err("refused").errno(), Errno::INVAL);
    assert_eq!(volume.setattr(ROOT, FileId::ROOT, size).expect_err("refused").errno(), Errno::ISDIR);
}

/// pjdfstest has this too, and can't ask it of a mount: the C library knows LINK_MAX of file systems in the kernel only.
#[test]
fn a_file_has_as_many_names_as_on_ext4() {
    const LINK_MAX: u32 = 65_000;
    let site = Site::new(1);
    let volume = site.volume();
    let file = volume.create(ROOT, FileId::ROOT, b"1", Kind::Regular, 0o644).expect("a file").file;
    for nlink in 2..=LINK_MAX {
        let attr = volume.link(file, FileId::ROOT, nlink.to_string().as_bytes()).expect("one more name");
        assert_eq!(attr.nlink, nlink);
        if nlink % 1000 == 0 {
            volume.set_watermark(Lane::Normal, volume.lane_head(Lane::Normal).appended);
        }
    }
    let refused = || volume.link(file, FileId::ROOT, b"one too many").expect_err("refused").errno();
    assert_eq!(refused(), Errno::MLINK);
    // What takes no more names goes on, and room for one is for one.
    volume.rename(FileId::ROOT, b"1", FileId::ROOT, b"renamed", RenameMode::Replace).expect("renamed");
    assert_eq!(refused(), Errno::MLINK);
    volume.unlink(FileId::ROOT, b"2").expect("removed");
    volume.link(file, FileId::ROOT, b"again").expect("as many as before");
    assert_eq!(refused(), Errno::MLINK);
    assert_eq!(volume.getattr(file).expect("attributes").nlink, LINK_MAX);
}

/// `SYNCLINE_SMALL_DISK` names an empty directory on a file system of a few dozen MiB. Without it there is nothing to fill.
#[test]
fn a_full_disk_refuses_and_recovers() {
    let Some(dir) = std::env::var_os("SYNCLINE_SMALL_DISK").map(std::path::PathBuf::from) else { return };
    let perms = Perms { mode: 0o755, uid: 0, gid: 0 };
    Volume::format_sized(&dir, common::VOLUME, SiteId(1), perms, common::JOURNAL_FILE_BYTES).expect("a store");
    let options = VolumeOptions { journal_file_bytes: common::JOURNAL_FILE_BYTES, ..VolumeOptions::default() };
    for round in 0..6 {
        let volume = Volume::start(&dir, options.clone()).expect("the site starts");
        let mut names = Vec::new();
        let error = loop {
            let name = format!("{round}.{}", names.len());
            let made = volume.create_open(ROOT, FileId::ROOT, name.as_bytes(), 0o644, READ_WRITE);
            names.push(name);
            let len = if names.len() % 2 == 0 { 9_000 } else { 100_000 };
            match made.and_then(|(_, handle)| volume.write(handle, 0, &vec![7; len], false)) {
                Ok(wrote) if wrote as usize == len => {}
                Ok(_) => {}
                Err(error) => break error,
            }
            volume.set_watermark(Lane::Normal, volume.lane_head(Lane::Normal).appended);
            assert!(names.len() < 100_000);
        };
        assert_eq!(error.errno(), Errno::NOSPC, "{error}");
        assert_eq!(volume.stopped(), None);
        if round % 2 == 0 {
            drop(volume);
            continue;
        }
        for entry in volume.list(FileId::ROOT).expect("a listing") {
            volume.unlink(FileId::ROOT, entry.name.as_bytes()).expect("what frees space goes on");
        }
        let head = volume.lane_head(Lane::Normal).appended;
        let point = proto::ids::LanePoint { incarnation: volume.incarnation(), seq: head };
        volume.forget_all();
        volume.set_watermark(Lane::Normal, head);
        volume.set_stable(SiteId(1), Lane::Normal, point);
        assert_eq!(volume.stopped(), None);
        volume.close().expect("closed");
    }
}
