//! Which objects a flush has to reach, and the flush.
//!
//! The journal may refer to bytes in an object only when they are durable there. So who writes such bytes marks the object, and
//! who flushes the journal flushes the marked objects before.
//!
//! Invariants:
//! - When [`DirtyObjects::flush`] returns `Ok`, all that was written before a mark that was made before the call is durable,
//!   with the object's directory entry. That holds too when another thread's flush took the mark: flushes exclude one another.
//! - A failed flush is final. Linux reports a failure to write back once, and marks the lost pages clean: a second fsync would
//!   succeed over lost bytes. So every later flush fails too, until the store is opened anew.
//! - A handle is held from the mark to the flush. Linux reports a failure to the descriptors that were open when it happened.
//! - Memory and descriptors are bounded: above [`SYNCFS_ABOVE`] marks one flag stands for all of them.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::mem;
use std::sync::Arc;

use parking_lot::Mutex;
use proto::ids::FileId;

use super::objects::{DIRECTORIES, Objects, directory_of};

/// With more marked objects than this, one `syncfs` is cheaper than an `fdatasync` of each. An object in a directory with new
/// entries counts twice.
pub const SYNCFS_ABOVE: usize = 16;

/// The objects that the next flush has to reach. One for each store.
pub struct DirtyObjects {
    objects: Arc<Objects>,
    state: Mutex<State>,
    /// Held across a whole flush. Locked before `state`, never the other way round.
    flushing: Mutex<()>,
}

struct State {
    marked: HashMap<FileId, Arc<File>>,
    /// More was marked than `marked` holds: the next flush reaches everything.
    many: bool,
    /// For each directory, whether it may have entries that are not durable. Kept apart from the marks: an object may be
    /// created long before bytes in it have to be durable.
    new_entries: [bool; DIRECTORIES],
    /// Why flushing failed: an OS error number where there was one.
    failed: Option<(io::ErrorKind, Option<i32>)>,
}

impl DirtyObjects {
    /// Nothing is marked.
    pub fn new(objects: Arc<Objects>) -> Self {
        let state = State { marked: HashMap::new(), many: false, new_entries: [false; DIRECTORIES], failed: None };
        Self { objects, state: Mutex::new(state), flushing: Mutex::new(()) }
    }

    /// The object of `file` has just been created. Alone, this makes no flush do more: it only lets the flush of a *marked* object
    /// reach the directory too.
    pub fn note_created(&self, file: FileId) {
        self.state.lock().new_entries[directory_of(file)] = true;
    }

    /// The next flush has to make durable what was written to the object of `file` until now.
    pub fn mark(&self, file: FileId, handle: &Arc<File>) {
        let mut state = self.state.lock();
        if state.many {
            return;
        }
        state.marked.entry(file).or_insert_with(|| Arc::clone(handle));
        if state.marked.len() > SYNCFS_ABOVE {
            state.many = true;
            state.marked.clear();
        }
    }

    /// Makes durable what was written to the object of `file`, beside the flushes, which don't wait for that. The object is left marked only where
    /// its directory has still to be flushed, for which its bytes need no more writing. On an error every flush from then on fails, too.
    pub fn flush_ahead(&self, file: FileId, handle: &Arc<File>) -> io::Result<()> {
        self.state.lock().check()?;
        let flushed = handle.sync_data();
        let mut state = self.state.lock();
        if let Err(error) = &flushed {
            state.failed = Some((error.kind(), error.raw_os_error()));
        }
        let new_entry = state.new_entries[directory_of(file)];
        drop(state);
        if new_entry {
            self.mark(file, handle);
        }
        flushed
    }

    /// Whether a flush has anything to do.
    pub fn is_marked(&self) -> bool {
        let state = self.state.lock();
        state.many || !state.marked.is_empty()
    }

    /// Makes the marked objects durable. Marks made meanwhile are for the next flush. On an error the marks stay, and every flush
    /// from then on fails: the caller must stop writing.
    pub fn flush(&self) -> io::Result<()> {
        let _alone = self.flushing.lock();
        let (marked, many, directories) = {
            let mut state = self.state.lock();
            state.check()?;
            let marked = mem::take(&mut state.marked);
            let mut directories: Vec<usize> = marked.keys().map(|file| directory_of(*file)).collect();
            directories.sort_unstable();
            directories.dedup();
            directories.retain(|number| state.new_entries[*number]);
            let many = mem::take(&mut state.many) || marked.len() + directories.len() > SYNCFS_ABOVE;
            if many {
                directories = (0..DIRECTORIES).filter(|number| state.new_entries[*number]).collect();
            }
            // Cleared before the flush: an entry made during it may come too late for it.
            directories.iter().for_each(|number| state.new_entries[*number] = false);
            (marked, many, directories)
        };
        let result = if many { self.objects.sync_file_system() } else { self.flush_each(&marked, &directories) };
        result.inspect_err(|error| {
            let mut state = self.state.lock();
            state.many = true;
            directories.iter().for_each(|number| state.new_entries[*number] = true);
            state.failed = Some((error.kind(), error.raw_os_error()));
        })
    }

    /// Makes every object durable, marked or not.
    pub fn flush_all(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        state.many = true;
        state.marked.clear();
        drop(state);
        self.flush()
    }

    fn flush_each(&self, marked: &HashMap<FileId, Arc<File>>, directories: &[usize]) -> io::Result<()> {
        for handle in marked.values() {
            handle.sync_data()?;
        }
        for number in directories {
            self.objects.sync_directory(*number)?;
        }
        Ok(())
    }
}

impl State {
    fn check(&self) -> io::Result<()> {
        match self.failed {
            None => Ok(()),
            Some((_, Some(code))) => Err(io::Error::from_raw_os_error(code)),
            Some((kind, None)) => Err(io::Error::new(kind, "an earlier flush of objects failed; open the store anew")),
        }
    }
}

#[cfg(test)]
#[path = "dirty_tests.rs"]
mod tests;
