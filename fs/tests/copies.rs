//! Copies between files: what is shipped of them, and that a peer that has other bytes at the source never takes those.

mod common;

use common::exchange::{send, settle, shipped};
use common::work::{READ_WRITE, ROOT};
use common::{Rng, Site};
use fs::replay::ReplayError;
use fs::ship::{Copies, ShipRecord};
use fs::types::SetAttr;
use fs::volume::Volume;
use proto::ids::{FileId, Lane, Seq};
use proto::record::ContentHash;

const TOP: FileId = FileId::ROOT;
const LEN: usize = 300_000;

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    Rng::new(seed).bytes(len)
}

fn create(volume: &Volume, name: &str, content: &[u8]) -> FileId {
    let (attr, handle) = volume.create_open(ROOT, TOP, name.as_bytes(), 0o644, READ_WRITE).expect("a file");
    assert_eq!(volume.write(handle, 0, content, false).expect("written") as usize, content.len());
    volume.release(handle).expect("released");
    attr.file
}

fn write(volume: &Volume, file: FileId, offset: u64, content: &[u8]) {
    let handle = volume.open(file, READ_WRITE).expect("opened");
    assert_eq!(volume.write(handle, offset, content, false).expect("written") as usize, content.len());
    volume.release(handle).expect("released");
}

fn copy(volume: &Volume, from: FileId, at: u64, to: FileId, to_at: u64, len: u64) -> u64 {
    let (source, target) =
        (volume.open(from, READ_WRITE).expect("opened"), volume.open(to, READ_WRITE).expect("opened"));
    let copied = volume.copy_range(source, at, target, to_at, len, false).expect("copied");
    volume.release(source).expect("released");
    volume.release(target).expect("released");
    copied
}

fn read(volume: &Volume, name: &str) -> Vec<u8> {
    let attr = volume.lookup(TOP, name.as_bytes()).expect("a file");
    let handle = volume.open(attr.file, READ_WRITE).expect("opened");
    let bytes = volume.read(handle, 0, attr.size as u32).expect("read");
    volume.release(handle).expect("released");
    assert_eq!(bytes.len() as u64, attr.size);
    bytes
}

/// How many records come as copies, and how many bytes with all records.
fn weight(records: &[ShipRecord]) -> (usize, usize) {
    let copies = records.iter().filter(|shipped| shipped.record.copied().is_some()).count();
    (copies, records.iter().filter_map(|shipped| shipped.record.bytes()).map(|bytes| bytes.len()).sum())
}

/// As it has to be where the peer does not have the source: nothing of the record is applied, and all is well with its bytes.
fn refused_then_sent_whole(from: &Site, to: &Site) {
    let Some(ReplayError::NeedsBytes { seq }) = send(from, to, Copies::ByReference) else { panic!("it was taken") };
    assert_eq!(to.volume().frontier(from.id, Lane::Normal).seq, Seq(seq.0 - 1));
    assert!(matches!(send(from, to, Copies::ByReference), Some(ReplayError::NeedsBytes { .. })), "still so");
    assert!(send(from, to, Copies::ByValue).is_none());
}

fn pair() -> Vec<Site> {
    (1..=2).map(Site::new).collect()
}

#[test]
fn a_copy_is_shipped_without_its_bytes() {
    let sites = pair();
    let volume = sites[0].volume();
    let content = bytes(1, 3 << 20);
    let a = create(volume, "a", &content);
    let b = create(volume, "b", b"");
    let head = volume.lane_head(Lane::Normal).appended;
    assert_eq!(copy(volume, a, 0, b, 0, 1 << 30), 3 << 20);
    assert_eq!(read(volume, "b"), content);
    assert_eq!(weight(&shipped(&sites[0], head, Copies::ByReference)), (3, 0));
    assert_eq!(weight(&shipped(&sites[0], head, Copies::ByValue)), (0, 3 << 20));
    assert!(send(&sites[0], &sites[1], Copies::ByReference).is_none());
    assert_eq!(read(sites[1].volume(), "b"), content);
    settle(sites);
}

#[test]
fn within_a_file_and_with_an_odd_end() {
    let sites = pair();
    let volume = sites[0].volume();
    let content = bytes(2, LEN);
    let a = create(volume, "a", &content);
    let head = volume.lane_head(Lane::Normal).appended;
    // To the end of itself, and one short and one overwriting piece, which go with their bytes.
    assert_eq!(copy(volume, a, 1000, a, LEN as u64, 100_000), 100_000);
    assert_eq!(weight(&shipped(&sites[0], head, Copies::ByReference)), (1, 0));
    let head = volume.lane_head(Lane::Normal).appended;
    assert_eq!(copy(volume, a, 7, a, 400_000, 1000), 1000);
    assert_eq!(copy(volume, a, 0, a, 100_000, 70_000), 70_000);
    assert_eq!(weight(&shipped(&sites[0], head, Copies::ByReference)), (0, 71_000));
    let mut expected = content.clone();
    expected.extend_from_slice(&content[1000..101_000]);
    expected.extend_from_slice(&content[7..1007]);
    expected.copy_within(0..70_000, 100_000);
    assert_eq!(read(volume, "a"), expected);
    let sites = settle(sites);
    assert_eq!(read(sites[1].volume(), "a"), expected);
}

