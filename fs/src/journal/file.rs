//! One file of the journal on the disk.
//!
//! The life of a file: *made* under a temporary name, filled with zeros and synced (an overwrite of a written block flushes three
//! times faster than one of a block that the file system below has yet to allocate) → *spare* → *live* (a header of a new
//! generation) → *spare* again. The header that says *spare* is durable before the file can be live again, so that a crash in
//! between never shows old batches half overwritten.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FallocateFlags;

use super::error::JournalError;
use super::footer::footer_bytes;
use super::format::{
    BATCHES_AT, BLOCK_BYTES, FILE_HEADER_BYTES, FileHeader, FileState, HEADER_AT, MARK_AT, MARK_BYTES, decode_mark,
    encode_mark,
};
use super::lsn::{Heads, Lsn};

const EXTENSION: &str = "journal";
const ZEROS_BYTES: usize = 1 << 20;

/// An open file of the journal, whatever it is used for.
#[derive(Debug)]
pub struct JournalFile {
    /// The open file.
    pub file: File,
    /// Where it is.
    pub path: PathBuf,
    /// Its size.
    pub file_bytes: u64,
    /// Whether something was written that was not synced, for simulated power losses.
    #[cfg(test)]
    pub unsynced: std::sync::atomic::AtomicBool,
}

/// One use of a file: from its header's writing until it is recycled.
#[derive(Debug)]
pub struct LiveFile {
    /// The file.
    pub on_disk: Arc<JournalFile>,
    /// Its header in this use.
    pub header: FileHeader,
    /// What the checksums in it are seeded with.
    pub seed: u64,
}

impl LiveFile {
    /// One use of the file.
    pub fn new(on_disk: Arc<JournalFile>, header: FileHeader) -> Self {
        Self { on_disk, seed: header.seed(), header }
    }

    /// Where batches end at the latest.
    pub fn batches_end(&self) -> u64 {
        batches_end(self.on_disk.file_bytes)
    }

    /// Says that all batches up to `durable` are durable. Not synced.
    pub fn write_mark(&self, slot: usize, durable: Lsn) -> Result<(), JournalError> {
        self.on_disk.write(&encode_mark(durable, self.seed), MARK_AT[slot % MARK_AT.len()])
    }

    /// The highest mark of this use of the file.
    pub fn read_mark(&self) -> Result<Option<Lsn>, JournalError> {
        let mut highest = None;
        for at in MARK_AT {
            let mut bytes = [0; MARK_BYTES];
            self.on_disk.read(&mut bytes, at)?;
            highest = highest.max(decode_mark(&bytes, self.seed));
        }
        Ok(highest)
    }
}

/// Where batches end at the latest in a file of this size.
pub fn batches_end(file_bytes: u64) -> u64 {
    file_bytes.saturating_sub(footer_bytes(file_bytes))
}

/// The smallest files that work.
pub fn least_file_bytes() -> u64 {
    BATCHES_AT + footer_bytes(0) + 4 * BLOCK_BYTES
}

impl JournalFile {
    /// Makes a spare file, filled with zeros and durable.
    pub fn make(dir: &Path, number: u64, file_bytes: u64, store_tag: u64) -> Result<Self, JournalError> {
        let path = file_path(dir, number);
        let temporary = path.with_extension("tmp");
        let file = create(&temporary)?;
        let made = Self::new(file, temporary.clone(), file_bytes);
        if let Err(error) = made.fill(store_tag) {
            // The disk is probably full: give back what was taken of it.
            let _ = fs::remove_file(&temporary);
            return Err(error);
        }
        fs::rename(&temporary, &path).map_err(JournalError::io("rename", &temporary))?;
        sync_dir(dir)?;
        Ok(Self { path, ..made })
    }

    fn fill(&self, store_tag: u64) -> Result<(), JournalError> {
        let zeros = vec![0; ZEROS_BYTES];
        let mut at = 0;
        while at < self.file_bytes {
            let len = (self.file_bytes - at).min(ZEROS_BYTES as u64);
            self.write(&zeros[..len as usize], at)?;
            at += len;
        }
        self.write_header(&spare_header(store_tag, 0, self.file_bytes))?;
        self.sync()
    }

