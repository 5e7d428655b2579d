//! Changing attributes.

use proto::ids::FileId;
use proto::record::{Edit, Op, Perms};

use super::{Scope, commit, commit_and_settle};
use crate::error::FsError;
use crate::tree::inode::Inode;
use crate::txn::Txn;
use crate::types::{Attr, Caller, Invalidation, SetAttr, SetTime};
use crate::volume::Volume;

const SETUID: u32 = 0o4000;
const SETGID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;

impl Volume {
    /// Sets attributes; the size first, as a change of content. One wait for all of it.
    ///
    /// Setting nothing is `chown` to nobody else, or what the kernel asks for where it would have cleared suid itself: suid and sgid go,
    /// and the change time is set.
    pub fn setattr(&self, caller: Caller, file: FileId, set: SetAttr) -> Result<Attr, FsError> {
        let SetAttr { mode, uid, gid, size, atime, mtime } = set;
        if let Some(size) = size {
            if mode.or(uid).or(gid).is_some() || atime.or(mtime).is_some() {
                self.check_peers_of(file)?;
            }
            self.edit(file, Edit::Truncate { size }, caller.uid != 0)?;
        }
        let sets_nothing = set == SetAttr::default();
        if sets_nothing || set.uid.or(set.gid).is_some() {
            self.drop_capabilities(file)?;
        }
        let txn = Txn::begin(self)?;
        let inode = txn.existing(file)?;
        let now = txn.now();
        let at = |time: SetTime| match time {
            SetTime::Now => now,
            SetTime::At(time) => time,
        };
        let new = new_perms(&inode, &set);
        let perms = Some(new).filter(|_| mode.or(uid).or(gid).is_some() || (sets_nothing && new != inode.perms));
        let (atime, mtime) = (atime.map(at), mtime.map(at));
        if perms.is_none() && atime.is_none() && mtime.is_none() && !sets_nothing {
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
}

/// A change of owner clears suid and sgid unless the mode is set with it, as the kernel does for its own file systems.
fn new_perms(inode: &Inode, set: &SetAttr) -> Perms {
    let mut perms = inode.perms;
    let keeps_owner = set.uid.is_none() && set.gid.is_none() && *set != SetAttr::default();
    if !keeps_owner && !inode.is_dir() {
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

impl Volume {
    /// What ext4 does for a change that leaves the bytes as they are: the times, and suid and sgid if the caller may not keep them.
    pub(crate) fn mark_modified(&self, file: FileId, kill_suid: bool) -> Result<(), FsError> {
        self.drop_capabilities(file)?;
        let txn = Txn::begin(self)?;
        let inode = txn.existing(file)?;
        let (now, mode) = (txn.now(), without_suid(inode.perms.mode));
        let perms = Some(Perms { mode, ..inode.perms }).filter(|perms| kill_suid && *perms != inode.perms);
        let killed = perms.is_some();
        let touched = inode.stamps().into_iter().chain([inode.mtime_stamp]);
        let scope = Scope::of(&txn, &[file])?;
        let op = Op::SetAttr { file, perms, atime: None, mtime: Some(now), time: now };
        commit(txn, &scope, op, touched)?;
        if killed {
            self.invalidate_later(vec![Invalidation::Attr { file }]);
        }
        Ok(())
    }
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
