//! Long writes of peers go into objects before their batch: whatever becomes of the records, no other byte may show.

mod common;

use common::Site;
use common::dump::check_rows;
use common::exchange::{self, lacked, replay};
use common::work::{READ_WRITE, ROOT};
use fs::replay::ReplayError;
use fs::ship::Copies;
use fs::types::SetAttr;
use fs::volume::Volume;
use proto::ids::{FileId, Seq};

const TOP: FileId = FileId::ROOT;

fn send(from: &Site, to: &Site) {
    assert!(exchange::send(from, to, Copies::ByValue).is_none());
}

fn resize(volume: &Volume, file: FileId, size: u64) {
    volume.setattr(ROOT, file, SetAttr { size: Some(size), ..SetAttr::default() }).expect("a new size");
}

fn content(volume: &Volume, file: FileId) -> Vec<u8> {
    let handle = volume.open(file, READ_WRITE).expect("opened");
    let bytes = volume.read(handle, 0, 1 << 21).expect("read");
    volume.release(handle).expect("released");
    bytes
}

#[test]
fn extents_cuts_and_holes_of_one_group_leave_what_the_origin_has() {
    let sites: Vec<Site> = (1..=2).map(Site::new).collect();
    let origin = sites[0].volume();
    let (attr, handle) = origin.create_open(ROOT, TOP, b"file", 0o644, READ_WRITE).expect("a file");
    let write = |offset, value, len| {
        origin.write(handle, offset, &vec![value; len], false).expect("written");
    };
    write(0, 1, 100_000);
    write(100_000, 2, 70_000);
    resize(origin, attr.file, 10_000);
    write(300_000, 3, 90_000);
    resize(origin, attr.file, 0);
    write(65_536, 4, 65_536);
    write(131_072, 5, 65_536);
    resize(origin, attr.file, 1_000_000);
    write(1_000_000, 6, 65_536);
    send(&sites[0], &sites[1]);
    assert!(content(origin, attr.file) == content(sites[1].volume(), attr.file), "the contents differ");
    check_rows(&sites[1], false);
}

#[test]
fn bytes_of_a_write_that_lost_do_not_show_when_the_file_grows() {
    let sites: Vec<Site> = (1..=2).map(Site::new).collect();
    let (first, second) = (sites[0].volume(), sites[1].volume());
    let (attr, handle) = first.create_open(ROOT, TOP, b"file", 0o644, READ_WRITE).expect("a file");
    send(&sites[0], &sites[1]);
    // Beyond all that the peer has.
    first.write(handle, 100, &vec![7; 200_000], false).expect("written");
    std::thread::sleep(std::time::Duration::from_millis(5));
    // The later content wins, whole.
    resize(second, attr.file, 0);
    let other = second.open(attr.file, READ_WRITE).expect("opened");
    second.write(other, 0, b"later", false).expect("written");
    send(&sites[0], &sites[1]);
    resize(second, attr.file, 300_000);
    let bytes = content(second, attr.file);
    assert!(bytes.len() == 300_000 && bytes.starts_with(b"later") && bytes[5..].iter().all(|byte| *byte == 0));
}

#[test]
fn bytes_of_a_write_that_lost_do_not_show_when_its_own_group_makes_the_file_grow() {
    let sites: Vec<Site> = (1..=2).map(Site::new).collect();
    let (first, second) = (sites[0].volume(), sites[1].volume());
    let (attr, handle) = first.create_open(ROOT, TOP, b"file", 0o644, READ_WRITE).expect("a file");
    send(&sites[0], &sites[1]);
    first.write(handle, 65_536, &vec![7; 66_000], false).expect("written");
    std::thread::sleep(std::time::Duration::from_millis(5));
    // Later than the write, and earlier than what makes the file longer.
    resize(second, attr.file, 0);
    std::thread::sleep(std::time::Duration::from_millis(5));
    resize(first, attr.file, 140_000);
    send(&sites[0], &sites[1]);
    let bytes = content(second, attr.file);
    assert!(bytes.len() == 140_000 && bytes.iter().all(|byte| *byte == 0));
    // The first site's content has won, and comes whole.
    send(&sites[1], &sites[0]);
    send(&sites[0], &sites[1]);
    assert!(content(first, attr.file) == content(second, attr.file), "the contents differ");
}

#[test]
fn bytes_behind_a_record_that_is_refused_do_not_show() {
    let sites: Vec<Site> = (1..=2).map(Site::new).collect();
    let origin = sites[0].volume();
    let (attr, handle) = origin.create_open(ROOT, TOP, b"file", 0o644, READ_WRITE).expect("a file");
    origin.write(handle, 0, b"short", false).expect("written");
    send(&sites[0], &sites[1]);
    // An object is cut when it is first opened, which is not what is looked at here.
    assert_eq!(content(sites[1].volume(), attr.file), b"short");
    origin.write(handle, 5, &vec![8; 69_995], false).expect("written");
    origin.write(handle, 70_000, &vec![9; 70_000], false).expect("written");
    let mut records = lacked(&sites[0], &sites[1], Copies::ByValue);
    let count = records.len();
    // A gap in front of the last one.
    records[count - 1].seq = Seq(records[count - 1].seq.0 + 1);
    assert!(matches!(replay(&sites[0], &sites[1], &records), Some(ReplayError::Gap { .. })));
    let peer = sites[1].volume();
    assert_eq!(peer.getattr(attr.file).expect("there").size, 70_000);
    resize(peer, attr.file, 200_000);
    let bytes = content(peer, attr.file);
    assert!(bytes[5..70_000].iter().all(|byte| *byte == 8) && bytes[70_000..].iter().all(|byte| *byte == 0));
}
