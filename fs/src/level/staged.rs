//! Bytes that a batch refers to and that are in no object yet: one file each below `STORE/staged/`.
//!
//! A stage is flushed before the batch that refers to it is journalled, and stays until that batch is behind the checkpoint. What no batch refers to is
//! removed when the store is opened.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::error::FsError;
use crate::journal::Lsn;
use crate::ops::data::disk;

/// The number of a stage. None is used while a batch that recovery may read refers to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct StageId(pub u64);

/// The stages of one store.
pub(crate) struct Staged {
    dir: PathBuf,
    next: AtomicU64,
    /// Those that batches refer to.
    kept: Mutex<Vec<(Lsn, StageId)>>,
}

/// A stage being filled. Dropped before a batch refers to it, it goes.
pub(crate) struct Stage {
    id: StageId,
    path: PathBuf,
    handle: File,
    kept: AtomicBool,
}

impl Staged {
    /// The stages below a store.
    pub fn open(store: &Path) -> io::Result<Self> {
        let dir = store.join("staged");
        match DirBuilder::new().mode(0o700).create(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let staged = Self { dir, next: AtomicU64::new(1), kept: Mutex::default() };
        let last = staged.list()?.into_iter().max();
        staged.next.store(last.map_or(1, |last| last.0 + 1), Ordering::Relaxed);
        Ok(staged)
    }

    /// An empty stage.
    pub fn begin(&self) -> Result<Stage, FsError> {
        let id = StageId(self.next.fetch_add(1, Ordering::Relaxed));
        let path = self.path(id);
        let opened = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let handle = opened.map_err(disk("making a staged file"))?;
        Ok(Stage { id, path, handle, kept: AtomicBool::new(false) })
    }

    /// The batch refers to the stage.
    pub fn keep(&self, stage: &Stage, lsn: Lsn) {
        stage.kept.store(true, Ordering::Relaxed);
        self.kept.lock().push((lsn, stage.id));
    }

    /// A recovered batch refers to the stage, which holds these bytes.
    pub fn reopen(&self, id: StageId, lsn: Lsn) -> io::Result<File> {
        let handle = File::open(self.path(id))?;
        self.kept.lock().push((lsn, id));
        Ok(handle)
    }

    /// All batches up to the checkpoint are folded in, and the objects that they changed are flushed.
    pub fn passed(&self, checkpoint: Lsn) {
        let mut kept = self.kept.lock();
        kept.retain(|(lsn, id)| {
            let passed = *lsn <= checkpoint;
            if passed {
                self.remove(*id);
            }
            !passed
        });
    }

    /// Recovery has read every batch: what none refers to goes.
    pub fn remove_others(&self) -> io::Result<()> {
        let kept = self.kept.lock();
        for id in self.list()? {
            if kept.iter().all(|(_, other)| *other != id) {
                self.remove(id);
            }
        }
        Ok(())
    }

    fn remove(&self, id: StageId) {
        if let Err(error) = std::fs::remove_file(self.path(id)) {
            tracing::warn!(stage = id.0, %error, "a staged file keeps its space until the next start");
        }
    }

    fn list(&self) -> io::Result<Vec<StageId>> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            let id = name.to_str().filter(|name| name.len() == 16).and_then(|name| u64::from_str_radix(name, 16).ok());
            found.extend(id.map(StageId));
        }
        Ok(found)
    }

    fn path(&self, id: StageId) -> PathBuf {
        self.dir.join(format!("{:016x}", id.0))
    }
}

impl Stage {
    /// Its number.
    pub fn id(&self) -> StageId {
        self.id
    }

    /// The file.
    pub fn handle(&self) -> &File {
        &self.handle
    }

    /// Writes a piece.
    pub fn write_all_at(&self, offset: u64, bytes: &[u8]) -> Result<(), FsError> {
        self.handle.write_all_at(bytes, offset).map_err(disk("writing a staged file"))
    }

    /// Everything has been written: makes it durable.
    pub fn finish(&self) -> Result<(), FsError> {
        let directory = self.path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all());
        self.handle.sync_all().and(directory).map_err(disk("flushing a staged file"))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !self.kept.load(Ordering::Relaxed) {
            // What stays is removed at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_stays_as_long_as_recovery_may_need_it() {
        let store = tempfile::tempdir().expect("a directory");
        let staged = Staged::open(store.path()).expect("stages");
        let (first, second) = (staged.begin().expect("a stage"), staged.begin().expect("a stage"));
        drop(staged.begin().expect("a stage that nobody needs"));
        staged.keep(&first, Lsn(5));
        staged.keep(&second, Lsn(9));
        let ids = [first.id(), second.id()];
        drop((first, second));
        staged.passed(Lsn(5));
        assert_eq!(staged.list().expect("a listing"), [ids[1]]);
        let after_crash = Staged::open(store.path()).expect("stages");
        assert!(after_crash.begin().expect("a stage").id() > ids[1]);
        after_crash.reopen(ids[1], Lsn(9)).expect("the stage");
        after_crash.remove_others().expect("removed");
        assert_eq!(after_crash.list().expect("a listing"), [ids[1]]);
        after_crash.passed(Lsn(9));
        assert!(after_crash.list().expect("a listing").is_empty());
    }
}
