//! The tree as it must be: decides the next operation from the seed, takes it over, and is compared with the real tree.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::crash::operation::Operation;
use crate::seed::Seed;
use crate::tree::{self, Entry, Kind, Tree};

/// Bounds of the tree: enough to collide often.
const MAX_NAMES: usize = 150;
const MAX_FILE_BYTES: u64 = 400_000;
const MAX_WRITE_BYTES: u64 = 60_000;
const MAX_DEPTH: usize = 4;

/// The tree of one writer.
#[derive(Clone, Debug)]
pub struct Model {
    seed: Seed,
    names: BTreeMap<PathBuf, usize>,
    inodes: BTreeMap<usize, Inode>,
    next_inode: usize,
    next_name: u64,
}

#[derive(Clone, Debug)]
struct Inode {
    what: What,
    mode: u32,
    xattrs: BTreeMap<String, Vec<u8>>,
    /// The time that was set, unless something has changed it since.
    mtime: Option<(i64, i64)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum What {
    File(Vec<u8>),
    Directory,
    Symlink(PathBuf),
}

impl Model {
    /// The empty tree.
    pub fn new(seed: u64) -> Self {
        let root = Inode { what: What::Directory, mode: 0o755, xattrs: BTreeMap::new(), mtime: None };
        Self {
            seed: Seed::new(seed),
            names: BTreeMap::from([(PathBuf::new(), 0)]),
            inodes: BTreeMap::from([(0, root)]),
            next_inode: 1,
            next_name: 0,
        }
    }

    /// The model after the first `count` operations of `seed`.
    pub fn after(seed: u64, count: u64) -> Self {
        let mut model = Self::new(seed);
        for _ in 0..count {
            let operation = model.decide();
            model.take(&operation);
        }
        model
    }

    /// The next operation; it is possible in this tree.
    pub fn decide(&mut self) -> Operation {
        loop {
            if let Some(operation) = self.try_decide() {
                return operation;
            }
        }
    }

    fn try_decide(&mut self) -> Option<Operation> {
        let full = self.names.len() >= MAX_NAMES;
        Some(match self.seed.below(if full { 70 } else { 100 }) {
            0..20 => {
                let (path, size) = self.some_file()?;
                let offset = self.seed.below((size + 10_000).min(MAX_FILE_BYTES));
                Operation::Write { path, offset, bytes: self.some_bytes() }
            }
            20..35 => {
                let (path, size) = self.some_file()?;
                if size > MAX_FILE_BYTES {
                    return Some(Operation::Empty { path });
                }
                let bytes = self.some_bytes();
                if self.seed.one_in(2) {
                    Operation::AppendFlushed { path, bytes }
                } else {
                    Operation::Append { path, bytes }
                }
            }
            35..39 => {
                let (path, size) = self.some_file()?;
                Operation::Truncate { path, size: self.seed.below(size * 3 / 2 + 5000).min(MAX_FILE_BYTES) }
            }
            39..41 => Operation::Empty { path: self.some_file()?.0 },
            41..43 => Operation::Fsync { path: self.some_file()?.0 },
            43..47 => Operation::Unlink { path: self.some(|what| *what != What::Directory)? },
            47..53 => {
                let path = self.some(|what| *what == What::Directory)?;
                if path.as_os_str().is_empty() || self.has_children(&path) {
                    return None;
                }
                Operation::Rmdir { path }
            }
            53..59 => {
                let path = self.some(|what| !matches!(what, What::Symlink(_)))?;
                let modes = [0o600, 0o644, 0o700, 0o755, 0o777];
                Operation::Chmod { path, mode: *self.seed.pick(&modes)? }
            }
            59..62 => {
                let path = self.some(|what| *what != What::Directory)?;
                let seconds = self.seed.below(2_000_000_000) as i64 - 200_000_000;
                Operation::Utimens { path, seconds, nanos: self.seed.below(1_000_000_000) as i64 }
            }
            62..68 => {
                let path = self.some(|what| !matches!(what, What::Symlink(_)))?;
                let len = self.seed.below(200) as usize;
                Operation::SetXattr { path, name: format!("user.k{}", self.seed.below(4)), value: self.seed.bytes(len) }
            }
            68..70 => {
                let path = self.some(|what| !matches!(what, What::Symlink(_)))?;
                let name = self.inode(&path)?.xattrs.keys().next()?.clone();
                Operation::RemoveXattr { path, name }
            }
            70..82 => Operation::Create { path: self.free_name()? },
            82..86 => Operation::Mkdir { path: self.free_name()? },
            86..88 => Operation::Symlink { target: "some/where".into(), path: self.free_name()? },
            88..91 => Operation::Link { from: self.some_file()?.0, to: self.free_name()? },
            91..93 => {
                let files = |what: &What| *what != What::Directory;
                let (one, other) = (self.some(files)?, self.some(files)?);
                let distinct = self.names[&one] != self.names[&other];
                distinct.then_some(Operation::Exchange { one, other })?
            }
            _ => self.decide_rename()?,
        })
    }

