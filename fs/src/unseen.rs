//! Changes that shared mappings make to an object without a request to this daemon.
//!
//! A file opened for reading and writing while others read it in passthrough has its mappings on the object itself. Such a file is *watched*: its blocks
//! are hashed when watching begins, and when a handle is flushed, synced or released, the blocks that differ are journalled as writes. Blocks that the daemon
//! itself wrote meanwhile count as different: a mapping may have changed the same block.
//!
//! A mapping of the object outlives the handle that it was made with, and the kernel says nothing of its end. But it holds the name that the file was opened by,
//! and so the inode: watching ends when no handle is open *and* the kernel has forgotten the inode. With the last handle it is asked to drop the names,
//! which makes it forget at once where nothing is mapped. Until it does, [`Volume::look_for_unseen`] looks from time to time.
//!
//! Order of a look, so that no store goes unnoticed: take the change time; flush the object, which write-protects its pages, so that a
//! later store raises the change time; then hash and journal; then remember the change time taken first.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use proto::ids::FileId;
use proto::record::{ContentChange, Data, Edit, Time};
use xxhash_rust::xxh3::xxh3_128;

use crate::content::holes::DataSegments;
use crate::content::object::Object;
use crate::error::FsError;
use crate::ops::data::{commit_change, disk};
use crate::store::table::{self, Table};
use crate::tree::entry::Entry;
use crate::txn::Txn;
use crate::types::Invalidation;
use crate::volume::{ObjectState, Volume};

const BLOCK_BYTES: u64 = 64 << 10;

/// Watched files.
#[derive(Default)]
pub struct Unseen {
    files: Mutex<HashMap<FileId, Arc<Mutex<Watch>>>>,
}

struct Watch {
    change_time: Option<Time>,
    /// The hash of each block as journalled.
    blocks: Vec<u128>,
}

impl Unseen {
    /// Whether mappings may change the file's object.
    pub fn is_watched(&self, file: FileId) -> bool {
        self.files.lock().contains_key(&file)
    }
}

impl Volume {
    /// Begins to watch a file.
    pub(crate) fn watch_unseen(&self, file: FileId) -> Result<(), FsError> {
        if self.unseen.is_watched(file) {
            return Ok(());
        }
        // Durable before the first mapping: a crash leaves what no hash knows of.
        self.mark_mapped(file, true)?;
        let object = self.object(file)?;
        let _lock = object.write();
        if self.unseen.files.lock().contains_key(&file) {
            return Ok(());
        }
        let change_time = object.change_time().map_err(disk("stat of an object"))?;
        let size = object.len().map_err(disk("stat of an object"))?;
        let blocks = blocks(size).map(|(offset, len)| Ok(xxh3_128(&block(&object, offset, len)?)));
        let watch = Watch { change_time: Some(change_time), blocks: blocks.collect::<Result<_, FsError>>()? };
        self.unseen.files.lock().insert(file, Arc::new(Mutex::new(watch)));
        Ok(())
    }

    /// No handle is open any more, or the kernel has forgotten the inode: ends watching if both are so.
    pub(crate) fn end_unseen(&self, file: FileId) {
        if !self.unseen.is_watched(file) {
            return;
        }
        let ended = if self.holders.hold(file) {
            if self.holders.is_open(file) { Ok(()) } else { self.drop_names(file) }
        } else {
            self.journal_unseen(file).and_then(|()| self.forget_unseen(file))
        };
        if let Err(error) = ended {
            tracing::warn!(%file, %error, "a file that is not mapped any more still counts as mapped");
        }
    }

    fn forget_unseen(&self, file: FileId) -> Result<(), FsError> {
        let mut files = self.unseen.files.lock();
        // Who opens it holds it first, and then looks whether it is watched.
        if self.holders.hold(file) || files.remove(&file).is_none() {
            return Ok(());
        }
        drop(files);
        self.mark_mapped(file, false)?;
        // Opened in between: its mark must stand.
        if self.unseen.is_watched(file) { self.mark_mapped(file, true) } else { Ok(()) }
    }

    /// Journals what mappings store whose handles are closed. To be called from time to time.
    pub fn look_for_unseen(&self) {
        let files: Vec<FileId> = self.unseen.files.lock().keys().copied().collect();
        for file in files.into_iter().filter(|file| !self.holders.is_open(*file)) {
            if let Err(error) = self.journal_unseen(file) {
                tracing::warn!(%file, %error, "what mappings stored could not be journalled");
            }
            self.end_unseen(file);
        }
    }

