//! A replica is always a past state of what its origin was: whatever the origin overwrote, cut or removed since.
//!
//! One site writes and remembers what its tree was after each record; a quiet one takes the records one by one, long afterwards, and must show
//! just that each time.

mod common;

use std::collections::BTreeMap;

use common::dump::content;
use common::work::{Program, walk};
use common::{Rng, Site, for_seeds};
use fs::volume::Volume;
use proto::ids::{FileId, Lane, Seq};
use proto::record::Kind;

type Tree = BTreeMap<(FileId, Vec<u8>), (FileId, u32, u64, u64)>;

fn tree(volume: &Volume) -> Tree {
    let line = |(dir, name, attr): (FileId, Vec<u8>, fs::types::Attr)| {
        let hash = match attr.kind {
            Kind::Regular => xxhash_rust::xxh3::xxh3_64(&content(volume, attr.file).0),
            _ => 0,
        };
        ((dir, name), (attr.file, attr.perms.mode, attr.size, hash))
    };
    walk(volume).into_iter().map(line).collect()
}

fn run(seed: u64) {
    let mut rng = Rng::new(seed);
    let mut origin = Site::new(1);
    let mut replica = Site::new(2);
    let mut program = Program::default();
    let mut past: BTreeMap<Seq, Tree> = BTreeMap::new();
    let mut checked = 0;
    for _ in 0..1 + rng.below(4) {
        for _ in 0..rng.below(60) {
            program.step(origin.volume(), &mut rng);
            past.insert(origin.volume().lane_head(Lane::Normal).appended, tree(origin.volume()));
            if rng.one_in(40) {
                program.crashed();
                let cleanly = rng.one_in(3);
                origin.restart(cleanly);
                assert!(
                    tree(origin.volume()) == past[&origin.volume().lane_head(Lane::Normal).appended],
                    "a crash changed the tree"
                );
            }
        }
        let lag = rng.below(20);
        loop {
            let volume = origin.volume();
            volume.wait_durable(volume.appended()).expect("durable");
            let after = replica.volume().frontier(origin.id, Lane::Normal).seq;
            if after.0 + lag >= volume.lane_head(Lane::Normal).appended.0 {
                break;
            }
            let shipped = volume.read_lane(Lane::Normal, after, 1).expect("records").remove(0);
            let replayed = replica.volume().replay(origin.id, shipped.incarnation, Lane::Normal, &[shipped.record]);
            assert!(replayed.stopped.is_none(), "{:?}", replayed.stopped);
            if let Some(then) = past.get(&replayed.applied.seq) {
                let now = tree(replica.volume());
                for (key, value) in then {
                    assert_eq!(now.get(key), Some(value), "record {}: {key:?}", replayed.applied.seq);
                }
                assert_eq!(now.len(), then.len(), "record {}", replayed.applied.seq);
                checked += 1;
            }
            if rng.one_in(30) {
                replica.restart(rng.one_in(3));
            }
            if rng.one_in(20) {
                let point = replica.volume().frontier(origin.id, Lane::Normal);
                volume.set_acknowledged(replica.id, Lane::Normal, point).expect("remembered");
                volume.set_watermark(Lane::Normal, point.seq);
                volume.set_stable(origin.id, Lane::Normal, point);
                replica.volume().set_stable(origin.id, Lane::Normal, point);
            }
        }
    }
    assert!(checked > 0 || past.len() <= 20);
}

#[test]
fn a_replica_is_always_a_past_state() {
    for_seeds("past states", 15, 1, run);
}