    fn decide_rename(&mut self) -> Option<Operation> {
        let from = self.some(|_| true)?;
        if self.inode(&from)?.what == What::Directory {
            let to = self.free_name()?;
            let possible = !from.as_os_str().is_empty() && !to.starts_with(&from);
            return possible.then_some(Operation::Rename { from, to });
        }
        let to = if self.seed.one_in(2) { self.some(|what| *what != What::Directory)? } else { self.free_name()? };
        // Between two names of one file a rename does nothing.
        let same = self.names.get(&to) == self.names.get(&from);
        (!same).then_some(Operation::Rename { from, to })
    }

    fn some(&mut self, wanted: impl Fn(&What) -> bool) -> Option<PathBuf> {
        let inodes = &self.inodes;
        let fits = self.names.iter().filter(|(_, id)| inodes.get(id).is_some_and(|inode| wanted(&inode.what)));
        let paths: Vec<&PathBuf> = fits.map(|(path, _)| path).collect();
        self.seed.pick(&paths).map(|path| (*path).clone())
    }

    fn some_file(&mut self) -> Option<(PathBuf, u64)> {
        let path = self.some(|what| matches!(what, What::File(_)))?;
        match &self.inode(&path)?.what {
            What::File(bytes) => Some((path.clone(), bytes.len() as u64)),
            _ => None,
        }
    }

    fn free_name(&mut self) -> Option<PathBuf> {
        let parent = self.some(|what| *what == What::Directory)?;
        self.next_name += 1;
        (parent.components().count() < MAX_DEPTH).then(|| parent.join(format!("n{}", self.next_name)))
    }

    fn some_bytes(&mut self) -> Vec<u8> {
        let most = if self.seed.one_in(3) { MAX_WRITE_BYTES } else { 500 };
        let len = self.seed.between(1, most) as usize;
        self.seed.bytes(len)
    }

    fn inode(&self, path: &Path) -> Option<&Inode> {
        self.inodes.get(self.names.get(path)?)
    }

    fn has_children(&self, path: &Path) -> bool {
        self.names.keys().any(|name| name != path && name.starts_with(path))
    }

    /// Takes over an operation that was decided here.
    pub fn take(&mut self, operation: &Operation) {
        match operation {
            Operation::Create { path } => self.add(path, What::File(Vec::new()), 0o644),
            Operation::Mkdir { path } => self.add(path, What::Directory, 0o755),
            Operation::Symlink { target, path } => self.add(path, What::Symlink(target.clone()), 0o777),
            Operation::Write { path, offset, bytes } => self.change_content(path, |content| {
                let (from, to) = (*offset as usize, *offset as usize + bytes.len());
                content.resize(content.len().max(to), 0);
                content[from..to].copy_from_slice(bytes);
            }),
            Operation::Append { path, bytes } | Operation::AppendFlushed { path, bytes } => {
                self.change_content(path, |content| content.extend_from_slice(bytes))
            }
            Operation::Truncate { path, size } => {
                self.change_content(path, |content| content.resize(*size as usize, 0))
            }
            Operation::Empty { path } => self.change_content(path, Vec::clear),
            Operation::Fsync { .. } => {}
            Operation::Unlink { path } | Operation::Rmdir { path } => {
                self.names.remove(path);
            }
            Operation::Link { from, to } => {
                let id = self.names[from];
                self.names.insert(to.clone(), id);
            }
            Operation::Exchange { one, other } => {
                let (a, b) = (self.names[one], self.names[other]);
                self.names.extend([(one.clone(), b), (other.clone(), a)]);
            }
            Operation::Rename { from, to } => self.rename(from, to),
            Operation::Chmod { path, mode } => self.change(path, |inode| inode.mode = *mode),
            Operation::Utimens { path, seconds, nanos } => {
                self.change(path, |inode| inode.mtime = Some((*seconds, *nanos)));
            }
            Operation::SetXattr { path, name, value } => {
                self.change(path, |inode| drop(inode.xattrs.insert(name.clone(), value.clone())));
            }
            Operation::RemoveXattr { path, name } => self.change(path, |inode| drop(inode.xattrs.remove(name))),
        }
        let names = &self.names;
        self.inodes.retain(|id, _| names.values().any(|named| named == id));
    }

