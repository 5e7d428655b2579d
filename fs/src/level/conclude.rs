//! The end of levelling.
//!
//! Some things can be judged only when all rows are merged: a directory that the peer removed is empty as soon as what the peer removed *in* it is gone too; and moves
//! that look like a cycle may be none when the last of them is merged. So this site's answers ("the updater restores") are noted here, not on the way.

use std::collections::HashSet;

use bytes::Bytes;
use proto::ids::{EntryId, FileId, Lane};

use super::knowledge::{ABSENT, frontier, is_known};
use super::{BATCH, Level, Levelled, Stage};
use crate::error::FsError;
use crate::meta;
use crate::store::table::{self, Repair, Table};
use crate::tree::apply::{holds_own_entry, note_cycle, note_repair};
use crate::tree::entry::Entry;
use crate::txn::Txn;
use crate::volume::{Volume, encode_point};

impl Level {
    /// All is in: the frontiers rise to the peer's.
    ///
    /// # Errors
    /// [`FsError::Invalid`] while the state is not complete or content is wanted.
    pub fn finish(self) -> Result<Levelled, FsError> {
        let (Stage::End, true) = (&self.stage, self.wanted.is_empty()) else {
            return Err(FsError::Invalid("the peer's state has not come whole"));
        };
        self.note_answers()?;
        // The answers come before the frontiers rise, and so before anything is acknowledged: others count on having all that a site made before that.
        if !self.volume.tail_is_lost() {
            self.volume.run_repairs()?;
        }
        let own = self.volume.site();
        let mut txn = Txn::begin(&self.volume)?;
        for (site, lane, point) in self.theirs.iter().filter(|(site, ..)| *site != own) {
            if point > frontier(&txn, site, lane)? {
                txn.put(Table::Frontier, table::lane_key(site, lane), encode_point(point));
            }
        }
        txn.delete(Table::Meta, Bytes::from_static(meta::LEVELLING));
        let lsn = txn.commit_state()?.appended.lsn;
        tracing::info!(from = %self.from, "this site is level with another by its state");
        let levelled = Levelled { own: Lane::ALL.map(|lane| self.theirs.point(own, lane)), lsn };
        let volume = self.volume.clone();
        drop(self);
        if let Err(error) = volume.reclaim_absent() {
            tracing::warn!(%error, "removed files keep their space until the next start");
        }
        Ok(levelled)
    }

    /// Notes what only this site may do in answer to what the peer has.
    fn note_answers(&self) -> Result<(), FsError> {
        let mut restored = HashSet::new();
        let mut after = None;
        loop {
            let rows = self.volume.rows.scan(Table::Entry, b"", after.as_deref(), BATCH)?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            after = Some(last.clone());
            let mut txn = Txn::begin(&self.volume)?;
            for (key, _) in rows {
                let id = table::entry_of_key(&key)?;
                if let Some(entry) = txn.entry(id)? {
                    self.note_answer(&mut txn, id, &entry, &mut restored)?;
                }
            }
            self.commit(txn)?;
        }
    }

    fn note_answer(
        &self,
        txn: &mut Txn<'_>,
        id: EntryId,
        entry: &Entry,
        restored: &mut HashSet<FileId>,
    ) -> Result<(), FsError> {
        let own = self.volume.site();
        let Some(removal) = entry.removal else {
            // Of two moves that form a cycle the later goes back, and who made it says so.
            return if entry.from.is_some() && entry.stamp.position.site == own {
                note_cycle(txn, entry.file)
            } else {
                Ok(())
            };
        };
        let Some(inode) = txn.inode(entry.file)?.filter(|inode| inode.nlink == 0) else { return Ok(()) };
        if removal.site == own
            || removal == ABSENT
            || !self.theirs.has(&self.volume, removal)
            || restored.contains(&entry.file)
        {
            return Ok(());
        }
        let hidden = if inode.is_dir() {
            // The remover saw it empty, so it has not seen what stands in it now.
            holds_own_entry(txn, entry.file)?
        } else {
            // What the peer has not seen, the remover has not seen either. A removal that came as a record was answered then.
            let content = inode.content.position;
            content.site == own && !self.theirs.has(&self.volume, content) && !is_known(txn, removal)?
        };
        if hidden {
            restored.insert(entry.file);
            note_repair(txn, Repair::Restore(id));
        }
        Ok(())
    }
}

impl Volume {
    /// Takes away what was removed for its absence at a peer, unless a levelling is not finished: every site has removed it, and no record that
    /// names it can come any more.
    pub(crate) fn reclaim_absent(&self) -> Result<(), FsError> {
        if self.levelling()?.is_some() {
            return Ok(());
        }
        self.reclaim(ABSENT.site, ABSENT.lane, ABSENT.point())
    }
}
