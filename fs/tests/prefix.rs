//! A replica is always a past state of what its origin was: whatever the origin overwrote, cut or removed since, and whatever lanes it went in.
//!
//! One site writes and remembers what its tree was after each record; a quiet one takes the records one by one, long afterwards, the lanes in
//! any order. Where all lanes stand as they stood after one record, the tree must be that of then. In between, each file must have content that it
//! had, and each name that a record gave must lead to what it led to then, or later: to the byte, with all attributes, and for a directory with all below it.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use common::dump::{content, rows};
use common::network::{Heads, heads};
use common::work::{Program, use_policies, walk};
use common::{Rng, Site, for_seeds};
use fs::replay::ReplayError;
use fs::ship::Copies;
use fs::store::table::{self, Table};
use fs::tree::entry::Entry;
use fs::tree::inode::Inode;
use fs::tree::xattr::Xattr;
use fs::volume::Volume;
use proto::hlc::Stamp;
use proto::ids::{FileId, Lane, LanePoint, Position, Seq};
use proto::record::Kind;

type Tree = BTreeMap<(FileId, Vec<u8>), (FileId, u32, u64, u64)>;

fn hash(volume: &Volume, file: FileId) -> u64 {
    xxhash_rust::xxh3::xxh3_64(&content(volume, file).0)
}

fn tree(volume: &Volume) -> Tree {
    let line = |(dir, name, attr): (FileId, Vec<u8>, fs::types::Attr)| {
        let hash = if attr.kind == Kind::Regular { hash(volume, attr.file) } else { 0 };
        ((dir, name), (attr.file, attr.perms.mode, attr.size, hash))
    };
    walk(volume).into_iter().map(line).collect()
}

/// What stands in the rows: entries by key, inodes, and for each file the stamps of its parts by name.
struct Parts {
    entries: BTreeMap<Bytes, Entry>,
    inodes: BTreeMap<FileId, Inode>,
    stamps: BTreeMap<(FileId, Bytes), Stamp>,
}

impl Parts {
    fn of(site: &Site) -> Self {
        let mut parts = Self { entries: BTreeMap::new(), inodes: BTreeMap::new(), stamps: BTreeMap::new() };
        let id = |key: &[u8]| FileId(table::read_u64(&key[..8], "id").expect("an id"));
        for (table, key, row) in rows(site.volume()) {
            match table {
                Table::Entry => drop(parts.entries.insert(key, Entry::decode(row).expect("an entry"))),
                Table::Inode => {
                    let inode = Inode::decode(row).expect("an inode");
                    for (part, stamp) in inode.stamps().into_iter().enumerate() {
                        parts.stamps.insert((id(&key), vec![part as u8].into()), stamp);
                    }
                    parts.inodes.insert(id(&key), inode);
                }
                Table::Xattr => {
                    parts.stamps.insert((id(&key), key.slice(8..)), Xattr::decode(row).expect("an attribute").stamp);
                }
                _ => {}
            }
        }
        parts
    }

    fn alive(&self) -> impl Iterator<Item = (&Bytes, &Entry)> {
        self.entries.iter().filter(|(_, entry)| entry.is_alive())
    }

    /// The file and all below it.
    fn below(&self, file: FileId) -> BTreeSet<FileId> {
        let mut below = BTreeSet::from([file]);
        loop {
            let more: Vec<FileId> = self
                .alive()
                .map(|(_, entry)| entry)
                .filter(|entry| below.contains(&entry.parent))
                .map(|entry| entry.file)
                .collect();
            let before = below.len();
            below.extend(more);
            if below.len() == before {
                return below;
            }
        }
    }
}

/// What was after one step of the origin's program.
struct Past {
    heads: Heads,
    parts: Parts,
    /// The step was one record.
    single: bool,
}

struct Run {
    origin: Site,
    replica: Site,
    past: Vec<Past>,
    trees: BTreeMap<Heads, Tree>,
    contents: BTreeMap<(FileId, Stamp), u64>,
    checked: u64,
    waited: u64,
}

impl Run {
    fn remember(&mut self) {
        let volume = self.origin.volume();
        let heads = heads(volume);
        let before = self.past.last().map_or([Seq::ZERO; 4], |past| past.heads);
        let made: u64 = heads.iter().zip(before).map(|(now, before)| now.0 - before.0).sum();
        let parts = Parts::of(&self.origin);
        for (file, inode) in parts.inodes.iter().filter(|(_, inode)| inode.kind == Kind::Regular && inode.nlink > 0) {
            self.contents.entry((*file, inode.content)).or_insert_with(|| hash(volume, *file));
        }
        self.trees.insert(heads, tree(volume));
        self.past.push(Past { heads, parts, single: made == 1 });
    }

    /// The step that made the record.
    fn step_of(&self, position: Position) -> Option<usize> {
        let step = self.past.partition_point(|past| past.heads[position.lane as usize] < position.seq);
        (position.site == self.origin.id && step < self.past.len()).then_some(step)
    }

    fn frontiers(&self) -> [LanePoint; Lane::ALL.len()] {
        Lane::ALL.map(|lane| self.replica.volume().frontier(self.origin.id, lane))
    }

