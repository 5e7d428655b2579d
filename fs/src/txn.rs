//! One atomic change to the store, being made.
//!
//! There is one writer at a time: a transaction holds the writer's lock from its first read to the moment in which its rows are visible. So every
//! operation sees all operations before it and none after. Readers never wait for the writer.
//!
//! The order of a commit:
//! 1. the batch is appended to the journal (written, not flushed): from here on `kill -9` cannot lose it;
//! 2. the bytes that the batch carries by value go into the objects, truncations and holes are made;
//! 3. the rows become visible.
//!
//! A crash between 1 and 3 is mended by recovery, which does 2 and 3 again from the journal. 2 comes before 3, so that no reader
//! finds a name or a size before the bytes that belong to it.
//!
//! **Lock order**: objects' locks in ascending order of file id, then the writer's lock, then the journal's own. The overlay's
//! lock is held for one look-up or one publication only.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::MutexGuard;
use proto::codec::DecodeError;
use proto::history::Histories;
use proto::hlc::{Clock, Hlc, Stamp};
use proto::ids::{EntryId, FileId, Lane, LanePoint, Position, Seq, SiteId};
use proto::name::Name;
use proto::record::{MAX_DATA_BYTES, Record, Time};

use crate::content::object::Object;
use crate::content::range_set::RangeSet;
use crate::effects::Content;
use crate::error::FsError;
use crate::journal::{Appended, Batch, BatchKind};
use crate::ops::data::disk;
use crate::pins::{Extent, Piece, SavedRange};
use crate::store::batch::{Effect, Put, State};
use crate::store::table::{self, Key, Table, Value};
use crate::tree::entry::{Candidates, Entry};
use crate::tree::inode::Inode;
use crate::types::Invalidation;
use crate::volume::{ObjectState, Volume, decode_point};

/// What only the writer changes.
pub struct Writer {
    /// This site's clock.
    pub clock: Clock,
    /// The counter of the next file created here.
    pub next_file: u64,
}

/// A change being made. Dropped without a commit, it changes nothing.
pub struct Txn<'a> {
    pub(crate) volume: &'a Volume,
    writer: MutexGuard<'a, Writer>,
    rows: BTreeMap<(Table, Key), Option<Value>>,
    effects: Vec<(FileId, Effect)>,
    /// What the kernel must forget, if the change is not its own.
    pub(crate) invalidations: Vec<Invalidation>,
    next_file: u64,
    /// What becomes of pins when the transaction is committed.
    new_pins: Vec<(Lane, Seq, Extent)>,
    saved_pins: Vec<(FileId, Piece)>,
    /// Objects of inodes that the transaction deletes.
    gone: Vec<FileId>,
    refusable: bool,
    /// The incarnation that the transaction opens.
    opened: Option<Histories>,
}

/// What a commit answers.
#[derive(Debug)]
pub struct Committed {
    /// Where the batch is in the journal.
    pub appended: Appended,
    /// Of an own or a peer's record: the position of the last one in the batch.
    pub position: Position,
    /// What the kernel must forget where the change did not come from it. To be told when no lock is held.
    pub invalidations: Vec<Invalidation>,
}

impl<'a> Txn<'a> {
    /// Waits for the writer's lock.
    ///
    /// # Errors
    /// [`FsError::ReadOnly`] once the site has stopped writing.
    pub fn begin(volume: &'a Volume) -> Result<Self, FsError> {
        volume.wait_for_fold();
        volume.check_writable()?;
        let writer = volume.writer.lock();
        let next_file = writer.next_file;
        let (rows, effects, invalidations, new_pins, saved_pins) = Default::default();
        let (gone, refusable, opened) = (Vec::new(), true, None);
        Ok(Self {
            volume,
            writer,
            rows,
            effects,
            invalidations,
            next_file,
            new_pins,
            saved_pins,
            gone,
            refusable,
            opened,
        })
    }

    /// No policy refuses the change: it completes one that was made before, here or at a peer, or sets a policy.
    pub fn unrefused(mut self) -> Self {
        self.refusable = false;
        self
    }

    /// Whether the policy of a place may refuse the change.
    pub fn is_refusable(&self) -> bool {
        self.refusable
    }

    /// A new clock reading, and the position that the next own record of `lane` gets.
    pub fn next_stamp(&mut self, lane: Lane) -> Stamp {
        let hlc = self.writer.clock.tick(self.volume.now_ms());
        Stamp { hlc, position: self.volume.next_position(lane) }
    }

    /// The writer's clock.
    pub fn clock(&mut self) -> &mut Clock {
        &mut self.writer.clock
    }

