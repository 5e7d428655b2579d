//! What a power loss leaves of calls that nobody waited for: here the disk has everything that was written to objects, and of the journal only what
//! was durable.

mod common;

use std::time::Duration;

use common::dump::{check_drained, check_rows, content};
use common::exchange::{send, settle, shipped};
use common::work::{READ_WRITE, ROOT};
use common::{JOURNAL_FILE_BYTES, Rng, Site, power};
use fs::content::objects::Objects;
use fs::ship::Copies;
use fs::types::{Allocate, Attr, HandleId, SetAttr};
use fs::volume::Volume;
use proto::ids::{FileId, Lane, LanePoint, Seq, SiteId};

const TOP: FileId = FileId::ROOT;
/// Goes by extent.
const LONG: usize = 300_000;

/// What is durable there is what was waited for, until it is started again.
fn site(id: u16) -> Site {
    let site = Site::with_journal(id, JOURNAL_FILE_BYTES, Duration::from_secs(3600));
    // The first batch is flushed in the background, and then none for an hour.
    let volume = site.volume();
    volume.set_acknowledged(SiteId(99), Lane::Normal, LanePoint::START).expect("a row");
    let flushed = (0..2000).any(|_| {
        std::thread::sleep(Duration::from_millis(5));
        volume.durable() >= volume.appended()
    });
    assert!(flushed, "nothing is flushed");
    site
}

fn bytes(seed: u64, len: usize) -> Vec<u8> {
    Rng::new(seed).bytes(len)
}

fn create(volume: &Volume, name: &str, content: &[u8]) -> FileId {
    let (attr, handle) = volume.create_open(ROOT, TOP, name.as_bytes(), 0o644, READ_WRITE).expect("a file");
    assert_eq!(volume.write(handle, 0, content, false).expect("written") as usize, content.len());
    volume.fsync(handle).expect("synced");
    volume.release(handle).expect("released");
    attr.file
}

fn with_handle<T>(volume: &Volume, file: FileId, call: impl FnOnce(HandleId) -> T) -> T {
    let handle = volume.open(file, READ_WRITE).expect("opened");
    let answer = call(handle);
    volume.release(handle).expect("released");
    answer
}

fn write(volume: &Volume, file: FileId, offset: u64, content: &[u8]) {
    let written = with_handle(volume, file, |handle| volume.write(handle, offset, content, false));
    assert_eq!(written.expect("written") as usize, content.len());
}

fn set_size(volume: &Volume, file: FileId, size: u64) -> Attr {
    volume.setattr(ROOT, file, SetAttr { size: Some(size), ..SetAttr::default() }).expect("a new size")
}

/// All peers have everything.
fn acknowledge(volume: &Volume) {
    volume.wait_durable(volume.appended()).expect("durable");
    for lane in Lane::ALL {
        let seq = volume.lane_head(lane).appended;
        volume.set_watermark(lane, seq);
        volume.set_stable(volume.site(), lane, LanePoint { incarnation: volume.incarnation(), seq });
    }
}

fn has_object(site: &Site, file: FileId) -> bool {
    Objects::open(site.path()).expect("the objects").open_object(file, false).expect("an answer").is_some()
}

fn records(site: &Site) -> u64 {
    Lane::ALL.into_iter().map(|lane| site.volume().lane_head(lane).appended.0).sum()
}

#[test]
fn a_file_whose_creation_was_lost_leaves_no_object_behind() {
    let mut site = site(1);
    for round in 0..2 {
        let volume = site.volume().clone();
        let before = volume.appended();
        let made = volume.create_open(ROOT, TOP, b"lost", 0o644, READ_WRITE);
        let (_, handle) = made.expect("a file");
        volume.write(handle, 0, b"a secret of a file that never was", false).expect("written");
        drop(volume);
        site.crash();
        power::lose(site.path(), before);
        site.start();
        assert!(site.volume().lookup(TOP, b"lost").is_err(), "round {round}: the creation was not lost");
        check_rows(&site, true);
        check_drained(&mut site);
    }
    // Its id is given again, and nothing shows through.
    let volume = site.volume().clone();
    let (attr, handle) = volume.create_open(ROOT, TOP, b"new", 0o644, READ_WRITE).expect("a file");
    set_size(&volume, attr.file, 100);
    volume.fsync(handle).expect("synced");
    drop(volume);
    site.restart(false);
    assert_eq!(content(site.volume(), attr.file).0, [0; 100]);
}

#[test]
fn a_file_that_is_gone_keeps_its_object_until_its_removal_is_durable() {
    let mut site = site(1);
    let file = create(site.volume(), "file", &bytes(1, LONG));
    site.volume().unlink(TOP, b"file").expect("removed");
    acknowledge(site.volume());
    assert!(site.volume().getattr(file).is_err(), "it is not reclaimed");
    assert!(has_object(&site, file), "a power loss would leave an inode without its bytes");
    site.lose_power();
    assert_eq!(content(site.volume(), file).0, bytes(1, LONG));
    acknowledge(site.volume());
    site.volume().wait_durable(site.volume().appended()).expect("durable");
    let gone = (0..2000).any(|_| {
        std::thread::sleep(Duration::from_millis(5));
        !has_object(&site, file)
    });
    assert!(gone, "the object stays");
    check_drained(&mut site);
}

#[test]
fn what_is_to_be_removed_is_removed_after_a_crash() {
    let mut site = site(1);
    let file = create(site.volume(), "file", &bytes(1, LONG));
    site.volume().unlink(TOP, b"file").expect("removed");
    acknowledge(site.volume());
    site.restart(false);
    assert!(site.volume().getattr(file).is_err());
    check_drained(&mut site);
}

