//! Whether two trees are equal, entry by entry.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// What the file system itself says of a file: not part of the tree.
const OWN_XATTRS: &[u8] = b"user.syncline.";
const XATTR_BYTES: usize = 64 << 10;

/// What was found.
#[derive(Debug, Default)]
pub struct Compared {
    /// Entries below the roots.
    pub entries: usize,
    /// Content that was compared.
    pub bytes: u64,
    /// What differs, a line each.
    pub differences: Vec<String>,
}

/// Compares what is below two directories, and the directories themselves.
pub fn trees(left: &Path, right: &Path) -> io::Result<Compared> {
    let mut compared = Compared::default();
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let (here, there) = (left.join(&path), right.join(&path));
        let metadata = (fs::symlink_metadata(&here)?, fs::symlink_metadata(&there)?);
        compared.attributes(&path, &metadata.0, &metadata.1);
        compared.same(&path, "xattrs", &xattrs(&here)?, &xattrs(&there)?);
        let kind = metadata.0.file_type();
        if kind != metadata.1.file_type() {
            continue;
        }
        if kind.is_dir() {
            let (names, other) = (names(&here)?, names(&there)?);
            compared.same(&path, "names", &names, &other);
            compared.entries += names.len();
            pending.extend(names.into_iter().filter(|name| other.contains(name)).map(|name| path.join(name)));
        } else if kind.is_symlink() {
            compared.same(&path, "target", &fs::read_link(&here)?, &fs::read_link(&there)?);
        } else if kind.is_file() && metadata.0.len() == metadata.1.len() {
            compared.bytes += metadata.0.len();
            if !same_content(&here, &there)? {
                compared.differences.push(format!("{}: the content differs", path.display()));
            }
        }
    }
    Ok(compared)
}

impl Compared {
    fn attributes(&mut self, path: &Path, left: &Metadata, right: &Metadata) {
        self.same(path, "mode", &left.mode(), &right.mode());
        self.same(path, "owner", &(left.uid(), left.gid()), &(right.uid(), right.gid()));
        self.same(path, "mtime", &(left.mtime(), left.mtime_nsec()), &(right.mtime(), right.mtime_nsec()));
        if !left.is_dir() {
            self.same(path, "size", &left.len(), &right.len());
            self.same(path, "links", &left.nlink(), &right.nlink());
            self.same(path, "device", &left.rdev(), &right.rdev());
        }
    }

    fn same<T: PartialEq + std::fmt::Debug>(&mut self, path: &Path, what: &str, left: &T, right: &T) {
        if left != right {
            self.differences.push(format!("{}: {what}: {left:?} here, {right:?} there", path.display()));
        }
    }
}

fn names(directory: &Path) -> io::Result<Vec<OsString>> {
    let mut names = fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

fn xattrs(path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut list = vec![0; XATTR_BYTES];
    let len = match rustix::fs::llistxattr(path, &mut list) {
        Ok(len) => len,
        Err(Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error.into()),
    };
    let names = list[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty() && !name.starts_with(OWN_XATTRS));
    let value = |name: &[u8]| {
        let mut value = vec![0; XATTR_BYTES];
        let len = rustix::fs::lgetxattr(path, name, &mut value)?;
        value.truncate(len);
        Ok((name.to_vec(), value))
    };
    names.map(value).collect()
}

fn same_content(left: &Path, right: &Path) -> io::Result<bool> {
    let mut left = BufReader::with_capacity(1 << 20, File::open(left)?);
    let mut right = BufReader::with_capacity(1 << 20, File::open(right)?);
    let (mut here, mut there) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let len = left.read(&mut here)?;
        if len == 0 {
            return Ok(right.read(&mut there)? == 0);
        }
        match right.read_exact(&mut there[..len]) {
            Ok(()) if here[..len] == there[..len] => {}
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::atomic::AtomicUsize;

    use super::super::tree;
    use super::*;

    /// The demonstration's tree and a copy of it.
    fn pair() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let (left, right) = (directory.path().join("left"), directory.path().join("right"));
        fs::create_dir(&left).unwrap();
        tree::write(&left, &AtomicUsize::new(0)).unwrap();
        let copied = std::process::Command::new("cp").arg("-a").args([&left, &right]).status().unwrap();
        assert!(copied.success());
        (directory, left, right)
    }

    #[test]
    fn a_copy_is_equal_and_each_change_is_found() {
        let (_directory, left, right) = pair();
        let compared = trees(&left, &right).unwrap();
        assert_eq!(compared.differences, Vec::<String>::new());
        assert!(compared.entries > 200);

        fs::write(right.join("project/empty"), "x").unwrap();
        fs::remove_file(right.join("checkpoints/latest")).unwrap();
        let sparse = File::options().write(true).open(right.join("sparse.img")).unwrap();
        let modified = sparse.metadata().unwrap().modified().unwrap();
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"!", 4096).unwrap();
        sparse.set_modified(modified).unwrap();
        let best = right.join("checkpoints/best");
        rustix::fs::setxattr(&best, "user.demo.score", b"0.98", rustix::fs::XattrFlags::empty()).unwrap();
        let mut found: Vec<String> = trees(&left, &right).unwrap().differences;
        found.sort();
        let starts = |start: &str| found.iter().filter(|line| line.starts_with(start)).count();
        assert_eq!(starts("checkpoints: names"), 1, "{found:?}");
        assert_eq!(starts("checkpoints: mtime"), 1);
        assert_eq!(starts("checkpoints/best: xattrs"), 1);
        assert_eq!(starts("checkpoints/step-1000: xattrs"), 1);
        assert_eq!(starts("project/empty: size"), 1);
        assert_eq!(starts("project/empty: mtime"), 1);
        assert_eq!(starts("sparse.img: the content differs"), 1);
        assert_eq!(found.len(), 7, "{found:?}");
    }
}
