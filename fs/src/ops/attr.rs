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
    ///
    /// With nothing to set it is a `chown` that leaves owner and group as they are: it clears suid like any other. The kernel asks for the same
    /// before it writes to a file with suid, on behalf of whoever writes; so from others than the owner it does nothing, and their write itself
    /// clears suid.
    pub fn setattr(&self, caller: Caller, file: FileId, set: SetAttr) -> Result<Attr, FsError> {
        let SetAttr { mode, uid, gid, size, atime, mtime } = set;
        if let Some(size) = size {
            if mode.or(uid).or(gid).is_some() || atime.or(mtime).is_some() {
                self.check_peers_of(file)?;
            }
            self.edit(file, Edit::Truncate { size }, caller.uid != 0)?;
        }
        let clears_suid = uid.or(gid).is_some() || set == SetAttr::default() && self.owns(caller, file)?;
        if clears_suid {
            self.drop_capabilities(file)?;
        }
        let txn = Txn::begin(self)?;
        let inode = txn.existing(file)?;
        let now = txn.now();
        let at = |time: SetTime| match time {
            SetTime::Now => now,
            SetTime::At(time) => time,
        };
        let perms = Some(new_perms(&inode, &set, clears_suid)).filter(|_| mode.is_some() || clears_suid);
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

    /// Who may change the mode.
    fn owns(&self, caller: Caller, file: FileId) -> Result<bool, FsError> {
        Ok(caller.uid == 0 || caller.uid == self.inode(file)?.perms.uid)
    }
}

/// A change of owner clears suid and sgid unless the mode is set with it, as the kernel does for its own file systems.
fn new_perms(inode: &Inode, set: &SetAttr, clears_suid: bool) -> Perms {
    let mut perms = inode.perms;
    if clears_suid && !inode.is_dir() {
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
