//! Says in what two trees differ, by path and attribute.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use crate::tree::{self, Entry, Kind, Tree, TreeError};

/// What is compared besides names, types, content, modes, owners, times, attributes and links, which always are.
#[derive(Clone, Copy, Debug)]
pub struct Strictness {
    /// Where the files have holes.
    pub holes: bool,
    /// Inode numbers, and the link counts of directories.
    pub identity: bool,
}

impl Strictness {
    /// Two sites of one volume: equal in everything, inode numbers too.
    pub const REPLICAS: Strictness = Strictness { holes: true, identity: true };
    /// A tree and what a program like `cp -a` or `tar` made of it: it may fill or make holes.
    pub const COPIES: Strictness = Strictness { holes: false, identity: false };
}

/// What of an entry differs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[allow(missing_docs)]
pub enum Attribute {
    Presence,
    Kind,
    Mode,
    Owner,
    Size,
    Mtime,
    LinkCount,
    HardLinks,
    Inode,
    Device,
    Xattr,
    Target,
    Content,
    Holes,
}

/// One difference.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// Where, below the roots.
    pub path: PathBuf,
    /// In what.
    pub attribute: Attribute,
    /// What the left tree has.
    pub left: String,
    /// What the right tree has.
    pub right: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {:?}: {} against {}", self.path, self.attribute, self.left, self.right)
    }
}

/// Reads both trees and compares them.
pub fn compare(left: &Path, right: &Path, strictness: Strictness) -> Result<Vec<Difference>, TreeError> {
    Ok(differences(&tree::read(left)?, &tree::read(right)?, strictness))
}

/// A report of at most `most` differences, or the empty string when there is none.
pub fn report(differences: &[Difference], most: usize) -> String {
    let mut lines: Vec<String> = differences.iter().take(most).map(|d| format!("  {d}")).collect();
    if differences.len() > most {
        lines.push(format!("  … and {} more", differences.len() - most));
    }
    lines.join("\n")
}

/// Every difference, in the order of the paths.
pub fn differences(left: &Tree, right: &Tree, strictness: Strictness) -> Vec<Difference> {
    let (left_groups, right_groups) = (hard_links(left), hard_links(right));
    let mut found = Vec::new();
    for path in left.keys().chain(right.keys()).collect::<BTreeSet<_>>() {
        let mut add = |attribute, l: String, r: String| {
            if l != r {
                found.push(Difference { path: path.clone(), attribute, left: l, right: r });
            }
        };
        match (left.get(path), right.get(path)) {
            (Some(l), Some(r)) => {
                entry_differences(l, r, strictness, &mut add);
                add(Attribute::HardLinks, group(&left_groups, path), group(&right_groups, path));
            }
            (l, r) => add(Attribute::Presence, presence(l), presence(r)),
        }
    }
    found
}

fn entry_differences(l: &Entry, r: &Entry, strictness: Strictness, add: &mut impl FnMut(Attribute, String, String)) {
    if l.kind != r.kind {
        // Everything else would differ as well, and say nothing more.
        return add(Attribute::Kind, format!("{:?}", l.kind), format!("{:?}", r.kind));
    }
    let directory = l.kind == Kind::Directory;
    add(Attribute::Mode, format!("{:04o}", l.mode), format!("{:04o}", r.mode));
    add(Attribute::Owner, format!("{}:{}", l.uid, l.gid), format!("{}:{}", r.uid, r.gid));
    add(Attribute::Mtime, time(l.mtime), time(r.mtime));
    add(Attribute::Device, format!("{:#x}", l.rdev), format!("{:#x}", r.rdev));
    add(Attribute::Target, format!("{:?}", l.target), format!("{:?}", r.target));
    add(Attribute::Content, format!("{:x?}", l.content), format!("{:x?}", r.content));
    for name in l.xattrs.keys().chain(r.xattrs.keys()).collect::<BTreeSet<_>>() {
        let show = |value: Option<&Vec<u8>>| match value {
            Some(value) => format!("{}=\"{}\"", name.escape_ascii(), value.escape_ascii()),
            None => format!("{} absent", name.escape_ascii()),
        };
        add(Attribute::Xattr, show(l.xattrs.get(name)), show(r.xattrs.get(name)));
    }
    // The size of a directory is the file system's own affair.
    if !directory {
        add(Attribute::Size, l.size.to_string(), r.size.to_string());
    }
    if !directory || strictness.identity {
        add(Attribute::LinkCount, l.nlink.to_string(), r.nlink.to_string());
    }
    if strictness.identity {
        add(Attribute::Inode, l.inode.1.to_string(), r.inode.1.to_string());
    }
    if strictness.holes {
        add(Attribute::Holes, format!("{:?}", l.data), format!("{:?}", r.data));
    }
}

fn time((seconds, nanos): (i64, i64)) -> String {
    format!("{seconds}+{nanos}ns")
}

fn presence(entry: Option<&Entry>) -> String {
    entry.map_or_else(|| "absent".into(), |e| format!("{:?}", e.kind))
}

/// For each path that shares its inode with another path of the tree, the first of them.
fn hard_links(tree: &Tree) -> BTreeMap<&Path, &Path> {
    let mut names: BTreeMap<(u64, u64), Vec<&Path>> = BTreeMap::new();
    for (path, entry) in tree.iter().filter(|(_, e)| e.kind != Kind::Directory && e.nlink > 1) {
        names.entry(entry.inode).or_default().push(path);
    }
    let shared = names.values().filter(|paths| paths.len() > 1);
    shared.flat_map(|paths| paths.iter().map(|path| (*path, paths[0]))).collect()
}

fn group(groups: &BTreeMap<&Path, &Path>, path: &Path) -> String {
    groups.get(path).map_or_else(|| "no other name".into(), |first| format!("one file with {first:?}"))
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
