//! Takes away what was removed, once no site can still refer to it.
//!
//! A removal is *stable* when every site has applied it, and every record that a site made before it applied the removal is applied here.
//! From then on no record can arrive that names the removed entry, so the entry's row goes. An inode goes when all its entries have gone:
//! with one removal stable and another not, a site may still know the inode by the other entry, and give it a name again. And not while a
//! handle is open, the kernel knows the inode, or an unacknowledged record of this site refers to its bytes: then a note says that it waits
//! for these alone.

use proto::ids::{FileId, Lane, LanePoint, Position, SiteId};

use crate::error::FsError;
use crate::store::table::{self, Garbage, Key, Table};
use crate::txn::Txn;
use crate::volume::Volume;

/// Pieces of garbage to one batch.
const BATCH: usize = 128;

impl Volume {
    /// All removals of the origin's lane up to here are stable. For this site's own lanes too.
    pub fn set_stable(&self, origin: SiteId, lane: Lane, point: LanePoint) {
        if let Err(error) = self.reclaim(origin, lane, point) {
            tracing::warn!(%origin, %lane, %error, "removed files keep their space until the next try");
        }
        self.reclaim_unheld();
    }

    pub(crate) fn reclaim(&self, origin: SiteId, lane: Lane, stable: LanePoint) -> Result<(), FsError> {
        let prefix = table::garbage_prefix(origin, lane);
        loop {
            let rows = self.rows.scan(Table::Garbage, &prefix, None, BATCH)?;
            let mut ready = Vec::new();
            for (key, _) in rows {
                let (removal, what) = table::garbage_of_key(&key)?;
                if removal > stable {
                    break;
                }
                let LanePoint { incarnation, seq } = removal;
                ready.push((key, Position { site: origin, incarnation, lane, seq }, what));
            }
            if ready.is_empty() {
                return Ok(());
            }
            self.reclaim_batch(ready)?;
        }
    }

    fn reclaim_batch(&self, ready: Vec<(Key, Position, Garbage)>) -> Result<(), FsError> {
        let mut txn = Txn::begin(self)?;
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
        txn.commit_state().map(drop)
    }

    /// Takes away the file if it waited for its last holder, who has gone.
    pub(crate) fn reclaim_if_gone(&self, file: FileId) {
        if self.inode(file).is_ok_and(|inode| inode.is_gone(file)) {
            self.reclaim_unheld();
        }
    }

    /// Takes away the files that waited for nothing but their holders, and have none any more.
    pub(crate) fn reclaim_unheld(&self) {
        if let Err(error) = self.try_reclaim_unheld() {
            tracing::warn!(%error, "removed files keep their space until the next try");
        }
    }

    fn try_reclaim_unheld(&self) -> Result<(), FsError> {
        for (key, _) in self.rows.scan(Table::Garbage, &table::held_prefix(), None, usize::MAX)? {
            let (_, Garbage::File(file)) = table::garbage_of_key(&key)? else { continue };
            if self.is_in_use(file) {
                continue;
            }
            let mut txn = Txn::begin(self)?;
            txn.delete(Table::Garbage, key);
            if txn.inode(file)?.is_some_and(|inode| inode.is_gone(file)) {
                self.reclaim_file(&mut txn, file)?;
            }
            txn.commit_state()?;
        }
        Ok(())
    }

    /// Whether somebody can still use the inode. Without a name nobody new can.
    fn is_in_use(&self, file: FileId) -> bool {
        self.holders.hold(file) || self.pins.lock().has(file)
    }

    pub(crate) fn reclaim_file(&self, txn: &mut Txn<'_>, file: FileId) -> Result<(), FsError> {
        if self.is_in_use(file) {
            txn.put(Table::Garbage, table::held_key(file), bytes::Bytes::new());
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