    fn add(&mut self, path: &Path, what: What, mode: u32) {
        let inode = Inode { what, mode, xattrs: BTreeMap::new(), mtime: None };
        self.inodes.insert(self.next_inode, inode);
        self.names.insert(path.to_owned(), self.next_inode);
        self.next_inode += 1;
    }

    fn rename(&mut self, from: &Path, to: &Path) {
        let moved: Vec<PathBuf> = self.names.keys().filter(|name| name.starts_with(from)).cloned().collect();
        for old in moved {
            let rest = old.strip_prefix(from).unwrap_or(Path::new(""));
            let new = if rest.as_os_str().is_empty() { to.to_owned() } else { to.join(rest) };
            if let Some(id) = self.names.remove(&old) {
                self.names.insert(new, id);
            }
        }
    }

    fn change(&mut self, path: &Path, change: impl FnOnce(&mut Inode)) {
        if let Some(inode) = self.names.get(path).and_then(|id| self.inodes.get_mut(id)) {
            change(inode);
        }
    }

    fn change_content(&mut self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        self.change(path, |inode| {
            inode.mtime = None;
            if let What::File(content) = &mut inode.what {
                change(content);
            }
        });
    }

    /// In what the real tree differs from this one.
    pub fn differences(&self, real: &Tree) -> Vec<String> {
        let mut found = Vec::new();
        for path in real.keys().filter(|path| !self.names.contains_key(*path)) {
            found.push(format!("{path:?}: is there and should not be"));
        }
        let mut identities: BTreeMap<usize, (u64, u64)> = BTreeMap::new();
        for (path, id) in &self.names {
            let (Some(inode), Some(entry)) = (self.inodes.get(id), real.get(path)) else {
                found.push(format!("{path:?}: is missing"));
                continue;
            };
            inode.compare(entry, &mut |what| found.push(format!("{path:?}: {what}")));
            if *identities.entry(*id).or_insert(entry.inode) != entry.inode {
                found.push(format!("{path:?}: is no longer one file with its other names"));
            }
        }
        found
    }
}

impl Inode {
    fn compare(&self, entry: &Entry, found: &mut dyn FnMut(String)) {
        match (&self.what, entry.kind) {
            (What::File(bytes), Kind::File) => {
                if entry.size != bytes.len() as u64 {
                    found(format!("has {} bytes, should have {}", entry.size, bytes.len()));
                } else if entry.content != tree::hash(bytes.as_slice()).ok() {
                    found(format!("its {} bytes are wrong", bytes.len()));
                }
            }
            (What::Directory, Kind::Directory) => {}
            (What::Symlink(target), Kind::Symlink) if entry.target.as_ref() == Some(target) => {}
            (what, kind) => found(format!("is a {kind:?}, target {:?}, should be {what:?}", entry.target)),
        }
        if entry.mode != self.mode {
            found(format!("has mode {:04o}, should have {:04o}", entry.mode, self.mode));
        }
        let xattrs: BTreeMap<Vec<u8>, Vec<u8>> =
            self.xattrs.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.clone())).collect();
        if entry.xattrs != xattrs {
            let names = |map: &BTreeMap<Vec<u8>, Vec<u8>>| {
                map.iter().map(|(n, v)| format!("{}[{}]", n.escape_ascii(), v.len())).collect::<Vec<_>>().join(" ")
            };
            found(format!("has attributes {}, should have {}", names(&entry.xattrs), names(&xattrs)));
        }
        if self.mtime.is_some_and(|mtime| mtime != entry.mtime) {
            found(format!("was changed at {:?}, should be {:?}", entry.mtime, self.mtime));
        }
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
mod tests;
