//! Carries out a [`Plan`] on an object.
//!
//! The caller flushes the object, and only then may forget the journal. After an error it may be run again.

use std::io;

use bytes::Bytes;
use proto::ids::FileId;

use super::object::Object;
use super::redo::{Plan, Rewrite, Step};

/// Why an object could not be made right.
#[derive(Debug, thiserror::Error)]
pub enum RedoError {
    /// The store is damaged.
    #[error(
        "object {file} has {len} bytes, but the journal refers to bytes up to {needed} in it: \
         the disk below has lost them; restore the store, or join again from another site"
    )]
    LostBytes {
        /// Whose object.
        file: FileId,
        /// Its length.
        len: u64,
        /// What it should have at least.
        needed: u64,
    },
    /// The journal gave fewer or more bytes than its edit says.
    #[error("the journal gives {got} bytes for {wanted} bytes of object {file} at {offset}: the journal is damaged")]
    WrongBytes {
        /// Whose object.
        file: FileId,
        /// Where in it.
        offset: u64,
        /// How many bytes are to be written.
        wanted: u64,
        /// How many there were.
        got: u64,
    },
    /// The file system below failed.
    #[error("cannot {what} of object {file}: {source}")]
    Disk {
        /// Whose object.
        file: FileId,
        /// What was attempted.
        what: &'static str,
        /// Its answer.
        source: io::Error,
    },
}

impl<S> Plan<S> {
    /// Makes `object` right. `read` gives the bytes of one rewrite: `len` bytes from `source_offset` of `source` on.
    pub fn run<T>(
        &self,
        object: &Object<T>,
        mut read: impl FnMut(&Rewrite<S>) -> io::Result<Bytes>,
    ) -> Result<(), RedoError> {
        let file = object.file();
        let disk = |what| move |source| RedoError::Disk { file, what, source };
        let len = object.len().map_err(disk("read the length"))?;
        if len < self.min_len {
            return Err(RedoError::LostBytes { file, len, needed: self.min_len });
        }
        let set_len = |len| object.set_len(len).map_err(disk("set the length"));
        // A file as long as files may be can't be longer: then only its last block's hole may come out otherwise.
        if !self.steps.is_empty() && object.set_len(self.work_len).is_err() {
            set_len(self.size)?;
        }
        for step in &self.steps {
            let write = match step {
                Step::Punch(hole) => {
                    object.punch(hole.start, hole.end - hole.start).map_err(disk("punch a hole in the bytes"))?;
                    continue;
                }
                Step::Write(write) => write,
            };
            let bytes = read(write).map_err(disk("read the journal's bytes"))?;
            if bytes.len() as u64 != write.len {
                let (offset, wanted, got) = (write.offset, write.len, bytes.len() as u64);
                return Err(RedoError::WrongBytes { file, offset, wanted, got });
            }
            object.write_all_at(write.offset, &bytes).map_err(disk("write the bytes"))?;
        }
        set_len(self.size)
    }
}

#[cfg(test)]
#[path = "redo_run_tests.rs"]
mod tests;