    /// Makes a file at once, allocated but not written: for an append that found no spare one. Neither the file nor its
    /// name is durable before the next flush.
    pub fn make_at_once(dir: &Path, number: u64, file_bytes: u64) -> Result<Self, JournalError> {
        let path = file_path(dir, number);
        let file = create(&path)?;
        if let Err(errno) = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, file_bytes) {
            let _ = fs::remove_file(&path);
            return Err(JournalError::io("allocate", &path)(errno.into()));
        }
        Ok(Self::new(file, path, file_bytes))
    }

    /// Opens a file that is there.
    pub fn open(path: PathBuf) -> Result<Self, JournalError> {
        let file = OpenOptions::new().read(true).write(true).open(&path).map_err(JournalError::io("open", &path))?;
        let file_bytes = file.metadata().map_err(JournalError::io("stat", &path))?.len();
        Ok(Self::new(file, path, file_bytes))
    }

    fn new(file: File, path: PathBuf, file_bytes: u64) -> Self {
        Self {
            file,
            path,
            file_bytes,
            #[cfg(test)]
            unsynced: Default::default(),
        }
    }

    /// Writes both copies of a header. Not synced.
    pub fn write_header(&self, header: &FileHeader) -> Result<(), JournalError> {
        let bytes = header.encode();
        HEADER_AT.iter().try_for_each(|&at| self.write(&bytes, at))
    }

    /// Both copies of the header, as they are.
    pub fn read_headers(&self) -> Result<[[u8; FILE_HEADER_BYTES]; HEADER_AT.len()], JournalError> {
        let mut copies = [[0; FILE_HEADER_BYTES]; HEADER_AT.len()];
        for (copy, at) in copies.iter_mut().zip(HEADER_AT) {
            self.read(copy, at)?;
        }
        Ok(copies)
    }

    /// Makes the file a spare one, durably.
    pub fn retire(&self, store_tag: u64, generation: u64) -> Result<(), JournalError> {
        self.write_header(&spare_header(store_tag, generation, self.file_bytes))?;
        self.sync()
    }

    /// Writes all of `bytes`.
    pub fn write(&self, bytes: &[u8], at: u64) -> Result<(), JournalError> {
        #[cfg(test)]
        self.unsynced.store(true, std::sync::atomic::Ordering::SeqCst);
        self.file.write_all_at(bytes, at).map_err(JournalError::io("write", &self.path))
    }

    /// Writes all parts one after the other, in one call of the system if it takes them.
    pub fn write_parts(&self, parts: &[&[u8]], at: u64) -> Result<(), JournalError> {
        #[cfg(test)]
        self.unsynced.store(true, std::sync::atomic::Ordering::SeqCst);
        let slices: Vec<IoSlice<'_>> = parts.iter().map(|part| IoSlice::new(part)).collect();
        let mut written = loop {
            match rustix::io::pwritev(&self.file, &slices, at) {
                Ok(written) => break written as u64,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(JournalError::io("write", &self.path)(errno.into())),
            }
        };
        let mut part_at = at;
        for part in parts {
            let done = written.min(part.len() as u64);
            self.write(&part[done as usize..], part_at + done)?;
            written -= done;
            part_at += part.len() as u64;
        }
        Ok(())
    }

    /// Fills `out` from `at`.
    pub fn read(&self, out: &mut [u8], at: u64) -> Result<(), JournalError> {
        self.file.read_exact_at(out, at).map_err(JournalError::io("read", &self.path))
    }

    /// Makes durable what was written.
    pub fn sync(&self) -> Result<(), JournalError> {
        #[cfg(test)]
        self.unsynced.store(false, std::sync::atomic::Ordering::SeqCst);
        self.file.sync_data().map_err(JournalError::io("flush", &self.path))
    }

    /// Writes zeros over a range. Not synced.
    pub fn wipe(&self, from: u64, to: u64) -> Result<(), JournalError> {
        let zeros = vec![0; ZEROS_BYTES];
        let mut at = from;
        while at < to {
            let len = (to - at).min(ZEROS_BYTES as u64);
            self.write(&zeros[..len as usize], at)?;
            at += len;
        }
        Ok(())
    }

    /// Deletes the file.
    pub fn remove(&self) -> Result<(), JournalError> {
        fs::remove_file(&self.path).map_err(JournalError::io("remove", &self.path))
    }
}

/// What is in the journal's directory.
#[derive(Default)]
pub struct Listing {
    /// Files by number, in order.
    pub files: Vec<(u64, PathBuf)>,
    /// Files whose making a crash interrupted.
    pub temporary: Vec<PathBuf>,
}

/// The journal's files by number, and the temporary ones that a crash left.
pub fn list(dir: &Path) -> Result<Listing, JournalError> {
    let Listing { mut files, mut temporary } = Listing::default();
    for entry in fs::read_dir(dir).map_err(JournalError::io("list", dir))? {
        let path = entry.map_err(JournalError::io("list", dir))?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        match (number, path.extension().and_then(|extension| extension.to_str())) {
            (Some(number), Some(EXTENSION)) => files.push((number, path)),
            (Some(_), Some("tmp")) => temporary.push(path),
            _ => tracing::warn!(path = %path.display(), "a file in the journal's directory is not of the journal"),
        }
    }
    files.sort();
    Ok(Listing { files, temporary })
}

/// Makes the names in the directory durable.
pub fn sync_dir(dir: &Path) -> Result<(), JournalError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(JournalError::io("sync", dir))
}

fn create(path: &Path) -> Result<File, JournalError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    match options.open(path) {
        // Left by an attempt that failed and could not tidy up; only the journal makes such names, each once.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.extension() == Some("tmp".as_ref()) => {
            fs::remove_file(path).and_then(|()| options.open(path))
        }
        other => other,
    }
    .map_err(JournalError::io("create", path))
}

fn file_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.{EXTENSION}"))
}

fn spare_header(store_tag: u64, generation: u64, file_bytes: u64) -> FileHeader {
    FileHeader {
        state: FileState::Spare,
        store_tag,
        generation,
        previous: 0,
        salt: 0,
        file_bytes,
        first_lsn: Lsn::ZERO,
        durable_lsn: Lsn::ZERO,
        heads: Heads::START,
    }
}