#[test]
fn what_becomes_of_the_source_and_the_copy_afterwards_does_not_change_what_is_shipped() {
    let sites = pair();
    let volume = sites[0].volume();
    let content = bytes(3, LEN);
    let (a, b) = (create(volume, "a", &content), create(volume, "b", b"begin"));
    let copies = volume.lane_head(Lane::Normal).appended;
    copy(volume, a, 0, b, 100, LEN as u64);
    write(volume, b, 50_000, &bytes(4, 90_000));
    write(volume, a, 0, &bytes(5, 120_000));
    volume.setattr(ROOT, b, SetAttr { size: Some(200_000), ..SetAttr::default() }).expect("cut");
    volume.setattr(ROOT, a, SetAttr { size: Some(0), ..SetAttr::default() }).expect("cut");
    let whole = shipped(&sites[0], copies, Copies::ByValue);
    assert_eq!(whole[0].record.bytes().expect("bytes")[..], content[..], "as it was copied");
    let (here, there) = (read(volume, "b"), &sites[1]);
    assert!(send(&sites[0], there, Copies::ByReference).is_none(), "in order, the source is what it was then");
    assert_eq!(read(there.volume(), "b"), here);
    settle(sites);
}

#[test]
fn a_peer_that_has_changed_the_source_gets_the_bytes() {
    let sites = pair();
    let content = bytes(6, LEN);
    let a = create(sites[0].volume(), "a", &content);
    assert!(send(&sites[0], &sites[1], Copies::ByReference).is_none());
    // Both at once: a copy here, a change of one byte of its source there.
    let b = create(sites[0].volume(), "b", b"");
    copy(sites[0].volume(), a, 0, b, 0, LEN as u64);
    write(sites[1].volume(), a, 200_000, b"!");
    refused_then_sent_whole(&sites[0], &sites[1]);
    assert_eq!(read(sites[1].volume(), "b"), content);
    for site in &settle(sites) {
        assert_eq!(read(site.volume(), "b"), content);
    }
}

#[test]
fn a_peer_that_has_cut_or_removed_the_source_gets_the_bytes() {
    for removed in [false, true] {
        let sites = pair();
        let content = bytes(7, LEN);
        let a = create(sites[0].volume(), "a", &content);
        assert!(send(&sites[0], &sites[1], Copies::ByReference).is_none());
        let b = create(sites[0].volume(), "b", b"");
        copy(sites[0].volume(), a, 0, b, 0, LEN as u64);
        if removed {
            // What is removed may be there for a while, or not: no other bytes are.
            sites[1].volume().unlink(TOP, b"a").expect("removed");
            let stopped = send(&sites[0], &sites[1], Copies::ByReference);
            assert!(matches!(stopped, None | Some(ReplayError::NeedsBytes { .. })), "{stopped:?}");
            assert!(send(&sites[0], &sites[1], Copies::ByValue).is_none());
        } else {
            let size = Some(LEN as u64 - 1);
            sites[1].volume().setattr(ROOT, a, SetAttr { size, ..SetAttr::default() }).expect("cut");
            refused_then_sent_whole(&sites[0], &sites[1]);
        }
        assert_eq!(read(sites[1].volume(), "b"), content);
        for site in &settle(sites) {
            assert_eq!(read(site.volume(), "b"), content);
        }
    }
}

#[test]
fn a_source_that_its_origin_removes_is_there_in_time() {
    let sites = pair();
    let volume = sites[0].volume();
    let content = bytes(8, LEN);
    let (a, b) = (create(volume, "a", &content), create(volume, "b", b""));
    copy(volume, a, 0, b, 0, LEN as u64);
    volume.unlink(TOP, b"a").expect("removed");
    for site in &settle(sites) {
        assert_eq!(read(site.volume(), "b"), content);
    }
}

#[test]
fn crashes_at_either_site_leave_copies_as_they_are() {
    let mut sites = pair();
    let content = bytes(9, LEN);
    let (a, b) = (create(sites[0].volume(), "a", &content), create(sites[0].volume(), "b", b""));
    let head = sites[0].volume().lane_head(Lane::Normal).appended;
    copy(sites[0].volume(), a, 0, b, 0, LEN as u64);
    sites[0].restart(false);
    assert_eq!(read(sites[0].volume(), "b"), content);
    // The pin has survived, too.
    write(sites[0].volume(), b, 0, &bytes(10, 150_000));
    sites[0].restart(false);
    let whole = shipped(&sites[0], head, Copies::ByValue);
    assert_eq!(whole[0].record.bytes().expect("bytes")[..], content[..]);
    let named = shipped(&sites[0], head, Copies::ByReference);
    assert_eq!(named[0].record.copied().expect("a copy").hash, ContentHash::of(&content));
    assert!(send(&sites[0], &sites[1], Copies::ByReference).is_none());
    sites[1].restart(false);
    assert_eq!(read(sites[1].volume(), "b"), read(sites[0].volume(), "b"));
    settle(sites);
}

#[test]
fn a_copy_of_what_a_third_site_wrote_does_not_wait_for_that_site() {
    let sites: Vec<Site> = (1..=3).map(Site::new).collect();
    let content = bytes(11, LEN);
    let a = create(sites[2].volume(), "a", &content);
    assert!(send(&sites[2], &sites[0], Copies::ByReference).is_none());
    let b = create(sites[0].volume(), "b", b"");
    copy(sites[0].volume(), a, 0, b, 0, LEN as u64);
    refused_then_sent_whole(&sites[0], &sites[1]);
    assert_eq!(read(sites[1].volume(), "b"), content);
    for site in &settle(sites) {
        assert_eq!(read(site.volume(), "b"), content);
    }
}
