//! Merging a peer's entries. Names, link counts and the rest that is derived from entries follow by the functions that records use.

use proto::hlc::{Hlc, Stamp};
use proto::ids::EntryId;

use super::Level;
use super::knowledge::{ABSENT, is_known};
use crate::error::FsError;
use crate::ops;
use crate::store::table::{self, Key, Value};
use crate::tree::apply;
use crate::tree::entry::Entry;
use crate::txn::Txn;

impl Level {
    /// One of their entries.
    pub(super) fn merge_entry(&self, txn: &mut Txn<'_>, key: &Key, row: Value) -> Result<(), FsError> {
        let id = table::entry_of_key(key)?;
        let theirs = Entry::decode(row)?;
        self.check_stamps([theirs.stamp])?;
        // Absent here, but seen: it was reclaimed, after every site had removed it.
        if txn.entry(id)?.is_none() && is_known(txn, id.0)? {
            return Ok(());
        }
        apply::merge_entry(txn, id, &theirs).map_err(ops::local)
    }

    /// An entry that they don't have: they have not seen it yet, or every site has removed it.
    ///
    /// In the latter case it is removed here too, and its row stays until the levelling is finished: what comes meanwhile may name it. Its stamp is then later than
    /// any that the peer has seen, so that no record that the peer has seen brings it back.
    pub(super) fn entry_is_absent(&self, txn: &mut Txn<'_>, key: &Key) -> Result<(), FsError> {
        let id: EntryId = table::entry_of_key(key)?;
        let Some(ours) = txn.entry(id)?.filter(|entry| entry.is_alive() && self.theirs.has(&self.volume, id.0)) else {
            return Ok(());
        };
        let stamp = Stamp { hlc: Hlc(self.clock.0 + 1), position: ABSENT };
        let gone = Entry { stamp, removal: Some(ABSENT), ..ours.clone() };
        apply::put_removed(txn, id, Some(&ours), &gone)
    }
}
