//! The directory of a site's store: made private, and used by one daemon at a time.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// The file whose lock the daemon holds as long as it lives; it contains the daemon's pid.
const LOCK: &str = "lock";
/// How often [`Lock::wait_until_free`] looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Why a directory can't become a store.
#[derive(Debug, thiserror::Error)]
pub enum NewStoreError {
    /// Something is in it.
    #[error("the store {} is not empty: choose a directory that is absent or empty", .0.display())]
    NotEmpty(PathBuf),
    /// The file system refuses.
    #[error("cannot make the store {}: {source}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
}

/// A directory that is becoming a store: emptied again when dropped, unless it is kept.
#[derive(Debug)]
pub struct NewStore {
    path: PathBuf,
    made: bool,
    kept: bool,
}

impl NewStore {
    /// Makes the directory with mode 0700, or takes an empty one and makes it so.
    pub fn create(path: &Path) -> Result<Self, NewStoreError> {
        let failed = |source| NewStoreError::Io { path: path.to_owned(), source };
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(failed)?;
        }
        let made = match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(failed(error)),
        };
        if std::fs::read_dir(path).map_err(failed)?.next().is_some() {
            return Err(NewStoreError::NotEmpty(path.to_owned()));
        }
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700)).map_err(failed)?;
        Ok(Self { path: path.to_owned(), made, kept: false })
    }

    /// It is a store now.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for NewStore {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // It was empty when we took it: all that is in it was made since. What can't be removed stays, and is told by
        // the next attempt.
        let _ = std::fs::remove_dir_all(&self.path);
        if !self.made {
            let _ = DirBuilder::new().mode(0o700).create(&self.path);
        }
    }
}

/// Why the store can't be used by this daemon.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another has it.
    #[error("another daemon (pid {pid}) uses the store {}: `syncline unmount` ends it", store.display())]
    Held {
        /// The store.
        store: PathBuf,
        /// Who.
        pid: String,
    },
    /// There is none.
    #[error("there is no store at {}: `syncline init` or `syncline join` makes one", .0.display())]
    NoStore(PathBuf),
    /// The file system refuses.
    #[error("cannot lock the store {}: {source}", store.display())]
    Io {
        /// The store.
        store: PathBuf,
        /// Its answer.
        source: io::Error,
    },
}

/// The right to use a store, until dropped or the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Takes it, or says who has it.
    pub fn take(store: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Io { store: store.to_owned(), source };
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).clone();
        let mut file = match options.open(store.join(LOCK)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(LockError::NoStore(store.to_owned())),
            Err(error) => return Err(failed(error)),
        };
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let pid = read_pid(&mut file).map_or_else(|| "unknown".into(), |pid| pid.to_string());
                return Err(LockError::Held { store: store.to_owned(), pid });
            }
            Err(error) => return Err(failed(error.into())),
        }
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
        Ok(Self { _file: file })
    }

    /// The process that holds it, if one does.
    pub fn holder(store: &Path) -> Option<u32> {
        let mut file = File::open(store.join(LOCK)).ok()?;
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(Errno::WOULDBLOCK) => read_pid(&mut file),
            _ => None,
        }
    }

    /// Whether it became free within `limit`.
    pub fn wait_until_free(store: &Path, limit: Duration) -> bool {
        let start = Instant::now();
        let Ok(file) = File::open(store.join(LOCK)) else { return true };
        loop {
            if flock(&file, FlockOperation::NonBlockingLockShared) != Err(Errno::WOULDBLOCK) {
                return true;
            }
            if start.elapsed() >= limit {
                return false;
            }
            std::thread::sleep(LOOK_INTERVAL);
        }
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn one_daemon_at_a_time() {
        let store = tempfile::tempdir().unwrap();
        assert_eq!(Lock::holder(store.path()), None);
        let lock = Lock::take(store.path()).unwrap();
        let message = Lock::take(store.path()).unwrap_err().to_string();
        assert!(message.contains(&format!("(pid {})", std::process::id())), "{message}");
        assert_eq!(Lock::holder(store.path()), Some(std::process::id()));
        assert!(!Lock::wait_until_free(store.path(), Duration::ZERO));
        drop(lock);
        assert!(Lock::wait_until_free(store.path(), Duration::ZERO));
        Lock::take(store.path()).unwrap();
    }

    #[test]
    fn what_is_no_store_is_said() {
        let error = Lock::take(Path::new("/nonexistent/store")).unwrap_err();
        assert!(matches!(error, LockError::NoStore(_)));
    }

    #[test]
    fn a_new_store_is_private_and_goes_unless_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/b");
        let store = NewStore::create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        std::fs::write(path.join("x"), "y").unwrap();
        assert!(matches!(NewStore::create(&path), Err(NewStoreError::NotEmpty(_))));
        drop(store);
        assert!(!path.exists());

        std::fs::create_dir(&path).unwrap();
        let store = NewStore::create(&path).unwrap();
        std::fs::write(path.join("x"), "y").unwrap();
        drop(store);
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
        NewStore::create(&path).unwrap().keep();
        assert!(path.exists());
    }
}
