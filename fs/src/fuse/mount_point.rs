//! What can be known to be wrong before mounting, and how a mount is named.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// Why a volume was not mounted. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// There is no such directory.
    #[error("{0} does not exist: create the directory, or correct the path")]
    Missing(PathBuf),
    /// It is something else.
    #[error("{0} is not a directory: mount on a directory")]
    NotDirectory(PathBuf),
    /// It has entries, which the mount would hide.
    #[error("{0} is not empty: its files would be hidden; mount on an empty directory")]
    NotEmpty(PathBuf),
    /// Something like this is mounted there.
    #[error("{path} is already mounted, from {source_name}: unmount it first (syncline unmount {path})")]
    AlreadyMounted {
        /// The mount point.
        path: PathBuf,
        /// What /proc/self/mountinfo names as its source.
        source_name: String,
    },
    /// The process that served it has died.
    #[error("{0} is still mounted, but the daemon behind it is gone: umount -l {0}, then mount again")]
    Dead(PathBuf),
    /// The store would be reached through the mount that it serves, which would wait for itself.
    #[error("the store {store} and the mount point {path} are one within the other: move one of them")]
    StoreInside {
        /// The mount point.
        path: PathBuf,
        /// The store.
        store: PathBuf,
    },
    /// The kernel module is not loaded, or the device not there.
    #[error(
        "there is no /dev/fuse: load the module (modprobe fuse); in a container pass the device in (--device /dev/fuse)"
    )]
    NoDevice,
    /// May not open the device or mount.
    #[error("not allowed to mount on {path}: run as root or with CAP_SYS_ADMIN, or install fusermount3 ({cause})")]
    NotAllowed {
        /// The mount point.
        path: PathBuf,
        /// The system's answer.
        cause: String,
    },
    /// The directory or store can't be looked at.
    #[error("cannot look at {path}: {source}")]
    Unreadable {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Anything else that the system answered.
    #[error("mounting on {path} failed: {source}; dmesg may say more")]
    Refused {
        /// The mount point.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl MountError {
    /// From what mounting answered.
    pub fn from_mounting(path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            ErrorKind::NotFound if !Path::new("/dev/fuse").exists() => MountError::NoDevice,
            // Not root, and fusermount3 is not there to help.
            ErrorKind::NotFound | ErrorKind::PermissionDenied => {
                MountError::NotAllowed { path, cause: source.to_string() }
            }
            _ => MountError::Refused { path, source },
        }
    }
}

/// Checks the mount point, and answers with its absolute path without links.
pub fn check(path: &Path, store: &Path) -> Result<PathBuf, MountError> {
    let unreadable = |path: &Path, source| MountError::Unreadable { path: path.to_path_buf(), source };
    let metadata = fs::metadata(path).map_err(|source| match source.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT) => MountError::Missing(path.to_path_buf()),
        Some(Errno::NOTCONN) => MountError::Dead(path.to_path_buf()),
        _ => unreadable(path, source),
    })?;
    if !metadata.is_dir() {
        return Err(MountError::NotDirectory(path.to_path_buf()));
    }
    let path = path.canonicalize().map_err(|source| unreadable(path, source))?;
    let store = store.canonicalize().map_err(|source| unreadable(store, source))?;
    let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
    if let Some(source_name) = fuse_source(&mounts, &path) {
        return Err(MountError::AlreadyMounted { path, source_name });
    }
    if store.starts_with(&path) || path.starts_with(&store) {
        return Err(MountError::StoreInside { path, store });
    }
    if !Path::new("/dev/fuse").exists() {
        return Err(MountError::NoDevice);
    }
    let mut entries = fs::read_dir(&path).map_err(|source| unreadable(&path, source))?;
    if entries.next().is_some() { Err(MountError::NotEmpty(path)) } else { Ok(path) }
}

/// The source of the FUSE mount at this path, from the lines of mountinfo; the last mounted one.
fn fuse_source(mountinfo: &[u8], path: &Path) -> Option<String> {
    let text = String::from_utf8_lossy(mountinfo);
    let line = text.lines().rfind(|line| {
        line.split(' ').nth(4).is_some_and(|mounted| unescape_octal(mounted.as_bytes()) == path.as_os_str().as_bytes())
    })?;
    let (_, after) = line.split_once(" - ")?;
    let mut fields = after.split(' ');
    let kind = fields.next()?;
    let source = fields.next()?;
    kind.starts_with("fuse").then(|| source.to_owned())
}

/// Undoes the kernel's escapes of blanks, newlines and backslashes: `\040`.
fn unescape_octal(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        match after {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if *first == b'\\' => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

/// The source of a mount of this store, as /proc/mounts and `df` show it. Bytes that options or tables give a meaning to
/// (blank, comma, backslash, what is not ASCII) stand as `%2C`.
pub fn source_of_store(store: &Path) -> String {
    let mut source = String::from(SOURCE_PREFIX);
    for byte in store.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' | b'+' | b'@' | b':' | b'~' => {
                source.push(char::from(*byte));
            }
            _ => source.push_str(&format!("%{byte:02X}")),
        }
    }
    source
}

/// The store behind a mount, from its source in /proc/mounts (where `#` stands as `\043`); `None` if it is no mount of ours.
pub fn store_of_source(source: &str) -> Option<PathBuf> {
    let source = unescape_octal(source.as_bytes());
    let mut rest = source.strip_prefix(SOURCE_PREFIX.as_bytes())?;
    let mut bytes = Vec::with_capacity(rest.len());
    while let [first, after @ ..] = rest {
        if *first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    Some(PathBuf::from(OsString::from_vec(bytes)))
}

const SOURCE_PREFIX: &str = "syncline#";

#[cfg(test)]
#[path = "mount_point_tests.rs"]
mod tests;