    fn check(&mut self) {
        let frontiers = self.frontiers();
        let is_here = |stamp: Stamp| {
            let position = stamp.position;
            position.site != self.origin.id || position.point() <= frontiers[position.lane as usize]
        };
        let now = Parts::of(&self.replica);
        for (file, inode) in now.inodes.iter().filter(|(_, inode)| inode.kind == Kind::Regular && inode.nlink > 0) {
            if let Some(then) = self.contents.get(&(*file, inode.content)) {
                assert_eq!(hash(self.replica.volume(), *file), *then, "content of {file} at {:?}", inode.content);
            }
        }
        for (_, entry) in now.alive() {
            let Some(step) = self.step_of(entry.stamp.position) else { continue };
            let Past { parts: then, single, .. } = &self.past[step];
            if !*single {
                continue;
            }
            let why = format!("the name {:?} of {} is of {}, but", entry.name, entry.file, entry.stamp.position);
            let below = then.below(entry.file);
            for file in &below {
                for ((_, part), stamp) in then.stamps.range((*file, Bytes::new())..).take_while(|((f, _), _)| f == file)
                {
                    let newest = now.stamps.get(&(*file, part.clone()));
                    let is_new = newest.map_or_else(|| is_here(*stamp), |newest| newest >= stamp);
                    assert!(is_new, "{why} part {part:?} of {file} is not yet that of {}", stamp.position);
                }
            }
            let inside = |entry: &Entry| below.contains(&entry.parent);
            for (key, inner) in then.alive().filter(|(_, entry)| inside(entry)) {
                let is_new = now.entries.get(key).map_or_else(|| is_here(inner.stamp), |now| now.stamp >= inner.stamp);
                assert!(is_new, "{why} {:?} below it is not there yet", inner.name);
            }
            for (key, inner) in now.alive().filter(|(_, entry)| inside(entry)) {
                if self.step_of(inner.stamp.position).is_some_and(|inner| inner <= step) {
                    let stood = then.entries.get(key).is_some_and(Entry::is_alive);
                    assert!(stood, "{why} {:?} below it had gone before", inner.name);
                }
            }
        }
        if let Some(then) = self.trees.get(&frontiers.map(|point| point.seq)) {
            let now = tree(self.replica.volume());
            for (key, value) in then {
                assert_eq!(now.get(key), Some(value), "{frontiers:?}: {key:?}");
            }
            assert_eq!(now.len(), then.len(), "{frontiers:?}");
            self.checked += 1;
        }
    }

    /// The next record of a lane. Whether there was one.
    fn deliver(&mut self, lane: Lane) -> bool {
        let (origin, replica) = (self.origin.volume(), self.replica.volume());
        origin.wait_durable(origin.appended()).expect("durable");
        let after = replica.frontier(self.origin.id, lane).seq;
        let mut records = origin.read_lane(lane, after, 1, Copies::ByValue).expect("records");
        if records.is_empty() {
            return false;
        }
        let shipped = records.remove(0);
        let replayed = replica.replay(self.origin.id, shipped.incarnation, lane, &[shipped.record]);
        match replayed.stopped {
            None => self.check(),
            Some(ReplayError::MissingDep(_)) => self.waited += 1,
            Some(error) => panic!("{error}"),
        }
        true
    }

    fn acknowledge(&self, lane: Lane) {
        let (origin, replica) = (self.origin.volume(), self.replica.volume());
        let point = replica.frontier(self.origin.id, lane);
        origin.set_acknowledged(self.replica.id, lane, point).expect("remembered");
        origin.peer_acknowledged(self.replica.id, lane, point);
        origin.set_watermark(lane, point.seq);
        origin.set_stable(self.origin.id, lane, point);
        // Stable there when nothing is on its way in other lanes that was made before.
        if self.frontiers().map(|point| point.seq) == heads(origin) {
            replica.set_stable(self.origin.id, lane, point);
        }
    }
}

fn run(seed: u64) {
    let mut rng = Rng::new(seed);
    let (origin, replica) = (Site::new(1), Site::new(2));
    use_policies(origin.volume());
    let (past, trees, contents) = Default::default();
    let mut run = Run { origin, replica, past, trees, contents, checked: 0, waited: 0 };
    run.remember();
    let mut program = Program::with_policies();
    let rounds = 1 + rng.below(4);
    for round in 0..rounds {
        for _ in 0..rng.below(60) {
            if rng.one_in(10) {
                run.origin.volume().peer_connected(run.replica.id, rng.one_in(2));
            }
            program.step(run.origin.volume(), &mut rng);
            run.remember();
            if rng.one_in(40) {
                program.crashed();
                let cleanly = rng.one_in(3);
                run.origin.restart(cleanly);
                let volume = run.origin.volume();
                assert!(tree(volume) == run.trees[&heads(volume)], "a crash changed the tree");
            }
        }
        // All in the end; before, a lane may stay far behind.
        let late = *rng.pick(&Lane::ALL).expect("a lane");
        let last = round + 1 == rounds;
        let mut left = if last { u64::MAX } else { rng.below(120) };
        while left > 0 {
            left -= 1;
            let lane = *rng.pick(&Lane::ALL).expect("a lane");
            let slow = if lane == late { 8 } else { 1 };
            if !rng.one_in(slow) {
                continue;
            }
            if !run.deliver(lane) && run.frontiers().map(|point| point.seq) == heads(run.origin.volume()) {
                break;
            }
            if rng.one_in(30) {
                let cleanly = rng.one_in(3);
                run.replica.restart(cleanly);
            }
            if rng.one_in(8) {
                run.acknowledge(lane);
            }
        }
    }
    assert!(run.checked > 0 || run.past.len() < 3, "nothing was compared");
}

#[test]
fn a_replica_is_always_a_past_state() {
    for_seeds("past states", 15, 1, run);
}
