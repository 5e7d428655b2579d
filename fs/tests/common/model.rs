//! A simple POSIX file system in memory.

use std::collections::BTreeMap;

use fs::types::RenameMode;
use proto::ids::FileId;
use proto::record::{Kind, Time};

pub type Outcome = Result<(), &'static str>;

#[derive(Clone, PartialEq, Debug)]
pub struct Node {
    pub kind: Kind,
    pub mode: u32,
    pub owner: (u32, u32),
    pub nlink: u32,
    pub data: Vec<u8>,
    pub names: BTreeMap<Vec<u8>, FileId>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Known only after it was set.
    pub mtime: Option<Time>,
}

pub struct Model {
    pub nodes: BTreeMap<FileId, Node>,
    pub parents: BTreeMap<FileId, FileId>,
}

impl Model {
    pub fn new() -> Self {
        let root = Self::node(Kind::Directory, 0o755, (0, 0));
        Self { nodes: BTreeMap::from([(FileId::ROOT, root)]), parents: BTreeMap::new() }
    }

    pub fn node(kind: Kind, mode: u32, owner: (u32, u32)) -> Node {
        let nlink = if kind == Kind::Directory { 2 } else { 1 };
        Node {
            kind,
            mode,
            owner,
            nlink,
            data: Vec::new(),
            names: BTreeMap::new(),
            xattrs: BTreeMap::new(),
            mtime: None,
        }
    }

    pub fn dir(&mut self, dir: FileId) -> Result<&mut Node, &'static str> {
        let node = self.nodes.get_mut(&dir).ok_or("NOENT")?;
        match (&node.kind, node.nlink) {
            (Kind::Directory, 0) => Err("NOENT"),
            (Kind::Directory, _) => Ok(node),
            _ => Err("NOTDIR"),
        }
    }

    pub fn file(&mut self, file: FileId) -> &mut Node {
        self.nodes.get_mut(&file).expect("a node")
    }

    pub fn is_dir(&self, file: FileId) -> bool {
        self.nodes[&file].kind == Kind::Directory
    }

    pub fn free(&mut self, dir: FileId, name: &[u8]) -> Outcome {
        if self.dir(dir)?.names.contains_key(name) { Err("EXIST") } else { Ok(()) }
    }

    pub fn add(&mut self, dir: FileId, name: &[u8], file: FileId) {
        if self.is_dir(file) {
            self.parents.insert(file, dir);
            self.file(dir).nlink += 1;
        }
        let dir = self.file(dir);
        dir.names.insert(name.to_vec(), file);
        dir.mtime = None;
    }

    pub fn take(&mut self, dir: FileId, name: &[u8]) -> FileId {
        let node = self.file(dir);
        node.mtime = None;
        let file = node.names.remove(name).expect("a name");
        if self.is_dir(file) {
            self.file(dir).nlink -= 1;
        }
        file
    }

    pub fn drop_link(&mut self, file: FileId) {
        let node = self.file(file);
        node.nlink = if node.kind == Kind::Directory { 0 } else { node.nlink - 1 };
    }

    pub fn unlink(&mut self, dir: FileId, name: &[u8], rmdir: bool) -> Outcome {
        let file = *self.dir(dir)?.names.get(name).ok_or("NOENT")?;
        match (self.is_dir(file), rmdir) {
            (true, false) => return Err("ISDIR"),
            (false, true) => return Err("NOTDIR"),
            (true, true) if !self.nodes[&file].names.is_empty() => return Err("NOTEMPTY"),
            _ => {}
        }
        self.take(dir, name);
        self.drop_link(file);
        Ok(())
    }

    pub fn is_below(&self, mut dir: FileId, above: FileId) -> bool {
        loop {
            if dir == above {
                return true;
            }
            match self.parents.get(&dir) {
                Some(parent) => dir = *parent,
                None => return false,
            }
        }
    }

    pub fn rename(&mut self, from: (FileId, &[u8]), to: (FileId, &[u8]), mode: RenameMode) -> Outcome {
        self.dir(from.0)?;
        self.dir(to.0)?;
        let source = *self.nodes[&from.0].names.get(from.1).ok_or("NOENT")?;
        let target = self.nodes[&to.0].names.get(to.1).copied();
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err("EXIST"),
            (RenameMode::Exchange, None) => return Err("NOENT"),
            _ => {}
        }
        if target == Some(source) {
            return Ok(());
        }
        if self.is_below(to.0, source) {
            return Err("INVAL");
        }
        if let Some(target) = target {
            if mode == RenameMode::Exchange {
                if self.is_below(from.0, target) {
                    return Err("INVAL");
                }
                self.take(from.0, from.1);
                self.take(to.0, to.1);
                self.add(from.0, from.1, target);
                self.add(to.0, to.1, source);
                return Ok(());
            }
            match (self.is_dir(source), self.is_dir(target)) {
                (true, false) => return Err("NOTDIR"),
                (false, true) => return Err("ISDIR"),
                (true, true) if !self.nodes[&target].names.is_empty() => return Err("NOTEMPTY"),
                _ => {}
            }
            self.take(to.0, to.1);
            self.drop_link(target);
        }
        self.take(from.0, from.1);
        self.add(to.0, to.1, source);
        Ok(())
    }

    pub fn resize(&mut self, file: FileId, size: usize, kill: bool) -> Outcome {
        match self.nodes[&file].kind {
            Kind::Regular => {}
            Kind::Directory => return Err("ISDIR"),
            _ => return Err("INVAL"),
        }
        self.changed(file, kill);
        self.file(file).data.resize(size, 0);
        Ok(())
    }

    pub fn write(&mut self, file: FileId, at: usize, bytes: &[u8], kill: bool) {
        self.changed(file, kill);
        let data = &mut self.file(file).data;
        data.resize(data.len().max(at + bytes.len()), 0);
        data[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub fn changed(&mut self, file: FileId, kill: bool) {
        let node = self.file(file);
        node.mtime = None;
        node.xattrs.remove(&b"security.capability"[..]);
        if kill {
            node.mode = without_suid(node.mode);
        }
    }
}

pub fn without_suid(mode: u32) -> u32 {
    mode & !(if mode & 0o010 != 0 { 0o6000 } else { 0o4000 })
}
