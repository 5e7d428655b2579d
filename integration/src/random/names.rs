//! The names that a sequence works with: what it made and knows to be there. A hint: calls on names that are not there are calls too.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::call::{Call, Node, Renaming};
use crate::tree::Kind;

/// Paths below the directory that the sequence runs in, which itself (`""`) is always among them.
#[derive(Clone, Debug)]
pub struct Names {
    kinds: BTreeMap<PathBuf, Kind>,
}

impl Default for Names {
    fn default() -> Self {
        Self { kinds: BTreeMap::from([(PathBuf::new(), Kind::Directory)]) }
    }
}

impl Names {
    /// What is below `root` now.
    pub fn read(root: &Path) -> io::Result<Self> {
        let mut names = Self::default();
        let mut pending = vec![PathBuf::new()];
        while let Some(relative) = pending.pop() {
            for entry in fs::read_dir(root.join(&relative))? {
                let entry = entry?;
                let (path, kind) = (relative.join(entry.file_name()), kind_of(entry.file_type()?));
                if kind == Kind::Directory {
                    pending.push(path.clone());
                }
                names.kinds.insert(path, kind);
            }
        }
        Ok(names)
    }

    /// All but the root, of the kinds that `wanted` likes.
    pub fn of(&self, wanted: impl Fn(Kind) -> bool) -> Vec<&PathBuf> {
        let all = self.kinds.iter().filter(|(path, kind)| !path.as_os_str().is_empty() && wanted(**kind));
        all.map(|(path, _)| path).collect()
    }

    /// All directories with the root.
    pub fn directories(&self) -> Vec<&PathBuf> {
        self.kinds.iter().filter(|(_, kind)| **kind == Kind::Directory).map(|(path, _)| path).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.kinds.len() - 1
    }

    /// True when only the root is there.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes in what a call changed that succeeded.
    pub fn take(&mut self, call: &Call) {
        match call {
            Call::Open { path, how, .. } if how.create => {
                self.kinds.entry(path.clone()).or_insert(Kind::File);
            }
            Call::Mkdir { path, .. } => self.add(path, Kind::Directory),
            Call::Mknod { path, node, .. } => self.add(path, kind_of_node(*node)),
            Call::Symlink { path, .. } => self.add(path, Kind::Symlink),
            Call::Link { from, to } => {
                let kind = self.kinds.get(from).copied().unwrap_or(Kind::File);
                self.add(to, kind);
            }
            Call::Unlink { path } | Call::Rmdir { path } => {
                self.kinds.remove(path);
            }
            Call::Rename { from, to, how } => self.rename(from, to, *how),
            _ => {}
        }
    }

    fn add(&mut self, path: &Path, kind: Kind) {
        self.kinds.insert(path.to_owned(), kind);
    }

    fn rename(&mut self, from: &Path, to: &Path, how: Renaming) {
        let moved = self.cut(from);
        let replaced = self.cut(to);
        self.paste(to, moved);
        if how == Renaming::Exchange {
            self.paste(from, replaced);
        }
    }

    /// Takes `path` away with all below it.
    fn cut(&mut self, path: &Path) -> Vec<(PathBuf, Kind)> {
        let below = self.kinds.extract_if(.., |at, _| at.starts_with(path));
        below.map(|(at, kind)| (at.strip_prefix(path).unwrap_or(Path::new("")).to_owned(), kind)).collect()
    }

    fn paste(&mut self, path: &Path, below: Vec<(PathBuf, Kind)>) {
        for (relative, kind) in below {
            // `join("")` would add a slash.
            let at = if relative.as_os_str().is_empty() { path.to_owned() } else { path.join(relative) };
            self.kinds.insert(at, kind);
        }
    }
}

fn kind_of_node(node: Node) -> Kind {
    match node {
        Node::File => Kind::File,
        Node::Fifo => Kind::Fifo,
        Node::Socket => Kind::Socket,
        Node::CharDevice => Kind::CharDevice,
        Node::BlockDevice => Kind::BlockDevice,
    }
}

fn kind_of(kind: fs::FileType) -> Kind {
    match kind {
        kind if kind.is_dir() => Kind::Directory,
        kind if kind.is_file() => Kind::File,
        kind if kind.is_symlink() => Kind::Symlink,
        kind if kind.is_fifo() => Kind::Fifo,
        kind if kind.is_socket() => Kind::Socket,
        kind if kind.is_char_device() => Kind::CharDevice,
        _ => Kind::BlockDevice,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mkdir(path: &str) -> Call {
        Call::Mkdir { path: path.into(), mode: 0 }
    }

    fn rename(from: &str, to: &str, how: Renaming) -> Call {
        Call::Rename { from: from.into(), to: to.into(), how }
    }

    #[test]
    fn directories_move_with_what_is_below_them() {
        let mut names = Names::default();
        for call in [mkdir("a"), mkdir("a/b"), mkdir("ab"), rename("a", "c", Renaming::Replace)] {
            names.take(&call);
        }
        let all = |names: &Names| names.of(|_| true).iter().map(|p| p.display().to_string()).collect::<Vec<_>>();
        assert_eq!(all(&names), ["ab", "c", "c/b"]);
        names.take(&rename("ab", "c", Renaming::Exchange));
        assert_eq!(all(&names), ["ab", "ab/b", "c"]);
    }
}
