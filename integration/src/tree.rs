//! Reads a directory tree with everything that a replica must have: names, types, modes, owners, sizes, times, extended
//! attributes, hard links, link targets, device numbers, holes and content. Links are never followed, and nothing is changed.
//!
//! Access times are left out because reading changes them; change times because the kernel sets them when a copy is made.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::SeekFrom;
use rustix::io::Errno;
use xxhash_rust::xxh3::Xxh3;

/// Paths below the root, `""` being the root itself, and what stands there.
pub type Tree = BTreeMap<PathBuf, Entry>;

/// Holes are compared in units of this many bytes: the block of the file system below.
pub const BLOCK_BYTES: u64 = 4096;

/// One name of a tree with what it leads to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The type of file.
    pub kind: Kind,
    /// Permission bits with suid, sgid, sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Modification time: seconds (negative before 1970), nanoseconds.
    pub mtime: (i64, i64),
    /// Names of the inode, as it says itself.
    pub nlink: u64,
    /// Identity in this file system.
    pub inode: (u64, u64),
    /// Device number of device files.
    pub rdev: u64,
    /// Extended attributes that are listed.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Where a symbolic link points.
    pub target: Option<PathBuf>,
    /// Hash of a regular file's bytes.
    pub content: Option<u128>,
    /// Where a regular file has data, in blocks.
    pub data: Vec<Range<u64>>,
}

/// Type of file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Kind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

/// A tree could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{what} {path}: {source}", path = path.display())]
pub struct TreeError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Reads everything below `root`, which must not change meanwhile.
pub fn read(root: &Path) -> Result<Tree, TreeError> {
    let mut tree = Tree::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(relative) = pending.pop() {
        // `join("")` would add a slash, and with it follow the root if that were a link.
        let path = if relative.as_os_str().is_empty() { root.to_owned() } else { root.join(&relative) };
        let entry = read_entry(&path)?;
        if entry.kind == Kind::Directory {
            let failed = |source| TreeError { what: "cannot list", path: path.clone(), source };
            for name in fs::read_dir(&path).map_err(failed)? {
                pending.push(relative.join(name.map_err(failed)?.file_name()));
            }
        }
        tree.insert(relative, entry);
    }
    Ok(tree)
}

fn read_entry(path: &Path) -> Result<Entry, TreeError> {
    let failed = |what| move |source: io::Error| TreeError { what, path: path.to_owned(), source };
    let meta = fs::symlink_metadata(path).map_err(failed("cannot stat"))?;
    let kind = kind_of(&meta);
    let (mut content, mut data) = (None, Vec::new());
    if kind == Kind::File {
        let file = File::open(path).map_err(failed("cannot open"))?;
        data = data_ranges(&file, meta.size()).map_err(failed("cannot seek in"))?;
        content = Some(hash(file).map_err(failed("cannot read"))?);
    }
    let target = match kind {
        Kind::Symlink => Some(fs::read_link(path).map_err(failed("cannot read the link"))?),
        _ => None,
    };
    Ok(Entry {
        kind,
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        size: meta.size(),
        mtime: (meta.mtime(), meta.mtime_nsec()),
        nlink: meta.nlink(),
        inode: (meta.dev(), meta.ino()),
        rdev: if matches!(kind, Kind::CharDevice | Kind::BlockDevice) { meta.rdev() } else { 0 },
        xattrs: xattrs(path).map_err(failed("cannot read the attributes of"))?,
        target,
        content,
        data,
    })
}

fn kind_of(meta: &fs::Metadata) -> Kind {
    let kind = meta.file_type();
    if kind.is_file() {
        Kind::File
    } else if kind.is_dir() {
        Kind::Directory
    } else if kind.is_symlink() {
        Kind::Symlink
    } else if kind.is_fifo() {
        Kind::Fifo
    } else if kind.is_socket() {
        Kind::Socket
    } else if kind.is_char_device() {
        Kind::CharDevice
    } else {
        Kind::BlockDevice
    }
}

/// Hash of what is left to read.
pub fn hash(mut reader: impl Read) -> io::Result<u128> {
    let mut hasher = Xxh3::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hasher.digest128()),
            Ok(n) => hasher.update(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Blocks that hold data, neighbours joined. Leaves the file's offset at 0.
fn data_ranges(file: &File, size: u64) -> io::Result<Vec<Range<u64>>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(file.as_fd(), SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(e) => return Err(e.into()),
        };
        let end = rustix::fs::seek(file.as_fd(), SeekFrom::Hole(start))?;
        if end <= start {
            return Err(io::Error::other(format!("no progress: data at {start}, hole at {end}")));
        }
        let blocks = start / BLOCK_BYTES..end.min(size).div_ceil(BLOCK_BYTES);
        match ranges.last_mut() {
            Some(last) if last.end >= blocks.start => last.end = blocks.end.max(last.end),
            _ => ranges.push(blocks),
        }
        at = end;
    }
    rustix::fs::seek(file.as_fd(), SeekFrom::Start(0))?;
    Ok(ranges)
}

fn xattrs(path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut names = vec![0; 65536];
    let used = match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(used) => used,
        Err(Errno::NOTSUP) => 0,
        Err(e) => return Err(e.into()),
    };
    let mut all = BTreeMap::new();
    for name in names[..used].split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 65536];
        let len = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value[..])?;
        value.truncate(len);
        all.insert(name.to_vec(), value);
    }
    Ok(all)
}
