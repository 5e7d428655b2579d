//! Changing attributes.

use proto::ids::FileId;
use proto::record::{Edit, Op, Perms};

use super::{Scope, commit, commit_and_settle};
use crate::error::FsError;
use crate::tree::inode::Inode;
use crate::txn::Txn;
use crate::types::{Attr, Caller, SetAttr, SetTime};
use crate::volume::Volume;

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;

impl Volume {
    /// Sets attributes; the size first, as a change of content. One wait for all of it.
    pub fn setattr(&self, caller: Caller, file: FileId, set: SetAttr) -> Result<Attr, FsError> {
        if set == SetAttr::default() {
            return self.change_nothing(caller, file);
        }
        let SetAttr { mode, uid, gid, size, atime, mtime } = set;
        if let Some(size) = size {
            if mode.or(uid).or(gid).is_some() || atime.or(mtime).is_some() {
                self.check_peers_of(file)?;
            }
            self.edit(file, Edit::Truncate { size }, caller.uid != 0)?;
        }
        if set.uid.or(set.gid).is_some() {
            self.drop_capabilities(file)?;
        }
        let txn = Txn::begin(self)?;
        let inode = txn.existing(file)?;
        let now = txn.now();
        let at = |time: SetTime| match time {
            SetTime::Now => now,
            SetTime::At(time) => time,
        };
        let perms = Some(new_perms(&inode, &set)).filter(|_| mode.or(uid).or(gid).is_some());
        let (atime, mtime) = (atime.map(at), mtime.map(at));
        if perms.is_none() && atime.is_none() && mtime.is_none() {
            drop(txn);
            if size.is_some() {
                self.settle_size(file)?;
            }
            return self.getattr(file);
        }
        let times = mtime.map(|_| inode.mtime_stamp);
        let touched = inode.stamps().into_iter().chain(times);
        let scope = Scope::of(&txn, &[file])?;
        let op = Op::SetAttr { file, perms, atime, mtime, time: now };
        if size.is_some() {
            commit(txn, &scope, op, touched)?;
            self.settle_size(file)?;
        } else {
            commit_and_settle(txn, &scope, op, touched, &[file])?;
        }
        self.getattr(file)
    }

    /// What the kernel means by no change: that suid, sgid and capabilities go, where they are the caller's to take.
    ///
    /// With HANDLE_KILLPRIV_V2 it leaves that to the volume: at a chown that names neither owner nor group, and before a change of content by who may
    /// not keep them, which then clears them anyway. A chown by others is none of their business, and of root's changes of content the kernel speaks
    /// only if there are capabilities.
    fn change_nothing(&self, caller: Caller, file: FileId) -> Result<Attr, FsError> {
        if caller.uid == 0 || caller.uid == self.inode(file)?.perms.uid {
            let had_capabilities = self.drop_capabilities(file)?;
            let kills_suid = caller.uid != 0 || !had_capabilities;
            if kills_suid && self.clear_suid(file)? {
                self.settle_file(file)?;
            }
        }
        self.getattr(file)
    }

    /// Takes suid and sgid from a file, without waiting for other sites. Whether it had any.
    pub(crate) fn clear_suid(&self, file: FileId) -> Result<bool, FsError> {
        let txn = Txn::begin(self)?;
        let inode = txn.existing(file)?;
        let mode = without_suid(inode.perms.mode);
        if inode.is_dir() || mode == inode.perms.mode {
            return Ok(false);
        }
        let perms = Some(Perms { mode, ..inode.perms });
        let scope = Scope::of(&txn, &[file])?;
        let op = Op::SetAttr { file, perms, atime: None, mtime: None, time: txn.now() };
        commit(txn, &scope, op, inode.stamps()).map(|_| true)
    }
}

/// A change of owner clears suid and sgid unless the mode is set with it, as the kernel does for its own file systems.
fn new_perms(inode: &Inode, set: &SetAttr) -> Perms {
    let mut perms = inode.perms;
    if (set.uid.is_some() || set.gid.is_some()) && !inode.is_dir() {
        perms.mode = without_suid(perms.mode);
    }
    perms.mode = set.mode.map_or(perms.mode, |mode| mode & 0o7777);
    perms.uid = set.uid.unwrap_or(perms.uid);
    perms.gid = set.gid.unwrap_or(perms.gid);
    perms
}

/// Without suid, and without sgid where the group may execute (elsewhere it once meant mandatory locking, and stays).
pub(crate) fn without_suid(mode: u32) -> u32 {
    let sgid = if mode & GROUP_EXECUTE != 0 { SETGID } else { 0 };
    mode & !(SETUID | sgid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suid_goes_and_sgid_only_where_the_group_may_execute() {
        assert_eq!(without_suid(0o6755), 0o0755);
        assert_eq!(without_suid(0o6745), 0o2745);
        assert_eq!(without_suid(0o1777), 0o1777);
    }
}
