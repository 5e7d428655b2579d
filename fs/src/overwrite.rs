//! What must be durable before committed bytes of an object are overwritten, cut or made a hole.
//!
//! After a power loss the object may show a change whose batch was lost with the end of the journal, and the batch may be there without the change. So an
//! edit that takes committed bytes away (`overwritten`) reaches the object only when it is *prepared*, which is, durably:
//!
//! 1. **The object is marked** ([`crate::active`]), for changes of this site or for those of peers, which are in the object before their batch is
//!    durable only under a mark of their own. The marks follow one another in the journal. So what is lost is all of one kind, that of the last mark.
//!    Changes of this site nobody else may have: recovery takes the object as it finds it, and ships it whole. Changes of peers come again, in
//!    their order, and what they determine comes out as at any other replica; other bytes they didn't touch. So then this site says nothing of its own,
//!    and doesn't win over what it has not seen.
//! 2. **Bytes that an unacknowledged record refers to are copied** to the journal, with the rows that say where ([`crate::pins`]). So for each such byte
//!    either the rows of a copy are there, or the object still has it: a peer gets what was written, whatever was lost. There is one exception: that
//!    a record was acknowledged by all may be lost, and with the row that its bytes are needed comes back what the object has not any more. Nobody asks for
//!    those bytes, so any serve.
//!
//! Objects are *removed* after the batch that deletes the inode is durable: see [`crate::removals`]. Bytes beyond the committed end are nobody's, and
//! need nothing.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::RwLockWriteGuard;
use proto::ids::FileId;
use proto::record::Edit;

use crate::active::{By, Mark};
use crate::content::object::Object;
use crate::error::FsError;
use crate::journal::Lsn;
use crate::ops::data::overwritten;
use crate::pins::Piece;
use crate::store::table::{self, Table};
use crate::tree::inode::Inode;
use crate::txn::Txn;
use crate::volume::{ObjectState, Volume};

/// Bytes are copied in pieces of so many at least: the next small overwriting beside this one then needs no flush.
const AROUND_BYTES: u64 = 256 << 10;
/// The writer's lock is held for so many at a time.
const AT_ONCE_BYTES: u64 = 4 << 20;
/// After so many attempts in which others' changes came in between, they are kept out.
pub(crate) const ATTEMPTS: usize = 2;

impl Volume {
    /// Whether the edit may reach the object of the file, which stands so. The caller holds the object's lock.
    pub(crate) fn is_prepared(&self, file: FileId, inode: &Inode, edit: &Edit, by: By) -> bool {
        let range = overwritten(inode.size, edit);
        range.is_empty() || (self.active.touch(file, by, self.durable()) && !self.pins.lock().is_any(file, range))
    }

    /// The lock, if the edit of this site is prepared under it; else prepares it, and it is to be looked at again.
    pub(crate) fn prepare_own<'a>(
        &self,
        object: &'a Arc<Object<ObjectState>>,
        lock: RwLockWriteGuard<'a, ObjectState>,
        edit: &Edit,
        attempts: &mut usize,
    ) -> Result<Option<RwLockWriteGuard<'a, ObjectState>>, FsError> {
        let file = object.file();
        if self.is_prepared(file, &self.inode(file)?, edit, By::ThisSite) {
            return Ok(Some(lock));
        }
        let lsn = self.prepare_locked(file, object, edit, By::ThisSite)?;
        *attempts += 1;
        if *attempts > ATTEMPTS {
            self.await_prepared(lsn)?;
            return Ok(Some(lock));
        }
        // It waits for a flush: not under the lock.
        drop(lock);
        self.await_prepared(lsn)?;
        Ok(None)
    }

    /// Prepares peers' edits, with one flush for all. Not to be called with a lock held; to be looked at again under the objects' locks.
    pub(crate) fn prepare_peers<'a>(&self, edits: impl IntoIterator<Item = (FileId, &'a Edit)>) -> Result<(), FsError> {
        let mut last = None;
        for (file, edit) in edits {
            let object = match self.object(file) {
                Err(FsError::NotFound) => continue,
                object => object?,
            };
            let _lock = object.write();
            last = last.max(self.prepare_locked(file, &object, edit, By::Peers)?);
        }
        self.await_prepared(last)
    }

    /// As [`prepare_peers`](Self::prepare_peers), of edits whose objects the caller has locked: this site's come in between again and again.
    pub(crate) fn prepare_peers_locked<'a>(
        &self,
        edits: impl IntoIterator<Item = (&'a Arc<Object<ObjectState>>, &'a Edit)>,
    ) -> Result<(), FsError> {
        let mut last = None;
        for (object, edit) in edits {
            last = last.max(self.prepare_locked(object.file(), object, edit, By::Peers)?);
        }
        self.await_prepared(last)
    }

    fn await_prepared(&self, lsn: Option<Lsn>) -> Result<(), FsError> {
        lsn.map_or(Ok(()), |lsn| self.wait_durable(lsn))
    }

    /// Journals what prepares the edit; prepared it is when that is durable. Under the object's lock.
    fn prepare_locked(
        &self,
        file: FileId,
        object: &Object<ObjectState>,
        edit: &Edit,
        by: By,
    ) -> Result<Option<Lsn>, FsError> {
        loop {
            let mut txn = Txn::begin(self)?;
            let Some(inode) = txn.inode(file)? else { return Ok(None) };
            let range = overwritten(inode.size, edit);
            if range.is_empty() {
                return Ok(None);
            }
            let key = table::file_key(file);
            let row = txn.get(Table::Active, &key)?;
            let mark = Mark { mapped: row.as_ref().is_some_and(|row| Mark::decode(row).mapped), by }.encode();
            if row.as_ref() != Some(&mark) {
                txn.put(Table::Active, key, mark);
            }
            let (pieces, all) = self.pieces_around(file, range);
            for piece in pieces {
                txn.save_piece(object, file, piece)?;
            }
            // The mark that is there may not be durable yet.
            let lsn = if txn.is_empty() { self.appended() } else { txn.commit_state()?.appended.lsn };
            self.active.set(file, by, lsn);
            if all {
                return Ok(Some(lsn));
            }
        }
    }

    /// The pieces to copy before the range goes, as many as are copied at once; and whether these are all.
    fn pieces_around(&self, file: FileId, range: Range<u64>) -> (Vec<Piece>, bool) {
        let pins = self.pins.lock();
        let (mut pieces, mut bytes) = (Vec::new(), 0);
        for piece in pins.overlapping(file, range.clone()) {
            if bytes >= AT_ONCE_BYTES {
                return (pieces, false);
            }
            let Range { start, end } = piece.range;
            let around = start / AROUND_BYTES * AROUND_BYTES..end.next_multiple_of(AROUND_BYTES);
            // The rest of the same record's piece.
            let wider = pins.overlapping(file, around).into_iter().find(|wider| {
                (wider.lane, wider.seq) == (piece.lane, piece.seq)
                    && wider.range.start <= start
                    && end <= wider.range.end
            });
            let piece = wider.unwrap_or(piece);
            bytes += piece.range.end - piece.range.start;
            pieces.push(piece);
        }
        (pieces, true)
    }
}
