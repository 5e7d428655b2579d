//! Bytes of a group's long writes, put into their objects and flushed before the writer's lock is taken.
//!
//! Else each local change, and each record of the sync lane, would wait behind a megabyte that is copied under the writer's lock, and each
//! flush of the journal behind the flush of that megabyte.
//!
//! The bytes are beyond every end that the file can have by then, whatever of the records before them is made or not: nothing committed is touched. Those
//! of records that are not committed, or lose against others, are cut off while the object's lock is still held, and before another record changes
//! the file, which could make it longer; after a crash, when the object is next opened.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::ids::{FileId, Incarnation, Lane, Position, Seq, SiteId};
use proto::record::{ContentChange, Data, Edit, MAX_DATA_BYTES, Record};

use super::group::content;
use crate::content::object::Object;
use crate::error::FsError;
use crate::ops::data::EXTENT_MIN_BYTES;
use crate::volume::{ObjectState, Volume};

/// What may stand in front of a flush of the journal while the sync lane is in use.
const GENTLE_BYTES: usize = 64 << 10;

/// Records whose bytes are in their objects.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    records: BTreeSet<Seq>,
    /// A part of another one's may be there too.
    torn: bool,
}

impl Ahead {
    /// The record is being made; whether its bytes are there.
    pub fn take(&mut self, seq: Seq) -> bool {
        self.records.remove(&seq)
    }

    /// Whether bytes of the record are there and it is not made.
    pub fn has(&self, seq: Seq) -> bool {
        self.records.contains(&seq)
    }

    /// Whether there are no other bytes than those of records that were made.
    pub fn is_used(&self) -> bool {
        self.records.is_empty() && !self.torn
    }
}

enum Written {
    Flushed,
    Unflushed,
    Failed,
}

impl Volume {
    /// Writes ahead what can be, up to a record that has to wait for another lane. The caller holds the objects' locks, and cuts what is not used.
    pub(super) fn write_ahead(
        &self,
        (origin, incarnation, lane): (SiteId, Incarnation, Lane),
        records: &[Record],
        objects: &BTreeMap<FileId, Arc<Object<ObjectState>>>,
    ) -> Result<Ahead, FsError> {
        let mut ahead = Ahead::default();
        let mut ends = BTreeMap::new();
        let mut unflushed = BTreeMap::new();
        for record in records {
            let position = Position { site: origin, incarnation, lane, seq: record.seq };
            if record.deps.iter().any(|dep| !self.is_applied(*dep, position)) {
                break;
            }
            let Some(ContentChange { file, edit, .. }) = content(record) else { continue };
            let Some(object) = objects.get(file) else { continue };
            let end = match ends.get(file) {
                Some(end) => *end,
                None => self.size_or_none(*file)?,
            };
            if let Edit::Write { offset, data: Data::Bytes(bytes) } = edit
                && bytes.len() >= EXTENT_MIN_BYTES
                && *offset >= end
                && farthest(edit) <= i64::MAX as u64
            {
                match self.write_piecewise(lane, object, *offset, bytes)? {
                    Written::Flushed => {}
                    Written::Unflushed => drop(unflushed.insert(*file, object)),
                    // Those before it can be made; then it fails in its place.
                    Written::Failed => {
                        ahead.torn = true;
                        break;
                    }
                }
                ahead.records.insert(record.seq);
            }
            ends.insert(*file, end.max(farthest(edit)));
        }
        for object in unflushed.values() {
            self.flush_ahead(object)?;
        }
        Ok(ahead)
    }

    /// While the sync lane is in use, in pieces, each of which the disk has before the next one: what a flush of the journal may find in
    /// front of it stays short.
    fn write_piecewise(
        &self,
        lane: Lane,
        object: &Object<ObjectState>,
        offset: u64,
        bytes: &[u8],
    ) -> Result<Written, FsError> {
        let gently = lane != Lane::Sync && self.sync_in_use.lately();
        let piece_bytes = if gently { GENTLE_BYTES } else { MAX_DATA_BYTES };
        for (at, piece) in (offset..).step_by(piece_bytes).zip(bytes.chunks(piece_bytes)) {
            if object.write_all_at(at, piece).is_err() {
                return Ok(Written::Failed);
            }
            if gently {
                self.flush_ahead(object)?;
            }
        }
        Ok(if gently { Written::Flushed } else { Written::Unflushed })
    }

    fn flush_ahead(&self, object: &Object<ObjectState>) -> Result<(), FsError> {
        let flushed = self.dirty.flush_ahead(object.file(), object.handle());
        flushed.map_err(|error| self.stop_writing("flushing an object failed", error))
    }

    /// The committed size of a file; 0 if there is none.
    pub(crate) fn size_or_none(&self, file: FileId) -> Result<u64, FsError> {
        match self.inode(file) {
            Err(FsError::NotFound) => Ok(0),
            inode => Ok(inode?.size),
        }
    }
}

/// The end that the edit may give a file.
fn farthest(edit: &Edit) -> u64 {
    match edit {
        Edit::Write { offset, data } => offset.saturating_add(data.len()),
        Edit::Truncate { size } | Edit::Replace { size } => *size,
        Edit::Punch { .. } => 0,
    }
}
