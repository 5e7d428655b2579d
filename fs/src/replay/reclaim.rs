//! Takes away what was removed, once no site can still refer to it.
//!
//! A removal is *stable* when every site has applied it, and every record that a site made before it applied the removal is applied here.
//! From then on no record can arrive that names the removed entry, so the entry's row goes. An inode goes when all its entries have gone:
//! with one removal stable and another not, a site may still know the inode by the other entry, and give it a name again. And not while a
//! handle is open, the kernel knows the inode, or an unacknowledged record of this site refers to its bytes: then a note says that it waits
//! for these alone.

//!
//! The work is in what is removed, not in what there is: a look begins behind what earlier ones took away, and who goes looks at the file
//! that he held.

use std::collections::HashMap;

use parking_lot::Mutex;
use proto::ids::{FileId, Lane, LanePoint, Position, SiteId};

use crate::error::FsError;
use crate::store::table::{self, Garbage, Key, Table};
use crate::txn::Txn;
use crate::volume::Volume;

/// Pieces of garbage to one batch.
const BATCH: usize = 128;

/// How far garbage has been taken away, and what has been left to its holders.
#[derive(Default)]
pub struct Reclaimed {
    /// Of each origin's lane: there is no row up to this key. Changed under the writer's lock only, with the rows.
    up_to: Mutex<HashMap<(SiteId, Lane), Key>>,
    /// Left to holders that may have gone before this could be seen.
    left: Mutex<Vec<FileId>>,
}

impl Reclaimed {
    /// A row is written. Not behind the last: by levelling.
    pub(crate) fn noted(&self, removal: Position, key: &Key) {
        let mut up_to = self.up_to.lock();
        if up_to.get(&(removal.site, removal.lane)).is_some_and(|last| key <= last) {
            up_to.remove(&(removal.site, removal.lane));
        }
    }

    fn last(&self, origin: SiteId, lane: Lane) -> Option<Key> {
        self.up_to.lock().get(&(origin, lane)).cloned()
    }
}

impl Volume {
    /// All removals of the origin's lane up to here are stable. For this site's own lanes too.
    pub fn set_stable(&self, origin: SiteId, lane: Lane, point: LanePoint) {
        if let Err(error) = self.reclaim(origin, lane, point) {
            tracing::warn!(%origin, %lane, %error, "removed files keep their space until the next try");
        }
        if !self.reclaimed.left.lock().is_empty() {
            // Under the writer's lock the batches that left them are visible.
            let writer = self.writer.lock();
            let left = std::mem::take(&mut *self.reclaimed.left.lock());
            drop(writer);
            self.reclaim_if_gone(left);
        }
    }

    pub(crate) fn reclaim(&self, origin: SiteId, lane: Lane, stable: LanePoint) -> Result<(), FsError> {
        while !self.next_ready(origin, lane, stable, 1)?.is_empty() {
            self.reclaim_batch(origin, lane, stable)?;
        }
        Ok(())
    }

    /// The next garbage of the lane, as far as it is stable.
    fn next_ready(
        &self,
        origin: SiteId,
        lane: Lane,
        stable: LanePoint,
        limit: usize,
    ) -> Result<Vec<(Key, Position, Garbage)>, FsError> {
        let (prefix, after) = (table::garbage_prefix(origin, lane), self.reclaimed.last(origin, lane));
        let mut ready = Vec::new();
        for (key, _) in self.rows.scan(Table::Garbage, &prefix, after.as_deref(), limit)? {
            let (removal, what) = table::garbage_of_key(&key)?;
            if removal > stable {
                break;
            }
            let LanePoint { incarnation, seq } = removal;
            ready.push((key, Position { site: origin, incarnation, lane, seq }, what));
        }
        Ok(ready)
    }

