//! That removing a directory's names is as much work for each of many as for each of few.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proto::ids::{SiteId, VolumeId};
use proto::record::{Kind, Perms};

use super::*;
use crate::types::Caller;
use crate::volume::VolumeOptions;

const ROOT: Caller = Caller { uid: 0, gid: 0 };

fn acknowledge(volume: &Volume) {
    for lane in Lane::ALL {
        let seq = volume.lane_head(lane).appended;
        volume.set_watermark(lane, seq);
        volume.set_stable(volume.site(), lane, LanePoint { incarnation: volume.incarnation(), seq });
    }
}

/// When the kernel forgets the inodes, and how often peers acknowledge.
#[derive(Clone, Copy, Debug)]
struct How {
    forgotten_late: bool,
    acknowledged_each: u32,
}

/// Rows in front of redb that all scans pass while so many names of one directory are removed. Nothing is folded meanwhile.
fn rows_passed(names: u32, how: How) -> u64 {
    let memory = std::path::Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a directory");
    Volume::format(dir.path(), VolumeId([7; 16]), SiteId(1), Perms { mode: 0o755, uid: 0, gid: 0 }).expect("a store");
    let options = VolumeOptions { flush_interval: Duration::from_secs(3600), ..VolumeOptions::default() };
    let volume: Arc<Volume> = Volume::start(dir.path(), options).expect("a volume");
    let _no_folds = volume.folding.lock();
    let parent = volume.create(ROOT, FileId::ROOT, b"dir", Kind::Directory, 0o755).expect("a directory").file;
    let name = |index: u32| format!("{index:07}").into_bytes();
    let make = |index| volume.create(ROOT, parent, &name(index), Kind::Regular, 0o644).expect("a file").file;
    let files: Vec<FileId> = (0..names).map(make).collect();
    files.iter().for_each(|file| volume.remember(*file));
    acknowledge(&volume);
    let before = volume.rows.passed.load(Ordering::Relaxed);
    for (index, file) in files.iter().enumerate() {
        volume.unlink(parent, &name(index as u32)).expect("removed");
        if !how.forgotten_late {
            volume.forget(*file, 1);
        }
        if (index as u32).is_multiple_of(how.acknowledged_each) {
            acknowledge(&volume);
        }
    }
    acknowledge(&volume);
    if how.forgotten_late {
        files.iter().for_each(|file| volume.forget(*file, 1));
    }
    acknowledge(&volume);
    volume.rmdir(FileId::ROOT, b"dir").expect("empty");
    acknowledge(&volume);
    let passed = volume.rows.passed.load(Ordering::Relaxed) - before;
    assert!(volume.rows.scan(Table::Inode, b"", None, 10).expect("rows").len() == 1, "{how:?}: not all is reclaimed");
    assert!(volume.rows.scan(Table::Garbage, b"", None, 10).expect("rows").is_empty(), "{how:?}");
    passed
}

#[test]
fn removing_many_names_is_linear() {
    for forgotten_late in [false, true] {
        for acknowledged_each in [1, 50, u32::MAX] {
            let how = How { forgotten_late, acknowledged_each };
            let passed = [250, 2000].map(|names| rows_passed(names, how) / u64::from(names));
            assert!(passed[1] <= passed[0] + 8, "{how:?}: {passed:?} rows are passed for each name");
        }
    }
}
