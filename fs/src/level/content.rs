//! Whose content a file has after levelling, and taking theirs in.
//!
//! The later stamp has the content, as with records ([`crate::tree::content`]); a chain of records that each saw the one before has rising stamps, so where one
//! site has seen the other's content this is the newer one. Where neither has, or one of them holds a mix, the content is unsettled, as it would be had
//! the records come: unless it is older than the last replacement of all content.
//!
//! Content is fetched whole and put in place by one batch: a crash leaves the old content with its stamp or the new with its own. Few bytes go by value. Many
//! are *staged*: written to a file of their own and flushed, then a batch refers to that file, then the bytes are copied into the object. For recovery
//! the staged file is to that batch what the journal is to bytes by value: [`crate::content::redo`] holds as it stands. No checkpoint is made
//! between the batch and the end of the copy, and the staged file stays until a checkpoint has passed the batch.
//!
//! The bytes may be newer than the row that they come with. Records that follow lead to the right ones: each byte is determined by the newest of them
//! that touches it, which is made here again, or by none, and then it had not changed since the row.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proto::hlc::{Hlc, Stamp};
use proto::ids::{FileId, Seq};
use proto::record::{ContentChange, Data, Edit, Op, Record, Time};

use super::Level;
use super::knowledge::{Frontiers, is_known};
use super::staged::Stage;
use crate::active::By;
use crate::content::holes::{DataSegments, copy_range};
use crate::content::object::Object;
use crate::error::FsError;
use crate::store::batch::Effect;
use crate::store::table::Repair;
use crate::tree::apply::note_repair;
use crate::tree::inode::Inode;
use crate::txn::Txn;
use crate::types::Invalidation;
use crate::volume::{ObjectState, Volume};

/// More bytes than this are staged,
const IN_MEMORY_BYTES: usize = 1 << 20;
/// and more pieces.
const IN_MEMORY_PIECES: usize = 1 << 10;

/// The registers of their content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Theirs {
    content: Stamp,
    whole: Stamp,
    unsettled: bool,
    size: u64,
}

/// A file whose content is needed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub file: FileId,
    pub theirs: Theirs,
}

/// Content on its way.
pub(super) struct Fetch {
    wanted: Wanted,
    pieces: Vec<(u64, Bytes)>,
    bytes: usize,
    stage: Option<Stage>,
}

/// Whose content it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Decision {
    /// This site's.
    Keep {
        /// Whether it is unsettled now.
        unsettled: bool,
    },
    /// Theirs.
    Take {
        /// Whether it is unsettled then.
        unsettled: bool,
    },
}

impl Theirs {
    pub fn of(inode: &Inode) -> Self {
        let Inode { content, whole, unsettled, size, .. } = *inode;
        Self { content, whole, unsettled, size }
    }
}

/// Decides as the records would have.
pub(super) fn decide(txn: &Txn<'_>, there: &Frontiers, ours: &Inode, theirs: &Theirs) -> Result<Decision, FsError> {
    let seen_there = there.has(txn.volume, ours.content.position);
    Ok(judge(ours, theirs, seen_there, is_known(txn, theirs.content.position)?))
}

/// Pure. `seen_there`: they have seen our content; `seen_here`: we have seen theirs.
fn judge(ours: &Inode, theirs: &Theirs, seen_there: bool, seen_here: bool) -> Decision {
    if theirs.content == ours.content {
        return Decision::Keep { unsettled: ours.unsettled || theirs.unsettled };
    }
    if theirs.content > ours.content {
        let clash = (!seen_there || ours.unsettled) && ours.content > theirs.whole;
        return Decision::Take { unsettled: theirs.unsettled || clash };
    }
    let clash = (!seen_here || theirs.unsettled) && theirs.content > ours.whole;
    Decision::Keep { unsettled: ours.unsettled || clash }
}

impl Fetch {
    pub fn new(wanted: Wanted) -> Self {
        Self { wanted, pieces: Vec::new(), bytes: 0, stage: None }
    }

    pub fn file(&self) -> FileId {
        self.wanted.file
    }

    /// Takes a piece. What lies beyond the size of their row belongs to records that follow.
    pub fn add(&mut self, volume: &Volume, offset: u64, mut bytes: Bytes) -> Result<(), FsError> {
        let size = self.wanted.theirs.size;
        bytes.truncate(usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX));
        if bytes.is_empty() {
            return Ok(());
        }
        volume.need_room(bytes.len() as u64)?;
        self.bytes += bytes.len();
        self.pieces.push((offset, bytes));
        if self.stage.is_none() && (self.bytes > IN_MEMORY_BYTES || self.pieces.len() > IN_MEMORY_PIECES) {
            self.stage = Some(volume.staged.begin()?);
        }
        if let Some(stage) = &self.stage {
            for (offset, bytes) in self.pieces.drain(..) {
                stage.write_all_at(offset, &bytes)?;
            }
        }
        Ok(())
    }
}

