//! Help for the journal's tests: random batches, a model of what was appended, simulated crashes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use proto::ids::{Incarnation, Lane, Seq, SiteId};

use super::*;

pub const TAG: u64 = 0x5eed;

/// Small files.
pub fn options() -> JournalOptions {
    JournalOptions { file_bytes: 64 << 10, store_tag: TAG, flush_interval: Duration::from_millis(20) }
}

/// Repeatable random numbers (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }
}

/// A batch that was appended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kept {
    pub lsn: Lsn,
    pub kind: BatchKind,
    pub lane: Lane,
    pub first_seq: Seq,
    pub last_seq: Seq,
    pub lane_bytes: u64,
    pub state: Bytes,
    pub records: Bytes,
    pub location: Location,
}

/// All that was appended.
#[derive(Clone, Default)]
pub struct Model {
    pub kept: Vec<Kept>,
}

impl Model {
    /// Appends a random batch of at most `max` bytes of records.
    pub fn append(&mut self, journal: &Journal, random: &mut Random, max: u64) -> Result<Appended, JournalError> {
        let kind = [BatchKind::Own, BatchKind::Own, BatchKind::Replayed, BatchKind::State, BatchKind::Saved]
            [random.below(5) as usize];
        let lane = Lane::ALL[random.below(4) as usize];
        let state_len = random.below(200) as usize;
        let records_len = random.below(max) as usize;
        self.append_this(journal, kind, lane, 1 + random.below(3), random.bytes(state_len), random.bytes(records_len))
    }

    pub fn append_this(
        &mut self,
        journal: &Journal,
        kind: BatchKind,
        lane: Lane,
        records: u64,
        state: Vec<u8>,
        bytes: Vec<u8>,
    ) -> Result<Appended, JournalError> {
        let head = self.head(lane);
        let batch = Batch {
            kind,
            origin: SiteId(1),
            incarnation: Incarnation(1),
            lane,
            first_seq: head.0.next(),
            last_seq: Seq(head.0.0 + records),
            lane_bytes: head.1 + bytes.len() as u64,
            state: &state,
            records: &bytes,
        };
        let appended = journal.append(&batch)?;
        assert_eq!(appended.lsn, Lsn(self.kept.len() as u64 + 1));
        self.kept.push(Kept {
            lsn: appended.lsn,
            kind,
            lane,
            first_seq: batch.first_seq,
            last_seq: batch.last_seq,
            lane_bytes: batch.lane_bytes,
            state: state.into(),
            records: bytes.into(),
            location: appended.location,
        });
        Ok(appended)
    }

    /// The lane's last own record and its bytes.
    pub fn head(&self, lane: Lane) -> (Seq, u64) {
        self.own(lane).last().map_or((Seq::ZERO, 0), |kept| (kept.last_seq, kept.lane_bytes))
    }

    pub fn own(&self, lane: Lane) -> impl Iterator<Item = &Kept> {
        self.kept.iter().filter(move |kept| kept.kind == BatchKind::Own && kept.lane == lane)
    }

    /// What recovery hands over must be what was appended after the checkpoint, whole and in order. Forgets what was cut.
    pub fn check_recovered(&mut self, recovered: Recovered, checkpoint: Lsn, durable: Lsn) {
        let head = recovered.head();
        assert!(head >= durable, "batch {durable} was durable, but recovery ends at {head}");
        assert!(head.0 as usize <= self.kept.len());
        let mut expected = checkpoint;
        for batch in recovered {
            let batch = batch.unwrap();
            expected = expected.next();
            self.check_batch(expected, &batch);
        }
        assert_eq!(expected, head.max(checkpoint));
        self.kept.truncate(head.0 as usize);
    }

    pub fn check_batch(&self, lsn: Lsn, batch: &OwnedBatch) {
        let header = &batch.header;
        let read = Kept {
            lsn: header.lsn,
            kind: header.kind,
            lane: header.lane,
            first_seq: header.first_seq,
            last_seq: header.last_seq,
            lane_bytes: header.lane_bytes,
            state: batch.state.clone(),
            records: batch.records.clone(),
            location: batch.location,
        };
        assert!(read == self.kept[lsn.0 as usize - 1], "batch {lsn} is not what was appended");
    }

