//! Merging a peer's inodes.
//!
//! Each register of an inode goes by its own stamp. Link counts are not merged: they follow from the entries. Content is not merged here
//! either: an inode that is new here begins as it was created, empty, and what is needed is fetched whole.

use proto::ids::FileId;
use proto::record::{Kind, Perms};

use super::Level;
use super::content::{self, Decision, Theirs, Wanted};
use super::knowledge::is_known;
use crate::error::FsError;
use crate::store::table::{self, Key, Table, Value};
use crate::tree::inode::Inode;
use crate::tree::xattr::Xattr;
use crate::txn::Txn;
use crate::types::Invalidation;

impl Level {
    /// One of their inodes.
    pub(super) fn merge_inode(&self, txn: &mut Txn<'_>, key: &Key, row: Value) -> Result<Option<Wanted>, FsError> {
        let file = FileId(table::read_u64(key, "an inode's key")?);
        let inode = Inode::decode(row)?;
        self.check_stamps([inode.created, inode.perms_stamp, inode.mode_stamp, inode.atime_stamp])?;
        self.check_stamps([inode.mtime_stamp, inode.content, inode.whole])?;
        if file.site() == self.volume.site() {
            txn.raise_next_file(file.counter() + 1);
        }
        let Some(mut ours) = txn.inode(file)? else {
            // Gone there but for those who hold it; or reclaimed here, after every site had removed it.
            if inode.is_gone(file) || is_known(txn, inode.created.position)? {
                return Ok(None);
            }
            let theirs = Theirs::of(&inode);
            txn.put_inode(file, &new_here(inode));
            return self.want(txn, file, theirs);
        };
        if ours.created != inode.created && file != FileId::ROOT {
            let why =
                format!("file {file} was created by {}, there by {}", ours.created.position, inode.created.position);
            return Err(FsError::Damaged(why));
        }
        let before = ours.clone();
        merge_registers(&mut ours, &inode);
        if ours != before {
            txn.put_inode(file, &ours);
            txn.invalidations.push(Invalidation::Attr { file });
        }
        self.want(txn, file, Theirs::of(&inode))
    }

    /// Whether their content is needed.
    fn want(&self, txn: &mut Txn<'_>, file: FileId, theirs: Theirs) -> Result<Option<Wanted>, FsError> {
        let Some(mut ours) = txn.inode(file)?.filter(|inode| inode.kind == Kind::Regular) else { return Ok(None) };
        match content::decide(txn, &self.theirs, &ours, &theirs)? {
            Decision::Take { .. } => Ok(Some(Wanted { file, theirs })),
            Decision::Keep { unsettled } => {
                if unsettled && !ours.unsettled {
                    ours.unsettled = true;
                    txn.put_inode(file, &ours);
                    content::note_if_unsettled(txn, file, &ours);
                }
                Ok(None)
            }
        }
    }

    /// An inode that they don't have. Its entries are looked at by themselves; without any it goes.
    pub(super) fn inode_is_absent(&self, txn: &mut Txn<'_>, key: &Key) -> Result<(), FsError> {
        let file = FileId(table::read_u64(key, "an inode's key")?);
        if let Some(inode) = txn.inode(file)?.filter(|inode| inode.is_gone(file))
            && self.theirs.has(&self.volume, inode.created.position)
        {
            self.volume.reclaim_file(txn, file)?;
        }
        Ok(())
    }

    /// One of their extended attributes.
    pub(super) fn merge_xattr(&self, txn: &mut Txn<'_>, key: &Key, row: Value) -> Result<(), FsError> {
        let file = FileId(table::read_u64(key.get(..8).unwrap_or_default(), "an attribute's key")?);
        let theirs = Xattr::decode(row.clone())?;
        self.check_stamps([theirs.stamp])?;
        if txn.inode(file)?.is_none() {
            return Ok(());
        }
        let ours = txn.get(Table::Xattr, key)?.map(Xattr::decode).transpose()?;
        if ours.is_none_or(|ours| ours.stamp < theirs.stamp) {
            txn.put(Table::Xattr, key.clone(), row);
            txn.invalidations.push(Invalidation::Attr { file });
        }
        Ok(())
    }
}

/// The inode as its creation left it, with what was set since, but without names and content.
fn new_here(mut inode: Inode) -> Inode {
    (inode.nlink, inode.subdirs, inode.removed) = (0, 0, 0);
    if inode.kind == Kind::Regular {
        (inode.size, inode.content, inode.whole, inode.unsettled) = (0, inode.created, inode.created, false);
    }
    inode
}

fn merge_registers(ours: &mut Inode, theirs: &Inode) {
    ours.set_mode(theirs.perms.mode, theirs.mode_stamp);
    if theirs.perms_stamp > ours.perms_stamp {
        ours.perms = Perms { mode: ours.perms.mode, ..theirs.perms };
        ours.perms_stamp = theirs.perms_stamp;
    }
    if theirs.atime_stamp > ours.atime_stamp {
        (ours.atime, ours.atime_stamp) = (theirs.atime, theirs.atime_stamp);
    }
    ours.set_mtime(theirs.mtime, theirs.mtime_stamp);
    ours.touch(theirs.ctime);
}
