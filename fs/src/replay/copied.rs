//! Records whose bytes stand in a file here already.
//!
//! The bytes of a copy are read before anything of its record is done, hashed in memory, and go on as if they had come with the record: what the range
//! holds afterwards makes no difference. Bytes with another hash are never used.
//!
//! What was applied before must be in the object to be found there: so a copy begins a group of its own.

use proto::ids::{Incarnation, Lane, Position, SiteId};
use proto::record::{ContentHash, CopiedRange, Data, Edit, Kind, Op, Record};

use super::ReplayError;
use crate::error::FsError;
use crate::volume::Volume;

impl Volume {
    /// The record with the bytes that it copies, as they stand here.
    ///
    /// # Errors
    /// [`ReplayError::MissingDep`] if what it was made upon is not here yet, [`ReplayError::NeedsBytes`] if other bytes are.
    pub(super) fn with_copied(
        &self,
        (origin, incarnation, lane): (SiteId, Incarnation, Lane),
        mut record: Record,
    ) -> Result<Record, ReplayError> {
        if self.is_held(origin, lane) {
            return Err(ReplayError::Levelling);
        }
        let position = Position { site: origin, incarnation, lane, seq: record.seq };
        if let Some(dep) = record.deps.iter().find(|dep| !self.is_applied(**dep, position)) {
            return Err(ReplayError::MissingDep(*dep));
        }
        let seq = record.seq;
        if let Op::Content(change) = &mut record.op
            && let Edit::Write { data, .. } = &mut change.edit
            && let Data::Copy(range) = data
        {
            let bytes = self.copied_bytes(range).map_err(|error| {
                tracing::info!(file = %change.file, from = %range.from, %seq, "bytes of a copy are asked for: {error}");
                ReplayError::NeedsBytes { seq }
            })?;
            *data = Data::Bytes(bytes.into());
        }
        Ok(record)
    }

    fn copied_bytes(&self, range: &CopiedRange) -> Result<Vec<u8>, FsError> {
        if self.inode(range.from)?.kind != Kind::Regular {
            return Err(FsError::Invalid("only regular files have bytes"));
        }
        let object = self.object(range.from)?;
        let mut bytes = vec![0; range.len as usize];
        // Nobody is to be met in the middle of a change; that the bytes are right only the hash says.
        let lock = object.read();
        let read = object.read_at(range.offset, &mut bytes);
        drop(lock);
        let read = read.map_err(|source| FsError::Disk { what: "reading an object", source })?;
        if read < bytes.len() || ContentHash::of(&bytes) != range.hash {
            return Err(FsError::Invalid("other bytes stand where they were copied from"));
        }
        Ok(bytes)
    }

    /// Whether a record that the one at `position` was made upon is applied here.
    pub(super) fn is_applied(&self, dep: Position, position: Position) -> bool {
        if dep.site == position.site && dep.lane == position.lane {
            return dep < position;
        }
        self.covers(dep)
    }
}