    /// A file id never given before.
    pub fn new_file(&mut self) -> Result<FileId, FsError> {
        let file = FileId::new(self.volume.site(), self.next_file)
            .ok_or_else(|| FsError::Damaged("this site's file ids are used up".into()))?;
        self.next_file += 1;
        Ok(file)
    }

    /// The transaction opens an incarnation. What is made in it must not be known anywhere before the opening is durable here, so the commit
    /// waits for that, under the writer's lock.
    pub(crate) fn open_incarnation(&mut self, histories: Histories, next_file: u64) {
        self.opened = Some(histories);
        self.next_file = self.next_file.max(next_file);
    }

    /// Whether it changes nothing so far.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.effects.is_empty() && self.next_file == self.writer.next_file
    }

    /// The counter of the next file.
    pub(crate) fn next_file(&self) -> u64 {
        self.next_file
    }

    /// No file created from now on has a counter below.
    pub(crate) fn raise_next_file(&mut self, counter: u64) {
        self.next_file = self.next_file.max(counter);
    }

    /// One row, as this transaction leaves it so far.
    pub fn get(&self, table: Table, key: &Key) -> Result<Option<Value>, FsError> {
        match self.rows.get(&(table, key.clone())) {
            Some(value) => Ok(value.clone()),
            None => Ok(self.volume.rows.get(table, key)?),
        }
    }

    /// Rows by prefix, as this transaction leaves them so far.
    pub fn scan(&self, table: Table, prefix: &[u8], limit: usize) -> Result<Vec<(Key, Value)>, FsError> {
        let mut own = self
            .rows
            .range((table, Bytes::copy_from_slice(prefix))..)
            .take_while(|((other, key), _)| *other == table && key.starts_with(prefix))
            .peekable();
        if own.peek().is_none() {
            return Ok(self.volume.rows.scan(table, prefix, None, limit)?);
        }
        let mut rows: BTreeMap<_, _> = self.volume.rows.scan(table, prefix, None, usize::MAX)?.into_iter().collect();
        for ((_, key), value) in own {
            match value {
                Some(value) => rows.insert(key.clone(), value.clone()),
                None => rows.remove(key),
            };
        }
        Ok(rows.into_iter().take(limit).collect())
    }

    /// Sets a row.
    pub fn put(&mut self, table: Table, key: Key, value: Value) {
        self.rows.insert((table, key), Some(value));
    }

    /// Deletes a row.
    pub fn delete(&mut self, table: Table, key: Key) {
        self.rows.insert((table, key), None);
    }

    /// Adds what the batch does to an object.
    pub fn effect(&mut self, file: FileId, effect: Effect) {
        self.effects.push((file, effect));
    }

    /// The transaction deletes the inode: its object goes when the batch is durable. See [`crate::removals`].
    pub fn remove_object(&mut self, file: FileId) {
        self.gone.push(file);
    }

    /// An inode.
    pub fn inode(&self, file: FileId) -> Result<Option<Inode>, FsError> {
        Ok(self.get(Table::Inode, &table::file_key(file))?.map(Inode::decode).transpose()?)
    }

    /// An inode that must be there.
    pub fn existing(&self, file: FileId) -> Result<Inode, FsError> {
        self.inode(file)?.ok_or(FsError::NotFound)
    }

    /// Sets an inode.
    pub fn put_inode(&mut self, file: FileId, inode: &Inode) {
        self.put(Table::Inode, table::file_key(file), inode.encode());
    }

    /// An entry.
    pub fn entry(&self, entry: EntryId) -> Result<Option<Entry>, FsError> {
        Ok(self.get(Table::Entry, &table::entry_key(entry))?.map(Entry::decode).transpose()?)
    }

    /// Sets an entry.
    pub fn put_entry(&mut self, id: EntryId, entry: &Entry) {
        self.put(Table::Entry, table::entry_key(id), entry.encode());
    }

    /// The entries behind a name.
    pub fn candidates(&self, parent: FileId, name: &[u8]) -> Result<Candidates, FsError> {
        let row = self.get(Table::Name, &table::name_key(parent, name))?;
        Ok(row.map(Candidates::decode).transpose()?.unwrap_or_default())
    }

    /// Sets the entries behind a name.
    pub fn put_candidates(&mut self, parent: FileId, name: &Name, candidates: &Candidates) {
        let key = table::name_key(parent, name.as_bytes());
        match candidates.encode() {
            Some(row) => self.put(Table::Name, key, row),
            None => self.delete(Table::Name, key),
        }
        self.invalidations.push(Invalidation::Entry { parent, name: name.clone() });
    }

    /// How far the other sites' lanes have come here, as stamps for [`deps`]: of an operation that depends on the absence of things.
    pub fn others_seen(&self) -> Result<Vec<Stamp>, FsError> {
        let mut seen = Vec::new();
        for (key, row) in self.scan(Table::Frontier, b"", usize::MAX)? {
            let (site, lane) = table::lane_of_key(&key)?;
            let LanePoint { incarnation, seq } = decode_point(row)?;
            if site != self.volume.site() && seq > Seq::ZERO {
                seen.push(Stamp { hlc: Hlc(u64::MAX), position: Position { site, incarnation, lane, seq } });
            }
        }
        Ok(seen)
    }

    /// The time of day.
    pub fn now(&self) -> Time {
        self.volume.now()
    }

    /// Commits one own record with what it did.
    pub fn commit_own(
        self,
        lane: Lane,
        record: &Record,
        objects: &BTreeMap<FileId, Arc<Object<ObjectState>>>,
    ) -> Result<Committed, FsError> {
        if self.volume.tail_is_lost() {
            // The record would have the position of one that peers have.
            let why = "its peers have records of this site that it has lost; it writes again when it has begun anew";
            return Err(FsError::ReadOnly(why.into()));
        }
        let mut bytes = Vec::with_capacity(record.data_len() as usize + 256);
        record.encode(&mut bytes);
        // An extent's bytes are not in the record here, but they are in what is shipped.
        let shipped = bytes.len() as u64 + record.extent_len();
        let head = self.volume.journal.lane_head(lane);
        let position = Position { seq: record.seq, ..self.volume.next_position(lane) };
        debug_assert_eq!(position.seq, head.seq.next());
        let content = Content { objects, records: std::slice::from_ref(record) };
        self.commit(BatchKind::Own, position, record.seq, head.lane_bytes + shipped, &bytes, content)
    }

    /// Commits rows that no record stands for.
    pub fn commit_state(self) -> Result<Committed, FsError> {
        let (position, lane_bytes) = self.nothing_of(Lane::Normal);
        let content = Content { objects: &BTreeMap::new(), records: &[] };
        self.commit(BatchKind::State, position, position.seq, lane_bytes, &[], content)
    }

    /// The record that is being made refers to bytes by extent.
    pub fn pin(&mut self, lane: Lane, seq: Seq, extent: Extent) {
        self.put(Table::Extent, table::extent_key(lane, seq), extent.encode());
        self.new_pins.push((lane, seq, extent));
    }

    /// Copies bytes that are about to be overwritten, and that an unacknowledged record refers to, into the journal.
    /// What this transaction has saved already is left alone: the object may have other bytes there by now.
    pub fn save_piece(&mut self, object: &Object<ObjectState>, file: FileId, piece: Piece) -> Result<(), FsError> {
        let same = |(_, saved): &&(FileId, Piece)| (saved.lane, saved.seq) == (piece.lane, piece.seq);
        let saved: RangeSet = self.saved_pins.iter().filter(same).map(|(_, saved)| saved.range.clone()).collect();
        for range in saved.gaps(piece.range.clone()).collect::<Vec<_>>() {
            self.save_range(object, file, Piece { range, ..piece })?;
        }
        Ok(())
    }

    fn save_range(&mut self, object: &Object<ObjectState>, file: FileId, piece: Piece) -> Result<(), FsError> {
        let mut at = piece.range.start;
        while at < piece.range.end {
            let mut bytes = vec![0; (piece.range.end - at).min(MAX_DATA_BYTES as u64) as usize];
            let read = object.read_at(at, &mut bytes).map_err(disk("reading an object"))?;
            if read < bytes.len() {
                // See `overwrite`: it was acknowledged by all, and that was lost. Or the disk has lost them: then they are zero here, too.
                tracing::warn!(%file, seq = %piece.seq, "bytes of a record are no longer in the object: zeros stand for them");
            }
            let location = self.save(&bytes)?.location;
            let row = SavedRange { location, len: bytes.len() as u64 }.encode();
            self.put(Table::Saved, table::saved_key(piece.lane, piece.seq, at), row);
            at += bytes.len() as u64;
        }
        self.saved_pins.push((file, piece));
        Ok(())
    }

    /// Keeps bytes in the journal without ending the transaction. They are of use only once a row says where they are.
    fn save(&mut self, bytes: &[u8]) -> Result<Appended, FsError> {
        let (position, lane_bytes) = self.nothing_of(Lane::Normal);
        let state = State { hlc: self.writer.clock.last(), next_file: self.writer.next_file, ..State::default() };
        let state = state.encode();
        let batch = batch(BatchKind::Saved, position, position.seq, lane_bytes, &state, bytes);
        self.volume.append(&batch)
    }

    /// Commits what a group of a peer's records did. `journalled` are those records whose bytes the effects need.
    pub fn commit_replayed(
        self,
        first: Position,
        last: Seq,
        journalled: &[Record],
        objects: &BTreeMap<FileId, Arc<Object<ObjectState>>>,
    ) -> Result<Committed, FsError> {
        let mut bytes = Vec::new();
        journalled.iter().for_each(|record| record.encode(&mut bytes));
        let content = Content { objects, records: journalled };
        self.commit(BatchKind::Replayed, first, last, 0, &bytes, content)
    }

    fn nothing_of(&self, lane: Lane) -> (Position, u64) {
        let head = self.volume.journal.lane_head(lane);
        (Position { seq: head.seq, ..self.volume.next_position(lane) }, head.lane_bytes)
    }

    fn commit(
        mut self,
        kind: BatchKind,
        first: Position,
        last: Seq,
        lane_bytes: u64,
        records: &[u8],
        content: Content<'_>,
    ) -> Result<Committed, FsError> {
        let rows = std::mem::take(&mut self.rows);
        let state = State {
            hlc: self.writer.clock.last(),
            next_file: self.next_file,
            puts: rows.into_iter().map(|((table, key), value)| Put { table, key, value }).collect(),
            effects: std::mem::take(&mut self.effects),
        };
        let policies = self.volume.policies.change(&state.puts)?;
        let encoded = state.encode();
        let appended = self.volume.append(&batch(kind, first, last, lane_bytes, &encoded, records))?;
        self.writer.next_file = self.next_file;
        // The batch is journalled: what fails from here on, the running site cannot undo. It stops writing, and recovery completes the batch.
        if let Err(error) = self.volume.make_effects(&content, &state.effects) {
            return Err(self.volume.stop_writing("an object could not be written", error));
        }
        if !self.gone.is_empty() {
            self.gone.drain(..).for_each(|file| self.volume.removals.add(file, appended.lsn));
            self.volume.fold.removals_wait();
        }
        if let Some(histories) = self.opened.take() {
            if let Err(error) = self.volume.wait_durable(appended.lsn) {
                let error = std::io::Error::other(error.to_string());
                return Err(self.volume.stop_writing("a new incarnation could not be made durable", error));
            }
            self.volume.incarnations.set_own(histories);
        }
        self.volume.rows.publish(state.puts);
        self.volume.policies.apply(policies);
        let mut pins = self.volume.pins.lock();
        for (file, piece) in self.saved_pins.drain(..) {
            pins.saved(file, &piece);
        }
        for (lane, seq, extent) in self.new_pins.drain(..) {
            pins.insert(lane, seq, extent);
        }
        drop(pins);
        let position = Position { seq: last, ..first };
        let committed = Committed { appended, position, invalidations: std::mem::take(&mut self.invalidations) };
        let volume = self.volume;
        drop(self);
        if kind == BatchKind::Own && first.lane == Lane::Sync {
            // It ships while it flushes; the others when they are durable, of which the journal tells.
            volume.journal.tell_progress();
        }
        Ok(committed)
    }
}

fn batch<'a>(
    kind: BatchKind,
    first: Position,
    last: Seq,
    lane_bytes: u64,
    state: &'a [u8],
    records: &'a [u8],
) -> Batch<'a> {
    Batch {
        kind,
        origin: first.site,
        incarnation: first.incarnation,
        lane: first.lane,
        first_seq: first.seq,
        last_seq: last,
        lane_bytes,
        state,
        records,
    }
}

impl From<DecodeError> for FsError {
    fn from(error: DecodeError) -> Self {
        FsError::Damaged(error.to_string())
    }
}

/// The positions that `stamps` come from and that a record of `lane` made at `site` does not follow by itself.
pub fn deps(site: SiteId, lane: Lane, stamps: impl IntoIterator<Item = Stamp>) -> Vec<Position> {
    let mut deps: Vec<Position> = Vec::new();
    for Stamp { position, hlc } in stamps {
        let implied = hlc == Hlc(0) || position.site == SiteId(0) || (position.site == site && position.lane == lane);
        if implied {
            continue;
        }
        match deps.iter_mut().find(|dep| dep.site == position.site && dep.lane == position.lane) {
            Some(dep) => *dep = (*dep).max(position),
            None => deps.push(position),
        }
    }
    deps
}