    fn reclaim_batch(&self, origin: SiteId, lane: Lane, stable: LanePoint) -> Result<(), FsError> {
        let mut txn = Txn::begin(self)?;
        let ready = self.next_ready(origin, lane, stable, BATCH)?;
        let Some((last, ..)) = ready.last() else { return Ok(()) };
        let last = last.clone();
        for (key, removal, what) in ready {
            txn.delete(Table::Garbage, key);
            // An entry that was put back, or removed once more, is not this removal's any more.
            if let Garbage::Entry(id) = what
                && let Some(entry) = txn.entry(id)?.filter(|entry| entry.removal == Some(removal))
            {
                txn.delete(Table::Entry, table::entry_key(id));
                if let Some(mut inode) = txn.inode(entry.file)? {
                    inode.removed = inode.removed.saturating_sub(1);
                    txn.put_inode(entry.file, &inode);
                    if inode.is_gone(entry.file) {
                        self.reclaim_file(&mut txn, entry.file)?;
                    }
                }
            }
        }
        // Before the commit, which lets the lock go. Where it fails, the site has stopped, or these wait for the next start.
        self.reclaimed.up_to.lock().insert((origin, lane), last);
        txn.commit_state().map(drop)
    }

    /// Takes away those of the files that waited for their last holder, who has gone.
    pub(crate) fn reclaim_if_gone(&self, mut files: Vec<FileId>) {
        files.retain(|file| self.inode(*file).is_ok_and(|inode| inode.is_gone(*file)));
        self.reclaim_held(&files);
    }

    /// Takes away all files that waited for nothing but their holders, and have none any more: when all of these have gone.
    pub(crate) fn reclaim_unheld(&self) {
        let held = || -> Result<Vec<FileId>, FsError> {
            let rows = self.rows.scan(Table::Garbage, &table::held_prefix(), None, usize::MAX)?;
            let file = |(key, _): (Key, _)| Ok(table::garbage_of_key(&key)?.1);
            let all: Vec<Garbage> = rows.into_iter().map(file).collect::<Result<_, FsError>>()?;
            Ok(all
                .into_iter()
                .filter_map(|what| if let Garbage::File(file) = what { Some(file) } else { None })
                .collect())
        };
        match held() {
            Ok(files) => self.reclaim_held(&files),
            Err(error) => tracing::warn!(%error, "removed files keep their space until the next try"),
        }
    }

    fn reclaim_held(&self, files: &[FileId]) {
        for files in files.chunks(BATCH) {
            if let Err(error) = self.try_reclaim_held(files) {
                tracing::warn!(%error, "removed files keep their space until the next start");
            }
        }
    }

    fn try_reclaim_held(&self, files: &[FileId]) -> Result<(), FsError> {
        let mut txn = Txn::begin(self)?;
        for file in files {
            let key = table::held_key(*file);
            if self.is_in_use(*file) || txn.get(Table::Garbage, &key)?.is_none() {
                continue;
            }
            txn.delete(Table::Garbage, key);
            if txn.inode(*file)?.is_some_and(|inode| inode.is_gone(*file)) {
                self.reclaim_file(&mut txn, *file)?;
            }
        }
        if txn.is_empty() { Ok(()) } else { txn.commit_state().map(drop) }
    }

    /// Whether somebody can still use the inode. Without a name nobody new can.
    fn is_in_use(&self, file: FileId) -> bool {
        self.holders.hold(file) || self.pins.lock().has(file)
    }

    pub(crate) fn reclaim_file(&self, txn: &mut Txn<'_>, file: FileId) -> Result<(), FsError> {
        if self.is_in_use(file) {
            txn.put(Table::Garbage, table::held_key(file), bytes::Bytes::new());
            self.reclaimed.left.lock().push(file);
            return Ok(());
        }
        txn.remove_object(file);
        self.active.remove(file);
        txn.delete(Table::Inode, table::file_key(file));
        txn.delete(Table::Active, table::file_key(file));
        for (key, _) in txn.scan(Table::Xattr, &table::file_key(file), usize::MAX)? {
            txn.delete(Table::Xattr, key);
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "reclaim_tests.rs"]
mod tests;
