//! Refuses what needs space before the disk is really full.
//!
//! A change is journalled first and made afterwards. If the disk were full in between, the site would have to stop, and recovery would meet the same
//! full disk. So some space is kept back: while less is free, whatever needs more gets ENOSPC before it is journalled. What frees space goes
//! on, out of what was kept back.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::FsError;
use crate::volume::Volume;

/// Kept back: this much,
const KEPT_BYTES: u64 = 64 << 20;
/// but of a small file system one part in so many.
const KEPT_PART: u64 = 16;
/// The file system below is asked again at the latest when this much has been used.
const ASK_AFTER_BYTES: u64 = 8 << 20;
/// What rows, journal and an inode of the file system below take for one change.
const CHANGE_BYTES: u64 = 8 << 10;

/// How much may be used before the file system below is asked again.
#[derive(Default)]
pub struct Room {
    left: AtomicU64,
}

/// The file system below a directory.
pub(crate) struct Space {
    /// What this process may use.
    pub free: u64,
    /// What of it is kept back. The journal takes it too, but for what frees space: no spare file is made of it, and a needed one is short.
    pub kept: u64,
}

impl Space {
    pub fn of(directory: &Path) -> io::Result<Self> {
        let stat = rustix::fs::statvfs(directory)?;
        let kept = KEPT_BYTES.min(stat.f_blocks * stat.f_frsize / KEPT_PART);
        Ok(Self { free: stat.f_bavail * stat.f_frsize, kept })
    }
}

impl Volume {
    /// A change that adds `bytes` of content, or none, is about to be made.
    ///
    /// # Errors
    /// ENOSPC when too little is free.
    pub(crate) fn need_room(&self, bytes: u64) -> Result<(), FsError> {
        let need = bytes + CHANGE_BYTES;
        let used = self.room.left.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(need));
        if used.is_ok() {
            return Ok(());
        }
        let disk = |source| FsError::Disk { what: "asking for free space", source };
        let Space { free, kept } = Space::of(self.store_path()).map_err(disk)?;
        let free = free.saturating_sub(kept);
        if free < need {
            // What was removed a moment ago may be all that is lacking.
            return match self.remove_objects_now()? {
                true => self.need_room(bytes),
                false => Err(disk(rustix::io::Errno::NOSPC.into())),
            };
        }
        self.room.left.store((free / 2).min(ASK_AFTER_BYTES).saturating_sub(need), Ordering::Relaxed);
        Ok(())
    }
}
