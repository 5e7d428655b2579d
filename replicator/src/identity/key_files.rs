//! Files that only their owner can read: mode 0600 in a directory of mode 0700.
//!
//! A file is written beside its place, flushed, and renamed over it, so that after a crash it has its old content or its new
//! content, whole. What others can read is not loaded, as `ssh` does: a key that may have been copied is no proof.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// The longest file that is read, in bytes. What is kept here has a few hundred, the invitations some thousands.
pub const MAX_FILE_BYTES: u64 = 256 << 10;

/// Why a private file could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// There is none.
    #[error("{} does not exist", path.display())]
    Missing {
        /// The file or directory.
        path: PathBuf,
    },
    /// It is there already.
    #[error("{} exists already and is not overwritten", path.display())]
    Exists {
        /// The file or directory.
        path: PathBuf,
    },
    /// Others than its owner may use it.
    #[error(
        "{} has mode {mode:04o}: others than its owner can use it. If nobody can have copied it, run: chmod {wanted:04o} {}",
        path.display(),
        path.display()
    )]
    Exposed {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they should be.
        wanted: u32,
    },
    /// Longer than [`MAX_FILE_BYTES`].
    #[error("{} is longer than {MAX_FILE_BYTES} bytes; it is not a file that syncline wrote", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Disk {
        /// What was attempted.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Its answer.
        source: std::io::Error,
    },
}

/// Writes `dir/name` with mode 0600, in place of what it had. The directory must be there.
pub fn write(dir: &Path, name: &str, bytes: &[u8]) -> Result<(), KeyFileError> {
    let partial = dir.join(format!(".{name}.partial"));
    remove_if_there(&partial)?;
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial).map_err(disk("create", &partial))?;
    file.write_all(bytes).map_err(disk("write", &partial))?;
    file.sync_all().map_err(disk("flush", &partial))?;
    let path = dir.join(name);
    fs::rename(&partial, &path).map_err(disk("rename into place", &path))?;
    sync_dir(dir)
}

/// Reads `dir/name`, if only its owner can. The file's mode is asked of the open file, so that no other can take its place in between.
pub fn read(dir: &Path, name: &str) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let path = dir.join(name);
    let file = open(&path)?;
    check_mode(&file, &path, 0o600)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(disk("read", &path))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(KeyFileError::TooLong { path });
    }
    Ok(bytes)
}

/// Checks that only its owner can use the directory.
pub fn check_dir(dir: &Path) -> Result<(), KeyFileError> {
    check_mode(&open(dir)?, dir, 0o700)
}

/// Makes `parent/name` with these files in it, all or nothing: a crash leaves no directory of that name, or the whole one.
///
/// # Errors
/// [`KeyFileError::Exists`] when there is one already, with anything in it: it is left as it is.
pub fn create_dir(parent: &Path, name: &str, files: &[(&str, &[u8])]) -> Result<(), KeyFileError> {
    let path = parent.join(name);
    let partial = parent.join(format!(".{name}.partial"));
    match fs::remove_dir_all(&partial) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(disk("remove", &partial)(error)),
        _ => {}
    }
    DirBuilder::new().mode(0o700).create(&partial).map_err(disk("create", &partial))?;
    for (name, bytes) in files {
        write(&partial, name, bytes)?;
    }
    // Renaming over a directory works only if that is empty, so nothing that exists is lost.
    if let Err(error) = fs::rename(&partial, &path) {
        let _ = fs::remove_dir_all(&partial);
        return Err(match error.kind() {
            ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists | ErrorKind::NotADirectory => {
                KeyFileError::Exists { path }
            }
            _ => disk("rename into place", &path)(error),
        });
    }
    sync_dir(parent)
}

fn open(path: &Path) -> Result<File, KeyFileError> {
    File::open(path).map_err(|source| match source.kind() {
        ErrorKind::NotFound => KeyFileError::Missing { path: path.to_owned() },
        _ => disk("open", path)(source),
    })
}

fn check_mode(file: &File, path: &Path, wanted: u32) -> Result<(), KeyFileError> {
    let mode = file.metadata().map_err(disk("ask for the mode of", path))?.mode() & 0o7777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(KeyFileError::Exposed { path: path.to_owned(), mode, wanted }) }
}

fn remove_if_there(path: &Path) -> Result<(), KeyFileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(disk("remove", path)(error)),
        _ => Ok(()),
    }
}

fn sync_dir(dir: &Path) -> Result<(), KeyFileError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(disk("flush", dir))
}

fn disk(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> KeyFileError {
    let path = path.to_owned();
    move |source| KeyFileError::Disk { action, path, source }
}

#[cfg(test)]
#[path = "key_files_tests.rs"]
mod tests;
