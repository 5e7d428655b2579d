//! A POSIX file system in memory, as simple as it can be: what each call answers, and what it does to every attribute. It knows nothing of
//! stores: inodes and descriptors have numbers that the test gives.

pub mod attributes;
mod content;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

pub use content::Pages;
use fs::types::OpenFlags;
use proto::record::{Kind, Perms, Time};
use rustix::io::Errno;

pub type Answer<T = ()> = Result<T, Errno>;

/// An inode, by the number of the call that made it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ino(pub u32);

/// An open file, likewise.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fd(pub u32);

impl Ino {
    pub const ROOT: Ino = Ino(0);
}

impl fmt::Debug for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "i{}", self.0)
    }
}

impl fmt::Debug for Fd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fd{}", self.0)
    }
}

/// A time as far as it is known: a clock was read between the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct When {
    pub earliest: Time,
    pub latest: Time,
}

impl When {
    pub fn exactly(time: Time) -> Self {
        Self { earliest: time, latest: time }
    }

    pub fn can_be(self, time: Time) -> bool {
        (self.earliest..=self.latest).contains(&time)
    }
}

#[derive(Clone, Debug)]
pub struct Node {
    pub kind: Kind,
    pub perms: Perms,
    /// Names that lead here.
    pub links: u32,
    pub data: Arc<Vec<u8>>,
    /// What is not among these is a hole.
    pub pages: Pages,
    pub names: BTreeMap<Vec<u8>, Ino>,
    /// Of a directory, but the root.
    pub parent: Option<Ino>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub atime: When,
    pub mtime: When,
    pub ctime: When,
    pub btime: When,
    /// Look-ups that the kernel has not forgotten.
    pub lookups: u64,
}

impl Node {
    pub fn new(kind: Kind, perms: Perms, now: When) -> Self {
        Self {
            kind,
            perms,
            links: 0,
            data: Arc::default(),
            pages: Pages::default(),
            names: BTreeMap::new(),
            parent: None,
            xattrs: BTreeMap::new(),
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            lookups: 0,
        }
    }

    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Directory
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Open {
    pub ino: Ino,
    pub flags: OpenFlags,
}

#[derive(Clone)]
pub struct Posix {
    pub nodes: BTreeMap<Ino, Node>,
    pub opens: BTreeMap<Fd, Open>,
    /// The time of the call that is being made.
    pub now: When,
}

impl Posix {
    pub fn new(root: Node) -> Self {
        let now = root.ctime;
        Self { nodes: BTreeMap::from([(Ino::ROOT, Node { links: 1, ..root })]), opens: BTreeMap::new(), now }
    }

    pub fn node(&self, ino: Ino) -> Answer<&Node> {
        self.nodes.get(&ino).ok_or(Errno::NOENT)
    }

    fn node_mut(&mut self, ino: Ino) -> Answer<&mut Node> {
        self.nodes.get_mut(&ino).ok_or(Errno::NOENT)
    }

    fn open_file(&self, fd: Fd) -> Answer<Open> {
        self.opens.get(&fd).copied().ok_or(Errno::BADF)
    }

    /// The link count that `stat` shows.
    pub fn nlink(&self, ino: Ino) -> u32 {
        let node = &self.nodes[&ino];
        if !node.is_dir() {
            return node.links;
        }
        let subdirs = node.names.values().filter(|ino| self.nodes[ino].is_dir()).count() as u32;
        subdirs + if node.links > 0 { 2 } else { 0 }
    }

    /// The size that `stat` shows.
    pub fn size(&self, ino: Ino) -> u64 {
        let node = &self.nodes[&ino];
        match &node.kind {
            Kind::Regular => node.data.len() as u64,
            Kind::Directory => 4096,
            Kind::Symlink(target) => target.len() as u64,
            _ => 0,
        }
    }

    /// What nobody can reach any more is gone.
    pub fn forget_unreachable(&mut self) {
        let open: BTreeSet<Ino> = self.opens.values().map(|open| open.ino).collect();
        self.nodes.retain(|ino, node| node.links > 0 || node.lookups > 0 || open.contains(ino));
    }

    /// The kernel and the programs are gone.
    pub fn restarted(&mut self) {
        self.opens.clear();
        self.nodes.values_mut().for_each(|node| node.lookups = 0);
        self.forget_unreachable();
    }

    fn touch(&mut self, ino: Ino) -> Answer {
        let now = self.now;
        self.node_mut(ino)?.ctime = now;
        Ok(())
    }

    fn changed_names(&mut self, dir: Ino) -> Answer {
        let now = self.now;
        let node = self.node_mut(dir)?;
        (node.mtime, node.ctime) = (now, now);
        Ok(())
    }
}

pub fn without_suid(mode: u32) -> u32 {
    mode & !(if mode & 0o010 != 0 { 0o6000 } else { 0o4000 })
}
