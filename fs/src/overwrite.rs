//! What must be durable before committed bytes of an object are overwritten, cut or made a hole.
//!
//! After a power loss the object may show a change whose batch was lost with the end of the journal, and the batch may be there without the change. So an
//! edit that takes committed bytes away (`overwritten`) reaches the object only when it is *prepared*, which is, durably:
//!
//! 1. **The object is marked** ([`crate::active`]): recovery takes it as it finds it, and this site ships it whole.
//! 2. **Bytes that an unacknowledged record refers to are copied** to the journal, with the rows that say where ([`crate::pins`]). So for each such byte
//!    either the rows of a copy are there, or the object still has it: a peer gets what was written, whatever was lost. There is one exception: that
//!    a record was acknowledged by all may be lost, and with the row that its bytes are needed comes back what the object has not any more. Nobody asks for
//!    those bytes, so any serve.
//! 3. **The content is this site's**, if the edit is: where another site's content stands, a record that changes nothing takes it over first. Recovery
//!    finds in a marked object bytes of changes that were lost. If one of them was made here, the row there is says that the content is this site's, by
//!    3, and it ships the content whole. If the row says that it is another's, all of them were that site's (or a third's): they come again, in their
//!    order, and what they determine comes out as at any other replica; other bytes they didn't touch. So this site says nothing of its own,
//!    and doesn't win over what it has not seen.
//!
//! Objects are *removed* after the batch that deletes the inode is durable: see [`crate::removals`]. Bytes beyond the committed end are nobody's, and
//! need nothing.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::RwLockWriteGuard;
use proto::ids::FileId;
use proto::record::{ContentChange, Edit};

use crate::content::object::Object;
use crate::error::FsError;
use crate::journal::Lsn;
use crate::ops::data::{commit_change, overwritten};
use crate::pins::Piece;
use crate::store::table::{self, Table};
use crate::tree::inode::Inode;
use crate::txn::Txn;
use crate::volume::{ObjectState, Volume};

/// Bytes are copied in pieces of so many at least: the next small overwriting beside this one then needs no flush.
const AROUND_BYTES: u64 = 256 << 10;
/// The writer's lock is held for so many at a time.
const AT_ONCE_BYTES: u64 = 4 << 20;
/// After so many attempts in which another site's content came in between, it is kept out.
const ATTEMPTS: usize = 2;

/// Whose change it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum By {
    ThisSite,
    Peer,
}

impl Volume {
    /// Whether the edit may reach the object of the file, which stands so. The caller holds the object's lock.
    pub(crate) fn is_prepared(&self, file: FileId, inode: &Inode, edit: &Edit, by: By) -> bool {
        let range = overwritten(inode.size, edit);
        range.is_empty()
            || (self.active.touch(file) && self.is_ours(inode, by) && !self.pins.lock().is_any(file, range))
    }

    fn is_ours(&self, inode: &Inode, by: By) -> bool {
        by == By::Peer || inode.content.position.site == self.site()
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
            self.await_prepared([file], lsn)?;
            return Ok(Some(lock));
        }
        // It waits for a flush: not under the lock.
        drop(lock);
        self.await_prepared([file], lsn)?;
        Ok(None)
    }

    /// Prepares edits, with one flush for all. Not to be called with a lock held; to be looked at again under the objects' locks.
    pub(crate) fn prepare<'a>(
        &self,
        edits: impl IntoIterator<Item = (FileId, &'a Edit)>,
        by: By,
    ) -> Result<(), FsError> {
        let mut files = Vec::new();
        let mut last = None;
        for (file, edit) in edits {
            let object = match self.object(file) {
                Err(FsError::NotFound) => continue,
                object => object?,
            };
            let _lock = object.write();
            last = last.max(self.prepare_locked(file, &object, edit, by)?);
            files.push(file);
        }
        self.await_prepared(files, last)
    }

    fn await_prepared(&self, files: impl IntoIterator<Item = FileId>, lsn: Option<Lsn>) -> Result<(), FsError> {
        if let Some(lsn) = lsn {
            self.wait_durable(lsn)?;
            self.active.load(files);
        }
        Ok(())
    }

    /// Journals what prepares the edit; prepared it is when that is durable. Under the object's lock.
    fn prepare_locked(
        &self,
        file: FileId,
        object: &Arc<Object<ObjectState>>,
        edit: &Edit,
        by: By,
    ) -> Result<Option<Lsn>, FsError> {
        let mut last = None;
        loop {
            let mut txn = Txn::begin(self)?;
            let Some(inode) = txn.inode(file)? else { return Ok(last) };
            let range = overwritten(inode.size, edit);
            if range.is_empty() {
                return Ok(last);
            }
            let mark = table::file_key(file);
            // Somebody may just be waiting for the mark that is there to be durable: so is this one.
            last = last.max(Some(self.appended()));
            if txn.get(Table::Active, &mark)?.is_none() {
                txn.put(Table::Active, mark, bytes::Bytes::new());
            }
            let (pieces, all) = self.pieces_around(file, range);
            for piece in pieces {
                txn.save_piece(object, file, piece)?;
            }
            if !txn.is_empty() {
                last = Some(txn.commit_state()?.appended.lsn);
            } else {
                drop(txn);
            }
            if all {
                break;
            }
        }
        let txn = Txn::begin(self)?;
        let inode = txn.existing(file)?;
        if self.is_ours(&inode, by) {
            return Ok(last);
        }
        let (edit, time) = (Edit::Truncate { size: inode.size }, txn.now());
        let change = ContentChange { file, base: inode.content, edit, mtime: None, mode: None, time };
        Ok(Some(commit_change(txn, change, inode.stamps(), None, object)?.appended.lsn))
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
