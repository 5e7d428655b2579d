//! Changes that shared mappings make to an object without a request to this daemon.
//!
//! A file opened for reading and writing while others read it in passthrough has its mappings on the object itself. Such a file is *watched*: its blocks
//! are hashed when watching begins, and when a handle is flushed, synced or released, the blocks that differ are journalled as writes. Blocks that the daemon
//! itself wrote meanwhile count as different: a mapping may have changed the same block.
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

use crate::content::object::Object;
use crate::error::FsError;
use crate::ops::data::{commit_change, disk};
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

    /// Ends watching: no handle is open, so nothing is mapped.
    pub(crate) fn forget_unseen(&self, file: FileId) {
        let watched = self.unseen.files.lock().remove(&file).is_some();
        if watched && let Err(error) = self.mark_mapped(file, false) {
            tracing::warn!(%file, %error, "a file that is not mapped any more still counts as mapped");
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
                self.journal_block(file, &object, offset, bytes)?;
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

    /// The bytes are in the object and flushed: the record has no effect here.
    fn journal_block(
        &self,
        file: FileId,
        object: &Arc<Object<ObjectState>>,
        offset: u64,
        bytes: Vec<u8>,
    ) -> Result<(), FsError> {
        // The bytes are in the object: refused, they would stay there all the same.
        let txn = Txn::begin(self)?.unrefused();
        let inode = txn.existing(file)?;
        let time = txn.now();
        let edit = Edit::Write { offset, data: Data::Bytes(Bytes::from(bytes)) };
        let change = ContentChange { file, base: inode.content, edit, mtime: Some(time), mode: None, time };
        commit_change(txn, change, inode.stamps(), None, object).map(drop)
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
