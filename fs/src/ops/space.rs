//! Space within files: reservations, holes, copies.

use proto::record::Edit;

use super::data::disk;
use crate::error::FsError;
use crate::types::{Allocate, HandleId, Whence};
use crate::volume::Volume;

const COPY_BYTES: u64 = 1 << 20;

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

    /// The next data or hole from `offset` on.
    pub fn seek(&self, handle: HandleId, offset: u64, whence: Whence) -> Result<u64, FsError> {
        let object = self.object(self.handle(handle)?.file)?;
        let found = match whence {
            Whence::Data => object.seek_data(offset),
            Whence::Hole => object.seek_hole(offset),
        };
        found.map_err(disk("seeking"))?.ok_or(FsError::BeyondEnd)
    }

    /// Copies bytes between files; answers how many. `kill_suid` clears suid and sgid of the one written.
    pub fn copy_range(
        &self,
        from: HandleId,
        from_offset: u64,
        to: HandleId,
        to_offset: u64,
        len: u64,
        kill_suid: bool,
    ) -> Result<u64, FsError> {
        let mut copied = 0;
        while copied < len {
            let piece = (len - copied).min(COPY_BYTES) as u32;
            let bytes = match self.read(from, from_offset.saturating_add(copied), piece) {
                Err(_) if copied > 0 => break,
                bytes => bytes?,
            };
            if bytes.is_empty() {
                break;
            }
            match self.write(to, to_offset.saturating_add(copied), &bytes, kill_suid) {
                // What was copied counts; the program meets the error when it goes on.
                Err(_) if copied > 0 => break,
                written => copied += u64::from(written?),
            }
        }
        Ok(copied)
    }
}