type Change = fn(&Volume, FileId);

/// Changes that take bytes out of an object to which a record refers that no peer has.
fn destructive() -> Vec<(&'static str, Change)> {
    vec![
        ("cut", |volume, file| drop(set_size(volume, file, 100_000))),
        ("emptied", |volume, file| drop(set_size(volume, file, 0))),
        ("a hole", |volume, file| {
            let hole = |handle| volume.fallocate(handle, 5000, 200_000, Allocate::Punch, false);
            with_handle(volume, file, hole).expect("a hole");
        }),
        ("overwritten", |volume, file| write(volume, file, 1000, &bytes(2, 50_000))),
        ("a checkpoint written again", |volume, file| {
            set_size(volume, file, 0);
            write(volume, file, 0, &bytes(3, LONG + 70_000));
        }),
        ("a shorter checkpoint", |volume, file| {
            set_size(volume, file, 0);
            write(volume, file, 0, &bytes(3, 100_000));
        }),
    ]
}

/// What a peer has while the record is shipped is what was written, whatever stands in the object; then both have what stands there.
#[test]
fn a_lost_change_takes_no_bytes_from_a_record_that_is_not_shipped() {
    for (what, change) in destructive() {
        for marked in [false, true] {
            let (mut origin, peer) = (site(1), site(2));
            let file = create(origin.volume(), "file", &bytes(1, LONG));
            if marked {
                write(origin.volume(), file, 0, &bytes(1, LONG)[..8]);
                with_handle(origin.volume(), file, |handle| origin.volume().fsync(handle)).expect("synced");
            }
            change(origin.volume(), file);
            origin.lose_power();
            for made in shipped(&origin, Seq::ZERO, Copies::ByReference) {
                if made.record.seq <= Seq(2) {
                    let replayed = peer.volume().replay(origin.id, made.incarnation, Lane::Normal, &[made.record]);
                    assert!(replayed.stopped.is_none(), "{what}");
                }
            }
            assert!(content(peer.volume(), file).0 == bytes(1, LONG), "{what}: shipped otherwise than written");
            settle(vec![origin, peer]);
        }
    }
}

/// As far as a lost call cut the file, so far it is cut: no zeros where there were bytes.
#[test]
fn a_lost_cut_leaves_the_file_cut_or_whole() {
    let mut site = site(1);
    let file = create(site.volume(), "file", &bytes(1, LONG));
    write(site.volume(), file, 250_000, &bytes(2, 100_000));
    with_handle(site.volume(), file, |handle| site.volume().fsync(handle)).expect("synced");
    set_size(site.volume(), file, 4000);
    site.lose_power();
    let found = content(site.volume(), file).0;
    assert!(found == bytes(1, LONG)[..4000], "{} bytes", found.len());
}

/// The row that the record needs its bytes may come back after the bytes have gone: who has acknowledged it asks for no bytes.
#[test]
fn what_was_acknowledged_and_cut_is_not_missed() {
    let mut site = site(1);
    let file = create(site.volume(), "file", &bytes(1, LONG));
    // From now on nothing has to be durable before the object is changed.
    write(site.volume(), file, 0, b"x");
    let volume = site.volume().clone();
    volume.wait_durable(volume.appended()).expect("durable");
    for lane in Lane::ALL {
        volume.set_watermark(lane, volume.lane_head(lane).durable);
    }
    set_size(&volume, file, 1000);
    drop(volume);
    site.lose_power();
    assert_eq!(content(site.volume(), file).0.len(), 1000);
    acknowledge(site.volume());
    check_drained(&mut site);
}

/// The record comes again; what a lost change of the replica's object did is not the replica's to tell. Also where the content was its own before.
#[test]
fn a_replayed_change_that_was_lost_is_made_again() {
    for (what, change) in destructive() {
        for ours in [false, true] {
            let (origin, mut peer) = (site(1), site(2));
            let (maker, other) = if ours { (&peer, &origin) } else { (&origin, &peer) };
            let file = create(maker.volume(), "file", &bytes(1, LONG));
            // Its own changes are still marked.
            write(maker.volume(), file, 0, &bytes(1, LONG)[..8]);
            assert!(send(maker, other, Copies::ByReference).is_none());
            for site in [maker, other] {
                site.volume().wait_durable(site.volume().appended()).expect("durable");
            }
            change(origin.volume(), file);
            let made = records(&peer);
            assert!(send(&origin, &peer, Copies::ByReference).is_none());
            let expected = content(origin.volume(), file).0;
            peer.lose_power();
            assert_eq!(records(&peer), made, "{what}: the replica made a record");
            write(origin.volume(), file, 1, b"later");
            let sites = settle(vec![origin, peer]);
            let mut later = expected;
            later.resize(later.len().max(6), 0);
            later[1..6].copy_from_slice(b"later");
            assert!(content(sites[1].volume(), file).0 == later, "{what}, {ours}");
        }
    }
}

/// The mark says that this site's changes are lost: what they left is this site's to ship, whoever made the content.
#[test]
fn a_lost_change_of_anothers_content_does_not_stay_here_alone() {
    for (what, change) in destructive() {
        let (origin, mut peer) = (site(1), site(2));
        let file = create(origin.volume(), "file", &bytes(1, LONG));
        assert!(send(&origin, &peer, Copies::ByReference).is_none());
        peer.volume().wait_durable(peer.volume().appended()).expect("durable");
        change(peer.volume(), file);
        peer.lose_power();
        let sites = settle(vec![origin, peer]);
        let there: Vec<_> = sites.iter().map(|site| content(site.volume(), file).0).collect();
        assert!(there[0] == there[1], "{what}: {} and {} bytes", there[0].len(), there[1].len());
    }
}
