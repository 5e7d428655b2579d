//! Appends batches: which file they go to, and what is known of the files.
//!
//! One lock orders everything: a batch gets its number, its place and its bytes on the file under it. Were bytes written outside the
//! lock, a crash could leave a hole before a batch that was acknowledged. Nothing is flushed under it.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::path::Path;
use std::sync::Arc;

use proto::ids::{Incarnation, Lane, Seq, SiteId};

use super::error::JournalError;
use super::file::{JournalFile, LiveFile, batches_end};
use super::footer::{Point, Points};
use super::format::{
    ALIGN_BYTES, BATCH_HEADER_BYTES, BATCHES_AT, BatchHeader, BatchKind, FileHeader, FileState, batch_bytes, body_sum,
};
use super::lsn::{Heads, Lsn};
use super::recent::Recent;
use crate::room::Space;

/// What a batch may take in the file at most, with header and padding; no more than a file holds, either.
pub const MAX_BATCH_BYTES: u64 = 8 << 20;
/// A file of this size holds any batch.
const SHORT_FILE_BYTES: u64 = 2 * MAX_BATCH_BYTES;

/// One atomic unit, to be appended.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// What its records are.
    pub kind: BatchKind,
    /// The site that made the records.
    pub origin: SiteId,
    /// That site's incarnation.
    pub incarnation: Incarnation,
    /// The lane of the records.
    pub lane: Lane,
    /// The first record.
    pub first_seq: Seq,
    /// The last record.
    pub last_seq: Seq,
    /// For own batches: bytes of the lane's records up to and with this batch, since the site began.
    pub lane_bytes: u64,
    /// Table puts, opaque here.
    pub state: &'a [u8],
    /// Encoded records, opaque here.
    pub records: &'a [u8],
}

/// Where a batch stands. Valid until its file is recycled; then reading it says so.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Location {
    /// The generation of the file.
    pub generation: u64,
    /// Where the batch begins in it, in bytes.
    pub offset: u64,
}

/// What became of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Appended {
    /// Its number.
    pub lsn: Lsn,
    /// Its place.
    pub location: Location,
}

/// A full file.
pub struct Sealed {
    /// The file.
    pub live: Arc<LiveFile>,
    /// Its last batch.
    pub last_lsn: Lsn,
    /// The own lanes' heads after it.
    pub end: Heads,
}

/// The file that is being written.
pub struct Active {
    /// The file.
    pub live: Arc<LiveFile>,
    /// Where the next batch goes.
    pub tail: u64,
    /// Sparse points.
    pub points: Points,
}

/// What the writer's lock protects.
pub struct Writer {
    /// Full files, oldest first.
    pub sealed: VecDeque<Sealed>,
    /// The last file.
    pub active: Active,
    /// The last batch.
    pub appended: Lsn,
    /// The own lanes' heads after it.
    pub heads: Heads,
    /// The size of files that are made from now on; those that are there may have another.
    pub file_bytes: u64,
    /// Where the latest own batches begin.
    pub recent: Recent,
    /// Spare files.
    pub ready: Vec<Arc<JournalFile>>,
    /// Full files written to since the last flush began.
    pub dirty: Vec<Arc<JournalFile>>,
    /// Whether the last flush began before a file was made at once, whose name is to be made durable too.
    pub dir_dirty: bool,
    /// For the next use of a file.
    pub next_generation: u64,
    /// For the next file that is made.
    pub next_number: u64,
    /// All up to this batch is folded in durably.
    pub checkpoint: Lsn,
    /// For each lane, what every peer has.
    pub watermarks: [Seq; Lane::ALL.len()],
}

/// The body's checksums, computed before the lock is taken.
pub struct Sums {
    state: u64,
    records: u64,
}

impl Sums {
    /// Of a batch.
    pub fn of(batch: &Batch<'_>) -> Self {
        Self { state: body_sum(batch.state), records: body_sum(batch.records) }
    }
}

/// What came of an attempt to append.
pub enum AppendFailure {
    /// Nothing was written; the next attempt may succeed.
    Refused(JournalError),
    /// Part of the batch may be on the disk: a later one must not be put behind it.
    Fatal(JournalError),
}

