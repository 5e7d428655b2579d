//! Objects of files that are gone, until they may be removed.
//!
//! An object is removed when the batch that deletes its inode is durable, and with it, in the journal's order, the removal of the last name
//! and the news that all peers have what refers to its bytes. Sooner, a power loss could lose these and leave a file, or a record that a peer still
//! lacks, without its bytes. And it is removed before a checkpoint passes the batch: after a crash recovery finds it in the journal, and removes
//! it then.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use proto::ids::FileId;

use crate::error::FsError;
use crate::journal::Lsn;
use crate::volume::Volume;

/// Objects to be removed.
#[derive(Default)]
pub struct Removals {
    /// With the batch that must be durable before.
    files: Mutex<BTreeMap<FileId, Lsn>>,
    /// Held while objects are removed.
    removing: Mutex<()>,
}

impl Removals {
    /// The batch has deleted the inode.
    pub(crate) fn add(&self, file: FileId, lsn: Lsn) {
        self.files.lock().insert(file, lsn);
    }

    /// Whether none waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.files.lock().is_empty()
    }

    fn due(&self, durable: Lsn) -> Vec<FileId> {
        self.files.lock().iter().filter(|(_, lsn)| **lsn <= durable).map(|(file, _)| *file).collect()
    }
}

impl Volume {
    /// Removes those whose batch is durable.
    pub(crate) fn remove_due_objects(&self) {
        let _alone = self.removals.removing.lock();
        for file in self.removals.due(self.durable()) {
            if let Err(error) = self.remove_object(file) {
                tracing::warn!(%file, %error, "the content of a removed file keeps its space");
            }
            self.removals.files.lock().remove(&file);
        }
    }

    /// An inode is made anew under an id that had one: it begins without content.
    pub(crate) fn finish_removal(&self, file: FileId) -> Result<(), FsError> {
        let waits = self.removals.files.lock().get(&file).copied();
        if let Some(lsn) = waits {
            self.wait_durable(lsn)?;
            self.remove_due_objects();
        }
        Ok(())
    }

    /// Removes all that wait, if any do, for their space.
    pub(crate) fn remove_objects_now(&self) -> Result<bool, FsError> {
        if self.removals.is_empty() {
            return Ok(false);
        }
        self.wait_durable(self.appended())?;
        self.remove_due_objects();
        Ok(true)
    }
}
