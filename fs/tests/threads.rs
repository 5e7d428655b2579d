//! Programs, replay and shipping at once, on threads: nobody waits for ever, no reader sees a name before what it names.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::dump::{READ, check_rows, dump};
use common::network::{Heads, Network, heads};
use common::work::{Program, READ_WRITE, ROOT, use_policies};
use common::{Rng, Site, env_number};
use fs::error::FsError;
use fs::replay::ReplayError;
use fs::ship::Copies;
use fs::types::{OpenFlags, RenameMode, SetAttr, SetTime};
use fs::volume::Volume;
use proto::hlc::{Hlc, Stamp};
use proto::ids::{FileId, Incarnation, Lane, LanePoint, Position, Seq, SiteId};
use proto::name::Name;
use proto::record::{ContentChange, Data, Edit, Kind, Op, Perms, Record, Time};

/// Replaces `published` again and again by a file of one byte's value, as programs do that want readers to see all or nothing.
fn publish(volume: &Volume, stop: &AtomicBool, seed: u64) {
    let mut rng = Rng::new(seed);
    let temporary = format!(".published.{seed}");
    while !stop.load(Ordering::SeqCst) {
        let len = if rng.one_in(2) { 70_000 + rng.below(200_000) } else { 1 + rng.below(20_000) };
        let (_, handle) =
            volume.create_open(ROOT, FileId::ROOT, temporary.as_bytes(), 0o644, READ_WRITE).expect("created");
        let bytes = vec![rng.next() as u8; len as usize];
        let mut at = 0;
        while at < bytes.len() {
            let end = (at + 1 + rng.below(150_000) as usize).min(bytes.len());
            volume.write(handle, at as u64, &bytes[at..end], false).expect("written");
            at = end;
        }
        volume.release(handle).expect("released");
        volume
            .rename(FileId::ROOT, temporary.as_bytes(), FileId::ROOT, b".published", RenameMode::Replace)
            .expect("published");
    }
}

/// Answers how often it found a whole file.
fn read_published(volume: &Volume, stop: &AtomicBool) -> u64 {
    let mut whole = 0;
    while !stop.load(Ordering::SeqCst) {
        let attr = match volume.lookup(FileId::ROOT, b".published") {
            Ok(attr) => attr,
            Err(FsError::NotFound) => continue,
            Err(error) => panic!("{error}"),
        };
        // As the kernel does between a look-up and an open.
        volume.remember(attr.file);
        if let Ok(handle) = volume.open(attr.file, READ) {
            let size = volume.getattr(attr.file).expect("an open file's attributes").size;
            let bytes = volume.read(handle, 0, 1 << 20).expect("bytes");
            assert_eq!(bytes.len() as u64, size, "a file's length");
            assert!(!bytes.is_empty(), "a published file is empty");
            assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a mixed file");
            volume.release(handle).expect("released");
            whole += 1;
        }
        volume.forget(attr.file, 1);
    }
    whole
}

