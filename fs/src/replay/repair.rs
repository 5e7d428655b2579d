//! Records that this site makes in answer to peers' records.
//!
//! Replay notes what is needed in the batch that shows the need; the answer is made afterwards, in batches of its own, the last of which
//! takes the note away. A crash in between makes the answer again, which changes nothing more.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;
use proto::ids::{EntryId, FileId};
use proto::record::{ContentChange, Data, Edit, MAX_DATA_BYTES, Move, Op};

use crate::content::holes::DataSegments;
use crate::content::object::Object;
use crate::error::FsError;
use crate::ops;
use crate::ops::data::{commit_change, disk};
use crate::store::batch::Effect;
use crate::store::table::{self, Repair, Table};
use crate::tree::entry::Entry;
use crate::tree::inode::Inode;
use crate::txn::Txn;
use crate::volume::{ObjectState, Volume};

/// Rounds of answers to answers at a time.
const MAX_ROUNDS: usize = 8;

impl Volume {
    /// Makes the answers that were noted since the last time, if any were.
    pub(crate) fn answer_noted(&self) {
        if self.repairs.load(Ordering::SeqCst) {
            self.answer_replayed();
        }
    }

    /// As [`answer_noted`](Self::answer_noted), after replay. Answers that another thread is making are made, too, when this returns: what is replayed is
    /// acknowledged next, and with that the others count on having all that a site answered. They reclaim what was removed, and an
    /// answer that came later would find nothing to put back.
    pub(crate) fn answer_replayed(&self) {
        let turn = self.answering.lock();
        if !self.repairs.load(Ordering::SeqCst) || !self.may_answer() {
            return;
        }
        if let Err(error) = self.make_answers(&turn) {
            tracing::error!(%error, "an answer to a peer's record waits for the next change or start");
        }
    }

    /// Makes every answer that has been noted. One that fails does not hold up the others.
    pub(crate) fn run_repairs(&self) -> Result<(), FsError> {
        self.make_answers(&self.answering.lock())
    }

    fn make_answers(&self, _turn: &MutexGuard<'_, ()>) -> Result<(), FsError> {
        let mut result = Ok(());
        // An answer may call for another: bringing a directory back may close a cycle.
        for _ in 0..MAX_ROUNDS {
            {
                // A batch that is being made has noted already, and is not to be seen yet.
                let _writer = self.writer.lock();
                self.repairs.store(false, Ordering::SeqCst);
            }
            for (key, _) in self.rows.scan(Table::Repair, b"", None, usize::MAX)? {
                let answered = match table::repair_of_key(&key)? {
                    Repair::Rewrite(file) => self.rewrite(file),
                    Repair::Restore(entry) => self.restore(entry),
                };
                if answered.is_err() {
                    self.repairs.store(true, Ordering::SeqCst);
                    result = answered;
                }
            }
            if result.is_err() || !self.repairs.load(Ordering::SeqCst) {
                break;
            }
        }
        result
    }

    /// Ships a file's content whole, as it stands here: a replacement, then its data by extent. Nothing changes here but the stamps.
    fn rewrite(&self, file: FileId) -> Result<(), FsError> {
        let note = table::repair_key(Repair::Rewrite(file));
        let begun = self.rows.get(Table::Repair, &note)?.is_some_and(|value| !value.is_empty());
        let object = match self.object(file) {
            Err(FsError::NotFound) => return self.drop_note(&note),
            object => object?,
        };
        let _lock = object.write();
        tracing::info!(%file, "content that another site had not seen is shipped whole");
        self.dirty.mark(file, object.handle());
        let inode = self.inode(file)?;
        // Others' content has won since: whoever made it sees to it. But what was begun here has emptied the file elsewhere.
        if inode.content.position.site != self.site() && !begun {
            return self.drop_note(&note);
        }
        let size = inode.size;
        self.reship(file, &object, Edit::Replace { size }, None)?;
        let handle = Arc::clone(object.handle());
        for segment in DataSegments::new(&handle, 0, size, MAX_DATA_BYTES as u64) {
            let (offset, len) = segment.map_err(disk("looking for data"))?;
            let edit = Edit::Write { offset, data: Data::Extent(len as u32) };
            self.reship(file, &object, edit, Some(Effect::Extent { offset, len }))?;
        }
        self.drop_note(&note)
    }

    fn reship(
        &self,
        file: FileId,
        object: &Arc<Object<ObjectState>>,
        edit: Edit,
        effect: Option<Effect>,
    ) -> Result<(), FsError> {
        let mut txn = Txn::begin(self)?.unrefused();
        let inode = txn.existing(file)?;
        let time = txn.now();
        let change = ContentChange { file, base: inode.content, edit, mtime: None, mode: None, time };
        if matches!(change.edit, Edit::Replace { .. }) {
            txn.put(Table::Repair, table::repair_key(Repair::Rewrite(file)), bytes::Bytes::from_static(b"begun"));
        } else {
            // The bytes get a new record that refers to them; an older one may do so too, and keeps a copy.
            self.copy_to_journal(&mut txn, object, inode.size, &change)?;
        }
        commit_change(txn, change, inode.stamps(), effect, object).map(drop)
    }

