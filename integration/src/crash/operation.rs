//! One operation: one system call that changes the tree, and what a program does to have it acknowledged.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::IntoRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, RenameFlags, Timespec, Timestamps, XattrFlags};

/// What to do; paths are below the writer's directory.
#[derive(Clone, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Operation {
    /// Makes an empty file; the name must be free.
    Create { path: PathBuf },
    /// Writes at an offset, perhaps beyond the end.
    Write { path: PathBuf, offset: u64, bytes: Vec<u8> },
    /// Writes at the end.
    Append { path: PathBuf, bytes: Vec<u8> },
    /// Writes at the end and flushes, through a descriptor that is still open when that returned.
    AppendFlushed { path: PathBuf, bytes: Vec<u8> },
    /// Sets the size, either way.
    Truncate { path: PathBuf, size: u64 },
    /// Opens a file with truncation.
    Empty { path: PathBuf },
    /// Flushes a file. Changes nothing.
    Fsync { path: PathBuf },
    /// Moves a file or directory; a file or link in the way is replaced.
    Rename { from: PathBuf, to: PathBuf },
    /// Exchanges two names.
    Exchange { one: PathBuf, other: PathBuf },
    /// Removes a name that is no directory.
    Unlink { path: PathBuf },
    /// Makes a directory.
    Mkdir { path: PathBuf },
    /// Removes an empty directory.
    Rmdir { path: PathBuf },
    /// Gives a file one more name.
    Link { from: PathBuf, to: PathBuf },
    /// Makes a symbolic link.
    Symlink { target: PathBuf, path: PathBuf },
    /// Sets permission bits.
    Chmod { path: PathBuf, mode: u32 },
    /// Sets the modification time.
    Utimens { path: PathBuf, seconds: i64, nanos: i64 },
    /// Sets an attribute.
    SetXattr { path: PathBuf, name: String, value: Vec<u8> },
    /// Removes an attribute that is there.
    RemoveXattr { path: PathBuf, name: String },
}

impl Operation {
    /// Does it below `root`. What is given back is still open: closing it might acknowledge what the operation itself should have.
    pub fn run(&self, root: &Path) -> io::Result<Option<File>> {
        if let Self::AppendFlushed { path, bytes } = self {
            let mut file = OpenOptions::new().append(true).open(root.join(path))?;
            whole(file.write(bytes)?, bytes)?;
            file.sync_all()?;
            return Ok(Some(file));
        }
        self.call(root).map(|()| None)
    }

    fn call(&self, root: &Path) -> io::Result<()> {
        let at = |path: &PathBuf| root.join(path);
        match self {
            Self::Create { path } => File::options().write(true).create_new(true).mode(0o644).open(at(path)).map(drop),
            Self::Write { path, offset, bytes } => {
                let file = OpenOptions::new().write(true).open(at(path))?;
                whole(file.write_at(bytes, *offset)?, bytes)?;
                close(file)
            }
            Self::Append { path, bytes } => {
                let mut file = OpenOptions::new().append(true).open(at(path))?;
                whole(file.write(bytes)?, bytes)?;
                close(file)
            }
            // Has returned its descriptor.
            Self::AppendFlushed { .. } => Ok(()),
            Self::Truncate { path, size } => OpenOptions::new().write(true).open(at(path))?.set_len(*size),
            Self::Empty { path } => OpenOptions::new().write(true).truncate(true).open(at(path)).map(drop),
            Self::Fsync { path } => OpenOptions::new().write(true).open(at(path))?.sync_all(),
            Self::Rename { from, to } => fs::rename(at(from), at(to)),
            Self::Exchange { one, other } => {
                Ok(rustix::fs::renameat_with(CWD, at(one), CWD, at(other), RenameFlags::EXCHANGE)?)
            }
            Self::Unlink { path } => fs::remove_file(at(path)),
            Self::Mkdir { path } => fs::DirBuilder::new().mode(0o755).create(at(path)),
            Self::Rmdir { path } => fs::remove_dir(at(path)),
            Self::Link { from, to } => fs::hard_link(at(from), at(to)),
            Self::Symlink { target, path } => symlink(target, at(path)),
            Self::Chmod { path, mode } => fs::set_permissions(at(path), fs::Permissions::from_mode(*mode)),
            Self::Utimens { path, seconds, nanos } => {
                let time = Timespec { tv_sec: *seconds, tv_nsec: *nanos };
                let times = Timestamps { last_access: time, last_modification: time };
                Ok(rustix::fs::utimensat(CWD, at(path), &times, AtFlags::SYMLINK_NOFOLLOW)?)
            }
            Self::SetXattr { path, name, value } => {
                Ok(rustix::fs::lsetxattr(at(path), name.as_str(), value, XattrFlags::empty())?)
            }
            Self::RemoveXattr { path, name } => Ok(rustix::fs::lremovexattr(at(path), name.as_str())?),
        }
    }
}

/// Closes with the error that dropping a file swallows. In a sync directory it is `close` that says whether what was written is at the other
/// sites: a close that failed acknowledged nothing.
fn close(file: File) -> io::Result<()> {
    // SAFETY: the descriptor is owned here, and nothing uses it afterwards, whatever the result.
    Ok(unsafe { rustix::io::try_close(file.into_raw_fd()) }?)
}

/// A short write would be two acknowledged changes in one operation.
fn whole(written: usize, bytes: &[u8]) -> io::Result<()> {
    if written == bytes.len() {
        return Ok(());
    }
    Err(io::Error::other(format!("short write: {written} of {} bytes", bytes.len())))
}