impl Writer {
    /// Writes the batch behind the last one. `durable` is the last batch known durable.
    pub fn append(
        &mut self,
        dir: &Path,
        batch: &Batch<'_>,
        sums: &Sums,
        durable: Lsn,
    ) -> Result<Appended, AppendFailure> {
        self.judge(batch).map_err(AppendFailure::Refused)?;
        let bytes = batch_bytes(batch.state.len(), batch.records.len());
        if self.active.tail + bytes > self.active.live.batches_end() {
            self.switch(dir, durable)?;
        }
        let (offset, lsn) = (self.active.tail, self.appended.next());
        let live = &self.active.live;
        let header = BatchHeader {
            kind: batch.kind,
            lane: batch.lane,
            origin: batch.origin,
            incarnation: batch.incarnation,
            state_len: batch.state.len() as u32,
            records_len: batch.records.len() as u32,
            lsn,
            durable_lsn: durable,
            first_seq: batch.first_seq,
            last_seq: batch.last_seq,
            lane_bytes: batch.lane_bytes,
            state_sum: sums.state,
            records_sum: sums.records,
        };
        let padding = [0; ALIGN_BYTES as usize];
        let padding_len = bytes as usize - BATCH_HEADER_BYTES - batch.state.len() - batch.records.len();
        let parts: [&[u8]; 4] =
            [&header.encode(live.seed, offset), batch.state, batch.records, &padding[..padding_len]];
        live.on_disk.write_parts(&parts, offset).map_err(AppendFailure::Fatal)?;
        let location = Location { generation: live.header.generation, offset };
        self.active.points.note(Point { offset, lsn, heads: self.heads });
        self.active.tail += bytes;
        self.appended = lsn;
        if header.kind == BatchKind::Own {
            self.recent.note(header.lane, self.heads.get(header.lane), location, lsn);
        }
        header.advance(&mut self.heads);
        Ok(Appended { lsn, location })
    }

    /// Refuses what would spoil the lane's order.
    fn judge(&self, batch: &Batch<'_>) -> Result<(), JournalError> {
        let bytes = batch_bytes(batch.state.len(), batch.records.len());
        // It must fit into this file or into the next.
        let capacity = batches_end(self.file_bytes).min(self.active.live.batches_end()) - BATCHES_AT;
        let limit = MAX_BATCH_BYTES.min(capacity);
        if bytes > limit {
            return Err(JournalError::TooLarge { bytes, limit });
        }
        let head = self.heads.get(batch.lane);
        // A new incarnation may leave out numbers that its peers know from the lost tail of the one before.
        let follows = if head.incarnation == batch.incarnation {
            batch.first_seq == head.seq.next()
        } else {
            batch.first_seq > head.seq && batch.incarnation > head.incarnation
        };
        let grows = batch.first_seq <= batch.last_seq && batch.lane_bytes >= head.lane_bytes;
        if batch.kind == BatchKind::Own && !(follows && grows) {
            return Err(JournalError::Sequence { lane: batch.lane, head: head.seq, got: batch.first_seq });
        }
        Ok(())
    }

    /// The size of a file that is needed now: a short one where it is made of what is kept back, or rows would have no room.
    fn bytes_at_once(&self, dir: &Path) -> Result<u64, JournalError> {
        let Space { free, kept } = Space::of(dir).map_err(JournalError::io("ask for free space in", dir))?;
        let has_room = free >= self.file_bytes + kept;
        Ok(if has_room { self.file_bytes } else { self.file_bytes.min(SHORT_FILE_BYTES) })
    }

    /// Goes on in the next file.
    fn switch(&mut self, dir: &Path, durable: Lsn) -> Result<(), AppendFailure> {
        let next = match self.ready.pop() {
            Some(spare) => spare,
            None => {
                // An append waits for nothing but the disk, so not for the thread that is filling the next file.
                let number = self.next_number;
                self.next_number += 1;
                let file_bytes = self.bytes_at_once(dir).map_err(AppendFailure::Refused)?;
                let made = JournalFile::make_at_once(dir, number, file_bytes).map_err(AppendFailure::Refused)?;
                self.dir_dirty = true;
                Arc::new(made)
            }
        };
        let full = &self.active;
        let footer = full.points.encode(self.appended, full.live.seed);
        full.live.on_disk.write(&footer, full.live.batches_end()).map_err(AppendFailure::Fatal)?;
        let header = live_header(
            &next,
            full.live.header.store_tag,
            self.next_generation,
            full.live.header.generation,
            self.appended.next(),
            durable,
            self.heads,
        );
        next.write_header(&header).map_err(AppendFailure::Fatal)?;
        self.next_generation += 1;
        let active =
            Active { live: Arc::new(LiveFile::new(next, header)), tail: BATCHES_AT, points: Points::default() };
        let full = std::mem::replace(&mut self.active, active);
        self.dirty.push(full.live.on_disk.clone());
        self.sealed.push_back(Sealed { live: full.live, last_lsn: self.appended, end: self.heads });
        Ok(())
    }

    /// The oldest file of the journal.
    pub fn oldest(&self) -> &Arc<LiveFile> {
        self.sealed.front().map_or(&self.active.live, |sealed| &sealed.live)
    }
}

/// The header of a new use of a file.
pub fn live_header(
    file: &JournalFile,
    store_tag: u64,
    generation: u64,
    previous: u64,
    first_lsn: Lsn,
    durable_lsn: Lsn,
    heads: Heads,
) -> FileHeader {
    // The standard library's hash keys are drawn from the system's random source.
    let salt = std::hash::RandomState::new().hash_one(generation);
    let state = FileState::Live;
    let file_bytes = file.file_bytes;
    FileHeader { state, store_tag, generation, previous, salt, file_bytes, first_lsn, durable_lsn, heads }
}