    pub fn check_heads(&self, journal: &Journal) {
        for lane in Lane::ALL {
            let head = journal.lane_head(lane);
            assert_eq!((head.seq, head.lane_bytes), self.head(lane), "head of lane {lane}");
        }
    }

    /// Reads a lane from `after` to its durable end in steps of about `limit` bytes and compares.
    pub fn check_lane(&self, journal: &Journal, lane: Lane, after: Seq, limit: usize) {
        let durable = journal.durable();
        let expected: Vec<_> =
            self.own(lane).filter(|kept| kept.last_seq > after && kept.lsn <= durable).cloned().collect();
        let (mut at, mut read) = (after, Vec::new());
        loop {
            let batches = journal.read_lane(lane, at, limit, ReadEnd::Durable).unwrap();
            let Some(last) = batches.last() else { break };
            at = last.last_seq;
            read.extend(batches);
        }
        assert_eq!(read.len(), expected.len(), "batches of lane {lane} after {after}");
        for (read, kept) in read.iter().zip(&expected) {
            assert_eq!((read.lsn, read.first_seq, read.last_seq), (kept.lsn, kept.first_seq, kept.last_seq));
            assert_eq!((read.lane_bytes, read.location), (kept.lane_bytes, kept.location));
            assert!(read.records == kept.records, "records of batch {}", kept.lsn);
        }
    }
}

/// Opens without threads: every flush and every recycling happens when the test says so.
pub fn open_still(dir: &Path, checkpoint: Lsn) -> Result<(Journal, Recovered), JournalError> {
    let (journal, recovered) = Journal::open(dir, options(), checkpoint)?;
    assert!(journal.shared.before_flush.set(Box::new(|| Ok(()))).is_ok());
    Ok((journal, recovered))
}

impl Journal {
    /// Nothing that was written to the files in use, or to the spare ones, may be unsynced.
    pub fn check_synced(&self, used: bool) {
        let writer = self.shared.writer.lock();
        let live =
            writer.sealed.iter().map(|sealed| &sealed.live).chain([&writer.active.live]).map(|live| &live.on_disk);
        for file in live.filter(|_| used).chain(&writer.ready) {
            assert!(!file.unsynced.load(Ordering::SeqCst), "{} is not synced", file.path.display());
        }
        assert!(!used || !writer.dir_dirty, "the directory is not synced");
    }

    /// What the upkeep thread does when it wakes.
    pub fn upkeep_now(&self) {
        self.shared.recycle().unwrap();
        self.shared.make_spare().unwrap();
    }
}

/// The bytes of the journal's files.
pub type Image = BTreeMap<PathBuf, Vec<u8>>;

pub fn image(dir: &Path) -> Image {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

pub fn restore(dir: &Path, image: &Image) {
    for entry in fs::read_dir(dir).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    for (path, bytes) in image {
        fs::write(path, bytes).unwrap();
    }
}

/// What a power loss leaves: of what was written since it was flushed, some blocks.
pub fn lose_power(flushed: &Image, written: &Image, random: &mut Random) -> Image {
    let block = if random.chance(50) { 512 } else { 4096 };
    let lost_percent = [5, 50, 95][random.below(3) as usize];
    let mut left = Image::new();
    for (path, bytes) in written {
        let mut bytes = bytes.clone();
        let old = match flushed.get(path) {
            Some(old) => old.clone(),
            // Its name was not durable.
            None if random.chance(30) => continue,
            None => vec![0; bytes.len()],
        };
        for (block, old) in bytes.chunks_mut(block).zip(old.chunks(block)) {
            if block != old && random.chance(lost_percent) {
                block.copy_from_slice(old);
            }
        }
        left.insert(path.clone(), bytes);
    }
    left
}
