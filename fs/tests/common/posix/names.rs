//! Calls on names.

use fs::types::{Caller, RenameMode};
use proto::record::{Kind, Perms};
use rustix::io::Errno;

use super::{Answer, Ino, Node, Posix};

impl Posix {
    pub fn lookup(&self, dir: Ino, name: &[u8]) -> Answer<Ino> {
        if name.len() > 255 {
            return Err(Errno::NAMETOOLONG);
        }
        self.node(dir)?.names.get(name).copied().ok_or(Errno::NOENT)
    }

    pub fn list(&self, dir: Ino) -> Answer<Vec<(Vec<u8>, Ino)>> {
        let node = self.node(dir)?;
        if !node.is_dir() {
            return Err(Errno::NOTDIR);
        }
        Ok(node.names.iter().map(|(name, ino)| (name.clone(), *ino)).collect())
    }

    pub fn readlink(&self, ino: Ino) -> Answer<Vec<u8>> {
        match &self.node(ino)?.kind {
            Kind::Symlink(target) => Ok(target.to_vec()),
            _ => Err(Errno::INVAL),
        }
    }

    pub fn make(&mut self, new: Ino, by: Caller, dir: Ino, name: &[u8], kind: &Kind, mode: u32) -> Answer {
        check_name(name)?;
        match kind {
            Kind::Symlink(target) if target.is_empty() => return Err(Errno::NOENT),
            Kind::Symlink(target) if target.len() >= 4096 => return Err(Errno::NAMETOOLONG),
            _ => {}
        }
        self.free(dir, name)?;
        let above = self.node(dir)?.perms;
        let inherits = above.mode & 0o2000 != 0;
        let mode = match kind {
            Kind::Symlink(_) => 0o777,
            Kind::Directory if inherits => mode | 0o2000,
            _ => mode,
        };
        let perms = Perms { mode, uid: by.uid, gid: if inherits { above.gid } else { by.gid } };
        self.nodes.insert(new, Node::new(kind.clone(), perms, self.now));
        self.put(dir, name, new);
        self.changed_names(dir)
    }

    pub fn link(&mut self, ino: Ino, dir: Ino, name: &[u8]) -> Answer {
        check_name(name)?;
        self.directory(dir)?;
        let node = self.node(ino)?;
        if node.is_dir() {
            return Err(Errno::PERM);
        }
        if node.links == 0 {
            return Err(Errno::NOENT);
        }
        self.free(dir, name)?;
        self.put(dir, name, ino);
        self.touch(ino)?;
        self.changed_names(dir)
    }

    pub fn unlink(&mut self, dir: Ino, name: &[u8]) -> Answer {
        let ino = self.named(dir, name)?;
        if self.node(ino)?.is_dir() {
            return Err(Errno::ISDIR);
        }
        self.remove(dir, name)
    }

    pub fn rmdir(&mut self, dir: Ino, name: &[u8]) -> Answer {
        let ino = self.named(dir, name)?;
        let node = self.node(ino)?;
        if !node.is_dir() {
            return Err(Errno::NOTDIR);
        }
        if !node.names.is_empty() {
            return Err(Errno::NOTEMPTY);
        }
        self.remove(dir, name)
    }

    pub fn rename(&mut self, from: (Ino, &[u8]), to: (Ino, &[u8]), mode: RenameMode) -> Answer {
        check_name(from.1)?;
        check_name(to.1)?;
        self.directory(from.0)?;
        self.directory(to.0)?;
        let source = self.named(from.0, from.1)?;
        let target = self.node(to.0)?.names.get(to.1).copied();
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(Errno::EXIST),
            (RenameMode::Exchange, None) => return Err(Errno::NOENT),
            _ if target == Some(source) => return Ok(()),
            _ => {}
        }
        if self.is_below(to.0, source) {
            return Err(Errno::INVAL);
        }
        match target {
            None => {}
            Some(target) if mode == RenameMode::Exchange => {
                if self.is_below(from.0, target) {
                    return Err(Errno::INVAL);
                }
                self.take(to.0, to.1);
                self.take(from.0, from.1);
                self.put(from.0, from.1, target);
                self.put(to.0, to.1, source);
                for ino in [source, target] {
                    self.touch(ino)?;
                }
                self.changed_names(from.0)?;
                return self.changed_names(to.0);
            }
            Some(target) => {
                let (source, target) = (self.node(source)?, self.node(target)?);
                match (source.is_dir(), target.is_dir()) {
                    (true, false) => return Err(Errno::NOTDIR),
                    (false, true) => return Err(Errno::ISDIR),
                    (true, true) if !target.names.is_empty() => return Err(Errno::NOTEMPTY),
                    _ => {}
                }
                self.remove(to.0, to.1)?;
            }
        }
        self.take(from.0, from.1);
        self.put(to.0, to.1, source);
        self.touch(source)?;
        self.changed_names(from.0)?;
        self.changed_names(to.0)
    }

    fn directory(&self, dir: Ino) -> Answer<&Node> {
        let node = self.node(dir)?;
        match (node.is_dir(), node.links) {
            (false, _) => Err(Errno::NOTDIR),
            (true, 0) => Err(Errno::NOENT),
            (true, _) => Ok(node),
        }
    }

    fn free(&self, dir: Ino, name: &[u8]) -> Answer {
        if self.directory(dir)?.names.contains_key(name) { Err(Errno::EXIST) } else { Ok(()) }
    }

    fn named(&self, dir: Ino, name: &[u8]) -> Answer<Ino> {
        check_name(name)?;
        self.directory(dir)?.names.get(name).copied().ok_or(Errno::NOENT)
    }

    fn is_below(&self, mut dir: Ino, above: Ino) -> bool {
        loop {
            if dir == above {
                return true;
            }
            let Some(parent) = self.nodes[&dir].parent else { return false };
            dir = parent;
        }
    }

    fn put(&mut self, dir: Ino, name: &[u8], ino: Ino) {
        self.nodes.get_mut(&dir).expect("a directory").names.insert(name.to_vec(), ino);
        let node = self.nodes.get_mut(&ino).expect("an inode");
        node.links += 1;
        if node.is_dir() {
            node.parent = Some(dir);
        }
    }

    fn take(&mut self, dir: Ino, name: &[u8]) -> Ino {
        let ino = self.nodes.get_mut(&dir).expect("a directory").names.remove(name).expect("a name");
        self.nodes.get_mut(&ino).expect("an inode").links -= 1;
        ino
    }

    fn remove(&mut self, dir: Ino, name: &[u8]) -> Answer {
        let ino = self.take(dir, name);
        self.touch(ino)?;
        self.changed_names(dir)
    }
}

fn check_name(name: &[u8]) -> Answer {
    if name.len() > 255 {
        return Err(Errno::NAMETOOLONG);
    }
    let refused = [&b""[..], b".", b".."].contains(&name) || name.contains(&b'/') || name.contains(&0);
    if refused { Err(Errno::INVAL) } else { Ok(()) }
}