/// Carries some lanes and acknowledges them, as two replicators would.
fn carry(from: &Volume, to: &Volume, lanes: &[Lane], stop: &AtomicBool) {
    from.peer_connected(to.site(), true);
    while !stop.load(Ordering::SeqCst) {
        if lanes.iter().filter(|lane| carry_lane(from, to, **lane)).count() == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Whether anything arrived.
fn carry_lane(from: &Volume, to: &Volume, lane: Lane) -> bool {
    if lane != Lane::Sync {
        from.wait_durable(from.appended()).expect("durable");
    }
    let after = to.frontier(from.site(), lane);
    let records = from.read_lane(lane, after.seq, 1 << 19, Copies::ByValue).expect("the lane");
    if records.is_empty() {
        return false;
    }
    let records: Vec<_> = records.into_iter().map(|shipped| shipped.record).collect();
    let replayed = to.replay(from.site(), from.incarnation(), lane, &records);
    match replayed.stopped {
        None | Some(ReplayError::MissingDep(_)) => {}
        Some(error) => panic!("{error}"),
    }
    to.wait_durable(replayed.lsn).expect("durable");
    let (made_here, made_there) = (heads(from), heads(to));
    from.set_acknowledged(to.site(), lane, replayed.applied).expect("remembered");
    from.peer_acknowledged(to.site(), lane, replayed.applied);
    from.set_watermark(lane, replayed.applied.seq);
    let has = |here: &Volume, origin: &Volume, heads: Heads| {
        Lane::ALL.into_iter().zip(heads).all(|(lane, head)| here.frontier(origin.site(), lane).seq >= head)
    };
    if has(from, to, made_there) {
        from.set_stable(from.site(), lane, replayed.applied);
        if has(to, from, made_here) {
            to.set_stable(from.site(), lane, replayed.applied);
        }
    }
    replayed.applied > after
}

fn run(seed: u64, seconds: u64) {
    let sites = [Site::new(1), Site::new(2)];
    let now = Some(SetTime::Now);
    sites[0]
        .volume()
        .setattr(ROOT, FileId::ROOT, SetAttr { atime: now, mtime: now, ..SetAttr::default() })
        .expect("set");
    sites.iter().for_each(|site| use_policies(site.volume()));
    let (stop, whole) = (AtomicBool::new(false), AtomicBool::new(false));
    let volumes: Vec<Arc<Volume>> = sites.iter().map(|site| site.volume().clone()).collect();
    std::thread::scope(|scope| {
        let (stop, whole) = (&stop, &whole);
        for (index, volume) in volumes.iter().enumerate() {
            for program in 0..2 {
                scope.spawn(move || {
                    let mut rng = Rng::new(seed * 100 + (index * 10 + program) as u64);
                    let mut program = Program::with_policies();
                    while !stop.load(Ordering::SeqCst) {
                        program.step_beside_others(volume, &mut rng);
                    }
                    program.close_all(volume);
                });
            }
            scope.spawn(move || {
                if read_published(volume, stop) > 0 {
                    whole.store(true, Ordering::SeqCst);
                }
            });
        }
        scope.spawn(|| publish(&volumes[0], stop, seed));
        for (from, to) in [(0, 1), (1, 0)] {
            let (from, to) = (&volumes[from], &volumes[to]);
            scope.spawn(|| carry(from, to, &[Lane::Sync], stop));
            scope.spawn(|| carry(from, to, &[Lane::High, Lane::Normal, Lane::Bulk], stop));
        }
        let until = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < until {
            std::thread::sleep(Duration::from_millis(500));
        }
        stop.store(true, Ordering::SeqCst);
        for lane in Lane::ALL {
            let here = volumes[0].frontier(volumes[1].site(), lane).max(volumes[1].frontier(volumes[0].site(), lane));
            assert!(here > LanePoint::START, "nothing arrived in lane {lane}");
        }
    });
    drop(volumes);
    assert!(whole.load(Ordering::SeqCst), "no reader found the published file");
    let mut network = Network::new(2);
    network.settle(&sites, &mut Rng::new(seed));
    sites.iter().for_each(|site| check_rows(site, false));
    let diff = dump(&sites[0]).diff(&dump(&sites[1]));
    assert!(diff.is_empty(), "the sites differ:\n{diff:.4000}");
    network.drain(&sites);
    for mut site in sites {
        check_rows(&site, true);
        common::dump::check_drained(&mut site);
    }
}

#[test]
fn threads_neither_wait_for_ever_nor_see_halves() {
    run(env_number("SYNCLINE_SEED").unwrap_or(1), env_number("SYNCLINE_SECONDS").unwrap_or(6));
}

#[test]
fn a_file_that_another_writer_makes_longer_is_not_cut_by_a_reservation() {
    let site = Site::new(1);
    let volume = site.volume();
    let (attr, handle) = volume.create_open(ROOT, FileId::ROOT, b"log", 0o644, READ_WRITE).expect("created");
    let append = volume.open(attr.file, OpenFlags { append: true, ..READ_WRITE }).expect("opened");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..2000 {
                volume.write(append, 0, b"ten bytes.", false).expect("appended");
            }
        });
        for size in 1..2000 {
            volume
                .fallocate(handle, 0, size * 10, fs::types::Allocate::Reserve { keep_size: false }, true)
                .expect("reserved");
        }
    });
    // Appended bytes may stand behind a reservation, but none may be gone.
    let bytes = volume.read(handle, 0, 1 << 20).expect("bytes");
    let kept = bytes.iter().filter(|byte| **byte != 0).count();
    assert_eq!(kept, 20_000);
}

#[test]
fn what_one_lane_creates_another_writes_the_moment_it_is_there() {
    const FILES: u64 = 300;
    let (site, origin, incarnation) = (Site::new(1), SiteId(9), Incarnation(1));
    let volume = site.volume();
    let id = |seq: u64| FileId::new(origin, seq).expect("an id");
    let position = |lane, seq| Position { site: origin, incarnation, lane, seq: Seq(seq) };
    let created = |seq: u64| Stamp { hlc: Hlc(2 * seq), position: position(Lane::Normal, seq) };
    let create = |seq: u64| {
        let name = Name::new(seq.to_string().as_bytes()).expect("a name");
        let perms = Perms { mode: 0o644, uid: 0, gid: 0 };
        let op =
            Op::Create { file: id(seq), parent: FileId::ROOT, name, kind: Kind::Regular, perms, time: Time::default() };
        Record { seq: Seq(seq), hlc: created(seq).hlc, deps: Vec::new(), op }
    };
    let write = |seq: u64| {
        let edit = Edit::Write { offset: 0, data: Data::Bytes(bytes::Bytes::from_static(b"bytes")) };
        let time = Time::default();
        let change = ContentChange { file: id(seq), base: created(seq), edit, mtime: None, mode: None, time };
        let deps = vec![position(Lane::Normal, seq)];
        Record { seq: Seq(seq), hlc: Hlc(2 * seq + 1), deps, op: Op::Content(change) }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let until = Instant::now() + Duration::from_secs(60);
            for seq in 1..=FILES {
                // Not ahead of the other: it is to be there when the file comes.
                while volume.frontier(origin, Lane::Sync).seq.0 + 1 < seq {
                    assert!(Instant::now() < until, "the write before {seq} does not come");
                }
                let replayed = volume.replay(origin, incarnation, Lane::Normal, &[create(seq)]);
                assert!(replayed.stopped.is_none(), "{:?}", replayed.stopped);
            }
        });
        scope.spawn(|| {
            let until = Instant::now() + Duration::from_secs(60);
            for seq in 1..=FILES {
                loop {
                    match volume.replay(origin, incarnation, Lane::Sync, &[write(seq)]).stopped {
                        None => break,
                        Some(ReplayError::MissingDep(_)) => assert!(Instant::now() < until, "file {seq} does not come"),
                        Some(error) => panic!("file {seq}: {error}"),
                    }
                }
            }
        });
    });
    for seq in 1..=FILES {
        assert_eq!(volume.getattr(id(seq)).expect("a file").size, 5);
    }
}
