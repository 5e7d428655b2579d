//! Space within files: reservations and holes.

use proto::record::Edit;

use super::data::disk;
use crate::content::holes::DataSegments;
use crate::content::object::Object;
use crate::error::FsError;
use crate::types::{Allocate, HandleId, Whence};
use crate::volume::{ObjectState, Volume};

impl Volume {
    /// Reserves space, makes a hole, or zeroes a range. `kill_suid` clears suid and sgid.
    pub fn fallocate(
        &self,
        handle: HandleId,
        offset: u64,
        len: u64,
        how: Allocate,
        kill_suid: bool,
    ) -> Result<(), FsError> {
        let handle = self.handle(handle)?;
        if !handle.flags.write {
            return Err(FsError::BadHandle);
        }
        let end = offset.checked_add(len).filter(|end| *end <= i64::MAX as u64).ok_or(FsError::TooLarge)?;
        if len == 0 {
            return Err(FsError::Invalid("a length of zero"));
        }
        let grow_to = match how {
            Allocate::Punch => None,
            Allocate::Reserve { keep_size } | Allocate::Zero { keep_size } => Some(end).filter(|_| !keep_size),
        };
        let mut modified = match how {
            // Space is this site's own affair: only a new size is a change to the tree.
            Allocate::Reserve { .. } => {
                let object = self.object(handle.file)?;
                self.need_room_to_reserve(&object, offset, end)?;
                let _lock = object.write();
                object.allocate(offset, len, true).map_err(disk("reserving space"))?;
                false
            }
            Allocate::Punch | Allocate::Zero { .. } => {
                self.edit(handle.file, Edit::Punch { offset, len }, kill_suid)?
            }
        };
        if let Some(size) = grow_to {
            modified |= self.grow(handle.file, size, kill_suid)?;
        }
        if !modified {
            self.mark_modified(handle.file, kill_suid)?;
        }
        self.settle_size(handle.file)
    }

    /// The file system below would give a part of what is asked for, down to its last block, before it says no: nothing would be left of
    /// what is kept back.
    fn need_room_to_reserve(&self, object: &Object<ObjectState>, offset: u64, end: u64) -> Result<(), FsError> {
        let Err(refused) = self.need_room(end - offset) else { return Ok(()) };
        // What holds data has its room.
        let mut held = 0;
        for piece in DataSegments::new(object.handle(), offset, end, u64::MAX) {
            held += piece.map_err(disk("seeking"))?.1;
        }
        if held == 0 { Err(refused) } else { self.need_room(end - offset - held) }
    }

    /// The next data or hole from `offset` on.
    pub fn seek(&self, handle: HandleId, offset: u64, whence: Whence) -> Result<u64, FsError> {
        let object = self.object(self.handle(handle)?.file)?;
        let found = match whence {
            Whence::Data => object.seek_data(offset),
            Whence::Hole => object.seek_hole(offset),
        };
        found.map_err(disk("seeking"))?.ok_or(FsError::BeyondEnd)
    }
}
