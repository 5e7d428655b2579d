//! Which mount a path is on: finds the daemon that serves it, and mounts whose daemon is gone.
//!
//! `/proc/self/mountinfo` is read, never the path itself: a path below a dead daemon's mount can't be looked at, and
//! one below a slow daemon's should not have to be.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

/// What the kernel calls our mounts: `fuse.` and the subtype that `fs` mounts with.
pub const FS_TYPE: &str = "fuse.syncline";

/// One mount of this mount namespace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    /// Where.
    pub point: PathBuf,
    /// Which part of its file system: the root, but for bind mounts.
    pub root: PathBuf,
    /// Of which type, with subtype.
    pub fs_type: String,
    /// What its mounter said is mounted.
    pub source: PathBuf,
}

/// Why no daemon is found for a path.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// The path can't be resolved.
    #[error("{}: {source}", path.display())]
    Path {
        /// The path as given.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The mount table can't be read.
    #[error("cannot read /proc/self/mountinfo: {0}; is /proc mounted?")]
    Table(io::Error),
    /// Something else serves the path.
    #[error("{} is not on a Syncline mount, but on {} at {}; `findmnt -t fuse.syncline` lists those there are",
        path.display(), mount.fs_type, mount.point.display())]
    Other {
        /// The path, resolved.
        path: PathBuf,
        /// What it is on.
        mount: Mount,
    },
    /// Nothing serves the path.
    #[error("{} is on no mount at all", .0.display())]
    Nothing(PathBuf),
}

impl Mount {
    /// The store of a Syncline mount.
    pub fn store(&self) -> Option<PathBuf> {
        if self.fs_type != FS_TYPE {
            return None;
        }
        fs::fuse::store_of_source(self.source.to_str()?)
    }

    /// Where in the mounted file system a path is that is on the mount.
    fn inside(&self, path: &Path) -> PathBuf {
        let below = path.strip_prefix(&self.point).unwrap_or(Path::new(""));
        let from_root = self.root.join(below);
        from_root.strip_prefix("/").map_or_else(|_| from_root.clone(), Path::to_owned)
    }

    /// Whether the daemon behind the mount is gone ("Transport endpoint is not connected").
    pub fn is_stale(&self) -> bool {
        matches!(rustix::fs::statfs(&self.point), Err(Errno::NOTCONN | Errno::CONNABORTED))
    }
}

/// The mounts that are there now, in the order in which the kernel has them: a later one covers an earlier one.
pub fn table() -> Result<Vec<Mount>, FindError> {
    let text = std::fs::read("/proc/self/mountinfo").map_err(FindError::Table)?;
    Ok(text.split(|byte| *byte == b'\n').filter_map(parse_line).collect())
}

/// The Syncline mount that `path` is on, and its store.
pub fn find(path: &Path) -> Result<(Mount, PathBuf), FindError> {
    locate(path).map(|(mount, store, _)| (mount, store))
}

/// As [`find`], and where in the volume the path is, from its root.
pub fn locate(path: &Path) -> Result<(Mount, PathBuf, PathBuf), FindError> {
    let path = resolve(path)?;
    let mount = containing(&table()?, &path).cloned().ok_or_else(|| FindError::Nothing(path.clone()))?;
    match mount.store() {
        Some(store) => {
            let inside = mount.inside(&path);
            Ok((mount, store, inside))
        }
        None => Err(FindError::Other { path, mount }),
    }
}

/// What is mounted exactly at `point`, on top.
pub fn at(point: &Path) -> Result<Option<Mount>, FindError> {
    let point = resolve(point)?;
    Ok(table()?.into_iter().rev().find(|mount| mount.point == point))
}

/// Absolute, without symbolic links: also when the last part, or more, is on a mount that no longer answers.
pub fn resolve(path: &Path) -> Result<PathBuf, FindError> {
    let failed = |source| FindError::Path { path: path.to_owned(), source };
    let absolute = std::path::absolute(path).map_err(failed)?;
    let mut rest = Vec::new();
    for ancestor in absolute.ancestors() {
        match ancestor.canonicalize() {
            Ok(real) => return Ok(rest.iter().rev().fold(real, |path, part: &OsString| path.join(part))),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOTCONN) => {
                rest.extend(ancestor.file_name().map(OsString::from));
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(absolute)
}

/// Takes a mount away from the tree at once; it ends when the last program has left it.
pub fn detach(point: &Path) -> io::Result<()> {
    match unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => {
            let status = Command::new("fusermount3").args(["-u", "-z", "-q", "--"]).arg(point).status()?;
            if status.success() { Ok(()) } else { Err(io::Error::from(Errno::PERM)) }
        }
        Err(error) => Err(error.into()),
    }
}

/// The mount with the longest path that holds `path`; of several at one place the last.
fn containing<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    let holding = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    holding.max_by_key(|mount| mount.point.as_os_str().len())
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw`: see proc_pid_mountinfo(5).
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let root = fields.nth(3)?;
    let point = fields.next()?;
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let fs_type = String::from_utf8(unescape(fields.next()?)).ok()?;
    Some(Mount { point: path(point), root: path(root), fs_type, source: path(fields.next()?) })
}

fn path(field: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(unescape(field)))
}

/// The kernel writes space, tab, newline, `#` and backslash as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|digits| *first == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        let value = digits.map(|digits| digits.iter().fold(0u32, |value, digit| value * 8 + u32::from(digit - b'0')));
        match value.and_then(|value| u8::try_from(value).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

#[cfg(test)]
#[path = "mounts_tests.rs"]
mod tests;