    /// Puts an entry back where it was, with the directories above it that were removed too.
    fn restore(&self, id: EntryId) -> Result<(), FsError> {
        let note = table::repair_key(Repair::Restore(id));
        let mut txn = Txn::begin(self)?.unrefused();
        txn.delete(Table::Repair, note);
        let mut moves = Vec::new();
        let mut touched = Vec::new();
        let mut next = Some(id);
        let mut passed = HashSet::new();
        while let Some(id) = next.filter(|id| passed.insert(*id)) {
            let Some(entry) = txn.entry(id)? else { break };
            let Some(inode) = txn.inode(entry.file)? else { break };
            let Some((parent, name)) = place_to_go(&txn, &entry, &inode)? else { break };
            touched.extend([entry.stamp, inode.created]);
            tracing::info!(file = %entry.file, name = ?name, "an entry that another site removed or moved goes back");
            moves.push(Move { entry: id, file: entry.file, from: entry.parent, parent, name });
            let above = txn.inode(parent)?;
            next = above.filter(|above| !above.is_linked(parent)).and_then(|above| above.entry);
        }
        // From the top down: no entry is put into a directory without a name.
        moves.reverse();
        if moves.is_empty() {
            return txn.commit_state().map(drop);
        }
        let time = txn.now();
        let places: Vec<FileId> = moves.iter().map(|to| to.parent).collect();
        let scope = ops::Scope::of(&txn, &places)?;
        let committed = ops::commit(txn, &scope, Op::Rename { moves, replaces: Vec::new(), time }, touched)?;
        self.invalidate(&committed.invalidations);
        Ok(())
    }

    fn drop_note(&self, note: &table::Key) -> Result<(), FsError> {
        let mut txn = Txn::begin(self)?;
        txn.delete(Table::Repair, note.clone());
        txn.commit_state().map(drop)
    }
}

/// A removed entry goes back to its place; a live one, of a directory in a cycle, to the place before its last move.
fn place_to_go(txn: &Txn<'_>, entry: &Entry, inode: &Inode) -> Result<Option<(FileId, proto::name::Name)>, FsError> {
    if entry.is_alive() && (!inode.is_dir() || above_root(txn, entry.parent, entry.file)?) {
        return Ok(None);
    }
    let place = (entry.parent, entry.name.clone());
    let place = if entry.is_alive() { entry.from.clone().unwrap_or(place) } else { place };
    // Where that is no better, the root always is.
    let usable = txn.inode(place.0)?.is_some_and(|above| above.is_dir()) && above_root(txn, place.0, entry.file)?;
    Ok(Some(if usable { place } else { (FileId::ROOT, entry.name.clone()) }))
}

/// Whether the way up from `at` leads to the root, or ends, without passing `below` or going round.
fn above_root(txn: &Txn<'_>, mut at: FileId, below: FileId) -> Result<bool, FsError> {
    let mut passed = HashSet::from([below]);
    while passed.insert(at) {
        let Some(id) = txn.inode(at)?.and_then(|inode| inode.entry) else { return Ok(true) };
        match txn.entry(id)? {
            Some(above) => at = above.parent,
            None => return Ok(true),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;
    use std::time::Duration;

    use proto::ids::{SiteId, VolumeId};
    use proto::record::Perms;

    use super::*;
    use crate::tree::apply::note_repair;
    use crate::volume::VolumeOptions;

    #[test]
    fn what_is_noted_while_others_answer_is_answered() {
        let dir = tempfile::tempdir().expect("a directory");
        Volume::format(dir.path(), VolumeId([7; 16]), SiteId(1), Perms { mode: 0o755, uid: 0, gid: 0 }).expect("made");
        let volume = Volume::start(dir.path(), VolumeOptions::default()).expect("a volume");
        let (noted, is_noted) = channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut txn = Txn::begin(&volume).expect("a batch");
                note_repair(&mut txn, Repair::Rewrite(FileId(77)));
                noted.send(()).expect("told");
                // The other looks for notes meanwhile; this one is not to be seen yet.
                thread::sleep(Duration::from_millis(100));
                txn.commit_state().expect("committed");
                volume.answer_replayed();
                assert!(volume.rows.scan(Table::Repair, b"", None, usize::MAX).expect("notes").is_empty());
            });
            is_noted.recv().expect("noted");
            volume.answer_noted();
        });
    }
}
