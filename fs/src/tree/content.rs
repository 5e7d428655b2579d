//! What a content record does to an inode: the decision who wins, and the row.
//!
//! A record goes on from `base`, the content that its writer saw. If that is the content here, it follows. Otherwise two sites wrote without having
//! seen each other, and the later stamp wins, with its whole content:
//!
//! - the record is older than the content here: its bytes are dropped.
//! - the record is newer: its bytes are applied. What stands here may be a mix now.
//!
//! Either way the content is *unsettled* here, unless the record is older than the last replacement of all content (`whole`): another site may have
//! taken the same records in another order, and hold other bytes under the same stamp. Whoever made the content that is unsettled at its own site
//! ships it whole, as a replacement ([`Repair::Rewrite`]): when it meets the other record, and also when it writes to content that is
//! unsettled already, since nobody else can know that this write was made upon a mix.
//!
//! Why all sites end with the same bytes: let M be the record with the greatest stamp of a file. It wins everywhere, and its origin has every
//! record in the end. If the content is unsettled there, the origin ships it whole, and M was not the greatest. So it is settled: each record later than
//! `whole` is one of the chain in which each was made upon the one before, from `whole` to M. Elsewhere `whole`, which does not
//! depend on what stands below it, is applied before that chain; what is older than `whole` and comes after it is dropped; so each of
//! the chain finds its base, and the bytes are those of the origin.

use proto::hlc::Stamp;
use proto::record::{ContentChange, Edit};

use super::apply::note_repair;
use crate::error::FsError;
use crate::store::table::Repair;
use crate::txn::Txn;
use crate::types::Invalidation;

/// What to do with a record's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// The record is not one of content, or its file is gone.
    Nothing,
    /// Make the edit.
    Make,
    /// Drop it: later content stands here.
    Drop,
}

/// Who wins. Pure.
fn decide(current: Stamp, base: Stamp, stamp: Stamp) -> Decision {
    if base == current || stamp > current { Decision::Make } else { Decision::Drop }
}

/// Merges a content record into its inode. The caller makes the edit if told to.
pub(super) fn apply(txn: &mut Txn<'_>, stamp: Stamp, change: &ContentChange) -> Result<Decision, FsError> {
    let Some(mut inode) = txn.inode(change.file)? else { return Ok(Decision::Nothing) };
    let own = txn.volume.site();
    let decision = decide(inode.content, change.base, stamp);
    match decision {
        Decision::Make => {
            let follows = change.base == inode.content;
            inode.size = size_after(inode.size, &change.edit);
            inode.content = stamp;
            if matches!(change.edit, Edit::Replace { .. }) {
                inode.whole = stamp;
                inode.unsettled = false;
            } else if !follows {
                inode.unsettled = true;
            }
            txn.invalidations.push(invalidation(change));
        }
        _ => inode.unsettled |= stamp > inode.whole,
    }
    if inode.unsettled && inode.content.position.site == own {
        note_repair(txn, Repair::Rewrite(change.file));
    }
    if let Some(mtime) = change.mtime {
        inode.set_mtime(mtime, stamp);
    }
    if let Some(mode) = change.mode {
        inode.set_mode(mode, stamp);
    }
    inode.touch(change.time);
    txn.put_inode(change.file, &inode);
    Ok(decision)
}

/// A file's size after an edit.
pub fn size_after(size: u64, edit: &Edit) -> u64 {
    match edit {
        Edit::Write { offset, data } => size.max(offset + data.len()),
        Edit::Truncate { size } | Edit::Replace { size } => *size,
        Edit::Punch { .. } => size,
    }
}

fn invalidation(change: &ContentChange) -> Invalidation {
    let (offset, len) = match &change.edit {
        Edit::Write { offset, data } => (*offset, data.len()),
        Edit::Punch { offset, len } => (*offset, *len),
        Edit::Truncate { .. } | Edit::Replace { .. } => (0, 0),
    };
    Invalidation::Content { file: change.file, offset, len }
}

#[cfg(test)]
mod tests {
    use proto::hlc::Hlc;

    use super::super::inode::GENESIS;
    use super::*;

    #[test]
    fn the_later_content_wins_unless_the_record_saw_what_is_here() {
        let at = |clock| Stamp { hlc: Hlc(clock), ..GENESIS };
        assert_eq!(decide(at(1), at(1), at(2)), Decision::Make, "a fast-forward");
        assert_eq!(decide(at(2), at(1), at(3)), Decision::Make, "a later record wins");
        assert_eq!(decide(at(3), at(1), at(2)), Decision::Drop, "an earlier record loses");
    }
}
