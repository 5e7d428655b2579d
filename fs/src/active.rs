//! Objects in which committed bytes are being overwritten in place.
//!
//! After a power loss an object may hold bytes whose record was lost with the unflushed end of the journal: they would differ from every
//! peer's. So before committed bytes of an object are overwritten, the object is marked *active*, durably. After a power loss this site ships the
//! content of active objects anew, as it finds it. The mark is taken off some time after the last overwriting; under the object's lock, so
//! that in the journal it follows every record that it covered.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use proto::ids::FileId;
use proto::record::Edit;

use crate::error::FsError;
use crate::ops::data::overwritten;
use crate::store::table::{self, Table};
use crate::txn::Txn;
use crate::volume::Volume;

/// How long a mark stays after the last overwriting. Marking costs a flush, so not at once.
const STAYS: Duration = Duration::from_secs(30);
/// The row of a file that is mapped; others' are empty.
pub(crate) const MAPPED: &[u8] = b"mapped";

/// The marked objects, and when each was last overwritten.
#[derive(Default)]
pub struct Active {
    files: Mutex<HashMap<FileId, Instant>>,
}

impl Active {
    /// Marks found by recovery.
    pub fn load(&self, files: impl IntoIterator<Item = FileId>) {
        let now = Instant::now();
        self.files.lock().extend(files.into_iter().map(|file| (file, now)));
    }

    /// Forgets a file that is gone.
    pub fn remove(&self, file: FileId) {
        self.files.lock().remove(&file);
    }

    /// Whether the file is marked. If so it counts as overwritten now.
    fn touch(&self, file: FileId) -> bool {
        self.files.lock().get_mut(&file).map(|last| *last = Instant::now()).is_some()
    }

    fn idle(&self) -> Vec<FileId> {
        let files = self.files.lock();
        files.iter().filter(|(_, last)| last.elapsed() > STAYS).map(|(file, _)| *file).collect()
    }

    fn is_idle(&self, file: FileId) -> bool {
        self.files.lock().get(&file).is_some_and(|last| last.elapsed() > STAYS)
    }
}

impl Volume {
    /// Whether the edit overwrites committed bytes of an object that is not marked.
    pub(crate) fn needs_mark(&self, file: FileId, size: u64, edit: &Edit) -> bool {
        !overwritten(size, edit).is_empty() && !self.active.touch(file)
    }

    /// Marks the file's object if the edit needs it, and waits until the mark is durable. Not to be called with a lock held.
    pub(crate) fn mark_active(&self, file: FileId, edit: &Edit) -> Result<(), FsError> {
        let size = self.inode(file)?.size;
        if self.needs_mark(file, size, edit) { self.mark_all([file]) } else { Ok(()) }
    }

    /// Marks files' objects with one flush.
    pub(crate) fn mark_all(&self, files: impl IntoIterator<Item = FileId> + Clone) -> Result<(), FsError> {
        let mut txn = Txn::begin(self)?;
        for file in files.clone() {
            let key = table::file_key(file);
            if txn.get(Table::Active, &key)?.is_none() {
                txn.put(Table::Active, key, bytes::Bytes::new());
            }
        }
        let committed = txn.commit_state()?;
        self.wait_durable(committed.appended.lsn)?;
        self.active.load(files);
        Ok(())
    }

    /// Marks a file whose mappings change its object unseen: after any end but a clean one its content is shipped anew.
    pub(crate) fn mark_mapped(&self, file: FileId, mapped: bool) -> Result<(), FsError> {
        let mut txn = Txn::begin(self)?;
        let row = if mapped { MAPPED } else { b"" };
        txn.put(Table::Active, table::file_key(file), bytes::Bytes::from_static(row));
        let committed = txn.commit_state()?;
        self.active.load([file]);
        if mapped { self.wait_durable(committed.appended.lsn) } else { Ok(()) }
    }

    /// Takes off marks that have not been needed for some time.
    pub(crate) fn unmark_idle(&self) -> Result<(), FsError> {
        for file in self.active.idle() {
            let object = match self.object(file) {
                // Reclaimed since.
                Err(FsError::NotFound) => None,
                object => Some(object?),
            };
            let _lock = object.as_ref().map(|object| object.write());
            // Whoever found the mark a moment ago, before taking the lock, counts on it.
            if !self.active.is_idle(file) {
                continue;
            }
            let mut txn = Txn::begin(self)?;
            // Looked at under the writer's lock: watching begins before its mark is set.
            if self.unseen.is_watched(file) {
                continue;
            }
            txn.delete(Table::Active, table::file_key(file));
            self.active.remove(file);
            txn.commit_state()?;
        }
        Ok(())
    }
}