    /// The session has ended, and every mapping with it.
    pub(crate) fn end_all_unseen(&self) {
        let files: Vec<FileId> = self.unseen.files.lock().keys().copied().collect();
        files.into_iter().for_each(|file| self.end_unseen(file));
    }

    /// The kernel keeps an inode as long as it has a name of it.
    fn drop_names(&self, file: FileId) -> Result<(), FsError> {
        let mut names = Vec::new();
        for (key, _) in self.rows.scan(Table::Link, &table::file_key(file), None, usize::MAX)? {
            if let Some(row) = self.rows.get(Table::Entry, table::entry_key_of_link(&key)?)? {
                let entry = Entry::decode(row)?;
                names.push(Invalidation::Entry { parent: entry.parent, name: entry.name });
            }
        }
        self.invalidate_later(names);
        Ok(())
    }

    /// The kernel reads pages for itself, to splice from a handle for reading and writing (`sendfile`): it asks for them even where reads are
    /// direct, and would show them again when a mapping has stored into the object. They go as soon as they are read: the
    /// kernel holds them locked until the answer, and drops them then.
    pub fn drop_unseen_pages(&self, file: FileId, offset: u64, len: u32) {
        if self.unseen.is_watched(file) {
            self.invalidate_later(vec![Invalidation::Content { file, offset, len: u64::from(len) }]);
        }
    }

    /// A change by the daemon follows: the next look must not take the change time for its own.
    pub(crate) fn journal_unseen_before_write(&self, file: FileId) -> Result<(), FsError> {
        if let Some(watch) = self.watch(file) {
            watch.lock().change_time = None;
        }
        Ok(())
    }

    /// Journals what mappings have changed.
    pub(crate) fn journal_unseen(&self, file: FileId) -> Result<(), FsError> {
        let Some(watch) = self.watch(file) else { return Ok(()) };
        let object = self.object(file)?;
        let _lock = object.write();
        let mut watch = watch.lock();
        let change_time = object.change_time().map_err(disk("stat of an object"))?;
        if watch.change_time == Some(change_time) {
            return Ok(());
        }
        object.handle().sync_data().map_err(disk("flushing an object"))?;
        let size = object.len().map_err(disk("stat of an object"))?;
        let mut hashes = Vec::with_capacity(watch.blocks.len());
        for (index, (offset, len)) in blocks(size).enumerate() {
            let bytes = block(&object, offset, len)?;
            let hash = xxh3_128(&bytes);
            if watch.blocks.get(index) != Some(&hash) {
                self.journal_block(file, &object, offset, &bytes)?;
            }
            hashes.push(hash);
        }
        if watch.blocks != hashes {
            self.invalidate_later(vec![Invalidation::Attr { file }]);
        }
        watch.blocks = hashes;
        watch.change_time = Some(change_time);
        Ok(())
    }

    /// The bytes are in the object and flushed: the records have no effect here. Only data is journalled: mappings make no holes, the daemon's
    /// own have their records, and at the other sites they stay holes.
    fn journal_block(
        &self,
        file: FileId,
        object: &Arc<Object<ObjectState>>,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), FsError> {
        for segment in DataSegments::new(object.handle(), offset, offset + bytes.len() as u64, BLOCK_BYTES) {
            let (start, len) = segment.map_err(disk("looking for data"))?;
            let from = (start - offset) as usize;
            let Some(data) = bytes.get(from..from + len as usize) else { continue };
            // The bytes are in the object: refused, they would stay there all the same.
            let txn = Txn::begin(self)?.unrefused();
            let inode = txn.existing(file)?;
            let time = txn.now();
            let edit = Edit::Write { offset: start, data: Data::Bytes(Bytes::copy_from_slice(data)) };
            let change = ContentChange { file, base: inode.content, edit, mtime: Some(time), mode: None, time };
            commit_change(txn, change, inode.stamps(), None, object)?;
        }
        Ok(())
    }

    fn watch(&self, file: FileId) -> Option<Arc<Mutex<Watch>>> {
        self.unseen.files.lock().get(&file).cloned()
    }
}

fn blocks(size: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..size.div_ceil(BLOCK_BYTES)).map(move |index| {
        let offset = index * BLOCK_BYTES;
        (offset, BLOCK_BYTES.min(size - offset))
    })
}

fn block(object: &Object<ObjectState>, offset: u64, len: u64) -> Result<Vec<u8>, FsError> {
    let mut bytes = vec![0; len as usize];
    let read = object.read_at(offset, &mut bytes).map_err(disk("reading an object"))?;
    bytes.truncate(read);
    Ok(bytes)
}
