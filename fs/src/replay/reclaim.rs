//! Takes away what was removed, once no site can still refer to it.
//!
//! A removal is *stable* when every site has applied it, and every record that a site made before it applied the removal is applied here.
//! From then on no record can arrive that names the removed entry or gives the inode a name again. The content goes when also no handle is
//! open, the kernel has forgotten the inode, and no unacknowledged record of this site refers to its bytes.

use proto::ids::{FileId, Lane, LanePoint, Position, SiteId};

use crate::error::FsError;
use crate::ops::data::disk;
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
    }

    fn reclaim(&self, origin: SiteId, lane: Lane, stable: LanePoint) -> Result<(), FsError> {
        let prefix = table::garbage_prefix(origin, lane);
        let mut after: Option<Key> = None;
        loop {
            let rows = self.rows.scan(Table::Garbage, &prefix, after.as_deref(), BATCH)?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            after = Some(last.clone());
            let mut ready = Vec::new();
            let mut more = true;
            for (key, _) in rows {
                let (removal, what) = table::garbage_of_key(&key)?;
                if removal > stable {
                    more = false;
                    break;
                }
                if matches!(what, Garbage::File(file) if self.is_held(file)) {
                    continue;
                }
                let LanePoint { incarnation, seq } = removal;
                ready.push((key, Position { site: origin, incarnation, lane, seq }, what));
            }
            if !ready.is_empty() {
                self.reclaim_batch(ready)?;
            }
            if !more {
                return Ok(());
            }
        }
    }

    fn is_held(&self, file: FileId) -> bool {
        self.holders.hold(file) || self.pins.lock().has(file)
    }

    fn reclaim_batch(&self, ready: Vec<(Key, Position, Garbage)>) -> Result<(), FsError> {
        let mut txn = Txn::begin(self)?;
        for (key, removal, what) in ready {
            match what {
                Garbage::Entry(id) => {
                    if txn.entry(id)?.is_some_and(|entry| entry.removal == Some(removal)) {
                        txn.delete(Table::Entry, table::entry_key(id));
                    }
                }
                Garbage::File(file) => {
                    // Nobody can open it any more: it has no name, and the kernel does not know it.
                    let gone = txn.inode(file)?.is_some_and(|inode| inode.removal == Some(removal));
                    if gone && self.is_held(file) {
                        continue;
                    }
                    if gone {
                        self.reclaim_file(&mut txn, file)?;
                    }
                }
            }
            txn.delete(Table::Garbage, key);
        }
        txn.commit_state().map(drop)
    }

    /// The object goes before the rows: a crash in between finds the rows again and goes on.
    fn reclaim_file(&self, txn: &mut Txn<'_>, file: FileId) -> Result<(), FsError> {
        self.remove_object(file).map_err(disk("removing an object"))?;
        self.active.remove(file);
        txn.delete(Table::Inode, table::file_key(file));
        txn.delete(Table::Active, table::file_key(file));
        for (key, _) in txn.scan(Table::Xattr, &table::file_key(file), usize::MAX)? {
            txn.delete(Table::Xattr, key);
        }
        Ok(())
    }
}
