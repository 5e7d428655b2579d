//! Listings of open directories.
//!
//! A handle lists the directory as it was when reading began (at offset 0: the first time and after `rewinddir`), so that a
//! reader sees no name twice and misses none that stayed. The offset of an entry is its index, "." and ".." first; the offset in
//! the reply is that of the next one.
//!
//! The kernel does not cache listings (no FOPEN_CACHE_DIR). It would have to be told of every name that replay adds, but
//! INVAL_ENTRY marks the directory changed only if the name is in its cache, and dropping the cached pages races with a
//! reader that is just filling them from an older listing: that listing would then stay, with nothing to end it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fuser::FileHandle;
use parking_lot::Mutex;
use proto::ids::FileId;

use crate::error::FsError;
use crate::tree::entry::KindTag;
use crate::types::DirEntry;

/// All open directories.
#[derive(Debug, Default)]
pub struct OpenDirectories {
    listings: Mutex<HashMap<u64, Arc<Reading>>>,
    next: AtomicU64,
}

/// What a handle lists, once reading has begun.
type Reading = Mutex<Option<Arc<Listing>>>;

/// A directory as it was at one moment.
#[derive(Debug)]
pub struct Listing {
    /// The directory.
    pub dir: FileId,
    /// Where it is.
    pub parent: FileId,
    /// What is in it.
    pub entries: Vec<DirEntry>,
}

/// One line of a listing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line<'a> {
    /// The offset to go on from after this line.
    pub next_offset: u64,
    /// The name.
    pub name: &'a [u8],
    /// The inode.
    pub file: FileId,
    /// Its kind; `None` for "." and "..".
    pub kind: Option<KindTag>,
}

impl Listing {
    /// The lines from this offset on.
    pub fn lines(&self, offset: u64) -> impl Iterator<Item = Line<'_>> {
        let dot = Line { next_offset: 1, name: b".", file: self.dir, kind: None };
        let dot_dot = Line { next_offset: 2, name: b"..", file: self.parent, kind: None };
        let entries = self.entries.iter().zip(3..).map(|(entry, next_offset)| Line {
            next_offset,
            name: entry.name.as_bytes(),
            file: entry.file,
            kind: Some(entry.kind),
        });
        [dot, dot_dot].into_iter().chain(entries).skip(usize::try_from(offset).unwrap_or(usize::MAX))
    }
}

impl OpenDirectories {
    /// A new handle, that has read nothing.
    pub fn open(&self) -> FileHandle {
        let handle = self.next.fetch_add(1, Ordering::Relaxed);
        self.listings.lock().insert(handle, Arc::default());
        FileHandle(handle)
    }

    /// The handle's listing, from `list` where reading begins.
    pub fn listing(
        &self,
        handle: FileHandle,
        offset: u64,
        list: impl FnOnce() -> Result<Listing, FsError>,
    ) -> Result<Arc<Listing>, FsError> {
        let slot = self.listings.lock().get(&handle.0).cloned().ok_or(FsError::BadHandle)?;
        let mut listing = slot.lock();
        match &*listing {
            Some(listing) if offset > 0 => Ok(listing.clone()),
            _ => Ok(listing.insert(Arc::new(list()?)).clone()),
        }
    }

    /// Forgets the handle.
    pub fn release(&self, handle: FileHandle) {
        let last = self.listings.lock().remove(&handle.0);
        drop(last);
    }
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
