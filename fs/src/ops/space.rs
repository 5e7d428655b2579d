//! Space within files: reservations and holes.

use proto::record::Edit;

use super::data::disk;
use crate::error::FsError;
use crate::types::{Allocate, HandleId, Whence};
use crate::volume::Volume;

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
        match how {
            // Space is this site's own affair: only a new size is a change to the tree.
            Allocate::Reserve { .. } => {
                let object = self.object(handle.file)?;
                let _lock = object.write();
                object.allocate(offset, len, true).map_err(disk("reserving space"))?;
            }
            Allocate::Punch | Allocate::Zero { .. } => {
                self.edit(handle.file, Edit::Punch { offset, len }, kill_suid)?;
            }
        }
        if let Some(size) = grow_to {
            self.grow(handle.file, size, kill_suid)?;
        }
        self.settle_size(handle.file)
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