impl Level {
    /// All of a file's content has come.
    pub(super) fn adopt(&self, fetch: Fetch) -> Result<(), FsError> {
        let volume = &*self.volume;
        let Fetch { wanted: Wanted { file, theirs }, mut pieces, stage, .. } = fetch;
        let edit = Edit::Replace { size: theirs.size };
        let object = match volume.object(file) {
            Err(FsError::NotFound) => return Ok(()),
            object => object?,
        };
        stage.as_ref().map_or(Ok(()), Stage::finish)?;
        let committed = loop {
            let lock = object.write();
            let Ok(inode) = volume.inode(file) else { return Ok(()) };
            if !volume.is_prepared(file, &inode, &edit, By::Peers) {
                // It waits for a flush: not under the lock.
                drop(lock);
                volume.prepare_peers([(file, &edit)])?;
                continue;
            }
            // No checkpoint until the copy is made.
            let folding = stage.as_ref().map(|_| volume.folding.lock());
            let mut txn = Txn::begin(volume)?;
            let Some(mut inode) = txn.inode(file)? else { return Ok(()) };
            let unsettled = match decide(&txn, &self.theirs, &inode, &theirs)? {
                Decision::Take { unsettled } => unsettled,
                // A program wrote meanwhile, later than all that the peer has.
                Decision::Keep { unsettled } => {
                    inode.unsettled = unsettled;
                    note_if_unsettled(&mut txn, file, &inode);
                    txn.put_inode(file, &inode);
                    return txn.commit_state().map(drop);
                }
            };
            volume.make_room(&object, inode.size, &edit)?;
            inode.size = theirs.size;
            (inode.content, inode.whole, inode.unsettled) = (theirs.content, theirs.whole, unsettled);
            txn.put_inode(file, &inode);
            note_if_unsettled(&mut txn, file, &inode);
            txn.invalidations.push(Invalidation::Content { file, offset: 0, len: 0 });
            let records = match &stage {
                Some(stage) => {
                    txn.effect(file, Effect::Adopt { size: theirs.size, stage: stage.id().0 });
                    Vec::new()
                }
                None => {
                    txn.effect(file, Effect::Replace { size: theirs.size });
                    by_value(&mut txn, file, std::mem::take(&mut pieces))
                }
            };
            let position = theirs.content.position;
            let objects = BTreeMap::from([(file, Arc::clone(&object))]);
            let committed = txn.commit_replayed(position, position.seq, &records, &objects)?;
            if let Some(stage) = &stage {
                volume.staged.keep(stage, committed.appended.lsn);
                if let Err(error) = copy(stage, &object, theirs.size) {
                    return Err(volume.stop_writing("an object could not be written", error));
                }
            }
            drop(folding);
            break committed;
        };
        volume.invalidate(&committed.invalidations);
        Ok(())
    }
}

/// Unsettled content is shipped whole by whoever made it.
pub(super) fn note_if_unsettled(txn: &mut Txn<'_>, file: FileId, inode: &Inode) {
    if inode.unsettled && inode.content.position.site == txn.volume.site() {
        note_repair(txn, Repair::Rewrite(file));
    }
}

/// The pieces as records that carry them to the journal: nobody ships them.
fn by_value(txn: &mut Txn<'_>, file: FileId, pieces: Vec<(u64, Bytes)>) -> Vec<Record> {
    let mut records = Vec::with_capacity(pieces.len());
    for (offset, bytes) in pieces {
        txn.effect(file, Effect::Write { offset, record: records.len() as u32 });
        let edit = Edit::Write { offset, data: Data::Bytes(bytes) };
        let (base, time) = (crate::tree::inode::GENESIS, Time::default());
        let op = Op::Content(ContentChange { file, base, edit, mtime: None, mode: None, time });
        records.push(Record { seq: Seq::ZERO, hlc: Hlc::default(), deps: Vec::new(), op });
    }
    records
}

fn copy(stage: &Stage, object: &Object<ObjectState>, size: u64) -> std::io::Result<()> {
    object.empty(size)?;
    for segment in DataSegments::all(stage.handle()) {
        let (offset, len) = segment?;
        let copied = copy_range(stage.handle(), offset, object.handle(), offset, len)?;
        if copied != len {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proto::ids::SiteId;
    use proto::record::{Kind, Perms};

    use super::super::super::tree::inode::GENESIS;
    use super::*;

    fn at(clock: u64) -> Stamp {
        let mut stamp = GENESIS;
        stamp.hlc = Hlc(clock);
        stamp.position.site = SiteId(1);
        stamp.position.seq = Seq(clock);
        stamp
    }

    fn ours(content: u64, whole: u64) -> Inode {
        let perms = Perms { mode: 0, uid: 0, gid: 0 };
        let mut inode = Inode::new(Kind::Regular, perms, GENESIS, Time::default());
        (inode.content, inode.whole) = (at(content), at(whole));
        inode
    }

    fn theirs(content: u64, whole: u64) -> Theirs {
        Theirs { content: at(content), whole: at(whole), unsettled: false, size: 0 }
    }

    #[test]
    fn what_one_has_seen_is_no_clash() {
        assert_eq!(judge(&ours(3, 1), &theirs(3, 1), true, true), Decision::Keep { unsettled: false });
        assert_eq!(judge(&ours(3, 1), &theirs(5, 1), true, false), Decision::Take { unsettled: false });
        assert_eq!(judge(&ours(5, 1), &theirs(3, 1), false, true), Decision::Keep { unsettled: false });
    }

    #[test]
    fn a_clash_is_unsettled_but_for_what_is_older_than_a_replacement() {
        assert_eq!(judge(&ours(3, 1), &theirs(5, 1), false, false), Decision::Take { unsettled: true });
        assert_eq!(judge(&ours(3, 1), &theirs(5, 4), false, false), Decision::Take { unsettled: false });
        assert_eq!(judge(&ours(5, 1), &theirs(3, 1), false, false), Decision::Keep { unsettled: true });
        assert_eq!(judge(&ours(5, 4), &theirs(3, 1), false, false), Decision::Keep { unsettled: false });
    }
}
