//! Files whose objects are mapped: what watching them costs, and what it leaves.

mod common;

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::Site;
use common::work::{READ_WRITE, ROOT};
use fs::types::{Allocate, SetAttr};
use fs::volume::Volume;
use proto::ids::{FileId, Lane, LanePoint, Seq};

/// Longer ago than this, a change time is not given to a later store.
const SETTLED: Duration = Duration::from_millis(200);
const LIMIT: Duration = Duration::from_secs(30);

fn object_path(site: &Site, file: FileId) -> PathBuf {
    site.path().join(format!("objects/{:02x}/{:016x}", file.0 as u8, file.0))
}

/// The object as a mapping has it: open, without the daemon's knowledge.
fn object(site: &Site, file: FileId) -> File {
    File::options().read(true).write(true).open(object_path(site, file)).expect("an object")
}

fn made(volume: &Volume) -> Seq {
    volume.lane_head(Lane::Normal).appended
}

fn look(volume: &Volume) {
    // Each comes only after a time that the one before took a part of.
    std::thread::sleep(Duration::from_millis(20));
    volume.look_for_unseen_writes();
}

#[test]
fn watching_costs_what_the_data_of_a_file_cost_and_not_its_length() {
    const LONG: u64 = 1 << 42;
    let site = Site::new(1);
    let volume = site.volume();
    let (attr, handle) = volume.create_open(ROOT, FileId::ROOT, b"file", 0o644, READ_WRITE).expect("a file");
    let resize = |size| volume.setattr(ROOT, attr.file, SetAttr { size: Some(size), ..SetAttr::default() });
    resize(LONG).expect("a long file");
    volume.write(handle, LONG / 2 + 10, b"data", false).expect("written");
    let begin = Instant::now();
    volume.expect_unseen_writes(attr.file).expect("watched");
    let unchanged = made(volume);
    look(volume);
    assert_eq!(made(volume), unchanged, "what nobody stored is journalled");
    let mapped = object(&site, attr.file);
    let store = |offset, bytes: &[u8]| {
        let before = made(volume);
        mapped.write_all_at(bytes, offset).expect("stored");
        volume.fsync(handle).expect("synced");
        assert!(made(volume) > before, "a store at {offset} is not journalled");
        let after = made(volume);
        std::thread::sleep(SETTLED);
        volume.fsync(handle).expect("synced");
        assert_eq!(made(volume), after, "a store at {offset} is journalled again");
    };
    store(LONG / 4, b"into a hole");
    store(LONG / 2 + 12, b"XY");
    store(LONG - 5, b"end");
    // What the daemon does to it is not taken for a store.
    resize(2 * LONG).expect("longer");
    volume.fallocate(handle, 100, LONG, Allocate::Punch, false).expect("a hole");
    volume.write(handle, LONG / 3, b"more", false).expect("written");
    resize(LONG).expect("shorter");
    let expected = made(volume);
    volume.fsync(handle).expect("synced");
    assert_eq!(made(volume), expected, "what the daemon changed is journalled again");
    store(LONG / 3 + 1, b"m");
    // Zeros are a change, too.
    store(LONG / 3, &[0; 4]);
    volume.end_unseen_writes(attr.file, 1).expect("no more");
    assert!(begin.elapsed() < Duration::from_secs(20), "it took {:?}", begin.elapsed());
}

/// In memory no page is ever written back, and so none is protected: only the first store into it changes the object's change time.
#[test]
fn stores_are_found_also_where_the_file_system_below_does_not_tell() {
    for directory in [std::env::temp_dir(), PathBuf::from("/dev/shm")] {
        let site = Site::below(1, &directory);
        let volume = site.volume();
        let (attr, handle) = volume.create_open(ROOT, FileId::ROOT, b"file", 0o644, READ_WRITE).expect("a file");
        volume.write(handle, 0, &[b'a'; 8192], false).expect("written");
        volume.expect_unseen_writes(attr.file).expect("watched");
        let mapped = object(&site, attr.file);
        // SAFETY: no address is asked for, and the file is as long as the mapping.
        let address = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(std::ptr::null_mut(), 8192, access, libc::MAP_SHARED, mapped.as_raw_fd(), 0)
        };
        assert!(address != libc::MAP_FAILED);
        for byte in b'b'..b'f' {
            // SAFETY: within the mapping.
            unsafe { address.cast::<u8>().add(5000).write_volatile(byte) };
            let before = made(volume);
            volume.fsync(handle).expect("synced");
            assert!(made(volume) > before, "{}: a store is not journalled", directory.display());
            // The next look finds nothing, and that the change time is old.
            std::thread::sleep(SETTLED);
            volume.fsync(handle).expect("synced");
        }
        // SAFETY: nothing refers to it any more.
        unsafe { libc::munmap(address, 8192) };
        volume.end_unseen_writes(attr.file, 1).expect("no more");
    }
}

#[test]
fn a_removed_file_that_was_mapped_gives_its_space_back() {
    let site = Site::new(1);
    let volume = site.volume();
    let (attr, handle) = volume.create_open(ROOT, FileId::ROOT, b"file", 0o644, READ_WRITE).expect("a file");
    volume.write(handle, 0, &[b'a'; 100], false).expect("written");
    volume.expect_unseen_writes(attr.file).expect("watched");
    let mapped = object(&site, attr.file);
    volume.release(handle).expect("closed");
    volume.unlink(FileId::ROOT, b"file").expect("removed");
    volume.set_watermark(Lane::Normal, made(volume));
    let point = LanePoint { incarnation: volume.incarnation(), seq: made(volume) };
    volume.set_stable(site.id, Lane::Normal, point);
    let begin = Instant::now();
    while object_path(&site, attr.file).exists() {
        assert!(begin.elapsed() < LIMIT, "it is not reclaimed");
        std::thread::sleep(Duration::from_millis(5));
    }
    mapped.write_all_at(b"stored", 0).expect("stored");
    look(volume);
    assert!(!volume.is_unmapped(attr.file));
    drop(mapped);
    assert!(volume.is_unmapped(attr.file));
    volume.end_unseen_writes(attr.file, 1).expect("no more");
    let name = format!("{:016x}", attr.file.0);
    let open =
        std::fs::read_dir("/proc/self/fd").expect("descriptors").filter_map(|fd| fd.ok()?.path().read_link().ok());
    let open: Vec<_> =
        open.filter(|path| path.starts_with(site.path()) && path.to_string_lossy().contains(&name)).collect();
    assert!(open.is_empty(), "{open:?} keeps its space");
    volume.close().expect("closed");
}
