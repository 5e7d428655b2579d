//! Calls on attributes.

use fs::types::{Caller, SetAttr, SetTime, XattrMode};
use rustix::io::Errno;

use super::{Answer, Ino, Posix, When, without_suid};

/// What `user.syncline.*` can be on a directory; the first of each is the name.
pub const POLICIES: [&[&[u8]]; 4] = [
    &[b"user.syncline.mode", b"sync", b"async"],
    &[b"user.syncline.priority", b"high", b"normal", b"bulk"],
    &[b"user.syncline.compress", b"auto", b"on", b"off"],
    &[b"user.syncline.acks", b"all", b"majority", b"2"],
];
/// These are made when they are read.
pub const COMPUTED: [&[u8]; 3] = [b"user.syncline.effective", b"user.syncline.state", b"user.syncline.version"];

impl Posix {
    pub fn setattr(&mut self, by: Caller, ino: Ino, set: SetAttr) -> Answer {
        if set == SetAttr::default() {
            // `chown` that leaves owner and group as they are.
            if by.uid == 0 || by.uid == self.node(ino)?.perms.uid {
                let had_capabilities = self.drop_capabilities(ino)?;
                if by.uid != 0 || !had_capabilities {
                    self.clear_suid(ino)?;
                }
            }
            return self.touch(ino);
        }
        if let Some(size) = set.size {
            self.resize(ino, size, by.uid != 0)?;
        }
        let owner = set.uid.or(set.gid).is_some();
        if owner {
            self.drop_capabilities(ino)?;
        }
        if set == (SetAttr { size: set.size, ..SetAttr::default() }) {
            return self.node(ino).map(drop);
        }
        let now = self.now;
        let node = self.node_mut(ino)?;
        if owner && !node.is_dir() {
            node.perms.mode = without_suid(node.perms.mode);
        }
        node.perms.mode = set.mode.unwrap_or(node.perms.mode);
        node.perms.uid = set.uid.unwrap_or(node.perms.uid);
        node.perms.gid = set.gid.unwrap_or(node.perms.gid);
        let time = |time: SetTime| match time {
            SetTime::Now => now,
            SetTime::At(time) => When::exactly(time),
        };
        node.atime = set.atime.map_or(node.atime, time);
        node.mtime = set.mtime.map_or(node.mtime, time);
        node.ctime = now;
        Ok(())
    }

    pub fn setxattr(&mut self, ino: Ino, name: &[u8], value: &[u8], mode: XattrMode) -> Answer {
        check_xattr(name)?;
        if value.len() > 65_536 {
            return Err(Errno::RANGE);
        }
        let node = self.node_mut(ino)?;
        if name.starts_with(b"user.syncline.") {
            let known = POLICIES.iter().any(|policy| policy[0] == name && policy[1..].contains(&value));
            if !known || !node.is_dir() {
                return Err(Errno::INVAL);
            }
        }
        match (mode, node.xattrs.contains_key(name)) {
            (XattrMode::Create, true) => return Err(Errno::EXIST),
            (XattrMode::Replace, false) => return Err(Errno::NODATA),
            (_, true) => {}
            (_, false) => {
                let list: usize = node.xattrs.keys().map(|name| name.len() + 1).sum();
                if list + name.len() + 1 > 65_536 {
                    return Err(Errno::NOSPC);
                }
            }
        }
        node.xattrs.insert(name.to_vec(), value.to_vec());
        self.touch(ino)
    }

    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Answer<Vec<u8>> {
        let node = self.node(ino)?;
        check_kept(name)?;
        node.xattrs.get(name).cloned().ok_or(Errno::NODATA)
    }

    pub fn removexattr(&mut self, ino: Ino, name: &[u8]) -> Answer {
        check_xattr(name)?;
        self.node_mut(ino)?.xattrs.remove(name).ok_or(Errno::NODATA)?;
        self.touch(ino)
    }
}

fn check_xattr(name: &[u8]) -> Answer {
    if name.len() > 255 {
        return Err(Errno::RANGE);
    }
    if COMPUTED.contains(&name) {
        return Err(Errno::PERM);
    }
    check_kept(name)
}

fn check_kept(name: &[u8]) -> Answer {
    let kept = [&b"user."[..], b"trusted.", b"security."];
    match kept.iter().find_map(|namespace| name.strip_prefix(*namespace)) {
        None => Err(Errno::OPNOTSUPP),
        Some(b"") => Err(Errno::INVAL),
        Some(_) => Ok(()),
    }
}
