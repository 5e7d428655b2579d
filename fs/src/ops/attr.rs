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

    /// What the kernel means by no change: that suid, sgid and capabilities go, where they are the caller's to take, and the change time is set.
    ///
    /// With HANDLE_KILLPRIV_V2 it leaves that to the volume: at a chown that names neither owner nor group, and before a change of content by who may
    /// not keep them, which then clears them anyway. A chown by others takes nothing away, and of root's changes of content the kernel speaks
    /// only if there are capabilities.
    fn change_nothing(&self, caller: Caller, file: FileId) -> Result<Attr, FsError> {
        let may_take = caller.uid == 0 || caller.uid == self.inode(file)?.perms.uid;
        let had_capabilities = may_take && self.drop_capabilities(file)?;
        self.mark(file, may_take && (caller.uid != 0 || !had_capabilities), Mark::Changed)?;
        self.settle_file(file)?;
        self.getattr(file)
    }

    /// What ext4 does for a change that leaves all bytes as they are: times are set, capabilities go, and suid and sgid if the caller may not
    /// keep them. Does not wait for other sites.
    pub(crate) fn mark_modified(&self, file: FileId, kill_suid: bool) -> Result<(), FsError> {
        self.drop_capabilities(file)?;
        if self.mark(file, kill_suid, Mark::Modified)? {
            self.invalidate_later(vec![Invalidation::Attr { file }]);
        }
        Ok(())
    }

    /// Whether suid or sgid went.
    fn mark(&self, file: FileId, kill_suid: bool, mark: Mark) -> Result<bool, FsError> {
        let txn = Txn::begin(self)?;
        let inode = txn.existing(file)?;
        let (now, mode) = (txn.now(), without_suid(inode.perms.mode));
        let kills = kill_suid && !inode.is_dir() && mode != inode.perms.mode;
        let perms = kills.then_some(Perms { mode, ..inode.perms });
        let mtime = (mark == Mark::Modified).then_some(now);
        let touched = inode.stamps().into_iter().chain(mtime.map(|_| inode.mtime_stamp));
        let scope = Scope::of(&txn, &[file])?;
        commit(txn, &scope, Op::SetAttr { file, perms, atime: None, mtime, time: now }, touched)?;
        Ok(kills)
    }
}

/// Which times a change sets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Changed,
    Modified,
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
