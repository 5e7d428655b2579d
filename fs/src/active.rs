//! Objects in which committed bytes are being overwritten in place.
//!
//! After a power loss an object may hold bytes whose record was lost with the unflushed end of the journal: they would differ from every
//! peer's. So before committed bytes of an object are overwritten, the object is marked *active*, durably ([`crate::overwrite`]). The mark says whose
//! changes these are: whatever was made before it is durable with it, so what is lost was all made by this site, or all by peers. After a power
//! loss this site ships the content of objects that it changed itself anew, as it finds it; what peers changed they send again.
//!
//! The mark is taken off some time after the last overwriting; under the object's lock, so that in the journal it follows every record that it
//! covered.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use proto::ids::FileId;

use crate::error::FsError;
use crate::journal::Lsn;
use crate::store::table::{self, Table};
use crate::txn::Txn;
use crate::volume::Volume;

/// How long a mark stays after the last overwriting. Marking costs a flush, so not at once.
const STAYS: Duration = Duration::from_secs(30);

/// Whose change it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum By {
    ThisSite,
    Peers,
}

/// A mark as its row says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mark {
    /// Mappings change the object unseen.
    pub mapped: bool,
    pub by: By,
}

impl Mark {
    /// The row: what holds of `mapped` and `peers`, in this order, one after the other.
    pub fn encode(self) -> Bytes {
        Bytes::from_static(match (self.mapped, self.by) {
            (false, By::ThisSite) => b"",
            (false, By::Peers) => b"peers",
            (true, By::ThisSite) => b"mapped",
            (true, By::Peers) => b"mappedpeers",
        })
    }

    /// Reads a row.
    pub fn decode(row: &[u8]) -> Self {
        let by = if row.ends_with(b"peers") { By::Peers } else { By::ThisSite };
        Self { mapped: row.starts_with(b"mapped"), by }
    }
}

/// The marked objects.
#[derive(Default)]
pub struct Active {
    files: Mutex<HashMap<FileId, Marked>>,
}

struct Marked {
    by: By,
    /// The batch that marks it, or a later one.
    lsn: Lsn,
    overwritten: Instant,
}

impl Active {
    /// The batch marks the file. Under the object's lock, but in recovery.
    pub(crate) fn set(&self, file: FileId, by: By, lsn: Lsn) {
        self.files.lock().insert(file, Marked { by, lsn, overwritten: Instant::now() });
    }

    /// Forgets a file that is gone.
    pub fn remove(&self, file: FileId) {
        self.files.lock().remove(&file);
    }

    /// Whether the file is marked, durably, for changes of these. If so it counts as overwritten now.
    pub(crate) fn touch(&self, file: FileId, by: By, durable: Lsn) -> bool {
        let mut files = self.files.lock();
        let Some(marked) = files.get_mut(&file).filter(|marked| marked.by == by && marked.lsn <= durable) else {
            return false;
        };
        marked.overwritten = Instant::now();
        true
    }

    fn idle(&self) -> Vec<FileId> {
        let files = self.files.lock();
        files.iter().filter(|(_, marked)| marked.overwritten.elapsed() > STAYS).map(|(file, _)| *file).collect()
    }

    fn is_idle(&self, file: FileId) -> bool {
        self.files.lock().get(&file).is_some_and(|marked| marked.overwritten.elapsed() > STAYS)
    }
}

impl Volume {
    /// The mark of a file's object.
    pub(crate) fn mark_of(&self, file: FileId) -> Result<Option<Mark>, FsError> {
        Ok(self.rows.get(Table::Active, &table::file_key(file))?.map(|row| Mark::decode(&row)))
    }

    /// Marks a file whose mappings change its object unseen: after any end but a clean one content of this site is shipped anew.
    pub(crate) fn mark_mapped(&self, file: FileId, mapped: bool) -> Result<(), FsError> {
        let object = match self.object(file) {
            Err(FsError::NotFound) => return Ok(()),
            object => object?,
        };
        let lock = object.write();
        let mut txn = Txn::begin(self)?;
        let Some(inode) = txn.inode(file)? else { return Ok(()) };
        let key = table::file_key(file);
        let by = match txn.get(Table::Active, &key)? {
            Some(row) => Mark::decode(&row).by,
            None if inode.content.position.site == self.site() => By::ThisSite,
            None => By::Peers,
        };
        txn.put(Table::Active, key, Mark { mapped, by }.encode());
        let committed = txn.commit_state()?;
        self.active.set(file, by, committed.appended.lsn);
        drop(lock);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_survives_its_row() {
        for (mapped, by) in [(false, By::ThisSite), (false, By::Peers), (true, By::ThisSite), (true, By::Peers)] {
            let mark = Mark { mapped, by };
            assert_eq!(Mark::decode(&mark.encode()), mark);
        }
    }
}
